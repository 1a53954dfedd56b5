"""The client engine against servers that lie, babble and go away: each outcome is defined, and none is a success."""

import pytest
from client_rig import LIMITS, WAY_IDS, WAYS, Cut, codes, envelope, feed, play, ready, sending
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.engine import MAX_WHOLE_BYTES, SmtpClient
from pochta.proto.smtp.client.envelope import Envelope, Recipient
from pochta.proto.smtp.client.events import LostReason
from pochta.proto.smtp.replies import Reply

MESSAGE = "Subject: x\n\ntext"
MAIL = "MAIL FROM:<a@from.example>"
B = "RCPT TO:<b@to.example>"
C = "RCPT TO:<c@to.example>"
BDAT = f"BDAT 20 LAST\n{MESSAGE}"
OK = "S:250 ok"
PIPELINING = ["PIPELINING"]
ONE_WRITE = ["PIPELINING", "CHUNKING"]


@pytest.fixture(params=WAYS, ids=WAY_IDS)
def cut(request: pytest.FixtureRequest) -> Cut:
    way: Cut = request.param
    return way


# Extensions, dialogue (to b and c), reason, in doubt?
LIES = {
    "354 to MAIL": ([], [f"C:{MAIL}", "S:354 go"], LostReason.OUT_OF_ORDER, False),
    "334 to RCPT": ([], [f"C:{MAIL}", OK, f"C:{B}", "S:334 go"], LostReason.OUT_OF_ORDER, False),
    "250 to DATA": (
        PIPELINING,
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, OK],
        LostReason.OUT_OF_ORDER,
        False,
    ),
    "334 to DATA": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, "S:334 x"], LostReason.OUT_OF_ORDER, False),
    "354 to the end": (
        PIPELINING,
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, "S:354 go", f"C:{MESSAGE}\n.", "S:354 more"],
        LostReason.OUT_OF_ORDER,
        True,
    ),
    "354 to BDAT": (ONE_WRITE, [f"C:{MAIL}\n{B}\n{C}\n{BDAT}", OK, OK, OK, "S:354 x"], LostReason.OUT_OF_ORDER, True),
    "garbage": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, "S:HTTP/1.1 200 OK"], LostReason.GARBAGE, False),
    "an echo": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", f"S:{MAIL}"], LostReason.GARBAGE, False),
    "codes that do not exist": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", "S:650 ok"], LostReason.GARBAGE, False),
    "two codes in one": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", "S:250-ok\n550 no"], LostReason.GARBAGE, False),
    "closes at once": (PIPELINING, [f"C:{MAIL}\n{B}\n{C}\nDATA", "EOF"], LostReason.CLOSED, False),
    "closes in a line": (ONE_WRITE, [f"C:{MAIL}\n{B}\n{C}\n{BDAT}", OK, OK, OK, "S:250-ok", "EOF"], "closed", True),
    "closes with the message on its way": (ONE_WRITE, [f"C:{MAIL}\n{B}\n{C}\n{BDAT}", "EOF"], LostReason.CLOSED, True),
    "closes after the end": (
        PIPELINING,
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, "S:354 go", f"C:{MESSAGE}\n.", "EOF"],
        LostReason.CLOSED,
        True,
    ),
    "closes when nothing was accepted": (
        ONE_WRITE,
        [f"C:{MAIL}\n{B}\n{C}\n{BDAT}", OK, "S:550 no", "S:550 no", "EOF"],
        LostReason.CLOSED,
        False,
    ),
}


@pytest.mark.parametrize(("keywords", "script", "reason", "is_in_doubt"), LIES.values(), ids=LIES.keys())
def test_a_lie_ends_the_connection(
    keywords: list[str], script: list[str], reason: LostReason, is_in_doubt: bool, cut: Cut
) -> None:
    client = ready(*keywords)
    (event,) = play(client, [sending("b", "c"), *script], cut)
    assert isinstance(event, events.Lost)
    assert event.reason == reason
    assert event.is_in_doubt is is_in_doubt
    assert all(fate is None or fate.code == 550 for fate in event.recipients)
    assert client.is_closed
    client.receive_data(b"250 ok\r\n" * 9)
    assert client.next_event() is None
    assert client.data_to_send() == b""


# 421 decides over everybody who has no answer yet
SHUT_DOWNS = {
    "MAIL": ([f"C:{MAIL}\n{B}\n{C}\nDATA", "S:421 bye"], (421, [421, 421], None)),
    "RCPT": ([f"C:{MAIL}\n{B}\n{C}\nDATA", OK, "S:550 no", "S:421 bye"], (250, [550, 421], None)),
    "DATA": ([f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, "S:550 no", "S:421 bye"], (250, [421, 550], 421)),
    "end": (
        [f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, OK, "S:354 go", f"C:{MESSAGE}\n.", "S:421 bye"],
        (250, [421, 421], 421),
    ),
}


