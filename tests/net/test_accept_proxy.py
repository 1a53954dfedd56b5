"""Ports behind a load balancer: the client is who the header names, in the clear and under TLS, on both loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

import pytest
from connection_rig import Recorder, Served

from pochta.net import accept
from pochta.net.accept import Acceptor, ConnectionLimits

Run = Callable[[Awaitable[None]], None]
LOOPBACK = (ip_network("10.0.0.0/8"), ip_network("::1/128"), ip_network("127.0.0.0/8"))
ELSEWHERE = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.2 40000 25\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13" + bytes([192, 0, 2, 7, 198, 51, 100, 2, 156, 64, 0, 25]) + b"\x04\0\x04tlvs"
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"


class Greets(Recorder):
    """Says whom it sees as soon as it may, and closes at the peer's end."""

    __slots__ = ()

    def on_connect(self) -> None:
        super().on_connect()
        self.write(f"{self.peer_address} {self.peer_port} {self.local_address}\n".encode())


@contextlib.asynccontextmanager
async def behind_proxy(
    networks: tuple[object, ...] = LOOPBACK,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ConnectionLimits | None = None,
    refusal: bytes = b"",
) -> AsyncIterator[Served]:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Greets())
        return made[-1]

    counts = limits or ConnectionLimits(100, 100)
    acceptor = Acceptor(factory, counts, tls=tls, refusal=refusal, proxy_networks=networks)  # type: ignore[arg-type]  # networks of both kinds
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await acceptor.start(listening)
    try:
        yield Served(acceptor, port, made)
    finally:
        acceptor.close()
        acceptor.abort_all()
        await acceptor.wait_empty()
        assert counts.open == 0


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("how", ["whole", "with data", "bytewise"])
def test_the_client_is_whom_the_header_names(run: Run, header: bytes, how: str) -> None:
    async def work() -> None:
        async with behind_proxy() as served:
            reader, writer = await served.connect()
            if how == "bytewise":
                for at in range(len(header)):
                    writer.write(header[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(0.0005)
            else:
                writer.write(header + (b"first" if how == "with data" else b""))
            assert await reader.readline() == b"192.0.2.7 40000 198.51.100.2\n"
            writer.write(b"last")
            [one] = served.made
            await one.heard(b"last")
            assert one.received == (b"firstlast" if how == "with data" else b"last")
            assert not one.is_secure
            writer.close()
            await one.noted("lost")

    run(work())


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_header_comes_before_the_handshake(
    run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext, header: bytes
) -> None:
    async def work() -> None:
        async with behind_proxy(tls=tls_server) as served:
            raw = socket.create_connection(("127.0.0.1", served.port))
            raw.sendall(header)
            raw.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=raw, ssl=tls_client, server_hostname="localhost")
            assert await reader.readline() == b"192.0.2.7 40000 198.51.100.2\n"
            writer.write(b"under TLS")
            [one] = served.made
            await one.heard(b"under TLS")
            assert one.is_secure
            writer.close()

    run(work())


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["LOCAL", "UNKNOWN"])
def test_a_proxy_may_speak_for_itself(run: Run, header: bytes) -> None:
    async def work() -> None:
        async with behind_proxy() as served:
            reader, writer = await served.connect()
            writer.write(header)
            port = writer.get_extra_info("sockname")[1]
            assert await reader.readline() == f"127.0.0.1 {port} 127.0.0.1\n".encode()
            writer.close()

    run(work())


def test_others_are_taken_as_they_are(run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    async def work() -> None:
        async with behind_proxy(ELSEWHERE) as served:
            reader, writer = await served.connect()
            port = writer.get_extra_info("sockname")[1]
            assert await reader.readline() == f"127.0.0.1 {port} 127.0.0.1\n".encode()
            writer.write(V1)
            await served.made[0].heard(V1)  # an error of the port's protocol, not ours
            writer.close()
        async with behind_proxy(ELSEWHERE, tls=tls_server) as served:
            reader, writer = await served.connect(tls_client)
            assert (await reader.readline()).startswith(b"127.0.0.1 ")
            writer.close()

    run(work())


@pytest.mark.parametrize(
    "said", [b"EHLO x\r\n", b"PROXY TCP4 x\r\n", V2[:12] + b"\x55", b"", b"PROXY TCP4 192"], ids=repr
)
def test_who_does_not_say_it_is_dropped(run: Run, events: list[str], said: bytes) -> None:
    async def work() -> None:
        async with behind_proxy() as served:
            reader, writer = await served.connect()
            writer.write(said)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):  # what was said is unread
                assert await reader.read() == b""
            assert served.made == []
            writer.close()

    run(work())
    assert [line.partition(" ")[0] for line in events] == ["conn.proxy.failed"]
    assert "peer=127.0.0.1" in events[0]


@pytest.mark.parametrize("said", [b"", b"PROXY TC"], ids=["nothing", "a part"])
def test_the_header_has_its_time(run: Run, events: list[str], monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(accept, "PROXY_TIMEOUT_S", 0.05)

    async def work() -> None:
        async with behind_proxy() as served:
            reader, writer = await served.connect()
            writer.write(said)
            assert await reader.read() == b""
            writer.close()

    run(work())
    assert events == ['conn.proxy.failed peer=127.0.0.1 error="no PROXY header in time"']


def test_silent_proxies_count_in_the_total_and_end_with_the_port(run: Run) -> None:
    async def work() -> None:
        limits = ConnectionLimits(2, 100)
        async with behind_proxy(limits=limits, refusal=b"421 full\r\n") as served:
            silent = [await served.connect() for _ in range(2)]
            while limits.open < 2:  # noqa: ASYNC110 - the acceptor tells nobody of it
                await asyncio.sleep(0)
            reader, writer = await served.connect()
            assert await reader.read() == b"421 full\r\n"
            writer.close()
            served.acceptor.close()
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()

    run(work())


def test_each_client_counts_for_itself(run: Run, events: list[str]) -> None:
    async def work() -> None:
        limits = ConnectionLimits(100, 1)
        async with behind_proxy(limits=limits, refusal=b"421 too many\r\n") as served:
            first = await served.connect()
            first[1].write(V1)
            assert await first[0].readline() == b"192.0.2.7 40000 198.51.100.2\n"
            again = await served.connect()
            again[1].write(V2)
            assert await again[0].read() == b"421 too many\r\n"
            other = await served.connect()
            other[1].write(V1.replace(b"192.0.2.7", b"192.0.2.8"))
            assert (await other[0].readline()).startswith(b"192.0.2.8 ")
            assert limits.open == 2
            first[1].close()
            await served.made[0].noted("lost")
            again[1].close()
            last = await served.connect()
            last[1].write(V2)
            assert (await last[0].readline()).startswith(b"192.0.2.7 ")
            for _, writer in (other, last):
                writer.close()

    run(work())
    assert events == ["conn.refused peer=192.0.2.7 open=1"]


def test_a_failed_handshake_gives_its_place_back(run: Run, tls_server: ssl.SSLContext, events: list[str]) -> None:
    async def work() -> None:
        async with behind_proxy(tls=tls_server) as served:
            reader, writer = await served.connect()
            writer.write(V1 + b"EHLO x\r\n")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()

    run(work())
    assert len(events) == 1
    assert "tls.failed" in events[0]
    assert "peer=192.0.2.7" in events[0]
