"""Header fields: splitting, parameters, dates and message-ids.

Takes bytes of a header and gives finished values. Decides nothing about the tree of parts (`parse`), about IMAP's
notation (`describe`) or about text for people (`decode`); addresses have their own module. Nothing here raises on any
input, every pattern is linear in its input (possessive or anchored on exclusive character classes), and every output is
bounded by a named limit.
"""

import datetime
import re
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

# One list of 100 recipients fits a hundred times; a mail with 10 000 fields is an attack on memory (180 octets each).
MAX_FIELDS = 10_000
# RFC 5322 §2.1.1: a line has at most 998 characters, and a message-id may not be folded.
MAX_MESSAGE_ID = 998
# Longest thread kept by JWZ's algorithm in practice; the first (the root) and the last 99 decide the place in a thread.
MAX_REFERENCES = 100
# RFC 2231 allows any number; a file name of 255 octets percent-encoded in pieces of 20 needs 40.
MAX_PARAMS = 100

Params = tuple[tuple[bytes, bytes], ...]

# RFC 5322 §3.6.8: field names are printable US-ASCII without colon; §4.5 lets white space stand before the colon.
# A repeated group is possessive only where it fails without having taken anything: CPython before 3.11.5 goes on from
# where it failed (gh-106052). Elsewhere groups are atomic, which costs memory for each repetition, and so bounded.
_FIELD = re.compile(rb"^(([!-9;-~]++)[ \t]*+:([^\n]*+(?:(?=\n[ \t])\n[^\n]*+)*+\n?))", re.MULTILINE)
_FOLD = re.compile(rb"\r?\n(?=[ \t])")


