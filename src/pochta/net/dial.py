"""One outgoing connection: the only sockets that we open to others.

Theory of operation. `dial` connects to an IP address (names are the resolver's matter) and gives a `Stream`. One task
owns it: it writes, waits until there is something new (`wait`), and takes what has come (`take`). Input is bounded:
above `INPUT_HIGH_BYTES` not taken the transport is paused. Output is bounded by its owner, who writes more only while
`has_room`. Every wait has a deadline on the loop's own clock, because that is what its timers compare with; one timer
serves them all, and is moved only when it would come too late.

Refuses to know any protocol, and whether a certificate should be verified.
"""

import asyncio
import functools
import os
import re
import socket
import ssl
from ipaddress import ip_address
from typing import Final, cast

from pochta.errors import LocalProtocolError, PochtaError, SetupError

INPUT_HIGH_BYTES: Final = 64 * 1024  # INV-7; and what one read brings on top, 256 KiB at most
WRITE_HIGH_BYTES: Final = 64 * 1024  # INV-7: output ≤ 64 KiB, then wait
WRITE_LOW_BYTES: Final = 16 * 1024
CLOSE_TIMEOUT_S: Final = 5.0  # for the peer to take the last bytes: a goodbye at most
TLS_CLOSE_TIMEOUT_S: Final = 5.0  # few peers answer close_notify (RFC 8446 §6.1 lets them not)

# What a context takes as a host's name, or at least does not choke on: it would do so inside the loop, where nobody
# hears it, and names of hosts come from others' zones. RFC 1035 §2.3.4: labels of 63 octets at most.
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*")


class DialError(PochtaError):
    """There is no connection; `str(error)` is why, in words fit for a report."""


class TlsFailed(PochtaError):
    """The handshake failed, or the certificate was not good enough; the connection is gone. `str(error)` is why."""


