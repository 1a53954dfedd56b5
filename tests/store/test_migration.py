"""A store of an older program becomes one of this program, and loses nothing by it."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pochta import log
from pochta.errors import SetupError
from pochta.store import backup, check, schema, setup, sqlite


def make_version_1(data_dir: Path) -> Path:
    """What the first program made, with an account in it."""
    data_dir.mkdir()
    for name in ("blobs", "run"):
        (data_dir / name).mkdir()
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, create=True)
    for statement in schema._translated(schema._TABLES, "sqlite"):
        connection.execute(statement)
    meta = [("schema_version", 1), ("min_reader", 1), ("min_writer", 1), ("mod_seq_floor", 0), ("is_clean", 1)]
    connection.executemany("INSERT INTO meta (name, number) VALUES (?, ?)", meta)
    connection.execute(
        "INSERT INTO domain (name, shown, created_at) VALUES ('x', 'x', 0);"
        " INSERT INTO account (domain_id, local_part, address, credential, next_uid_validity, created_at, mod_seq)"
        " VALUES (1, 'a', 'a@x', '', 1, 0, 5000)"
    )
    connection.close()
    return data_dir


def shape(data_dir: Path) -> list[tuple[str, str]]:
    """Every table and index with the words that made it."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name"
        return [(str(row[0]), str(row[1])) for row in connection.execute(sql)]
    finally:
        connection.close()


def rows(data_dir: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    before = log.set_sink(lines.append)
    yield lines
    log.set_sink(before)


def test_version_1(tmp_path: Path, logged: list[str]) -> None:
    old = make_version_1(tmp_path / "old")
    setup.create(tmp_path / "new")
    assert shape(old) != shape(tmp_path / "new")
    for _ in range(2):  # a second time changes nothing
        setup.prepare(old)
        assert shape(old) == shape(tmp_path / "new")
        assert rows(old, "SELECT address, mod_seq FROM account") == [("a@x", 5000)]
        versions = dict(rows(old, "SELECT name, number FROM meta WHERE name LIKE '%\\_%' ESCAPE '\\'"))
        assert versions["schema_version"] == schema.SCHEMA_VERSION
        assert (versions["min_reader"], versions["min_writer"]) == (schema.MIN_READER, schema.MIN_WRITER)
    assert [line.split(" ", 1)[1] for line in logged] == [
        f"store.migrated from_version=1 to_version={schema.SCHEMA_VERSION}\n"
    ]


def test_command_leaves_an_old_store_alone(tmp_path: Path) -> None:
    old = make_version_1(tmp_path / "old")
    before = shape(old)
    for _ in range(2):
        with pytest.raises(SetupError) as caught:
            setup.check_for_command(old)
        assert str(caught.value) == (
            f"{old / sqlite.DATABASE_NAME}: store version 1, this program writes {schema.SCHEMA_VERSION};"
            " start `pochta serve` once (it upgrades the store; back up first)"
        )
    assert shape(old) == before
    setup.prepare(old)
    setup.check_for_command(old)


def test_check_and_backup_take_an_old_store(tmp_path: Path) -> None:
    old = make_version_1(tmp_path / "old")
    before = shape(old)
    upgraded = make_version_1(tmp_path / "upgraded")
    setup.prepare(upgraded)
    assert check.check(old) == check.check(upgraded)
    backup.backup(old, tmp_path / "saved")
    assert shape(old) == before
    backup.restore(tmp_path / "saved", tmp_path / "new")
    setup.prepare(tmp_path / "new")
    assert rows(tmp_path / "new", "SELECT address FROM account") == [("a@x",)]


def test_old_program_refuses_what_became_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_version_1(tmp_path / "old")
    setup.prepare(old)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 1)
    with pytest.raises(SetupError, match="made by a newer Pochta"):
        setup.prepare(old)


def test_migration_that_is_cut_off_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_version_1(tmp_path / "old")
    before = shape(old)
    with monkeypatch.context() as broken:
        additions = [*schema.additions("sqlite", 1), "CREATE TABLE account (x)"]
        broken.setattr(schema, "additions", lambda dialect, version: additions)
        with pytest.raises(apsw.SQLError):
            setup.prepare(old)
    assert shape(old) == before
    setup.prepare(old)
    assert shape(old) != before
