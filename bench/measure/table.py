"""Results of mailbench.py, read from JSON lines and set side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from measure.figures import shown

OURS = "pochta"
CPU_TOLD_S = 0.1  # ten ticks

Result = dict[str, object]


def read(path: Path) -> list[Result]:
    """The results in a file; what is no result is passed over."""
    lines = path.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in found if "case" in one and "peer" in one]


def _middle(results: Sequence[Result]) -> float | None:
    values = [one.get("value") for one in results]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return median(numbers) if numbers else None


def _cpu_us(results: Sequence[Result]) -> tuple[float | None, bool]:
    """(CPU for each operation over all runs together, whether the clock can tell so little).

    mailbench reads processes with several threads, as ours are, by ticks of 10 ms, and the others by nanoseconds: a sum
    under CPU_TOLD_S is then mostly rounding, and no ratio is made of it.
    """
    pairs = [(one.get("server_cpu_s"), one.get("n")) for one in results]
    told = [(float(cpu), n) for cpu, n in pairs if isinstance(cpu, int | float) and isinstance(n, int) and n]
    if not told:
        return None, False
    total = sum(cpu for cpu, _ in told)
    return total / sum(n for _, n in told) * 1e6, total >= CPU_TOLD_S


def _cell(value: float | None) -> str:
    return "" if value is None else shown(value)


def _ratio(ours: float | None, theirs: float | None, *, is_less_better: bool) -> str:
    """How many times better we are; under 1 we are worse."""
    if not ours or not theirs:
        return ""
    times = theirs / ours if is_less_better else ours / theirs
    text = f"{times:.2f}x" if times < 10 else f"{times:.0f}x"
    return f"[green]{text}[/]" if times >= 1 else f"[red]{text}[/]"


def show(results: Sequence[Result], machine: str) -> None:
    """One table: server CPU for each operation first, then the medians; a ratio says how many times better we are."""
    peers = [OURS, *dict.fromkeys(str(one["peer"]) for one in results if one["peer"] != OURS)]
    title = "server CPU us/op (all runs together), then the median; Nx: Pochta is N times better; ~: too little to tell"
    table = Table(title=title, caption=machine)
    table.add_column("case", no_wrap=True)
    for heading in ("CPU us", "median"):
        for peer in peers:
            table.add_column(f"{peer.replace('-', chr(10))}\n{heading}", justify="right", no_wrap=True)
            if peer != OURS:
                table.add_column("ratio", justify="right", no_wrap=True)
        if heading == "CPU us":
            table.add_column("unit", no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    for case, unit in dict.fromkeys((str(one["case"]), str(one["unit"])) for one in results):
        table.add_row(*_row(results, case, unit, peers))
    Console(width=max(Console().width, 80 + 40 * len(peers))).print(table)


def _row(results: Sequence[Result], case: str, unit: str, peers: Sequence[str]) -> list[str]:
    of = {
        peer: [one for one in results if (one["case"], one["unit"], one["peer"]) == (case, unit, peer)]
        for peer in peers
    }
    row = [case]
    our_cpu, is_ours_told = _cpu_us(of[OURS])
    for peer in peers:
        cpu, is_told = _cpu_us(of[peer])
        is_told = is_told if peer == OURS else is_ours_told and cpu is not None
        row.append(_cell(cpu) if is_told or cpu is None or peer != OURS else f"~{_cell(cpu)}")
        if peer != OURS:
            row.append(_ratio(our_cpu, cpu, is_less_better=True) if is_told else "")
    row.append(unit)
    ours = _middle(of[OURS])
    for peer in peers:
        value = _middle(of[peer])
        row.append(_cell(value))
        if peer != OURS:
            row.append(_ratio(ours, value, is_less_better=unit == "ms"))
    return [*row, "/".join(str(len(of[peer])) for peer in peers)]
