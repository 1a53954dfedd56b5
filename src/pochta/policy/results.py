"""What the checks of an incoming message find, in the words of RFC 8601 §2.7."""

from dataclasses import dataclass
from enum import StrEnum


class Spf(StrEnum):
    """Source: RFC 7208 §2.6."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Dkim(StrEnum):
    """Source: RFC 8601 §2.7.1."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    POLICY = "policy"
    NEUTRAL = "neutral"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Dmarc(StrEnum):
    """Source: RFC 9989, RFC 8601 §2.7.7."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Arc(StrEnum):
    """Source: RFC 8617 §4.4."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"


class Iprev(StrEnum):
    """Source: RFC 8601 §3."""

    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class SpfResult:
    """One evaluation. `domain` is what was evaluated (MAIL FROM's, or HELO's name), `is_helo` which of them.

    `mechanism`: the term that matched, "" without one. `explanation`: the domain's own text for a fail (RFC 7208 §6.2),
    visible ASCII, "" without one. `reason`: why, for an error; for the log and the comment.
    """

    result: Spf
    domain: str
    is_helo: bool = False
    mechanism: str = ""
    explanation: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DkimResult:
    """One signature. `domain` d=, `selector` s=, `identity` i=, `algorithm` a=, `signature` first 8 characters of b=
    (RFC 6008); lower case domain in A-labels. `is_test`: the key has t=y. `reason` as in `SpfResult`."""

    result: Dkim
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    signature: str = ""
    is_test: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ArcResult:
    """The chain. `instances` in it; `domains`: the sealers' d=, first to last; `oldest_pass`: RFC 8617 §5.2;
    `results`: the value of each ARC-Authentication-Results, first to last; empty unless the chain passes."""

    result: Arc
    instances: int = 0
    domains: tuple[str, ...] = ()
    oldest_pass: int = 0
    results: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IprevResult:
    """Whether the address has a name that has the address; `name` then."""

    result: Iprev
    name: str = ""


class Wish(StrEnum):
    """What a domain wants done with mail that fails DMARC."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """`domain`: the author's; `record_domain`: where the record was found, "" when there is none; `organizational`: the
    organizational domain, "" where nothing asked for it. `wish`: of the record, for this domain (p=, sp=, np=; t=y
    counted). `aligned`: what gave the pass: `"spf"`, `"dkim"`, or both."""

    result: Dmarc
    domain: str = ""
    record_domain: str = ""
    organizational: str = ""
    wish: Wish = Wish.NONE
    is_test: bool = False
    aligned: tuple[str, ...] = ()
    reason: str = ""
