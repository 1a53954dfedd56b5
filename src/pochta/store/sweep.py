"""Removes in the background, in small steps, what nobody can ask for any more.

Decides: how long removed things stay, in which order they go, how much one step of the write lane takes. Refuses to
know: who removed them and why.

Theory of operation. Mailboxes and accounts are detached in one row and leave a `task`; messages leave a `removed` row.
`Sweeper.run_once` empties detached mailboxes (their messages go to `removed`, with the quota given back), then deletes
what is past the retention: `removed` rows, with them messages that stand nowhere any more, with those the blobs that no
message refers to; old rows of the change log; detached mailboxes and accounts. Once an hour it walks the blobs and the
blob folder for what a crash has left. Every step is one lane function that takes a few milliseconds; its size follows
the time the last one took, and the pause after it the time it waited, so that a busy lane is given way to.

Invariants:
* INV-6 backwards: a blob's row is removed, and that is durable, before its file is.
* A message goes only when it has neither a placement nor a `removed` row; a blob only when no message refers to it.
* While a backup holds its lease no blob goes: the rows of its snapshot name files that are still to be linked.
* A change row goes together with all older ones, and `log_floor_mod_seq` tells it in the same transaction.

What stays: `message_ref` rows of threads that are gone, until the account goes: a late reply joins its thread by them.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pochta import clock, log
from pochta.errors import TryLater
from pochta.store import expiry, removal, sending
from pochta.store.greylist import Rules
from pochta.store.leases import Fence
from pochta.store.removal import Step, Work
from pochta.store.store import Store

RETENTION_S: Final = 7 * 86_400
RETENTION_MIN_S: Final = 3600  # frozen views and POP3 sessions read on from `removed`
BLOB_GRACE_S: Final = 3600  # bytes that are durable get their row within seconds; a slow policy check takes minutes
LOG_KEPT_S: Final = 30 * 86_400  # QRESYNC and /changes answer a client that was away for a month

EVERY_S: Final = 60.0
TASK_POLL_S: Final = 3.0  # somebody who removed a mailbox wants to see the quota given back
WALK_EVERY_S: Final = 3600

# What a step should take of the lane. Measured with 200 000 messages beside 250 deliveries a second: steps of 110-720
# rows, p99 2.3 ms, slowest 4.1 ms; deliveries p99 3.8 ms. With twice the time the slowest step took 7 ms.
STEP_S: Final = 0.0015
STEP_ROWS_MIN: Final = 16
STEP_ROWS_FIRST: Final = 64
STEP_ROWS_MAX: Final = 1000
PAUSE_FACTOR: Final = 2.0  # pause after a step, in times of what it took from queueing to commit
PAUSE_MAX_S: Final = 0.5

FREE_PAGES_MIN: Final = 8192  # 64 MiB: less than that is filled by new mail soon
FREE_SHARE: Final = 0.25

_TEMPORARY: Final = ".new-"
_NAME_TIME_DIGITS: Final = 9  # a blob file's name begins with the second it was made, in hexadecimal


@dataclass(slots=True)
class SweepFigures:
    """What a run has removed; `longest_step_s` is the longest time one step took of the lane."""

    placements: int = 0
    removed_rows: int = 0
    messages: int = 0
    blobs: int = 0
    files: int = 0
    changes: int = 0
    mailboxes: int = 0
    accounts: int = 0
    pages: int = 0
    steps: int = 0
    longest_step_s: float = 0.0


class _Pace:
    """How many rows the next step of a kind may take, so that it takes about STEP_S of the lane."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows = min(STEP_ROWS_FIRST, STEP_ROWS_MAX)

    def note(self, rows: int, took_s: float) -> None:
        """Learn from a step of `rows` rows; grows at most by a quarter, so that one quick step misleads little."""
        if rows * 2 >= self.rows and took_s > 0:
            fitting = int(rows * STEP_S / took_s)
            self.rows = max(STEP_ROWS_MIN, min(fitting, self.rows * 5 // 4, STEP_ROWS_MAX))


class Sweeper:
    """The background removal of one store, under `fence` (None: the caller knows that no other process sweeps)."""

    def __init__(
        self,
        store: Store,
        *,
        fence: Fence | None = None,
        retention_s: int = RETENTION_S,
        blob_grace_s: int = BLOB_GRACE_S,
        log_kept_s: int = LOG_KEPT_S,
        greylist_rules: Rules | None = None,
    ) -> None:
        self._store = store
        self._fence = fence
        self._retention_s = max(retention_s, RETENTION_MIN_S)
        self._blob_grace_s = max(blob_grace_s, BLOB_GRACE_S)
        self._log_kept_s = log_kept_s
        self._greylist_rules = greylist_rules or Rules()
        self._paces = {work: _Pace() for work in Work}
        self._walk_at = 0
        self._figures = SweepFigures()

    async def run(self) -> None:
        """Sweep every minute, and within seconds where something was removed; ends only by cancellation.

        Raises:
            LeaseLost: another process sweeps now.
        """
        while True:
            try:
                figures = await self.run_once(int(clock.now_s()))
                if figures.steps:
                    log.event(
                        "sweep.done",
                        placements=figures.placements,
                        messages=figures.messages,
                        blobs=figures.blobs,
                        files=figures.files,
                        longest_ms=round(figures.longest_step_s * 1000, 1),
                    )
            except TryLater as error:
                log.event("sweep.later", reason=error.reason)
            until = clock.monotonic_s() + EVERY_S
            while clock.monotonic_s() < until:
                await asyncio.sleep(TASK_POLL_S)
                if await self._store.read(0, removal.tasks_due, 0, int(clock.now_s()) - self._retention_s):
                    break

    async def run_once(self, now: int) -> SweepFigures:
        """Do all that is due at `now`; what was done.

        Raises:
            LeaseLost: another process sweeps now.
            TryLater: the disk is full or failing.
        """
        self._figures = SweepFigures()
        await self._do_tasks(now, {removal.MAILBOX_REMOVE})
        await self._expire(now)
        await self._expire_shared(now)
        await self._do_tasks(now, {removal.MAILBOX_FORGET, removal.ACCOUNT_REMOVE})
        if now - self._walk_at >= WALK_EVERY_S or now < self._walk_at:
            await self._walk_blobs(now)
            await self._walk_files(now)
            self._walk_at = now
        await self._shrink()
        return self._figures

    async def _step(self, work: Work, *args: int, account_id: int = 0, durable: bool = False) -> Step:
        """One step and the pause after it.

        Not durable where nothing outside the database follows from it: nobody was told anything, and a step that a
        power cut takes is done again.
        """
        began = clock.monotonic_s()
        pace = self._paces[work]
        step = await self._store.write(
            account_id, removal.run_step, self._fence, work, pace.rows, args, durable=durable
        )
        pace.note(step.rows, step.took_s)
        figures = self._figures
        if step.rows:
            figures.steps += 1
            figures.messages += step.messages
        figures.longest_step_s = max(figures.longest_step_s, step.took_s)
        await asyncio.sleep(min(PAUSE_MAX_S, PAUSE_FACTOR * (clock.monotonic_s() - began)))
        return step

    async def _do_tasks(self, now: int, kinds: set[str]) -> None:
        after_id = 0
        while tasks := await self._store.read(0, removal.tasks_due, after_id, now - self._retention_s):
            for after_id, kind, account_id, mailbox_id in tasks:  # noqa: B007 - the last one is where to go on
                if kind not in kinds:
                    continue
                if kind == removal.MAILBOX_REMOVE:
                    await self._empty_mailbox(account_id, mailbox_id, now)
                elif kind == removal.MAILBOX_FORGET:
                    step = await self._step(Work.FORGET_MAILBOX, account_id, mailbox_id, account_id=account_id)
                    self._figures.mailboxes += step.rows
                else:
                    await self._remove_account(account_id, now)

    async def _empty_mailbox(self, account_id: int, mailbox_id: int, now: int) -> None:
        is_done = False
        while not is_done:
            step = await self._step(Work.EMPTY_MAILBOX, account_id, mailbox_id, now, account_id=account_id)
            self._figures.placements += step.rows
            is_done = step.is_done

    async def _remove_account(self, account_id: int, now: int) -> None:
        for index, (table, _) in enumerate(removal.ACCOUNT_TABLES):
            is_done = False
            while not is_done:
                step = await self._step(Work.EMPTY_ACCOUNT, account_id, index, account_id=account_id)
                await self._delete_blobs(step.blob_ids, now)
                if table == "mailbox":
                    self._figures.mailboxes += step.rows
                is_done = step.is_done
        step = await self._step(Work.FORGET_ACCOUNT, account_id, account_id=account_id)
        self._figures.accounts += step.rows

    async def _expire(self, now: int) -> None:
        """Walk the accounts for `removed` rows and change rows that are old enough."""
        after_id = 0
        removed_cutoff, log_cutoff = now - self._retention_s, now - self._log_kept_s
        sending_hour = now // 3600 - sending.KEPT_HOURS
        while rows := await self._store.read(0, removal.accounts_due, after_id, removed_cutoff, sending_hour):
            for account_id, has_removed, oldest_change_at, has_sent in rows:
                if has_sent:
                    await self._step(Work.EXPIRE_SENDING, account_id, sending_hour, account_id=account_id)
                is_done = not has_removed
                while not is_done:
                    step = await self._step(Work.EXPIRE_REMOVED, account_id, removed_cutoff, account_id=account_id)
                    self._figures.removed_rows += step.rows
                    await self._delete_blobs(step.blob_ids, now)
                    is_done = step.is_done
                is_done = oldest_change_at is None or oldest_change_at > log_cutoff
                while not is_done:
                    step = await self._step(Work.EXPIRE_CHANGES, account_id, log_cutoff, account_id=account_id)
                    self._figures.changes += step.rows
                    is_done = step.is_done
            after_id = rows[-1][0]
            await asyncio.sleep(0)

    async def _expire_shared(self, now: int) -> None:
        """What belongs to no account."""
        rules = self._greylist_rules
        is_due = await self._store.read(0, expiry.is_due, now, rules)
        while is_due:
            step = await self._step(Work.EXPIRE_SHARED, now, rules.delay_s, rules.retry_window_s, rules.kept_s)
            is_due = not step.is_done

    async def _delete_blobs(self, blob_ids: Sequence[int], now: int) -> None:
        """Delete those that nothing refers to, rows first; what a crash leaves of it the hourly walk finds."""
        start = 0
        while start < len(blob_ids):
            stop = start + self._paces[Work.DELETE_BLOBS].rows
            cutoff = now - self._blob_grace_s
            step = await self._step(Work.DELETE_BLOBS, now, cutoff, *blob_ids[start:stop], durable=True)
            self._figures.blobs += step.rows
            if step.files:
                await asyncio.to_thread(self._store.blobs.delete_files, step.files)
                self._figures.files += len(step.files)
            start = stop

    async def _walk_blobs(self, now: int) -> None:
        """Find blobs without a message: bytes that were stored for nothing, or a removal that was cut off."""
        after_id = 0
        while rows := await self._store.read(0, removal.blobs_after, after_id):
            cutoff = now - self._blob_grace_s
            await self._delete_blobs([row[0] for row in rows if not row[2] and row[1] <= cutoff], now)
            after_id = rows[-1][0]
            await asyncio.sleep(0)

    async def _walk_files(self, now: int) -> None:
        """Find files without a row: a crash between file and row, between row and file, or while receiving."""
        folder, cutoff = self._store.blobs.folder, now - self._blob_grace_s
        names = await asyncio.to_thread(_old_files, folder, cutoff)
        for start in range(0, len(names), removal.READ_ROWS):
            part = tuple(names[start : start + removal.READ_ROWS])
            orphans = set(part) - await self._store.read(0, removal.known_files, part)
            if orphans:
                await asyncio.to_thread(self._store.blobs.delete_files, orphans)
                self._figures.files += len(orphans)
            await asyncio.sleep(0)
        self._figures.files += await asyncio.to_thread(_delete_leftovers, folder, cutoff)

    async def _shrink(self) -> None:
        """Give pages back to the file system, once a good share of the database file is free."""
        free, total = await self._store.read(0, removal.free_pages)
        if free < max(FREE_PAGES_MIN, total * FREE_SHARE):
            return
        while free > FREE_PAGES_MIN // 2:  # the rest is filled by new mail
            await self._step(Work.GIVE_BACK_PAGES)
            before, (free, _) = free, await self._store.read(0, removal.free_pages)
            self._figures.pages += max(0, before - free)
            if free >= before:
                return


def _old_files(folder: Path, cutoff: int) -> list[str]:
    """The names of the blob files made at or before `cutoff`; what is not named like one is left alone."""
    names: list[str] = []
    for place in os.scandir(folder):
        if place.is_dir(follow_symlinks=False):
            for name in os.listdir(place):
                stamp, dash, _ = name.partition("-")
                if dash and len(stamp) == _NAME_TIME_DIGITS and name.endswith(place.name) and _time_of(stamp) <= cutoff:
                    names.append(name)
    return names


def _time_of(stamp: str) -> int:
    try:
        return int(stamp, 16)
    except ValueError:
        return 1 << 62  # no name of ours: never old enough


def _delete_leftovers(folder: Path, cutoff: int) -> int:
    """Delete unfinished files nobody has written to since `cutoff`; how many."""
    count = 0
    for entry in os.scandir(folder):
        if entry.name.startswith(_TEMPORARY) and entry.stat(follow_symlinks=False).st_mtime <= cutoff:
            Path(entry.path).unlink(missing_ok=True)
            count += 1
    return count
