"""Mail addresses as SMTP writes them: read, compare, write.

Decides what is an address by the grammar of RFC 5321 §4.1.2 as RFC 6531 §3.3 widens it to UTF-8; refuses to know which
addresses exist. An `Address` holds the local part without its quoting, so that all spellings of one mailbox are equal,
and the domain as it was given; `key` is what to look up and compare by.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pochta.errors import RemoteProtocolError

# RFC 5321 §4.5.3.1.3: a path, with its punctuation, has at most 256 octets. The 64 octets of a local part
# (§4.5.3.1.1) are what every server must take at least; they are not held against a sender, because the return paths
# of mailing lists and forwarders (VERP, SRS) exceed them.
MAX_PATH_BYTES: Final = 256
MAX_DOMAIN_BYTES: Final = 255  # RFC 5321 §4.5.3.1.2, counted in A-labels
MAX_LABEL_BYTES: Final = 63  # RFC 1035 §2.3.4
DETAIL_SEPARATOR: Final = "+"

# RFC 6531 §3.3: any UTF-8 beyond ASCII; U+0080 to U+009F are controls and stay out.
_UTF8 = "\u00a0-\U0010ffff"
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_UTF8}-]+"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*"
_QUOTED = rf'"(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*"'
# Written so that each text matches in one way only: no backtracking to exploit.
_LABEL = rf"[A-Za-z0-9{_UTF8}]+(?:-+[A-Za-z0-9{_UTF8}]+)*"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_SNUM = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
_LITERAL = rf"\[(?:{_SNUM}(?:\.{_SNUM}){{3}}|[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*:[!-Z^-~]+)\]"
_MAILBOX = rf"(?:({_DOT_STRING})|({_QUOTED}))@({_DOMAIN}|{_LITERAL})"
# RFC 5321 §4.1.1.3: source routes are recognised and stripped.
_ROUTE = rf"(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?"

_PATH_RE = re.compile(rf"<{_ROUTE}{_MAILBOX}>")
_MAILBOX_RE = re.compile(_MAILBOX)
_DOMAIN_RE = re.compile(rf"{_DOMAIN}|{_LITERAL}")
_DOT_STRING_RE = re.compile(_DOT_STRING)
_IPV6_TAG: Final = "[ipv6:"
_IPV6_RE = re.compile(r"[0-9a-f:]+", re.IGNORECASE)
_IPV4_TAIL_RE = re.compile(rf"(.*:){_SNUM}(?:\.{_SNUM}){{3}}")

# IDNA 2008 keeps these four, which the older mapping of `encodings.idna` folds away or removes: without this rule mail
# for faß.example would be looked up as fass.example, another owner's domain.
_IDNA_2008_RE = re.compile("[ßς\u200c\u200d]")


class AddressFault(Enum):
    """What is wrong with an address: each has its own reply code."""

    SYNTAX = "bad address syntax"
    TOO_LONG = "address too long"
    DOMAIN = "bad domain in address"


class AddressError(RemoteProtocolError):
    """The text is not an address; `fault` says why."""

    def __init__(self, fault: AddressFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: local part without quoting, domain as given. `str()` writes it with the least quoting.

    The bare `postmaster` of RFC 5321 §4.1.1.3 has the domain `""`.
    """

    local_part: str
    domain: str

    def __str__(self) -> str:
        # RFC 5321 §4.1.2: the form with the least quoting is sent.
        local_part = self.local_part
        if not _DOT_STRING_RE.fullmatch(local_part):
            local_part = '"' + local_part.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{local_part}@{self.domain}" if self.domain else local_part

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8."""
        return self.local_part.isascii() and self.domain.isascii()

    @property
    def key(self) -> tuple[str, str]:
        """What this address is compared by, see `address_key`.

        Raises:
            AddressError: the domain has no A-label form; not for addresses that came from this module's parsers.
        """
        return fold_local_part(self.local_part), to_a_labels(self.domain) if self.domain else ""


POSTMASTER: Final = Address("postmaster", "")


def parse_path(text: str, start: int = 0) -> tuple[Address | None, int]:
    """The path that begins at `text[start]`, and the offset behind it; None is the null path `<>`.

    `<postmaster>` in any case gives `POSTMASTER`. A source route is dropped. Non-ASCII is taken: whether the
    transaction allows it is for the caller to judge (`Address.is_ascii`).

    Raises:
        AddressError: no path begins here.
    Source: RFC 5321 §4.1.2, RFC 6531 §3.3.
    """
    match = _PATH_RE.match(text, start)
    if match is None:
        if text.startswith("<>", start):
            return None, start + 2
        # RFC 5321 §4.1.1.3: "Postmaster" without a domain is taken in any case.
        if text[start : start + 12].lower() == "<postmaster>":
            return POSTMASTER, start + 12
        raise AddressError(AddressFault.SYNTAX)
    if len(match[0].encode()) > MAX_PATH_BYTES:
        raise AddressError(AddressFault.TOO_LONG)
    return _address(match), match.end()


def parse_mailbox(text: str) -> Address:
    """The address `local@domain`, without angle brackets.

    Raises:
        AddressError: `text` is anything else.
    """
    match = _MAILBOX_RE.fullmatch(text)
    if match is None:
        raise AddressError(AddressFault.SYNTAX)
    if len(text.encode()) > MAX_PATH_BYTES - len("<>"):
        raise AddressError(AddressFault.TOO_LONG)
    return _address(match)


def address_key(text: str) -> tuple[str, str]:
    """What two spellings of one address have in common: (NFC and casefolded local part, domain in A-labels).

    Raises:
        AddressError: `text` is not `local@domain`.
    """
    return parse_mailbox(text).key


def fold_local_part(local_part: str) -> str:
    """NFC and casefolded; idempotent."""
    if local_part.isascii():
        return local_part.lower()
    # Casefolding undoes NFC for some letters (U+0390), hence NFC again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local_part).casefold())


def to_a_labels(domain: str) -> str:
    """The domain in lower case, its U-labels as A-labels; an address literal in lower case.

    Raises:
        AddressError: not a domain, or one that DNS cannot hold.
    Source: RFC 5890 §2.3.2.1.
    """
    # The length bounds the time of `encodings.idna`, too: it is quadratic.
    if len(domain) > MAX_DOMAIN_BYTES or not _DOMAIN_RE.fullmatch(domain):
        raise AddressError(AddressFault.DOMAIN)
    lowered = domain.lower()
    if domain.startswith("["):
        if lowered.startswith(_IPV6_TAG) and not _is_ipv6(lowered[len(_IPV6_TAG) : -1]):
            raise AddressError(AddressFault.DOMAIN)
        return lowered
    labels = lowered.split(".") if domain.isascii() else [_to_a_label(label) for label in domain.split(".")]
    a_labels = ".".join(labels)
    if len(a_labels) > MAX_DOMAIN_BYTES or max(map(len, labels)) > MAX_LABEL_BYTES:
        raise AddressError(AddressFault.DOMAIN)
    return a_labels


def split_detail(local_part: str, separator: str = DETAIL_SEPARATOR) -> tuple[str, str | None]:
    """`user+detail` as (user, detail); detail is None when there is none. A leading separator belongs to the user."""
    at = local_part.find(separator, 1)
    if at < 0:
        return local_part, None
    return local_part[:at], local_part[at + len(separator) :]


def _address(match: re.Match[str]) -> Address:
    dot_string, quoted, domain = match.groups()
    to_a_labels(domain)
    # RFC 5321 §4.1.2: all quoted forms of a local part are the same.
    local_part = dot_string if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1:-1])
    return Address(local_part, domain)


def _to_a_label(label: str) -> str:
    # Imported late: its tables are not needed before the first such domain.
    from encodings import idna

    if label.isascii():
        return label.lower()
    try:
        prepared = idna.nameprep(label)
        # The ideographic full stop is a dot to some resolvers and a letter to others.
        if "\u3002" in prepared:
            raise AddressError(AddressFault.DOMAIN)
        if _IDNA_2008_RE.search(label):
            prepared = unicodedata.normalize("NFC", label.lower())
            a_label = "xn--" + prepared.encode("punycode").decode("ascii")
        else:
            a_label = idna.ToASCII(prepared).decode("ascii").lower()
    except UnicodeError as error:
        raise AddressError(AddressFault.DOMAIN) from error
    # A letter whose compatibility form is a dot, a slash or a space must not come out as another domain.
    if not _DOMAIN_RE.fullmatch(a_label) or "." in a_label:
        raise AddressError(AddressFault.DOMAIN)
    return a_label


def _is_ipv6(text: str) -> bool:
    """RFC 5321 §4.1.3: IPv6-addr, also with an IPv4 tail."""
    tail = _IPV4_TAIL_RE.fullmatch(text)
    if tail:
        text = tail[1] + "0:0"
    if not _IPV6_RE.fullmatch(text) or text.count("::") > 1 or ":::" in text:
        return False
    front, gap, back = text.partition("::")
    groups = (front.split(":") if front else []) + (back.split(":") if back else [])
    if any(not 1 <= len(group) <= 4 for group in groups):
        return False
    # RFC 5321 §4.1.3: "::" stands for two groups of zeros at least.
    return len(groups) <= 6 if gap else len(groups) == 8
