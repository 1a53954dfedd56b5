"""What rights deny, no command yields: every command of the table against a model that is told the rights alone.

For random rights a reader is sent through every command on a mailbox of another's, a new one for each; the answer, and
what the owner finds afterwards, must be what `PROBES` says for these rights. A command that is new to the table must be
added here: to `PROBES`, or to `NOT_ABOUT_RIGHTS` with those that touch no mailbox of another's.
"""

import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from imap_raw import Imap, message

from pochta.servers.imap.table import HANDLERS
from pochta.testing import Server

OWNER, READER = "owner@example.org", "reader@example.org"
LETTERS: Final = "lrswipkxtea"
KNOWING: Final = set("lrikxa")

NOT_ABOUT_RIGHTS: Final = {
    *("Capability", "Noop", "Logout", "Id", "StartTls", "Login", "Authenticate", "Unauthenticate", "Enable"),
    *("Compress", "Namespace", "UnknownCharset", "CancelUpdate", "Unselect", "Check"),
}


class Rig:
    """A server with an owner and a reader who are signed in; `box` is the mailbox of the probe under way."""

    def __init__(self, server: Server) -> None:
        self.owner = Imap(server, user=OWNER, mailbox=None)
        self.reader = Imap(server, user=READER, mailbox=None)
        self.numbers = count(1)
        self.box = ""

    def begin(self, granted: str, denied: str) -> None:
        """A new mailbox with three messages, the first of them \\Deleted, below one where the reader may create."""
        parent = f"P{next(self.numbers)}"
        self.box = f"{parent}/Box"
        self.owner.ok(f"CREATE {parent}")
        self.owner.ok(f"SETACL {parent} {READER} k")
        self.owner.ok(f"CREATE {self.box}")
        for flags in ("(\\Deleted)", "()", "(\\Flagged)"):
            assert self.owner.append(message(1), f"{self.box} {flags}")[-1].startswith(b"OK")
        self.owner.ok(f'SETACL {self.box} {READER} "{granted}"')
        self.owner.ok(f'SETACL {self.box} -{READER} "{denied}"')

    def end(self) -> None:
        for command in ("UNSELECT", f'DELETE "{self.box}"', f'DELETE "{self.box.partition("/")[0]}"'):
            self.owner.do(command)
        self.reader.do("UNSELECT")

    @property
    def name(self) -> str:
        return f'"Other Users/{OWNER}/{self.box}"'

    def told(self, command: str) -> str:
        """How the reader's command ended: OK, BAD, or the code of a NO."""
        return status_of(self.reader.do(command)[-1])

    def selected(self, command: str) -> str:
        """As `told`, with the mailbox selected."""
        ended = self.told(f"SELECT {self.name}")
        return self.told(command) if ended == "OK" else ended

    def flags(self, imap: Imap, name: str) -> dict[int, set[bytes]]:
        """By number, as `imap` finds them in the mailbox; \\Recent aside."""
        imap.ok(f"EXAMINE {name}")
        lines = imap.ok("FETCH 1:* FLAGS")
        imap.ok("UNSELECT")
        found = [re.fullmatch(rb"\* (\d+) FETCH \(FLAGS \((.*)\)\)", line) for line in lines]
        return {int(one[1]): set(one[2].split()) - {b"\\Recent"} for one in found if one}

    def owned(self) -> dict[int, set[bytes]]:
        return self.flags(self.owner, self.box)

    def count(self) -> int:
        (line,) = self.owner.ok(f"STATUS {self.box} (MESSAGES)")
        return int(line.rpartition(b" ")[2].rstrip(b")"))


def status_of(line: bytes) -> str:
    match = re.match(rb"(OK|BAD|NO(?: \[([A-Z]+)[\] ])?)", line)
    assert match is not None, line
    return (match[2] or match[1]).decode()


def needs(wanted: str) -> Callable[[set[str]], str]:
    """What a command is answered that needs all of these rights, given those of the reader."""

    def ended(rights: set[str]) -> str:
        if set(wanted) <= rights:
            return "OK"
        return "NOPERM" if "l" in rights else "NONEXISTENT"

    return ended


def selecting(wanted: str) -> Callable[[set[str]], str]:
    """The same, of one that is given with the mailbox selected."""

    def ended(rights: set[str]) -> str:
        if "r" not in rights:
            return needs("r")(rights)
        return "OK" if set(wanted) <= rights else "NOPERM"

    return ended


class Probe(NamedTuple):
    """A command: what it is called in the table, how it is tried, and how it must end."""

    command: str
    run: Callable[[Rig, set[str]], str]
    want: Callable[[set[str]], str]


