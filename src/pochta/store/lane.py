"""The write lane: every write of this process, in order, grouped into durable commits.

Theory of operation. `submit` queues a function (one that need not be durable runs on the spot where the lane is free,
and saves two turns of the loop). One task drains the queue: it takes the lock between the processes,
runs the functions inline on the event loop (each in a savepoint, at most GROUP_TIME_S or GROUP_SIZE of them), and
awaits only the lock and the COMMIT in a thread: SQLite stepped in a thread beside a busy loop would wait for the
interpreter at every step (63 ms instead of 3 ms for 50 deliveries). While a COMMIT waits for the disk the next group
gathers.

Invariants: a future is resolved only after its COMMIT returned (INV-1); hints leave after that (INV-4); a function that
raises leaves no trace; a COMMIT that fails fails the whole group.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import apsw

from pochta import clock
from pochta.store import sqlite
from pochta.store.tx import Hint

GROUP_TIME_S: Final = 0.005  # the loop is held no longer than this by one group (INV-12 allows 10 ms)
GROUP_SIZE: Final = 256
QUEUE_LIMIT: Final = 10_000  # one waiting write for each of the default number of connections
AT_ONCE_S: Final = 0.001  # a write that took longer gives the others their turn before its caller goes on (INV-12)
HOLD_SAMPLES: Final = 1024  # of lane hold times, for `pochta status`

# Who is to know which changes its own writes have made, before anybody hears of them: set in the task that writes
on_caused: Final[ContextVar[Callable[[Sequence[Hint]], None] | None]] = ContextVar("on_caused", default=None)


class Waiting:
    """One queued write and the future its caller awaits."""

    __slots__ = ("args", "fn", "future", "hints", "in_thread", "is_durable", "on_caused")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        future: "asyncio.Future[Any]",
        *,
        is_durable: bool,
        in_thread: bool,
    ) -> None:
        self.fn = fn
        self.args = args
        self.is_durable = is_durable
        self.in_thread = in_thread
        self.future = future
        self.on_caused = on_caused.get()
        self.hints: Sequence[Hint] = ()

    def tell_cause(self) -> None:
        """Say what was changed to whoever asked for it."""
        if self.on_caused is not None and self.hints:
            self.on_caused(self.hints)


def _resolve(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():  # cancelled
        future.set_result(result)


@dataclass(slots=True)
class LaneFigures:
    """What the lane has done since it started; `holds_s` are the latest times the lock was held."""

    commits: int
    writes: int
    failures: int
    holds_s: deque[float]


class Lane:
    """The write lane of one process over one SQLite connection."""

    def __init__(
        self,
        connection: apsw.Connection,
        lock: sqlite.FileLock,
        *,
        mod_seq_floor: int,
        on_hints: Callable[[list[Hint]], None],
        on_relaxed_commit: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._lock = lock
        self.mod_seq_floor = mod_seq_floor
        self._on_hints = on_hints
        self._on_relaxed_commit = on_relaxed_commit
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lane")
        self._task: asyncio.Task[None] | None = None
        self._is_synchronous_full = True
        self._is_closing = False
        self._is_idle = False  # nothing waits, and nobody of this process holds the lock
        self.figures = LaneFigures(0, 0, 0, deque(maxlen=HOLD_SAMPLES))

    def start(self) -> "asyncio.Task[None]":
        """Begin to drain the queue; a task that ends before `close` has met a bug, and no write ends any more."""
        self._task = asyncio.get_running_loop().create_task(self._drain(), name="write lane")
        return self._task

    async def close(self) -> None:
        """Finish what is queued, then stop."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], *, is_durable: bool, in_thread: bool = False
    ) -> "asyncio.Future[Any]":
        """Queue a write; the future holds its result once the commit is durable (or its exception).

        `in_thread`: a function of few and long statements, which would hold the loop; it is a group of its own. What
        need not be durable is done before this returns where the lane is free: nothing of it waits for the disk.

        Raises:
            RuntimeError: the lane is closing (a bug: connections are drained first), or its queue is past QUEUE_LIMIT.
        """
        if self._is_closing or len(self._queue) >= QUEUE_LIMIT:
            raise RuntimeError("the write lane is closed" if self._is_closing else "the write lane is full")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = Waiting(fn, args, future, is_durable=is_durable, in_thread=in_thread)
        is_at_once = self._is_idle and not self._queue and not is_durable and not in_thread
        if is_at_once and self._lock.try_acquire():
            self._run_now(waiting)
            return future
        self._queue.append(waiting)
        self._wake.set()
        return future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                if self._is_closing:
                    return
                self._wake.clear()
                self._is_idle = True
                await self._wake.wait()
                self._is_idle = False
            if not self._lock.try_acquire():
                await loop.run_in_executor(self._thread, self._lock.acquire)
            began = clock.monotonic_s()
            try:
                if self._queue[0].in_thread:
                    await self._run_alone(loop, self._queue.popleft())
                else:
                    await self._run_group(loop)
            finally:
                self._lock.release()
                self.figures.holds_s.append(clock.monotonic_s() - began)

    def _run_now(self, waiting: Waiting) -> None:
        """Run and commit one write that need not be durable, and give the lock back."""
        began = clock.monotonic_s()
        self._is_idle = False  # a function that submits another write has it queued
        tx = sqlite.SqliteTx(self._connection, self.mod_seq_floor)
        try:
            self._set_synchronous(False)
            self._connection.execute("BEGIN IMMEDIATE")
            result = waiting.fn(tx, *waiting.args)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to the caller, whose transaction this was
            self._fail([(waiting, None)], error)
            return
        finally:
            self._lock.release()
            self._is_idle = True
            held_s = clock.monotonic_s() - began
            self.figures.holds_s.append(held_s)
        self.figures.commits += 1
        self.figures.writes += 1
        waiting.hints = tx.hints
        waiting.tell_cause()
        if tx.hints:
            self._on_hints(tx.hints)
        self._on_relaxed_commit()
        if held_s < AT_ONCE_S:
            waiting.future.set_result(result)
        else:
            waiting.future.get_loop().call_soon(_resolve, waiting.future, result)

    async def _run_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run and commit one group; every future taken is resolved, whatever happens."""
        is_durable = any(waiting.is_durable for waiting in self._queue)
        done: list[tuple[Waiting, Any]] = []
        tx = sqlite.SqliteTx(self._connection, self.mod_seq_floor)
        has_begun = False
        try:
            self._set_synchronous(is_durable)
            self._connection.execute("BEGIN IMMEDIATE")
            has_begun = True
            self._run_functions(tx, done, is_durable=is_durable)
            if is_durable:
                await loop.run_in_executor(self._thread, self._commit)
            else:
                self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - any failure of the commit is the failure of everybody in the group
            if not has_begun:
                done.append((self._queue.popleft(), None))  # or we would try for ever
            self._fail(done, error)
            return
        self.figures.commits += 1
        self.figures.writes += len(done)
        for waiting, _ in done:
            waiting.tell_cause()
        if tx.hints:
            self._on_hints(tx.hints)
        if done and not is_durable:
            self._on_relaxed_commit()
        for waiting, result in done:
            _resolve(waiting.future, result)

    def _commit(self) -> None:
        """COMMIT, and give the turn to other processes at once: our loop may hear of it 20 ms later."""
        self._connection.execute("COMMIT")
        self._lock.release()

    async def _run_alone(self, loop: asyncio.AbstractEventLoop, waiting: Waiting) -> None:
        """Run and commit one function in the thread, where SQLite leaves the interpreter to the loop."""
        tx = sqlite.SqliteTx(self._connection, self.mod_seq_floor)
        try:
            self._set_synchronous(True)
            result = await loop.run_in_executor(self._thread, self._call, tx, waiting)
        except Exception as error:  # noqa: BLE001 - handed to the caller, whose transaction this was
            self._fail([(waiting, None)], error)
            return
        self.figures.commits += 1
        self.figures.writes += 1
        waiting.hints = tx.hints
        waiting.tell_cause()
        self._on_hints(tx.hints)
        _resolve(waiting.future, result)

    def _call(self, tx: sqlite.SqliteTx, waiting: Waiting) -> object:
        self._connection.execute("BEGIN IMMEDIATE")
        result: object = waiting.fn(tx, *waiting.args)
        self._connection.execute("COMMIT")
        return result

    def _run_functions(self, tx: sqlite.SqliteTx, done: list[tuple[Waiting, Any]], *, is_durable: bool) -> None:
        queue, execute = self._queue, self._connection.execute
        until = clock.monotonic_s() + GROUP_TIME_S
        while queue and len(done) < GROUP_SIZE:
            if queue[0].in_thread or (queue[0].is_durable and not is_durable):
                return  # came in while we ran: the next group commits it with an fsync
            waiting = queue.popleft()
            if waiting.future.cancelled():
                continue
            hints_before = len(tx.hints)
            has_savepoint = False
            try:
                execute("SAVEPOINT item")
                has_savepoint = True
                result = waiting.fn(tx, *waiting.args)
                execute("RELEASE item")
            except Exception as error:
                del tx.hints[hints_before:]
                self.figures.failures += 1
                waiting.future.set_exception(sqlite.as_try_later(error))
                if not self._connection.in_transaction:
                    raise  # SQLite rolled everything back (disk full, I/O error): the others fail with it
                if has_savepoint:
                    execute("ROLLBACK TO item")
                    execute("RELEASE item")
            else:
                waiting.hints = tx.hints[hints_before:]
                done.append((waiting, result))
            if clock.monotonic_s() >= until:
                return

    def _set_synchronous(self, is_durable: bool) -> None:
        if is_durable != self._is_synchronous_full:
            self._connection.pragma("synchronous", "full" if is_durable else "normal")
            self._is_synchronous_full = is_durable

    def _fail(self, done: list[tuple[Waiting, Any]], error: Exception) -> None:
        with contextlib.suppress(apsw.Error):  # a disk that fails COMMIT may fail this too; the next BEGIN tells
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        meaning = sqlite.as_try_later(error)
        self.figures.failures += len(done)
        for waiting, _ in done:
            if not waiting.future.done():
                waiting.future.set_exception(meaning)
