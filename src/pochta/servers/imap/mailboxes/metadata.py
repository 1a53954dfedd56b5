"""GETMETADATA and SETMETADATA: annotations of mailboxes and of the server. Source: RFC 5464 §4.

Some entries are not stored as annotations but are facts of their own: `/private/specialuse` (RFC 6154 §4) the use of a
mailbox, `/shared/vendor/pochta/seen` (`common` or `own`) whether its readers have one \\Seen, `/shared/admin` how the
administrator is reached.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.errors import Refusal, RefusalCode
from pochta.proto.imap import encode, metadata
from pochta.servers.imap.uses import SPECIAL_USE
from pochta.store import access, annotations, mailboxes, reader_flags, rights
from pochta.store.access import Opened
from pochta.store.annotations import Annotation
from pochta.store.rights import Right
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

SPECIAL_USE_ENTRY: Final = "/private/specialuse"
SEEN_ENTRY: Final = "/shared/vendor/pochta/seen"
ADMIN_ENTRY: Final = "/shared/admin"

# RFC 5464 §3.3: annotations are for who has "l" and one of these
READING: Final = Right.READ | Right.KEEP_SEEN | Right.WRITE_FLAGS | Right.INSERT | Right.POST

_ROLES: Final = {use.lower().encode("ascii"): role for role, use in SPECIAL_USE.items()}
_SEEN: Final = {b"common": True, b"own": False, None: False}

Values = Sequence[tuple[str, bytes | None]]


def may_read(opened: Opened) -> bool:
    """Whether the reader of the mailbox may have its annotations."""
    return Right.LOOKUP in opened.standing.rights and bool(opened.standing.rights & READING)


def read_of_mailbox(
    tx: Tx, reader_id: int, opened: Opened, names: Sequence[str], depth: int | None = 0
) -> list[Annotation]:
    """The entries named of a mailbox whose annotations the reader may have, and those below them. Three statements."""
    found = annotations.read(tx, opened.account_id, opened.mailbox.id, reader_id, names, depth)
    facts: list[Annotation] = []
    if opened.account_id == reader_id and opened.mailbox.role in SPECIAL_USE:
        facts.append(Annotation(SPECIAL_USE_ENTRY, SPECIAL_USE[opened.mailbox.role].encode("ascii")))
    if reader_flags.is_common(tx, opened.account_id, opened.mailbox.id):
        facts.append(Annotation(SEEN_ENTRY, b"common"))
    return sorted([*found, *(one for one in facts if annotations.is_named(one.entry, names, depth))])


def _read_named(tx: Tx, reader_id: int, name: str, command: metadata.GetMetadata) -> tuple[str, list[Annotation]]:
    opened = _open(tx, reader_id, name)
    return opened.mailbox.path, read_of_mailbox(tx, reader_id, opened, command.entries, command.depth)


def _open(tx: Tx, reader_id: int, name: str) -> Opened:
    opened = access.open_mailbox(tx, reader_id, name, Right.LOOKUP)
    if not may_read(opened):
        raise Refusal(RefusalCode.NO_PERMISSION, "You have no right to the annotations of this mailbox")
    return opened


async def get_metadata(connection: "ImapConnection", tag: bytes, command: metadata.GetMetadata) -> None:
    """GETMETADATA: an entry that is not there is NIL."""
    store, reader_id = connection.context.store, connection.account_id
    if command.mailbox:
        name, found = await store.read(reader_id, _read_named, reader_id, command.mailbox, command)
    else:
        name = ""
        found = await store.read(
            reader_id, annotations.read, reader_id, annotations.SERVER, reader_id, command.entries, command.depth
        )
        admin = Annotation(ADMIN_ENTRY, connection.context.administrator_uri.encode("utf-8"))
        if annotations.is_named(ADMIN_ENTRY, command.entries, command.depth):
            found = sorted([one for one in found if one.entry != ADMIN_ENTRY] + [admin])
    limit = command.max_size
    too_long = [len(one.value) for one in found if limit is not None and len(one.value) > limit]
    shown: list[tuple[str, bytes | None]] = [one for one in found if limit is None or len(one.value) <= limit]
    there = {one.entry for one in found}
    shown += [(entry, None) for entry in command.entries if command.depth == 0 and entry not in there]
    for entry, value in shown:
        await connection.send_large(
            metadata.metadata_response(name, [(entry, value)], utf8_accept=connection.modes.utf8)
        )
    code = b"METADATA LONGENTRIES %d" % max(too_long) if too_long else b""
    connection.send(encode.tagged(tag, b"OK", "GETMETADATA completed", code=code))


async def set_metadata(connection: "ImapConnection", tag: bytes, command: metadata.SetMetadata) -> None:
    """SETMETADATA: all entries or none."""
    store, reader_id, now = connection.context.store, connection.account_id, int(clock.now_s())
    try:
        if not command.mailbox:
            _refuse_server_entries(connection, command.values)
            server = annotations.SERVER
            await store.write(reader_id, annotations.write, reader_id, server, reader_id, command.values, now)
        else:
            touches_all = any(entry == SEEN_ENTRY for entry, _ in command.values)
            loser = await store.write(
                reader_id, _write, reader_id, command.mailbox, command.values, now, in_thread=touches_all
            )
            if loser is not None:
                # RFC 6154 §5.4: the mailbox that had the use until now
                lost = [(SPECIAL_USE_ENTRY, None)]
                connection.send(metadata.metadata_response(loser, lost, utf8_accept=connection.modes.utf8))
    except annotations.TooLarge as refusal:
        code = b"METADATA MAXSIZE %d" % annotations.VALUE_MAX_BYTES
        connection.send(encode.tagged(tag, b"NO", refusal.text, code=code))
        return
    except annotations.TooMany as refusal:
        connection.send(encode.tagged(tag, b"NO", refusal.text, code=b"METADATA TOOMANY"))
        return
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "SETMETADATA completed"))


def _refuse_server_entries(connection: "ImapConnection", values: Values) -> None:
    """RFC 5464 §3.3: who may annotate the server; §3.2.1.1: /shared/admin is read-only."""
    for entry, _ in values:
        if entry == ADMIN_ENTRY:
            raise Refusal(RefusalCode.CANNOT, "The administrator's address is a setting")
        if annotations.is_shared(entry) and not connection.is_administrator:
            raise Refusal(RefusalCode.NO_PERMISSION, "Only an administrator annotates the server for all")


def _write(tx: Tx, reader_id: int, name: str, values: Values, now: int) -> str | None:
    """Set entries of a mailbox; the path of the mailbox that lost its use by that, if one did."""
    opened = _open(tx, reader_id, name)
    account_id, mailbox, standing = opened
    loser: str | None = None
    plain: list[tuple[str, bytes | None]] = []
    for entry, value in values:
        if entry == SPECIAL_USE_ENTRY:
            loser = mailboxes.set_role(tx, account_id, mailbox.id, _role(reader_id, opened, value), now)
        elif entry == SEEN_ENTRY:
            rights.need(standing, Right.ADMINISTER)
            word = None if value is None else value.lower()
            if word not in _SEEN:
                raise Refusal(RefusalCode.CANNOT, "The value is common or own")
            reader_flags.set_common(tx, account_id, mailbox.id, _SEEN[word], now)
        else:
            if annotations.is_shared(entry):
                rights.need(standing, Right.WRITE_FLAGS)  # what all see is for who may change what all see
            plain.append((entry, value))
    if plain:
        annotations.write(tx, account_id, mailbox.id, reader_id, plain, now)
    facts = [entry for entry, _ in values if entry in (SPECIAL_USE_ENTRY, SEEN_ENTRY)]
    if facts:
        annotations.announce(tx, account_id, mailbox.id, reader_id, facts, now)
    if loser is not None:
        loser_id = mailboxes.find(tx, account_id, loser).id
        annotations.announce(tx, account_id, loser_id, reader_id, [SPECIAL_USE_ENTRY], now)
    return loser


def _role(reader_id: int, opened: Opened, value: bytes | None) -> str | None:
    if opened.account_id != reader_id:
        raise Refusal(RefusalCode.CANNOT, "Only its owner gives a mailbox a use")
    if not value:
        return None
    # RFC 6154 §4: checked as for CREATE
    role = _ROLES.get(value.lower())
    if role is None:
        raise Refusal(RefusalCode.USE_TAKEN, f"A mailbox has one use of {', '.join(SPECIAL_USE.values())}")
    return role
