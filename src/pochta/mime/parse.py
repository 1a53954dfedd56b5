"""The tree of a message's parts, built while its bytes stream by.

Theory of operation: a `Scanner` is always in one of two states. In HEADER it holds back bytes until the blank line of
the current part's header is in; in BODY it only looks for the delimiter lines of the multiparts that are open and
forgets everything else (but the beginning of the first text bodies, for the preview). `_path` is the chain of open
parts from the root to the current one; a delimiter line closes everything below its multipart. Chunk edges never
matter: a decision is made only when the bytes that decide it are in, else the tail is kept for the next chunk.

What is beyond a limit becomes an opaque part (`Part.is_opaque`): application/octet-stream, so that every reader of the
tree shows it as what it is, bytes that were not looked at. A multipart or message that is nested too deep, or too late
to be split, is opaque as a whole; so is a part whose header is too long, its body beginning at the limit; and behind
the last part that is split, one opaque part holds the rest of the message.

Never raises on any message. Time is linear in its size, memory is bounded by the limits below.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pochta.mime.header import Params, first_values, parse_params, split_fields, unfold

# Real mail nests below 10 (forwards of forwards); Dovecot and Postfix stop at 100.
MAX_DEPTH = 100
# Dovecot's limit; a digest of a busy list has a few hundred.
MAX_PARTS = 10_000
# Thirty times what large relays accept (32 KiB); an attack, but its bytes are kept and shown.
MAX_HEADER = 1024 * 1024
# Header bytes held in memory for one message, all parts together: four of the largest.
MAX_HEADER_TOTAL = 4 * MAX_HEADER
# RFC 2046 §5.1.1 allows 70; broken mailers write more. A delimiter line longer than this is text.
MAX_DELIMITER_LINE = 1000
# Text bodies whose beginning is kept: an empty first one (a mail of attachments) must not leave the preview empty.
MAX_HEADS = 3
# Newsletters of one HTML part begin with up to 50 kB of style sheets.
HEAD_BYTES = 64 * 1024
# For those who cannot choose the size of chunks (INV-12: 10 ms). A step, which is a header or a delimiter line, costs
# 2-6 us: a feed takes at most that many and leaves what is behind for the next one, at most 4 MiB in all. MAX_PARTS are
# used up in 10 to 20 feeds, which bring 2.5 to 5 MiB (both event loops read 256 KiB at once).
STEPS_PER_FEED = 1000
MAX_BACKLOG = 4 * 1024 * 1024
# Lines in a row that look like a delimiter line and are none, before they are compared in bulk.
_MANY_MISSES = 64
_BULK_BYTES = 32 * 1024
# Chunks are joined up to this size before they are looked at, so that one-byte chunks cost no quadratic copying.
COALESCE_BYTES = 16 * 1024
# What a part without a header of its own takes, as sys.getsizeof has it, with its place in the lists.
PART_BYTES = 600

_DASH_LINE = re.compile(rb"\n--([^\n]*+)")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_MEDIA_TYPE = re.compile(rb"([!#$%&'*+.^_`{|}~0-9A-Za-z-]++)\s*+/\s*+([!#$%&'*+.^_`{|}~0-9A-Za-z-]++)")
_LANGUAGE = re.compile(rb"[0-9A-Za-z-]+")
_CONTENT_FIELDS = frozenset(
    b"content-" + name
    for name in (
        b"type", b"transfer-encoding", b"id", b"description", b"disposition", b"language", b"location", b"md5",
    )
)  # fmt: skip
# RFC 3066 tags in one field; more are dropped.
_MAX_LANGUAGES = 50

Fields = list[tuple[bytes, bytes, bytes]]


@dataclass(slots=True)
class Part:
    """One part. Offsets count from the start of the message; the header includes its blank line.

    `header_start <= header_end <= body_end`; the body is `header_end:body_end`, in its transfer encoding. The names
    (`type`, `subtype`, `encoding`, parameter names) are lower case. A multipart has `children`; a message/rfc822 has
    the one child that is the encapsulated message (`message`). `lines` counts line ends of the body, for text and
    encapsulated messages only. `is_opaque`: a limit was met here; what is inside was not looked at, and the type is
    application/octet-stream whatever the header says.
    """

    header_start: int = 0
    header_end: int = 0
    body_end: int = 0
    type: bytes = b"text"
    subtype: bytes = b"plain"
    params: Params = ()
    encoding: bytes = b"7bit"
    content_id: bytes | None = None
    description: bytes | None = None
    disposition: tuple[bytes, Params] | None = None
    language: tuple[bytes, ...] = ()
    location: bytes | None = None
    md5: bytes | None = None
    lines: int = 0
    children: list["Part"] = field(default_factory=list)
    is_opaque: bool = False
    has_content_type: bool = False
    is_message: bool = False  # the root, or the message inside a message/rfc822 part
    header: bytes = b""  # kept of messages only
    head: bytes | None = None  # first octets of the body, kept of the first text parts

    @property
    def size(self) -> int:
        """Octets of the body, in its transfer encoding."""
        return self.body_end - self.header_end

    @property
    def is_multipart(self) -> bool:
        """Whether there are parts inside, found by delimiter lines."""
        return self.type == b"multipart" and bool(self.children)

    @property
    def message(self) -> "Part | None":
        """The encapsulated message of a message/rfc822 or message/global part."""
        return self.children[0] if self.type == b"message" and self.children else None

    def walk(self) -> Iterator["Part"]:
        """This part and all below it, in the order of the message."""
        stack = [self]
        while stack:
            part = stack.pop()
            yield part
            stack.extend(reversed(part.children))


class _Open:
    """A part on the path from the root to the current part."""

    __slots__ = ("delimiter", "lines_before", "part", "shadowed")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.delimiter: bytes | None = None  # set while its delimiter lines count
        self.shadowed: int | None = None  # outer multipart with the same boundary
        self.lines_before = 0


def parse(message: bytes) -> Part:
    """The root part of a whole message; the fastest way."""
    scanner = Scanner(coalesce_bytes=len(message) + 1)
    scanner.feed(message)
    return scanner.finish()


class Scanner:
    """Builds the tree from chunks of a message; see the module."""

    __slots__ = (
        "_at", "_base", "_buffer", "_coalesce", "_count_lines", "_counted", "_delimiters", "_encapsulated", "_head",
        "_head_left", "_header_total", "_heads", "_in_header", "_lines", "_needle", "_parts", "_path", "_pending",
        "_pending_size", "_resume", "_steps_per_feed", "has_opaque_part", "root", "root_fields", "size",
    )  # fmt: skip

    def __init__(self, *, coalesce_bytes: int = COALESCE_BYTES, steps_per_feed: int | None = None) -> None:
        """`steps_per_feed`: what is behind them waits, for `finish` if need be, which then takes up to 60 ms."""
        self._coalesce = coalesce_bytes
        self._steps_per_feed = steps_per_feed
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._buffer = b""
        self._base = 0  # offset in the message of _buffer[0]
        self._at = 0  # in HEADER: start of the header; in BODY: where the search goes on. Index into _buffer
        self._resume = 0  # no blank line of a header begins between _at and this index
        self._in_header = True
        self._delimiters: dict[bytes, int] = {}  # boundary -> index into _path
        self._needle = b"\n--"
        self.root = Part(is_message=True)
        self.root_fields: Fields = []
        self._path = [_Open(self.root)]
        self._parts = 1
        self._header_total = 0
        self._lines = 0  # line ends before _counted, as far as they were counted
        self._counted = 0  # offset in the message
        self._count_lines = False
        self._encapsulated = 0  # open message/rfc822 parts
        self._head: list[bytes] | None = None
        self._head_left = 0
        self._heads = 0
        self.has_opaque_part = False
        self.size = 0

    @property
    def held_bytes(self) -> int:
        """About what is kept in memory now: octets that wait, and what is known of the parts."""
        return len(self._buffer) - self._at + self._pending_size + self._parts * PART_BYTES

    def feed(self, chunk: bytes) -> None:
        """Takes the next octets of the message."""
        self._pending.append(chunk)
        self._pending_size += len(chunk)
        self.size += len(chunk)
        if self._pending_size >= self._coalesce:
            self._pump(final=False)

    def finish(self) -> Part:
        """The root of the tree; nothing may be fed afterwards."""
        self._pump(final=True)
        self._close_to(0, self._base + len(self._buffer))
        self._close_part(self._path[0], self._base + len(self._buffer))
        self._buffer = b""
        return self.root

    def _pump(self, *, final: bool) -> None:
        if self._pending:
            pending = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._buffer = self._buffer + pending if self._buffer else pending
            self._pending = []
            self._pending_size = 0
        left = None if final else self._steps_per_feed
        while self._step_header(final) if self._in_header else self._step_body(final):
            if left is not None:
                left -= 1
                if left <= 0 and len(self._buffer) - self._at <= MAX_BACKLOG:
                    break
        if not final:
            # four octets stay in front: the CR LF before a delimiter line is looked at again
            drop = self._at - 4
            if drop > 0:
                self._buffer = self._buffer[drop:]
                self._base += drop
                self._at -= drop
                self._resume -= drop

    def _step_header(self, final: bool) -> bool:
        """Reads the header of the current part if all of it is there; False when more bytes are needed."""
        buffer = self._buffer
        start = self._at
        limit = start + MAX_HEADER
        end = -1
        is_too_long = False
        if buffer.startswith((b"\n", b"\r\n"), start):
            end = start + (1 if buffer[start] == 10 else 2)
        elif len(buffer) - start < 2 and not final:
            return False
        else:
            match = _BLANK_LINE.search(buffer, max(start, self._resume), limit)
            # remembered over parts: a header that a delimiter line cuts short must not cost a search of 1 MiB each time
            self._resume = match.start() if match else max(start, min(len(buffer), limit) - 2)
            if match:
                end = match.end()
            elif len(buffer) >= limit:
                end = limit
                is_too_long = True
            elif final:
                end = len(buffer)
            else:
                return False
        if self._delimiters:
            # RFC 2046 §5.1.2: a delimiter line ends whatever is inside, a header too
            found = self._find_delimiter(start - 1, end, final)
            if found is None:
                return False
            if found:
                place, line_end, index, is_close = found
                self._begin_body(buffer[start:place], start, place)
                self._take_delimiter(place, line_end, index, is_close)
                return True
        self._path[-1].part.is_opaque = is_too_long
        self._begin_body(buffer[start:end], start, end)
        if is_too_long:  # the limit may lie inside a delimiter line
            self._at = max(start, end - len(self._needle))
        return True

    def _find_delimiter(self, at: int, stop: int, final: bool) -> tuple[int, int, int, bool] | tuple[()] | None:
        """(start of line, start of next line, index into the path, whether it closes); () none; None: more needed.

        Looks for lines that begin behind `at` (the place of a line end) and before `stop`. Sets `_at` to where the
        search has to go on when more is needed.
        """
        buffer = self._buffer
        needle = self._needle
        find = buffer.find
        misses = 0
        while True:
            at = find(needle, at, stop)
            if at < 0:
                return ()
            misses += 1
            if misses % _MANY_MISSES == 0:
                at = self._skip_misses(at, stop)
            line_end = find(b"\n", at + 3, at + MAX_DELIMITER_LINE) + 1
            if not line_end:
                if len(buffer) - at >= MAX_DELIMITER_LINE:
                    at += 3
                    continue
                if not final:
                    if not self._in_header:
                        self._at = at
                    return None
                line_end = len(buffer)
            key = buffer[at + 3 : line_end].rstrip()
            # DEVIATES RFC 2046 §5.1.1: the whole line is compared, not its beginning: with a prefix match a
            # multipart whose boundary begins with its parent's would end its parent.
            index = self._delimiters.get(key)
            if index is not None:
                return at + 1, line_end, index, False
            if key.endswith(b"--"):
                index = self._delimiters.get(key[:-2])
                if index is not None:
                    return at + 1, line_end, index, True
            at += 3

    def _skip_misses(self, at: int, stop: int) -> int:
        """The start of a later line like the one at `at`, none between them being a delimiter line; or `at`."""
        buffer = self._buffer
        last = buffer.rfind(b"\n--", at, min(at + _BULK_BYTES, stop))
        keys = {key.rstrip() for key in _DASH_LINE.findall(buffer, at, last)}
        delimiters = self._delimiters.keys()
        if keys & delimiters or {key[:-2] for key in keys if key.endswith(b"--")} & delimiters:
            return at
        return max(at, last)

    def _step_body(self, final: bool) -> bool:
        """Goes to the next delimiter line; False when the buffer is used up."""
        buffer = self._buffer
        end = len(buffer)
        if self._delimiters:
            found = self._find_delimiter(self._at, end, final)
            if found:
                self._take_delimiter(*found)
                return True
            if not final:
                # a needle may have begun at the end; CR LF before it is held back by _pump
                end = self._at if found is None else max(self._at, end - len(self._needle) - 1)
        self._consume(end)
        self._at = end
        return False

    def _consume(self, end: int) -> None:
        """Counts and keeps what is wanted of the body up to index `end`, which is not looked at again."""
        if self._head is not None and self._head_left > 0:
            start = max(self._counted - self._base, 0)
            piece = self._buffer[start : min(end, start + self._head_left)]
            self._head.append(piece)
            self._head_left -= len(piece)
        place = self._base + end
        if place > self._counted:
            if self._count_lines:
                self._lines += self._buffer.count(b"\n", self._counted - self._base, end)
            self._counted = place

    def _take_delimiter(self, place: int, line_end: int, index: int, is_close: bool) -> None:
        """Ends the parts inside the multipart `_path[index]` before the line at `place`; begins its next part."""
        buffer = self._buffer
        self._in_header = False
        # RFC 2046 §5.1.1: the line end before a delimiter line belongs to it
        end = place - 1
        if end > 0 and buffer[end - 1] == 13:
            end -= 1
        self._consume(max(end, self._counted - self._base))
        self._close_to(index, self._base + end)
        # what is between the parts is nobody's text; an enclosing message still counts its lines
        self._count_lines = self._encapsulated > 0
        if is_close:
            self._close_delimiter(index)
            # the line end may belong to the delimiter line of an outer multipart
            self._at = line_end - 1 if buffer[line_end - 1] == 10 else line_end
            self._consume(self._at)
            return
        self._consume(line_end)
        self._at = line_end
        parent = self._path[index].part
        self._parts += 1
        part = self._new_part(line_end)
        parent.children.append(part)
        self._path.append(_Open(part))
        if self._parts >= MAX_PARTS:  # the rest of the message is one part
            for opened in self._path:
                opened.delimiter = None
            self._delimiters.clear()
            self._make_opaque(part)
            return
        if parent.subtype == b"digest":  # RFC 2046 §5.1.5: parts of a digest are messages unless they say otherwise
            part.type, part.subtype = b"message", b"rfc822"
        self._in_header = True

    def _new_part(self, at: int) -> Part:
        """An empty part at index `at` of the buffer."""
        place = self._base + at
        return Part(place, place, place)

    def _make_opaque(self, part: Part) -> None:
        part.is_opaque = self.has_opaque_part = True
        part.type, part.subtype, part.params = b"application", b"octet-stream", ()

    def _close_delimiter(self, index: int) -> None:
        opened = self._path[index]
        if opened.delimiter is None:
            return
        if opened.shadowed is None:
            del self._delimiters[opened.delimiter]
        else:
            self._delimiters[opened.delimiter] = opened.shadowed
        opened.delimiter = None
        self._set_needle()

    def _set_needle(self) -> None:
        # One long needle is found three times faster in base64 text than the three octets all delimiters share.
        if len(self._delimiters) == 1:
            (boundary,) = self._delimiters
            self._needle = b"\n--" + boundary
        else:
            self._needle = b"\n--"

    def _close_to(self, index: int, end: int) -> None:
        """Closes all parts below `_path[index]`, innermost first, at offset `end`."""
        path = self._path
        while len(path) > index + 1:
            opened = path[-1]
            self._close_delimiter(len(path) - 1)
            path.pop()
            # a body cannot end before it begins: a delimiter line straight behind a header leaves it empty
            end = self._close_part(opened, end)

    def _close_part(self, opened: _Open, end: int) -> int:
        part = opened.part
        part.body_end = end = max(end, part.header_end)
        if part.type in (b"text", b"message", b"multipart"):
            part.lines = self._lines - opened.lines_before
        if part.is_message and part is not self.root:
            self._encapsulated -= 1
        if self._head is not None and part.head is not None:
            part.head = b"".join(self._head)[: part.size]
            self._head = None
        if part.type == b"multipart" and not part.children:
            # Its delimiter never came: the reader shall see what is there, and BODYSTRUCTURE needs a part.
            if self._parts >= MAX_PARTS - 1:  # one is left for the rest of the message
                self._make_opaque(part)
            else:
                self._parts += 1
                part.children.append(Part(part.header_end, part.header_end, end, lines=part.lines))
        return end

    def _begin_body(self, header: bytes, start: int, end: int) -> None:
        """Notes the header of the current part, bytes `start:end` of the buffer, and what its body will be."""
        opened = self._path[-1]
        part = opened.part
        part.header_start = self._base + start
        part.header_end = part.body_end = self._base + end
        self._in_header = False
        # the line end in front of the body counts as the start of a line: a delimiter may be its first
        self._at = end - 1 if end > 0 and self._buffer[end - 1 : end] == b"\n" else end
        self._consume(end)
        self._header_total += len(header)
        if self._header_total > MAX_HEADER_TOTAL:
            part.is_opaque = True
            header = b""
        fields = split_fields(header)
        if part.is_message:
            part.header = header
            if part is self.root:
                self.root_fields = fields
        found = first_values(fields, _CONTENT_FIELDS)
        if found:
            _set_content(part, found)
        self._enter(opened, part, end)

    def _enter(self, opened: _Open, part: Part, end: int) -> None:
        opened.lines_before = self._lines
        is_message = part.type == b"message" and part.subtype in (b"rfc822", b"global")
        if (
            part.is_opaque
            or ((is_message or part.type == b"multipart") and len(self._path) >= MAX_DEPTH)
            or (is_message and self._parts >= MAX_PARTS - 1)  # one is left for the rest of the message
        ):
            self._make_opaque(part)
        kind = part.type
        # a multipart is counted up to its first delimiter line: if none comes it is shown as text
        self._count_lines = kind in (b"text", b"multipart") or self._encapsulated > 0
        if kind == b"text":
            if self._heads < MAX_HEADS and not (part.disposition and part.disposition[0] == b"attachment"):
                self._heads += 1
                self._head = []
                self._head_left = HEAD_BYTES
                part.head = b""
        elif kind == b"multipart":
            self._open_multipart(opened, part)
        elif is_message and not part.is_opaque:
            self._parts += 1
            self._encapsulated += 1
            self._count_lines = True
            child = self._new_part(end)
            child.is_message = True
            part.children.append(child)
            self._path.append(_Open(child))
            self._at = end
            self._in_header = True

    def _open_multipart(self, opened: _Open, part: Part) -> None:
        boundary = next((value for name, value in part.params if name == b"boundary"), b"").rstrip()
        if not boundary or len(boundary) > MAX_DELIMITER_LINE - 8 or b"\n" in boundary:
            return
        opened.delimiter = boundary
        opened.shadowed = self._delimiters.get(boundary)
        self._delimiters[boundary] = len(self._path) - 1
        self._set_needle()


def _set_content(part: Part, found: dict[bytes, bytes]) -> None:
    """Fills in what the Content-* fields say. Source: RFC 2045 §5-8, RFC 2183, RFC 3282, RFC 2557, RFC 1864."""
    raw = found.get(b"content-type")
    if raw is not None:
        head, params = parse_params(raw)
        match = _MEDIA_TYPE.match(head)
        if match:
            part.type, part.subtype = match[1].lower(), match[2].lower()
            part.params = params
            part.has_content_type = True
        elif head.lower() == b"text":  # RFC 1049 form, still written by old mailers
            part.type, part.subtype = b"text", b"plain"
    raw = found.get(b"content-transfer-encoding")
    if raw is not None:
        # RFC 2045 §6.1: one token; a parameter or comment behind it is dropped
        part.encoding = parse_params(raw)[0].strip(b'"').lower() or b"7bit"
    part.content_id = _unfolded(found, b"content-id")
    part.description = _unfolded(found, b"content-description")
    part.location = _unfolded(found, b"content-location")
    part.md5 = _unfolded(found, b"content-md5")
    raw = found.get(b"content-disposition")
    if raw is not None:
        head, params = parse_params(raw)
        if head:
            part.disposition = (head.lower(), params)
    raw = found.get(b"content-language")
    if raw is not None:
        part.language = tuple(_LANGUAGE.findall(raw)[:_MAX_LANGUAGES])


def _unfolded(found: dict[bytes, bytes], name: bytes) -> bytes | None:
    raw = found.get(name)
    return None if raw is None else unfold(raw) or None
