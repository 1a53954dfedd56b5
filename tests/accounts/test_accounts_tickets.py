"""Tickets that are no good: counted and made to wait as wrong passwords are, without a look at the next one."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from accounts_harness import CHEAP, Accounts, HeldWall

from pochta.accounts import exchanges
from pochta.accounts.auth import AuthenticatedAccount, Authenticator, Service
from pochta.accounts.sign_in import Channel
from pochta.accounts.throttle import BY_NETWORK
from pochta.errors import Refusal, RefusalCode, TryLater

PEER, ELSEWHERE = "198.51.100.7", "203.0.113.9"
NO_LAYER = b"\1\0\0\0"
GOOD = b"good"


class Tickets:
    """In place of Kerberos: a good ticket is anna's; `looks` counts how many were looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def begin(self, service: Service) -> "Tickets":
        return self

    def is_complete(self) -> bool:
        return False

    @property
    def username(self) -> str:
        return "anna@example.org"

    async def accept(self, token: bytes) -> bytes:
        self.looks += 1
        if token != GOOD:
            raise Refusal(RefusalCode.AUTH_FAILED, "authentication failed", "ticket")
        self.is_complete = lambda: True  # type: ignore[method-assign]
        return b""

    async def wrap(self, message: bytes) -> bytes:
        return message

    async def unwrap(self, token: bytes) -> bytes:
        return token


@pytest.fixture
def door(accounts: Accounts, wall: HeldWall) -> Iterator[Authenticator]:
    accounts.domain()
    accounts.account("anna@example.org")
    door = Authenticator(accounts.store, cost=CHEAP)
    yield door

    async def close() -> None:
        door.close()

    accounts.run(close())


def show(accounts: Accounts, door: Authenticator, tickets: Tickets, token: bytes, peer: str = PEER) -> Any:
    channel = Channel(service=Service.IMAP, peer=peer, is_private=True)
    exchange = exchanges.Gssapi(door, channel, cast(Any, tickets))

    async def work() -> object:
        await exchange.step(None)
        await exchange.step(token)
        return await exchange.step(NO_LAYER)

    return accounts.run(work())


def test_bad_tickets_make_wait_without_a_look(accounts: Accounts, door: Authenticator, wall: HeldWall) -> None:
    tickets = Tickets()
    for _ in range(BY_NETWORK.free + 1):
        with pytest.raises(Refusal):
            show(accounts, door, tickets, b"bad")
    looked_at = tickets.looks
    for token in (b"bad", GOOD):
        with pytest.raises(TryLater):
            show(accounts, door, tickets, token)
    assert tickets.looks == looked_at == BY_NETWORK.free + 1
    assert isinstance(show(accounts, door, Tickets(), GOOD, ELSEWHERE), AuthenticatedAccount)
    wall.at += BY_NETWORK.delay_max_s
    assert isinstance(show(accounts, door, Tickets(), GOOD), AuthenticatedAccount)
