"""RFC 5321 §4.4: the lines in front of a delivered message, and what of the message they leave alone."""

import re
import smtplib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest
from imap_raw import Imap, message

from pochta.delivery.trace import Peer, date_time, trace_header
from pochta.testing import Server

rfc = pytest.mark.rfc

ANNA, BORIS = "anna@example.org", "boris@example.org"
_DOMAIN = r"[A-Za-z0-9._-]+"
_LITERAL = r"\[(?:IPv6:[0-9a-f:]+|[0-9.]+)\]"
# Time-stamp-line of §4.4, narrowed to what this server writes; an underscore in a domain is what clients sent
STAMP = re.compile(
    rf"Received: from (?:{_DOMAIN}|\[[A-Za-z0-9.:-]+\]) \({_LITERAL}\)\r\n"
    rf"\tby {_DOMAIN} with (?:(?:UTF8|E)?SMTPS?A?|(?:UTF8)?LMTPS?A?) id [0-9a-f-]+"
    r"(?:\r\n\t\([^ ()\\]+\))?"
    r"(?:\r\n\tfor <[^<>\r\n]+@[^<>\r\n]+>)?"
    r";\r\n\t(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        server.add_account(ANNA, "secret")
        server.add_account(BORIS, "secret")
        yield server


def sent(
    server: Server, *recipients: str, hello: str = "EHLO client.example", mail: str = "<a@b.example>", data: bytes = b""
) -> list[str]:
    """Send one message by port 25 (LHLO: by LMTP); Return-Path, Received, and the rest, as the first one finds them."""
    port = server.lmtp_port if hello.startswith("LHLO") else server.smtp_port
    with smtplib.SMTP(server.host, port) as smtp:
        for command in (hello, f"MAIL FROM:{mail}", *(f"RCPT TO:<{one}>" for one in recipients)):
            smtp.send(command.encode() + b"\r\n")
            assert smtp.getreply()[0] == 250, command
        assert smtp.data(data or message(1))[0] == 250
    return received(server)


def received(server: Server, user: str = ANNA) -> list[str]:
    with Imap(server, user=user) as imap:
        whole = imap.literal("FETCH * BODY.PEEK[]").decode()
    match = re.match(r"(Return-Path:[^\r]*\r\n)(Received:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*)", whole)
    assert match is not None, whole
    return [match[1], match[2], whole[match.end() :]]


@rfc(5321, "4.4")
@pytest.mark.parametrize(
    ("hello", "recipients", "wanted"),
    [
        ("EHLO client.example", [ANNA], "from client.example ([127.0.0.1])\r\n\tby localhost with ESMTP id "),
        ("HELO client", [ANNA], "from client ([127.0.0.1])\r\n\tby localhost with SMTP id "),
        ("LHLO [192.0.2.1]", [ANNA], "from [192.0.2.1] ([127.0.0.1])\r\n\tby localhost with LMTP id "),
        ("EHLO [IPv6:2001:db8::1]", [ANNA], "from [IPv6:2001:db8::1] ([127.0.0.1])\r\n"),
        ("EHLO WIN_PC", [ANNA], "from WIN_PC ([127.0.0.1])\r\n"),
        ('EHLO a;b"(c)\\<d>@,:[e', [ANNA], "from a_b__c___d_____e ([127.0.0.1])\r\n"),
        ("EHLO [a]b]", [ANNA], "from _a_b_ ([127.0.0.1])\r\n"),
        ("EHLO x", ["postmaster"], "from x ([127.0.0.1])\r\n"),
        ("EHLO x", [ANNA, BORIS], "from x ([127.0.0.1])\r\n"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_line_is_of_the_form(server: Server, hello: str, recipients: list[str], wanted: str) -> None:
    return_path, stamp, rest = sent(server, *recipients, hello=hello)
    assert return_path == "Return-Path: <a@b.example>\r\n"
    assert stamp.startswith(f"Received: {wanted}")
    assert STAMP.fullmatch(stamp)
    # §4.4: FOR has one path; with more recipients, or for the bare postmaster, there is none
    assert re.findall(r"for <(.*)>", stamp) == ([ANNA] if recipients == [ANNA] else [])
    assert rest == message(1).decode()


@rfc(5321, "4.4")
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("tls", [None, "TLSv1.3 TLS_AES_256_GCM_SHA384", "odd (comment\\"])
def test_the_line_at_any_address(address: str, tls: str | None) -> None:
    header = trace_header(
        Peer("", address, "ESMTPS", tls),
        hostname="mx.example",
        reverse_path="",
        recipients=("a@b",),
        message_id="1-ab",
        now_s=0,
    ).decode()
    return_path, _, stamp = header.partition("\r\n")
    assert return_path == "Return-Path: <>"
    assert STAMP.fullmatch(stamp)
    assert f" ([{'IPv6:' if ':' in address else ''}{address}])" in stamp


@rfc(6531, "4.3")
@pytest.mark.parametrize(("hello", "protocol"), [("EHLO x", "UTF8SMTP"), ("LHLO x", "UTF8LMTP")])
def test_internationalised_mail_is_told_by_its_protocol(server: Server, hello: str, protocol: str) -> None:
    return_path, stamp, _ = sent(server, ANNA, hello=hello, mail="<борис@пример.рф> SMTPUTF8")
    assert return_path == "Return-Path: <борис@пример.рф>\r\n"
    assert f" with {protocol} id " in stamp


@rfc(6531, "3.7.3")
def test_a_recipient_beyond_ascii_leaves_the_header_ascii() -> None:
    peer = Peer("client.example", "192.0.2.1", "UTF8SMTPS", None)
    header = trace_header(
        peer,
        hostname="mx.example.org",
        reverse_path="a@b.example",
        recipients=("анна@example.org",),
        message_id="1-a",
        now_s=0,
    )
    assert header.isascii()
    assert b"for <" not in header


@rfc(5321, "F.5")
@pytest.mark.parametrize("now_s", [0, 1_000_000_000, 1_795_432_600, 4_102_444_799, 7_258_118_400])
def test_dates_have_four_digits_of_year(now_s: int) -> None:
    text = date_time(now_s)
    assert re.fullmatch(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", text)
    assert parsedate_to_datetime(text).timestamp() == now_s


HOPS = (
    "Received: from b.example by c.example; Tue, 24 Nov 2026 10:00:01 +0000\r\n"
    "Received: FROM a (really [10.0.0.1])\r\n\tby b.example (8.8/8.8) VIA odd; yesterday\r\n"
    "Subject: x\r\nreceived:nothing at all\r\n"
)


@rfc(5321, "4.4")
def test_earlier_lines_stay_as_they_are(server: Server) -> None:
    data = f"{HOPS}From: {ANNA}\r\nDate: Tue, 24 Nov 2026 10:00:01 +0000\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"
    *_, rest = sent(server, ANNA, data=data.encode())
    assert rest == data
    with smtplib.SMTP(server.host, server.submission_port) as smtp:
        smtp.login(ANNA, "secret")
        smtp.sendmail(ANNA, [BORIS], data)
    *_, rest = received(server, BORIS)
    assert rest == data


@rfc(5321, "3.7.2")
@pytest.mark.parametrize(
    "fields",
    [
        "Received:",
        "Received: \xff\xfe;;;",
        "Received: from (((( by ; 99 Foo 99",
        "received : with blank",
        "Return-Path: not a path",
        "Return-Path: <a@b>\r\nReturn-Path: <c@d>",
        "Received: " + "x" * 5000,
    ],
    ids=lambda value: value[:20],
)
def test_odd_trace_fields_are_no_reason_to_refuse(server: Server, fields: str) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.ehlo()
        smtp.mail("a@b.example")
        smtp.rcpt(ANNA)
        data = fields.encode("latin-1") + b"\r\n" + message(1)
        assert smtp.data(data)[0] == 250
    with Imap(server) as imap:
        assert imap.literal("FETCH * BODY.PEEK[]").endswith(data)


@rfc(5321, "2.4")
def test_local_parts_keep_their_case(server: Server) -> None:
    return_path, stamp, _ = sent(server, "ANNA+TaG@Example.ORG", mail="<MiXeD@Sender.Example>")
    assert return_path == "Return-Path: <MiXeD@Sender.Example>\r\n"
    assert "for <ANNA+TaG@Example.ORG>" in stamp


@rfc(5321, "4.1.1.3")
def test_routes_are_stripped_and_copied_nowhere(server: Server) -> None:
    return_path, stamp, rest = sent(
        server, f"@hop.example,@example.net:{ANNA}", mail="<@one.example,@two.example:joe@three.example>"
    )
    assert return_path == "Return-Path: <joe@three.example>\r\n"
    assert f"for <{ANNA}>" in stamp
    assert rest == message(1).decode()
    for name in ("hop.example", "example.net", "one.example", "two.example"):
        assert name not in stamp


@rfc(5321, "3.9")
def test_an_alias_changes_neither_return_path_nor_header(server: Server) -> None:
    server.add_alias("all@example.org", [ANNA, BORIS])
    data = b"From: a@b.example\r\nTo: all@example.org\r\nReply-To: c@d.example\r\n\r\nbody\r\n"
    return_path, stamp, rest = sent(server, "all@example.org", data=data)
    assert (return_path, rest) == ("Return-Path: <a@b.example>\r\n", data.decode())
    assert "for <all@example.org>" in stamp
    assert received(server, BORIS) == [return_path, stamp, rest]
