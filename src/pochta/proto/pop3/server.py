"""The POP3 server engine: bytes in, events out; answers in, bytes out. No I/O.

Theory of operation
-------------------
The driver feeds what arrives (`receive_data`), asks for events until there are none (`next_event`), and writes what
`data_to_send` collects, once for all of them. A *question* (`events`) needs the driver: sign-in, TLS, the bytes of
messages, the removal at QUIT. The engine stands still until it is answered. Everything else it answers itself from the
`Maildrop` that came with the sign-in, so that answers leave in the order of the commands however much is pipelined.

    state          what arrives is      goes to, when
    AUTHORIZATION  commands             EXCHANGE: AUTH asked for a line; TLS: STLS was granted;
                                        TRANSACTION: the sign-in was; CLOSED: QUIT
    EXCHANGE       one base64 line      AUTHORIZATION: the exchange is over; TRANSACTION
    TRANSACTION    commands             CLOSED: QUIT, once its question was answered
    TLS            dropped              AUTHORIZATION: start_tls_done()
    CLOSED         dropped              -

RETRs that wait one behind the other come as one question, so that the driver can read their messages at once. Long
listings come in slices with a `Turn` in between, and so does anything whose answers have grown past TURN_BYTES.

What is pipelined behind STLS never reaches the other side of the handshake: it is dropped when +OK goes out, and again
in `start_tls_done`.

Source: RFC 1939, RFC 2449 (CAPA, response codes), RFC 2595 §4 (STLS), RFC 5034 (AUTH), RFC 3206, RFC 6856 §2 (UTF8).
"""

from binascii import b2a_base64
from collections.abc import Callable
from enum import Enum
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.buffer import InputBuffer
from pochta.proto.pop3 import commands, events
from pochta.proto.pop3.commands import CommandError
from pochta.proto.pop3.events import Event, Question
from pochta.proto.pop3.maildrop import Maildrop
from pochta.proto.pop3.multiline import END, DotStuffer, stuffed_whole

MAX_BAD_COMMANDS: Final = 20  # then we close; as Dovecot and our IMAP have it
LISTING_SLICE: Final = 1000  # lines of LIST and UIDL made at once: 0.4 ms
ANSWERS_A_TURN: Final = 500  # commands answered before the driver has a say, 2 us each
TURN_BYTES: Final = 64 * 1024  # of answers nobody has taken yet (INV-7)
RETRIEVE_BATCH: Final = 64  # messages of one question
RETRIEVE_BATCH_BYTES: Final = 64 * 1024  # as much as may be unsent; a larger one comes alone

MECHANISMS: Final = ("PLAIN", "LOGIN")  # what is offered unless the driver says otherwise


class _State(Enum):
    AUTHORIZATION = "authorization"
    EXCHANGE = "exchange"
    TRANSACTION = "transaction"
    TLS = "tls"
    CLOSED = "closed"


