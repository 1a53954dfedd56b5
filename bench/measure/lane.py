"""`lane`: how long the write lane is held, and how long a read waits, beside an event loop that is never idle.

The server's parts run in this process, so that the lane's own figures can be read; the loop is kept at 100 % either by
callbacks of a fifth of a millisecond, or by real NOOPs that a second process sends without waiting.
"""

import asyncio
import contextlib
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from measure.figures import Figure, percentile
from measure.server import HOST, PASSWORD
from measure.wire import Imap, sample_message
from pochta import clock, config
from pochta.accounts import edit, passwords
from pochta.app import App
from pochta.config import Listener, ListenerProtocol, Settings
from pochta.delivery import local
from pochta.delivery.intake import new_message
from pochta.log import Secret, set_sink
from pochta.mime.facts import facts
from pochta.net.listen import bind_all
from pochta.store import directory, setup
from pochta.store.blobs import NewBlob
from pochta.store.messages import NewPlacement
from pochta.store.store import Store
from pochta.worker import SWITCH_S

GOAL_MS = 25.0
BUSY_S = 0.0002
READ_EVERY_S = 0.005
LAG_EVERY_S = 0.01
ACCOUNTS = 50


def lane(*, seconds: float, deliverers: int, size: int, repeats: int) -> list[Figure]:
    """One pair of figures for each way of keeping the loop busy.

    The loop always wants a whole core; of `repeats` runs the one that got most of it counts, and `cpu` tells how much:
    far below 1.0 the figures are those of a starved process, not of the lane.
    """
    set_sink(lambda _line: None)
    sys.setswitchinterval(SWITCH_S)  # as a worker does
    figures = []
    for busy in ("callbacks", "noops"):
        runs = []
        for _ in range(repeats):
            with (
                tempfile.TemporaryDirectory(prefix="pochta-bench-") as folder,
                asyncio.Runner(loop_factory=_uvloop()) as runner,
            ):
                runs.append(runner.run(_measure(Path(folder), busy, seconds, deliverers, size)))
        best = max(runs, key=lambda run: run[0])
        for at, figure in enumerate(best[1]):
            figure.detail["runs"] = "/".join(f"{run[1][at].value:.3g}" for run in runs)
            figure.detail["cpu"] = round(best[0], 2)
            figures.append(figure)
    return figures


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@asynccontextmanager
async def _app(folder: Path) -> AsyncIterator[tuple[App, int]]:
    data_dir = folder / "data"
    setup.create(data_dir)
    listener = Listener(protocol=ListenerProtocol.IMAP, address=f"{HOST}:0", allow_plaintext_auth=True)
    settings = Settings(
        hostname="localhost", data_dir=data_dir, workers=1, listeners=(listener,), limits=config.Limits()
    )
    bound = bind_all(settings.listeners)
    app = App(settings, bound)
    await app.start()
    now = int(clock.now_s())
    await app.store.write(0, edit.add_domain, "bench.test", None, now)
    credential = passwords.hash_password(Secret(PASSWORD))
    for number in range(ACCOUNTS):
        await app.store.write(0, edit.add_account, f"u{number}@bench.test", credential, 0, now)
    try:
        yield app, bound[0].address[1]
    finally:
        await app.stop()


async def _measure(folder: Path, busy: str, seconds: float, deliverers: int, size: int) -> tuple[float, list[Figure]]:
    async with _app(folder) as (app, port):
        store, loop = app.store, asyncio.get_running_loop()
        flood: BaseProcess | None = None
        stop = asyncio.Event()
        if busy == "noops":
            flood = multiprocessing.get_context("spawn").Process(target=_flood, args=(port, seconds + 2.0))
            flood.start()
            await asyncio.sleep(1.0)
        else:
            loop.call_soon(_burn, loop, stop)
        store.lane.figures.holds_s.clear()
        commits, writes, cpu = store.lane.figures.commits, store.lane.figures.writes, time.process_time()
        reads_s: list[float] = []
        lags_s: list[float] = []
        waits_s: list[float] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(_read(store, stop, reads_s))
            group.create_task(_watch_lag(stop, lags_s))
            for number in range(deliverers):
                group.create_task(_deliver(store, 1 + number % ACCOUNTS, size, stop, waits_s))
            await asyncio.sleep(seconds)
            stop.set()
        busy_share = (time.process_time() - cpu) / seconds
        figures = store.lane.figures
        if flood is not None:
            await asyncio.to_thread(flood.join)
    writes, commits = figures.writes - writes, figures.commits - commits
    holds = list(figures.holds_s)
    detail: dict[str, object] = {
        "p50_ms": round(percentile(holds, 0.5) * 1e3, 2),
        "max_ms": round(max(holds) * 1e3, 1),
        "deliveries_per_s": round(writes / seconds),
        "a_group": round(writes / max(1, commits), 1),
        "wait_p99_ms": round(percentile(waits_s, 0.99) * 1e3, 1),
    }
    reading: dict[str, object] = {
        "p50_ms": round(percentile(reads_s, 0.5) * 1e3, 3),
        "lag_p99_ms": round(percentile(lags_s, 0.99) * 1e3, 1),
        "lag_max_ms": round(max(lags_s) * 1e3, 1),
        "n": len(reads_s),
    }
    return busy_share, [
        Figure(f"lane hold p99 beside {busy}", percentile(holds, 0.99) * 1e3, "ms", GOAL_MS, True, detail),
        Figure(f"read p99 beside {busy}", percentile(reads_s, 0.99) * 1e3, "ms", GOAL_MS, True, reading),
    ]


def _burn(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    until = time.perf_counter() + BUSY_S
    while time.perf_counter() < until:
        pass
    if not stop.is_set():
        loop.call_soon(_burn, loop, stop)


async def _deliver(store: Store, account_id: int, size: int, stop: asyncio.Event, waits_s: list[float]) -> None:
    message = sample_message(size, number=account_id)
    while not stop.is_set():
        now = clock.now_s()
        new = new_message(NewBlob(len(message), message, None), facts(message), int(now))
        began = time.perf_counter()
        await local.append(store, account_id, "INBOX", [(new, NewPlacement(0, (), int(now), 0))])
        waits_s.append(time.perf_counter() - began)


async def _read(store: Store, stop: asyncio.Event, reads_s: list[float]) -> None:
    """A small read as a command makes it, from the moment it was due: waiting for the loop is part of it."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + READ_EVERY_S
        await asyncio.sleep(READ_EVERY_S)
        await store.read(1, directory.generation, 1)
        reads_s.append(loop.time() - due)


async def _watch_lag(stop: asyncio.Event, lags_s: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        lags_s.append(loop.time() - due)


def _flood(port: int, seconds: float) -> None:
    """Send NOOPs for so long, reading no more than needed to go on."""
    imap = Imap(port)
    imap.socket.setblocking(False)
    data, until, sent = b"t NOOP\r\n" * 1000, time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        with contextlib.suppress(BlockingIOError):
            sent += imap.socket.send(data[sent % len(data) :])
        try:
            while imap.socket.recv(1 << 18):
                pass
        except BlockingIOError:
            time.sleep(0.0005)
    imap.socket.shutdown(socket.SHUT_RDWR)
    imap.close()
