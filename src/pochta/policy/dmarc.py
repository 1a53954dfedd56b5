"""Whether the author's domain stands behind a message, and what its owner wants done when it does not (DMARC).

Written after RFC 9989, which replaced RFC 7489: tree walk, psd=, np=, t=; no pct=. Decides alignment; refuses to know
what the server does about a failure (`evaluate`). Reports are not sent from here.

Public suffix data is a fallback, not a source: it can add an alignment that RFC 7489 gave and the walk no longer gives
(`_was_aligned_by_suffix`); it never finds a record.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pochta.dns import DnsError, Resolver
from pochta.policy.organization import Organization, Record, Records, find_organization, registered
from pochta.policy.results import Dkim, DkimResult, Dmarc, DmarcResult, Spf, SpfResult, Wish
from pochta.proto.address import AddressError, to_a_labels

# People write one author, rarely two. Each may cost 8 queries.
MAX_AUTHOR_DOMAINS: Final = 5
# Signing domains looked at for each author; a walk is made only for names below the author's organization, so that
# the queries (8 each) go to that organization's own servers.
MAX_IDENTIFIERS: Final = 10

TOO_MANY_AUTHORS: Final = "too many author domains"
NO_AUTHOR: Final = "no author domain"

_LOWER: Final = {Wish.REJECT: Wish.QUARANTINE, Wish.QUARANTINE: Wish.NONE, Wish.NONE: Wish.NONE}


async def evaluate(
    resolver: Resolver,
    author_domains: Sequence[str],
    spf: SpfResult | None,
    dkim: Sequence[DkimResult],
    *,
    uses_public_suffix_fallback: bool = True,
) -> DmarcResult:
    """The result for the author's domain; of several domains the one that speaks most against the message.

    `author_domains` as written in From, U-labels or A-labels. `spf` is that of MAIL FROM; one of HELO does not count.
    DNS that fails gives temperror, unless another identifier gives the pass. Never raises DnsError.

    Source: RFC 9989 §4.10, §5.3.
    """
    domains = list(dict.fromkeys(domain.lower().rstrip(".") for domain in author_domains))
    # RFC 9989 §5.3.1: without exactly one domain validation is not possible, but several may be evaluated. Each is,
    # as RFC 7489 §6.6.1 had it: one own domain beside a stolen one must not hide the theft.
    if not domains:
        return DmarcResult(Dmarc.PERMERROR, reason=NO_AUTHOR)
    if len(domains) > MAX_AUTHOR_DOMAINS:
        return DmarcResult(Dmarc.PERMERROR, reason=TOO_MANY_AUTHORS)
    records = Records(resolver)
    worst: DmarcResult | None = None
    for domain in domains:
        result = await _evaluate_one(records, domain, spf, dkim, uses_public_suffix_fallback)
        if worst is None or _severity(result) > _severity(worst):
            worst = result
    assert worst is not None
    return worst


def _severity(result: DmarcResult) -> int:
    if result.result is Dmarc.FAIL:
        return {Wish.REJECT: 6, Wish.QUARANTINE: 5, Wish.NONE: 3}[result.wish]
    return {Dmarc.TEMPERROR: 4, Dmarc.PERMERROR: 2, Dmarc.NONE: 1}.get(result.result, 0)


async def _evaluate_one(
    records: Records, domain: str, spf: SpfResult | None, dkim: Sequence[DkimResult], uses_fallback: bool
) -> DmarcResult:
    try:
        # RFC 9989 §5.3.1: U-labels become A-labels.
        domain = to_a_labels(domain)
    except AddressError:
        return DmarcResult(Dmarc.PERMERROR, reason="author domain is not a domain")
    if domain.startswith("["):
        return DmarcResult(Dmarc.NONE, domain, reason="author domain is an address")
    try:
        author = _Author(records, domain, uses_fallback)
        record = await author.find_record()
    except DnsError as error:
        return DmarcResult(Dmarc.TEMPERROR, domain, reason=error.reason)
    if record is None:
        # RFC 9989 §4.10.1: without a record there is no DMARC.
        return DmarcResult(Dmarc.NONE, domain)
    if not record.is_usable:
        return DmarcResult(Dmarc.PERMERROR, domain, author.record_domain, reason="record without valid wishes")
    aligned, error_reason = await _alignments(author, record, spf, dkim)
    result = DmarcResult(
        Dmarc.PASS if aligned else Dmarc.TEMPERROR if error_reason else Dmarc.FAIL,
        domain,
        author.record_domain,
        author.known_organization,
        _lowered(record, _wish(record, domain == author.record_domain)),
        record.is_test,
        aligned,
        "" if aligned else error_reason,
    )
    return await _for_nonexistent(records, record, result) if result.result is Dmarc.FAIL else result


class _Author:
    """The author's domain with its record and, once somebody needs it, its organization."""

    __slots__ = ("_organization", "_records", "_uses_fallback", "domain", "record_domain")

    def __init__(self, records: Records, domain: str, uses_fallback: bool) -> None:
        self.domain = domain
        self.record_domain = ""
        self._records = records
        self._uses_fallback = uses_fallback
        self._organization: Organization | None = None

    async def find_record(self) -> Record | None:
        """RFC 9989 §4.10.1; no walk where the author's own domain has a record."""
        record = await self._records.at(self.domain)
        if record:
            self.record_domain = self.domain
            return record
        organization = await self._organization_of_author()
        self.record_domain = organization.record_domain
        return organization.record

    @property
    def known_organization(self) -> str:
        """The organizational domain, "" while nothing needed it."""
        return self._organization.domain if self._organization else ""

    async def is_aligned(self, identifier: str, *, is_strict: bool) -> bool:
        """Raises DnsError. Source: RFC 9989 §4.4, §4.10.2."""
        if identifier == self.domain:
            return True
        if is_strict or not identifier:
            return False
        organization = await self._organization_of_author()
        top = organization.domain
        # Only a name at or below the author's organization can have the same one: others are not walked.
        if identifier == top or identifier.endswith(f".{top}"):
            return (await find_organization(self._records, identifier)).domain == top
        return self._uses_fallback and await self._was_aligned_by_suffix(organization, identifier)

    async def _was_aligned_by_suffix(self, organization: Organization, identifier: str) -> bool:
        # DEVIATES RFC 9989 §4.10.2: a domain whose walk finds no record at all is its own organization by the RFC.
        # RFC 7489 §3.2 took the registered domain instead, and owners who publish a record for mail.example.org alone
        # and sign as example.org rely on that: their mail would fail at once. So the registered domain decides there,
        # unless the author's owner set the border by psd=.
        if organization.is_declared or not await registered(identifier):
            return False
        if await registered(identifier) != await registered(self.domain):
            return False
        return not (await find_organization(self._records, identifier)).has_records

    async def _organization_of_author(self) -> Organization:
        if self._organization is None:
            self._organization = await find_organization(self._records, self.domain)
        return self._organization


