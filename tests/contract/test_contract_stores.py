"""What a store promises about transactions, on every backend."""

import asyncio
from typing import Any

import psycopg
import pytest
from store_harness import NOW, Backend, execute, item, new_message, query

from pochta.errors import TryLater
from pochta.store import messages, postgres
from pochta.store.tx import Tx


def add_one(tx: Tx) -> None:
    """Read, think, write: loses counts unless the writes of an account take turns."""
    [(number,)] = tx.rows("SELECT number FROM meta WHERE name = 'mod_seq_floor'")
    tx.run("UPDATE meta SET number = ? WHERE name = 'mod_seq_floor'", (number + 1,))


def read_twice(tx: Tx) -> list[int]:
    return [tx.rows("SELECT number FROM meta WHERE name = 'mod_seq_floor'")[0][0] for _ in range(2)]


def write_while_reading(tx: Tx) -> None:
    tx.run("DELETE FROM meta")


def all_values(tx: Tx, values: list[Any]) -> list[Any]:
    tx.run("INSERT INTO blob (id, codec, size, stored_size, checksum, created_at) VALUES (77, 0, 1, 1, 0, 0)")
    tx.run("INSERT INTO blob_inline (blob_id, bytes) VALUES (?, ?)", (77, values[0]))
    tx.run("INSERT INTO domain (id, name, shown, catch_all, created_at) VALUES (?, ?, ?, ?, ?)", (77, *values[1:]))
    row = tx.row(
        "SELECT bytes, name, shown, catch_all, domain.created_at FROM blob_inline JOIN domain ON domain.id = blob_id"
        " WHERE blob_id = 77"
    )
    tx.run("DELETE FROM domain WHERE id = 77")
    tx.run("DELETE FROM blob_inline WHERE blob_id = 77")
    tx.run("DELETE FROM blob WHERE id = 77")
    return list(row or ())


async def together(*work: Any) -> list[Any]:
    return await asyncio.gather(*work)


def test_writes_of_an_account_take_turns(backend: Backend) -> None:
    async def work() -> None:
        await together(*(backend.store.write(1, add_one) for _ in range(40)))

    backend.run(work)
    assert backend.query("SELECT number FROM meta WHERE name = 'mod_seq_floor'") == [(40,)]
    backend.execute("UPDATE meta SET number = 0 WHERE name = 'mod_seq_floor'")


def test_deliveries_that_cross_all_arrive(backend: Backend) -> None:
    one, two = backend.new_account("a"), backend.new_account("b")

    async def work() -> None:
        pairs = [[one, two], [two, one]] * 8
        singles = [backend.store.write(one, messages.append, one, "INBOX", [item()], NOW) for _ in range(4)]
        await together(
            *(backend.store.write(pair[0], messages.deliver, pair, new_message()) for pair in pairs), *singles
        )

    backend.run(work)
    assert backend.mailbox(one, "INBOX").message_count == 20
    assert backend.mailbox(two, "INBOX").message_count == 16
    assert backend.quota(one) == (20, 2000)


def test_values_come_back_as_they_went_in(backend: Backend) -> None:
    values = [bytes(range(256)), "naïve %s ? \N{PILE OF POO}", "", None, -(1 << 63)]
    assert backend.write(0, all_values, values) == values


def test_number_of_touched_rows(backend: Backend) -> None:
    assert backend.execute("UPDATE meta SET number = number WHERE name LIKE 'min_' || ?", "reader") == 1
    assert backend.execute("UPDATE meta SET number = number WHERE name = ?", "gone") == 0
    insert = "INSERT INTO meta (name, number) VALUES (?, 1) ON CONFLICT DO NOTHING"
    assert [backend.execute(insert, "new"), backend.execute(insert, "new")] == [1, 0]


def test_read_cannot_write(backend: Backend) -> None:
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        backend.read(0, write_while_reading)
    assert backend.query("SELECT count(*) FROM meta") != [(0,)]


