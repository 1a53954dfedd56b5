"""One attempt: a message and its recipients at one destination, from the route to each recipient's fate.

Theory of operation. A `Sender` belongs to one deliverer and keeps its connection from message to message. For each it
finds the route, has the hosts looked up where the open connection does not serve, opens one to the first host that
takes it, decides in which form the message goes there (`form`), and sends it. A host that is lost before it can have
taken the message is followed by the next one.

An attempt ends with the first transaction that decided over anybody, so that what a server has taken can be written
down before more is sent: recipients that had no room in it (RCPTMAX, 452) are left undecided, for the next attempt.
What goes wrong inside at one message ends that message's attempt, never the queue's work.

REQUIRETLS needs a verified certificate, and for mail by MX a name of the host that nobody could have forged: DNSSEC
vouches for it, as long as MTA-STS is not asked. Where no host has all of it, the message is returned.

Refuses to know what a fate means for the queue (`settling`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Final, NamedTuple

from pochta import clock, log
from pochta.delivery.submit import domain_of
from pochta.dns import Resolver
from pochta.errors import Corrupt, LocalProtocolError, TryLater
from pochta.net.connection import report_bug
from pochta.proto.address import Address, AddressError, parse_mailbox
from pochta.proto.smtp.client.envelope import Envelope
from pochta.proto.smtp.client.envelope import Recipient as EnvelopeRecipient
from pochta.proto.smtp.client.events import Sent
from pochta.proto.smtp.client.extensions import Extensions
from pochta.proto.smtp.events import Notify
from pochta.proto.smtp.replies import Reply
from pochta.queue.content import Contents, NoRoomError, Rendered, Source
from pochta.queue.form import Needs, Offered, Refused, Sending, Step, decide
from pochta.queue.route import Route, Routes, RouteTls
from pochta.queue.session import Session, SessionError, SessionLimits, Stage
from pochta.queue.session import TlsMode as SessionTls
from pochta.queue.settling import End, Fate, fate_of
from pochta.queue.targets import OurSide, Target, Unroutable, relay_targets, targets
from pochta.store.outbox import Claim, Outgoing, Recipient

ADDRESSES_KEPT: Final = 1024  # each is looked at three times for one message; 1 kB each
RECIPIENTS_MAX: Final = 100  # of one transaction: RFC 5321 §4.5.3.1.8, what every server must take

_DAMAGED: Final = Reply(554, "5.3.0", "The message cannot be read any more")
_IN_DOUBT: Final = Reply(451, "4.4.2", "The connection was lost before the server said whether it has the message")
_BAD_ADDRESS: Final = Reply(553, "5.1.3", "The address cannot be written in SMTP")
_BUG: Final = Reply(451, "4.3.0", "This server met an error of its own while it sent the message")
# RFC 2852 §4.1.4.2: what is late in mode R goes nowhere
_TOO_LATE: Final = Reply(550, "5.4.7", "The time that the sender gave for the delivery (DELIVERBY) has passed")
_NO_ROOM: Final = Reply(451, "4.4.5", "Too many large messages are being converted at once")
_NEEDS_TLS: Final = "5.7.10"  # RFC 8689 §4.2.1
_NEEDS_REQUIRETLS: Final = "5.7.30"
_NO_DELIVER_BY: Final = Refused(550, "5.3.3", "the next server does not keep delivery times (DELIVERBY)")
_TLS: Final = {
    RouteTls.OPPORTUNISTIC: SessionTls.OPPORTUNISTIC,
    RouteTls.REQUIRED: SessionTls.REQUIRED_VERIFIED,
    RouteTls.NEVER: SessionTls.NEVER,
}


class Job(NamedTuple):
    """A message and those of its recipients that go together."""

    message: Outgoing
    recipients: tuple[Recipient, ...]


class Outcome(NamedTuple):
    """What became of each recipient of a job, in their order, None: to be tried again now; at least one has a fate.

    `is_reached` False: the destination as a whole could not be reached; None: nobody was asked.
    """

    fates: tuple[Fate | None, ...]
    is_reached: bool | None


def jobs_of(claim: Claim) -> list[Job]:
    """The claimed recipients by message, in the order of the claim."""
    by_message: dict[int, list[Recipient]] = {}
    for one in claim.recipients:
        by_message.setdefault(one.outgoing_id, []).append(one)
    messages = {one.id: one for one in claim.messages}
    return [Job(messages[outgoing_id], tuple(found)) for outgoing_id, found in by_message.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How this server sends."""

    contents: Contents
    routes: Routes
    resolver: Resolver
    hello_name: str
    own: OurSide = field(default_factory=OurSide)
    ca_file: str | None = None
    limits: SessionLimits = field(default_factory=SessionLimits)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Sender"]:
        """A sender; its connection is closed in the end."""
        sender = Sender(self)
        try:
            yield sender
        finally:
            await sender.close()


