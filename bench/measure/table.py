"""Results of `compare` set side by side: rows as data, as text and as one JSON document.

A figure is quoted, that is, set in a ratio, only when it is the server's: not when the client was busy for CLIENT_LIMIT
of the time on either side, nor CPU that the clocks cannot tell from nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from measure.figures import shown
from measure.goals import AHEAD, RATIOS, Verdict, judge

OURS = "pochta"
CLIENT_LIMIT = 0.85
CPU_TOLD = 5.0  # times what the clocks may be off by
CPU_TOLD_S = 0.0005  # a dozen switches of the processor between tasks
LAG_LIMIT_MS = 10.0  # INV-12
LESS_IS_BETTER = ("ms", "kB pss/conn", "server cpu ms/s")
KINDS = ("first", "cold", "newconn", "again", "warm")
LONGEST_SHOWN = 34  # characters of a case's name

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One server in one case: medians of its runs, CPU of all of them together."""

    runs: int
    value: float | None
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None
    is_cpu_told: bool
    pss_mb: float | None
    rss_mb: float | None
    client_share: float | None
    index_s: float | None
    indexed: float | None
    lag_ms: float | None
    lag_breaches: int | None
    is_rest: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One case: every server's side, ratios to the best peer (over 1: ours is better), goals, what is not quoted."""

    case: str
    unit: str
    sides: dict[str, Side]
    best: dict[str, str] = field(default_factory=dict)  # measure -> the best peer
    ratios: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


def read(path: Path) -> list[Result]:
    """The results in a document of an earlier run, or in JSON lines; what is no result is passed over."""
    text = path.read_text()
    try:
        found = json.loads(text)["results"]
    except (json.JSONDecodeError, KeyError):
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [one for one in found if "case" in one and "peer" in one]


def about(paths: Sequence[Path]) -> dict[str, Any]:
    """On what, with what and by what command the runs in these files were made; the first that tells it."""
    for path in paths:
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError:
            continue
        return {key: value for key, value in found.items() if key not in ("results", "rows")}
    return {}


def rows(results: Sequence[Result]) -> list[Row]:
    """One for each case; the kinds of a case (first, cold, warm) stand together."""
    keys = dict.fromkeys((str(one["case"]), str(one["unit"])) for one in results)
    stems = {stem: place for place, stem in reversed(list(enumerate(_stem(case)[0] for case, _ in keys)))}
    ordered = sorted(keys, key=lambda key: (stems[_stem(key[0])[0]], _stem(key[0])[1]))
    return [_row(results, case, unit) for case, unit in ordered]


def _stem(case: str) -> tuple[str, int]:
    """(the case without its kind, the place of the kind)."""
    stem, _, kind = case.rpartition("-")
    return (stem, KINDS.index(kind)) if kind in KINDS else (case, len(KINDS))


def _row(results: Sequence[Result], case: str, unit: str) -> Row:
    of: dict[str, list[Result]] = {}
    for one in results:
        if (one["case"], one["unit"]) == (case, unit):
            of.setdefault(str(one["peer"]), []).append(one)
    sides = {peer: _side(given) for peer, given in sorted(of.items(), key=lambda pair: pair[0] != OURS)}
    row = Row(case, unit, sides)
    if OURS not in sides:
        return row
    row = _compared(row)
    ours = sides[OURS]
    figures = {"p50_ms": ours.p50_ms, "p99_ms": ours.p99_ms, "index_s": ours.index_s}
    return replace(row, verdicts=tuple(judge(case, figures | row.ratios)))


def _middle(results: Sequence[Result], *names: str) -> float | None:
    """The median of the first of the fields that a result has."""
    values = [next((one[name] for name in names if one.get(name) is not None), None) for one in results]
    numbers = [float(value) for value in values if value is not None]
    return median(numbers) if numbers else None


