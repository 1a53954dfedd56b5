"""Sessions end once their account has changed: silent ones, idling ones, in every worker, whoever made the change."""

import asyncio
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from imap_raw import Imap
from pop3_raw import Pop3

from pochta import config
from pochta.accounts import edit
from pochta.accounts.auth import AuthenticatedAccount
from pochta.app import App
from pochta.config import ListenerProtocol
from pochta.net import connection
from pochta.net.listen import bind_all
from pochta.servers import signed_in
from pochta.servers.signed_in import ACCOUNTS_A_TURN, SignedIn, Ticket
from pochta.store import directory, setup
from pochta.store.hints import ANYTHING
from pochta.store.store import Store
from pochta.testing import Server
from pochta.testing.server import CHEAP_COST

NOW = 1_750_000_000
SIGNED_OUT = b"* BYE The account has changed; sign in again"

Change = Callable[[Server, str], None]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[dict[ListenerProtocol, int]]:
    """The ports of a second worker of the same store."""

    async def start(_store: Store) -> tuple[App, dict[ListenerProtocol, int]]:
        bound = bind_all(server.app.settings.listeners)
        app = App(server.app.settings, bound, index=1, password_cost=CHEAP_COST)
        await app.start()
        return app, {one.config.protocol: one.address[1] for one in bound}

    app, ports = server.run(start)
    yield ports

    async def stop(_store: Store) -> None:
        await app.stop()

    server.run(stop)


def write(server: Server, fn: Callable[..., Any], *args: Any) -> None:
    async def work(store: Store) -> None:
        await store.write(0, fn, *args)

    server.run(work)


def new_password(server: Server, user: str) -> None:
    server.set_password(f"{user}@example.org", "another")


def disable(server: Server, user: str) -> None:
    write(server, directory.set_enabled, "example.org", user, False)


def remove(server: Server, user: str) -> None:
    write(server, edit.remove_account, f"{user}@example.org", NOW)


def by_another_process(server: Server, user: str) -> None:
    settings = server.data_dir.with_name("pochta.toml")
    listener = server.app.settings.listeners[0]
    settings.write_text(config.initial_toml("localhost", listeners=(listener,)))
    command = [sys.executable, "-P", "-m", "pochta.cli.main", "-c", str(settings)]
    command += ["account", "password", f"{user}@example.org", "--password-stdin"]
    subprocess.run(command, input=b"another\n", check=True, capture_output=True)


CHANGES = [new_password, disable, remove, by_another_process]


@pytest.mark.parametrize("change", CHANGES)
def test_silent_and_idling_sessions_end(server: Server, other: dict[ListenerProtocol, int], change: Change) -> None:
    user = change.__name__.replace("_", "")
    for name in (user, f"not{user}"):
        server.add_account(f"{name}@example.org", "secret")
    with (
        Imap(server, user=user) as silent,
        Imap(server, user=user) as idling,
        Imap(server, user=user, port=other[ListenerProtocol.IMAP]) as elsewhere,
        Imap(server, user=user, port=other[ListenerProtocol.IMAP]) as idling_elsewhere,
        Imap(server, user=f"not{user}") as somebody,
    ):
        idling.idle()
        idling_elsewhere.idle()
        change(server, user)
        for one in (silent, idling, elsewhere, idling_elsewhere):
            assert one.line() == SIGNED_OUT
            assert one.line() == b""
        somebody.ok("NOOP")


def test_a_session_in_the_middle_of_append_ends(server: Server) -> None:
    server.add_account("append@example.org", "secret")
    with Imap(server, user="append") as imap:
        imap.send(b"a APPEND INBOX {1000}\r\n")
        assert imap.line().startswith(b"+ ")
        imap.send(b"x" * 500)
        new_password(server, "append")
        assert imap.line() == SIGNED_OUT
        assert imap.line() == b""


