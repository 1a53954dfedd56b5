"""The disk is full, or fails, at the n-th write, for every n: that is told, nothing promised is lost, all goes on."""

import asyncio
import errno
from pathlib import Path

import apsw
import pytest
from crash_disk import Disk, RecordedOs, write_image
from crash_script import ANNA, OPS, Dump, Op, deliver, dump, outcomes, play

from pochta.errors import Refusal, TryLater
from pochta.store import blobs, check
from pochta.store import store as store_module
from pochta.store.invariants import Severity
from pochta.store.store import Store

LAST: Op = deliver("9", ANNA)  # after the trouble


class Trouble:
    """Fails change number `at` of a disk, and, when it lasts, all later ones until `end`.

    Syncs fail as on a broken disk, everything else as on a full one unless `is_broken`.
    """

    def __init__(self, at: int, *, lasts: bool, is_broken: bool) -> None:
        self.at = at
        self.lasts = lasts
        self.is_broken = is_broken
        self.count = 0
        self.met = 0

    def before_change(self, kind: str) -> None:
        self.count += 1
        if self.count == self.at or (self.lasts and self.count > self.at):
            self.met += 1
            is_broken = self.is_broken or kind.startswith("sync")
            raise apsw.IOError("the disk fails") if is_broken else apsw.FullError("the disk is full")

    def before_os_change(self, kind: str) -> None:
        try:
            self.before_change(kind)
        except apsw.IOError as error:
            raise OSError(errno.EIO, str(error)) from None
        except apsw.FullError as error:
            raise OSError(errno.ENOSPC, str(error)) from None

    def end(self) -> None:
        self.at = 1 << 60


def run(folder: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """The errors of the script's changes and of LAST, which comes when the disk works again."""

    async def main(disk: Disk, files: Disk) -> list[BaseException | None]:
        store = Store(folder, vfs=disk.vfs)
        store.start(hears_hints=False)
        disk.before_change = trouble.before_change
        files.before_change = trouble.before_os_change
        errors = await play(store, vfs=disk.vfs)
        trouble.end()
        errors += await play(store, vfs=disk.vfs, steps=[[LAST]])
        await store.close()
        return errors

    with Disk(folder) as disk, Disk(folder) as files, monkeypatch.context() as patch:
        patch.setattr(blobs, "os", RecordedOs(files))
        patch.setattr(store_module, "os", RecordedOs(files))
        return asyncio.run(main(disk, files))


class Reference:
    """What a store holds that had only some of the changes."""

    def __init__(self, beginning: dict[str, bytes], folder: Path) -> None:
        self._beginning = beginning
        self._folder = folder
        self._known: dict[tuple[bool, ...], Dump] = {}

    def of(self, done: tuple[bool, ...]) -> Dump:
        if done not in self._known:
            write_image(self._folder, self._beginning)
            ops = [op for op, is_done in zip([*OPS, LAST], done, strict=True) if is_done]
            self._known[done] = outcomes(self._folder, ops)[-1]
        return self._known[done]


@pytest.fixture(scope="module")
def reference(beginning: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(beginning, tmp_path_factory.mktemp("reference") / "data")


@pytest.mark.parametrize(
    ("lasts", "is_broken"),
    [(False, False), (True, False), (False, True)],
    ids=["full once", "full until there is room", "broken once"],
)
def test_trouble_at_any_write(
    beginning: dict[str, bytes],
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lasts: bool,
    is_broken: bool,
) -> None:
    folder = tmp_path / "data"
    at = 0
    while True:
        at += 1
        write_image(folder, beginning)
        trouble = Trouble(at, lasts=lasts, is_broken=is_broken)
        errors = run(folder, trouble, monkeypatch)
        if not trouble.met:
            break
        # what follows a change that failed may be refused: its mailbox is not there
        assert all(isinstance(error, TryLater | Refusal | None) for error in errors), (at, errors)
        assert errors[-1] is None, (at, errors)
        assert [str(one) for one in check.check(folder) if one.severity is Severity.ERROR] == [], at
        assert dump(folder) == reference.of(tuple(error is None for error in errors)), (at, errors)
    assert at > 200
    assert errors == [None] * (len(OPS) + 1)
