"""What a searching command asks to be told: the options after RETURN of SEARCH, SORT and ESEARCH.

Their grammar is in `search`. Results are numbered from 1 in the order of the answer, or from -1 at its end.

Source: RFC 4466 §2.6, RFC 4731 §3.1, RFC 5182 §2.4, RFC 5267 §4, RFC 5465 §7, RFC 6203 §4, RFC 9394 §3.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.lex import MAX_NUMBER, Lexer

if TYPE_CHECKING:
    from pochta.proto.imap.commands import FetchItem

_PARTIAL: Final = re.compile(rb"([1-9][0-9]{0,9}):([1-9][0-9]{0,9})|-([1-9][0-9]{0,9}):-([1-9][0-9]{0,9})")


class PartialRange(NamedTuple):
    """Some of the results, as the client wrote it: two numbers above 0, or two below (from the end); in any order."""

    first: int
    last: int

    def bounds(self, count: int) -> tuple[int, int]:
        """(start, stop) of these among `count` results, as for slicing; equal where there are none."""
        low, high = sorted(self)
        if low > 0:
            return min(low - 1, count), min(high, count)
        return max(count + low, 0), max(count + high + 1, 0)

    def encode(self) -> bytes:
        """The range as the client wrote it."""
        return b"%d:%d" % self


def parse_partial(lexer: Lexer) -> PartialRange:
    """A partial-range. Source: RFC 9394 §4, of which RFC 5267 §5 is the part without minus signs."""
    match = _PARTIAL.match(lexer.data, lexer.pos, lexer.end)
    if match is None:
        raise RemoteProtocolError("expected a partial range")
    lexer.pos = match.end()
    sign = 1 if match[1] else -1
    first, last = (int(number) for number in match.groups() if number)
    if max(first, last) > MAX_NUMBER:
        raise RemoteProtocolError("number is too large")
    return PartialRange(sign * first, sign * last)


class ReturnOption(Enum):
    """A return option without arguments; the value is the word on the wire."""

    MIN = b"MIN"
    MAX = b"MAX"
    ALL = b"ALL"
    COUNT = b"COUNT"
    SAVE = b"SAVE"  # RFC 5182 §2.1
    RELEVANCY = b"RELEVANCY"  # RFC 6203 §4
    CONTEXT = b"CONTEXT"  # RFC 5267 §4.2
    UPDATE = b"UPDATE"  # RFC 5267 §4.3


@dataclass(frozen=True, slots=True)
class SearchReturn:
    """The return options of one command; `()` has become ALL (RFC 4731 §3.1).

    `items`: with UPDATE, what is fetched of each new message that gets into the result (RFC 5465 §7).
    """

    options: frozenset[ReturnOption]
    partial: PartialRange | None = None
    items: "tuple[FetchItem, ...]" = ()

    def __contains__(self, option: ReturnOption) -> bool:
        return option in self.options

    @property
    def is_answered(self) -> bool:
        """Whether an ESEARCH response is due. RFC 5182 §2.1: SAVE alone suppresses it."""
        return self.partial is not None or self.options != {ReturnOption.SAVE}

    def chosen(self, count: int) -> tuple[range, ...]:
        """The places, from 0, of the results that are told or, with SAVE, kept: disjoint ranges, rising.

        MIN and MAX alone mean these two, PARTIAL its part, all others every result. Source: RFC 5182 §2.4, RFC 9394
        §3.2, and RFC 4731 §3.2 for the mod-sequence that goes with them.
        """
        if not count:
            return ()
        ends = self.options & {ReturnOption.MIN, ReturnOption.MAX}
        is_whole = not (ends or self.partial) or self.options & {ReturnOption.ALL, ReturnOption.COUNT}
        if is_whole:
            return (range(count),)
        start, stop = self.partial.bounds(count) if self.partial else (0, 0)
        found = [range(start, stop)] if start < stop else []
        if ReturnOption.MIN in ends and not any(0 in part for part in found):
            found.insert(0, range(1))
        if ReturnOption.MAX in ends and not any(count - 1 in part for part in found):
            found.append(range(count - 1, count))
        return tuple(found)


RETURN_ALL: Final = SearchReturn(frozenset({ReturnOption.ALL}))
