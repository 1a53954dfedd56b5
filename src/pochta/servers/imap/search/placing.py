"""Where the messages stand that the text index names: message ids become positions in the slices of a view.

A chunk of a view keeps the message ids of its messages once they were read (`Chunk.facts`). They stay true: a uid names
one message for ever, and a chunk with other uids is another. Flags, removals and new mail change nothing of it, nor
does who reads. With them a hit costs 0.05 us, without them 1.3 us, because its placement is looked up; so they are read
when what is named is not few. `views.MESSAGE_BYTES` counts them, read or not (INV-7).

A message that was removed is found as long as it is kept (`facts`); later its id is unknown, and it matches nothing.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import lt
from typing import Final

from pochta.index.reader import Answer
from pochta.index.searcher import Found
from pochta.proto.imap.view import Chunk, Slice, Snapshot
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.sort.columns import run
from pochta.servers.pace import Pace
from pochta.store.tx import Row, Tx

IDS: Final = 500  # looked for at once: 0.7 ms
READ_MIN: Final = 2000  # ids of a mailbox that are read whatever is named: 0.3 ms
# one message of so many is named: all ids are read, 0.16 us each. A lookup costs as much as eight of them, and what is
# read serves the next questions too.
READ_SHARE: Final = 32
LATER_MAX: Final = 2000  # not indexed yet: looked at wherever in the account they stand; of more, all ids are read
IDS_A_STEP: Final = 10_000  # put into a set at once: 0.5 ms
SPARSE_SHARE: Final = 8  # one message of so many in a chunk is wanted: each is looked for, instead of looking at all

_IDS: Final = "message_id"
_RISING: Final = "message_id rises"  # a 1 where it does, else a 0

Positions = Mapping[int, Sequence[int]]
"""Positions in slices, rising, by the sequence number of a slice's first message; a slice without any is not named."""


@dataclass(frozen=True, slots=True)
class Known:
    """Messages that match, and those that have to be looked into. All others do not match."""

    sure: Positions
    maybe: Positions
    maybe_count: int


async def place(mailbox: Mailbox, snapshot: Snapshot, found: Found) -> list[Known]:
    """The answers of the index, told in positions of the snapshot. Messages that came later are among `maybe`."""
    placing = _Placing(mailbox, snapshot, found)
    to_read = sum([len(chunk.uids) for chunk in snapshot.chunks if _IDS not in chunk.facts])
    named = sum(len(ids) for answer in found.answers for ids in answer)
    is_few = to_read > READ_MIN + READ_SHARE * named
    if is_few:
        later = await mailbox.store.read(mailbox.account_id, _count_later, mailbox.account_id, found.last_id)
        is_few = later <= LATER_MAX
    return await (placing.by_lookups(named) if is_few else placing.by_ids())


class _Answered:
    """One answer on its way to `Known`."""

    __slots__ = ("_sets", "answer", "maybe", "maybe_count", "sure")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._sets: dict[int, set[int]] = {}
        self.sure: dict[int, Sequence[int]] = {}
        self.maybe: dict[int, Sequence[int]] = {}
        self.maybe_count = 0

    def take(self, seq: int, sure: Sequence[int], maybe: Sequence[int]) -> None:
        if sure:
            self.sure[seq] = array("H", sure)
        if maybe:
            self.maybe[seq] = array("H", maybe)
            self.maybe_count += len(maybe)

    async def set_of(self, number: int) -> set[int]:
        """The ids of one part of the answer, as a set."""
        made = self._sets.get(number)
        if made is None:
            made = self._sets[number] = await run(_set_of, len(self.answer[number]), self.answer[number])
        return made

    @property
    def known(self) -> Known:
        return Known(self.sure, self.maybe, self.maybe_count)


