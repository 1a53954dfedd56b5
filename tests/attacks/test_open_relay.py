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
def test_users_send_elsewhere_as_themselves_alone(pochta: Server, address: str) -> None:
    """Whoever signed in may write to anybody, and what it writes waits in the queue; as somebody else to nobody."""
    for sender in ("victim@example.net", "boris@example.org", "postmaster@example.net"):
        with Peer(pochta, pochta.submission_port) as peer:
            peer.send(b"EHLO x\r\nAUTH PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\n")
            peer.until(rb"235 .*")
            peer.send(b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\n" % (sender.encode(), address.encode()))
            assert peer.until(rb"\d{3} .*").startswith(b"550")
            assert peer.until(rb"\d{3} .*").startswith((b"503", b"501"))
    with Peer(pochta, pochta.submission_port) as peer:
        peer.send(b"EHLO x\r\nAUTH PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\nMAIL FROM:<anna@example.org>\r\n")
        peer.until(rb"250 2.1.0 .*")
        peer.send(b"RCPT TO:<%b>\r\nDATA\r\n" % address.encode())
        if peer.until(rb"\d{3} .*").startswith(b"250"):
            peer.until(rb"354 .*")
            peer.send(b"From: anna@example.org\r\nSubject: x\r\n\r\n.\r\n")
            peer.until(rb"250 2.0.0 .*")
            assert pochta.app.counters["messages_queued"] == 1
        else:
            assert pochta.app.counters["messages_queued"] == 0


@pytest.mark.parametrize("author", ["victim@example.net", "boris@example.org", "anna@example.org, x@example.net"])
def test_users_write_as_nobody_else_in_the_header(pochta: Server, author: str) -> None:
    with Peer(pochta, pochta.submission_port) as peer:
        peer.send(b"EHLO x\r\nAUTH PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\nMAIL FROM:<anna@example.org>\r\n")
        peer.until(rb"250 2.1.0 .*")
        peer.send(b"RCPT TO:<victim@example.net>\r\nDATA\r\n")
        peer.until(rb"354 .*")
        peer.send(b"From: %b\r\n\r\n.\r\n" % author.encode())
        assert peer.until(rb"\d{3} .*").startswith(b"550")
    assert pochta.app.counters["messages_queued"] == 0


def test_nobody_submits_without_signing_in(pochta: Server) -> None:
    with Peer(pochta, pochta.submission_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<anna@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n")
        peer.until(rb"250 .*")
        assert [peer.until(rb"\d{3} .*")[:3] for _ in range(3)] == [b"530", b"503", b"503"]


def test_an_alias_to_elsewhere_leads_to_its_own_targets_alone(pochta: Server) -> None:
    pochta.add_alias("out@example.org", ["victim@example.net", "anna@example.org"])
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<out@example.org>\r\n")
        peer.until(rb"250 2.1.0 .*")
        assert peer.until(rb"\d{3} .*").startswith(b"250")
        for address in ("out%example.com@example.org", "out@example.net", "victim@example.net"):
            peer.send(b"RCPT TO:<%b>\r\n" % address.encode())
            assert peer.until(rb"\d{3} .*").startswith(b"550")


@pytest.mark.parametrize(
    "forged",
    [
        "SRS0=aaaaaa=aa=example.net=victim",
        "SRS0=aaaaaa=77=example.net=victim",
        "SRS1=aaaaaa=example.net==aaaaaa=aa=example.com=victim",
        "srs0=======",
        "SRS0=aaaaaa=aa=example.net=victim%example.com",
    ],
)
def test_a_forged_return_address_leads_nowhere(pochta: Server, forged: str) -> None:
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b@example.org>\r\n" % forged.encode())
        peer.until(rb"250 2.1.0 .*")
        assert peer.until(rb"\d{3} .*").startswith(b"550")
