"""Short names for what the tests of accounts do most, over a started store."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pochta.accounts import edit
from pochta.accounts.passwords import Cost, hash_password
from pochta.log import Secret
from pochta.store.store import Store
from pochta.store.tx import Row, Tx

CHEAP = Cost(memory_kib=8, passes=1)
NOW = 1_750_000_000

R = TypeVar("R")


class Accounts:
    """A started store and short names for what the tests do most."""

    def __init__(self, store: Store, runner: asyncio.Runner) -> None:
        self.store = store
        self.runner = runner

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(work)

    def write(self, fn: Callable[..., R], *args: object) -> R:
        async def work() -> R:
            return await self.store.write(0, fn, *args)

        return self.run(work())

    def read(self, fn: Callable[..., R], *args: object) -> R:
        return self.run(self.store.read(0, fn, *args))

    def domain(self, name: str = "example.org", catch_all: str | None = None) -> None:
        self.write(edit.add_domain, name, catch_all, NOW)

    def account(self, address: str, password: str = "secret") -> int:
        return self.write(edit.add_account, address, hash_password(Secret(password), CHEAP), 0, NOW)

    def alias(self, address: str, *targets: str) -> None:
        self.write(edit.put_alias, address, list(targets), NOW)


class HeldClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.at = 1000.0


class HeldWall:
    """UTC that moves when the test says so."""

    def __init__(self) -> None:
        self.at = float(NOW)


def query(tx: Tx, sql: str) -> list[Row]:
    """For `Accounts.read`: any rows."""
    return tx.rows(sql)
