"""Days of a queue in less than a second: runner, store, client engine and connections are real, clock and DNS are not.

Also what a destination that is down, and a sender with very many recipients, do to everybody else.
"""

import asyncio
import email
import email.policy
import json
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from queue_rig import HOSTNAME, START, Letter, Reader, Rig, Sink, Writer, free_port, running, serving

from pochta import clock
from pochta.config import Queue
from pochta.queue.schedule import BACK_OFF_S
from pochta.store import outbox
from pochta.testing.resolver import ZoneResolver

T = TypeVar("T")

ANNA, BERT = "anna@us.test", "bert@us.test"
SINK, DEAD = "127.0.0.2", "127.0.0.9"
MINUTE, HOUR, DAY = 60, 3600, 86_400
WAITS = (1 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 1 * HOUR, 2 * HOUR, 4 * HOUR)
NOTICE = 4 * HOUR
END = 5 * DAY
JITTER = 0.1
HALF = b"\x80\0\0\0"


def resolver() -> ZoneResolver:
    return ZoneResolver(
        {
            "there.test": {"MX": [(10, "mx.there.test")]},
            "mx.there.test": {"A": [SINK]},
            "dead.test": {"MX": [(10, "mx.dead.test")]},
            "mx.dead.test": {"A": [DEAD]},
        }
    )


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


def busy(address: str) -> str:
    return "451 4.2.1 mailbox <" + address + "> is busy"


def read(octets: bytes) -> EmailMessage:
    found = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def fields_of(report: EmailMessage) -> tuple[EmailMessage, EmailMessage]:
    """(about the message, about its one recipient) of a report."""
    assert report.get_content_type() == "multipart/report"
    _, status, _ = report.iter_parts()
    about, recipient = status.iter_parts()
    return about, recipient


async def let_five_days_pass(rig: Rig) -> list[int]:
    """Every hour at which something was due."""
    hours = []
    while (due_at := await rig.next_due_at()) is not None:
        assert due_at > rig.now
        assert due_at <= START + END
        hours.append(due_at)
        await rig.move(due_at)
    return hours


@pytest.mark.rfc(5321, "4.5.4.1")
@pytest.mark.rfc(3463, "3.5")
def test_a_mailbox_that_is_busy_for_five_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.current(), "token_bytes", lambda n=16: HALF.ljust(n, b"\0")[:n])
    port = free_port(SINK)

    async def work() -> None:
        async with serving(Sink(busy), SINK, port) as sink, running(tmp_path, resolver(), port, [ANNA]) as rig:
            await rig.submit(ANNA, ["bert@there.test"])
            await rig.settled()
            await let_five_days_pass(rig)
            # jitter stands in its middle: each wait is what the page of settings says, but the one in which the sender
            # is told, and the last
            expected = [0, 60, 360, 1260, 3060, 6660, 13_860, NOTICE]
            expected += range(NOTICE + 6 * HOUR, END, 6 * HOUR)
            assert [at - START for at, _ in sink.tried] == [*expected, END]
            assert await rig.is_queue_empty()

            notice, failure = map(read, await rig.inbox(ANNA))
            await _expect_notice(rig, notice)
            _expect_failure(failure)
            steps = await rig.steps("test")
            kinds = [one.kind for one in steps]
            assert kinds == [*["deferred"] * 8, "reported", *["deferred"] * 19, "expired", "reported"]
            attempts = [json.loads(one.facts) for one in steps if one.kind in ("deferred", "expired")]
            assert [one["attempt"] for one in attempts] == list(range(1, 29))
            assert [one.get("next_at", 0) - START for one in attempts[:-1]] == [at - START for at, _ in sink.tried][1:]
            assert "next_at" not in attempts[-1]

    run(work)


