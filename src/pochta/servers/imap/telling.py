"""How a change is told, in each mode of a connection: EXPUNGE or VANISHED, FETCH or UIDFETCH, with RECENT or without.

All that writes such a line asks here, so that no answer of one command speaks another language than the others. What
is told, and when, is decided elsewhere (selected.py).

Source: RFC 3501 §7, RFC 7162 §3.2.10, RFC 9051 §7, RFC 9586 §3.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pochta.proto.imap import commands as c
from pochta.proto.imap.seqset import encode_ranges
from pochta.proto.imap.view import Slice, Snapshot
from pochta.servers.imap.modes import Modes
from pochta.store import changes
from pochta.store.changes import UidRange
from pochta.store.tx import Row

if TYPE_CHECKING:
    from pochta.servers.imap.selected import Selected

REMOVALS_A_LINE: Final = 1000  # in one block (INV-12); VANISHED of as many UIDs without neighbours takes 8 KB
RENDERINGS_PER_CHUNK: Final = 2  # a client that asks 1:* again, and one that asks with UID
RENDERING_MAX_BYTES: Final = 32 * 1024  # 25 KiB with usual flags; with 58 long keywords on all messages it is 3 MB


def fetch_head(modes: Modes) -> bytes:
    """How a FETCH response begins, up to its items; `%d` stands for what `numbers` and `number` give."""
    return b"* %d UIDFETCH (" if modes.uidonly else b"* %d FETCH ("


def number(modes: Modes, seq: int, uid: int) -> int:
    """The number that a FETCH response names a message by."""
    return uid if modes.uidonly else seq


def numbers(modes: Modes, part: Slice) -> Sequence[int]:
    """The numbers of the slice's messages, as `number` gives them."""
    return part.uids if modes.uidonly else range(part.seq, part.seq + part.stop - part.start)


def needs_uid_item(modes: Modes, *, with_uid: bool) -> bool:
    """Whether a response that nobody asked for holds the item UID; `with_uid`: it comes with a UID command."""
    # RFC 9051 §7.5.2, appendix E, 21: all unsolicited FETCH responses hold UID; a UIDFETCH begins with it
    return (with_uid or modes.rev2 or modes.condstore) and not modes.uidonly


def asked_items(modes: Modes, command: c.Fetch) -> tuple[c.FetchItem, ...]:
    """The items that the answer to a FETCH holds, before those that it causes."""
    if modes.uidonly and command.is_uid_implied:
        # RFC 9586 §3.3: UIDFETCH begins with the UID, which is an item only when the client has asked for it
        return tuple(item for item in command.items if item is not c.FetchAttribute.UID)
    return command.items


def changed_items(modes: Modes) -> tuple[c.FetchItem, ...]:
    """What a response that tells of a change holds beside it. Source: RFC 7162 §3.2.4."""
    return (c.FetchAttribute.MODSEQ,) if modes.uidonly else (c.FetchAttribute.UID, c.FetchAttribute.MODSEQ)


def arrivals(modes: Modes, count: int, recent: int) -> bytes:
    """How many messages there are now."""
    # RFC 9051 appendix E, 12: no RECENT
    return b"* %d EXISTS\r\n" % count if modes.rev2 else b"* %d EXISTS\r\n* %d RECENT\r\n" % (count, recent)


def removals(modes: Modes, old: Snapshot, seqs: Sequence[int]) -> Iterator[bytes]:
    """The removal of the messages that have these numbers in `old`, falling, in blocks."""
    if not modes.tells_vanished:
        for start in range(0, len(seqs), REMOVALS_A_LINE):
            yield b"".join([b"* %d EXPUNGE\r\n" % seq for seq in seqs[start : start + REMOVALS_A_LINE]])
        return
    gone = [uid for part in old.by_seq(changes.ranges_of(seqs[::-1])) for uid in part.uids]
    for start in range(0, len(gone), REMOVALS_A_LINE):
        yield b"* VANISHED %b\r\n" % encode_ranges(gone[start : start + REMOVALS_A_LINE])


