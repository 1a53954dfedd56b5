"""Address lists of header fields, as ENVELOPE wants them: display name, route, mailbox, host.

Reads what RFC 5322 §3.4 and §4.4 allow and gets the best out of anything else; never raises, linear in its input.
Values stay bytes as they stand: encoded words are not decoded, quoting and comments are removed.
"""

import re
from typing import NamedTuple

# A mail to 5000 named recipients fills about 250 kB of header; what follows in one field is left out of ENVELOPE.
MAX_ADDRESSES = 5_000
MAX_FIELD = 256 * 1024
# Words and pieces of one address, the rest is dropped: ten times what fits in a line of 998 octets.
MAX_WORDS = 5_000
# Quoted pairs in one quoted string or comment piece: each costs 50 octets while the pattern runs.
_PAIRS = rb"{0,1000}"


class Address(NamedTuple):
    """One address. `host` None marks group syntax: `mailbox` is the group's name, or None at its end."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


GROUP_END = Address(None, None, None, None)

_SPECIALS = rb'\s"(),:;<>@\\\[\]'
# The shapes that nearly all mail has: `a@b`, `<a@b>`, `Some Name <a@b>`, `"Some, Name" <a@b>`.
_SIMPLE = re.compile(
    rb'\s*+(?:(?:"([^"\\]*+)"\s*+|([^"(),:;<>@\\\[\]]*+))<([^%b]++)@([^%b]++)>|([^%b]++)@([^%b]++))\s*+(?:,|\Z)'
    % ((_SPECIALS,) * 4)
)
_TOKEN = re.compile(
    rb'\s++|"([^"\\]*+(?>(?:\\.[^"\\]*+)%b))"?|(\[[^\]\\]*+(?>(?:\\.[^\]\\]*+)%b)\]?)|([^%b]++)|\\(.?)|(.)'
    % (_PAIRS, _PAIRS, _SPECIALS),
    re.DOTALL,
)
_COMMENT_PIECE = re.compile(rb"([^()\\]++)|\\(.?)|([()])", re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_SPACES = re.compile(rb"\s+")
_SPECIAL = 5  # the group of _TOKEN that holds one special character


def parse_addresses(value: bytes) -> list[Address]:
    """Addresses of a field body (folded or not), at most MAX_ADDRESSES of its first MAX_FIELD octets.

    Source: RFC 5322 §3.4, RFC 9051 §7.5.2.
    """
    value = value[:MAX_FIELD]
    found: list[Address] = []
    at = 0
    end = len(value)
    match_at = _SIMPLE.match
    while at < end and len(found) < MAX_ADDRESSES:
        match = match_at(value, at)
        if match is None:
            rest = value[at:]
            if rest.strip():
                found += _Slow(MAX_ADDRESSES - len(found)).run(rest)
            break
        quoted, phrase, mailbox, host, bare_mailbox, bare_host = match.groups()
        if bare_mailbox is not None:
            found.append(Address(None, None, bare_mailbox, bare_host))
        else:
            found.append(_address((quoted if quoted is not None else phrase.rstrip()) or None, None, mailbox, host))
        at = match.end()
    return found[:MAX_ADDRESSES]


class _Slow:
    """The tokenizing reader for everything that the pattern of simple shapes does not take."""

    __slots__ = ("angle", "comment", "found", "in_angle", "in_group", "items", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found: list[Address] = []
        self.in_group = False
        self.in_angle = False
        self.items: list[bytes] = []  # words and `@` outside of an angle address
        self.angle: list[bytes] | None = None  # words, `@`, `,` and `:` between `<` and `>`
        self.comment: list[bytes] = []

    def run(self, value: bytes) -> list[Address]:
        at = 0
        end = len(value)
        match_at = _TOKEN.match
        while at < end and len(self.found) < self.limit:
            match = match_at(value, at)
            if match is None:  # cannot be: the last alternative takes any octet
                break
            at = match.end()
            kind = match.lastindex
            if kind is None:  # white space
                continue
            text = match[kind]
            if kind == _SPECIAL:
                if text == b"(":
                    at = self.read_comment(value, at)
                else:
                    self.special(text)
            else:
                self.word(_QUOTED_PAIR.sub(rb"\1", text) if kind == 1 and b"\\" in text else text)
        self.flush()
        if self.in_group:
            self.found.append(GROUP_END)
        return self.found

    def read_comment(self, value: bytes, at: int) -> int:
        """Offset behind the comment whose `(` was read. Comments nest; they are counted (RFC 5322 §3.2.2)."""
        depth = 1
        text: list[bytes] = []
        for match in _COMMENT_PIECE.finditer(value, at):
            at = match.end()
            if match[3]:
                depth += 1 if match[3] == b"(" else -1
                if not depth:
                    break
            if len(text) < MAX_WORDS:
                text.append(match[2] if match[2] is not None else match[0])
        if not self.comment:
            self.comment = text
        return at

    def word(self, text: bytes) -> None:
        words = self.items if self.angle is None else self.angle
        # what stands behind `>` and before the comma is lost
        if (self.angle is None or self.in_angle) and len(words) < MAX_WORDS:
            words.append(text)

    def special(self, text: bytes) -> None:
        if text == b"@":
            self.word(text)
        elif text == b"<":
            if self.angle is None:
                self.angle = []
            self.in_angle = True
        elif text == b">":
            self.in_angle = False
        elif self.in_angle and self.angle is not None and self.angle[:1] == [b"@"] and text in b",:":
            self.word(text)  # RFC 5322 §4.4: obs-route "@a,@b:" before the address
        elif text == b",":
            self.flush()
        elif text == b":" and not self.in_group and b"@" not in self.items:
            self.found.append(Address(None, None, b" ".join(self.items), None))
            self.in_group = True
            self.clear()
        elif text == b";":
            self.flush()
            if self.in_group:
                self.found.append(GROUP_END)
                self.in_group = False

    def clear(self) -> None:
        self.items = []
        self.angle = None
        self.in_angle = False
        self.comment = []

    def flush(self) -> None:
        """Takes what was read since the last comma as one address."""
        items, angle = self.items, self.angle
        name = b"".join(self.comment).strip() or None
        if angle is not None:
            name = b" ".join(items) or name
            route = None
            if b":" in angle:
                colon = angle.index(b":")
                route = b"".join(angle[:colon])
                angle = angle[colon + 1 :]
            mailbox, host, _ = _split_spec(angle)
            self.found.append(_address(name, route, mailbox, host))
        elif items:
            mailbox, host, before = _split_spec(items)
            self.found.append(_address(b" ".join(before) or name, None, mailbox, host))
        self.clear()


def _address(name: bytes | None, route: bytes | None, mailbox: bytes, host: bytes) -> Address:
    if name and (b"\n" in name or b"\t" in name or b"\r" in name):
        name = _SPACES.sub(b" ", name)
    return Address(name, route, mailbox, host)


def _split_spec(items: list[bytes]) -> tuple[bytes, bytes, list[bytes]]:
    """(local part, domain, words in front that belong to neither) of the tokens of an addr-spec.

    Without `@` everything is local part and the domain is empty, not None: None would mean group syntax.
    """
    if b"@" not in items:
        return b" ".join(items), b"", []
    at = len(items) - 1 - items[::-1].index(b"@")
    domain = b"".join(items[at + 1 :])
    # RFC 5322 §4.4: an obsolete local part may have white space round its dots; other words in front are a name
    # whose author forgot the brackets.
    first = at - 1
    while first > 0 and (items[first][:1] in (b".", b"@") or items[first - 1].endswith((b".", b"@"))):
        first -= 1
    first = max(first, 0)
    return b"".join(items[first:at]), domain, [word for word in items[:first] if word != b"@"]
