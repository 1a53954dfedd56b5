"""The return options of searching commands, `$`, and the keys that extensions brought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.search import is_fuzzy
from pochta.proto.imap.search_return import RETURN_ALL, PartialRange, ReturnOption, SearchReturn
from pochta.proto.imap.seqset import SAVED, encode_ordered, encode_ranges, parse_seq_set

MIN, MAX, ALL, COUNT, SAVE = (
    ReturnOption.MIN,
    ReturnOption.MAX,
    ReturnOption.ALL,
    ReturnOption.COUNT,
    ReturnOption.SAVE,
)


def parse(text: bytes) -> c.Command:
    return parse_command(b"a " + text + b"\r\n")[1]


def returns_of(text: bytes) -> SearchReturn | None:
    command = parse(b"SEARCH " + text + b"ALL")
    assert isinstance(command, c.Search)
    return command.returns


@pytest.mark.rfc(4731, "3.1")
@pytest.mark.rfc(9394, "3.1")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", None),
        (b"RETURN () ", RETURN_ALL),
        (b"return (min Count) ", SearchReturn(frozenset({MIN, COUNT}))),
        (b"RETURN (ALL ALL) ", RETURN_ALL),
        (b"RETURN (SAVE) ", SearchReturn(frozenset({SAVE}))),
        (b"RETURN (PARTIAL 1:500 MAX) ", SearchReturn(frozenset({MAX}), PartialRange(1, 500))),
        (b"RETURN (PARTIAL -1:-100) ", SearchReturn(frozenset(), PartialRange(-1, -100))),
        (
            b"RETURN (UPDATE CONTEXT COUNT) ",
            SearchReturn(frozenset({ReturnOption.UPDATE, ReturnOption.CONTEXT, COUNT})),
        ),
        (b"RETURN (COUNT) CHARSET UTF-8 ", SearchReturn(frozenset({COUNT}))),
    ],
)
def test_return_options(text: bytes, expected: SearchReturn | None) -> None:
    assert returns_of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"SEARCH RETURN",
        b"SEARCH RETURN ()",
        b"SEARCH RETURN (MIN ) ALL",
        b"SEARCH RETURN (BOGUS) ALL",
        b"SEARCH RETURN MIN ALL",
        b"SEARCH RETURN (PARTIAL) ALL",
        b"SEARCH RETURN (PARTIAL 0:5) ALL",
        b"SEARCH RETURN (PARTIAL 1:*) ALL",
        b"SEARCH RETURN (PARTIAL 1:-1) ALL",
        b"SEARCH RETURN (PARTIAL -1:1) ALL",
        b"SEARCH RETURN (PARTIAL 1:4294967296) ALL",
        b"SEARCH RETURN (PARTIAL 1:2 PARTIAL 1:2) ALL",
        b"SEARCH RETURN (PARTIAL 1:2 ALL) ALL",
        b"SEARCH RETURN (RELEVANCY) ALL",
        b"SEARCH RETURN (UPDATE ()) ALL",
        b"SEARCH RETURN (UPDATE  (UID)) ALL",
        b"SEARCH RETURN (UPDATE (ALL)) ALL",
        b"SEARCH RETURN (COUNT (UID)) ALL",
        b"SEARCH CHARSET UTF-8 RETURN (MIN) ALL",
        b"SEARCH $,1",
        b"SEARCH 1:$",
        b"SEARCH OLDER 0",
        b"SEARCH YOUNGER 4294967296",
        b"SEARCH EMAILID",
        b"SEARCH THREADID a.b",
        b"SEARCH SAVEDON",
        b"SEARCH FUZZY",
        b"FETCH 1 UID (PARTIAL 1:2)",
        b"UID FETCH 1 UID (PARTIAL 1:2 PARTIAL 1:2)",
        b"UID FETCH 1 UID (PARTIAL *:2)",
        b"UID FETCH 1 UID ()",
    ],
)
def test_what_is_no_grammar(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(text)


@pytest.mark.rfc(5465, "8")
@pytest.mark.parametrize("text", [b"UPDATE (UID FLAGS) COUNT", b"count UPDATE(UID FLAGS)"], ids=["space", "none"])
def test_what_is_fetched_of_new_messages(text: bytes) -> None:
    items = (c.FetchAttribute.UID, c.FetchAttribute.FLAGS)
    expected = SearchReturn(frozenset({ReturnOption.UPDATE, COUNT}), items=items)
    assert returns_of(b"RETURN (" + text + b") ") == expected


def test_a_key_that_begins_as_return_does() -> None:
    assert parse(b"SEARCH RECENT") == c.Search(c.SearchRecent(), is_uid=False)


@pytest.mark.rfc(5182, "3")
@pytest.mark.parametrize(
    ("text", "is_uid"), [(b"FETCH $ UID", False), (b"UID STORE $ FLAGS ()", True), (b"UID EXPUNGE $", True)]
)
def test_dollar_stands_for_a_set(text: bytes, is_uid: bool) -> None:
    command = parse(text)
    assert isinstance(command, c.Fetch | c.Store | c.UidExpunge)
    assert command.seq_set == SAVED
    assert command.seq_set.encode() == b"$"
    assert (command.seq_set.largest(), command.seq_set.normalised(9)) == (0, ())


@pytest.mark.rfc(5032, "3")
@pytest.mark.rfc(8474, "6")
@pytest.mark.rfc(8514, "5")
@pytest.mark.rfc(6203, "7")
@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b"OLDER 1", c.SearchWithin(1, is_older=True)),
        (b"younger 259200", c.SearchWithin(259200, is_older=False)),
        (b"EMAILID M1-2", c.SearchObjectId("M1-2", is_thread=False)),
        (b"THREADID T_3", c.SearchObjectId("T_3", is_thread=True)),
        (b"SAVEDON 2-Jan-1970", c.SearchSaveDate(c.DateTest.ON, 1)),
        (b"SAVEDBEFORE 2-Jan-1970", c.SearchSaveDate(c.DateTest.BEFORE, 1)),
        (b'SAVEDSINCE "2-Jan-1970"', c.SearchSaveDate(c.DateTest.SINCE, 1)),
        (b"SAVEDATESUPPORTED", c.SearchAll()),
        (b"$", c.SearchSet(SAVED, is_uid=False)),
        (b"UID $", c.SearchSet(SAVED, is_uid=True)),
        (b"FUZZY SUBJECT x", c.SearchFuzzy(c.SearchHeader("subject", "x"))),
        (b"FUZZY (ALL SEEN)", c.SearchFuzzy(c.SearchAnd((c.SearchAll(), c.SearchFlag("\\Seen", is_set=True))))),
        (b"NOT FUZZY NOT ALL", c.SearchNot(c.SearchFuzzy(c.SearchNot(c.SearchAll())))),
    ],
)
def test_keys_of_extensions(text: bytes, key: c.SearchKey) -> None:
    assert parse(b"SEARCH " + text) == c.Search(key, is_uid=False)


def test_fuzzy_is_seen_at_any_depth() -> None:
    command = parse(b"SEARCH RETURN (RELEVANCY) OR SEEN (1 NOT FUZZY TEXT x)")
    assert isinstance(command, c.Search)
    assert is_fuzzy(command.key)


@pytest.mark.rfc(9394, "3.3")
def test_fetch_modifiers_come_in_any_order() -> None:
    one = parse(b"UID FETCH 1:* FLAGS (PARTIAL -1:-30 CHANGEDSINCE 98305)")
    assert one == parse(b"UID FETCH 1:* FLAGS (changedsince 98305 partial -1:-30)")
    assert isinstance(one, c.Fetch)
    assert (one.partial, one.changed_since) == (PartialRange(-1, -30), 98305)


@pytest.mark.rfc(9394, "3.1")
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 12))
def test_partial_range_is_what_a_list_says(first: int, last: int, is_from_end: bool, count: int) -> None:
    numbers = list(range(1, count + 1))
    wanted = range(min(first, last), max(first, last) + 1)
    ordered = numbers[::-1] if is_from_end else numbers
    expected = sorted(ordered[place - 1] for place in wanted if place <= count)
    sign = -1 if is_from_end else 1
    start, stop = PartialRange(sign * first, sign * last).bounds(count)
    assert numbers[start:stop] == expected


@pytest.mark.rfc(5182, "2.4")
@pytest.mark.rfc(9394, "3.2")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"(SAVE)", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (b"(SAVE MIN)", [0]),
        (b"(SAVE MAX)", [9]),
        (b"(SAVE MIN MAX)", [0, 9]),
        (b"(SAVE ALL MIN)", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (b"(SAVE COUNT MAX)", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (b"(SAVE PARTIAL 2:4)", [1, 2, 3]),
        (b"(SAVE PARTIAL 2:4 MIN)", [0, 1, 2, 3]),
        (b"(SAVE PARTIAL 2:4 MAX)", [1, 2, 3, 9]),
        (b"(SAVE PARTIAL -1:-2 MIN MAX)", [0, 8, 9]),
        (b"(SAVE PARTIAL 20:30 MIN)", [0]),
        (b"(SAVE PARTIAL 2:4 COUNT MIN)", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_what_save_keeps(text: bytes, expected: list[int]) -> None:
    returns = returns_of(b"RETURN " + text + b" ")
    assert returns is not None
    assert [place for part in returns.chosen(10) for place in part] == expected
    assert returns.chosen(0) == ()
    assert [place for part in returns.chosen(1) for place in part] in ([0], [])


@given(st.lists(st.integers(1, 60), unique=True))
def test_a_set_keeps_the_order(numbers: list[int]) -> None:
    encoded = encode_ordered(numbers)
    back = [] if not numbers else [n for a, b in parse_seq_set(encoded).ranges for n in range(a, b + 1)]
    assert back == numbers
    assert encode_ordered(sorted(numbers)) == encode_ranges(sorted(numbers))
