"""SORT and THREAD: their grammar, how their texts are compared, and the order that criteria make.

Refuses to know: where the values come from (`servers.imap.sort.columns`), what a thread is (`thread`).

Source: RFC 5256, RFC 5957 (DISPLAYFROM, DISPLAYTO), RFC 5267 §3 (RETURN), RFC 6203 §6 (RELEVANCY),
draft-ietf-morg-inthread-01 (REFS).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any, Final, NamedTuple
from unicodedata import normalize

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.search import CHARSETS, is_fuzzy, parse_keys, parse_returns
from pochta.proto.imap.search_return import ReturnOption, SearchReturn


class Criterion(Enum):
    """What messages can be sorted by; the value is the word on the wire."""

    ARRIVAL = b"ARRIVAL"
    CC = b"CC"
    DATE = b"DATE"
    FROM = b"FROM"
    SIZE = b"SIZE"
    SUBJECT = b"SUBJECT"
    TO = b"TO"
    DISPLAYFROM = b"DISPLAYFROM"
    DISPLAYTO = b"DISPLAYTO"
    RELEVANCY = b"RELEVANCY"  # RFC 6203 §6


class SortKey(NamedTuple):
    """One criterion, ascending or (REVERSE) descending."""

    criterion: Criterion
    is_reverse: bool = False


class Algorithm(Enum):
    """How messages become threads; the value is the word on the wire."""

    ORDEREDSUBJECT = b"ORDEREDSUBJECT"
    REFERENCES = b"REFERENCES"
    REFS = b"REFS"


@dataclass(frozen=True, slots=True)
class Sort(c.Command):
    """SORT; a criterion that comes again decides nothing and is left out. `returns` is None without RETURN."""

    keys: tuple[SortKey, ...]
    key: c.SearchKey
    is_uid: bool
    returns: SearchReturn | None = None


@dataclass(frozen=True, slots=True)
class Thread(c.Command):
    """THREAD"""

    algorithm: Algorithm
    key: c.SearchKey
    is_uid: bool


_CRITERIA: Final = {one.value: one for one in Criterion}
_ALGORITHMS: Final = {one.value: one for one in Algorithm}
_UID: Final = b"UID "
_TITLES_KEPT: Final = 4096  # the letters of a dozen scripts; 400 KiB

SORTED_AT_ONCE: Final = 8000  # texts, in one call that nothing can interrupt: 3 ms
SAMPLED: Final = 1024  # values that tell where to cut; for 10 parts, so that each is within a third of a tenth


def _parse_sort(lexer: Lexer, words: bytes) -> c.Command:
    returns = parse_returns(lexer)
    keys = _parse_sort_keys(lexer)
    lexer.space()
    key = _parse_search(lexer)
    if isinstance(key, c.UnknownCharset):
        return c.UnknownCharset(key.charset, returns is not None and ReturnOption.SAVE in returns)
    asks_relevancy = any(one.criterion is Criterion.RELEVANCY for one in keys)
    asks_relevancy |= returns is not None and ReturnOption.RELEVANCY in returns
    # RFC 6203 §6: RELEVANCY goes with a FUZZY key
    if asks_relevancy and not is_fuzzy(key):
        raise RemoteProtocolError("RELEVANCY needs a FUZZY key")
    return Sort(keys, key, words.startswith(_UID), returns)


def _parse_sort_keys(lexer: Lexer) -> tuple[SortKey, ...]:
    lexer.open_list()
    keys: dict[Criterion, SortKey] = {}
    while True:
        word = lexer.word()
        is_reverse = word == b"REVERSE"
        if is_reverse:
            lexer.space()
            word = lexer.word()
        criterion = _CRITERIA.get(word)
        if criterion is None:
            raise RemoteProtocolError("unknown sort criterion")
        keys.setdefault(criterion, SortKey(criterion, is_reverse))
        if not lexer.more():
            return tuple(keys.values())


def _parse_thread(lexer: Lexer, words: bytes) -> c.Command:
    algorithm = _ALGORITHMS.get(lexer.atom().upper())
    if algorithm is None:
        raise RemoteProtocolError("unknown threading algorithm")
    lexer.space()
    key = _parse_search(lexer)
    return key if isinstance(key, c.UnknownCharset) else Thread(algorithm, key, words.startswith(_UID))


def _parse_search(lexer: Lexer) -> c.SearchKey | c.UnknownCharset:
    """The charset, which these commands must name, and the keys."""
    charset = lexer.astring().decode("ascii", "replace")
    lexer.space()
    codec = CHARSETS.get(charset.upper())
    # RFC 5256 §3: NO for a charset that is not read; its strings cannot be, so the rest is passed over
    return c.UnknownCharset(charset) if codec is None else parse_keys(lexer, codec)


PARSERS: Final[dict[bytes, Callable[[Lexer, bytes], c.Command]]] = {
    b"SORT": _parse_sort,
    b"UID SORT": _parse_sort,
    b"THREAD": _parse_thread,
    b"UID THREAD": _parse_thread,
}


class _TitleCase(dict[int, int]):
    """For `str.translate`: the simple titlecase mapping of every character, kept once it was asked for."""

    def __missing__(self, code: int) -> int:
        title = chr(code).title()
        mapped = ord(title) if len(title) == 1 else code
        if len(self) < _TITLES_KEPT:
            self[code] = mapped
        return mapped


_TITLE_CASE: Final = _TitleCase()


def casemap(text: str) -> str:
    """What is compared, character by character, in place of `text`: i;unicode-casemap. 50 ns; 1 us where not ASCII.

    Source: RFC 5051 §2: titlecase, then decomposition; the order of UTF-8 octets is that of code points.
    """
    if text.isascii():
        return text.upper()
    if _PECULIAR.search(text) is None:
        return normalize("NFKD", text.upper())  # the same for all other characters, and five times as fast
    return normalize("NFKD", text.translate(_TITLE_CASE))


def is_peculiar(code: int) -> bool:
    """Whether upper case, which may be several characters, is not the simple titlecase mapping."""
    return chr(code).upper() != chr(_TITLE_CASE.__missing__(code))


def _peculiar() -> re.Pattern[str]:
    # Latin, Greek, Cyrillic, Armenian · Georgian · their extensions · ligatures; elsewhere the two never differ
    scanned = chain(range(0x80, 0x590), range(0x10D0, 0x1100), range(0x1C80, 0x2000), range(0xFB00, 0xFB20))
    return re.compile(f"[{''.join(chr(code) for code in scanned if is_peculiar(code))}]")


_PECULIAR: Final = _peculiar()


def sort_places(places: Sequence[int], columns: Sequence[tuple[Sequence[Any], bool]]) -> list[int]:
    """The places, given in the mailbox's order, sorted by their values in each column; the first one decides most.

    A column, of numbers or of texts, comes with whether its order is reversed. RFC 5256 §3: equal messages stay in the
    mailbox's order, also under REVERSE. May run in a thread: no step holds the interpreter for more than 5 ms.
    """
    found = list(places)
    for values, is_reverse in reversed(columns):
        found = _sorted_by(found, values, is_reverse=is_reverse)
    return found


def _sorted_by(places: list[int], values: Sequence[Any], *, is_reverse: bool) -> list[int]:
    """Sorted by one column, equal ones as they stood."""
    value_of = values.__getitem__
    if len(places) <= SORTED_AT_ONCE:
        return sorted(places, key=value_of, reverse=is_reverse)
    # one sort of everything would hold the interpreter until it is done: it goes in parts that others can come between
    sample = sorted([value_of(place) for place in places[:: max(1, len(places) // SAMPLED)]])
    parts = len(places) // SORTED_AT_ONCE * 2 + 2
    bounds = sorted(set(sample[:: max(1, len(sample) // parts)]))
    buckets: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    for place in places:
        buckets[bisect_right(bounds, value_of(place))].append(place)
    if is_reverse:
        buckets.reverse()
    found: list[int] = []
    for bucket in buckets:
        bucket.sort(key=value_of, reverse=is_reverse)
        found += bucket
    return found
