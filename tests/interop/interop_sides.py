"""Two sides of one account, held against each other: what stands on the server, and what a client has.

The server's side is played by smtplib and imaplib, so that nothing of Pochta's own judges Pochta.
"""

import hashlib
import imaplib
import re
import smtplib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from interop_messages import MESSAGES, assert_whole, name_of, without_mark

from pochta.proto.imap.mutf7 import decode_mutf7, encode_mutf7
from pochta.testing import Server

PASSWORD: Final = "secret"
SYSTEM_FLAGS: Final = frozenset({r"\Seen", r"\Answered", r"\Flagged", r"\Deleted", r"\Draft"})
_LIST: Final = re.compile(rb'\(.*\) "/" "?(.+?)"?')
_FETCH: Final = re.compile(rb"\d+ \(UID (\d+) FLAGS \((.*?)\) BODY\[\] ")


class Held(NamedTuple):
    """One message in one mailbox; `digest` is the sha256 of its bytes."""

    uid: int
    flags: frozenset[str]
    digest: str


Mailboxes = dict[str, dict[str, Held]]  # mailbox -> name of the message -> what is held


def held(uid: int, flags: Iterable[str], content: bytes, *, has_unix_lines: bool = False) -> Held:
    r"""What stands for one message. `\Recent` is nobody's to keep; a Maildir may keep LF for CRLF."""
    content = without_mark(content)
    content = content.replace(b"\r\n", b"\n") if has_unix_lines else content
    return Held(uid, frozenset(flags) - {r"\Recent"}, hashlib.sha256(content).hexdigest())


class Client(Protocol):
    """A mail program with a copy of the account. A message is named as in `MESSAGES`, and once in a mailbox."""

    has_unix_lines: bool

    @property
    def keeps_flags(self) -> frozenset[str] | None:
        """The flags and keywords that it knows; None: all."""

    def create(self, mailbox: str) -> None:
        """Make a mailbox."""

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        """Put the message in."""

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        """Give the message these system flags and no other; keywords stay."""

    def delete(self, mailbox: str, name: str) -> None:
        """Remove the message for good."""

    def move(self, mailbox: str, name: str, target: str) -> None:
        """Move the message."""

    def sync(self) -> Mailboxes:
        """Do what the program does to agree with the server, and tell what it has then."""


