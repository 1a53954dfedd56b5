"""Commands about mailboxes: LIST and its kin, SELECT, STATUS, CREATE, DELETE, RENAME, subscriptions."""

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import condstore
from pochta.servers.imap.selected import Selected, steps_of
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.servers.pace import Pace
from pochta.store import changes, mailboxes, placements
from pochta.store.mailboxes import DELIMITER, INBOX, Mailbox, is_inbox
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

# RFC 6154 §2; INBOX has no attribute there
_SPECIAL_USE: Final = {
    "drafts": "\\Drafts",
    "sent": "\\Sent",
    "archive": "\\Archive",
    "junk": "\\Junk",
    "trash": "\\Trash",
}


def _now() -> int:
    return int(clock.now_s())


async def select(connection: "ImapConnection", tag: bytes, command: c.Select) -> None:
    """SELECT and EXAMINE; the counters are stored, so the size of the mailbox does not matter."""
    if connection.selected is not None:
        # RFC 7162 §3.2.11: the border between what is said about the one mailbox and the other
        connection.send(encode.untagged(b"OK", "The mailbox before is closed", code=b"CLOSED"))
    connection.selected = None  # RFC 3501 §6.3.1: a failed SELECT leaves none selected
    if command.is_condstore:
        condstore.make_aware(connection)
    context, account_id = connection.context, connection.account_id
    mailbox = await context.store.read(account_id, mailboxes.find, account_id, command.mailbox)
    selected = Selected(context.store, context.views, account_id, mailbox, is_read_only=command.is_read_only)
    connection.selected = selected
    await selected.claim_recent(mailbox.recent_uid, mailbox.uid_next)
    recent = await selected.recent_count()
    shown, permanent = selected.tell_keywords(await context.views.keywords(account_id, ANY_KEYWORD))
    # DEVIATES RFC 3501 §6.3.1: no UNSEEN. To find the first unseen message is a scan, RFC 9051 has dropped the code,
    # and without it a client assumes nothing.
    connection.send(
        b"* FLAGS %b\r\n* %d EXISTS\r\n* %d RECENT\r\n"
        b"* OK [PERMANENTFLAGS %b] Flags that are kept\r\n"
        b"* OK [UIDVALIDITY %d] UIDs are valid\r\n"
        b"* OK [UIDNEXT %d] Next UID\r\n"
        b"* OK [HIGHESTMODSEQ %d] Highest modification sequence\r\n"
        % (
            shown,
            mailbox.message_count,
            recent,
            permanent,
            mailbox.uid_validity,
            mailbox.uid_next,
            mailbox.mod_seq,  # RFC 7162 §3.1.2.1: every mailbox keeps them
        )
    )
    word, code = ("EXAMINE", b"READ-ONLY") if command.is_read_only else ("SELECT", b"READ-WRITE")
    connection.send(encode.tagged(tag, b"OK", f"{word} completed", code=code))


async def status(connection: "ImapConnection", tag: bytes, command: c.Status) -> None:
    """STATUS; one row."""
    account_id = connection.account_id
    if c.StatusItem.HIGHESTMODSEQ in command.items:
        condstore.make_aware(connection)
    await connection.sync(may_expunge=True)
    mailbox = await connection.context.store.read(account_id, mailboxes.find, account_id, command.mailbox)
    connection.send(encode.status_response(mailbox.path, _status_values(connection, mailbox, command.items)))
    connection.send(encode.tagged(tag, b"OK", "STATUS completed"))


def _status_values(
    connection: "ImapConnection", mailbox: Mailbox, items: tuple[c.StatusItem, ...]
) -> dict[c.StatusItem, int]:
    selected = connection.selected
    # INV-8: of the selected mailbox no more than its client was told
    is_selected = selected is not None and selected.mailbox_id == mailbox.id
    values = {
        c.StatusItem.MESSAGES: mailbox.message_count,
        # An upper bound: what was removed unclaimed is not counted out (RFC 3501 §2.3.2 lets a server be unsure)
        c.StatusItem.RECENT: min(mailbox.message_count, max(0, mailbox.uid_next - mailbox.recent_uid)),
        c.StatusItem.UIDNEXT: mailbox.uid_next,
        c.StatusItem.UIDVALIDITY: mailbox.uid_validity,
        c.StatusItem.UNSEEN: mailbox.unseen_count,
        c.StatusItem.DELETED: mailbox.deleted_count,
        c.StatusItem.SIZE: mailbox.total_bytes,
        c.StatusItem.HIGHESTMODSEQ: selected.told_mod_seq if selected and is_selected else mailbox.mod_seq,
    }
    return {item: values[item] for item in items}


