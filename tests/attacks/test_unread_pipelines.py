"""Unread pipelines: who sends and never reads is stopped, costs little, and keeps nobody else waiting."""

import socket

import pytest
from attack_peer import Peer, imap

from pochta.servers.imap.connection import ImapConnection
from pochta.servers.pop3.connection import Pop3Connection
from pochta.servers.smtp.connection import SmtpConnection
from pochta.testing import Server

FLOOD_BYTES = 40 * 1024 * 1024
HELD_MAX_BYTES = 2 * 1024 * 1024  # input and output that one connection may hold, with what the sockets hold


def flood(peer: Peer, line: bytes) -> int:
    """Send as much as the server takes without reading; how much that was."""
    peer.socket.settimeout(0.3)
    block = line * (65536 // len(line))
    sent = 0
    try:
        while sent < FLOOD_BYTES:
            sent += peer.socket.send(block)
    except (TimeoutError, ConnectionError):
        pass
    return sent


def held_by(connection: ImapConnection | SmtpConnection | Pop3Connection) -> int:
    """Bytes that the server holds for a peer."""
    return connection.engine.buffered_bytes + connection._transport.get_write_buffer_size()


@pytest.mark.parametrize(
    "line", [b"a CAPABILITY\r\n", b"a NOOP\r\n", b'a LIST "" *\r\n', b"a UID SEARCH ALL\r\n", b"\r\n"]
)
def test_imap(pochta: Server, line: bytes) -> None:
    with imap(pochta) as peer, imap(pochta) as other:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.send(b"s SELECT INBOX\r\n")
        flood(peer, line)
        other.send(b"o NOOP\r\n")
        other.until(rb"o OK .*")
        for connection in tuple(pochta.app.imap_connections):
            assert held_by(connection) < HELD_MAX_BYTES


@pytest.mark.parametrize("port", ["smtp_port", "submission_port", "lmtp_port"])
@pytest.mark.parametrize("line", [b"NOOP\r\n", b"EHLO x\r\n", b"LHLO x\r\n", b"HELP\r\n", b"RSET\r\nMAIL FROM:<>\r\n"])
def test_smtp(pochta: Server, port: str, line: bytes) -> None:
    with Peer(pochta, getattr(pochta, port)) as peer, Peer(pochta, pochta.smtp_port) as other:
        flood(peer, line)
        other.send(b"NOOP\r\n")
        other.until(rb"250 .*")
        for connection in tuple(pochta.app.smtp_connections):
            assert held_by(connection) < HELD_MAX_BYTES


@pytest.mark.parametrize("line", [b"CAPA\r\n", b"NOOP\r\n", b"LIST\r\n"])
def test_pop3(pochta: Server, line: bytes) -> None:
    with Peer(pochta, pochta.pop3_port) as peer, Peer(pochta, pochta.pop3_port) as other:
        peer.send(b"USER anna@example.org\r\nPASS secret\r\n")
        flood(peer, line)
        other.send(b"CAPA\r\n")
        other.until(rb"\.")
        for connection in tuple(pochta.app.pop3_connections):
            assert held_by(connection) < HELD_MAX_BYTES
