"""A message made sendable to a server that can do less: 8-bit or binary octets put into transfer encodings.

`form_of` says what a message is made of, `to_8bit` and `to_7bit` take it down a step. What fits already comes back as
it is, byte for byte. Otherwise the tree of parts is walked once, in the order of the message: a leaf that does not fit
is encoded, what contains it gets a label that is true, everything else is copied.

Not touched, and so a reason to give up (`CannotConvert`) when it does not fit:

* header fields. RFC 5322 knows ASCII alone; octets beyond it make the message one of RFC 6532, which only SMTPUTF8 may
  carry and which a server of 7 bits, having no 8BITMIME, can never take (RFC 6531 §3.1). Lines that are too long are
  folded where there is white space.
* what is between the parts: preambles, epilogues and delimiter lines, in which there is no room for an encoding;
* multipart/signed and multipart/encrypted: a signature covers the octets as they stand (RFC 1847 §2.1);
* message/partial, message/external-body and the like, which RFC 2046 §5.2 keeps at 7 bits;
* a part that was not looked into (`Part.is_opaque`), or whose encoding is not known or contradicts its type.

Raises nothing else on any message. Time is linear in its size; memory is the message, the result and one text line.
"""

import binascii
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Final

from pochta.errors import PochtaError
from pochta.mime.decode import decode_quoted_printable
from pochta.mime.header import MAX_FIELDS
from pochta.mime.parse import Part, parse

MAX_LINE: Final = 998  # RFC 5322 §2.1.1, without CRLF
_ENCODED_LINE: Final = 76  # RFC 2045 §6.7 (5), §6.8
# What is copied at a time, in whole lines of base64: 57 octets make one. Small enough for the processor's cache.
_PIECE: Final = 57 * 1024
# Quoted-printable needs three octets for one beyond ASCII, base64 four for three: equal at every sixth.
_PLAIN_PER_HIGH: Final = 6

_HIGH: Final = bytes(range(128, 256))
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LABEL: Final = b"Content-Transfer-Encoding: "
_LABEL_FIELD: Final = re.compile(
    rb"^content-transfer-encoding[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*\n?", re.MULTILINE | re.IGNORECASE
)
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_NO_FIELD: Final = re.compile(rb"\A[ \t]|^(?![!-9;-~]++[ \t]*+:|[ \t]|\r\n)(?=[^\n])", re.MULTILINE)
_TYPE_FIELD: Final = re.compile(rb"^content-type[ \t]*+:", re.MULTILINE | re.IGNORECASE)
_VERSION_FIELD: Final = re.compile(rb"^mime-version[ \t]*+:", re.MULTILINE | re.IGNORECASE)
# `binascii` makes up to 78 octets of a line that ends with white space.
_LATE_SPACE: Final = re.compile(rb"^([^\r\n]{74,75})(=(?:20|09)\r\n)", re.MULTILINE)
_DASH_LINE: Final = re.compile(rb"^--([^\r\n]*+)", re.MULTILINE)


class Body(StrEnum):
    """Which octets a body holds, by the names of RFC 2045 §6.2."""

    SEVEN_BIT = "7bit"
    EIGHT_BIT = "8bit"
    BINARY = "binary"


_RANKS: Final = {b"7bit": 0, b"8bit": 1, b"binary": 2}
_TARGET_RANKS: Final = {Body.SEVEN_BIT: 0, Body.EIGHT_BIT: 1}


