"""Submission: nobody without a sign-in, nobody as somebody else, and a header fit to be sent."""

import base64
import hashlib
import hmac
import smtplib
import ssl

import pytest
from imap_raw import Imap

from pochta.config import Auth, Limits
from pochta.testing import Server

ANNA, BORIS = "anna@example.org", "boris@example.org"
MESSAGE = f"From: {ANNA}\r\nSubject: hi\r\n\r\nbody\r\n"


def client(server: Server, user: str | None = ANNA) -> smtplib.SMTP:
    smtp = smtplib.SMTP(server.host, server.submission_port)
    smtp.ehlo()
    if user:
        smtp.login(user, "secret")
    return smtp


@pytest.fixture
def server(pochta: Server) -> Server:
    pochta.add_account(BORIS, "secret")
    return pochta


def received(server: Server, user: str = BORIS) -> bytes:
    with Imap(server, user=user) as imap:
        return imap.literal("FETCH 1 BODY.PEEK[]")


@pytest.mark.rfc(6409, "4.3")
def test_nothing_without_a_sign_in(server: Server) -> None:
    with client(server, None) as smtp:
        assert smtp.mail(ANNA)[0] == 530
        assert smtp.docmd("RCPT", f"TO:<{BORIS}>")[0] == 503
        assert smtp.docmd("DATA")[0] == 503


@pytest.mark.rfc(4954, "4")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"], ids=["AUTH PLAIN", "AUTH LOGIN"])
def test_sign_in(server: Server, mechanism: str) -> None:
    with client(server, None) as smtp:
        assert smtp.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        smtp.user, smtp.password = ANNA, "wrong"
        attempt = smtp.auth_plain if mechanism == "PLAIN" else smtp.auth_login
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            smtp.auth(mechanism, attempt)
        assert caught.value.smtp_code == 535
        smtp.password = "secret"
        assert smtp.auth(mechanism, attempt)[0] == 235
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.docmd("AUTH", "PLAIN AGEAYgBj")[0] == 503


def test_the_way_of_a_message(server: Server) -> None:
    with client(server) as smtp:
        assert smtp.sendmail(ANNA, [BORIS, ANNA], MESSAGE + "Bcc: in the body\r\n") == {}
    message = received(server)
    assert message.startswith(b"Return-Path: <anna@example.org>\r\nReceived: from ")
    assert b"with ESMTPA id" in message
    assert message.count(b"\r\nDate: ") == message.count(b"\r\nMessage-ID: <") == 1
    assert message.endswith(b"From: anna@example.org\r\nSubject: hi\r\n\r\nbody\r\nBcc: in the body\r\n")
    assert received(server, ANNA) == message


@pytest.mark.rfc(5322, "3.6.3")
def test_hidden_recipients_stay_hidden(server: Server) -> None:
    with client(server) as smtp:
        hidden = f"Bcc: {BORIS},\r\n carol@example.org\r\nReturn-Path: <forged@example.net>\r\n"
        smtp.sendmail(ANNA, [BORIS], hidden + MESSAGE)
    message = received(server)
    assert b"Bcc" not in message
    assert b"carol" not in message
    assert b"forged" not in message


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        (ANNA, 250),
        ("Anna@EXAMPLE.org", 250),
        ("anna+news@example.org", 250),
        ("team@example.org", 250),
        ("", 250),
        (BORIS, 550),
        ("anna@example.net", 550),
        ("nobody@example.org", 550),
        ("anna%example.org@example.net", 550),
    ],
)
@pytest.mark.rfc(6409, "6.1")
def test_envelope_senders(server: Server, sender: str, code: int) -> None:
    server.add_alias("team@example.org", [ANNA, BORIS])
    with client(server) as smtp:
        assert smtp.mail(sender)[0] == code


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (f"From: Anna <{ANNA}>", 250),
        ("From: team@example.org", 250),
        ("Subject: without an author", 250),
        (f"From: Boss <{BORIS}>", 550),
        (f"From: {ANNA}, {BORIS}", 550),
        (f"From: {ANNA}\r\nFrom: {BORIS}", 550),
        (f"From: {BORIS}\r\nFrom: {ANNA}", 550),
        (f"from : {BORIS}", 550),
        (f'From: "{ANNA}" <{BORIS}>', 550),
        (f"From: {ANNA} <{BORIS}>", 550),
        ("From: undisclosed-recipients:;", 550),
        ("From:", 550),
    ],
)
def test_header_authors(server: Server, header: str, code: int) -> None:
    server.add_alias("team@example.org", [ANNA, BORIS])
    with client(server) as smtp:
        smtp.mail(ANNA)
        smtp.rcpt(BORIS)
        assert smtp.data(f"{header}\r\nTo: {BORIS}\r\n\r\nbody\r\n")[0] == code
        # the transaction is over, the sign-in is not
        assert smtp.mail(ANNA)[0] == 250


def test_a_null_sender_needs_an_author(server: Server) -> None:
    with client(server) as smtp:
        for header, code in (("Subject: x", 550), (f"From: {ANNA}", 250)):
            smtp.mail("")
            smtp.rcpt(BORIS)
            assert smtp.data(f"{header}\r\n\r\nbody\r\n")[0] == code


