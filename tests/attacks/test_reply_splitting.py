"""Reply splitting: no name, literal or header lets a peer write lines into what the server says to somebody."""

import re

import pytest
from attack_peer import Peer, imap

from pochta.testing import Server

FORGED = b"* 999 EXISTS"

_LITERAL = re.compile(rb"\{(\d+)\}\r\n")

NAMES = [
    b"x\r\n" + FORGED,
    b"x\n" + FORGED,
    b"x\r" + FORGED,
    b"x\0" + FORGED,
    b'x" ' + FORGED,
    b"x\\",
    b"x&AA0ACg-" + FORGED,  # CRLF in modified UTF-7
    b"x&IIggqQ-",  # line and paragraph separators
    b"x&AIU-y",  # next line
    b"x{3}",
    b"x%y*z",
    b"caf\xc3\xa9",
]


def lines_are_lawful(data: bytes) -> None:
    """Every line begins as a response does; literals are taken out first."""
    at, plain = 0, b""
    while match := _LITERAL.search(data, at):
        plain += data[at : match.start()]
        at = match.end() + int(match[1])
    plain += data[at:]
    for line in plain.split(b"\r\n")[:-1]:
        assert re.match(rb"(?:\* |\+ |[a-z]\d* (?:OK|NO|BAD) )", line), line
        assert not line.startswith(FORGED), line
        assert b"\n" not in line
        assert b"\r" not in line


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_mailbox_names(pochta: Server, name: bytes) -> None:
    with imap(pochta) as peer:
        literal = b"{%d+}\r\n%b" % (len(name), name)
        for command in (b"CREATE ", b"SUBSCRIBE ", b"SELECT ", b"DELETE ", b"RENAME INBOX "):
            peer.send(b"c " + command + literal + b"\r\n")
            lines_are_lawful(peer.until(rb"c (?:OK|NO|BAD) .*"))
        peer.send(b'd LIST "" *\r\nd1 LSUB "" *\r\nd2 STATUS ' + literal + b" (MESSAGES)\r\n")
        lines_are_lawful(peer.until(rb"d2 (?:OK|NO|BAD) .*"))


@pytest.mark.parametrize(
    "tag", [b"a\r* 999 EXISTS", b"a\0", b"a\x7f", b'a"', b"a{1}", b"a*", b"+", b"\xff", b"a" * 5000]
)
def test_tags(pochta: Server, tag: bytes) -> None:
    with imap(pochta) as peer:
        peer.send(tag + b" NOOP\r\nz NOOP\r\n")
        answer = peer.until(rb"(?:z OK|\* BYE) .*")
        assert FORGED not in answer.split(b"\r\n")
        assert answer.count(b"\r\n") <= 2


HEADERS = [
    b"Subject: x\r\n\r\n" + FORGED,
    b'Subject: "\r\n ' + FORGED + b"\r\n",
    b"From: a\r\n\t" + FORGED + b" <a@b>\r\n",
    b'Content-Type: text/plain; name="a\r\n\t) ' + FORGED + b'"\r\n',
    b"Content-Type: text/plain; name=a{3}\r\n",
    b'Message-ID: <x\\\r\n y">\r\n',
    b"Date: \x00\x01\x02 {10}\r\n",
    b"To: =?utf-8?q?=0D=0A* 999 EXISTS?= <a@b>\r\n",
]


@pytest.mark.parametrize("header", HEADERS, ids=repr)
def test_header_fields(pochta: Server, header: bytes) -> None:
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n")
        peer.until(rb"354 .*")
        peer.send(header + b"\r\n\r\nbody\r\n.\r\n")
        assert peer.until(rb"\d{3} .*").startswith(b"250")
    with imap(pochta) as peer:
        peer.send(
            b"s SELECT INBOX\r\nf FETCH 1 (ENVELOPE BODYSTRUCTURE BODY BODY.PEEK[HEADER.FIELDS (Subject To)])\r\n"
        )
        lines_are_lawful(peer.until(rb"f OK .*"))


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<a@b\r250 OK>",
        b'MAIL FROM:<"a\r\n250 OK"@b>',
        b"EHLO x\r250 forged",
        b"EHLO \xe2\x80\xa8250",
        b"RCPT TO:<\x1b[2J@example.org>",
        b"VRFY \x00\x07",
        b"HELO a\tb",
    ],
    ids=repr,
)
def test_smtp_replies(pochta: Server, line: bytes) -> None:
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.until(rb"220 .*")
        peer.send(line + b"\r\nNOOP\r\nQUIT\r\n")
        for one in peer.rest().split(b"\r\n")[:-1]:
            assert re.fullmatch(rb"\d{3}[ -][ -~]*", one), one
            assert not one.startswith(b"250 forged")
