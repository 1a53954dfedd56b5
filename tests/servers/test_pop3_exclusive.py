"""Setting `pop3.exclusive`: one session of an account at a time, over all workers, as long as its worker lives."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from imap_raw import fill
from pop3_raw import USER, Pop3

from pochta import clock
from pochta.app import App
from pochta.config import ListenerProtocol
from pochta.config import Pop3 as Settings
from pochta.errors import TryLater
from pochta.net.listen import bind_all
from pochta.servers.pop3 import inbox, lock
from pochta.servers.pop3.lock import ExclusiveLocks
from pochta.store import leases, setup
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server
from pochta.testing.server import CHEAP_COST

rfc = pytest.mark.rfc
TRIES = 500  # of a sign-in, until the server has noticed that the peer is gone


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(pop3=Settings(exclusive=True)) as server:
        server.add_account(USER, "secret")
        server.add_account("boris@example.org", "secret")
        fill(server, 2)
        yield server


@pytest.fixture
def other_port(server: Server) -> Iterator[int]:
    """Where a second worker of the same store listens."""

    async def start(_store: Store) -> tuple[App, int]:
        bound = bind_all(server.app.settings.listeners)
        app = App(server.app.settings, bound, index=1, password_cost=CHEAP_COST)
        await app.start()
        return app, next(one.address[1] for one in bound if one.config.protocol is ListenerProtocol.POP3)

    app, port = server.run(start)
    yield port

    async def stop(_store: Store) -> None:
        await app.stop()

    server.run(stop)


def is_refused(server: Server, port: int = 0) -> bool:
    """Whether a sign-in is told [IN-USE]."""
    with Pop3(server, login=False, port=port) as pop3:
        pop3.ok(f"USER {USER}")
        answer = pop3.do("PASS secret")
        if answer.startswith(b"+OK"):
            pop3.quit()
            return False
        assert answer == b"-ERR [IN-USE] Another POP3 session of this account is open"
        return True


@rfc(2449, "8.1.2")
@rfc(1939, "4")
@pytest.mark.parametrize("is_other", [False, True], ids=["one worker", "two workers"])
def test_a_second_session_is_refused(server: Server, other_port: int, is_other: bool) -> None:
    port = other_port if is_other else 0
    with Pop3(server) as one:
        with Pop3(server, login=False, port=port) as two:
            two.ok(f"USER {USER}")
            assert two.err("PASS secret").startswith(b"[IN-USE] ")
            two.ok("USER boris@example.org")
            two.ok("PASS secret")
        one.ok("DELE 1")
        assert one.quit() == b"+OK Bye, 1 removed, 1 left"
    # given back before QUIT was answered
    assert not is_refused(server, port)


def test_a_lost_connection_gives_the_lock_back(server: Server, other_port: int) -> None:
    Pop3(server).close()
    assert any(not is_refused(server, other_port) for _ in range(TRIES))
    assert not is_refused(server)


def test_without_the_setting_there_is_no_lock(pochta: Server) -> None:
    with Pop3(pochta), Pop3(pochta):
        assert pochta.app.pop3_locks is None


def test_the_lock_of_a_dead_worker_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(store: Store) -> None:
        # as a worker would have it that was killed
        await store.write(0, leases.acquire, "pop3 1", "dead", int(clock.now_s()), leases.DURATION_S)

    server.run(take)
    assert is_refused(server)
    now = clock.current().now
    monkeypatch.setattr(clock.current(), "now", lambda: now() + leases.DURATION_S + 1)
    assert not is_refused(server)


def test_locks_are_renewed_and_one_that_is_lost_ends_its_session(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = server.app.pop3_locks
    assert locks is not None

    async def renew(_store: Store) -> None:
        await locks.renew()

    now = clock.current().now
    with Pop3(server) as one, Pop3(server, user="boris@example.org") as other:
        assert len(locks) == 2
        monkeypatch.setattr(clock.current(), "now", lambda: now() + leases.DURATION_S - 10)
        server.run(renew)
        monkeypatch.setattr(clock.current(), "now", lambda: now() + leases.DURATION_S + 10)
        assert is_refused(server)
        server.run(renew)

        async def steal(store: Store) -> None:
            await store.write(0, _end, "pop3 1")

        server.run(steal)
        server.run(renew)
        assert one.line() == b"-ERR [SYS/TEMP] This session is over; sign in again"
        assert one.is_closed()
        assert other.ok("NOOP") == b""
        assert not is_refused(server)


def _end(tx: Tx, name: str) -> None:
    tx.run("UPDATE lease SET expires_at = 0 WHERE name = ?", (name,))


def _later(tx: Tx, *_: object) -> list[int]:
    raise TryLater("the disk is full")


def test_a_lock_that_cannot_be_renewed_now_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = server.app.pop3_locks
    assert locks is not None

    async def renew(_store: Store) -> None:
        await locks.renew()

    with Pop3(server) as one:
        monkeypatch.setattr(lock, "_renew", _later)
        server.run(renew)
        assert one.ok("NOOP") == b""
    assert any("lease.later" in line and "name=pop3" in line for line in server.events)


def test_a_sign_in_that_fails_behind_the_lock_gives_it_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def load(*_: object) -> None:
        raise TryLater("the disk is slow")

    monkeypatch.setattr(inbox, "load", load)
    with Pop3(server, login=False) as pop3:
        pop3.ok(f"USER {USER}")
        assert pop3.err("PASS secret") == b"[SYS/TEMP] The disk is slow"
        monkeypatch.undo()
        pop3.ok(f"USER {USER}")
        pop3.ok("PASS secret")


def test_a_cancelled_acquisition_gives_the_lock_back(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(tmp_path / "data")
        store.start(hears_hints=False)
        locks = ExclusiveLocks(store)
        task = asyncio.create_task(locks.acquire(7, lambda: None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(2):  # behind the acquisition, and behind what gives it back
            await store.write(0, leases.release, "another", 0)
        other = ExclusiveLocks(store)
        await other.acquire(7, lambda: None)
        assert len(other) == 1
        assert locks.release(7, lambda: None) is None
        await store.close()

    setup.create(tmp_path / "data", is_throwaway=True)
    asyncio.run(run())
