"""InputBuffer: lines and runs, however the bytes were cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.buffer import CRLF, LF, InputBuffer

TOO_LONG = "too long"


def lines_of(chunks: list[bytes], max_bytes: int, resync: bytes = LF) -> list[bytes | str]:
    buffer = InputBuffer(resync=resync)
    found: list[bytes | str] = []
    for chunk in chunks:
        buffer.feed(chunk)
        while True:
            try:
                line = buffer.take_line(max_bytes)
            except RemoteProtocolError:
                found.append(TOO_LONG)
                continue
            if line is None:
                break
            found.append(line)
    return found


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("data", "resync", "want"),
    [
        pytest.param(b"a\r\nb\r\n", LF, [b"a\r\n", b"b\r\n"], id="two lines"),
        pytest.param(b"a\nb", LF, [b"a\n"], id="bare LF ends a line, the rest waits"),
        pytest.param(b"\r\n", LF, [b"\r\n"], id="empty line"),
        pytest.param(b"123456\r\n", LF, [b"123456\r\n"], id="as long as may be"),
        pytest.param(b"1234567\r\nx\r\n", LF, [TOO_LONG, b"x\r\n"], id="one too long, then in step again"),
        pytest.param(b"12345678\nx\r\ny\r\n", LF, [TOO_LONG, b"x\r\n", b"y\r\n"], id="resync at LF"),
        pytest.param(b"12345678\nx\r\ny\r\n", CRLF, [TOO_LONG, b"y\r\n"], id="resync at CRLF only"),
        pytest.param(b"1234567\r\nx\r\n", CRLF, [TOO_LONG, b"x\r\n"], id="the limit cuts the CRLF"),
        pytest.param(b"1" * 50, LF, [TOO_LONG], id="told once, before the end is there"),
        pytest.param(b"1" * 50 + b"\r\n" + b"2" * 50 + b"\r\n", LF, [TOO_LONG, TOO_LONG], id="once for each"),
    ],
)
def test_lines(data: bytes, resync: bytes, want: list[bytes | str]) -> None:
    assert lines_of([data], 8, resync) == want
    assert lines_of([data[i : i + 1] for i in range(len(data))], 8, resync) == want


@settings(max_examples=200)
@given(
    data=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bcd", b"x" * 9])).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    resync=st.sampled_from([LF, CRLF]),
)
def test_cuts_make_no_difference(data: bytes, cuts: list[int], resync: bytes) -> None:
    assert lines_of(cut(data, cuts), 8, resync) == lines_of([data], 8, resync)


@settings(max_examples=100)
@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 30)), max_size=30))
def test_take_gives_every_byte_once(steps: list[bytes | int]) -> None:
    buffer, fed, taken = InputBuffer(), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.feed(step)
            fed += step
        else:
            got = buffer.take(step)
            assert len(got) == min(step, len(fed) - len(taken))
            taken += got
        assert len(buffer) == len(fed) - len(taken)
    assert taken + buffer.take(len(buffer)) == fed


def test_a_whole_chunk_is_not_copied() -> None:
    chunk = b"x" * 100_000
    buffer = InputBuffer()
    buffer.feed(chunk)
    assert buffer.take(len(chunk)) is chunk


def test_lines_and_runs_mix() -> None:
    buffer = InputBuffer()
    for byte in b"line\r\nliteral)\r\n":
        buffer.feed(bytes([byte]))
    assert buffer.take_line(80) == b"line\r\n"
    assert buffer.take(7) == b"literal"
    assert buffer.take_line(80) == b")\r\n"
    assert buffer.take_line(80) is None


def test_window_and_drop() -> None:
    buffer = InputBuffer()
    buffer.feed(b"one\r\ntwo")
    buffer.take_line(80)
    data, start = buffer.window()
    assert bytes(data[start:]) == b"two"
    buffer.drop(2)
    assert buffer.take(9) == b"o"


def test_clear_ends_the_dropping_of_a_long_line() -> None:
    buffer = InputBuffer()
    buffer.feed(b"x" * 20)
    with pytest.raises(RemoteProtocolError):
        buffer.take_line(8)
    buffer.clear()
    buffer.feed(b"a\r\n")
    assert buffer.take_line(8) == b"a\r\n"
