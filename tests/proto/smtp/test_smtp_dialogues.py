"""Dialogues: what the client sends at once and the codes it sees, whole and byte by byte."""

import pytest
from smtp_driver import HELLO, Driver, codes, connect

from pochta.errors import LocalProtocolError
from pochta.proto.address import POSTMASTER, Address
from pochta.proto.smtp import events
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import CloseReason, DataFault
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply, encode_reply
from pochta.proto.smtp.server import SmtpServer

rfc = pytest.mark.rfc
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
OPEN = HELLO + MAIL + RCPT
OPENED = ["250", "250 2.1.0", "250 2.1.5"]


def case(name: str, client: bytes, want: list[str], *marks: pytest.MarkDecorator) -> object:
    return pytest.param(client, want, id=name, marks=marks)


@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("client", "want"),
    [
        case("one message", OPEN + b"DATA\r\nhi\r\n.\r\nQUIT\r\n", [*OPENED, "354", "250 2.0.0", "221 2.0.0"]),
        case("lower case", b"ehlo x\r\nmail from:<a@b>\r\nrcpt to:<a@b>\r\ndata\r\n", [*OPENED, "354"]),
        case("HELO", b"HELO x\r\n" + MAIL, ["250", "250 2.1.0"], rfc(5321, "4.1.1.1")),
        case("blanks behind a command", b"NOOP  \t\r\nNOOP x y\r\n", ["250 2.0.0"] * 2, rfc(5321, "4.1.1.9")),
        case("blank behind the colon", HELLO + b"MAIL FROM: <a@b>\r\n", OPENED[:2]),
        case("null sender", HELLO + b"MAIL FROM:<>\r\n", OPENED[:2]),
        case("before hello", MAIL + RCPT + b"DATA\r\n", ["503 5.5.1"] * 3, rfc(5321, "4.1.4")),
        case("any time", b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\n", ["250 2.0.0", "250 2.0.0", "252 2.5.0", "214 2.0.0"]),
        case("nested MAIL", HELLO + MAIL + MAIL, [*OPENED[:2], "503 5.5.1"], rfc(5321, "4.1.4")),
        case("RCPT first", HELLO + RCPT, ["250", "503 5.5.1"]),
        case("DATA without RCPT", HELLO + MAIL + b"DATA\r\n", [*OPENED[:2], "503 5.5.1"]),
        case(
            "DATA with no valid recipient",
            HELLO + MAIL + b"RCPT TO:<nobody@x>\r\nDATA\r\n",
            [*OPENED[:2], "550 5.1.1", "554 5.5.1"],
            rfc(2920, "3.2"),
        ),
        case(
            "some recipients refused",
            HELLO + MAIL + b"RCPT TO:<nobody@x>\r\nRCPT TO:<later@x>\r\n" + RCPT + b"DATA\r\n.\r\n",
            [*OPENED[:2], "550 5.1.1", "451 4.3.0", "250 2.1.5", "354", "250 2.0.0"],
        ),
        case("refused MAIL", HELLO + b"MAIL FROM:<no@b>\r\n" + RCPT, ["250", "550 5.1.1", "503 5.5.1"]),
        case("RSET", OPEN + b"RSET\r\n" + RCPT + MAIL, [*OPENED, "250 2.0.0", "503 5.5.1", "250 2.1.0"]),
        case("EHLO resets", OPEN + HELLO + RCPT, [*OPENED, "250", "503 5.5.1"], rfc(5321, "4.1.4")),
        case(
            "two messages",
            OPEN + b"DATA\r\n.\r\n" + MAIL + RCPT + b"DATA\r\n.\r\n",
            [*OPENED, "354", "250 2.0.0", *OPENED[1:], "354", "250 2.0.0"],
        ),
        case("bad EHLO keeps the state", OPEN + b"EHLO\r\nDATA\r\n", [*OPENED, "501 5.5.4", "354"]),
        case("LHLO is not SMTP", b"LHLO x\r\n", ["500 5.5.1"]),
        case("unknown", b"XYZZY\r\n\r\n", ["500 5.5.1"] * 2, rfc(5321, "4.1.5")),
        case("not implemented", b"EXPN x\r\nTURN\r\nBURL x\r\n", ["502 5.5.1"] * 3),
        case("arguments where none are", b"RSET x\r\nQUIT x\r\nSTARTTLS x\r\n", ["501 5.5.4"] * 3, rfc(5321, "4.1.1")),
        case("VRFY of nothing", b"VRFY\r\n", ["501 5.5.4"]),
        case("bad MAIL", HELLO + b"MAIL\r\nMAIL TO:<a@b>\r\nMAIL FROM:<a@b>SIZE=1\r\n", ["250"] + ["501 5.5.4"] * 3),
        case("bad sender", HELLO + b"MAIL FROM:a@b\r\nMAIL FROM:<postmaster>\r\n", ["250"] + ["501 5.1.7"] * 2),
        case("bad recipient", HELLO + MAIL + b"RCPT TO:a@b\r\nRCPT TO:<>\r\n", OPENED[:2] + ["501 5.1.3"] * 2),
        case(
            "long path", HELLO + b"MAIL FROM:<" + b"a" * 260 + b"@b>\r\n", ["250", "501 5.1.7"], rfc(5321, "4.5.3.1.3")
        ),
        case("long label", HELLO + b"MAIL FROM:<a@" + b"b" * 64 + b">\r\n", ["250", "501 5.1.7"]),
        case(
            "line too long",
            b"NOOP " + b"x" * 3000 + b"\r\nNOOP\r\n",
            ["500 5.5.2", "250 2.0.0"],
            rfc(5321, "4.5.3.1.9"),
        ),
        case("bare LF", b"NOOP\nNOOP\r\nNOOP\r\n", ["500 5.5.2", "250 2.0.0"], rfc(5321, "4.1.1.4")),
        case("bare LF in a long line", b"x" * 3000 + b"\nRSET\r\nNOOP\r\n", ["500 5.5.2", "250 2.0.0"]),
        case("bare CR", b"NOOP\rNOOP\r\nNOOP\r\n", ["500 5.5.2", "250 2.0.0"]),
        case("control characters", b"NOOP \x00\r\nEHLO \x1b\r\n", ["501 5.5.2"] * 2, rfc(5321, "4.1.2")),
        case("not UTF-8", b"NOOP \xff\r\n", ["501 5.5.2"]),
        case("too many recipients", OPEN + RCPT * 3, [*OPENED, *OPENED[2:] * 2, "452 4.5.3"], rfc(5321, "4.5.3.1.10")),
        case("AUTH before TLS", HELLO + b"AUTH PLAIN\r\n", ["250", "502 5.5.1"]),
        case("not a mail client", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + OPEN, ["421 4.7.0"]),
        case("nothing after QUIT", b"QUIT\r\nNOOP\r\n", ["221 2.0.0"]),
        case("postmaster", HELLO + MAIL + b"RCPT TO:<PostMaster>\r\n", OPENED, rfc(5321, "4.1.1.3")),
        case("source route", HELLO + MAIL + b"RCPT TO:<@x,@y:c@d>\r\n", OPENED, rfc(5321, "4.1.1.3")),
        case("SIZE", HELLO + b"MAIL FROM:<a@b> SIZE=1000\r\n", OPENED[:2], rfc(1870, "6")),
        case(
            "SIZE beyond the limit", HELLO + b"MAIL FROM:<a@b> SIZE=1001\r\n" + RCPT, ["250", "552 5.3.4", "503 5.5.1"]
        ),
        case("bad SIZE", HELLO + b"MAIL FROM:<a@b> SIZE\r\nMAIL FROM:<a@b> SIZE=1x\r\n", ["250"] + ["501 5.5.4"] * 2),
        case("SIZE twice", HELLO + b"MAIL FROM:<a@b> SIZE=1 size=2\r\n", ["250", "501 5.5.4"], rfc(1870, "6")),
        case("huge SIZE", HELLO + b"MAIL FROM:<a@b> SIZE=" + b"9" * 21 + b"\r\n", ["250", "501 5.5.4"]),
        case("BODY", HELLO + b"MAIL FROM:<a@b> BODY=8bitmime\r\n", OPENED[:2], rfc(6152, "2")),
        case("bad BODY", HELLO + b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n", ["250", "501 5.5.4"]),
        case("unknown parameter", HELLO + b"MAIL FROM:<a@b> X=1\r\n", ["250", "555 5.5.4"], rfc(5321, "4.1.1.11")),
        case("bad parameter", HELLO + b"MAIL FROM:<a@b> =1\r\n", ["250", "501 5.5.4"]),
        case("unknown parameter of RCPT", HELLO + MAIL + b"RCPT TO:<a@b> NOTIFY=NEVER\r\n", [*OPENED[:2], "555 5.5.4"]),
        case("UTF-8 sender", HELLO + "MAIL FROM:<ü@b>\r\n".encode(), ["250", "550 5.6.7"], rfc(6531, "3.5")),
        case(
            "UTF-8 recipient", HELLO + MAIL + "RCPT TO:<ü@b>\r\n".encode(), [*OPENED[:2], "553 5.6.7"], rfc(6531, "3.5")
        ),
        case("SMTPUTF8", HELLO + "MAIL FROM:<ü@b> SMTPUTF8\r\nRCPT TO:<ü@ü.b>\r\n".encode(), OPENED, rfc(6531, "3.4")),
        case("SMTPUTF8=1", HELLO + b"MAIL FROM:<a@b> SMTPUTF8=1\r\n", ["250", "501 5.5.4"], rfc(6531, "3.4")),
        case(
            "too large",
            OPEN + b"DATA\r\n" + b"x\r\n" * 400 + b".\r\n" + RCPT,
            [*OPENED, "354", "552 5.3.4", "503 5.5.1"],
        ),
        case(
            "bare LF in data", OPEN + b"DATA\r\nx\n.\nRSET\r\n.\r\nNOOP\r\n", [*OPENED, "354", "550 5.5.2", "250 2.0.0"]
        ),
        case("STARTTLS", b"STARTTLS\r\n", ["220 2.0.0"]),
        case("too many errors", b"X\r\n" * 30, ["500 5.5.1"] * 19 + ["421 4.7.0"]),
    ],
)
def test_dialogue(client: bytes, want: list[str], is_bytewise: bool) -> None:
    driver = connect(can_start_tls=b"STARTTLS" in client)
    driver.feed_all([client[i : i + 1] for i in range(len(client))] if is_bytewise else [client])
    assert codes(driver.sent) == want


@rfc(5321, "4.1.1.1")
@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"can_start_tls": False}, ["HELP"]),
        ({"can_start_tls": True}, ["STARTTLS", "HELP"]),
        ({"can_start_tls": True, "is_secure": True}, ["HELP"]),
        ({"can_start_tls": False, "auth_mechanisms": ("PLAIN", "LOGIN")}, ["AUTH PLAIN LOGIN", "HELP"]),
    ],
)
def test_ehlo_offers_what_works(settings: dict[str, bool], want: list[str]) -> None:
    always = ["mx.example", "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING"]
    lines = [*always, *want]
    reply = "".join(f"250{' ' if line == lines[-1] else '-'}{line}\r\n" for line in lines)
    assert connect(**settings).feed(HELLO) == reply.encode()  # type: ignore[arg-type]  # settings by name


