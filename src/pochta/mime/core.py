"""The common header fields of a message as finished lines, for HEADER.FIELDS without opening the message.

The fields are those that mail programs ask for when they list a mailbox: the sets of Thunderbird, Apple Mail, Outlook,
K-9, mutt, Roundcube and Evolution. 32 of them, so that a set of fields is one 32-bit number.

Layout of a header core (little endian): octet 0 `_COMPLETE`, u32 set of the fields present, u8 number n of lines,
n octets field ids, n + 1 × u16 offset of each line and of the end of the last one, the lines as they stand in the
header and in its order, and the blank line. A message whose core would be larger than MAX_CORE has the one octet
`INCOMPLETE` instead.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from pochta.mime.parse import Fields

CORE_FIELDS: tuple[bytes, ...] = (
    b"from", b"to", b"cc", b"bcc", b"subject", b"date", b"message-id", b"priority", b"x-priority", b"references",
    b"newsgroups", b"in-reply-to", b"content-type", b"reply-to", b"list-unsubscribe", b"sender", b"importance",
    b"list-id", b"list-post", b"list-subscribe", b"content-description", b"lines", b"x-label", b"x-original-to",
    b"x-uniform-type-identifier", b"x-universally-unique-identifier", b"disposition-notification-to",
    b"x-k9mail-identity", b"chat-version", b"content-transfer-encoding", b"x-msmail-priority", b"auto-submitted",
)  # fmt: skip
# Ten times the common size (0.5-1 kB): what is larger has hundreds of recipients and is opened instead. Line ends fit
# in 16 bits.
MAX_CORE = 8 * 1024

_IDS = {name: number for number, name in enumerate(CORE_FIELDS)}
_COMPLETE = 1
INCOMPLETE = b"\x00"
_FIXED = struct.Struct("<BIB")
_HEAD = struct.Struct("<xIB")
# One unpacker for each number of lines.
_OFFSETS = tuple(struct.Struct(f"<{n + 1}H") for n in range(256))
# Orders of fields a selection remembers: messages of one sender or list share theirs.
_MAX_REMEMBERED = 1024


def header_core(fields: Fields, *, has_blank_line: bool = True) -> bytes:
    """The header core of a split header. `has_blank_line`: whether the header ended with one (RFC 9051 §7.5.2)."""
    present = 0
    ids: list[int] = []
    ends: list[int] = []
    lines: list[bytes] = []
    size = 0
    number_of = _IDS.get
    for line, name, _ in fields:
        number = number_of(name.lower())
        if number is not None:
            present |= 1 << number
            ids.append(number)
            size += len(line)
            ends.append(size)
            lines.append(line)
    n = len(ids)
    start = _FIXED.size + n + 2 * (n + 1)
    if n > 255 or start + size + 2 > MAX_CORE:
        return INCOMPLETE
    lines.append(b"\r\n" if has_blank_line else b"")
    offsets = _OFFSETS[n].pack(start, *[start + end for end in ends])
    text = b"".join(lines)
    if b"\x00" in text:
        # RFC 3501 §9: no NUL outside of literal8; 0x80 as in ENVELOPE (`describe`)
        text = text.replace(b"\x00", b"\x80")
    return _FIXED.pack(_COMPLETE, present, n) + bytes(ids) + offsets + text


@dataclass(frozen=True, slots=True)
class FieldSelection:
    """A set of header field names that a core can answer; make it once per command."""

    unwanted: int
    ids: frozenset[int]
    # order of field ids in a core -> slices that are wanted, as pairs of line numbers
    remembered: dict[bytes, tuple[tuple[int, int], ...]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_names(cls, names: Iterable[bytes]) -> "FieldSelection | None":
        """The selection of these field names in any case, None when one of them is not in CORE_FIELDS."""
        ids: set[int] = set()
        for name in names:
            number = _IDS.get(name.lower())
            if number is None:
                return None
            ids.add(number)
        return cls(0xFFFFFFFF ^ sum(1 << number for number in ids), frozenset(ids))

    def runs(self, order: bytes) -> tuple[tuple[int, int], ...]:
        """(first line, line behind the last) of each run of wanted lines in a core whose field ids are `order`."""
        found: list[tuple[int, int]] = []
        for line, number in enumerate(order):
            if number not in self.ids:
                continue
            if found and found[-1][1] == line:
                found[-1] = (found[-1][0], line + 1)
            else:
                found.append((line, line + 1))
        if len(self.remembered) >= _MAX_REMEMBERED:
            self.remembered.clear()
        self.remembered[order] = runs = tuple(found)
        return runs


def select_fields(core: bytes, names: FieldSelection) -> bytes | None:
    """The answer to HEADER.FIELDS from a core, None when the message has to be opened for it.

    Original octets in original order, then the blank line; what `section.filter_fields` makes of the whole header.
    """
    if len(core) < 8:
        return None
    present, n = _HEAD.unpack_from(core)
    # all that is stored was asked for: one slice
    if not present & names.unwanted:
        return core[8 + 3 * n :]
    order = core[6 : 6 + n]
    runs = names.remembered.get(order)
    if runs is None:
        runs = names.runs(order)
    at = _OFFSETS[n].unpack_from(core, 6 + n)
    if len(runs) == 1:
        ((first, last),) = runs
        return core[at[first] : at[last]] + core[at[n] :]
    out = [core[at[first] : at[last]] for first, last in runs]
    out.append(core[at[n] :])
    return b"".join(out)
