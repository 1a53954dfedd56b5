"""Sessions with servers on loopback, good ones and hostile ones. Slowness is made by tiny limits, not by waiting."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from pochta.errors import LocalProtocolError
from pochta.log import Secret
from pochta.net.tls import server_context, write_self_signed
from pochta.proto.smtp.client.envelope import Envelope, Recipient
from pochta.proto.smtp.client.events import LostReason
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.queue.session import Session, SessionError, SessionLimits, Stage, TlsMode

T = TypeVar("T")
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Handler = Callable[[Reader, Writer], Awaitable[None]]
QUICK = SessionLimits(
    client=ClientLimits(
        greeting_timeout_s=0.05,
        command_timeout_s=0.05,
        data_timeout_s=0.05,
        block_timeout_s=0.05,
        end_timeout_s=0.05,
        quit_timeout_s=0.05,
    ),
    tls_timeout_s=0.2,
)
ENVELOPE = Envelope(reverse_path="a@x.example", recipients=(Recipient("b@y.example"), Recipient("no@y.example")))
ONE = Envelope(reverse_path="a@x.example", recipients=(Recipient("b@y.example"),))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[T]], T]:
    def run_it(work: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(20):
                return await work

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(limited())

    return run_it


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    pair = folder / "certificate.pem", folder / "key.pem"
    write_self_signed(*pair, hostname="mx.example")
    return pair


@pytest.fixture(scope="module")
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(*certificate)


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server on loopback; its port. Every connection is over when this is left."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
                await handler(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.001)  # the transports that were aborted close their sockets in the next turns


class Host:
    """A mail server of few words: takes everything but `no…`. `offers` before and after TLS; what it saw in `lines`."""

    def __init__(self, *offers: str, tls: ssl.SSLContext | None = None, junk: bytes = b"") -> None:
        self.offers = offers
        self.tls = tls
        self.junk = junk
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        is_secure = False
        writer.write(b"220 mx.example\r\n")
        while line := (await reader.readuntil(b"\r\n")).decode()[:-2]:
            self.lines.append(line)
            verb = line.split()[0]
            if verb == "EHLO":
                offers = [*self.offers, *(["STARTTLS"] if self.tls and not is_secure else [])]
                said = ["mx.example", *offers]
                writer.write("".join([f"250-{one}\r\n" for one in said[:-1]] + [f"250 {said[-1]}\r\n"]).encode())
            elif verb == "STARTTLS" and self.tls:
                writer.write(b"220 go\r\n" + self.junk)
                await writer.start_tls(self.tls)
                is_secure = True
            elif verb == "DATA":
                writer.write(b"354 go\r\n")
                self.bodies.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == "BDAT":
                self.bodies.append(await reader.readexactly(int(line.split()[1])))
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == "AUTH":
                writer.write(b"235 ok\r\n" if line.endswith("AHUAcA==") else b"535 5.7.8 no\r\n")
            else:
                writer.write(b"550 5.1.1 no\r\n" if "<no" in line else b"250 ok\r\n")
            if verb == "QUIT":
                return


def says(*pieces: bytes, waits: bool = True) -> Handler:
    """A server that says each piece after one read; then it waits for the end, or closes."""

    async def handler(reader: Reader, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if not await reader.read(65536):
                return
        while waits and await reader.read(65536):
            pass

    return handler


async def open_to(port: int, *, mode: TlsMode = TlsMode.OPPORTUNISTIC, **more: object) -> Session:
    more.setdefault("limits", SessionLimits())
    return await Session.open("mx.example", "127.0.0.1", port, hello_name="me.example", tls=mode, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("offers", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")], ids=len)
def test_one_message_after_another(run: Callable[[Awaitable[None]], None], offers: tuple[str, ...]) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 998 + b"\r\n"

    async def go() -> None:
        host = Host(*offers)
        async with serving(host) as port:
            session = await open_to(port)
            for _ in range(2):
                sent = await session.send(ENVELOPE, 6, b".text\n")
                assert [one.code for one in sent.recipients] == [250, 550]
                assert session.is_usable
            await session.send(ONE, 300_000, blocks())
            await session.send(ONE, 300_000, b"y" * 300_000)
            assert session.transactions == 4
            await session.close()
            assert not session.is_usable
        got = b"".join(host.bodies)
        assert got.count(b"text\r\n") == 2
        assert (got.count(b"x"), got.count(b"y")) == (2 + 300 * 998, 300_000)
        assert host.lines[-1] == "QUIT"

    run(go())


@pytest.mark.parametrize("mode", TlsMode)
def test_tls_as_asked_for(
    run: Callable[[Awaitable[None]], None], tls: ssl.SSLContext, certificate: tuple[Path, Path], mode: TlsMode
) -> None:
    async def go() -> None:
        async with serving(Host(tls=tls)) as port:
            session = await open_to(port, mode=mode, ca_file=str(certificate[0]))
            assert session.is_secure is (mode is not TlsMode.NEVER)
            assert session.tls_version == (None if mode is TlsMode.NEVER else "TLSv1.3")
            await session.send(ONE, 1, b"x")
            await session.close()

    run(go())


def test_verified_means_verified(run: Callable[[Awaitable[None]], None], tls: ssl.SSLContext) -> None:
    async def go() -> None:
        host = Host(tls=tls)
        async with serving(host) as port:
            with pytest.raises(SessionError, match="certificate not accepted") as caught:
                await open_to(port, mode=TlsMode.REQUIRED_VERIFIED)
            assert caught.value.stage is Stage.TLS
            assert not caught.value.is_permanent
        assert host.connections == 1

    run(go())


@pytest.mark.rfc(3207, "6")
@pytest.mark.parametrize("mode", [TlsMode.REQUIRED_ANY, TlsMode.REQUIRED_VERIFIED])
def test_starttls_stripped_where_it_is_required(run: Callable[[Awaitable[None]], None], mode: TlsMode) -> None:
    async def go() -> None:
        host = Host("PIPELINING")
        async with serving(host) as port:
            with pytest.raises(SessionError, match="does not offer TLS") as caught:
                await open_to(port, mode=mode, credentials=("u", Secret("p")))
            assert caught.value.stage is Stage.TLS
        assert host.lines == ["EHLO me.example"]

    run(go())


def test_injected_behind_starttls(run: Callable[[Awaitable[None]], None], tls: ssl.SSLContext) -> None:
    async def go() -> None:
        host = Host(tls=tls, junk=b"250-mx.example\r\n250 AUTH PLAIN\r\n")
        async with serving(host) as port:
            # In one packet it is dropped; in two it breaks the handshake. It is believed in neither.
            with contextlib.suppress(SessionError):
                session = await open_to(port, mode=TlsMode.REQUIRED_ANY)
                assert session.extensions.auth_mechanisms == ()
                await session.close()

    run(go())


def test_a_handshake_that_fails_goes_in_the_clear_once(run: Callable[[Awaitable[None]], None]) -> None:
    class Broken(Host):
        async def __call__(self, reader: Reader, writer: Writer) -> None:
            if self.connections:
                await super().__call__(reader, writer)
                return
            self.connections += 1
            await says(b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n", b"no TLS\r\n")(reader, writer)

    async def go() -> None:
        host = Broken()
        async with serving(host) as port:
            session = await open_to(port)
            assert not session.is_secure
            assert host.connections == 2
            await session.close()
        async with serving(Broken()) as port:
            with pytest.raises(SessionError) as caught:
                await open_to(port, mode=TlsMode.REQUIRED_ANY)
            assert caught.value.stage is Stage.TLS

    run(go())


def test_sign_in(run: Callable[[Awaitable[None]], None], tls: ssl.SSLContext) -> None:
    async def go() -> None:
        async with serving(Host("AUTH PLAIN", tls=tls)) as port:
            session = await open_to(port, credentials=("u", Secret("p")))
            await session.close()
            with pytest.raises(SessionError, match="refused our sign-in") as caught:
                await open_to(port, credentials=("u", Secret("wrong")))
            assert caught.value.stage is Stage.AUTH
            assert caught.value.is_permanent
        host = Host("AUTH PLAIN")
        async with serving(host) as port:
            with pytest.raises(SessionError, match="without TLS"):
                await open_to(port, credentials=("u", Secret("p")))
        assert host.lines == ["EHLO me.example"]

    run(go())


def test_helo_for_a_server_that_closes_at_ehlo(run: Callable[[Awaitable[None]], None]) -> None:
    heard: list[bytes] = []

    async def old(reader: Reader, writer: Writer) -> None:
        writer.write(b"220 x\r\n")
        heard.append(await reader.readuntil(b"\n"))
        if heard[-1].startswith(b"HELO"):
            writer.write(b"250 x\r\n")
            await reader.read()

    async def go() -> None:
        async with serving(old) as port:
            session = await open_to(port)
            assert session.is_usable
        assert heard == [b"EHLO me.example\r\n", b"HELO me.example\r\n"]
        await session.close()

    run(go())


HELLO = (b"220 x\r\n", b"250-x\r\n250 PIPELINING\r\n")
OPENINGS: dict[str, tuple[Handler, Stage, LostReason]] = {
    "silence": (says(), Stage.GREETING, LostReason.TIMED_OUT),
    "closes at once": (says(waits=False), Stage.GREETING, LostReason.CLOSED),
    "10 MB of greeting": (says(b"2" * 10_000_000), Stage.GREETING, LostReason.GARBAGE),
    "a greeting of lines without end": (says(b"220-x\r\n" * 500_000), Stage.GREETING, LostReason.GARBAGE),
    "a greeting without end": (says(b"220-x"), Stage.GREETING, LostReason.TIMED_OUT),
    "554": (says(b"554 no\r\n"), Stage.GREETING, LostReason.REFUSED),
    "silent at EHLO": (says(b"220 x\r\n"), Stage.HELLO, LostReason.TIMED_OUT),
    "web server": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Stage.GREETING, LostReason.GARBAGE),
    "421": (says(b"421 busy\r\n"), Stage.GREETING, LostReason.SHUTTING_DOWN),
}


@pytest.mark.parametrize(("handler", "stage", "reason"), OPENINGS.values(), ids=OPENINGS.keys())
def test_hostile_openings(
    run: Callable[[Awaitable[None]], None], handler: Handler, stage: Stage, reason: LostReason
) -> None:
    async def go() -> None:
        async with serving(handler) as port:
            with pytest.raises(SessionError) as caught:
                await open_to(port, limits=QUICK)
            assert (caught.value.stage, caught.value.reason) == (stage, reason)

    run(go())


def test_a_server_that_dribbles_is_cut(run: Callable[[Awaitable[None]], None]) -> None:
    async def dribbles(_reader: Reader, writer: Writer) -> None:
        writer.write(b"220-")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.001)

    async def go() -> None:
        async with serving(dribbles) as port:
            with pytest.raises(SessionError) as caught:
                await open_to(port, limits=QUICK)
            assert caught.value.reason is LostReason.TIMED_OUT

    run(go())


TRANSACTIONS: dict[str, tuple[Handler, LostReason, bool]] = {
    "354 to nothing": (says(*HELLO, b"354 go\r\n"), LostReason.OUT_OF_ORDER, False),
    "closes in mid-DATA": (says(*HELLO, b"250 a\r\n250 b\r\n354 go\r\n", waits=False), LostReason.CLOSED, True),
    "silent after the end": (says(*HELLO, b"250 a\r\n250 b\r\n354 go\r\n"), LostReason.TIMED_OUT, True),
    "silent at MAIL": (says(*HELLO), LostReason.TIMED_OUT, False),
    "too many answers": (says(*HELLO, b"250 a\r\n250 b\r\n354 go\r\n250 c\r\n"), LostReason.UNSOLICITED, False),
}


@pytest.mark.parametrize(("handler", "reason", "is_in_doubt"), TRANSACTIONS.values(), ids=TRANSACTIONS.keys())
def test_hostile_transactions(
    run: Callable[[Awaitable[None]], None], handler: Handler, reason: LostReason, is_in_doubt: bool
) -> None:
    async def go() -> None:
        async with serving(handler) as port:
            session = await open_to(port, limits=QUICK)
            with pytest.raises(SessionError) as caught:
                await session.send(ONE, 6, b"text\r\n")
            error = caught.value
            assert (error.stage, error.reason, error.is_in_doubt) == (Stage.TRANSACTION, reason, is_in_doubt)
            assert error.recipients == (None,)
            assert not session.is_usable
            await session.close()

    run(go())


def test_421_in_the_middle_is_everybodys_answer(run: Callable[[Awaitable[None]], None]) -> None:
    async def go() -> None:
        async with serving(says(*HELLO, b"250 a\r\n421 bye\r\n")) as port:
            session = await open_to(port)
            sent = await session.send(ENVELOPE, 6, b"text\r\n")
            assert [one.code for one in sent.recipients] == [421, 421]
            assert not session.is_usable
            await session.close()

    run(go())


@pytest.mark.parametrize("said", [b"421 4.4.2 idle\r\n", b""], ids=["421", "closed"])
def test_a_server_that_left_meanwhile_is_noticed(run: Callable[[Awaitable[None]], None], said: bytes) -> None:
    async def go() -> None:
        leave = asyncio.Event()

        async def leaves(reader: Reader, writer: Writer) -> None:
            writer.write(b"220 x\r\n")
            await reader.readuntil(b"\n")
            writer.write(b"250 x\r\n")
            await leave.wait()
            writer.write(said)
            if said:
                await reader.read()

        async with serving(leaves) as port:
            session = await open_to(port)
            assert session.is_usable
            leave.set()
            for _ in range(1000):
                await asyncio.sleep(0)
                if not session.is_usable:
                    break
            assert not session.is_usable
            await session.close()

    run(go())


def test_a_server_that_reads_nothing_is_cut(run: Callable[[Awaitable[None]], None]) -> None:
    async def go() -> None:
        deaf = says(*HELLO, b"250 a\r\n250 b\r\n354 go\r\n")

        async def stops(reader: Reader, writer: Writer) -> None:
            writer.transport.get_extra_info("socket")
            await deaf(_Stops(reader), writer)  # type: ignore[arg-type]  # reads as one

        async with serving(stops) as port:
            session = await open_to(port, limits=QUICK)
            with pytest.raises(SessionError) as caught:
                await session.send(ONE, 50_000_000, b"x" * 50_000_000)
            assert caught.value.reason is LostReason.TIMED_OUT
            assert not caught.value.is_in_doubt

    run(go())


class _Stops:
    """A reader that reads three times and never again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._left = 3

    async def read(self, size: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            await asyncio.Event().wait()
        return await self._reader.read(size)


def test_a_body_that_breaks_off_is_no_message(run: Callable[[Awaitable[None]], None]) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        raise ZeroDivisionError

    async def short() -> AsyncIterator[bytes]:
        yield b"x" * 70_000

    async def go() -> None:
        for body, error in ((breaks(), ZeroDivisionError), (short(), LocalProtocolError)):
            host = Host()
            async with serving(host) as port:
                session = await open_to(port)
                with pytest.raises(error):
                    await session.send(ONE, 80_000, body)
                assert not session.is_usable
            assert host.bodies == []

    run(go())


def test_cancelled_in_a_message(run: Callable[[Awaitable[None]], None]) -> None:
    async def go() -> None:
        async with serving(says(*HELLO)) as port:
            session = await open_to(port)
            task = asyncio.create_task(session.send(ONE, 6, b"text\r\n"))
            for _ in range(9):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not session.is_usable
            await session.close()

    run(go())


def test_what_cannot_be_sent_leaves_the_session_usable(run: Callable[[Awaitable[None]], None]) -> None:
    async def go() -> None:
        async with serving(Host("REQUIRETLS")) as port:
            session = await open_to(port)
            for made, size in (
                (Envelope(reverse_path="a\r\n@x", recipients=ONE.recipients), 1),
                (Envelope(reverse_path="a@x", recipients=ONE.recipients, requires_tls=True), 1),
                (ONE, 2),
            ):
                with pytest.raises(LocalProtocolError):
                    await session.send(made, size, b"x")
                assert session.is_usable
            await session.send(ONE, 1, b"x")
            await session.close()

    run(go())


@pytest.mark.rfc(9422, "4")
def test_no_more_transactions_than_the_server_wants(run: Callable[[Awaitable[None]], None]) -> None:
    async def go() -> None:
        async with serving(Host("LIMITS MAILMAX=1")) as port:
            session = await open_to(port)
            await session.send(ONE, 1, b"x")
            assert not session.is_usable
            await session.close()

    run(go())
