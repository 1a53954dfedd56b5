"""An empty store on SQLite, the events of a test, a clock that stands."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts_harness import Accounts, HeldClock, HeldWall

from pochta import clock, log
from pochta.accounts import passwords
from pochta.log import Secret
from pochta.store import setup
from pochta.store.store import Store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder to copy: making one takes 30 times as long."""
    data_dir = tmp_path_factory.mktemp("empty") / "data"
    setup.create(data_dir)
    return data_dir


@pytest.fixture
def accounts(tmp_path: Path, empty_store: Path) -> Iterator[Accounts]:
    yield from opened(shutil.copytree(empty_store, tmp_path / "data"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Accounts]:
    """One store for all tests of a module that only read it."""
    yield from opened(shutil.copytree(empty_store, tmp_path_factory.mktemp("shared") / "data"))


def opened(data_dir: Path) -> Iterator[Accounts]:
    async def begin() -> Store:
        store = Store(data_dir)
        store.start(hears_hints=False)
        return store

    with asyncio.Runner() as runner:
        store = runner.run(begin())
        yield Accounts(store, runner)
        runner.run(store.close())


@pytest.fixture
def events() -> Iterator[list[str]]:
    """The lines logged during the test."""
    lines: list[str] = []
    before = log.set_sink(lines.append)
    yield lines
    log.set_sink(before)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    held = HeldClock()
    monkeypatch.setattr(clock.current(), "monotonic", lambda: held.at)
    return held


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> HeldWall:
    wall = HeldWall()
    monkeypatch.setattr(clock.current(), "now", lambda: wall.at)
    return wall


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The credentials that were checked by the slow hash."""
    seen: list[str] = []
    verify = passwords.verify_password

    def watched(credential: str, password: Secret) -> bool:
        seen.append(credential)
        return verify(credential, password)

    monkeypatch.setattr(passwords, "verify_password", watched)
    return seen
