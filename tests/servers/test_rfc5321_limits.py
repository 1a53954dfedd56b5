"""RFC 5321 §4.5.3: the sizes that every server must take, what it may refuse, and how long it waits."""

import re
import smtplib
from collections.abc import Iterator

import msgspec
import pytest
from imap_raw import Imap, message

from pochta.config import Limits
from pochta.proto.smtp.limits import SmtpLimits
from pochta.testing import Server

rfc = pytest.mark.rfc

ANNA = "anna@example.org"
LONG_DOMAIN = ".".join(("d" * 63, "e" * 63, "f" * 63, "g" * 58))  # 250 octets: with `a@` and brackets a path of 254


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        server.add_account(ANNA, "secret")
        yield server


def opened(server: Server, hello: str = "client.example") -> smtplib.SMTP:
    smtp = smtplib.SMTP(server.host, server.smtp_port)
    assert smtp.ehlo(hello)[0] == 250
    return smtp


def delivered(server: Server, user: str = ANNA) -> bytes:
    with Imap(server, user=user) as imap:
        return imap.literal("FETCH * BODY.PEEK[]")


@rfc(5321, "4.5.3.1.1")
def test_local_parts_of_64_octets(server: Server) -> None:
    name = "l" * 64
    server.add_account(f"{name}@example.org", "secret")
    with opened(server) as smtp:
        assert smtp.mail(f"{'s' * 64}@b.example")[0] == 250
        assert smtp.rcpt(f"{name}@example.org")[0] == 250
        assert smtp.data(message(1))[0] == 250
    header = delivered(server, f"{name}@example.org")
    assert header.startswith(b"Return-Path: <%b@b.example>\r\n" % (b"s" * 64))
    assert b"for <%b@example.org>" % name.encode() in header


@rfc(5321, "4.5.3.1.2")
def test_domains_of_255_octets(server: Server) -> None:
    # a path of 256 octets leaves 252 to its domain; the name of a client may have all of them
    name = LONG_DOMAIN + ".hhhh"
    assert len(name) == 255
    with opened(server, name) as smtp:
        smtp.mail(f"a@{LONG_DOMAIN}.h")
        smtp.rcpt(ANNA)
        assert smtp.data(message(1))[0] == 250
        assert smtp.ehlo(name + "h")[0] == 501
    header = delivered(server)
    assert header.startswith(b"Return-Path: <a@%b.h>\r\nReceived: from %b (" % (LONG_DOMAIN.encode(), name.encode()))


@rfc(5321, "4.5.3.1.3")
@pytest.mark.parametrize(("octets", "code"), [(256, 250), (257, 501)])
@pytest.mark.parametrize("form", ["<{}@b.example>", '<"{}"@b.example>', "<@route.example:{}@b.example>"])
def test_paths_of_256_octets(server: Server, form: str, octets: int, code: int) -> None:
    path = form.format("l" * (octets - len(form) + len("{}")))
    assert len(path) == octets
    with opened(server) as smtp:
        assert smtp.docmd(f"MAIL FROM:{path}")[0] == code
        smtp.rset()
        smtp.mail("")
        # there is no such user, but the path is one
        assert smtp.docmd(f"RCPT TO:{path}")[0] == (550 if code == 250 else 501)


@rfc(5321, "4.5.3.1.4")
@pytest.mark.parametrize("octets", [512, SmtpLimits().max_command_line_bytes])
@pytest.mark.parametrize(
    ("start", "fill", "end", "code"),
    [
        ("NOOP ", "x", "", 250),
        ("VRFY ", "x", "", 252),
        ("MAIL FROM:<a@b.example>", " ", "SIZE=1", 250),
        ("UNKNOWN ", "x", "", 500),
    ],
    ids=["NOOP", "VRFY", "MAIL", "unknown"],
)
def test_command_lines_of_512_octets(server: Server, octets: int, start: str, fill: str, end: str, code: int) -> None:
    with opened(server) as smtp:
        for excess, wanted in ((0, code), (1, code if octets == 512 else 500)):
            line = start + fill * (octets + excess - len(start + end) - 2) + end
            assert smtp.docmd(line)[0] == wanted
            assert smtp.rset()[0] == 250


