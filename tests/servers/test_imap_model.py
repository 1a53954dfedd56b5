"""A random walk of sessions in two workers against a plain model: what each client believes after NOOP is the truth.

Two servers share one store, as two workers do, so that half of the news comes by datagram. A client keeps what it was
told the way a mail program does: EXPUNGE takes out a line, EXISTS adds lines, FETCH sets flags.
"""

import re
import smtplib
from pathlib import Path
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import Imap, message

from pochta.testing import Server

STEPS = 1000
BOXES = ("INBOX", "Archive")
FLAGS = ("\\Seen", "\\Flagged", "\\Deleted", "$Work", "$Later")
_FETCH = re.compile(rb"\* (\d+) FETCH \((?:UID \d+ )?FLAGS \(([^)]*)\)\)")


class Truth:
    """The mailboxes as they must be: uid to flags."""

    def __init__(self) -> None:
        self.boxes: dict[str, dict[int, set[str]]] = {box: {} for box in BOXES}
        self.uid_next = dict.fromkeys(BOXES, 1)

    def add(self, box: str, flags: set[str]) -> None:
        self.boxes[box][self.uid_next[box]] = set(flags)
        self.uid_next[box] += 1


class Client(Imap):
    """A session that believes what it is told; `seen` is None for a line whose flags it does not know."""

    def select(self, box: str) -> None:
        self.box = box
        lines = self.ok(f"SELECT {box}")
        count = next(int(line.split()[1]) for line in lines if line.endswith(b" EXISTS"))
        self.known: list[set[str] | None] = [None] * count
        self.uids: list[int] = [0] * count  # 0: not asked yet
        self.hear(self.ok("FETCH 1:* FLAGS") if count else [])

    def hear(self, lines: list[bytes], *, may_expunge: bool = True) -> None:
        for line in lines:
            number, _, word = line[2:].partition(b" ")
            if word == b"EXPUNGE":
                assert may_expunge, lines
                del self.known[int(number) - 1], self.uids[int(number) - 1]
            elif word == b"EXISTS":
                assert int(number) >= len(self.known)
                self.known += [None] * (int(number) - len(self.known))
                self.uids += [0] * (int(number) - len(self.uids))
            elif match := _FETCH.fullmatch(line):
                self.known[int(match[1]) - 1] = set(match[2].decode().split()) - {"\\Recent"}


