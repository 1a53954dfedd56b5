"""Modified UTF-7: one spelling for every name, and only that one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.mutf7 import decode_mutf7, encode_mutf7


@pytest.mark.rfc(3501, "5.1.3")
@pytest.mark.parametrize(
    ("wire", "text"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"INBOX", "INBOX", id="ascii"),
        pytest.param(b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語", id="RFC example"),
        pytest.param(b"&-", "&", id="ampersand"),
        pytest.param(b"a&-b&-&-", "a&b&&", id="ampersands"),
        pytest.param(b"&BB8EPgRHBEIEMA-", "Почта", id="cyrillic"),
        pytest.param(b"&AOk-&-", "é&", id="ampersand after a shift"),
        pytest.param(b"&2D3eAA-", "😀", id="surrogate pair"),
        pytest.param(b"+/~\\", "+/~\\", id="not special here"),
    ],
)
def test_both_ways(wire: bytes, text: str) -> None:
    assert decode_mutf7(wire) == text
    assert encode_mutf7(text) == wire


@pytest.mark.rfc(3501, "5.1.3")
@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"&Jjo!", id="no shift back (RFC example)"),
        pytest.param(b"&U,BTFw-&ZeVnLIqe-", id="superfluous shift (RFC example)"),
        pytest.param(b"&", id="lone ampersand"),
        pytest.param(b"R&D", id="raw ampersand"),
        pytest.param(b"&AGE-", id="printable ASCII in base64"),
        pytest.param(b"&A-", id="one digit"),
        pytest.param(b"&AOl-", id="stray bits"),
        pytest.param(b"&AOkA-", id="odd octets"),
        pytest.param(b"&2D0-", id="lone surrogate"),
        pytest.param(b"&AOk=-", id="padding"),
        pytest.param(b"&U/BTFw-", id="slash instead of comma"),
        pytest.param("é".encode(), id="8-bit"),
        pytest.param(b"a\x01", id="control"),
    ],
)
def test_malformed(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_mutf7(wire)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip(text: str) -> None:
    wire = encode_mutf7(text)
    assert wire.isascii()
    assert decode_mutf7(wire) == text


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=30), st.text("&-,+AOkB/a", max_size=12).map(str.encode)))
def test_whatever_is_accepted_is_the_only_spelling(wire: bytes) -> None:
    try:
        text = decode_mutf7(wire)
    except RemoteProtocolError:
        return
    assert encode_mutf7(text) == wire
