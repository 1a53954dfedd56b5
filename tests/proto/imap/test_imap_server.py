"""The engine: streams of octets, whole and in pieces, to events and the octets sent in return."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap import server as limits
from pochta.proto.imap.append import AppendData
from pochta.proto.imap.dates import InternalDate
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
from pochta.proto.imap.seqset import SeqSet
from pochta.proto.imap.server import ImapServer

REFUSED: Final = "refused"


class Driver:
    """Feeds an engine and answers it as a server would; collects events (chunks joined) and all that is sent."""

    def __init__(self, *, is_authenticated: bool = True, refused: str = REFUSED) -> None:
        self.engine = ImapServer()
        self.engine.is_authenticated = is_authenticated
        self.refused = refused
        self.events: list[Event] = []
        self.sent = b""

    def feed(self, pieces: Iterable[bytes]) -> "Driver":
        for piece in pieces:
            self.engine.receive_data(piece)
            while (event := self.engine.next_event()) is not None:
                self.sent += self.engine.data_to_send()
                self.take(event)
            self.sent += self.engine.data_to_send()
        return self

    def take(self, event: Event) -> None:
        engine = self.engine
        match event:
            case AppendChunk(data):
                assert data
                last = self.events[-1]
                if isinstance(last, AppendChunk):
                    self.events.pop()
                    event = AppendChunk(last.data + data)
            case AppendStart(mailbox=mailbox, size_bytes=size):
                if mailbox == self.refused or not size:
                    engine.refuse_append()
                else:
                    engine.accept_append()
            case CommandEvent(_, c.Idle()):
                engine.start_idle()
            case CommandEvent(_, c.Authenticate("PLAIN", None)):
                engine.challenge(b"")
        self.events.append(event)


def run(data: bytes, *, is_authenticated: bool = True) -> Driver:
    whole = Driver(is_authenticated=is_authenticated).feed([data])
    bytewise = Driver(is_authenticated=is_authenticated).feed(data[i : i + 1] for i in range(len(data)))
    assert bytewise.events == whole.events
    assert bytewise.sent == whole.sent
    return whole


NOOP: Final = CommandEvent(b"z", c.Noop())
LOGIN: Final = CommandEvent(b"a", c.Login("u", "pw"))


def start(size: int, *, is_sync: bool = True, is_first: bool = True, mailbox: str = "INBOX") -> AppendStart:
    return AppendStart(b"a", mailbox, (), None, size, is_sync, is_first)


TABLE: list[tuple[str, bytes, list[Event], bytes]] = [
    (
        "pipelined",
        b"a NOOP\r\nb check\r\nc UID FETCH 1 UID\r\n",
        [
            CommandEvent(b"a", c.Noop()),
            CommandEvent(b"b", c.Check()),
            CommandEvent(b"c", c.Fetch(SeqSet(((1, 1),)), (c.FetchAttribute.UID,), is_uid=True)),
        ],
        b"",
    ),
    ("synchronising literals", b"a LOGIN {1}\r\nu {2}\r\npw\r\nz NOOP\r\n", [LOGIN, NOOP], b"+ OK\r\n+ OK\r\n"),
    ("non-synchronising literals", b"a LOGIN {1+}\r\nu {2+}\r\npw\r\nz NOOP\r\n", [LOGIN, NOOP], b""),
    (
        "literal that looks like a command",
        b"a LOGIN u {9+}\r\nz NOOP\r\n\xc3\r\n",
        [BadCommand(b"a", "text is not valid UTF-8")],
        b"",
    ),
    (
        "literal ending in CR",
        b"a LOGIN u {2+}\r\np\r\nz NOOP\r\n",
        [BadCommand(b"a", "lines must end with CR LF")],
        b"",
    ),
    ("bad literal in the middle", b"a FOO {3+}\r\nabc\r\nz NOOP\r\n", [BadCommand(b"a", "unknown command"), NOOP], b""),
    ("empty line", b"\r\nz NOOP\r\n", [BadCommand(None, "expected a tag and a command"), NOOP], b""),
    (
        "no command",
        b"a\r\na \r\n",
        [BadCommand(None, "expected a tag and a command"), BadCommand(b"a", "expected a tag and a command")],
        b"",
    ),
    (
        "bare LF hides nothing",
        b'a LOGIN "x\nb NOOP" y\r\nz NOOP\r\n',
        [BadCommand(b"a", "lines must end with CR LF"), NOOP],
        b"",
    ),
    (
        "bare LF, then a literal",
        b"a X\nb {4+}\r\nx\r\n\r\r\nz NOOP\r\n",
        [BadCommand(b"a", "lines must end with CR LF"), NOOP],
        b"",
    ),
    ("bare LF at once", b"a NOOP\n", [BadCommand(b"a", "lines must end with CR LF")], b""),
    ("literal8", b"a LOGIN u ~{2+}\r\npw\r\nz NOOP\r\n", [BadCommand(b"a", "literal8 is not supported"), NOOP], b""),
    (
        "synchronising literal8",
        b"a LOGIN u ~{2}\r\nz NOOP\r\n",
        [BadCommand(b"a", "literal8 is not supported"), NOOP],
        b"",
    ),
    ("literal too large", b"a LOGIN u {65537}\r\nz NOOP\r\n", [BadCommand(b"a", "literal is too large"), NOOP], b""),
    (
        "literal far too large",
        b"a LOGIN u {99999999999999999999}\r\nz NOOP\r\n",
        [BadCommand(b"a", "literal is too large"), NOOP],
        b"",
    ),
    (
        "non-synchronising literal too large",
        b"a LOGIN u {65537+}\r\nz NOOP\r\n",
        [Fatal("literal is too large", b"TOOBIG")],
        b"",
    ),
    (
        "append",
        b"a APPEND inbox {5}\r\nhello\r\nz NOOP\r\n",
        [start(5), AppendChunk(b"hello"), AppendMessageEnd(), AppendDone(b"a"), NOOP],
        b"+ OK\r\n",
    ),
    (
        "append, not synchronising",
        b"a APPEND inbox {5+}\r\nhello\r\nz NOOP\r\n",
        [start(5, is_sync=False), AppendChunk(b"hello"), AppendMessageEnd(), AppendDone(b"a"), NOOP],
        b"",
    ),
    (
        "append to a literal name",
        b"a APPEND {5}\r\nInBox {2+}\r\n\r\n\r\n",
        [start(2, is_sync=False), AppendChunk(b"\r\n"), AppendMessageEnd(), AppendDone(b"a")],
        b"+ OK\r\n",
    ),
    (
        "append with everything",
        b'a append "Sent Mail" (\\seen $x \\Recent) " 7-Feb-1994 22:43:04 -0800" {1+}\r\nx\r\n',
        [
            AppendStart(b"a", "Sent Mail", ("\\Seen", "$x"), InternalDate(760689784, -480), 1, False, True),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            AppendDone(b"a"),
        ],
        b"",
    ),
    (
        "multiappend",
        b'a APPEND INBOX {1+}\r\nx () "17-Jul-1996 02:44:25 -0700" {2}\r\nyy (\\Draft) {1+}\r\nz\r\n',
        [
            start(1, is_sync=False),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            AppendStart(b"a", "INBOX", (), InternalDate(837596665, -420), 2, True, False),
            AppendChunk(b"yy"),
            AppendMessageEnd(),
            AppendStart(b"a", "INBOX", ("\\Draft",), None, 1, False, False),
            AppendChunk(b"z"),
            AppendMessageEnd(),
            AppendDone(b"a"),
        ],
        b"+ OK\r\n",
    ),
    (
        "multiappend cancelled",
        b"a APPEND INBOX {1+}\r\nx {0+}\r\n\r\nz NOOP\r\n",
        [start(1, is_sync=False), AppendChunk(b"x"), AppendMessageEnd(), start(0, is_sync=False, is_first=False), NOOP],
        b"",
    ),
    ("append refused", b"a APPEND refused {5}\r\nz NOOP\r\n", [start(5, mailbox=REFUSED), NOOP], b""),
    (
        "append refused, octets coming",
        b"a APPEND refused {8+}\r\nb NOOP\r\n {3+}\r\n\r\nx\r\nz NOOP\r\n",
        [start(8, mailbox=REFUSED, is_sync=False), NOOP],
        b"",
    ),
    (
        "append refused, synchronising next",
        b"a APPEND refused {1+}\r\nx {3}\r\nz NOOP\r\n",
        [start(1, mailbox=REFUSED, is_sync=False), NOOP],
        b"",
    ),
    (
        "append without message",
        b"a APPEND INBOX\r\nz NOOP\r\n",
        [BadCommand(b"a", "expected a message literal"), NOOP],
        b"",
    ),
    (
        "append malformed",
        b"a APPEND INBOX (\\Seen {200000+}\r\n" + b"x" * 200_000 + b"\r\nz NOOP\r\n",
        [BadCommand(b"a", "expected a flag"), NOOP],
        b"",
    ),
    (
        "append malformed, synchronising",
        b"a APPEND INBOX foo {5}\r\nz NOOP\r\n",
        [BadCommand(b"a", "expected a date-time"), NOOP],
        b"",
    ),
    (
        "append with a tail",
        b"a APPEND INBOX {1+}\r\nx foo\r\nz NOOP\r\n",
        [
            start(1, is_sync=False),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            BadCommand(b"a", "expected a message literal"),
            NOOP,
        ],
        b"",
    ),
    (
        "append with a malformed next",
        b"a APPEND INBOX {1+}\r\nx foo {2+}\r\n\r\n\r\nz NOOP\r\n",
        [
            start(1, is_sync=False),
            AppendChunk(b"x"),
            AppendMessageEnd(),
            BadCommand(b"a", "expected a date-time"),
            NOOP,
        ],
        b"",
    ),
    (
        "append literal8",
        b"a APPEND INBOX ~{3+}\r\nabc\r\nz NOOP\r\n",
        [
            start(3, is_sync=False)._replace(data=AppendData.BINARY),
            AppendChunk(b"abc"),
            AppendMessageEnd(),
            AppendDone(b"a"),
            NOOP,
        ],
        b"",
    ),
    ("idle", b"a IDLE\r\ndone\r\nz NOOP\r\n", [CommandEvent(b"a", c.Idle()), IdleDone(b"a"), NOOP], b"+ idling\r\n"),
    (
        "idle ended badly",
        b"a IDLE\r\nb NOOP {2+}\r\n\r\n\r\nz NOOP\r\n",
        [CommandEvent(b"a", c.Idle()), BadCommand(b"a", "expected DONE"), NOOP],
        b"+ idling\r\n",
    ),
    (
        "authenticate",
        b"a AUTHENTICATE PLAIN\r\ndGVzdA==\r\nz NOOP\r\n",
        [CommandEvent(b"a", c.Authenticate("PLAIN")), AuthResponse(b"test"), NOOP],
        b"+ \r\n",
    ),
    (
        "authenticate with nothing",
        b"a AUTHENTICATE PLAIN\r\n\r\n",
        [CommandEvent(b"a", c.Authenticate("PLAIN")), AuthResponse(b"")],
        b"+ \r\n",
    ),
    (
        "authenticate cancelled",
        b"a AUTHENTICATE PLAIN\r\n*\r\nz NOOP\r\n",
        [CommandEvent(b"a", c.Authenticate("PLAIN")), AuthResponse(None), NOOP],
        b"+ \r\n",
    ),
    (
        "authenticate with bad base64",
        b"a AUTHENTICATE PLAIN\r\n=AAA\r\nz NOOP\r\n",
        [CommandEvent(b"a", c.Authenticate("PLAIN")), BadCommand(b"a", "invalid base64"), NOOP],
        b"+ \r\n",
    ),
    (
        "authenticate refused",
        b"a AUTHENTICATE KERBEROS_V4\r\nz NOOP\r\n",
        [CommandEvent(b"a", c.Authenticate("KERBEROS_V4")), NOOP],
        b"",
    ),
]


@pytest.mark.rfc(7888, "3")
@pytest.mark.rfc(3502, "6.3.11")
@pytest.mark.parametrize(("data", "events", "sent"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_stream(data: bytes, events: list[Event], sent: bytes) -> None:
    driver = run(data)
    assert driver.events == events
    assert driver.sent == sent
    assert driver.engine.buffered_bytes <= len(data)


@pytest.mark.parametrize("is_authenticated", [False, True], ids=["before sign-in", "after"])
def test_line_limit(is_authenticated: bool) -> None:
    maximum = limits.MAX_LINE if is_authenticated else limits.MAX_LINE_BEFORE_SIGN_IN
    fits = b"a " + b"x" * (maximum - 4) + b"\r\n"
    assert len(fits) == maximum
    for data, text in ((fits, "unknown command"), (b"a x" + fits[2:], "line is too long")):
        driver = run(data + b"z NOOP\r\n", is_authenticated=is_authenticated)
        assert driver.events == [BadCommand(b"a", text), NOOP]


def test_endless_line_is_not_kept() -> None:
    driver = Driver().feed(b"x" * 65536 for _ in range(20))
    assert driver.events == [BadCommand(None, "line is too long")]
    assert driver.engine.buffered_bytes < 100
    assert driver.feed([b"{3+}\r\na\r\n\r\nz NOOP\r\n"]).events[1:] == [NOOP]


def test_over_long_line_with_a_large_literal_is_fatal() -> None:
    driver = run(b"a " + b"x" * limits.MAX_LINE + b" {65537+}\r\nz NOOP\r\n")
    assert driver.events == [BadCommand(b"a", "line is too long"), Fatal("literal is too large", b"TOOBIG")]


def test_command_limit() -> None:
    piece = b"{4096+}\r\n" + b"x" * 4096
    driver = run(b"a LOGIN " + piece * 5 + b"\r\nz NOOP\r\n", is_authenticated=False)
    assert driver.events == [Fatal("literal is too large", b"TOOBIG")]
    line = b"x" * 7000 + b" {1+}\r\n\n"
    driver = run(b"a LOGIN " + line * 3 + b"\r\nz NOOP\r\n", is_authenticated=False)
    assert driver.events == [BadCommand(b"a", "command is too long"), NOOP]


def test_nothing_happens_after_fatal() -> None:
    engine = ImapServer()
    engine.receive_data(b"a LOGIN {99999+}\r\n")
    assert isinstance(engine.next_event(), Fatal)
    engine.receive_data(b"a NOOP\r\n")
    assert engine.next_event() is None
    assert engine.buffered_bytes == 0


@pytest.mark.rfc(3501, "6.2.1")
def test_start_tls_forgets_plain_text() -> None:
    engine = ImapServer()
    engine.receive_data(b"a STARTTLS\r\nb LOGIN evil evil\r\n")
    assert engine.next_event() == CommandEvent(b"a", c.StartTls())
    assert engine.start_tls_done() == len(b"b LOGIN evil evil\r\n")
    engine.receive_data(b"z NOOP\r\n")
    assert engine.next_event() == NOOP


def test_refusal_in_the_middle_of_a_message() -> None:
    engine = ImapServer()
    engine.receive_data(b"a APPEND INBOX {8}\r\nabc")
    assert engine.next_event() == start(8)
    engine.accept_append()
    assert engine.next_event() == AppendChunk(b"abc")
    engine.refuse_append()
    engine.receive_data(b"\r\nb N {2+}\r\nxx\r\nz NOOP\r\n")
    assert engine.next_event() == NOOP


def test_refusal_between_messages() -> None:
    engine = ImapServer()
    engine.receive_data(b"a APPEND INBOX {1+}\r\nx {4}\r\nz NOOP\r\n")
    assert engine.next_event() == start(1, is_sync=False)
    engine.accept_append()
    assert engine.next_event() == AppendChunk(b"x")
    assert engine.next_event() == AppendMessageEnd()
    engine.refuse_append()
    assert engine.next_event() == NOOP
    assert engine.data_to_send() == b""


def test_accepted_empty_message() -> None:
    engine = ImapServer()
    engine.receive_data(b"a APPEND INBOX {0}\r\n")
    assert engine.next_event() == start(0)
    engine.accept_append()
    assert engine.next_event() == AppendMessageEnd()
    assert engine.next_event() is None
    engine.receive_data(b"\r\n")
    assert engine.next_event() == AppendDone(b"a")


def test_driving_out_of_order_is_our_bug() -> None:
    engine = ImapServer()
    for call in (engine.accept_append, engine.refuse_append):
        with pytest.raises(LocalProtocolError):
            call()
    engine.receive_data(b"a APPEND INBOX {3}\r\n")
    engine.next_event()
    with pytest.raises(LocalProtocolError):
        engine.next_event()
    with pytest.raises(LocalProtocolError):
        engine.start_idle()
    with pytest.raises(LocalProtocolError):
        engine.start_tls_done()
    with pytest.raises(LocalProtocolError):
        engine.challenge(b"")


def test_commands_wait_while_one_is_carried_out() -> None:
    engine = ImapServer()
    engine.receive_data(b"a NOOP\r\n")
    assert engine.next_event() == CommandEvent(b"a", c.Noop())
    engine.receive_data(b"b NOOP\r\n")
    engine.receive_data(b"z NOOP\r\n")
    assert engine.buffered_bytes == 16
    assert engine.next_event() == CommandEvent(b"b", c.Noop())
    assert engine.next_event() == NOOP
    assert engine.next_event() is None
    assert engine.buffered_bytes == 0


def test_buffer_is_compacted_in_the_middle_of_a_command() -> None:
    engine = ImapServer()
    engine.receive_data(b"b NOOP\r\na LOGIN {1+}")
    assert engine.next_event() == CommandEvent(b"b", c.Noop())
    for piece in (b"", b"\r\nu", b" {2", b"}\r\np", b"w"):
        engine.receive_data(piece)
        assert engine.next_event() is None
    engine.receive_data(b"\r\nz NOOP\r\n")
    assert engine.data_to_send() == b"+ OK\r\n"
    assert engine.next_event() == LOGIN
    assert engine.next_event() == NOOP


def test_auth_response_is_not_printed() -> None:
    assert "secret" not in repr(AuthResponse(b"secret"))


FRAGMENTS: Final = [
    b"a NOOP\r\n", b"b IDLE\r\n", b"DONE\r\n", b"c AUTHENTICATE PLAIN\r\n", b"dGVzdA==\r\n", b"*\r\n",
    b"a APPEND INBOX ", b"a APPEND refused ", b"(\\Seen) ", b"{3}\r\n", b"{3+}\r\n", b"{0+}\r\n", b"~{3+}\r\n",
    b"{99999+}\r\n",
    b"abc", b"\r\n", b"\n", b"\r", b" ", b"a LOGIN ", b'"x', b'"', b"u", b"a UID FETCH 1:* (FLAGS BODY.PEEK[",
    b"HEADER]<0.5>)",
    b"a SEARCH OR NOT (SEEN ", b"TEXT ", b"))", b"1,2:*", b"a STORE ", b"+FLAGS ", b"\x00", b"\xff", b'a LIST "" ',
    b"%",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data(), st.one_of(st.binary(max_size=120), st.lists(st.sampled_from(FRAGMENTS), max_size=14).map(b"".join)))
def test_any_octets_any_split(data: st.DataObject, octets: bytes) -> None:
    whole = Driver(is_authenticated=False).feed([octets])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=6)))
    edges = [0, *cuts, len(octets)]
    pieces = [octets[a:b] for a, b in pairwise(edges)]
    bytewise = [octets[i : i + 1] for i in range(len(octets))]
    for split in (pieces, bytewise):
        again = Driver(is_authenticated=False).feed(split)
        assert again.events == whole.events
        assert again.sent == whole.sent


GRAMMAR: Final = [row[1] for row in TABLE if len(row[1]) < 300]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(GRAMMAR), min_size=1, max_size=3).map(b"".join),
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([b"", b" ", b"{", b"\r\n", b"(", b'"', b"9", b"\x80"])),
        max_size=4,
    ),
)
def test_mutated_grammar(octets: bytes, changes: list[tuple[int, bytes]]) -> None:
    for place, new in changes:
        place %= len(octets)
        octets = octets[:place] + new + octets[place + 1 :] or b"x"
    driver = run(octets)
    for event in driver.events:
        if isinstance(event, BadCommand):
            assert event.text.isascii()
