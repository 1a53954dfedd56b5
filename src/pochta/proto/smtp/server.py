"""The SMTP and LMTP server engine: bytes in, events out; answers in, bytes out. No I/O.

Theory of operation
-------------------
The driver feeds what arrives (`receive_data`), asks for events until there are none (`next_event`), and writes what
`data_to_send` collects, once for all of them. Events come in two kinds (`events`). A *question* needs the driver's
decision: the engine stands still until it is answered by `accept` (the usual positive reply) or `reply` (any other),
and moves on by the reply's code. A *notice* only informs. What needs no decision (NOOP, RSET, syntax and order errors,
limits) the engine answers itself. So however much is pipelined, one command at a time is under way and replies leave
in the order of the commands.

    state      what arrives is          goes to, when
    NEW        held back                COMMAND: greet(); REFUSED: greet(refusal)
    REFUSED    commands: 503, QUIT      CLOSED: QUIT
    COMMAND    commands                 DATA: DataStart answered 354; CHUNK: BDAT; AUTH: a 334 was sent;
                                        TLS: StartTls answered 2xx; CLOSED: QUIT, 421
    AUTH       one base64 line          COMMAND: the exchange is over
    DATA       the message              COMMAND: the end mark was seen
    CHUNK      a chunk of it            COMMAND: all its octets were seen
    TLS        dropped                  COMMAND: start_tls_done()
    CLOSED     dropped                  -

Beside the state there are two facts: whether the client said hello, and how far its transaction is (`transaction`).
Hello, RSET, start_tls_done, the end of a message and a refused chunk close the transaction.

What is pipelined behind STARTTLS never reaches the other side of the handshake: it is dropped when 220 goes out, and
again in `start_tls_done`.
"""

from binascii import b2a_base64
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from pochta.errors import LocalProtocolError
from pochta.proto.address import Address
from pochta.proto.buffer import CRLF, LF, InputBuffer
from pochta.proto.smtp import auth, commands, events, parameters, replies
from pochta.proto.smtp.bdat import ChunkedMessage
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.data import BareNewline, DataDecoder
from pochta.proto.smtp.events import CloseReason, Event, Question
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.offers import NO_OFFERS, Offers, hello_reply, help_reply
from pochta.proto.smtp.replies import Reply, encode_reply
from pochta.proto.smtp.transaction import FAULT_REPLIES, Transaction

ANSWERS_A_TURN: Final = 200  # commands the engine answers by itself, 3 us each, before its driver has a say


class _State(Enum):
    NEW = "new"
    REFUSED = "refused"
    COMMAND = "command"
    AUTH = "auth"
    DATA = "data"
    CHUNK = "chunk"
    TLS = "tls"
    CLOSED = "closed"


_COMMAND: Final = _State.COMMAND  # asked for at every line; looking it up in the enum takes as long as the rest