@pytest.mark.rfc(5321, "3.8")
@pytest.mark.parametrize(("script", "outcome"), SHUT_DOWNS.values(), ids=SHUT_DOWNS.keys())
def test_421_in_the_middle(script: list[str], outcome: tuple[int, list[int], int | None], cut: Cut) -> None:
    client = ready("PIPELINING")
    sent, lost = play(client, [sending("b", "c"), *script], cut)
    assert codes(sent) == outcome
    assert lost == events.Lost(LostReason.SHUTTING_DOWN, Reply(421, "", "bye"))


@pytest.mark.parametrize(("code", "reason"), [(552, LostReason.EARLY), (421, LostReason.SHUTTING_DOWN)])
def test_a_refusal_in_the_middle_of_the_message_counts_and_ends_the_connection(
    code: int, reason: LostReason, cut: Cut
) -> None:
    client = ready("PIPELINING")
    play(client, [sending("b", "c", body=None), f"C:{MAIL}\n{B}\n{C}\nDATA", OK, OK, "S:550 no", "S:354 go"], cut)
    client.send_body(b"one\r\n")
    client.data_to_send()
    sent, lost = play(client, [f"S:{code} too large"], cut)
    assert codes(sent) == (250, [code, 550], code)
    assert lost == events.Lost(reason, Reply(code, "", "too large"))


def test_a_yes_in_the_middle_of_the_message_is_none(cut: Cut) -> None:
    client = ready("PIPELINING")
    play(client, [sending("b", body=None), f"C:{MAIL}\n{B}\nDATA", OK, OK, "S:354 go"], cut)
    client.send_body(b"one\r\n")
    client.data_to_send()
    (lost,) = play(client, [OK], cut)
    assert lost == events.Lost(LostReason.UNSOLICITED, Reply(250, "", "ok"), (None,))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"421 4.4.2 idle\r\n", LostReason.SHUTTING_DOWN),
        (b"250 ok\r\n", LostReason.UNSOLICITED),
        (b"2", LostReason.UNSOLICITED),
        (b"250-ok\r\n", LostReason.UNSOLICITED),
        (b"x\r\n", LostReason.UNSOLICITED),
    ],
)
def test_a_server_that_spoke_between_transactions_hears_nothing(said: bytes, reason: LostReason) -> None:
    client = ready("PIPELINING")
    client.receive_data(said)
    client.send(envelope())
    assert client.data_to_send() == b""
    event = client.next_event()
    assert isinstance(event, events.Lost)
    assert event.reason is reason


def test_a_server_that_speaks_between_transactions_is_noticed() -> None:
    client = ready("PIPELINING")
    assert feed(client, b"421 idle\r\n") == [events.Lost(LostReason.SHUTTING_DOWN, Reply(421, "", "idle"))]
    client = ready("PIPELINING")
    client.receive_eof()
    assert client.next_event() == events.Lost(LostReason.CLOSED)


# In one piece: byte by byte our side would have left before the answer arrived, and that server is only quick.
def test_a_hello_answered_in_advance_is_not_heard() -> None:
    client = SmtpClient("me.example", limits=LIMITS)
    assert feed(client, b"220 x\r\n250-x\r\n250 AUTH PLAIN\r\n") == [
        events.Lost(LostReason.UNSOLICITED, Reply(250, "", "x\nAUTH PLAIN"))
    ]
    assert client.data_to_send() == b""


@pytest.mark.parametrize("keywords", [["PIPELINING"], []], ids=["pipelining", "bare"])
def test_a_message_answered_in_advance_does_not_leave(keywords: list[str]) -> None:
    client = ready(*keywords)
    client.send(envelope(), body=b"x\r\n")
    found = feed(client, b"250 ok\r\n" * (2 if keywords else 1))
    found += [] if keywords else feed(client, b"250 ok\r\n")
    client.data_to_send()
    assert found == []
    assert feed(client, b"354 go\r\n250 ok\r\n") == [events.Lost(LostReason.UNSOLICITED, Reply(250, "", "ok"), (None,))]
    assert client.data_to_send() == b""


BABBLE = {
    "no line end": b"2" * 100_000,
    "a line too long": b"220 " + b"x" * 3000 + b"\r\n",
    "lines without end": b"220-x\r\n" * 1000,
    "a reply too large": (b"220-" + b"x" * 2000 + b"\r\n") * 20,
    "nothing but line ends": b"\r\n" * 100,
    "NUL": b"\0" * 5000,
}


