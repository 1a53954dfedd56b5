"""Delivery status reports: what they say, and that nothing in them leaves its place."""

import email.errors
import email.message
import email.policy
import quopri
from dataclasses import replace
from email.parser import BytesParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.proto.smtp.events import Notify
from pochta.queue import dsn
from pochta.queue.dsn import Action, Report, ReportedRecipient, compose, is_wanted, status_of

AT = 1_795_000_000  # Wed, 18 Nov 2026 11:06:40 +0000
TOKEN = "0123456789abcdef0123456789abcdef"
HEADER = b"From: Anna <anna@a.example>\r\nSubject: Hello\r\n"
BODY = b"Dear Bob,\r\nhello.\r\n"

FAILED = ReportedRecipient(
    address="bob@b.example",
    action=Action.FAILED,
    status="5.1.1",
    original="rfc822;Bob@B.example",
    remote_host="mx.b.example",
    remote_reply="550-5.1.1 No such\r\n550 5.1.1 user here",
    last_attempt_at=AT - 10,
)
DELAYED = ReportedRecipient(
    address="carol@c.example",
    action=Action.DELAYED,
    status="4.4.1",
    remote_reply="no server of c.example answers",
    last_attempt_at=AT - 10,
    will_retry_until=AT + 400_000,
)
REPORT = Report(
    reporting_host="mx.a.example",
    postmaster="postmaster@a.example",
    sender="anna@a.example",
    message_id="<r1@mx.a.example>",
    queue_id="q7",
    now_s=AT,
    arrived_at=AT - 100,
    recipients=(FAILED,),
    original_header=HEADER,
    original_body=BODY,
    returns_full=True,
    envelope_id="QQ314159",
)


class Parsed:
    """The three parts, by the standard library: content type, encoding and decoded body of each."""

    def __init__(self, message: bytes) -> None:
        self.header, _, rest = message.partition(b"\r\n\r\n")
        parsed = BytesParser(policy=email.policy.compat32).parsebytes(self.header + b"\r\n\r\n", headersonly=True)
        # Pythons before 3.11.4 say this of any multipart whose header alone is read
        early = email.errors.MultipartInvariantViolationDefect
        assert not [one for one in parsed.defects if not isinstance(one, early)]
        self.fields = parsed
        boundary = str(parsed.get_boundary()).encode()
        # Cut as RFC 2046 §5.1.1 says, so that bodies are seen octet by octet; `parts_agree` asks the library.
        pieces = (b"\r\n" + rest).split(b"\r\n--" + boundary)
        assert pieces[0] == b""
        assert pieces[-1] == b"--\r\n"
        self.types: list[str] = []
        self.encodings: list[str] = []
        self.bodies: list[bytes] = []
        for piece in pieces[1:-1]:
            head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            part = BytesParser(policy=email.policy.compat32).parsebytes(head + b"\r\n\r\n", headersonly=True)
            encoding = part.get("Content-Transfer-Encoding", "7bit")
            self.types.append(part.get_content_type())
            self.encodings.append(encoding)
            self.bodies.append(quopri.decodestring(body) if encoding == "quoted-printable" else body)
        assert len(self.types) == 3

    @property
    def words(self) -> str:
        return self.bodies[0].decode().replace("\r\n", "\n")

    @property
    def groups(self) -> list[dict[str, str]]:
        """Of the fields: those of the message, then those of each recipient."""
        text = self.bodies[1].decode()
        found = []
        for group in text.strip("\r\n").split("\r\n\r\n"):
            lines = group.replace("\r\n ", " ").split("\r\n")
            pairs = [line.split(": ", 1) for line in lines]
            assert len({name for name, _ in pairs}) == len(pairs)
            found.append(dict(pairs))
        return found


def parts_agree(message: bytes) -> list[email.message.Message]:
    parsed = email.message_from_bytes(message)
    assert parsed.get_content_type() == "multipart/report"
    parts = parsed.get_payload()
    assert len(parts) == 3
    assert not parsed.defects
    assert not any(part.defects for part in parts)
    return parts


