"""SPF records as terms, and the macro language in them.

Decides what is an SPF record by the grammar of RFC 7208; asks nobody. A record is valid as a whole or not at all. What
was read is shared by everybody who asks for the same text, and never changes.
"""

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple
from urllib.parse import quote

from pochta.policy.results import Spf

# RFC 7208 §3.4 asks for less than 512 octets; the longest that large senders publish are near 4000.
MAX_RECORD_BYTES: Final = 8192
# 1024 texts of at most 1 KiB, with about 13 times that as terms: 14 MiB at worst. Longer ones are read every time.
CACHED_RECORDS: Final = 1024
MAX_CACHED_RECORD_BYTES: Final = 1024
# A name has at most 127 labels (RFC 7208 §7.3); a larger number of parts means all of them.
MAX_PARTS: Final = 999
# Macros in one string, of which a name can show no more: each may take 35 us to escape, and there are ten such names.
MAX_MACROS: Final = 127

_VERSION_RE = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_MODIFIER_RE = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_DIRECTIVE_RE = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9]*)((?:[:/].*)?)", re.DOTALL)
_IP4_CIDR: Final = "0|[1-9][0-9]?"
_IP6_CIDR: Final = "0|[1-9][0-9]{0,2}"
_DUAL_CIDR_RE = re.compile(rf"(?<!/)(?:/({_IP4_CIDR}))?(?://({_IP6_CIDR}))?\Z")
_CIDR_RE = {32: re.compile(rf":([0-9.]*)/({_IP4_CIDR})"), 128: re.compile(rf":([0-9A-Fa-f:.]*)/({_IP6_CIDR})")}
# RFC 7208 §7.1: macro-expand, or a run of macro-literals
_TOKEN_RE = re.compile(r"%\{([A-Za-z])([0-9]*)([Rr]?)([.+,/_=-]*)\}|%([%_-])|(?P<literal>[!-$&-~]+)")
_EXPLAIN_TOKEN_RE = re.compile(_TOKEN_RE.pattern.replace("[!-$", "[ -$"))
_ALPHANUM: Final = "[A-Za-z0-9]"
# RFC 7208 §7.1: domain-end. All digits is no toplabel; one with a hyphen may begin and end with a digit.
_DOMAIN_END_RE = re.compile(rf".*\.(?=[0-9]*[A-Za-z-]){_ALPHANUM}+(?:-+{_ALPHANUM}+)*\.?", re.DOTALL)

_ESCAPES: Final = {"%": "%", "_": " ", "-": "%20"}
_LETTERS: Final = frozenset("slodiphv")
_EXPLAIN_LETTERS: Final = _LETTERS | frozenset("crt")
_QUALIFIERS: Final = {"": Spf.PASS, "+": Spf.PASS, "-": Spf.FAIL, "~": Spf.SOFTFAIL, "?": Spf.NEUTRAL}


class SpfSyntaxError(ValueError):
    """The text is not a valid record; `str(error)` says why, in visible ASCII."""


class Macro(NamedTuple):
    """`%{d2r-}`: letter in lower case, number of right-hand parts (0: all), whether reversed, delimiters."""

    letter: str
    parts: int
    is_reversed: bool
    delimiters: str
    is_escaped: bool  # an upper case letter asks for URL escapes


class MacroString(NamedTuple):
    """Literals and macros in turn. `literal`: the whole text where no macro is in it. `letters`: of its macros."""

    parts: tuple[str | Macro, ...]
    literal: str | None
    letters: frozenset[str]


