"""The store as everything above sees it: `read`, `write`, `subscribe`, blobs.

Decides: which connection runs what, when relaxed commits reach the disk, when the poll for lost hints runs.
Refuses to know: mail, protocols. The functions that know mail are in the other modules of this folder and are handed
in: `await store.write(account_id, messages.deliver, ...)`.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple, cast

import apsw

from pochta import clock, log
from pochta.store import blobs, lane, sqlite
from pochta.store.hints import ANYTHING, HintHub, Listener
from pochta.store.tx import Hint, Row, Tx, Value

POLL_S: Final = 0.8  # a lost hint is made good within this, and what follows of it (an end of sessions) within 1 s
ROOM_CHECK_S: Final = 1.0  # free disk space is asked for once in this time, not per message

SLICE_ROWS: Final = 1000  # 0.4 ms of the loop (INV-12)
SNAPSHOTS_MAX: Final = 4  # open at once, each a connection with a cache of up to sqlite.CACHE_KIB (INV-7)

Args = TypeVarTuple("Args")
R = TypeVar("R")


class Snapshot(sqlite.SqliteTx):
    """A read transaction of its own connection."""

    __slots__ = ("_cursors",)

    def __init__(self, connection: apsw.Connection, mod_seq_floor: int) -> None:
        super().__init__(connection, mod_seq_floor)
        self._cursors: list[apsw.Cursor] = []

    def end(self) -> None:
        """End the transaction, with answers that were left in the middle: an open one would hold the snapshot."""
        for cursor in self._cursors:
            cursor.close(True)
        self._connection.execute("COMMIT")

    async def slices(self, sql: str, args: Sequence[Value] = ()) -> AsyncIterator[list[Row]]:
        """The answer in lists of at most SLICE_ROWS rows."""
        cursor = self._execute(sql, args)
        self._cursors.append(cursor)
        while rows := list(islice(cursor, SLICE_ROWS)):
            yield rows
            await asyncio.sleep(0)


class Store:
    """One process's handle on the store in `data_dir`. Make it inside the event loop, `start` it, `close` it."""

    def __init__(self, data_dir: Path, *, vfs: str | None = None, min_free_bytes: int = 0) -> None:
        self.data_dir = data_dir
        self._min_free_bytes = min_free_bytes
        self._vfs = vfs
        database = data_dir / sqlite.DATABASE_NAME
        self._writer = sqlite.connect(database, vfs=vfs)
        self._reader = self._connect_reader()
        self._spare_readers: list[apsw.Connection] = []
        self._snapshots_free = asyncio.Semaphore(SNAPSHOTS_MAX)
        self._lock = sqlite.FileLock(data_dir / sqlite.LOCK_NAME)
        self.blobs = blobs.Blobs(data_dir / "blobs")
        self.hints = HintHub(data_dir / "run")
        self._checked_functions: set[Callable[..., Any]] = set()
        floor_row = self._reader.execute("SELECT number FROM meta WHERE name = 'mod_seq_floor'").fetchone()
        self.lane = lane.Lane(
            self._writer,
            self._lock,
            mod_seq_floor=floor_row[0] if floor_row else 0,
            on_hints=self.hints.publish,
            on_relaxed_commit=self._note_relaxed_commit,
        )
        self._is_wal_dirty = False
        self._poll_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.on_death: Callable[[BaseException], None] | None = None  # the lane or the poll met a bug: nothing goes on
        self._room_until_s = 0.0
        self._has_room = True

    @property
    def mod_seq_floor(self) -> int:
        """See `Tx.mod_seq_floor`."""
        return self.lane.mod_seq_floor

    def start(self, *, hears_hints: bool = True) -> None:
        """Start the lane and, in a server, the hint socket and the poll."""
        self._tasks = [self.lane.start()]
        if hears_hints:
            self.hints.start()
            self._poll_task = asyncio.get_running_loop().create_task(self._poll(), name="store poll")
            self._tasks.append(self._poll_task)
        for task in self._tasks:
            task.add_done_callback(self._tell_death)

    def _tell_death(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self.on_death is not None:
            self.on_death(error)

    async def close(self) -> None:
        """Finish queued writes and close every connection."""
        if self._poll_task is not None:
            self._poll_task.cancel()
            await asyncio.gather(self._poll_task, return_exceptions=True)
        await self.lane.close()
        if self._is_wal_dirty:
            self._sync_wal()
        self.hints.close()
        for connection in (self._writer, self._reader, *self._spare_readers):
            connection.close()
        self._lock.close()

    def write(
        self,
        account_id: int,
        fn: Callable[[Tx, *Args], R],
        *args: *Args,
        durable: bool = True,
        in_thread: bool = False,
    ) -> "asyncio.Future[R]":
        """Run `fn(tx, *args)` in the write lane, all or nothing; resolved once the commit is durable (INV-1).

        `durable=False` (flag changes only) is resolved after a commit that survives a killed process; a power cut may
        take the last second. `in_thread`: `fn` is a few long statements (COPY of thousands), which must not hold the
        loop. `account_id` names the shard (one today; 0 where no account is meant).

        Raises:
            TryLater: the disk is full or failing. Whatever `fn` raises comes through.
        """
        if fn not in self._checked_functions:
            self._check_function(fn)
        return self.lane.submit(fn, args, is_durable=durable, in_thread=in_thread)

    async def read(self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args) -> R:
        """`fn(tx, *args)` on one snapshot, inline: up to about 200 rows. Larger reads use `snapshot`."""
        reader = self._reader
        reader.execute("BEGIN")
        try:
            return fn(sqlite.SqliteTx(reader, self.mod_seq_floor), *args)
        finally:
            reader.execute("COMMIT")

    @asynccontextmanager
    async def snapshot(self, account_id: int) -> AsyncIterator["Snapshot"]:
        """One snapshot that may be read in slices, with the loop's turn between them; keep it under a second.

        SNAPSHOTS_MAX are open at once, others wait: ask for none while you hold one.
        """
        async with self._snapshots_free:
            connection = self._spare_readers.pop() if self._spare_readers else self._connect_reader()
            connection.execute("BEGIN")
            snapshot = Snapshot(connection, self.mod_seq_floor)
            try:
                yield snapshot
            finally:
                snapshot.end()
                self._spare_readers.append(connection)

    def _connect_reader(self) -> apsw.Connection:
        return sqlite.connect(self.data_dir / sqlite.DATABASE_NAME, vfs=self._vfs, writable=False)

    def data_version(self) -> int:
        """A number that differs once anybody has committed since the last call. About 2 us."""
        # not by `pragma`, which prepares it anew each time
        return cast(int, self._reader.execute("PRAGMA data_version").fetchall()[0][0])

    def has_room(self) -> bool:
        """Whether the disk holds more than `min_free_bytes`; asked of the system once a second."""
        now = clock.monotonic_s()
        if now >= self._room_until_s:
            self._room_until_s = now + ROOM_CHECK_S
            self._has_room = shutil.disk_usage(self.data_dir).free >= self._min_free_bytes
        return self._has_room

    async def watch(self) -> AsyncIterator[Hint]:
        """Every hint from now on; a watcher that is slow gets merged ones."""
        wake = asyncio.Event()
        waiting: dict[int, int] = {}

        def note(hints: list[Hint]) -> None:
            for account_id, mod_seq in hints:
                waiting[account_id] = max(mod_seq, waiting.get(account_id, 0))
            wake.set()

        unsubscribe = self.hints.subscribe(note)
        try:
            while True:
                await wake.wait()
                wake.clear()
                while waiting:
                    yield Hint(*waiting.popitem())
        finally:
            unsubscribe()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each batch of hints, in the event loop; the answer ends that."""
        return self.hints.subscribe(listener)

    def _check_function(self, fn: Callable[..., Any]) -> None:
        # A closure could not move to a lane in a process of its own, and may hold what another run must not see.
        if getattr(fn, "__closure__", None) is not None or "<" in getattr(fn, "__qualname__", "<"):
            raise TypeError(f"{fn!r} is not a module-level function")
        self._checked_functions.add(fn)

    def _note_relaxed_commit(self) -> None:
        self._is_wal_dirty = True

    def _sync_wal(self) -> None:
        self._is_wal_dirty = False
        # SQLite locks the database and the -shm file, never the -wal: a descriptor of our own breaks no lock.
        fd = os.open(f"{self.data_dir / sqlite.DATABASE_NAME}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    async def _sync_relaxed(self) -> None:
        """Bring relaxed commits to the disk; a failure is told and tried again, for the poll must not end by it."""
        try:
            await asyncio.to_thread(self._sync_wal)
        except OSError as error:
            self._is_wal_dirty = True
            log.event("store.sync.failed", error=error)

    async def _poll(self) -> None:
        seen = self.data_version()
        while True:
            await asyncio.sleep(POLL_S)
            version = self.data_version()
            if self._is_wal_dirty or version != seen:
                # others' commits too: whoever made them may have been killed before its own turn
                await self._sync_relaxed()
            if version != seen:
                seen = version
                self.hints.tell_here([ANYTHING])
