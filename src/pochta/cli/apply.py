"""`pochta apply`: domains, accounts, aliases and shares from a file."""

from functools import partial
from pathlib import Path

import click

from pochta import clock
from pochta.cli.opening import with_store
from pochta.cli.output import counted


@click.command("apply")
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Remove what the file does not declare, accounts with their mail.")
@click.pass_context
def command(ctx: click.Context, file: Path, dry_run: bool, prune: bool) -> None:
    """Make domains, accounts, aliases and shares what a file declares.

    Prints each change; a second run changes nothing. Up to 50 new accounts are made in one transaction.
    """
    from pochta.accounts import apply, declare, signing
    from pochta.config import default_workers
    from pochta.store.store import Store

    declaration = declare.read(file)

    async def bring_up(store: Store) -> int:
        state = await store.read(0, apply.known, declaration.owners)
        credentials = apply.settle_credentials(declaration, state, threads=default_workers(), is_dry_run=dry_run)
        now = int(clock.now_s())
        changes = apply.plan(declaration, state, credentials, now=now, prune=prune)
        if not dry_run:
            changes = apply.with_keys(changes, partial(signing.new_keys, now))
        for step in apply.steps(changes):
            if not dry_run:
                await store.write(0, apply.run, [(change.verb, change.args) for change in step])
            for change in step:
                click.echo(change.line)
        return len(changes)

    count = with_store(ctx, bring_up)
    told = counted(count, "change") if count else "nothing to change"
    click.echo(f"{told} (dry run)" if dry_run else told)
