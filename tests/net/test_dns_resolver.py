"""`DnsResolver` against the name server on loopback, and against servers that lie."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import pytest

from pochta import clock
from pochta.dns import Answer, DnsError, DnsResolver, Mx, Resolver, Srv, resolver
from pochta.testing.nameserver import Nameserver
from pochta.testing.resolver import ZoneResolver

ZONE = """
@ MX 10 MX1
@ MX 20 mx2.other.test.
@ TXT "v=spf1 " "mx -all"
@ TXT "other"
mx1 A 192.0.2.1
mx1 A 192.0.2.2
mx1 AAAA 2001:db8::1
null MX 0 .
alias CNAME mx1
away CNAME mx2.other.test.
loop1 CNAME loop2
loop2 CNAME loop1
gone CNAME nothing
_imaps._tcp SRV 0 1 993 mx1
under_score A 192.0.2.3
xn--bcher-kva A 192.0.2.4
*.wild A 192.0.2.5
below.empty A 192.0.2.6
sub DNAME other.test.
odd PTR we\\.ird\\032.name
"""
OTHER = "mx2 A 192.0.2.9\n"
REVERSE = "1 PTR MX1.a.test.\n1 PTR other.test.\n"
REVERSE_6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 PTR mx1.a.test."

Ask = Callable[[Resolver], Coroutine[Any, Any, Answer[Any]]]


@pytest.fixture
def server() -> Iterator[Nameserver]:
    with Nameserver() as started:
        started.add_zone("a.test", ZONE)
        started.add_zone("other.test", OTHER)
        started.add_zone("2.0.192.in-addr.arpa", REVERSE)
        started.add_zone("8.b.d.0.1.0.0.2.ip6.arpa", REVERSE_6)
        yield started


@contextlib.asynccontextmanager
async def closing(one: DnsResolver) -> AsyncIterator[DnsResolver]:
    try:
        yield one
    finally:
        await one.aclose()


def ask(server: Nameserver, question: Ask, **settings: Any) -> Answer[Any]:
    async def run() -> Answer[Any]:
        async with closing(DnsResolver([server.address], **settings)) as one:
            return await question(one)

    return asyncio.run(run())


ANSWERS: dict[str, tuple[Ask, tuple[Any, ...], bool]] = {
    "a": (lambda r: r.a("mx1.a.test"), (ip_address("192.0.2.1"), ip_address("192.0.2.2")), True),
    "final dot, any case": (lambda r: r.aaaa("MX1.a.Test."), (ip_address("2001:db8::1"),), True),
    "mx": (lambda r: r.mx("a.test"), (Mx(10, "mx1.a.test"), Mx(20, "mx2.other.test")), True),
    "null mx": (lambda r: r.mx("null.a.test"), (Mx(0, ""),), True),
    "txt joined": (lambda r: r.txt("a.test"), (b"v=spf1 mx -all", b"other"), True),
    "srv": (lambda r: r.srv("_imaps._tcp.a.test"), (Srv(0, 1, 993, "mx1.a.test"),), True),
    "ptr": (lambda r: r.ptr(ip_address("192.0.2.1")), ("mx1.a.test", "other.test"), True),
    "ptr ipv6": (lambda r: r.ptr(ip_address("2001:db8::1")), ("mx1.a.test",), True),
    "no ptr": (lambda r: r.ptr(ip_address("192.0.2.99")), (), False),
    "alias": (lambda r: r.aaaa("alias.a.test"), (ip_address("2001:db8::1"),), True),
    "alias into another zone": (lambda r: r.a("away.a.test"), (ip_address("192.0.2.9"),), True),
    "alias of nothing": (lambda r: r.a("gone.a.test"), (), False),
    "alias without that kind": (lambda r: r.mx("alias.a.test"), (), True),
    "dname": (lambda r: r.a("mx2.sub.a.test"), (ip_address("192.0.2.9"),), True),
    "underscore": (lambda r: r.a("under_score.a.test"), (ip_address("192.0.2.3"),), True),
    "u-label": (lambda r: r.a("Bücher.a.test"), (ip_address("192.0.2.4"),), True),
    "wildcard": (lambda r: r.a("any.wild.a.test"), (ip_address("192.0.2.5"),), True),
    "nothing of that kind": (lambda r: r.txt("mx1.a.test"), (), True),
    "only something below": (lambda r: r.a("empty.a.test"), (), True),
    "not there": (lambda r: r.a("nobody.a.test"), (), False),
    "no such zone": (lambda r: r.a("nobody.invalid"), (), False),
    "label too long": (lambda r: r.a("a" * 64 + ".a.test"), (), False),
    "empty label": (lambda r: r.a("a..test"), (), False),
    "name too long": (lambda r: r.a("a." * 126 + "test"), (), False),
    "no name": (lambda r: r.a(""), (), False),
    "root": (lambda r: r.a("."), (), False),
    "u-label that is none": (lambda r: r.a("\u00ad.a.test"), (), False),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers(server: Nameserver, case: str) -> None:
    question, records, exists = ANSWERS[case]
    answer = ask(server, question)
    # Servers shuffle what they answer
    assert (sorted(answer.records), answer.exists) == (sorted(records), exists)


@pytest.mark.parametrize("case", [case for case in ANSWERS if case not in ("dname", "wildcard")])
def test_resolver_without_sockets_answers_alike(case: str) -> None:
    zones = ZoneResolver()
    zones.add_zone("a.test", ZONE)
    zones.add_zone("other.test", OTHER)
    zones.add_zone("2.0.192.in-addr.arpa", REVERSE)
    zones.add_zone("8.b.d.0.1.0.0.2.ip6.arpa", REVERSE_6)
    question, records, exists = ANSWERS[case]
    answer = asyncio.run(question(zones))
    assert (answer.records, answer.exists) == (records, exists)


def test_resolver_without_sockets_fails_vouches_and_forgets() -> None:
    zones = ZoneResolver({"a.test": {"A": ["192.0.2.1"], "TXT": ["x"]}, "192.0.2.1": {"PTR": ["a.test"]}})
    zones.fail("a.test", "A")
    zones.vouch("a.test")
    assert asyncio.run(zones.txt("A.test")) == Answer((b"x",), is_authentic=True)
    assert asyncio.run(zones.ptr(ip_address("192.0.2.1"))).records == ("a.test",)
    with pytest.raises(DnsError, match=r"^A of a\.test: timeout$"):
        asyncio.run(zones.a("a.test"))
    zones.recover("a.test", "A")
    zones.remove("a.test", "TXT")
    assert asyncio.run(zones.txt("a.test")).exists
    assert asyncio.run(zones.a("a.test")).records
    zones.remove("a.test")
    assert not asyncio.run(zones.a("a.test")).exists
    assert zones.queries[:2] == [("a.test", "TXT"), ("1.2.0.192.in-addr.arpa", "PTR")]


def test_names_that_no_dns_holds_are_not_asked_for(server: Nameserver) -> None:
    for case in ("label too long", "empty label", "name too long", "no name", "root"):
        ask(server, ANSWERS[case][0])
    assert server.queries == []


def test_octets_that_are_no_text_cannot_pose_as_another_name(server: Nameserver) -> None:
    server.set_zone("2.0.192.in-addr.arpa", "7 PTR we\\.ird\\032.a.test.")
    assert ask(server, lambda r: r.ptr(ip_address("192.0.2.7"))).records == ("we\\046ird\\032.a.test",)


@pytest.mark.rfc(7766, "5")
def test_truncated_answer_is_fetched_over_tcp(server: Nameserver) -> None:
    server.truncate("a.test")
    assert len(ask(server, lambda r: r.mx("a.test")).records) == 2
    assert server.queries == [("a.test", "MX")] * 2


def test_answer_too_long_for_udp_comes_over_tcp(server: Nameserver) -> None:
    server.set_zone("a.test", "".join(f'@ TXT "{at:0200}"\n' for at in range(100)))
    assert len(ask(server, lambda r: r.txt("a.test")).records) == 100
    assert len(server.queries) == 2


def test_authentic_is_what_the_server_says(server: Nameserver) -> None:
    assert not ask(server, lambda r: r.a("mx1.a.test")).is_authentic
    server.vouch("mx1.a.test")
    server.vouch("nobody.a.test")
    assert ask(server, lambda r: r.a("mx1.a.test")).is_authentic
    assert ask(server, lambda r: r.a("nobody.a.test")) == Answer((), exists=False, is_authentic=True)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
def test_error_of_the_server_is_no_answer(server: Nameserver, rcode: str) -> None:
    server.fail("a.test", rcode)
    with pytest.raises(DnsError, match=f"^MX of a.test: {rcode}$"):
        ask(server, lambda r: r.mx("a.test"))


def test_server_refuses_what_it_does_not_hold() -> None:
    with Nameserver(is_complete=False) as server, pytest.raises(DnsError, match="REFUSED"):
        ask(server, lambda r: r.a("elsewhere.test"))


def test_silent_server_is_given_up(server: Nameserver) -> None:
    server.drop("a.test")
    with pytest.raises(DnsError, match=r"^MX of a\.test: no answer"):
        ask(server, lambda r: r.mx("a.test"), timeout_s=0.6)
    assert server.queries == [("a.test", "MX")] * resolver.ROUNDS


def test_next_server_is_asked_after_silence_and_failure(server: Nameserver) -> None:
    async def run(first: Nameserver) -> Answer[Any]:
        async with closing(DnsResolver([first.address, server.address], timeout_s=2.0)) as one:
            await one.a("mx1.a.test")
            return await one.mx("a.test")

    with Nameserver() as first:
        first.fail("mx1.a.test")
        first.drop("a.test")
        assert len(asyncio.run(run(first)).records) == 2
        assert first.queries == [("mx1.a.test", "A"), ("a.test", "MX")]


def test_port_where_nobody_listens_is_a_failure() -> None:
    with Nameserver() as server:
        pass
    with pytest.raises(DnsError):
        ask(server, lambda r: r.a("a.test"), timeout_s=1.0)


def test_alias_loop_is_an_error(server: Nameserver) -> None:
    with pytest.raises(DnsError, match="too many aliases"):
        ask(server, lambda r: r.a("loop1.a.test"))


def test_alias_that_the_server_leaves_to_us_is_followed() -> None:
    with Nameserver() as server:
        server.add_zone("a.test", "www CNAME w.b.test.\n")
        server.add_zone("b.test", "w A 192.0.2.1\n")

        def lazy(query: dns.message.Message) -> dns.message.Message:
            octets = server.answer(query.to_wire(), is_tcp=True)
            assert octets is not None
            response = dns.message.from_wire(octets)
            del response.answer[1:]
            return response

        answer, asked = asyncio.run(ask_liar(lambda query: [lazy(query).to_wire()], "www.a.test"))
    assert answer == Answer((ip_address("192.0.2.1"),))
    assert asked == 2


# The cache


class Now:
    """A clock that stands where it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000_000.0
        monkeypatch.setattr(clock.current(), "now", lambda: self.now_s)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    return Now(monkeypatch)


