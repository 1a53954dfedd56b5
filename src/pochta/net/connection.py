"""One accepted connection of any protocol, by callbacks.

Theory of operation. `net/accept.py` makes a `Connection` for each peer. The connection calls its subclass:

    on_connect ─► (on_data │ on_eof │ on_timeout │ on_crash)* ─► on_lost

`on_connect` comes first (after the handshake where TLS is implicit), `on_lost` last and once; a connection that is
refused or whose first handshake fails calls neither. Input stops at once at `hold_input()`: bytes that the transport
had read already are kept (at most one read) and given to `on_data` after `resume_input()`.

Owns: the transport, one timer, one task. Refuses to know any protocol. Output is bounded: a task awaits `drain()`, and
while more than 64 KiB are unsent nothing more is read that hooks could answer. A peer that reads nothing for
`write_timeout_s` meanwhile is dropped.

Time is the loop's own clock, because that is what its timers compare with.
"""

import asyncio
import itertools
import os
import socket
import ssl
import traceback
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from pochta import log
from pochta.errors import LocalProtocolError, PochtaError
from pochta.net.tls import ServerContext, client_names

if TYPE_CHECKING:
    from pochta.net.accept import Acceptor

WRITE_HIGH_BYTES: Final = 64 * 1024  # INV-7: output ≤ 64 KiB, then drain
WRITE_LOW_BYTES: Final = 16 * 1024
DEFAULT_WRITE_TIMEOUT_S: Final = 120.0  # as limits.write_timeout_s
# A read this large fills the loop's buffer, and uvloop would read on, up to 32 times, before others have a turn.
LARGE_READ_BYTES: Final = 128 * 1024
CLOSE_TIMEOUT_S: Final = 30.0  # for the peer to take what was written before close()
HANDSHAKE_TIMEOUT_S: Final = (
    30.0  # two round trips and slow elliptic curves on old telephones; OpenSSL has no own limit
)
TLS_CLOSE_TIMEOUT_S: Final = 5.0  # few peers answer close_notify (RFC 8446 §6.1 lets them not)

_TRACE_FRAMES: Final = 6  # what fits into one field of the log; the hook gets the exception itself

_ids = itertools.count(1)


class ConnectionLost(PochtaError):
    """The peer is gone; whoever was writing to it stops. Nobody acts."""


def _ignore(_error: BaseException) -> None:
    return None


on_bug: Callable[[BaseException], None] = _ignore  # a test run sets this, and fails when it is called


def report_bug(error: BaseException, *, conn: int | None = None) -> None:
    """Log an exception that nothing expected as event `bug`, and tell `on_bug`."""
    frames = traceback.extract_tb(error.__traceback__)[-_TRACE_FRAMES:]
    at = " < ".join(f"{os.path.basename(one.filename)}:{one.lineno} {one.name}" for one in reversed(frames))
    log.event("bug", conn=conn, error=f"{type(error).__name__}: {error}", at=at)
    on_bug(error)


def number_connections(worker_index: int, workers: int) -> None:
    """From now on give ids that no other worker gives: `id % workers` is the worker's index."""
    global _ids
    _ids = itertools.count(worker_index + workers, workers)


