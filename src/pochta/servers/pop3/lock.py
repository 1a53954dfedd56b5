"""One POP3 session of an account at a time, over all workers: setting `pop3.exclusive`, RFC 1939 §4.

A lock is a lease (`store/leases.py`) of one connection. Its worker renews all that its connections hold in one write
every few seconds; when the worker dies they end by themselves after leases.DURATION_S. A lock that was lost
nevertheless (the process was stopped for a while) ends its session.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from pochta import clock, log
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.store import leases
from pochta.store.store import Store
from pochta.store.tx import Tx

RENEWALS_A_STEP: Final = 500  # of one write, 5 us each


class _Held(NamedTuple):
    account_id: int
    fence: int
    end_session: Callable[[], None]


def _name(account_id: int) -> str:
    return f"pop3 {account_id}"


def _renew(tx: Tx, held: tuple[tuple[int, int], ...], now: int) -> list[int]:
    """Hold on to (account, fence) each; the accounts whose lock is lost. One statement for each."""
    return [
        account_id
        for account_id, fence in held
        if not leases.renew(tx, _name(account_id), fence, now, leases.DURATION_S)
    ]


class ExclusiveLocks:
    """The locks that a worker's connections hold; `run` keeps them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, _Held] = {}
        self._holder = f"{os.uname().nodename}:{os.getpid()}:{clock.token_hex(4)}"
        self._count = 0  # so that each session is a holder of its own

    def __len__(self) -> int:
        return len(self._held)

    async def acquire(self, account_id: int, end_session: Callable[[], None]) -> None:
        """Take the account's lock until `release`; `end_session` is called should it be lost.

        Raises: Refusal: IN_USE. TryLater: the disk is full.
        """
        now = int(clock.now_s())
        # asked by a read first: a failed try would otherwise cost a commit
        other = await self._store.read(0, leases.holder_of, _name(account_id), now)
        if account_id in self._held or other is not None:
            raise _in_use()
        self._count += 1
        holder = f"{self._holder}:{self._count}"
        taking = self._store.write(0, leases.acquire, _name(account_id), holder, now, leases.DURATION_S)
        try:
            fence = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # the peer went away meanwhile, and nobody would give back what is taken now
            taking.add_done_callback(lambda done: self._give_back(account_id, done))
            raise
        if fence is None:
            raise _in_use()
        self._held[account_id] = _Held(account_id, fence, end_session)

    def _give_back(self, account_id: int, taken: "asyncio.Future[int | None]") -> None:
        if not taken.cancelled() and taken.exception() is None and (fence := taken.result()) is not None:
            self._release(account_id, fence)

    def release(self, account_id: int, end_session: Callable[[], None]) -> "asyncio.Future[None] | None":
        """Give the lock back that was taken with this `end_session`, if it is held; it is free once that is done.

        A session that has lost it may end after another one of this worker has taken it.
        """
        held = self._held.get(account_id)
        if held is None or held.end_session != end_session:
            return None
        del self._held[account_id]
        return self._release(account_id, held.fence)

    def _release(self, account_id: int, fence: int) -> "asyncio.Future[None]":
        releasing = self._store.write(0, leases.release, _name(account_id), fence)
        releasing.add_done_callback(_ignore)
        return releasing

    async def run(self) -> None:
        """Renew what is held, for ever."""
        while True:
            await asyncio.sleep(leases.RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """Hold on to every lock; the sessions whose lock is lost are ended."""
        held = tuple(self._held.values())
        for start in range(0, len(held), RENEWALS_A_STEP):
            step = held[start : start + RENEWALS_A_STEP]
            fences = tuple((one.account_id, one.fence) for one in step)
            try:
                # not durable: after a power cut nobody holds anything
                lost = await self._store.write(0, _renew, fences, int(clock.now_s()), durable=False)
            except TryLater as error:
                log.event("lease.later", name="pop3", reason=error.reason)
                continue
            for one in step:
                if one.account_id in lost and self._held.get(one.account_id) is one:
                    del self._held[one.account_id]
                    one.end_session()


def _in_use() -> Refusal:
    return Refusal(RefusalCode.IN_USE, "Another POP3 session of this account is open")


def _ignore(done: "asyncio.Future[None]") -> None:
    """A lock that could not be given back (a full disk) ends by itself."""
    if not done.cancelled():
        done.exception()
