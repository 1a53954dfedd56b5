"""The grammar of SORT and THREAD, how texts are compared, and the order that several criteria make."""

import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap import sort
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.search_return import PartialRange, ReturnOption, SearchReturn
from pochta.proto.imap.sort import Algorithm, Criterion, Sort, SortKey, Thread, casemap, sort_places

ALL = c.SearchAll()


def parsed(text: bytes) -> c.Command:
    return parse_command(b"a " + text + b"\r\n")[1]


@pytest.mark.rfc(5256, "5")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param(
            b"SORT (SUBJECT) UTF-8 SINCE 1-Feb-1994",
            Sort((SortKey(Criterion.SUBJECT),), c.SearchDate(c.DateTest.SINCE, 8797, is_sent=False), is_uid=False),
            id="sort",
        ),
        pytest.param(
            b'uid sort (subject reverse date) "us-ascii" all',
            Sort((SortKey(Criterion.SUBJECT), SortKey(Criterion.DATE, is_reverse=True)), ALL, is_uid=True),
            id="uid, reverse, any case, quoted charset",
        ),
        pytest.param(
            b"SORT (DATE REVERSE DATE SIZE) UTF-8 ALL",
            Sort((SortKey(Criterion.DATE), SortKey(Criterion.SIZE)), ALL, is_uid=False),
            id="again",
        ),
        pytest.param(
            b"SORT (DISPLAYFROM REVERSE DISPLAYTO) UTF-8 ALL",
            Sort((SortKey(Criterion.DISPLAYFROM), SortKey(Criterion.DISPLAYTO, is_reverse=True)), ALL, is_uid=False),
            id="display",
        ),
        pytest.param(
            b"UID SORT RETURN () (REVERSE DATE) UTF-8 ALL",
            Sort(
                (SortKey(Criterion.DATE, is_reverse=True),),
                ALL,
                is_uid=True,
                returns=SearchReturn(frozenset({ReturnOption.ALL})),
            ),
            id="return nothing",
        ),
        pytest.param(
            b"SORT RETURN (PARTIAL 1:500 COUNT) (CC) UTF-8 ALL",
            Sort(
                (SortKey(Criterion.CC),),
                ALL,
                is_uid=False,
                returns=SearchReturn(frozenset({ReturnOption.COUNT}), PartialRange(1, 500)),
            ),
            id="partial",
        ),
        pytest.param(
            b"THREAD ORDEREDSUBJECT UTF-8 ALL", Thread(Algorithm.ORDEREDSUBJECT, ALL, is_uid=False), id="orderedsubject"
        ),
        pytest.param(b"uid thread references utf-8 all", Thread(Algorithm.REFERENCES, ALL, is_uid=True), id="uid"),
        pytest.param(b"THREAD REFS UTF-8 ALL", Thread(Algorithm.REFS, ALL, is_uid=False), id="refs"),
    ],
)
def test_command(text: bytes, want: c.Command) -> None:
    assert parsed(text) == want


@pytest.mark.rfc(5256, "3")
def test_texts_are_in_the_charset() -> None:
    want = c.SearchHeader("subject", "ж")
    assert parsed(b"SORT (DATE) KOI8-R SUBJECT {1}\r\n\xd6") == Sort((SortKey(Criterion.DATE),), want, is_uid=False)
    assert parsed(b"SORT (DATE) KLINGON SUBJECT {1}\r\n\xd6") == c.UnknownCharset("KLINGON")
    assert parsed(b"UID THREAD REFS KLINGON ALL") == c.UnknownCharset("KLINGON")


@pytest.mark.rfc(6203, "6")
def test_relevancy_goes_with_fuzzy() -> None:
    fuzzy = parsed(b"SORT (RELEVANCY) UTF-8 FUZZY SUBJECT x")
    assert isinstance(fuzzy, Sort)
    assert fuzzy.keys == (SortKey(Criterion.RELEVANCY),)
    for text in (b"SORT (RELEVANCY) UTF-8 ALL", b"SORT RETURN (RELEVANCY) (DATE) UTF-8 ALL"):
        with pytest.raises(RemoteProtocolError):
            parsed(text)


