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
from pochta.proto.imap.commands import BodySection, FetchItem, SectionKind
from pochta.servers.imap.search_facts import PARSE_BYTES
from pochta.servers.pace import Pace
from pochta.store import blobs
from pochta.store.blobs import StoredBlob
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

BATCH_BYTES: Final = 256 * 1024  # of small messages read at once
SEND_BYTES: Final = 64 * 1024


_PARSED_KINDS: Final = frozenset({SectionKind.MIME})


class Wanted(NamedTuple):
    """A message to answer for: its number, the part of the answer that is ready, and where its bytes are."""

    seq: int
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
) -> bool:
    """Send one response for each message that can be read; whether all could.

    Raises:
        Refusal: NO_PERMISSION, the sign-in holds no more.
    """
    is_whole = True
    for batch in _batches(wanted):
        ids = tuple(one.blob_id for one in batch)
        stored = await connection.context.store.read(account_id, _read_blobs, ids)
        for one, blob in zip(batch, stored, strict=True):
            connection.refuse_signed_out()
            damage = blob if isinstance(blob, Corrupt) else connection.context.store.blobs.damage_of(blob)
            if isinstance(blob, Corrupt) or damage is not None:
                log.event("imap.fetch.damaged", conn=connection.id, account=connection.address, detail=damage)
                is_whole = False
            else:
                await _send_one(connection, one, blob, items)
    return is_whole


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


async def _send_one(connection: "ImapConnection", one: Wanted, blob: StoredBlob, items: Sequence[FetchItem]) -> None:
    root = await _parsed(connection, blob) if any(_needs_parse(item) for item in items) else None
    connection.send(b"* %d FETCH (%b" % (one.seq, one.head))
    separator = b" " if one.head else b""
    for item in items:
        connection.send(separator)
        separator = b" "
        if not isinstance(item, BodySection):
            assert root is not None
            connection.send(b"BODY %b" % describe.body(root))
            continue
        await _send_section(connection, one, blob, item, root)
    await connection.send_large(b")\r\n")


def _needs_parse(item: FetchItem) -> bool:
    return not isinstance(item, BodySection) or bool(item.part)


async def _parsed(connection: "ImapConnection", blob: StoredBlob) -> Part:
    if blob.inline is not None and blob.size <= PARSE_BYTES:
        return parse(blob.inline)
    scanner = Scanner(coalesce_bytes=PARSE_BYTES)
    pace = Pace()
    async for chunk in connection.context.store.blobs.open(blob, 0, blob.size):
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


async def _send_section(
    connection: "ImapConnection", one: Wanted, blob: StoredBlob, item: BodySection, root: Part | None
) -> None:
    span = _span(one, item, root)
    if span is None:
        connection.send(item.label + b" NIL")
        return
    start, stop = span
    if item.kind in (SectionKind.HEADER_FIELDS, SectionKind.HEADER_FIELDS_NOT):
        header = await _read(connection, blob, start, stop)
        is_negated = item.kind is SectionKind.HEADER_FIELDS_NOT
        data = filter_fields(header, item.fields, negate=is_negated)
        if item.partial is not None:
            data = data[item.partial[0] : item.partial[0] + item.partial[1]]
        connection.send(b"%b {%d}\r\n%b" % (item.label, len(data), _clean(data)))
        return
    if item.partial is not None:
        # RFC 3501 §6.4.5: a partial fetch beyond the end is an empty string
        start = min(start + item.partial[0], stop)
        stop = min(start + item.partial[1], stop)
    connection.send(b"%b {%d}\r\n" % (item.label, stop - start))
    if blob.inline is not None:
        await connection.send_large(_clean(blob.inline[start:stop]))
        return
    async for chunk in _chunks(connection, blob, start, stop):
        await connection.send_large(_clean(chunk))


async def _chunks(connection: "ImapConnection", blob: StoredBlob, start: int, stop: int) -> AsyncIterator[bytes]:
    for at in range(start, stop, SEND_BYTES):
        async for chunk in connection.context.store.blobs.open(blob, at, min(at + SEND_BYTES, stop)):
            yield chunk


async def _read(connection: "ImapConnection", blob: StoredBlob, start: int, stop: int) -> bytes:
    return b"".join([chunk async for chunk in connection.context.store.blobs.open(blob, start, stop)])


def _clean(data: bytes) -> bytes:
    """What a literal may carry: RFC 3501 §4.3.1 forbids NUL outside literal8; the stored message keeps it."""
    return data.replace(b"\0", b"\x80") if b"\0" in data else data
