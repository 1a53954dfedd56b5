"""The worker's current snapshot of each selected mailbox, shared by its sessions and kept up to date from the log.

`current` answers with a snapshot that holds everything committed before the call, by whichever process: it compares
`PRAGMA data_version`, then the mailbox's mod_seq, then reads the change rows since and only the uids that these name.
INV-7: the snapshots a worker keeps are bounded; the least used one is dropped, and sessions keep what they hold.
"""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.sort.columns import MailboxColumns
from pochta.servers.pace import Pace
from pochta.store import changes, flags, placements
from pochta.store.changes import UidRange
from pochta.store.messages import UID_LIMIT
from pochta.store.store import SLICE_ROWS, Store
from pochta.store.tx import Tx

CHANGES_MAX_ROWS: Final = 1000  # more changes than that: reading the whole mailbox is cheaper
CHANGES_MAX_CHARS: Final = 64 * 1024  # of their uids as text: 10 000 ranges, decoded and merged in 5 ms
RANGES_A_STEP: Final = 200  # read at once: 1-2 ms
INLINE_MAX_UIDS: Final = 400  # read on the spot; more goes in slices
RESTORED_INLINE_MAX: Final = 2000  # removed messages put back into a snapshot, 2 us each
# two arrays, up to two renderings (telling.RENDERINGS_PER_CHUNK), the text of FETCH (dates and sizes; 150 bytes
# with all that it may hold), what searches read (search.facts.Columns) and found, and the latest answer
MESSAGE_BYTES: Final = 12 + 2 * 44 + 60 + 36 + 4 * 2 + 8
VIEWS_MAX: Final = 20_000  # two for each of the default number of connections; about 0.5 KiB each without snapshot

ANY_KEYWORD: Final = (1 << 63) - 1  # bits nobody knows all of: the dictionary is read again

_SYSTEM_FLAGS: Final = (1 << flags.FIRST_KEYWORD_BIT) - 1


class View:
    """The current snapshot of one mailbox, as its owner or, with `seen_by`, as one reader sees it.

    `recent_uid` is the first uid that no session has claimed as \\Recent; `selection` what `Views.at_selection` last
    found, and for what: the sessions that wait for news have selected the mailbox at the same time, mostly.
    """

    __slots__ = (
        "account_id",
        "is_removed",
        "lock",
        "mailbox_id",
        "recent_uid",
        "seen_by",
        "seen_version",
        "selection",
        "snapshot",
    )

    def __init__(self, account_id: int, mailbox_id: int, seen_by: int) -> None:
        self.account_id = account_id
        self.mailbox_id = mailbox_id
        self.seen_by = seen_by
        self.snapshot: Snapshot | None = None
        self.selection: tuple[Snapshot, int, int, AtSelection] | None = None
        self.seen_version = -1  # data_version when the snapshot was last known to be current
        self.recent_uid = 0
        self.is_removed = False
        self.lock = asyncio.Lock()


class AtSelection(NamedTuple):
    """What a session saw when it selected the mailbox, as far as it is known: see `Views.at_selection`."""

    snapshot: Snapshot
    untold: list[UidRange]


class _News(NamedTuple):
    mod_seq: int
    ranges: list[UidRange] | None  # None: too much has changed


def _read_mod_seq(tx: Tx, account_id: int, mailbox_id: int) -> int:
    row = tx.row(
        "SELECT mod_seq FROM mailbox WHERE account_id = ? AND id = ? AND removed_at IS NULL", (account_id, mailbox_id)
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "This mailbox was removed")
    mod_seq: int = row[0]
    return mod_seq


def _read_news(tx: Tx, account_id: int, mailbox_id: int, since: int) -> _News:
    row = tx.row(
        "SELECT m.mod_seq, a.log_floor_mod_seq FROM mailbox m JOIN account a ON a.id = m.account_id"
        " WHERE m.account_id = ? AND m.id = ? AND m.removed_at IS NULL",
        (account_id, mailbox_id),
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "This mailbox was removed")
    mod_seq, log_floor = row
    if mod_seq == since:
        return _News(mod_seq, [])
    rows = None if log_floor > since else _few_changes(tx, account_id, mailbox_id, since)
    if rows is None:
        return _News(mod_seq, None)
    ranges = [one for kind, uids in rows if kind <= changes.Kind.REMOVED for one in changes.decode_ranges(uids)]
    return _News(mod_seq, changes.merge_ranges(ranges))


def _reaches_back(tx: Tx, account_id: int, since: int) -> bool:
    floor = tx.row("SELECT log_floor_mod_seq FROM account WHERE id = ?", (account_id,))
    return floor is not None and floor[0] <= since


def _few_changes(tx: Tx, account_id: int, mailbox_id: int, since: int) -> list[tuple[int, str]] | None:
    """As `changes.since`; None when there is more than can be decoded in one step (INV-12)."""
    rows = changes.since(tx, account_id, mailbox_id, since, limit=CHANGES_MAX_ROWS)
    return None if rows is None or sum(len(uids) for _, uids in rows) > CHANGES_MAX_CHARS else rows


