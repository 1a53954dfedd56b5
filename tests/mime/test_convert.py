"""Conversion: what must come out for which message, and what must not be touched."""

import email
import email.message
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_corpus import corpus
from mime_messages import lawful, messages, scrambled, well_formed

from pochta.mime.convert import MAX_LINE, Body, CannotConvert, form_of, to_7bit, to_8bit
from pochta.mime.parse import parse

HIGH = "é".encode()
LONG = b"x" * (MAX_LINE + 1)


def lines(*rows: bytes) -> bytes:
    return b"".join(row + b"\r\n" for row in rows)


CONVERSIONS = [
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8", b"", b"caf" + HIGH + b" and more"),
        lines(
            b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8",
            b"Content-Transfer-Encoding: quoted-printable", b"", b"caf=C3=A9 and more",
        ),
        id="text-without-label",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"content-transfer-encoding :", b"\t8BIT", b"Content-Type: text/plain", b"X: y",
              b"", b"caf" + HIGH + b" and more"),
        lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: quoted-printable", b"Content-Type: text/plain",
              b"X: y", b"", b"caf=C3=A9 and more"),
        id="label-replaced-where-it-stands",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: 8bit", b"X: y", b"Content-Transfer-Encoding: binary",
              b"Content-Type: image/x", b"", HIGH),
        lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: base64", b"X: y", b"Content-Type: image/x", b"",
              b"w6kNCg=="),
        id="second-label-removed",
    ),
    pytest.param(
        lines(b"Subject: x", b"", HIGH + b" and some more text"),
        lines(b"Subject: x", b"Content-Transfer-Encoding: quoted-printable", b"MIME-Version: 1.0",
              b"Content-Type: text/plain; charset=utf-8", b"", b"=C3=A9 and some more text"),
        id="message-that-is-no-mime",
    ),
    pytest.param(
        lines(b"Subject: x", b"", b"\xe9 and some more text"),
        lines(b"Subject: x", b"Content-Transfer-Encoding: quoted-printable", b"MIME-Version: 1.0",
              b"Content-Type: text/plain; charset=unknown-8bit", b"", b"=E9 and some more text"),
        id="message-that-is-no-mime-and-no-utf-8",
    ),
    pytest.param(
        b"\r\n" + HIGH + b" and some more text",
        lines(b"Content-Transfer-Encoding: quoted-printable", b"MIME-Version: 1.0",
              b"Content-Type: text/plain; charset=utf-8", b"", b"=C3=A9 and some more text="),
        id="no-header-no-line-end",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=koi8-r", b"", b"\xd0\xd2\xc9\xd7\xc5\xd4"),
        lines(b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=koi8-r", b"Content-Transfer-Encoding: base64",
              b"", b"0NLJ18XUDQo="),
        id="cyrillic",
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: 8bit", b"",
            b"--b", b"Content-Transfer-Encoding: 8bit", b"", b"ascii after all",
            b"--b", b"Content-Type: application/x", b"", HIGH, b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: 7bit", b"",
            b"--b", b"Content-Transfer-Encoding: 7bit", b"", b"ascii after all",
            b"--b", b"Content-Type: application/x", b"Content-Transfer-Encoding: base64", b"", b"w6k=", b"--b--",
        ),
        id="labels-of-a-multipart",
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/rfc822",
            b"Content-Transfer-Encoding: 8bit", b"", b"Subject: inner", b"", b"caf" + HIGH + b" inside", b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/rfc822",
            b"Content-Transfer-Encoding: 7bit", b"", b"Subject: inner", b"Content-Transfer-Encoding: quoted-printable",
            b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8", b"", b"caf=C3=A9 inside", b"--b--",
        ),
        id="message-inside",
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/global",
            b"Content-Transfer-Encoding: 8bit", b"", b"Subject: " + HIGH, b"", b"x", b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/global",
            b"Content-Transfer-Encoding: base64", b"", b"U3ViamVjdDogw6kNCg0KeA==", b"--b--",
        ),
        id="global-message-with-utf-8-header", marks=pytest.mark.rfc(6532, "3.5"),
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/global", b"",
            b"Subject: x", b"MIME-Version: 1.0", b"Content-Type: text/plain", b"", b"caf" + HIGH + b" inside", b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Type: message/global", b"",
            b"Subject: x", b"MIME-Version: 1.0", b"Content-Type: text/plain",
            b"Content-Transfer-Encoding: quoted-printable", b"", b"caf=C3=A9 inside", b"--b--",
        ),
        id="global-message-with-ascii-header", marks=pytest.mark.rfc(6532, "3.7"),
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b",
            b"Content-Type: message/global-delivery-status", b"", b"Reporting-MTA: dns; a.test", b"", HIGH, b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"", b"--b",
            b"Content-Type: message/global-delivery-status", b"Content-Transfer-Encoding: quoted-printable", b"",
            b"Reporting-MTA: dns; a.test", b"", b"=C3=A9", b"--b--",
        ),
        id="global-delivery-status", marks=pytest.mark.rfc(6533, "6"),
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Type: image/x", b"Content-Transfer-Encoding: base64", b"", b"QUJD" * 300),
        lines(b"MIME-Version: 1.0", b"Content-Type: image/x", b"Content-Transfer-Encoding: base64", b"",
              *[b"QUJD" * 19] * 15, b"QUJD" * 15),
        id="base64-in-one-line",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: quoted-printable", b"",
              b"=C3=A9 " + HIGH + b"=Z" * 20),
        lines(b"MIME-Version: 1.0", b"Content-Transfer-Encoding: quoted-printable",
              b"Content-Type: text/plain; charset=utf-8", b"", b"=C3=A9 =C3=A9" + b"=3DZ" * 15 + b"=", b"=3DZ" * 5),
        id="quoted-printable-with-8-bit",
    ),
    pytest.param(
        lines(b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"", b"w" * 75 + b"--b--" + HIGH, b"--b--"),
        lines(b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"Content-Transfer-Encoding: base64",
              b"Content-Type: text/plain; charset=utf-8", b"", b"d3d3" * 19, b"d3d3" * 6 + b"LS1iLS3DqQ==", b"--b--"),
        id="soft-line-break-before-a-delimiter",
    ),
    pytest.param(
        lines(b"Received: " + b"a" * 600 + b" " + b"b" * 600, b"MIME-Version: 1.0",
              b"Content-Type: text/plain; charset=x", b"", HIGH + b"and some more"),
        lines(b"Received: " + b"a" * 600, b" " + b"b" * 600, b"MIME-Version: 1.0",
              b"Content-Type: text/plain; charset=x", b"Content-Transfer-Encoding: quoted-printable", b"",
              b"=C3=A9and some more"),
        id="header-line-folded",
    ),
]  # fmt: skip


