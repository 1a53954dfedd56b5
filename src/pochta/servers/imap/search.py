"""SEARCH and UID SEARCH, every key of RFC 3501 §6.4.4, and MODSEQ of RFC 7162 §3.1.5.

Theory of operation. The key tree is planned once: names become bits, texts are folded, and the keys of each AND and OR
stand in the order of what they cost: the session's arrays, placement rows, message rows, header cores, whole headers,
whole messages. Then each slice of the view (up to 512 messages) goes through the plan with the set of positions that
can still match: AND hands each key only what the ones before it left, OR only what they did not find, NOT takes away.
So a message is opened only when nothing cheaper has decided. After each step of at most a few milliseconds others have
their turn (INV-12); the session's view stays as it is meanwhile, and with it all numbers.

All BODY and TEXT keys of a command are looked for in one reading of the message (`search_text`).

Decisions. A sequence number beyond the mailbox matches nothing and is no error: RFC 3501 §9 asks for BAD where COPY,
FETCH or STORE name one, and Dovecot answers so. Removed messages that the client was not told of are searched while
they are kept (`search_facts`). FROM, TO, CC, BCC and SUBJECT look into the text of the field, names of groups and
comments included.
"""

from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from pochta.mime.core import FieldSelection, select_fields
from pochta.mime.header import split_fields
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.search import CHARSETS
from pochta.proto.imap.view import Slice, Snapshot
from pochta.servers.imap import condstore
from pochta.servers.imap.search_facts import Facts, Mailbox
from pochta.servers.imap.search_text import FIELD_BYTES, Needle, field_text, fold_field, needle, value_texts
from pochta.servers.imap.selected import split_flags
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.servers.pace import Pace
from pochta.store.changes import UidRange

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

BADCHARSET: Final = b"BADCHARSET (%b)" % " ".join(name for name in CHARSETS if name != "ASCII").encode("ascii")


async def search(connection: "ImapConnection", tag: bytes, command: c.Search) -> None:
    """SEARCH and UID SEARCH. Source: RFC 3501 §6.4.4, §6.4.8 and §7.2.5, RFC 7162 §3.1.5."""
    selected = connection.selected
    assert selected is not None
    mod_seqs = [key.mod_seq for key in _leaves(command.key) if isinstance(key, c.SearchModSeq)]
    changed: Sequence[UidRange] | None = None
    if mod_seqs:
        condstore.make_aware(connection)
        changed = await condstore.changed_ranges(connection, selected, min(mod_seqs) - 1)
    mailbox = Mailbox(connection.context.store, selected.account_id, selected.mailbox_id)
    keyword_bits = await _keyword_bits(connection, command.key)
    found = find(mailbox, await selected.snapshot(), command.key, selected.recent_ranges, keyword_bits, changed)
    blocks = [b"* SEARCH"]
    highest = 0
    async for facts, positions in found:
        blocks.append(_numbers(facts.part, positions, is_uid=command.is_uid))
        if mod_seqs and positions:
            highest = max(highest, await _highest_mod_seq(facts, positions) or selected.told_mod_seq)
    # RFC 7162 §3.1.6: the highest mod-sequence of what was found, and nothing when nothing was
    blocks.append(b" (MODSEQ %d)\r\n" % highest if highest else b"\r\n")
    for block in blocks:
        await connection.send_large(block)
    # RFC 3501 §7.4.1: no EXPUNGE while SEARCH, with its sequence numbers, is in progress
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    connection.send(encode.tagged(tag, b"OK", "SEARCH completed"))


async def unknown_charset(connection: "ImapConnection", tag: bytes, command: c.UnknownCharset) -> None:
    """SEARCH in a charset that is not read. RFC 3501 §6.4.4: NO, with the charsets that are."""
    connection.send(encode.tagged(tag, b"NO", "That charset is not supported", code=BADCHARSET))


def _numbers(part: Slice, positions: Sequence[int], *, is_uid: bool) -> bytes:
    """The numbers of the messages, each after a space."""
    if not positions:
        return b""
    if is_uid:
        uids = part.uids
        numbers = [uids[at] for at in positions]
    else:
        numbers = [part.seq + at for at in positions]
    return (" " + " ".join(map(str, numbers))).encode("ascii")


async def _keyword_bits(connection: "ImapConnection", key: c.SearchKey) -> dict[str, int]:
    """The bit of each keyword of the account, by its name in lower case, as far as `key` needs them."""
    names = keyword_names(key)
    if not names:
        return {}
    views, account_id = connection.context.views, connection.account_id
    known = {name.lower(): bit for bit, name in (await views.keywords(account_id, 0)).items()}
    if not names <= known.keys():
        known = {name.lower(): bit for bit, name in (await views.keywords(account_id, ANY_KEYWORD)).items()}
    return known


