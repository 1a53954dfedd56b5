"""SETACL, DELETEACL, GETACL, LISTRIGHTS, MYRIGHTS: who may do what with a mailbox. Source: RFC 4314 §3."""

from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.accounts import saslprep
from pochta.errors import Refusal, RemoteProtocolError
from pochta.proto.imap import acl, encode
from pochta.store import access, rights
from pochta.store.access import Opened
from pochta.store.rights import Edit, Right
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_EDITS: Final = {"": Edit.REPLACE, "+": Edit.ADD, "-": Edit.REMOVE}
_EVERY_RIGHT: Final = rights.shown(rights.ALL)


def _prepared(identifier: str) -> str:
    """The identifier as it is compared.

    Raises:
        RemoteProtocolError: RFC 4314 §3, it cannot be prepared.
    """
    sign = "-" if identifier.startswith("-") else ""
    try:
        prepared = saslprep.prepare(identifier.removeprefix("-"))
    except Refusal:
        prepared = ""
    if not prepared:
        raise RemoteProtocolError("the identifier is not one")
    return sign + prepared


def _parsed(letters: str) -> Right:
    # RFC 4314 §3.1: an unrecognised right is BAD
    try:
        return rights.parse(letters)
    except Refusal as refusal:
        raise RemoteProtocolError(refusal.text) from None


async def set_acl(connection: "ImapConnection", tag: bytes, command: acl.SetAcl) -> None:
    """SETACL"""
    identifier, edit, changed = _prepared(command.identifier), _EDITS[command.mode], _parsed(command.rights)
    await _change(connection, command.mailbox, identifier, edit, changed)
    connection.send(encode.tagged(tag, b"OK", "SETACL completed"))


async def delete_acl(connection: "ImapConnection", tag: bytes, command: acl.DeleteAcl) -> None:
    """DELETEACL: the entry goes; one with `-` before it is another one (RFC 4314 §2)."""
    await _change(connection, command.mailbox, _prepared(command.identifier), Edit.REPLACE, rights.NONE)
    connection.send(encode.tagged(tag, b"OK", "DELETEACL completed"))


async def _change(connection: "ImapConnection", name: str, identifier: str, edit: Edit, changed: Right) -> None:
    reader_id, now = connection.account_id, int(clock.now_s())
    await connection.context.store.write(
        reader_id,
        access.change_rights,
        *(reader_id, name, identifier, edit, changed, now, connection.is_administrator),
    )
    await connection.sync(may_expunge=True)


async def get_acl(connection: "ImapConnection", tag: bytes, command: acl.GetAcl) -> None:
    """GETACL"""
    reader_id = connection.account_id
    opened, owner, entries = await connection.context.store.read(reader_id, access.entries, reader_id, command.mailbox)
    pairs: list[tuple[str, str]] = [] if owner is None else [(owner, _EVERY_RIGHT)]
    for one in entries:
        name = one.address or access.ANYBODY
        pairs += [(name, rights.shown(one.granted))] if one.granted else []
        pairs += [(f"-{name}", rights.shown(one.denied))] if one.denied else []
    shown = b"".join([b" %b %b" % (acl.identifier(name), letters.encode("ascii")) for name, letters in pairs])
    connection.send(b"* ACL %b%b\r\n" % (_name(connection, opened), shown))
    connection.send(encode.tagged(tag, b"OK", "GETACL completed"))


async def list_rights(connection: "ImapConnection", tag: bytes, command: acl.ListRights) -> None:
    """LISTRIGHTS: no rights are tied together; the owner has all and cannot lose one."""
    identifier, reader_id = _prepared(command.identifier), connection.account_id
    opened, whom, grantable = await connection.context.store.read(
        reader_id, _read_whom, reader_id, command.mailbox, identifier, connection.is_administrator
    )
    always, maybe = b'""', b"".join([b" %c" % ord(letter) for letter in rights.shown(grantable)])
    if whom == opened.account_id:
        always, maybe = b'""' if identifier.startswith("-") else _EVERY_RIGHT.encode("ascii"), b""
    # RFC 4314 §3.4: the identifier in the form that the client gave
    shown = acl.identifier(command.identifier)
    connection.send(b"* LISTRIGHTS %b %b %b%b\r\n" % (_name(connection, opened), shown, always, maybe))
    connection.send(encode.tagged(tag, b"OK", "LISTRIGHTS completed"))


def _read_whom(tx: Tx, reader_id: int, name: str, identifier: str, is_administrator: bool) -> tuple[Opened, int, Right]:
    """The mailbox, whom the identifier means, and what they may be granted or denied there."""
    opened = access.open_mailbox(tx, reader_id, name, Right.ADMINISTER)
    whom = access.reader_named(tx, identifier.removeprefix("-"))
    if identifier.startswith("-"):
        return opened, whom, rights.ALL
    return opened, whom, access.grantable(tx, opened.account_id, whom, is_administrator)


async def my_rights(connection: "ImapConnection", tag: bytes, command: acl.MyRights) -> None:
    """MYRIGHTS"""
    reader_id = connection.account_id
    opened = await connection.context.store.read(reader_id, access.my_rights, reader_id, command.mailbox)
    shown = rights.shown(opened.standing.rights).encode("ascii")
    connection.send(b"* MYRIGHTS %b %b\r\n" % (_name(connection, opened), shown))
    connection.send(encode.tagged(tag, b"OK", "MYRIGHTS completed"))


def _name(connection: "ImapConnection", opened: Opened) -> bytes:
    return encode.mailbox_name(opened.mailbox.path, utf8_accept=connection.modes.utf8)
