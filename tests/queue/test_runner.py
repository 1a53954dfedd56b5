"""The runner over a real store, with attempts that the test decides over: what is written down, and when."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

import pytest

from pochta import clock, log
from pochta.errors import TryLater
from pochta.net import connection
from pochta.proto.smtp.replies import Reply
from pochta.queue import runner as module
from pochta.queue.attempt import Attempts, Job, Outcome
from pochta.queue.late import LateDeliveries
from pochta.queue.reports import Reporter
from pochta.queue.runner import Runner
from pochta.queue.schedule import Schedule
from pochta.queue.settling import End, Fate
from pochta.store import arrivals, check, leases, outbox, setup, shares
from pochta.store.arrivals import Arrival
from pochta.store.blobs import NewBlob
from pochta.store.invariants import Severity
from pochta.store.leases import Fence, LeaseLost
from pochta.store.messages import NewMessage
from pochta.store.outbox import Claim, NewOutgoing, NewRecipient
from pochta.store.store import Store
from pochta.store.trails import NewTrail
from pochta.store.tx import Row, Tx

NOW = 1_750_000_000
OK, LATER = Fate(End.DELIVERED, Reply(250, "2.0.0", "ok"), "mx"), Fate(End.DEFERRED, Reply(451, "", "no"), "mx")


def all_of(job: Job, fate: Fate, *, is_reached: bool = True) -> Outcome:
    return Outcome((fate,) * len(job.recipients), is_reached)


class Fakes:
    """Attempts, late deliveries and reports; `attempt` is the test's."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []
        self.looks = 0
        self.attempt_of: Callable[[Job], Awaitable[Outcome]] = self.deliver
        self.late: Callable[[Claim], Awaitable[None]] = self.nothing
        self.report: Callable[[], Awaitable[None]] = self.nothing_to_report

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Self]:
        yield self

    async def attempt(self, job: Job) -> Outcome:
        self.jobs.append([one.address for one in job.recipients])
        return await self.attempt_of(job)

    async def deliver(self, job: Job) -> Outcome:
        return all_of(job, OK)

    async def nothing(self, claim: Claim) -> None:
        pass

    async def nothing_to_report(self) -> None:
        pass

    async def make_due(self, fence: Fence) -> None:
        self.looks += 1
        await self.report()


class LateFake:
    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    async def deliver(self, fence: Fence, claim: Claim) -> None:
        await self.fakes.late(claim)


