"""Mail on its way out, on every backend: nobody is lost, nobody is sent to twice, nobody waits unseen (INV-9)."""

import random  # noqa: TID251 - a seeded walk of the test's own
from dataclasses import dataclass, field

import outbox_rig as rig
import pytest
from outbox_rig import accept, claim, destination, outgoing, reached, settled, to
from store_harness import NOW, Backend, counted, new_message

from pochta.store import arrivals, outbox, owed, queue_view, sending, trails
from pochta.store.leases import LeaseLost
from pochta.store.outbox import NEVER, NewRecipient, Owed, State
from pochta.store.shares import Share
from pochta.store.tx import Tx


def test_what_is_accepted_is_claimed_once_and_gone_when_it_is_delivered(backend: Backend) -> None:
    fence = rig.lease(backend)
    taken = accept(backend, outgoing(*to("b@x.test", "c@x.test", "d@y.test")))
    assert backend.read(0, outbox.due_destinations, NOW, 10) == ["x.test", "y.test"]
    got = claim(backend, fence, "x.test")
    assert rig.addresses(got) == ["b@x.test", "c@x.test"]
    assert got.messages[0].name == "t1"
    assert claim(backend, fence, "x.test").recipients == ()
    assert destination(backend, "x.test") == (NEVER, 0, 0)
    backend.write(0, outbox.settle, fence, "x.test", tuple(settled(one, None) for one in got.recipients), None)
    assert backend.query("SELECT address FROM outgoing_recipient") == [("d@y.test",)]
    backend.write(
        0, outbox.settle, fence, "y.test", (settled(claim(backend, fence, "y.test").recipients[0], None),), None
    )
    assert backend.query("SELECT count(*) FROM outgoing") == [(0,)]
    assert [one.recipient for one in backend.read(0, trails.steps, taken.trail_id)] == [
        "b@x.test",
        "c@x.test",
        "d@y.test",
    ]


def test_a_settling_that_is_written_twice_counts_once(backend: Backend) -> None:
    fence = rig.lease(backend)
    taken = accept(backend, outgoing(*to("b@x.test")))
    one = claim(backend, fence, "x.test").recipients[0]
    for _ in range(2):
        backend.write(0, outbox.settle, fence, "x.test", (settled(one, State.WAITING, next_at=NOW + 60),), None)
    assert backend.query("SELECT attempts FROM outgoing_recipient") == [(1,)]
    again = claim(backend, fence, "x.test", NOW + 60).recipients[0]
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, State.WAITING),), None)  # a late one is ours still
    backend.write(0, outbox.settle, fence, "x.test", (settled(again, None),), None)
    assert backend.query("SELECT state FROM outgoing_recipient") == [(State.WAITING,)]
    assert len(backend.read(0, trails.steps, taken.trail_id)) == 2


def test_who_has_lost_the_lease_changes_nothing(backend: Backend) -> None:
    old = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")))
    one = claim(backend, old, "x.test").recipients[0]
    new = rig.lease(backend)
    told = backend.read(0, owed.report_of, one.outgoing_id)
    assert told is None
    for work in (
        (outbox.claim, old, "x.test", -1, NOW, *rig.LIMITS),
        (outbox.settle, old, "x.test", (settled(one, None),), None),
        (outbox.unclaim, old, ((one.outgoing_id, one.n),), "x.test", NOW),
        (outbox.take_over, old),
    ):
        with pytest.raises(LeaseLost):
            backend.write(0, *work)
    assert backend.write(0, outbox.take_over, new) == 1
    assert rig.addresses(claim(backend, new, "x.test")) == ["b@x.test"]


def test_senders_take_turns(backend: Backend) -> None:
    fence = rig.lease(backend)
    many = [backend.new_account(name) for name in "abc"]
    for number in range(3):
        for account_id in many:
            accept(backend, outgoing(*to(f"{account_id}-{number}@x.test"), account_id=account_id))
    got = backend.write(0, outbox.claim, fence, "x.test", -1, NOW, 2, 1)
    assert [one.account_id for one in got.recipients] == many[:2]
    got = backend.write(0, outbox.claim, fence, "x.test", got.after_account, NOW, 2, 1)
    assert [one.account_id for one in got.recipients] == [many[2], many[0]]


