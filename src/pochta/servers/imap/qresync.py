"""QRESYNC: what a client that comes back is told when it selects a mailbox, and UID FETCH with VANISHED.

Everything is taken from the change log, in the transaction that opens the mailbox, so that HIGHESTMODSEQ, EXISTS and
the changes are of one moment. The snapshot of the mailbox is not read for that: sequence numbers of some changed
messages are counted in the table. Where the log does not reach back, or tells too much for one step, the snapshot
decides: known UIDs that are not there have vanished (RFC 7162 §3.2.6).

Source: RFC 7162 §3.2.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta.proto.imap import commands as c
from pochta.proto.imap.resync import Resync
from pochta.proto.imap.seqset import SeqSet
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap import condstore, telling
from pochta.servers.imap.selected import COMPARED_INLINE_MAX, Selected, without_ranges
from pochta.servers.pace import Pace
from pochta.store import access, changes, placements
from pochta.store.access import Opened
from pochta.store.changes import UidRange
from pochta.store.mailboxes import Mailbox
from pochta.store.rights import Right
from pochta.store.tx import Row, Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

CHANGED_INLINE_MAX: Final = 400  # messages whose flags are read with the mailbox; 2 us each
COUNTED_MAX: Final = 200_000  # messages of a mailbox in which numbers are counted in one read: 0.02 us each


class News(NamedTuple):
    """What has changed since the client was last there; None: more than the log, or one step, can tell."""

    removed: Sequence[UidRange] | None
    changed: Sequence[UidRange] | None
    rows: Sequence[Row] | None  # (uid, flags, mod_seq) of what is there of `changed`


def _known(known: SeqSet | None, last_uid: int) -> tuple[UidRange, ...]:
    """The UIDs that the client asks about. RFC 7162 §3.2.5.1: all there ever were, when it does not say."""
    if known is None:
        return ((1, last_uid),) if last_uid else ()
    return known.normalised(last_uid)


def open_returning(tx: Tx, reader_id: int, name: str, right: Right, resync: Resync) -> tuple[Opened, News | None]:
    """As `access.open_selectable`, with what is new to the client; None when it knows another mailbox."""
    opened = access.open_selectable(tx, reader_id, name, right)
    mailbox = opened.mailbox
    if mailbox.uid_validity != resync.uid_validity:
        return opened, None
    known = _known(resync.known_uids, mailbox.uid_next - 1)
    return opened, _news(tx, opened, known, resync.mod_seq)


def _news(tx: Tx, opened: Opened, known: Sequence[UidRange], since: int) -> News:
    account_id, mailbox_id = opened.account_id, opened.mailbox.id
    if opened.mailbox.mod_seq <= since:
        return News((), (), ())
    logged = condstore.logged_since(tx, account_id, mailbox_id, since)
    if logged is None:
        return News(None, None, None)
    removed = changes.common_ranges(known, logged.removed)
    changed = changes.common_ranges(known, logged.changed)
    if len(changed) > condstore.LOG_MAX_RANGES or sum(last - first + 1 for first, last in changed) > CHANGED_INLINE_MAX:
        return News(removed, changed, None)
    rows = placements.mod_seqs_of(tx, account_id, mailbox_id, changed, opened.standing.seen_by)
    return News(removed, changed, [row for row in rows if row[2] > since])


async def tell_news(
    connection: "ImapConnection", selected: Selected, mailbox: Mailbox, resync: Resync, news: News
) -> None:
    """VANISHED (EARLIER) and FETCH responses, behind those that every SELECT has. Source: RFC 7162 §3.2.5."""
    known = _known(resync.known_uids, mailbox.uid_next - 1)
    gone = news.removed
    if gone is None:
        gone = await _not_there(await selected.snapshot(), known)
    if gone and resync.known_pairs is not None:
        # RFC 7162 §3.2.5.2: nothing before a pair that holds
        snapshot = await selected.snapshot()
        gone = changes.common_ranges(gone, [(resync.known_pairs.last_match(snapshot.seq_of) + 1, mailbox.uid_next)])
    for line in telling.vanished_earlier(gone):
        await connection.send_large(line)
    if news.rows is None:
        await _tell_changed(connection, selected, known if news.changed is None else news.changed, resync.mod_seq)
        # what is told by now may be newer than HIGHESTMODSEQ: then all of it is told
        await connection.sync(may_expunge=True)
    elif news.rows:
        numbered = await _numbers(connection, selected, mailbox, [row[0] for row in news.rows])
        await connection.send_large(await telling.changed_rows(selected, numbered, news.rows, connection.modes))


async def _not_there(snapshot: Snapshot, known: Sequence[UidRange]) -> list[UidRange]:
    """The known UIDs that the snapshot does not hold; of a large mailbox in a thread (INV-12)."""
    if snapshot.count > COMPARED_INLINE_MAX:
        return await asyncio.to_thread(_holes, snapshot, known)
    return _holes(snapshot, known)


def _holes(snapshot: Snapshot, known: Sequence[UidRange]) -> list[UidRange]:
    there = changes.merge_ranges(one for part in snapshot.slices() for one in changes.ranges_of(part.uids))
    return without_ranges(known, there)


async def _tell_changed(
    connection: "ImapConnection", selected: Selected, ranges: Sequence[UidRange], since: int
) -> None:
    """The flags of the messages of `ranges` that have changed since, a part of the view at a time."""
    snapshot, account_id = await selected.snapshot(), selected.account_id
    pace = Pace()
    for part in snapshot.by_uid(ranges):
        asked = ((part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]),)
        args = (account_id, selected.mailbox_id, asked, selected.view.seen_by)
        rows = await connection.context.store.read(account_id, placements.mod_seqs_of, *args)
        numbers = dict(zip(part.uids, range(part.seq, part.seq + part.stop - part.start), strict=True))
        told = [row for row in rows if row[2] > since and row[0] in numbers]
        numbered = [numbers[row[0]] for row in told]
        await connection.send_large(await telling.changed_rows(selected, numbered, told, connection.modes))
        await pace.turn()


async def _numbers(
    connection: "ImapConnection", selected: Selected, mailbox: Mailbox, uids: Sequence[int]
) -> Sequence[int]:
    """The sequence numbers of some messages: from a view that this worker holds, else counted in the table."""
    if connection.modes.uidonly:
        return uids
    if selected.view.snapshot is None and mailbox.message_count <= COUNTED_MAX:
        args = (selected.account_id, mailbox.id, mailbox.mod_seq, mailbox.message_count, tuple(uids))
        counted = await connection.context.store.read(selected.account_id, _count_numbers, *args)
        if counted is not None:
            return counted
    snapshot = await selected.snapshot()
    return [snapshot.seq_of(uid) for uid in uids]


def _count_numbers(
    tx: Tx, account_id: int, mailbox_id: int, mod_seq: int, message_count: int, uids: Sequence[int]
) -> list[int] | None:
    """The sequence numbers of messages of the mailbox, uids rising; None when it has changed since `mod_seq`.

    Counted from both ends up to the widest gap between two of them, which is not read: new messages, the usual change,
    stand at the end.
    """
    row = tx.row("SELECT mod_seq FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id))
    if row is None or row[0] != mod_seq:
        return None
    borders = [0, *uids, 1 << 32]
    widest = max(range(len(borders) - 1), key=lambda at: borders[at + 1] - borders[at])
    numbers = [0] * len(uids)
    seq = 0
    for at in range(widest):
        seq += placements.count(tx, account_id, mailbox_id, borders[at] + 1, borders[at + 1])
        numbers[at] = seq
    seq = message_count
    for at in range(len(uids) - 1, widest - 1, -1):
        seq -= placements.count(tx, account_id, mailbox_id, uids[at] + 1, borders[at + 2] - 1)
        numbers[at] = seq
        seq -= 1
    return numbers


async def tell_vanished(connection: "ImapConnection", selected: Selected, command: c.Fetch) -> None:
    """VANISHED (EARLIER) of UID FETCH: those of its set that were removed since. Source: RFC 7162 §3.2.6."""
    assert command.changed_since is not None
    # what the client takes to be there is told as it always is, and not here (RFC 7162 §3.2.10)
    await connection.sync(may_expunge=True)
    snapshot = await selected.snapshot()
    last_uid = max(snapshot.last_uid, selected.uid_next - 1)
    asked = command.seq_set.normalised(last_uid)
    args = (selected.account_id, selected.mailbox_id, command.changed_since)
    logged = await connection.context.store.read(selected.account_id, condstore.logged_since, *args)
    gone = asked if logged is None else changes.common_ranges(asked, logged.removed)
    for line in telling.vanished_earlier(await _not_there(snapshot, gone) if gone else ()):
        await connection.send_large(line)
