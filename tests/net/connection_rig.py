"""Connections that record what they are told, served on a free port."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from pochta.net.accept import Acceptor, ConnectionLimits
from pochta.net.connection import (
    Connection,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


class Recorder(Connection):
    """Keeps what its hooks were told, and lets tests await it."""

    __slots__ = ("changed", "notes", "received")

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.received = b""
        self.changed = asyncio.Event()

    def note(self, what: str) -> None:
        self.notes.append(what)
        self.changed.set()

    def on_connect(self) -> None:
        self.note("connect")

    def on_data(self, data: bytes) -> None:
        self.received += data
        self.note("data")

    def on_eof(self) -> None:
        self.note("eof")
        super().on_eof()

    def on_timeout(self) -> None:
        self.note("timeout")
        super().on_timeout()

    def on_crash(self) -> None:
        self.note("crash")
        super().on_crash()

    def on_lost(self) -> None:
        self.note("lost")

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.changed.clear()
            await self.changed.wait()

    async def heard(self, text: bytes) -> None:
        await self.until(lambda: text in self.received)

    async def noted(self, what: str) -> None:
        await self.until(lambda: what in self.notes)


class Served:
    """An acceptor on a loopback port, and the connections it made in order."""

    def __init__(self, acceptor: Acceptor, port: int, made: list[Recorder]) -> None:
        self.acceptor = acceptor
        self.port = port
        self.made = made

    async def connect(self, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tls is None:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname="localhost")


@contextlib.asynccontextmanager
async def serving(
    kind: Callable[[], Recorder] = Recorder,
    *,
    limits: ConnectionLimits | None = None,
    tls: ssl.SSLContext | None = None,
    refusal: bytes = b"",
) -> AsyncIterator[Served]:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(kind())
        return made[-1]

    acceptor = Acceptor(factory, limits or ConnectionLimits(100, 100), tls=tls, refusal=refusal)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await acceptor.start(listening)
    try:
        yield Served(acceptor, port, made)
    finally:
        acceptor.close()
        acceptor.abort_all()
        await acceptor.wait_empty()
