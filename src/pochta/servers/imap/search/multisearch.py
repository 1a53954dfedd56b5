"""ESEARCH: one search in several mailboxes, answered mailbox by mailbox with UIDs.

The selected mailbox is searched as its client knows it, all others as they are now. A mailbox that the reader may not
read, or that is not there, is passed over in silence: nothing tells the two apart (RFC 7377 §5).

Source: RFC 7377 §2.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import normalize

from pochta import clock
from pochta.errors import Refusal, RefusalCode
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.multisearch import MultiSearch, Source, SourceKind
from pochta.proto.imap.search import walk
from pochta.proto.imap.search_return import RETURN_ALL, ReturnOption, SearchReturn
from pochta.servers.imap import condstore
from pochta.servers.imap.search import answer, contexts, search
from pochta.servers.imap.search.answer import Correlator, Results
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Terms
from pochta.servers.imap.search.search import Found
from pochta.servers.imap.selected import Selected
from pochta.store import access, mailboxes
from pochta.store.access import Opened
from pochta.store.mailboxes import DELIMITER, INBOX
from pochta.store.rights import OWNER, Right
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

MAILBOXES_MAX: Final = 10_000  # that hold messages, in one command; reading the view of one takes 1.5 ms

_ONLY_SELECTED: Final = (Source(SourceKind.SELECTED),)
_WHOLE_TREES: Final = frozenset({SourceKind.SUBTREE, SourceKind.SUBTREE_ONE})


class _Target(NamedTuple):
    opened: Opened
    name: str


async def esearch(connection: "ImapConnection", tag: bytes, command: MultiSearch) -> None:
    """ESEARCH."""
    selected, returns = connection.selected, command.returns or RETURN_ALL
    if not _is_lawful(connection, tag, command, returns):
        return
    if any(isinstance(one, c.SearchModSeq) for one in walk(command.key)):
        condstore.make_aware(connection)
    reader_id = connection.account_id
    targets = await connection.context.store.read(reader_id, _targets, reader_id, command.sources)
    if len(targets) > MAILBOXES_MAX:
        # RFC 7377 §2.4: limits may be applied up front
        raise Refusal(RefusalCode.LIMIT, f"At most {MAILBOXES_MAX} mailboxes can be searched at once")
    try:
        if selected is not None and _has_selected(command.sources):
            await _search_selected(connection, selected, tag, command, returns)
    except Refusal:
        if selected is not None and ReturnOption.SAVE in returns:
            selected.saved_ranges = ()
        raise
    here = (selected.account_id, selected.mailbox_id) if selected and _has_selected(command.sources) else None
    for target in targets:
        if (target.opened.account_id, target.opened.mailbox.id) != here:
            await _search_other(connection, target, tag, command, returns)
        connection.refuse_signed_out()
    if ReturnOption.UPDATE in returns and selected is not None:
        await _keep_up(connection, selected, tag, command)
    await connection.sync(may_expunge=True, with_uid=True)
    connection.send(encode.tagged(tag, b"OK", "ESEARCH completed"))


def _has_selected(sources: tuple[Source, ...]) -> bool:
    return any(one.kind is SourceKind.SELECTED for one in sources)


def _is_lawful(connection: "ImapConnection", tag: bytes, command: MultiSearch, returns: SearchReturn) -> bool:
    """Whether the command may run; BAD was answered where not."""
    has_charset = command.has_charset
    if not search.is_lawful(connection, tag, command.key, is_uid=True, has_charset=has_charset):
        return False
    needs_selected = _has_selected(command.sources) or ReturnOption.UPDATE in returns
    if needs_selected and connection.selected is None:
        connection.send(encode.tagged(tag, b"BAD", "Select a mailbox first"))
        return False
    if ReturnOption.SAVE in returns and command.sources != _ONLY_SELECTED:
        # RFC 7377 §2.2: `$` is of the selected mailbox alone
        connection.send(encode.tagged(tag, b"BAD", "SAVE goes with the selected mailbox alone"))
        return False
    return ReturnOption.UPDATE not in returns or contexts.may_begin(connection, tag)


async def _search_selected(
    connection: "ImapConnection", selected: Selected, tag: bytes, command: MultiSearch, returns: SearchReturn
) -> None:
    found = await search.run_search(connection, command.key)
    if ReturnOption.SAVE in returns and not await search.save(selected, found, returns):
        # RFC 5182 §2.5
        raise Refusal(RefusalCode.LIMIT, "The result has too many ranges to save")
    await _answer(connection, tag, returns, found, selected.path, selected.uid_validity)


async def _search_other(
    connection: "ImapConnection", target: _Target, tag: bytes, command: MultiSearch, returns: SearchReturn
) -> None:
    context = connection.context
    account_id, mailbox, standing = target.opened
    try:
        snapshot = await context.views.current(context.views.view(account_id, mailbox.id, standing.seen_by))
    except Refusal as refusal:
        if refusal.code is not RefusalCode.NOT_FOUND:
            raise
        return  # removed meanwhile
    bits = await search.keyword_bits(connection, account_id, command.key)
    terms = Terms(keyword_bits=bits, now_s=int(clock.now_s()))
    has_mod_seq = any(isinstance(one, c.SearchModSeq) for one in walk(command.key))
    where = Mailbox(context.store, account_id, mailbox.id, context.index)
    told = snapshot.mod_seq if has_mod_seq else 0
    found = await search.collect(where, snapshot, command.key, terms, told_mod_seq=told)
    await _answer(connection, tag, returns, found, target.name, mailbox.uid_validity)


async def _answer(
    connection: "ImapConnection", tag: bytes, returns: SearchReturn, found: Found, name: str, uid_validity: int
) -> None:
    """The response of one mailbox. RFC 7377 §2.1: none where nothing matches, also for COUNT."""
    if not found.parts or not returns.is_answered:
        return
    uids = await found.numbers(is_uid=True)
    shown = encode.mailbox_name(name, utf8_accept=connection.modes.utf8)
    results = Results(uids, is_uid=True, mod_seqs=found.mod_seqs, scores=found.scores)
    await connection.send_large(await answer.esearch(Correlator(tag, shown, uid_validity), returns, results))


async def _keep_up(connection: "ImapConnection", selected: Selected, tag: bytes, command: MultiSearch) -> None:
    """RFC 7377 §2.2: UPDATE means the selected mailbox, whatever else was searched."""
    key = contexts.with_uids(command.key, await selected.snapshot(), selected.saved_ranges)
    found = await search.run_search(connection, key)
    uids = await found.numbers(is_uid=True)
    context = contexts.SearchContext(tag, key, uids, is_uid=True)
    items = () if command.returns is None else command.returns.items
    await contexts.begin(connection, selected, context, found.snapshot, size=len(uids), items=items)


def _targets(tx: Tx, reader_id: int, sources: tuple[Source, ...]) -> list[_Target]:
    """The mailboxes with messages that the sources name and the reader may read, each once; not the selected one.

    Two statements for all that is not named, and a few for each name.
    """
    found: dict[tuple[int, int], _Target] = {}
    listed: list[Opened] | None = None
    for source in sources:
        if source.kind is SourceKind.SELECTED:
            continue
        if source.kind is SourceKind.MAILBOXES:
            opened = _named(tx, reader_id, source.names)
        else:
            if listed is None:
                listed = [one for one in access.listing(tx, reader_id) if _is_readable(one)]
            opened = _listed(tx, reader_id, source, listed)
            if source.kind in _WHOLE_TREES:
                # RFC 7377 §2.2: what is named itself needs no right to be looked up
                opened = [*_named(tx, reader_id, source.names), *opened]
        for one in opened:
            # RFC 7377 §2.1: nothing is answered of a mailbox without matches; an empty one need not be read
            if one.mailbox.message_count:
                found.setdefault((one.account_id, one.mailbox.id), _Target(one, one.mailbox.path))
    return list(found.values())


def _is_readable(opened: Opened) -> bool:
    return not opened.mailbox.is_noselect and Right.READ in opened.standing.rights


def _named(tx: Tx, reader_id: int, names: tuple[str, ...]) -> list[Opened]:
    found: list[Opened] = []
    for name in names:
        try:
            found.append(access.open_selectable(tx, reader_id, name, Right.READ))
        except Refusal:
            continue  # RFC 7377 §2.2: ignored, whatever the reason
    return found


def _listed(tx: Tx, reader_id: int, source: Source, listed: list[Opened]) -> list[Opened]:
    """Those of `listed` that the source means."""
    if source.kind is SourceKind.PERSONAL:
        return [one for one in listed if one.account_id == reader_id and one.standing == OWNER]
    if source.kind is SourceKind.INBOXES:
        # RFC 5465 §6.2: where mail is delivered to; which other mailboxes rules file into is not known
        return [one for one in listed if one.account_id == reader_id and one.mailbox.path == INBOX]
    if source.kind is SourceKind.SUBSCRIBED:
        names = set(mailboxes.subscriptions(tx, reader_id))
        return [one for one in listed if one.mailbox.path in names]
    # one pass: a client may name a quarter of a thousand trees
    names = {normalize("NFC", given) for given in source.names}
    is_deep = source.kind is SourceKind.SUBTREE
    return [one for one in listed if any(above in names for above in _above(one.mailbox.path, is_deep=is_deep))]


def _above(path: str, *, is_deep: bool) -> Iterator[str]:
    """The mailbox above this one and, with `is_deep`, all those above that."""
    above, delimiter, _ = path.rpartition(DELIMITER)
    while delimiter:
        yield above
        above, delimiter, _ = above.rpartition(DELIMITER) if is_deep else ("", "", "")
