"""A complete command, literals inline, into its typed value.

Knows the grammar of every command, nothing of connection states, of buffers or of what is allowed. One table maps the
command's words to the function that reads its arguments.

Source: RFC 3501 §9 and the RFC of each extension.
"""

import re
from collections.abc import Callable
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import acl, append, listing, metadata, multisearch, notify, quota, sort
from pochta.proto.imap import commands as c
from pochta.proto.imap.fetch import parse_fetch_items, parse_fetch_modifiers
from pochta.proto.imap.lex import MAX_NUMBER64, TAG, Lexer, decode_utf8
from pochta.proto.imap.resync import parse_select_parameters
from pochta.proto.imap.search import parse_search
from pochta.proto.sasl import decode_base64

MAX_ID_PARAMETERS: Final = 30
MAX_ID_FIELD_BYTES: Final = 30
MAX_ID_VALUE_BYTES: Final = 1024
"""RFC 2971 §3.3: at most 30 pairs, names of 30 octets, values of 1024."""

MAX_ENABLE: Final = 64
"""Names in one ENABLE; about 20 extensions can be enabled."""

NO_ARGUMENTS: Final[dict[bytes, c.Command]] = {
    b"CAPABILITY": c.Capability(),
    b"NOOP": c.Noop(),
    b"LOGOUT": c.Logout(),
    b"STARTTLS": c.StartTls(),
    b"UNAUTHENTICATE": c.Unauthenticate(),
    b"CHECK": c.Check(),
    b"CLOSE": c.Close(),
    b"UNSELECT": c.Unselect(),
    b"EXPUNGE": c.Expunge(),
    b"IDLE": c.Idle(),
    b"NAMESPACE": c.Namespace(),
}

_HEAD: Final = re.compile(rb"(%b) ((?:UID )?[A-Za-z]+)" % TAG, re.IGNORECASE)
_STORE_ITEM: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?", re.IGNORECASE)
_STORE_MODES: Final = {mode.value: mode for mode in c.StoreMode}
_OPEN: Final = 0x28


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


def _compress(lexer: Lexer, words: bytes) -> c.Command:
    return c.Compress(lexer.atom().upper().decode("ascii"))


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


def _select(lexer: Lexer, words: bytes) -> c.Command:
    (mailbox, written), is_read_only = lexer.mailbox_as_written(), words == b"EXAMINE"
    old_name = "" if written == mailbox else written
    if lexer.at_end():
        return c.Select(mailbox, is_read_only, old_name=old_name)
    lexer.space()
    is_condstore, resync = parse_select_parameters(lexer)
    return c.Select(mailbox, is_read_only, is_condstore, resync, old_name)


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


def _uid_expunge(lexer: Lexer, words: bytes) -> c.Command:
    return c.UidExpunge(lexer.seq_set())


def _search(lexer: Lexer, words: bytes) -> c.Command:
    return parse_search(lexer, is_uid=words != b"SEARCH")


def _fetch(lexer: Lexer, words: bytes) -> c.Command:
    is_uid = words != b"FETCH"
    seq_set = lexer.seq_set()
    lexer.space()
    items = parse_fetch_items(lexer)
    is_uid_implied = is_uid and c.FetchAttribute.UID not in items
    if is_uid:
        # RFC 3501 §6.4.8: UID FETCH answers with the UID, asked for or not
        items = (c.FetchAttribute.UID, *(item for item in items if item is not c.FetchAttribute.UID))
    changed_since, partial, with_vanished = parse_fetch_modifiers(lexer, is_uid=is_uid)
    # RFC 7162 §3.1.4.1: the modifier adds the item MODSEQ
    if changed_since is not None and c.FetchAttribute.MODSEQ not in items:
        items = (*items, c.FetchAttribute.MODSEQ)
    return c.Fetch(seq_set, items, is_uid, changed_since, partial, with_vanished, is_uid_implied)


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
    b"COMPRESS": _compress,
    b"ID": _id,
    **append.PARSERS,
    b"SELECT": _select,
    b"EXAMINE": _select,
    b"CREATE": _create,
    **dict.fromkeys(_NAME_ONLY, _name_only),
    b"RENAME": _rename,
    **listing.PARSERS,
    **acl.PARSERS,
    **quota.PARSERS,
    **metadata.PARSERS,
    **sort.PARSERS,
    **multisearch.PARSERS,
    **notify.PARSERS,
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
