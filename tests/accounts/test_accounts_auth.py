"""Signing in: who is meant by a name, what is remembered and for how long, and what the outside can tell apart."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from accounts_harness import CHEAP, NOW, Accounts, HeldClock

from pochta.accounts import edit, passwords
from pochta.accounts import remembered as memory
from pochta.accounts.auth import AuthenticatedAccount, Authenticator, Service
from pochta.accounts.passwords import hash_password
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.log import Secret
from pochta.store import directory

PEER = "192.0.2.1"


@pytest.fixture
def door(accounts: Accounts) -> Iterator[Authenticator]:
    """anna and иван may come in, with "secret"."""
    accounts.domain()
    accounts.domain("почта.рф")
    accounts.account("Anna@example.org")
    accounts.account("иван@почта.рф")
    door = Authenticator(accounts.store, cost=CHEAP)
    yield door
    close(accounts, door)


def close(accounts: Accounts, door: Authenticator) -> None:
    async def work() -> None:
        door.close()

    accounts.run(work())


def sign_in(accounts: Accounts, door: Authenticator, name: str, password: str = "secret") -> AuthenticatedAccount:
    return accounts.run(door.verify(name, Secret(password), service=Service.IMAP, peer=PEER))


class _AskedAnewError(Exception):
    pass


def _asked_anew(credential: str, password: Secret) -> bool:
    raise _AskedAnewError


def remembered(accounts: Accounts, door: Authenticator, name: str, password: str = "secret") -> bool:
    """Whether this opens the account without a check; leaves nothing behind where it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "verify_password", _asked_anew)
        try:
            sign_in(accounts, door, name, password)
        except (_AskedAnewError, Refusal):
            return False
        return True


@pytest.mark.parametrize(
    ("name", "account_id"),
    [
        ("anna@example.org", 1),
        ("ANNA@Example.ORG", 1),
        ("anna", 1),
        ("Anna", 1),
        ("иван@почта.рф", 2),
        ("ИВАН@xn--80a1acny.xn--p1ai", 2),
        ("Иван", 2),
    ],
)
def test_who_is_meant(accounts: Accounts, door: Authenticator, name: str, account_id: int) -> None:
    assert sign_in(accounts, door, name).account_id == account_id


def test_who_signed_in(accounts: Accounts, door: Authenticator) -> None:
    assert sign_in(accounts, door, "anna") == AuthenticatedAccount(1, "Anna@example.org", 1)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("anna@example.org", "Secret"),
        ("anna@example.org", ""),
        ("anna@example.org", "s" * 5000),
        ("anna@example.org", "\ud800"),
        ("nobody@example.org", "secret"),
        ("anna@none.example", "secret"),
        ("anna+x@example.org", "secret"),
        ("alias@example.org", "secret"),
        ("@example.org", "secret"),
        ("anna@", "secret"),
        ("an na@example.org", "secret"),
        ("", "secret"),
        ("\0", "secret"),
        ("a" * 10_000, "secret"),
        ("bob", "secret"),
    ],
)
def test_refused_alike_and_logged(
    accounts: Accounts, door: Authenticator, events: list[str], name: str, password: str
) -> None:
    accounts.alias("alias@example.org", "anna@example.org")
    with pytest.raises(Refusal) as caught:
        sign_in(accounts, door, name, password)
    assert (caught.value.code, caught.value.text) == (RefusalCode.AUTH_FAILED, "authentication failed")
    assert len(events) == 1
    assert " auth.failed address=" in events[0]
    assert f" peer={PEER}" in events[0]
    assert not remembered(accounts, door, name, password)


def test_name_of_two_accounts_means_neither(accounts: Accounts, door: Authenticator) -> None:
    sign_in(accounts, door, "anna")
    accounts.account("anna@почта.рф")
    assert not remembered(accounts, door, "anna")
    with pytest.raises(Refusal):
        sign_in(accounts, door, "anna")
    accounts.write(edit.remove_account, "anna@example.org", NOW)
    assert sign_in(accounts, door, "anna").account_id == 3


def test_disabled_account(accounts: Accounts, door: Authenticator) -> None:
    sign_in(accounts, door, "anna")
    accounts.write(directory.set_enabled, "example.org", "anna", False)
    assert not remembered(accounts, door, "anna")
    with pytest.raises(Refusal):
        sign_in(accounts, door, "anna")


def test_unknown_name_costs_one_check_of_the_same_kind(
    accounts: Accounts, door: Authenticator, checks: list[str], events: list[str]
) -> None:
    for name in ("nobody@example.org", "anna@example.org"):
        with pytest.raises(Refusal):
            sign_in(accounts, door, name, "wrong")
    assert [credential.rsplit("$", 2)[0] for credential in checks] == ["$argon2id$v=19$m=8,t=1,p=1"] * 2


def test_account_without_password_takes_none(
    accounts: Accounts, door: Authenticator, checks: list[str], events: list[str]
) -> None:
    accounts.write(edit.add_account, "shared@example.org", "", 0, NOW)
    with pytest.raises(Refusal):
        sign_in(accounts, door, "shared@example.org", "")
    assert len(checks) == 1


