"""FETCH of sections for which the message is opened: bodies, parts, headers beyond the usual fields.

Small messages are read in batches; a section of a large one goes to the peer in chunks, each as soon as the peer has
taken the one before (INV-5, INV-7). A message is parsed only when a part number, or BODY, was asked for.
"""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta import log
from pochta.errors import Corrupt
from pochta.mime import describe
from pochta.mime.parse import Part, Scanner, parse
from pochta.mime.section import filter_fields, find_section
from pochta.proto.imap.commands import BinarySection, BodySection, FetchAttribute, FetchItem, SectionKind
from pochta.servers.imap import telling
from pochta.servers.imap.fetch import binary
from pochta.servers.imap.search.facts import PARSE_BYTES
from pochta.servers.pace import Pace
from pochta.store import blobs
from pochta.store.blobs import StoredBlob
from pochta.store.store import Store
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

BATCH_BYTES: Final = 256 * 1024  # of small messages read at once
SEND_BYTES: Final = 64 * 1024


# Why a message is left out of the answer
DAMAGED: Final = b"CORRUPTION"  # RFC 5530 §3
UNKNOWN_CTE: Final = b"UNKNOWN-CTE"  # RFC 3516 §4.3

_PARSED_KINDS: Final = frozenset({SectionKind.MIME})


class Wanted(NamedTuple):
    """A message to answer for: its number, the part of the answer that is ready, and where its bytes are."""

    number: int
    head: bytes
    blob_id: int
    size: int
    header_size: int


def _read_blobs(tx: Tx, ids: tuple[int, ...]) -> list[StoredBlob | Corrupt]:
    return [_loaded(tx, blob_id) for blob_id in ids]


def _loaded(tx: Tx, blob_id: int) -> StoredBlob | Corrupt:
    try:
        return blobs.load(tx, blob_id)
    except Corrupt as damage:
        return damage


async def send(
    connection: "ImapConnection", account_id: int, wanted: Sequence[Wanted], items: Sequence[FetchItem]
) -> bytes:
    """Send one response for each message that can be read; why some cannot, as a response code.

    Raises:
        Refusal: NO_PERMISSION, the sign-in holds no more.
    """
    unread = b""
    for batch in _batches(wanted):
        ids = tuple(one.blob_id for one in batch)
        stored = await connection.context.store.read(account_id, _read_blobs, ids)
        for one, blob in zip(batch, stored, strict=True):
            connection.refuse_signed_out()
            damage = blob if isinstance(blob, Corrupt) else connection.context.store.blobs.damage_of(blob)
            if isinstance(blob, Corrupt) or damage is not None:
                log.event("imap.fetch.damaged", conn=connection.id, account=connection.address, detail=damage)
                unread = DAMAGED
            elif not await _send_one(connection, one, blob, items):
                unread = unread or UNKNOWN_CTE
    return unread


