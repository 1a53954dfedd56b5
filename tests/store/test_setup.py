"""The life of a store on disk."""

import stat
from pathlib import Path

import apsw
import pytest

from pochta.errors import SetupError
from pochta.store import schema, setup, sqlite
from pochta.store.setup import FLOOR_STEP


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    setup.create(tmp_path / "data")
    return tmp_path / "data"


def change(data_dir: Path, sql: str) -> None:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    connection.execute(sql)
    connection.close()


def meta(data_dir: Path) -> dict[str, int]:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        return dict(connection.execute("SELECT name, number FROM meta"))
    finally:
        connection.close()


def message(error: pytest.ExceptionInfo[SetupError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_new_store(data_dir: Path) -> None:
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / sqlite.DATABASE_NAME).stat().st_mode) == 0o600
    assert (data_dir / "blobs").is_dir()
    assert meta(data_dir) == dict(setup.first_meta_rows())
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    pragmas = {name: connection.pragma(name) for name in ("page_size", "auto_vacuum", "journal_mode", "synchronous")}
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    connection.close()
    assert pragmas == {"page_size": schema.PAGE_SIZE_BYTES, "auto_vacuum": 2, "journal_mode": "wal", "synchronous": 2}
    assert set(schema.table_names()) <= tables


def test_second_store_is_refused(data_dir: Path) -> None:
    with pytest.raises(SetupError) as caught:
        setup.create(data_dir)
    assert "already" in message(caught)


def test_clean_stop_leaves_the_floor(data_dir: Path) -> None:
    for _ in range(3):
        setup.prepare(data_dir)
        assert meta(data_dir)["is_clean"] == 0
        setup.finish(data_dir)
    assert meta(data_dir)["mod_seq_floor"] == 0
    assert meta(data_dir)["is_clean"] == 1
    wal = data_dir / f"{sqlite.DATABASE_NAME}-wal"
    assert not wal.exists() or wal.stat().st_size == 0


def test_unclean_stop_raises_the_floor(data_dir: Path) -> None:
    setup.prepare(data_dir)
    change(
        data_dir,
        "INSERT INTO domain (name, shown, created_at) VALUES ('x', 'x', 0);"
        " INSERT INTO account (domain_id, local_part, address, credential, next_uid_validity, created_at, mod_seq)"
        " VALUES (1, 'a', 'a@x', '', 1, 0, 5000)",
    )
    setup.prepare(data_dir)
    assert meta(data_dir)["mod_seq_floor"] == 5000 + FLOOR_STEP
    setup.prepare(data_dir)
    assert meta(data_dir)["mod_seq_floor"] == 5000 + 2 * FLOOR_STEP
    setup.finish(data_dir)
    setup.prepare(data_dir)
    assert meta(data_dir)["mod_seq_floor"] == 5000 + 2 * FLOOR_STEP


def test_store_of_a_newer_program_is_refused(data_dir: Path) -> None:
    change(data_dir, f"UPDATE meta SET number = {schema.SCHEMA_VERSION + 1} WHERE name IN ('min_writer')")
    with pytest.raises(SetupError) as caught:
        setup.prepare(data_dir)
    assert "newer Pochta" in message(caught)
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    setup.check_version(connection, data_dir, for_writing=False)  # reading it is still allowed
    connection.close()
    change(data_dir, f"UPDATE meta SET number = {schema.SCHEMA_VERSION + 1} WHERE name IN ('min_reader')")
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    with pytest.raises(SetupError, match="newer"):
        setup.check_version(connection, data_dir, for_writing=False)
    connection.close()


def test_newer_store_that_older_programs_may_write(data_dir: Path) -> None:
    change(data_dir, f"UPDATE meta SET number = {schema.SCHEMA_VERSION + 1} WHERE name = 'schema_version'")
    setup.prepare(data_dir)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        setup.prepare(tmp_path)
    assert "pochta init" in message(caught)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / sqlite.DATABASE_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(SetupError) as caught:
        setup.prepare(tmp_path)
    assert "not a Pochta store" in message(caught)


def test_foreign_database(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / sqlite.DATABASE_NAME))
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(SetupError) as caught:
        setup.prepare(tmp_path)
    assert "not a Pochta store" in message(caught)


def test_database_whose_first_table_is_damaged(data_dir: Path) -> None:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'")
    connection.pragma("wal_checkpoint(truncate)")
    connection.close()
    with (data_dir / sqlite.DATABASE_NAME).open("r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE_BYTES)
        file.write(b"\xa5" * schema.PAGE_SIZE_BYTES)
    with pytest.raises(SetupError) as caught:
        setup.prepare(data_dir)
    assert "not a Pochta store" in message(caught)
