"""FETCH. Source: RFC 3501 §6.4.5 and §7.4.2, RFC 7162 §3.1.4.

What is asked decides how much is read: UID and FLAGS come from the session's snapshot; dates, sizes, ENVELOPE,
BODYSTRUCTURE and the usual header fields from rows, up to a chunk of the view at a time, as finished bytes put together
by one format; only other sections open the message (`sections`). No object and no await for each message but there.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pochta.errors import TryLater
from pochta.mime import describe
from pochta.mime.core import INCOMPLETE, FieldSelection, select_fields
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.commands import BinarySection, BodySection, FetchAttribute, FetchItem, SectionKind
from pochta.proto.imap.dates import encode_internal_date
from pochta.proto.imap.fetch import VANISHED_NEEDS
from pochta.proto.imap.search_return import PartialRange
from pochta.proto.imap.view import Slice
from pochta.servers.imap import condstore, message_limit, object_ids, qresync, telling
from pochta.servers.imap.fetch import sections
from pochta.servers.imap.messages import select_slices, set_flags
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.selected import Selected, steps_of, uid_ranges
from pochta.servers.pace import Pace
from pochta.store import changes, flags, placements
from pochta.store.changes import UidRange
from pochta.store.placements import FlagMode
from pochta.store.rights import Right
from pochta.store.tx import Row, Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

# Rows of usual mail take 1 KiB each; ENVELOPE and BODYSTRUCTURE of one hostile message take up to a megabyte each
ROWS_MAX_BYTES: Final = 2 * 1024 * 1024
# RFC 8970 §3.3: 200 characters; 256, as many as are stored, only where another protocol asks
PREVIEW_MAX_CHARS: Final = 200

_SNAPSHOT_ITEMS: Final = frozenset({FetchAttribute.UID, FetchAttribute.FLAGS})
# What a message keeps as long as it has its UID, in at most 150 bytes altogether and without a line break
_UNCHANGING_ITEMS: Final = frozenset(
    {FetchAttribute.INTERNALDATE, FetchAttribute.RFC822_SIZE, FetchAttribute.EMAILID, FetchAttribute.SAVEDATE}
)


class _Column(NamedTuple):
    """An item that rows answer: its place in the format, the SQL columns it takes."""

    form: bytes
    sql: tuple[str, ...]


_COLUMNS: Final = {
    FetchAttribute.UID: _Column(b"UID %d", ()),
    FetchAttribute.FLAGS: _Column(b"FLAGS (%b)", ()),
    FetchAttribute.INTERNALDATE: _Column(b"INTERNALDATE %b", ("p.internal_date", "p.zone_minutes")),
    FetchAttribute.RFC822_SIZE: _Column(b"RFC822.SIZE %d", ("p.size",)),
    FetchAttribute.ENVELOPE: _Column(b"ENVELOPE %b", ("m.envelope",)),
    FetchAttribute.BODYSTRUCTURE: _Column(b"BODYSTRUCTURE %b", ("m.body_structure",)),
    FetchAttribute.MODSEQ: _Column(b"MODSEQ (%d)", ("p.mod_seq",)),
    FetchAttribute.EMAILID: _Column(b"EMAILID (%b)", ("p.message_id",)),
    FetchAttribute.THREADID: _Column(b"THREADID (%b)", ("m.thread_id",)),
    FetchAttribute.SAVEDATE: _Column(b"SAVEDATE %b", ("p.saved_at",)),
    FetchAttribute.PREVIEW: _Column(b"PREVIEW %b", ("m.preview",)),
}


_OPENED_COLUMNS: Final = ("m.blob_id", "m.size", "m.header_size")  # side by side, as `sections.Wanted` has them


class Plan(NamedTuple):
    """How a FETCH is carried out: items that rows answer, with their SQL, and sections that need the message."""

    items: tuple[FetchAttribute | BodySection, ...]
    sql_columns: tuple[str, ...]
    selections: dict[BodySection, FieldSelection]  # header fields that `header_core` holds
    opened: tuple[FetchItem, ...]  # sections, and BODY, for which the message is opened


def plan(items: Sequence[FetchItem]) -> Plan:
    """The plan for the items of a command."""
    row_items: list[FetchAttribute | BodySection] = []
    opened: list[FetchItem] = []
    selections: dict[BodySection, FieldSelection] = {}
    sql: list[str] = []
    for item in items:
        if isinstance(item, BodySection):
            is_core = item.kind is SectionKind.HEADER_FIELDS and not item.part and item.partial is None
            selection = FieldSelection.from_names(item.fields) if is_core else None
            if selection is None:
                opened.append(item)
            else:
                selections[item] = selection
                row_items.append(item)
                sql.append("m.header_core")
        elif isinstance(item, BinarySection) or item is FetchAttribute.BODY:
            opened.append(item)
        else:
            row_items.append(item)
            sql.extend(_COLUMNS[item].sql)
    if FetchAttribute.MODSEQ in items and FetchAttribute.FLAGS in items:
        sql.append("p.flags")  # of the same row as the mod_seq (condstore.py)
    if opened:
        sql += _OPENED_COLUMNS
    return Plan(tuple(row_items), tuple(dict.fromkeys(sql)), selections, tuple(opened))


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
    changing = plan([item for item in items if item in _SNAPSHOT_ITEMS])
    unchanging = plan([item for item in items if item not in _SNAPSHOT_ITEMS])
    is_kept = since is None and bool(unchanging.items) and _UNCHANGING_ITEMS.issuperset(unchanging.items)
    is_kept = is_kept and not unchanging.opened
    for left in snapshot.by_uid(ranges):
        if is_kept and (lines := await _kept_lines(connection, selected, left, changing, unchanging)) is not None:
            await connection.send_large(lines)
            await pace.turn()
            continue
        while left.start < left.stop:
            part, rows = await _rows(connection, selected, left, steps.sql_columns, since)
            unread = b""
            if _has_incomplete_core(steps, rows) or (connection.modes.rev2 and _differs_in_rev2(steps, rows)):
                opening = _opening(steps)
                part, rows = await _rows(connection, selected, part, opening.sql_columns, since)
                unread = await _send_opened(connection, selected, part, opening, rows)
            elif steps.opened:
                unread = await _send_opened(connection, selected, part, steps, rows)
            else:
                await connection.send_large(await _row_lines(selected, part, steps, rows, connection.modes))
            if len(rows) < part.stop - part.start and since is None:
                missing = missing or _GONE
            missing = unread or missing
            left = left._replace(start=part.stop, seq=part.seq + part.stop - part.start)
            await pace.turn()
    return missing


async def _rows(
    connection: "ImapConnection", selected: Selected, part: Slice, columns: tuple[str, ...], since: int | None
) -> tuple[Slice, list[Row]]:
    """(uid, *columns) of the slice's messages, rising; those of removed ones too while they are kept.

    Of a slice with very much in its rows only the beginning: the first value is the part that was read. With `since`,
    removed messages are left out: the client hears of their end.
    """
    if not columns:
        return part, [(uid,) for uid in part.uids]
    first, last = part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]
    args = (selected.account_id, selected.mailbox_id, first, last)
    read = connection.context.store.read
    rows, has_more = await read(
        selected.account_id, _read_rows, "placement", columns, *args, since, selected.standing.seen_by
    )
    if has_more:
        part = _up_to(part, rows[-1][0])
    if len(rows) == part.stop - part.start:
        return part, rows
    uids = set(part.uids)
    if since is not None:
        return part, [row for row in rows if row[0] in uids]
    # INV-8: a command works on the view it began with
    gone, has_more = await read(selected.account_id, _read_rows, "removed", columns, *args, None)
    if has_more:
        part = _up_to(part, gone[-1][0])
        uids = set(part.uids)
    if "p.mod_seq" in columns:
        # what stands there is the mod_seq of the removal, of which the client was not told
        at = 1 + columns.index("p.mod_seq")
        gone = [(*row[:at], selected.told_mod_seq, *row[at + 1 :]) for row in gone]
    if "p.flags" in columns:
        # and the flags are the owner's: to its reader a message looks as it did
        at, known = 1 + columns.index("p.flags"), dict(zip(part.uids, part.flags, strict=True))
        gone = [(*row[:at], known.get(row[0], row[at]), *row[at + 1 :]) for row in gone]
    return part, sorted((row for row in (*rows, *gone) if row[0] in uids), key=_uid_of)


def _up_to(part: Slice, uid: int) -> Slice:
    """The beginning of the slice, up to `uid`."""
    return part._replace(stop=bisect_right(part.chunk.uids, uid, part.start, part.stop))


def _uid_of(row: Row) -> int:
    uid: int = row[0]
    return uid


def _read_rows(
    tx: Tx,
    table: str,
    columns: tuple[str, ...],
    account_id: int,
    mailbox_id: int,
    first: int,
    last: int,
    since: int | None,
    seen_by: int = 0,
) -> tuple[list[Row], bool]:
    if seen_by and "p.flags" in columns:
        return _read_rows_of_reader(tx, columns, account_id, mailbox_id, first, last, since, seen_by)
    is_joined = any(column.startswith("m.") for column in columns)
    join = " JOIN message m ON m.account_id = p.account_id AND m.id = p.message_id" if is_joined else ""
    sql = (
        f"SELECT p.uid, {', '.join(columns)} FROM {table} p{join}"
        " WHERE p.account_id = ? AND p.mailbox_id = ? AND p.uid BETWEEN ? AND ?"
        f"{'' if since is None else ' AND p.mod_seq > ?'} ORDER BY p.uid"
    )
    args = (account_id, mailbox_id, first, last, *(() if since is None else (since,)))
    return tx.rows_within(sql, args, ROWS_MAX_BYTES) if is_joined else (tx.rows(sql, args), False)


def _read_rows_of_reader(
    tx: Tx,
    columns: tuple[str, ...],
    account_id: int,
    mailbox_id: int,
    first: int,
    last: int,
    since: int | None,
    seen_by: int,
) -> tuple[list[Row], bool]:
    """As `_read_rows`, with \\Seen as the reader has it in place of the stored one."""
    rows, has_more = _read_rows(tx, "placement", columns, account_id, mailbox_id, first, last, since)
    merged: dict[int, int] = (
        dict(placements.flags_of(tx, account_id, mailbox_id, [(first, last)], seen_by)) if rows else {}
    )
    at = 1 + columns.index("p.flags")
    return [(*row[:at], merged[row[0]], *row[at + 1 :]) for row in rows], has_more


async def _values(
    selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row]
) -> tuple[list[bytes], list[Sequence[int | bytes]]]:
    """The forms of the plan's items and, for each place in them, the column of values."""
    index = {name: at for at, name in enumerate(steps.sql_columns, 1)}
    is_whole = len(rows) == part.stop - part.start
    forms: list[bytes] = []
    values: list[Sequence[int | bytes]] = []
    for item in steps.items:
        if isinstance(item, BodySection):
            selection = steps.selections[item]
            at = index["m.header_core"]
            found = [select_fields(row[at], selection) for row in rows]
            # `None`: the header was too large for a core; such a message is opened by `sections`
            texts = [b"" if one is None else one for one in found]
            forms.append(item.label.replace(b"%", b"%%") + b" {%d}\r\n%b")
            values += [[len(text) for text in texts], texts]
            continue
        forms.append(_COLUMNS[item].form)
        if item is FetchAttribute.UID:
            values.append(part.uids if is_whole else [row[0] for row in rows])
        elif item is FetchAttribute.FLAGS:
            values.append(await _shown_flags(selected, part, rows, index.get("p.flags", 0)))
        elif item is FetchAttribute.INTERNALDATE:
            at, zone_at = index["p.internal_date"], index["p.zone_minutes"]
            values.append([encode_internal_date(row[at], row[zone_at]) for row in rows])
        elif item is FetchAttribute.MODSEQ and "p.flags" not in index:
            # what changes while the answer is on its way has flags that are not in it: they are told by `sync`
            at, told = index["p.mod_seq"], selected.told_mod_seq
            values.append([min(row[at], told) for row in rows])
        else:
            at = index[_COLUMNS[item].sql[0]]
            show = _shown_as(item, selected.account_id)
            values.append([row[at] for row in rows] if show is None else [show(row[at]) for row in rows])
    return forms, values