def _leaves(key: c.SearchKey) -> Iterator[c.SearchKey]:
    """The keys in the tree that hold no others."""
    stack = [key]
    while stack:
        one = stack.pop()
        if isinstance(one, c.SearchAnd | c.SearchOr):
            stack.extend(one.keys)
        elif isinstance(one, c.SearchNot):
            stack.append(one.key)
        else:
            yield one


def keyword_names(key: c.SearchKey) -> set[str]:
    """The keywords that `key` names, in lower case."""
    flags = (one.flag for one in _leaves(key) if isinstance(one, c.SearchFlag))
    return {name.lower() for flag in flags for name in split_flags((flag,))[1]}


async def _highest_mod_seq(facts: Facts, positions: Sequence[int]) -> int:
    """The highest mod_seq of the messages; 0 when all of them were removed."""
    placed = await facts.placed(positions)
    return max((placed[at].mod_seq for at in positions if at in placed), default=0)


async def find(
    mailbox: Mailbox,
    snapshot: Snapshot,
    key: c.SearchKey,
    recent_ranges: Sequence[UidRange],
    keyword_bits: Mapping[str, int],
    changed: Sequence[UidRange] | None = None,
) -> AsyncIterator[tuple[Facts, list[int]]]:
    """The facts of each slice of the snapshot with the positions in it of the messages that match, rising.

    `recent_ranges`: the uids that are \\Recent, rising. `keyword_bits`: by name in lower case; a keyword that is not
    there stands on no message. `changed`: uids, rising, outside of which no MODSEQ key matches; None: anything may.
    """
    planner = _Planner(snapshot, recent_ranges, keyword_bits, changed)
    step = planner.plan(key)
    needles = list(planner.needles)
    pace = Pace()
    for part in snapshot.slices():
        facts = Facts(mailbox, part, needles, pace)
        found = await step.match(facts, set(range(part.stop - part.start)))
        yield facts, sorted(found - facts.lost)
        await pace.turn()


class _Cost(IntEnum):
    """What a key reads, cheapest first."""

    ARRAYS = 0
    PLACEMENT = 1
    MESSAGE = 2
    CORE = 3
    HEADER = 4
    TEXT = 5


class _Step(Protocol):
    """A planned key."""

    @property
    def cost(self) -> _Cost:
        """The dearest thing it reads."""

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        """The positions of `among` that match; a lost one may be among them."""


_cost_of: Final = attrgetter("cost")


class _Planner:
    """Turns keys into steps; recursive, as the parser bounds the depth (MAX_SEARCH_DEPTH)."""

    def __init__(
        self,
        snapshot: Snapshot,
        recent_ranges: Sequence[UidRange],
        keyword_bits: Mapping[str, int],
        changed: Sequence[UidRange] | None,
    ) -> None:
        self._changed = changed
        self._snapshot = snapshot
        self._recent_ranges = recent_ranges
        self._keyword_bits = keyword_bits
        self.needles: dict[Needle, int] = {}  # needle -> its number

    def plan(self, key: c.SearchKey) -> _Step:
        """The step for a key."""
        if isinstance(key, c.SearchAnd):
            return _And(sorted(map(self.plan, dict.fromkeys(key.keys)), key=_cost_of))
        if isinstance(key, c.SearchOr):
            return _Or(sorted(map(self.plan, dict.fromkeys(key.keys)), key=_cost_of))
        if isinstance(key, c.SearchNot):
            return _Not(self.plan(key.key))
        if isinstance(key, c.SearchHeader):
            return _plan_header(key)
        if isinstance(key, c.SearchText):
            return self._plan_text(key)
        if isinstance(key, c.SearchSize):
            return _Size(key.size_bytes, is_larger=key.test is c.SizeTest.LARGER)
        if isinstance(key, c.SearchModSeq):
            return _ModSeq(key.mod_seq, None if self._changed is None else _Range(self._changed, is_uid=True))
        if isinstance(key, c.SearchDate):
            return (
                _Sent(_DAY_TESTS[key.test], key.epoch_day) if key.is_sent else _Day(_DAY_TESTS[key.test], key.epoch_day)
            )
        return self._plan_cheap(key)

    def _plan_cheap(self, key: c.SearchAll | c.SearchRecent | c.SearchFlag | c.SearchSet) -> _Step:
        if isinstance(key, c.SearchRecent):
            return _Range(self._recent_ranges, is_uid=True)
        if isinstance(key, c.SearchSet):
            maximum = self._snapshot.last_uid if key.is_uid else self._snapshot.count
            return _Range(key.seq_set.normalised(maximum), is_uid=key.is_uid)
        if isinstance(key, c.SearchFlag):
            bits, keywords = split_flags((key.flag,))
            bits |= sum(self._keyword_bits.get(name.lower(), 0) for name in keywords)
            return _Flag(bits, is_set=key.is_set)
        return _All()

    def _plan_text(self, key: c.SearchText) -> _Step:
        if not key.text:
            return _All()  # the empty string is a substring of everything
        one = needle(key.text, in_header=key.scope is c.TextScope.TEXT)
        return _Text(self.needles.setdefault(one, len(self.needles)))


