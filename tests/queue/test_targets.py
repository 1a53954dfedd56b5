"""Where to connect: the order of mail exchangers, loops, and what is said when there is nowhere."""

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pochta import clock
from pochta.queue.route import RelayHost
from pochta.queue.targets import (
    MAX_ADDRESSES,
    MAX_HOSTS,
    OurSide,
    Target,
    Unroutable,
    parse_literal,
    relay_targets,
    targets,
)
from pochta.testing.resolver import ZoneResolver

OWN = OurSide(names=frozenset({"mx.us.test"}), addresses=frozenset({ip_address("192.0.2.99")}))
A = {f"h{n}.test": {"A": [f"192.0.2.{n}"]} for n in range(1, 30)}


def find(resolver: ZoneResolver, domain: str = "d.test", own: OurSide = OWN, port: int = 25) -> tuple[Target, ...]:
    return asyncio.run(targets(resolver, domain, own, port=port))


def hosts(found: tuple[Target, ...]) -> list[str]:
    return [one.host for one in found]


def addresses(found: tuple[Target, ...]) -> list[str]:
    return [str(one.address) for one in found]


def zone(*mx: tuple[int, str]) -> ZoneResolver:
    return ZoneResolver({"d.test": {"MX": mx}, **A})


@pytest.mark.rfc(5321, "5.1")
def test_by_preference() -> None:
    found = find(zone((30, "h3.test"), (10, "h1.test"), (20, "h2.test")), port=2525)
    assert found == tuple(Target(f"h{n}.test", IPv4Address(f"192.0.2.{n}"), 2525, n * 10, False) for n in (1, 2, 3))


@pytest.mark.rfc(5321, "5.1")
def test_equals_are_drawn_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = zone((10, "h1.test"), (10, "h2.test"), (10, "h3.test"), (5, "h4.test"))
    orders = set()
    for keys in ([1, 2, 3, 4], [3, 2, 1, 0], [2, 3, 1, 9]):
        rest = iter(keys)
        monkeypatch.setattr(clock.current(), "token_bytes", lambda n, rest=rest: next(rest).to_bytes(n, "big"))
        found = hosts(find(resolver))
        assert found[0] == "h4.test"
        orders.add(tuple(found))
    assert len(orders) == 3


