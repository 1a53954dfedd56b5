"""The receiving half of an IMAP server: octets in, events out; and the few octets the protocol itself makes us send.

Theory of operation. Everything received stands in one buffer (`received`). A line that ends in `{n}` or `{n+}` promises
n octets and a further line of the same command; they stay where they are, and the whole command is parsed at once when
its last line is there. What is held is bounded by the command limit. Only the messages of APPEND and REPLACE are handed
out as they come.

    COMMAND      at the start of, or inside, a command
    APPEND_WAIT  AppendStart or AppendPart is out, the driver decides
    APPEND_DATA  the octets of the message or part
    CATENATE     between the parts of a message
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

Source: RFC 3501 §2.2 and §9, RFC 7888 §3–§5 (literals), RFC 2177 §3, RFC 3502, RFC 4469 §5, RFC 4959 §3, RFC 8508 §5.
"""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.imap import encode
from pochta.proto.imap.append import (
    Announced,
    AppendData,
    AppendHead,
    PartEnd,
    Replaced,
    UrlPart,
    literal_data,
    parse_append_head,
    parse_append_next,
    parse_part,
)
from pochta.proto.imap.events import (
    AppendChunk,
    AppendDone,
    AppendMessageEnd,
    AppendPart,
    AppendStart,
    AppendUrl,
    AuthResponse,
    BadCommand,
    CommandEvent,
    Event,
    Fatal,
    IdleDone,
)
from pochta.proto.imap.lex import MAX_NUMBER64, TAG
from pochta.proto.imap.limits import (
    MAX_COMMAND,
    MAX_COMMAND_BEFORE_SIGN_IN,
    MAX_LINE,
    MAX_LINE_BEFORE_SIGN_IN,
    MAX_LITERAL,
    MAX_LITERAL_BEFORE_SIGN_IN,
)
from pochta.proto.imap.parse import NO_ARGUMENTS, parse_command
from pochta.proto.imap.received import Received
from pochta.proto.sasl import decode_base64

_NO_ARGUMENTS: Final = re.compile(rb"(%b) (%b)\r\n" % (TAG, b"|".join(NO_ARGUMENTS)), re.IGNORECASE)
_TAG: Final = re.compile(rb"(%b) " % TAG)
_APPEND: Final = re.compile(rb"(%b) (?:APPEND|((?:UID )?REPLACE)) " % TAG, re.IGNORECASE)
_TAKES_LITERAL8: Final = re.compile(rb"%b SETMETADATA " % TAG, re.IGNORECASE)  # RFC 5464 §5


