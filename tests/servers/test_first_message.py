"""The thin line: what goes in by SMTP comes out by IMAP, byte for byte behind the trace header."""

import imaplib
import smtplib
import subprocess

import pytest

from pochta.testing import Server

MESSAGE = (
    b"From: Boris <boris@elsewhere.example>\r\nTo: anna@example.org\r\nSubject: =?utf-8?b?0J/RgNC40LLQtdGC?=\r\n"
    b"Message-ID: <1@elsewhere.example>\r\n\r\n..dots\r\n.\r\n\xd0\x9f\xd1\x80\r\nlast line without end"
)


def fetch_all(server: Server, user: str = "anna@example.org", mailbox: str = "INBOX") -> list[bytes]:
    with imaplib.IMAP4(server.host, server.imap_port) as imap:
        imap.login(user, "secret")
        imap.select(mailbox)
        answers = imap.fetch("1:*", "(BODY.PEEK[])")[1]
        return [answer[1] for answer in answers if isinstance(answer, tuple)]


def send(server: Server, *recipients: str) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.sendmail("boris@elsewhere.example", list(recipients), MESSAGE)


@pytest.mark.rfc(5321, "4.4")
def test_smtplib_to_imaplib(pochta: Server) -> None:
    send(pochta, "anna@example.org")
    [received] = fetch_all(pochta)
    trace, _, rest = received.partition(b"From: Boris")
    assert b"From: Boris" + rest == MESSAGE + b"\r\n"  # smtplib ends the last line
    assert trace.startswith(b"Return-Path: <boris@elsewhere.example>\r\nReceived: from ")
    assert b"for <anna@example.org>;" in trace


def test_several_recipients_are_not_told_of_each_other(pochta: Server) -> None:
    pochta.add_account("olga@example.org", "secret")
    send(pochta, "anna@example.org", "olga@example.org")
    for user in ("anna@example.org", "olga@example.org"):
        [received] = fetch_all(pochta, user)
        assert b"for <" not in received.partition(b"From: Boris")[0]
        assert received.endswith(MESSAGE + b"\r\n")


def test_curl_to_curl(pochta: Server) -> None:
    smtp = f"smtp://{pochta.host}:{pochta.smtp_port}/client.example"
    addresses = ["--mail-from", "boris@elsewhere.example", "--mail-rcpt", "anna@example.org"]
    subprocess.run(["curl", "-sS", smtp, *addresses, "-T", "-"], input=MESSAGE, check=True)
    imap = f"imap://{pochta.host}:{pochta.imap_port}/INBOX;UID=1"
    got = subprocess.run(["curl", "-sS", "-u", "anna@example.org:secret", imap], check=True, capture_output=True).stdout
    assert got.partition(b"From: Boris")[2] == (MESSAGE + b"\r\n").partition(b"From: Boris")[2]


def test_postmaster_of_every_domain_is_taken(pochta: Server) -> None:
    with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
        smtp.ehlo()
        smtp.mail("")
        assert smtp.docmd("RCPT", "TO:<PostMaster>")[0] == 250
        assert smtp.docmd("RCPT", "TO:<postmaster@example.org>")[0] == 250
        assert smtp.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    assert len(fetch_all(pochta)) == 1


def test_strangers_and_other_domains_are_refused(pochta: Server) -> None:
    with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
        smtp.ehlo()
        smtp.mail("boris@elsewhere.example")
        assert smtp.rcpt("nobody@example.org")[0] == 550
        code, text = smtp.rcpt("someone@gmail.example")
        assert (code, text[:5]) == (550, b"5.7.1")
