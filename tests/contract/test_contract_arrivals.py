"""What stands behind the one reply for a message: placements, rows of the queue, reports that are owed (INV-1)."""

import outbox_rig as rig
import pytest
from outbox_rig import outgoing, to
from store_harness import NOW, Backend, counted, new_message

from pochta.errors import Refusal, RefusalCode
from pochta.store import arrivals, outbox, owed, trails
from pochta.store.arrivals import LocalRecipient
from pochta.store.outbox import NewRecipient, Owed, State


def rows(backend: Backend) -> list[tuple[object, ...]]:
    return backend.query("SELECT address, state, report, last_reply FROM outgoing_recipient ORDER BY outgoing_id, n")


def take(
    backend: Backend, *locals_: LocalRecipient, sent: tuple[NewRecipient, ...] = (), may_bounce: bool = True
) -> object:
    envelopes = (outgoing(*sent),) if sent else ()
    came = rig.arrival(*envelopes, locals_=locals_)
    came = came._replace(envelope=came.envelope._replace(may_bounce=may_bounce))
    return backend.write(0, arrivals.accept, came, new_message(), NOW)


def test_everybody_gets_it_in_one_transaction(backend: Backend) -> None:
    a, b = backend.new_account("a"), backend.new_account("b")
    came = take(
        backend, LocalRecipient("a@example.org", (a,)), LocalRecipient("all@example.org", (a, b)), sent=to("c@x.test")
    )
    assert backend.quota(a) == backend.quota(b) == (1, 100)
    assert rows(backend) == [("c@x.test", State.WAITING, Owed.NOTHING, None)]
    assert backend.query("SELECT count(*) FROM blob") == [(1,)]
    assert came == arrivals.Taken(1, (1,), ())


def test_a_full_mailbox_beside_others_is_reported(backend: Backend) -> None:
    full, fine = backend.new_account("full", 10), backend.new_account("fine")
    take(backend, LocalRecipient("full@example.org", (full,)), LocalRecipient("fine@example.org", (fine,)))
    assert rows(backend) == [("full@example.org", State.ENDED, Owed.FAILED, arrivals.FULL_REPLY)]
    assert backend.quota(fine) == (1, 100)
    take(backend, LocalRecipient("gone@example.org", (999,)), LocalRecipient("fine@example.org", (fine,)))
    assert rows(backend)[1] == ("gone@example.org", State.ENDED, Owed.FAILED, arrivals.GONE_REPLY)


@pytest.mark.parametrize("case", ["alone", "no bounce"])
def test_a_full_mailbox_that_nobody_may_be_told_of_takes_nothing(backend: Backend, case: str) -> None:
    full, fine = backend.new_account("full", 10), backend.new_account("fine")
    others = (LocalRecipient("fine@example.org", (fine,)),) if case == "no bounce" else ()
    with pytest.raises(Refusal) as caught:
        take(backend, LocalRecipient("full@example.org", (full,)), *others, may_bounce=case == "alone")
    assert caught.value.code is RefusalCode.OVER_QUOTA
    assert backend.query("SELECT count(*) FROM blob") == backend.query("SELECT count(*) FROM trail") == [(0,)]
    assert backend.quota(fine) == (0, 0)


def test_success_is_owed_to_who_asked(backend: Backend) -> None:
    a = backend.new_account("a")
    take(backend, LocalRecipient("a@example.org", (a,), wants_success=True))
    assert rows(backend) == [("a@example.org", State.ENDED, Owed.DELIVERED, arrivals.DELIVERED_REPLY)]


def test_a_report_and_what_it_tells_of_change_together(backend: Backend) -> None:
    fence = rig.lease(backend)
    full = backend.new_account("full", 10)
    gone = NewRecipient("x.test", "b@x.test", owed=Owed.FAILED)
    id = rig.accept(backend, outgoing(gone)).outgoing_ids[0]
    told = backend.read(0, owed.report_of, id)
    came = rig.arrival(locals_=(LocalRecipient("full@example.org", (full,)),))
    with pytest.raises(Refusal):
        backend.write(0, arrivals.accept_report, fence, told, came, new_message(), NOW)
    assert len(rows(backend)) == 1
    fine = backend.new_account("fine")
    came = rig.arrival(locals_=(LocalRecipient("fine@example.org", (fine,)),))
    backend.write(0, arrivals.accept_report, fence, told, came, new_message(), NOW)
    assert rows(backend) == []
    assert [step.kind for step in backend.read(0, trails.steps, 1)] == ["reported"]


def test_a_late_delivery_and_its_row_change_together(backend: Backend) -> None:
    fence = rig.lease(backend)
    full, fine = backend.new_account("full", 10), backend.new_account("fine")
    taken = rig.accept(backend, outgoing(NewRecipient(outbox.LOCAL, "a@example.org")))
    one = rig.claim(backend, fence, outbox.LOCAL).recipients[0]
    done = rig.settled(one, None)
    came = rig.arrival(locals_=(LocalRecipient("full@example.org", (full,)),))
    with pytest.raises(Refusal):
        backend.write(0, arrivals.accept_late, fence, done, came, new_message(), NOW)
    assert rows(backend)[0][1] == State.CLAIMED
    came = rig.arrival(locals_=(LocalRecipient("fine@example.org", (fine,)),))
    assert backend.write(0, arrivals.accept_late, fence, done, came, new_message(), NOW).trail_id == taken.trail_id
    assert rows(backend) == []
    assert backend.quota(fine) == (1, 100)


def test_statements_of_an_arrival(backend: Backend) -> None:
    a = backend.new_account("a")
    came = rig.arrival(locals_=(LocalRecipient("a@example.org", (a,)),))
    assert backend.write(0, counted, arrivals.accept, (came, new_message(), NOW)) <= 14
