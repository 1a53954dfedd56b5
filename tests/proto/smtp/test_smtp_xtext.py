"""xtext and unitext: there and back, and what is neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.smtp.xtext import decode_unitext, decode_xtext, encode_unitext, encode_xtext

rfc = pytest.mark.rfc


@rfc(3461, "4")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param("", b"", id="empty"),
        pytest.param("Anna@example.org", b"Anna@example.org", id="plain"),
        pytest.param("a+2Bb+3Dc+20d", b"a+b=c d", id="specials"),
        pytest.param("+41+0A+FF+00", b"A\n\xff\0", id="any octet"),
        pytest.param("!~*,<>", b"!~*,<>", id="the edges of xchar"),
    ],
)
def test_xtext_is_decoded(text: str, want: bytes) -> None:
    assert decode_xtext(text) == want


@rfc(3461, "4")
@pytest.mark.parametrize("text", ["+", "+4", "+4g", "+2b", "a=b", "a b", "\x7f", "\t", "ü", "a+", "++41"])
def test_what_is_no_xtext(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_xtext(text)


@rfc(3461, "4")
@given(st.text(max_size=40))
def test_xtext_there_and_back(text: str) -> None:
    try:
        octets = text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == octets
    assert encoded.isascii()
    assert not set(encoded) & set(" =\t\r\n")


@rfc(6533, "3")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param(r"\x{FC}@x.example", "ü@x.example", id="two digits"),
        pytest.param(r"\x{3b1}\x{4E2D}\x{1F4E7}\x{10FFFF}", "α中📧\U0010ffff", id="three to six digits"),
        pytest.param(r"a\x{2B}b\x{3D}\x{20}\x{5C}\x{7F}\x{01}", "a+b= \\\x7f\x01", id="ASCII that cannot stand there"),
        pytest.param("ü中@x", "ü中@x", id="UTF-8 as it is"),
        pytest.param("a@b", "a@b", id="plain"),
    ],
)
def test_unitext_is_decoded(text: str, want: str) -> None:
    assert decode_unitext(text) == want


@rfc(6533, "3")
@pytest.mark.parametrize(
    "text",
    [
        "", "a+b", "a=b", "a b", "a\\b", r"\x{}", r"\x{F}", r"\x{41}", r"\x{00}", r"\x{0FC}", r"\x{D800}",
        r"\x{DFFF}", r"\x{110000}", r"\x{00000FC}", r"\u{FC}", r"\x{FC", "\x80\ud800", "\n",
    ],
)  # fmt: skip
def test_what_is_no_unitext(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_unitext(text)


@rfc(6533, "3")
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40), st.booleans()
)
def test_unitext_there_and_back(address: str, keeps_utf8: bool) -> None:
    encoded = encode_unitext(address, keeps_utf8=keeps_utf8)
    assert decode_unitext(encoded) == address
    assert keeps_utf8 or encoded.isascii()
    assert not set(encoded) & set(" +=\t\r\n\x7f")