def composed(report: Report) -> Parsed:
    message = compose(report, boundary_token=TOKEN)
    parsed = Parsed(message)
    assert [part.get_content_type() for part in parts_agree(message)] == parsed.types
    return parsed


@pytest.mark.rfc(3464, "2")
def test_whole() -> None:
    assert compose(REPORT, boundary_token=TOKEN).decode().split("\r\n") == [
        "From: Mail Delivery System <postmaster@a.example>",
        "To: <anna@a.example>",
        "Subject: Undelivered mail: bob@b.example",
        "Date: Wed, 18 Nov 2026 11:06:40 +0000",
        "Message-ID: <r1@mx.a.example>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        '\tboundary="=_0123456789abcdef0123456789abcdef"',
        "",
        "--=_0123456789abcdef0123456789abcdef",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "This is the mail system at mx.a.example.",
        "",
        "Your message could not be delivered to:",
        "",
        "  <bob@b.example>",
        "    You wrote to <Bob@B.example>, which leads there.",
        "    mx.b.example answered:",
        "      550-5.1.1 No such",
        "      550 5.1.1 user here",
        "    Is the address spelled right? Ask its owner for the current one, and send again.",
        "",
        "It will not be tried again.",
        "",
        "If this leaves a question, forward it to postmaster@a.example.",
        "Your message came here on Wed, 18 Nov 2026 11:05:00 +0000 and has the name q7.",
        "",
        "--=_0123456789abcdef0123456789abcdef",
        "Content-Type: message/delivery-status",
        "",
        "Original-Envelope-Id: QQ314159",
        "Reporting-MTA: dns; mx.a.example",
        "Arrival-Date: Wed, 18 Nov 2026 11:05:00 +0000",
        "X-Pochta-Queue-Id: q7",
        "",
        "Original-Recipient: rfc822; Bob@B.example",
        "Final-Recipient: rfc822; bob@b.example",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.b.example",
        "Diagnostic-Code: smtp; 550-5.1.1 No such",
        " 550 5.1.1 user here",
        "Last-Attempt-Date: Wed, 18 Nov 2026 11:06:30 +0000",
        "",
        "--=_0123456789abcdef0123456789abcdef",
        "Content-Type: message/rfc822",
        "",
        "From: Anna <anna@a.example>",
        "Subject: Hello",
        "",
        "Dear Bob,",
        "hello.",
        "",
        "--=_0123456789abcdef0123456789abcdef--",
        "",
    ]


@pytest.mark.rfc(3464, "2.3.9")
def test_delay() -> None:
    parsed = composed(replace(REPORT, recipients=(DELAYED,), envelope_id=None))
    assert parsed.fields["Subject"] == "Delayed mail: carol@c.example"
    assert "  <carol@c.example>\n    The reason:\n      no server of c.example answers\n" in parsed.words
    assert "It is tried until Mon, 23 Nov 2026 02:13:20 +0000." in parsed.words
    assert parsed.groups == [
        {
            "Reporting-MTA": "dns; mx.a.example",
            "Arrival-Date": "Wed, 18 Nov 2026 11:05:00 +0000",
            "X-Pochta-Queue-Id": "q7",
        },
        {
            "Final-Recipient": "rfc822; carol@c.example",
            "Action": "delayed",
            "Status": "4.4.1",
            "Diagnostic-Code": "x-pochta; no server of c.example answers",
            "Last-Attempt-Date": "Wed, 18 Nov 2026 11:06:30 +0000",
            "Will-Retry-Until": "Mon, 23 Nov 2026 02:13:20 +0000",
        },
    ]


@pytest.mark.rfc(3464, "2.3.3")
@pytest.mark.parametrize(
    ("action", "subject", "words"),
    [
        (Action.DELIVERED, "Delivered mail", "was delivered to"),
        (Action.RELAYED, "Relayed mail", "does not confirm"),
        (Action.EXPANDED, "Forwarded mail", "several others"),
    ],
)
def test_success(action: Action, subject: str, words: str) -> None:
    one = replace(FAILED, action=action, status="2.1.5", will_retry_until=AT, final_log_id="4X12", original=None)
    parsed = composed(replace(REPORT, recipients=(one,)))
    assert parsed.fields["Subject"] == f"{subject}: bob@b.example"
    assert words in parsed.words
    # The rest is for failures and delays: no reply, no advice.
    assert "answered" not in parsed.words
    assert parsed.groups[1]["Action"] == action.value
    assert parsed.groups[1]["Final-Log-ID"] == "4X12"
    assert not {"Will-Retry-Until", "Original-Recipient"} & parsed.groups[1].keys()


