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
from pochta.servers.imap import condstore
from pochta.servers.imap.selected import (
    COMPARED_INLINE_MAX,
    RANGES_A_STEP,
    Selected,
    split_flags,
    steps_of,
    uid_ranges,
)
from pochta.servers.imap.views import ANY_KEYWORD
from pochta.store import changes, flags, mailboxes, placements
from pochta.store.placements import FlagMode

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

_MODES: Final = {
    c.StoreMode.REPLACE: FlagMode.REPLACE,
    c.StoreMode.ADD: FlagMode.ADD,
    c.StoreMode.REMOVE: FlagMode.REMOVE,
}

RENDERINGS_PER_CHUNK: Final = 2  # a client that asks 1:* again, and one that asks with UID
RENDERING_MAX_BYTES: Final = 32 * 1024  # 25 KiB with usual flags; with 58 long keywords on all messages it is 3 MB


def _now() -> int:
    return int(clock.now_s())


def select_slices(snapshot: Snapshot, seq_set: SeqSet, *, is_uid: bool) -> list[Slice] | None:
    """The messages a command names; None when it names a sequence number that does not exist (BAD, RFC 3501 §9)."""
    if is_uid:
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
    if connection.is_condstore_aware:
        await _store_and_tell_mod_seqs(connection, selected, tag, command, parts)
        return
    system_flags, keywords = split_flags(command.flags)
    mode = _MODES[command.mode]
    for ranges in steps_of(parts, changes.UIDS_PER_STEP):
        await set_flags(connection, selected, ranges, mode, system_flags, keywords)
        if command.is_silent:
            keep, add = placements.mask(mode, await _bits(connection, selected, system_flags, keywords))
            selected.believe(ranges, keep, add)
            continue
        snapshot = await selected.learn(ranges)
        for part in snapshot.by_uid(ranges):
            await connection.send_large(await flag_lines(selected, part, with_uid=command.is_uid))
    connection.send(selected.keyword_news())
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
    connection.send(encode.tagged(tag, b"OK", "STORE completed"))


async def _store_and_tell_mod_seqs(
    connection: "ImapConnection", selected: Selected, tag: bytes, command: c.Store, parts: list[Slice]
) -> None:
    """STORE of a client that knows mod-sequences, with a condition or without."""
    system_flags, keywords = split_flags(command.flags)
    mode = _MODES[command.mode]
    snapshot = await selected.snapshot()
    numbers: list[int] = []  # of those that failed
    is_whole = True
    for ranges in steps_of(parts, changes.UIDS_PER_STEP):
        stored = await condstore.store_step(connection, selected, ranges, command, mode, system_flags, keywords)
        believed = None
        if command.is_silent:
            believed = placements.mask(mode, await _bits(connection, selected, system_flags, keywords))
        is_whole &= await condstore.tell_step(connection, selected, ranges, stored.failed, believed)
        # before removals are told: the numbers are those of the command
        numbers += stored.failed if command.is_uid else [snapshot.seq_of(uid) for uid in stored.failed]
    await connection.sync(may_expunge=command.is_uid)
    if command.unchanged_since is None:
        connection.send(encode.tagged(tag, b"OK", "STORE completed"))
    else:
        connection.send(await condstore.store_answer(tag, numbers, is_whole=is_whole))


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
        durable=False,
    )


async def flag_lines(selected: Selected, part: Slice, *, with_uid: bool) -> bytes:
    """`* n FETCH (FLAGS (…))` for each message of the slice; kept with the chunk. About 0.3 us a message, once."""
    first, last = part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]
    is_plain = not any(low <= last and high >= first for low, high in selected.recent_ranges)
    key = (selected.account_id, part.start, part.stop, part.seq, with_uid)
    rendered = part.chunk.rendered.get(key) if is_plain else None
    if rendered is None:
        shown = await selected.shown_flags(part.uids, part.flags)
        numbers = range(part.seq, part.seq + part.stop - part.start)
        if with_uid:
            rows = zip(numbers, part.uids, shown, strict=True)
            rendered = b"".join([b"* %d FETCH (UID %d FLAGS (%b))\r\n" % row for row in rows])
        else:
            rendered = b"".join([b"* %d FETCH (FLAGS (%b))\r\n" % row for row in zip(numbers, shown, strict=True)])
        if is_plain and len(rendered) <= RENDERING_MAX_BYTES:
            if len(part.chunk.rendered) >= RENDERINGS_PER_CHUNK:
                part.chunk.rendered.clear()
            part.chunk.rendered[key] = rendered
    return selected.keyword_news() + rendered


