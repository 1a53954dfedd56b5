"""The operations of `growth` in one mailbox, and how it is filled.

Of each tenth of the mailbox the first message is unseen, the next hold the rare words, then come those that stay and
those that are expunged one by one. The text of all others is the same.
"""

import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from rich.progress import Progress

from measure import wire
from measure.fill import fill, fill_index, writing
from measure.meter import Meter
from measure.server import DOMAIN, HOST
from measure.wire import Imap
from pochta.delivery.intake import new_message
from pochta.mime.facts import facts
from pochta.store import blobs
from pochta.store.blobs import NewBlob

MESSAGE_BYTES = 900
PARTS = 10
WORDS = 20
STAYING = range(1 + WORDS, 31)
EXPUNGED_FROM = 31
SMALLEST = 1000  # 690 of these may be expunged, 27 in a round
ROUNDS_MAX = 25

PAGE = b"(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODY.PEEK[HEADER.FIELDS (References Content-Type List-Post)])"


class Smtp:
    """One connection that delivers messages one by one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=wire.TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = count(1)
        self._replies(1)
        self.socket.sendall(b"EHLO client.example.org\r\n")
        self._replies(1)

    def _replies(self, number: int) -> None:
        """Read so many replies."""
        data = b""
        while True:
            lines = data.split(b"\r\n")
            last = [line for line in lines[:-1] if line[3:4] == b" "]
            if any(line[:1] not in b"23" for line in last):
                raise RuntimeError(f"refused: {data[-300:]!r}")
            if len(last) >= number and not lines[-1]:
                return
            part = self.socket.recv(wire.READ_BYTES)
            if not part:
                raise RuntimeError(f"the server closed the connection: {data[-200:]!r}")
            data += part

    def deliver(self, user: str) -> None:
        """A message that differs from the one before; returns with its 250."""
        recipient = f"{user}@{DOMAIN}".encode()
        self.socket.sendall(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<" + recipient + b">\r\nDATA\r\n")
        self._replies(3)
        self.socket.sendall(wire.sample_message(MESSAGE_BYTES, number=next(self._number)) + b".\r\n")
        self._replies(1)

    def close(self) -> None:
        """Close without a word."""
        self.socket.close()


def _word(number: int) -> str:
    """A word that shares few trigrams with others."""
    return "".join(chr(97 + (number * 7 + place * place * 5 + number * place) % 26) for place in range(9))


def fill_mailbox(data_dir: Path, size: int, progress: Progress) -> None:
    """INBOX of u0 with `size` messages, ten of them unseen, ten for each rare word, and its text index."""
    message = wire.sample_message(MESSAGE_BYTES)
    step = size // PARTS
    filling = progress.add_task(f"{size} messages", total=size)
    for _ in range(PARTS):
        fill(data_dir, f"u0@{DOMAIN}", "INBOX", step, message, unseen_every=step)
        progress.advance(filling, step)
    _plant_words(data_dir, message, step)
    indexing = progress.add_task(f"{size} in the index", total=size)
    fill_index(data_dir, f"u0@{DOMAIN}", lambda more: progress.advance(indexing, more))


def _plant_words(data_dir: Path, message: bytes, step: int) -> None:
    with writing(data_dir) as tx:
        ((account_id, first_id),) = tx.rows(
            "SELECT account_id, min(message_id) FROM placement WHERE account_id ="
            " (SELECT id FROM account WHERE address = ?)",
            (f"u0@{DOMAIN}",),
        )
        now = int(time.time())
        for number in range(WORDS):
            data = message[:-11] + _word(number).encode() + b"\r\n"  # as long as all others
            new = new_message(NewBlob(len(data), data, None), facts(data), now)
            blob_id = blobs.insert(tx, new.blob, now)
            for part in range(PARTS):
                place = first_id + part * step + 1 + number
                tx.run("UPDATE message SET blob_id = ? WHERE account_id = ? AND id = ?", (blob_id, account_id, place))


class Mailbox:
    """The operations in one mailbox of `size` messages; those that change it leave it as large as it was."""

    def __init__(self, meter: Meter, size: int) -> None:
        self.meter = meter
        self.step = size // PARTS
        self.port = meter.server.imap_port
        self.came = 0  # messages, by delivery or APPEND
        self._flags, self._expunged, self._round = count(), count(), count()
        self.connect()

    def connect(self) -> None:
        """After a start."""
        self.smtp = Smtp(self.meter.server.smtp_port)
        self.imap, self.other = Imap(self.port), Imap(self.port)
        for one in (self.imap, self.other):
            one.command(b"SELECT INBOX")

    def close(self) -> None:
        """Before a stop."""
        for one in (self.imap, self.other, self.smtp):
            one.close()

    def _staying(self, number: int) -> int:
        """The uid of a message that stays, in each part of the mailbox in turn."""
        return 1 + number % PARTS * self.step + STAYING[number // PARTS % len(STAYING)]

    def _next_expunged(self) -> int:
        number = next(self._expunged)
        apart = (self.step - EXPUNGED_FROM) // (SMALLEST // PARTS - EXPUNGED_FROM)
        return 1 + number % PARTS * self.step + EXPUNGED_FROM + number // PARTS * apart

    def _flag(self, imap: Imap) -> None:
        number = next(self._flags)
        sign = b"-" if number // (PARTS * len(STAYING)) % 2 else b"+"
        imap.command(b"UID STORE %d %bFLAGS (\\Flagged)" % (self._staying(number), sign))

    def _mark_deleted(self, imap: Imap) -> int:
        uid = self._next_expunged()
        imap.command(b"UID STORE %d +FLAGS.SILENT (\\Deleted)" % uid)
        return uid

    def disturb(self) -> None:
        """Let a message come, a flag change and a message go."""
        self._deliver()
        self._flag(self.other)
        self.other.command(b"UID EXPUNGE %d" % self._mark_deleted(self.other))

    def _deliver(self) -> None:
        self.came += 1
        self.smtp.deliver("u0")

    def _append(self) -> None:
        self.came += 1
        message = wire.sample_message(MESSAGE_BYTES, number=self.came)
        self.imap.command(b"APPEND INBOX {%d+}\r\n" % len(message) + message)

    def _count(self) -> int:
        answer = self.other.command(b"STATUS INBOX (MESSAGES)")
        return int(answer.split(b"MESSAGES ")[1].split(b")")[0])

    def _on_new_connection(self, name: str, command: bytes, *before: bytes) -> None:
        imap = Imap(self.port)
        for one in before:
            imap.command(one)
        self.meter.measure(name, lambda: imap.command(command))
        imap.close()

    def _search(self, key: str, found: int, *, is_exact: bool = True) -> None:
        answer = self.imap.command(f"UID SEARCH {key}".encode())
        hits = answer.split(b"\r\n")
        number = max(len(line.split()) - 2 for line in hits if line.startswith(b"* SEARCH"))
        if number != found if is_exact else number < found:
            raise RuntimeError(f"{key}: {number} found, not {found}")

    def run_round(self) -> None:
        """Each operation once."""
        measure, imap = self.meter.measure, self.imap
        number = next(self._round)
        hundred = 1 + number % 9 * self.step
        steps: list[tuple[str, Callable[[], object]]] = [
            ("NOOP, three changes", lambda: imap.command(b"NOOP")),
            ("APPEND", self._append),
            ("delivery", self._deliver),
            ("STORE of one", lambda: self._flag(imap)),
            ("COPY of one", lambda: imap.command(b"UID COPY %d Archive" % self._staying(number))),
            ("COPY of 100", lambda: imap.command(b"COPY %d:%d Archive" % (hundred, hundred + 99))),
            ("FETCH a body", lambda: imap.command(b"UID FETCH %d (BODY.PEEK[])" % self._staying(number * 7))),
            ("STATUS", lambda: imap.command(b"STATUS INBOX (MESSAGES UNSEEN UIDNEXT HIGHESTMODSEQ)")),
            ("SEARCH BODY, 10 hits", lambda: self._search(f"BODY {_word(number % WORDS)}", PARTS)),
            ("SEARCH UNSEEN", lambda: self._search("UNSEEN", PARTS, is_exact=False)),
        ]
        imap.command(b"NOOP")  # what the round before has changed
        for name, operation in steps:
            self.disturb()
            measure(name, operation)
        self.disturb()
        self._on_new_connection("SELECT", b"SELECT INBOX")
        self._remove(imap)
        self._page("page of 50", imap)
        self._qresync()
        self._see_new()

    def _page(self, name: str, imap: Imap) -> None:
        last = self._count()
        imap.command(b"NOOP")
        self.meter.measure(name, lambda: imap.command(b"FETCH %d:%d " % (last - 49, last) + PAGE))

    def _remove(self, imap: Imap) -> None:
        for name, command in (("EXPUNGE of one", b"EXPUNGE"), ("UID EXPUNGE of one", b"UID EXPUNGE UID-OF-IT")):
            self.disturb()
            uid = self._mark_deleted(imap)
            self.meter.measure(name, partial(imap.command, command.replace(b"UID-OF-IT", b"%d" % uid)))
        self.disturb()
        uid = self._next_expunged()
        self.meter.measure("MOVE of one", lambda: imap.command(b"UID MOVE %d Trash" % uid))

    def _qresync(self) -> None:
        """Fifty changes, and a client that comes back to them."""
        answer = self.other.command(b"STATUS INBOX (UIDVALIDITY HIGHESTMODSEQ)")
        words = answer.replace(b"(", b" ").replace(b")", b" ").split()
        known = b" ".join(words[words.index(word) + 1] for word in (b"UIDVALIDITY", b"HIGHESTMODSEQ"))
        for _ in range(30):
            self._flag(self.other)
        for _ in range(10):
            self.other.command(b"UID EXPUNGE %d" % self._mark_deleted(self.other))
        for number in range(10):
            self.other.command(b"UID COPY %d INBOX" % self._staying(number))
        self._on_new_connection("QRESYNC, 50 changes", b"SELECT INBOX (QRESYNC (" + known + b"))", b"ENABLE QRESYNC")

    def _see_new(self) -> None:
        """What has come is seen, so that few stay unseen."""
        first = PARTS * self.step + 1
        self.other.command(b"UID STORE %d:* +FLAGS.SILENT (\\Seen)" % first)

    def run_cold(self, number: int) -> None:
        """The first commands of a worker that has just started: a page, and after another start searches."""
        measure = self.meter.measure
        imap = self._restarted()
        measure("SELECT, first after a start", partial(imap.command, b"SELECT INBOX"))
        self._page("page of 50, first", imap)
        imap = self._restarted()
        imap.command(b"SELECT INBOX")
        measure("SEARCH UNSEEN, first", partial(imap.command, b"UID SEARCH UNSEEN"))
        measure("SEARCH BODY, first", partial(imap.command, f"UID SEARCH BODY {_word(number)}".encode()))
        measure("SEARCH BODY, second", partial(imap.command, f"UID SEARCH BODY {_word(number + 1)}".encode()))

    def _restarted(self) -> Imap:
        """The measured connection to a worker that has seen nothing of the mailbox yet."""
        self.close()
        self.meter.server.stop()
        self.meter.server.start()
        self.meter.begin()
        self.meter.tell("start until at rest", self.meter.start_s * 1e6)
        self.smtp = Smtp(self.meter.server.smtp_port)
        self.imap, self.other = Imap(self.port), Imap(self.port)
        return self.imap
