"""Every parameter of MAIL and RCPT that may be offered: what is taken, what is refused, and what the driver is told."""

from typing import Any

import pytest
from smtp_driver import HELLO, codes, connect, ways

from pochta.proto.address import Address
from pochta.proto.smtp import events
from pochta.proto.smtp.events import Body, ByMode, Mail, Notify, Rcpt, Ret
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.offers import FutureRelease, Offers

rfc = pytest.mark.rfc
YEAR_2030 = 1893456000
ALL = Offers(
    dsn=True,
    binarymime=True,
    requiretls=True,
    limits=True,
    future_release=FutureRelease(86400, YEAR_2030),
    deliver_by_min_s=60,
    mt_priority="MIXER",
)
OK, SYNTAX, UNKNOWN = "250 2.1.0", "501 5.5.4", "555 5.5.4"
SENDER = Address("a", "b")


def mail_of(parameters: str, **settings: Any) -> tuple[str, Mail | None]:
    """The reply to MAIL with these parameters, the same at every cut, and the question that was asked."""
    wire = HELLO + b"MAIL FROM:<a@b> " + parameters.encode() + b"\r\n"
    found = []
    for chunks in ways(wire):
        driver = connect(**{"is_secure": True, "offers": ALL, **settings})
        reply = codes(driver.feed_all(chunks))[-1]
        asked = [event for event in driver.events if isinstance(event, Mail)]
        found.append((reply, asked[0] if asked else None))
    assert found[0] == found[1]
    return found[0]


def rcpt_of(parameters: str, mail: str = "", **settings: Any) -> tuple[str, Rcpt | None]:
    """The same for RCPT."""
    wire = HELLO + f"MAIL FROM:<a@b>{mail}\r\nRCPT TO:<c@d> {parameters}\r\n".encode()
    found = []
    for chunks in ways(wire):
        driver = connect(**{"is_secure": True, "offers": ALL, **settings})
        reply = codes(driver.feed_all(chunks))[-1]
        asked = [event for event in driver.events if isinstance(event, Rcpt)]
        found.append((reply, asked[0] if asked else None))
    assert found[0] == found[1]
    return found[0]


def taken(text: str, mark: pytest.MarkDecorator, **fields: Any) -> object:
    return pytest.param(text, Mail(SENDER, **fields), id=text, marks=mark)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        taken("RET=FULL", rfc(3461, "4.3"), ret=Ret.FULL),
        taken("ret=hdrs", rfc(3461, "4.3"), ret=Ret.HDRS),
        taken("ENVID=QQ314159", rfc(3461, "4.4"), envelope_id="QQ314159"),
        taken("ENVID=a+2Bb+3D+20c+09d", rfc(3461, "4.4"), envelope_id="a+b= c\td"),
        taken("BODY=7BIT", rfc(3030, "3")),
        taken("BODY=8bitMIME", rfc(3030, "3"), body=Body.EIGHT_BIT),
        taken("body=binarymime", rfc(3030, "3"), body=Body.BINARY),
        taken("REQUIRETLS", rfc(8689, "2"), requires_tls=True),
        taken("HOLDFOR=1", rfc(4865, "3"), hold_for_s=1),
        taken("HOLDFOR=86400", rfc(4865, "3"), hold_for_s=86400),
        taken("HOLDUNTIL=2026-11-23T17:32:08Z", rfc(4865, "3"), hold_until=1795455128),
        taken("holduntil=2026-11-23t17:32:08.999z", rfc(4865, "3"), hold_until=1795455128),
        taken("HOLDUNTIL=2026-11-23T18:32:08+01:00", rfc(4865, "3"), hold_until=1795455128),
        taken("HOLDUNTIL=2030-01-01T00:00:00Z", rfc(4865, "3"), hold_until=YEAR_2030),
        taken("HOLDUNTIL=1970-01-01T00:00:00Z", rfc(4865, "3"), hold_until=0),
        taken("BY=60;R", rfc(2852, "4"), deliver_by_s=60, deliver_by_mode=ByMode.RETURN),
        taken("BY=+120;n", rfc(2852, "4"), deliver_by_s=120, deliver_by_mode=ByMode.NOTIFY),
        taken(
            "BY=-999999999;NT", rfc(2852, "4"), deliver_by_s=-999999999, deliver_by_mode=ByMode.NOTIFY,
            deliver_by_trace=True,
        ),
        taken("BY=0;N", rfc(2852, "4"), deliver_by_s=0, deliver_by_mode=ByMode.NOTIFY),
        taken("MT-PRIORITY=9", rfc(6710, "3"), priority=9),
        taken("MT-PRIORITY=-9", rfc(6710, "3"), priority=-9),
        taken("mt-priority=0", rfc(6710, "3"), priority=0),
        taken(
            "HOLDFOR=60 BY=61;R", rfc(4865, "3"), hold_for_s=60, deliver_by_s=61, deliver_by_mode=ByMode.RETURN
        ),
        taken("HOLDFOR=60 BY=1;N", rfc(4865, "3"), hold_for_s=60, deliver_by_s=1, deliver_by_mode=ByMode.NOTIFY),
        taken(
            "SIZE=9 BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=x REQUIRETLS MT-PRIORITY=1", rfc(3461, "5.4"),
            size=9, body=Body.BINARY, is_smtputf8=True, ret=Ret.HDRS, envelope_id="x", requires_tls=True, priority=1,
        ),
        taken("SIZE=9", rfc(1870, "5"), size=9),
    ],
)  # fmt: skip
def test_what_mail_takes(text: str, want: Mail) -> None:
    assert mail_of(text) == (OK, want)


