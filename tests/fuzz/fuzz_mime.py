"""Coverage-guided fuzzing of MIME: `pip install atheris`, then `python tests/fuzz/fuzz_mime.py [FOLDER...] -runs=N`.

`consume` reads one message in every way the server does and holds the results against each other. It is the same check
that the property tests make of their messages (tests/mime/test_mime_properties.py).
"""

import sys
from itertools import pairwise

from pochta.index.texts import text_of
from pochta.mime.address import parse_addresses
from pochta.mime.core import CORE_FIELDS, FieldSelection, select_fields
from pochta.mime.decode import decode_transfer, decode_words, transfer_pieces
from pochta.mime.describe import body, body_structure, envelope
from pochta.mime.facts import FactsBuilder, MessageFacts, facts
from pochta.mime.header import message_id, parse_date, parse_params, split_fields
from pochta.mime.parse import MAX_DEPTH, MAX_PARTS, Part, Scanner, parse
from pochta.mime.section import SectionText, filter_fields, find_section
from pochta.mime.text import MAX_PREVIEW

_TOP = 50  # parts and fields of a message that are read one by one
_SECTIONS: tuple[SectionText | None, ...] = (None, "HEADER", "TEXT", "MIME")
_SELECTIONS = [
    (selection, names)
    for names in (CORE_FIELDS, (b"subject",), (b"Subject", b"To", b"Content-Type"), (b"from", b"date", b"references"))
    if (selection := FieldSelection.from_names(names)) is not None
]


def consume(data: bytes, sizes: tuple[int, ...] = (1, 7, 64)) -> MessageFacts:
    """The facts of any octets; an AssertionError where two ways of reading them disagree or a promise is broken.

    `sizes`: of the chunks in which the message is fed again.
    """
    found = facts(data)
    root = parse(data)
    check_tree(root, len(data))
    for size in sizes:
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        assert feed(chunks) == found
        assert scan(chunks) == root
        assert scan(chunks, steps_per_feed=1) == root
    assert found.size == len(data)
    assert len(found.preview) <= MAX_PREVIEW
    assert found.envelope == envelope(root)
    assert found.body_structure == body_structure(root)
    assert found.has_opaque_part == any(part.is_opaque for part in root.walk())
    for octets in (found.envelope, found.body_structure, body(root)):
        assert b"\x00" not in octets
    check_header(root.header, found.header_core)
    check_text(root, data)
    return found


def feed(chunks: list[bytes]) -> MessageFacts:
    """The facts of a message that comes in these chunks, each looked at alone."""
    builder = FactsBuilder(coalesce_bytes=1)
    for chunk in chunks:
        builder.feed(chunk)
    return builder.finish()


def scan(chunks: list[bytes], *, steps_per_feed: int | None = None) -> Part:
    """The tree of a message that comes in these chunks, each looked at alone."""
    scanner = Scanner(coalesce_bytes=1, steps_per_feed=steps_per_feed)
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.finish()


def check_tree(root: Part, size: int) -> None:
    """Offsets are in order and inside each other, containers have children, the limits hold."""
    assert root.header_start == 0
    assert root.body_end == size
    count = 0
    level = [root]
    for depth in range(MAX_DEPTH + 1):
        count += len(level)
        below = [child for part in level for child in part.children]
        # a multipart of the last level that is shown as text has that text one level below
        assert depth < MAX_DEPTH or not below
        level = below
    assert count <= MAX_PARTS
    for part in root.walk():
        assert 0 <= part.header_start <= part.header_end <= part.body_end <= size
        assert all(part.header_end <= child.header_start and child.body_end <= part.body_end for child in part.children)
        assert all(one.body_end <= two.header_start for one, two in pairwise(part.children))
        assert bool(part.children) == (
            part.type == b"multipart" or (part.type == b"message" and part.subtype in (b"rfc822", b"global"))
        )
        if part.is_opaque:
            assert (part.type, part.subtype, part.children) == (b"application", b"octet-stream", [])


def check_header(header: bytes, core: bytes) -> None:
    """The core answers as the header does, but for NUL (RFC 3501 §9); every field is found by its name."""
    for selection, names in _SELECTIONS:
        selected = select_fields(core, selection)
        assert selected is None or selected == filter_fields(header, names).replace(b"\x00", b"\x80")
    for line, name, value in split_fields(header)[:_TOP]:
        assert decode_words(value).encode("utf-8") is not None
        assert line in filter_fields(header, (name,))
        parse_addresses(value)
        parse_params(value)
        message_id(value)
        parse_date(value)


def check_text(root: Part, data: bytes) -> None:
    """Whatever makes text of the message: it ends, and holds no lone surrogate, which the index could not keep."""
    text = text_of(root, lambda start, stop: data[start:stop])
    assert text.all_text.encode("utf-8") is not None
    assert "".join(one or "" for one in text.fields).encode("utf-8") is not None
    for number, part in enumerate(root.walk()):
        if number == _TOP:
            break
        octets = data[part.header_end : part.body_end]
        in_pieces = transfer_pieces([octets[at : at + 5] for at in range(0, len(octets), 5)], part.encoding)
        assert b"".join(in_pieces) == decode_transfer(octets, part.encoding)
        for numbers in ((), (number,), (1, number), (2, 1, number)):
            for name in _SECTIONS:
                section = find_section(root, numbers, name)
                assert section is None or 0 <= section[0] <= section[1] <= len(data)


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, consume)
    atheris.Fuzz()
