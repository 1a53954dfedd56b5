"""Sequence sets: text, ranges against a mailbox, numbers back into text."""

from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.seqset import MAX_NUMBER, MAX_RANGES, STAR, SeqSet, encode_ranges, parse_seq_set


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        pytest.param(b"1", ((1, 1),), id="one"),
        pytest.param(b"*", ((STAR, STAR),), id="star"),
        pytest.param(b"1:*,5,7:3", ((1, STAR), (5, 5), (7, 3)), id="mixed"),
        pytest.param(b"*:4", ((STAR, 4),), id="star first"),
        pytest.param(b"4294967295", ((MAX_NUMBER, MAX_NUMBER),), id="largest"),
    ],
)
def test_parse(text: bytes, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_seq_set(text).ranges == ranges
    assert parse_seq_set(text).encode() == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0",
        b"01",
        b"1,",
        b",1",
        b"1:",
        b":1",
        b"1:2:3",
        b"a",
        b"1 ",
        b"-1",
        b"**",
        b"4294967296",
        b"9" * 10,
        b"1\n",
    ],
)
def test_malformed(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_seq_set(text)


def test_number_of_ranges_is_bounded() -> None:
    assert len(parse_seq_set(b",".join([b"1"] * MAX_RANGES)).ranges) == MAX_RANGES
    with pytest.raises(RemoteProtocolError, match="too many"):
        parse_seq_set(b",".join([b"1"] * (MAX_RANGES + 1)))


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(
    ("text", "maximum", "want"),
    [
        pytest.param(b"2,4:7,9,12:*", 15, ((2, 2), (4, 7), (9, 9), (12, 15)), id="RFC example"),
        pytest.param(b"*:4,5:7", 10, ((4, 10),), id="RFC example with overlap"),
        pytest.param(b"3291:*", 50, ((50, 50),), id="beyond the end still means the last"),
        pytest.param(b"100", 50, (), id="above"),
        pytest.param(b"40:100", 50, ((40, 50),), id="clipped"),
        pytest.param(b"1:2,3:4", 9, ((1, 4),), id="adjacent"),
        pytest.param(b"1:9,2:3", 9, ((1, 9),), id="inside"),
        pytest.param(b"1:*", 0, (), id="empty mailbox"),
        pytest.param(b"1:4294967295", 3, ((1, 3),), id="hostile"),
    ],
)
def test_normalised(text: bytes, maximum: int, want: tuple[tuple[int, int], ...]) -> None:
    assert parse_seq_set(text).normalised(maximum) == want


def test_largest_and_star() -> None:
    assert parse_seq_set(b"7:3,5").largest() == 7
    assert parse_seq_set(b"*").largest() == 0
    assert parse_seq_set(b"1,4:*").has_star()
    assert not parse_seq_set(b"1,4").has_star()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(0, 25),
)
def test_normalised_means_the_same_numbers(ranges: list[tuple[int, int]], maximum: int) -> None:
    want: set[int] = set()
    for start, stop in ranges:
        low, high = sorted((start or maximum, stop or maximum))
        want |= {number for number in range(low, high + 1) if 1 <= number <= maximum}
    pairs = SeqSet(tuple(ranges)).normalised(maximum)
    assert {number for start, stop in pairs for number in range(start, stop + 1)} == want
    assert all(stop + 1 < start for (_, stop), (start, _) in pairwise(pairs))


@settings(max_examples=150, deadline=None)
@given(st.sets(st.integers(1, 200), min_size=1).map(sorted))
def test_encode_ranges_round_trip(numbers: list[int]) -> None:
    text = encode_ranges(array("I", numbers))
    pairs = parse_seq_set(text).normalised(1000)
    assert [number for start, stop in pairs for number in range(start, stop + 1)] == numbers
    assert text.count(b",") == len(pairs) - 1


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], b""), ([5], b"5"), ([1, 2, 3], b"1:3"), ([1, 2, 3, 4, 5, 7], b"1:5,7"), ([1, 3, 4, 9], b"1,3:4,9")],
)
def test_encode_ranges(numbers: list[int], text: bytes) -> None:
    assert encode_ranges(numbers) == text
    assert encode_ranges(iter(numbers)) == text
