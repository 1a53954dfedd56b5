"""The selected mailbox of one session: what its client has been told, and how it is told more.

The session's snapshot is what the client believes. `sync` brings it up to the store and yields the responses that lead
from the one to the other. INV-8: removals are told only where a command permits it; while one is held back the
snapshot stays as it is, and with it every sequence number.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.imap import encode
from pochta.proto.imap.seqset import encode_ranges
from pochta.proto.imap.view import Difference, Slice, Snapshot
from pochta.servers.imap import telling
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.views import View, Views
from pochta.servers.pace import Pace
from pochta.store import changes, flags, mailboxes, placements, rights
from pochta.store.access import Opened
from pochta.store.changes import UidRange
from pochta.store.rights import Right
from pochta.store.store import Store

if TYPE_CHECKING:
    from pochta.servers.imap.notify.reach import Reach
    from pochta.servers.imap.search.contexts import Contexts

COMPARED_INLINE_MAX: Final = 20_000  # messages, 0.2 us each
NAMES_MAX_BYTES: Final = 64 * 1024  # of names of sets of flags a session keeps; a mailbox in use has some dozens
NAME_BYTES: Final = 150  # of a dictionary's entry besides the names
MOD_SEQS_A_READ: Final = 100  # uids whose mod_seqs are read at once, for a client that knows mod-sequences: 1 ms
RANGES_A_STEP: Final = 128  # of one step of the lane: two to five statements each, 1-5 ms

SYSTEM_FLAGS: Final = (
    (flags.ANSWERED, "\\Answered"),
    (flags.FLAGGED, "\\Flagged"),
    (flags.DELETED, "\\Deleted"),
    (flags.SEEN, "\\Seen"),
    (flags.DRAFT, "\\Draft"),
)
_SYSTEM_NAMES: Final = tuple(name for _, name in SYSTEM_FLAGS)
_SYSTEM_BITS: Final = {name.lower(): bit for bit, name in SYSTEM_FLAGS}


def split_flags(names: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """(system bits, keywords) of flags as a client names them; \\Recent cannot be set and is passed over."""
    bits = 0
    keywords: list[str] = []
    for name in names:
        if name.startswith("\\"):
            bits |= _SYSTEM_BITS.get(name.lower(), 0)
        else:
            keywords.append(name)
    return bits, tuple(keywords)


def keyword_lists(keywords: Mapping[int, str], changeable: int) -> tuple[bytes, bytes]:
    """The lists of FLAGS and PERMANENTFLAGS, `changeable` being a mask of what the reader may set and clear.

    RFC 3501 §7.1: `\\*` while there is room for new keywords. RFC 4314 §5.1.1: as the reader's rights are.
    """
    shown = encode.flag_list([*_SYSTEM_NAMES, *keywords.values()])
    permanent = [name for bit, name in SYSTEM_FLAGS if bit & changeable]
    if changeable >> flags.FIRST_KEYWORD_BIT:
        permanent += keywords.values()
        permanent += ["\\*"] if len(keywords) < flags.KEYWORD_BITS else []
    return shown, encode.flag_list(permanent)


class Selected:
    """A mailbox in the hands of one session."""

    __slots__ = (
        "_is_held_back",
        "_names",
        "_names_bytes",
        "_recent",
        "_shown_bits",
        "_snapshot",
        "_standing_version",
        "_store",
        "_told_keywords",
        "_untold",
        "_views",
        "account_id",
        "contexts",
        "count",
        "is_read_only",
        "mailbox_id",
        "mod_seq",
        "path",
        "reader_id",
        "saved_ranges",
        "standing",
        "uid_next",
        "uid_validity",
        "view",
    )

    def __init__(self, store: Store, views: Views, opened: Opened, reader_id: int, *, is_read_only: bool) -> None:
        self._store = store
        self._views = views
        account_id, mailbox, standing = opened
        self.account_id = account_id  # whose mailbox it is
        self.reader_id = reader_id  # who looks at it
        self.standing = standing
        self._standing_version = store.data_version()
        self.mailbox_id = mailbox.id
        self.path = mailbox.path
        self.is_read_only = is_read_only
        self.view: View = views.view(account_id, mailbox.id, standing.seen_by)
        self.mod_seq = mailbox.mod_seq
        self.uid_next = mailbox.uid_next
        self.uid_validity = mailbox.uid_validity
        self.contexts: Contexts | None = None  # searches to keep up with (RFC 5267 §4.3)
        self.saved_ranges: Sequence[UidRange] = ()  # what `$` names (RFC 5182 §2.1)
        self.count = mailbox.message_count  # what EXISTS told
        self._snapshot: Snapshot | None = None  # read when a command first needs it: SELECT never counts
        self._untold: list[UidRange] = []  # flags changed between SELECT and the first use of the snapshot
        self._recent: list[UidRange] = []
        self._names: dict[int, bytes] = {}
        self._names_bytes = 0
        self._told_keywords: Mapping[int, str] = {}
        self._shown_bits = 0  # flags that some message here has; see `visible_keywords`
        self._is_held_back = False  # a client that knows mod-sequences has changes of flags, but not a removal before

    @property
    def is_told_everything(self) -> bool:
        """Whether the client knows all that this worker knows now; no read."""
        snapshot = self._snapshot
        version = self._store_version
        if self.reader_id != self.account_id and self._standing_version != version:
            return False  # rights may have changed
        return snapshot is not None and snapshot is self.view.snapshot and self.view.seen_version == version

    @property
    def told_mod_seq(self) -> int:
        """The mod_seq up to which the client was told everything: the highest that HIGHESTMODSEQ may say (INV-8)."""
        return self.mod_seq if self._snapshot is None else self._snapshot.mod_seq

    @property
    def _store_version(self) -> int:
        return self._store.data_version()

    async def snapshot(self) -> Snapshot:
        """What the client believes."""
        if self._snapshot is None:
            self._snapshot, self._untold = await self._views.at_selection(self.view, self.mod_seq, self.uid_next)
            self.count = self._snapshot.count
        return self._snapshot

    async def check_rights(self) -> bytes:
        """Ask anew what the reader of another's mailbox may do, and tell; one small read where the store has changed.

        Raises:
            Refusal: NO_PERMISSION, the mailbox can no longer be read.
        """
        version = self._store_version
        if self.reader_id == self.account_id or version == self._standing_version:
            return b""
        before = self.standing
        args = (self.account_id, self.mailbox_id, self.reader_id)
        self.standing = await self._store.read(self.account_id, rights.standing, *args)
        if Right.READ not in self.standing.rights:
            raise Refusal(RefusalCode.NO_PERMISSION, "The right to read this mailbox was taken back")
        self._standing_version = version
        if before.seen_by != self.standing.seen_by:
            # \Seen is another one from here on; the next `sync` compares the flags and tells those that differ
            self.view = self._views.view(self.account_id, self.mailbox_id, self.standing.seen_by)
        if before.changeable == self.standing.changeable or self.is_read_only:
            return b""
        # RFC 4314 §5.1.1: a server that asks at each command tells when the answer is another
        shown, permanent = self.tell_keywords(self._told_keywords)
        return b"* FLAGS %b\r\n* OK [PERMANENTFLAGS %b] Flags that are kept\r\n" % (shown, permanent)

    async def claim_recent(self, first_uid: int, uid_next: int) -> None:
        """Make the messages first_uid <= uid < uid_next \\Recent here and nowhere else (RFC 3501 §2.3.2)."""
        last_uid = self._recent[-1][1] if self._recent else -1
        if self._recent and last_uid + 1 == self.view.recent_uid:
            first_uid = last_uid + 1  # nobody has claimed since: what lies in between, if anything, was removed
        first_uid = max(first_uid, self.view.recent_uid)
        if first_uid >= uid_next:
            return
        if first_uid == last_uid + 1:
            self._recent[-1] = (self._recent[-1][0], uid_next - 1)  # or IDLE for days would gather thousands of ranges
        else:
            self._recent.append((first_uid, uid_next - 1))
        if not self.is_read_only and not self.standing.is_read_only:
            self.view.recent_uid = uid_next
            args = (self.account_id, self.mailbox_id, uid_next)
            # TryLater: the disk is full. The mail may be \Recent once more, but what the command did stays done.
            with suppress(TryLater):
                await self._store.write(self.account_id, mailboxes.claim_recent, *args, durable=False)

    async def recent_count(self) -> int:
        """How many messages are \\Recent in this session."""
        if not self._recent:
            return 0
        if self._snapshot is None:
            # SELECT never reads the mailbox: all messages of a new one are \\Recent, later a few at its end
            ((first, last),) = self._recent
            if first <= 1:
                return self.count
            args = (self.account_id, self.mailbox_id, first, last)
            return await self._store.read(self.account_id, placements.count, *args)
        snapshot = await self.snapshot()
        return snapshot.count_within(self._recent)

    def forget_recent(self) -> None:
        """Show \\Recent no more: the client has switched on IMAP4rev2, which does not have it."""
        self._recent = []
        self._names.clear()

    @property
    def untold_ranges(self) -> Sequence[UidRange]:
        """The uids whose flags in the snapshot are newer than what the client was told."""
        return self._untold

    @property
    def recent_ranges(self) -> Sequence[UidRange]:
        """The uids that are \\Recent in this session; some may be gone."""
        return self._recent

    async def is_unchanged(self) -> bool:
        """Whether the store holds nothing that the client was not told; two small reads at most.

        Raises:
            Refusal: NOT_FOUND, the mailbox was removed.
        """
        return await self._views.is_current(self.view, self.told_mod_seq)

    async def sync(
        self, modes: Modes, *, may_expunge: bool, with_uid: bool = False, reach: "Reach | None" = None
    ) -> AsyncIterator[bytes]:
        """The untagged responses that bring the client up to date, in blocks; with `reach`, as far as it permits.

        Raises:
            Refusal: NOT_FOUND, the mailbox was removed.
        """
        if self._snapshot is None and await self.is_unchanged():
            return  # without the snapshot, which nobody needs yet
        old = await self.snapshot()
        new = await self._views.current(self.view)
        if new.mod_seq == old.mod_seq:
            return
        if reach is not None:
            new, may_expunge = await reach.target(old, new, has_untold=bool(self._untold)), True
        if new is old:
            return
        removed, changed, added = await _difference(old, new)
        if removed and not may_expunge:
            # INV-8: the next command that permits it tells everything
            if modes.condstore:
                # RFC 7162 §3.2: MODSEQ items may have told more than the removals that wait
                self._is_held_back = True
                yield b"* OK [HIGHESTMODSEQ %d] Removals are told later\r\n" % old.mod_seq
            return
        if reach is None or reach.has_flags:
            changed = chain(changed, self._still_untold(new))
        self._snapshot = new
        self.count = new.count
        if removed and self.contexts is not None:
            yield await self.contexts.removed(old, removed)
        for lines in telling.removals(modes, old, removed):
            yield lines
        if added:
            if not modes.rev2:
                await self.claim_recent(added[0][0], added[-1][0] + 1)
            yield telling.arrivals(modes, new.count, await self.recent_count())
        for block in changed:
            if modes.condstore:
                for start in range(0, len(block), MOD_SEQS_A_READ):
                    yield await self._mod_seq_lines(new, block[start : start + MOD_SEQS_A_READ], modes)
            else:
                yield await telling.changed_flags(self, new, block, modes, with_uid=with_uid)
            await asyncio.sleep(0)
        if self._is_held_back:
            self._is_held_back = False
            yield b"* OK [HIGHESTMODSEQ %d] Everything is told\r\n" % new.mod_seq

    def _still_untold(self, new: Snapshot) -> Iterator[list[tuple[int, int]]]:
        """(uid, flags) of what changed before the snapshot was read, once."""
        untold, self._untold = self._untold, []
        for part in new.by_uid(untold):
            yield list(zip(part.uids, part.flags, strict=True))

    async def _mod_seq_lines(self, new: Snapshot, changed: Sequence[tuple[int, int]], modes: Modes) -> bytes:
        """Flags and mod_seq of changed messages, as one row has them now; a message that is gone has no line."""
        ranges = tuple(changes.ranges_of([uid for uid, _ in changed]))
        args = (self.account_id, self.mailbox_id, ranges, self.view.seen_by)
        rows = await self._store.read(self.account_id, placements.mod_seqs_of, *args)
        # RFC 7162 §3.2: what is told may be newer than the snapshot, and removals in between are not told yet
        self._is_held_back |= any(row[2] > new.mod_seq for row in rows)
        return await telling.changed_rows(self, [new.seq_of(row[0]) for row in rows], rows, modes)

    @property
    def is_own(self) -> bool:
        """Whether the reader is the owner."""
        return self.reader_id == self.account_id

    def visible_keywords(self, keywords: Mapping[int, str]) -> Mapping[int, str]:
        """Those that the reader may know of: all of their own account's, of another's those that messages here have.

        The dictionary is the account's: its other names stand on messages in mailboxes that are nobody else's business.
        """
        if self.is_own:
            return keywords
        return {bit: name for bit, name in keywords.items() if bit & self._shown_bits}

    def tell_keywords(self, keywords: Mapping[int, str]) -> tuple[bytes, bytes]:
        """As `keyword_lists`, noted as told."""
        self._told_keywords = keywords
        return keyword_lists(keywords, 0 if self.is_read_only else self.standing.changeable)

    def keyword_news(self) -> bytes:
        """FLAGS and PERMANENTFLAGS, if this worker has shown a keyword that is not on the client's list; no read."""
        found = self._views.known_keywords(self.account_id)
        if found is None or found is self._told_keywords:
            return b""
        known = self.visible_keywords(found)
        if not self.is_own and known == self._told_keywords:
            return b""
        is_new = not known.keys() <= self._told_keywords.keys()
        shown, permanent = self.tell_keywords(known)
        if not is_new:
            return b""
        return b"* FLAGS %b\r\n* OK [PERMANENTFLAGS %b] Flags that are kept\r\n" % (shown, permanent)

    def is_recent(self, uid: int) -> bool:
        """Whether the message is \\Recent in this session."""
        return any(first <= uid <= last for first, last in self._recent)

    async def flag_names(self, bits: int, *, is_recent: bool = False) -> bytes:
        """The flags as they stand between parentheses."""
        key = bits << 1 | is_recent
        shown = self._names.get(key)
        if shown is None:
            self._shown_bits |= bits
            known = await self._views.keywords(self.account_id, bits)
            names = [name for bit, name in SYSTEM_FLAGS if bits & bit]
            names += ["\\Recent"] if is_recent else []
            names += [name for bit, name in known.items() if bits & bit]
            shown = " ".join(names).encode("ascii")
            self._names_bytes += NAME_BYTES + len(shown)
            if self._names_bytes > NAMES_MAX_BYTES:  # with 58 long keywords a set takes 6 KiB
                self._names.clear()
                self._names_bytes = NAME_BYTES + len(shown)
            self._names[key] = shown
        return shown

    async def shown_flags(self, uids: Sequence[int], flag_sets: Sequence[int]) -> list[bytes]:
        """`flag_names` of each message; uids rise, and there is at least one. About 0.05 us a message."""
        names = {bits: await self.flag_names(bits) for bits in set(flag_sets)}
        shown = [names[bits] for bits in flag_sets]
        for first, last in self._recent:
            if last < uids[0] or first > uids[-1]:
                continue
            here = slice(bisect_left(uids, first), bisect_right(uids, last))
            recent = {bits: await self.flag_names(bits, is_recent=True) for bits in set(flag_sets[here])}
            shown[here] = [recent[bits] for bits in flag_sets[here]]
        return shown

    def recency(self, first: int, last: int) -> bool | None:
        """Whether the messages with the uids first <= uid <= last are \\Recent in this session; None: some are."""
        found = [one for one in self._recent if one[0] <= last and one[1] >= first]
        if not found:
            return False
        return True if found[0][0] <= first and found[0][1] >= last else None

    def believe(self, ranges: Sequence[UidRange], keep: int, add: int) -> None:
        """Note that the client takes the flags of `ranges` to be `old & keep | add` without being told."""
        self._shown_bits |= add
        if self._snapshot is not None:
            self._snapshot = self._snapshot.with_flags(ranges, keep, add)

    async def learn(self, ranges: Sequence[UidRange]) -> Snapshot:
        """Take over the stored flags of `ranges` (what was removed stays); the snapshot, whose lines are now owed.

        Costs a step for each message of `ranges`: name a thousand at a time.
        """
        old = await self.snapshot()
        new = await self._views.current(self.view)
        if new is old:
            return old
        self._untold = without_ranges(self._untold, ranges)
        removed, changed, added = await _difference(old, new)
        if not (removed or added or self._untold):
            named = {uid for part in old.by_uid(ranges) for uid in part.uids}
            if all(uid in named for block in changed for uid, _ in block):
                self._snapshot = new  # the chunks, and what was rendered of them, are shared with the view again
                return new
        rows = {uid: bits for part in new.by_uid(ranges) for uid, bits in zip(part.uids, part.flags, strict=True)}
        return self._merged(old, ranges, rows)

    async def learn_all(self, ranges: Sequence[UidRange]) -> None:
        """As `learn`, for any number of messages: costs a step for each that has changed, and for each chunk."""
        old = await self.snapshot()
        new = await self._views.current(self.view)
        if new is old:
            return
        self._untold = without_ranges(self._untold, ranges)
        removed, changed, added = await _difference(old, new)
        rows: dict[int, int] = {}
        pace = Pace()
        for block in changed:
            rows.update(block)
            await pace.turn()
        may_share = not (removed or added or self._untold)
        if len(rows) > COMPARED_INLINE_MAX:
            self._snapshot = await asyncio.to_thread(_taken_over, old, new, ranges, rows, may_share)
        else:
            self._snapshot = _taken_over(old, new, ranges, rows, may_share)

    def _merged(self, old: Snapshot, ranges: Sequence[UidRange], rows: Mapping[int, int]) -> Snapshot:
        merged = [
            (uid, rows.get(uid, bits))
            for part in old.by_uid(ranges)
            for uid, bits in zip(part.uids, part.flags, strict=True)
        ]
        self._snapshot = old.refreshed(ranges, merged, old.mod_seq)
        return self._snapshot

    def take_over(self, ranges: Sequence[UidRange], rows: Mapping[int, int]) -> None:
        """Note that the client was told these flags of the messages of `ranges`, by uid; what is not there stays."""
        for bits in rows.values():
            self._shown_bits |= bits
        if self._snapshot is not None:
            self._untold = without_ranges(self._untold, ranges)
            self._merged(self._snapshot, ranges, rows)