CACHED = {
    "smallest ttl on the way": ("w 900 CNAME v\nv 100 A 192.0.2.1\n", "w.a.test", 100),
    "zero is a second": ("w 0 A 192.0.2.1\n", "w.a.test", 1),
    "a day at most": ("w 1000000 A 192.0.2.1\n", "w.a.test", 86_400),
    "nothing, by the minimum of the SOA": ("@ 900 SOA ns h 1 2 3 4 77\n", "w.a.test", 77),
    "nothing, by the TTL of the SOA": ("@ 40 SOA ns h 1 2 3 4 77\n", "w.a.test", 40),
    "nothing, five minutes at most": ("@ 9000 SOA ns h 1 2 3 4 9000\n", "w.a.test", 300),
}


@pytest.mark.rfc(2308, "5")
@pytest.mark.parametrize("case", CACHED)
def test_answer_is_kept_while_it_holds(server: Nameserver, now: Now, case: str) -> None:
    zone, name, ttl_s = CACHED[case]
    server.set_zone("a.test", zone)

    async def run() -> None:
        async with closing(DnsResolver([server.address])) as one:
            first = await one.a(name)
            now.now_s += ttl_s - 0.5
            assert await one.a(name.upper() + ".") is first
            assert len(server.queries) == 1
            now.now_s += 1
            await one.a(name)
            assert len(server.queries) == 2

    asyncio.run(run())