def _side(results: Sequence[Result]) -> Side:
    told = [one for one in results if one.get("server_cpu_s") is not None and one.get("n")]
    cpu_s = sum(one["server_cpu_s"] for one in told)
    # earlier runs told CPU without how far it may be off: by one tick of 10 ms each
    error_s = sum(one.get("server_cpu_error_s", 0.01) for one in told)
    indexed = [
        one["n"] / (one["wall_s"] + one["index_s"]) for one in results if one.get("index_s") is not None and one["n"]
    ]
    lags = [one["lag_ms"] for one in results if one.get("lag_ms") is not None]
    breaches = [one["lag_breaches"] for one in results if one.get("lag_breaches") is not None]
    shares = [one["client_cpu_s"] / one["wall_s"] for one in results if one.get("wall_s")]
    return Side(
        runs=len(results),
        value=_middle(results, "delivered_per_s", "value"),  # mail counts once it can be seen
        p50_ms=_middle(results, "p50_ms"),
        p99_ms=_middle(results, "p99_ms"),
        cpu_us=cpu_s / sum(one["n"] for one in told) * 1e6 if told else None,
        is_cpu_told=cpu_s >= max(CPU_TOLD_S, CPU_TOLD * error_s),
        pss_mb=_middle(results, "server_pss_mb"),
        rss_mb=_middle(results, "server_rss_mb"),
        client_share=median(shares) if shares else None,
        index_s=_middle(results, "index_s"),
        indexed=median(indexed) if indexed else None,
        lag_ms=max(lags) if lags else None,
        lag_breaches=sum(breaches) if breaches else None,
        is_rest=all(one.get("is_rest", True) for one in results),
    )


def _compared(row: Row) -> Row:
    ours = row.sides[OURS]
    peers = {name: side for name, side in row.sides.items() if name != OURS}
    is_less_better = row.unit in LESS_IS_BETTER
    best: dict[str, str] = {}
    ratios: dict[str, float] = {}
    refused: list[str] = []
    valued = {name: side.value for name, side in peers.items() if side.value}
    if ours.value and valued:
        name = (min if is_less_better else max)(valued, key=lambda one: valued[one])
        best["value"] = name
        limit = [one for one in (OURS, name) if (row.sides[one].client_share or 0) >= CLIENT_LIMIT]
        if limit:
            refused.append(f"the client was the limit of {' and '.join(map(short, limit))}")
        else:
            ratios["value"] = valued[name] / ours.value if is_less_better else ours.value / valued[name]
            if ours.indexed and row.unit == "msg/s":
                ratios["indexed"] = ours.indexed / valued[name]
    costs = {name: side.cpu_us for name, side in peers.items() if side.cpu_us}
    if ours.cpu_us and costs:
        name = min(costs, key=lambda one: costs[one])
        best["cpu"] = name
        untold = [one for one in (OURS, name) if not row.sides[one].is_cpu_told]
        restless = [one for one in (OURS, name) if not row.sides[one].is_rest]
        if untold:
            refused.append(f"CPU of {' and '.join(map(short, untold))} is too little to tell")
        elif restless:
            refused.append(f"{' and '.join(map(short, restless))} never came to rest")
        else:
            ratios["cpu"] = costs[name] / ours.cpu_us
    return replace(row, best=best, ratios=ratios, refused=tuple(refused))


def document(results: Sequence[Result], made_by: dict[str, object]) -> str:
    """All of it as JSON: what was run and on what, every result, the rows made of them."""
    made = rows(results)
    return json.dumps(made_by | {"results": list(results), "rows": [_plain(row) for row in made]}, indent=1) + "\n"


def _plain(row: Row) -> dict[str, object]:
    verdicts = [
        {"goal": one.goal.text, "got": one.got, "verdict": one.word, "is_default": one.goal is AHEAD}
        for one in row.verdicts
    ]
    return asdict(row) | {"verdicts": verdicts}


def show(results: Sequence[Result], console: Console, caption: str) -> None:
    """The table, the goals, the event loops."""
    made = rows(results)
    console.print(_cases(made, caption))
    goals = _goals(made)
    if goals.row_count:
        console.print(goals)
    lags = _lags(results)
    if lags.row_count:
        console.print(lags)


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M{unit}"
    return (f"{value / 1e3:.0f}k" if value >= 10_000 else shown(value)) + unit