def split_fields(header: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(whole field as it stands, name as it stands, raw value with its line ends) in order; other lines are left out.

    The first MAX_FIELDS only. A folded field is one entry, byte for byte. Source: RFC 5322 §2.2, §4.5.
    """
    if len(header) < MAX_FIELDS * 3:
        return _FIELD.findall(header)
    return [(m[1], m[2], m[3]) for m in islice(_FIELD.finditer(header), MAX_FIELDS)]


def unfold(value: bytes) -> bytes:
    """The field body without folding and without white space at its ends. Source: RFC 5322 §2.2.3."""
    value = value.strip()
    return _FOLD.sub(b"", value) if b"\n" in value else value


# A thousand quoted pairs at most: each costs 50 octets while the pattern runs.
_PARAM = re.compile(rb';\s*+([^\s=;"]*+)\s*+=\s*+(?:"([^"\\]*+(?>(?:\\.[^"\\]*+){0,1000}))"?|([^;]*+))|;', re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_SECTION = re.compile(rb"([^*]+)(?:\*([0-9]{1,4}))?(\*)?")
_UNSAFE = re.compile(rb"[^A-Za-z0-9!#$&+.^_`{}|~-]")


def parse_params(value: bytes) -> tuple[bytes, Params]:
    """The value before the first `;` and the parameters, names in lower case, continuations joined.

    `name*0=…;name*1=…` becomes `name`; where a piece is percent-encoded the result is `name*` in the one-piece extended
    form `charset'language'percent-encoded` (`decode.param_text` decodes it). Source: RFC 2045 §5.1, RFC 2231 §3-4.
    """
    value = unfold(value)
    head, separator, _ = value.partition(b";")
    head = _strip_comment(head)
    if not separator:
        return head, ()
    plain: dict[bytes, bytes] = {}
    pieces: dict[bytes, dict[int, tuple[bytes, bool]]] = {}
    for match in islice(_PARAM.finditer(value, len(value.partition(b";")[0])), MAX_PARAMS):
        name = match[1]
        if not name:
            continue
        quoted = match[2]
        if quoted is None:
            text = _strip_comment(match[3])
        else:
            text = _QUOTED_PAIR.sub(rb"\1", quoted) if b"\\" in quoted else quoted
        name = name.lower()
        if b"*" in name and (section := _SECTION.fullmatch(name)) and section[2]:
            pieces.setdefault(section[1], {}).setdefault(int(section[2]), (text, section[3] is not None))
            continue
        plain.setdefault(name, text)
    if pieces:
        _join_pieces(plain, pieces)
    return head, tuple(plain.items())


def _strip_comment(value: bytes) -> bytes:
    """The token without white space and without a comment behind it (RFC 2045 §5.1 shows `us-ascii (Plain text)`)."""
    if b"(" in value:
        value = value.partition(b"(")[0]
    return value.strip()


def _join_pieces(plain: dict[bytes, bytes], pieces: dict[bytes, dict[int, tuple[bytes, bool]]]) -> None:
    for name, numbered in pieces.items():
        run: list[tuple[bytes, bool]] = []
        # RFC 2231 §3: numbers start at 0 and rise by one; what follows a gap is not part of the value
        while len(run) in numbered:
            run.append(numbered[len(run)])
        if not run:
            continue
        if not any(encoded for _, encoded in run):
            plain.setdefault(name, b"".join(text for text, _ in run))
            continue
        joined = [text if encoded else _UNSAFE.sub(_percent, text) for text, encoded in run]
        if not run[0][1]:  # no charset was given: RFC 2231 §4.1 lets it be empty
            joined.insert(0, b"''")
        plain.setdefault(name + b"*", b"".join(joined))


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


class SentDate(NamedTuple):
    """A Date field: UTC epoch seconds, zone in minutes east, days since the epoch as the header's own zone counts."""

    at: int
    zone_minutes: int
    day: int


_DATE = re.compile(
    r"\s*+(?:[A-Za-z]{2,9}\.?\s*+,?\s*+)?(\d{1,2})[\s-]++([A-Za-z]{3})[A-Za-z]*+\.?[\s,-]++(\d{2,4})(?!\d)"
    r"(?:[\s,]++(\d{1,2})[:.](\d{1,2})(?:[:.](\d{1,2})(?:\.\d++)?)?)?\s*+(?:([+-])(\d\d):?(\d\d)|([A-Za-z]+))?"
)
_ASCTIME = re.compile(
    r"\s*+[A-Za-z]{3}\s*+,?\s*+([A-Za-z]{3})[A-Za-z]*+\s++(\d{1,2})\s++(\d{1,2}):(\d{2}):(\d{2})\s++"
    r"(?:([A-Za-z]{1,5})\s++)?(\d{4})(?:\s*+([+-])(\d\d)(\d\d))?"
)
_COMMENT = re.compile(r"\([^()]*\)")
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
# RFC 5322 §4.3: these names only; every other letter zone counts as -0000.
_ZONES = {"edt": -240, "est": -300, "cdt": -300, "cst": -360, "mdt": -360, "mst": -420, "pdt": -420, "pst": -480}
_EPOCH_ORDINAL = 719163
# A date field with comments is well below; longer ones are cut, which bounds every pattern here.
_MAX_DATE = 200


def parse_date(value: bytes) -> SentDate | None:
    """The moment and the day of a Date field, None when there is no date in it. Source: RFC 5322 §3.3, §4.3.

    An invalid zone counts as UTC and an invalid time as 00:00:00 (RFC 5256 §2.2).
    """
    text = value[:_MAX_DATE].decode("latin-1")
    if "(" in text:
        text = _COMMENT.sub(" ", text)
    match = _DATE.match(text)
    if match:
        day, month, year, hour, minute, second, sign, zone_h, zone_m, letters = match.groups()
    else:
        match = _ASCTIME.match(text)
        if not match:
            return None
        month, day, hour, minute, second, letters, year, sign, zone_h, zone_m = match.groups()
    number = int(year)
    # RFC 5322 §4.3: two digits 00-49 are 20xx, 50-99 and three digits count from 1900
    if len(year) == 2:
        number += 2000 if number < 50 else 1900
    elif len(year) == 3:
        number += 1900
    try:
        days = datetime.date(number, _MONTHS.get(month.lower(), 0), int(day)).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None
    zone = 0
    if sign:
        if zone_m < "60" and zone_h < "24":
            zone = int(zone_h) * 60 + int(zone_m)
            zone = -zone if sign == "-" else zone
    elif letters:
        zone = _ZONES.get(letters.lower(), 0)
    seconds = 0
    if hour is not None and int(hour) < 24 and int(minute) < 60 and int(second or 0) <= 60:
        seconds = int(hour) * 3600 + int(minute) * 60 + min(int(second or 0), 59)
    return SentDate(days * 86400 + seconds - zone * 60, zone, days)


_MESSAGE_ID = re.compile(rb"<([^<>]{1,%d})>" % (MAX_MESSAGE_ID - 2))


def message_ids(value: bytes) -> list[bytes]:
    """Every `<…>` of a References or In-Reply-To field, with its brackets, white space inside removed.

    Source: RFC 5322 §3.6.4; phrases and dates of the obsolete form are passed over.
    """
    found = _MESSAGE_ID.findall(value)
    return [b"<%s>" % (b"".join(item.split())) for item in found if not item.isspace()]


def message_id(value: bytes) -> bytes | None:
    """The Message-ID field's id with brackets; without brackets in the field the first word, put into brackets."""
    found = message_ids(value)
    if found:
        return found[0]
    words = value[: MAX_MESSAGE_ID * 2].split(None, 1)
    if not words:
        return None
    word = words[0].strip(b"<>")[: MAX_MESSAGE_ID - 2]
    return b"<%s>" % word if word else None


def references(references_value: bytes, in_reply_to_value: bytes) -> tuple[bytes, ...]:
    """Message-ids this one refers to, oldest first, each once: References, then In-Reply-To.

    At most MAX_REFERENCES: the first one and the last ones, because root and parent decide the thread.
    """
    ids = message_ids(references_value) if references_value else []
    if in_reply_to_value:
        ids += message_ids(in_reply_to_value)
    unique = tuple(dict.fromkeys(ids))
    return unique if len(unique) <= MAX_REFERENCES else (unique[0], *unique[1 - MAX_REFERENCES :])


def first_values(fields: Iterable[tuple[bytes, bytes, bytes]], names: frozenset[bytes]) -> dict[bytes, bytes]:
    """Raw value of the first field of each name in `names` (lower case)."""
    found: dict[bytes, bytes] = {}
    for _, name, value in fields:
        key = name.lower()
        if key in names and key not in found:
            found[key] = value
    return found
