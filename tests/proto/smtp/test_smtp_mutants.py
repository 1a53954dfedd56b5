"""SMTP: the edges of every limit, what is written besides codes, why a connection ends. Found by `.ci/mutation`."""

import pytest
from smtp_driver import HELLO, Driver, codes, connect

from pochta.proto.smtp import events
from pochta.proto.smtp.commands import MAX_HELLO_BYTES
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import CloseReason, DataFault, Event
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.parameters import MAX_SIZE_DIGITS
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import ANSWERS_A_TURN, SmtpServer

rfc = pytest.mark.rfc
OPEN = HELLO + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
BUSY = Reply(421, "4.3.2", "Come again")


def last_line(driver: Driver, client: bytes) -> bytes:
    return driver.feed(client).splitlines()[-1]


@pytest.mark.parametrize(
    ("is_lmtp", "want"), [(False, b"220 mx.example ESMTP\r\n"), (True, b"220 mx.example LMTP\r\n")]
)
def test_greeting(is_lmtp: bool, want: bytes) -> None:
    server = SmtpServer("mx.example", limits=SmtpLimits(), can_start_tls=False, is_secure=False, is_lmtp=is_lmtp)
    server.greet()
    assert server.data_to_send() == want


@rfc(5321, "4.1.1.1")
def test_helo_is_answered_in_one_line() -> None:
    assert connect().feed(b"HELO x\r\n") == b"250 mx.example\r\n"


@rfc(5321, "4.1.1.8")
@pytest.mark.parametrize(
    ("settings", "verbs"),
    [
        pytest.param({"can_start_tls": False}, b"HELO EHLO", id="plain"),
        pytest.param({}, b"HELO EHLO STARTTLS", id="TLS can be had"),
        pytest.param({"is_secure": True}, b"HELO EHLO", id="TLS is there"),
        pytest.param({"is_secure": True, "auth_mechanisms": ("PLAIN",)}, b"HELO EHLO AUTH", id="AUTH"),
        pytest.param({"is_lmtp": True, "can_start_tls": False}, b"LHLO", id="LMTP"),
    ],
)
def test_help_names_what_can_be_said(settings: dict[str, object], verbs: bytes) -> None:
    told = connect(**settings).feed(b"HELP\r\n")  # type: ignore[arg-type]  # settings by name
    assert told == b"214 2.0.0 Commands: " + verbs + b" MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\r\n"


