"""SEARCH's return options, `$`, contexts and the modes that change what SEARCH is, over a real server.

The plain SEARCH is the oracle: whatever else is asked, what is found is what it finds.
"""

import re
from collections.abc import Iterator
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import USER, Imap, fill

from pochta.testing import Server

KEYS = ("ALL", "FLAGGED", "UNSEEN", "OR FLAGGED SEEN", "NOT 3:9", "UID 2:11 NOT FLAGGED", "SUBJECT 2", "DRAFT")
COUNT = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as one:
        one.add_account(USER, "secret")
        fill(one, COUNT)
        with Imap(one) as imap:
            imap.ok("STORE 2,5:8,20 +FLAGS.SILENT (\\Flagged)")
            imap.ok("STORE 1:6,21 +FLAGS.SILENT (\\Seen)")
            imap.ok("STORE 4,10 +FLAGS.SILENT (\\Deleted)")
            imap.ok("EXPUNGE")
        yield one


def plain(imap: Imap, command: str, key: str) -> list[int]:
    [line] = imap.ok(f"{command} {key}")
    return [int(number) for number in line.split()[2:]]


def expanded(text: bytes) -> list[int]:
    if text == b"NIL":
        return []
    pairs = [part.split(b":") for part in text.split(b",")]
    return [number for pair in pairs for number in range(int(pair[0]), int(pair[-1]) + 1)]


def items(imap: Imap, command: str, returns: str, key: str) -> dict[bytes, bytes]:
    """The items of the ESEARCH response by name; PARTIAL holds what is behind its range."""
    lines = imap.ok(f"{command} RETURN ({returns}) {key}")
    [line] = [one for one in lines if b" ESEARCH " in one]
    tag = b"t%d" % imap.tags
    head = b'* ESEARCH (TAG "%b")%b' % (tag, b" UID" if command.startswith("UID") else b"")
    assert line.startswith(head), line
    found = dict(re.findall(rb" (MIN|MAX|COUNT|ALL) ([0-9:,]+)", line[len(head) :]))
    partial = re.search(rb" PARTIAL \((\S+) (\S+)\)", line)
    if partial is not None:
        found[b"PARTIAL"] = partial[2]
    return found


@pytest.mark.rfc(4731, "3.1")
@pytest.mark.rfc(9394, "3.1")
@pytest.mark.parametrize("command", ["SEARCH", "UID SEARCH"])
@pytest.mark.parametrize("key", KEYS)
def test_esearch_tells_what_search_finds(server: Server, command: str, key: str) -> None:
    with Imap(server) as imap:
        expected = plain(imap, command, key)
        found = items(imap, command, "ALL MIN MAX COUNT", key)
        assert found.pop(b"COUNT") == b"%d" % len(expected)
        if not expected:
            assert found == {}
            return
        assert expanded(found[b"ALL"]) == expected
        assert (int(found[b"MIN"]), int(found[b"MAX"])) == (expected[0], expected[-1])
        for partial in ("1:3", "-1:-3", "3:2", "-30:-2", "5:500", "400:500"):
            first, last = sorted(abs(int(one)) for one in partial.split(":"))
            listed = expected[::-1] if partial[0] == "-" else expected
            part = items(imap, command, f"PARTIAL {partial}", key)
            assert expanded(part[b"PARTIAL"]) == sorted(listed[first - 1 : last])


@pytest.mark.rfc(5182, "2.4")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "returns", ["SAVE", "SAVE MIN", "SAVE MAX MIN", "SAVE ALL", "COUNT SAVE MIN", "SAVE PARTIAL 2:4"]
)
def test_dollar_is_what_was_told(server: Server, key: str, returns: str) -> None:
    with Imap(server) as imap:
        uids = plain(imap, "UID SEARCH", key)
        imap.ok(f"SEARCH RETURN ({returns}) {key}")
        expected = {
            "SAVE MIN": uids[:1],
            "SAVE MAX MIN": sorted({*uids[:1], *uids[-1:]}),
            "SAVE PARTIAL 2:4": uids[1:4],
        }.get(returns, uids)
        assert plain(imap, "UID SEARCH", "$") == expected
        assert [int(one.split()[4][:-1]) for one in imap.ok("FETCH $ UID")] == expected
        assert plain(imap, "UID SEARCH", "NOT $") == [
            uid for uid in plain(imap, "UID SEARCH", "ALL") if uid not in expected
        ]


@pytest.mark.rfc(9051, "6.4.4")
def test_rev2_answers_esearch_and_knows_no_recent(server: Server) -> None:
    with Imap(server, mailbox=None) as imap:
        imap.ok("ENABLE IMAP4rev2")
        imap.ok("SELECT INBOX")
        expected = plain_of(imap.ok("UID SEARCH FLAGGED"))
        assert expected == expanded(items(imap, "UID SEARCH", "", "FLAGGED")[b"ALL"])
        assert imap.ok("SEARCH DRAFT") == [b'* ESEARCH (TAG "t%d")' % imap.tags]
        for key in ("RECENT", "NEW", "OLD", "OR SEEN NOT RECENT"):
            assert imap.do(f"SEARCH {key}")[-1].startswith(b"BAD")


