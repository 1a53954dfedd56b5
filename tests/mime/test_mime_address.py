"""Address lists as ENVELOPE needs them."""

import email.utils

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.mime.address import GROUP_END, MAX_ADDRESSES, Address, parse_addresses

AB = (None, None, b"a", b"b")
CD = (None, None, b"c", b"d")
LISTS = [
    pytest.param(b"a@b.c", [(None, None, b"a", b"b.c")], id="bare"),
    pytest.param(b"<a@b.c>", [(None, None, b"a", b"b.c")], id="angle"),
    pytest.param(b"Some Name <a@b>", [(b"Some Name", None, b"a", b"b")], id="name"),
    pytest.param(b"J. R. Doe <a@b>", [(b"J. R. Doe", None, b"a", b"b")], id="dots"),
    pytest.param(b'"Doe, J" <a@b>, c@d', [(b"Doe, J", None, b"a", b"b"), (None, None, b"c", b"d")], id="quoted"),
    pytest.param(b'"say \\"x\\"" <a@b>', [(b'say "x"', None, b"a", b"b")], id="quoted-pair"),
    pytest.param(b"Some\r\n Name <a@b>", [(b"Some Name", None, b"a", b"b")], id="folded"),
    pytest.param(b"a@b (The Name)", [(b"The Name", None, b"a", b"b")], id="comment-is-name"),
    pytest.param(b"a@b (x (y) z\\))", [(b"x (y) z)", None, b"a", b"b")], id="nested-comment"),
    pytest.param(b"N (c) <a(d)@b>", [(b"N", None, b"a", b"b")], id="comments-are-dropped"),
    pytest.param(b'"a b"@c', [(None, None, b"a b", b"c")], id="quoted-local-part"),
    pytest.param(b"a@[192.0.2.1]", [(None, None, b"a", b"[192.0.2.1]")], id="literal"),
    pytest.param(b"a . b @ c . d", [(None, None, b"a.b", b"c.d")], id="obsolete-spaces"),
    pytest.param(b"<@r1,@r2:a@b>", [(None, b"@r1,@r2", b"a", b"b")], id="route"),
    pytest.param(b"G: a@b, c@d;", [(None, None, b"G", None), AB, CD, GROUP_END], id="group"),
    pytest.param(b"nobody named:;", [(None, None, b"nobody named", None), GROUP_END], id="empty-group"),
    pytest.param(b"G: a@b", [(None, None, b"G", None), (None, None, b"a", b"b"), GROUP_END], id="unclosed-group"),
    pytest.param(b", ,a@b,,", [(None, None, b"a", b"b")], id="empty-elements"),
    pytest.param(b"root", [(None, None, b"root", b"")], id="no-domain"),
    pytest.param(b"Name <>", [(b"Name", None, b"", b"")], id="empty-angle"),
    pytest.param(b"Name <a@b", [(b"Name", None, b"a", b"b")], id="unclosed-angle"),
    pytest.param(b"Name <a@b, c@d", [(b"Name", None, b"a", b"b"), CD], id="unclosed-angle-then-comma"),
    pytest.param(b"First Last a@b", [(b"First Last", None, b"a", b"b")], id="brackets-forgotten"),
    pytest.param(b'"never closed', [(None, None, b"never closed", b"")], id="unclosed-quote"),
    pytest.param(b"a@b (never closed", [(b"never closed", None, b"a", b"b")], id="unclosed-comment"),
    pytest.param(b"me@home@work", [(None, None, b"me@home", b"work")], id="two-ats"),
    pytest.param(b"=?utf-8?q?=C3=A9?= <a@b>", [(b"=?utf-8?q?=C3=A9?=", None, b"a", b"b")], id="encoded-word-stays"),
    pytest.param(b"", [], id="empty"),
    pytest.param(b" \r\n ", [], id="white"),
]  # fmt: skip


@pytest.mark.rfc(5322, "3.4")
@pytest.mark.parametrize(("raw", "want"), LISTS)
def test_parse_addresses(raw: bytes, want: list[Address]) -> None:
    assert parse_addresses(raw) == want


@given(st.binary(max_size=60) | st.text('ab@<>,;:()"\\[]. \r\n', max_size=40).map(str.encode))
@settings(max_examples=400, deadline=None)
def test_any_octets_give_addresses(raw: bytes) -> None:
    for address in parse_addresses(raw):
        assert address.host is not None or address.name is None


_names = st.text('abc,."\\() é@<>', max_size=12).map(str.strip)
_specs = st.from_regex(r"[a-z0-9+]{1,5}(\.[a-z]{1,3})?@[a-z]{1,5}\.[a-z]{2,3}", fullmatch=True)


@given(st.lists(st.tuples(_names, _specs), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_standard_library_on_lawful_lists(pairs: list[tuple[str, str]]) -> None:
    # inner runs of white space in a quoted name are kept by both; formataddr encodes names that are not ASCII
    text = ", ".join(email.utils.formataddr(pair) for pair in pairs)
    got = [
        ((a.name or b"").decode(), f"{(a.mailbox or b'').decode()}@{(a.host or b'').decode()}")
        for a in parse_addresses(text.encode())
    ]
    assert got == email.utils.getaddresses([text])


def test_is_bounded_and_linear() -> None:
    assert len(parse_addresses(b"a@b," * (MAX_ADDRESSES + 10))) == MAX_ADDRESSES
    assert len(parse_addresses(b"(" * 200_000)) == 0
    assert len(parse_addresses(b"a " * 100_000)) == 1
    assert len(parse_addresses(b"a@b (x)," * 20_000)) == MAX_ADDRESSES
