"""Planted faults: each breaks one place of the server in the way a slip of the hand would.

A walk that does not find one of them within 5000 steps would not find such a bug either. `FAULTS` is the list: name,
what it breaks, and by which rules of the model it may be found.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import pytest

from model import session
from pochta.app import App
from pochta.proto.imap.view import Difference, Snapshot
from pochta.servers.imap import condstore, views
from pochta.servers.imap import messages as imap_messages
from pochta.servers.imap.selected import Selected
from pochta.store import changes, flags, mailboxes, placements, store
from pochta.store.hints import HintHub
from pochta.store.placements import Copied, FlagMode, Stored
from pochta.store.store import Store
from pochta.store.tx import Row, Tx

_sync = Selected.sync
_difference = Snapshot.difference
_remove_rows = placements.remove_rows
_add_copies = placements._add_copies
_would_change = placements._would_change
_mod_seqs_of = placements.mod_seqs_of
_rename = mailboxes.rename
_few_changes = views._few_changes
_read_removed = views._read_removed
_logged_since = condstore.logged_since
_copyuid = imap_messages._copyuid


class Fault(NamedTuple):
    """A place (object and attribute) and what stands there instead."""

    name: str
    place: object
    attribute: str
    broken: Any  # any kind of function or method


async def _expunge_always(self: Selected, *, may_expunge: bool, **kept: bool) -> AsyncIterator[bytes]:
    async for block in _sync(self, may_expunge=True, **kept):
        yield block


def _no_hint(self: HintHub, hints: object) -> None:
    """Nobody else is told."""


def _tell_nobody(self: App, account_id: int) -> None:
    """Idling clients are not woken."""


def _rising(self: Snapshot, newer: Snapshot) -> Difference:
    found = _difference(self, newer)
    return found._replace(removed=found.removed[::-1])


def _no_flags(self: Snapshot, newer: Snapshot) -> Difference:
    return _difference(self, newer)._replace(changed=iter(()))


def _reuse_uids(
    tx: Tx, account_id: int, mailbox_id: int, ranges: Any, rows: Sequence[Row], *rest: Any, **kept: Any
) -> None:
    _remove_rows(tx, account_id, mailbox_id, ranges, rows, *rest, **kept)
    tx.run(
        "UPDATE mailbox SET uid_next = 1 + coalesce((SELECT max(uid) FROM placement p WHERE p.account_id = ?1"
        " AND p.mailbox_id = ?2), 0) WHERE account_id = ?1 AND id = ?2",
        (account_id, mailbox_id),
    )


def _drop_keywords(
    tx: Tx, account_id: int, mailbox_id: int, ranges: Any, target_id: int, *rest: Any, **kept: Any
) -> int:
    first_uid = _add_copies(tx, account_id, mailbox_id, ranges, target_id, *rest, **kept)
    tx.run(
        "UPDATE placement SET flags = flags & ? WHERE account_id = ? AND mailbox_id = ? AND uid >= ?",
        ((1 << flags.FIRST_KEYWORD_BIT) - 1, account_id, target_id, first_uid),
    )
    return first_uid


def _believe_nothing(self: Selected, *_: object) -> None:
    """The silent STORE is forgotten, and so told at the next sync."""


def _new_uid_validity(tx: Tx, account_id: int, old_path: str, new_path: str, now: int) -> None:
    mailbox = mailboxes.find(tx, account_id, old_path)
    _rename(tx, account_id, old_path, new_path, now)
    number = mailboxes._next_uid_validity(tx, account_id)
    tx.run("UPDATE mailbox SET uid_validity = ? WHERE account_id = ? AND id = ?", (number, account_id, mailbox.id))


def _copy_instead(
    tx: Tx, account_id: int, mailbox_id: int, ranges: Any, to_name: str, now: int, reader_id: int = 0
) -> Copied:
    return placements.copy(tx, account_id, mailbox_id, ranges, to_name, now, reader_id)


def _miscount(*args: Any) -> Any:
    changed, unseen, deleted = _would_change(*args)
    return changed, min(unseen, 0), deleted


def _same_version(self: Store) -> int:
    return 1


def _first_change_only(*args: Any) -> Any:
    rows = _few_changes(*args)
    return rows[:1] if rows else rows


def _nothing_removed(*args: Any) -> list[tuple[int, int]]:
    return []


async def _learn_nothing(self: Selected, ranges: object) -> Snapshot:
    return await self.snapshot()


def _old_uid_validity(tx: Tx, account_id: int) -> int:
    return 1


def _no_row_of_removal(*args: Any, **kept: Any) -> None:
    if args[4] is not changes.Kind.REMOVED:
        _record(*args, **kept)


_record: Callable[..., None] = changes.record


def _swapped(copied: Copied) -> bytes:
    return _copyuid(copied._replace(from_uids=copied.to_uids, to_uids=copied.from_uids))


def _no_bits(tx: Tx, account_id: int, names: Iterable[str]) -> int:
    return 0


def _unconditional(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[changes.UidRange],
    mode: FlagMode,
    system_flags: int,
    keywords: tuple[str, ...],
    _unchanged_since: int,
    now: int,
    reader_id: int = 0,
) -> Stored:
    args = (account_id, mailbox_id, ranges, mode, system_flags, keywords, now, reader_id)
    return Stored(placements.set_flags(tx, *args), ())


def _one_too_late(tx: Tx, account_id: int, mailbox_id: int, mod_seq: int) -> condstore.Logged | None:
    return _logged_since(tx, account_id, mailbox_id, mod_seq + 1)


def _too_low(tx: Tx, account_id: int, mailbox_id: int, ranges: Iterable[changes.UidRange], *rest: int) -> list[Row]:
    return [(uid, bits, mod_seq - 1) for uid, bits, mod_seq in _mod_seqs_of(tx, account_id, mailbox_id, ranges, *rest)]


FAULTS: Final = (
    Fault("EXPUNGE is told during FETCH, STORE and SEARCH", Selected, "sync", _expunge_always),
    Fault("sequence numbers of EXPUNGE rise, as if nothing moved up", Snapshot, "difference", _rising),
    Fault("flags that others change are never told", Snapshot, "difference", _no_flags),
    Fault("UIDNEXT falls when the last message goes", placements, "remove_rows", _reuse_uids),
    Fault("COPY drops keywords", placements, "_add_copies", _drop_keywords),
    Fault("a silent STORE is told", Selected, "believe", _believe_nothing),
    Fault("RENAME gives a new UIDVALIDITY", mailboxes, "rename", _new_uid_validity),
    Fault("a mailbox made again has the old UIDVALIDITY", mailboxes, "_next_uid_validity", _old_uid_validity),
    Fault("MOVE leaves the messages", placements, "move", _copy_instead),
    Fault("the counter of unseen messages never rises by STORE", placements, "_would_change", _miscount),
    Fault("commits of the other worker go unnoticed", Store, "data_version", _same_version),
    Fault("hints of the other worker are lost, and nobody polls", HintHub, "tell_others", _no_hint),
    Fault("idling clients are not woken", App, "_tell_account", _tell_nobody),
    Fault("of several changes only the first is read", views, "_few_changes", _first_change_only),
    Fault("what was removed since SELECT shifts the numbers", views, "_read_removed", _nothing_removed),
    Fault("STORE tells the flags that the session knew", Selected, "learn", _learn_nothing),
    Fault("the log leaves removals out", changes, "record", _no_row_of_removal),
    Fault("COPYUID has its sets the wrong way round", imap_messages, "_copyuid", _swapped),
    Fault("new keywords are forgotten", flags, "keyword_bits", _no_bits),
    Fault("STORE passes over UNCHANGEDSINCE", placements, "set_flags_unless_changed", _unconditional),
    Fault("CHANGEDSINCE begins one change too late", condstore, "logged_since", _one_too_late),
    Fault("MODSEQ is told one too low", placements, "mod_seqs_of", _too_low),
)


def plant(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the server until the test ends."""
    monkeypatch.setattr(fault.place, fault.attribute, fault.broken)
    if fault.broken in (_no_hint, _tell_nobody):
        monkeypatch.setattr(store, "POLL_S", 3600.0)
        monkeypatch.setattr(session, "IDLE_S", 1.0)  # nothing will come


def lose_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: hints between workers may be lost, and the poll makes up for it, here more often than in a server."""
    monkeypatch.setattr(HintHub, "tell_others", _no_hint)
    monkeypatch.setattr(store, "POLL_S", 0.01)


def lose_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: where every hint arrives, the poll is not needed."""
    monkeypatch.setattr(store, "POLL_S", 3600.0)
