"""A backup of a store, also of one that a server has open, and a new store made of it.

Decides: what belongs to a backup, in which order it is taken, which numbers a restored store must not give out again.
Refuses to know: what the other files (settings, certificate) mean; they are handed in by name.

Theory of operation. The database first: one read transaction is one state of everything acknowledged before it began,
and SQLite's backup reads its pages in small steps while writers go on. That snapshot is held as long as the file takes
to be read once (1.2 s for 1.2 GB), longer than any other; the log keeps what comes in meanwhile. Then the blob files
that this state names, by hard link where the file system allows, because a blob file never changes. Last the manifest:
a folder without one is no backup.

Invariants:
* No file that the snapshot names can vanish before it is linked: the lease BACKUP is acquired before the snapshot, and
  the sweeper asks for it in the very transaction that removes a blob's row (files go after that). So a removal is
  either part of the snapshot or does not happen. The lease is never renewed once it has ended; then the backup fails.
* `restore` overwrites nothing, and the store stands under its name only when it is whole and its numbers are raised.
* INV-2, INV-3: no number given out between backup and restore is given out again with another meaning.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import apsw
import msgspec

from pochta import __version__, clock
from pochta.errors import SetupError
from pochta.store import blobs, directory, leases, messages, schema, setup, sqlite
from pochta.store.tx import Row

MANIFEST_NAME: Final = "manifest.json"
FORMAT: Final = 1
BLOBS_NAME: Final = "blobs"
TLS_FOLDER: Final = "tls/"

# A gigabyte made durable at once holds up every COMMIT of the server: the slowest delivery beside a backup took 600 ms,
# this way 17 ms (measured).
SYNC_EVERY_BYTES: Final = 32 * 1024 * 1024
PAGES_A_STEP: Final = 512  # 4 MiB: some milliseconds between two looks at the lease
COPY_BYTES: Final = 1024 * 1024
SYNC_EVERY_STEPS: Final = SYNC_EVERY_BYTES // (PAGES_A_STEP * schema.PAGE_SIZE_BYTES)
LEASE_S: Final = 900  # outlasts one fsync of a large file on a slow disk; a killed backup holds the sweeper up so long
RENEW_EVERY_S: Final = 10.0
TELL_EVERY_FILES: Final = 256

# What may have been given out between a backup and its restore.
# UIDs have 32 bits: 2^20 arrivals in one mailbox are 12 a second for a day or 2 a minute for a year, and leave room for
# 4000 restores. A mailbox too near the end gets a new UIDVALIDITY instead.
UID_STEP: Final = 1 << 20
# UIDVALIDITY has 32 bits and begins at the second of the account's creation (1.8e9 today): 2^16 mailboxes made in one
# account, and room for 38 000 restores.
UID_VALIDITY_STEP: Final = 1 << 16
ID_STEP: Final = 1 << 32  # mailboxes, messages, threads, blobs: 63 bits hold 2^31 restores
ROW_ID_STEP: Final = 1 << 20  # accounts, domains, aliases, tasks: made by people
MOD_SEQ_STEP: Final = 1 << 40  # setup.FLOOR_STEP covers a lost second, this a lost year at 30 000 changes a second

_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS)

R = TypeVar("R")
Progress = Callable[[str, int, int], None]  # phase, units done, units in all


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. `missing`: blob files that were not in the store either (`pochta check` tells more).

    `held`: recipients of the queue that a restore has held.
    """

    format: int
    program: str
    made_at: int
    schema_version: int
    accounts: int
    messages: int
    database_bytes: int
    database_sha256: str
    blob_files: int
    blob_bytes: int
    files: tuple[str, ...]
    missing: tuple[str, ...]
    held: int = 0


def _tell_nobody(phase: str, done: int, total: int) -> None:
    pass