def refused(text: str, reply: str, mark: pytest.MarkDecorator) -> object:
    return pytest.param(text, reply, id=text[:60], marks=mark)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        *(refused(text, SYNTAX, rfc(3461, "4.3")) for text in ("RET", "RET=ALL", "RET=", "RET=FULLX", "RET=FULL,HDRS")),
        *(
            refused(text, SYNTAX, rfc(3461, "4.4"))
            for text in (
                "ENVID", "ENVID=", "ENVID=a+2b", "ENVID=+0D+0A", "ENVID=+C3+BC", "ENVID=ü", "ENVID=" + "x" * 101,
            )
        ),
        *(refused(text, SYNTAX, rfc(3461, "4.5")) for text in ("RET=FULL RET=FULL", "ENVID=a RET=HDRS envid=b")),
        *(refused(text, SYNTAX, rfc(3030, "3")) for text in ("BODY=BINARY", "BODY=BINARYMIME2", "BODY")),
        *(refused(text, SYNTAX, rfc(8689, "2")) for text in ("REQUIRETLS=YES", "REQUIRETLS REQUIRETLS")),
        *(
            refused(text, SYNTAX, rfc(4865, "3"))
            for text in (
                "HOLDFOR", "HOLDFOR=0", "HOLDFOR=-1", "HOLDFOR=01", "HOLDFOR=1234567890", "HOLDFOR=x", "HOLDFOR=86401",
                "HOLDFOR=1 HOLDUNTIL=2026-11-23T17:32:08Z", "HOLDFOR=60 BY=60;R", "HOLDUNTIL",
                "HOLDUNTIL=2026-11-23", "HOLDUNTIL=2026-11-23T17:32:08", "HOLDUNTIL=2026-02-30T00:00:00Z",
                "HOLDUNTIL=2026-01-01T24:00:00Z", "HOLDUNTIL=2026-01-01T00:00:00+24:00",
                "HOLDUNTIL=0000-01-01T00:00:00Z", "HOLDUNTIL=2030-01-01T00:00:01Z",
                "HOLDUNTIL=9999-12-31T23:59:59-23:59", "HOLDUNTIL=20260101T000000Z", "HOLDUNTIL=2026-01-01T00:00:00.Z",
            )
        ),
        *(
            refused(text, SYNTAX, rfc(2852, "4"))
            for text in (
                "BY", "BY=60", "BY=60;", "BY=60;X", "BY=60;RTT", "BY=60;T", "BY=1234567890;N", "BY=0;R", "BY=-1;R",
                "BY=59;R", "BY=--1;N", "BY=;N", "BY=60;R;T",
            )
        ),
        *(
            refused(text, SYNTAX, rfc(6710, "3"))
            for text in ("MT-PRIORITY", "MT-PRIORITY=10", "MT-PRIORITY=-0", "MT-PRIORITY=+1", "MT-PRIORITY=x")
        ),
        refused("SIZE=" + "9" * 21, SYNTAX, rfc(1870, "5")),
        refused("NOTIFY=NEVER", UNKNOWN, rfc(5321, "4.1.1.11")),
        refused("ORCPT=rfc822;a@b", UNKNOWN, rfc(5321, "4.1.1.11")),
    ],
)  # fmt: skip
def test_what_mail_refuses(text: str, reply: str) -> None:
    assert mail_of(text) == (reply, None)