class CannotConvert(PochtaError):
    """The message cannot be put into fewer octets without loss; `reason` is one phrase that its sender may read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Form:
    """What a message is made of.

    `body`: binary when it holds NUL, a line over MAX_LINE, or, header included, a CR or LF that is no part of a CRLF.
    `is_header_utf8`: the message's own header holds octets beyond ASCII. `longest_line`: octets without the line end,
    MAX_LINE where none is longer.

    DEVIATES RFC 6531 §3.2: headers of parts and of messages inside are not looked at. Raw octets in names of files and
    in forwarded spam are older than RFC 6532, come without SMTPUTF8 and get through everywhere; refusing them would
    bounce what others send.
    """

    body: Body
    is_header_utf8: bool
    longest_line: int


def form_of(message: bytes | Iterable[bytes]) -> Form:
    """What the message is made of, whole or in chunks; 0.5 GB/s."""
    scanner = FormScanner()
    for chunk in (message,) if isinstance(message, bytes) else message:
        scanner.feed(chunk)
    return scanner.finish()


class FormScanner:
    """Finds out the form of a message while it streams by; keeps two octets of it."""

    __slots__ = (
        "_cr", "_crlf", "_ends_with_cr", "_has_nul", "_header_longest", "_in_header", "_is_8bit", "_is_header_utf8",
        "_lf", "_line", "_longest", "_tail",
    )  # fmt: skip

    def __init__(self) -> None:
        self._in_header = True
        self._tail = b"\n"  # what a blank line may begin with: the message begins behind a line end, as it were
        self._is_header_utf8 = self._is_8bit = self._has_nul = self._ends_with_cr = False
        self._cr = self._lf = self._crlf = 0
        self._line = 0  # octets of the current line
        self._longest = MAX_LINE  # what is shorter is not measured: most of the speed
        self._header_longest = MAX_LINE

    def feed(self, chunk: bytes) -> None:
        """Takes the next octets of the message."""
        for at in range(0, len(chunk), _PIECE):
            self._feed_piece(chunk[at : at + _PIECE])

    def _feed_piece(self, chunk: bytes) -> None:
        start = 0
        if self._in_header:
            found = self._find_body(chunk)
            start = len(chunk) if found < 0 else found
            self._is_header_utf8 = self._is_header_utf8 or not chunk[:start].isascii()
            self._measure(chunk, 0, start)
            if found >= 0:
                self._in_header = False
                self._header_longest, self._longest = self._longest, MAX_LINE
        if start < len(chunk):
            self._is_8bit = self._is_8bit or not chunk[start:].isascii()
            self._measure(chunk, start, len(chunk))
        if not self._has_nul:  # then it is binary whatever else it holds
            self._has_nul = b"\0" in chunk
            self._crlf += chunk.count(b"\r\n") + (self._ends_with_cr and chunk.startswith(b"\n"))
            self._cr += chunk.count(b"\r")
            self._lf += chunk.count(b"\n")
        self._ends_with_cr = chunk.endswith(b"\r")

    def finish(self) -> Form:
        """The form of all that was fed."""
        longest = max(self._longest, self._line)
        has_long_line = not self._in_header and longest > MAX_LINE
        if self._has_nul or has_long_line or not self._cr == self._lf == self._crlf:
            body = Body.BINARY
        else:
            body = Body.EIGHT_BIT if self._is_8bit else Body.SEVEN_BIT
        return Form(body, self._is_header_utf8, max(longest, self._header_longest))

    def _find_body(self, chunk: bytes) -> int:
        """Index of the first octet behind the header, -1 when that is still to come."""
        edge = self._tail + chunk[:2]
        match = _BLANK_LINE.search(edge)
        if match:
            return match.end() - len(self._tail)
        at = chunk.find(b"\n\r\n")
        bare = chunk.find(b"\n\n", 0, at + 1 if at >= 0 else len(chunk))
        if at < 0 and bare < 0:
            self._tail = chunk[-2:] if len(chunk) > 1 else edge[-2:]
            return -1
        return bare + 2 if bare >= 0 else at + 3

    def _measure(self, data: bytes, start: int, end: int) -> None:
        """Looks for a line longer than the longest so far: from line to line in steps of that length, backwards."""
        at = start
        while at < end:
            stop = at + self._longest + 2 - self._line
            found = data.rfind(b"\n", at, min(stop, end)) if stop > at else -1
            if found < 0 and stop < end:
                found = data.find(b"\n", at, end)
                if found >= 0:
                    has_cr = data[found - 1] == 13 if found else self._ends_with_cr
                    self._longest = max(self._longest, self._line + found - at - has_cr)
            if found < 0:
                self._line += end - at
                return
            at = found + 1
            self._line = 0


def to_7bit(message: bytes) -> bytes:
    """The message in ASCII lines of at most MAX_LINE octets, parts that are not in quoted-printable or base64.

    Raises:
        CannotConvert: it holds what may not be touched; the message's sender is told.
    Source: RFC 6152 §3, RFC 2045 §6.
    """
    return _Converter(message, Body.SEVEN_BIT).convert()


def to_8bit(message: bytes) -> bytes:
    """The message in CRLF lines of at most MAX_LINE octets without NUL; octets beyond ASCII stay.

    Raises:
        CannotConvert: it holds what may not be touched; the message's sender is told.
    Source: RFC 3030 §3, RFC 2045 §2.8.
    """
    return _Converter(message, Body.EIGHT_BIT).convert()


class _Converter:
    """One conversion: the message, and what is written of the result."""

    __slots__ = ("_boundaries", "_high_at", "_high_headers", "_is_7bit", "_labels", "_message", "_out", "_target")

    def __init__(self, message: bytes, target: Body) -> None:
        self._message = message
        self._target = _TARGET_RANKS[target]
        self._is_7bit = target is Body.SEVEN_BIT
        self._out = BytesIO()  # gives out its buffer without a copy
        self._boundaries: list[tuple[int, bytes]] = []  # of the open multiparts: end of the body, boundary
        self._high_at: list[int] = []  # where in the message octets beyond ASCII were kept, rising
        self._high_headers: list[int] = []  # where in the message headers begin that are not ASCII, rising
        # of containers: place in the result of the label's first octet, the body's begin and end
        self._labels: list[tuple[int, int, int]] = []

    def convert(self) -> bytes:
        message = self._message
        if self._fits(0, len(message)):
            return message
        at = 0
        parts = list(parse(message).walk())
        if self._is_7bit:
            self._high_headers = [
                one.header_start for one in parts if not message[one.header_start : one.header_end].isascii()
            ]
        for part in parts:
            if part.header_start < at:  # inside of what was taken as a whole
                continue
            self._keep(at, part.header_start, "text between its parts does not fit")
            at = self._take(part)
        self._keep(at, len(message), "text between its parts does not fit")
        for place, start, end in self._labels:
            # both labels have four octets
            if bisect_left(self._high_at, start) == bisect_left(self._high_at, end):
                self._out.seek(place)
                self._out.write(b"7")
        return self._out.getvalue()

    def _take(self, part: Part) -> int:
        """Writes the part, or its header alone when the parts inside come next; where it ends in the message."""
        if part.is_opaque:
            self._keep(part.header_start, part.body_end, "its parts are nested too deep, too many or too large")
            return part.body_end
        is_container = bool(part.children)
        if is_container and part.type == b"message" and part.subtype == b"global":
            # RFC 6532 §3.5: the one composite type that may be encoded
            is_container = part.encoding in _RANKS and not (self._is_7bit and self._has_high_header(part))
        elif reason := _sealed(part):
            self._write_header(part, self._lower_label(part))
            self._keep(part.header_end, part.body_end, reason)
            return part.body_end
        if not is_container:
            self._take_leaf(part)
            return part.body_end
        self._write_container_header(part)
        self._close_boundaries(part)
        boundary = next((value for name, value in part.params if name == b"boundary"), b"").rstrip()
        if part.type == b"multipart" and boundary:
            self._boundaries.append((part.body_end, boundary))
        return part.header_end

    def _take_leaf(self, part: Part) -> None:
        start, end = part.header_end, part.body_end
        if self._fits(start, end):
            self._write_header(part, self._lower_label(part))
            self._keep(start, end, "")
        elif part.encoding in _RANKS:
            self._encode(part, self._message, start, end)
        elif part.encoding == b"base64":
            # RFC 3030 §3: encodings must not be nested
            data = self._message[start:end].translate(None, b" \t\r\n")
            if len(data) % 4 or len(data.rstrip(b"=")) + 2 < len(data) or data.rstrip(b"=").translate(None, _BASE64):
                raise CannotConvert("a part is in damaged base64")
            self._write_header(part, None)
            self._write_lines(data, 0, len(data))
            self._end_lines(part)
        elif part.encoding == b"quoted-printable":
            data = decode_quoted_printable(self._message[start:end])
            self._encode(part, data, 0, len(data))
        else:
            raise CannotConvert("a part is in an unknown transfer encoding")

    def _encode(self, part: Part, data: bytes, start: int, end: int) -> None:
        """Writes the part with the body `data[start:end]` in quoted-printable if that is good for it, else base64."""
        place = self._out.tell()
        is_text = part.type == b"text" or _is_global_report(part)
        if is_text and _is_crlf(data, start, end) and _high_octets(data, start, end) * _PLAIN_PER_HIGH <= end - start:
            self._write_header(part, b"quoted-printable", *self._missing_fields(part, data, start, end))
            if self._write_quoted_printable(part, data, start, end):
                return
            self._out.seek(place)
            self._out.truncate()
        self._write_header(part, b"base64", *self._missing_fields(part, data, start, end))
        for at in range(start, end, _PIECE):
            if at > start:
                self._out.write(b"\r\n")
            encoded = binascii.b2a_base64(data[at : min(at + _PIECE, end)], newline=False)
            self._write_lines(encoded, 0, len(encoded))
        self._end_lines(part)

    def _write_lines(self, data: bytes, start: int, end: int) -> None:
        step = _ENCODED_LINE
        for at in range(start, end, step * 1024):
            if at > start:
                self._out.write(b"\r\n")
            stop = min(at + step * 1024, end)
            self._out.write(b"\r\n".join([data[line : line + step] for line in range(at, stop, step)]))

    def _end_lines(self, part: Part) -> None:
        if part.body_end == len(self._message):  # elsewhere the line end of the delimiter line follows
            self._out.write(b"\r\n")

    def _write_quoted_printable(self, part: Part, data: bytes, start: int, end: int) -> bool:
        """Writes the body; False when a line of it would be taken for a delimiter line."""
        self._close_boundaries(part)
        boundaries = tuple({boundary for _, boundary in self._boundaries})
        is_open = part.body_end == len(self._message) and not data.endswith(b"\r\n", start, end)
        for piece in _quoted_printable(data, start, end, is_open=is_open):
            # RFC 2045 §6.7: a soft line break may bring any part of a line to its begin
            if boundaries and b"--" in piece and any(one.startswith(boundaries) for one in _DASH_LINE.findall(piece)):
                return False
            self._out.write(piece)
        return True

    def _close_boundaries(self, part: Part) -> None:
        while self._boundaries and self._boundaries[-1][0] <= part.header_start:
            self._boundaries.pop()

    def _missing_fields(self, part: Part, data: bytes, start: int, end: int) -> tuple[bytes, ...]:
        """Header fields without which the transfer encoding, or what it hides, would not be understood."""
        header = self._message[part.header_start : part.header_end]
        missing: tuple[bytes, ...] = ()
        if part.is_message and not _VERSION_FIELD.search(header):
            missing = (b"MIME-Version: 1.0\r\n",)
        if part.type == b"text" and not _TYPE_FIELD.search(header) and not _is_ascii(data, start, end):
            missing += (b"Content-Type: text/plain; charset=%b\r\n" % _charset(data, start, end),)
        return missing

    def _lower_label(self, part: Part) -> bytes | None:
        """The label for a part that holds what the target allows, None when its own will do."""
        if _RANKS.get(part.encoding, 0) <= self._target:
            return None
        return b"7bit" if self._is_7bit or _is_ascii(self._message, part.header_end, part.body_end) else b"8bit"

    def _write_container_header(self, part: Part) -> None:
        """Writes the header with a label of which the first octet may change once the parts inside are known."""
        if _RANKS.get(part.encoding, 0) <= self._target:
            self._write_header(part, None)
            return
        place = self._write_header(part, b"7bit" if self._is_7bit else b"8bit")
        if not self._is_7bit:
            self._labels.append((place, part.header_end, part.body_end))

    def _write_header(self, part: Part, label: bytes | None, *added: bytes) -> int:
        """Writes the header with another transfer encoding, `None`: with its own, and with fields at its end.

        Returns the place of the label in the result.
        """
        header = self._message[part.header_start : part.header_end]
        self._check_header(header)
        if not header.isascii():
            self._high_at.append(part.header_start)
        if label is None:
            self._out.write(_folded(header))
            return -1
        if header.count(b"\n") > MAX_FIELDS:
            raise CannotConvert("a header has too many lines")
        if _NO_FIELD.search(header):  # readers differ about where such a header ends
            raise CannotConvert("a header is damaged")
        field = _LABEL + label + b"\r\n"
        found = _LABEL_FIELD.search(header)
        at = found.start() if found else len(header) - len(b"\r\n")
        before = _folded(header[:at])
        after = _LABEL_FIELD.sub(b"", header[at:])
        place = self._out.tell() + len(before) + len(_LABEL)
        if found and added:
            after = after[:-2] + b"".join(added) + after[-2:]
        elif added:
            after = b"".join(added) + after
        self._out.write(before + field + _folded(after))
        return place

    def _check_header(self, header: bytes) -> None:
        if self._is_7bit and not header.isascii():
            raise CannotConvert("a header holds octets beyond ASCII")
        if not _is_crlf(header, 0, len(header)):
            raise CannotConvert("a header holds octets that no header may hold")

    def _has_high_header(self, part: Part) -> bool:
        high = self._high_headers
        return bisect_left(high, part.header_end) < bisect_left(high, part.body_end)

    def _keep(self, start: int, end: int, reason: str) -> None:
        """Copies octets that may not be changed, or that fit."""
        if start == end:
            return
        if reason and not self._fits(start, end):
            raise CannotConvert(reason)
        if not self._is_7bit and not _is_ascii(self._message, start, end):
            self._high_at.append(start)
        self._out.write(memoryview(self._message)[start:end])

    def _fits(self, start: int, end: int) -> bool:
        message = self._message
        return (not self._is_7bit or _is_ascii(message, start, end)) and _is_lines(message, start, end)


def _sealed(part: Part) -> str:
    """Why nothing may be changed inside the part, "" when something may."""
    if part.type == b"multipart":
        if part.subtype in (b"signed", b"encrypted"):
            return f"it is {part.subtype.decode()}"  # RFC 1847 §2.1: 7 bits from the start
        # the scanner shows a multipart without delimiter lines as one part that begins with the body
        if part.children[0].header_start == part.header_end:
            return "a multipart has no parts"
    elif part.type != b"message" or _is_global_report(part):
        return ""
    elif not part.children:
        return f"message/{_shown(part.subtype)} may not be encoded"
    # RFC 2045 §6.4: no encoding is permitted on what has parts
    return "" if part.encoding in _RANKS else "a composite part is in a transfer encoding"


def _is_global_report(part: Part) -> bool:
    """Whether it is one of the message types that are text and may be encoded. Source: RFC 6533 §6."""
    return part.type == b"message" and part.subtype.startswith(b"global-")


def _shown(token: bytes) -> str:
    return token[:40].decode("ascii", "replace")


def _is_ascii(data: bytes, start: int, end: int) -> bool:
    return all(data[at : min(at + _PIECE, end)].isascii() for at in range(start, end, _PIECE))


def _is_crlf(data: bytes, start: int, end: int) -> bool:
    """Whether there is no NUL, and each CR or LF is a part of a CRLF."""
    if data.find(b"\0", start, end) >= 0:
        return False
    crlf = data.count(b"\r\n", start, end)
    return data.count(b"\r", start, end) == crlf == data.count(b"\n", start, end)


def _is_lines(data: bytes, start: int, end: int) -> bool:
    """Whether these octets are lines as RFC 2045 §2.8 has them: no NUL, no bare CR or LF, none over MAX_LINE."""
    if not _is_crlf(data, start, end):
        return False
    while end - start > MAX_LINE:
        found = data.rfind(b"\n", start, min(start + MAX_LINE + 2, end))
        if found < 0:
            return False
        start = found + 1
    return True


def _high_octets(data: bytes, start: int, end: int) -> int:
    kept = sum(len(data[at : min(at + _PIECE, end)].translate(None, _HIGH)) for at in range(start, end, _PIECE))
    return end - start - kept


def _charset(data: bytes, start: int, end: int) -> bytes:
    """The charset of 8-bit text that names none. Source: RFC 1428 §3."""
    try:
        data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8"


def _folded(header: bytes) -> bytes:
    """The header with lines over MAX_LINE folded at their last white space that is not too late.

    Raises:
        CannotConvert: there is none.
    """
    if _is_lines(header, 0, len(header)):
        return header
    out: list[bytes] = []
    for line in header.split(b"\r\n"):
        at = 0
        while len(line) - at > MAX_LINE:
            stop = at + MAX_LINE + 1
            cut = max(line.rfind(b" ", at + 1, stop), line.rfind(b"\t", at + 1, stop))
            # RFC 5322 §3.2.2: a line of a folded field may not be of white space alone
            if cut < 0 or not line[at:cut].strip():
                raise CannotConvert("a header line is too long")
            out.append(line[at:cut])
            at = cut
        out.append(line[at:])
    return b"\r\n".join(out)


def _quoted_printable(data: bytes, start: int, end: int, *, is_open: bool) -> Iterator[bytes]:
    """Quoted-printable in pieces that end with lines. CR and LF come as CRLF alone.

    `is_open`: behind the last line, which has no line end, a soft one stands: DATA needs one, the text has none.
    """
    while start < end:
        cut = end
        if end - start > _PIECE:
            found = data.rfind(b"\n", start, start + _PIECE)
            if found < 0:
                found = data.find(b"\n", start, end)
            cut = found + 1 or end
        piece = data[start:cut]
        start = cut
        if start == end and is_open:
            yield _qp_lines(piece + b"\r\n")[:-2] + b"=\r\n"
        elif b"\n" in piece:
            yield _qp_lines(piece)
        else:
            yield _qp_lines(b"\r\n" + piece)[2:]


def _qp_lines(data: bytes) -> bytes:
    encoded = binascii.b2a_qp(data)  # writes soft line ends as CRLF when the first line ends so
    if b"=20\r\n" in encoded or b"=09\r\n" in encoded:
        encoded = _LATE_SPACE.sub(rb"\1=\r\n\2", encoded)
    return encoded
