"""Save what is readable: every message of every account as a file of its own, whatever else is damaged.

Decides: how to go on past a damaged row, page or file; what a file is called. Nothing in the store is changed.
A table that breaks off in the middle is read from its other end too; what no mailbox leads to any more is then found by
its message or its bytes alone and saved under `lost+found`.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from pochta.errors import Corrupt, SetupError
from pochta.store import blobs, sqlite
from pochta.store.tx import Row, Value

SLICE_ROWS: Final = 500
CHUNK_BYTES: Final = 1 << 20
NAME_MAX_BYTES: Final = 200  # of the 255 a file system takes; leaves room for the mark of a shortened name
LOST: Final = "lost+found"

_UNSAFE: Final = frozenset('/\\%:*?"<>|')


class Salvaged(NamedTuple):
    """How much was saved, and what could not be."""

    accounts: int
    mailboxes: int
    messages: int
    lost_and_found: int
    failures: int


def safe_name(name: str) -> str:
    """`name` as one level of a path on any system; different names stay different."""
    shown = "".join(c if c.isprintable() and c not in _UNSAFE else _escaped(c) for c in name)
    if shown[:1] in (".", "~", "-", "") or shown[-1:] in (".", " "):
        shown = "%" + shown
    encoded = shown.encode()
    if len(encoded) > NAME_MAX_BYTES:
        mark = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        shown = encoded[: NAME_MAX_BYTES - 18].decode(errors="ignore") + "%~" + mark
    return shown


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def salvage(data_dir: Path, target: Path) -> Salvaged:
    """Write `target/<address>/<mailbox path>/<uid>.eml` for everything readable; the files carry the internal date.

    Raises:
        SetupError: `target` is not empty, or cannot be written.
    """
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise SetupError(f"{target}: not empty; choose another folder")
        return _Salvage(data_dir, target).run()
    except OSError as error:
        raise SetupError(f"{target}: cannot be written ({error.strerror})") from error


class _Salvage:
    def __init__(self, data_dir: Path, target: Path) -> None:
        self._blobs = blobs.Blobs(data_dir / "blobs")
        self._target = target
        self._saved_blobs: set[int] = set()
        self._accounts = self._mailboxes = self._messages = self._lost = self._failures = 0
        self._connection: apsw.Connection | None = None
        with contextlib.suppress(SetupError):
            self._connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)

    def run(self) -> Salvaged:
        if self._connection is None:
            self._failures += 1
            self._save_stray_files()
        else:
            self._save_accounts()
            if self._failures:
                self._save_lost_blobs()
            self._connection.close()
        return Salvaged(self._accounts, self._mailboxes, self._messages, self._lost, self._failures)

    def _save_accounts(self) -> None:
        accounts: dict[int, str] = dict(
            self._walk("SELECT id, address FROM account WHERE removed_at IS NULL AND id", (), 0)
        )
        boxes: dict[int, dict[int, tuple[int, str]]] = {}
        for account_id, id, parent_id, name in self._rows(
            "SELECT account_id, id, parent_id, name FROM mailbox WHERE name IS NOT NULL"
        ):
            boxes.setdefault(account_id, {})[id] = (parent_id, name)
        for account_id in sorted(accounts.keys() | boxes.keys()):
            folder = self._target / safe_name(accounts.get(account_id) or f"account {account_id}")
            tree = boxes.get(account_id, {})
            self._accounts += 1
            for mailbox_id in sorted(tree):
                self._mailboxes += 1
                self._save_mailbox(account_id, mailbox_id, folder.joinpath(*_path(tree, mailbox_id)))

    def _save_mailbox(self, account_id: int, mailbox_id: int, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sql = "SELECT uid, message_id, internal_date FROM placement WHERE account_id = ? AND mailbox_id = ? AND uid"
        for uid, message_id, internal_date in self._walk(sql, (account_id, mailbox_id), 0):
            try:
                row = self._row("SELECT blob_id FROM message WHERE account_id = ? AND id = ?", (account_id, message_id))
                if row is None:
                    raise Corrupt("message", message_id)
                self._save(row[0], folder / f"{uid}.eml", internal_date)
            except (Corrupt, apsw.Error):
                self._failures += 1
            else:
                self._messages += 1

    def _save_lost_blobs(self) -> None:
        """Bytes that no readable row led to; deleted mail of the last days is among them."""
        folder = self._target / LOST
        for id, created_at in self._walk("SELECT id, created_at FROM blob WHERE id", (), 0):
            if id not in self._saved_blobs:
                folder.mkdir(mode=0o700, exist_ok=True)
                with contextlib.suppress(Corrupt, apsw.Error):
                    self._save(id, folder / f"blob-{id}.eml", created_at)
                    self._lost += 1

    def _save_stray_files(self) -> None:
        """No database: the files alone."""
        folder = self._target / LOST
        for path in sorted(self._blobs.folder.glob("*/*")):
            folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(Corrupt):
                _write(folder / f"{path.name}.eml", _chunks(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path.name))
                self._lost += 1

    def _save(self, blob_id: int, path: Path, date: int) -> None:
        assert self._connection is not None
        blob = blobs.load(sqlite.SqliteTx(self._connection, 0), blob_id)
        file = blob.file or ""
        self._saved_blobs.add(blob_id)
        size = _write(path, (blob.inline,) if blob.inline is not None else _chunks(self._blobs.open_file(file), file))
        if size != blob.size:
            raise Corrupt("blob", blob_id)  # what there is of it has been saved
        with contextlib.suppress(OSError, OverflowError):  # a date that no file can carry
            os.utime(path, (date, date))

    def _walk(self, sql: str, args: tuple[Value, ...], key: int) -> Iterator[Row]:
        """Rows by their last-named column, upwards; past damage, downwards from the other end to the same place."""
        last, end = key, (1 << 63) - 1
        try:
            while rows := self._slice(f"{sql} > ? ORDER BY 1 LIMIT {SLICE_ROWS}", (*args, last)):
                yield from rows
                last = rows[-1][0]
            return
        except apsw.Error:
            self._failures += 1
        with contextlib.suppress(apsw.Error):
            while rows := self._slice(
                f"{sql} BETWEEN ? AND ? ORDER BY 1 DESC LIMIT {SLICE_ROWS}", (*args, last + 1, end)
            ):
                yield from rows
                end = rows[-1][0] - 1

    def _slice(self, sql: str, args: tuple[Value, ...]) -> list[Row]:
        """The rows of the answer, up to where it breaks off; an answer that breaks off at once is an error."""
        assert self._connection is not None
        rows: list[Row] = []
        try:
            rows.extend(self._connection.execute(sql, args))  # extend keeps what came before the error
        except apsw.Error:
            if not rows:
                raise
        return rows

    def _rows(self, sql: str) -> list[Row]:
        try:
            return self._slice(sql, ())
        except apsw.Error:
            self._failures += 1
            return []

    def _row(self, sql: str, args: tuple[Value, ...]) -> Row | None:
        rows = self._slice(sql, args)
        return rows[0] if rows else None


def _path(tree: dict[int, tuple[int, str]], mailbox_id: int) -> list[str]:
    """Safe names from the top down; a chain that breaks off or runs in a circle begins where it does."""
    names: list[str] = []
    seen: set[int] = set()
    while mailbox_id in tree and mailbox_id not in seen:
        seen.add(mailbox_id)
        mailbox_id, name = tree[mailbox_id]
        names.append(safe_name(name))
    return names[::-1]


def _chunks(fd: int, name: str) -> Iterator[bytes]:
    with open(fd, "rb") as source:
        while True:
            try:
                chunk = source.read(CHUNK_BYTES)
            except OSError as error:
                raise Corrupt("blob file", name) from error
            if not chunk:
                return
            yield chunk


def _write(path: Path, chunks: Iterable[bytes]) -> int:
    """The number of bytes written to the new file."""
    with path.open("xb") as file:
        return sum(file.write(chunk) for chunk in chunks)