class _Way(NamedTuple):
    """What a connection must be to serve for a message: equal ways may share one."""

    route: Route
    domain: str  # "" for relays, which take mail for any
    tls: SessionTls
    is_authentic: bool  # only hosts that DNSSEC vouches for


class _UnreachedError(Exception):
    """No host took the connection; `fate` is everybody's, `is_reached` as in `Outcome`.

    `needs_less_tls`: a host is there, but not with the TLS that was asked for.
    """

    def __init__(self, fate: Fate, *, is_reached: bool | None, needs_less_tls: bool = False) -> None:
        super().__init__(fate.line)
        self.fate = fate
        self.is_reached = is_reached
        self.needs_less_tls = needs_less_tls


class _CutOffError(Exception):
    """The connection was lost in a transaction; `decided`: refusals, and in LMTP deliveries."""

    def __init__(self, error: SessionError, places: list[int], decided: dict[int, Fate], host: str) -> None:
        super().__init__(error.text)
        replies = error.recipients or (None,) * len(places)
        told = {place: fate_of(reply, host) for place, reply in zip(places, replies, strict=True) if reply is not None}
        self.decided = decided | told
        self.undecided = [place for place in places if place not in told]
        self.is_in_doubt = error.is_in_doubt
        self.fate = Fate(End.DEFERRED, _IN_DOUBT if error.is_in_doubt else _temporary(error), host)


