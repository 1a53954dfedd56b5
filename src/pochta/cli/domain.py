"""`pochta domain`: domains whose mail is kept here."""

from typing import TYPE_CHECKING

import click

from pochta import clock
from pochta.cli.arguments import CATCH_ALL, DOMAIN, confirm, json_option, yes_option
from pochta.cli.opening import read, with_store, write
from pochta.cli.output import counted, print_json, print_notes, print_table, show_time

if TYPE_CHECKING:
    from pochta.store.directory import Domain


@click.group("domain")
def command() -> None:
    """Domains whose mail is kept here."""


@command.command("add")
@click.argument("name", type=DOMAIN)
@click.option("--catch-all", type=CATCH_ALL, metavar="ADDRESS", help="Who gets what nobody else of the domain takes.")
@click.pass_context
def add(ctx: click.Context, name: str, catch_all: str | None) -> None:
    """Keep mail for the domain NAME from now on, with keys to sign what it sends."""
    from pochta.accounts import edit, signing

    now = int(clock.now_s())
    write(ctx, edit.add_domain, name, catch_all, now, signing.new_keys(now))
    _tell_of_catch_all(ctx, name, catch_all)


@command.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the domains."""
    from pochta.store import directory

    domains = read(ctx, directory.domains)
    if as_json:
        print_json([_as_json(one) for one in domains])
        return
    rows = [(d.shown, str(d.account_count), d.catch_all or "", show_time(d.created_at)) for d in domains]
    print_table(("domain", "accounts", "catch-all", "created"), rows)


@command.command("catch-all")
@click.argument("name", type=DOMAIN)
@click.argument("address", type=CATCH_ALL)
@click.pass_context
def catch_all(ctx: click.Context, name: str, address: str | None) -> None:
    """Send what nobody else of the domain NAME takes to ADDRESS; `none`: refuse it."""
    from pochta.accounts import edit

    write(ctx, edit.set_catch_all, name, address)
    _tell_of_catch_all(ctx, name, address)


def _tell_of_catch_all(ctx: click.Context, name: str, address: str | None) -> None:
    from pochta.accounts import notes

    if address is not None:
        print_notes(read(ctx, notes.on_targets, name, [address]))


@command.command("keys")
@click.argument("name", type=DOMAIN)
@json_option
@click.pass_context
def keys(ctx: click.Context, name: str, as_json: bool) -> None:
    """List the DKIM keys of the domain NAME, which its DNS has to name."""
    from pochta.accounts import signing

    records = read(ctx, signing.records, name)
    if as_json:
        print_json([one._asdict() for one in records])
        return
    rows = [
        (one.selector, one.algorithm, one.state, show_time(one.retired_at or one.signs_from or one.created_at))
        for one in records
    ]
    print_table(("selector", "algorithm", "state", "since"), rows)


@command.command("rotate-keys")
@click.argument("name", type=DOMAIN)
@click.pass_context
def rotate_keys(ctx: click.Context, name: str) -> None:
    """Make the next DKIM keys of the domain NAME, and print the records that DNS needs for them."""
    from pochta.accounts import signing
    from pochta.setup_records import quoted

    read(ctx, signing.records, name)  # refused before a key is made
    now = int(clock.now_s())
    selectors = write(ctx, signing.rotate, name, signing.new_keys(now), now)
    for one in read(ctx, signing.records, name):
        if one.selector in selectors:
            click.echo(f"{one.name}. IN TXT {quoted(one.text)}")


@command.command("remove")
@click.argument("name", type=DOMAIN)
@click.option("--with-accounts", is_flag=True, help="Remove its accounts, their mail, and its aliases too.")
@yes_option
@click.pass_context
def remove(ctx: click.Context, name: str, with_accounts: bool, yes: bool) -> None:
    """Forget the domain NAME; refused while accounts or aliases use it."""
    from pochta.accounts import edit, notes
    from pochta.store import directory
    from pochta.store.store import Store

    async def empty_and_remove(store: Store) -> None:
        while await store.write(0, edit.empty_domain, name, int(clock.now_s())) > 0:
            pass
        await store.write(0, edit.remove_domain, name)

    if not with_accounts:
        write(ctx, edit.remove_domain, name)
        return
    key = edit.domain_key(name)
    accounts = read(ctx, directory.accounts, key)
    alias_count = sum(one.domain == key for one in read(ctx, directory.aliases))
    confirm(f"Remove {name} with all accounts and their mail?", yes)
    with_store(ctx, empty_and_remove)
    messages = counted(sum(one.message_count for one in accounts), "message")
    click.echo(f"Removed {name}: {counted(len(accounts), 'account')}, {counted(alias_count, 'alias')}, {messages}")
    print_notes(read(ctx, notes.on_removed_domain, name))


def _as_json(one: "Domain") -> dict[str, object]:
    return {
        "name": one.shown,
        "a_label": one.name,
        "catch_all": one.catch_all,
        "accounts": one.account_count,
        "created_at": one.created_at,
    }