def _shown_as(item: FetchAttribute, account_id: int) -> Callable[[Any], bytes] | None:  # Any: a value of the row
    """How the item's column is written; None: as it is."""
    if item is FetchAttribute.EMAILID:
        return lambda number: object_ids.email_id(account_id, number)
    if item is FetchAttribute.THREADID:
        return lambda number: object_ids.thread_id(account_id, number)
    if item is FetchAttribute.SAVEDATE:
        return lambda at: encode_internal_date(at, 0)
    # RFC 8970 §3.3: UTF-8; beyond ASCII a literal, which every client reads
    return _shown_preview if item is FetchAttribute.PREVIEW else None


def _shown_preview(preview: str) -> bytes:
    return encode.string(preview[:PREVIEW_MAX_CHARS].rstrip().encode("utf-8"))


async def _shown_flags(selected: Selected, part: Slice, rows: Sequence[Row], at: int) -> list[bytes]:
    """The flags of each row: from its column `at`, or, where that is 0, from the view."""
    if not rows:
        return []
    if at:
        return await selected.shown_flags([row[0] for row in rows], [row[at] for row in rows])
    shown = await selected.shown_flags(part.uids, part.flags)
    if len(rows) == part.stop - part.start:
        return shown
    by_uid = dict(zip(part.uids, shown, strict=True))
    return [by_uid[row[0]] for row in rows]


