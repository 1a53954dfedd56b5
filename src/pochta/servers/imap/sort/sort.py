"""SORT and UID SORT: what is found (`search`), in the order that the mailbox's columns give (`columns`).

Source: RFC 5256 §3, RFC 5267 §3 (ESORT, PARTIAL), RFC 5957, RFC 6203 §6, RFC 7162 §3.1.9 and §3.1.10, RFC 9394 §3.
"""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pochta.errors import Refusal, TryLater
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.search_return import RETURN_ALL, ReturnOption, SearchReturn
from pochta.proto.imap.sort import Criterion, Sort, SortKey, sort_places
from pochta.servers.imap.search import answer as search_answer
from pochta.servers.imap.search import contexts, search
from pochta.servers.imap.search.answer import Results
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.search import Found
from pochta.servers.imap.selected import Selected
from pochta.servers.imap.sort.columns import Columns, run
from pochta.servers.imap.sort.context import SortContext
from pochta.store.changes import ranges_of

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

ENDS: Final = frozenset((ReturnOption.MIN, ReturnOption.MAX))


async def sort(connection: "ImapConnection", tag: bytes, command: Sort) -> None:
    """SORT and UID SORT."""
    selected = connection.selected
    assert selected is not None
    if not search.is_lawful(connection, tag, command.key, is_uid=command.is_uid, has_charset=False):
        return
    returns = command.returns
    is_updated = returns is not None and ReturnOption.UPDATE in returns
    if is_updated and not contexts.may_begin(connection, tag):
        return
    saved_ranges = selected.saved_ranges
    try:
        if isinstance(command.key, c.SearchAll) and returns is None:
            await connection.send_large(await _whole_answer(connection, command))
        else:
            found = await search.run_search(connection, command.key)
            results, uids = await sort_found(connection, found, command)
            is_saved = returns is not None and ReturnOption.SAVE in returns
            if returns is not None and is_saved and not await _save(selected, found, returns, uids):
                connection.send(encode.tagged(tag, b"NO", "The result has too many ranges to save", code=b"NOTSAVED"))
                return
            await search.answer(connection, tag, b"SORT", returns, results)
            if is_updated:
                key = contexts.with_uids(command.key, found.snapshot, saved_ranges)
                await _keep_up(connection, tag, command, key, found, uids)
    except (Refusal, TryLater):
        if returns is not None and ReturnOption.SAVE in returns:
            selected.saved_ranges = ()  # RFC 5182 §2.1: what NO answers saves the empty result
        raise
    # RFC 5256 §3: no EXPUNGE while SORT answers with sequence numbers
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    connection.send(encode.tagged(tag, b"OK", "SORT completed"))


async def _keep_up(
    connection: "ImapConnection", tag: bytes, command: Sort, key: c.SearchKey, found: Found, uids: Sequence[int]
) -> None:
    """Keep up with the result, or tell that we will not. Source: RFC 5267 §4.3."""
    selected = connection.selected
    assert selected is not None
    if any(one.criterion is Criterion.RELEVANCY for one in command.keys):
        # scores change with the messages: no place of a result would hold
        code = b'NOUPDATE "%b"' % tag
        connection.send(encode.untagged(b"NO", "What is sorted by relevancy is not kept up with", code=code))
        return
    context = SortContext(tag, command.keys, key, uids, is_uid=command.is_uid)
    items = () if command.returns is None else command.returns.items
    await contexts.begin(connection, selected, context, found.snapshot, size=len(uids), items=items)


async def _whole_answer(connection: "ImapConnection", command: Sort) -> bytes:
    """The response that names every message; kept for whoever asks next."""
    selected = connection.selected
    assert selected is not None
    mailbox = Mailbox(connection.context.store, selected.account_id, selected.mailbox_id)
    async with connection.context.views.columns.of(mailbox, await selected.snapshot()) as columns:
        question = (command.keys, command.is_uid)
        answer = columns.answers.get(question)
        if answer is None:
            await columns.need([one.criterion for one in command.keys])
            places = await run(columns.places_of, len(columns.members), columns.asked)
            numbers = await run(_sorted_numbers, len(places), columns, places, command.keys, command.is_uid)
            answer = b"".join(await search_answer.plain(b"SORT", Results(numbers, command.is_uid, is_rising=False)))
            columns.keep_answer(question, answer)
    return answer


async def sort_found(connection: "ImapConnection", found: Found, command: Sort) -> tuple[Results, Sequence[int]]:
    """What was found, sorted: as the command's results, and its uids."""
    selected = connection.selected
    assert selected is not None
    mailbox = Mailbox(connection.context.store, selected.account_id, selected.mailbox_id)
    uids = await found.numbers(is_uid=True)
    async with connection.context.views.columns.of(mailbox, found.snapshot) as columns:
        await columns.need([one.criterion for one in command.keys if one.criterion is not Criterion.RELEVANCY])
        return await run(_sorted_results, len(uids), columns, found, uids, command)


def _sorted_results(columns: Columns, found: Found, uids: "array[int]", command: Sort) -> tuple[Results, Sequence[int]]:
    places = columns.places_of(uids)
    known = columns.uids
    mod_seqs: dict[int, int] = dict(zip(uids, found.mod_seqs, strict=True)) if found.mod_seqs else {}
    scores: dict[int, int] = dict(zip(uids, found.scores, strict=True)) if found.scores else {}
    if any(one.criterion is Criterion.RELEVANCY for one in command.keys):
        ordered: Sequence[int] = _sorted_by_score(columns, places, command.keys, scores)
    else:
        ordered = columns.sorted_places(places, command.keys)
    sorted_uids = [known[place] for place in ordered]
    seqs = columns.seqs
    numbers = sorted_uids if command.is_uid else [seqs[place] for place in ordered]
    results = Results(
        numbers,
        command.is_uid,
        [mod_seqs[uid] for uid in sorted_uids] if mod_seqs else (),
        [scores[uid] for uid in sorted_uids] if scores else (),
        is_rising=False,
    )
    return results, sorted_uids


def _sorted_by_score(
    columns: Columns, places: Sequence[int], keys: Sequence[SortKey], scores: dict[int, int]
) -> list[int]:
    # RFC 6203 §6: the message with the highest score first
    negative = array("b", bytes(len(columns.uids)))
    for place in places:
        negative[place] = -scores.get(columns.uids[place], 1)
    by: list[tuple[Any, bool]] = [
        (negative if one.criterion is Criterion.RELEVANCY else columns.values[one.criterion], one.is_reverse)
        for one in keys
    ]
    return sort_places(places, by)


def _sorted_numbers(columns: Columns, places: Sequence[int], keys: tuple[SortKey, ...], is_uid: bool) -> list[int]:
    ordered = columns.sorted_places(places, keys)
    numbers = columns.uids if is_uid else columns.seqs
    return [numbers[place] for place in ordered]


async def _save(selected: Selected, found: Found, returns: SearchReturn, uids: Sequence[int]) -> bool:
    """As `search.save`; MIN, MAX and PARTIAL mean the sorted order, of which `uids` are the result."""
    if returns.options & ENDS or returns.partial is not None:
        chosen = sorted({uid for part in returns.chosen(len(uids)) for uid in uids[part.start : part.stop]})
        parts = [(part, range(part.stop - part.start)) for part in found.snapshot.by_uid(ranges_of(chosen))]
        found, returns = Found(found.snapshot, parts), RETURN_ALL
    return await search.save(selected, found, returns)
