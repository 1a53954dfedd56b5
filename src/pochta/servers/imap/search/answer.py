"""What a searching command answers: SEARCH and ESEARCH responses made of the numbers that were found.

Numbers come in the order of the answer: the mailbox's for SEARCH, any for SORT. Nothing here knows where they are from.

Source: RFC 3501 §7.2.5, RFC 4466 §2.6.2, RFC 4731 §3, RFC 5267 §3 and §4.4, RFC 6203 §4, RFC 9394 §3.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from pochta.proto.imap.search_return import ReturnOption, SearchReturn
from pochta.proto.imap.seqset import encode_ordered, encode_ranges
from pochta.servers.imap.selected import COMPARED_INLINE_MAX

_LONG: Final = frozenset({ReturnOption.ALL, ReturnOption.RELEVANCY})  # name every message
NUMBERS_A_BLOCK: Final = 20_000  # of a SEARCH response, made at once: 2 ms


class Correlator(NamedTuple):
    """Which search an ESEARCH response answers; `mailbox` as an astring, or empty (RFC 7377 §2.1)."""

    tag: bytes
    mailbox: bytes = b""
    uid_validity: int = 0

    def encode(self) -> bytes:
        """The correlator with its parentheses."""
        if not self.mailbox:
            return b'(TAG "%b")' % self.tag
        return b'(TAG "%b" MAILBOX %b UIDVALIDITY %d)' % (self.tag, self.mailbox, self.uid_validity)


class Results(NamedTuple):
    """What was found, message by message, in the order of the answer.

    `numbers`: sequence numbers or, with `is_uid`, UIDs. `mod_seqs` and `scores` are empty unless they were asked for.
    """

    numbers: Sequence[int]
    is_uid: bool
    mod_seqs: Sequence[int] = ()
    scores: Sequence[int] = ()
    is_rising: bool = True  # mailbox order; SORT has another

    def highest_mod_seq(self, places: Sequence[range]) -> int:
        """The highest mod-sequence of the results in these places; 0 where there is none."""
        if not self.mod_seqs:
            return 0
        return max(chain.from_iterable(self.mod_seqs[part.start : part.stop] for part in places), default=0)


async def esearch(correlator: Correlator, returns: SearchReturn, results: Results) -> bytes:
    """The ESEARCH response. Cost: 0.05 to 0.25 us a number that is told; of very many in a thread (INV-12)."""
    if len(results.numbers) > COMPARED_INLINE_MAX and (returns.options & _LONG or returns.partial or results.mod_seqs):
        return await asyncio.to_thread(_esearch, correlator, returns, results)
    return _esearch(correlator, returns, results)


def _esearch(correlator: Correlator, returns: SearchReturn, results: Results) -> bytes:
    numbers = results.numbers
    encode = encode_ranges if results.is_rising else encode_ordered
    items = [b"* ESEARCH " + correlator.encode()]
    if results.is_uid:
        items.append(b"UID")
    # RFC 4731 §3.1: without a match there is no MIN, MAX or ALL, but the response, and COUNT
    if numbers:
        if ReturnOption.MIN in returns:
            items.append(b"MIN %d" % numbers[0])
        if ReturnOption.MAX in returns:
            items.append(b"MAX %d" % numbers[-1])
    if ReturnOption.COUNT in returns:
        items.append(b"COUNT %d" % len(numbers))
    if numbers and ReturnOption.ALL in returns:
        items.append(b"ALL " + encode(numbers))
    if returns.partial is not None:
        start, stop = returns.partial.bounds(len(numbers))
        # RFC 9394 §3.1: NIL where the whole range lies beyond the results
        items.append(b"PARTIAL (%b %b)" % (returns.partial.encode(), encode(numbers[start:stop]) or b"NIL"))
    if ReturnOption.RELEVANCY in returns:
        items.append(b"RELEVANCY (%b)" % _scores(returns, results))
    highest = results.highest_mod_seq(returns.chosen(len(numbers)))
    if highest:
        items.append(b"MODSEQ %d" % highest)
    return b" ".join(items) + b"\r\n"


def _scores(returns: SearchReturn, results: Results) -> bytes:
    """The scores of the messages that are told: of PARTIAL's part, else of all."""
    start, stop = returns.partial.bounds(len(results.scores)) if returns.partial else (0, len(results.scores))
    return b" ".join([b"%d" % score for score in results.scores[start:stop]])


def numbers_text(numbers: Sequence[int]) -> bytes:
    """The numbers, each with a space before it. 0.04 us a number."""
    return (b" %d" * len(numbers)) % tuple(numbers)


async def plain(kind: bytes, results: Results) -> list[bytes]:
    """The response of a SEARCH or SORT (`kind`) without return options, in blocks. 0.06 us a number."""
    blocks = [b"* " + kind]
    for start in range(0, len(results.numbers), NUMBERS_A_BLOCK):
        blocks.append(numbers_text(results.numbers[start : start + NUMBERS_A_BLOCK]))
        if start:
            await asyncio.sleep(0)
    highest = results.highest_mod_seq((range(len(results.numbers)),))
    # RFC 7162 §3.1.6: the highest mod-sequence of what was found, and nothing when nothing was
    blocks.append(b" (MODSEQ %d)\r\n" % highest if highest else b"\r\n")
    return blocks
