"""APPEND and REPLACE in the engine: literal8, UTF8, CATENATE and their refusals, however the stream is cut."""

from collections.abc import Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.proto.imap import append
from pochta.proto.imap import commands as c
from pochta.proto.imap.append import AppendData, Replaced
from pochta.proto.imap.events import (
    AppendChunk,
    AppendDone,
    AppendMessageEnd,
    AppendPart,
    AppendStart,
    AppendUrl,
    BadCommand,
    CommandEvent,
    Event,
)
from pochta.proto.imap.server import ImapServer

REFUSED: Final = "refused"
NOOP: Final = CommandEvent(b"z", c.Noop())
DONE: Final = [AppendMessageEnd(), AppendDone(b"a"), NOOP]


class Driver:
    """Answers an engine as a server would; keeps the events (chunks joined) and all that was sent."""

    def __init__(self) -> None:
        self.engine = ImapServer()
        self.engine.is_authenticated = True
        self.events: list[Event] = []
        self.sent = b""

    def feed(self, pieces: Iterable[bytes]) -> "Driver":
        for piece in pieces:
            self.engine.receive_data(piece)
            while (event := self.engine.next_event()) is not None:
                self.sent += self.engine.data_to_send()
                self._take(event)
            self.sent += self.engine.data_to_send()
        return self

    def _take(self, event: Event) -> None:
        match event:
            case AppendChunk(data) if isinstance(last := self.events[-1], AppendChunk):
                self.events[-1] = AppendChunk(last.data + data)
                return
            case AppendStart(mailbox=mailbox, size_bytes=size, data=kind):
                if mailbox == REFUSED or not (size or kind is AppendData.CATENATE):
                    self.engine.refuse_append()
                else:
                    self.engine.accept_append()
            case AppendPart(size_bytes=size):
                if size == 13:
                    self.engine.refuse_append()
                else:
                    self.engine.accept_append()
            case AppendUrl(url=b"refused"):
                self.engine.refuse_append()
        self.events.append(event)


def run(data: bytes) -> Driver:
    whole = Driver().feed([data])
    bytewise = Driver().feed(data[at : at + 1] for at in range(len(data)))
    assert bytewise.events == whole.events
    assert bytewise.sent == whole.sent
    return whole


def start(
    size: int,
    data: AppendData = AppendData.LITERAL,
    *,
    is_sync: bool = False,
    is_first: bool = True,
    mailbox: str = "INBOX",
    replaced: Replaced | None = None,
) -> AppendStart:
    return AppendStart(b"a", mailbox, (), None, size, is_sync, is_first, data, replaced)


