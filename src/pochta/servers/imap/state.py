"""Commands that ask for nothing but the connection's own state: CAPABILITY, NOOP, CHECK, IDLE, ID, ENABLE, LOGOUT."""

from typing import TYPE_CHECKING

from pochta import __version__
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import condstore

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


async def capability(connection: "ImapConnection", tag: bytes, command: c.Capability) -> None:
    """CAPABILITY"""
    connection.send(b"* CAPABILITY %b\r\n" % connection.capabilities())
    connection.send(encode.tagged(tag, b"OK", "CAPABILITY completed"))


async def noop(connection: "ImapConnection", tag: bytes, command: c.Noop) -> None:
    """NOOP: a moment to be told what has changed."""
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "NOOP completed"))


async def check(connection: "ImapConnection", tag: bytes, command: c.Check) -> None:
    """CHECK: everything is stored already."""
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "CHECK completed"))


async def idle(connection: "ImapConnection", tag: bytes, command: c.Idle) -> None:
    """IDLE. Source: RFC 2177 §3."""
    await connection.begin_idle(tag)


async def id_(connection: "ImapConnection", tag: bytes, command: c.Id) -> None:
    """ID. Source: RFC 2971 §3.1."""
    connection.send(b'* ID ("name" "Pochta" "version" %b)\r\n' % encode.quoted(__version__.encode("ascii")))
    connection.send(encode.tagged(tag, b"OK", "ID completed"))


async def enable(connection: "ImapConnection", tag: bytes, command: c.Enable) -> None:
    """ENABLE, of which CONDSTORE alone means something here. RFC 5161 §3.1: what is unknown is passed over."""
    has_condstore = "CONDSTORE" in command.capabilities
    connection.send(b"* ENABLED CONDSTORE\r\n" if has_condstore else b"* ENABLED\r\n")
    if has_condstore:
        condstore.make_aware(connection)
    connection.send(encode.tagged(tag, b"OK", "ENABLE completed"))


async def logout(connection: "ImapConnection", tag: bytes, command: c.Logout) -> None:
    """LOGOUT"""
    connection.send(encode.untagged(b"BYE", "Goodbye"))
    connection.send(encode.tagged(tag, b"OK", "LOGOUT completed"))
    await connection.flush()
    connection.close()