def times(ratio: float | None) -> str:
    """A ratio as it is shown."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def short(peer: str) -> str:
    """What tells one peer from another: `dovecot-mdbox-perflogin-sha512` is mdbox."""
    return peer.split("-")[1] if "-" in peer else peer


def _colored(ratio: float | None) -> str:
    return f"[{'green' if (ratio or 0) >= 1 else 'red'}]{times(ratio)}[/]" if ratio is not None else ""


def _cases(made: Sequence[Row], caption: str) -> Table:
    """One line for each server; ratios stand with the best peer, verdicts with ours."""
    table = Table(title="Nx: Pochta is N times better than the best peer; ~: too little to tell", caption=caption)
    table.add_column("case", no_wrap=True, max_width=LONGEST_SHOWN)
    for name in ("server", "unit"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "ratio", "p50 ms", "p99 ms", "CPU us/op", "ratio", "PSS MB", "client", "lag ms", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goals, marks")
    for row in made:
        for name, side in row.sides.items():
            table.add_row(*_line(row, name, side), end_section=len(row.sides) > 1 and name == list(row.sides)[-1])
    return table


def _line(row: Row, name: str, side: Side) -> Iterator[str]:
    is_first = name == next(iter(row.sides))
    yield row.case if is_first else ""
    yield short(name)
    yield row.unit if is_first else ""
    yield _number(side.value)
    yield _colored(row.ratios.get("value")) if row.best.get("value") == name else ""
    yield _number(side.p50_ms)
    yield _number(side.p99_ms)
    yield ("" if side.is_cpu_told or side.cpu_us is None else "~") + _number(side.cpu_us)
    yield _colored(row.ratios.get("cpu")) if row.best.get("cpu") == name else ""
    yield _number(side.pss_mb)
    yield f"{side.client_share:.0%}" if side.client_share is not None else ""
    yield _lag(side.lag_ms, side.lag_breaches)
    yield str(side.runs)
    yield "; ".join(_marks(row)) if is_first else ""


def _marks(row: Row) -> Iterator[str]:
    for one in row.verdicts:
        color = {True: "green", False: "bold red", None: "yellow"}[one.is_met]
        if one.goal is not AHEAD:
            yield f"[{color}]{one.goal.text} {one.word}[/]"
        elif one.is_met is False:
            yield f"[{color}]BEHIND[/]"
    yield from (f"[yellow]not quoted: {text}[/]" for text in row.refused)


def _lag(worst_ms: float | None, breaches: int | None) -> str:
    if worst_ms is None and not breaches:
        return ""
    worst = "" if worst_ms is None else shown(worst_ms)
    return f"[{'red' if breaches else 'green'}]{worst}{f' ({breaches} over)' if breaches else ''}[/]"


def _goals(made: Sequence[Row]) -> Table:
    table = Table(title="goals")
    for name in ("case", "goal", "reached", ""):
        table.add_column(name, no_wrap=True)
    for row in made:
        for one in row.verdicts:
            if one.goal is not AHEAD or one.is_met is False:
                got = "" if one.got is None else times(one.got) if one.goal.measure in RATIOS else shown(one.got)
                color = {True: "green", False: "bold red", None: "yellow"}[one.is_met]
                table.add_row(row.case, one.goal.text, got, f"[{color}]{one.word}[/]")
    return table


def _lags(results: Sequence[Result]) -> Table:
    """The worst delay of our event loops in each group of cases, since the start of the server that served no other."""
    groups: dict[str, tuple[float, int]] = {}
    for one in results:
        if one["peer"] == OURS and one.get("lag_breaches") is not None:
            worst, breaches = groups.get(str(one["group"]), (0.0, 0))
            groups[str(one["group"])] = (
                max(worst, one.get("lag_since_start_ms") or 0.0),
                breaches + one["lag_breaches"],
            )
    table = Table(title=f"event loops of Pochta: at most {LAG_LIMIT_MS:.0f} ms late (INV-12)")
    for name in ("cases", "worst ms", "times over 10 ms", ""):
        table.add_column(name, no_wrap=True)
    for group, (worst, breaches) in groups.items():
        word = "[green]ok[/]" if worst <= LAG_LIMIT_MS and not breaches else "[bold red]MISS[/]"
        table.add_row(group, shown(worst), str(breaches), word)
    return table
