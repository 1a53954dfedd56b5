"""NOTIFY: what happens in mailboxes is told while no command runs, as far as the client has asked for it.

Theory of operation. The state keeps a picture of the watched mailboxes and, for each account concerned, the mod_seq up
to which its change log was looked at. The connection is woken by hints of these accounts, and by the poll that makes up
for lost ones; `tell` then reads the log. Rows about messages name mailboxes, of which one row each is read; rows about
mailboxes, rights or subscriptions lead to a fresh listing, compared with the picture (`watched`). Nothing is lost
between the answer and the first hint, because the picture and the mod_seqs are of one transaction.

What the client did itself is not told: the store says which changes a write of this connection has made (`own`). The
selected mailbox is told by `Selected.sync`, on the way that `Reach` permits.

Source: RFC 5465.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta.errors import RefusalCode
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.metadata import metadata_names
from pochta.proto.imap.notify import MESSAGE_EVENTS, SELECTED_FILTERS, MailboxFilter, Notify, NotifyEvent
from pochta.servers.imap import condstore
from pochta.servers.imap.coded import CodedRefusal
from pochta.servers.imap.fetch import arrived
from pochta.servers.imap.fetch.arrived import Wanted
from pochta.servers.imap.mailboxes import status
from pochta.servers.imap.notify.reach import Reach
from pochta.servers.imap.notify.watched import UNKNOWN, WATCHED_MAX, Difference, Filters, Key, Picture, Watched
from pochta.servers.imap.selected import Selected, without_ranges
from pochta.servers.pace import Pace
from pochta.store import access, annotations, changes, mailboxes, rights
from pochta.store.access import Opened
from pochta.store.changes import Kind, UidRange
from pochta.store.rights import Right
from pochta.store.tx import Hint, Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

ACCOUNTS_MAX: Final = 256  # whose hints one connection hears; each costs a read of a row when one is heard
ROWS_A_READ: Final = 500  # of the change log: 1 ms
READS_MAX: Final = 100  # of one account at once; whoever is so far behind is told NOTIFICATIONOVERFLOW
BOXES_A_READ: Final = 50  # rows of mailboxes: two statements each
OWN_MAX: Final = 4096  # changes of its own that a connection remembers until it looks; more are told like others'

_CODE: Final = b"NOTIFICATIONOVERFLOW"
_BASIC: Final = (c.StatusItem.MESSAGES, c.StatusItem.UIDNEXT, c.StatusItem.UIDVALIDITY)
_BAD_EVENT: Final = b"BADEVENT (%b)" % b" ".join([event.value for event in NotifyEvent])


class _Overflow(Exception):
    """More has happened, or is watched, than can be told."""


class _Look(NamedTuple):
    """All that one transaction says of what is watched."""

    picture: Picture
    opened: dict[Key, Opened]
    mod_seqs: dict[int, int]
    server_entries: dict[str, int]


class _News:
    """What the log has told of since the last time, and who caused it."""

    __slots__ = ("annotated", "is_listing_stale", "kinds", "named_by_others", "named_by_own", "touched")

    def __init__(self) -> None:
        self.kinds: dict[Key, set[Kind]] = {}  # of messages, by others
        self.touched: set[Key] = set()  # messages of these changed, whoever did it
        self.annotated: dict[Key, dict[str, None]] = {}
        self.named_by_own: set[Key] = set()
        self.named_by_others: set[Key] = set()
        self.is_listing_stale = False

    def add(self, key: Key, kind: Kind, entries: str, *, is_own: bool, reader_id: int) -> None:
        """Take in a row of the log."""
        if kind is Kind.MAILBOX:
            self.is_listing_stale = True
            (self.named_by_own if is_own else self.named_by_others).add(key)
        elif kind is Kind.ANNOTATED:
            if not is_own:
                who, names = changes.decode_entries(entries)
                seen = [name for name in names if who == reader_id or annotations.is_shared(name)]
                self.annotated.setdefault(key, {}).update(dict.fromkeys(seen))
        else:
            self.touched.add(key)
            if not is_own:
                self.kinds.setdefault(key, set()).add(kind)

    def is_own(self, key: Key) -> bool:
        """Whether only the client itself has done something to the mailbox as such."""
        return key in self.named_by_own and key not in self.named_by_others


class NotifyState:
    """What a client has asked for by NOTIFY; with no groups, NOTIFY NONE."""

    def __init__(self, command: Notify) -> None:
        self.filters = Filters(command.groups)
        chosen = next((one for one in command.groups if one.filter in SELECTED_FILTERS), None)
        self.selected_events = frozenset() if chosen is None else chosen.events
        self.items = () if chosen is None else chosen.items
        self._is_delayed = chosen is not None and chosen.filter is MailboxFilter.SELECTED_DELAYED
        self._picture = Picture({}, (), {})
        self._seen: dict[int, int] = {}  # account -> mod_seq up to which its log was looked at
        self._server_entries: dict[str, int] = {}
        self._own: set[Hint] = set()
        self._version = -1
        self._last_selected: Selected | None = None

    @property
    def accounts(self) -> Iterable[int]:
        """Whose hints are to be heard, besides those of the selected mailbox's owner."""
        return self._seen.keys()

    @property
    def tells_selected(self) -> bool:
        """Whether anything is told of the selected mailbox while no command runs."""
        return bool(self.selected_events)

    def is_told_everything(self, version: int) -> bool:
        """Whether nothing can have changed since the last look; `version`: of the store now."""
        return self._version == version or not self._seen

    def note_own(self, hints: Sequence[Hint]) -> None:
        """Remember changes that the client itself has made."""
        self._own.update(hints)
        if len(self._own) > OWN_MAX:
            self._own.clear()

    async def begin(self, connection: "ImapConnection") -> _Look:
        """Look at everything for the first time.

        Raises:
            CodedRefusal: LIMIT, too much is to be watched.
        """
        self._version = connection.context.store.data_version()
        self._last_selected = connection.selected
        try:
            look = await self._look(connection)
        except _Overflow:
            raise CodedRefusal(RefusalCode.LIMIT, "That is more than can be watched", _CODE) from None
        self._picture, self._server_entries = look.picture, look.server_entries
        self._seen = look.mod_seqs if self.filters else {}
        return look

    async def _look(self, connection: "ImapConnection") -> _Look:
        reader_id = connection.account_id
        return await connection.context.store.read(reader_id, _look_at, reader_id, self.filters, self._picture)

    async def reach(self, connection: "ImapConnection", selected: Selected, *, may_expunge: bool) -> Reach:
        """How far the client's view of the selected mailbox may be brought up to date now."""
        own: list[UidRange] = []
        has_membership = NotifyEvent.MESSAGE_NEW in self.selected_events
        if not has_membership:
            own = await self._own_uids(connection, selected, Kind.REMOVED)
        # RFC 5465 §6.1: removals at any time, or when a command permits it
        return Reach(
            has_membership=has_membership,
            has_flags=NotifyEvent.FLAG_CHANGE in self.selected_events,
            may_expunge=may_expunge or not self._is_delayed,
            own_removed=own,
        )

    async def _own_uids(self, connection: "ImapConnection", selected: Selected, kind: Kind) -> list[UidRange]:
        mod_seqs = tuple(sorted(mod_seq for account_id, mod_seq in self._own if account_id == selected.account_id))
        if not mod_seqs:
            return []
        args = (selected.account_id, selected.mailbox_id, kind, mod_seqs)
        return await connection.context.store.read(selected.account_id, changes.named_by, *args)

    async def tell_arrived(
        self, connection: "ImapConnection", selected: Selected, reach: Reach, also: Sequence[Wanted]
    ) -> None:
        """The items that the client wants of each message whose EXISTS it was just told of; `also`: for searches."""
        wanted = list(also)
        if self.items and reach.arrived:
            # RFC 5465 §5.2: none of messages that the client has put there itself
            ranges = without_ranges(reach.arrived, await self._own_uids(connection, selected, Kind.ADDED))
            uids = [uid for part in (await selected.snapshot()).by_uid(ranges) for uid in part.uids]
            wanted.insert(0, Wanted(uids, self.items))
        if wanted:
            await arrived.tell(connection, selected, wanted)

    async def tell(self, connection: "ImapConnection") -> None:
        """Tell what has happened since the last time, but for what happened in the selected mailbox."""
        left, self._last_selected = self._last_selected, connection.selected
        version = connection.context.store.data_version()
        if self.is_told_everything(version) and left is connection.selected:
            self._own.clear()
            return
        try:
            await self._tell(connection, left if left is not connection.selected else None)
        except _Overflow:
            # RFC 5465 §5.8: as if NOTIFY NONE had been received
            connection.notify = NotifyState(Notify())
            connection.send(encode.untagged(b"OK", "Too much has happened; ask again", code=_CODE))
            return
        self._version = version
        self._own.clear()

    async def _tell(self, connection: "ImapConnection", left: Selected | None) -> None:
        news = _News()
        server_number = self._seen.get(changes.EVERYBODY)
        await self._read_log(connection, news)
        server_has_changed = server_number != self._seen.get(changes.EVERYBODY)
        if left is not None:
            await self._add_left(connection, left, news)
        come: list[Key] = []
        if news.is_listing_stale or server_has_changed:
            come = await self._tell_names(connection, news, tells_server=server_has_changed)
        await self._tell_counts(connection, news, come)
        await self._tell_annotations(connection, news)

    async def _read_log(self, connection: "ImapConnection", news: _News) -> None:
        store, reader_id = connection.context.store, connection.account_id
        found = await store.read(reader_id, changes.mod_seqs, tuple(self._seen))
        pace = Pace()
        for account_id, since in tuple(self._seen.items()):
            mod_seq = found.get(account_id)
            if mod_seq is None:
                news.is_listing_stale = True  # the account was removed
                del self._seen[account_id]
                continue
            reads = 0
            has_more = mod_seq != since and account_id != changes.EVERYBODY
            while has_more:
                page = await store.read(account_id, _read_page, account_id, since)
                reads += 1
                if page is None or reads > READS_MAX:
                    raise _Overflow
                rows, has_more = page
                for row_mod_seq, mailbox_id, kind, entries in rows:
                    is_own = Hint(account_id, row_mod_seq) in self._own
                    news.add((account_id, mailbox_id), Kind(kind), entries, is_own=is_own, reader_id=reader_id)
                    since = row_mod_seq
                await pace.turn()
            self._seen[account_id] = max(since, mod_seq)

    async def _add_left(self, connection: "ImapConnection", left: Selected, news: _News) -> None:
        """A mailbox that was selected until now, and of which the client was not told everything."""
        key = (left.account_id, left.mailbox_id)
        known = self._picture.mailboxes.get(key)
        if known is None or not known.events & MESSAGE_EVENTS:
            return
        args = (left.account_id, left.mailbox_id, known.path)
        now = await connection.context.store.read(left.account_id, mailboxes.by_id, *args)
        if now is not None and now.mod_seq > left.told_mod_seq and Hint(key[0], now.mod_seq) not in self._own:
            news.kinds.setdefault(key, set()).update((Kind.ADDED, Kind.FLAGS))

    async def _tell_names(self, connection: "ImapConnection", news: _News, *, tells_server: bool) -> list[Key]:
        """LIST of the names that have changed; the mailboxes that the client did not know before."""
        old, look = self._picture, await self._look(connection)
        own_number = Hint(changes.EVERYBODY, 0) in self._own
        if tells_server and self.filters.is_of_server and not own_number:
            await self._tell_server(connection, look.server_entries)
        self._server_entries = look.server_entries
        for account_id, mod_seq in look.mod_seqs.items():
            self._seen.setdefault(account_id, mod_seq)
        for account_id in self._seen.keys() - look.mod_seqs.keys():
            del self._seen[account_id]
        # what the client was told of unseen messages stays what it knows
        kept = {
            key: one._replace(unseen_count=old.mailboxes[key].unseen_count)
            for key, one in look.picture.mailboxes.items()
            if key in old.mailboxes
        }
        self._picture = look.picture._replace(mailboxes={**look.picture.mailboxes, **kept})
        difference = Difference(self.filters, old, self._picture, news.is_own)
        own_list = (connection.account_id, changes.ACCOUNT)
        utf8 = connection.modes.utf8
        for one in difference.names(with_subscriptions=not news.is_own(own_list)):
            line = encode.list_response(one.path, one.attributes, utf8_accept=utf8, old_name=one.old_path)
            await connection.send_large(line)
        return difference.come

    async def _tell_counts(self, connection: "ImapConnection", news: _News, come: list[Key]) -> None:
        """STATUS of mailboxes in which something has happened, and of those that have come."""
        selected = connection.selected
        here = None if selected is None else (selected.account_id, selected.mailbox_id)
        known = self._picture.mailboxes
        for key in news.touched:
            if (one := known.get(key)) is not None and (key == here or key not in news.kinds):
                known[key] = one._replace(unseen_count=UNKNOWN)
        wanted = [key for key, kinds in news.kinds.items() if key in known and _is_told(known[key].events, kinds)]
        # RFC 5465 §3.1: of the selected mailbox nothing but what SELECTED asks for
        keys = [key for key in dict.fromkeys((*wanted, *come)) if key != here]
        for start in range(0, len(keys), BOXES_A_READ):
            part = tuple((key, known[key].path) for key in keys[start : start + BOXES_A_READ] if key in known)
            reader_id = connection.account_id
            for opened in await connection.context.store.read(reader_id, _read_boxes, reader_id, part):
                key = (opened.account_id, opened.mailbox.id)
                line = self._count_line(connection, key, opened, news.kinds.get(key), is_new=key in come)
                await connection.send_large(line)

    def _count_line(
        self, connection: "ImapConnection", key: Key, opened: Opened, kinds: set[Kind] | None, *, is_new: bool
    ) -> bytes:
        """The STATUS response of one mailbox, empty when there is nothing to say."""
        known = self._picture.mailboxes
        one, unseen = known[key], opened.mailbox.unseen_count
        if not one.events & MESSAGE_EVENTS:
            return b""
        known[key] = one._replace(unseen_count=unseen)
        has_flags = NotifyEvent.FLAG_CHANGE in one.events
        is_unseen_told = has_flags and (is_new or unseen != one.unseen_count)
        # RFC 5465 §5.1: without mod-sequences, only changes that show in UNSEEN
        if kinds == {Kind.FLAGS} and not is_new and not (connection.modes.condstore or is_unseen_told):
            return b""
        items = (
            *_BASIC,
            *([c.StatusItem.UNSEEN] if is_unseen_told else []),
            *([c.StatusItem.HIGHESTMODSEQ] if connection.modes.condstore else []),
        )
        return _status_line(connection, items, opened)

    async def _tell_annotations(self, connection: "ImapConnection", news: _News) -> None:
        own = (connection.account_id, changes.ACCOUNT)
        utf8 = connection.modes.utf8
        for key, entries in news.annotated.items():
            known = self._picture.mailboxes.get(key)
            if key == own and entries and self.filters.is_of_server:
                connection.send(metadata_names("", list(entries), utf8_accept=utf8))
            elif known is not None and entries and NotifyEvent.MAILBOX_METADATA_CHANGE in known.events:
                await connection.send_large(metadata_names(known.path, list(entries), utf8_accept=utf8))

    async def _tell_server(self, connection: "ImapConnection", entries: dict[str, int]) -> None:
        old = self._server_entries
        changed = sorted(name for name in old.keys() | entries.keys() if old.get(name) != entries.get(name))
        if changed:
            connection.send(metadata_names("", changed, utf8_accept=connection.modes.utf8))


