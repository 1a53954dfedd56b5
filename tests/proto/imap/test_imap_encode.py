"""Responses as the peer sees them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.proto.imap import encode
from pochta.proto.imap.commands import StatusItem
from pochta.proto.imap.lex import Lexer


@pytest.mark.rfc(3501, "4.3")
@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (b"", b'""'),
        (b"plain", b'"plain"'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"two\r\nlines", b"{10}\r\ntwo\r\nlines"),
        (b"caf\xc3\xa9", b"{5}\r\ncaf\xc3\xa9"),
        (b"x" * 1025, b"{1025}\r\n" + b"x" * 1025),
    ],
)
def test_string(value: bytes, wire: bytes) -> None:
    assert encode.string(value) == wire


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (b"a]b", b"a]b"),
        (b"", b'""'),
        (b"nil", b'"nil"'),
        (b"a b", b'"a b"'),
        (b"50%", b'"50%"'),
        (b"\x00", b"{1}\r\n\x00"),
    ],
)
def test_astring(value: bytes, wire: bytes) -> None:
    assert encode.astring(value) == wire


def test_nstring() -> None:
    assert encode.nstring(None) == b"NIL"
    assert encode.nstring(b"NIL") == b'"NIL"'


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40).filter(lambda value: b"\x00" not in value))
def test_what_is_encoded_is_read_back(value: bytes) -> None:
    for wire in (encode.string(value), encode.astring(value)):
        lexer = Lexer(wire, 0, len(wire))
        assert lexer.astring() == value
        assert lexer.at_end()


@pytest.mark.rfc(3501, "5.1.3")
@pytest.mark.parametrize(
    ("name", "wire", "utf8"),
    [
        ("INBOX", b"INBOX", b"INBOX"),
        ("Sent Mail", b'"Sent Mail"', b'"Sent Mail"'),
        ("Почта", b"&BB8EPgRHBEIEMA-", '"Почта"'.encode()),
        ("R&D", b"R&-D", b"R&D"),
        ("NIL", b'"NIL"', b'"NIL"'),
        ('a"é', b'"a\\"&AOk-"', '"a\\"é"'.encode()),
    ],
)
def test_mailbox_name(name: str, wire: bytes, utf8: bytes) -> None:
    assert encode.mailbox_name(name) == wire
    assert encode.mailbox_name(name, utf8_accept=True) == utf8


def test_status_lines() -> None:
    assert encode.tagged(b"a1", b"OK", "done") == b"a1 OK done\r\n"
    assert encode.tagged(b"a1", b"NO", "no", code=b"TRYCREATE") == b"a1 NO [TRYCREATE] no\r\n"
    assert encode.untagged(b"BYE", "bye") == b"* BYE bye\r\n"
    assert encode.tagged(b"a1", b"BAD", "a\r\na2 OK é") == b"a1 BAD a?a2 OK ?\r\n"
    assert encode.tagged(b"a1", b"BAD", "[x]") == b"a1 BAD .[x]\r\n"
    assert encode.tagged(b"a1", b"BAD", "") == b"a1 BAD .\r\n"


def test_continuations() -> None:
    assert encode.continuation() == b"+ OK\r\n"
    assert encode.challenge(b"Username:") == b"+ VXNlcm5hbWU6\r\n"
    assert encode.challenge(b"") == b"+ \r\n"


@pytest.mark.rfc(3501, "7.2.2")
def test_list_response() -> None:
    assert encode.list_response("a/b", ["\\HasNoChildren"]) == b'* LIST (\\HasNoChildren) "/" a/b\r\n'
    assert encode.list_response("", ["\\Noselect"]) == b'* LIST (\\Noselect) "/" ""\r\n'
    assert encode.list_response("x", [], delimiter=None, kind=b"LSUB") == b"* LSUB () NIL x\r\n"
    assert encode.list_response("x", [], delimiter=b"\\") == b'* LIST () "\\\\" x\r\n'


@pytest.mark.rfc(3501, "7.2.4")
def test_status_response() -> None:
    values = {StatusItem.MESSAGES: 231, StatusItem.UIDNEXT: 44292}
    assert encode.status_response("blurdy bloop", values) == b'* STATUS "blurdy bloop" (MESSAGES 231 UIDNEXT 44292)\r\n'


def test_flag_list() -> None:
    assert encode.flag_list(["\\Seen", "$Forwarded"]) == b"(\\Seen $Forwarded)"
