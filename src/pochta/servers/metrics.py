"""`protocol = "metrics"`: the figures of all workers together, as Prometheus reads them, on GET /metrics.

One request a connection, answered and closed. The settings allow it on loopback addresses only: it asks for no
password. When a worker does not answer there is no sum to tell: 503 instead of counters that fall and rise again.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pochta.net.connection import Connection
from pochta.status.collect import collect
from pochta.status.figures import ServerFigures

MAX_REQUEST_BYTES: Final = 8192  # as Apache's LimitRequestLine and -FieldSize; Prometheus sends 300
REQUEST_S: Final = 5.0  # within the drain of a stop; Prometheus sends its request in one packet

_REQUEST_LINE: Final = re.compile(rb"(?P<method>[A-Z]+) (?P<target>[\x21-\x7e]+) HTTP/1\.[01]\r?\n")
_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")
_PROTOCOLS: Final = ("imap", "pop3", "smtp")  # counters of theirs begin with these
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsContext:
    """What all metrics connections of a worker share."""

    data_dir: Path
    connections: "set[MetricsConnection]"


class MetricsConnection(Connection):
    """One request for the figures."""

    __slots__ = ("_context", "_request")

    def __init__(self, context: MetricsContext) -> None:
        super().__init__()
        self._context = context
        self._request = b""

    def on_connect(self) -> None:
        self._context.connections.add(self)
        self.set_deadline(REQUEST_S)

    def on_lost(self) -> None:
        self._context.connections.discard(self)

    def on_data(self, data: bytes) -> None:
        seen = max(0, len(self._request) - 3)  # an end of the header may lie across two packets
        self._request += data
        end = _HEADER_END.search(self._request, seen, MAX_REQUEST_BYTES)
        if end is None:
            if len(self._request) >= MAX_REQUEST_BYTES:
                self._respond("431 Request Header Fields Too Large")
            return
        self.hold_input()
        found = _REQUEST_LINE.match(self._request)
        if found is None:
            self._respond("400 Bad Request")
        elif found["method"] == b"GET" and found["target"].partition(b"?")[0] == b"/metrics":
            self.spawn(self._tell())
        else:
            self._respond("404 Not Found")

    def on_crash(self) -> None:
        self._respond("500 Internal Server Error")

    def stop(self) -> None:
        """The server stops: an answer under way is finished, whoever has not asked yet is told nothing."""
        if not self.is_busy:
            self.close()

    async def _tell(self) -> None:
        status = await collect(self._context.data_dir)
        if status.server is None or status.silent:
            self._respond("503 Service Unavailable")
        else:
            self._respond("200 OK", exposition(status.server))

    def _respond(self, status: str, text: str = "") -> None:
        body = (text or status + "\n").encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {_TEXT}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.write(head.encode() + body)
        self.close()


def exposition(server: ServerFigures) -> str:
    """The figures in Prometheus's text form; what is not known is left out."""
    return "".join(f"{line}\n" for line in _lines(server))


def _lines(server: ServerFigures) -> Iterator[str]:
    yield from _metric("workers", "gauge", "Workers that answered.", server.workers)
    yield from _metric("uptime_seconds", "gauge", "Since the oldest worker started.", server.uptime_s)
    yield from _family("connections", "gauge", "Open connections.", "protocol", server.connections)
    for name, count in server.counters.items():
        yield from _metric(f"{name}_total", "counter", _help(name), count)
    lane, lag = server.lane, server.loop_lag
    yield from _metric("lane_commits_total", "counter", "Commits of the write lane.", lane.commits)
    yield from _metric("lane_writes_total", "counter", "Writes in those commits.", lane.writes)
    yield from _metric("lane_failures_total", "counter", "Writes that failed.", lane.failures)
    holds = {"0.5": lane.hold_p50_ms, "0.99": lane.hold_p99_ms}
    seconds = {quantile: round(value / 1000, 6) for quantile, value in holds.items() if value is not None}
    yield from _family("lane_hold_seconds", "gauge", "How long a commit held the lane, latest.", "quantile", seconds)
    yield from _metric(
        "loop_lag_worst_seconds", "gauge", "Longest delay of an event loop.", round(lag.worst_ms / 1000, 6)
    )
    yield from _metric("loop_lag_breaches_total", "counter", "Delays over 10 ms.", lag.breaches)
    yield from _metric("wal_bytes", "gauge", "Size of the write-ahead log.", server.wal_bytes)
    yield from _metric("disk_free_bytes", "gauge", "Free space under data_dir.", server.free_disk_bytes)
    yield from _metric("disk_min_free_bytes", "gauge", "Free space below which mail waits.", server.min_free_bytes)
    yield from _metric("view_memory_bytes", "gauge", "Views of selected mailboxes.", server.view_memory_bytes)
    yield from _metric("spool_memory_bytes", "gauge", "Messages being received.", server.spool_memory_bytes)
    if server.index_lag is not None:
        accounts, messages, waiting_s = server.index_lag.accounts, server.index_lag.messages, server.index_lag.seconds
        yield from _metric("index_lag_accounts", "gauge", "Accounts whose text index is behind.", accounts)
        yield from _metric("index_lag_messages", "gauge", "Messages that wait to be indexed, at most.", messages)
        yield from _metric("index_lag_seconds", "gauge", "How long the longest of them waits.", waiting_s)
    yield from _metric("queue_destinations", "gauge", "Destinations that mail waits for.", server.queue_destinations)


def _help(name: str) -> str:
    """`imap_commands` as "IMAP commands."."""
    first, *rest = name.split("_")
    return " ".join((first.upper() if first in _PROTOCOLS else first.capitalize(), *rest)) + "."


def _metric(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP pochta_{name} {text}"
    yield f"# TYPE pochta_{name} {kind}"
    yield f"pochta_{name} {value}"


def _family(name: str, kind: str, text: str, label: str, values: dict[str, float] | dict[str, int]) -> Iterator[str]:
    yield f"# HELP pochta_{name} {text}"
    yield f"# TYPE pochta_{name} {kind}"
    for key, value in values.items():
        yield f'pochta_{name}{{{label}="{key}"}} {value}'
