"""ENVELOPE, BODY and BODYSTRUCTURE: the octets a client sees."""

import re

import pytest
from hypothesis import given, settings
from mime_messages import MIXED, PLAIN, messages

from pochta.mime import parse as parse_module
from pochta.mime.describe import body, body_structure, envelope, nstring, string
from pochta.mime.facts import facts
from pochta.mime.parse import parse

_TOKEN = re.compile(rb'(?:\{(\d+)\}\r\n|"((?:[^"\\\r\n\x00\x80-\xff]|\\["\\])*)"|(NIL)|(\d+)|([()]))( ?)', re.DOTALL)


def read(text: bytes) -> list[object]:
    """A strict reader of parenthesised lists; fails the test on anything that RFC 3501 §9 does not allow."""
    stack: list[list[object]] = [[]]
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match, text[at:]
        at = match.end()
        if match[1] is not None:
            at = match.end() - len(match[6])
            literal = text[at : at + int(match[1])]
            assert b"\x00" not in literal
            stack[-1].append(literal)
            at += int(match[1])
            at += text.startswith(b" ", at)
        elif match[2] is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", match[2]))
        elif match[3]:
            stack[-1].append(None)
        elif match[4]:
            stack[-1].append(int(match[4]))
        elif match[5] == b"(":
            assert not match[6]
            stack.append([])
        else:
            done = stack.pop()
            stack[-1].append(done)
    assert len(stack) == 1
    return stack[0]


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param(b"", b'""', id="empty"),
        pytest.param(b'a "b" \\', b'"a \\"b\\" \\\\"', id="escapes"),
        pytest.param(b"tab\there", b'"tab\there"', id="tab"),
        pytest.param(b"\xc3\xa9", b"{2}\r\n\xc3\xa9", id="8-bit"),
        pytest.param(b"a\rb\nc", b"{5}\r\na\rb\nc", id="line-ends"),
        pytest.param(b"a\x00b", b"{3}\r\na\x80b", id="nul"),
    ],
)
def test_string(value: bytes, want: bytes) -> None:
    assert string(value) == want
    assert nstring(None) == b"NIL"


ALICE = b'(("Alice" NIL "alice" "example.com"))'
ENVELOPES = [
    pytest.param(
        PLAIN,
        b'("Mon, 23 Nov 2026 11:25:43 +0100" "Hi" %b %b %b ((NIL NIL "bob" "example.org")) NIL NIL NIL'
        b' "<1@example.com>")' % (ALICE, ALICE, ALICE),
        id="plain",
    ),
    pytest.param(b"\r\n", b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)", id="nothing"),
    pytest.param(
        b"From: a@b\r\nSender:\r\nReply-To: c@d\r\nSubject:\r\nTo: G: x@y;\r\nTo: z@w\r\nIn-Reply-To: <i@j>\r\n\r\n",
        b'(NIL "" ((NIL NIL "a" "b")) ((NIL NIL "a" "b")) ((NIL NIL "c" "d"))'
        b' ((NIL NIL "G" NIL)(NIL NIL "x" "y")(NIL NIL NIL NIL)(NIL NIL "z" "w")) NIL NIL "<i@j>" NIL)',
        id="defaults-group-and-second-to",
    ),
    pytest.param(
        'From: "J\\"é" <@r:a@b>\r\nSubject: é\r\n x\r\n\r\n'.encode(),
        b'(NIL {4}\r\n\xc3\xa9 x (({4}\r\nJ"\xc3\xa9 "@r" "a" "b")) (({4}\r\nJ"\xc3\xa9 "@r" "a" "b"))'
        b' (({4}\r\nJ"\xc3\xa9 "@r" "a" "b")) NIL NIL NIL NIL NIL)',
        id="literals-and-route",
    ),
]


@pytest.mark.rfc(9051, "7.5.2")
@pytest.mark.parametrize(("message", "want"), ENVELOPES)
def test_envelope(message: bytes, want: bytes) -> None:
    assert envelope(parse(message)) == want


TEXT = b'"text" "plain" ("charset" "us-ascii") NIL NIL "7bit"'
STRUCTURES = [
    pytest.param(PLAIN, b"(%b 12 2 NIL NIL NIL NIL)" % TEXT, id="plain"),
    pytest.param(b"", b"(%b 0 0 NIL NIL NIL NIL)" % TEXT, id="empty"),
    pytest.param(
        MIXED,
        b"((%b 13 1 NIL NIL NIL NIL)"
        b'(("text" "html" NIL NIL NIL "7bit" 10 0 NIL NIL NIL NIL) "alternative" ("boundary" "yy") NIL NIL NIL)'
        b'("message" "rfc822" NIL NIL NIL "7bit" 167'
        b' (NIL "inner" ((NIL NIL "i" "j.k")) ((NIL NIL "i" "j.k")) ((NIL NIL "i" "j.k")) NIL NIL NIL NIL NIL)'
        b' ((%b 2 0 NIL NIL NIL NIL)("image" "gif" NIL NIL NIL "base64" 4 NIL NIL NIL NIL) "mixed"'
        b' ("boundary" "zz") NIL NIL NIL) 12 NIL NIL NIL NIL) "mixed" ("boundary" "xx") NIL NIL NIL)' % (TEXT, TEXT),
        id="nested",
    ),
    pytest.param(
        b"Content-Type: image/png; name*0=a; name*1=b\r\nContent-ID: <i>\r\nContent-Description: d\r\n"
        b"Content-MD5: m\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''%C3%A9\r\nContent-Language: de,en\r\n"
        b"Content-Location: x\r\nContent-Transfer-Encoding: BASE64\r\n\r\nabcd",
        b'("image" "png" ("name" "ab") "<i>" "d" "base64" 4 "m" ("attachment" ("filename*" "utf-8\'\'%C3%A9"))'
        b' ("de" "en") "x")',
        id="all-fields",
    ),
]