def _read_small_news(
    tx: Tx, account_id: int, mailbox_id: int, seen_by: int, since: int
) -> tuple[_News, Sequence[tuple[int, int]] | None]:
    """The news and, when they are few, the flags of the uids they name."""
    news = _read_news(tx, account_id, mailbox_id, since)
    if news.ranges is None or sum(last - first + 1 for first, last in news.ranges) > INLINE_MAX_UIDS:
        return news, None
    rows: Sequence[tuple[int, int]] = placements.flags_of(tx, account_id, mailbox_id, news.ranges, seen_by)
    return news, rows


def _read_removed(
    tx: Tx, account_id: int, mailbox_id: int, seen_by: int, since: int, ranges: Sequence[UidRange]
) -> list[tuple[int, int]]:
    # the stored \Seen is the owner's; that of another reader is gone with the message
    kept = ~flags.SEEN if seen_by else -1
    rows: list[tuple[int, int]] = []
    for first, last in ranges:
        rows += [
            (uid, bits & kept)
            for uid, bits in tx.rows(
                "SELECT uid, flags FROM removed WHERE account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ?"
                " AND mod_seq > ? ORDER BY uid",
                (account_id, mailbox_id, first, last, since),
            )
        ]
    return rows


def _read_changed(tx: Tx, account_id: int, mailbox_id: int, since: int, uid_next: int) -> list[list[UidRange]]:
    """The uids below `uid_next` that were removed, and those with other flags; all when there were too many changes."""
    rows = _few_changes(tx, account_id, mailbox_id, since)
    if rows is None or not _reaches_back(tx, account_id, since):
        return [[(1, uid_next - 1)], [(1, uid_next - 1)]]
    found: list[list[UidRange]] = []
    for wanted in (changes.Kind.REMOVED, changes.Kind.FLAGS):
        ranges = changes.merge_ranges(
            one for kind, uids in rows if kind == wanted for one in changes.decode_ranges(uids)
        )
        found.append([(first, min(last, uid_next - 1)) for first, last in ranges if first < uid_next])
    return found


def _with_rows(snapshot: Snapshot, rows: Sequence[tuple[int, int]], mod_seq: int) -> Snapshot:
    return snapshot.refreshed(changes.ranges_of([row[0] for row in rows]), rows, mod_seq)


def _steps(ranges: Sequence[UidRange]) -> Iterator[list[UidRange]]:
    """The ranges, cut, in groups of at most SLICE_ROWS uids and RANGES_A_STEP ranges."""
    group: list[UidRange] = []
    left = SLICE_ROWS
    for first, last in ranges:
        while first <= last:
            stop = min(last, first + left - 1)
            group.append((first, stop))
            left -= stop - first + 1
            first = stop + 1
            if not left or len(group) == RANGES_A_STEP:
                yield group
                group, left = [], SLICE_ROWS
    if group:
        yield group


