"""What the dialogues cannot say: TLS, quota, hops, stopping, half-closed connections."""

import smtplib
import socket
import ssl
import threading

import pytest
from imap_raw import Imap, message

from pochta.config import Limits
from pochta.proto.smtp.events import Turn
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.server import SmtpServer
from pochta.testing import Server


def count(server: Server, user: str = "anna@example.org") -> int:
    with Imap(server, user=user, mailbox=None) as imap:
        return int(imap.ok("STATUS INBOX (MESSAGES)")[0].split()[-1].rstrip(b")"))


def begun(server: Server, *recipients: str) -> smtplib.SMTP:
    smtp = smtplib.SMTP(server.host, server.smtp_port)
    smtp.ehlo()
    smtp.mail("a@example.net")
    for recipient in recipients:
        assert smtp.rcpt(recipient)[0] == 250
    return smtp


@pytest.mark.rfc(3207, "4.2")
def test_starttls_forgets_what_was_said_before() -> None:
    with Server(with_tls=True) as server:
        server.add_account("anna@example.org", "secret")
        with smtplib.SMTP(server.host, server.smtp_port) as smtp:
            smtp.ehlo()
            assert smtp.has_extn("starttls")
            smtp.mail("a@example.net")
            # the second command is sent in the clear behind the first and must never be obeyed
            smtp.send("STARTTLS\r\nRCPT TO:<anna@example.org>\r\n")
            assert smtp.getreply()[0] == 220
            context = ssl.create_default_context(cafile=server.certificate)
            smtp.sock = context.wrap_socket(smtp.sock, server_hostname="localhost")
            smtp.file = None
            assert smtp.docmd("RCPT", "TO:<anna@example.org>")[0] == 503
            smtp.ehlo()
            assert not smtp.has_extn("starttls")
            assert smtp.docmd("STARTTLS")[0] == 503
            smtp.sendmail("a@example.net", ["anna@example.org"], message(1))
        with Imap(server) as imap:
            assert b"with ESMTPS id" in imap.literal("FETCH 1 BODY.PEEK[HEADER]")


def test_a_refused_message_leaves_no_file(pochta: Server) -> None:
    pochta.add_account("full@example.org", "secret", quota_bytes=1000)
    large = message(1, b"x" * 70 + b"\r\n") * 2000
    with begun(pochta, "full@example.org") as smtp:
        assert smtp.data(large)[0] == 552
    with begun(pochta, "anna@example.org") as smtp:
        assert smtp.data(b"Received: x\r\n" * 200 + large)[0] == 554
    with Imap(pochta, user="full@example.org", mailbox=None) as imap:
        assert imap.append(large)[-1].startswith(b"NO [OVERQUOTA]")
    assert list((pochta.data_dir / "blobs").glob("*/*")) == []
    with begun(pochta, "anna@example.org") as smtp:
        assert smtp.data(large)[0] == 250
    assert len(list((pochta.data_dir / "blobs").glob("*/*"))) == 1


@pytest.mark.rfc(3463, "3.3")
def test_a_full_mailbox(pochta: Server) -> None:
    pochta.add_account("full@example.org", "secret", quota_bytes=1000)
    with begun(pochta, "full@example.org") as smtp:
        code, text = smtp.data(message(1, b"x" * 70 + b"\r\n") * 20)
        assert (code, text[:5]) == (552, b"5.2.2")
    with begun(pochta, "anna@example.org", "full@example.org") as smtp:
        code, text = smtp.data(message(1, b"x" * 70 + b"\r\n") * 20)
        assert (code, text[:5]) == (451, b"4.3.0")
    assert count(pochta) == count(pochta, "full@example.org") == 0
    with Imap(pochta, user="full@example.org") as imap:
        assert imap.append(message(1, b"y" * 2000))[-1].startswith(b"NO [OVERQUOTA]")
        assert imap.append(message(1))[-1].startswith(b"OK")


@pytest.mark.rfc(5321, "6.3")
def test_hops(pochta: Server) -> None:
    hop = b"Received: from a by b; Mon, 2 Nov 2026 10:00:00 +0000\r\n"
    for hops, expected in ((Limits().hops, (250, b"2.0.0")), (Limits().hops + 1, (554, b"5.4.6"))):
        with begun(pochta, "anna@example.org") as smtp:
            code, text = smtp.data(hop * hops + message(1))
            assert (code, text[:5]) == expected
    assert count(pochta) == 1


