"""RFC 5321, what a client may count on: extensions, replies, addresses, transactions. Sizes and trace stand apart."""

import smtplib
import ssl
from collections.abc import Iterator

import pytest
from imap_raw import Imap, message

from pochta.accounts import edit
from pochta.errors import Refusal, RefusalCode
from pochta.proto.smtp import replies
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import REFUSALS
from pochta.testing import Server

rfc = pytest.mark.rfc

ANNA, BORIS = "anna@example.org", "boris@example.org"
# The SMTP registries of IANA (mail-parameters), as far as this server may draw on them
KEYWORDS = {
    "8BITMIME", "AUTH", "BINARYMIME", "BURL", "CHUNKING", "DELIVERBY", "DSN", "ENHANCEDSTATUSCODES", "ETRN", "EXPN",
    "FUTURERELEASE", "HELP", "LIMITS", "MT-PRIORITY", "MTRK", "PIPELINING", "REQUIRETLS", "RRVS", "SIZE", "SMTPUTF8",
    "STARTTLS",
}  # fmt: skip
REQUIRED = {"EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY"}  # §4.5.1
EXTENSION_OF = {"HELP": "HELP", "STARTTLS": "STARTTLS", "AUTH": "AUTH", "BDAT": "CHUNKING"}
# §4.2.3, and the extensions of SMTP that are offered: RFC 4954 (235, 334, 530, 534, 535, 538, 432, 454), 3207 (454)
CODES = {
    211, 214, 220, 221, 235, 250, 251, 252, 334, 354, 421, 432, 450, 451, 452, 454, 455, 500, 501, 502, 503, 504, 530,
    534, 535, 538, 550, 551, 552, 553, 554, 555,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(with_tls=True) as server:
        server.add_account(ANNA, "secret")
        server.add_account(BORIS, "secret")
        yield server


def opened(server: Server, port: int = 0, hello: str = "EHLO client.example") -> smtplib.SMTP:
    smtp = smtplib.SMTP(server.host, port or server.smtp_port)
    assert smtp.docmd(hello)[0] == 250
    return smtp


def count(server: Server, user: str = ANNA) -> int:
    with Imap(server, user=user, mailbox=None) as imap:
        return int(imap.ok("STATUS INBOX (MESSAGES)")[0].split()[-1].rstrip(b")"))


@rfc(5321, "2.3.5")
def test_the_server_goes_by_its_configured_name(server: Server) -> None:
    with smtplib.SMTP() as smtp:
        code, greeting = smtp.connect(server.host, server.smtp_port)
        assert (code, greeting) == (220, b"localhost ESMTP")
        assert smtp.docmd("EHLO x")[1].splitlines()[0] == b"localhost"
        assert smtp.docmd("HELO x") == (250, b"localhost")


@rfc(5321, "2.2.2")
@pytest.mark.parametrize("port", ["smtp_port", "submission_port", "submissions_port"])
def test_what_is_offered_is_registered_and_works(server: Server, port: str) -> None:
    if port == "submissions_port":
        context = ssl.create_default_context(cafile=server.certificate)
        smtp: smtplib.SMTP = smtplib.SMTP_SSL("localhost", server.submissions_port, context=context)
    else:
        smtp = smtplib.SMTP(server.host, getattr(server, port))
    with smtp:
        keywords = {line.split()[0].decode() for line in smtp.docmd("EHLO x")[1].splitlines()[1:]}
        assert keywords <= KEYWORDS
        code, text = smtp.docmd("HELP")
        assert code == 214
        verbs = set(text.decode().partition("Commands: ")[2].split())
        # §4.1.1.1: a keyword for every command but the required ones
        assert verbs >= REQUIRED
        assert {EXTENSION_OF[verb] for verb in verbs - REQUIRED} <= keywords
        # §4.2.4: nothing is listed that gets 500 or 502
        assert {verb for verb, keyword in EXTENSION_OF.items() if keyword in keywords} == verbs - REQUIRED
        for verb in sorted(verbs - {"QUIT"}):
            assert smtp.docmd(verb, "?")[0] not in (500, 502), verb
            smtp.rset()
        assert smtp.docmd("MAIL FROM:<> SIZE=1 BODY=8BITMIME SMTPUTF8")[0] == (250 if port == "smtp_port" else 530)


@rfc(5321, "F.6")
@pytest.mark.parametrize("verb", ["SEND", "SOML", "SAML", "EXPN", "TURN", "ETRN"])
def test_what_is_not_offered_is_not_there(server: Server, verb: str) -> None:
    with opened(server) as smtp:
        assert verb.encode() not in smtp.docmd("EHLO x")[1]
        assert verb.encode() not in smtp.docmd("HELP")[1]
        assert smtp.docmd(f"{verb} FROM:<{ANNA}>")[0] == 502
        assert smtp.docmd(f"X{verb}")[0] == 500


@rfc(5321, "4.2")
def test_every_reply_has_a_code_of_the_list() -> None:
    found = {one.code for one in vars(replies).values() if isinstance(one, Reply)}
    found |= {answers.smtp[0] for answers in REFUSALS.values()}
    # §3.4: an address that has changed is not told, so nobody can be misled by 251 or 551
    assert found <= CODES - {251, 551}


@rfc(5321, "3.5.3")
@pytest.mark.parametrize("name", [ANNA, f"<{ANNA}>", "anna", "nobody@example.org", "a@example.net", "x y", "@,;"])
def test_vrfy_tells_nobody_anything(server: Server, name: str) -> None:
    with opened(server) as smtp:
        assert smtp.docmd("VRFY", name) == smtp.docmd("VRFY", "something else")
        code, text = smtp.docmd("VRFY", name)
        assert code == 252
        assert b"@" not in text
        assert b"<" not in text


@rfc(5321, "4.1.4")
@pytest.mark.parametrize(
    "name", ["localhost", "gmail.com", "[192.0.2.9]", "no-such-name.invalid", "UNDER_SCORE", "8.8.8.8"]
)
def test_nobody_is_refused_for_the_name_in_ehlo(server: Server, name: str) -> None:
    before = count(server)
    with opened(server, hello=f"EHLO {name}") as smtp:
        assert smtp.mail("a@b.example")[0] == 250
        assert smtp.rcpt(ANNA)[0] == 250
        assert smtp.data(message(1))[0] == 250
    assert count(server) == before + 1


@rfc(5321, "4.1.2")
@pytest.mark.parametrize(
    "path",
    [
        '"anna"@example.org',
        r'"\a\n\n\a"@example.org',
        r'"an\na"@EXAMPLE.org',
        '"anna+tag"@example.org',
        "Anna@example.org",
        "@route.example:anna@example.org",
        '@route.example,@other.example:"Anna"@example.org',
    ],
)
def test_all_spellings_of_an_address_are_one_mailbox(server: Server, path: str) -> None:
    before = count(server)
    with opened(server) as smtp:
        smtp.mail("a@b.example")
        for one in (path, ANNA):
            assert smtp.docmd(f"RCPT TO:<{one}>")[0] == 250
        assert smtp.data(message(1))[0] == 250
    assert count(server) == before + 1


@rfc(5321, "4.1.2")
@pytest.mark.parametrize(
    "address",
    [
        "a@under_score.example",
        "a@-b.example",
        "a@b!c.example",
        "a@b c.example",
        "a@#3221225985",
        "a@b\x7f.example",
        "a\x01b@example.org",
        '"a\x01b"@example.org',
        'a"b@example.org',
        "a@[192.0.2.300]",
        "a@[#1]",
    ],
    ids=ascii,
)
def test_invalid_characters_get_501(server: Server, address: str) -> None:
    with opened(server) as smtp:
        assert smtp.docmd(f"MAIL FROM:<{address}>")[0] == 501
        assert smtp.mail("a@b.example")[0] == 250
        assert smtp.docmd(f"RCPT TO:<{address}>")[0] == 501


@rfc(5321, "2.4")
def test_8bitmime_is_no_leave_for_more(server: Server) -> None:
    with opened(server) as smtp:
        smtp.send("MAIL FROM:<ü@b.example> BODY=8BITMIME\r\n".encode())
        assert smtp.getreply()[0] == 550
        assert smtp.docmd("MAIL FROM:<a@b.example> BODY=8BITMIME")[0] == 250
        smtp.send("RCPT TO:<ännä@example.org>\r\n".encode())
        assert smtp.getreply()[0] == 553
        assert smtp.rcpt(ANNA)[0] == 250
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(b"Subject: x\r\n\r\n\xfc\n\r\n.\r\n")
        assert smtp.getreply()[0] == 550


@rfc(5321, "4.1.2")
@pytest.mark.parametrize("name", ["a\x01b", "a\x7f", "a\tb", '"a\x1b"', "a\r\nb"], ids=ascii)
def test_no_account_needs_control_characters(name: str) -> None:
    with pytest.raises(Refusal) as raised:
        edit.key(f"{name}@example.org")
    assert raised.value.code is RefusalCode.INVALID_NAME


@rfc(5321, "3.3")
@pytest.mark.parametrize(
    "fields",
    [
        "Resent-To: x@y.example\r\n",
        "Resent-From: x@y.example\r\nResent-From: z@y.example\r\nResent-Date: yesterday\r\n",
        "Resent-Date: Tue, 24 Nov 2026 10:00:01 +0000\r\nResent-Message-ID: 1\r\nResent-Cc:\r\n",
    ],
)
@pytest.mark.parametrize("port", ["smtp_port", "submission_port", "lmtp_port"])
def test_resent_fields_need_not_match(server: Server, fields: str, port: str) -> None:
    data = f"From: {ANNA}\r\n{fields}Subject: x\r\n\r\nbody\r\n"
    with smtplib.SMTP(server.host, getattr(server, port)) as smtp:
        smtp.docmd("LHLO x" if port == "lmtp_port" else "EHLO x")
        if port == "submission_port":
            smtp.login(ANNA, "secret")
        smtp.mail(ANNA)
        smtp.rcpt(ANNA)
        assert smtp.data(data)[0] == 250
    with Imap(server) as imap:
        assert fields.encode() in imap.literal("FETCH * BODY.PEEK[]")


@rfc(5321, "3.3")
@pytest.mark.parametrize(
    "data", [b"", b"no header at all\r\n", b"\r\n", b": \r\n", b"From: a\r\nFrom: b\r\n", b"\xff\x00\r\n"]
)
def test_perceived_defects_are_no_reason_to_refuse(server: Server, data: bytes) -> None:
    with opened(server) as smtp:
        smtp.mail("a@b.example")
        smtp.rcpt(ANNA)
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(data + b".\r\n")
        assert smtp.getreply()[0] == 250


@rfc(5321, "C")
def test_header_fields_route_nothing(server: Server) -> None:
    before = [count(server, one) for one in (ANNA, BORIS)]
    with opened(server) as smtp:
        smtp.mail("a@b.example")
        smtp.rcpt(ANNA)
        fields = f"To: {BORIS}\r\nCc: {BORIS}\r\nBcc: {BORIS}\r\nResent-To: {BORIS}\r\nApparently-To: {BORIS}\r\n"
        assert smtp.data(fields.encode() + message(1))[0] == 250
    assert [count(server, one) for one in (ANNA, BORIS)] == [before[0] + 1, before[1]]


@rfc(5321, "4.1.1.5")
@pytest.mark.parametrize("command", ["RSET", "EHLO again.example", "HELO again.example"])
def test_what_was_said_before_a_reset_is_gone(server: Server, command: str) -> None:
    before = [count(server, one) for one in (ANNA, BORIS)]
    with opened(server) as smtp:
        smtp.mail("first@b.example")
        smtp.rcpt(BORIS)
        assert smtp.docmd(command)[0] == 250
        assert smtp.docmd("DATA")[0] == 503
        assert smtp.docmd("RCPT", f"TO:<{BORIS}>")[0] == 503
        smtp.mail("second@b.example")
        smtp.rcpt(ANNA)
        assert smtp.data(message(1))[0] == 250
    assert [count(server, one) for one in (ANNA, BORIS)] == [before[0] + 1, before[1]]
    with Imap(server) as imap:
        assert imap.literal("FETCH * BODY.PEEK[HEADER]").startswith(b"Return-Path: <second@b.example>\r\n")


@rfc(5321, "4.1.1.10")
@pytest.mark.parametrize(
    "unfinished",
    [
        b"",
        b"DATA\r\n",
        b"DATA\r\nSubject: x\r\n\r\nbody\r\n",
        b"DATA\r\nSubject: x\r\n\r\nbody\r\n.",
        b"BDAT 100 LAST\r\nhalf",
    ],
    ids=["recipient", "data", "message", "dot", "chunk"],
)
def test_a_lost_connection_undoes_what_is_unfinished_only(unfinished: bytes) -> None:
    with Server() as server:
        server.add_account(ANNA, "secret")
        with opened(server) as smtp:
            smtp.mail("a@b.example")
            smtp.rcpt(ANNA)
            assert smtp.data(message(1))[0] == 250
            smtp.send(b"MAIL FROM:<c@d.example>\r\nRCPT TO:<anna@example.org>\r\n")
            assert [smtp.getreply()[0] for _ in range(2)] == [250, 250]
            smtp.send(unfinished)
            smtp.close()
        assert count(server) == 1
    # the server has ended with nothing left of the other message
    assert server.app.counters["messages_delivered"] == 1
    assert server.app.intake.memory_bytes == 0


@rfc(5321, "4.1.1.10")
def test_errors_do_not_close_before_quit(server: Server) -> None:
    with opened(server) as smtp:
        for command in ("FROBNICATE", "MAIL", "RCPT TO:<x", "DATA", "EHLO", "QUIT now", "BDAT", "NOOP \x01"):
            assert 500 <= smtp.docmd(command)[0] < 600
        assert smtp.docmd("QUIT")[0] == 221
        assert smtp.file.readline() == b""  # type: ignore[attr-defined]  # smtplib's own


@rfc(5321, "4.5.1")
def test_the_least_that_a_server_does(server: Server) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        for command, code in (
            ("HELO client.example", 250),
            ("EHLO client.example", 250),
            ("NOOP", 250),
            ("VRFY anna", 252),
            ("MAIL FROM:<a@b.example>", 250),
            ("RCPT TO:<anna@example.org>", 250),
            ("RSET", 250),
            ("MAIL FROM:<>", 250),
            ("RCPT TO:<Postmaster>", 250),
            ("RCPT TO:<pOSTMASTER@example.org>", 250),
        ):
            assert smtp.docmd(command)[0] == code, command
        assert smtp.data(message(1))[0] == 250
        assert smtp.docmd("QUIT")[0] == 221


@rfc(5321, "3.3")
@pytest.mark.parametrize(
    ("commands", "codes"),
    [
        (["RCPT TO:<anna@example.org>"], [503]),
        (["DATA"], [503]),
        (["MAIL FROM:<a@b.example>", "DATA"], [250, 503]),
        (["MAIL FROM:<a@b.example>", "MAIL FROM:<c@d.example>", "RCPT TO:<anna@example.org>"], [250, 503, 250]),
        (["MAIL FROM:a@b.example", "RCPT TO:<anna@example.org>", "MAIL FROM:<a@b.example>"], [501, 503, 250]),
        (["MAIL FROM:<a@b.example>", "EHLO", "HELO", "RCPT TO:<anna@example.org>"], [250, 501, 501, 250]),
    ],
    ids=["RCPT", "DATA", "no RCPT", "MAIL twice", "bad MAIL", "bad EHLO"],
)
def test_order_is_held_and_errors_change_nothing(server: Server, commands: list[str], codes: list[int]) -> None:
    with opened(server) as smtp:
        assert [smtp.docmd(one)[0] for one in commands] == codes
