"""The mailboxes that APPEND, REPLACE and CATENATE name, as the client knows them: its own and those of others.

Source: RFC 4314 §4 (which rights the commands need).
"""

from typing import TYPE_CHECKING

from pochta.store import access
from pochta.store.access import Opened
from pochta.store.rights import Right

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


async def appendable(connection: "ImapConnection", name: str) -> Opened:
    """A mailbox that messages can be put into; the write asks again.

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, INVALID_NAME.
    """
    return await _opened(connection, name, Right.INSERT)


async def readable(connection: "ImapConnection", name: str) -> Opened:
    """A mailbox whose messages can be read.

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, INVALID_NAME.
    """
    return await _opened(connection, name, Right.READ)


async def _opened(connection: "ImapConnection", name: str, right: Right) -> Opened:
    reader_id = connection.account_id
    return await connection.context.store.read(reader_id, access.open_selectable, reader_id, name, right)
