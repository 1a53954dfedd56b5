"""The PROXY protocol's header: what is taken, what is refused, when more is awaited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.proxy import MAX_V1_BYTES, MAX_V2_BYTES, Header, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big")
V6 = (
    bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000002")
    + (40000).to_bytes(2, "big")
    + (465).to_bytes(2, "big")
)
MAPPED = bytes.fromhex("00000000000000000000ffffc000020100000000000000000000ffffc6336402") + V4[8:]


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


TLVS = b"\x04\x00\x05zeros" + b"\x05\x00\x80" + b"i" * 128
OUR_OWN = Header("", 0, "", 0, 0)
TAKEN = [
    pytest.param(
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 25\r\n", Header("192.0.2.1", 40000, "198.51.100.2", 25, 0), id="TCP4"
    ),
    pytest.param(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        Header("255.255.255.255", 65535, "255.255.255.255", 65535, 0),
        id="longest TCP4",
    ),
    pytest.param(
        b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 0 465\r\n",
        Header("2001:db8::1", 0, "2001:db8::2", 465, 0),
        id="TCP6",
    ),
    pytest.param(
        b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
        Header(":".join(["ffff"] * 8), 65535, ":".join(["ffff"] * 8), 65535, 0),
        id="longest TCP6",
    ),
    pytest.param(
        b"PROXY TCP6 ::ffff:c000:201 ::ffff:c633:6402 1 2\r\n",
        Header("192.0.2.1", 1, "198.51.100.2", 2, 0),
        id="TCP6 mapped",
    ),
    pytest.param(b"PROXY UNKNOWN\r\n", OUR_OWN, id="UNKNOWN"),
    pytest.param(b"PROXY UNKNOWN ffff::1 what ever\0\xff\r\n", OUR_OWN, id="UNKNOWN with anything"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", OUR_OWN, id="longest UNKNOWN"),
    pytest.param(v2(0x21, 0x11, V4), Header("192.0.2.1", 40000, "198.51.100.2", 25, 0), id="v2 TCP4"),
    pytest.param(v2(0x21, 0x21, V6), Header("2001:db8::1", 40000, "2001:db8::2", 465, 0), id="v2 TCP6"),
    pytest.param(v2(0x21, 0x21, MAPPED), Header("192.0.2.1", 40000, "198.51.100.2", 25, 0), id="v2 mapped"),
    pytest.param(v2(0x21, 0x11, V4 + TLVS), Header("192.0.2.1", 40000, "198.51.100.2", 25, 0), id="v2 TLVs"),
    pytest.param(v2(0x20, 0x00, b""), OUR_OWN, id="v2 LOCAL"),
    pytest.param(v2(0x20, 0x11, V4 + TLVS), OUR_OWN, id="v2 LOCAL with addresses"),
    pytest.param(v2(0x21, 0x00, b""), OUR_OWN, id="v2 UNSPEC"),
    pytest.param(v2(0x21, 0x00, b"x" * 40), OUR_OWN, id="v2 UNSPEC with anything"),
    pytest.param(v2(0x21, 0x12, V4), OUR_OWN, id="v2 UDP"),
    pytest.param(v2(0x21, 0x31, b"/" * 216), OUR_OWN, id="v2 UNIX"),
    pytest.param(
        v2(0x21, 0x11, V4 + b"\0" * (MAX_V2_BYTES - 28)),
        Header("192.0.2.1", 40000, "198.51.100.2", 25, 0),
        id="v2 as long as may be",
    ),
]


@pytest.mark.parametrize(("data", "want"), TAKEN)
def test_what_is_taken(data: bytes, want: Header) -> None:
    want = want._replace(consumed=len(data))
    assert parse(data) == want
    assert parse(data + b"EHLO x\r\n") == want
    assert parse(data + data) == want


@pytest.mark.parametrize(("data", "want"), TAKEN)
def test_every_beginning_needs_more(data: bytes, want: Header) -> None:
    assert want
    for length in range(len(data)) if len(data) < 300 else (0, 1, 12, 15, 16, 28, len(data) - 1):
        assert parse(data[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO x\r\n", b"\x16\x03\x01", b"P ", b"PROXY\r\n", b"proxy TCP4", b"\r\n\r\n\0\r\nQUIT\r", b"\n", b"\0",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 25\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 40000 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 25 \r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 40000 25\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 40000 25\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.2 40000 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 040000 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 99999\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 25\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 25\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 25\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n",
        b"PROXY TCP6 1:2:3 ::1 1 25\r\n",
        b"PROXY TCP6 ::1::2 ::1 1 25\r\n",
        b"PROXY TCP6 12345::1 ::1 1 25\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 25\r\n",
        b"PROXY UNKNOWNX\r\n", b"PROXY UNKNOWN a\rb\r\n", b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY " + b"x" * (MAX_V1_BYTES - 6),
        v2(0x22, 0x11, V4), v2(0x11, 0x11, V4), v2(0x31, 0x11, V4), v2(0x21, 0x41, V4), v2(0x21, 0x13, V4),
        v2(0x20, 0x51, b""), v2(0x21, 0x11, V4[:-1]), v2(0x21, 0x21, V6[:-1]), v2(0x21, 0x11, b""),
        SIGNATURE + b"\x21\x11" + (MAX_V2_BYTES - 15).to_bytes(2, "big"),
        SIGNATURE + b"\x20\x00\xff\xff",
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(data)


def outcome(data: bytes) -> Header | str | None:
    try:
        return parse(data)
    except RemoteProtocolError:
        return "refused"


PIECES = st.sampled_from(
    [
        b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"192.0.2.1 ", b"::1 ", b"25 ", b"1", b"\r\n", SIGNATURE,
        b"\x21\x11\x00\x0c", b"\x20\x00\x00\x02", V4, b"x" * 50, b"\n", b"\r", b"EHLO x\r\n",
    ]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=150), st.lists(PIECES, max_size=9).map(b"".join)))
def test_more_bytes_never_change_what_was_decided(data: bytes) -> None:
    decided: Header | str | None = None
    for length in range(len(data) + 1):
        found = outcome(data[:length])
        if decided is not None:
            assert found == decided
        elif isinstance(found, Header):
            assert found.consumed == length
        decided = found


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=99))
def test_both_versions_say_the_same(source: object, destination: object, port: int, to: int, tlvs: bytes) -> None:
    text = parse(f"PROXY TCP4 {source} {destination} {port} {to}\r\n".encode())
    block = source.packed + destination.packed + port.to_bytes(2, "big") + to.to_bytes(2, "big")  # type: ignore[attr-defined]  # addresses have it
    binary = parse(v2(0x21, 0x11, block + tlvs))
    assert text is not None
    assert binary is not None
    assert text[:4] == binary[:4] == (str(source), port, str(destination), to)


def test_nothing_is_awaited_for_ever() -> None:
    for start in (b"PROXY ", SIGNATURE, b""):
        for filler in (b"x", b" ", b"\0", b"\x21", b"\r"):
            data = start + filler * (MAX_V2_BYTES + 1)
            assert outcome(data) is not None
