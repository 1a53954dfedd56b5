"""`growth`: the same operations in larger and larger mailboxes, and in stores of more and more accounts.

Between two repeats of an operation a message comes, a flag changes and a message is expunged, and words and messages
asked for change, so that no remembered answer is measured. Each figure is the factor from the smallest to the largest;
its details are what stands in the table: median CPU of the server and median time, at each size.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from measure.figures import Figure, shown
from measure.fill import fill_accounts
from measure.growth_mailbox import MESSAGE_BYTES, PARTS, ROUNDS_MAX, SMALLEST, Mailbox, Smtp, fill_mailbox
from measure.meter import Meter, Row
from measure.server import DOMAIN, PASSWORD, BenchServer
from measure.wire import Imap, sample_message
from pochta.accounts import passwords
from pochta.log import Secret

GOAL_FACTOR = 2.0  # of CPU, smallest to largest: a B-tree of a thousand times as many rows is two levels deeper
TOLD_US = 100.0  # a larger figure that is less than this counts as flat: what the clocks and idle work blur
SIZES = (1000, 10_000, 100_000)
ACCOUNTS = (10, 1000, 10_000)
RESTARTS = 3
ROUNDS_A_REPEAT = 4
FREE = (  # may grow, or are not the same thing at each size: told, without a goal
    "memory of a worker, MB",
    "start until at rest",
    "start again until at rest",
    "index, the first message of an account",  # of ten accounts, some get several
)
STRIDE = 7919  # a prime: accounts are visited in no order, each once


def growth(*, workers: int, sizes: Sequence[int], accounts: Sequence[int], repeats: int) -> list[Figure]:
    """One figure for each operation, by messages and by accounts; a size below a thousand messages cannot be asked."""
    if any(size < SMALLEST or size % PARTS for size in sizes):
        raise SystemExit(f"growth: a mailbox has {SMALLEST} messages at least, and a multiple of {PARTS}")
    if any(number < 2 for number in accounts):
        raise SystemExit("growth: a store has two accounts at least")
    rounds = min(ROUNDS_MAX, ROUNDS_A_REPEAT * repeats)
    by_size = {size: _in_mailbox(workers, size, rounds) for size in sizes}
    by_accounts = {number: _in_store(workers, number, rounds) for number in accounts}
    return [*growth_figures("messages", by_size), *growth_figures("accounts", by_accounts)]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _in_mailbox(workers: int, size: int, rounds: int) -> dict[str, Row]:
    with BenchServer(workers=workers) as server:
        with _progress() as progress:
            fill_mailbox(server.data_dir, size, progress)
        server.start()
        meter = Meter(server)
        mailbox = Mailbox(meter, size)
        fed_us = meter.rest_us()
        mailbox.run_round()  # everything is warm
        meter.rows.clear()
        with _progress() as progress:
            for _ in progress.track(range(rounds), description=f"{size} messages"):
                mailbox.run_round()
        came = mailbox.came
        meter.tell("index, a message that came", (meter.rest_us() - fed_us) / came)
        meter.tell("memory of a worker, MB", _memory_mb(meter))
        for number in range(RESTARTS):
            mailbox.run_cold(2 * number)
        mailbox.close()
    return meter.rows


def _memory_mb(meter: Meter) -> float:
    """PSS of the largest worker, without the processes it has started."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in meter.workers]
    return max(int(text.partition("\nPss:")[2].split()[0]) for text in rollups) / 1024


def _in_store(workers: int, number: int, rounds: int) -> dict[str, Row]:
    with BenchServer(workers=workers, accounts=1) as server:
        names = [f"a{one}" for one in range(number - 1)]
        credential = passwords.hash_password(Secret(PASSWORD))
        with _progress() as progress:
            filling = progress.add_task(f"{number} accounts", total=number - 1)
            fill_accounts(server.data_dir, DOMAIN, names, credential, lambda more: progress.advance(filling, more))
        server.start()
        meter = Meter(server)
        meter.tell("start until at rest", meter.start_s * 1e6)
        meter.tell("memory of a worker, MB", _memory_mb(meter))
        meter.tell("idle, CPU a second", meter.idle_share * 1e6)
        fed_us = meter.rest_us()
        _run_accounts(meter, [names[one * STRIDE % len(names)] for one in range(4 * rounds)], rounds)
        meter.tell("index, the first message of an account", (meter.rest_us() - fed_us) / (2 * rounds))
        meter.tell("memory of a worker after it, MB", _memory_mb(meter))
        server.stop()
        server.start()
        meter.begin()
        meter.tell("start again until at rest", meter.start_s * 1e6)
    return meter.rows


def _run_accounts(meter: Meter, names: Sequence[str], rounds: int) -> None:
    port = meter.server.imap_port
    smtp = Smtp(meter.server.smtp_port)
    message = sample_message(MESSAGE_BYTES)
    seen: set[str] = set()
    for one in range(rounds):
        user, other = names[2 * one], names[2 * one + 1]
        if user not in seen:
            meter.measure("sign-in, first", partial(_sign_in, port, user))
        seen |= {user, other}
        meter.measure("sign-in, remembered", partial(_sign_in, port, user))
        imap = Imap(port, user)
        meter.measure("SELECT", partial(imap.command, b"SELECT INBOX"))
        meter.measure("APPEND", partial(imap.command, b"APPEND INBOX {%d+}\r\n" % len(message) + message))
        meter.measure("delivery", partial(smtp.deliver, other))
        imap.close()
    smtp.close()


def _sign_in(port: int, user: str) -> None:
    Imap(port, user).close()


def growth_figures(by: str, rows: dict[int, dict[str, Row]]) -> list[Figure]:
    """A factor needs two sizes; with one there are the details alone."""
    found = []
    for name in next(iter(rows.values()), {}):
        of = {size: rows[size][name] for size in rows if name in rows[size]}
        middles = [median(row.values) for row in of.values()]
        is_memory = name.endswith("MB")
        factor = middles[-1] / max(middles[0], 1.0 if is_memory else TOLD_US)
        detail: dict[str, object] = {
            str(size): {("pss_mb" if is_memory else "cpu_us"): round(median(row.values), 1)}
            | ({"p50_ms": round(median(row.times_ms), 2)} if row.times_ms else {})
            for size, row in of.items()
        }
        goal = None if "first after" in name or name in FREE else GOAL_FACTOR
        found.append(Figure(f"growth by {by}: {name}", factor, "x", goal, True, detail))
    return found


def show(figures: Sequence[Figure]) -> None:
    """The tables."""
    console = Console()
    for by in ("messages", "accounts"):
        chosen = [one for one in figures if one.name.startswith(f"growth by {by}: ")]
        if chosen:
            console.print(_table(by, chosen))


def _table(by: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=f"by {by}: CPU of the server in us, median time in ms; x: factor of CPU, smallest to largest")
    table.add_column("operation", min_width=30)
    for size in figures[0].detail:
        table.add_column(f"{int(size):,}".replace(",", " "), justify="right", no_wrap=True)
    table.add_column("x", justify="right")
    for one in figures:
        color = {True: "green", False: "bold red", None: "yellow"}[one.is_met]
        cells = [_cell(one.detail.get(size)) for size in figures[0].detail]
        table.add_row(one.name.partition(": ")[2], *cells, f"[{color}]{shown(one.value)}[/]")
    return table


def _cell(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    if "pss_mb" in value:
        return f"{value['pss_mb']:.1f} MB"
    return f"{value['cpu_us']:.0f}" + (f" / {value['p50_ms']:.2f}" if "p50_ms" in value else "")
