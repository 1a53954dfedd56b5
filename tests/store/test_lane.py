"""The write lane: grouping, isolation, failures, order, turns between stores."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from pochta.errors import TryLater
from pochta.store import lane, setup, sqlite
from pochta.store.store import Store
from pochta.store.tx import Hint, Tx

POINT = "INSERT INTO meta (name, number) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = excluded.number"


def put(tx: Tx, name: str, number: int) -> int:
    tx.run(POINT, (name, number))
    tx.hint(number, 1)
    return number


def put_and_raise(tx: Tx, name: str, number: int) -> None:
    put(tx, name, number)
    raise KeyError(name)


def add_one(tx: Tx) -> int:
    row = tx.row("SELECT number FROM meta WHERE name = 'sum'")
    put(tx, "sum", (row[0] if row else 0) + 1)
    return 0


def synchronous(tx: Tx, name: str) -> int:
    put(tx, name, 0)
    row = tx.row("PRAGMA synchronous")
    return int(row[0]) if row else -1


def lose_transaction(tx: Tx) -> None:
    tx.run("ROLLBACK")  # as SQLite does by itself when the disk is full
    raise apsw.FullError("FullError: database or disk is full")


def numbers(tx: Tx) -> dict[str, int]:
    return {
        name: number for name, number in tx.rows("SELECT name, number FROM meta") if name[0] in "abc" or name == "sum"
    }


class Broken:
    """A connection whose statements beginning with one of `words` fail with `error`, each `times` times."""

    def __init__(self, connection: apsw.Connection, error: Exception, *words: str, times: int = 1) -> None:
        self._connection = connection
        self._error = error
        self._left = dict.fromkeys(words, times)

    def execute(self, sql: str, *args: object) -> object:
        for word, left in self._left.items():
            if sql.startswith(word) and left:
                self._left[word] -= 1
                raise self._error
        return self._connection.execute(sql, *args)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    setup.create(tmp_path / "data")
    return tmp_path / "data"


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[Store]:
    store = Store(data_dir)
    store.start(hears_hints=False)
    try:
        yield store
    finally:
        await store.close()


async def settled(*futures: "asyncio.Future[object]") -> list[object]:
    return list(await asyncio.gather(*futures, return_exceptions=True))


def test_waiting_writes_share_a_commit(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            results = await settled(*(store.write(0, put, f"a{n}", n) for n in range(5)))
            assert results == [0, 1, 2, 3, 4]
            assert (store.lane.figures.commits, store.lane.figures.writes) == (1, 5)
            assert len(store.lane.figures.holds_s) == 1
            assert len(await store.read(0, numbers)) == 5

    asyncio.run(main())


def test_group_has_a_bounded_size(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "GROUP_SIZE", 3)

    async def main() -> None:
        async with opened(data_dir) as store:
            await settled(*(store.write(0, put, f"a{n}", n) for n in range(7)))
            assert store.lane.figures.commits == 3

    asyncio.run(main())


def test_group_has_a_bounded_time(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "GROUP_TIME_S", 0.0)

    async def main() -> None:
        async with opened(data_dir) as store:
            await settled(*(store.write(0, put, f"a{n}", n) for n in range(4)))
            assert store.lane.figures.commits == 4

    asyncio.run(main())


def test_function_that_raises_harms_nobody_else(data_dir: Path) -> None:
    async def main() -> None:
        heard: list[Hint] = []
        async with opened(data_dir) as store:
            store.subscribe(heard.extend)
            one, two, three = await settled(
                store.write(0, put, "a", 1), store.write(0, put_and_raise, "b", 2), store.write(0, put, "c", 3)
            )
            assert (one, three) == (1, 3)
            assert isinstance(two, KeyError)
            assert await store.read(0, numbers) == {"a": 1, "c": 3}
            assert heard == [(1, 1), (3, 1)]
            assert store.lane.figures.commits == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (apsw.FullError("full"), ("COMMIT",)),
        (apsw.IOError("failing"), ("COMMIT",)),
        (apsw.IOError("failing"), ("COMMIT", "ROLLBACK")),
        (apsw.BusyError("busy"), ("COMMIT",)),
        (OSError(28, "no space"), ("COMMIT",)),
    ],
    ids=["full", "io", "io and rollback", "busy", "enospc"],
)
def test_failing_commit_fails_the_whole_group(data_dir: Path, error: Exception, words: tuple[str, ...]) -> None:
    async def main() -> None:
        heard: list[Hint] = []
        async with opened(data_dir) as store:
            store.subscribe(heard.extend)
            real = store.lane._connection
            store.lane._connection = Broken(real, error, *words)
            results = await settled(store.write(0, put, "a", 1), store.write(0, put, "b", 2))
            assert [type(result) for result in results] == [TryLater, TryLater]
            assert heard == []
            assert await store.read(0, numbers) == {}
            if real.in_transaction:
                real.execute("ROLLBACK")
            assert await store.write(0, put, "c", 3) == 3
            assert await store.read(0, numbers) == {"c": 3}

    asyncio.run(main())


def test_failing_begin_fails_one_write_after_the_other(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            store.lane._connection = Broken(store.lane._connection, apsw.BusyError("busy"), "BEGIN", times=2)
            one, two, three = (store.write(0, put, name, 1) for name in "abc")
            one.cancel()
            assert [type(result) for result in await settled(two, three)] == [TryLater, int]

    asyncio.run(main())


@pytest.mark.parametrize("word", ["SAVEPOINT", "RELEASE"])
def test_failing_savepoint_leaves_no_future_behind(data_dir: Path, word: str) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            store.lane._connection = Broken(store.lane._connection, apsw.IOError("failing"), word)
            first, second = await settled(store.write(0, put, "a", 1), store.write(0, put, "b", 2))
            assert isinstance(first, TryLater)
            assert second == 2
            assert await store.read(0, numbers) == {"b": 2}

    asyncio.run(main())


def test_lost_transaction_fails_the_group_and_not_those_behind(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            before, culprit, behind = await settled(
                store.write(0, put, "a", 1), store.write(0, lose_transaction), store.write(0, put, "b", 2)
            )
            assert isinstance(before, TryLater)
            assert isinstance(culprit, TryLater)
            assert behind == 2
            assert await store.read(0, numbers) == {"b": 2}

    asyncio.run(main())


def test_full_database_is_a_temporary_failure(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            pages = store._writer.pragma("page_count")
            store._writer.pragma("max_page_count", pages)
            with pytest.raises(TryLater, match="disk is full"):
                await store.write(0, fill, 1 << 20)
            store._writer.pragma("max_page_count", 1 << 30)
            await store.write(0, fill, 1 << 20)

    asyncio.run(main())


def fill(tx: Tx, size: int) -> None:
    tx.run("INSERT INTO blob_inline (blob_id, bytes) VALUES (1, ?)", (bytes(size),))


def test_relaxed_writes_are_committed_without_waiting_for_the_disk(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            assert await store.write(0, synchronous, "a", durable=False) == 1
            assert store._is_wal_dirty
            assert await store.write(0, synchronous, "a") == 2
            mixed = store.write(0, synchronous, "a"), store.write(0, synchronous, "b", durable=False)
            assert not mixed[1].done()  # in its turn, behind what was there before
            assert await settled(*mixed) == [2, 2]
            assert await store.write(0, synchronous, "a", durable=False) == 1

    asyncio.run(main())


def test_relaxed_write_is_done_at_once_where_the_lane_is_free(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            await store.write(0, put, "a", 1)
            await asyncio.sleep(0)
            heard: list[Hint] = []
            store.subscribe(heard.extend)
            at_once = store.write(0, put, "b", 2, durable=False)
            assert at_once.done() or store.lane.figures.holds_s[-1] >= lane.AT_ONCE_S
            assert heard
            assert await at_once == 2
            broken = store.write(0, put_and_raise, "c", 4, durable=False)
            with pytest.raises(KeyError):
                await broken
            assert await store.read(0, numbers) == {"a": 1, "b": 2}
            assert await store.write(0, put, "c", 3) == 3

    asyncio.run(main())


late: list[Callable[[], "asyncio.Future[int]"]] = []


def put_and_ask_for_more(tx: Tx, name: str) -> int:
    put(tx, name, 0)
    for more in late:
        more()
    late.clear()
    row = tx.row("PRAGMA synchronous")
    return int(row[0]) if row else -1


def test_durable_write_that_comes_late_waits_for_its_own_commit(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            futures: list[asyncio.Future[int]] = []
            late.append(lambda: futures.append(store.write(0, synchronous, "b")))  # type: ignore[arg-type,return-value]
            assert await store.write(0, put_and_ask_for_more, "a", durable=False) == 1
            assert await futures[0] == 2
            assert store.lane.figures.commits == 2

    asyncio.run(main())


def test_hint_leaves_after_the_commit(data_dir: Path) -> None:
    async def main() -> None:
        reader = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
        seen: list[dict[str, int]] = []
        async with opened(data_dir) as store:
            store.subscribe(lambda hints: seen.append(numbers(sqlite.SqliteTx(reader, 0))))
            await store.write(0, put, "a", 1)
            assert seen == [{"a": 1}]
        reader.close()

    asyncio.run(main())


def test_close_finishes_what_is_queued(data_dir: Path) -> None:
    async def main() -> None:
        store = Store(data_dir)
        store.start(hears_hints=False)
        futures = [store.write(0, put, f"a{n}", n) for n in range(600)]
        await store.close()
        assert [future.result() for future in futures] == list(range(600))
        with pytest.raises(RuntimeError, match="closed"):
            store.write(0, put, "b", 1)

    asyncio.run(main())


def test_queue_is_bounded(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "QUEUE_LIMIT", 2)

    async def main() -> None:
        async with opened(data_dir) as store:
            futures = [store.write(0, put, "a", n) for n in range(2)]
            with pytest.raises(RuntimeError, match="full"):
                store.write(0, put, "a", 3)
            assert await settled(*futures) == [0, 1]

    asyncio.run(main())


def test_cancelled_write_is_not_begun(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            one, two = store.write(0, put, "a", 1), store.write(0, put, "b", 2)
            one.cancel()
            await two
            assert await store.read(0, numbers) == {"b": 2}

    asyncio.run(main())


def test_closures_are_refused(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            with pytest.raises(TypeError, match="module-level"):
                store.write(0, lambda tx: 1)

    asyncio.run(main())


def test_two_stores_take_turns(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as one, opened(data_dir) as two:
            for _ in range(10):
                await settled(*(store.write(0, add_one) for _ in range(5) for store in (one, two)))
            assert (await one.read(0, numbers))["sum"] == 100

    asyncio.run(main())


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_lane
async def main():
    async with test_lane.opened(Path(sys.argv[1])) as store:
        for _ in range(30):
            await store.write(0, test_lane.add_one)
asyncio.run(main())
"""


