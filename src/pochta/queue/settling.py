"""What an attempt means for a recipient: done, tried again, given up, and which report is owed. Pure.

INV-9 is kept here: a recipient's row goes only when it was delivered or its end is owed to somebody; who may hear of it
(INV-10) is decided where reports are made (`reports`).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from pochta.delivery import record
from pochta.proto.smtp.events import Notify
from pochta.proto.smtp.replies import Reply
from pochta.queue import schedule as times
from pochta.queue.dsn import Action, is_wanted, status_of
from pochta.queue.schedule import Schedule
from pochta.store.outbox import Outgoing, Owed, Recipient, Settled, State

REPLY_MAX: Final = 500  # of the reply that is kept: RFC 5321 §4.5.3.1.5 has 512 octets for a line


class End(Enum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happened to one recipient. `host`: who said so, `""` for ourselves. `reports_itself`: DSN was passed on."""

    end: End
    reply: Reply
    host: str = ""
    reports_itself: bool = False
    tls: str = ""

    @property
    def line(self) -> str:
        """The reply on one line."""
        text = " ".join(self.reply.text.split())
        line = " ".join(part for part in (str(self.reply.code), self.reply.enhanced, text) if part)[:REPLY_MAX]
        # no backend takes a lone surrogate, PostgreSQL no NUL: what a server says must not keep its row from settling
        return line.replace("\0", "").encode("utf-8", "replace").decode()


def fate_of(reply: Reply, host: str, *, reports_itself: bool = False, tls: str = "") -> Fate:
    """What a server's reply about a recipient means."""
    if reply.is_positive:
        end = End.DELIVERED
    else:
        end = End.FAILED if reply.code >= 500 else End.DEFERRED
    return Fate(end, reply, host, reports_itself, tls)


def settle(
    schedule: Schedule, message: Outgoing, recipient: Recipient, fate: Fate, *, now: int, random: float
) -> Settled:
    """What the store is to write down."""
    end = fate.end
    deadline = message.returned_at
    if end is End.DEFERRED and times.has_expired(
        schedule, first_at=message.created_at, now=now, deliver_by_at=deadline
    ):
        # RFC 3463 §3.5: the code of the actual problem rather than X.4.7, so the reply stays what it is
        end = End.FAILED
    if end is End.DEFERRED:
        return _deferred(schedule, message, recipient, fate, now, random)
    owed = Owed.NOTHING
    if end is End.FAILED:
        if is_wanted(Notify(recipient.notify), Action.FAILED):
            owed = Owed.FAILED
    elif message.is_traced or (is_wanted(Notify(recipient.notify), Action.DELIVERED) and not fate.reports_itself):
        owed = Owed.RELAYED
    kind = "sent" if end is End.DELIVERED else "failed" if fate.end is End.FAILED else "expired"
    state = State.ENDED if owed is not Owed.NOTHING else None
    return _settled(message, recipient, fate, state, owed, kind, next_at=now, now=now, reply=fate.line)


def _deferred(
    schedule: Schedule, message: Outgoing, recipient: Recipient, fate: Fate, now: int, random: float
) -> Settled:
    first_at = message.created_at
    is_told = recipient.delay_told or not is_wanted(Notify(recipient.notify), Action.DELAYED)
    notice_at = None if is_told else times.delay_notice_at(schedule, first_at=first_at, notify_by_at=message.noticed_at)
    next_at = times.next_attempt(
        schedule,
        recipient.attempts + 1,
        first_at=first_at,
        now=now,
        random=random,
        deliver_by_at=message.returned_at,
        notice_at=notice_at,
    )
    is_due = not is_told and times.is_delay_notice_due(
        schedule, first_at=first_at, now=now, deliver_by_at=message.returned_at, notify_by_at=message.noticed_at
    )
    owed = Owed.DELAYED if is_due else Owed.NOTHING
    return _settled(
        message, recipient, fate, State.WAITING, owed, "deferred", next_at=next_at, now=now, reply=fate.line
    )


def _settled(
    message: Outgoing,
    recipient: Recipient,
    fate: Fate,
    state: State | None,
    owed: Owed,
    kind: str,
    *,
    next_at: int,
    now: int,
    reply: str,
) -> Settled:
    step = record.step(
        now,
        kind,
        recipient.address,
        host=fate.host,
        reply=reply,
        tls=fate.tls,
        attempt=recipient.attempts + 1,
        next_at=next_at if state is State.WAITING else None,
    )
    return Settled(message.id, recipient.n, message.trail_id, state, owed, next_at, now, fate.host, reply, step)


def status(recipient: Recipient) -> str:
    """The status of a recipient's last reply, `5.1.1`; of ours where the other server gave none."""
    code, _, rest = (recipient.last_reply or "").partition(" ")
    return status_of(int(code) if code.isdecimal() else 400, rest.partition(" ")[0])
