"""Bytes of messages: in the store or in files."""

import asyncio
import os
import stat
from pathlib import Path

import apsw
import pytest

from pochta.errors import Corrupt
from pochta.store import blobs, setup, sqlite
from pochta.store.blobs import CHUNK_BYTES, INLINE_MAX_BYTES, Blobs, NewBlob, StoredBlob

BIG = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "blobs").mkdir()
    return tmp_path / "blobs"


def put(folder: Path, *chunks: bytes) -> NewBlob:
    return asyncio.run(Blobs(folder).put(chunks))


def read(folder: Path, blob: StoredBlob, start: int = 0, stop: int = 1 << 40) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in Blobs(folder).open(blob, start, stop)]

    return asyncio.run(collect())


@pytest.mark.parametrize("chunks", [(), (b"",), (b"a", b"bc"), (b"x" * INLINE_MAX_BYTES,)], ids=len)
def test_small_ones_stay_in_memory(folder: Path, chunks: tuple[bytes, ...]) -> None:
    content = b"".join(chunks)
    assert put(folder, *chunks) == NewBlob(len(content), content, None)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("size", [1, 1000, 65_537, len(BIG)], ids=str)
def test_large_ones_become_a_file(folder: Path, size: int) -> None:
    new = put(folder, *(BIG[start : start + size] for start in range(0, len(BIG), size)) if size > 1 else (BIG, b"!"))
    content = BIG if size > 1 else BIG + b"!"
    assert new.inline is None
    assert new.size == len(content)
    assert new.file
    path = Blobs(folder).path(new.file)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.parent.parent == folder
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []


def test_names_are_never_the_same(folder: Path) -> None:
    assert put(folder, BIG).file != put(folder, BIG).file


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1 << 40), (0, 0), (5, 5), (10, 20), (CHUNK_BYTES - 1, CHUNK_BYTES + 1)]
)
@pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "file"])
def test_open_gives_the_range(folder: Path, start: int, stop: int, is_inline: bool) -> None:
    if is_inline:
        blob = StoredBlob(1, len(BIG), BIG, None)
    else:
        blob = StoredBlob(1, len(BIG), None, put(folder, BIG).file)
    chunks = read(folder, blob, start, stop)
    assert b"".join(chunks) == BIG[start:stop]
    assert is_inline or all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)


def test_missing_file_is_corrupt(folder: Path) -> None:
    with pytest.raises(Corrupt):
        read(folder, StoredBlob(1, 10, None, "0-gone"))


def test_short_file_is_corrupt(folder: Path) -> None:
    new = put(folder, BIG)
    os.truncate(Blobs(folder).path(new.file or ""), 100)
    with pytest.raises(Corrupt):
        read(folder, StoredBlob(1, new.size, None, new.file))


def test_file_deleted_while_open_is_read_to_its_end(folder: Path) -> None:
    new = put(folder, BIG)

    async def collect() -> bytes:
        chunks = Blobs(folder).open(StoredBlob(1, new.size, None, new.file), 0, new.size)
        first = await anext(chunks)
        Blobs(folder).delete_files([new.file or "", "0-gone"])
        return first + b"".join([chunk async for chunk in chunks])

    assert asyncio.run(collect()) == BIG
    assert not Blobs(folder).path(new.file or "").exists()


def test_discard_leaves_nothing(folder: Path) -> None:
    writer = Blobs(folder).writer()
    writer.write(b"abc")
    writer.discard()
    writer.discard()
    assert os.listdir(folder) == []


def test_discard_after_finish_does_nothing(folder: Path) -> None:
    writer = Blobs(folder).writer()
    writer.write(memoryview(b"abc"))
    new = writer.finish()
    writer.discard()
    assert Blobs(folder).path(new.file or "").read_bytes() == b"abc"


def test_put_that_breaks_off_leaves_nothing(folder: Path) -> None:
    def chunks():
        yield BIG
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Blobs(folder).put(chunks()))
    assert os.listdir(folder) == []


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_put_on_a_failing_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        put(folder, BIG)
    monkeypatch.undo()
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []


@pytest.fixture
def tx(tmp_path: Path):
    setup.create(tmp_path / "data")
    connection: apsw.Connection = sqlite.connect(tmp_path / "data" / sqlite.DATABASE_NAME)
    connection.execute("BEGIN IMMEDIATE")
    yield sqlite.SqliteTx(connection, 0)
    connection.close()


@pytest.mark.parametrize("new", [NewBlob(3, b"abc", None), NewBlob(0, b"", None), NewBlob(9, None, "f")], ids=str)
def test_rows(tx, new: NewBlob) -> None:
    assert blobs.load(tx, blobs.insert(tx, new, 1))[1:] == new[:3]


def test_row_that_is_not_there(tx) -> None:
    with pytest.raises(Corrupt):
        blobs.load(tx, 1)


def test_row_without_bytes(tx) -> None:
    blob_id = blobs.insert(tx, NewBlob(3, b"abc", None), 1)
    tx.run("DELETE FROM blob_inline")
    with pytest.raises(Corrupt):
        blobs.load(tx, blob_id)


def test_ids_are_not_used_again(tx) -> None:
    first = blobs.insert(tx, NewBlob(3, b"abc", None), 1)
    tx.run("DELETE FROM blob_inline")
    tx.run("DELETE FROM blob")
    assert blobs.insert(tx, NewBlob(3, b"abc", None), 1) > first