async def copy(connection: "ImapConnection", tag: bytes, command: c.Copy) -> None:
    """COPY: all or nothing. Source: RFC 3501 §6.4.7, RFC 4315 §3."""
    selected = connection.selected
    assert selected is not None
    parts = await _slices(connection, tag, command.seq_set, is_uid=command.is_uid)
    if parts is None:
        return
    count = sum(part.stop - part.start for part in parts)
    try:
        if count > placements.COPY_MAX_MESSAGES:
            raise Refusal(RefusalCode.LIMIT, f"COPY takes at most {placements.COPY_MAX_MESSAGES} messages; use MOVE")
        copied = await connection.context.store.write(
            selected.account_id,
            placements.copy,
            selected.account_id,
            selected.mailbox_id,
            tuple(uid_ranges(parts)),
            command.mailbox,
            _now(),
            in_thread=count > changes.UIDS_PER_STEP,
        )
    except Refusal as refusal:
        connection.answer_append_error(tag, refusal)
        return
    await connection.sync(may_expunge=command.is_uid, with_uid=command.is_uid)
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
    connection.send(encode.tagged(tag, b"OK", "MOVE completed", code=_highest(connection, selected, before)))


async def _move_in_steps(
    connection: "ImapConnection", selected: Selected, parts: list[Slice], path: str, moved: list[placements.Copied]
) -> None:
    """Move step by step; `moved` tells how far it went.

    Raises:
        Refusal: NOT_FOUND (the other mailbox), CANNOT. TryLater: the disk is full.
    """
    account_id, store = selected.account_id, connection.context.store
    target = await store.read(account_id, mailboxes.find, account_id, path)
    if target.id == selected.mailbox_id:
        raise Refusal(RefusalCode.CANNOT, "The messages are in that mailbox already")
    for ranges in steps_of(parts, changes.MOVED_PER_STEP):
        step = await store.write(
            account_id, placements.move, account_id, selected.mailbox_id, tuple(ranges), path, _now()
        )
        if step.from_uids:
            moved.append(step)


async def expunge(connection: "ImapConnection", tag: bytes, command: c.Expunge) -> None:
    """EXPUNGE. Source: RFC 3501 §6.4.3."""
    selected = _writable(connection)
    before = selected.told_mod_seq
    await _remove_deleted(connection, selected, None)
    await connection.sync(may_expunge=True)
    connection.send(encode.tagged(tag, b"OK", "EXPUNGE completed", code=_highest(connection, selected, before)))


def _highest(connection: "ImapConnection", selected: Selected, before: int) -> bytes:
    """HIGHESTMODSEQ after a removal (RFC 7162 §3.2.7: optional without QRESYNC), for who knows mod-sequences."""
    has_changed = connection.is_condstore_aware and selected.told_mod_seq > before
    return condstore.highest(selected) if has_changed else b""


async def uid_expunge(connection: "ImapConnection", tag: bytes, command: c.UidExpunge) -> None:
    """UID EXPUNGE. Source: RFC 4315 §2.1."""
    selected = _writable(connection)
    before = selected.told_mod_seq
    await _remove_deleted(connection, selected, command.seq_set)
    await connection.sync(may_expunge=True, with_uid=True)
    connection.send(encode.tagged(tag, b"OK", "UID EXPUNGE completed", code=_highest(connection, selected, before)))


async def _remove_deleted(
    connection: "ImapConnection", selected: Selected, only: SeqSet | None, *, is_told: bool = True
) -> None:
    snapshot = await connection.context.views.current(selected.view)
    parts = snapshot.slices() if only is None else snapshot.by_uid(only.normalised(snapshot.last_uid))
    deleted: list[int] = []
    for part in parts:
        deleted += [uid for uid, bits in zip(part.uids, part.flags, strict=True) if bits & flags.DELETED]
        await asyncio.sleep(0)
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
            )
        if is_told:
            await connection.sync(may_expunge=True, with_uid=only is not None)


async def close(connection: "ImapConnection", tag: bytes, command: c.Close) -> None:
    """CLOSE: removes what is \\Deleted, tells nothing of it.

    Source: RFC 3501 §6.4.2; RFC 7162 §3.2.8: no HIGHESTMODSEQ, which would hide the removals.
    """
    selected = connection.selected
    assert selected is not None
    if not selected.is_read_only:
        await _remove_deleted(connection, selected, None, is_told=False)
    connection.selected = None
    connection.send(encode.tagged(tag, b"OK", "CLOSE completed"))


async def unselect(connection: "ImapConnection", tag: bytes, command: c.Unselect) -> None:
    """UNSELECT. Source: RFC 3691 §2."""
    connection.selected = None
    connection.send(encode.tagged(tag, b"OK", "UNSELECT completed"))
