"""The records that a domain needs against what DNS says of it."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from pochta.accounts.key_rotation import holds_key
from pochta.dns import DnsError, Resolver
from pochta.policy.organization import Records, find_organization
from pochta.policy.results import Spf
from pochta.policy.spf import check_host
from pochta.policy.spf.record import is_spf
from pochta.proto.address import AddressError, to_a_labels
from pochta.setup_records import Needed, Purpose

AT_ONCE: Final = 10  # questions; a domain needs about 15
SHOWN_MAX: Final = 20  # records of one name that are told

IpAddress = IPv4Address | IPv6Address


class State(StrEnum):
    """What DNS says of a record. UNKNOWN: it does not answer now."""

    OK = "ok"
    MISSING = "missing"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


class Checked(NamedTuple):
    """A record, and what DNS says: `found` as text, `reason` for people."""

    needed: Needed
    state: State
    found: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether mail does not suffer from it."""
        return self.state is State.OK or not self.needed.is_required


async def check(
    resolver: Resolver,
    records: Sequence[Needed],
    *,
    domain: str,
    hostname: str,
    sends_from: Sequence[str],
    now_s: float,
) -> list[Checked]:
    """Each record compared, in the order given.

    `sends_from`: addresses that the server connects from, beside those that DNS has for it.
    """
    side = _Side(resolver, domain, hostname, now_s)
    await side.find_addresses(sends_from)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(needed: Needed) -> Checked:
        async with gate:
            try:
                return await side.compare(needed)
            except DnsError as error:
                return Checked(needed, State.UNKNOWN, (), error.reason)

    return list(await asyncio.gather(*map(one, records)))