def vanished_earlier(ranges: Sequence[UidRange]) -> Iterator[bytes]:
    """That these UIDs, rising, were removed before, in blocks. Source: RFC 7162 §3.2.10.1."""
    for start in range(0, len(ranges), REMOVALS_A_LINE):
        shown = [
            b"%d" % first if first == last else b"%d:%d" % (first, last)
            for first, last in ranges[start : start + REMOVALS_A_LINE]
        ]
        yield b"* VANISHED (EARLIER) %b\r\n" % b",".join(shown)


async def changed_flags(
    selected: "Selected", snapshot: Snapshot, changed: Sequence[tuple[int, int]], modes: Modes, *, with_uid: bool
) -> bytes:
    """Responses that nobody asked for: (uid, flags) of messages of the snapshot."""
    head, has_item = fetch_head(modes), needs_uid_item(modes, with_uid=with_uid)
    lines: list[bytes] = []
    for uid, bits in changed:
        shown = await selected.flag_names(bits, is_recent=selected.is_recent(uid))
        item = b"UID %d " % uid if has_item else b""
        lines.append((head + b"%bFLAGS (%b))\r\n") % (number(modes, snapshot.seq_of(uid), uid), item, shown))
    return selected.keyword_news() + b"".join(lines)


async def changed_rows(selected: "Selected", numbered: Sequence[int], rows: Sequence[Row], modes: Modes) -> bytes:
    """Responses with mod-sequences: (uid, flags, mod_seq) of messages with these sequence numbers."""
    # RFC 7162 §3.2.4: UID and MODSEQ in all of them, for who has asked for mod-sequences
    head = fetch_head(modes) + (b"" if modes.uidonly else b"UID %d ") + b"FLAGS (%b) MODSEQ (%d))\r\n"
    lines: list[bytes] = []
    for seq, (uid, bits, mod_seq) in zip(numbered, rows, strict=True):
        shown = await selected.flag_names(bits, is_recent=selected.is_recent(uid))
        lines.append(head % ((uid, shown, mod_seq) if modes.uidonly else (seq, uid, shown, mod_seq)))
    return selected.keyword_news() + b"".join(lines)


def mod_seq_line(modes: Modes, seq: int, uid: int, mod_seq: int) -> bytes:
    """A new mod-sequence alone, of a message whose flags the client knows."""
    if modes.uidonly:
        return b"* %d UIDFETCH (MODSEQ (%d))\r\n" % (uid, mod_seq)
    return b"* %d FETCH (UID %d MODSEQ (%d))\r\n" % (seq, uid, mod_seq)


async def flag_lines(selected: "Selected", part: Slice, modes: Modes, *, with_uid: bool) -> bytes:
    """The flags of each message of the slice; kept with the chunk. About 0.3 us a message, once."""
    first, last = part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]
    # not in another's mailbox: what is kept does not tell which keywords it shows, for `keyword_news`
    recency = selected.recency(first, last)
    is_plain = selected.is_own and recency is not None
    key = (selected.account_id, part.start, part.stop, part.seq, with_uid, modes.uidonly, recency)
    rendered = part.chunk.rendered.get(key) if is_plain else None
    if rendered is None:
        shown = await selected.shown_flags(part.uids, part.flags)
        head, named = fetch_head(modes), numbers(modes, part)
        if with_uid:
            form = head + b"UID %d FLAGS (%b))\r\n"
            rendered = b"".join([form % row for row in zip(named, part.uids, shown, strict=True)])
        else:
            form = head + b"FLAGS (%b))\r\n"
            rendered = b"".join([form % row for row in zip(named, shown, strict=True)])
        if is_plain and len(rendered) <= RENDERING_MAX_BYTES:
            if len(part.chunk.rendered) >= RENDERINGS_PER_CHUNK:
                part.chunk.rendered.clear()
            part.chunk.rendered[key] = rendered
    return selected.keyword_news() + rendered