def _batches(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    batches: list[list[Wanted]] = []
    held = BATCH_BYTES
    for one in wanted:
        if held + one.size > BATCH_BYTES:
            batches.append([])
            held = 0
        batches[-1].append(one)
        held += one.size
    return batches


async def _send_one(connection: "ImapConnection", one: Wanted, blob: StoredBlob, items: Sequence[FetchItem]) -> bool:
    """Send the response; False, and nothing sent, where a part is in an encoding that is not known."""
    root = await parsed(connection.context.store, blob) if any(_needs_parse(item) for item in items) else None
    decoded: dict[BinarySection, binary.Decoded] = {}
    for item in items:
        if isinstance(item, BinarySection):
            found = await binary.decoded(connection.context.store.blobs, blob, item, root)
            if found is None:
                return False
            decoded[item] = found
    connection.send((telling.fetch_head(connection.modes) + b"%b") % (one.number, one.head))
    separator = b" " if one.head else b""
    for item in items:
        connection.send(separator)
        separator = b" "
        if isinstance(item, BodySection):
            await _send_section(connection, one, blob, item, root)
        elif isinstance(item, BinarySection):
            await binary.send(connection, blob, item, decoded[item])
        else:
            assert root is not None
            if item is FetchAttribute.BODYSTRUCTURE:
                structure = describe.body_structure(root, is_rev2=connection.modes.rev2)
            else:
                structure = describe.body(root, is_rev2=connection.modes.rev2)
            connection.send(b"%b %b" % (item.value, structure))
    await connection.send_large(b")\r\n")
    return True


def _needs_parse(item: FetchItem) -> bool:
    return not isinstance(item, BodySection | BinarySection) or bool(item.part)


async def parsed(store: Store, blob: StoredBlob) -> Part:
    """The tree of the message's parts."""
    if blob.inline is not None and blob.size <= PARSE_BYTES:
        return parse(blob.inline)
    scanner = Scanner(coalesce_bytes=PARSE_BYTES)
    pace = Pace()
    async for chunk in store.blobs.open(blob, 0, blob.size):
        for at in range(0, len(chunk), PARSE_BYTES):
            scanner.feed(chunk[at : at + PARSE_BYTES])
            await pace.turn()
    return scanner.finish()


def _span(one: Wanted, item: BodySection, root: Part | None) -> tuple[int, int] | None:
    """Where the section lies in the message; None when it has no such section."""
    if item.part:
        assert root is not None
        if item.kind is SectionKind.WHOLE:
            return find_section(root, item.part)
        if item.kind in _PARSED_KINDS:
            return find_section(root, item.part, "MIME")
        return find_section(root, item.part, "TEXT" if item.kind is SectionKind.TEXT else "HEADER")
    if item.kind is SectionKind.WHOLE:
        return 0, one.size
    return (one.header_size, one.size) if item.kind is SectionKind.TEXT else (0, one.header_size)


class Content(NamedTuple):
    """What a section holds: the octets `start <= n < stop` of the message or, where fields were chosen, `data`."""

    start: int
    stop: int
    data: bytes | None = None

    @property
    def size(self) -> int:
        """Octets."""
        return self.stop - self.start if self.data is None else len(self.data)


async def content(store: Store, one: Wanted, blob: StoredBlob, item: BodySection, root: Part | None) -> Content | None:
    """The section of a message, None when there is none; `root` is given where the item names a part."""
    span = _span(one, item, root)
    if span is None:
        return None
    start, stop = span
    if item.kind in (SectionKind.HEADER_FIELDS, SectionKind.HEADER_FIELDS_NOT):
        header = b"".join([chunk async for chunk in store.blobs.open(blob, start, stop)])
        data = filter_fields(header, item.fields, negate=item.kind is SectionKind.HEADER_FIELDS_NOT)
        if item.partial is not None:
            data = data[item.partial[0] : item.partial[0] + item.partial[1]]
        return Content(0, 0, clean(data))
    if item.partial is not None:
        # RFC 3501 §6.4.5: a partial fetch beyond the end is an empty string
        start = min(start + item.partial[0], stop)
        stop = min(start + item.partial[1], stop)
    return Content(start, stop)


async def chunks(store: Store, blob: StoredBlob, found: Content) -> AsyncIterator[bytes]:
    """The octets of the section, as a literal may carry them."""
    if found.data is not None:
        yield found.data
        return
    if blob.inline is not None:
        yield clean(blob.inline[found.start : found.stop])
        return
    for at in range(found.start, found.stop, SEND_BYTES):
        async for chunk in store.blobs.open(blob, at, min(at + SEND_BYTES, found.stop)):
            yield clean(chunk)


async def _send_section(
    connection: "ImapConnection", one: Wanted, blob: StoredBlob, item: BodySection, root: Part | None
) -> None:
    found = await content(connection.context.store, one, blob, item, root)
    if found is None:
        connection.send(item.label + b" NIL")
        return
    connection.send(b"%b {%d}\r\n" % (item.label, found.size))
    if blob.inline is not None and found.data is None:
        await connection.send_large(clean(blob.inline[found.start : found.stop]))
        return
    async for chunk in chunks(connection.context.store, blob, found):
        await connection.send_large(chunk)


def clean(data: bytes) -> bytes:
    """What a literal may carry: RFC 3501 §4.3.1 forbids NUL outside literal8; the stored message keeps it."""
    return data.replace(b"\0", b"\x80") if b"\0" in data else data
