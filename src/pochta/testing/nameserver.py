"""A small name server on loopback, for tests of everything that asks DNS over the network.

    with Nameserver() as server:
        server.add_zone("a.test", "@ MX 10 mx\\nmx A 127.0.0.1\\n")
        server.fail("broken.a.test")
        resolver = DnsResolver([server.address])

UDP and TCP on one free port, in a thread of its own. It answers from its zones as a recursive server would: aliases are
followed through all zones, wildcards hold, "there is nothing" comes with an SOA record. Delegations are not known.
Everything may be changed while it runs, from any thread.
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
MAX_ALIASES: Final = 10
BIND_TRIES: Final = 20  # a free UDP port may be taken in TCP
PLAIN_PAYLOAD_BYTES: Final = 512  # RFC 1035 §2.3.4, without EDNS
DEFAULT_TTL_S: Final = 300
_SOA: Final = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 60"


def read_zone(origin: str, text_or_path: str | Path) -> dns.zone.Zone:
    """The zone of a zone file, or of the text of one; SOA, NS and TTL may be left out.

    Raises:
        dns.exception.DNSException: the text is no zone.
    """
    text = text_or_path.read_text(encoding="utf-8") if isinstance(text_or_path, Path) else text_or_path
    return dns.zone.from_text(
        f"$TTL {DEFAULT_TTL_S}\n{text}\n", origin=_name(origin), relativize=False, check_origin=False
    )


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text).canonicalize()


class Nameserver:
    """Start it by `with`, or by `start` and `stop`.

    Names outside its zones do not exist if `is_complete`, else they are refused.
    """

    def __init__(self, *, is_complete: bool = True) -> None:
        self._is_complete = is_complete
        self._lock = threading.Lock()
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}
        self._rcodes: dict[dns.name.Name, dns.rcode.Rcode] = {}
        self._dropped: set[dns.name.Name] = set()
        self._truncated: set[dns.name.Name] = set()
        self._authentic: set[dns.name.Name] = set()
        self._queries: list[tuple[str, str]] = []
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._problem: BaseException | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: no port is free.
        """
        self._thread = threading.Thread(target=self._run, name="nameserver", daemon=True)
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise TimeoutError("the name server did not start")
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def stop(self) -> None:
        """Close the port; what was asked stays in `queries`."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_TIMEOUT_S)
        self._thread = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return HOST, self._port

    @property
    def queries(self) -> list[tuple[str, str]]:
        """(name, kind) of all questions so far, names in lower case without the final dot."""
        with self._lock:
            return list(self._queries)

    def add_zone(self, origin: str, text_or_path: str | Path) -> None:
        """Answer for a zone: a zone file, or its text.

        Raises:
            ValueError: there is one already.
        """
        zone = read_zone(origin, text_or_path)
        with self._lock:
            if self._zones.setdefault(_name(origin), zone) is not zone:
                raise ValueError(f"zone {origin} is there already")

    def set_zone(self, origin: str, text_or_path: str | Path) -> None:
        """As `add_zone`, in the place of a zone that may be there."""
        zone = read_zone(origin, text_or_path)
        with self._lock:
            self._zones[_name(origin)] = zone

    def remove_zone(self, origin: str) -> None:
        """No longer answer for a zone."""
        with self._lock:
            del self._zones[_name(origin)]

    def fail(self, name: str, rcode: str = "SERVFAIL") -> None:
        """Answer questions for a name with an error."""
        with self._lock:
            self._rcodes[_name(name)] = dns.rcode.from_text(rcode)

    def drop(self, name: str) -> None:
        """Give no answer to questions for a name."""
        with self._lock:
            self._dropped.add(_name(name))

    def truncate(self, name: str) -> None:
        """Answer questions for a name over TCP only."""
        with self._lock:
            self._truncated.add(_name(name))

    def vouch(self, name: str) -> None:
        """Say of answers for a name that they are authentic (AD)."""
        with self._lock:
            self._authentic.add(_name(name))

    def recover(self, name: str) -> None:
        """Undo `fail`, `drop`, `truncate` and `vouch`."""
        with self._lock:
            self._rcodes.pop(_name(name), None)
            for names in (self._dropped, self._truncated, self._authentic):
                names.discard(_name(name))

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told by `start`, in the thread that can act on it
            self._problem = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        transport, tcp = await self._bind()
        self._started.set()
        try:
            await self._stopping.wait()
        finally:
            transport.close()
            tcp.close()

    async def _bind(self) -> tuple[asyncio.DatagramTransport, asyncio.Server]:
        loop = asyncio.get_running_loop()
        for tries_left in reversed(range(BIND_TRIES)):
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(HOST, 0))
            self._port = transport.get_extra_info("sockname")[1]
            try:
                return transport, await loop.create_server(lambda: _Tcp(self), HOST, self._port)
            except OSError:
                transport.close()
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def answer(self, octets: bytes, *, is_tcp: bool) -> bytes | None:
        """What goes back for a question; None for silence."""
        try:
            query = dns.message.from_wire(octets)
        except dns.exception.DNSException:
            return None
        if len(query.question) != 1:
            return None
        question = query.question[0]
        name = question.name.canonicalize()
        with self._lock:
            self._queries.append((name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)))
            if name in self._dropped:
                return None
            response = dns.message.make_response(query, recursion_available=True)
            if name in self._truncated and not is_tcp:
                response.flags |= dns.flags.TC
                return response.to_wire()
            self._fill(response, name, question.rdtype)
        limit = query.payload if query.edns >= 0 else PLAIN_PAYLOAD_BYTES
        try:
            return response.to_wire(max_size=65_535 if is_tcp else max(limit, PLAIN_PAYLOAD_BYTES))
        except dns.exception.TooBig:
            response.answer.clear()
            response.authority.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> None:
        """The answer's sections and code. The lock is held."""
        if name in self._rcodes:
            response.set_rcode(self._rcodes[name])
            return
        if name in self._authentic:
            response.flags |= dns.flags.AD
        for _ in range(MAX_ALIASES):
            zone = self._zone_of(name)
            if zone is None:
                response.set_rcode(dns.rcode.NXDOMAIN if self._is_complete else dns.rcode.REFUSED)
                if self._is_complete:
                    response.authority.append(_soa(dns.name.root, None))
                return
            node, alias = _find(zone, name)
            found = node.get_rdataset(dns.rdataclass.IN, kind) if node else None
            if found is not None:
                response.answer.append(_rrset(name, found))
                return
            if alias is not None:
                response.answer.append(_rrset(*alias))
                target = _through_dname(name, *alias)
                response.answer.append(dns.rrset.from_text(name, alias[1].ttl, "IN", "CNAME", target.to_text()))
                name = target
                continue
            aliases = node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.CNAME) if node else None
            if aliases is None:
                response.set_rcode(dns.rcode.NOERROR if node is not None else dns.rcode.NXDOMAIN)
                response.authority.append(_soa(zone.origin or dns.name.root, zone))
                return
            response.answer.append(_rrset(name, aliases))
            name = aliases[0].target.canonicalize()

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        for ancestor in _ancestors(name):
            if ancestor in self._zones:
                return self._zones[ancestor]
        return None


