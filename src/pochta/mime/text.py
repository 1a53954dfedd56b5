"""Text of a message for people: the preview (RFC 8970 §3), names of attachments, HTML without its markup.

Transfer encoding and charset are undone (`decode`), markup of HTML is taken away by three patterns that are linear in
their input. What is searched is `searched`.
"""

import html
import re

from pochta.mime.decode import decode_charset, decode_transfer, param_text
from pochta.mime.header import Params
from pochta.mime.parse import HEAD_BYTES, Part

# RFC 8970 §3.3, RFC 8621 §4.1.4: never more than 256 characters.
MAX_PREVIEW = 256
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