async def _row_lines(selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row], modes: Modes) -> bytes:
    """The response lines of a slice that rows alone answer. About 1 us a message besides the rows."""
    forms, values = await _values(selected, part, steps, rows)
    form = telling.fetch_head(modes) + b" ".join(forms) + b")\r\n"
    lines = b"".join([form % row for row in zip(_numbers(part, rows, modes), *values, strict=True)])
    return selected.keyword_news() + lines


async def _kept_lines(
    connection: "ImapConnection", selected: Selected, part: Slice, changing: Plan, unchanging: Plan
) -> bytes | None:
    """The response lines of a slice, of items that never change and, before them, UID and FLAGS of the view.

    What never changes is kept as text with the chunk once a whole chunk is asked for; None where it is not there.
    About 0.4 us a message.
    """
    kept = part.chunk.texts.get(unchanging.items)
    if kept is None:
        if part.stop - part.start < len(part.chunk.uids):
            return None
        kept = await _unchanging_text(connection, selected, part, unchanging)
        if kept is None:
            return None
        part.chunk.texts.clear()
        part.chunk.texts[unchanging.items] = kept
    texts = kept.split(b"\n")[part.start : part.stop]
    forms, values = await _values(selected, part, changing, [(uid,) for uid in part.uids])
    form = telling.fetch_head(connection.modes) + b" ".join([*forms, b"%b)\r\n"])
    numbered = telling.numbers(connection.modes, part)
    return selected.keyword_news() + b"".join([form % row for row in zip(numbered, *values, texts, strict=True)])


