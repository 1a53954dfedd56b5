"""One mail transaction: sender, message, and the reply that stands for all recipients.

INV-1: 250 to the end of data leaves only after the commit that holds for each recipient a placement, a row of the queue
or a report that is owed. SMTP has one reply for all of them; where one recipient cannot be served and the sender could
not be told later (INV-10), it is 451 and nothing was taken. LMTP has one for each.
"""

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from pochta import clock, log
from pochta.accounts import sending
from pochta.delivery import local, record, trace
from pochta.delivery.submit import Target
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.policy.evaluate import Action, Inbound, Verdict
from pochta.proto.smtp import events
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import smtp_reply
from pochta.servers.smtp import submission
from pochta.servers.smtp.context import CIRCLE, Role, Transaction
from pochta.servers.smtp.inbound import InboundMessage
from pochta.servers.smtp.recipients import FULL
from pochta.store import trails
from pochta.store.arrivals import Taken
from pochta.store.directory import accounts_over_quota
from pochta.store.messages import NewMessage
from pochta.store.sqlite import as_try_later

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection

# DEVIATES RFC 5321 §4.4: OK and a notification are what it asks for; a sender that has not proved who it is gets no
# bounce (INV-10), and would never learn of those who got nothing, while every sending server tries again after 451.
_MIXED: Final = Reply(451, "4.3.0", "Some recipients cannot take this message; none received it")
_HEADER_TOO_LARGE: Final = "The header of this message is too large"


class PolicyError(Exception):
    """The checks refuse the message; `reply` says so."""

    def __init__(self, reply: Reply, verdict: Verdict) -> None:
        super().__init__(reply.text)
        self.reply = reply
        self.verdict = verdict


class CircleError(Exception):
    """The message has come through too many servers."""


_Failure = Refusal | TryLater | CircleError | PolicyError


async def begin(connection: "SmtpConnection", event: events.Mail) -> None:
    """Answer MAIL."""
    context = connection.context
    if await connection.is_account_lost():
        return
    try:
        local.check_room(context.store)
        if connection.account is not None:
            await submission.check_sender(context, connection.account.account_id, event)
    except (Refusal, TryLater) as error:
        log.event("smtp.mail.refused", conn=connection.id, address=event.reverse_path or "<>", reason=error)
        connection.engine.reply(smtp_reply(error))
        return
    open_transaction(connection, event)


def has_room(connection: "SmtpConnection") -> bool:
    """Whether new mail can be taken at all."""
    return connection.context.store.has_room()


def open_transaction(connection: "SmtpConnection", event: events.Mail) -> None:
    """Answer MAIL with yes; what is to be asked about the sender is asked from now on."""
    connection.transaction = transaction = Transaction(event)
    checks = connection.context.checks
    if checks is not None and not connection.is_trusted:
        inbound = Inbound(
            checks.resolver,
            checks.policy,
            address=ip_address(connection.peer_address),
            helo=connection.hello,
            reverse_path=event.reverse_path,
        )
        inbound.start(now_s=clock.now_s())
        transaction.inbound = InboundMessage(inbound, checks.policy.authserv_id, connection.context.intake)
    connection.engine.accept()


def begin_data(connection: "SmtpConnection") -> None:
    """Answer DATA, or the first BDAT."""
    transaction = _open(connection)
    context = connection.context
    try:
        local.check_room(context.store)
    except TryLater as error:
        connection.engine.reply(smtp_reply(error))
        return
    transaction.id = f"{connection.id:x}-{clock.token_hex(6)}"
    transaction.incoming = context.intake.open()
    _write(transaction, _trace(connection, transaction))
    if context.role is Role.SUBMISSION:
        transaction.header = submission.header_of(context, transaction)
    connection.engine.accept()


def _trace(connection: "SmtpConnection", transaction: Transaction) -> bytes:
    tls = f"{connection.tls_version} {connection.tls_cipher}" if connection.is_secure else None
    return trace.trace_header(
        trace.Peer(connection.hello, connection.peer_address, _with_protocol(connection, transaction), tls),
        hostname=connection.context.hostname,
        reverse_path=transaction.reverse_path,
        recipients=tuple(one.address for one in transaction.recipients),
        message_id=transaction.id,
        now_s=clock.now_s(),
    )


def _with_protocol(connection: "SmtpConnection", transaction: Transaction) -> str:
    # RFC 3848: S for TLS, A for a sign-in; RFC 6531 §4.3: UTF8 for SMTPUTF8, in place of the E
    suffix = ("S" if connection.is_secure else "") + ("A" if connection.account is not None else "")
    if connection.context.role is Role.LMTP:
        return f"UTF8LMTP{suffix}" if transaction.mail.is_smtputf8 else f"LMTP{suffix}"
    if transaction.mail.is_smtputf8:
        return f"UTF8SMTP{suffix}"
    return f"ESMTP{suffix}" if connection.is_extended else "SMTP"