def test_two_processes_take_turns(data_dir: Path) -> None:
    async def main(child: "subprocess.Popen[bytes]") -> None:
        async with opened(data_dir) as store:
            count = 0
            while child.poll() is None:
                await store.write(0, add_one)
                count += 1
            assert child.returncode == 0
            assert (await store.read(0, numbers))["sum"] == 30 + count

    command = [sys.executable, "-c", CHILD, str(data_dir), str(Path(__file__).parent)]
    with subprocess.Popen(command) as child:
        asyncio.run(main(child))


def test_lane_waits_for_the_lock_without_holding_the_loop(data_dir: Path) -> None:
    async def main() -> None:
        other = sqlite.FileLock(data_dir / sqlite.LOCK_NAME)
        other.acquire()
        async with opened(data_dir) as store:
            future = store.write(0, put, "a", 1)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not future.done()
            other.release()
            assert await future == 1
        other.close()

    asyncio.run(main())


SERIES = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT i, m.number FROM n, meta m"


def test_snapshot_left_early_holds_nothing_back(data_dir: Path) -> None:
    async def main() -> None:
        async with opened(data_dir) as store:
            async with store.snapshot(0) as snapshot:
                async for _ in snapshot.slices(SERIES):
                    await store.write(0, put, "a", 1)
                    assert numbers(snapshot) == {}
                    break
            async with store.snapshot(0) as snapshot:
                assert numbers(snapshot) == {"a": 1}

    asyncio.run(main())


