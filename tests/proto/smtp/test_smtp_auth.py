"""AUTH: the lines are the engine's, the mechanisms its driver's."""

from base64 import b64encode

import pytest
from smtp_driver import DENIED, HELLO, codes, connect, ways

from pochta.errors import LocalProtocolError
from pochta.proto.address import Address
from pochta.proto.smtp import events
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply

rfc = pytest.mark.rfc
MAIL = b"MAIL FROM:<a@b.example>\r\n"


def b64(text: str) -> bytes:
    return b64encode(text.encode())


PLAIN = b64("\0user\0pässword")
WRONG = b64("\0user\0wrong")
USER, PASSWORD = b64("user"), b64("pässword")
TELLS = b"334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n"


@rfc(4954, "4")
@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("client", "want"),
    [
        pytest.param(b"AUTH PLAIN " + PLAIN, ["235 2.7.0"], id="PLAIN at once"),
        pytest.param(b"auth plain\r\n" + PLAIN, ["334", "235 2.7.0"], id="PLAIN when asked"),
        pytest.param(b"AUTH LOGIN\r\n" + USER + b"\r\n" + PASSWORD, ["334", "334", "235 2.7.0"], id="LOGIN"),
        pytest.param(b"AUTH LOGIN " + USER + b"\r\n" + PASSWORD, ["334", "235 2.7.0"], id="LOGIN, name at once"),
        pytest.param(b"AUTH PLAIN " + WRONG + b"\r\nAUTH PLAIN " + PLAIN, ["535 5.7.8", "235 2.7.0"], id="second try"),
        pytest.param(b"AUTH LOGIN\r\n*\r\nNOOP", ["334", "501 5.7.0", "250 2.0.0"], id="cancelled"),
        pytest.param(b"AUTH PLAIN =\r\nNOOP", ["501 5.5.2", "250 2.0.0"], id="empty initial response"),
        pytest.param(b"AUTH PLAIN\r\n!!!\r\nNOOP", ["334", "501 5.5.2", "250 2.0.0"], id="no base64"),
        pytest.param(b"AUTH PLAIN " + b64("user"), ["501 5.5.2"], id="no PLAIN message"),
        pytest.param(b"AUTH PLAIN " + b64encode(b"\0\xff\0x"), ["501 5.5.2"], id="not UTF-8"),
        pytest.param(b"AUTH PLAIN\r\n" + b"x" * 13000 + b"\r\nNOOP", ["334", "500 5.5.6", "250 2.0.0"], id="too long"),
        pytest.param(b"AUTH PLAIN\r\nNO\nOP\r\nNOOP", ["334", "500 5.5.2", "250 2.0.0"], id="bare LF"),
        pytest.param(b"AUTH CRAM-MD5\r\nAUTH\r\nAUTH ?", ["504 5.5.4", "501 5.5.4", "501 5.5.4"], id="unknown"),
        pytest.param(b"AUTH PLAIN " + PLAIN + b"\r\nAUTH PLAIN", ["235 2.7.0", "503 5.5.1"], id="once only"),
        pytest.param(MAIL[:-2], ["530 5.7.0"], id="required"),
        pytest.param(b"AUTH PLAIN " + PLAIN + b"\r\n" + MAIL + b"AUTH PLAIN", ["235 2.7.0", "250 2.1.0", "503 5.5.1"]),
        pytest.param(b"NOOP " + b"x" * 3000 + b"\r\nNOOP", ["500 5.5.2", "250 2.0.0"], id="other lines stay short"),
    ],
)
def test_auth(client: bytes, want: list[str], is_bytewise: bool) -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN", "LOGIN"), requires_auth=True)
    driver.feed(HELLO)
    client += b"\r\n"
    sent = driver.feed_all([client[i : i + 1] for i in range(len(client))] if is_bytewise else [client])
    assert codes(sent) == want
    assert b"334 \r\n" in sent if b"PLAIN\r\n" in client.upper() and want[0] == "334" else True