def test_events_of_a_message() -> None:
    driver = connect()
    driver.feed(HELLO + b"MAIL FROM:<A@b> SIZE=9 BODY=8BITMIME SMTPUTF8\r\n")
    driver.feed(b'RCPT TO:<"c d"@e>\r\nRCPT TO:<POSTMASTER>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n')
    assert driver.events == [
        events.Hello("client.example", is_extended=True),
        events.Mail(Address("A", "b"), size=9, body=events.Body.EIGHT_BIT, is_smtputf8=True),
        events.Rcpt(Address("c d", "e")),
        events.Rcpt(POSTMASTER),
        events.DataStart(),
        events.DataEnd(4),
        events.Closed(CloseReason.QUIT),
    ]
    assert driver.messages == [b".x\r\n"]
    assert driver.server.is_closed


def test_reset_is_told_when_there_was_something_to_forget() -> None:
    driver = connect()
    driver.feed(b"RSET\r\n" + HELLO + MAIL + b"RSET\r\nRSET\r\n")
    assert driver.events[2:] == [events.Reset()]


@pytest.mark.parametrize("data", [b"x" * 1001 + b"\r\n", b"a\nb\r\n", b"a\rb\r\n", b"a\nb" + b"x" * 2000 + b"\r\n"])
def test_a_faulty_message_is_never_complete(data: bytes) -> None:
    driver = connect()
    driver.feed(OPEN + b"DATA\r\n" + data + b".\r\n")
    fault = DataFault.BARE_NEWLINE if b"a" in data else DataFault.TOO_LARGE
    assert driver.events[-1] == events.DataRejected(fault)
    assert driver.messages == []


