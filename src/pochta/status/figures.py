"""What a worker tells of itself, and what the server as a whole makes of it.

Shapes only: who measures is in `worker.py`, who asks in `collect.py`. Counts are summed over the workers; of times the
worst worker stands for all, because percentiles cannot be summed; what all workers share (disk, write-ahead log, lease)
is taken once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct


class ListenerFigures(Struct, frozen=True, kw_only=True, order=True):
    """A port that is served."""

    protocol: str
    address: str
    tls: str


class LaneFigures(Struct, frozen=True, kw_only=True):
    """The write lane since the start; the percentiles are of its latest holds, null before the first one."""

    commits: int
    writes: int
    failures: int
    hold_p50_ms: float | None
    hold_p99_ms: float | None


class LoopLagFigures(Struct, frozen=True, kw_only=True):
    """How late the event loop was at worst, and how often by more than 10 ms (INV-12), since the start."""

    worst_ms: float
    breaches: int


class IndexLagFigures(Struct, frozen=True):
    """How far the text index is behind: accounts, at most so many messages, how long the longest of them waits."""

    accounts: int
    messages: int
    seconds: float


class WorkerFigures(Struct, frozen=True, kw_only=True):
    """One worker's answer on its status socket. `connections` is by protocol, open now; `counters` since the start.

    `queue_destinations`: those that mail waits for.
    """

    pid: int
    worker: int
    uptime_s: float
    listeners: tuple[ListenerFigures, ...]
    connections: dict[str, int]
    counters: dict[str, int]
    lane: LaneFigures
    loop_lag: LoopLagFigures
    index_lag: IndexLagFigures | None  # of the worker that feeds the index
    wal_bytes: int
    free_disk_bytes: int
    min_free_bytes: int
    view_memory_bytes: int
    spool_memory_bytes: int
    lease_holder: str | None
    queue_holder: str | None
    queue_destinations: int


class ServerFigures(Struct, frozen=True, kw_only=True):
    """All workers together; `uptime_s` is the oldest worker's."""

    workers: int
    uptime_s: float
    listeners: tuple[ListenerFigures, ...]
    connections: dict[str, int]
    counters: dict[str, int]
    lane: LaneFigures
    loop_lag: LoopLagFigures
    index_lag: IndexLagFigures | None  # None: no worker feeds it now
    wal_bytes: int
    free_disk_bytes: int
    min_free_bytes: int
    view_memory_bytes: int
    spool_memory_bytes: int
    lease_holder: str | None
    queue_senders: int
    queue_destinations: int


class Status(Struct, frozen=True, kw_only=True):
    """The whole server and each worker, by index; `silent` holds the pids of workers that did not answer in time.

    `server` is None when no worker answered.
    """

    server: ServerFigures | None
    workers: tuple[WorkerFigures, ...]
    silent: tuple[int, ...]


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest of the `values` (sorted) that `percent` of them do not exceed; None of none."""
    return values[max(0, -(-len(values) * percent // 100) - 1)] if values else None


def together(workers: Sequence[WorkerFigures]) -> ServerFigures | None:
    """The figures of the whole server; None of no worker."""
    if not workers:
        return None
    return ServerFigures(
        workers=len(workers),
        uptime_s=max(one.uptime_s for one in workers),
        listeners=workers[0].listeners,
        connections=_sums(one.connections for one in workers),
        counters=_sums(one.counters for one in workers),
        lane=LaneFigures(
            commits=sum(one.lane.commits for one in workers),
            writes=sum(one.lane.writes for one in workers),
            failures=sum(one.lane.failures for one in workers),
            hold_p50_ms=_worst(one.lane.hold_p50_ms for one in workers),
            hold_p99_ms=_worst(one.lane.hold_p99_ms for one in workers),
        ),
        loop_lag=LoopLagFigures(
            worst_ms=max(one.loop_lag.worst_ms for one in workers),
            breaches=sum(one.loop_lag.breaches for one in workers),
        ),
        index_lag=next((one.index_lag for one in workers if one.index_lag is not None), None),
        wal_bytes=max(one.wal_bytes for one in workers),
        free_disk_bytes=min(one.free_disk_bytes for one in workers),
        min_free_bytes=workers[0].min_free_bytes,
        view_memory_bytes=sum(one.view_memory_bytes for one in workers),
        spool_memory_bytes=sum(one.spool_memory_bytes for one in workers),
        lease_holder=next((one.lease_holder for one in workers if one.lease_holder), None),
        queue_senders=sum(1 for one in workers if one.queue_holder),
        queue_destinations=max(one.queue_destinations for one in workers),
    )


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
