"""`submit`: the verb by which mail for anybody enters: from other servers, users, reports, the command line.

One commit holds a placement, a row of the queue or a report that is owed for each recipient (INV-1, INV-9). Decides
what the envelope of a forwarded message is (SRS), and what counts against the limits of the account that writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pochta import clock
from pochta.accounts import directory, sending, srs
from pochta.accounts.sending import Charge, SendingLimits
from pochta.delivery import local, record
from pochta.errors import Refusal, RefusalCode
from pochta.proto.address import Address, AddressError, parse_mailbox, to_a_labels
from pochta.proto.smtp.events import Notify
from pochta.store import arrivals, outbox
from pochta.store.arrivals import Arrival, LocalRecipient, Taken
from pochta.store.directory import has_domain
from pochta.store.messages import NewMessage
from pochta.store.outbox import NewOutgoing, NewRecipient
from pochta.store.store import Store
from pochta.store.trails import NewTrail
from pochta.store.tx import Tx

DestinationOf = Callable[[str, str], str]  # recipient's domain in A-labels, sender's address -> where it queues


class Origin(StrEnum):
    """Who brought a message."""

    TRANSFER = "smtp"
    SUBMISSION = "submission"
    LMTP = "lmtp"
    COMMAND = "command"
    REPORT = "report"
    DOUBLE_BOUNCE = "double_bounce"  # a report to the postmaster; that it fails is told to nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What MAIL said, and of whom it is known. `reverse_path` `""` is the null one.

    `account_id` wrote it (0: nobody here). `may_bounce`: the sender is who they say (INV-10). `not_before`: UTC epoch
    seconds before which nobody gets it (FUTURERELEASE). `body`: `7bit`, `8bit` or `binary`.
    """

    origin: Origin
    reverse_path: str
    account_id: int = 0
    may_bounce: bool = False
    envelope_id: str | None = None
    returns: str | None = None
    body: str = "8bit"
    is_smtputf8: bool = False
    requires_tls: bool = False
    priority: int = 0
    deliver_by_at: int | None = None
    deliver_by_mode: str | None = None
    not_before: int = 0


NOT_GIVEN: Final = Notify(0)


@dataclass(frozen=True, slots=True)
class Target:
    """One recipient as RCPT named it, and what it stands for: accounts here, addresses elsewhere.

    `is_forward`: an alias of ours led elsewhere, so that the sender's own domain would not vouch for us. `role`: of the
    mailbox that gets it.
    """

    address: str
    accounts: tuple[int, ...] = ()
    remotes: tuple[str, ...] = ()
    original: str | None = None
    notify: Notify = NOT_GIVEN
    is_forward: bool = False
    role: str = "inbox"


