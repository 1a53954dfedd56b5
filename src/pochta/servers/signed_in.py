"""Whoever is signed in, and their end once the account's password has changed, or it was disabled or removed.

Theory of operation. A sign-in holds as long as the generation of the account's credential is the one it was made with.
Every change of a generation raises one number in the store too (`directory.sign_in_changes`), so that reading one row
tells that nothing has changed for anybody. That row is read after hints, but at most once in LOOK_S however many come
(a flood of deliveries costs ten small reads a second), and after the store's poll, which makes up for lost hints once
a second. Only when it differs are the generations compared, in slices of ACCOUNTS_A_TURN (INV-12).

A connection asks `is_current` before a command too: what is begun after the change is refused, whatever hints do.
"""

import asyncio
from typing import Final, Protocol

from pochta.accounts.auth import AuthenticatedAccount
from pochta.net.connection import report_bug
from pochta.store import directory
from pochta.store.store import Store
from pochta.store.tx import Hint

LOOK_S: Final = 0.1  # the longest wait behind a hint; ten looks of some 15 us a second are no load
ACCOUNTS_A_TURN: Final = 200  # 3 us each

_NEVER: Final = -1


class SignedInConnection(Protocol):
    """A connection that somebody has signed in on."""

    def end_session(self) -> None:
        """Tell the peer that it is signed out, and close; a command under way may end first. Called at most once."""


class Ticket:
    """One sign-in on one connection."""

    __slots__ = ("account_id", "compared_at", "connection", "generation")

    def __init__(self, account: AuthenticatedAccount, connection: SignedInConnection) -> None:
        self.account_id = account.account_id
        self.generation = account.generation
        self.connection = connection
        self.compared_at = _NEVER  # the number of changes at which the generation was last seen to hold


class SignedIn:
    """A worker's signed-in connections of every protocol."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tickets: dict[int, set[Ticket]] = {}
        self._fresh: set[Ticket] = set()  # not compared since their sign-in: the change may have come in between
        self._version = _NEVER  # of the store when `_changes` was read
        self._changes = _NEVER
        self._compared_at = _NEVER  # the number of changes at which all but the fresh ones were compared
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._tickets.values()))

    def add(self, account: AuthenticatedAccount, connection: SignedInConnection) -> Ticket:
        """Watch over a sign-in; keep the ticket, and `discard` it with the connection."""
        ticket = Ticket(account, connection)
        self._tickets.setdefault(ticket.account_id, set()).add(ticket)
        self._fresh.add(ticket)
        self._woken.set()
        return ticket

    def discard(self, ticket: Ticket) -> None:
        """The connection is gone. A ticket that was discarded before is no mistake."""
        self._fresh.discard(ticket)
        tickets = self._tickets.get(ticket.account_id)
        if tickets is not None:
            tickets.discard(ticket)
            if not tickets:
                del self._tickets[ticket.account_id]

    async def is_current(self, ticket: Ticket) -> bool:
        """Whether the sign-in still holds, as of the last commit. 2 us where nobody has committed since the last look.

        Otherwise one row is read for all connections, and one for the ticket where any generation has changed.
        """
        changes = await self._read_changes()
        if ticket.compared_at == changes:
            return True
        found = await self._store.read(ticket.account_id, directory.generation, ticket.account_id)
        if found != ticket.generation:
            return False
        ticket.compared_at = changes
        return True

    def hear(self, _hints: list[Hint]) -> None:
        """The store has changed; to be subscribed to its hints."""
        self._woken.set()

    async def run(self) -> None:
        """End sessions as they are lost, for ever."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """End the sessions that are lost."""
        changes = await self._read_changes()
        if changes != self._compared_at:
            accounts = tuple(self._tickets)
            self._compared_at = changes
        else:
            accounts = tuple({ticket.account_id for ticket in self._fresh})
        for start in range(0, len(accounts), ACCOUNTS_A_TURN):
            if start:
                await asyncio.sleep(0)
            await self._compare(accounts[start : start + ACCOUNTS_A_TURN], changes)

    async def _compare(self, accounts: tuple[int, ...], changes: int) -> None:
        found = await self._store.read(0, directory.generations, accounts)
        for account_id in accounts:
            for ticket in tuple(self._tickets.get(account_id, ())):
                self._fresh.discard(ticket)
                if ticket.generation == found.get(account_id):
                    ticket.compared_at = changes
                else:
                    self.discard(ticket)
                    try:
                        ticket.connection.end_session()
                    except Exception as error:  # noqa: BLE001 - one connection's bug must not keep others signed in
                        report_bug(error)

    async def _read_changes(self) -> int:
        # The version first: a commit between the two makes the next call read again.
        version = self._store.data_version()
        if version != self._version:
            self._changes = await self._store.read(0, directory.sign_in_changes)
            self._version = version
        return self._changes
