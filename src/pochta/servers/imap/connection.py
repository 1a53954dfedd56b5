"""One IMAP connection: engine events become commands, one after the other; answers become few writes.

Theory of operation. `on_data` feeds the engine and handles, in the same turn of the loop, every command that needs no
wait. The first one that does starts a task, which goes on with the rest of the input; meanwhile new input waits in the
engine, and reading stops above HELD_INPUT_BYTES. Output gathers in a list and leaves in one write when the input is
used up, or past FLUSH_BYTES with a wait for a slow peer (INV-5: nothing of the store is held across that wait).
While IDLE or NOTIFY is on, hints of the store start the same task (`listening`).
"""

import ssl
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pochta import clock, log
from pochta.accounts.auth import AuthenticatedAccount, Service
from pochta.accounts.sign_in import Channel, SignIns
from pochta.delivery.intake import Intake
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.index.searcher import Searcher
from pochta.net.connection import Connection
from pochta.net.deflate import SLICE_BYTES, Deflate
from pochta.proto.address import address_key
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.events import (
    AppendStart,
    AuthResponse,
    BadCommand,
    CommandEvent,
    Event,
    Fatal,
    IdleDone,
)
from pochta.proto.imap.server import ImapServer
from pochta.servers.channel import channel_of
from pochta.servers.imap import capabilities, compress, signin, uidonly
from pochta.servers.imap.append import append
from pochta.servers.imap.coded import CodedRefusal
from pochta.servers.imap.fetch.arrived import Wanted
from pochta.servers.imap.listening import Listening
from pochta.servers.imap.modes import Modes
from pochta.servers.imap.notify.notify import NotifyState
from pochta.servers.imap.progress import Progress
from pochta.servers.imap.search.search import fill_in_saved
from pochta.servers.imap.selected import Selected
from pochta.servers.imap.table import HANDLERS, State
from pochta.servers.imap.views import Views
from pochta.servers.pace import Pace
from pochta.servers.refusal import imap_answer
from pochta.servers.signed_in import SignedIn, Ticket
from pochta.store.lane import on_caused
from pochta.store.store import Store

