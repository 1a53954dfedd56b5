"""One SMTP, submission or LMTP connection: engine questions become answers, in the order in which they are asked.

Theory of operation. `on_data` feeds the engine and answers, in the same turn of the loop, all that needs no wait; the
first question that does starts a task, which goes on with the rest of the input. Bytes of a message go to the spool as
they come. What a transaction does is `mail`'s matter, who may send as whom `submission`'s, AUTH `signin`'s.
"""

from ipaddress import ip_address
from typing import Final

from pochta import log
from pochta.accounts.auth import AuthenticatedAccount, Service
from pochta.accounts.sign_in import Channel
from pochta.net.connection import Connection
from pochta.policy.dnsbl import Listing
from pochta.proto.smtp import events, replies
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer
from pochta.servers.channel import channel_of
from pochta.servers.pace import Pace
from pochta.servers.signed_in import Ticket
from pochta.servers.smtp import mail, recipients, signin, submission
from pochta.servers.smtp.context import Role, SmtpContext, Transaction

HELD_INPUT_BYTES: Final = 256 * 1024  # pipelined input waiting for a delivery: a sender has no reason for more
ANSWERS_A_TURN: Final = 200  # of 10 to 20 us each (EHLO); a task gives the others their turn in between
# DEVIATES RFC 5321 §3.8: the connection is closed then. Whoever guesses names that long is not looking for somebody,
# and 100 is what §4.5.3.1.8 lets a sender name in one message.
REFUSED_RECIPIENTS_MAX: Final = 100

_STOPPING: Final = Reply(421, "4.3.2", "The server is shutting down; come again in a moment")
_TIMEOUT: Final = Reply(421, "4.4.2", "Nothing was said for too long; closing")
_CRASH: Final = Reply(421, "4.3.0", "Internal error; it was logged")
_GUESSING: Final = Reply(421, "4.7.0", "Too many unknown recipients; closing")
_ACCOUNT_CHANGED: Final = Reply(421, "4.7.0", "The account has changed; sign in again")


