"""What SORT by DISPLAYFROM and DISPLAYTO compares: the name of the first address, read from a stored ENVELOPE.

Source: RFC 5957 §3 and §4.
"""

import re
from typing import Final

from pochta.mime.decode import decode_words

# RFC 5322 §2.1.1: one full line, as for base subjects
MAX_DISPLAY: Final = 998
# That many characters, each in an encoded word of its own.
_MAX_RAW: Final = 32 * 1024

_STRING: Final = rb'(?:NIL|"[^"\\]*(?:\\.[^"\\]*)*")'
_ADDRESS: Final = rb"\(%b %b %b %b\)" % ((_STRING,) * 4)
_LIST: Final = rb"(?:NIL|\((?:%b)+\))" % _ADDRESS
_FIRST: Final = rb"\(\((%b) %b (%b) (%b)\)" % ((_STRING,) * 4)
# without literals, which few envelopes hold
_FROM: Final = re.compile(rb"\(%b %b (?:NIL|%b)" % (_STRING, _STRING, _FIRST), re.DOTALL)
_TO: Final = re.compile(rb"\(%b %b %b %b %b (?:NIL|%b)" % (_STRING, _STRING, _LIST, _LIST, _LIST, _FIRST), re.DOTALL)
_TOKEN: Final = re.compile(rb'[ ()]|NIL|"[^"\\]*(?:\\.[^"\\]*)*"|\{([0-9]{1,9})\}\r\n', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_FROM_PLACE: Final = 2  # among the fields of an envelope
_TO_PLACE: Final = 5


def display_from(envelope: bytes) -> str:
    """The display value of the first From address; "" without one. 3 us."""
    return _display(envelope, _FROM, _FROM_PLACE)


def display_to(envelope: bytes) -> str:
    """The display value of the first To address; "" without one. 4 us."""
    return _display(envelope, _TO, _TO_PLACE)


def _display(envelope: bytes, pattern: re.Pattern[bytes], place: int) -> str:
    match = None if b"}\r\n" in envelope else pattern.match(envelope)
    if match is not None:
        name, mailbox, host = (_unquoted(item) for item in match.groups())
    else:
        name, mailbox, host = _first_address(envelope, place)
    # RFC 5957 §3: the decoded name, unless that is empty; else mailbox@host, else the mailbox, else nothing
    shown = decode_words(name[:_MAX_RAW])[:MAX_DISPLAY] if name else ""
    if shown:
        return shown
    address = mailbox + b"@" + host if mailbox is not None and host is not None else mailbox or b""
    return address[:_MAX_RAW].decode("utf-8", "replace")[:MAX_DISPLAY]


def _unquoted(item: bytes | None) -> bytes | None:
    if item is None or item == b"NIL":
        return None
    return _ESCAPED.sub(rb"\1", item[1:-1]) if b"\\" in item else item[1:-1]


def _first_address(envelope: bytes, place: int) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Name, mailbox and host of the first address in the field at `place`; token by token, literals included."""
    depth = field = at = 0
    strings: list[bytes | None] = []
    while (match := _TOKEN.match(envelope, at)) is not None and field <= place and len(strings) < 4:
        token = match[0]
        at = match.end()
        value = _unquoted(token)
        if match[1] is not None:
            value = envelope[at : at + int(match[1])]
            at += len(value)
        if token == b"(":
            depth += 1
        elif token == b")":
            depth -= 1
        elif token == b" ":
            field += depth == 1
        elif depth == 3 and field == place:
            strings.append(value)
    return (strings[0], strings[2], strings[3]) if len(strings) == 4 else (None, None, None)
