"""The steps of a planned search: each takes the messages of a slice that can still match and gives those that do.

A step reads as little as it can and no message twice; what it costs decides in which order a plan takes it. Positions
count from the beginning of the slice. A `lost` message (`facts`) matches nothing; whoever asks takes it away.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Final, Protocol

from pochta.mime.core import FieldSelection, select_fields
from pochta.mime.header import split_fields
from pochta.mime.searched import FIELD_BYTES, field_text, value_texts
from pochta.servers.imap.search.facts import Column, Facts
from pochta.servers.pace import Pace

Places = AbstractSet[int]
"""Positions in a slice; never changed by whom they are given to."""


class Cost(IntEnum):
    """What a key reads, cheapest first."""

    ARRAYS = 0
    PLACEMENT = 1
    MESSAGE = 2
    CORE = 3
    HEADER = 4
    TEXT = 5


class Step(Protocol):
    """A planned key."""

    @property
    def cost(self) -> Cost:
        """The dearest thing it reads."""

    async def match(self, facts: Facts, among: Places) -> Places:
        """The positions of `among` that match; a lost one may be among them."""


@dataclass(frozen=True, slots=True)
class All:
    """ALL"""

    cost: Cost = Cost.ARRAYS

    async def match(self, facts: Facts, among: Places) -> Places:
        return among


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag or keyword; `bits` is 0 for a keyword that nobody has used."""

    bits: int
    is_set: bool
    cost: Cost = Cost.ARRAYS

    async def match(self, facts: Facts, among: Places) -> Places:
        bits, flags = self.bits, facts.flags
        if self.is_set:
            return {at for at in among if flags[at] & bits}
        return {at for at in among if not flags[at] & bits}


@dataclass(frozen=True, slots=True)
class Range:
    """Sequence numbers or uids in `ranges` (rising, no overlap)."""

    ranges: Sequence[tuple[int, int]]
    is_uid: bool
    cost: Cost = Cost.ARRAYS

    async def match(self, facts: Facts, among: Places) -> Places:
        uids, seq = facts.uids, facts.part.seq
        lowest, highest = (uids[0], uids[-1]) if self.is_uid else (seq, seq + len(uids) - 1)
        found: set[int] = set()
        for index in range(bisect_left(self.ranges, lowest, key=_last_of), len(self.ranges)):
            first, last = self.ranges[index]
            if first > highest:
                break
            if first <= lowest and last >= highest:
                return among
            if self.is_uid:
                found.update(range(bisect_left(uids, first), bisect_left(uids, last + 1)))
            else:
                found.update(range(max(first - seq, 0), min(last - seq + 1, len(uids))))
        return found & among


def _last_of(one: tuple[int, int]) -> int:
    return one[1]


@dataclass(frozen=True, slots=True)
class Between:
    """A number of the placement that is `low` or more and less than `high`: size, days, moments."""

    column: str  # a field of Columns
    low: int
    high: int
    cost: Cost = Cost.PLACEMENT

    async def match(self, facts: Facts, among: Places) -> Places:
        column: Column = getattr(await facts.columns(among), self.column)
        low, high = self.low, self.high
        if not facts.lost:
            return {at for at in among if low <= column[at] < high}
        return {at for at in among - facts.lost if low <= column[at] < high}


@dataclass(frozen=True, slots=True)
class ModSeq:
    """MODSEQ: that number or a larger one; `changed`: where such messages can be, by the log of changes."""

    mod_seq: int
    changed: Range | None
    cost: Cost = Cost.PLACEMENT

    async def match(self, facts: Facts, among: Places) -> Places:
        if self.changed is not None:
            among = await self.changed.match(facts, among)
        mod_seqs = await facts.mod_seqs(among)
        return {at for at in among if mod_seqs[at] >= self.mod_seq}


@dataclass(frozen=True, slots=True)
class Sent:
    """The Date header's day, `low` or later and before `high`; a message without one is never between."""

    low: int
    high: int
    cost: Cost = Cost.MESSAGE

    async def match(self, facts: Facts, among: Places) -> Places:
        days = await facts.sent_days(among)
        return {at for at, day in days.items() if day is not None and self.low <= day < self.high}


