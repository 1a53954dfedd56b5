"""Hints inside a process, and between the processes of one data folder."""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pochta.store import hints as hints_module
from pochta.store import setup
from pochta.store.hints import ANYTHING, HintHub
from pochta.store.store import Store
from pochta.store.tx import Hint, Tx


def run_hubs(folder: Path, test: Callable[[HintHub, HintHub], Awaitable[None]]) -> None:
    async def main() -> None:
        one, two = HintHub(folder), HintHub(folder)
        one.start()
        two.start()
        try:
            await test(one, two)
        finally:
            one.close()
            two.close()

    asyncio.run(main())
    assert os.listdir(folder) == []


class Heard:
    """A listener that can be awaited."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self._wake = asyncio.Event()

    def __call__(self, hints: list[Hint]) -> None:
        self.hints += hints
        self._wake.set()

    async def some(self) -> list[Hint]:
        async with asyncio.timeout(10):
            await self._wake.wait()
        self._wake.clear()
        hints, self.hints = self.hints, []
        return hints


def test_everybody_is_told(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        here, there = Heard(), Heard()
        one.subscribe(here)
        two.subscribe(there)
        one.publish([Hint(1, 5), Hint(2, 7)])
        assert here.hints == [(1, 5), (2, 7)]
        assert await there.some() == [(1, 5), (2, 7)]
        two.publish([Hint(3, 1)])
        assert there.hints == [(3, 1)]
        here.hints.clear()

    run_hubs(tmp_path, test)


def test_hints_of_one_account_are_merged(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        one.publish([Hint(1, 5), Hint(1, 9), Hint(1, 7)])
        assert await there.some() == [(1, 9)]

    run_hubs(tmp_path, test)


def test_what_follows_at_once_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[Hint]] = []

    class Counted(HintHub):
        is_told = asyncio.Event()

        def tell_others(self, hints: list[Hint]) -> None:
            sent.append(hints)
            self.is_told.set()

    monkeypatch.setattr(hints_module, "GATHER_S", 0.05)

    async def main() -> None:
        hub = Counted(tmp_path)
        hub.start()
        heard: list[Hint] = []
        hub.subscribe(heard.extend)
        for mod_seq in range(1, 4):
            hub.publish([Hint(1, mod_seq)])
        assert heard == [(1, 1), (1, 2), (1, 3)]
        assert sent == [[(1, 1)]]
        hub.is_told.clear()
        async with asyncio.timeout(10):
            await hub.is_told.wait()
        assert sent[1] == [(1, 2), (1, 3)]
        hub.publish([Hint(1, 4)])
        hub.close()  # what waits is told before
        assert sent[2] == [(1, 4)]

    asyncio.run(main())


def test_very_many_become_anything(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        one.publish([Hint(account, 1) for account in range(1, 1000)])
        assert await there.some() == [ANYTHING]

    run_hubs(tmp_path, test)


def test_unsubscribed_listener_hears_nothing(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        here = Heard()
        one.subscribe(here)()
        one.publish([Hint(1, 1)])
        assert here.hints == []

    run_hubs(tmp_path, test)


def test_socket_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        dead.bind(str(tmp_path / "1-dead.hint"))
        dead.close()
        there = Heard()
        two.subscribe(there)
        one.publish([Hint(1, 1)])
        assert await there.some() == [(1, 1)]
        assert not (tmp_path / "1-dead.hint").exists()

    run_hubs(tmp_path, test)


def test_process_that_does_not_keep_up_blocks_nobody(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        for mod_seq in range(5000):
            one.publish([Hint(1, mod_seq)])
        assert await there.some()

    run_hubs(tmp_path, test)


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 17, b"x" * 100_000], ids=["empty", "short", "uneven", "huge"])
def test_foreign_datagrams_do_no_harm(tmp_path: Path, data: bytes) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        [name] = [name for name in os.listdir(tmp_path) if name == two._own_name]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, str(tmp_path / name))
        one.publish([Hint(1, 1)])
        while Hint(1, 1) not in await there.some():
            pass

    run_hubs(tmp_path, test)


def test_sender_without_a_socket_is_heard(tmp_path: Path) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        HintHub(tmp_path).publish([Hint(4, 2)])
        assert await there.some() == [(4, 2)]

    run_hubs(tmp_path, test)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    HintHub(tmp_path / "gone").publish([Hint(1, 1)])


def test_path_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()

    async def test(one: HintHub, two: HintHub) -> None:
        there = Heard()
        two.subscribe(there)
        one.publish([Hint(1, 1)])
        assert await there.some() == [(1, 1)]

    run_hubs(folder, test)


def touch(tx: Tx, account_id: int, mod_seq: int) -> None:
    tx.run("UPDATE meta SET number = number + 1 WHERE name = 'mod_seq_floor'")
    if mod_seq:
        tx.hint(account_id, mod_seq)


def test_commit_of_one_store_reaches_the_watchers_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.create(tmp_path / "data")
    monkeypatch.setattr("pochta.store.store.POLL_S", 0.01)

    async def main() -> None:
        one, two = Store(tmp_path / "data"), Store(tmp_path / "data")
        one.start()
        two.start()
        there = Heard()
        two.subscribe(there)
        watcher = two.watch()
        first = asyncio.ensure_future(anext(watcher))
        await asyncio.sleep(0)
        await one.write(0, touch, 7, 70)
        async with asyncio.timeout(10):
            while Hint(7, 70) not in await there.some():
                pass
            assert await first in (Hint(7, 70), ANYTHING)
            await one.write(0, touch, 0, 0)  # a change whose hint is lost
            while ANYTHING not in await there.some():
                pass
        await watcher.aclose()
        await one.close()
        await two.close()

    asyncio.run(main())


def test_a_process_without_descriptors_tells_at_least_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(one: HintHub, two: HintHub) -> None:
        here = Heard()
        one.subscribe(here)

        def fail(*args: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr("pochta.store.hints.os.open", fail)
            one.publish([Hint(1, 1)])  # raising here would end the write lane
        assert await here.some() == [(1, 1)]

    run_hubs(tmp_path, test)


def test_poll_goes_on_when_the_log_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.create(tmp_path / "data")
    monkeypatch.setattr("pochta.store.store.POLL_S", 0.01)
    sync, failures = Store._sync_wal, [OSError(errno.EIO, "Input/output error")]

    def sync_but_once(store: Store) -> None:
        sync(store)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Store, "_sync_wal", sync_but_once)

    async def main() -> None:
        store = Store(tmp_path / "data")
        store.start()
        here = Heard()
        store.subscribe(here)
        for _ in range(2):
            await store.write(0, touch, 0, 0)
            async with asyncio.timeout(60):
                while ANYTHING not in await here.some():
                    pass
        assert not failures
        await store.close()

    asyncio.run(main())
