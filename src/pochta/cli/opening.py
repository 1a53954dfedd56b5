"""How a command gets at the settings and the store, whether or not a server runs."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import click

from pochta.errors import SetupError

if TYPE_CHECKING:
    from pochta.config import Settings
    from pochta.store.store import Store
    from pochta.store.tx import Tx

Args = TypeVarTuple("Args")
R = TypeVar("R")


def settings_of(ctx: click.Context) -> "Settings":
    """The settings that `-c`, the environment or the usual places name; the certificate is not looked at.

    Raises:
        SetupError: there are none, or something in them is wrong.
    """
    from pochta import config

    return config.load(config.find_config(ctx.find_root().obj), check_files=False)


def with_store(ctx: click.Context, use: "Callable[[Store], Awaitable[R]]") -> R:
    """What `use` makes of the store; runs an event loop of its own.

    Raises:
        SetupError: there is no store, or one of another version.
    """
    import asyncio

    # Loaded now: the owner of the data may not be able to read the program's files.
    import pochta.store.store  # noqa: F401 - loaded for its effect

    data_dir = settings_of(ctx).data_dir

    async def run() -> R:
        async with _open(data_dir) as store:
            return await use(store)

    with _as_owner_of(data_dir):
        return asyncio.run(run())


def read(ctx: click.Context, fn: "Callable[[Tx, *Args], R]", *args: *Args) -> R:
    """`fn(tx, *args)` on one snapshot."""
    return with_store(ctx, lambda store: store.read(0, fn, *args))


def write(ctx: click.Context, fn: "Callable[[Tx, *Args], R]", *args: *Args) -> R:
    """`fn(tx, *args)` in the write lane; a running server hears of it."""
    return with_store(ctx, lambda store: store.write(0, fn, *args))


@asynccontextmanager
async def _open(data_dir: Path) -> "AsyncIterator[Store]":
    from pochta.store import setup, sqlite
    from pochta.store.store import Store

    database = data_dir / sqlite.DATABASE_NAME
    if not database.exists():
        raise SetupError(f"{database}: there is no store; run `pochta init` first")
    setup.check_for_command(data_dir)
    store = Store(data_dir)
    store.start(hears_hints=False)
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def _as_owner_of(data_dir: Path) -> Iterator[None]:
    """As root, act as the owner of the data: a file that root makes there would lock the server out."""
    if os.geteuid() != 0 or not data_dir.exists() or (owner := data_dir.stat()).st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
