"""The grammar of LIST with its options, LSUB and STATUS.

Source: RFC 3501 §9, RFC 5258 §6 (LIST-EXTENDED), RFC 5819 §4 (STATUS), RFC 6154 §5.2 (SPECIAL-USE), RFC 8440 §4
(MYRIGHTS), RFC 9590 §3 (METADATA).
"""

from collections.abc import Callable
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.metadata import parse_entry

MAX_LIST_PATTERNS: Final = 64
"""Patterns in one LIST; each is matched against every mailbox."""

MAX_LIST_ENTRIES: Final = 64
"""Annotations that one LIST asks for, of every mailbox."""

_STATUS_ITEMS: Final = {item.value: item for item in c.StatusItem}
_LIST_SELECTS: Final = {option.value: option for option in c.ListSelect}
_LIST_RETURNS: Final = {option.value: option for option in c.ListReturn}
_CLOSE: Final = 0x29
# RFC 5258 §3.1: RECURSIVEMATCH needs an option that selects mailboxes beside it
_SELECTING: Final = {c.ListSelect.SUBSCRIBED, c.ListSelect.SPECIAL_USE}


def _lsub(lexer: Lexer, words: bytes) -> c.Command:
    reference = lexer.mailbox()
    lexer.space()
    return c.Lsub(reference, lexer.list_mailbox())


def _list(lexer: Lexer, words: bytes) -> c.Command:
    selection: tuple[c.ListSelect, ...] = ()
    is_extended = lexer.at_list()
    if is_extended:
        selection = _selection(lexer)
        lexer.space()
    reference = lexer.mailbox()
    lexer.space()
    patterns: tuple[str, ...]
    if lexer.at_list():
        is_extended = True
        patterns = _patterns(lexer)
    else:
        patterns = (lexer.list_mailbox(),)
    if lexer.at_end():
        return c.List(reference, patterns, selection, is_extended=is_extended)
    lexer.space()
    if lexer.word() != b"RETURN":
        raise RemoteProtocolError("expected RETURN")
    lexer.space()
    return _with_returns(lexer, c.List(reference, patterns, selection, is_extended=True))


def _selection(lexer: Lexer) -> tuple[c.ListSelect, ...]:
    lexer.open_list()
    found: dict[c.ListSelect, None] = {}
    if not lexer.take(_CLOSE):
        while True:
            option = _LIST_SELECTS.get(lexer.word())
            if option is None:
                raise RemoteProtocolError("unknown LIST selection option")
            found[option] = None
            if not lexer.more():
                break
    if c.ListSelect.RECURSIVEMATCH in found and not found.keys() & _SELECTING:
        raise RemoteProtocolError("RECURSIVEMATCH needs another selection option")
    return tuple(found)


def _patterns(lexer: Lexer) -> tuple[str, ...]:
    lexer.open_list()
    patterns = [lexer.list_mailbox()]
    while lexer.more():
        patterns.append(lexer.list_mailbox())
        if len(patterns) > MAX_LIST_PATTERNS:
            raise RemoteProtocolError("too many patterns")
    return tuple(patterns)


def _with_returns(lexer: Lexer, asked: c.List) -> c.List:
    """`asked` with the return options that follow."""
    lexer.open_list()
    found: dict[c.ListReturn, None] = {}
    status_items: tuple[c.StatusItem, ...] = ()
    entries: tuple[str, ...] = ()
    is_open = not lexer.take(_CLOSE)
    while is_open:
        word = lexer.word()
        if word == b"STATUS":
            lexer.space()
            status_items = _status_items(lexer)
        elif word == b"METADATA":
            lexer.space()
            entries = _entries(lexer)
        elif word in _LIST_RETURNS:
            found[_LIST_RETURNS[word]] = None
        else:
            raise RemoteProtocolError("unknown LIST return option")
        is_open = lexer.more()
    return c.List(asked.reference, asked.patterns, asked.selection, tuple(found), status_items, True, entries)


def _entries(lexer: Lexer) -> tuple[str, ...]:
    lexer.open_list()
    entries = [parse_entry(lexer)]
    while lexer.more():
        entries.append(parse_entry(lexer))
        if len(entries) > MAX_LIST_ENTRIES:
            raise RemoteProtocolError("too many entries")
    return tuple(dict.fromkeys(entries))


def _status_items(lexer: Lexer) -> tuple[c.StatusItem, ...]:
    lexer.open_list()
    found: dict[c.StatusItem, None] = {}
    while True:
        item = _STATUS_ITEMS.get(lexer.word())
        if item is None:
            raise RemoteProtocolError("unknown STATUS item")
        found[item] = None
        if not lexer.more():
            return tuple(found)


def _status(lexer: Lexer, words: bytes) -> c.Command:
    mailbox = lexer.mailbox()
    lexer.space()
    return c.Status(mailbox, _status_items(lexer))


PARSERS: Final[dict[bytes, Callable[[Lexer, bytes], c.Command]]] = {
    b"LIST": _list,
    b"LSUB": _lsub,
    b"STATUS": _status,
}