class _Placing:
    """Answers about messages of the account, told in positions of a mailbox."""

    __slots__ = ("_answered", "_args", "_last_id", "_pace", "_read", "_snapshot", "_whose")

    def __init__(self, mailbox: Mailbox, snapshot: Snapshot, found: Found) -> None:
        self._read = mailbox.store.read
        self._whose = mailbox.account_id
        self._args = (mailbox.account_id, mailbox.mailbox_id)
        self._snapshot = snapshot
        self._last_id = found.last_id
        self._answered = [_Answered(answer) for answer in found.answers]
        self._pace = Pace()

    async def by_ids(self) -> list[Known]:
        """By the ids of all messages of the snapshot; those that are not known are read first."""
        unkept: dict[int, array[int]] = {}
        for part in [part for part in self._snapshot.slices() if _IDS not in part.chunk.facts]:
            ids, is_whole = await self._read(self._whose, _read_ids, *self._args, part.chunk.uids)
            if is_whole:
                part.chunk.facts[_IDS] = ids
            else:
                unkept[part.seq] = ids
            await self._pace.turn()
        for part in self._snapshot.slices():
            kept = part.chunk.facts.get(_IDS)
            if kept is not None and _is_rising(part.chunk, kept):
                self._match_rising(part.seq, kept)
            else:
                await self._match(part.seq, unkept[part.seq] if kept is None else kept)
            await self._pace.turn()
        return [one.known for one in self._answered]

    def _match_rising(self, seq: int, ids: "array[int]") -> None:
        later: Sequence[int] = ()
        if ids[-1] > self._last_id:
            later = range(bisect_right(ids, self._last_id), len(ids))
        for one in self._answered:
            sure, maybe = (_positions(ids, wanted) for wanted in one.answer)
            one.take(seq, sure, [*maybe, *later] if later else maybe)

    async def _match(self, seq: int, ids: "array[int]") -> None:
        later = [at for at, one in enumerate(ids) if one > self._last_id] if max(ids) > self._last_id else []
        everywhere = range(len(ids))
        for one in self._answered:
            sure = list(compress(everywhere, map((await one.set_of(0)).__contains__, ids)))
            maybe = list(compress(everywhere, map((await one.set_of(1)).__contains__, ids)))
            one.take(seq, sure, sorted(maybe + later))

    async def by_lookups(self, named: int) -> list[Known]:
        """By the placements of the messages that are named, and of those that came after the last one indexed."""
        ids = await run(_united, named, [one.answer for one in self._answered])
        tables = ["placement", "removed"] if await self._read(self._whose, _has_removed, *self._args) else ["placement"]
        by_uid: dict[int, int] = {}
        for table in tables:
            for start in range(0, len(ids), IDS):
                named_ids = tuple(ids[start : start + IDS])
                rows = await self._read(self._whose, _read_some, table, *self._args, named_ids)
                by_uid.update([(uid, one) for one, uid in rows])
                await self._pace.turn()
            after = (self._last_id, 1 << 32)
            while rows := await self._read(self._whose, _read_later, table, *self._args, *after):
                by_uid.update([(uid, one) for one, uid in rows])
                after = rows[-1]
                await self._pace.turn()
        uids = await run(_sorted, len(by_uid), by_uid)
        for part, found in self._within(uids):
            here = [by_uid[part.chunk.uids[at]] for at in found]
            for one in self._answered:
                sure, maybe = await one.set_of(0), await one.set_of(1)
                doubtful = [at for at, id in zip(found, here, strict=True) if id in maybe or id > self._last_id]
                one.take(part.seq, [at for at, id in zip(found, here, strict=True) if id in sure], doubtful)
            await self._pace.turn()
        return [one.known for one in self._answered]

    def _within(self, uids: "array[int]") -> Iterable[tuple[Slice, list[int]]]:
        """The slices in which some of the uids, which rise, stand, with their positions."""
        for part, here in self._snapshot.holding(uids):
            found = _positions(part.chunk.uids, here)
            if found:
                yield part, found


