"""ESEARCH, the search of several mailboxes, and CANCELUPDATE.

Source: RFC 7377 §4 with RFC 5465 §8 (filter-mailboxes), RFC 5267 §5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.search import parse_program, parse_returns
from pochta.proto.imap.search_return import SearchReturn

MAX_SOURCES: Final = 256
"""Mailboxes and sources named in one command; what `personal` and subtrees hold is bounded where it is searched."""

MAX_TAGS: Final = 64
"""In one CANCELUPDATE; a session keeps fewer contexts."""

_LETTER_I: Final = frozenset(b"Ii")


class SourceKind(Enum):
    """Which mailboxes are searched; the value is the word on the wire."""

    SELECTED = b"SELECTED"
    INBOXES = b"INBOXES"
    PERSONAL = b"PERSONAL"
    SUBSCRIBED = b"SUBSCRIBED"
    SUBTREE = b"SUBTREE"
    SUBTREE_ONE = b"SUBTREE-ONE"
    MAILBOXES = b"MAILBOXES"


_NAMED: Final = frozenset({SourceKind.SUBTREE, SourceKind.SUBTREE_ONE, SourceKind.MAILBOXES})
_KINDS: Final = {kind.value: kind for kind in SourceKind}


@dataclass(frozen=True, slots=True)
class Source:
    """Mailboxes; `names` of those kinds that name some."""

    kind: SourceKind
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MultiSearch(c.Command):
    """ESEARCH. Without IN, `sources` is the selected mailbox (RFC 7377 §2.2)."""

    sources: tuple[Source, ...]
    returns: SearchReturn | None
    key: c.SearchKey
    has_charset: bool


@dataclass(frozen=True, slots=True)
class CancelUpdate(c.Command):
    """CANCELUPDATE. Source: RFC 5267 §4.3.5."""

    tags: tuple[bytes, ...]


def _esearch(lexer: Lexer, words: bytes) -> c.Command:
    sources = _sources(lexer)
    returns = parse_returns(lexer)
    program = parse_program(lexer, returns)
    if isinstance(program, c.UnknownCharset):
        return program
    return MultiSearch(sources, returns, program.key, program.has_charset)


def _sources(lexer: Lexer) -> tuple[Source, ...]:
    start = lexer.pos
    if lexer.peek() not in _LETTER_I or lexer.word() != b"IN":
        lexer.pos = start
        return (Source(SourceKind.SELECTED),)
    lexer.space()
    lexer.open_list()
    found: list[Source] = []
    count = 0
    while True:
        # RFC 7377 §4: scope options, of which none are defined, would stand in parentheses of their own
        kind = _KINDS.get(lexer.word())
        if kind is None:
            raise RemoteProtocolError("unknown source of a search")
        names: tuple[str, ...] = ()
        if kind in _NAMED:
            lexer.space()
            names = parse_mailboxes(lexer)
        found.append(Source(kind, names))
        count += 1 + len(names)
        if count > MAX_SOURCES:
            raise RemoteProtocolError("too many mailboxes")
        if not lexer.more():
            break
    lexer.space()
    return tuple(found)


def parse_mailboxes(lexer: Lexer) -> tuple[str, ...]:
    """One mailbox, or several in parentheses (RFC 5465 §8, one-or-more-mailbox)."""
    if not lexer.at_list():
        return (lexer.mailbox(),)
    lexer.open_list()
    names = [lexer.mailbox()]
    while lexer.more():
        names.append(lexer.mailbox())
        if len(names) > MAX_SOURCES:
            raise RemoteProtocolError("too many mailboxes")
    return tuple(names)


def _cancel_update(lexer: Lexer, words: bytes) -> c.Command:
    tags = [lexer.string()]
    while not lexer.at_end():
        lexer.space()
        tags.append(lexer.string())
        if len(tags) > MAX_TAGS:
            raise RemoteProtocolError("too many tags")
    return CancelUpdate(tuple(tags))


PARSERS: Final[dict[bytes, Callable[[Lexer, bytes], c.Command]]] = {
    b"ESEARCH": _esearch,
    b"CANCELUPDATE": _cancel_update,
}