class Account:
    """The server's side of one account: deliveries, and another client's changes."""

    def __init__(self, server: Server, address: str) -> None:
        self.server = server
        self.address = address
        server.add_account(address, PASSWORD)

    @contextmanager
    def imap(self, mailbox: str | None = None) -> Iterator[imaplib.IMAP4]:
        """A signed-in connection, with the mailbox selected."""
        with self.signed_in() as imap:
            if mailbox is not None:
                _ok(imap.select(_wire(mailbox)))
            yield imap

    def signed_in(self) -> imaplib.IMAP4:
        """A new connection."""
        imap = imaplib.IMAP4(self.server.host, self.server.imap_port, timeout=30)
        imap.login(self.address, PASSWORD)
        return imap

    def deliver(self, name: str) -> None:
        """A stranger sends the message."""
        with smtplib.SMTP(self.server.host, self.server.smtp_port, "elsewhere.example", timeout=30) as smtp:
            smtp.sendmail("boris@elsewhere.example", [self.address], MESSAGES[name], ["BODY=8BITMIME"])

    def create(self, mailbox: str, *, use: str = "") -> None:
        r"""Make a mailbox, subscribed; `use` is its special use without the backslash."""
        with self.imap() as imap:
            _ok(imap.create(f"{_wire(mailbox)} (USE (\\{use}))" if use else _wire(mailbox)))
            _ok(imap.subscribe(_wire(mailbox)))

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        """Another client puts the message in."""
        with self.imap() as imap:
            date = '"01-Feb-2025 10:00:00 +0300"'
            _ok(imap.append(_wire(mailbox), f"({' '.join(flags)})", date, MESSAGES[name]))

    def flag(self, mailbox: str, name: str, change: str, *flags: str) -> None:
        """Another client stores flags; `change` is `FLAGS`, `+FLAGS` or `-FLAGS`."""
        with self.imap(mailbox) as imap:
            _ok(imap.uid("STORE", self._uid(imap, name), change, f"({' '.join(flags)})"))

    def delete(self, mailbox: str, name: str) -> None:
        """Another client removes the message for good."""
        with self.imap(mailbox) as imap:
            uid = self._uid(imap, name)
            _ok(imap.uid("STORE", uid, "+FLAGS", r"(\Deleted)"))
            _ok(imap.uid("EXPUNGE", uid))

    def move(self, mailbox: str, name: str, target: str) -> None:
        """Another client moves the message."""
        with self.imap(mailbox) as imap:
            _ok(imap.uid("MOVE", self._uid(imap, name), _wire(target)))

    def mailboxes(self, *, has_unix_lines: bool = False) -> Mailboxes:
        """All that stands on the server; every message is held against what was sent."""
        with self.imap() as imap:
            found = [_LIST.fullmatch(line) for line in _ok(imap.list())]
            names = [decode_mutf7(match[1]) for match in found if match]
            return {name: self._content(imap, name, has_unix_lines) for name in names}

    def contents(self, mailbox: str) -> list[bytes]:
        """The bytes of each message in the mailbox."""
        with self.imap(mailbox) as imap:
            return [one[2] for one in _fetch_all(imap)]

    def _content(self, imap: imaplib.IMAP4, mailbox: str, has_unix_lines: bool) -> dict[str, Held]:
        _ok(imap.select(_wire(mailbox), readonly=True))
        content: dict[str, Held] = {}
        for uid, flags, message in _fetch_all(imap):
            assert_whole(message)
            name = name_of(message)
            assert name not in content, f"{name} stands twice in {mailbox}"
            content[name] = held(uid, flags, message, has_unix_lines=has_unix_lines)
        return content

    def _uid(self, imap: imaplib.IMAP4, name: str) -> str:
        [uid] = _ok(imap.uid("SEARCH", "HEADER", "Message-ID", f'"<{name}@interop.example>"'))
        assert uid.isdigit(), (name, uid)
        return str(int(uid))


def agree(client: Client, account: Account, expected: dict[str, dict[str, str]]) -> None:
    """Let the client sync, then hold both sides against each other and against `expected`: flags by mailbox and name.

    Mailboxes that `expected` does not name must stand empty on both sides.
    """
    has = client.sync()
    on_server = account.mailboxes(has_unix_lines=client.has_unix_lines)
    flags = {
        mailbox: {name: " ".join(sorted(one.flags)) for name, one in content.items()}
        for mailbox, content in on_server.items()
        if content
    }
    assert flags == expected, f"the server has {flags}"
    if client.keeps_flags is not None:
        on_server = {
            mailbox: {name: one._replace(flags=one.flags & client.keeps_flags) for name, one in content.items()}
            for mailbox, content in on_server.items()
        }
    differences = _differences(has, on_server)
    assert not differences, "\n".join(differences)


def _differences(has: Mailboxes, on_server: Mailboxes) -> list[str]:
    """One line for each thing that is not the same on both sides."""
    flat = [{(box, name): one for box in side for name, one in side[box].items()} for side in (has, on_server)]
    lines = [f"{box} stands on one side only" for box in sorted(has.keys() ^ on_server.keys())]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        ours, theirs = flat[0].get(key), flat[1].get(key)
        if ours != theirs:
            lines.append(f"{key}: the client has {ours}, the server {theirs}")
    return lines


def _fetch_all(imap: imaplib.IMAP4) -> Iterator[tuple[int, list[str], bytes]]:
    """UID, flags and bytes of each message in the selected mailbox."""
    if _ok(imap.uid("SEARCH", "ALL")) == [b""]:
        return
    for answer in _ok(imap.fetch("1:*", "(UID FLAGS BODY.PEEK[])")):
        if isinstance(answer, tuple):
            match = _FETCH.match(answer[0])
            assert match, answer[0]
            yield int(match[1]), match[2].decode().split(), answer[1]


def _wire(mailbox: str) -> str:
    return f'"{encode_mutf7(mailbox).decode("ascii")}"'


def _ok(answer: tuple[str, list[Any]]) -> list[Any]:  # Any: bytes, or pairs of bytes where a literal comes
    assert answer[0] == "OK", answer
    return answer[1]