def test_remembered_ten_minutes_after_the_last_use_and_an_hour_in_all(
    accounts: Accounts, door: Authenticator, checks: list[str], held: HeldClock
) -> None:
    sign_in(accounts, door, "anna")
    for _ in range(6):
        held.at += memory.SLIDING_S - 1
        assert remembered(accounts, door, "anna")
        assert sign_in(accounts, door, "ANNA@example.org").account_id == 1
    held.at += 6
    assert not remembered(accounts, door, "anna")  # the hour is over
    assert len(checks) == 1
    sign_in(accounts, door, "anna")
    held.at += memory.SLIDING_S
    assert not remembered(accounts, door, "anna")
    assert len(checks) == 2


def test_new_password_ends_what_is_remembered(accounts: Accounts, door: Authenticator, events: list[str]) -> None:
    sign_in(accounts, door, "anna")
    accounts.write(edit.set_credential, "anna@example.org", hash_password(Secret("other"), CHEAP))
    assert not remembered(accounts, door, "anna")
    with pytest.raises(Refusal):
        sign_in(accounts, door, "anna")
    assert sign_in(accounts, door, "anna", "other").generation == 2


def test_account_made_again_is_another(accounts: Accounts, door: Authenticator) -> None:
    sign_in(accounts, door, "anna")
    accounts.write(edit.remove_account, "anna@example.org", NOW)
    accounts.account("anna@example.org", "other")
    assert not remembered(accounts, door, "anna")


def test_least_used_is_forgotten_first(
    accounts: Accounts, door: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LIMIT", 2)
    accounts.account("bob@example.org")
    for name in ("anna", "иван", "anna", "bob"):
        sign_in(accounts, door, name)
    assert [remembered(accounts, door, name) for name in ("anna", "иван", "bob")] == [True, False, True]


def test_wrong_password_is_not_remembered_beside_the_right_one(
    accounts: Accounts, door: Authenticator, events: list[str]
) -> None:
    sign_in(accounts, door, "anna")
    assert not remembered(accounts, door, "anna", "wrong")
    assert not remembered(accounts, door, "иван", "secret")


class _Gate:
    """Holds every check until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.opened = threading.Event()
        monkeypatch.setattr(passwords, "verify_password", self._verify)

    def _verify(self, credential: str, password: Secret) -> bool:
        self.count += 1
        assert self.opened.wait(10)
        return password.reveal() == "secret"


def test_same_question_at_once_is_checked_once(
    accounts: Accounts, door: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)

    async def five() -> list[AuthenticatedAccount]:
        tasks = [
            asyncio.create_task(door.verify("anna", Secret("secret"), service=Service.IMAP, peer=PEER))
            for _ in range(6)
        ]
        await asyncio.sleep(0)
        tasks[0].cancel()  # the connection that asked first is gone; the others still wait
        gate.opened.set()
        return await asyncio.gather(*tasks[1:])

    assert len({account.account_id for account in accounts.run(five())}) == 1
    assert gate.count == 1


def test_full_queue_is_put_off_for_known_and_unknown_names(
    accounts: Accounts, door: Authenticator, monkeypatch: pytest.MonkeyPatch, events: list[str]
) -> None:
    sign_in(accounts, door, "anna")  # the server's secret is made
    gate = _Gate(monkeypatch)
    narrow = Authenticator(accounts.store, queue_limit=1, cost=CHEAP)

    async def rush() -> list[object]:
        tasks = [
            asyncio.create_task(narrow.verify(f"u{n}", Secret("x"), service=Service.IMAP, peer=PEER)) for n in range(3)
        ]
        await asyncio.sleep(0)
        refused = await asyncio.gather(
            *(narrow.verify(name, Secret("x"), service=Service.IMAP, peer=PEER) for name in ("anna", "nobody")),
            return_exceptions=True,
        )
        gate.opened.set()
        return [*refused, *await asyncio.gather(*tasks, return_exceptions=True)]

    kinds = [type(one) for one in accounts.run(rush())]
    assert kinds == [TryLater, TryLater, Refusal, Refusal, Refusal]
    monkeypatch.undo()
    assert sign_in(accounts, narrow, "anna").account_id == 1  # there is room again
    close(accounts, narrow)


def test_nothing_prints_a_credential(accounts: Accounts) -> None:
    accounts.domain()
    accounts.account("anna@example.org")
    found = accounts.read(directory.sign_in, "anna", "example.org")
    assert "argon2" not in f"{found!r} {found} {Secret('x')!r}"


def _plan(tx: directory.Tx) -> str:
    return str(tx.rows(f"EXPLAIN QUERY PLAN {directory._SIGN_IN} WHERE {directory._ONLY_ONE}", ("u0",)))


def test_name_without_domain_is_found_by_index(accounts: Accounts) -> None:
    plan = accounts.read(_plan)
    assert "SEARCH account USING INDEX" in plan
    assert "SCAN account" not in plan
