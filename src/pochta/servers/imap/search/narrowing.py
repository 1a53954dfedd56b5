"""What the text index says to the keys of a search, told in uids of the mailbox.

The index knows messages, not where they stand. So it is asked before anything is read, for a few keys at a time; then
the store is asked where the messages it names stand. What it does not know for sure (a text too long to be kept, a
message that came after the last one indexed) stays with the step that reads, so the answer is the same with and without
an index.

A message that the index knows is not opened: damage done to its bytes since is not noticed here.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from pochta.index.reader import FieldQuestion, HeaderQuestion, Question, TextQuestion
from pochta.index.searcher import Found
from pochta.index.texts import FIELDS, SEPARATOR
from pochta.mime.fold import fold_field
from pochta.proto.imap import commands as c
from pochta.servers.imap.search.facts import Facts, Mailbox
from pochta.servers.imap.search.steps import Cost, Step
from pochta.servers.imap.search.text import needle
from pochta.servers.imap.sort.columns import run
from pochta.servers.pace import Pace
from pochta.store.tx import Row, Tx

IDS: Final = 500  # looked for at once: 0.7 ms
ROWS: Final = 1000  # of a mailbox read at once: 0.5 ms
SCAN_SHARE: Final = 4  # one message of so many is wanted: all placements are read in their order
LATER_MAX: Final = 2000  # not indexed yet: looked at wherever in the account they stand; of more, all placements are
QUESTIONS_MAX: Final = 32  # of one command: five words in each of six keys; what is left over is decided by reading
# together: two bits each in an octet for every id; a hundred thousand messages make answers of 3 MB then
QUESTIONS_AT_ONCE: Final = 4
NAMED_MAX: Final = 1000  # messages kept in a dictionary; above, an octet for each id of the account is less
MAYBE_MAX: Final = 256  # more than that to be read: cheaper keys go first


@dataclass(frozen=True, slots=True)
class Known:
    """Uids, rising: of messages that match, and of those that have to be looked into. All others do not match."""

    sure: Sequence[int]
    maybe: Sequence[int]


@dataclass(frozen=True, slots=True)
class Indexed:
    """A key that the index has answered; `reading` decides what is left."""

    known: Known
    reading: Step
    cost: Cost

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        found = _positions(self.known.sure, facts.uids) & among
        doubtful = _positions(self.known.maybe, facts.uids) & among
        if doubtful:
            found |= await self.reading.match(facts, doubtful)
        return found


@dataclass(frozen=True, slots=True)
class Present:
    """The messages that can be read still: what NOT takes away from, where the index answers without reading."""

    cost: Cost = Cost.PLACEMENT

    async def match(self, facts: Facts, among: set[int]) -> set[int]:
        await facts.columns(among)
        return among - facts.lost


def _positions(wanted: Sequence[int], uids: "array[int]") -> set[int]:
    """Where the wanted uids stand; both rise."""
    first, stop = bisect_left(wanted, uids[0]), bisect_right(wanted, uids[-1])
    if stop - first == 0:
        return set()
    here = set(wanted[first:stop])
    if len(here) * 8 < len(uids):
        places = ((bisect_left(uids, one), one) for one in here)
        return {at for at, one in places if uids[at] == one}
    return {at for at, uid in enumerate(uids) if uid in here}


def indexed(known: Mapping[c.SearchKey, Known], key: c.SearchKey, reading: Step) -> Step:
    """The step of a key: `reading`, or what the index leaves of it."""
    answer = known.get(key)
    if answer is None:
        return reading
    return Indexed(answer, reading, Cost.ARRAYS if len(answer.maybe) <= MAYBE_MAX else reading.cost)


async def ask(mailbox: Mailbox, key: c.SearchKey, message_count: int) -> Mapping[c.SearchKey, Known]:
    """What the index knows of the keys in the tree; empty without an index. `message_count`: of the mailbox."""
    if mailbox.searcher is None:
        return {}
    questions: dict[c.SearchKey, Question] = {}
    for text_key in _texts(key):
        question = _question(text_key)
        if question is not None:
            questions[text_key] = question
            if len(questions) == QUESTIONS_MAX:
                break
    keys = list(questions)
    known: dict[c.SearchKey, Known] = {}
    for start in range(0, len(keys), QUESTIONS_AT_ONCE):
        asked = keys[start : start + QUESTIONS_AT_ONCE]
        found = await mailbox.searcher.ask(mailbox.store, mailbox.account_id, [questions[one] for one in asked])
        if found is None:
            break
        known.update(zip(asked, await _Placing(mailbox, found).known(message_count), strict=True))
    return known


def _texts(key: c.SearchKey) -> Iterator[c.SearchHeader | c.SearchText]:
    """The keys about text in the tree, but for fuzzy ones: those are not folded as the index is."""
    stack: list[c.SearchKey] = [key]
    while stack:
        one = stack.pop()
        if isinstance(one, c.SearchAnd | c.SearchOr):
            stack.extend(one.keys)
        elif isinstance(one, c.SearchNot):
            stack.append(one.key)
        elif isinstance(one, c.SearchHeader | c.SearchText):
            yield one


def _question(key: c.SearchHeader | c.SearchText) -> Question | None:
    """The question of a key; None where the index cannot be asked."""
    if SEPARATOR in key.text or not _is_encodable(key.text):
        return None
    if isinstance(key, c.SearchHeader) and ":" in key.field:
        return None  # no field has such a name, but the line of one may begin so
    if isinstance(key, c.SearchText):
        if not key.text:
            return None
        one = needle(key.text, in_header=key.scope is c.TextScope.TEXT)
        return TextQuestion(one.body_form, one.header_form, one.in_header)
    column = FIELDS.get(key.field.encode("ascii"))
    form = fold_field(key.text)
    return HeaderQuestion(key.field, form) if column is None else FieldQuestion(column, form)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Placing:
    """Answers about messages of the account, told in uids of the mailbox."""

    __slots__ = ("_args", "_bits", "_found", "_mailbox", "_maybe", "_pace", "_sure", "_unknown")

    def __init__(self, mailbox: Mailbox, found: Found) -> None:
        self._mailbox = mailbox
        self._args = (mailbox.account_id, mailbox.mailbox_id)
        self._found = found
        self._bits: dict[int, int] | bytearray = {}
        self._sure = [array("I") for _ in found.answers]
        self._maybe = [array("I") for _ in found.answers]
        self._unknown = array("I")  # came after the last one indexed
        self._pace = Pace()

    async def known(self, message_count: int) -> list[Known]:
        """What is known, answer by answer."""
        read, account_id = self._mailbox.store.read, self._mailbox.account_id
        named = sum(len(ids) for answer in self._found.answers for ids in answer)
        self._bits = await run(_bits_of, named, self._found)
        count = len(self._bits) if isinstance(self._bits, dict) else len(self._bits) - self._bits.count(0)
        later = await read(account_id, _count_later, account_id, self._found.last_id)
        is_whole = count * SCAN_SHARE >= message_count or later > LATER_MAX
        tables = ["placement", "removed"] if await read(account_id, _has_removed, *self._args) else ["placement"]
        for table in tables:
            if is_whole:
                await self._read_whole(table)
            else:
                await self._read_named(table)
                await self._read_later(table)
        unknown = self._unknown
        return [
            Known(await run(_sorted, len(sure), sure), await run(_sorted, len(maybe) + len(unknown), maybe + unknown))
            for sure, maybe in zip(self._sure, self._maybe, strict=True)
        ]

    async def _read_whole(self, table: str) -> None:
        read, last_uid = self._mailbox.store.read, 0
        while rows := await read(self._mailbox.account_id, _read_all, table, *self._args, last_uid):
            self._take(rows)
            last_uid = rows[-1][1]
            await self._pace.turn()

    async def _read_named(self, table: str) -> None:
        bits = self._bits
        ids = sorted(bits) if isinstance(bits, dict) else [one for one, mark in enumerate(bits) if mark]
        for start in range(0, len(ids), IDS):
            part = tuple(ids[start : start + IDS])
            self._take(await self._mailbox.store.read(self._mailbox.account_id, _read_some, table, *self._args, part))
            await self._pace.turn()

    async def _read_later(self, table: str) -> None:
        read, after_id, after_uid = self._mailbox.store.read, self._found.last_id, 1 << 32
        while rows := await read(self._mailbox.account_id, _read_later, table, *self._args, after_id, after_uid):
            self._take(rows)
            after_id, after_uid = rows[-1]
            await self._pace.turn()

    def _take(self, rows: Sequence[Row]) -> None:
        last_id, bits = self._found.last_id, self._bits
        self._unknown.extend([uid for one, uid in rows if one > last_id])
        if isinstance(bits, dict):
            here = [(mark, uid) for one, uid in rows if (mark := bits.get(one, 0))]
        else:
            here = [(mark, uid) for one, uid in rows if one <= last_id and (mark := bits[one])]
        if here:
            for number, (sure, maybe) in enumerate(zip(self._sure, self._maybe, strict=True)):
                is_sure, is_maybe = 1 << 2 * number, 2 << 2 * number
                sure.extend([uid for mark, uid in here if mark & is_sure])
                maybe.extend([uid for mark, uid in here if mark & is_maybe])


def _bits_of(found: Found) -> dict[int, int] | bytearray:
    """By message id, two bits for each answer: whether the message matches, whether it may. Few are a dictionary."""
    named = sum(len(ids) for answer in found.answers for ids in answer)
    bits: dict[int, int] | bytearray
    bits = (
        dict.fromkeys(chain.from_iterable(chain(*found.answers)), 0)
        if named <= NAMED_MAX
        else bytearray(found.last_id + 1)
    )
    for number, answer in enumerate(found.answers):
        for mark, ids in ((1, answer.sure), (2, answer.maybe)):
            for one in ids:
                bits[one] |= mark << 2 * number
    return bits


def _sorted(uids: "array[int]") -> "array[int]":
    return array("I", sorted(uids))


def _count_later(tx: Tx, account_id: int, last_id: int) -> int:
    """How many messages, at most, are not indexed."""
    row = tx.row("SELECT next_id FROM account WHERE id = ?", (account_id,))
    return 0 if row is None else int(row[0]) - 1 - last_id


def _has_removed(tx: Tx, account_id: int, mailbox_id: int) -> bool:
    row = tx.row("SELECT 1 FROM removed WHERE account_id = ? AND mailbox_id = ? LIMIT 1", (account_id, mailbox_id))
    return row is not None


def _read_all(tx: Tx, table: str, account_id: int, mailbox_id: int, after_uid: int) -> list[Row]:
    return tx.rows(
        f"SELECT message_id, uid FROM {table} WHERE account_id = ? AND mailbox_id = ? AND uid > ? ORDER BY uid LIMIT ?",
        (account_id, mailbox_id, after_uid, ROWS),
    )


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