CATENATE: Final = start(0, AppendData.CATENATE)
TABLE: Final[list[tuple[str, bytes, list[Event], bytes]]] = [
    (
        "literal8 with NUL",
        b"a APPEND INBOX ~{3}\r\na\0b\r\nz NOOP\r\n",
        [start(3, AppendData.BINARY, is_sync=True), AppendChunk(b"a\0b"), *DONE],
        b"+ OK\r\n",
    ),
    (
        "UTF8",
        b"a append inbox (\\seen) UTF8 (~{3+}\r\nabc)\r\nz NOOP\r\n",
        [start(3, AppendData.UTF8)._replace(flags=("\\Seen",)), AppendChunk(b"abc"), *DONE],
        b"",
    ),
    (
        "UTF8, then another message",
        b"a APPEND INBOX utf8 (~{1+}\r\nx) {1+}\r\ny\r\nz NOOP\r\n",
        [
            start(1, AppendData.UTF8),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            start(1, is_first=False),
            AppendChunk(b"y"),
            *DONE,
        ],
        b"",
    ),
    (
        "UTF8 not closed",
        b"a APPEND INBOX UTF8 (~{1+}\r\nx\r\nz NOOP\r\n",
        [
            start(1, AppendData.UTF8),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            BadCommand(b"a", "expected a closing parenthesis"),
            NOOP,
        ],
        b"",
    ),
    (
        "UTF8 without literal8",
        b"a APPEND INBOX UTF8 ({1+}\r\nx)\r\nz NOOP\r\n",
        [BadCommand(b"a", "UTF8 needs a literal8"), NOOP],
        b"",
    ),
    (
        "URLs alone",
        b'a APPEND INBOX CATENATE (URL "/x;UID=1" URL /y)\r\nz NOOP\r\n',
        [CATENATE, AppendUrl(b"/x;UID=1"), AppendUrl(b"/y"), *DONE],
        b"",
    ),
    (
        "texts and URLs",
        b"a APPEND INBOX catenate (text {2}\r\nab url /x TEXT {0}\r\n"
        b" UTF8 (~{1+}\r\nc) TEXT ~{1+}\r\n\0)\r\nz NOOP\r\n",
        [
            CATENATE,
            AppendPart(2, True, AppendData.LITERAL),
            AppendChunk(b"ab"),
            AppendUrl(b"/x"),
            AppendPart(0, True, AppendData.LITERAL),
            AppendPart(1, False, AppendData.UTF8),
            AppendChunk(b"c"),
            AppendPart(1, False, AppendData.BINARY),
            AppendChunk(b"\0"),
            *DONE,
        ],
        b"+ OK\r\n+ OK\r\n",
    ),
    (
        "URL as a literal",
        b"a APPEND INBOX CATENATE (URL {2}\r\n/x URL {2+}\r\n/y TEXT {1+}\r\nt)\r\nz NOOP\r\n",
        [
            CATENATE,
            AppendUrl(b"/x"),
            AppendUrl(b"/y"),
            AppendPart(1, False, AppendData.LITERAL),
            AppendChunk(b"t"),
            *DONE,
        ],
        b"+ OK\r\n",
    ),
    (
        "two messages, the second of parts",
        b"a APPEND INBOX {1+}\r\nx CATENATE (URL /x)\r\nz NOOP\r\n",
        [
            start(1),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            CATENATE._replace(is_first=False),
            AppendUrl(b"/x"),
            *DONE,
        ],
        b"",
    ),
    (
        "two messages, the first of parts",
        b"a APPEND INBOX CATENATE (URL /x) (\\Seen) {1+}\r\nx\r\nz NOOP\r\n",
        [
            CATENATE,
            AppendUrl(b"/x"),
            AppendMessageEnd(),
            start(1, is_first=False)._replace(flags=("\\Seen",)),
            AppendChunk(b"x"),
            *DONE,
        ],
        b"",
    ),
    (
        "refused before its parts",
        b"a APPEND refused CATENATE (URL /x TEXT {5+}\r\nz NO\r URL {2+}\r\n\r\n)\r\nz NOOP\r\n",
        [CATENATE._replace(mailbox=REFUSED), NOOP],
        b"",
    ),
    (
        "refused at a URL, a synchronising literal behind it is not sent",
        b"a APPEND INBOX CATENATE (URL refused TEXT {5}\r\nz NOOP\r\n",
        [CATENATE, AppendUrl(b"refused"), NOOP],
        b"",
    ),
    (
        "refused at a part",
        b"a APPEND INBOX CATENATE (URL /x TEXT {13+}\r\nz NOOP\r\n12345 URL /y)\r\nz NOOP\r\n",
        [CATENATE, AppendUrl(b"/x"), AppendPart(13, False, AppendData.LITERAL), NOOP],
        b"",
    ),
    (
        "refused at a synchronising part",
        b"a APPEND INBOX CATENATE (TEXT {13}\r\nz NOOP\r\n",
        [CATENATE, AppendPart(13, True, AppendData.LITERAL), NOOP],
        b"",
    ),
    (
        "no parts",
        b"a APPEND INBOX CATENATE ()\r\nz NOOP\r\n",
        [CATENATE, BadCommand(b"a", "expected a word"), NOOP],
        b"",
    ),
    (
        "unknown part",
        b"a APPEND INBOX CATENATE (FILE /etc/passwd)\r\nz NOOP\r\n",
        [CATENATE, BadCommand(b"a", "unknown part of CATENATE"), NOOP],
        b"",
    ),
    (
        "text that is no literal",
        b'a APPEND INBOX CATENATE (TEXT "x")\r\nz NOOP\r\n',
        [CATENATE, BadCommand(b"a", "expected a literal"), NOOP],
        b"",
    ),
    (
        "URL that is too long",
        b"a APPEND INBOX CATENATE (URL {32769+}\r\n" + b"x" * 32769 + b")\r\nz NOOP\r\n",
        [CATENATE, BadCommand(b"a", "URL is too long"), NOOP],
        b"",
    ),
    (
        "parts that are not closed",
        b"a APPEND INBOX CATENATE (URL /x\r\nz NOOP\r\n",
        [CATENATE, AppendUrl(b"/x"), BadCommand(b"a", "expected a space or a closing parenthesis"), NOOP],
        b"",
    ),
    (
        "a text whose size lies, short",
        b"a APPEND INBOX CATENATE (TEXT {2+}\r\nabcd)\r\nz NOOP\r\n",
        [
            CATENATE,
            AppendPart(2, False, AppendData.LITERAL),
            AppendChunk(b"ab"),
            BadCommand(b"a", "expected a space or a closing parenthesis"),
            NOOP,
        ],
        b"",
    ),
    (
        "REPLACE",
        b"a REPLACE 4 Drafts {1+}\r\nx\r\nz NOOP\r\n",
        [start(1, mailbox="Drafts", replaced=Replaced(4, False)), AppendChunk(b"x"), *DONE],
        b"",
    ),
    (
        "UID REPLACE of the last one, of parts",
        b"a uid replace * INBOX CATENATE (URL /x)\r\nz NOOP\r\n",
        [CATENATE._replace(replaced=Replaced(append.STAR, True)), AppendUrl(b"/x"), *DONE],
        b"",
    ),
    (
        "REPLACE takes one message",
        b"a REPLACE 4 INBOX {1+}\r\nx {1+}\r\ny\r\nz NOOP\r\n",
        [
            start(1, replaced=Replaced(4, False)),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            BadCommand(b"a", "REPLACE takes one message"),
            NOOP,
        ],
        b"",
    ),
    (
        "REPLACE of no message",
        b"a REPLACE 0 INBOX {99999+}\r\n" + b"x" * 99999 + b"\r\nz NOOP\r\n",
        [BadCommand(b"a", "0 is no message"), NOOP],
        b"",
    ),
    (
        "REPLACE without message",
        b"a REPLACE 4 INBOX\r\nz NOOP\r\n",
        [BadCommand(b"a", "expected a message literal"), NOOP],
        b"",
    ),
    (
        "APPEND after REPLACE replaces nothing",
        b"a REPLACE 4 INBOX {1+}\r\nx\r\na APPEND INBOX {1+}\r\ny\r\nz NOOP\r\n",
        [
            start(1, replaced=Replaced(4, False)),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            AppendDone(b"a"),
            start(1),
            AppendChunk(b"y"),
            *DONE,
        ],
        b"",
    ),
]


