"""Whether a server is at rest, and what it used until then: CPU in nanoseconds, memory, its index, its event loops.

CPU of a process is its own clock (clock_getcpuclockid of its id): nanoseconds, with the threads that have ended among
them, as many as it has. A process that has ended and been waited for is in the cutime and cstime of its parent, which
tell ticks of 10 ms: each of those two that moved makes the figure uncertain by one tick (`Cpu.error_s`), however many
processes ended.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pochta.status.collect import collect

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.05
CALM_S = 0.35
"""So long without work a server counts as at rest."""
CALM_CPU_S = 0.003
"""What that time may cost: an idle Pochta's timers take less, a server that works takes a hundred times as much."""
WROTE_CALM_S = 1.3
"""The same after writes, for ours: log and new mail are looked at each second (store/checkpoint.py, index/feed.py)."""
LIMIT_S = 180.0
"""The index catches up with 100 000 messages within 120 s; who is at work after that is told apart."""


class Cpu(NamedTuple):
    """CPU seconds of process trees since they began; `reaped` holds each process' (cutime, cstime)."""

    own_s: float
    reaped: dict[int, tuple[int, int]]

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.own_s + sum(map(sum, self.reaped.values())) * TICK_S

    def error_s(self, before: "Cpu") -> float:
        """How far off the difference from `before` may be: one tick for each count of ticks that moved."""
        moved = sum(
            new != old
            for pid, pair in self.reaped.items()
            for new, old in zip(pair, before.reaped.get(pid, (0, 0)), strict=True)
        )
        return moved * TICK_S


def _fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def trees(roots: Sequence[int]) -> dict[int, list[str]]:
    """The fields of /proc/PID/stat, from the state on, of each process in the trees."""
    known: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _fields(int(entry))):
            known[int(entry)] = fields
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: dict[int, list[str]] = {}
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid in known and pid not in found:
            found[pid] = known[pid]
            todo += children.get(pid, ())
    return found


def _own_s(pid: int, fields: list[str]) -> float:
    try:
        return time.clock_gettime_ns(~pid << 3 | 2) / 1e9  # as clock_getcpuclockid() makes it: 2 is CPUCLOCK_SCHED
    except OSError:
        return (int(fields[11]) + int(fields[12])) * TICK_S


def cpu(roots: Sequence[int]) -> Cpu:
    """What the trees have used so far."""
    found = trees(roots)
    own_s = sum(_own_s(pid, fields) for pid, fields in found.items())
    return Cpu(own_s, {pid: (int(fields[13]), int(fields[14])) for pid, fields in found.items()})


def memory_mb(roots: Sequence[int]) -> tuple[float, float]:
    """(PSS, RSS) of the trees."""
    pss = rss = 0
    for pid in trees(roots):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        values = {line.split()[0]: int(line.split()[1]) for line in lines[1:] if line.endswith("kB")}
        pss += values.get("Pss:", 0)
        rss += values.get("Rss:", 0)
    return pss * 1024 / 1e6, rss * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Inner:
    """What a Pochta tells of itself by `pochta status`."""

    lag_worst_ms: float
    lag_breaches: int
    commits: int
    is_indexed: bool


class Watched:
    """A server under measure: the roots of its process trees, read anew each time; its data folder if it is ours."""

    def __init__(self, pid_files: Sequence[Path], data_dir: Path | None) -> None:
        self._pid_files = pid_files
        self._data_dir = data_dir
        # a case may run an event loop of its own, in which no second one can be started
        self._thread = ThreadPoolExecutor(1)
        self.commits_at_rest: int | None = None

    def roots(self) -> list[int]:
        """The process ids in the files, of those that are there."""
        return [int(words[0]) for path in self._pid_files if path.exists() and (words := path.read_text().split())]

    def inner(self) -> Inner | None:
        """None of a foreign server, and when ours does not answer."""
        if self._data_dir is None:
            return None
        server = self._thread.submit(asyncio.run, collect(self._data_dir)).result().server
        if server is None:
            return None
        lag = server.index_lag
        # None is no lag that is known: until the feeder has looked
        is_indexed = lag is not None and lag.accounts == 0 and lag.messages == 0
        return Inner(server.loop_lag.worst_ms, server.loop_lag.breaches, server.lane.commits, is_indexed)


class Rest(NamedTuple):
    """The end of the work: CPU then, seconds until then; if it came; if our index was behind; what ours tells."""

    cpu: Cpu
    after_s: float
    is_reached: bool
    was_behind: bool
    inner: Inner | None


def wait(server: Watched, *, after_reading: bool = False, limit_s: float = LIMIT_S) -> Rest:
    """Returns when the server has done no work for CALM_S, or WROTE_CALM_S, and ours has indexed all mail.

    `after_reading`: nothing was written since the last rest, so that commits are those of our server's own timers.
    """
    roots = server.roots()
    began = time.perf_counter()
    calm_since, at_rest = began, cpu(roots)
    calm_s, was_behind = CALM_S, False
    while True:
        time.sleep(SAMPLE_S)
        now, used = time.perf_counter(), cpu(roots)
        if used.total_s - at_rest.total_s > CALM_CPU_S * max(1.0, (now - calm_since) / CALM_S):
            calm_since, at_rest, calm_s = now, used, CALM_S
        is_late = now - began > limit_s
        if not is_late and now - calm_since < calm_s:
            continue
        inner = server.inner()
        if is_late:
            return Rest(at_rest, calm_since - began, False, was_behind, inner)
        if inner is not None and not inner.is_indexed:
            was_behind = True
            calm_s = now - calm_since + CALM_S
        elif after_reading and inner is not None:
            return Rest(at_rest, calm_since - began, True, was_behind, inner)
        elif inner is not None and inner.commits != server.commits_at_rest and now - calm_since < WROTE_CALM_S:
            calm_s = WROTE_CALM_S
        else:
            server.commits_at_rest = inner.commits if inner else None
            return Rest(at_rest, calm_since - began, True, was_behind, inner)
