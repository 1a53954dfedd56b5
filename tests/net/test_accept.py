"""Peers that connect and say nothing: counted, bounded in number and time, and nobody waits behind them."""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from pochta.net import accept
from pochta.net.accept import Acceptor, ConnectionLimits
from pochta.net.connection import Connection

Run = Callable[[Awaitable[None]], None]
SILENT = 150


class Greets(Connection):
    __slots__ = ()

    def on_connect(self) -> None:
        self.write(b"hello")


async def started(tls: ssl.SSLContext, limits: ConnectionLimits) -> tuple[Acceptor, int]:
    acceptor = Acceptor(Greets, limits, tls=tls)
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    await acceptor.start(listening)
    return acceptor, port


async def silent(port: int, count: int) -> list[socket.socket]:
    made = []
    for _ in range(count):
        made.append(socket.socket())
        made[-1].setblocking(False)
        await asyncio.get_running_loop().sock_connect(made[-1], ("127.0.0.1", port))
    return made


async def opened(limits: ConnectionLimits, count: int) -> None:
    while limits.open != count:  # noqa: ASYNC110 - the acceptor tells nobody of it
        await asyncio.sleep(0)


async def greeted(port: int, client: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
    assert await reader.readexactly(5) == b"hello"
    writer.close()


def test_silent_peers_starve_nobody(run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    async def work() -> None:
        limits = ConnectionLimits(1000, 1000)
        acceptor, port = await started(tls_server, limits)
        descriptors = len(os.listdir("/proc/self/fd"))
        peers = await silent(port, SILENT)
        await opened(limits, SILENT)
        await greeted(port, tls_client)
        acceptor.close()  # ends handshakes
        await acceptor.wait_empty()
        assert limits.open == 0
        for one in peers:
            assert await asyncio.get_running_loop().sock_recv(one, 1) == b""
            one.close()
        assert len(os.listdir("/proc/self/fd")) < descriptors + SILENT / 2

    run(work())


def test_silent_peers_count(
    run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext, events: list[str]
) -> None:
    """One too many is closed before its handshake; a place is free again when a silent one goes."""

    async def work() -> None:
        limits = ConnectionLimits(3, 3)
        acceptor, port = await started(tls_server, limits)
        peers = await silent(port, 3)
        await opened(limits, 3)
        with pytest.raises(OSError):
            await greeted(port, tls_client)
        assert events == ["conn.refused peer=127.0.0.1 open=3"]
        peers.pop().close()
        await opened(limits, 2)
        await greeted(port, tls_client)
        for one in peers:
            one.close()
        acceptor.close()
        await acceptor.wait_empty()
        assert limits.open == 0

    run(work())


def test_a_handshake_has_its_time(
    run: Run, tls_server: ssl.SSLContext, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def work() -> None:
        limits = ConnectionLimits(1000, 1000)
        acceptor, port = await started(tls_server, limits)
        [peer] = await silent(port, 1)
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        await opened(limits, 0)
        peer.close()
        acceptor.close()
        await acceptor.wait_empty()

    run(work())
    assert len(events) == 1
    assert events[0].startswith("tls.failed conn=")
    assert "peer=127.0.0.1" in events[0]


def test_accept_goes_on_when_descriptors_are_back(
    run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "ACCEPT_PAUSE_S", 0.0)

    async def work() -> None:
        limits = ConnectionLimits(1000, 1000)
        acceptor, port = await started(tls_server, limits)
        assert acceptor._listening is not None
        real: socket.socket = acceptor._listening

        class Failing:
            """A listening socket that has no descriptor left, once."""

            def accept(self) -> None:
                acceptor._listening = real
                raise OSError(24, "Too many open files")

            def fileno(self) -> int:
                return real.fileno()

        acceptor._listening = Failing()  # type: ignore[assignment]
        await greeted(port, tls_client)
        acceptor.close()
        acceptor.abort_all()
        await acceptor.wait_empty()

    run(work())
    assert events[0] == 'conn.accept.failed error="Too many open files"'
