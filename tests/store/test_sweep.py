"""The sweeper: what goes, what stays, in which order, and that deliveries go on meanwhile."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_rig import (
    DAY,
    NOW,
    count,
    errors,
    execute,
    insert_blob,
    item,
    new_account,
    new_message,
    opened,
    put_file,
    query,
)

from pochta.errors import Corrupt, Refusal
from pochta.store import blobs, directory, leases, mailboxes, messages, placements, removal, schema, sweep
from pochta.store.leases import Fence, LeaseLost
from pochta.store.store import Store
from pochta.store.sweep import Sweeper
from pochta.store.tx import Tx

HOUR = 3600
EVERYTHING = ((1, messages.UID_LIMIT),)
LATER = NOW + 8 * DAY
MUCH_LATER = NOW + 40 * DAY


async def _fill(store: Store, account_id: int, path: str, number: int) -> int:
    """The id of the mailbox, made if need be, with `number` messages more in it."""
    if path != "INBOX":
        with contextlib.suppress(Refusal):
            await store.write(account_id, mailboxes.create, account_id, path, NOW)
    await store.write(account_id, messages.append, account_id, path, [item(100 + n) for n in range(number)], NOW)
    return (await store.read(account_id, mailboxes.find, account_id, path)).id


def _expunge(store: Store, account_id: int, mailbox_id: int) -> "asyncio.Future[int]":
    return store.write(account_id, placements.expunge, account_id, mailbox_id, EVERYTHING, NOW, False)


def test_a_removed_mailbox_is_emptied_and_later_forgotten(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _fill(store, account_id, "INBOX", 3)
            mailbox_id = await _fill(store, account_id, "Big", 200)
            await execute(store, "INSERT INTO reader_seen VALUES (?, ?, 9, 7)", account_id, mailbox_id)
            await execute(store, "INSERT INTO placement_keyword VALUES (?, ?, 7, 'x')", account_id, mailbox_id)
            await store.write(account_id, mailboxes.remove, account_id, "Big", NOW)
            sweeper = Sweeper(store)
            figures = await sweeper.run_once(NOW + 1)
            assert figures.placements == 202
            assert figures.messages == 0
            assert await query(store, "SELECT message_count, used_bytes FROM account") == [(3, 303)]
            assert await count(store, "removed") == 200
            assert await count(store, "reader_seen") == 0
            assert await count(store, "placement_keyword") == 0
            assert await query(store, "SELECT kind, mailbox_id FROM task") == [("mailbox_forget", mailbox_id)]
            assert await errors(store) == []
            figures = await sweeper.run_once(LATER)
            assert (figures.removed_rows, figures.messages, figures.blobs, figures.mailboxes) == (200, 200, 200, 1)
            assert await count(store, "message") == await count(store, "blob_inline") == await count(store, "blob") == 3
            assert await query(store, "SELECT 1 FROM mailbox WHERE id = ?", mailbox_id) == []
            assert await count(store, "task") == 0
            assert await errors(store) == []
            assert (await sweeper.run_once(LATER + 1)).steps == 0

    asyncio.run(body())


def test_quota_is_given_back_once_when_the_message_stands_elsewhere_too(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            mailbox_id = await _fill(store, account_id, "Two", 2)
            await store.write(account_id, placements.copy, account_id, mailbox_id, ((1, 1),), "Two", NOW)
            await store.write(account_id, placements.copy, account_id, mailbox_id, ((2, 2),), "INBOX", NOW)
            await store.write(account_id, mailboxes.remove, account_id, "Two", NOW)
            sweeper = Sweeper(store)
            await sweeper.run_once(NOW)
            assert await query(store, "SELECT message_count, used_bytes FROM account") == [(1, 101)]
            figures = await sweeper.run_once(LATER)
            assert (figures.removed_rows, figures.messages, figures.blobs) == (3, 1, 1)
            assert await count(store, "message") == 1
            assert await errors(store) == []

    asyncio.run(body())


def test_a_message_lives_as_long_as_its_last_removed_row(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            mailbox_id = await _fill(store, account_id, "A", 1)
            await store.write(account_id, placements.copy, account_id, mailbox_id, EVERYTHING, "INBOX", NOW)
            inbox_id = await store.read(account_id, mailboxes.find_inbox, account_id)
            await _expunge(store, account_id, mailbox_id)
            await store.write(account_id, placements.expunge, account_id, inbox_id, EVERYTHING, NOW + 3 * DAY, False)
            sweeper = Sweeper(store)
            assert (await sweeper.run_once(LATER)).messages == 0
            assert await count(store, "message") == 1
            assert await errors(store) == []
            assert (await sweeper.run_once(NOW + 11 * DAY)).messages == 1
            assert await count(store, "message") == await count(store, "blob") == 0

    asyncio.run(body())


@pytest.mark.parametrize(
    ("retention_s", "after_s", "left"),
    [(0, HOUR - 1, 1), (0, HOUR, 0), (2 * DAY, 2 * DAY - 1, 1), (2 * DAY, 2 * DAY, 0)],
    ids=["never-under-an-hour", "an-hour", "before-the-end", "at-the-end"],
)
def test_the_retention_is_kept(tmp_path: Path, retention_s: int, after_s: int, left: int) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            mailbox_id = await _fill(store, account_id, "INBOX", 1)
            await _expunge(store, account_id, mailbox_id)
            await Sweeper(store, retention_s=retention_s).run_once(NOW + after_s)
            assert await count(store, "removed") == await count(store, "message") == left

    asyncio.run(body())


def test_a_blob_two_accounts_share_stays_until_the_last_message_goes(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            one, two = await new_account(store, "one"), await new_account(store, "two")
            file = await put_file(store)
            path = store.blobs.path(file)
            await store.write(0, messages.deliver, (one, two), new_message(200_000, file=file))
            sweeper = Sweeper(store)
            await _expunge(store, one, await store.read(one, mailboxes.find_inbox, one))
            figures = await sweeper.run_once(LATER)
            assert (figures.messages, figures.blobs, figures.files) == (1, 0, 0)
            assert path.exists()
            await _expunge(store, two, await store.read(two, mailboxes.find_inbox, two))
            figures = await sweeper.run_once(LATER)
            assert (figures.messages, figures.blobs, figures.files) == (1, 1, 1)
            assert not path.exists()
            assert await errors(store) == []

    asyncio.run(body())


def test_a_blob_row_is_durable_gone_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, object]] = []

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            file = await put_file(store)
            await store.write(0, messages.deliver, (account_id,), new_message(200_000, file=file))
            await _expunge(store, account_id, await store.read(account_id, mailboxes.find_inbox, account_id))
            write, delete_files = store.write, store.blobs.delete_files

            def noting_write(  # type: ignore[no-untyped-def]
                shard, fn, *args, durable=True
            ):
                if fn is removal.run_step and args[1] is removal.Work.DELETE_BLOBS:
                    future = write(shard, fn, *args, durable=durable)
                    future.add_done_callback(lambda _: order.append(("row", durable)))
                    return future
                return write(shard, fn, *args, durable=durable)

            def noting_delete(files: tuple[str, ...]) -> None:
                order.append(("file", files))
                delete_files(files)

            monkeypatch.setattr(store, "write", noting_write)
            monkeypatch.setattr(store.blobs, "delete_files", noting_delete)
            await Sweeper(store).run_once(LATER)
            assert order == [("row", True), ("file", (file,))]

    asyncio.run(body())


def test_leftovers_of_crashes_are_found_once_they_are_old(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            orphan, named = await put_file(store), await put_file(store)
            await store.write(0, messages.deliver, (account_id,), new_message(200_000, file=named))
            young = await store.write(0, insert_blob, blobs.NewBlob(3, b"abc", None), LATER - HOUR + 1)
            await store.write(0, insert_blob, blobs.NewBlob(3, b"abc", None), NOW)
            begun = store.blobs.folder / ".new-0123"
            begun.touch()
            foreign = store.blobs.path(orphan).with_name("notes-about-" + orphan[-2:])
            foreign.touch()
            made_at = int(orphan.partition("-")[0], 16)
            os.utime(begun, (made_at, made_at))
            sweeper = Sweeper(store)
            assert (await sweeper.run_once(made_at + HOUR - 1)).files == 0
            assert store.blobs.path(orphan).exists()
            figures = await sweeper.run_once(made_at + 3 * HOUR)
            assert figures.files == 2
            assert not store.blobs.path(orphan).exists()
            assert not begun.exists()
            assert store.blobs.path(named).exists()
            assert foreign.exists()
            figures = await Sweeper(store).run_once(LATER)
            assert {row[0] for row in await query(store, "SELECT id FROM blob WHERE file IS NULL")} <= {young}
            assert await errors(store) == []

    asyncio.run(body())


def test_no_blob_goes_while_a_backup_runs(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            file = await put_file(store)
            await store.write(0, messages.deliver, (account_id,), new_message(200_000, file=file))
            await _expunge(store, account_id, await store.read(account_id, mailboxes.find_inbox, account_id))
            fence = await store.write(0, leases.acquire, leases.BACKUP, "b", LATER, 60)
            assert fence is not None
            sweeper = Sweeper(store)
            figures = await sweeper.run_once(LATER)
            assert (figures.messages, figures.blobs) == (1, 0)
            assert store.blobs.path(file).exists()
            figures = await sweeper.run_once(LATER + HOUR)
            assert (figures.blobs, figures.files) == (1, 1)
            assert not store.blobs.path(file).exists()

    asyncio.run(body())


def test_old_change_rows_go_and_the_floor_tells_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _fill(store, account_id, "INBOX", 100)
            ((old_mod_seq,),) = await query(store, "SELECT mod_seq FROM account")
            inbox_id = await store.read(account_id, mailboxes.find_inbox, account_id)
            late = NOW + 20 * DAY
            await store.write(account_id, placements.expunge, account_id, inbox_id, ((5, 5),), late, False)
            sweeper = Sweeper(store)
            assert (await sweeper.run_once(NOW + 30 * DAY - 1)).changes == 0
            figures = await sweeper.run_once(MUCH_LATER)
            assert figures.changes == 7  # six first mailboxes, one append
            assert await query(store, "SELECT log_floor_mod_seq FROM account") == [(old_mod_seq,)]
            assert await query(store, "SELECT DISTINCT at FROM change") == [(late,)]
            assert await errors(store) == []

    asyncio.run(body())


def test_a_removed_account_goes_whole_after_the_retention_and_no_other_does(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            gone, stays = await new_account(store, "gone"), await new_account(store, "stays")
            for account_id in (gone, stays):
                mailbox_id = await _fill(store, account_id, "Box", 90)
                await _fill(store, account_id, "INBOX", 2)
                await store.write(account_id, messages.deliver, (account_id,), new_message(ref=7))
                await execute(store, "INSERT INTO keyword VALUES (?, 5, 'A', 'a')", account_id)
                reader_id = gone + stays - account_id
                await execute(store, "INSERT INTO reader_seen VALUES (?, ?, ?, 7)", account_id, mailbox_id, reader_id)
                await execute(
                    store, "INSERT INTO mailbox_right VALUES (?, ?, ?, 'lr', '')", account_id, mailbox_id, reader_id
                )
                await execute(
                    store,
                    "INSERT INTO annotation VALUES (?, ?, ?, '/private/x', x'00')",
                    account_id,
                    mailbox_id,
                    reader_id,
                )
                await execute(store, "INSERT INTO placement_keyword VALUES (?, ?, 7, 'x')", account_id, mailbox_id)
                await store.write(account_id, placements.expunge, account_id, mailbox_id, ((1, 5),), NOW, False)
                await store.write(account_id, mailboxes.create, account_id, "Old", NOW)
                await store.write(account_id, mailboxes.remove, account_id, "Old", NOW)
            await store.write(0, directory.remove_account, "example.org", "gone", NOW)
            sweeper = Sweeper(store)
            await sweeper.run_once(NOW + 6 * DAY)
            assert (await query(store, "SELECT count(*) FROM message WHERE account_id = ?", gone)) == [(93,)]
            figures = await sweeper.run_once(LATER)
            assert figures.accounts == 1
            for table, _ in removal.ACCOUNT_TABLES:
                sql = f"SELECT count(*) FROM {table} WHERE account_id = ?"
                assert await query(store, sql, gone) == [(0,)], table
            for table in ("reader_seen", "mailbox_right", "annotation"):
                assert await query(store, f"SELECT count(*) FROM {table} WHERE reader_id = ?", gone) == [(0,)], table
            assert await query(store, "SELECT id FROM account") == [(stays,)]
            assert await count(store, "blob") == await count(store, "message") == 88
            assert await query(store, "SELECT account_id FROM task") == [(stays,)]  # its mailbox, emptied on day 6
            assert await errors(store) == []
            assert await new_account(store, "gone") > stays

    asyncio.run(body())


def test_a_task_that_names_an_account_in_use_removes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _fill(store, account_id, "INBOX", 2)
            await execute(store, "INSERT INTO task (kind, account_id, mailbox_id, created_at) VALUES ('account_remove', ?, 0, 1)", account_id)  # fmt: skip # noqa: E501
            assert (await Sweeper(store).run_once(LATER)).accounts == 0
            assert await count(store, "message") == 2
            assert await count(store, "account") == 1

    asyncio.run(body())


def test_every_table_of_accounts_and_every_column_of_blobs_is_known(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            for table in schema.table_names():
                columns = {row[1] for row in await query(store, f"PRAGMA table_info({table})")}
                # what an account has sent goes on without it
                others = {"task", "outgoing", "outgoing_recipient"}
                is_known = table in {name for name, _ in removal.ACCOUNT_TABLES} | others
                assert ("account_id" in columns) == is_known, table
                if table != "blob_inline":
                    assert {(table, name) for name in columns if "blob_id" in name} <= set(removal.BLOB_USERS), table

    asyncio.run(body())


def test_a_lost_fence_stops_the_sweeper_before_it_removes_anything(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _expunge(store, account_id, await _fill(store, account_id, "INBOX", 3))
            number = await store.write(0, leases.acquire, "background", "a", NOW, 30)
            assert number is not None
            assert await store.write(0, leases.acquire, "background", "b", LATER, 30) is not None
            with pytest.raises(LeaseLost):
                await Sweeper(store, fence=Fence("background", number)).run_once(LATER)
            assert await count(store, "removed") == 3

    asyncio.run(body())


def test_deliveries_go_on_between_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "STEP_ROWS_MAX", 50)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id, other = await new_account(store), await new_account(store, "other")
            await _fill(store, account_id, "Big", 1000)
            await store.write(account_id, mailboxes.remove, account_id, "Big", NOW)
            sweeping = asyncio.create_task(Sweeper(store).run_once(NOW))
            delivered = 0
            while not sweeping.done():
                await store.write(other, messages.deliver, (other,), new_message())
                delivered += 1
            figures = await sweeping
            assert figures.placements == 1000
            assert figures.steps >= 20
            assert delivered >= 10
            assert await errors(store) == []

    asyncio.run(body())


@pytest.mark.parametrize(
    ("took_s", "rows"),
    [(sweep.STEP_S, 64), (sweep.STEP_S / 2, 80), (sweep.STEP_S * 2, 32), (1.0, sweep.STEP_ROWS_MIN)],
    ids=["right", "quick", "slow", "stuck"],
)
def test_the_size_of_a_step_follows_its_time(took_s: float, rows: int) -> None:
    pace = sweep._Pace()
    pace.note(64, took_s)
    assert pace.rows == rows
    pace.note(1, 1.0)
    assert pace.rows == rows  # a last step of few rows tells nothing


def test_free_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FREE_PAGES_MIN", 20)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await store.write(account_id, messages.append, account_id, "INBOX", [item(60_000) for _ in range(60)], NOW)
            before = await store.read(0, removal.free_pages)
            inbox_id = await store.read(account_id, mailboxes.find_inbox, account_id)
            await _expunge(store, account_id, inbox_id)
            figures = await Sweeper(store).run_once(LATER)
            free, total = await store.read(0, removal.free_pages)
            assert figures.blobs == 60
            assert figures.pages > 300
            assert total < before[1] / 3
            assert free <= 20

    asyncio.run(body())


@pytest.mark.parametrize("after", range(0, 22, 3))
def test_a_sweep_that_is_cut_off_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(sweep, "STEP_ROWS_MAX", 16)
    original = dict(removal._STEPS)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id, gone = await new_account(store), await new_account(store, "gone")
            await _fill(store, account_id, "Big", 40)
            await _fill(store, gone, "Big", 20)
            file = await put_file(store)
            await store.write(0, messages.deliver, (gone,), new_message(200_000, file=file))
            await store.write(account_id, mailboxes.remove, account_id, "Big", NOW)
            await store.write(0, directory.remove_account, "example.org", "gone", NOW)
            await Sweeper(store).run_once(NOW)
            calls = [0]
            for work, fn in original.items():
                monkeypatch.setitem(removal._STEPS, work, _counted(fn, calls, after))
            with pytest.raises(Corrupt):
                await Sweeper(store).run_once(LATER)
            assert await errors(store) == []
            for work, fn in original.items():
                monkeypatch.setitem(removal._STEPS, work, fn)
            await Sweeper(store).run_once(LATER + 2 * HOUR)
            assert await count(store, "account") == 1
            assert await count(store, "message") == await count(store, "blob") == await count(store, "task") == 0
            assert not store.blobs.path(file).exists()
            assert await errors(store) == []

    asyncio.run(body())


def _counted(
    fn: Callable[[Tx, int, tuple[int, ...]], removal.Step], calls: list[int], after: int
) -> Callable[[Tx, int, tuple[int, ...]], removal.Step]:
    def counted(tx: Tx, limit: int, args: tuple[int, ...]) -> removal.Step:
        calls[0] += 1
        if calls[0] > after:
            raise Corrupt("step", calls[0])
        return fn(tx, limit, args)

    return counted


def test_run_sweeps_when_something_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "TASK_POLL_S", 0.001)

    async def body() -> None:
        async with opened(tmp_path) as store:
            account_id = await new_account(store)
            await _fill(store, account_id, "Big", 5)
            sweeping = asyncio.create_task(Sweeper(store).run())
            hints = store.watch()
            await store.write(account_id, mailboxes.remove, account_id, "Big", NOW)
            while await count(store, "placement"):
                await anext(hints)
            await hints.aclose()  # type: ignore[attr-defined]
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            assert await count(store, "removed") == 5

    asyncio.run(body())