@pytest.mark.parametrize("said", BABBLE.values(), ids=BABBLE.keys())
def test_babble_is_bounded(said: bytes) -> None:
    client = SmtpClient("me.example", limits=LIMITS)
    (event,) = feed(client, said, lambda data: [data[at : at + 999] for at in range(0, len(data), 999)])
    assert event == events.Lost(LostReason.GARBAGE)


REPLY_TEXTS = {
    "plain": (b"220 x\r\n", Reply(220, "", "x")),
    "code alone": (b"220\r\n", Reply(220, "", "")),
    "bare LF": (b"220 x\n", Reply(220, "", "x")),
    "lines": (b"220-a\r\n220-\r\n220 b\r\n", Reply(220, "", "a\n\nb")),
    "status": (b"220 2.0.0 x\r\n", Reply(220, "2.0.0", "x")),
    "status alone": (b"550 5.7.25\r\n", Reply(550, "5.7.25", "")),
    "status on each line": (b"550-5.1.1 a\r\n550 5.1.1 b\r\n", Reply(550, "5.1.1", "a\nb")),
    "status of another class": (b"550 2.1.1 a\r\n", Reply(550, "", "2.1.1 a")),
    "a number that is no status": (b"550 5.1.1.1 a\r\n", Reply(550, "", "5.1.1.1 a")),
    "controls": (b"550 a\0\x1b[31m\r\n", Reply(550, "", "a??[31m")),
    "UTF-8": ("550 gehört\r\n".encode(), Reply(550, "", "gehört")),
    "other octets": (b"550 geh\xf6rt\r\n", Reply(550, "", "geh\ufffdrt")),
    "bidi marks": ("550 a\u202eb\r\n".encode(), Reply(550, "", "a?b")),
    "CR in it": (b"550 a\rb\r\n", Reply(550, "", "a?b")),
}


@pytest.mark.rfc(5321, "4.2")
@pytest.mark.rfc(2034, "4")
@pytest.mark.parametrize(("said", "reply"), REPLY_TEXTS.values(), ids=REPLY_TEXTS.keys())
def test_reply(said: bytes, reply: Reply, cut: Cut) -> None:
    client = ready()
    client.reset()
    (event,) = feed(client, said.replace(b"220", b"250"), cut)
    assert isinstance(event, events.ResetDone | events.Lost)
    assert event.reply == reply._replace(code=250 if reply.code == 220 else reply.code)


INJECTIONS = [
    "a\r\nRSET@x",
    "a@x\r\nRSET",
    "a@x\n",
    "a@x>\r\nDATA",
    "a@x> SIZE=1",
    "a b@x",
    "<a@x>",
    "a@x y",
    "a\0@x",
    "a\x7f@x",
    "a\u0085@x",
    "a\ud800@x",
    '"a\r\n"@x',
    '"a"b"@x',
    "a@[x\r\n]",
    "a@[>]",
    "a",
    "@x",
    "a@" + "x" * 255,
    "ü" * 200 + "@x",
    "",
]


@pytest.mark.parametrize("address", INJECTIONS)
def test_an_address_cannot_hold_a_command(address: str) -> None:
    for reverse_path, recipient in ((address, "b@x"), ("a@x", address)):
        if reverse_path == "":
            continue
        client = ready("PIPELINING", "SMTPUTF8", "8BITMIME", "SIZE")
        with pytest.raises(LocalProtocolError):
            client.send(Envelope(reverse_path=reverse_path, recipients=(Recipient(recipient),), is_smtputf8=True))
        assert client.data_to_send() == b""
        assert client.is_idle


@pytest.mark.parametrize(
    "more",
    [
        {"returns": "FULL\r\nRSET"},
        {"returns": "full"},
        {"envelope_id": "a\r\nb"},
        {"envelope_id": "x" * 101},
        {"priority": 10},
        {"deliver_by": "1;R\r\nRSET"},
        {"deliver_by": "1234567890;R"},
        {"recipients": (Recipient("b@x", "NEVER,SUCCESS"),)},
        {"recipients": (Recipient("b@x", "SUCCESS\r\nRSET"),)},
        {"recipients": (Recipient("b@x", "", "rfc822;\r\nRSET"),)},
        {"recipients": (Recipient("b@x", "", "rfc 822;a"),)},
        {"recipients": (Recipient("b@x", "", "rfc822"),)},
        {"recipients": ()},
    ],
    ids=repr,
)
def test_a_parameter_cannot_hold_a_command(more: dict[str, object]) -> None:
    made = Envelope(**{"reverse_path": "a@x", "recipients": (Recipient("b@x"),), **more})  # type: ignore[arg-type]
    client = ready("PIPELINING", "DSN", "MT-PRIORITY", "DELIVERBY")
    with pytest.raises(LocalProtocolError):
        client.send(made)
    assert client.data_to_send() == b""