def _is_told(events: frozenset[NotifyEvent], kinds: set[Kind]) -> bool:
    wants = NotifyEvent.FLAG_CHANGE if kinds == {Kind.FLAGS} else NotifyEvent.MESSAGE_NEW
    return wants in events


def _status_line(connection: "ImapConnection", items: tuple[c.StatusItem, ...], opened: Opened) -> bytes:
    name = encode.mailbox_name(opened.mailbox.path, utf8_accept=connection.modes.utf8)
    return status.line_of(connection, items, {})(opened, name)


def _look_at(tx: Tx, reader_id: int, filters: Filters, before: Picture) -> _Look:
    """What is watched, as it is now. As many statements as a listing, and one for each account and shared mailbox.

    Raises:
        _Overflow: that is too much.
    """
    subscribed = mailboxes.subscriptions(tx, reader_id) if filters.needs_subscriptions else set()
    listed = access.listing(tx, reader_id) if filters else []
    found: dict[Key, Watched] = {}
    opened: dict[Key, Opened] = {}
    for one in listed:
        watched = filters.watched(one, reader_id, subscribed)
        if watched is not None:
            key = (one.account_id, one.mailbox.id)
            if NotifyEvent.FLAG_CHANGE in watched.events and one.standing.seen_by:
                one = status.with_own_unseen(tx, one)
                watched = watched._replace(unseen_count=one.mailbox.unseen_count)
            found[key], opened[key] = watched, one
    accounts = {reader_id}
    if filters.is_of_others or filters.is_of_server:
        accounts.add(changes.EVERYBODY)
    if filters.is_of_others:
        accounts |= {one.account_id for one in listed}
    if len(found) > WATCHED_MAX or len(subscribed) > WATCHED_MAX or len(accounts) > ACCOUNTS_MAX:
        raise _Overflow
    gone = {**before.hidden, **{key: one.path for key, one in before.mailboxes.items()}}
    hidden = {key: path for key, path in gone.items() if key not in found and _is_hidden(tx, reader_id, key, path)}
    entries: dict[str, int] = {}
    if filters.is_of_server:
        shared = annotations.read(tx, reader_id, annotations.SERVER, reader_id, ("/shared",), None)
        entries = {one.entry: hash(one.value) for one in shared}
    return _Look(Picture(found, subscribed, hidden), opened, changes.mod_seqs(tx, accounts), entries)


