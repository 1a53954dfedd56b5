"""A client that comes back to a large mailbox in which a little has changed: `qresync`."""

import re
import time
from statistics import median

from measure import wire
from measure.figures import Figure, percentile
from measure.fill import fill
from measure.server import BenchServer
from measure.wire import Imap

QRESYNC_GOAL_MS = 10.0
MAILBOX = "big"
FLAGGED, REMOVED, ADDED = 30, 10, 10  # of 50 changes, all over the mailbox


def qresync(*, workers: int, messages: int, repeats: int) -> list[Figure]:
    """ENABLE QRESYNC and SELECT, over a connection that is signed in: warm, and by a worker just started."""
    with BenchServer(workers=workers) as server:
        fill(server.data_dir, "u0@bench.test", MAILBOX, messages, wire.sample_message(1400))
        server.start()
        known = _change(server, messages)
        keeper = Imap(server.imap_port)
        keeper.command(b"SELECT " + MAILBOX.encode())
        keeper.command(b"FETCH 1 (FLAGS)")  # the view is in memory
        warm = [_return_ms(server, known) for _ in range(20 * repeats)]
        keeper.close()
        cold = []
        for _ in range(repeats):
            server.stop()
            server.start()
            cold.append(_return_ms(server, known))
    detail: dict[str, object] = {"messages": messages, "p99": round(percentile(warm, 0.99), 2), "n": len(warm)}
    started: dict[str, object] = {"messages": messages, "runs": "/".join(f"{value:.2f}" for value in cold)}
    return [
        Figure("qresync", median(warm), "ms", QRESYNC_GOAL_MS, True, detail),
        Figure("qresync after restart", median(cold), "ms", QRESYNC_GOAL_MS, True, started),
    ]


def _change(server: BenchServer, messages: int) -> bytes:
    """Make fifty changes; what a client that has not seen them knows, as QRESYNC takes it."""
    imap = Imap(server.imap_port)
    answer = imap.command(b"SELECT " + MAILBOX.encode())
    found = [re.search(rb"\[%b (\d+)\]" % word, answer) for word in (b"UIDVALIDITY", b"HIGHESTMODSEQ")]
    known = b" ".join(match[1] for match in found if match is not None)
    for part in range(FLAGGED):
        imap.command(b"UID STORE %d +FLAGS.SILENT (\\Flagged)" % (1 + part * messages // FLAGGED))
    for part in range(REMOVED):
        uid = 2 + part * messages // REMOVED
        imap.command(b"UID STORE %d +FLAGS.SILENT (\\Deleted)" % uid)
        imap.command(b"UID EXPUNGE %d" % uid)
    imap.command(b"UID COPY 1:%d %b" % (1 + ADDED, MAILBOX.encode()))
    imap.close()
    return known


def _return_ms(server: BenchServer, known: bytes) -> float:
    imap = Imap(server.imap_port)
    began = time.perf_counter()
    imap.command(b"ENABLE QRESYNC")
    answer = imap.command(b"SELECT %b (QRESYNC (%b))" % (MAILBOX.encode(), known))
    taken = time.perf_counter() - began
    if answer.count(b" FETCH (") != FLAGGED + ADDED or answer.count(b"VANISHED (EARLIER) ") != 1:
        raise RuntimeError(f"not the changes there were: {answer[-500:]!r}")
    imap.close()
    return taken * 1e3
