"""One POP3 connection: engine questions are answered, what was marked is removed before QUIT's reply.

Theory of operation. `on_data` feeds the engine, which answers by itself all that its frozen list knows; the first
question starts a task, which goes on with the rest of the input. Meanwhile new input waits in the engine, and reading
stops above HELD_INPUT_BYTES. Answers leave in one write when the input is used up, or past FLUSH_BYTES with a wait for
a slow peer (INV-5).

RFC 1939 §6: nothing is removed but by QUIT; a QUIT that was heard is carried out though its client is gone, for many
close without waiting for the answer. Those tasks are the context's (`updates`); the app waits for them.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pochta import clock, log
from pochta.accounts.auth import AuthenticatedAccount, Service
from pochta.accounts.sign_in import Channel, SignIns
from pochta.errors import Refusal, RemoteProtocolError, TryLater
from pochta.log import Secret
from pochta.net.connection import Connection
from pochta.proto.pop3 import events
from pochta.proto.pop3.server import Pop3Server
from pochta.servers.channel import channel_of
from pochta.servers.pace import Pace
from pochta.servers.pop3 import inbox as inboxes
from pochta.servers.pop3.inbox import Inbox
from pochta.servers.pop3.lock import ExclusiveLocks
from pochta.servers.pop3.retrieve import retrieve, top
from pochta.servers.refusal import pop3_answer
from pochta.servers.signed_in import SignedIn, Ticket
from pochta.store.store import Store

if TYPE_CHECKING:
    from pochta.accounts.exchanges import Exchange, Step

FLUSH_BYTES: Final = 64 * 1024  # INV-7: output above that waits for the peer
HELD_INPUT_BYTES: Final = 64 * 1024  # pipelined commands waiting: RETR of some 6000 messages
LOGIN_TIMEOUTS: Final = 5  # of `limits.login_timeout_s`, in all, as IMAP has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Context:
    """What all POP3 connections of a worker share. `locks` is None where sessions work side by side."""

    hostname: str
    store: Store
    sign_ins: SignIns
    signed_in: SignedIn
    connections: "set[Pop3Connection]"
    updates: set[asyncio.Task[Refusal | TryLater | None]]
    locks: ExclusiveLocks | None
    tls: ssl.SSLContext | None
    login_timeout_s: float
    idle_timeout_s: float
    auth_failures_max: int
    counters: dict[str, int]


class Pop3Connection(Connection):
    """An accepted POP3 connection."""

    __slots__ = (
        "_auth_failures",
        "_exchange",
        "_has_eof",
        "_inbox",
        "_is_pumping",
        "_is_signed_out",
        "_is_stopping",
        "_locked_account_id",
        "_login_until_s",
        "_seen_version",
        "_ticket",
        "address",
        "context",
        "engine",
    )

    def __init__(self, context: Pop3Context, *, offers_stls: bool, allows_plaintext_auth: bool) -> None:
        super().__init__()
        self.context = context
        self.engine = Pop3Server(
            context.hostname,
            can_start_tls=offers_stls,
            is_secure=False,
            allows_plaintext_auth=allows_plaintext_auth,
        )
        self.address = ""
        self._inbox: Inbox | None = None
        self._ticket: Ticket | None = None
        self._seen_version = -1  # of the store, when the sign-in was last known to hold
        self._locked_account_id = 0  # 0: this session holds no lock
        self._is_pumping = False
        self._is_stopping = False
        self._is_signed_out = False
        self._has_eof = False
        self._auth_failures = 0
        self._exchange: Exchange | None = None  # AUTH under way
        self._login_until_s = 0.0

    @property
    def channel(self) -> Channel:
        """The connection as it is now, to those who let people in."""
        return channel_of(self, Service.POP3, is_private=self.engine.may_sign_in)

    def on_connect(self) -> None:
        self.context.connections.add(self)
        self.context.counters["pop3_connections"] += 1
        self.engine.is_secure = self.is_secure
        self.engine.mechanisms = self.context.sign_ins.mechanisms(self.channel)
        self._login_until_s = clock.monotonic_s() + LOGIN_TIMEOUTS * self.context.login_timeout_s
        self._reset_deadline()
        log.event("pop3.connect", conn=self.id, peer=self.peer_address, tls=self.tls_version)
        self.engine.greet()
        self._send()

    def on_lost(self) -> None:
        self.context.connections.discard(self)
        if self._ticket is not None:
            self.context.signed_in.discard(self._ticket)
        if self._locked_account_id and self.context.locks is not None:
            self.context.locks.release(self._locked_account_id, self.end_session)
        log.event("pop3.disconnect", conn=self.id, account=self.address or None)

    def on_eof(self) -> None:
        # A peer that sends nothing more may still read: what it has asked for is answered first.
        self._has_eof = True
        if not self._is_pumping:
            self.close()

    def on_timeout(self) -> None:
        if self._is_pumping:
            self.set_deadline(self.context.idle_timeout_s)  # the peer waits for us, not we for it
            return
        # RFC 1939 §3: an autologout says nothing and removes nothing
        self.engine.shut_down()
        self.close()

    def on_crash(self) -> None:
        self._end("Internal error; it was logged", b"SYS/TEMP")

    def stop(self) -> None:
        """The server stops: the command under way is answered first."""
        self._is_stopping = True
        if not self._is_pumping:
            self._say_goodbye()

    def end_session(self) -> None:
        """The sign-in, or the exclusive lock, holds no more: say so, after the command under way."""
        self._is_signed_out = True
        if not self._is_pumping and not self.is_closing:
            self._say_signed_out()

    def _say_goodbye(self) -> None:
        self._end("The server is shutting down; come again in a moment", b"SYS/TEMP")

    def _say_signed_out(self) -> None:
        self._end("This session is over; sign in again", b"SYS/TEMP")

    def _end(self, text: str, code: bytes) -> None:
        self.engine.shut_down(text, code)
        self._send()

    def _reset_deadline(self) -> None:
        if self._inbox is not None:
            self.set_deadline(self.context.idle_timeout_s)
            return
        # DEVIATES RFC 1939 §3: a stranger is given `login_timeout_s`, not 10 minutes; clients sign in within seconds,
        # and silent connections would keep others out. One who says a little now and then has several times the limit.
        left_s = self._login_until_s - clock.monotonic_s()
        self.set_deadline(min(self.context.login_timeout_s, max(0.0, left_s)))

    def _send(self) -> None:
        data = self.engine.data_to_send()
        if data:
            self.write(data)
        if self.engine.is_closed:
            self.close()

    async def flush(self) -> None:
        """Send what has gathered and wait for a slow peer."""
        self._send()
        await self.drain()

    def on_data(self, data: bytes) -> None:
        self.engine.receive_data(data)
        if self._is_pumping:
            if self.engine.buffered_bytes > HELD_INPUT_BYTES:
                self.hold_input()
            return
        self._reset_deadline()
        if self._ticket is not None and self._seen_version != self.context.store.data_version():
            self._start(None)  # somebody has committed: the sign-in is looked at before anything is answered
            return
        event = self.engine.next_event()
        if event is not None:
            self._start(event)
        else:
            self._send()

    def _start(self, event: events.Event | None) -> None:
        self._is_pumping = True
        self.spawn(self._pump(event))

    async def _pump(self, event: events.Event | None) -> None:
        """Answer `event` and all input that waits behind it."""
        pace = Pace()
        try:
            while not await self._is_account_lost():
                if event is not None:
                    await self._answer(event)
                if self._is_stopping or self.is_closing or self.engine.is_closed:
                    break
                if self.engine.pending_bytes >= FLUSH_BYTES:
                    await self.flush()
                await pace.turn()
                event = self.engine.next_event()
                if event is None:
                    break
        finally:
            self._is_pumping = False
        self._send()
        if self.is_closing:
            return
        if self._is_signed_out:
            self._say_signed_out()
        elif self._is_stopping:
            self._say_goodbye()
        elif self._has_eof:
            self.close()
        else:
            self._reset_deadline()
            self.resume_input()

    async def _is_account_lost(self) -> bool:
        """Whether the account was removed, disabled or given another password since the sign-in."""
        if self._ticket is not None and not self._is_signed_out:
            version = self.context.store.data_version()
            if version != self._seen_version:
                self._is_signed_out = not await self.context.signed_in.is_current(self._ticket)
                self._seen_version = version
        return self._is_signed_out

    async def _answer(self, event: events.Event) -> None:
        if isinstance(event, events.Turn):
            await self.flush()
        elif isinstance(event, events.Credentials | events.Auth | events.AuthResponse):
            await self._sign_in(event)
        elif isinstance(event, events.StartTls):
            await self._start_tls()
        else:
            assert self._inbox is not None
            if isinstance(event, events.Retrieve):
                self.context.counters["pop3_retrieved"] += len(event.indexes)
                await retrieve(self, self._inbox, event)
            elif isinstance(event, events.Top):
                await top(self, self._inbox, event)
            else:
                await self._update(self._inbox)

    def refuse(self, error: Refusal | TryLater) -> None:
        """Answer the open question with a lawful "no"."""
        code, text = pop3_answer(error)
        if isinstance(error, Refusal) and error.detail:
            log.event("pop3.refused", conn=self.id, account=self.address or None, text=text, detail=error.detail)
        self.engine.refuse(text, code)

    async def _sign_in(self, event: events.Credentials | events.Auth | events.AuthResponse) -> None:
        exchange, self._exchange = self._exchange, None
        sign_ins = self.context.sign_ins
        try:
            if isinstance(event, events.Credentials):
                step: Step = await sign_ins.verify(event.username, Secret(event.password), self.channel)
            elif isinstance(event, events.Auth):
                exchange = sign_ins.begin(event.mechanism, self.channel)
                step = await exchange.step(event.initial_response)
            else:
                assert exchange is not None
                step = await exchange.step(event.data)
        except RemoteProtocolError as error:
            text = str(error)
            self.engine.reject(text[:1].upper() + text[1:])
        except (Refusal, TryLater) as error:
            self.refuse(error)
            self._count_auth_failure()
        else:
            if isinstance(step, bytes):
                self._exchange = exchange
                self.engine.challenge(step)
            else:
                await self._open(step)

    async def _open(self, account: AuthenticatedAccount) -> None:
        """Give the account its list of messages."""
        try:
            if self.context.locks is not None:
                await self.context.locks.acquire(account.account_id, self.end_session)
                self._locked_account_id = account.account_id
            inbox = await inboxes.load(self.context.store, account.account_id)
        except (Refusal, TryLater) as error:
            # RFC 1939 §4: the lock is given back before the answer
            locked, self._locked_account_id = self._locked_account_id, 0
            if locked:
                await self._release(locked)
            self.refuse(error)
            return
        self._signed_in(account, inbox)

    def _count_auth_failure(self) -> None:
        self._auth_failures += 1
        if self._auth_failures >= self.context.auth_failures_max:
            self._end("Too many failed sign-ins", b"AUTH")

    def _signed_in(self, account: AuthenticatedAccount, inbox: Inbox) -> None:
        self._inbox = inbox
        self.address = account.address
        self._ticket = self.context.signed_in.add(account, self)
        self.engine.accept_sign_in(inbox.maildrop)
        self.context.counters["logins"] += 1
        log.event(
            "pop3.login",
            conn=self.id,
            account=account.address,
            peer=self.peer_address,
            messages=len(inbox.maildrop),
        )

    async def _start_tls(self) -> None:
        assert self.context.tls is not None
        self.hold_input()
        self.engine.accept_tls()
        self._send()
        await self.start_tls(self.context.tls)
        dropped = self.engine.start_tls_done()
        self.engine.mechanisms = self.context.sign_ins.mechanisms(self.channel)
        if dropped:
            log.event("pop3.stls.injected", conn=self.id, peer=self.peer_address, dropped=dropped)

    async def _update(self, inbox: Inbox) -> None:
        """Answer QUIT."""
        locked, self._locked_account_id = self._locked_account_id, 0
        updating = asyncio.get_running_loop().create_task(self._carry_out(inbox, locked), name="pop3 update")
        self.context.updates.add(updating)
        updating.add_done_callback(self.context.updates.discard)
        error = await asyncio.shield(updating)
        if error is None:
            self.engine.accept_update()
        else:
            code, text = pop3_answer(error)
            # RFC 1939 §6: -ERR where some were not removed; the session ends all the same
            self.engine.refuse(f"Not all deleted messages were removed: {text}", code)

    async def _carry_out(self, inbox: Inbox, locked_account_id: int) -> Refusal | TryLater | None:
        """Remove and mark, then give the lock back; why not all was removed."""
        try:
            await inboxes.remove_deleted(self.context.store, inbox)
            await self._mark_retrieved(inbox)
        except (Refusal, TryLater) as error:
            log.event("pop3.update.failed", conn=self.id, account=self.address, reason=error)
            return error
        finally:
            if locked_account_id:
                await self._release(locked_account_id)
        return None

    async def _mark_retrieved(self, inbox: Inbox) -> None:
        try:
            await inboxes.mark_retrieved(self.context.store, inbox)
        except (Refusal, TryLater) as caught:
            # the client has asked for no flag: its QUIT is answered +OK
            log.event("pop3.update.failed", conn=self.id, account=self.address, reason=caught)

    async def _release(self, account_id: int) -> None:
        """Give the lock back; one that cannot be given back (a full disk) ends by itself."""
        assert self.context.locks is not None
        releasing = self.context.locks.release(account_id, self.end_session)
        if releasing is not None:
            with suppress(TryLater):
                await releasing