def _plan_header(key: c.SearchHeader) -> _Step:
    name = key.field.encode("ascii")
    folded = fold_field(key.text)
    selection = FieldSelection.from_names([name])
    return _Header(name, folded) if selection is None else _CoreHeader(name, folded, selection)


@dataclass(frozen=True, slots=True)
class _All:
    """ALL"""

    cost: _Cost = _Cost.ARRAYS

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        return among


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag or keyword; `bits` is 0 for a keyword that nobody has used."""

    bits: int
    is_set: bool
    cost: _Cost = _Cost.ARRAYS

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        bits, flags = self.bits, facts.flags
        if self.is_set:
            return {at for at in among if flags[at] & bits}
        return {at for at in among if not flags[at] & bits}


@dataclass(frozen=True, slots=True)
class _Range:
    """Sequence numbers or uids in `ranges` (rising, no overlap)."""

    ranges: Sequence[tuple[int, int]]
    is_uid: bool
    cost: _Cost = _Cost.ARRAYS

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
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
class _Size:
    """RFC822.SIZE"""

    size_bytes: int
    is_larger: bool
    cost: _Cost = _Cost.PLACEMENT

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        placed = await facts.placed(among)
        wanted = among - facts.lost
        if self.is_larger:
            return {at for at in wanted if placed[at].size > self.size_bytes}
        return {at for at in wanted if placed[at].size < self.size_bytes}


@dataclass(frozen=True, slots=True)
class _ModSeq:
    """MODSEQ: that number or a larger one; `changed`: where such messages can be, by the log of changes."""

    mod_seq: int
    changed: _Range | None
    cost: _Cost = _Cost.PLACEMENT

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        if self.changed is not None:
            among = await self.changed.match(facts, among)
        placed = await facts.placed(among)
        return {at for at in among - facts.lost if placed[at].mod_seq >= self.mod_seq}


_DAY_TESTS: Final[dict[c.DateTest, Callable[[int, int], bool]]] = {
    c.DateTest.BEFORE: int.__lt__,
    c.DateTest.ON: int.__eq__,
    c.DateTest.SINCE: int.__ge__,
}


@dataclass(frozen=True, slots=True)
class _Day:
    """The internal date's day; RFC 3501 §6.4.4: disregarding time and timezone."""

    test: Callable[[int, int], bool]
    day: int
    cost: _Cost = _Cost.PLACEMENT

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        placed = await facts.placed(among)
        return {at for at in among - facts.lost if self.test(placed[at].day, self.day)}


@dataclass(frozen=True, slots=True)
class _Sent:
    """The Date header's day; a message without one matches none of the tests."""

    test: Callable[[int, int], bool]
    day: int
    cost: _Cost = _Cost.MESSAGE

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        days = await facts.sent_days(among)
        return {at for at, day in days.items() if day is not None and self.test(day, self.day)}


@dataclass(frozen=True, slots=True)
class _CoreHeader:
    """A header field that header cores hold."""

    name: bytes
    folded: str
    selection: FieldSelection
    cost: _Cost = _Cost.CORE

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
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
            found |= await _Header(self.name, self.folded).match(facts, incomplete)
        return found


@dataclass(frozen=True, slots=True)
class _Header:
    """Any header field, from the message's own bytes."""

    name: bytes
    folded: str
    cost: _Cost = _Cost.HEADER

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
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
class _Text:
    """BODY or TEXT with the needle of that number."""

    number: int
    cost: _Cost = _Cost.TEXT

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        masks = await facts.masks(among)
        return {at for at in among - facts.lost if masks[at] >> self.number & 1}


class _Not:
    """NOT"""

    __slots__ = ("_step", "cost")

    def __init__(self, step: _Step) -> None:
        self._step = step
        self.cost = step.cost

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        return among - await self._step.match(facts, among)


class _And:
    """All of the steps, cheapest first; the next one sees only what the ones before left."""

    __slots__ = ("_steps", "cost")

    def __init__(self, steps: Sequence[_Step]) -> None:
        self._steps = steps
        self.cost = steps[-1].cost

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        for step in self._steps:
            if not among:
                break
            among = await step.match(facts, among)
            await facts.pace.turn()
        return among


class _Or:
    """Any of the steps, cheapest first; the next one sees only what the ones before did not find."""

    __slots__ = ("_steps", "cost")

    def __init__(self, steps: Sequence[_Step]) -> None:
        self._steps = steps
        self.cost = steps[-1].cost

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        found: set[int] = set()
        for step in self._steps:
            rest = among - found
            if not rest:
                break
            found |= await step.match(facts, rest)
            await facts.pace.turn()
        return found
