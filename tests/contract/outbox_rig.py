"""What goes into the queue of a store, and how the runner takes it out again."""

from collections.abc import Sequence

from store_harness import NOW, Backend, new_message

from pochta.store import arrivals, leases, outbox, shares
from pochta.store.arrivals import Arrival, LocalRecipient, Taken
from pochta.store.leases import Fence
from pochta.store.outbox import Claim, NewOutgoing, NewRecipient, Owed, Reached, Recipient, Settled, State
from pochta.store.trails import NewTrail, Step

LIMITS = (10, 10)


def outgoing(*recipients: NewRecipient, account_id: int = 0, priority: int = 0, not_before: int = 0) -> NewOutgoing:
    return NewOutgoing(
        account_id=account_id,
        origin="submission",
        reverse_path="a@example.org",
        report_to="a@example.org",
        envelope_id=None,
        returns=None,
        body="7bit",
        is_smtputf8=False,
        requires_tls=False,
        may_bounce=True,
        priority=priority,
        deliver_by_at=None,
        deliver_by_mode=None,
        not_before=not_before,
        recipients=recipients,
    )


def to(*addresses: str) -> tuple[NewRecipient, ...]:
    return tuple(NewRecipient(one.partition("@")[2], one) for one in addresses)


def trail(name: str = "t1", message_id: str = "<1@x>", addresses: Sequence[str] = ()) -> NewTrail:
    return NewTrail(name, message_id, "a@example.org", tuple(addresses), "{}")


def arrival(*sent: NewOutgoing, locals_: tuple[LocalRecipient, ...] = (), name: str = "t1") -> Arrival:
    return Arrival(trail(name), locals_, sent, outgoing())


def accept(backend: Backend, *sent: NewOutgoing, now: int = NOW, size: int = 100) -> Taken:
    return backend.write(0, arrivals.accept, arrival(*sent), new_message(size), now)


def lease(backend: Backend, now: int = NOW) -> Fence:
    """The queue's, taken from whoever has it."""
    number = backend.write(0, leases.acquire, shares.LEASE, "test", now, 1 << 30)
    assert number is not None
    return Fence(shares.LEASE, number)


def claim(backend: Backend, fence: Fence, name: str, now: int = NOW, after: int = -1) -> Claim:
    return backend.write(0, outbox.claim, fence, name, after, now, *LIMITS)


def settled(
    one: Recipient, state: State | None, owed: Owed = Owed.NOTHING, *, next_at: int = NOW, at: int = NOW
) -> Settled:
    step = Step(at, "tried", one.address, "{}")
    return Settled(one.outgoing_id, one.n, 1, state, owed, next_at, at, "mx", "250 ok", step)


def reached(name: str, until: int = 0, at: int = NOW) -> Reached:
    return Reached(name, at, "mx", "250 ok", until)


def destination(backend: Backend, name: str) -> tuple[int, int, int] | None:
    """(next_at, not_before, failures)"""
    rows = backend.query("SELECT next_at, not_before, failures FROM destination WHERE name = ?", name)
    return rows[0] if rows else None


def addresses(claimed: Claim) -> list[str]:
    return [one.address for one in claimed.recipients]
