"""`queue`: queued messages sent to one sink, beside Postfix, which sends as many to the same one.

Both have twenty recipient domains, each with its own next hop (an address of loopback; the sink listens on all) by a
table of routes, so that DNS plays no role; both have their own defaults of concurrency and fsync, and log into a file;
nobody signs. The queue is full before the clock runs: ours holds rows that become due at a certain second, and
Postfix' messages are held, then moved to where new ones come in. The clock stops when the queue is empty.
"""

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import apsw

from measure import postfix, processes, sink
from measure.figures import Figure
from measure.postfix import Postfix
from measure.server import BenchServer
from measure.wire import sample_message
from pochta.delivery import record
from pochta.delivery.intake import new_message
from pochta.mime.facts import facts
from pochta.store import blobs, outbox, sqlite, trails
from pochta.store.blobs import NewBlob
from pochta.store.outbox import NewOutgoing, NewRecipient

DOMAINS = 20
ACCOUNTS = 50
GOAL_RATE = 2.0
GOAL_CPU = 0.5
SETTLE_S = 8.0  # between the start of the server and the second in which all becomes due: it has the lease by then
LONG_S = 600.0
ASK_EVERY_S = 0.01
DUE_SPAN_S = 86_400  # what is due later than that is there to wait (`queue-waiting`)

_IS_BUSY = (
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM destination WHERE next_at <= ?)"
    " OR EXISTS (SELECT 1 FROM outgoing_recipient WHERE state = 1)"
)
_LEFT = "SELECT count(*), min(last_reply) FROM outgoing_recipient WHERE next_at < ?"


class Sent(NamedTuple):
    """One run."""

    rate: float
    cpu_us: float


def queue(*, messages: int, size: int, repeats: int) -> list[Figure]:
    """The median of the runs, ours and Postfix' in turn."""
    if not sink.is_there():
        raise SystemExit("queue: smtp-sink is missing; it comes with Postfix")
    ours: list[Sent] = []
    theirs: list[Sent] = []
    with sink.sink() as port:
        hops = {f"d{n}.test": f"[127.0.1.{n + 1}]:{port}" for n in range(DOMAINS)}
        for _ in range(repeats):
            ours.append(_ours(hops, messages, size))
            if postfix.is_there():
                theirs.append(_theirs(hops, messages, size))
    rate, cpu = _middle(ours)
    detail: dict[str, object] = {"server_cpu_us": round(cpu), **_runs("", ours), "messages": messages, "bytes": size}
    figures = [Figure("queue", rate, "messages/s", detail=detail)]
    if theirs:
        their_rate, their_cpu = _middle(theirs)
        detail = {"postfix": f"{their_rate:.0f}/s", "postfix_cpu_us": round(their_cpu), **_runs("postfix_", theirs)}
        figures.append(Figure("queue, rate", rate / their_rate, "of Postfix'", GOAL_RATE, False, detail))
        figures.append(Figure("queue, CPU a message", cpu / their_cpu, "of Postfix'", GOAL_CPU, True, detail))
    return figures


def _middle(runs: list[Sent]) -> Sent:
    return Sent(median(one.rate for one in runs), median(one.cpu_us for one in runs))


def _runs(prefix: str, runs: list[Sent]) -> dict[str, object]:
    return {
        f"{prefix}runs": "/".join(f"{one.rate:.0f}" for one in runs),
        f"{prefix}cpu_runs": "/".join(f"{one.cpu_us:.0f}" for one in runs),
    }


def _ours(hops: dict[str, str], messages: int, size: int) -> Sent:
    with BenchServer(tables=tables(hops)) as server:
        fill(server.data_dir, list(hops), messages, sample_message(size))
        due_at = int(time.time() + SETTLE_S)
        make_due(server.data_dir, due_at)
        server.start()
        return measure(server, messages, due_at)


