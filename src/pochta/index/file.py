"""The file of one account's index: its tables, how it is opened, what is put into it and taken out.

Layout: `index/ACCOUNT/N.db`; the highest N counts. A rebuilt index gets the next number and the one before is removed
whole, so that no reader ever meets the write-ahead log of another file.

Tables. `words`: trigrams of all text of a message, without the text (FTS5, contentless, detail=none); it tells which
messages may match. `text`, and a table for each of the fields with a key of its own: the folded text itself; it tells
which do. Keyed by message id (`entry`): a message is indexed once, however many placements it has.

Invariants: `last_id` in `meta` names the last message that was looked at; every message of the account up to it is in
the file unless its row was gone, because ids are given out by the transaction that inserts the row. A transaction that
adds reads `last_id` first: two who feed one file disturb each other no further.

Blocks, so: not on the event loop (INV-12). A power cut takes at most the last transactions (synchronous=NORMAL).
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from pochta.index.texts import COLUMNS, KEPT_CHARS, MessageText, State
from pochta.store.tx import Row, Value

FOLDER_NAME: Final = "index"
VERSION: Final = 1  # of the tables, of what is indexed and of how it is folded; any other is built again
PAGE_BYTES: Final = 8192
CACHE_KIB: Final = 4096  # for each open file
BUSY_MS: Final = 10_000  # a writer waits for another's batch: tens of milliseconds
BUILDING: Final = ".building"
_SUFFIX: Final = ".db"

# case_sensitive and remove_diacritics: the tokenizer must see our folding, and add none of its own.
_TABLES: Final = (
    "CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE entry (id INTEGER PRIMARY KEY, mod_seq INTEGER NOT NULL, size INTEGER NOT NULL,"
    " received_at INTEGER NOT NULL, state INTEGER NOT NULL) STRICT",
    "CREATE INDEX entry_state ON entry (state) WHERE state != 0",
    # one narrow table each: looking through 100 000 of them reads 5 MB
    *(f"CREATE TABLE {one} (id INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT" for one in COLUMNS),
    "CREATE TABLE text (id INTEGER PRIMARY KEY, header BLOB NOT NULL, parts BLOB NOT NULL, inner BLOB NOT NULL,"
    " body BLOB) STRICT",
    "CREATE VIRTUAL TABLE words USING fts5(text, content='', contentless_delete=1, detail=none,"
    " tokenize='trigram case_sensitive 1 remove_diacritics 0')",
)


class Witness(NamedTuple):
    """What tells whether a file belongs to the store as it is: the account, and the last message in it."""

    account_id: int
    account_created_at: int
    last_id: int
    id: int = 0  # of the last entry; 0: there is none
    mod_seq: int = 0
    size: int = 0
    received_at: int = 0


class Entry(NamedTuple):
    """A message to add: what its row tells, and its text."""

    id: int
    mod_seq: int
    size: int
    received_at: int
    text: MessageText


def account_folder(folder: Path, account_id: int) -> Path:
    """Where the account's file stands."""
    return folder / str(account_id)


def number_of(name: str) -> int:
    """The number in the name of a file; 0 when it is none of ours."""
    digits = name.removesuffix(_SUFFIX)
    return int(digits) if digits != name and digits.isdecimal() and digits.isascii() else 0


def current(folder: Path, account_id: int) -> Path | None:
    """The account's file; None when there is none. One listing of a folder of few names."""
    own = account_folder(folder, account_id)
    try:
        number = max(map(number_of, os.listdir(own)), default=0)
    except FileNotFoundError:
        return None
    return own / f"{number}{_SUFFIX}" if number else None


class Place(NamedTuple):
    """A file by its name and its inode: one that was removed and made anew under its name is another."""

    path: Path
    inode: int


def place(folder: Path, account_id: int) -> Place | None:
    """As `current`, to be told from any other file as long as it is open somewhere."""
    path = current(folder, account_id)
    try:
        return None if path is None else place_of(path)
    except FileNotFoundError:
        return None  # replaced just now


def place_of(path: Path) -> Place:
    """The file that has this name now."""
    return Place(path, path.stat().st_ino)


def successor(folder: Path, account_id: int) -> Path:
    """The name of the file after the present one; its folder is made."""
    own = account_folder(folder, account_id)
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = current(folder, account_id)
    return own / f"{(number_of(present.name) if present else 0) + 1}{_SUFFIX}"


def discard(path: Path) -> None:
    """Remove a file with its log; who has it open reads on."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def discard_older(path: Path) -> None:
    """Remove every other file of the account that is finished and older."""
    own = number_of(path.name)
    for name in os.listdir(path.parent):
        if 0 < number_of(name) < own:
            discard(path.with_name(name))


def remove_account(folder: Path, account_id: int) -> None:
    """Remove all that is indexed of an account."""
    shutil.rmtree(account_folder(folder, account_id), ignore_errors=True)


def account_ids(folder: Path) -> list[int]:
    """The accounts that have an index."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal())
    except FileNotFoundError:
        return []


