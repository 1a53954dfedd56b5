"""`pochta index`: how the text index stands, and making it anew."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pochta.cli.arguments import ADDRESS, json_option
from pochta.cli.backup import progress_bar
from pochta.cli.opening import settings_of, with_store
from pochta.cli.output import counted, print_json, print_table, show_size

if TYPE_CHECKING:
    from pochta.index.rebuild import Standing
    from pochta.store.store import Store


@click.group("index")
def command() -> None:
    """The text index that SEARCH asks: how it stands, made anew."""


@command.command("status")
@click.argument("address", type=ADDRESS, required=False)
@json_option
@click.pass_context
def status(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """Show how far the index is, for ADDRESS or for every account."""
    from pochta.index import rebuild

    data_dir = settings_of(ctx).data_dir

    async def work(store: "Store") -> "list[tuple[str, Standing]]":
        accounts = await _accounts(store, address)
        return [(name, await rebuild.standing(store, data_dir, account_id)) for account_id, name in accounts]

    standings = with_store(ctx, work)
    if as_json:
        print_json([{"address": name, **one._asdict()} for name, one in standings])
        return
    heads = ("account", "messages", "indexed", "waiting", "size", "")
    print_table(heads, [_row(name, one) for name, one in standings])


def _row(name: str, one: "Standing") -> tuple[str, ...]:
    fault = f"will be made anew: {one.fault}" if one.fault else ""
    return name, str(one.messages), str(one.indexed), str(one.waiting), show_size(one.size_bytes), fault


@command.command("rebuild")
@click.argument("address", type=ADDRESS, required=False)
@click.pass_context
def rebuild(ctx: click.Context, address: str | None) -> None:
    """Make the index of ADDRESS, or of every account, anew; a server may run meanwhile.

    Searches go on with the index there is until the new one is whole.
    """
    data_dir = settings_of(ctx).data_dir
    accounts, messages = with_store(ctx, lambda store: _rebuild(store, data_dir, address))
    click.echo(f"{counted(messages, 'message')} of {counted(accounts, 'account')} indexed")


async def _rebuild(store: "Store", data_dir: Path, address: str | None) -> tuple[int, int]:
    from functools import partial

    import apsw

    from pochta.errors import TryLater
    from pochta.index import rebuild
    from pochta.store import sqlite

    accounts = await _accounts(store, address)
    messages = 0
    with progress_bar() as tell:
        for account_id, name in accounts:
            total = (await rebuild.standing(store, data_dir, account_id)).messages
            try:
                shown = partial(_tell, tell, name, total)
                messages += await rebuild.rebuild(store, data_dir, account_id, tell=shown)
            except (apsw.Error, OSError) as error:
                reason = sqlite.as_try_later(error)
                raise reason if isinstance(reason, TryLater) else error from error
    return len(accounts), messages


def _tell(tell: "Callable[[str, int, int], None]", name: str, total: int, done: int) -> None:
    tell(name, min(done, total), total)


async def _accounts(store: "Store", address: str | None) -> list[tuple[int, str]]:
    """(id, address) of the accounts that are meant.

    Raises:
        Refusal: NOT_FOUND, there is no such account.
    """
    from pochta.accounts import edit
    from pochta.store import directory

    if address is not None:
        one = await store.read(0, edit.account, address)
        return [(one.id, one.address)]
    return [(one.id, one.address) for one in await store.read(0, directory.accounts)]
