"""CONTEXT=SORT: a client that carries out what it is told has what a new SORT would answer."""

import re

import pytest
from imap_raw import Imap, numbers

from pochta.testing import Server

_ITEM = re.compile(rb"(ADDTO|REMOVEFROM) \(([^)]*)\)")


def carry_out(result: list[int], lines: list[bytes], tag: bytes) -> None:
    """Do to the result what the responses for `tag` tell."""
    for line in lines:
        if not line.startswith(b'* ESEARCH (TAG "%b")' % tag):
            continue
        for word, pairs in _ITEM.findall(line):
            items = pairs.split()
            for place, uids in zip(map(int, items[::2]), map(numbers, items[1::2]), strict=True):
                if word == b"ADDTO":
                    result[place - 1 : place - 1] = uids
                else:
                    assert result[place - 1 : place - 1 + len(uids)] == uids, (line, result)
                    del result[place - 1 : place - 1 + len(uids)]


@pytest.mark.rfc(5267, "4.3.2")
@pytest.mark.parametrize("keys", ["SUBJECT", "REVERSE SUBJECT", "REVERSE SIZE SUBJECT", "DATE"])
def test_results_stay_true(pochta: Server, keys: str) -> None:
    with Imap(pochta) as imap, Imap(pochta) as other:
        tag = imap.begin(f"UID SORT RETURN (UPDATE ALL) ({keys}) UTF-8 UNFLAGGED")
        imap.end(tag)
        result: list[int] = []
        for step in range(40):
            number = step * 7919 % 101
            if step % 3 != 2:
                other.append(b"Subject: %c\r\n\r\n" % (97 + number % 5) + b"x" * (number % 3) + b"\r\n")
                other.append(b"Subject: %c\r\n\r\nx\r\n" % (97 + step % 4))
            else:
                other.ok("NOOP")
                count = len(other.ok("UID SEARCH ALL")[0].split()) - 2
                one = 1 + number % count
                other.ok(f"STORE {one}:{min(count, one + 2)} {'+-'[number % 2]}FLAGS.SILENT (\\Flagged)")
                if number % 4 == 0:
                    other.ok(f"STORE {one} +FLAGS.SILENT (\\Deleted)")
                    other.ok("EXPUNGE")
            carry_out(result, imap.ok("NOOP"), tag)
            [line] = imap.ok(f"UID SORT ({keys}) UTF-8 UNFLAGGED")
            assert result == [int(uid) for uid in line.split()[2:]], step


@pytest.mark.rfc(5267, "4.3.1")
def test_relevancy_is_not_kept_up_with(pochta: Server) -> None:
    with Imap(pochta) as imap:
        tag = imap.begin("UID SORT RETURN (UPDATE COUNT) (RELEVANCY) UTF-8 FUZZY SUBJECT x")
        lines = imap.end(tag)
        assert lines[0] == b'* ESEARCH (TAG "%b") UID COUNT 0' % tag
        assert lines[1].startswith(b'* NO [NOUPDATE "%b"] ' % tag)
        assert lines[-1].startswith(b"OK")