def _is_hidden(tx: Tx, reader_id: int, key: Key, path: str) -> bool:
    """Whether another's mailbox that the reader knew is still there, and may not be looked up any more."""
    account_id, mailbox_id = key
    if account_id == reader_id or mailboxes.by_id(tx, account_id, mailbox_id, path) is None:
        return False
    return Right.LOOKUP not in rights.standing(tx, account_id, mailbox_id, reader_id).rights


def _read_page(tx: Tx, account_id: int, since: int) -> tuple[list[tuple[int, int, int, str]], bool] | None:
    return changes.since_of_account(tx, account_id, since, limit=ROWS_A_READ)


def _read_boxes(tx: Tx, reader_id: int, named: tuple[tuple[Key, str], ...]) -> list[Opened]:
    """The mailboxes as they are now, of those that the reader may still read. Two or three statements each."""
    found: list[Opened] = []
    for (account_id, mailbox_id), path in named:
        standing = rights.standing(tx, account_id, mailbox_id, reader_id)
        mailbox = mailboxes.by_id(tx, account_id, mailbox_id, path)
        if mailbox is not None and not mailbox.is_noselect and Right.LOOKUP | Right.READ in standing.rights:
            found.append(status.with_own_unseen(tx, Opened(account_id, mailbox, standing)))
    return found


