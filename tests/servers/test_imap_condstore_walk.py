"""A random walk of sessions that know mod-sequences, in two workers: what they were told holds.

Two promises are checked against the store after every step. Flags told beside a mod-sequence are the flags of that
mod-sequence. And a client that was told HIGHESTMODSEQ n knows every change and every removal up to n (INV-8).
"""

import re
from pathlib import Path
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import Imap, message

from pochta.store import flags, placements
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

STEPS = 350
NAMES = {"\\Seen": flags.SEEN, "\\Flagged": flags.FLAGGED, "\\Deleted": flags.DELETED, "$Work": 32, "$Later": 64}
EVERYTHING = ((1, 1 << 32),)
_FETCH = re.compile(rb"\* (\d+) FETCH \((.*)\)", re.DOTALL)
_HIGHEST = re.compile(rb"\* OK \[HIGHESTMODSEQ (\d+)\]|OK \[HIGHESTMODSEQ (\d+)\]")


def _inbox(tx: Tx) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
    row = tx.row("SELECT account_id, id FROM mailbox WHERE role = 'inbox'")
    assert row is not None
    gone = tx.rows("SELECT uid, mod_seq FROM removed WHERE account_id = ? AND mailbox_id = ?", row)
    return placements.mod_seqs_of(tx, row[0], row[1], EVERYTHING), dict(gone)


class Truth:
    """What the store holds now."""

    def __init__(self, server: Server) -> None:
        async def read(store: Store) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
            return await store.read(0, _inbox)

        rows, self.removed = server.run(read)
        self.rows = {uid: (bits, mod_seq) for uid, bits, mod_seq in rows}