def plain_of(lines: list[bytes]) -> list[int]:
    [line] = lines
    assert line.startswith(b"* ESEARCH (TAG ")
    return expanded(line.rpartition(b" ALL ")[2])


@pytest.mark.rfc(9586, "3")
def test_uidonly_knows_no_numbers(server: Server) -> None:
    with Imap(server) as imap:
        imap.ok("ENABLE UIDONLY")
        for command in ("SEARCH ALL", "UID SEARCH 1:3", "UID SEARCH OR SEEN (FLAGGED *)"):
            assert imap.do(command)[-1].startswith(b"BAD [UIDREQUIRED]")
        assert plain(imap, "UID SEARCH", "UID 1:3") == [1, 2, 3]
        imap.ok("UID SEARCH RETURN (SAVE) UID 2")
        assert plain(imap, "UID SEARCH", "$") == [2]


@pytest.mark.rfc(6855, "3")
def test_no_charset_once_utf8_is_enabled(server: Server) -> None:
    with Imap(server) as imap:
        assert imap.do("SEARCH CHARSET UTF-8 SUBJECT test")[-1].startswith(b"OK")
        imap.ok("ENABLE UTF8=ACCEPT")
        assert imap.do("SEARCH CHARSET UTF-8 SUBJECT test")[-1].startswith(b"BAD")


@pytest.mark.rfc(5267, "4.3.1")
def test_contexts_are_bounded_and_the_search_is_answered(server: Server) -> None:
    with Imap(server) as imap:
        for _ in range(16):
            assert len(imap.ok("SEARCH RETURN (UPDATE COUNT) DELETED")) == 1
        lines = imap.ok("SEARCH RETURN (UPDATE COUNT) DELETED")
        assert [one for one in lines if b"COUNT 0" in one]
        assert [one for one in lines if one.startswith(b'* NO [NOUPDATE "t%d"]' % imap.tags)]


@pytest.mark.rfc(5267, "4.3")
@pytest.mark.parametrize("command", ["SEARCH", "UID SEARCH"])
def test_a_context_walks_with_the_mailbox(server: Server, command: str) -> None:
    """Two sessions change a mailbox at random; what the context was told is what a new search finds."""
    random = Random(command)
    with Imap(server, mailbox=None) as imap, Imap(server, mailbox=None) as other:
        box = "walk" + command[:3]
        imap.ok(f"CREATE {box}")
        fill(server, 12, mailbox=box)
        imap.ok(f"SELECT {box}")
        other.ok(f"SELECT {box}")
        key = "OR FLAGGED SUBJECT 1"
        believed = expanded(items(imap, command, "UPDATE ALL", key)[b"ALL"])
        tag = b"t%d" % imap.tags
        for _ in range(60):
            who = random.choice([imap, other])
            lines = who.do(_random_change(random, box))
            if who is other:
                lines = imap.do("NOOP")
            believed = heard(believed, lines, tag, is_uid=command.startswith("UID"))
            assert believed == plain(imap, command, key)


def _random_change(random: Random, box: str) -> str:
    number = random.randint(1, 14)
    kind = random.choice(["flag", "flag", "unflag", "delete", "expunge", "copy"])
    if kind == "expunge":
        return "EXPUNGE"
    if kind == "copy":
        return f"UID COPY {number} walkcopies" if random.random() < 0.3 else f"UID COPY {number}:* {box}"
    return {
        "flag": f"UID STORE {number}:{number + 2} +FLAGS.SILENT (\\Flagged)",
        "unflag": f"UID STORE {number}:{number + 4} -FLAGS (\\Flagged)",
        "delete": f"UID STORE {number} +FLAGS (\\Deleted)",
    }[kind]


def heard(believed: list[int], lines: list[bytes], tag: bytes, *, is_uid: bool) -> list[int]:
    """What a client believes that follows the responses in their order."""
    for line in lines:
        expunged = re.fullmatch(rb"\* (\d+) EXPUNGE", line)
        if expunged is not None and not is_uid:
            gone = int(expunged[1])
            assert gone not in believed  # it was taken out before
            believed = [number - (number > gone) for number in believed]
        elif line.startswith(b'* ESEARCH (TAG "%b")' % tag):
            for item, numbers in re.findall(rb"(ADDTO|REMOVEFROM) \(0 ([0-9:,]+)\)", line):
                named = expanded(numbers)
                if item == b"ADDTO":
                    assert not set(named) & set(believed)
                    believed = sorted([*believed, *named])
                else:
                    assert set(named) <= set(believed)
                    believed = [number for number in believed if number not in named]
    return believed
