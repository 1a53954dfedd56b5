"""One attempt after the other against servers on loopback: what is sent to whom, and what is left for the next."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TypeVar, cast

import pytest

from pochta import clock
from pochta.errors import Corrupt, LocalProtocolError
from pochta.log import Secret
from pochta.mime.convert import form_of
from pochta.net import connection
from pochta.queue.attempt import Attempts, Job, Outcome
from pochta.queue.content import Contents, Rendered, Source
from pochta.queue.form import Step
from pochta.queue.route import BY_MX, Credentials, RelayHost, Route, Routes, RouteTls, Rule
from pochta.queue.targets import OurSide
from pochta.store.blobs import StoredBlob
from pochta.store.outbox import Outgoing, Owed, Recipient, State
from pochta.testing.resolver import ZoneResolver

T = TypeVar("T")
MESSAGE = b"From: a@us.test\r\nSubject: x\r\n\r\nHello\r\n"
EIGHT_BIT = (
    b"From: a@us.test\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
)
PLAIN = Outgoing(
    id=1, trail_id=1, blob_id=1, account_id=1, origin="submission", reverse_path="a@us.test", report_to="a@us.test",
    envelope_id=None, returns=None, body="8bit", is_smtputf8=False, requires_tls=False, may_bounce=True, priority=0,
    deliver_by_at=None, deliver_by_mode=None, size=len(MESSAGE), header_size=30, created_at=0, name="t1",
)  # fmt: skip


def recipient(n: int, address: str) -> Recipient:
    return Recipient(
        outgoing_id=1, n=n, destination="x.test", account_id=1, address=address, original=None, notify=0,
        state=State.CLAIMED, report=Owed.NOTHING, delay_told=False, attempts=0, next_at=0, last_at=None,
        last_host=None, last_reply=None,
    )  # fmt: skip


def job(*addresses: str, message: Outgoing = PLAIN) -> Job:
    return Job(message, tuple(recipient(n, one) for n, one in enumerate(addresses or ("b@x.test",))))


@dataclass
class FakeContents:
    """The same bytes for every message; `fails` with an error at one of its steps."""

    octets: bytes = MESSAGE
    fails: dict[str, Exception] = field(default_factory=dict)

    def _step(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]

    async def load(self, message: Outgoing) -> Source:
        self._step("load")
        blob = StoredBlob(1, len(self.octets), self.octets, None)
        return Source(blob, self.octets, len(self.octets), form_of(self.octets))

    async def render(self, message: Outgoing, source: Source) -> Rendered:
        self._step("render")
        return Rendered(b"Signed: 8\r\n" + self.octets, None, 0, source.form)

    @asynccontextmanager
    async def converted(self, message: Outgoing, source: Source, step: Step) -> AsyncIterator[Rendered]:
        self._step("convert")
        made = b"Signed: 7\r\n" + MESSAGE
        yield Rendered(made, None, 0, form_of(made))

    def body(self, rendered: Rendered) -> bytes | AsyncIterator[bytes]:
        return rendered.head if "body" not in self.fails else self._broken()

    async def _broken(self) -> AsyncIterator[bytes]:
        yield b"From:"
        self._step("body")


Answer = Callable[[str, str], str]  # verb, line -> reply; "" closes


def kind(verb: str, line: str) -> str:
    return {"DATA": "354 go", "QUIT": "221 2.0.0 bye"}.get(verb, "250 2.0.0 ok")


@dataclass
class Host:
    """A server that answers each line; `commands` are what it was told, a list for each connection."""

    answer: Answer = kind
    offers: tuple[str, ...] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")
    greeting: str = "220 host"
    commands: list[list[str]] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said: list[str] = []
        self.commands.append(said)
        writer.write(f"{self.greeting}\r\n".encode())
        while self.greeting[0] == "2":
            line = (await reader.readuntil(b"\r\n")).decode()[:-2]
            said.append(line)
            verb = line.partition(" ")[0]
            reply = self.answer(verb, line)
            if verb == "EHLO":
                reply = "\r\n".join(["250-host", *(f"250-{one}" for one in self.offers), "250 HELP"])
            if not reply:
                return
            writer.write(f"{reply}\r\n".encode())
            if verb == "QUIT":
                return
            if verb == "DATA" and reply[0] == "3":
                self.letters.append(await reader.readuntil(b"\r\n.\r\n"))
                end = self.answer(".", "")
                if not end:
                    return
                writer.write(f"{end}\r\n".encode())

    def told(self, verb: str) -> list[str]:
        return [line for said in self.commands for line in said if line.startswith(verb)]


@asynccontextmanager
async def hosts(*served: Host) -> AsyncIterator[int]:
    """The hosts listen at 127.0.0.2, .3, … of one port."""
    tasks: set[asyncio.Task[None]] = set()
    servers: list[asyncio.Server] = []
    port = 0
    for number, host in enumerate(served, 2):

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host = host) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await host.serve(reader, writer)
                    writer.close()
                    await writer.wait_closed()
            finally:
                writer.transport.abort()

        servers.append(await asyncio.start_server(handle, f"127.0.0.{number}", port))
        port = servers[0].sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.001)  # the transports that were aborted close their sockets in the next turns


def zones(count: int = 1, *, authentic: bool = False) -> ZoneResolver:
    resolver = ZoneResolver()
    for number in range(2, 2 + count):
        resolver.add("x.test", "MX", (number, f"mx{number}.x.test"))
        resolver.add(f"mx{number}.x.test", "A", f"127.0.0.{number}")
    if authentic:
        resolver.vouch("x.test")
    return resolver


def attempts(
    port: int, resolver: ZoneResolver, contents: FakeContents | None = None, *, rules: Sequence[Rule] = ()
) -> Attempts:
    return Attempts(
        contents=cast(Contents, contents or FakeContents()),
        routes=Routes(rules, otherwise=replace(BY_MX, port=port)),
        resolver=resolver,
        hello_name="us.test",
        own=OurSide(allows_loopback=True),
    )


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(20):
            return await work()

    return asyncio.run(limited())


def attempt_at(
    *served: Host,
    jobs: Sequence[Job] | None = None,
    contents: FakeContents | None = None,
    resolver: ZoneResolver | None = None,
    relay: bool = False,
) -> list[Outcome]:
    async def work() -> list[Outcome]:
        async with hosts(*served) as port:
            rules = [Rule(Route(name="out", hosts=(RelayHost(ip_address("127.0.0.2"), port),)))] if relay else ()
            known = attempts(port, resolver or zones(len(served)), contents, rules=rules)
            async with known.connection() as sender:
                return [await sender.attempt(one) for one in jobs or (job(),)]

    return run(work)


def shown(outcome: Outcome) -> list[str]:
    return [
        "-" if fate is None else f"{fate.end.value} {fate.reply.code} {fate.reply.enhanced}" for fate in outcome.fates
    ]


def test_recipients_are_told_apart_by_their_replies() -> None:
    def answer(verb: str, line: str) -> str:
        for name, reply in (("no@", "550 5.1.1 no"), ("later@", "451 4.2.1 later")):
            if verb == "RCPT" and name in line:
                return reply
        return kind(verb, line)

    host = Host(answer)
    (outcome,) = attempt_at(host, jobs=[job("b@x.test", "no@x.test", "later@x.test")])
    assert shown(outcome) == ["delivered 250 2.0.0", "failed 550 5.1.1", "deferred 451 4.2.1"]
    assert outcome.is_reached
    assert [fate.reports_itself for fate in outcome.fates if fate] == [True, True, True]
    assert host.letters[0].startswith(b"Signed: 8\r\nFrom:")


def test_one_connection_serves_message_after_message() -> None:
    host = Host()
    outcomes = attempt_at(host, jobs=[job(), job("c@x.test")])
    assert [shown(one) for one in outcomes] == [["delivered 250 2.0.0"]] * 2
    assert len(host.commands) == 1


@pytest.mark.rfc(5321, "4.5.3.1.10")
def test_who_has_no_room_in_a_transaction_is_left_for_the_next() -> None:
    def answer(verb: str, line: str) -> str:
        if verb == "MAIL":
            counts.append(0)
        if verb == "RCPT":
            counts[-1] += 1
            if counts[-1] > 1:
                return "452 4.5.3 too many"
        return kind(verb, line)

    counts: list[int] = []
    first, second = job("b@x.test", "c@x.test"), job("c@x.test")
    outcomes = attempt_at(Host(answer), jobs=[first, second])
    assert [shown(one) for one in outcomes] == [["delivered 250 2.0.0", "-"], ["delivered 250 2.0.0"]]


@pytest.mark.parametrize(
    ("offer", "relay", "want"),
    [
        ("LIMITS RCPTMAX=2", False, ["b@x.test", "c@x.test"]),
        ("LIMITS RCPTDOMAINMAX=1", True, ["b@x.test", "c@x.test", "e@x.test"]),
        ("HELP", False, ["b@x.test", "c@x.test", "e@x.test"]),
    ],
)
def test_limits_that_the_server_announces_are_kept(offer: str, relay: bool, want: list[str]) -> None:
    host = Host(offers=("PIPELINING", offer))
    to = ("b@x.test", "c@x.test", "d@y.test", "e@x.test") if relay else ("b@x.test", "c@x.test", "e@x.test")
    (outcome,) = attempt_at(host, jobs=[job(*to)], relay=relay)
    assert [re.findall("<(.*)>", line)[0] for line in host.told("RCPT")] == want
    assert shown(outcome).count("-") == len(to) - len(want)


def test_a_connection_that_went_stale_is_opened_again() -> None:
    def answer(verb: str, line: str) -> str:
        if verb == "MAIL" and len(host.commands) == 1 and len(host.told("MAIL")) == 2:
            return ""
        return kind(verb, line)

    host = Host(answer)
    outcomes = attempt_at(host, jobs=[job(), job()])
    assert [shown(one) for one in outcomes] == [["delivered 250 2.0.0"]] * 2
    assert len(host.commands) == 2


def test_a_message_that_may_have_been_taken_is_offered_to_no_other_host() -> None:
    lost = Host(lambda verb, line: "" if verb == "." else kind(verb, line))
    other = Host()
    (outcome,) = attempt_at(lost, other)
    assert shown(outcome) == ["deferred 451 4.4.2"]
    assert other.commands == []


@pytest.mark.parametrize(
    "broken",
    [
        Host(greeting="554 5.3.2 closed"),
        Host(lambda verb, line: "" if verb == "MAIL" else kind(verb, line)),
    ],
    ids=["greeting", "lost"],
)
def test_the_next_host_is_asked(broken: Host) -> None:
    broken.commands.clear()
    other = Host()
    (outcome,) = attempt_at(broken, other)
    assert shown(outcome) == ["delivered 250 2.0.0"]
    assert len(other.letters) == 1


def test_what_was_refused_before_the_connection_broke_is_not_asked_again() -> None:
    def answer(verb: str, line: str) -> str:
        if verb == "RCPT":
            return "550 5.1.1 no" if "no@" in line else ""
        return kind(verb, line)

    other = Host()
    (outcome,) = attempt_at(Host(answer, offers=()), other, jobs=[job("no@x.test", "b@x.test")])
    assert shown(outcome) == ["failed 550 5.1.1", "-"]


def test_all_hosts_failing_is_told_as_such() -> None:
    (outcome,) = attempt_at(Host(greeting="554 no"), Host(greeting="421 no"))
    assert shown(outcome) == ["deferred 451 4.4.2"]
    assert not outcome.is_reached


def test_names_that_lead_nowhere() -> None:
    resolver = ZoneResolver()
    resolver.add("null.test", "MX", (0, "."))
    resolver.fail("broken.test")
    jobs = [job("b@null.test"), job("b@nowhere.test"), job("b@broken.test")]
    outcomes = attempt_at(Host(), jobs=jobs, resolver=resolver)
    assert [shown(one) for one in outcomes] == [["failed 556 5.1.10"], ["failed 550 5.1.2"], ["deferred 451 4.4.3"]]
    assert [one.is_reached for one in outcomes] == [True, True, False]


def test_eight_bits_are_converted_where_they_must_be_and_signed_afterwards() -> None:
    host = Host(offers=())
    (outcome,) = attempt_at(host, contents=FakeContents(EIGHT_BIT))
    assert shown(outcome) == ["delivered 250 2.0.0"]
    assert host.letters[0].startswith(b"Signed: 7\r\n")


@pytest.mark.parametrize(
    ("step", "error", "want", "bugs"),
    [
        ("load", Corrupt("blob", 1), "failed 554 5.3.0", 0),
        ("render", Corrupt("blob", 1), "failed 554 5.3.0", 0),
        ("body", Corrupt("blob", 1), "failed 554 5.3.0", 0),
        ("render", LocalProtocolError("ours"), "deferred 451 4.3.0", 1),
        ("load", ValueError("ours"), "deferred 451 4.3.0", 1),
    ],
)
def test_what_goes_wrong_at_a_message_is_its_own(
    step: str, error: Exception, want: str, bugs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", met.append)
    contents = FakeContents(fails={step: error})
    host = Host()
    (outcome,) = attempt_at(host, contents=contents)
    assert shown(outcome) == [want]
    assert outcome.is_reached is not False
    assert len(met) == bugs
    assert host.letters == []


def test_an_address_that_smtp_cannot_carry() -> None:
    (first, second) = attempt_at(Host(), jobs=[job("no address", "b@x.test"), job("no address")])
    assert shown(first) == ["failed 553 5.1.3", "delivered 250 2.0.0"]
    assert shown(second) == ["failed 553 5.1.3"]


@pytest.mark.parametrize(
    ("mode", "left_s", "offers", "want"),
    [
        ("R", 600, ("DELIVERBY",), "delivered 250 2.0.0"),
        ("R", 600, (), "failed 550 5.3.3"),
        ("R", 0, ("DELIVERBY",), "failed 550 5.4.7"),
        ("N", -5, ("DELIVERBY",), "delivered 250 2.0.0"),
        ("N", 600, (), "delivered 250 2.0.0"),
    ],
)
def test_delivery_times(mode: str, left_s: int, offers: tuple[str, ...], want: str) -> None:
    host = Host(offers=offers)
    message = PLAIN._replace(deliver_by_at=int(clock.now_s()) + left_s, deliver_by_mode=mode)
    (outcome,) = attempt_at(host, jobs=[job(message=message)])
    assert shown(outcome) == [want]
    assert any("BY=" in line for line in host.told("MAIL")) == (offers != () and want[0] == "d")


@pytest.mark.rfc(8689, "4.2.1")
@pytest.mark.parametrize(("authentic", "asked"), [(False, 0), (True, 1)])
def test_tls_all_the_way_or_nothing(authentic: bool, asked: int) -> None:
    host = Host()
    message = PLAIN._replace(requires_tls=True)
    (outcome,) = attempt_at(host, jobs=[job(message=message)], resolver=zones(authentic=authentic))
    assert shown(outcome) == ["failed 550 5.7.10"]
    assert outcome.is_reached is (True if asked else None)  # the destination is not backed off for it
    assert len(host.commands) == asked
    assert host.told("MAIL") == []


def test_lmtp_answers_for_each() -> None:
    host = Host(offers=("PIPELINING",))
    ends = ["250 2.1.5 ok", "452 4.2.2 full"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.commands.append([])
        writer.write(b"220 lmtp\r\n")
        while line := (await reader.readuntil(b"\r\n")).decode()[:-2]:
            host.commands[-1].append(line)
            verb = line.partition(" ")[0]
            if verb == "DATA":
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write("".join(f"{one}\r\n" for one in ends).encode())
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")

    host.serve = serve  # type: ignore[method-assign]

    async def work() -> Outcome:
        async with hosts(host) as port:
            route = Route(name="in", hosts=(RelayHost(ip_address("127.0.0.2"), port),), is_lmtp=True)
            async with attempts(port, ZoneResolver(), rules=[Rule(route)]).connection() as sender:
                return await sender.attempt(job("b@x.test", "c@x.test"))

    outcome = run(work)
    assert host.told("LHLO")
    assert shown(outcome) == ["delivered 250 2.1.5", "deferred 452 4.2.2"]


@pytest.mark.rfc(5321, "4.5.3.1.10")
@pytest.mark.parametrize(
    ("replies", "want"),
    [
        (("250 ok", "552 too many"), ["delivered 250 2.0.0", "-"]),
        (("250 ok", "552 5.5.3 too many"), ["delivered 250 2.0.0", "-"]),
        (("250 ok", "552 5.2.2 full"), ["delivered 250 2.0.0", "failed 552 5.2.2"]),
        (("552 too many", "552 too many"), ["deferred 552 ", "deferred 552 "]),
    ],
)
def test_the_old_code_for_too_many_recipients(replies: tuple[str, str], want: list[str]) -> None:
    def answer(verb: str, line: str) -> str:
        return replies["c@" in line] if verb == "RCPT" else kind(verb, line)

    (outcome,) = attempt_at(Host(answer, offers=("ENHANCEDSTATUSCODES",)), jobs=[job("b@x.test", "c@x.test")])
    assert shown(outcome) == want


def test_a_message_that_is_too_large_is_refused_for_good() -> None:
    (outcome,) = attempt_at(Host(lambda verb, line: "552 too large" if verb == "." else kind(verb, line)))
    assert shown(outcome) == ["failed 552 "]


@pytest.mark.rfc(5321, "3.8")
@pytest.mark.parametrize("at", ["MAIL", "RCPT"])
def test_a_server_that_has_had_enough_of_a_connection_gets_another(at: str) -> None:
    def answer(verb: str, line: str) -> str:
        if verb == at and sum(one.startswith(at) for one in host.commands[-1]) > 1:
            return "421 4.7.0 too many messages"
        return kind(verb, line)

    host = Host(answer, offers=())
    outcomes = attempt_at(host, jobs=[job()] * 3)
    assert [shown(one) for one in outcomes] == [["delivered 250 2.0.0"]] * 3
    assert len(host.commands) == 3


@pytest.mark.parametrize("others", [0, 1])
def test_a_new_connection_that_is_closed_by_421_leads_to_the_next_host(others: int) -> None:
    busy = Host(lambda verb, line: "421 4.3.2 busy" if verb == "MAIL" else kind(verb, line))
    (outcome,) = attempt_at(busy, *(Host() for _ in range(others)))
    assert shown(outcome) == (["delivered 250 2.0.0"] if others else ["deferred 451 4.4.2"])
    assert len(busy.commands) == 1


def test_what_a_route_asks_of_a_host_is_no_fault_of_the_destination() -> None:
    async def work() -> list[Outcome]:
        async with hosts(Host()) as port:
            relay = (RelayHost(ip_address("127.0.0.2"), port),)
            signs_in = Route(name="in", hosts=relay, tls=RouteTls.NEVER, credentials=Credentials("u", Secret("p")))
            found = []
            for route in (Route(name="tls", hosts=relay, tls=RouteTls.REQUIRED), signs_in):
                async with attempts(port, ZoneResolver(), rules=[Rule(route)]).connection() as sender:
                    found.append(await sender.attempt(job()))
            return found

    outcomes = run(work)
    assert [shown(one) for one in outcomes] == [["deferred 451 4.7.5"], ["deferred 451 4.7.8"]]
    assert [one.is_reached for one in outcomes] == [True, True]


def test_a_dead_host_is_dead_for_a_message_that_requires_tls() -> None:
    async def work() -> Outcome:
        async with hosts(Host()) as port:
            resolver = ZoneResolver()
            resolver.add("x.test", "MX", (1, "mx.x.test"))
            resolver.add("mx.x.test", "A", "127.0.0.9")
            resolver.vouch("x.test")
            async with attempts(port, resolver).connection() as sender:
                return await sender.attempt(job(message=PLAIN._replace(requires_tls=True)))

    outcome = run(work)
    assert shown(outcome) == ["deferred 451 4.4.1"]
    assert outcome.is_reached is False


@pytest.mark.rfc(8689, "5")
def test_a_bounce_goes_without_the_tls_that_is_not_to_be_had() -> None:
    host = Host(offers=("REQUIRETLS",))
    (outcome,) = attempt_at(host, jobs=[job(message=PLAIN._replace(reverse_path="", requires_tls=True))])
    assert shown(outcome) == ["delivered 250 2.0.0"]
    assert not any("REQUIRETLS" in line for line in host.told("MAIL"))
