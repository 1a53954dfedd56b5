"""The process that runs the queue is killed amid transactions: nothing is lost, and what is sent twice is counted.

The one way to a duplicate: the next server has said 250, and the process dies before the settling is durable. At each
kill every earlier delivery is settled, at least five transactions are open, and some of those have had their 250 at the
last moment; only these may come again, and exactly those come again whose rows were still there.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import pytest
from crash_server import DOMAIN, make_store, wait_until
from crash_sink import Delivery, Sink

from pochta import config, transfer
from pochta.config import Listener, ListenerProtocol
from pochta.delivery import record
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Envelope, Origin, Target
from pochta.store import check, shares, sqlite
from pochta.store.invariants import Severity
from pochta.store.store import Store

SENDERS = ("anna", "bert", "cleo")
OPEN = 5
CONNECTIONS = 10
PER_KILL = 14  # messages that a kill uses up at the most: those that flow before it, and those released at it
LATEST_KILL_S = 0.03  # after the last 250: the durable commit, on a slow disk

WORKER = Path(__file__).with_name("crash_queue_worker.py")


@dataclass
class Run:
    """What was done, and what came of it."""

    open_at_kills: list[int] = field(default_factory=list)
    released: int = 0
    settled: set[Delivery] = field(default_factory=set)
    in_window: Counter[Delivery] = field(default_factory=Counter)


class Victim:
    """One worker after the other over one store."""

    def __init__(self, folder: Path, port: int) -> None:
        self.data_dir = folder / "data"
        make_store(self.data_dir, SENDERS)
        self.settings_path = folder / "pochta.toml"
        listener = Listener(protocol=ListenerProtocol.SMTP, address="127.0.0.1:0")
        text = config.initial_toml(f"mx.{DOMAIN}", listeners=(listener,), workers=1)
        text += "\n[limits]\nmin_free_bytes = 0\n[queue]\nconnections_per_destination = 1\n"
        for n in range(CONNECTIONS):
            text += f'[[route]]\nname = "sink{n}"\nrecipients = ["d{n}.test"]\nhosts = ["[127.0.0.1]:{port}"]\n'
        self.settings_path.write_text(text)
        self.settings = config.load(self.settings_path)
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(self.settings_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )
        self.reader = sqlite.connect(self.data_dir / sqlite.DATABASE_NAME)

    def close(self) -> None:
        self.reader.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.log.close()

    def start(self) -> int:
        """A new worker; its pid."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # the dead holder's lease would end by itself after half a minute
        self.reader.execute("UPDATE lease SET expires_at = 0 WHERE name = ?", (shares.LEASE,))
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self, pid: int) -> None:
        assert self.process.stdout is not None
        os.kill(pid, signal.SIGKILL)
        assert self.process.stdout.readline() == b"\n"

    def waiting(self) -> set[Delivery]:
        """Whoever has a row in the queue."""
        rows = self.reader.execute(
            "SELECT t.message_id, r.address FROM outgoing_recipient r JOIN outgoing o ON o.id = r.outgoing_id"
            " JOIN trail t ON t.id = o.trail_id"
        )
        return {(str(message_id), str(address)) for message_id, address in rows}

    def fill(self, count: int, random: Random) -> set[Delivery]:
        """Put so many messages into the queue; every recipient of them."""
        return asyncio.run(self._fill(count, random))

    async def _fill(self, count: int, random: Random) -> set[Delivery]:
        store = Store(self.data_dir)
        store.start(hears_hints=False)
        intake = Intake(store.blobs, memory_limit_bytes=1 << 20)
        submitter = await transfer.submitter_of(self.settings, store, transfer.routes_of(self.settings))
        made: set[Delivery] = set()
        for n in range(count):
            sender = f"{random.choice(SENDERS)}@{DOMAIN}"
            recipients = [f"r{k}@d{n % CONNECTIONS}.test" for k in range(random.choice((1, 1, 1, 3)))]
            incoming = intake.open()
            size = 90_000 if random.random() < 0.05 else random.randrange(100, 3000)
            incoming.write(f"From: <{sender}>\r\nMessage-ID: <m{n}@{DOMAIN}>\r\n\r\n".encode())
            incoming.write(b"0123456789abcde\r\n" * (size // 17))
            new = await incoming.finish(1_750_000_000)
            trail = record.trail_of(
                f"m{n}", message_id=incoming.message_id, sender=sender, recipients=recipients, facts={}
            )
            envelope = Envelope(origin=Origin.COMMAND, reverse_path=sender, may_bounce=True)
            targets = [Target(one, remotes=(one,)) for one in recipients]
            await submitter.submit(envelope, targets, new, trail)
            made.update((incoming.message_id, one) for one in recipients)
        await store.close()
        return made


def run(folder: Path, *, seed: int, kills: int) -> None:
    random = Random(seed)
    done = Run()
    with Sink(random) as sink:
        victim = Victim(folder, sink.port)
        try:
            made = victim.fill(kills * PER_KILL + 30 * CONNECTIONS, random)
            for _ in range(kills):
                kill_once(victim, sink, random, done)
            sink.call(lambda: setattr(sink, "stalls", False))
            pid = victim.start()
            wait_until(lambda: not victim.waiting(), "not everything is delivered")
            victim.kill(pid)
        finally:
            victim.close()
    errors = [one for one in check.check(victim.data_dir) if one.severity is Severity.ERROR]
    assert errors == []
    assert set(sink.accepted) == made  # nothing is lost, nothing is made up
    twice = Counter({one: count - 1 for one, count in sink.accepted.items() if count > 1})
    print(  # noqa: T201 - the figure that this test is there for
        f"{kills} kills, {min(done.open_at_kills)} to {max(done.open_at_kills)} transactions open at each;"
        f" {len(made)} deliveries, {done.released} answered at the last moment, {twice.total()} of them made twice"
    )
    assert twice == done.in_window
    assert twice.total() <= done.released
    assert min(done.open_at_kills) >= OPEN


def kill_once(victim: Victim, sink: Sink, random: Random, done: Run) -> None:
    earlier = sink.accepted.copy()
    pid = victim.start()
    wait_until(lambda: len(sink.stalled()) == CONNECTIONS, "not all connections have come", poll_s=0.001)
    flow(sink, random)
    before = sink.accepted.copy()
    done.settled.update(before - earlier)
    wait_until(lambda: victim.waiting().isdisjoint(done.settled), "what was taken is not settled", poll_s=0.001)
    wait_until(lambda: len(sink.stalled()) == CONNECTIONS, "a connection hangs", poll_s=0.001)
    at_end = sink.stalled("end")
    last = random.sample(at_end, random.randint(0, min(len(at_end), CONNECTIONS - OPEN)))
    sink.release(last)
    if random.random() < 0.6:
        threading.Event().wait(random.uniform(0, LATEST_KILL_S))
    os.kill(pid, signal.SIGSTOP)  # so that what is counted is what is killed
    done.open_at_kills.append(sink.open_transactions())
    victim.kill(pid)
    wait_until(lambda: not sink.connections, "a connection of the dead is open", poll_s=0.001)
    fresh, waiting = set(sink.accepted - before), victim.waiting()
    done.released += len(fresh)
    done.in_window.update(fresh & waiting)
    done.settled |= fresh - waiting
    assert waiting.isdisjoint(done.settled)  # what is settled stays so


def flow(sink: Sink, random: Random) -> None:
    """Some go on in peace, so that kills come at any place of a connection's life."""
    for _ in range(random.randrange(3)):
        some = random.sample(sink.stalled(), random.randrange(4))
        sink.release(some)
        wait_until(lambda: len(sink.stalled()) == CONNECTIONS, "a connection hangs", poll_s=0.001)


def test_nothing_is_lost_when_the_runner_is_killed(tmp_path: Path) -> None:
    run(tmp_path, seed=20261124, kills=30)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_in_a_long_run_of_the_queue(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed=seed, kills=150)
