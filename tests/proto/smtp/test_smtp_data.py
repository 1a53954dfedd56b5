"""The data decoder against a model that looks at one line at a time."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.proto.smtp.data import BareNewline, DataDecoder
from pochta.proto.smtp.events import DataFault

REFUSE, NORMALISE = BareNewline.REFUSE, BareNewline.NORMALISE
PIECES = [b"\r\n.\r\n", b"\r\n", b".", b"..", b"\r", b"\n", b"a", b"bc", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r"]
Result = tuple[bytes | None, DataFault | None, bytes | None]


def model(wire: bytes, mode: BareNewline, max_bytes: int) -> Result:
    """(message, fault, bytes behind the end mark); the last is None while the end has not come."""
    content, mark, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    if not mark:
        return None, None, None
    content = content[2:] + b"\r\n" if content else b""
    without_pairs = content.replace(b"\r\n", b"")
    if b"\r" in without_pairs or (b"\n" in without_pairs and mode is REFUSE):
        return None, DataFault.BARE_NEWLINE, rest
    lines = content.replace(b"\r\n", b"\n").split(b"\n")
    message = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    if len(message) > max_bytes:
        return None, DataFault.TOO_LARGE, rest
    return message, None, rest


def decode(chunks: list[bytes], mode: BareNewline, max_bytes: int) -> Result:
    decoder = DataDecoder(max_bytes, mode)
    message = b""
    for number, chunk in enumerate(chunks):
        out, stop = decoder.decode(b"!" + chunk, 1)
        message += out
        if decoder.is_done:
            rest = chunk[stop - 1 :] + b"".join(chunks[number + 1 :])
            return (None if decoder.fault else message), decoder.fault, rest
        assert stop == len(chunk) + 1
    return None, None, None


def ways(wire: bytes) -> list[list[bytes]]:
    halves = [[wire[:at], wire[at:]] for at in range(min(len(wire), 40))]
    return [[wire], [wire[i : i + 1] for i in range(len(wire))], *halves]


@pytest.mark.rfc(5321, "4.5.2")
@pytest.mark.parametrize(
    ("wire", "want"),
    [
        pytest.param(b".\r\n", b"", id="nothing at all"),
        pytest.param(b"a\r\n.\r\nQUIT\r\n", b"a\r\n", id="a line, then commands"),
        pytest.param(b"..\r\n.\r\n", b".\r\n", id="a line of one dot"),
        pytest.param(b"a\r\n..b\r\n...c\r\n.\r\n", b"a\r\n.b\r\n..c\r\n", id="stuffed dots"),
        pytest.param(b".a\r\n.\r\n", b"a\r\n", id="a dot not stuffed is dropped"),
        pytest.param(b"a.\r\nb.c\r\n.\r\n", b"a.\r\nb.c\r\n", id="dots inside lines"),
        pytest.param(b"\r\n\r\n.\r\n", b"\r\n\r\n", id="empty lines"),
        pytest.param(b"\xff\x00\r\n.\r\n", b"\xff\x00\r\n", id="any other byte"),
    ],
)
def test_messages(wire: bytes, want: bytes) -> None:
    for chunks in ways(wire):
        message, fault, rest = decode(chunks, REFUSE, 1000)
        assert (message, fault) == (want, None)
        assert rest == (b"QUIT\r\n" if wire.endswith(b"QUIT\r\n") else b"")


SMUGGLING = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n.\r",
    b"\r\r\n.\n",
    b"\r\n\x00.\r\n",
]


@pytest.mark.rfc(5321, "4.1.1.4")
@pytest.mark.parametrize("mode", [REFUSE, NORMALISE])
@pytest.mark.parametrize("mark", SMUGGLING, ids=repr)
def test_nothing_else_ends_the_data(mark: bytes, mode: BareNewline) -> None:
    wire = b"a" + mark + b"MAIL FROM:<evil@x>\r\n.\r\n"
    for chunks in ways(wire):
        message, fault, rest = decode(chunks, mode, 1000)
        assert rest == b""
        assert (message, fault, rest) == model(wire, mode, 1000)
        if mode is REFUSE and b"\x00" not in mark:
            assert fault is DataFault.BARE_NEWLINE


@pytest.mark.parametrize(
    ("wire", "want"),
    [
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"\n\n.\r\n.\r\n", b"\r\n\r\n\r\n"),
        (b"a\n..b\n.\r\n.\r\n", b"a\r\n.b\r\n\r\n"),
    ],
)
def test_normalise_makes_bare_lf_a_line_end(wire: bytes, want: bytes) -> None:
    for chunks in ways(wire):
        assert decode(chunks, NORMALISE, 1000) == (want, None, b"")


@settings(max_examples=500)
@given(
    wire=st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    mode=st.sampled_from([REFUSE, NORMALISE]),
    max_bytes=st.sampled_from([3, 1000]),
)
def test_agrees_with_the_model_at_any_cut(wire: bytes, cuts: list[int], mode: BareNewline, max_bytes: int) -> None:
    wire += b"\r\n.\r\nrest"
    edges = sorted({0, len(wire), *(c for c in cuts if c < len(wire))})
    chunks = [wire[a:b] for a, b in pairwise(edges)]
    want = model(wire, mode, max_bytes)
    assert decode([wire], mode, max_bytes) == want
    assert decode(chunks, mode, max_bytes) == want
    assert decode([wire[i : i + 1] for i in range(len(wire))], mode, max_bytes) == want


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b".", b"a", b"\r\n", b"\r\n."])).map(lambda p: b"".join(p) + b"\r\n"))
def test_stuffing_is_undone(message: bytes) -> None:
    stuffed = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
    assert decode([stuffed + b".\r\n"], REFUSE, 10_000) == (message, None, b"")


def test_a_chunk_without_dots_is_not_copied() -> None:
    chunk = b"x" * 5000 + b"\r\n"
    decoder = DataDecoder(10_000, REFUSE)
    out, stop = decoder.decode(chunk, 0)
    assert out is chunk
    assert stop == len(chunk)
