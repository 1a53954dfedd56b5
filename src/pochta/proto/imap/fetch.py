"""The items of FETCH: from their words to `FetchAttribute`, `BodySection` and `BinarySection`.

Source: RFC 3501 §6.4.5 and §9 (fetch, fetch-att, section); RFC 9051 §9 where the partial is 63 bits wide; RFC 3516 §7
(BINARY), RFC 8970 §6 (PREVIEW).
"""

import re
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.commands import BinarySection, BodySection, FetchAttribute, FetchItem, SectionKind
from pochta.proto.imap.lex import ASTRING_ATOM, MAX_NUMBER, MAX_NUMBER64, Lexer
from pochta.proto.imap.search_return import PartialRange, parse_partial

MAX_FETCH_ITEMS: Final = 128
"""Different items in one FETCH: one line must not ask for a message a thousand times over."""

MAX_PART_DEPTH: Final = 100
"""Numbers in `1.2.3…`: deeper than any tree of parts that is stored."""

MAX_HEADER_FIELDS: Final = 256
"""Names in one HEADER.FIELDS list; clients send under 30."""

_ATTRIBUTES: Final = {attribute.value: attribute for attribute in FetchAttribute}
_ALL: Final = (
    FetchAttribute.FLAGS,
    FetchAttribute.INTERNALDATE,
    FetchAttribute.RFC822_SIZE,
    FetchAttribute.ENVELOPE,
)
_MACROS: Final[dict[bytes, tuple[FetchItem, ...]]] = {
    b"ALL": _ALL,
    b"FAST": _ALL[:3],
    b"FULL": (*_ALL, FetchAttribute.BODY),
}
# RFC 3501 §6.4.5: RFC822.HEADER is BODY.PEEK[HEADER], RFC822.TEXT is BODY[TEXT], under their own names
_RFC822: Final = {
    b"RFC822": BodySection(b"RFC822", SectionKind.WHOLE),
    b"RFC822.HEADER": BodySection(b"RFC822.HEADER", SectionKind.HEADER, is_peek=True),
    b"RFC822.TEXT": BodySection(b"RFC822.TEXT", SectionKind.TEXT),
}
_KINDS: Final = {kind.value: kind for kind in SectionKind}
_PART: Final = re.compile(rb"[1-9][0-9]{0,9}(?:\.[1-9][0-9]{0,9})*")
_SECTION: Final = re.compile(rb"\[([0-9.]*)([A-Za-z.]*)")
_BINARY_WORDS: Final = (b"BINARY", b"BINARY.PEEK", b"BINARY.SIZE")
_PREVIEW_MODIFIERS: Final = re.compile(rb" \((?:LAZY(?: LAZY)*)\)", re.IGNORECASE)
_PARTIAL: Final = re.compile(rb"<([0-9]{1,19})\.([1-9][0-9]{0,18})>")
# RFC 5322 §2.2: field names are printable US-ASCII except colon
_FIELD_NAME: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]+")
# What every client sends, taken in one step: 14 names cost 2 µs instead of 14.
_PLAIN_FIELD_NAMES: Final = re.compile(rb"\(([A-Za-z0-9\-]+(?: [A-Za-z0-9\-]+)*)\)")
_BRACKET: Final = 0x5B
_BRACKET_CLOSE: Final = 0x5D
_ANGLE: Final = 0x3C
_SPACE: Final = 0x20


def parse_fetch_items(lexer: Lexer) -> tuple[FetchItem, ...]:
    """The items, macros expanded and repetitions dropped."""
    found: dict[FetchItem, None] = {}
    if lexer.at_list():
        lexer.open_list()
        while True:
            found[_parse_item(lexer, lexer.word())] = None
            if len(found) > MAX_FETCH_ITEMS:
                raise RemoteProtocolError("too many fetch items")
            if not lexer.more():
                break
    else:
        word = lexer.word()
        macro = _MACROS.get(word)
        found.update(dict.fromkeys((_parse_item(lexer, word),) if macro is None else macro))
    return tuple(found)