class Sender:
    """Sends one message after the other."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._session: Session | None = None
        self._way: _Way | None = None
        self._left: list[Target] = []  # hosts that were not asked yet

    async def close(self) -> None:
        """Say goodbye, if a connection is open."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def attempt(self, job: Job) -> Outcome:
        """Send the message to its recipients, as far as one transaction goes.

        Raises:
            TryLater: the store does not answer.
        """
        fates: dict[int, Fate] = {}
        is_reached: bool | None = None
        try:
            is_reached = await self._attempt(job, fates)
        except Corrupt as error:
            log.event("queue.message.damaged", outgoing=job.message.id, detail=error)
            fates = _filled(fates, job, Fate(End.FAILED, _DAMAGED))
        except TryLater:
            if not fates:
                raise
        # What was met once with this message is met again at once if its row is merely given back: it is put off.
        except Exception as error:  # noqa: BLE001 - the top of what is done for one message
            report_bug(error)
            fates = _filled(fates, job, Fate(End.DEFERRED, _BUG))
        return Outcome(tuple(fates.get(place) for place in range(len(job.recipients))), is_reached)

    async def _attempt(self, job: Job, fates: dict[int, Fate]) -> bool | None:
        """Decide over at least one recipient; whether the destination could be reached, None: nobody was asked."""
        message = job.message
        if message.returned_at is not None and message.returned_at <= clock.now_s():
            fates |= dict.fromkeys(range(len(job.recipients)), Fate(End.FAILED, _TOO_LATE))
            return None
        source = await self._attempts.contents.load(message)
        for way, places in self._ways(job).items():
            if way is None:
                fates |= dict.fromkeys(places, Fate(End.FAILED, _BAD_ADDRESS))
                continue
            part = places[:RECIPIENTS_MAX]
            try:
                await self._send_either_way(job, part, way, source, fates)
            except _UnreachedError as error:
                fates |= dict.fromkeys(places, error.fate)
                return error.is_reached
            return True
        return None

    async def _send_either_way(
        self, job: Job, places: list[int], way: _Way, source: Source, fates: dict[int, Fate]
    ) -> None:
        """As `_send`; a bounce goes with the TLS that is to be had, where there is less than its message asked for."""
        try:
            await self._send(job, places, way, source, fates)
        except _UnreachedError as error:
            less = way._replace(tls=_TLS[way.route.tls])
            # RFC 8689 §5: REQUIRETLS is no reason to lose a bounce
            if job.message.reverse_path or less == way or not error.needs_less_tls:
                raise
        else:
            return
        await self._send(job, places, less, source, fates)

    def _ways(self, job: Job) -> dict[_Way | None, list[int]]:
        """The places of the recipients by the way that each goes; None: an address that cannot be sent."""
        sender = _key_of(job.message.reverse_path)
        sender_local, sender_domain = sender or ("", "")
        found: dict[_Way | None, list[int]] = {}
        for place, one in enumerate(job.recipients):
            key = _key_of(one.address)
            if key is None:
                found.setdefault(None, []).append(place)
                continue
            domain = key[1]
            route = self._attempts.routes.find(domain, sender_domain, sender_local_part=sender_local)
            # RFC 8689 §4.2.1: a verified certificate all the way
            tls = SessionTls.REQUIRED_VERIFIED if job.message.requires_tls else _TLS[route.tls]
            # RFC 8689 §4.2.1: the name from an MX needs DNSSEC or MTA-STS; a bounce (null path) is not held to it
            is_authentic = job.message.requires_tls and route.is_by_mx and sender is not None
            way = _Way(route, domain if route.is_by_mx else "", tls, is_authentic)
            found.setdefault(way, []).append(place)
        return found

    async def _send(self, job: Job, places: list[int], way: _Way, source: Source, fates: dict[int, Fate]) -> None:
        """Decide over at least one of the places.

        Raises:
            _UnreachedError: nothing was sent to any of them.
        """
        self._left = []
        decided: dict[int, Fate] = {}
        # Ends: each turn decides over a recipient, uses up a host, or does away with a connection that was open before.
        while not decided:
            before = self._session
            session = await self._session_for(way)
            try:
                decided = await self._transact(session, job, places, source)
            except _CutOffError as error:
                await self.close()
                decided = error.decided
                if error.is_in_doubt or (session is not before and not self._left):
                    decided |= dict.fromkeys(error.undecided, error.fate)
                # else: the connection had gone stale, or there is another host to ask
            if self._left and decided and all(_is_of_host(fate) for fate in decided.values()):
                await self.close()
                decided = {}
            fates |= decided

    async def _transact(self, session: Session, job: Job, places: list[int], source: Source) -> dict[int, Fate]:
        """One transaction for as many of the places as the server takes; those without a fate are to be tried again."""
        contents = self._attempts.contents
        batch = _batch(job, places, session.extensions)
        needs = self._needs(job, batch)
        offered = Offered.by(session.extensions)
        rendered = await contents.render(job.message, source)
        decision = decide(rendered.form, rendered.size, needs, offered)
        if isinstance(decision, Sending) and decision.step is not Step.AS_IS:
            try:
                async with contents.converted(job.message, source, decision.step) as made:
                    return await self._transact_converted(session, job, batch, made)
            except NoRoomError:
                return dict.fromkeys(batch, Fate(End.DEFERRED, _NO_ROOM))
        return await self._transact_as(session, job, batch, rendered, decision)

    async def _transact_converted(
        self, session: Session, job: Job, batch: list[int], made: Rendered | Refused
    ) -> dict[int, Fate]:
        if isinstance(made, Refused):
            return dict.fromkeys(batch, _refused(made))
        decision = decide(made.form, made.size, self._needs(job, batch), Offered.by(session.extensions))
        if isinstance(decision, Sending) and decision.step is not Step.AS_IS:
            raise LocalProtocolError("a message that stays what it was converted from")
        return await self._transact_as(session, job, batch, made, decision)

    async def _transact_as(
        self, session: Session, job: Job, batch: list[int], rendered: Rendered, decision: Sending | Refused
    ) -> dict[int, Fate]:
        if (
            isinstance(decision, Sending)
            and job.message.returned_at is not None
            and not session.extensions.has_deliver_by
        ):
            # RFC 2852 §4.1.4.2: what must be returned if late is not given to a server that does not look at the time
            decision = _NO_DELIVER_BY
        if isinstance(decision, Refused):
            return dict.fromkeys(batch, _refused(decision))
        fates = {batch[place]: _refused(why) for place, why in decision.refused}
        sent_to = [batch[place] for place, _ in decision.recipients]
        envelope = _envelope(job, decision, [job.recipients[place] for place in sent_to])
        try:
            sent = await session.send(envelope, rendered.size, self._attempts.contents.body(rendered))
        except SessionError as error:
            raise _CutOffError(error, sent_to, fates, session.host) from None
        except LocalProtocolError as error:
            if session.is_usable:  # nothing has left: an address or a parameter that SMTP cannot carry
                return fates | dict.fromkeys(sent_to, Fate(End.FAILED, Reply(553, "5.1.3", str(error))))
            raise
        # RFC 5321 §3.8: 421 before the message is about the connection, not about whom it was said of
        closing = next((one for one in sent.recipients if one.code == 421), None)
        if closing is not None and sent.data is None:
            told = tuple(None if one.code == 421 else one for one in sent.recipients)
            lost = SessionError(Stage.TRANSACTION, "the server closes the connection", reply=closing, recipients=told)
            raise _CutOffError(lost, sent_to, fates, session.host)
        return fates | _fates(sent_to, sent, session)

    def _needs(self, job: Job, places: list[int]) -> Needs:
        message = job.message
        recipients = [found for place in places if (found := _parsed(job.recipients[place].address)) is not None]
        # RFC 8689 §4.2.1: asked for only where the certificate was verified; only a bounce comes this far without
        is_verified = self._way is not None and self._way.tls is SessionTls.REQUIRED_VERIFIED
        return Needs(
            reverse_path=_parsed(message.reverse_path),
            recipients=recipients,
            is_requiretls=message.requires_tls and is_verified,
            is_smtputf8=message.is_smtputf8,
        )

    async def _session_for(self, way: _Way) -> Session:
        """The open connection where it serves, else one to the next host.

        Raises:
            _UnreachedError.
        """
        session = self._session
        if session is not None and self._way == way and session.is_usable:
            return session
        await self.close()
        if not self._left:
            self._left = await self._hosts(way)
        self._way = way
        last = Fate(End.DEFERRED, Reply(451, "4.4.1", "No host could be reached"))
        is_reached = needs_less_tls = False
        while self._left:
            target = self._left.pop(0)
            try:
                self._session = await self._open(way, target)
                return self._session
            except SessionError as error:
                last = _session_fate(error, target)
                needs_less_tls |= error.stage is Stage.TLS
                # a host is there: what this sender's route asks of it, others' mail may do without
                is_reached |= error.stage in (Stage.TLS, Stage.AUTH)
                if way.is_authentic and error.stage is Stage.TLS:
                    last = _no_tls(error.text, last.host)
        raise _UnreachedError(last, is_reached=is_reached, needs_less_tls=needs_less_tls)

    async def _hosts(self, way: _Way) -> list[Target]:
        attempts = self._attempts
        try:
            if way.route.hosts:
                return list(await relay_targets(attempts.resolver, way.route.hosts, attempts.own))
            found = list(await targets(attempts.resolver, way.domain, attempts.own, port=way.route.port))
        except Unroutable as error:
            end = End.FAILED if error.is_permanent else End.DEFERRED
            fate = Fate(end, Reply(error.code, error.enhanced, error.text))
            raise _UnreachedError(fate, is_reached=error.is_permanent) from None
        if way.is_authentic:
            found = [one for one in found if one.is_authentic]
            if not found:
                raise _UnreachedError(_no_tls("DNSSEC does not vouch for its mail servers"), is_reached=None)
        return found

    async def _open(self, way: _Way, target: Target) -> Session:
        attempts, route = self._attempts, way.route
        credentials = route.credentials
        return await Session.open(
            target.host,
            str(target.address),
            target.port,
            hello_name=attempts.hello_name,
            tls=way.tls,
            credentials=None if credentials is None else (credentials.username, credentials.password),
            source_address=next(
                (str(one) for one in route.source_addresses if one.version == target.address.version), None
            ),
            limits=attempts.limits,
            ca_file=attempts.ca_file,
            is_implicit_tls=route.is_implicit_tls,
            is_lmtp=route.is_lmtp,
        )


