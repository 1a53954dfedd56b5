"""The parameters of SELECT and EXAMINE: CONDSTORE, and what a client that comes back knows of the mailbox (QRESYNC).

Source: RFC 7162 §3.1.8, §3.2.5 and §7, in the form of RFC 4466 §2.1.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.lex import MAX_NUMBER, MAX_NUMBER64, Lexer
from pochta.proto.imap.seqset import SeqSet

_CLOSE = 0x29


@dataclass(frozen=True, slots=True)
class KnownPairs:
    """Sequence numbers and their UIDs, both rising, as runs of (first sequence number, first UID, how many)."""

    runs: tuple[tuple[int, int, int], ...]

    def last_match(self, seq_of: Callable[[int], int]) -> int:
        """The UID of the last pair that `seq_of` (UID to number, or 0) confirms; 0 for none. 40 steps at most.

        A mailbox in which one pair holds has lost nothing before it, so that all pairs before it hold too.
        """
        ends = list(accumulate(run[2] for run in self.runs))
        found = low = 0
        high = ends[-1]
        while low < high:
            middle = (low + high) // 2
            index = bisect_right(ends, middle)
            seq, uid, count = self.runs[index]
            offset = middle - (ends[index] - count)
            if seq_of(uid + offset) == seq + offset:
                found, low = uid + offset, middle + 1
            else:
                high = middle
        return found


@dataclass(frozen=True, slots=True)
class Resync:
    """What the client knows: its UIDVALIDITY, the mod-sequence it has reached, and perhaps which UIDs it holds."""

    uid_validity: int
    mod_seq: int
    known_uids: SeqSet | None = None
    known_pairs: KnownPairs | None = None


def parse_select_parameters(lexer: Lexer) -> tuple[bool, Resync | None]:
    """(whether CONDSTORE is among them, QRESYNC's arguments) of the list that comes next."""
    is_condstore = False
    resync: Resync | None = None
    lexer.open_list()
    while True:
        word = lexer.word()
        if word == b"CONDSTORE" and not is_condstore:
            is_condstore = True
        elif word == b"QRESYNC" and resync is None:
            lexer.space()
            resync = _parse_resync(lexer)
        else:
            raise RemoteProtocolError("unknown SELECT parameter")
        if not lexer.more():
            return is_condstore, resync


def _parse_resync(lexer: Lexer) -> Resync:
    lexer.open_list()
    uid_validity = lexer.number()
    if uid_validity == 0:
        raise RemoteProtocolError("UIDVALIDITY is never 0")
    lexer.space()
    # 0, for which the grammar has no place, means all there is, as for CHANGEDSINCE
    mod_seq = lexer.number(MAX_NUMBER64)
    known_uids: SeqSet | None = None
    known_pairs: KnownPairs | None = None
    if lexer.take(_CLOSE):
        return Resync(uid_validity, mod_seq)
    lexer.space()
    if not lexer.at_list():
        known_uids = _parse_known(lexer)
        if lexer.take(_CLOSE):
            return Resync(uid_validity, mod_seq, known_uids)
        lexer.space()
    lexer.open_list()
    seqs = _parse_known(lexer)
    lexer.space()
    known_pairs = _paired(seqs, _parse_known(lexer))
    if lexer.more() or lexer.more():
        raise RemoteProtocolError("unknown argument of QRESYNC")
    return Resync(uid_validity, mod_seq, known_uids, known_pairs)


def _parse_known(lexer: Lexer) -> SeqSet:
    found = lexer.seq_set()
    # RFC 7162 §7: "*" is not allowed
    if found.is_saved or found.has_star():
        raise RemoteProtocolError("the numbers must be written out")
    return found


def _paired(seqs: SeqSet, uids: SeqSet) -> KnownPairs:
    """The pairs of two sets of the same size, both rising (RFC 7162 §3.2.5.2)."""
    left, right = list(seqs.normalised(MAX_NUMBER)), list(uids.normalised(MAX_NUMBER))
    for given, merged in ((seqs, left), (uids, right)):
        rises = all(first <= last for first, last in given.ranges)
        in_order = all(one[1] < other[0] for one, other in zip(given.ranges, given.ranges[1:], strict=False))
        if not (rises and in_order and merged):
            raise RemoteProtocolError("the numbers must rise")
    runs: list[tuple[int, int, int]] = []
    at = at_uid = 0
    seq, uid = left[0][0], right[0][0]
    while at < len(left) and at_uid < len(right):
        count = min(left[at][1] - seq, right[at_uid][1] - uid) + 1
        runs.append((seq, uid, count))
        seq, uid = seq + count, uid + count
        if seq > left[at][1]:
            at += 1
            seq = left[at][0] if at < len(left) else 0
        if uid > right[at_uid][1]:
            at_uid += 1
            uid = right[at_uid][0] if at_uid < len(right) else 0
    if at < len(left) or at_uid < len(right):
        raise RemoteProtocolError("there must be as many UIDs as message numbers")
    return KnownPairs(tuple(runs))
