"""Sizes of APPEND and FETCH: what is too large is refused before it comes, what is hostile stays small in answers."""

import pytest
from imap_raw import Imap, files_become

from pochta.mime import describe
from pochta.mime.parse import MAX_HEADER_TOTAL, MAX_PARTS, PART_BYTES, parse
from pochta.testing import Server

# 40 000 parts of which each one's description is longer than the part
PART = b"--b\r\nContent-Type: a/b; " + b";".join(b'p%d="\\"\\"\\"\\""' % n for n in range(12)) + b"\r\n\r\nx\r\n"
HOSTILE = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + PART * 40_000 + b"--b--\r\n"


@pytest.mark.rfc(7889, "4")
@pytest.mark.parametrize(
    "words", ["{200000000}", "~{200000000}", "CATENATE (TEXT {200000000}", "UTF8 (~{200000000}", "(\\Seen) {200000000}"]
)
def test_appendlimit_holds_before_octets_come(pochta: Server, words: str) -> None:
    with Imap(pochta) as imap:
        imap.ok("ENABLE UTF8=ACCEPT")
        assert imap.do(f"APPEND INBOX {words}")[-1].startswith(b"NO [TOOBIG] ")
        assert imap.do("NOOP") == [b"OK NOOP completed"]


def test_a_description_grows_with_limits_and_not_with_the_message() -> None:
    described = describe.body_structure(parse(HOSTILE))
    assert len(HOSTILE) > 8_000_000
    # what the headers that were looked at hold, each octet escaped at the most, and a frame for each part
    assert len(described) < 2 * MAX_HEADER_TOTAL + MAX_PARTS * PART_BYTES


def test_a_hostile_structure_is_kept_and_answered(pochta: Server) -> None:
    with Imap(pochta) as imap:
        assert imap.append(HOSTILE)[-1].startswith(b"OK ")
        assert len(imap.fetch("FETCH 1 BODYSTRUCTURE")) < 2 * MAX_HEADER_TOTAL + MAX_PARTS * PART_BYTES
        assert imap.fetch("FETCH 1 BINARY.SIZE[40]") == b"BINARY.SIZE[40] 1"


@pytest.mark.parametrize(
    "data",
    [
        b"a APPEND INBOX {300000+}\r\n" + b"x" * 200_000,
        b"a APPEND INBOX {100000+}\r\n" + b"x" * 100_000 + b" {100000+}\r\n" + b"y" * 50_000,
        b"a APPEND INBOX CATENATE (TEXT {100000+}\r\n" + b"x" * 100_000,
        b"a APPEND INBOX {100000+}\r\n" + b"x" * 100_000 + b" nonsense\r\n",
        b"a APPEND INBOX ~{100000+}\r\n" + b"x" * 90_000 + b"\0" * 10_000 + b" nonsense\r\n",
    ],
    ids=["in the message", "in the second", "in a part", "bad after the message", "bad after a converted one"],
)
def test_what_is_cut_off_leaves_no_file(pochta: Server, data: bytes) -> None:
    with Imap(pochta) as imap:
        imap.send(data)
        imap.socket.shutdown(1)
        while imap.line():
            pass
    pochta.stop()
    files_become(pochta, 0)
