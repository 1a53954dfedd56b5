"""RCPT: who a recipient stands for, and whether whoever asks may write to them now."""

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from pochta import clock, log
from pochta.accounts import sending, srs
from pochta.delivery import record, submit
from pochta.delivery.submit import Target
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.policy import dnsbl
from pochta.proto.address import POSTMASTER, Address
from pochta.proto.smtp import events
from pochta.proto.smtp.events import Notify
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import smtp_reply
from pochta.servers.smtp.context import Role, Transaction
from pochta.store import greylist
from pochta.store.directory import accounts_over_quota

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection

FULL: Final = "The mailbox is full"
_RELAY: Final = Reply(550, "5.7.1", "Relaying denied: no mail is kept here for that domain")
_POSTMASTER: Final = "postmaster"
_TOO_MANY: Final = "Too many addresses behind the recipients of one message; send it to the rest on its own"
_NULL_ONLY: Final = "This address takes reports only, which have no sender"


async def add(connection: "SmtpConnection", transaction: Transaction, event: events.Rcpt) -> None:
    """Answer RCPT."""
    address = event.forward_path
    target = transaction.known.get(address)
    try:
        if target is None:
            target = await _resolve(connection, transaction, address)
            await _refuse_dead_end(connection, transaction, address, target)
        key = (target.accounts, target.remotes)
        rows = transaction.rows + (0 if key in transaction.resolved else len(target.accounts) + len(target.remotes))
        if rows > submit.ROWS_MAX:
            raise Refusal(RefusalCode.LIMIT, _TOO_MANY)
        await _refuse_excess(connection, transaction)
    except (Refusal, TryLater) as error:
        _refuse(connection, address, error)
        return
    if target.address not in transaction.greeted and not await _is_welcome(connection, transaction, target):
        return
    # One object for all that stand for the same people: a thousand spellings of a large alias take its size once
    same = transaction.resolved.setdefault(key, target)
    target = replace(target, accounts=same.accounts, remotes=same.remotes)
    transaction.rows = rows
    transaction.known[address] = target
    notify = event.notify if event.notify is not None else Notify(0)
    if event.original is not None or notify:
        target = replace(target, original=event.original, notify=notify)
    transaction.recipients.append(target)
    connection.engine.accept()


async def _resolve(connection: "SmtpConnection", transaction: Transaction, address: Address) -> Target:
    """Who stands behind the address.

    Raises:
        Refusal, TryLater.
    """
    context = connection.context
    store = context.store
    may_relay = context.role is Role.SUBMISSION
    secret = context.submitter.srs_secret
    # Every report names it, and every Received field the host: whoever asks there is answered
    if address.domain and address.key == (_POSTMASTER, context.hostname.lower()):
        address = POSTMASTER
    target = await store.read(0, submit.resolve, address, context.postmaster, secret, clock.now_s(), may_relay)
    # Refused now, a sender can still send to the others
    if await store.read(0, accounts_over_quota, target.accounts, transaction.mail.size or 1):
        raise Refusal(RefusalCode.OVER_QUOTA, FULL)
    return target


async def _refuse_dead_end(
    connection: "SmtpConnection", transaction: Transaction, address: Address, target: Target
) -> None:
    """Refuse what could be sent on only with a return address that leads nowhere, or somewhere else.

    Raises:
        Refusal: POLICY; CANNOT.
    """
    sender = transaction.reverse_path
    context = connection.context
    is_srs = srs.is_rewritten(address.local_part) and target.remotes != (str(address),)
    # An address of SRS stands for a stranger: mail of others would go on with their own return address, for which we
    # cannot vouch (SPF). Reports are what it is made for.
    if is_srs and sender and context.role is not Role.SUBMISSION:
        raise Refusal(RefusalCode.POLICY, _NULL_ONLY)
    await context.submitter.path_of(sender, target, clock.now_s())


async def _refuse_excess(connection: "SmtpConnection", transaction: Transaction) -> None:
    """Refuse a recipient that the account may not write to any more today.

    Raises:
        Refusal: LIMIT, POLICY.
    """
    account = connection.account
    if account is None:
        return
    context = connection.context
    count = len(transaction.recipients) + 1
    limits = context.submitter.limits
    refusal = await context.store.read(
        account.account_id, sending.would_exceed, account.account_id, count, limits, int(clock.now_s())
    )
    if refusal is not None:
        raise refusal


async def _is_welcome(connection: "SmtpConnection", transaction: Transaction, target: Target) -> bool:
    """Whether a stranger may write to a recipient here now; the question is answered when not."""
    checks = connection.context.checks
    if checks is None or connection.is_trusted:
        return True
    # RFC 5321 §4.5.1: postmaster can be reached even by those whom everybody refuses
    if target.address.partition("@")[0].casefold() == _POSTMASTER or target.address == str(POSTMASTER):
        return True
    if checks.blocklists and (found := await _listed(connection)) is not None:
        zone, reason = found
        log.event(
            "smtp.rcpt.refused", conn=connection.id, peer=connection.peer_address, address=target.address, reason=zone
        )
        connection.engine.reply(
            Reply(550, "5.7.1", f"Your address is listed by {zone}{': ' if reason else ''}{reason}")
        )
        return False
    if checks.greylist_delay_s:
        wait_s = await _greylisted(connection, transaction, target)
        if wait_s:
            log.event("smtp.rcpt.greylisted", conn=connection.id, peer=connection.peer_address, address=target.address)
            # RFC 6647 §5.1: 4yz, and no more than that it is worth another try
            connection.engine.reply(Reply(451, "4.7.1", f"Not known here yet; try again in {wait_s} seconds"))
            return False
    transaction.greeted.add(target.address)
    return True


async def _listed(connection: "SmtpConnection") -> dnsbl.Listing | None:
    """Asked once for a connection."""
    checks = connection.context.checks
    assert checks is not None
    if not connection.is_looked_up:
        connection.listed = await dnsbl.listed(checks.resolver, checks.blocklists, ip_address(connection.peer_address))
        connection.is_looked_up = True
    return connection.listed


async def _greylisted(connection: "SmtpConnection", transaction: Transaction, target: Target) -> int:
    """How many seconds the triple has to wait."""
    checks = connection.context.checks
    assert checks is not None
    keys = greylist.keys_of(connection.peer_address, transaction.reverse_path, record.searched_as(target.address))
    rules = greylist.Rules(delay_s=checks.greylist_delay_s)
    return await connection.context.store.write(0, greylist.check, *keys, rules, int(clock.now_s()), durable=False)


def _refuse(connection: "SmtpConnection", address: Address, error: Refusal | TryLater) -> None:
    log.event("smtp.rcpt.refused", conn=connection.id, peer=connection.peer_address, address=address, reason=error)
    if isinstance(error, Refusal) and connection.count_refused_recipient():
        return
    if isinstance(error, Refusal) and error.code is RefusalCode.NOT_LOCAL:
        connection.engine.reply(_RELAY)
    elif isinstance(error, Refusal) and error.code is RefusalCode.CANNOT:
        # RFC 3463 §3.2: X.1.7, the sender's address
        connection.engine.reply(Reply(550, "5.1.7", error.text))
    else:
        connection.engine.reply(smtp_reply(error))