class Client:
    """A session and what it believes: uids in order, flags and mod-sequence of those it has heard of."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.imap = Imap(server, mailbox=None)
        self.believed: dict[int, tuple[int, int]] = {}
        self.uids: list[int] = []
        self.known = 0  # the highest it was told
        self.told: list[str] = []
        self.do("SELECT INBOX (CONDSTORE)")

    def do(self, command: str, *, silent: tuple[str, int] | None = None, data: bytes = b"") -> bytes:
        """Say it, and take in the answer; `silent`: the mode and flags of a STORE that asked for silence."""
        self.told = [*self.told[-15:], command]
        lines = self.imap.append(data) if data else self.imap.do(command)
        for line in lines:
            self.told.append(line.decode())
            self._hear(line, silent)
        if lines[-1].startswith(b"OK") and 0 in self.uids:
            first = self.uids.index(0) + 1
            self.do(f"FETCH {first}:* (UID FLAGS MODSEQ)")
        return lines[-1]

    def _hear(self, line: bytes, silent: tuple[str, int] | None) -> None:
        if match := _HIGHEST.match(line):
            self.check_highest(int(match[1] or match[2]))
        elif match := _FETCH.fullmatch(line):
            self._hear_fetch(int(match[1]), match[2], silent)
        elif line.endswith(b" EXPUNGE"):
            uid = self.uids.pop(int(line.split()[1]) - 1)
            self.believed.pop(uid, None)
        elif line.endswith(b" EXISTS"):
            self.uids += [0] * (int(line.split()[1]) - len(self.uids))

    def _hear_fetch(self, seq: int, items: bytes, silent: tuple[str, int] | None) -> None:
        if match := re.search(rb"UID (\d+)", items):
            assert self.uids[seq - 1] in (0, int(match[1])), self.told
            self.uids[seq - 1] = int(match[1])
        uid = self.uids[seq - 1]
        number = re.search(rb"MODSEQ \((\d+)\)", items)
        shown = re.search(rb"FLAGS \(([^)]*)\)", items)
        assert number is not None, self.told
        if shown is not None:
            bits = sum(NAMES[name] for name in shown[1].decode().split() if name != "\\Recent")
        else:
            bits = self.believed[uid][0]
            if silent is not None:
                mode, named = silent
                bits = bits | named if mode == "+" else bits & ~named if mode == "-" else named
        self.believed[uid] = (bits, int(number[1]))

    def check(self) -> None:
        """Flags that were told with a mod-sequence are those of that mod-sequence."""
        truth = Truth(self.server).rows
        for uid, (bits, mod_seq) in self.believed.items():
            if uid in truth:
                assert mod_seq <= truth[uid][1], (uid, self.told)
                assert mod_seq != truth[uid][1] or bits == truth[uid][0], (uid, self.told)

    def check_highest(self, highest: int) -> None:
        """Nothing up to that number is unknown to the client."""
        assert highest >= self.known, self.told
        self.known = highest
        truth = Truth(self.server)
        for uid in self.uids:
            assert truth.removed.get(uid, highest + 1) > highest, (uid, highest, self.told)
        for uid, (bits, _) in self.believed.items():
            if uid in truth.rows and truth.rows[uid][1] <= highest:
                assert bits == truth.rows[uid][0], (uid, highest, self.told)
        for uid, (_, mod_seq) in truth.rows.items():
            assert mod_seq > highest or uid in self.uids or 0 in self.uids, (uid, highest, self.told)


class Walk:
    """The walk of one seed."""

    def __init__(self, seed: int, servers: list[Server]) -> None:
        self.random = Random(seed)
        self.server = servers[0]
        self.clients = [Client(servers[n % len(servers)]) for n in range(3)]

    def step(self) -> None:
        client = self.random.choice(self.clients)
        action = self.random.choice(
            ["store"] * 6 + ["append", "append", "expunge", "noop", "fetch", "changed", "search", "status", "select"]
        )
        getattr(self, action)(client)
        client.check()

    def store(self, client: Client) -> None:
        seqs = [seq for seq, uid in enumerate(client.uids, 1) if uid in client.believed]
        if not seqs:
            return
        chosen = self.random.sample(seqs, min(len(seqs), self.random.randint(1, 3)))
        is_uid = self.random.random() < 0.5
        numbers = ",".join(str(client.uids[seq - 1] if is_uid else seq) for seq in chosen)
        names = self.random.sample(list(NAMES), self.random.randint(0, 2))
        mode, quiet = self.random.choice(["", "+", "-"]), self.random.choice(["", ".SILENT"])
        named = sum(NAMES[name] for name in names)
        since = self.random.choice([None, None, min(client.believed[client.uids[seq - 1]][1] for seq in chosen)])
        modifier = "" if since is None else f"(UNCHANGEDSINCE {since}) "
        command = f"{'UID ' if is_uid else ''}STORE {numbers} {modifier}{mode}FLAGS{quiet} ({' '.join(names)})"
        before = Truth(self.server).rows
        changed = {uid for uid in (client.uids[seq - 1] for seq in chosen) if uid in before}
        uids = {seq: client.uids[seq - 1] for seq in chosen}
        answer = client.do(command, silent=(mode, named) if quiet else None)
        after = Truth(self.server).rows
        failed = {uid for uid in changed if since is not None and before[uid][1] > since}
        for uid in changed:
            old = before[uid][0]
            new = old | named if mode == "+" else old & ~named if mode == "-" else named
            assert after[uid][0] == (old if uid in failed else new), client.told
            assert (after[uid][1] > before[uid][1]) == (after[uid][0] != old), client.told
        told = re.match(rb"\w+ \[MODIFIED ([\d,:]+)\]", answer)
        assert (told is not None) == bool(failed), (failed, client.told)
        if told is not None:
            pairs = [part.partition(b":") for part in told[1].split(b",")]
            numbers_told = {n for first, _, last in pairs for n in range(int(first), int(last or first) + 1)}
            assert {n if is_uid else uids[n] for n in numbers_told} == failed, client.told

    def append(self, client: Client) -> None:
        client.do("APPEND", data=message(1))

    def expunge(self, client: Client) -> None:
        client.do(self.random.choice(["EXPUNGE", "MOVE 1 Archive" if client.uids else "EXPUNGE"]))

    def noop(self, client: Client) -> None:
        client.do("NOOP")
        truth = Truth(self.server).rows
        assert client.uids == list(truth), client.told
        assert {uid: bits for uid, (bits, _) in client.believed.items()} == {
            uid: bits for uid, (bits, _) in truth.items()
        }, client.told

    def fetch(self, client: Client) -> None:
        if client.uids:
            seq = self.random.randint(1, len(client.uids))
            client.do(f"FETCH {seq} ({self.random.choice(['MODSEQ', 'UID FLAGS MODSEQ', 'MODSEQ BODY[TEXT]'])})")

    def changed(self, client: Client) -> None:
        """Somebody who knows all up to a number learns the rest by CHANGEDSINCE."""
        client.do(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {client.known})")

    def search(self, client: Client) -> None:
        client.do(f"{self.random.choice(['', 'UID '])}SEARCH MODSEQ {client.known}")

    def status(self, client: Client) -> None:
        client.do("STATUS INBOX (HIGHESTMODSEQ)")

    def select(self, client: Client) -> None:
        known = dict(client.believed)
        client.uids, client.believed, since = [], {}, client.known
        client.do("SELECT INBOX")
        # what a client that was away keeps, and what it asks for when it comes back
        client.believed = {uid: known.get(uid, seen) for uid, seen in client.believed.items()}
        client.do(f"UID FETCH 1:* FLAGS (CHANGEDSINCE {since})")
        truth = Truth(self.server).rows
        for uid, (bits, _) in client.believed.items():
            assert uid not in truth or bits == truth[uid][0], (uid, since, client.told)


@pytest.mark.rfc(7162, "3.2")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_was_told_holds(seed: int, tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as first:
        first.add_account("anna@example.org", "secret")
        with Imap(first) as imap:
            imap.ok("APPEND INBOX ($Work $Later) {12+}\r\nA: b\r\n\r\ncd\r\n")  # the keywords' bits
        with Server(data_dir=tmp_path) as second:
            walk = Walk(seed, [first, second])
            try:
                for _ in range(STEPS):
                    walk.step()
            finally:
                for client in walk.clients:
                    client.imap.close()
