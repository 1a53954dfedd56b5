"""The runner: takes what is due in its share of the queue, has it sent, and writes down what came of it.

Theory of operation
-------------------
`run(fence)` is work under the lease of a share (`store.shares`). The dispatcher asks the store which destinations are
due and gives each a *deliverer*, as long as there are free connections. A deliverer claims a few recipients (in turn
for each sender), has them sent one message after the other over one connection, settles each, and claims again; when
its destination has nobody due, or others wait for its place, it ends. A destination gets a second deliverer once it has
taken something, and more up to its limit: one for each full claim, and one whenever somebody is due beside those under
way. Destinations that have taken nothing yet share a part of the places, because anybody can make us write to servers
that only hold us up. One that cannot be reached is left with none until its back-off ends, and whatever was due there
counts as tried.

What may be lost: nothing. A claim is a state of a row; a dead runner's claims are taken back by `take_over`. What may
happen twice: a server has said 250, and we die before the settling is durable. Nothing else lies between the two: the
settling is queued in the very step that has read the reply, and is one durable commit (shared with others). A message
that needs several transactions is settled after each. A runner that has lost its lease without knowing (a machine that
slept) begins no further transaction: `is_held` is asked first.

What goes wrong at one message (damaged bytes, a bug of ours) is that message's alone: it is put off like one that the
other server deferred. What goes wrong at the store (a full disk) rests the whole for RESTS_S, or claims would spin.
While anything that was sent cannot be written down, nothing more is sent: a crash would send all of it again. What
cannot be written at all, whatever the disk says, ends the run, so that the next one takes its rows back.

Time is `clock.now_s`; sleeping is only a way not to ask the store all the time, and `wake` ends it.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

from pochta import clock, log
from pochta.delivery import record
from pochta.errors import TryLater
from pochta.net.connection import report_bug
from pochta.queue.attempt import Attempts, Job, Outcome, jobs_of
from pochta.queue.late import LateDeliveries
from pochta.queue.reports import Reporter
from pochta.queue.schedule import Schedule, back_off
from pochta.queue.settling import End, Fate, settle
from pochta.store import outbox
from pochta.store.hints import ANYTHING
from pochta.store.leases import Fence, LeaseLost
from pochta.store.outbox import LOCAL, NEWS, Claim, Reached, Recipient, Settled
from pochta.store.shares import WHOLE, Share
from pochta.store.store import Store
from pochta.store.tx import Hint, Tx

Args = TypeVarTuple("Args")
Result = TypeVar("Result")

DESTINATIONS_A_LOOK: Final = 200  # that are asked for beside those under way
CLAIM_ACCOUNTS: Final = 10  # senders that one claim serves
CLAIM_ROWS: Final = 10  # recipients of each of them; 100 rows are claimed in about 3 ms of the lane
CLAIMS_A_TURN: Final = 5  # after which a deliverer gives its place to a destination that waits
ASK_EVERY_S: Final = 5.0  # a lost hint costs so much at the most
LOOK_AGAIN_S: Final = 0.05
RESTS_S: Final = 5.0
SETTLE_AGAIN_S: Final = 5.0
SETTLE_STOP_S: Final = 1.5  # for what was settled to reach the disk, after STOP_S
STOP_S: Final = 6.0  # for transactions under way to end when the server stops; the supervisor kills after 9
TIDY_EVERY_S: Final = 3600
FORGET_DESTINATION_S: Final = 86_400
PROVEN_KEPT: Final = 10_000  # destinations that took the last that was sent there; 200 octets each


class IsHeld(Protocol):
    """Whether the lease is certainly still ours."""

    def __call__(self) -> bool: ...


class Runner:
    """The queue's work of one process; `run` under the lease, `wake` and `hear` from anywhere in its loop."""

    def __init__(
        self,
        store: Store,
        *,
        schedule: Schedule,
        attempts: Attempts,
        late: LateDeliveries,
        reporter: Reporter,
        connections: int,
        connections_per_destination: int,
        random: Callable[[], float],
        is_held: IsHeld,
        share: Share = WHOLE,
    ) -> None:
        self._store = store
        self._share = share
        self._schedule = schedule
        self._attempts = attempts
        self._late = late
        self._reporter = reporter
        self._connections = connections
        self._per_destination = connections_per_destination
        self._random = random
        self._is_held = is_held
        self._fence: Fence
        self._active: Counter[str] = Counter()
        self._after_account: dict[str, int] = {}
        self._served: dict[str, int] = {}  # turn in which a destination was last served
        self._well_at: dict[str, int] = {}  # when it was last noted that a destination takes mail
        self._proven: OrderedDict[str, None] = OrderedDict()  # destinations that take mail, the latest last
        # a quarter is left to those that are known to take mail
        self._unproven_most = max(1, connections * 3 // 4)
        self._unwritten = 0  # settlings that the disk has refused, and that are tried again
        self._turn = 0
        self._is_waiting = False  # somebody waits for a place
        self._is_stopping = False
        self._is_resting = False
        self._is_looking = False
        self._is_reporting = False
        self._lost: Exception | None = None  # why the run must end
        self._woken = asyncio.Event()
        self._owes = asyncio.Event()  # reports, perhaps
        self._deliverers: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Future[None]] = set()

    def hear(self, hints: list[Hint]) -> None:
        """The store has changed; to be subscribed to its hints."""
        for hint in hints:
            if hint.account_id == NEWS or hint == ANYTHING:
                self.wake()
                return

    def wake(self) -> None:
        """Ask the store again now."""
        self._woken.set()
        self._owes.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nobody has called for it."""
        is_called = self._woken.is_set() or self._owes.is_set()
        return not (is_called or self._deliverers or self._settling or self._is_looking or self._is_reporting)

    async def run(self, fence: Fence) -> None:
        """Work until cancelled.

        Raises:
            LeaseLost: another process does it now.
            Exception: what was sent cannot be written down; the next run takes it back.
        """
        self._fence = fence
        self._is_stopping = self._is_resting = False
        self._lost = None
        self.wake()
        taken = await self._write(outbox.take_over, fence, self._share)
        if taken:
            log.event("queue.taken_over", rows=taken)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatch(), name="queue dispatch")
                group.create_task(self._report(), name="queue reports")
                group.create_task(self._tidy(), name="queue tidy")
        finally:
            await self._end_deliverers()

    async def _end_deliverers(self) -> None:
        """Transactions under way end by themselves, so that nothing is sent twice; the rest is cut."""
        self._is_stopping = True
        try:
            if self._deliverers:
                await asyncio.wait(self._deliverers, timeout=STOP_S)
        finally:
            for task in self._deliverers:
                task.cancel()
            if under_way := self._deliverers | self._settling:
                await asyncio.wait(under_way, timeout=SETTLE_STOP_S)
            for settling in self._settling:
                settling.cancel()

    async def _dispatch(self) -> None:
        while True:
            self._woken.clear()
            if self._lost is not None:
                raise self._lost
            self._is_looking = True
            try:
                wait_s = await self._start_due()
            except TryLater as error:
                log.event("queue.later", reason=error.reason)
                wait_s = RESTS_S
                self._rest()
            finally:
                self._is_looking = False
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def _report(self) -> None:
        while True:
            self._owes.clear()
            self._is_reporting = True
            try:
                await self._reporter.make_due(self._fence)
            except TryLater as error:
                log.event("queue.later", reason=error.reason)
                await asyncio.sleep(RESTS_S)
            finally:
                self._is_reporting = False
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY_S):
                    await self._owes.wait()

    def _rest(self) -> None:
        """Begin nothing for a while."""
        if not self._is_resting:
            self._is_resting = True
            asyncio.get_running_loop().call_later(RESTS_S, self._go_on)

    def _go_on(self) -> None:
        self._is_resting = False
        self._woken.set()

    async def _start_due(self) -> float:
        """Give each destination that is due a deliverer; for how long nothing else will be due."""
        if self._is_resting or not self._may_begin:
            return ASK_EVERY_S
        now = int(clock.now_s())
        limit = len(self._active) + DESTINATIONS_A_LOOK
        found = await self._store.read(0, outbox.due_destinations, now, limit, self._share)
        # also one more for a destination that has some: those may be held up by a slow server or a large message
        names = [name for name in found if self._active[name] < self._most(name)]
        # stable: among equals the longest waiting first
        names.sort(key=lambda name: (self._active[name], self._served.get(name, 0)))
        self._is_waiting = False
        for name in names:
            if self._is_waiting and not self._is_proven(name):
                continue
            if not self._start(name):
                self._is_waiting = True
                if len(self._deliverers) >= self._connections:
                    break
        if self._is_waiting:
            return ASK_EVERY_S  # whoever ends makes room, and wakes us
        if len(found) == limit or any(self._active[name] < self._most(name) for name in names):
            return LOOK_AGAIN_S
        # who is due now has all its deliverers, whose ends wake us
        due_at = await self._store.read(0, outbox.next_due_at, now, self._share)
        return ASK_EVERY_S if due_at is None else min(ASK_EVERY_S, max(LOOK_AGAIN_S, due_at - clock.now_s()))

    @property
    def _may_begin(self) -> bool:
        """Whether a further transaction may be begun."""
        return not (self._is_stopping or self._unwritten) and self._is_held()

    def _is_proven(self, name: str) -> bool:
        return name == LOCAL or name in self._proven

    def _most(self, name: str) -> int:
        return self._per_destination if name in self._proven else 1

    def _has_place(self, name: str) -> bool:
        if len(self._deliverers) >= self._connections:
            return False
        if self._is_proven(name) or len(self._deliverers) < self._unproven_most:
            return True
        return sum(n for other, n in self._active.items() if not self._is_proven(other)) < self._unproven_most

    def _note_answer(self, name: str, outcome: Outcome) -> None:
        """Remember whether the destination takes mail."""
        ends = {fate.end for fate in outcome.fates if fate is not None}
        if End.DELIVERED in ends:
            if name not in self._proven:
                self._woken.set()  # it may have more deliverers now
            self._proven[name] = None
            self._proven.move_to_end(name)
            if len(self._proven) > PROVEN_KEPT:
                self._proven.popitem(last=False)
        elif ends == {End.DEFERRED}:
            self._proven.pop(name, None)

    def _start(self, name: str) -> bool:
        """A further deliverer for the destination, if there is a place."""
        if self._is_resting or not self._may_begin or not self._has_place(name):
            return False
        if self._active[name] >= self._most(name):
            return False
        self._active[name] += 1
        task = asyncio.get_running_loop().create_task(self._deliver(name), name=f"deliver {name}")
        self._deliverers.add(task)
        task.add_done_callback(self._end_of_deliverer)
        return True

    def _end_of_deliverer(self, task: "asyncio.Task[None]") -> None:
        self._deliverers.discard(task)
        self.wake()
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LeaseLost):
            self._lost = error
        elif isinstance(error, TryLater):
            log.event("queue.later", reason=error.reason)
            self._rest()
        elif error is not None and error is not self._lost:
            report_bug(error)
            self._rest()

    async def _deliver(self, name: str) -> None:
        try:
            async with self._attempts.connection() as sender:
                for _ in range(CLAIMS_A_TURN):
                    if not self._may_begin:
                        return
                    claim = await self._claim(name)
                    if not claim.recipients:
                        return
                    self._turn += 1
                    self._served[name] = self._turn
                    if name == LOCAL:
                        await self._deliver_late(claim)
                        continue
                    unreached = await self._send_all(name, claim, sender.attempt)
                    if unreached is not None and self._active[name] == 1:
                        await self._defer_due(name, unreached)
                    if unreached is not None or self._is_waiting:
                        return
        finally:
            self._active[name] -= 1
            if not self._active[name]:
                del self._active[name]

    async def _claim(self, name: str) -> Claim:
        after = self._after_account.get(name, -1)
        claim = await self._write(
            outbox.claim, self._fence, name, after, int(clock.now_s()), CLAIM_ACCOUNTS, CLAIM_ROWS, durable=False
        )
        if claim.recipients:
            self._after_account[name] = claim.after_account
        else:
            self._after_account.pop(name, None)
            self._served.pop(name, None)
            self._well_at.pop(name, None)
        return claim

    async def _deliver_late(self, claim: Claim) -> None:
        is_done = False
        try:
            await self._late.deliver(self._fence, claim)
            is_done = True
        finally:
            if not is_done:  # those that were settled are claimed no more, and stay as they are
                await self._all_of([self._give_back(LOCAL, claim.recipients)])

    async def _send_all(
        self, name: str, claim: Claim, attempt: Callable[[Job], Coroutine[Any, Any, Outcome]]
    ) -> Fate | None:
        """Send what was claimed; how it went where the destination could not be reached, and the rest was given back.

        What is settled is written behind the back of the next transaction, never later: a third is not begun before.
        """
        jobs = deque(jobs_of(claim))
        settling: list[asyncio.Future[None]] = []
        wants_help = len(claim.recipients) >= CLAIM_ROWS
        unreached: Fate | None = None
        try:
            while jobs and unreached is None:
                await self._all_of(settling[:-1])
                del settling[:-1]
                if not self._may_begin:
                    break
                outcome = await attempt(jobs[0])
                failures = 0
                if outcome.is_reached is False:
                    unreached = next(fate for fate in outcome.fates if fate is not None)
                    failures = await self._store.read(0, outbox.failures_of, name)
                job, rest = _parted(jobs.popleft(), outcome)
                if rest.recipients:
                    jobs.appendleft(rest)
                settling.append(self._settle(name, job, outcome, failures))
                self._note_answer(name, outcome)
                if wants_help and unreached is None:
                    wants_help = False
                    self._start(name)
        finally:
            if jobs:
                settling.append(self._give_back(name, [one for job in jobs for one in job.recipients]))
            await self._all_of(settling)
        return unreached

    def _give_back(self, name: str, recipients: Iterable[Recipient]) -> "asyncio.Future[None]":
        keys = [(one.outgoing_id, one.n) for one in recipients]
        return self._surely(outbox.unclaim, self._fence, keys, name, int(clock.now_s()))

    async def _defer_due(self, name: str, fate: Fate) -> None:
        """What else is due at a destination that nobody could reach just now has the fate of the one that was tried.

        So each message keeps its own schedule, is told of and given up in time; tried one by one, thousands of them
        would outlast their days at one attempt for each back-off.
        """
        while self._may_begin:
            claim = await self._claim(name)
            if not claim.recipients:
                return
            failures = await self._store.read(0, outbox.failures_of, name)
            settling = [
                self._settle(name, job, Outcome((fate,) * len(job.recipients), False), failures)
                for job in jobs_of(claim)
            ]
            await self._all_of(settling)

    @staticmethod
    async def _all_of(settling: "Sequence[asyncio.Future[None]]") -> None:
        """Wait for what is written down; cut off ourselves, we leave it to go on (`gather` would end it)."""
        if settling:
            await asyncio.wait(settling)
        for one in settling:
            one.result()

    def _settle(self, name: str, job: Job, outcome: Outcome, failures: int) -> "asyncio.Future[None]":
        now = int(clock.now_s())
        settled: list[Settled] = []
        fates = [fate for fate in outcome.fates if fate is not None]
        for one, fate in zip(job.recipients, fates, strict=True):
            random = self._random() if fate.end is End.DEFERRED else 0.0  # 8 us of the system's
            found = settle(self._schedule, job.message, one, fate, now=now, random=random)
            settled.append(found)
            log.event(
                "queue.attempt",
                outcome=found.step.kind,
                outgoing=job.message.id,
                id=job.message.name or None,
                to=f"<{one.address}>",
                sender=f"<{job.message.reverse_path}>",
                host=fate.host,
                tls=fate.tls or None,
                reply=fate.line,
                attempt=one.attempts + 1,
            )
        reached = self._reached(name, outcome, fates[-1], now, failures)
        return self._surely(
            outbox.settle, self._fence, name, tuple(settled), reached, plain=(self._fence, name, _plain(settled), None)
        )

    def _reached(self, name: str, outcome: Outcome, last: Fate, now: int, failures: int) -> Reached | None:
        """What is noted of the destination; None: nobody was asked, or it is as the last note of this second says."""
        if outcome.is_reached is None:
            return None
        until = 0 if outcome.is_reached else now + back_off(failures + 1, self._random())
        is_well = not until and last.end is End.DELIVERED
        if is_well and self._well_at.get(name) == now:
            return None
        if is_well:
            self._well_at[name] = now
        else:
            self._well_at.pop(name, None)
        return Reached(name, now, last.host, last.line, until)

    def _write(self, fn: Callable[[Tx, *Args], Result], *args: *Args, durable: bool = True) -> "asyncio.Future[Result]":
        """Queue a write now. A lane with no room for it says `TryLater`, as a full disk does."""
        try:
            return self._store.write(0, fn, *args, durable=durable)
        except RuntimeError as error:
            full: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            full.set_exception(TryLater(str(error)))
            return full

    def _surely(
        self, fn: Callable[[Tx, *Args], None], *args: *Args, plain: tuple[*Args] | None = None
    ) -> "asyncio.Future[None]":
        """Write, and write again while the disk is full: a delivery that is not settled would be made twice.

        `plain`: written instead where a bug of ours keeps it from being written.
        """
        first = self._write(fn, *args)  # queued now: between the reply and this nothing else happens
        made = asyncio.ensure_future(self._until_written(first, fn, args, plain))
        self._settling.add(made)
        made.add_done_callback(self._end_of_settling)
        return made

    async def _until_written(
        self,
        writing: "asyncio.Future[None]",
        fn: Callable[[Tx, *Args], None],
        args: tuple[*Args],
        plain: tuple[*Args] | None,
    ) -> None:
        is_counted = False
        try:
            while True:
                try:
                    return await writing
                except TryLater as error:
                    if not is_counted:
                        is_counted = True
                        self._unwritten += 1
                    log.event("queue.later", reason=error.reason)
                    await asyncio.sleep(SETTLE_AGAIN_S)
                except LeaseLost:
                    raise
                # nobody looks at a claimed row again in this run, and sent again it would be a delivery too many
                except Exception as error:
                    if plain is None:
                        raise
                    report_bug(error)
                    args, plain = plain, None
                writing = self._write(fn, *args)
        finally:
            if is_counted:
                self._unwritten -= 1
                self._woken.set()

    def _end_of_settling(self, made: "asyncio.Future[None]") -> None:
        self._settling.discard(made)
        self._owes.set()
        if not made.cancelled() and isinstance(error := made.exception(), Exception):
            self._lost = error
            self._woken.set()

    async def _tidy(self) -> None:
        while True:
            cutoff = int(clock.now_s()) - FORGET_DESTINATION_S
            with suppress(TryLater):
                while await self._write(outbox.forget_destinations, cutoff) == outbox.FORGOTTEN_AT_ONCE:
                    pass
            await asyncio.sleep(TIDY_EVERY_S)


def _plain(settled: Sequence[Settled]) -> tuple[Settled, ...]:
    """The same ends without what others have said."""
    return tuple(
        one._replace(host="", reply=one.reply[:3], step=record.step(one.at, one.step.kind, one.step.recipient))
        for one in settled
    )


def _parted(job: Job, outcome: Outcome) -> tuple[Job, Job]:
    """The job as far as it was decided, and the rest."""
    done = tuple(one for one, fate in zip(job.recipients, outcome.fates, strict=True) if fate is not None)
    rest = tuple(one for one, fate in zip(job.recipients, outcome.fates, strict=True) if fate is None)
    return Job(job.message, done), Job(job.message, rest)