def test_normalise_takes_bare_lf() -> None:
    driver = connect(bare_newline=BareNewline.NORMALISE)
    driver.feed(OPEN.replace(b"\r\n", b"\n") + b"DATA\na\n.\nMAIL FROM:<evil@x>\n\r\n.\r\nQUIT\n")
    assert codes(driver.sent) == [*OPENED, "354", "250 2.0.0", "221 2.0.0"]
    assert driver.messages == [b"a\r\n\r\nMAIL FROM:<evil@x>\r\n\r\n"]


@rfc(3207, "4.2")
def test_what_is_pipelined_behind_starttls_is_dropped() -> None:
    driver = connect()
    driver.feed(HELLO + b"STARTTLS\r\nMAIL FROM:<evil@x>\r\nRSET\r\n")
    assert codes(driver.sent) == ["250", "220 2.0.0"]
    assert driver.server.is_secure
    assert codes(driver.feed(MAIL + b"STARTTLS\r\n" + HELLO)) == ["503 5.5.1", "503 5.5.1", "250"]


def test_starttls_refused_for_now() -> None:
    driver = connect()
    driver.decide = lambda event: Reply(454, "4.7.0", "Not now") if isinstance(event, events.StartTls) else None
    driver.server.receive_data(b"STARTTLS\r\nNOOP\r\n")
    assert driver.server.next_event() == events.StartTls()
    driver.server.reply(Reply(454, "4.7.0", "Not now"))
    assert driver.server.next_event() is None
    assert codes(driver.server.data_to_send()) == ["454 4.7.0", "250 2.0.0"]


