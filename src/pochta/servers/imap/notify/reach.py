"""How far the view of the selected mailbox may go on the way to what the store holds, for a client that used NOTIFY.

What a client has not asked to be told does not happen for it: its view stays as it is there, and with it the highest
mod_seq that it may be told (INV-8). Source: RFC 5465 §3.1, §5 and §6.1.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from pochta.proto.imap.view import Snapshot
from pochta.servers.pace import Pace
from pochta.store import changes
from pochta.store.changes import UidRange

REFRESHED_INLINE_MAX: Final = 20_000  # messages, 0.2 us each


class Reach:
    """What may be told now; `arrived`, once it was: the uids that are new to the client."""

    __slots__ = ("_may_expunge", "_own_removed", "arrived", "has_flags", "has_membership")

    def __init__(
        self, *, has_membership: bool, has_flags: bool, may_expunge: bool, own_removed: Sequence[UidRange]
    ) -> None:
        self.has_membership = has_membership
        self.has_flags = has_flags
        self._may_expunge = may_expunge
        self._own_removed = own_removed
        self.arrived: list[UidRange] = []

    async def target(self, old: Snapshot, new: Snapshot, *, has_untold: bool) -> Snapshot:
        """The snapshot between the two that the client may be brought to; `old` where nothing may be told.

        `has_untold`: flags in `old` are newer than what the client was told.
        """
        if not self.has_membership:
            # what its own EXPUNGE or MOVE removes is told all the same
            gone = any(True for _ in old.by_uid(self._own_removed))
            return old.refreshed(self._own_removed, [], old.mod_seq) if gone else old
        target = await self._permitted(old, new, has_hidden=has_untold)
        if target.last_uid > old.last_uid:
            self.arrived = [(old.last_uid + 1, target.last_uid)]
        return target

    async def _permitted(self, old: Snapshot, new: Snapshot, *, has_hidden: bool) -> Snapshot:
        if self.has_flags and self._may_expunge:
            return new
        difference = await asyncio.to_thread(old.difference, new) if _is_long(old, new) else old.difference(new)
        if self.has_flags and not difference.removed:
            return new
        rows: list[tuple[int, int]] = []
        pace = Pace()
        for block in difference.changed:
            if self.has_flags:
                rows += block
            has_hidden = True
            await pace.turn()
        rows += difference.added
        gone: list[int] = []
        if self._may_expunge:
            gone = [uid for part in old.by_seq(changes.ranges_of(difference.removed[::-1])) for uid in part.uids]
        rows.sort()
        named = changes.ranges_of(sorted([uid for uid, _ in rows] + gone))
        is_whole = not has_hidden and len(gone) == len(difference.removed)
        mod_seq = new.mod_seq if is_whole else old.mod_seq
        if len(rows) > REFRESHED_INLINE_MAX:
            return await asyncio.to_thread(old.refreshed, named, rows, mod_seq)
        return old.refreshed(named, rows, mod_seq) if named or is_whole else old


def _is_long(old: Snapshot, new: Snapshot) -> bool:
    return max(old.count, new.count) > REFRESHED_INLINE_MAX and old.unshared(new) > REFRESHED_INLINE_MAX
