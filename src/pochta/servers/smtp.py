"""One SMTP connection: engine questions are answered, a message is delivered to local accounts before the reply.

Theory of operation. `on_data` feeds the engine and answers, in the same turn of the loop, all that needs no wait; the
first question that does starts a task, which goes on with the rest of the input. Bytes of a message go to the spool as
they come. INV-1: 250 to the end of data leaves only after the commit that holds a placement for each recipient.

A transfer listener takes mail for local recipients only, from anybody; it offers no AUTH.
"""

import ssl
from dataclasses import dataclass
from typing import Final

from pochta import clock, log
from pochta.accounts import directory
from pochta.delivery import local, trace
from pochta.delivery.intake import Incoming, Intake
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.net.connection import Connection
from pochta.proto.address import Address
from pochta.proto.smtp import events, replies
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer
from pochta.servers.pace import Pace
from pochta.servers.refusal import smtp_reply
from pochta.store.directory import accounts_over_quota
from pochta.store.sqlite import as_try_later
from pochta.store.store import Store
from pochta.store.tx import Tx

HELD_INPUT_BYTES: Final = 256 * 1024  # pipelined input waiting for a delivery: a sender has no reason for more
ANSWERS_A_TURN: Final = 200  # of 10 to 20 us each (EHLO); a task gives the others their turn in between
REFUSED_RECIPIENTS_MAX: Final = 100  # of one connection: whoever guesses names that long is not looking for somebody