@rfc(2920, "3.2")
def test_one_command_at_a_time_in_order() -> None:
    server = connect().server
    server.receive_data(b"NOOP\r\n" + OPEN + b"NOOP\r\n")
    assert server.next_event() == events.Hello("client.example", is_extended=True)
    assert server.next_event() is None
    assert codes(server.data_to_send()) == ["250 2.0.0"]
    server.accept()
    assert isinstance(server.next_event(), events.Mail)
    server.accept()
    assert codes(server.data_to_send()) == ["250", "250 2.1.0"]
    with pytest.raises(LocalProtocolError):
        server.accept()


@rfc(2033, "4.2")
@pytest.mark.parametrize(
    ("body", "want"),
    [
        (b"hi\r\n.\r\n", ["250 2.0.0", "452 4.2.2"]),
        (b"h\ni\r\n.\r\n", ["550 5.5.2"] * 2),
        (b"x" * 2000 + b"\r\n.\r\n", ["552 5.3.4"] * 2),
    ],
)
def test_lmtp_answers_per_recipient(body: bytes, want: list[str]) -> None:
    driver = connect(is_lmtp=True)
    answers = iter([None, Reply(452, "4.2.2", "Full")])
    usual = driver.decide
    driver.decide = lambda event: next(answers) if isinstance(event, events.DataEnd) else usual(event)
    driver.feed(b"EHLO x\r\nHELO x\r\nLHLO x\r\n" + MAIL + b"DATA\r\n")
    assert codes(driver.sent) == ["500 5.5.1", "500 5.5.1", "250", "250 2.1.0", "503 5.5.1"]
    driver.feed(RCPT + b"RCPT TO:<nobody@x>\r\nDATA\r\n")
    assert codes(driver.sent)[5:] == ["250 2.1.5", "550 5.1.1", "354"]
    driver = connect(is_lmtp=True)
    driver.decide = lambda event: next(answers) if isinstance(event, events.DataEnd) else usual(event)
    driver.feed(b"LHLO x\r\n" + MAIL + RCPT + b"RCPT TO:<nobody@x>\r\n" + RCPT + b"DATA\r\n")
    assert codes(driver.feed(body + MAIL)) == [*want, "250 2.1.0"]