_EMPTY: Final = dns.node.Node()  # type: ignore[no-untyped-call]  # dnspython leaves its types out


def _find(
    zone: dns.zone.Zone, name: dns.name.Name
) -> tuple[dns.node.Node | None, tuple[dns.name.Name, dns.rdataset.Rdataset] | None]:
    """The node of a name, by its wildcard where it has none (RFC 4592); else the DNAME above it."""
    node = zone.get_node(name)
    if node is not None:
        return node, None
    if any(one.is_subdomain(name) for one in zone.nodes):
        return _EMPTY, None
    for ancestor in list(_ancestors(name))[1:]:
        above = zone.get_node(ancestor)
        dname = above.get_rdataset(dns.rdataclass.IN, dns.rdatatype.DNAME) if above else None
        if dname is not None:
            return None, (ancestor, dname)
        wildcard = zone.get_node(dns.name.Name((b"*", *ancestor.labels)))
        if wildcard is not None:
            return wildcard, None
        if above is not None or ancestor == zone.origin or any(one.is_subdomain(ancestor) for one in zone.nodes):
            return None, None
    return None, None


def _ancestors(name: dns.name.Name) -> Iterator[dns.name.Name]:
    """The name, its parent, and so on to the root."""
    for at in range(len(name.labels)):
        yield dns.name.Name(name.labels[at:])


def _through_dname(name: dns.name.Name, owner: dns.name.Name, dname: dns.rdataset.Rdataset) -> dns.name.Name:
    """RFC 6672 §2.2: the name with the owner's part replaced by the target."""
    target: dns.name.Name = dname[0].target
    return name.relativize(owner).concatenate(target).canonicalize()


def _rrset(name: dns.name.Name, rdataset: dns.rdataset.Rdataset) -> dns.rrset.RRset:
    rrset = dns.rrset.RRset(name, rdataset.rdclass, rdataset.rdtype)
    for rdata in rdataset:
        rrset.add(rdata, rdataset.ttl)
    return rrset


def _soa(origin: dns.name.Name, zone: dns.zone.Zone | None) -> dns.rrset.RRset:
    own = zone.get_rdataset(origin, dns.rdatatype.SOA) if zone else None
    return _rrset(origin, own) if own else dns.rrset.from_text(origin, DEFAULT_TTL_S, "IN", "SOA", _SOA)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: Nameserver) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transport of Python 3.11 is not declared as one
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, is_tcp=False)
        if answer is not None:
            self._transport.sendto(answer, addr)


class _Tcp(asyncio.Protocol):
    """RFC 1035 §4.2.2: each message with its length before it."""

    def __init__(self, server: Nameserver) -> None:
        self._server = server
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= 2:
            end = 2 + int.from_bytes(self._pending[:2], "big")
            if len(self._pending) < end:
                return
            answer = self._server.answer(self._pending[2:end], is_tcp=True)
            self._pending = self._pending[end:]
            if answer is not None:
                self._transport.write(len(answer).to_bytes(2, "big") + answer)