@pytest.mark.rfc(9051, "7.5.2")
@pytest.mark.parametrize(("message", "want"), STRUCTURES)
def test_body_structure(message: bytes, want: bytes) -> None:
    assert body_structure(parse(message)) == want


OPAQUE = b'("application" "octet-stream" NIL %b NIL "7bit" %d NIL %b NIL NIL)'
FORWARDED = b"Content-Type: message/rfc822\r\nContent-ID: <f>\r\n\r\n"
OPAQUES = [
    pytest.param("MAX_DEPTH", 3, b"%b--b\r\n%b%bText", OPAQUE % (b'"<f>"', 4, b"NIL"), id="depth"),
    pytest.param(
        "MAX_PARTS", 3, b"%b--b\r\n%b%bText", OPAQUE % (b'"<f>"', 53, b"NIL"), id="message-beyond-the-last-part"
    ),
    pytest.param("MAX_PARTS", 2, b"%b--b\r\n%b%bText", OPAQUE % (b"NIL", 102, b"NIL"), id="rest-behind-the-last-part"),
]


@pytest.mark.parametrize(("limit", "value", "form", "want"), OPAQUES)
def test_structure_of_what_is_beyond_a_limit(
    limit: str, value: int, form: bytes, want: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parse_module, limit, value)
    mixed = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    message = form % (mixed, FORWARDED, FORWARDED)
    got = facts(message)
    assert got.has_opaque_part
    assert want in got.body_structure
    (structure,) = read(got.body_structure)
    check_body(structure)
    assert not facts(PLAIN).has_opaque_part


def test_structure_of_a_message_whose_header_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_module, "MAX_HEADER", 40)
    got = facts(b"Content-Type: text/html; charset=utf-8\r\nSubject: x\r\n\r\n<p>")
    assert got.has_opaque_part
    assert got.body_structure == OPAQUE % (b"NIL", 17, b"NIL")
    assert (got.header_size, got.preview) == (40, "")


NULS = (
    b"Subject: a\x00\r\nFrom: \x00 <\x00@\x00>\r\nMessage-ID: <\x00>\r\nContent-Type: a/b; x\x00=\x00\r\n"
    b"Content-Transfer-Encoding: \x00\r\nContent-Disposition: \x00; \x00=y\r\nContent-MD5: \x00\r\n"
    b"Content-Description: \x00\r\nContent-Location: \x00\r\nContent-ID: \x00\r\nContent-Language: \x00\r\n\r\n\x00"
)


@pytest.mark.rfc(3501, "9")
def test_nul_is_0x80_wherever_a_header_is_described() -> None:
    root = parse(NULS)
    for octets in (envelope(root), body(root), body_structure(root)):
        assert b"\x00" not in octets
        assert b"\x80" in octets
        assert len(read(octets)) == 1
    assert envelope(root).startswith(b"(NIL {2}\r\na\x80 (({1}\r\n\x80 NIL {1}\r\n\x80 {1}\r\n\x80)) ")


@pytest.mark.rfc(9051, "7.5.2")
def test_body_has_no_extension_data() -> None:
    assert body(parse(PLAIN)) == b"(%b 12 2)" % TEXT
    root = parse(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--")
    assert body(root) == b'((%b 1 0) "mixed")' % TEXT


def check_body(item: object) -> None:
    """The shape of a BODYSTRUCTURE: `body-type-mpart`, `-msg`, `-text` or `-basic` of RFC 9051 §9."""
    assert isinstance(item, list)
    if isinstance(item[0], list):
        parts = [part for part in item if isinstance(part, list) and part and isinstance(part[0], list | bytes)]
        count = next(at for at, part in enumerate(item) if not isinstance(part, list))
        assert len(item) == count + 5
        for part in parts[:count]:
            check_body(part)
        return
    kind, subtype, params, ident, description, encoding, size = item[:7]
    assert isinstance(kind, bytes)
    assert isinstance(subtype, bytes)
    assert params is None or (isinstance(params, list) and len(params) % 2 == 0)
    assert all(isinstance(value, bytes | None) for value in (ident, description))
    assert isinstance(encoding, bytes)
    assert isinstance(size, int)
    rest = item[7:]
    if kind == b"text":
        assert isinstance(rest.pop(0), int)
    elif kind == b"message" and subtype == b"rfc822":
        check_envelope(rest.pop(0))
        check_body(rest.pop(0))
        assert isinstance(rest.pop(0), int)
    assert len(rest) == 4


def check_envelope(item: object) -> None:
    assert isinstance(item, list)
    assert len(item) == 10
    for addresses in item[2:8]:
        assert addresses is None or all(len(address) == 4 for address in addresses)  # type: ignore[attr-defined]


@given(messages)
@settings(max_examples=400, deadline=None)
def test_any_message_gives_lawful_answers(message: bytes) -> None:
    root = parse(message)
    (structure,) = read(body_structure(root))
    check_body(structure)
    (env,) = read(envelope(root))
    check_envelope(env)
    assert len(read(body(root))) == 1
