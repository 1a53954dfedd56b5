"""The receiving half of an IMAP server: octets in, events out; and the few octets the protocol itself makes us send.

Theory of operation. Everything received stands in one buffer; `_offset` is where the present command begins, `_segment`
where its present line begins (after a literal), `_scan` where no LF has been looked for yet. A line that ends in `{n}`
or `{n+}` promises n octets and a further line of the same command; they stay where they are, and the whole command is
parsed at once when its last line is there. So no octet is searched twice, the buffer is not copied per line, and what
is held is bounded by the command limit. Only the messages of APPEND and REPLACE are handed out as they come.

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
from pochta.proto.sasl import decode_base64

_NO_ARGUMENTS: Final = re.compile(rb"(%b) (%b)\r\n" % (TAG, b"|".join(NO_ARGUMENTS)), re.IGNORECASE)
_TAG: Final = re.compile(rb"(%b) " % TAG)
_APPEND: Final = re.compile(rb"(%b) (?:APPEND|((?:UID )?REPLACE)) " % TAG, re.IGNORECASE)
_TAKES_LITERAL8: Final = re.compile(rb"%b SETMETADATA " % TAG, re.IGNORECASE)  # RFC 5464 §5
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
        "_buffer",
        "_data",
        "_in_parts",
        "_is_append",
        "_is_append_sync",
        "_is_first_part",
        "_literal_end",
        "_offset",
        "_output",
        "_owes_close",
        "_remaining",
        "_replaced",
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
        start = self._offset
        self._start_at(end)
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
        size = int(literal[2])
        is_sync = not literal[3]
        append = _APPEND.match(self._buffer, self._offset)
        if append is not None:
            try:
                head = self._parse_head(self._take(literal.end()), append, literal.start() - self._offset)
            except RemoteProtocolError as error:
                return self._reject(append[1], str(error), is_append=True)
            if head is not None:
                return self._announce_literal(literal, head, append[1], is_first=True)
        maximum = MAX_LITERAL if self.is_authenticated else MAX_LITERAL_BEFORE_SIGN_IN
        command = MAX_COMMAND if self.is_authenticated else MAX_COMMAND_BEFORE_SIGN_IN
        is_misplaced = literal[1] and _TAKES_LITERAL8.match(self._buffer, self._offset) is None
        if is_misplaced or size > maximum or literal.end() - self._offset + size > command:
            message = "literal8 is not supported" if is_misplaced else "literal is too large"
            return self._reject(self._present_tag(), message) if is_sync or is_misplaced else self._fatal()
        if is_sync:
            self._output += encode.continuation()
        self._literal_end = literal.end() + size
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
            return self._announce(head, tag, self._offset + head.end, is_first=is_first)
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
        self._start_at(at)
        self._state = _State.APPEND_WAIT

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
        if self._in_parts:
            self._state = _State.CATENATE
            return self._catenate()
        self._state = _State.APPEND_NEXT
        return AppendMessageEnd()

    def _catenate(self) -> Event | None:
        """The next part, once the line that holds it is there."""
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
                return self._reject(self._tag, line_feed, is_append=True)
            literal = self._find_literal(line_feed)
            announced = None
            if literal is not None:
                announced = Announced(literal.start() - self._offset, int(literal[2]), bool(literal[1]))
            try:
                part = parse_part(
                    self._take(line_feed - 1), announced, is_first=self._is_first_part, owes_close=self._owes_close
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
            self._literal_end = literal.end() + int(literal[2])

    def _part(self, part: PartEnd | UrlPart) -> Event:
        self._owes_close = self._is_first_part = False
        self._start_at(self._offset + part.end)
        if isinstance(part, UrlPart):
            return AppendUrl(part.url)
        self._in_parts = False
        self._state = _State.APPEND_NEXT
        return AppendMessageEnd()

    def _append_next(self) -> Event | None:
        line_feed = self._find_line()
        if line_feed is None:
            return None
        if isinstance(line_feed, str):
            return self._reject(self._tag, line_feed, is_append=True)
        if self._owes_close:
            if not self._buffer.startswith(b")", self._offset):
                return self._reject(self._tag, "expected a closing parenthesis", is_append=True)
            self._owes_close = False
            self._start_at(self._offset + 1)
        if line_feed == self._offset + 1:
            self._start_at(line_feed + 1)
            self._state = _State.COMMAND
            return AppendDone(self._tag)
        if self._replaced is not None:
            # RFC 8508 §4.7: not with MULTIAPPEND
            return self._reject(self._tag, "REPLACE takes one message", is_append=True)
        literal = self._find_literal(line_feed)
        end = line_feed - 1 if literal is None else literal.start()
        try:
            head = parse_append_next(self._take(line_feed + 1), end - self._offset)
        except RemoteProtocolError as error:
            text = "expected a message literal" if literal is None else str(error)
            return self._reject(self._tag, text, is_append=True)
        if literal is None:
            if head.data is not AppendData.CATENATE:
                return self._reject(self._tag, "expected a message literal", is_append=True)
            return self._announce(head, self._tag, self._offset + head.end, is_first=False)
        return self._announce_literal(literal, head, self._tag, is_first=False)

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
    _State.CATENATE: ImapServer._catenate,
    _State.APPEND_NEXT: ImapServer._append_next,
    _State.AUTH: ImapServer._auth,
    _State.IDLE: ImapServer._idle,
    _State.CLOSED: ImapServer._closed,
}