def _select(rig: Rig, rights: set[str]) -> str:
    *lines, last = rig.reader.do(f"SELECT {rig.name}")
    if last.startswith(b"OK"):
        assert (b"[READ-WRITE]" in last) == bool(rights & set("iewt"))
        (kept,) = re.findall(rb"\[PERMANENTFLAGS \((.*?)\)\]", b"".join(lines))
        assert (b"\\Seen" in kept, b"\\Deleted" in kept, b"\\Flagged" in kept, b"\\*" in kept) == (
            "s" in rights,
            "t" in rights,
            "w" in rights,
            "w" in rights,
        )
    return status_of(last)


def _list(rig: Rig, rights: set[str]) -> str:
    return "OK" if any(b"LIST" in one for one in rig.reader.ok(f'LIST "" {rig.name}')) else "NONEXISTENT"


def _lsub(rig: Rig, rights: set[str]) -> str:
    rig.reader.ok(f"SUBSCRIBE {rig.name}")
    (line,) = rig.reader.ok(f'LSUB "" {rig.name}')
    rig.reader.ok(f"UNSUBSCRIBE {rig.name}")
    return "NONEXISTENT" if b"\\Noselect" in line else "OK"


def _create(rig: Rig, rights: set[str]) -> str:
    ended = rig.told(f'CREATE "Other Users/{OWNER}/{rig.box}/Child"')
    assert bool(rig.owner.ok(f'LIST "" {rig.box}/Child')) == (ended == "OK")
    rig.owner.do(f"DELETE {rig.box}/Child")
    return ended


def _delete(rig: Rig, rights: set[str]) -> str:
    ended = rig.told(f"DELETE {rig.name}")
    assert bool(rig.owner.ok(f'LIST "" {rig.box}')) == (ended != "OK")
    return ended


def _rename(rig: Rig, rights: set[str]) -> str:
    old, new = rig.box, f"{rig.box.partition('/')[0]}/New"
    ended = rig.told(f'RENAME {rig.name} "Other Users/{OWNER}/{new}"')
    assert bool(rig.owner.ok(f'LIST "" {new}')) == (ended == "OK")
    rig.box = new if ended == "OK" else old
    return ended


def _kept(rights: set[str]) -> set[bytes]:
    """What of \\Flagged, \\Deleted and \\Seen the owner finds; \\Seen would be the reader's own."""
    return {flag for flag, right in ((b"\\Flagged", "w"), (b"\\Deleted", "t")) if right in rights}


def _append(rig: Rig, rights: set[str]) -> str:
    last = rig.reader.append(message(4), f"{rig.name} (\\Flagged \\Deleted \\Seen)")[-1]
    if last.startswith(b"OK"):
        assert rig.owned()[4] == _kept(rights)
    assert rig.count() == (4 if last.startswith(b"OK") else 3)
    return status_of(last)


def _copying(verb: str) -> Callable[[Rig, set[str]], str]:
    def run(rig: Rig, rights: set[str]) -> str:
        assert rig.reader.append(message(5), "INBOX (\\Flagged \\Deleted \\Seen)")[-1].startswith(b"OK")
        rig.reader.ok("SELECT INBOX")
        ended = rig.told(f"{verb} * {rig.name}")
        if ended == "COPYUID":
            ended = "OK"
        if ended == "OK":
            assert rig.owned()[4] == _kept(rights)
        assert rig.count() == (4 if ended == "OK" else 3)
        return "NONEXISTENT" if ended == "TRYCREATE" else ended

    return run


def _taking(verb: str) -> Callable[[Rig, set[str]], str]:
    def run(rig: Rig, rights: set[str]) -> str:
        ended = rig.selected(f"{verb} 1 INBOX")
        assert rig.count() == (2 if ended == "OK" and verb == "MOVE" else 3)
        return ended

    return run


def _replace(rig: Rig, rights: set[str]) -> str:
    ended = rig.told(f"SELECT {rig.name}")
    if ended == "OK":
        new = message(7)
        last = rig.reader.do(f"REPLACE 1 {rig.name} ".encode() + b"{%d+}\r\n" % len(new) + new)[-1]
        ended = status_of(last)
    assert rig.count() == 3
    assert (1 in rig.owned() and b"\\Deleted" in rig.owned()[1]) == (ended != "OK")
    return ended


