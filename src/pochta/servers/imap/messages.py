"""Commands that change messages: STORE, COPY, MOVE, EXPUNGE, CLOSE and their UID forms.

Long ones go in steps of `changes.UIDS_PER_STEP` messages, so that the write lane serves others in between; the client
hears of them when all are durable (INV-1; flags: survive a killed process).
"""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.seqset import SeqSet, encode_ranges
from pochta.proto.imap.view import Slice, Snapshot
from pochta.servers.imap import condstore, message_limit, telling
from pochta.servers.imap.mailboxes import quota
from pochta.servers.imap.selected import (
    COMPARED_INLINE_MAX,
    RANGES_A_STEP,
    Selected,
    split_flags,
    steps_of,
    uid_ranges,
)
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.servers.pace import Pace
from pochta.store import access, changes, flags, placements, rights
from pochta.store.placements import FlagMode
from pochta.store.rights import Right

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_MODES: Final = {
    c.StoreMode.REPLACE: FlagMode.REPLACE,
    c.StoreMode.ADD: FlagMode.ADD,
    c.StoreMode.REMOVE: FlagMode.REMOVE,
}


def _now() -> int:
    return int(clock.now_s())


def select_slices(snapshot: Snapshot, seq_set: SeqSet, *, is_uid: bool) -> list[Slice] | None:
    """The messages a command names; None when it names a sequence number that does not exist (BAD, RFC 3501 §9)."""
    if is_uid or seq_set.is_saved:
        # RFC 3501 §6.4.8: a uid that does not exist is passed over
        return list(snapshot.by_uid(seq_set.normalised(snapshot.last_uid)))
    if seq_set.largest() > snapshot.count or (snapshot.count == 0 and seq_set.has_star()):
        return None
    return list(snapshot.by_seq(seq_set.normalised(snapshot.count)))


async def _slices(connection: "ImapConnection", tag: bytes, seq_set: SeqSet, *, is_uid: bool) -> list[Slice] | None:
    """As `select_slices`, with the BAD answer sent."""
    assert connection.selected is not None
    parts = select_slices(await connection.selected.snapshot(), seq_set, is_uid=is_uid)
    if parts is None:
        connection.send(encode.tagged(tag, b"BAD", "There is no message of that number"))
    return parts


def _writable(connection: "ImapConnection") -> Selected:
    selected = connection.selected
    assert selected is not None
    if selected.is_read_only:
        raise Refusal(RefusalCode.NO_PERMISSION, "The mailbox was opened read-only")
    return selected


