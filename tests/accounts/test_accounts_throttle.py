"""Guessing: what it costs, who is spared, what the workers share, and that nothing grows without bound."""

import asyncio
import threading
from collections.abc import Awaitable, Iterator

import pytest
from accounts_harness import CHEAP, NOW, Accounts, HeldClock, HeldWall, query

from pochta.accounts import edit, passwords, throttle
from pochta.accounts.auth import Authenticator, Service
from pochta.accounts.passwords import hash_password
from pochta.accounts.throttle import BY_NAME, BY_NETWORK, BY_TRUSTED, Bound
from pochta.errors import Refusal, TryLater
from pochta.log import Secret
from pochta.store import sign_ins
from pochta.store.sign_ins import Failures

PEER = "198.51.100.7"
NEIGHBOUR = "198.51.100.200"
ELSEWHERE = "203.0.113.9"
LATER, WRONG, IN = "later", "wrong", "in"


class Door:
    """One worker's authenticator, driven from outside; every guess is another password."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self.authenticator = Authenticator(accounts.store, cost=CHEAP)
        self._guesses = 0

    def enter(self, name: str, password: str, peer: str = PEER, service: Service = Service.IMAP) -> str:
        try:
            self.accounts.run(self.authenticator.verify(name, Secret(password), service=service, peer=peer))
        except Refusal:
            return WRONG
        except TryLater:
            return LATER
        return IN

    def guess(self, name: str = "anna@example.org", peer: str = PEER) -> str:
        self._guesses += 1
        return self.enter(name, f"guess {self._guesses}", peer)

    def fail(self, times: int, name: str = "anna@example.org", peer: str = PEER) -> None:
        """Failures without regard to the time they take."""

        async def work() -> None:
            who = throttle.asker(await self.authenticator._server_secret(), name, name, "imap", peer)
            for bound, key in ((BY_NAME, (who.who, who.network)), (BY_NETWORK, ("", who.network))):
                self.authenticator.throttle._add_failure((key, bound), times, int(throttle.clock.now_s()))

        self.accounts.run(work())

    def wait_s(self, name: str = "anna@example.org", peer: str = PEER) -> float:
        """How long the next attempt has to wait."""
        with pytest.raises(TryLater) as caught:
            self.accounts.run(self.authenticator.verify(name, Secret("secret"), service=Service.IMAP, peer=peer))
        return caught.value.retry_s

    def flush(self) -> None:
        self.accounts.run(self.authenticator.throttle.flush())

    def close(self) -> None:
        async def work() -> None:
            self.authenticator.close()

        self.accounts.run(work())


@pytest.fixture
def door(accounts: Accounts, wall: HeldWall) -> Iterator[Door]:
    """anna may come in, with "secret"; the time stands."""
    accounts.domain()
    accounts.account("anna@example.org")
    door = Door(accounts)
    yield door
    door.close()


@pytest.mark.parametrize("name", ["anna@example.org", "nobody@example.org", "anna", "nobody", "no name at all"])
def test_delay_grows_alike_for_every_name(
    door: Door, wall: HeldWall, checks: list[str], events: list[str], name: str
) -> None:
    assert [door.guess(name) for _ in range(BY_NAME.free + 1)] == [WRONG] * 6
    for wait_s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 256):
        assert door.wait_s(name) == wait_s
        wall.at += wait_s - 1
        assert door.guess(name) == LATER
        wall.at += 1
        assert door.guess(name) == WRONG
    assert len(checks) == 16  # while somebody waits nothing is checked, the right password neither


def test_right_password_after_the_wait(door: Door, wall: HeldWall, events: list[str]) -> None:
    door.fail(BY_NAME.free + 4)
    assert door.enter("anna@example.org", "secret") == LATER
    wall.at += 8
    assert door.enter("anna@example.org", "secret") == IN


@pytest.mark.parametrize("bound", [BY_NAME, BY_NETWORK, BY_TRUSTED])
def test_all_is_forgiven_within_a_day(bound: Bound) -> None:
    failures: Failures | None = None
    for at in range(0, 200_000, 10):
        failures = sign_ins.added(failures, 1, at, bound.forgive_s, bound.span_s)
    assert failures is not None
    last_at = failures.last_at
    assert bound.free_at(failures) - last_at == bound.delay_max_s
    assert bound.count(failures, last_at) == bound.count_max
    assert bound.count(failures, last_at + 86400) == 0
    assert failures.clear_at <= last_at + 86400


def test_failures_are_forgiven_one_by_one(door: Door, wall: HeldWall, events: list[str]) -> None:
    door.fail(BY_NAME.free + 3)
    door.flush()
    assert door.wait_s() == 4
    wall.at += BY_NAME.forgive_s * 3
    assert door.guess() == WRONG
    assert door.wait_s() == 1
    door.flush()
    wall.at += 86400
    assert [door.guess() for _ in range(BY_NAME.free + 1)] == [WRONG] * 6
    assert door.wait_s() == 1


@pytest.mark.parametrize(
    "spelling", ["ANNA@example.org", "anna@EXAMPLE.ORG", '"anna"@example.org', '"an\\na"@example.org']
)
def test_spellings_of_a_name_count_together(door: Door, events: list[str], spelling: str) -> None:
    door.fail(BY_NAME.free + 1)
    assert door.enter(spelling, "secret") == LATER


def test_wait_does_not_tell_whether_a_short_name_means_an_account(door: Door, events: list[str]) -> None:
    for name in ("anna", "nobody"):
        door.fail(BY_NAME.free + 1, f"{name}@example.org")
        assert door.guess(f"{name}@example.org") == LATER
        assert door.guess(name) == WRONG


def test_others_in_the_network_and_elsewhere(door: Door, events: list[str]) -> None:
    door.fail(BY_NAME.free + 1)
    assert door.guess(peer=NEIGHBOUR) == LATER
    assert door.guess("bob@example.org", peer=PEER) == WRONG
    assert door.enter("anna@example.org", "secret", ELSEWHERE) == IN


@pytest.mark.parametrize(
    ("peer", "network", "address"),
    [
        ("198.51.100.7", "198.51.100.0/24", "198.51.100.7/32"),
        ("::ffff:198.51.100.7", "198.51.100.0/24", "198.51.100.7/32"),
        ("2001:db8:1:2345:a::1", "2001:db8:1:2300::/56", "2001:db8:1:2345::/64"),
        ("fe80::1%eth0", "fe80::/56", "fe80::/64"),
        ("", "/", ""),
        ("unix:/run/x", "unix:/run/x/", "unix:/run/x"),
    ],
)
def test_places(peer: str, network: str, address: str) -> None:
    assert throttle.places(peer) == (network, address)


def test_neighbour_cannot_lock_out_an_address_that_came_in_lately(
    door: Door, wall: HeldWall, held: HeldClock, events: list[str]
) -> None:
    assert door.enter("anna@example.org", "secret", PEER) == IN
    door.flush()
    held.at += 86400  # nothing is remembered any more
    door.fail(50, peer=NEIGHBOUR)
    for name in range(BY_NETWORK.free):
        door.fail(1, f"user{name}@example.org", NEIGHBOUR)
    assert door.enter("anna@example.org", "secret", NEIGHBOUR) == LATER
    assert door.enter("bob@example.org", "secret", PEER) == LATER
    assert door.enter("anna@example.org", "secret", PEER) == IN
    held.at += 86400
    wall.at += sign_ins.SUCCESS_KEPT_S - 1  # the second sign-in wrote no new row: a day had not passed
    door.fail(50, peer=NEIGHBOUR)
    assert door.enter("anna@example.org", "secret", PEER) == IN


def test_trust_ends_after_a_month(door: Door, wall: HeldWall, held: HeldClock, events: list[str]) -> None:
    assert door.enter("anna@example.org", "secret", PEER) == IN
    door.flush()
    held.at += 86400
    wall.at += sign_ins.SUCCESS_KEPT_S
    door.fail(50, peer=NEIGHBOUR)
    assert door.enter("anna@example.org", "secret", PEER) == LATER


def test_trusted_address_is_no_way_to_guess_quickly(door: Door, wall: HeldWall, events: list[str]) -> None:
    assert door.enter("anna@example.org", "secret") == IN
    door.flush()
    assert [door.guess() for _ in range(BY_TRUSTED.free + 1)] == [WRONG] * (BY_TRUSTED.free + 1)
    assert door.guess() == LATER
    wall.at += 1
    for _ in range(10):
        assert door.guess() == WRONG
        wall.at += BY_TRUSTED.delay_max_s
    assert door.guess(peer=NEIGHBOUR) == WRONG  # was not counted there


def test_new_ipv6_address_of_a_known_network_is_trusted(door: Door, held: HeldClock, events: list[str]) -> None:
    assert door.enter("anna@example.org", "secret", "2001:db8:1:2345::1") == IN
    door.flush()
    held.at += 86400
    door.fail(50, peer="2001:db8:1:23ff::66")
    assert door.enter("anna@example.org", "secret", "2001:db8:1:2345:aaaa::2") == IN
    held.at += 86400
    assert door.enter("anna@example.org", "secret", "2001:db8:1:2346::1") == LATER


def test_same_password_on_many_names(door: Door, wall: HeldWall, events: list[str]) -> None:
    for number in range(BY_NETWORK.free + 1):
        assert door.enter(f"user{number}@example.org", "summer2025", f"198.51.100.{number % 256}") == WRONG
    assert door.enter("anna@example.org", "secret") == LATER
    assert door.enter("anna@example.org", "secret", ELSEWHERE) == IN
    wall.at += 1
    assert door.guess("user-x@example.org") == WRONG
    assert door.wait_s("user-y@example.org") == 2


@pytest.mark.parametrize("name", ["anna@example.org", "ANNA@example.org"])
def test_remembered_password_is_good_only_for_where_it_came_from(
    door: Door, wall: HeldWall, events: list[str], checks: list[str], name: str
) -> None:
    assert door.enter("anna@example.org", "secret", ELSEWHERE) == IN
    door.fail(BY_NAME.free + 3)
    for peer in (PEER, NEIGHBOUR):
        assert door.enter(name, "secret", peer) == LATER
    assert door.enter(name, "secret", ELSEWHERE) == IN
    assert len(checks) == 1
    door.flush()
    places = "SELECT address FROM sign_in_success ORDER BY address"
    assert door.accounts.read(query, places) == [(f"{ELSEWHERE}/32",)]  # who was put off is not trusted
    wall.at += 4
    assert door.enter(name, "secret", PEER) == IN
    assert len(checks) == 2


def test_remembered_password_follows_a_telephone_within_its_network(
    door: Door, events: list[str], checks: list[str]
) -> None:
    peers = ["2001:db8:1:2345::1", "2001:db8:1:2345:aaaa::2", "2001:db8:1:2346::1"]
    assert [door.enter("anna@example.org", "secret", peer) for peer in peers] == [IN] * 3
    assert len(checks) == 2


def test_addresses_share_neither_memory_nor_checks(door: Door, events: list[str], checks: list[str]) -> None:
    for peer in (PEER, ELSEWHERE):
        assert door.enter("anna@example.org", "secret", peer) == IN
    door.flush()
    other = Door(door.accounts)  # both are trusted, and nothing is remembered
    del checks[:]
    assert other.enter("anna@example.org", "secret", PEER) == IN
    assert other.enter("anna@example.org", "secret", ELSEWHERE) == IN
    assert len(checks) == 2
    other.close()
    third = Door(door.accounts)
    del checks[:]

    async def at_once() -> list[str]:
        verify = third.authenticator.verify
        peers = (PEER, ELSEWHERE, PEER, ELSEWHERE)
        return await asyncio.gather(
            *(_outcome(verify("anna", Secret("secret"), service=Service.IMAP, peer=peer)) for peer in peers)
        )

    assert third.accounts.run(at_once()) == [IN] * 4
    assert len(checks) == 2
    third.close()


def test_guessing_beside_the_owner_is_bounded_although_the_password_is_remembered(
    door: Door, wall: HeldWall, events: list[str], checks: list[str]
) -> None:
    assert door.enter("anna@example.org", "secret") == IN
    said = [door.guess() for _ in range(BY_TRUSTED.free + 1)]
    assert said == [WRONG] * len(said)
    for wait_s in (1, 2, 4, 8, 8):
        assert [door.enter("anna@example.org", "secret") for _ in range(20)] == [LATER] * 20
        assert [door.guess() for _ in range(20)] == [LATER] * 20
        assert door.wait_s() == wait_s
        wall.at += wait_s
        assert door.guess() == WRONG
    wall.at += BY_TRUSTED.delay_max_s
    assert door.enter("anna@example.org", "secret") == IN
    assert len(checks) == 1 + BY_TRUSTED.free + 1 + 5


def test_address_is_trusted_before_it_is_written(door: Door, events: list[str]) -> None:
    assert door.enter("anna@example.org", "secret") == IN
    assert [door.guess() for _ in range(BY_NAME.free + 5)] == [WRONG] * (BY_NAME.free + 5)
    assert door.enter("anna@example.org", "secret") == IN


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


async def _outcome(verify: Awaitable[object]) -> str:
    try:
        await verify
    except Refusal:
        return WRONG
    except TryLater:
        return LATER
    return IN


def test_nobody_joins_a_check_while_he_has_to_wait(
    door: Door, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    door.guess(peer=ELSEWHERE)  # the server's secret is made
    gate = _Gate(monkeypatch)

    async def work() -> list[str]:
        def enter() -> asyncio.Task[str]:
            verify = door.authenticator.verify("anna@example.org", Secret("secret"), service=Service.IMAP, peer=PEER)
            return asyncio.create_task(_outcome(verify))

        first = [enter() for _ in range(3)]
        await asyncio.sleep(0)
        who = throttle.asker(await door.authenticator._server_secret(), "", "anna@example.org", Service.IMAP, PEER)
        door.authenticator.throttle._add_failure(((who.who, who.network), BY_NAME), BY_NAME.free + 1, NOW)
        late = await enter()
        gate.opened.set()
        return [late, *await asyncio.gather(*first)]

    assert door.accounts.run(work()) == [LATER, IN, IN, IN]
    assert gate.count == 1


def test_connections_of_one_program_do_not_stand_in_their_own_way(
    door: Door, events: list[str], checks: list[str]
) -> None:
    door.fail(BY_NAME.free - 1)

    async def five() -> list[str]:
        verify = door.authenticator.verify
        return await asyncio.gather(
            *(_outcome(verify("anna", Secret("secret"), service=Service.IMAP, peer=PEER)) for _ in range(5))
        )

    door.fail(BY_NAME.free - 1, "anna")
    assert door.accounts.run(five()) == [IN] * 5
    assert len(checks) == 1


def test_remembered_password_is_not_looked_at_beside_as_many_guesses_as_are_free(
    door: Door, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each miss would be put off and cost nothing, and the hit would come in."""
    assert door.enter("anna@example.org", "secret") == IN
    gate = _Gate(monkeypatch)

    async def work() -> list[str]:
        def enter(password: str) -> asyncio.Task[str]:
            verify = door.authenticator.verify("anna@example.org", Secret(password), service=Service.IMAP, peer=PEER)
            return asyncio.create_task(_outcome(verify))

        guesses = [enter(f"guess {number}") for number in range(BY_TRUSTED.free)]
        await asyncio.sleep(0)
        hit = await enter("secret")
        gate.opened.set()
        return [hit, *await asyncio.gather(*guesses)]

    assert door.accounts.run(work()) == [LATER] + [WRONG] * BY_TRUSTED.free


