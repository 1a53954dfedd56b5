"""Literal and nesting bombs: each is refused or answered, and everybody else is served meanwhile."""

import pytest
from attack_peer import Peer, imap, serves_others

from pochta.testing import Server

NESTED = [
    b"SEARCH " + b"NOT " * 20_000 + b"ALL",
    b"SEARCH " + b"OR ALL " * 20_000 + b"ALL",
    b"SEARCH " + b"(" * 20_000 + b"ALL" + b")" * 20_000,
    b"SEARCH " + b"(" * 50_000,
    b"FETCH 1 " + b"(" * 20_000 + b"FLAGS" + b")" * 20_000,
    b"FETCH 1 BODY[" + b"1." * 20_000 + b"1]",
    b"FETCH 1 (" + b"BODY[] " * 20_000 + b"FLAGS)",
    b"FETCH 1 BODY[HEADER.FIELDS (" + b"x " * 20_000 + b"x)]",
    b"STORE 1 FLAGS (" + b"k " * 20_000 + b"k)",
    b"STORE 1 FLAGS (" + b" ".join(b"k%d" % n for n in range(9000)) + b")",
    b"ID (" + b'"a" "b" ' * 20_000 + b'"c" "d")',
]

LITERALS = [
    b"{99999999999999999999}",
    b"{4294967296}",
    b"{2147483648+}",
    b"{-1}",
    b"{0x10}",
    b"{" + b"9" * 5000 + b"}",
    b"{100000000}",
]


@pytest.mark.parametrize("command", NESTED, ids=lambda command: command[:24].decode())
def test_nesting(server: Server, command: bytes) -> None:
    with imap(server) as peer:
        peer.send(b"s SELECT INBOX\r\nb " + command + b"\r\nc NOOP\r\n")
        peer.until(rb"(?:b (?:OK|NO|BAD)|\* BYE|\* BAD) .*")
        serves_others(server)


@pytest.mark.rfc(7888, "4")
@pytest.mark.parametrize("literal", LITERALS, ids=lambda literal: literal[:24].decode())
@pytest.mark.parametrize("command", [b"LOGIN %b", b"SELECT %b", b"APPEND INBOX %b", b"SEARCH SUBJECT %b"])
@pytest.mark.parametrize("is_signed_in", [True, False])
def test_literals(server: Server, command: bytes, literal: bytes, is_signed_in: bool) -> None:
    with imap(server) if is_signed_in else Peer(server, server.imap_port) as peer:
        peer.send(b"s SELECT INBOX\r\nb " + command % literal + b"\r\n")
        answer = peer.until(rb"(?:b (?:NO|BAD)|\* BYE|\* BAD|\+) ?.*")
        # only an APPEND that may come is asked for
        assert b"\n+ " not in answer or (is_signed_in and b"APPEND" in command) or literal == b"{100000000}"
        serves_others(server)


def test_many_small_literals_before_a_sign_in(server: Server) -> None:
    with Peer(server, server.imap_port) as peer:
        peer.until(rb"\* OK .*")
        for _ in range(3000):
            peer.send(b"b LOGIN {4096+}\r\n" + b"x" * 4096 + b" {4096+}\r\n" + b"y" * 4096 + b"\r\n")
            if peer.is_over:
                break
        # what was said last may be lost with the connection, for more was sent than was taken
        assert peer.is_over
    serves_others(server)
