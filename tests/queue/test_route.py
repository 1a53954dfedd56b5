"""Which way mail goes: patterns, their order, and how relays are written."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import SetupError
from pochta.log import Secret
from pochta.queue.route import (
    BY_MX,
    Credentials,
    RelayHost,
    Route,
    Routes,
    RouteTls,
    Rule,
    destination_of,
    domain_pattern,
    parse_host,
)

RELAY = RelayHost("relay.test", 25)


def to(name: str) -> Route:
    return Route(name=name, hosts=(RELAY,))


ROUTES = Routes(
    [
        Rule(to("all")),
        Rule(to("all-of-sender"), senders=("Sender.test",)),
        Rule(to("all-of-anna"), senders=("Anna@sender.test",)),
        Rule(to("all-below-sender"), senders=("*.sender.test",)),
        Rule(to("below"), ("*.example.org",)),
        Rule(to("deeper"), ("*.deep.example.org",)),
        Rule(to("exact"), ("example.org", "b.example.org")),
        Rule(to("exact-of-sender"), ("example.org",), ("sender.test",)),
        Rule(to("idn"), ("bücher.test",)),
        Rule(to("literal"), ("[192.0.2.1]",)),
    ]
)
WAYS = [
    pytest.param("else.test", "x.test", "", "all", id="all"),
    pytest.param("else.test", "", "", "all", id="null-sender"),
    pytest.param("else.test", "sender.test", "bob", "all-of-sender", id="sender-domain"),
    pytest.param("else.test", "sender.test", "anna", "all-of-anna", id="sender-address"),
    pytest.param("else.test", "a.sender.test", "anna", "all-below-sender", id="below-sender"),
    pytest.param("a.example.org", "x.test", "", "below", id="below"),
    pytest.param("x.a.example.org", "x.test", "", "below", id="far-below"),
    pytest.param("a.deep.example.org", "x.test", "", "deeper", id="more-labels"),
    pytest.param("deep.example.org", "x.test", "", "below", id="not-below-itself"),
    pytest.param("example.org", "x.test", "", "exact", id="exact"),
    pytest.param("b.example.org", "x.test", "", "exact", id="exact-before-below"),
    pytest.param("example.org", "sender.test", "anna", "exact-of-sender", id="sender-within-exact"),
    pytest.param("b.example.org", "sender.test", "anna", "exact", id="recipient-before-sender"),
    pytest.param("notexample.org", "x.test", "", "all", id="label-border"),
    pytest.param("xn--bcher-kva.test", "x.test", "", "idn", id="a-labels"),
    pytest.param("[192.0.2.1]", "x.test", "", "literal", id="literal"),
    pytest.param("[192.0.2.2]", "x.test", "", "all", id="other-literal"),
]


@pytest.mark.parametrize(("recipient", "sender", "local_part", "name"), WAYS)
def test_most_specific_rule(recipient: str, sender: str, local_part: str, name: str) -> None:
    assert ROUTES.find(recipient, sender, sender_local_part=local_part).name == name


def test_without_a_rule_mail_goes_by_mx() -> None:
    assert Routes().find("example.org", "a.test") is BY_MX
    strict = Route(name="default", tls=RouteTls.REQUIRED)
    routes = Routes([Rule(to("one"), ("one.test",), ("a.test",))], otherwise=strict)
    assert routes.find("example.org", "a.test") is strict
    assert routes.find("one.test", "b.test") is strict


def test_one_domain_may_need_tls() -> None:
    secure = Route(name="secure", tls=RouteTls.REQUIRED)
    found = Routes([Rule(secure, ("bank.test",)), Rule(to("all"))]).find("bank.test", "a.test")
    assert found is secure
    assert found.is_by_mx


@pytest.mark.parametrize(
    ("route", "destination"),
    [
        pytest.param(BY_MX, "example.org", id="domain"),
        pytest.param(Route(name="secure", tls=RouteTls.REQUIRED), "example.org", id="named-route-by-mx"),
        pytest.param(to("smart"), "route:smart", id="relay"),
    ],
)
def test_destination(route: Route, destination: str) -> None:
    assert destination_of(route, "example.org") == destination


def test_routes_with_the_same_patterns_contradict() -> None:
    with pytest.raises(SetupError, match=r"routes a and b are both for mail to EXAMPLE.org from \*"):
        Routes([Rule(to("a"), ("example.org",)), Rule(to("b"), ("EXAMPLE.org",))])


def test_a_rule_may_name_a_pattern_twice() -> None:
    Routes([Rule(to("a"), ("example.org", "EXAMPLE.org"))])


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(Rule(BY_MX, ("*example.org",)), id="star-in-label"),
        pytest.param(Rule(BY_MX, ("a.*.org",)), id="star-inside"),
        pytest.param(Rule(BY_MX, ("",)), id="empty"),
        pytest.param(Rule(BY_MX, ("*.",)), id="star-dot"),
        pytest.param(Rule(BY_MX, ("a@example.org",)), id="address-of-recipient"),
        pytest.param(Rule(BY_MX, senders=("@example.org",)), id="no-local-part"),
        pytest.param(Rule(BY_MX, senders=("a@*",)), id="address-at-any"),
        pytest.param(Rule(BY_MX, senders=("a@*.example.org",)), id="address-below"),
    ],
)
def test_what_is_no_pattern(rule: Rule) -> None:
    with pytest.raises(SetupError):
        Routes([rule])


HOSTS = [
    pytest.param("relay.test", RelayHost("relay.test", 25), "relay.test:25", id="name"),
    pytest.param("Relay.test:587", RelayHost("relay.test", 587), "relay.test:587", id="name-and-port"),
    pytest.param("[192.0.2.1]", RelayHost(IPv4Address("192.0.2.1"), 25), "[192.0.2.1]:25", id="address"),
    pytest.param("192.0.2.1:26", RelayHost(IPv4Address("192.0.2.1"), 26), "[192.0.2.1]:26", id="bare-address"),
    pytest.param("[2001:db8::1]:587", RelayHost(IPv6Address("2001:db8::1"), 587), "[2001:db8::1]:587", id="ipv6"),
    pytest.param("bücher.test", RelayHost("xn--bcher-kva.test", 25), "xn--bcher-kva.test:25", id="idn"),
]


@pytest.mark.parametrize(("text", "host", "shown"), HOSTS)
def test_hosts(text: str, host: RelayHost, shown: str) -> None:
    assert parse_host(text, 25) == host
    assert str(host) == shown
    assert parse_host(shown, 1) == host


@pytest.mark.parametrize(
    "text",
    ["", "a b", "relay.test:", "relay.test:0", "relay.test:65536", "relay.test:x", "[relay.test]", "[192.0.2.1",
     "[192.0.2.1]x", "[192.0.2.1]x:25", "2001:db8::1", "relay.test:25:26", "relay.test:٢٥", "[]", "relay.test:000025"],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(SetupError):
        parse_host(text, 25)


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_a_setup_error(text: str) -> None:
    for read in (lambda: parse_host(text, 25), lambda: domain_pattern(text)):
        try:
            read()
        except SetupError:
            continue


def test_credentials_do_not_print() -> None:
    route = Route(name="smart", hosts=(RELAY,), credentials=Credentials("anna", Secret("hunter2")))
    assert "hunter2" not in repr(route)
