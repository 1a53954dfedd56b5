"""The text of a message as SEARCH sees it: which parts, decoded how, in pieces of bounded size.

Everything here is a plain generator over bytes that a `Read` gives: the caller decides where they come from and gives
up its turn between pieces (INV-12). No piece takes more than a few milliseconds, whatever the message is. SEARCH reads
a message by it, and the text index is built by it, so that both look at the same.

What is looked at. TEXT: the header, the headers of all parts (so names of attachments), and all that BODY looks at.
BODY: every part of type text or message, with its transfer encoding and charset undone, and the headers of messages
inside the message. Not looked at: other media types (RFC 3501 §6.4.4 lets a server leave them out), and what stands
between the parts. HTML is searched as its source, and once more with its character references replaced.

Source: RFC 3501 §6.4.4.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from pochta.mime.decode import decode_charset, decode_transfer, decode_words, param_text, transfer_pieces
from pochta.mime.fold import fold_field
from pochta.mime.header import split_fields
from pochta.mime.parse import Part

PIECE_BYTES: Final = 32 * 1024  # decoded, folded and searched in 1 ms; 6 ms where all of it is character references
FIELD_BYTES: Final = 16 * 1024  # 500 encoded words of 30 octets, 1-3 ms; longer fields are decoded piece by piece
LINE_BYTES: Final = 1024 * 1024  # one line of HTML without a break; a character is split only in longer ones
WIDE_BYTES: Final = 4 * 1024 * 1024  # of a text in UTF-16 or UTF-32, which has no line ends to cut at; 4 ms
FIELD_COST_BYTES: Final = 100  # a field costs 3 us, however short

Read = Callable[[int, int], bytes]
"""The octets `start <= n < stop` of the message."""

_DECODED_IN_PIECES: Final = frozenset({b"base64", b"quoted-printable"})
_WIDE_CHARSET: Final = re.compile(r"(?:utf|u|ucs|iso-10646-ucs)[-_]?(?:16|32|2|4)(?![0-9])", re.IGNORECASE)
_HTML: Final = frozenset((b"html", b"xhtml", b"xhtml+xml"))


def is_html(part: Part) -> bool:
    """Whether the part is searched once more with its character references replaced."""
    return part.subtype in _HTML


def has_body_text(part: Part) -> bool:
    """Whether BODY looks into the part's own body."""
    return not part.children and part.type in (b"text", b"message")


def field_text(value: bytes) -> str:
    """The folded text of a raw field body: unfolded, encoded words decoded. About 1 us."""
    if value.isascii() and b"=?" not in value:
        return fold_field(value.strip().decode("ascii"))
    return fold_field(decode_words(value))


def value_texts(value: bytes, overlap: int) -> Iterator[str]:
    """A field's folded text, a long one in pieces that begin with the last `overlap` characters of the one before."""
    if len(value) <= FIELD_BYTES:
        yield field_text(value)
        return
    tail = ""
    for piece in _field_pieces(value):
        text = f"{tail} {field_text(piece)}" if tail else field_text(piece)
        yield text
        tail = text[-overlap:]


def _field_pieces(value: bytes) -> Iterator[bytes]:
    """A long field in pieces, cut where it is folded if it is."""
    at = 0
    while at < len(value):
        stop = at + FIELD_BYTES
        if stop < len(value):
            line_end = value.rfind(b"\n", at, stop) + 1
            stop = line_end or stop
        yield value[at:stop]
        at = stop


def header_texts(header: bytes, part: Part) -> Iterator[str]:
    """The fields as lines `name: value`, folded; names of files once more, decoded (RFC 2231)."""
    held: list[str] = []
    size = 0
    for _, name, value in split_fields(header):
        held.append(f"{name.decode('ascii').lower()}: ")
        for piece in _field_pieces(value):
            held.append(f"{field_text(piece)}\n" if len(piece) == len(value) else f"{field_text(piece)} ")
            size += len(piece) + FIELD_COST_BYTES
            if size >= FIELD_BYTES:
                yield "".join(held)
                held, size = held[-1:], 0  # a text may go over the edge
    held += [f"\n{name}\n" for name in file_names(part)]
    yield "".join(held)


def file_names(part: Part) -> list[str]:
    """The names by which the part may be saved, folded."""
    names = (
        param_text(part.disposition[1], b"filename") if part.disposition else None,
        param_text(part.params, b"name"),
    )
    return [fold_field(name) for name in names if name]


def body_texts(read: Read, part: Part) -> Iterator[str]:
    """The decoded text of a part, in pieces that end with a line where there are lines."""
    charset = (param_text(part.params, b"charset") or "").lower()
    if part.size <= PIECE_BYTES:
        yield decode_charset(decode_transfer(read(part.header_end, part.body_end), part.encoding), charset)
        return
    raw = _raw_pieces(read, part)
    # uuencoded text would be held whole; only that of small parts is decoded
    pieces = transfer_pieces(raw, part.encoding) if part.encoding in _DECODED_IN_PIECES else raw
    if _WIDE_CHARSET.match(charset):
        yield from _wide_texts(pieces, charset)
        return
    for data in _lines(pieces):
        yield decode_charset(data, charset)


def _raw_pieces(read: Read, part: Part) -> Iterator[bytes]:
    for at in range(part.header_end, part.body_end, PIECE_BYTES):
        yield read(at, min(at + PIECE_BYTES, part.body_end))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same octets in pieces that end behind a line end, or at LINE_BYTES."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if not cut and size + len(piece) < LINE_BYTES:
            held.append(piece)
            size += len(piece)
            continue
        cut = cut or len(piece)
        held.append(piece[:cut])
        yield b"".join(held)
        held = [piece[cut:]]
        size = len(piece) - cut
    yield b"".join(held)


def _wide_texts(pieces: Iterator[bytes], charset: str) -> Iterator[str]:
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        yield ""  # a turn for others
        if size >= WIDE_BYTES:
            break
    yield decode_charset(b"".join(held)[:WIDE_BYTES], charset)
