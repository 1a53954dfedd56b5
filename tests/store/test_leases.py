"""Leases: one holder at a time, fences that rise, and nothing written by a holder that lost."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rig import opened

from pochta import clock, log
from pochta.errors import TryLater
from pochta.store import leases
from pochta.store.leases import Fence, LeaseHolder, LeaseLost
from pochta.store.store import Store
from pochta.store.tx import Tx

NAME = "work"


@pytest.fixture(autouse=True)
def events() -> Iterator[list[str]]:
    lines: list[str] = []
    before = log.set_sink(lines.append)
    yield lines
    log.set_sink(before)


def _story(tx: Tx) -> list[object]:
    told: list[object] = []
    told.append(leases.acquire(tx, NAME, "a", 100, 30))
    told.append(leases.acquire(tx, NAME, "b", 129, 30))
    told.append(leases.acquire(tx, "other", "b", 100, 30))
    told.append(leases.renew(tx, NAME, 1, 120, 30))
    told.append(leases.acquire(tx, NAME, "b", 149, 30))
    told.append(leases.acquire(tx, NAME, "b", 150, 30))
    told.append(leases.renew(tx, NAME, 1, 150, 30))
    told.append(leases.holder_of(tx, NAME, 151))
    leases.release(tx, NAME, 2)
    told.append(leases.holder_of(tx, NAME, 151))
    told.append(leases.acquire(tx, NAME, "a", 151, 30))
    told.append(leases.acquire(tx, NAME, "a", 152, 30))
    return told


def test_one_holder_at_a_time_and_fences_rise(tmp_path: Path) -> None:
    async def body() -> list[object]:
        async with opened(tmp_path) as store:
            return await store.write(0, _story)

    assert asyncio.run(body()) == [1, None, 1, True, None, 2, False, "b", None, 3, 4]


def _renew_after_the_end(tx: Tx) -> tuple[bool, bool]:
    leases.acquire(tx, NAME, "a", 100, 30)
    return leases.renew(tx, NAME, 1, 129, 1), leases.renew(tx, NAME, 1, 130, 30)


def test_a_lease_that_has_ended_is_not_renewed_although_nobody_took_it(tmp_path: Path) -> None:
    async def body() -> tuple[bool, bool]:
        async with opened(tmp_path) as store:
            return await store.write(0, _renew_after_the_end)

    assert asyncio.run(body()) == (True, False)


def _write_under(tx: Tx, fence: Fence) -> None:
    leases.check_fence(tx, *fence)


def test_a_write_under_a_lost_fence_fails(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            first = await store.write(0, leases.acquire, NAME, "a", 100, 30)
            assert first is not None
            await store.write(0, _write_under, Fence(NAME, first))
            second = await store.write(0, leases.acquire, NAME, "b", 200, 30)
            assert second is not None
            with pytest.raises(LeaseLost):
                await store.write(0, _write_under, Fence(NAME, first))
            await store.write(0, leases.release, NAME, first)
            await store.write(0, _write_under, Fence(NAME, second))
            await store.write(0, leases.release, NAME, second)
            with pytest.raises(LeaseLost):
                await store.write(0, _write_under, Fence(NAME, second))

    asyncio.run(body())


class _Worker:
    """Work that says when it runs and when it was stopped."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.stopped = asyncio.Event()
        self.fences: list[int] = []

    async def __call__(self, fence: Fence) -> None:
        self.fences.append(fence.number)
        self.stopped.clear()
        self.running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running.clear()
            self.stopped.set()


def _holder(store: Store, work: leases.Work, errors: list[BaseException]) -> LeaseHolder:
    return LeaseHolder(store, NAME, work, on_error=errors.append, renew_every_s=0.001, try_every_s=0.001)


async def _end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_second_holder_takes_over_when_the_first_stops(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            errors: list[BaseException] = []
            first, second = _Worker(), _Worker()
            one = asyncio.create_task(_holder(store, first, errors).run())
            await first.running.wait()
            two = asyncio.create_task(_holder(store, second, errors).run())
            await asyncio.sleep(0)
            assert not second.running.is_set()
            await _end(one)
            assert first.stopped.is_set()
            await second.running.wait()
            assert second.fences[0] > first.fences[0]
            await _end(two)
            assert errors == []

    asyncio.run(body())


@pytest.mark.parametrize(("node", "is_taken"), [(os.uname().nodename, True), ("elsewhere", False)])
def test_a_dead_holder_of_this_machine_is_not_waited_for(tmp_path: Path, node: str, is_taken: bool) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()

    async def body() -> None:
        async with opened(tmp_path) as store:
            now = int(clock.now_s())
            fence = await store.write(0, leases.acquire, NAME, f"{node}:{gone.pid}:ab", now, 3600)
            assert fence is not None
            work = _Worker()
            if not is_taken:
                await _holder(store, work, [])._try_once()
                assert not work.running.is_set()
                return
            trying = asyncio.create_task(_holder(store, work, []).run())
            await work.running.wait()
            await _end(trying)

    asyncio.run(body())


def test_work_is_cancelled_when_the_lease_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            errors: list[BaseException] = []
            worker = _Worker()
            task = asyncio.create_task(_holder(store, worker, errors).run())
            await worker.running.wait()
            far = int(clock.now_s()) + 3600
            assert await store.write(0, leases.acquire, NAME, "thief", far, 30) is not None
            await worker.stopped.wait()
            assert len(worker.fences) == 1
            assert await store.read(0, leases.holder_of, NAME, far) == "thief"
            await _end(task)
            assert errors == []

    asyncio.run(body())


def test_an_error_of_the_work_is_told_and_the_work_begins_again(tmp_path: Path, events: list[str]) -> None:
    async def body() -> tuple[list[BaseException], int]:
        async with opened(tmp_path) as store:
            errors: list[BaseException] = []
            runs: list[int] = []
            enough = asyncio.Event()

            async def work(fence: Fence) -> None:
                runs.append(fence.number)
                if len(runs) == 1:
                    raise ZeroDivisionError
                if len(runs) == 2:
                    raise TryLater("the server's disk is full")
                if len(runs) == 3:
                    raise ExceptionGroup("tasks", [LeaseLost("gone"), TryLater("the store is busy")])
                if len(runs) == 4:
                    raise ExceptionGroup("tasks", [LeaseLost("gone"), KeyError("bug")])
                enough.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(_holder(store, work, errors).run())
            await enough.wait()
            await _end(task)
            return errors, len(runs)

    errors, runs = asyncio.run(body())
    assert type(errors[0]) is ZeroDivisionError
    assert isinstance(errors[1], ExceptionGroup)
    assert errors[1].subgroup(LeaseLost) is None
    assert errors[1].subgroup(KeyError) is not None
    assert len(errors) == 2
    assert runs == 5
    assert len([line for line in events if "lease.stopped" in line]) == 3


class _FullDisk:
    """A store whose disk is full once the lease is held."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = store.read

    async def write(self, account_id: int, fn: object, *args: object, durable: bool = True) -> object:
        if fn is leases.release:
            raise TryLater("the server's disk is full")
        return await self._store.write(account_id, fn, *args)  # type: ignore[arg-type]  # handed through


def test_a_full_disk_does_not_keep_a_server_from_stopping(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as store:
            worker = _Worker()
            task = asyncio.create_task(_holder(_FullDisk(store), worker, []).run())  # type: ignore[arg-type]  # a fake
            await worker.running.wait()
            task.cancel()
            async with asyncio.timeout(20):
                await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    asyncio.run(body())
