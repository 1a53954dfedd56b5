"""The parameters of SELECT: what a client that comes back says it knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.resync import KnownPairs, Resync
from pochta.proto.imap.seqset import SeqSet, encode_ranges


def parse(text: bytes) -> c.Command:
    return parse_command(b"a " + text + b"\r\n")[1]


@pytest.mark.rfc(7162, "7")
@pytest.mark.parametrize(
    ("text", "resync"),
    [
        (b"(QRESYNC (5 9))", Resync(5, 9)),
        (b"(qresync (5 9223372036854775807 1:3,7))", Resync(5, 2**63 - 1, SeqSet(((1, 3), (7, 7))))),
        (b"(QRESYNC (5 9 (1:2 3:4)))", Resync(5, 9, None, KnownPairs(((1, 3, 2),)))),
        (
            b"(QRESYNC (5 9 1:8 (1,3:4 2:3,8)))",
            Resync(5, 9, SeqSet(((1, 8),)), KnownPairs(((1, 2, 1), (3, 3, 1), (4, 8, 1)))),
        ),
    ],
)
def test_what_is_known(text: bytes, resync: Resync) -> None:
    assert parse(b"SELECT x " + text) == c.Select("x", is_read_only=False, resync=resync)


def test_with_condstore_in_any_order() -> None:
    expected = c.Select("x", is_read_only=True, is_condstore=True, resync=Resync(1, 2))
    assert parse(b"EXAMINE x (CONDSTORE QRESYNC (1 2))") == expected
    assert parse(b"EXAMINE x (QRESYNC (1 2) CONDSTORE)") == expected


@pytest.mark.rfc(7162, "3.2.5")
@pytest.mark.parametrize(
    "text",
    [
        b"()",
        b"(QRESYNC)",
        b"(QRESYNC ())",
        b"(QRESYNC (1))",
        b"(QRESYNC (0 1))",
        b"(QRESYNC (4294967296 1))",
        b"(QRESYNC (1 9223372036854775808))",
        b"(QRESYNC (1 2 *))",
        b"(QRESYNC (1 2 1:*))",
        b"(QRESYNC (1 2 $))",
        b"(QRESYNC (1 2 1 2))",
        b"(QRESYNC (1 2 1 (1 *)))",
        b"(QRESYNC (1 2 1 (1)))",
        b"(QRESYNC (1 2 1 (2,1 1,2)))",
        b"(QRESYNC (1 2 1 (1,2 4,3)))",
        b"(QRESYNC (1 2 1 (1,1 3,4)))",
        b"(QRESYNC (1 2 1 (1:2 3)))",
        b"(QRESYNC (1 2 1 (1 3:4)))",
        b"(QRESYNC (1 2 1 (1 3) 5))",
        b"(QRESYNC (1 2) QRESYNC (1 2))",
        b"(QRESYNC (1 2)",
    ],
)
def test_what_is_malformed(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(b"SELECT x " + text)


@pytest.mark.rfc(7162, "3.2.6")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"UID FETCH 1 UID (CHANGEDSINCE 5 VANISHED)", (5, True)),
        (b"UID FETCH 1 UID (VANISHED CHANGEDSINCE 5)", (5, True)),
        (b"UID FETCH 1 UID (CHANGEDSINCE 5)", (5, False)),
    ],
)
def test_vanished(text: bytes, expected: tuple[int, bool]) -> None:
    command = parse(text)
    assert isinstance(command, c.Fetch)
    assert (command.changed_since, command.with_vanished) == expected


@given(st.sets(st.integers(1, 60), min_size=1), st.sets(st.integers(1, 60)), st.data())
def test_the_last_pair_that_holds(client: set[int], removed: set[int], data: st.DataObject) -> None:
    """Of pairs that were true, those hold before which nothing was removed, and they come first."""
    known = sorted(client)
    there = [uid for uid in known if uid not in removed]
    seqs = data.draw(st.sets(st.integers(1, len(known)), min_size=1).map(sorted))
    pairs = encode_ranges(seqs) + b" " + encode_ranges([known[seq - 1] for seq in seqs])
    command = parse(b"SELECT x (QRESYNC (1 1 (%b)))" % pairs)
    assert isinstance(command, c.Select)
    assert command.resync is not None
    assert command.resync.known_pairs is not None
    holding = [known[seq - 1] for seq in seqs if there[seq - 1 : seq] == [known[seq - 1]]]
    found = command.resync.known_pairs.last_match(lambda uid: there.index(uid) + 1 if uid in there else 0)
    assert found == (holding[-1] if holding else 0)


def test_a_set_of_all_numbers_is_searched_in_some_steps() -> None:
    asked: list[int] = []

    def seq_of(uid: int) -> int:
        asked.append(uid)
        return uid if uid <= 1000 else 0

    assert KnownPairs(((1, 1, 2**32 - 1),)).last_match(seq_of) == 1000
    assert len(asked) < 40