async def _alignments(
    author: _Author, record: Record, spf: SpfResult | None, dkim: Sequence[DkimResult]
) -> tuple[tuple[str, ...], str]:
    """What gives the pass, and without one why it is not known yet ("" when it is).

    RFC 9989 §5.3.6: where DNS failed there is neither pass nor fail. That holds for the author's own identifiers only,
    else a stranger's signature with a broken name server would take the failure away.
    """
    aligned: list[str] = []
    undecided = ""
    # RFC 9989 §4.4.2: of SPF, only the MAIL FROM identity counts.
    spf_pairs = [] if spf is None or spf.is_helo else [(spf.domain, spf.result.value)]
    # DEVIATES RFC 6376 §3.6.1: a signature that passes counts although its key has t=y (test): many owners never
    # remove the mark, and their mail would fail.
    dkim_pairs = list(dict.fromkeys((one.domain, one.result.value) for one in dkim))
    for method, pairs, is_strict in (
        ("spf", spf_pairs, record.is_spf_strict),
        ("dkim", dkim_pairs, record.is_dkim_strict),
    ):
        # The author's own domain first: it needs no query.
        counting = [pair for pair in pairs if pair[1] in (Spf.PASS, Dkim.PASS, Spf.TEMPERROR)]
        for domain, result in sorted(counting, key=lambda pair: pair[0] != author.domain)[:MAX_IDENTIFIERS]:
            try:
                if not await author.is_aligned(domain.lower().rstrip("."), is_strict=is_strict):
                    continue
            except DnsError as error:
                undecided = error.reason
                continue
            if result == Dkim.PASS:
                aligned.append(method)
                break
            undecided = f"{method} temperror"
    return tuple(aligned), undecided


def _wish(record: Record, is_author_own: bool) -> Wish:
    # RFC 9989 §4.10.1: p= for the domain that has the record, sp= for those below.
    return record.policy if is_author_own or record.subdomain is None else record.subdomain


def _lowered(record: Record, wish: Wish) -> Wish:
    # RFC 9989 §4.7: t=y lowers the wish by one step.
    return _LOWER[wish] if record.is_test else wish


async def _for_nonexistent(records: Records, record: Record, failure: DmarcResult) -> DmarcResult:
    """RFC 9989 §4.10.1: np= for a subdomain that does not exist; asked only where it makes a difference."""
    if record.nonexistent is None or failure.domain == failure.record_domain:
        return failure
    wish = _lowered(record, record.nonexistent)
    if wish is failure.wish:
        return failure
    try:
        # RFC 9989 §3.2.13: NXDOMAIN is what counts, whatever the type.
        answer = await records.resolver.a(failure.domain)
    except DnsError as error:
        return replace(failure, result=Dmarc.TEMPERROR, reason=error.reason)
    return failure if answer.exists else replace(failure, wish=wish)
