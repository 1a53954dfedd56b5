"""literal8 in APPEND, BINARY in FETCH, and the small items of FETCH. RFC 3516, RFC 8970, RFC 8474, RFC 8514."""

import base64
import quopri
import re

import pytest
from imap_raw import Imap, files_become

from pochta.testing import Server

DATA = bytes(range(256)) * 3
PRIVET = "\u041f\u0440\u0438\u0432\u0435\u0442".encode()
FORM = (
    b"From: a@example.net\r\nSubject: binary\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=out\r\n\r\n"
    b"--out\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n%b\r\n"
    b"--out\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: %b\r\n\r\n%b\r\n"
    b"--out--\r\n"
)
TEXT = "first \u041f = line".encode()
ENCODED = FORM % (
    b"quoted-printable",
    quopri.encodestring(TEXT),
    b"BASE64",
    base64.encodebytes(DATA).replace(b"\n", b"\r\n"),
)


def append8(imap: Imap, message: bytes, words: bytes = b"") -> bytes:
    return imap.do(b"APPEND INBOX %b~{%d+}\r\n%b" % (words, len(message), message))[-1]


@pytest.mark.rfc(3516, "4.2")
@pytest.mark.parametrize(
    ("item", "answer"),
    [
        ("BINARY.PEEK[1]", b"BINARY[1] {%d}\r\n%b" % (len(TEXT), TEXT)),
        ("BINARY[2]", b"FLAGS (\\Seen \\Recent) BINARY[2] ~{768}\r\n" + DATA),
        ("BINARY.PEEK[2]<1.5>", b"BINARY[2]<1> {5}\r\n" + DATA[1:6]),
        ("BINARY.PEEK[2]<255.3>", b"BINARY[2]<255> ~{3}\r\n\xff\x00\x01"),
        ("BINARY.PEEK[2]<9999.3>", b"BINARY[2]<9999> {0}\r\n"),
        ("BINARY.SIZE[2]", b"BINARY.SIZE[2] 768"),
        ("BINARY.SIZE[]", b"BINARY.SIZE[] %d" % len(ENCODED)),
        ("BINARY.PEEK[]<0.4>", b"BINARY[]<0> {4}\r\nFrom"),
        ("BINARY.PEEK[3]", b"BINARY[3] NIL"),
        ("BINARY.SIZE[3]", b"BINARY.SIZE[3] 0"),
    ],
)
def test_binary_sections_have_no_encoding(pochta: Server, item: str, answer: bytes) -> None:
    with Imap(pochta) as imap:
        imap.append(ENCODED)
        tag = imap.begin(f"FETCH 1 {item}")
        got = imap.file.read(len(b"* 1 FETCH (") + len(answer))
        assert got == b"* 1 FETCH (" + answer
        imap.end(tag)
        assert (b"\\Seen" in imap.fetch("FETCH 1 FLAGS")) == item.startswith("BINARY[")


