"""The ports that accept connections, and the counts that bound them.

Owns: a listening socket and the set of connections that came in by it, each until its task is over too. Refuses to know
any protocol; what a connection does is `net/connection.py`'s.

A peer counts from its first packet on. Where TLS is implicit that is before the handshake, of which the loop's own
server says nothing to anybody: such ports are accepted on here, and each handshake is a task of at most
HANDSHAKE_TIMEOUT_S.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

from pochta import log
from pochta.net.connection import HANDSHAKE_TIMEOUT_S, TLS_CLOSE_TIMEOUT_S, Connection, plain_address, report_bug
from pochta.net.listen import BACKLOG

ACCEPT_PAUSE_S: Final = 1.0  # without free descriptors, as asyncio's own server waits then
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

    __slots__ = (
        "_all_gone",
        "_factory",
        "_handshakes",
        "_limits",
        "_listening",
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
    ) -> None:
        """`tls`: implicit TLS. `refusal`: said in the clear to one too many."""
        self._factory = factory
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None  # where TLS is implicit
        self._handshakes: set[asyncio.Task[None]] = set()
        self._shaking: set[Connection] = set()  # counted, and not told of their peer yet
        self._all_gone: asyncio.Event | None = None
        self.tls = tls
        self.refusal_bytes = b"" if tls is not None else refusal  # before a handshake no peer could read it
        self.connections: set[Connection] = set()

    async def start(self, listening: socket.socket) -> None:
        """Accept on a bound, listening socket from now on; the acceptor closes it."""
        listening.setblocking(False)  # libuv accepts until EAGAIN, and would block the loop
        loop = asyncio.get_running_loop()
        if self.tls is not None:
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
            if not self._limits.admit(peer):
                log.event("conn.refused", peer=peer, open=self._limits.open)
                accepted.close()  # before a handshake no peer could read a word
                continue
            task = asyncio.get_running_loop().create_task(self._shake_hands(accepted, peer))
            self._handshakes.add(task)
            task.add_done_callback(self._handshake_over)

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

    async def _shake_hands(self, accepted: socket.socket, peer: str) -> None:
        made = self._make()
        self._shaking.add(made)
        try:
            # Not start_tls() in connection_made: uvloop starts to read behind it whatever was said there, so that the
            # ClientHello would be lost.
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: made,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S,
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
