"""What RFC 5321 binds a server to, section by section, as far as the engine decides it."""

import pytest
from smtp_driver import HELLO, codes, connect, ways

from pochta.proto.smtp.limits import SmtpLimits

rfc = pytest.mark.rfc
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
OPEN = HELLO + MAIL + RCPT
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
OK, ORDER, NO_ARGUMENT = "250 2.0.0", "503 5.5.1", "501 5.5.4"


def case(mark: pytest.MarkDecorator, name: str, client: bytes, want: list[str]) -> object:
    return pytest.param(client, want, id=f"{mark.args[1]} {name}", marks=mark)


@pytest.mark.parametrize(
    ("client", "want"),
    [
        case(
            rfc(5321, "3.3"),
            "RCPT without MAIL, whatever its syntax",
            HELLO + b"RCPT TO:x\r\n" + RCPT,
            ["250", ORDER, ORDER],
        ),
        case(rfc(5321, "4.1.4"), "MAIL without hello, whatever its syntax", b"MAIL x\r\n" + MAIL, [ORDER, ORDER]),
        case(rfc(5321, "3.3"), "source route", HELLO + MAIL + b"RCPT TO:<@a,@b.c:d@e>\r\n", OPENED),
        case(
            rfc(5321, "3.5.3"),
            "VRFY says neither yes nor no",
            b"VRFY a b\r\nVRFY <x@y>\r\nVRFY \xc3\xbc\r\n",
            ["252 2.5.0"] * 3,
        ),
        case(rfc(5321, "3.5.2"), "EXPN", b"EXPN list\r\nexpn\r\n", ["502 5.5.1"] * 2),
        case(
            rfc(5321, "3.8"),
            "unknown commands leave the connection open",
            b"FOO\r\nBAR 1\r\nNOOP\r\n",
            ["500 5.5.1"] * 2 + [OK],
        ),
        case(
            rfc(5321, "4.1.1.1"),
            "hello again",
            HELLO + b"HELO x\r\n" + HELLO + MAIL,
            ["250", "250", "250", "250 2.1.0"],
        ),
        case(rfc(5321, "4.1.4"), "hello resets", OPEN + HELLO + RCPT + MAIL, [*OPENED, "250", ORDER, "250 2.1.0"]),
        case(rfc(5321, "4.1.4"), "HELO resets", OPEN + b"HELO x\r\nDATA\r\n", [*OPENED, "250", ORDER]),
        case(
            rfc(5321, "4.1.4"),
            "a bad hello keeps the transaction",
            OPEN + b"EHLO\r\nHELO\r\nDATA\r\n",
            [*OPENED, *[NO_ARGUMENT] * 2, "354"],
        ),
        case(
            rfc(5321, "4.1.4"),
            "before hello",
            b"NOOP\r\nHELP\r\nVRFY x\r\nRSET\r\nEXPN x\r\nQUIT\r\n",
            [OK, "214 2.0.0", "252 2.5.0", OK, "502 5.5.1", "221 2.0.0"],
        ),
        case(
            rfc(5321, "4.1.4"),
            "a bad MAIL changes nothing",
            HELLO + b"MAIL FROM:<a b>\r\n" + RCPT + MAIL,
            ["250", "501 5.1.7", ORDER, "250 2.1.0"],
        ),
        case(rfc(5321, "4.1.4"), "a second MAIL changes nothing", OPEN + MAIL + b"DATA\r\n", [*OPENED, ORDER, "354"]),
        case(rfc(5321, "4.1.1.1"), "address literals", b"EHLO [127.0.0.1]\r\nEHLO [IPv6:::1]\r\n", ["250", "250"]),
        case(rfc(5321, "4.1.1.1"), "name too long", b"EHLO " + b"x" * 256 + b"\r\n", [NO_ARGUMENT]),
        case(
            rfc(5321, "4.1.1"),
            "trailing blanks",
            b"EHLO x \t \r\nMAIL FROM:<a@b> \r\nRCPT TO:<a@b>  \t\r\nDATA \r\n",
            [*OPENED, "354"],
        ),
        case(rfc(5321, "4.1.1"), "leading blanks", b" NOOP\r\n  EHLO   x\r\n", [OK, "250"]),
        case(rfc(5321, "2.4"), "any case", b"eHlO x\r\nmAiL fRoM:<a@b> sIzE=1 BoDy=7bIt\r\nrCpT tO:<a@b>\r\n", OPENED),
        case(
            rfc(5321, "4.1.1.5"),
            "RSET anywhere",
            b"RSET\r\n" + OPEN + b"RSET\r\nRSET\r\n" + MAIL,
            [OK, *OPENED, OK, OK, "250 2.1.0"],
        ),
        case(rfc(5321, "4.1.1.5"), "RSET with argument", OPEN + b"RSET x\r\nDATA\r\n", [*OPENED, NO_ARGUMENT, "354"]),
        case(
            rfc(5321, "4.1.1.8"),
            "HELP with argument",
            b"HELP MAIL\r\nhelp me, please\r\nHELP \xc3\xbc\r\n",
            ["214 2.0.0"] * 3,
        ),
        case(rfc(5321, "4.1.1.9"), "NOOP with argument", OPEN + b"NOOP any thing\r\nDATA\r\n", [*OPENED, OK, "354"]),
        case(rfc(5321, "4.1.1.10"), "QUIT with argument", b"QUIT now\r\nQUIT\r\n", [NO_ARGUMENT, "221 2.0.0"]),
        case(rfc(5321, "4.1.1.10"), "QUIT cancels", OPEN + b"QUIT\r\n" + b"DATA\r\n", [*OPENED, "221 2.0.0"]),
        case(rfc(5321, "4.1.1.4"), "DATA with argument", OPEN + b"DATA x\r\nDATA\r\n", [*OPENED, NO_ARGUMENT, "354"]),
        case(rfc(5321, "4.1.1.4"), "DATA twice", OPEN + b"DATA\r\n.\r\nDATA\r\n", [*OPENED, "354", OK, ORDER]),
        case(
            rfc(5321, "4.1.1.11"),
            "parameters",
            HELLO + b"MAIL FROM:<a@b> X-Y=1\r\nMAIL FROM:<a@b> a=b=c\r\n",
            ["250", "555 5.5.4", NO_ARGUMENT],
        ),
        case(
            rfc(5321, "4.1.2"),
            "control characters",
            HELLO + b"MAIL FROM:<a\x01@b>\r\nVRFY \x7f\r\n",
            ["250", "501 5.5.2", "501 5.5.2"],
        ),
        case(rfc(5321, "4.1.2"), "quoted", HELLO + b'MAIL FROM:<"a b\\"c"@d>\r\nRCPT TO:<"\\c"@d>\r\n', OPENED),
        case(rfc(5321, "4.1.3"), "literals", HELLO + b"MAIL FROM:<a@[1.2.3.4]>\r\nRCPT TO:<a@[IPv6:1::2]>\r\n", OPENED),
        case(
            rfc(5321, "4.5.1"),
            "postmaster",
            HELLO + MAIL + b"RCPT TO:<postmaster>\r\nRCPT TO:<POSTMASTER@x>\r\n",
            [*OPENED, OPENED[2]],
        ),
        case(rfc(5321, "4.5.5"), "null reverse-path", HELLO + b"MAIL FROM:<>\r\n" + RCPT, OPENED),
        case(
            rfc(5321, "4.5.3.1.1"),
            "64 octets of local part",
            HELLO + b"MAIL FROM:<" + b"a" * 64 + b"@b>\r\n",
            OPENED[:2],
        ),
        case(rfc(5321, "4.5.3.1.4"), "512 octets", b"NOOP ".ljust(510, b"x") + b"\r\n", [OK]),
        case(
            rfc(5321, "4.5.3.1.4"),
            "more than that",
            b"NOOP ".ljust(2046, b"x") + b"\r\n" + b"NOOP ".ljust(2047, b"x") + b"\r\nNOOP\r\n",
            [OK, "500 5.5.2", OK],
        ),
        case(
            rfc(5321, "4.5.3.1.6"),
            "text lines of any length",
            OPEN + b"DATA\r\n" + b"x" * 998 + b"\r\n.\r\n",
            [*OPENED, "354", OK],
        ),
        case(rfc(5321, "4.5.2"), "dots", OPEN + b"DATA\r\n..\r\n...\r\n.x\r\n.\r\n", [*OPENED, "354", OK]),
        case(rfc(5321, "4.1.5"), "private commands", b"XCLIENT ADDR=1\r\nXFORWARD\r\n", ["500 5.5.1"] * 2),
        case(rfc(5321, "4.1.1"), "nothing but blanks", b"\r\n \r\n\t\r\n", ["500 5.5.1"] * 3),
    ],
)
def test_server_requirement(client: bytes, want: list[str]) -> None:
    for chunks in ways(client):
        driver = connect(can_start_tls=False)
        driver.feed_all(chunks)
        assert codes(driver.sent) == want


