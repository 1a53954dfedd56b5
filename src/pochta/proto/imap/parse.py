"""A complete command, literals inline, into its typed value; and the two pieces around an APPEND's message.

Knows the grammar of every command, nothing of connection states, of buffers or of what is allowed. One table maps the
command's words to the function that reads its arguments.

Source: RFC 3501 §9 and the RFC of each extension.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.dates import InternalDate
from pochta.proto.imap.fetch import parse_changed_since, parse_fetch_items
from pochta.proto.imap.lex import MAX_NUMBER64, TAG, Lexer, decode_utf8
from pochta.proto.imap.search import parse_search
from pochta.proto.sasl import decode_base64

MAX_ID_PARAMETERS: Final = 30
MAX_ID_FIELD_BYTES: Final = 30
MAX_ID_VALUE_BYTES: Final = 1024
"""RFC 2971 §3.3: at most 30 pairs, names of 30 octets, values of 1024."""

MAX_LIST_PATTERNS: Final = 64
"""Patterns in one LIST; each is matched against every mailbox."""

MAX_ENABLE: Final = 64
"""Names in one ENABLE; about 20 extensions can be enabled."""

NO_ARGUMENTS: Final[dict[bytes, c.Command]] = {
    b"CAPABILITY": c.Capability(),
    b"NOOP": c.Noop(),
    b"LOGOUT": c.Logout(),
    b"STARTTLS": c.StartTls(),
    b"CHECK": c.Check(),
    b"CLOSE": c.Close(),
    b"UNSELECT": c.Unselect(),
    b"EXPUNGE": c.Expunge(),
    b"IDLE": c.Idle(),
    b"NAMESPACE": c.Namespace(),
}

_HEAD: Final = re.compile(rb"(%b) ((?:UID )?[A-Za-z]+)" % TAG, re.IGNORECASE)
_STATUS_ITEMS: Final = {item.value: item for item in c.StatusItem}
_LIST_SELECTS: Final = {option.value: option for option in c.ListSelect}
_LIST_RETURNS: Final = {option.value: option for option in c.ListReturn}
_STORE_ITEM: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?", re.IGNORECASE)
_STORE_MODES: Final = {mode.value: mode for mode in c.StoreMode}
_OPEN: Final = 0x28


class AppendHead(NamedTuple):
    """What stands before a message in APPEND; `mailbox` is None before the second and later ones."""

    mailbox: str | None
    flags: tuple[str, ...]
    internal_date: InternalDate | None


def parse_command(data: bytes, *, utf8_accept: bool = False) -> tuple[bytes, c.Command]:
    """Tag and command of `data`, which ends with the command's CRLF and holds each literal after its `{n}CRLF`.

    Raises: RemoteProtocolError; the tag, if there is one, must then be taken from `data` itself.
    """
    head = _HEAD.match(data)
    if head is None:
        raise RemoteProtocolError("expected a tag and a command")
    tag, words = head.groups()
    words = words.upper()
    lexer = Lexer(data, head.end(), len(data) - 2, utf8_accept=utf8_accept)
    command = NO_ARGUMENTS.get(words)
    if command is None:
        parse = _ARGUMENTS.get(words)
        if parse is None:
            raise RemoteProtocolError("unknown command")
        lexer.space()
        command = parse(lexer, words)
        if type(command) is c.UnknownCharset:
            return tag, command
    lexer.finish()
    return tag, command


def parse_append_head(data: bytes, start: int, end: int, *, utf8_accept: bool = False) -> AppendHead | None:
    """The arguments of the first message in `data[start:end]`: after `APPEND `, up to the message's literal.

    None when the literal is not the message but the mailbox name.
    """
    if start == end:
        return None
    lexer = Lexer(data, start, end, utf8_accept=utf8_accept)
    mailbox = lexer.mailbox()
    return _parse_append_options(lexer, mailbox)


def parse_append_next(data: bytes, end: int) -> AppendHead:
    """The arguments of a further message, `data[:end]`: after the last one's octets. Source: RFC 3502 §6.3.11."""
    return _parse_append_options(Lexer(data, 0, end), None)


def _parse_append_options(lexer: Lexer, mailbox: str | None) -> AppendHead:
    flags: tuple[str, ...] = ()
    internal_date = None
    lexer.space()
    if lexer.at_list():
        flags = lexer.flags()
        lexer.space()
    if not lexer.at_end():
        internal_date = lexer.date_time()
        lexer.space()
    lexer.finish()
    return AppendHead(mailbox, flags, internal_date)


def _login(lexer: Lexer, words: bytes) -> c.Command:
    username = decode_utf8(lexer.astring())
    lexer.space()
    return c.Login(username, decode_utf8(lexer.astring()))


