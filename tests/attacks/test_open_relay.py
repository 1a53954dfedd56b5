"""Open relay: no form of address sends mail through this server to another one."""

import pytest
from attack_peer import Peer

from pochta.testing import Server

ELSEWHERE = [
    "victim@example.net",
    "victim%example.net@example.org",
    "victim@example.net@example.org",
    "example.net!victim@example.org",
    "example.net!victim",
    "@example.org:victim@example.net",
    "@example.net,@example.org:victim@example.net",
    "@example.org,@example.net:anna%example.org@example.net",
    '"victim@example.net"@example.org',
    '"victim%example.net"@example.org',
    '"victim"@example.net',
    "victim@[192.0.2.1]",
    "victim@[IPv6:2001:db8::1]",
    "victim@example.org.example.net",
    "victim@example.net.",
    "victim@sub.example.org",
    "victim@EXAMPLE.NET",
    "anna@example.org, victim@example.net",
    "anna@example.org> ORCPT=rfc822;victim@example.net <x",
    "victim@example.net\0@example.org",
    "victim@еxample.org",
    "victim",
    "victim@",
    "@example.net",
    "",
    " ",
]


@pytest.mark.rfc(5321, "3.6.2")
@pytest.mark.parametrize("port", ["smtp_port", "lmtp_port"])
@pytest.mark.parametrize("sender", ["", "anna@example.org", "spammer@example.net", "postmaster"])
def test_strangers_send_nothing_elsewhere(pochta: Server, port: str, sender: str) -> None:
    with Peer(pochta, getattr(pochta, port)) as peer:
        peer.send(b"LHLO x\r\n" if port == "lmtp_port" else b"EHLO x\r\n")
        peer.until(rb"250 .*")
        for number, address in enumerate(ELSEWHERE):
            if number % 10 == 0:  # before the connection has erred too often
                peer.send(b"RSET\r\nMAIL FROM:<%b> SMTPUTF8\r\n" % sender.encode())
                peer.until(rb"250 .*")
                peer.until(rb"(?:250|501) .*")
            peer.send(b"RCPT TO:<%b>\r\n" % address.encode())
            answer = peer.until(rb"\d{3} .*")
            assert answer.startswith((b"550", b"501", b"503", b"553", b"555", b"421")), (address, answer)
            if answer.startswith(b"421"):
                break
    assert sum(pochta.app.counters[name] for name in ("messages_delivered",)) == 0


@pytest.mark.parametrize("address", ELSEWHERE[:15])
def test_users_send_nothing_elsewhere_unqueued(pochta: Server, address: str) -> None:
    with Peer(pochta, pochta.submission_port) as peer:
        peer.send(b"EHLO x\r\nAUTH PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\nMAIL FROM:<anna@example.org>\r\n")
        peer.until(rb"235 .*")
        peer.until(rb"250 2.1.0 .*")
        peer.send(b"RCPT TO:<%b>\r\n" % address.encode())
        assert peer.until(rb"\d{3} .*").startswith((b"550", b"501", b"553"))


def test_an_alias_to_elsewhere_is_no_relay(pochta: Server) -> None:
    pochta.add_alias("out@example.org", ["victim@example.net", "anna@example.org"])
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<out@example.org>\r\n")
        peer.until(rb"250 2.1.0 .*")
        assert peer.until(rb"\d{3} .*").startswith(b"550 5.3.3")
