"""The embedded backend: one SQLite file in WAL mode, written by several processes in turn.

Decides: pragmas, how a group of writes becomes one COMMIT, how processes take turns (an exclusive `flock`: SQLite's own
busy waiting starves, with a worst wait of 3-6 s against 25-140 ms). Refuses to know: what is stored.
A connection is used by one thread at a time: by the event loop, or by the lane's thread during COMMIT.
"""

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import apsw

from pochta.errors import SetupError, TryLater
from pochta.store import schema
from pochta.store.tx import Hint, Row, Value

BUSY_TIMEOUT_MS: Final = 1000  # all writers take the lane first; only a stranger to it can make us wait
CACHE_KIB: Final = 32 * 1024  # per connection; two connections a worker
ROWS_A_LOOK: Final = 16  # between two looks at how many bytes were read
STATEMENT_CACHE: Final = 400  # every statement of the store stays prepared

DATABASE_NAME: Final = "pochta.db"
LOCK_NAME: Final = "pochta.db-lane"


def connect(path: Path, *, writable: bool = True, vfs: str | None = None, create: bool = False) -> apsw.Connection:
    """A connection with our pragmas; the file must exist unless `create`.

    Raises:
        SetupError: the file is missing or not a database.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    try:
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=STATEMENT_CACHE)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        if create:
            connection.pragma("page_size", schema.PAGE_SIZE_BYTES)
            connection.pragma("auto_vacuum", 2)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("cache_size", -CACHE_KIB)
        connection.pragma("temp_store", 2)
        connection.pragma("foreign_keys", True)  # as PostgreSQL always does; only domains and aliases have any
        connection.pragma("query_only", not writable)
    except apsw.CantOpenError as error:
        raise SetupError(f"{path}: cannot open the store ({error}); run `pochta init` first") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise SetupError(f"{path}: not a Pochta store ({error}); run `pochta check` or restore a backup") from error
    return connection


def bytes_in(rows: Sequence[Row]) -> int:
    """How many bytes stand in the columns of bytes, NULL being none; the first and the last row tell which they are."""
    columns = {at for row in (rows[0], rows[-1]) for at, value in enumerate(row) if isinstance(value, bytes)}
    return sum([len(row[at] or b"") for at in columns for row in rows])


class SqliteTx:
    """`Tx` over an apsw connection inside BEGIN ... COMMIT."""

    __slots__ = ("_connection", "_execute", "hints", "mod_seq_floor")

    def __init__(self, connection: apsw.Connection, mod_seq_floor: int) -> None:
        self._connection = connection
        self._execute = connection.execute
        self.mod_seq_floor = mod_seq_floor
        self.hints: list[Hint] = []

    def rows(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        return self._execute(sql, args).fetchall()

    def rows_within(self, sql: str, args: Sequence[Value], max_bytes: int) -> tuple[list[Row], bool]:
        cursor = self._execute(sql, args)
        rows: list[Row] = []
        size = 0
        while part := list(islice(cursor, ROWS_A_LOOK)):
            rows += part
            size += bytes_in(part)
            if size > max_bytes:
                has_more = next(cursor, None) is not None
                cursor.close(True)
                return rows, has_more
        return rows, False

    def row(self, sql: str, args: Sequence[Value] = ()) -> Row | None:
        rows = self._execute(sql, args).fetchall()  # fetchall, so that a RETURNING statement runs to its end
        return rows[0] if rows else None

    def run(self, sql: str, args: Sequence[Value] = ()) -> int:
        self._execute(sql, args)
        return self._connection.changes()

    def run_many(self, sql: str, args: Iterable[Sequence[Value]]) -> None:
        self._connection.executemany(sql, args)

    def hint(self, account_id: int, mod_seq: int) -> None:
        self.hints.append(Hint(account_id, mod_seq))


class FileLock:
    """The turn-taking lock between the processes of one store: exclusive `flock` on a file of its own."""

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def acquire(self) -> None:
        """Wait for the lock; blocks the thread."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def release(self) -> None:
        """Give the lock to whoever waits."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; a lock held goes with it."""
        os.close(self._fd)


def as_try_later(error: Exception) -> Exception:
    """What a failed statement means to the caller: a full or failing disk is no bug, everything else stays as it is."""
    if isinstance(error, apsw.FullError):
        return TryLater("the server's disk is full", retry_s=300)
    if isinstance(error, apsw.IOError):
        return TryLater("the server cannot write to its disk", retry_s=300)
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return TryLater("the store is busy", retry_s=10)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return TryLater("the server's disk is full", retry_s=300)
    return error
