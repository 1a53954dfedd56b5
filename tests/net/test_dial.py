"""Outgoing connections: bounded both ways, with deadlines, TLS as asked for, on both loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pochta.errors import LocalProtocolError, SetupError
from pochta.net.dial import INPUT_HIGH_BYTES, DialError, Stream, TlsFailed, client_context, dial

Run = Callable[[Awaitable[None]], None]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, ssl.SSLError):
            pass  # the other side has gone, as some tests want it
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
        await done.wait()
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def open_to(port: int) -> Stream:
    return await dial("127.0.0.1", port, timeout_s=5, source_address="127.0.0.1")


def soon(stream: Stream, seconds: float = 10) -> float:
    return stream.time() + seconds


def test_both_ways(run: Run) -> None:
    async def go() -> None:
        async with peer(echo) as port:
            stream = await open_to(port)
            stream.write(b"hello")
            assert await stream.read(soon(stream)) == b"hello"
            assert not stream.is_secure
            assert stream.tls_version is stream.tls_cipher is None
            stream.close()
            assert await stream.read(soon(stream)) == b""
            assert stream.is_eof

    run(go())


def test_input_is_bounded(run: Run) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(400):
            writer.write(b"x" * 65536)
            await writer.drain()

    async def go() -> None:
        async with peer(flood) as port:
            stream = await open_to(port)
            await stream.wait(soon(stream))
            for _ in range(200):
                await asyncio.sleep(0)
            total = len(taken := stream.take())
            assert INPUT_HIGH_BYTES <= total <= INPUT_HIGH_BYTES + 256 * 1024
            while taken := await stream.read(soon(stream)):
                total += len(taken)
            assert total == 400 * 65536

    run(go())


def test_output_waits_for_room(run: Run) -> None:
    gate = asyncio.Event()

    async def late(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        while await reader.read(1 << 20):
            pass

    async def go() -> None:
        async with peer(late) as port:
            stream = await open_to(port)
            stream.write(b"x" * (16 << 20))
            assert not stream.has_room
            with pytest.raises(TimeoutError):
                await stream.drain(soon(stream, 0.01))
            gate.set()
            await stream.drain(soon(stream))
            assert stream.has_room
            stream.close()

    run(go())


def test_silence_ends_at_the_deadline(run: Run) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def go() -> None:
        async with peer(silent) as port:
            stream = await open_to(port)
            with pytest.raises(TimeoutError):
                await stream.read(soon(stream, 0.01))
            # a later deadline behind an earlier timer, and one in the past
            with pytest.raises(TimeoutError):
                await stream.read(soon(stream, 0.02))
            with pytest.raises(TimeoutError):
                await stream.read(soon(stream, -1))
            stream.abort()
            assert await stream.read(soon(stream)) == b""
            assert stream.is_lost
            stream.write(b"into the void")

    run(go())


def test_what_came_before_the_end_is_kept(run: Run) -> None:
    async def says_bye(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")

    async def go() -> None:
        async with peer(says_bye) as port:
            stream = await open_to(port)
            for _ in range(1000):
                await asyncio.sleep(0)
                if stream.is_lost:
                    break
            assert stream.take() == b"bye"
            assert await stream.read(soon(stream)) == b""

    run(go())


def test_nobody_there(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def go() -> None:
        with pytest.raises(DialError, match="refused"):
            await open_to(port)
        with pytest.raises(LocalProtocolError):
            await dial("localhost", port, timeout_s=1)

    run(go())


def test_implicit_tls(run: Run, tls_server: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    async def go() -> None:
        context = client_context(verifies=True, ca_file=str(certificate[0]))
        async with peer(echo, tls_server) as port:
            stream = await dial("127.0.0.1", port, timeout_s=5, tls=context, server_hostname="localhost")
            assert stream.is_secure
            assert stream.tls_version == "TLSv1.3"
            assert stream.tls_cipher
            stream.write(b"x")
            assert await stream.read(soon(stream)) == b"x"
            stream.close()

    run(go())


def test_implicit_tls_of_another_name(run: Run, tls_server: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    async def go() -> None:
        context = client_context(verifies=True, ca_file=str(certificate[0]))
        done = asyncio.Event()
        server = await asyncio.start_server(lambda _r, _w: done.set(), "127.0.0.1", 0, ssl=tls_server)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TlsFailed, match="certificate not accepted"):
            await dial("127.0.0.1", port, timeout_s=5, tls=context, server_hostname="other.example")
        server.close()

    run(go())


def starting_tls(tls: ssl.SSLContext, *, before: bytes = b"") -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"go\n"
        writer.write(b"ok\n" + before)
        await writer.start_tls(tls)
        await echo(reader, writer)

    return handler


@pytest.mark.rfc(3207, "6")
def test_start_tls(run: Run, tls_server: ssl.SSLContext) -> None:
    async def go() -> None:
        async with peer(starting_tls(tls_server)) as port:
            stream = await open_to(port)
            stream.write(b"go\n")
            assert await stream.read(soon(stream)) == b"ok\n"
            await stream.start_tls(client_context(verifies=False), server_hostname="any.example", timeout_s=5)
            assert stream.is_secure
            assert stream.tls_version == "TLSv1.3"
            stream.write(b"x" * 300_000)
            got = b""
            while len(got) < 300_000:
                got += await stream.read(soon(stream))
            assert got == b"x" * 300_000
            stream.close()

    run(go())


def test_start_tls_with_a_certificate_that_is_not_trusted(run: Run, tls_server: ssl.SSLContext) -> None:
    async def go() -> None:
        async with peer(starting_tls(tls_server)) as port:
            stream = await open_to(port)
            stream.write(b"go\n")
            await stream.read(soon(stream))
            with pytest.raises(TlsFailed, match="certificate not accepted"):
                await stream.start_tls(client_context(verifies=True), server_hostname="localhost", timeout_s=5)
            assert stream.is_lost

    run(go())


async def goes_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"ok\n")


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"ok\n")
    await reader.read(1)
    writer.write(b"220 not TLS at all\r\n" * 3)
    await reader.read()


async def keeps_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"ok\n")
    await reader.read()


@pytest.mark.parametrize("handler", [goes_away, babbles, keeps_silent])
def test_start_tls_that_fails(run: Run, handler: Handler) -> None:
    async def go() -> None:
        async with peer(handler) as port:
            stream = await open_to(port)
            stream.write(b"go\n")
            await stream.read(soon(stream))
            with pytest.raises(TlsFailed):
                await stream.start_tls(client_context(verifies=False), server_hostname="x.example", timeout_s=0.2)
            assert stream.is_lost
            assert not stream.is_secure

    run(go())


def test_cancelled_in_the_handshake(run: Run) -> None:
    async def go() -> None:
        async with peer(keeps_silent) as port:
            stream = await open_to(port)
            stream.write(b"go\n")
            await stream.read(soon(stream))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await stream.start_tls(client_context(verifies=False), server_hostname="x.example", timeout_s=9)
            assert stream.is_lost

    run(go())


@pytest.mark.parametrize("name", ["", ".example", "a..b", "x" * 64, "ü.example", "a b", "x." * 130, "a\0b"])
def test_a_name_that_no_certificate_has(run: Run, name: str) -> None:
    async def go() -> None:
        async with peer(keeps_silent) as port:
            stream = await open_to(port)
            with pytest.raises(TlsFailed, match="name"):
                await stream.start_tls(client_context(verifies=False), server_hostname=name, timeout_s=5)
            stream.abort()
            with pytest.raises(TlsFailed, match="name"):
                await dial("127.0.0.1", port, timeout_s=5, tls=client_context(verifies=True), server_hostname=name)

    run(go())


def test_contexts_are_made_once(tmp_path: Path) -> None:
    assert client_context(verifies=False) is client_context(verifies=False)
    assert client_context(verifies=True).check_hostname
    assert client_context(verifies=False).minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(SetupError):
        client_context(verifies=True, ca_file=str(tmp_path / "absent.pem"))