async def _difference(old: Snapshot, new: Snapshot) -> Difference:
    """`Snapshot.difference`; where most of a large mailbox was read anew, in a thread (INV-12)."""
    if max(old.count, new.count) > COMPARED_INLINE_MAX and old.unshared(new) > COMPARED_INLINE_MAX:
        return await asyncio.to_thread(old.difference, new)  # snapshots never change
    return old.difference(new)


def _taken_over(
    old: Snapshot, new: Snapshot, ranges: Sequence[UidRange], rows: Mapping[int, int], may_share: bool
) -> Snapshot:
    """The old snapshot with the changed flags, `rows`, that lie in `ranges`; `new` itself when nothing else is new."""
    stale = changes.ranges_of(sorted(rows))
    named = changes.common_ranges(ranges, stale)
    if may_share and named == stale:
        return new  # the chunks, and what was rendered of them, are shared with the view again
    fresh = [(uid, rows[uid]) for first, last in named for uid in range(first, last + 1)]
    return old.refreshed(named, fresh, old.mod_seq)


async def encode_many(numbers: Sequence[int]) -> bytes:
    """`encode_ranges`, of very many in a thread (INV-12)."""
    if len(numbers) > COMPARED_INLINE_MAX:
        return await asyncio.to_thread(encode_ranges, numbers)
    return encode_ranges(numbers)


