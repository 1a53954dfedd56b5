"""STATUS: what a mailbox holds, from its row alone. Source: RFC 3501 §6.3.10 and the RFC named at each item."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import condstore, object_ids
from pochta.servers.imap.mailboxes import quota
from pochta.store import access, reader_flags
from pochta.store.access import Opened
from pochta.store.mailboxes import Mailbox
from pochta.store.rights import Right
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_COLUMNS: Final = {
    c.StatusItem.MESSAGES: "message_count",
    c.StatusItem.UIDNEXT: "uid_next",
    c.StatusItem.UIDVALIDITY: "uid_validity",
    c.StatusItem.UNSEEN: "unseen_count",
    c.StatusItem.DELETED: "deleted_count",
    c.StatusItem.SIZE: "total_bytes",
}
_FORMS: Final = {c.StatusItem.MAILBOXID: b" (%b)"}  # RFC 8474 §4.3


async def status(connection: "ImapConnection", tag: bytes, command: c.Status) -> None:
    """STATUS; one row."""
    check_items(connection, command.items)
    await connection.sync(may_expunge=True)
    reader_id = connection.account_id
    opened = await connection.context.store.read(reader_id, _read, reader_id, command.mailbox)
    name = encode.mailbox_name(opened.mailbox.path, utf8_accept=connection.modes.utf8)
    deleted = await quota.deleted_storage(connection, command.items, [opened])
    connection.send(line_of(connection, command.items, deleted)(opened, name))
    connection.send(encode.tagged(tag, b"OK", "STATUS completed"))


def check_items(connection: "ImapConnection", items: tuple[c.StatusItem, ...]) -> None:
    """What asking for these items means, before they are told.

    Raises:
        RemoteProtocolError: an item that the mode of the connection does not have.
    """
    # RFC 9051 appendix E, 12: there is no RECENT
    if c.StatusItem.RECENT in items and connection.modes.rev2:
        raise RemoteProtocolError("IMAP4rev2 has no RECENT")
    if c.StatusItem.HIGHESTMODSEQ in items:
        condstore.make_aware(connection)


def _read(tx: Tx, reader_id: int, name: str) -> Opened:
    """The mailbox with the counters as its reader sees them."""
    return with_own_unseen(tx, access.open_selectable(tx, reader_id, name, Right.READ))


def with_own_unseen(tx: Tx, opened: Opened) -> Opened:
    """The same, `unseen_count` being what the reader has not seen. One statement where \\Seen is the reader's own."""
    account_id, mailbox, standing = opened
    if not standing.seen_by:
        return opened
    unseen = reader_flags.unseen_count(tx, account_id, mailbox.id, standing.seen_by, mailbox.message_count)
    return opened._replace(mailbox=mailbox._replace(unseen_count=unseen))


def line_of(
    connection: "ImapConnection", items: tuple[c.StatusItem, ...], deleted: Mapping[tuple[int, int], int]
) -> Callable[[Opened, bytes], bytes]:
    """What makes the STATUS response of a mailbox that has messages and of its name on the wire; 1 us each.

    `deleted` is what `quota.deleted_storage` gives.
    """
    form = b"* STATUS %%b (%b)\r\n" % b" ".join([item.value + _FORMS.get(item, b" %d") for item in items])
    if all(item in _COLUMNS for item in items):
        columns = attrgetter("path", *[_COLUMNS[item] for item in items])  # the path, so that there are two at least

        def quick(opened: Opened, name: bytes) -> bytes:
            return form % (name, *columns(opened.mailbox)[1:])

        return quick
    values = [_value_of(connection, item, deleted) for item in items]

    def line(opened: Opened, name: bytes) -> bytes:
        return form % (name, *[value(opened) for value in values])

    return line


def _value_of(
    connection: "ImapConnection", item: c.StatusItem, deleted: Mapping[tuple[int, int], int]
) -> Callable[[Opened], int | bytes]:
    """What gives the item's value of a mailbox."""
    if item in _COLUMNS:
        column = attrgetter(_COLUMNS[item])
        return lambda opened: int(column(opened.mailbox))
    limit, selected = connection.context.message_size_bytes, connection.selected
    if item is c.StatusItem.APPENDLIMIT:
        return lambda opened: limit
    if item is c.StatusItem.MAILBOXID:
        return lambda opened: object_ids.mailbox_id(opened.account_id, opened.mailbox.id)
    if item is c.StatusItem.DELETED_STORAGE:
        return lambda opened: deleted.get((opened.account_id, opened.mailbox.id), 0)
    if item is c.StatusItem.RECENT:
        return lambda opened: _recent(opened.mailbox)
    here = (selected.account_id, selected.mailbox_id) if selected is not None else None
    told = selected.told_mod_seq if selected is not None else 0
    # INV-8: of the selected mailbox no more than its client was told
    return lambda opened: told if here == (opened.account_id, opened.mailbox.id) else opened.mailbox.mod_seq


def _recent(mailbox: Mailbox) -> int:
    """An upper bound: what was removed unclaimed is not counted out (RFC 3501 §2.3.2 lets a server be unsure)."""
    return min(mailbox.message_count, max(0, mailbox.uid_next - mailbox.recent_uid))
