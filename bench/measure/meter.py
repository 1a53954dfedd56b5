"""Reads a running server's clocks around one operation at a time.

CPU is that of the supervisor and its workers, by their own clocks, from the command until SETTLE_S after its answer,
less what they use when idle in that time. The process that feeds the text index is told apart.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import rest
from measure.server import BenchServer

SETTLE_S = 0.004  # what a worker still does behind its answer
IDLE_S = 2.0


@dataclass(slots=True)
class Row:
    """One operation at one size: CPU and time of each repeat, or a value of another kind in place of the CPU."""

    values: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)


Rows = dict[str, Row]


class Meter:
    """Reads a running server's clocks around operations."""

    def __init__(self, server: BenchServer) -> None:
        self.server = server
        self.rows: Rows = {}
        self._watched = rest.Watched([server.ready_file], server.data_dir)
        self.begin()

    def begin(self) -> None:
        """To be called after each start: waits until the server is at rest, and takes what it uses then."""
        reached = rest.wait(self._watched)
        self.start_s = reached.cpu.total_s
        found = rest.trees([self.server.pid])
        self.feeders = [pid for pid in found if b"pochta.index.child" in _command_line(pid)]
        self.workers = [pid for pid in found if pid not in self.feeders]
        self.idle_share = 0.0
        began, before = time.perf_counter(), cpu_us(self.workers)
        time.sleep(IDLE_S)
        self.idle_share = (cpu_us(self.workers) - before) / (time.perf_counter() - began) / 1e6

    def rest_us(self) -> float:
        """CPU of the feeders when all is indexed."""
        rest.wait(self._watched)
        return cpu_us(self.feeders)

    def measure(self, name: str, operation: Callable[[], object]) -> None:
        """Run it once."""
        before, began = cpu_us(self.workers), time.perf_counter()
        operation()
        taken = time.perf_counter() - began
        time.sleep(SETTLE_S)
        idle_us = self.idle_share * (time.perf_counter() - began) * 1e6
        row = self.rows.setdefault(name, Row())
        row.values.append(max(0.0, cpu_us(self.workers) - before - idle_us))
        row.times_ms.append(taken * 1e3)

    def tell(self, name: str, value: float) -> None:
        """Note what was measured otherwise."""
        self.rows.setdefault(name, Row()).values.append(value)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def cpu_us(pids: Sequence[int]) -> float:
    """What the processes have used, all their threads together; from their own clocks, which tell nanoseconds."""
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids) / 1e3  # see measure.rest