class SmtpServer:
    """One connection's engine; see the module's theory of operation.

    `auth_mechanisms`, `can_start_tls` and `offers` may be changed at any time, as a rule after TLS has started; they
    decide what the next EHLO offers. An exchange comes as `Auth` and, for each answer to a challenge, `AuthResponse`.
    """

    def __init__(
        self,
        hostname: str,
        *,
        limits: SmtpLimits,
        can_start_tls: bool,
        is_secure: bool,
        is_lmtp: bool = False,
        auth_mechanisms: tuple[str, ...] = (),
        requires_auth: bool = False,
        bare_newline: BareNewline = BareNewline.REFUSE,
        offers: Offers = NO_OFFERS,
    ) -> None:
        self.hostname = hostname
        self.limits = limits
        self.is_lmtp = is_lmtp
        self.can_start_tls = can_start_tls
        self.is_secure = is_secure
        self.auth_mechanisms = auth_mechanisms
        self.requires_auth = requires_auth
        self.offers = offers
        self.is_authenticated = False
        self._bare_newline = bare_newline
        self._buffer = InputBuffer(resync=CRLF if bare_newline is BareNewline.REFUSE else LF)
        self._out: list[bytes] = []
        self._state = _State.NEW
        self._events: list[Event] = []  # not handed out yet: at most a DataChunk and what follows it
        self._question: Question | None = None
        self._has_said_hello = False
        self._transaction = Transaction(limits, bare_newline=bare_newline, is_lmtp=is_lmtp)
        self._replies_due = 0  # after DataEnd
        self._errors = 0
        self._decoder: DataDecoder | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the conversation is over: after the last bytes are written the connection is to be closed."""
        return self._state is _State.CLOSED

    @property
    def has_question(self) -> bool:
        """Whether the event handed out last waits for an answer (in LMTP: for another one)."""
        return self._question is not None and not self._events

    @property
    def is_receiving_message(self) -> bool:
        """Whether the client is sending a message or a chunk of one (its timeout differs, RFC 5321 §4.5.3.2)."""
        return self._state is _State.DATA or self._state is _State.CHUNK

    @property
    def buffered_bytes(self) -> int:
        """Input not used yet; the driver stops reading above its bound. Before `greet`: an early talker's bytes."""
        return len(self._buffer)

    def greet(self, refusal: Reply | None = None) -> None:
        """Send 220, or `refusal` (554: the client may only QUIT; 421: closed)."""
        if self._state is not _State.NEW:
            raise LocalProtocolError("greet() twice")
        if refusal is None:
            self._out.append(encode_reply(Reply(220, "", f"{self.hostname} {'LMTP' if self.is_lmtp else 'ESMTP'}")))
            self._state = _State.COMMAND
            return
        # RFC 5321 §3.1: after 554 in the opening message the server waits for QUIT and answers 503 to all else.
        self._state = _State.REFUSED
        self._send(refusal)

    def receive_data(self, data: bytes) -> None:
        """Take what arrived."""
        if self._state is not _State.CLOSED and self._state is not _State.TLS:
            self._buffer.feed(data)

    def data_to_send(self) -> bytes:
        """All replies not yet handed out, in order; `b""` when there are none."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next event; None when more input is needed or a question is open."""
        answered = 0
        while not self._events:
            if self._question is not None:
                return None
            if (answered := answered + 1) > ANSWERS_A_TURN:
                return events.Turn()
            if not self._receive():
                return None
        return self._events.pop(0)

    def _receive(self) -> bool:
        """Use some of the input; False when there is not enough of it."""
        state = self._state
        if state is _COMMAND or state is _State.AUTH or state is _State.REFUSED:
            try:
                return self._receive_line()
            except CommandError as error:
                self._fail(error.reply)
                return True
        if state is _State.DATA:
            return self._receive_message()
        return state is _State.CHUNK and self._receive_chunk()

    def accept(self) -> None:
        """Answer the open question with its usual positive reply."""
        question = self._open_question()
        if isinstance(question, events.Hello):
            self._settle(question, self._hello_reply(question.is_extended))
        else:
            self._settle(question, _ACCEPTANCE.get(type(question), replies.AUTH_OK))

    def reply(self, reply: Reply) -> None:
        """Answer the open question. The engine believes the code: 2xx (for `DataStart` 354, too) is a yes."""
        self._settle(self._open_question(), reply)

    def challenge(self, challenge: bytes) -> None:
        """Answer `Auth` or `AuthResponse` with a challenge; the next event is an `AuthResponse`."""
        question = self._open_question()
        if not isinstance(question, events.Auth | events.AuthResponse):
            raise LocalProtocolError("no exchange to challenge in")
        self._question = None
        self._send_challenge(challenge)

    def start_tls_done(self) -> None:
        """The handshake is done: back to the state after the greeting, with nothing the client said before."""
        if self._state is not _State.TLS:
            raise LocalProtocolError("start_tls_done() without STARTTLS")
        # RFC 3207 §4.2: all knowledge obtained from the client before is discarded.
        self._buffer.clear()
        self._transaction.close()
        self._has_said_hello = False
        self.is_authenticated = False
        self.is_secure = True
        self._state = _State.COMMAND

    def shut_down(self, reply: Reply) -> None:
        """Close at any moment with `reply` (421: timeout, stopping): open questions and messages are dropped."""
        if self._state is not _State.CLOSED:
            self._question = None
            self._events.clear()
            self._close(reply, CloseReason.SHUT_DOWN)

    def _ask(self, question: Question) -> None:
        self._question = question
        self._events.append(question)

    def _open_question(self) -> Question:
        if self._question is None or self._events:
            raise LocalProtocolError("an answer without a question")
        return self._question

    def _settle(self, question: Question, reply: Reply) -> None:
        """Send the answer and let it take effect."""
        if reply.code == 421:
            self._question = None
            self._close(reply, CloseReason.SHUT_DOWN)
            return
        if type(question) in _ANSWERED_APART and self._settle_apart(question, reply):
            return
        is_yes = reply.code < 300
        self._out.append(encode_reply(reply))
        if isinstance(question, events.Rcpt):
            self._transaction.rcpt_accepted += is_yes
        elif isinstance(question, events.DataEnd):
            self._replies_due -= 1
            if self._replies_due:
                return
            self._transaction.close()
        elif isinstance(question, events.Mail) and is_yes:
            self._transaction.open(question)
        elif isinstance(question, events.DataStart):
            if reply.code == 354:
                self._decoder = DataDecoder(self.limits.max_message_bytes, self._bare_newline)
                self._state = _State.DATA
        # RFC 5321 §4.1.4: a refused hello changes nothing.
        elif isinstance(question, events.Hello) and is_yes:
            self._transaction.close()
            self._has_said_hello = True
        elif isinstance(question, events.StartTls) and is_yes:
            self._buffer.clear()
            self._state = _State.TLS
        self._question = None

    def _settle_apart(self, question: Question, reply: Reply) -> bool:
        """Settle what is not simply answered by the reply; False when it is, after all."""
        if isinstance(question, events.DataStart):
            if not question.is_bdat:
                return False
            self._question = None
            self._start_chunks(None if reply.code == 354 or reply.is_positive else reply)
            return True
        self._end_exchange()
        self.is_authenticated = reply.is_positive
        if reply.code < 500:
            return False
        self._question = None
        self._fail(reply)
        return True

    def _send(self, reply: Reply) -> None:
        if reply.code == 421:
            self._close(reply, CloseReason.SHUT_DOWN)
        else:
            self._out.append(encode_reply(reply))

    def _fail(self, reply: Reply) -> None:
        """Answer a faulty command, or close when there were too many."""
        self._end_exchange()
        self._errors += 1
        # DEVIATES RFC 5321 §3.8: so many errors are no client's normal operation (§7.8); a program that sends junk has
        # no right to a worker's time.
        if self._errors >= self.limits.max_errors:
            self._close(replies.TOO_MANY_ERRORS, CloseReason.TOO_MANY_ERRORS)
        else:
            self._out.append(encode_reply(reply))

    def _close(self, reply: Reply, reason: CloseReason) -> None:
        self._out.append(encode_reply(reply))
        self._transaction.close()
        self._buffer.clear()
        self._decoder = None
        self._state = _State.CLOSED
        self._events.append(events.Closed(reason))

    def _receive_line(self) -> bool:
        """Deal with one line; False when there is none yet."""
        limits = self.limits
        # Long lines are only waited for where AUTH can come.
        max_bytes = limits.max_auth_line_bytes if self.auth_mechanisms else limits.max_command_line_bytes
        is_auth = self._state is _State.AUTH
        too_long = replies.AUTH_LINE_TOO_LONG if is_auth else replies.LINE_TOO_LONG
        line = commands.take_line(self._buffer, max_bytes, bare_newline=self._bare_newline, too_long=too_long)
        if line is None:
            return False
        if is_auth:
            self._on_auth_line(line[:-2])
        else:
            self._on_command(line)
        return True

    def _on_command(self, line: bytes) -> None:
        match = commands.PLAIN_PATH.fullmatch(line) if self._state is _COMMAND else None
        if match is not None and len(line) <= self.limits.max_command_line_bytes:
            verb, local_part, domain, parameters = match.groups(b"")
            address = Address(local_part.decode("ascii"), domain.decode("ascii"))
            if verb[:1] in b"Mm":
                self._on_mail(address, parameters.decode("ascii"))
            else:
                self._on_rcpt(address, parameters.decode("ascii"))
            return
        verb_name, argument = commands.split_command(line[:-2])
        if len(line) > self.limits.max_command_line_bytes and verb_name != "AUTH":
            raise CommandError(replies.LINE_TOO_LONG)
        if self._state is _State.REFUSED and verb_name != "QUIT":
            raise CommandError(replies.SERVICE_REFUSED)
        handler = _HANDLERS.get(verb_name)
        if handler is not None:
            handler(self, argument)
        elif verb_name in commands.HTTP_VERBS:
            self._close(replies.NOT_SMTP, CloseReason.NOT_SMTP)
        else:
            is_known = verb_name in commands.KNOWN_BUT_ABSENT
            raise CommandError(replies.NOT_IMPLEMENTED if is_known else replies.UNKNOWN_COMMAND)

    def _on_hello(self, argument: str, *, is_extended: bool, is_lmtp: bool) -> None:
        # RFC 2033 §4.1: LMTP has LHLO in place of HELO and EHLO, which get 500.
        if is_lmtp is not self.is_lmtp:
            raise CommandError(replies.WRONG_HELLO)
        self._ask(events.Hello(commands.parse_hello(argument), is_extended))

    def _hello_reply(self, is_extended: bool) -> Reply:
        if not is_extended:
            return Reply(250, "", self.hostname)
        return hello_reply(
            self.hostname,
            self.offers,
            limits=self.limits,
            is_secure=self.is_secure,
            offers_tls=self._offers_tls,
            mechanisms=() if self.is_authenticated else self.auth_mechanisms,
        )

    @property
    def _offers_tls(self) -> bool:
        return self.can_start_tls and not self.is_secure

    def _on_start_tls(self, argument: str) -> None:
        # RFC 3207 §4: no parameters.
        commands.refuse_argument(argument)
        if self.is_secure:
            raise CommandError(replies.TLS_ACTIVE)
        if not self.can_start_tls:
            raise CommandError(replies.NOT_IMPLEMENTED)
        self._ask(events.StartTls())

    def _on_mail_line(self, argument: str) -> None:
        self._check_mail_order()
        self._on_mail(*commands.parse_mail(argument))

    def _check_mail_order(self) -> None:
        # RFC 5321 §4.1.4: what is out of order is answered 503, before its syntax is looked at.
        if not self._has_said_hello:
            raise CommandError(replies.HELLO_FIRST)
        # RFC 4954 §6: 530 where policy wants authentication first.
        if self.requires_auth and not self.is_authenticated:
            raise CommandError(replies.AUTH_REQUIRED)
        # RFC 5321 §4.1.4: no MAIL inside a transaction.
        if self._transaction.is_open:
            raise CommandError(replies.NESTED_MAIL)

    def _on_mail(self, reverse_path: Address | None, text: str) -> None:
        self._check_mail_order()
        if not self._transaction.name_sender():
            # RFC 5321 §3.8: 421 goes before a server closes.
            self._close(replies.TOO_MANY_TRANSACTIONS, CloseReason.TOO_MANY_TRANSACTIONS)
            return
        mail = parameters.read_mail(
            reverse_path,
            text,
            self.offers,
            max_message_bytes=self.limits.max_message_bytes,
            is_auth_offered=bool(self.auth_mechanisms) or self.is_authenticated,
            is_secure=self.is_secure,
        )
        self._ask(mail)

    def _on_rcpt_line(self, argument: str) -> None:
        self._transaction.check_rcpt()
        self._on_rcpt(*commands.parse_rcpt(argument))

    def _on_rcpt(self, forward_path: Address, text: str) -> None:
        transaction = self._transaction
        transaction.name_rcpt()
        rcpt = events.Rcpt(forward_path)
        if text:
            rcpt = parameters.read_rcpt(forward_path, text, self.offers, is_smtputf8=transaction.is_smtputf8)
        if not transaction.is_smtputf8 and not forward_path.is_ascii:
            raise CommandError(replies.RECIPIENT_NOT_ASCII)
        if transaction.rcpt_accepted >= self.limits.max_recipients:
            # Not an error of the client's: it cannot know the limit.
            self._out.append(encode_reply(replies.TOO_MANY_RECIPIENTS))
            return
        self._ask(rcpt)

    def _on_data(self, argument: str) -> None:
        commands.refuse_argument(argument)
        self._transaction.check_data()
        self._ask(events.DataStart())

    def _receive_message(self) -> bool:
        """Pass on what there is of the message; False when nothing has arrived."""
        decoder = self._decoder
        assert decoder is not None
        data, start = self._buffer.window()
        if start == len(data):
            return False
        chunk, stop = decoder.decode(data, start)
        self._buffer.drop(stop - start)
        if chunk:
            self._events.append(events.DataChunk(chunk))
        if decoder.is_done:
            self._end_message(decoder)
        return True

    def _end_message(self, decoder: DataDecoder) -> None:
        self._decoder = None
        self._state = _State.COMMAND
        self._replies_due = self._transaction.replies_due
        if decoder.fault is None:
            self._ask(events.DataEnd(decoder.size))
            return
        self._out.append(encode_reply(FAULT_REPLIES[decoder.fault]) * self._replies_due)
        self._transaction.close()
        self._events.append(events.DataRejected(decoder.fault))

    def _on_bdat(self, argument: str) -> None:
        message, refusal = self._transaction.begin_chunk(commands.parse_bdat(argument))
        if refusal is None and not message.is_started:
            self._ask(events.DataStart(is_bdat=True))
        else:
            self._await_chunk(message, refusal)

    def _start_chunks(self, refusal: Reply | None) -> None:
        message = self._transaction.chunked
        assert message is not None
        message.is_started = refusal is None
        self._await_chunk(message, refusal)

    def _await_chunk(self, message: ChunkedMessage, refusal: Reply | None) -> None:
        # RFC 3030 §2: the octets of a refused chunk are accepted and dropped before the reply.
        if refusal is not None and not message.drop_chunk(refusal):
            # DEVIATES RFC 3030 §2: but not without end; RFC 5321 §7.8 lets a server defend itself.
            self._close(replies.MESSAGE_TOO_LARGE, CloseReason.CHUNK_TOO_LARGE)
            return
        self._state = _State.CHUNK
        if not message.left:
            self._end_chunk(message)

    def _receive_chunk(self) -> bool:
        """Pass on what there is of the chunk; False when nothing has arrived."""
        message = self._transaction.chunked
        assert message is not None
        data = self._buffer.take(message.left)
        if not data:
            return False
        out = message.decode(data)
        if out:
            self._events.append(events.DataChunk(out))
        if not message.left:
            self._end_chunk(message)
        return True

    def _end_chunk(self, message: ChunkedMessage) -> None:
        self._state = _State.COMMAND
        message.end_chunk()
        refusal = message.refusal if message.fault is None else FAULT_REPLIES[message.fault]
        if refusal is not None:
            self._fail_chunk(message, refusal)
        elif message.is_last:
            self._replies_due = self._transaction.replies_due
            self._ask(events.DataEnd(message.size))
        else:
            # RFC 3030 §2: each chunk that was taken is answered 250.
            self._out.append(encode_reply(replies.CHUNK_OK))

    def _fail_chunk(self, message: ChunkedMessage, refusal: Reply) -> None:
        if self._transaction.is_open:
            self._events.append(events.DataRejected(message.fault) if message.fault else events.Reset())
        self._out.append(encode_reply(refusal) * self._transaction.fail_chunk(message))

    def _on_reset(self, argument: str) -> None:
        commands.refuse_argument(argument)
        was_open = self._transaction.is_open
        self._transaction.close()
        self._out.append(encode_reply(replies.RESET))
        if was_open:
            self._events.append(events.Reset())

    def _on_noop(self, argument: str) -> None:
        self._out.append(encode_reply(replies.OK))

    def _on_quit(self, argument: str) -> None:
        commands.refuse_argument(argument)
        self._close(replies.BYE, CloseReason.QUIT)

    def _on_help(self, argument: str) -> None:
        offers_auth = bool(self.auth_mechanisms) and not self.is_authenticated
        reply = help_reply(is_lmtp=self.is_lmtp, offers_tls=self._offers_tls, offers_auth=offers_auth)
        self._out.append(encode_reply(reply))

    def _on_verify(self, argument: str) -> None:
        if not argument:
            raise CommandError(replies.VRFY_SYNTAX)
        # RFC 5321 §7.3: a site may hide its users behind 252.
        self._out.append(encode_reply(replies.CANNOT_VERIFY))

    def _on_auth(self, argument: str) -> None:
        """Source: RFC 4954 §4."""
        if not self.auth_mechanisms:
            # Where nobody signs in, TLS would not change that
            is_too_early = self.requires_auth and self._offers_tls
            raise CommandError(replies.ENCRYPTION_REQUIRED if is_too_early else replies.NOT_IMPLEMENTED)
        if not self._has_said_hello:
            raise CommandError(replies.HELLO_FIRST)
        if self.is_authenticated:
            raise CommandError(replies.AUTH_DONE)
        if self._transaction.is_open:
            raise CommandError(replies.NOT_IN_TRANSACTION)
        mechanism, initial = commands.parse_auth(argument)
        if mechanism not in self.auth_mechanisms:
            raise CommandError(replies.AUTH_UNKNOWN)
        self._ask(auth.begin(mechanism, initial))

    def _on_auth_line(self, line: bytes) -> None:
        response = auth.respond(line)
        self._state = _State.COMMAND
        self._ask(response)

    def _send_challenge(self, challenge: bytes) -> None:
        # RFC 4954 §4: the space stands there before an empty challenge, too.
        self._out.append(b"334 " + b2a_base64(challenge, newline=False) + b"\r\n")
        self._state = _State.AUTH

    def _end_exchange(self) -> None:
        if self._state is _State.AUTH:
            self._state = _State.COMMAND


