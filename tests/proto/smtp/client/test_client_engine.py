"""The client engine: whole conversations with servers that keep to the rules, and the bytes they see."""

from collections.abc import Callable

import pytest
from client_rig import LIMITS, WAY_IDS, WAYS, Cut, Step, codes, envelope, feed, play, ready, sending

from pochta.errors import LocalProtocolError
from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.engine import SmtpClient
from pochta.proto.smtp.client.envelope import BodyKind, Envelope, Recipient
from pochta.proto.smtp.client.events import LostReason
from pochta.proto.smtp.replies import Reply

MESSAGE = "Subject: x\n\ntext"
MAIL = "MAIL FROM:<a@from.example>"
B = "RCPT TO:<b@to.example>"
C = "RCPT TO:<c@to.example>"
BDAT = f"BDAT 20 LAST\n{MESSAGE}"
OK = "S:250 2.0.0 ok"


@pytest.fixture(params=WAYS, ids=WAY_IDS)
def cut(request: pytest.FixtureRequest) -> Cut:
    way: Cut = request.param
    return way


# Transactions: extensions, recipients, the dialogue, (MAIL, recipients, data)
TRANSACTIONS = {
    "bare": ([], "b", [f"C:{MAIL}", OK, f"C:{B}", OK, "C:DATA", "S:354 go", f"C:{MESSAGE}\n.", OK], (250, [250], 250)),
    "bare, one of two refused": (
        [],
        "bc",
        [f"C:{MAIL}", OK, f"C:{B}", "S:550 no", f"C:{C}", OK, "C:DATA", "S:354 go", f"C:{MESSAGE}\n.", OK],
        (250, [550, 250], 250),
    ),
    "bare, all refused: no DATA": (
        [],
        "bc",
        [f"C:{MAIL}", OK, f"C:{B}", "S:550 no", f"C:{C}", "S:451 later", "C:RSET", OK],
        (250, [550, 451], None),
    ),
    "bare, sender refused": ([], "bc", [f"C:{MAIL}", "S:550 no", "C:RSET", OK], (550, [550, 550], None)),
    "bare, DATA refused": (
        [],
        "b",
        [f"C:{MAIL}", OK, f"C:{B}", OK, "C:DATA", "S:452 full", "C:RSET", OK],
        (250, [452], 452),
    ),
    "bare, message refused": (
        [],
        "b",
        [f"C:{MAIL}", OK, f"C:{B}", OK, "C:DATA", "S:354 go", f"C:{MESSAGE}\n.", "S:554 spam", "C:RSET", OK],
        (250, [554], 554),
    ),
    "chunking": (["CHUNKING"], "b", [f"C:{MAIL}", OK, f"C:{B}", OK, f"C:{BDAT}", OK], (250, [250], 250)),
    "chunking, all refused": (
        ["CHUNKING"],
        "b",
        [f"C:{MAIL}", OK, f"C:{B}", "S:550 no", "C:RSET", OK],
        (250, [550], None),
    ),
    "pipelining": (
        ["PIPELINING"],
        "bc",
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, "S:251 will forward", "S:354 go", f"C:{MESSAGE}\n.", OK],
        (250, [250, 250], 250),
    ),
    "pipelining, one refused": (
        ["PIPELINING"],
        "bc",
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, "S:550 no", OK, "S:354 go", f"C:{MESSAGE}\n.", OK],
        (250, [550, 250], 250),
    ),
    "pipelining, all refused and DATA too": (
        ["PIPELINING"],
        "b",
        [f"C:{MAIL}\n{B}\nDATA", OK, "S:550 no", "S:554 no valid recipients", "C:RSET", OK],
        (250, [550], None),
    ),
    "pipelining, all refused and DATA accepted": (
        ["PIPELINING"],
        "b",
        [f"C:{MAIL}\n{B}\nDATA", OK, "S:550 no", "S:354 go", "C:.", OK, "C:RSET", OK],
        (250, [550], None),
    ),
    "pipelining, sender refused and DATA accepted": (
        ["PIPELINING"],
        "b",
        [f"C:{MAIL}\n{B}\nDATA", "S:451 later", OK, "S:354 go", "C:.", "S:554 empty", "C:RSET", OK],
        (451, [451], None),
    ),
    "one write": (["PIPELINING", "CHUNKING"], "b", [f"C:{MAIL}\n{B}\n{BDAT}", OK, OK, OK], (250, [250], 250)),
    "one write, one refused": (
        ["PIPELINING", "CHUNKING"],
        "bc",
        [f"C:{MAIL}\n{B}\n{C}\n{BDAT}", OK, "S:550 no", OK, OK],
        (250, [550, 250], 250),
    ),
    "one write, all refused": (
        ["PIPELINING", "CHUNKING"],
        "b",
        [f"C:{MAIL}\n{B}\n{BDAT}", OK, "S:550 no", "S:503 no recipients", "C:RSET", OK],
        (250, [550], None),
    ),
    "one write, all refused and the message accepted is no success": (
        ["PIPELINING", "CHUNKING"],
        "b",
        [f"C:{MAIL}\n{B}\n{BDAT}", OK, "S:550 no", OK, "C:RSET", OK],
        (250, [550], None),
    ),
    "one write, sender refused and all else accepted is no success": (
        ["PIPELINING", "CHUNKING"],
        "b",
        [f"C:{MAIL}\n{B}\n{BDAT}", "S:550 no", OK, OK, "C:RSET", OK],
        (550, [550], None),
    ),
    "one write, message refused": (
        ["PIPELINING", "CHUNKING"],
        "b",
        [f"C:{MAIL}\n{B}\n{BDAT}", OK, OK, "S:552 too large", "C:RSET", OK],
        (250, [552], 552),
    ),
}


