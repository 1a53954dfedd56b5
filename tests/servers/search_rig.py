"""Messages to search, and a store that holds them."""

import asyncio
import re
from array import array
from base64 import b64encode, encodebytes
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from pochta.delivery.intake import Intake
from pochta.proto.imap import commands as c
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.search import parse_search
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Terms, find
from pochta.store import directory, flags, mailboxes, messages, placements, setup
from pochta.store.store import Store

NOW = 1_750_000_000
DAY = 86_400
EPOCH = date(1970, 1, 1).toordinal()


class Item(NamedTuple):
    """A message and how it stands in the mailbox."""

    raw: bytes
    system_flags: int = 0
    keywords: tuple[str, ...] = ()
    internal_date: int = NOW
    zone_minutes: int = 0


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("ascii")


def b64(text: str, charset: str) -> str:
    return encodebytes(text.encode(charset)).decode("ascii")


def word(text: str, charset: str) -> str:
    return f"=?{charset}?B?{b64encode(text.encode(charset)).decode('ascii')}?="


PLAIN = crlf(
    "From: Alice Smith <alice@example.com>\nTo: bob@example.org, Carol <carol@example.net>\nSubject: Weekly\n"
    "\tstatus   report\nDate: Mon, 23 Nov 2026 23:30:00 -0800\nX-Tag: first Second\nX-Empty:\n"
    "Message-ID: <1@example.com>\n\nThe quick brown fox\njumps over the lazy dog.\n"
)
KOI8 = crlf(
    f"From: {word('Иван Петров', 'koi8-r')} <ivan@example.ru>\nTo: alice@example.com\nCc: team@example.org\n"
    f"Subject: {word('Отчёт за ', 'koi8-r')}\n {word('Ноябрь', 'koi8-r')}\nDate: Tue, 24 Nov 2026 00:10:00 +0300\n"
    "MIME-Version: 1.0\nContent-Type: text/plain; charset=koi8-r\nContent-Transfer-Encoding: base64\n\n"
    + b64("Здравствуйте! Посылаю ёлку и ОТЧЁТ.\n", "koi8-r")
)
MIXED = crlf(
    "From: =?utf-8?q?J=C3=BCrgen_Stra=C3=9Fe?= <j@example.de>\nTo: alice@example.com\nBcc: secret@example.org\n"
    "Subject: Photos\nDate: Wed, 25 Nov 2026 10:00:00 +0100\nMIME-Version: 1.0\n"
    'Content-Type: multipart/mixed; boundary="bound"\n\npreamble nobody\n--bound\n'
    'Content-Type: multipart/alternative; boundary="inner"\n\n--inner\nContent-Type: text/plain; charset=utf-8\n'
    "Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=\n=C3=9Fe aus M=C3=BCnchen\n--inner\n"
    "Content-Type: text/html; charset=windows-1251\nContent-Transfer-Encoding: base64\n\n"
    + b64("<p>Привет &amp; пока, caf&eacute;</p>", "cp1251")
    + "--inner--\n--bound\nContent-Type: application/octet-stream; name=archive.bin\n"
    "Content-Disposition: attachment; filename*=utf-8''%D0%B4%D0%BE%D0%BA%D1%83%D0%BC%D0%B5%D0%BD%D1%82.bin\n"
    "Content-Transfer-Encoding: base64\n\n" + b64("hiddenword in an attachment", "ascii") + "--bound--\n"
)
FORWARD = crlf(
    "From: dave@example.com\nTo: alice@example.com\nSubject: Fwd: hello\nDate: not a date\nMIME-Version: 1.0\n"
    "Content-Type: multipart/mixed; boundary=fw\n\n--fw\n\nsee below\n--fw\nContent-Type: message/rfc822\n\n"
    f"From: erin@example.com\nSubject: {word('Внутри', 'utf-8')}\n\ninner words here\n--fw--\n"
)
BARE = crlf("From: zed@example.com\nX-Tag: third\n\nno subject, no date\n")