def _authenticate(lexer: Lexer, words: bytes) -> c.Command:
    mechanism = lexer.atom().upper().decode("ascii")
    if lexer.at_end():
        return c.Authenticate(mechanism)
    lexer.space()
    encoded = lexer.data[lexer.pos : lexer.end]
    lexer.pos = lexer.end
    # RFC 4959 §3: "=" is a response of no octets
    return c.Authenticate(mechanism, b"" if encoded == b"=" else decode_base64(encoded, is_empty_allowed=False))


def _enable(lexer: Lexer, words: bytes) -> c.Command:
    names = [lexer.atom().upper().decode("ascii")]
    while not lexer.at_end():
        lexer.space()
        names.append(lexer.atom().upper().decode("ascii"))
        if len(names) > MAX_ENABLE:
            raise RemoteProtocolError("too many capabilities")
    return c.Enable(tuple(names))


def _id(lexer: Lexer, words: bytes) -> c.Command:
    pairs: list[tuple[str, str | None]] = []
    if not lexer.at_list():
        if lexer.nstring() is not None:
            raise RemoteProtocolError("expected a list or NIL")
        return c.Id(())
    lexer.open_list()
    if lexer.take(0x29):
        return c.Id(())
    while True:
        name = lexer.string()
        lexer.space()
        value = lexer.nstring()
        if len(pairs) >= MAX_ID_PARAMETERS or len(name) > MAX_ID_FIELD_BYTES or len(value or b"") > MAX_ID_VALUE_BYTES:
            raise RemoteProtocolError("ID is too long")
        pairs.append((decode_utf8(name), None if value is None else decode_utf8(value)))
        if not lexer.more():
            return c.Id(tuple(pairs))


def _append(lexer: Lexer, words: bytes) -> c.Command:
    # The engine takes APPEND out of the stream at its message literal; this one has none.
    raise RemoteProtocolError("expected a message literal")


def _select(lexer: Lexer, words: bytes) -> c.Command:
    mailbox, is_read_only = lexer.mailbox(), words == b"EXAMINE"
    if lexer.at_end():
        return c.Select(mailbox, is_read_only)
    lexer.space()
    lexer.open_list()
    # RFC 7162 §3.1.8 in the form of RFC 4466 §2.1; the only parameter there is
    if lexer.word() != b"CONDSTORE" or lexer.more():
        raise RemoteProtocolError("unknown SELECT parameter")
    return c.Select(mailbox, is_read_only, is_condstore=True)


def _create(lexer: Lexer, words: bytes) -> c.Command:
    mailbox = lexer.mailbox()
    if lexer.at_end():
        return c.Create(mailbox)
    lexer.space()
    lexer.open_list()
    if lexer.word() != b"USE":
        raise RemoteProtocolError("unknown CREATE parameter")
    lexer.space()
    if not lexer.at_list():
        raise RemoteProtocolError("expected a parenthesised list")
    special_use = lexer.flags()
    if lexer.more():
        raise RemoteProtocolError("unknown CREATE parameter")
    return c.Create(mailbox, special_use)


_NAME_ONLY: Final[dict[bytes, type[c.Delete] | type[c.Subscribe] | type[c.Unsubscribe]]] = {
    b"DELETE": c.Delete,
    b"SUBSCRIBE": c.Subscribe,
    b"UNSUBSCRIBE": c.Unsubscribe,
}


def _name_only(lexer: Lexer, words: bytes) -> c.Command:
    return _NAME_ONLY[words](lexer.mailbox())


def _rename(lexer: Lexer, words: bytes) -> c.Command:
    source = lexer.mailbox()
    lexer.space()
    return c.Rename(source, lexer.mailbox())


def _lsub(lexer: Lexer, words: bytes) -> c.Command:
    reference = lexer.mailbox()
    lexer.space()
    return c.Lsub(reference, lexer.list_mailbox())


def _list(lexer: Lexer, words: bytes) -> c.Command:
    selection: tuple[c.ListSelect, ...] = ()
    is_extended = lexer.at_list()
    if is_extended:
        selection = _list_selection(lexer)
        lexer.space()
    reference = lexer.mailbox()
    lexer.space()
    patterns: tuple[str, ...]
    if lexer.at_list():
        is_extended = True
        patterns = _list_patterns(lexer)
    else:
        patterns = (lexer.list_mailbox(),)
    returns: tuple[c.ListReturn, ...] = ()
    status_items: tuple[c.StatusItem, ...] = ()
    if not lexer.at_end():
        is_extended = True
        lexer.space()
        if lexer.word() != b"RETURN":
            raise RemoteProtocolError("expected RETURN")
        lexer.space()
        returns, status_items = _list_returns(lexer)
    return c.List(reference, patterns, selection, returns, status_items, is_extended)