def test_lmtp_without_valid_recipient_is_a_sequence_error() -> None:
    driver = connect(is_lmtp=True)
    driver.feed(b"LHLO x\r\n" + MAIL + b"RCPT TO:<nobody@x>\r\nDATA\r\n")
    assert codes(driver.sent)[-1] == "503 5.5.1"


@rfc(5321, "3.1")
def test_refused_at_the_door() -> None:
    server = SmtpServer("mx.example", limits=SmtpLimits(), can_start_tls=False, is_secure=False)
    server.receive_data(b"EHLO x\r\n")
    assert server.next_event() is None
    server.greet(Reply(554, "5.7.1", "No mail from here"))
    driver = Driver(server)
    driver.feed(MAIL + b"QUIT\r\n")
    assert codes(driver.sent) == ["554 5.7.1", "503 5.5.1", "503 5.5.1", "221 2.0.0"]
    assert driver.events == [events.Closed(CloseReason.QUIT)]


def test_shut_down_in_the_middle_of_a_message() -> None:
    driver = connect()
    driver.feed(OPEN + b"DATA\r\nhalf a li")
    driver.server.shut_down(Reply(421, "4.3.2", "Going down"))
    assert driver.server.next_event() == events.Closed(CloseReason.SHUT_DOWN)
    assert driver.feed(b"ne\r\n.\r\n") == b"421 4.3.2 Going down\r\n"
    assert driver.messages == []


def test_a_421_answer_closes() -> None:
    driver = connect()
    driver.decide = lambda event: Reply(421, "4.3.2", "Busy")
    driver.feed(OPEN)
    assert codes(driver.sent) == ["421 4.3.2"]
    assert driver.server.is_closed


@rfc(2034, "4")
@pytest.mark.parametrize(
    ("reply", "want"),
    [
        (Reply(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n"),
        (Reply(250, "", "a\nb"), b"250-a\r\n250 b\r\n"),
        (Reply(550, "5.7.1", "a\nb"), b"550-5.7.1 a\r\n550 5.7.1 b\r\n"),
        (Reply(550, "5.7.1", "a\r\n250 ok\x00é"), b"550-5.7.1 a?\r\n550 5.7.1 250 ok??\r\n"),
        (Reply(250, "", ""), b"250 \r\n"),
    ],
)
def test_reply_bytes(reply: Reply, want: bytes) -> None:
    assert encode_reply(reply) == want


@rfc(5321, "4.5.3.1.5")
def test_reply_lines_keep_the_limit() -> None:
    lines = encode_reply(Reply(550, "5.7.1", "x" * 2000)).splitlines(keepends=True)
    assert max(map(len, lines)) <= 512
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
