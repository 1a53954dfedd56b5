"""The response lines of a FETCH that rows and the view answer: finished bytes, put together by one format.

No object and no await for each message.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pochta.mime.core import select_fields
from pochta.proto.imap import encode
from pochta.proto.imap.commands import BodySection, FetchAttribute
from pochta.proto.imap.dates import encode_internal_date
from pochta.proto.imap.view import Slice
from pochta.servers.imap import object_ids, telling
from pochta.servers.imap.fetch import rows as fetch_rows
from pochta.servers.imap.fetch.plan import COLUMNS, Plan
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.selected import Selected
from pochta.store.tx import Row

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

# RFC 8970 §3.3: 200 characters; 256, as many as are stored, only where another protocol asks
PREVIEW_MAX_CHARS: Final = 200


async def values_of(
    selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row]
) -> tuple[list[bytes], list[Sequence[int | bytes]]]:
    """The forms of the plan's items and, for each place in them, the column of values."""
    index = {name: at for at, name in enumerate(steps.sql_columns, 1)}
    is_whole = len(rows) == part.stop - part.start
    forms: list[bytes] = []
    values: list[Sequence[int | bytes]] = []
    for item in steps.items:
        if isinstance(item, BodySection):
            selection = steps.selections[item]
            at = index["m.header_core"]
            found = [select_fields(row[at], selection) for row in rows]
            # `None`: the header was too large for a core; such a message is opened by `sections`
            texts = [b"" if one is None else one for one in found]
            forms.append(item.label.replace(b"%", b"%%") + b" {%d}\r\n%b")
            values += [[len(text) for text in texts], texts]
            continue
        forms.append(COLUMNS[item].form)
        if item is FetchAttribute.UID:
            values.append(part.uids if is_whole else [row[0] for row in rows])
        elif item is FetchAttribute.FLAGS:
            values.append(await _shown_flags(selected, part, rows, index.get("p.flags", 0)))
        elif item is FetchAttribute.INTERNALDATE:
            at, zone_at = index["p.internal_date"], index["p.zone_minutes"]
            values.append([encode_internal_date(row[at], row[zone_at]) for row in rows])
        elif item is FetchAttribute.MODSEQ and "p.flags" not in index:
            # what changes while the answer is on its way has flags that are not in it: they are told by `sync`
            at, told = index["p.mod_seq"], selected.told_mod_seq
            values.append([min(row[at], told) for row in rows])
        else:
            at = index[COLUMNS[item].sql[0]]
            show = _shown_as(item, selected.account_id)
            values.append([row[at] for row in rows] if show is None else [show(row[at]) for row in rows])
    return forms, values


def _shown_as(item: FetchAttribute, account_id: int) -> Callable[[Any], bytes] | None:  # Any: a value of the row
    """How the item's column is written; None: as it is."""
    if item is FetchAttribute.EMAILID:
        return lambda number: object_ids.email_id(account_id, number)
    if item is FetchAttribute.THREADID:
        return lambda number: object_ids.thread_id(account_id, number)
    if item is FetchAttribute.SAVEDATE:
        return lambda at: encode_internal_date(at, 0)
    # RFC 8970 §3.3: UTF-8; beyond ASCII a literal, which every client reads
    return _shown_preview if item is FetchAttribute.PREVIEW else None


def _shown_preview(preview: str) -> bytes:
    return encode.string(preview[:PREVIEW_MAX_CHARS].rstrip().encode("utf-8"))


async def _shown_flags(selected: Selected, part: Slice, rows: Sequence[Row], at: int) -> list[bytes]:
    """The flags of each row: from its column `at`, or, where that is 0, from the view."""
    if not rows:
        return []
    if at:
        return await selected.shown_flags([row[0] for row in rows], [row[at] for row in rows])
    shown = await selected.shown_flags(part.uids, part.flags)
    if len(rows) == part.stop - part.start:
        return shown
    by_uid = dict(zip(part.uids, shown, strict=True))
    return [by_uid[row[0]] for row in rows]


async def row_lines(selected: Selected, part: Slice, steps: Plan, rows: Sequence[Row], modes: Modes) -> bytes:
    """The response lines of a slice that rows alone answer. About 1 us a message besides the rows."""
    forms, values = await values_of(selected, part, steps, rows)
    form = telling.fetch_head(modes) + b" ".join(forms) + b")\r\n"
    lines = b"".join([form % row for row in zip(numbers_of(part, rows, modes), *values, strict=True)])
    return selected.keyword_news() + lines


async def kept_lines(
    connection: "ImapConnection", selected: Selected, part: Slice, changing: Plan, unchanging: Plan
) -> bytes | None:
    """The response lines of a slice, of items that never change and, before them, UID and FLAGS of the view.

    What never changes is kept as text with the chunk once a whole chunk is asked for; None where it is not there.
    About 0.4 us a message.
    """
    kept = part.chunk.texts.get(unchanging.items)
    if kept is None:
        if part.stop - part.start < len(part.chunk.uids):
            return None
        kept = await _unchanging_text(connection, selected, part, unchanging)
        if kept is None:
            return None
        part.chunk.texts.clear()
        part.chunk.texts[unchanging.items] = kept
    texts = kept.split(b"\n")[part.start : part.stop]
    forms, values = await values_of(selected, part, changing, [(uid,) for uid in part.uids])
    form = telling.fetch_head(connection.modes) + b" ".join([*forms, b"%b)\r\n"])
    numbered = telling.numbers(connection.modes, part)
    return selected.keyword_news() + b"".join([form % row for row in zip(numbered, *values, texts, strict=True)])


async def _unchanging_text(connection: "ImapConnection", selected: Selected, part: Slice, steps: Plan) -> bytes | None:
    """A line for each message of the slice with the plan's items; None where a message is gone."""
    part, rows = await fetch_rows.read(connection, selected, part, steps.sql_columns, None)
    if len(rows) < part.stop - part.start:
        return None
    forms, values = await values_of(selected, part, steps, rows)
    form = b" ".join(forms)
    return b"\n".join([form % row for row in zip(*values, strict=True)])


def numbers_of(part: Slice, rows: Sequence[Row], modes: Modes) -> Sequence[int]:
    if len(rows) == part.stop - part.start:
        return telling.numbers(modes, part)
    if modes.uidonly:
        return [row[0] for row in rows]
    by_uid = {uid: seq for seq, uid in enumerate(part.uids, part.seq)}
    return [by_uid[row[0]] for row in rows]