FLUSH_BYTES: Final = 64 * 1024  # INV-7: output above that waits for the peer
HELD_INPUT_BYTES: Final = 128 * 1024  # pipelined commands waiting for the one that runs
HELD_BEFORE_SIGN_IN_BYTES: Final = 8 * 1024  # INV-7: what a stranger says while we look at the password
NOOPS_A_TURN: Final = 4000  # 1 us each; a task gives the others their turn in between
LOGIN_TIMEOUTS: Final = 5  # of `limits.login_timeout_s`, in all: a person who types at a terminal needs two or three
BAD_COMMANDS_MAX: Final = (
    20  # then BYE: as many as Dovecot's imap_max_errors; a client that errs so often errs for ever
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapContext:
    """What all IMAP connections of a worker share."""

    hostname: str
    store: Store
    views: Views
    intake: Intake
    sign_ins: SignIns
    signed_in: SignedIn
    connections: "set[ImapConnection]"
    watching: "defaultdict[int, set[ImapConnection]]"  # by the accounts whose hints they are to hear
    tls: ssl.SSLContext | None
    message_size_bytes: int
    has_unauthenticate: bool = True  # RFC 8437 §8: may be turned off
    message_limit: int = 0  # messages one command may touch (RFC 9738); 0: as many as there are
    login_timeout_s: float
    idle_timeout_s: float
    auth_failures_max: int
    counters: dict[str, int]
    administrators: frozenset[tuple[str, str]] = frozenset()  # keys of addresses
    administrator_uri: str = "mailto:postmaster"  # how a user reaches one
    index: Searcher | None = None  # the text index; without one SEARCH reads the messages


class ImapConnection(Connection):
    """An accepted IMAP connection."""

    __slots__ = (
        "_auth_failures",
        "_bad_commands",
        "_has_eof",
        "_is_pumping",
        "_is_signed_out",
        "_is_stopping",
        "_login_until_s",
        "_out",
        "_out_bytes",
        "_ticket",
        "account_id",
        "address",
        "appending",
        "context",
        "deflate",
        "engine",
        "is_plaintext_auth_allowed",
        "listening",
        "modes",
        "notify",
        "progress",
        "sasl",
        "selected",
        "starttls_offered",
    )

    def __init__(self, context: ImapContext, *, offers_starttls: bool, allows_plaintext_auth: bool) -> None:
        super().__init__()
        self.context = context
        self.engine = ImapServer()
        self.starttls_offered = offers_starttls
        self.is_plaintext_auth_allowed = allows_plaintext_auth
        self.account_id = 0
        self.address = ""
        self.selected: Selected | None = None
        self.modes = Modes()
        self.notify: NotifyState | None = None  # once NOTIFY was used
        self.progress = Progress(self)
        self.sasl: signin.Authenticating | None = None  # AUTHENTICATE under way
        self._out: list[bytes] = []
        self._out_bytes = 0
        self.deflate: Deflate | None = None  # after COMPRESS (compress.py)
        self._is_pumping = False
        self._is_stopping = False
        self._is_signed_out = False
        self._has_eof = False
        self.listening = Listening(self)
        self.appending: append.Appending | None = None
        self._bad_commands = 0
        self._login_until_s = 0.0
        self._auth_failures = 0
        self._ticket: Ticket | None = None

    @property
    def channel(self) -> Channel:
        """The connection as it is now, to those who let people in."""
        return channel_of(self, Service.IMAP, is_private=self.is_secure or self.is_plaintext_auth_allowed)

    @property
    def is_administrator(self) -> bool:
        """Whether the account is one that the settings let change what is the server's."""
        return bool(self.address) and address_key(self.address) in self.context.administrators

    def on_connect(self) -> None:
        self.context.connections.add(self)
        self.context.counters["imap_connections"] += 1
        self._login_until_s = clock.monotonic_s() + LOGIN_TIMEOUTS * self.context.login_timeout_s
        self._reset_deadline()
        log.event("imap.connect", conn=self.id, peer=self.peer_address, tls=self.tls_version)
        code = b"CAPABILITY " + capabilities.shown(self)
        self.write(encode.untagged(b"OK", f"{self.context.hostname} Pochta ready", code=code))

    def on_lost(self) -> None:
        self.context.connections.discard(self)
        if self._ticket is not None:
            self.context.signed_in.discard(self._ticket)
        self.listening.stop()
        if self.appending is not None:
            self.appending.discard()
        log.event("imap.disconnect", conn=self.id, account=self.address or None)

    def on_eof(self) -> None:
        # A peer that sends nothing more may still read: what it has asked for is answered first.
        self._has_eof = True
        if not self._is_pumping:
            self.close()

    def on_timeout(self) -> None:
        if self._is_pumping:
            self.set_deadline(self.context.idle_timeout_s)  # the peer waits for us, not we for it
            return
        # RFC 3501 §5.4: an autologout tells the client
        self.write(encode.untagged(b"BYE", "Nothing was said for too long; closing"))
        self.close()

    def on_crash(self) -> None:
        self.write(encode.untagged(b"BYE", "Internal error; it was logged"))
        self.close()

    def stop(self) -> None:
        """The server stops: say goodbye after the command under way."""
        self._is_stopping = True
        if not self._is_pumping:
            self._say_goodbye()

    def end_session(self) -> None:
        """The sign-in holds no more: say so, after the command under way."""
        self._is_signed_out = True
        if not self._is_pumping and not self.is_closing:
            self._say_signed_out()

    def refuse_signed_out(self) -> None:
        """For commands that send much: nothing more of it once the sign-in holds no more.

        Raises:
            Refusal: NO_PERMISSION; BYE follows the answer.
        """
        if self._is_signed_out:
            raise Refusal(RefusalCode.NO_PERMISSION, "The account has changed")

    def _say_signed_out(self) -> None:
        # RFC 5530 §3: EXPIRED would tell that it was the password
        self.send(encode.untagged(b"BYE", "The account has changed; sign in again"))
        self._flush()
        self.close()

    def _say_goodbye(self) -> None:
        self.write(encode.untagged(b"BYE", "The server is shutting down; come again in a moment"))
        self.close()

    def write(self, data: bytes) -> None:
        """As the base, compressed after COMPRESS."""
        super().write(data if self.deflate is None else self.deflate.compress(data))

    def on_data(self, data: bytes) -> None:
        waiting_bytes = 0
        if self.deflate is None:
            self.engine.receive_data(data)
        else:
            self.deflate.receive_data(data)
            if not self._is_pumping:
                compress.inflate(self)
            waiting_bytes = self.deflate.waiting_bytes
        if self._is_pumping:
            waiting_bytes += self.engine.buffered_bytes
            if waiting_bytes > (HELD_INPUT_BYTES if self.account_id else HELD_BEFORE_SIGN_IN_BYTES):
                self.hold_input()
            return
        self._reset_deadline()
        is_fresh: bool | None = None
        answered = 0
        while (event := self.engine.next_event()) is not None:
            answered += 1
            if type(event) is CommandEvent and type(event.command) is c.Noop and self._may_answer_now(answered):
                if is_fresh is None:
                    is_fresh = self._is_told_everything
                if is_fresh:
                    self._out.append(b"%b OK NOOP completed\r\n" % event.tag)
                    continue
            self._take_engine_output()
            self._start(event)
            return
        if self.deflate is not None and self.deflate.has_more and not self.is_closing:
            self._start(None)  # a little that means much: others get a turn in between
            return
        self._flush()

    def _may_answer_now(self, answered: int) -> bool:
        return answered < NOOPS_A_TURN and self.listening.idle_tag is None

    def _reset_deadline(self) -> None:
        if self.account_id:
            self.set_deadline(self.context.idle_timeout_s)
            return
        # A stranger who says a little now and then has several times the limit, and no more
        left_s = self._login_until_s - clock.monotonic_s()
        self.set_deadline(min(self.context.login_timeout_s, max(0.0, left_s)))

    def hear(self) -> None:
        """The store has changed: a client that waits for news is told."""
        self.listening.has_news = True
        if not self._is_pumping and not self.is_closing:
            self._start(None)

    def keep_alive(self) -> None:
        """Tell a client that waits for news that we are there, so that no gateway forgets the connection."""
        if not self._is_pumping and not self.is_closing:
            self.write(b"* OK Still here\r\n")

    def _start(self, event: Event | None) -> None:
        self._is_pumping = True
        self.spawn(self._pump(event))

    async def _pump(self, event: Event | None) -> None:
        """Handle `event` and all input that waits behind it."""
        pace, listening = Pace(), self.listening
        on_caused.set(listening.note_caused)
        try:
            while True:
                if event is not None:
                    await self._handle(event)
                    listening.has_news |= self.notify is not None
                if self._is_stopping or self._is_signed_out or self.is_closing:
                    break
                await pace.turn()
                if self._out_bytes >= FLUSH_BYTES:
                    await self.flush()
                event = self.engine.next_event()
                self._take_engine_output()
                if event is None:
                    if self.deflate is not None and compress.inflate(self):
                        continue
                    if listening.has_news and listening.waits:
                        listening.has_news = False
                        if await self._is_account_lost():
                            break
                        await self.may_still_read()
                        await listening.tell()
                        continue
                    break
        finally:
            self._is_pumping = False
        self._flush()
        if self._is_signed_out and not self.is_closing:
            self._say_signed_out()
        elif self._is_stopping and not self.is_closing:
            self._say_goodbye()
        elif self._has_eof:
            self.close()
        else:
            self._reset_deadline()
            self.resume_input()

    def send(self, data: bytes) -> None:
        """Put `data` behind what is to be sent."""
        self._out.append(data)
        self._out_bytes += len(data)

    async def send_large(self, data: bytes) -> None:
        """As `send`, and wait for the peer when much is unsent."""
        self.send(data)
        if self._out_bytes >= FLUSH_BYTES:
            await self.flush()

    def _take_engine_output(self) -> None:
        """Put what the engine itself has to say in its place among the answers."""
        engine_bytes = self.engine.data_to_send()
        if engine_bytes:
            self.send(engine_bytes)

    def _flush(self) -> None:
        self._take_engine_output()
        if self._out:
            self.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0

    def take_output(self) -> bytes:
        """What has gathered to be sent, for somebody who sends it."""
        self._take_engine_output()
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        return data

    async def flush(self) -> None:
        """Send what has gathered and wait for a slow peer."""
        if self.deflate is not None and self._out_bytes > SLICE_BYTES:
            await compress.write_in_slices(self, self.take_output())
        else:
            self._flush()
        await self.drain()

    async def sync(self, *, may_expunge: bool, with_uid: bool = False) -> None:
        """Tell the client what has changed in the selected mailbox, as far as it wants to know."""
        if self.selected is None:
            return
        reach = None
        try:
            if self.notify is not None:
                reach = await self.notify.reach(self, self.selected, may_expunge=may_expunge)
                with_uid = True  # RFC 5465 §5.1
            told = self.selected.sync(self.modes, may_expunge=may_expunge, with_uid=with_uid, reach=reach)
            async for block in told:
                await self.send_large(block)
            wanted: Sequence[Wanted] = ()
            if self.selected.contexts is not None:
                fetches = self.notify is None or not self.notify.items
                wanted = await self.selected.contexts.update(self, await self.selected.snapshot(), fetches=fetches)
            if self.notify is not None and reach is not None:
                # RFC 5465 §5.2: behind the ESEARCH responses
                await self.notify.tell_arrived(self, self.selected, reach, wanted)
        except Refusal as refusal:
            if refusal.code is not RefusalCode.NOT_FOUND:
                raise
            # RFC 2180 §3.3: the mailbox was removed in another session; no response could describe that
            self.send(encode.untagged(b"BYE", "The selected mailbox was removed"))
            self._flush()
            self.close()

    async def _is_account_lost(self) -> bool:
        """Whether the account was removed, disabled or given another password since the sign-in; BYE follows then."""
        if self._ticket is not None and not await self.context.signed_in.is_current(self._ticket):
            self._is_signed_out = True
        return self._is_signed_out

    async def _handle(self, event: Event) -> None:
        if self.account_id and isinstance(event, CommandEvent | AppendStart) and await self._is_account_lost():
            return
        if isinstance(event, CommandEvent):
            await self._run(event.tag, event.command)
        elif isinstance(event, append.AppendEvent):
            if isinstance(event, AppendStart) and event.is_first:
                await self.may_still_read()  # what its end tells, and what REPLACE removes, is of the selected one
            self.appending = await append.handle(self, self.appending, event)
        elif isinstance(event, BadCommand):
            self._handle_bad(event)
        elif isinstance(event, AuthResponse):
            await signin.continue_authenticate(self, event.data)
        elif isinstance(event, IdleDone):
            await self.listening.end_idle(event.tag)
        elif isinstance(event, Fatal):
            self.send(encode.untagged(b"BYE", event.text, code=event.code))
            self._flush()
            self.close()

    async def _run(self, tag: bytes, command: c.Command) -> None:
        handler, state = HANDLERS[type(command)]
        if state is State.AUTHENTICATED and not self.account_id:
            self.send(encode.tagged(tag, b"BAD", "Sign in first"))
            return
        if state is State.SELECTED and self.selected is None:
            self.send(encode.tagged(tag, b"BAD", "Select a mailbox first"))
            return
        if state is State.NOT_AUTHENTICATED and self.account_id:
            self.send(encode.tagged(tag, b"BAD", "You are signed in already"))
            return
        if not await self.may_still_read() and state is State.SELECTED:
            self.send(encode.tagged(tag, b"NO", "The right to read this mailbox was taken back", code=b"NOPERM"))
            return
        if self.modes.uidonly and uidonly.uses_numbers(command):
            self.send(encode.tagged(tag, b"BAD", "Only UIDs name messages here", code=b"UIDREQUIRED"))
            return
        self.context.counters["imap_commands"] += 1
        self.progress.begin(tag)
        if self.account_id:
            self._bad_commands = 0
        try:
            if self.selected is not None:
                command = fill_in_saved(command, self.selected)
            await handler(self, tag, command)
        except (Refusal, TryLater) as error:
            self.answer_error(tag, error)
        except RemoteProtocolError as error:
            self.send(encode.tagged(tag, b"BAD", str(error)))

    async def may_still_read(self) -> bool:
        """Whether the selected mailbox, where it is another's, may be read as before; it is closed otherwise."""
        if self.selected is None:
            return True
        try:
            self.send(await self.selected.check_rights())
        except Refusal:
            self.selected = None
            # RFC 7162 §3.2.11 has the code for another cause, with the same meaning
            self.send(encode.untagged(b"OK", "The right to read this mailbox was taken back", code=b"CLOSED"))
            return False
        return True

    def answer_error(self, tag: bytes, error: Refusal | TryLater) -> None:
        """The tagged answer to a lawful "no"."""
        (status, code), text = imap_answer(error)
        if isinstance(error, CodedRefusal):
            code = error.code_text
        if isinstance(error, Refusal) and error.detail:
            log.event("imap.refused", conn=self.id, account=self.address or None, text=text, detail=error.detail)
        self.send(encode.tagged(tag, status, text, code=code))

    def count_auth_failure(self) -> bool:
        """Count one; whether it was one too many (the connection is closed then)."""
        self._auth_failures += 1
        if self._auth_failures < self.context.auth_failures_max:
            return False
        self.send(encode.untagged(b"BYE", "Too many failed sign-ins"))
        self._flush()
        self.close()
        return True

    def _handle_bad(self, event: BadCommand) -> None:
        self.listening.leave_idle()
        self.sasl = None
        if self.appending is not None:
            self.appending.discard()
            self.appending = None
        self._bad_commands += 1
        if event.tag is None:
            self.send(encode.untagged(b"BAD", event.text))
        else:
            self.send(encode.tagged(event.tag, b"BAD", event.text))
        if self._bad_commands >= BAD_COMMANDS_MAX:
            self.send(encode.untagged(b"BYE", "Too many bad commands"))
            self._flush()
            self.close()

    def answer_append_error(self, tag: bytes, error: Refusal | TryLater) -> None:
        """As `answer_error`; a missing mailbox is one that the client may make (RFC 3501 §6.3.11)."""
        if isinstance(error, Refusal) and error.code is RefusalCode.TOO_LARGE:
            self.send(encode.tagged(tag, b"NO", error.text, code=b"TOOBIG"))  # RFC 4469 §4.2
        elif isinstance(error, Refusal) and error.code is RefusalCode.NOT_FOUND:
            self.send(encode.tagged(tag, b"NO", error.text, code=b"TRYCREATE"))
        else:
            self.answer_error(tag, error)

    @property
    def _is_told_everything(self) -> bool:
        """Whether the client knows all that it wants to know of what this worker knows now; no read."""
        if self.notify is not None and not self.notify.is_told_everything(self.context.store.data_version()):
            return False
        return self.selected is None or self.selected.is_told_everything

    async def secure(self) -> None:
        """Shake hands; the command was answered."""
        assert self.context.tls is not None
        self.hold_input()
        await self.flush()
        await self.start_tls(self.context.tls)
        dropped = self.engine.start_tls_done()
        if dropped:
            log.event("imap.starttls.injected", conn=self.id, peer=self.peer_address, dropped=dropped)

    def signed_in(self, account: AuthenticatedAccount) -> None:
        """From now on the connection acts for this account."""
        self.account_id = account.account_id
        self.address = account.address
        self._ticket = self.context.signed_in.add(account, self)
        self.engine.is_authenticated = True
        self.set_deadline(self.context.idle_timeout_s)
        self.context.counters["logins"] += 1
        log.event("imap.login", conn=self.id, account=account.address, peer=self.peer_address)

    def signed_out(self) -> None:
        """From now on the connection acts for nobody, as before the sign-in. Source: RFC 8437 §3."""
        if self._ticket is not None:
            self.context.signed_in.discard(self._ticket)
            self._ticket = None
        log.event("imap.unauthenticate", conn=self.id, account=self.address)
        self.account_id, self.address = 0, ""
        # RFC 8437 §4.1: whatever was enabled ceases to be, and a saved search is gone with the mailbox
        self.selected = self.notify = None
        self.listening.stop()
        self.modes = Modes()
        self.engine.is_authenticated = self.engine.utf8_accept = False
        self._login_until_s = clock.monotonic_s() + LOGIN_TIMEOUTS * self.context.login_timeout_s
        self._reset_deadline()