def backup(
    data_dir: Path, target: Path, *, files: Mapping[str, Path] | None = None, progress: Progress = _tell_nobody
) -> Manifest:
    """Put a backup of the store into `target`, a new or empty folder; what it holds.

    `files` go along: name in the backup (may hold `/`) to where it stands. Blocks; writers are not held up.

    Raises:
        SetupError: there is no store, the target is not empty, another backup runs, or this one took too long.
        OSError: the disk is full or failing. What was written so far is removed then.
    """
    database = data_dir / sqlite.DATABASE_NAME
    _make_empty(target)
    try:
        with _hold_sweeper(data_dir) as keep:
            schema_version = _copy_database(database, target / sqlite.DATABASE_NAME, keep, progress)
            linked = _link_named_blobs(target, blobs.Blobs(data_dir / BLOBS_NAME), keep, progress)
        for name, path in (files or {}).items():
            _copy_file(path, _inside(target, name), mode=0o600)
        manifest = _manifest(target, schema_version, linked, tuple(sorted(files or {})))
        _sync_folders(target)
        _write_durably(target / MANIFEST_NAME, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        _sync_folder(target.parent)
    except BaseException:
        _remove_contents(target)
        raise
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What the backup in `source` holds.

    Raises:
        SetupError: it is none, or a newer program made it.
    """
    path = source / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); this is no complete backup") from error
    except msgspec.DecodeError as error:
        raise SetupError(f"{path}: not the manifest of a backup ({error})") from error
    if manifest.format > FORMAT:
        raise SetupError(f"{path}: made by Pochta {manifest.program}; install that program to restore it")
    return manifest


def restore(
    source: Path, target: Path, *, owner: tuple[int, int] | None = None, progress: Progress = _tell_nobody
) -> Manifest:
    """Make a store in the folder `target` of the backup in `source`; what it holds. Nothing is overwritten.

    Files that went along below `tls/` are put there too, the others stay in the backup. `owner`: user and group who
    shall own it all (only root can give it away). Blocks.

    Raises:
        SetupError: no whole backup, or the target holds a store already.
        OSError: the disk is full or failing. What was written so far is removed then.
    """
    manifest = read_manifest(source)
    database, blob_folder = target / sqlite.DATABASE_NAME, target / BLOBS_NAME
    if database.exists() or (blob_folder.exists() and any(blob_folder.iterdir())):
        raise SetupError(f"{target}: there is a store already; restore into another folder")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = target / f".restore-{clock.token_hex(6)}.db"
    made: list[Path] = []
    try:
        _copy_checked(source / sqlite.DATABASE_NAME, unfinished, manifest, progress)
        linked = _link_named_blobs(
            target, blobs.Blobs(source / BLOBS_NAME), lambda: None, progress, database=unfinished
        )
        lost = set(linked.missing) - set(manifest.missing)
        if lost:
            raise SetupError(f"{source}: {len(lost)} files of the backup are gone, {min(lost)} among them")
        held = raise_numbers(unfinished, progress)
        made += _restore_tls(source, target, manifest)
        (target / "run").mkdir(mode=0o700, exist_ok=True)
        if owner is not None:
            _give_to(owner, target, made, unfinished)
        _sync_folders(target)
        os.rename(unfinished, database)
        _sync_folder(target)
        _sync_folder(target.parent)
    except BaseException:
        for leftover in (*target.glob(f"{unfinished.name}*"), *(path for path in made if path.is_file())):
            leftover.unlink()
        shutil.rmtree(blob_folder, ignore_errors=True)
        raise
    return msgspec.structs.replace(manifest, held=held)


def raise_numbers(database: Path, progress: Progress = _tell_nobody) -> int:
    """Let a restored store give out no number that the lost one may have given out, and mark it as cleanly stopped.

    What waited in its queue is held; how many recipients.

    Every account's mod_seq, every mailbox's and every placement's becomes the new floor, and the change log begins
    there: a client that saw changes the backup knows nothing of is told the state of everything, not just what changed.
    """
    connection = sqlite.connect(database)
    try:
        setup.check_version(connection, database)
        progress("numbers", 0, 1)
        with connection:
            setup.raise_floor(connection)
            connection.execute("UPDATE meta SET number = number + ? WHERE name = 'mod_seq_floor'", (MOD_SEQ_STEP,))
            (floor,) = connection.execute("SELECT number FROM meta WHERE name = 'mod_seq_floor'").fetchall()[0]
            connection.execute(
                "UPDATE account SET mod_seq = ?, log_floor_mod_seq = ?, next_id = next_id + ?,"
                " next_uid_validity = next_uid_validity + ?",
                (floor, floor, ID_STEP, UID_VALIDITY_STEP),
            )
            _raise_uids(connection)
            connection.execute("UPDATE mailbox SET mod_seq = ?, counts_mod_seq = ?", (floor, floor))
            connection.execute("UPDATE placement SET mod_seq = ?", (floor,))
            connection.execute("DELETE FROM change")
            _raise_row_ids(connection)
            held = _hold_queue(connection)
            connection.execute("UPDATE lease SET expires_at = 0")
            connection.execute("UPDATE meta SET number = 1 WHERE name = 'is_clean'")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        progress("numbers", 1, 1)
    finally:
        connection.close()
    return held


def _hold_queue(connection: apsw.Connection) -> int:
    """What waited in the queue may have been sent since: whether it is sent again is for a person to say."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'outgoing_recipient'").fetchall():  # 2 had no queue
        connection.execute("UPDATE outgoing_recipient SET state = 2 WHERE state < 2")
        return connection.changes()
    return 0


