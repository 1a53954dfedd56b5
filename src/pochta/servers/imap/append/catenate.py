"""What the URLs of CATENATE name: sections of messages that the client may read, copied on the server.

A URL is asked anew for each part, with the rights of this moment; \\Seen is not set (RFC 4469 §3). The octets are those
that FETCH would send.

Source: RFC 4469 §3 and §4.1.
"""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pochta.errors import Corrupt, Refusal, RefusalCode, RemoteProtocolError
from pochta.mime.parse import Part
from pochta.proto.imap.url import MessageUrl, parse_message_url
from pochta.servers.imap import targets
from pochta.servers.imap.coded import CodedRefusal
from pochta.servers.imap.fetch import sections
from pochta.servers.imap.fetch.sections import Content, Wanted
from pochta.store import blobs
from pochta.store.blobs import StoredBlob
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

URL_SHOWN_BYTES: Final = 1024  # of a URL in the answer: what tells one from another stands in a tenth of that

_NO_TEXT: Final = re.compile(rb"[^\x20-\x5b\x5e-\x7e]")


class BadUrl(CodedRefusal):
    """A URL names nothing that this client can read: BADURL."""

    def __init__(self, url: bytes, text: str) -> None:
        # RFC 4469 §5: url-resp-text has no bracket that closes
        super().__init__(RefusalCode.CANNOT, text, b"BADURL " + _NO_TEXT.sub(b"?", url[:URL_SHOWN_BYTES]))


class Urls:
    """The URLs of one command: what was parsed last is kept, for the next one mostly names the same message."""

    __slots__ = ("_connection", "_parsed")

    def __init__(self, connection: "ImapConnection") -> None:
        self._connection = connection
        self._parsed: tuple[int, Part] | None = None

    async def find(self, url: bytes) -> tuple[StoredBlob, Content]:
        """The section that the URL names.

        Raises:
            Refusal: BadUrl.
        """
        selected = self._connection.selected
        try:
            named = parse_message_url(url, None if selected is None else selected.path)
            one, blob = await self._message(named)
        except RemoteProtocolError as error:
            text = str(error)
            raise BadUrl(url, text[:1].upper() + text[1:]) from error
        except (Corrupt, Refusal) as error:
            # RFC 4314 §6: whether there is one that may not be read is not told
            raise BadUrl(url, "There is no such message") from error
        root = await self._root(blob) if named.section.part else None
        found = await sections.content(self._connection.context.store, one, blob, named.section, root)
        if found is None:
            raise BadUrl(url, "The message has no such section")
        return blob, found

    async def _message(self, named: MessageUrl) -> tuple[Wanted, StoredBlob]:
        opened = await targets.readable(self._connection, named.mailbox)
        if named.uid_validity not in (0, opened.mailbox.uid_validity):
            raise Refusal(RefusalCode.NOT_FOUND, "The mailbox was made anew")
        store = self._connection.context.store
        args = (opened.account_id, opened.mailbox.id, named.uid)
        blob, header_size = await store.read(opened.account_id, _read_message, *args)
        damage = store.blobs.damage_of(blob)
        if damage is not None:
            raise damage
        return Wanted(0, b"", blob.id, blob.size, header_size), blob

    async def _root(self, blob: StoredBlob) -> Part:
        if self._parsed is None or self._parsed[0] != blob.id:
            self._parsed = blob.id, await sections.parsed(self._connection.context.store, blob)
        return self._parsed[1]

    def chunks(self, blob: StoredBlob, found: Content) -> AsyncIterator[bytes]:
        """The octets of the section."""
        return sections.chunks(self._connection.context.store, blob, found)


def _read_message(tx: Tx, account_id: int, mailbox_id: int, uid: int) -> tuple[StoredBlob, int]:
    row = tx.row(
        "SELECT m.blob_id, m.header_size FROM placement p JOIN message m ON m.account_id = p.account_id"
        " AND m.id = p.message_id WHERE p.account_id = ? AND p.mailbox_id = ? AND p.uid = ?",
        (account_id, mailbox_id, uid),
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "No such message")
    return blobs.load(tx, row[0]), row[1]