@pytest.mark.rfc(2920, "3.1")
@pytest.mark.rfc(3030, "2")
@pytest.mark.parametrize(("keywords", "names", "script", "outcome"), TRANSACTIONS.values(), ids=TRANSACTIONS.keys())
def test_transaction(
    keywords: list[str],
    names: str,
    script: list[str],
    outcome: tuple[int, list[int], int | None],
    cut: Cut,
) -> None:
    client = ready(*keywords)
    (event,) = play(client, [sending(*names), *script], cut)
    assert codes(event) == outcome
    # and the connection serves the next one
    assert client.is_idle
    play(client, [lambda one: one.quit(), "C:QUIT", "S:221 bye"], cut)
    assert client.is_closed


LMTP = {
    "per recipient": (
        [],
        "bc",
        [f"C:{MAIL}", OK, f"C:{B}", OK, f"C:{C}", OK, "C:DATA", "S:354 go", f"C:{MESSAGE}\n.", "S:552 full", OK],
        (250, [552, 250], 250),
    ),
    "refused ones get none": (
        ["PIPELINING"],
        "bc",
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, "S:550 no", OK, "S:354 go", f"C:{MESSAGE}\n.", OK],
        (250, [550, 250], 250),
    ),
    "chunks wait for the recipients": (
        ["PIPELINING", "CHUNKING"],
        "bc",
        [f"C:{MAIL}\n{B}\n{C}", OK, OK, OK, f"C:{BDAT}", "S:450 busy", OK],
        (250, [450, 250], 250),
    ),
}


@pytest.mark.parametrize(("keywords", "names", "script", "outcome"), LMTP.values(), ids=LMTP.keys())
def test_lmtp(
    keywords: list[str], names: str, script: list[str], outcome: tuple[int, list[int], int | None], cut: Cut
) -> None:
    client = ready(*keywords, is_lmtp=True)
    (event,) = play(client, [sending(*names), *script], cut)
    assert codes(event) == outcome


def test_lmtp_that_closes_in_the_middle_tells_who_was_served(cut: Cut) -> None:
    client = ready("PIPELINING", is_lmtp=True)
    script = [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, "S:354 go", f"C:{MESSAGE}\n.", OK, "EOF"]
    (event,) = play(client, [sending("b", "c"), *script], cut)
    assert event == events.Lost(LostReason.CLOSED, None, (Reply(250, "2.0.0", "ok"), None), is_in_doubt=True)


