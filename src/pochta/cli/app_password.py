"""`pochta account app-password`: a password for one program or telephone, which can be taken back by itself."""

from typing import TYPE_CHECKING, Final

import click

from pochta import clock
from pochta.cli.arguments import ADDRESS, json_option
from pochta.cli.opening import read, write
from pochta.cli.output import print_json, print_table, show_time

if TYPE_CHECKING:
    from pochta.store.app_passwords import AppPassword

_SCOPES: Final = ("mail", "imap", "pop3", "smtp")
_MAX_ID: Final = (1 << 63) - 1  # what a column of the store holds


@click.group("app-password")
def command() -> None:
    """Passwords for single programs, each of which can be taken back."""


@command.command("add")
@click.argument("address", type=ADDRESS)
@click.option("--scope", type=click.Choice(_SCOPES), default="mail", help="What it opens; mail (the default): all.")
@click.option("--label", required=True, help="What it is for, as you will see it in the list.")
@click.pass_context
def add(ctx: click.Context, address: str, scope: str, label: str) -> None:
    """Make a password for one program of ADDRESS, and print it: once, for it is not kept."""
    from pochta.accounts import app_passwords, edit
    from pochta.accounts.auth import SECRET_BYTES, SECRET_NAME
    from pochta.store import sign_ins

    label = app_passwords.checked_label(label)
    local_part = read(ctx, edit.account, address).local_part
    secret = write(ctx, sign_ins.make_secret, SECRET_NAME, clock.token_bytes(SECRET_BYTES))
    password, made = app_passwords.make(secret, local_part)
    write(ctx, app_passwords.add, address, label, scope, made, int(clock.now_s()))
    click.echo(password.reveal())


@command.command("list")
@click.argument("address", type=ADDRESS)
@json_option
@click.pass_context
def list_(ctx: click.Context, address: str, as_json: bool) -> None:
    """List the app passwords of ADDRESS; the passwords themselves are not kept."""
    from pochta.accounts import app_passwords

    found = read(ctx, app_passwords.listed, address)
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    rows = [
        (str(one.id), one.label, one.scope, show_time(one.created_at), _day(one.used_at) or "never") for one in found
    ]
    print_table(("id", "label", "scope", "created", "used"), rows)


@command.command("remove")
@click.argument("address", type=ADDRESS)
@click.argument("id", type=click.IntRange(1, _MAX_ID))
@click.pass_context
def remove(ctx: click.Context, address: str, id: int) -> None:
    """Take back the app password ID of ADDRESS; open connections of the account end."""
    from pochta.accounts import app_passwords

    write(ctx, app_passwords.remove, address, id)


def _day(at: int | None) -> str | None:
    """To the day: it is not written more often."""
    return None if at is None else show_time(at)[:10]


def _as_json(one: "AppPassword") -> dict[str, object]:
    return {
        "id": one.id,
        "label": one.label,
        "scope": one.scope,
        "created_at": one.created_at,
        "used_day": _day(one.used_at),
    }
