"""`queue-waiting`: what a delivery costs beside a million recipients that are not due, against an empty queue.

The million is put in by SQL in one go, each with a message and a trail of its own that share the bytes of one; half of
them wait at the very destinations that are sent to, from the same accounts, the others at a thousand more. The filled
file is kept and copied, so that every run begins with the same one.
"""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import apsw

from measure import sink
from measure.figures import Figure
from measure.queue import ACCOUNTS, DOMAINS, SETTLE_S, fill, make_due, measure, tables
from measure.server import POCHTA, BenchServer
from measure.wire import sample_message
from pochta.delivery.intake import new_message
from pochta.mime.facts import facts
from pochta.store import blobs, sqlite
from pochta.store.blobs import NewBlob

DELIVERIES = 5000
SIZE = 10_000
OTHER_DESTINATIONS = 1000
WAITS_S = 100 * 86_400  # later than any measure ends
GOAL = 1.2

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"


class _Run(NamedTuple):
    cpu_us: float
    rate: float
    hold_p50_ms: float
    hold_p99_ms: float


def waiting(*, rows: int, repeats: int) -> list[Figure]:
    """The median of the runs, empty and full in turn."""
    if not sink.is_there():
        raise SystemExit("queue-waiting: smtp-sink is missing; it comes with Postfix")
    empty: list[_Run] = []
    full: list[_Run] = []
    with tempfile.TemporaryDirectory(prefix="pochta-bench-waiting-") as folder, sink.sink() as port:
        hops = {f"d{n}.test": f"[127.0.1.{n + 1}]:{port}" for n in range(DOMAINS)}
        for _ in range(repeats):
            empty.append(_run(hops, 0, Path(folder)))
            full.append(_run(hops, rows, Path(folder)))
    before, after = median(one.cpu_us for one in empty), median(one.cpu_us for one in full)
    detail: dict[str, object] = {
        "empty_cpu_us": round(before),
        "full_cpu_us": round(after),
        "empty_runs": "/".join(f"{one.cpu_us:.0f}" for one in empty),
        "full_runs": "/".join(f"{one.cpu_us:.0f}" for one in full),
        "empty_rate": round(median(one.rate for one in empty)),
        "full_rate": round(median(one.rate for one in full)),
        "empty_lane_ms": _holds(empty),
        "full_lane_ms": _holds(full),
        "rows": rows,
        "deliveries": DELIVERIES,
    }
    return [Figure("queue-waiting, CPU a delivery", after / before, "of an empty queue's", GOAL, True, detail)]


def _holds(runs: list[_Run]) -> str:
    """The median of how long the lane was held at once, p50 and p99."""
    return f"{median(one.hold_p50_ms for one in runs):.2g}/{median(one.hold_p99_ms for one in runs):.2g}"


def _run(hops: dict[str, str], rows: int, folder: Path) -> _Run:
    with BenchServer(tables=tables(hops)) as server:
        database = server.data_dir / sqlite.DATABASE_NAME
        kept = folder / f"waiting-{rows}"
        if rows and kept.exists():
            shutil.copyfile(kept, database)
        elif rows:
            _fill_waiting(database, rows)
            shutil.copyfile(database, kept)
        fill(server.data_dir, list(hops), DELIVERIES, sample_message(SIZE))
        due_at = int(time.time() + SETTLE_S)
        make_due(server.data_dir, due_at)
        server.start()
        sent = measure(server, DELIVERIES, due_at)
        status = subprocess.run([*POCHTA, "-c", server.config, "status", "--json"], check=True, capture_output=True)
        lane = json.loads(status.stdout)["server"]["lane"]
        return _Run(sent.cpu_us, sent.rate, lane["hold_p50_ms"], lane["hold_p99_ms"])


def _fill_waiting(database: Path, rows: int) -> None:
    connection = sqlite.connect(database)
    try:
        connection.pragma("journal_mode", "off")  # the store is stopped, and thrown away if this fails
        connection.pragma("synchronous", "off")
        connection.pragma("cache_size", -1024 * 1024)
        connection.execute("BEGIN IMMEDIATE")
        _insert_waiting(connection, rows)
        connection.execute("COMMIT")
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()


def _insert_waiting(connection: apsw.Connection, rows: int) -> None:
    now = int(time.time())
    message = sample_message(SIZE)
    tx = sqlite.SqliteTx(connection, 0)
    new = new_message(NewBlob(len(message), message, None), facts(message), now)
    blob_id = blobs.insert(tx, new.blob, now)
    tx.run(
        f"{_NUMBERS} INSERT INTO trail (name, message_id, message_id_hash, sender, at, address_hashes, facts)"
        " SELECT 'w' || i, i || '.waiting@bench.test', i, 'u0@bench.test', ?, '', '{}' FROM n",
        (rows, now),
    )
    (first_trail,) = tx.rows("SELECT min(id) FROM trail")[0]
    tx.run(
        f"{_NUMBERS} INSERT INTO outgoing (trail_id, blob_id, account_id, origin, reverse_path, report_to, body,"
        " is_smtputf8, requires_tls, may_bounce, priority, size, header_size, created_at)"
        " SELECT ? + i, ?, 1 + i % ?, 'submission', 'u0@bench.test', 'u0@bench.test', '8bit', 0, 0, 1, 0, ?, ?, ?"
        " FROM n",
        (rows, first_trail, blob_id, ACCOUNTS, len(message), new.header_size, now),
    )
    (first,) = tx.rows("SELECT min(id) FROM outgoing")[0]
    here, elsewhere = f"'route:d' || (i / 2 % {DOMAINS})", f"'w' || (i / 2 % {OTHER_DESTINATIONS}) || '.test'"
    destination = f"CASE WHEN i % 2 THEN {here} ELSE {elsewhere} END"
    tx.run(
        f"{_NUMBERS} INSERT INTO outgoing_recipient (outgoing_id, n, destination, account_id, address, notify, state,"
        f" report, delay_told, attempts, next_at, last_at, last_host, last_reply) SELECT ? + i, 0, {destination},"
        " 1 + i % ?, 'someone' || i || '@waiting.test', 0, 0, 0, 0, 1, ? + i % 86400, ?, 'mx.waiting.test',"
        " '451 4.3.0 Come again later' FROM n",
        (rows, first, ACCOUNTS, now + WAITS_S, now),
    )
    tx.run(
        "INSERT INTO destination (name, shard, next_at, not_before, failures) SELECT destination, 0, min(next_at), 0, 0"
        " FROM outgoing_recipient GROUP BY destination"
    )