# RFC 7162 §3.2.6: what VANISHED goes with; one text, whichever is missing
VANISHED_NEEDS: Final = "VANISHED needs UID FETCH, CHANGEDSINCE and ENABLE QRESYNC"
_OF_UID_FETCH: Final = {b"PARTIAL": "PARTIAL needs UID FETCH", b"VANISHED": VANISHED_NEEDS}


class FetchModifiers(NamedTuple):
    """What stands behind the items; None: it does not."""

    changed_since: int | None = None
    partial: PartialRange | None = None
    has_vanished: bool = False


def parse_fetch_modifiers(lexer: Lexer, *, is_uid: bool) -> FetchModifiers:
    """The modifiers CHANGEDSINCE and, of UID FETCH, PARTIAL and VANISHED, if there are some; in any order.

    Source: RFC 7162 §3.1.4.1 and §3.2.6, RFC 9394 §3.3, RFC 4466 §2.4. CHANGEDSINCE 0, for which the grammar has no
    place, means every message.
    """
    changed_since: int | None = None
    partial: PartialRange | None = None
    has_vanished = False
    if not lexer.take(_SPACE):
        return FetchModifiers()
    lexer.open_list()
    while True:
        word = lexer.word()
        if word == b"CHANGEDSINCE" and changed_since is None:
            lexer.space()
            changed_since = lexer.number(MAX_NUMBER64)
        elif word in _OF_UID_FETCH and not is_uid:
            raise RemoteProtocolError(_OF_UID_FETCH[word])
        elif word == b"PARTIAL" and partial is None:
            lexer.space()
            partial = parse_partial(lexer)
        elif word == b"VANISHED" and not has_vanished:
            has_vanished = True
        else:
            raise RemoteProtocolError("unknown FETCH modifier")
        if not lexer.more():
            break
    # RFC 7162 §3.2.6: only together with CHANGEDSINCE
    if has_vanished and changed_since is None:
        raise RemoteProtocolError(VANISHED_NEEDS)
    return FetchModifiers(changed_since, partial, has_vanished)


def parse_section(text: bytes) -> BodySection:
    """The section of these words, as between the brackets of `BODY.PEEK[…]`."""
    lexer = Lexer(b"[%b]" % text, 0, len(text) + 2)
    section = _parse_section(lexer, is_peek=True)
    lexer.finish()
    return section


def _parse_item(lexer: Lexer, word: bytes) -> FetchItem:
    if lexer.peek() == _BRACKET and word in (b"BODY", b"BODY.PEEK"):
        return _parse_section(lexer, is_peek=word == b"BODY.PEEK")
    item = _ATTRIBUTES.get(word) or _RFC822.get(word)
    if item is None:
        if lexer.peek() == _BRACKET and word in _BINARY_WORDS:
            return _parse_binary(lexer, word)
        raise RemoteProtocolError("unknown fetch item")
    if item is FetchAttribute.PREVIEW:
        # RFC 8970 §4.1: LAZY allows NIL, and every preview is at hand
        modifiers = _PREVIEW_MODIFIERS.match(lexer.data, lexer.pos, lexer.end)
        if modifiers is not None:
            lexer.pos = modifiers.end()
    return item


def _parse_binary(lexer: Lexer, word: bytes) -> BinarySection:
    match = _SECTION.match(lexer.data, lexer.pos, lexer.end)
    # RFC 3516 §7: section-binary has numbers alone
    if match is None or match[2]:
        raise RemoteProtocolError("malformed section")
    lexer.pos = match.end()
    if not lexer.take(_BRACKET_CLOSE):
        raise RemoteProtocolError("expected a closing bracket")
    part = _parse_part(match[1], has_word=False)
    is_size = word == b"BINARY.SIZE"
    label = b"%b[%b]" % (b"BINARY.SIZE" if is_size else b"BINARY", match[1])
    partial = None
    if lexer.peek() == _ANGLE and not is_size:
        partial = _parse_partial(lexer)
        label = b"%b<%d>" % (label, partial[0])
    return BinarySection(label, part, partial, is_size, is_size or word == b"BINARY.PEEK")


