"""The SMTP and LMTP client engine: what is to be sent in, bytes out; bytes in, events out. No I/O.

Theory of operation
-------------------
The driver connects, feeds what arrives (`receive_data`, `receive_eof`), asks for events until there are none
(`next_event`), and writes what `data_to_send` collects. Greeting and hello happen by themselves and end in `Ready`.
From then on the driver calls one operation at a time and waits for the event that ends it:

    operation       event                       what leaves
    start_tls       StartTls, TlsRefused        STARTTLS; after the handshake start_tls_done: EHLO, then Ready
    authenticate    SignedIn, AuthRefused       AUTH and its answers
    send            Sent                        MAIL, RCPT…, then DATA or BDAT and the message
    reset           ResetDone                   RSET
    quit            Closed                      QUIT

`Lost` may come instead of any of them; nothing works after it. Whatever the server does, each operation ends in its
event, in `Lost`, or in silence, for which `timeout_s` says how long to wait.

    state      the engine waits for             goes to, when
    GREETING   220                              HELLO; CLOSED: anything else
    HELLO      the answer to EHLO, HELO, LHLO   IDLE: 2xx; HELLO: EHLO was refused, HELO goes out
    IDLE       the driver, or a RSET's answer   BUSY, QUITTING; TLS: 220 to STARTTLS
    BUSY       replies                          IDLE: the operation has ended; BODY: the message may come
    BODY       the driver (`wants_body`)        BUSY: `end_body`, or a chunk was refused
    TLS        the handshake                    HELLO: start_tls_done
    QUITTING   221                              CLOSED
    CLOSED     nothing                          -

Commands wait in groups, each of which leaves only when every reply due has come; with PIPELINING a transaction is one
group, else every command is one. `_due` lists what the replies to come will answer. Replies are matched by counting
(RFC 2920 §3.1). A server that has said anything when nothing is due has answered before it was asked, and is lost: so
no reply can be planted in front of a command, not behind STARTTLS either, where all that was received is dropped.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.auth import AuthClient
from pochta.proto.smtp.client.body import LineEncoder, encode_chunk
from pochta.proto.smtp.client.envelope import BodyKind, Envelope, encode_commands
from pochta.proto.smtp.client.events import Event, LostReason
from pochta.proto.smtp.client.extensions import NO_EXTENSIONS, Extensions, parse_extensions
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.proto.smtp.client.pipeline import OF_THE_MESSAGE, SMALL_GROUP, TIMEOUTS, Due, Group, in_groups
from pochta.proto.smtp.client.replies import ReplyParser
from pochta.proto.smtp.client.transaction import Outgoing
from pochta.proto.smtp.replies import Reply

MAX_WHOLE_BYTES: Final = 64 * 1024
"""The largest message that goes out unasked behind its recipients: a round trip saved is worth that much waste when all
of them are refused, and it fits the output bound of INV-7."""
CHUNKS_DUE: Final = 4  # chunks by BDAT under way with PIPELINING: enough to cover a round trip


class _State(Enum):
    GREETING = "greeting"
    HELLO = "hello"
    IDLE = "idle"
    BUSY = "busy"
    BODY = "body"
    TLS = "tls"
    QUITTING = "quitting"
    CLOSED = "closed"


class SmtpClient:
    """One connection's engine; see the module's theory of operation.

    `says_helo`: for a server that closed at EHLO. `uses_chunking`: whether BDAT is preferred where it is offered.
    """

    def __init__(
        self,
        hello_name: str,
        *,
        limits: ClientLimits,
        is_lmtp: bool = False,
        says_helo: bool = False,
        uses_chunking: bool = True,
    ) -> None:
        if not hello_name.isascii() or not hello_name.isprintable() or " " in hello_name or not hello_name:
            raise LocalProtocolError("a name that cannot be said in a hello")
        self.limits = limits
        self.is_lmtp = is_lmtp
        self.extensions: Extensions = NO_EXTENSIONS
        self.is_signed_in = False
        self.has_been_greeted = False  # by 220
        self.replies_seen = 0  # progress, for whoever watches the time
        self._hello_name = hello_name.encode("ascii")
        self._uses_chunking = uses_chunking
        self._verb = b"LHLO" if is_lmtp else b"HELO" if says_helo else b"EHLO"
        self._parser = ReplyParser(limits)
        self._state = _State.GREETING
        self._due: deque[Due] = deque((Due.GREETING,))
        self._groups: deque[Group] = deque()
        self._out: list[bytes] = []
        self._events: deque[Event] = deque()
        self._is_eof = False
        self._auth: AuthClient | None = None
        self._outgoing: Outgoing | None = None
        self._whole: bytes | None = None  # the message, where it was given at once
        self._encoder: LineEncoder | None = None
        self._held: bytes | None = None  # the newest chunk: it may be the last

    @property
    def is_idle(self) -> bool:
        """Whether an operation may be called."""
        return self._state is _State.IDLE

    @property
    def is_closed(self) -> bool:
        """Whether the conversation is over."""
        return self._state is _State.CLOSED

    @property
    def wants_body(self) -> bool:
        """Whether `send_body` and `end_body` may be called now."""
        if self._state is not _State.BODY:
            return False
        return len(self._due) < (CHUNKS_DUE if self.extensions.has_pipelining and not self.is_lmtp else 1)

    @property
    def timeout_s(self) -> float | None:
        """How long the driver may wait for what comes next; None when nothing is due. Source: RFC 5321 §4.5.3.2."""
        if self._due:
            return TIMEOUTS[self._due[0]](self.limits)
        return self.limits.block_timeout_s if self._state is _State.BODY else None

    def receive_data(self, data: bytes) -> None:
        """Take what arrived."""
        if self._state is not _State.CLOSED and self._state is not _State.TLS:
            self._parser.feed(data)

    def receive_eof(self) -> None:
        """The server sends nothing more; what it sent before still counts."""
        self._is_eof = True

    def give_up(self) -> None:
        """The driver has waited long enough; `Lost` tells how far things are."""
        if self._state is not _State.CLOSED:
            self._lose(LostReason.TIMED_OUT)

    def data_to_send(self) -> bytes:
        """Everything not yet handed out; `b""` when there is nothing."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next event; None when more input, or the driver, is needed."""
        while not self._events:
            if self._state is _State.CLOSED or self._state is _State.TLS:
                return None
            try:
                reply = self._parser.next_reply()
            except RemoteProtocolError:
                self._lose(LostReason.GARBAGE)
                continue
            if reply is not None:
                self.replies_seen += 1
                self._on_reply(reply)
            elif not self._is_eof:
                return None
            elif self._state is _State.QUITTING:
                self._close(events.Closed())
            else:
                self._lose(LostReason.CLOSED)
        return self._events.popleft()

    def start_tls(self) -> None:
        """Ask for TLS; the server must offer it."""
        self._require_idle()
        if not self.extensions.has_start_tls:
            raise LocalProtocolError("STARTTLS is not offered")
        self._begin(b"STARTTLS\r\n", Due.START_TLS)

    def start_tls_done(self) -> None:
        """The handshake is done: begin anew with the hello."""
        if self._state is not _State.TLS:
            raise LocalProtocolError("start_tls_done() without STARTTLS")
        # RFC 3207 §4.2: whatever was learned before, the extensions above all, is forgotten.
        self._parser.clear()
        self.extensions = NO_EXTENSIONS
        self.is_signed_in = False
        self._verb = b"LHLO" if self.is_lmtp else b"EHLO"
        self._say_hello()

    def authenticate(self, mechanism: str, username: str, password: str) -> None:
        """Sign in by `PLAIN` or `LOGIN`; the server must offer it, and the connection be fit for a password."""
        self._require_idle()
        if mechanism not in self.extensions.auth_mechanisms:
            raise LocalProtocolError("the mechanism is not offered")
        self._auth = AuthClient(mechanism, username, password)
        self._begin(self._auth.begin(), Due.AUTH)

    def send(self, envelope: Envelope, *, size_bytes: int | None = None, body: bytes | None = None) -> None:
        """Begin a transaction. `size_bytes` is declared where the server takes that.

        `body`: the message, where it is at hand and at most `MAX_WHOLE_BYTES`; with PIPELINING everything then leaves
        at once. Without it the message is asked for (`wants_body`) once a recipient was accepted.
        Raises: LocalProtocolError when the envelope cannot be sent to this server; nothing has left then.
        """
        self._require_idle()
        if body is not None and len(body) > MAX_WHOLE_BYTES:
            raise LocalProtocolError("a body too large to be sent whole")
        offered = self.extensions
        commands = encode_commands(envelope, offered, size_bytes=size_bytes, is_signed_in=self.is_signed_in)
        is_binary = envelope.body is BodyKind.BINARY
        # RFC 3030 §3: a binary message cannot go by DATA.
        is_bdat = offered.has_chunking and (self._uses_chunking or is_binary)
        self._outgoing = Outgoing(len(envelope.recipients), is_lmtp=self.is_lmtp, is_bdat=is_bdat)
        self._encoder = None if is_binary else LineEncoder(stuffs_dots=not is_bdat)
        self._whole = body
        self._held = None
        self._state = _State.BUSY
        due = [Due.MAIL, *[Due.RCPT] * len(envelope.recipients)]
        if not is_bdat:
            commands.append(b"DATA\r\n")
            due.append(Due.DATA)
        # In LMTP the answers to the last chunk are as many as recipients were accepted: that has to be known before.
        elif body is not None and offered.has_pipelining and not self.is_lmtp:
            commands.append(encode_chunk(self._encoded_whole(body), is_last=True))
            due.append(Due.END)
            self._whole = None
        # RFC 2920 §3.1: MAIL and RCPT anywhere in a group, DATA last in it. RFC 3030 §4.2 lets BDAT be pipelined.
        if not offered.has_pipelining:
            self._groups.extend((line, (one,)) for line, one in zip(commands, due, strict=True))
        elif len(due) <= SMALL_GROUP:
            self._groups.append((b"".join(commands), tuple(due)))
        else:
            self._groups.extend(in_groups(commands, due))
        self._pump()

    def send_body(self, data: bytes) -> None:
        """The next bytes of the message, cut anywhere; each call is a chunk where the server takes BDAT."""
        if not self.wants_body:
            raise LocalProtocolError("nobody asked for the body")
        text = self._encoder.encode(data) if self._encoder is not None else data
        if not text:
            return
        if not self._current.is_bdat:
            self._out.append(text)
            return
        if self._held is not None:
            self._out.append(encode_chunk(self._held, is_last=False))
            self._due.append(Due.CHUNK)
        self._held = text

    def end_body(self) -> None:
        """The message is complete."""
        if not self.wants_body:
            raise LocalProtocolError("nobody asked for the body")
        rest = self._encoder.finish() if self._encoder is not None else b""
        if self._current.is_bdat:
            rest = encode_chunk((self._held or b"") + rest, is_last=True)
            self._held = None
        self._out.append(rest)
        self._current.is_complete = True
        self._due.extend([Due.END] * self._current.replies_due)
        self._state = _State.BUSY

    def reset(self) -> None:
        """Say RSET, to see whether the server still listens."""
        self._require_idle()
        self._begin(b"RSET\r\n", Due.RESET)

    def quit(self) -> None:
        """Say goodbye."""
        self._require_idle()
        self._begin(b"QUIT\r\n", Due.QUIT)
        if self._state is not _State.CLOSED:
            self._state = _State.QUITTING

    def _require_idle(self) -> None:
        if self._state is not _State.IDLE:
            raise LocalProtocolError("not between two operations")

    @property
    def _current(self) -> Outgoing:
        if self._outgoing is None:
            raise LocalProtocolError("no transaction")
        return self._outgoing

    def _encoded_whole(self, body: bytes) -> bytes:
        if self._encoder is None:
            return body
        text = self._encoder.encode(body)
        rest = self._encoder.finish()
        return text + rest if rest else text

    def _begin(self, command: bytes, due: Due) -> None:
        self._state = _State.BUSY
        self._groups.append((command, (due,)))
        self._pump()

    def _pump(self) -> None:
        """Let the next group leave when nothing is due."""
        if self._due or not self._groups or self._state is _State.CLOSED:
            return
        if not self._is_asked():
            return
        command, due = self._groups.popleft()
        self._out.append(command)
        self._due.extend(due)
        if due[-1] is Due.END:
            self._current.is_complete = True

    def _is_asked(self) -> bool:
        """Whether the server waits for us; one that has spoken already is lost."""
        if not self._parser.has_input:
            return True
        try:
            reply = self._parser.next_reply()
        except RemoteProtocolError:
            reply = None
        self._on_unsolicited(reply)
        return False

    def _on_unsolicited(self, reply: Reply | None) -> None:
        # RFC 5321 §3.8: 421 may come at any time.
        is_shutting_down = reply is not None and reply.code == 421
        self._lose(LostReason.SHUTTING_DOWN if is_shutting_down else LostReason.UNSOLICITED, reply)

    def _on_reply(self, reply: Reply) -> None:
        if not self._due:
            if self._state is _State.BODY and reply.code >= 400:
                self._refuse_early(reply)
            else:
                self._on_unsolicited(reply)
            return
        due = self._due.popleft()
        if reply.code == 421 and due is not Due.QUIT:
            self._on_shutting_down(due, reply)
            return
        _HANDLERS[due](self, reply)
        if not self._due:
            self._pump()

    def _lose(self, reason: LostReason, reply: Reply | None = None) -> None:
        outgoing = self._outgoing
        fates = outgoing.fates() if outgoing is not None else ()
        is_in_doubt = outgoing is not None and outgoing.is_complete and None in fates
        self._close(events.Lost(reason, reply, fates, is_in_doubt))

    def _close(self, event: Event) -> None:
        self._state = _State.CLOSED
        self._due.clear()
        self._groups.clear()
        self._parser.clear()
        self._outgoing = self._encoder = self._auth = self._whole = self._held = None
        self._events.append(event)

    def _on_shutting_down(self, due: Due, reply: Reply) -> None:
        if due is Due.HELLO or due is Due.GREETING or self._outgoing is None:
            self._lose(LostReason.SHUTTING_DOWN, reply)
            return
        if due is Due.MAIL:
            self._outgoing.mail = reply
        elif due in OF_THE_MESSAGE:
            self._outgoing.decide(reply)
        # What was refused before stays so; everybody else gets this answer, which is a temporary one.
        self._events.append(self._outgoing.sent(reply))
        self._outgoing = None
        self._lose(LostReason.SHUTTING_DOWN, reply)

    def _refuse_early(self, reply: Reply) -> None:
        """A refusal in the middle of the message: it decides, but nobody knows what the server reads next."""
        self._current.decide(reply)
        self._events.append(self._current.sent())
        self._outgoing = None
        self._lose(LostReason.SHUTTING_DOWN if reply.code == 421 else LostReason.EARLY, reply)

    def _on_greeting(self, reply: Reply) -> None:
        # RFC 5321 §4.3.2: the greeting is 220; 554 says that there is no mail service here.
        if reply.code == 220:
            self.has_been_greeted = True
            self._say_hello()
            return
        if reply.code >= 400:
            self._out.append(b"QUIT\r\n")
        self._lose(LostReason.REFUSED if reply.code >= 400 else LostReason.OUT_OF_ORDER, reply)

    def _say_hello(self) -> None:
        self._state = _State.HELLO
        self._groups.append((b"%b %b\r\n" % (self._verb, self._hello_name), (Due.HELLO,)))
        self._pump()

    def _on_hello(self, reply: Reply) -> None:
        if reply.is_positive:
            self.extensions = NO_EXTENSIONS if self._verb == b"HELO" else parse_extensions(reply)
            self._state = _State.IDLE
            self._events.append(events.Ready(self.extensions, reply))
        elif reply.code < 400:
            self._lose(LostReason.OUT_OF_ORDER, reply)
        # RFC 5321 §3.2: a server that does not know EHLO is greeted by HELO.
        elif self._verb == b"EHLO":
            self._verb = b"HELO"
            self._say_hello()
        else:
            self._out.append(b"QUIT\r\n")
            self._lose(LostReason.REFUSED, reply)

    def _on_start_tls(self, reply: Reply) -> None:
        # RFC 3207 §4: 220 alone is a yes.
        if reply.code == 220:
            # RFC 3207 §6: what came in the clear behind it must not be taken for protected.
            self._parser.clear()
            self._state = _State.TLS
            self._events.append(events.StartTls())
        else:
            self._end_operation(reply, events.TlsRefused(reply))

    def _on_auth(self, reply: Reply) -> None:
        assert self._auth is not None
        if reply.code == 235:
            self._auth = None
            self.is_signed_in = True
            self._state = _State.IDLE
            self._events.append(events.SignedIn(reply))
        elif reply.code == 334:
            answer = self._auth.respond()
            if answer is None:
                self._lose(LostReason.OUT_OF_ORDER, reply)
            else:
                self._groups.append((answer, (Due.AUTH,)))
        else:
            self._auth = None
            self._end_operation(reply, events.AuthRefused(reply))

    def _end_operation(self, reply: Reply, event: Event) -> None:
        """The operation ended by a refusal; anything but a refusal makes no sense here."""
        if reply.code < 400:
            self._lose(LostReason.OUT_OF_ORDER, reply)
            return
        self._state = _State.IDLE
        self._events.append(event)

    def _on_mail(self, reply: Reply) -> None:
        if self._is_final(reply):
            self._current.mail = reply
            if not reply.is_positive:
                self._groups.clear()
            self._go_on()

    def _on_rcpt(self, reply: Reply) -> None:
        if self._is_final(reply):
            self._current.add_rcpt(reply)
            # Where DATA is alone in its group it has not left yet, and is not needed for nobody.
            if not (self._due or self._current.has_recipients) and [one[1] for one in self._groups] == [(Due.DATA,)]:
                self._groups.clear()
            self._go_on()

    def _is_final(self, reply: Reply) -> bool:
        """Whether the reply is a yes or a no; the server is lost when not."""
        if 300 <= reply.code < 400:
            self._lose(LostReason.OUT_OF_ORDER, reply)
            return False
        return True

    def _go_on(self) -> None:
        """Go on with the message, or end, when all the envelope's commands are answered."""
        if self._due or self._groups:
            return
        outgoing = self._current
        if not outgoing.has_recipients or not outgoing.is_bdat:
            self._finish()
        elif self._is_asked():
            self._take_body()

    def _take_body(self) -> None:
        self._state = _State.BODY
        if self._whole is not None:
            self.send_body(self._whole)
            self.end_body()
            self._whole = None

    def _on_data(self, reply: Reply) -> None:
        outgoing = self._current
        if reply.code == 354:
            if not self._is_asked():
                return
            if outgoing.has_recipients:
                self._take_body()
                return
            # RFC 2920 §3.1: DATA was accepted though no recipient was: a single dot ends it.
            self._out.append(b".\r\n")
            self._due.append(Due.NOTHING_SENT)
        elif reply.code < 400:
            self._lose(LostReason.OUT_OF_ORDER, reply)
        else:
            if outgoing.has_recipients:
                outgoing.decide(reply)
            self._finish()

    def _on_chunk(self, reply: Reply) -> None:
        if not self._is_final(reply):
            return
        if not reply.is_positive:
            # RFC 3030 §2: after a refused chunk no other one is sent. Those under way are refused as well (503), which
            # says nothing new.
            self._current.decide(reply)
            self._state = _State.BUSY
            self._held = None
        if self._state is _State.BUSY and not self._due:
            self._finish()

    def _on_end(self, reply: Reply) -> None:
        outgoing = self._current
        if not self._is_final(reply):
            return
        if outgoing.has_recipients:
            outgoing.add_data(reply)
        if not self._due:
            self._finish()

    def _on_nothing_sent(self, _reply: Reply) -> None:
        self._finish()

    def _finish(self) -> None:
        """The transaction is over: tell, and clear what the server may have left of it."""
        outgoing = self._current
        self._state = _State.IDLE
        self._outgoing = self._encoder = self._whole = self._held = None
        self._events.append(outgoing.sent())
        if not outgoing.is_served:
            # RFC 3030 §2: RSET before anything else when a chunk was refused. RFC 2920 §3.1: when nobody was accepted.
            self._groups.append((b"RSET\r\n", (Due.CLEAN_UP,)))
            self._pump()

    def _on_clean_up(self, reply: Reply) -> None:
        if not reply.is_positive:
            self._lose(LostReason.OUT_OF_ORDER, reply)

    def _on_reset(self, reply: Reply) -> None:
        if reply.is_positive:
            self._state = _State.IDLE
            self._events.append(events.ResetDone(reply))
        else:
            self._lose(LostReason.OUT_OF_ORDER, reply)

    def _on_quit(self, _reply: Reply) -> None:
        self._close(events.Closed())


_HANDLERS: Final[dict[Due, Callable[[SmtpClient, Reply], None]]] = {
    Due.GREETING: SmtpClient._on_greeting,
    Due.HELLO: SmtpClient._on_hello,
    Due.START_TLS: SmtpClient._on_start_tls,
    Due.AUTH: SmtpClient._on_auth,
    Due.MAIL: SmtpClient._on_mail,
    Due.RCPT: SmtpClient._on_rcpt,
    Due.DATA: SmtpClient._on_data,
    Due.CHUNK: SmtpClient._on_chunk,
    Due.END: SmtpClient._on_end,
    Due.NOTHING_SENT: SmtpClient._on_nothing_sent,
    Due.CLEAN_UP: SmtpClient._on_clean_up,
    Due.RESET: SmtpClient._on_reset,
    Due.QUIT: SmtpClient._on_quit,
}