def test_failure_is_kept_for_seconds(server: Nameserver, now: Now) -> None:
    server.fail("a.test")

    async def run() -> None:
        async with closing(DnsResolver([server.address])) as one:
            for _ in range(2):
                with pytest.raises(DnsError):
                    await one.mx("a.test")
            assert len(server.queries) == 1
            server.recover("a.test")
            now.now_s += resolver.FAILURE_TTL_S
            assert len((await one.mx("a.test")).records) == 2

    asyncio.run(run())


def test_equal_questions_under_way_are_asked_once(server: Nameserver) -> None:
    async def run() -> None:
        async with closing(DnsResolver([server.address])) as one:
            answers = await asyncio.gather(*[one.a("mx1.a.test") for _ in range(20)], one.aaaa("mx1.a.test"))
            assert len({id(answer) for answer in answers}) == 2

    asyncio.run(run())
    assert sorted(server.queries) == [("mx1.a.test", "A"), ("mx1.a.test", "AAAA")]


def test_asker_that_gives_up_takes_nothing_from_the_others(server: Nameserver) -> None:
    async def run() -> None:
        async with closing(DnsResolver([server.address])) as one:
            impatient = asyncio.create_task(one.a("mx1.a.test"))
            patient = asyncio.create_task(one.a("mx1.a.test"))
            await asyncio.sleep(0)
            impatient.cancel()
            assert len((await patient).records) == 2
            assert impatient.cancelled()

    asyncio.run(run())
    assert len(server.queries) == 1


