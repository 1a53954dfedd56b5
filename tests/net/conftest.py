"""Loops, certificates and watched events that the tests of net/ share."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from pochta import log
from pochta.net import connection
from pochta.net.tls import server_context, write_self_signed

T = TypeVar("T")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Awaitable[T]], T]]:
    """Run a coroutine on the loop; nothing may reach the loop's exception handler."""
    unexpected: list[dict[str, object]] = []

    def run_it(work: Awaitable[T]) -> T:
        async def limited() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
            async with asyncio.timeout(20):
                return await work

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(limited())

    yield run_it
    assert unexpected == []


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What was reported as a bug."""
    found: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", found.append)
    return found


@pytest.fixture(autouse=True)
def no_bugs(bugs: list[BaseException], request: pytest.FixtureRequest) -> Iterator[None]:
    """A bug that the test did not ask about fails it."""
    yield
    if "bugs" not in request.node.function.__code__.co_varnames:
        assert bugs == []


@pytest.fixture
def events() -> Iterator[list[str]]:
    """What is logged of connections, without time stamps; a server of another test may still be ending."""
    lines: list[str] = []

    def take(line: str) -> None:
        event = line.partition(" ")[2].rstrip("\n")
        if event.startswith(("bug ", "conn.", "tls.", "serve.")):
            lines.append(event)

    before = log.set_sink(take)
    yield lines
    log.set_sink(before)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed pair for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    pair = folder / "certificate.pem", folder / "key.pem"
    write_self_signed(*pair, hostname="localhost")
    return pair


@pytest.fixture(scope="session")
def tls_server(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(*certificate)


@pytest.fixture(scope="session")
def tls_client(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])