class Walk:
    """The walk of one seed."""

    def __init__(self, seed: int, servers: list[Server]) -> None:
        self.random = Random(seed)
        self.truth = Truth()
        self.servers = servers
        self.clients = [Client(servers[n % len(servers)], mailbox=None) for n in range(3)]
        self.told: list[str] = []
        for client in self.clients:
            client.select("INBOX")

    def step(self) -> None:
        action = self.random.choice(
            ["store"] * 5 + ["append", "deliver", "copy", "move", "expunge", "uid_expunge", "noop", "noop", "select",
             "search", "idle"]
        )  # fmt: skip
        client = self.random.choice(self.clients)
        self.told.append(f"{self.clients.index(client)} {action} {client.box}")
        getattr(self, action)(client)

    def uids(self, client: Client) -> list[int]:
        """Some uids that the client knows; some may be gone."""
        known = [uid for uid in client.uids if uid]
        return sorted(self.random.sample(known, min(len(known), self.random.randint(1, 4))))

    def store(self, client: Client) -> None:
        uids = self.uids(client)
        if not uids:
            return
        flags = set(self.random.sample(FLAGS, self.random.randint(0, 2)))
        mode, silent = self.random.choice(["", "+", "-"]), self.random.choice(["", ".SILENT"])
        box = self.truth.boxes[client.box]
        for uid in box.keys() & set(uids):
            box[uid] = flags if mode == "" else box[uid] | flags if mode == "+" else box[uid] - flags
            box[uid] = set(box[uid])
        shown = ",".join(map(str, uids))
        self.told[-1] += f" {shown} {mode}{silent} {flags}"
        client.hear(client.ok(f"UID STORE {shown} {mode}FLAGS{silent} ({' '.join(sorted(flags))})"))
        if silent:
            client.hear(client.ok(f"UID FETCH {shown} FLAGS"))  # what it believes of them without being told

    def append(self, client: Client) -> None:
        box, flags = self.random.choice(BOXES), set(self.random.sample(FLAGS, 1))
        client.hear(client.append(message(1), f"{box} ({' '.join(flags)})")[:-1])
        self.truth.add(box, flags)

    def deliver(self, client: Client) -> None:
        server = self.random.choice(self.servers)
        with smtplib.SMTP(server.host, server.smtp_port) as smtp:
            smtp.sendmail("b@example.net", ["anna@example.org"], message(2))
        self.truth.add("INBOX", set())

    def _transfer(self, client: Client, command: str) -> None:
        target = self.random.choice(BOXES if command == "COPY" else [box for box in BOXES if box != client.box])
        uids = self.uids(client)
        if not uids:
            return
        for uid in [uid for uid in uids if uid in self.truth.boxes[client.box]]:
            self.truth.add(target, self.truth.boxes[client.box][uid])
            if command == "MOVE":
                del self.truth.boxes[client.box][uid]
        client.hear(client.ok(f"UID {command} {','.join(map(str, uids))} {target}"))

    def copy(self, client: Client) -> None:
        self._transfer(client, "COPY")

    def move(self, client: Client) -> None:
        self._transfer(client, "MOVE")

    def expunge(self, client: Client) -> None:
        box = self.truth.boxes[client.box]
        for uid in [uid for uid, flags in box.items() if "\\Deleted" in flags]:
            del box[uid]
        client.hear(client.ok("EXPUNGE"))

    def uid_expunge(self, client: Client) -> None:
        uids = self.uids(client)
        if not uids:
            return
        box = self.truth.boxes[client.box]
        for uid in [uid for uid in uids if "\\Deleted" in box.get(uid, ())]:
            del box[uid]
        client.hear(client.ok(f"UID EXPUNGE {','.join(map(str, uids))}"))

    def select(self, client: Client) -> None:
        client.select(self.random.choice(BOXES))
        self.check(client)

    def search(self, client: Client) -> None:
        """By sequence number: what the client was not told of stays out of the way."""
        lines = client.ok("SEARCH DELETED")
        client.hear(lines, may_expunge=False)
        self.check(client)
        flag = self.random.choice(["SEEN", "FLAGGED", "DELETED"])
        found = {int(number) for number in client.ok(f"UID SEARCH {flag}")[0].split()[2:]}
        name = "\\" + flag.capitalize()
        assert found == {uid for uid, flags in self.truth.boxes[client.box].items() if name in flags}, self.told[-20:]

    def idle(self, client: Client) -> None:
        client.hear(client.done(client.idle()))
        self.compare(client)

    def noop(self, client: Client) -> None:
        self.check(client)

    def check(self, client: Client) -> None:
        client.hear(client.ok("NOOP"))
        self.compare(client)

    def compare(self, client: Client) -> None:
        truth = self.truth.boxes[client.box]
        assert len(client.known) == len(truth), self.told[-20:]
        for seq, (known, (uid, flags)) in enumerate(zip(client.known, sorted(truth.items()), strict=True), 1):
            assert known is None or known == flags, (seq, uid, self.told[-20:])
        answers = client.ok("FETCH 1:* (UID FLAGS)") if truth else []
        got = {}
        for line in answers:
            match = re.fullmatch(rb"\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\)\)", line)
            assert match is not None, line
            got[int(match[1])] = set(match[2].decode().split()) - {"\\Recent"}
        assert got == truth, self.told[-20:]
        client.known = [set(flags) for _, flags in sorted(truth.items())]
        client.uids = sorted(truth)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_clients_believe_is_true(seed: int, tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as first:
        first.add_account("anna@example.org", "secret")
        with Server(data_dir=tmp_path) as second:
            walk = Walk(seed, [first, second])
            try:
                for _ in range(STEPS // 2):
                    walk.step()
                for client in walk.clients:
                    walk.check(client)
            finally:
                for client in walk.clients:
                    client.close()


def test_two_workers_tell_each_other(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as first:
        first.add_account("anna@example.org", "secret")
        with Server(data_dir=tmp_path) as second, Imap(first) as here, Imap(second) as there:
            there.idle()
            assert here.append(message(1))[-1].startswith(b"OK")
            assert there.line() == b"* 1 EXISTS"
            assert there.line().endswith(b"RECENT")
            here.ok("STORE 1 +FLAGS.SILENT ($Fresh \\Deleted)")
            assert there.line() in (
                b"* 1 FETCH (FLAGS (\\Deleted $Fresh))",
                b"* 1 FETCH (FLAGS (\\Deleted \\Recent $Fresh))",
            )
            here.ok("EXPUNGE")
            assert there.line() == b"* 1 EXPUNGE"
