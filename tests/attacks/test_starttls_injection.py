"""STARTTLS injection: what was sent in the clear behind the command is never obeyed under TLS (CVE-2011-0411)."""

from collections.abc import Iterator

import pytest
from attack_peer import Peer

from pochta.testing import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(with_tls=True) as made:
        made.add_account("anna@example.org", "secret")
        yield made


@pytest.mark.rfc(3207, "4.2")
@pytest.mark.parametrize("port", ["smtp_port", "submission_port"])
@pytest.mark.parametrize("cut", [1, 1000])
def test_smtp(server: Server, port: str, cut: int) -> None:
    with Peer(server, getattr(server, port)) as peer:
        peer.until(rb"220 .*")
        peer.send(b"EHLO x\r\n")
        peer.until(rb"250 .*")
        attack = b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<anna@example.org>\r\nNOOP\r\n"
        if cut == 1:
            peer.send(attack[:-1])
        else:
            peer.send(attack)
        peer.until(rb"220 .*")
        assert peer.received == b""
        peer.start_tls(server)
        # nothing of what was injected is answered, and nothing of it is remembered
        peer.send(b"RCPT TO:<anna@example.org>\r\n")
        assert peer.until(rb"\d{3} .*").startswith(b"503")
        peer.send(b"MAIL FROM:<a@example.net>\r\n")
        assert peer.until(rb"\d{3} .*").startswith(b"503")


@pytest.mark.rfc(3501, "6.2.1")
def test_imap(server: Server) -> None:
    with Peer(server, server.imap_port) as peer:
        peer.until(rb"\* OK .*")
        peer.send(b"a STARTTLS\r\nb LOGIN anna@example.org secret\r\nc CREATE evil\r\nd NOOP")
        assert peer.until(rb"a OK .*").count(b"\r\n") == 1
        peer.start_tls(server)
        peer.send(b"e SELECT INBOX\r\n")
        # the first thing that is answered is the first thing that was said under TLS, and nobody is signed in
        assert peer.until(rb".*").startswith((b"e BAD", b"e NO"))
        peer.send(b"f CAPABILITY\r\n")
        assert b"AUTH=PLAIN" in peer.until(rb"f OK .*")


@pytest.mark.rfc(2595, "4")
def test_pop3(server: Server) -> None:
    with Peer(server, server.pop3_port) as peer:
        peer.until(rb"\+OK .*")
        peer.send(b"STLS\r\nUSER anna@example.org\r\nPASS secret\r\nSTAT\r\nNO")
        assert peer.until(rb"\+OK .*").count(b"\r\n") == 1
        peer.start_tls(server)
        peer.send(b"STAT\r\n")
        assert peer.until(rb"-ERR.*").count(b"\r\n") == 1
        peer.send(b"CAPA\r\n")
        assert peer.until(rb"\.").startswith(b"+OK")
