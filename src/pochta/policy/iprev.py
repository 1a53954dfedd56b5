"""Reverse lookup validated: whether an address has a name that has the address."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pochta.dns import DnsError, Resolver
from pochta.policy.results import Iprev, IprevResult

MAX_NAMES: Final = 10  # RFC 8601 §3: a limit, as in RFC 7208 §4.6.4


async def check_iprev(resolver: Resolver, address: IPv4Address | IPv6Address) -> IprevResult:
    """Whether one of the first ten names of `address` leads back to it; the first that does. Never raises.

    Source: RFC 8601 §3, §2.7.3.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    try:
        names = (await resolver.ptr(address)).records
    except DnsError:
        return IprevResult(Iprev.TEMPERROR)
    if not names:
        # RFC 8601 §2.7.3: no PTR data at all.
        return IprevResult(Iprev.PERMERROR)
    result = Iprev.FAIL
    for name in names[:MAX_NAMES]:
        try:
            # Addresses of the other family cannot be the client's
            answer = await (resolver.a(name) if isinstance(address, IPv4Address) else resolver.aaaa(name))
        except DnsError:
            # RFC 8601 §2.7.3: what could not be looked up may still be the name.
            result = Iprev.TEMPERROR
            continue
        if address in answer.records:
            return IprevResult(Iprev.PASS, name)
    return IprevResult(result)