def test_full_queue_makes_no_guess_free_where_passwords_are_remembered(
    door: Door, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.enter("anna@example.org", "secret") == IN
    monkeypatch.setattr(door.authenticator, "_capacity", 0)
    assert door.enter("anna@example.org", "secret") == IN
    assert [door.guess() for _ in range(BY_TRUSTED.free + 2)] == [LATER] * (BY_TRUSTED.free + 2)
    assert door.wait_s() == 1
    # Elsewhere nothing was remembered, so nothing was looked at.
    assert [door.guess(peer=ELSEWHERE) for _ in range(BY_NAME.free + 2)] == [LATER] * (BY_NAME.free + 2)
    monkeypatch.undo()
    assert door.guess(peer=ELSEWHERE) == WRONG


def test_second_name_of_an_account_tells_nothing_by_the_work(door: Door, checks: list[str], events: list[str]) -> None:
    for name in ("anna", "nobody"):
        del checks[:]
        for spelling in (f"{name}@example.org", name):
            assert door.enter(spelling, "a guess") == WRONG
        assert len(checks) == 2


@pytest.mark.parametrize(
    ("past_free", "text"),
    [(1, "1 second"), (3, "4 seconds"), (7, "64 seconds"), (8, "3 minutes"), (9, "5 minutes")],
)
@pytest.mark.parametrize("name", ["anna@example.org", "nobody@example.org"])
def test_how_long_to_wait_is_said(door: Door, events: list[str], name: str, past_free: int, text: str) -> None:
    door.fail(BY_NAME.free + past_free, name)
    with pytest.raises(TryLater, match=rf"^too many failed sign-ins; try again in {text}$"):
        door.accounts.run(door.authenticator.verify(name, Secret("x"), service=Service.IMAP, peer=PEER))


def test_old_password_given_again_and_again_is_one_failure(
    door: Door, wall: HeldWall, held: HeldClock, checks: list[str], events: list[str]
) -> None:
    assert [door.enter("anna@example.org", "last week's") for _ in range(50)] == [WRONG] * 50
    assert len(checks) == 1
    assert len(events) == 50
    assert ["repeated=yes" in line for line in events] == [False] + [True] * 49
    assert door.enter("anna@example.org", "secret") == IN
    # Told apart by where it comes from: nobody hears what others tried.
    assert door.enter("anna@example.org", "last week's", NEIGHBOUR) == WRONG
    assert door.enter("anna@example.org", "last week's", service=Service.SMTP) == WRONG
    held.at += 3600
    assert door.enter("anna@example.org", "last week's") == WRONG
    assert len(checks) == 5


def test_wrong_password_that_becomes_the_right_one(door: Door, events: list[str]) -> None:
    assert door.enter("anna@example.org", "other") == WRONG
    door.accounts.write(edit.set_credential, "anna@example.org", hash_password(Secret("other"), CHEAP))
    assert door.enter("anna@example.org", "other") == IN


def test_workers_share_what_they_know(door: Door, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FLUSH_S", 0.0)
    other = Door(door.accounts)
    for _ in range(BY_NAME.free + 1):
        assert door.guess() == WRONG
    door.flush()
    assert other.guess() == LATER
    assert other.enter("anna@example.org", "secret", ELSEWHERE) == IN
    other.close()
    third = Door(door.accounts)  # a restart forgets nothing
    assert third.guess() == LATER
    third.close()


def test_closing_writes_what_is_gathered(door: Door, events: list[str]) -> None:
    other = Door(door.accounts)
    for _ in range(BY_NAME.free + 1):
        other.guess()
    other.close()
    door.accounts.write(query, "SELECT 1")  # behind it in the lane
    assert door.guess() == LATER


def test_many_at_once_are_not_all_free(door: Door, events: list[str], checks: list[str]) -> None:
    async def rush() -> list[object]:
        verify = door.authenticator.verify
        guesses = [verify("anna@example.org", Secret(f"guess {n}"), service=Service.IMAP, peer=PEER) for n in range(50)]
        return await asyncio.gather(*guesses, return_exceptions=True)

    door.enter("anna@example.org", "secret", ELSEWHERE)
    del checks[:]
    kinds = [type(one) for one in door.accounts.run(rush())]
    assert kinds.count(Refusal) == len(checks) == BY_NAME.free
    assert kinds.count(TryLater) == 50 - BY_NAME.free


def test_guess_whose_connection_is_gone_counts(door: Door, events: list[str]) -> None:
    door.enter("anna@example.org", "secret", ELSEWHERE)

    async def guess_and_leave(number: int) -> None:
        verify = door.authenticator.verify("anna", Secret(f"bye {number}"), service=Service.IMAP, peer=PEER)
        task = asyncio.create_task(verify)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([check.future for check in door.authenticator._checking.values()])
        await asyncio.sleep(0)  # what ends it

    for number in range(BY_NAME.free + 1):
        door.accounts.run(guess_and_leave(number))
    assert door.guess("anna") == LATER


def test_flood_is_few_writes(door: Door, events: list[str]) -> None:
    door.enter("anna@example.org", "secret", ELSEWHERE)
    door.flush()
    before = door.accounts.store.lane.figures.writes

    async def flood() -> None:
        guesses = [
            door.authenticator.verify(f"u{n}@example.org", Secret("x"), service=Service.IMAP, peer=PEER)
            for n in range(90)
        ]
        await asyncio.gather(*guesses, return_exceptions=True)

    door.accounts.run(flood())
    door.flush()
    assert door.accounts.store.lane.figures.writes == before + 1
    assert door.accounts.read(query, "SELECT count(*) FROM sign_in_failure") == [(91,)]


def test_more_than_a_batch_is_written_at_once(door: Door, events: list[str]) -> None:
    count = throttle.BATCH_ROWS * 2 + 1

    async def work() -> None:
        inner = door.authenticator.throttle
        for number in range(count):
            inner._add_failure(((str(number), "x"), BY_NAME), 1, NOW)
        inner._begin_write()
        while inner._write is not None:
            await asyncio.wait([inner._write])
        assert inner._timer is None

    door.accounts.run(work())
    assert door.accounts.read(query, "SELECT count(*) FROM sign_in_failure") == [(count,)]


def test_full_disk_loses_no_failure(door: Door, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    door.enter("anna@example.org", "secret", ELSEWHERE)
    door.flush()
    with monkeypatch.context() as full:
        full.setattr(sign_ins, "record", _disk_is_full)
        for _ in range(BY_NAME.free + 1):
            door.guess()

        async def one_try() -> None:
            door.authenticator.throttle._begin_write()
            await asyncio.wait([door.authenticator.throttle._write])  # type: ignore[list-item]
            await asyncio.sleep(0)

        door.accounts.run(one_try())
        assert door.guess() == LATER
    assert sum("auth.record.failed reason=" in line for line in events) == 1
    door.flush()
    assert door.guess() == LATER
    assert door.accounts.read(query, "SELECT count(*) FROM sign_in_failure") == [(2,)]


def _disk_is_full(*args: object) -> None:
    raise TryLater("the server's disk is full")


def test_log_tells_once_that_somebody_waits(door: Door, wall: HeldWall, events: list[str]) -> None:
    door.fail(BY_NAME.free + 3)
    for _ in range(20):
        door.guess()
    wall.at += 4
    door.guess()
    for _ in range(20):
        door.guess()
    shown = [line.split(" ", 1)[1] for line in events if "auth.throttled" in line]
    assert shown == [
        f"auth.throttled address=anna@example.org peer={PEER} service=imap wait_s={wait_s}\n" for wait_s in (4, 8)
    ]


def test_tables_in_memory_are_bounded(
    door: Door, wall: HeldWall, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PENDING_LIMIT", "SEEN_LIMIT", "TOLD_LIMIT"):
        monkeypatch.setattr(throttle, name, 3)

    async def work() -> None:
        inner = door.authenticator.throttle
        for number in range(20):
            inner.note_success(1, f"192.0.2.{number}")
            inner._add_failure(((str(number), "x"), BY_NAME), 1, NOW)
            inner.note_use(1, number, None)
            inner._tell(throttle.Asker("", "", "", "", "", ""), (str(number), ""), NOW, 1)
        waiting = inner._waiting
        assert max(map(len, (waiting.failed, waiting.succeeded, waiting.uses, inner._seen, inner._told))) == 3

    door.accounts.run(work())


def test_clock_set_back_locks_nobody_out(door: Door, wall: HeldWall, events: list[str]) -> None:
    door.fail(100)
    wall.at -= 10 * 86400
    assert door.wait_s() == BY_NAME.delay_max_s


def test_no_name_is_kept(door: Door, events: list[str]) -> None:
    door.enter("my-password-in-the-wrong-field", "x")
    door.flush()
    rows = door.accounts.read(query, "SELECT who, network FROM sign_in_failure ORDER BY who")
    assert [row[1] for row in rows] == ["198.51.100.0/24"] * 2
    assert rows[0][0] == ""
    assert len(rows[1][0]) == 32
