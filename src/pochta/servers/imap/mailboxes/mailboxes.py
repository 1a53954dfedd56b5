"""Commands about mailboxes: SELECT, CREATE, DELETE, RENAME, subscriptions."""

from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.errors import Refusal, RefusalCode
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import condstore, object_ids, qresync, telling
from pochta.servers.imap.mailboxes import listing
from pochta.servers.imap.selected import Selected, steps_of
from pochta.servers.imap.uses import SPECIAL_USE
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.store import access, changes, mailboxes, placements
from pochta.store.access import Opened
from pochta.store.mailboxes import DELIMITER, INBOX, is_inbox
from pochta.store.rights import Right

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_ROLES: Final = {use.lower(): role for role, use in SPECIAL_USE.items()}
_USES: Final = f"A mailbox has one use of {', '.join(SPECIAL_USE.values())}"


def _now() -> int:
    return int(clock.now_s())


async def select(connection: "ImapConnection", tag: bytes, command: c.Select) -> None:
    """SELECT and EXAMINE; the counters are stored, so the size of the mailbox does not matter."""
    if command.resync is not None and not connection.modes.qresync:
        # RFC 7162 §3.2.5: BAD, and nothing else happens
        connection.send(encode.tagged(tag, b"BAD", "QRESYNC was not enabled"))
        return
    if connection.selected is not None:
        # RFC 7162 §3.2.11: the border between what is said about the one mailbox and the other
        connection.send(encode.untagged(b"OK", "The mailbox before is closed", code=b"CLOSED"))
    connection.selected = None  # RFC 3501 §6.3.1: a failed SELECT leaves none selected
    if command.is_condstore:
        condstore.make_aware(connection)
    reader_id, news = connection.account_id, None
    read, arguments = connection.context.store.read, (reader_id, command.mailbox, Right.READ)
    if command.resync is None:
        opened = await read(reader_id, access.open_selectable, *arguments)
    else:
        opened, news = await read(reader_id, qresync.open_returning, *arguments, command.resync)
    context = connection.context
    selected = Selected(context.store, context.views, opened, reader_id, is_read_only=command.is_read_only)
    connection.selected = selected
    await _tell_selected(connection, selected, opened, command.old_name or command.mailbox)
    if command.resync is not None and news is not None:
        await qresync.tell_news(connection, selected, opened.mailbox, command.resync, news)
    word = "EXAMINE" if command.is_read_only else "SELECT"
    code = b"READ-ONLY" if command.is_read_only or opened.standing.is_read_only else b"READ-WRITE"
    connection.send(encode.tagged(tag, b"OK", f"{word} completed", code=code))


async def _tell_selected(connection: "ImapConnection", selected: Selected, opened: Opened, given: str) -> None:
    """What every SELECT is answered with; `given` is the name that the client used."""
    modes, mailbox = connection.modes, opened.mailbox
    if not modes.rev2:
        await selected.claim_recent(mailbox.recent_uid, mailbox.uid_next)
    arrivals = telling.arrivals(modes, mailbox.message_count, await selected.recent_count())
    keywords = await connection.context.views.keywords(selected.account_id, ANY_KEYWORD)
    shown, permanent = selected.tell_keywords(selected.visible_keywords(keywords))
    # DEVIATES RFC 3501 §6.3.1: no UNSEEN. To find the first unseen message is a scan, RFC 9051 has dropped the code,
    # and without it a client assumes nothing.
    connection.send(
        b"* FLAGS %b\r\n%b"
        b"* OK [PERMANENTFLAGS %b] Flags that are kept\r\n"
        b"* OK [UIDVALIDITY %d] UIDs are valid\r\n"
        b"* OK [UIDNEXT %d] Next UID\r\n"
        b"* OK [HIGHESTMODSEQ %d] Highest modification sequence\r\n"
        b"* OK [MAILBOXID (%b)] Unique mailbox id\r\n"
        % (
            shown,
            arrivals,
            permanent,
            mailbox.uid_validity,
            mailbox.uid_next,
            mailbox.mod_seq,  # RFC 7162 §3.1.2.1: every mailbox keeps them
            object_ids.mailbox_id(opened.account_id, mailbox.id),  # RFC 8474 §4.2
        )
    )
    if modes.rev2:
        # RFC 9051 §6.3.2: LIST, with OLDNAME where the mailbox is not called as the client wrote
        path, attributes = mailbox.path, listing.attributes_of(opened)
        old_name = given if given != path else None
        connection.send(encode.list_response(path, attributes, utf8_accept=modes.utf8, old_name=old_name))