def _fetch(rig: Rig, rights: set[str]) -> str:
    ended = rig.selected("FETCH 2 (ENVELOPE BODYSTRUCTURE PREVIEW BODY[])")
    if ended == "OK":
        assert (b"\\Seen" in rig.flags(rig.reader, rig.name)[2]) == ("s" in rights)
        assert b"\\Seen" not in rig.owned()[2]
    return ended


def _storing(flag: str) -> Callable[[Rig, set[str]], str]:
    def run(rig: Rig, rights: set[str]) -> str:
        ended = rig.selected(f"STORE 2 +FLAGS.SILENT ({flag})")
        is_set = flag.encode() in rig.owned()[2]
        assert is_set == (ended == "OK" and flag != "\\Seen")
        if "r" in rights:
            assert (flag.encode() in rig.flags(rig.reader, rig.name)[2]) == (ended == "OK")
        return ended

    return run


def _store_some(rig: Rig, rights: set[str]) -> str:
    ended = rig.selected("STORE 3 FLAGS (\\Seen \\Deleted \\Answered)")
    if ended == "OK":
        want = {b"\\Answered"} if "w" in rights else {b"\\Flagged"}
        want |= {b"\\Deleted"} if "t" in rights else set()
        assert rig.owned()[3] == want
        want |= {b"\\Seen"} if "s" in rights else set()
        assert rig.flags(rig.reader, rig.name)[3] == want
    return ended


def _removing(command: str) -> Callable[[Rig, set[str]], str]:
    def run(rig: Rig, rights: set[str]) -> str:
        ended = rig.selected(command)
        is_gone = ended == "OK" and "e" in rights
        assert rig.count() == (2 if is_gone else 3)
        return ended

    return run


def _told(command: str) -> Callable[[Rig, set[str]], str]:
    return lambda rig, rights: rig.told(command.replace("BOX", rig.name))


def _selected(command: str) -> Callable[[Rig, set[str]], str]:
    return lambda rig, rights: rig.selected(command)


def _setacl(rig: Rig, rights: set[str]) -> str:
    before = rig.owner.ok(f"GETACL {rig.box}")
    ended = rig.told(f"SETACL {rig.name} anyone +p")
    assert (rig.owner.ok(f"GETACL {rig.box}") != before) == (ended == "OK")
    return ended


def _my_rights(rig: Rig, rights: set[str]) -> str:
    *lines, last = rig.reader.do(f"MYRIGHTS {rig.name}")
    if lines:
        assert set(lines[0].rpartition(b" ")[2].decode()) - set("cd") == rights
    return status_of(last)


def _metadata(entry: str) -> Callable[[Rig, set[str]], str]:
    def run(rig: Rig, rights: set[str]) -> str:
        return rig.told(f'SETMETADATA {rig.name} ({entry} "common")')

    return run


def _idle(rig: Rig, rights: set[str]) -> str:
    ended = rig.told(f"SELECT {rig.name}")
    if ended == "OK":
        rig.reader.done(rig.reader.idle())
    return ended


def _search_many(rig: Rig, rights: set[str]) -> str:
    *lines, last = rig.reader.do(f"ESEARCH IN (mailboxes {rig.name}) RETURN (COUNT) ALL")
    assert last.startswith(b"OK"), last
    return "OK" if lines else "NONEXISTENT"


def _watch(rig: Rig, rights: set[str]) -> str:
    *lines, last = rig.reader.do(f"NOTIFY SET STATUS (mailboxes {rig.name} (MessageNew MessageExpunge))")
    told = [line for line in lines if line.startswith(b"* STATUS")]
    rig.reader.ok("NOTIFY SET (selected (MessageNew MessageExpunge FlagChange))")
    assert last.startswith((b"OK", b"NO")), last
    return "OK" if told else "NONEXISTENT"


def _annotating(more: str = "") -> Callable[[set[str]], str]:
    def ended(rights: set[str]) -> str:
        if "l" not in rights:
            return "NONEXISTENT"
        return "OK" if rights & set("rswip") and set(more) <= rights else "NOPERM"

    return ended


def _replacing(rights: set[str]) -> str:
    if not {"r", "t", "e"} <= rights:
        return selecting("te")(rights)
    return {"NONEXISTENT": "TRYCREATE"}.get(needs("i")(rights), needs("i")(rights))


def _known(rights: set[str]) -> str:
    return "OK" if rights & KNOWING else "NONEXISTENT"