_STOPPING: Final = Reply(421, "4.3.2", "The server is shutting down; come again in a moment")
_TIMEOUT: Final = Reply(421, "4.4.2", "Nothing was said for too long; closing")
_CRASH: Final = Reply(421, "4.3.0", "Internal error; it was logged")
_GUESSING: Final = Reply(421, "4.7.0", "Too many unknown recipients; closing")
# RFC 3463 §3.5: X.4.6, routing loop detected
_CIRCLE: Final = Reply(554, "5.4.6", "Too many hops: this message runs in a circle")
_ELSEWHERE: Final = Reply(550, "5.7.1", "This address forwards to another server, which is not possible yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpContext:
    """What all SMTP connections of a worker share."""

    hostname: str
    postmaster: str | None
    store: Store
    intake: Intake
    connections: "set[SmtpConnection]"
    tls: ssl.SSLContext | None
    limits: SmtpLimits
    hops_max: int
    command_timeout_s: float
    data_timeout_s: float
    counters: dict[str, int]


@dataclass(slots=True)
class _Transaction:
    """MAIL to the end of data. `accounts` keeps the order of the recipients, each account once."""

    reverse_path: str
    size: int | None
    recipients: list[str]
    accounts: dict[int, None]
    incoming: Incoming | None = None
    failure: Exception | None = None


def _resolve(tx: Tx, address: Address, postmaster: str | None) -> directory.Resolution:
    return directory.resolve(tx, address, postmaster)


class SmtpConnection(Connection):
    """An accepted SMTP connection."""

    __slots__ = (
        "_has_eof",
        "_hello",
        "_is_extended",
        "_is_pumping",
        "_is_stopping",
        "_refused",
        "_transaction",
        "context",
        "engine",
    )

    def __init__(self, context: SmtpContext, *, offers_starttls: bool) -> None:
        super().__init__()
        self.context = context
        self.engine = SmtpServer(
            context.hostname, limits=context.limits, can_start_tls=offers_starttls, is_secure=False
        )
        self._hello = ""
        self._is_extended = False
        self._has_eof = False
        self._is_pumping = False
        self._is_stopping = False
        self._refused = 0
        self._transaction: _Transaction | None = None

    def on_connect(self) -> None:
        self.context.connections.add(self)
        self.context.counters["smtp_connections"] += 1
        self.engine.is_secure = self.is_secure
        log.event("smtp.connect", conn=self.id, peer=self.peer_address, tls=self.tls_version)
        self.engine.greet()
        self._set_deadline()
        self._send()

    def on_lost(self) -> None:
        self.context.connections.discard(self)
        self._forget()
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
        self._is_stopping = True
        if not self._is_pumping and not self.engine.is_receiving_message:
            self._end(_STOPPING)

    def cut_off(self) -> None:
        """The server has waited long enough."""
        if not self.is_closing:
            self._end(_STOPPING)

    def _end(self, reply: Reply) -> None:
        self._forget()
        self.engine.shut_down(reply)
        self._send()

    def _forget(self) -> None:
        if self._transaction is not None and self._transaction.incoming is not None:
            self._transaction.incoming.discard()
        self._transaction = None

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
        self._send()

    async def _pump(self, event: events.Event | None) -> None:
        """Answer `event` and all input that waits behind it."""
        pace = Pace()
        try:
            while event is not None:
                if not self._answer_now(event):
                    await self._answer(event)
                if self._is_stopping or self.is_closing:
                    break
                if pace.is_over:
                    self._send()
                    await self.drain()
                    await pace.turn()
                event = self.engine.next_event()
        finally:
            self._is_pumping = False
        if self._is_stopping:
            self._end(_STOPPING)
        self._send()
        if self._has_eof:
            self.close()
        elif not self.is_closing:
            self._set_deadline()
            self.resume_input()

    def _answer_now(self, event: events.Event) -> bool:
        """Deal with an event that needs no wait; False when it needs one."""
        if isinstance(event, events.DataChunk):
            self._take_chunk(event.data)
        elif isinstance(event, events.Hello):
            self._hello, self._is_extended = event.name, event.is_extended
            self._forget()
            self.engine.accept()
        elif isinstance(event, events.Mail):
            self._begin(event)
        elif isinstance(event, events.DataStart):
            self._begin_data()
        elif isinstance(event, events.DataRejected):
            log.event("smtp.data.rejected", conn=self.id, peer=self.peer_address, reason=event.fault.value)
            self._forget()
        elif isinstance(event, events.Reset | events.Closed):
            self._forget()
        elif isinstance(event, events.Turn):
            pass  # `_pump` keeps the pace
        else:
            return False
        return True

    async def _answer(self, event: events.Event) -> None:
        if isinstance(event, events.Rcpt):
            await self._add_recipient(event.forward_path)
        elif isinstance(event, events.DataEnd):
            await self._deliver()
        elif isinstance(event, events.StartTls):
            await self._start_tls()
        else:
            self.engine.reply(replies.NOT_IMPLEMENTED)

    def _begin(self, event: events.Mail) -> None:
        try:
            local.check_room(self.context.store)
        except TryLater as error:
            self.engine.reply(smtp_reply(error))
            return
        reverse_path = "" if event.reverse_path is None else str(event.reverse_path)
        self._transaction = _Transaction(reverse_path, event.size, [], {})
        self.engine.accept()

    async def _add_recipient(self, address: Address) -> None:
        transaction = self._transaction
        assert transaction is not None
        try:
            found = await self.context.store.read(0, _resolve, address, self.context.postmaster)
            await self._check_quota(found, transaction.size)
        except (Refusal, TryLater) as error:
            self._refuse(address, error)
            return
        if found.remotes:
            self.engine.reply(_ELSEWHERE)
            log.event("smtp.rcpt.refused", conn=self.id, address=address, reason="forwards elsewhere")
            return
        transaction.recipients.append(str(address))
        transaction.accounts.update(dict.fromkeys(found.accounts))
        self.engine.accept()

    async def _check_quota(self, found: directory.Resolution, size: int | None) -> None:
        """Refuse a recipient that cannot take the message while its sender can still send to the others.

        Raises:
            Refusal: OVER_QUOTA.
        """
        if await self.context.store.read(0, accounts_over_quota, found.accounts, size or 1):
            raise Refusal(RefusalCode.OVER_QUOTA, "The mailbox is full")

    def _refuse(self, address: Address, error: Refusal | TryLater) -> None:
        log.event("smtp.rcpt.refused", conn=self.id, peer=self.peer_address, address=address, reason=error)
        self._refused += isinstance(error, Refusal)
        if self._refused >= REFUSED_RECIPIENTS_MAX:
            self.engine.reply(_GUESSING)
        elif isinstance(error, Refusal) and error.code is RefusalCode.NOT_LOCAL:
            self.engine.reply(Reply(550, "5.7.1", "Relaying denied: no mail is kept here for that domain"))
        else:
            self.engine.reply(smtp_reply(error))

    def _begin_data(self) -> None:
        transaction = self._transaction
        assert transaction is not None
        try:
            local.check_room(self.context.store)
        except TryLater as error:
            self.engine.reply(smtp_reply(error))
            return
        transaction.incoming = self.context.intake.open()
        self._take_chunk(self._trace(transaction))
        self.engine.accept()

    def _trace(self, transaction: _Transaction) -> bytes:
        with_protocol = ("ESMTPS" if self.is_secure else "ESMTP") if self._is_extended else "SMTP"
        tls = f"{self.tls_version} {self.tls_cipher}" if self.is_secure else None
        return trace.trace_header(
            trace.Peer(self._hello, self.peer_address, with_protocol, tls),
            hostname=self.context.hostname,
            reverse_path=transaction.reverse_path,
            recipients=tuple(transaction.recipients),
            message_id=f"{self.id:x}.{clock.token_hex(6)}",
            now_s=clock.now_s(),
        )

    def _take_chunk(self, data: bytes) -> None:
        transaction = self._transaction
        assert transaction is not None
        assert transaction.incoming is not None
        if transaction.failure is not None:
            return
        try:
            transaction.incoming.write(data)
        except OSError as error:
            # the rest is read and dropped: SMTP has no way to stop a sender (RFC 5321 §4.1.1.4)
            transaction.failure = as_try_later(error)
            transaction.incoming.discard()

    async def _deliver(self) -> None:
        """Answer the end of data once the message is durable in every INBOX."""
        transaction = self._transaction
        assert transaction is not None
        assert transaction.incoming is not None
        try:
            if transaction.failure is not None:
                raise transaction.failure
            size = transaction.incoming.size
            new = await transaction.incoming.finish(int(clock.now_s()))
            if transaction.incoming.received_count - 1 > self.context.hops_max:
                # RFC 5321 §6.3: a message that has passed so many servers, us not counted, runs in a circle
                self._refuse_circle(transaction)
                await local.drop(self.context.store, (new,))
                return
            await local.deliver_local(self.context.store, tuple(transaction.accounts), new)
        except OSError as error:
            meaning = as_try_later(error)
            if not isinstance(meaning, TryLater):
                raise
            self._refuse_message(transaction, meaning)
        except (Refusal, TryLater) as error:
            self._refuse_message(transaction, error)
        else:
            self._transaction = None
            self.context.counters["messages_delivered"] += len(transaction.accounts)
            log.event(
                "smtp.delivered",
                conn=self.id,
                sender=f"<{transaction.reverse_path}>",
                recipients=len(transaction.recipients),
                size=size,
            )
            self.engine.accept()

    def _refuse_circle(self, transaction: _Transaction) -> None:
        self._forget()
        log.event("smtp.message.refused", conn=self.id, sender=f"<{transaction.reverse_path}>", reason=_CIRCLE.text)
        self.engine.reply(_CIRCLE)

    def _refuse_message(self, transaction: _Transaction, error: Refusal | TryLater) -> None:
        self._forget()
        log.event("smtp.message.refused", conn=self.id, sender=f"<{transaction.reverse_path}>", reason=error)
        if isinstance(error, Refusal) and len(transaction.accounts) > 1:
            # INV-1: one reply stands for all recipients; it cannot say "yes" for some of them
            self.engine.reply(Reply(451, "4.3.0", "Some recipients cannot take this message; none received it"))
        else:
            self.engine.reply(smtp_reply(error))

    async def _start_tls(self) -> None:
        assert self.context.tls is not None
        self._forget()
        self.hold_input()
        self.engine.accept()
        self._send()
        await self.start_tls(self.context.tls)
        self.engine.start_tls_done()
