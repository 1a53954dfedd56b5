"""Clients of a server that is about to be killed: each takes a step in two halves, `prepare` and `final`.

After `prepare` everything but the last bytes of a command has been sent; `final` is what sets the server to work. So a
test can bring many connections to that point and let them go at once. What a step changes is an `Effect`; the test
keeps a ledger of effects and compares it with what stands in the mailboxes.
"""

import re
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

from crash_server import DEADLINE_S, DOMAIN, PASSWORD

Place = tuple[str, str]  # account, mailbox

FILE_BYTES = 70_000  # past what stands in the database: bytes in a file of their own
_COPYUID = re.compile(rb"\[COPYUID (\d+) (\d+) (\d+)\]")
_NEWS_DONE = re.compile(rb"(?s)\A.*?(?:\A|\r\n)n OK [^\r\n]*\r\n")
_APPENDUID = re.compile(rb"\[APPENDUID (\d+) (\d+)\]")


@dataclass
class Effect:
    """What one step does, all of it or nothing: changes of how often a subject stands in a place, flags of a uid."""

    counts: dict[tuple[Place, str], int] = field(default_factory=dict)
    flags: dict[tuple[Place, int], frozenset[str]] = field(default_factory=dict)
    told: dict[tuple[Place, int], str] = field(default_factory=dict)  # place and uid as the server announced them
    is_message: bool = False  # it has an end of data


