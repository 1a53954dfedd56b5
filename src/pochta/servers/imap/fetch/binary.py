"""FETCH BINARY: sections without their transfer encoding.

What is announced must be what follows, so a section is decoded before its answer begins: a small one is then held, a
large one is counted and decoded a second time while it is sent. A literal8 is sent only where there is a NUL, so that
a client can tell.

BINARY[] is the message as it is, and so is the section of a multipart or of a message inside: neither has a transfer
encoding that hides anything (RFC 2045 §6.4).

Source: RFC 3516 §4.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta.errors import Corrupt
from pochta.mime.decode import transfer_pieces
from pochta.mime.parse import Part
from pochta.mime.section import find_part, find_section
from pochta.proto.imap.commands import BinarySection
from pochta.servers.pace import Pace
from pochta.store.blobs import Blobs, StoredBlob

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

HELD_BYTES: Final = 256 * 1024  # of a decoded section; more is decoded twice
READ_BYTES: Final = 64 * 1024  # decoded at a time: 0.3 ms of quoted-printable

_PLAIN: Final = frozenset({b"7bit", b"8bit", b"binary"})
_KNOWN: Final = _PLAIN | {b"base64", b"quoted-printable"}


class Decoded(NamedTuple):
    """A section that can be sent: the octets `start <= n < start + size` of its decoded content.

    `span`: where it lies in the message, None for a section that is not there. `data`: the octets, of a small one.
    """

    span: tuple[int, int] | None
    encoding: bytes
    start: int
    size: int
    has_nul: bool
    data: bytes | None


async def decoded(blobs: Blobs, blob: StoredBlob, item: BinarySection, root: Part | None) -> Decoded | None:
    """What answers the item; None when the section is in an encoding that is not known."""
    span: tuple[int, int] | None = (0, blob.size)
    encoding = b"binary"
    if item.part:
        assert root is not None
        part = find_part(root, item.part)
        span = find_section(root, item.part)
        if part is None or span is None:
            return Decoded(None, encoding, 0, 0, False, None)
        if not part.children:
            encoding = part.encoding
    if encoding not in _KNOWN:
        return None
    assert span is not None
    return await _measured(blobs, blob, item, span, encoding)


async def _measured(
    blobs: Blobs, blob: StoredBlob, item: BinarySection, span: tuple[int, int], encoding: bytes
) -> Decoded:
    first, count = item.partial or (0, blob.size)
    if encoding in _PLAIN and (item.is_size or span[1] - span[0] > HELD_BYTES):
        # nothing is to be decoded: the octets of the range, or their number, are all that is asked for
        start, stop = min(span[0] + first, span[1]), min(span[0] + first + count, span[1])
        has_nul = False if item.is_size else await _has_nul(blobs, blob, start, stop)
        return Decoded((start, stop), encoding, 0, stop - start, has_nul, None)
    held: list[bytes] = []
    held_bytes = size = 0
    has_nul = False
    pace = Pace()
    for piece in _range(_pieces(blobs, blob, span, encoding), first, count):
        size += len(piece)
        has_nul = has_nul or b"\0" in piece
        if held_bytes <= HELD_BYTES and not item.is_size:
            held.append(piece)
            held_bytes += len(piece)
        await pace.turn()
    is_held = size <= HELD_BYTES and not item.is_size
    return Decoded(span, encoding, first, size, has_nul, b"".join(held) if is_held else None)


async def _has_nul(blobs: Blobs, blob: StoredBlob, start: int, stop: int) -> bool:
    pace = Pace()
    for piece in read(blobs, blob, start, stop):
        if b"\0" in piece:
            return True
        await pace.turn()
    return False


def read(blobs: Blobs, blob: StoredBlob, start: int, stop: int) -> Iterator[bytes]:
    """The octets of the message; a file is held open only while the iterator lives."""
    if blob.inline is not None:
        for at in range(start, stop, READ_BYTES):
            yield blob.inline[at : min(at + READ_BYTES, stop)]
        return
    fd = blobs.open_file(blob.file or "")
    try:
        while start < stop:
            piece = os.pread(fd, min(READ_BYTES, stop - start), start)
            if not piece:
                raise Corrupt("blob file", blob.file)
            start += len(piece)
            yield piece
    finally:
        os.close(fd)


def _pieces(blobs: Blobs, blob: StoredBlob, span: tuple[int, int], encoding: bytes) -> Iterator[bytes]:
    return transfer_pieces(read(blobs, blob, *span), encoding)


def _range(pieces: Iterator[bytes], first: int, count: int) -> Iterator[bytes]:
    """The octets `first <= n < first + count` of the pieces."""
    at = 0
    for piece in pieces:
        low, high = max(first - at, 0), min(first + count - at, len(piece))
        at += len(piece)
        # also what is cut away: who waits between the pieces shall wait there too
        yield piece[low:high] if low < high else b""
        if at >= first + count:
            return


async def send(connection: "ImapConnection", blob: StoredBlob, item: BinarySection, found: Decoded) -> None:
    """Send the item and its value; of a large one, each chunk as soon as the peer has taken the one before."""
    if item.is_size:
        connection.send(b"%b %d" % (item.label, found.size))
        return
    if found.span is None:
        connection.send(item.label + b" NIL")
        return
    connection.send(b"%b %b{%d}\r\n" % (item.label, b"~" if found.has_nul else b"", found.size))
    if found.data is not None:
        await connection.send_large(found.data)
        return
    blobs = connection.context.store.blobs
    for piece in _range(_pieces(blobs, blob, found.span, found.encoding), found.start, found.size):
        await connection.send_large(piece)