def test_questions_under_way_are_bounded(server: Nameserver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_UNDER_WAY", 3)
    server.drop("a.test")

    async def run() -> list[Any]:
        async with closing(DnsResolver([server.address], timeout_s=60.0)) as one:
            waiting: list[asyncio.Task[Any]] = [
                asyncio.create_task(one.a("a.test")),
                asyncio.create_task(one.mx("a.test")),
            ]
            waiting.append(asyncio.create_task(one.txt("a.test")))
            await asyncio.sleep(0)
            with pytest.raises(DnsError, match="too many questions"):
                await one.aaaa("a.test")
            await one.aclose()
            return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(run())] == [asyncio.CancelledError] * 3


# resolv.conf


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("# nameserver 192.0.2.9\nsearch a.test\nnameserver 192.0.2.1\n", [("192.0.2.1", 53)]),
        ("nameserver\nnameserver ::1\nnameserver fe80::1%eth0\n", [("::1", 53), ("fe80::1%eth0", 53)]),
        ("nameserver 192.0.2.1\n" * 5, [("192.0.2.1", 53)] * 3),
        ("", [("127.0.0.1", 53)]),
        (None, [("127.0.0.1", 53)]),
    ],
    ids=["comments", "ipv6", "at most three", "none", "no file"],
)
def test_system_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, servers: list[tuple[str, int]]
) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(resolver, "RESOLV_CONF", path)
    assert list(resolver.system_servers()) == servers


def test_system_servers_are_read_at_the_first_question_and_after_failures(
    server: Nameserver, monkeypatch: pytest.MonkeyPatch, now: Now
) -> None:
    listed = [(("127.0.0.1", 1),), (server.address,)]
    monkeypatch.setattr(resolver, "system_servers", lambda: listed.pop(0))

    async def run() -> None:
        async with closing(DnsResolver()) as one:
            assert len(listed) == 2
            with pytest.raises(DnsError):
                await one.mx("a.test")
            now.now_s += resolver.FAILURE_TTL_S
            assert len((await one.mx("a.test")).records) == 2
            await one.a("mx1.a.test")

    asyncio.run(run())
    assert listed == []


# Servers that lie

Lie = Callable[[dns.message.Message], list[bytes]]


