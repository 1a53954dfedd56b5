"""URLs of messages and their sections on this server, as CATENATE takes them.

    /mailbox;UIDVALIDITY=n/;UID=n/;SECTION=section/;PARTIAL=first.count

All but the mailbox and UID may be left out; with a mailbox selected, the mailbox too. Names are UTF-8 in
percent-encoding. A URL with a scheme or a server is another server's (RFC 4469 §3), one with URLAUTH or a search names
no message that we give out.

Source: RFC 5092 §7 and §11, RFC 4469 §3; RFC 3986 §5.2.3 (how a relative path is merged with its base).
"""

import re
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.commands import BodySection, SectionKind
from pochta.proto.imap.fetch import parse_section
from pochta.proto.imap.lex import MAX_NUMBER, MAX_NUMBER64, decode_utf8

_URL: Final = re.compile(
    rb"(?:(/?)([^;?#]*?)(?:;UIDVALIDITY=([0-9]{1,10}))?/)?;UID=([0-9]{1,10})"
    rb"(?:/;SECTION=([^;?#]+?))?(?:/;PARTIAL=([0-9]{1,19})(?:\.([0-9]{1,19}))?)?",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*:|//")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_WHOLE: Final = BodySection(b"BODY[]", SectionKind.WHOLE, is_peek=True)


class MessageUrl(NamedTuple):
    """A message, or what `section` says of it; `uid_validity` 0 where the URL has none."""

    mailbox: str
    uid_validity: int
    uid: int
    section: BodySection


def parse_message_url(url: bytes, base: str | None) -> MessageUrl:
    """The message that the URL names; `base` is the name of the selected mailbox.

    Raises:
        RemoteProtocolError: it names none of this server's.
    """
    match = None if _SCHEME.match(url) else _URL.fullmatch(url)
    if match is None:
        raise RemoteProtocolError("not a URL of a message on this server")
    root, path, uid_validity, uid, section, first, count = match.groups()
    validity, number = int(uid_validity or b"0"), int(uid)
    if not 0 < number <= MAX_NUMBER or validity > MAX_NUMBER:
        raise RemoteProtocolError("a number of the URL is out of range")
    named = _WHOLE if section is None else parse_section(_unescaped(section))
    if first is not None:
        span = int(first), MAX_NUMBER64 if count is None else int(count)
        named = BodySection(named.label, named.kind, named.part, named.fields, span, is_peek=True)
    return MessageUrl(_mailbox(root, path, base), validity, number, named)


def _mailbox(root: bytes | None, path: bytes | None, base: str | None) -> str:
    if not path:
        # RFC 4469 §3: the selected mailbox is the base
        if root or base is None:
            raise RemoteProtocolError("the URL names no mailbox")
        return base
    name = decode_utf8(_unescaped(path))
    if root or base is None or "/" not in base:
        return name
    return f"{base.rpartition('/')[0]}/{name}"


def _unescaped(text: bytes) -> bytes:
    if b"%" not in text:
        return text
    found = _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), text)
    if text.count(b"%") != len(_PERCENT.findall(text)) or b"\0" in found:
        raise RemoteProtocolError("malformed percent-encoding")
    return found
