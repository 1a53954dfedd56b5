"""RETR and TOP: the bytes of messages go to the peer.

Small messages are read in batches and leave in one write; a large one goes in chunks, each as soon as the peer has
taken the one before (INV-5, INV-7).
"""

# DEVIATES RFC 6856 §2.1: a client that has not said UTF8 gets a message with UTF-8 in its header as it is. Refusing it
# ([UTF8]) would keep every present client (fetchmail, getmail, Outlook, Thunderbird: none says UTF8) from the message,
# and some from all that follow; a surrogate would break its signatures. They have shown raw 8-bit headers for decades.
# DEVIATES RFC 1939 §11: a message that was stored without its last CRLF (by APPEND) is sent with one, two octets more
# than LIST tells: to know would mean to read every message at the sign-in.

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pochta import log
from pochta.errors import Corrupt, Refusal, RefusalCode
from pochta.proto.pop3 import events
from pochta.proto.pop3.multiline import TopCutter
from pochta.servers.pop3.inbox import Inbox, StoredMessage, read_messages
from pochta.store.blobs import StoredBlob

if TYPE_CHECKING:
    from pochta.servers.pop3.connection import Pop3Connection

SEND_BYTES: Final = 64 * 1024


async def retrieve(connection: "Pop3Connection", inbox: Inbox, question: events.Retrieve) -> None:
    """Answer RETR for each of the messages."""
    ids = tuple([inbox.message_ids[index] for index in question.indexes])
    for found in await connection.context.store.read(inbox.account_id, read_messages, inbox.account_id, ids):
        stored = _readable(connection, found)
        if stored is None:
            continue
        blob = stored.blob
        if blob.inline is not None:
            connection.engine.send_message(blob.inline)
            continue
        connection.engine.begin_message(blob.size)
        await _stream(connection, blob, None)


async def top(connection: "Pop3Connection", inbox: Inbox, question: events.Top) -> None:
    """Answer TOP."""
    ids = (inbox.message_ids[question.index],)
    (found,) = await connection.context.store.read(inbox.account_id, read_messages, inbox.account_id, ids)
    stored = _readable(connection, found)
    if stored is None:
        return
    cutter = TopCutter(stored.header_size, question.lines)
    connection.engine.begin_message(None)
    await _stream(connection, stored.blob, cutter)


async def _stream(connection: "Pop3Connection", blob: StoredBlob, cutter: TopCutter | None) -> None:
    """Send what `cutter` wants of the bytes, and end the message."""
    try:
        async for chunk in _chunks(connection, blob):
            connection.engine.continue_message(chunk if cutter is None else cutter.feed(chunk))
            if cutter is not None and cutter.is_done:
                break
            await connection.flush()
    except Corrupt as damage:
        # its time was over while a slow peer read: without the end mark no client takes a part for the whole
        log.event("pop3.message.damaged", conn=connection.id, account=connection.address, detail=damage)
        connection.abort()
        return
    connection.engine.end_message()


def _readable(connection: "Pop3Connection", found: StoredMessage | Corrupt | None) -> StoredMessage | None:
    """The message, or None when the client was told that it cannot be read."""
    if found is None:
        connection.refuse(Refusal(RefusalCode.EXPUNGED, "This message was removed too long ago"))
        return None
    damage = found if isinstance(found, Corrupt) else connection.context.store.blobs.damage_of(found.blob)
    if isinstance(found, Corrupt) or damage is not None:
        log.event("pop3.message.damaged", conn=connection.id, account=connection.address, detail=damage)
        # RFC 3206 §4: nothing will help but the administrator
        connection.engine.refuse("This message cannot be read", b"SYS/PERM")
        return None
    return found


async def _chunks(connection: "Pop3Connection", blob: StoredBlob) -> AsyncIterator[bytes]:
    if blob.inline is not None:
        yield blob.inline
        return
    for at in range(0, blob.size, SEND_BYTES):
        async for chunk in connection.context.store.blobs.open(blob, at, min(at + SEND_BYTES, blob.size)):
            yield chunk
