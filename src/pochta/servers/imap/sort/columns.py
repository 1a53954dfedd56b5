"""What a worker keeps of a mailbox for SORT and THREAD: its values as columns, orders once made, answers once given.

Theory of operation. A *place* is an index into the columns, which rise by uid. Values never change, so new messages
are read and put behind, and removed ones stay until they are too many: sessions that were not told of a removal still
sort them. An order (all places, sorted by some criteria) takes new places in where they belong. What a session asks of
is its snapshot: `members` are the places of its messages, `seqs` their numbers. Answers are kept for the messages that
were asked for last.

INV-7: the columns of all mailboxes of a worker share what `Views` leaves of its memory, and the least used are dropped.
"""

import asyncio
from array import array
from bisect import bisect_left, bisect_right, insort_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, TypeVarTuple

from pochta.proto.imap.sort import Criterion, SortKey, sort_places
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.sort.rows import (
    ANCESTRY,
    NUMBERS,
    SOURCES,
    Ancestries,
    add_ancestries,
    older_ancestries,
    read_columns,
)

ORDERS_MAX: Final = 8  # of one mailbox, 4 bytes a message each; clients offer half a dozen
ANSWERS_MAX: Final = 4  # of one mailbox, 6 bytes a message each; every session that opens it asks the same
INSERTED_MAX: Final = 100  # new messages put into an order one by one, 20 us each; of more it is made anew
APPENDED_MAX: Final = 2000  # new messages put behind the others at once; with more the columns are read anew
COLUMNS_BYTES: Final = 3000  # of a mailbox without messages
INLINE_MAX: Final = 2000  # messages sorted or threaded on the spot: 2 ms; more in a thread
LEFTOVERS_MIN: Final = 1000  # removed messages that stay in the columns in any case
STALE_SHARE: Final = 2  # as many removed messages as one in so many of the present ones may stay
TEXT_BYTES: Final = 57  # of a text besides its characters, and its place in a column

_COMPARED_AT_ONCE: Final = 5000  # uids; a block without a difference is compared as memory
_NO_ANCESTRY: Final = bytes(9)

Args = TypeVarTuple("Args")
R = TypeVar("R")


