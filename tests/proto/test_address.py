"""Addresses: the grammar of RFC 5321 §4.1.2 and RFC 6531 §3.3, comparing, writing."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pochta.proto.address import (
    POSTMASTER,
    Address,
    AddressError,
    AddressFault,
    address_key,
    fold_local_part,
    parse_mailbox,
    parse_path,
    split_detail,
    to_a_labels,
)


@pytest.mark.rfc(5321, "4.1.2")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<a@b>", Address("a", "b")),
        ("<User.Name+x@Example.COM>", Address("User.Name+x", "Example.COM")),
        ("<!#$%&'*+-/=?^_`{|}~@x.y>", Address("!#$%&'*+-/=?^_`{|}~", "x.y")),
        ('<"a b"@x.y>', Address("a b", "x.y")),
        (r'<"a\"b\\c"@x.y>', Address('a"b\\c', "x.y")),
        (r'<"Joe\,Smith"@x.y>', Address("Joe,Smith", "x.y")),
        ('<"plain"@x.y>', Address("plain", "x.y")),
        ('<""@x.y>', Address("", "x.y")),
        ('<"a@b>c"@x.y>', Address("a@b>c", "x.y")),
        ("<@hosta.int,@jkl.org:userc@d.bar.org>", Address("userc", "d.bar.org")),
        ("<a@[192.0.2.1]>", Address("a", "[192.0.2.1]")),
        ("<a@[IPv6:2001:db8::1]>", Address("a", "[IPv6:2001:db8::1]")),
        ("<a@[IPv6:::ffff:192.0.2.1]>", Address("a", "[IPv6:::ffff:192.0.2.1]")),
        ("<a@[IPv6:1:2:3:4:5:6:7:8]>", Address("a", "[IPv6:1:2:3:4:5:6:7:8]")),
        ("<a@[tag:content]>", Address("a", "[tag:content]")),
        ("<иван@почта.рф>", Address("иван", "почта.рф")),
        ('<"иван б"@xn--80a1acny.xn--p1ai>', Address("иван б", "xn--80a1acny.xn--p1ai")),
        ("<Postmaster@x.y>", Address("Postmaster", "x.y")),
        ("<pOSTMASTER>", POSTMASTER),
        ("<>", None),
        (f"<{'l' * 64}@{'d' * 63}.{'e' * 63}.f>", Address("l" * 64, f"{'d' * 63}.{'e' * 63}.f")),
        (f"<{'bounce-' * 20}@x.y>", Address("bounce-" * 20, "x.y")),
    ],
    ids=str,
)
def test_paths(text: str, want: Address | None) -> None:
    assert parse_path(text) == (want, len(text))
    assert parse_path(f"FROM:{text} SIZE=1", 5) == (want, 5 + len(text))


@pytest.mark.rfc(5321, "4.1.2")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", AddressFault.SYNTAX),
        ("a@b", AddressFault.SYNTAX),
        ("<a@b", AddressFault.SYNTAX),
        ("<a>", AddressFault.SYNTAX),
        ("<@b>", AddressFault.SYNTAX),
        ("<a@>", AddressFault.SYNTAX),
        ("<a@b@c>", AddressFault.SYNTAX),
        ("< a@b>", AddressFault.SYNTAX),
        ("<.a@b>", AddressFault.SYNTAX),
        ("<a.@b>", AddressFault.SYNTAX),
        ("<a..b@c>", AddressFault.SYNTAX),
        ("<a b@c>", AddressFault.SYNTAX),
        ("<a@b.>", AddressFault.SYNTAX),
        ("<a@.b>", AddressFault.SYNTAX),
        ("<a@b..c>", AddressFault.SYNTAX),
        ("<a@-b>", AddressFault.SYNTAX),
        ("<a@b->", AddressFault.SYNTAX),
        ("<a@b_c>", AddressFault.SYNTAX),
        ('<"a"b@c>', AddressFault.SYNTAX),
        ('<"a\tb"@c>', AddressFault.SYNTAX),
        ('<"a\\"@c>', AddressFault.SYNTAX),
        ("<a\x00@c>", AddressFault.SYNTAX),
        ("<a\x85@c>", AddressFault.SYNTAX),
        ("<a@[192.0.2]>", AddressFault.SYNTAX),
        ("<a@[192.0.2.256]>", AddressFault.SYNTAX),
        ("<a@[]>", AddressFault.SYNTAX),
        ("<a@[x:]>", AddressFault.SYNTAX),
        ("<@a,b:c@d>", AddressFault.SYNTAX),
        ("<<a@b>>", AddressFault.SYNTAX),
        ("<a@[IPv6:1:2:3]>", AddressFault.DOMAIN),
        ("<a@[IPv6:1::2::3]>", AddressFault.DOMAIN),
        ("<a@[IPv6:12345::1]>", AddressFault.DOMAIN),
        ("<a@[IPv6:1:2:3:4:5:6:7::8]>", AddressFault.DOMAIN),
        ("<a@[IPv6:g::1]>", AddressFault.DOMAIN),
        (f"<a@{'d' * 64}>", AddressFault.DOMAIN),
        (f"<a@{'я' * 60}>", AddressFault.DOMAIN),
        ("<a@a\u3002b>", AddressFault.DOMAIN),
        ("<a@x\u2100y>", AddressFault.DOMAIN),
        ("<a@\u202ex>", AddressFault.DOMAIN),
        (f"<{'l' * 255}@x.y>", AddressFault.TOO_LONG),
        (f"<{'я' * 126}@x.y>", AddressFault.TOO_LONG),
    ],
)
def test_what_is_no_path(text: str, fault: AddressFault) -> None:
    with pytest.raises(AddressError) as raised:
        parse_path(text)
    assert raised.value.fault is fault


@pytest.mark.rfc(5321, "4.1.2")
@pytest.mark.parametrize(
    ("address", "want"),
    [
        (Address("a.b", "x.y"), "a.b@x.y"),
        (Address("a b", "x.y"), '"a b"@x.y'),
        (Address('a"\\', "x.y"), r'"a\"\\"@x.y'),
        (Address("", "x.y"), '""@x.y'),
        (Address("a.", "x.y"), '"a."@x.y'),
        (Address("иван", "почта.рф"), "иван@почта.рф"),
        (POSTMASTER, "postmaster"),
    ],
)
def test_written_with_the_least_quoting(address: Address, want: str) -> None:
    assert str(address) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("User@Example.COM", ("user", "example.com")),
        ('"User"@example.com', ("user", "example.com")),
        ("Иван@Почта.РФ", ("иван", "xn--80a1acny.xn--p1ai")),
        ("cafe\u0301@x.y", ("café", "x.y")),
        ("STRASSE@x.y", ("strasse", "x.y")),
        ("straße@x.y", ("strasse", "x.y")),
        ("a@faß.example", ("a", "xn--fa-hia.example")),
        ("a@fass.example", ("a", "fass.example")),
        ("a@BÜCHER.example", ("a", "xn--bcher-kva.example")),
        ("a@xn--BCHER-kva.example", ("a", "xn--bcher-kva.example")),
        ("a@[IPv6:2001:DB8::1]", ("a", "[ipv6:2001:db8::1]")),
    ],
)
def test_key(text: str, want: tuple[str, str]) -> None:
    assert address_key(text) == want


@pytest.mark.parametrize("domain", ["", ".", "a..b", "x y", "a" * 64, "a." * 130 + "b", "я" * 300, "a_b"])
def test_what_is_no_domain(domain: str) -> None:
    with pytest.raises(AddressError):
        to_a_labels(domain)


@pytest.mark.parametrize(
    ("local_part", "want"),
    [
        ("user", ("user", None)),
        ("user+list", ("user", "list")),
        ("user+a+b", ("user", "a+b")),
        ("user+", ("user", "")),
        ("+user", ("+user", None)),
        ("", ("", None)),
    ],
)
def test_detail(local_part: str, want: tuple[str, str | None]) -> None:
    assert split_detail(local_part) == want


UTF8 = st.characters(min_codepoint=0xA0, exclude_categories=["Cs"])
QCONTENT = st.one_of(st.characters(min_codepoint=32, max_codepoint=126), UTF8)


@pytest.mark.rfc(5321, "4.1.2")
@settings(max_examples=200)
@given(st.text(QCONTENT, max_size=30), st.sampled_from(["x.y", "b", "[192.0.2.1]", "почта.рф"]))
def test_every_local_part_survives_writing_and_reading(local_part: str, domain: str) -> None:
    address = Address(local_part, domain)
    assert parse_mailbox(str(address)) == address
    assert parse_path(f"<{address}>")[0] == address
    folded = fold_local_part(local_part)
    assert fold_local_part(folded) == folded


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), st.text('<>@.,:;[]"\\ab-١é\u3002 ', max_size=40).map("<{}>".format)))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        address, end = parse_path(text)
    except AddressError:
        return
    assert 0 < end <= len(text)
    assume(address is not None)
    assert address is not None
    local_part, domain = address.key
    assert domain.isascii()
    assert to_a_labels(domain) == domain if domain else address is POSTMASTER
    assert local_part == fold_local_part(local_part)