class FlakyStore:
    """A store whose disk is full for the functions that `fails` counts; `calls` counts them all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fails: Counter[Any] = Counter()
        self.bugs: Counter[Any] = Counter()
        self.is_lane_full = False
        self.calls: Counter[Any] = Counter()

    def write(self, account_id: int, fn: Any, *args: Any, durable: bool = True) -> "asyncio.Future[Any]":
        self.calls[fn] += 1
        if self.is_lane_full:
            raise RuntimeError("the write lane is full")
        if self.bugs[fn]:
            self.bugs[fn] -= 1
            met: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            met.set_exception(ValueError("a bug"))
            return met
        if self.fails[fn]:
            self.fails[fn] -= 1
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(TryLater("the disk is full", retry_s=1))
            return failed
        return self._store.write(account_id, fn, *args, durable=durable)

    async def read(self, account_id: int, fn: Any, *args: Any) -> Any:
        return await self._store.read(account_id, fn, *args)


class Rig:
    running: asyncio.Task[None]

    def __init__(self, store: Store, fence: Fence) -> None:
        self.store = store
        self.fence = fence
        self.flaky = FlakyStore(store)
        self.fakes = Fakes()
        self.is_held = True
        self.runner = Runner(
            cast(Store, self.flaky),
            schedule=Schedule(jitter=0.0),
            attempts=cast(Attempts, self.fakes),
            late=cast(LateDeliveries, LateFake(self.fakes)),
            reporter=cast(Reporter, self.fakes),
            connections=4,
            connections_per_destination=2,
            random=lambda: 0.5,
            is_held=lambda: self.is_held,
        )
        store.subscribe(self.runner.hear)

    async def accept(self, *addresses: str, destination: str = "x.test") -> None:
        new = NewOutgoing(
            account_id=0, origin="smtp", reverse_path="", report_to="", envelope_id=None, returns=None, body="7bit",
            is_smtputf8=False, requires_tls=False, may_bounce=False, priority=0, deliver_by_at=None,
            deliver_by_mode=None, not_before=0, recipients=tuple(NewRecipient(destination, one) for one in addresses),
        )  # fmt: skip
        arrival = Arrival(NewTrail("t", "", "", (), "{}"), (), (new,), new)
        await self.store.write(0, arrivals.accept, arrival, message(), int(clock.now_s()))

    async def states(self) -> list[Row]:
        return await self.store.read(0, _states)

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not check():  # noqa: ASYNC110 - a condition over several objects, in a test
                await asyncio.sleep(0.001)

    async def idle(self) -> None:
        await self.until(lambda: self.runner.is_idle)


def message() -> NewMessage:
    return NewMessage(
        blob=NewBlob(3, b"abc", None), header_size=1, received_at=NOW, sent_at=None, sent_day=None, ref_hashes=(),
        subject_hash=1, base_subject="", from_key="", to_key="", cc_key="", preview="", envelope=b"x",
        body_structure=b"x", header_core=b"", derived_version=1,
    )  # fmt: skip


def _states(tx: Tx) -> list[Row]:
    return tx.rows("SELECT address, state, attempts FROM outgoing_recipient ORDER BY outgoing_id, n")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Run a test with the runner at work; afterwards the store is sound."""
    monkeypatch.setattr(module, "SETTLE_AGAIN_S", 0.001)
    monkeypatch.setattr(module, "STOP_S", 0.05)

    def run_it(test: Callable[[Rig], Awaitable[None]]) -> None:
        async def work() -> None:
            store = Store(tmp_path / "data")
            store.start(hears_hints=False)
            number = await store.write(0, leases.acquire, shares.LEASE, "t", NOW, 1 << 40)
            assert number is not None
            rig = Rig(store, Fence(shares.LEASE, number))
            rig.running = running = asyncio.create_task(rig.runner.run(rig.fence))
            try:
                async with asyncio.timeout(20):
                    await rig.until(lambda: rig.fakes.looks > 0)
                    await rig.idle()
                    await test(rig)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await store.close()

        setup.create(tmp_path / "data", is_throwaway=True)
        before = log.set_sink(lambda line: None)
        try:
            asyncio.run(work())
        finally:
            log.set_sink(before)
        assert [one for one in check.check(tmp_path / "data") if one.severity is Severity.ERROR] == []

    return run_it


Run = Callable[[Callable[[Rig], Awaitable[None]]], None]


def test_what_is_due_is_sent_and_gone(run: Run) -> None:
    async def test(rig: Rig) -> None:
        await rig.accept("b@x.test", "c@x.test")
        await rig.until(lambda: rig.fakes.jobs != [])
        await rig.idle()
        assert rig.fakes.jobs == [["b@x.test", "c@x.test"]]
        assert await rig.states() == []

    run(test)


def test_each_transaction_is_settled_before_the_next_begins(run: Run) -> None:
    async def test(rig: Rig) -> None:
        async def one_by_one(job: Job) -> Outcome:
            return Outcome((OK, *(None for _ in job.recipients[1:])), True)

        rig.fakes.attempt_of = one_by_one
        await rig.accept("b@x.test", "c@x.test", "d@x.test")
        await rig.until(lambda: len(rig.fakes.jobs) == 3)
        await rig.idle()
        assert rig.fakes.jobs == [["b@x.test", "c@x.test", "d@x.test"], ["c@x.test", "d@x.test"], ["d@x.test"]]
        assert rig.flaky.calls[outbox.settle] == 3
        assert await rig.states() == []

    run(test)


def test_a_settling_is_written_until_the_disk_takes_it(run: Run) -> None:
    async def test(rig: Rig) -> None:
        rig.flaky.fails[outbox.settle] = 5
        await rig.accept("b@x.test")
        await rig.until(lambda: rig.flaky.calls[outbox.settle] == 6)
        await rig.idle()
        assert len(rig.fakes.jobs) == 1
        assert await rig.states() == []

    run(test)


