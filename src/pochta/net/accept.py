"""The ports that accept connections, and the counts that bound them.

Owns: a listening socket and the set of connections that came in by it, each until its task is over too. Refuses to know
any protocol; what a connection does is `net/connection.py`'s.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Final

from pochta import log
from pochta.net.connection import HANDSHAKE_TIMEOUT_S, TLS_CLOSE_TIMEOUT_S, Connection
from pochta.net.listen import BACKLOG

ACCEPTS_PER_STEP: Final = 32  # of about 50 µs each: a burst holds the loop under 2 ms (not measured)


class ConnectionLimits:
    """Counts open connections, in all and per address, and says which are too many.

    An address is an IPv4 address or an IPv6 /64, the smallest net a customer is given; loopback has no own limit.
    """

    __slots__ = ("_by_net", "open", "per_address", "total")

    def __init__(self, total: int, per_address: int) -> None:
        self.total = total
        self.per_address = per_address
        self.open = 0
        self._by_net: dict[str | int, int] = {}

    def admit(self, address: str) -> bool:
        """Count one more from this address, or return False and count nothing."""
        if self.open >= self.total:
            return False
        net = _net(address)
        count = self._by_net.get(net, 0)
        if count >= self.per_address and not _is_loopback(address):
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


def _net(address: str) -> str | int:
    return int(IPv6Address(address)) >> 64 if ":" in address else address


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


class Acceptor:
    """One listening socket on the running loop, and the connections that came in by it."""

    __slots__ = ("_all_gone", "_factory", "_limits", "_server", "connections", "refusal_bytes", "tls")

    def __init__(
        self,
        factory: Callable[[], Connection],
        limits: ConnectionLimits,
        *,
        tls: ssl.SSLContext | None = None,
        refusal: bytes = b"",
    ) -> None:
        """`tls`: implicit TLS. `refusal`: said in the clear to one too many."""
        self._factory = factory
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._all_gone: asyncio.Event | None = None
        self.tls = tls
        self.refusal_bytes = b"" if tls is not None else refusal  # before a handshake no peer could read it
        self.connections: set[Connection] = set()

    async def start(self, listening: socket.socket) -> None:
        """Accept on a bound, listening socket from now on; the acceptor closes it."""
        # The loop's own handshake: uvloop starts to read behind connection_made whatever was said there, so that a
        # start_tls() in it loses the ClientHello. The price: limits count a peer only after its handshake.
        tls: dict[str, Any] = {}  # Any: keyword arguments, which are refused without ssl
        if self.tls is not None:
            tls = {
                "ssl": self.tls,
                "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S,
                "ssl_shutdown_timeout": TLS_CLOSE_TIMEOUT_S,
            }
        listening.setblocking(False)  # libuv accepts until EAGAIN, and would block the loop
        loop = asyncio.get_running_loop()
        # asyncio accepts `backlog` connections in one step, which would give a whole burst to one worker, ...
        self._server = await loop.create_server(self._make, sock=listening, backlog=ACCEPTS_PER_STEP, **tls)
        listening.listen(BACKLOG)  # ... and has made the kernel's queue as short: make it long again

    def _make(self) -> Connection:
        made = self._factory()
        made._acceptor = self
        return made

    def admit(self, connection: Connection) -> bool:
        """Count the connection, or log and refuse it."""
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
        if not self.connections and self._all_gone is not None:
            self._all_gone.set()

    def close(self) -> None:
        """Accept no more; open connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def wait_empty(self) -> None:
        """Return when no connection is open and no task of one is running; set your own time limit."""
        while self.connections:
            self._all_gone = asyncio.Event()
            await self._all_gone.wait()

    def abort_all(self) -> None:
        """Drop every open connection."""
        for connection in list(self.connections):
            connection.abort()
