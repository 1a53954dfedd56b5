"""SEARCH and UID SEARCH: what is asked becomes a plan (`plan`), what is found an answer (`answer`).

Other commands that search (SORT, THREAD, ESEARCH) take `run_search`. The result that SAVE keeps is a list of uid ranges
of the session's view: a removed message drops out of it by itself, and a new one never gets in.

Source: RFC 3501 §6.4.4, RFC 4466 §2.6, RFC 4731 §3, RFC 5182 §2, RFC 7162 §3.1.5, RFC 9051 §6.4.4, RFC 9394 §3.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pochta import clock
from pochta.errors import Refusal, TryLater
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.search import CHARSETS, is_fuzzy, walk
from pochta.proto.imap.search_return import RETURN_ALL, ReturnOption, SearchReturn
from pochta.proto.imap.seqset import MAX_RANGES, SeqSet
from pochta.proto.imap.view import Slice, Snapshot
from pochta.servers.imap import condstore
from pochta.servers.imap.progress import Progress
from pochta.servers.imap.search import answer as search_answer
from pochta.servers.imap.search import contexts
from pochta.servers.imap.search.answer import Correlator, Results
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Terms, find, keyword_names
from pochta.servers.imap.selected import Selected
from pochta.servers.imap.sort.columns import run
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.servers.pace import Pace
from pochta.store.changes import UidRange

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

BADCHARSET: Final = b"BADCHARSET (%b)" % " ".join(name for name in CHARSETS if name != "ASCII").encode("ascii")

CHUNKS_A_BLOCK: Final = 32  # of a SEARCH response, sent at once: up to 16 000 numbers
SAVED_MAX_RANGES: Final = MAX_RANGES  # of a saved result: as many as a client may write out itself


class Found(NamedTuple):
    """The messages found, in the order of the mailbox: slices of `snapshot` with the positions in each.

    `mod_seqs` (message by message) is empty unless a MODSEQ key was given, `scores` unless a FUZZY one was.
    """

    snapshot: Snapshot
    parts: Sequence[tuple[Slice, Sequence[int]]]
    mod_seqs: Sequence[int] = ()
    scores: Sequence[int] = ()

    async def numbers(self, *, is_uid: bool) -> "array[int]":
        """Their uids or sequence numbers, rising. 0.03 us a message."""
        numbers = array("I")
        pace = Pace()
        for part, positions in self.parts:
            is_whole = len(positions) == part.stop - part.start
            if is_uid:
                uids = part.uids
                numbers.extend(uids if is_whole else [uids[at] for at in positions])
            elif is_whole:
                numbers.extend(range(part.seq, part.seq + len(positions)))
            else:
                seq = part.seq
                numbers.extend([seq + at for at in positions])
            await pace.turn()
        return numbers

    async def response(self, *, is_uid: bool) -> list[bytes]:
        """The SEARCH response without mod-sequences, in blocks; where a chunk keeps what was found, its text too."""
        blocks = [b"* SEARCH"]
        pace = Pace()
        for part, positions in self.parts:
            chunk, seq = part.chunk, 0 if is_uid else part.seq
            known, base, text = chunk.numbered
            if known is not positions or base != seq:
                numbers = map(part.uids.__getitem__, positions) if is_uid else [seq + at for at in positions]
                text = search_answer.numbers_text(tuple(numbers))
                if isinstance(positions, array):
                    chunk.numbered = (positions, seq, text)
            blocks.append(text)
            await pace.turn()
        blocks.append(b"\r\n")
        return [b"".join(blocks[at : at + CHUNKS_A_BLOCK]) for at in range(0, len(blocks), CHUNKS_A_BLOCK)]


async def run_search(connection: "ImapConnection", key: c.SearchKey) -> Found:
    """The messages of the selected mailbox, as the client knows it, that match.

    Raises:
        TryLater: the store cannot be read.
    """
    selected = connection.selected
    assert selected is not None
    mailbox, terms = await where_and_how(connection, selected, key)
    told = selected.told_mod_seq if any(isinstance(one, c.SearchModSeq) for one in walk(key)) else 0
    snapshot = await selected.snapshot()
    return await collect(mailbox, snapshot, key, terms, told_mod_seq=told, progress=connection.progress)


async def where_and_how(connection: "ImapConnection", selected: Selected, key: c.SearchKey) -> tuple[Mailbox, Terms]:
    """The selected mailbox, and what the words of `key` mean in it now."""
    mod_seqs = [one.mod_seq for one in walk(key) if isinstance(one, c.SearchModSeq)]
    changed: Sequence[UidRange] | None = None
    if mod_seqs:
        condstore.make_aware(connection)
        changed = await condstore.changed_ranges(connection, selected, min(mod_seqs) - 1)
    terms = Terms(
        recent_ranges=selected.recent_ranges,
        keyword_bits=await keyword_bits(connection, selected.account_id, key),
        changed=changed,
        saved_ranges=selected.saved_ranges,
        now_s=int(clock.now_s()),
    )
    context = connection.context
    return Mailbox(context.store, selected.account_id, selected.mailbox_id, context.index), terms


async def collect(
    mailbox: Mailbox,
    snapshot: Snapshot,
    key: c.SearchKey,
    terms: Terms,
    *,
    told_mod_seq: int = 0,
    progress: Progress | None = None,
) -> Found:
    """The messages of the snapshot that match; `told_mod_seq`, if not 0: with the mod_seq of each.

    That of a message removed meanwhile counts as `told_mod_seq` (INV-8).
    """
    parts: list[tuple[Slice, Sequence[int]]] = []
    mod_seqs, scores = array("q"), array("B")
    has_scores = is_fuzzy(key)
    async for facts, positions in find(mailbox, snapshot, key, terms):
        if progress is not None:
            await progress.tell(facts.part.seq + len(facts.uids) - 1, snapshot.count)
        if not positions:
            continue
        parts.append((facts.part, positions))
        if told_mod_seq:
            known = await facts.mod_seqs(positions)
            mod_seqs.extend([known[at] or told_mod_seq for at in positions])
        if has_scores:
            scores.extend([facts.scores.get(at, 1) for at in positions])
    return Found(snapshot, parts, mod_seqs, scores)


async def keyword_bits(connection: "ImapConnection", account_id: int, key: c.SearchKey) -> dict[str, int]:
    """The bit of each keyword of the mailbox's owner, by its name in lower case, as far as `key` needs them."""
    names = keyword_names(key)
    if not names:
        return {}
    views = connection.context.views
    known = {name.lower(): bit for bit, name in (await views.keywords(account_id, 0)).items()}
    if not names <= known.keys():
        known = {name.lower(): bit for bit, name in (await views.keywords(account_id, ANY_KEYWORD)).items()}
    return known


