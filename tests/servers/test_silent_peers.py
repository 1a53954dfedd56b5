"""150 connections that say nothing keep nobody waiting, on any port, before and after the command that starts TLS."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
from imap_raw import Imap

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


def client(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.certificate)


def read_until(peer: socket.socket, wanted: bytes) -> None:
    data = b""
    while wanted not in data:
        part = peer.recv(4096)
        assert part, data
        data += part


@pytest.mark.parametrize("name", ["imaps", "submissions", "pop3s"])
def test_implicit_tls(server: Server, name: str) -> None:
    port = getattr(server, f"{name}_port")
    with crowd(server, port, lambda _: None), Imap(server, port=port, tls=client(server), login=False) as peer:
        assert peer.greeting.startswith((b"* OK", b"220 ", b"+OK"))


@pytest.mark.parametrize("name", ["imap", "smtp"])
@pytest.mark.parametrize("is_in_handshake", [False, True], ids=["silent", "in the handshake"])
def test_starttls(server: Server, name: str, is_in_handshake: bool) -> None:
    port = getattr(server, f"{name}_port")

    def start_tls(peer: socket.socket) -> None:
        read_until(peer, b"\r\n")
        peer.sendall(TLS[name])
        read_until(peer, ANSWERS[name])

    def nothing(_: socket.socket) -> None:
        pass

    with (
        crowd(server, port, start_tls if is_in_handshake else nothing),
        socket.create_connection((server.host, port), timeout=20) as plain,
    ):
        start_tls(plain)
        with client(server).wrap_socket(plain, server_hostname="localhost") as peer:
            peer.sendall(b"a NOOP\r\n" if name == "imap" else b"NOOP\r\n")
            read_until(peer, b"a OK" if name == "imap" else b"250 ")