@rfc(5321, "4.1.1.11")
@pytest.mark.parametrize(
    "text",
    [
        "RET=FULL", "ENVID=x", "REQUIRETLS", "HOLDFOR=1", "HOLDUNTIL=2026-11-23T17:32:08Z", "BY=60;R", "MT-PRIORITY=1",
        # not looked at any closer
        "RET", "BY=x",
    ],
)  # fmt: skip
def test_what_is_not_offered_is_unknown(text: str) -> None:
    assert mail_of(text, offers=Offers()) == (UNKNOWN, None)


@rfc(8689, "2")
def test_requiretls_needs_tls() -> None:
    assert mail_of("REQUIRETLS", is_secure=False) == (UNKNOWN, None)
    assert "REQUIRETLS" not in connect(offers=ALL).feed(HELLO).decode()


@rfc(8689, "2")
def test_requiretls_is_offered_behind_starttls() -> None:
    driver = connect(offers=ALL)
    assert b"REQUIRETLS" not in driver.feed(HELLO)
    driver.feed(b"STARTTLS\r\n")
    assert b"\r\n250-REQUIRETLS\r\n" in driver.feed(HELLO)


@rfc(3461, "4.4")
def test_an_envid_of_100_characters() -> None:
    assert mail_of("ENVID=" + "+41" * 33 + "x") == (OK, Mail(SENDER, envelope_id="A" * 33 + "x"))


def rcpt_taken(text: str, notify: Notify | None, original: str | None, mark: pytest.MarkDecorator) -> object:
    return pytest.param(text, Rcpt(Address("c", "d"), notify, original), id=text[:60], marks=mark)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        rcpt_taken("NOTIFY=NEVER", Notify.NEVER, None, rfc(3461, "4.1")),
        rcpt_taken("notify=success", Notify.SUCCESS, None, rfc(3461, "4.1")),
        rcpt_taken("NOTIFY=Failure,DELAY", Notify.FAILURE | Notify.DELAY, None, rfc(3461, "4.1")),
        rcpt_taken(
            "NOTIFY=SUCCESS,FAILURE,DELAY", Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, None, rfc(3461, "4.1")
        ),
        rcpt_taken("ORCPT=rfc822;Bob+2Bx@ivory.edu", None, "rfc822;Bob+x@ivory.edu", rfc(3461, "4.2")),
        rcpt_taken("ORCPT=RFC822;c@d NOTIFY=DELAY", Notify.DELAY, "rfc822;c@d", rfc(3461, "4.2")),
        rcpt_taken("ORCPT=x400;/S+3Dx/C+3Dde/", None, "x400;/S=x/C=de/", rfc(3461, "4.2")),
        rcpt_taken(r"ORCPT=utf-8;\x{FC}\x{2B}x@d", None, "utf-8;ü+x@d", rfc(6533, "3")),
        rcpt_taken("ORCPT=UTF-8;a@d", None, "utf-8;a@d", rfc(6533, "3")),
        # not of its type: kept as it stands
        rcpt_taken("ORCPT=utf-8;a+2Bb@d", None, "utf-8;a+2Bb@d", rfc(6533, "3")),
        rcpt_taken(r"ORCPT=utf-8;\x{41}@d", None, r"utf-8;\x{41}@d", rfc(6533, "3")),
        rcpt_taken("ORCPT=rfc822;" + "x" * 493, None, "rfc822;" + "x" * 493, rfc(3461, "5.4")),
    ],
)
def test_what_rcpt_takes(text: str, want: Rcpt) -> None:
    assert rcpt_of(text) == ("250 2.1.5", want)


