"""What `compare` is to reach, case by case, and whether it did.

A ratio says how many times better ours is than the best peer of the same run: a rate over theirs, their time or CPU
over ours. An absolute goal is a bound on our own figure.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple


class Measure(StrEnum):
    """What a goal is about."""

    VALUE = "value"  # the rate or the time of the case
    CPU = "cpu"  # server CPU for each operation, until index and log are at rest
    INDEXED = "indexed"  # the rate until our index has caught up, against the peers' rate without one
    P50_MS = "p50_ms"
    P99_MS = "p99_ms"
    INDEX_S = "index_s"


RATIOS = (Measure.VALUE, Measure.CPU, Measure.INDEXED)


class Goal(NamedTuple):
    """`bound` is the least ratio, or of the other measures the most that it may be."""

    pattern: str
    measure: Measure
    bound: float

    @property
    def text(self) -> str:
        """As it is shown."""
        if self.measure in RATIOS:
            return f"{self.measure} >= {self.bound:.3g}x"
        return f"{self.measure} <= {self.bound:.3g}"

    def is_met(self, got: float) -> bool:
        """Whether the ratio, or the figure, is good enough."""
        return got >= self.bound if self.measure in RATIOS else got <= self.bound


VALUE, CPU, INDEXED = RATIOS
GOALS = (
    Goal("smtp-in-4k-manyper-c[15]0", VALUE, 9),
    Goal("smtp-in-4k-manyper-c[15]0", INDEXED, 6),
    Goal("smtp-in-4k-manyper-c[15]0", CPU, 5),
    Goal("smtp-in-50k-manyper-c[15]0", VALUE, 7),
    Goal("smtp-in-50k-manyper-c[15]0", CPU, 5),
    Goal("imap-append-4k-c1", VALUE, 2),
    Goal("imap-append-4k-c10", VALUE, 3),
    Goal("fill-tiny-100k", VALUE, 0.4),
    Goal("fill-tiny-100k", Measure.INDEX_S, 120),
    Goal("imap-login-c10", VALUE, 5),
    Goal("imap-login-c10", CPU, 5),
    Goal("imap-select-100k-cold", VALUE, 2),
    Goal("imap-select-100k-newconn", VALUE, 2),
    Goal("imap-fetch-uidflags-100k-warm", VALUE, 6),
    Goal("imap-fetch-flags-100k-warm", VALUE, 2),
    Goal("imap-fetch-env-100k-first", VALUE, 8),
    Goal("imap-fetch-env-100k-warm", VALUE, 3),
    Goal("imap-fetch-page50-100k", VALUE, 3),
    Goal("imap-fetch-page50-100k", CPU, 3),
    Goal("imap-fetch-body-all-warm", VALUE, 0.6),
    Goal("imap-fetch-body-random", VALUE, 1 / 1.2),
    Goal("imap-fetch-body-random", CPU, 1),
    Goal("imap-store-all-add-10k", VALUE, 0.7),
    Goal("imap-store-single-10k", VALUE, 1 / 1.3),
    Goal("imap-copy-1k", VALUE, 3),
    Goal("imap-move-1k", VALUE, 2),
    Goal("imap-expunge-1k", VALUE, 1),
    Goal("imap-search-unseen-100k-warm", VALUE, 5),
    Goal("imap-search-since-100k-warm", VALUE, 5),
    Goal("imap-search-from-100k-warm", VALUE, 50),
    Goal("imap-search-subject-100k-warm", VALUE, 50),
    Goal("imap-search-body-10k-warm", VALUE, 100),
    Goal("imap-search-body-100k-warm", VALUE, 100),
    Goal("imap-sort-subject-100k-warm", VALUE, 2),
    Goal("imap-thread-refs-100k-warm", VALUE, 4),
    Goal("imap-idle-1000-mem", VALUE, 30),
    Goal("imap-idle-1000-notify-*", Measure.P50_MS, 3),
    Goal("imap-idle-1000-notify-*", Measure.P99_MS, 20),
    Goal("imap-mixed-50", VALUE, 3.5),
    Goal("imap-mixed-50", CPU, 5),
    Goal("imap-mixed-50", Measure.P99_MS, 50),
    Goal("pop3-1k-retr", VALUE, 0.8),
    Goal("pop3-1k-retr-pipelined", VALUE, 1),
    Goal("pop3-login", VALUE, 10),
)
AHEAD = Goal("*", VALUE, 1)  # what is wanted of every case that has no goal of its own


class Verdict(NamedTuple):
    """A goal and what was reached; `is_met` is None when it could not be told, and then `got` is None."""

    goal: Goal
    got: float | None
    is_met: bool | None

    @property
    def word(self) -> str:
        """ok, MISS or untold."""
        return {True: "ok", False: "MISS", None: "untold"}[self.is_met]


def judge(case: str, figures: Mapping[str, float | None]) -> Iterator[Verdict]:
    """Each goal of the case, or AHEAD. `figures` by the names of Measure."""
    for goal in [goal for goal in GOALS if fnmatchcase(case, goal.pattern)] or [AHEAD]:
        got = figures.get(goal.measure)
        yield Verdict(goal, got, None if got is None else goal.is_met(got))