def test_snapshots_at_once_are_bounded(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pochta.store.store.SNAPSHOTS_MAX", 2)

    async def main() -> None:
        async with opened(data_dir) as store:
            await store.write(0, put, "a", 1)
            found: list[dict[str, int]] = []

            async def look() -> None:
                async with store.snapshot(0) as snapshot:
                    await asyncio.sleep(0)
                    found.append(numbers(snapshot))

            await asyncio.gather(*[look() for _ in range(10)])
            assert found == [{"a": 1}] * 10
            assert len(store._spare_readers) == 2

    asyncio.run(main())


def test_the_end_of_the_lane_is_told(data_dir: Path) -> None:
    async def body() -> None:
        store = Store(data_dir)
        told: list[BaseException] = []
        is_told = asyncio.Event()

        def tell(error: BaseException) -> None:
            told.append(error)
            is_told.set()

        store.on_death = tell
        store.start(hears_hints=False)
        store.subscribe(_broken_listener)
        result = store.write(1, _with_hint)
        await is_told.wait()
        assert str(told[0]) == "a bug in a listener"
        result.cancel()
        with pytest.raises(RuntimeError, match="a bug in a listener"):
            await store.close()

    asyncio.run(body())


def _broken_listener(hints: list[Hint]) -> None:
    raise RuntimeError("a bug in a listener")


def _with_hint(tx: Tx) -> None:
    tx.hint(1, 1)