async def store(connection: "ImapConnection", tag: bytes, command: c.Store) -> None:
    """STORE. Source: RFC 3501 §6.4.6, RFC 7162 §3.1.3."""
    if command.unchanged_since is not None:
        condstore.make_aware(connection)
    selected = _writable(connection)
    parts = await _slices(connection, tag, command.seq_set, is_uid=command.is_uid)
    if parts is None:
        return
    parts, limit_code = message_limit.limited(connection, parts)
    if connection.modes.condstore:
        await _store_and_tell_mod_seqs(connection, selected, tag, command, parts, limit_code)
        return
    system_flags, keywords = split_flags(command.flags)
    mode = _MODES[command.mode]
    is_silent = command.is_silent and _may_change_all(selected, mode, system_flags, keywords)
    steps = steps_of(parts, changes.UIDS_PER_STEP)
    for number, ranges in enumerate(steps):
        await connection.progress.tell(100 * number // len(steps), 100)
        await set_flags(connection, selected, ranges, mode, system_flags, keywords)
        if is_silent:
            keep, add = await _mask(connection, selected, mode, system_flags, keywords)
            selected.believe(ranges, keep, add)
            continue
        snapshot = await selected.learn(ranges)
        for part in snapshot.by_uid(ranges):
            with_uid = command.is_uid and not connection.modes.uidonly
            await connection.send_large(await telling.flag_lines(selected, part, connection.modes, with_uid=with_uid))
    connection.send(selected.keyword_news())
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    message_limit.answer(connection, tag, "STORE completed", limit_code)


async def _store_and_tell_mod_seqs(
    connection: "ImapConnection",
    selected: Selected,
    tag: bytes,
    command: c.Store,
    parts: list[Slice],
    limit_code: bytes,
) -> None:
    """STORE of a client that knows mod-sequences, with a condition or without."""
    system_flags, keywords = split_flags(command.flags)
    mode = _MODES[command.mode]
    snapshot = await selected.snapshot()
    numbers: list[int] = []  # of those that failed
    is_whole = True
    steps = steps_of(parts, changes.UIDS_PER_STEP)
    for number, ranges in enumerate(steps):
        await connection.progress.tell(100 * number // len(steps), 100)
        stored = await condstore.store_step(connection, selected, ranges, command, mode, system_flags, keywords)
        believed = None
        if command.is_silent and _may_change_all(selected, mode, system_flags, keywords):
            believed = await _mask(connection, selected, mode, system_flags, keywords)
        is_whole &= await condstore.tell_step(connection, selected, ranges, stored.failed, believed)
        # before removals are told: the numbers are those of the command
        numbers += stored.failed if command.is_uid else [snapshot.seq_of(uid) for uid in stored.failed]
    await connection.sync(may_expunge=command.is_uid)
    if command.unchanged_since is None:
        message_limit.answer(connection, tag, "STORE completed", limit_code)
    else:
        if limit_code:
            connection.send(encode.untagged(b"NO", "Only the newest messages were looked at", code=limit_code))
        connection.send(await condstore.store_answer(tag, numbers, is_whole=is_whole))


def _may_change_all(selected: Selected, mode: FlagMode, system_flags: int, keywords: tuple[str, ...]) -> bool:
    """Whether STORE does all that its client believes; what it leaves out is told, asked for or not."""
    named = -1 if mode is FlagMode.REPLACE else system_flags | (-1 << flags.FIRST_KEYWORD_BIT if keywords else 0)
    return not named & ~selected.standing.changeable


async def _mask(
    connection: "ImapConnection", selected: Selected, mode: FlagMode, system_flags: int, keywords: tuple[str, ...]
) -> tuple[int, int]:
    """(keep, add) of what STORE did: of the flags it named those that the reader may change."""
    keep, add = placements.mask(mode, await _bits(connection, selected, system_flags, keywords))
    changeable = selected.standing.changeable
    return keep | ~changeable, add & changeable


async def _bits(connection: "ImapConnection", selected: Selected, system_flags: int, keywords: tuple[str, ...]) -> int:
    """The set that STORE named, as the store numbers the keywords; one that nobody has is in no message."""
    if not keywords:
        return system_flags
    known = await connection.context.views.keywords(selected.account_id, ANY_KEYWORD)
    by_name = {name.lower(): bit for bit, name in known.items()}
    return system_flags | sum({by_name.get(name.lower(), 0) for name in keywords})


async def set_flags(
    connection: "ImapConnection",
    selected: Selected,
    ranges: Sequence[tuple[int, int]],
    mode: FlagMode,
    system_flags: int,
    keywords: tuple[str, ...],
) -> None:
    """Change the flags of the messages of one step."""
    await connection.context.store.write(
        selected.account_id,
        placements.set_flags,
        selected.account_id,
        selected.mailbox_id,
        tuple(ranges),
        mode,
        system_flags,
        keywords,
        _now(),
        selected.reader_id,
        durable=False,
    )


async def copy(connection: "ImapConnection", tag: bytes, command: c.Copy) -> None:
    """COPY: all or nothing. Source: RFC 3501 §6.4.7, RFC 4315 §3."""
    selected = connection.selected
    assert selected is not None
    parts = await _slices(connection, tag, command.seq_set, is_uid=command.is_uid)
    if parts is None:
        return
    message_limit.refuse_too_many(connection, parts)
    count = sum(part.stop - part.start for part in parts)
    try:
        if count > placements.COPY_MAX_MESSAGES:
            raise Refusal(RefusalCode.LIMIT, f"COPY takes at most {placements.COPY_MAX_MESSAGES} messages; use MOVE")
        writing = connection.context.store.write(
            selected.account_id,
            placements.copy,
            selected.account_id,
            selected.mailbox_id,
            tuple(uid_ranges(parts)),
            command.mailbox,
            _now(),
            selected.reader_id,
            in_thread=count > changes.UIDS_PER_STEP,
        )
        copied = await connection.progress.during(writing, count)
    except Refusal as refusal:
        connection.answer_append_error(tag, refusal)
        return
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    await quota.warn_if_exceeded(connection, command.mailbox)
    connection.send(encode.tagged(tag, b"OK", "COPY completed", code=await _paced_copyuid(copied)))


async def _paced_copyuid(copied: placements.Copied) -> bytes:
    if len(copied.from_uids) > COMPARED_INLINE_MAX:
        return await asyncio.to_thread(_copyuid, copied)  # INV-12: 0.3 us a uid where none is the neighbour of another
    return _copyuid(copied)


def _copyuid(copied: placements.Copied) -> bytes:
    if not copied.from_uids:
        return b""
    return b"COPYUID %d %b %b" % (
        copied.uid_validity,
        encode_ranges(copied.from_uids),
        encode_ranges(copied.to_uids),
    )


async def move(connection: "ImapConnection", tag: bytes, command: c.Move) -> None:
    """MOVE: each message stands either here or there. Source: RFC 6851 §3.3."""
    selected = _writable(connection)
    before = selected.told_mod_seq
    parts = await _slices(connection, tag, command.seq_set, is_uid=command.is_uid)
    if parts is None:
        return
    parts, limit_code = message_limit.limited(connection, parts)
    moved: list[placements.Copied] = []
    error: Refusal | TryLater | None = None
    try:
        await _move_in_steps(connection, selected, parts, command.mailbox, moved)
    except (Refusal, TryLater) as refusal:
        error = refusal
    if moved:
        # RFC 6851 §4.3: COPYUID in an untagged OK before the EXPUNGE responses; also for what moved before a refusal
        whole = placements.Copied(
            moved[0].uid_validity,
            tuple(chain.from_iterable(one.from_uids for one in moved)),
            tuple(chain.from_iterable(one.to_uids for one in moved)),
        )
        connection.send(encode.untagged(b"OK", "Moved", code=await _paced_copyuid(whole)))
        await connection.sync(may_expunge=True, with_uid=command.is_uid)
    if error is not None:
        connection.answer_append_error(tag, error)
        return
    # RFC 3501 §6.4.8: FETCH responses to a UID command hold the UID, those about others' changes too
    await connection.sync(may_expunge=True, with_uid=command.is_uid)
    code = _highest(connection, selected, before)
    message_limit.answer(connection, tag, "MOVE completed", limit_code, code=code)


async def _move_in_steps(
    connection: "ImapConnection", selected: Selected, parts: list[Slice], path: str, moved: list[placements.Copied]
) -> None:
    """Move step by step; `moved` tells how far it went.

    Raises:
        Refusal: NOT_FOUND (the other mailbox). TryLater: the disk is full.
    """
    account_id, reader_id, store = selected.account_id, selected.reader_id, connection.context.store
    # RFC 6851 §3.3: also within one mailbox, where the messages get new uids
    await store.read(account_id, access.open_selectable, reader_id, path, Right.INSERT)
    count, done = sum(part.stop - part.start for part in parts), 0
    for ranges in steps_of(parts, changes.MOVED_PER_STEP):
        step = await store.write(
            account_id, placements.move, account_id, selected.mailbox_id, tuple(ranges), path, _now(), reader_id
        )
        if step.from_uids:
            moved.append(step)
        done += len(step.from_uids)
        await connection.progress.tell(done, count)


async def expunge(connection: "ImapConnection", tag: bytes, command: c.Expunge) -> None:
    """EXPUNGE. Source: RFC 3501 §6.4.3."""
    selected = _writable(connection)
    rights.need(selected.standing, Right.EXPUNGE)
    before = selected.told_mod_seq
    await _remove_deleted(connection, selected, None)
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "EXPUNGE completed", code=_highest(connection, selected, before)))


