"""`pochta account`: addresses with a password and mailboxes."""

from typing import TYPE_CHECKING

import click

from pochta import clock
from pochta.cli import app_password
from pochta.cli.arguments import (
    ADDRESS,
    DOMAIN,
    NUMBER,
    QUOTA,
    confirm,
    json_option,
    password_option,
    read_password,
    yes_option,
)
from pochta.cli.opening import read, write
from pochta.cli.output import counted, print_json, print_notes, print_table, show_size, show_time

if TYPE_CHECKING:
    from pochta.store.directory import Account


@click.group("account")
def command() -> None:
    """Accounts: an address, a password, mailboxes."""


command.add_command(app_password.command)


@command.command("add")
@click.argument("address", type=ADDRESS)
@click.option("--quota", type=QUOTA, default="none", help="What its mail may take: 500M, 2G, none (the default).")
@click.option("--messages", type=NUMBER, help="How many messages it may keep; none (the default) for any number.")
@click.option("--mailboxes", type=NUMBER, help="How many mailboxes it may have; none (the default): 10000.")
@password_option
@click.pass_context
def add(
    ctx: click.Context,
    address: str,
    quota: int,
    messages: int | None,
    mailboxes: int | None,
    password_stdin: bool,
) -> None:
    """Make an account for ADDRESS, whose domain must be kept here."""
    from pochta.accounts import edit, passwords
    from pochta.store import directory

    read(ctx, directory.domain_id, edit.key(address)[1])  # refused before a person has typed a password
    credential = passwords.hash_password(read_password(password_stdin))
    write(ctx, edit.add_account, address, credential, quota, int(clock.now_s()))
    if messages or mailboxes:
        write(ctx, edit.set_limits, address, messages, mailboxes)


@command.command("list")
@click.option("--domain", type=DOMAIN, help="Only accounts of this domain.")
@json_option
@click.pass_context
def list_(ctx: click.Context, domain: str | None, as_json: bool) -> None:
    """List the accounts."""
    from pochta.accounts import edit
    from pochta.accounts.quota import show_quota
    from pochta.store import directory

    accounts = read(ctx, directory.accounts, None if domain is None else edit.domain_key(domain))
    if as_json:
        print_json([_as_json(one) for one in accounts])
        return
    rows = [
        (one.address, str(one.message_count), show_size(one.used_bytes), show_quota(one.quota_bytes))
        for one in accounts
    ]
    print_table(("account", "messages", "used", "quota"), rows)


@command.command("show")
@click.argument("address", type=ADDRESS)
@json_option
@click.pass_context
def show(ctx: click.Context, address: str, as_json: bool) -> None:
    """Show one account."""
    from pochta.accounts import edit
    from pochta.accounts.quota import show_quota

    one = read(ctx, edit.account, address)
    if as_json:
        print_json(_as_json(one))
        return
    click.echo(f"address   {one.address}")
    disabled = "nobody; shared" if one.is_shared else "disabled; mail is still taken"
    click.echo(f"sign-in   {'allowed' if one.is_enabled else disabled}")
    if one.sending_stopped is not None:
        click.echo(f"sending   stopped: {one.sending_stopped}")
    click.echo(f"messages  {one.message_count}")
    click.echo(f"used      {show_size(one.used_bytes)}")
    limits = [show_quota(one.quota_bytes)]
    limits += [counted(one.quota_messages, "message")] if one.quota_messages else []
    limits += [counted(one.quota_mailboxes, "mailbox")] if one.quota_mailboxes else []
    click.echo(f"quota     {', '.join(limits)}")
    click.echo(f"created   {show_time(one.created_at)}")


@command.command("remove")
@click.argument("address", type=ADDRESS)
@yes_option
@click.pass_context
def remove(ctx: click.Context, address: str, yes: bool) -> None:
    """Remove the account ADDRESS and all its mail."""
    from pochta.accounts import edit, notes

    read(ctx, edit.account, address)  # refused before a person is asked
    confirm(f"Remove {address} and all its mail?", yes)
    removed = write(ctx, edit.remove_account, address, int(clock.now_s()))
    click.echo(f"Removed {removed.address}: {counted(removed.message_count, 'message')}")
    print_notes(read(ctx, notes.on_removed_account, address))


@command.command("disable")
@click.argument("address", type=ADDRESS)
@click.pass_context
def disable(ctx: click.Context, address: str) -> None:
    """Let nobody sign in to ADDRESS; open connections end, mail is still taken."""
    from pochta.accounts import edit

    write(ctx, edit.set_enabled, address, False)


@command.command("enable")
@click.argument("address", type=ADDRESS)
@click.pass_context
def enable(ctx: click.Context, address: str) -> None:
    """Let ADDRESS sign in again."""
    from pochta.accounts import edit

    write(ctx, edit.set_enabled, address, True)


@command.command("stop")
@click.argument("address", type=ADDRESS)
@click.pass_context
def stop(ctx: click.Context, address: str) -> None:
    """Let ADDRESS send nothing more; it can sign in, and its mail is taken."""
    from pochta.accounts import sending

    write(ctx, sending.stop_address, address, sending.BY_HAND)


@command.command("release")
@click.argument("address", type=ADDRESS)
@click.pass_context
def release(ctx: click.Context, address: str) -> None:
    """Let ADDRESS send again, and count anew what it sends."""
    from pochta.accounts import sending

    write(ctx, sending.release, address)


@command.command("password")
@click.argument("address", type=ADDRESS)
@password_option
@click.pass_context
def password(ctx: click.Context, address: str, password_stdin: bool) -> None:
    """Give the account ADDRESS another password."""
    from pochta.accounts import edit, passwords

    read(ctx, edit.account, address)  # refused before a person has typed a password
    write(ctx, edit.set_credential, address, passwords.hash_password(read_password(password_stdin)))


@command.command("quota")
@click.argument("address", type=ADDRESS)
@click.argument("size", type=QUOTA, required=False)
@click.option("--messages", type=NUMBER, help="How many messages it may keep, or none for any number.")
@click.option("--mailboxes", type=NUMBER, help="How many mailboxes it may have, or none.")
@click.pass_context
def quota(ctx: click.Context, address: str, size: int | None, messages: int | None, mailboxes: int | None) -> None:
    """Bound what ADDRESS may keep: the SIZE of its mail (500M, 2G, none), messages, mailboxes."""
    from pochta.accounts import edit

    if size is None and messages is None and mailboxes is None:
        raise click.UsageError("name a size, --messages or --mailboxes")
    if size is not None:
        write(ctx, edit.set_quota, address, size)
    if messages is not None or mailboxes is not None:
        write(ctx, edit.set_limits, address, messages, mailboxes)


def _as_json(one: "Account") -> dict[str, object]:
    return {
        "address": one.address,
        "enabled": one.is_enabled,
        "messages": one.message_count,
        "used_bytes": one.used_bytes,
        "quota_bytes": one.quota_bytes or None,
        "quota_messages": one.quota_messages or None,
        "quota_mailboxes": one.quota_mailboxes or None,
        "shared": one.is_shared,
        "created_at": one.created_at,
        "sending_stopped": one.sending_stopped,
    }
