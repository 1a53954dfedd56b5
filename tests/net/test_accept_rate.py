"""How often an address may connect: counted over a sliding minute, in bounded memory."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from connection_rig import serving

from pochta import clock
from pochta.net import accept
from pochta.net.accept import ConnectionLimits

Run = Callable[[Awaitable[None]], None]


class Time:
    """What the monotonic clock shows."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    shown = Time()
    monkeypatch.setattr(clock.current(), "monotonic", shown)
    return shown


def let_in(limits: ConnectionLimits, address: str, tries: int) -> int:
    """How many of so many connections, each over at once, are let in."""
    count = 0
    for _ in range(tries):
        if limits.admit(address):
            limits.release(address)
            count += 1
    return count


def test_so_many_in_a_minute(time: Time) -> None:
    limits = ConnectionLimits(100, 100, rate_per_minute=10)
    assert let_in(limits, "192.0.2.1", 15) == 10
    assert let_in(limits, "192.0.2.2", 15) == 10
    time.now += 59
    assert let_in(limits, "192.0.2.1", 15) == 0
    time.now += 11
    assert let_in(limits, "192.0.2.1", 15) == 10
    assert limits.open == 0


def test_the_window_slides(time: Time) -> None:
    limits = ConnectionLimits(100, 100, rate_per_minute=60)
    began = []
    for _ in range(600):  # ten minutes, six tries each second
        for _ in range(6):
            began += [time.now] * let_in(limits, "192.0.2.1", 1)
        time.now += 1.0
    assert 480 <= len(began) <= 600
    assert max(sum(start <= at < start + 60 for at in began) for start in set(began)) == 60


def test_an_ipv6_network_is_one_address(time: Time) -> None:
    limits = ConnectionLimits(100, 100, rate_per_minute=2)
    assert [let_in(limits, f"2001:db8:0:1::{host}", 1) for host in range(1, 5)] == [1, 1, 0, 0]
    assert let_in(limits, "2001:db8:0:2::1", 3) == 2


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_connects_as_often_as_it_likes(time: Time, address: str) -> None:
    assert let_in(ConnectionLimits(100, 100, rate_per_minute=2), address, 9) == 9
    assert let_in(ConnectionLimits(100, 100, rate_per_minute=2, counts_loopback=True), address, 9) == 2
    assert let_in(ConnectionLimits(100, 100), "192.0.2.1", 99) == 99


def test_those_refused_for_other_reasons_do_not_count(time: Time) -> None:
    limits = ConnectionLimits(2, 1, rate_per_minute=3)
    assert [limits.admit("192.0.2.1") for _ in range(9)] == [True] + [False] * 8
    limits.release("192.0.2.1")
    assert let_in(limits, "192.0.2.1", 9) == 2


def test_memory_is_bounded(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "MAX_RATED_NETS", 3)
    limits = ConnectionLimits(100, 100, rate_per_minute=1)
    assert [let_in(limits, f"192.0.2.{host}", 2) for host in range(6)] == [1, 1, 1, 2, 2, 2]
    assert limits._rate is not None
    assert len(limits._rate) == 3
    time.now += 70
    assert let_in(limits, "192.0.2.9", 2) == 1
    assert len(limits._rate) == 1
    time.now += 1e9
    assert let_in(limits, "192.0.2.9", 2) == 1


def test_a_refused_peer_is_told(run: Run, events: list[str]) -> None:
    async def work() -> None:
        limits = ConnectionLimits(100, 100, rate_per_minute=2, counts_loopback=True)
        async with serving(limits=limits, refusal=b"421 too many\r\n") as served:
            for _ in range(2):
                reader, writer = await served.connect()
                await asyncio.sleep(0)
                writer.close()
                assert await reader.read() == b""
            reader, writer = await served.connect()
            assert await reader.read() == b"421 too many\r\n"
            writer.close()

    run(work())
    assert [line.partition(" ")[0] for line in events] == ["conn.refused"]