@lru_cache(maxsize=ADDRESSES_KEPT)
def _parsed(address: str) -> Address | None:
    try:
        return parse_mailbox(address)
    except AddressError:
        return None


def _filled(fates: dict[int, Fate], job: Job, fate: Fate) -> dict[int, Fate]:
    """What was decided; where that is nothing, the same for everybody."""
    return fates or dict.fromkeys(range(len(job.recipients)), fate)


def _batch(job: Job, places: list[int], extensions: Extensions) -> list[int]:
    """The recipients of the next transaction."""
    batch = places[: extensions.rcpt_max] if extensions.rcpt_max else places
    domains_max = extensions.rcpt_domain_max
    if not domains_max:
        return batch
    # RFC 9422 §4: so many domains in one transaction
    domains = [domain_of(job.recipients[place].address) for place in batch]
    taken = set(list(dict.fromkeys(domains))[:domains_max])
    return [place for place, domain in zip(batch, domains, strict=True) if domain in taken]


def _is_of_host(fate: Fate) -> bool:
    """Whether it is this host alone that cannot do what the message needs."""
    return fate.end is End.FAILED and not fate.host and fate.reply.enhanced == _NEEDS_REQUIRETLS


def _no_tls(why: str, host: str = "") -> Fate:
    return Fate(End.FAILED, Reply(550, _NEEDS_TLS, f"The sender asked for TLS all the way (REQUIRETLS): {why}"), host)