def test_senders_with_nobody_due_do_not_make_a_claim_long(sqlite: Backend) -> None:
    fence = rig.lease(sqlite)
    for account_id in range(300):
        accept(sqlite, outgoing(*to(f"b{account_id}@x.test"), account_id=account_id, not_before=NOW + 900))
    last = 250
    accept(sqlite, outgoing(*to("due@x.test"), account_id=last))
    args = (fence, "x.test", -1, NOW, 10, 10)
    assert sqlite.write(0, counted, outbox.claim, args) < outbox.LOOKS_MAX + 15
    assert sqlite.query("SELECT address FROM outgoing_recipient WHERE state = 1") == [("due@x.test",)]
    sqlite.execute("DELETE FROM outgoing_recipient")
    sqlite.execute("DELETE FROM outgoing")
    sqlite.execute("DELETE FROM account WHERE id > 100000")


def test_one_copy_for_all_recipients_at_a_place(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to(*[f"b{n}@x.test" for n in range(250)])))
    sizes = []
    while got := claim(backend, fence, "x.test").recipients:
        sizes.append(len(got))
    assert sizes == [100, 100, 50]


def test_priority_comes_first_but_never_before_its_time(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("plain@x.test")))
    accept(backend, outgoing(*to("urgent@x.test"), priority=9))
    accept(backend, outgoing(*to("later@x.test"), priority=9, not_before=NOW + 60))
    assert rig.addresses(claim(backend, fence, "x.test")) == ["urgent@x.test", "plain@x.test"]
    assert claim(backend, fence, "x.test", NOW + 59).recipients == ()
    assert destination(backend, "x.test") == (NOW + 60, 0, 0)


def test_a_back_off_holds_new_mail_and_ends_with_the_first_that_gets_through(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")))
    accept(backend, outgoing(*to("c@x.test")))
    first, second = claim(backend, fence, "x.test").recipients
    fails = settled(first, State.WAITING, next_at=NOW + 60)
    backend.write(0, outbox.settle, fence, "x.test", (fails,), reached("x.test", NOW + 600))
    accept(backend, outgoing(*to("d@x.test")))
    assert destination(backend, "x.test") == (NOW + 600, NOW + 600, 1)
    # another connection of the same moment fails too: one failure
    fails = settled(second, State.WAITING, next_at=NOW + 60)
    backend.write(0, outbox.settle, fence, "x.test", (fails,), reached("x.test", NOW + 900))
    assert destination(backend, "x.test") == (NOW + 600, NOW + 600, 1)
    got = claim(backend, fence, "x.test", NOW + 10).recipients  # a third one was open, and works
    assert len(got) == 1
    backend.write(0, outbox.settle, fence, "x.test", (settled(got[0], None),), reached("x.test", at=NOW + 11))
    assert destination(backend, "x.test") == (NOW + 11, 0, 0)


def test_who_is_served_goes_behind_others_that_are_due(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test", "c@x.test")), now=NOW)
    accept(backend, outgoing(*to("b@y.test")), now=NOW + 5)
    one = claim(backend, fence, "x.test").recipients[0]
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, None),), reached("x.test", at=NOW + 10))
    assert backend.read(0, outbox.due_destinations, NOW + 10, 1) == ["y.test"]


def test_mail_of_an_account_that_is_stopped_is_held(backend: Backend) -> None:
    fence = rig.lease(backend)
    bad, good = backend.new_account("bad"), backend.new_account("good")
    taken = accept(backend, outgoing(*to("b@x.test"), account_id=bad))
    accept(backend, outgoing(*to("c@x.test"), account_id=good))
    backend.write(0, sending.set_stopped, bad, "stolen")
    assert rig.addresses(claim(backend, fence, "x.test")) == ["c@x.test"]
    assert claim(backend, fence, "x.test").recipients == ()
    assert destination(backend, "x.test") == (NEVER, 0, 0)
    assert [step.kind for step in backend.read(0, trails.steps, taken.trail_id)] == ["held"]
    backend.write(0, sending.set_stopped, bad, None)
    backend.write(0, queue_view.release, None, None, (0, -1), NOW + 1)
    assert rig.addresses(claim(backend, fence, "x.test", NOW + 1)) == ["b@x.test"]


def test_reports_wait_a_while_for_attempts_under_way(backend: Backend) -> None:
    fence = rig.lease(backend)
    id = accept(backend, outgoing(*to("b@x.test", "c@y.test", "d@y.test"))).outgoing_ids[0]
    one = claim(backend, fence, "x.test").recipients[0]
    claim(backend, fence, "y.test")
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, State.ENDED, Owed.FAILED),), None)
    assert backend.read(0, owed.reports_due, NOW, 0, 10) == []
    assert backend.read(0, owed.reports_due, NOW + owed.REPORT_AFTER_S, 0, 10) == [id]
    assert backend.read(0, owed.reports_due, NOW + owed.REPORT_AFTER_S, id, 10) == []
    told = backend.read(0, owed.report_of, id)
    assert told is not None
    assert [one.address for one in told.recipients] == ["b@x.test"]
    backend.write(0, owed.report_done, fence, told)
    assert backend.query("SELECT n FROM outgoing_recipient ORDER BY n") == [(1,), (2,)]


