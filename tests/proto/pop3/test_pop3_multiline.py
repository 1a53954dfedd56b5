"""Dot stuffing and TOP against models that look at the whole message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pop3_driver import at_cuts, ways

from pochta.proto.pop3.multiline import DotStuffer, TopCutter, stuffed_whole

PIECES = [b"\r\n", b"\r\n.", b"\n", b"\n.", b".", b"..", b"\r", b"a", b"bc", b"\r\n\r\n", b"\n.\r\n", b"\r.\r", b"\x00"]
MESSAGES = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)
CUTS = st.lists(st.integers(0, 40), max_size=8)


def stuff(chunks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join([stuffer.feed(chunk) for chunk in chunks]) + stuffer.finish()


def model(message: bytes) -> bytes:
    text = (b"\n" + message).replace(b"\n.", b"\n..")[1:]
    return text + (b".\r\n" if message.endswith(b"\r\n") or not message else b"\r\n.\r\n")


@pytest.mark.rfc(1939, "3")
@settings(max_examples=400)
@given(message=MESSAGES, cuts=CUTS)
def test_stuffing(message: bytes, cuts: list[int]) -> None:
    want = model(message)
    assert stuffed_whole(message) == want
    for chunks in (*ways(message), [*at_cuts(message, cuts), b""]):
        assert stuff(chunks) == want


@settings(max_examples=400)
@given(message=MESSAGES)
def test_no_reader_sees_the_end_before_the_end(message: bytes) -> None:
    wire = stuffed_whole(message) + b"+OK next\r\n"
    for mark in (b"\r\n", b"\n"):
        lines = wire.split(mark)
        end = next(number for number, line in enumerate(lines) if line.rstrip(b"\r") == b".")
        assert lines[end + 1].startswith(b"+OK next")
    read = []
    for line in wire.split(b"\n"):
        if line == b".\r":
            break
        read.append(line[1:] if line.startswith(b".") else line)
    assert b"".join(line + b"\n" for line in read) in (message, message + b"\r\n")


@pytest.mark.rfc(1939, "7")
@settings(max_examples=400)
@given(
    header=st.sampled_from([b"", b"a: b\r\n\r\n", b"a: b\n\n", b"a"]), body=MESSAGES, lines=st.integers(0, 9), cuts=CUTS
)
def test_top(header: bytes, body: bytes, lines: int, cuts: list[int]) -> None:
    message = header + body
    want = header + b"".join([line + b"\n" for line in body.split(b"\n")[:lines]])[: len(body)]
    for chunks in (*ways(message), at_cuts(message, cuts)):
        cutter = TopCutter(len(header), lines)
        sent = b""
        for chunk in chunks:
            sent += cutter.feed(chunk)
            if cutter.is_done:
                assert cutter.feed(b"more\n") == b""
                break
        assert sent == want


def test_bytes_without_dots_are_not_copied() -> None:
    chunk = b"x" * 5000 + b"\r\n"
    assert DotStuffer().feed(chunk) is chunk
    assert TopCutter(10_000, 0).feed(chunk) is chunk
    assert TopCutter(0, 10).feed(chunk) is chunk


def test_hostile_messages_take_linear_time() -> None:
    for filler in (b"\n.", b".", b"\n", b"\r\n.\r\n"):
        message = filler * 200_000
        assert stuffed_whole(message).endswith(b"\r\n.\r\n")
        assert TopCutter(0, 10**9).feed(message) == message