async def notify(connection: "ImapConnection", tag: bytes, command: Notify) -> None:
    """NOTIFY SET and NOTIFY NONE. Source: RFC 5465 §3.1."""
    if not command.is_supported:
        # RFC 5465 §3.1: NO, with the events that there are
        connection.send(encode.tagged(tag, b"NO", "There is no such event here", code=_BAD_EVENT))
        return
    state = NotifyState(command)
    if c.FetchAttribute.MODSEQ in state.items:
        condstore.make_aware(connection)
    look = await state.begin(connection)
    if command.groups:
        # RFC 5465 §3.1: SET implies a NOOP, whatever is asked for from then on
        connection.notify = None
        await connection.sync(may_expunge=True)
    connection.notify = state
    await _tell_first(connection, look, with_counts=command.wants_status)
    connection.send(encode.tagged(tag, b"OK", "NOTIFY completed"))


async def _tell_first(connection: "ImapConnection", look: _Look, *, with_counts: bool) -> None:
    """What may not be read, and, where the client asks for it, what the others hold."""
    selected = connection.selected
    here = None if selected is None else (selected.account_id, selected.mailbox_id)
    pace = Pace()
    for key, one in look.picture.mailboxes.items():
        if not one.is_accessible:
            # RFC 5465 §3.1: of a mailbox that may be listed, and no more
            utf8 = connection.modes.utf8
            await connection.send_large(encode.list_response(one.path, one.attributes, utf8_accept=utf8))
        elif with_counts and one.events & MESSAGE_EVENTS and key != here:
            items: tuple[c.StatusItem, ...] = _BASIC
            if NotifyEvent.FLAG_CHANGE in one.events:
                # RFC 5465 §3.1: of a server that has mod-sequences, whether or not the client knows them
                items = (*_BASIC, c.StatusItem.UNSEEN, c.StatusItem.HIGHESTMODSEQ)
            await connection.send_large(_status_line(connection, items, look.opened[key]))
        await pace.turn()
