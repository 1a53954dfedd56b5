"""The keys of SEARCH: from prefix notation to a tree, without recursion.

Open constructs (a list, NOT, OR) wait on a stack of our own until their keys are complete; how deep they nest is a
named limit, so that whoever walks the tree may recurse. Lists in lists and ORs in ORs are flattened, which makes the
long OR chains of real clients one node.

Source: RFC 3501 §6.4.4 and §9 (search, search-key), RFC 4466 §2.6 (search-program, search-return-opts), RFC 5032 §3,
RFC 5465 §8 (modifier-update), RFC 6203 §7, RFC 7162 §3.1.5, RFC 8474 §6, RFC 8514 §5, RFC 9051 §6.4.4.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.fetch import parse_fetch_items
from pochta.proto.imap.lex import MAX_NUMBER, MAX_NUMBER64, Lexer
from pochta.proto.imap.search_return import RETURN_ALL, PartialRange, ReturnOption, SearchReturn, parse_partial
from pochta.proto.imap.seqset import SeqSet

MAX_SEARCH_DEPTH: Final = 100
"""Open lists, NOTs and ORs at one time; a walk of three Python frames per level stays under a third of the stack."""

MAX_SEARCH_KEYS: Final = 1024
"""Keys in one command; each may cost a pass over every message of the mailbox."""

CHARSETS: Final = {
    "US-ASCII": "ascii",
    "ASCII": "ascii",
    "UTF-8": "utf-8",
    **{f"ISO-8859-{part}": f"iso-8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    **{f"WINDOWS-{page}": f"cp{page}" for page in range(1250, 1259)},
    "KOI8-R": "koi8-r",
    "KOI8-U": "koi8-u",
    "TIS-620": "tis-620",
    "GB2312": "gbk",
    "GBK": "gbk",
    "GB18030": "gb18030",
    "BIG5": "big5",
    "EUC-KR": "euc-kr",
    "EUC-JP": "euc-jp",
    "SHIFT_JIS": "shift_jis",
    "ISO-2022-JP": "iso2022-jp",
}
"""Charset names a client may search in, and the codec of each: what mail programs of the last twenty years write in."""

_ENTRY_NAME: Final = re.compile(rb"/flags/[!-~]+", re.IGNORECASE)
_ENTRY_TYPES: Final = frozenset((b"PRIV", b"SHARED", b"ALL"))
_QUOTE: Final = 0x22
_CLOSE: Final = 0x29
_SPACE: Final = 0x20
_LIST_FOLLOWS: Final = re.compile(rb" ?\(")
_RETURN_OPTIONS: Final = {option.value: option for option in ReturnOption}
_LETTER_C: Final = frozenset(b"Cc")
_LETTER_R: Final = frozenset(b"Rr")
_SET_BEGINS: Final = frozenset(b"0123456789*$")
_OBJECT_ID: Final = re.compile(rb"[A-Za-z0-9_-]{1,255}")
_FIELDS: Final = frozenset((b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO"))
_FLAGS: Final = {
    b"ANSWERED": "\\Answered",
    b"DELETED": "\\Deleted",
    b"DRAFT": "\\Draft",
    b"FLAGGED": "\\Flagged",
    b"SEEN": "\\Seen",
}
_PLAIN: Final[dict[bytes, c.SearchKey]] = {
    b"ALL": c.SearchAll(),
    b"RECENT": c.SearchRecent(),
    b"OLD": c.SearchNot(c.SearchRecent()),
    b"SAVEDATESUPPORTED": c.SearchAll(),  # RFC 8514 §4.3: every mailbox has save dates
    b"NEW": c.SearchAnd((c.SearchRecent(), c.SearchFlag("\\Seen", is_set=False))),
    **{word: c.SearchFlag(flag, is_set=True) for word, flag in _FLAGS.items()},
    **{b"UN" + word: c.SearchFlag(flag, is_set=False) for word, flag in _FLAGS.items()},
}
_DATES: Final = {prefix + test.value: (test, bool(prefix)) for prefix in (b"", b"SENT") for test in c.DateTest}
_SAVE_DATES: Final = {b"SAVED" + test.value: test for test in c.DateTest}
_TEXTS: Final = {scope.value: scope for scope in c.TextScope}
_SIZES: Final = {test.value: test for test in c.SizeTest}


class _Kind(Enum):
    ROOT = auto()
    LIST = auto()
    NOT = auto()
    FUZZY = auto()
    OR = auto()


_PREFIXES: Final = {b"NOT": _Kind.NOT, b"OR": _Kind.OR, b"FUZZY": _Kind.FUZZY}


@dataclass(slots=True)
class _Open:
    kind: _Kind
    keys: list[c.SearchKey] = field(default_factory=list)


class Program(NamedTuple):
    """What is looked for; `has_charset`: the client named one."""

    key: c.SearchKey
    has_charset: bool


def parse_search(lexer: Lexer, *, is_uid: bool) -> c.Command:
    """The rest of a SEARCH command, or UnknownCharset."""
    returns = parse_returns(lexer)
    program = parse_program(lexer, returns)
    if isinstance(program, c.UnknownCharset):
        return program
    return c.Search(program.key, is_uid, returns, program.has_charset)


def parse_returns(lexer: Lexer) -> SearchReturn | None:
    """The return options and the space behind them; None, and nothing taken, where there are none."""
    start = lexer.pos
    if lexer.peek() not in _LETTER_R or lexer.word() != b"RETURN":
        lexer.pos = start
        return None
    lexer.space()
    returns = _parse_options(lexer)
    lexer.space()
    return returns


def _parse_options(lexer: Lexer) -> SearchReturn:
    """The options in their parentheses, after `RETURN `."""
    lexer.open_list()
    if lexer.take(_CLOSE):
        return RETURN_ALL
    options: set[ReturnOption] = set()
    partial: PartialRange | None = None
    items: tuple[c.FetchItem, ...] = ()
    while True:
        word = lexer.word()
        if word == b"PARTIAL":
            if partial is not None:
                raise RemoteProtocolError("PARTIAL may be given once")
            lexer.space()
            partial = parse_partial(lexer)
        else:
            option = _RETURN_OPTIONS.get(word)
            if option is None:
                raise RemoteProtocolError("unknown return option")
            options.add(option)
            if option is ReturnOption.UPDATE and _LIST_FOLLOWS.match(lexer.data, lexer.pos, lexer.end):
                # RFC 5465 §8 has no space before the list; §7 and RFC 4466 §2.6.1 have one
                lexer.take(_SPACE)
                items = parse_fetch_items(lexer)
        if not lexer.more():
            break
    # RFC 9394 §3.1: one PARTIAL, or one ALL, or neither
    if partial is not None and ReturnOption.ALL in options:
        raise RemoteProtocolError("PARTIAL and ALL exclude each other")
    return SearchReturn(frozenset(options), partial, items)


def parse_program(lexer: Lexer, returns: SearchReturn | None = None) -> Program | c.UnknownCharset:
    """The charset, if one is named, and the keys."""
    codec = "utf-8"
    start = lexer.pos
    has_charset = lexer.peek() in _LETTER_C and lexer.word() == b"CHARSET"
    if has_charset:
        lexer.space()
        charset = lexer.astring()
        lexer.space()
        known = CHARSETS.get(charset.decode("ascii", "replace").upper())
        if known is None:
            # RFC 3501 §6.4.4: an unsupported charset deserves NO, not BAD; its strings cannot be read
            is_saved = returns is not None and ReturnOption.SAVE in returns
            return c.UnknownCharset(charset.decode("ascii", "replace"), is_saved)
        codec = known
    else:
        lexer.pos = start
    key = parse_keys(lexer, codec)
    # RFC 6203 §4: RELEVANCY goes with a FUZZY key
    if returns is not None and ReturnOption.RELEVANCY in returns and not is_fuzzy(key):
        raise RemoteProtocolError("RELEVANCY needs a FUZZY key")
    return Program(key, has_charset)


def walk(key: c.SearchKey) -> Iterator[c.SearchKey]:
    """The key and all within it."""
    stack = [key]
    while stack:
        one = stack.pop()
        yield one
        if isinstance(one, c.SearchAnd | c.SearchOr):
            stack.extend(one.keys)
        elif isinstance(one, c.SearchNot | c.SearchFuzzy):
            stack.append(one.key)


def is_fuzzy(key: c.SearchKey) -> bool:
    """Whether a FUZZY key is among the keys."""
    return any(isinstance(one, c.SearchFuzzy) for one in walk(key))


def parse_keys(lexer: Lexer, codec: str) -> c.SearchKey:
    """The search keys up to the end of the command; texts are in `codec`."""
    stack = [_Open(_Kind.ROOT)]
    count = 0
    while True:
        count += 1
        if count > MAX_SEARCH_KEYS or len(stack) > MAX_SEARCH_DEPTH:
            raise RemoteProtocolError("search is too complex")
        if lexer.at_list():
            lexer.open_list()
            stack.append(_Open(_Kind.LIST))
            continue
        if lexer.peek() in _SET_BEGINS:
            key: c.SearchKey = c.SearchSet(lexer.seq_set(), is_uid=False)
        else:
            word = lexer.word()
            prefix = _PREFIXES.get(word)
            if prefix is not None:
                lexer.space()
                stack.append(_Open(prefix))
                continue
            key = _parse_leaf(lexer, word, codec)
        done = _close(lexer, stack, key)
        if done is not None:
            return done


def _close(lexer: Lexer, stack: list[_Open], key: c.SearchKey) -> c.SearchKey | None:
    """Gives `key` to the innermost open construct and closes all that are complete; the whole tree at the end.

    None when another key has to follow; the space before it is taken.
    """
    while True:
        top = stack[-1]
        top.keys.append(key)
        if top.kind is _Kind.NOT:
            key = c.SearchNot(key)
        elif top.kind is _Kind.FUZZY:
            key = c.SearchFuzzy(key)
        elif top.kind is _Kind.OR:
            if len(top.keys) == 1:
                lexer.space()
                return None
            key = _join(c.SearchOr, top.keys)
        elif top.kind is _Kind.LIST:
            if lexer.more():
                return None
            key = _join(c.SearchAnd, top.keys)
        else:
            if lexer.at_end():
                return _join(c.SearchAnd, top.keys)
            lexer.space()
            return None
        stack.pop()


def _join(kind: type[c.SearchAnd] | type[c.SearchOr], keys: list[c.SearchKey]) -> c.SearchKey:
    if len(keys) == 1:
        return keys[0]
    flat: list[c.SearchKey] = []
    for key in keys:
        if isinstance(key, (c.SearchAnd, c.SearchOr)) and type(key) is kind:
            flat.extend(key.keys)
        else:
            flat.append(key)
    return kind(tuple(flat))


def _parse_leaf(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    plain = _PLAIN.get(word)
    if plain is not None:
        return plain
    parse = _LEAVES.get(word)
    if parse is None:
        raise RemoteProtocolError("unknown search key")
    lexer.space()
    return parse(lexer, word, codec)


def _text(lexer: Lexer, codec: str) -> str:
    try:
        # DEVIATES RFC 3501 §6.4.4: without CHARSET texts are read as UTF-8 (RFC 9051 §6.4.4), as clients send them
        return lexer.astring().decode(codec)
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("search text is not valid in its charset") from error


def _field(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchHeader(word.decode("ascii").lower(), _text(lexer, codec))


def _header(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    name = lexer.astring()
    if not name.isascii():
        raise RemoteProtocolError("invalid header field name")
    lexer.space()
    return c.SearchHeader(name.decode("ascii").lower(), _text(lexer, codec))


def _scope(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchText(_TEXTS[word], _text(lexer, codec))


def _date(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    test, is_sent = _DATES[word]
    return c.SearchDate(test, lexer.date(), is_sent)


def _save_date(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchSaveDate(_SAVE_DATES[word], lexer.date())


def _within(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    interval_s = lexer.number()
    # RFC 5032 §3: the interval is a nz-number
    if not interval_s:
        raise RemoteProtocolError("the interval must not be 0")
    return c.SearchWithin(interval_s, is_older=word == b"OLDER")


def _object_id(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    match = _OBJECT_ID.match(lexer.data, lexer.pos, lexer.end)
    if match is None:
        raise RemoteProtocolError("expected an object id")
    lexer.pos = match.end()
    return c.SearchObjectId(match[0].decode("ascii"), is_thread=word == b"THREADID")


def _size(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchSize(_SIZES[word], lexer.number(MAX_NUMBER64))


def _keyword(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchFlag(lexer.atom().decode("ascii"), is_set=word == b"KEYWORD")


def _uid(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    return c.SearchSet(lexer.seq_set(), is_uid=True)


def _uid_border(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    """UIDAFTER and UIDBEFORE. Source: RFC 9738 §3.2."""
    uid = lexer.number()
    ranges = ((uid + 1, MAX_NUMBER),) if word == b"UIDAFTER" else ((1, uid - 1),) if uid > 1 else ()
    return c.SearchSet(SeqSet(ranges), is_uid=True)


def _mod_seq(lexer: Lexer, word: bytes, codec: str) -> c.SearchKey:
    if lexer.peek() == _QUOTE:
        # RFC 7162 §3.1.5: who keeps one mod-sequence for all flags of a message must ignore which one is meant
        if _ENTRY_NAME.fullmatch(lexer.string()) is None:
            raise RemoteProtocolError("invalid entry name")
        lexer.space()
        if lexer.word() not in _ENTRY_TYPES:
            raise RemoteProtocolError("invalid entry type")
        lexer.space()
    return c.SearchModSeq(lexer.number(MAX_NUMBER64))


_LEAVES: Final[dict[bytes, Callable[[Lexer, bytes, str], c.SearchKey]]] = {
    **dict.fromkeys(_FIELDS, _field),
    **dict.fromkeys(_TEXTS, _scope),
    **dict.fromkeys(_DATES, _date),
    **dict.fromkeys(_SAVE_DATES, _save_date),
    **dict.fromkeys((b"OLDER", b"YOUNGER"), _within),
    **dict.fromkeys((b"EMAILID", b"THREADID"), _object_id),
    **dict.fromkeys(_SIZES, _size),
    b"HEADER": _header,
    b"KEYWORD": _keyword,
    b"UNKEYWORD": _keyword,
    b"UID": _uid,
    b"UIDAFTER": _uid_border,
    b"UIDBEFORE": _uid_border,
    b"MODSEQ": _mod_seq,
}