async def create(connection: "ImapConnection", tag: bytes, command: c.Create) -> None:
    """CREATE; levels above are made too (RFC 3501 §6.3.3). Source: RFC 6154 §3 (USE), RFC 8474 §4.1 (MAILBOXID)."""
    role = None
    if command.special_use:
        role = _ROLES.get(command.special_use[0].lower())
        if role is None or len(command.special_use) > 1:
            raise Refusal(RefusalCode.USE_TAKEN, _USES)
    reader_id = connection.account_id
    made = await connection.context.store.write(reader_id, access.create, reader_id, command.mailbox, role, _now())
    _tell_spelling(connection, listing.attributes_of(made), command.mailbox, command.mailbox)
    await connection.sync(may_expunge=True)
    code = b"MAILBOXID (%b)" % object_ids.mailbox_id(made.account_id, made.mailbox.id)
    connection.send(encode.tagged(tag, b"OK", "CREATE completed", code=code))


async def delete(connection: "ImapConnection", tag: bytes, command: c.Delete) -> None:
    """DELETE; one row now, the messages behind the reply."""
    reader_id, store, selected = connection.account_id, connection.context.store, connection.selected
    removed = await store.write(reader_id, access.remove, reader_id, command.mailbox, _now())
    # by id: another session may have renamed the selected one and made this one
    if selected is not None and (selected.account_id, selected.mailbox_id) == (removed.account_id, removed.mailbox.id):
        connection.selected = None
    else:
        await connection.sync(may_expunge=True)
    _tell_spelling(connection, ["\\NonExistent"], command.mailbox, command.mailbox)
    connection.send(encode.tagged(tag, b"OK", "DELETE completed"))


async def rename(connection: "ImapConnection", tag: bytes, command: c.Rename) -> None:
    """RENAME of a mailbox and all below it."""
    account_id = connection.account_id
    if is_inbox(command.source):
        await _rename_inbox(connection, command.target)
        connection.send(encode.tagged(tag, b"OK", "RENAME completed"))
        return
    was = await connection.context.store.write(
        account_id, access.rename, account_id, command.source, command.target, _now()
    )
    _tell_spelling(connection, listing.attributes_of(was), command.source, command.target)
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "RENAME completed"))


async def _rename_inbox(connection: "ImapConnection", target: str) -> None:
    """Make the other mailbox and move all messages there. RFC 3501 §6.3.5: INBOX stays, empty, with those below it.

    Raises:
        Refusal: EXISTS, INVALID_NAME, LIMIT. TryLater: the disk is full; what was moved stays moved.
    """
    account_id, context = connection.account_id, connection.context
    await context.store.write(account_id, access.create_from_inbox, account_id, target, _now())
    inbox = await context.store.read(account_id, mailboxes.find, account_id, INBOX)
    snapshot = await context.views.current(context.views.view(account_id, inbox.id))
    path = target.removesuffix(DELIMITER)
    done = 0
    for ranges in steps_of(list(snapshot.slices()), changes.MOVED_PER_STEP):
        step = await context.store.write(account_id, placements.move, account_id, inbox.id, tuple(ranges), path, _now())
        done += len(step.from_uids)
        await connection.progress.tell(done, snapshot.count)
    await connection.sync(may_expunge=True)


def _tell_spelling(connection: "ImapConnection", attributes: list[str], old_name: str, name: str) -> None:
    """LIST with OLDNAME, where one of the names is not spelled here as the client has spelled it."""
    # RFC 9051 §6.3.9.7: of the names in NFC that ours are
    given = [one.removesuffix(DELIMITER) for one in (old_name, name)]
    old, new = (DELIMITER.join(mailboxes.split_path(one)) for one in given)
    if connection.modes.rev2 and given != [old, new]:
        utf8 = connection.modes.utf8
        connection.send(encode.list_response(new, attributes, utf8_accept=utf8, old_name=given[0]))


async def subscribe(connection: "ImapConnection", tag: bytes, command: c.Subscribe) -> None:
    """SUBSCRIBE"""
    account_id = connection.account_id
    await connection.context.store.write(account_id, mailboxes.subscribe, account_id, command.mailbox, _now())
    connection.send(encode.tagged(tag, b"OK", "SUBSCRIBE completed"))


async def unsubscribe(connection: "ImapConnection", tag: bytes, command: c.Unsubscribe) -> None:
    """UNSUBSCRIBE"""
    account_id = connection.account_id
    await connection.context.store.write(account_id, mailboxes.unsubscribe, account_id, command.mailbox, _now())
    connection.send(encode.tagged(tag, b"OK", "UNSUBSCRIBE completed"))