def _list_selection(lexer: Lexer) -> tuple[c.ListSelect, ...]:
    lexer.open_list()
    found: dict[c.ListSelect, None] = {}
    if not lexer.take(0x29):
        while True:
            option = _LIST_SELECTS.get(lexer.word())
            if option is None:
                raise RemoteProtocolError("unknown LIST selection option")
            found[option] = None
            if not lexer.more():
                break
    # RFC 5258 §3.1: RECURSIVEMATCH needs an option that selects mailboxes beside it
    if c.ListSelect.RECURSIVEMATCH in found and not found.keys() & {c.ListSelect.SUBSCRIBED, c.ListSelect.SPECIAL_USE}:
        raise RemoteProtocolError("RECURSIVEMATCH needs another selection option")
    return tuple(found)


def _list_patterns(lexer: Lexer) -> tuple[str, ...]:
    lexer.open_list()
    patterns = [lexer.list_mailbox()]
    while lexer.more():
        patterns.append(lexer.list_mailbox())
        if len(patterns) > MAX_LIST_PATTERNS:
            raise RemoteProtocolError("too many patterns")
    return tuple(patterns)


def _list_returns(lexer: Lexer) -> tuple[tuple[c.ListReturn, ...], tuple[c.StatusItem, ...]]:
    lexer.open_list()
    found: dict[c.ListReturn, None] = {}
    status_items: tuple[c.StatusItem, ...] = ()
    if lexer.take(0x29):
        return (), ()
    while True:
        word = lexer.word()
        # RFC 5819 §2: STATUS with its items is a return option
        if word == b"STATUS":
            lexer.space()
            status_items = _status_items(lexer)
        else:
            option = _LIST_RETURNS.get(word)
            if option is None:
                raise RemoteProtocolError("unknown LIST return option")
            found[option] = None
        if not lexer.more():
            return tuple(found), status_items


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


def _uid_expunge(lexer: Lexer, words: bytes) -> c.Command:
    return c.UidExpunge(lexer.seq_set())


def _search(lexer: Lexer, words: bytes) -> c.Command:
    return parse_search(lexer, is_uid=words != b"SEARCH")


def _fetch(lexer: Lexer, words: bytes) -> c.Command:
    is_uid = words != b"FETCH"
    seq_set = lexer.seq_set()
    lexer.space()
    items = parse_fetch_items(lexer, is_uid=is_uid)
    changed_since = parse_changed_since(lexer)
    # RFC 7162 §3.1.4.1: the modifier adds the item MODSEQ
    if changed_since is not None and c.FetchAttribute.MODSEQ not in items:
        items = (*items, c.FetchAttribute.MODSEQ)
    return c.Fetch(seq_set, items, is_uid, changed_since)


def _store(lexer: Lexer, words: bytes) -> c.Command:
    seq_set = lexer.seq_set()
    lexer.space()
    unchanged_since = _unchanged_since(lexer)
    item = _STORE_ITEM.match(lexer.data, lexer.pos, lexer.end)
    if item is None:
        raise RemoteProtocolError("unknown STORE item")
    lexer.pos = item.end()
    lexer.space()
    mode, is_silent = _STORE_MODES[item[1]], item[2] is not None
    return c.Store(seq_set, mode, is_silent, lexer.flags(), words != b"STORE", unchanged_since)


def _unchanged_since(lexer: Lexer) -> int | None:
    """The value of the modifier UNCHANGEDSINCE; None when there is no modifier. Source: RFC 7162 §3.1.3 and §7."""
    if not lexer.at_list():
        return None
    lexer.open_list()
    if lexer.word() != b"UNCHANGEDSINCE":
        raise RemoteProtocolError("unknown STORE modifier")
    lexer.space()
    unchanged_since = lexer.number(MAX_NUMBER64)
    if lexer.more():
        raise RemoteProtocolError("unknown STORE modifier")
    lexer.space()
    return unchanged_since


def _copy(lexer: Lexer, words: bytes) -> c.Command:
    seq_set = lexer.seq_set()
    lexer.space()
    return c.Copy(seq_set, lexer.mailbox(), words != b"COPY")


def _move(lexer: Lexer, words: bytes) -> c.Command:
    seq_set = lexer.seq_set()
    lexer.space()
    return c.Move(seq_set, lexer.mailbox(), words != b"MOVE")


_ARGUMENTS: Final[dict[bytes, Callable[[Lexer, bytes], c.Command]]] = {
    b"LOGIN": _login,
    b"AUTHENTICATE": _authenticate,
    b"ENABLE": _enable,
    b"ID": _id,
    b"APPEND": _append,
    b"SELECT": _select,
    b"EXAMINE": _select,
    b"CREATE": _create,
    **dict.fromkeys(_NAME_ONLY, _name_only),
    b"RENAME": _rename,
    b"LIST": _list,
    b"LSUB": _lsub,
    b"STATUS": _status,
    b"UID EXPUNGE": _uid_expunge,
    b"SEARCH": _search,
    b"UID SEARCH": _search,
    b"FETCH": _fetch,
    b"UID FETCH": _fetch,
    b"STORE": _store,
    b"UID STORE": _store,
    b"COPY": _copy,
    b"UID COPY": _copy,
    b"MOVE": _move,
    b"UID MOVE": _move,
}
