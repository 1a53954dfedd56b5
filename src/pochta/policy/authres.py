"""The Authentication-Results field: written by us, read in ARC sets, removed where it pretends to be ours.

Decides the form only. Whatever a peer had a hand in (names, identities, reasons) is written as a token, a domain, or a
quoted string of visible ASCII, or left out: it can end neither a value nor a line. Reading never raises and is linear.

Source: RFC 8601 (§2.2 the grammar, §2.7 the methods, §5 removal), and the IANA registry "Email Authentication
Parameters" for the names of properties.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from pochta.policy.results import Arc, ArcResult, DkimResult, Dmarc, DmarcResult, IprevResult, SpfResult
from pochta.proto.address import AddressError, to_a_labels

# RFC 5322 §2.1.1: lines of 78 characters where folding can do it.
LINE_CHARS: Final = 78
# A path (RFC 5321 §4.5.3.1.3) is the longest identity there is; longer values are left out, cut ones would be others.
MAX_VALUE_CHARS: Final = 256
MAX_REASON_CHARS: Final = 120
# A message with more signatures than this is told about the first ones.
MAX_DKIM: Final = 20
# Of a foreign field at most so many results are read: ours has under 30.
MAX_RESULTS: Final = 100
# A field of 20 signatures with long domains has 8 kB; the largest read takes 8 ms [0.5 us for each octet at worst].
MAX_READ_CHARS: Final = 16_384
# Parentheses, quotes and backslashes in one value [0.4 us each]. A real field has two for each comment.
MAX_MARKS: Final = 400
# So many fields of a message are judged by grammar (8 ms in all at worst), the rest by whether our name is in them.
MAX_JUDGED: Final = 50

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# RFC 2045 §5.1: any visible ASCII but the tspecials.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_IDENTITY = re.compile(rf"(?:{_ATOM}(?:\.{_ATOM})*)?@[A-Za-z0-9.-]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_VISIBLE = re.compile(r"[ -~]*")
_NOT_VISIBLE = re.compile(r"[^ -~]+")
_QUOTED_SPECIAL = re.compile(r'(["\\])')


def write(
    authserv_id: str,
    *,
    address: IPv4Address | IPv6Address | None = None,
    iprev: IprevResult | None = None,
    spf: SpfResult | None = None,
    helo_spf: SpfResult | None = None,
    dkim: Sequence[DkimResult] | None = None,
    dmarc: DmarcResult | None = None,
    arc: ArcResult | None = None,
    auth: str | None = None,
) -> bytes:
    """One finished field, folded, CRLF at each line's end. None: that was not checked; no check at all gives `none`.

    `address` is the client's (in iprev and arc), `auth` the identity that signed in, `dkim=()` an unsigned message.
    """
    results: list[list[str]] = []
    if auth is not None:
        results.append(["auth=pass", *_property("smtp.auth", auth)])
    if iprev:
        name = [f"({iprev.name})"] if _HOST.fullmatch(iprev.name) and len(iprev.name) <= MAX_VALUE_CHARS else []
        results.append([f"iprev={iprev.result}", *_property("policy.iprev", str(address) if address else ""), *name])
    for one in (spf, helo_spf):
        if one:
            property_name = "smtp.helo" if one.is_helo else "smtp.mailfrom"
            results.append([f"spf={one.result}", *_reason(one.reason), *_property(property_name, one.domain)])
    if dkim is not None:
        results += [_dkim(one) for one in dkim[:MAX_DKIM]] or [["dkim=none"]]
    if dmarc:
        policy = [f"policy.dmarc={dmarc.wish}"] if dmarc.result is Dmarc.FAIL else []
        from_property = _property("header.from", dmarc.domain)
        results.append([f"dmarc={dmarc.result}", *_reason(dmarc.reason), *policy, *from_property])
    if arc and arc.result is not Arc.NONE:
        results.append([f"arc={arc.result}", *_reason(arc.reason), *_arc(arc, address)])
    return _folded(authserv_id, results)


def _dkim(one: DkimResult) -> list[str]:
    # RFC 6008: header.b tells two signatures of one domain apart.
    words = [f"dkim={one.result}", *_reason(one.reason)]
    for name, value in (
        ("header.d", one.domain),
        ("header.i", one.identity),
        ("header.s", one.selector),
        ("header.a", one.algorithm),
        ("header.b", one.signature),
    ):
        words += _property(name, value)
    return words


def _arc(arc: ArcResult, address: IPv4Address | IPv6Address | None) -> list[str]:
    # RFC 8617 §5.2, §6
    oldest = [f"header.oldest-pass={arc.oldest_pass}"] if arc.result is Arc.PASS else []
    return oldest + _property("smtp.remote-ip", str(address) if address else "")


def _reason(reason: str) -> list[str]:
    return [f"reason={_quoted(_NOT_VISIBLE.sub('?', reason[:MAX_REASON_CHARS]))}"] if reason else []


def _property(name: str, value: str) -> list[str]:
    if not value or len(value) > MAX_VALUE_CHARS or not _VISIBLE.fullmatch(value):
        return []
    is_plain = _TOKEN.fullmatch(value) or (name in _IDENTITIES and _IDENTITY.fullmatch(value))
    return [f"{name}={value if is_plain else _quoted(value)}"]


# RFC 8601 §2.2: an identity of mail is written as one, not as a quoted string.
_IDENTITIES: Final = frozenset({"smtp.auth", "smtp.mailfrom", "header.i"})


def _quoted(text: str) -> str:
    return '"' + _QUOTED_SPECIAL.sub(r"\\\1", text) + '"'


def _folded(authserv_id: str, results: list[list[str]]) -> bytes:
    is_token = _TOKEN.fullmatch(authserv_id)
    lines = [f"Authentication-Results: {authserv_id if is_token else _quoted(_NOT_VISIBLE.sub('?', authserv_id))};"]
    for number, words in enumerate(results or [["none"]]):
        line = f"\t{words[0]}"
        for word in words[1:]:
            if len(line) + 1 + len(word) >= LINE_CHARS:
                lines.append(line)
                line = f"\t {word}"
            else:
                line = f"{line} {word}"
        lines.append(line if number >= len(results) - 1 else f"{line};")
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


class MethodResult(NamedTuple):
    """One result of a field: `dmarc`, `pass`, {"header.from": "a.test"}; method, result and names in lower case."""

    method: str
    result: str
    properties: dict[str, str]


# Quoted string (closed or not), separator, or anything else without white space. A thousand quoted pairs at most: each
# costs 50 octets while the pattern runs.
_WORD = re.compile(r'"([^"\\]*+(?>(?:\\.[^"\\]*+){0,1000}))"?|([;=])|([^\s;="]+)', re.DOTALL)
_UNESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MARK = re.compile(r'\\.?|[()"]', re.DOTALL)


def read(value: str) -> tuple[MethodResult, ...]:
    """The results in a field's value, in order; whatever is not one is passed over. The authserv-id is not judged.

    Works for ARC-Authentication-Results too. A value over MAX_READ_CHARS has no results. Never raises.
    """
    if len(value) > MAX_READ_CHARS:
        return ()
    text = _without_comments(value)
    found: list[MethodResult] = []
    for clause in _clauses(text if text is not None else value):
        if len(clause) < 3 or clause[1] is not None:
            continue
        # name, sign, value, name, sign, value …; the first pair is the method and its result.
        pairs = [
            (name.lower(), word)
            for name, sign, word in zip(clause, clause[1:], clause[2:], strict=False)
            if sign is None and name is not None and word is not None
        ]
        if pairs and clause[0] is not None and clause[2] is not None:
            method = pairs[0][0].partition("/")[0]
            # The first of two properties of one name counts: what is appended cannot change it.
            found.append(MethodResult(method, pairs[0][1].lower(), dict(reversed(pairs[1:]))))
    return tuple(found)


def _clauses(text: str) -> Iterator[list[str | None]]:
    """The words between semicolons, quoted ones without their quoting; None stands for the sign `=`."""
    clause: list[str | None] = []
    count = 0
    for match in _WORD.finditer(text):
        if match[2] == ";":
            yield clause
            clause = []
            count += 1
            if count > MAX_RESULTS:
                return
        elif match[2]:
            clause.append(None)
        else:
            clause.append(match[3] or _UNESCAPE.sub(r"\1", match[1] or ""))
    yield clause


def _without_comments(text: str) -> str | None:
    """Comments, nested ones too, as one space each; None where quotes or parentheses do not match, or are too many."""
    if "(" not in text and ")" not in text:
        return text
    if text.count("(") + text.count(")") + text.count('"') + text.count("\\") > MAX_MARKS:
        return None
    kept: list[str] = []
    depth, start, is_quoted = 0, 0, False
    for match in _MARK.finditer(text):
        mark = match[0]
        if mark == '"' and not depth:
            is_quoted = not is_quoted
        elif mark == "(" and not is_quoted:
            if not depth:
                kept.append(text[start : match.start()])
            depth += 1
        elif mark == ")" and not is_quoted:
            if not depth:
                return None
            depth -= 1
            start = match.end()
    if depth or is_quoted:
        return None
    return " ".join([*kept, text[start:]])


# RFC 8601 §2.2: authserv-id, version, then ";" (or nothing at all, which is no lawful field but a clear one).
_HEAD = re.compile(
    r'\s*+(?:([^\s;="()\\,<>@:/\[\]?]++)|"([^"\\]*+(?>(?:\\.[^"\\]*+){0,1000}))")\s*+(?:[0-9]++\s*+)?(?:;|\Z)',
    re.DOTALL,
)
_NOISE = re.compile(r'[\s"\\]+')


def is_ours(value: bytes, authserv_id: str) -> bool:
    """Whether a field's value claims `authserv_id`: case, quoting, comments, version and IDN form do not matter.

    A value whose authserv-id cannot be read counts as ours when our name stands anywhere in it: some reader behind us
    might read it. Source: RFC 8601 §5.
    """
    text = value.decode("utf-8", "replace")
    head = _HEAD.match(text)
    if not head and (plain := _without_comments(text)) is not None:
        head = _HEAD.match(plain)
    if head:
        claimed = head[1] if head[1] is not None else _UNESCAPE.sub(r"\1", head[2])
        return _canonical(claimed.strip()) == _canonical(authserv_id)
    return _names_us(text, authserv_id)


def _names_us(text: str, authserv_id: str) -> bool:
    """Whether our name stands anywhere, with white space, quotes and backslashes taken out."""
    bare = _NOISE.sub("", text).casefold()
    return _canonical(authserv_id) in bare or authserv_id.casefold() in bare


def _canonical(name: str) -> str:
    name = name.rstrip(".")
    if name.isascii():
        return name.lower()
    try:
        return to_a_labels(name)
    except AddressError:
        return name.casefold()


_NAME: Final = b"authentication-results"
_COLON = re.compile(rb"[ \t]*+:")
_FIELD_END = re.compile(rb"\n(?![ \t])")


def remove_forged(header: bytes, authserv_id: str) -> bytes:
    """The header without the Authentication-Results fields that claim to be ours; all else byte for byte.

    ARC-Authentication-Results stays (its seal covers it) and so does Received-SPF.
    """
    # RFC 8601 §5: a border server removes the fields that carry its own authserv-id.
    lowered = header.lower()
    at = lowered.find(_NAME)
    kept: list[bytes] = []
    start = judged = 0
    while at >= 0:
        after = at + len(_NAME)
        if (at == 0 or header[at - 1] == 10) and (colon := _COLON.match(header, after)):
            end = match.end() if (match := _FIELD_END.search(header, after)) else len(header)
            value = header[colon.end() : end]
            judged += 1
            if judged > MAX_JUDGED:
                is_forged = _names_us(value.decode("utf-8", "replace"), authserv_id)
            else:
                is_forged = is_ours(value, authserv_id)
            if is_forged:
                kept.append(header[start:at])
                start = end
            after = end
        at = lowered.find(_NAME, after)
    return b"".join([*kept, header[start:]]) if start else header
