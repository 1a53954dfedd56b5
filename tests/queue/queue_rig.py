"""The queue of one server without its listeners: runner, store and client are real, the clock and DNS are the test's.

The clock stands still until the test moves it. `Sink` is a mail server on loopback that notes at which hour of the
test's clock it was spoken to.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pochta import clock, log, transfer
from pochta.accounts import edit
from pochta.config import Outbound, Queue, Sending, Settings
from pochta.delivery import record
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Envelope, Origin, Submitter, Target
from pochta.queue.runner import Runner
from pochta.store import check, leases, outbox, queue_view, setup, shares, trails
from pochta.store.invariants import Severity
from pochta.store.leases import Fence
from pochta.store.outbox import State
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing.resolver import ZoneResolver

START = 1_750_000_000
HOSTNAME = "mx.us.test"
DEADLINE_S = 20.0
FOR_EVER_S = 1 << 33

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Letter:
    """A message that the sink took."""

    at: int
    sender: str
    recipients: list[str]
    octets: bytes


def take(address: str) -> str:
    return f"250 2.1.5 <{address}> ok"


@dataclass
class Sink:
    """Answers RCPT with `answer(address)` and takes whatever is left; `before_end` holds the final reply back."""

    answer: Callable[[str], str] = take
    before_end: Callable[[Letter], asyncio.Future[None] | None] = lambda letter: None
    tried: list[tuple[int, str]] = field(default_factory=list)  # when, whom
    letters: list[Letter] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        writer.write(b"220 sink.test\r\n")
        letter = Letter(0, "", [], b"")
        while line := (await reader.readuntil(b"\r\n")).decode()[:-2]:
            verb, _, rest = line.partition(" ")
            path = rest.partition("<")[2].partition(">")[0]
            reply = "250 2.0.0 ok"
            if verb == "EHLO":
                reply = "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"
            elif verb == "MAIL":
                letter = Letter(int(clock.now_s()), path, [], b"")
            elif verb == "RCPT":
                self.tried.append((int(clock.now_s()), path))
                reply = self.answer(path)
                letter.recipients += [path] if reply[0] == "2" else []
            elif verb == "DATA" and not letter.recipients:
                reply = "503 5.5.1 nobody"
            elif verb == "DATA":
                writer.write(b"354 go\r\n")
                letter.octets = await reader.readuntil(b"\r\n.\r\n")
                self.letters.append(letter)
                waiting = self.before_end(letter)
                if waiting is not None:
                    await waiting
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            writer.write(f"{reply}\r\n".encode())


def free_port(*hosts: str) -> int:
    """A port that is free at each of these addresses."""
    for _ in range(20):
        with socket.create_server((hosts[0], 0)) as first:
            port: int = first.getsockname()[1]
            rest = []
            try:
                for host in hosts[1:]:
                    rest.append(socket.create_server((host, port)))
            except OSError:
                continue
            finally:
                for one in rest:
                    one.close()
            return port
    raise AssertionError("no port is free")


@asynccontextmanager
async def serving(sink: Sink, host: str, port: int) -> AsyncIterator[Sink]:
    """The sink listens at an address meanwhile."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await sink.serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, host, port)
    try:
        yield sink
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.001)  # the transports that were aborted close their sockets in the next turns


