"""Slow senders: 150 connections that say nothing, or one octet now and then, keep nobody waiting, on any port."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from attack_peer import Peer, imap, subjects

from pochta.testing import Server

SILENT = 150
TLS = {"imap": b"a STARTTLS\r\n", "smtp": b"EHLO x.test\r\nSTARTTLS\r\n"}
ANSWERS = {"imap": b"a OK", "smtp": b"220 2.0.0"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(with_tls=True) as server:
        server.add_account("anna@example.org", "secret")
        yield server


@contextlib.contextmanager
def crowd(server: Server, port: int, prepare: Callable[[socket.socket], object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            peer = stack.enter_context(socket.create_connection((server.host, port), timeout=20))
            prepare(peer)
        yield


def read_until(peer: socket.socket, wanted: bytes) -> None:
    data = b""
    while wanted not in data:
        part = peer.recv(4096)
        assert part, data
        data += part


@pytest.mark.parametrize("name", ["imaps", "submissions", "pop3s"])
def test_implicit_tls(server: Server, name: str) -> None:
    port = getattr(server, f"{name}_port")
    with crowd(server, port, lambda _: None), Peer(server, port) as peer:
        peer.start_tls(server)
        peer.until(rb"(?:\* OK|220|\+OK) .*")


@pytest.mark.parametrize("name", ["imap", "smtp"])
@pytest.mark.parametrize("is_in_handshake", [False, True], ids=["silent", "in the handshake"])
def test_starttls(server: Server, name: str, is_in_handshake: bool) -> None:
    port = getattr(server, f"{name}_port")

    def start_tls(peer: socket.socket) -> None:
        read_until(peer, b"\r\n")
        peer.sendall(TLS[name])
        read_until(peer, ANSWERS[name])

    with crowd(server, port, start_tls if is_in_handshake else lambda _: None), Peer(server, port) as peer:
        peer.until(rb"(?:\* OK|220) .*")
        peer.send(TLS[name])
        peer.until(ANSWERS[name] + rb" .*")
        peer.start_tls(server)
        peer.send(b"a NOOP\r\n" if name == "imap" else b"NOOP\r\n")
        peer.until(rb"(?:a OK|250) .*")


HALVES = {
    "smtp_port": b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\nSubject: slow\r\n\r\nx",
    "imap_port": b"a LOGIN anna@example.org secret\r\nb APPEND INBOX {100+}\r\nSubject: slow\r\n",
    "pop3_port": b"USER anna@example.org\r\nPASS sec",
}


@pytest.mark.parametrize("name", HALVES)
def test_half_said(name: str) -> None:
    """Each stops in the middle of a message or a line."""
    with Server() as server:
        server.add_account("anna@example.org", "secret")
        with crowd(server, getattr(server, name), lambda peer: peer.sendall(HALVES[name])):
            with Peer(server, server.smtp_port) as peer:
                peer.send(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n")
                peer.until(rb"354 .*")
                peer.send(b"Subject: quick\r\n\r\n.\r\n")
                peer.until(rb"250 .*")
            assert subjects(server) == [b"quick"]
            with imap(server) as peer:
                peer.send(b"o NOOP\r\n")
                peer.until(rb"o OK .*")
