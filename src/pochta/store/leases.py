"""Leases: at most one holder does a kind of work, and one that has lost it can change nothing any more.

A lease is a row with an end and a fencing number that rises with every acquisition. The end lets another take over
after a crash; the number makes that safe: every write done under a lease calls `check_fence` first, so that a holder
that was stopped for a while and woke up again fails instead of working beside its successor.

Invariants: a fence is never given out twice under one name (the row outlives its release); a lease that has ended is
never renewed, even when nobody took it meanwhile: whoever relies on having held it without a gap may do so.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

from pochta import clock, log
from pochta.errors import PochtaError, TryLater
from pochta.store.tx import Tx

BACKGROUND: Final = "background"  # the sweeper's, the checkpointer's and the other background work of a server
BACKUP: Final = "backup"  # while it is held no blob is removed

DURATION_S: Final = 30  # a dead holder is missed by nobody for half a minute: all its work can wait
RENEW_EVERY_S: Final = 10.0  # two renewals may fail before the lease is lost
TRY_EVERY_S: Final = 5.0

Args = TypeVarTuple("Args")
R = TypeVar("R")


class LeaseLost(PochtaError):
    """The lease went to another holder or has ended; whoever worked under it stops."""


class Fence(NamedTuple):
    """Proof of a held lease, to be checked in every write done under it."""

    name: str
    number: int


def acquire(tx: Tx, name: str, holder: str, now: int, duration_s: int) -> int | None:
    """The fence of a lease held until `now + duration_s`; None while another holds it. One statement.

    The same holder may acquire again: it gets a new fence, and its earlier one is worth nothing any more.
    """
    row = tx.row(
        "INSERT INTO lease (name, holder, fence, expires_at) VALUES (?, ?, 1, ?)"
        " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = lease.fence + 1,"
        " expires_at = excluded.expires_at WHERE lease.expires_at <= ? OR lease.holder = excluded.holder"
        " RETURNING fence",
        (name, holder, now + duration_s, now),
    )
    return None if row is None else int(row[0])


def renew(tx: Tx, name: str, fence: int, now: int, duration_s: int) -> bool:
    """Hold on until `now + duration_s`; False when the lease was lost or has ended. One statement."""
    touched = tx.run(
        "UPDATE lease SET expires_at = ? WHERE name = ? AND fence = ? AND expires_at > ?",
        (now + duration_s, name, fence, now),
    )
    return touched == 1


def release(tx: Tx, name: str, fence: int) -> None:
    """Give the lease back; harmless when it was lost. The row stays, so that fences go on rising."""
    tx.run("UPDATE lease SET expires_at = 0 WHERE name = ? AND fence = ?", (name, fence))


def check_fence(tx: Tx, name: str, fence: int) -> None:
    """Go on only as the latest holder. One statement.

    Raises:
        LeaseLost: another has acquired it since, or it was released.
    """
    row = tx.row("SELECT 1 FROM lease WHERE name = ? AND fence = ? AND expires_at > 0", (name, fence))
    if row is None:
        raise LeaseLost(f"lease {name} with fence {fence} is lost")


def release_dead(tx: Tx, name: str, holder: str) -> None:
    """Take the lease from a holder that is known to be dead. One statement."""
    tx.run("UPDATE lease SET expires_at = 0 WHERE name = ? AND holder = ?", (name, holder))


def holder_of(tx: Tx, name: str, now: int) -> str | None:
    """Who holds the lease; None when it is free. One statement."""
    row = tx.row("SELECT holder FROM lease WHERE name = ? AND expires_at > ?", (name, now))
    return None if row is None else str(row[0])


class _Store(Protocol):
    """What a holder needs of `Store`."""

    def write(
        self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args, durable: bool = True
    ) -> Awaitable[R]: ...

    async def read(self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args) -> R: ...


Work = Callable[[Fence], Coroutine[Any, Any, None]]  # Any: what a coroutine sends and yields is asyncio's


class LeaseHolder:
    """Runs `work(fence)` as long as this process holds the lease, and tries again every few seconds while it does not.

    `run` ends only by cancellation; the work is cancelled first and the lease given back. The work is background work:
    an exception of its own is handed to `on_error`, and the lease to whoever takes it next.
    """

    def __init__(
        self,
        store: _Store,
        name: str,
        work: Work,
        *,
        on_error: Callable[[BaseException], None],
        duration_s: int = DURATION_S,
        renew_every_s: float = RENEW_EVERY_S,
        try_every_s: float = TRY_EVERY_S,
    ) -> None:
        self._store = store
        self._name = name
        self._work = work
        self._on_error = on_error
        self._duration_s = duration_s
        self._renew_every_s = renew_every_s
        self._try_every_s = try_every_s
        self.holder = f"{os.uname().nodename}:{os.getpid()}:{clock.token_hex(4)}"
        self.fence: Fence | None = None
        self._sure_until_s = 0.0  # of `clock.monotonic_s`

    def is_held(self) -> bool:
        """Whether nobody else can hold the lease yet: asked before what cannot be fenced, such as ending a message."""
        return self.fence is not None and clock.monotonic_s() < self._sure_until_s

    def _note_held(self, asked_s: float) -> None:
        # counted from before the write: the row's end was reckoned from then
        self._sure_until_s = asked_s + self._duration_s - 1

    async def run(self) -> None:
        """Try, hold, work; for ever."""
        while True:
            try:
                await self._try_once()
            except TryLater as error:
                log.event("lease.later", name=self._name, reason=error.reason)
            await asyncio.sleep(self._try_every_s)

    async def _try_once(self) -> None:
        now = int(clock.now_s())
        # asked by a read first: a failed try would otherwise cost a commit every few seconds in every worker
        holder = await self._store.read(0, holder_of, self._name, now)
        if holder is not None and holder != self.holder:
            if not _is_dead(holder):
                return
            await self._store.write(0, release_dead, self._name, holder)
        asked_s = clock.monotonic_s()
        number = await self._store.write(0, acquire, self._name, self.holder, now, self._duration_s)
        if number is None:
            return
        self._note_held(asked_s)
        self.fence = Fence(self._name, number)
        log.event("lease.acquired", name=self._name, fence=number)
        try:
            await self._hold(self.fence)
        finally:
            self.fence = None
            with suppress(TryLater):  # a full disk: the lease ends by itself; a cancellation must not be lost over it
                await self._store.write(0, release, self._name, number)

    async def _hold(self, fence: Fence) -> None:
        """Work until the work ends or the lease is lost; the work has ended when this returns or raises."""
        task = asyncio.get_running_loop().create_task(self._work(fence), name=f"lease {fence.name}")
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self._renew_every_s)
                if not task.done() and not await self._renew(fence):
                    log.event("lease.lost", name=fence.name, fence=fence.number)
                    return
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            self._report(outcome)

    async def _renew(self, fence: Fence) -> bool:
        asked_s = clock.monotonic_s()
        try:
            is_held = await self._store.write(0, renew, fence.name, fence.number, int(clock.now_s()), self._duration_s)
            if is_held:
                self._note_held(asked_s)
            return is_held
        except TryLater:
            return True  # a full disk: the fence still guards every write, and once ended the lease is not renewed

    def _report(self, outcome: BaseException | None) -> None:
        if outcome is None or isinstance(outcome, asyncio.CancelledError):
            return
        # work that runs several tasks raises a group; what is left of it beside the expected is a bug
        expected, bugs = BaseExceptionGroup("lease", [outcome]).split((LeaseLost, TryLater))
        if expected is not None:
            log.event("lease.stopped", name=self._name, reason=_first_of(expected))
        if bugs is not None:
            self._on_error(_first_of(bugs) if bugs.exceptions == (outcome,) else bugs)


def _is_dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that is gone: nobody need wait for its lease to end.

    A number that was given out again makes us wait, no more. Another machine's processes are not to be seen from here,
    nor those of another container, which has a name of its own.
    """
    node, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if node != os.uname().nodename or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
