"""What hostile and broken clients send: commands by grammar with mutations, mutated dialogue files, raw bytes."""

import re
from base64 import b64encode
from pathlib import Path

from hypothesis import strategies as st

DIALOGUES = Path(__file__).parents[2] / "dialogues"
_CLIENT_LINE = re.compile(r"(?:\[pochta\] )?\d?C(-?): ?(.*)")
_OCTETS = {"<CRLF>": "\r\n", "<CR>": "\r", "<LF>": "\n", "<NUL>": "\0"}

Bytes = st.SearchStrategy[bytes]


def _one(*texts: bytes) -> Bytes:
    # by number: some texts are too long to be shown
    return st.integers(0, len(texts) - 1).map(texts.__getitem__)


def _join(*parts: Bytes | bytes) -> Bytes:
    return st.tuples(*[_one(part) if isinstance(part, bytes) else part for part in parts]).map(b"".join)


def _list(item: Bytes, *, most: int = 4) -> Bytes:
    return st.lists(item, max_size=most).map(lambda found: b"(" + b" ".join(found) + b")")


def _literal(text: bytes, form: bytes) -> bytes:
    return form % len(text) + b"\r\n" + text


_STRINGS = _one(
    b"x", b"test", b"", b"a b", b"nil", b"\xc3\xa4", b"\xff", b"\0", b"\r\n", b'q"\\', b"p" * 1100, b"y" * 4097,
    b"s" * 70_000,
)  # fmt: skip
_FORMS = _one(b"{%d}", b"{%d+}", b"{%d+}", b"{%d+}", b"~{%d+}", b"{%d-}", b"{0%d+}", b"{99999%d+}", b"{%d} ", b"{%d+ }")
LITERALS = st.builds(_literal, _STRINGS, _FORMS)
QUOTED = _one(
    b'"x"', b'""', b'"a b"', b'"\\"\\\\"', b'"\xc3\xbc"', b'"bad\\x"', b'"open', b'"\xff"', b'"a\0b"', b'"a\rb"'
)
ASTRINGS = st.one_of(_one(b"x", b"a]b", b"NIL", b"word", b"%", b"", b"\xe4", b"k" * 40), QUOTED, LITERALS)
MAILBOXES = st.one_of(
    _one(
        b"INBOX", b"inbox", b"a/b", b"Entw&APw-rfe", b'"two words"', b"&-", b"&", b"&AGE-", b"&2AA-", b"&AP-", b"&APw",
        b"&!-", b"refused", b"late", b"last", b'"&AAo-"', b'"&AAA-"', b"\xc3\xa4", b'"\xc3\xa4"', b'"\xff"', b"\x7f",
        b"U&2D3eAA-", b"&APw-&APY-", b"&A-",
    ),
    ASTRINGS,
)  # fmt: skip
FLAGS = st.one_of(
    _list(_one(b"\\Seen", b"\\deleted", b"\\Recent", b"$Work", b"\\", b"a(b", b"f" * 300, b"\\Odd", b"]")),
    _one(
        b"\\Seen",
        b"\\seen $Work",
        b"x y",
        b"",
        b"()",
        b"(\\Seen",
        b"(" + b" ".join(b"k%d" % n for n in range(300)) + b")",
    ),
)
SETS = st.one_of(
    st.lists(_one(b"1", b"*", b"2:5", b"7:3", b"4:*", b"*:2", b"12", b"4294967295"), min_size=1, max_size=4).map(
        b",".join
    ),
    _one(b"0", b"1:", b"1,,2", b"4294967296", b"99999999999", b"-1", b"", b"1" + b",1" * 17_000),
)
_DATES = _one(
    b"1-Feb-2020", b'"01-Feb-2020"', b"31-Feb-2020", b"1-Foo-2020", b"1-feb-1", b'"1-Jan-2020', b"99-Jan-0000"
)
_NUMBERS = _one(b"0", b"17", b"9223372036854775807", b"9223372036854775808", b"99999999999999999999", b"x", b"")
_PATTERNS = st.one_of(_one(b"%", b"*", b"in*", b"a/%", b'""', b"x]", b"INBOX"), MAILBOXES)
_SECTION = _one(
    b"", b"HEADER", b"TEXT", b"1", b"1.2.MIME", b"MIME", b"1.HEADER", b"1MIME", b"0", b"1..2", b"99999999999", b"FOO",
    b"4294967296", b"HEADER.FIELDS (Subject To)", b"HEADER.FIELDS.NOT (a)", b"HEADER.FIELDS ()", b"HEADER.FIELDS (a:b)",
    b'1.HEADER.FIELDS ("x" {1+}\r\ny)', b"header.fields (" + b" ".join(b"f%d" % n for n in range(300)) + b")", b"(",
    b'HEADER.FIELDS ("a\\"" "' + b'" "'.join(b"f%d" % n for n in range(300)) + b'")', b".".join([b"1"] * 120),
    b'HEADER.FIELDS ("(" %)', b"HEADER.FIELDS", b"\xff",
)  # fmt: skip
_PARTIALS = _one(b"", b"", b"<0.5>", b"<7.1>", b"<1>", b"<0.0>", b"<9223372036854775808.1>", b"<1.9999999999999999999>")
_ITEMS = st.one_of(
    _one(
        b"FLAGS", b"uid", b"ENVELOPE", b"BODY", b"BODYSTRUCTURE", b"INTERNALDATE", b"RFC822", b"RFC822.SIZE", b"MODSEQ",
        b"RFC822.HEADER", b"rfc822.text", b"FOO", b"(", b"",
    ),
    _join(_one(b"BODY[", b"BODY.PEEK[", b"body["), _SECTION, _one(b"]", b"]", b"]", b""), _PARTIALS),
)  # fmt: skip
_MANY_ITEMS = b"(" + b" ".join(b"BODY[%d]" % n for n in range(1, 200)) + b")"
FETCH_ITEMS = st.one_of(
    _one(b"ALL", b"fast", b"FULL", b"()", _MANY_ITEMS),
    _ITEMS,
    _list(_ITEMS, most=3),
    _join(b"(", _ITEMS, _one(b"x", b"")),
)
FETCH_MODIFIERS = st.one_of(
    _one(b""),
    _join(
        _one(b" (CHANGEDSINCE ", b" (changedsince ", b" (VANISHED ", b" (", b" x"), _NUMBERS, _one(b")", b" X)", b"")
    ),
)
STORE_MODIFIERS = st.one_of(
    _one(b""),
    _join(_one(b"(UNCHANGEDSINCE ", b"(unchangedsince ", b"(FOO ", b"("), _NUMBERS, _one(b") ", b" X) ", b"")),
)
_FIELDS = (b"BCC", b"from", b"SUBJECT", b"BODY", b"TEXT", b"CC", b"TO")
_LEAF_KEYS = st.one_of(
    _one(
        b"ALL",
        b"seen",
        b"UNSEEN",
        b"NEW",
        b"OLD",
        b"RECENT",
        b"DELETED",
        b"UNDRAFT",
        b"FLAGGED",
        b"ANSWERED",
        b"FOO",
        b"",
    ),
    SETS,
    _join(_one(b"UID ", b"uid "), SETS),
    _join(_one(*[name + b" " for name in _FIELDS]), ASTRINGS),
    _join(b"HEADER ", ASTRINGS, b" ", ASTRINGS),
    _join(_one(b"BEFORE ", b"ON ", b"SENTSINCE ", b"since "), _DATES),
    _join(_one(b"LARGER ", b"SMALLER "), _NUMBERS),
    _join(_one(b"KEYWORD ", b"UNKEYWORD "), _one(b"$Work", b"\\Seen", b"(", b"")),
    _join(
        b"MODSEQ ",
        _one(b"", b"", b'"/flags/\\\\seen" all ', b'"/FLAGS/x" PRIV ', b'"/flags/" all ', b'"/flags/x" foo ', b'"x'),
        _NUMBERS,
    ),
)
SEARCH_KEYS = st.recursive(
    _LEAF_KEYS,
    lambda key: st.one_of(
        _join(b"NOT ", key),
        _join(b"OR ", key, b" ", key),
        st.lists(key, min_size=1, max_size=3).map(lambda keys: b"(" + b" ".join(keys) + b")"),
        st.lists(key, min_size=2, max_size=3).map(b" ".join),
    ),
    max_leaves=5,
)
_HOSTILE_KEYS = _one(
    b"NOT " * 150 + b"ALL", b"(" * 120 + b"ALL" + b")" * 120, b"ALL " * 1100 + b"ALL", b"CHECK", b"C 1"
)
_CHARSETS = _one(
    b"",
    b"",
    b"CHARSET UTF-8 ",
    b"charset us-ascii ",
    b"CHARSET KLINGON ",
    b'CHARSET "koi8-r" ',
    b"CHARSET \xff ",
    b"CHARSET ",
)
SEARCHES = _join(_one(b"SEARCH ", b"UID SEARCH "), _CHARSETS, st.one_of(SEARCH_KEYS, _HOSTILE_KEYS))

