"""docs/fail2ban.md against the lines that the server writes: the address that is banned is the one that failed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts_harness import CHEAP, Accounts, HeldWall
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pochta.accounts import throttle
from pochta.accounts.auth import Authenticator, Service
from pochta.accounts.throttle import BY_NAME
from pochta.errors import Refusal, TryLater
from pochta.log import Secret

PAGE = (Path(__file__).parents[2] / "docs" / "fail2ban.md").read_text(encoding="utf-8")
# As fail2ban does: <HOST> is an address or a name, and the date is cut out of the line before it is searched.
EXPRESSIONS = [
    re.compile(line.strip().replace("<HOST>", r"(?:\[?(?:::f{4,6}:)?(?P<host>[\w\-.^_:]*\w)\]?)"))
    for line in PAGE.partition("failregex = ")[2].partition("journalmatch")[0].strip().splitlines()
]
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PEER = "192.0.2.66"


def banned(line: str) -> list[str]:
    left = DATE.sub("", line.rstrip("\n"), count=1)
    return [match["host"] for match in (one.search(left) for one in EXPRESSIONS) if match]


@pytest.fixture
def door(accounts: Accounts, wall: HeldWall) -> Iterator[Authenticator]:
    door = Authenticator(accounts.store, cost=CHEAP)

    async def close() -> None:
        door.close()

    yield door
    accounts.run(close())


def test_page_has_an_expression_for_each_event() -> None:
    assert len(EXPRESSIONS) == 2
    assert not any(word in one.pattern for word in ("repeated", "reason") for one in EXPRESSIONS)


@pytest.mark.parametrize("peer", [PEER, "2001:db8::66"])
@pytest.mark.parametrize("service", Service)
def test_lines_of_failures(
    accounts: Accounts, door: Authenticator, events: list[str], service: Service, peer: str
) -> None:
    def guess(password: str) -> None:
        accounts.run(door.verify("anna@example.org", Secret(password), service=service, peer=peer))

    for number in range(BY_NAME.free + 1):
        with pytest.raises(Refusal):
            guess(str(number))
    with pytest.raises(TryLater):
        guess("x")
    assert [banned(line) for line in events] == [[peer]] * (BY_NAME.free + 2)
    prefix = "Jun 15 15:06:40 mail pochta[4711]: "
    assert [banned(f"{prefix}{line}") for line in events] == [[peer]] * (BY_NAME.free + 2)


def test_device_with_an_old_password_is_let_be(accounts: Accounts, door: Authenticator, events: list[str]) -> None:
    for _ in range(3):
        with pytest.raises(Refusal):
            accounts.run(door.verify("anna", Secret("old"), service=Service.IMAP, peer=PEER))
    assert [banned(line) for line in events] == [[PEER], [], []]


def test_app_password_of_something_else_is_let_be(events: list[str]) -> None:
    for repeated in (None, "yes"):
        throttle.log.event("auth.failed", address="anna", peer=PEER, service="smtp", repeated=repeated, reason="scope")
    assert [banned(line) for line in events] == [[], []]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.text('" \\=aZ\n', max_size=30))
@example("x peer=10.0.0.1 service=imap")
@example('" peer=10.0.0.1 service=imap')
@example('x" peer=10.0.0.1 service=imap\n')
@example("2025-06-15T15:06:40.000Z auth.failed address=x peer=10.0.0.1 service=imap")
@example("auth.failed address=\\")
@example(' auth.failed address=" peer=10.0.0.1 service=imap')
@example("ünïcode")
def test_no_name_bans_anybody_else(events: list[str], name: str) -> None:
    del events[:]
    throttle.log.event("auth.failed", address=name, peer=PEER, service="imap", repeated=None, reason=None)
    assert banned(events[0]) == [PEER]