class Pop3Server:
    """One connection's engine; see the module's theory of operation.

    `is_secure` and `allows_plaintext_auth` decide whether passwords are taken, and so what CAPA offers. `mechanisms`
    may be changed at any time, as a rule after TLS has started.
    """

    def __init__(
        self, hostname: str, *, can_start_tls: bool, is_secure: bool, allows_plaintext_auth: bool = False
    ) -> None:
        self.hostname = hostname
        self.can_start_tls = can_start_tls
        self.is_secure = is_secure
        self.allows_plaintext_auth = allows_plaintext_auth
        self.mechanisms: tuple[str, ...] = MECHANISMS
        self.is_utf8 = False  # the client asked for RFC 6856; nothing that we send depends on it
        self.maildrop: Maildrop | None = None
        self._buffer = InputBuffer()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._state = _State.AUTHORIZATION
        self._question: Question | None = None
        self._due: list[int] = []  # indexes of the question that are not answered, the next one last
        self._stuffer: DotStuffer | None = None  # in the middle of a message
        self._listing: Callable[[int, int], bytes] | None = None
        self._listed = 0
        self._username: str | None = None  # after USER
        self._bad_commands = 0
        self._dropped = 0  # bytes behind STLS

    @property
    def is_closed(self) -> bool:
        """Whether the conversation is over: after the last bytes are written the connection is to be closed."""
        return self._state is _State.CLOSED

    @property
    def is_signed_in(self) -> bool:
        """Whether the TRANSACTION state was reached."""
        return self.maildrop is not None

    @property
    def may_sign_in(self) -> bool:
        """Whether a password may be sent on this connection as it is."""
        return self.is_secure or self.allows_plaintext_auth

    @property
    def has_question(self) -> bool:
        """Whether the event handed out last waits for an answer, or for more of them."""
        return self._question is not None

    @property
    def buffered_bytes(self) -> int:
        """Input not used yet; the driver stops reading above its bound."""
        return len(self._buffer)

    @property
    def pending_bytes(self) -> int:
        """What `data_to_send` would return."""
        return self._out_bytes

    def greet(self) -> None:
        """Send the greeting."""
        # RFC 1939 §7: without a timestamp in angle brackets, for APOP is not offered
        self._ok(f"{self.hostname} Pochta ready")

    def receive_data(self, data: bytes) -> None:
        """Take what arrived."""
        if self._state is _State.TLS:
            self._dropped += len(data)
        elif self._state is not _State.CLOSED:
            self._buffer.feed(data)

    def data_to_send(self) -> bytes:
        """Everything not yet handed out, in order; `b""` when there is nothing."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        return data

    def next_event(self) -> Event | None:
        """The next event; None when more input is needed or a question is open."""
        if self._question is not None:
            return None
        for _ in range(ANSWERS_A_TURN):
            if self._out_bytes >= TURN_BYTES:
                break
            if self._listing is not None:
                self._list_on(self._listing)
            elif self._state is _State.TLS or self._state is _State.CLOSED:
                return None
            elif not self._step():
                return self._question
        return events.Turn()

    def accept_sign_in(self, maildrop: Maildrop) -> None:
        """Answer `Credentials`, `Auth` or `AuthResponse`: the session works on this maildrop from now on."""
        self._settle(events.Credentials, events.Auth, events.AuthResponse)
        self.maildrop = maildrop
        self._username = None
        self._bad_commands = 0
        self._state = _State.TRANSACTION
        self._ok(_counted(maildrop))

    def challenge(self, challenge: bytes) -> None:
        """Answer `Auth` or `AuthResponse` with a challenge; the next event is an `AuthResponse`, or a command's."""
        self._settle(events.Auth, events.AuthResponse)
        self._send(b"+ " + b2a_base64(challenge, newline=False) + b"\r\n")
        self._state = _State.EXCHANGE

    def reject(self, text: str) -> None:
        """Answer `Auth` or `AuthResponse` with -ERR: the client broke the grammar of the mechanism."""
        self._settle(events.Auth, events.AuthResponse)
        self._fail(CommandError(text))

    def accept_tls(self) -> None:
        """Answer `StartTls`: send what is to be sent, shake hands, call `start_tls_done`."""
        self._settle(events.StartTls)
        self._ok("Begin TLS negotiation")
        self._dropped = len(self._buffer)
        self._buffer.clear()
        self._state = _State.TLS

    def start_tls_done(self) -> int:
        """The handshake is done; how many bytes the client had sent in the clear behind STLS, all dropped."""
        if self._state is not _State.TLS:
            raise LocalProtocolError("start_tls_done() without STLS")
        # RFC 2595 §2: nothing that was learnt before is kept
        self._username = None
        self.is_utf8 = False
        self.is_secure = True
        self._state = _State.AUTHORIZATION
        return self._dropped

    def accept_update(self) -> None:
        """Answer `Update`: everything that was marked as deleted is removed."""
        self._settle(events.Update)
        maildrop = self._drop()
        removed = len(maildrop) - maildrop.count
        self._ok(f"Bye, {removed} removed, {maildrop.count} left")
        self._close()

    def send_message(self, message: bytes) -> None:
        """Answer for the next message of `Retrieve` or `Top` with these bytes."""
        self._begin_answer()
        self._send(b"+OK %d octets\r\n" % len(message))
        self._send(stuffed_whole(message))
        self._end_answer()

    def begin_message(self, size: int | None) -> None:
        """As `send_message`, for one that comes in chunks; `size` in octets where it is known (RETR)."""
        self._begin_answer()
        self._send(b"+OK\r\n" if size is None else b"+OK %d octets\r\n" % size)
        self._stuffer = DotStuffer()

    def continue_message(self, chunk: bytes) -> None:
        """The next chunk of the message."""
        if self._stuffer is None:
            raise LocalProtocolError("no message was begun")
        self._send(self._stuffer.feed(chunk))

    def end_message(self) -> None:
        """The message is complete."""
        if self._stuffer is None:
            raise LocalProtocolError("no message was begun")
        self._send(self._stuffer.finish())
        self._stuffer = None
        self._end_answer()

    def refuse(self, text: str, code: bytes = b"") -> None:
        """Answer the open question, or for the next message of it, with -ERR. QUIT ends the conversation anyway."""
        question = self._question
        if question is None or self._stuffer is not None:
            raise LocalProtocolError("an answer without a question")
        self._err(text, code)
        if isinstance(question, events.Retrieve | events.Top):
            self._due.pop()
            if self._due:
                return
        self._question = None
        self._username = None
        if isinstance(question, events.Update):
            self._close()

    def shut_down(self, text: str = "", code: bytes = b"") -> None:
        """Close at any moment, with -ERR if there is a `text` and we are not in the middle of a message."""
        if self._state is _State.CLOSED:
            return
        if text and self._stuffer is None and self._listing is None and self._state is not _State.TLS:
            self._err(text, code)
        self._question = self._stuffer = None
        self._close()

    def _close(self) -> None:
        self._buffer.clear()
        self._listing = None
        self._state = _State.CLOSED

    def _settle(self, *kinds: type[Question]) -> None:
        if not isinstance(self._question, kinds):
            raise LocalProtocolError(f"no {kinds[0].__name__} is to be answered")
        self._question = None

    def _begin_answer(self) -> None:
        if not self._due or self._stuffer is not None:
            raise LocalProtocolError("no message was asked for")

    def _end_answer(self) -> None:
        index = self._due.pop()
        if isinstance(self._question, events.Retrieve):
            self._drop().retrieved(index)
        if not self._due:
            self._question = None

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _ok(self, text: str) -> None:
        self._send(f"+OK {text}\r\n".encode())

    def _err(self, text: str, code: bytes = b"") -> None:
        # RFC 2449 §8: a text never begins with a bracket unless a response code does
        self._send(b"-ERR %b%b\r\n" % (b"[%b] " % code if code else b"", text.encode()))

    def _fail(self, error: CommandError) -> None:
        """Answer a command that cannot be obeyed, or close when there were too many bad ones."""
        self._username = None
        if self._state is _State.EXCHANGE:
            self._state = _State.AUTHORIZATION
        if error.is_bad:
            self._bad_commands += 1
            if self._bad_commands >= MAX_BAD_COMMANDS:
                self.shut_down("Too many bad commands")
                return
        self._err(error.text, error.code)

    def _step(self) -> bool:
        """Deal with one line; False when there is none yet, and when it led to a question."""
        try:
            is_line = self._receive_line()
        except CommandError as error:
            self._fail(error)
            return True
        return is_line and self._question is None

    def _receive_line(self) -> bool:
        """Deal with one line; False when there is none yet."""
        try:
            line = self._buffer.take_line(
                commands.MAX_AUTH_BYTES if self.maildrop is None else commands.MAX_COMMAND_BYTES
            )
        except RemoteProtocolError as error:
            raise CommandError("Line too long") from error
        if line is None:
            return False
        if self._state is _State.EXCHANGE:
            self._on_exchange_line(commands.without_line_end(line))
        else:
            self._on_command(*commands.split_command(line))
        return True

    def _on_command(self, verb: bytes, argument: bytes) -> None:
        if verb in commands.HTTP_VERBS:
            self.shut_down("This is no web server")
            return
        # RFC 1939 §3: -ERR for what is unknown, malformed or out of place
        handler, state = COMMANDS.get(verb, (None, None))
        if handler is None:
            raise CommandError("Unknown command")
        if state is not None and state is not self._state:
            signed_in = self._state is _State.TRANSACTION
            raise CommandError("You are signed in already" if signed_in else "Sign in first")
        # RFC 1939 §7: PASS comes immediately after USER
        if verb != b"PASS":
            self._username = None
        handler(self, argument)
        if self._state is _State.TRANSACTION:
            self._bad_commands = 0

    def _drop(self) -> Maildrop:
        assert self.maildrop is not None
        return self.maildrop

    def _index(self, word: bytes) -> int:
        """The index of the message of that number.

        Raises: CommandError when it is no number, or there is no such message any more.
        """
        index = commands.number(word) - 1
        maildrop = self._drop()
        if not 0 <= index < len(maildrop):
            raise CommandError("No such message", is_bad=False)
        if maildrop.is_deleted(index):
            raise CommandError("This message is marked as deleted", is_bad=False)
        return index

    def _ask(self, question: Question, *indexes: int) -> None:
        self._question = question
        self._due = [*reversed(indexes)]

    def _on_capa(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        self._send(b"+OK Capability list follows\r\n")
        self._send("".join([f"{line}\r\n" for line in self.capabilities()]).encode() + END)

    def capabilities(self) -> list[str]:
        """The lines of CAPA in the present state."""
        is_password_offered = self.may_sign_in
        # RFC 2595 §4: STLS says that the command is permitted in the current state
        is_tls_offered = self.can_start_tls and not self.is_secure and self.maildrop is None
        return [
            "TOP",
            "UIDL",
            *(["USER", f"SASL {' '.join(self.mechanisms)}"] if is_password_offered else []),
            *(["STLS"] if is_tls_offered else []),
            "RESP-CODES",
            "AUTH-RESP-CODE",
            "PIPELINING",
            "UTF8 USER",
            "EXPIRE NEVER",
            "IMPLEMENTATION Pochta",
        ]

    def _on_quit(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        if self.maildrop is not None:
            self._ask(events.Update())
            return
        self._ok("Bye")
        self._close()

    def _on_utf8(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        self.is_utf8 = True
        self._ok("UTF8 enabled")

    def _on_stls(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        if self.is_secure:
            raise CommandError("TLS is active already")
        if not self.can_start_tls:
            raise CommandError("No TLS here")
        self._ask(events.StartTls())

    def _refuse_plaintext(self) -> None:
        if not self.may_sign_in:
            # RFC 3206 §5: [AUTH] also where policy forbids the way of signing in
            raise CommandError("Start TLS first: others could read the password", b"AUTH")

    def _on_user(self, argument: bytes) -> None:
        self._refuse_plaintext()
        if not argument:
            raise CommandError("A name is wanted")
        self._username = commands.text(argument)
        # RFC 1939 §13: the same answer for every name
        self._ok("Send PASS")

    def _on_pass(self, argument: bytes) -> None:
        username, self._username = self._username, None
        if username is None:
            raise CommandError("Send USER first")
        if not argument:
            raise CommandError("A password is wanted")
        # RFC 1939 §7: spaces are part of the password
        self._ask(events.Credentials(username, commands.text(argument)))

    def _on_auth(self, argument: bytes) -> None:
        """Source: RFC 5034 §4, RFC 1734 §2."""
        words = argument.split()
        if not 1 <= len(words) <= 2:
            raise CommandError("A mechanism is wanted")
        mechanism = words[0].decode("ascii", "replace").upper()
        if self.may_sign_in and mechanism not in self.mechanisms:
            raise CommandError("Unsupported authentication mechanism")
        self._refuse_plaintext()
        # RFC 5034 §4: "=" is an initial response that is empty
        initial = None if len(words) == 1 else b"" if words[1] == b"=" else commands.decoded(words[1])
        self._ask(events.Auth(mechanism, initial))

    def _on_exchange_line(self, line: bytes) -> None:
        # RFC 5034 §4: "*" cancels, answered -ERR
        if line == b"*":
            raise CommandError("Authentication cancelled")
        response = commands.decoded(line)
        self._state = _State.AUTHORIZATION
        self._ask(events.AuthResponse(response))

    def _on_noop(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        self._send(b"+OK\r\n")

    def _on_stat(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        maildrop = self._drop()
        self._send(b"+OK %d %d\r\n" % (maildrop.count, maildrop.size))

    def _on_list(self, argument: bytes) -> None:
        maildrop = self._drop()
        if argument.strip():
            index = self._index(commands.one_word(argument))
            self._send(b"+OK %d %d\r\n" % (index + 1, maildrop.sizes[index]))
            return
        self._ok(_counted(maildrop))
        self._listing, self._listed = maildrop.scan_listing, 0

    def _on_uidl(self, argument: bytes) -> None:
        maildrop = self._drop()
        if argument.strip():
            index = self._index(commands.one_word(argument))
            self._send(b"+OK %d %b\r\n" % (index + 1, maildrop.unique_id(index)))
            return
        self._send(b"+OK\r\n")
        self._listing, self._listed = maildrop.unique_id_listing, 0

    def _list_on(self, lines: Callable[[int, int], bytes]) -> None:
        """Send the next slice of the listing."""
        start, self._listed = self._listed, self._listed + LISTING_SLICE
        self._send(lines(start, self._listed))
        if self._listed >= len(self._drop()):
            self._send(END)
            self._listing = None

    def _on_dele(self, argument: bytes) -> None:
        self._drop().delete(self._index(commands.one_word(argument)))
        self._send(b"+OK Marked as deleted\r\n")

    def _on_rset(self, argument: bytes) -> None:
        commands.refuse_argument(argument)
        maildrop = self._drop()
        maildrop.reset()
        self._ok(_counted(maildrop))

    def _on_retr(self, argument: bytes) -> None:
        indexes = [self._index(commands.one_word(argument))]
        sizes = self._drop().sizes
        held = sizes[indexes[0]]
        while len(indexes) < RETRIEVE_BATCH:
            index = self._take_retrieve()
            if index is None:
                break
            held += sizes[index]
            if held > RETRIEVE_BATCH_BYTES:
                break
            indexes.append(index)
            data, start = self._buffer.window()
            self._buffer.drop(data.index(b"\n", start) + 1 - start)
        self._ask(events.Retrieve(tuple(indexes)), *indexes)

    def _take_retrieve(self) -> int | None:
        """What the next line asks to retrieve, if it is a whole RETR of a message that is there. Takes nothing."""
        data, start = self._buffer.window()
        match = commands.NEXT_RETRIEVE.match(data, start)
        if match is None:
            return None
        try:
            return self._index(match[1])
        except CommandError:
            return None  # told in its turn

    def _on_top(self, argument: bytes) -> None:
        words = argument.split()
        if len(words) != 2:
            raise CommandError("A message number and a number of lines are wanted")
        lines = commands.number(words[1])
        index = self._index(words[0])
        self._ask(events.Top(index, lines), index)


def _counted(maildrop: Maildrop) -> str:
    return f"{maildrop.count} messages ({maildrop.size} octets)"


_Handler = Callable[[Pop3Server, bytes], None]

COMMANDS: Final[dict[bytes, tuple[_Handler, _State | None]]] = {
    b"CAPA": (Pop3Server._on_capa, None),
    b"QUIT": (Pop3Server._on_quit, None),
    b"UTF8": (Pop3Server._on_utf8, _State.AUTHORIZATION),
    b"STLS": (Pop3Server._on_stls, _State.AUTHORIZATION),
    b"USER": (Pop3Server._on_user, _State.AUTHORIZATION),
    b"PASS": (Pop3Server._on_pass, _State.AUTHORIZATION),
    b"AUTH": (Pop3Server._on_auth, _State.AUTHORIZATION),
    b"STAT": (Pop3Server._on_stat, _State.TRANSACTION),
    b"LIST": (Pop3Server._on_list, _State.TRANSACTION),
    b"UIDL": (Pop3Server._on_uidl, _State.TRANSACTION),
    b"RETR": (Pop3Server._on_retr, _State.TRANSACTION),
    b"TOP": (Pop3Server._on_top, _State.TRANSACTION),
    b"DELE": (Pop3Server._on_dele, _State.TRANSACTION),
    b"NOOP": (Pop3Server._on_noop, _State.TRANSACTION),
    b"RSET": (Pop3Server._on_rset, _State.TRANSACTION),
}