_STATUS = st.one_of(
    _list(_one(b"MESSAGES", b"unseen", b"UIDNEXT", b"HIGHESTMODSEQ", b"SIZE", b"DELETED", b"FOO")),
    _one(b"()", b"MESSAGES", b""),
)
_RETURNS = st.one_of(
    _one(b"", b"", b" RETURN ()", b" RETURN", b" FOO", b" RETURN (STATUS"),
    _join(
        b" RETURN ",
        _list(st.one_of(_one(b"CHILDREN", b"subscribed", b"SPECIAL-USE", b"FOO"), _join(b"STATUS ", _STATUS))),
    ),
)
LISTS = st.one_of(
    _join(b"LIST ", MAILBOXES, b" ", _PATTERNS, _RETURNS),
    _join(
        _one(b"LIST "),
        _list(_one(b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"special-use", b"FOO")),
        b' "" ',
        st.one_of(_PATTERNS, _list(_PATTERNS), _one(b"(" + b" ".join([b"x"] * 80) + b")")),
        _RETURNS,
    ),
    _join(b"LSUB ", MAILBOXES, b" ", _PATTERNS),
)
_PAIR = _join(QUOTED, b" ", st.one_of(_one(b"NIL", b"nil"), QUOTED, LITERALS))
IDS = st.one_of(
    _one(b"ID NIL", b"ID nil", b"ID ()", b"ID", b'ID "x"', b"ID (", b"ID x"),
    _join(b"ID ", _list(_PAIR)),
    _one(b"ID (" + b" ".join(b'"k%d" NIL' % n for n in range(40)) + b")"),
    _join(b'ID ("', _one(b"n" * 31, b"n"), b'" "', _one(b"v" * 1025, b"v"), b'")'),
)
ENABLES = st.one_of(_one(b"ENABLE CONDSTORE", b"enable X y", b"ENABLE", b"ENABLE ()", b"ENABLE" + b" x" * 70))
SELECTS = _join(
    _one(b"SELECT ", b"examine "),
    MAILBOXES,
    _one(b"", b"", b" (CONDSTORE)", b" (condstore", b" (FOO)", b" (CONDSTORE X)", b" x"),
)
CREATES = _join(
    b"CREATE ",
    MAILBOXES,
    _one(b"", b"", b" (USE (\\Drafts))", b" (USE ())", b" (FOO (x))", b" (USE x)", b" (USE (\\A) X)", b" x"),
)
_NAMES = _join(_one(b"DELETE ", b"SUBSCRIBE ", b"unsubscribe "), MAILBOXES)
_BARE = _one(
    b"NOOP", b"capability", b"CHECK", b"CLOSE", b"EXPUNGE", b"LOGOUT", b"STARTTLS", b"UNSELECT", b"NAMESPACE",
    b"NOOP x",    b"FOO", b"", b"UID", b"UID FOO 1", b"APPEND x", b"NOOP ", b"1", b"XKILL 9",
)  # fmt: skip
COMMANDS = st.one_of(
    _BARE,
    _join(b"LOGIN ", ASTRINGS, b" ", ASTRINGS),
    LISTS,
    IDS,
    ENABLES,
    SELECTS,
    CREATES,
    _NAMES,
    _join(b"RENAME ", MAILBOXES, b" ", MAILBOXES),
    _join(b"STATUS ", MAILBOXES, b" ", _STATUS),
    _join(b"UID EXPUNGE ", SETS),
    SEARCHES,
    SEARCHES,
    _join(_one(b"FETCH ", b"UID FETCH "), SETS, b" ", FETCH_ITEMS, FETCH_MODIFIERS),
    _join(_one(b"FETCH 1 "), FETCH_ITEMS, FETCH_MODIFIERS),
    _join(
        _one(b"STORE ", b"UID STORE "),
        SETS,
        b" ",
        STORE_MODIFIERS,
        _one(b"FLAGS ", b"+flags.silent ", b"-FLAGS ", b"FOO "),
        FLAGS,
    ),
    _join(_one(b"COPY ", b"UID COPY ", b"MOVE ", b"uid move "), SETS, b" ", MAILBOXES),
)
TAGS = _one(b"a", b"a", b"a", b"A001", b"t]", b"+", b"a b", b"", b"*", b"x" * 129, b"\xff")
ENDS = _one(b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" \r\n", b"")
LINES = _join(_one(b"a "), COMMANDS, _one(b"\r\n"))
ODD_LINES = _join(TAGS, b" ", COMMANDS, ENDS)