def test_auth_prompts_and_secrecy() -> None:
    driver = connect(is_secure=True, auth_mechanisms=("LOGIN",))
    sent = driver.feed(HELLO + b"AUTH LOGIN\r\n" + USER + b"\r\n" + PASSWORD + b"\r\n")
    assert TELLS in sent
    response = driver.events[-1]
    assert response == events.AuthResponse("pässword".encode())
    assert "word" not in repr(response)
    assert driver.server.is_authenticated
    assert b"AUTH" not in driver.feed(HELLO)


def test_auth_needs_tls_where_it_can_be_had() -> None:
    assert codes(connect().feed(HELLO + b"AUTH PLAIN\r\n")) == ["250", "502 5.5.1"]  # nobody signs in here
    driver = connect(can_start_tls=True, requires_auth=True)
    assert codes(driver.feed(HELLO + b"AUTH PLAIN\r\n")) == ["250", "538 5.7.11"]
    driver.feed(b"STARTTLS\r\n")
    driver.server.auth_mechanisms = ("PLAIN",)
    assert b"250-AUTH PLAIN\r\n" in driver.feed(HELLO)
    assert codes(driver.feed(b"AUTH PLAIN " + PLAIN + b"\r\n")) == ["235 2.7.0"]


def test_guessing_passwords_counts_as_errors() -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",), limits=SmtpLimits(max_errors=3))
    driver.feed(HELLO + (b"AUTH PLAIN " + WRONG + b"\r\n") * 5)
    assert codes(driver.sent) == ["250", "535 5.7.8", "535 5.7.8", "421 4.7.0"]


def test_other_mechanisms_are_the_drivers() -> None:
    server = connect(is_secure=True, auth_mechanisms=("SCRAM-SHA-256",)).server
    server.receive_data(HELLO)
    server.next_event()
    server.accept()
    server.receive_data(b"AUTH SCRAM-SHA-256 " + b64("first") + b"\r\n" + b64("final") + b"\r\n")
    assert server.next_event() == events.Auth("SCRAM-SHA-256", b"first")
    server.data_to_send()
    server.challenge(b"nonce")
    assert server.data_to_send() == b"334 " + b64("nonce") + b"\r\n"
    assert server.next_event() == events.AuthResponse(b"final")
    server.reply(DENIED)
    assert codes(server.data_to_send()) == ["535 5.7.8"]
    assert not server.is_authenticated


SCRAM = ("SCRAM-SHA-256", "PLAIN")
FIRST, FINAL = b64("first"), b64("final")
NONCE, SIGNATURE = b"334 " + b64("r=nonce") + b"\r\n", b"334 " + b64("v=signature") + b"\r\n"
EMPTY = b"334 \r\n"
YES, CANCELLED, BAD = b"235 2.7.0", b"501 5.7.0", b"501 5.5.2"


@rfc(5802, "5")
@pytest.mark.parametrize(
    ("lines", "challenges", "end"),
    [
        pytest.param([b" " + FIRST, FINAL, b""], [NONCE, SIGNATURE], YES, id="initial response"),
        pytest.param([b"", FIRST, FINAL, b""], [EMPTY, NONCE, SIGNATURE], YES, id="none"),
        pytest.param([b"", b"*"], [EMPTY], CANCELLED, id="cancelled at once"),
        pytest.param([b" " + FIRST, b"*"], [NONCE], CANCELLED, id="cancelled at the nonce"),
        pytest.param([b"", FIRST, b"*"], [EMPTY, NONCE], CANCELLED, id="cancelled at the nonce, none"),
        pytest.param([b" " + FIRST, FINAL, b"*"], [NONCE, SIGNATURE], CANCELLED, id="cancelled at the signature"),
        pytest.param([b" " + FIRST, b64("wrong")], [NONCE], b"535 5.7.8", id="wrong proof"),
        pytest.param([b" " + FIRST, FINAL, FINAL], [NONCE, SIGNATURE, SIGNATURE], None, id="no end"),
        pytest.param([b" " + FIRST[:-1]], [], BAD, id="initial response is no base64"),
        pytest.param([b" " + FIRST, b"="], [NONCE], BAD, id="a pad alone"),
        pytest.param([b" " + FIRST, FINAL, b" "], [NONCE, SIGNATURE], BAD, id="a blank is not empty"),
        pytest.param([b" " + FIRST, b"* "], [NONCE], BAD, id="a blank behind the star"),
        pytest.param([b" " + FIRST, b"x" * 12287], [NONCE], b"500 5.5.6", id="too long"),
    ],
)
def test_scram_as_the_driver_plays_it(lines: list[bytes], challenges: list[bytes], end: bytes | None) -> None:
    client = b"AUTH SCRAM-SHA-256" + b"\r\n".join(lines) + b"\r\n"
    for chunks in ways(client, halves=40):
        driver = connect(is_secure=True, auth_mechanisms=SCRAM)
        driver.feed(HELLO)
        sent = driver.feed_all(chunks)
        assert sent.startswith(b"".join(challenges))
        rest = sent.removeprefix(b"".join(challenges))
        assert rest.startswith(end) if end else rest == b""
        assert rest.count(b"\r\n") == (end is not None)
        assert driver.server.is_authenticated is (end == YES)
        if end != YES and end is not None:
            # what went before is forgotten: another mechanism, the same one again
            assert codes(driver.feed(b"AUTH PLAIN " + WRONG + b"\r\n")) == ["535 5.7.8"]
            again = b"AUTH SCRAM-SHA-256 " + FIRST + b"\r\n" + FINAL + b"\r\n\r\n"
            assert codes(driver.feed(again)) == ["334", "334", "235 2.7.0"]


