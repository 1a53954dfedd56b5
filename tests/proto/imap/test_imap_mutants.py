"""IMAP: what a client is told of a command that cannot be read; the edges of every limit. Found by `.ci/mutation`."""

from array import array
from collections.abc import Iterable

import pytest

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.fetch import MAX_FETCH_ITEMS, MAX_HEADER_FIELDS, MAX_PART_DEPTH
from pochta.proto.imap.lex import MAX_FLAG_BYTES, MAX_FLAGS, MAX_NUMBER, Lexer
from pochta.proto.imap.listing import MAX_LIST_PATTERNS
from pochta.proto.imap.parse import (
    MAX_ENABLE,
    MAX_ID_FIELD_BYTES,
    MAX_ID_PARAMETERS,
    MAX_ID_VALUE_BYTES,
    parse_command,
)
from pochta.proto.imap.search import MAX_SEARCH_DEPTH, MAX_SEARCH_KEYS
from pochta.proto.imap.seqset import MAX_RANGES, SeqSet, encode_ranges, parse_seq_set
from pochta.proto.imap.view import CHUNK_MESSAGES, Slice, Snapshot


def parse(text: bytes) -> c.Command:
    return parse_command(b"a1 " + text + b"\r\n")[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"XYZZY", "unknown command"),
        (b"NOOP x", "unexpected text after the command"),
        (b"SELECT", "missing argument"),
        (b"SELECT(x)", "expected a space"),
        (b"LOGIN a", "missing argument"),
        (b'LOGIN "a b', "malformed quoted string"),
        (b"LOGIN {3}\r\na", "malformed literal"),
        (b"LOGIN {x} a", "malformed literal"),
        (b"LOGIN {1}\r\n\x00 a", "NUL in a string"),
        (b"LOGIN ( a", "expected a string"),
        (b'LOGIN "\xff" a', "text is not valid UTF-8"),
        (b"AUTHENTICATE (", "expected an atom"),
        (b'SELECT "\xc3\xa9"', "8-bit mailbox name"),
        (b"SELECT x (X)", "unknown SELECT parameter"),
        (b"SELECT x (CONDSTORE X)", "unknown SELECT parameter"),
        (b"SELECT x CONDSTORE", "expected a parenthesised list"),
        (b"CREATE x (X)", "unknown CREATE parameter"),
        (b"CREATE x (USE x)", "expected a parenthesised list"),
        (b"CREATE x (USE () x)", "unknown CREATE parameter"),
        (b"ID x", "expected a string"),
        (b'ID "x"', "expected a list or NIL"),
        (b"APPEND x y", "expected a message literal"),
        (b'LIST "" x X', "expected RETURN"),
        (b'LIST (X) "" x', "unknown LIST selection option"),
        (b'LIST "" x RETURN (X)', "unknown LIST return option"),
        (b'LIST (RECURSIVEMATCH) "" x', "RECURSIVEMATCH needs another selection option"),
        (b"STATUS x (X)", "unknown STATUS item"),
        (b"STATUS x (UIDNEXT", "expected a space or a closing parenthesis"),
        (b"STORE 0 FLAGS ()", "expected a sequence set"),
        (b"STORE 4294967296 FLAGS ()", "number in sequence set is too large"),
        (b"STORE 1:4294967296 FLAGS ()", "number in sequence set is too large"),
        (b"STORE 4294967296:1 FLAGS ()", "number in sequence set is too large"),
        (b"STORE 1 X ()", "unknown STORE item"),
        (b"STORE 1 (X 1) FLAGS ()", "unknown STORE modifier"),
        (b"STORE 1 (UNCHANGEDSINCE 1 X) FLAGS ()", "unknown STORE modifier"),
        (b"STORE 1 (UNCHANGEDSINCE x) FLAGS ()", "expected a number"),
        (b"STORE 1 (UNCHANGEDSINCE 9223372036854775808) FLAGS ()", "number is too large"),
        (b"STORE 1 FLAGS (])", "expected a flag"),
        (b"STORE 1 FLAGS (a" + b"b" * MAX_FLAG_BYTES + b")", "flag is too long"),
        (b"FETCH 1 X", "unknown fetch item"),
        (b"FETCH 1 ()", "expected a word"),
        (b"FETCH 1 BODY[X]", "unknown section"),
        (b"FETCH 1 BODY[MIME]", "MIME needs a part number"),
        (b"FETCH 1 BODY[1HEADER]", "malformed section"),
        (b"FETCH 1 BODY[1..2]", "malformed part number"),
        (b"FETCH 1 BODY[4294967296]", "part number is too large"),
        (b"FETCH 1 BODY[TEXT", "expected a closing bracket"),
        (b"FETCH 1 BODY[HEADER.FIELDS (a:b)]", "invalid header field name"),
        (b"FETCH 1 BODY[]<1>", "malformed partial"),
        (b"FETCH 1 BODY[]<9223372036854775808.1>", "partial is too large"),
        (b"FETCH 1 BODY[]<1.9223372036854775808>", "partial is too large"),
        (b"FETCH 1 FLAGS (X 1)", "unknown FETCH modifier"),
        (b"FETCH 1 FLAGS (CHANGEDSINCE 1 X)", "unknown FETCH modifier"),
        (b"FETCH 1 FLAGS (CHANGEDSINCE 3 VANISHED)", "VANISHED needs UID FETCH, CHANGEDSINCE and ENABLE QRESYNC"),
        (b"UID FETCH 1 FLAGS (VANISHED)", "VANISHED needs UID FETCH, CHANGEDSINCE and ENABLE QRESYNC"),
        (b"FETCH 1 FLAGS (PARTIAL 1:2)", "PARTIAL needs UID FETCH"),
        (b"UID FETCH 1 FLAGS (PARTIAL 1:2 PARTIAL 1:2)", "unknown FETCH modifier"),
        (b"SEARCH X", "unknown search key"),
        (b"SEARCH ON x", "expected a date"),
        (b"SEARCH ON 1-Foo-2020", "invalid month in date"),
        (b"SEARCH ON 30-Feb-2020", "no such day"),
        (b'SEARCH HEADER "\xc3\xa9" x', "invalid header field name"),
        (b'SEARCH TEXT "\xff"', "search text is not valid in its charset"),
        (b'SEARCH MODSEQ "x" all 1', "invalid entry name"),
        (b'SEARCH MODSEQ "/flags/\\\\seen" x 1', "invalid entry type"),
    ],
    ids=repr,
)
def test_what_a_client_is_told(text: bytes, told: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        parse(text)
    assert str(raised.value) == told


def words(count: int) -> bytes:
    return b" ".join(b"x%d" % number for number in range(count))


def sections(count: int) -> bytes:
    return b" ".join(b"BODY[%d]" % (number + 1) for number in range(count))


@pytest.mark.parametrize(
    ("template", "arguments", "maximum", "told"),
    [
        pytest.param(b"ENABLE %b", words, MAX_ENABLE, "too many capabilities", id="ENABLE"),
        pytest.param(b'LIST "" (%b)', words, MAX_LIST_PATTERNS, "too many patterns", id="patterns"),
        pytest.param(b"STORE 1 FLAGS (%b)", words, MAX_FLAGS, "too many flags", id="flags"),
        pytest.param(b"STORE 1 FLAGS %b", words, MAX_FLAGS, "too many flags", id="bare flags"),
        pytest.param(b"FETCH 1 (%b)", sections, MAX_FETCH_ITEMS, "too many fetch items", id="items"),
        pytest.param(
            b"FETCH 1 BODY[HEADER.FIELDS (%b)]", words, MAX_HEADER_FIELDS, "too many header fields", id="fields"
        ),
        pytest.param(
            b"FETCH 1 BODY[HEADER.FIELDS (%b)]",
            lambda count: b'"x" ' + words(count - 1).replace(b"x", b"y"),
            MAX_HEADER_FIELDS,
            "too many header fields",
            id="quoted fields",
        ),
        pytest.param(
            b"FETCH 1 BODY[%b]",
            lambda count: b".".join([b"1"] * count),
            MAX_PART_DEPTH,
            "malformed part number",
            id="part depth",
        ),
        pytest.param(b"FETCH %b FLAGS", lambda count: b"1" + b",1" * (count - 1), MAX_RANGES, "", id="ranges"),
        pytest.param(
            b"SEARCH %b",
            lambda count: b" ".join([b"SEEN"] * count),
            MAX_SEARCH_KEYS,
            "search is too complex",
            id="search keys",
        ),
        pytest.param(
            b"ID (%b)",
            lambda count: b" ".join(b'"x%d" NIL' % number for number in range(count)),
            MAX_ID_PARAMETERS,
            "ID is too long",
            id="ID parameters",
        ),
        pytest.param(b'ID ("%b" NIL)', lambda count: b"x" * count, MAX_ID_FIELD_BYTES, "ID is too long", id="ID field"),
        pytest.param(b'ID ("x" "%b")', lambda count: b"x" * count, MAX_ID_VALUE_BYTES, "ID is too long", id="ID value"),
        pytest.param(b"STORE 1 FLAGS (%b)", lambda count: b"x" * count, MAX_FLAG_BYTES, "flag is too long", id="flag"),
    ],
)
def test_as_many_as_may_be(template: bytes, arguments: object, maximum: int, told: str) -> None:
    assert callable(arguments)
    parse(template % arguments(maximum))
    with pytest.raises(RemoteProtocolError) as raised:
        parse(template % arguments(maximum + 1))
    assert str(raised.value) == (told or "too many ranges in sequence set")


def test_as_deep_as_may_be() -> None:
    def nested(depth: int) -> bytes:
        return b"SEARCH " + b"(" * depth + b"SEEN" + b")" * depth

    # the command itself is one level
    parse(nested(MAX_SEARCH_DEPTH - 1))
    with pytest.raises(RemoteProtocolError, match=r"^search is too complex$"):
        parse(nested(MAX_SEARCH_DEPTH))


def test_the_largest_numbers() -> None:
    assert parse_seq_set(b"4294967295:*").ranges == ((MAX_NUMBER, 0),)
    assert isinstance(parse(b"FETCH 1 BODY[4294967295]"), c.Fetch)
    assert isinstance(parse(b"FETCH 1 BODY[]<9223372036854775807.9223372036854775807>"), c.Fetch)
    assert isinstance(parse(b"STORE 1 (UNCHANGEDSINCE 9223372036854775807) FLAGS ()"), c.Store)


def test_names_of_header_fields_in_a_label() -> None:
    command = parse(b'FETCH 1 BODY[HEADER.FIELDS (a "b" "c(d" "e\\"f" a)]')
    assert isinstance(command, c.Fetch)
    (item,) = command.items
    assert isinstance(item, c.BodySection)
    assert item.label == b'BODY[HEADER.FIELDS (a b "c(d" "e\\"f")]'
    assert item.fields == (b"a", b"b", b"c(d", b'e"f')


@pytest.mark.rfc(3501, "5.1")
def test_a_lexer_takes_names_of_seven_bits_unless_told() -> None:
    assert Lexer(b"&AOk-", 0, 5).mailbox() == "é"
    assert Lexer(b"&AOk-", 0, 5, utf8_accept=True).mailbox() == "&AOk-"
    assert Lexer('"é"'.encode(), 0, 4, utf8_accept=True).mailbox() == "é"
    assert Lexer(b"ab", 0, 2).peek() == ord("a")
    assert Lexer(b"ab", 2, 2).peek() == -1


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(
    ("text", "maximum", "want"),
    [
        (b"1:*", 0, ()),
        (b"1:*", 1, ((1, 1),)),
        (b"*", 1, ((1, 1),)),
        (b"9:*", 5, ((5, 5),)),
        (b"6,5", 5, ((5, 5),)),
        (b"1:2,3:4", 9, ((1, 4),)),
        (b"1:2,4:5", 9, ((1, 2), (4, 5))),
        (b"1:5,2:3,5", 9, ((1, 5),)),
        (b"5:1,7", 9, ((1, 5), (7, 7))),
        (b"2,1:9", 9, ((1, 9),)),
    ],
)
def test_normalised_sets(text: bytes, maximum: int, want: tuple[tuple[int, int], ...]) -> None:
    assert parse_seq_set(text).normalised(maximum) == want


@pytest.mark.parametrize(
    ("numbers", "want"),
    [
        ([], b""),
        ([7], b"7"),
        ([1, 2], b"1:2"),
        ([1, 3], b"1,3"),
        ([1, 2, 3], b"1:3"),
        ([1, 3, 4], b"1,3:4"),
        ([1, 2, 4, 6, 7], b"1:2,4,6:7"),
    ],
)
def test_ranges_are_found(numbers: list[int], want: bytes) -> None:
    assert encode_ranges(numbers) == want
    assert encode_ranges(iter(numbers)) == want
    if want:
        assert parse_seq_set(want).encode() == want
        assert SeqSet(parse_seq_set(want).ranges).largest() == numbers[-1]


def numbered(slices: Iterable[Slice]) -> list[tuple[int, int]]:
    """(sequence number, uid) of every message of the slices."""
    return [(number, uid) for part in slices for number, uid in enumerate(part.uids, part.seq)]


def test_messages_of_a_view_are_numbered() -> None:
    """Three chunks, uids 10, 20, 30 …; ranges that begin and end within them, at their edges and beyond."""
    count = 2 * CHUNK_MESSAGES + 3
    view = Snapshot.of(array("I", range(10, 10 * count + 10, 10)), array("q", range(count)), 7)
    every = [(number, 10 * number) for number in range(1, count + 1)]
    assert (view.count, view.mod_seq, view.last_uid, len(view.chunks)) == (count, 7, 10 * count, 3)
    assert numbered(view.slices()) == every
    edges = [1, 2, CHUNK_MESSAGES - 1, CHUNK_MESSAGES, CHUNK_MESSAGES + 1, 2 * CHUNK_MESSAGES, count]
    for first in edges:
        assert view.seq_of(10 * first) == first
        assert view.seq_of(10 * first + 1) == 0
        for last in [edge for edge in edges if edge >= first]:
            want = every[first - 1 : last]
            assert numbered(view.by_seq([(first, last)])) == want
            assert numbered(view.by_uid([(10 * first - 1, 10 * last + 1)])) == want
            assert numbered(view.by_uid([(10 * first, 10 * last)])) == want
    assert numbered(view.by_seq([(1, 1), (count, count)])) == [every[0], every[-1]]
    assert numbered(view.by_uid([(11, 19), (20, 21), (10 * count + 1, 10 * count + 9)])) == [every[1]]


def test_a_difference_crosses_chunks() -> None:
    count = 2 * CHUNK_MESSAGES
    old = Snapshot.of(array("I", range(1, count + 1)), array("q", [0] * count), 1)
    marked = old.with_flags([(CHUNK_MESSAGES, CHUNK_MESSAGES + 1)], -1, 4)
    removed, changed, added = old.difference(marked)
    assert (removed, added) == ([], [])
    assert [one for block in changed for one in block] == [(CHUNK_MESSAGES, 4), (CHUNK_MESSAGES + 1, 4)]
    assert 0 < old.unshared(marked) <= count
    assert old.unshared(old) == 0
    newer = marked.refreshed([(1, 1), (count, count + 5)], [(count, 1), (count + 5, 2)], 9)
    assert newer.mod_seq == 9
    assert newer.seq_of(count + 5) == count
    removed, changed, added = marked.difference(newer)
    assert (removed, added) == ([1], [(count + 5, 2)])
    assert [one for block in changed for one in block] == [(count, 1)]
