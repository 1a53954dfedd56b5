"""`pochta status`: how the running server is doing."""

from typing import TYPE_CHECKING

import click

from pochta.cli.arguments import json_option
from pochta.cli.opening import settings_of
from pochta.cli.output import counted, print_json, print_table, show_size
from pochta.errors import Refusal, RefusalCode, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pochta.status.figures import IndexLagFigures, ServerFigures, Status


@click.command("status")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show how the running server is doing.

    Exit code 1 when none runs. Times are those of the worst worker, since its start.
    """
    import asyncio

    import msgspec

    from pochta.status.collect import collect

    data_dir = settings_of(ctx).data_dir
    try:
        status = asyncio.run(collect(data_dir))
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}; ask as the server's user, or as root") from None
    if status.server is None:
        why = "the server does not answer" if status.silent else "no server runs"
        raise Refusal(RefusalCode.NOT_FOUND, f"{data_dir}: {why}; see its log, or start it with `pochta serve`")
    if as_json:
        print_json(msgspec.to_builtins(status))
        return
    print_table(("server", ""), list(_rows(status, status.server)))
    click.echo()
    print_table(("worker", "pid", "up", "connections", "commits", "loop lag", "views", "spool"), _worker_rows(status))


def _rows(status: "Status", server: "ServerFigures") -> "Iterator[tuple[str, str]]":
    silent = f", {len(status.silent)} do not answer" if status.silent else ""
    yield "workers", f"{server.workers}{silent}, up {_show_duration(server.uptime_s)}"
    for head, one in zip(["listeners", *[""] * len(server.listeners)], server.listeners, strict=False):
        yield head, f"{one.protocol} {one.address}" + ("" if one.tls == "none" else f" {one.tls}")
    yield "connections", ", ".join(f"{protocol} {count}" for protocol, count in server.connections.items())
    lane = server.lane
    holds = f"p50 {_show_ms(lane.hold_p50_ms)}, p99 {_show_ms(lane.hold_p99_ms)}"
    yield "lane hold", f"{holds}; {counted(lane.commits, 'commit')}"
    yield "loop lag", f"worst {_show_ms(server.loop_lag.worst_ms)}; {server.loop_lag.breaches} over 10 ms"
    yield "index lag", _show_index_lag(server.index_lag)
    yield "WAL size", show_size(server.wal_bytes)
    yield "free disk", f"{show_size(server.free_disk_bytes)}; no new mail under {show_size(server.min_free_bytes)}"
    yield "background", server.lease_holder or "nobody"
    waiting = counted(server.queue_destinations, "destination")
    yield "queue", f"{waiting} waited for; {counted(server.queue_senders, 'worker')} to send"


def _show_index_lag(lag: "IndexLagFigures | None") -> str:
    if lag is None:
        return "unknown: nobody feeds the text index yet, or again"
    if not lag.accounts:
        return "none"
    if not lag.messages:
        return f"{counted(lag.accounts, 'account')}, whose messages are not counted yet, since {lag.seconds:.0f} s"
    return f"{counted(lag.messages, 'message')} of {counted(lag.accounts, 'account')}, since {lag.seconds:.0f} s"


def _worker_rows(status: "Status") -> list[tuple[str, ...]]:
    return [
        (
            str(one.worker),
            str(one.pid),
            _show_duration(one.uptime_s),
            str(sum(one.connections.values())),
            str(one.lane.commits),
            _show_ms(one.loop_lag.worst_ms),
            show_size(one.view_memory_bytes),
            show_size(one.spool_memory_bytes),
        )
        for one in status.workers
    ]


def _show_ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _show_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
