"""Each test of this folder runs on every backend, on an empty store, and leaves one without contradictions."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import postgres_server
import psycopg
import pytest
from store_harness import Backend

from pochta.store import check, postgres, setup
from pochta.store.store import Store


@pytest.fixture(scope="session")
def postgres_conninfo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """A PostgreSQL server for the whole test run."""
    if not postgres_server.is_installed():
        pytest.skip(f"{postgres_server.FOLDER} is not there; install the package postgresql-15")
    own = tmp_path_factory.getbasetemp()
    with postgres_server.running(own if worker_id == "master" else own.parent) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store on disk, to be copied."""
    data_dir = tmp_path_factory.mktemp("empty") / "data"
    setup.create(data_dir)
    return data_dir


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with asyncio.Runner() as runner:
        if request.param == "sqlite":
            yield from _sqlite(shutil.copytree(request.getfixturevalue("empty_store"), tmp_path / "data"), runner)
        else:
            yield from _postgres(request.getfixturevalue("postgres_conninfo"), runner)


@pytest.fixture
def sqlite(empty_store: Path, tmp_path: Path) -> Iterator[Backend]:
    """Only the embedded backend, for what would take too long on both."""
    with asyncio.Runner() as runner:
        yield from _sqlite(shutil.copytree(empty_store, tmp_path / "data"), runner)


def _sqlite(data_dir: Path, runner: asyncio.Runner) -> Iterator[Backend]:
    async def begin() -> Store:
        store = Store(data_dir)
        store.start(hears_hints=False)
        return store

    store = runner.run(begin())
    backend = Backend("sqlite", store, runner)
    store.subscribe(backend.hear)
    yield backend
    findings = backend.findings()
    runner.run(store.close())
    assert findings == []
    assert [str(finding) for finding in check.check(data_dir) if finding.severity == "error"] == []


def _postgres(conninfo: str, runner: asyncio.Runner) -> Iterator[Backend]:
    schema = f"t{uuid4().hex}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    conninfo += f" options='-csearch_path={schema}'"
    postgres.create(conninfo)

    async def begin() -> postgres.PostgresStore:
        store = postgres.PostgresStore(conninfo, connections=4)
        store.start()
        return store

    store = runner.run(begin())
    backend = Backend("postgres", store, runner)
    store.subscribe(backend.hear)
    yield backend
    findings = backend.findings()
    runner.run(store.close())
    assert findings == []
