"""Where to connect for mail to a domain: the addresses of its mail exchangers, or of a relay, in the order to try.

Decides the order and what is left out; opens no connections. Hosts come by preference, those of one preference in an
order that is drawn anew each time. Of each host the families alternate, IPv6 first (RFC 8305 §4): whoever has only one
that works loses one attempt in two at the most. While there are other hosts, one gives PER_HOST addresses at the most,
so that a dead host with many addresses does not use up the attempts of the next.

Mail must not come back to us: from the preference at which a host is one of ours, by name or by address, everything is
dropped (RFC 5321 §5.1). Loopback, unspecified and multicast addresses in the DNS of others are no places for mail.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, groupby, zip_longest
from operator import attrgetter
from typing import Final, NamedTuple

from pochta import clock
from pochta.dns import Answer, DnsError, Mx, Resolver
from pochta.errors import PochtaError
from pochta.queue.route import RelayHost

IpAddress = IPv4Address | IPv6Address

# Hosts whose addresses are asked for: two questions each. Large providers publish up to 5.
MAX_HOSTS: Final = 10
MAX_ADDRESSES: Final = 5  # Postfix' smtp_mx_address_limit; RFC 5321 §5.1: two at least
PER_HOST: Final = 2
_KEY_BYTES: Final = 8  # equal keys leave hosts in the order of the answer: 2^-64 for each pair

_LITERAL_IPV6: Final = "ipv6:"


class Target(NamedTuple):
    """A place to connect to; `host` is the name that a certificate proves, for an address alone its text.

    `is_authentic`: DNSSEC vouches for the way from the domain to `host`.
    """

    host: str
    address: IpAddress
    port: int
    preference: int
    is_authentic: bool


class Unroutable(PochtaError):
    """There is nowhere to connect to: for ever, or now. `text` is one line for a report to the sender."""

    def __init__(self, is_permanent: bool, enhanced: str, code: int, text: str) -> None:
        super().__init__(text)
        self.is_permanent = is_permanent
        self.enhanced = enhanced
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class OurSide:
    """What must not be sent to, and from what we can send: names in A-labels and lower case."""

    names: frozenset[str] = frozenset()
    addresses: frozenset[IpAddress] = frozenset()
    has_ipv4: bool = True
    has_ipv6: bool = True
    allows_loopback: bool = False  # servers that talk to each other on one machine: tests, containers


@dataclass(frozen=True, slots=True)
class _Host:
    """A host with what is known of its addresses."""

    host: str
    preference: int
    port: int
    addresses: tuple[IpAddress, ...] = ()
    is_uncertain: bool = False


async def targets(resolver: Resolver, domain: str, own: OurSide, *, port: int = 25) -> tuple[Target, ...]:
    """Where to try for mail to the domain, best first; at least one. `domain`: A-labels, lower case, or a literal.

    Raises:
        Unroutable: there is no such place.
    Source: RFC 5321 §5.1, RFC 7505.
    """
    if domain.startswith("["):
        return _literal(domain, own, port)
    try:
        answer = await resolver.mx(domain)
    except DnsError:
        raise _no_answer(domain) from None
    if not answer.exists:
        raise Unroutable(True, "5.1.2", 550, f"the domain {domain} does not exist")
    hosts = _by_preference(_exchangers(domain, answer), port)
    # RFC 5321 §5.1: from our own preference on all are dropped; those that follow only lead back here
    ours = next((one.preference for one in hosts if one.host in own.names), None)
    found: list[_Host] = []
    room = MAX_HOSTS
    for preference, group in groupby(hosts, attrgetter("preference")):
        if preference == ours or not room:
            break
        level = await _look_up(resolver, list(group)[:room], own)
        room -= len(level)
        if any(address in own.addresses for one in level for address in one.addresses):
            ours = preference
            break
        found += level
    chosen = _choose(found, own, is_authentic=answer.is_authentic)
    if chosen:
        return chosen
    if any(one.is_uncertain for one in found):
        raise _no_answer(domain)
    if ours is not None and not found:
        raise Unroutable(True, "5.4.6", 554, f"mail for {domain} loops back to this server, which does not take it")
    raise _no_host(domain, bool(answer.records))


async def relay_targets(resolver: Resolver, hosts: Sequence[RelayHost], own: OurSide) -> tuple[Target, ...]:
    """Where to try for mail by these relays, in their order; loopback and our own addresses are as good as others.

    Raises:
        Unroutable: none has an address; never permanent, because only our administrator can mend it.
    """
    wanted = [
        _Host(str(one.host), place, one.port, () if isinstance(one.host, str) else (one.host,))
        for place, one in enumerate(hosts[:MAX_HOSTS])
    ]
    found = await _look_up(resolver, wanted, own)
    chosen = _choose(found, OurSide(has_ipv4=own.has_ipv4, has_ipv6=own.has_ipv6, allows_loopback=True))
    if chosen:
        return chosen
    if any(one.is_uncertain for one in found):
        raise Unroutable(False, "4.4.3", 451, "the address of the next server could not be looked up for now")
    raise Unroutable(False, "4.4.4", 451, "the next server has no address that can be reached from here")


def parse_literal(domain: str) -> IpAddress | None:
    """The address in a domain literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` in any case; None: it holds none.

    Source: RFC 5321 §4.1.3.
    """
    text = domain[1:-1]
    try:
        if text[: len(_LITERAL_IPV6)].lower() == _LITERAL_IPV6:
            address = IPv6Address(text[len(_LITERAL_IPV6) :])
            return None if address.scope_id else _meant(address)
        # RFC 5321 §4.1.3: Snum may have zeros in front, which `ipaddress` takes for octal and refuses
        return IPv4Address(".".join(digits.lstrip("0") or "0" for digits in text.split(".")))
    except ValueError:
        return None


def _literal(domain: str, own: OurSide, port: int) -> tuple[Target, ...]:
    address = parse_literal(domain)
    if address is None:
        raise Unroutable(True, "5.1.2", 550, f"{domain} is no address that mail can be sent to")
    if address in own.addresses or domain in own.names:
        raise Unroutable(True, "5.4.6", 554, f"mail for {domain} loops back to this server, which does not take it")
    # Nobody's DNS chose it, and nobody else's can change it
    chosen = _choose([_Host(str(address), 0, port, (address,))], own, is_authentic=True)
    if not chosen:
        raise Unroutable(True, "5.4.4", 550, f"{domain} cannot be reached from here")
    return chosen


def _exchangers(domain: str, answer: Answer[Mx]) -> tuple[Mx, ...]:
    if not answer.records:
        # RFC 5321 §5.1: without MX the domain is its own, at preference 0
        return (Mx(0, domain),)
    named = tuple(one for one in answer.records if one.host)
    if not named:
        # RFC 7505 §3: a null MX stands alone; beside others, where it must not be, it says nothing
        raise Unroutable(True, "5.1.10", 556, f"the domain {domain} takes no mail")
    return named


def _by_preference(records: Iterable[Mx], port: int) -> list[_Host]:
    """Each host once, at its best preference. RFC 5321 §5.1: equals are drawn by lot."""
    drawn = sorted((one.preference, clock.token_bytes(_KEY_BYTES), one.host) for one in records)
    best: dict[str, _Host] = {}
    for preference, _, host in drawn:
        best.setdefault(host, _Host(host, preference, port))
    return list(best.values())


async def _look_up(resolver: Resolver, hosts: Sequence[_Host], own: OurSide) -> list[_Host]:
    """The hosts with their addresses, all asked for at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_addresses(resolver, one, own)) for one in hosts]
    return [task.result() for task in tasks]


async def _addresses(resolver: Resolver, host: _Host, own: OurSide) -> _Host:
    # An MX that is an address in text is no name (RFC 5321 §5.1): nobody's DNS has it, and nobody is asked for it
    if host.addresses or _is_address(host.host):
        return host
    async with asyncio.TaskGroup() as group:
        v6 = group.create_task(_ask_v6(resolver, host.host)) if own.has_ipv6 else None
        v4 = group.create_task(_ask_v4(resolver, host.host)) if own.has_ipv4 else None
    answers = [task.result() for task in (v6, v4) if task is not None]
    # DEVIATES RFC 5321 §5.1: not in the order of the answer: families alternate, IPv6 first, so that a host whose IPv6
    # is broken costs one timeout
    mixed = chain.from_iterable(zip_longest(*(answer for answer in answers if answer is not None)))
    addresses = tuple(dict.fromkeys(one for one in mixed if one is not None))
    return _Host(host.host, host.preference, host.port, addresses, None in answers)


async def _ask_v4(resolver: Resolver, host: str) -> tuple[IpAddress, ...] | None:
    try:
        return (await resolver.a(host)).records
    except DnsError:
        return None


async def _ask_v6(resolver: Resolver, host: str) -> tuple[IpAddress, ...] | None:
    try:
        records = (await resolver.aaaa(host)).records
    except DnsError:
        return None
    return tuple(map(_meant, records))


def _meant(address: IPv6Address) -> IpAddress:
    """The address, of ::ffff:192.0.2.1 the IPv4 address that it means: no rule for that one may be got by."""
    return address.ipv4_mapped or address


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _choose(hosts: Sequence[_Host], own: OurSide, *, is_authentic: bool = False) -> tuple[Target, ...]:
    """The addresses to try."""
    usable = [(one, [address for address in one.addresses if _is_usable(address, own)]) for one in hosts]
    usable = [(one, addresses) for one, addresses in usable if addresses]
    per_host = MAX_ADDRESSES if len(usable) == 1 else PER_HOST
    return tuple(
        Target(one.host, address, one.port, one.preference, is_authentic)
        for one, addresses in usable
        for address in addresses[:per_host]
    )[:MAX_ADDRESSES]


def _is_usable(address: IpAddress, own: OurSide) -> bool:
    if address.is_loopback and not own.allows_loopback:
        return False
    has_family = own.has_ipv4 if isinstance(address, IPv4Address) else own.has_ipv6
    return has_family and not address.is_unspecified and not address.is_multicast


def _no_answer(domain: str) -> Unroutable:
    return Unroutable(False, "4.4.3", 451, f"the mail servers of {domain} could not be looked up for now")


def _no_host(domain: str, has_mx: bool) -> Unroutable:
    what = "names no mail server that can be reached" if has_mx else "has no mail server"
    return Unroutable(True, "5.4.4", 550, f"the domain {domain} {what}")