@pytest.mark.rfc(3516, "4.3")
def test_an_encoding_that_is_not_known(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(ENCODED.replace(b"BASE64", b"x-nobody"))
        assert imap.do("FETCH 1 BINARY.PEEK[2]")[-1].startswith(b"NO [UNKNOWN-CTE] ")
        assert imap.do("FETCH 1 BINARY.SIZE[2]")[-1].startswith(b"NO [UNKNOWN-CTE] ")
        assert imap.do("FETCH 1 BINARY.PEEK[1]<0.5>")[-1].startswith(b"OK ")


@pytest.mark.rfc(3516, "4.4")
@pytest.mark.rfc(3516, "6")
def test_a_part_with_nul_is_kept_in_base64(pochta: Server) -> None:
    text = b"plain text"
    with Imap(pochta) as imap:
        assert append8(imap, FORM % (b"8bit", text, b"binary", DATA)).startswith(b"OK [APPENDUID")
        stored = imap.literal("FETCH 1 BODY.PEEK[]")
        want = b"\r\n".join(base64.b64encode(DATA[at : at + 57]) for at in range(0, len(DATA), 57))
        assert stored == FORM % (b"8bit", text, b"base64", want)
        assert b'"octet-stream" NIL NIL NIL "base64"' in imap.fetch("FETCH 1 BODYSTRUCTURE")
        assert imap.fetch("FETCH 1 BINARY.SIZE[2]") == b"BINARY.SIZE[2] 768"
        assert imap.fetch("FETCH 1 RFC822.SIZE") == b"RFC822.SIZE %d" % len(stored)


@pytest.mark.rfc(3516, "6")
def test_without_nul_nothing_is_changed(pochta: Server) -> None:
    message = FORM % (b"8bit", "caf\u00e9".encode(), b"binary", b"x" * 3000)
    with Imap(pochta) as imap:
        assert append8(imap, message, b"(\\Seen) ").startswith(b"OK")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == message


@pytest.mark.rfc(3516, "4.4")
@pytest.mark.parametrize(
    "message",
    [
        FORM.replace(b"Subject: binary", b"Subject: \0") % (b"7bit", b"x", b"binary", b"\0"),
        FORM.replace(b"multipart/mixed", b"multipart/signed") % (b"7bit", b"x", b"binary", b"\0"),
        FORM % (b"7bit", b"x", b"base64", b"AA\0A"),
        FORM.replace(b"--out--", b"--out--\r\n\0") % (b"7bit", b"x", b"7bit", b"y"),
    ],
    ids=["header", "signed", "encoded already", "epilogue"],
)
def test_a_nul_that_cannot_be_encoded_is_refused(pochta: Server, message: bytes) -> None:
    with Imap(pochta) as imap:
        assert append8(imap, message).startswith(b"NO [UNKNOWN-CTE] ")
        assert append8(imap, message + b"x" * 100_000).startswith(b"NO [UNKNOWN-CTE] ")
        assert imap.do("NOOP") == [b"OK NOOP completed"]
        imap.do("LOGOUT")
    files_become(pochta, 0)


@pytest.mark.rfc(3501, "4.3.1")
def test_a_nul_in_a_plain_literal_stays_refused(pochta: Server) -> None:
    with Imap(pochta) as imap:
        assert imap.do(b"APPEND INBOX {12+}\r\nA: b\r\n\r\n\0\0\0\0")[-1].startswith(b"NO [CANNOT] ")
        answer = imap.do(b"APPEND INBOX CATENATE (TEXT {8+}\r\nA: b\r\n\r\n TEXT {2+}\r\n\0\0)")[-1]
        assert answer.startswith(b"NO [CANNOT] ")
        assert imap.do(b"APPEND INBOX CATENATE (TEXT ~{10+}\r\nA: b\r\n\r\n\0\0)")[-1].startswith(b"OK ")
        stored = imap.literal("FETCH 1 BODY.PEEK[]")
        assert stored == b"A: b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nAAA=\r\n"


def test_a_large_message_with_nul(pochta: Server) -> None:
    content = bytes(range(256)) * 4096 + b"\0"  # 1 MiB: in a file, and more than is held decoded
    with Imap(pochta) as imap:
        assert append8(imap, FORM % (b"7bit", b"x", b"binary", content)).startswith(b"OK")
        assert imap.fetch("FETCH 1 BINARY.SIZE[2]") == b"BINARY.SIZE[2] %d" % len(content)
        tag = imap.begin("FETCH 1 BINARY.PEEK[2]")
        head = b"* 1 FETCH (BINARY[2] ~{%d}\r\n" % len(content)
        assert imap.file.read(len(head)) == head
        assert imap.file.read(len(content)) == content
        imap.end(tag)
        tag = imap.begin("FETCH 1 BINARY.PEEK[2]<1000000.700>")
        head = b"* 1 FETCH (BINARY[2]<1000000> ~{700}\r\n"
        assert imap.file.read(len(head) + 700) == head + content[1_000_000:1_000_700]
        imap.end(tag)
    files_become(pochta, 1)


@pytest.mark.rfc(8970, "3.3")
def test_preview_is_the_first_words(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(b"Subject: a\r\n\r\nHello  there,\r\nyou\r\n")
        imap.append(b"Subject: b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n%b\r\n" % PRIVET)
        imap.append(b"Subject: c\r\nContent-Type: image/png\r\n\r\nxx\r\n")
        assert imap.fetch("FETCH 1 PREVIEW") == b'PREVIEW "Hello there, you"'
        assert imap.fetch("FETCH 1 (UID PREVIEW (LAZY))") == b'UID 1 PREVIEW "Hello there, you"'
        assert imap.fetch("FETCH 2 PREVIEW") == b"PREVIEW {12}\r\n" + PRIVET
        assert imap.fetch("FETCH 3 PREVIEW") == b'PREVIEW ""'
        assert b"\\Seen" not in imap.fetch("FETCH 1 FLAGS")


@pytest.mark.rfc(8474, "5.1")
def test_objectid_goes_along_with_a_copy(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(b"Message-ID: <1@x>\r\nSubject: a\r\n\r\nx\r\n")
        imap.append(b"Message-ID: <2@x>\r\nReferences: <1@x>\r\nSubject: Re: a\r\n\r\ny\r\n")
        imap.ok("COPY 1 Archive")
        first, second = (imap.fetch(f"FETCH {n} (EMAILID THREADID)").split() for n in (1, 2))
        assert first[1] != second[1]
        assert first[3] == second[3]
        assert first[1][1:2] == b"M"
        assert first[3][1:2] == b"T"
        imap.ok("SELECT Archive")
        assert imap.fetch("FETCH 1 (EMAILID THREADID)").split() == first


@pytest.mark.rfc(8514, "3")
def test_savedate_is_when_the_message_came_here(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(b"Subject: a\r\n\r\nx\r\n", 'INBOX "01-Jan-2001 01:02:03 +0000"')
        assert b"2001" in imap.fetch("FETCH 1 INTERNALDATE")
        saved = imap.fetch("FETCH 1 SAVEDATE")
        assert re.fullmatch(rb'SAVEDATE "[ \d]\d-[A-Z][a-z][a-z]-20[2-9]\d \d\d:\d\d:\d\d \+0000"', saved)