def test_store_goes_on_after_a_wrong_statement(backend: Backend) -> None:
    for _ in range(3):
        with pytest.raises(Exception, match="nowhere"):
            backend.read(0, query, "SELECT * FROM nowhere", ())
        with pytest.raises(Exception, match="nowhere"):
            backend.write(0, execute, "DELETE FROM nowhere", ())
    assert backend.read(0, read_twice) == [0, 0]


def test_many_rows_by_one_statement(backend: Backend) -> None:
    backend.write(0, _run_many)
    assert backend.query("SELECT count(*) FROM meta WHERE name LIKE 'row' || ?", "%") == [(100,)]


def _run_many(tx: Tx) -> None:
    tx.run_many("INSERT INTO meta (name, number) VALUES (?, ?)", ((f"row{n}", n) for n in range(100)))


@pytest.fixture
def served(request: pytest.FixtureRequest, backend: Backend) -> Backend:
    """The PostgreSQL backend."""
    assert backend.name == "postgres"
    return backend


only_postgres = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


@only_postgres
def test_hints_reach_other_stores(served: Backend) -> None:
    async def work() -> list[tuple[int, int]]:
        other = postgres.PostgresStore(served.store._conninfo, connections=1)
        heard: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        other.start()
        unsubscribe = other.subscribe(lambda hints: [heard.put_nowait(hint) for hint in hints])
        try:
            async with asyncio.timeout(10):
                with pytest.raises(ZeroDivisionError):
                    await served.store.write(1, _hint_and_fail)
                await served.store.write(1, _hint, 7)
                first = await heard.get()
                unsubscribe()
                return [first, (heard.qsize(), 0)]
        finally:
            await other.close()

    assert served.run(work) == [(7, 1), (0, 0)]


def _hint(tx: Tx, account_id: int) -> None:
    tx.hint(account_id, 1)


def _hint_and_fail(tx: Tx) -> None:
    tx.hint(6, 1)
    raise ZeroDivisionError


@only_postgres
def test_collisions_are_tried_again_but_not_for_ever(served: Backend) -> None:
    served.write(1, _fail_times, "one")
    assert served.query("SELECT count(*) FROM meta WHERE name = 'one'") == [(1,)]
    with pytest.raises(TryLater):
        served.write(1, _collide)


attempts: dict[str, int] = {}


def _fail_times(tx: Tx, name: str) -> None:
    tx.run("INSERT INTO meta (name, number) VALUES (?, 1)", (name,))
    attempts[name] = attempts.get(name, 0) + 1
    if attempts[name] < postgres.ATTEMPTS:
        raise psycopg.errors.SerializationFailure


def _collide(tx: Tx) -> None:
    raise psycopg.errors.DeadlockDetected


@only_postgres
def test_lost_connection_is_a_temporary_failure(served: Backend) -> None:
    with pytest.raises(TryLater):
        served.write(1, query, "SELECT pg_terminate_backend(pg_backend_pid())", ())
    assert served.read(0, read_twice) == [0, 0]


def test_percent_signs_stay_out_of_statements() -> None:
    with pytest.raises(ValueError, match="percent"):
        postgres.translate("SELECT 1 WHERE name LIKE 'a%'")


def rows_within(tx: Tx, max_bytes: int) -> tuple[int, bool]:
    rows, has_more = tx.rows_within("SELECT id, envelope FROM message ORDER BY id", (), max_bytes)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    again = tx.rows("SELECT count(*) FROM message")  # an answer left in the middle disturbs nothing
    return len(rows), has_more and len(rows) < again[0][0]


def test_rows_end_with_their_bytes(backend: Backend) -> None:
    account = backend.new_account("a")
    assert backend.read(account, rows_within, 1) == (0, False)
    backend.append(account, "INBOX", *[item() for _ in range(40)])
    count, has_more = backend.read(account, rows_within, 1)
    assert 0 < count < 40
    assert has_more
    assert backend.read(account, rows_within, 1_000_000) == (40, False)
    size = len(item()[0].envelope)
    assert backend.read(account, rows_within, 40 * size - 1) == (40, False)
