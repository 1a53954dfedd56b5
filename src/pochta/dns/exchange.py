"""One question to one server: over UDP from a port of its own, over TCP when the answer does not fit."""

import asyncio
from typing import Final

from pochta.dns import wire

Server = tuple[str, int]

# Parsed on the loop, in 5 ms at worst; what is longer, up to the 64 KiB that TCP can carry, in a thread.
MAX_INLINE_BYTES: Final = 2048
# Datagrams with our id and no answer to our question: a server gone mad, or somebody who guesses.
MAX_STRAYS: Final = 8


async def exchange(server: Server, query: wire.Query) -> wire.Message:
    """The server's answer; the caller sets the deadline.

    Raises:
        OSError: the server cannot be reached.
        wire.NotUnderstood: it does not answer what was asked.
    """
    message = await _ask_udp(server, query)
    if message.is_truncated:
        # RFC 7766 §5: a truncated answer is asked for again over TCP.
        message = await _ask_tcp(server, query)
        if message.is_truncated:
            raise wire.NotUnderstood("truncated over TCP")
    return message


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, query: wire.Query, answer: asyncio.Future[wire.Message]) -> None:
        self._query = query
        self._id = query.id.to_bytes(2, "big")
        self._answer = answer
        self._strays = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        # RFC 5452 §9.1: only what matches id, question, and (the socket is connected) addresses and ports counts.
        if self._answer.done() or data[:2] != self._id:
            return
        try:
            self._answer.set_result(wire.parse(data[:MAX_INLINE_BYTES], self._query))
        except wire.NotUnderstood as error:
            self._strays += 1
            if self._strays >= MAX_STRAYS:
                self._answer.set_exception(error)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _ask_udp(server: Server, query: wire.Query) -> wire.Message:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[wire.Message] = loop.create_future()
    # A new socket for each question: the kernel picks its port at random (RFC 5452 §9.2).
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(query, answer), remote_addr=server)
    try:
        transport.sendto(query.octets)
        return await answer
    finally:
        transport.close()


async def _ask_tcp(server: Server, query: wire.Query) -> wire.Message:
    reader, writer = await asyncio.open_connection(*server)
    try:
        # RFC 1035 §4.2.2: two octets of length go before each message.
        writer.write(len(query.octets).to_bytes(2, "big") + query.octets)
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(length)
    except EOFError as error:
        raise ConnectionResetError("closed before the answer") from error
    finally:
        writer.transport.abort()
    if len(answer) > MAX_INLINE_BYTES:
        return await asyncio.to_thread(wire.parse, answer, query)
    return wire.parse(answer, query)
