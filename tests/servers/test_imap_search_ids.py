"""EMAILID, THREADID and sent dates: what rows decide is found without looking at every message."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from search_rig import EPOCH, Bench, Item

from pochta.proto.imap import commands as c
from pochta.servers.imap.search import narrowing
from pochta.servers.imap.search.facts import Facts
from pochta.store.tx import Row, Tx

COUNT = 40
THREADS = 3


def mail(number: int) -> Item:
    """One of three conversations in turn, sent on one of five days or, every seventh, on none."""
    thread = number % THREADS
    date = "" if number % 7 == 0 else f"Date: {20 + number % 5} Nov 2026 12:00:00 +0000\r\n"
    raw = f"Message-ID: <{number}@x>\r\nReferences: <root{thread}@x>\r\nSubject: s{thread}\r\n{date}\r\nx\r\n"
    return Item(raw.encode())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    made.append(*map(mail, range(COUNT)))
    yield made
    made.close()


def refuse(*_: object) -> None:
    raise AssertionError("rows were looked at one by one")


def ids(tx: Tx) -> list[Row]:
    return tx.rows("SELECT id, thread_id FROM message ORDER BY id")


def thread_key(bench: Bench, number: int) -> c.SearchObjectId:
    rows = bench.runner.run(bench.store.read(0, ids))
    return c.SearchObjectId(f"T{bench.account_id}-{rows[number][1]}", is_thread=True)


def email_key(bench: Bench, number: int) -> c.SearchObjectId:
    rows = bench.runner.run(bench.store.read(0, ids))
    return c.SearchObjectId(f"M{bench.account_id}-{rows[number][0]}", is_thread=False)


@pytest.mark.rfc(8474, "6")
@pytest.mark.parametrize("thread_max", [1000, 5], ids=["named", "too long"])
def test_a_thread_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch, thread_max: int) -> None:
    monkeypatch.setattr(narrowing, "THREAD_MAX", thread_max)
    if thread_max > COUNT:
        monkeypatch.setattr(Facts, "threads", refuse)
    view = bench.view()
    bench.expunge(2)
    for number in range(THREADS):
        members = [seq for seq in range(1, COUNT + 1) if seq % THREADS == (number + 1) % THREADS]
        key = thread_key(bench, number)
        assert bench.find(key, view) == members
        assert bench.find(c.SearchNot(key), view) == [seq for seq in range(1, COUNT + 1) if seq not in members]
    assert bench.find(c.SearchObjectId("T9-9", is_thread=True)) == []


@pytest.mark.rfc(8474, "6")
def test_a_message_is_found_by_its_id(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "columns", refuse)
    view = bench.view()
    bench.expunge(5)
    assert bench.find(email_key(bench, 4), view) == [5]
    assert bench.find(email_key(bench, 4)) == []
    assert bench.find(c.SearchOr((email_key(bench, 7), email_key(bench, 9))), view) == [8, 10]
    assert bench.find(c.SearchObjectId("nothing", is_thread=False)) == []


@pytest.mark.rfc(3501, "6.4.4")
def test_sent_dates_are_kept_with_the_view(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    view = bench.view()
    bench.expunge(3)
    key = c.SearchDate(c.DateTest.SINCE, date(2026, 11, 22).toordinal() - EPOCH, is_sent=True)
    expected = [number + 1 for number in range(COUNT) if number % 7 and 20 + number % 5 >= 22]
    assert bench.find(key, view) == expected
    monkeypatch.setattr(Facts, "sent_days", refuse)
    assert bench.find(key, view) == expected
