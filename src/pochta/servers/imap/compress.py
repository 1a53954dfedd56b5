"""COMPRESS. Source: RFC 4978 §3."""

from typing import TYPE_CHECKING, Final

from pochta.errors import RemoteProtocolError
from pochta.net.deflate import SLICE_BYTES, Deflate
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.pace import Pace

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

INFLATED_BYTES: Final = 64 * 1024  # INV-7: what the engine gets at a time, once it has nothing left


async def compress(connection: "ImapConnection", tag: bytes, command: c.Compress) -> None:
    """COMPRESS DEFLATE: everything behind this answer is compressed, both ways.

    DEVIATES RFC 4978 §1: TLS's own compression is not offered beside it: it gives away what is secret (RFC 9325 §3.3).
    """
    if command.mechanism != "DEFLATE":
        connection.send(encode.tagged(tag, b"BAD", "The only mechanism is DEFLATE"))
    elif connection.deflate is not None:
        # RFC 4978 §3: BAD when it is active already, and not for the first time by another layer
        connection.send(encode.tagged(tag, b"BAD", "DEFLATE is active already", code=b"COMPRESSIONACTIVE"))
    elif connection.engine.buffered_bytes:
        # RFC 4978 §3: the client sends nothing more before it has seen the answer; nobody could tell what this is
        connection.send(encode.tagged(tag, b"BAD", "Wait for the answer to COMPRESS"))
    else:
        connection.send(encode.tagged(tag, b"OK", "DEFLATE active"))
        connection.write(connection.take_output())
        connection.deflate = Deflate()


def end(connection: "ImapConnection") -> None:
    """Both ways in the clear again, behind what is to be sent; a connection that is so already stays so.

    Source: RFC 8437 §4.1.
    """
    deflate = connection.deflate
    if deflate is None:
        return
    last = deflate.end(connection.take_output())
    connection.deflate = None
    connection.write(last)
    connection.engine.receive_data(deflate.rest())


def inflate(connection: "ImapConnection") -> bool:
    """Give the engine more of what came compressed; whether there was any. BYE to who sends what cannot be read."""
    deflate = connection.deflate
    if deflate is None or not deflate.has_more:
        return False
    try:
        connection.engine.receive_data(deflate.inflate(INFLATED_BYTES))
    except RemoteProtocolError as error:
        connection.send(encode.untagged(b"BYE", str(error)))
        connection.write(connection.take_output())
        connection.close()
    return True


async def write_in_slices(connection: "ImapConnection", data: bytes) -> None:
    """Write what takes its time to compress, and let others have theirs (INV-12)."""
    pace = Pace()
    for at in range(0, len(data), SLICE_BYTES):
        connection.write(data[at : at + SLICE_BYTES])
        await connection.drain()
        await pace.turn()
