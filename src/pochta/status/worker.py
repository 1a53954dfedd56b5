"""A worker's figures, and the Unix socket in `data_dir/run` on which it tells them to whoever may enter that folder.

The answer is one JSON object (`WorkerFigures`), then the end of the connection; nothing is read. The socket gets its
name once it listens, so that a socket by that name which refuses is the leftover of a killed process.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from pochta import clock
from pochta.net.accept import Acceptor
from pochta.net.listen import BoundListener
from pochta.status.figures import (
    IndexLagFigures,
    LaneFigures,
    ListenerFigures,
    LoopLagFigures,
    WorkerFigures,
    percentile,
)
from pochta.store import leases, outbox, sqlite
from pochta.store.store import Store

SUFFIX: Final = ".status"
BACKLOG: Final = 16  # askers at once: a person, a monitor, and every metrics listener of the server
_PART: Final = ".part"


class _Kept(Protocol):
    """What keeps bytes in memory."""

    @property
    def memory_bytes(self) -> int: ...


class _Lag(Protocol):
    @property
    def worst_s(self) -> float: ...

    @property
    def breaches(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a worker's figures come from."""

    index: int
    queue_lease: str
    min_free_bytes: int
    store: Store
    views: _Kept
    spool: _Kept
    counters: Mapping[str, int]
    loop_lag: _Lag
    index_lag: Callable[[], IndexLagFigures | None]
    ports: Sequence[tuple[BoundListener, Acceptor]]
    started_s: float = field(default_factory=clock.monotonic_s)


async def measure(sources: Sources, listeners: tuple[ListenerFigures, ...]) -> WorkerFigures:
    """The figures now; about 0.3 ms of the loop, the most of it for sorting the lane's samples (not measured)."""
    store = sources.store
    connections = dict.fromkeys((one.protocol for one in listeners), 0)
    for bound, acceptor in sources.ports:
        connections[bound.config.protocol.value] += len(acceptor.connections)
    lane = store.lane.figures
    holds_s = sorted(lane.holds_s)
    return WorkerFigures(
        pid=os.getpid(),
        worker=sources.index,
        uptime_s=round(clock.monotonic_s() - sources.started_s, 1),
        listeners=listeners,
        connections=connections,
        counters=dict(sorted(sources.counters.items())),
        lane=LaneFigures(
            commits=lane.commits,
            writes=lane.writes,
            failures=lane.failures,
            hold_p50_ms=_milliseconds(percentile(holds_s, 50)),
            hold_p99_ms=_milliseconds(percentile(holds_s, 99)),
        ),
        loop_lag=LoopLagFigures(worst_ms=round(sources.loop_lag.worst_s * 1000, 3), breaches=sources.loop_lag.breaches),
        index_lag=sources.index_lag(),
        wal_bytes=_size(Path(f"{store.data_dir / sqlite.DATABASE_NAME}-wal")),
        free_disk_bytes=shutil.disk_usage(store.data_dir).free,
        min_free_bytes=sources.min_free_bytes,
        view_memory_bytes=sources.views.memory_bytes,
        spool_memory_bytes=sources.spool.memory_bytes,
        lease_holder=await store.read(0, leases.holder_of, leases.BACKGROUND, int(clock.now_s())),
        queue_holder=await store.read(0, leases.holder_of, sources.queue_lease, int(clock.now_s())),
        queue_destinations=await store.read(0, outbox.waiting_destinations),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class StatusSocket:
    """Tells a worker's figures on its socket, from `start` to `close`; on the running loop."""

    def __init__(self, run_dir: Path, sources: Sources) -> None:
        self._run_dir = run_dir
        self._sources = sources
        # asked now: the acceptors close the sockets when the drain begins
        self._listeners = tuple(sorted(_listener(bound) for bound, _ in sources.ports))
        self._name = f"{os.getpid()}-{clock.token_hex(4)}{SUFFIX}"  # the token: two workers in one process, in tests
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Open the socket, and remove what killed processes left."""
        self._run_dir.mkdir(mode=0o700, exist_ok=True)
        remove_unfinished(self._run_dir)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with short_path(self._run_dir) as folder:
            self._socket.bind(f"{folder}/{self._name}{_PART}")
        self._socket.listen(BACKLOG)
        (self._run_dir / (self._name + _PART)).rename(self._run_dir / self._name)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def close(self) -> None:
        """Close and remove the socket."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        (self._run_dir / self._name).unlink(missing_ok=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            asker, _ = self._socket.accept()
        except OSError:  # gone again, or no descriptor is free: the next one asks again
            return
        asker.setblocking(False)
        self._spawn(self._answer(asker))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:  # Any: what a coroutine sends and yields is asyncio's
        task = asyncio.get_running_loop().create_task(work, name="status")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, asker: socket.socket) -> None:
        with asker, suppress(OSError):  # an asker that is gone
            # 2 KB into the empty buffer of a new socket (208 KiB on Linux): taken whole, without a wait
            asker.send(msgspec.json.encode(await measure(self._sources, self._listeners)))


def _listener(bound: BoundListener) -> ListenerFigures:
    host, port = bound.address
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ListenerFigures(protocol=bound.config.protocol.value, address=shown, tls=bound.config.tls.value)


def pid_of(name: str) -> int:
    """The process in a socket's name; 0 when there is none."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def remove_unfinished(run_dir: Path) -> None:
    """Remove the sockets of processes that were killed between making one and naming it."""
    for name in os.listdir(run_dir):
        if name.endswith(SUFFIX + _PART) and not _is_other_alive(pid_of(name)):
            (run_dir / name).unlink(missing_ok=True)


def _is_other_alive(pid: int) -> bool:
    if pid == os.getpid():  # ours has its name by now; in a container the same pid comes back with every start
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """A name of `folder` that leaves room for a file's: sun_path holds 108 bytes (unix(7)), and folders can be deep."""
    if not os.path.isdir("/proc/self/fd"):
        yield str(folder)
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
