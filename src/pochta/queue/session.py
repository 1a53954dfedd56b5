"""One open SMTP connection to one host: opened with as much TLS as was asked for, then message after message.

Decides: when to try again without TLS or with HELO, when a password may go out, how long to wait, when a server is too
slow. Refuses to know which host is asked, what becomes of a recipient, and when to come again.

Time. Each reply and each block of a message has its own time to come (`ClientLimits`, RFC 5321 §4.5.3.2), counted from
the reply or block before it: octets that make no whole reply gain a server nothing, so one that dribbles is cut like
one that is silent. Opening has a time in all, and so has each transaction (`SessionLimits`).

One task owns a session. Cancelled in the middle of anything, the session aborts its connection: no message is ever
ended that was not sent to its end.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Self, TypeVar

from pochta.errors import LocalProtocolError, PochtaError
from pochta.log import Secret
from pochta.net.dial import DialError, Stream, TlsFailed, client_context, dial
from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.auth import MECHANISMS
from pochta.proto.smtp.client.engine import MAX_WHOLE_BYTES, SmtpClient
from pochta.proto.smtp.client.envelope import Envelope
from pochta.proto.smtp.client.events import Event, Lost, LostReason, Sent
from pochta.proto.smtp.client.extensions import Extensions
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.proto.smtp.replies import Reply

BLOCK_BYTES: Final = 64 * 1024  # of a message at a time; INV-7

E = TypeVar("E", bound=Event)


class TlsMode(Enum):
    """How much TLS a connection must have."""

    NEVER = "never"
    OPPORTUNISTIC = "opportunistic"  # any certificate; in the clear when it does not work
    REQUIRED_ANY = "required_any"  # encrypted, to whoever answers
    REQUIRED_VERIFIED = "required_verified"  # a certificate that names the host, by a CA that is trusted

    @property
    def is_required(self) -> bool:
        """Whether nothing may go in the clear."""
        return self is TlsMode.REQUIRED_ANY or self is TlsMode.REQUIRED_VERIFIED


class Stage(StrEnum):
    """Where a session failed."""

    CONNECT = "connect"
    GREETING = "greeting"
    HELLO = "hello"
    TLS = "tls"
    AUTH = "auth"
    TRANSACTION = "transaction"


class SessionError(PochtaError):
    """A session could not be opened, or is gone. `str(error)` is fit for a report and the log.

    `reason`: of a connection that was lost. `is_permanent`: the server said so (5xx). Of a transaction: `recipients`,
    what had been decided over each, None where nothing; `is_in_doubt`: the server may have taken the message for them.
    """

    def __init__(
        self,
        stage: Stage,
        text: str,
        *,
        reply: Reply | None = None,
        reason: LostReason | None = None,
        recipients: tuple[Reply | None, ...] = (),
        is_in_doubt: bool = False,
    ) -> None:
        super().__init__(text)
        self.stage = stage
        self.text = text
        self.reply = reply
        self.reason = reason
        self.recipients = recipients
        self.is_in_doubt = is_in_doubt

    @property
    def is_permanent(self) -> bool:
        """Whether the server says that coming again is of no use."""
        return self.reply is not None and self.reply.code >= 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Bounds of one session, in seconds; see the module's "Time"."""

    client: ClientLimits = field(default_factory=ClientLimits)
    connect_timeout_s: float = 30.0  # Postfix' smtp_connect_timeout; the kernel's own would be two minutes
    tls_timeout_s: float = 30.0  # as net.connection.HANDSHAKE_TIMEOUT_S
    open_timeout_s: float = 900.0  # greeting, hello and STARTTLS at their limits, all attempts together
    # Of a transaction in all: MAIL, RCPT, DATA and the end at their limits are 1320 s; and what its size allows for.
    transaction_timeout_s: float = 1800.0
    recipient_timeout_s: float = 2.0  # for each: without PIPELINING it takes a round trip, and servers look it up
    min_bytes_per_s: int = 4096  # 50 MiB in 3.5 hours; a modem is faster