@pytest.mark.rfc(6152, "3")
@pytest.mark.parametrize(("message", "wanted"), CONVERSIONS)
def test_to_7bit(message: bytes, wanted: bytes) -> None:
    assert to_7bit(message) == wanted
    assert to_7bit(wanted) == wanted


TO_8BIT = [
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: binary", b"",
            b"--b", b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: binary", b"", HIGH,
            b"--b", b"Content-Type: image/x", b"Content-Transfer-Encoding: binary", b"", b"a\0b", b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: 8bit", b"",
            b"--b", b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit", b"", HIGH,
            b"--b", b"Content-Type: image/x", b"Content-Transfer-Encoding: base64", b"", b"YQBi", b"--b--",
        ),
        id="8-bit-stays",
    ),
    pytest.param(
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: binary", b"",
            b"--b", b"Content-Type: image/x", b"Content-Transfer-Encoding: binary", b"", b"a\r" + HIGH, b"--b--",
        ),
        lines(
            b"Content-Type: multipart/mixed; boundary=b", b"Content-Transfer-Encoding: 7bit", b"",
            b"--b", b"Content-Type: image/x", b"Content-Transfer-Encoding: base64", b"", b"YQ3DqQ==", b"--b--",
        ),
        id="nothing-of-8-bit-is-left",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Type: text/html", b"", LONG),
        lines(b"MIME-Version: 1.0", b"Content-Type: text/html", b"Content-Transfer-Encoding: quoted-printable", b"",
              *[b"x" * 75 + b"="] * 13, b"x" * 24),
        id="long-line",
    ),
    pytest.param(
        lines(b"MIME-Version: 1.0", b"Content-Type: text/html", b"", b"a\nb"),
        lines(b"MIME-Version: 1.0", b"Content-Type: text/html", b"Content-Transfer-Encoding: base64", b"", b"YQpiDQo="),
        id="bare-newline",
    ),
    pytest.param(
        lines(b"Subject: " + HIGH, b"MIME-Version: 1.0", b"Content-Type: a/b", b"", b"a\rb"),
        lines(b"Subject: " + HIGH, b"MIME-Version: 1.0", b"Content-Type: a/b", b"Content-Transfer-Encoding: base64",
              b"", b"YQ1iDQo="),
        id="utf-8-header",
    ),
]  # fmt: skip


