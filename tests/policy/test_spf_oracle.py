"""Our results beside those of pyspf, over generated records in one zone."""

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest
import spf
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.policy.results import Spf
from pochta.policy.spf import check, check_host
from pochta.testing.resolver import ZoneResolver

HOSTS: dict[str, dict[str, list[Any]]] = {
    "a.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": [(10, "mx1.a.test"), (20, "mx2.a.test")]},
    "b.test": {"A": ["198.51.100.7"], "AAAA": ["2001:db8:1::7"], "MX": [(10, "mx1.a.test")]},
    "c.test": {"A": ["203.0.113.9"], "MX": [(at, f"mx{at}.c.test") for at in range(11)]},
    "mx1.a.test": {"A": ["192.0.2.17", "192.0.2.18"], "AAAA": ["2001:db8::17"]},
    "mx2.a.test": {"A": ["203.0.113.1"], "AAAA": ["2001:db8:2::1"]},
    "alias.test": {"CNAME": ["b.test"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["a.test"]},
    "17.2.0.192.in-addr.arpa": {"PTR": ["b.test", "mx1.a.test"]},
    "user.a.test": {"A": ["127.0.0.2"]},
    "1.2.0.192.b.test": {"A": ["127.0.0.2"]},
}
NAMES = ["a.test", "b.test", "c.test", "mx1.a.test", "alias.test", "nobody.test", "%{d}", "%{l}.%{o}", "%{ir}.b.test"]
ADDRESSES = ["192.0.2.1", "192.0.2.17", "198.51.100.7", "203.0.113.200", "2001:db8::1", "2001:db8:2::1"]

name = st.sampled_from(NAMES)
cidr = st.sampled_from(["", "/24", "/0", "/32", "//64", "/24//48", "/33", "//129", "/", "/024"])
PLAIN = st.one_of(
    st.sampled_from(["all", "a", "mx", "ptr", "include", "ip4", "foo", "a.b"]),
    st.builds("a:{}{}".format, name, cidr),
    st.builds("mx:{}{}".format, name, cidr),
    st.builds("a{}".format, cidr),
    st.builds("mx{}".format, cidr),
    st.builds("ptr:{}".format, name),
    st.builds("exists:{}".format, name),
    st.builds("ip4:{}{}".format, st.sampled_from(["192.0.2.0", "198.51.100.7", "1.2.3", "1.2.3.256"]), cidr),
    st.builds("ip6:{}{}".format, st.sampled_from(["2001:db8::", "::", "::ffff:192.0.2.1", "1.2.3.4"]), cidr),
)


def record(includes: list[str]) -> st.SearchStrategy[str]:
    """A record, or "" for none. No include of itself: pyspf refuses that even where it is never reached."""
    mechanism = st.one_of(PLAIN, st.sampled_from([f"include:{one}" for one in includes]))
    term = st.one_of(
        st.builds("{}{}".format, st.sampled_from(["", "+", "-", "~", "?"]), mechanism),
        st.sampled_from([f"redirect={one}" for one in includes]),
        st.sampled_from(["exp=nobody.test", "x=y", "ALL", "A:A.Test", "v=spf1"]),
    )
    terms = st.lists(term, max_size=7, unique=True).map(lambda terms: " ".join(["v=spf1", *terms]))
    return st.one_of(st.just(""), terms)


def lookup(records: dict[str, str]) -> Any:
    """What pyspf takes for `DNSLookup`, over the same zone."""

    def answer(asked: str, kind: str, *_: object) -> list[tuple[tuple[str, str], Any]]:
        held = HOSTS.get(asked.lower(), {})
        if "CNAME" in held:
            return [((asked, "CNAME"), held["CNAME"][0])]
        if kind == "TXT":
            text = records.get(asked.lower())
            return [((asked, "TXT"), (text.encode(),))] if text else []
        return [((asked, kind), value) for value in held.get(kind, [])]

    return answer


def ours(records: dict[str, str], address: str) -> Spf:
    resolver = ZoneResolver(HOSTS)
    for owner, text in records.items():
        if text:
            resolver.add(owner, "TXT", text)
    found = check_host(
        resolver,
        address=ip_address(address),
        domain="a.test",
        sender="user@a.test",
        helo="mx1.a.test",
        receiver="r.test",
        now_s=0.0,
    )
    return asyncio.run(found).result


@pytest.fixture(autouse=True)
def _count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyspf counts every vain question, we count terms: leave this limit out of the comparison."""
    monkeypatch.setattr(spf, "MAX_VOID_LOOKUPS", 1000)
    monkeypatch.setattr(check, "MAX_VOID_LOOKUPS", 1000)
    monkeypatch.setattr(spf, "DNSLookup", spf.DNSLookup)


def test_results_are_those_of_pyspf() -> None:
    @settings(max_examples=200)
    @given(
        record(["b.test", "mx1.a.test", "alias.test", "nobody.test"]),
        record(["mx1.a.test", "nobody.test"]),
        record(["nobody.test"]),
        st.sampled_from(ADDRESSES),
    )
    def compare(first: str, second: str, third: str, address: str) -> None:
        records = {"a.test": first, "b.test": second, "mx1.a.test": third}
        spf.DNSLookup = lookup(records)
        theirs = spf.query(i=address, s="user@a.test", h="mx1.a.test", receiver="r.test", querytime=0).check()[0]
        assert ours(records, address) == theirs

    compare()
