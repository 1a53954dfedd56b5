"""`submit`: the verb by which mail for anybody enters: from other servers, users, reports, the command line.

One commit holds a placement, a row of the queue or a report that is owed for each recipient (INV-1, INV-9). Decides
what the envelope of a forwarded message is (SRS), and what counts against the limits of the account that writes.
"""

import asyncio
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
    mailbox that gets it. `detail`: behind `+`, of the account's own address; a mailbox perhaps.
    """

    address: str
    accounts: tuple[int, ...] = ()
    remotes: tuple[str, ...] = ()
    original: str | None = None
    notify: Notify = NOT_GIVEN
    is_forward: bool = False
    role: str = "inbox"
    detail: str | None = None

    @property
    def is_expanded(self) -> bool:
        """Whether it is an alias of several, some of them elsewhere."""
        return self.is_forward and len(self.accounts) + len(self.remotes) > 1


ROWS_INLINE_MAX: Final = 100  # of one message, 20 us each in the queue, 60 us in a mailbox (INV-12)
# Of one message, aliases followed: a stranger's one RCPT may stand for a large alias, his thousand for a thousand of
# them. Ten times the recipients of a transaction; 0.2 s of the lane.
ROWS_MAX: Final = 10_000
_A_TURN: Final = 200  # rows that are made between two looks at the loop: 10 us each
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
        try:
            arrival = await self.arrival(envelope, targets, trail)
        except BaseException:
            await local.drop(self.store, (new,))
            raise
        recipients = tuple(record.searched_as(one.address) for one in targets) if envelope.account_id else ()
        await local.check_room_for(self.store, (new,))
        rows = len(trail.addresses) + sum(len(one.recipients) for one in arrival.outgoing)
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
        """What the store is to take: who gets it here, and the envelopes that it travels on with; each once.

        Of several recipients that stand for the same people the first counts, with its options.

        Raises:
            Refusal: CANNOT, no return address leads back to the sender through us.
        """
        plain = self._outgoing(envelope, envelope.reverse_path)
        now = clock.now_s()
        if envelope.not_before > now:
            return Arrival(trail, (), (self._held(plain, targets),), plain)
        by_place = {(one.accounts, one.remotes, one.role, one.detail): one for one in reversed(targets)}
        firsts = tuple(by_place.values())[::-1]
        outgoing = tuple(
            self._outgoing(envelope, path)._replace(recipients=tuple(found.values()))
            for path, found in (await self._elsewhere(envelope, firsts, now)).items()
        )
        return Arrival(trail, _here(firsts), outgoing, plain)

    async def _elsewhere(
        self, envelope: Envelope, targets: Sequence[Target], now_s: float
    ) -> dict[str, dict[str, NewRecipient]]:
        """By reverse-path, and by address as it is compared."""
        found: dict[str, dict[str, NewRecipient]] = {}
        paths: dict[tuple[bool, str], str] = {}
        made = 0
        for one in targets:
            if not one.remotes:
                continue
            key = (one.is_forward, domain_of(one.address) if one.is_forward else "")
            if key not in paths:
                paths[key] = await self.path_of(envelope.reverse_path, one, now_s)
            rows = found.setdefault(paths[key], {})
            for remote in one.remotes:
                folded = record.searched_as(remote)
                if folded not in rows:
                    rows[folded] = self._recipient(one, remote, envelope.reverse_path)
                made += 1
                if made % _A_TURN == 0:
                    await asyncio.sleep(0)
        return found

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
        original, notify = target.original, target.notify
        if target.is_expanded:
            # RFC 3461 §5.2.7.3: that it was delivered to one of many says nothing; the alias has a report of its own
            notify = notify & ~Notify.SUCCESS or (Notify.NEVER if notify else NOT_GIVEN)
        elif original is None and target.is_forward:
            # RFC 3461 §5.2.7.2: an alias of one address passes the options on. RFC 6533 §3: what is not ASCII is utf-8
            original = f"{'rfc822' if target.address.isascii() else 'utf-8'};{target.address}"
        return NewRecipient(self.destination_of(domain, sender), remote, original, int(notify))

    async def path_of(self, sender: str, target: Target, now_s: float) -> str:
        """The reverse-path that a target's mail travels on with.

        Raises:
            Refusal: CANNOT, no path of ours can hold the sender's address.
        """
        if not target.is_forward or not target.remotes or not sender:
            return sender
        if await self.store.read(0, has_domain, domain_of(sender)):
            return sender  # our own domain: what it publishes names us
        try:
            return srs.forward(self.srs_secret, sender, to_a_labels(domain_of(target.address)), now_s=now_s)
        except (Refusal, AddressError) as error:
            text = "This recipient's mail is sent on, and your return address is too long for that"
            raise Refusal(RefusalCode.CANNOT, text, f"srs: {sender}") from error

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


def _here(targets: Sequence[Target]) -> tuple[LocalRecipient, ...]:
    """Who gets it here, the same accounts once; and the aliases that a report of their own is owed for."""
    found: dict[tuple[tuple[int, ...], str | None], LocalRecipient] = {}
    expanded: list[LocalRecipient] = []
    for one in targets:
        is_told = Notify.SUCCESS in one.notify
        if one.accounts:
            wants = is_told and not one.is_expanded
            new = LocalRecipient(
                one.address, one.accounts, one.original, int(one.notify), wants, one.role, detail=one.detail
            )
            found.setdefault((one.accounts, one.detail), new)
        if is_told and one.is_expanded:
            expanded.append(LocalRecipient(one.address, (), one.original, int(one.notify), is_expanded=True))
    return (*found.values(), *expanded)


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
    detail = found.detail if len(found.accounts) == 1 and not found.remotes else None
    return Target(str(address), found.accounts, found.remotes, is_forward=bool(found.remotes), detail=detail)