def test_several_addresses_of_one_account_get_one_copy(pochta: Server) -> None:
    pochta.add_alias("sales@example.org", ["anna@example.org"])
    with begun(pochta, "anna@example.org", "sales@example.org", "ANNA+tag@example.org") as smtp:
        assert smtp.data(message(1))[0] == 250
    assert count(pochta) == 1


def test_half_closed_connection_gets_its_answers(pochta: Server) -> None:
    with socket.create_connection((pochta.host, pochta.smtp_port), timeout=20) as client:
        client.sendall(
            b"EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n" + message(1) + b".\r\nQUIT\r\n"
        )
        client.shutdown(socket.SHUT_WR)
        answers = client.makefile("rb").read()
    assert [line[:3] for line in answers.splitlines() if line[3:4] == b" "] == [
        b"220", b"250", b"250", b"250", b"354", b"250", b"221",
    ]  # fmt: skip
    assert count(pochta) == 1


@pytest.mark.rfc(5321, "4.5.3.2")
def test_silence_ends_with_421() -> None:
    limits = Limits(min_free_bytes=0, command_timeout_s=1)
    with Server(limits=limits) as server, smtplib.SMTP(server.host, server.smtp_port) as smtp:
        assert smtp.getreply()[0] == 421
        assert smtp.file.readline() == b""  # type: ignore[attr-defined]


@pytest.mark.rfc(5321, "3.8")
def test_stop_takes_a_message_under_way_to_its_end() -> None:
    server = Server()
    server.start()
    server.add_account("anna@example.org", "secret")
    with smtplib.SMTP(server.host, server.smtp_port) as idle, begun(server, "anna@example.org") as sending:
        assert sending.docmd("DATA")[0] == 354
        sending.send(b"Subject: x\r\n\r\n" + b"x" * 100_000)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert idle.getreply()[0] == 421
        sending.send(b"\r\n.\r\n")
        assert sending.getreply()[0] == 250
        assert sending.getreply()[0] == 421
        stopping.join()
        idle.close()
        sending.close()


def test_stop_says_421_and_half_a_message_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pochta.app.DRAIN_S", 0.1)
    server = Server()
    server.start()
    server.add_account("anna@example.org", "secret")
    with smtplib.SMTP(server.host, server.smtp_port) as idle, begun(server, "anna@example.org") as sending:
        assert sending.docmd("DATA")[0] == 354
        sending.send(b"x" * 100_000)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert idle.getreply()[0] == 421
        assert sending.getreply()[0] == 421
        stopping.join()
        idle.close()
        sending.close()


def test_strangers_may_not_guess_for_ever(pochta: Server) -> None:
    with begun(pochta) as smtp:
        codes = [smtp.docmd("RCPT", f"TO:<nobody{number}@example.org>")[0] for number in range(100)]
        assert codes == [550] * 99 + [421]
        smtp.close()


def test_a_large_message_goes_to_a_file_and_back(pochta: Server) -> None:
    large = message(1, (b".dots" * 14 + b"\r\n") * 40_000)
    with begun(pochta, "anna@example.org") as smtp:
        assert smtp.data(large)[0] == 250
    with Imap(pochta) as imap:
        assert imap.literal("FETCH 1 BODY.PEEK[]").endswith(large)
    assert pochta.app.intake.memory_bytes == 0


def test_a_full_mailbox_is_refused_before_the_message(pochta: Server) -> None:
    pochta.add_account("full@example.org", "secret", quota_bytes=10)
    pochta.add_alias("all@example.org", ["anna@example.org", "full@example.org"])
    with begun(pochta) as smtp:
        assert smtp.docmd("RCPT", "TO:<anna@example.org>")[0] == 250
        smtp.docmd("RSET")
        smtp.docmd("MAIL", "FROM:<a@example.net> SIZE=2000")
        for refused in ("full", "all"):
            assert smtp.docmd("RCPT", f"TO:<{refused}@example.org>") == (552, b"5.2.2 The mailbox is full")
        assert smtp.docmd("RCPT", "TO:<anna@example.org>")[0] == 250
        assert smtp.data(message(1, b"x"))[0] == 250


def test_a_flood_of_commands_leaves_others_their_turn() -> None:
    engine = SmtpServer("localhost", limits=SmtpLimits(), can_start_tls=False, is_secure=False)
    engine.greet()
    engine.receive_data(b"NOOP\r\n" * 1000)
    found = []
    while (event := engine.next_event()) is not None:
        found.append(event)
    assert found == [Turn()] * 5
    assert engine.data_to_send().count(b"250 2.0.0 OK\r\n") == 1000