class _Descending:
    """A value whose order is reversed."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:  # Any: a number or a text, as in the column
        self.value = value

    def __lt__(self, other: "_Descending") -> bool:
        less: bool = other.value < self.value
        return less

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]  # only compared


class Columns:
    """One mailbox; used by one command at a time (`MailboxColumns.of`)."""

    __slots__ = (
        "_mailbox",
        "_seqs",
        "_text_bytes",
        "ancestries",
        "answers",
        "asked",
        "lock",
        "lost",
        "members",
        "orders",
        "uids",
        "values",
    )

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.lock = asyncio.Lock()
        self._reset(array("I"))

    def _reset(self, uids: "array[int]") -> None:
        self.uids = uids
        self.lost: set[int] = set()  # places of messages that nobody has any more
        self.values: dict[Criterion, Any] = {}  # Any: array[int] or list[str]
        self._text_bytes = 0
        self.ancestries: Ancestries | None = None
        self.orders: OrderedDict[tuple[SortKey, ...], array[int]] = OrderedDict()
        self._ask(uids, range(len(uids)))

    def _ask(self, uids: "array[int]", members: Sequence[int]) -> None:
        self.asked = uids
        self.members = members
        self.answers: OrderedDict[Hashable, bytes] = OrderedDict()
        self._seqs: Sequence[int] | None = range(1, len(uids) + 1) if len(uids) == len(self.uids) else None

    @property
    def seqs(self) -> Sequence[int]:
        """The sequence numbers of the members, by place; 0 where there is none. Slow the first time."""
        if self._seqs is None:
            seqs = array("I", bytes(4 * len(self.uids)))
            for seq, place in enumerate(self.members, 1):
                seqs[place] = seq
            self._seqs = seqs
        return self._seqs

    @property
    def memory_bytes(self) -> int:
        """What is kept, about."""
        numbers = sum(8 * len(column) for column in self.values.values()) + 8 * len(self.uids)
        family = 0 if self.ancestries is None else 13 * len(self.uids) + 8 * len(self.ancestries.ids)
        orders = 4 * len(self.uids) * len(self.orders)
        answers = sum(map(len, self.answers.values()))
        return COLUMNS_BYTES + numbers + family + orders + self._text_bytes + answers

    async def look_at(self, snapshot: Snapshot) -> None:
        """Make these messages the members; what is new is read for every column there is."""
        uids = array("I")
        for chunk in snapshot.chunks:
            uids.extend(chunk.uids)
        if uids == self.asked:
            return
        members, earlier, new = await run(_compared, len(uids), uids, self.uids)
        leftovers = len(self.uids) - len(members)
        if leftovers > len(uids) // STALE_SHARE + LEFTOVERS_MIN or (len(new) > APPENDED_MAX and not earlier):
            self._reset(uids)
            return
        if earlier:
            # a session that knows messages which were removed before the columns were made
            both = await run(_united, len(uids), uids, self.uids)
            members, _, _ = await run(_compared, len(uids), uids, both)
            self._reset(both)
        elif new:
            first = len(self.uids)
            await self._append(new)
            members.extend(range(first, len(self.uids)))
        self._ask(uids, members)

    async def _append(self, new: "array[int]") -> None:
        """Put messages behind the others. All is read before anything changes: a read may fail or be cancelled."""
        criteria = list(self.values)
        read, packed = await self._read(new, criteria, with_ancestries=self.ancestries is not None)
        first = len(self.uids)
        self.uids = self.uids + new
        for criterion, values in zip(criteria, read, strict=True):
            self._extend(criterion, values, first)
        if self.ancestries is not None:
            add_ancestries(self.ancestries, self._without_lost(packed, first, _NO_ANCESTRY))
        if len(new) > INSERTED_MAX:
            self.orders.clear()
        for keys, order in self.orders.items():
            for place in range(first, len(self.uids)):
                insort_right(order, place, key=self.comparable(keys))

    def _extend(self, criterion: Criterion, values: Sequence[Any], first: int) -> None:
        is_number = criterion in NUMBERS
        values = self._without_lost(values, first, 0 if is_number else "")
        column = self.values.get(criterion)
        if is_number:
            column = array("q") if column is None else column
        else:
            # equal texts are kept once
            once: dict[str, str] = {}
            values = [once.setdefault(text, text) for text in values]
            self._text_bytes += sum(map(len, once)) + TEXT_BYTES * len(once)
            column = [] if column is None else column
        column.extend(values)
        self.values[criterion] = column

    def _without_lost(self, values: Sequence[Any], first: int, empty: Any) -> Sequence[Any]:
        if None not in values:
            return values
        self.lost.update(place for place, value in enumerate(values, first) if value is None)
        return [empty if value is None else value for value in values]

    def comparable(self, keys: Sequence[SortKey]) -> Callable[[int], Any]:
        """What a place is compared by (Any: a number, a text, or several); the columns are there."""
        columns = [(self.values[one.criterion], one.is_reverse) for one in keys]
        if len(columns) == 1 and not columns[0][1]:
            getter: Callable[[int], Any] = columns[0][0].__getitem__
            return getter
        return lambda place: [_Descending(values[place]) if is_reverse else values[place]
                              for values, is_reverse in columns]  # fmt: skip

    async def need(self, criteria: Sequence[Criterion], *, with_ancestries: bool = False) -> None:
        """Read, in one pass, the columns that are not there yet; `with_ancestries`: and what THREAD asks."""
        missing = [criterion for criterion in criteria if criterion not in self.values]
        with_ancestries = with_ancestries and self.ancestries is None
        if not missing and not with_ancestries:
            return
        read, packed = await self._read(self.uids, missing, with_ancestries=with_ancestries)
        for criterion, values in zip(missing, read, strict=True):
            await run(self._extend, len(values), criterion, values, 0)
        if with_ancestries:
            made = Ancestries(array("q"), array("q"), array("I"), bytearray())
            await run(add_ancestries, len(packed), made, self._without_lost(packed, 0, _NO_ANCESTRY))
            self.ancestries = made

    async def _read(
        self, uids: "array[int]", criteria: Sequence[Criterion], *, with_ancestries: bool
    ) -> tuple[list[list[Any]], list[bytes | None]]:
        """(columns, ancestries) of these uids, Any: numbers or texts; None for what is lost."""
        sources = [SOURCES[criterion] for criterion in criteria]
        if not with_ancestries:
            return (await read_columns(self._mailbox, uids, sources) if sources else []), []
        *columns, packed = await read_columns(self._mailbox, uids, [*sources, ANCESTRY])
        older = array("I", [uid for uid, one in zip(uids, packed, strict=True) if one == b""] if b"" in packed else [])
        if older:
            made = dict(zip(older, await older_ancestries(self._mailbox, older), strict=True))
            packed = [made[uid] if one == b"" else one for uid, one in zip(uids, packed, strict=True)]
        return columns, packed

    def places_of(self, uids: Sequence[int]) -> list[int]:
        """The places of some members, rising, without those that are lost."""
        known = self.uids
        if len(uids) * 16 < len(known):
            places = [bisect_left(known, uid) for uid in uids]
        elif len(uids) == len(self.members):
            places = list(self.members)
        else:
            wanted = set(uids)
            places = [place for place in self.members if known[place] in wanted]
        return [place for place in places if place not in self.lost] if self.lost else places

    def whole_order(self, keys: tuple[SortKey, ...]) -> "array[int]":
        """All places, sorted; the columns are there. Slow the first time, so not for the loop."""
        order = self.orders.get(keys)
        if order is None:
            columns = [(self.values[one.criterion], one.is_reverse) for one in keys]
            order = array("I", sort_places(range(len(self.uids)), columns))
            self.orders[keys] = order
            if len(self.orders) > ORDERS_MAX:
                self.orders.popitem(last=False)
        self.orders.move_to_end(keys)
        return order

    def sorted_places(self, places: Sequence[int], keys: tuple[SortKey, ...]) -> Sequence[int]:
        """Some places, which rise, sorted; the columns are there. Slow, so not for the loop."""
        if len(places) * STALE_SHARE < len(self.uids) and keys not in self.orders:
            return sort_places(places, [(self.values[one.criterion], one.is_reverse) for one in keys])
        order = self.whole_order(keys)
        if len(places) == len(self.uids):
            return order
        wanted = bytearray(len(self.uids))
        for place in places:
            wanted[place] = 1
        return [place for place in order if wanted[place]]

    def keep_answer(self, question: Hashable, answer: bytes) -> None:
        """Keep what was answered to a question about all members."""
        self.answers[question] = answer
        if len(self.answers) > ANSWERS_MAX:
            self.answers.popitem(last=False)


class MailboxColumns:
    """The columns of all mailboxes of one worker; `room`: how many bytes they may take now."""

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._columns: OrderedDict[tuple[int, int], Columns] = OrderedDict()
        self._sizes: dict[tuple[int, int], int] = {}  # of each, when it was last used
        self._total = 0

    @property
    def memory_bytes(self) -> int:
        """What is kept, about."""
        return self._total

    @asynccontextmanager
    async def of(self, mailbox: Mailbox, snapshot: Snapshot) -> AsyncIterator[Columns]:
        """The columns of the mailbox, its members those of the snapshot, for one command alone."""
        key = (mailbox.account_id, mailbox.mailbox_id)
        columns = self._columns.get(key)
        if columns is None:
            columns = self._columns[key] = Columns(mailbox)
        self._columns.move_to_end(key)
        async with columns.lock:
            try:
                await columns.look_at(snapshot)
                yield columns
            finally:
                if self._columns.get(key) is columns:
                    self._measure(key, columns.memory_bytes)
                self._drop_least_used()

    def _measure(self, key: tuple[int, int], size: int) -> None:
        self._total += size - self._sizes.pop(key, 0)
        if size:
            self._sizes[key] = size

    def _drop_least_used(self) -> None:
        if not self._total:
            return
        room = self._room()
        while self._total > room and self._columns:
            key, _ = self._columns.popitem(last=False)  # commands that still use it keep it, alone
            self._measure(key, 0)


def _compared(uids: "array[int]", known: "array[int]") -> "tuple[array[int], bool, array[int]]":
    """(places in `known` of those of `uids` that are there, whether others are missing in between, those behind)."""
    members = array("I")
    is_complete = True
    at = 0
    for start in range(0, len(known), _COMPARED_AT_ONCE):
        block = known[start : start + _COMPARED_AT_ONCE]
        stop = bisect_right(uids, block[-1], at)
        part = uids[at:stop]
        at = stop
        if part == block:
            members.extend(range(start, start + len(block)))
            continue
        wanted = set(part)
        found = [place for place, uid in enumerate(block, start) if uid in wanted]
        members.extend(found)
        is_complete = is_complete and len(found) == len(part)
    return members, not is_complete, uids[at:]


def _united(uids: "array[int]", known: "array[int]") -> "array[int]":
    return array("I", sorted({*uids, *known}))


async def run(work: Callable[[*Args], R], count: int, *args: *Args) -> R:
    """What `work(*args)` gives, in a thread where it is about many messages (INV-12)."""
    if count <= INLINE_MAX:
        return work(*args)
    job = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])  # the columns stay this command's as long as its thread is at them
        raise
