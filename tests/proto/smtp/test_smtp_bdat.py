"""CHUNKING: messages by BDAT, whole, byte by byte and cut anywhere."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_driver import HELLO, Decision, Driver, at_cuts, codes, connect, decide, ways

from pochta.proto.smtp import events
from pochta.proto.smtp.bdat import DROPPED_SIZES, ChunkedMessage
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import CloseReason, DataFault, Event
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply

rfc = pytest.mark.rfc
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
TRANSACTION = MAIL + RCPT
OPEN = HELLO + TRANSACTION
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
OK = "250 2.0.0"
ORDER = "503 5.5.1"
BARE = "550 5.5.2"
LARGE = "552 5.3.4"
FULL = Reply(452, "4.3.1", "No room")


def bdat(data: bytes, *, is_last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(data), b" LAST" if is_last else b"", data)


def last(data: bytes = b"") -> bytes:
    return bdat(data, is_last=True)


def case(name: str, client: bytes, want: list[str], messages: list[bytes], *marks: pytest.MarkDecorator) -> object:
    return pytest.param(client, want, messages, id=name, marks=marks)


EVIL = b"a\r\n.\r\nMAIL FROM:<evil@x>\r\nQUIT\r\n"
CASES = [
    case("one chunk", OPEN + last(b"hi\r\n") + b"QUIT\r\n", [*OPENED, OK, "221 2.0.0"], [b"hi\r\n"], rfc(3030, "2")),
    case("lower case", OPEN + b"bdat 2 last\r\nhi", [*OPENED, OK], [b"hi"]),
    case("blanks", OPEN + b"BDAT  2   LAST \r\nhi", [*OPENED, OK], [b"hi"]),
    case("leading zeros", OPEN + b"BDAT 0002 LAST\r\nhi", [*OPENED, OK], [b"hi"]),
    case("chunks", OPEN + bdat(b"a") + bdat(b"\r\nb") + last(b"c\r\n"), [*OPENED, OK, OK, OK], [b"a\r\nbc\r\n"]),
    case("LAST of nothing", OPEN + bdat(b"a\r\n") + last(), [*OPENED, OK, OK], [b"a\r\n"], rfc(3030, "2")),
    case("nothing at all", OPEN + last(), [*OPENED, OK], [b""]),
    case("empty chunks", OPEN + bdat(b"") + bdat(b"a") + bdat(b"") + last(), [*OPENED, OK, OK, OK, OK], [b"a"]),
    case("no line end", OPEN + last(b"hi"), [*OPENED, OK], [b"hi"]),
    case("dots stay", OPEN + last(b"..\r\n.\r\n.."), [*OPENED, OK], [b"..\r\n.\r\n.."]),
    case("commands inside", OPEN + last(EVIL) + b"NOOP\r\n", [*OPENED, OK, OK], [EVIL]),
    case("any byte", OPEN + last(b"\0\xff\x80"), [*OPENED, OK], [b"\0\xff\x80"]),
    case("line end in two", OPEN + bdat(b"a\r") + last(b"\nb"), [*OPENED, OK, OK], [b"a\r\nb"]),
    case(
        "line end in two, a gap between",
        OPEN + bdat(b"a\r") + bdat(b"") + last(b"\n"),
        [*OPENED, OK, OK, OK],
        [b"a\r\n"],
    ),
    case("two messages", OPEN + last(b"1") + TRANSACTION + last(b"2"), [*OPENED, OK, *OPENED[1:], OK], [b"1", b"2"]),
    case(
        "then DATA",
        OPEN + last(b"1") + TRANSACTION + b"DATA\r\n2\r\n.\r\n",
        [*OPENED, OK, *OPENED[1:], "354", OK],
        [b"1", b"2\r\n"],
        rfc(3030, "2"),
    ),
    case(
        "other commands between",
        OPEN + bdat(b"a") + b"NOOP\r\nVRFY x\r\nHELP\r\nX\r\n" + last(b"b"),
        [*OPENED, OK, OK, "252 2.5.0", "214 2.0.0", "500 5.5.1", OK],
        [b"ab"],
    ),
    case("after LAST", OPEN + last(b"a") + last(b"b"), [*OPENED, OK, ORDER], [b"a"], rfc(3030, "2")),
    case("DATA after BDAT", OPEN + bdat(b"a") + b"DATA\r\n" + last(), [*OPENED, OK, ORDER, OK], [b"a"], rfc(3030, "2")),
    case("RCPT after BDAT", OPEN + bdat(b"a") + RCPT + last(), [*OPENED, OK, ORDER, OK], [b"a"]),
    case("MAIL after BDAT", OPEN + bdat(b"a") + MAIL + last(), [*OPENED, OK, ORDER, OK], [b"a"]),
    case("before hello", last(b"QUIT\r\n") + b"NOOP\r\n", [ORDER, OK], [], rfc(3030, "2")),
    case("before MAIL", HELLO + last(b"QUIT\r\n") + b"NOOP\r\n", ["250", ORDER, OK], []),
    case("before RCPT", HELLO + MAIL + last(b"QUIT\r\n") + RCPT, ["250", "250 2.1.0", ORDER, ORDER], []),
    case(
        "no valid recipient",
        HELLO + MAIL + b"RCPT TO:<no@x>\r\n" + bdat(b"QUIT\r\n") + RCPT + last(b"x") + MAIL,
        ["250", "250 2.1.0", "550 5.1.1", "554 5.5.1", ORDER, ORDER, "250 2.1.0"],
        [],
        rfc(3030, "2"),
    ),
    case("RSET forgets", OPEN + bdat(b"a") + b"RSET\r\n" + last(b"b"), [*OPENED, OK, OK, ORDER], [], rfc(3030, "2")),
    case(
        "a new start",
        OPEN + bdat(b"a") + b"RSET\r\n" + TRANSACTION + last(b"b"),
        [*OPENED, OK, OK, *OPENED[1:], OK],
        [b"b"],
    ),
    case("EHLO forgets", OPEN + bdat(b"a\r") + OPEN + last(b"\r\n"), [*OPENED, OK, *OPENED, OK], [b"\r\n"]),
    case("QUIT between", OPEN + bdat(b"a") + b"QUIT\r\n", [*OPENED, OK, "221 2.0.0"], []),
    case(
        "no size", OPEN + b"BDAT\r\nBDAT x\r\nBDAT -1\r\nBDAT LAST\r\nBDAT 1,0\r\n", [*OPENED, *["501 5.5.4"] * 5], []
    ),
    case("a size of other digits", OPEN + "BDAT ٣\r\nBDAT 3x\r\n".encode(), [*OPENED, *["501 5.5.4"] * 2], []),
    case("too many digits", OPEN + b"BDAT " + b"9" * 21 + b"\r\nNOOP\r\n", [*OPENED, "501 5.5.4", OK], []),
    case(
        "bad end marker",
        OPEN + b"BDAT 6 LATE\r\nQUIT\r\n" + last(b"x") + b"RSET\r\n",
        [*OPENED, "501 5.5.4", ORDER, OK],
        [],
    ),
    case("as large as can be", OPEN + bdat(b"x" * 600) + last(b"x" * 400), [*OPENED, OK, OK], [b"x" * 1000]),
    case("too large", OPEN + last(b"x" * 1001) + b"NOOP\r\n", [*OPENED, LARGE, OK], [], rfc(1870, "6.3")),
    case(
        "too large in the end",
        OPEN + bdat(b"x" * 600) + bdat(b"x" * 401) + last(b"x") + MAIL,
        [*OPENED, OK, LARGE, ORDER, "250 2.1.0"],
        [],
    ),
    case("absurd", OPEN + b"BDAT 99999999999999999999\r\nNOOP\r\n", [*OPENED, LARGE], []),
    case("too much dropped", HELLO + bdat(b"x" * 1500) * 2 + b"NOOP\r\n", ["250", ORDER, LARGE], []),
    case("bare LF", OPEN + last(b"a\nQUIT\r\n") + b"NOOP\r\n", [*OPENED, BARE, OK], [], rfc(5321, "4.1.1.4")),
    case("bare CR", OPEN + last(b"a\rQUIT\r\n") + b"NOOP\r\n", [*OPENED, BARE, OK], []),
    case("CR at the end", OPEN + last(b"a\r") + b"\r\n", [*OPENED, BARE, "500 5.5.1"], []),
    case("CR at the end, LAST of nothing", OPEN + bdat(b"a\r") + last(), [*OPENED, OK, BARE], []),
    case("CR at the end, no LF next", OPEN + bdat(b"a\r") + bdat(b"b") + last(), [*OPENED, OK, BARE, ORDER], []),
    case("LF at the start", OPEN + last(b"\na"), [*OPENED, BARE], []),
    case(
        "what follows a refused chunk is dropped",
        OPEN + bdat(b"\n") + bdat(b"RSET\r\n") + last(b"QUIT\r\n") + b"RCPT TO:<x@y>\r\nDATA\r\n" + TRANSACTION,
        [*OPENED, BARE, ORDER, ORDER, ORDER, ORDER, *OPENED[1:]],
        [],
        rfc(3030, "2"),
    ),
    case("BINARYMIME", HELLO + MAIL[:-2] + b" BODY=BINARYMIME\r\n", ["250", "501 5.5.4"], [], rfc(3030, "3")),
    case("bare LF behind the command", OPEN + b"BDAT 3\nx\r\nNOOP\r\n", [*OPENED, "500 5.5.2", OK], []),
]


@pytest.mark.parametrize(("client", "want", "messages"), CASES)
def test_dialogue(client: bytes, want: list[str], messages: list[bytes]) -> None:
    seen = []
    for chunks in (*ways(client), at_cuts(client, list(range(5, len(client), 7)))):
        driver = connect(can_start_tls=False)
        driver.feed_all(chunks)
        assert codes(driver.sent) == want
        assert driver.messages == messages
        seen.append(driver.events)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([b"a\nb\r\n"], b"a\r\nb\r\n"),
        ([b"a\r", b"\nb"], b"a\r\nb"),
        ([b"a", b"\n", b"\n.\n"], b"a\r\n\r\n.\r\n"),
        ([b"a\n.\r\n..\n"], b"a\r\n.\r\n..\r\n"),
        ([b"a\rb\n"], None),
        ([b"a\n\r"], None),
        ([b"\n" * 501], None),
        ([b"\n" * 400, b"\n" * 400], None),
    ],
)
def test_normalise_makes_bare_lf_a_line_end(chunks: list[bytes], message: bytes | None) -> None:
    client = OPEN + b"".join(bdat(chunk) for chunk in chunks[:-1]) + last(chunks[-1]) + b"NOOP\n"
    for cut in ways(client, halves=len(client)):
        driver = connect(bare_newline=BareNewline.NORMALISE)
        driver.feed_all(cut)
        assert driver.messages == ([] if message is None else [message])
        assert codes(driver.sent)[-1] == OK
        if message is None:
            fault = DataFault.BARE_NEWLINE if b"\r" in b"".join(chunks) else DataFault.TOO_LARGE
            assert driver.events[-1] == events.DataRejected(fault)


def test_events_of_a_message() -> None:
    driver = connect()
    driver.feed(OPEN + bdat(b"one\r\n") + bdat(b"two\r\n") + last())
    assert driver.events[3:] == [events.DataStart(is_bdat=True), events.DataEnd(10)]
    assert connect().feed(HELLO).count(b"250-CHUNKING\r\n") == 1


@pytest.mark.parametrize(
    ("client", "want"),
    [
        pytest.param(bdat(b"a") + b"RSET\r\n", events.Reset(), id="RSET"),
        pytest.param(bdat(b"a") + bdat(b"x" * 1000), events.DataRejected(DataFault.TOO_LARGE), id="too large"),
        pytest.param(bdat(b"x" * 1001), events.Reset(), id="too large before it began"),
        pytest.param(b"BDAT 1 X\r\na", events.Reset(), id="syntax before it began"),
        pytest.param(bdat(b"a") + b"BDAT 1 X\r\na", events.Reset(), id="syntax"),
        pytest.param(bdat(b"\n"), events.DataRejected(DataFault.BARE_NEWLINE), id="bare LF"),
        pytest.param(b"BDAT 2001\r\n", events.Closed(CloseReason.CHUNK_TOO_LARGE), id="absurd"),
    ],
)
def test_the_driver_is_told_that_a_message_will_not_be(client: bytes, want: Event) -> None:
    driver = connect()
    driver.feed(OPEN + client)
    assert driver.events[-1] == want
    driver.feed(bdat(b"x") + b"RSET\r\n")
    assert driver.events[-1] == want, "once"


@rfc(3030, "2")
def test_a_refusal_of_the_driver_waits_for_the_end_of_the_chunk() -> None:
    driver = connect()
    driver.decide = lambda event: FULL if isinstance(event, events.DataStart) else None
    driver.feed(OPEN + b"BDAT 12\r\nQUIT\r\nQUIT")
    assert codes(driver.sent) == OPENED
    assert driver.server.is_receiving_message
    driver.feed(b"\r\n" + bdat(b"QUIT\r\n") + last(b"QUIT\r\n"))
    assert codes(driver.sent) == [*OPENED, "452 4.3.1", ORDER, ORDER]
    assert driver.events[3:] == [events.DataStart(is_bdat=True), events.Reset()]
    driver.decide = decide
    driver.feed(TRANSACTION + last(b"x"))
    assert driver.messages == [b"x"]


def test_a_421_of_the_driver_closes_at_once() -> None:
    driver = connect()
    driver.decide = lambda event: Reply(421, "4.3.2", "Busy") if isinstance(event, events.DataStart) else None
    driver.feed(OPEN + b"BDAT 12\r\n")
    assert codes(driver.sent) == [*OPENED, "421 4.3.2"]
    assert driver.server.is_closed


def test_a_refused_message_ends_the_transaction() -> None:
    driver = connect()
    driver.decide = lambda event: FULL if isinstance(event, events.DataEnd) else None
    driver.feed(OPEN + last(b"x") + last(b"y") + TRANSACTION)
    assert codes(driver.sent) == [*OPENED, "452 4.3.1", ORDER, *OPENED[1:]]


def test_no_reply_leaves_for_the_question() -> None:
    server = connect().server
    server.receive_data(OPEN + b"BDAT 4\r\n")
    for _ in range(3):
        assert server.next_event() is not None
        server.accept()
    server.data_to_send()
    assert server.next_event() == events.DataStart(is_bdat=True)
    assert not server.is_receiving_message
    server.accept()
    assert server.data_to_send() == b""
    assert server.is_receiving_message
    server.receive_data(b"a\r")
    assert server.next_event() == events.DataChunk(b"a")
    server.receive_data(b"\nb")
    assert server.next_event() == events.DataChunk(b"\r\nb")
    assert server.data_to_send() == b"250 2.0.0 Chunk received\r\n"
    assert not server.is_receiving_message


@rfc(3207, "4.2")
def test_starttls_between_chunks_forgets_the_message() -> None:
    driver = connect(can_start_tls=True)
    driver.feed(OPEN + bdat(b"a") + b"STARTTLS\r\n")
    driver.feed(last(b"b") + OPEN + last(b"c"))
    assert codes(driver.sent) == [*OPENED, OK, "220 2.0.0", ORDER, *OPENED, OK]
    assert driver.messages == [b"c"]


def test_an_early_shut_down_drops_the_chunk() -> None:
    driver = connect()
    driver.feed(OPEN + b"BDAT 10\r\nhalf")
    driver.server.shut_down(Reply(421, "4.3.2", "Going down"))
    assert driver.server.next_event() == events.Closed(CloseReason.SHUT_DOWN)
    assert driver.feed(b" a chunk") == b"421 4.3.2 Going down\r\n"


@rfc(2033, "4.2")
@pytest.mark.parametrize(
    ("client", "want"),
    [
        pytest.param(bdat(b"a") + last(b"b"), [OK, OK, "452 4.3.1"], id="taken"),
        pytest.param(last(b"a\n"), [BARE, BARE], id="faulty"),
        pytest.param(bdat(b"a\n") + last(b"b"), [BARE, ORDER, ORDER], id="faulty before"),
        pytest.param(last(b"x" * 1001), [LARGE, LARGE], id="too large"),
        pytest.param(b"RSET\r\n" + last(b"b"), [OK, ORDER], id="no transaction"),
        pytest.param(b"RSET\r\n" + MAIL + last(b"b"), [OK, "250 2.1.0", ORDER], id="no recipient"),
    ],
)
def test_lmtp_answers_the_last_chunk_per_recipient(client: bytes, want: list[str]) -> None:
    answers: Iterator[Decision] = iter([None, FULL])
    driver = connect(is_lmtp=True)
    driver.decide = lambda event: next(answers) if isinstance(event, events.DataEnd) else decide(event)
    driver.feed(b"LHLO x\r\n" + MAIL + RCPT + b"RCPT TO:<no@x>\r\n" + RCPT)
    assert codes(driver.feed(client)) == want
    assert b"250-CHUNKING\r\n" in driver.sent


def test_a_large_chunk_is_handed_on_as_it_comes() -> None:
    size, piece = 25 * 1024 * 1024, b"x" * 65534 + b"\r\n"
    driver = connect(limits=SmtpLimits(max_message_bytes=size))
    driver.feed(OPEN)
    server = driver.server
    server.receive_data(b"BDAT %d LAST\r\n" % size)
    assert server.next_event() == events.DataStart(is_bdat=True)
    server.accept()
    for _ in range(size // len(piece)):
        server.receive_data(piece)
        event = server.next_event()
        assert isinstance(event, events.DataChunk)
        assert event.data is piece, "no copy"
        assert server.buffered_bytes == 0
    assert server.next_event() == events.DataEnd(size)


def test_dropping_keeps_nothing() -> None:
    driver = connect(limits=SmtpLimits(max_message_bytes=1_000_000))
    driver.feed(OPEN + b"BDAT %d\r\n" % (DROPPED_SIZES * 1_000_000))
    for _ in range(DROPPED_SIZES * 10):
        driver.feed(b"x" * 100_000)
        assert driver.server.buffered_bytes == 0
    assert codes(driver.sent) == [*OPENED, LARGE]


CHUNK = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"bc", b"QUIT\r\n"]), max_size=6).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(
    chunks=st.lists(CHUNK, min_size=1, max_size=5),
    cuts=st.lists(st.integers(60, 200), max_size=6),
    mode=st.sampled_from(BareNewline),
    max_bytes=st.sampled_from([5, 1000]),
)
def test_agrees_with_the_model_at_any_cut(
    chunks: list[bytes], cuts: list[int], mode: BareNewline, max_bytes: int
) -> None:
    limits = SmtpLimits(max_message_bytes=max_bytes, max_errors=100)
    wire = OPEN + b"".join(bdat(chunk) for chunk in chunks[:-1]) + last(chunks[-1])
    whole = b"".join(chunks)
    is_bare = b"\r" in whole.replace(b"\r\n", b"") or (
        mode is BareNewline.REFUSE and b"\n" in whole.replace(b"\r\n", b"")
    )
    message = whole.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    is_taken = not is_bare and len(message) <= max_bytes
    drivers: list[Driver] = []
    for cut in (*ways(wire), at_cuts(wire, cuts)):
        driver = connect(limits=limits, bare_newline=mode)
        driver.feed_all(cut)
        drivers.append(driver)
        assert driver.messages == ([message] if is_taken else [])
        assert len(codes(driver.sent)) == 3 + len(chunks) or driver.server.is_closed
    assert drivers[0].sent == drivers[1].sent == drivers[2].sent
    assert drivers[0].events == drivers[1].events == drivers[2].events


def test_a_message_alone() -> None:
    message = ChunkedMessage(10, BareNewline.NORMALISE)
    message.begin_chunk(4, is_last=True)
    assert (message.decode(b"a\n"), message.decode(b"b\r")) == (b"a\r\n", b"b")
    message.end_chunk()
    assert message.fault is DataFault.BARE_NEWLINE
