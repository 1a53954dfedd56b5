"""What a signed-in user may send: as whom, and with which header. Source: RFC 6409 §5, §6.1, §8."""

from typing import Final

from pochta import clock
from pochta.accounts import directory
from pochta.delivery.trace import date_time
from pochta.errors import Refusal, RefusalCode
from pochta.mime.submitted import MAX_AUTHORS, SubmittedHeader
from pochta.proto.address import Address, AddressError, parse_mailbox
from pochta.servers.smtp.context import SmtpContext, Transaction

_NOT_YOURS: Final = "not an address of the account you signed in with"


async def check_sender(context: SmtpContext, account_id: int, reverse_path: Address | None) -> None:
    """Refuse an envelope sender that the account does not own. The null one is taken: read receipts come with it.

    Raises:
        Refusal: NO_PERMISSION.
    """
    if reverse_path is not None:
        await _check_owned(context, account_id, reverse_path)


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
