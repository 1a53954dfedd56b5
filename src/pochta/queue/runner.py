"""The runner: one process at a time takes what is due out of the store, has it sent, and writes down what came of it.

Theory of operation
-------------------
`run(fence)` is work under the lease `outbox.LEASE`. The dispatcher asks the store which destinations are due and gives
each a *deliverer*, as long as there are free connections. A deliverer claims a few recipients (in turn for each
sender), has them sent one message after the other over one connection, settles each, and claims again; when its
destination has nobody due, or others wait for its place, it ends. A destination that goes well gets more deliverers,
one for each full claim, up to its limit; one that cannot be reached is left with none until its back-off ends.

What may be lost: nothing. A claim is a state of a row; a dead runner's claims are taken back by `take_over`. What may
happen twice: a server has said 250, and we die before the settling is durable. Nothing else lies between the two: the
settling is queued in the very step that has read the reply, and is one durable commit (shared with others). A runner
that has lost its lease without knowing (a machine that slept) begins no further transaction: `is_held` is asked first.

Time is `clock.now_s`; sleeping is only a way not to ask the store all the time, and `wake` ends it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVarTuple

from pochta import clock, log
from pochta.errors import TryLater
from pochta.net.connection import report_bug
from pochta.queue.attempt import Attempts, Job, Outcome, jobs_of
from pochta.queue.late import LateDeliveries
from pochta.queue.reports import Reporter
from pochta.queue.schedule import Schedule, back_off
from pochta.queue.settling import settle
from pochta.store import outbox
from pochta.store.hints import ANYTHING
from pochta.store.leases import Fence, LeaseLost
from pochta.store.outbox import LOCAL, NEWS, Claim, Reached, Settled
from pochta.store.store import Store
from pochta.store.tx import Hint, Tx

Args = TypeVarTuple("Args")

DESTINATIONS_A_LOOK: Final = 200  # that are asked for beside those under way
CLAIM_ACCOUNTS: Final = 10  # senders that one claim serves
CLAIM_ROWS: Final = 10  # recipients of each of them; 100 rows are claimed in about 3 ms of the lane
CLAIMS_A_TURN: Final = 5  # after which a deliverer gives its place to a destination that waits
ASK_EVERY_S: Final = 5.0  # a lost hint costs so much at the most
SETTLE_AGAIN_S: Final = 5.0
STOP_S: Final = 20.0  # for transactions under way to end when the server stops; the supervisor waits 30
TIDY_EVERY_S: Final = 3600
FORGET_DESTINATION_S: Final = 86_400


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
    ) -> None:
        self._store = store
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
        self._turn = 0
        self._is_waiting = False  # somebody waits for a place
        self._is_stopping = False
        self._woken = asyncio.Event()
        self._deliverers: set[asyncio.Task[None]] = set()

    def hear(self, hints: list[Hint]) -> None:
        """The store has changed; to be subscribed to its hints."""
        for hint in hints:
            if hint.account_id == NEWS or hint == ANYTHING:
                self._woken.set()
                return

    def wake(self) -> None:
        """Ask the store again now."""
        self._woken.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nobody has called for it."""
        return not self._deliverers and not self._woken.is_set()

    async def run(self, fence: Fence) -> None:
        """Work until cancelled.

        Raises:
            LeaseLost: another process does it now.
        """
        self._fence = fence
        self._is_stopping = False
        self._woken.set()
        taken = await self._store.write(0, outbox.take_over, fence, int(clock.now_s()))
        if taken:
            log.event("queue.taken_over", rows=taken)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatch(), name="queue dispatch")
                group.create_task(self._tidy(), name="queue tidy")
        finally:
            await self._end_deliverers()

    async def _end_deliverers(self) -> None:
        """Transactions under way end by themselves, so that nothing is sent twice; the rest is cut."""
        self._is_stopping = True
        if self._deliverers:
            await asyncio.wait(self._deliverers, timeout=STOP_S)
        for task in self._deliverers:
            task.cancel()
        await asyncio.gather(*self._deliverers, return_exceptions=True)

    async def _dispatch(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._reporter.make_due(self._fence)
                await self._start_due()
                wait_s = await self._until_due()
            except TryLater as error:
                log.event("queue.later", reason=error.reason)
                wait_s = ASK_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def _until_due(self) -> float:
        """How long nothing will be due, ASK_EVERY_S at the most."""
        due_at = await self._store.read(0, outbox.next_due_at)
        if due_at is None or (self._is_waiting and self._deliverers):
            return ASK_EVERY_S
        return min(ASK_EVERY_S, max(0.05, due_at - clock.now_s()))

    async def _start_due(self) -> None:
        now = int(clock.now_s())
        limit = len(self._active) + DESTINATIONS_A_LOOK
        names = await self._store.read(0, outbox.due_destinations, now, limit)
        names = [name for name in names if not self._active[name]]
        names.sort(key=lambda name: self._served.get(name, 0))  # stable: among equals the longest waiting first
        self._is_waiting = False
        for name in names:
            if not self._start(name):
                self._is_waiting = True
                return

    def _start(self, name: str) -> bool:
        """A further deliverer for the destination, if there is a place."""
        if self._is_stopping or len(self._deliverers) >= self._connections:
            return False
        if self._active[name] >= (1 if name == LOCAL else self._per_destination):
            return False
        self._active[name] += 1
        task = asyncio.get_running_loop().create_task(self._deliver(name), name=f"deliver {name}")
        self._deliverers.add(task)
        task.add_done_callback(self._end_of_deliverer)
        return True

    def _end_of_deliverer(self, task: "asyncio.Task[None]") -> None:
        self._deliverers.discard(task)
        self._woken.set()
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TryLater):
            log.event("queue.later", reason=error.reason)
        elif error is not None and not isinstance(error, LeaseLost):
            report_bug(error)

    async def _deliver(self, name: str) -> None:
        try:
            async with self._attempts.connection() as sender:
                for _ in range(CLAIMS_A_TURN):
                    claim = await self._claim(name)
                    if not claim.recipients:
                        return
                    if len(claim.recipients) >= CLAIM_ROWS and name != LOCAL:
                        self._start(name)
                    if name == LOCAL:
                        await self._late.deliver(self._fence, claim)
                        continue
                    if not await self._send_all(name, claim, sender.attempt):
                        return
                    if self._is_waiting or self._is_stopping:
                        return
        finally:
            self._turn += 1
            self._served[name] = self._turn
            self._active[name] -= 1
            if not self._active[name]:
                del self._active[name]

    async def _claim(self, name: str) -> Claim:
        after = self._after_account.get(name, -1)
        claim = await self._store.write(
            0, outbox.claim, self._fence, name, after, int(clock.now_s()), CLAIM_ACCOUNTS, CLAIM_ROWS, durable=False
        )
        if claim.recipients:
            self._after_account[name] = claim.after_account
        else:
            self._after_account.pop(name, None)
            self._served.pop(name, None)
        return claim

    async def _send_all(self, name: str, claim: Claim, attempt: Callable[[Job], Coroutine[Any, Any, Outcome]]) -> bool:
        """Send what was claimed; False when the destination could not be reached, and the rest was given back.

        What is settled is written behind the back of the next message, never later.
        """
        jobs = jobs_of(claim)
        settling: list[asyncio.Future[None]] = []
        done = 0
        is_reached = True
        try:
            for job in jobs:
                if self._is_stopping or not self._is_held():
                    break
                outcome = await attempt(job)
                done += 1
                settling.append(self._settle(name, job, outcome, await self._failures(name, outcome)))
                if not outcome.is_reached:
                    is_reached = False
                    break
        finally:
            rest = [(one.outgoing_id, one.n) for job in jobs[done:] for one in job.recipients]
            if rest:
                settling.append(self._surely(outbox.unclaim, self._fence, rest, name, int(clock.now_s())))
            await asyncio.gather(*settling)
        return is_reached and done == len(jobs)

    async def _failures(self, name: str, outcome: Outcome) -> int:
        return 0 if outcome.is_reached else await self._store.read(0, outbox.failures_of, name)

    def _settle(self, name: str, job: Job, outcome: Outcome, failures: int) -> "asyncio.Future[None]":
        now = int(clock.now_s())
        settled: list[Settled] = []
        for one, fate in zip(job.recipients, outcome.fates, strict=True):
            found = settle(self._schedule, job.message, one, fate, now=now, random=self._random())
            settled.append(found)
            log.event(
                "queue.attempt",
                outcome=found.step.kind,
                outgoing=job.message.id,
                to=f"<{one.address}>",
                sender=f"<{job.message.reverse_path}>",
                host=fate.host,
                tls=fate.tls or None,
                reply=fate.line,
                attempt=one.attempts + 1,
            )
        last = outcome.fates[-1]
        until = 0 if outcome.is_reached else now + back_off(failures + 1, self._random())
        reached = Reached(name, now, last.host, last.line, until)
        return self._surely(outbox.settle, self._fence, name, tuple(settled), reached)

    def _surely(self, fn: Callable[[Tx, *Args], None], *args: *Args) -> "asyncio.Future[None]":
        """Write, and write again while the disk is full: a delivery that is not settled would be made twice."""
        first = self._store.write(0, fn, *args)  # queued now: between the reply and this nothing else happens

        async def until_done() -> None:
            writing = first
            while True:
                try:
                    return await writing
                except TryLater as error:
                    log.event("queue.later", reason=error.reason)
                    await asyncio.sleep(SETTLE_AGAIN_S)
                writing = self._store.write(0, fn, *args)

        return asyncio.ensure_future(until_done())

    async def _tidy(self) -> None:
        while True:
            cutoff = int(clock.now_s()) - FORGET_DESTINATION_S
            with suppress(TryLater):
                await self._store.write(0, outbox.forget_destinations, cutoff)
            await asyncio.sleep(TIDY_EVERY_S)
