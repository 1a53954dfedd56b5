"""The machine stops at the n-th write, for every n: by a kill, or with the power (INV-1, 3, 6)."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import apsw
import pytest
from crash_disk import Disk, Event, RecordedOs, Replay, stops, write_image
from crash_script import OPS, Dump, dump, outcomes, play

from pochta.store import blobs, check, setup, sqlite
from pochta.store import store as store_module
from pochta.store.invariants import Severity
from pochta.store.store import Store

SUBMITTED, ANSWERED = "submitted", "answered"
CUTS = 400  # at random points of the record, each with its own loss; 4 ms each


@pytest.fixture(scope="module")
def expected(beginning: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Dump]:
    folder = tmp_path_factory.mktemp("expected") / "data"
    write_image(folder, beginning)
    return outcomes(folder, OPS)


@pytest.fixture(scope="module")
def record(beginning: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    folder = tmp_path_factory.mktemp("record") / "data"
    write_image(folder, beginning)
    with pytest.MonkeyPatch.context() as patch, Disk(folder) as disk:
        patch.setattr(blobs, "os", RecordedOs(disk))
        patch.setattr(store_module, "os", RecordedOs(disk))
        asyncio.run(_play(disk))
    return disk.events


async def _play(disk: Disk) -> None:
    store = Store(disk.folder, vfs=disk.vfs)
    store.start(hears_hints=False)
    errors = await play(
        store,
        vfs=disk.vfs,
        on_submit=lambda number: disk.mark((SUBMITTED, number)),
        on_answer=lambda number, future: disk.mark((ANSWERED, number)),
    )
    assert errors == [None] * len(OPS)
    await store.close()


class Promises:
    """How many changes, counted from the first, must be there at a point of the record, and how many may be."""

    def __init__(self) -> None:
        self.answered = self.durable = self.submitted = 0

    def hear(self, event: Event) -> None:
        if event.kind == "mark":
            what, number = event.data
            if what == SUBMITTED:
                self.submitted = number + 1
            else:
                self.answered = max(self.answered, number + 1)
                if OPS[number].is_durable:
                    self.durable = max(self.durable, number + 1)  # all before it: the lane is first in, first out


def _points(record: list[Event], beginning: dict[str, bytes]) -> Iterator[tuple[Promises, Event, Replay]]:
    promises = Promises()
    for _, event, disk in stops(record, beginning):
        promises.hear(event)
        yield promises, event, disk


def _assert_whole(folder: Path, expected: list[Dump], least: int, most: int, point: str) -> None:
    """The store opens, has no contradiction, and holds the first k changes with least <= k <= most."""
    setup.prepare(folder)
    assert [str(one) for one in check.check(folder) if one.severity is Severity.ERROR] == [], point
    held = dump(folder)
    assert held in expected[least : most + 1], (point, least, most, held in expected)
    # INV-3: past every number that any of the changes under way may have shown to anybody
    assert _floor(folder) >= max(row[_MOD_SEQ] for row in expected[most] if row[0] == "account"), point


_MOD_SEQ = 11  # of a dumped account row


def _floor(folder: Path) -> int:
    connection = sqlite.connect(folder / sqlite.DATABASE_NAME, writable=False)
    try:
        number = connection.execute("SELECT number FROM meta WHERE name = 'mod_seq_floor'").get
        assert isinstance(number, int)
        return number
    finally:
        connection.close()


def test_script_changes_the_store_at_every_step(record: list[Event], expected: list[Dump]) -> None:
    assert all(before != after for before, after in pairwise(expected))
    kinds = {event.kind for event in record}
    assert kinds == {"write", "truncate", "sync", "create", "delete", "rename", "sync_folder", "mark"}
    assert any(event.kind == "write" and event.file == "pochta.db" for event in record)


def test_process_killed_at_any_write(
    record: list[Event], beginning: dict[str, bytes], expected: list[Dump], tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    for n, (promises, event, disk) in enumerate(_points(record, beginning)):
        if event.kind not in ("mark", "sync", "sync_folder"):  # those leave the files as they are
            write_image(folder, disk.killed())
            _assert_whole(folder, expected, promises.answered, promises.submitted, f"stop {n} after {event[:3]}")


def _cut(
    record: list[Event], beginning: dict[str, bytes], expected: list[Dump], folder: Path, *, seed: int, cuts: int
) -> None:
    random = Random(seed)
    chance = cuts / len(record)
    for n, (promises, event, disk) in enumerate(_points(record, beginning)):
        # at each promise, when everything unsynced is lost at the latest, and at random points between
        if event.kind in ("mark", "sync") or random.random() < chance:
            write_image(folder, disk.cut(random))
            _assert_whole(
                folder, expected, promises.durable, promises.submitted, f"seed {seed} cut {n} after {event[:3]}"
            )


def test_power_cut_at_any_point(
    record: list[Event], beginning: dict[str, bytes], expected: list[Dump], tmp_path: Path
) -> None:
    _cut(record, beginning, expected, tmp_path / "image", seed=1, cuts=CUTS)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 22))
def test_power_cut_with_many_losses(
    record: list[Event], beginning: dict[str, bytes], expected: list[Dump], tmp_path: Path, seed: int
) -> None:
    _cut(record, beginning, expected, tmp_path / "image", seed=seed, cuts=len(record))


@pytest.mark.parametrize("files", ["pochta.db", "pochta.db-wal", "blobs"])
def test_store_that_does_not_sync_is_found_out(
    record: list[Event], beginning: dict[str, bytes], expected: list[Dump], tmp_path: Path, files: str
) -> None:
    """The test of the tests: without the syncs of one kind of file, a power cut does lose something."""
    careless = [one for one in record if not (one.kind.startswith("sync") and one.file.partition("/")[0] == files)]
    assert len(careless) < len(record)
    with pytest.raises((AssertionError, FileNotFoundError, apsw.CorruptError)):
        _cut(careless, beginning, expected, tmp_path / "image", seed=1, cuts=CUTS)


def test_blob_is_on_the_disk_before_its_row(record: list[Event]) -> None:
    """INV-6, step by step: the file, its folder, the folder above, and only then the log."""
    kinds = [event.kind for event in record if event.file.startswith("blobs")]
    assert kinds[-4:] == ["sync", "rename", "sync_folder", "sync_folder"]
    renamed = next(n for n, event in enumerate(record) if event.kind == "rename")
    name = record[renamed].data.rpartition("/")[2].encode()
    row = next(
        n for n, event in enumerate(record) if event.kind == "write" and "db" in event.file and name in event.data
    )
    synced = [n for n, event in enumerate(record) if event.kind == "sync_folder"]
    assert renamed < min(synced) < max(synced) < row
