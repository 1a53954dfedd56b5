"""CHUNKING and bare newlines, through the server to the mailbox. Source: RFC 3030, RFC 5321 §4.1.1.4."""

import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from imap_raw import Imap, message

from pochta.config import BareNewline, Limits, Smtp
from pochta.testing import Server

ANNA = "anna@example.org"


@contextmanager
def begun(server: Server) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.ehlo()
        assert smtp.has_extn("chunking")
        smtp.mail("a@example.net")
        assert smtp.rcpt(ANNA)[0] == 250
        yield smtp


def bdat(smtp: smtplib.SMTP, data: bytes, *, is_last: bool = False) -> int:
    smtp.send(b"BDAT %d%b\r\n" % (len(data), b" LAST" if is_last else b"") + data)
    return smtp.getreply()[0]


def bodies(server: Server) -> list[bytes]:
    with Imap(server) as imap:
        found = imap.ok("UID FETCH 1:* BODY.PEEK[TEXT]")
        return [line.split(b"\r\n", 1)[1].removesuffix(b")") for line in found if b"FETCH" in line]


@pytest.mark.rfc(3030, "2")
def test_chunking_brings_every_byte(pochta: Server) -> None:
    text = b"Subject: x\r\n\r\n.\r\n..\r\nlast\r\n.\r\n"
    with begun(pochta) as smtp:
        assert bdat(smtp, text[:13]) == 250
        assert bdat(smtp, b"") == 250
        assert bdat(smtp, text[13:]) == 250
        assert bdat(smtp, b"", is_last=True) == 250
        assert smtp.mail("b@example.net")[0] == 250
    assert bodies(pochta) == [b".\r\n..\r\nlast\r\n.\r\n"]


def test_a_failed_chunk_spoils_the_message(pochta: Server) -> None:
    with begun(pochta) as smtp:
        assert bdat(smtp, b"Subject: bare\n\r\n") in (250, 550)
        assert bdat(smtp, b"body\r\n", is_last=True) in (503, 550)
        assert smtp.rset()[0] == 250
    assert bodies(pochta) == []


def test_a_large_chunk(pochta: Server) -> None:
    body = (b"x" * 76 + b"\r\n") * 100_000
    with begun(pochta) as smtp:
        assert bdat(smtp, b"Subject: x\r\n\r\n" + body, is_last=True) == 250
    assert bodies(pochta) == [body]


def test_a_chunk_out_of_bounds() -> None:
    with Server(limits=Limits(min_free_bytes=0, message_size_bytes=65536)) as server:
        server.add_account(ANNA, "secret")
        with begun(server) as smtp:
            assert bdat(smtp, b"x" * 70_000, is_last=True) == 552
            assert smtp.rset()[0] == 250
        assert bodies(server) == []


@pytest.mark.parametrize(
    ("smtp", "is_taken"),
    [
        (Smtp(), False),
        (Smtp(bare_newline=BareNewline.NORMALISE), True),
        (Smtp(bare_newline_exempt=("192.0.2.0/24", "127.0.0.0/8")), True),
        (Smtp(bare_newline_exempt=("192.0.2.7", "2001:db8::/32")), False),
    ],
    ids=["refuse", "normalise", "exempt", "others are exempt"],
)
def test_bare_newlines(smtp: Smtp, is_taken: bool) -> None:
    with Server(smtp=smtp) as server:
        server.add_account(ANNA, "secret")
        with begun(server) as client:
            client.docmd("DATA")
            client.send(b"Subject: x\n\nfirst\n.\nMAIL FROM:<b@example.net>\r\nlast\r\n.\r\n")
            assert client.getreply()[0] == (250 if is_taken else 550)
            assert client.noop()[0] == 250
        wanted = [b"first\r\n\r\nMAIL FROM:<b@example.net>\r\nlast\r\n"] if is_taken else []
        assert bodies(server) == wanted


def test_pipelined_chunks_in_one_write(pochta: Server) -> None:
    part = message(1)
    commands = b"MAIL FROM:<>\r\nRCPT TO:<anna@example.org>\r\nBDAT %d LAST\r\n%b" % (len(part), part)
    with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
        smtp.ehlo()
        sender = threading.Thread(target=smtp.send, args=(commands * 50 + b"QUIT\r\n",))
        sender.start()
        assert [smtp.getreply()[0] for _ in range(151)] == [250] * 150 + [221]
        sender.join()
        smtp.close()
    assert len(bodies(pochta)) == 50
