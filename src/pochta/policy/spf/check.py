"""SPF evaluated: what a domain says of a client that sends mail in its name.

Decides what RFC 7208 calls check_host(); refuses to know what follows from it. All it knows of the world comes from the
`Resolver`. Whoever writes records decides what is asked, so all work is bounded: `MAX_LOOKUPS` terms that ask,
`MAX_VOID_LOOKUPS` of them in vain, `MAX_HOSTS` addresses for each, `TIMEOUT_S` altogether.
"""

import asyncio
import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pochta.dns import DnsError, Resolver
from pochta.errors import RemoteProtocolError
from pochta.policy.results import Spf, SpfResult
from pochta.policy.spf.record import (
    Directive,
    MacroString,
    Mechanism,
    Record,
    SpfSyntaxError,
    expand,
    is_spf,
    parse_explanation,
    parse_record,
)
from pochta.proto.address import to_a_labels

MAX_LOOKUPS: Final = 10  # RFC 7208 §4.6.4
MAX_VOID_LOOKUPS: Final = 2  # RFC 7208 §4.6.4
MAX_HOSTS: Final = 10  # RFC 7208 §4.6.4: of one "mx", "ptr" or %{p}
TIMEOUT_S: Final = 20.0  # RFC 7208 §4.6.4: at least 20 s
MAX_NAME_CHARS: Final = 253  # RFC 7208 §7.3
MAX_SHOWN_CHARS: Final = 200  # of a term or a domain in a result: more than any of good will has
# An SMTP reply line has 512 octets (RFC 5321 §4.5.3.1.5); this leaves room for the code and for who says so.
MAX_EXPLANATION_CHARS: Final = 400

_DOMAIN_RE = re.compile(r"[^.\[\]\s]{1,63}(?:\.[^.\[\]\s]{1,63})+")
_INVISIBLE_RE = re.compile(r"[^ -~]+")


