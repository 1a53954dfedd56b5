"""The tokens of a client's command, taken one after another from a complete command with its literals inline.

A `Lexer` walks over `data` from left to right and never looks back; each method takes exactly one token or raises
RemoteProtocolError with a text that may reach the peer and repeats nothing of the input (it may hold a password).
A literal is recognised only as `{n}CRLF` at the place of a string, and its octets are stepped over by count, so that
what stands in them is never read as syntax. Cost: linear, one compiled regex per token.

Source: RFC 3501 §9.
"""

import re
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.dates import DATE, DATE_TIME, InternalDate, parse_date, parse_date_time
from pochta.proto.imap.mutf7 import decode_mutf7
from pochta.proto.imap.seqset import SEQ_SET, SeqSet, parse_seq_set

MAX_NUMBER: Final = 0xFFFF_FFFF
"""RFC 3501 §9: number is an unsigned 32-bit integer."""

MAX_NUMBER64: Final = 0x7FFF_FFFF_FFFF_FFFF
"""RFC 9051 §9: number64 is an unsigned 63-bit integer; sizes and offsets of messages."""

MAX_FLAGS: Final = 256
"""Flags in one list; a mailbox shows 63 keywords before the overflow table (ARCHITECTURE.md), clients send under 20."""

MAX_FLAG_BYTES: Final = 255
"""One flag or keyword; registered keywords stay under 30."""

_ATOM_SPECIALS: Final = rb"\x00-\x20\x7f-\xff(){%*\"\\"
ATOM: Final = re.compile(rb"[^%b\]]+" % _ATOM_SPECIALS)
ASTRING_ATOM: Final = re.compile(rb"[^%b]+" % _ATOM_SPECIALS)
TAG: Final = rb"[^%b+]{1,128}" % _ATOM_SPECIALS
"""A pattern. RFC 3501 gives tags no bound; 128 octets are ten times what clients send, and tags are echoed."""

_WORD: Final = re.compile(rb"[A-Za-z0-9.\-]+")
_LIST_ATOM: Final = re.compile(rb"[^\x00-\x20\x7f-\xff(){\"\\]+")
_QUOTED: Final = re.compile(rb'"([^"\\\r\n\x00]*(?:\\["\\][^"\\\r\n\x00]*)*)"')
_ESCAPE: Final = re.compile(rb"\\(.)")
_LITERAL: Final = re.compile(rb"\{([0-9]{1,19})\+?\}\r\n")
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
_FLAG: Final = re.compile(rb"\\?[^%b\]]+" % _ATOM_SPECIALS)
_SYSTEM_FLAGS: Final = {
    name.lower(): name for name in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft", "\\Recent")
}

_SPACE: Final = 0x20
_QUOTE: Final = 0x22
_OPEN: Final = 0x28
_CLOSE: Final = 0x29
_BRACE: Final = 0x7B


