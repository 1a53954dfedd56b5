"""The receiving half of an IMAP server: octets in, events out; and the few octets the protocol itself makes us send.

Theory of operation. Everything received stands in one buffer; `_offset` is where the present command begins, `_segment`
where its present line begins (after a literal), `_scan` where no LF has been looked for yet. A line that ends in `{n}`
or `{n+}` promises n octets and a further line of the same command; they stay where they are, and the whole command is
parsed at once when its last line is there. So no octet is searched twice, the buffer is not copied per line, and what
is held is bounded by the command limit. Only the messages of APPEND are handed out as they come.

    COMMAND      at the start of, or inside, a command
    APPEND_WAIT  AppendStart is out, the driver decides
    APPEND_DATA  the message's octets
    APPEND_NEXT  after a message: the end of the command or the next message's announcement
    AUTH, IDLE   the next line is an answer, not a command
    DISCARD      the rest of a refused command, up to its CRLF
    SKIP         a literal of a refused command
    CLOSED       after Fatal

Flow control. The driver does not call `next_event` while a command is carried out; what comes meanwhile waits here. It
stops reading when `buffered_bytes` is above a bound of its own and reads on as soon as `next_event` gives None: None
always means that more octets are needed. Every event has been made at the same octet however the stream was cut.

Line ends. Only CRLF ends a line. A bare LF is answered at once with BAD, for people at a terminal that sends none, but
what follows is thrown away up to the next CRLF: were it read as a command, text that a client carries unchecked inside
a quoted string could run commands. A CR alone is an error of syntax.

Source: RFC 3501 §2.2 and §9, RFC 7888 §3–§5 (literals), RFC 2177 §3, RFC 3502, RFC 4959 §3.
"""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.imap import encode
from pochta.proto.imap.events import (
    AppendChunk,
    AppendDone,
    AppendMessageEnd,
    AppendStart,
    AuthResponse,
    BadCommand,
    CommandEvent,
    Event,
    Fatal,
    IdleDone,
)
from pochta.proto.imap.lex import MAX_NUMBER64, TAG
from pochta.proto.imap.parse import NO_ARGUMENTS, AppendHead, parse_append_head, parse_append_next, parse_command
from pochta.proto.sasl import decode_base64

MAX_LINE_BEFORE_SIGN_IN: Final = 8 * 1024
"""RFC 2683 §3.2.1.5 asks for 8000; PLAIN with three parts of 1024 octets is 4100 in base64."""

MAX_LINE: Final = 64 * 1024
"""Sets of thousands of UIDs stand on one line; Dovecot's imap_max_line_length is 64 KiB as well."""

MAX_LITERAL_BEFORE_SIGN_IN: Final = 4 * 1024
"""User name or password; RFC 7888 §5: what every LITERAL- server takes."""

MAX_LITERAL: Final = 64 * 1024
"""A string of any command but APPEND; names and search texts are far shorter."""

MAX_COMMAND_BEFORE_SIGN_IN: Final = 16 * 1024
"""Lines and literals of one command: LOGIN with two full literals and some room."""

MAX_COMMAND: Final = 256 * 1024
"""Two full lines and two full literals: what one connection can make us hold."""

_NO_ARGUMENTS: Final = re.compile(rb"(%b) (%b)\r\n" % (TAG, b"|".join(NO_ARGUMENTS)), re.IGNORECASE)
_TAG: Final = re.compile(rb"(%b) " % TAG)
_APPEND: Final = re.compile(rb"(%b) APPEND " % TAG, re.IGNORECASE)
_LITERAL_END: Final = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\r\n")
_LITERAL_END_BYTES: Final = 27
"""The longest match of _LITERAL_END: 20 digits and 7 others (`~{` `+}` CRLF, and one to spare)."""

_CR: Final = 0x0D
_BRACE_CLOSE: Final = 0x7D

_TOO_LONG: Final = "line is too long"
_BARE_LF: Final = "lines must end with CR LF"


class _State(Enum):
    COMMAND = auto()
    APPEND_WAIT = auto()
    APPEND_DATA = auto()
    APPEND_NEXT = auto()
    AUTH = auto()
    IDLE = auto()
    DISCARD = auto()
    SKIP = auto()
    CLOSED = auto()