async def _unchanging_text(connection: "ImapConnection", selected: Selected, part: Slice, steps: Plan) -> bytes | None:
    """A line for each message of the slice with the plan's items; None where a message is gone."""
    part, rows = await _rows(connection, selected, part, steps.sql_columns, None)
    if len(rows) < part.stop - part.start:
        return None
    forms, values = await _values(selected, part, steps, rows)
    form = b" ".join(forms)
    return b"\n".join([form % row for row in zip(*values, strict=True)])


def _opening(steps: Plan) -> Plan:
    """The plan with every section, and the structure, read from the message: where the rows are not enough."""
    opened = [item for item in steps.items if isinstance(item, BodySection) or item is FetchAttribute.BODYSTRUCTURE]
    return steps._replace(
        items=tuple(item for item in steps.items if item not in opened),
        opened=(*steps.opened, *opened),
        sql_columns=tuple(dict.fromkeys((*steps.sql_columns, *_OPENED_COLUMNS))),
    )


def _has_incomplete_core(steps: Plan, rows: Sequence[Row]) -> bool:
    """Whether a header was too large for its core."""
    if not steps.selections:
        return False
    at = 1 + steps.sql_columns.index("m.header_core")
    return any(row[at] == INCOMPLETE for row in rows)


def _differs_in_rev2(steps: Plan, rows: Sequence[Row]) -> bool:
    if FetchAttribute.BODYSTRUCTURE not in steps.items:
        return False
    at = 1 + steps.sql_columns.index("m.body_structure")
    return any(describe.GLOBAL_MARK in row[at] for row in rows)


def _numbers(part: Slice, rows: Sequence[Row], modes: Modes) -> Sequence[int]:
    if len(rows) == part.stop - part.start:
        return telling.numbers(modes, part)
    if modes.uidonly:
        return [row[0] for row in rows]
    by_uid = {uid: seq for seq, uid in enumerate(part.uids, part.seq)}
    return [by_uid[row[0]] for row in rows]


async def _send_opened(
    connection: "ImapConnection", selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row]
) -> bytes:
    """Responses with sections for which each message is opened; why some could not be read, as a response code."""
    forms, values = await _values(selected, part, steps, rows)
    connection.send(selected.keyword_news())
    form = b" ".join(forms)
    heads = [form % row for row in zip(*values, strict=True)] if values else [b""] * len(rows)
    at = 1 + steps.sql_columns.index("m.blob_id")
    numbers = _numbers(part, rows, connection.modes)
    wanted = [sections.Wanted(numbers[n], heads[n], row[at], row[at + 1], row[at + 2]) for n, row in enumerate(rows)]
    return await sections.send(connection, selected.account_id, wanted, steps.opened)
