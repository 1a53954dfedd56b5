"""Checkpoints keep the write-ahead log bounded, and only the one who should makes them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rig import new_account, new_message, opened, query

from pochta import clock, log
from pochta.store import checkpoint, messages
from pochta.store.checkpoint import Checkpointer, log_in_use
from pochta.store.store import Store

BOUND = 256 * 1024
MESSAGE = 20_000


@pytest.fixture(autouse=True)
def events() -> Iterator[list[str]]:
    lines: list[str] = []
    before = log.set_sink(lines.append)
    yield lines
    log.set_sink(before)


def _wal(data_dir: Path) -> Path:
    return data_dir / "pochta.db-wal"


async def _deliver(store: Store, account_id: int, number: int) -> None:
    for _ in range(number):
        await store.write(account_id, messages.deliver, (account_id,), new_message(MESSAGE))


def test_the_log_in_use_is_found_behind_an_older_run(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _deliver(store, account_id, 30)
            salt, used = log_in_use(_wal(tmp_path))
            assert used == _wal(tmp_path).stat().st_size - 32
            checkpointer = Checkpointer(tmp_path, restart_bytes=BOUND)
            checkpointer.step()
            assert checkpointer.figures.finished == 1
            await _deliver(store, account_id, 1)
            new_salt, new_used = log_in_use(_wal(tmp_path))
            assert new_salt != salt
            assert 0 < new_used < used / 5
            assert _wal(tmp_path).stat().st_size == used + 32
            checkpointer.close()

    asyncio.run(body())


def test_there_may_be_no_log(tmp_path: Path) -> None:
    assert log_in_use(tmp_path / "none") == (0, 0)
    (tmp_path / "empty").touch()
    assert log_in_use(tmp_path / "empty") == (0, 0)


def test_the_log_stays_bounded_under_a_writing_load(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            checkpointer = Checkpointer(tmp_path, restart_bytes=BOUND)
            largest = 0
            for _ in range(20):  # rounds, so that a slow disk cannot keep the checkpoints from ever being under way
                load = asyncio.gather(*(_deliver(store, account_id, 5) for _ in range(4)))
                await asyncio.to_thread(checkpointer.step)
                await load
                largest = max(largest, _wal(tmp_path).stat().st_size)
            assert await query(store, "SELECT message_count FROM account WHERE id = ?", account_id) == [(400,)]
            assert checkpointer.figures.finished > 2
            written = 400 * MESSAGE
            assert largest < written / 2  # 8 MB of mail through a log of 256 KiB and what came in during one round
            checkpointer.close()

    asyncio.run(body())


def test_a_reader_that_does_not_let_go_is_told_of_and_not_waited_for(
    tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            checkpointer = Checkpointer(tmp_path, restart_bytes=BOUND)
            async with store.snapshot(account_id) as snapshot:
                before = snapshot.rows("SELECT count(*) FROM message")
                await _deliver(store, account_id, 60)
                checkpointer.step()
                checkpointer.step()
                assert checkpointer.figures.finished == 0
                assert checkpointer.figures.refused == 2
                assert len([line for line in events if "store.wal.large" in line]) == 1
                await _deliver(store, account_id, 1)
                assert snapshot.rows("SELECT count(*) FROM message") == before
            checkpointer.step()
            assert checkpointer.figures.finished == 1
            await _deliver(store, account_id, 1)
            assert log_in_use(_wal(tmp_path))[1] < BOUND
            checkpointer.close()

    asyncio.run(body())


def test_a_little_mail_is_copied_after_a_while_and_the_file_shrinks_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(clock.current(), "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "GROWN_BYTES", 1024 * 1024)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            checkpointer = Checkpointer(tmp_path)
            await _deliver(store, account_id, 1)
            now[0] += 1
            checkpointer.step()
            assert checkpointer.figures.copies == 0
            now[0] += checkpoint.MAX_AGE_S
            checkpointer.step()
            checkpointer.step()
            assert checkpointer.figures.copies == 1
            await _deliver(store, account_id, 60)
            now[0] += 1
            checkpointer.step()
            assert checkpointer.figures.copies == 2
            assert checkpointer.figures.finished == 0
            now[0] += checkpoint.REST_S
            checkpointer.step()
            assert checkpointer.figures.finished == 1
            assert _wal(tmp_path).stat().st_size == 0
            checkpointer.step()
            assert checkpointer.figures.finished == 1
            checkpointer.close()

    asyncio.run(body())


def test_run_ends_by_cancellation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.001)
    monkeypatch.setattr(checkpoint, "GROWN_BYTES", 1)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            checkpointer = Checkpointer(tmp_path)
            task = asyncio.create_task(checkpointer.run())
            while not checkpointer.figures.copies:
                await _deliver(store, account_id, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await _deliver(store, account_id, 1)

    asyncio.run(body())
