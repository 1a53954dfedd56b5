"""A message is taken: what stands behind the one reply that says so, in one transaction (INV-1).

For each recipient a placement, a row of the queue, or a report that is owed; and the trail of the message. Decides what
becomes of a mailbox that turns out to be full; refuses to know who may send what to whom.
"""

from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import blobs, messages, outbox, owed, trails
from pochta.store.leases import Fence
from pochta.store.messages import NewMessage
from pochta.store.outbox import NewOutgoing, NewRecipient, Owed
from pochta.store.trails import NewTrail
from pochta.store.tx import Tx

FULL_REPLY: Final = "552 5.2.2 The mailbox is full"
GONE_REPLY: Final = "550 5.1.1 There is no such user here any more"
DELIVERED_REPLY: Final = "250 2.1.5 Delivered"
EXPANDED_REPLY: Final = "250 2.1.5 Sent on to several addresses"


class LocalRecipient(NamedTuple):
    """A recipient with a mailbox here, or several. `wants_success`: its sender asked to be told (NOTIFY=SUCCESS).

    `is_expanded`: an alias that a report is owed for, without accounts: who stands behind it is told elsewhere.
    """

    address: str
    account_ids: tuple[int, ...]
    original: str | None = None
    notify: int = 0
    wants_success: bool = False
    role: str = "inbox"
    is_expanded: bool = False
    detail: str | None = None  # behind `+` of the address: a mailbox, if the sender may post there


class Arrival(NamedTuple):
    """What came, and where it goes. `envelope`: how reports about `locals` travel; it has no recipients of its own."""

    trail: NewTrail
    locals: tuple[LocalRecipient, ...]
    outgoing: tuple[NewOutgoing, ...]
    envelope: NewOutgoing


class Taken(NamedTuple):
    """What was done. `full`: local recipients that a report is owed about instead of a placement."""

    trail_id: int
    outgoing_ids: tuple[int, ...]
    full: tuple[str, ...]


def accept(tx: Tx, arrival: Arrival, new: NewMessage, now: int, trail_id: int | None = None) -> Taken:
    """Take the message for every recipient. About nine statements for each account, five for each other recipient.

    `trail_id`: the message has a trail already.

    A mailbox that is full: where somebody else gets the message and its sender may be told, a report is owed. Otherwise
    nothing is taken.

    Raises:
        Refusal: OVER_QUOTA; NOT_FOUND, the only account was removed meanwhile.
    """
    if trail_id is None:
        trail_id = trails.add(tx, arrival.trail, now)
    blob_id = blobs.insert(tx, new.blob, new.received_at)
    failed = _place(tx, arrival, blob_id, new)
    owed = (
        [
            NewRecipient(outbox.LOCAL, one.address, one.original, one.notify, Owed.FAILED, failed[one.address])
            for one in arrival.locals
            if one.address in failed
        ]
        + [
            NewRecipient(outbox.LOCAL, one.address, one.original, one.notify, Owed.DELIVERED, DELIVERED_REPLY)
            for one in arrival.locals
            if one.wants_success and one.address not in failed
        ]
        + [
            NewRecipient(outbox.LOCAL, one.address, one.original, one.notify, Owed.EXPANDED, EXPANDED_REPLY)
            for one in arrival.locals
            if one.is_expanded
        ]
    )
    all_outgoing = arrival.outgoing
    if owed and arrival.envelope.report_to:
        all_outgoing += (arrival.envelope._replace(recipients=tuple(owed)),)
    ids = tuple(
        outbox.enqueue(
            tx, one, blob_id=blob_id, trail_id=trail_id, size=new.blob.size, header_size=new.header_size, now=now
        )
        for one in all_outgoing
    )
    return Taken(trail_id, ids, tuple(failed))


def _place(tx: Tx, arrival: Arrival, blob_id: int, new: NewMessage) -> dict[str, str]:
    """Put the message into the mailboxes; the addresses that it could not be placed for, and what is said of them."""
    roles: dict[int, str] = {}
    details: dict[int, list[str | None]] = {}
    for one in arrival.locals:
        for account_id in one.account_ids:
            roles.setdefault(account_id, one.role)
            details.setdefault(account_id, []).append(one.detail)
    poster_id = arrival.envelope.account_id
    failed: dict[int, Refusal] = {}
    for account_id in sorted(roles):  # as `messages.deliver`: in one order, never in a circle
        try:
            where = details[account_id]
            messages.deliver_to(
                tx, account_id, blob_id, new, role=roles[account_id], details=where, poster_id=poster_id
            )
        except Refusal as error:
            if error.code not in (RefusalCode.OVER_QUOTA, RefusalCode.NOT_FOUND):
                raise
            failed[account_id] = error
    if not failed:
        return {}
    envelope = arrival.envelope
    has_others = len(failed) < len(roles) or bool(arrival.outgoing)
    if not has_others or not (envelope.may_bounce and envelope.report_to):
        raise next(iter(failed.values()))
    replies = {one: GONE_REPLY if error.code is RefusalCode.NOT_FOUND else FULL_REPLY for one, error in failed.items()}
    return {
        one.address: next(replies[account_id] for account_id in one.account_ids if account_id in replies)
        for one in arrival.locals
        if not failed.keys().isdisjoint(one.account_ids)
    }


def accept_report(tx: Tx, fence: Fence, told: owed.Reports, arrival: Arrival, new: NewMessage, now: int) -> Taken:
    """As `accept`, for the report that tells of `told`: it and the rows that owed it change together.

    Raises:
        LeaseLost; Refusal as `accept`.
    """
    owed.report_done(tx, fence, told)
    for one in told.recipients:
        step = trails.Step(now, "reported", one.address, arrival.trail.facts)
        trails.add_step(tx, told.message.trail_id, step)
    return accept(tx, arrival, new, now)


def accept_late(tx: Tx, fence: Fence, settled: outbox.Settled, arrival: Arrival, new: NewMessage, now: int) -> Taken:
    """As `accept`, for a recipient here whose delivery was put off: its row in the queue goes in the same transaction.

    Raises:
        LeaseLost; Refusal as `accept`.
    """
    outbox.settle(tx, fence, outbox.LOCAL, (settled,), None)
    return accept(tx, arrival, new, now, settled.trail_id)
