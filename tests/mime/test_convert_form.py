"""What a message is made of: whole, byte by byte and at random splits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mime_messages import messages, scrambled

from pochta.mime.convert import MAX_LINE, Body, Form, FormScanner, form_of

FORMS = [
    pytest.param(b"", Form(Body.SEVEN_BIT, False, MAX_LINE), id="empty"),
    pytest.param(b"A: b\r\n\r\nhello\r\n", Form(Body.SEVEN_BIT, False, MAX_LINE), id="plain"),
    pytest.param(b"A: b\r\n\r\n\xe9\r\n", Form(Body.EIGHT_BIT, False, MAX_LINE), id="8bit"),
    pytest.param(b"A: \xc3\xa9\r\n\r\nx", Form(Body.SEVEN_BIT, True, MAX_LINE), id="header"),
    pytest.param(b"\r\n\xe9", Form(Body.EIGHT_BIT, False, MAX_LINE), id="no-header"),
    pytest.param(b"A: \xe9", Form(Body.SEVEN_BIT, True, MAX_LINE), id="header-alone"),
    pytest.param(b"A: b\r\n\r\n\0", Form(Body.BINARY, False, MAX_LINE), id="nul"),
    pytest.param(b"A: b\0\r\n\r\n", Form(Body.BINARY, False, MAX_LINE), id="nul-in-header"),
    pytest.param(b"A: b\r\n\r\na\rb", Form(Body.BINARY, False, MAX_LINE), id="bare-cr"),
    pytest.param(b"A: b\r\n\r\na\nb", Form(Body.BINARY, False, MAX_LINE), id="bare-lf"),
    pytest.param(b"A: b\n\n\xe9", Form(Body.BINARY, False, MAX_LINE), id="header-of-bare-lf"),
    pytest.param(b"A: b\r\n\r\na\r", Form(Body.BINARY, False, MAX_LINE), id="cr-at-end"),
    pytest.param(b"A: b\r\n\r\n\n\r", Form(Body.BINARY, False, MAX_LINE), id="lf-cr"),
    pytest.param(b"A: b\r\n\r\n" + b"x" * 998, Form(Body.SEVEN_BIT, False, 998), id="longest"),
    pytest.param(b"A: b\r\n\r\n" + b"x" * 999, Form(Body.BINARY, False, 999), id="too-long"),
    pytest.param(b"A: b\r\n\r\n" + b"x" * 999 + b"\r\n", Form(Body.BINARY, False, 999), id="too-long-line"),
    pytest.param(
        b"A: b\r\n\r\n" + b"".join(b"x" * n + b"\r\n" for n in (999, 2000, 1500)),
        Form(Body.BINARY, False, 2000), id="longest-of-several",
    ),
    pytest.param(b"A: " + b"x" * 997 + b"\r\n\r\nx", Form(Body.SEVEN_BIT, False, 1000), id="header-line-is-no-body"),
    pytest.param(b"A: " + b"x" * 997, Form(Body.SEVEN_BIT, False, 1000), id="header-line-alone"),
]  # fmt: skip


def in_pieces(message: bytes, size: int) -> Form:
    return form_of(message[at : at + size] for at in range(0, len(message), size))


@pytest.mark.rfc(2045, "2.8")
@pytest.mark.parametrize(("message", "form"), FORMS)
def test_form(message: bytes, form: Form) -> None:
    assert form_of(message) == form
    for size in (1, 2, 3, 7):
        assert in_pieces(message, size) == form


def slow_form(message: bytes) -> Form:
    """The same by another way."""
    match = re.search(rb"(?:\A|\n)\r?\n", message)
    at = match.end() if match else len(message)
    header, body = message[:at], message[at:]

    def longest(data: bytes) -> int:
        rows = re.findall(rb"[^\n]*\n|[^\n]+\Z", data)
        return max([MAX_LINE, *(len(re.sub(rb"\r?\n\Z", b"", row)) for row in rows)])

    in_header, in_body = longest(header), longest(body)
    if b"\0" in message or re.search(rb"\r(?!\n)|(?<!\r)\n", message) or in_body > MAX_LINE:
        kind = Body.BINARY
    else:
        kind = Body.SEVEN_BIT if body.isascii() else Body.EIGHT_BIT
    return Form(kind, not header.isascii(), max(in_header, in_body))


ANY = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"x", b"\xe9", b"x" * 997, b"x" * 1500, b"\0", b"A: b\r\n", b"\r\n\r\n"]),
    max_size=12,
).map(b"".join)


@given(st.one_of(ANY, messages, scrambled), st.lists(st.integers(0, 4000), max_size=8))
def test_form_at_any_split(message: bytes, cuts: list[int]) -> None:
    wanted = slow_form(message)
    assert form_of(message) == wanted
    scanner = FormScanner()
    at = 0
    for cut in [*sorted(min(cut, len(message)) for cut in cuts), len(message)]:
        scanner.feed(message[at:cut])
        at = cut
    assert scanner.finish() == wanted