def connect(path: Path, *, writable: bool) -> apsw.Connection:
    """A connection with our pragmas.

    Raises:
        apsw.Error: the file is missing, damaged or not to be read.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE if writable else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("cache_size", -CACHE_KIB)
        connection.pragma("temp_store", 2)
        if writable:
            connection.pragma("page_size", PAGE_BYTES)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "normal")
    except BaseException:
        connection.close()
        raise
    return connection


def rows(connection: apsw.Connection, sql: str, args: Sequence[Value] = ()) -> list[Row]:
    """All rows of the answer."""
    return connection.execute(sql, args).fetchall()


def read_witness(connection: apsw.Connection) -> Witness | None:
    """The file's witness; None when it is of another version."""
    meta = {str(name): int(number) for name, number in rows(connection, "SELECT name, number FROM meta")}
    if meta.get("version") != VERSION:
        return None
    last = rows(connection, "SELECT id, mod_seq, size, received_at FROM entry ORDER BY id DESC LIMIT 1")
    return Witness(meta["account_id"], meta["account_created_at"], meta["last_id"], *(last[0] if last else ()))


class IndexFile:
    """An account's file, open for writing. Used by one thread at a time."""

    def __init__(self, path: Path, account_id: int, account_created_at: int) -> None:
        """Open the file, or make it.

        Raises:
            apsw.Error: it is damaged, or the disk is full or failing.
        """
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = connect(path, writable=True)
        self._connection.pragma("wal_autocheckpoint", 1000)
        try:
            with self._transaction():
                if not self._connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                    self._create(account_id, account_created_at)
            path.chmod(0o600)
            self.place = place_of(path)
        except BaseException:
            self.close()
            raise

    def _create(self, account_id: int, account_created_at: int) -> None:
        for statement in _TABLES:
            self._connection.execute(statement)
        numbers = (
            ("version", VERSION),
            ("account_id", account_id),
            ("account_created_at", account_created_at),
            ("last_id", 0),
        )
        self._connection.executemany("INSERT INTO meta (name, number) VALUES (?, ?)", numbers)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk ends it
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def witness(self) -> Witness | None:
        """See `read_witness`."""
        return read_witness(self._connection)

    def add(self, entries: Iterable[Entry], last_id: int) -> int:
        """Add those that are not there yet, and note that all up to `last_id` were looked at; how many were added.

        The entries rise by id. Cost: 0.1 ms for 1 KiB of text.
        """
        added = 0
        execute = self._connection.execute
        with self._transaction():
            ((before,),) = rows(self._connection, "SELECT number FROM meta WHERE name = 'last_id'")
            for one in entries:
                if one.id > before:
                    self._add(one)
                    added += 1
            if last_id > before:
                execute("UPDATE meta SET number = ? WHERE name = 'last_id'", (last_id,))
        return added

    def _add(self, one: Entry) -> None:
        text, execute = one.text, self._connection.execute
        row = (one.id, one.mod_seq, one.size, one.received_at, int(text.state))
        execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
        for column, value in zip(COLUMNS, text.fields, strict=True):
            if value is not None:
                execute(f"INSERT INTO {column} VALUES (?, ?)", (one.id, value.encode("utf-8")))
        is_kept = len(text.body) <= KEPT_CHARS and not text.state & State.TEXT_CUT
        execute(
            "INSERT INTO text VALUES (?, ?, ?, ?, ?)",
            (
                one.id,
                text.header.encode("utf-8"),
                text.parts.encode("utf-8"),
                text.inner.encode("utf-8"),
                text.body.encode("utf-8") if is_kept else None,
            ),
        )
        execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (one.id, text.all_text))

    def ids_after(self, after_id: int, count: int) -> list[int]:
        """The next ids that are indexed."""
        sql = "SELECT id FROM entry WHERE id > ? ORDER BY id LIMIT ?"
        return [row[0] for row in rows(self._connection, sql, (after_id, count))]

    def remove(self, ids: Sequence[int]) -> None:
        """Take messages out; those that are not there do no harm."""
        with self._transaction():
            for table, column in (*((one, "id") for one in ("entry", "text", *COLUMNS)), ("words", "rowid")):
                self._connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(one,) for one in ids])

    def finish(self) -> None:
        """Leave one tidy file: the trigrams merged, the log emptied. 100 000 short messages: a second."""
        self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._connection.pragma("wal_checkpoint(truncate)")
