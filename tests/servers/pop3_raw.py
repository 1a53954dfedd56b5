"""A small raw POP3 client: sends what the test says, gives back lines as the server sent them."""

import socket
import ssl
from types import TracebackType
from typing import Final, Self

from pochta.testing import Server

ANSWER_S: Final = 20.0  # a bound for a server that never answers
USER: Final = "anna@example.org"


class Pop3:
    """One connection; `greeting` is its first line, `drop` the answer to the sign-in."""

    def __init__(
        self,
        server: Server,
        *,
        user: str = USER,
        password: str = "secret",
        login: bool = True,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        receive_bytes: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect((server.host, port or server.pop3_port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")
        self.greeting = self.line()
        self.drop = b""
        if login:
            self.ok(f"USER {user}")
            self.drop = self.ok(f"PASS {password}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line without its CRLF; `b""` at the end of the connection."""
        line = self.file.readline()
        assert not line or line.endswith(b"\r\n")
        return line.removesuffix(b"\r\n")

    def do(self, command: str | bytes) -> bytes:
        """The status line of the answer."""
        self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return self.line()

    def ok(self, command: str | bytes) -> bytes:
        """The text behind `+OK` of a command that must succeed."""
        line = self.do(command)
        assert line.startswith(b"+OK"), (command, line)
        return line[4:]

    def err(self, command: str | bytes) -> bytes:
        """The text behind `-ERR` of a command that must not succeed."""
        line = self.do(command)
        assert line.startswith(b"-ERR "), (command, line)
        return line[5:]

    def body(self) -> bytes:
        """The lines up to the end mark, dots undone."""
        lines: list[bytes] = []
        while (line := self.file.readline()) != b".\r\n":
            assert line
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def multi(self, command: str) -> bytes:
        """The body of a command with a multi-line answer, which must succeed."""
        self.ok(command)
        return self.body()

    def is_closed(self) -> bool:
        """Whether the server has closed and nothing more comes."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def quit(self) -> bytes:
        """QUIT; what the server said. The connection is closed then."""
        answer = self.do("QUIT")
        assert self.is_closed()
        self.close()
        return answer
