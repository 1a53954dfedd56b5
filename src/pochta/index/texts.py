"""The folded text of one message, as the index keeps it and as `mime.searched` lets SEARCH see it.

Pieces that no needle may join (fields, parts, names of files) are parted by NUL, which no needle holds. What is longer
than a limit is left out and said so in `state`: then SEARCH opens the message.
"""

from collections.abc import Callable
from enum import IntFlag
from typing import Final, NamedTuple

from pochta.mime.fold import fold
from pochta.mime.header import split_fields
from pochta.mime.parse import Part
from pochta.mime.searched import FIELD_BYTES, body_texts, field_text, file_names, has_body_text, is_html
from pochta.mime.text import unescape

# A book of 500 pages; one mail in a million is longer. The trigrams of so much text take 0.1 s.
INDEXED_CHARS: Final = 1024 * 1024
# Bodies up to here are kept, so that the index alone can decide; nine of ten mails have less text. Opening and reading
# a longer one takes 1 ms. One piece of `mime.searched`: both look at the same text, however HTML is cut.
KEPT_CHARS: Final = 32 * 1024
HEADER_BYTES: Final = 256 * 1024  # of all headers in a message; 30 times what lists and signatures make of one

COLUMNS: Final = ("sender", "receiver", "copied", "blind", "subject")
FIELDS: Final = {b"from": 0, b"to": 1, b"cc": 2, b"bcc": 3, b"subject": 4}
"""Field name to its place in COLUMNS."""

SEPARATOR: Final = "\0"

Read = Callable[[int, int], bytes]
"""The octets `start <= n < stop` of the message."""


class State(IntFlag):
    """What the index does not know of a message."""

    WHOLE = 0
    FIELDS_CUT = 1  # a header field is too long
    TEXT_CUT = 2  # some text is not among the trigrams


class MessageText(NamedTuple):
    """Folded. `fields`: as COLUMNS, None where there is no such field, several parted by SEPARATOR.

    `header`: the message's own, a line end and then `name: value` and a line end for each field. `parts`: headers of
    parts and names of files, in which TEXT alone looks. `inner`: headers of messages in the message.
    """

    state: State
    fields: tuple[str | None, ...]
    header: str
    parts: str
    inner: str
    body: str

    @property
    def all_text(self) -> str:
        """Everything, for the trigrams.

        Two more characters stand at the end, so that a trigram begins at every character of the text.
        """
        text = SEPARATOR.join((self.header, self.parts, self.inner, self.body))
        return as_words(text) + "\x01\x01"


NOTHING: Final = MessageText(State.FIELDS_CUT | State.TEXT_CUT, (None,) * len(COLUMNS), "", "", "", "")
"""Of a message that cannot be read."""


def as_words(text: str) -> str:
    """Text as the trigrams are made of it: without what FTS5 passes over (NUL) or reads as U+FFFD."""
    return text.replace(SEPARATOR, "\x01").replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")


def text_of(root: Part, read: Read) -> MessageText:
    """The text of a message. 0.1 ms for 1 KiB of text, some ms a megabyte; not for the event loop (INV-12)."""
    state = State.WHOLE
    fields: list[list[str]] = [[] for _ in COLUMNS]
    header = ""
    parts: list[str] = []
    inner: list[str] = []
    body: list[str] = []
    header_left, body_left = HEADER_BYTES, INDEXED_CHARS
    for part in root.walk():
        size = part.header_end - part.header_start
        if size > header_left:
            state |= State.TEXT_CUT | (State.FIELDS_CUT if part is root else State.WHOLE)
        elif size:
            header_left -= size
            raw = read(part.header_start, part.header_end)
            lines, is_cut = _lines(raw, fields if part is root else None)
            if is_cut:
                state |= State.TEXT_CUT | State.FIELDS_CUT
            if part is root:
                header = lines
            else:
                (inner if part.is_message else parts).append(lines)
            # as `find_in_message`: the names of a part's file stand with its header
            (inner if part.is_message and part is not root else parts).extend(file_names(part))
        if not has_body_text(part):
            continue
        if not body_left:
            state |= State.TEXT_CUT
            continue
        for text in _bodies(read, part, body_left):
            body.append(text)
            body_left -= len(text)
        if body_left < 0:
            state |= State.TEXT_CUT
            body_left = 0
    texts = (SEPARATOR.join(parts), SEPARATOR.join(inner), SEPARATOR.join(body))
    values = tuple(SEPARATOR.join(values) if values else None for values in fields)
    return MessageText(state, values, header, *texts)


def _lines(raw: bytes, fields: list[list[str]] | None) -> tuple[str, bool]:
    """The lines of a header; whether one is cut. Those that have columns are put into `fields`."""
    lines = [""]
    is_cut = False
    for _, name, value in split_fields(raw):
        if len(value) > FIELD_BYTES:
            is_cut = True
            value = value[:FIELD_BYTES]
        text = field_text(value)
        name = name.lower()
        lines.append(f"{name.decode('ascii')}: {text}")
        if fields is not None and name in FIELDS:
            fields[FIELDS[name]].append(text)
    lines.append("")
    return "\n".join(lines), is_cut


def _bodies(read: Read, part: Part, chars_left: int) -> list[str]:
    """The folded texts of a part; one that ends in the middle is longer than `chars_left`."""
    pieces: list[str] = []
    size = 0
    for piece in body_texts(read, part):
        pieces.append(piece)
        size += len(piece)
        if size > chars_left:
            break
    text = "".join(pieces)
    if is_html(part) and "&" in text:
        return [fold(text), fold("".join([unescape(piece) for piece in pieces]))]
    return [fold(text)]
