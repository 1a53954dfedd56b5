"""kill -9 under load: nothing that was answered is lost, nothing stands twice, no number goes back (INV-1, 2, 3).

Each round brings 20 connections to the last bytes of a command, lets them go together, and kills a worker, or the
supervisor with all workers, while at least IN_FLIGHT messages stand between their end of data and the reply. Those are
counted afterwards: a connection of the killed process without a reply had its message in flight at the kill. A kill
that came too late for that is not counted; too many of those fail the test.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import pytest
from crash_ledger import Ledger, look, look_into
from crash_peers import Effect, ImapPeer, Peer, SmtpPeer
from crash_server import ServerProcess, inodes_by_peer_port, sockets_of, wait_until

from pochta.store import check
from pochta.store.invariants import Severity
from pochta.store.sqlite import DATABASE_NAME

ACCOUNTS = ("anna", "bert", "cleo")
SMTP_PEERS, IMAP_PEERS = 14, 6
IN_FLIGHT = 5
MARGIN = 3  # messages that may be answered between our look and the kill
ROUNDS_BETWEEN_MAX = 3
LATEST_KILL_S = 0.012  # after the last end of data: two commits of a slow disk


@contextmanager
def _held(pid: int) -> Iterator[None]:
    """This worker does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Load:
    """The connections, and what they promised since the ledger was last settled."""

    def __init__(self, server: ServerProcess, random: Random) -> None:
        self.server = server
        self.random = random
        self.ledger = Ledger()
        self.smtp = [SmtpPeer() for _ in range(SMTP_PEERS)]
        self.imap = [ImapPeer(ACCOUNTS[n % len(ACCOUNTS)]) for n in range(IMAP_PEERS)]
        self.peers: list[Peer] = [*self.smtp, *self.imap]
        self.done: list[Effect] = []
        self.open: list[Effect] = []
        self.in_flight_at_kills: list[int] = []
        self._subjects = 0
        self._taken: set[tuple[str, str]] = set()

    def close(self) -> None:
        for peer in self.peers:
            peer.close()

    def new_subject(self) -> str:
        self._subjects += 1
        return f"m{self._subjects:06}"

    def connect(self) -> None:
        """Every peer is connected; each worker serves several that bring messages."""
        workers = self.server.wait_for_workers()
        _poll(self.peers)
        for peer in self.peers:
            if peer.wire is None or peer.wire.is_lost:  # lost: it was answered, and its worker was killed after that
                peer.connect(peer.address(self.server.smtp, self.server.imap))
                peer.worker = 0
        for _ in range(200):
            self._find_workers(workers)
            shares = {pid: sum(peer.worker == pid for peer in self.smtp) for pid in workers}
            rich = max(workers, key=lambda pid: shares[pid])
            if min(shares.values()) >= IN_FLIGHT + 1:
                return
            peer = next(peer for peer in self.smtp if peer.worker == rich)
            # on a busy machine the worker that runs already is always the first to accept
            with _held(rich):
                peer.connect(self.server.smtp)
            peer.worker = 0
        raise AssertionError(f"one worker takes all connections: {shares}")

    def _find_workers(self, workers: Sequence[int]) -> None:
        # for each port of ours alone: the kernel gives one port of the peer's to connections to both
        smtp, imap = inodes_by_peer_port(self.server.smtp[1]), inodes_by_peer_port(self.server.imap[1])
        owners = {inode: pid for pid in workers for inode in sockets_of(pid)}
        for peer in self.peers:
            assert peer.wire is not None
            inodes = imap if isinstance(peer, ImapPeer) else smtp
            peer.worker = owners[inodes[peer.wire.port]]

    def prepare(self) -> None:
        """Each peer has sent all but the last bytes of its next step."""
        random = self.random
        for peer in self.peers:
            peer.is_sent = False
        for smtp in self.smtp:
            accounts = random.sample(ACCOUNTS, random.choice((1, 1, 1, 2, 3)))
            smtp.prepare(self.new_subject(), accounts)
        for imap in self.imap:
            self._prepare_imap(imap)

    def _prepare_imap(self, peer: ImapPeer) -> None:
        """One change a message until the ledger is settled, so that what an open one did can be told from others."""
        random = self.random
        rows = self.ledger.seen.rows.get((peer.account, "INBOX"), {})
        uids = [uid for uid, (subject, _) in rows.items() if (peer.account, subject) not in self._taken]
        kind = random.choice(("append", "store", "store", "copy", "move", "expunge"))
        if kind == "append" or not uids:
            peer.prepare_append(self.new_subject(), random.choice(("INBOX", "Archive")))
            return
        uid = random.choice(uids)
        subject, flags = rows[uid]
        self._taken.add((peer.account, subject))
        if kind == "store":
            names = ("\\Seen", "\\Answered", "\\Flagged", "\\Draft")
            peer.prepare_store(uid, frozenset(random.sample(names, random.randrange(5))))
        elif kind == "copy":
            peer.prepare_copy(uid, subject, "Archive")
        elif kind == "expunge":
            peer.prepare_expunge(uid, subject, flags)
        else:
            peer.prepare_move(uid, subject, "Archive")

    def fire(self, victims: Sequence[int], *, is_hasty: bool = False) -> bool:
        """Let all go and wait for the moment of the kill; whether enough messages of the victims are in flight then.

        `is_hasty`: the victims' messages go last, and the moment is at once.
        """
        random = self.random
        mine = [peer for peer in self.peers if peer.worker in victims]
        order = random.sample(self.peers, len(self.peers))
        for peer in sorted(order, key=lambda peer: is_hasty and peer in mine and peer.effect.is_message):
            peer.fire()
        kind = 0 if is_hasty else random.randrange(3)
        until = time.monotonic() + (random.uniform(0, LATEST_KILL_S) if kind == 1 else 0)
        while kind and time.monotonic() < until:
            _poll(self.peers)
        if kind == 2:
            wanted = random.randint(1, 4)  # answers that come first
            wait_until(lambda: _answers(self.peers) >= wanted, "nobody was answered", poll_s=0.0002)
        _poll(mine)
        return sum(peer.is_in_flight for peer in mine) >= IN_FLIGHT + MARGIN

    def collect(self, victims: Sequence[int]) -> int:
        """Read every answer that still comes; how many messages of the victims had none."""
        missed = 0
        for peer in self.peers:
            status = peer.answer()
            if status is None:
                assert peer.worker in victims
                self.open.append(peer.effect)
                missed += peer.effect.is_message
            else:
                assert status in (b"250", b"OK"), (peer.effect, status)
                self.done.append(peer.effect)
        return missed

    def settle(self) -> None:
        """Everything promised is there, by IMAP and in the store."""
        found = look(self.server.imap, ACCOUNTS, self.ledger.seen)
        self.ledger.settle(found, look_into(self.server.data_dir), self.done, self.open)
        self.done, self.open = [], []
        self._taken.clear()


