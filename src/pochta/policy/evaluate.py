"""All checks of one incoming message, and what the server does about them.

Composes SPF, iprev, DKIM, ARC and DMARC, decides by `Policy` and its local overrides, and writes the field that tells
about it. Refuses to know SMTP's course, mailboxes and the trail: the caller acts on the `Verdict`.

Course: `start` at MAIL, when SPF and iprev begin to ask; `header` once; `feed` as the body comes; `finish` once. A
transaction that ends otherwise calls `abandon`. What is not known in time is a temperror, and a temperror is never
held against a message unless `Policy.defers_temperror` says so.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from pochta.dns import Resolver
from pochta.errors import LocalProtocolError
from pochta.policy import authres, dmarc
from pochta.policy.arc import ArcVerifier
from pochta.policy.dkim.canon import BodyHashes, HeaderFields
from pochta.policy.dkim.verify import DkimVerifier
from pochta.policy.iprev import check_iprev
from pochta.policy.results import (
    Arc,
    ArcResult,
    Dkim,
    DkimResult,
    Dmarc,
    DmarcResult,
    Iprev,
    IprevResult,
    Spf,
    SpfResult,
    Wish,
)
from pochta.policy.spf import check_host
from pochta.proto.address import Address, AddressError, address_key, to_a_labels
from pochta.proto.smtp.replies import Reply

# RFC 7208 §4.6.4 asks for 20 s at least for SPF alone; RFC 5321 §4.5.3.2.6 lets the client wait 10 min for the reply.
TOTAL_S: Final = 20.0
# The part of it that is kept for DMARC: up to 8 questions, after SPF and DKIM have theirs.
DMARC_SHARE: Final = 0.25
# Overrides are looked up for so many authors; DMARC gives up on fewer (`dmarc.MAX_AUTHOR_DOMAINS`).
MAX_AUTHORS: Final = 100
LATE: Final = "not known in time"
_CHAIN_FIELDS: Final = (b"arc-seal", b"arc-message-signature", b"arc-authentication-results")


class Action(StrEnum):
    """What to do with the message."""

    ACCEPT = "accept"
    JUNK = "junk"
    REJECT = "reject"
    DEFER = "defer"


class Override(StrEnum):
    """The administrator's word on a domain or a network. IGNORE: its failures are not held against it."""

    ACCEPT = "accept"
    JUNK = "junk"
    REJECT = "reject"
    IGNORE = "ignore"


class Obedience(StrEnum):
    """How far the wishes of DMARC records are followed.

    OBSERVE: results are only written down. JUNK: quarantine and reject both mean Junk. CAREFUL: reject is followed
    where nothing else speaks for the message either, else it means Junk. STRICT: both to the letter.
    """

    OBSERVE = "observe"
    JUNK = "junk"
    CAREFUL = "careful"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Policy:
    """The server's choices.

    `rejects_spf_fail` is off because forwarded mail fails SPF by design, and DMARC says better what the owner wants.
    `defers_temperror` is off because a sender's broken DNS would hold up its mail for days (RFC 9989 §5.3.6 leaves it
    to us). `trusted_arc_sealers`: d= domains whose word on DMARC counts after a change by a list or forwarder.
    `domains`: by author domain, A-labels, the name and all below it, the longest that fits. `networks`: the longest
    that fits. A network's word comes before a domain's.
    """

    authserv_id: str
    obedience: Obedience = Obedience.CAREFUL
    rejects_spf_fail: bool = False
    defers_temperror: bool = False
    trusted_arc_sealers: frozenset[str] = frozenset()
    domains: Mapping[str, Override] = field(default_factory=dict)
    networks: Mapping[IPv4Network | IPv6Network, Override] = field(default_factory=dict)
    uses_public_suffix_fallback: bool = True
    total_s: float = TOTAL_S


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checks found. `helo_spf` is None where the name is no domain, or was checked as the null sender's.
    `authors`: the domains of From, A-labels, at most MAX_AUTHORS."""

    spf: SpfResult
    helo_spf: SpfResult | None
    iprev: IprevResult
    dkim: tuple[DkimResult, ...]
    arc: ArcResult
    dmarc: DmarcResult
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of the checks. `rule`: which rule gave the action, "" when none did. `reply`: for REJECT and DEFER.

    `is_authenticated`: the reverse-path's domain is proven, so that a bounce may go there (INV-10).
    `authentication_results`: one finished field.
    """

    findings: Findings
    action: Action
    rule: str
    reply: Reply | None
    is_authenticated: bool
    authentication_results: bytes

    def facts(self) -> dict[str, object]:
        """For the trail; small, JSON-able."""
        found = self.findings
        return {
            "action": self.action.value,
            "rule": self.rule,
            "spf": found.spf.result.value,
            "spf_domain": found.spf.domain,
            "helo_spf": found.helo_spf.result.value if found.helo_spf else None,
            "iprev": found.iprev.result.value,
            "dkim": [[one.result.value, one.domain, one.selector] for one in found.dkim],
            "arc": found.arc.result.value,
            "dmarc": found.dmarc.result.value,
            "dmarc_domain": found.dmarc.domain,
            "dmarc_wish": found.dmarc.wish.value,
            "is_authenticated": self.is_authenticated,
        }


