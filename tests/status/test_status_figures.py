"""What is summed over the workers, what is taken once, and what the worst one stands for."""

import pytest

from pochta.status.figures import (
    IndexLagFigures,
    LaneFigures,
    ListenerFigures,
    LoopLagFigures,
    WorkerFigures,
    percentile,
    together,
)


def worker(index: int, **changed: object) -> WorkerFigures:
    figures: dict[str, object] = {
        "pid": 100 + index,
        "worker": index,
        "uptime_s": 10.0 + index,
        "listeners": (ListenerFigures(protocol="imap", address="127.0.0.1:143", tls="none"),),
        "connections": {"imap": 2, "smtp": 1},
        "counters": {"logins": 3},
        "lane": LaneFigures(commits=5, writes=9, failures=1, hold_p50_ms=1.0, hold_p99_ms=3.0),
        "loop_lag": LoopLagFigures(worst_ms=4.0, breaches=1),
        "index_lag": None,
        "wal_bytes": 4096,
        "free_disk_bytes": 10_000,
        "min_free_bytes": 500,
        "view_memory_bytes": 120,
        "spool_memory_bytes": 7,
        "lease_holder": None,
        "queue_holder": None,
        "queue_destinations": 0,
    }
    return WorkerFigures(**(figures | changed))  # type: ignore[arg-type]  # figures by name


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        pytest.param([], 50, None, id="none"),
        pytest.param([7.0], 50, 7.0, id="one"),
        pytest.param([1.0, 2.0], 50, 1.0, id="half of two"),
        pytest.param([1.0, 2.0, 3.0], 50, 2.0, id="half of three"),
        pytest.param([float(n) for n in range(1, 101)], 99, 99.0, id="99 of 100"),
        pytest.param([float(n) for n in range(1, 51)], 99, 50.0, id="99 of 50"),
    ],
)
def test_percentile(values: list[float], percent: int, expected: float | None) -> None:
    assert percentile(values, percent) == expected


def test_nobody_together_is_no_server() -> None:
    assert together([]) is None


def test_counts_are_summed_and_the_worst_time_counts() -> None:
    second = worker(
        1,
        connections={"imap": 4, "smtp": 0},
        counters={"logins": 1, "messages_delivered": 8},
        lane=LaneFigures(commits=1, writes=1, failures=0, hold_p50_ms=None, hold_p99_ms=None),
        loop_lag=LoopLagFigures(worst_ms=40.0, breaches=2),
        wal_bytes=8192,
        free_disk_bytes=9_000,
        lease_holder="mail:101:ab",
        index_lag=IndexLagFigures(2, 300, 1.5),
    )
    server = together([worker(0), second])
    assert server is not None
    assert (server.workers, server.uptime_s) == (2, 11.0)
    assert server.connections == {"imap": 6, "smtp": 1}
    assert server.counters == {"logins": 4, "messages_delivered": 8}
    assert server.lane == LaneFigures(commits=6, writes=10, failures=1, hold_p50_ms=1.0, hold_p99_ms=3.0)
    assert server.loop_lag == LoopLagFigures(worst_ms=40.0, breaches=3)
    assert (server.wal_bytes, server.free_disk_bytes, server.min_free_bytes) == (8192, 9_000, 500)
    assert (server.view_memory_bytes, server.spool_memory_bytes) == (240, 14)
    assert server.lease_holder == "mail:101:ab"
    assert server.index_lag == IndexLagFigures(2, 300, 1.5)