@rfc(5321, "4.5.3.1.5")
def test_reply_lines_of_512_octets(server: Server) -> None:
    long = "l" * (256 - len("<@example.org>"))
    commands = [
        "EHLO " + "x" * 255,
        "HELP",
        f"MAIL FROM:<{long}@example.org>",
        f"RCPT TO:<{long}@example.org>",
        f"RCPT TO:<{long}@example.net>",
        "VRFY " + "x" * 500,
        "X" * 2000,
        "QUIT",
    ]
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.send("".join(f"{one}\r\n" for one in commands).encode())
        lines = smtp.file.readlines()  # type: ignore[attr-defined]  # smtplib's own, up to the end
    assert max(map(len, lines)) <= 512
    assert all(re.fullmatch(rb"[2-5]\d\d[ -][\t -~]*\r\n", line) for line in lines)
    assert [line[:3] for line in lines if line[3:4] == b" "] == [
        b"250", b"214", b"250", b"550", b"550", b"252", b"500", b"221",
    ]  # fmt: skip


@rfc(5321, "4.5.3.1.6")
@pytest.mark.parametrize("octets", [1000, 1001, 100_000])
@pytest.mark.parametrize("start", [b"x", b"."], ids=["plain", "dot"])
def test_text_lines_of_1000_octets(server: Server, start: bytes, octets: int) -> None:
    # the dot that is doubled on the way does not count
    line = start + b"x" * (octets - 3) + b"\r\n"
    with opened(server) as smtp:
        smtp.mail("a@b.example")
        smtp.rcpt(ANNA)
        assert smtp.data(message(1, line * 3))[0] == 250
    assert delivered(server).endswith(message(1, line * 3))


@rfc(5321, "4.5.3.1.7")
def test_messages_of_64_kib() -> None:
    limits = msgspec.convert({"message_size_bytes": 65536, "min_free_bytes": 0}, Limits)
    whole = message(1, b"x" * 70 + b"\r\n")
    whole += b"y" * (65536 - len(whole) - 2) + b"\r\n"
    with Server(limits=limits) as server:
        server.add_account(ANNA, "secret")
        for text, code in ((whole, 250), (b"z" + whole, 552)):
            with opened(server) as smtp:
                smtp.mail("a@b.example")
                smtp.rcpt(ANNA)
                assert smtp.data(text)[0] == code
        assert delivered(server).endswith(whole)


@rfc(5321, "4.5.3.1")
@pytest.mark.parametrize(
    ("setting", "least"),
    [("message_size_bytes", 65536), ("recipients", 100), ("hops", 100)],
)
def test_no_setting_goes_below_what_must_be_taken(setting: str, least: int) -> None:
    assert getattr(msgspec.convert({setting: least}, Limits), setting) == least
    assert getattr(Limits(), setting) >= least
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({setting: least - 1}, Limits)


@rfc(5321, "4.5.3.1.8")
def test_a_hundred_recipients_and_one_too_many() -> None:
    with Server(limits=Limits(min_free_bytes=0, recipients=100)) as server:
        server.add_account(ANNA, "secret")
        server.add_account("last@example.org", "secret")
        with opened(server) as smtp:
            smtp.mail("a@b.example")
            codes = [smtp.rcpt(f"anna+{number}@example.org")[0] for number in range(99)]
            assert [*codes, smtp.rcpt("last@example.org")[0]] == [250] * 100
            # §4.5.3.1.10: 452, and those that were taken before stay
            assert [smtp.rcpt(ANNA)[0] for _ in range(30)] == [452] * 30
            assert smtp.data(message(1))[0] == 250
        for user in (ANNA, "last@example.org"):
            assert delivered(server, user).endswith(message(1))


@rfc(5321, "4.5.3.2.7")
def test_waits_are_long_enough_unless_configured() -> None:
    limits = Limits()
    assert limits.command_timeout_s >= 5 * 60
    # §4.5.3.2.5: a client gives each block 3 minutes
    assert limits.data_timeout_s >= 3 * 60


@rfc(5321, "4.5.3.2.5")
def test_a_message_has_a_wait_of_its_own() -> None:
    with Server(limits=Limits(min_free_bytes=0, data_timeout_s=1)) as server:
        server.add_account(ANNA, "secret")
        with opened(server) as smtp:
            smtp.mail("a@b.example")
            smtp.rcpt(ANNA)
            assert smtp.docmd("DATA")[0] == 354
            smtp.send(b"Subject: x\r\n")
            assert smtp.getreply()[0] == 421
