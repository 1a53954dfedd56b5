"""Commands that ask for nothing but the connection's own state: CAPABILITY, NOOP, CHECK, IDLE, ID, ENABLE, LOGOUT."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pochta import __version__
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import capabilities, condstore

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


async def capability(connection: "ImapConnection", tag: bytes, command: c.Capability) -> None:
    """CAPABILITY"""
    connection.send(b"* CAPABILITY %b\r\n" % capabilities.shown(connection))
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
    await connection.listening.begin_idle(tag)


async def id_(connection: "ImapConnection", tag: bytes, command: c.Id) -> None:
    """ID. Source: RFC 2971 §3.1."""
    connection.send(b'* ID ("name" "Pochta" "version" %b)\r\n' % encode.quoted(__version__.encode("ascii")))
    connection.send(encode.tagged(tag, b"OK", "ID completed"))


def _enable_qresync(connection: "ImapConnection") -> None:
    # RFC 7162 §3.2.3: as if CONDSTORE had been enabled with it
    connection.modes.qresync = True
    condstore.make_aware(connection)


def _enable_rev2(connection: "ImapConnection") -> None:
    connection.modes.rev2 = True
    _enable_utf8(connection)  # RFC 9051 appendix E, 16
    if connection.selected is not None:
        connection.selected.forget_recent()


def _enable_utf8(connection: "ImapConnection") -> None:
    connection.modes.utf8 = connection.engine.utf8_accept = True


def _enable_uidonly(connection: "ImapConnection") -> None:
    connection.modes.uidonly = True


# What ENABLE switches on, as far as it is advertised. RFC 5161 §3.1: all else it passes over.
_ENABLING: "Final[dict[str, Callable[[ImapConnection], None]]]" = {
    "CONDSTORE": condstore.make_aware,
    "IMAP4rev2": _enable_rev2,
    "QRESYNC": _enable_qresync,
    "UIDONLY": _enable_uidonly,
    "UTF8=ACCEPT": _enable_utf8,
}
_SPELLED: Final = {word.upper(): word for word in _ENABLING}


async def enable(connection: "ImapConnection", tag: bytes, command: c.Enable) -> None:
    """ENABLE. Source: RFC 5161 §3, RFC 9051 §6.3.1."""
    named = (_SPELLED.get(name, "") for name in command.capabilities)
    words = list(dict.fromkeys(word for word in named if word in capabilities.CAPABILITIES))
    # RFC 5161 §3.2: ENABLED also when nothing was; only what this command has named
    connection.send(" ".join(["* ENABLED", *words]).encode("ascii") + b"\r\n")
    for word in words:
        _ENABLING[word](connection)
    connection.send(encode.tagged(tag, b"OK", "ENABLE completed"))


async def logout(connection: "ImapConnection", tag: bytes, command: c.Logout) -> None:
    """LOGOUT"""
    connection.send(encode.untagged(b"BYE", "Goodbye"))
    connection.send(encode.tagged(tag, b"OK", "LOGOUT completed"))
    await connection.flush()
    connection.close()
