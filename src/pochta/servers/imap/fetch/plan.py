"""What of a FETCH its rows answer, and for what the message is opened. Source: RFC 3501 §6.4.5.

A plan is made of a command's items alone: the order of the answer, and the SQL columns it needs.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pochta.mime import describe
from pochta.mime.core import INCOMPLETE, FieldSelection
from pochta.proto.imap.commands import BinarySection, BodySection, FetchAttribute, FetchItem, SectionKind
from pochta.store.tx import Row


class Column(NamedTuple):
    """An item that rows answer: its place in the format, the SQL columns it takes."""

    form: bytes
    sql: tuple[str, ...]


COLUMNS: Final = {
    FetchAttribute.UID: Column(b"UID %d", ()),
    FetchAttribute.FLAGS: Column(b"FLAGS (%b)", ()),
    FetchAttribute.INTERNALDATE: Column(b"INTERNALDATE %b", ("p.internal_date", "p.zone_minutes")),
    FetchAttribute.RFC822_SIZE: Column(b"RFC822.SIZE %d", ("p.size",)),
    FetchAttribute.ENVELOPE: Column(b"ENVELOPE %b", ("m.envelope",)),
    FetchAttribute.BODYSTRUCTURE: Column(b"BODYSTRUCTURE %b", ("m.body_structure",)),
    FetchAttribute.MODSEQ: Column(b"MODSEQ (%d)", ("p.mod_seq",)),
    FetchAttribute.EMAILID: Column(b"EMAILID (%b)", ("p.message_id",)),
    FetchAttribute.THREADID: Column(b"THREADID (%b)", ("m.thread_id",)),
    FetchAttribute.SAVEDATE: Column(b"SAVEDATE %b", ("p.saved_at",)),
    FetchAttribute.PREVIEW: Column(b"PREVIEW %b", ("m.preview",)),
}


OPENED_COLUMNS: Final = ("m.blob_id", "m.size", "m.header_size")  # side by side, as `sections.Wanted` has them


class Plan(NamedTuple):
    """How a FETCH is carried out: items that rows answer, with their SQL, and sections that need the message."""

    items: tuple[FetchAttribute | BodySection, ...]
    sql_columns: tuple[str, ...]
    selections: dict[BodySection, FieldSelection]  # header fields that `header_core` holds
    opened: tuple[FetchItem, ...]  # sections, and BODY, for which the message is opened


def plan(items: Sequence[FetchItem]) -> Plan:
    """The plan for the items of a command."""
    row_items: list[FetchAttribute | BodySection] = []
    opened: list[FetchItem] = []
    selections: dict[BodySection, FieldSelection] = {}
    sql: list[str] = []
    for item in items:
        if isinstance(item, BodySection):
            is_core = item.kind is SectionKind.HEADER_FIELDS and not item.part and item.partial is None
            selection = FieldSelection.from_names(item.fields) if is_core else None
            if selection is None:
                opened.append(item)
            else:
                selections[item] = selection
                row_items.append(item)
                sql.append("m.header_core")
        elif isinstance(item, BinarySection) or item is FetchAttribute.BODY:
            opened.append(item)
        else:
            row_items.append(item)
            sql.extend(COLUMNS[item].sql)
    if FetchAttribute.MODSEQ in items and FetchAttribute.FLAGS in items:
        sql.append("p.flags")  # of the same row as the mod_seq (condstore.py)
    if opened:
        sql += OPENED_COLUMNS
    return Plan(tuple(row_items), tuple(dict.fromkeys(sql)), selections, tuple(opened))


def opening(steps: Plan) -> Plan:
    """The plan with every section, and the structure, read from the message: where the rows are not enough."""
    opened = [item for item in steps.items if isinstance(item, BodySection) or item is FetchAttribute.BODYSTRUCTURE]
    return steps._replace(
        items=tuple(item for item in steps.items if item not in opened),
        opened=(*steps.opened, *opened),
        sql_columns=tuple(dict.fromkeys((*steps.sql_columns, *OPENED_COLUMNS))),
    )


def has_incomplete_core(steps: Plan, rows: Sequence[Row]) -> bool:
    """Whether a header was too large for its core."""
    if not steps.selections:
        return False
    at = 1 + steps.sql_columns.index("m.header_core")
    return any(row[at] == INCOMPLETE for row in rows)


def differs_in_rev2(steps: Plan, rows: Sequence[Row]) -> bool:
    if FetchAttribute.BODYSTRUCTURE not in steps.items:
        return False
    at = 1 + steps.sql_columns.index("m.body_structure")
    return any(describe.GLOBAL_MARK in row[at] for row in rows)
