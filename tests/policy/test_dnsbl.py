"""Blocklists: the question's form, which answers count, and lists in trouble."""

import asyncio
from ipaddress import IPv4Address, ip_address

import pytest

from pochta.dns import Answer
from pochta.policy import dnsbl
from pochta.policy.dnsbl import Listing, listed, reversed_name
from pochta.testing.resolver import ZoneResolver

CLIENT = ip_address("192.0.2.99")
NAME = "99.2.0.192"


def test_names() -> None:
    assert reversed_name(CLIENT) == NAME
    assert reversed_name(ip_address("::ffff:192.0.2.99")) == NAME
    nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    assert reversed_name(ip_address("2001:db8::1")) == nibbles


@pytest.mark.parametrize(
    ("answer", "is_listed"),
    [
        ("127.0.0.2", True),
        ("127.255.254.1", True),
        ("127.255.255.254", False),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
    ],
)
def test_which_answers_count(answer: str, is_listed: bool) -> None:
    resolver = ZoneResolver({f"{NAME}.bl.test": {"A": [answer]}})
    assert bool(asyncio.run(listed(resolver, ["bl.test"], CLIENT))) is is_listed


def test_the_first_zone_in_order_gives_the_reason() -> None:
    resolver = ZoneResolver(
        {
            f"{NAME}.two.test": {"A": ["127.0.0.2"], "TXT": ["see\r\n550 x \xe9 " + "y" * 400]},
            f"{NAME}.three.test": {"A": ["127.0.0.2"]},
        }
    )
    resolver.fail(f"{NAME}.one.test")
    hit = asyncio.run(listed(resolver, ["one.test", "two.test", "three.test"], CLIENT))
    assert hit is not None
    assert hit.zone == "two.test"
    assert hit.reason.startswith("see?550 x ? yyy")
    assert len(hit.reason) == dnsbl.MAX_REASON_CHARS
    assert all(" " <= character <= "~" for character in hit.reason)


def test_no_reason_and_no_zones() -> None:
    resolver = ZoneResolver({f"{NAME}.bl.test": {"A": ["127.0.0.2"]}})
    resolver.fail(f"{NAME}.bl.test", "TXT")
    assert asyncio.run(listed(resolver, ["bl.test"], CLIENT)) == Listing("bl.test", "")
    assert asyncio.run(listed(resolver, [], CLIENT)) is None
    assert asyncio.run(listed(ZoneResolver(), ["bl.test"], CLIENT)) is None


def test_a_zone_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(ZoneResolver):
        async def a(self, name: str) -> Answer[IPv4Address]:
            if name.endswith("silent.test"):
                await asyncio.Event().wait()
            return await super().a(name)

    monkeypatch.setattr(dnsbl, "TOTAL_S", 0.01)
    resolver = Silent({f"{NAME}.bl.test": {"A": ["127.0.0.2"]}})
    assert asyncio.run(listed(resolver, ["silent.test", "bl.test"], CLIENT)) == Listing("bl.test", "")