@pytest.mark.parametrize("is_other", [False, True], ids=["one worker", "two workers"])
def test_pop3_ends(server: Server, other: dict[ListenerProtocol, int], is_other: bool) -> None:
    user = f"pop{is_other:d}"
    server.add_account(f"{user}@example.org", "secret")
    with Pop3(server, user=user, port=other[ListenerProtocol.POP3] if is_other else 0) as pop3:
        new_password(server, user)
        lines = list(iter(pop3.line, b""))
        assert len(lines) <= 1
        assert not lines or lines[0].startswith(b"-ERR ")


@pytest.mark.parametrize("is_other", [False, True], ids=["one worker", "two workers"])
def test_submission_ends(server: Server, other: dict[ListenerProtocol, int], is_other: bool) -> None:
    user = f"smtp{is_other:d}"
    server.add_account(f"{user}@example.org", "secret")
    proof = b64encode(f"\0{user}@example.org\0secret".encode()).decode()
    with Imap(
        server, login=False, port=other[ListenerProtocol.SUBMISSION] if is_other else server.submission_port
    ) as peer:
        peer.send(f"EHLO x.test\r\nAUTH PLAIN {proof}\r\n".encode())
        while not (line := peer.line()).startswith(b"235 "):
            assert line.startswith(b"250"), line
        new_password(server, user)
        assert peer.line().startswith(b"421 ")
        assert peer.line() == b""


class Peer:
    """A connection that only counts its ends."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.ends = 0
        self.is_broken = is_broken

    def end_session(self) -> None:
        self.ends += 1
        if self.is_broken:
            raise RuntimeError("planted")


class Rig:
    """A registry over a store with `accounts`, each signed in once; the store's reads are counted."""

    def __init__(self, store: Store, accounts: list[int]) -> None:
        self.store = store
        self.accounts = accounts
        self.deliveries = 0
        self.reads: list[tuple[str, int]] = []
        self.signed_in = SignedIn(self)  # type: ignore[arg-type]
        self.peers = [Peer() for _ in accounts]
        self.tickets = [self.add(account, peer) for account, peer in zip(accounts, self.peers, strict=True)]

    def add(self, account: int, peer: Peer, generation: int = 1) -> Ticket:
        return self.signed_in.add(AuthenticatedAccount(account, "anna@example.org", generation), peer)

    async def read(self, account_id: int, fn: Callable[..., Any], *args: Any) -> Any:
        self.reads.append((fn.__name__, len(args[0]) if args and isinstance(args[0], tuple) else 0))
        return await self.store.read(account_id, fn, *args)

    def data_version(self) -> int:
        return self.store.data_version()

    async def change(self, at: int) -> None:
        await self.store.write(0, directory.set_credential, "example.org", f"u{at}", "other")

    async def deliver(self) -> None:
        """A commit that changes no credential."""
        self.deliveries += 1  # SQLite writes no page that stays the same
        await self.store.write(0, directory.set_quota, "example.org", "u0", self.deliveries)

    def ends(self) -> list[int]:
        return [at for at, peer in enumerate(self.peers) if peer.ends]


def with_rig(data_dir: Path, count: int, work: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        setup.create(data_dir, is_throwaway=True)
        store = Store(data_dir)
        store.start(hears_hints=False)
        try:
            await store.write(0, directory.add_domain, "example.org", "example.org", None, NOW)
            accounts = [
                await store.write(0, directory.add_account, "example.org", f"u{at}", f"u{at}@example.org", "", 0, NOW)
                for at in range(count)
            ]
            async with asyncio.timeout(20):
                await work(Rig(store, accounts))
        finally:
            await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("look_s", [0.0, 1000.0], ids=["looks at each", "waits between looks"])
def test_a_flood_of_hints_costs_one_row_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_s: float) -> None:
    monkeypatch.setattr(signed_in, "LOOK_S", look_s)

    async def work(rig: Rig) -> None:
        await rig.signed_in.look()
        rig.reads.clear()
        running = asyncio.create_task(rig.signed_in.run())
        for _ in range(100):
            await rig.deliver()
            rig.signed_in.hear([ANYTHING])
            for _ in range(5):
                await asyncio.sleep(0)
        running.cancel()
        assert rig.reads == [("sign_in_changes", 0)] * (0 if look_s else 100)
        assert rig.ends() == []

    with_rig(tmp_path / "data", 3, work)


