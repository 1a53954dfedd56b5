"""The commands about annotations of mailboxes and of the server, and the names of entries.

Source: RFC 5464 §3.2, §4 and §5; RFC 4466 §2 (literal8).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import encode
from pochta.proto.imap.commands import Command
from pochta.proto.imap.lex import MAX_NUMBER, Lexer

MAX_ENTRY_BYTES: Final = 255
"""One entry's name; RFC 5464 names none, registered ones stay under 50."""

MAX_ENTRIES: Final = 64
"""Entries in one command; twice as many cannot be written at once to one mailbox."""

# RFC 5464 §3.2: no "*", no "%", no controls, nothing but ASCII; parts that are not empty
_ENTRY: Final = re.compile(rb"(?:/[\x20-\x24\x26-\x29\x2b-\x2e\x30-\x7e]+)+")
_LITERAL8: Final = re.compile(rb"~\{([0-9]{1,19})\+?\}\r\n")
_DEPTHS: Final[dict[bytes, int | None]] = {b"0": 0, b"1": 1, b"INFINITY": None}
_CLOSE: Final = 0x29
_TILDE: Final = 0x7E


@dataclass(frozen=True, slots=True)
class GetMetadata(Command):
    """GETMETADATA: `mailbox` is `""` for the server; `depth` None is infinity; `max_size` None: values of any size."""

    mailbox: str
    entries: tuple[str, ...]
    depth: int | None = 0
    max_size: int | None = None


@dataclass(frozen=True, slots=True)
class SetMetadata(Command):
    """SETMETADATA: a value of None removes the entry."""

    mailbox: str
    values: tuple[tuple[str, bytes | None], ...]


def parse_entry(lexer: Lexer, *, is_pattern: bool = False) -> str:
    """The name of an entry, in lower case; `is_pattern`: one that may stand above entries (`/private`)."""
    raw = lexer.astring()
    if len(raw) > MAX_ENTRY_BYTES:
        raise RemoteProtocolError("the name of the entry is too long")
    # RFC 5464 §3.2: names are case-insensitive, and a wrong one is BAD
    name = raw.lower()
    parts = name.split(b"/")
    if _ENTRY.fullmatch(raw) is None or parts[1] not in (b"private", b"shared"):
        raise RemoteProtocolError("invalid name of an entry")
    # RFC 5464 §3.2: at least two components, and four of a vendor
    if not is_pattern and (len(parts) < 3 or (parts[2] == b"vendor" and len(parts) < 5)):
        raise RemoteProtocolError("the name of the entry has too few parts")
    return name.decode("ascii")


def parse_entries(lexer: Lexer) -> tuple[str, ...]:
    """One name of an entry or a list of them."""
    if not lexer.at_list():
        return (parse_entry(lexer, is_pattern=True),)
    lexer.open_list()
    found: dict[str, None] = {}
    while True:
        found[parse_entry(lexer, is_pattern=True)] = None
        if len(found) > MAX_ENTRIES:
            raise RemoteProtocolError("too many entries")
        if not lexer.more():
            return tuple(found)


def _options(lexer: Lexer) -> tuple[int | None, int | None]:
    """(depth, largest size)."""
    depth: int | None = 0
    max_size: int | None = None
    lexer.open_list()
    while True:
        word = lexer.word()
        lexer.space()
        if word == b"MAXSIZE":
            max_size = lexer.number(MAX_NUMBER)
        elif word == b"DEPTH":
            value = lexer.word()
            if value not in _DEPTHS:
                raise RemoteProtocolError("DEPTH is 0, 1 or infinity")
            depth = _DEPTHS[value]
        else:
            raise RemoteProtocolError("unknown GETMETADATA option")
        if not lexer.more():
            lexer.space()
            return depth, max_size


def _begins_options(lexer: Lexer) -> bool:
    """Whether the list that comes next has options, not entries, in it."""
    return lexer.at_list() and lexer.data[lexer.pos + 1 : lexer.pos + 2].isalpha()


def _get(lexer: Lexer, words: bytes) -> Command:
    # RFC 5464 §5 puts the options before the mailbox, its examples and its §4.2 behind it; clients do both
    depth, max_size = _options(lexer) if _begins_options(lexer) else (0, None)
    mailbox = lexer.mailbox()
    lexer.space()
    if _begins_options(lexer):
        depth, max_size = _options(lexer)
    return GetMetadata(mailbox, parse_entries(lexer), depth, max_size)


def _set(lexer: Lexer, words: bytes) -> Command:
    mailbox = lexer.mailbox()
    lexer.space()
    lexer.open_list()
    values: dict[str, bytes | None] = {}
    while True:
        entry = parse_entry(lexer)
        lexer.space()
        values[entry] = _value(lexer)
        if len(values) > MAX_ENTRIES:
            raise RemoteProtocolError("too many entries")
        if not lexer.more():
            return SetMetadata(mailbox, tuple(values.items()))


def _value(lexer: Lexer) -> bytes | None:
    if lexer.peek() != _TILDE:
        return lexer.nstring()
    match = _LITERAL8.match(lexer.data, lexer.pos, lexer.end)
    if match is None or match.end() + int(match[1]) > lexer.end:
        raise RemoteProtocolError("malformed literal")
    start = match.end()
    lexer.pos = start + int(match[1])
    return lexer.data[start : lexer.pos]


PARSERS: Final = {b"GETMETADATA": _get, b"SETMETADATA": _set}


def value(data: bytes | None) -> bytes:
    """A value as it stands in a response; with NUL in it as a literal8 (RFC 5464 §5)."""
    if data is not None and b"\0" in data:
        return b"~{%d}\r\n%b" % (len(data), data)
    return encode.nstring(data)


def metadata_response(mailbox: str, values: Sequence[tuple[str, bytes | None]], *, utf8_accept: bool = False) -> bytes:
    """An untagged METADATA with one entry or more."""
    pairs = [b"%b %b" % (encode.astring(entry.encode("ascii")), value(data)) for entry, data in values]
    name = encode.mailbox_name(mailbox, utf8_accept=utf8_accept)
    return b"* METADATA %b (%b)\r\n" % (name, b" ".join(pairs))


def metadata_names(mailbox: str, entries: Sequence[str], *, utf8_accept: bool = False) -> bytes:
    """An untagged METADATA that tells which entries have changed, without their values. Source: RFC 5464 §4.4.2."""
    names = b" ".join([encode.astring(entry.encode("ascii")) for entry in entries])
    return b"* METADATA %b %b\r\n" % (encode.mailbox_name(mailbox, utf8_accept=utf8_accept), names)
