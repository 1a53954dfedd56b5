"""FETCH responses of messages that have come, for who asked for them before: by NOTIFY, by searches with UPDATE.

Source: RFC 5465 §5.2 and §7.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pochta.proto.imap.commands import FetchItem
from pochta.servers.imap.fetch import fetch
from pochta.servers.imap.selected import Selected
from pochta.servers.imap.sort.columns import run
from pochta.store import changes

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


class Wanted(NamedTuple):
    """What one asker wants to know of these messages; the uids rise."""

    uids: Sequence[int]
    items: tuple[FetchItem, ...]


async def tell(connection: "ImapConnection", selected: Selected, wanted: Sequence[Wanted]) -> None:
    """One response for each message, with all that is wanted of it."""
    for one in await run(_combined, sum(len(one.uids) for one in wanted), wanted):
        await fetch.tell_new(connection, selected, changes.ranges_of(one.uids), one.items)


def _combined(wanted: Sequence[Wanted]) -> list[Wanted]:
    """The same without a message that stands there twice. 0.1 us for each message and asker."""
    # RFC 5465 §5.2: combined into a single response, no item twice
    if len(wanted) < 2:
        return [one for one in wanted if one.uids]
    askers: dict[int, int] = {}  # a bit for each
    for bit, one in enumerate(wanted):
        for uid in one.uids:
            askers[uid] = askers.get(uid, 0) | 1 << bit
    groups: dict[int, list[int]] = {}
    for uid in sorted(askers):
        groups.setdefault(askers[uid], []).append(uid)
    return [Wanted(uids, _items(wanted, bits)) for bits, uids in groups.items()]


def _items(wanted: Sequence[Wanted], bits: int) -> tuple[FetchItem, ...]:
    return tuple(dict.fromkeys(item for bit, one in enumerate(wanted) if bits >> bit & 1 for item in one.items))
