"""`pochta share`: mailboxes that several people use."""

from typing import TYPE_CHECKING, TypeVarTuple

import click

from pochta import clock
from pochta.cli.arguments import ADDRESS, QUOTA, json_option
from pochta.cli.opening import read, with_store, write
from pochta.cli.output import counted, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from pochta.store.store import Store
    from pochta.store.tx import Tx

Args = TypeVarTuple("Args")


@click.group("share")
def command() -> None:
    """Shared mailboxes: who may do what with whose mail."""


@command.command("add")
@click.argument("address", type=ADDRESS)
@click.option("--quota", type=QUOTA, default="none", help="What its mail may take: 500M, 2G, none (the default).")
@click.pass_context
def add(ctx: click.Context, address: str, quota: int) -> None:
    """Make ADDRESS an account that nobody signs in to; its mailboxes stand below Shared/ of those with rights."""
    from pochta.accounts import sharing

    write(ctx, sharing.add, address, quota, int(clock.now_s()))


@command.command("convert")
@click.argument("address", type=ADDRESS)
@click.option("--back", is_flag=True, help="Let somebody sign in to it again, with its old password.")
@click.pass_context
def convert(ctx: click.Context, address: str, back: bool) -> None:
    """Make the account ADDRESS, with its mail, one that nobody signs in to; open connections end."""
    from pochta.accounts import sharing

    write(ctx, sharing.convert, address, not back)


@command.command("list")
@click.argument("address", type=ADDRESS, required=False)
@json_option
@click.pass_context
def list_(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """List who may do what with the mailboxes of all accounts, or of ADDRESS."""
    from pochta.accounts import sharing

    shares = read(ctx, sharing.shares, address)
    if as_json:
        print_json([one._asdict() for one in shares])
        return
    rows = [(one.owner, one.mailbox, one.whom, one.granted, one.denied) for one in shares]
    print_table(("account", "mailbox", "who", "rights", "denied"), rows)
    if address is None:
        named = {one.owner for one in shares}
        idle = [one.address for one in read(ctx, sharing.shared_accounts) if one.address not in named]
        for one in idle:
            click.echo(f"{one} is shared with nobody yet", err=True)


@command.command("grant")
@click.argument("address", type=ADDRESS)
@click.argument("mailbox")
@click.argument("who")
@click.argument("rights")
@click.option("--deny", is_flag=True, help="Take the rights from WHO, whatever else grants them.")
@click.pass_context
def grant(ctx: click.Context, address: str, mailbox: str, who: str, rights: str, deny: bool) -> None:
    """Let WHO (an address, or anyone) do RIGHTS in MAILBOX (* for all) of ADDRESS.

    RIGHTS: read, post, write, all, or letters: l see it, r read, s keep what was read, w other flags, i insert, p
    post by mail, k make mailboxes below, x remove it, t mark as deleted, e expunge, a administer. `+te` adds, `-- -te`
    takes away; without a sign they replace what was there.
    """
    from pochta.accounts import sharing

    edited = sharing.parse_rights(rights)
    _in_steps(ctx, mailbox, sharing.grant, address, mailbox, who, edited, deny, int(clock.now_s()))


@command.command("revoke")
@click.argument("address", type=ADDRESS)
@click.argument("mailbox")
@click.argument("who")
@click.pass_context
def revoke(ctx: click.Context, address: str, mailbox: str, who: str) -> None:
    """Take back whatever WHO was granted or denied in MAILBOX (* for all) of ADDRESS."""
    from pochta.accounts import sharing

    _in_steps(ctx, mailbox, sharing.revoke, address, mailbox, who, int(clock.now_s()))


def _in_steps(
    ctx: click.Context, mailbox: str, fn: "Callable[[Tx, *Args, int], tuple[str, ...]]", *args: *Args
) -> None:
    """Call `fn` with how many it has changed so far, until it changes few; say how many of every mailbox."""
    from pochta.accounts import sharing

    async def run(store: "Store") -> int:
        count = 0
        while True:
            changed = len(await store.write(0, fn, *args, count))
            count += changed
            if changed < sharing.MAILBOXES_A_STEP:
                return count

    count = with_store(ctx, run)
    if mailbox == sharing.EVERY_MAILBOX:
        click.echo(f"Changed {counted(count, 'mailbox')}")
