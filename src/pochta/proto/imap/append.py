"""What stands around the messages of APPEND and REPLACE: their arguments, and the parts of CATENATE.

The engine (`server`) takes these commands out of the stream line by line, for a message may be larger than anything
that is held; here one line, or one part of it, becomes a value.

    head   up to the message's literal, or to the parenthesis that opens the parts of CATENATE
    part   `URL …`, `TEXT {n}`, `UTF8 (~{n})`, or the parenthesis that closes them

Source: RFC 3501 §9, RFC 4466 §3 (append-message), RFC 3502, RFC 3516 §7, RFC 4469 §5, RFC 6855 §4, RFC 8508 §5.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.commands import Command
from pochta.proto.imap.dates import InternalDate
from pochta.proto.imap.lex import MAX_NUMBER, MAX_NUMBER64, Lexer

MAX_URL_BYTES: Final = 32 * 1024
"""A URL in CATENATE: a path of 32 levels of 255 octets, each octet written in three, is 24 KiB."""

STAR: Final = 0
"""`*` where REPLACE names its message: the last one; no message has this number."""

_QUOTE: Final = 0x22
_CLOSE: Final = 0x29
_STAR: Final = 0x2A


class AppendData(Enum):
    """How a message, or a part of one, is given."""

    LITERAL = auto()
    BINARY = auto()  # a literal8: may hold NUL (RFC 3516 §4.4)
    UTF8 = auto()  # a literal8 whose header may be in UTF-8 (RFC 6855 §4)
    CATENATE = auto()  # of a message: parts follow


class Replaced(NamedTuple):
    """The message that REPLACE removes: its number or, with `is_uid`, its UID; STAR is the last one."""

    number: int
    is_uid: bool


class AppendHead(NamedTuple):
    """What stands before a message; `mailbox` and `replaced` are told before the first one alone.

    `end` is behind all that was read: at the message's literal, or at the first part of CATENATE.
    """

    mailbox: str | None
    flags: tuple[str, ...]
    internal_date: InternalDate | None
    data: AppendData
    end: int
    replaced: Replaced | None = None


class PartEnd(NamedTuple):
    """The parts of CATENATE end here; `end` is behind the parenthesis."""

    end: int


class UrlPart(NamedTuple):
    """`URL …`; `end` is behind it."""

    url: bytes
    end: int


class Announced(NamedTuple):
    """A literal at the end of a line: where it begins there, and what it says of itself."""

    at: int
    size: int
    is_literal8: bool


class LiteralPart(NamedTuple):
    """The literal at the end of the line is a part; None: it is the URL of one, and has to be collected."""

    data: AppendData | None


def parse_append_head(
    data: bytes, start: int, end: int, *, replaces: bytes | None = None, utf8_accept: bool = False
) -> AppendHead | None:
    """The arguments of the first message in `data[start:end]`: after `APPEND `, up to the line's literal or end.

    `replaces`: the command's words where it is REPLACE or UID REPLACE. None when the literal is not the message but
    the mailbox name.
    """
    lexer = Lexer(data, start, end, utf8_accept=utf8_accept)
    replaced = None
    if replaces is not None:
        replaced = Replaced(_message_number(lexer), replaces != b"REPLACE")
        lexer.space()
    if lexer.at_end():
        return None
    return _parse_options(lexer, lexer.mailbox(), replaced)


def parse_append_next(data: bytes, end: int) -> AppendHead:
    """The arguments of a further message, `data[:end]`: after the last one's octets. Source: RFC 3502 §6.3.11."""
    return _parse_options(Lexer(data, 0, end), None, None)


def _message_number(lexer: Lexer) -> int:
    """RFC 8508 §5: seq-number, which is nz-number or `*`."""
    if lexer.take(_STAR):
        return STAR
    number = lexer.number(MAX_NUMBER)
    if not number:
        raise RemoteProtocolError("0 is no message")
    return number


def _parse_options(lexer: Lexer, mailbox: str | None, replaced: Replaced | None) -> AppendHead:
    flags: tuple[str, ...] = ()
    internal_date = None
    kind = AppendData.LITERAL
    lexer.space()
    if lexer.at_list():
        flags = lexer.flags()
        lexer.space()
    if lexer.peek() == _QUOTE:
        internal_date = lexer.date_time()
        lexer.space()
    if not lexer.at_end():
        word = lexer.word() if internal_date is not None or lexer.peek() in b"CcUu" else b""
        if word not in _DATA_WORDS:
            raise RemoteProtocolError("expected a date-time" if internal_date is None else "unknown APPEND data")
        kind = _DATA_WORDS[word]
        lexer.space()
        lexer.open_list()
        if kind is AppendData.UTF8:
            lexer.finish()
    return AppendHead(mailbox, flags, internal_date, kind, lexer.pos, replaced)


_DATA_WORDS: Final = {b"CATENATE": AppendData.CATENATE, b"UTF8": AppendData.UTF8}


def literal_data(size: int, announced: AppendData, *, is_literal8: bool) -> AppendData:
    """What the octets of a literal are, where `announced` is what the words before it say."""
    if size > MAX_NUMBER64:
        raise RemoteProtocolError("literal is too large")
    if announced is AppendData.UTF8 and not is_literal8:
        raise RemoteProtocolError("UTF8 needs a literal8")
    # RFC 4466 §3: a literal8 stands where a literal does
    return AppendData.BINARY if announced is AppendData.LITERAL and is_literal8 else announced


def parse_part(
    data: bytes, literal: Announced | None, *, is_first: bool, owes_close: bool
) -> PartEnd | UrlPart | LiteralPart:
    """The next part of CATENATE in `data`, one or more lines without the last CRLF, at the end of which `literal` is.

    `is_first`: right after the parenthesis that opens the parts. `owes_close`: a literal of `UTF8 (…)` was before,
    whose parenthesis comes first.
    """
    lexer = Lexer(data, 0, len(data) if literal is None else literal.at)
    if owes_close and not lexer.take(_CLOSE):
        raise RemoteProtocolError("expected a closing parenthesis")
    if not is_first and not lexer.more():
        return PartEnd(lexer.pos)
    word = lexer.word()
    lexer.space()
    is_url = word == b"URL"
    if word == b"UTF8":
        lexer.open_list()
    elif not is_url and word != b"TEXT":
        raise RemoteProtocolError("unknown part of CATENATE")
    if literal is None or lexer.pos != literal.at:
        if not is_url:
            raise RemoteProtocolError("expected a literal")
        url = lexer.astring()
        if len(url) > MAX_URL_BYTES:
            raise RemoteProtocolError("URL is too long")
        return UrlPart(url, lexer.pos)
    if is_url:
        if literal.is_literal8 or literal.size > MAX_URL_BYTES:
            raise RemoteProtocolError("URL is too long")
        return LiteralPart(None)
    kind = AppendData.UTF8 if word == b"UTF8" else AppendData.LITERAL
    return LiteralPart(literal_data(literal.size, kind, is_literal8=literal.is_literal8))


def _append(lexer: Lexer, words: bytes) -> Command:
    # The engine takes these commands out of the stream at their message; this one has none.
    raise RemoteProtocolError("expected a message literal")


PARSERS: Final = dict.fromkeys((b"APPEND", b"REPLACE", b"UID REPLACE"), _append)