_LOST_TEXT: Final = {
    LostReason.CLOSED: "the server closed the connection",
    LostReason.SHUTTING_DOWN: "the server is not available",
    LostReason.REFUSED: "the server refused us",
    LostReason.GARBAGE: "the server's answer was not SMTP",
    LostReason.UNSOLICITED: "the server answered before it was asked",
    LostReason.OUT_OF_ORDER: "the server gave an impossible answer",
    LostReason.TIMED_OUT: "the server took too long",
    LostReason.EARLY: "the server refused the message before its end",
}


class _TryInClear(PochtaError):
    """TLS does not work with this server."""


class _TryHelo(PochtaError):
    """The server went away at EHLO."""


@dataclass(slots=True, kw_only=True)
class _Plan:
    """How to open; changed by what failed."""

    host: str
    address: str
    port: int
    hello_name: str
    tls: TlsMode
    credentials: tuple[str, Secret] | None
    source_address: str | None
    limits: SessionLimits
    ca_file: str | None
    is_implicit_tls: bool
    is_lmtp: bool
    uses_chunking: bool
    uses_tls: bool
    says_helo: bool = False


class Session:
    """One connection that transactions go over, one after the other; made by `open`."""

    __slots__ = ("_engine", "_limits", "_sent", "_stream", "address", "host")

    def __init__(self, plan: _Plan, stream: Stream) -> None:
        self.host = plan.host
        self.address = plan.address
        self._limits = plan.limits
        self._stream = stream
        self._sent = 0
        self._engine = SmtpClient(
            plan.hello_name,
            limits=plan.limits.client,
            is_lmtp=plan.is_lmtp,
            says_helo=plan.says_helo,
            uses_chunking=plan.uses_chunking,
        )

    @classmethod
    async def open(
        cls,
        host: str,
        address: str,
        port: int,
        *,
        hello_name: str,
        tls: TlsMode,
        credentials: tuple[str, Secret] | None = None,
        source_address: str | None = None,
        limits: SessionLimits | None = None,
        ca_file: str | None = None,
        is_implicit_tls: bool = False,
        is_lmtp: bool = False,
        uses_chunking: bool = True,
    ) -> Self:
        """A session that is ready for its first transaction.

        `host` is the name that a certificate must have, `address` the IP address to connect to.
        Raises: SessionError.
        """
        limits = limits or SessionLimits()
        plan = _Plan(
            host=host,
            address=address,
            port=port,
            hello_name=hello_name,
            tls=tls,
            credentials=credentials,
            source_address=source_address,
            limits=limits,
            ca_file=ca_file,
            is_implicit_tls=is_implicit_tls,
            is_lmtp=is_lmtp,
            uses_chunking=uses_chunking,
            uses_tls=tls is not TlsMode.NEVER and not is_implicit_tls,
        )
        return await cls._open(plan)

    @classmethod
    async def _open(cls, plan: _Plan) -> Self:
        ends_at: float | None = None
        while True:
            stream = await _dial(plan)
            ends_at = ends_at or stream.time() + plan.limits.open_timeout_s
            session = cls(plan, stream)
            is_open = False
            try:
                await session._set_up(plan, ends_at)
                is_open = True
                return session
            # Each of the two is raised once at most.
            except _TryInClear:
                plan.uses_tls = False
            except _TryHelo:
                plan.says_helo = True
            finally:
                if not is_open:
                    stream.abort()

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._engine.extensions

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self._stream.is_secure

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` or the like; None in the clear."""
        return self._stream.tls_version

    @property
    def tls_cipher(self) -> str | None:
        """The name of the cipher suite; None in the clear."""
        return self._stream.tls_cipher

    @property
    def transactions(self) -> int:
        """How many were begun."""
        return self._sent

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may be begun: not when the server has closed or said 421 meanwhile."""
        engine = self._engine
        if not engine.is_idle or self._stream.is_eof:
            return False
        if self._stream.has_input:
            # The answer to our RSET behind a transaction that failed, or the server's last words.
            engine.receive_data(self._stream.take())
            if engine.next_event() is not None:
                self._stream.abort()
                return False
        # RFC 9422 §4: the server's limit of transactions in a connection.
        mail_max = engine.extensions.mail_max
        return mail_max is None or self._sent < mail_max

    async def send(self, envelope: Envelope, body_size: int, body: bytes | AsyncIterator[bytes]) -> Sent:
        """Send one message and tell every recipient's fate. `body_size` must be exact.

        Raises:
            SessionError: the connection is gone, see its `recipients`.
            LocalProtocolError: the envelope cannot be sent to this server (`Envelope.missing`), or the body has another
                size; what the body's iterator raises comes through. Nobody gets the message then.
        """
        # RFC 8689 §4.2.1: never in the clear. That the certificate was verified is the caller's to see to.
        if envelope.requires_tls and not self.is_secure:
            raise LocalProtocolError("REQUIRETLS in the clear")
        limits = self._limits
        ends_at = self._stream.time() + limits.transaction_timeout_s + body_size / limits.min_bytes_per_s
        ends_at += len(envelope.recipients) * limits.recipient_timeout_s
        if body_size <= MAX_WHOLE_BYTES:
            whole = body if isinstance(body, bytes) else b"".join([block async for block in body])
            feed = None
        else:
            whole = None
            feed = _Feed(_blocks(body) if isinstance(body, bytes) else body, body_size)
        if whole is not None and len(whole) != body_size:
            raise LocalProtocolError("a body of another size")
        # Raises before anything has left: the session stays usable.
        self._engine.send(envelope, size_bytes=body_size, body=whole)
        self._sent += 1
        is_over = False
        try:
            event = await self._next_event(ends_at, feed)
            is_over = not isinstance(event, Lost)
        finally:
            if not is_over:
                self._stream.abort()
        return self._expected(event, Sent, Stage.TRANSACTION)

    async def close(self) -> None:
        """Say goodbye, wait a moment for the answer, close."""
        is_over = False
        try:
            if self._engine.is_idle and not self._stream.is_eof:
                self._engine.quit()
                await self._next_event(self._stream.time() + self._limits.client.quit_timeout_s)
                is_over = True
        finally:
            if is_over:
                self._stream.close()
            else:
                self._stream.abort()

    async def _set_up(self, plan: _Plan, ends_at: float) -> None:
        event = await self._next_event(ends_at)
        if isinstance(event, Lost) and self._may_say_helo(event, plan):
            raise _TryHelo
        stage = Stage.HELLO if self._engine.has_been_greeted else Stage.GREETING
        ready = self._expected(event, events.Ready, stage)
        if plan.uses_tls and ready.extensions.has_start_tls:
            await self._start_tls(plan, ends_at)
        if plan.tls.is_required and not self.is_secure:
            raise SessionError(Stage.TLS, "the server does not offer TLS")
        if plan.credentials is not None:
            await self._sign_in(plan, *plan.credentials, ends_at)

    def _may_say_helo(self, lost: Lost, plan: _Plan) -> bool:
        # RFC 5321 §3.2: servers that do not know EHLO are spoken to by HELO; some close at EHLO instead of saying so.
        # HELO cannot start TLS, nor sign in.
        is_gone = lost.reason in (LostReason.CLOSED, LostReason.SHUTTING_DOWN)
        may = not (plan.says_helo or plan.is_lmtp or plan.tls.is_required or plan.credentials)
        return is_gone and may and self._engine.has_been_greeted

    async def _start_tls(self, plan: _Plan, ends_at: float) -> None:
        self._engine.start_tls()
        event = await self._next_event(ends_at)
        if isinstance(event, events.TlsRefused):
            # RFC 3207 §4: 454 is a temporary failure; whether to go on in the clear is the client's choice.
            if plan.tls.is_required:
                raise SessionError(Stage.TLS, "the server refused to start TLS", reply=event.reply)
            return
        if isinstance(event, Lost):
            if plan.tls is TlsMode.OPPORTUNISTIC and event.reason is not LostReason.SHUTTING_DOWN:
                raise _TryInClear
            raise _lost(event, Stage.TLS)
        context = client_context(verifies=plan.tls is TlsMode.REQUIRED_VERIFIED, ca_file=plan.ca_file)
        timeout_s = plan.limits.tls_timeout_s
        try:
            await self._stream.start_tls(context, server_hostname=plan.host.rstrip("."), timeout_s=timeout_s)
        except TlsFailed as error:
            if plan.tls is TlsMode.OPPORTUNISTIC:
                raise _TryInClear from None
            raise SessionError(Stage.TLS, f"TLS failed: {error}") from None
        self._engine.start_tls_done()
        self._expected(await self._next_event(ends_at), events.Ready, Stage.HELLO)

    async def _sign_in(self, plan: _Plan, username: str, password: Secret, ends_at: float) -> None:
        # A password goes in the clear only where that was chosen.
        if not self.is_secure and plan.tls is not TlsMode.NEVER:
            raise SessionError(Stage.AUTH, "no sign-in without TLS")
        offered = [one for one in MECHANISMS if one in self.extensions.auth_mechanisms]
        if not offered:
            raise SessionError(Stage.AUTH, "the server offers no way to sign in that we know")
        self._engine.authenticate(offered[0], username, password.reveal())
        event = await self._next_event(ends_at)
        if isinstance(event, events.AuthRefused):
            raise SessionError(Stage.AUTH, "the server refused our sign-in", reply=event.reply)
        self._expected(event, events.SignedIn, Stage.AUTH)

    def _expected(self, event: Event, kind: type[E], stage: Stage) -> E:
        if isinstance(event, kind):
            return event
        if isinstance(event, Lost):
            raise _lost(event, stage)
        raise LocalProtocolError(f"an event out of order: {type(event).__name__}")

    async def _next_event(self, ends_at: float, feed: "_Feed | None" = None) -> Event:
        """The next event; `Lost` when it takes too long."""
        engine, stream = self._engine, self._stream
        blocks = 0
        seen: tuple[int, int] | None = None
        deadline = ends_at
        while True:
            event = engine.next_event()
            if data := engine.data_to_send():
                stream.write(data)
            if event is not None:
                return event
            wants_body = feed is not None and engine.wants_body
            if feed is not None and wants_body and stream.has_room:
                await feed.give(engine)
                blocks += 1
                await asyncio.sleep(0)  # a server as fast as we are would hold the loop for the whole message (INV-12)
                continue
            # Only a whole reply or block moves the deadline: octets alone are no progress.
            if seen != (progress := (engine.replies_seen, blocks)):
                seen = progress
                timeout_s = engine.timeout_s
                deadline = ends_at if timeout_s is None else min(ends_at, stream.time() + timeout_s)
            try:
                await stream.wait(deadline, for_room=wants_body)
            except TimeoutError:
                engine.give_up()
                continue
            if data := stream.take():
                engine.receive_data(data)
            if stream.is_eof and not stream.has_input:
                engine.receive_eof()


class _Feed:
    """A message given block by block, and counted."""

    __slots__ = ("_blocks", "_left")

    def __init__(self, blocks: AsyncIterator[bytes], size: int) -> None:
        self._blocks = blocks
        self._left = size

    async def give(self, engine: SmtpClient) -> None:
        """Give the engine the next block, or the end.

        Raises: LocalProtocolError when the message has another size: its end is never told then.
        """
        block = await anext(self._blocks, None)
        self._left -= 0 if block is None else len(block)
        if self._left < 0 or (block is None and self._left):
            raise LocalProtocolError("a body of another size")
        if block is None:
            engine.end_body()
        else:
            engine.send_body(block)


async def _blocks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), BLOCK_BYTES):
        yield body[start : start + BLOCK_BYTES]


async def _dial(plan: _Plan) -> Stream:
    context = None
    if plan.is_implicit_tls:
        context = client_context(verifies=plan.tls is TlsMode.REQUIRED_VERIFIED, ca_file=plan.ca_file)
    try:
        return await dial(
            plan.address,
            plan.port,
            timeout_s=plan.limits.connect_timeout_s,
            source_address=plan.source_address,
            tls=context,
            server_hostname=plan.host.rstrip("."),
        )
    except DialError as error:
        raise SessionError(Stage.CONNECT, str(error)) from None
    except TlsFailed as error:
        raise SessionError(Stage.TLS, f"TLS failed: {error}") from None


def _lost(lost: Lost, stage: Stage) -> SessionError:
    return SessionError(
        stage,
        _LOST_TEXT[lost.reason],
        reply=lost.reply,
        reason=lost.reason,
        recipients=lost.recipients,
        is_in_doubt=lost.is_in_doubt,
    )
