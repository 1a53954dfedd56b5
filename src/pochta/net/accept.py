"""The ports that accept connections, and the counts that bound them.

Owns: a listening socket and the set of connections that came in by it, each until its task is over too. Refuses to know
any protocol; what a connection does is `net/connection.py`'s.

A peer counts from its first packet on. Where TLS is implicit that is before the handshake, of which the loop's own
server says nothing to anybody: such ports are accepted on here, and each handshake is a task of at most
HANDSHAKE_TIMEOUT_S.

Ports with `proxy_networks` are accepted on here, too. A peer from one of these networks is a load balancer that says
first for whom it speaks (`proto/proxy`): what it says is awaited for PROXY_TIMEOUT_S before anything else happens, also
before a handshake, and replaces the connection's addresses. Until then it counts in the total alone. Nobody else is
asked: a header from another address is an error of the port's own protocol.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from pochta import clock, log
from pochta.errors import RemoteProtocolError
from pochta.net.connection import HANDSHAKE_TIMEOUT_S, TLS_CLOSE_TIMEOUT_S, Connection, plain_address, report_bug
from pochta.net.listen import BACKLOG
from pochta.proto import proxy

ACCEPT_PAUSE_S: Final = 1.0  # without free descriptors, as asyncio's own server waits then
ACCEPTS_PER_STEP: Final = 32  # of about 50 µs each: a burst holds the loop under 2 ms (not measured)
PROXY_TIMEOUT_S: Final = 5.0  # the protocol asks for 3 at least, so that a lost packet can be sent again
RATE_WINDOW_S: Final = 60.0
RATE_SLICES: Final = 6
# Counts of the last minute, one for each address and slice, of about 150 bytes: 10 MB at most (not measured). Those
# beyond pass: so many at once are held by the total, and no count would tell the good ones.
MAX_RATED_NETS: Final = 65_536


class ConnectionLimits:
    """Counts open connections, in all and per address, and how many an address began of late; says which are too many.

    An address is an IPv4 address or an IPv6 /64, the smallest net a customer is given; loopback has no own limit,
    unless `counts_loopback`. `rate_per_minute` None: as often as they like.
    """

    __slots__ = ("_by_net", "_counts_loopback", "_rate", "open", "per_address", "total")

    def __init__(
        self, total: int, per_address: int, *, rate_per_minute: int | None = None, counts_loopback: bool = False
    ) -> None:
        self.total = total
        self.per_address = per_address
        self.open = 0
        self._by_net: dict[str | int, int] = {}
        self._rate = None if rate_per_minute is None else _Rate(rate_per_minute)
        self._counts_loopback = counts_loopback

    def admit(self, address: str) -> bool:
        """Count one more from this address, or return False and count nothing."""
        if self.open >= self.total:
            return False
        net = _net(address)
        count = self._by_net.get(net, 0)
        if self._counts_loopback or not _is_loopback(address):
            if count >= self.per_address:
                return False
            if self._rate is not None and not self._rate.admit(net, clock.monotonic_s()):
                return False
        self._by_net[net] = count + 1
        self.open += 1
        return True

    def release(self, address: str) -> None:
        """Count one less; once for each `admit` that returned True."""
        net = _net(address)
        left = self._by_net[net] - 1
        if left:
            self._by_net[net] = left
        else:
            del self._by_net[net]
        self.open -= 1

    def admit_unnamed(self) -> bool:
        """Count one more whose address is yet to be said, or return False; `release_unnamed` once it was."""
        if self.open >= self.total:
            return False
        self.open += 1
        return True

    def release_unnamed(self) -> None:
        """Undo `admit_unnamed`."""
        self.open -= 1


class _Rate:
    """How many connections each net began of late: at most `most` in any RATE_WINDOW_S.

    Counted by slices of time, the newest last; a whole slice is forgotten at once. Only those that were let in count,
    so that whoever keeps trying is let in at the rate.
    """

    __slots__ = ("_began_at", "_most", "_slices")

    def __init__(self, most: int) -> None:
        self._most = most
        self._began_at = 0.0  # the newest slice
        # One more than a window has: its first slice may reach into it.
        self._slices: deque[dict[str | int, int]] = deque([{}], maxlen=RATE_SLICES + 1)

    def admit(self, net: str | int, now_s: float) -> bool:
        """Count one more, or return False."""
        width = RATE_WINDOW_S / RATE_SLICES
        passed = int((now_s - self._began_at) // width)
        if passed > 0:
            self._slices.extend({} for _ in range(min(passed, RATE_SLICES + 1)))
            self._began_at += passed * width
        if sum(one.get(net, 0) for one in self._slices) >= self._most:
            return False
        newest = self._slices[-1]
        if net in newest or len(self) < MAX_RATED_NETS:
            newest[net] = newest.get(net, 0) + 1
        return True

    def __len__(self) -> int:
        return sum(map(len, self._slices))


def _net(address: str) -> str | int:
    return int(IPv6Address(address)) >> 64 if ":" in address else address


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


async def _read_header(accepted: socket.socket) -> proxy.Header:
    """The header that the proxy sends first; what it sends behind is left in the kernel for the connection.

    Raises: RemoteProtocolError when it is none, OSError when the proxy goes away.
    """
    loop = asyncio.get_running_loop()
    taken = b""
    while True:
        await _until_readable(loop, accepted)
        try:
            seen = accepted.recv(proxy.MAX_V2_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not seen:
            raise RemoteProtocolError("no PROXY header")
        header = proxy.parse(taken + seen)
        if header is not None:
            accepted.recv(header.consumed - len(taken))
            return header
        taken += accepted.recv(len(seen))  # all of it belongs to the header


async def _until_readable(loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(accepted, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(accepted)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Acceptor:
    """One listening socket on the running loop, and the connections that came in by it."""

    __slots__ = (
        "_all_gone",
        "_factory",
        "_handshakes",
        "_limits",
        "_listening",
        "_proxy_networks",
        "_server",
        "_shaking",
        "connections",
        "refusal_bytes",
        "tls",
    )

    def __init__(
        self,
        factory: Callable[[], Connection],
        limits: ConnectionLimits,
        *,
        tls: ssl.SSLContext | None = None,
        refusal: bytes = b"",
        proxy_networks: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        """`tls`: implicit TLS. `refusal`: said in the clear to one too many. `proxy_networks`: where proxies are."""
        self._proxy_networks = proxy_networks
        self._factory = factory
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None  # where the loop's own server is not enough
        self._handshakes: set[asyncio.Task[None]] = set()  # and waits for a proxy's word
        self._shaking: set[Connection] = set()  # counted, and not told of their peer yet
        self._all_gone: asyncio.Event | None = None
        self.tls = tls
        self.refusal_bytes = b"" if tls is not None else refusal  # before a handshake no peer could read it
        self.connections: set[Connection] = set()

    async def start(self, listening: socket.socket) -> None:
        """Accept on a bound, listening socket from now on; the acceptor closes it."""
        listening.setblocking(False)  # libuv accepts until EAGAIN, and would block the loop
        loop = asyncio.get_running_loop()
        if self.tls is not None or self._proxy_networks:
            self._listening = listening
            listening.listen(BACKLOG)  # an inherited one may have a shorter queue
            loop.add_reader(listening, self._accept)
            return
        # asyncio accepts `backlog` connections in one step, which would give a whole burst to one worker, ...
        self._server = await loop.create_server(self._make, sock=listening, backlog=ACCEPTS_PER_STEP)
        listening.listen(BACKLOG)  # ... and has made the kernel's queue as short: make it long again

    def _accept(self) -> None:
        listening = self._listening
        for _ in range(ACCEPTS_PER_STEP):
            if listening is None:
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # another worker was faster, or the peer has gone
            except OSError as error:
                self._pause(listening, error)
                return
            accepted.setblocking(False)
            peer = plain_address(address[0])
            is_proxy = self._is_proxy(peer)
            if not (self._limits.admit_unnamed() if is_proxy else self._limits.admit(peer)):
                self._refuse(accepted, peer)
                continue
            task = asyncio.get_running_loop().create_task(
                self._hear_proxy(accepted, peer) if is_proxy else self._open(accepted, peer)
            )
            self._handshakes.add(task)
            task.add_done_callback(self._handshake_over)

    def _is_proxy(self, peer: str) -> bool:
        if not self._proxy_networks:
            return False
        address = ip_address(peer)
        return any(address in network for network in self._proxy_networks)

    def _refuse(self, accepted: socket.socket, peer: str) -> None:
        log.event("conn.refused", peer=peer, open=self._limits.open)
        with suppress(OSError):  # it is gone
            accepted.send(self.refusal_bytes)  # the first bytes of all: they fit into the kernel's buffer
        accepted.close()

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """No descriptors or no memory: what waits in the kernel's queue would wake us again and again."""
        log.event("conn.accept.failed", error=error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(ACCEPT_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _handshake_over(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report_bug(error)
        self._tell_if_empty()

    async def _hear_proxy(self, accepted: socket.socket, peer: str) -> None:
        """Let the proxy `peer` say for whom it speaks, and open the connection for them."""
        header: proxy.Header | None = None
        try:
            async with asyncio.timeout(PROXY_TIMEOUT_S):
                header = await _read_header(accepted)
        except (OSError, RemoteProtocolError) as error:  # OSError covers resets and the TimeoutError
            log.event("conn.proxy.failed", peer=peer, error=str(error) or "no PROXY header in time")
        finally:
            self._limits.release_unnamed()
            if header is None:
                accepted.close()
        if header is None:
            return
        client = header.source_address or peer
        if not self._limits.admit(client):
            self._refuse(accepted, client)
            return
        await self._open(accepted, client, header if header.source_address else None)

    async def _open(self, accepted: socket.socket, peer: str, header: proxy.Header | None = None) -> None:
        """Make a connection of a socket whose peer is counted; where TLS is implicit, shake hands first."""
        made = self._make()
        if header is not None:
            made.use_addresses(header.source_address, header.source_port, header.destination_address)
        self._shaking.add(made)
        tls = self.tls
        try:
            # Not start_tls() in connection_made: uvloop starts to read behind it whatever was said there, so that the
            # ClientHello would be lost.
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: made,
                accepted,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=None if tls is None else TLS_CLOSE_TIMEOUT_S,
            )
        except (OSError, ssl.SSLError) as error:  # OSError covers resets and the handshake's TimeoutError
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            log.event("tls.failed", conn=made.id, peer=peer, error=reason or "connection lost")
        finally:
            if made in self._shaking:
                self._shaking.discard(made)
                self._limits.release(peer)

    def _make(self) -> Connection:
        made = self._factory()
        made._acceptor = self
        return made

    def admit(self, connection: Connection) -> bool:
        """Count the connection, or log and refuse it."""
        if connection in self._shaking:
            self._shaking.discard(connection)
            self.connections.add(connection)
            return True
        if not self._limits.admit(connection.peer_address):
            log.event("conn.refused", conn=connection.id, peer=connection.peer_address, open=self._limits.open)
            connection._acceptor = None
            return False
        self.connections.add(connection)
        return True

    def release(self, connection: Connection) -> None:
        """The peer is gone: it counts no more. Its task may still be cleaning up."""
        if connection in self.connections:
            self._limits.release(connection.peer_address)

    def forget(self, connection: Connection) -> None:
        """The connection and its task are over."""
        self.connections.discard(connection)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if not self.connections and not self._handshakes and self._all_gone is not None:
            self._all_gone.set()

    def close(self) -> None:
        """Accept no more, end handshakes; open connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for task in tuple(self._handshakes):
            task.cancel()

    async def wait_empty(self) -> None:
        """Return when no connection is open, no handshake under way and no task is running; set your own time limit."""
        while self.connections or self._handshakes:
            self._all_gone = asyncio.Event()
            await self._all_gone.wait()

    def abort_all(self) -> None:
        """Drop every open connection."""
        for connection in list(self.connections):
            connection.abort()