def test_generations_are_compared_in_slices(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        await rig.signed_in.look()
        rig.reads.clear()
        await rig.change(0)
        await rig.change(len(rig.accounts) - 1)
        await rig.signed_in.look()
        assert rig.reads == [
            ("sign_in_changes", 0),
            ("generations", ACCOUNTS_A_TURN),
            ("generations", ACCOUNTS_A_TURN),
            ("generations", 1),
        ]
        assert rig.ends() == [0, len(rig.accounts) - 1]
        assert len(rig.signed_in) == len(rig.accounts) - 2
        rig.reads.clear()
        await rig.deliver()
        await rig.signed_in.look()
        assert rig.reads == [("sign_in_changes", 0)]

    with_rig(tmp_path / "data", 2 * ACCOUNTS_A_TURN + 1, work)


def test_a_sign_in_that_the_change_overtook(tmp_path: Path) -> None:
    """The password was right when it was checked, and another when the session began."""

    async def work(rig: Rig) -> None:
        await rig.change(0)
        await rig.signed_in.look()
        late, new = Peer(), Peer()
        rig.add(rig.accounts[0], late)
        rig.add(rig.accounts[0], new, generation=2)
        await rig.signed_in.look()
        assert (late.ends, new.ends) == (1, 0)

    with_rig(tmp_path / "data", 2, work)


def test_a_command_after_the_change_is_refused_before_any_hint(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        first, second = rig.tickets
        assert await rig.signed_in.is_current(first)
        assert await rig.signed_in.is_current(second)
        rig.reads.clear()
        assert await rig.signed_in.is_current(first)
        assert rig.reads == []
        await rig.deliver()
        assert await rig.signed_in.is_current(first)
        assert await rig.signed_in.is_current(second)
        assert rig.reads == [("sign_in_changes", 0)]  # one for all connections
        await rig.change(0)
        assert not await rig.signed_in.is_current(first)
        assert not await rig.signed_in.is_current(first)
        assert await rig.signed_in.is_current(second)
        await rig.signed_in.look()
        assert rig.ends() == [0]

    with_rig(tmp_path / "data", 2, work)


def test_every_change_is_counted(tmp_path: Path) -> None:
    """What raises a generation raises the number that tells of it."""

    async def work(rig: Rig) -> None:
        changes: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (directory.set_credential, ("example.org", "u0", "x")),
            (directory.set_enabled, ("example.org", "u1", 0)),
            (directory.end_sessions, (rig.accounts[2],)),
            (directory.remove_account, ("example.org", "u3", NOW)),
        ]
        for at, (fn, args) in enumerate(changes):
            await rig.signed_in.look()
            assert rig.ends() == list(range(at))
            await rig.store.write(0, fn, *args)
        await rig.signed_in.look()
        assert rig.ends() == list(range(len(changes)))

    with_rig(tmp_path / "data", 4, work)


def test_a_bug_in_one_connection_keeps_nobody_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", bugs.append)

    async def work(rig: Rig) -> None:
        peers = [Peer(is_broken=True), Peer(), Peer(is_broken=True)]
        for peer in peers:
            rig.add(rig.accounts[0], peer)
        await rig.change(0)
        await rig.signed_in.look()
        assert [peer.ends for peer in peers] == [1, 1, 1]
        assert len(bugs) == 2

    with_rig(tmp_path / "data", 1, work)


def test_discarded_tickets_are_forgotten(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        for ticket in rig.tickets:
            rig.signed_in.discard(ticket)
            rig.signed_in.discard(ticket)
        assert len(rig.signed_in) == 0
        await rig.change(0)
        await rig.signed_in.look()
        assert rig.ends() == []
        assert rig.reads == [("sign_in_changes", 0)]

    with_rig(tmp_path / "data", 2, work)