async def _expect_notice(rig: Rig, notice: EmailMessage) -> None:
    _, recipient = fields_of(notice)
    assert recipient["Action"] == "delayed"
    assert recipient["Status"] == "4.2.1"
    assert recipient["Will-Retry-Until"] == "Fri, 20 Jun 2025 15:06:40 +0000"  # START + END
    assert notice["Date"] == "Sun, 15 Jun 2025 19:06:40 +0000"  # START + NOTICE


def _expect_failure(failure: EmailMessage) -> None:
    assert failure["To"] == ANNA
    assert failure["Auto-Submitted"] == "auto-replied"
    about, recipient = fields_of(failure)
    assert about["Reporting-MTA"] == f"dns; {HOSTNAME}"
    assert recipient["Final-Recipient"] == "rfc822; bert@there.test"
    assert recipient["Action"] == "failed"
    # RFC 3463 §3.5: the code of the actual problem, if possible, rather than X.4.7
    assert recipient["Status"] == "4.2.1"
    words = next(failure.iter_parts()).get_content()
    assert "It was tried until its time was over." in words
    assert "It will not be tried again." in words
    assert recipient["Diagnostic-Code"].endswith("451 4.2.1 mailbox <bert@there.test> is busy")
    assert recipient["Remote-MTA"] == "dns; mx.there.test"


@pytest.mark.rfc(5321, "4.5.4.1")
def test_waits_with_jitter_stay_in_their_bounds(tmp_path: Path) -> None:
    port = free_port(SINK)

    async def work() -> None:
        async with serving(Sink(busy), SINK, port) as sink, running(tmp_path, resolver(), port, [ANNA, BERT]) as rig:
            for n in range(4):
                await rig.submit(ANNA, [f"r{n}@there.test"], f"m{n}")
            await rig.settled()
            await let_five_days_pass(rig)
            for n in range(4):
                hours = [at - START for at, address in sink.tried if address == f"r{n}@there.test"]
                assert 25 <= len(hours) <= 30
                assert (hours[0], hours[-1]) == (0, END)
                assert NOTICE in hours
                before_notice = hours[: hours.index(NOTICE)]
                waits = [b - a for a, b in pairwise(before_notice)]
                for wait, wanted in zip(waits, WAITS, strict=False):
                    assert abs(wait - wanted) <= wanted * JITTER + 1
                after = hours[hours.index(NOTICE) : -1]
                for a, b in pairwise(after):
                    assert abs(b - a - 6 * HOUR) <= 6 * HOUR * JITTER + 1 or abs(b - a - 4 * HOUR) <= 4 * HOUR * JITTER
            assert len(await rig.inbox(ANNA)) == 8
            assert await rig.inbox(BERT) == []
            assert await rig.is_queue_empty()

    run(work)


def test_a_dead_destination_is_left_alone_and_others_are_served(tmp_path: Path) -> None:
    port = free_port(SINK, DEAD)

    async def work() -> None:
        async with serving(Sink(), SINK, port) as sink, running(tmp_path, resolver(), port, [ANNA]) as rig:
            await rig.submit(ANNA, ["x@dead.test"], "first")
            await rig.settled()
            await rig.move(START + 10)
            await rig.submit(ANNA, ["y@dead.test"], "second")
            await rig.submit(ANNA, ["z@there.test"], "third")
            await rig.settled()
            assert [one.recipients for one in sink.letters] == [["z@there.test"]]
            back_at = await rig.next_due_at()
            assert back_at is not None
            assert abs(back_at - START - BACK_OFF_S[0]) <= BACK_OFF_S[0] * JITTER
            assert [(one.recipient.address, one.recipient.attempts) for one in await rig.entries()] == [
                ("x@dead.test", 1),
                ("y@dead.test", 0),
            ]
            # it is still dead: the next wait is longer
            await rig.move(back_at)
            assert await rig.store.read(0, outbox.failures_of, "dead.test") == 2
            again_at = await rig.next_due_at()
            assert again_at is not None
            assert abs(again_at - back_at - BACK_OFF_S[1]) <= BACK_OFF_S[1] * JITTER
            async with serving(Sink(), DEAD, port) as risen:
                while not await rig.is_queue_empty():
                    due_at = await rig.next_due_at()
                    assert due_at is not None
                    assert due_at <= START + 2 * HOUR
                    await rig.move(due_at)
                assert sorted(one.recipients[0] for one in risen.letters) == ["x@dead.test", "y@dead.test"]
            assert await rig.store.read(0, outbox.failures_of, "dead.test") == 0

    run(work)


