"""FETCH. Source: RFC 3501 §6.4.5 and §7.4.2, RFC 7162 §3.1.4.

What is asked decides how much is read: UID and FLAGS come from the session's snapshot; dates, sizes, ENVELOPE,
BODYSTRUCTURE and the usual header fields from rows, up to a chunk of the view at a time, as finished bytes put together
by one format; only other sections open the message (`sections`). No object and no await for each message but there.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pochta.errors import TryLater
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.commands import BinarySection, BodySection, FetchAttribute, FetchItem
from pochta.proto.imap.fetch import VANISHED_NEEDS
from pochta.proto.imap.search_return import PartialRange
from pochta.proto.imap.view import Slice
from pochta.servers.imap import condstore, message_limit, qresync, telling
from pochta.servers.imap.fetch import lines, sections
from pochta.servers.imap.fetch import rows as fetch_rows
from pochta.servers.imap.fetch.plan import Plan, differs_in_rev2, has_incomplete_core, opening, plan
from pochta.servers.imap.messages import select_slices, set_flags
from pochta.servers.imap.selected import Selected, steps_of, uid_ranges
from pochta.servers.pace import Pace
from pochta.store import changes, flags
from pochta.store.changes import UidRange
from pochta.store.placements import FlagMode
from pochta.store.rights import Right
from pochta.store.tx import Row

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_SNAPSHOT_ITEMS: Final = frozenset({FetchAttribute.UID, FetchAttribute.FLAGS})
# What a message keeps as long as it has its UID, in at most 150 bytes altogether and without a line break
_UNCHANGING_ITEMS: Final = frozenset(
    {FetchAttribute.INTERNALDATE, FetchAttribute.RFC822_SIZE, FetchAttribute.EMAILID, FetchAttribute.SAVEDATE}
)


async def fetch(connection: "ImapConnection", tag: bytes, command: c.Fetch) -> None:
    """FETCH and UID FETCH."""
    selected = connection.selected
    assert selected is not None
    if command.with_vanished and not connection.modes.qresync:
        connection.send(encode.tagged(tag, b"BAD", VANISHED_NEEDS))
        return
    if FetchAttribute.MODSEQ in command.items:
        condstore.make_aware(connection)
    if command.with_vanished:
        await qresync.tell_vanished(connection, selected, command)
    parts = select_slices(await selected.snapshot(), command.seq_set, is_uid=command.is_uid)
    if parts is None:
        connection.send(encode.tagged(tag, b"BAD", "There is no message of that number"))
        return
    if command.partial is not None:
        parts = some_of(parts, command.partial)
        # RFC 9738 §3.1: more than the limit from a range is refused
        message_limit.refuse_range(connection, sum(part.stop - part.start for part in parts))
    items, since = telling.asked_items(connection.modes, command), command.changed_since
    sets_seen = any(isinstance(item, BodySection | BinarySection) and not item.is_peek for item in items)
    if since is not None:
        parts = await condstore.narrowed(connection, selected, parts, since)
        if sets_seen:
            parts = await condstore.exactly_changed(connection, selected, parts, since)
            since = None
    parts, limit_code = message_limit.limited(connection, parts)
    ranges = uid_ranges(parts)
    if sets_seen and await _set_seen(connection, selected, parts):
        items = _with(items, FetchAttribute.FLAGS)  # RFC 3501 §6.4.5: flags that change SHOULD be told
        if connection.modes.condstore:
            items = _with(items, *telling.changed_items(connection.modes))
    if (FetchAttribute.FLAGS in items or FetchAttribute.MODSEQ in items) and not await selected.is_unchanged():
        items = _with(items, FetchAttribute.FLAGS)  # no mod_seq without the flags that it stands for
        # What the client was not told of has a larger mod_seq than it was told, and so is in the answer
        if since is None or since <= selected.told_mod_seq:
            await selected.learn_all(ranges)
    missing = await _respond(connection, selected, ranges, items, since)
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    if missing:
        text = "Some messages cannot be read"
        message_limit.answer(connection, tag, text, limit_code, status=b"NO", code=missing)
    else:
        message_limit.answer(connection, tag, "FETCH completed", limit_code)


async def tell_new(
    connection: "ImapConnection", selected: Selected, ranges: Sequence[UidRange], items: tuple[FetchItem, ...]
) -> None:
    """The responses of a FETCH that nobody sent, of messages that have come. Source: RFC 5465 §5.2."""
    parts = list((await selected.snapshot()).by_uid(ranges))
    if not parts:
        return
    if any(isinstance(item, BodySection | BinarySection) and not item.is_peek for item in items):
        await _set_seen(connection, selected, parts)
    modes = connection.modes
    if telling.needs_uid_item(modes, with_uid=False):
        items = _with((), FetchAttribute.UID, *items)
    if modes.condstore:
        items = _with(items, *telling.changed_items(modes))  # RFC 7162 §3.2.4
    # what was removed since is left out
    await _respond(connection, selected, uid_ranges(parts), items, None)


def some_of(parts: list[Slice], partial: PartialRange) -> list[Slice]:
    """Those messages of the slices that stand in the range, first or last of all. Source: RFC 9394 §3.3."""
    start, stop = partial.bounds(sum(part.stop - part.start for part in parts))
    found: list[Slice] = []
    before = 0
    for part in parts:
        length = part.stop - part.start
        low, high = max(start - before, 0), min(stop - before, length)
        if low < high:
            found.append(part._replace(start=part.start + low, stop=part.start + high, seq=part.seq + low))
        before += length
    return found


def _with(items: tuple[FetchItem, ...], *more: FetchItem) -> tuple[FetchItem, ...]:
    return tuple(dict.fromkeys((*items, *more)))


# RFC 5530 §3: why messages are left out of the answer; see `sections` for other reasons
_GONE: Final = b"EXPUNGEISSUED"


async def _set_seen(connection: "ImapConnection", selected: Selected, parts: list[Slice]) -> bool:
    # RFC 4314 §4: who may not keep \\Seen reads all the same
    if selected.is_read_only or Right.KEEP_SEEN not in selected.standing.rights:
        return False
    # as the store has them: another session may have taken \Seen away without this one having been told
    now = await connection.context.views.current(selected.view)
    unseen: list[Slice] = []
    pace = Pace()
    for part in now.by_uid(uid_ranges(parts)):
        if any(not bits & flags.SEEN for bits in part.flags):
            unseen.append(part)
        await pace.turn()
    # TryLater: the disk is full; mail is read all the same, and stays unseen
    with suppress(TryLater):
        for ranges in steps_of(unseen, changes.UIDS_PER_STEP):
            await set_flags(connection, selected, ranges, FlagMode.ADD, flags.SEEN, ())
    return bool(unseen)


def _kept_plans(items: Sequence[FetchItem]) -> tuple[Plan, Plan] | None:
    """The plans of what the view has and of what never changes, where that is all that is asked."""
    unchanging = [item for item in items if item not in _SNAPSHOT_ITEMS]
    if not unchanging or not _UNCHANGING_ITEMS.issuperset(unchanging):
        return None
    return plan([item for item in items if item in _SNAPSHOT_ITEMS]), plan(unchanging)


async def _respond(
    connection: "ImapConnection",
    selected: Selected,
    ranges: Sequence[tuple[int, int]],
    items: tuple[FetchItem, ...],
    since: int | None,
) -> bytes:
    """Send the responses, `since`: of messages with a larger mod_seq; why some are left out, as a response code."""
    pace = Pace()
    snapshot = await selected.snapshot()
    if FetchAttribute.FLAGS in items and set(items) <= _SNAPSHOT_ITEMS:
        for part in snapshot.by_uid(ranges):
            await connection.send_large(
                await telling.flag_lines(selected, part, connection.modes, with_uid=FetchAttribute.UID in items)
            )
            await pace.turn()
        return b""
    steps = plan(items)
    missing = b""
    kept_plans = _kept_plans(items) if since is None else None
    for left in snapshot.by_uid(ranges):
        kept = None if kept_plans is None else await lines.kept_lines(connection, selected, left, *kept_plans)
        if kept is not None:
            await connection.send_large(kept)
            await pace.turn()
            continue
        while left.start < left.stop:
            part, rows = await fetch_rows.read(connection, selected, left, steps.sql_columns, since)
            unread = b""
            if has_incomplete_core(steps, rows) or (connection.modes.rev2 and differs_in_rev2(steps, rows)):
                opened = opening(steps)
                part, rows = await fetch_rows.read(connection, selected, part, opened.sql_columns, since)
                unread = await _send_opened(connection, selected, part, opened, rows)
            elif steps.opened:
                unread = await _send_opened(connection, selected, part, steps, rows)
            else:
                await connection.send_large(await lines.row_lines(selected, part, steps, rows, connection.modes))
            if len(rows) < part.stop - part.start and since is None:
                missing = missing or _GONE
            missing = unread or missing
            left = left._replace(start=part.stop, seq=part.seq + part.stop - part.start)
            await pace.turn()
    return missing


async def _send_opened(
    connection: "ImapConnection", selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row]
) -> bytes:
    """Responses with sections for which each message is opened; why some could not be read, as a response code."""
    forms, values = await lines.values_of(selected, part, steps, rows)
    connection.send(selected.keyword_news())
    form = b" ".join(forms)
    heads = [form % row for row in zip(*values, strict=True)] if values else [b""] * len(rows)
    at = 1 + steps.sql_columns.index("m.blob_id")
    numbers = lines.numbers_of(part, rows, connection.modes)
    wanted = [sections.Wanted(numbers[n], heads[n], row[at], row[at + 1], row[at + 2]) for n, row in enumerate(rows)]
    return await sections.send(connection, selected.account_id, wanted, steps.opened)
