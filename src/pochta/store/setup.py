"""The life of a store on disk: made, opened by a newer program, started, stopped.

`create` makes an empty one; `prepare` runs before the workers of a server start, and it alone upgrades a store;
`finish` runs after they ended cleanly.
INV-3: a start that follows no clean stop raises the server-wide mod_seq floor, because a power cut may have taken
numbers that clients have already seen.
"""

from pathlib import Path
from typing import Final

import apsw

from pochta import log
from pochta.errors import SetupError
from pochta.store import schema, sqlite

FLOOR_STEP: Final = 1 << 20  # more changes than a second can lose; 2^63 / 2^20 leaves room for 2^43 unclean starts


def create(data_dir: Path, *, vfs: str | None = None, is_throwaway: bool = False) -> None:
    """An empty store in `data_dir` (made with mode 0700); `is_throwaway`: it need not outlive a power cut (tests).

    Raises:
        SetupError: there is one already.
    """
    database = data_dir / sqlite.DATABASE_NAME
    if database.exists():
        raise SetupError(f"{database}: there is a store already; choose another folder")
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    for name in ("blobs", "run"):
        (data_dir / name).mkdir(mode=0o700, exist_ok=True)
    connection = sqlite.connect(database, vfs=vfs, create=True)
    if is_throwaway:
        connection.pragma("synchronous", "off")
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in schema.statements("sqlite"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta (name, number) VALUES (?, ?)", first_meta_rows())
        connection.execute("COMMIT")
    finally:
        connection.close()
    database.chmod(0o600)


def first_meta_rows() -> list[tuple[str, int]]:
    """What `meta` holds in a new store."""
    return [
        ("schema_version", schema.SCHEMA_VERSION),
        ("min_reader", schema.MIN_READER),
        ("min_writer", schema.MIN_WRITER),
        ("mod_seq_floor", 0),
        ("is_clean", 1),
    ]


def check_version(connection: apsw.Connection, database: Path, *, for_writing: bool = True) -> int:
    """The version of a store that this program may open.

    Raises:
        SetupError: it was made by a newer program, or it is no store of ours.
    """
    try:
        meta = {str(name): number for name, number in connection.execute("SELECT name, number FROM meta")}
    except (apsw.SQLError, apsw.CorruptError, apsw.NotADBError) as error:
        raise SetupError(f"{database}: not a Pochta store; run `pochta init` or restore a backup") from error
    needed = meta.get("min_writer" if for_writing else "min_reader")
    if not isinstance(needed, int) or needed > schema.SCHEMA_VERSION:
        raise SetupError(
            f"{database}: made by a newer Pochta (store version {meta.get('schema_version')}, this program knows"
            f" {schema.SCHEMA_VERSION}); install the newer program"
        )
    version = meta.get("schema_version")
    return version if isinstance(version, int) else 0


def check_for_command(data_dir: Path) -> None:
    """Refuse a store that a command may not change, whether or not a server uses it.

    Only a server that starts upgrades a store: nobody expects that of `pochta account list`, and a server of the
    version before may be running.

    Raises:
        SetupError: the store is of an older version; or see `check_version`.
    """
    database = data_dir / sqlite.DATABASE_NAME
    connection = sqlite.connect(database)
    try:
        version = check_version(connection, database)
    finally:
        connection.close()
    if version < schema.SCHEMA_VERSION:
        raise SetupError(
            f"{database}: store version {version}, this program writes {schema.SCHEMA_VERSION};"
            " start `pochta serve` once (it upgrades the store; back up first)"
        )


def _migrate(connection: apsw.Connection, version: int) -> None:
    """Add what versions after `version` brought."""
    for statement in schema.additions("sqlite", version):
        connection.execute(statement)
    numbers = [("schema_version", schema.SCHEMA_VERSION), ("min_reader", schema.MIN_READER)]
    numbers.append(("min_writer", schema.MIN_WRITER))
    connection.executemany("UPDATE meta SET number = max(number, ?2) WHERE name = ?1", numbers)


def prepare(data_dir: Path, *, is_throwaway: bool = False) -> None:
    """Make the store ready for a server: upgraded, floor raised after an unclean stop, marked as running.

    Raises:
        SetupError: no store, or one of a newer program.
    """
    database = data_dir / sqlite.DATABASE_NAME
    connection = sqlite.connect(database)
    if is_throwaway:
        connection.pragma("synchronous", "off")
    lock = sqlite.FileLock(data_dir / sqlite.LOCK_NAME)  # a transaction that reads first cannot wait for a writer
    lock.acquire()
    try:
        version = check_version(connection, database)
        with connection:
            if version < schema.SCHEMA_VERSION:
                _migrate(connection, version)
            if connection.execute("SELECT 1 FROM meta WHERE name = 'is_clean' AND number = 0").fetchone():
                raise_floor(connection)
            connection.execute("UPDATE meta SET number = 0 WHERE name = 'is_clean'")
    finally:
        lock.close()
        connection.close()
    if version < schema.SCHEMA_VERSION:
        log.event("store.migrated", from_version=version, to_version=schema.SCHEMA_VERSION)
    (data_dir / "run").mkdir(mode=0o700, exist_ok=True)


def finish(data_dir: Path) -> None:
    """Note that every worker ended in good order, and leave one tidy file behind."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    try:
        with connection:
            connection.execute("UPDATE meta SET number = 1 WHERE name = 'is_clean'")
        connection.pragma("wal_checkpoint(truncate)")
    finally:
        connection.close()


def raise_floor(connection: apsw.Connection) -> None:
    """Put the floor past every number that anybody can have seen."""
    connection.execute(
        "UPDATE meta SET number = ? + max(number, (SELECT coalesce(max(mod_seq), 0) FROM account))"
        " WHERE name = 'mod_seq_floor'",
        (FLOOR_STEP,),
    )
