"""Text of a message for people and for a text index: the preview (RFC 8970 §3) and the words worth finding.

Both read parts the same way: transfer encoding and charset undone (`decode`), markup of HTML taken away by three
patterns that are linear in their input. What either holds is bounded by a named limit.
"""

import html
import re
from collections.abc import Callable, Iterator
from enum import Enum

from pochta.mime.decode import decode_charset, decode_transfer, decode_words, param_text
from pochta.mime.header import Params, split_fields
from pochta.mime.parse import HEAD_BYTES, Part

# RFC 8970 §3.1: at most 256 characters.
MAX_PREVIEW = 256
# Text of one message in the index: a book of 500 pages, one mail in a million is longer. Dovecot's fts_message_max_size
# has no default; its documents suggest 30 MB for the message with attachments.
MAX_INDEX_CHARS = 1024 * 1024
# Of one body and of one header field; a field of 32 KiB has 500 addresses.
MAX_INDEX_BODY = 256 * 1024
MAX_INDEX_FIELD = 32 * 1024
# How much of a body is decoded, more only when less did not fill the preview: 1 KiB does for plain text in base64,
# 8 KiB for most HTML.
_TRIES = (1024, 8 * 1024, HEAD_BYTES)
# Elements that hold no text and comments; one that is never closed takes the rest (a second try per opening would be
# quadratic), then tags inside a word, then all others.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(style|script|head|title|noscript)\b.*?(?:</\1\s*+>|\Z)", re.DOTALL | re.IGNORECASE
)
_INLINE_TAG = re.compile(
    r"</?(?:a|b|i|u|s|em|strong|span|font|small|big|sub|sup|code|tt)(?:\s[^<>]*+)?>", re.IGNORECASE
)
_TAG = re.compile(r"<[^>]*+(?:>|\Z)")
# No character has so many digits; html.unescape raises on 4300 of them, and takes quadratic time below.
_LONG_NUMBER = re.compile(r"&#(?:[0-9]{12,}+|[xX][0-9A-Fa-f]{12,}+);?")
# Fillers that senders put behind a preheader: they would eat the preview (soft hyphen, joiners, zero width spaces).
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u17b4\u200b-\u200f\u2060-\u2064\ufeff]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_HTML = frozenset((b"html", b"xhtml", b"xhtml+xml"))
_ADDRESS_FIELDS = frozenset((b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc"))

Read = Callable[[int, int], bytes]
"""The octets `start <= n < stop` of the message."""


class IndexField(Enum):
    """What a piece of index text is. CUT: a limit was met, the message has more text than the index was given."""

    SUBJECT = "subject"
    ADDRESSES = "addresses"
    NAME = "name"
    BODY = "body"
    CUT = "cut"


def preview(root: Part) -> str:
    """First words of the message in one line, at most MAX_PREVIEW characters, "" when there is no text.

    From the first text part that has some; uses the beginnings of bodies the scanner kept (`Part.head`).
    """
    for part in root.walk():
        if part.head:
            text = _preview_of(part, part.head)
            if text:
                return text
    return ""


def _preview_of(part: Part, head: bytes) -> str:
    text = ""
    for size in _TRIES:
        text = _in_one_line(_decode(part, head[:size], is_cut=part.size > size))
        if len(text) >= MAX_PREVIEW or len(head) <= size:
            break
    return text[:MAX_PREVIEW].rstrip()


def index_text(root: Part, read: Read) -> Iterator[tuple[IndexField, str]]:
    """The text by which people look for the message, in pieces of bounded size, at most MAX_INDEX_CHARS together.

    Subject and addresses of the message and of the messages inside it, names of attachments, and every body of type
    text: decoded, HTML without its markup, white space as it stands. The last piece is (CUT, "") when something was
    left out for a limit. A piece takes 2 ms of real mail, 50 ms of hostile HTML: not for the event loop (INV-12).
    """
    left = MAX_INDEX_CHARS
    is_cut = False
    for part in root.walk():
        for kind, text, is_whole in _index_part(part, read):
            is_cut = is_cut or not is_whole or len(text) > left
            text = text[:left].replace("\0", " ")
            left -= len(text)
            if text:
                yield kind, text
        is_cut = is_cut or part.is_opaque
        if is_cut and not left:
            break
    if is_cut:
        yield IndexField.CUT, ""


def _index_part(part: Part, read: Read) -> Iterator[tuple[IndexField, str, bool]]:
    """(kind, text, whether it is all of it) of one part."""
    if part.is_message:
        for _, name, value in split_fields(part.header):
            key = name.lower()
            kind = IndexField.SUBJECT if key == b"subject" else IndexField.ADDRESSES
            if kind is IndexField.SUBJECT or key in _ADDRESS_FIELDS:
                yield kind, decode_words(value[:MAX_INDEX_FIELD]), len(value) <= MAX_INDEX_FIELD
    name_text = file_name(part)
    if name_text:
        yield IndexField.NAME, name_text, True
    if part.type == b"text" and part.size:
        is_whole = part.size <= MAX_INDEX_BODY
        data = read(part.header_end, min(part.body_end, part.header_end + MAX_INDEX_BODY))
        yield IndexField.BODY, _decode(part, data, is_cut=not is_whole), is_whole


def file_name(part: Part) -> str:
    """The name of an attachment as its sender wrote it, "" without one. Not fit for a path as it is.

    Source: RFC 2183 §2.3; the `name` of Content-Type, which is older, counts when there is no `filename`.
    """
    params: Params = part.disposition[1] if part.disposition else ()
    return param_text(params, b"filename") or param_text(part.params, b"name") or ""


def part_text(part: Part, body: bytes) -> str:
    """Text of a part whose body this is: transfer encoding and charset undone, HTML as it stands."""
    return decode_charset(decode_transfer(body, part.encoding), (param_text(part.params, b"charset") or "").lower())


def _decode(part: Part, data: bytes, *, is_cut: bool) -> str:
    """The words of a part, from `data`, the beginning of its body."""
    if is_cut and part.encoding == b"quoted-printable" and b"=" in data[-2:]:
        data = data[: data.rindex(b"=")]
    text = part_text(part, data)
    if is_cut:
        text = text.rstrip("\ufffd")
    return strip_html(text) if part.subtype in _HTML else text


def strip_html(text: str) -> str:
    """The words of HTML: no tags, comments, styles and scripts; character references replaced."""
    text = _TAG.sub(" ", _INLINE_TAG.sub("", _HIDDEN.sub(" ", text)))
    return unescape(text)


def unescape(text: str) -> str:
    """As `html.unescape`, for any text: a reference to a number beyond all characters is U+FFFD, however long."""
    if "&" not in text:
        return text
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text))


def _in_one_line(text: str) -> str:
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
    text = " ".join(text.split())
    # isprintable is 20 times faster than the pattern, and nearly always true
    return text if text.isprintable() else " ".join(_CONTROLS.sub(" ", text).split())