HELLOS: dict[str, tuple[list[str], type[events.Event]]] = {
    "EHLO": (["S:220-two\n220 lines", "C:EHLO me.example", "S:250-mx\n250 SIZE 1000"], events.Ready),
    "HELO after 500": (["S:220 x", "C:EHLO me.example", "S:500 what", "C:HELO me.example", "S:250 mx"], events.Ready),
    "HELO after 451": (["S:220 x", "C:EHLO me.example", "S:451 what", "C:HELO me.example", "S:250 mx"], events.Ready),
    "both refused": (
        ["S:220 x", "C:EHLO me.example", "S:550 no", "C:HELO me.example", "S:550 no", "C:QUIT"],
        events.Lost,
    ),
    "greeted by 554": (["S:554 no mail here", "C:QUIT"], events.Lost),
    "greeted by 421": (["S:421 later"], events.Lost),
    "greeted by 250": (["S:250 hello"], events.Lost),
    "421 to EHLO": (["S:220 x", "C:EHLO me.example", "S:421 later"], events.Lost),
    "closed at EHLO": (["S:220 x", "C:EHLO me.example", "EOF"], events.Lost),
}


@pytest.mark.rfc(5321, "3.2")
@pytest.mark.parametrize(("script", "kind"), HELLOS.values(), ids=HELLOS.keys())
def test_hello(script: list[str], kind: type[events.Event], cut: Cut) -> None:
    client = SmtpClient("me.example", limits=LIMITS)
    (event,) = play(client, script, cut)
    assert type(event) is kind
    assert client.is_idle is (kind is events.Ready)


def test_helo_at_once() -> None:
    client = SmtpClient("me.example", limits=LIMITS, says_helo=True)
    (event,) = play(client, ["S:220 x", "C:HELO me.example", "S:250-mx\n250 PIPELINING"])
    assert isinstance(event, events.Ready)
    assert not event.extensions.has_pipelining


@pytest.mark.rfc(3207, "4.2")
def test_start_tls_begins_anew(cut: Cut) -> None:
    client = ready("STARTTLS", "CHUNKING", "PIPELINING")
    (event,) = play(client, [lambda one: one.start_tls(), "C:STARTTLS", "S:220 go"], cut)
    assert event == events.StartTls()
    (event,) = play(client, [lambda one: one.start_tls_done(), "C:EHLO me.example", "S:250-mx\n250 DSN"], cut)
    assert isinstance(event, events.Ready)
    assert (event.extensions.has_dsn, event.extensions.has_chunking, event.extensions.has_start_tls) == (1, 0, 0)


@pytest.mark.rfc(3207, "6")
def test_what_comes_behind_the_answer_to_starttls_is_dropped(cut: Cut) -> None:
    client = ready("STARTTLS")
    client.start_tls()
    client.data_to_send()
    injected = b"220 go\r\n250-mx.example\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n250 par"
    assert feed(client, injected, cut) == [events.StartTls()]
    client.start_tls_done()
    assert client.data_to_send() == b"EHLO me.example\r\n"
    assert client.next_event() is None
    (event,) = feed(client, b"250-mx\r\n250 SIZE 5\r\n", cut)
    assert isinstance(event, events.Ready)
    assert event.extensions.auth_mechanisms == ()


def test_start_tls_refused_leaves_the_connection_as_it_was() -> None:
    client = ready("STARTTLS")
    (event,) = play(client, [lambda one: one.start_tls(), "C:STARTTLS", "S:454 4.7.0 not now"])
    assert event == events.TlsRefused(Reply(454, "4.7.0", "not now"))
    assert client.is_idle


def sign_in(mechanism: str, password: str = "pässword") -> Callable[[SmtpClient], None]:
    return lambda client: client.authenticate(mechanism, "user", password)


