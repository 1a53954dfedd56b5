"""QRESYNC: a client that comes back ends with exactly what the server has, whatever has happened meanwhile."""

import re
from pathlib import Path
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import Imap, fill, message, numbers

from pochta.servers.imap import condstore, qresync
from pochta.store import flags, placements
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

NAMES = {"\\Seen": flags.SEEN, "\\Flagged": flags.FLAGGED, "\\Deleted": flags.DELETED, "\\Answered": flags.ANSWERED}
EVERYTHING = ((1, 1 << 32),)
_FETCH = re.compile(rb"\* (\d+) FETCH \(UID (\d+) FLAGS \(([^)]*)\) MODSEQ \((\d+)\)\)")
_HIGHEST = re.compile(rb"(?:\* )?OK \[HIGHESTMODSEQ (\d+)\]")
_UID_VALIDITY = re.compile(rb"\* OK \[UIDVALIDITY (\d+)\]")


def _mailbox(tx: Tx, name: str) -> dict[int, int]:
    row = tx.row("SELECT account_id, id FROM mailbox WHERE name = ? AND removed_at IS NULL", (name,))
    assert row is not None
    return {uid: bits for uid, bits, _ in placements.mod_seqs_of(tx, row[0], row[1], EVERYTHING)}


def truth(server: Server, mailbox: str) -> dict[int, int]:
    """uid to flags, as the store has them."""

    async def read(store: Store) -> dict[int, int]:
        return await store.read(0, _mailbox, mailbox)

    return server.run(read)


def _cut_log(tx: Tx) -> None:
    tx.run("DELETE FROM change")
    tx.run("UPDATE account SET log_floor_mod_seq = mod_seq")


def cut_log(server: Server) -> None:
    """Forget what has happened, as retention does."""

    async def write(store: Store) -> None:
        await store.write(0, _cut_log)

    server.run(write)


def drop_views(server: Server) -> None:
    """Let the worker forget what it holds of mailboxes, as after a start."""

    async def drop(store: Store) -> None:
        server.app.views._views.clear()

    server.run(drop)


