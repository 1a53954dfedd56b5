"""The frozen list."""

import re
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.proto.pop3.maildrop import Maildrop


def make(count: int) -> Maildrop:
    return Maildrop(5, array("I", range(100, 100 + count)), array("I", range(1, count + 1)))


@settings(max_examples=100)
@given(count=st.integers(0, 30), marks=st.lists(st.tuples(st.integers(0, 29), st.booleans()), max_size=40))
def test_against_a_model(count: int, marks: list[tuple[int, bool]]) -> None:
    maildrop = make(count)
    deleted: set[int] = set()
    retrieved: set[int] = set()
    for index, is_deletion in marks:
        if index >= count:
            maildrop.reset()
            deleted.clear()
        elif not is_deletion:
            maildrop.retrieved(index)
            retrieved.add(index)
        elif index not in deleted:
            assert not maildrop.is_deleted(index)
            maildrop.delete(index)
            deleted.add(index)
    left = [index for index in range(count) if index not in deleted]
    assert (maildrop.count, maildrop.size) == (len(left), sum(index + 1 for index in left))
    assert maildrop.deleted_uids() == [100 + index for index in sorted(deleted)]
    assert maildrop.retrieved_uids() == [100 + index for index in sorted(retrieved - deleted)]
    assert maildrop.scan_listing(0, 1000) == b"".join(b"%d %d\r\n" % (index + 1, index + 1) for index in left)
    halves = maildrop.unique_id_listing(0, count // 2) + maildrop.unique_id_listing(count // 2, count)
    assert halves == b"".join(b"%d 5.%d\r\n" % (index + 1, 100 + index) for index in left)


@pytest.mark.rfc(1939, "7")
def test_unique_ids_are_short_and_printable() -> None:
    maildrop = Maildrop(2**32 - 1, array("I", [1, 2**32 - 1]), array("I", [0, 2**31]))
    assert [maildrop.unique_id(index) for index in range(2)] == [b"4294967295.1", b"4294967295.4294967295"]
    assert re.fullmatch(rb"[\x21-\x7e]{1,70}", maildrop.unique_id(1))


def test_one_size_for_each_uid() -> None:
    with pytest.raises(LocalProtocolError):
        Maildrop(1, array("I", [1]), array("I"))


def test_memory_of_a_large_maildrop() -> None:
    maildrop = make(100_000)
    assert maildrop.uids.itemsize + maildrop.sizes.itemsize == 8
    assert len(maildrop.scan_listing(99_000, 100_000).splitlines()) == 1000
