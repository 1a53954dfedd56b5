"""`pochta serve`: hands over to the supervisor."""

from functools import partial
from pathlib import Path

import click

from pochta.errors import SetupError


@click.command("serve")
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Written once every port is open; lists address and port."
)
@click.pass_context
def command(ctx: click.Context, ready_file: Path | None) -> None:
    """Run the server until it is told to stop.

    SIGTERM or Ctrl-C end it once open commands are answered. It stays in the foreground and logs to standard error.
    """
    from pochta import config, supervisor
    from pochta.store import setup

    path = config.find_config(ctx.find_root().obj)
    settings = config.load(path)
    if not settings.listeners:
        raise SetupError(f"{path}: listener: there is none, so nothing would be served; add a [[listener]]")
    try:
        status = supervisor.run(
            settings,
            ready_file=ready_file,
            prepare=partial(_prepare, settings.data_dir),
            finish=partial(setup.finish, settings.data_dir),
        )
    except SetupError as error:
        raise error if str(path) in str(error) else SetupError(f"{path}: {error}") from None
    ctx.exit(status)


def _prepare(data_dir: Path) -> None:
    """The store ready to be served, with keys for domains that were made before there were any."""
    import asyncio

    from pochta import clock
    from pochta.accounts import signing
    from pochta.store import dkim_keys, setup
    from pochta.store.store import Store

    setup.prepare(data_dir)

    async def make_keys() -> None:
        store = Store(data_dir)
        store.start(hears_hints=False)
        try:
            for name in await store.read(0, dkim_keys.without_keys):
                now = int(clock.now_s())
                await store.write(0, signing.rotate, name, signing.new_keys(now), now)
        finally:
            await store.close()

    asyncio.run(make_keys())
