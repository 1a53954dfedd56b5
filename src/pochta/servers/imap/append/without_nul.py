"""A message of APPEND that holds NUL, made one that every client can fetch: parts with a NUL go into base64.

Nothing else is changed, for a signature may stand over it; so a NUL where no transfer encoding can be (a header, the
text between the parts, what is encoded or signed already) makes the message one that cannot be taken. The message is
read from its spool three times in small pieces: for its tree, for where the NULs are, and to be written.

Source: RFC 3516 §4.4 and §6, RFC 2045 §6.
"""

import binascii
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from pochta.errors import RefusalCode
from pochta.mime.parse import Part
from pochta.servers.imap.coded import CodedRefusal
from pochta.servers.imap.fetch import binary, sections
from pochta.store.blobs import Blobs, NewBlob, StoredBlob
from pochta.store.store import Store

LINE_BYTES: Final = 57  # of what one line of base64 holds: 76 characters (RFC 2045 §6.8)
PIECE_BYTES: Final = LINE_BYTES * 1024  # encoded at a time; whole lines

_PLAIN: Final = frozenset({b"7bit", b"8bit", b"binary"})
_ENCODING_FIELD: Final = re.compile(
    rb"^content-transfer-encoding[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*\n?", re.MULTILINE | re.IGNORECASE
)
_VERSION_FIELD: Final = re.compile(rb"^mime-version[ \t]*+:", re.MULTILINE | re.IGNORECASE)


class CannotEncode(CodedRefusal):
    """There is a NUL where no transfer encoding can be; RFC 3516 §4.4: the response code says so."""

    def __init__(self, where: str) -> None:
        super().__init__(RefusalCode.CANNOT, f"There is a NUL in {where}", b"UNKNOWN-CTE")


async def encoded(store: Store, raw: NewBlob) -> AsyncIterator[bytes]:
    """The message without NUL, in pieces; some are empty.

    Raises:
        Refusal: CannotEncode.
    """
    blob = StoredBlob(0, raw.size, raw.inline, raw.file)
    root = await sections.parsed(store, blob)
    for piece in _Encoder(store.blobs, blob).pieces(root):
        yield piece


class _Encoder:
    """One message on its way."""

    __slots__ = ("_blob", "_blobs")

    def __init__(self, blobs: Blobs, blob: StoredBlob) -> None:
        self._blobs = blobs
        self._blob = blob

    def pieces(self, root: Part) -> Iterator[bytes]:
        at = sealed_until = 0
        for part in root.walk():
            if part.header_start < at:  # the scanner shows a multipart without delimiter lines as a part of its body
                continue
            yield from self._kept(at, part.header_start, "the text between its parts")
            if part.children:
                yield from self._kept(part.header_start, part.header_end, "a header")
            else:
                yield from self._leaf(part, sealed_until)
            at = part.header_end if part.children else part.body_end
            if part.type == b"multipart" and part.subtype in (b"signed", b"encrypted"):
                sealed_until = max(sealed_until, part.body_end)
        yield from self._kept(at, self._blob.size, "the text between its parts")

    def _kept(self, start: int, stop: int, where: str) -> Iterator[bytes]:
        """The octets as they are, which have no NUL."""
        for piece in binary.read(self._blobs, self._blob, start, stop):
            if b"\0" in piece:
                raise CannotEncode(where)
            yield piece

    def _leaf(self, part: Part, sealed_until: int) -> Iterator[bytes]:
        has_nul = False
        for piece in binary.read(self._blobs, self._blob, part.header_end, part.body_end):
            if b"\0" in piece:
                has_nul = True
                break
            yield b""  # a turn of the loop
        if not has_nul:
            yield from self._kept(part.header_start, part.header_end, "a header")
            yield from self._kept(part.header_end, part.body_end, "a part")
            return
        if part.body_end <= sealed_until:
            raise CannotEncode("what is signed or encrypted")
        # RFC 2045 §6.4: the message types that have no parts here may not be encoded; nor may what is encoded already
        if part.is_opaque or part.encoding not in _PLAIN or part.type in (b"message", b"multipart"):
            raise CannotEncode("a part that cannot be encoded")
        yield self._header(part)
        yield from self._base64(part)

    def _header(self, part: Part) -> bytes:
        header = b"".join(binary.read(self._blobs, self._blob, part.header_start, part.header_end))
        if b"\0" in header:
            raise CannotEncode("a header")
        end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
        fields = _ENCODING_FIELD.sub(b"", header.removesuffix(end))
        if part.is_message and not _VERSION_FIELD.search(fields):
            fields += b"MIME-Version: 1.0\r\n"
        return fields + b"Content-Transfer-Encoding: base64\r\n" + end

    def _base64(self, part: Part) -> Iterator[bytes]:
        held = b""
        is_first = True
        for piece in binary.read(self._blobs, self._blob, part.header_end, part.body_end):
            held += piece
            cut = len(held) - len(held) % PIECE_BYTES
            for start in range(0, cut, PIECE_BYTES):
                yield _lines(held[start : start + PIECE_BYTES], is_first=is_first)
                is_first = False
            held = held[cut:]
        if held:
            yield _lines(held, is_first=is_first)
        if part.body_end == self._blob.size:  # elsewhere the line end of the delimiter line follows
            yield b"\r\n"


def _lines(data: bytes, *, is_first: bool) -> bytes:
    """Lines of base64, without the last line's end; the first one of the part begins where the header ends."""
    text = binascii.b2a_base64(data, newline=False)
    lines = b"\r\n".join([text[at : at + 76] for at in range(0, len(text), 76)])
    return lines if is_first else b"\r\n" + lines
