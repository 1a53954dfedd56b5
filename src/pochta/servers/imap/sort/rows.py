"""What SORT and THREAD read of messages: one value for each uid, whether the message is still there or was removed.

Nothing that is read here ever changes for a uid, so that it is read once. Large reads go in slices on one snapshot.
"""

import sys
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pochta.mime.ancestry import ancestry
from pochta.mime.core import FieldSelection, select_fields
from pochta.mime.display import display_from, display_to
from pochta.mime.header import first_values, split_fields
from pochta.mime.subject import is_reply
from pochta.proto.imap.sort import Criterion, casemap
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.pace import Pace
from pochta.store.changes import UidRange, ranges_of
from pochta.store.tx import Row, Tx

INLINE_MAX: Final = 200  # uids read on the spot: 1 ms
INLINE_MAX_RANGES: Final = 32
MADE_AT_ONCE: Final = 250  # values made of columns between two looks at the clock: 1 ms

_FIELDS: Final = FieldSelection.from_names((b"message-id", b"references", b"in-reply-to", b"subject"))
_NAMES: Final = frozenset((b"message-id", b"references", b"in-reply-to", b"subject"))
_OF_UIDS: Final = " WHERE p.account_id = ? AND p.mailbox_id = ? AND p.uid BETWEEN ? AND ?"
_MESSAGE: Final = " CROSS JOIN message m", " AND m.account_id = p.account_id AND m.id = p.message_id"


class Ancestries(NamedTuple):
    """What THREAD asks of messages, one after the other; as `thread.Ancestry`, and whether each is a reply."""

    own: "array[int]"
    ids: "array[int]"
    ends: "array[int]"
    is_reply: bytearray


class Source(NamedTuple):
    """Where a value is read (`p`: the placement, `m`: the message), and what is made of it."""

    expression: str
    made: "Callable[[Any], Any] | None" = None  # Any: what the column holds


def _display_from(envelope: bytes) -> str:
    return casemap(display_from(envelope))


def _display_to(envelope: bytes) -> str:
    return casemap(display_to(envelope))


SOURCES: Final[Mapping[Criterion, Source]] = {
    Criterion.ARRIVAL: Source("p.internal_date"),
    Criterion.SIZE: Source("p.size"),
    # RFC 5256 §2.2: the internal date where there is no Date header, or none that can be read
    Criterion.DATE: Source("coalesce(m.sent_at, p.internal_date)"),
    Criterion.SUBJECT: Source("m.base_subject", casemap),
    Criterion.FROM: Source("m.from_key", casemap),
    Criterion.TO: Source("m.to_key", casemap),
    Criterion.CC: Source("m.cc_key", casemap),
    Criterion.DISPLAYFROM: Source("m.envelope", _display_from),
    Criterion.DISPLAYTO: Source("m.envelope", _display_to),
}
"""Every criterion that is a fact of the message; RELEVANCY is one of the search."""

NUMBERS: Final = frozenset((Criterion.ARRIVAL, Criterion.SIZE, Criterion.DATE))
"""The criteria whose values are numbers; those of the others are texts."""


def _or_empty(packed: bytes | None) -> bytes:
    return packed or b""


ANCESTRY: Final = Source("m.refs", _or_empty)
"""`mime.ancestry`; empty where a message was stored before there was one (`older_ancestries`)."""


async def older_ancestries(mailbox: Mailbox, uids: "array[int]") -> list[bytes]:
    """The ancestries of messages that were stored without, from their headers."""
    [found] = await read_columns(mailbox, uids, [Source("m.header_core", _ancestry_of_core)])
    return [bytes(9) if one is None else one for one in found]


def _ancestry_of_core(core: bytes) -> bytes:
    """The ancestry of a message that was stored before there was one; of a header too large for its core: none."""
    assert _FIELDS is not None
    values = first_values(split_fields(select_fields(core, _FIELDS) or b""), _NAMES)
    ids = [values.get(name, b"") for name in (b"message-id", b"references", b"in-reply-to")]
    return ancestry(*ids, is_reply=is_reply(values.get(b"subject", b"")))


def add_ancestries(known: Ancestries, packed: Iterable[bytes]) -> None:
    """Add messages behind those that are known. 0.4 us each."""
    own, ids, ends, marks = known
    swaps = sys.byteorder == "little"
    for one in packed:
        hashes = array("q", one[:-1])
        if swaps:
            hashes.byteswap()
        own.append(hashes[0])
        if len(hashes) > 1:
            ids += hashes[1:]
        ends.append(len(ids))
        marks.append(one[-1])


async def read_columns(mailbox: Mailbox, uids: "array[int]", sources: Sequence[Source]) -> list[list[Any]]:
    """For each source (Any: numbers, texts or bytes), the value of each of the rising uids.

    None stands where nobody has the message any more. One pass: 1 us a message, and as much for each text.
    """
    found, columns = await _read_table(mailbox, "placement", uids, sources)
    if found == uids:
        return columns
    places = {uid: place for place, uid in enumerate(found)}
    missing = array("I", [uid for uid in uids if uid not in places])
    if missing:
        # INV-8: a session that was not told of a removal still sorts the message
        removed, more = await _read_table(mailbox, "removed", missing, sources)
        places.update((uid, place) for place, uid in enumerate(removed, len(found)))
        for column, others in zip(columns, more, strict=True):
            column += others
    for column in columns:
        column.append(None)
    return [[column[places.get(uid, -1)] for uid in uids] for column in columns]


async def _read_table(
    mailbox: Mailbox, table: str, uids: "array[int]", sources: Sequence[Source]
) -> tuple["array[int]", list[list[Any]]]:
    """(uids, columns) as far as the table has them, and perhaps of uids in between."""
    found = array("I")
    columns: list[list[Any]] = [[] for _ in sources]
    pace = Pace()
    async for rows in _slices(mailbox, _statement(table, sources), uids):
        found.extend([row[0] for row in rows])
        for at, (column, source) in enumerate(zip(columns, sources, strict=True), 1):
            made = source.made
            if made is None:
                column += [row[at] for row in rows]
                continue
            for start in range(0, len(rows), MADE_AT_ONCE):
                column += [made(row[at]) for row in rows[start : start + MADE_AT_ONCE]]
                await pace.turn()
    return found, columns


def _statement(table: str, sources: Sequence[Source]) -> str:
    wanted = ", ".join(source.expression for source in sources)
    join, on = _MESSAGE if "m." in wanted else ("", "")
    return f"SELECT p.uid, {wanted} FROM {table} p{join}{_OF_UIDS}{on} ORDER BY p.uid"


async def _slices(mailbox: Mailbox, sql: str, uids: "array[int]") -> AsyncIterator[list[Row]]:
    """The rows in lists of at most SLICE_ROWS."""
    store, account_id, mailbox_id = mailbox.store, mailbox.account_id, mailbox.mailbox_id
    ranges = ranges_of(uids)
    if len(uids) <= INLINE_MAX and len(ranges) <= INLINE_MAX_RANGES:
        yield await store.read(account_id, _read_ranges, sql, account_id, mailbox_id, tuple(ranges))
        return
    async with store.snapshot(account_id) as snapshot:
        async for rows in snapshot.slices(sql, (account_id, mailbox_id, uids[0], uids[-1])):
            yield rows


def _read_ranges(tx: Tx, sql: str, account_id: int, mailbox_id: int, ranges: Sequence[UidRange]) -> list[Row]:
    rows: list[Row] = []
    for first, last in ranges:
        rows += tx.rows(sql, (account_id, mailbox_id, first, last))
    return rows