@rfc(6533, "3")
def test_an_orcpt_in_utf8_needs_smtputf8() -> None:
    want = Rcpt(Address("c", "d"), None, "utf-8;ü中@d")
    assert rcpt_of("ORCPT=utf-8;ü中@d", " SMTPUTF8") == ("250 2.1.5", want)
    assert rcpt_of("ORCPT=utf-8;ü中@d") == ("553 5.6.7", None)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        *(
            refused(text, SYNTAX, rfc(3461, "4.1"))
            for text in (
                "NOTIFY", "NOTIFY=", "NOTIFY=NEVER,DELAY", "NOTIFY=SUCCESS,NEVER", "NOTIFY=SUCCESS,", "NOTIFY=,SUCCESS",
                "NOTIFY=ALWAYS", "NOTIFY=SUCCESS;DELAY",
            )
        ),
        *(
            refused(text, SYNTAX, rfc(3461, "4.2"))
            for text in (
                "ORCPT", "ORCPT=", "ORCPT=a@b", "ORCPT=;a@b", "ORCPT=rfc822;", "ORCPT=rfc 822;a", "ORCPT=rfc822;a+2b",
                "ORCPT=rfc822;+0D+0AX", "ORCPT=rfc822;+C3+BC", "ORCPT=rfc822;ü@d", "ORCPT=rfc.822;a@b",
                "ORCPT=rfc822;" + "x" * 494,
            )
        ),
        *(
            refused(text, SYNTAX, rfc(6533, "3"))
            for text in (r"ORCPT=utf-8;\x{0A}@d", r"ORCPT=utf-8;\x{85}@d", r"ORCPT=utf-8;\x{2028}@d", "ORCPT=utf-8;")
        ),
        *(
            refused(text, SYNTAX, rfc(3461, "4.5"))
            for text in ("NOTIFY=DELAY NOTIFY=DELAY", "ORCPT=rfc822;a NOTIFY=NEVER orcpt=rfc822;a")
        ),
        refused("RET=FULL", UNKNOWN, rfc(5321, "4.1.1.11")),
        refused("NOTIFY=NEVER X=1", UNKNOWN, rfc(5321, "4.1.1.11")),
    ],
)  # fmt: skip
def test_what_rcpt_refuses(text: str, reply: str) -> None:
    assert rcpt_of(text) == (reply, None)


@rfc(5321, "4.1.1.11")
@pytest.mark.parametrize("text", ["NOTIFY=NEVER", "ORCPT=rfc822;a@b", "NOTIFY", "ORCPT"])
def test_rcpt_without_dsn(text: str) -> None:
    assert rcpt_of(text, offers=Offers()) == (UNKNOWN, None)


