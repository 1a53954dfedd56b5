"""The parts of the resolver that ask nobody: names, the cache, and messages from strangers."""

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.dns import wire
from pochta.dns.cache import MEAN_BYTES, Cache
from pochta.dns.names import to_question, to_text

NAMES = {
    "A.Test": "a.test",
    "a.test.": "a.test",
    "_dmarc.a.test": "_dmarc.a.test",
    "test": "test",
    "user+tag._spf.a.test": "user+tag._spf.a.test",
    "faß.test": "xn--fa-hia.test",
    "ΒΌΛΟΣ.test": "xn--nxasmq6b.test",
    "a" * 63 + ".test": "a" * 63 + ".test",
    "a" * 64 + ".test": None,
    "": None,
    ".": None,
    "..": None,
    ".a": None,
    "a..test": None,
    "a.test..": None,
    "\u2024.test": None,
    "a\u3002test": None,
    "a\uff61test": None,
    "ü" * 60 + ".test": None,
    "a." * 126 + "a": "a." * 126 + "a",
    "a." * 127 + "a": None,
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_to_question(name: str) -> None:
    assert to_question(name) == NAMES[name]


@given(st.text(max_size=300))
def test_question_is_always_a_name_that_dns_holds(name: str) -> None:
    question = to_question(name)
    if question is not None:
        assert dns.name.Name([*wire.to_name(question), b""]).to_wire()
        assert to_question(question) == question


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3))
def test_text_of_a_name_is_visible_and_tells_its_labels(labels: list[bytes]) -> None:
    text = to_text([*labels, b""])
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert text.count(".") == max(len(labels) - 1, 0)


def test_cache_drops_the_least_used() -> None:
    cache: Cache[int] = Cache(2)
    for at, name in enumerate(("a", "b")):
        cache.put(("A", name), at, 0.0, 10.0, 1)
    assert cache.get(("A", "a"), 1.0) == 0
    cache.put(("A", "c"), 2, 1.0, 10.0, 1)
    assert [cache.get(("A", name), 1.0) for name in "abc"] == [0, None, 2]


def test_cache_bounds_its_bytes() -> None:
    cache: Cache[int] = Cache(10)
    for at in range(10):
        cache.put(("A", str(at)), at, 0.0, 10.0, MEAN_BYTES * 2)
    assert len(cache) == 5
    cache.put(("A", "9"), 9, 0.0, 10.0, MEAN_BYTES * 9)
    assert len(cache) == 1
    cache.put(("A", "huge"), 9, 0.0, 10.0, MEAN_BYTES * 11)
    assert len(cache) == 0
    cache.put(("A", "small"), 9, 0.0, 10.0, MEAN_BYTES * 10)
    assert len(cache) == 1


@pytest.mark.parametrize(("now_s", "value"), [(99.0, None), (100.0, 1), (109.9, 1), (110.0, None), (1e9, None)])
def test_cache_holds_between_two_times(now_s: float, value: int | None) -> None:
    cache: Cache[int] = Cache(1)
    cache.put(("A", "a"), 1, 100.0, 10.0, 1)
    assert cache.get(("A", "a"), now_s) == value
    assert len(cache) == (value is not None)


QUERY = wire.make_query(wire.to_name("a.test"), "MX")


def _answer() -> bytes:
    response = dns.message.make_response(dns.message.from_wire(QUERY.octets))
    response.answer = [
        dns.rrset.from_text("a.test.", 300, "IN", "CNAME", "b.a.test."),
        dns.rrset.from_text("b.a.test.", 300, "IN", "MX", "10 mx.a.test.", "20 mx.b.test."),
        dns.rrset.from_text("b.a.test.", 300, "IN", "TXT", '"x" "y"'),
    ]
    response.authority = [dns.rrset.from_text("a.test.", 300, "IN", "SOA", "a. b. 1 2 3 4 5")]
    return response.to_wire()


ANSWER = _answer()


@given(st.data())
def test_damaged_answer_is_read_or_not_understood(data: st.DataObject) -> None:
    octets = bytearray(ANSWER)
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(2, len(octets) - 1))] = data.draw(st.integers(0, 255))
    del octets[data.draw(st.integers(2, len(octets))) :]
    try:
        message = wire.parse(bytes(octets), QUERY)
        for kind in ("MX", "TXT", "A", "AAAA", "PTR", "SRV"):
            reply = wire.read(message, wire.to_name("a.test"), kind)
            assert wire.MIN_TTL_S <= reply.ttl_s <= wire.MAX_TTL_S
    except wire.NotUnderstood:
        pass


def _with_question_name(name: bytes) -> bytes:
    return QUERY.id.to_bytes(2, "big") + b"\x81\x80\0\1\0\0\0\0\0\0" + name + b"\0\x0f\0\1"


@pytest.mark.rfc(1035, "4.1.4")
@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\1a\xc0\x0c", b"\xc0\x0e\0", b"\xc0", b"\x40a\0", b"\x80\0", b"\3ab", b"\x3fa" * 6, b""],
    ids=["itself", "loop", "ahead", "half a pointer", "type 01", "type 10", "cut short", "long", "nothing"],
)
def test_bad_name_is_not_understood(name: bytes) -> None:
    with pytest.raises(wire.NotUnderstood):
        wire.parse(_with_question_name(name), QUERY)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("A", "7f0000"),
        ("A", "7f00000100"),
        ("AAAA", "00" * 15),
        ("TXT", "0561"),
        ("MX", "0001"),
        ("MX", "000101"),
        ("MX", "00010161000162"),
        ("SRV", "000100020003"),
        ("PTR", ""),
        ("PTR", "c0ff"),
    ],
)
def test_bad_data_is_not_understood(kind: str, data: str) -> None:
    query = wire.make_query(wire.to_name("a.test"), kind)
    octets = bytes.fromhex(data)
    header = query.octets[:2] + bytes.fromhex("81800001000100000000000"[:20])
    number = int.from_bytes(query.octets[20:22], "big")
    record = b"\xc0\x0c" + number.to_bytes(2, "big") + b"\0\1\0\0\0\1" + len(octets).to_bytes(2, "big") + octets
    message = wire.parse(header + query.octets[12:24] + record, query)
    with pytest.raises(wire.NotUnderstood):
        wire.read(message, query.name, kind)


def test_records_that_stand_twice_are_one() -> None:
    query = wire.make_query(wire.to_name("a.test"), "A")
    header = query.octets[:2] + bytes.fromhex("81800001000200000000")
    record = bytes.fromhex("c00c 0001 0001 80000000 0004 7f000001")
    reply = wire.read(wire.parse(header + query.octets[12:24] + record * 2, query), query.name, "A")
    assert [str(one) for one in reply.records] == ["127.0.0.1"]
    # RFC 2181 §8: a TTL with its highest bit set is 0
    assert reply.ttl_s == wire.MIN_TTL_S