_TEXT = _one(b"", b"abc", b"A: b\r\n\r\nc\r\n", b"\0", b"a NOOP\r\n", b"m" * 300)
_DATE_TIMES = _one(
    b"", b"", b'" 7-Feb-1994 21:52:25 -0800" ', b'"17-Jul-1996 02:44:25 +0000" ', b'"99-Jul-1996 02:44:25 +0000" ',
    b'"01-Foo-1996 02:44:25 +0000" ', b'"01-Jul-1996 25:44:25 +0000" ', b'"01-Jul-1996 02:44:60 +0060" ', b'"x" ',
    b'"01-Jan-0001 00:00:00 +0900" ', b'"01-Jan-0000 00:00:00 +0000" ', b'"31-Dec-9999 23:59:59 -0900"',
)  # fmt: skip
_ANNOUNCED = _join(
    _one(b"", b"(\\Seen $Work) ", b"() ", b"(\\Seen "),
    _DATE_TIMES,
    st.builds(_literal, _TEXT, st.one_of(_one(b"{%d+}"), _FORMS)),
)
APPENDS = _join(
    b"a APPEND ",
    st.one_of(
        _one(b"INBOX ", b"refused ", b"late ", b"last ", b"{5+}\r\nINBOX ", b"{3}\r\nabc "), _join(MAILBOXES, b" ")
    ),
    _ANNOUNCED,
    st.one_of(_one(b"", b"", b" x", b"\n"), _join(b" ", _ANNOUNCED), _join(b" ", _ANNOUNCED, b" ", _ANNOUNCED)),
    _one(b"\r\n", b"\r\n", b""),
)
_RESPONSES = st.one_of(
    _one(
        *[
            b64encode(text)
            for text in (b"user", b"\0user\0pw", b"a\0b\0c\0d", b"\0\0x", b"\0u\0\xff", b"x" * 1100, b"\0u\0p" * 400)
        ]
    ),
    _one(b"", b"*", b"=", b"!", b"a", b64encode(b"a\0b")),
)
EXCHANGES = _join(
    _one(
        b"a AUTHENTICATE PLAIN",
        b"a authenticate LOGIN",
        b"a AUTHENTICATE LOGIN",
        b"a AUTHENTICATE X",
        b"a AUTHENTICATE",
    ),
    st.one_of(_one(b""), _join(b" ", _RESPONSES)),
    b"\r\n",
    _RESPONSES,
    _one(b"\r\n", b"\r\n", b"\n"),
    _RESPONSES,
    _one(b"\r\n", b"\n", b"x" * 9000 + b"\r\n"),
)
IDLES = _join(b"a IDLE\r\n", _one(b"DONE", b"done", b"HELP", b"DONE ", b"", b"x" * 9000), _one(b"\r\n", b"\r\n", b"\n"))
LIMITS = _one(
    b"a " + b"x" * 8192 + b"\r\n",
    b"a " + b"x" * 66_000 + b"{9+}\r\n123456789\r\n",
    b"a " + b"x" * 66_000 + b"{99999+}\r\n",
    b"a LOGIN " + b"{60000+}\r\n" + b"u" * 60_000 + b" {60000+}\r\n" + b"p" * 60_000 + b"\r\n",
    b"a X" + b" {60000+}\r\n%b" % (b"u" * 60_000) * 4 + b" " + b"y" * 40_000 + b"\r\n",
    b"a X" + b" {60000+}\r\n%b" % (b"u" * 60_000) * 4 + b" {60000}\r\n",
    b"a FOO {5+}\r\nab\r\nc {2+}\r\n12\r\n",
    b"a LOGIN {5000}\r\na NOOP\r\n",
    b"+ x {3+}\r\nabc\r\n",
    b"a NOOP\r\n" * 30,
    b"x" * 9000,
    b"a APPEND INBOX {9223372036854775808+}\r\n",
    b"a APPEND INBOX {1+}\r\nx {9223372036854775808+}\r\n",
    b"a APPEND INBOX {1+}\r\nx {9223372036854775808+}\r\n\r\n",
    b"a APPEND \xff {99+}\r\nabc\r\n",
)
# What stands deep in the grammar, in a frame without a flaw
SECTIONS = _join(b"a FETCH 1 BODY.PEEK[", _SECTION, b"]", _PARTIALS, b"\r\n")
KEYS = _join(b"a SEARCH ", SEARCH_KEYS, b"\r\n")
ID_LISTS = _join(b"a ", IDS, b"\r\n")
CHOICES = _join(b"a ", LISTS, b"\r\n")
ONE_COMMAND = st.one_of(SECTIONS, SECTIONS, KEYS, KEYS, ID_LISTS, CHOICES, LINES, LINES, APPENDS, EXCHANGES)
PIECES = st.one_of(LINES, LINES, LINES, LINES, ODD_LINES, APPENDS, APPENDS, EXCHANGES, IDLES, LIMITS)


