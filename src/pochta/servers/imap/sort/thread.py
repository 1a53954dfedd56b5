"""THREAD and UID THREAD: what is found (`search`), as the threads that its ancestries and subjects make.

Source: RFC 5256 §3, RFC 7162 §3.1.9 (MODSEQ changes nothing here), draft-ietf-morg-inthread-01 §4.
"""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pochta.proto.imap import commands as c
from pochta.proto.imap import encode, thread
from pochta.proto.imap.sort import Algorithm, Criterion, SortKey, Thread
from pochta.servers.imap.search import search
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.sort.columns import Columns, run

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

BY_DATE: Final = (SortKey(Criterion.DATE),)


async def thread_(connection: "ImapConnection", tag: bytes, command: Thread) -> None:
    """THREAD and UID THREAD."""
    if not search.is_lawful(connection, tag, command.key, is_uid=command.is_uid, has_charset=False):
        return
    await connection.send_large(await _answer(connection, command))
    # RFC 5256 §3: no EXPUNGE while THREAD answers with sequence numbers
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    connection.send(encode.tagged(tag, b"OK", "THREAD completed"))


async def _answer(connection: "ImapConnection", command: Thread) -> bytes:
    selected = connection.selected
    assert selected is not None
    is_whole = isinstance(command.key, c.SearchAll)
    uids: Sequence[int] = ()
    snapshot = await selected.snapshot()
    if not is_whole:
        found = await search.run_search(connection, command.key)
        uids, snapshot = await found.numbers(is_uid=True), found.snapshot
    mailbox = Mailbox(connection.context.store, selected.account_id, selected.mailbox_id)
    async with connection.context.views.columns.of(mailbox, snapshot) as columns:
        question = (command.algorithm, command.is_uid)
        answer = columns.answers.get(question) if is_whole else None
        if answer is None:
            criteria = [Criterion.DATE] if command.algorithm is Algorithm.REFS else [Criterion.DATE, Criterion.SUBJECT]
            await columns.need(criteria, with_ancestries=command.algorithm is not Algorithm.ORDEREDSUBJECT)
            asked = columns.asked if is_whole else uids
            answer = await run(_threads, len(asked), columns, asked, command)
            if is_whole:
                columns.keep_answer(question, answer)
    return answer


def _threads(columns: Columns, uids: Sequence[int], command: Thread) -> bytes:
    """The response; slow."""
    places = columns.places_of(uids)
    by_date = columns.sorted_places(places, BY_DATE)
    numbers = columns.uids if command.is_uid else columns.seqs
    if command.algorithm is Algorithm.ORDEREDSUBJECT:
        forest = thread.ordered_subject(_subjects(columns, by_date))
    else:
        node_of = array("I", bytes(4 * len(columns.uids)))
        for node, place in enumerate(by_date):
            node_of[place] = node
        nodes = [node_of[place] for place in places]
        ancestry = _ancestry(columns, places)
        if command.algorithm is Algorithm.REFS:
            forest = thread.refs(ancestry, nodes)
        else:
            assert columns.ancestries is not None
            marks = columns.ancestries.is_reply
            subjects = _subjects(columns, by_date)
            forest = thread.references(ancestry, nodes, subjects, [marks[place] for place in by_date])
    threads = thread.render(forest, [str(numbers[place]) for place in by_date])
    return b"* THREAD %b\r\n" % threads if threads else b"* THREAD\r\n"


def _subjects(columns: Columns, places: Sequence[int]) -> list[int]:
    """A number for the subject of each; equal ones have one number, the empty one 0."""
    texts: list[str] = columns.values[Criterion.SUBJECT]
    numbers: dict[str, int] = {"": 0}
    return [numbers.setdefault(texts[place], len(numbers)) for place in places]


def _ancestry(columns: Columns, places: Sequence[int]) -> thread.Ancestry:
    """The ancestries of these messages, in the mailbox's order."""
    assert columns.ancestries is not None
    own, ids, ends, _ = columns.ancestries
    if len(places) == len(columns.uids):
        return thread.Ancestry(own, ids, ends)
    some_ids, some_ends = array("q"), array("I")
    for place in places:
        some_ids += ids[ends[place - 1] if place else 0 : ends[place]]
        some_ends.append(len(some_ids))
    return thread.Ancestry([own[place] for place in places], some_ids, some_ends)
