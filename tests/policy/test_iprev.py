"""iprev: whether an address has a name that has the address."""

import asyncio
from ipaddress import ip_address

import pytest

from pochta.policy.iprev import MAX_NAMES, check_iprev
from pochta.policy.results import Iprev, IprevResult
from pochta.testing.resolver import ZoneResolver


def resolver() -> ZoneResolver:
    return ZoneResolver(
        {
            "192.0.2.1": {"PTR": ["other.test", "mx.a.test"]},
            "192.0.2.2": {"PTR": ["other.test"]},
            "192.0.2.3": {"PTR": ["slow.test", "nobody.test"]},
            "192.0.2.4": {"PTR": ["slow.test", "mx.a.test"]},
            "192.0.2.5": {"PTR": [f"mx{at}.b.test" for at in range(20)]},
            "2001:db8::1": {"PTR": ["mx.a.test"]},
            "2001:db8::2": {"PTR": ["v4.a.test"]},
            "mx.a.test": {"A": ["192.0.2.1", "192.0.2.4"], "AAAA": ["2001:db8::1"]},
            "v4.a.test": {"A": ["192.0.2.1"]},
            "other.test": {"A": ["192.0.2.99"]},
            "mx15.b.test": {"A": ["192.0.2.5"]},
        }
    )


CASES = {
    "second name fits": ("192.0.2.1", IprevResult(Iprev.PASS, "mx.a.test")),
    "name of another": ("192.0.2.2", IprevResult(Iprev.FAIL)),
    "name cannot be looked up": ("192.0.2.3", IprevResult(Iprev.TEMPERROR)),
    "one name cannot, the next fits": ("192.0.2.4", IprevResult(Iprev.PASS, "mx.a.test")),
    "fits after too many": ("192.0.2.5", IprevResult(Iprev.FAIL)),
    "ipv6": ("2001:db8::1", IprevResult(Iprev.PASS, "mx.a.test")),
    "only an address of the other family": ("2001:db8::2", IprevResult(Iprev.FAIL)),
    "ipv4 in ipv6": ("::ffff:192.0.2.1", IprevResult(Iprev.PASS, "mx.a.test")),
    "no name": ("192.0.2.77", IprevResult(Iprev.PERMERROR)),
    "names cannot be looked up": ("192.0.2.78", IprevResult(Iprev.TEMPERROR)),
}


@pytest.mark.rfc(8601, "2.7.3")
@pytest.mark.parametrize("case", CASES)
def test_check_iprev(case: str) -> None:
    address, wanted = CASES[case]
    asked = resolver()
    asked.fail("slow.test")
    asked.fail("192.0.2.78", "PTR")
    assert asyncio.run(check_iprev(asked, ip_address(address))) == wanted
    assert len(asked.queries) <= 1 + MAX_NAMES
