"""One message takes the place of another, in one transaction. Source: RFC 8508 §3.4."""

from collections.abc import Sequence

from pochta.errors import Refusal, RefusalCode
from pochta.store import messages, placements, rights
from pochta.store.messages import Appended, NewMessage, NewPlacement
from pochta.store.rights import Right
from pochta.store.tx import Tx


def replace(
    tx: Tx,
    reader_id: int,
    mailbox_name: str,
    items: Sequence[tuple[NewMessage, NewPlacement]],
    account_id: int,
    mailbox_id: int,
    uid: int,
    now: int,
) -> Appended:
    """Remove the message `uid` of a mailbox and append `items` to the mailbox that the reader knows by that name.

    Nothing of what is removed is handed down. The quota is that of the end, not of a moment between.

    Raises:
        Refusal: EXPUNGED, the message is gone; otherwise as `messages.append`.
    """
    # RFC 8508 §4.1: the rights of UID STORE, UID EXPUNGE and APPEND
    needed = Right.DELETE_MESSAGES | Right.EXPUNGE
    rights.need(rights.standing(tx, account_id, mailbox_id, reader_id), needed)
    args = (account_id, mailbox_id, ((uid, uid),), now)
    if not placements.expunge(tx, *args, needs_deleted=False, reader_id=reader_id):
        raise Refusal(RefusalCode.EXPUNGED, "The message is there no more")
    return messages.append(tx, reader_id, mailbox_name, items, now)
