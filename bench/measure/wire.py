"""The loads: blocking clients that cost little, so that the figure is the server's."""

import heapq
import re
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

HOST = "127.0.0.1"
READ_BYTES = 1 << 18
TIMEOUT_S = 300


def sample_message(size: int, *, number: int = 0) -> bytes:
    """A plain message of about `size` bytes with an ordinary header."""
    header = (
        f"Received: from mx{number}.example.org (mx{number}.example.org [192.0.2.{number % 250}])\r\n"
        f"\tby in.bench.test (MTA) with ESMTPS id {number:X}\r\n\tfor <user@bench.test>;"
        " Mon, 02 Jan 2023 10:00:00 +0000\r\n"
        f"From: Anna Smith <anna{number}@example.org>\r\nTo: Boris Brown <boris@bench.test>\r\n"
        f"Subject: schedule update {number}\r\nDate: Mon, 02 Jan 2023 10:00:00 +0000\r\n"
        f"Message-ID: <{number:x}.bench@mail.example.org>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    ).encode()
    line = b"report meeting invoice project schedule update team review request answer\r\n"
    return header + line * max(1, (size - len(header)) // len(line))


class Imap:
    """One signed-in IMAP connection."""

    def __init__(
        self, port: int, user: str = "u0", *, tls: ssl.SSLContext | None = None, signs_in: bool = True
    ) -> None:
        plain = socket.create_connection((HOST, port), timeout=TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = tls.wrap_socket(plain) if tls else plain
        self._read_until(b"\r\n")
        if signs_in:
            self.command(b"LOGIN %b pass" % user.encode())

    def _read_until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            part = self.socket.recv(READ_BYTES)
            if not part:
                raise RuntimeError(f"the server closed the connection: {data[-200:]!r}")
            data += part
        return data

    def command(self, line: bytes) -> bytes:
        """The whole answer to a short command; it must be OK."""
        self.socket.sendall(b"t " + line + b"\r\n")
        data = b""
        while not re.search(rb"(?:^|\r\n)t [^\r]*\r\n\Z", data):
            part = self.socket.recv(READ_BYTES)
            if not part:
                raise RuntimeError(f"the server closed the connection: {data[-200:]!r}")
            data += part
        if not re.search(rb"(?:^|\r\n)t OK", data[-2000:]):  # LOGIN answers with all capabilities
            raise RuntimeError(f"{line!r}: {data[-300:]!r}")
        return data

    def count(self, line: bytes) -> tuple[int, float]:
        """(untagged lines, seconds) of a command with a long answer, which is thrown away."""
        began = time.perf_counter()
        self.socket.sendall(b"t " + line + b"\r\n")
        lines, tail = 0, b""
        while True:
            part = self.socket.recv(READ_BYTES)
            if not part:
                raise RuntimeError("the server closed the connection")
            lines += part.count(b"\r\n* ") + (tail[-3:] + part[:3]).count(b"\r\n* ") + (not tail and part[:2] == b"* ")
            tail = (tail + part)[-200:]
            if tail.endswith(b"\r\n") and b"\r\nt " in tail:
                if b"\r\nt OK" not in tail:
                    raise RuntimeError(f"{line!r}: {tail!r}")
                return lines, time.perf_counter() - began

    def close(self) -> None:
        """Close without a word."""
        self.socket.close()


@dataclass(slots=True)
class Deliveries:
    """What a load of deliveries did: times from the last byte sent to its 250."""

    count: int = 0
    wall_s: float = 0.0
    times_s: list[float] = field(default_factory=list)


class Mail(NamedTuple):
    """A message that ends in CRLF and has no line that begins with a dot; who sends it."""

    sender: str
    message: bytes


class _Sender:
    """One SMTP connection that has its next envelope sent with the end of the message before (RFC 2920 §3.1)."""

    __slots__ = ("began", "envelopes", "messages", "seen", "sent", "socket")

    def __init__(self, port: int, recipient: str, mails: Sequence[Mail], first: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.envelopes = [f"MAIL FROM:<{one.sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode() for one in mails]
        self.messages = [one.message + b".\r\n" for one in mails]
        self.sent = first
        self.seen = b""
        self.began = 0.0
        self.socket.recv(4096)
        self.socket.sendall(b"EHLO client.example.org\r\n")
        while not re.search(rb"^250 ", self.seen, re.MULTILINE):
            self.seen += self.socket.recv(4096)
        self.seen = b""

    def answer(self) -> bytes:
        """b"354" once the server waits for a message, b"221" once it is over, b"" before; anything but yes raises."""
        part = self.socket.recv(4096)
        self.seen += part
        code = self.seen[self.seen.rfind(b"\n", 0, -1) + 1 :][:3] if self.seen.endswith(b"\r\n") else b""
        if not part or code[:1] in (b"4", b"5") or b"\n4" in self.seen or b"\n5" in self.seen:
            raise RuntimeError(f"not delivered: {self.seen!r}")
        if code in (b"354", b"221"):
            self.seen = b""
            return code
        return b""

    def begin(self) -> None:
        """The first envelope."""
        self.socket.sendall(self.envelopes[self.sent % len(self.envelopes)])

    def send(self, *, is_last: bool) -> None:
        """The message, and with it the next envelope or the goodbye."""
        self.began = time.perf_counter()
        message = self.messages[self.sent % len(self.messages)]
        self.sent += 1
        self.socket.sendall(message + (b"QUIT\r\n" if is_last else self.envelopes[self.sent % len(self.envelopes)]))


def deliver(
    port: int, users: list[str], message: bytes | Sequence[Mail], seconds: float, *, interval_s: float = 0.0
) -> Deliveries:
    """Deliver over one connection for each user, all at once, for so long; every reply must be a 250.

    `message`: the same one each time, or several that take turns. `interval_s`: of one connection, from a message to
    the next, for a load that is steady instead of full.
    """
    result = Deliveries()
    mails = (Mail("a@example.org", message),) if isinstance(message, bytes) else message
    senders = [_Sender(port, f"{user}@bench.test", mails, at) for at, user in enumerate(users)]
    waiting: list[tuple[float, int]] = []
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for at, one in enumerate(senders):
            selector.register(one.socket, selectors.EVENT_READ, at)
            one.begin()
        left = len(senders)
        while left:
            for key, _ in selector.select(max(0.0, waiting[0][0] - time.perf_counter()) if waiting else None):
                one = senders[key.data]
                code = one.answer()
                if not code:
                    continue
                now = time.perf_counter()
                if one.began:
                    result.times_s.append(now - one.began)
                if code == b"221":
                    selector.unregister(one.socket)
                    one.socket.close()
                    left -= 1
                elif interval_s:
                    heapq.heappush(waiting, (max(now, one.began + interval_s), key.data))
                else:
                    one.send(is_last=now - began > seconds)
            while waiting and waiting[0][0] <= time.perf_counter():
                senders[heapq.heappop(waiting)[1]].send(is_last=time.perf_counter() - began > seconds)
    result.count, result.wall_s = len(result.times_s), time.perf_counter() - began
    return result
