"""SEARCH over a real store, judged by a plain model on top of the standard library's email package."""

import asyncio
import email
import email.header
import email.policy
import email.utils
import re
import unicodedata
from array import array
from base64 import b64encode, encodebytes
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pochta import clock, log
from pochta.delivery.intake import Intake
from pochta.mime.parse import parse
from pochta.proto.imap import commands as c
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.search import MAX_SEARCH_DEPTH, parse_search
from pochta.proto.imap.seqset import parse_seq_set
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap import search, search_facts, search_text
from pochta.servers.imap.search_facts import Mailbox
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
            async for facts, positions in search.find(mailbox, snapshot, key, self.recent, known):
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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("search") / "data")
    made.append(*ITEMS)
    made.recent = [(4, 5)]
    yield made
    made.close()


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ALL", [1, 2, 3, 4, 5]),
        ("1,3:4", [1, 3, 4]),
        ("2:*", [2, 3, 4, 5]),
        ("*", [5]),
        ("9:*", [5]),
        ("7,2", [2]),
        ("7", []),
        ("UID 2,4:900", [2, 4, 5]),
        ("UID 900:*", [5]),
        ("SEEN", [1, 4]),
        ("UNSEEN", [2, 3, 5]),
        ("FLAGGED ANSWERED", [2]),
        ("UNFLAGGED UNANSWERED", [1, 3, 4, 5]),
        ("DELETED", [3]),
        ("DRAFT", [4]),
        ("UNDRAFT UNDELETED", [1, 2, 5]),
        ("RECENT", [4, 5]),
        ("NEW", [5]),
        ("OLD", [1, 2, 3]),
        ("KEYWORD Work", [1, 3]),
        ("KEYWORD $LABEL1", [1]),
        ("UNKEYWORD work", [2, 4, 5]),
        ("KEYWORD nobody", []),
        ("UNKEYWORD nobody", [1, 2, 3, 4, 5]),
        ("NOT SEEN", [2, 3, 5]),
        ("OR SEEN DELETED", [1, 3, 4]),
        ("NOT (SEEN DRAFT)", [1, 2, 3, 5]),
        ("OR (SEEN DRAFT) OR DELETED 2", [2, 3, 4]),
        ("NOT NOT SEEN", [1, 4]),
    ],
)
def test_keys_of_the_view(filled: Bench, text: str, expected: list[int]) -> None:
    assert filled.ask(text) == expected


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FROM "alice smith"', [1]),
        ("FROM ИВАН", [2]),
        ('FROM "STRASSE"', [3]),
        ("FROM jurgen", []),
        ("TO carol", [1]),
        ("TO alice@EXAMPLE.com", [2, 3, 4]),
        ("CC team", [2]),
        ('CC ""', [2]),
        ("BCC secret", [3]),
        ('SUBJECT "Weekly status report"', [1]),
        ('SUBJECT "отчёт за ноябрь"', [2]),
        ('SUBJECT ""', [1, 2, 3, 4]),
        ("HEADER Message-ID <1@", [1]),
        ("HEADER X-Tag second", [1]),
        ('HEADER X-TAG ""', [1, 5]),
        ('HEADER X-Empty ""', [1]),
        ("HEADER X-Empty x", []),
        ('HEADER X-Nothing ""', []),
        ('NOT HEADER X-Tag ""', [2, 3, 4]),
        ("SENTON 23-Nov-2026", [1]),
        ("SENTON 24-Nov-2026", [2]),
        ("SENTBEFORE 25-Nov-2026", [1, 2]),
        ("SENTSINCE 24-Nov-2026", [2, 3]),
        ("NOT SENTSINCE 1-Jan-1980", [4, 5]),
        (f"LARGER {len(BARE)}", [1, 2, 3, 4]),
        (f"SMALLER {len(BARE) + 1}", [5]),
        (f"NOT LARGER {len(BARE) - 1} NOT SMALLER {len(BARE)}", []),
    ],
)
def test_keys_of_rows_and_headers(filled: Bench, text: str, expected: list[int]) -> None:
    assert filled.ask(text) == expected


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('BODY "QUICK brown"', [1]),
        ("BODY weekly", []),
        ("TEXT weekly", [1]),
        ('TEXT "subject: weekly status"', [1]),
        ("BODY отчёт", [2]),
        ("BODY елку", []),
        ("BODY ёлку", [2]),
        ('TEXT "за ноябрь"', [2]),
        ('BODY "grüsse aus münchen"', [3]),
        ("BODY привет", [3]),
        ('BODY "привет & пока, CAFÉ"', [3]),
        ("BODY &amp;", [3]),
        ("BODY hiddenword", []),
        ("TEXT hiddenword", []),
        ("TEXT ДОКУМЕНТ.bin", [3]),
        ("BODY archive.bin", []),
        ("TEXT archive.bin", [3]),
        ("BODY nobody", []),
        ("BODY внутри", [4]),
        ('BODY "inner words"', [4]),
        ('BODY ""', [1, 2, 3, 4, 5]),
        ('TEXT ""', [1, 2, 3, 4, 5]),
        ("NOT BODY o", [2, 3]),
        ("OR BODY fox TEXT внутри", [1, 4]),
        ("BODY fox BODY dog NOT BODY cat", [1]),
        ("OR BODY fox OR SUBJECT photos SEEN", [1, 3, 4]),
    ],
)
def test_keys_of_texts(filled: Bench, text: str, expected: list[int]) -> None:
    assert filled.ask(text) == expected


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(("at", "zone", "day"), [(DAY - 60, 0, 0), (DAY - 60, 1, 1), (DAY, -1, 0), (30, -720, -1)])
def test_internal_date_counts_in_its_own_zone(bench: Bench, at: int, zone: int, day: int) -> None:
    bench.append(Item(BARE, internal_date=at, zone_minutes=zone))
    for test, expected in ((c.DateTest.ON, [False, True, False]), (c.DateTest.SINCE, [True, True, False]),
                           (c.DateTest.BEFORE, [False, False, True])):  # fmt: skip
        found = [bench.find(c.SearchDate(test, day + n, is_sent=False)) == [1] for n in (-1, 0, 1)]
        assert found == expected


