"""Responses as octets: strings, names, flags, dates and whole lines, correct by construction.

Everything that came from a message or a client passes through `string`, `astring` or `mailbox_name`; nothing here
writes CR, LF or NUL into a line. Dates are in dates.py, sets in seqset.py.

Source: RFC 3501 §7 and §9.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from typing import Final

from pochta.proto.imap.commands import StatusItem
from pochta.proto.imap.lex import ASTRING_ATOM
from pochta.proto.imap.mutf7 import encode_mutf7

MAX_QUOTED_BYTES: Final = 1024
"""Longer strings go out as literals, for clients that read lines into fixed buffers; not measured."""

_QUOTABLE: Final = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_UNQUOTABLE: Final = re.compile(rb"[\x00\r\n]")
_UNTEXT: Final = re.compile(r"[^\x20-\x7e]+")


def quoted(value: bytes) -> bytes:
    """A quoted string; `value` holds no CR, LF or NUL."""
    if b"\\" in value or b'"' in value:
        value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"%b"' % value


def literal(value: bytes) -> bytes:
    """A literal; RFC 7888 §3: never a non-synchronising one from a server."""
    return b"{%d}\r\n%b" % (len(value), value)


def string(value: bytes) -> bytes:
    """A quoted string where it can be one, else a literal."""
    if len(value) <= MAX_QUOTED_BYTES and _QUOTABLE.fullmatch(value) is not None:
        return quoted(value)
    return literal(value)


def nstring(value: bytes | None) -> bytes:
    """A string, or NIL."""
    return b"NIL" if value is None else string(value)


def astring(value: bytes) -> bytes:
    """The value bare where it is an atom (and not NIL), else a string."""
    if ASTRING_ATOM.fullmatch(value) is not None and value.upper() != b"NIL":
        return value
    return string(value)


def mailbox_name(name: str, *, utf8_accept: bool = False) -> bytes:
    """A mailbox name, quoted when needed; with `utf8_accept` in UTF-8 (RFC 6855 §3), else in modified UTF-7."""
    if not utf8_accept:
        return astring(encode_mutf7(name))
    raw = name.encode("utf-8")
    if raw.isascii() or _UNQUOTABLE.search(raw) is not None:
        return astring(raw)
    return quoted(raw)


def flag_list(flags: Iterable[str]) -> bytes:
    """Flags in parentheses."""
    return b"(%b)" % " ".join(flags).encode("ascii")


def text(value: str) -> bytes:
    """Human-readable text as resp-text: printable ASCII, never empty, not taken for a response code."""
    cleaned = _UNTEXT.sub("?", value).encode("ascii")
    # RFC 3501 §9: resp-text that begins with "[" is a response code
    return b"." + cleaned if not cleaned or cleaned[:1] == b"[" else cleaned


def tagged(tag: bytes, status: bytes, message: str, *, code: bytes = b"") -> bytes:
    """The line that ends a command; `status` is OK, NO or BAD, `code` stands without its brackets."""
    if code:
        return b"%b %b [%b] %b\r\n" % (tag, status, code, text(message))
    return b"%b %b %b\r\n" % (tag, status, text(message))


def untagged(status: bytes, message: str, *, code: bytes = b"") -> bytes:
    """A status line of its own: OK, NO, BAD, BYE, PREAUTH."""
    return tagged(b"*", status, message, code=code)


def continuation(message: str = "OK") -> bytes:
    """`+` with text; RFC 3501 §7.5."""
    return b"+ %b\r\n" % text(message)


def challenge(data: bytes) -> bytes:
    """`+` with base64, the space also before nothing (RFC 4959 §4)."""
    return b"+ %b" % b2a_base64(data, newline=False) + b"\r\n"


def list_response(
    mailbox: str,
    attributes: Iterable[str],
    *,
    delimiter: bytes | None = b"/",
    kind: bytes = b"LIST",
    utf8_accept: bool = False,
    old_name: str | None = None,
) -> bytes:
    """A LIST or LSUB line; `delimiter` None says that there is no hierarchy; `old_name` as RFC 9051 §6.3.9.7 has it."""
    return b"* %b %b %b %b%b\r\n" % (
        kind,
        flag_list(attributes),
        b"NIL" if delimiter is None else quoted(delimiter),
        mailbox_name(mailbox, utf8_accept=utf8_accept),
        b"" if old_name is None else b' ("OLDNAME" (%b))' % mailbox_name(old_name, utf8_accept=utf8_accept),
    )


def status_response(mailbox: str, values: Mapping[StatusItem, int], *, utf8_accept: bool = False) -> bytes:
    """A STATUS line, items in the order of `values`."""
    return b"* STATUS %b (%b)\r\n" % (
        mailbox_name(mailbox, utf8_accept=utf8_accept),
        b" ".join([b"%b %d" % (item.value, value) for item, value in values.items()]),
    )
