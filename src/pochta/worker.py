"""A worker process: adopts what the supervisor passes on, runs `pochta.app` on the fastest loop, and ends with it.

Refuses to know protocols and the store. Ends with 0 when told to stop, 2 on a `SetupError`, 1 on a bug, and at once
when the life-line ends, because then nobody would replace or stop it (a commit is all or nothing, so that is safe).
"""

import argparse
import asyncio
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from pochta import config, log
from pochta.errors import SetupError
from pochta.net.connection import number_connections, report_bug
from pochta.net.listen import BoundListener
from pochta.net.tls import lower_idle_memory
from pochta.supervisor import NEW_PAIR, READY, WorkerBrief

APP_MODULE: Final = "pochta.app"
# How long a thread that is done with COMMIT waits for a busy loop. At the usual 5 ms the loop, which lets go of the
# interpreter at every system call, starves it: commits beside a saturated loop took 40 to 500 ms (p99), now 10 to 16.
# Costs 5 % of the CPU of a delivery under full load (docs/decisions/0006-switch-interval.md).
SWITCH_S: Final = 0.00005
MAX_BRIEF_BYTES: Final = 4 * 1024 * 1024  # the settings file is at most 1 MiB, and JSON escapes may double it


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; the exit status."""
    parser = argparse.ArgumentParser(prog="pochta.worker")
    parser.add_argument("--index", type=int, required=True)  # for people who look at `ps`; the brief says it too
    parser.add_argument("--life-line", type=int, required=True)
    line = socket.socket(fileno=parser.parse_args(argv).life_line)
    line.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor turns Ctrl-C into SIGTERM
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor reads the certificate anew and passes it on
    sys.setswitchinterval(SWITCH_S)
    brief = _read_brief(line)
    settings = config.decode(brief.settings)
    listeners = [BoundListener(one, _adopt(fd)) for one, fd in zip(settings.listeners, brief.fds, strict=True)]
    number_connections(brief.index, settings.workers)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, brief.index, listeners, line))
    except SetupError as error:
        log.event("worker.refused", worker=brief.index, error=error)
        return 2
    except Exception as error:  # noqa: BLE001 - the process's top: bugs end here, logged
        report_bug(error)
        return 1
    return 0


async def _run(settings: config.Settings, index: int, listeners: list[BoundListener], line: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    pairs: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def hear(pair: tuple[int, int]) -> None:
        with suppress(RuntimeError):  # the loop is closed: we are about to end
            loop.call_soon_threadsafe(pairs.put_nowait, pair)

    threading.Thread(target=_watch, args=(line, hear), name="life-line", daemon=True).start()
    loop.set_exception_handler(_unexpected)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    app = importlib.import_module(APP_MODULE)  # late: it imports everything, and the supervisor imports nothing of it
    await app.run_worker(settings, index, listeners, lambda: line.sendall(READY), stop, pairs)


def _unexpected(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # Any: asyncio's own signature
    error = context.get("exception")
    if isinstance(error, Exception) and not isinstance(error, OSError):
        report_bug(error)
    else:  # peers that vanish, and accept() without free descriptors
        log.event("loop.error", what=context.get("message"), error=error)


def _read_brief(line: socket.socket) -> WorkerBrief:
    data = b""
    while not data.endswith(b"\n"):
        part = line.recv(65_536)
        if not part or len(data) > MAX_BRIEF_BYTES:
            os._exit(1)  # no supervisor, nobody to tell
        data += part
    return msgspec.json.decode(data, type=WorkerBrief)


def _adopt(fd: int) -> socket.socket:
    adopted = socket.socket(fileno=fd)
    adopted.set_inheritable(False)
    return adopted


def _watch(line: socket.socket, hear: Callable[[tuple[int, int]], object]) -> None:
    # A thread, so that a busy loop cannot keep a worker alive that belongs to nobody.
    try:
        while (got := socket.recv_fds(line, 1, 2, socket.MSG_CMSG_CLOEXEC))[0]:
            if got[0] == NEW_PAIR and len(got[1]) == 2:
                hear((got[1][0], got[1][1]))
    except OSError:
        pass
    os._exit(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if os.environ.get("POCHTA_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop
    lower_idle_memory()
    return asyncio.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