class _State(Enum):
    COMMAND = auto()
    APPEND_WAIT = auto()
    APPEND_DATA = auto()
    CATENATE = auto()
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
        "_data",
        "_in_parts",
        "_is_append",
        "_is_append_sync",
        "_is_first_part",
        "_output",
        "_owes_close",
        "_received",
        "_remaining",
        "_replaced",
        "_state",
        "_tag",
        "is_authenticated",
        "utf8_accept",
    )

    def __init__(self, *, utf8_accept: bool = False) -> None:
        self.is_authenticated = False
        self.utf8_accept = utf8_accept
        self._received = Received()
        self._output = bytearray()
        self._state = _State.COMMAND
        self._tag = b""  # of the last command or APPEND
        self._append_mailbox = ""
        self._replaced: Replaced | None = None
        self._data = AppendData.LITERAL  # of what is announced
        self._in_parts = self._is_first_part = False  # between the parentheses of CATENATE; right behind the first
        self._owes_close = False  # `UTF8 (` is open
        self._is_append_sync = False
        self._is_append = False  # the refused command may bring literals of any size
        self._remaining = 0  # octets of the literal still to come (APPEND_DATA, SKIP)

    @property
    def buffered_bytes(self) -> int:
        """Octets received and not yet turned into events."""
        received = self._received
        return len(received.data) - received.offset

    def receive_data(self, data: bytes) -> None:
        """Takes what the peer sent; dropped after Fatal."""
        if self._state is _State.CLOSED:
            return
        self._received.add(data)

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
                received = self._received
                match = _NO_ARGUMENTS.match(received.data, received.offset)
                if match is None or received.segment != received.offset:
                    return self._command()
                received.offset = received.segment = received.scan = match.end()
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
        self._received.clear()
        self.is_authenticated = False
        return dropped

    def accept_append(self) -> None:
        """Lets what AppendStart or AppendPart announced come: AppendChunk …, AppendMessageEnd, or the parts first."""
        self._require(_State.APPEND_WAIT)
        if self._is_append_sync:
            self._output += encode.continuation()
        is_parted = self._data is AppendData.CATENATE
        if is_parted:
            self._in_parts = self._is_first_part = True
        self._state = _State.CATENATE if is_parted else _State.APPEND_DATA

    def refuse_append(self) -> None:
        """Ends the APPEND, at AppendStart or later before AppendDone; the driver answers NO at once, no event follows.

        A synchronising literal is then not sent. Whatever else belongs to the command is read and thrown away
        (RFC 7888 §4, choice 1).
        """
        if self._state is _State.APPEND_WAIT and self._is_append_sync:
            # RFC 3501 §2.2.1: after a completion result the client does not send the literal
            self._state = _State.COMMAND
            return
        self._require(_State.APPEND_WAIT, _State.APPEND_DATA, _State.CATENATE, _State.APPEND_NEXT)
        self._is_append = True
        is_between = self._state in (_State.CATENATE, _State.APPEND_NEXT)
        self._state = _State.DISCARD if is_between else _State.SKIP

    def _require(self, *states: _State) -> None:
        if self._state not in states:
            raise LocalProtocolError(f"not possible in state {self._state.name}")

    @property
    def _max_line(self) -> int:
        return MAX_LINE if self.is_authenticated else MAX_LINE_BEFORE_SIGN_IN

    def _reject(self, tag: bytes | None, message: str, *, is_append: bool = False) -> BadCommand:
        """BAD now; the present line and what belongs to it is thrown away as it comes."""
        received = self._received
        self._is_append = is_append
        received.start_at(received.segment)
        self._state = _State.DISCARD
        return BadCommand(tag, message)

    def _present_tag(self) -> bytes | None:
        received = self._received
        match = _TAG.match(received.data, received.offset)
        return None if match is None else match[1]

    def _command(self) -> Event | None:
        received = self._received
        while True:
            if not received.is_collected():
                return None
            line_feed = received.find_line(self._max_line)
            if line_feed is None:
                return None
            if isinstance(line_feed, str):
                return self._reject(self._present_tag(), line_feed)
            if line_feed + 1 - received.offset > (MAX_COMMAND if self.is_authenticated else MAX_COMMAND_BEFORE_SIGN_IN):
                return self._reject(self._present_tag(), "command is too long")
            literal = received.find_literal(line_feed)
            if literal is None:
                return self._complete(line_feed + 1)
            event = self._literal(literal)
            if event is not None:
                return event

    def _complete(self, end: int) -> Event:
        received = self._received
        data = received.take(end)
        start = received.offset
        received.start_at(end)
        try:
            self._tag, command = parse_command(data, utf8_accept=self.utf8_accept)
        except RemoteProtocolError as error:
            match = _TAG.match(data)
            append = _APPEND.match(data)
            event = None if append is None else self._append_line(data, append, start)
            return event or BadCommand(None if match is None else match[1], str(error))
        return CommandEvent(self._tag, command)

    def _append_line(self, data: bytes, append: re.Match[bytes], start: int) -> Event | None:
        """An APPEND whose first line is its last: that can only be one of URLs."""
        try:
            head = self._parse_head(data, append, len(data) - 2)
        except RemoteProtocolError:
            return None
        if head is None or head.data is not AppendData.CATENATE:
            return None
        return self._announce(head, append[1], start + head.end, is_first=True)

    def _literal(self, literal: re.Match[bytes]) -> Event | None:
        """What a literal at the end of the present line means; None when it is small and will be collected."""
        received = self._received
        size = int(literal[2])
        is_sync = not literal[3]
        append = _APPEND.match(received.data, received.offset)
        if append is not None:
            try:
                head = self._parse_head(received.take(literal.end()), append, literal.start() - received.offset)
            except RemoteProtocolError as error:
                return self._reject(append[1], str(error), is_append=True)
            if head is not None:
                return self._announce_literal(literal, head, append[1], is_first=True)
        maximum = MAX_LITERAL if self.is_authenticated else MAX_LITERAL_BEFORE_SIGN_IN
        command = MAX_COMMAND if self.is_authenticated else MAX_COMMAND_BEFORE_SIGN_IN
        is_misplaced = literal[1] and _TAKES_LITERAL8.match(received.data, received.offset) is None
        if is_misplaced or size > maximum or literal.end() - received.offset + size > command:
            message = "literal8 is not supported" if is_misplaced else "literal is too large"
            return self._reject(self._present_tag(), message) if is_sync or is_misplaced else self._fatal()
        if is_sync:
            self._output += encode.continuation()
        received.collect(literal.end(), size)
        return None

    def _parse_head(self, data: bytes, append: re.Match[bytes], end: int) -> AppendHead | None:
        """The head of the command in `data`, which begins as the match does."""
        words = append[2]
        start = append.end() - append.start()
        replaces = None if words is None else words.upper()
        return parse_append_head(data, start, end, replaces=replaces, utf8_accept=self.utf8_accept)

    def _announce_literal(
        self, literal: re.Match[bytes], head: AppendHead, tag: bytes, *, is_first: bool
    ) -> AppendStart | BadCommand:
        """The message whose literal, or first part, ends the line."""
        if head.data is AppendData.CATENATE:
            return self._announce(head, tag, self._received.offset + head.end, is_first=is_first)
        try:
            data = literal_data(int(literal[2]), head.data, is_literal8=bool(literal[1]))
        except RemoteProtocolError as error:
            return self._reject(tag, str(error), is_append=True)
        return self._announce(head._replace(data=data), tag, literal.end(), is_first=is_first, literal=literal)

    def _announce(
        self, head: AppendHead, tag: bytes, at: int, *, is_first: bool, literal: re.Match[bytes] | None = None
    ) -> AppendStart:
        """The message whose octets, or parts, begin at `at`."""
        if head.mailbox is not None:
            self._append_mailbox, self._replaced = head.mailbox, head.replaced
        self._tag = tag
        self._in_parts = False
        self._expect(head.data, literal, at)
        return AppendStart(
            tag,
            self._append_mailbox,
            head.flags,
            head.internal_date,
            self._remaining,
            self._is_append_sync,
            is_first,
            head.data,
            self._replaced,
        )

    def _expect(self, data: AppendData, literal: re.Match[bytes] | None, at: int) -> None:
        self._data = data
        self._remaining = 0 if literal is None else int(literal[2])
        self._is_append_sync = literal is not None and not literal[3]
        self._owes_close = data is AppendData.UTF8
        self._received.start_at(at)
        self._state = _State.APPEND_WAIT

    def _append_wait(self) -> Event | None:
        raise LocalProtocolError("AppendStart was neither accepted nor refused")

    def _append_data(self) -> Event | None:
        received = self._received
        if self._remaining:
            available = received.available(self._remaining)
            if not available:
                return None
            chunk = received.take(received.offset + available)
            received.start_at(received.offset + available)
            self._remaining -= available
            return AppendChunk(chunk)
        if self._in_parts:
            self._state = _State.CATENATE
            return self._catenate()
        self._state = _State.APPEND_NEXT
        return AppendMessageEnd()

    def _catenate(self) -> Event | None:
        """The next part, once the line that holds it is there."""
        received = self._received
        while True:
            if not received.is_collected():
                return None
            line_feed = received.find_line(self._max_line)
            if line_feed is None:
                return None
            if isinstance(line_feed, str):
                return self._reject(self._tag, line_feed, is_append=True)
            literal = received.find_literal(line_feed)
            announced = None
            if literal is not None:
                announced = Announced(literal.start() - received.offset, int(literal[2]), bool(literal[1]))
            try:
                part = parse_part(
                    received.take(line_feed - 1), announced, is_first=self._is_first_part, owes_close=self._owes_close
                )
            except RemoteProtocolError as error:
                return self._reject(self._tag, str(error), is_append=True)
            if isinstance(part, PartEnd | UrlPart):
                return self._part(part)
            assert literal is not None
            if part.data is not None:
                self._is_first_part = False
                self._expect(part.data, literal, literal.end())
                return AppendPart(self._remaining, self._is_append_sync, part.data)
            if not literal[3]:
                self._output += encode.continuation()
            received.collect(literal.end(), int(literal[2]))

    def _part(self, part: PartEnd | UrlPart) -> Event:
        received = self._received
        self._owes_close = self._is_first_part = False
        received.start_at(received.offset + part.end)
        if isinstance(part, UrlPart):
            return AppendUrl(part.url)
        self._in_parts = False
        self._state = _State.APPEND_NEXT
        return AppendMessageEnd()

    def _append_next(self) -> Event | None:
        received = self._received
        line_feed = received.find_line(self._max_line)
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed, is_append=True)
        if self._owes_close:
            if not received.data.startswith(b")", received.offset):
                return self._reject(self._tag, "expected a closing parenthesis", is_append=True)
            self._owes_close = False
            received.start_at(received.offset + 1)
        if line_feed == received.offset + 1:
            received.start_at(line_feed + 1)
            self._state = _State.COMMAND
            return AppendDone(self._tag)
        if self._replaced is not None:
            # RFC 8508 §4.7: not with MULTIAPPEND
            return self._reject(self._tag, "REPLACE takes one message", is_append=True)
        literal = received.find_literal(line_feed)
        end = line_feed - 1 if literal is None else literal.start()
        try:
            head = parse_append_next(received.take(line_feed + 1), end - received.offset)
        except RemoteProtocolError as error:
            text = "expected a message literal" if literal is None else str(error)
            return self._reject(self._tag, text, is_append=True)
        if literal is None:
            if head.data is not AppendData.CATENATE:
                return self._reject(self._tag, "expected a message literal", is_append=True)
            return self._announce(head, self._tag, received.offset + head.end, is_first=False)
        return self._announce_literal(literal, head, self._tag, is_first=False)

    def _auth(self) -> Event | None:
        received = self._received
        line_feed = received.find_line(self._max_line)
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed)
        line = received.take(line_feed - 1)
        if line == b"*":
            # RFC 3501 §6.2.2: "*" cancels
            response = None
        else:
            try:
                response = decode_base64(line)
            except RemoteProtocolError as error:
                return self._reject(self._tag, str(error))
        received.start_at(line_feed + 1)
        self._state = _State.COMMAND
        return AuthResponse(response)

    def _idle(self) -> Event | None:
        received = self._received
        line_feed = received.find_line(self._max_line)
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed)
        if received.take(line_feed - 1).upper() != b"DONE":
            return self._reject(self._tag, "expected DONE")
        received.start_at(line_feed + 1)
        self._state = _State.COMMAND
        return IdleDone(self._tag)

    def _closed(self) -> Event | None:
        return None

    def _fatal(self) -> Fatal:
        """A literal that comes unasked and is too large: RFC 7888 §4, choice 2, with the code of §5."""
        self._received.clear()
        self._state = _State.CLOSED
        return Fatal("literal is too large", b"TOOBIG")

    def _skip(self) -> bool:
        """Throws away octets of a refused literal; whether it is over."""
        received = self._received
        available = received.available(self._remaining)
        received.start_at(received.offset + available)
        self._remaining -= available
        if self._remaining:
            return False
        self._state = _State.DISCARD
        return True

    def _discard(self) -> Fatal | None:
        """Throws away lines of a refused command; leaves the state DISCARD at its end or at a literal."""
        received = self._received
        line_feed = received.discard_line()
        if line_feed is None:
            return None
        literal = received.find_literal(line_feed)
        received.start_at(line_feed + 1)
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
    _State.CATENATE: ImapServer._catenate,
    _State.APPEND_NEXT: ImapServer._append_next,
    _State.AUTH: ImapServer._auth,
    _State.IDLE: ImapServer._idle,
    _State.CLOSED: ImapServer._closed,
}
