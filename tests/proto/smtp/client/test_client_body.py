"""What leaves of a message: never a bare CR or LF, never an unstuffed dot, whatever the cuts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.proto.smtp.client.body import LineEncoder, encode_chunk

BODIES = {
    "empty": (b"", b".\r\n"),
    "a line": (b"a\r\n", b"a\r\n.\r\n"),
    "no line end": (b"a", b"a\r\n.\r\n"),
    "a dot": (b".", b"..\r\n.\r\n"),
    "a line of a dot": (b"a\r\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
    "dots": (b"..\r\n...\r\n", b"...\r\n....\r\n.\r\n"),
    "bare LF": (b"a\nb\n", b"a\r\nb\r\n.\r\n"),
    "bare CR": (b"a\rb\r", b"a\r\nb\r\n.\r\n"),
    "CR CR LF": (b"a\r\r\nb", b"a\r\n\r\nb\r\n.\r\n"),
    "LF CR": (b"a\n\rb", b"a\r\n\r\nb\r\n.\r\n"),
    "LF dot LF": (b"a\n.\nMAIL FROM:<x>\r\n", b"a\r\n..\r\nMAIL FROM:<x>\r\n.\r\n"),
    "LF dot CRLF": (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
    "CR dot CR": (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
    "CRLF dot CR": (b"a\r\n.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
    "NUL": (b"\0\r\n", b"\0\r\n.\r\n"),
}


def encode(pieces: list[bytes], *, stuffs_dots: bool = True) -> bytes:
    encoder = LineEncoder(stuffs_dots=stuffs_dots)
    return b"".join([encoder.encode(piece) for piece in pieces]) + encoder.finish()


@pytest.mark.rfc(5321, "4.5.2")
@pytest.mark.rfc(5321, "2.3.8")
@pytest.mark.parametrize(("body", "wire"), BODIES.values(), ids=BODIES.keys())
def test_body(body: bytes, wire: bytes) -> None:
    assert encode([body]) == wire
    assert encode([body[at : at + 1] for at in range(len(body))]) == wire
    for at in range(len(body)):
        assert encode([body[:at], body[at:]]) == wire


PIECES = st.lists(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\r\n.\r\n", b"\n.\n", b""]), max_size=6).map(
        b"".join
    )
)


@given(PIECES)
def test_what_leaves_is_clean(pieces: list[bytes]) -> None:
    wire = encode(pieces)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert wire.endswith(b"\r\n.\r\n") or wire == b".\r\n"
    # the end mark stands at the end alone
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3
    assert not re.search(rb"^\.(?!\.)", wire[:-3], re.MULTILINE)
    # and the message is what was given, with its line ends made right
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", b"".join(pieces))
    if text and not text.endswith(b"\r\n"):
        text += b"\r\n"
    assert re.sub(rb"(?m)^\.", b"", wire[:-3]) == text
    assert encode(pieces, stuffs_dots=False) == text


@pytest.mark.rfc(3030, "2")
def test_chunks() -> None:
    assert encode_chunk(b"abc", is_last=False) == b"BDAT 3\r\nabc"
    assert encode_chunk(b"", is_last=True) == b"BDAT 0 LAST\r\n"