@pytest.mark.parametrize(("user", "password"), [("a\0b", "x"), ("a", "x\0y"), ("", "x"), ("a", "")])
def test_credentials_that_cannot_be_sent(user: str, password: str) -> None:
    client = ready("AUTH PLAIN")
    with pytest.raises(LocalProtocolError):
        client.authenticate("PLAIN", user, password)
    assert client.data_to_send() == b""


@pytest.mark.parametrize("name", ["", "a b", "a\r\nRSET", "ü"])
def test_a_name_that_cannot_be_said(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        SmtpClient(name, limits=LIMITS)


def test_a_body_too_large_to_go_unasked() -> None:
    with pytest.raises(LocalProtocolError):
        ready("PIPELINING").send(envelope(), body=b"x" * (MAX_WHOLE_BYTES + 1))


TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.sampled_from('ab"\\@<> \r\n.;,=+\0ü'), max_size=12),
    st.sampled_from(["a@x", "ü@x", '"a\\" b"@x', "rfc822;a@x", "utf-8;ü@x", "FULL", "NEVER", "SUCCESS,DELAY", "1;R"]),
)
ENVELOPES = st.builds(
    Envelope,
    reverse_path=TEXTS,
    recipients=st.lists(st.builds(Recipient, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple),
    is_smtputf8=st.booleans(),
    requires_tls=st.booleans(),
    returns=TEXTS,
    envelope_id=TEXTS,
    priority=st.integers(-12, 12),
    deliver_by=TEXTS,
    auth=st.none() | TEXTS,
)


@settings(max_examples=400)
@given(ENVELOPES)
def test_whatever_the_envelope_the_lines_are_counted(made: Envelope) -> None:
    keywords = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "MT-PRIORITY", "DELIVERBY", "SIZE"]
    client = ready(*keywords, "AUTH PLAIN")
    client.authenticate("PLAIN", "a", "b")
    client.data_to_send()
    feed(client, b"235 ok\r\n")
    try:
        client.send(made, size_bytes=1)
    except LocalProtocolError:
        assert client.data_to_send() == b""
        return
    lines = client.data_to_send().split(b"\r\n")
    assert [line[:4] for line in lines] == [b"MAIL", *[b"RCPT"] * len(made.recipients), b"DATA", b""]
    assert not any(byte < 32 or byte == 127 for line in lines for byte in line)
    assert max(map(len, lines)) < 2048


SAYINGS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"451 later\r\n", b"421 bye\r\n"),
                *(b"334 \r\n", b"220 x\r\n", b"235 x\r\n", b"5", b"\r\n", b"\n", b"250-x\r\n", b"221 bye\r\n"),
            ]
        ),
        st.binary(max_size=8),
    ),
    max_size=14,
)


@settings(max_examples=400)
@given(SAYINGS, st.sets(st.sampled_from(["PIPELINING", "CHUNKING"])), st.booleans(), st.booleans())
def test_whatever_the_server_says_the_outcome_is_defined(
    said: list[bytes], keywords: set[str], is_whole: bool, is_lmtp: bool
) -> None:
    client = ready(*keywords, is_lmtp=is_lmtp)
    body = b"Subject: x\r\n\r\ntext\r\n"
    client.send(envelope("b", "c"), body=body if is_whole else None)
    found: list[events.Event] = []
    wire = client.data_to_send()
    for piece in said:
        found += feed(client, piece)
        if client.wants_body:
            client.send_body(body)
            client.end_body()
        wire += client.data_to_send()
        if any(isinstance(one, events.Sent) for one in found):
            break
    client.receive_eof()
    while (event := client.next_event()) is not None:
        found.append(event)
    outcomes = [one for one in found if isinstance(one, events.Sent | events.Lost)]
    assert outcomes
    assert outcomes == found
    # Nobody is served unless the message left whole.
    fates = outcomes[0].recipients
    if any(fate is not None and fate.is_positive for fate in fates):
        assert body in wire
    assert len(fates) == 2


@pytest.mark.parametrize("said", ["421 bye", "500 what"])
def test_a_clean_up_that_fails_keeps_the_next_message_here(said: str) -> None:
    client = ready("PIPELINING")
    play(client, [sending("b"), f"C:{MAIL}\n{B}\nDATA", OK, "S:550 no", "S:554 no", "C:RSET"])
    found = play(client, [sending("c"), f"S:{said}"])
    assert isinstance(found[-1], events.Lost)
    assert not found[-1].is_in_doubt
    assert all(fate is None or fate.code == 421 for one in found for fate in getattr(one, "recipients", ()))
