"""From the keys of a search to the messages that match.

Theory of operation. The key tree is planned once: names become bits, texts are folded, and the keys of each AND and OR
stand in the order of what they cost: the session's arrays, placement rows, message rows, header cores, whole headers,
whole messages (`steps`). Then each slice of the view (up to 512 messages) goes through the plan with the set of
positions that can still match: AND hands each key only what the ones before it left, OR only what they did not find,
NOT takes away. So a message is opened only when nothing cheaper has decided. After each step of at most a few
milliseconds others have their turn (INV-12); the session's view stays as it is meanwhile, and with it all numbers.

All BODY and TEXT keys of a command are looked for in one reading of the message (`text`). What rows alone decide
(flags, sizes, dates, threads) is kept with the chunk of the view, which never changes: asked again, it costs nothing.

Decisions. A sequence number beyond the mailbox matches nothing and is no error: RFC 3501 §9 asks for BAD where COPY,
FETCH or STORE name one, and Dovecot answers so. Removed messages that the client was not told of are searched while
they are kept (`facts`). FROM, TO, CC, BCC and SUBJECT look into the text of the field, names of groups and
comments included. Save dates are days in UTC, as FETCH shows them.
"""

from array import array
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from pochta.mime.core import FieldSelection
from pochta.mime.fold import fold_field
from pochta.proto.imap import commands as c
from pochta.proto.imap.search import walk
from pochta.proto.imap.view import Slice, Snapshot
from pochta.servers.imap import object_ids
from pochta.servers.imap.search import narrowing
from pochta.servers.imap.search.facts import DAY_S, Facts, Mailbox
from pochta.servers.imap.search.fuzzy import WORDS_IN_COMMAND, FuzzyHeader, FuzzyText, Scored, words_of
from pochta.servers.imap.search.placing import Known
from pochta.servers.imap.search.steps import (
    All,
    And,
    Between,
    CoreHeader,
    Cost,
    Flag,
    Header,
    MessageId,
    ModSeq,
    Not,
    Or,
    Range,
    Sent,
    Step,
    Text,
    Thread,
)
from pochta.servers.imap.search.text import Needle, needle
from pochta.servers.imap.selected import split_flags
from pochta.servers.pace import Pace
from pochta.store.changes import UidRange

FOUND_PER_CHUNK: Final = 4  # answers kept with a chunk, 2 bytes a message each: a client asks the same few questions
SIZES: Final = 16  # of slices whose positions are kept as a set, 32 KiB each; nearly all have the size of a chunk
TOKEN_MAX_CHARS: Final = 1024  # of a question, one for all chunks

_LOW: Final = -(1 << 63)
_HIGH: Final = 1 << 63


class Terms(NamedTuple):
    """What keys mean in this session, now.

    `recent_ranges`: the uids that are \\Recent; `saved_ranges`: those of `$`. `keyword_bits`: by name in lower case; a
    keyword that is not there stands on no message. `changed`: uids outside of which no MODSEQ key matches; None:
    anything may. All ranges rise and do not overlap.
    """

    recent_ranges: Sequence[UidRange] = ()
    keyword_bits: Mapping[str, int] = {}
    changed: Sequence[UidRange] | None = None
    saved_ranges: Sequence[UidRange] = ()
    now_s: int = 0


async def find(
    mailbox: Mailbox, snapshot: Snapshot, key: c.SearchKey, terms: Terms, parts: Iterable[Slice] | None = None
) -> AsyncIterator[tuple[Facts, Sequence[int]]]:
    """The facts of each slice with the positions in it of the messages that match, rising.

    `parts`: slices of the snapshot; None: all of it, but for some in which none matches.
    """
    known = await narrowing.ask(mailbox, key, snapshot) if parts is None else {}
    planner = Planner(mailbox.account_id, snapshot, terms, known)
    step = planner.plan(key)
    needles = list(planner.needles)
    is_all = isinstance(step, All)
    token = planner.token(key, step) if parts is None else ""
    pace = Pace()
    for part in _worth_a_look(snapshot, step, token) if parts is None else parts:
        facts = Facts(mailbox, part, needles, pace)
        positions: Sequence[int] | None = part.chunk.found.get(token) if token else None
        if is_all:
            positions = range(part.stop - part.start)
        if positions is None:
            found = await step.match(facts, _everywhere(part.stop - part.start))
            positions = kept = array("H", sorted(found - facts.lost if facts.lost else found))
            if token and not facts.lost:
                if len(part.chunk.found) >= FOUND_PER_CHUNK:
                    part.chunk.found.clear()
                part.chunk.found[token] = kept
        yield facts, positions
        await pace.turn()