PROBES: Final = (
    Probe("Select", _select, needs("r")),
    Probe("Select", _told("EXAMINE BOX"), needs("r")),
    Probe("Status", _told("STATUS BOX (MESSAGES UNSEEN DELETED-STORAGE)"), needs("r")),
    Probe("List", _list, lambda rights: "OK" if "l" in rights else "NONEXISTENT"),
    Probe("Lsub", _lsub, lambda rights: "OK" if "l" in rights else "NONEXISTENT"),
    Probe("Subscribe", _told("SUBSCRIBE BOX"), lambda rights: "OK"),
    Probe("Unsubscribe", _told("UNSUBSCRIBE BOX"), lambda rights: "OK"),
    Probe("Create", _create, needs("k")),
    Probe("Delete", _delete, needs("x")),
    Probe("Rename", _rename, needs("x")),
    Probe("Append", _append, lambda rights: {"NONEXISTENT": "TRYCREATE"}.get(needs("i")(rights), needs("i")(rights))),
    Probe("Copy", _copying("COPY"), needs("i")),
    Probe("Move", _copying("MOVE"), needs("i")),
    Probe("Copy", _taking("COPY"), selecting("")),
    Probe("Move", _taking("MOVE"), selecting("te")),
    Probe("Replace", _replace, _replacing),
    Probe("Fetch", _fetch, selecting("")),
    Probe("Search", _selected("SEARCH ALL"), selecting("")),
    Probe("Sort", _selected("SORT (DATE) UTF-8 ALL"), selecting("")),
    Probe("Thread", _selected("THREAD REFERENCES UTF-8 ALL"), selecting("")),
    Probe("Store", _storing("\\Seen"), selecting("s")),
    Probe("Store", _storing("\\Deleted"), selecting("t")),
    Probe("Store", _storing("\\Draft"), selecting("w")),
    Probe("Store", _storing("keyword"), selecting("w")),
    Probe(
        "Store",
        _store_some,
        lambda rights: selecting("")(rights) if "r" not in rights or rights & set("stw") else "NOPERM",
    ),
    Probe("Expunge", _removing("EXPUNGE"), selecting("e")),
    Probe("UidExpunge", _removing("UID EXPUNGE 1:*"), selecting("e")),
    Probe("Close", _removing("CLOSE"), selecting("")),
    Probe("Idle", _idle, selecting("")),
    Probe("SetAcl", _setacl, needs("a")),
    Probe("DeleteAcl", _told("DELETEACL BOX anyone"), needs("a")),
    Probe("GetAcl", _told("GETACL BOX"), needs("a")),
    Probe("ListRights", _told(f"LISTRIGHTS BOX {READER}"), needs("a")),
    Probe("MyRights", _my_rights, _known),
    Probe("GetQuotaRoot", _told("GETQUOTAROOT BOX"), needs("r")),
    Probe("GetQuota", _told(f"GETQUOTA {OWNER}"), lambda rights: "OK" if "r" in rights else "NONEXISTENT"),
    Probe("SetQuota", _told(f"SETQUOTA {OWNER} ()"), lambda rights: "NOPERM"),
    Probe("GetMetadata", _told("GETMETADATA BOX /shared/comment"), _annotating()),
    Probe("SetMetadata", _metadata("/private/comment"), _annotating()),
    Probe("SetMetadata", _metadata("/shared/comment"), _annotating("w")),
    Probe("SetMetadata", _metadata("/shared/vendor/pochta/seen"), _annotating("a")),
    Probe("Notify", _watch, lambda rights: "OK" if {"l", "r"} <= rights else "NONEXISTENT"),
    Probe("MultiSearch", _search_many, lambda rights: "OK" if "r" in rights else "NONEXISTENT"),
)


def test_every_command_is_probed() -> None:
    probed = {probe.command for probe in PROBES} | NOT_ABOUT_RIGHTS
    assert {command.__name__ for command in HANDLERS} <= probed


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Server() as server:
        for address in (OWNER, READER):
            server.add_account(address, "secret")
        rig = Rig(server)
        yield rig
        rig.owner.close()
        rig.reader.close()


LETTER_SETS = st.sets(st.sampled_from(LETTERS)).map(lambda found: "".join(sorted(found, key=LETTERS.index)))


@pytest.mark.rfc(4314, "4")
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(granted=LETTER_SETS, denied=LETTER_SETS | st.just(""))
@example(granted="", denied="")
@example(granted=LETTERS, denied="")
@example(granted=LETTERS, denied="l")
@example(granted="lr", denied="")
def test_what_rights_deny_no_command_yields(rig: Rig, granted: str, denied: str) -> None:
    rights = set(granted) - set(denied)
    for probe in PROBES:
        rig.begin(granted, denied)
        try:
            assert (probe.command, probe.run(rig, rights)) == (probe.command, probe.want(rights)), sorted(rights)
        finally:
            rig.end()