async def search(connection: "ImapConnection", tag: bytes, command: c.Search) -> None:
    """SEARCH and UID SEARCH."""
    selected = connection.selected
    assert selected is not None
    if not is_lawful(connection, tag, command.key, is_uid=command.is_uid, has_charset=command.has_charset):
        return
    returns = command.returns
    if returns is None and connection.modes.rev2:
        returns = RETURN_ALL  # RFC 9051 §6.4.4: ESEARCH ALL, and no SEARCH response
    is_updated = returns is not None and ReturnOption.UPDATE in returns
    if is_updated and not contexts.may_begin(connection, tag):
        return
    key = (
        contexts.with_uids(command.key, await selected.snapshot(), selected.saved_ranges) if is_updated else command.key
    )
    try:
        found = await run_search(connection, command.key)
        if returns is None and not found.mod_seqs:
            for block in await found.response(is_uid=command.is_uid):
                await connection.send_large(block)
            await _end(connection, tag, command)
            return
        results = Results(await found.numbers(is_uid=command.is_uid), command.is_uid, found.mod_seqs, found.scores)
        if returns is not None and ReturnOption.SAVE in returns and not await save(selected, found, returns):
            connection.send(encode.tagged(tag, b"NO", "The result has too many ranges to save", code=b"NOTSAVED"))
            return
    except (Refusal, TryLater):
        if returns is not None and ReturnOption.SAVE in returns:
            selected.saved_ranges = ()  # RFC 5182 §2.1: what NO answers saves the empty result
        raise
    await answer(connection, tag, b"SEARCH", returns, results)
    if is_updated:
        uids = await found.numbers(is_uid=True)
        context = contexts.SearchContext(tag, key, uids, is_uid=command.is_uid)
        items = () if returns is None else returns.items
        await contexts.begin(connection, selected, context, found.snapshot, size=len(uids), items=items)
    await _end(connection, tag, command)