def _parse_section(lexer: Lexer, *, is_peek: bool) -> BodySection:
    match = _SECTION.match(lexer.data, lexer.pos, lexer.end)
    if match is None:
        raise RemoteProtocolError("malformed section")
    lexer.pos = match.end()
    numbers, word = match[1], match[2].upper()
    kind = _KINDS.get(word)
    if kind is None:
        raise RemoteProtocolError("unknown section")
    part = _parse_part(numbers, has_word=bool(word))
    # RFC 3501 §6.4.5: MIME must be prefixed by a part number
    if kind is SectionKind.MIME and not part:
        raise RemoteProtocolError("MIME needs a part number")
    label = b"BODY[%b%b" % (numbers, word)
    fields: tuple[bytes, ...] = ()
    if kind is SectionKind.HEADER_FIELDS or kind is SectionKind.HEADER_FIELDS_NOT:
        lexer.space()
        fields = _parse_field_names(lexer)
        label = b"%b (%b)" % (label, b" ".join([_encode_field_name(name) for name in fields]))
    if not lexer.take(_BRACKET_CLOSE):
        raise RemoteProtocolError("expected a closing bracket")
    label += b"]"
    partial = None
    if lexer.peek() == _ANGLE:
        partial = _parse_partial(lexer)
        # RFC 3501 §7.4.2: the response names the first octet, not the length
        label = b"%b<%d>" % (label, partial[0])
    return BodySection(label, kind, part, fields, partial, is_peek)


def _parse_part(numbers: bytes, *, has_word: bool) -> tuple[int, ...]:
    if not numbers:
        return ()
    if has_word:
        if not numbers.endswith(b"."):
            raise RemoteProtocolError("malformed section")
        numbers = numbers[:-1]
    if _PART.fullmatch(numbers) is None or numbers.count(b".") >= MAX_PART_DEPTH:
        raise RemoteProtocolError("malformed part number")
    part = tuple(map(int, numbers.split(b".")))
    if max(part) > MAX_NUMBER:
        raise RemoteProtocolError("part number is too large")
    return part


def _parse_field_names(lexer: Lexer) -> tuple[bytes, ...]:
    plain = _PLAIN_FIELD_NAMES.match(lexer.data, lexer.pos, lexer.end)
    names: dict[bytes, None] = {}
    if plain is not None:
        lexer.pos = plain.end()
        names = dict.fromkeys(plain[1].split(b" "))
        if len(names) > MAX_HEADER_FIELDS:
            raise RemoteProtocolError("too many header fields")
        return tuple(names)
    lexer.open_list()
    while True:
        name = lexer.astring()
        if _FIELD_NAME.fullmatch(name) is None:
            raise RemoteProtocolError("invalid header field name")
        names[name] = None
        if len(names) > MAX_HEADER_FIELDS:
            raise RemoteProtocolError("too many header fields")
        if not lexer.more():
            return tuple(names)


def _encode_field_name(name: bytes) -> bytes:
    if ASTRING_ATOM.fullmatch(name) is not None:
        return name
    return b'"%b"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _parse_partial(lexer: Lexer) -> tuple[int, int]:
    match = _PARTIAL.match(lexer.data, lexer.pos, lexer.end)
    if match is None:
        raise RemoteProtocolError("malformed partial")
    lexer.pos = match.end()
    first, count = int(match[1]), int(match[2])
    if first > MAX_NUMBER64 or count > MAX_NUMBER64:
        raise RemoteProtocolError("partial is too large")
    return first, count