def _poll(peers: Sequence[Peer]) -> None:
    for peer in peers:
        if peer.wire is not None:
            peer.wire.poll()


def _answers(peers: Sequence[Peer]) -> int:
    _poll(peers)
    return sum(peer.reply.search(peer.wire.received) is not None for peer in peers if peer.wire is not None)


def errors_of(data_dir: Path) -> list[str]:
    return [str(one) for one in check.check(data_dir) if one.severity is Severity.ERROR]


def check_copy(data_dir: Path, to: Path) -> None:
    """`check` on a copy, as it would recover the log itself and so take that from the server's next start."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, to / name)
    (to / "blobs").symlink_to(data_dir / "blobs")
    assert errors_of(to) == []


def run(folder: Path, *, seed: int, kills: int) -> Load:
    """`kills` kills that count, every third one of the whole group."""
    with ServerProcess(folder / "server", ACCOUNTS) as server:
        server.start()
        load = Load(server, Random(seed))
        rounds = 0
        is_late = False  # the last round was over before it could be killed: this disk is quick
        while len(load.in_flight_at_kills) < kills:
            rounds += 1
            assert rounds <= 3 * kills + 10, load.in_flight_at_kills
            load.connect()
            for _ in range(load.random.randrange(ROUNDS_BETWEEN_MAX + 1)):
                load.prepare()
                load.fire([])
                assert load.collect([]) == 0
            load.prepare()
            workers = server.worker_pids()
            is_group = len(load.in_flight_at_kills) % 3 == 2
            victims = workers if is_group else [load.random.choice(workers)]
            is_late = not load.fire(victims, is_hasty=is_late)
            if not is_late:
                kill(server, victims, is_group=is_group)
                in_flight = load.collect(victims)
                if in_flight >= IN_FLIGHT:
                    load.in_flight_at_kills.append(in_flight)
                after_kill(server, folder / "copy", is_group=is_group)
            else:
                assert load.collect([]) == 0
            load.settle()
        load.close()
        server.stop()
    assert errors_of(server.data_dir) == []
    return load


def kill(server: ServerProcess, victims: Sequence[int], *, is_group: bool) -> None:
    if is_group:
        server.kill_all()
    else:
        server.kill_worker(victims[0])
        wait_until(lambda: victims[0] not in server.worker_pids(), "the supervisor does not notice a death")


def after_kill(server: ServerProcess, copy: Path, *, is_group: bool) -> None:
    if not is_group:
        assert errors_of(server.data_dir) == []
        return
    check_copy(server.data_dir, copy)
    before = look_into(copy)
    server.start()
    after = look_into(server.data_dir)
    assert after.rows == before.rows
    assert after.floor > max(before.mod_seq.values())  # INV-3


def assert_worth(load: Load) -> None:
    """The run has shown what it is there for: kills amid deliveries, and deliveries that went well."""
    assert min(load.in_flight_at_kills) >= IN_FLIGHT
    assert load.ledger.answered >= len(load.in_flight_at_kills) * IN_FLIGHT


def test_nothing_is_lost_when_workers_are_killed(tmp_path: Path) -> None:
    assert_worth(run(tmp_path, seed=20261123, kills=30))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_in_a_long_run(tmp_path: Path, seed: int) -> None:
    assert_worth(run(tmp_path, seed=seed, kills=150))