async def create(connection: "ImapConnection", tag: bytes, command: c.Create) -> None:
    """CREATE; levels above are made too (RFC 3501 §6.3.3)."""
    if command.special_use:
        connection.send(encode.tagged(tag, b"NO", "A use cannot be given to a new mailbox", code=b"USEATTR"))
        return
    account_id = connection.account_id
    await connection.context.store.write(account_id, mailboxes.create, account_id, command.mailbox, _now())
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "CREATE completed"))


async def delete(connection: "ImapConnection", tag: bytes, command: c.Delete) -> None:
    """DELETE; one row now, the messages behind the reply."""
    account_id, store = connection.account_id, connection.context.store
    mailbox = await store.read(account_id, mailboxes.find, account_id, command.mailbox)
    await store.write(account_id, mailboxes.remove, account_id, command.mailbox, _now())
    # by id: another session may have renamed the selected one and made this one
    if connection.selected is not None and connection.selected.mailbox_id == mailbox.id:
        connection.selected = None
    else:
        await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "DELETE completed"))


async def rename(connection: "ImapConnection", tag: bytes, command: c.Rename) -> None:
    """RENAME of a mailbox and all below it."""
    account_id = connection.account_id
    if is_inbox(command.source):
        await _rename_inbox(connection, command.target)
        connection.send(encode.tagged(tag, b"OK", "RENAME completed"))
        return
    await connection.context.store.write(
        account_id, mailboxes.rename, account_id, command.source, command.target, _now()
    )
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "RENAME completed"))


async def _rename_inbox(connection: "ImapConnection", target: str) -> None:
    """Make the other mailbox and move all messages there. RFC 3501 §6.3.5: INBOX stays, empty, with those below it.

    Raises:
        Refusal: EXISTS, INVALID_NAME, LIMIT. TryLater: the disk is full; what was moved stays moved.
    """
    account_id, context = connection.account_id, connection.context
    await context.store.write(account_id, mailboxes.create, account_id, target, _now())
    inbox = await context.store.read(account_id, mailboxes.find, account_id, INBOX)
    snapshot = await context.views.current(context.views.view(account_id, inbox.id))
    path = target.removesuffix(DELIMITER)
    for ranges in steps_of(list(snapshot.slices()), changes.MOVED_PER_STEP):
        await context.store.write(account_id, placements.move, account_id, inbox.id, tuple(ranges), path, _now())
    await connection.sync(may_expunge=True)


async def subscribe(connection: "ImapConnection", tag: bytes, command: c.Subscribe) -> None:
    """SUBSCRIBE"""
    account_id = connection.account_id
    await connection.context.store.write(account_id, mailboxes.subscribe, account_id, command.mailbox)
    connection.send(encode.tagged(tag, b"OK", "SUBSCRIBE completed"))


async def unsubscribe(connection: "ImapConnection", tag: bytes, command: c.Unsubscribe) -> None:
    """UNSUBSCRIBE"""
    account_id = connection.account_id
    await connection.context.store.write(account_id, mailboxes.unsubscribe, account_id, command.mailbox)
    connection.send(encode.tagged(tag, b"OK", "UNSUBSCRIBE completed"))


def pattern_of(reference: str, pattern: str) -> re.Pattern[str]:
    """What LIST's wildcards mean: `*` is anything, `%` anything within a level; INBOX in any case.

    Wildcards are joined first, so that no pattern makes the match slow.
    """
    # RFC 3501 §6.3.8: the reference is put before the pattern as it is.
    # DEVIATES RFC 3501 §5.1.3: names are in NFC, whatever a client spells: Apple Mail (decomposed, as macOS) and
    # Thunderbird (composed) would each make a mailbox of their own. So patterns are, too.
    whole = re.sub(r"[*%]*\*[*%]*", "*", unicodedata.normalize("NFC", reference + pattern))
    whole = re.sub(r"%+", "%", whole)
    if is_inbox(whole[:5]) and whole[5:6] in ("", DELIMITER, "*", "%"):
        whole = INBOX + whole[5:]
    # "*" may end where the piece behind it first fits; the last piece ends the name. Each piece is tried once, in an
    # atomic group: otherwise 20 wildcards would make a name of 8 kB take longer than anybody waits.
    *before, last = whole.split("*")
    pieces = [_piece(piece, is_last=False) for piece in before]
    end = (".*?" if pieces else "") + _piece(last, is_last=True)
    return re.compile("".join(f"(?>{'.*?' if at else ''}{one})" for at, one in enumerate(pieces)) + end, re.DOTALL)


