"""A disk that keeps a record of what is written and what is synced, and can lose what is not.

Theory of operation. `Disk.vfs` is an SQLite VFS that writes through to real files and notes every write, truncation
and sync; `RecordedOs` does the same for what the store does by `os` (blob files, the sync of the log). The record is
replayed up to any point: `images` yields for each point what a disk may hold when the machine stops there.

The model of a power cut: what was synced stays; of what was written later any sectors of 512 bytes may have reached the
disk, in any order; a new file is there for sure only once it and its folder were synced. A killed process loses nothing
that was written.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again
from typing import Any, NamedTuple

import apsw

SECTOR_BYTES = 512
_REAL = "unix"  # by name: a test may have made another one the default
_names = itertools.count(1)


class Event(NamedTuple):
    """One entry of the record: write, truncate, sync, create, delete, rename, sync_folder, mark."""

    kind: str
    file: str = ""
    offset: int = 0
    data: Any = b""  # Any: bytes of a write, the new name of a rename, a test's own mark


class Disk:
    """The record of one data folder. `before_change(kind)` is called before each change and may raise.

    `is_default`: every database that is opened without a VFS of its own is opened on this one.
    """

    def __init__(self, folder: Path, *, is_default: bool = False) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.changes = 0
        self.before_change: Callable[[str], None] = lambda kind: None
        self.vfs = f"crash-{next(_names)}"
        self._default_before = apsw.vfs_names()[0] if is_default else ""
        self._registered = _Vfs(self, is_default=is_default)

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_: object) -> None:
        self._registered.unregister()
        if self._default_before:
            apsw.set_default_vfs(self._default_before)

    def name_of(self, path: str) -> str:
        return os.path.relpath(path, self.folder)

    def change(self, event: Event) -> None:
        """Note a change that is about to be made, unless `before_change` raises."""
        self.changes += 1
        self.before_change(event.kind)
        self.events.append(event)

    def mark(self, what: object) -> None:
        self.events.append(Event("mark", data=what))


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk, *, is_default: bool) -> None:
        super().__init__(disk.vfs, _REAL, makedefault=is_default)
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> "_File":
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.events.append(Event("delete", self._disk.name_of(filename)))
        super().xDelete(filename, False)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._name = disk.name_of(path) if path else ""
        if path and not os.path.exists(path):
            disk.events.append(Event("create", self._name))
        super().__init__(_REAL, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.change(Event("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.change(Event("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.change(Event("sync", self._name))  # and nothing more: no test needs the real disk to be done


class RecordedOs:
    """Stands in for `os` in a module of the store; what it does not name is the real one's."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._disk.change(Event("create", self._disk.name_of(os.fspath(path))))
        fd = os.open(path, flags, mode)
        self._files[fd] = self._disk.name_of(os.fspath(path))
        return fd

    def write(self, fd: int, data: Any) -> int:
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        self._disk.change(Event("write", self._files[fd], offset, bytes(data)))
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        is_folder = os.path.isdir(self._disk.folder / self._files[fd])
        self._disk.change(Event("sync_folder" if is_folder else "sync", self._files[fd]))

    fdatasync = fsync

    def rename(self, old: Any, new: Any) -> None:
        old_name, new_name = self._disk.name_of(os.fspath(old)), self._disk.name_of(os.fspath(new))
        self._disk.change(Event("rename", old_name, data=new_name))
        os.rename(old, new)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


@dataclass
class _Kept:
    """A file: what it holds, what of that is certain to be on the disk, and what has been done since."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    since: list[Event] = field(default_factory=list)
    is_name_synced: bool = False
    is_entry_synced: bool = True

    def sync(self) -> None:
        # only what changed is copied: a database is synced often
        for event in self.since:
            _apply(self.synced, event)
        self.since.clear()

    def torn(self, random: Random) -> bytes:
        """The synced content, and of what was done since any sectors."""
        content = bytearray(self.synced)
        chance = random.choice((0.0, 0.3, 0.7, 0.95))
        for event in self.since:
            if event.kind == "truncate":
                if random.random() < chance:
                    _apply(content, event)
                continue
            for start in range(0, len(event.data), SECTOR_BYTES):
                if random.random() < chance:
                    _write(content, event.offset + start, event.data[start : start + SECTOR_BYTES])
        return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
    else:
        _write(content, event.offset, event.data)


class Replay:
    """The disk at a point of the record."""

    def __init__(self, start: dict[str, bytes]) -> None:
        self._files = {name: _Kept(bytearray(content), bytearray(content)) for name, content in start.items()}
        self._listed = {"blobs"}  # folders whose own names are on the disk

    def step(self, event: Event) -> None:
        files = self._files
        if event.kind == "create":
            # SQLite syncs the folder with the first sync of a new log; blob files have folders of their own
            files[event.file] = _Kept(is_entry_synced=not event.file.startswith("blobs"))
        elif event.kind == "delete":
            del files[event.file]
        elif event.kind == "rename":
            files[event.data] = moved = files.pop(event.file)
            moved.is_name_synced = moved.is_entry_synced = False
        elif event.kind == "sync":
            files[event.file].sync()
        elif event.kind == "sync_folder":
            self._sync_folder(event.file)
        elif event.kind in ("write", "truncate"):
            kept = files[event.file]
            kept.since.append(event)
            _apply(kept.now, event)

    def _sync_folder(self, folder: str) -> None:
        """A file is there for sure once its name and those of the folders above it stand in synced folders."""
        for name, kept in self._files.items():
            parent = os.path.dirname(name)
            if parent == folder:
                kept.is_name_synced = True
            elif os.path.dirname(parent) == folder:
                self._listed.add(parent)
            kept.is_entry_synced |= kept.is_name_synced and parent in self._listed

    def killed(self) -> dict[str, bytes]:
        """The files after a kill of the process."""
        return {name: bytes(kept.now) for name, kept in self._files.items()}

    def cut(self, random: Random) -> dict[str, bytes]:
        """The files after a power cut."""
        return {
            name: kept.torn(random)
            for name, kept in self._files.items()
            if kept.is_entry_synced or random.random() < 0.5
        }


def write_image(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold exactly these files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name in ("run", "blobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` that a store needs."""
    names = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".db-shm", ".db-lane")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def stops(events: list[Event], start: dict[str, bytes]) -> Iterator[tuple[int, Event, Replay]]:
    """(n, the event before the stop, the disk) after each event but marks."""
    replay = Replay(start)
    for n, event in enumerate(events, 1):
        replay.step(event)
        yield n, event, replay