def test_help_does_not_name_auth_once_it_is_done() -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",))
    driver.decide = lambda event: None
    assert last_line(driver, HELLO + b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n").startswith(b"235 ")
    assert b"AUTH" not in driver.feed(b"HELP\r\n")


@pytest.mark.parametrize(
    ("command", "want"),
    [
        pytest.param(b"MAIL FROM:a@b", b"501 5.1.7 Syntax: MAIL FROM:<address> [parameters]", id="syntax"),
        pytest.param(b"MAIL FROM:<" + b"a" * 255 + b"@b>", b"501 5.1.7 Address too long", id="too long"),
        pytest.param(b"MAIL FROM:<a@" + b"b" * 64 + b">", b"501 5.1.7 Bad domain in address", id="domain"),
        pytest.param(b"MAIL FROM:<a@[IPv6:1]>", b"501 5.1.7 Bad domain in address", id="literal"),
        pytest.param(b"RCPT TO:<c@d>", b"503 5.5.1 MAIL first", id="order"),
    ],
)
def test_what_is_wrong_with_a_path(command: bytes, want: bytes) -> None:
    assert last_line(connect(), HELLO + command + b"\r\n") == want


@pytest.mark.parametrize(
    ("client", "want"),
    [
        pytest.param("NOOP\u00a0", "500 5.5.1", id="behind a verb"),
        pytest.param("RSET \u3000", "501 5.5.4", id="behind a blank"),
        pytest.param("EHLO x\u00a0", "501 5.5.4", id="behind a name"),
        pytest.param("MAIL FROM:<a@b> SIZE=1\u3000BODY=8BITMIME", "501 5.5.4", id="between parameters"),
        pytest.param("AUTH PLAIN AHVzZXIAcGFzcw==\u00a0", "501 5.5.2", id="behind a response"),
    ],
)
def test_only_ascii_blanks_are_blanks(client: str, want: str) -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",))
    assert codes(driver.feed(HELLO + client.encode() + b"\r\n")) == ["250", want]


def test_names_and_sizes_as_long_as_may_be() -> None:
    driver = connect()
    name = b"x" * MAX_HELLO_BYTES
    assert codes(driver.feed(b"EHLO " + name + b"x\r\nHELO " + name + b"\r\n")) == ["501 5.5.4", "250"]
    size = b"1000".rjust(MAX_SIZE_DIGITS, b"0")
    driver.feed(b"MAIL FROM:<a@b> SIZE=0" + size + b"\r\nMAIL FROM:<a@b> SIZE=" + size + b"\r\n")
    assert codes(driver.sent)[2:] == ["501 5.5.4", "250 2.1.0"]
    assert driver.events[-1] == events.Mail(driver.events[-1].reverse_path, 1000)  # type: ignore[union-attr]


def test_parameters_beside_auth() -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",))
    assert codes(driver.feed(HELLO + b"MAIL FROM:<a@b> X=<>\r\n")) == ["250", "555 5.5.4"]


@pytest.mark.parametrize(
    ("size", "want"), [(2000, ["503 5.5.1", "250 2.0.0"]), (2001, ["552 5.3.4"])], ids=["is read", "is not"]
)
def test_how_much_of_a_refused_chunk_is_read(size: int, want: list[str]) -> None:
    """The limit of the tests' driver is 1000: twice as much is dropped, no more."""
    driver = connect()
    assert codes(driver.feed(b"BDAT %d LAST\r\n" % size + b"x" * size + b"NOOP\r\n")) == want


def test_a_long_line_ends_at_a_bare_lf_where_that_ends_lines() -> None:
    driver = connect(bare_newline=BareNewline.NORMALISE)
    assert codes(driver.feed(b"x" * 3000 + b"\nNOOP\r\n")) == ["500 5.5.2", "250 2.0.0"]


def handed_out(server: SmtpServer, data: bytes) -> list[Event]:
    """The events of `data`; questions get the usual yes."""
    server.receive_data(data)
    found = []
    while (event := server.next_event()) is not None:
        found.append(event)
        if server.has_question:
            server.accept()
    return found


@pytest.mark.parametrize(
    ("client", "chunks"),
    [
        pytest.param(b"DATA\r\n", [b"x" * 900, b"x" * 200, b"x" * 200, b"\r\n.\r\n"], id="DATA"),
        pytest.param(b"DATA\r\n", [b"\n" * 400, b"\n" * 200, b"x" * 200, b"\r\n.\r\n"], id="DATA that grows"),
        pytest.param(b"BDAT 900 LAST\r\n", [b"\n" * 400, b"\n" * 200, b"x" * 300], id="BDAT that grows"),
    ],
)
def test_nothing_comes_out_of_a_message_that_is_too_large(client: bytes, chunks: list[bytes]) -> None:
    server = connect(bare_newline=BareNewline.NORMALISE).server
    handed_out(server, OPEN + client)
    first, *rest = chunks
    assert [type(event) for event in handed_out(server, first)] == [events.DataChunk]
    *middle, last = rest
    for chunk in middle:
        assert handed_out(server, chunk) == []
    assert handed_out(server, last) == [events.DataRejected(DataFault.TOO_LARGE)]
    assert server.data_to_send().endswith(b"552 5.3.4 Message size exceeds fixed maximum message size\r\n")


def test_a_turn_ends_after_so_many_answers() -> None:
    server = connect().server
    server.receive_data(b"NOOP\r\n" * (ANSWERS_A_TURN - 1))
    assert server.next_event() is None
    server.receive_data(b"NOOP\r\n" * (ANSWERS_A_TURN + 3))
    assert isinstance(server.next_event(), events.Turn)
    assert server.data_to_send().count(b"250 ") == 2 * ANSWERS_A_TURN - 1
    assert server.next_event() is None
    assert server.data_to_send().count(b"250 ") == 3


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        pytest.param(b"QUIT\r\n", CloseReason.QUIT, id="QUIT"),
        pytest.param(b"GET / HTTP/1.1\r\n", CloseReason.NOT_SMTP, id="another protocol"),
        pytest.param(b"X\r\n" * 20, CloseReason.TOO_MANY_ERRORS, id="errors"),
        pytest.param(b"BDAT 99999 LAST\r\n", CloseReason.CHUNK_TOO_LARGE, id="a huge chunk"),
        pytest.param(HELLO + b"MAIL FROM:<busy@x>\r\n", CloseReason.SHUT_DOWN, id="421 for an answer"),
    ],
)
def test_why_it_is_closed(client: bytes, reason: CloseReason) -> None:
    def decide(event: Event) -> Reply | None:
        return BUSY if isinstance(event, events.Mail) else None

    driver = connect()
    driver.decide = decide
    driver.feed(client)
    assert driver.events[-1] == events.Closed(reason)
    assert driver.server.is_closed


def test_421_for_a_greeting_closes() -> None:
    server = SmtpServer("mx.example", limits=SmtpLimits(), can_start_tls=False, is_secure=False)
    server.greet(BUSY)
    assert server.data_to_send() == b"421 4.3.2 Come again\r\n"
    assert server.next_event() == events.Closed(CloseReason.SHUT_DOWN)
    assert server.is_closed