def test_a_delay_is_told_once_and_a_failure_after_it_too(backend: Backend) -> None:
    fence = rig.lease(backend)
    id = accept(backend, outgoing(*to("b@x.test"))).outgoing_ids[0]

    def fail(state: State, owed: Owed) -> None:
        one = claim(backend, fence, "x.test").recipients[0]
        backend.write(0, outbox.settle, fence, "x.test", (settled(one, state, owed),), None)

    fail(State.WAITING, Owed.DELAYED)
    told = backend.read(0, owed.report_of, id)
    assert told is not None
    fail(State.ENDED, Owed.FAILED)  # while the delay is being told
    backend.write(0, owed.report_done, fence, told)
    assert backend.query("SELECT state, report FROM outgoing_recipient") == [(State.ENDED, Owed.FAILED)]
    again = backend.read(0, owed.report_of, id)
    assert again is not None
    backend.write(0, owed.report_done, fence, again)
    assert backend.query("SELECT count(*) FROM outgoing") == [(0,)]


def test_a_delay_that_was_told_during_an_attempt_is_not_owed_again(backend: Backend) -> None:
    fence = rig.lease(backend)
    id = accept(backend, outgoing(*to("b@x.test"))).outgoing_ids[0]
    one = claim(backend, fence, "x.test").recipients[0]
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, State.WAITING, Owed.DELAYED),), None)
    told = backend.read(0, owed.report_of, id)
    one = claim(backend, fence, "x.test").recipients[0]
    backend.write(0, owed.report_done, fence, told)
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, State.WAITING, Owed.DELAYED),), None)
    assert backend.query("SELECT report, delay_told FROM outgoing_recipient") == [(Owed.NOTHING, 1)]


def test_more_recipients_than_one_report_holds_are_told_in_another(backend: Backend) -> None:
    fence = rig.lease(backend)
    ended = [NewRecipient("x.test", f"b{n}@x.test", owed=Owed.FAILED) for n in range(owed.REPORTED_MAX + 1)]
    id = accept(backend, outgoing(*ended)).outgoing_ids[0]
    told = backend.read(0, owed.report_of, id)
    assert told is not None
    assert len(told.recipients) == owed.REPORTED_MAX
    backend.write(0, owed.report_done, fence, told)
    assert backend.read(0, owed.reports_due, NOW, 0, 10) == [id]


