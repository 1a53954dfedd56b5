"""The ratios of a run as a bar chart in SVG: rate or time of each case, and its CPU, against the best peer, in logs."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from measure.goals import Measure
from measure.table import Row, times

WIDTH, LABELS, RIGHT = 1000, 300, 70
TOP, LINE, BOTTOM = 84, 30, 52
BAR, CPU_BAR = 12, 6
LEAST, MOST = 0.1, 1000.0  # ratios at the ends; a longer bar is cut there, its number is not
MEDIUM = 12
NUMBER = 36  # the width of a ratio
CAPTION = 170  # characters of the small print in a line
AHEAD, SHORT, BEHIND, CPU, INK, PALE = "#2e8b57", "#d99a1c", "#c0392b", "#7f9bb5", "#222222", "#dddddd"


class Bar(NamedTuple):
    """One case: its ratios, None where not quoted, and its goals for them."""

    case: str
    ratio: float | None
    cpu_ratio: float | None
    goal: float | None
    cpu_goal: float | None

    @property
    def color(self) -> str:
        """Ahead, ahead but short of the goal, behind."""
        if self.ratio is None or self.ratio >= (self.goal or 1.0):
            return AHEAD
        return SHORT if self.ratio >= 1 else BEHIND


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The cases of which something can be quoted."""
    made = []
    for row in rows:
        goals = {one.goal.measure: one.goal.bound for one in row.verdicts if one.goal.pattern != "*"}
        value, cpu = row.ratios.get("value"), row.ratios.get("cpu")
        if value is not None or cpu is not None:
            made.append(Bar(row.case, value, cpu, goals.get(Measure.VALUE), goals.get(Measure.CPU)))
    return made


def _x(ratio: float) -> float:
    share = math.log10(min(MOST, max(LEAST, ratio)) / LEAST) / math.log10(MOST / LEAST)
    return LABELS + share * (WIDTH - LABELS - RIGHT)


def svg(rows: Sequence[Row], title: str, captions: Sequence[str]) -> str:
    """The whole picture; of the captions, two lines at most."""
    shown = bars(rows)
    height = TOP + LINE * len(shown) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        f' font-family="Helvetica, Arial, sans-serif" font-size="{MEDIUM}" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(12, 22, title, size=16),
        *_legend(),
        *_scale(height),
    ]
    for place, bar in enumerate(shown):
        parts += _bar(bar, TOP + place * LINE)
    lines = [text if len(text) <= CAPTION else text[: CAPTION - 1] + "…" for text in captions[:2]]
    parts += [_text(12, height - 26 + 14 * place, text, size=10) for place, text in enumerate(lines)]
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, *, size: int = MEDIUM, anchor: str = "start", color: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width):.1f}" height="{height}" fill="{color}"/>'


def _legend() -> Iterator[str]:
    x = 12.0
    for color, text in (
        (AHEAD, "ahead, goal met"),
        (SHORT, "ahead, short of the goal"),
        (BEHIND, "behind"),
        (CPU, "server CPU for each operation"),
    ):
        yield _box(x, 36, 14, BAR, color)
        yield _text(x + 20, 46, text)
        x += 40 + 6.6 * len(text)
    yield _box(x, 35, 3, 14, INK)
    yield _text(x + 10, 46, "goal")


def _scale(height: int) -> Iterator[str]:
    ratio = LEAST
    while ratio <= MOST * 1.01:
        x = _x(ratio)
        bold = INK if math.isclose(ratio, 1.0) else PALE
        yield f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - BOTTOM}" stroke="{bold}"/>'
        yield _text(x, TOP - 13, f"{ratio:g}x", size=11, anchor="middle")
        ratio *= 10


def _bar(bar: Bar, y: float) -> Iterator[str]:
    yield _text(LABELS - 10, y + 13, bar.case, anchor="end")
    one = _x(1.0)
    for ratio, goal, top, thick, color in (
        (bar.ratio, bar.goal, y + 2, BAR, bar.color),
        (bar.cpu_ratio, bar.cpu_goal, y + 3 + BAR, CPU_BAR, CPU),
    ):
        if ratio is None:
            continue
        end = _x(ratio)
        yield _box(min(one, end), top, abs(end - one), thick, color)
        if goal is not None:
            yield _box(_x(goal) - 1, top - 1, 3, thick + 2, INK)
        if color != CPU:
            at = max(end, one) + 5
            if goal is not None and at - 5 <= _x(goal) <= at + NUMBER:
                at = _x(goal) + 6
            yield _text(at, top + 10, times(ratio), size=11)