def _highest(connection: "ImapConnection", selected: Selected, before: int) -> bytes:
    """HIGHESTMODSEQ after a removal (RFC 7162 §3.2.7: optional without QRESYNC), for who knows mod-sequences."""
    has_changed = connection.modes.condstore and selected.told_mod_seq > before
    return condstore.highest(selected) if has_changed else b""


async def uid_expunge(connection: "ImapConnection", tag: bytes, command: c.UidExpunge) -> None:
    """UID EXPUNGE. Source: RFC 4315 §2.1."""
    selected = _writable(connection)
    rights.need(selected.standing, Right.EXPUNGE)
    before = selected.told_mod_seq
    limit_code = await _remove_deleted(connection, selected, command.seq_set)
    await connection.sync(may_expunge=True, with_uid=True)
    code = _highest(connection, selected, before)
    message_limit.answer(connection, tag, "UID EXPUNGE completed", limit_code, code=code)


async def _remove_deleted(
    connection: "ImapConnection", selected: Selected, only: SeqSet | None, *, is_told: bool = True
) -> bytes:
    """Remove what is \\Deleted; of a UID EXPUNGE, which has a limit, the response code of RFC 9738."""
    snapshot = await connection.context.views.current(selected.view)
    parts = snapshot.slices() if only is None else snapshot.by_uid(only.normalised(snapshot.last_uid))
    deleted: list[int] = []
    pace = Pace()
    for part in parts:
        if part.chunk.union & flags.DELETED:
            deleted += [uid for uid, bits in zip(part.uids, part.flags, strict=True) if bits & flags.DELETED]
        await pace.turn()
    limit_code = b""
    if only is not None:
        deleted, limit_code = message_limit.limited_uids(connection, deleted)
    step = changes.MOVED_PER_STEP
    for start in range(0, len(deleted), step):
        ranges = changes.ranges_of(deleted[start : start + step])
        for at in range(0, len(ranges), RANGES_A_STEP):
            await connection.context.store.write(
                selected.account_id,
                placements.expunge,
                selected.account_id,
                selected.mailbox_id,
                tuple(ranges[at : at + RANGES_A_STEP]),
                _now(),
                True,
                selected.reader_id,
            )
        if is_told:
            await connection.sync(may_expunge=True, with_uid=only is not None)
        await connection.progress.tell(start + step, len(deleted))
    return limit_code


async def close(connection: "ImapConnection", tag: bytes, command: c.Close) -> None:
    """CLOSE: removes what is \\Deleted, tells nothing of it.

    Source: RFC 3501 §6.4.2; RFC 7162 §3.2.8: no HIGHESTMODSEQ, which would hide the removals.
    """
    selected = connection.selected
    assert selected is not None
    if not selected.is_read_only and Right.EXPUNGE in selected.standing.rights:  # RFC 4314 §4: without it, nothing
        await _remove_deleted(connection, selected, None, is_told=False)
    connection.selected = None
    connection.send(encode.tagged(tag, b"OK", "CLOSE completed"))


async def unselect(connection: "ImapConnection", tag: bytes, command: c.Unselect) -> None:
    """UNSELECT. Source: RFC 3691 §2."""
    connection.selected = None
    connection.send(encode.tagged(tag, b"OK", "UNSELECT completed"))
