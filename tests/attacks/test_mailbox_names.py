"""Names that look like paths, and malformed modified UTF-7: refused or kept as they are, and never paths."""

import os
from pathlib import Path

import pytest
from attack_peer import imap

from pochta.testing import Server

PATHS = [
    b"../../../etc/passwd",
    b"..",
    b".",
    b"/etc/passwd",
    b"a/../b",
    b"a/./b",
    b"a//b",
    b"/",
    b"//",
    b"a/",
    b"~root",
    b"~/mail",
    b"#news.comp",
    b"C:\\windows",
    b"\\\\server\\share",
    b"a\\b",
    b"con",
    b"%00",
    b"$(id)",
    b"`id`",
    b"'; DROP TABLE mailbox; --",
    b"INBOX/../x",
    b"inbox/x",
    b"a" * 2000,
    b"a/" * 500 + b"a",
]

MALFORMED = [
    b"&",
    b"&-&",
    b"&AAA",
    b"&AGE-",  # "a", which stands for itself
    b"&2D3-",  # half a surrogate pair
    b"&2D0-x",
    b"&====-",
    b"&AOk",
    b"&AOk-&AOk-",  # two shifts in a row
    b"&ZeVnLIqe",
    b"&*-",
    b"&//8-",
    b"\xff\xfe",
    b"\xc3",
    b"caf\xc3\xa9",
]


def outside(server: Server) -> set[str]:
    """Every file around the store, by name."""
    return {str(one) for one in Path(server.data_dir).parent.rglob("*") if "pochta.db" not in one.name}


def commands(server: Server, name: bytes) -> list[bytes]:
    literal = b"{%d+}\r\n%b" % (len(name), name)
    answers = []
    with imap(server) as peer:
        for command in (b"CREATE", b"SELECT", b"STATUS", b"RENAME", b"SUBSCRIBE", b"DELETE"):
            rest = {b"STATUS": b" (MESSAGES)", b"RENAME": b" " + literal + b"-new"}.get(command, b"")
            if command == b"RENAME":
                rest = b" {%d+}\r\n%b-new" % (len(name) + 4, name)
            peer.send(b"c " + command + b" " + literal + rest + b"\r\n")
            answers.append(peer.until(rb"c (?:OK|NO|BAD) .*"))
        peer.send(b"d NOOP\r\n")
        peer.until(rb"d OK .*")
    return answers


@pytest.mark.parametrize("name", PATHS, ids=lambda name: repr(name[:30]))
def test_paths_touch_no_files(pochta: Server, name: bytes) -> None:
    before = outside(pochta)
    commands(pochta, name)
    assert outside(pochta) == before
    assert not os.path.exists("passwd")


@pytest.mark.rfc(3501, "5.1.3")
@pytest.mark.parametrize("name", MALFORMED, ids=repr)
def test_malformed_utf7_is_refused(pochta: Server, name: bytes) -> None:
    created = commands(pochta, name)[0]
    assert created.startswith((b"c NO", b"c BAD")), created
    with imap(pochta) as peer:
        peer.send(b'l LIST "" *\r\n')
        assert peer.until(rb"l OK .*").count(b"* LIST") == 6


def test_what_is_created_is_listed_as_it_was_named(pochta: Server) -> None:
    names = [b"&BB4EQgRHBFEEQgRL-", b"a&-b", b"Tom &- Jerry/x", b"'; DROP TABLE mailbox; --"]
    with imap(pochta) as peer:
        for name in names:
            peer.send(b'c CREATE "%b"\r\n' % name)
            assert b"c OK" in peer.until(rb"c (?:OK|NO|BAD) .*")
        peer.send(b'l LIST "" *\r\n')
        listed = peer.until(rb"l OK .*")
        for name in names:
            assert name in listed
