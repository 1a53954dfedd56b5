"""The queue as an administrator sees and changes it, on every backend."""

import outbox_rig as rig
import pytest
from outbox_rig import accept, claim, destination, outgoing, reached, settled, to
from store_harness import NOW, Backend

from pochta.errors import Refusal
from pochta.store import outbox, owed, queue_view, trails
from pochta.store.outbox import NewRecipient, Owed, State
from pochta.store.queue_view import Change, Summary

FIRST = (0, -1)


def states(backend: Backend) -> list[tuple[str, int, int]]:
    return backend.query("SELECT address, state, next_at FROM outgoing_recipient ORDER BY outgoing_id, n")


def test_summaries_tell_of_each_destination(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")), now=NOW)
    accept(backend, outgoing(*to("c@x.test", "d@x.test", "b@y.test")), now=NOW + 1)
    accept(backend, outgoing(NewRecipient("z.test", "e@z.test", owed=Owed.FAILED)))
    backend.write(0, queue_view.hold, 2, None, FIRST, NOW)
    one = claim(backend, fence, "x.test").recipients[0]
    backend.write(
        0, outbox.settle, fence, "x.test", (settled(one, State.WAITING, next_at=NOW + 60),), reached("x.test")
    )
    assert backend.read(0, queue_view.summaries) == [
        Summary("x.test", 1, 2, 0, NOW, NOW, 0, NOW, "mx", "250 ok"),
        Summary("y.test", 0, 1, 0, NOW + 1, NOW + 1, 0, None, None, None),
    ]
    claim(backend, fence, "x.test", NOW + 60)
    assert backend.read(0, queue_view.summaries)[0][1:4] == (0, 2, 1)
    assert backend.read(0, queue_view.count) == (1, 3)
    assert backend.read(0, owed.reports_due, NOW + 60, 0, 10) == [3]


def test_listing_and_one_message(backend: Backend) -> None:
    accept(backend, outgoing(*to("b@x.test", "c@y.test")))
    accept(backend, outgoing(*to("d@x.test")))
    assert [one.recipient.address for one in backend.read(0, queue_view.listing)] == [
        "b@x.test",
        "c@y.test",
        "d@x.test",
    ]
    (one,) = backend.read(0, queue_view.entries_of, 2)
    assert (one.message.id, one.message.name, one.recipient.address) == (2, "t1", "d@x.test")
    with pytest.raises(Refusal):
        backend.read(0, queue_view.entries_of, 3)


def test_retry_wakes_who_waits_and_forgets_the_back_off(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")))
    one = claim(backend, fence, "x.test").recipients[0]
    later = settled(one, State.WAITING, next_at=NOW + 900)
    backend.write(0, outbox.settle, fence, "x.test", (later,), reached("x.test", NOW + 600))
    assert backend.write(0, queue_view.retry, None, "x.test", FIRST, NOW + 1) == Change(1, None)
    assert destination(backend, "x.test") == (NOW + 1, 0, 0)
    (again,) = claim(backend, fence, "x.test", NOW + 1).recipients
    # out of turn: the schedule goes on where it was
    assert (again.address, again.attempts) == ("b@x.test", 0)


def test_hold_release_delete_leave_steps(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test", "c@x.test")))
    backend.write(0, queue_view.hold, 1, None, FIRST, NOW)
    assert claim(backend, fence, "x.test").recipients == ()
    backend.write(0, queue_view.release, 1, None, FIRST, NOW + 5)
    assert states(backend) == [("b@x.test", State.WAITING, NOW + 5), ("c@x.test", State.WAITING, NOW + 5)]
    assert destination(backend, "x.test") == (NOW + 5, 0, 0)
    backend.write(0, queue_view.delete, 1, None, State.WAITING, FIRST, NOW + 6)
    assert backend.query("SELECT count(*) FROM outgoing") == [(0,)]
    kinds = [step.kind for step in backend.read(0, trails.steps, 1)]
    assert kinds == ["held", "held", "released", "released", "deleted", "deleted"]


def test_what_is_being_sent_is_not_changed(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")))
    claim(backend, fence, "x.test")
    for fn in (queue_view.retry, queue_view.hold, queue_view.release):
        assert backend.write(0, fn, 1, None, FIRST, NOW).rows == 0
    for state in (State.WAITING, State.HELD):
        assert backend.write(0, queue_view.delete, 1, None, state, FIRST, NOW).rows == 0
    assert states(backend)[0][1] == State.CLAIMED


def test_no_command_sends_before_its_time(backend: Backend) -> None:
    accept(backend, outgoing(*to("b@x.test"), not_before=NOW + 500))
    for fn in (queue_view.retry, queue_view.hold, queue_view.release):
        backend.write(0, fn, None, None, FIRST, NOW)
    assert states(backend) == [("b@x.test", State.WAITING, NOW + 500)]


def test_many_rows_are_changed_in_steps(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_view, "CHANGED_MAX", 2)
    accept(backend, outgoing(*to("b@x.test", "c@x.test", "d@x.test")))
    accept(backend, outgoing(*to("e@x.test", "f@y.test")))
    after: tuple[int, int] | None = FIRST
    changed = []
    while after is not None:
        done = backend.write(0, queue_view.hold, None, "x.test", after, NOW)
        changed.append(done.rows)
        after = done.last
    assert changed == [2, 2, 0]
    assert [state for _, state, _ in states(backend)] == [State.HELD] * 4 + [State.WAITING]
