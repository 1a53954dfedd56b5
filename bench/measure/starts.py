"""How long it takes to be there: `start`, `fixture`, `restart`."""

import contextlib
import os
import signal
import subprocess
import time
from statistics import median

from measure import processes, wire
from measure.figures import Figure
from measure.fill import fill
from measure.server import POCHTA, BenchServer
from measure.wire import Imap

HELP_GOAL_S = 0.15
FIXTURE_GOAL_S = 0.15
POLL_S = 0.002


def start(*, workers: int, repeats: int) -> list[Figure]:
    """`pochta --help`, and `pochta serve` until every worker accepts."""
    helps = []
    for _ in range(repeats * 3):
        began = time.perf_counter()
        subprocess.run([*POCHTA, "--help"], check=True, stdout=subprocess.DEVNULL)
        helps.append(time.perf_counter() - began)
    ready, stopped = [], []
    with BenchServer(workers=workers) as server:
        for _ in range(repeats):
            ready.append(server.start())
            stopped.append(server.stop())
    detail: dict[str, object] = {"best": round(min(helps), 3), "n": len(helps)}
    serving: dict[str, object] = {
        "best": round(min(ready), 3),
        "stop_s": round(median(stopped), 3),
        "workers": workers,
        "n": len(ready),
    }
    return [
        Figure("start --help", median(helps), "s", HELP_GOAL_S, True, detail),
        Figure("start serve", median(ready), "s", None, True, serving),
    ]


def fixture(*, starts: int) -> list[Figure]:
    """Starts of `pochta.testing.Server` in one process, each with a new store and one account."""
    from pochta.testing import Server

    begins, ends = [], []
    for _ in range(starts):
        server = Server()
        began = time.perf_counter()
        server.start()
        server.add_account("anna@example.org", "secret")
        begins.append(time.perf_counter() - began)
        began = time.perf_counter()
        server.stop()
        ends.append(time.perf_counter() - began)
    detail: dict[str, object] = {
        "best": round(min(begins), 4),
        "worst": round(max(begins), 4),
        "stop_s": round(median(ends), 4),
        "n": starts,
    }
    return [Figure("fixture", median(begins), "s", FIXTURE_GOAL_S, True, detail)]


def restart(*, workers: int, messages: int, repeats: int) -> list[Figure]:
    """What a client sees of a restart with idling clients, and of a killed worker: seconds without a greeting."""
    planned, stops, killed = [], [], []
    with BenchServer(workers=workers) as server:
        fill(server.data_dir, "u0@bench.test", "big", messages, wire.sample_message(1400))
        server.start()
        for _ in range(repeats):
            idling = _idle(server, 50)
            began = time.perf_counter()
            stops.append(server.stop())
            server.start()
            _wait_for_greeting(server)
            planned.append(time.perf_counter() - began)
            _close(idling)
        for _ in range(repeats):
            server.stop()  # a fresh set each time: workers that die young again and again are replaced ever later
            server.start()
            idling = _idle(server, 50)
            killed.append(_kill_workers(server))
            _close(idling)
    stopping: dict[str, object] = {"stop_s": round(median(stops), 3), "idling": 50, "messages": messages}
    return [
        Figure("restart", median(planned), "s", None, True, stopping),
        Figure("restart of killed workers", median(killed), "s", None, True, {"workers": workers}),
    ]


def _idle(server: BenchServer, count: int) -> list[Imap]:
    found = [Imap(server.imap_port, f"u{number % 50}") for number in range(count)]
    for one in found:
        one.command(b"SELECT INBOX")
        one.socket.sendall(b"t IDLE\r\n")
        one.socket.recv(100)
    return found


def _close(connections: list[Imap]) -> None:
    for one in connections:
        one.close()


def _wait_for_greeting(server: BenchServer) -> None:
    while True:
        with contextlib.suppress(OSError, RuntimeError):
            Imap(server.imap_port, signs_in=False).close()
            return
        time.sleep(POLL_S)


def _kill_workers(server: BenchServer) -> float:
    workers = [pid for pid in processes.tree(server.pid) if pid != server.pid]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    _wait_for_greeting(server)
    return time.perf_counter() - began