class _Side:
    """Who asks, for which domain and server."""

    def __init__(self, resolver: Resolver, domain: str, hostname: str, now_s: float) -> None:
        self._resolver = resolver
        self._domain = domain
        self._hostname = hostname
        self._now_s = now_s
        self._addresses: tuple[IpAddress, ...] = ()  # that the name of the server has
        self._sends_from: tuple[IpAddress, ...] = ()
        self._failure: DnsError | None = None

    async def find_addresses(self, sends_from: Sequence[str]) -> None:
        """Ask for what others see of the server."""
        from ipaddress import ip_address

        try:
            v4, v6 = await asyncio.gather(self._resolver.a(self._hostname), self._resolver.aaaa(self._hostname))
            self._addresses = (*v4.records, *v6.records)
        except DnsError as error:
            self._failure = error
        self._sends_from = tuple(dict.fromkeys((*self._addresses, *map(ip_address, sends_from))))

    async def compare(self, needed: Needed) -> Checked:
        """One record.

        Raises:
            DnsError: no answer now.
        """
        match needed.purpose:
            case Purpose.MX:
                return await self._mx(needed)
            case Purpose.ADDRESS:
                return self._address(needed)
            case Purpose.REVERSE:
                return await self._reverse(needed)
            case Purpose.SPF | Purpose.HELLO_SPF:
                return await self._spf(needed)
            case Purpose.DKIM:
                return await self._dkim(needed)
            case Purpose.DMARC:
                return await self._dmarc(needed)
            case Purpose.CLIENTS:
                return await self._srv(needed)

    async def _mx(self, needed: Needed) -> Checked:
        answer = await self._resolver.mx(needed.name)
        found = tuple(f"{one.preference} {one.host}." for one in sorted(answer.records)[:SHOWN_MAX])
        if any(one.host == self._hostname for one in answer.records):
            return Checked(needed, State.OK, found)
        if not found:
            return Checked(needed, State.MISSING)
        return Checked(needed, State.DIFFERENT, found, "mail goes to other servers")

    def _address(self, needed: Needed) -> Checked:
        if self._failure is not None:
            raise self._failure
        found = tuple(map(str, self._addresses))
        if not found:
            return Checked(needed, State.MISSING, (), "nobody can connect to it")
        if not any(one.is_global for one in self._addresses):
            return Checked(needed, State.OK, found, "not to be reached from the internet")
        return Checked(needed, State.OK, found)

    async def _reverse(self, needed: Needed) -> Checked:
        if self._failure is not None:
            raise self._failure
        found, wrong, missing = [], [], []
        for address in self._sends_from:
            names = (await self._resolver.ptr(address)).records[:SHOWN_MAX]
            found.append(f"{address} {', '.join(names) or 'has no name'}")
            if not names:
                missing.append(str(address))
            elif self._hostname not in names:
                wrong.append(str(address))
        if wrong:
            return Checked(needed, State.DIFFERENT, tuple(found), "of " + ", ".join(wrong))
        if missing or not found:
            return Checked(needed, State.MISSING, tuple(found), f"of {', '.join(missing)}" if missing else "no address")
        return Checked(needed, State.OK, tuple(found))

    async def _spf(self, needed: Needed) -> Checked:
        """By what comes out of it: there are many ways to name a server."""
        answer = await self._resolver.txt(needed.name)
        found = tuple(_text(one) for one in answer.records if is_spf(one))[:SHOWN_MAX]
        if not found:
            return Checked(needed, State.MISSING)
        if self._failure is not None:
            raise self._failure
        if not self._sends_from:
            return Checked(needed, State.DIFFERENT, found, f"{self._hostname} has no address to try it with")
        for address in self._sends_from:
            result = await check_host(
                self._resolver,
                address=address,
                domain=needed.name,
                sender=f"postmaster@{needed.name}",
                helo=self._hostname,
                receiver=self._hostname,
                now_s=self._now_s,
                is_helo=needed.purpose is Purpose.HELLO_SPF,
            )
            if result.result is Spf.TEMPERROR:
                raise DnsError(result.reason or "SPF could not be evaluated")
            if result.result is not Spf.PASS:
                why = f" ({result.reason})" if result.reason else ""
                return Checked(needed, State.DIFFERENT, found, f"gives {result.result}{why} for {address}")
        return Checked(needed, State.OK, found)

    async def _dkim(self, needed: Needed) -> Checked:
        answer = await self._resolver.txt(needed.name)
        found = tuple(map(_text, answer.records[:SHOWN_MAX]))
        if not found:
            return Checked(needed, State.MISSING)
        matching = [holds_key(one, needed.text) for one in answer.records]
        if not any(matching):
            return Checked(needed, State.DIFFERENT, found, "another key, or none that can be read")
        if not all(matching):
            return Checked(needed, State.DIFFERENT, found, "another record beside it")
        return Checked(needed, State.OK, found)

    async def _dmarc(self, needed: Needed) -> Checked:
        """Any wish is the owner's own; one of the organization's domain speaks for those below it."""
        answer = await self._resolver.txt(needed.name)
        found = tuple(map(_text, answer.records[:SHOWN_MAX]))
        organization = await find_organization(Records(self._resolver), self._domain)
        if organization.record is not None and organization.record.is_usable:
            inherited = organization.record_domain != self._domain
            reason = f"by the record of {organization.record_domain}" if inherited else ""
            return Checked(needed, State.OK, found, reason)
        if not found:
            return Checked(needed, State.MISSING)
        return Checked(needed, State.DIFFERENT, found, "not one record that can be used")

    async def _srv(self, needed: Needed) -> Checked:
        """Priority and weight are the owner's own; place and port must be right."""
        answer = await self._resolver.srv(needed.name)
        found = tuple(
            f"{one.priority} {one.weight} {one.port} {one.target}." for one in sorted(answer.records)[:SHOWN_MAX]
        )
        if not found:
            return Checked(needed, State.MISSING)
        _, _, port, target = needed.data.split(" ")
        wanted = (int(port), target.removesuffix("."))
        if wanted[1] == "":
            is_same = all(one.target == "" for one in answer.records)
        else:
            is_same = any((one.port, one.target) == wanted for one in answer.records)
        return Checked(needed, State.OK if is_same else State.DIFFERENT, found)


def _text(record: bytes) -> str:
    """The text of a record; octets beyond ASCII as a zone file has them."""
    return "".join(chr(octet) if 32 <= octet < 127 else f"\\{octet:03}" for octet in record)


def a_labels(name: str) -> str:
    """A name of ours as DNS has it; as it is where it is none."""
    try:
        return to_a_labels(name)
    except AddressError:
        return name.lower()
