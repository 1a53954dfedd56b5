"""What SEARCH reads of the messages of one slice: rows, headers and whole messages, each only when a key asks for it.

Positions (`at`) count from the beginning of the slice. What of a placement never changes is read for a whole chunk once
and kept with it as arrays (`Columns`); what several keys may ask for again is kept until the slice is done: header
cores, and which texts a message contains; at most 512 messages, 4 MiB of cores.
A message removed meanwhile is read from `removed` (INV-8: a command works on the view it began with). One that cannot
be read any more, because its retention is over or its bytes are damaged, is `lost`: it matches nothing, not even NOT.
Rows are read in steps with a snapshot each: message rows never change, and a uid is never used twice.
"""

import os
from array import array
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from pochta import log
from pochta.errors import Corrupt
from pochta.index.searcher import Searcher
from pochta.mime.parse import Part, Scanner, parse
from pochta.mime.searched import Read
from pochta.proto.imap.view import Slice
from pochta.servers.imap.search.text import Needle, find_in_message
from pochta.servers.pace import Pace
from pochta.store.blobs import Blobs, StoredBlob
from pochta.store.store import Store
from pochta.store.tx import Row, Tx

ROWS: Final = 64  # cores or days read at once: 0.5 ms
BLOB_ROWS: Final = 16  # messages or headers read at once: at most 1 MiB of inline bytes, 1 ms
PARSE_BYTES: Final = 16 * 1024  # parsed at once; of parts of a few octets each that takes 5 ms
SPAN_SHARE: Final = 8  # one row wanted in so many of a range: reading the range costs less than seeking each

DAY_S: Final = 86_400


Column = Mapping[int, int] | Sequence[int]
"""Numbers by position."""


class Columns(NamedTuple):
    """What placements tell, each column by position. `day` counts from 1970-01-01 in the internal date's own zone."""

    message_id: Column
    size: Column
    internal_date: Column
    day: Column
    saved_at: Column


class Mailbox(NamedTuple):
    """Where to read."""

    store: Store
    account_id: int
    mailbox_id: int
    searcher: Searcher | None = None  # the text index, asked before messages are read


