"""Connections as the peer sees them, on both loops, in the clear and under TLS."""

import asyncio
import socket
import ssl
from typing import Any

import pytest
from connection_rig import Recorder, Run, serving

from pochta.errors import LocalProtocolError
from pochta.net.accept import ConnectionLimits
from pochta.net.connection import (
    WRITE_HIGH_BYTES,
    Connection,
    ConnectionLost,
    number_connections,
)


@pytest.fixture(params=[False, True], ids=["clear", "tls"])
def pair(
    request: pytest.FixtureRequest, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Contexts of both sides, or None twice."""
    return (tls_server, tls_client) if request.param else (None, None)


class Echo(Recorder):
    """Greets, sends back what comes, and says goodbye on QUIT."""

    __slots__ = ()

    def on_connect(self) -> None:
        super().on_connect()
        self.write(b"hello\r\n")

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self.write(data)
        if b"QUIT" in data:
            self.write(b"bye\r\n")
            self.close()


def test_greets_answers_and_flushes_before_close(run: Run, pair: tuple[Any, Any]) -> None:
    async def work() -> None:
        async with serving(Echo, tls=pair[0]) as served:
            reader, writer = await served.connect(pair[1])
            port = writer.get_extra_info("sockname")[1]
            writer.write(b"one QUIT\r\n")
            assert await reader.read() == b"hello\r\none QUIT\r\nbye\r\n"
            writer.close()
            await served.acceptor.wait_empty()
            [made] = served.made
            assert (made.notes[0], made.notes[-1], made.notes.count("lost")) == ("connect", "lost", 1)
            assert made.is_secure is (pair[0] is not None)
            assert made.peer_address == made.local_address == "127.0.0.1"
            assert made.peer_port == port

    run(work())


def test_small_writes_are_not_delayed(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            _, writer = await served.connect()
            await served_first(served.made)
            sock = served.made[0]._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()

    run(work())


async def served_first(made: list[Recorder]) -> Recorder:
    """The first connection, once it was announced."""
    while not made:  # noqa: ASYNC110 - the factory has no event to wait for
        await asyncio.sleep(0)
    await made[0].noted("connect")
    return made[0]


def test_held_input_comes_after_resume_in_order(run: Run, pair: tuple[Any, Any]) -> None:
    class Holding(Recorder):
        __slots__ = ()

        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            if data.startswith(b"1"):
                self.hold_input()
                self.hold_input()
                self.write(b"held")

    async def work() -> None:
        async with serving(Holding, tls=pair[0]) as served:
            reader, writer = await served.connect(pair[1])
            writer.write(b"1")
            assert await reader.readexactly(4) == b"held"
            made = served.made[0]
            writer.write(b"23")
            await writer.drain()
            made.write(b"x")
            await reader.readexactly(1)
            assert made.received == b"1"
            made.resume_input()
            assert made.received == b"1"
            made.resume_input()
            await made.heard(b"123")
            writer.close()

    run(work())


def test_bytes_read_before_hold_are_kept(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            _, writer = await served.connect()
            made = await served_first(served.made)
            made.hold_input()
            made.data_received(b"a")
            made.data_received(b"b")
            assert made.received == b""
            made.resume_input()
            made.data_received(b"c")
            await made.heard(b"abc")
            writer.close()

    run(work())


def test_half_closed_peer_reads_the_answer(run: Run) -> None:
    class AtEnd(Recorder):
        __slots__ = ()

        def on_eof(self) -> None:
            self.note("eof")
            self.write(b"all " + self.received)
            self.close()

    async def work() -> None:
        async with serving(AtEnd) as served:
            reader, writer = await served.connect()
            writer.write(b"sent")
            writer.write_eof()
            assert await reader.read() == b"all sent"
            writer.close()
            assert served.made[0].notes.count("eof") == 1

    run(work())


def test_eof_while_held_is_told_once_after_resume(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            reader, writer = await served.connect()
            made = await served_first(served.made)
            made.hold_input()
            made.eof_received()
            assert "eof" not in made.notes
            made.resume_input()
            made.hold_input()
            made.resume_input()
            assert await reader.read() == b""
            writer.close()
            await made.noted("lost")
            assert made.notes.count("eof") == 1

    run(work())


def test_eof_under_tls_ends_the_connection(run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    async def work() -> None:
        async with serving(tls=tls_server) as served:
            _, writer = await served.connect(tls_client)
            made = await served_first(served.made)
            writer.close()
            await made.noted("lost")
            assert made.notes == ["connect", "eof", "lost"]

    run(work())


class Flood(Recorder):
    """Writes without end, a block per drain."""

    __slots__ = ("error", "most")

    def on_connect(self) -> None:
        super().on_connect()
        self.most = 0
        self.error: BaseException | None = None
        self.spawn(self.flood())

    async def flood(self) -> None:
        try:
            while True:
                self.write(b"x" * 16_384)
                self.most = max(self.most, self._transport.get_write_buffer_size())
                await self.drain()
        except BaseException as error:
            self.error = error
            self.note("flood over")
            raise


def test_drain_bounds_output_and_ends_with_the_peer(run: Run, pair: tuple[Any, Any]) -> None:
    async def work() -> None:
        async with serving(Flood, tls=pair[0]) as served:
            reader, writer = await served.connect(pair[1])
            for _ in range(200):
                await reader.readexactly(16_384)
            made = served.made[0]
            assert isinstance(made, Flood)
            # Under TLS the record layer holds up to one more high-water mark.
            assert made.most <= 2 * WRITE_HIGH_BYTES + 2 * 16_384
            writer.transport.abort()
            await made.noted("flood over")
            assert isinstance(made.error, ConnectionLost | asyncio.CancelledError)
            await served.acceptor.wait_empty()
            with pytest.raises(ConnectionLost):
                await made.drain()

    run(work())


class Repeater(Recorder):
    """Answers each byte with ten, at once, as a protocol answers pipelined commands."""

    __slots__ = ("most",)

    def on_connect(self) -> None:
        super().on_connect()
        self.most = 0

    def on_data(self, data: bytes) -> None:
        self.write(data * 10)
        self.most = max(self.most, self._transport.get_write_buffer_size())
        self.note("data")


def test_peer_that_sends_without_reading_is_not_heard(run: Run, pair: tuple[Any, Any]) -> None:
    read_bytes = 256 * 1024  # what either loop reads at most in one step

    async def work() -> None:
        async with serving(Repeater, tls=pair[0]) as served:
            reader, writer = await served.connect(pair[1])
            made = await served_first(served.made)
            assert isinstance(made, Repeater)
            writer.transport.set_write_buffer_limits(0)
            sent = 0
            for _ in range(128):  # until the buffers of both kernels are full
                writer.write(bytes(read_bytes))
                sent += read_bytes
                try:
                    async with asyncio.timeout(0.1):
                        await writer.drain()
                except TimeoutError:
                    break
            assert made.most <= WRITE_HIGH_BYTES + 2 * 10 * read_bytes
            await reader.readexactly(10 * sent)  # and heard again once it reads
            writer.transport.abort()
            await made.noted("lost")

    run(work())


class Drain(asyncio.Transport):
    """Takes everything at once, as the loops' transports do between a peer's loss and the news of it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


def test_writer_that_never_waits_gives_others_their_turn(run: Run) -> None:
    async def work() -> None:
        with socket.socket() as plain:
            made = Connection()
            extra = {"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 25), "socket": plain}
            made.connection_made(Drain(extra))
            turns: list[int] = []
            for written in range(1, 9):
                if written in (1, 5):
                    asyncio.get_running_loop().call_soon(turns.append, written)
                made.write(bytes(WRITE_HIGH_BYTES // 4))
                await made.drain()
                assert turns == [[], [1], [1, 5]][written // 4]
            made.connection_lost(None)

    run(work())


def test_peer_that_never_reads_is_dropped(run: Run, pair: tuple[Any, Any], events: list[str]) -> None:
    class Impatient(Flood):
        __slots__ = ()

        def on_connect(self) -> None:
            self.write_timeout_s = 0.05
            super().on_connect()

    async def work() -> None:
        async with serving(Impatient, tls=pair[0]) as served:
            _, writer = await served.connect(pair[1])
            await served_first(served.made)
            await served.made[0].noted("lost")
            writer.transport.abort()

    run(work())
    assert any(line.startswith("conn.stuck ") for line in events)


def test_deadline_is_moved_without_a_new_timer(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            reader, writer = await served.connect()
            made = await served_first(served.made)
            made.set_deadline(60)
            timer = made._timer
            for _ in range(3):
                made.set_deadline(90)
            assert made._timer is timer
            made.set_deadline(0.01)
            assert await reader.read() == b""
            assert made.notes == ["connect", "timeout", "lost"]
            assert made._timer is None
            writer.close()

    run(work())


def test_early_timer_is_armed_again_for_a_later_deadline(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            _, writer = await served.connect()
            made = await served_first(served.made)
            made.set_deadline(0.01)
            made.set_deadline(0.05)
            start = asyncio.get_running_loop().time()
            await made.noted("timeout")
            assert asyncio.get_running_loop().time() - start >= 0.04
            writer.close()

    run(work())


def test_cancelled_deadline_never_comes(run: Run) -> None:
    async def work() -> None:
        async with serving() as served:
            _, writer = await served.connect()
            made = await served_first(served.made)
            made.set_deadline(0)
            made.set_deadline(None)
            made._tick()
            assert "timeout" not in made.notes
            writer.close()

    run(work())


def test_lost_connection_cancels_its_task(run: Run) -> None:
    class Waiting(Recorder):
        __slots__ = ()

        def on_connect(self) -> None:
            self.spawn(self.wait())
            super().on_connect()

        async def wait(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.note("cleaned up")

    async def work() -> None:
        async with serving(Waiting) as served:
            _, writer = await served.connect()
            made = await served_first(served.made)
            assert made.is_busy
            other = asyncio.Event().wait()
            with pytest.raises(LocalProtocolError):
                made.spawn(other)  # type: ignore[arg-type]
            writer.transport.abort()
            await served.acceptor.wait_empty()
            assert "cleaned up" in made.notes
            assert not made.is_busy

    run(work())


@pytest.mark.parametrize("place", ["hook", "task"])
def test_bug_is_reported_and_the_peer_told(run: Run, place: str, bugs: list[BaseException], events: list[str]) -> None:
    class Buggy(Recorder):
        __slots__ = ()

        def on_data(self, data: bytes) -> None:
            if place == "hook":
                raise ZeroDivisionError(place)
            self.spawn(self.fail())

        async def fail(self) -> None:
            raise ZeroDivisionError(place)

        def on_crash(self) -> None:
            self.write(b"421 bug\r\n")
            self.close()

    async def work() -> None:
        async with serving(Buggy) as served:
            reader, writer = await served.connect()
            writer.write(b"x")
            assert await reader.read() == b"421 bug\r\n"
            writer.close()

    run(work())
    assert [type(one) for one in bugs] == [ZeroDivisionError]
    assert events[0].startswith("bug conn=")
    assert "test_connection.py" in events[0]


def test_one_too_many_is_refused(run: Run, events: list[str]) -> None:
    async def work() -> None:
        limits = ConnectionLimits(1, 1)
        async with serving(limits=limits, refusal=b"421 later\r\n") as served:
            _, first = await served.connect()
            await served_first(served.made)
            reader, second = await served.connect()
            assert await reader.read() == b"421 later\r\n"
            second.close()
            assert served.made[1].notes == []
            first.close()
            await served.acceptor.wait_empty()
            assert limits.open == 0
            _, third = await served.connect()
            while len(served.made) < 3:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            await served.made[2].noted("connect")
            third.close()

    run(work())
    assert [line.split()[0] for line in events] == ["conn.refused"]


def test_closed_acceptor_takes_no_more_but_serves_on(run: Run) -> None:
    async def work() -> None:
        async with serving(Echo) as served:
            reader, writer = await served.connect()
            await served_first(served.made)
            served.acceptor.close()
            with pytest.raises(OSError):
                await served.connect()
            writer.write(b"QUIT")
            assert await reader.read() == b"hello\r\nQUITbye\r\n"
            writer.close()

    run(work())


def test_limits_count_nets_and_spare_loopback() -> None:
    limits = ConnectionLimits(6, 1)
    assert limits.admit("192.0.2.1")
    assert not limits.admit("192.0.2.1")
    assert limits.admit("2001:db8:0:1::1")
    assert not limits.admit("2001:db8:0:1:ffff::2")
    assert limits.admit("2001:db8:0:2::1")
    assert all(limits.admit(one) for one in ("127.0.0.1", "127.0.0.1", "::1"))
    assert not limits.admit("::1")
    limits.release("192.0.2.1")
    assert limits.admit("192.0.2.1")
    for one in ("192.0.2.1", "2001:db8:0:1::9", "2001:db8:0:2::1", "127.0.0.1", "127.0.0.1", "::1"):
        limits.release(one)
    assert (limits.open, limits._by_net) == (0, {})


def test_ids_name_their_worker() -> None:
    number_connections(1, 3)
    assert [Connection().id % 3 for _ in range(3)] == [1, 1, 1]
    number_connections(0, 1)


def test_connection_keeps_no_dict() -> None:
    assert not hasattr(Connection(), "__dict__")