def test_several_recipients() -> None:
    done = replace(FAILED, action=Action.DELIVERED, status="2.0.0", address="dave@d.example", original=None)
    parsed = composed(replace(REPORT, recipients=(done, DELAYED, FAILED)))
    assert parsed.fields["Subject"] == "Undelivered mail: 3 recipients"
    # What went wrong comes first for people; the fields keep the order they were given in.
    assert parsed.words.index("bob@") < parsed.words.index("carol@") < parsed.words.index("dave@")
    assert [group["Action"] for group in parsed.groups[1:]] == ["delivered", "delayed", "failed"]


def test_many_recipients() -> None:
    many = tuple(replace(FAILED, address=f"u{n}@b.example") for n in range(dsn.MAX_REPORTED_RECIPIENTS))
    parsed = composed(replace(REPORT, recipients=many))
    assert "<u49@b.example>" in parsed.words
    assert "u50@b.example" not in parsed.words
    assert "  and 950 more, named in the next part.\n" in parsed.words
    assert len(parsed.groups) == 1001
    with pytest.raises(LocalProtocolError):
        compose(replace(REPORT, recipients=(*many, FAILED)), boundary_token=TOKEN)


@pytest.mark.rfc(5321, "6.1")
def test_nobody_to_tell() -> None:
    with pytest.raises(LocalProtocolError):
        compose(replace(REPORT, sender=""), boundary_token=TOKEN)
    with pytest.raises(LocalProtocolError):
        compose(replace(REPORT, recipients=()), boundary_token=TOKEN)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("5.1.2", "spelled right"),
        ("5.1.8", "from your address"),
        ("5.2.2", "mailbox is full"),
        ("5.3.4", "too large"),
        ("4.4.7", "could not be reached"),
        ("5.7.26", "rules"),
        ("5.0.0", None),
    ],
)
def test_advice(status: str, advice: str | None) -> None:
    words = composed(replace(REPORT, recipients=(replace(FAILED, status=status),))).words
    for other in (
        "spelled right",
        "from your address",
        "mailbox is full",
        "too large",
        "could not be reached",
        "rules",
    ):
        assert (other in words) is (other == advice)


@pytest.mark.rfc(3464, "2.3.4")
@pytest.mark.parametrize("status", ["", "5.1", "5.01.1", "5.1.1000", "3.1.1", "5.1.1\r\nX: y", "٥.1.1"])
@pytest.mark.parametrize(
    ("action", "want"), [(Action.FAILED, "5.0.0"), (Action.DELAYED, "4.0.0"), (Action.RELAYED, "2.0.0")]
)
def test_no_status(status: str, action: Action, want: str) -> None:
    one = replace(FAILED, status=status, action=action)
    assert composed(replace(REPORT, recipients=(one,))).groups[1]["Status"] == want


# What goes back of the original.