@pytest.mark.rfc(3030, "3")
@pytest.mark.parametrize(("message", "wanted"), TO_8BIT)
def test_to_8bit(message: bytes, wanted: bytes) -> None:
    assert to_8bit(message) == wanted
    assert to_8bit(wanted) == wanted


def inside(*part: bytes) -> bytes:
    return lines(b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", *part, b"--b--")


UNTOUCHABLE = [
    pytest.param(
        inside(b"Content-Type: multipart/signed; boundary=s", b"", b"--s", b"", HIGH, b"--s--"),
        "it is signed", id="signed", marks=pytest.mark.rfc(1847, "2.1"),
    ),
    pytest.param(
        inside(b"Content-Type: multipart/encrypted; boundary=s", b"", b"--s", b"", HIGH, b"--s--"),
        "it is encrypted", id="encrypted",
    ),
    pytest.param(
        inside(b"Content-Type: message/partial; id=a", b"", HIGH),
        "message/partial may not be encoded", id="partial", marks=pytest.mark.rfc(2046, "5.2.2"),
    ),
    pytest.param(
        inside(b"Content-Type: message/rfc822", b"Content-Transfer-Encoding: base64", b"", HIGH),
        "a composite part is in a transfer encoding", id="composite-encoded", marks=pytest.mark.rfc(2045, "6.4"),
    ),
    pytest.param(
        inside(b"Content-Type: a/b", b"Content-Transfer-Encoding: x-uuencode", b"", HIGH),
        "a part is in an unknown transfer encoding", id="unknown-encoding",
    ),
    pytest.param(
        inside(b"Content-Type: a/b", b"Content-Transfer-Encoding: base64", b"", HIGH),
        "a part is in damaged base64", id="damaged-base64",
    ),
    pytest.param(
        inside(b"Content-Type: a/b", b"Content-Transfer-Encoding: base64", b"", b"A=" + LONG),
        "a part is in damaged base64", id="base64-behind-padding",
    ),
    pytest.param(
        lines(b"Content-Type: multipart/mixed; boundary=b", b"", HIGH), "a multipart has no parts", id="no-parts",
    ),
    pytest.param(
        lines(b"Content-Type: multipart/mixed; boundary=b", b"", HIGH, b"--b", b"", b"x", b"--b--"),
        "text between its parts does not fit", id="preamble",
    ),
    pytest.param(inside(b"", b"x") + HIGH, "text between its parts does not fit", id="epilogue"),
    pytest.param(
        lines(b"Subject: " + HIGH, b"", b"x"), "a header holds octets beyond ASCII", id="header",
        marks=pytest.mark.rfc(6531, "3.1"),
    ),
    pytest.param(
        inside(b"Content-Type: message/rfc822", b"", b"Subject: " + HIGH, b"", b"x"),
        "a header holds octets beyond ASCII", id="header-inside",
    ),
    pytest.param(lines(b"Subject: a\0", b"", HIGH), "a header holds octets that no header may hold", id="header-nul"),
    pytest.param(lines(b"Subject: a\rb", b"", b"x"), "a header holds octets that no header may hold", id="header-cr"),
    pytest.param(lines(b"Subject: " + LONG, b"", HIGH), "a header line is too long", id="header-line"),
    pytest.param(lines(b"Subject:", b"  " + LONG, b"", HIGH), "a header line is too long", id="header-blank-fold"),
    pytest.param(lines(b"From a", b"", HIGH), "a header is damaged", id="no-field"),
    pytest.param(lines(b" a: b", b"", HIGH), "a header is damaged", id="continuation-first"),
    pytest.param(b"a: b\r\n" * 10_001 + b"\r\n" + HIGH, "a header has too many lines", id="header-lines"),
    pytest.param(
        b"a:" + b"b\r\n " * 400_000 + b"\r\n\r\n" + HIGH,
        "its parts are nested too deep, too many or too large", id="header-too-large",
    ),
    pytest.param(
        b"".join(lines(b"Content-Type: multipart/mixed; boundary=b%d" % n, b"", b"--b%d" % n) for n in range(150))
        + b"\r\n" + HIGH,
        "its parts are nested too deep, too many or too large", id="too-deep",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), UNTOUCHABLE)
def test_what_cannot_be_converted(message: bytes, reason: str) -> None:
    with pytest.raises(CannotConvert) as raised:
        to_7bit(message)
    assert raised.value.reason == reason


def test_signed_part_that_fits_stays_beside_one_that_does_not() -> None:
    signed = lines(b"Content-Type: multipart/signed; boundary=s", b"", b"--s", b"Content-Transfer-Encoding: 8bit", b"",
                   b"ascii", b"--s--")  # fmt: skip
    message = inside(b"", HIGH, b"--b")[: -len(b"--b--\r\n")] + signed + lines(b"--b--")
    assert signed in to_7bit(message)


def test_part_that_was_not_looked_into_stays() -> None:
    deep = b"".join(lines(b"Content-Type: multipart/mixed; boundary=b%d" % n, b"", b"--b%d" % n) for n in range(150))
    message = inside(b"", b"caf" + HIGH + b" and more", b"--b")[: -len(b"--b--\r\n")] + deep
    assert to_7bit(message).endswith(deep)


FITTING = [
    pytest.param(lines(b"Subject: x", b"", b"hello"), id="plain"),
    pytest.param(lines(b"Content-Transfer-Encoding: 8bit", b"", b"hello"), id="label-that-promises-more"),
    pytest.param(b"", id="empty"),
    pytest.param(b"no header, no end", id="no-end"),
    pytest.param(lines(b"Subject: x", b"", b"x" * MAX_LINE), id="longest-line"),
]


@pytest.mark.parametrize("message", FITTING)
def test_what_fits_is_the_same_object(message: bytes) -> None:
    assert to_7bit(message) is message
    assert to_8bit(message) is message


# Any message


def leaves(message: bytes) -> list[tuple[str, bytes]]:
    """(type, octets) of each leaf, by the standard library; text with its line ends made one, and none at its end."""
    found = []
    for part in email.message_from_bytes(message).walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            found.append((part.get_content_type(), payload.removesuffix(b"\r\n")))
    return found


def shape(message: bytes) -> list[str]:
    return [part.get_content_type() for part in email.message_from_bytes(message).walk()]


def check_fits(message: bytes, *, is_7bit: bool) -> None:
    rows = message.split(b"\r\n")
    assert not [row for row in rows if len(row) > MAX_LINE or b"\n" in row or b"\r" in row or b"\0" in row]
    assert message.isascii() or not is_7bit


def check(message: bytes) -> None:
    for convert, is_7bit in ((to_7bit, True), (to_8bit, False)):
        try:
            converted = convert(message)
        except CannotConvert:
            continue
        check_fits(converted, is_7bit=is_7bit)
        assert convert(converted) is converted
        assert shape(converted) == shape(message)
        assert leaves(converted) == leaves(message)
        form = form_of(converted)
        assert form.body is not Body.BINARY
        assert form.body is Body.SEVEN_BIT or not is_7bit


ROWS = st.lists(
    st.sampled_from([b"hello", b"caf" + HIGH, b"\xe9" * 30, LONG, b"x" * 74 + b" ", b"-- ", b"--b", b"=41", b"= ", b".",
                     b"x" * 75 + b"\t", b"\t" * 80, b"w" * 75 + b"--b1", b"From here", b"", b"a\0", b"a\rb", b"a\nb"]),
    max_size=8,
).map(b"\r\n".join)  # fmt: skip
LABELS = st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Transfer-Encoding: binary\r\n"])
TYPES = st.sampled_from([b"", b"Content-Type: text/html; charset=utf-8\r\n", b"Content-Type: application/x; a=b\r\n"])


@st.composite
def convertible(draw: st.DrawFn, depth: int = 3) -> bytes:
    """A message or part of any octets, in a structure that any parser reads in one way."""
    kind = draw(st.sampled_from(["leaf", "multipart", "message"])) if depth else "leaf"
    if kind == "leaf":
        return draw(TYPES) + draw(LABELS) + b"\r\n" + draw(ROWS)
    if kind == "message":
        return draw(LABELS) + b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n" + draw(convertible(depth - 1))
    boundary = b"=_%d_%d" % (depth, draw(st.integers(0, 10**9)))
    parts = draw(st.lists(convertible(depth - 1), min_size=1, max_size=3))
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary
    header = b'Content-Type: multipart/mixed;\r\n boundary="%b"\r\n' % boundary
    return header + draw(LABELS) + b"\r\n" + body


@given(convertible())
def test_every_leaf_decodes_to_the_same_octets(message: bytes) -> None:
    check(message)
    fitted = to_7bit(message)
    encoded = [part for part in parse(fitted).walk() if part.encoding in (b"quoted-printable", b"base64")]
    for part in encoded:
        assert max(map(len, fitted[part.header_end : part.body_end].split(b"\r\n"))) <= 76


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lines(*[b"caf" + HIGH + b" and more text"] * 9000), id="text"),
        pytest.param(HIGH + b"one line of text " * 9000, id="one-line"),
        pytest.param(HIGH + b"one line of text " * 9000 + b"\r\nand more", id="one-line-and-more"),
        pytest.param(bytes(range(256)) * 900, id="octets"),
    ],
)
@pytest.mark.parametrize("kind", [b"text/plain", b"application/x"])
def test_large_bodies_are_encoded_in_pieces(body: bytes, kind: bytes) -> None:
    whole = lines(b"MIME-Version: 1.0", b"Content-Type: " + kind, b"Content-Transfer-Encoding: binary", b"") + body
    inner = inside(b"Content-Type: " + kind, b"", body, b"--b", b"", b"short")
    for message in (whole, inner):
        check(message)
        fitted = to_7bit(message)
        assert max(map(len, fitted.split(b"\r\n"))) <= 76