class _Stop(Exception):
    """The evaluation ends with an error, whatever it is inside of."""

    def __init__(self, result: Spf, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


async def check_host(
    resolver: Resolver,
    *,
    address: IPv4Address | IPv6Address,
    domain: str,
    sender: str,
    helo: str,
    receiver: str,
    now_s: float,
    is_helo: bool = False,
) -> SpfResult:
    """What `domain` says of a client at `address` that sends as `sender`.

    `domain` is that of the reverse-path, or the HELO name: then `is_helo`, and a `sender` without local part stands for
    its postmaster. `receiver` is our name, `now_s` the time, both for texts only. Names may have U-labels.
    Never raises; ends after `TIMEOUT_S`.

    Source: RFC 7208 §4.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # RFC 7208 §5: a client at an IPv4-mapped address is an IPv4 client.
        address = address.ipv4_mapped
    # RFC 8616 §4: SPF sees A-labels only.
    name = _a_labels(domain).removesuffix(".")
    if not name.isascii() or len(name) > MAX_NAME_CHARS or not _DOMAIN_RE.fullmatch(name):
        # RFC 7208 §4.3: a malformed domain, or one of a single label, has no policy.
        return SpfResult(Spf.NONE, _visible(domain, MAX_SHOWN_CHARS), is_helo, reason="not a domain name")
    evaluation = _Evaluation(resolver, address, sender or f"@{name}", helo, receiver, now_s)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            result, mechanism, explanation = await evaluation.run(name)
    except _Stop as stop:
        return SpfResult(stop.result, name, is_helo, reason=stop.reason)
    except TimeoutError:
        # RFC 7208 §4.6.4: a limit on the time, and what comes of it.
        return SpfResult(Spf.TEMPERROR, name, is_helo, reason="took too long")
    return SpfResult(result, name, is_helo, mechanism[:MAX_SHOWN_CHARS], explanation)


class _Evaluation:
    """One check_host() with all its recursion: the arguments that stay the same, and what has been spent."""

    __slots__ = (
        "_address",
        "_bits",
        "_helo",
        "_local_part",
        "_lookups",
        "_now_s",
        "_number",
        "_receiver",
        "_resolver",
        "_sender_domain",
        "_validated",
        "_voids",
    )

    def __init__(
        self,
        resolver: Resolver,
        address: IPv4Address | IPv6Address,
        sender: str,
        helo: str,
        receiver: str,
        now_s: float,
    ) -> None:
        self._resolver = resolver
        self._address = address
        self._number = int(address)
        self._bits = address.max_prefixlen
        local_part, _, domain = sender.rpartition("@")
        # RFC 7208 §4.3: a sender without a local part is the postmaster.
        self._local_part = local_part or "postmaster"
        self._sender_domain = _a_labels(domain)
        self._helo = _a_labels(helo)
        self._receiver = receiver or "unknown"
        self._now_s = now_s
        self._lookups = 0
        self._voids = 0
        self._validated: tuple[str, ...] | None = None

    async def run(self, domain: str) -> tuple[Spf, str, str]:
        """(result, the term that matched, explanation) of the domain that was asked for.

        Raises:
            _Stop: the result is an error.
        """
        record = await self._record(domain)
        if record is None:
            return Spf.NONE, "", ""
        directive, record, domain = await self._match(record, domain)
        if directive is None:
            return Spf.NEUTRAL, "", ""
        explanation = ""
        if directive.result is Spf.FAIL and record.explanation is not None:
            # RFC 7208 §6.2: after a redirect, the explanation of the record that it led to.
            explanation = await self._explain(record.explanation, domain)
        return directive.result, directive.text, explanation

    async def _match(self, record: Record, domain: str) -> tuple[Directive | None, Record, str]:
        """The directive that matches, with the record and the domain it stands in, redirects followed."""
        while True:
            for directive in record.directives:
                if await self._matches(directive, domain):
                    return directive, record, domain
            if record.redirect is None:
                # RFC 7208 §4.7: the default is neutral.
                return None, record, domain
            self._count_lookup()
            target = await self._target(record.redirect, domain)
            found = await self._record(target) if target.isascii() else None
            if found is None:
                # RFC 7208 §6.1: no record behind a redirect is an error.
                raise _Stop(Spf.PERMERROR, f"redirect to {_visible(target, MAX_SHOWN_CHARS)}, which has no record")
            record, domain = found, target

    async def _record(self, domain: str) -> Record | None:
        """The record of a domain; None without one."""
        try:
            answer = await self._resolver.txt(domain)
        except DnsError as error:
            # RFC 7208 §4.4: no answer means that the whole evaluation has none.
            raise _Stop(Spf.TEMPERROR, _visible(error.reason, MAX_SHOWN_CHARS)) from error
        texts = [text for text in answer.records if is_spf(text)]
        if not texts:
            return None
        if len(texts) > 1:
            # RFC 7208 §4.5: more than one record is an error.
            raise _Stop(Spf.PERMERROR, _visible(f"{domain} has more than one record", MAX_SHOWN_CHARS))
        try:
            return parse_record(texts[0])
        except SpfSyntaxError as error:
            raise _Stop(Spf.PERMERROR, _visible(f"{domain}: {error}", MAX_SHOWN_CHARS)) from error

    async def _matches(self, directive: Directive, domain: str) -> bool:
        mechanism = directive.mechanism
        if mechanism is Mechanism.IP4:
            return self._bits == 32 and self._number >> directive.ip4_shift == directive.network
        if mechanism is Mechanism.IP6:
            return self._bits == 128 and self._number >> directive.ip6_shift == directive.network
        if mechanism is Mechanism.ALL:
            return True
        self._count_lookup()
        target = domain if directive.target is None else await self._target(directive.target, domain)
        if not target.isascii():
            # RFC 8616 §4: a term that needs a local part beyond ASCII matches nothing.
            return False
        if mechanism is Mechanism.INCLUDE:
            return await self._matches_include(target)
        try:
            if mechanism is Mechanism.A:
                hosts = await self._addresses(target)
                self._count_void(not hosts)
                return self._is_among(hosts, directive)
            if mechanism is Mechanism.MX:
                return await self._matches_mx(target, directive)
            if mechanism is Mechanism.EXISTS:
                # RFC 7208 §5.7: A records, whatever the client has.
                found = (await self._resolver.a(target)).records
                self._count_void(not found)
                return bool(found)
        except DnsError as error:
            # RFC 7208 §5: a DNS error ends the evaluation.
            raise _Stop(Spf.TEMPERROR, _visible(f"{directive.text}: {error.reason}", MAX_SHOWN_CHARS)) from error
        return await self._matches_ptr(target)

    async def _matches_include(self, target: str) -> bool:
        record = await self._record(target)
        if record is None:
            # RFC 7208 §5.2: "none" inside an include is an error.
            raise _Stop(Spf.PERMERROR, f"include of {_visible(target, MAX_SHOWN_CHARS)}, which has no record")
        directive, _, _ = await self._match(record, target)
        return directive is not None and directive.result is Spf.PASS

    async def _matches_mx(self, target: str, directive: Directive) -> bool:
        exchangers = (await self._resolver.mx(target)).records
        self._count_void(not exchangers)
        if len(exchangers) > MAX_HOSTS:
            raise _Stop(Spf.PERMERROR, _visible(f"{target} has more than {MAX_HOSTS} MX records", MAX_SHOWN_CHARS))
        for exchanger in exchangers:
            # The null MX (RFC 7505) has no address.
            if exchanger.host and self._is_among(await self._addresses(exchanger.host), directive):
                return True
        return False

    async def _matches_ptr(self, target: str) -> bool:
        try:
            names = (await self._resolver.ptr(self._address)).records
        except DnsError:
            # RFC 7208 §5.5: this mechanism does not match when its lookup fails.
            return False
        self._count_void(not names)
        # Only names that would match need be validated
        wanted = target.lower().removesuffix(".")
        for name in names[:MAX_HOSTS]:
            if _is_within(name, wanted) and await self._is_validated(name):
                return True
        return False

    async def _is_validated(self, name: str) -> bool:
        """RFC 7208 §5.5: whether a name that the address claims has this address."""
        try:
            return self._address in await self._addresses(name)
        except DnsError:
            # RFC 7208 §5.5: a name that cannot be looked up is skipped.
            return False

    async def _addresses(self, name: str) -> tuple[IPv4Address, ...] | tuple[IPv6Address, ...]:
        if self._bits == 32:
            return (await self._resolver.a(name)).records
        return (await self._resolver.aaaa(name)).records

    def _is_among(self, hosts: tuple[IPv4Address, ...] | tuple[IPv6Address, ...], directive: Directive) -> bool:
        shift = directive.ip4_shift if self._bits == 32 else directive.ip6_shift
        wanted = self._number >> shift
        return any(int(host) >> shift == wanted for host in hosts)

    def _count_lookup(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise _Stop(Spf.PERMERROR, f"more than {MAX_LOOKUPS} terms that ask DNS")

    def _count_void(self, is_void: bool) -> None:
        """Count a term that found nothing. Hosts of an "mx" do not count: an IPv6 client finds many in vain.

        Source: RFC 7208 §4.6.4.
        """
        self._voids += is_void
        if self._voids > MAX_VOID_LOOKUPS:
            raise _Stop(Spf.PERMERROR, f"more than {MAX_VOID_LOOKUPS} terms that ask DNS in vain")

    async def _target(self, spec: MacroString, domain: str) -> str:
        """The name that a domain-spec stands for."""
        if "p" in spec.letters and self._validated is None:
            # RFC 7208 §4.6.4: the PTR query of %{p} counts like a term; it is made once.
            self._count_lookup()
        if not self._local_part.isascii() and spec.letters & {"s", "l"}:
            # Escaped by an upper case letter it would be ASCII
            return self._local_part
        return _fitted(await self._expand(spec, domain))

    async def _expand(self, string: MacroString, domain: str) -> str:
        if string.literal is not None:
            return string.literal
        values = self._values(domain)
        if "p" in string.letters:
            values["p"] = await self._own_name(domain)
        return expand(string, values.__getitem__)

    def _values(self, domain: str) -> dict[str, str]:
        """RFC 7208 §7.2: the values of all letters but p, which asks DNS."""
        address = self._address
        return {
            "s": f"{self._local_part}@{self._sender_domain}",
            "l": self._local_part,
            "o": self._sender_domain,
            "d": domain,
            "i": str(address) if self._bits == 32 else ".".join(f"{self._number:032x}"),
            "v": "in-addr" if self._bits == 32 else "ip6",
            "h": self._helo,
            "c": str(address),
            "r": self._receiver,
            "t": str(int(self._now_s)),
        }

    async def _own_name(self, domain: str) -> str:
        """RFC 7208 §7.3: the domain itself before its subdomains before other names; "unknown" without any."""
        if self._validated is None:
            try:
                names = (await self._resolver.ptr(self._address)).records[:MAX_HOSTS]
            except DnsError:
                names = ()
            self._validated = tuple([name for name in names if await self._is_validated(name)])
        wanted = domain.lower()
        return min(self._validated, key=lambda name: (name != wanted, not _is_within(name, wanted)), default="unknown")

    async def _explain(self, spec: MacroString, domain: str) -> str:
        """RFC 7208 §6.2: the domain's text, or "" where anything about it is wrong."""
        target = _fitted(await self._expand(spec, domain))
        try:
            texts = (await self._resolver.txt(target)).records if target.isascii() else ()
            text = parse_explanation(texts[0]) if len(texts) == 1 else None
        except (DnsError, SpfSyntaxError):
            return ""
        return "" if text is None else _visible(await self._expand(text, domain), MAX_EXPLANATION_CHARS)


def _fitted(name: str) -> str:
    """RFC 7208 §7.3: the name without the labels on its left that make it too long."""
    name = name.removesuffix(".")
    if len(name) <= MAX_NAME_CHARS:
        return name
    at = name.find(".", len(name) - MAX_NAME_CHARS - 1)
    return name[at + 1 :] if at >= 0 else ""


def _a_labels(domain: str) -> str:
    """The domain in A-labels; as it is where it has no such form."""
    if domain.isascii():
        return domain
    try:
        return to_a_labels(domain)
    except RemoteProtocolError:
        return domain


def _is_within(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def _visible(text: str, limit: int) -> str:
    return _INVISIBLE_RE.sub("", text)[:limit]
