"""What a second review of the text index found: feeders that one bad file stops, files that meet another's log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from index_rig import NOW, Bench, opened
from test_index_feed import agree, body, fed, message, path_of, until

from pochta.errors import TryLater
from pochta.index import feed, file, rebuild, source
from pochta.index.file import Entry
from pochta.index.texts import NOTHING
from pochta.store import directory


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(bench.indexer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_file_that_cannot_be_opened_stops_no_other_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "GATHER_S", 0.0)

    async def work() -> None:
        bench = await opened(tmp_path / "data")
        try:
            # the account that is looked at first, with a file that nobody can open
            (bench.data_dir / "index" / str(bench.account_id) / "1.db").mkdir(parents=True)
            await bench.append([message("a", "zebra")])
            args = ("example.org", "v", "v@example.org", "", 0, NOW)
            other_id = await bench.store.write(0, directory.add_account, *args)
            bench.account_id = other_id
            await bench.append([message("b", "zebra")])

            async def is_fed() -> bool:
                path = file.current(bench.data_dir / "index", other_id)
                lag = bench.indexer.lag()
                return path is not None and path.is_file() and lag is not None and lag[:2] == (1, 0)

            async with running(bench):
                await until(is_fed)
        finally:
            await bench.close()

    asyncio.run(work())


def test_an_account_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "GATHER_S", 0.0)
    monkeypatch.setattr(feed, "RETRY_S", 0.05)
    monkeypatch.setattr(feed, "LOOK_EVERY_S", 0.05)

    async def work() -> None:
        bench = await opened(tmp_path / "data")
        try:
            obstacle = bench.data_dir / "index" / str(bench.account_id) / "1.db"
            obstacle.mkdir(parents=True)
            await bench.append([message("a", "zebra")])
            async with running(bench):

                async def is_behind() -> bool:
                    lag = bench.indexer.lag()
                    return lag is not None and lag.accounts == 1

                await until(is_behind)
                obstacle.rmdir()

                async def is_done() -> bool:
                    return bench.indexer.lag() == feed.Lag(0, 0, 0.0)

                await until(is_done)
                assert await agree(bench, body("zebra")) == [1]
        finally:
            await bench.close()

    asyncio.run(work())


@pytest.mark.parametrize("has_file", [True, False])
def test_a_rebuilt_file_takes_the_place_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_file: bool
) -> None:
    """A feeder may begin a file meanwhile; what is renamed to its name would be read with its log."""
    others: list[file.IndexFile] = []

    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra")) as bench:
            bench.let_go()
            if not has_file:
                file.remove_account(bench.data_dir / "index", bench.account_id)
            account = await bench.store.read(0, source.account, bench.account_id)
            assert account is not None
            created_at = account.created_at
            known = file.IndexFile.finish

            def finish(made: file.IndexFile) -> None:
                """As a feeder that finds the file damaged, or none."""
                known(made)
                file.discard(bench.data_dir / "index" / str(bench.account_id) / "1.db")
                own = file.IndexFile(
                    file.successor(bench.data_dir / "index", bench.account_id), bench.account_id, created_at
                )
                own.add([Entry(1, 1, 1, 1, NOTHING)], 1)
                others.append(own)

            monkeypatch.setattr(file.IndexFile, "finish", finish)
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 1
            path = path_of(bench)
            assert path != others[0].path
            assert not others[0].path.exists()
            assert not path.with_name(f"{path.name}-wal").exists()
            assert [one.name for one in path.parent.iterdir() if file.BUILDING in one.name] == []
            assert await agree(bench, body("zebra")) == [1]
            others[0].close()

    asyncio.run(work())


def test_two_do_not_rebuild_one_file(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b")) as bench:
            refused: list[TryLater] = []

            def again(done: int) -> None:
                inner = rebuild.rebuild(bench.store, bench.data_dir, bench.account_id)
                with pytest.raises(TryLater) as caught:
                    inner.send(None)
                refused.append(caught.value)

            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id, tell=again) == 2
            assert len(refused) == 1
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 2
            assert await agree(bench, body("zebra")) == [1]

    asyncio.run(work())


def test_what_a_killed_rebuild_left_is_in_nobodys_way(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b")) as bench:
            own = path_of(bench).parent
            for name in ("new.building", "new.building-wal", "2.db.building-shm"):
                (own / name).write_bytes(b"half of it")
            await bench.append([message("c", "zebra")])
            await bench.indexer.feed(bench.account_id)
            assert await agree(bench, body("zebra")) == [1, 3]
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 3
            assert [one.name for one in own.iterdir() if file.BUILDING in one.name] == []
            assert await agree(bench, body("zebra")) == [1, 3]

    asyncio.run(work())
