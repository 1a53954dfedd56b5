"""REPLACE and UID REPLACE: which message goes, and the step that takes it away with the new one's coming.

Source: RFC 8508 §3.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pochta import clock
from pochta.delivery import local
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError
from pochta.proto.imap.append import STAR, Replaced
from pochta.store import replacing
from pochta.store.messages import Appended, NewMessage, NewPlacement
from pochta.store.rights import Right

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


async def uid_of(connection: "ImapConnection", replaced: Replaced) -> int:
    """The UID of the message that goes.

    Raises:
        RemoteProtocolError: no mailbox is selected, or the number is none. Refusal: EXPUNGED, NO_PERMISSION.
    """
    selected = connection.selected
    if selected is None:
        # RFC 8508 §3.5: in the selected state alone
        raise RemoteProtocolError("Select a mailbox first")
    if selected.is_read_only:
        raise Refusal(RefusalCode.NO_PERMISSION, "The mailbox was opened read-only")
    if (Right.DELETE_MESSAGES | Right.EXPUNGE) not in selected.standing.rights:
        raise Refusal(RefusalCode.NO_PERMISSION, "You have no right to remove messages here")
    snapshot = await selected.snapshot()
    number = replaced.number
    if replaced.is_uid:
        number = snapshot.last_uid if number == STAR else number
        found = list(snapshot.by_uid([(number, number)]))
        if not found:
            raise Refusal(RefusalCode.EXPUNGED, "There is no message of that UID")
        return number
    number = snapshot.count if number == STAR else number
    if not 1 <= number <= snapshot.count:
        raise RemoteProtocolError("There is no message of that number")
    (part,) = snapshot.by_seq([(number, number)])
    return part.uids[0]


async def commit(
    connection: "ImapConnection", uid: int, mailbox_name: str, items: Sequence[tuple[NewMessage, NewPlacement]]
) -> Appended:
    """Put the new message into its mailbox and remove the old one, both or neither.

    Raises:
        Refusal: NOT_FOUND, EXPUNGED, NO_PERMISSION, OVER_QUOTA, LIMIT. TryLater: the disk is full.
    """
    selected = connection.selected
    assert selected is not None
    store = connection.context.store
    await local.check_room_for(store, [new for new, _ in items])
    where = (selected.account_id, selected.mailbox_id, uid)
    args = (connection.account_id, mailbox_name, tuple(items), *where, int(clock.now_s()))
    try:
        return await store.write(selected.account_id, replacing.replace, *args)
    except Refusal:
        await local.drop(store, [new for new, _ in items])
        raise
