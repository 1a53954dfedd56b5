"""Where the sections of a message lie (FETCH BODY[…]) and subsets of a header. Source: RFC 9051 §6.4.5.1."""

from collections.abc import Collection
from typing import Literal

from pochta.mime.header import split_fields
from pochta.mime.parse import Part

SectionText = Literal["HEADER", "TEXT", "MIME"]


def find_part(root: Part, part_numbers: tuple[int, ...]) -> Part | None:
    """The part of these numbers, None when there is none; no numbers: the root. Cost: one step per number."""
    part = root
    is_container = True  # the next number counts inside the message `part`, not inside the part `part`
    for number in part_numbers:
        if not is_container and part.message is not None:
            # RFC 9051 §6.4.5.1: numbers behind a MESSAGE part refer to the parts of the message inside
            part = part.message
            is_container = True
        if part.is_multipart:
            if not 1 <= number <= len(part.children):
                return None
            part = part.children[number - 1]
        elif not is_container or number != 1:
            # RFC 9051 §6.4.5.1: a message that is not multipart only has a part 1, its body
            return None
        is_container = False
    return part


def find_section(root: Part, part_numbers: tuple[int, ...], text: SectionText | None = None) -> tuple[int, int] | None:
    """(start, stop) in the message of BODY[part_numbers.text], None when the message has no such section.

    `HEADER` also serves HEADER.FIELDS and HEADER.FIELDS.NOT (see `filter_fields`).
    """
    part = find_part(root, part_numbers)
    if part is None:
        return None
    if text is None:
        return (part.header_end, part.body_end) if part_numbers else (part.header_start, part.body_end)
    if text == "MIME":
        # RFC 9051 §6.4.5.1: MIME must be prefixed by part numbers
        return (part.header_start, part.header_end) if part_numbers else None
    # RFC 9051 §6.4.5.1: HEADER and TEXT behind numbers only for MESSAGE parts
    message = part.message if part_numbers else part
    if message is None:
        return None
    if text == "HEADER":
        return message.header_start, message.header_end
    return message.header_end, message.body_end


def filter_fields(header: bytes, names: Collection[bytes], *, negate: bool = False) -> bytes:
    """HEADER.FIELDS (names), or with `negate` HEADER.FIELDS.NOT, of a raw header with its blank line.

    Names in any case. Original octets in original order, then CRLF if the header ended with a blank line (RFC 9051
    §7.5.2: "except in the case of a message that has no body and no blank line"). Lines that are no field are left out.
    """
    wanted = {name.lower() for name in names}
    lines = [line for line, name, _ in split_fields(header) if (name.lower() in wanted) is not negate]
    if has_blank_line(header):
        lines.append(b"\r\n")
    return b"".join(lines)


def has_blank_line(header: bytes) -> bool:
    """Whether these octets of a header end with the blank line that separates it from the body."""
    return header.endswith((b"\n\r\n", b"\n\n")) or header in (b"\r\n", b"\n")
