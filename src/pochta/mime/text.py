"""The preview of a message: its first words as plain text. Source: RFC 8970 §3."""

import binascii
import html
import re

from pochta.mime.header import decode_base64, decode_charset, param_text
from pochta.mime.parse import HEAD_BYTES, Part

# RFC 8970 §3.1: at most 256 characters.
MAX_PREVIEW = 256
# How much of a body is decoded, more only when less did not fill the preview: 1 KiB does for plain text in base64,
# 8 KiB for most HTML.
_TRIES = (1024, 8 * 1024, HEAD_BYTES)
# Elements that hold no text and comments; one that is never closed takes the rest (a second try per opening would be
# quadratic), then tags inside a word, then all others.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(style|script|head|title|noscript)\b.*?(?:</\1\s*+>|\Z)", re.DOTALL | re.IGNORECASE
)
_INLINE_TAG = re.compile(r"</?(?:a|b|i|u|s|em|strong|span|font|small|big|sub|sup|code|tt)(?:\s[^>]*+)?>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*+(?:>|\Z)")
# Fillers that senders put behind a preheader: they would eat the preview (soft hyphen, joiners, zero width spaces).
_INVISIBLE = dict.fromkeys([0xAD, 0x34F, 0x61C, 0x115F, 0x17B4, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


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
    is_html = part.subtype in (b"html", b"xhtml")
    text = ""
    for size in _TRIES:
        text = _squeeze(_decode(part, head[:size], part.size > size), is_html)
        if len(text) >= MAX_PREVIEW or len(head) <= size:
            break
    return text[:MAX_PREVIEW].rstrip()


def _decode(part: Part, data: bytes, is_cut: bool) -> str:
    encoding = part.encoding
    if encoding == b"base64":
        data = decode_base64(data)
    elif encoding == b"quoted-printable":
        if is_cut and b"=" in data[-2:]:
            data = data[: data.rindex(b"=")]
        data = binascii.a2b_qp(data)
    text = decode_charset(data, (param_text(part.params, b"charset") or "").lower())
    return text.rstrip("\ufffd") if is_cut else text


def _squeeze(text: str, is_html: bool) -> str:
    if is_html:
        text = _TAG.sub(" ", _INLINE_TAG.sub("", _HIDDEN.sub(" ", text)))
        if "&" in text:
            text = html.unescape(text)
    if not text.isascii():
        text = text.translate(_INVISIBLE)
    text = " ".join(text.split())
    # isprintable is 20 times faster than the pattern, and nearly always true
    return text if text.isprintable() else " ".join(_CONTROLS.sub(" ", text).split())
