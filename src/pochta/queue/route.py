"""Which way a recipient's mail goes: to the mail exchangers of the domain, or to a relay that is named.

Decides by the domains of recipient and sender alone; knows no addresses, no connections and no settings (whoever reads
those makes the rules). The most specific rule wins, the recipient's pattern before the sender's:

* of patterns for the recipient's domain: the domain itself, `*.example.org` with the most labels, `*`;
* among rules of one such pattern, for the sender: the address, the domain, `*.example.org`, `*`.

`*.example.org` takes what is below example.org, not example.org itself. Where no rule takes the mail it goes by MX.

A domain that must have TLS is a rule with a route by MX that asks for it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pochta.errors import SetupError
from pochta.log import Secret
from pochta.proto.address import AddressError, fold_local_part, to_a_labels

ANY: Final = "*"
_BELOW: Final = "*."
_PORT: Final = re.compile(r"[0-9]{1,5}")


class RouteTls(StrEnum):
    """What is asked of the connection to the next server, as the settings name it."""

    OPPORTUNISTIC = "opportunistic"  # where it is offered, with any certificate
    REQUIRED = "required"  # with a certificate that proves the name, or no mail
    NEVER = "never"  # servers whose TLS is broken


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we sign in with at a relay."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class RelayHost:
    """A relay: a name whose addresses are asked for, not its MX, or an address."""

    host: str | IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, (IPv4Address, IPv6Address)) else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way out. Connections may be shared by mail of one destination whose routes are equal.

    `hosts`: relays in the order in which they are tried; empty: by MX, at `port`. `is_implicit_tls`: from the first
    byte. `source_addresses`: at most one of each family; of the other one the system chooses.
    """

    name: str
    hosts: tuple[RelayHost, ...] = ()
    port: int = 25
    tls: RouteTls = RouteTls.OPPORTUNISTIC
    is_implicit_tls: bool = False
    credentials: Credentials | None = None
    source_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    is_lmtp: bool = False

    @property
    def is_by_mx(self) -> bool:
        """Whether the recipient's domain says where its mail goes."""
        return not self.hosts


BY_MX: Final = Route(name="mx")


@dataclass(frozen=True, slots=True)
class Rule:
    """A route for the mail to some patterns of domains, or of it what some patterns of senders write; none: all."""

    route: Route
    recipients: tuple[str, ...] = (ANY,)
    senders: tuple[str, ...] = ()


class Routes:
    """All rules; asked for each recipient: costs as many look-ups as its domain and the sender's have labels."""

    __slots__ = ("_by_recipient", "_otherwise")

    def __init__(self, rules: Iterable[Rule] = (), *, otherwise: Route = BY_MX) -> None:
        """`otherwise`: the way of what no rule takes.

        Raises:
            SetupError: a pattern is none, or two rules have the same ones.
        """
        self._otherwise = otherwise
        self._by_recipient: dict[str, dict[str, Route]] = {}
        for rule in rules:
            for recipient in rule.recipients or (ANY,):
                by_sender = self._by_recipient.setdefault(domain_pattern(recipient), {})
                for sender in rule.senders or (ANY,):
                    other = by_sender.setdefault(_sender_pattern(sender), rule.route)
                    if other is not rule.route:
                        raise SetupError(
                            f"routes {other.name} and {rule.route.name} are both for mail to {recipient} from {sender};"
                            " leave it to one of them"
                        )

    def find(self, recipient_domain: str, sender_domain: str, *, sender_local_part: str = "") -> Route:
        """The way of the mail; domains in A-labels and lower case, local part folded; the null sender is `""`."""
        for recipient in _patterns(recipient_domain):
            senders = self._by_recipient.get(recipient)
            if senders is None:
                continue
            if sender_domain and (found := senders.get(f"{sender_local_part}@{sender_domain}")):
                return found
            for sender in _patterns(sender_domain):
                if found := senders.get(sender):
                    return found
        return self._otherwise


def destination_of(route: Route, recipient_domain: str) -> str:
    """What limits of concurrency and back-off are counted by: the domain, or `route:NAME` for all mail to a relay."""
    return recipient_domain if route.is_by_mx else f"route:{route.name}"


def parse_host(text: str, default_port: int) -> RelayHost:
    """The relay written as `host`, `host:port`, `[address]` or `[address]:port`.

    Raises:
        SetupError: it is none of these.
    """
    host, separator, digits = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        separator, digits = rest[:1], rest[1:]
        is_sound = bool(bracket) and separator in ("", ":")
    else:
        host, separator, digits = text.partition(":")
        is_sound = True
    port = default_port if not separator else int(digits) if _PORT.fullmatch(digits) else 0
    try:
        if is_sound and 0 < port < 65536:
            address = _address(host, is_bracketed=text.startswith("["))
            return RelayHost(to_a_labels(host) if address is None else address, port)
    except (AddressError, ValueError):
        pass
    raise SetupError(f'"{text}" is no relay; write it as "host", "host:587", "[192.0.2.1]" or "[2001:db8::1]:587"')


def _address(host: str, *, is_bracketed: bool) -> IPv4Address | IPv6Address | None:
    if is_bracketed:
        return ip_address(host)
    try:
        return IPv4Address(host)
    except ValueError:
        return None


def domain_pattern(pattern: str) -> str:
    """The pattern with its domain in A-labels and lower case.

    Raises:
        SetupError: it is neither `*` nor a domain nor `*.` and a domain.
    """
    if pattern == ANY:
        return pattern
    prefix = _BELOW if pattern.startswith(_BELOW) else ""
    try:
        return prefix + to_a_labels(pattern[len(prefix) :])
    except AddressError as error:
        raise SetupError(
            f'"{pattern}" is no pattern of domains; write "example.org", "*.example.org" or "*"'
        ) from error


def _sender_pattern(pattern: str) -> str:
    local_part, separator, domain = pattern.rpartition("@")
    if not separator:
        return domain_pattern(pattern)
    if not local_part or ANY in domain:
        raise SetupError(f'"{pattern}" is no sender; write "anna@example.org", "example.org", "*.example.org" or "*"')
    return f"{fold_local_part(local_part)}@{domain_pattern(domain)}"


def _patterns(domain: str) -> Iterator[str]:
    """All patterns that take the domain, most specific first."""
    if domain:
        yield domain
    at = -1 if domain.startswith("[") else domain.find(".")
    while at >= 0:
        yield "*" + domain[at:]
        at = domain.find(".", at + 1)
    yield ANY