def test_events_of_scram() -> None:
    driver = connect(is_secure=True, auth_mechanisms=SCRAM)
    driver.feed(HELLO + b"auth scram-sha-256 =\r\n" + FINAL + b"\r\n\r\n")
    assert driver.events[1:] == [
        events.Auth("SCRAM-SHA-256", b""),
        events.AuthResponse(b"final"),
        events.AuthResponse(b""),
    ]
    assert "final" not in repr(driver.events)
    assert driver.server.is_authenticated


def test_a_challenge_belongs_to_an_exchange() -> None:
    server = connect(is_secure=True, auth_mechanisms=SCRAM).server
    server.receive_data(HELLO + b"AUTH PLAIN " + PLAIN + b"\r\n")
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.challenge(b"x")
    server.accept()
    assert isinstance(server.next_event(), events.Auth)
    server.accept()
    with pytest.raises(LocalProtocolError):
        server.challenge(b"x")


def test_a_temporary_failure_is_no_error_of_the_clients() -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",), limits=SmtpLimits(max_errors=2))
    driver.decide = lambda event: Reply(454, "4.7.0", "Later") if isinstance(event, events.Auth) else None
    driver.feed(HELLO + (b"AUTH PLAIN " + PLAIN + b"\r\n") * 3)
    assert codes(driver.sent) == ["250", *["454 4.7.0"] * 3]
    assert not driver.server.is_authenticated


@rfc(4954, "4")
@pytest.mark.parametrize(
    ("size", "want"), [(12288, ["501 5.5.2"]), (12289, ["500 5.5.2"])], ids=["the limit", "one more"]
)
def test_length_of_the_auth_command(size: int, want: list[str]) -> None:
    driver = connect(is_secure=True, auth_mechanisms=SCRAM)
    line = b"AUTH PLAIN ".ljust(size - 2, b"A") + b"\r\n"
    driver.feed(HELLO)
    assert codes(driver.feed(line)) == want
    assert codes(driver.feed(b"AUTH PLAIN\r\n" + b"A" * (size - 2) + b"\r\n"))[1:] == (
        want if size == 12288 else ["500 5.5.6"]
    )


@rfc(4954, "5")
@pytest.mark.parametrize(
    ("value", "want"),
    [("<>", ""), ("e+3Dmc2@example.com", "e=mc2@example.com"), ("e+3dmc2@x", None), ("x", None), ("+FF@x", None)],
)
def test_auth_parameter_of_mail(value: str, want: str | None) -> None:
    driver = connect(is_secure=True, auth_mechanisms=("PLAIN",))
    sent = driver.feed(HELLO + f"MAIL FROM:<a@b> AUTH={value}\r\n".encode())
    assert codes(sent)[1] == ("501 5.5.4" if want is None else "250 2.1.0")
    if want is not None:
        assert driver.events[-1] == events.Mail(Address("a", "b"), auth=want)
