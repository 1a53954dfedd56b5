"""`removal`: a mailbox of a million is deleted, and another one changed, while deliveries go on."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import apsw

from measure import wire
from measure.figures import Figure, percentile
from measure.fill import fill
from measure.server import BenchServer
from measure.wire import Deliveries, Imap
from pochta.store import check, sqlite

GOAL_MS = 50.0
SENDERS = 8
INTERVAL_S = 0.04  # of one sender: 200 deliveries a second in all
MESSAGE_BYTES = 600
ADDRESS = "u0@bench.test"


def removal(*, workers: int, messages: int, seconds: float, is_checked: bool) -> list[Figure]:
    """The p99 of deliveries beside each; with what background removal did in that time.

    `seconds`: at least so long deliveries go on, and at most that much longer than the command takes.
    """
    spawn = multiprocessing.get_context("spawn")
    with BenchServer(workers=workers) as server, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        filled = sum(
            fill(server.data_dir, ADDRESS, path, messages, wire.sample_message(MESSAGE_BYTES))
            for path in ("doomed", "flagged")
        )
        if is_checked:
            _check(server)
        server.start()
        alone = _beside(server, pool, "", seconds)[0]
        store, store_s = _beside(server, pool, "STORE 1:* +FLAGS.SILENT (\\Flagged)", seconds)
        delete, delete_s = _beside(server, pool, "DELETE doomed", seconds)
        left = _left(server)
        server.stop()
        if is_checked:
            _check(server)
    common: dict[str, object] = {"alone_p99_ms": _p(alone, 0.99), "messages": messages, "fill_s": round(filled, 1)}
    return [
        _figure("removal STORE", store, {**common, "command_s": round(store_s, 2)}),
        _figure("removal DELETE", delete, {**common, "command_s": round(delete_s, 4), "removed": f"{messages - left}"}),
    ]


def _figure(name: str, done: Deliveries, detail: dict[str, object]) -> Figure:
    times = {"p50_ms": _p(done, 0.5), "max_ms": _p(done, 1.0), "per_s": round(done.count / done.wall_s)}
    value = percentile(done.times_s, 0.99) * 1e3
    return Figure(name, value, "ms p99 of deliveries", GOAL_MS, True, {**times, **detail})


def _p(done: Deliveries, share: float) -> float:
    return round(percentile(done.times_s, share) * 1e3, 1)


def _beside(server: BenchServer, pool: ProcessPoolExecutor, command: str, seconds: float) -> tuple[Deliveries, float]:
    """(deliveries while the command runs and for the rest of `seconds`, seconds the command took)."""
    users = [f"u{1 + number}" for number in range(SENDERS)]
    message = wire.sample_message(4000)
    going = pool.submit(wire.deliver, server.smtp_port, users, message, seconds, interval_s=INTERVAL_S)
    taken = 0.0
    if command:
        taken = pool.submit(_command, server.imap_port, command).result()
    return going.result(), taken


def _command(port: int, command: str) -> float:
    imap = Imap(port)
    if command.startswith("STORE"):
        imap.command(b"SELECT flagged")
    time.sleep(0.5)
    began = time.perf_counter()
    imap.command(command.encode())
    taken = time.perf_counter() - began
    imap.close()
    return taken


def _left(server: BenchServer) -> int:
    """Placements of the removed mailbox that are still there."""
    connection = sqlite.connect(server.data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        row = connection.execute(
            "SELECT count(*) FROM placement p JOIN mailbox m ON m.account_id = p.account_id AND m.id = p.mailbox_id"
            " WHERE m.removed_at IS NOT NULL"
        ).fetchone()
        return int(row[0]) if row else 0
    except apsw.BusyError:
        return -1
    finally:
        connection.close()


def _check(server: BenchServer) -> None:
    findings = [finding for finding in check.check(server.data_dir) if finding.severity == "error"]
    if findings:
        raise RuntimeError(f"the store contradicts itself: {findings[0]}")