def _worth_a_look(snapshot: Snapshot, step: Step, token: str) -> Iterator[Slice]:
    """The slices but for those of which the text index, or an answer kept with the chunk, says that none matches."""
    named = narrowing.slices_of(step)
    if named is not None:
        return snapshot.starting_at(sorted(named))
    return snapshot.slices_where(lambda chunk: bool(chunk.found.get(token, True)))


@lru_cache(SIZES)
def _everywhere(count: int) -> frozenset[int]:
    """All positions of a slice of so many messages."""
    return frozenset(range(count))


def keyword_names(key: c.SearchKey) -> set[str]:
    """The keywords that `key` names, in lower case."""
    flags = (one.flag for one in walk(key) if isinstance(one, c.SearchFlag))
    return {name.lower() for flag in flags for name in split_flags((flag,))[1]}


class Planner:
    """Turns keys into steps; recursive, as the parser bounds the depth (MAX_SEARCH_DEPTH)."""

    def __init__(
        self,
        account_id: int,
        snapshot: Snapshot,
        terms: Terms,
        known: Mapping[c.SearchKey, Known] | None = None,
    ) -> None:
        self._known = known or {}  # what the text index has answered
        self._account_id = account_id
        self._snapshot = snapshot
        self._terms = terms
        self._fuzzy_words = 0
        self.needles: dict[Needle, int] = {}  # needle -> its number

    def plan(self, key: c.SearchKey) -> Step:
        """The step for a key."""
        if isinstance(key, c.SearchAnd):
            return And(map(self.plan, _distinct(key.keys)))
        if isinstance(key, c.SearchOr):
            return Or(map(self.plan, _distinct(key.keys)))
        if isinstance(key, c.SearchNot):
            step = Not(self.plan(key.key))
            return And((narrowing.Present(), step)) if self._known else step
        if isinstance(key, c.SearchFuzzy):
            return self._plan_fuzzy(key.key)
        if isinstance(key, c.SearchHeader):
            return narrowing.indexed(self._known, key, _plan_header(key))
        if isinstance(key, c.SearchText):
            return narrowing.indexed(self._known, key, self._plan_text(key))
        if isinstance(key, c.SearchFlag | c.SearchSet | c.SearchRecent | c.SearchAll):
            return self._plan_cheap(key)
        return self._plan_rows(key)

    def token(self, key: c.SearchKey, step: Step) -> str:
        """A name for the question, under which a chunk may keep its answer for good; empty where it may not."""
        if step.cost > Cost.MESSAGE or isinstance(step, All):
            return ""
        if any(isinstance(one, _PASSING) for one in walk(key)):
            return ""
        bits = [self._terms.keyword_bits.get(name, 0) for name in sorted(keyword_names(key))]
        token = f"{self._account_id} {bits} {key}"
        return token if len(token) <= TOKEN_MAX_CHARS else ""

    def _plan_cheap(self, key: c.SearchAll | c.SearchRecent | c.SearchFlag | c.SearchSet) -> Step:
        if isinstance(key, c.SearchRecent):
            return Range(self._terms.recent_ranges, is_uid=True)
        if isinstance(key, c.SearchSet):
            if key.seq_set.is_saved:
                # RFC 5182 §2.1: `$` names the same messages whether UIDs or numbers are meant
                return Range(self._terms.saved_ranges, is_uid=True)
            maximum = self._snapshot.last_uid if key.is_uid else self._snapshot.count
            return Range(key.seq_set.normalised(maximum), is_uid=key.is_uid)
        if isinstance(key, c.SearchFlag):
            bits, keywords = split_flags((key.flag,))
            bits |= sum(self._terms.keyword_bits.get(name.lower(), 0) for name in keywords)
            return Flag(bits, is_set=key.is_set)
        return All()

    def _plan_rows(
        self,
        key: c.SearchSize | c.SearchDate | c.SearchWithin | c.SearchSaveDate | c.SearchObjectId | c.SearchModSeq,
    ) -> Step:
        if isinstance(key, c.SearchSize):
            if key.test is c.SizeTest.LARGER:
                return Between("size", key.size_bytes + 1, _HIGH)
            return Between("size", _LOW, key.size_bytes)
        if isinstance(key, c.SearchDate):
            low, high = _days(key.test, key.epoch_day)
            # RFC 3501 §6.4.4: disregarding time and timezone
            return Sent(low, high) if key.is_sent else Between("day", low, high)
        if isinstance(key, c.SearchSaveDate):
            low, high = _days(key.test, key.epoch_day)
            return Between("saved_at", low * DAY_S, high * DAY_S)
        if isinstance(key, c.SearchWithin):
            # RFC 5032 §2: both match at the very second
            then = self._terms.now_s - key.interval_s
            return Between("internal_date", *((_LOW, then + 1) if key.is_older else (then, _HIGH)))
        if isinstance(key, c.SearchObjectId):
            number = object_ids.number_in(key.object_id, "T" if key.is_thread else "M", self._account_id)
            return narrowing.indexed(self._known, key, Thread(number) if key.is_thread else MessageId(number))
        changed = self._terms.changed
        return ModSeq(key.mod_seq, None if changed is None else Range(changed, is_uid=True))

    def _plan_fuzzy(self, key: c.SearchKey) -> Step:
        """As `plan`, for keys that may match about. Source: RFC 6203 §3."""
        if isinstance(key, c.SearchAnd):
            return And(map(self._plan_fuzzy, _distinct(key.keys)))
        if isinstance(key, c.SearchOr):
            return Or(map(self._plan_fuzzy, _distinct(key.keys)))
        if isinstance(key, c.SearchFuzzy):
            return self._plan_fuzzy(key.key)
        words = words_of(key.text) if isinstance(key, c.SearchHeader | c.SearchText) else ()
        if not words or self._fuzzy_words + len(words) > WORDS_IN_COMMAND:
            return Scored(self.plan(key))
        self._fuzzy_words += len(words)
        if isinstance(key, c.SearchHeader):
            name = key.field.encode("ascii")
            return FuzzyHeader(name, fold_field(key.text), words, FieldSelection.from_names([name]))
        assert isinstance(key, c.SearchText)
        in_header = key.scope is c.TextScope.TEXT
        bits = 0
        for word in words:
            bits |= 1 << self._number_of(Needle(word, word, in_header, is_loose=True))
        return FuzzyText(1 << self._number_of(needle(key.text, in_header=in_header)), bits)

    def _number_of(self, one: Needle) -> int:
        return self.needles.setdefault(one, len(self.needles))

    def _plan_text(self, key: c.SearchText) -> Step:
        if not key.text:
            return All()  # the empty string is a substring of everything
        one = needle(key.text, in_header=key.scope is c.TextScope.TEXT)
        return Text(self._number_of(one))


