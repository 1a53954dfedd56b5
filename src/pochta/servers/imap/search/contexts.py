"""Searches whose results a client wants to be kept up with (CONTEXT=SEARCH), for as long as the mailbox is selected.

Theory of operation. A context knows the uids that match, as its client was told. After a command the messages that
changed or came since the last time, and no others, are searched again; what matches now and did not, or the other way
round, is told. A removed message leaves before its EXPUNGE does, while its number still is its own. Message numbers in
the search mean the messages that had them when it was asked. What only the clock changes (OLDER, YOUNGER) is noticed
when the message changes (RFC 5032 §2).

Of messages that come, the client may have asked for items (RFC 5465 §7): they are told before the search's own
response or, where NOTIFY asks for items too, with those of NOTIFY behind it (§5.2).

Source: RFC 5267 §4.2, §4.3, RFC 5465 §7.
"""

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.multisearch import CancelUpdate
from pochta.proto.imap.search import walk
from pochta.proto.imap.seqset import SeqSet, encode_ranges
from pochta.proto.imap.view import Difference, Snapshot
from pochta.servers.imap import condstore
from pochta.servers.imap.fetch import arrived
from pochta.servers.imap.fetch.arrived import Wanted
from pochta.servers.imap.search import search
from pochta.servers.imap.search.plan import find
from pochta.servers.imap.selected import COMPARED_INLINE_MAX, Selected
from pochta.servers.imap.sort.columns import run
from pochta.store import changes
from pochta.store.changes import UidRange

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

CONTEXTS_MAX: Final = 16  # of one session; a client shows a few views of a mailbox at once
# of the keys of one context, which it keeps: 16 contexts take 3 MB; a line may name 10 000 ranges, literals 256 KiB
RANGES_MAX: Final = 1024
TEXT_MAX_CHARS: Final = 16 * 1024
ITEMS_MAX_BYTES: Final = 16 * 1024  # of the names of what is fetched of new messages; clients ask for some 200
MESSAGES_MAX: Final = 400_000  # in all contexts of a session when one is made: 4 bytes each, 1.6 MB


class Context(Protocol):
    """One search that is kept up with."""

    tag: bytes
    key: c.SearchKey

    @property
    def size(self) -> int:
        """How many messages it holds."""

    def removed(self, old: Snapshot, uids: Sequence[int]) -> bytes:
        """The response that takes messages out which are about to be expunged; they rise, and stand in `old`.

        May run in a thread.
        """

    async def update(self, connection: "ImapConnection", snapshot: Snapshot, ranges: Sequence[UidRange]) -> bytes:
        """The response to changes of the messages of `ranges`, which stand in the snapshot."""

    def among(self, uids: Sequence[int]) -> list[int]:
        """Those of these messages that it holds, in the same order. May run in a thread."""