@pytest.mark.parametrize("text", ["TEXT fox", "FROM alice", "ON 15-Jun-2025", "SMALLER 10000", "HEADER X-Tag first"])
def test_removed_messages_are_searched_while_they_are_kept(bench: Bench, text: str) -> None:
    bench.append(ITEMS[0], Item(BARE, internal_date=0), ITEMS[0])
    view = bench.view()
    expected = bench.ask(text, view)
    assert expected[0] == 1
    assert expected[-1] == 3
    bench.expunge(1)
    assert bench.ask(text, view) == expected
    bench.execute("DELETE FROM removed WHERE uid = ?", 1)
    assert bench.ask(text, view) == expected[1:]
    assert 1 not in bench.ask(f"NOT {text}", view)


def test_damaged_message_is_passed_over_and_told(bench: Bench) -> None:
    bench.append(ITEMS[0], ITEMS[0])
    bench.execute("DELETE FROM blob_inline WHERE blob_id = ?", 1)
    lines: list[str] = []
    before = log.set_sink(lines.append)
    try:
        assert bench.ask("OR BODY fox NOT BODY fox") == [2]
        assert bench.ask("HEADER X-Tag first") == [2]
    finally:
        log.set_sink(before)
    assert [line.split()[1] for line in lines] == ["imap.search.damaged"] * 2


def test_header_too_large_for_a_core_is_opened(bench: Bench) -> None:
    many = ", ".join(f"user{n}@example.org" for n in range(6000))
    long = f"From: a@b.c\r\nTo: {many}\r\nCc: last@example.com\r\nSubject: big\r\n\r\nbody\r\n".encode("ascii")
    folded = long.replace(b", ", b",\r\n ")
    bench.append(Item(long), Item(folded))
    assert bench.ask("TO user5999@") == [1, 2]
    assert bench.ask("TO user17@ CC last@example.com SUBJECT big") == [1, 2]
    assert bench.ask('TO "user1499@example.org, user1500@example.org, user1501@"') == [1, 2]
    assert bench.ask('TEXT "user3333@example.org, user3334"') == [1, 2]
    assert bench.ask("TO nobody") == []


