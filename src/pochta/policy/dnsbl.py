"""Whether a client's address stands on a blocklist that is asked by DNS.

Source: RFC 5782 (informational), which says how such zones are asked and what their answers mean.
"""

import asyncio
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from pochta.dns import DnsError, Resolver

# Spam waits while we ask, but so does everybody else's greeting; lists that answer at all do so in well under a second.
TOTAL_S: Final = 5.0
# A reply line has room for 496 characters; the reason shares it with our own words.
MAX_REASON_CHARS: Final = 200

_NOT_VISIBLE = re.compile(r"[^ -~]+")


class Listing(NamedTuple):
    """A hit: which zone, and its own words (visible ASCII, "" for none)."""

    zone: str
    reason: str


async def listed(resolver: Resolver, zones: Sequence[str], address: IPv4Address | IPv6Address) -> Listing | None:
    """The first of `zones` that lists the address; all are asked at once, for TOTAL_S seconds at most.

    A zone that does not answer lists nothing: trouble of a list must not stop the mail.
    """
    if not zones:
        return None
    name = reversed_name(address)
    tasks = [asyncio.create_task(_is_listed(resolver, f"{name}.{zone}")) for zone in zones]
    try:
        await asyncio.wait(tasks, timeout=TOTAL_S)
        hit = next((zone for zone, task in zip(zones, tasks, strict=True) if task.done() and task.result()), None)
        return Listing(hit, await _reason(resolver, f"{name}.{hit}")) if hit else None
    finally:
        for task in tasks:
            task.cancel()


def reversed_name(address: IPv4Address | IPv6Address) -> str:
    """What stands before the zone: octets, or the 32 nibbles, last first. Source: RFC 5782 §2.1, §2.4."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return ".".join(f"{int(address):032x}"[::-1])
        address = address.ipv4_mapped
    return ".".join(reversed(str(address).split(".")))


async def _is_listed(resolver: Resolver, name: str) -> bool:
    try:
        answer = await resolver.a(name)
    except DnsError:
        return False
    return any(_is_hit(record) for record in answer.records)


def _is_hit(record: IPv4Address) -> bool:
    # RFC 5782 §2.1: answers lie in 127.0.0.0/8. Anything else comes from a zone that was sold or a resolver that lies.
    # Public lists answer 127.255.255.x to say "you may not ask so" (open resolver, too many queries).
    octets = record.packed
    return octets[0] == 127 and octets[:3] != b"\x7f\xff\xff"


async def _reason(resolver: Resolver, name: str) -> str:
    try:
        async with asyncio.timeout(TOTAL_S):
            answer = await resolver.txt(name)
    except (DnsError, TimeoutError):
        return ""
    text = answer.records[0][: 4 * MAX_REASON_CHARS].decode("ascii", "replace") if answer.records else ""
    return _NOT_VISIBLE.sub("?", text)[:MAX_REASON_CHARS]