def _piece(piece: str, *, is_last: bool) -> str:
    """A pattern without "*": within a level, too, the first place is right, but for the last "%" before the end."""
    first, *others = map(re.escape, piece.split("%"))
    if is_last and others:
        return first + "".join(f"(?>[^/]*?{one})" for one in others[:-1]) + "[^/]*" + others[-1]
    return first + "".join(f"(?>[^/]*?{one})" for one in others)


def _read_list(tx: Tx, account_id: int) -> tuple[list[Mailbox], set[str]]:
    return mailboxes.list_all(tx, account_id), mailboxes.subscriptions(tx, account_id)


async def list_(connection: "ImapConnection", tag: bytes, command: c.List) -> None:
    """LIST with the attributes of CHILDREN (RFC 3348) and SPECIAL-USE (RFC 6154)."""
    if c.StatusItem.HIGHESTMODSEQ in command.status_items:
        condstore.make_aware(connection)
    if command.patterns == ("",) and not command.is_extended:
        # RFC 3501 §6.3.8: an empty name asks for the delimiter
        connection.send(b'* LIST (\\Noselect) "/" ""\r\n')
        connection.send(encode.tagged(tag, b"OK", "LIST completed"))
        return
    if c.ListSelect.REMOTE in command.selection or c.ListSelect.RECURSIVEMATCH in command.selection:
        connection.send(encode.tagged(tag, b"BAD", "LIST-EXTENDED is not supported"))
        return
    account_id = connection.account_id
    found, subscribed = await connection.context.store.read(account_id, _read_list, account_id)
    patterns = [pattern_of(command.reference, pattern) for pattern in command.patterns]
    pace = Pace()
    for mailbox in found:
        await pace.turn()
        if not any(pattern.fullmatch(mailbox.path) for pattern in patterns):
            continue
        if c.ListSelect.SUBSCRIBED in command.selection and mailbox.path not in subscribed:
            continue
        use = _SPECIAL_USE.get(mailbox.role or "")
        if c.ListSelect.SPECIAL_USE in command.selection and use is None:
            continue
        attributes = ["\\HasChildren" if mailbox.has_children else "\\HasNoChildren"]
        attributes += [use] if use else []
        wants = (*command.returns, *command.selection)
        if mailbox.path in subscribed and (c.ListReturn.SUBSCRIBED in wants or c.ListSelect.SUBSCRIBED in wants):
            attributes.append("\\Subscribed")
        await connection.send_large(encode.list_response(mailbox.path, attributes))
        if command.status_items:
            values = _status_values(connection, mailbox, command.status_items)
            connection.send(encode.status_response(mailbox.path, values))
    connection.send(encode.tagged(tag, b"OK", "LIST completed"))


async def lsub(connection: "ImapConnection", tag: bytes, command: c.Lsub) -> None:
    """LSUB: subscribed names, those of removed mailboxes too, which are \\Noselect."""
    account_id = connection.account_id
    found, subscribed = await connection.context.store.read(account_id, _read_list, account_id)
    existing = {mailbox.path for mailbox in found}
    pattern = pattern_of(command.reference, command.pattern)
    told: set[str] = set()
    pace = Pace()
    for path in sorted(subscribed):
        await pace.turn()
        if pattern.fullmatch(path):
            told.add(path)
            attributes = [] if path in existing else ["\\Noselect"]
            await connection.send_large(encode.list_response(path, attributes, kind=b"LSUB"))
            continue
        # RFC 3501 §6.3.9: with "%", a name that is only above a subscribed one comes with \Noselect
        levels = path.split(DELIMITER)
        for depth in range(1, len(levels)):
            above = DELIMITER.join(levels[:depth])
            if above not in told and above not in subscribed and pattern.fullmatch(above):
                told.add(above)
                await connection.send_large(encode.list_response(above, ["\\Noselect"], kind=b"LSUB"))
    connection.send(encode.tagged(tag, b"OK", "LSUB completed"))


async def namespace(connection: "ImapConnection", tag: bytes, command: c.Namespace) -> None:
    """NAMESPACE: everything is the account's own. Source: RFC 2342 §5."""
    connection.send(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    connection.send(encode.tagged(tag, b"OK", "NAMESPACE completed"))