AUTHS: dict[str, tuple[list[Step], type[events.Event]]] = {
    "PLAIN": ([sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:235 ok"], events.SignedIn),
    "PLAIN refused": (
        [sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:535 5.7.8 no"],
        events.AuthRefused,
    ),
    "PLAIN that is too long for the command": (
        [sign_in("PLAIN", "x" * 400), "C:AUTH PLAIN", "S:334 ", "C:AHVzZXIA" + "eHh4" * 133 + "eA==", "S:235 ok"],
        events.SignedIn,
    ),
    "LOGIN": (
        [
            sign_in("LOGIN"),
            *("C:AUTH LOGIN", "S:334 VXNlcm5hbWU6", "C:dXNlcg==", "S:334 UGFzc3dvcmQ6"),
            *("C:cMOkc3N3b3Jk", "S:235 2.7.0 ok"),
        ],
        events.SignedIn,
    ),
    "asked for more, cancels": (
        [sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:334 more", "C:*", "S:501 cancelled"],
        events.AuthRefused,
    ),
    "asked for ever": (
        [sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:334 more", "C:*", "S:334 more"],
        events.Lost,
    ),
    "250 is no sign-in": ([sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:250 ok"], events.Lost),
}


@pytest.mark.parametrize(("script", "kind"), AUTHS.values(), ids=AUTHS.keys())
def test_auth(script: list[Step], kind: type[events.Event], cut: Cut) -> None:
    (event,) = play(ready("AUTH PLAIN LOGIN CRAM-MD5"), script, cut)
    assert type(event) is kind


def test_auth_names_the_submitter_to_a_server_that_knows_us() -> None:
    client = ready("AUTH PLAIN", "SIZE")
    play(client, [sign_in("PLAIN"), "C:AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk", "S:235 ok"])
    client.send(envelope(auth="a+b@from.example"))
    assert client.data_to_send() == b"MAIL FROM:<a@from.example> AUTH=a+2Bb@from.example\r\n"


PARAMETERS = {
    "everything": (
        ["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "MT-PRIORITY", "DELIVERBY", "CHUNKING", "BINARYMIME"],
        {
            "body": BodyKind.BINARY,
            "is_smtputf8": True,
            "requires_tls": True,
            "returns": "HDRS",
            "envelope_id": "id +1",
            "priority": -3,
            "deliver_by": "120;R",
        },
        " SIZE=9 BODY=BINARYMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=id+20+2B1 MT-PRIORITY=-3 BY=120;R",
    ),
    "what can be left out": (
        [],
        {"returns": "FULL", "envelope_id": "x", "priority": 3, "deliver_by": "120;N", "auth": "x@y"},
        "",
    ),
    "eight bit": (["8BITMIME"], {"body": BodyKind.EIGHT_BIT}, " BODY=8BITMIME"),
    "seven bit": (["8BITMIME", "SIZE 100"], {}, " SIZE=9"),
}


@pytest.mark.rfc(1870, "6")
@pytest.mark.rfc(3461, "4.3")
@pytest.mark.parametrize(("keywords", "more", "parameters"), PARAMETERS.values(), ids=PARAMETERS.keys())
def test_parameters_of_mail(keywords: list[str], more: dict[str, object], parameters: str) -> None:
    client = ready(*keywords)
    client.send(envelope(**more), size_bytes=9)  # type: ignore[arg-type]  # by name
    assert client.data_to_send() == f"MAIL FROM:<a@from.example>{parameters}\r\n".encode()


@pytest.mark.rfc(3461, "4.1")
@pytest.mark.rfc(6533, "3")
def test_parameters_of_rcpt() -> None:
    recipients = (
        Recipient("b@to.example", "SUCCESS,DELAY", "rfc822;b+x@old.example"),
        Recipient("ü@to.example", "NEVER", "utf-8;ü@old.example"),
        Recipient('"a b"@to.example'),
    )
    made = Envelope(reverse_path="", recipients=recipients, is_smtputf8=True)
    client = ready("PIPELINING", "DSN", "SMTPUTF8", "8BITMIME")
    client.send(made)
    assert client.data_to_send().decode().split("\r\n") == [
        "MAIL FROM:<> SMTPUTF8",
        "RCPT TO:<b@to.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@old.example",
        "RCPT TO:<ü@to.example> NOTIFY=NEVER ORCPT=utf-8;ü@old.example",
        'RCPT TO:<"a b"@to.example>',
        "DATA",
        "",
    ]


UNSENDABLE = {
    "8BITMIME": ({"body": BodyKind.EIGHT_BIT}, ["8BITMIME"]),
    "BINARYMIME": ({"body": BodyKind.BINARY}, ["BINARYMIME", "CHUNKING"]),
    "SMTPUTF8": ({"is_smtputf8": True}, ["SMTPUTF8", "8BITMIME"]),
    "REQUIRETLS": ({"requires_tls": True}, ["REQUIRETLS"]),
    "DELIVERBY": ({"deliver_by": "120;R"}, ["DELIVERBY"]),
}


@pytest.mark.parametrize("keyword", UNSENDABLE)
def test_what_cannot_be_left_out_is_not_sent_without(keyword: str) -> None:
    more, keywords = UNSENDABLE[keyword]
    made = envelope(**more)  # type: ignore[arg-type]  # by name
    client = ready("SIZE")
    assert made.missing(client.extensions) == (keyword,)
    with pytest.raises(LocalProtocolError, match=keyword):
        client.send(made)
    assert client.data_to_send() == b""
    assert client.is_idle
    assert made.missing(ready(*keywords).extensions) == ()


def test_a_large_body_waits_for_the_recipients() -> None:
    client = ready("PIPELINING", "CHUNKING")
    events_seen = play(client, [sending("b", body=None), f"C:{MAIL}\n{B}", OK])
    assert not client.wants_body
    events_seen += play(client, [OK])
    assert client.wants_body
    client.send_body(b"one\r\n")
    assert client.data_to_send() == b""  # it may be the last
    for _ in range(4):
        assert client.wants_body
        client.send_body(b"two\r\n")
    assert client.data_to_send() == b"BDAT 5\r\none\r\n" + b"BDAT 5\r\ntwo\r\n" * 3
    assert not client.wants_body
    play(client, [OK])
    assert client.wants_body
    client.end_body()
    assert client.data_to_send() == b"BDAT 5 LAST\r\ntwo\r\n"
    (event,) = play(client, [OK, OK, OK, OK])
    assert codes(event) == (250, [250], 250)


def test_a_refused_chunk_ends_the_message() -> None:
    client = ready("PIPELINING", "CHUNKING")
    play(client, [sending("b", body=None), f"C:{MAIL}\n{B}", OK, OK])
    for _ in range(4):
        client.send_body(b"one\r\n")
    assert client.data_to_send() == b"BDAT 5\r\none\r\n" * 3
    assert play(client, [OK, "S:452 4.3.1 full"]) == []
    assert not client.wants_body
    # The chunk under way is refused, too, by a code that must not count.
    (event,) = play(client, ["S:503 5.5.1 no", "C:RSET", OK])
    assert codes(event) == (250, [452], 452)


def test_a_large_body_by_data() -> None:
    client = ready()
    script = [sending("b", body=None), f"C:{MAIL}", OK, f"C:{B}", OK, "C:DATA", "S:354 go"]
    assert play(client, script) == []
    for piece in (b".one\r", b"\n", b".", b"two\nthree"):
        assert client.wants_body
        client.send_body(piece)
    client.end_body()
    assert client.data_to_send() == b"..one\r\n..two\r\nthree\r\n.\r\n"
    (event,) = play(client, [OK])
    assert codes(event) == (250, [250], 250)


def test_binary_leaves_as_it_is() -> None:
    client = ready("BINARYMIME", "CHUNKING", "PIPELINING", uses_chunking=False)
    client.send(envelope(body=BodyKind.BINARY), body=b".\n\r\0\r\n.\r\n")
    assert client.data_to_send().endswith(b"BDAT 9 LAST\r\n.\n\r\0\r\n.\r\n")


def test_many_recipients_leave_in_groups() -> None:
    client = ready("PIPELINING", "CHUNKING")
    names = [f"user{number}" for number in range(1500)]
    client.send(envelope(*names), body=b"x\r\n")
    found, groups, answered = [], 0, b""
    while wire := client.data_to_send():
        assert len(wire) < 33 * 1024
        groups += 1
        answered += wire
        found += feed(client, b"250 ok\r\n" * wire.replace(b"x\r\n", b"").count(b"\r\n"))
    assert groups == 2
    assert answered.count(b"RCPT TO:") == 1500
    (event,) = found
    assert codes(event) == (250, [250] * 1500, 250)


def test_the_second_transaction_waits_for_the_clean_up() -> None:
    client = ready("PIPELINING")
    script = [sending("b"), f"C:{MAIL}\n{B}\nDATA", OK, "S:550 no", "S:554 no", "C:RSET"]
    assert [type(one) for one in play(client, script)] == [events.Sent]
    play(client, [sending("c"), OK, f"C:{MAIL}\n{C}\nDATA", OK, OK, "S:354 go", f"C:{MESSAGE}\n.", OK])
    assert client.is_idle


def test_reset_and_quit(cut: Cut) -> None:
    client = ready()
    assert play(client, [lambda one: one.reset(), "C:RSET", OK], cut) == [events.ResetDone(Reply(250, "2.0.0", "ok"))]
    assert play(client, [lambda one: one.quit(), "C:QUIT", "EOF"], cut) == [events.Closed()]


@pytest.mark.rfc(5321, "4.5.3.2")
def test_timeouts_are_those_of_the_state() -> None:
    client = SmtpClient("me.example", limits=LIMITS)
    assert client.timeout_s == LIMITS.greeting_timeout_s == 300
    feed(client, b"220 x\r\n")
    assert client.timeout_s == LIMITS.command_timeout_s == 300
    feed(client, b"250 x\r\n")
    assert client.timeout_s is None
    client.send(envelope())
    for _ in range(2):
        assert client.timeout_s == 300
        feed(client, b"250 ok\r\n")
    assert client.timeout_s == LIMITS.data_timeout_s == 120
    feed(client, b"354 go\r\n")
    assert client.timeout_s == LIMITS.block_timeout_s == 180
    client.end_body()
    assert client.timeout_s == LIMITS.end_timeout_s == 600


def test_giving_up_tells_how_far_things_are() -> None:
    client = ready("PIPELINING")
    play(client, [sending("b", "c"), f"C:{MAIL}\n{B}\n{C}\nDATA", OK, "S:550 no", OK, "S:354 go", f"C:{MESSAGE}\n."])
    client.give_up()
    event = client.next_event()
    assert event == events.Lost(LostReason.TIMED_OUT, None, (Reply(550, "", "no"), None), is_in_doubt=True)


CALLS: dict[str, Callable[[SmtpClient], None]] = {
    "send": lambda one: one.send(envelope()),
    "reset": lambda one: one.reset(),
    "quit": lambda one: one.quit(),
    "start_tls": lambda one: one.start_tls(),
    "authenticate": sign_in("PLAIN"),
    "send_body": lambda one: one.send_body(b"x"),
    "end_body": lambda one: one.end_body(),
    "start_tls_done": lambda one: one.start_tls_done(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls_out_of_order(call: Callable[[SmtpClient], None]) -> None:
    client = SmtpClient("me.example", limits=LIMITS)
    with pytest.raises(LocalProtocolError):
        call(client)
    assert client.data_to_send() == b""


def test_what_was_not_offered_is_not_used() -> None:
    client = ready("AUTH LOGIN")
    for call in (CALLS["start_tls"], CALLS["authenticate"]):
        with pytest.raises(LocalProtocolError):
            call(client)
    assert client.data_to_send() == b""
