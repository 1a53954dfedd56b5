"""`pochta check`: what is wrong with the store in a data folder.

Decides: in which order a store is looked at, and how a damaged file is survived. What must hold among the rows is told
by `invariants`. Made for a store that no server has open; beside a running one it still reads, one short transaction
for each question, and leaves out what would hold a snapshot for long.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zlib import crc32

import apsw

from pochta.errors import SetupError
from pochta.store import blobs, invariants, setup, sqlite
from pochta.store.invariants import HARMLESS, RESTORE, Finding, Severity

SERVER_LOCK_NAME: Final = "lock"  # of the data folder; held as long as a server runs
DAMAGE_SHOWN: Final = 100  # lines of SQLite's own check
SLICE_ROWS: Final = 1000

Progress = Callable[[str, int, int], None]  # what is looked at, steps done, steps in all


def check(data_dir: Path, *, on_progress: Progress | None = None) -> list[Finding]:
    """Every contradiction in the store, the worst first; nothing is changed.

    Raises:
        SetupError: there is no store, or a newer program made it.
    """
    database = data_dir / sqlite.DATABASE_NAME
    if not database.exists():
        raise SetupError(f"{database}: there is no store; run `pochta init` first")
    tell = on_progress or _tell_nobody
    with _lock(data_dir / SERVER_LOCK_NAME) as is_alone:
        findings = [] if is_alone else [_server_runs()]
        findings += _check_database(data_dir, is_alone=is_alone, tell=tell)
    return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Keep servers from starting meanwhile; False when one runs. A folder without lock file never had one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _tell_nobody(what: str, done: int, total: int) -> None:
    pass


def _server_runs() -> Finding:
    what = "a server runs on this store; the database file itself was not looked at"
    return Finding(Severity.NOTE, what, sqlite.DATABASE_NAME, "stop the server and check again")


def _damage(error: Exception, where: str) -> Finding:
    return Finding(Severity.ERROR, f"cannot be read ({error})", where, RESTORE)


def _check_database(data_dir: Path, *, is_alone: bool, tell: Progress) -> Iterator[Finding]:
    database = data_dir / sqlite.DATABASE_NAME
    try:
        connection = sqlite.connect(database, writable=False)
    except SetupError as error:
        yield _damage(error, sqlite.DATABASE_NAME)
        return
    try:
        yield from _check_version(connection, database)
        if is_alone:
            tell("database file", 0, 0)
            yield from _check_file(connection)
        try:
            accounts = invariants.live_accounts(sqlite.SqliteTx(connection, 0))
        except apsw.Error as error:
            yield _damage(error, "accounts")
            accounts = []
        total = len(invariants.SHARED_STEPS) + 1 + len(accounts)
        for done, shared_step in enumerate(invariants.SHARED_STEPS):
            tell("store", done, total)
            yield from _ask(connection, shared_step, "store")
        yield from _guarded(_check_inline(connection), "blobs")
        yield from _guarded(_check_blob_files(connection, blobs.Blobs(data_dir / "blobs"), is_alone), "blobs")
        for done, account_id in enumerate(accounts, total - len(accounts)):
            tell(f"account {account_id}", done, total)
            for step in invariants.ACCOUNT_STEPS:
                yield from _ask(connection, step, f"account {account_id}", account_id)
        tell("done", total, total)
    finally:
        connection.close()


def _check_version(connection: apsw.Connection, database: Path) -> Iterator[Finding]:
    """Nothing, damage, or SetupError: what follows would misread a store of a newer program."""
    try:
        setup.check_version(connection, database, for_writing=False)
    except SetupError as error:
        if not isinstance(error.__cause__, apsw.CorruptError):
            raise
        yield _damage(error.__cause__, "meta")


def _ask(
    connection: apsw.Connection, step: Callable[..., Iterator[Finding]], where: str, *args: int
) -> Iterator[Finding]:
    """One step in a transaction of its own; damage that it meets is a finding too."""
    connection.execute("BEGIN")
    try:
        yield from _guarded(step(sqlite.SqliteTx(connection, 0), *args), where)
    finally:
        connection.execute("ROLLBACK")


def _guarded(findings: Iterator[Finding], where: str) -> Iterator[Finding]:
    try:
        yield from findings
    except (apsw.Error, UnicodeDecodeError) as error:
        yield _damage(error, where)


def _check_file(connection: apsw.Connection) -> Iterator[Finding]:
    """SQLite's own look at every page, row and index."""
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({DAMAGE_SHOWN})").fetchall():
            if line != "ok":
                yield Finding(Severity.ERROR, str(line), sqlite.DATABASE_NAME, RESTORE)
    except apsw.Error as error:
        yield _damage(error, sqlite.DATABASE_NAME)


def _check_blob_files(connection: apsw.Connection, store: blobs.Blobs, is_alone: bool) -> Iterator[Finding]:
    """Each file that a row names has the noted size; files that no row names are leftovers."""
    named: set[str] = set()
    last_id = 0
    tx = sqlite.SqliteTx(connection, 0)
    while True:
        rows = tx.rows(
            "SELECT id, file, stored_size, checksum FROM blob WHERE id > ? AND file IS NOT NULL ORDER BY id LIMIT ?",
            (last_id, SLICE_ROWS),
        )
        for last_id, file, stored_size, checksum in rows:
            named.add(str(file))
            yield from _check_blob_file(store.path(str(file)), last_id, stored_size, checksum)
        if len(rows) < SLICE_ROWS:
            break
    for path in _files(store.folder) if is_alone else ():
        if path.name not in named:
            yield Finding(Severity.NOTE, "no row names the file", f"blobs/{path.name}", HARMLESS)


def _check_blob_file(path: Path, id: int, stored_size: int, checksum: int) -> Iterator[Finding]:
    where = f"blob {id}"
    try:
        size = os.stat(path).st_size
        found = _checksum(path)
    except OSError as error:
        yield Finding(Severity.ERROR, f"its file {path.name} cannot be read ({error.strerror})", where, RESTORE)
        return
    if size != stored_size:
        what = f"its file {path.name} has {size} bytes instead of {stored_size}"
        yield Finding(Severity.ERROR, what, where, RESTORE)
    elif found != checksum:
        yield Finding(Severity.ERROR, f"the bytes of its file {path.name} were altered", where, RESTORE)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(blobs.CHUNK_BYTES):
            checksum = crc32(chunk, checksum)
    return checksum


def _check_inline(connection: apsw.Connection) -> Iterator[Finding]:
    """Bytes in the database are what was stored."""
    rows = connection.execute("SELECT b.id, b.checksum, i.bytes FROM blob_inline i JOIN blob b ON b.id = i.blob_id")
    for id, checksum, stored in rows:
        if isinstance(stored, bytes) and crc32(stored) != checksum:
            yield Finding(Severity.ERROR, "the bytes were altered", f"blob {id}", RESTORE)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.is_dir():
            yield from (file for file in sorted(path.iterdir()) if file.is_file())
        else:
            yield path