ITEMS = (
    Item(PLAIN, flags.SEEN, ("$Label1", "work"), NOW, 0),
    Item(KOI8, flags.FLAGGED | flags.ANSWERED, (), NOW - 40 * DAY, 180),
    Item(MIXED, flags.DELETED, ("WORK",), NOW + 3 * DAY, -480),
    Item(FORWARD, flags.DRAFT | flags.SEEN, (), NOW, 720),
    Item(BARE, 0, (), NOW - DAY, -720),
)


class Bench:
    """A store with one mailbox, and its view."""

    def __init__(self, data_dir: Path) -> None:
        self.runner = asyncio.Runner()
        setup.create(data_dir)
        setup.prepare(data_dir)
        self.store = self.runner.run(self._begin(data_dir))
        self.intake = Intake(self.store.blobs, memory_limit_bytes=1 << 26)
        self.recent: list[tuple[int, int]] = []

    async def _begin(self, data_dir: Path) -> Store:
        store = Store(data_dir)
        store.start(hears_hints=False)
        await store.write(0, directory.add_domain, "example.org", "example.org", None, NOW)
        self.account_id = await store.write(0, directory.add_account, "example.org", "u", "u@example.org", "", 0, NOW)
        self.mailbox_id = (await store.read(0, mailboxes.find, self.account_id, "INBOX")).id
        return store

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    async def _append(self, items: Sequence[Item]) -> None:
        ready = []
        for item in items:
            incoming = self.intake.open()
            incoming.write(item.raw)
            new = await incoming.finish(NOW)
            place = messages.NewPlacement(item.system_flags, item.keywords, item.internal_date, item.zone_minutes)
            ready.append((new, place))
        for start in range(0, len(ready), 500):
            part = tuple(ready[start : start + 500])
            await self.store.write(0, messages.append, self.account_id, "INBOX", part, NOW)

    def append(self, *items: Item) -> None:
        self.runner.run(self._append(items))

    def expunge(self, uid: int) -> None:
        async def work() -> None:
            ranges = ((uid, uid),)
            await self.store.write(0, placements.expunge, self.account_id, self.mailbox_id, ranges, NOW, False)

        self.runner.run(work())

    def execute(self, sql: str, *args: int) -> None:
        async def work() -> None:
            await self.store.write(0, _execute, sql, args)

        self.runner.run(work())

    def view(self) -> Snapshot:
        ranges = ((1, messages.UID_LIMIT),)
        rows = self.runner.run(self.store.read(0, placements.flags_of, self.account_id, self.mailbox_id, ranges))
        return Snapshot.of(array("I", [row[0] for row in rows]), array("q", [row[1] for row in rows]), 1)

    def keywords(self) -> dict[str, int]:
        known = self.runner.run(self.store.read(0, flags.keywords, self.account_id))
        return {name.lower(): bit for bit, name in known.items()}

    def find(self, key: c.SearchKey, view: Snapshot | None = None) -> list[int]:
        """The sequence numbers found."""

        async def work() -> list[int]:
            mailbox = Mailbox(self.store, self.account_id, self.mailbox_id)
            found: list[int] = []
            terms = Terms(self.recent, known, now_s=NOW)
            async for facts, positions in find(mailbox, snapshot, key, terms):
                found += [facts.part.seq + at for at in positions]
            return found

        snapshot = view or self.view()
        known = self.keywords()
        return self.runner.run(work())

    def ask(self, text: str, view: Snapshot | None = None) -> list[int]:
        return self.find(key_of(text), view)


def _execute(tx: Any, sql: str, args: tuple[int, ...]) -> int:
    return int(tx.run(sql, args))


NON_ASCII_WORD = re.compile(r'(?<=[A-Z] )[^ "]*[^\x00-\x7f"][^ "]*')


def key_of(text: str) -> c.SearchKey:
    line = NON_ASCII_WORD.sub(r'"\g<0>"', text).encode("utf-8")
    command = parse_search(Lexer(line, 0, len(line)), is_uid=False)
    assert isinstance(command, c.Search)
    return command.key