@pytest.mark.rfc(5256, "5")
@pytest.mark.parametrize(
    "text",
    [
        b"SORT (SUBJECT) UTF-8",
        b"SORT SUBJECT UTF-8 ALL",
        b"SORT () UTF-8 ALL",
        b"SORT (BODY) UTF-8 ALL",
        b"SORT (REVERSE) UTF-8 ALL",
        b"SORT (REVERSE REVERSE DATE) UTF-8 ALL",
        b"SORT (DATE)UTF-8 ALL",
        b"SORT (DATE) UTF-8 BOGUS",
        b"SORT RETURN (BOGUS) (DATE) UTF-8 ALL",
        b"SORT RETURN (PARTIAL 1:2 ALL) (DATE) UTF-8 ALL",
        b"SORT RETURN (DATE) UTF-8 ALL",
        b"THREAD BOGUS UTF-8 ALL",
        b"THREAD REFERENCES ALL",
        b"THREAD RETURN () REFERENCES UTF-8 ALL",
        b"THREAD REFERENCES UTF-8",
    ],
)
def test_malformed(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parsed(text)


def slow_casemap(text: str) -> str:
    """The simple titlecase mapping of each character, decomposed."""
    out = []
    for one in text:
        title = one.title() if len(one.title()) == 1 else one
        out.append(unicodedata.normalize("NFKD", title))
    return unicodedata.normalize("NFKD", "".join(out))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param("a_B", "A_B", id="ascii"),
        pytest.param("ёж", "\u0415\u0308\u0416", id="decomposed"),
        pytest.param("ß", "ß", id="no simple mapping"),
        pytest.param("ǆ", "Dz\u030c", id="title, not upper case"),
        pytest.param("ﬁ", "fi", id="decomposed last"),
    ],
)
def test_casemap(text: str, want: str) -> None:
    assert casemap(text) == want


def test_the_quick_way_of_casemap_equals_the_slow_one_for_every_character() -> None:
    quick = re.compile(sort._PECULIAR)
    for code in range(0x80, sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000:
            assert quick.match(chr(code)) is not None or not sort.is_peculiar(code), hex(code)


@given(st.text(max_size=12))
def test_casemap_equals_the_text_of_the_rfc(text: str) -> None:
    assert casemap(text) == slow_casemap(text)


def test_underscore_stands_behind_letters() -> None:
    """As i;unicode-casemap has it: letters are compared in title case."""
    assert sorted(["_", "a", "Z", "["], key=casemap) == ["a", "Z", "[", "_"]


VALUES = st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=2)), max_size=30)


@pytest.mark.rfc(5256, "3")
@settings(max_examples=200, deadline=None)
@given(values=VALUES, flips=st.tuples(st.booleans(), st.booleans()), at_once=st.integers(1, 40))
def test_order_of_two_criteria(values: list[tuple[int, str]], flips: tuple[bool, bool], at_once: int) -> None:
    numbers, texts = [one[0] for one in values], [one[1] for one in values]
    want = list(range(len(values)))
    want.sort(key=lambda at: texts[at], reverse=flips[1])
    want.sort(key=lambda at: numbers[at], reverse=flips[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sort, "SORTED_AT_ONCE", at_once)
        assert sort_places(range(len(values)), [(numbers, flips[0]), (texts, flips[1])]) == want


@pytest.mark.parametrize("kind", ["equal", "rising", "falling", "mixed"])
def test_many_messages(kind: str) -> None:
    count = 100_000
    values = {
        "equal": [7] * count,
        "rising": list(range(count)),
        "falling": list(range(count, 0, -1)),
        "mixed": [number * 7919 % 1009 for number in range(count)],
    }[kind]
    for is_reverse in (False, True):
        want = sorted(range(count), key=values.__getitem__, reverse=is_reverse)
        assert sort_places(range(count), [(values, is_reverse)]) == want