class ImapServer:
    """The engine of one connection.

    `is_authenticated` (larger limits) and `utf8_accept` (RFC 6855) are set by the driver when they become true.
    """

    __slots__ = (
        "_append_mailbox",
        "_buffer",
        "_is_append",
        "_is_append_sync",
        "_literal_end",
        "_offset",
        "_output",
        "_remaining",
        "_scan",
        "_segment",
        "_state",
        "_tag",
        "is_authenticated",
        "utf8_accept",
    )

    def __init__(self, *, utf8_accept: bool = False) -> None:
        self.is_authenticated = False
        self.utf8_accept = utf8_accept
        self._buffer = bytearray()
        self._output = bytearray()
        self._offset = self._segment = self._scan = 0
        self._literal_end = 0  # where the literal that is being waited for ends; 0 for none
        self._state = _State.COMMAND
        self._tag = b""  # of the last command or APPEND
        self._append_mailbox = ""
        self._is_append_sync = False
        self._is_append = False  # the refused command may bring literals of any size
        self._remaining = 0  # octets of the literal still to come (APPEND_DATA, SKIP)

    @property
    def buffered_bytes(self) -> int:
        """Octets received and not yet turned into events."""
        return len(self._buffer) - self._offset

    def receive_data(self, data: bytes) -> None:
        """Takes what the peer sent; dropped after Fatal."""
        if self._state is _State.CLOSED:
            return
        offset = self._offset
        if offset:
            # Cheap: the front of a bytearray is cut off by moving a pointer; bytes move once it is half empty.
            del self._buffer[:offset]
            self._offset = 0
            self._segment -= offset
            self._scan -= offset
            if self._literal_end:
                self._literal_end -= offset
        self._buffer += data

    def data_to_send(self) -> bytes:
        """What the engine itself has to send (`+ …`), once; ask after each event and each None."""
        if not self._output:
            return b""
        data = bytes(self._output)
        self._output.clear()
        return data

    def next_event(self) -> Event | None:
        """The next event; None when more octets are needed.

        Raises: LocalProtocolError while AppendStart waits for its answer.
        """
        while True:
            state = self._state
            if state is _State.COMMAND:
                match = _NO_ARGUMENTS.match(self._buffer, self._offset)
                if match is None or self._segment != self._offset:
                    return self._command()
                self._offset = self._segment = self._scan = match.end()
                self._tag, word = match.groups()
                return CommandEvent(self._tag, NO_ARGUMENTS[word.upper()])
            if state is _State.SKIP:
                if not self._skip():
                    return None
            elif state is _State.DISCARD:
                fatal = self._discard()
                if fatal is not None:
                    return fatal
                if self._state is _State.DISCARD:
                    return None
            else:
                return _HANDLERS[state](self)

    def challenge(self, data: bytes) -> None:
        """Sends a challenge of AUTHENTICATE; the next event is AuthResponse or BadCommand."""
        self._require(_State.COMMAND)
        self._output += encode.challenge(data)
        self._state = _State.AUTH

    def start_idle(self) -> None:
        """Grants IDLE; the next event is IdleDone or BadCommand."""
        self._require(_State.COMMAND)
        # RFC 2177 §3: the server asks for the continuation that ends the command
        self._output += b"+ idling\r\n"
        self._state = _State.IDLE

    def start_tls_done(self) -> int:
        """Forgets all that came before the TLS handshake; how many octets that were (more than 0: somebody injected).

        Source: RFC 9051 §6.2.1.
        """
        self._require(_State.COMMAND)
        # RFC 9051 §6.2.1: what came after STARTTLS in plain text is thrown away, never executed
        dropped = self.buffered_bytes
        self._buffer.clear()
        self._start_at(0)
        self.is_authenticated = False
        return dropped

    def accept_append(self) -> None:
        """Lets the message of the last AppendStart come: AppendChunk …, AppendMessageEnd."""
        self._require(_State.APPEND_WAIT)
        if self._is_append_sync:
            self._output += encode.continuation()
        self._state = _State.APPEND_DATA

    def refuse_append(self) -> None:
        """Ends the APPEND, at AppendStart or later before AppendDone; the driver answers NO at once, no event follows.

        A synchronising literal is then not sent. Whatever else belongs to the command is read and thrown away
        (RFC 7888 §4, choice 1).
        """
        if self._state is _State.APPEND_WAIT and self._is_append_sync:
            # RFC 3501 §2.2.1: after a completion result the client does not send the literal
            self._state = _State.COMMAND
            return
        self._require(_State.APPEND_WAIT, _State.APPEND_DATA, _State.APPEND_NEXT)
        self._is_append = True
        self._state = _State.DISCARD if self._state is _State.APPEND_NEXT else _State.SKIP

    def _require(self, *states: _State) -> None:
        if self._state not in states:
            raise LocalProtocolError(f"not possible in state {self._state.name}")

    def _start_at(self, offset: int) -> None:
        self._offset = self._segment = self._scan = offset
        self._literal_end = 0

    @property
    def _max_line(self) -> int:
        return MAX_LINE if self.is_authenticated else MAX_LINE_BEFORE_SIGN_IN

    def _reject(self, tag: bytes | None, message: str, *, is_append: bool = False) -> BadCommand:
        """BAD now; the present line and what belongs to it is thrown away as it comes."""
        self._is_append = is_append
        self._start_at(self._segment)
        self._state = _State.DISCARD
        return BadCommand(tag, message)

    def _present_tag(self) -> bytes | None:
        match = _TAG.match(self._buffer, self._offset)
        return None if match is None else match[1]

    def _find_line(self) -> int | str | None:
        """Where the LF of the present line is; a complaint about the line; None when it is not complete."""
        buffer, segment = self._buffer, self._segment
        line_feed = buffer.find(b"\n", self._scan)
        if line_feed < 0:
            if len(buffer) - segment >= self._max_line:
                return _TOO_LONG
            self._scan = len(buffer)
            if self._scan == self._offset:
                # A connection that goes idle keeps no memory for what it once received.
                buffer.clear()
                self._start_at(0)
            return None
        if line_feed - segment >= self._max_line:
            return _TOO_LONG
        if line_feed == segment or buffer[line_feed - 1] != _CR:
            return _BARE_LF
        return line_feed

    def _find_literal(self, line_feed: int) -> re.Match[bytes] | None:
        """The literal announced at the end of the present line."""
        # RFC 7888 §3: the end of every received line is checked
        if line_feed - self._segment < 4 or self._buffer[line_feed - 2] != _BRACE_CLOSE:
            return None
        return _LITERAL_END.search(self._buffer, max(self._segment, line_feed + 1 - _LITERAL_END_BYTES), line_feed + 1)

    def _take(self, end: int) -> bytes:
        """The present command up to `end`, as octets of their own."""
        with memoryview(self._buffer) as view:
            return bytes(view[self._offset : end])

    def _command(self) -> Event | None:
        while True:
            if self._literal_end:
                if len(self._buffer) < self._literal_end:
                    return None
                self._segment = self._scan = self._literal_end
                self._literal_end = 0
            line_feed = self._find_line()
            if line_feed is None:
                return None
            if isinstance(line_feed, str):
                return self._reject(self._present_tag(), line_feed)
            if line_feed + 1 - self._offset > (MAX_COMMAND if self.is_authenticated else MAX_COMMAND_BEFORE_SIGN_IN):
                return self._reject(self._present_tag(), "command is too long")
            literal = self._find_literal(line_feed)
            if literal is None:
                return self._complete(line_feed + 1)
            event = self._literal(literal)
            if event is not None:
                return event

    def _complete(self, end: int) -> Event:
        data = self._take(end)
        self._start_at(end)
        try:
            self._tag, command = parse_command(data, utf8_accept=self.utf8_accept)
        except RemoteProtocolError as error:
            match = _TAG.match(data)
            return BadCommand(None if match is None else match[1], str(error))
        return CommandEvent(self._tag, command)

    def _literal(self, literal: re.Match[bytes]) -> Event | None:
        """What a literal at the end of the present line means; None when it is small and will be collected."""
        size = int(literal[2])
        is_sync = not literal[3]
        append = _APPEND.match(self._buffer, self._offset)
        if append is not None:
            event = self._append_literal(literal, append, size=size, is_sync=is_sync)
            if event is not None:
                return event
        maximum = MAX_LITERAL if self.is_authenticated else MAX_LITERAL_BEFORE_SIGN_IN
        command = MAX_COMMAND if self.is_authenticated else MAX_COMMAND_BEFORE_SIGN_IN
        if literal[1] or size > maximum or literal.end() - self._offset + size > command:
            message = "literal8 is not supported" if literal[1] else "literal is too large"
            return self._reject(self._present_tag(), message) if is_sync or literal[1] else self._fatal()
        if is_sync:
            self._output += encode.continuation()
        self._literal_end = literal.end() + size
        return None

    def _append_literal(
        self, literal: re.Match[bytes], append: re.Match[bytes], *, size: int, is_sync: bool
    ) -> Event | None:
        tag = append[1]
        data = self._take(literal.end())
        start, end = append.end() - self._offset, literal.start() - self._offset
        try:
            head = parse_append_head(data, start, end, utf8_accept=self.utf8_accept)
        except RemoteProtocolError as error:
            return self._reject(tag, str(error), is_append=True)
        if head is None:
            return None
        if literal[1] or size > MAX_NUMBER64:
            message = "literal8 is not supported" if literal[1] else "literal is too large"
            return self._reject(tag, message, is_append=True)
        self._append_mailbox = head.mailbox or ""
        return self._announce(literal, head, tag, is_first=True)

    def _announce(self, literal: re.Match[bytes], head: AppendHead, tag: bytes, *, is_first: bool) -> AppendStart:
        self._tag = tag
        self._remaining = int(literal[2])
        self._is_append_sync = not literal[3]
        self._start_at(literal.end())
        self._state = _State.APPEND_WAIT
        return AppendStart(
            tag,
            self._append_mailbox,
            head.flags,
            head.internal_date,
            self._remaining,
            self._is_append_sync,
            is_first,
        )

    def _append_wait(self) -> Event | None:
        raise LocalProtocolError("AppendStart was neither accepted nor refused")

    def _append_data(self) -> Event | None:
        if self._remaining:
            available = min(self._remaining, len(self._buffer) - self._offset)
            if not available:
                return None
            chunk = self._take(self._offset + available)
            self._start_at(self._offset + available)
            self._remaining -= available
            return AppendChunk(chunk)
        self._state = _State.APPEND_NEXT
        return AppendMessageEnd()

    def _append_next(self) -> Event | None:
        line_feed = self._find_line()
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed, is_append=True)
        if line_feed == self._offset + 1:
            self._start_at(line_feed + 1)
            self._state = _State.COMMAND
            return AppendDone(self._tag)
        literal = self._find_literal(line_feed)
        if literal is None:
            return self._reject(self._tag, "expected a message literal", is_append=True)
        if literal[1] or int(literal[2]) > MAX_NUMBER64:
            message = "literal8 is not supported" if literal[1] else "literal is too large"
            return self._reject(self._tag, message, is_append=True)
        try:
            head = parse_append_next(self._take(literal.end()), literal.start() - self._offset)
        except RemoteProtocolError as error:
            return self._reject(self._tag, str(error), is_append=True)
        return self._announce(literal, head, self._tag, is_first=False)

    def _auth(self) -> Event | None:
        line_feed = self._find_line()
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed)
        line = self._take(line_feed - 1)
        if line == b"*":
            # RFC 3501 §6.2.2: "*" cancels
            response = None
        else:
            try:
                response = decode_base64(line)
            except RemoteProtocolError as error:
                return self._reject(self._tag, str(error))
        self._start_at(line_feed + 1)
        self._state = _State.COMMAND
        return AuthResponse(response)

    def _idle(self) -> Event | None:
        line_feed = self._find_line()
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed)
        if self._take(line_feed - 1).upper() != b"DONE":
            return self._reject(self._tag, "expected DONE")
        self._start_at(line_feed + 1)
        self._state = _State.COMMAND
        return IdleDone(self._tag)

    def _closed(self) -> Event | None:
        return None

    def _fatal(self) -> Fatal:
        """A literal that comes unasked and is too large: RFC 7888 §4, choice 2, with the code of §5."""
        self._buffer.clear()
        self._start_at(0)
        self._state = _State.CLOSED
        return Fatal("literal is too large", b"TOOBIG")

    def _skip(self) -> bool:
        """Throws away octets of a refused literal; whether it is over."""
        available = min(self._remaining, len(self._buffer) - self._offset)
        self._start_at(self._offset + available)
        self._remaining -= available
        if self._remaining:
            return False
        self._state = _State.DISCARD
        return True

    def _discard(self) -> Fatal | None:
        """Throws away lines of a refused command; leaves the state DISCARD at its end or at a literal."""
        while True:
            line_feed = self._buffer.find(b"\n", self._scan)
            if line_feed < 0:
                # The end of the line decides about a literal; all before that can go.
                self._scan = len(self._buffer)
                self._offset = self._segment = max(self._offset, self._scan - _LITERAL_END_BYTES)
                return None
            if line_feed > self._offset and self._buffer[line_feed - 1] == _CR:
                break
            self._start_at(line_feed + 1)
        literal = self._find_literal(line_feed)
        self._start_at(line_feed + 1)
        if literal is None or not literal[3]:
            # A synchronising literal is not sent: its client sees BAD or NO, not `+`.
            self._state = _State.COMMAND
            return None
        size = int(literal[2])
        if size > (MAX_NUMBER64 if self._is_append else MAX_LITERAL):
            return self._fatal()
        self._remaining = size
        self._state = _State.SKIP
        return None


_HANDLERS: Final[dict[_State, Callable[[ImapServer], Event | None]]] = {
    _State.APPEND_WAIT: ImapServer._append_wait,
    _State.APPEND_DATA: ImapServer._append_data,
    _State.APPEND_NEXT: ImapServer._append_next,
    _State.AUTH: ImapServer._auth,
    _State.IDLE: ImapServer._idle,
    _State.CLOSED: ImapServer._closed,
}