class Contexts:
    """Those of one selected mailbox; `snapshot`: up to which all of them are true."""

    __slots__ = ("_contexts", "_items", "_snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self._contexts: dict[bytes, Context] = {}
        self._items: dict[bytes, tuple[c.FetchItem, ...]] = {}  # of those that want some of what comes
        self._snapshot = snapshot

    def __contains__(self, tag: bytes) -> bool:
        return tag in self._contexts

    def has_room(self, coming: int) -> bool:
        """Whether one more, of so many messages, may be kept."""
        held = sum(one.size for one in self._contexts.values())
        return len(self._contexts) < CONTEXTS_MAX and held + coming <= MESSAGES_MAX

    def add(self, context: Context, items: tuple[c.FetchItem, ...]) -> None:
        """Keep up with one more, which is true for the snapshot that `update` was last given."""
        self._contexts[context.tag] = context
        if items:
            self._items[context.tag] = items

    def cancel(self, tags: Sequence[bytes]) -> bool:
        """Forget these; whether all of them were there."""
        missing = [tag for tag in tags if self._contexts.pop(tag, None) is None]
        for tag in tags:
            self._items.pop(tag, None)
        return not missing

    async def removed(self, old: Snapshot, seqs: Sequence[int]) -> bytes:
        """What goes before the EXPUNGE of messages with these numbers, falling."""
        if not self._contexts:
            return b""
        return await run(_removed, len(seqs), list(self._contexts.values()), old, seqs)

    async def update(
        self, connection: "ImapConnection", snapshot: Snapshot, *, fetches: bool = True
    ) -> Sequence[Wanted]:
        """Tell what has changed in the session's snapshot since the last time; what is to be fetched behind it.

        The latter is told here, and nothing left, with `fetches`.
        """
        old, self._snapshot = self._snapshot, snapshot
        if old is snapshot or not self._contexts:
            return ()
        if max(old.count, snapshot.count) > COMPARED_INLINE_MAX and old.unshared(snapshot) > COMPARED_INLINE_MAX:
            difference = await asyncio.to_thread(old.difference, snapshot)
        else:
            difference = old.difference(snapshot)
        ranges = await run(_ranges_of, old.unshared(snapshot), difference)
        responses = [await one.update(connection, snapshot, ranges) for one in list(self._contexts.values())]
        wanted = await self._wanted(difference) if self._items else []
        selected = connection.selected
        if wanted and fetches and selected is not None:
            # RFC 5465 §7: behind EXISTS, before ESEARCH
            await arrived.tell(connection, selected, wanted)
            wanted = []
        for response in responses:
            await connection.send_large(response)
        return wanted

    async def _wanted(self, difference: Difference) -> list[Wanted]:
        """What is to be fetched of messages that have come. RFC 5465 §7: not of those that match only now."""
        come = [uid for uid, _ in difference.added]
        if not come:
            return []
        return [
            Wanted(await run(self._contexts[tag].among, len(come), come), items) for tag, items in self._items.items()
        ]


def _removed(contexts: Sequence[Context], old: Snapshot, seqs: Sequence[int]) -> bytes:
    uids = [uid for part in old.by_seq(changes.ranges_of(seqs[::-1])) for uid in part.uids]
    return b"".join([one.removed(old, uids) for one in contexts])


def _ranges_of(difference: Difference) -> list[UidRange]:
    """Where messages changed or came."""
    changed = [uid for block in difference.changed for uid, _ in block]
    return changes.merge_ranges(
        [*changes.ranges_of(sorted(changed)), *changes.ranges_of([uid for uid, _ in difference.added])]
    )


class SearchContext:
    """A SEARCH or UID SEARCH; `key` with uids in place of numbers, `uids` of what matches, rising."""

    __slots__ = ("_is_uid", "_uids", "key", "tag")

    def __init__(self, tag: bytes, key: c.SearchKey, uids: "array[int]", *, is_uid: bool) -> None:
        self.tag = tag
        self.key = key
        self._uids = uids
        self._is_uid = is_uid

    @property
    def size(self) -> int:
        return len(self._uids)

    def removed(self, old: Snapshot, uids: Sequence[int]) -> bytes:
        lost = [uid for uid in uids if self._has(uid)]
        if not lost:
            return b""
        self._take_out(lost)
        return self._response(b"REMOVEFROM (0 %b)" % self._numbers(old, lost))

    async def update(self, connection: "ImapConnection", snapshot: Snapshot, ranges: Sequence[UidRange]) -> bytes:
        selected = connection.selected
        assert selected is not None
        mailbox, terms = await search.where_and_how(connection, selected, self.key)
        come: list[int] = []
        lost: list[int] = []
        async for facts, positions in find(mailbox, snapshot, self.key, terms, snapshot.by_uid(ranges)):
            matching = {facts.uids[at] for at in positions}
            come += [uid for uid in facts.uids if uid in matching and not self._has(uid)]
            lost += [uid for uid in facts.uids if uid not in matching and self._has(uid)]
        return await run(self._changed, len(come) + len(lost), snapshot, come, lost)

    def among(self, uids: Sequence[int]) -> list[int]:
        return [uid for uid in uids if self._has(uid)]

    def _changed(self, snapshot: Snapshot, come: Sequence[int], lost: Sequence[int]) -> bytes:
        items = []
        if lost:
            self._take_out(lost)
            items.append(b"REMOVEFROM (0 %b)" % self._numbers(snapshot, lost))
        if come:
            self._put_in(come)
            # RFC 5267 §4.3.3: place 0 leaves it to the client to keep the order of the mailbox
            items.append(b"ADDTO (0 %b)" % self._numbers(snapshot, come))
        return self._response(b" ".join(items)) if items else b""

    def _has(self, uid: int) -> bool:
        at = bisect_left(self._uids, uid)
        return at < len(self._uids) and self._uids[at] == uid

    def _take_out(self, uids: Sequence[int]) -> None:
        gone = set(uids)
        at = bisect_left(self._uids, uids[0])
        self._uids[at:] = array("I", [uid for uid in self._uids[at:] if uid not in gone])

    def _put_in(self, uids: Sequence[int]) -> None:
        at = bisect_right(self._uids, uids[0])
        self._uids[at:] = array("I", sorted([*self._uids[at:], *uids]))

    def _numbers(self, snapshot: Snapshot, uids: Sequence[int]) -> bytes:
        return encode_ranges(uids if self._is_uid else [snapshot.seq_of(uid) for uid in uids])

    def _response(self, items: bytes) -> bytes:
        return b'* ESEARCH (TAG "%b")%b %b\r\n' % (self.tag, b" UID" if self._is_uid else b"", items)


def with_uids(key: c.SearchKey, snapshot: Snapshot, saved_ranges: Sequence[UidRange]) -> c.SearchKey:
    """The key with the uids of the messages in place of their numbers and of `$`.

    Source: RFC 5267 §4.3. Recursive, as the parser bounds the depth (MAX_SEARCH_DEPTH).
    """
    if isinstance(key, c.SearchAnd):
        return c.SearchAnd(tuple([with_uids(one, snapshot, saved_ranges) for one in key.keys]))
    if isinstance(key, c.SearchOr):
        return c.SearchOr(tuple([with_uids(one, snapshot, saved_ranges) for one in key.keys]))
    if isinstance(key, c.SearchNot):
        return c.SearchNot(with_uids(key.key, snapshot, saved_ranges))
    if isinstance(key, c.SearchFuzzy):
        return c.SearchFuzzy(with_uids(key.key, snapshot, saved_ranges))
    if isinstance(key, c.SearchSet) and key.seq_set.is_saved:
        return c.SearchSet(SeqSet(tuple(saved_ranges)), is_uid=True)
    if isinstance(key, c.SearchSet) and not key.is_uid:
        return c.SearchSet(SeqSet(_uid_ranges(key.seq_set.normalised(snapshot.count), snapshot)), is_uid=True)
    return key


def _uid_ranges(ranges: Sequence[tuple[int, int]], snapshot: Snapshot) -> tuple[UidRange, ...]:
    """The first and last uid of each of these ranges of numbers."""
    parts = snapshot.by_seq([end for first, last in ranges for end in ((first, first), (last, last))])
    uids = [part.uids[0] for part in parts]
    return tuple(zip(uids[::2], uids[1::2], strict=True))


def is_keepable(key: c.SearchKey, items: Sequence[c.FetchItem]) -> bool:
    """Whether a context may keep the key and the items."""
    if sum(len(item.label) for item in items if not isinstance(item, c.FetchAttribute)) > ITEMS_MAX_BYTES:
        return False
    ranges = chars = 0
    for one in walk(key):
        if isinstance(one, c.SearchSet):
            ranges += len(one.seq_set.ranges)
        elif isinstance(one, c.SearchHeader | c.SearchText):
            chars += len(one.text)
    return ranges <= RANGES_MAX and chars <= TEXT_MAX_CHARS


def may_begin(connection: "ImapConnection", tag: bytes) -> bool:
    """Whether a context may have this tag; BAD was answered where not."""
    selected = connection.selected
    if selected is not None and selected.contexts is not None and tag in selected.contexts:
        # RFC 5267 §4.3: a tag that names a context already is BAD
        connection.send(encode.tagged(tag, b"BAD", "That tag names an earlier search with UPDATE"))
        return False
    return True


async def begin(
    connection: "ImapConnection",
    selected: Selected,
    context: Context,
    snapshot: Snapshot,
    *,
    size: int,
    items: tuple[c.FetchItem, ...] = (),
) -> None:
    """Keep up with a search that was just answered for `snapshot`, or tell that we will not.

    `items` are fetched of messages that come and match.
    """
    if c.FetchAttribute.MODSEQ in items:
        condstore.make_aware(connection)
    if selected.contexts is None:
        selected.contexts = Contexts(snapshot)
    contexts = selected.contexts
    await contexts.update(connection, snapshot)
    if contexts.has_room(size) and is_keepable(context.key, items):
        contexts.add(context, items)
        return
    # RFC 5267 §4.3.1: the rest of the command is honoured
    code = b'NOUPDATE "%b"' % context.tag
    connection.send(encode.untagged(b"NO", "There are too many searches to keep up with", code=code))


async def cancel_update(connection: "ImapConnection", tag: bytes, command: CancelUpdate) -> None:
    """CANCELUPDATE. Source: RFC 5267 §4.3.5."""
    selected = connection.selected
    assert selected is not None
    if selected.contexts is None or not selected.contexts.cancel(command.tags):
        connection.send(encode.tagged(tag, b"BAD", "No search with that tag is kept up with"))
        return
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "CANCELUPDATE completed"))