def pieces_text(unit: str, count: int) -> str:
    return "".join(f"{unit} {n} line\n" for n in range(count))


LARGE = [
    ("koi8-r", "base64", "Слово й"),
    ("utf-8", "base64", "Слово й ё"),
    ("utf-8", "quoted-printable", "Grüße"),
    ("utf-16", "base64", "Слово"),
    ("shift_jis", "base64", "日本語"),
    ("us-ascii", "7bit", "plain"),
]


@pytest.mark.parametrize(("charset", "encoding", "unit"), LARGE, ids=[f"{one[0]}-{one[1]}" for one in LARGE])
@pytest.mark.parametrize("has_lines", [True, False])
def test_large_text_is_found_over_every_edge(
    bench: Bench, charset: str, encoding: str, unit: str, has_lines: bool
) -> None:
    text = pieces_text(unit, 12_000)
    if not has_lines:
        text = text.replace("\n", " ")
    data = text.encode(charset)
    if encoding == "base64":
        body = encodebytes(data).replace(b"\n", b"\r\n")
    elif encoding == "quoted-printable":
        body = b"".join(b"=%02X" % octet if octet > 126 or octet == 61 else bytes((octet,)) for octet in data)
    else:
        body = data
    head = f"Subject: x\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    bench.append(Item(head.encode("ascii") + body))
    assert bench.runner.run(bench.store.read(0, _files)) == 1
    keys = [c.SearchText(c.TextScope.BODY, f"{unit.upper()} {n} LINE") for n in range(0, 12_000, 61)]
    assert bench.find(c.SearchAnd(tuple(keys))) == [1]
    assert bench.find(c.SearchText(c.TextScope.TEXT, f"{unit} 11999 line")) == [1]
    assert bench.find(c.SearchText(c.TextScope.BODY, f"{unit} 12000 line")) == []
    whole = text[100:90_000].rstrip()
    assert bench.find(c.SearchText(c.TextScope.BODY, whole)) == [1]
    assert bench.find(c.SearchText(c.TextScope.BODY, whole + "!")) == []


def _files(tx: Any) -> int:
    return int(tx.row("SELECT count(*) FROM blob WHERE file IS NOT NULL")[0])


def test_deepest_key_is_answered(filled: Bench) -> None:
    depth = MAX_SEARCH_DEPTH - 2
    assert filled.ask("NOT " * depth + "BODY fox") == [1]
    chain = "OR BODY nothere " * depth + "SUBJECT photos"
    assert filled.ask(chain) == [3]


def test_no_turn_is_longer_than_its_steps(filled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which every look takes a whole turn, others run between any two steps."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(clock.current(), "monotonic", lambda: float(next(ticks)))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def work() -> None:
        counting = asyncio.ensure_future(count())
        mailbox = Mailbox(filled.store, filled.account_id, filled.mailbox_id)
        async for _ in search.find(mailbox, view, key_of("BODY nothere"), [], {}):
            pass
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)

    view = filled.view()
    filled.runner.run(work())
    assert turns >= len(ITEMS)


class Answering:
    """What the handlers need of a connection."""

    def __init__(self, bench: Bench) -> None:
        self.sent = b""
        self.synced: list[tuple[bool, bool]] = []
        self.account_id = bench.account_id
        view = bench.view()

        async def snapshot() -> Snapshot:
            return view

        async def keywords(account_id: int, bits: int) -> Mapping[int, str]:
            # the worker has not heard of the newest keyword until it is asked for more bits
            known = await bench.store.read(account_id, flags.keywords, account_id)
            return dict(list(known.items())[: None if bits else 1])

        self.selected = SimpleNamespace(
            account_id=bench.account_id, mailbox_id=bench.mailbox_id, recent_ranges=bench.recent, snapshot=snapshot
        )
        self.context = SimpleNamespace(store=bench.store, views=SimpleNamespace(keywords=keywords))

    def send(self, data: bytes) -> None:
        self.sent += data

    async def send_large(self, data: bytes) -> None:
        self.sent += data

    async def sync(self, *, may_expunge: bool, with_uid: bool = False) -> None:
        self.synced.append((may_expunge, with_uid))
        self.sent += b"* SYNCED\r\n"


