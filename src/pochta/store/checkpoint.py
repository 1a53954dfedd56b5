"""Moves the store's write-ahead log into the database file, beside the writers and hardly ever in their way.

Theory of operation. Writers append to the log and never checkpoint; one process (the lease holder) does, on a
connection and in a thread of its own. A PASSIVE checkpoint copies what it can while everybody goes on. The log starts
over at its beginning only when a writer finds all of it copied, which under a steady load happens by luck alone; so
once the log is past RESTART_BYTES the lane's lock is taken for the small rest, with the long part copied just before.
Without that lock the writers would spin in SQLite's busy handler on the event loop.

How much of the log is in use is read from its own headers: the -wal file keeps its size when the log starts over.
Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. SQLite puts its POSIX locks on the database and the
-shm file, never on the -wal, so a descriptor of our own on it breaks none.

Invariant: a snapshot that a reader does not let go of keeps the log from starting over; that is told as event
`store.wal.large`, never waited for with the lane's lock held.
"""

import asyncio
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from pochta import clock, log
from pochta.store import schema, sqlite

EVERY_S: Final = 1.0
GROWN_BYTES: Final = 4 * 1024 * 1024  # copied in one go: 512 pages, some 10 ms of a disk's time with its fsync
MAX_AGE_S: Final = 30.0  # a little mail is copied within this all the same
RESTART_BYTES: Final = 64 * 1024 * 1024  # reads stay quick up to here; 15 copies of GROWN_BYTES have had their chance
FINISH_BYTES: Final = 1024 * 1024  # 128 pages: what may be left to copy while the lane waits, about a millisecond
FINISH_ROUNDS: Final = 16  # each is shorter than the one before, while the disk is faster than the writers
LARGE_FACTOR: Final = 4  # times the bound: somebody holds a snapshot for too long
LARGE_EVENT_EVERY_S: Final = 60.0
REST_S: Final = 10.0  # nobody wrote for so long: the file may shrink
BUSY_TIMEOUT_MS: Final = 3  # readers that a restart waits for, while the lane is held

_HEADER: Final = struct.Struct(">IIIIII")  # magic, version, page size, checkpoint number, salt-1, salt-2
_FRAME_HEADER_BYTES: Final = 24
_WAL_HEADER_BYTES: Final = 32


@dataclass(slots=True)
class CheckpointFigures:
    """What was done since the start; `longest_hold_s` is the longest time the lane's lock was held."""

    copies: int = 0
    finished: int = 0
    refused: int = 0
    longest_hold_s: float = 0.0


def log_in_use(wal: Path) -> tuple[int, int]:
    """(salt, bytes): which run of the log this is, and how much of the file belongs to it. About 15 small reads.

    Frames of an earlier run stand behind those of the present one with another salt, so the end is found by halving.
    (0, 0) when there is no log.
    """
    try:
        fd = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, 0
    try:
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return 0, 0
        page_size = _HEADER.unpack(header)[2]
        salt = header[16:24]
        frame_bytes = _FRAME_HEADER_BYTES + page_size
        low, high = 0, max(0, os.fstat(fd).st_size - _WAL_HEADER_BYTES) // frame_bytes
        while low < high:
            middle = (low + high + 1) // 2
            if os.pread(fd, 8, _WAL_HEADER_BYTES + (middle - 1) * frame_bytes + 8) == salt:
                low = middle
            else:
                high = middle - 1
        return int.from_bytes(salt, "big"), low * frame_bytes
    finally:
        os.close(fd)


