"""Text of a message as SEARCH compares it: decoded, folded, in pieces of bounded size.

Everything here is a plain generator over bytes that a `Read` gives: the caller decides where they come from and gives
up its turn between pieces (INV-12). No piece takes more than a few milliseconds, whatever the message is.

What is looked at. TEXT: the header, the headers of all parts (so names of attachments), and all that BODY looks at.
BODY: every part of type text or message, with its transfer encoding and charset undone, and the headers of messages
inside the message. Not looked at: other media types (RFC 3501 §6.4.4 lets a server leave them out), and what stands
between the parts. HTML is searched as its source, and once more with its character references replaced.

What is equal. Text is compared after NFKD and case folding: i;unicode-casemap (RFC 5051) with folding in place of
titlecase mapping, which equates a little more (ß and ss, ﬁ and fi). As there, letters with diacritics are decomposed
and the diacritics count: `ёлка` is not `елка`. In header fields each run of white space counts as one space, because
folding changes it on the way.

Source: RFC 3501 §6.4.4, RFC 5051 §2.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from unicodedata import combining, normalize

from pochta.mime.decode import decode_charset, decode_transfer, decode_words, param_text, transfer_pieces
from pochta.mime.header import split_fields
from pochta.mime.parse import Part
from pochta.mime.text import unescape

PIECE_BYTES: Final = 32 * 1024  # decoded, folded and searched in 1 ms; 6 ms where all of it is character references
FIELD_BYTES: Final = 16 * 1024  # 500 encoded words of 30 octets, 1-3 ms; longer fields are decoded piece by piece
LINE_BYTES: Final = 1024 * 1024  # one line of HTML without a break; a character is split only in longer ones
WIDE_BYTES: Final = 4 * 1024 * 1024  # of a text in UTF-16 or UTF-32, which has no line ends to cut at; 4 ms
NEEDLES_PER_PIECE: Final = 16  # more of them are looked for in smaller pieces, so that a piece stays as quick
PIECE_MIN_CHARS: Final = 2048
FOLD_CHARS: Final = 256  # normalised at once: sorting combining characters is quadratic, 32 K of them took 800 ms
FIELD_COST_BYTES: Final = 100  # a field costs 3 us, however short
COMBINING_MAX: Final = 32  # Unicode's Stream-Safe Text Format allows 30 in a row

Read = Callable[[int, int], bytes]
"""The octets `start <= n < stop` of the message."""

_SPACES: Final = re.compile(r"[ \t\r\n]+")
_DECODED_IN_PIECES: Final = frozenset({b"base64", b"quoted-printable"})
_WIDE_CHARSET: Final = re.compile(r"(?:utf|u|ucs|iso-10646-ucs)[-_]?(?:16|32|2|4)(?![0-9])", re.IGNORECASE)
_HTML: Final = frozenset((b"html", b"xhtml", b"xhtml+xml"))


class Needle(NamedTuple):
    """A text to look for, folded for bodies and for headers; `in_header`: in the message's own header too (TEXT)."""

    body_form: str
    header_form: str
    in_header: bool


def needle(text: str, *, in_header: bool) -> Needle:
    """The needle of a BODY or (`in_header`) TEXT key."""
    return Needle(fold(text), fold_field(text), in_header)


def fold(text: str) -> str:
    """What is compared in place of `text`. 1 ns a character of ASCII, 10 ns of others."""
    if text.isascii():
        return text.lower()
    if len(text) <= FOLD_CHARS:
        return normalize("NFKD", text).casefold()
    return "".join([normalize("NFKD", piece) for piece in _steps(text, FOLD_CHARS)]).casefold()


def fold_field(text: str) -> str:
    """As `fold`, with every run of white space as one space."""
    text = fold(text)
    if "\n" in text or "\t" in text or "  " in text or "\r" in text:
        return _SPACES.sub(" ", text)
    return text


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


