"""A small raw IMAP client: sends what the test says, gives back lines as the server sent them."""

import re
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Final, Self

from pochta.testing import Server

ANSWER_S: Final = 20.0  # a bound for a server that never answers
USER: Final = "anna@example.org"
_LITERAL: Final = re.compile(rb"\{(\d+)\}\r\n\Z")


class Imap:
    """One connection; `greeting` is its first line. Signs in and selects what it is told to."""

    def __init__(
        self,
        server: Server,
        *,
        user: str = USER,
        mailbox: str | None = "INBOX",
        login: bool = True,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.create_connection((server.host, port or server.imap_port), timeout=ANSWER_S)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")
        self.tags = 0
        self.greeting = self.line()
        if login:
            self.ok(f"LOGIN {user} secret")
            if mailbox is not None:
                self.ok(f"SELECT {mailbox}")

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
        """The next line with its literals, without the last CRLF; `b""` at the end of the connection."""
        line = self.file.readline()
        while match := _LITERAL.search(line):
            line += self.file.read(int(match[1])) + self.file.readline()
        return line.removesuffix(b"\r\n")

    def begin(self, command: str | bytes) -> bytes:
        """Send a command; its tag."""
        self.tags += 1
        tag = b"t%d" % self.tags
        self.send(tag + b" " + (command.encode() if isinstance(command, str) else command) + b"\r\n")
        return tag

    def end(self, tag: bytes) -> list[bytes]:
        """The lines up to the tagged one, whose tag is cut off."""
        lines: list[bytes] = []
        while True:
            line = self.line()
            assert line, lines
            if line.startswith(tag + b" "):
                return [*lines, line[len(tag) + 1 :]]
            lines.append(line)

    def do(self, command: str | bytes) -> list[bytes]:
        """The answer to a command: untagged lines, then the tagged one without its tag."""
        return self.end(self.begin(command))

    def ok(self, command: str | bytes) -> list[bytes]:
        """The untagged lines of a command that must succeed."""
        *lines, last = self.do(command)
        assert last.startswith(b"OK"), (command, last)
        return lines

    def append(self, message: bytes, arguments: str = "INBOX") -> list[bytes]:
        """APPEND with a non-synchronising literal; the whole answer."""
        return self.do(f"APPEND {arguments} ".encode() + b"{%d+}\r\n" % len(message) + message)

    def fetch(self, command: str) -> bytes:
        """The only response of a FETCH, from behind `FETCH (` to before `)`."""
        [line] = self.ok(command)
        match = re.fullmatch(rb"\* \d+ FETCH \((.*)\)", line, re.DOTALL)
        assert match is not None, line
        return match[1]

    def literal(self, command: str) -> bytes:
        """The one literal that a FETCH answers with."""
        data = self.fetch(command)
        match = re.search(rb"\{(\d+)\}\r\n", data)
        assert match is not None, data
        return data[match.end() : match.end() + int(match[1])]

    def idle(self) -> bytes:
        """Begin IDLE; the tag. What is owed has been told before the first line that follows is read."""
        tag = self.begin("IDLE")
        assert self.line().startswith(b"+ ")
        return tag

    def done(self, tag: bytes) -> list[bytes]:
        """End IDLE; the lines that came before its end."""
        self.send(b"DONE\r\n")
        return self.end(tag)[:-1]


def without_flag_lists(lines: list[bytes]) -> list[bytes]:
    """The lines without those that tell of a new keyword."""
    return [line for line in lines if not line.startswith((b"* FLAGS ", b"* OK [PERMANENTFLAGS "))]


def numbers(text: bytes) -> list[int]:
    """The numbers of a sequence set, in its order."""
    found: list[int] = []
    for part in text.split(b","):
        first, _, last = part.partition(b":")
        found += range(int(first), int(last or first) + 1)
    return found


def message(number: int, body: bytes = b"body\r\n") -> bytes:
    """A plain message."""
    return b"From: <a%d@example.net>\r\nSubject: test %d\r\n\r\n" % (number, number) + body


def fill(server: Server, count: int, *, user: str = USER, mailbox: str = "INBOX") -> None:
    """Put `count` plain messages into the mailbox, seen by nobody yet."""
    with Imap(server, user=user, mailbox=None) as imap:
        for number in range(1, count + 1):
            assert imap.append(message(number), mailbox)[-1].startswith(b"OK")


def files_become(server: Server, count: int) -> None:
    """Return once so many files of messages are there; what is given up is removed behind the answer."""
    until, never = time.monotonic() + ANSWER_S, threading.Event()
    while len(found := [one for one in (server.data_dir / "blobs").rglob("*") if one.is_file()]) != count:
        assert time.monotonic() < until, found
        never.wait(0.002)