def test_what_was_sent_is_settled_when_the_server_stops(run: Run) -> None:
    async def test(rig: Rig) -> None:
        stuck = asyncio.Event()

        async def second_hangs(job: Job) -> Outcome:
            if len(rig.fakes.jobs) == 2:
                stuck.set()
                await asyncio.Event().wait()
            return all_of(job, OK)

        rig.fakes.attempt_of = second_hangs
        rig.flaky.fails[outbox.settle] = 30  # the first is being written still when we are cancelled
        await rig.accept("b@x.test")
        await rig.accept("c@x.test")
        await rig.until(stuck.is_set)
        stopped = asyncio.create_task(rig.runner._end_deliverers())
        await stopped
        assert await rig.states() == [("c@x.test", 0, 0)]  # given back, and not said to be tried

    run(test)


def test_a_destination_out_of_reach_is_backed_off_and_all_of_it_waits(run: Run) -> None:
    async def test(rig: Rig) -> None:
        async def unreachable(job: Job) -> Outcome:
            return all_of(job, LATER, is_reached=False)

        rig.fakes.attempt_of = unreachable
        for n in range(15):
            await rig.accept(f"b{n}@x.test")
        await rig.until(lambda: rig.fakes.jobs != [])
        await rig.idle()
        assert {row[1] for row in await rig.states()} == {0}
        assert await rig.store.read(0, outbox.failures_of, "x.test") == 1
        assert len(rig.fakes.jobs) <= 4

    run(test)


def test_a_full_disk_does_not_make_claims_spin(run: Run) -> None:
    async def test(rig: Rig) -> None:
        rig.flaky.fails[outbox.claim] = 1000
        await rig.accept("b@x.test")
        await rig.until(lambda: rig.flaky.calls[outbox.claim] > 0)
        for _ in range(50):
            rig.runner.wake()
            await asyncio.sleep(0.001)
        assert rig.flaky.calls[outbox.claim] <= 4
        assert await rig.states() == [("b@x.test", 0, 0)]

    run(test)


def test_late_deliveries_that_meet_a_bug_are_claimed_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", bugs.append)

    async def test(rig: Rig) -> None:
        async def fails(claim: Claim) -> None:
            raise ValueError("a bug")

        rig.fakes.late = fails
        await rig.accept("b@us.test", "c@us.test", destination=outbox.LOCAL)
        await rig.until(lambda: bugs != [])
        for _ in range(20):
            rig.runner.wake()
            await asyncio.sleep(0.001)
        assert [row[1] for row in await rig.states()] == [0, 0]
        assert len(bugs) == 1  # it rests

    run(test)


def test_a_lost_lease_ends_the_work(run: Run) -> None:
    async def test(rig: Rig) -> None:
        await rig.store.write(0, leases.acquire, shares.LEASE, "t", NOW, 1 << 40)
        await rig.accept("b@x.test")
        with pytest.raises(BaseExceptionGroup) as caught:
            await rig.running
        assert caught.value.subgroup(LeaseLost) is not None
        assert rig.fakes.jobs == []

    run(test)


def test_nothing_is_begun_while_the_lease_is_in_doubt(run: Run) -> None:
    async def test(rig: Rig) -> None:
        rig.is_held = False
        await rig.accept("b@x.test")
        for _ in range(20):
            rig.runner.wake()
            await asyncio.sleep(0.001)
        assert rig.fakes.jobs == []
        assert rig.flaky.calls[outbox.claim] == 0

    run(test)


def test_reports_do_not_hold_up_deliveries(run: Run) -> None:
    async def test(rig: Rig) -> None:
        never = asyncio.Event()

        async def hangs() -> None:
            with suppress(asyncio.CancelledError):
                await never.wait()
                return
            raise asyncio.CancelledError

        rig.fakes.report = hangs
        rig.runner.wake()
        await rig.accept("b@x.test")
        await rig.until(lambda: rig.fakes.jobs != [])

    run(test)


def test_names_that_were_served_are_not_kept(run: Run) -> None:
    async def test(rig: Rig) -> None:
        for n in range(5):
            await rig.accept("b@x.test", destination=f"x{n}.test")
        await rig.until(lambda: len(rig.fakes.jobs) == 5)
        await rig.idle()
        assert rig.runner._served == {}
        assert rig.runner._after_account == {}

    run(test)