@pytest.mark.rfc(5321, "4.5.4.1")
def test_all_mail_for_a_dead_destination_is_returned_in_time(tmp_path: Path) -> None:
    """One attempt a back-off is enough to know that the destination is dead; its mail must not outlast its time."""
    port = free_port(SINK)
    count = 150

    async def work() -> None:
        async with running(tmp_path, resolver(), port, [ANNA]) as rig:
            for n in range(count):
                await rig.submit(ANNA, [f"r{n}@dead.test"], f"m{n}")
            await rig.settled()
            assert {one.recipient.attempts for one in await rig.entries()} == {1}
            while rig.now < START + END + BACK_OFF_S[-1] * (1 + JITTER):
                due_at = await rig.next_due_at()
                if due_at is None:
                    break
                await rig.move(due_at)
            assert await rig.is_queue_empty()
            reports = [fields_of(read(one))[1] for one in await rig.inbox(ANNA)]
            assert sum(one["Action"] == "delayed" for one in reports) == count
            assert sum(one["Action"] == "failed" for one in reports) == count

    run(work)


def test_connections_that_fail_side_by_side_are_one_failure(tmp_path: Path) -> None:
    port = free_port(SINK)
    most = 5

    async def work() -> None:
        all_there = asyncio.Event()

        class Full(Sink):
            async def serve(self, reader: Reader, writer: Writer) -> None:
                self.connections += 1
                if self.connections == most:
                    all_there.set()
                await all_there.wait()
                writer.write(b"421 4.3.2 full\r\n")

        queue = Queue(connections_per_destination=most)
        async with (
            serving(Full(), SINK, port) as sink,
            running(tmp_path, resolver(), port, [ANNA], queue=queue) as rig,
        ):
            rig.runner._proven["there.test"] = None  # it took mail until now
            for n in range(100):
                await rig.submit(ANNA, [f"r{n}@there.test"], f"m{n}")
            await rig.settled()
            assert sink.connections == most
            assert await rig.store.read(0, outbox.failures_of, "there.test") == 1
            due_at = await rig.next_due_at()
            assert due_at is not None
            assert due_at <= START + BACK_OFF_S[0] * (1 + JITTER)
            assert {one.recipient.attempts for one in await rig.entries()} == {1}

    run(work)


def test_a_sender_of_thousands_keeps_nobody_waiting(tmp_path: Path) -> None:
    port = free_port(SINK)
    count = 2000

    async def work() -> None:
        is_bert_there = asyncio.Event()
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hold(letter: Letter) -> asyncio.Future[None]:
            is_bert_there.set()
            return released

        sink = Sink(before_end=hold)
        queue = Queue(connections=1, connections_per_destination=1)
        async with serving(sink, SINK, port), running(tmp_path, resolver(), port, [ANNA, BERT], queue=queue) as rig:
            await rig.submit(ANNA, [f"r{n}@there.test" for n in range(count)], "many")
            await is_bert_there.wait()  # the first of them are being sent
            await rig.submit(BERT, ["one@there.test"], "one")
            released.set_result(None)
            await rig.settled()
            assert await rig.is_queue_empty()
            before = next(n for n, one in enumerate(sink.letters) if one.sender == BERT)
            assert sum(len(one.recipients) for one in sink.letters[:before]) <= 100
            sent = [address for one in sink.letters for address in one.recipients]
            assert len(sent) == len(set(sent)) == count + 1

    run(work)
