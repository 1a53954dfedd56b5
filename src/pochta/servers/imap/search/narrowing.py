"""What is known of the keys of a search before any message is read, told in positions of the view.

The index knows messages, not where they stand. So it is asked before anything is read, for a few keys at a time; then
`placing` finds out where the messages it names stand. What it does not know for sure (a text too long to be kept, a
message that came after the last one indexed) stays with the step that reads, so the answer is the same with and without
an index.

A message that the index knows is not opened: damage done to its bytes since is not noticed here.
"""

from array import array
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Final

from pochta.index.reader import Answer, FieldQuestion, HeaderQuestion, Question, TextQuestion
from pochta.index.searcher import Found
from pochta.index.texts import FIELDS, SEPARATOR
from pochta.mime.fold import fold_field
from pochta.proto.imap import commands as c
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap import object_ids
from pochta.servers.imap.search.facts import Facts, Mailbox
from pochta.servers.imap.search.placing import Known, place
from pochta.servers.imap.search.steps import And, Cost, Or, Places, Step
from pochta.servers.imap.search.text import needle
from pochta.store.tx import Tx

QUESTIONS_MAX: Final = 32  # of one command: five words in each of six keys; what is left over is decided by reading
# together: 8 octets a hit until it is placed, 2 then; a hundred thousand messages make answers of 3 MB
QUESTIONS_AT_ONCE: Final = 4
THREAD_MAX: Final = 1000  # messages of a thread named at once: 0.5 ms; a longer one is found by looking at all
EVERY_ID: Final = (1 << 63) - 1
MAYBE_MAX: Final = 256  # more than that to be read: cheaper keys go first


@dataclass(frozen=True, slots=True)
class Indexed:
    """A key that the index has answered; `reading` decides what is left."""

    known: Known
    reading: Step
    cost: Cost

    async def match(self, facts: Facts, among: Places) -> Places:
        seq = facts.part.seq
        found = among & set(self.known.sure.get(seq, ()))
        doubtful = among & set(self.known.maybe.get(seq, ()))
        return found | await self.reading.match(facts, doubtful) if doubtful else found


@dataclass(frozen=True, slots=True)
class Present:
    """The messages that can be read still: what NOT takes away from, where the index answers without reading."""

    cost: Cost = Cost.PLACEMENT

    async def match(self, facts: Facts, among: Places) -> Places:
        await facts.columns(among)
        return among - facts.lost


def indexed(known: Mapping[c.SearchKey, Known], key: c.SearchKey, reading: Step) -> Step:
    """The step of a key: `reading`, or what the index leaves of it."""
    answer = known.get(key)
    if answer is None:
        return reading
    return Indexed(answer, reading, Cost.ARRAYS if answer.maybe_count <= MAYBE_MAX else reading.cost)


def slices_of(step: Step) -> AbstractSet[int] | None:
    """Outside of which slices (by the sequence number of the first message) the step matches nothing; None: any may."""
    if isinstance(step, Indexed):
        return step.known.sure.keys() | step.known.maybe.keys()
    if isinstance(step, And):
        known = [one for one in map(slices_of, step.steps) if one is not None]
        return reduce(and_, known) if known else None
    if isinstance(step, Or):
        each = list(map(slices_of, step.steps))
        return None if None in each else reduce(or_, [one for one in each if one is not None])
    return None


async def ask(mailbox: Mailbox, key: c.SearchKey, snapshot: Snapshot) -> Mapping[c.SearchKey, Known]:
    """What is known of keys in the tree about messages of the snapshot, of QUESTIONS_MAX at most.

    Keys about text are known to an index only; those about threads and messages by their ids to the store.
    """
    known: dict[c.SearchKey, Known] = {}
    questions: dict[c.SearchKey, Question] = {}
    for one in _asked(key):
        if len(known) + len(questions) == QUESTIONS_MAX:
            break
        if isinstance(one, c.SearchObjectId):
            ids = await mailbox.store.read(mailbox.account_id, _ids_of, mailbox.account_id, one)
            if len(ids) <= THREAD_MAX and one not in known:
                found = Found(EVERY_ID, [Answer(array("q", ids), array("q"))])
                [known[one]] = await place(mailbox, snapshot, found)
        elif mailbox.searcher is not None and (question := _question(one)) is not None:
            questions[one] = question
    keys = list(questions)
    for start in range(0, len(keys), QUESTIONS_AT_ONCE):
        asked = keys[start : start + QUESTIONS_AT_ONCE]
        assert mailbox.searcher is not None
        answers = await mailbox.searcher.ask(mailbox.store, mailbox.account_id, [questions[one] for one in asked])
        if answers is None:
            break
        known.update(zip(asked, await place(mailbox, snapshot, answers), strict=True))
    return known


def _asked(key: c.SearchKey) -> Iterator[c.SearchHeader | c.SearchText | c.SearchObjectId]:
    """The keys about text and ids in the tree, but for fuzzy ones: those are not folded as the index is."""
    stack: list[c.SearchKey] = [key]
    while stack:
        one = stack.pop()
        if isinstance(one, c.SearchAnd | c.SearchOr):
            stack.extend(one.keys)
        elif isinstance(one, c.SearchNot):
            stack.append(one.key)
        elif isinstance(one, c.SearchHeader | c.SearchText | c.SearchObjectId):
            yield one


def _ids_of(tx: Tx, account_id: int, key: c.SearchObjectId) -> list[int]:
    """The messages that an EMAILID or THREADID means, rising; of a thread THREAD_MAX and one at most."""
    number = object_ids.number_in(key.object_id, "T" if key.is_thread else "M", account_id)
    if not key.is_thread:
        return [number] if number else []
    # sorted here: ORDER BY would have SQLite go through all messages by id, 25 ms for 100 000
    sql = "SELECT id FROM message WHERE account_id = ? AND thread_id = ? LIMIT ?"
    return sorted([row[0] for row in tx.rows(sql, (account_id, number, THREAD_MAX + 1))])


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
