"""A `Resolver` that answers from dicts or zone text, without sockets: for tests of whatever asks DNS.

    resolver = ZoneResolver({"a.test": {"MX": [(10, "mx.a.test")], "TXT": ["v=spf1 mx -all"]}})
    resolver.fail("slow.test")

Names are as in DNS: case does not count, `CNAME` is followed, a name exists when something is below it; wildcards and
DNAME are for `Nameserver`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from pochta.dns import Answer, DnsError, Mx, Srv
from pochta.dns.names import to_question, to_text

MAX_ALIASES: Final = 10
_IPV4_RE: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}")

T = TypeVar("T")
# Any: the value of a record is written as its kind has it, see `_READERS`
Records = Mapping[str, Mapping[str, Iterable[Any]]]


def _host(value: str) -> str:
    return to_question(value) or ""


def _text(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


# Any: see `Records`
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "A": IPv4Address,
    "AAAA": IPv6Address,
    "MX": lambda value: Mx(int(value[0]), _host(value[1])),
    "TXT": _text,
    "PTR": _host,
    "SRV": lambda value: Srv(int(value[0]), int(value[1]), int(value[2]), _host(value[3])),
    "CNAME": _host,
}


class ZoneResolver:
    """Answers from what it was given; may be changed at any time. `queries` lists (name, kind) of all questions."""

    def __init__(self, records: Records | None = None) -> None:
        self.queries: list[tuple[str, str]] = []
        self._records: dict[str, dict[str, tuple[Any, ...]]] = {}  # Any: see `Records`
        self._parents: set[str] = set()
        self._failing: set[tuple[str, str]] = set()
        self._authentic: set[str] = set()
        for name, kinds in (records or {}).items():
            for kind, values in kinds.items():
                self.add(name, kind, *values)

    def add(self, name: str, kind: str, *values: Any) -> None:
        """Add records: `"A"`, `"AAAA"`, `"PTR"`, `"CNAME"` as text, `"TXT"` as text or bytes, `"MX"` as (preference,
        host), `"SRV"` as (priority, weight, port, target). `name` of a PTR may be the address itself."""
        key = _key(name, kind)
        held = self._records.setdefault(key, {})
        held[kind] = held.get(kind, ()) + tuple([_READERS[kind](value) for value in values])
        labels = key.split(".")
        self._parents.update(".".join(labels[at:]) for at in range(1, len(labels)))

    def remove(self, name: str, kind: str = "") -> None:
        """Forget the records of a name, or those of one kind."""
        held = self._records.get(_key(name, kind), {})
        for one in [kind] if kind else list(held):
            held.pop(one, None)
        if not held:
            self._records.pop(_key(name, kind), None)

    def add_zone(self, origin: str, text_or_path: str | Path) -> None:
        """Add the records of a zone file, or of its text."""
        from pochta.testing.nameserver import read_zone

        for owner, rrset in read_zone(origin, text_or_path).iterate_rdatasets():
            name = to_text(owner.labels)
            for rdata in rrset:
                value = _zone_value(rdata)
                if value is not None:
                    self.add(name, rdata.rdtype.name, value)

    def fail(self, name: str, kind: str = "") -> None:
        """Let questions for a name time out, or those for one kind."""
        self._failing.add((_key(name, kind), kind))

    def recover(self, name: str, kind: str = "") -> None:
        """Undo `fail`."""
        self._failing.discard((_key(name, kind), kind))

    def vouch(self, name: str) -> None:
        """Let answers for a name be authentic."""
        self._authentic.add(_key(name, ""))

    async def a(self, name: str) -> Answer[IPv4Address]:
        """IPv4 addresses."""
        return self._answer(name, "A")

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        """IPv6 addresses."""
        return self._answer(name, "AAAA")

    async def mx(self, name: str) -> Answer[Mx]:
        """Mail exchangers."""
        return self._answer(name, "MX")

    async def txt(self, name: str) -> Answer[bytes]:
        """Texts."""
        return self._answer(name, "TXT")

    async def ptr(self, address: IPv4Address | IPv6Address) -> Answer[str]:
        """Names of an address."""
        return self._answer(address.reverse_pointer, "PTR")

    async def srv(self, name: str) -> Answer[Srv]:
        """Places of a service."""
        return self._answer(name, "SRV")

    def _answer(self, name: str, kind: str) -> Answer[Any]:  # Any: the caller knows what its kind holds
        key = to_question(name)
        self.queries.append((key if key is not None else name, kind))
        if key is None:
            return Answer((), exists=False)
        is_authentic = key in self._authentic
        for _ in range(MAX_ALIASES):
            if (key, kind) in self._failing or (key, "") in self._failing:
                raise DnsError(f"{kind} of {key}: timeout")
            held = self._records.get(key)
            if held is None:
                return Answer((), exists=key in self._parents, is_authentic=is_authentic)
            if kind in held or "CNAME" not in held:
                return Answer(held.get(kind, ()), is_authentic=is_authentic)
            key = held["CNAME"][0]
        raise DnsError(f"{kind} of {name}: too many aliases")


def _key(name: str, kind: str) -> str:
    if kind == "PTR" and (":" in name or _IPV4_RE.fullmatch(name)):
        return ip_address(name).reverse_pointer
    key = to_question(name)
    if key is None:
        raise ValueError(f"not a name: {name!r}")
    return key


def _zone_value(rdata: Any) -> Any:  # Any: dnspython's records differ by kind
    kind = rdata.rdtype.name
    if kind in ("A", "AAAA"):
        return rdata.address
    if kind == "TXT":
        return b"".join(rdata.strings)
    if kind in ("PTR", "CNAME"):
        return to_text(rdata.target.labels)
    if kind == "MX":
        return rdata.preference, to_text(rdata.exchange.labels)
    if kind == "SRV":
        return rdata.priority, rdata.weight, rdata.port, to_text(rdata.target.labels)
    return None
