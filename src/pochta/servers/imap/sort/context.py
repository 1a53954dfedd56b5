"""A SORT whose result a client wants to be kept up with (CONTEXT=SORT); see `contexts` for when it is asked.

What a message is sorted by never changes, so a message that comes is put where it belongs among the others, which stay
in their order. Places in the result are told, from 1, in an order in which each is right when the ones before it have
been carried out.

Source: RFC 5267 §4.3.
"""

from array import array
from bisect import bisect_left, insort_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from pochta.proto.imap import commands as c
from pochta.proto.imap.seqset import encode_ordered
from pochta.proto.imap.sort import SortKey
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search import search
from pochta.servers.imap.search.plan import find
from pochta.servers.imap.sort.columns import Columns, run
from pochta.store.changes import UidRange

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

INSERTED_COST: Final = 50  # of putting one message in, against that of sorting one


class SortContext:
    """A SORT or UID SORT; `key` with uids in place of numbers, `uids` of the result in its order."""

    __slots__ = ("_is_uid", "_keys", "_uids", "key", "tag")

    def __init__(
        self, tag: bytes, keys: Sequence[SortKey], key: c.SearchKey, uids: Sequence[int], *, is_uid: bool
    ) -> None:
        self.tag = tag
        self._keys = keys
        self.key = key
        self._uids = array("I", uids)
        self._is_uid = is_uid

    @property
    def size(self) -> int:
        return len(self._uids)

    def removed(self, old: Snapshot, uids: Sequence[int]) -> bytes:
        items = self._take_out(old, set(uids))
        return self._response([items]) if items else b""

    async def update(self, connection: "ImapConnection", snapshot: Snapshot, ranges: Sequence[UidRange]) -> bytes:
        selected = connection.selected
        assert selected is not None
        mailbox, terms = await search.where_and_how(connection, selected, self.key)
        known = set(self._uids)
        come: list[int] = []
        lost: set[int] = set()
        async for facts, positions in find(mailbox, snapshot, self.key, terms, snapshot.by_uid(ranges)):
            matching = {facts.uids[at] for at in positions}
            come += [uid for uid in facts.uids if uid in matching and uid not in known]
            lost.update(uid for uid in facts.uids if uid not in matching and uid in known)
        items = [self._take_out(snapshot, lost)] if lost else []
        if come:
            async with connection.context.views.columns.of(mailbox, snapshot) as columns:
                await columns.need([one.criterion for one in self._keys])
                await run(self._put_in, len(come) * INSERTED_COST, columns, come)
            runs = self._runs(set(come))
            items.append(b"ADDTO (%b)" % b" ".join([self._pair(snapshot, first, stop) for first, stop in runs]))
        return self._response(items) if items else b""

    def among(self, uids: Sequence[int]) -> list[int]:
        held = set(self._uids)
        return [uid for uid in uids if uid in held]

    def _take_out(self, snapshot: Snapshot, uids: set[int]) -> bytes:
        """What tells that these are no longer in the result; the last ones first, so that no place changes before."""
        runs = self._runs(uids)
        if not runs:
            return b""
        pairs = [self._pair(snapshot, first, stop) for first, stop in reversed(runs)]
        self._uids = array("I", [uid for uid in self._uids if uid not in uids])
        return b"REMOVEFROM (%b)" % b" ".join(pairs)

    def _put_in(self, columns: Columns, uids: Sequence[int]) -> None:
        comparable = columns.comparable(self._keys)
        known = columns.uids

        def order_of(uid: int) -> tuple[Any, int]:
            return comparable(bisect_left(known, uid)), uid

        for uid in uids:
            insort_right(self._uids, uid, key=order_of)

    def _runs(self, uids: set[int]) -> list[tuple[int, int]]:
        """(start, stop) of these in the result, rising, neighbours together."""
        places = [at for at, uid in enumerate(self._uids) if uid in uids]
        if not places:
            return []
        breaks = [(one, other) for one, other in pairwise(places) if other != one + 1]
        starts = [places[0], *[other for _, other in breaks]]
        stops = [*[one + 1 for one, _ in breaks], places[-1] + 1]
        return list(zip(starts, stops, strict=True))

    def _pair(self, snapshot: Snapshot, first: int, stop: int) -> bytes:
        uids = self._uids[first:stop]
        numbers = uids if self._is_uid else [snapshot.seq_of(uid) for uid in uids]
        return b"%d %b" % (first + 1, encode_ordered(numbers))

    def _response(self, items: Sequence[bytes]) -> bytes:
        return b'* ESEARCH (TAG "%b")%b %b\r\n' % (self.tag, b" UID" if self._is_uid else b"", b" ".join(items))
