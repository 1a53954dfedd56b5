"""Planted faults: each breaks one place of the server in the way a slip of the hand would.

A walk that does not find one of them within 5000 steps would not find such a bug either. `FAULTS` is the list: name,
what it breaks, and by which rules of the model it may be found.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import pytest

from model import session
from model import steps as s
from pochta.app import App
from pochta.proto.imap.view import Difference, Snapshot
from pochta.servers.imap import condstore, qresync, telling, uidonly, views
from pochta.servers.imap import messages as imap_messages
from pochta.servers.imap.fetch import rows as fetch_rows
from pochta.servers.imap.listening import Listening
from pochta.servers.imap.mailboxes import status
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.search import search
from pochta.servers.imap.selected import Selected
from pochta.store import (
    access,
    changes,
    flags,
    mailboxes,
    messages,
    placements,
    reader_flags,
    rights,
    shared_copies,
    store,
)
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
    """A place (object and attribute) and what stands there instead; `walk`: where a walk seldom comes there."""

    name: str
    place: object
    attribute: str
    broken: Any  # any kind of function or method
    walk: tuple[s.Step, ...] = ()


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


async def _never_lost(self: Selected) -> bytes:
    return b""


async def _not_held_back(self: Selected, modes: Modes, **kept: Any) -> AsyncIterator[bytes]:
    async for block in _sync(self, modes, **kept):
        if b"Removals are told later" not in block:
            yield block


def _nothing_seen(*args: Any) -> None:
    """What a reader of another's mailbox sees is forgotten."""


def _all_permitted(tx: Tx, account_id: int, mailbox_id: int, reader_id: int) -> rights.Standing:
    found = _standing(tx, account_id, mailbox_id, reader_id)
    return found._replace(rights=rights.ALL) if found.rights else found


def _no_names(tx: Tx, account_id: int, target: Any, flag_sets: set[int]) -> dict[int, int]:
    system = (1 << flags.FIRST_KEYWORD_BIT) - 1
    return {bits: bits & system for bits in flag_sets}


def _tells_nothing(*args: Any) -> Iterator[bytes]:
    return iter(())


async def _one_too_high(*args: Any) -> Sequence[int]:
    return [number + 1 for number in await _numbers(*args)]


async def _save_nothing(*args: Any) -> bool:
    return True


def _one_untold(modes: Modes, old: Snapshot, seqs: Sequence[int]) -> Iterator[bytes]:
    return _removals(modes, old, seqs[:1] if modes.tells_vanished else seqs)


def _owners_view(self: views.Views, account_id: int, mailbox_id: int, seen_by: int = 0) -> views.View:
    return _view(self, account_id, mailbox_id)


def _nothing(*args: Any) -> Any:
    return False


def _with_recent(modes: Modes, count: int, recent: int) -> bytes:
    return b"* %d EXISTS\r\n* %d RECENT\r\n" % (count, recent)


def _any_validity(tx: Tx, reader_id: int, name: str, right: Any, resync: Any) -> Any:
    opened = access.open_selectable(tx, reader_id, name, right)
    return _open_returning(tx, reader_id, name, right, resync._replace(uid_validity=opened.mailbox.uid_validity))


def _unbounded(tx: Tx, account_id: int, *, count: int, size: int) -> tuple[int, int]:
    row = tx.row("UPDATE account SET quota_messages = -quota_messages WHERE id = ? RETURNING 1", (account_id,))
    assert row is not None
    reserved = _reserve(tx, account_id, count=count, size=size)
    tx.run("UPDATE account SET quota_messages = -quota_messages WHERE id = ?", (account_id,))
    return reserved


def _owners_unseen(tx: Tx, opened: access.Opened) -> access.Opened:
    return opened


def _none_removed(tx: Tx, table: str, *args: Any) -> Any:
    return ([], False) if table == "removed" else _read_rows(tx, table, *args)


def _still_there(tx: Tx, account_id: int, mailbox_id: int) -> int:
    row = tx.row("SELECT mod_seq FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id))
    return row[0] if row else 0


_removals = telling.removals
_view = views.Views.view
_open_returning = qresync.open_returning
_reserve = messages._reserve
_read_rows = fetch_rows._read_rows
_standing = rights.standing
_numbers = qresync._numbers

_HELD_BACK: Final = (
    s.Append(session=0, mailbox="INBOX", flags=("\\Deleted",), count=1),
    s.Append(session=0, mailbox="INBOX", flags=(), count=1),
    s.Noop(session=0, is_check=False),
    s.Select(session=1, mailbox="INBOX", fetches=True, is_read_only=False),
    s.Expunge(session=0),
    s.Store(session=1, picks=(1,), mode="+", flags=("\\Flagged",), is_silent=False, is_uid=False, is_open=False),
    s.Reconnect(session=1, modes=("QRESYNC",), resume=1),
)

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
    Fault("who loses the right to read goes on reading", Selected, "check_rights", _never_lost),
    Fault("rights to another's mailbox are all or none", rights, "standing", _all_permitted),
    Fault("what a reader has seen is forgotten", reader_flags, "set_seen", _nothing_seen),
    Fault("a copy into another account has no keywords", shared_copies, "_kept", _no_names),
    Fault("names below a removed mailbox go with it", mailboxes, "_stand_in", _nothing_seen),
    Fault("mailboxes do not inherit rights", rights, "inherit", _nothing_seen),
    Fault("who comes back is not told what vanished", telling, "vanished_earlier", _tells_nothing),
    Fault("who comes back is told flags by wrong numbers", qresync, "_numbers", _one_too_high),
    Fault("HIGHESTMODSEQ does not say that a removal waits", Selected, "sync", _not_held_back, _HELD_BACK),
    Fault("a saved result is empty", search, "save", _save_nothing),
    Fault("nobody is told VANISHED", Modes, "tells_vanished", property(lambda self: False)),
    Fault("of several that vanished only one is told", telling, "removals", _one_untold),
    Fault("readers see what the owner has seen", views.Views, "view", _owners_view),
    Fault("UNSEEN is the owner's", status, "with_own_unseen", _owners_unseen),
    Fault("UIDONLY takes sequence numbers", uidonly, "uses_numbers", _nothing),
    Fault("rev2 is told RECENT", telling, "arrivals", _with_recent),
    Fault("NOTIFY alone wakes nobody", Listening, "waits", property(lambda self: self.idle_tag is not None)),
    Fault("who comes back is told of another mailbox of that name", qresync, "open_returning", _any_validity),
    Fault("the quota is not asked", messages, "_reserve", _unbounded),
    Fault("what others have seen does not move along", reader_flags, "move", _nothing),
    Fault("FETCH does not answer for messages that are gone", fetch_rows, "_read_rows", _none_removed),
    Fault("a removed mailbox stays open", views, "_read_mod_seq", _still_there),
)


def plant(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the server until the test ends."""
    monkeypatch.setattr(fault.place, fault.attribute, fault.broken)
    monkeypatch.setattr(session, "IDLE_S", 1.5)  # nothing will come
    if fault.broken in (_no_hint, _tell_nobody):
        monkeypatch.setattr(store, "POLL_S", 3600.0)


def lose_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: hints between workers may be lost, and the poll makes up for it, here more often than in a server."""
    monkeypatch.setattr(HintHub, "tell_others", _no_hint)
    monkeypatch.setattr(store, "POLL_S", 0.01)


def lose_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: where every hint arrives, the poll is not needed."""
    monkeypatch.setattr(store, "POLL_S", 3600.0)