def test_base64_of_many_octets_in_one_line() -> None:
    message = lines(b"Content-Type: a/b", b"Content-Transfer-Encoding: base64", b"", b"QUJD" * 60_000 + b"QQ==")
    fitted = to_7bit(message)
    check_fits(fitted, is_7bit=True)
    assert leaves(fitted) == leaves(message)


def test_label_of_a_sealed_part_comes_down_too() -> None:
    signed = lines(b"Content-Type: multipart/signed; boundary=s", b"Content-Transfer-Encoding: binary", b"", b"--s",
                   b"", b"ascii", b"--s--")  # fmt: skip
    message = inside(b"", HIGH, b"--b")[: -len(b"--b--\r\n")] + signed + lines(b"--b--")
    assert signed.replace(b"binary", b"7bit") in to_7bit(message)


@given(st.one_of(well_formed(), lawful()))
def test_mail_of_all_kinds(message: bytes) -> None:
    check(re.sub(rb"\r?\n|\r", b"\r\n", message))


@settings(max_examples=200)
@given(st.one_of(scrambled, messages), st.booleans())
def test_hostile_messages_convert_or_say_why_not(message: bytes, with_crlf: bool) -> None:
    if with_crlf:
        message = re.sub(rb"\r?\n|\r", b"\r\n", message)
    for convert, is_7bit in ((to_7bit, True), (to_8bit, False)):
        try:
            converted = convert(message)
        except CannotConvert:
            continue
        check_fits(converted, is_7bit=is_7bit)
        assert convert(converted) is converted


def test_corpus() -> None:
    converted = 0
    for name, message in corpus().items():
        with_crlf = re.sub(rb"\r?\n|\r", b"\r\n", message)
        try:
            result = to_7bit(with_crlf)
        except CannotConvert:
            continue
        converted += result is not with_crlf
        assert leaves(result) == leaves(with_crlf), name
        assert shape(result) == shape(with_crlf), name
        check_fits(result, is_7bit=True)
    assert converted or not corpus()