@pytest.mark.rfc(3516, "4.4")
@pytest.mark.rfc(4469, "5")
@pytest.mark.rfc(6855, "4")
@pytest.mark.rfc(8508, "5")
@pytest.mark.parametrize(("data", "events", "sent"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_stream(data: bytes, events: list[Event], sent: bytes) -> None:
    driver = run(data)
    assert driver.events == events
    assert driver.sent == sent
    assert driver.engine.buffered_bytes == 0


_PIECES: Final = st.sampled_from(
    [
        b"a APPEND INBOX ", b"a APPEND refused ", b"a UID REPLACE 3 INBOX ", b"CATENATE (", b"URL /x", b"URL refused",
        b"URL {2+}\r\n/y", b"URL {2}\r\n", b"TEXT {3+}\r\na\0b", b"TEXT {13+}\r\n", b"UTF8 (~{2+}\r\nxy)", b"UTF8 (",
        b"{4+}\r\nabcd", b"~{4}\r\n", b" ", b")", b"\r\n", b"(\\Seen)", b"z NOOP\r\n", b"\n", b'"', b"TEXT {1}\r\n",
    ]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=14), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_any_stream_means_the_same_however_it_is_cut(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    whole = Driver().feed([data])
    cuts: list[bytes] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        cuts.append(data[at : at + size])
        at += size
        turn += 1
    again = Driver().feed(cuts)
    assert again.events == whole.events
    assert again.sent == whole.sent