class Checkpointer:
    """The checkpoints of one store; make it in the process that holds the lease, `run` it, it closes itself."""

    def __init__(self, data_dir: Path, *, vfs: str | None = None, restart_bytes: int = RESTART_BYTES) -> None:
        database = data_dir / sqlite.DATABASE_NAME
        self._wal = Path(f"{database}-wal")
        self._connection = sqlite.connect(database, vfs=vfs)
        self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        self._lock = sqlite.FileLock(data_dir / sqlite.LOCK_NAME)
        self._restart_bytes = restart_bytes
        self.figures = CheckpointFigures()
        self._salt = self._finished_salt = 0
        self._copied_bytes = 0
        self._seen_bytes = 0
        self._last_growth_s = self._last_copy_s = clock.monotonic_s()
        self._last_event_s = -LARGE_EVENT_EVERY_S

    async def run(self) -> None:
        """Checkpoint for ever; on cancellation the connection is closed once the step that runs has ended."""
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(self.step))
                try:
                    await asyncio.shield(step)
                except asyncio.CancelledError:
                    await asyncio.gather(step, return_exceptions=True)
                    raise
                await asyncio.sleep(EVERY_S)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection and the lock's file."""
        self._connection.close()
        self._lock.close()

    def step(self) -> None:
        """One look at the log, and what it calls for. Blocks: a thread's work."""
        now = clock.monotonic_s()
        salt, used_bytes = log_in_use(self._wal)
        if salt != self._salt:
            self._salt, self._copied_bytes, self._seen_bytes = salt, 0, 0
        if used_bytes != self._seen_bytes:
            self._seen_bytes, self._last_growth_s = used_bytes, now
        try:
            self._act(now, used_bytes)
        except (apsw.FullError, apsw.IOError) as error:
            log.event("store.checkpoint.failed", error=error)
        if used_bytes > LARGE_FACTOR * self._restart_bytes and now - self._last_event_s >= LARGE_EVENT_EVERY_S:
            self._last_event_s = now
            log.event("store.wal.large", bytes=used_bytes, copied_bytes=self._copied_bytes)

    def _act(self, now: float, used_bytes: int) -> None:
        grown_bytes = used_bytes - self._copied_bytes
        if used_bytes > self._restart_bytes and self._salt != self._finished_salt:
            self._finish_log(apsw.SQLITE_CHECKPOINT_RESTART)
        elif grown_bytes >= GROWN_BYTES or (grown_bytes > 0 and now - self._last_copy_s >= MAX_AGE_S):
            self._copy()
        elif now - self._last_growth_s >= REST_S and self._size() >= GROWN_BYTES:
            self._finish_log(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _size(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def _copy(self) -> None:
        """Copy what can be copied while everybody goes on."""
        self._last_copy_s = clock.monotonic_s()
        try:
            _, copied_frames = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            self.figures.refused += 1  # a checkpoint of another program: it does our work
            return
        self.figures.copies += 1
        self._copied_bytes = copied_frames * (_FRAME_HEADER_BYTES + schema.PAGE_SIZE_BYTES)

    def _finish_log(self, mode: int) -> None:
        """Copy everything, the rest of it while nobody writes, so that the next writer begins at the log's beginning.

        More comes in while a copy runs, and while we wait for the lane; so the lane is given back until the rest is
        small. Where writers stay faster than the disk that never happens: then they have to wait, or the log has no
        bound.
        """
        for rounds_left in reversed(range(FINISH_ROUNDS)):
            self._copy()
            self._lock.acquire()
            began = clock.monotonic_s()
            try:
                rest_bytes = log_in_use(self._wal)[1] - self._copied_bytes
                if rest_bytes <= FINISH_BYTES or not rounds_left:
                    self._restart(mode)
                    return
            finally:
                self._lock.release()
                self.figures.longest_hold_s = max(self.figures.longest_hold_s, clock.monotonic_s() - began)

    def _restart(self, mode: int) -> None:
        try:
            _, copied_frames = self._connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            self.figures.refused += 1  # a reader; the next step tries again
            return
        self._finished_salt = self._salt
        self._copied_bytes = copied_frames * (_FRAME_HEADER_BYTES + schema.PAGE_SIZE_BYTES)
        self.figures.finished += 1