class Facts:
    """The messages of one slice."""

    __slots__ = (
        "_columns",
        "_cores",
        "_mailbox",
        "_masks",
        "_needles",
        "_single",
        "flags",
        "lost",
        "pace",
        "part",
        "scores",
        "uids",
    )

    def __init__(self, mailbox: Mailbox, part: Slice, needles: Sequence[Needle], pace: Pace) -> None:
        self._mailbox = mailbox
        self._needles = needles
        self.part = part
        self.uids = part.uids
        self.flags = part.flags
        self.pace = pace
        self.lost: set[int] = set()
        self.scores: dict[int, int] = {}  # by position: how well fuzzy keys match, 1 to 100
        self._columns: Columns | None = None
        self._single: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})  # the columns, of a few messages
        self._cores: dict[int, bytes] = {}
        self._masks: dict[int, int] = {}

    async def columns(self, among: Collection[int]) -> Columns:
        """The columns, which hold at least those of `among` that are not lost. No read where the chunk has them."""
        if self._columns is not None:
            return self._columns
        facts = self.part.chunk.facts
        is_whole = len(self.uids) == len(self.part.chunk.uids)
        if is_whole and "day" not in facts and len(among) * SPAN_SHARE >= len(self.uids):
            await self._read_chunk(facts)
        if is_whole and "day" in facts:
            self._columns = Columns(*(facts[name] for name in Columns._fields))
            return self._columns
        single = Columns(*self._single)
        missing = {at for at in among if at not in single.message_id} - self.lost
        for table in ("placement", "removed"):
            if missing:
                await self._read_single(table, sorted(missing))
                missing -= self._single[0].keys()
        self.lost |= missing
        return single

    async def _read_chunk(self, facts: "dict[str, array[int]]") -> None:
        """Read the columns of all messages; nothing is kept when some were removed."""
        _, account_id, mailbox_id, _ = self._mailbox
        args = (account_id, mailbox_id, self.uids[0], self.uids[-1])
        rows = await self._mailbox.store.read(account_id, _read_span, *args)
        if len(rows) == len(self.uids):
            facts["message_id"] = array("q", [row[1] for row in rows])
            facts["size"] = array("q", [row[2] for row in rows])
            facts["internal_date"] = array("q", [row[3] for row in rows])
            facts["saved_at"] = array("q", [row[5] for row in rows])
            facts["day"] = array("i", [(row[3] + row[4] * 60) // DAY_S for row in rows])
        await self.pace.turn()

    async def _read_single(self, table: str, wanted: Sequence[int]) -> None:
        _, account_id, mailbox_id, _ = self._mailbox
        uids = self.uids
        read = self._mailbox.store.read
        if table == "placement" and len(wanted) * SPAN_SHARE >= wanted[-1] - wanted[0] + 1:
            rows = await read(account_id, _read_span, account_id, mailbox_id, uids[wanted[0]], uids[wanted[-1]])
        else:
            rows = await read(account_id, _read_some, table, account_id, mailbox_id, tuple(uids[at] for at in wanted))
        found = {row[0]: row for row in rows}
        for at in wanted:
            row = found.get(uids[at])
            if row is not None:
                values = (row[1], row[2], row[3], (row[3] + row[4] * 60) // DAY_S, row[5])
                for column, value in zip(self._single, values, strict=True):
                    column[at] = value
        await self.pace.turn()

    async def mod_seqs(self, among: Collection[int]) -> dict[int, int]:
        """The mod_seq of each of `among`, by position.

        Of a removed message it is 0: the number of the removal is not for those who were not told of it (INV-8).
        """
        if not among:
            return {}
        _, account_id, mailbox_id, _ = self._mailbox
        wanted = sorted(among)
        uids = tuple(self.uids[at] for at in wanted)
        rows = await self._mailbox.store.read(account_id, _read_mod_seqs, account_id, mailbox_id, uids)
        known: dict[int, int] = dict(rows)
        await self.pace.turn()
        return {at: known.get(uid, 0) for at, uid in zip(wanted, uids, strict=True)}

    async def sent_days(self, among: AbstractSet[int]) -> dict[int, int | None]:
        """The Date header's day of each of `among`, None without a readable date."""
        found: dict[int, int | None] = {}
        if len(among) * SPAN_SHARE >= len(self.uids):
            _, account_id, mailbox_id, _ = self._mailbox
            args = (account_id, mailbox_id, self.uids[0], self.uids[-1])
            known: dict[int, int | None] = dict(await self._mailbox.store.read(account_id, _read_sent_days, *args))
            found = {at: known[uid] for at, uid in enumerate(self.uids) if uid in known and at in among}
            await self.pace.turn()
        async for at, row in self._message_rows(_SENT_DAY, among - found.keys(), ROWS):
            found[at] = row[1]
        return found

    async def threads(self, among: Collection[int]) -> dict[int, int]:
        """The thread of each of `among` that is not lost."""
        return {at: row[1] async for at, row in self._message_rows(_THREAD, among, ROWS)}

    async def cores(self, among: Collection[int]) -> dict[int, bytes]:
        """At least the header cores of `among`."""
        missing = [at for at in among if at not in self._cores]
        async for at, row in self._message_rows(_CORE, missing, ROWS):
            self._cores[at] = row[1]
        return self._cores

    async def headers(self, among: Collection[int]) -> AsyncIterator[tuple[int, bytes]]:
        """(position, whole header) of each of `among`."""
        async for at, row in self._message_rows(_HEADER, among, BLOB_ROWS):
            try:
                with _Opened(self._mailbox.store.blobs, StoredBlob(*row[1:5])) as opened:
                    header = opened.read(0, row[5])
            except Corrupt as damage:
                self._lose(at, damage)
                continue
            yield at, header

    async def masks(self, among: Collection[int]) -> dict[int, int]:
        """At least for `among`: which needles the message contains, bit n for the n-th."""
        missing = [at for at in among if at not in self._masks]
        async for at, row in self._message_rows(_WHOLE, missing, BLOB_ROWS):
            try:
                self._masks[at] = await self._scan(StoredBlob(*row[1:5]))
            except Corrupt as damage:
                self._lose(at, damage)
        return self._masks

    async def _scan(self, blob: StoredBlob) -> int:
        with _Opened(self._mailbox.store.blobs, blob) as opened:
            root = await self._parsed(opened.read, blob)
            mask = 0
            for found in find_in_message(opened.read, root, self._needles):
                mask = found
                await self.pace.turn()
            return mask

    async def _parsed(self, read: Read, blob: StoredBlob) -> Part:
        if blob.inline is not None and blob.size <= PARSE_BYTES:
            return parse(blob.inline)
        scanner = Scanner(coalesce_bytes=PARSE_BYTES)
        for start in range(0, blob.size, PARSE_BYTES):
            scanner.feed(read(start, min(start + PARSE_BYTES, blob.size)))
            await self.pace.turn()
        return scanner.finish()

    async def _message_rows(self, sql: str, among: Collection[int], count: int) -> AsyncIterator[tuple[int, Row]]:
        """(position, row) for each of `among` that is not lost; rows, read `count` at a time, begin with the id."""
        message_ids = (await self.columns(among)).message_id
        wanted = sorted(at for at in among if at not in self.lost)
        for start in range(0, len(wanted), count):
            batch = wanted[start : start + count]
            ids = tuple(dict.fromkeys(message_ids[at] for at in batch))
            rows = await self._mailbox.store.read(
                self._mailbox.account_id, _read_messages, sql, self._mailbox.account_id, ids, count
            )
            by_id = {row[0]: row for row in rows}
            for at in batch:
                row = by_id.get(message_ids[at])
                if row is None:
                    self.lost.add(at)
                else:
                    yield at, row
            await self.pace.turn()

    def _lose(self, at: int, damage: Corrupt) -> None:
        """Pass over a message whose bytes are damaged: the others are still found."""
        self.lost.add(at)
        account_id, mailbox_id = self._mailbox.account_id, self._mailbox.mailbox_id
        log.event("imap.search.damaged", account=account_id, mailbox=mailbox_id, uid=self.uids[at], detail=str(damage))


class _Opened:
    """A blob's bytes, to be read here and there; a file stays open meanwhile."""

    __slots__ = ("_blob", "_blobs", "_fd")

    def __init__(self, store_blobs: Blobs, blob: StoredBlob) -> None:
        if (blob.inline is None) == (blob.file is None):
            raise Corrupt("blob", blob.id)
        self._blobs = store_blobs
        self._blob = blob
        self._fd = -1

    def __enter__(self) -> "_Opened":
        if self._blob.file is not None:
            self._fd = self._blobs.open_file(self._blob.file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, start: int, stop: int) -> bytes:
        """The octets `start <= n < stop`.

        Raises:
            Corrupt: there are not so many.
        """
        data = (
            self._blob.inline[start:stop] if self._blob.inline is not None else os.pread(self._fd, stop - start, start)
        )
        if len(data) != stop - start:
            raise Corrupt("blob", self._blob.id)
        return data


_PLACED: Final = "SELECT uid, message_id, size, internal_date, zone_minutes, saved_at FROM"
_SENT_DAY: Final = "SELECT id, sent_day FROM message m"
_THREAD: Final = "SELECT id, thread_id FROM message m"
_CORE: Final = "SELECT id, header_core FROM message m"
# the id first, then the fields of StoredBlob; of a header only as much as it is long
_HEADER: Final = (
    "SELECT m.id, b.id, b.size, substr(i.bytes, 1, CAST(m.header_size AS INTEGER)), b.file, m.header_size"
    " FROM message m LEFT JOIN blob b ON b.id = m.blob_id LEFT JOIN blob_inline i ON i.blob_id = b.id"
)
_WHOLE: Final = (
    "SELECT m.id, b.id, b.size, i.bytes, b.file FROM message m"
    " LEFT JOIN blob b ON b.id = m.blob_id LEFT JOIN blob_inline i ON i.blob_id = b.id"
)


def _read_span(tx: Tx, account_id: int, mailbox_id: int, first: int, last: int) -> list[Row]:
    return tx.rows(
        f"{_PLACED} placement WHERE account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ? ORDER BY uid",
        (account_id, mailbox_id, first, last),
    )


def _read_sent_days(tx: Tx, account_id: int, mailbox_id: int, first: int, last: int) -> list[Row]:
    return tx.rows(
        "SELECT p.uid, m.sent_day FROM placement p CROSS JOIN message m WHERE p.account_id = ? AND p.mailbox_id = ?"
        " AND p.uid BETWEEN ? AND ? AND m.account_id = p.account_id AND m.id = p.message_id",
        (account_id, mailbox_id, first, last),
    )


def _read_some(tx: Tx, table: str, account_id: int, mailbox_id: int, uids: tuple[int, ...]) -> list[Row]:
    rows: list[Row] = []
    for start in range(0, len(uids), ROWS):
        part = _padded(uids[start : start + ROWS], ROWS)
        rows += tx.rows(
            f"{_PLACED} {table} WHERE account_id = ? AND mailbox_id = ? AND uid IN ({_marks(part)})",
            (account_id, mailbox_id, *part),
        )
    return rows


def _read_mod_seqs(tx: Tx, account_id: int, mailbox_id: int, uids: tuple[int, ...]) -> list[Row]:
    """(uid, mod_seq) of those that are there; others between them may come along."""
    in_mailbox = "SELECT uid, mod_seq FROM placement WHERE account_id = ? AND mailbox_id = ?"
    if len(uids) * SPAN_SHARE >= uids[-1] - uids[0] + 1:
        return tx.rows(f"{in_mailbox} AND uid BETWEEN ? AND ?", (account_id, mailbox_id, uids[0], uids[-1]))
    rows: list[Row] = []
    for start in range(0, len(uids), ROWS):
        part = _padded(uids[start : start + ROWS], ROWS)
        rows += tx.rows(f"{in_mailbox} AND uid IN ({_marks(part)})", (account_id, mailbox_id, *part))
    return rows


def _read_messages(tx: Tx, sql: str, account_id: int, ids: tuple[int, ...], count: int) -> list[Row]:
    part = _padded(ids, count)
    return tx.rows(f"{sql} WHERE m.account_id = ? AND m.id IN ({_marks(part)})", (account_id, *part))


def _padded(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The numbers with the last one repeated, so that few lengths of IN lists stay prepared."""
    length = 4 if len(numbers) <= 4 else count
    return numbers + numbers[-1:] * (length - len(numbers))


def _marks(numbers: tuple[int, ...]) -> str:
    return ", ".join("?" * len(numbers))