def field_text(value: bytes) -> str:
    """The folded text of a raw field body: unfolded, encoded words decoded. About 1 us."""
    if value.isascii() and b"=?" not in value:
        return fold_field(value.strip().decode("ascii"))
    return fold_field(decode_words(value))


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


def find_in_message(read: Read, root: Part, needles: Sequence[Needle]) -> Iterator[int]:
    """Looks for all needles: after each piece the set (bit n: `needles[n]`) of those found so far; the last counts."""
    finder = _Finder(needles)
    own = [number for number, one in enumerate(needles) if one.in_header]
    everywhere = list(range(len(needles)))
    for part in root.walk():
        wanted = everywhere if part.is_message and part is not root else own
        if finder.is_open(wanted) and part.header_end > part.header_start:
            for text in _header_texts(read(part.header_start, part.header_end), part):
                yield finder.look_in_header(text, wanted)
        if part.children or part.type not in (b"text", b"message"):
            continue
        finder.begin_body()
        for text in _body_texts(read, part):
            for piece in _steps(text, finder.piece_chars):
                yield finder.look_in_body(piece, is_html=part.subtype in _HTML)
            if finder.is_done:
                break
        if finder.is_done:
            break
    yield finder.found


class _Finder:
    """The search for some needles in one message."""

    __slots__ = ("_all", "_left", "_longest", "_needles", "_tail", "_unescaped_tail", "found", "piece_chars")

    def __init__(self, needles: Sequence[Needle]) -> None:
        self._needles = needles
        self._all = (1 << len(needles)) - 1
        self._left = list(range(len(needles)))
        self._longest = max((len(one.body_form) for one in needles), default=0)
        self._tail = self._unescaped_tail = ""
        self.found = 0
        shrunk = max(PIECE_MIN_CHARS, PIECE_BYTES // (1 + len(needles) // NEEDLES_PER_PIECE))
        # at least as long as the longest needle: the part of a piece that is looked at twice is no more than half of it
        self.piece_chars = max(shrunk, self._longest)

    @property
    def is_done(self) -> bool:
        return self.found == self._all

    def is_open(self, wanted: Sequence[int]) -> bool:
        """Whether any of these was not found yet."""
        return any(not self.found >> number & 1 for number in wanted)

    def look_in_header(self, text: str, wanted: Sequence[int]) -> int:
        for number in wanted:
            if not self.found >> number & 1 and self._needles[number].header_form in text:
                self.found |= 1 << number
        return self.found

    def begin_body(self) -> None:
        self._tail = self._unescaped_tail = ""
        self._left = [number for number in self._left if not self.found >> number & 1]

    def look_in_body(self, text: str, *, is_html: bool) -> int:
        self._tail = self._look(self._tail + fold(text))
        if is_html:
            if "&" in text:
                self._unescaped_tail = self._look(self._unescaped_tail + fold(unescape(text)))
            else:
                self._unescaped_tail = self._tail
        return self.found

    def _look(self, text: str) -> str:
        """Looks into `text`; the end of it that may be the beginning of a needle."""
        for number in self._left:
            if self._needles[number].body_form in text:
                self.found |= 1 << number
        return text[-self._longest + 1 :] if self._longest > 1 else ""


def _header_texts(header: bytes, part: Part) -> Iterator[str]:
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
    names = (
        param_text(part.disposition[1], b"filename") if part.disposition else None,
        param_text(part.params, b"name"),
    )
    held += [f"\n{fold_field(name)}\n" for name in names if name]
    yield "".join(held)


def _steps(text: str, size: int) -> Iterator[str]:
    """The text in pieces of about `size` characters, cut where no character combines with the one before it."""
    if len(text) <= size:
        yield text
        return
    at = 0
    while at < len(text):
        stop = at + size
        limit = stop + COMBINING_MAX
        while stop < len(text) and stop < limit and combining(text[stop]):
            stop += 1
        yield text[at:stop]
        at = stop


def _body_texts(read: Read, part: Part) -> Iterator[str]:
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