class Client:
    """A client with a cache of one mailbox, which outlives its connections."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox
        self.imap: Imap | None = None
        self.uid_validity = self.highest = 0
        self.cache: dict[int, int] = {}
        self.uids: list[int] = []  # by sequence number; 0: not known yet
        self.told: list[str] = []

    def drop(self) -> None:
        """The connection is lost, without a word."""
        if self.imap is not None:
            self.imap.close()
        self.imap = None
        if 0 in self.uids:
            # announced and never fetched: from there on it has to be asked for anew
            for uid in self.uids[self.uids.index(0) :]:
                self.cache.pop(uid, None)

    def do(self, command: str | bytes) -> bytes:
        """Say it, and take in the answer."""
        assert self.imap is not None
        lines = self.imap.do(command)
        self.told = [*self.told[-15:], repr(command), *map(repr, lines)]
        for line in lines:
            self._hear(line)
        return lines[-1]

    def come_back(self, server: Server, *, knows: str = "", pairs: str = "") -> None:
        """Connect anew and learn what is new."""
        self.drop()
        self.imap = Imap(server, mailbox=None)
        self.do("ENABLE QRESYNC")
        self.uids = []
        first = max(self.cache, default=0) + 1
        if not self.uid_validity:
            assert self.do(f"SELECT {self.mailbox}").startswith(b"OK")
        else:
            was = self.uid_validity
            command = f"SELECT {self.mailbox} (QRESYNC ({was} {self.highest}{knows}{pairs}))"
            assert self.do(command).startswith(b"OK"), self.told
            if self.uid_validity != was:
                self.cache, first = {}, 1
        if len(self.cache) != len(self.uids):
            self.do(f"UID FETCH {first}:* (FLAGS MODSEQ)")
        self.uids = sorted(self.cache)

    def _hear(self, line: bytes) -> None:
        if match := _HIGHEST.match(line):
            self.highest = int(match[1])
        elif match := _UID_VALIDITY.match(line):
            self.uid_validity = int(match[1])
        elif line.startswith(b"* VANISHED (EARLIER) "):
            for uid in numbers(line[21:]):
                self.cache.pop(uid, None)
        elif line.startswith(b"* VANISHED "):
            for uid in numbers(line[11:]):
                # RFC 7162 §3.2.10.2: only of messages that are there for the client
                assert uid in self.uids or 0 in self.uids, self.told
                self.uids.remove(uid if uid in self.uids else 0)
                self.cache.pop(uid, None)
        elif match := _FETCH.fullmatch(line):
            seq, uid = int(match[1]), int(match[2])
            assert self.uids[seq - 1] in (0, uid), self.told
            self.uids[seq - 1] = uid
            self.cache[uid] = sum(NAMES[name] for name in match[3].decode().split() if name in NAMES)
            self.highest = max(self.highest, int(match[4]))
        elif line.endswith(b" EXISTS"):
            self.uids += [0] * (int(line.split()[1]) - len(self.uids))
        else:
            assert not line.endswith(b" EXPUNGE"), self.told

    def check(self, server: Server) -> None:
        """The cache is the mailbox, and every number it was told is right."""
        real = truth(server, self.mailbox)
        assert self.cache == real, self.told
        assert len(self.uids) == len(real), self.told


class Walk:
    """Random histories of one mailbox, by several clients of which some are away."""

    def __init__(self, seed: int, servers: list[Server]) -> None:
        self.random = Random(seed)
        self.servers = servers
        self.clients = [Client("Archive") for _ in range(3)]
        self.other = Imap(servers[0], mailbox="Archive")

    def close(self) -> None:
        self.other.close()
        for client in self.clients:
            client.drop()

    def history(self) -> None:
        """What happens while a client is away."""
        for _ in range(self.random.randint(0, 8)):
            getattr(self, self.random.choice(["append"] * 3 + ["store"] * 3 + ["remove", "move", "act"]))()

    def append(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.other.append(message(1), "Archive")

    def _some(self) -> str:
        uids = list(truth(self.servers[0], "Archive"))
        chosen = self.random.sample(uids, min(len(uids), self.random.randint(1, 4)))
        return ",".join(map(str, chosen))

    def store(self) -> None:
        if some := self._some():
            names = " ".join(self.random.sample(list(NAMES), self.random.randint(0, 2)))
            self.other.ok(f"UID STORE {some} {self.random.choice(['', '+', '-'])}FLAGS ({names})")

    def remove(self) -> None:
        if some := self._some():
            self.other.ok(f"UID STORE {some} +FLAGS (\\Deleted)")
            self.other.ok("EXPUNGE")

    def move(self) -> None:
        if some := self._some():
            self.other.ok(f"UID MOVE {some} Junk")

    def act(self) -> None:
        """Somebody who is there acts, and may be cut off before all is told."""
        client = self.random.choice(self.clients)
        if client.imap is None or not client.uids or 0 in client.uids:
            return
        seq = self.random.randint(1, len(client.uids))
        client.do(self.random.choice([f"STORE {seq} +FLAGS (\\Flagged)", f"FETCH {seq} (UID FLAGS MODSEQ)", "EXPUNGE"]))

    def upheaval(self) -> None:
        """What makes the log useless, or the cache."""
        kind = self.random.random()
        if kind < 0.15:
            cut_log(self.servers[0])
        elif kind < 0.2:
            self.other.ok("SELECT INBOX")
            for client in self.clients:
                client.drop()
            self.other.ok("DELETE Archive")
            self.other.ok("CREATE Archive")
            self.other.ok("SELECT Archive")

    def round(self) -> None:
        self.history()
        self.upheaval()
        client, server = self.random.choice(self.clients), self.random.choice(self.servers)
        if client.imap is not None and self.random.random() < 0.5:
            client.do("NOOP")
            if 0 in client.uids:
                client.do(f"FETCH {client.uids.index(0) + 1}:* (UID FLAGS MODSEQ)")
        else:
            held = sorted(client.cache)
            knows = f" {held[0]}:{held[-1]}" if held and self.random.random() < 0.4 else ""
            seqs = sorted(self.random.sample(range(len(held)), min(len(held), 3)))
            pairs = ""
            if seqs and self.random.random() < 0.4:
                pairs = f" ({','.join(str(n + 1) for n in seqs)} {','.join(str(held[n]) for n in seqs)})"
            if self.random.random() < 0.3:
                drop_views(server)
            client.come_back(server, knows=knows, pairs=pairs)
        client.check(server)


@pytest.mark.rfc(7162, "3.2")
@pytest.mark.rfc(7162, "3.2.5")
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_who_comes_back_knows_everything(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed == 4:  # what large mailboxes do
        monkeypatch.setattr(qresync, "CHANGED_INLINE_MAX", 2)
        monkeypatch.setattr(qresync, "COMPARED_INLINE_MAX", 2)
        monkeypatch.setattr(condstore, "LOG_MAX_ROWS", 5)
    with Server(data_dir=tmp_path) as first:
        first.add_account("anna@example.org", "secret")
        with Server(data_dir=tmp_path) as second:
            walk = Walk(seed, [first, second])
            try:
                for _ in range(60):
                    walk.round()
            finally:
                walk.close()


@pytest.fixture
def returning(pochta: Server) -> Imap:
    """A session with QRESYNC and nothing selected; INBOX holds six messages, of which 2 is gone and 3 is flagged."""
    fill(pochta, 6)
    with Imap(pochta) as other:
        other.ok("UID STORE 2 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        other.ok("UID STORE 3 +FLAGS.SILENT (\\Flagged)")
    imap = Imap(pochta, mailbox=None)
    imap.ok("ENABLE QRESYNC")
    return imap


def _known(server: Server) -> tuple[int, int]:
    """(UIDVALIDITY, HIGHESTMODSEQ) of INBOX."""
    with Imap(server, mailbox=None) as imap:
        [line] = imap.ok("STATUS INBOX (UIDVALIDITY HIGHESTMODSEQ)")
    match = re.search(rb"UIDVALIDITY (\d+) HIGHESTMODSEQ (\d+)", line)
    assert match is not None
    return int(match[1]), int(match[2])


def _news(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if b"VANISHED" in line or b"FETCH (" in line]


@pytest.mark.rfc(7162, "3.2.5.1")
@pytest.mark.parametrize(
    ("known", "vanished"),
    [("", b"2"), (" 1:3", b"2"), (" 1,3:6", None), (" 2", b"2"), (" 1:4294967295", b"2"), (" 7:9", None)],
)
def test_known_uids_bound_what_is_told(pochta: Server, returning: Imap, known: str, vanished: bytes | None) -> None:
    uid_validity, _ = _known(pochta)
    with returning as imap:
        news = _news(imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} 1{known}))"))
    told = [line for line in news if b"VANISHED" in line]
    assert told == ([b"* VANISHED (EARLIER) " + vanished] if vanished else [])
    assert news[: len(told)] == told, "VANISHED comes before FETCH"
    asked = numbers(known.strip().encode() if known and "4294967295" not in known else b"1:6")
    there = {1: b"1", 3: b"2", 4: b"3", 5: b"4", 6: b"5"}
    shown = [(match[1], int(match[2])) for line in news if (match := _FETCH.fullmatch(line))]
    assert shown == [(there[uid], uid) for uid in asked if uid in there]


@pytest.mark.rfc(7162, "3.2.5")
def test_only_what_is_new_is_told(pochta: Server, returning: Imap) -> None:
    uid_validity, mod_seq = _known(pochta)
    with returning as imap:
        assert _news(imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} {mod_seq}))")) == []
        [line] = _news(imap.ok(f"EXAMINE INBOX (QRESYNC ({uid_validity} {mod_seq - 1}))"))
        assert line == b"* 2 FETCH (UID 3 FLAGS (\\Flagged) MODSEQ (%d))" % mod_seq
        assert _news(imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity + 1} 1))")) == []


@pytest.mark.rfc(7162, "3.2.6")
def test_without_a_log_all_that_is_not_there_has_vanished(pochta: Server, returning: Imap) -> None:
    cut_log(pochta)
    uid_validity, mod_seq = _known(pochta)
    with returning as imap:
        news = _news(imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} {mod_seq - 1}))"))
        assert news[0] == b"* VANISHED (EARLIER) 2"
        assert _news(imap.ok(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {mod_seq - 1} VANISHED)"))[0] == news[0]


@pytest.mark.rfc(7162, "3.2.5.2")
@pytest.mark.parametrize(
    ("pairs", "vanished"),
    [
        ("(1 1)", [b"* VANISHED (EARLIER) 2"]),
        ("(2 3)", []),
        ("(1,2:3 1,3:4)", []),
        ("(1:6 1:6)", [b"* VANISHED (EARLIER) 2"]),
        ("(6 6)", [b"* VANISHED (EARLIER) 2"]),
    ],
)
def test_pairs_that_hold_spare_what_is_before(
    pochta: Server, returning: Imap, pairs: str, vanished: list[bytes]
) -> None:
    uid_validity, _ = _known(pochta)
    with returning as imap:
        for cut in (False, True):
            if cut:
                cut_log(pochta)
            news = _news(imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} 1 1:6 {pairs}))"))
            assert [line for line in news if b"VANISHED" in line] == vanished


@pytest.mark.rfc(7162, "3.2.3")
@pytest.mark.parametrize(
    "command",
    [
        "SELECT INBOX (QRESYNC (1 1))",
        "EXAMINE INBOX (CONDSTORE QRESYNC (1 1))",
        "UID FETCH 1 (FLAGS) (CHANGEDSINCE 1 VANISHED)",
    ],
)
def test_without_enable_it_is_bad(pochta: Server, command: str) -> None:
    with Imap(pochta) as imap:
        imap.ok("ENABLE CONDSTORE")
        assert imap.do(command)[-1].startswith(b"BAD")
        assert imap.do("FETCH 1 (FLAGS)")[-1].startswith(b"BAD"), "the mailbox, an empty one, stays selected"


@pytest.mark.rfc(7162, "3.2.6")
@pytest.mark.parametrize(
    "command",
    ["FETCH 1 (FLAGS) (CHANGEDSINCE 1 VANISHED)", "UID FETCH 1 (FLAGS) (VANISHED)"],
)
def test_vanished_goes_with_uid_fetch_and_changedsince(returning: Imap, command: str) -> None:
    with returning as imap:
        imap.ok("SELECT INBOX")
        assert imap.do(command)[-1].startswith(b"BAD")


@pytest.mark.rfc(7162, "3.2.7")
@pytest.mark.rfc(7162, "3.2.9")
@pytest.mark.rfc(7162, "3.2.10.2")
def test_removals_are_told_by_uid_with_the_highest_mod_seq(returning: Imap) -> None:
    with returning as imap:
        imap.ok("SELECT INBOX")
        imap.ok("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
        *lines, last = imap.do("EXPUNGE")
        assert lines == [b"* VANISHED 1,3"]
        assert re.match(rb"OK \[HIGHESTMODSEQ \d+\]", last)
        *lines, last = imap.do("EXPUNGE")
        assert lines == []
        assert last.startswith(b"OK EXPUNGE")
        imap.ok("UID STORE 4:6 +FLAGS.SILENT (\\Deleted)")
        *lines, last = imap.do("UID EXPUNGE 4:5")
        assert lines == [b"* VANISHED 4:5"]
        assert re.match(rb"OK \[HIGHESTMODSEQ \d+\]", last)
        *lines, last = imap.do("UID MOVE 6 Junk")
        assert re.match(rb"\* OK \[COPYUID ", lines[0])
        assert lines[1:] == [b"* VANISHED 6"]
        assert re.match(rb"OK \[HIGHESTMODSEQ \d+\]", last)


@pytest.mark.rfc(7162, "3.2.10.2")
def test_removals_wait_for_a_command_that_permits_them(pochta: Server, returning: Imap) -> None:
    with returning as imap, Imap(pochta) as other:
        imap.ok("SELECT INBOX")
        _, before = _known(pochta)
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        for command in ("FETCH 2 (UID)", "STORE 2 +FLAGS (\\Seen)", "SEARCH ALL"):
            lines = imap.ok(command)
            assert not [line for line in lines if b"VANISHED" in line or b"EXPUNGE" in line]
            told = [int(match[1]) for line in lines if (match := _HIGHEST.match(line))]
            assert told == [before], command
        assert b"* VANISHED 1" in imap.ok("UID FETCH 3 (FLAGS)")


@pytest.mark.rfc(7162, "3.2.10.2")
def test_what_was_never_announced_does_not_vanish(pochta: Server, returning: Imap) -> None:
    with returning as imap, Imap(pochta) as other:
        imap.ok("SELECT INBOX")
        other.append(message(7))
        other.ok("UID STORE 7 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        assert imap.ok("NOOP") == []
        assert _news(imap.ok("UID FETCH 1:* (UID) (CHANGEDSINCE 1 VANISHED)"))[0] == b"* VANISHED (EARLIER) 2"


@pytest.mark.rfc(7162, "3.2.6")
def test_a_removal_seen_by_uid_fetch_is_told_once_as_of_now(pochta: Server, returning: Imap) -> None:
    with returning as imap, Imap(pochta) as other:
        imap.ok("SELECT INBOX")
        imap.ok("FETCH 1:* (UID)")
        other.ok("UID STORE 5 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        told = [line for line in imap.ok("UID FETCH 1:* (UID) (CHANGEDSINCE 1 VANISHED)") if b"VANISHED" in line]
        assert told[0] == b"* VANISHED 5"
        assert told[1:] == [b"* VANISHED (EARLIER) 2,5"]


@pytest.mark.rfc(7162, "3.2.8")
@pytest.mark.rfc(7162, "3.2.11")
def test_close_tells_nothing_and_select_closes(pochta: Server, returning: Imap) -> None:
    with returning as imap:
        imap.ok("SELECT INBOX")
        imap.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        assert imap.do("CLOSE")[-1].startswith(b"OK CLOSE")
        imap.ok("SELECT INBOX")
        assert imap.ok("SELECT Archive")[0].startswith(b"* OK [CLOSED]")


def test_many_removals_are_told_in_lines_of_bounded_length(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(message(1))
        while len(imap.ok("UID SEARCH ALL")[0].split()) < 2050:
            imap.ok("COPY 1:* INBOX")
        uids = imap.ok("UID SEARCH ALL")[0].split()[2:]
        imap.ok(f"UID STORE {b','.join(uids[::2][:6000]).decode()} +FLAGS.SILENT (\\Deleted)")
        uid_validity, mod_seq = _known(pochta)
        imap.ok("ENABLE QRESYNC")
        lines = [line for line in imap.ok("EXPUNGE") if b"VANISHED" in line]
        assert len(lines) > 1
        assert all(len(line) < 8192 for line in lines)
        gone = [uid for line in lines for uid in numbers(line.split()[-1])]
        assert gone == [int(uid) for uid in uids[::2][:6000]]
        told = [line for line in imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} {mod_seq}))") if b"VANISHED" in line]
        assert [uid for line in told for uid in numbers(line.split()[-1])] == gone