def _raise_uids(connection: apsw.Connection) -> None:
    last = messages.UID_LIMIT - UID_STEP
    full = connection.execute("SELECT account_id, id FROM mailbox WHERE uid_next > ?", (last,)).fetchall()
    for account_id, mailbox_id in full:
        ((uid_validity,),) = connection.execute(
            "UPDATE account SET next_uid_validity = next_uid_validity + 1 WHERE id = ? RETURNING next_uid_validity - 1",
            (account_id,),
        ).fetchall()
        connection.execute(
            "UPDATE mailbox SET uid_validity = ? WHERE account_id = ? AND id = ?",
            (uid_validity, account_id, mailbox_id),
        )
    connection.execute("UPDATE mailbox SET uid_next = uid_next + ? WHERE uid_next <= ?", (UID_STEP, last))
    # an account made again under the address of one that was made after the backup repeats no UIDVALIDITY of it
    connection.execute(
        "INSERT INTO meta (name, number) SELECT ?, max(?, coalesce(max(next_uid_validity), 0)) FROM account WHERE true"
        " ON CONFLICT (name) DO UPDATE SET number = max(number + ?, excluded.number)",
        (directory.UID_VALIDITY_FLOOR, int(clock.now_s()) + UID_VALIDITY_STEP, UID_VALIDITY_STEP),
    )


def _raise_row_ids(connection: apsw.Connection) -> None:
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%'").fetchall():
        step = ID_STEP if name == "blob" else ROW_ID_STEP
        connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (step, name))
        if not connection.changes():
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, step))


@contextmanager
def _hold_sweeper(data_dir: Path) -> Iterator[Callable[[], None]]:
    """Hold the lease that keeps blobs from being removed; call the answer often, it renews it when it is time."""
    database = data_dir / sqlite.DATABASE_NAME
    if not database.exists():
        raise SetupError(f"{database}: there is no store; run `pochta init` first")
    connection = sqlite.connect(database)
    lock = sqlite.FileLock(data_dir / sqlite.LOCK_NAME)
    try:
        setup.check_version(connection, database)
        if os.geteuid() == 0:
            os.chown(data_dir / sqlite.LOCK_NAME, database.stat().st_uid, database.stat().st_gid)
        holder = f"{os.uname().nodename}:{os.getpid()}:{clock.token_hex(4)}"
        fence = _write(connection, lock, lambda tx, now: leases.acquire(tx, leases.BACKUP, holder, now, LEASE_S))
        if fence is None:
            raise SetupError(f"{data_dir}: another backup runs, or was killed within {LEASE_S // 60} minutes; wait")
        renewed_s = clock.monotonic_s()

        def keep() -> None:
            nonlocal renewed_s
            if clock.monotonic_s() - renewed_s < RENEW_EVERY_S:
                return
            if not _write(connection, lock, lambda tx, now: leases.renew(tx, leases.BACKUP, fence, now, LEASE_S)):
                raise SetupError(f"{data_dir}: the backup was stopped for too long; start it again")
            renewed_s = clock.monotonic_s()

        try:
            yield keep
            renewed_s -= RENEW_EVERY_S
            keep()  # held to the very end, or there is no backup
        finally:
            _write(connection, lock, lambda tx, now: leases.release(tx, leases.BACKUP, fence))
    finally:
        lock.close()
        connection.close()


def _write(connection: apsw.Connection, lock: sqlite.FileLock, fn: Callable[[sqlite.SqliteTx, int], R]) -> R:
    """One commit of our own, in turn with the lanes of the server."""
    lock.acquire()
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = fn(sqlite.SqliteTx(connection, 0), int(clock.now_s()))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result
    finally:
        lock.release()


def _copy_database(database: Path, copy: Path, keep: Callable[[], None], progress: Progress) -> int:
    """Copy one state of the database; the version of its schema."""
    source = sqlite.connect(database, writable=False)
    target = apsw.Connection(str(copy))
    try:
        copy.chmod(0o600)
        target.pragma("synchronous", "off")  # `_manifest` makes it durable
        # Without a transaction of our own SQLite would start over whenever another process has committed.
        source.execute("BEGIN")
        rows = sqlite.SqliteTx(source, 0).rows("SELECT number FROM meta WHERE name = 'schema_version'")
        with target.backup("main", source, "main") as steps, copy.open("rb") as file:
            for number in count(1):
                if steps.done:
                    break
                steps.step(PAGES_A_STEP)
                if number % SYNC_EVERY_STEPS == 0:
                    os.fdatasync(file.fileno())
                progress("database", steps.page_count - steps.remaining, steps.page_count)
                keep()
        source.execute("COMMIT")
    finally:
        target.close()
        source.close()
    return int(rows[0][0])


class _Linked(msgspec.Struct):
    """What `_link_named_blobs` has done."""

    accounts: int = 0
    messages: int = 0
    files: int = 0
    size: int = 0
    missing: list[str] = msgspec.field(default_factory=list)


