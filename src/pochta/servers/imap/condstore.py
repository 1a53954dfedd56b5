"""CONDSTORE: which client is told of mod-sequences, conditional STORE, and FETCH of what has changed.

A client becomes aware by its first command that names mod-sequences, and stays so; from then on every FETCH response
that it did not ask for holds UID and MODSEQ. Flags and mod-sequence of one response always come from one row: flags of
an older view beside a newer mod-sequence would let a conditional STORE overwrite what its client has never seen.
Clients that are not aware pay nothing. INV-8: HIGHESTMODSEQ is the mod_seq of the view the client was told of.

Source: RFC 7162 §3.1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta import clock
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.view import Slice
from pochta.servers.imap import telling
from pochta.servers.imap.selected import Selected, encode_many, uid_ranges
from pochta.servers.pace import Pace
from pochta.store import changes, placements
from pochta.store.changes import UidRange
from pochta.store.placements import FlagMode
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

LOG_MAX_ROWS: Final = 1000  # of the change log for one CHANGEDSINCE; more: the placements are scanned
LOG_MAX_CHARS: Final = 64 * 1024  # of their uids as text
LOG_MAX_RANGES: Final = 256  # a read for each; a scan of 100 000 messages takes 200 reads


def make_aware(connection: "ImapConnection") -> None:
    """Note that the client knows mod-sequences; the first time, with a mailbox selected, it is told the highest.

    Source: RFC 7162 §3.1.
    """
    if connection.modes.condstore:
        return
    connection.modes.condstore = True
    if connection.selected is not None:
        code = highest(connection.selected)
        connection.send(encode.untagged(b"OK", "Modification sequences are told from now on", code=code))


def highest(selected: Selected) -> bytes:
    """The response code HIGHESTMODSEQ; INV-8: it reaches no change that the client was not told of."""
    return b"HIGHESTMODSEQ %d" % selected.told_mod_seq


async def store_step(
    connection: "ImapConnection",
    selected: Selected,
    ranges: Sequence[UidRange],
    command: c.Store,
    mode: FlagMode,
    system_flags: int,
    keywords: tuple[str, ...],
) -> placements.Stored:
    """Change the flags of the messages of one step as far as the condition permits.

    DEVIATES RFC 7162 §3.1.12: a message that changed in another flag than the named one fails too (a SHOULD there). One
    mod-sequence stands for the whole message, and a client that uses it as a lock gets what it expects.
    """
    args = (selected.account_id, selected.mailbox_id, tuple(ranges), mode, system_flags, keywords)
    now = int(clock.now_s())
    write, account_id, reader_id = connection.context.store.write, selected.account_id, selected.reader_id
    if command.unchanged_since is None:
        return placements.Stored(
            await write(account_id, placements.set_flags, *args, now, reader_id, durable=False), ()
        )
    since = command.unchanged_since
    return await write(account_id, placements.set_flags_unless_changed, *args, since, now, reader_id, durable=False)


async def tell_step(
    connection: "ImapConnection",
    selected: Selected,
    ranges: Sequence[UidRange],
    failed: Sequence[int],
    believed: tuple[int, int] | None,
) -> bool:
    """The responses to a step of STORE, with MODSEQ; whether all messages of the step are still there.

    RFC 7162 §3.1.3: MODSEQ is told although `.SILENT` was asked. `believed`: then the client takes the flags to be
    `old & keep | add`, and they are told only where that is wrong or the condition failed.
    """
    snapshot = await selected.snapshot()
    account_id, mailbox_id = selected.account_id, selected.mailbox_id
    rows = await connection.context.store.read(
        account_id, placements.mod_seqs_of, account_id, mailbox_id, tuple(ranges), selected.standing.seen_by
    )
    known = {uid: bits for part in snapshot.by_uid(ranges) for uid, bits in zip(part.uids, part.flags, strict=True)}
    lost = frozenset(failed)
    # changed since SELECT: the client believes something else than the snapshot
    untold = changes.common_ranges(ranges, selected.untold_ranges)
    lines: list[bytes] = []
    for uid, bits, mod_seq in rows:
        if uid not in known:
            continue
        seq = snapshot.seq_of(uid)
        is_known = believed is not None and uid not in lost and bits == known[uid] & believed[0] | believed[1]
        if is_known and not any(first <= uid <= last for first, last in untold):
            lines.append(telling.mod_seq_line(connection.modes, seq, uid, mod_seq))
        else:
            lines.append(await telling.changed_rows(selected, [seq], [(uid, bits, mod_seq)], connection.modes))
    selected.take_over(ranges, {uid: bits for uid, bits, _ in rows})
    await connection.send_large(selected.keyword_news() + b"".join(lines))
    return len(lines) == len(known)


async def store_answer(tag: bytes, numbers: Sequence[int], *, is_whole: bool) -> bytes:
    """The tagged answer to a conditional STORE. `numbers`: of the messages that failed, rising.

    RFC 7162 §3.1.3: MODIFIED may come with NO, when messages are gone (Example 11).
    """
    code = b"MODIFIED " + await encode_many(numbers) if numbers else b""
    if not is_whole:
        return encode.tagged(tag, b"NO", "Some of the messages no longer exist", code=code or b"EXPUNGEISSUED")
    return encode.tagged(tag, b"OK", "Conditional STORE failed" if numbers else "STORE completed", code=code)


class Logged(NamedTuple):
    """The uids of a mailbox that the log names: those that came or changed, and those that were removed."""

    changed: list[UidRange]
    removed: list[UidRange]


def logged_since(tx: Tx, account_id: int, mailbox_id: int, mod_seq: int) -> Logged | None:
    """What the log tells of the time since; None when it does not reach back, or tells too much for one step."""
    floor = tx.row("SELECT log_floor_mod_seq FROM account WHERE id = ?", (account_id,))
    if floor is None or floor[0] > mod_seq:
        return None
    rows = changes.since(tx, account_id, mailbox_id, mod_seq, limit=LOG_MAX_ROWS)
    if rows is None or sum(len(uids) for _, uids in rows) > LOG_MAX_CHARS:
        return None
    found: list[list[UidRange]] = []
    for kinds in ((changes.Kind.ADDED, changes.Kind.FLAGS), (changes.Kind.REMOVED,)):
        named = (one for kind, uids in rows if kind in kinds for one in changes.decode_ranges(uids))
        found.append(changes.merge_ranges(named))
    return Logged(*found)


async def changed_ranges(connection: "ImapConnection", selected: Selected, changed_since: int) -> list[UidRange] | None:
    """The uids that came or changed since, and perhaps others; None when only a scan can tell."""
    account_id, mailbox_id = selected.account_id, selected.mailbox_id
    args = (account_id, mailbox_id, changed_since)
    logged = await connection.context.store.read(account_id, logged_since, *args)
    return None if logged is None or len(logged.changed) > LOG_MAX_RANGES else logged.changed


async def narrowed(
    connection: "ImapConnection", selected: Selected, parts: list[Slice], changed_since: int
) -> list[Slice]:
    """The slices without what the log says to be unchanged; what is left may hold unchanged messages."""
    ranges = await changed_ranges(connection, selected, changed_since)
    if ranges is None:
        return parts
    return list((await selected.snapshot()).by_uid(changes.common_ranges(uid_ranges(parts), ranges)))


async def exactly_changed(
    connection: "ImapConnection", selected: Selected, parts: list[Slice], changed_since: int
) -> list[Slice]:
    """The messages of the slices that have changed since, and no other."""
    account_id, mailbox_id = selected.account_id, selected.mailbox_id
    snapshot = await selected.snapshot()
    found: list[Slice] = []
    pace = Pace()
    for part in parts:
        first, last = part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]
        args = (account_id, mailbox_id, first, last, changed_since)
        uids = await connection.context.store.read(account_id, placements.changed_since, *args)
        found += snapshot.by_uid(changes.ranges_of(uids))
        await pace.turn()
    return found