ROWS_INLINE_MAX: Final = 100  # of one message, 20 us each in the queue, 60 us in a mailbox (INV-12)
NO_LIMITS: Final = SendingLimits(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Takes messages for a server. `srs_secret` is shared by all its workers."""

    store: Store
    destination_of: DestinationOf
    srs_secret: bytes = field(repr=False)
    limits: SendingLimits = NO_LIMITS

    async def submit(
        self, envelope: Envelope, targets: Sequence[Target], new: NewMessage, trail: NewTrail
    ) -> tuple[Taken, Charge | None]:
        """Take the message for every target; durable on return.

        Raises:
            Refusal: OVER_QUOTA, NOT_FOUND; LIMIT, the account has sent too much. TryLater: the disk is full.
        """
        arrival = await self.arrival(envelope, targets, trail)
        recipients = tuple(record.searched_as(one.address) for one in targets) if envelope.account_id else ()
        await local.check_room_for(self.store, (new,))
        rows = sum(len(one.recipients) for one in arrival.outgoing)
        rows += sum(len(one.account_ids) for one in arrival.locals)
        try:
            return await self.store.write(
                envelope.account_id,
                _accept,
                arrival,
                new,
                recipients,
                self.limits,
                int(clock.now_s()),
                in_thread=rows > ROWS_INLINE_MAX,
            )
        except Refusal:
            await local.drop(self.store, (new,))
            raise

    async def arrival(self, envelope: Envelope, targets: Sequence[Target], trail: NewTrail) -> Arrival:
        """What the store is to take: who gets it here, and the envelopes that it travels on with."""
        plain = self._outgoing(envelope, envelope.reverse_path)
        now = clock.now_s()
        if envelope.not_before > now:
            return Arrival(trail, (), (self._held(plain, targets),), plain)
        locals_ = tuple(
            LocalRecipient(
                one.address, one.accounts, one.original, int(one.notify), Notify.SUCCESS in one.notify, one.role
            )
            for one in targets
            if one.accounts
        )
        by_path: dict[str, list[NewRecipient]] = {}
        for one in targets:
            path = await self._path_of(envelope, one, now) if one.remotes else ""
            for remote in one.remotes:
                by_path.setdefault(path, []).append(self._recipient(one, remote, envelope.reverse_path))
        outgoing = tuple(
            self._outgoing(envelope, path)._replace(recipients=tuple(dict.fromkeys(found)))
            for path, found in by_path.items()
        )
        return Arrival(trail, locals_, outgoing, plain)

    def _held(self, plain: NewOutgoing, targets: Sequence[Target]) -> NewOutgoing:
        """Everybody waits in the queue; who stands behind an address here is asked when the time has come."""
        recipients = [
            self._recipient(one, one.address, plain.reverse_path)
            if not one.accounts and one.remotes == (one.address,)
            else NewRecipient(outbox.LOCAL, one.address, one.original, int(one.notify))
            for one in targets
        ]
        return plain._replace(recipients=tuple(recipients))

    def _recipient(self, target: Target, remote: str, sender: str) -> NewRecipient:
        domain = to_a_labels(remote.rpartition("@")[2])
        # RFC 3461 §5.2.7.1: an alias of one address passes the options on; the original recipient stays what it was
        original = target.original or (f"rfc822;{target.address}" if target.is_forward else None)
        return NewRecipient(self.destination_of(domain, sender), remote, original, int(target.notify))

    async def _path_of(self, envelope: Envelope, target: Target, now_s: float) -> str:
        """The reverse-path that a target's mail travels on with."""
        sender = envelope.reverse_path
        if not target.is_forward or not sender:
            return sender
        if await self.store.read(0, has_domain, domain_of(sender)):
            return sender  # our own domain: what it publishes names us
        return srs.forward(self.srs_secret, sender, to_a_labels(domain_of(target.address)), now_s=now_s)

    @staticmethod
    def _outgoing(envelope: Envelope, reverse_path: str) -> NewOutgoing:
        return NewOutgoing(
            account_id=envelope.account_id,
            origin=envelope.origin.value,
            reverse_path=reverse_path,
            report_to=envelope.reverse_path,
            envelope_id=envelope.envelope_id,
            returns=envelope.returns,
            body=envelope.body,
            is_smtputf8=envelope.is_smtputf8,
            requires_tls=envelope.requires_tls,
            may_bounce=envelope.may_bounce,
            priority=envelope.priority,
            deliver_by_at=envelope.deliver_by_at,
            deliver_by_mode=envelope.deliver_by_mode,
            not_before=envelope.not_before,
            recipients=(),
        )


def domain_of(address: str) -> str:
    """The domain of an address in A-labels; `""` where it has none that DNS could hold."""
    try:
        return to_a_labels(address.rpartition("@")[2])
    except AddressError:
        return ""


def _accept(
    tx: Tx, arrival: Arrival, new: NewMessage, recipients: Sequence[str], limits: SendingLimits, now: int
) -> tuple[Taken, Charge | None]:
    charge = None
    if arrival.envelope.account_id:
        charge = sending.charge(tx, arrival.envelope.account_id, recipients, limits, now)
    return arrivals.accept(tx, arrival, new, now), charge


def resolve(
    tx: Tx, address: Address, postmaster: str | None, srs_secret: bytes, now_s: float, may_relay: bool
) -> Target:
    """What a recipient stands for: mailboxes here, addresses elsewhere, or the sender behind an address of SRS.

    `may_relay`: whoever asks may send to other servers.

    Raises:
        Refusal: NO_SUCH_USER, LIMIT; NOT_LOCAL unless `may_relay`. TryLater: see `directory.resolve`.
    """
    if srs.is_rewritten(address.local_part) and has_domain(tx, address.key[1]):
        sender = srs.reverse(srs_secret, address.local_part, now_s=now_s)
        if not has_domain(tx, domain_of(sender)):
            return Target(str(address), (), (sender,))
        address = parse_mailbox(sender)  # we forwarded twice
    try:
        found = directory.resolve(tx, address, postmaster)
    except Refusal as error:
        if may_relay and error.code is RefusalCode.NOT_LOCAL:
            return Target(str(address), (), (str(address),))
        raise
    return Target(str(address), found.accounts, found.remotes, is_forward=bool(found.remotes))