_HOLDING: Final = (c.SearchAnd, c.SearchOr, c.SearchNot, c.SearchFuzzy)

# What matches changes with the clock, the session or the command, or is told by the text index
_PASSING: Final = (
    c.SearchFuzzy,
    c.SearchRecent,
    c.SearchSet,
    c.SearchWithin,
    c.SearchModSeq,
    c.SearchHeader,
    c.SearchText,
)


def _distinct(keys: Sequence[c.SearchKey]) -> list[c.SearchKey]:
    """The keys, equal ones once. Those that hold others are not compared: at each level all below is hashed again."""
    plain = dict.fromkeys(one for one in keys if not isinstance(one, _HOLDING))
    return [*plain, *[one for one in keys if isinstance(one, _HOLDING)]]


def _days(test: c.DateTest, day: int) -> tuple[int, int]:
    """(first day, the one behind the last) that pass the test."""
    if test is c.DateTest.BEFORE:
        return _LOW, day
    return day, day + 1 if test is c.DateTest.ON else _HIGH


def _plan_header(key: c.SearchHeader) -> Step:
    name = key.field.encode("ascii")
    folded = fold_field(key.text)
    selection = FieldSelection.from_names([name])
    return Header(name, folded) if selection is None else CoreHeader(name, folded, selection)