def test_nothing_more_is_sent_while_what_was_sent_cannot_be_written(run: Run) -> None:
    async def test(rig: Rig) -> None:
        async def with_a_turn(job: Job) -> Outcome:
            await asyncio.sleep(0)
            return all_of(job, OK)

        rig.fakes.attempt_of = with_a_turn
        rig.flaky.fails[outbox.settle] = 1 << 30
        for n in range(30):
            await rig.accept(f"b{n}@x.test")
        await rig.until(lambda: rig.flaky.calls[outbox.settle] > 20)
        await rig.accept("c@y.test", destination="y.test")
        rig.runner.wake()
        await rig.until(lambda: rig.flaky.calls[outbox.settle] > 60)
        assert 1 <= len(rig.fakes.jobs) <= 2
        rig.flaky.fails.clear()
        await rig.until(lambda: len(rig.fakes.jobs) == 31)
        await rig.idle()
        assert len({job[0] for job in rig.fakes.jobs}) == 31
        assert await rig.states() == []

    run(test)


def test_a_full_lane_loses_no_settling(run: Run) -> None:
    async def test(rig: Rig) -> None:
        async def fills_the_lane(job: Job) -> Outcome:
            rig.flaky.is_lane_full = True
            return all_of(job, OK)

        rig.fakes.attempt_of = fills_the_lane
        await rig.accept("b@x.test")
        await rig.until(lambda: rig.flaky.calls[outbox.settle] > 2)
        rig.flaky.is_lane_full = False
        await rig.until(lambda: rig.runner.is_idle)
        assert len(rig.fakes.jobs) == 1
        assert await rig.states() == []

    run(test)


def test_what_a_bug_keeps_from_being_written_is_written_plainly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", bugs.append)

    async def test(rig: Rig) -> None:
        rig.flaky.bugs[outbox.settle] = 1
        await rig.accept("b@x.test")
        await rig.until(lambda: bugs != [])
        await rig.idle()
        assert len(rig.fakes.jobs) == 1
        assert await rig.states() == []

    run(test)


def test_what_cannot_be_written_at_all_ends_the_run_and_the_next_mends_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "on_bug", lambda error: None)

    async def test(rig: Rig) -> None:
        rig.flaky.bugs[outbox.settle] = 2
        await rig.accept("b@x.test")
        with pytest.raises(BaseExceptionGroup) as caught:
            await rig.running
        assert caught.value.subgroup(ValueError) is not None
        assert [row[1] for row in await rig.states()] == [1]
        again = asyncio.create_task(rig.runner.run(rig.fence))
        await rig.until(lambda: len(rig.fakes.jobs) == 2)
        await rig.idle()
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        assert await rig.states() == []

    run(test)


def test_a_destination_gets_a_second_deliverer_once_it_has_taken_something(run: Run) -> None:
    async def test(rig: Rig) -> None:
        goes_on = asyncio.Event()

        async def held(job: Job) -> Outcome:
            if len(rig.fakes.jobs) > 1:
                await goes_on.wait()
            elif rig.runner._active["x.test"]:
                await first.wait()
            return all_of(job, OK)

        first = asyncio.Event()
        rig.fakes.attempt_of = held
        for n in range(30):
            await rig.accept(f"b{n}@x.test")
        await rig.until(lambda: len(rig.fakes.jobs) == 1)
        for _ in range(50):
            rig.runner.wake()
            await asyncio.sleep(0.001)
        assert rig.runner._active["x.test"] == 1
        first.set()
        await rig.until(lambda: rig.runner._active["x.test"] == 2)
        goes_on.set()
        await rig.until(lambda: rig.runner.is_idle)
        assert await rig.states() == []

    run(test)


def test_destinations_that_hold_us_up_leave_places_to_those_that_take_mail(run: Run) -> None:
    async def test(rig: Rig) -> None:
        goes_on = asyncio.Event()

        async def tarpit(job: Job) -> Outcome:
            if job.recipients[0].destination != "good.test":
                await goes_on.wait()
            return all_of(job, OK)

        rig.fakes.attempt_of = tarpit
        await rig.accept("a@good.test", destination="good.test")
        await rig.until(lambda: rig.fakes.jobs != [])
        await rig.idle()
        for n in range(8):
            await rig.accept(f"b@h{n}.test", destination=f"h{n}.test")
        await rig.until(lambda: len(rig.fakes.jobs) == 4)
        await rig.accept("b@good.test", destination="good.test")
        await rig.until(lambda: ["b@good.test"] in rig.fakes.jobs)
        assert len(rig.runner._deliverers) <= 4
        goes_on.set()
        await rig.until(lambda: rig.runner.is_idle)

    run(test)