def plain_address(host: str) -> str:
    """The address without what the dual stack (`::ffff:`) and the link (`%eth0`) add to it."""
    host = host.partition("%")[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host


class Connection(asyncio.Protocol):
    """Base of every served connection; subclasses fill the hooks and declare `__slots__`."""

    __slots__ = (
        "_acceptor",
        "_closing",
        "_deadline",
        "_drained",
        "_early",
        "_eof_seen",
        "_eof_told",
        "_held",
        "_in_handshake",
        "_is_announced",
        "_loop",
        "_lost",
        "_proxied",
        "_task",
        "_timer",
        "_transport",
        "_unheard_bytes",
        "_write_deadline",
        "_write_mark",
        "id",
        "is_secure",
        "local_address",
        "peer_address",
        "peer_port",
        "write_timeout_s",
    )

    def __init__(self) -> None:
        self.id = next(_ids)
        self.is_secure = False
        self.local_address = ""
        self.peer_address = ""
        self.peer_port = 0
        self.write_timeout_s = DEFAULT_WRITE_TIMEOUT_S
        self._acceptor: Acceptor | None = None
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport
        self._task: asyncio.Task[Any] | None = None  # Any: its result is nobody's
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._write_deadline: float | None = None
        self._write_mark = 0
        self._unheard_bytes = 0  # written since the loop last had a turn that we know of
        self._drained: asyncio.Future[None] | None = None
        self._early: bytes | None = None  # input that came while it was held
        self._eof_seen = False
        self._eof_told = False
        self._held = False
        self._in_handshake = False
        self._is_announced = False
        self._closing = False
        self._lost = False
        self._proxied: tuple[str, int, str] | None = None

    def on_connect(self) -> None:
        """The peer is there; greet it."""

    def on_data(self, data: bytes) -> None:
        """The peer sent `data` (not empty)."""

    def on_eof(self) -> None:
        """The peer sends nothing more. Without TLS it may still read: answer, then `close()`; with TLS it is gone."""
        self.close()

    def on_timeout(self) -> None:
        """The deadline passed; none is set now."""
        self.abort()

    def on_crash(self) -> None:
        """A bug of ours ended a hook or the task (it is logged already): tell the peer, then `close()`."""
        self.abort()

    def on_lost(self) -> None:
        """The connection is gone. The task is being cancelled, and its clean-up runs after this."""

    @property
    def is_closing(self) -> bool:
        """Whether nothing that is written now will reach the peer."""
        return self._closing or self._lost

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` or the like, for the Received field and the log; None in the clear."""
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.version()

    @property
    def tls_cipher(self) -> str | None:
        """The name of the cipher suite; None in the clear."""
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.cipher()[0]

    @property
    def client_names(self) -> tuple[str, ...]:
        """The mail addresses in the verified certificate of the peer; see `tls.client_names`."""
        return client_names(self._transport.get_extra_info("ssl_object"))

    @property
    def tls_end_point(self) -> bytes | None:
        """What stands for our certificate in channel bindings; None in the clear, or where nothing does."""
        tls = self._transport.get_extra_info("ssl_object")
        context = None if tls is None else tls.context
        return context.end_point if isinstance(context, ServerContext) else None

    def write(self, data: bytes) -> None:
        """Send `data` after what was written before; to a lost or closing connection: nothing."""
        if not (self._lost or self._closing):
            self._unheard_bytes += len(data)
            self._transport.write(data)

    async def drain(self) -> None:
        """Return when less than 64 KiB are unsent; however fast the peer reads, others get a turn after each 64 KiB.

        Raises: ConnectionLost when the peer is gone, or read nothing for `write_timeout_s`.
        """
        if self._lost:
            raise ConnectionLost
        if self._unheard_bytes >= WRITE_HIGH_BYTES:
            # A peer that takes everything would let us hold the loop for ever, and one that is gone too: the transport
            # takes writes after an error until the loop has told us of the loss in one of its next steps.
            self._unheard_bytes = 0
            await asyncio.sleep(0)
            if self._lost:
                raise ConnectionLost
        if self._write_deadline is None:
            return
        if self._drained is None:
            self._drained = self._loop.create_future()
        await asyncio.shield(self._drained)  # one future serves every waiter; a cancelled one must not end it

    def hold_input(self) -> None:
        """No `on_data` from now on; what the peer sends waits in the kernel."""
        if not self._held:
            self._held = True
            if not (self._lost or self._closing or self._eof_seen or self._in_handshake):
                self._transport.pause_reading()

    def resume_input(self) -> None:
        """Undo `hold_input`; kept input comes by `on_data` in a later step of the loop, never from in here."""
        if not self._held:
            return
        self._held = False
        if self._lost or self._in_handshake:
            return
        if self._early is not None or self._eof_seen != self._eof_told:
            self._loop.call_soon(self._deliver_early)
        if not (self._closing or self._eof_seen or self._write_deadline is not None):
            self._transport.resume_reading()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Turn the open connection into a TLS one, we being the server; afterwards `is_secure`.

        Call `hold_input()` in the step that saw the command, so that nothing sent in the clear behind it is taken for
        protected input (RFC 3207 §6, CVE-2011-0411); what was kept meanwhile is dropped here.
        Raises: ConnectionLost when the handshake fails (event `tls.failed`) or the peer goes away.
        """
        if self._lost or self._closing:
            raise ConnectionLost
        if self.is_secure or self._in_handshake:
            raise LocalProtocolError("TLS is active already")
        await self.drain()  # flow control changes hands below: a pause of the open connection would never end
        self._in_handshake = True
        self._early = None
        try:
            made = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S,
            )
        except (OSError, ssl.SSLError) as error:  # OSError covers resets and the handshake's TimeoutError
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            self._fail_handshake(reason)
            raise ConnectionLost from None
        except asyncio.CancelledError:
            self._fail_handshake("cancelled")
            raise
        if self._lost or made is None:  # asyncio returns None when the peer left in mid-handshake without an error
            self._fail_handshake("")
            raise ConnectionLost
        self._in_handshake = False
        self._transport = made
        self.is_secure = True
        log.event("tls.started", conn=self.id, tls=self.tls_version)
        made.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._held = False
        if self._early is not None or self._eof_seen != self._eof_told:
            # The peer's first command came with the end of its handshake; the caller learns first that TLS is up.
            self._loop.call_soon(self._deliver_early)

    def _fail_handshake(self, reason: str) -> None:
        log.event("tls.failed", conn=self.id, peer=self.peer_address, error=reason or "connection lost")
        self.abort()
        self.connection_lost(None)  # in mid-handshake the loop does not say so itself
        self._in_handshake = False

    def set_deadline(self, seconds: float | None) -> None:
        """Call `on_timeout` in `seconds` unless a later call moves it; None: never. Cheap enough for every command."""
        if seconds is None or self._lost or self._closing:
            self._deadline = None
            return
        self._deadline = deadline = self._loop.time() + seconds
        self._arm(deadline)

    def close(self) -> None:
        """Send what is written, then close; a peer that does not read it is dropped after `CLOSE_TIMEOUT_S`."""
        if self._lost or self._closing:
            return
        self._closing = True
        if (self._held or self._write_deadline is not None) and self.is_secure:
            self._transport.resume_reading()  # else the peer's close_notify would never be seen
        self._transport.close()
        self._deadline = None
        self._write_deadline = self._loop.time() + CLOSE_TIMEOUT_S
        self._write_mark = 0
        self._arm(self._write_deadline)

    def abort(self) -> None:
        """Close at once; what is unsent is lost."""
        self._closing = True
        if not self._lost:
            self._transport.abort()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as the connection's one task: cancelled at its loss; a bug in it ends in `on_crash`.

        Raises: LocalProtocolError when the one before is still running.
        """
        if self._task is not None and not self._task.done():
            work.close()
            raise LocalProtocolError("the connection has a task already")
        if self._lost:
            work.close()
            raise LocalProtocolError("the connection is lost")
        task = self._loop.create_task(work)
        self._task = task
        task.add_done_callback(self._task_done)
        return task

    @property
    def is_busy(self) -> bool:
        """Whether the task of `spawn` is running."""
        return self._task is not None

    def use_addresses(self, peer_address: str, peer_port: int, local_address: str) -> None:
        """Before the connection is made: the addresses that a proxy in front of us saw, in place of its own."""
        self._proxied = peer_address, peer_port, local_address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        if not peer:  # gone between accept and here
            self.abort()
            return
        if self._proxied is not None:
            self.peer_address, self.peer_port, self.local_address = self._proxied
        else:
            self.peer_address, self.peer_port = plain_address(peer[0]), peer[1]
            self.local_address = plain_address(transport.get_extra_info("sockname")[0])
        # asyncio sets it only where the listening socket was made with proto=IPPROTO_TCP, which inherited ones are not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self.is_secure = transport.get_extra_info("sslcontext") is not None
        acceptor = self._acceptor
        if acceptor is None:
            self._is_announced = True
            self._call(self.on_connect)
        elif not acceptor.admit(self):
            self._transport.write(acceptor.refusal_bytes)
            self.close()
        else:
            self._is_announced = True
            self._call(self.on_connect)

    def data_received(self, data: bytes) -> None:
        self._unheard_bytes = 0
        if self._closing:
            return
        if self._held or self._in_handshake or self._early is not None:
            self._early = data if self._early is None else self._early + data
        else:
            try:
                self.on_data(data)
            except Exception as error:  # noqa: BLE001 - the connection's top: bugs end here, logged
                self._crash(error)
            if len(data) >= LARGE_READ_BYTES and self._may_read:
                self._transport.pause_reading()
                self._loop.call_soon(self._read_on)

    @property
    def _may_read(self) -> bool:
        """Whether nothing but a turn for others keeps us from reading."""
        is_over = self._held or self._eof_seen or self._in_handshake or self._closing or self._lost
        return not is_over and self._write_deadline is None

    def _read_on(self) -> None:
        if self._may_read:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        # Plain TCP stays half open for our answer. TLS cannot: both loops close it, and warn when told otherwise.
        keep_open = not (self.is_secure or self._in_handshake)
        self._eof_seen = True
        if self._early is None:
            self._tell_eof()
        return keep_open and not self._closing

    def _tell_eof(self) -> None:
        if not (self._eof_told or self._held or self._in_handshake or self._closing or self._lost):
            self._eof_told = True
            self._call(self.on_eof)

    def _deliver_early(self) -> None:
        if self._held or self._in_handshake or self._lost:
            return
        early, self._early = self._early, None
        if early:
            self.data_received(early)
        if self._eof_seen:
            self._tell_eof()

    def pause_writing(self) -> None:
        if not self._closing:
            self._write_mark = self._transport.get_write_buffer_size()
            self._write_deadline = self._loop.time() + self.write_timeout_s
            self._arm(self._write_deadline)
            if not (self._held or self._eof_seen or self._in_handshake):
                # INV-7: answers given in `on_data` wait for nobody; a peer that sends and never reads is not heard.
                self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._closing:
            self._write_deadline = None
            if not (self._held or self._eof_seen or self._in_handshake or self._lost):
                self._transport.resume_reading()
        self._wake_drain(None)

    def _wake_drain(self, error: BaseException | None) -> None:
        waiting, self._drained = self._drained, None
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
            waiting.exception()  # marks it as seen: every waiter may have been cancelled

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._early = None
        self._deadline = self._write_deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_drain(ConnectionLost())
        # A handshake is ended by the loop, which tells why; cancelling it would hide that.
        if self._task is not None and not self._in_handshake:
            self._task.cancel()
        if self._is_announced:
            self._call(self.on_lost)
        if self._acceptor is not None:
            self._acceptor.release(self)
            self._leave()

    def _leave(self) -> None:
        if self._acceptor is not None and self._lost and self._task is None:
            self._acceptor.forget(self)

    def _call(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception as error:  # noqa: BLE001 - the connection's top: bugs end here, logged
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        report_bug(error, conn=self.id)
        if self._lost:
            return
        try:
            self.on_crash()
        except Exception as second:  # noqa: BLE001 - the last words failed too
            report_bug(second, conn=self.id)
            self.abort()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionLost):
            self._crash(error)
        self._leave()

    def _arm(self, deadline: float) -> None:
        """Have the timer run at `deadline` or before it: one timer that is moved only when it would come too late."""
        timer = self._timer
        if timer is not None:
            if timer.when() <= deadline:
                return
            timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._lost:
            return
        now = self._loop.time()
        if self._write_deadline is not None and now >= self._write_deadline and self._is_stuck(now):
            log.event(
                "conn.stuck", conn=self.id, peer=self.peer_address, unsent=self._transport.get_write_buffer_size()
            )
            self.abort()
            return
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._call(self.on_timeout)
        ahead = [one for one in (self._deadline, self._write_deadline) if one is not None]
        if ahead and not self._lost:
            self._arm(min(ahead))

    def _is_stuck(self, now: float) -> bool:
        unsent = self._transport.get_write_buffer_size()
        if self._closing or unsent >= self._write_mark:
            return True
        self._write_mark = unsent  # the peer reads, slowly: it gets as long again
        self._write_deadline = now + self.write_timeout_s
        return False