@pytest.mark.rfc(3501, "7.2.5")
@pytest.mark.parametrize(
    ("text", "is_uid", "answer"),
    [
        ("UNSEEN", False, b"* SEARCH 2 3 4\r\n"),
        ("UNSEEN", True, b"* SEARCH 3 4 5\r\n"),
        ("KEYWORD work", False, b"* SEARCH 1 2\r\n"),
        ("NOT ALL", True, b"* SEARCH\r\n"),
    ],
)
def test_answers(bench: Bench, text: str, is_uid: bool, answer: bytes) -> None:
    bench.append(*ITEMS[:3], *ITEMS[4:], ITEMS[4])
    bench.expunge(2)
    connection = Answering(bench)
    bench.runner.run(search.search(cast(Any, connection), b"a1", c.Search(key_of(text), is_uid)))
    assert connection.sent == answer + b"* SYNCED\r\na1 OK SEARCH completed\r\n"
    assert connection.synced == [(is_uid, is_uid)]


def test_empty_mailbox_answers_an_empty_search(bench: Bench) -> None:
    connection = Answering(bench)
    bench.runner.run(search.search(cast(Any, connection), b"a1", c.Search(key_of("1:* NOT BODY x"), is_uid=False)))
    assert connection.sent.startswith(b"* SEARCH\r\n")


@pytest.mark.rfc(3501, "6.4.4")
def test_unknown_charset_names_the_known_ones(bench: Bench) -> None:
    connection = Answering(bench)
    bench.runner.run(search.unknown_charset(cast(Any, connection), b"a1", c.UnknownCharset("X-NOBODY")))
    assert connection.sent.startswith(b"a1 NO [BADCHARSET (US-ASCII UTF-8 ISO-8859-1 ")
    assert connection.sent.endswith(b"ISO-2022-JP)] That charset is not supported\r\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("STRASSE", "straße"),
        ("ёлка", "Е\u0308ЛКА"),
        ("ﬁn", "FIN"),
        ("㎑", "khz"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("Å", "\u212b"),
    ],
)
def test_fold_makes_equal(one: str, other: str) -> None:
    assert search_text.fold(one) == search_text.fold(other)


def test_fold_of_a_long_text_is_that_of_its_pieces() -> None:
    text = "Ёлка é \u212b ﬁn e\u0301\u0323x " * 200
    assert search_text.fold(text) == unicodedata.normalize("NFKD", text).casefold()


WORDS = ("fox", "Отчёт", "münchen", "example", "привет", "photos", "inner", "nothere", "a", "О", "", "status report")
FIELDS = ("from", "to", "cc", "bcc", "subject", "x-tag", "message-id", "date", "content-type", "x-nothing")


