"""What a client believes a mailbox to hold: uids in order, and their flags.

Theory of operation. A `Snapshot` is a mailbox at one mod_seq: a tuple of chunks of at most CHUNK_MESSAGES messages,
each two arrays. Snapshots and chunks never change; `refreshed` makes the next snapshot and shares every chunk that is
still true. So a worker keeps one current snapshot for each selected mailbox, a session keeps the one it has told its
client of, and what the client must be told is the difference, found by comparing only the chunks that are not the same
object. A message that was removed stays in the snapshots of the sessions that have not been told.

What a change costs must not grow with the mailbox, and a million messages are 2000 chunks: lists of them are copied and
compared as wholes, 20 ns a chunk, and steps of Python are taken only for the chunks that changed.

Memory: 12 bytes for each message, and 100 for each chunk in a snapshot. Refuses to know: SQL, sockets, keywords' names.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import compress, count
from operator import is_not, or_
from typing import Final, NamedTuple

CHUNK_MESSAGES: Final = 500  # two are one step of the store; rendering one takes 0.1 ms, changing one copies 6 KiB

UidRange = tuple[int, int]

_NO_UID: Final = 1 << 62  # above every uid


class Chunk:
    """Neighbouring messages: rising `uids` and their `flags`; `rendered` and `found` hold what was made of them.

    `facts` and `texts` hold what was read of these messages and never changes: chunks with the same uids share them.
    `numbered` is the latest text of numbers: of which positions of `found`, from which sequence number (0: as UIDs).
    """

    __slots__ = ("_union", "facts", "flags", "found", "numbered", "rendered", "texts", "uids")

    def __init__(self, uids: "array[int]", flags: "array[int]", like: "Chunk | None" = None) -> None:
        self.uids = uids
        self.flags = flags
        self.rendered: dict[object, bytes] = {}
        self.found: dict[str, array[int]] = {}
        self.numbered: tuple[Sequence[int], int, bytes] = ((), 0, b"")
        self.facts: dict[str, array[int]] = {} if like is None else like.facts
        self.texts: dict[object, bytes] = {} if like is None else like.texts
        self._union = -1

    @property
    def union(self) -> int:
        """Every flag that some message has; 12 us the first time."""
        if self._union < 0:
            self._union = reduce(or_, self.flags, 0)
        return self._union


class Slice(NamedTuple):
    """Part of a chunk: its messages `start <= n < stop`; the first of them has the sequence number `seq`."""

    chunk: Chunk
    start: int
    stop: int
    seq: int

    @property
    def uids(self) -> "array[int]":
        """The uids of the slice, rising."""
        if self.start == 0 and self.stop == len(self.chunk.uids):
            return self.chunk.uids
        return self.chunk.uids[self.start : self.stop]

    @property
    def flags(self) -> "array[int]":
        """The flags of the slice."""
        return self.chunk.flags[self.start : self.stop]


class Difference(NamedTuple):
    """What a client that knows the old snapshot must be told to know the new one.

    `removed`: old sequence numbers, falling, so that each is right when the ones before it have been told (RFC 3501
    §7.4.1). `changed`: lists of (uid, flags) of messages known before, made chunk by chunk as they are asked for.
    `added`: (uid, flags) of new ones, rising.
    """

    removed: list[int]
    changed: Iterator[list[tuple[int, int]]]
    added: list[tuple[int, int]]


class Snapshot:
    """A mailbox at `mod_seq`; `count` messages, numbered from 1."""

    __slots__ = ("_lasts", "_starts", "chunks", "count", "mod_seq")

    def __init__(self, chunks: Sequence[Chunk], mod_seq: int) -> None:
        starts: list[int] = []
        count = 0
        for chunk in chunks:
            starts.append(count)
            count += len(chunk.uids)
        self._set(tuple(chunks), starts, [chunk.uids[-1] for chunk in chunks], count, mod_seq)

    def _set(self, chunks: tuple[Chunk, ...], starts: list[int], lasts: list[int], count: int, mod_seq: int) -> None:
        self.chunks = chunks
        self.mod_seq = mod_seq
        self.count = count
        self._starts = starts  # messages before each chunk
        self._lasts = lasts  # the last uid of each

    @classmethod
    def of(cls, uids: "array[int]", flags: "array[int]", mod_seq: int) -> "Snapshot":
        """The snapshot that holds exactly these messages; uids rise."""
        return cls(_cut(uids, flags), mod_seq)

    @property
    def last_uid(self) -> int:
        """The highest uid, or 0."""
        return self._lasts[-1] if self._lasts else 0

    def slices(self) -> Iterator[Slice]:
        """All messages."""
        for chunk, start in zip(self.chunks, self._starts, strict=True):
            yield Slice(chunk, 0, len(chunk.uids), start + 1)

    def slices_where(self, holds: Callable[[Chunk], bool]) -> Iterator[Slice]:
        """The messages of the chunks of which `holds` is true. 0.1 us for each of the others."""
        for chunk, start in zip(self.chunks, self._starts, strict=True):
            if holds(chunk):
                yield Slice(chunk, 0, len(chunk.uids), start + 1)

    def starting_at(self, seqs: Sequence[int]) -> Iterator[Slice]:
        """The messages of the chunks that begin with these sequence numbers."""
        for seq in seqs:
            chunk = self.chunks[bisect_left(self._starts, seq - 1)]
            yield Slice(chunk, 0, len(chunk.uids), seq)

    def by_seq(self, ranges: Sequence[tuple[int, int]]) -> Iterator[Slice]:
        """The messages numbered in `ranges` (rising, no overlap, within 1..count)."""
        for first, last in ranges:
            index = bisect_right(self._starts, first - 1) - 1
            while index < len(self.chunks) and self._starts[index] < last:
                chunk, before = self.chunks[index], self._starts[index]
                start, stop = max(first - 1 - before, 0), min(last - before, len(chunk.uids))
                yield Slice(chunk, start, stop, before + start + 1)
                index += 1

    def by_uid(self, ranges: Sequence[UidRange]) -> Iterator[Slice]:
        """The messages whose uids lie in `ranges` (rising, no overlap)."""
        for first, last in ranges:
            index = bisect_left(self._lasts, first)
            while index < len(self.chunks):
                chunk, before = self.chunks[index], self._starts[index]
                start, stop = bisect_left(chunk.uids, first), bisect_right(chunk.uids, last)
                if start < stop:
                    yield Slice(chunk, start, stop, before + start + 1)
                if stop < len(chunk.uids):
                    break
                index += 1

    def count_within(self, ranges: Sequence[UidRange]) -> int:
        """How many messages have uids in `ranges` (rising, no overlap). 2 us for each range."""
        return sum(self._count_below(last + 1) - self._count_below(first) for first, last in ranges)

    def _count_below(self, uid: int) -> int:
        index = bisect_left(self._lasts, uid)
        return (
            self.count if index == len(self.chunks) else self._starts[index] + bisect_left(self.chunks[index].uids, uid)
        )

    def holding(self, uids: "array[int]") -> "Iterator[tuple[Slice, array[int]]]":
        """The chunks in whose span some of the uids (rising) lie, each whole and with these uids."""
        at = 0
        while at < len(uids):
            index = bisect_left(self._lasts, uids[at])
            if index == len(self.chunks):
                return
            stop = bisect_right(uids, self._lasts[index], at)
            chunk = self.chunks[index]
            yield Slice(chunk, 0, len(chunk.uids), self._starts[index] + 1), uids[at:stop]
            at = stop

    def seq_of(self, uid: int) -> int:
        """The sequence number of `uid`, or 0."""
        index = bisect_left(self._lasts, uid)
        if index == len(self.chunks):
            return 0
        uids = self.chunks[index].uids
        at = bisect_left(uids, uid)
        return self._starts[index] + at + 1 if uids[at] == uid else 0

    def refreshed(self, ranges: Sequence[UidRange], rows: Sequence[tuple[int, int]], mod_seq: int) -> "Snapshot":
        """The snapshot in which the uids of `ranges` (rising, no overlap) are exactly `rows`, (uid, flags) rising."""
        made = _Growing()
        if not self.chunks:
            made.add(_replaced(None, ranges, rows))
        row_uids = [row[0] for row in rows]
        done = begin = 0
        for index in self._touched(ranges):
            made.share(self, done, index)
            first = self._lasts[index - 1] + 1 if index else 0
            stop_uid = self._lasts[index] + 1 if index + 1 < len(self.chunks) else _NO_UID
            end = bisect_left(row_uids, stop_uid, begin)
            made.add(_replaced(self.chunks[index], _overlapping(ranges, first, stop_uid), rows[begin:end]))
            done, begin = index + 1, end
        made.share(self, done, len(self.chunks))
        return made.snapshot(mod_seq)

    def _touched(self, ranges: Sequence[UidRange]) -> Iterator[int]:
        """The chunks to which the uids of `ranges` belong; above the last of a chunk the next one begins."""
        highest, at, covered = len(self.chunks) - 1, 0, -1
        for first, last in ranges:
            if last <= covered:
                continue
            start = max(at, min(bisect_left(self._lasts, first), highest))
            at = max(at, min(bisect_left(self._lasts, last), highest) + 1)
            yield from range(start, at)
            covered = self._lasts[at - 1] if at <= highest else _NO_UID

    def with_flags(self, ranges: Sequence[UidRange], keep: int, add: int) -> "Snapshot":
        """The same messages, those of `ranges` with the flags `old & keep | add`: what a silent STORE leaves untold."""
        rows = [
            (uid, old & keep | add)
            for part in self.by_uid(ranges)
            for uid, old in zip(part.uids, part.flags, strict=True)
        ]
        return self.refreshed(ranges, rows, self.mod_seq)

    def unshared(self, newer: "Snapshot") -> int:
        """How many messages of the newer snapshot stand in chunks that this one does not share."""
        start, old_stop, new_stop = _apart(self.chunks, newer.chunks)
        shared = set(self.chunks[start:old_stop])
        return sum([len(chunk.uids) for chunk in newer.chunks[start:new_stop] if chunk not in shared])

    def difference(self, newer: "Snapshot") -> Difference:
        """What separates this snapshot from a newer one; only chunks that are not shared are looked at.

        Chunks that hold the same uids are compared when `changed` is read; what is done at once is a few steps for
        each chunk between the first and the last that differ, and one for each message of the chunks in which messages
        went, or came elsewhere than behind the last.
        """
        start, old_stop, new_stop = _apart(self.chunks, newer.chunks)
        ours, theirs = self.chunks[start:old_stop], newer.chunks[start:new_stop]
        shared = set(ours).intersection(theirs)
        new = {chunk.uids[0]: chunk for chunk in theirs if chunk not in shared}
        pairs: list[tuple[Chunk, Chunk]] = []
        old: list[tuple[Chunk, int]] = []
        arrived: list[tuple[int, int]] = []
        for chunk, before in zip(ours, self._starts[start:old_stop], strict=True):
            if chunk in shared:
                continue
            same = new.get(chunk.uids[0])
            if same is not None and chunk is ours[-1] and _begins_with(same, chunk):
                del new[chunk.uids[0]]
                arrived = list(zip(same.uids[len(chunk.uids) :], same.flags[len(chunk.uids) :], strict=True))
                continue
            if same is not None and same.uids == chunk.uids:
                del new[chunk.uids[0]]
                if same.flags != chunk.flags:
                    pairs.append((chunk, same))
            else:
                old.append((chunk, before))
        removed, changed, added = _difference_by_uid(old, list(new.values()))
        return Difference(removed, _changed(pairs, changed), arrived + added)


class _Growing:
    """A snapshot being made, from the front: of parts of another one and of new chunks."""

    __slots__ = ("_chunks", "_count", "_lasts", "_starts")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._starts: list[int] = []
        self._lasts: list[int] = []
        self._count = 0

    def share(self, old: Snapshot, start: int, stop: int) -> None:
        """The chunks of `old` from `start` to before `stop`."""
        if start >= stop:
            return
        self._chunks += old.chunks[start:stop]
        self._lasts += old._lasts[start:stop]
        starts = old._starts[start:stop]
        shift = self._count - starts[0]
        self._starts += [one + shift for one in starts] if shift else starts
        self._count = shift + (old._starts[stop] if stop < len(old.chunks) else old.count)

    def add(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._chunks.append(chunk)
            self._starts.append(self._count)
            self._lasts.append(chunk.uids[-1])
            self._count += len(chunk.uids)

    def snapshot(self, mod_seq: int) -> Snapshot:
        """With fewer chunks, where removals have left many small ones."""
        if len(self._chunks) > 8 + 4 * self._count // CHUNK_MESSAGES:
            return Snapshot(_joined(self._chunks), mod_seq)
        made = Snapshot.__new__(Snapshot)
        made._set(tuple(self._chunks), self._starts, self._lasts, self._count, mod_seq)
        return made


def _apart(old: tuple[Chunk, ...], new: tuple[Chunk, ...]) -> tuple[int, int, int]:
    """(start, stop in the old, stop in the new): before and behind these both have the same chunks."""
    shorter = min(len(old), len(new))
    start = next(compress(count(), map(is_not, old, new)), shorter)
    behind = next(compress(count(), map(is_not, reversed(old), reversed(new))), shorter)
    behind = min(behind, shorter - start)
    return start, len(old) - behind, len(new) - behind


def _begins_with(longer: Chunk, chunk: Chunk) -> bool:
    """Whether messages have only come behind those of the chunk, as mail does."""
    length = len(chunk.uids)
    return length < len(longer.uids) and longer.uids[:length] == chunk.uids and longer.flags[:length] == chunk.flags


def _changed(pairs: list[tuple[Chunk, Chunk]], others: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for was, is_now in pairs:
        yield [
            (uid, now) for uid, before, now in zip(is_now.uids, was.flags, is_now.flags, strict=True) if before != now
        ]
    for start in range(0, len(others), CHUNK_MESSAGES):
        yield others[start : start + CHUNK_MESSAGES]


def _difference_by_uid(
    old: list[tuple[Chunk, int]], new: list[Chunk]
) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    """(removed, changed, added) between the messages of some chunks; an old one comes with the count before it."""
    now: dict[int, int] = {}
    for chunk in new:
        now.update(zip(chunk.uids, chunk.flags, strict=True))
    removed: list[int] = []
    changed: list[tuple[int, int]] = []
    for chunk, before in old:
        for seq, (uid, flags) in enumerate(zip(chunk.uids, chunk.flags, strict=True), before + 1):
            current = now.pop(uid, None)
            if current is None:
                removed.append(seq)
            elif current != flags:
                changed.append((uid, current))
    removed.reverse()
    return removed, changed, list(now.items())


def _overlapping(ranges: Sequence[UidRange], first: int, stop: int) -> list[UidRange]:
    """The parts of `ranges` within first <= uid < stop."""
    index = bisect_left(ranges, first, key=_last_of)
    found: list[UidRange] = []
    while index < len(ranges) and ranges[index][0] < stop:
        found.append((max(first, ranges[index][0]), min(ranges[index][1], stop - 1)))
        index += 1
    return found


def _last_of(one: UidRange) -> int:
    return one[1]


def _replaced(chunk: Chunk | None, ranges: Sequence[UidRange], rows: Sequence[tuple[int, int]]) -> list[Chunk]:
    """The chunk with `rows` in place of what it had in `ranges`, cut where it became too long."""
    uids, flags = array("I"), array("q")
    at = taken = 0
    for first, last in ranges:
        if chunk is not None:
            start = bisect_left(chunk.uids, first, at)
            uids.extend(chunk.uids[at:start])
            flags.extend(chunk.flags[at:start])
            at = bisect_right(chunk.uids, last, start)
        while taken < len(rows) and rows[taken][0] <= last:
            uids.append(rows[taken][0])
            flags.append(rows[taken][1])
            taken += 1
    if chunk is not None:
        uids.extend(chunk.uids[at:])
        flags.extend(chunk.flags[at:])
        if uids == chunk.uids:
            return [Chunk(chunk.uids, flags, chunk)]
    return _cut(uids, flags)


def _cut(uids: "array[int]", flags: "array[int]") -> list[Chunk]:
    return [
        Chunk(uids[at : at + CHUNK_MESSAGES], flags[at : at + CHUNK_MESSAGES])
        for at in range(0, len(uids), CHUNK_MESSAGES)
    ]


def _joined(chunks: list[Chunk]) -> list[Chunk]:
    """The same messages in chunks of the usual size."""
    uids, flags = array("I"), array("q")
    for chunk in chunks:
        uids.extend(chunk.uids)
        flags.extend(chunk.flags)
    return _cut(uids, flags)
