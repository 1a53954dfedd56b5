"""What a review of SEARCH, SORT and THREAD found: work and memory that a client could make grow."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imap_raw import Imap
from search_rig import ITEMS, Bench

from pochta.proto.imap import commands as c
from pochta.proto.imap import thread
from pochta.proto.imap.seqset import SeqSet
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search import contexts
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Planner, Terms
from pochta.servers.imap.sort.columns import COLUMNS_BYTES, Columns, MailboxColumns
from pochta.testing import Server


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    made.append(*ITEMS)
    yield made
    made.close()


def nested(depth: int) -> c.SearchKey:
    """AND in OR in AND, each with a set of its own."""
    key: c.SearchKey = c.SearchAll()
    for level in range(depth):
        one = c.SearchSet(SeqSet(((level + 1, level + 2),)), is_uid=True)
        key = c.SearchOr((one, key)) if level % 2 else c.SearchAnd((one, key))
    return key


def test_planning_looks_at_each_key_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    known = c.SearchSet.__hash__

    def counted(key: c.SearchSet) -> int:
        hashed.append(1)
        return known(key)

    monkeypatch.setattr(c.SearchSet, "__hash__", counted)
    Planner(bench.account_id, bench.view(), Terms()).plan(nested(90))
    assert len(hashed) <= 180


def test_what_a_mailbox_takes_is_counted_when_it_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 1 << 20
    columns = MailboxColumns(lambda: room)
    counted: list[Columns] = []
    size: Callable[[Columns], int] = vars(Columns)["memory_bytes"].fget

    def count(one: Columns) -> int:
        counted.append(one)
        return size(one)

    monkeypatch.setattr(Columns, "memory_bytes", property(count))
    empty = Snapshot((), 1)

    async def work() -> None:
        for mailbox_id in range(1, 301):
            async with columns.of(Mailbox(bench.store, bench.account_id, mailbox_id), empty):
                pass

    bench.runner.run(work())
    assert len(counted) == 300
    assert columns.memory_bytes == 300 * COLUMNS_BYTES
    room = 10 * COLUMNS_BYTES
    bench.runner.run(work())
    assert columns.memory_bytes == 10 * COLUMNS_BYTES


@pytest.mark.rfc(5267, "4.3.1")
def test_a_context_keeps_no_key_without_bound(pochta: Server) -> None:
    with Imap(pochta) as imap:
        for number in range(3):
            imap.append(b"Subject: %d\r\n\r\n\r\n" % number)
        imap.ok("SELECT INBOX")
        long = ",".join(str(2 * number) for number in range(1, contexts.RANGES_MAX + 2))
        tag = imap.begin(f"UID SEARCH RETURN (UPDATE COUNT) UID {long}")
        assert any(b'NO [NOUPDATE "%b"]' % tag in line for line in imap.end(tag))
        tag = imap.begin("UID SEARCH RETURN (UPDATE COUNT) 1:*")
        assert not any(b"NOUPDATE" in line for line in imap.end(tag))


@pytest.mark.rfc(5267, "4.3")
def test_numbers_become_few_ranges(bench: Bench) -> None:
    bench.append(*ITEMS * 250)
    bench.expunge(3)
    view = bench.view()
    key = c.SearchSet(SeqSet(((1, 1100), (1200, 0))), is_uid=False)
    found = contexts.with_uids(key, view, ())
    assert found == c.SearchSet(SeqSet(((1, 1101), (1201, 1255))), is_uid=True)


def test_threads_are_put_in_order_by_their_messages() -> None:
    # five messages: node 0 has 3 below it (the latest but one), 1 has none, 2 has 4 below it
    ancestry = thread.Ancestry([1, 2, 3, 4, 5], [1, 3], [0, 0, 0, 1, 2])
    assert thread.refs(ancestry, [0, 1, 2, 3, 4]).roots == [1, 0, 2]


@pytest.mark.rfc(7377, "2.2")
def test_trees_that_lie_in_each_other(pochta: Server) -> None:
    with Imap(pochta) as imap:
        for name in ("a", "a/b", "a/b/c", "ab", "x"):
            imap.ok(f"CREATE {name}")
            imap.append(b"Subject: here\r\n\r\n\r\n", name)

        def found(source: str) -> list[str]:
            tag = imap.begin(f"ESEARCH IN ({source}) SUBJECT here")
            named = [line.split(b"MAILBOX ")[1] for line in imap.end(tag) if b"MAILBOX " in line]
            return sorted(one.split()[0].decode() for one in named)

        assert found("subtree a") == ["a", "a/b", "a/b/c"]
        assert found("subtree-one a") == ["a", "a/b"]
        assert found("subtree (a a/b nothing)") == ["a", "a/b", "a/b/c"]
        assert found("subtree-one (a x)") == ["a", "a/b", "x"]