_ANSWERED_APART: Final = frozenset({events.DataStart, events.Auth, events.AuthResponse})

_ACCEPTANCE: Final[dict[type[Question], Reply]] = {
    events.Mail: replies.SENDER_OK,
    events.Rcpt: replies.RECIPIENT_OK,
    events.DataStart: replies.START_MAIL,
    events.DataEnd: replies.MESSAGE_OK,
    events.StartTls: replies.START_TLS,
}

_HANDLERS: Final[dict[str, Callable[[SmtpServer, str], None]]] = {
    "HELO": partial(SmtpServer._on_hello, is_extended=False, is_lmtp=False),
    "EHLO": partial(SmtpServer._on_hello, is_extended=True, is_lmtp=False),
    "LHLO": partial(SmtpServer._on_hello, is_extended=True, is_lmtp=True),
    "MAIL": SmtpServer._on_mail_line,
    "RCPT": SmtpServer._on_rcpt_line,
    "DATA": SmtpServer._on_data,
    "BDAT": SmtpServer._on_bdat,
    "RSET": SmtpServer._on_reset,
    "NOOP": SmtpServer._on_noop,
    "QUIT": SmtpServer._on_quit,
    "HELP": SmtpServer._on_help,
    "VRFY": SmtpServer._on_verify,
    "STARTTLS": SmtpServer._on_start_tls,
    "AUTH": SmtpServer._on_auth,
}
