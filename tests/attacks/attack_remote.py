"""Servers of others, good and hostile ones, and a Pochta that sends to them.

Every server has a loopback address of its own and all have one port, so that MX records can name them. A remote serves
each connection in a thread: its handler says and reads what it likes. Slowness is made by tiny limits, not by waiting.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from attack_peer import Peer

from pochta.config import Outbound
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.queue.session import SessionLimits
from pochta.store import queue_view
from pochta.store.queue_view import Entry
from pochta.store.store import Store
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver

WAIT_S: Final = 8.0  # a bound for what never happens
QUICK: Final = SessionLimits(
    client=ClientLimits(
        greeting_timeout_s=0.2,
        command_timeout_s=0.2,
        data_timeout_s=0.2,
        block_timeout_s=0.2,
        end_timeout_s=0.2,
        quit_timeout_s=0.05,
    ),
    connect_timeout_s=2.0,
    tls_timeout_s=2.0,
    open_timeout_s=2.0,
)

_count = itertools.count()


def loopback() -> str:
    """An address that no other process of this run listens at."""
    pid = os.getpid()
    return f"127.{1 + pid % 199}.{pid // 199 % 250}.{2 + next(_count) % 250}"


class Events(list[str]):
    """The log of a server; `wait` for what will be in it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()

    def append(self, line: str) -> None:
        with self._news:
            super().append(line)
            self._news.notify_all()

    def having(self, *words: str) -> list[str]:
        """The lines with all of the words."""
        return [line for line in self if all(word in line for word in words)]

    def wait(self, *words: str, count: int = 1) -> list[str]:
        """As `having`, once there are so many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.having(*words)) >= count, WAIT_S), (words, self[-20:])
            return self.having(*words)


class Line:
    """One connection as a server of others has it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""
        self.wire = b""  # all that ever came

    def say(self, data: bytes) -> None:
        """Send; who is not listened to has done its part."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def command(self) -> bytes:
        """The next line without its end; `b""` when there is none."""
        while b"\r\n" not in self.received:
            if not self._receive():
                return b""
        line, _, self.received = self.received.partition(b"\r\n")
        return line

    def take(self, count: int) -> bytes:
        """So many octets; fewer at the end."""
        while len(self.received) < count and self._receive():
            pass
        data, self.received = self.received[:count], self.received[count:]
        return data

    def upto(self, end: bytes) -> bytes:
        """What comes, with its end; less at the end of all."""
        while end not in self.received and self._receive():
            pass
        at = self.received.find(end)
        stop = len(self.received) if at < 0 else at + len(end)
        data, self.received = self.received[:stop], self.received[stop:]
        return data

    def listen(self) -> None:
        """Read until the other side is gone."""
        while self._receive():
            self.received = b""

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        self.received += data
        self.wire += data
        return bool(data)


Handler = Callable[[Line], None]


class Remote:
    """A server of others: `handler` for each connection, at an address of its own."""

    def __init__(self, handler: Handler, *, port: int = 0) -> None:
        self.address = loopback()
        self.handler = handler
        self.lines: list[Line] = []
        self.failures: list[BaseException] = []
        self._is_over = False
        self._socket = socket.create_server((self.address, port))
        self.port: int = self._socket.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.lines)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            if self._is_over:
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(sock)
            self.lines.append(line)
            thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: Line) -> None:
        try:
            self.handler(line)
        except OSError:
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            line.socket.close()

    def stop(self) -> None:
        """End everything."""
        self._is_over = True
        with contextlib.suppress(OSError):
            socket.create_connection((self.address, self.port), timeout=WAIT_S).close()
        self._accepting.join(WAIT_S)
        self._socket.close()
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(1)
        assert not self.failures, self.failures


@dataclass
class Received:
    """One message as a sink got it. `raw` is what stood on the wire behind DATA, or the octets of all its BDAT."""

    mail: bytes
    recipients: list[bytes]
    raw: bytes
    is_bdat: bool

    @property
    def content(self) -> bytes:
        """The message itself."""
        if self.is_bdat:
            return self.raw
        return re.sub(rb"(?m)^\.", b"", self.raw.removesuffix(b".\r\n"))


@dataclass
class Sink:
    """A handler that takes mail and writes down every octet. `refuses`: recipients by a part of them, with the reply;
    `ends` what is said to the end of data."""

    offers: tuple[bytes, ...] = (b"PIPELINING", b"8BITMIME", b"SIZE 50000000")
    refuses: dict[bytes, bytes] = field(default_factory=dict)
    ends: bytes = b"250 2.0.0 taken\r\n"
    tls: ssl.SSLContext | None = None
    messages: "queue.Queue[Received]" = field(default_factory=queue.Queue)
    commands: list[bytes] = field(default_factory=list)

    def __call__(self, line: Line) -> None:
        mail, chunks = b"", b""
        recipients: list[bytes] = []
        is_secure = False
        line.say(b"220 sink\r\n")
        while command := line.command():
            self.commands.append(command)
            verb = command.split()[0].split(b":")[0].upper()
            if verb == b"EHLO":
                offers = [*self.offers, *([b"STARTTLS"] if self.tls is not None and not is_secure else [])]
                line.say(b"".join([b"250-%b\r\n" % one for one in (b"sink", *offers)]) + b"250 HELP\r\n")
            elif verb == b"STARTTLS" and self.tls is not None:
                line.say(b"220 go\r\n")
                line.socket = self.tls.wrap_socket(line.socket, server_side=True)
                is_secure = True
            elif verb == b"MAIL":
                mail, recipients, chunks = command, [], b""
                line.say(b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                no = next((reply for part, reply in self.refuses.items() if part in command), None)
                if no is None:
                    recipients.append(command)
                line.say(no or b"250 2.1.5 ok\r\n")
            elif verb == b"DATA":
                line.say(b"354 go\r\n" if recipients else b"503 nobody\r\n")
                if recipients:
                    raw = line.upto(b"\r\n.\r\n")
                    self.messages.put(Received(mail, recipients, raw, False))
                    line.say(self.ends)
            elif verb == b"BDAT":
                words = command.split()
                chunks += line.take(int(words[1]))
                if not recipients:
                    line.say(b"503 nobody\r\n")
                elif len(words) > 2:
                    self.messages.put(Received(mail, recipients, chunks, True))
                    line.say(self.ends)
                else:
                    line.say(b"250 2.0.0 go on\r\n")
            elif verb == b"QUIT":
                line.say(b"221 bye\r\n")
                return
            else:
                line.say(b"250 ok\r\n")

    def get(self) -> Received:
        """The next message, once it is there."""
        return self.messages.get(timeout=WAIT_S)


class World:
    """One Pochta, `example.org` with anna and boris, among servers of others."""

    def __init__(self, **settings: Any) -> None:  # Any: handed on to `Server`
        self.resolver = ZoneResolver()
        self._home = Remote(lambda line: None)  # holds the port
        self.port = self._home.port
        self.remotes: list[Remote] = [self._home]
        self.outbound = {"loopback": True, "port": self.port, "ipv6": False, **settings.pop("outbound", {})}
        settings.setdefault("session_limits", QUICK)
        self.server = Server(
            host=loopback(),
            hostname="mx.example.org",
            transfer_port=self.port,
            resolver=self.resolver,
            outbound=Outbound(**self.outbound),
            **settings,
        )
        self.events = Events()
        self.server.events = self.events

    def __enter__(self) -> Self:
        self.server.start()
        self.resolver.add("example.org", "MX", (10, "mx.example.org"))
        self.resolver.add("mx.example.org", "A", self.server.host)
        for name in ("anna", "boris"):
            self.server.add_account(f"{name}@example.org", "secret")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.server.stop(is_failing=kind is not None)
        finally:
            for remote in self.remotes:
                remote.stop()

    def add(self, domain: str, handler: Handler, *more: Handler) -> Remote:
        """A domain, and its server; `more`: of the MX that follow."""
        made = [Remote(one, port=self.port) for one in (handler, *more)]
        for place, one in enumerate(made):
            host = f"mx{place or ''}.{domain}"
            self.resolver.add(domain, "MX", (10 * (place + 1), host))
            self.resolver.add(host, "A", one.address)
        self.remotes += made
        return made[0]

    def submit(
        self,
        data: bytes,
        *recipients: str,
        sender: str = "anna@example.org",
        mail: str = "",
        rcpt: str = "",
        is_bdat: bool = False,
        user: str = "anna@example.org",
    ) -> bytes:
        """What is said at last to a message that a user submits."""
        with signed_in(self.server, user) as peer:
            return transact(peer, data, *recipients, sender=sender, mail=mail, rcpt=rcpt, is_bdat=is_bdat)

    def transfer(self, data: bytes, *recipients: str, sender: str = "", mail: str = "", hello: str = "x") -> bytes:
        """What is said at last to a message that another server brings."""
        with Peer(self.server, self.server.smtp_port) as peer:
            peer.send(f"EHLO {hello}\r\n".encode())
            peer.until(rb"220 .*")
            peer.until(rb"250 .*")
            return transact(peer, data, *recipients, sender=sender, mail=mail)

    def settled(self, count: int = 1) -> list[Entry]:
        """What waits in the queue, once so many were tried and it is written down."""

        async def work(store: Store) -> list[Entry]:
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = await store.read(0, queue_view.listing)
                    if len([one for one in found if one.recipient.last_reply and not one.recipient.state]) >= count:
                        return found
                    await asyncio.sleep(0.002)  # asked again: nothing tells of a settling

        return self.server.run(work)

    def wake(self) -> None:
        """Let the runner look again now."""

        async def work(_: Store) -> None:
            self.server.app.runner.wake()

        self.server.run(work)


def signed_in(server: Server, user: str = "anna@example.org") -> Peer:
    """A submission connection of the user."""
    peer = Peer(server, server.submission_port)
    peer.send(b"EHLO x\r\nAUTH PLAIN " + base64.b64encode(f"\0{user}\0secret".encode()) + b"\r\n")
    peer.until(rb"235 .*")
    return peer


def transact(
    peer: Peer,
    data: bytes,
    *recipients: str,
    sender: str = "anna@example.org",
    mail: str = "",
    rcpt: str = "",
    is_bdat: bool = False,
) -> bytes:
    """What is said at last in one transaction: to the message, or to what was refused before it."""
    peer.send(f"MAIL FROM:<{sender}>{mail}\r\n".encode())
    answer = peer.until(rb"\d{3} .*")
    for one in recipients if answer.startswith(b"2") else ():
        peer.send(f"RCPT TO:<{one}>{rcpt}\r\n".encode())
        answer = peer.until(rb"\d{3} .*")
    if not answer.startswith(b"2"):
        return answer
    if is_bdat:
        peer.send(b"BDAT %d LAST\r\n%b" % (len(data), data))
    else:
        peer.send(b"DATA\r\n")
        peer.until(rb"354 .*")
        peer.send(data + (b".\r\n" if data.endswith(b"\r\n") else b"\r\n.\r\n"))
    return peer.until(rb"\d{3} .*")