class Views:
    """All views of one worker."""

    def __init__(self, store: Store, *, memory_limit_bytes: int) -> None:
        self._store = store
        self._memory_limit_messages = memory_limit_bytes // MESSAGE_BYTES
        self._views: OrderedDict[tuple[int, int, int], View] = OrderedDict()
        self._keywords: dict[int, dict[int, str]] = {}
        self.columns = MailboxColumns(lambda: memory_limit_bytes - self._snapshot_bytes)  # of SORT and THREAD

    @property
    def memory_bytes(self) -> int:
        """What is kept of mailboxes takes, about."""
        return self._snapshot_bytes + self.columns.memory_bytes

    @property
    def _snapshot_bytes(self) -> int:
        return MESSAGE_BYTES * sum(one.snapshot.count for one in self._views.values() if one.snapshot is not None)

    def view(self, account_id: int, mailbox_id: int, seen_by: int = 0) -> View:
        """The mailbox's view, with \\Seen as the reader `seen_by` has it; it may have no snapshot yet."""
        key = (account_id, mailbox_id, seen_by)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = View(account_id, mailbox_id, seen_by)
            if len(self._views) > VIEWS_MAX:
                self._views.popitem(last=False)  # sessions that still use it keep it, alone
        self._views.move_to_end(key)
        return view

    async def is_current(self, view: View, mod_seq: int) -> bool:
        """Whether the mailbox has not changed since `mod_seq`. Two reads at most, and no wait.

        Raises:
            Refusal: NOT_FOUND, the mailbox was removed.
        """
        version = self._store.data_version()
        if view.seen_version == version and view.snapshot is not None and view.snapshot.mod_seq == mod_seq:
            return True
        found = await self._store.read(view.account_id, _read_mod_seq, view.account_id, view.mailbox_id)
        if view.snapshot is not None and view.snapshot.mod_seq == found:
            view.seen_version = version
        return found == mod_seq

    async def current(self, view: View) -> Snapshot:
        """A snapshot that holds everything committed before the call.

        Raises:
            Refusal: NOT_FOUND, the mailbox was removed.
        """
        key = (view.account_id, view.mailbox_id, view.seen_by)
        if key in self._views:
            self._views.move_to_end(key)
        async with view.lock:
            version = self._store.data_version()
            snapshot = view.snapshot
            if snapshot is None:
                snapshot = await self._load(view)
            elif view.seen_version != version:
                snapshot = await self._refresh(view, snapshot)
            view.snapshot = snapshot
            view.seen_version = version
            return snapshot

    async def at_selection(self, view: View, mod_seq: int, uid_next: int) -> AtSelection:
        """The snapshot as a session saw it that selected the mailbox at `mod_seq`: removals since are undone.

        Flags are the present ones; the uids of `untold` had others, which nobody remembers: a client that knows them
        from an earlier session has to be told.
        """
        now = await self.current(view)
        if now.mod_seq == mod_seq:
            return AtSelection(now, [])
        kept = view.selection
        if kept is not None and kept[0] is now and kept[1:3] == (mod_seq, uid_next):
            return kept[3]
        found = await self._at_selection(view, now, mod_seq, uid_next)
        view.selection = (now, mod_seq, uid_next, found)
        return found

    async def _at_selection(self, view: View, now: Snapshot, mod_seq: int, uid_next: int) -> AtSelection:
        args = (view.account_id, view.mailbox_id)
        removed, untold = await self._store.read(view.account_id, _read_changed, *args, mod_seq, uid_next)
        back: list[tuple[int, int]] = []
        pace = Pace()
        for part in _steps(removed):
            back += await self._store.read(view.account_id, _read_removed, *args, view.seen_by, mod_seq, part)
            await pace.turn()
        then = now.refreshed([(uid_next, UID_LIMIT)], [], mod_seq)
        if len(back) > RESTORED_INLINE_MAX:
            return AtSelection(await asyncio.to_thread(_with_rows, then, back, mod_seq), untold)
        return AtSelection(_with_rows(then, back, mod_seq), untold)

    async def _load(self, view: View) -> Snapshot:
        uids, bits = array("I"), array("q")
        async with self._store.snapshot(view.account_id) as snapshot:
            mod_seq = _read_mod_seq(snapshot, view.account_id, view.mailbox_id)
            async for rows in snapshot.slices(*placements.all_flags(view.account_id, view.mailbox_id, view.seen_by)):
                uids.extend([row[0] for row in rows])
                bits.extend([row[1] for row in rows])
        self._drop_least_used(len(uids), view)
        return Snapshot.of(uids, bits, mod_seq)

    async def _refresh(self, view: View, old: Snapshot) -> Snapshot:
        account_id, mailbox_id = view.account_id, view.mailbox_id
        news, rows = await self._store.read(
            account_id, _read_small_news, account_id, mailbox_id, view.seen_by, old.mod_seq
        )
        if news.mod_seq == old.mod_seq:
            return old
        if rows is not None and news.ranges is not None:
            return old.refreshed(news.ranges, rows, news.mod_seq)
        if news.ranges is None:
            return await self._load(view)
        return await self._refresh_in_slices(view, old)

    async def _refresh_in_slices(self, view: View, old: Snapshot) -> Snapshot:
        async with self._store.snapshot(view.account_id) as snapshot:
            news = _read_news(snapshot, view.account_id, view.mailbox_id, old.mod_seq)
            if news.ranges is not None:
                # step by step: taking over a million flags at once would hold the loop for half a second
                for part in _steps(news.ranges):
                    rows: list[tuple[int, int]] = []
                    rows += placements.flags_of(snapshot, view.account_id, view.mailbox_id, part, view.seen_by)
                    old = old.refreshed(part, rows, news.mod_seq)
                    await asyncio.sleep(0)
                return Snapshot(old.chunks, news.mod_seq)
        return await self._load(view)

    def _drop_least_used(self, coming: int, keep: View) -> None:
        total = coming + sum(view.snapshot.count for view in self._views.values() if view.snapshot is not None)
        for view in list(self._views.values()):
            if total <= self._memory_limit_messages:
                return
            if view is not keep and view.snapshot is not None and not view.lock.locked():
                total -= view.snapshot.count
                view.snapshot = view.selection = None

    def known_keywords(self, account_id: int) -> dict[int, str] | None:
        """What `keywords` last found, the same object until it finds more; None when it was not asked lately."""
        return self._keywords.get(account_id)

    async def keywords(self, account_id: int, bits: int) -> dict[int, str]:
        """The account's keywords, bit value to name, knowing at least those of `bits`."""
        known = self._keywords.get(account_id)
        if known is None or bits & ~(_SYSTEM_FLAGS | sum(known)):
            known = await self._store.read(account_id, flags.keywords, account_id)
            if len(self._keywords) >= VIEWS_MAX:
                self._keywords.clear()
            self._keywords[account_id] = known
        return known
