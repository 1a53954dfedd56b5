"""The parts of the queue over a real store, called one by one; the clock is the test's."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pochta import clock, log, transfer
from pochta.accounts import edit
from pochta.config import Settings
from pochta.delivery import record
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Envelope, Origin, Submitter, Target
from pochta.queue.content import Contents
from pochta.queue.late import LateDeliveries
from pochta.queue.reports import Reporter
from pochta.queue.schedule import Schedule
from pochta.store import arrivals, check, leases, outbox, setup, shares
from pochta.store.arrivals import Arrival, Taken
from pochta.store.invariants import Severity
from pochta.store.leases import Fence
from pochta.store.messages import NewMessage
from pochta.store.outbox import Claim, NewRecipient
from pochta.store.store import Store
from pochta.store.tx import Row, Tx, Value

START = 1_750_000_000
TEXT = b"Return-Path: <a@us.test>\r\nFrom: <a@us.test>\r\nSubject: x\r\n\r\nHello there\r\n"


class Parts:
    def __init__(self, store: Store, submitter: Submitter, fence: Fence, events: list[str]) -> None:
        self.store = store
        self.submitter = submitter
        self.fence = fence
        self.events = events
        self.now = START
        self.intake = Intake(store.blobs, memory_limit_bytes=1 << 20)
        self.contents = Contents(store)
        schedule = Schedule(jitter=0.0)
        self.reporter = Reporter(store, self.intake, submitter, schedule, hostname="mx.us.test", postmaster=None)
        self.late = LateDeliveries(store, self.intake, submitter, schedule, postmaster=None)

    async def message(self, text: bytes = TEXT) -> NewMessage:
        incoming = self.intake.open()
        incoming.write(text)
        return await incoming.finish(self.now)

    async def accept(self, *recipients: NewRecipient, text: bytes = TEXT, **envelope: Any) -> Taken:
        """Into the queue as it stands; fields of `Envelope` by name."""
        given: dict[str, Any] = {"origin": Origin.SUBMISSION, "reverse_path": "a@us.test", "may_bounce": True}
        plain = Submitter._outgoing(Envelope(**(given | envelope)), str((given | envelope)["reverse_path"]))
        trail = record.trail_of("name-1", message_id="<1@x>", sender="", recipients=(), facts={})
        arrival = Arrival(trail, (), (plain._replace(recipients=recipients),), plain)
        return await self.store.write(0, arrivals.accept, arrival, await self.message(text), self.now)

    async def submit(self, envelope: Envelope, *targets: Target, text: bytes = TEXT) -> Taken:
        trail = record.trail_of("name-1", message_id="<1@x>", sender="", recipients=(), facts={})
        return (await self.submitter.submit(envelope, targets, await self.message(text), trail))[0]

    async def report(self) -> None:
        await self.reporter.make_due(self.fence)

    async def claim(self, name: str) -> Claim:
        return await self.store.write(0, outbox.claim, self.fence, name, -1, self.now, 10, 10)

    async def query(self, sql: str, *args: Value) -> list[Row]:
        return await self.store.read(0, _query, sql, args)

    async def execute(self, sql: str, *args: Value) -> None:
        await self.store.write(0, _execute, sql, args)

    async def inbox(self) -> list[bytes]:
        """The messages of all accounts."""
        rows = await self.query(
            "SELECT i.bytes FROM message m JOIN blob_inline i ON i.blob_id = m.blob_id ORDER BY m.account_id, m.id"
        )
        return [row[0] for row in rows]


def _query(tx: Tx, sql: str, args: tuple[Value, ...]) -> list[Row]:
    return tx.rows(sql, args)


def _execute(tx: Tx, sql: str, args: tuple[Value, ...]) -> None:
    tx.run(sql, args)


def run(
    folder: Path,
    test: Callable[[Parts], Awaitable[None]],
    accounts: tuple[str, ...] = ("a@us.test",),
    *,
    is_sound: bool = True,
) -> None:
    """Run the test; afterwards the store is sound, unless the test has damaged it."""
    ticking, before = clock.current(), clock.current().now
    events: list[str] = []
    sink = log.set_sink(events.append)

    async def work() -> None:
        store = Store(folder / "data")
        store.start(hears_hints=False)
        try:
            await store.write(0, edit.add_domain, "us.test", None, START)
            for one in accounts:
                await store.write(0, edit.add_account, one, "", 0, START)
            settings = Settings(hostname="mx.us.test", data_dir=folder / "data")
            submitter = await transfer.submitter_of(settings, store, transfer.routes_of(settings))
            number = await store.write(0, leases.acquire, shares.LEASE, "t", START, 1 << 40)
            assert number is not None
            parts = Parts(store, submitter, Fence(shares.LEASE, number), events)
            ticking.now = lambda: parts.now
            async with asyncio.timeout(20):
                await test(parts)
        finally:
            ticking.now = before
            await store.close()

    setup.create(folder / "data", is_throwaway=True)
    try:
        asyncio.run(work())
    finally:
        log.set_sink(sink)
    if is_sound:
        assert [one for one in check.check(folder / "data") if one.severity is Severity.ERROR] == []