class Lexer:
    """The tokens of `data` from `pos` up to `end` (which leaves out the final CRLF)."""

    __slots__ = ("data", "end", "pos", "utf8_accept")

    def __init__(self, data: bytes, pos: int, end: int, *, utf8_accept: bool = False) -> None:
        self.data = data
        self.pos = pos
        self.end = end
        self.utf8_accept = utf8_accept

    def at_end(self) -> bool:
        """Whether the command is used up."""
        return self.pos >= self.end

    def finish(self) -> None:
        """Nothing; raises when something is left."""
        if self.pos < self.end:
            raise RemoteProtocolError("unexpected text after the command")

    def peek(self) -> int:
        """The next octet, -1 at the end."""
        return self.data[self.pos] if self.pos < self.end else -1

    def space(self) -> None:
        """Takes exactly one space (RFC 3501 §9, rule 2)."""
        if self.peek() != _SPACE:
            raise RemoteProtocolError("expected a space" if self.pos < self.end else "missing argument")
        self.pos += 1

    def take(self, octet: int) -> bool:
        """Whether `octet` came next; it is taken then."""
        if self.peek() == octet:
            self.pos += 1
            return True
        return False

    def open_list(self) -> None:
        """Takes `(`."""
        if not self.take(_OPEN):
            raise RemoteProtocolError("expected a parenthesised list")

    def at_list(self) -> bool:
        """Whether `(` comes next."""
        return self.peek() == _OPEN

    def more(self) -> bool:
        """After a list item: True when a space (taken) promises another one, False when `)` (taken) ends the list."""
        if self.take(_SPACE):
            return True
        if self.take(_CLOSE):
            return False
        raise RemoteProtocolError("expected a space or a closing parenthesis")

    def _token(self, pattern: re.Pattern[bytes], wanted: str) -> bytes:
        match = pattern.match(self.data, self.pos, self.end)
        if match is None:
            raise RemoteProtocolError(f"expected {wanted}")
        self.pos = match.end()
        return match[0]

    def word(self) -> bytes:
        """A keyword of the grammar, in upper case."""
        return self._token(_WORD, "a word").upper()

    def atom(self) -> bytes:
        """An atom."""
        return self._token(ATOM, "an atom")

    def number(self, maximum: int = MAX_NUMBER) -> int:
        """An unsigned number up to `maximum`."""
        value = int(self._token(_NUMBER, "a number"))
        if value > maximum:
            raise RemoteProtocolError("number is too large")
        return value

    def string(self) -> bytes:
        """A quoted string or literal, without NUL.

        RFC 9051 §9: quoted strings may hold UTF-8; whether it is UTF-8 is asked where the text is decoded.
        """
        head = self.peek()
        if head == _QUOTE:
            match = _QUOTED.match(self.data, self.pos, self.end)
            if match is None:
                raise RemoteProtocolError("malformed quoted string")
            self.pos = match.end()
            text = match[1]
            return _ESCAPE.sub(rb"\1", text) if b"\\" in text else text
        if head == _BRACE:
            match = _LITERAL.match(self.data, self.pos, self.end)
            if match is None or match.end() + int(match[1]) > self.end:
                raise RemoteProtocolError("malformed literal")
            start = match.end()
            self.pos = start + int(match[1])
            text = self.data[start : self.pos]
            # RFC 3501 §9: CHAR8 is any octet except NUL
            if b"\x00" in text:
                raise RemoteProtocolError("NUL in a string")
            return text
        raise RemoteProtocolError("expected a string")

    def astring(self) -> bytes:
        """An atom (with `]`) or string."""
        match = ASTRING_ATOM.match(self.data, self.pos, self.end)
        if match is None:
            return self.string()
        self.pos = match.end()
        return match[0]

    def nstring(self) -> bytes | None:
        """A string, or None for NIL."""
        if self.data[self.pos : self.pos + 3].upper() == b"NIL" and self.pos + 3 <= self.end:
            self.pos += 3
            return None
        return self.string()

    def _name(self, name: bytes) -> str:
        if name.isascii():
            return decode_mutf7(name) if not self.utf8_accept else name.decode("ascii")
        # RFC 3501 §5.1: names are 7-bit; RFC 6855 §3: UTF-8 once the client has enabled it
        if not self.utf8_accept:
            raise RemoteProtocolError("8-bit mailbox name")
        return decode_utf8(name)

    def mailbox(self) -> str:
        """A mailbox name; every case of INBOX is `INBOX`."""
        return self.mailbox_as_written()[0]

    def mailbox_as_written(self) -> tuple[str, str]:
        """A mailbox name, and the same with INBOX in the case that the client has used."""
        name = self._name(self.astring())
        # RFC 3501 §5.1: INBOX is case-insensitive, also when quoted
        return "INBOX" if len(name) == 5 and name.upper() == "INBOX" else name, name

    def list_mailbox(self) -> str:
        """A LIST pattern: a mailbox name that may hold `%` and `*`; INBOX keeps its case."""
        match = _LIST_ATOM.match(self.data, self.pos, self.end)
        if match is None:
            return self._name(self.string())
        self.pos = match.end()
        return self._name(match[0])

    def seq_set(self) -> SeqSet:
        """A sequence set."""
        return parse_seq_set(self._token(SEQ_SET, "a sequence set"))

    def flag(self) -> str:
        """A flag: system flags in their RFC spelling, all others as written."""
        token = self._token(_FLAG, "a flag")
        if len(token) > MAX_FLAG_BYTES:
            raise RemoteProtocolError("flag is too long")
        name = token.decode("ascii")
        return _SYSTEM_FLAGS.get(name.lower(), name) if name[0] == "\\" else name

    def flags(self) -> tuple[str, ...]:
        """Flags in parentheses (may be none) or bare (at least one), without repetitions and without \\Recent."""
        is_list = self.take(_OPEN)
        found: dict[str, None] = {}
        if not (is_list and self.take(_CLOSE)):
            while True:
                found[self.flag()] = None
                if len(found) > MAX_FLAGS:
                    raise RemoteProtocolError("too many flags")
                if not (self.more() if is_list else self.take(_SPACE)):
                    break
        # DEVIATES RFC 3501 §9: \Recent is ignored where the grammar has no place for it: programs that copy mail
        # between servers send back the flags they fetched, and would fail on every new message.
        found.pop("\\Recent", None)
        return tuple(found)

    def date(self) -> int:
        """A date, quoted or not, in days since 1970-01-01."""
        match = DATE.match(self.data, self.pos, self.end)
        if match is None:
            raise RemoteProtocolError("expected a date")
        self.pos = match.end()
        return parse_date(match)

    def date_time(self) -> InternalDate:
        """A date-time."""
        match = DATE_TIME.match(self.data, self.pos, self.end)
        if match is None:
            raise RemoteProtocolError("expected a date-time")
        self.pos = match.end()
        return parse_date_time(match)


def decode_utf8(text: bytes) -> str:
    """Text in UTF-8, of which ASCII is a part.

    Raises: RemoteProtocolError when it is not.
    """
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        # `from None`: the error of the codec holds the octets, which may be a password
        raise RemoteProtocolError("text is not valid UTF-8") from None