def without_ranges(ranges: Sequence[UidRange], cut: Sequence[UidRange]) -> list[UidRange]:
    """The uids of `ranges` that are not in `cut`; both rise without overlap."""
    left: list[UidRange] = []
    at = 0
    for first, last in ranges:
        while at < len(cut) and cut[at][1] < first:
            at += 1
        for index in range(at, len(cut)):
            low, high = cut[index]
            if low > last:
                break
            if low > first:
                left.append((first, low - 1))
            first = high + 1
        if first <= last:
            left.append((first, last))
    return left


def uid_ranges(parts: Sequence[Slice]) -> list[UidRange]:
    """The uids of the slices as ranges that hold no other uid of the snapshot (gaps between uids are bridged)."""
    ranges: list[UidRange] = []
    seq = 0
    for part in parts:
        uids = part.chunk.uids
        first, last = uids[part.start], uids[part.stop - 1]
        if ranges and part.seq == seq:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
        seq = part.seq + part.stop - part.start
    return ranges


def steps_of(parts: Sequence[Slice], size: int) -> list[list[UidRange]]:
    """The messages of the slices in steps of about `size` messages and RANGES_A_STEP ranges, each as uid ranges."""
    steps: list[list[UidRange]] = []
    held: list[Slice] = []
    count = 0
    for part in parts:
        length = part.stop - part.start
        if held and (count + length > size or len(held) >= RANGES_A_STEP):
            steps.append(uid_ranges(held))
            held, count = [], 0
        held.append(part)
        count += length
    if held:
        steps.append(uid_ranges(held))
    return steps
