"""The store in which every script begins, made once: a server runs on it."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import crash_disk
import crash_script
import pytest

from pochta.store import setup


class _Quick(apsw.VFSFile):
    def xSync(self, flags: int) -> None:
        pass


class _QuickVfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("crash-quick", "unix", makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> _Quick:
        return _Quick("unix", name, flags)  # type: ignore[arg-type]  # apsw's own union


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """No sync of SQLite reaches the disk: these tests model it, and open thousands of stores."""
    before = apsw.vfs_names()[0]
    vfs = _QuickVfs()
    yield
    vfs.unregister()
    apsw.set_default_vfs(before)


@pytest.fixture(scope="module")
def beginning(quick: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("beginning") / "data"
    crash_script.make(folder)
    setup.prepare(folder)
    return crash_disk.read_files(folder)


@pytest.fixture
def data_dir(beginning: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    crash_disk.write_image(folder, beginning)
    return folder
