"""DNS messages: a question made, an answer read. Own code, because reading an answer is on the event loop.

What comes in was written by strangers: an answer counts when it has the id and the question of what was asked, and of
other names only the aliases on the way are read. Reading is linear in the message; a general library took a second for
4 KiB of long compressed names. Names are tuples of labels in lower case here.
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

from pochta import clock
from pochta.dns.names import to_text
from pochta.dns.question import Mx, Srv

Name = tuple[bytes, ...]

# What every path carries unfragmented: 1280 octets of IPv6 less its headers and UDP's (DNS flag day 2020).
EDNS_PAYLOAD_BYTES: Final = 1232
MAX_ALIASES: Final = 10  # in one answer: resolvers themselves follow 8 to 16
MIN_TTL_S: Final = 1.0  # RFC 2181 §8 lets a TTL be 0; a second still joins the questions of one message
MAX_TTL_S: Final = 86_400.0
MAX_NEGATIVE_TTL_S: Final = 300.0  # RFC 2308 §5 lets it be hours, which is long for a user who just made the record
MAX_NAME_BYTES: Final = 255  # RFC 1035 §2.3.4
MAX_POINTERS: Final = 127  # in one name: as many as it can have labels

_CNAME: Final = 5
_SOA: Final = 6
_OPT: Final = 41
_KINDS: Final = {"A": 1, "MX": 15, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}
_IN: Final = 1
_IS_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_WANTS_RECURSION: Final = 0x0100
_AUTHENTIC: Final = 0x0020
_DNSSEC_OK: Final = 0x8000
_RCODE: Final = 0x000F
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP = 0, 1, 3, 4
_RCODES: Final = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}

_HEADER: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">2HIH")  # type, class, TTL, length
_QUESTION: Final = struct.Struct(">2H")


class NotUnderstood(Exception):
    """An answer that is none, to this question; wait for another."""


class Query(NamedTuple):
    """A question as it goes out. `name` and `kind` are what the answer must repeat."""

    id: int
    name: Name
    kind: int
    octets: bytes


class _Rdata(NamedTuple):
    ttl_s: int
    start: int
    end: int


class Message(NamedTuple):
    """An answer taken apart: where the data of its records stands, by owner and type."""

    octets: bytes
    flags: int
    answers: dict[tuple[Name, int], list[_Rdata]]
    soa: _Rdata | None

    @property
    def is_truncated(self) -> bool:
        """Whether the rest is to be had over TCP; nothing was read then."""
        return bool(self.flags & _TRUNCATED)

    @property
    def is_answer(self) -> bool:
        """Whether the server knew: that there is something, or that there is nothing."""
        return self.flags & _RCODE in (_NOERROR, _NXDOMAIN)

    @property
    def dislikes_edns(self) -> bool:
        """RFC 6891 §7: a server that does not know EDNS says so in one of these ways."""
        return self.flags & _RCODE in (_FORMERR, _NOTIMP)

    @property
    def rcode_name(self) -> str:
        """`SERVFAIL` and the like."""
        return _RCODES.get(self.flags & _RCODE, f"RCODE {self.flags & _RCODE}")


class Reply(NamedTuple):
    """What an answer says. `alias`: the name to ask next, where the answer ends at one."""

    records: tuple[Any, ...]  # Any: what they are depends on the kind that was asked for
    exists: bool
    is_authentic: bool
    ttl_s: float
    alias: Name | None = None


def to_name(name: str) -> Name:
    """The labels of a text that `to_question` made: each as it is, without escapes."""
    return tuple(name.encode("ascii").split(b"."))


def make_query(name: Name, kind: str, *, with_edns: bool = True) -> Query:
    """A question with an id of its own, for a resolver that follows aliases and checks signatures."""
    number = int.from_bytes(clock.token_bytes(2), "big")
    # RFC 6840 §5.7: AD asks to be told of authenticity.
    header = _HEADER.pack(number, _WANTS_RECURSION | _AUTHENTIC, 1, 0, 0, int(with_edns))
    labels = b"".join([bytes((len(label),)) + label for label in name])
    question = labels + b"\0" + _QUESTION.pack(_KINDS[kind], _IN)
    # RFC 6891 §6.1.2: the class is the payload that we take, the TTL has the flags.
    edns = b"\0" + _RECORD.pack(_OPT, EDNS_PAYLOAD_BYTES, _DNSSEC_OK, 0) if with_edns else b""
    return Query(number, name, _KINDS[kind], header + question + edns)


def parse(octets: bytes, query: Query) -> Message:
    """The message, if it answers `query`.

    Raises:
        NotUnderstood: it does not, or is none.
    """
    try:
        return _parse(octets, query)
    except (struct.error, IndexError) as error:
        raise NotUnderstood("cut short") from error


def _parse(octets: bytes, query: Query) -> Message:
    number, flags, questions, answers, authorities, _ = _HEADER.unpack_from(octets)
    if number != query.id or not flags & _IS_RESPONSE or flags & _OPCODE:
        raise NotUnderstood("no answer to this question")
    at = _HEADER.size
    if questions == 1:
        name, at = _read_name(octets, at)
        if (name, query.kind, _IN) != (query.name, *_QUESTION.unpack_from(octets, at)):
            raise NotUnderstood("another question")
        at += _QUESTION.size
    elif questions or flags & _RCODE in (_NOERROR, _NXDOMAIN):
        # Servers that could not read a question do not repeat it
        raise NotUnderstood("no question")
    found: dict[tuple[Name, int], list[_Rdata]] = {}
    soa: _Rdata | None = None
    if flags & _TRUNCATED:
        # RFC 2181 §9: a truncated answer is not to be used.
        return Message(octets, flags, found, soa)
    for place in range(answers + authorities):
        owner, at = _read_name(octets, at)
        kind, network, ttl_s, length = _RECORD.unpack_from(octets, at)
        start = at + _RECORD.size
        at = start + length
        if at > len(octets):
            raise NotUnderstood("cut short")
        # RFC 2181 §8: a TTL with its highest bit set is 0.
        rdata = _Rdata(ttl_s if ttl_s < 1 << 31 else 0, start, at)
        if network == _IN and place < answers:
            found.setdefault((owner, kind), []).append(rdata)
        elif network == _IN and kind == _SOA:
            soa = rdata
    return Message(octets, flags, found, soa)


def read(message: Message, name: Name, kind: str) -> Reply:
    """What an answer (`is_answer`) says of `name`.

    Raises:
        NotUnderstood: its aliases go in circles, or are too many; its data is not of its kind.
    """
    is_authentic = bool(message.flags & _AUTHENTIC)
    ttl_s, asked = MAX_TTL_S, name
    for _ in range(MAX_ALIASES):
        found = message.answers.get((name, _KINDS[kind]))
        if found is not None:
            ttl_s = max(MIN_TTL_S, min(ttl_s, *[one.ttl_s for one in found]))
            # RFC 2181 §5: no record stands twice in a set.
            records = dict.fromkeys([_value(message.octets, kind, one) for one in found])
            return Reply(tuple(records), True, is_authentic, ttl_s)
        alias = message.answers.get((name, _CNAME))
        if alias is None:
            break
        ttl_s = min(ttl_s, alias[0].ttl_s)
        name = _whole_name(message.octets, alias[0].start, alias[0].end)
    else:
        raise NotUnderstood("too many aliases")
    exists = message.flags & _RCODE != _NXDOMAIN
    if exists and message.soa is None and name != asked:
        # The chain leaves what this server knows: it is for the asker to go on
        return Reply((), True, is_authentic, max(MIN_TTL_S, ttl_s), name)
    ttl_s = max(MIN_TTL_S, min(ttl_s, _negative_ttl_s(message), MAX_NEGATIVE_TTL_S))
    return Reply((), exists, is_authentic, ttl_s)


def _negative_ttl_s(message: Message) -> float:
    """RFC 2308 §5: how long "there is nothing" holds; 0 without an SOA record."""
    if message.soa is None:
        return 0.0
    if message.soa.end - message.soa.start < 4:
        raise NotUnderstood("bad SOA")
    # The last field of the record is its "minimum".
    return float(min(message.soa.ttl_s, int.from_bytes(message.octets[message.soa.end - 4 : message.soa.end], "big")))


def _value(octets: bytes, kind: str, rdata: _Rdata) -> Any:  # Any: the kind says what its records are
    data = octets[rdata.start : rdata.end]
    if kind == "A" and len(data) == 4:
        return IPv4Address(data)
    if kind == "AAAA" and len(data) == 16:
        return IPv6Address(data)
    if kind == "TXT":
        return _joined(data)
    if kind == "PTR":
        return to_text(_whole_name(octets, rdata.start, rdata.end))
    if kind == "MX" and len(data) > 2:
        return Mx(int.from_bytes(data[:2], "big"), to_text(_whole_name(octets, rdata.start + 2, rdata.end)))
    if kind == "SRV" and len(data) > 6:
        priority, weight, port = struct.unpack_from(">3H", data)
        return Srv(priority, weight, port, to_text(_whole_name(octets, rdata.start + 6, rdata.end)))
    raise NotUnderstood(f"bad {kind} record")


def _joined(data: bytes) -> bytes:
    """RFC 7208 §3.3: the strings of one record, joined without spaces."""
    strings, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        strings.append(data[at + 1 : end])
        at = end
    if at != len(data):
        raise NotUnderstood("bad TXT record")
    return b"".join(strings)


def _whole_name(octets: bytes, start: int, end: int) -> Name:
    """The name that fills this place.

    Raises:
        NotUnderstood: none does.
    """
    try:
        name, behind = _read_name(octets, start)
    except IndexError as error:
        raise NotUnderstood("cut short") from error
    if behind != end:
        raise NotUnderstood("bad name")
    return name


def _read_name(octets: bytes, at: int) -> tuple[Name, int]:
    """The name at `at` and the place behind it. Source: RFC 1035 §4.1.4."""
    labels: list[bytes] = []
    size, pointers, behind = 1, 0, -1
    while length := octets[at]:
        if length < 64:
            size += length + 1
            label = octets[at + 1 : at + 1 + length]
            if size > MAX_NAME_BYTES or len(label) < length:
                raise NotUnderstood("bad name")
            labels.append(label.lower())
            at += length + 1
            continue
        target = (length & 0x3F) << 8 | octets[at + 1]
        if behind < 0:
            behind = at + 2
        pointers += 1
        # RFC 1035 §4.1.4: a pointer leads to a prior place.
        if length < 0xC0 or target >= at or pointers > MAX_POINTERS:
            raise NotUnderstood("bad name")
        at = target
    return tuple(labels), behind if behind >= 0 else at + 1