class Inbound:
    """The checks of one message. Owns its tasks: `finish` or `abandon` ends them.

    `reverse_path` None is the null one. `helo` as the client said it.
    """

    def __init__(
        self,
        resolver: Resolver,
        policy: Policy,
        *,
        address: IPv4Address | IPv6Address,
        helo: str,
        reverse_path: Address | None,
    ) -> None:
        self._resolver = resolver
        self._policy = policy
        self._address = address
        self._helo = helo
        # RFC 7208 §2.4: the null reverse-path stands for postmaster at the HELO name.
        self._is_null = reverse_path is None or not reverse_path.domain
        self._sender = f"postmaster@{helo}" if reverse_path is None or self._is_null else str(reverse_path)
        self._domain = helo if reverse_path is None or self._is_null else reverse_path.domain
        self._tasks: list[asyncio.Task[None]] = []
        self._body: BodyHashes | None = None
        self._signatures: DkimVerifier | None = None
        self._chain: ArcVerifier | None = None
        # What is not there in time stays so.
        self._spf = SpfResult(Spf.TEMPERROR, _a_labels(self._domain), reason=LATE)
        self._helo_spf: SpfResult | None = None
        self._iprev = IprevResult(Iprev.TEMPERROR)
        self._dkim: tuple[DkimResult, ...] = (DkimResult(Dkim.TEMPERROR, reason=LATE),)
        self._arc = ArcResult(Arc.FAIL, reason=LATE)
        self._dmarc = DmarcResult(Dmarc.TEMPERROR, reason=LATE)

    def start(self, *, now_s: float) -> None:
        """Begin what is known at MAIL; needs a running loop."""
        if self._tasks:
            raise LocalProtocolError("start was called before")
        checks: list[Coroutine[Any, Any, None]] = [self._check_mail_from(now_s), self._check_iprev()]
        if not self._is_null and "." in self._helo and not self._helo.startswith("["):
            self._helo_spf = SpfResult(Spf.TEMPERROR, _a_labels(self._helo), is_helo=True, reason=LATE)
            checks.append(self._check_helo(now_s))
        self._tasks = [asyncio.create_task(check) for check in checks]

    def header(self, header: bytes) -> None:
        """Take the header section as it came, with or without the blank line."""
        fields = HeaderFields(header)
        self._body = BodyHashes()
        self._signatures = DkimVerifier(fields, body=self._body)
        # RFC 8617 §5.2: nothing of a chain there is the result none; most messages have none, and no task then.
        if any(fields.places(name) for name in _CHAIN_FIELDS) or fields.is_cut:
            self._chain = ArcVerifier(fields, body=self._body)
        else:
            self._arc = ArcResult(Arc.NONE)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body, of any size."""
        if self._body is None:
            raise LocalProtocolError("the header comes before the body")
        self._body.feed(chunk)

    def abandon(self) -> None:
        """The transaction ended without a message: stop asking."""
        for task in self._tasks:
            task.cancel()

    async def finish(self, author_domains: Sequence[str], *, now_s: float, author: str = "") -> Verdict:
        """The verdict, `Policy.total_s` seconds after the call at the latest.

        `author_domains`: of From, all. `author`: the address in From, `""` where there is not exactly one.
        """
        if not self._tasks or self._signatures is None:
            raise LocalProtocolError("start and header come before finish")
        total_s = self._policy.total_s
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(total_s * (1 - DMARC_SHARE)):
                    # The tasks of `start` run meanwhile.
                    await self._check_signatures(now_s)
                    for task in self._tasks:
                        await task
            # What passed in time may give the pass although the rest is late.
            with suppress(TimeoutError):
                async with asyncio.timeout(total_s * DMARC_SHARE):
                    await self._check_author(author_domains)
        finally:
            self.abandon()
        authors = tuple(map(_a_labels, author_domains[:MAX_AUTHORS]))
        return self._verdict(
            Findings(self._spf, self._helo_spf, self._iprev, self._dkim, self._arc, self._dmarc, authors),
            is_author=_is_same(author, self._sender),
        )

    async def _check_author(self, author_domains: Sequence[str]) -> None:
        self._dmarc = DmarcResult(Dmarc.TEMPERROR, _a_labels(author_domains[0]) if author_domains else "", reason=LATE)
        self._dmarc = await dmarc.evaluate(
            self._resolver,
            author_domains,
            self._spf,
            self._dkim,
            uses_public_suffix_fallback=self._policy.uses_public_suffix_fallback,
        )

    async def _check_mail_from(self, now_s: float) -> None:
        self._spf = await self._check_spf(self._domain, self._sender, now_s)

    async def _check_helo(self, now_s: float) -> None:
        # RFC 7208 §2.3: the HELO identity is checked too; nothing but the field and the trail uses it.
        self._helo_spf = await self._check_spf(self._helo, f"postmaster@{self._helo}", now_s, is_helo=True)

    async def _check_spf(self, domain: str, sender: str, now_s: float, *, is_helo: bool = False) -> SpfResult:
        return await check_host(
            self._resolver,
            address=self._address,
            domain=domain,
            sender=sender,
            helo=self._helo,
            receiver=self._policy.authserv_id,
            now_s=now_s,
            is_helo=is_helo,
        )

    async def _check_iprev(self) -> None:
        self._iprev = await check_iprev(self._resolver, self._address)

    async def _check_signatures(self, now_s: float) -> None:
        if self._chain is None:
            await self._check_dkim(now_s)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check_dkim(now_s))
            self._arc = await self._chain.finish(self._resolver, now_s=now_s)

    async def _check_dkim(self, now_s: float) -> None:
        assert self._signatures is not None
        self._dkim = await self._signatures.finish(self._resolver, now_s=now_s)

    def _verdict(self, found: Findings, *, is_author: bool) -> Verdict:
        action, rule, reply = _decide(self._policy, self._address, found)
        return Verdict(
            found,
            action,
            rule,
            reply,
            not self._is_null and _is_proven(found, is_author=is_author),
            authres.write(
                self._policy.authserv_id,
                address=self._address,
                iprev=found.iprev,
                # RFC 8601 §2.7.2: with a null reverse-path it was the HELO name that was checked.
                spf=replace(found.spf, is_helo=True) if self._is_null else found.spf,
                helo_spf=found.helo_spf,
                dkim=found.dkim,
                dmarc=found.dmarc,
                arc=found.arc,
            ),
        )


def _a_labels(domain: str) -> str:
    try:
        return to_a_labels(domain)
    except AddressError:
        return ""


def _is_same(author: str, sender: str) -> bool:
    try:
        return address_key(author) == address_key(sender)
    except AddressError:
        return False


def _is_proven(found: Findings, *, is_author: bool) -> bool:
    """INV-10: SPF passes for MAIL FROM, or it is the author's, whose domain or one above it signed.

    A signature is of the header: whoever has one signed message can send it again with any MAIL FROM of that domain.
    A name below the domain proves nothing.
    """
    if found.spf.result is Spf.PASS:
        return True
    if not is_author:
        return False
    domain = found.spf.domain.lower()
    return any(
        one.result is Dkim.PASS and one.domain and (domain == one.domain or domain.endswith(f".{one.domain}"))
        for one in found.dkim
    )


_Decision = tuple[Action, str, Reply | None]
_NOT_WELCOME: Final = Reply(550, "5.7.1", "Not accepted here")


def _decide(policy: Policy, address: IPv4Address | IPv6Address, found: Findings) -> _Decision:
    by_network = _network_override(policy, address)
    by_domain = _domain_override(policy, found)
    for rule, override in (("override.network", by_network), ("override.domain", by_domain)):
        if override is Override.REJECT:
            return Action.REJECT, rule, _NOT_WELCOME
        if override in (Override.ACCEPT, Override.JUNK):
            return Action(override.value), rule, None
    if by_network is Override.IGNORE:
        return Action.ACCEPT, "override.network", None
    if found.dmarc.result is Dmarc.FAIL and by_domain is not Override.IGNORE:
        decision = _by_dmarc(policy, found)
        if decision:
            return decision
    # An aligned signature outweighs SPF: RFC 9989 §7.1 warns of those who reject by SPF alone.
    if policy.rejects_spf_fail and found.spf.result is Spf.FAIL and found.dmarc.result is not Dmarc.PASS:
        # RFC 7208 §8.4 and RFC 7372 §3: 550 with X.7.23
        return Action.REJECT, "spf.fail", Reply(550, "5.7.23", f"SPF of {found.spf.domain} does not allow this client")
    if found.dmarc.reason == dmarc.TOO_MANY_AUTHORS and policy.obedience is not Obedience.OBSERVE:
        # Else a crowd of names in From would be the way around every policy.
        return Action.JUNK, "dmarc.authors", None
    if policy.defers_temperror and found.dmarc.result is Dmarc.TEMPERROR:
        # RFC 9989 §7.2: 4yz; RFC 3463 §3.5: X.4.3 is trouble with a directory.
        return Action.DEFER, "dmarc.temperror", Reply(451, "4.4.3", "Cannot look up the sender's DMARC policy now")
    return Action.ACCEPT, "", None


def _by_dmarc(policy: Policy, found: Findings) -> _Decision | None:
    wish, obedience = found.dmarc.wish, policy.obedience
    # RFC 9989 §5.4: p=none changes nothing.
    if wish is Wish.NONE or obedience is Obedience.OBSERVE:
        return None
    if _has_trusted_pass(found.arc, found.dmarc.domain, policy.trusted_arc_sealers):
        return Action.ACCEPT, "arc.trusted", None
    if wish is Wish.QUARANTINE:
        return Action.JUNK, "dmarc.quarantine", None
    # RFC 9989 §7.4: p=reject alone must not reject; without other knowledge it means quarantine. Ours: lists and
    # forwarders pass SPF with their own envelope, or sign, or leave a signature whole. Where no such thing is found,
    # nobody at all answers for the message.
    is_vouched = (
        found.spf.result is Spf.PASS
        or found.arc.result is Arc.PASS
        or any(one.result is Dkim.PASS for one in found.dkim)
    )
    if obedience is Obedience.JUNK or (obedience is Obedience.CAREFUL and is_vouched):
        return Action.JUNK, "dmarc.reject_as_junk", None
    # DEVIATES RFC 9989 §7.4: STRICT rejects on p=reject alone, for administrators who choose it; members of lists that
    # do not rewrite From may then lose their subscription.
    # RFC 7372 §3: X.7.26 when several checks failed; RFC 9989 §7.2: the text says DMARC.
    return Action.REJECT, "dmarc.reject", Reply(550, "5.7.26", f"Rejected by the DMARC policy of {found.dmarc.domain}")


def _network_override(policy: Policy, address: IPv4Address | IPv6Address) -> Override | None:
    if not policy.networks:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    fitting = [network for network in policy.networks if address in network]
    return policy.networks[max(fitting, key=lambda network: network.prefixlen)] if fitting else None


def _domain_override(policy: Policy, found: Findings) -> Override | None:
    if not policy.domains:
        return None
    # One unwelcome author is enough; kindness is for the one that DMARC judged.
    given = {_override_of(policy, author) for author in found.authors}
    harsh = next((override for override in (Override.REJECT, Override.JUNK) if override in given), None)
    return harsh or _override_of(policy, found.dmarc.domain)


def _override_of(policy: Policy, domain: str) -> Override | None:
    while domain:
        if domain in policy.domains:
            return policy.domains[domain]
        domain = domain.partition(".")[2]
    return None


def _has_trusted_pass(arc: ArcResult, author_domain: str, trusted: frozenset[str]) -> bool:
    """Whether a trusted sealer saw DMARC pass for this author, and nobody else can have changed the message since.

    A chain passes with its last AMS alone. So a stranger may take a trusted sealer's sets from another message and seal
    on top: a set counts if only trusted ones follow, or if its own AMS still holds (`oldest_pass`).
    Source: RFC 8617 §5.2, §7.2.1, §9.
    """
    if arc.result is not Arc.PASS:
        return False
    only_trusted_follow = True
    for instance in range(min(len(arc.domains), len(arc.results)), 0, -1):
        if arc.domains[instance - 1] not in trusted:
            only_trusted_follow = False
        elif (only_trusted_follow or arc.oldest_pass <= instance) and any(
            one.method == "dmarc" and one.result == "pass" and _is_from(one, author_domain)
            for one in authres.read(arc.results[instance - 1])
        ):
            return True
    return False


def _is_from(one: authres.MethodResult, author_domain: str) -> bool:
    return _a_labels(one.properties.get("header.from", "").rpartition("@")[2]) == author_domain