def take_chunk(transaction: Transaction, data: bytes) -> None:
    """Spool the next bytes of the message."""
    if transaction.header is not None:
        data = transaction.header.feed(data)
    elif transaction.inbound is not None:
        data = transaction.inbound.feed(data)
    _write(transaction, data)


def _write(transaction: Transaction, data: bytes) -> None:
    assert transaction.incoming is not None
    if transaction.failure is not None:
        return
    try:
        transaction.incoming.write(data)
    except OSError as error:
        # the rest is read and dropped: SMTP has no way to stop a sender (RFC 5321 §4.1.1.4)
        transaction.failure = as_try_later(error)
        transaction.incoming.discard()


async def end(connection: "SmtpConnection") -> None:
    """Answer the end of data once the message is durable for every recipient."""
    transaction = _open(connection)
    if await connection.is_account_lost():
        return
    connection.transaction = None
    delivering = asyncio.ensure_future(_deliver(connection, transaction))
    try:
        outcome = await asyncio.shield(delivering)
    except asyncio.CancelledError:
        # The peer is gone, and has sent all of it. Cut off in its middle, a delivery would leave a file behind that no
        # row names: by coming and going, anybody could fill the disk with them.
        await delivering
        raise
    if connection.is_closing:
        return  # cut off: the question is not open any more
    if isinstance(outcome, _Failure):
        _refuse_message(connection, transaction, outcome)
        return
    for one in transaction.recipients if connection.context.role is Role.LMTP else transaction.recipients[:1]:
        to = f"<{one.address}> " if connection.context.role is Role.LMTP else ""
        if one in outcome:
            connection.engine.reply(Reply(250, "2.0.0", f"{to}Accepted as {transaction.id}"))
        else:
            _note_refusal(connection, transaction, one.address, FULL)
            connection.engine.reply(smtp_reply(Refusal(RefusalCode.OVER_QUOTA, f"{to}{FULL}")))


async def _deliver(connection: "SmtpConnection", transaction: Transaction) -> list[Target] | _Failure:
    """The recipients that the message is durably taken for; or why for nobody."""
    assert transaction.incoming is not None
    try:
        return await _take(connection, transaction)
    except BaseException as error:
        transaction.abandon()
        meaning = as_try_later(error) if isinstance(error, OSError) else error
        if isinstance(meaning, PolicyError):
            await _record_refusal(connection, transaction, meaning)
        if isinstance(meaning, _Failure):
            return meaning
        raise


async def _take(connection: "SmtpConnection", transaction: Transaction) -> list[Target]:
    context = connection.context
    new, verdict = await _finish(connection, transaction)
    takers = await _takers(connection, transaction, new)
    if verdict is not None and verdict.action is Action.JUNK:
        takers = [submission.as_junk(one) for one in takers]
    if not takers:
        await local.drop(context.store, (new,))
        return []
    envelope = submission.envelope_of(connection, transaction, is_authenticated=_may_bounce(connection, verdict))
    trail = _trail(connection, transaction, takers, new.blob.size, verdict)
    taken, charge = await context.submitter.submit(envelope, takers, new, trail)
    if charge is not None:
        sending.announce(charge)
    _note_delivery(connection, transaction, new, takers, taken)
    return transaction.recipients if context.role is not Role.LMTP else takers


def _may_bounce(connection: "SmtpConnection", verdict: Verdict | None) -> bool:
    """INV-10: a sender that signed in, or whose domain vouches for it. Of what LMTP brings nobody knows."""
    return connection.account is not None or (verdict is not None and verdict.is_authenticated)


async def _finish(connection: "SmtpConnection", transaction: Transaction) -> tuple[NewMessage, Verdict | None]:
    """The message with its bytes durable, found fit to be taken."""
    incoming = transaction.incoming
    assert incoming is not None
    verdict: Verdict | None = None
    if transaction.header is not None:
        _write(transaction, transaction.header.finish())
        if connection.account is not None:
            await submission.check_authors(connection.context, connection.account.account_id, transaction.header)
    elif transaction.inbound is not None:
        _write(transaction, transaction.inbound.finish())
        if transaction.inbound.lacks_room:
            raise TryLater("the server is short of memory for messages being received", retry_s=60)
        if transaction.inbound.is_too_large:
            raise Refusal(RefusalCode.TOO_LARGE, _HEADER_TOO_LARGE)
        verdict = await transaction.inbound.verdict(clock.now_s())
        if verdict.reply is not None:
            raise PolicyError(verdict.reply, verdict)
    if transaction.failure is not None:
        raise transaction.failure
    results = verdict.authentication_results if verdict is not None else b""
    new = await incoming.finish(int(clock.now_s()), trace=results)
    # RFC 5321 §6.3: a message that has passed so many servers, us not counted, runs in a circle
    if incoming.received_count - 1 > connection.context.hops_max:
        await local.drop(connection.context.store, (new,))
        raise CircleError
    return new, verdict


