"""`pochta alias`: addresses that stand for others."""

import click

from pochta import clock
from pochta.cli.arguments import ADDRESS, json_option
from pochta.cli.opening import read, write
from pochta.cli.output import print_json, print_notes, print_table


@click.group("alias")
def command() -> None:
    """Aliases: addresses that stand for others."""


@command.command("add")
@click.argument("address", type=ADDRESS)
@click.argument("targets", type=ADDRESS, nargs=-1, required=True)
@click.pass_context
def add(ctx: click.Context, address: str, targets: tuple[str, ...]) -> None:
    """Send mail for ADDRESS to each of TARGETS, which may be aliases too."""
    from pochta.accounts import edit, notes

    write(ctx, edit.add_alias, address, list(targets), int(clock.now_s()))
    print_notes(read(ctx, notes.on_targets, address, list(targets)))


@command.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the aliases."""
    from pochta.store import directory

    aliases = read(ctx, directory.aliases)
    if as_json:
        print_json([{"address": one.address, "targets": one.targets} for one in aliases])
        return
    print_table(("alias", "targets"), [(one.address, ", ".join(one.targets)) for one in aliases])


@command.command("remove")
@click.argument("address", type=ADDRESS)
@click.pass_context
def remove(ctx: click.Context, address: str) -> None:
    """Forget the alias ADDRESS."""
    from pochta.accounts import edit

    write(ctx, edit.remove_alias, address)