UTF8_HEADER = "From: Änna <änna@ä.example>\r\n".encode()
LATIN1_HEADER = "From: Änna <anna@a.example>\r\n".encode("latin-1")
BROKEN = [b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n", b"a" * 999 + b"\r\n", b"a\r\r\n"]


@pytest.mark.rfc(3461, "4.3")
@pytest.mark.parametrize(
    "change",
    [
        {"returns_full": False},
        {"original_body": None},
        {"recipients": (DELAYED,)},
        {"recipients": (replace(FAILED, action=Action.DELIVERED),)},
        {"original_body": b"x" * (dsn.MAX_RETURNED_BYTES - len(HEADER) - 1)},
        *({"original_body": body} for body in BROKEN),
    ],
    ids=lambda change: str(change)[:40],
)
def test_header_only(change: dict) -> None:  # type: ignore[type-arg]
    parsed = composed(replace(REPORT, **change))
    assert parsed.types[2] == "text/rfc822-headers"
    assert parsed.bodies[2] == HEADER


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\r\n\r\n"])
def test_full(ending: bytes) -> None:
    body = (b"x" * 98 + b"\r\n") * 1000
    parsed = composed(replace(REPORT, original_header=HEADER.rstrip() + ending, original_body=body))
    assert (parsed.types[2], parsed.encodings[2]) == ("message/rfc822", "7bit")
    assert parsed.bodies[2] == HEADER + b"\r\n" + body


def test_mixed_returns_full() -> None:
    parsed = composed(replace(REPORT, recipients=(DELAYED, FAILED)))
    assert parsed.types[2] == "message/rfc822"


@pytest.mark.parametrize("header", [HEADER, LATIN1_HEADER])
def test_8bit(header: bytes) -> None:
    parsed = composed(replace(REPORT, original_header=header, original_body=b"\xe4\r\n"))
    assert (parsed.types[2], parsed.encodings[2]) == ("message/rfc822", "8bit")
    assert parsed.bodies[2] == header + b"\r\n\xe4\r\n"


@pytest.mark.rfc(6522, "4")
@pytest.mark.parametrize("header", [LATIN1_HEADER, UTF8_HEADER, *(b"X: " + text + b"Y: z\r\n" for text in BROKEN)])
def test_header_encoded(header: bytes) -> None:
    message = compose(replace(REPORT, original_header=header, returns_full=False), boundary_token=TOKEN)
    assert message.isascii()
    assert dsn._has_lawful_lines(message)
    parsed = Parsed(message)
    assert (parsed.types[2], parsed.encodings[2]) == ("text/rfc822-headers", "quoted-printable")
    assert parsed.bodies[2] == header.rstrip(b"\r\n") + b"\r\n"


@pytest.mark.rfc(6533, "4.5")
@pytest.mark.parametrize(
    ("change", "encoding"),
    [({}, "quoted-printable"), ({"takes_utf8": True}, "8bit"), ({"sender": "änna@ä.example"}, "8bit")],
    ids=str,
)
@pytest.mark.parametrize(
    ("returns_full", "content_type"), [(True, "message/global"), (False, "message/global-headers")]
)
def test_smtputf8(change: dict, encoding: str, returns_full: bool, content_type: str) -> None:  # type: ignore[type-arg]
    report = replace(
        REPORT,
        is_smtputf8=True,
        original_header=UTF8_HEADER,
        returns_full=returns_full,
        recipients=(replace(FAILED, address="böb@b.example", original="utf-8;böb@b.example"),),
        **change,
    )
    parsed = composed(report)
    assert parsed.types[1:] == ["message/global-delivery-status", content_type]
    assert parsed.encodings[1:] == [encoding, encoding]
    assert parsed.fields.get_param("report-type") == "global-delivery-status"
    assert parsed.groups[1]["Original-Recipient"] == "utf-8; böb@b.example"
    assert parsed.groups[1]["Final-Recipient"] == "utf-8; böb@b.example"
    assert "<böb@b.example>" in parsed.words
    assert parsed.bodies[2] == UTF8_HEADER + (b"\r\n" + BODY if returns_full else b"")
    # An address that only UTF-8 can write needs SMTPUTF8; nothing else does.
    head = compose(report, boundary_token=TOKEN).partition(b"\r\n\r\n")[0]
    assert head.isascii() is report.sender.isascii()


@pytest.mark.rfc(6533, "4.4")
def test_smtputf8_in_ascii() -> None:
    parsed = composed(replace(REPORT, is_smtputf8=True))
    assert parsed.types == ["text/plain", "message/delivery-status", "message/rfc822"]


def test_smtputf8_that_is_not() -> None:
    parsed = composed(replace(REPORT, is_smtputf8=True, original_header=LATIN1_HEADER))
    assert (parsed.types[2], parsed.encodings[2]) == ("message/rfc822", "8bit")


@pytest.mark.parametrize("line", [b"X: " + b"y" * 90 + b"\r\n", b"\x00", b"z"])
def test_long_header_is_cut(line: bytes) -> None:
    header = HEADER + line * (200_000 // len(line))
    body = composed(replace(REPORT, original_header=header)).bodies[2]
    assert body.startswith(HEADER.rstrip())
    assert len(body) <= dsn.MAX_RETURNED_HEADER_BYTES + 2
    assert header.startswith(body[:-2])
    if line.endswith(b"\r\n"):
        assert len(body) > dsn.MAX_RETURNED_HEADER_BYTES - 100
        assert body.endswith(line)


# Hostile peers.


def test_boundary_in_content() -> None:
    inner = f"--=_{TOKEN}--\r\n--=_{TOKEN}_\r\n".encode()
    report = replace(REPORT, original_body=inner, recipients=(replace(FAILED, remote_reply=f"550 --=_{TOKEN}__x"),))
    parsed = composed(report)
    assert parsed.fields.get_boundary() == f"=_{TOKEN}___"
    assert parsed.bodies[2] == HEADER + b"\r\n" + inner


def test_reply_with_injection() -> None:
    reply = "550 no\r\n\r\n--x\r\nFinal-Recipient: rfc822; evil@e.example\rAction: delivered\n\u202egood"
    parsed = composed(replace(REPORT, recipients=(replace(FAILED, remote_reply=reply),)))
    assert len(parsed.groups) == 2
    want = "smtp; 550 no --x Final-Recipient: rfc822; evil@e.example Action: delivered ?good"
    assert parsed.groups[1]["Diagnostic-Code"] == want
    assert parsed.groups[1]["Final-Recipient"] == "rfc822; bob@b.example"
    assert "      Action: delivered\n      ?good\n" in parsed.words


def test_long_reply() -> None:
    parsed = composed(replace(REPORT, recipients=(replace(FAILED, remote_reply="550 " + "ä" * 10_000),)))
    assert parsed.groups[1]["Diagnostic-Code"] == "smtp; 550 " + "?" * 253
    assert "      550 " + "ä" * 253 + "\n" in parsed.words
    parsed = composed(replace(REPORT, recipients=(replace(FAILED, remote_reply="550-x\n" * 10_000),)))
    assert parsed.groups[1]["Diagnostic-Code"] == "smtp; " + " ".join(["550-x"] * 5)


# Lone surrogates come from replies decoded with surrogateescape.
TEXT = st.text(alphabet=st.one_of(st.sampled_from("a <>@;:()\r\n\0\t=?-ä字\u2028\udc80"), st.characters()), max_size=60)
LONG = st.one_of(TEXT, TEXT.map(lambda text: text * 400))
MOMENTS = st.none() | st.integers(0, 2**32)
RECIPIENTS = st.builds(
    ReportedRecipient,
    address=LONG,
    action=st.sampled_from(Action),
    status=st.sampled_from(["5.1.1", "4.4.7", "2.0.0"]) | TEXT,
    original=st.none() | LONG | LONG.map(lambda text: f"utf-8;{text}"),
    remote_host=st.none() | LONG,
    remote_reply=st.none() | LONG | LONG.map(lambda text: f"550 {text}"),
    last_attempt_at=MOMENTS,
    will_retry_until=MOMENTS,
    final_log_id=st.none() | LONG,
)
OCTETS = st.lists(st.sampled_from([b"X: y", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"\xc3\xa4", b"--=_", b"a" * 600]))
REPORTS = st.builds(
    Report,
    reporting_host=LONG,
    postmaster=LONG,
    sender=LONG.filter(bool),
    message_id=LONG,
    queue_id=LONG,
    now_s=st.floats(0, 2**32),
    arrived_at=st.integers(0, 2**32),
    recipients=st.lists(RECIPIENTS, min_size=1, max_size=3).map(tuple),
    original_header=OCTETS.map(b"".join),
    original_body=st.none() | OCTETS.map(b"".join),
    returns_full=st.booleans(),
    envelope_id=st.none() | LONG,
    is_smtputf8=st.booleans(),
    takes_utf8=st.booleans(),
)


def readable(text: str) -> str:
    return "".join(character if character.isprintable() and character.isascii() else "?" for character in text[:500])


@settings(max_examples=150, deadline=None)
@given(REPORTS)
def test_whatever_comes(report: Report) -> None:
    message = compose(report, boundary_token=TOKEN)
    assert dsn._has_lawful_lines(message)
    parsed = Parsed(message)
    assert [part.get_content_type() for part in parts_agree(message)] == parsed.types
    assert parsed.fields.keys() == [
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"),
    ]
    assert len(parsed.groups) == 1 + len(report.recipients)
    assert parsed.groups[0]["Reporting-MTA"] == f"dns; {readable(report.reporting_host)}"
    for one, group in zip(report.recipients, parsed.groups[1:], strict=True):
        assert group["Action"] == one.action.value
        assert ("Original-Recipient" in group) is (one.original is not None)
        assert ("Will-Retry-Until" in group) is (one.action is Action.DELAYED and one.will_retry_until is not None)
        kind, _, address = group["Final-Recipient"].partition("; ")
        assert kind == ("rfc822" if one.address.isascii() else "utf-8")
        assert len(address.encode()) <= dsn.MAX_VALUE_BYTES
        if one.address.isascii():
            assert address == readable(one.address)
        if one.final_log_id is not None:
            assert group["Final-Log-ID"] == readable(one.final_log_id)
    header = report.original_header.rstrip(b"\r\n") + b"\r\n"
    whole = header + b"\r\n" + (report.original_body or b"")
    assert parsed.bodies[2] in (header, whole)


# Who wants to hear what.


@pytest.mark.rfc(3461, "4.1")
@pytest.mark.parametrize(
    ("notify", "wanted"),
    [
        (None, {Action.FAILED, Action.DELAYED}),
        (0, {Action.FAILED, Action.DELAYED}),
        (Notify.NEVER, set()),
        (Notify.FAILURE, {Action.FAILED}),
        (Notify.DELAY, {Action.DELAYED}),
        (Notify.SUCCESS, {Action.DELIVERED, Action.RELAYED, Action.EXPANDED}),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, set(Action)),
        (int(Notify.FAILURE), {Action.FAILED}),
    ],
)
def test_wanted(notify: Notify | int | None, wanted: set[Action]) -> None:
    assert {action for action in Action if is_wanted(notify, action)} == wanted


@pytest.mark.rfc(3461, "6.3")
@pytest.mark.parametrize(
    ("code", "enhanced", "want"),
    [
        (550, "5.1.1", "5.1.1"),
        (450, "4.7.1", "4.7.1"),
        (250, "2.1.5", "2.1.5"),
        (550, "4.7.1", "5.7.1"),
        (450, "5.1.1", "4.1.1"),
        (550, "", "5.0.0"),
        (550, "5.1", "5.0.0"),
        (550, "5.1.1 x", "5.0.0"),
        (599, "", "5.0.0"),
        (451, "", "4.0.0"),
        (421, "", "4.3.2"),
        (552, "", "5.2.2"),
        (556, "", "5.1.10"),
        (250, "", "2.0.0"),
        (354, "", "4.5.0"),
        (0, "5.1.1", "4.5.0"),
        (999, "", "4.5.0"),
    ],
)
def test_status_of(code: int, enhanced: str, want: str) -> None:
    assert status_of(code, enhanced) == want


@given(st.integers(-1000, 1000), st.text(max_size=10) | st.from_regex(r"[0-9]\.[0-9]{1,4}\.[0-9]{1,4}"))
def test_status_of_anything(code: int, enhanced: str) -> None:
    status = status_of(code, enhanced)
    assert dsn._STATUS.fullmatch(status)
    assert code // 100 not in (2, 4, 5) or status[0] == str(code)[0]


@given(st.binary(max_size=300) | OCTETS.map(b"".join))
def test_quoted_printable(text: bytes) -> None:
    encoded = dsn._quoted_printable(text)
    assert quopri.decodestring(encoded) == text
    assert encoded.isascii()
    assert max(map(len, encoded.split(b"\r\n"))) <= 76
    assert b"\n" not in encoded.replace(b"\r\n", b"")
