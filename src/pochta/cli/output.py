"""Lists: a table for people, a JSON array for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from pochta.store.invariants import Finding

_NO_LIMIT_COLUMNS: Final = 10_000  # into a file or a pipe nothing is folded


def print_json(value: object) -> None:
    """One line of JSON, text as it is."""
    click.echo(json.dumps(value, ensure_ascii=False))


def counted(count: int, noun: str) -> str:
    """`1 note`, `2 notes`, `2 mailboxes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{count} {noun}{ending}"


def print_notes(notes: "Iterable[Finding]") -> None:
    """What a person should know though all went well, as `pochta check` tells it; on standard error."""
    for note in notes:
        click.echo(str(note), err=True)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their heads."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _NO_LIMIT_COLUMNS, markup=False, emoji=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())


def show_time(at: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_size(size_bytes: int) -> str:
    """About how much: three digits and a unit."""
    size = float(size_bytes)
    for unit in ("B", "K", "M", "G"):
        if size < 1000:
            return f"{size:.0f}{unit}" if size >= 10 or unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"
