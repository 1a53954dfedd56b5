"""The bytes of messages: small ones stand in the database, larger ones in files that never change.

INV-6: a file is durable before the row that names it is committed; a crash leaves at most an orphan file, which the
sweeper removes. A file's name is random and never used again: a reader that is late finds nothing, never other bytes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from pochta import clock
from pochta.errors import Corrupt
from pochta.store.tx import Tx

INLINE_MAX_BYTES: Final = 64 * 1024  # up to here one commit with one fsync is cheaper than a file with two
CHUNK_BYTES: Final = 256 * 1024
CODEC_PLAIN: Final = 0

_TEMPORARY: Final = ".new-"


class NewBlob(NamedTuple):
    """Bytes that are ready to be named by a row: `inline`, or a durable `file` under the blob folder."""

    size: int
    inline: bytes | None
    file: str | None
    checksum: int = 0  # of a file; that of inline bytes is made when they are stored


class BlobWriter:
    """One file being written; `finish` makes it durable, `discard` removes it."""

    __slots__ = ("_fd", "_folder", "_temporary", "checksum", "size")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder / (_TEMPORARY + clock.token_hex(12))
        self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        self.checksum = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            OSError: the disk is full or failing.
        """
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)
        self.checksum = crc32(data, self.checksum)

    def prepend(self, data: bytes) -> None:
        """Put `data` in front of what was written, which is copied (25 MB take 30 ms). Blocks.

        Raises:
            OSError: the disk is full or failing; `discard` is still owed.
        """
        first = BlobWriter(self._folder)
        try:
            first.write(data)
            with open(self._temporary, "rb", buffering=0) as rest:
                while chunk := rest.read(CHUNK_BYTES):
                    first.write(chunk)
        except OSError:
            first.discard()
            raise
        self.discard()
        self._fd, self._temporary = first._fd, first._temporary
        self.size, self.checksum = first.size, first.checksum

    def finish(self) -> NewBlob:
        """Make the file durable under its final name: fsync of the file, rename, fsync of its folder. Blocks.

        Raises:
            OSError: the disk is full or failing; at most a file that no row names is left behind.
        """
        fd, self._fd = self._fd, -1  # ours alone from here: a `discard` meanwhile must not close it under the fsync
        name = f"{int(clock.now_s()):09x}-{clock.token_hex(10)}"
        place = self._folder / name[-2:]
        try:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            place.mkdir(mode=0o700, exist_ok=True)
            os.rename(self._temporary, place / name)
        except OSError:
            self._temporary.unlink(missing_ok=True)
            raise
        for folder in (place, self._folder):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return NewBlob(self.size, None, name, self.checksum)

    def discard(self) -> None:
        """Forget the file; harmless after `finish`."""
        fd, self._fd = self._fd, -1  # as in `finish`, which may run in a thread at this moment
        if fd >= 0:
            os.close(fd)
            self._temporary.unlink(missing_ok=True)


class Blobs:
    """The blob folder of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def writer(self) -> BlobWriter:
        """A new file to write to."""
        return BlobWriter(self.folder)

    async def put(self, chunks: Iterable[bytes]) -> NewBlob:
        """The bytes of `chunks`, ready to be named by a row (a file is durable already)."""
        held: list[bytes] = []
        held_bytes = 0
        writer: BlobWriter | None = None
        try:
            for chunk in chunks:
                if writer is None and held_bytes + len(chunk) > INLINE_MAX_BYTES:
                    writer = self.writer()
                    for earlier in held:
                        writer.write(earlier)
                if writer is None:
                    held.append(chunk)
                    held_bytes += len(chunk)
                else:
                    writer.write(chunk)
            if writer is None:
                return NewBlob(held_bytes, b"".join(held), None)
            return await asyncio.to_thread(writer.finish)
        except BaseException:
            if writer is not None:
                writer.discard()
            raise

    def path(self, file: str) -> Path:
        """Where the file of that name stands."""
        return self.folder / file[-2:] / file

    def open_file(self, file: str) -> int:
        """A descriptor for reading.

        Raises:
            Corrupt: the file that a row names is not there.
        """
        try:
            return os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt("blob file", file) from error

    def damage_of(self, blob: "StoredBlob") -> Corrupt | None:
        """What is wrong with the blob's file, for those who announce its size before they read it. One stat."""
        if blob.file is None:
            return None
        try:
            size = self.path(blob.file).stat().st_size
        except FileNotFoundError:
            size = -1
        return None if size == blob.size else Corrupt("blob file", blob.file)

    def delete_files(self, files: Iterable[str]) -> None:
        """Remove the files; a missing one is no error (an earlier attempt may have been cut off)."""
        for file in files:
            self.path(file).unlink(missing_ok=True)

    async def open(self, blob: "StoredBlob", start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes `start <= n < stop` in chunks of at most CHUNK_BYTES."""
        stop = min(stop, blob.size)
        if blob.inline is not None:
            yield blob.inline[start:stop]
            return
        fd = self.open_file(blob.file or "")
        try:
            while start < stop:
                chunk = os.pread(fd, min(CHUNK_BYTES, stop - start), start)
                if not chunk:
                    raise Corrupt("blob file", blob.file)
                start += len(chunk)
                yield chunk
        finally:
            os.close(fd)


class StoredBlob(NamedTuple):
    """A blob as its rows tell it: exactly one of `inline` and `file` is there."""

    id: int
    size: int
    inline: bytes | None
    file: str | None


def insert(tx: Tx, new: NewBlob, now: int) -> int:
    """Name the bytes by a row; the blob's id. Two statements."""
    # CRC-32 as of RFC 1952: it finds what a disk has altered, at 1 us for 4 kB; it is no proof against a person
    checksum = new.checksum if new.inline is None else crc32(new.inline)
    row = tx.row(
        "INSERT INTO blob (codec, size, stored_size, checksum, file, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (CODEC_PLAIN, new.size, new.size, checksum, new.file, now),
    )
    assert row is not None
    if new.inline is not None:
        tx.run("INSERT INTO blob_inline (blob_id, bytes) VALUES (?, ?)", (row[0], new.inline))
    blob_id: int = row[0]
    return blob_id


def load(tx: Tx, blob_id: int) -> StoredBlob:
    """The blob's row, with its bytes when they are inline.

    Raises:
        Corrupt: the row, or the bytes it promises, are not there.
    """
    row = tx.row(
        "SELECT b.size, i.bytes, b.file FROM blob b LEFT JOIN blob_inline i ON i.blob_id = b.id WHERE b.id = ?",
        (blob_id,),
    )
    if row is None or (row[1] is None) == (row[2] is None):
        raise Corrupt("blob", blob_id)
    return StoredBlob(blob_id, *row)
