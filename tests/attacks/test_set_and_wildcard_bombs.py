"""Sequence-set and wildcard bombs: short input that would be long work is refused or cheap."""

import pytest
from attack_peer import imap, serves_others

from pochta.testing import Server

SETS = [
    b"1:4294967295",
    b"4294967295:1",
    b"*:1",
    b"1:*,1:*,1:*,1:*",
    b",".join([b"1:4294967295"] * 5000),
    b",".join(b"%d" % (n * 2 + 1) for n in range(8000)),
    b"0",
    b"1:0",
    b"99999999999999999999",
    b"1" * 5000,
    b":",
    b"1,,2",
    b"-1",
]


@pytest.mark.parametrize("numbers", SETS, ids=lambda numbers: numbers[:20].decode())
@pytest.mark.parametrize(
    "command", [b"FETCH %b FLAGS", b"UID FETCH %b FLAGS", b"STORE %b +FLAGS.SILENT (x)", b"SEARCH %b"]
)
def test_sequence_sets(server: Server, command: bytes, numbers: bytes) -> None:
    with imap(server) as peer:
        peer.send(b"s SELECT INBOX\r\nb " + command % numbers + b"\r\n")
        answer = peer.until(rb"(?:b (?:OK|NO|BAD)|\* BYE) .*")
        assert answer.count(b" FETCH (") <= 3
        serves_others(server)


@pytest.mark.rfc(3501, "6.3.8")
def test_wildcards(server: Server) -> None:
    deep = b"/".join([b"aaaaaaaaaaaaaaaaaaaa"] * 30)
    with imap(server) as peer:
        peer.send(b'c CREATE "%b"\r\n' % deep)
        peer.until(rb"c (?:OK|NO) .*")
        for pattern in (b"*a" * 400 + b"b", b"%a" * 400 + b"b", b"*%" * 400, b"*" * 1000, b"a*" * 300 + b"/x"):
            for command in (b"LIST", b"LSUB"):
                peer.send(b'l %b "" "%b"\r\n' % (command, pattern))
                peer.until(rb"l (?:OK|NO|BAD) .*")
        serves_others(server)