class SmtpConnection(Connection):
    """An accepted SMTP connection."""

    __slots__ = (
        "_allows_plaintext_auth",
        "_farewell",
        "_has_eof",
        "_is_pumping",
        "_offers_starttls",
        "_refused",
        "_sign_in",
        "_ticket",
        "context",
        "engine",
        "hello",
        "is_extended",
        "is_looked_up",
        "listed",
        "transaction",
    )

    def __init__(self, context: SmtpContext, *, offers_starttls: bool, allows_plaintext_auth: bool) -> None:
        super().__init__()
        self.context = context
        self.engine: SmtpServer  # made once the peer is known
        self.hello = ""
        self.is_extended = False
        self.transaction: Transaction | None = None
        self.is_looked_up = False
        self.listed: Listing | None = None  # by the first blocklist that does, once looked up
        self._offers_starttls = offers_starttls
        self._allows_plaintext_auth = allows_plaintext_auth
        self._sign_in = signin.SignIn(self)
        self._ticket: Ticket | None = None
        self._has_eof = False
        self._is_pumping = False
        self._farewell: Reply | None = None  # what the connection is to end with
        self._refused = 0

    @property
    def is_trusted(self) -> bool:
        """Whether nobody asks who this peer is: users who signed in, and the mail system in front (LMTP)."""
        return self.context.role is not Role.TRANSFER

    @property
    def channel(self) -> Channel:
        """The connection as it is now, to those who let people in."""
        return channel_of(self, Service.SMTP, is_private=self.is_secure or self._allows_plaintext_auth)

    @property
    def account(self) -> AuthenticatedAccount | None:
        """Who has signed in; None on every port but submission."""
        return self._sign_in.account

    def on_connect(self) -> None:
        self.context.connections.add(self)
        self.context.counters["smtp_connections"] += 1
        self.engine = SmtpServer(
            self.context.hostname,
            limits=self.context.limits,
            can_start_tls=self._offers_starttls,
            is_secure=self.is_secure,
            is_lmtp=self.context.role is Role.LMTP,
            requires_auth=self.context.role is Role.SUBMISSION,
            bare_newline=self._bare_newline(),
            offers=submission.offers(self.context),
        )
        self._offer_sign_in()
        log.event("smtp.connect", conn=self.id, peer=self.peer_address, tls=self.tls_version)
        self.engine.greet()
        self._set_deadline()
        self._send()

    def on_lost(self) -> None:
        self.context.connections.discard(self)
        self._forget_sign_in()
        self.forget_transaction()
        log.event("smtp.disconnect", conn=self.id)

    def on_eof(self) -> None:
        # A peer that sends nothing more may still read: what it has asked for is answered first.
        self._has_eof = True
        if not self._is_pumping:
            self.close()

    def on_timeout(self) -> None:
        if self._is_pumping:
            self._set_deadline()  # the peer waits for us, not we for it
            return
        self._end(_TIMEOUT)

    def on_crash(self) -> None:
        self._end(_CRASH)

    def stop(self) -> None:
        """The server stops: a message under way is taken to its end, everything else is told to come again."""
        self._farewell = _STOPPING
        if not self._is_pumping and not self.engine.is_receiving_message:
            self._end(_STOPPING)

    def cut_off(self) -> None:
        """The server has waited long enough."""
        if not self.is_closing:
            self._end(_STOPPING)

    def end_session(self) -> None:
        """The account that signed in has changed: it must sign in anew. A delivery under way ends first."""
        self._farewell = _ACCOUNT_CHANGED
        if not self._is_pumping and not self.is_closing:
            self._end(_ACCOUNT_CHANGED)

    def signed_in(self, account: AuthenticatedAccount) -> None:
        """An AUTH exchange has succeeded."""
        self._ticket = self.context.signed_in.add(account, self)
        log.event("smtp.login", conn=self.id, account=account.address, peer=self.peer_address)

    def _forget_sign_in(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.context.signed_in.discard(ticket)

    async def is_account_lost(self) -> bool:
        """Whether the account may no longer send: 421 is the answer then."""
        if self._ticket is None or await self.context.signed_in.is_current(self._ticket):
            return False
        self.engine.reply(_ACCOUNT_CHANGED)
        return True

    def count_refused_recipient(self) -> bool:
        """Note a recipient that was refused; True when there were too many and the question is answered."""
        self._refused += 1
        if self._refused < REFUSED_RECIPIENTS_MAX:
            return False
        self.engine.reply(_GUESSING)
        return True

    def _bare_newline(self) -> BareNewline:
        context = self.context
        if context.normalises_newlines:
            return BareNewline.NORMALISE
        if context.newline_exempt:
            peer = ip_address(self.peer_address)
            if any(peer in network for network in context.newline_exempt):
                return BareNewline.NORMALISE
        return BareNewline.REFUSE

    def _offer_sign_in(self) -> None:
        if self.context.role is Role.SUBMISSION:
            self.engine.auth_mechanisms = self.context.sign_ins.mechanisms(self.channel)

    def _end(self, reply: Reply) -> None:
        self.forget_transaction()
        self.engine.shut_down(reply)
        self._send()

    def forget_transaction(self) -> None:
        """Drop what has been received of a message."""
        if self.transaction is not None:
            self.transaction.abandon()
        self.transaction = None

    def _set_deadline(self) -> None:
        # RFC 5321 §4.5.3.2: the two waits differ
        is_message = self.engine.is_receiving_message
        self.set_deadline(self.context.data_timeout_s if is_message else self.context.command_timeout_s)

    def _send(self) -> None:
        data = self.engine.data_to_send()
        if data:
            self.write(data)
        if self.engine.is_closed:
            self.close()

    def on_data(self, data: bytes) -> None:
        self.engine.receive_data(data)
        if self._is_pumping:
            if self.engine.buffered_bytes > HELD_INPUT_BYTES:
                self.hold_input()
            return
        answered = 0
        while (event := self.engine.next_event()) is not None:
            answered += 1
            if answered > ANSWERS_A_TURN or isinstance(event, events.Turn) or not self._answer_now(event):
                self._is_pumping = True
                self.spawn(self._pump(event))
                break
        self._set_deadline()
        if self._farewell is not None and not self._is_pumping and not self.engine.is_receiving_message:
            self._end(self._farewell)  # the message that was waited for has come, and was refused
        self._send()

    async def _pump(self, event: events.Event | None) -> None:
        """Answer `event` and all input that waits behind it."""
        pace = Pace()
        try:
            while event is not None:
                if not self._answer_now(event):
                    await self._answer(event)
                if self._farewell is not None or self.is_closing:
                    break
                if pace.is_over:
                    self._send()
                    await self.drain()
                    await pace.turn()
                event = self.engine.next_event()
        finally:
            self._is_pumping = False
        if self._farewell is not None:
            self._end(self._farewell)
        self._send()
        if self._has_eof:
            self.close()
        elif not self.is_closing:
            self._set_deadline()
            self.resume_input()

    def _answer_now(self, event: events.Event) -> bool:
        """Deal with an event that needs no wait; False when it needs one."""
        if isinstance(event, events.DataChunk):
            if self.transaction is not None:
                mail.take_chunk(self.transaction, event.data)
        elif isinstance(event, events.Hello):
            self.hello, self.is_extended = event.name, event.is_extended
            self.forget_transaction()
            self.engine.accept()
        elif isinstance(event, events.Mail) and self.account is None and mail.has_room(self):
            mail.open_transaction(self, event)
        elif isinstance(event, events.DataStart):
            mail.begin_data(self)
        elif isinstance(event, events.DataRejected):
            log.event("smtp.data.rejected", conn=self.id, peer=self.peer_address, reason=event.fault.value)
            self.forget_transaction()
        elif isinstance(event, events.Reset | events.Closed):
            self.forget_transaction()
        elif isinstance(event, events.Turn):
            pass  # `_pump` keeps the pace
        else:
            return False
        return True

    async def _answer(self, event: events.Event) -> None:
        if isinstance(event, events.Mail):
            await mail.begin(self, event)
        elif isinstance(event, events.Rcpt):
            assert self.transaction is not None
            await recipients.add(self, self.transaction, event)
        elif isinstance(event, events.DataEnd):
            await mail.end(self)
        elif isinstance(event, events.StartTls):
            await self._start_tls()
        elif isinstance(event, events.Auth | events.AuthResponse):
            await self._sign_in.answer(event)
        else:
            self.engine.reply(replies.NOT_IMPLEMENTED)

    async def _start_tls(self) -> None:
        assert self.context.tls is not None
        self.forget_transaction()
        # RFC 3207 §4.2: who signed in before must do so again
        self._forget_sign_in()
        self._sign_in.account = None
        self.hold_input()
        self.engine.accept()
        self._send()
        await self.start_tls(self.context.tls)
        self.engine.start_tls_done()
        self._offer_sign_in()
