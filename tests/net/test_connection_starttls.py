"""A connection that becomes one with TLS, as the peer sees it."""

import asyncio
import ssl

import pytest
from connection_rig import Recorder, Run, serving


class StartTls(Recorder):
    """`go` starts TLS; anything else is sent back."""

    __slots__ = ("context",)

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        if data.startswith(b"go"):
            self.hold_input()
            self.write(b"ok")
            self.spawn(self.upgrade())
        else:
            self.write(data)

    async def upgrade(self) -> None:
        await self.start_tls(self.context)
        assert self.is_secure
        self.note("secure")


@pytest.mark.rfc(3207, "4")
def test_start_tls(run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    async def work() -> None:
        async with serving(lambda: StartTls(tls_server)) as served:
            reader, writer = await served.connect()
            writer.write(b"go")
            assert await reader.readexactly(2) == b"ok"
            await writer.start_tls(tls_client, server_hostname="localhost")
            writer.write(b"quiet")
            assert await reader.readexactly(5) == b"quiet"
            made = served.made[0]
            assert made.notes[:4] == ["connect", "data", "secure", "data"]
            assert made.tls_version == "TLSv1.3"
            assert "TLS" in (made.tls_cipher or "")
            made.hold_input()
            made.write(b"bye")
            made.close()
            assert await reader.read() == b"bye"
            writer.close()
            await made.noted("lost")

    run(work())


@pytest.mark.rfc(3207, "6")
def test_clear_text_behind_the_command_is_dropped(
    run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext
) -> None:
    class Injected(StartTls):
        __slots__ = ()

        async def upgrade(self) -> None:
            self.data_received(b"injected")
            await super().upgrade()

    async def work() -> None:
        async with serving(lambda: Injected(tls_server)) as served:
            reader, writer = await served.connect()
            writer.write(b"go")
            assert await reader.readexactly(2) == b"ok"
            await writer.start_tls(tls_client, server_hostname="localhost")
            writer.write(b"mine")
            assert await reader.readexactly(4) == b"mine"
            assert served.made[0].received == b"gomine"
            writer.close()

    run(work())


def test_first_command_sent_with_the_end_of_the_handshake(
    run: Run, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext
) -> None:
    async def work() -> None:
        async with serving(lambda: StartTls(tls_server)) as served:
            reader, writer = await served.connect()
            loop = asyncio.get_running_loop()
            writer.write(b"go")
            assert await reader.readexactly(2) == b"ok"
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = tls_client.wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65_536))
            tls.write(b"early")
            writer.write(outgoing.read())  # Finished and the first command in one segment
            while True:
                try:
                    assert tls.read(5) == b"early"
                    break
                except ssl.SSLWantReadError:
                    incoming.write(await reader.read(65_536))
            assert served.made[0].notes == ["connect", "data", "secure", "data"]
            writer.transport.abort()
            assert loop.is_running()

    run(work())


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
@pytest.mark.parametrize(
    "sent", [b"not a handshake\r\n" * 20, b"", b"\x16\x03\x01\x02\x00"], ids=["text", "eof", "part"]
)
def test_failed_handshake_ends_the_connection(
    run: Run, tls_server: ssl.SSLContext, events: list[str], sent: bytes, implicit: bool
) -> None:
    async def work() -> None:
        context = tls_server if implicit else None
        async with serving(lambda: StartTls(tls_server), tls=context) as served:
            reader, writer = await served.connect()
            if not implicit:
                writer.write(b"go")
                assert await reader.readexactly(2) == b"ok"
            writer.write(sent)
            if len(sent) < 10:
                writer.close()
            else:
                await reader.read()
                writer.close()
            while not served.made:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            await served.acceptor.wait_empty()
            assert served.made[0].notes == ([] if implicit else ["connect", "data", "lost"])
            assert not served.made[0].is_secure

    run(work())
    assert [line.split()[0] for line in events] == ["tls.failed"]