class Stream(asyncio.Protocol):
    """One connection; see the module's theory of operation."""

    __slots__ = (
        "_close_timer",
        "_deadline",
        "_has_room",
        "_in_handshake",
        "_input",
        "_is_paused",
        "_is_waiting_for_room",
        "_loop",
        "_timer",
        "_transport",
        "_waiter",
        "is_eof",
        "is_lost",
        "is_secure",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._input = b""
        self._is_paused = False
        self._has_room = True
        self._is_waiting_for_room = False
        self._in_handshake = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self.is_eof = False  # nothing more will come; what came before may not have been taken yet
        self.is_lost = False
        self.is_secure = False

    @property
    def has_input(self) -> bool:
        """Whether `take` would give anything."""
        return bool(self._input)

    @property
    def has_room(self) -> bool:
        """Whether less than `WRITE_HIGH_BYTES` wait to be sent."""
        return self._has_room

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` or the like; None in the clear."""
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.version()

    @property
    def tls_cipher(self) -> str | None:
        """The name of the cipher suite; None in the clear."""
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.cipher()[0]

    def time(self) -> float:
        """Now, on the clock of the deadlines."""
        return self._loop.time()

    def write(self, data: bytes) -> None:
        """Send `data`; to a lost connection: nothing."""
        if not self.is_lost:
            self._transport.write(data)

    def take(self) -> bytes:
        """All that has come and was not taken, perhaps nothing."""
        data, self._input = self._input, b""
        if self._is_paused:
            self._is_paused = False
            if not (self.is_lost or self.is_eof or self._in_handshake):
                self._transport.resume_reading()
        return data

    async def wait(self, deadline: float, *, for_room: bool = False) -> None:
        """Return when there is input, the end of it, or (`for_room`) room to write; perhaps for nothing.

        Raises: TimeoutError at `deadline`, on the clock of `time`.
        """
        if self._input or self.is_eof or (for_room and self._has_room):
            return
        if self._waiter is not None:
            raise LocalProtocolError("a stream has one owner")
        self._waiter = waiter = self._loop.create_future()
        self._is_waiting_for_room = for_room
        self._deadline = deadline
        self._arm()
        try:
            await waiter
        finally:
            self._waiter = None

    async def drain(self, deadline: float) -> None:
        """Return when there is room to write, or nobody to write to. Raises: TimeoutError at `deadline`."""
        while not (self._has_room or self.is_lost):
            if self._input or self.is_eof:
                return
            await self.wait(deadline, for_room=True)

    async def read(self, deadline: float) -> bytes:
        """What comes next, `b""` at the end. Raises: TimeoutError at `deadline`."""
        while not (self._input or self.is_eof):
            await self.wait(deadline)
        return self.take()

    async def start_tls(self, context: ssl.SSLContext, *, server_hostname: str, timeout_s: float) -> None:
        """Turn the open connection into a TLS one, we being the client; afterwards `is_secure`.

        What came in the clear and was not taken is dropped (RFC 3207 §6).
        Raises: TlsFailed; the connection is no good after it.
        """
        if self.is_lost or self.is_eof:
            raise TlsFailed("connection closed")
        _check_host_name(server_hostname)
        self._in_handshake = True
        self._input = b""
        try:
            made = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S,
            )
        except (OSError, ssl.SSLError) as error:  # OSError covers resets and the handshake's TimeoutError
            self._end_handshake()
            raise TlsFailed(_tls_reason(error)) from None
        except BaseException:
            self._end_handshake()
            raise
        if self.is_lost or made is None:  # asyncio returns None when the peer left without an error
            self._end_handshake()
            raise TlsFailed("connection closed")
        self._in_handshake = self._is_paused = False
        self._transport = made
        self._has_room = True
        self.is_secure = True
        self._input = b""  # nobody was asked anything yet
        made.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def _end_handshake(self) -> None:
        self.abort()
        self.connection_lost(None)  # in mid-handshake the loop does not say so itself
        self._in_handshake = False

    def close(self) -> None:
        """Send what is written, then close; a peer that does not take it is dropped after `CLOSE_TIMEOUT_S`."""
        if self.is_lost or self._close_timer is not None:
            return
        self._close_timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what is unsent is lost."""
        if not self.is_lost:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)
        made.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self.is_secure = made.get_extra_info("sslcontext") is not None

    def data_received(self, data: bytes) -> None:
        if self._in_handshake:
            return
        self._input = self._input + data if self._input else data
        if len(self._input) >= INPUT_HIGH_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        # A server that sends nothing more can answer nothing more: no half-open connection is of use.
        self.is_eof = True
        self._wake()
        return False

    def pause_writing(self) -> None:
        self._has_room = False

    def resume_writing(self) -> None:
        self._has_room = True
        if self._is_waiting_for_room:
            self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.is_lost:
            return
        self.is_lost = self.is_eof = True
        for timer in (self._timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _arm(self) -> None:
        timer = self._timer
        if timer is not None:
            if timer.when() <= self._deadline:
                return
            timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() >= self._deadline:
            self._waiter.set_exception(TimeoutError())
        else:
            self._arm()


async def dial(
    address: str,
    port: int,
    *,
    timeout_s: float,
    source_address: str | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Stream:
    """A connection to `address`, an IP address; with `tls` after its handshake, which has as long again.

    Raises: DialError, TlsFailed.
    """
    if not _is_ip(address):
        raise LocalProtocolError("an address to dial is an IP address")
    if tls is not None:
        _check_host_name(server_hostname or "")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s if tls is None else 2 * timeout_s):
            _, stream = await loop.create_connection(
                Stream,
                address,
                port,
                local_addr=None if source_address is None else (source_address, 0),
                ssl=tls,
                server_hostname=server_hostname if tls is not None else None,
                ssl_handshake_timeout=timeout_s if tls is not None else None,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S if tls is not None else None,
            )
    except ssl.SSLError as error:
        raise TlsFailed(_tls_reason(error)) from None
    except TimeoutError:
        raise DialError("connection timed out") from None
    except OSError as error:
        # In our words: the loops put addresses into theirs.
        raise DialError(os.strerror(error.errno).lower() if error.errno else "connection failed") from None
    return stream


@functools.lru_cache(maxsize=8)
def client_context(*, verifies: bool, ca_file: str | None = None) -> ssl.SSLContext:
    """A client's context, made once: 30 ms for the system's certificates. TLS 1.2 and above.

    `verifies`: the certificate must lead to a CA of the system (or of `ca_file` alone) and name the host. Otherwise any
    certificate does. Raises: SetupError when `ca_file` cannot be used.
    """
    if verifies:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError:
            raise SetupError(f"{ca_file}: no certificates in PEM can be read from it; check path and content") from None
    # RFC 7435 §3: encryption to whoever answers is better than none. Verifying would make the mail go in the clear.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # RFC 8996 §4, §5: TLS 1.0 and 1.1 are not negotiated.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check_host_name(name: str) -> None:
    if not _HOST_NAME.fullmatch(name) and not _is_ip(name):
        raise TlsFailed("the host's name cannot be asked for")


def _tls_reason(error: OSError) -> str:
    """Why a handshake failed, in a few words: never a path or an address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}".rstrip(" .")
    if isinstance(error, ssl.SSLError):
        return (error.reason or "handshake failed").replace("_", " ").lower()
    return "handshake timed out" if isinstance(error, TimeoutError) else "connection closed"
