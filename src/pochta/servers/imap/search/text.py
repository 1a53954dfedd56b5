"""Finding texts in a message: all BODY and TEXT needles of a command in one reading of it.

What is looked at is decided in `mime.searched`, what is equal in `mime.fold`; here the pieces are looked through, and
what may go over the edge of one is kept for the next. A plain generator: the caller gives up its turn between pieces.

Source: RFC 3501 §6.4.4.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pochta.mime.fold import edge, fold, fold_field, loosened, steps
from pochta.mime.parse import Part
from pochta.mime.searched import PIECE_BYTES, Read, body_texts, has_body_text, header_texts, is_html
from pochta.mime.text import unescape

NEEDLES_PER_PIECE: Final = 16  # more of them are looked for in smaller pieces, so that a piece stays as quick
PIECE_MIN_CHARS: Final = 2048
REFERENCE_CHARS: Final = 34  # of the longest character reference: `&`, 32 characters of a name, `;`


class Needle(NamedTuple):
    """A text to look for, folded for bodies and for headers; `in_header`: in the message's own header too (TEXT).

    `is_loose`: it has no diacritics, and those of the message do not count.
    """

    body_form: str
    header_form: str
    in_header: bool
    is_loose: bool = False


def needle(text: str, *, in_header: bool) -> Needle:
    """The needle of a BODY or (`in_header`) TEXT key."""
    return Needle(fold(text), fold_field(text), in_header)


def find_in_message(read: Read, root: Part, needles: Sequence[Needle]) -> Iterator[int]:
    """Looks for all needles: after each piece the set (bit n: `needles[n]`) of those found so far; the last counts."""
    finder = _Finder(needles)
    own = [number for number, one in enumerate(needles) if one.in_header]
    everywhere = list(range(len(needles)))
    for part in root.walk():
        wanted = everywhere if part.is_message and part is not root else own
        if finder.is_open(wanted) and part.header_end > part.header_start:
            for text in header_texts(read(part.header_start, part.header_end), part):
                yield finder.look_in_header(text, wanted)
        if not has_body_text(part):
            continue
        finder.begin_body()
        for text in body_texts(read, part):
            for piece in _pieces(text, finder.piece_chars, is_html=is_html(part)):
                yield finder.look_in_body(piece, is_html=is_html(part))
            if finder.is_done:
                break
        if finder.is_done:
            break
    yield finder.found


def _pieces(text: str, size: int, *, is_html: bool) -> Iterator[str]:
    """The text in pieces of about `size` characters; of HTML none ends within a character reference."""
    if not is_html or "&" not in text:
        yield from steps(text, size)
        return
    at = 0
    while at < len(text):
        stop = at + size
        if stop < len(text):
            reference = text.rfind("&", stop - REFERENCE_CHARS, stop)
            stop = reference if reference > at else edge(text, stop)
        yield text[at:stop]
        at = stop


class _Finder:
    """The search for some needles in one message."""

    __slots__ = (
        "_all",
        "_has_loose",
        "_left",
        "_longest",
        "_needles",
        "_tail",
        "_unescaped_tail",
        "found",
        "piece_chars",
    )

    def __init__(self, needles: Sequence[Needle]) -> None:
        self._needles = needles
        self._all = (1 << len(needles)) - 1
        self._left = list(range(len(needles)))
        # diacritics stand between the letters that a loose needle holds; two a letter is what languages need
        self._longest = max((len(one.body_form) * (3 if one.is_loose else 1) for one in needles), default=0)
        self._has_loose = any(one.is_loose for one in needles)
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
        loose = loosened(text) if self._has_loose else text
        for number in wanted:
            one = self._needles[number]
            if not self.found >> number & 1 and one.header_form in (loose if one.is_loose else text):
                self.found |= 1 << number
        return self.found

    def begin_body(self) -> None:
        self._tail = self._unescaped_tail = ""
        self._left = [number for number in self._left if not self.found >> number & 1]

    def look_in_body(self, text: str, *, is_html: bool) -> int:
        was_plain = self._unescaped_tail == self._tail
        self._tail = self._look(self._tail + fold(text))
        if is_html:
            if "&" in text or not was_plain:
                self._unescaped_tail = self._look(self._unescaped_tail + fold(unescape(text)))
            else:
                self._unescaped_tail = self._tail
        return self.found

    def _look(self, text: str) -> str:
        """Looks into `text`; the end of it that may be the beginning of a needle."""
        loose = loosened(text) if self._has_loose else text
        for number in self._left:
            one = self._needles[number]
            if one.body_form in (loose if one.is_loose else text):
                self.found |= 1 << number
        return text[-self._longest + 1 :] if self._longest > 1 else ""
