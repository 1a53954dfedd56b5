"""What the text index says to the keys of a search, told in uids of the mailbox.

The index knows messages, not where they stand. So it is asked once for each command, for all its keys; then the store
is asked where the messages it names stand. What it does not know for sure (a text too long to be kept, a message that
came after the last one indexed) stays with the step that reads, so the answer is the same with and without an index.

A message that the index knows is not opened: damage done to its bytes since is not noticed here.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pochta.index.reader import FieldQuestion, HeaderQuestion, Question, TextQuestion
from pochta.index.texts import FIELDS, SEPARATOR
from pochta.mime.fold import fold_field
from pochta.proto.imap import commands as c
from pochta.servers.imap.search_facts import Facts, Mailbox
from pochta.servers.imap.search_steps import Cost, Step
from pochta.servers.imap.search_text import needle
from pochta.servers.pace import Pace
from pochta.store.tx import Row, Tx

IDS: Final = 500  # looked for at once: 0.7 ms
ROWS: Final = 1000  # of a mailbox read at once: 0.5 ms
SCAN_SHARE: Final = 4  # one message of so many is wanted: all placements are read in their order
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
    if not questions:
        return {}
    found = await mailbox.searcher.ask(mailbox.store, mailbox.account_id, list(questions.values()))
    if found is None:
        return {}
    wanted = {one for answer in found.answers for ids in answer for one in ids}
    pace = Pace()
    rows = await _placed(mailbox, wanted, message_count, pace)
    unknown = await _added_since(mailbox, found.last_id, pace)
    known: dict[c.SearchKey, Known] = {}
    for one, (sure, maybe) in zip(questions, found.answers, strict=True):
        known[one] = Known(_uids(rows, sure), sorted({*_uids(rows, maybe), *unknown}))
        await pace.turn()
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


def _uids(rows: Iterable[Row], ids: Sequence[int]) -> "array[int]":
    wanted = set(ids)
    return array("I", sorted({row[1] for row in rows if row[0] in wanted}))


async def _placed(mailbox: Mailbox, wanted: set[int], message_count: int, pace: Pace) -> list[Row]:
    """(message id, uid) of the wanted messages in the mailbox; of others, too, where most are wanted."""
    store, account_id, mailbox_id = mailbox.store, mailbox.account_id, mailbox.mailbox_id
    found: list[Row] = []
    if not wanted:
        return found
    tables = ["placement"]
    if await store.read(account_id, _has_removed, account_id, mailbox_id):
        tables.append("removed")
    ids = sorted(wanted)
    for table in tables:
        if len(ids) * SCAN_SHARE >= message_count:
            last_uid = 0
            while rows := await store.read(account_id, _read_all, table, account_id, mailbox_id, last_uid):
                found += rows
                last_uid = rows[-1][1]
                await pace.turn()
            continue
        for start in range(0, len(ids), IDS):
            part = tuple(ids[start : start + IDS])
            found += await store.read(account_id, _read_some, table, account_id, mailbox_id, part)
            await pace.turn()
    return found


async def _added_since(mailbox: Mailbox, last_id: int, pace: Pace) -> list[int]:
    """The uids of messages that came after the last one indexed."""
    found: list[int] = []
    for table in ("placement", "removed"):
        after_id, after_uid = last_id, 1 << 32
        args = (mailbox.account_id, mailbox.mailbox_id)
        while rows := await mailbox.store.read(mailbox.account_id, _read_later, table, *args, after_id, after_uid):
            found += [row[1] for row in rows]
            after_id, after_uid = rows[-1]
            await pace.turn()
    return found


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