@dataclass(frozen=True, slots=True)
class MessageId:
    """The message with that id (EMAILID)."""

    message_id: int
    cost: Cost = Cost.PLACEMENT

    async def match(self, facts: Facts, among: Places) -> Places:
        column = (await facts.columns(among)).message_id
        return {at for at in among - facts.lost if column[at] == self.message_id}


@dataclass(frozen=True, slots=True)
class Thread:
    """The messages of the thread with that id (THREADID)."""

    thread_id: int
    cost: Cost = Cost.MESSAGE

    async def match(self, facts: Facts, among: Places) -> Places:
        threads = await facts.threads(among)
        return {at for at, thread_id in threads.items() if thread_id == self.thread_id}


@dataclass(frozen=True, slots=True)
class CoreHeader:
    """A header field that header cores hold."""

    name: bytes
    folded: str
    selection: FieldSelection
    cost: Cost = Cost.CORE

    async def match(self, facts: Facts, among: Places) -> Places:
        cores = await facts.cores(among)
        found: set[int] = set()
        incomplete: set[int] = set()
        for at in among - facts.lost:
            lines = select_fields(cores[at], self.selection)
            if lines is None:
                incomplete.add(at)
            elif await _contains(lines, self.name, self.folded, facts.pace):
                found.add(at)
        if incomplete:
            found |= await Header(self.name, self.folded).match(facts, incomplete)
        return found


@dataclass(frozen=True, slots=True)
class Header:
    """Any header field, from the message's own bytes."""

    name: bytes
    folded: str
    cost: Cost = Cost.HEADER

    async def match(self, facts: Facts, among: Places) -> Places:
        return {
            at
            async for at, header in facts.headers(among)
            if await _contains(header, self.name, self.folded, facts.pace)
        }


async def _contains(header: bytes, name: bytes, folded: str, pace: Pace) -> bool:
    """Whether a field `name` (lower case) of the header contains the folded text; with "", whether there is one."""
    if pace.is_over:
        await pace.turn()
    for _, field_name, value in split_fields(header):
        if field_name.lower() != name:
            continue
        if len(value) <= FIELD_BYTES:
            if folded in field_text(value):
                return True
            if pace.is_over:
                await pace.turn()
            continue
        for text in value_texts(value, len(folded)):
            if folded in text:
                return True
            await pace.turn()
    return False


@dataclass(frozen=True, slots=True)
class Text:
    """BODY or TEXT with the needle of that number."""

    number: int
    cost: Cost = Cost.TEXT

    async def match(self, facts: Facts, among: Places) -> Places:
        masks = await facts.masks(among)
        return {at for at in among - facts.lost if masks[at] >> self.number & 1}


_cost_of: Final = attrgetter("cost")


class Not:
    """NOT"""

    __slots__ = ("_step", "cost")

    def __init__(self, step: Step) -> None:
        self._step = step
        self.cost: Cost = step.cost

    async def match(self, facts: Facts, among: Places) -> Places:
        return among - await self._step.match(facts, among)


class And:
    """All of the steps, cheapest first; the next one sees only what the ones before left."""

    __slots__ = ("cost", "steps")

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = sorted(steps, key=_cost_of)
        self.cost: Cost = self.steps[-1].cost

    async def match(self, facts: Facts, among: Places) -> Places:
        for step in self.steps:
            if not among:
                break
            among = await step.match(facts, among)
            await facts.pace.turn()
        return among


class Or:
    """Any of the steps, cheapest first; the next one sees only what the ones before did not find."""

    __slots__ = ("cost", "steps")

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = sorted(steps, key=_cost_of)
        self.cost: Cost = self.steps[-1].cost

    async def match(self, facts: Facts, among: Places) -> Places:
        found: set[int] = set()
        for step in self.steps:
            rest = among - found
            if not rest:
                break
            found |= await step.match(facts, rest)
            await facts.pace.turn()
        return found