async def _end(connection: "ImapConnection", tag: bytes, command: c.Search) -> None:
    # RFC 3501 §7.4.1: no EXPUNGE while SEARCH, with its sequence numbers, is in progress
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    connection.send(encode.tagged(tag, b"OK", "SEARCH completed"))


async def answer(
    connection: "ImapConnection", tag: bytes, kind: bytes, returns: SearchReturn | None, results: Results
) -> None:
    """Send the response to a searching command; `kind` is SEARCH or SORT, where there were no return options."""
    if returns is None:
        for block in await search_answer.plain(kind, results):
            await connection.send_large(block)
    elif returns.is_answered:
        await connection.send_large(await search_answer.esearch(Correlator(tag), returns, results))


def is_lawful(connection: "ImapConnection", tag: bytes, key: c.SearchKey, *, is_uid: bool, has_charset: bool) -> bool:
    """Whether the client's modes allow this search; BAD was answered where not."""
    modes = connection.modes
    if modes.uidonly and (not is_uid or any(map(_is_numbered, walk(key)))):
        # RFC 9586 §3: no message sequence numbers in commands
        connection.send(encode.tagged(tag, b"BAD", "Only UIDs name messages here", code=b"UIDREQUIRED"))
        return False
    if modes.rev2 and any(isinstance(one, c.SearchRecent) for one in walk(key)):
        # RFC 9051 Appendix E: NEW, OLD and RECENT are no keys any more
        connection.send(encode.tagged(tag, b"BAD", "There is no \\Recent in IMAP4rev2"))
        return False
    if has_charset and modes.utf8 and not modes.rev2:
        # RFC 6855 §3: BAD for a charset once UTF-8 is enabled
        connection.send(encode.tagged(tag, b"BAD", "CHARSET has no place after ENABLE UTF8=ACCEPT"))
        return False
    return True


def _is_numbered(key: c.SearchKey) -> bool:
    return isinstance(key, c.SearchSet) and not key.is_uid and not key.seq_set.is_saved


async def save(selected: Selected, found: Found, returns: SearchReturn) -> bool:
    """Keep the result for `$`; whether it could be kept. Source: RFC 5182 §2.4, RFC 9394 §3.2."""
    uids, seqs = await found.numbers(is_uid=True), await found.numbers(is_uid=False)
    ranges = await run(_kept, len(uids), uids, seqs, returns)
    # RFC 5182 §2.5: refusing empties the result
    selected.saved_ranges = () if ranges is None else ranges
    return ranges is not None


def _kept(uids: "array[int]", seqs: "array[int]", returns: SearchReturn) -> tuple[UidRange, ...] | None:
    """What SAVE keeps of a result; None when it has too many ranges. 0.1 us a message."""
    ranges: list[UidRange] = []
    for places in returns.chosen(len(uids)):
        ranges += _bridged(uids[places.start : places.stop], seqs[places.start : places.stop])
        if len(ranges) > SAVED_MAX_RANGES:
            return None
    return tuple(ranges)


def fill_in_saved(command: c.Command, selected: Selected) -> c.Command:
    """The command with the saved result in place of `$`, where its set is that."""
    seq_set = getattr(command, "seq_set", None)
    if not isinstance(seq_set, SeqSet) or not seq_set.is_saved:
        return command
    named: Any = command  # any of the commands that take a set
    filled: c.Command = replace(named, seq_set=SeqSet(tuple(selected.saved_ranges), is_saved=True))
    return filled


def _bridged(uids: Sequence[int], seqs: Sequence[int]) -> list[UidRange]:
    """The uids as ranges that hold no other uid of the snapshot: messages that are neighbours in it share one."""
    breaks = [at for at in range(1, len(seqs)) if seqs[at] - seqs[at - 1] != 1]
    starts, stops = [0, *breaks], [*breaks, len(uids)]
    return [(uids[start], uids[stop - 1]) for start, stop in zip(starts, stops, strict=True)]


async def unknown_charset(connection: "ImapConnection", tag: bytes, command: c.UnknownCharset) -> None:
    """SEARCH in a charset that is not read. RFC 3501 §6.4.4: NO, with the charsets that are."""
    if command.is_saved and connection.selected is not None:
        connection.selected.saved_ranges = ()
    connection.send(encode.tagged(tag, b"NO", "That charset is not supported", code=BADCHARSET))
