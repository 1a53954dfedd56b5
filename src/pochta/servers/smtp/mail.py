"""One mail transaction: sender, recipients, message, and the reply that stands for all of it.

INV-1: 250 to the end of data leaves only after the commit that holds a placement for each recipient. SMTP has one reply
for all of them, so that a mixed outcome is 451 and nothing is delivered; LMTP has one for each.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from pochta import clock, log
from pochta.accounts import directory
from pochta.delivery import local, trace
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.address import Address
from pochta.proto.smtp import events
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import smtp_reply
from pochta.servers.smtp import submission
from pochta.servers.smtp.context import CIRCLE, Recipient, Role, Transaction
from pochta.store.directory import accounts_over_quota
from pochta.store.messages import NewMessage
from pochta.store.sqlite import as_try_later
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection

_FULL: Final = "The mailbox is full"
_RELAY: Final = Reply(550, "5.7.1", "Relaying denied: no mail is kept here for that domain")
# RFC 3463 §3.4: X.3.3, the system cannot do what was asked
_ELSEWHERE: Final = Reply(
    550, "5.3.3", "This server keeps no mail for that domain, and cannot send to other servers yet"
)
_FORWARDED: Final = Reply(550, "5.3.3", "This address forwards to another server, which is not possible yet")
# DEVIATES RFC 5321 §4.4: OK and a notification are what it asks for; without bounces the sender would never learn of
# those who got nothing, while every sending server tries again after 451.
_MIXED: Final = Reply(451, "4.3.0", "Some recipients cannot take this message; none received it")


async def begin(connection: "SmtpConnection", event: events.Mail) -> None:
    """Answer MAIL."""
    context = connection.context
    if await connection.is_account_lost():
        return
    try:
        local.check_room(context.store)
        if connection.account is not None:
            await submission.check_sender(context, connection.account.account_id, event.reverse_path)
    except (Refusal, TryLater) as error:
        log.event("smtp.mail.refused", conn=connection.id, address=event.reverse_path or "<>", reason=error)
        connection.engine.reply(smtp_reply(error))
        return
    open_transaction(connection, event)


def has_room(connection: "SmtpConnection") -> bool:
    """Whether new mail can be taken at all."""
    return connection.context.store.has_room()


def open_transaction(connection: "SmtpConnection", event: events.Mail) -> None:
    """Answer MAIL with yes."""
    reverse_path = "" if event.reverse_path is None else str(event.reverse_path)
    connection.transaction = Transaction(reverse_path, event.size, is_smtputf8=event.is_smtputf8)
    connection.engine.accept()


def _resolve(tx: Tx, address: Address, postmaster: str | None) -> directory.Resolution:
    return directory.resolve(tx, address, postmaster)


async def add_recipient(connection: "SmtpConnection", address: Address) -> None:
    """Answer RCPT."""
    transaction = _open(connection)
    store = connection.context.store
    known = transaction.known.get(address)
    if known is not None:
        # said again: an alias of a thousand targets must not be looked up a thousand times
        transaction.recipients.append(known)
        connection.engine.accept()
        return
    try:
        found = await store.read(0, _resolve, address, connection.context.postmaster)
        # Refused now, a sender can still send to the others
        if await store.read(0, accounts_over_quota, found.accounts, transaction.size or 1):
            raise Refusal(RefusalCode.OVER_QUOTA, _FULL)
    except (Refusal, TryLater) as error:
        _refuse_recipient(connection, address, error)
        return
    if found.remotes:
        connection.engine.reply(_FORWARDED)
        log.event("smtp.rcpt.refused", conn=connection.id, address=address, reason="forwards elsewhere")
        return
    recipient = transaction.known[address] = Recipient(str(address), found.accounts)
    transaction.recipients.append(recipient)
    connection.engine.accept()


def _refuse_recipient(connection: "SmtpConnection", address: Address, error: Refusal | TryLater) -> None:
    log.event("smtp.rcpt.refused", conn=connection.id, peer=connection.peer_address, address=address, reason=error)
    if isinstance(error, Refusal) and connection.count_refused_recipient():
        return
    if isinstance(error, Refusal) and error.code is RefusalCode.NOT_LOCAL:
        connection.engine.reply(_ELSEWHERE if connection.context.role is Role.SUBMISSION else _RELAY)
    else:
        connection.engine.reply(smtp_reply(error))


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
        return f"UTF8LMTP{suffix}" if transaction.is_smtputf8 else f"LMTP{suffix}"
    if transaction.is_smtputf8:
        return f"UTF8SMTP{suffix}"
    return f"ESMTP{suffix}" if connection.is_extended else "SMTP"


def take_chunk(transaction: Transaction, data: bytes) -> None:
    """Spool the next bytes of the message."""
    _write(transaction, data if transaction.header is None else transaction.header.feed(data))


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


class CircleError(Exception):
    """The message has come through too many servers."""


async def end(connection: "SmtpConnection") -> None:
    """Answer the end of data once the message is durable in every INBOX."""
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
    if not isinstance(outcome, set):
        _refuse_message(connection, transaction, outcome)
        return
    for one in transaction.recipients if connection.context.role is Role.LMTP else transaction.recipients[:1]:
        to = f"<{one.address}> " if connection.context.role is Role.LMTP else ""
        if one.accounts in outcome:
            connection.engine.reply(Reply(250, "2.0.0", f"{to}Accepted as {transaction.id}"))
        else:
            _note_refusal(connection, transaction, one.address, _FULL)
            connection.engine.reply(smtp_reply(Refusal(RefusalCode.OVER_QUOTA, f"{to}{_FULL}")))


async def _deliver(
    connection: "SmtpConnection", transaction: Transaction
) -> set[tuple[int, ...]] | Refusal | TryLater | CircleError:
    """The accounts of every recipient that has the message now, durably; or why nobody has it."""
    assert transaction.incoming is not None
    try:
        new = await _finish(connection, transaction)
        takers = await _takers(connection, transaction, new)
        accounts = tuple(dict.fromkeys(account for one in takers for account in one.accounts))
        if accounts:
            await local.deliver_local(connection.context.store, accounts, new)
            _note_delivery(connection, transaction, new, takers)
        else:
            await local.drop(connection.context.store, (new,))
    except BaseException as error:
        transaction.incoming.discard()
        meaning = as_try_later(error) if isinstance(error, OSError) else error
        if isinstance(meaning, (Refusal, TryLater, CircleError)):
            return meaning
        raise
    return {one.accounts for one in takers}


async def _finish(connection: "SmtpConnection", transaction: Transaction) -> NewMessage:
    """The message with its bytes durable, found fit to be delivered."""
    incoming = transaction.incoming
    assert incoming is not None
    if transaction.header is not None:
        _write(transaction, transaction.header.finish())
        if connection.account is not None:
            await submission.check_authors(connection.context, connection.account.account_id, transaction.header)
    if transaction.failure is not None:
        raise transaction.failure
    new = await incoming.finish(int(clock.now_s()))
    # RFC 5321 §6.3: a message that has passed so many servers, us not counted, runs in a circle
    if incoming.received_count - 1 > connection.context.hops_max:
        await local.drop(connection.context.store, (new,))
        raise CircleError
    return new


async def _takers(connection: "SmtpConnection", transaction: Transaction, new: NewMessage) -> list[Recipient]:
    """Who is to get the message. In LMTP those who have room: each has a reply of its own. Source: RFC 2033 §4.2."""
    if connection.context.role is not Role.LMTP:
        return transaction.recipients
    full = set(await connection.context.store.read(0, accounts_over_quota, transaction.accounts, new.blob.size))
    return [one for one in transaction.recipients if full.isdisjoint(one.accounts)]


def _note_delivery(
    connection: "SmtpConnection", transaction: Transaction, new: NewMessage, recipients: list[Recipient]
) -> None:
    accounts = {account for one in recipients for account in one.accounts}
    message_id = transaction.incoming.message_id if transaction.incoming is not None else ""
    connection.context.counters["messages_delivered"] += len(accounts)
    for one in recipients:
        log.event(
            "smtp.delivered",
            conn=connection.id,
            id=transaction.id,
            sender=f"<{transaction.reverse_path}>",
            to=f"<{one.address}>",
            message_id=message_id,
            size=new.blob.size,
            role=connection.context.role.value,
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


def _refuse_message(
    connection: "SmtpConnection", transaction: Transaction, error: Refusal | TryLater | CircleError
) -> None:
    for one in transaction.recipients:
        _note_refusal(connection, transaction, one.address, CIRCLE.text if isinstance(error, CircleError) else error)
    if isinstance(error, CircleError):
        reply = CIRCLE
    elif isinstance(error, Refusal) and error.code is RefusalCode.OVER_QUOTA and len(transaction.accounts) > 1:
        # INV-1: one reply stands for all recipients; it cannot say "yes" for some of them
        reply = _MIXED
    else:
        reply = smtp_reply(error)
    while connection.engine.has_question:
        connection.engine.reply(reply)


def _open(connection: "SmtpConnection") -> Transaction:
    assert connection.transaction is not None
    return connection.transaction