@pytest.mark.rfc(5321, "5.1")
def test_without_mx_the_domain_is_its_own() -> None:
    resolver = ZoneResolver({"d.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}})
    assert find(resolver) == (
        Target("d.test", IPv6Address("2001:db8::1"), 25, 0, False),
        Target("d.test", IPv4Address("192.0.2.1"), 25, 0, False),
    )


def test_address_records_are_not_used_beside_mx() -> None:
    resolver = ZoneResolver({"d.test": {"MX": [(10, "gone.test")], "A": ["192.0.2.1"]}})
    with pytest.raises(Unroutable) as raised:
        find(resolver)
    assert raised.value.enhanced == "5.4.4"


def test_families_alternate_and_ipv6_is_first() -> None:
    resolver = ZoneResolver(
        {"d.test": {"MX": [(10, "h.test")]}, "h.test": {"A": ["192.0.2.1", "192.0.2.2"],
         "AAAA": ["2001:db8::1", "2001:db8::2", "2001:db8::3"]}}
    )  # fmt: skip
    assert addresses(find(resolver)) == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]
    only_v4 = OurSide(has_ipv6=False)
    assert addresses(find(resolver, own=only_v4)) == ["192.0.2.1", "192.0.2.2"]
    assert ("h.test", "AAAA") not in resolver.queries[3:]
    assert addresses(find(resolver, own=OurSide(has_ipv4=False))) == ["2001:db8::1", "2001:db8::2", "2001:db8::3"]


def test_a_host_with_many_addresses_leaves_room_for_the_next() -> None:
    resolver = zone((20, "h1.test"), (10, "many.test"))
    resolver.add("many.test", "A", *[f"198.51.100.{n}" for n in range(50)])
    found = find(resolver)
    assert hosts(found) == ["many.test", "many.test", "h1.test"]


def test_numbers_are_bounded() -> None:
    resolver = zone(*[(n, f"h{n}.test") for n in range(1, 30)])
    assert hosts(find(resolver)) == [f"h{n}.test" for n in range(1, MAX_ADDRESSES + 1)]
    assert len([one for one in resolver.queries if one[1] == "A"]) == MAX_HOSTS


def test_one_host_named_twice_counts_once() -> None:
    assert [one.preference for one in find(zone((20, "h1.test"), (10, "h1.test")))] == [10]


def test_alias_of_the_domain_and_of_a_host() -> None:
    resolver = ZoneResolver(
        {"d.test": {"CNAME": ["e.test"]}, "e.test": {"MX": [(10, "alias.test")]}, "alias.test": {"CNAME": ["h1.test"]},
         **A}
    )  # fmt: skip
    found = find(resolver)
    assert (hosts(found), addresses(found)) == (["alias.test"], ["192.0.2.1"])


def test_vouched_answer() -> None:
    resolver = zone((10, "h1.test"))
    resolver.vouch("d.test")
    assert [one.is_authentic for one in find(resolver)] == [True]


# Loops


@pytest.mark.rfc(5321, "5.1")
@pytest.mark.parametrize(
    ("mx", "left"),
    [
        pytest.param([(10, "h1.test"), (20, "mx.us.test"), (30, "h2.test")], ["h1.test"], id="we-are-second"),
        pytest.param([(10, "h1.test"), (20, "mx.us.test"), (20, "h2.test")], ["h1.test"], id="same-preference"),
        pytest.param([(10, "h1.test"), (20, "other.test"), (30, "h2.test")], ["h1.test"], id="by-address"),
        pytest.param([(10, "h1.test"), (20, "other.test"), (20, "h2.test")], ["h1.test"], id="by-address-same"),
    ],
)
def test_what_leads_back_to_us_is_dropped(mx: list[tuple[int, str]], left: list[str]) -> None:
    resolver = zone(*mx)
    resolver.add("mx.us.test", "A", "192.0.2.99")
    resolver.add("other.test", "A", "192.0.2.50", "192.0.2.99")
    assert hosts(find(resolver)) == left


@pytest.mark.rfc(5321, "5.1")
@pytest.mark.parametrize(
    ("domain", "records"),
    [
        pytest.param("d.test", {"d.test": {"MX": [(10, "mx.us.test"), (20, "h1.test")]}}, id="best-is-us"),
        pytest.param("d.test", {"d.test": {"A": ["192.0.2.99"]}}, id="implicit-by-address"),
        pytest.param("mx.us.test", {"mx.us.test": {"A": ["192.0.2.1"]}}, id="implicit-by-name"),
        pytest.param("d.test", {"d.test": {"AAAA": ["::ffff:192.0.2.99"]}}, id="mapped"),
        pytest.param("[192.0.2.99]", {}, id="literal"),
        pytest.param("[192.000.002.099]", {}, id="literal-with-zeros"),
        pytest.param("[IPv6:::ffff:192.0.2.99]", {}, id="literal-mapped"),
    ],
)
def test_loop(domain: str, records: dict[str, dict[str, list[object]]]) -> None:
    with pytest.raises(Unroutable) as raised:
        find(ZoneResolver({**A, **records}), domain)
    error = raised.value
    assert (error.is_permanent, error.enhanced, error.code) == (True, "5.4.6", 554)
    assert error.text == f"mail for {domain} loops back to this server, which does not take it"


# Nowhere


@pytest.mark.rfc(7505, "3")
def test_null_mx() -> None:
    with pytest.raises(Unroutable) as raised:
        find(zone((0, "")))
    error = raised.value
    assert (error.is_permanent, error.enhanced, error.code) == (True, "5.1.10", 556)
    assert str(error) == error.text == "the domain d.test takes no mail"


def test_null_mx_beside_others_says_nothing() -> None:
    assert hosts(find(zone((0, ""), (10, "h1.test")))) == ["h1.test"]


NOWHERE = [
    pytest.param({}, "5.1.2", "the domain d.test does not exist", id="no-domain"),
    pytest.param({"d.test": {"TXT": ["x"]}}, "5.4.4", "the domain d.test has no mail server", id="no-address"),
    pytest.param(
        {"d.test": {"MX": [(1, "gone.test")]}}, "5.4.4", "the domain d.test names no mail server that can be reached",
        id="no-host",
    ),
    pytest.param(
        {"d.test": {"MX": [(1, "192.0.2.1")]}, "192.0.2.1": {"A": ["192.0.2.1"]}}, "5.4.4",
        "the domain d.test names no mail server that can be reached", id="address-in-mx",
    ),
    pytest.param(
        {"d.test": {"MX": [(1, "h.test")]}, "h.test": {"A": ["127.0.0.1", "0.0.0.0", "224.0.0.1"]}}, "5.4.4",
        "the domain d.test names no mail server that can be reached", id="loopback",
    ),
    pytest.param(
        {"d.test": {"MX": [(1, "h.test")]}, "h.test": {"AAAA": ["::1", "::", "::ffff:127.0.0.1"]}}, "5.4.4",
        "the domain d.test names no mail server that can be reached", id="loopback-ipv6",
    ),
    pytest.param(
        {"d.test": {"MX": [(1, "gone.test"), (2, "mx.us.test")]}}, "5.4.4",
        "the domain d.test names no mail server that can be reached", id="better-host-is-gone",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("records", "enhanced", "text"), NOWHERE)
def test_nowhere(records: dict[str, dict[str, list[object]]], enhanced: str, text: str) -> None:
    with pytest.raises(Unroutable) as raised:
        find(ZoneResolver({"x.test": {"A": ["192.0.2.1"]}, **records}))
    error = raised.value
    assert (error.is_permanent, error.enhanced, error.code, error.text) == (True, enhanced, 550, text)


@pytest.mark.rfc(5321, "5.1")
@pytest.mark.parametrize("failing", [("d.test", "MX"), ("h1.test", ""), ("h1.test", "AAAA")])
def test_no_answer_is_temporary(failing: tuple[str, str]) -> None:
    resolver = zone((10, "h1.test"))
    resolver.fail(*failing)
    if failing[1] == "AAAA":
        assert addresses(find(resolver)) == ["192.0.2.1"]
        resolver.remove("h1.test", "A")
    with pytest.raises(Unroutable) as raised:
        find(resolver)
    error = raised.value
    assert (error.is_permanent, error.enhanced, error.code) == (False, "4.4.3", 451)
    assert error.text == "the mail servers of d.test could not be looked up for now"


def test_a_host_that_cannot_be_looked_up_is_passed_over() -> None:
    resolver = zone((10, "h1.test"), (20, "h2.test"))
    resolver.fail("h1.test")
    assert hosts(find(resolver)) == ["h2.test"]


def test_loopback_where_it_is_allowed() -> None:
    resolver = ZoneResolver({"d.test": {"A": ["127.0.0.2"]}})
    assert addresses(find(resolver, own=OurSide(allows_loopback=True))) == ["127.0.0.2"]


# Literals


@pytest.mark.rfc(5321, "4.1.3")
@pytest.mark.parametrize(
    ("domain", "address"),
    [
        pytest.param("[192.0.2.1]", "192.0.2.1", id="ipv4"),
        pytest.param("[192.000.02.1]", "192.0.2.1", id="zeros"),
        pytest.param("[ipv6:2001:db8::1]", "2001:db8::1", id="ipv6"),
        pytest.param("[IPv6:2001:db8::192.0.2.1]", "2001:db8::c000:201", id="ipv6-with-ipv4"),
    ],
)
def test_literal(domain: str, address: str) -> None:
    found = find(ZoneResolver(), domain)
    assert found == (Target(address, ip_address(address), 25, 0, True),)


@pytest.mark.parametrize("domain", ["[tag:abc]", "[ipv6:x]", "[1.2.3]", "[1.2.3.4.5]", "[]", "[ipv6:fe80::1%eth0]"])
def test_literal_that_holds_no_address(domain: str) -> None:
    with pytest.raises(Unroutable) as raised:
        find(ZoneResolver(), domain)
    assert (raised.value.is_permanent, raised.value.enhanced) == (True, "5.1.2")


@pytest.mark.parametrize("domain", ["[127.0.0.1]", "[ipv6:::1]", "[0.0.0.0]"])
def test_literal_that_is_no_place_for_mail(domain: str) -> None:
    with pytest.raises(Unroutable) as raised:
        find(ZoneResolver(), domain)
    assert (raised.value.is_permanent, raised.value.enhanced) == (True, "5.4.4")


def test_parse_literal() -> None:
    assert parse_literal("[IPV6:::1]") == IPv6Address("::1")
    assert parse_literal("[nothing]") is None


# Relays


def relays(resolver: ZoneResolver, *relay: RelayHost, own: OurSide = OWN) -> tuple[Target, ...]:
    return asyncio.run(relay_targets(resolver, relay, own))


def test_relays_in_their_order() -> None:
    resolver = ZoneResolver({"b.test": {"MX": [(1, "h1.test")], "A": ["192.0.2.2"]}, **A})
    found = relays(resolver, RelayHost("b.test", 587), RelayHost(IPv6Address("::1"), 2525), RelayHost("h3.test", 25))
    assert [(one.host, str(one.address), one.port) for one in found] == [
        ("b.test", "192.0.2.2", 587), ("::1", "::1", 2525), ("h3.test", "192.0.2.3", 25),
    ]  # fmt: skip


def test_relay_may_be_ourselves() -> None:
    assert addresses(relays(ZoneResolver(), RelayHost(IPv4Address("192.0.2.99"), 10025))) == ["192.0.2.99"]


def test_relay_without_address_is_ours_to_mend() -> None:
    with pytest.raises(Unroutable) as raised:
        relays(ZoneResolver(), RelayHost("gone.test", 25))
    error = raised.value
    assert (error.is_permanent, error.enhanced, error.code) == (False, "4.4.4", 451)
    resolver = ZoneResolver()
    resolver.fail("slow.test")
    with pytest.raises(Unroutable) as raised:
        relays(resolver, RelayHost("slow.test", 25))
    assert (raised.value.is_permanent, raised.value.enhanced) == (False, "4.4.3")