def tables(hops: dict[str, str]) -> str:
    """The settings that send each domain's mail to its hop."""
    lines = ["[checks]", "enabled = false", "[outbound]", "loopback = true"]
    for domain, hop in hops.items():
        lines += [
            "[[route]]",
            f'name = "{domain.partition(".")[0]}"',
            f'recipients = ["{domain}"]',
            f'hosts = ["{hop}"]',
        ]
    return "\n".join(lines) + "\n"


def measure(server: BenchServer, messages: int, due_at: int) -> Sent:
    """Wait until all that is due at `due_at` is gone."""
    connection = sqlite.connect(server.data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        time.sleep(max(0.0, due_at - time.time() - 0.2))
        cpu = processes.cpu_s(server.pid)
        began = float(due_at)
        while connection.execute(_IS_BUSY, (due_at,)).fetchone():
            time.sleep(ASK_EVERY_S)
            if time.time() - began > LONG_S:
                raise RuntimeError("the queue does not become empty")
        ended = time.time()
        before = due_at + DUE_SPAN_S
        for left, reply in connection.execute(_LEFT, (before,)):
            if left:
                raise RuntimeError(f"{left} messages were not taken: {reply}")
        return Sent(messages / (ended - began), (processes.cpu_s(server.pid) - cpu) / messages * 1e6)
    finally:
        connection.close()


def fill(data_dir: Path, domains: list[str], messages: int, message: bytes) -> None:
    """Queue so many, from fifty accounts, in turn to each domain; each has bytes, a row and a trail of its own."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    now = int(time.time())
    new = new_message(NewBlob(len(message), message, None), facts(message), now)
    tx = sqlite.SqliteTx(connection, 0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for n in range(messages):
            sender, recipient = f"u{n % ACCOUNTS}@bench.test", f"someone{n}@{domains[n % len(domains)]}"
            trail = record.trail_of(
                f"{n:x}",
                message_id=f"{n:x}.bench@bench.test",
                sender=sender,
                recipients=[recipient],
                facts={"role": "submission"},
            )
            outbox.enqueue(
                tx,
                outgoing(n % ACCOUNTS + 1, sender, recipient, not_before=now),
                blob_id=blobs.insert(tx, new.blob, now),
                trail_id=trails.add(tx, trail, now),
                size=len(message),
                header_size=new.header_size,
                now=now,
            )
        connection.execute("COMMIT")
    finally:
        connection.close()


def outgoing(account_id: int, sender: str, recipient: str, *, not_before: int) -> NewOutgoing:
    """One message to one recipient, routed by its domain."""
    domain = recipient.rpartition("@")[2]
    return NewOutgoing(
        account_id=account_id,
        origin="submission",
        reverse_path=sender,
        report_to=sender,
        envelope_id=None,
        returns=None,
        body="8bit",
        is_smtputf8=False,
        requires_tls=False,
        may_bounce=True,
        priority=0,
        deliver_by_at=None,
        deliver_by_mode=None,
        not_before=not_before,
        recipients=(NewRecipient(f"route:{domain.partition('.')[0]}", recipient),),
    )


def make_due(data_dir: Path, at: int) -> None:
    """What `fill` has queued is due at that second; the server is stopped."""
    connection: apsw.Connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    try:
        connection.execute("BEGIN IMMEDIATE")
        before = at + DUE_SPAN_S
        connection.execute("UPDATE outgoing SET created_at = ? WHERE created_at < ?", (at, before))
        connection.execute("UPDATE outgoing_recipient SET next_at = ? WHERE next_at < ?", (at, before))
        connection.execute("UPDATE destination SET next_at = ? WHERE next_at < ?", (at, before))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _theirs(hops: dict[str, str], messages: int, size: int) -> Sent:
    with Postfix(hops) as peer:
        peer.fill(messages, size)
        peer.wait_quiet()
        cpu = peer.cpu_s()
        peer.release()
        began = peer.send()
        while not peer.is_empty():
            time.sleep(ASK_EVERY_S)
            if time.perf_counter() - began > LONG_S:
                raise RuntimeError("Postfix' queue does not become empty")
        wall_s = time.perf_counter() - began
        return Sent(messages / wall_s, (peer.cpu_s() - cpu) / messages * 1e6)