@dataclass
class Rig:
    """One server's queue. Accounts are numbered in the order of their addresses."""

    store: Store
    intake: Intake
    submitter: Submitter
    runner: Runner
    fence: Fence
    accounts: dict[str, int]
    events: list[str]
    now: int = START
    work: "asyncio.Task[None] | None" = None  # of the runner

    async def submit(self, sender: str, recipients: Sequence[str], subject: str = "test") -> None:
        """A message of one of the accounts is durable."""
        incoming = self.intake.open()
        text = f"From: <{sender}>\r\nSubject: {subject}\r\nMessage-ID: <{subject}@us.test>\r\n\r\nHello\r\n"
        incoming.write(text.encode())
        new = await incoming.finish(self.now)
        trail = record.trail_of(
            subject, message_id=incoming.message_id, sender=sender, recipients=recipients, facts={"size": len(text)}
        )
        envelope = Envelope(
            origin=Origin.SUBMISSION, reverse_path=sender, account_id=self.accounts[sender], may_bounce=True
        )
        targets = [Target(one, remotes=(one,)) for one in recipients]
        await self.submitter.submit(envelope, targets, new, trail)

    async def settled(self) -> None:
        """The runner has done all that can be done at this hour."""
        self.runner.wake()
        async with asyncio.timeout(DEADLINE_S):
            while not self.runner.is_idle or await self.store.read(0, _is_busy, self.now):
                assert self.work is not None
                if self.work.done():
                    self.work.result()
                await asyncio.sleep(0)

    async def move(self, to: int) -> None:
        """It is another hour, and what is due then is done."""
        self.now = to
        await self.settled()

    async def next_due_at(self) -> int | None:
        return await self.store.read(0, outbox.next_due_at)

    async def steps(self, subject: str) -> list[trails.Step]:
        """What the trail of a message says."""
        (trail,) = await self.store.read(0, trails.by_message_id, f"<{subject}@us.test>")
        return await self.store.read(0, trails.steps, trail.id)

    async def entries(self) -> list[queue_view.Entry]:
        """What waits in the queue."""
        return await self.store.read(0, queue_view.listing)

    async def inbox(self, address: str) -> list[bytes]:
        """The messages of an account, oldest first; small ones."""
        return await self.store.read(0, _small_messages, self.accounts[address])

    async def is_queue_empty(self) -> bool:
        """Whether no row is left of anything that was to be sent."""
        return await self.store.read(0, _is_queue_empty)


def _is_busy(tx: Tx, now: int) -> bool:
    """Whether somebody is due, claimed, or owed a report."""
    due_at = outbox.next_due_at(tx)
    busy = tx.row(f"SELECT 1 FROM outgoing_recipient WHERE state = {State.CLAIMED:d} OR report > 0 LIMIT 1")
    return busy is not None or (due_at is not None and due_at <= now)


def _small_messages(tx: Tx, account_id: int) -> list[bytes]:
    rows = tx.rows(
        "SELECT i.bytes FROM message m JOIN blob_inline i ON i.blob_id = m.blob_id WHERE m.account_id = ?"
        " ORDER BY m.id",
        (account_id,),
    )
    return [row[0] for row in rows]


def _is_queue_empty(tx: Tx) -> bool:
    row = tx.row("SELECT (SELECT count(*) FROM outgoing) + (SELECT count(*) FROM outgoing_recipient)")
    return row == (0,)


@asynccontextmanager
async def running(
    folder: Path, resolver: ZoneResolver, port: int, accounts: Sequence[str], *, queue: Queue | None = None
) -> AsyncIterator[Rig]:
    """A queue that runs; in the end nothing is under way in it, and its store is sound."""
    events: list[str] = []
    sink_before = log.set_sink(events.append)
    ticking, before = clock.current(), clock.current().now
    ticking.now = lambda: START
    data_dir = folder / "data"
    setup.create(data_dir, is_throwaway=True)
    setup.prepare(data_dir, is_throwaway=True)
    store = Store(data_dir)
    store.start(hears_hints=False)
    try:
        rig = await _make(store, resolver, port, accounts, queue or Queue(), events)
        ticking.now = lambda: rig.now
        rig.work = work = asyncio.create_task(rig.runner.run(rig.fence))
        try:
            yield rig
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    finally:
        ticking.now = before
        log.set_sink(sink_before)
        await store.close()
    setup.finish(data_dir)
    assert [one for one in check.check(data_dir) if one.severity is Severity.ERROR] == []


async def _make(
    store: Store, resolver: ZoneResolver, port: int, accounts: Sequence[str], queue: Queue, events: list[str]
) -> Rig:
    settings = Settings(
        hostname=HOSTNAME,
        data_dir=store.data_dir,
        queue=queue,
        sending=Sending(
            messages_per_hour=0, messages_per_day=0, recipients_per_hour=0, recipients_per_day=0, strangers_per_day=0
        ),
        outbound=Outbound(loopback=True, port=port),
    )
    await store.write(0, edit.add_domain, "us.test", None, START)
    ids = {one: await store.write(0, edit.add_account, one, "", 0, START) for one in accounts}
    intake = Intake(store.blobs, memory_limit_bytes=1 << 20)
    routes = transfer.routes_of(settings)
    submitter = await transfer.submitter_of(settings, store, routes)
    runner = transfer.runner_of(
        settings, store, intake, submitter, routes=routes, resolver=resolver, is_held=lambda: True
    )
    store.subscribe(runner.hear)
    number = await store.write(0, leases.acquire, shares.LEASE, "test", START, FOR_EVER_S)
    assert number is not None
    return Rig(store, intake, submitter, runner, Fence(shares.LEASE, number), ids, events)
