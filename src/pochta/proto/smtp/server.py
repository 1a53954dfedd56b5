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
    COMMAND    commands                 DATA: DataStart answered 354; AUTH: a 334 was sent; TLS: StartTls answered 2xx;
                                        CLOSED: QUIT, 421
    AUTH       one base64 line          COMMAND: the exchange is over
    DATA       the message              COMMAND: the end mark was seen
    TLS        dropped                  COMMAND: start_tls_done()
    CLOSED     dropped                  -

Beside the state there are three facts: whether the client said hello, whether a transaction is open (MAIL was
accepted), and how many of its recipients were. Hello, RSET, start_tls_done and the end of a message close it.

What is pipelined behind STARTTLS never reaches the other side of the handshake: it is dropped when 220 goes out, and
again in `start_tls_done`.
"""

from binascii import b2a_base64
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.address import Address
from pochta.proto.buffer import CRLF, LF, InputBuffer
from pochta.proto.sasl import LOGIN_PASSWORD, LOGIN_USERNAME, LoginExchange, decode_base64, decode_plain
from pochta.proto.smtp import commands, events, replies
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.data import BareNewline, DataDecoder
from pochta.proto.smtp.events import CloseReason, DataFault, Event, Question
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply, encode_reply

# Browsers made to speak to a mail server by a web page send these; nothing they send after may be obeyed.
_HTTP_VERBS: Final = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE"})
ANSWERS_A_TURN: Final = 200  # commands the engine answers by itself, 3 us each, before its driver has a say
_KNOWN_BUT_ABSENT: Final = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT", "BURL", "ATRN"})
_DECODED_HERE: Final = frozenset({"PLAIN", "LOGIN"})
_FAULT_REPLIES: Final = {
    DataFault.TOO_LARGE: replies.MESSAGE_TOO_LARGE,
    DataFault.BARE_NEWLINE: replies.BARE_NEWLINE_IN_DATA,
}


class _State(Enum):
    NEW = "new"
    REFUSED = "refused"
    COMMAND = "command"
    AUTH = "auth"
    DATA = "data"
    TLS = "tls"
    CLOSED = "closed"


@dataclass(slots=True)
class _Exchange:
    """An AUTH exchange under way."""

    mechanism: str
    login: LoginExchange = field(default_factory=LoginExchange, repr=False)


class SmtpServer:
    """One connection's engine; see the module's theory of operation.

    `auth_mechanisms` and `can_start_tls` may be changed at any time, as a rule after TLS has started; they decide what
    the next EHLO offers. PLAIN and LOGIN come as `Credentials`, every other mechanism as `Auth` and `AuthResponse`.
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
    ) -> None:
        self.hostname = hostname
        self.limits = limits
        self.is_lmtp = is_lmtp
        self.can_start_tls = can_start_tls
        self.is_secure = is_secure
        self.auth_mechanisms = auth_mechanisms
        self.requires_auth = requires_auth
        self.is_authenticated = False
        self._bare_newline = bare_newline
        self._buffer = InputBuffer(resync=CRLF if bare_newline is BareNewline.REFUSE else LF)
        self._out: list[bytes] = []
        self._state = _State.NEW
        self._events: list[Event] = []  # not handed out yet: at most a DataChunk and what follows it
        self._question: Question | None = None
        self._has_said_hello = False
        self._has_mail = False
        self._is_smtputf8 = False
        self._rcpt_tried = 0
        self._rcpt_accepted = 0
        self._replies_due = 0  # after DataEnd
        self._errors = 0
        self._exchange: _Exchange | None = None
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
        """Whether the client is sending a message (its timeout differs, RFC 5321 §4.5.3.2)."""
        return self._state is _State.DATA

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
            if self._state is _State.DATA:
                if not self._receive_message():
                    return None
            elif self._state in _LINE_STATES:
                try:
                    if not self._receive_line():
                        return None
                except CommandError as error:
                    self._fail(error.reply)
            else:
                return None
        return self._events.pop(0)

    def accept(self) -> None:
        """Answer the open question with its usual positive reply."""
        question = self._open_question()
        if isinstance(question, events.Hello):
            self._settle(question, self._hello_reply(question))
        else:
            self._settle(question, _ACCEPTANCE.get(type(question), replies.AUTH_OK))

    def reply(self, reply: Reply) -> None:
        """Answer the open question. The engine believes the code: 2xx (for `DataStart` 354) is a yes."""
        self._settle(self._open_question(), reply)

    def challenge(self, challenge: bytes) -> None:
        """Answer `Auth` or `AuthResponse` with a challenge; the next event is an `AuthResponse`."""
        question = self._open_question()
        if not isinstance(question, events.Auth | events.AuthResponse) or self._exchange is None:
            raise LocalProtocolError("no exchange to challenge in")
        self._question = None
        self._send_challenge(challenge)

    def start_tls_done(self) -> None:
        """The handshake is done: back to the state after the greeting, with nothing the client said before."""
        if self._state is not _State.TLS:
            raise LocalProtocolError("start_tls_done() without STARTTLS")
        # RFC 3207 §4.2: all knowledge obtained from the client before is discarded.
        self._buffer.clear()
        self._close_transaction()
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
        is_yes = reply.is_positive
        if isinstance(question, _AUTH_QUESTIONS):
            self._end_exchange()
            self.is_authenticated = is_yes
            if reply.code >= 500:
                self._question = None
                self._fail(reply)
                return
        if reply.code == 421:
            self._question = None
            self._close(reply, CloseReason.SHUT_DOWN)
            return
        self._out.append(encode_reply(reply))
        if isinstance(question, events.DataEnd):
            # RFC 2033 §4.2: LMTP answers once for each accepted recipient, in their order.
            self._replies_due -= 1
            if self._replies_due:
                return
            self._close_transaction()
        elif isinstance(question, events.Rcpt):
            self._rcpt_accepted += is_yes
        elif isinstance(question, events.Mail):
            self._has_mail = is_yes
            self._is_smtputf8 = question.is_smtputf8
        elif isinstance(question, events.DataStart):
            if reply.code == 354:
                self._decoder = DataDecoder(self.limits.max_message_bytes, self._bare_newline)
                self._state = _State.DATA
        # RFC 5321 §4.1.4: a refused hello changes nothing.
        elif isinstance(question, events.Hello) and is_yes:
            self._close_transaction()
            self._has_said_hello = True
        elif isinstance(question, events.StartTls) and is_yes:
            self._buffer.clear()
            self._state = _State.TLS
        self._question = None

    def _send(self, reply: Reply) -> None:
        if reply.code == 421:
            self._close(reply, CloseReason.SHUT_DOWN)
        else:
            self._out.append(encode_reply(reply))

    def _fail(self, reply: Reply) -> None:
        """Answer a faulty command, or close when there were too many."""
        self._end_exchange()
        self._errors += 1
        if self._errors >= self.limits.max_errors:
            self._close(replies.TOO_MANY_ERRORS, CloseReason.TOO_MANY_ERRORS)
        else:
            self._out.append(encode_reply(reply))

    def _close(self, reply: Reply, reason: CloseReason) -> None:
        self._out.append(encode_reply(reply))
        self._close_transaction()
        self._buffer.clear()
        self._decoder = self._exchange = None
        self._state = _State.CLOSED
        self._events.append(events.Closed(reason))

    def _close_transaction(self) -> None:
        self._has_mail = self._is_smtputf8 = False
        self._rcpt_tried = self._rcpt_accepted = 0

    def _receive_line(self) -> bool:
        """Deal with one line; False when there is none yet."""
        limits = self.limits
        # Long lines are only waited for where AUTH can come.
        max_bytes = limits.max_auth_line_bytes if self.auth_mechanisms else limits.max_command_line_bytes
        try:
            line = self._buffer.take_line(max_bytes)
        except RemoteProtocolError as error:
            raise CommandError(self._too_long()) from error
        if line is None:
            return False
        if line[-2:] != CRLF:
            if self._bare_newline is BareNewline.REFUSE:
                # What follows, up to the CRLF, belongs to this line: it must not be obeyed as a command.
                self._buffer.skip_through(CRLF)
                raise CommandError(replies.BARE_NEWLINE)
            line = line[:-1] + CRLF
        if self._state is _State.AUTH:
            self._on_auth_line(line[:-2])
        else:
            self._on_command(line)
        return True

    def _too_long(self) -> Reply:
        return replies.AUTH_LINE_TOO_LONG if self._state is _State.AUTH else replies.LINE_TOO_LONG

    def _on_command(self, line: bytes) -> None:
        match = commands.PLAIN_PATH.fullmatch(line) if self._state is _State.COMMAND else None
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
        elif verb_name in _HTTP_VERBS:
            self._close(replies.NOT_SMTP, CloseReason.NOT_SMTP)
        else:
            raise CommandError(replies.NOT_IMPLEMENTED if verb_name in _KNOWN_BUT_ABSENT else replies.UNKNOWN_COMMAND)

    def _on_hello(self, argument: str, *, is_extended: bool, is_lmtp: bool) -> None:
        # RFC 2033 §4.1: LMTP has LHLO in place of HELO and EHLO, which get 500.
        if is_lmtp is not self.is_lmtp:
            raise CommandError(replies.WRONG_HELLO)
        self._ask(events.Hello(commands.parse_hello(argument), is_extended))

    def _on_helo(self, argument: str) -> None:
        self._on_hello(argument, is_extended=False, is_lmtp=False)

    def _on_ehlo(self, argument: str) -> None:
        self._on_hello(argument, is_extended=True, is_lmtp=False)

    def _on_lhlo(self, argument: str) -> None:
        self._on_hello(argument, is_extended=True, is_lmtp=True)

    def _hello_reply(self, question: events.Hello) -> Reply:
        """RFC 5321 §4.1.1.1: our name, then one line per extension that works here and now."""
        if not question.is_extended:
            return Reply(250, "", self.hostname)
        offers_auth = self.auth_mechanisms and not self.is_authenticated
        lines = [
            self.hostname,
            "PIPELINING",
            f"SIZE {self.limits.max_message_bytes}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            # RFC 3207 §4.2: not offered again once TLS is active.
            *(["STARTTLS"] if self._offers_tls else []),
            *([f"AUTH {' '.join(self.auth_mechanisms)}"] if offers_auth else []),
            "HELP",
        ]
        return Reply(250, "", "\n".join(lines))

    @property
    def _offers_tls(self) -> bool:
        return self.can_start_tls and not self.is_secure

    def _on_start_tls(self, argument: str) -> None:
        # RFC 3207 §4: no parameters.
        _refuse_argument(argument)
        if self.is_secure:
            raise CommandError(replies.TLS_ACTIVE)
        if not self.can_start_tls:
            raise CommandError(replies.NOT_IMPLEMENTED)
        self._ask(events.StartTls())

    def _on_mail_line(self, argument: str) -> None:
        self._on_mail(*commands.parse_mail(argument))

    def _on_mail(self, reverse_path: Address | None, text: str) -> None:
        if not self._has_said_hello:
            raise CommandError(replies.HELLO_FIRST)
        # RFC 4954 §6: 530 where policy wants authentication first.
        if self.requires_auth and not self.is_authenticated:
            raise CommandError(replies.AUTH_REQUIRED)
        # RFC 5321 §4.1.4: no MAIL inside a transaction.
        if self._has_mail:
            raise CommandError(replies.NESTED_MAIL)
        parameters = commands.NO_MAIL_PARAMETERS
        if text:
            parameters = commands.parse_mail_parameters(
                text,
                max_message_bytes=self.limits.max_message_bytes,
                is_auth_offered=bool(self.auth_mechanisms) or self.is_authenticated,
            )
        if reverse_path is not None and not parameters.is_smtputf8 and not reverse_path.is_ascii:
            raise CommandError(replies.SENDER_NOT_ASCII)
        self._ask(events.Mail(reverse_path, *parameters))

    def _on_rcpt_line(self, argument: str) -> None:
        self._on_rcpt(*commands.parse_rcpt(argument))

    def _on_rcpt(self, forward_path: Address, text: str) -> None:
        if not self._has_mail:
            raise CommandError(replies.MAIL_FIRST)
        self._rcpt_tried += 1
        if text:
            commands.refuse_rcpt_parameters(text)
        if not self._is_smtputf8 and not forward_path.is_ascii:
            raise CommandError(replies.RECIPIENT_NOT_ASCII)
        if self._rcpt_accepted >= self.limits.max_recipients:
            # Not an error of the client's: it cannot know the limit.
            self._out.append(encode_reply(replies.TOO_MANY_RECIPIENTS))
            return
        self._ask(events.Rcpt(forward_path))

    def _on_data(self, argument: str) -> None:
        _refuse_argument(argument)
        if not self._has_mail:
            raise CommandError(replies.MAIL_FIRST)
        # RFC 2920 §3.2: DATA succeeds only when there is a valid recipient. RFC 2033 §4.2: 503 otherwise in LMTP.
        if not self._rcpt_accepted:
            is_sequence = self.is_lmtp or not self._rcpt_tried
            raise CommandError(replies.RCPT_FIRST if is_sequence else replies.NO_VALID_RECIPIENTS)
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
        self._replies_due = self._rcpt_accepted if self.is_lmtp else 1
        if decoder.fault is None:
            self._ask(events.DataEnd(decoder.size))
            return
        self._out.append(encode_reply(_FAULT_REPLIES[decoder.fault]) * self._replies_due)
        self._close_transaction()
        self._events.append(events.DataRejected(decoder.fault))

    def _on_reset(self, argument: str) -> None:
        _refuse_argument(argument)
        had_mail = self._has_mail
        self._close_transaction()
        self._out.append(encode_reply(replies.RESET))
        if had_mail:
            self._events.append(events.Reset())

    def _on_noop(self, argument: str) -> None:
        self._out.append(encode_reply(replies.OK))

    def _on_quit(self, argument: str) -> None:
        _refuse_argument(argument)
        self._close(replies.BYE, CloseReason.QUIT)

    def _on_help(self, argument: str) -> None:
        verbs = ["LHLO"] if self.is_lmtp else ["HELO", "EHLO"]
        verbs += ["STARTTLS"] if self._offers_tls else []
        verbs += ["AUTH"] if self.auth_mechanisms and not self.is_authenticated else []
        verbs += ["MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "HELP", "QUIT"]
        self._out.append(encode_reply(Reply(214, "2.0.0", f"Commands: {' '.join(verbs)}")))

    def _on_verify(self, argument: str) -> None:
        if not argument:
            raise CommandError(replies.VRFY_SYNTAX)
        # RFC 5321 §7.3: a site may hide its users behind 252.
        self._out.append(encode_reply(replies.CANNOT_VERIFY))

    def _on_auth(self, argument: str) -> None:
        """Source: RFC 4954 §4."""
        if not self.auth_mechanisms:
            raise CommandError(replies.ENCRYPTION_REQUIRED if self._offers_tls else replies.NOT_IMPLEMENTED)
        if not self._has_said_hello:
            raise CommandError(replies.HELLO_FIRST)
        if self.is_authenticated:
            raise CommandError(replies.AUTH_DONE)
        if self._has_mail:
            raise CommandError(replies.NOT_IN_TRANSACTION)
        mechanism, response = commands.parse_auth(argument)
        if mechanism not in self.auth_mechanisms:
            raise CommandError(replies.AUTH_UNKNOWN)
        # RFC 4954 §4: an empty initial response is sent as "=".
        initial = None if response is None else b"" if response == "=" else _decoded(response.encode("utf-8"))
        self._exchange = _Exchange(mechanism)
        if mechanism not in _DECODED_HERE:
            self._ask(events.Auth(mechanism, initial))
        elif initial is not None:
            self._on_auth_response(self._exchange, initial)
        else:
            self._send_challenge(LOGIN_USERNAME if mechanism == "LOGIN" else b"")

    def _on_auth_line(self, line: bytes) -> None:
        # RFC 4954 §4: "*" cancels, answered 501.
        if line == b"*":
            raise CommandError(replies.AUTH_CANCELLED)
        response = _decoded(line)
        assert self._exchange is not None
        self._state = _State.COMMAND
        self._on_auth_response(self._exchange, response)

    def _on_auth_response(self, exchange: _Exchange, response: bytes) -> None:
        if exchange.mechanism not in _DECODED_HERE:
            self._ask(events.AuthResponse(response))
            return
        try:
            if exchange.mechanism == "PLAIN":
                credentials = decode_plain(response)
            else:
                exchange.login.respond(response)
                if exchange.login.credentials is None:
                    self._send_challenge(LOGIN_PASSWORD)
                    return
                credentials = exchange.login.credentials
        except RemoteProtocolError:
            # `from None`: no trace of what may be a password.
            raise CommandError(replies.AUTH_BAD_RESPONSE) from None
        self._ask(
            events.Credentials(exchange.mechanism, credentials.authzid, credentials.authcid, credentials.password)
        )

    def _send_challenge(self, challenge: bytes) -> None:
        # RFC 4954 §4: the space stands there before an empty challenge, too.
        self._out.append(b"334 " + b2a_base64(challenge, newline=False) + b"\r\n")
        self._state = _State.AUTH

    def _end_exchange(self) -> None:
        self._exchange = None
        if self._state is _State.AUTH:
            self._state = _State.COMMAND


def _decoded(line: bytes) -> bytes:
    try:
        return decode_base64(line)
    except RemoteProtocolError:
        # RFC 4954 §4: 501 5.5.2 for what cannot be decoded.
        raise CommandError(replies.AUTH_BAD_RESPONSE) from None


def _refuse_argument(argument: str) -> None:
    # RFC 5321 §4.1.1: RSET, DATA and QUIT take no parameters.
    if argument:
        raise CommandError(replies.NO_PARAMETERS)


_AUTH_QUESTIONS: Final = (events.Credentials, events.Auth, events.AuthResponse)
_LINE_STATES: Final = frozenset({_State.COMMAND, _State.AUTH, _State.REFUSED})

_ACCEPTANCE: Final[dict[type[Question], Reply]] = {
    events.Mail: replies.SENDER_OK,
    events.Rcpt: replies.RECIPIENT_OK,
    events.DataStart: replies.START_MAIL,
    events.DataEnd: replies.MESSAGE_OK,
    events.StartTls: replies.START_TLS,
}

_HANDLERS: Final = {
    "HELO": SmtpServer._on_helo,
    "EHLO": SmtpServer._on_ehlo,
    "LHLO": SmtpServer._on_lhlo,
    "MAIL": SmtpServer._on_mail_line,
    "RCPT": SmtpServer._on_rcpt_line,
    "DATA": SmtpServer._on_data,
    "RSET": SmtpServer._on_reset,
    "NOOP": SmtpServer._on_noop,
    "QUIT": SmtpServer._on_quit,
    "HELP": SmtpServer._on_help,
    "VRFY": SmtpServer._on_verify,
    "STARTTLS": SmtpServer._on_start_tls,
    "AUTH": SmtpServer._on_auth,
}