def body_of(subject: str) -> bytes:
    """The text of the message of that subject."""
    seed = Random(subject)
    size = FILE_BYTES if seed.random() < 0.15 else seed.randrange(20, 4000)
    line = subject.encode() + b" " + b"x" * 60 + b"\r\n"
    return line * (size // len(line) + 1)


def message_of(subject: str) -> bytes:
    """The whole message."""
    return b"From: <s@example.net>\r\nSubject: %b\r\n\r\n" % subject.encode() + body_of(subject)


class Lost(Exception):
    """The connection broke."""


class Wire:
    """A socket and what came in on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.is_lost = False

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            self.is_lost = True
            raise Lost from error

    def poll(self) -> None:
        """Take what has arrived, without waiting."""
        while not self.is_lost and select.select([self.socket], [], [], 0)[0]:
            self.receive()

    def wait_for(self, pattern: "re.Pattern[bytes]") -> "re.Match[bytes]":
        """The first match in what is received; what comes up to its end is forgotten. Raises: Lost."""
        while not (match := pattern.search(self.received)):
            if self.is_lost:
                raise Lost
            self.receive()
        self.received = self.received[match.end() :]
        return match

    def receive(self) -> None:
        """Wait for more; at the end `is_lost`."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        self.is_lost = not data
        self.received += data

    def close(self) -> None:
        self.socket.close()
        self.is_lost = True


class Peer:
    """A connection that takes steps. `effect` is that of the step under way."""

    reply: "re.Pattern[bytes]"  # the answer to `final`; group 1 is the status

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.worker = 0
        self.effect = Effect()
        self.final = b""
        self.is_sent = False

    def address(self, smtp: tuple[str, int], imap: tuple[str, int]) -> tuple[str, int]:
        return imap

    def connect(self, address: tuple[str, int]) -> None:
        self.close()
        self.wire = Wire(address)
        self.greet(self.wire)

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    def greet(self, wire: Wire) -> None:
        raise NotImplementedError

    def fire(self) -> None:
        """Send the last bytes."""
        assert self.wire is not None
        self.is_sent = True
        self.wire.send(self.final)

    @property
    def is_in_flight(self) -> bool:
        """Whether a message stands between its end of data and the reply, as far as this side can know."""
        return (
            self.is_sent
            and self.effect.is_message
            and self.wire is not None
            and not self.wire.is_lost
            and self.reply.search(self.wire.received) is None
        )

    def answer(self) -> bytes | None:
        """The status that answered the step; None when the connection broke first."""
        assert self.wire is not None
        try:
            match = self.wire.wait_for(self.reply)
        except Lost:
            self.close()
            return None
        self.learn(match)
        return match[1]

    def learn(self, match: "re.Match[bytes]") -> None:
        """Take the uids from the answer."""


class SmtpPeer(Peer):
    """Delivers messages to one account or to several."""

    reply = re.compile(rb"(?m)^(\d{3}) .*\r\n")

    def address(self, smtp: tuple[str, int], imap: tuple[str, int]) -> tuple[str, int]:
        return smtp

    def greet(self, wire: Wire) -> None:
        wire.wait_for(self.reply)
        wire.send(b"EHLO client.example.net\r\n")
        wire.wait_for(self.reply)

    def prepare(self, subject: str, accounts: list[str]) -> None:
        assert self.wire is not None
        lines = [f"RCPT TO:<{one}@{DOMAIN}>\r\n" for one in accounts]
        self.wire.send(f"MAIL FROM:<s@example.net>\r\n{''.join(lines)}DATA\r\n".encode())
        for _ in range(len(accounts) + 2):
            assert self.wire.wait_for(self.reply)[1] in (b"250", b"354")
        self.wire.send(message_of(subject))
        self.effect = Effect({((one, "INBOX"), subject): 1 for one in accounts}, is_message=True)
        self.final = b".\r\n"


class ImapPeer(Peer):
    """Appends messages, or changes, copies and moves those of its account's INBOX."""

    reply = re.compile(rb"(?s)\A.*?(?:\A|\r\n)t (OK|NO|BAD)[^\r\n]*\r\n")

    def __init__(self, account: str) -> None:
        super().__init__()
        self.account = account

    def greet(self, wire: Wire) -> None:
        wire.wait_for(re.compile(rb"\* OK .*\r\n"))
        wire.send(f"l LOGIN {self.account}@{DOMAIN} {PASSWORD}\r\ns SELECT INBOX\r\n".encode())
        wire.wait_for(re.compile(rb"s OK .*\r\n"))

    def prepare_append(self, subject: str, mailbox: str) -> None:
        self._forget_news()
        assert self.wire is not None
        message = message_of(subject)
        self.wire.send(b"t APPEND %b {%d+}\r\n" % (mailbox.encode(), len(message)) + message)
        self.effect = Effect({((self.account, mailbox), subject): 1}, is_message=True)
        self.final = b"\r\n"

    def prepare_store(self, uid: int, flags: frozenset[str]) -> None:
        self.effect = Effect(flags={((self.account, "INBOX"), uid): flags})
        self._command(b"UID STORE %d FLAGS.SILENT (%b)" % (uid, " ".join(sorted(flags)).encode()))

    def prepare_copy(self, uid: int, subject: str, mailbox: str) -> None:
        self.effect = Effect({((self.account, mailbox), subject): 1})
        self._command(b"UID COPY %d %b" % (uid, mailbox.encode()))

    def prepare_move(self, uid: int, subject: str, mailbox: str) -> None:
        self.effect = Effect({((self.account, mailbox), subject): 1, ((self.account, "INBOX"), subject): -1})
        self._command(b"UID MOVE %d %b" % (uid, mailbox.encode()))

    def prepare_expunge(self, uid: int, subject: str, flags: frozenset[str]) -> None:
        place = self.account, "INBOX"
        self._forget_news()
        assert self.wire is not None
        self.wire.send(b"n UID STORE %d +FLAGS.SILENT (\\Deleted)\r\n" % uid)
        self.wire.wait_for(_NEWS_DONE)
        self._command(b"UID EXPUNGE %d" % uid)
        self.effect = Effect({(place, subject): -1}, {(place, uid): flags | {"\\Deleted"}})

    def _forget_news(self) -> None:
        """The session is told of what other sessions did: a command works on what its client knows."""
        assert self.wire is not None
        self.wire.send(b"n NOOP\r\n")
        self.wire.wait_for(_NEWS_DONE)

    def _command(self, command: bytes) -> None:
        self._forget_news()
        self.final = b"t " + command + b"\r\n"

    def learn(self, match: "re.Match[bytes]") -> None:
        """APPENDUID stands in the tagged answer, COPYUID there or, with MOVE, before it."""
        added = [key for key, count in self.effect.counts.items() if count > 0]
        found = _APPENDUID.search(match[0]) or _COPYUID.search(match[0])
        if match[1] == b"OK" and added:
            assert found is not None, match[0]
            (place, subject) = added[0]
            self.effect.told[place, int(found[found.re.groups])] = subject


class Reader:
    """What stands in the mailboxes, by IMAP."""

    _row = re.compile(rb'\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\) ENVELOPE \((?:NIL|"[^"]*") "(\w+)"')
    _select = re.compile(rb"(?s)\[UIDVALIDITY (\d+)\].*?\[UIDNEXT (\d+)\].*?\r\ne OK [^\r\n]*\r\n")
    _done = re.compile(rb"(?s)^(.*?)(?<![^\r\n])f OK [^\r\n]*\r\n")
    _text = re.compile(rb"\* \d+ FETCH \(UID (\d+) BODY\[TEXT\] \{(\d+)\}\r\n")

    def __init__(self, address: tuple[str, int], account: str) -> None:
        self._wire = Wire(address)
        self._wire.send(f"l LOGIN {account}@{DOMAIN} {PASSWORD}\r\n".encode())
        self._wire.wait_for(re.compile(rb"l OK .*\r\n"))

    def open(self, mailbox: str) -> tuple[int, int]:
        """(UIDVALIDITY, UIDNEXT)"""
        self._wire.send(b"e EXAMINE %b\r\n" % mailbox.encode())
        match = self._wire.wait_for(self._select)
        return int(match[1]), int(match[2])

    def rows(self) -> dict[int, tuple[str, frozenset[str]]]:
        """uid -> (subject, flags without \\Recent)"""
        self._wire.send(b"f UID FETCH 1:* (UID FLAGS ENVELOPE)\r\n")
        text = self._wire.wait_for(self._done)[1]
        found: dict[int, tuple[str, frozenset[str]]] = {}
        for uid, flags, subject in self._row.findall(text):
            assert int(uid) not in found
            found[int(uid)] = subject.decode(), frozenset(flags.decode().split()) - {"\\Recent"}
        assert len(found) == text.count(b"ENVELOPE")
        return found

    def texts(self, uids: Mapping[int, object]) -> dict[int, bytes]:
        """uid -> the bytes behind the header"""
        found: dict[int, bytes] = {}
        if uids:
            self._wire.send(b"f UID FETCH %d:%d (UID BODY.PEEK[TEXT])\r\n" % (min(uids), max(uids)))
            text = self._wire.wait_for(self._done)[1]
            at = 0
            while match := self._text.search(text, at):
                at = match.end() + int(match[2])
                found[int(match[1])] = text[match.end() : at]
        return found

    def close(self) -> None:
        self._wire.close()
