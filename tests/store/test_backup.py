"""Backups are whole, taken beside writers, and what is restored repeats no number."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from store_rig import NOW, count, errors, execute, item, new_account, new_message, opened, put_file, query

from pochta import clock
from pochta.cli import backup as backup_command
from pochta.cli import restore as restore_command
from pochta.errors import SetupError
from pochta.store import arrivals, backup, check, leases, mailboxes, messages, placements, queue_view, setup, sqlite
from pochta.store.arrivals import Arrival
from pochta.store.outbox import NewOutgoing, NewRecipient
from pochta.store.store import Store
from pochta.store.sweep import Sweeper
from pochta.store.trails import NewTrail

DAY = 86_400
EVERYTHING = ((1, messages.UID_LIMIT),)


async def _deliver_file(store: Store, account_id: int, size: int = 200_000) -> str:
    file = await put_file(store, size)
    await store.write(0, messages.deliver, (account_id,), new_message(size, file=file))
    return file


@asynccontextmanager
async def _saved(tmp_path: Path) -> AsyncIterator[tuple[Store, int]]:
    """A store with two messages, one of them in a file, and a backup of it in `tmp_path/backup`."""
    async with opened(tmp_path / "data") as store:
        account_id = await new_account(store)
        await store.write(account_id, messages.append, account_id, "INBOX", [item()], NOW)
        await _deliver_file(store, account_id)
        await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup")
        yield store, account_id


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_acknowledged_before_is_in_a_backup_taken_beside_writers(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"

    async def body() -> None:
        async with opened(data) as store:
            account_id = await new_account(store)
            acknowledged: list[int] = []
            is_over = False

            async def write(number: int) -> None:
                while not is_over:
                    number += 10
                    if number % 30 == 0:
                        file = await put_file(store, 100_000 + number)
                        new = new_message(100_000 + number, file=file, received_at=number)
                    else:
                        new = new_message(20_000, received_at=number)
                    await store.write(account_id, messages.deliver, (account_id,), new)
                    acknowledged.append(number)

            async def save() -> tuple[set[int], int]:
                while len(acknowledged) < 60:
                    await store.write(0, mailboxes.subscribe, account_id, "Wait", 0)
                before = set(acknowledged)
                await asyncio.to_thread(backup.backup, data, target)
                nonlocal is_over
                is_over = True
                return before, len(acknowledged)

            *_, (before, after) = await asyncio.gather(*(write(n) for n in range(4)), save())
            assert after > len(before)
        await asyncio.to_thread(backup.restore, target, tmp_path / "new")
        assert [str(one) for one in check.check(tmp_path / "new")] == []
        async with opened(tmp_path / "new") as store:
            there = {row[0] for row in await query(store, "SELECT received_at FROM message")}
            assert there >= before
            assert await errors(store) == []
            rows = await query(store, "SELECT file FROM blob WHERE file IS NOT NULL")
            assert rows
            assert all(store.blobs.path(file).exists() for (file,) in rows)

    asyncio.run(body())


def test_the_database_copy_is_not_restarted_by_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PAGES_A_STEP", 1)
    steps: list[int] = []

    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            account_id = await new_account(store)
            await store.write(account_id, messages.append, account_id, "INBOX", [item(50_000)] * 4, NOW)
            loop = asyncio.get_running_loop()

            def write_one() -> None:
                asyncio.run_coroutine_threadsafe(deliver(), loop).result()

            async def deliver() -> None:
                await store.write(account_id, messages.deliver, (account_id,), new_message(10_000))

            def progress(phase: str, done: int, total: int) -> None:
                if phase == "database":
                    steps.append(done)
                    assert len(steps) < 500  # starting over at every commit it would never end
                    write_one()

            await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup", progress=progress)
            assert steps == list(range(1, len(steps) + 1))
            assert (await count(store, "message")) == 4 + len(steps)
            assert backup.read_manifest(tmp_path / "backup").messages == 4

    asyncio.run(body())


def test_the_sweeper_takes_no_file_from_a_backup_that_runs(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            account_id = await new_account(store)
            file = await _deliver_file(store, account_id)
            inbox_id = await store.read(account_id, mailboxes.find_inbox, account_id)
            await store.write(account_id, placements.expunge, account_id, inbox_id, EVERYTHING, NOW, False)
            loop = asyncio.get_running_loop()
            swept: list[tuple[int, int]] = []

            async def sweep() -> None:
                figures = await Sweeper(store).run_once(int(clock.now_s()))
                swept.append((figures.messages, figures.blobs))

            def progress(phase: str, done: int, total: int) -> None:
                if phase == "database" and done == total and not swept:
                    asyncio.run_coroutine_threadsafe(sweep(), loop).result()

            data, target = tmp_path / "data", tmp_path / "backup"
            manifest = await asyncio.to_thread(backup.backup, data, target, progress=progress)
            assert swept == [(1, 0)]
            assert (manifest.messages, manifest.blob_files, manifest.missing) == (1, 1, ())
            assert (target / "blobs" / file[-2:] / file).stat().st_size == 200_000
            await Sweeper(store).run_once(int(clock.now_s()))
            assert not store.blobs.path(file).exists()
            assert (target / "blobs" / file[-2:] / file).stat().st_size == 200_000

    asyncio.run(body())


def test_a_backup_that_was_stopped_for_too_long_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            await new_account(store)
            now = clock.current().now

            def progress(phase: str, done: int, total: int) -> None:
                monkeypatch.setattr(clock.current(), "now", lambda: now() + backup.LEASE_S + 1)

            with pytest.raises(SetupError, match="stopped for too long"):
                await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup", progress=progress)
            assert list((tmp_path / "backup").iterdir()) == []

    asyncio.run(body())


def test_a_second_backup_waits_its_turn(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            await store.write(0, leases.acquire, leases.BACKUP, "other", int(clock.now_s()), 60)
            with pytest.raises(SetupError, match="another backup runs"):
                await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup")

    asyncio.run(body())


def test_no_number_that_a_client_may_have_seen_comes_again(tmp_path: Path) -> None:
    async def numbers(store: Store) -> dict[str, int]:
        sql = (
            "SELECT (SELECT max(mod_seq) FROM account), (SELECT max(uid_next) - 1 FROM mailbox WHERE role = 'inbox'),"
            " (SELECT max(uid_validity) FROM mailbox), (SELECT max(id) FROM message), (SELECT max(id) FROM blob),"
            " (SELECT max(id) FROM account), (SELECT max(id) FROM mailbox)"
        )
        (row,) = await query(store, sql)
        names = ("mod_seq", "uid", "uid_validity", "message", "blob", "account", "mailbox")
        return dict(zip(names, row, strict=True))

    async def change(store: Store, account_id: int, name: str) -> dict[str, int]:
        await store.write(account_id, messages.append, account_id, "INBOX", [item()] * 5, NOW)
        await store.write(account_id, mailboxes.create, account_id, name, NOW)
        await new_account(store, name)
        return await numbers(store)

    async def body() -> None:
        async with _saved(tmp_path) as (store, account_id):
            ((uid_validity, old_mod_seq),) = await query(
                store, "SELECT uid_validity, mod_seq FROM mailbox WHERE role = 'inbox'"
            )
            seen = await change(store, account_id, "lost")
        await asyncio.to_thread(backup.restore, tmp_path / "backup", tmp_path / "new")
        setup.prepare(tmp_path / "new")
        async with opened(tmp_path / "new") as store:
            assert await count(store, "message") == 2
            ((kept, mod_seq, log_floor),) = await query(
                store,
                "SELECT m.uid_validity, m.mod_seq, a.log_floor_mod_seq FROM mailbox m, account a"
                " WHERE m.role = 'inbox' AND a.id = m.account_id",
            )
            assert kept == uid_validity
            assert mod_seq > seen["mod_seq"]
            assert log_floor > seen["mod_seq"]
            assert await query(store, "SELECT DISTINCT mod_seq FROM placement") == [(mod_seq,)]
            assert await count(store, "change") == 0
            assert await errors(store) == []
            ((first_mod_seq,),) = await query(store, "SELECT mod_seq FROM account")
            appended = await store.write(account_id, messages.append, account_id, "INBOX", [item()], NOW)
            assert appended.uids[0] > seen["uid"]
            new = await change(store, account_id, "made")
            assert {name: new[name] > seen[name] for name in seen} == dict.fromkeys(seen, True)
            assert new["mod_seq"] > first_mod_seq > old_mod_seq
            assert await errors(store) == []

    asyncio.run(body())


def test_what_waits_in_the_queue_is_held_after_a_restore(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            recipient = NewRecipient("b.test", "b@b.test")
            outgoing = NewOutgoing(
                *(0, "command", "a@a.test", "a@a.test", None, None, "7bit", False, False, True, 0, None, None, 0),
                recipients=(recipient,),
            )
            arrival = Arrival(NewTrail("t", "", "", (), "{}"), (), (outgoing,), outgoing._replace(recipients=()))
            await store.write(0, arrivals.accept, arrival, new_message(), NOW)
            await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup")
        manifest = backup.restore(tmp_path / "backup", tmp_path / "restored")
        assert manifest.held == 1
        async with opened(tmp_path / "restored") as store:
            assert await store.read(0, queue_view.count) == (0, 1)

    asyncio.run(body())


def test_a_mailbox_near_its_last_uid_gets_a_new_uid_validity(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            account_id = await new_account(store)
            last = messages.UID_LIMIT - 10
            await execute(store, "UPDATE mailbox SET uid_next = ? WHERE role = 'inbox'", last)
            before = await query(store, "SELECT id, uid_validity, uid_next FROM mailbox")
        await asyncio.to_thread(backup.raise_numbers, tmp_path / "data" / sqlite.DATABASE_NAME)
        async with opened(tmp_path / "data") as store:
            after = await query(store, "SELECT id, uid_validity, uid_next FROM mailbox")
            inbox_id = await store.read(account_id, mailboxes.find_inbox, account_id)
            for (id, old_validity, old_next), (_, validity, uid_next) in zip(before, after, strict=True):
                if id == inbox_id:
                    assert validity > max(row[1] for row in before) + backup.UID_VALIDITY_STEP - 10
                    assert uid_next == last
                else:
                    assert (validity, uid_next) == (old_validity, old_next + backup.UID_STEP)
            assert await errors(store) == []

    asyncio.run(body())


def test_a_restored_store_was_stopped_cleanly_and_holds_no_lease(tmp_path: Path) -> None:
    async def body() -> None:
        async with _saved(tmp_path):
            pass
        await asyncio.to_thread(backup.restore, tmp_path / "backup", tmp_path / "new")
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["blobs", "pochta.db", "run"]
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "new" / "pochta.db").stat().st_mode & 0o777 == 0o600
        async with opened(tmp_path / "new") as store:
            assert await query(store, "SELECT number FROM meta WHERE name = 'is_clean'") == [(1,)]
            assert await query(store, "SELECT max(expires_at) FROM lease") == [(0,)]

    asyncio.run(body())


def test_a_backup_may_be_moved_to_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)

    async def body() -> None:
        async with _saved(tmp_path) as (store, _):
            ((file,),) = await query(store, "SELECT file FROM blob WHERE file IS NOT NULL")
            saved = tmp_path / "backup" / "blobs" / file[-2:] / file
            assert saved.stat().st_nlink == 1
            assert saved.read_bytes() == b"y" * 200_000
        await asyncio.to_thread(backup.restore, tmp_path / "backup", tmp_path / "new")
        assert check.check(tmp_path / "new") == []

    asyncio.run(body())


def test_a_file_that_is_gone_from_the_store_is_told_and_the_rest_is_saved(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            account_id = await new_account(store)
            gone, there = await _deliver_file(store, account_id), await _deliver_file(store, account_id)
            short = await _deliver_file(store, account_id)
            store.blobs.path(gone).unlink()
            os.truncate(store.blobs.path(short), 7)
            manifest = await asyncio.to_thread(backup.backup, tmp_path / "data", tmp_path / "backup")
            assert set(manifest.missing) == {gone, short}
        await asyncio.to_thread(backup.restore, tmp_path / "backup", tmp_path / "new")
        assert (tmp_path / "new" / "blobs" / there[-2:] / there).exists()

    asyncio.run(body())


def test_a_target_with_something_in_it_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with _saved(tmp_path):
            pass
        before = _contents(tmp_path / "backup")
        with pytest.raises(SetupError, match="not empty"):
            backup.backup(tmp_path / "data", tmp_path / "backup")
        assert _contents(tmp_path / "backup") == before
        before = _contents(tmp_path / "data")
        with pytest.raises(SetupError, match="there is a store already"):
            backup.restore(tmp_path / "backup", tmp_path / "data")
        assert _contents(tmp_path / "data") == before

    asyncio.run(body())


def test_without_a_store_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pochta init"):
        backup.backup(tmp_path, tmp_path / "backup")


def _spoil_database(folder: Path) -> None:
    with open(folder / "pochta.db", "r+b") as file:
        file.seek(9000)
        file.write(b"spoilt")


def _spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def _make_newer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99, "program": "9.9"}))


def _name_a_path_outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": ["tls/../../outside"]}))


def _lose_file(folder: Path) -> None:
    next(path for path in (folder / "blobs").rglob("*") if path.is_file()).unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no complete backup"),
        (lambda folder: (folder / "pochta.db").unlink(), "database is gone"),
        (_spoil_manifest, "not the manifest"),
        (_make_newer, "Pochta 9.9"),
        (_spoil_database, "damaged"),
        (_lose_file, "1 files of the backup are gone"),
        (_name_a_path_outside, "impossible name"),
    ],
    ids=["no-manifest", "no-database", "bad-manifest", "newer", "damaged", "file-gone", "path-outside"],
)
def test_a_backup_that_is_not_whole_is_not_restored(tmp_path: Path, spoil, told: str) -> None:  # type: ignore[no-untyped-def]
    async def body() -> None:
        async with _saved(tmp_path):
            pass

    asyncio.run(body())
    spoil(tmp_path / "backup")
    with pytest.raises(SetupError, match=told):
        backup.restore(tmp_path / "backup", tmp_path / "new")
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) in ([], [tmp_path / "new" / "run"])


def test_the_commands(tmp_path: Path) -> None:
    config = tmp_path / "etc" / "pochta.toml"
    config.parent.mkdir()
    config.write_text('hostname = "mail.example.org"\ndata_dir = "../data"\n')
    (tmp_path / "data" / "tls").mkdir(parents=True)
    for name in ("certificate", "key"):
        (tmp_path / "data" / "tls" / f"{name}.pem").write_text(name)
    saved = tmp_path / "saved"

    async def body() -> None:
        async with opened(tmp_path / "data") as store:
            await _deliver_file(store, await new_account(store))

    asyncio.run(body())
    runner = CliRunner()
    result = runner.invoke(backup_command.command, [str(saved)], obj=str(config), catch_exceptions=False)
    assert result.output.startswith(f"{saved}: 1 account, 1 message, ")
    assert (saved / "pochta.toml").read_text() == config.read_text()
    assert (saved / "manifest.json").stat().st_mode & 0o777 == 0o600
    assert (saved / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SetupError, match="there is a store already"):
        runner.invoke(restore_command.command, [str(saved)], obj=str(config), catch_exceptions=False)
    (tmp_path / "data").rename(tmp_path / "lost")
    result = runner.invoke(restore_command.command, [str(saved)], obj=str(config), catch_exceptions=False)
    assert result.output.startswith(f"{tmp_path / 'etc' / '..' / 'data'}: 1 account, 1 message\n")
    assert (tmp_path / "data" / "tls" / "key.pem").read_text() == "key"
    assert check.check(tmp_path / "data") == []
    elsewhere = tmp_path / "elsewhere"
    result = runner.invoke(restore_command.command, [str(saved), "--to", str(elsewhere)], obj="/nowhere")
    assert result.exit_code == 0
    assert check.check(elsewhere) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pochta.toml"
    config.write_text('hostname = "mail.example.org"\n')
    setup.create(tmp_path / "data")

    def fail(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device", "copy")

    monkeypatch.setattr(backup, "_copy_file", fail)
    with pytest.raises(SetupError, match="No space left on device; nothing was left behind"):
        CliRunner().invoke(backup_command.command, [str(tmp_path / "saved")], obj=str(config), catch_exceptions=False)
    assert list((tmp_path / "saved").iterdir()) == []
