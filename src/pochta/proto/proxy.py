"""The PROXY protocol's header, versions 1 and 2: who the client behind a load balancer is.

Pure: bytes in, a `Header` out. Whoever reads must know that the peer is one of our proxies: the header is taken at its
word. Input that cannot become a header is refused at its first wrong byte where the format allows to see it, and no
more than `MAX_V2_BYTES` are ever waited for. Source: HAProxy's proxy-protocol.txt, §2.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError

MAX_V1_BYTES: Final = 107  # §2.1: the longest line, CRLF included
# §2.2: 16 and two addresses of 216 in all for the longest family make 232. TLVs follow; the long ones are the client's
# certificate (about 2 KiB) and identifiers of 128 bytes each.
MAX_V2_BYTES: Final = 4096

_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_TCP4 = re.compile(rb"PROXY TCP4 ([0-9.]{7,15}) ([0-9.]{7,15}) " + _PORT + b" " + _PORT + b"\r\n")
_TCP6 = re.compile(rb"PROXY TCP6 ([0-9A-Fa-f:]{2,39}) ([0-9A-Fa-f:]{2,39}) " + _PORT + b" " + _PORT + b"\r\n")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_LOCAL: Final = 0x20  # version 2 in the upper half
_PROXY: Final = 0x21
_TCP_OVER_IPV4: Final = 0x11
_TCP_OVER_IPV6: Final = 0x21


class Header(NamedTuple):
    """The client's address and the one it connected to, and how many bytes said so.

    `source_address` `""`: the proxy speaks for itself, or for something that has no such address; what is true of the
    connection itself holds then. IPv4 addresses that came as IPv6 are IPv4 again.
    """

    source_address: str
    source_port: int
    destination_address: str
    destination_port: int
    consumed: int


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with, None when it needs more; then all of `data` is part of the header.

    Raises:
        RemoteProtocolError: no header can come of this.
    """
    if data.startswith(_V1_START):
        return _parse_v1(data)
    if data.startswith(_V2_START):
        return _parse_v2(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise RemoteProtocolError("no PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    # §2.1: nothing but CRLF ends the line, within 107 bytes.
    end = data.find(b"\n", 0, MAX_V1_BYTES) + 1
    if not end:
        if len(data) >= MAX_V1_BYTES:
            raise RemoteProtocolError("PROXY line too long")
        return None
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return Header("", 0, "", 0, end)
    if match := _TCP4.fullmatch(line):
        kind: type[IPv4Address] | type[IPv6Address] = IPv4Address
    elif match := _TCP6.fullmatch(line):
        kind = IPv6Address
    else:
        raise RemoteProtocolError("bad PROXY line")
    source_port, destination_port = int(match[3]), int(match[4])
    if max(source_port, destination_port) > 0xFFFF:
        raise RemoteProtocolError("bad port in PROXY line")
    try:
        source, destination = kind(match[1].decode("ascii")), kind(match[2].decode("ascii"))
    except AddressValueError:
        raise RemoteProtocolError("bad address in PROXY line") from None
    return Header(_plain(source), source_port, _plain(destination), destination_port, end)


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    command, family = data[12], data[13]
    end = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    # §2.2: other versions, commands, families and transports are refused.
    if command not in (_LOCAL, _PROXY) or family >> 4 > 3 or family & 15 > 2:
        raise RemoteProtocolError("bad PROXY header")
    if end > MAX_V2_BYTES:
        raise RemoteProtocolError("PROXY header too long")
    if len(data) < end:
        return None
    # §2.2: LOCAL, UNSPEC and what we do not support: the block is skipped, the connection's own addresses hold.
    if command == _LOCAL or family not in (_TCP_OVER_IPV4, _TCP_OVER_IPV6):
        return Header("", 0, "", 0, end)
    width = 4 if family == _TCP_OVER_IPV4 else 16
    kind = IPv4Address if family == _TCP_OVER_IPV4 else IPv6Address
    block = data[_V2_FIXED_BYTES:end]
    if len(block) < 2 * width + 4:
        raise RemoteProtocolError("PROXY header too short for its addresses")
    ports = 2 * width
    # What follows the ports are TLVs, which nobody here asks for.
    return Header(
        _plain(kind(block[:width])),
        int.from_bytes(block[ports : ports + 2], "big"),
        _plain(kind(block[width:ports])),
        int.from_bytes(block[ports + 2 : ports + 4], "big"),
        end,
    )


def _plain(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
