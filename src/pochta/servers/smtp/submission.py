"""What a signed-in user may send: as whom, with which header, and when. Source: RFC 6409 §5, §6.1, §8."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.accounts import directory, sending
from pochta.delivery.submit import Envelope, Origin, Target
from pochta.delivery.trace import date_time
from pochta.errors import Refusal, RefusalCode
from pochta.mime.submitted import MAX_AUTHORS, SubmittedHeader
from pochta.proto.address import Address, AddressError, parse_mailbox
from pochta.proto.smtp import events
from pochta.proto.smtp.events import Body
from pochta.proto.smtp.offers import FutureRelease, Offers
from pochta.servers.smtp.context import Role, SmtpContext, Transaction

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection

HOLD_MAX_S: Final = 90 * 86_400  # FUTURERELEASE: a quarter; who plans further does not leave it to a mail server
JUNK: Final = "junk"

_NOT_YOURS: Final = "not an address of the account you signed in with"
_ORIGINS: Final = {Role.TRANSFER: Origin.TRANSFER, Role.SUBMISSION: Origin.SUBMISSION, Role.LMTP: Origin.LMTP}
_BODIES: Final = {Body.SEVEN_BIT: "7bit", Body.EIGHT_BIT: "8bit", Body.BINARY: "binary"}


def offers(context: SmtpContext) -> Offers:
    """The extensions of a listener. When a message goes, and how soon, only its author may say."""
    if context.role is not Role.SUBMISSION:
        # In LMTP nobody's sender is proved, so that no success would ever be reported (INV-10): without DSN the system
        # in front tells of it itself (RFC 3461 §5.2.2).
        is_transfer = context.role is Role.TRANSFER
        return Offers(dsn=is_transfer, binarymime=True, requiretls=is_transfer, limits=is_transfer)
    return Offers(
        dsn=True,
        binarymime=True,
        requiretls=True,
        limits=True,
        future_release=FutureRelease(HOLD_MAX_S, int(clock.now_s()) + HOLD_MAX_S),
        deliver_by_min_s=0,
        mt_priority="",
    )


async def check_sender(context: SmtpContext, account_id: int, mail: events.Mail) -> None:
    """Refuse an envelope sender that the account does not own, and an account that may send nothing now.

    The null sender is taken: read receipts come with it.

    Raises:
        Refusal: NO_PERMISSION; LIMIT, POLICY.
    """
    # RFC 4865 §4.2: a time that has passed is no time to hold a message until
    if mail.hold_until is not None and mail.hold_until < clock.now_s():
        raise Refusal(RefusalCode.CANNOT, "The time of HOLDUNTIL has passed")
    if mail.reverse_path is not None:
        await _check_owned(context, account_id, mail.reverse_path)
    limits, now = context.submitter.limits, int(clock.now_s())
    refusal = await context.store.read(account_id, sending.would_exceed, account_id, 0, limits, now)
    if refusal is not None:
        raise refusal


async def _check_owned(context: SmtpContext, account_id: int, address: Address) -> None:
    if not await context.store.read(account_id, directory.owns, account_id, address, context.postmaster):
        raise Refusal(RefusalCode.NO_PERMISSION, f"You cannot send as {address}: {_NOT_YOURS}")


def header_of(context: SmtpContext, transaction: Transaction) -> SubmittedHeader:
    """The filter that makes the header of this message fit to be sent."""
    now_s = clock.now_s()
    message_id = f"<{int(now_s):x}.{clock.token_hex(10)}@{context.hostname}>"
    return SubmittedHeader(date=date_time(now_s), message_id=message_id, author=transaction.reverse_path)


async def check_authors(context: SmtpContext, account_id: int, header: SubmittedHeader) -> None:
    """Refuse a message whose From names anybody that the account does not own.

    Raises:
        Refusal: NO_PERMISSION, TOO_LARGE.
    """
    if header.is_too_large:
        raise Refusal(RefusalCode.TOO_LARGE, "The header of this message is too large")
    # RFC 5322 §3.6: one From, no more: programs that show the first and programs that show the last would differ
    if header.from_fields != 1 or not header.authors or header.is_ambiguous:
        raise Refusal(RefusalCode.POLICY, "A message has one From field with an address in it")
    if len(header.authors) > MAX_AUTHORS:
        raise Refusal(RefusalCode.LIMIT, f"More than {MAX_AUTHORS} addresses in From")
    for author in dict.fromkeys(header.authors):
        try:
            address = parse_mailbox(author.decode("utf-8"))
        except (UnicodeDecodeError, AddressError):
            raise Refusal(RefusalCode.NO_PERMISSION, f"From has an address that is {_NOT_YOURS}") from None
        await _check_owned(context, account_id, address)


def envelope_of(connection: "SmtpConnection", transaction: Transaction, *, is_authenticated: bool) -> Envelope:
    """What MAIL said. `is_authenticated`: see INV-10."""
    mail, now = transaction.mail, int(clock.now_s())
    not_before = mail.hold_until or 0
    if mail.hold_for_s is not None:
        not_before = now + mail.hold_for_s
    return Envelope(
        origin=_ORIGINS[connection.context.role],
        reverse_path=transaction.reverse_path,
        account_id=connection.account.account_id if connection.account is not None else 0,
        may_bounce=is_authenticated,
        envelope_id=mail.envelope_id,
        returns=mail.ret.value if mail.ret is not None else None,
        body=_BODIES[mail.body],
        is_smtputf8=mail.is_smtputf8,
        requires_tls=mail.requires_tls,
        priority=mail.priority or 0,
        deliver_by_at=None if mail.deliver_by_s is None else now + mail.deliver_by_s,
        deliver_by_mode=mail.deliver_by_mode and mail.deliver_by_mode.value + ("T" if mail.deliver_by_trace else ""),
        not_before=not_before,
    )


def as_junk(target: Target) -> Target:
    """The recipient with Junk as the mailbox. What goes elsewhere goes on: the checks there see the same."""
    return replace(target, role=JUNK)