class Liar(asyncio.DatagramProtocol):
    def __init__(self, lie: Lie) -> None:
        self.lie, self.asked = lie, 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        for octets in self.lie(dns.message.from_wire(data)):
            self.transport.sendto(octets, addr)


async def ask_liar(lie: Lie, name: str = "a.test", tcp: bytes | None = None) -> tuple[Answer[Any], int]:
    """The answer, and the number of datagrams that asked for it; `tcp` is all that a connection brings."""

    async def on_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(tcp or b"")
        writer.close()

    loop = asyncio.get_running_loop()
    listening = await asyncio.start_server(on_tcp, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()[:2]
    transport, liar = await loop.create_datagram_endpoint(lambda: Liar(lie), local_addr=address)
    try:
        async with closing(DnsResolver([address], timeout_s=1.0)) as one:
            return await one.a(name), liar.asked
    finally:
        transport.close()
        listening.close()


def true_answer(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 300, "IN", "A", "192.0.2.1"))
    return response.to_wire()


def with_other_id(query: dns.message.Message) -> bytes:
    octets = true_answer(query)
    return bytes((octets[0] ^ 1,)) + octets[1:]


def with_other_question(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("b.test", "A", id=query.id)
    return true_answer(other)


def with_other_kind(query: dns.message.Message) -> bytes:
    return true_answer(dns.message.make_query(query.question[0].name, "AAAA", id=query.id))


def question_itself(query: dns.message.Message) -> bytes:
    return query.to_wire()


def broken(query: dns.message.Message) -> bytes:
    return true_answer(query)[:-13]  # the last 11 octets are EDNS's


STRAYS = [with_other_id, with_other_question, with_other_kind, question_itself, broken]


@pytest.mark.rfc(5452, "9.1")
@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: stray.__name__)
def test_stray_datagrams_are_passed_over(stray: Callable[[dns.message.Message], bytes]) -> None:
    answer, _ = asyncio.run(ask_liar(lambda query: [stray(query), b"", b"x", true_answer(query)]))
    assert answer == Answer((ip_address("192.0.2.1"),))


@pytest.mark.parametrize("stray", STRAYS[1:], ids=lambda stray: stray.__name__)
def test_server_that_only_strays_is_given_up(stray: Callable[[dns.message.Message], bytes]) -> None:
    with pytest.raises(DnsError):
        asyncio.run(ask_liar(lambda query: [stray(query)] * 20))


def test_answers_about_other_names_are_not_read() -> None:
    def lie(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("b.test.", 300, "IN", "A", "192.0.2.1"))
        return [response.to_wire()]

    assert asyncio.run(ask_liar(lie))[0] == Answer()


@pytest.mark.rfc(6891, "7")
def test_server_without_edns_is_asked_plainly() -> None:
    def lie(query: dns.message.Message) -> list[bytes]:
        if query.edns < 0:
            return [true_answer(query)]
        return [query.id.to_bytes(2, "big") + b"\x80\x01" + bytes(8)]

    answer, asked = asyncio.run(ask_liar(lie))
    assert answer.records
    assert asked == 2


def truncated(query: dns.message.Message) -> list[bytes]:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return [response.to_wire()]


@pytest.mark.parametrize("tcp", [b"", b"\x00", b"\x00\x00", b"\xff\xff123", b"\x00\x0c" + bytes(12)])
def test_connection_that_brings_no_answer_is_a_failure(tcp: bytes) -> None:
    with pytest.raises(DnsError):
        asyncio.run(ask_liar(truncated, tcp=tcp))


def test_each_question_has_its_own_id_and_says_what_it_wants() -> None:
    seen: list[dns.message.Message] = []

    def lie(query: dns.message.Message) -> list[bytes]:
        seen.append(query)
        return [] if len(seen) < 2 else [true_answer(query)]

    asyncio.run(ask_liar(lie))
    assert len({query.id for query in seen}) == 2
    assert {query.payload for query in seen} == {1232}
    wanted = dns.flags.RD | dns.flags.AD
    assert all(query.flags & wanted == wanted and query.ednsflags & dns.flags.DO for query in seen)
