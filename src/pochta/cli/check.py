"""`pochta check`: what is wrong with the store, and saving what is readable of a damaged one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pochta.cli.arguments import json_option
from pochta.cli.opening import settings_of
from pochta.cli.output import counted, print_json
from pochta.errors import SetupError

if TYPE_CHECKING:
    from pochta.store.invariants import Finding


@click.command("check")
@json_option
@click.option(
    "--salvage",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Instead, write every readable message to DIR/<address>/<mailbox>/<uid>.eml.",
)
@click.pass_context
def command(ctx: click.Context, as_json: bool, target: Path | None) -> None:
    """Look for contradictions in the store.

    Best while no server runs. Nothing is changed. Exit code 1 when there are errors; notes are none.
    """
    from pochta.store import check, salvage
    from pochta.store.invariants import Severity

    data_dir = settings_of(ctx).data_dir
    if target is not None:
        saved = salvage.salvage(data_dir, target)
        if as_json:
            print_json(saved._asdict())
        else:
            click.echo(
                f"{counted(saved.messages, 'message')} in {counted(saved.mailboxes, 'mailbox')}"
                f" of {counted(saved.accounts, 'account')} saved,"
                f" {saved.lost_and_found} more under {salvage.LOST}; {saved.failures} could not be read"
            )
        ctx.exit(1 if saved.failures else 0)
    with _progress(is_shown=not as_json) as tell:
        findings = [*_check_settings(ctx), *check.check(data_dir, on_progress=tell), *_check_index(data_dir)]
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding))
        errors = sum(finding.severity is Severity.ERROR for finding in findings)
        click.echo(f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'note')}")
    ctx.exit(1 if any(finding.severity is Severity.ERROR for finding in findings) else 0)


def _check_settings(ctx: click.Context) -> "list[Finding]":
    """What would keep a server from starting with these settings."""
    from pochta import config
    from pochta.net.tls import server_context
    from pochta.store.invariants import Finding, Severity

    path = config.find_config(ctx.find_root().obj)
    try:
        settings = config.load(path)
        if settings.uses_tls:
            server_context(settings.tls.certificate, settings.tls.key, client_ca=settings.tls.client_ca)
    except SetupError as error:
        return [Finding(Severity.ERROR, str(error), str(path), "`pochta serve` will refuse it")]
    return []


def _check_index(data_dir: Path) -> "list[Finding]":
    """Index files that are not of this store as it is; they are derived, so none is an error."""
    from pochta.index import rebuild, source
    from pochta.store import sqlite
    from pochta.store.invariants import Finding, Severity

    try:
        connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    except SetupError:
        return []  # told already
    try:
        tx = sqlite.SqliteTx(connection, 0)
        found = rebuild.faults(data_dir, lambda witness: source.fits(tx, witness))
    finally:
        connection.close()
    advice = "harmless: it is made anew by the server, or by `pochta index rebuild`"
    return [Finding(Severity.NOTE, f"the text index {what}", str(path), advice) for path, what in found]


@contextmanager
def _progress(*, is_shown: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """What `check` tells its progress to: a bar on standard error, for people at a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("check", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