@rfc(5321, "4.5.3.1.8")
def test_hundred_recipients() -> None:
    driver = connect(limits=SmtpLimits())
    driver.feed(HELLO + MAIL + RCPT * 100)
    assert codes(driver.sent) == [*OPENED[:2], *OPENED[2:] * 100]


@rfc(5321, "4.2")
def test_every_command_gets_one_reply() -> None:
    verbs = b"HELO EHLO LHLO MAIL RCPT RSET NOOP HELP VRFY EXPN STARTTLS AUTH BDAT TURN ETRN X".split()
    driver = connect(can_start_tls=False, auth_mechanisms=("PLAIN",), limits=SmtpLimits(max_errors=1000))
    for verb in verbs:
        for argument in (b"", b" x", b" x y", b" FROM:<a@b>", b" TO:<a@b>"):
            replies = codes(driver.feed(verb + argument + b"\r\n"))
            assert len(replies) == 1, verb
            assert replies[0][0] in "245"


@rfc(5321, "4.1.1.1")
def test_helo_gets_no_extensions() -> None:
    assert connect().feed(b"HELO x\r\n") == b"250 mx.example\r\n"


@rfc(5321, "4.1.1.8")
def test_help_names_what_works() -> None:
    driver = connect(is_lmtp=True, can_start_tls=True, auth_mechanisms=("PLAIN",))
    want = b"214 2.0.0 Commands: LHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\r\n"
    assert driver.feed(b"HELP BDAT\r\n") == want
