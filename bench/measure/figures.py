"""A figure, its goal, and how both are told in one line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured. `goal` is None where none was set; `is_at_most` says from which side it counts."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    is_at_most: bool = True
    detail: dict[str, object] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.is_at_most else self.value >= self.goal

    def line(self, command: str) -> str:
        """Name, figure, unit, goal, ok or miss, details, command."""
        goal = "no goal" if self.goal is None else f"goal {'<=' if self.is_at_most else '>='} {shown(self.goal)}"
        word = {None: "-", True: "ok", False: "MISS"}[self.is_met]
        details = " ".join(f"{key}={value}" for key, value in self.detail.items())
        return f"{self.name}: {shown(self.value)} {self.unit}, {goal}, {word}  [{details}]  {command}"

    def json(self, command: str) -> str:
        """One JSON object."""
        return json.dumps({**asdict(self), "is_met": self.is_met, "command": command})


Measure = Callable[..., list[Figure]]


def shown(value: float) -> str:
    """Three digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """0.0 for an empty sequence."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