@pytest.mark.parametrize(
    ("offers", "line"),
    [
        pytest.param(Offers(dsn=True), "DSN", id="DSN", marks=rfc(3461, "3")),
        pytest.param(Offers(binarymime=True), "BINARYMIME", id="BINARYMIME", marks=rfc(3030, "3")),
        pytest.param(Offers(requiretls=True), "REQUIRETLS", id="REQUIRETLS", marks=rfc(8689, "2")),
        pytest.param(Offers(limits=True), "LIMITS RCPTMAX=3", id="RCPTMAX", marks=rfc(9422, "4")),
        pytest.param(
            Offers(future_release=FutureRelease(86400, YEAR_2030)), "FUTURERELEASE 86400 2030-01-01T00:00:00Z",
            id="FUTURERELEASE", marks=rfc(4865, "3"),
        ),
        pytest.param(Offers(deliver_by_min_s=0), "DELIVERBY", id="DELIVERBY", marks=rfc(2852, "4")),
        pytest.param(Offers(deliver_by_min_s=240), "DELIVERBY 240", id="DELIVERBY min", marks=rfc(2852, "4")),
        pytest.param(Offers(mt_priority=""), "MT-PRIORITY", id="MT-PRIORITY", marks=rfc(6710, "3")),
        pytest.param(Offers(mt_priority="MIXER"), "MT-PRIORITY MIXER", id="MT-PRIORITY policy", marks=rfc(6710, "3")),
    ],
)  # fmt: skip
def test_what_ehlo_says(offers: Offers, line: str) -> None:
    driver = connect(offers=offers, is_secure=True)
    said = {one[4:] for one in driver.feed(HELLO).decode().splitlines()}
    plain = {one[4:] for one in connect(is_secure=True).feed(HELLO).decode().splitlines()}
    assert said - plain == {line}
    assert connect(offers=ALL).feed(b"HELO x\r\n") == b"250 mx.example\r\n"


TWO = SmtpLimits(max_message_bytes=1000, max_recipients=3, max_transactions=2)
MAIL = b"MAIL FROM:<a@b>\r\n"


@rfc(9422, "4.1")
def test_a_connection_has_its_number_of_transactions() -> None:
    for chunks in ways(HELLO + (MAIL + b"RSET\r\n") * 3 + b"NOOP\r\n"):
        driver = connect(limits=TWO, offers=Offers(limits=True))
        sent = driver.feed_all(chunks)
        assert b"\r\n250-LIMITS RCPTMAX=3 MAILMAX=2\r\n" in sent
        assert codes(sent) == ["250", *[OK, "250 2.0.0"] * 2, "421 4.5.3"]
        assert driver.events[-1] == events.Closed(events.CloseReason.TOO_MANY_TRANSACTIONS)
        assert driver.server.is_closed


@rfc(9422, "4.1")
def test_refused_senders_count_and_those_out_of_order_do_not() -> None:
    driver = connect(limits=TWO)
    sent = driver.feed(MAIL + HELLO + b"MAIL FROM:<no@b>\r\n" + MAIL + MAIL + b"RSET\r\n" + MAIL)
    assert codes(sent) == ["503 5.5.1", "250", "550 5.1.1", OK, "503 5.5.1", "250 2.0.0", "421 4.5.3"]


@rfc(3461, "5.4")
def test_the_longest_lawful_lines_are_taken() -> None:
    path = b"<" + b"a" * 64 + b"@" + b".".join([b"d" * 60] * 3) + b">"
    driver = connect(is_secure=True, offers=ALL, auth_mechanisms=("PLAIN",))
    mail = (
        b"MAIL FROM:" + path + b" SIZE=00000000000000000009 BODY=BINARYMIME SMTPUTF8 RET=FULL ENVID=" + b"+41" * 33
        + b" REQUIRETLS HOLDUNTIL=2026-11-23T17:32:08+00:00 BY=+99999999;RT MT-PRIORITY=-9 AUTH=" + b"+61" * 64 + b"@b"
    )  # fmt: skip
    rcpt = b"RCPT TO:" + path + b" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + b"+41" * 164
    assert codes(driver.feed(HELLO + mail + b"\r\n" + rcpt + b"\r\n")) == ["250", OK, "250 2.1.5"]