class Mechanism(Enum):
    """What a directive compares the client with; the value is its name."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


_NAMES: Final = {one.value: one for one in Mechanism}
_NEEDS_DOMAIN: Final = frozenset({Mechanism.INCLUDE, Mechanism.EXISTS})


class Directive(NamedTuple):
    """One mechanism. `target` is None where it is the current domain. `network` is the number of an ip4 or ip6 network.

    `ip4_shift` and `ip6_shift` are the low bits that are not compared.
    """

    result: Spf
    mechanism: Mechanism
    text: str
    target: MacroString | None = None
    ip4_shift: int = 0
    ip6_shift: int = 0
    network: int = 0


class Record(NamedTuple):
    """A valid record; `redirect` is None, too, where an `all` makes it void (RFC 7208 §6.1)."""

    directives: tuple[Directive, ...]
    redirect: MacroString | None
    explanation: MacroString | None


def is_spf(text: bytes) -> bool:
    """Whether a TXT record is an SPF record at all, valid or not. Source: RFC 7208 §4.5."""
    return _VERSION_RE.match(text) is not None


def parse_record(text: bytes) -> Record:
    """The terms of a text that `is_spf`.

    Raises:
        SpfSyntaxError: somewhere in it.
    Source: RFC 7208 §4.6.1.
    """
    if len(text) <= MAX_CACHED_RECORD_BYTES:
        return _parse_cached(text)
    if len(text) > MAX_RECORD_BYTES:
        raise SpfSyntaxError("record too long")
    return _parse(text)


def parse_explanation(text: bytes) -> MacroString:
    """The text that an `exp=` leads to.

    Raises:
        SpfSyntaxError: it is not ASCII, or a macro in it is wrong.
    Source: RFC 7208 §6.2.
    """
    if len(text) > MAX_RECORD_BYTES or not text.isascii():
        raise SpfSyntaxError("explanation too long or not ASCII")
    return _macro_string(_tokens(text.decode("ascii"), _EXPLAIN_TOKEN_RE, _EXPLAIN_LETTERS))


def expand(string: MacroString, value_of: Callable[[str], str]) -> str:
    """The string with its macros replaced; `value_of` is asked for the value of a letter.

    Source: RFC 7208 §7.3.
    """
    if string.literal is not None:
        return string.literal
    return "".join([part if isinstance(part, str) else _expand_macro(part, value_of) for part in string.parts])


def _expand_macro(macro: Macro, value_of: Callable[[str], str]) -> str:
    value = value_of(macro.letter)
    if macro.parts or macro.is_reversed or macro.delimiters:
        delimiters = macro.delimiters or "."
        for one in delimiters[1:]:
            value = value.replace(one, delimiters[0])
        parts = value.split(delimiters[0])
        if macro.is_reversed:
            parts.reverse()
        value = ".".join(parts[-macro.parts :])
    # RFC 7208 §7.3: upper case macros are URL escaped outside the unreserved set of RFC 3986.
    return quote(value, safe="", errors="replace") if macro.is_escaped else value


def _parse(text: bytes) -> Record:
    if not text.isascii():
        # RFC 7208 §3.1: a record is US-ASCII.
        raise SpfSyntaxError("record is not ASCII")
    directives: list[Directive] = []
    modifiers: dict[str, MacroString] = {}
    # RFC 7208 §4.6.1: terms are separated by one or more spaces, and by nothing else.
    for term in text.decode("ascii").split(" ")[1:]:
        if not term:
            continue
        modifier = _MODIFIER_RE.fullmatch(term)
        if modifier is None:
            directives.append(_parse_directive(term))
            continue
        name = modifier[1].lower()
        if name not in ("redirect", "exp"):
            # RFC 7208 §6: unknown modifiers are ignored, as often as they come; their syntax still counts (§4.6).
            _tokens(modifier[2], _TOKEN_RE, _EXPLAIN_LETTERS)
            continue
        if name in modifiers:
            # RFC 7208 §6: these two appear at most once each.
            raise SpfSyntaxError(f"{name}= given twice")
        modifiers[name] = _parse_domain_spec(modifier[2])
    # RFC 7208 §6.1: a redirect is ignored beside an "all" anywhere in the record.
    has_all = any(one.mechanism is Mechanism.ALL for one in directives)
    return Record(tuple(directives), None if has_all else modifiers.get("redirect"), modifiers.get("exp"))


_parse_cached: Final = lru_cache(maxsize=CACHED_RECORDS)(_parse)


def _parse_directive(term: str) -> Directive:
    match = _DIRECTIVE_RE.fullmatch(term)
    mechanism = _NAMES.get(match[2].lower()) if match else None
    if match is None or mechanism is None:
        raise SpfSyntaxError(f"unknown term {_shown(term)}")
    result, rest = _QUALIFIERS[match[1]], match[3]
    if mechanism is Mechanism.IP4 or mechanism is Mechanism.IP6:
        return _parse_network(term, rest, result, mechanism)
    ip4_shift = ip6_shift = 0
    if mechanism is Mechanism.A or mechanism is Mechanism.MX:
        rest, ip4_shift, ip6_shift = _split_cidr(rest)
    if not rest:
        if mechanism in _NEEDS_DOMAIN:
            raise SpfSyntaxError(f"{_shown(term)} needs a domain")
        return Directive(result, mechanism, term, None, ip4_shift, ip6_shift)
    if rest[0] == "/" or mechanism is Mechanism.ALL:
        raise SpfSyntaxError(f"bad argument in {_shown(term)}")
    return Directive(result, mechanism, term, _parse_domain_spec(rest[1:]), ip4_shift, ip6_shift)


def _split_cidr(rest: str) -> tuple[str, int, int]:
    """What stands before the prefix lengths, and the bits that these leave out of the comparison."""
    match = _DUAL_CIDR_RE.search(rest)
    if match is None:
        raise SpfSyntaxError(f"bad prefix length in {_shown(rest)}")
    ip4, ip6 = int(match[1] or 32), int(match[2] or 128)
    if ip4 > 32 or ip6 > 128:
        raise SpfSyntaxError(f"prefix length too large in {_shown(rest)}")
    return rest[: match.start()], 32 - ip4, 128 - ip6


def _parse_network(term: str, rest: str, result: Spf, mechanism: Mechanism) -> Directive:
    bits = 32 if mechanism is Mechanism.IP4 else 128
    match = _CIDR_RE[bits].fullmatch(rest)
    text, length = (match[1], int(match[2])) if match else (rest[1:], bits)
    if length > bits or not rest.startswith(":"):
        raise SpfSyntaxError(f"bad network in {_shown(term)}")
    try:
        # A zone index ("%eth0") is none of RFC 4291 §2.2
        number = int(IPv4Address(text) if bits == 32 else IPv6Address(text.replace("%", "!")))
    except AddressValueError:
        raise SpfSyntaxError(f"bad address in {_shown(term)}") from None
    shift = bits - length
    return Directive(result, mechanism, term, None, shift, shift, number >> shift)


def _parse_domain_spec(text: str) -> MacroString:
    tokens = _tokens(text, _TOKEN_RE, _LETTERS)
    if not tokens:
        raise SpfSyntaxError("empty domain")
    # RFC 7208 §7.1: a domain-spec ends in a macro, or in a dot and a toplabel.
    if tokens[-1]["literal"] is not None and not _DOMAIN_END_RE.fullmatch(tokens[-1]["literal"]):
        raise SpfSyntaxError(f"bad domain {_shown(text)}")
    return _macro_string(tokens)


def _tokens(text: str, token_re: re.Pattern[str], letters: frozenset[str]) -> list[re.Match[str]]:
    tokens: list[re.Match[str]] = []
    at = 0
    while at < len(text):
        match = token_re.match(text, at)
        # RFC 7208 §7.3: a number of parts is not zero.
        if match is None or (match[1] and (match[1].lower() not in letters or (match[2] and not match[2].strip("0")))):
            raise SpfSyntaxError(f"bad macro in {_shown(text)}")
        tokens.append(match)
        at = match.end()
    if sum(token[1] is not None for token in tokens) > MAX_MACROS:
        raise SpfSyntaxError("too many macros")
    return tokens


def _macro_string(tokens: list[re.Match[str]]) -> MacroString:
    parts: list[str | Macro] = []
    for token in tokens:
        letter, digits, reverse, delimiters, escape, literal = token.groups()
        if letter is None:
            parts.append(literal or _ESCAPES[escape])
            continue
        count = min(int(digits.lstrip("0")[:4] or "0"), MAX_PARTS)
        parts.append(Macro(letter.lower(), count, bool(reverse), delimiters, letter.isupper()))
    letters = frozenset(part.letter for part in parts if isinstance(part, Macro))
    literal = None if letters else "".join([part for part in parts if isinstance(part, str)])
    return MacroString(tuple(parts), literal, letters)


def _shown(text: str) -> str:
    """At most 60 characters, visible ASCII: it goes into logs and comments."""
    return "".join([one if "!" <= one <= "~" else "?" for one in text[:60]])
