"""The commands about quotas. Source: RFC 9208 §4 and §7."""

from dataclasses import dataclass
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.commands import Command
from pochta.proto.imap.lex import MAX_NUMBER64, Lexer, decode_utf8

MAX_ROOT_BYTES: Final = 1024
"""Our roots are addresses, of 320 octets at most (RFC 3696 erratum 1690), more in UTF-8."""

MAX_RESOURCES: Final = 16
"""Limits in one SETQUOTA; four resources are registered."""

_CLOSE: Final = 0x29


@dataclass(frozen=True, slots=True)
class GetQuota(Command):
    """GETQUOTA"""

    root: str


@dataclass(frozen=True, slots=True)
class GetQuotaRoot(Command):
    """GETQUOTAROOT"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class SetQuota(Command):
    """SETQUOTA: limits by resource, whose names are in upper case; a resource that is not named has none."""

    root: str
    limits: tuple[tuple[str, int], ...]


def _root(lexer: Lexer) -> str:
    raw = lexer.astring()
    if len(raw) > MAX_ROOT_BYTES:
        raise RemoteProtocolError("the name of the quota root is too long")
    return decode_utf8(raw)


def _get(lexer: Lexer, words: bytes) -> Command:
    return GetQuota(_root(lexer))


def _get_root(lexer: Lexer, words: bytes) -> Command:
    return GetQuotaRoot(lexer.mailbox())


def _set(lexer: Lexer, words: bytes) -> Command:
    root = _root(lexer)
    lexer.space()
    lexer.open_list()
    limits: dict[str, int] = {}
    if lexer.take(_CLOSE):
        return SetQuota(root, ())
    while True:
        resource = lexer.atom().upper().decode("ascii")
        lexer.space()
        limits[resource] = lexer.number(MAX_NUMBER64)
        if len(limits) > MAX_RESOURCES:
            raise RemoteProtocolError("too many resources")
        if not lexer.more():
            return SetQuota(root, tuple(limits.items()))


PARSERS: Final = {b"GETQUOTA": _get, b"GETQUOTAROOT": _get_root, b"SETQUOTA": _set}