def _is_rising(chunk: Chunk, ids: "array[int]") -> bool:
    """Whether the ids of a chunk rise, each standing once; found out once."""
    known = chunk.facts.get(_RISING)
    if known is None:
        known = chunk.facts[_RISING] = array("b", (all(map(lt, ids, ids[1:])),))
    return bool(known[0])


def _set_of(ids: "array[int]") -> set[int]:
    """The ids, taken over in steps: one call must not hold the interpreter for long (INV-12)."""
    found: set[int] = set()
    for start in range(0, len(ids), IDS_A_STEP):
        found.update(ids[start : start + IDS_A_STEP])
    return found


def _positions(numbers: "array[int]", wanted: "array[int]") -> list[int]:
    """Where in `numbers` the wanted ones stand; both rise, none is twice in `numbers`."""
    lowest, highest = numbers[0], numbers[-1]
    first = bisect_left(wanted, lowest)
    here = wanted[first : bisect_right(wanted, highest, first)]
    if not here:
        return []
    if highest - lowest == len(numbers) - 1:
        return [one - lowest for one in here]
    if len(here) * SPARSE_SHARE < len(numbers):
        places = [bisect_left(numbers, one) for one in here]
        return [at for at, one in zip(places, here, strict=True) if numbers[at] == one]
    return list(compress(range(len(numbers)), map(set(here).__contains__, numbers)))


def _united(answers: Iterable[Answer]) -> list[int]:
    return sorted({*chain.from_iterable(chain(*answers))})


def _sorted(uids: Collection[int]) -> "array[int]":
    return array("I", sorted(uids))


def _count_later(tx: Tx, account_id: int, last_id: int) -> int:
    """How many messages, at most, are not indexed."""
    row = tx.row("SELECT next_id FROM account WHERE id = ?", (account_id,))
    return 0 if row is None else int(row[0]) - 1 - last_id


def _has_removed(tx: Tx, account_id: int, mailbox_id: int) -> bool:
    row = tx.row("SELECT 1 FROM removed WHERE account_id = ? AND mailbox_id = ? LIMIT 1", (account_id, mailbox_id))
    return row is not None


_SPAN: Final = "WHERE account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ?"


def _read_ids(tx: Tx, account_id: int, mailbox_id: int, uids: "array[int]") -> "tuple[array[int], bool]":
    """The message of each uid, and whether all are known; one that is not is 0."""
    args = (account_id, mailbox_id, uids[0], uids[-1])
    rows = tx.rows(f"SELECT message_id FROM placement {_SPAN} ORDER BY uid", args)
    if len(rows) == len(uids):  # no uid comes in between, so they are these
        return array("q", [row[0] for row in rows]), True
    known: dict[int, int] = {}
    for table in ("removed", "placement"):
        known.update([(row[0], row[1]) for row in tx.rows(f"SELECT uid, message_id FROM {table} {_SPAN}", args)])
    ids = array("q", [known.get(uid, 0) for uid in uids])
    return ids, 0 not in ids


# `+ 0`: the mailbox must not choose the index, that of messages holds all columns asked for
def _read_some(tx: Tx, table: str, account_id: int, mailbox_id: int, ids: tuple[int, ...]) -> list[Row]:
    part = ids + ids[-1:] * (IDS - len(ids) if len(ids) > 4 else 4 - len(ids))
    marks = ", ".join("?" * len(part))
    return tx.rows(
        f"SELECT message_id, uid FROM {table} WHERE account_id = ? AND mailbox_id + 0 = ? AND message_id IN ({marks})",
        (account_id, mailbox_id, *part),
    )


def _read_later(tx: Tx, table: str, account_id: int, mailbox_id: int, after_id: int, after_uid: int) -> list[Row]:
    return tx.rows(
        f"SELECT message_id, uid FROM {table} WHERE account_id = ? AND mailbox_id + 0 = ?"
        " AND (message_id, uid) > (?, ?) ORDER BY message_id, uid LIMIT ?",
        (account_id, mailbox_id, after_id, after_uid, IDS),
    )