def _link_named_blobs(
    target: Path, source: blobs.Blobs, keep: Callable[[], None], progress: Progress, *, database: Path | None = None
) -> _Linked:
    """Put every blob file that the copied database names under `target`; one with another size counts as missing."""
    linked = _Linked()
    into = blobs.Blobs(target / BLOBS_NAME)
    into.folder.mkdir(mode=0o700, exist_ok=True)
    connection = _open_still(database or target / sqlite.DATABASE_NAME)
    try:
        counts = sqlite.SqliteTx(connection, 0).rows(
            "SELECT (SELECT count(*) FROM account WHERE removed_at IS NULL), (SELECT count(*) FROM message),"
            " (SELECT count(*) FROM blob WHERE file IS NOT NULL)"
        )
        linked.accounts, linked.messages, total = counts[0]
        rows: Iterator[Row] = connection.execute("SELECT file, stored_size FROM blob WHERE file IS NOT NULL")
        for done, (file, stored_size) in enumerate(rows):
            if done % TELL_EVERY_FILES == 0:
                progress("files", done, total)
            keep()
            path = into.path(file)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if _link_or_copy(source.path(file), path, stored_size):
                linked.files += 1
                linked.size += stored_size
            else:
                linked.missing.append(file)
        progress("files", total, total)
    finally:
        connection.close()
    return linked


def _open_still(database: Path) -> apsw.Connection:
    """A connection to a file that nobody writes to; it leaves no -wal and no -shm behind."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{database.absolute().as_uri()}?immutable=1", flags=flags)


def _link_or_copy(source: Path, target: Path, size: int) -> bool:
    """Whether `target` now holds the `size` bytes of `source`, durable but for its folder."""
    try:
        if source.stat().st_size != size:
            return False
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy_file(source, target, mode=0o600)
    return True


def _copy_file(source: Path, target: Path, *, mode: int) -> str:
    """Copy to a new file and make it durable, but for its folder; the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(source, "rb") as reader, open(fd, "wb") as writer:
        while chunk := reader.read(COPY_BYTES):
            digest.update(chunk)
            writer.write(chunk)
            if writer.tell() % SYNC_EVERY_BYTES == 0:
                writer.flush()
                os.fdatasync(fd)
        writer.flush()
        os.fsync(fd)
    return digest.hexdigest()


def _copy_checked(source: Path, target: Path, manifest: Manifest, progress: Progress) -> None:
    progress("database", 0, 1)
    try:
        digest = _copy_file(source, target, mode=0o600)
    except FileNotFoundError as error:
        raise SetupError(f"{source}: the backup's database is gone") from error
    if digest != manifest.database_sha256:
        raise SetupError(f"{source}: not as the manifest tells (SHA-256 differs); this backup is damaged")
    progress("database", 1, 1)


def _manifest(target: Path, schema_version: int, linked: _Linked, files: tuple[str, ...]) -> Manifest:
    """The manifest; makes the copied database durable on the way."""
    with open(target / sqlite.DATABASE_NAME, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return Manifest(
        format=FORMAT,
        program=__version__,
        made_at=int(clock.now_s()),
        schema_version=schema_version,
        accounts=linked.accounts,
        messages=linked.messages,
        database_bytes=size,
        database_sha256=digest,
        blob_files=linked.files,
        blob_bytes=linked.size,
        files=files,
        missing=tuple(linked.missing),
    )


def _restore_tls(source: Path, target: Path, manifest: Manifest) -> list[Path]:
    """Put the files below `tls/` where they are not yet; which."""
    made: list[Path] = []
    for name in manifest.files:
        path = _inside(target, name)
        if name.startswith(TLS_FOLDER) and not path.exists():
            _copy_file(_inside(source, name), path, mode=0o600)
            made += [path.parent, path]
    return made


def _inside(folder: Path, name: str) -> Path:
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)) or path.is_symlink():
        raise SetupError(f"{folder}: a file of the backup has an impossible name: {name!a}")
    return path


def _give_to(owner: tuple[int, int], target: Path, made: list[Path], database: Path) -> None:
    paths = [target, target / "run", database, *made]
    for folder, folders, names in os.walk(target / BLOBS_NAME):
        paths += [Path(folder), *(Path(folder, name) for name in (*folders, *names))]
    for path in paths:
        os.chown(path, *owner, follow_symlinks=False)


def _make_empty(target: Path) -> None:
    """Make the folder; its parents too.

    Raises:
        SetupError: there is something in it.
    """
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise SetupError(f"{target}: not a folder") from error
    if any(target.iterdir()):
        raise SetupError(f"{target}: not empty; choose another folder")


def _remove_contents(target: Path) -> None:
    for path in target.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    _sync_folder(path.parent)


def _sync_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