@lru_cache(maxsize=ADDRESSES_KEPT)
def _key_of(address: str) -> tuple[str, str] | None:
    found = _parsed(address)
    return None if found is None else found.key


def _fates(sent_to: list[int], sent: Sent, session: Session) -> dict[int, Fate]:
    """What a transaction came to for each; who was one too many in it has no fate where others had room."""
    tls = session.tls_version or ""
    fates: dict[int, Fate] = {}
    beyond: list[int] = []
    for place, reply in zip(sent_to, sent.recipients, strict=True):
        fate = fate_of(reply, session.host, reports_itself=session.extensions.has_dsn, tls=tls)
        is_of_rcpt = reply is not sent.data and reply is not sent.mail
        if reply.code == 452 and reply.enhanced in ("", "4.5.3"):
            beyond.append(place)
        elif reply.code == 552 and reply.enhanced in ("", "4.5.3", "5.5.3") and is_of_rcpt:
            # RFC 5321 §4.5.3.1.10: 552 is what RFC 821 had for too many recipients, and is meant for a while
            beyond.append(place)
            fate = replace(fate, end=End.DEFERRED)
        fates[place] = fate
    if any(fate.end is End.DELIVERED for fate in fates.values()):
        # RFC 5321 §4.5.3.1.10: who was one too many is sent to in the next transaction
        for place in beyond:
            del fates[place]
    return fates


def _envelope(job: Job, decision: Sending, recipients: list[Recipient]) -> Envelope:
    message = job.message
    deliver_by = ""
    if message.deliver_by_at is not None:
        left_s = message.deliver_by_at - int(clock.now_s())
        # RFC 2852 §4.1.4: in mode R it must be more than nothing
        deliver_by = f"{left_s if message.returned_at is None else max(1, left_s)};{message.deliver_by_mode}"
    return Envelope(
        reverse_path=decision.reverse_path,
        recipients=tuple(
            EnvelopeRecipient(address, _notify(recipients[at].notify), recipients[at].original or "")
            for at, (_, address) in enumerate(decision.recipients)
        ),
        body=decision.body,
        is_smtputf8=decision.is_smtputf8,
        requires_tls=decision.is_requiretls,
        returns=message.returns or "",
        envelope_id=message.envelope_id or "",
        priority=message.priority,
        deliver_by=deliver_by,
    )


@cache
def _notify(bits: int) -> str:
    return ",".join(one.name or "" for one in Notify if one in Notify(bits))


def _refused(why: Refused) -> Fate:
    return Fate(End.FAILED, Reply(why.code, why.enhanced, f"Not sent: {why.text}"))


def _session_fate(error: SessionError, target: Target) -> Fate:
    """A host that cannot be spoken to is no word about a recipient: all of it is tried again."""
    return Fate(End.DEFERRED, _temporary(error), f"{target.host} [{target.address}]")


_STATUS: Final = {Stage.CONNECT: "4.4.1", Stage.TLS: "4.7.5", Stage.AUTH: "4.7.8"}


def _temporary(error: SessionError) -> Reply:
    said = f": {error.reply.code} {' '.join(error.reply.text.split())}" if error.reply is not None else ""
    return Reply(451, _STATUS.get(error.stage, "4.4.2"), f"{error.text}{said}")
