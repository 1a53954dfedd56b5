"""Bombs: short input that would be long work. Each is refused or answered, and everybody else is served meanwhile."""

import pytest
from attack_peer import Peer, imap

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

LITERALS = [
    b"{99999999999999999999}",
    b"{4294967296}",
    b"{2147483648+}",
    b"{-1}",
    b"{0x10}",
    b"{" + b"9" * 5000 + b"}",
    b"{100000000}",
]


@pytest.fixture
def server(pochta: Server) -> Server:
    with imap(pochta) as peer:
        for _ in range(3):
            peer.send(b"a APPEND INBOX {17+}\r\nSubject: x\r\n\r\nbody\r\n"[:-2] + b"\r\n")
            peer.until(rb"a (?:OK|NO|BAD) .*")
    return pochta


def serves_others(server: Server) -> None:
    with imap(server) as other:
        other.send(b"o STATUS INBOX (MESSAGES)\r\n")
        other.until(rb"o OK .*")


@pytest.mark.parametrize("command", NESTED, ids=lambda command: command[:24].decode())
def test_nesting(server: Server, command: bytes) -> None:
    with imap(server) as peer:
        peer.send(b"s SELECT INBOX\r\nb " + command + b"\r\nc NOOP\r\n")
        peer.until(rb"(?:b (?:OK|NO|BAD)|\* BYE|\* BAD) .*")
        serves_others(server)


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