def leaves() -> st.SearchStrategy[c.SearchKey]:
    words = st.sampled_from(WORDS)
    days = st.sampled_from([NOW // DAY + n for n in (-41, -40, -1, 0, 1, 3)])
    sent = st.sampled_from([date(2026, 11, n).toordinal() - EPOCH for n in (22, 23, 24, 25, 26)])
    tests = st.sampled_from(list(c.DateTest))
    names = st.sampled_from(["\\Seen", "\\Deleted", "\\Flagged", "\\Draft", "\\Answered", "work", "$label1", "nobody"])
    sets = st.sampled_from(["1", "2:4", "*", "3:*", "9", "1,5,90:80", "4:2"]).map(lambda s: parse_seq_set(s.encode()))
    sizes = st.sampled_from([0, 10**6, *(len(item.raw) for item in ITEMS)])
    return st.one_of(
        st.just(c.SearchAll()),
        st.just(c.SearchRecent()),
        st.builds(c.SearchFlag, names, st.booleans()),
        st.builds(c.SearchHeader, st.sampled_from(FIELDS), words),
        st.builds(c.SearchText, st.sampled_from(list(c.TextScope)), words),
        st.builds(c.SearchSize, st.sampled_from(list(c.SizeTest)), sizes),
        st.builds(c.SearchDate, tests, days, st.just(False)),
        st.builds(c.SearchDate, tests, sent, st.just(True)),
        st.builds(c.SearchSet, sets, st.booleans()),
    )


def trees(inner: st.SearchStrategy[c.SearchKey]) -> st.SearchStrategy[c.SearchKey]:
    several = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.one_of(st.builds(c.SearchNot, inner), st.builds(c.SearchAnd, several), st.builds(c.SearchOr, several))


def folded(text: str) -> str:
    return unicodedata.normalize("NFKD", text).casefold()


def header_text(value: str) -> str:
    return " ".join(str(email.header.make_header(email.header.decode_header(value))).split())


def headers_text(message: "Message[str, str]") -> str:
    lines = [f"{name}: {header_text(value)}" for name, value in message.items()]
    return "\n".join([*lines, message.get_filename() or ""])


def model_text(message: "Message[str, str]", *, is_text: bool, is_outer: bool = True) -> str:
    texts = []
    if is_text or not is_outer:
        texts.append(headers_text(message))
    for part in message.walk() if is_outer else [message]:
        if part is not message and is_text:
            texts.append(headers_text(part))
        if part.get_content_type() == "message/rfc822":
            texts.append(headers_text(cast("list[Message[str, str]]", part.get_payload())[0]))
        elif part.get_content_maintype() == "text":
            data = cast(bytes, part.get_payload(decode=True))
            texts.append(data.decode(part.get_content_charset("ascii")))
    return "\n\n".join(texts)


class Model:
    """What a key means, message by message."""

    def __init__(self, items: Sequence[Item], recent: Sequence[tuple[int, int]]) -> None:
        self.items = items
        self.recent = recent
        self.parsed = [email.message_from_bytes(item.raw, policy=email.policy.compat32) for item in items]

    def find(self, key: c.SearchKey) -> list[int]:
        return [number for number in range(1, len(self.items) + 1) if self.matches(number, key)]

    def matches(self, number: int, key: c.SearchKey) -> bool:
        item, message = self.items[number - 1], self.parsed[number - 1]
        match key:
            case c.SearchAll():
                return True
            case c.SearchNot():
                return not self.matches(number, key.key)
            case c.SearchAnd():
                return all(self.matches(number, one) for one in key.keys)
            case c.SearchOr():
                return any(self.matches(number, one) for one in key.keys)
            case c.SearchRecent():
                return any(first <= number <= last for first, last in self.recent)
            case c.SearchFlag():
                return self.has_flag(item, key.flag) is key.is_set
            case c.SearchHeader():
                values = [header_text(value) for name, value in message.items() if name.lower() == key.field]
                return any(folded(key.text) in folded(value) for value in values)
            case c.SearchText():
                text = model_text(message, is_text=key.scope is c.TextScope.TEXT)
                return folded(key.text) in folded(text)
            case c.SearchSize():
                size = len(item.raw)
                return size > key.size_bytes if key.test is c.SizeTest.LARGER else size < key.size_bytes
            case c.SearchDate():
                return self.has_day(item, message, key)
            case c.SearchSet():
                count = len(self.items)
                return any(
                    min(a or count, b or count) <= number <= max(a or count, b or count) for a, b in key.seq_set.ranges
                )

    def has_flag(self, item: Item, name: str) -> bool:
        system = {"\\Seen": 1, "\\Answered": 2, "\\Flagged": 4, "\\Deleted": 8, "\\Draft": 16}
        if name in system:
            return bool(item.system_flags & system[name])
        return name.lower() in [one.lower() for one in item.keywords]

    def has_day(self, item: Item, message: "Message[str, str]", key: c.SearchDate) -> bool:
        if key.is_sent:
            parsed = email.utils.parsedate_tz(message.get("Date", ""))
            if parsed is None:
                return False
            day = date(*parsed[:3]).toordinal() - EPOCH
        else:
            day = (item.internal_date + item.zone_minutes * 60) // DAY
        tests: dict[c.DateTest, Callable[[int, int], bool]] = {
            c.DateTest.BEFORE: lambda a, b: a < b,
            c.DateTest.ON: lambda a, b: a == b,
            c.DateTest.SINCE: lambda a, b: a >= b,
        }
        return tests[key.test](day, key.epoch_day)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.recursive(leaves(), trees, max_leaves=12))
def test_any_key_finds_what_the_model_finds(filled: Bench, key: c.SearchKey) -> None:
    assert filled.find(key) == Model(ITEMS, filled.recent).find(key)


def test_view_of_many_chunks(bench: Bench) -> None:
    """Words planted among 1300 messages, with gaps between the uids."""
    rare = {7, 512, 513, 1024, 1250}
    bench.append(
        *(
            Item(
                b"Subject: number %d\r\nX-Nth: %d\r\n\r\n%b\r\n" % (n, n, b"Needle" if n in rare else b"hay"),
                flags.SEEN if n % 3 else 0,
                internal_date=NOW + n * DAY,
            )
            for n in range(1, 1301)
        )
    )
    for uid in (1, 600, 601, 1300):
        bench.expunge(uid)
    view = bench.view()
    by_uid = {n: view.seq_of(n) for n in range(1, 1301)}
    assert view.count == 1296
    assert bench.ask("BODY needle") == [by_uid[n] for n in sorted(rare)]
    assert bench.ask("BODY needle UNSEEN") == [by_uid[n] for n in sorted(rare) if not n % 3]
    assert bench.ask("UID 500:700 SUBJECT 60") == [
        by_uid[n] for n in (560, 602, 603, 604, 605, 606, 607, 608, 609, 660)
    ]
    tail = (*range(990, 1000), 1099, 1199, 1299)
    assert bench.ask("HEADER X-Nth 99 NOT 1:900") == [by_uid[n] for n in tail]
    on = c.SearchDate(c.DateTest.SINCE, NOW // DAY + 1295, is_sent=False)
    assert bench.find(on) == [by_uid[n] for n in range(1295, 1300)]


def test_reads_are_in_small_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.append(*[Item(BARE)] * 700)
    sizes: list[int] = []
    read = bench.store.read

    async def counting(account_id: int, fn: Any, *args: Any) -> Any:
        result = await read(account_id, fn, *args)
        sizes.append(len(result))
        return result

    view, known = bench.view(), bench.keywords()
    monkeypatch.setattr(bench.store, "read", counting)

    async def work() -> list[int]:
        mailbox = Mailbox(bench.store, bench.account_id, bench.mailbox_id)
        key = key_of("OR SMALLER 1 OR SENTON 1-Jan-2020 OR SUBJECT x OR HEADER X-Nothing x BODY zzz")
        return [at async for _, found in search.find(mailbox, view, key, [], known) for at in found]

    assert bench.runner.run(work()) == []
    assert max(sizes) <= 512
    rows_each = {search_facts.ROWS, search_facts.BLOB_ROWS}
    assert len([size for size in sizes if size not in rows_each and size < 188]) <= 2 * 4


_SCRAPS = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b",
        b"Content-Type: message/rfc822",
        b"Content-Type: text/html; charset=x",
        b"Content-Type: text/plain; charset=utf-16",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Disposition: attachment; filename*0*=a'b'%ff",
        b"Subject: =?koi8-r?q?=ff=fe?= fox",
        *(b"--b", b"--b--", b"", b"=?utf-8?b?0J/", b"\xff=E\x00&#x;", b"fox", b" folded\xd0", b":"),
    ]
)
_SCRAMBLED = st.lists(_SCRAPS, max_size=30).map(b"\r\n".join) | st.binary(max_size=200)


@settings(max_examples=200, deadline=None)
@given(raw=_SCRAMBLED, word=st.sampled_from(["fox", "п", "folded", "\ufffd", "=?"]))
def test_any_message_can_be_searched(raw: bytes, word: str) -> None:
    needles = [search_text.needle(word, in_header=False), search_text.needle(word, in_header=True)]
    *_, found = search_text.find_in_message(lambda start, stop: raw[start:stop], parse(raw), needles)
    assert found in (0, 0b10, 0b11)  # what BODY finds, TEXT finds