async def _takers(connection: "SmtpConnection", transaction: Transaction, new: NewMessage) -> list[Target]:
    """Who is to get the message. In LMTP those who have room: each has a reply of its own. Source: RFC 2033 §4.2."""
    if connection.context.role is not Role.LMTP:
        return transaction.recipients
    full = set(await connection.context.store.read(0, accounts_over_quota, transaction.accounts, new.blob.size))
    return [one for one in transaction.recipients if full.isdisjoint(one.accounts)]


def _trail(
    connection: "SmtpConnection",
    transaction: Transaction,
    recipients: list[Target],
    size: int,
    verdict: Verdict | None,
    shown: int = record.SHOWN_MAX,
) -> trails.NewTrail:
    account = connection.account
    return record.trail_of(
        transaction.id,
        message_id=transaction.incoming.message_id if transaction.incoming is not None else "",
        sender=transaction.reverse_path,
        recipients=[one.address for one in recipients[:shown]],
        facts={
            "role": connection.context.role.value,
            "peer": connection.peer_address,
            "hello": connection.hello,
            "tls": connection.tls_version,
            "account": account.address if account is not None else None,
            "size": size,
            "checks": verdict.facts() if verdict is not None else None,
            "to": [record.target_facts(one.address, one.accounts, one.remotes, one.role) for one in recipients[:shown]],
            "to_more": len(recipients) - shown if len(recipients) > shown else None,
        },
    )


async def _record_refusal(connection: "SmtpConnection", transaction: Transaction, error: PolicyError) -> None:
    """A refusal by the checks is asked about by both sides; one that the disk does not take is in the log alone."""
    size = transaction.incoming.size if transaction.incoming else 0
    shown_max = record.SHOWN_OF_REFUSED_MAX
    trail = _trail(connection, transaction, transaction.recipients, size, error.verdict, shown_max)
    trail = trail._replace(
        message_id=transaction.inbound.message_id if transaction.inbound is not None else "",
        facts=record.with_refusal(trail.facts, error.reply),
    )
    try:
        await connection.context.store.write(0, trails.add, trail, int(clock.now_s()), durable=False)
    except TryLater as later:
        log.event("smtp.trail.failed", conn=connection.id, id=transaction.id, reason=later)


def _note_delivery(
    connection: "SmtpConnection", transaction: Transaction, new: NewMessage, recipients: list[Target], taken: Taken
) -> None:
    accounts = {account for one in recipients for account in one.accounts}
    message_id = transaction.incoming.message_id if transaction.incoming is not None else ""
    connection.context.counters["messages_delivered"] += len(accounts)
    connection.context.counters["messages_queued"] += len(taken.outgoing_ids)
    sender, role, size = f"<{transaction.reverse_path}>", connection.context.role.value, new.blob.size
    conn, id = connection.id, transaction.id
    for one in recipients:
        to = f"<{one.address}>"
        if one.accounts:
            log.event(
                "smtp.delivered", conn=conn, id=id, sender=sender, to=to, message_id=message_id, size=size, role=role
            )
        if one.remotes:
            log.event(
                "smtp.queued", conn=conn, id=id, sender=sender, to=to, message_id=message_id, size=size, role=role
            )


def _note_refusal(connection: "SmtpConnection", transaction: Transaction, to: str, reason: object) -> None:
    log.event(
        "smtp.message.refused",
        conn=connection.id,
        id=transaction.id,
        sender=f"<{transaction.reverse_path}>",
        to=f"<{to}>",
        reason=reason,
    )


def _refuse_message(connection: "SmtpConnection", transaction: Transaction, error: _Failure) -> None:
    for one in transaction.recipients:
        _note_refusal(connection, transaction, one.address, CIRCLE.text if isinstance(error, CircleError) else error)
    if isinstance(error, CircleError):
        reply = CIRCLE
    elif isinstance(error, PolicyError):
        reply = error.reply
    elif isinstance(error, Refusal) and error.code is RefusalCode.OVER_QUOTA and len(transaction.recipients) > 1:
        # INV-1: one reply stands for all recipients; it cannot say "yes" for some of them
        reply = _MIXED
    else:
        reply = smtp_reply(error)
    while connection.engine.has_question:
        connection.engine.reply(reply)


def _open(connection: "SmtpConnection") -> Transaction:
    assert connection.transaction is not None
    return connection.transaction