def test_a_header_out_of_bounds(server: Server) -> None:
    with client(server) as smtp:
        smtp.mail(ANNA)
        smtp.rcpt(BORIS)
        assert smtp.data("X: " + "y" * 300_000 + "\r\n\r\nbody\r\n")[0] == 552


def test_mail_for_other_servers_is_taken(server: Server) -> None:
    with client(server) as smtp:
        smtp.mail(ANNA)
        assert smtp.rcpt("carol@example.net") == (250, b"2.1.5 Recipient OK")
        assert smtp.rcpt(BORIS)[0] == 250


def test_failures_are_bounded() -> None:
    limits = Limits(min_free_bytes=0, auth_failures_per_connection=2)
    response = base64.b64encode(b"\0nobody\0x").decode()
    with Server(limits=limits) as server, client(server, None) as smtp:
        assert smtp.docmd("AUTH", f"PLAIN {response}")[0] == 535
        assert smtp.docmd("AUTH", f"PLAIN {response}")[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtp.noop()


@pytest.mark.rfc(4616, "2")
def test_nobody_acts_for_another(server: Server) -> None:
    with client(server, None) as smtp:
        for user, code in ((BORIS, 535), (ANNA, 235)):
            response = base64.b64encode(f"{user}\0{ANNA}\0secret".encode()).decode()
            assert smtp.docmd("AUTH", f"PLAIN {response}")[0] == code


def test_passwords_need_tls() -> None:
    with Server(with_tls=True) as server:
        server.add_account(ANNA, "secret")
        context = ssl.create_default_context(cafile=server.certificate)
        with smtplib.SMTP_SSL("localhost", server.submissions_port, context=context) as smtp:
            smtp.login(ANNA, "secret")
            smtp.sendmail(ANNA, [ANNA], MESSAGE)
        with smtplib.SMTP("localhost", server.submission_port) as smtp:
            smtp.starttls(context=context)
            smtp.login(ANNA, "secret")
            smtp.sendmail(ANNA, [ANNA], MESSAGE)
        with Imap(server, user=ANNA) as imap:
            assert b"with ESMTPSA id" in imap.literal("FETCH 2 BODY.PEEK[HEADER]")


def scram(smtp: smtplib.SMTP, user: str, password: str, *, initial: bool) -> int:
    """The code that ends an AUTH SCRAM-SHA-256 exchange, as a client makes it (RFC 7677 §3); the proof is checked."""

    def say(data: bytes, command: str = "") -> tuple[int, bytes]:
        code, text = smtp.docmd(f"{command}{base64.b64encode(data).decode()}" if data or not command else command)
        return code, base64.b64decode(text) if code == 334 else text

    bare = f"n={user},r=clientnonce"
    if initial:
        code, challenge = say(b"n,," + bare.encode(), "AUTH SCRAM-SHA-256 ")
    else:
        assert say(b"", "AUTH SCRAM-SHA-256") == (334, b"")
        code, challenge = say(b"n,," + bare.encode())
    if code != 334:
        return code
    server_first = challenge.decode()
    nonce, salt, count = (one[2:] for one in server_first.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(count))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c=biws,r={nonce}"
    signed = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
    code, answer = say(f"{without_proof},p={proof}".encode())
    if code != 334:
        return code
    wanted = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
    assert answer == b"v=" + base64.b64encode(wanted)
    return say(b"")[0]


@pytest.mark.rfc(7677, "3")
@pytest.mark.parametrize("initial", [True, False])
def test_scram_sha_256_for_app_passwords(initial: bool) -> None:
    with Server(auth=Auth(scram_sha_256=True)) as server:
        server.add_account(ANNA, "secret")
        password = server.add_app_password(ANNA, scope="smtp")
        with client(server, None) as smtp:
            assert "SCRAM-SHA-256" in smtp.esmtp_features["auth"].split()  # AUTH SCRAM-SHA-256
            assert scram(smtp, ANNA, "secret", initial=initial) == 535
            assert scram(smtp, "nobody@example.org", password, initial=initial) == 535
            assert scram(smtp, ANNA, password, initial=initial) == 235
            assert smtp.mail(ANNA)[0] == 250
        with client(server, None) as smtp:
            assert smtp.docmd("AUTH", "SCRAM-SHA-256 " + base64.b64encode(b"p=tls-unique,,n=a,r=b").decode())[0] == 501
            assert smtp.docmd("AUTH SCRAM-SHA-256")[0] == 334
            assert smtp.docmd("*")[0] == 501
            smtp.login(ANNA, password)
        with Imap(server, login=False) as imap:
            assert imap.do(f'LOGIN {ANNA} "{password}"')[-1].startswith(b"NO")


def test_a_changed_password_ends_the_connection(server: Server) -> None:
    with client(server) as smtp:
        server.set_password(ANNA, "another")
        assert smtp.getreply()[0] == 421


def test_a_changed_password_ends_a_transaction(server: Server) -> None:
    with client(server) as smtp:
        smtp.mail(ANNA)
        smtp.rcpt(BORIS)
        smtp.docmd("DATA")
        server.set_password(ANNA, "another")
        assert smtp.getreply()[0] == 421
    with Imap(server, user=BORIS) as imap:
        assert imap.ok("SEARCH ALL")[0] == b"* SEARCH"
