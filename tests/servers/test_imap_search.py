"""SEARCH over a real store: what each key finds, how it is answered, and in which steps."""

import asyncio
import unicodedata
from base64 import encodebytes
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from search_rig import (
    BARE,
    DAY,
    ITEMS,
    NOW,
    Bench,
    Item,
    key_of,
)

from pochta import clock, log
from pochta.mime import fold
from pochta.proto.imap import commands as c
from pochta.proto.imap.search import MAX_SEARCH_DEPTH
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.progress import Progress
from pochta.servers.imap.search import facts, search
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Terms, find
from pochta.store import flags


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
    view, later = bench.view(), bench.view()
    expected = bench.ask(text, view)
    assert expected[0] == 1
    assert expected[-1] == 3
    bench.expunge(1)
    assert bench.ask(text, view) == expected
    bench.execute("DELETE FROM removed WHERE uid = ?", 1)
    assert bench.ask(text, later) == expected[1:]
    assert 1 not in bench.ask(f"NOT {text}", later)


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
        async for _ in find(mailbox, view, key_of("BODY nothere"), Terms()):
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
            account_id=bench.account_id,
            mailbox_id=bench.mailbox_id,
            recent_ranges=bench.recent,
            saved_ranges=(),
            snapshot=snapshot,
        )
        self.modes = Modes()
        self.progress = Progress(cast(Any, self))
        self.context = SimpleNamespace(store=bench.store, views=SimpleNamespace(keywords=keywords), index=None)

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
    assert fold.fold(one) == fold.fold(other)


def test_fold_of_a_long_text_is_that_of_its_pieces() -> None:
    text = "Ёлка é \u212b ﬁn e\u0301\u0323x " * 200
    assert fold.fold(text) == unicodedata.normalize("NFKD", text).casefold()


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
        return [at async for _, found in find(mailbox, view, key, Terms(keyword_bits=known)) for at in found]

    assert bench.runner.run(work()) == []
    assert max(sizes) <= 512
    rows_each = {facts.ROWS, facts.BLOB_ROWS}
    assert len([size for size in sizes if size not in rows_each and size < 188]) <= 2 * 4