@st.composite
def mutated(draw: st.DrawFn, pieces: st.SearchStrategy[list[bytes]], most: int = 2) -> bytes:
    """The pieces joined, with a few of them lost, doubled, moved or damaged."""
    found = list(draw(pieces))
    for _ in range(draw(st.integers(0, most))):
        if not found:
            break
        at = draw(st.integers(0, len(found) - 1))
        piece = found[at]
        cut = draw(st.integers(0, len(piece)))
        match draw(st.integers(0, 5)):
            case 0:
                del found[at]
            case 1:
                found.insert(at, piece)
            case 2:
                found.append(found.pop(at))
            case 3:
                found[at] = piece[:cut] + piece[cut + 1 :]
            case 4:
                found[at] = piece[:cut] + draw(st.binary(max_size=4)) + piece[cut:]
            case _:
                found[at] = piece[:cut]
    return b"".join(found)


def _client_lines(path: Path) -> list[bytes]:
    """What the client of a dialogue file sends."""
    lines = []
    for match in map(_CLIENT_LINE.fullmatch, path.read_text("ascii").splitlines()):
        if match is not None:
            text = re.sub("<(?:CRLF|CR|LF|NUL)>", lambda found: _OCTETS[found[0]], match[2])
            text = re.sub("<user>", "user@example.org", text)
            lines.append(re.sub("<[a-z]+>", "1", text).encode("latin-1") + (b"" if match[1] else b"\r\n"))
    return lines


FILES = [_client_lines(path) for path in sorted(DIALOGUES.glob("*.imap"))]
BY_GRAMMAR = _join(_one(b"", b"", b"U NOOP\r\n", b"\x80\r\n"), mutated(st.lists(PIECES, min_size=1, max_size=5)))
BY_DIALOGUES = mutated(
    st.lists(st.integers(0, len(FILES) - 1).map(FILES.__getitem__), min_size=1, max_size=2).map(
        lambda files: [line for file in files for line in file]
    ),
    6,
)
RAW = _join(
    _one(b"", b"a ", b"a LOGIN ", b"a APPEND INBOX {20}\r\n"), st.binary(max_size=80), _one(b"", b"\r\n", b"}\r\n")
)
