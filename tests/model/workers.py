"""Two workers over one store in the loop of the test, as `pochta serve` has them, but for the processes.

Each is an `App` of its own: own connections to the database, own lane and views, own hint socket. They meet only in the
files of the store, so half of the news comes by datagram.
"""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from model.steps import ACCOUNTS, WORKERS
from pochta import clock, log
from pochta.accounts import edit, passwords
from pochta.app import App
from pochta.config import Limits, Listener, ListenerProtocol, Settings
from pochta.errors import Refusal, RefusalCode
from pochta.log import Secret
from pochta.net import connection
from pochta.net.listen import bind_all
from pochta.store import check, messages, setup
from pochta.store.invariants import Severity

CHEAP_COST: Final = passwords.Cost(memory_kib=8, passes=1)
DOMAIN: Final = "example.org"
WALKS_MAX: Final = 1000  # of one `Workers`; the first account of each administers
PASSWORD: Final = "secret"


class Workers:
    """`async with Workers(folder) as workers`; each run takes an account of its own by `add_account`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.administrator: int | None = 0  # among the accounts of a walk
        self.bugs: list[BaseException] = []
        self.apps: list[App] = []
        self.addresses: list[tuple[str, int]] = []
        self._accounts = 0
        self._credential = passwords.hash_password(Secret(PASSWORD), CHEAP_COST)

    async def __aenter__(self) -> Self:
        setup.create(self.data_dir, is_throwaway=True)
        setup.prepare(self.data_dir, is_throwaway=True)
        self._bug_hook_before = connection.on_bug
        self._sink_before = log.set_sink(lambda _line: None)
        connection.on_bug = self.bugs.append
        for index in range(WORKERS):
            listener = Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:0", allow_plaintext_auth=True)
            settings = Settings(
                hostname="localhost",
                data_dir=self.data_dir,
                workers=WORKERS,
                listeners=(listener,),
                limits=Limits(min_free_bytes=0),
                administrators=tuple(f"u{1 + n * ACCOUNTS}@{DOMAIN}" for n in range(WALKS_MAX)),
            )
            bound = bind_all(settings.listeners)
            self.addresses.append(bound[0].address[:2])
            self.apps.append(App(settings, bound, index=index, password_cost=CHEAP_COST))
        for app in self.apps:
            await app.start()
        await self.apps[0].store.write(0, edit.add_domain, DOMAIN, None, int(clock.now_s()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for app in self.apps:
            await app.stop()
        setup.finish(self.data_dir)
        connection.on_bug = self._bug_hook_before
        log.set_sink(self._sink_before)

    async def check(self) -> list[str]:
        """What the store's own checker finds, which no client could see."""
        found = await asyncio.to_thread(check.check, self.data_dir)
        return [str(one) for one in found if one.severity is Severity.ERROR]

    async def add_account(self) -> tuple[str, int]:
        """(address, id) of a new account."""
        self._accounts += 1
        address = f"u{self._accounts}@{DOMAIN}"
        now = int(clock.now_s())
        return address, await self.apps[0].store.write(0, edit.add_account, address, self._credential, 0, now)

    async def set_quota(self, worker: int, address: str, messages: int) -> None:
        """Bound how many messages the account may hold; 0: no bound."""
        await self.apps[worker].store.write(0, edit.set_limits, address, messages, None)

    async def deliver(self, worker: int, account_id: int, message: bytes) -> bool:
        """A message arrives at one of the workers; whether the account had room for it."""
        app = self.apps[worker]
        incoming = app.intake.open()
        incoming.write(message)
        new = await incoming.finish(int(clock.now_s()))
        try:
            await app.store.write(account_id, messages.deliver, (account_id,), new)
        except Refusal as refusal:
            if refusal.code is not RefusalCode.OVER_QUOTA:
                raise
            return False
        return True
