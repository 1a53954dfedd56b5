"""The commands about access control lists. What an identifier or a right means is decided where they are carried out.

Source: RFC 4314 §3 and §7.
"""

from dataclasses import dataclass
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import encode
from pochta.proto.imap.commands import Command
from pochta.proto.imap.lex import Lexer, decode_utf8

MAX_IDENTIFIER_BYTES: Final = 1024
"""A user name as LOGIN takes it: an address has 320 octets at most (RFC 3696 erratum 1690), more in UTF-8."""

MAX_RIGHTS_BYTES: Final = 64
"""Every letter and digit there is, and a sign."""


@dataclass(frozen=True, slots=True)
class SetAcl(Command):
    """SETACL: `mode` is `+`, `-` or nothing; `rights` the letters behind it."""

    mailbox: str
    identifier: str
    mode: str
    rights: str


@dataclass(frozen=True, slots=True)
class DeleteAcl(Command):
    """DELETEACL"""

    mailbox: str
    identifier: str


@dataclass(frozen=True, slots=True)
class GetAcl(Command):
    """GETACL"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class ListRights(Command):
    """LISTRIGHTS"""

    mailbox: str
    identifier: str


@dataclass(frozen=True, slots=True)
class MyRights(Command):
    """MYRIGHTS"""

    mailbox: str


def _identifier(lexer: Lexer) -> str:
    lexer.space()
    raw = lexer.astring()
    # RFC 4314 §3: an identifier that is empty once prepared is BAD
    if not raw or raw == b"-":
        raise RemoteProtocolError("the identifier is empty")
    if len(raw) > MAX_IDENTIFIER_BYTES:
        raise RemoteProtocolError("the identifier is too long")
    return decode_utf8(raw)


def _set(lexer: Lexer, words: bytes) -> Command:
    mailbox, identifier = lexer.mailbox(), _identifier(lexer)
    lexer.space()
    raw = lexer.astring()
    if len(raw) > MAX_RIGHTS_BYTES:
        raise RemoteProtocolError("too many rights")
    rights = decode_utf8(raw)
    mode = rights[:1] if rights[:1] in ("+", "-") else ""
    return SetAcl(mailbox, identifier, mode, rights.removeprefix(mode))


def _delete(lexer: Lexer, words: bytes) -> Command:
    return DeleteAcl(lexer.mailbox(), _identifier(lexer))


def _get(lexer: Lexer, words: bytes) -> Command:
    return GetAcl(lexer.mailbox())


def _list(lexer: Lexer, words: bytes) -> Command:
    return ListRights(lexer.mailbox(), _identifier(lexer))


def _my(lexer: Lexer, words: bytes) -> Command:
    return MyRights(lexer.mailbox())


PARSERS: Final = {
    b"SETACL": _set,
    b"DELETEACL": _delete,
    b"GETACL": _get,
    b"LISTRIGHTS": _list,
    b"MYRIGHTS": _my,
}


def identifier(value: str) -> bytes:
    """An identifier as it stands in a response: UTF-8, in quotes or a literal where it is not an atom."""
    return encode.astring(value.encode("utf-8"))
