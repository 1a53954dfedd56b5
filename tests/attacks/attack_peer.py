"""A raw client: sends bytes as they are, reads lines, knows no protocol."""

import re
import socket
import ssl
from types import TracebackType
from typing import Final, Self

from pochta.testing import Server

ANSWER_S: Final = 20.0  # a bound for a server that never answers


class Peer:
    """One connection to a port of the server."""

    def __init__(self, server: Server, port: int) -> None:
        self.socket: socket.socket = socket.create_connection((server.host, port), timeout=ANSWER_S)
        self.received = b""
        self.is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; a server that has closed is no failure of the attacker's."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.is_over = True

    def until(self, pattern: bytes) -> bytes:
        """What has come up to the end of the first line that matches, which is taken off."""
        wanted = re.compile(rb"(?m)^" + pattern + rb"\r\n")
        while (match := wanted.search(self.received)) is None:
            assert not self.is_over, self.received
            self._receive()
        found, self.received = self.received[: match.end()], self.received[match.end() :]
        return found

    def rest(self) -> bytes:
        """All that comes up to the end of the connection."""
        while not self.is_over:
            self._receive()
        return self.received

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.is_over = not data
        self.received += data

    def start_tls(self, server: Server) -> None:
        """Shake hands."""
        context = ssl.create_default_context(cafile=server.certificate)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.received = b""


def imap(server: Server, user: str = "anna@example.org") -> Peer:
    """A connection that has signed in."""
    peer = Peer(server, server.imap_port)
    peer.send(f"a LOGIN {user} secret\r\n".encode())
    peer.until(rb"a OK .*")
    return peer


def subjects(server: Server, user: str = "anna@example.org", mailbox: str = "INBOX") -> list[bytes]:
    """The subjects of the messages in a mailbox."""
    with imap(server, user) as peer:
        peer.send(f"s EXAMINE {mailbox}\r\nf UID FETCH 1:* BODY.PEEK[HEADER.FIELDS (Subject)]\r\n".encode())
        peer.until(rb"s OK .*")
        return re.findall(rb"(?m)^Subject: (.*)\r\n", peer.until(rb"f OK .*"))


def serves_others(server: Server) -> None:
    """Somebody else is answered."""
    with imap(server) as other:
        other.send(b"o STATUS INBOX (MESSAGES)\r\n")
        other.until(rb"o OK .*")