def test_destinations_that_nobody_waits_for_are_forgotten(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test", "b@y.test", "b@z.test")))
    one = claim(backend, fence, "x.test").recipients[0]
    backend.write(0, outbox.settle, fence, "x.test", (settled(one, None),), reached("x.test"))
    for name in ("x.test", "y.test"):
        claim(backend, fence, name)
    claim(backend, fence, "y.test")
    assert backend.write(0, outbox.forget_destinations, NOW - 1) == 0
    assert backend.write(0, outbox.forget_destinations, NOW) == 1  # y.test is being sent to, z.test waits
    assert backend.query("SELECT name FROM destination ORDER BY name") == [("y.test",), ("z.test",)]


def test_statements(backend: Backend) -> None:
    fence = rig.lease(backend)
    many = outgoing(*to(*[f"b{n}@x.test" for n in range(20)]))
    assert backend.write(0, counted, arrivals.accept, (rig.arrival(many), new_message(), NOW)) <= 4 + 1 + 20 + 1
    assert backend.write(0, counted, outbox.claim, (fence, "x.test", -1, NOW, 10, 10)) <= 8 + 2 * 20
    rows = backend.query("SELECT n FROM outgoing_recipient WHERE state = 1 ORDER BY n")
    assert len(rows) == 20


@dataclass
class Model:
    """What the store must hold: each recipient by its row, and what was done with those that are gone."""

    rng: random.Random
    backend: Backend
    now: int = NOW
    alive: dict[tuple[int, int], str] = field(default_factory=dict)
    claimed: dict[tuple[int, int], outbox.Recipient] = field(default_factory=dict)
    serial: int = 0

    def __post_init__(self) -> None:
        self.fence = rig.lease(self.backend)
        self.trails: dict[str, int] = {}

    def step(self) -> None:
        self.now += self.rng.choice((0, 0, 1, 30, 400))
        work = (
            (self.accept, 4), (self.claim, 6), (self.settle, 6), (self.unclaim, 1), (self.take_over, 1),
            (self.report, 3), (self.change, 3), (self.forget, 1),
        )  # fmt: skip
        self.rng.choices([one for one, _ in work], [weight for _, weight in work])[0]()

    def name(self) -> str:
        return self.rng.choice(("x.test", "y.test", outbox.LOCAL))

    def accept(self) -> None:
        self.serial += 1
        recipients = []
        for n in range(self.rng.randint(1, 4)):
            owed = self.rng.choice((Owed.NOTHING, Owed.NOTHING, Owed.FAILED))
            recipients.append(NewRecipient(self.name(), f"{self.serial}.{n}@z.test", owed=owed))
        new = outgoing(
            *recipients,
            account_id=0,
            priority=self.rng.choice((0, 0, 9, -9)),
            not_before=self.rng.choice((0, 0, self.now + 500)),
        )
        taken = accept(self.backend, new, now=self.now)
        for n, one in enumerate(recipients):
            self.alive[taken.outgoing_ids[0], n] = one.address
            self.trails[one.address] = taken.trail_id

    def claim(self) -> None:
        for one in claim(self.backend, self.fence, self.name(), self.now, self.rng.randint(-1, 3)).recipients:
            key = (one.outgoing_id, one.n)
            assert key in self.alive
            assert key not in self.claimed
            self.claimed[key] = one

    def settle(self) -> None:
        name = self.name()
        mine = [one for one in self.claimed.values() if one.destination == name]
        chosen = self.rng.sample(mine, min(len(mine), self.rng.randint(0, 3)))
        outcomes = []
        for one in chosen:
            state, owed = self.rng.choice(
                (
                    (None, Owed.NOTHING),
                    (State.WAITING, Owed.NOTHING),
                    (State.WAITING, Owed.DELAYED),
                    (State.ENDED, Owed.FAILED),
                    (State.ENDED, Owed.RELAYED),
                )
            )
            later = self.now + self.rng.choice((0, 60, 900))
            made = settled(one, state, owed, next_at=later, at=self.now)
            outcomes.append(made._replace(trail_id=self.trails[one.address]))
            del self.claimed[one.outgoing_id, one.n]
            if state is None:
                del self.alive[one.outgoing_id, one.n]
        until = self.rng.choice((0, 0, self.now + 300))
        self.backend.write(
            0, outbox.settle, self.fence, name, tuple(outcomes), reached(name, until, self.now) if outcomes else None
        )

    def unclaim(self) -> None:
        name = self.name()
        keys = tuple(key for key, one in self.claimed.items() if one.destination == name)
        self.backend.write(0, outbox.unclaim, self.fence, keys, name, self.now)
        for key in keys:
            del self.claimed[key]

    def take_over(self) -> None:
        self.fence = rig.lease(self.backend, self.now)
        assert self.backend.write(0, outbox.take_over, self.fence) == len(self.claimed)
        self.claimed.clear()
        assert self.backend.query("SELECT 1 FROM outgoing_recipient WHERE state = 1") == []

    def report(self) -> None:
        for id in self.backend.read(0, owed.reports_due, self.now, 0, 5):
            told = self.backend.read(0, owed.report_of, id)
            assert told is not None
            new = outgoing(NewRecipient("x.test", f"report-{self.serial}@z.test"))
            self.serial += 1
            taken = self.backend.write(
                0, arrivals.accept_report, self.fence, told, rig.arrival(new), new_message(), self.now
            )
            self.alive[taken.outgoing_ids[0], 0] = new.recipients[0].address
            self.trails[new.recipients[0].address] = taken.trail_id
            for one in told.recipients:
                if one.state is State.ENDED:
                    del self.alive[one.outgoing_id, one.n]

    def change(self) -> None:
        id = self.rng.choice((None, *{key[0] for key in self.alive}))
        name = self.name() if id is None else None
        fn = self.rng.choice((queue_view.retry, queue_view.hold, queue_view.release, None))
        if fn is not None:
            self.backend.write(0, fn, id, name, (0, -1), self.now)
            return
        state = self.rng.choice((State.WAITING, State.HELD))
        before = self.states()
        self.backend.write(0, queue_view.delete, id, name, state, (0, -1), self.now)
        for key in before.keys() - self.states().keys():
            assert before[key] == state
            del self.alive[key]

    def forget(self) -> None:
        self.backend.write(0, outbox.forget_destinations, self.now)

    def states(self) -> dict[tuple[int, int], int]:
        return {
            (row[0], row[1]): row[2]
            for row in self.backend.query("SELECT outgoing_id, n, state FROM outgoing_recipient")
        }

    def check(self) -> None:
        states = self.states()
        assert states.keys() == self.alive.keys()
        assert {key for key, state in states.items() if state == State.CLAIMED} == self.claimed.keys()
        assert self.backend.findings() == []

    def drain(self) -> None:
        """Everybody who waits can be reached, and everybody's end is in the trail."""
        self.take_over()
        self.backend.write(0, queue_view.release, None, None, (0, -1), self.now)
        for _ in range(100):
            due_at = self.backend.read(0, outbox.next_due_at)
            self.now = max(self.now, due_at or 0) + owed.REPORT_AFTER_S
            for name in self.backend.read(0, outbox.due_destinations, self.now, 10):
                got = claim(self.backend, self.fence, name, self.now).recipients
                made = tuple(settled(one, None)._replace(trail_id=self.trails[one.address]) for one in got)
                self.backend.write(0, outbox.settle, self.fence, name, made, None)
                for one in got:
                    del self.alive[one.outgoing_id, one.n]
            for id in self.backend.read(0, owed.reports_due, self.now, 0, 100):
                told = self.backend.read(0, owed.report_of, id)
                assert told is not None
                self.backend.write(0, owed.report_done, self.fence, told)
                for one in told.recipients:
                    if one.state is State.ENDED:
                        del self.alive[one.outgoing_id, one.n]
            if due_at is None:
                break
        self.check()
        assert self.alive == {}
        for address, trail_id in self.trails.items():
            steps = self.backend.read(0, trails.steps, trail_id)
            assert any(one.recipient == address for one in steps) or self.was_born_ended(address)

    def was_born_ended(self, address: str) -> bool:
        """Its end was known when it was accepted; `drain` tells of it without a report."""
        return not address.startswith("report")


def walk(backend: Backend, seed: int, steps: int) -> None:
    model = Model(random.Random(seed), backend)
    for number in range(steps):
        model.step()
        if number % 10 == 0:
            model.check()
    model.drain()


@pytest.mark.parametrize("seed", range(6))
def test_in_any_order_nobody_is_lost(sqlite: Backend, seed: int) -> None:
    walk(sqlite, seed, 150)


def test_in_any_order_nobody_is_lost_on_either_backend(backend: Backend) -> None:
    walk(backend, 100, 80)


def damage(tx: Tx, sql: str) -> None:
    tx.run(sql)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("DELETE FROM outgoing_recipient", "no recipient left"),
        ("DELETE FROM outgoing", "has no message"),
        ("DELETE FROM trail", "no trail"),
        ("UPDATE outgoing SET blob_id = 999", "bytes that do not exist"),
        ("UPDATE outgoing_recipient SET state = 7", "makes no sense"),
        ("UPDATE outgoing_recipient SET state = 3", "makes no sense"),
        ("DELETE FROM destination", "look at in time"),
        (f"UPDATE destination SET next_at = {NEVER}", "look at in time"),
        ("INSERT INTO trail_address (address_hash, trail_id) VALUES (1, 999)", "does not exist"),
    ],
)
def test_the_check_finds_what_nobody_would_look_at(sqlite: Backend, sql: str, what: str) -> None:
    accept(sqlite, outgoing(*to("b@x.test")))
    assert sqlite.findings() == []
    sqlite.write(0, damage, sql)
    assert any(what in one for one in sqlite.findings())
    for table in ("outgoing_recipient", "outgoing", "destination", "trail", "trail_address", "trail_step"):
        sqlite.execute(f"DELETE FROM {table}")


def test_shares_part_the_queue_and_miss_nobody(backend: Backend) -> None:
    names = [f"d{number}.test" for number in range(20)]
    accept(backend, outgoing(*to(*[f"b@{name}" for name in names])))
    shares = [Share(number, 3) for number in range(3)]
    found = [set(backend.read(0, outbox.due_destinations, NOW, 100, share)) for share in shares]
    assert set.union(*found) == set(names)
    assert sum(map(len, found)) == len(names)
    assert len({share.lease for share in shares}) == 3
    fence = rig.lease(backend)
    for name in names:
        assert claim(backend, fence, name).recipients
    for share, mine in zip(shares, found, strict=True):
        assert backend.write(0, outbox.take_over, fence, share) == len(mine)
        assert set(backend.read(0, outbox.due_destinations, NOW, 100, share)) == mine
