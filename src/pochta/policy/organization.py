"""DMARC records: reading them, finding them, and what they say about which names belong to one organization.

The tree walk of RFC 9989 decides. The public suffix list is asked in two places, each marked: where a record stands at
a public suffix without saying so, and (`registered`) where a walk finds nothing. Knows nothing about messages.

Invariant: one walk asks at most MAX_QUERIES names, and `Records` asks each name once.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pochta.dns import Resolver
from pochta.policy.results import Wish

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

# RFC 9989 §4.10: eight queries at most; of a longer name the last seven labels follow the whole name.
MAX_QUERIES: Final = 8
# The registry has 11 tags and 3 historic ones; more are skipped unread.
MAX_TAGS: Final = 64

_VERSION = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_REPORT_URI = re.compile(rb"[ \t]*[A-Za-z][A-Za-z0-9+.-]*+:[^\s,!]")
_WISHES: Final = {b"none": Wish.NONE, b"quarantine": Wish.QUARANTINE, b"reject": Wish.REJECT}


@dataclass(frozen=True, slots=True)
class Record:
    """One DMARC record. `subdomain` sp=, `nonexistent` np=, None where absent; `psd` is `y`, `n` or `u`.

    `is_usable`: its wishes can be read, or it asks for reports and so counts as p=none.
    """

    policy: Wish = Wish.NONE
    subdomain: Wish | None = None
    nonexistent: Wish | None = None
    is_test: bool = False
    psd: str = "u"
    is_dkim_strict: bool = False
    is_spf_strict: bool = False
    is_usable: bool = True


def parse_record(text: bytes) -> Record | None:
    """The record of one TXT text, None for a text that is none. Never raises.

    Source: RFC 9989 §4.7, §4.8. pct=, rf= and ri= of RFC 7489 are unknown tags now.
    """
    # RFC 9989 §4.7: v= comes first, and its value is case sensitive.
    if not _VERSION.match(text):
        return None
    tags: dict[bytes, bytes] = {}
    for part in text.split(b";", MAX_TAGS)[1:MAX_TAGS]:
        name, equals, value = part.partition(b"=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip())
    wishes = {name: _WISHES.get(tags[name].lower()) for name in (b"p", b"sp", b"np") if name in tags}
    psd = tags.get(b"psd", b"").lower()
    is_bad = b"p" not in wishes or None in wishes.values()
    # RFC 9989 §4.10.1: without a valid p=, or with an invalid sp= or np=, a record that asks for reports counts as
    # p=none, and any other is not used.
    return Record(
        policy=Wish.NONE if is_bad else wishes[b"p"] or Wish.NONE,
        subdomain=None if is_bad else wishes.get(b"sp"),
        nonexistent=None if is_bad else wishes.get(b"np"),
        is_test=tags.get(b"t", b"").lower() == b"y",
        psd=psd.decode() if psd in (b"y", b"n") else "u",
        is_dkim_strict=tags.get(b"adkim", b"").lower() == b"s",
        is_spf_strict=tags.get(b"aspf", b"").lower() == b"s",
        is_usable=not is_bad or _asks_for_reports(tags.get(b"rua", b"")),
    )


def _asks_for_reports(value: bytes) -> bool:
    return any(_REPORT_URI.match(uri) for uri in value.split(b",", MAX_TAGS))


class Records:
    """DMARC records by name. One for each message: every name is asked once, errors are asked again."""

    __slots__ = ("_known", "resolver")

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._known: dict[str, Record | None] = {}

    async def at(self, domain: str) -> Record | None:
        """The record published at `domain` (A-labels, lower case).

        Raises:
            DnsError: no answer now.
        """
        if domain not in self._known:
            answer = await self.resolver.txt(f"_dmarc.{domain}")
            # RFC 9989 §4.10: other texts do not count; with several records, none does.
            found = [record for record in map(parse_record, answer.records) if record]
            self._known[domain] = found[0] if len(found) == 1 else None
        return self._known[domain]


@dataclass(frozen=True, slots=True)
class Organization:
    """What a walk says: the organizational domain; the record for the domain where the walk began and its place (None
    and "" where there is none). `has_records`: the walk found any. `is_declared`: psd= decided."""

    domain: str
    record: Record | None = None
    record_domain: str = ""
    has_records: bool = False
    is_declared: bool = False


def walk_names(domain: str) -> list[str]:
    """The names whose records a walk from `domain` asks for, in order, `_dmarc.` left out. Source: RFC 9989 §4.10."""
    labels = domain.split(".")
    first = max(1, len(labels) - (MAX_QUERIES - 1))
    return [domain] + [".".join(labels[start:]) for start in range(first, len(labels))]


async def find_organization(records: Records, domain: str) -> Organization:
    """The organization of `domain` and the record that speaks for it; at most MAX_QUERIES queries.

    Raises:
        DnsError: no answer now.
    Source: RFC 9989 §4.10.1, §4.10.2.
    """
    found: dict[str, Record] = {}
    for name in walk_names(domain):
        record = await records.at(name)
        if record:
            found[name] = record
            if record.psd != "u":
                break
    if not found:
        # RFC 9989 §4.10.2: where nothing decides, the domain itself is the organizational domain.
        return Organization(domain)
    top = next(reversed(found))
    psd = found[top].psd
    if psd == "y" and top != domain:
        organizational = _one_below(top, domain)
    elif psd == "u" and top != domain and await _is_public_suffix(top):
        # DEVIATES RFC 9989 §4.10.2: a record at a public suffix is read as if it said psd=y. Registries that joined
        # under RFC 9091 have none, and by the letter all their customers would be one organization that signs for
        # each other. A registry that owns its whole suffix (a brand) loses relaxed alignment between its domains.
        organizational, psd = _one_below(top, domain), "y"
    else:
        organizational = top
    # RFC 9989 §4.10.1: the author's own record, else the organization's, else the public suffix's.
    place = next((name for name in (domain, organizational) if name in found), top)
    return Organization(organizational, found[place], place, has_records=True, is_declared=psd != "u")


def _one_below(suffix: str, domain: str) -> str:
    rest = domain[: -len(suffix) - 1]
    return f"{rest.rpartition('.')[2]}.{suffix}"


_suffixes: "PublicSuffixList | None" = None


async def load_public_suffixes() -> "PublicSuffixList":
    """The list, read once in this process [32 ms, in a thread], at the first need or when a worker starts."""
    global _suffixes
    if _suffixes is None:
        _suffixes = await asyncio.to_thread(_read_suffixes)
    return _suffixes


def _read_suffixes() -> "PublicSuffixList":
    from publicsuffixlist import PublicSuffixList

    # The names of registries only: what hosters add to the list ("private" names) was never a rule of DMARC for
    # alignment, and a hoster's own record at such a name is about its customers on purpose.
    return PublicSuffixList(only_icann=True)


async def _is_public_suffix(domain: str) -> bool:
    return "." not in domain or (await load_public_suffixes()).is_public(domain)


async def registered(domain: str) -> str:
    """The domain as it was registered: one label below the public suffix; "" for a public suffix."""
    return (await load_public_suffixes()).privatesuffix(domain) or ""
