"""End-of-data smuggling: nothing but CRLF . CRLF ends a message, so that no second one hides in the first."""

import pytest
from attack_peer import Peer, subjects

from pochta.config import BareNewline, Smtp
from pochta.testing import Server

FALSE_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n. \r\n",
    b"\n\n.\n\n",
    b"\r\n..\r\n",
    b"\x85.\x85",
    b"\x0b.\x0c",
]


def attack(server: Server, end: bytes, cut: int) -> bytes:
    """What the server says to a message with a false end and a second transaction behind it."""
    inner = b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n"
    data = b"Subject: outer\r\n\r\ntext" + end + inner + b"\r\n.\r\nQUIT\r\n"
    with Peer(server, server.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n")
        peer.until(rb"354 .*")
        for at in range(0, len(data), cut):
            peer.send(data[at : at + cut])
        return peer.rest()


@pytest.mark.rfc(5321, "4.1.1.4")
@pytest.mark.parametrize("end", FALSE_ENDS, ids=repr)
@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize("mode", list(BareNewline))
def test_one_message_stays_one(mode: BareNewline, end: bytes, cut: int) -> None:
    with Server(smtp=Smtp(bare_newline=mode)) as server:
        server.add_account("anna@example.org", "secret")
        replies = attack(server, end, cut)
        assert replies.count(b"\r\n") == 2, replies  # of the message, and of QUIT
        assert replies.startswith((b"250", b"550"))
        found = subjects(server)
        assert found == ([b"outer"] if replies.startswith(b"250") else [])
