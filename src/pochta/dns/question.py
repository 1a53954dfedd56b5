"""Questions and answers: which kinds of records there are, what an answer says, what counts as "ask again later"."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, NamedTuple, Protocol, TypeVar

from pochta.errors import TryLater

T = TypeVar("T", covariant=True)


class DnsError(TryLater):
    """No answer, now: SERVFAIL, REFUSED, a timeout, an answer that makes no sense."""


class Mx(NamedTuple):
    """A mail exchanger; `host` in A-labels, lower case, without the final dot. The null MX has the host `""`."""

    preference: int
    host: str


class Srv(NamedTuple):
    """A service's place, RFC 2782; `target` as the host of `Mx`."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """Records of one kind, aliases followed.

    No records and `exists`: there are others of that name (NODATA); not `exists`: the name is not there (NXDOMAIN).
    `is_authentic`: the resolver vouches for the answer by DNSSEC.
    """

    records: tuple[T, ...] = ()
    exists: bool = True
    is_authentic: bool = False


class Resolver(Protocol):
    """Asks. Names are given as text, U-labels or A-labels, with or without the final dot.

    All raise DnsError. A name that DNS cannot hold (a label over 63 octets, an empty one) gives an answer that does
    not exist.
    """

    async def a(self, name: str) -> Answer[IPv4Address]:
        """IPv4 addresses."""

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        """IPv6 addresses."""

    async def mx(self, name: str) -> Answer[Mx]:
        """Mail exchangers, in the order of the answer."""

    async def txt(self, name: str) -> Answer[bytes]:
        """Texts; the strings of each record are joined (RFC 7208 §3.3)."""

    async def ptr(self, address: IPv4Address | IPv6Address) -> Answer[str]:
        """Names of an address, lower case, without the final dot."""

    async def srv(self, name: str) -> Answer[Srv]:
        """Places of a service."""
