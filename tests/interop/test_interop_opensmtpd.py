"""Mail to and from OpenSMTPD, both ways over TLS. It has neither PIPELINING nor CHUNKING nor SMTPUTF8."""

import re
import smtplib
from collections.abc import Iterator
from typing import Final

import pytest
from interop_messages import MESSAGES
from interop_sides import Account
from mta_rig import HOST, OURS, Mta, Pair, free_port, letter, opensmtpd, read_back, report_of, slug

from pochta.net.tls import write_self_signed

BERT: Final = "bert@opensmtpd.test"
KINDS: Final = ["plain", "dots", "multipart", "big", "empty"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Mta]]:
    """A Pochta and an OpenSMTPD that know the way to each other."""
    identity = tmp_path_factory.mktemp("opensmtpd")
    write_self_signed(identity / "certificate.pem", identity / "key.pem", hostname="mx.opensmtpd.test")
    ports = {name: free_port() for name in ("plain", "clear")}
    with (
        Pair("opensmtpd.test", ports, identity / "certificate.pem") as ours,
        opensmtpd(ours.server.smtp_port, ours.server.certificate, identity=identity, ports=ports) as other,
    ):
        yield ours, other


@pytest.fixture
def pair(both: tuple[Pair, Mta]) -> Pair:
    """Our side."""
    return both[0]


@pytest.fixture
def theirs(both: tuple[Pair, Mta]) -> Mta:
    """OpenSMTPD."""
    return both[1]


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    """What this test's account and message are called."""
    return slug(request)


@pytest.fixture
def anna(pair: Pair, mark: str) -> Account:
    """A user of Pochta, of this test's own."""
    return pair.account(mark)


def sent_by(theirs: Mta, recipient: str, content: bytes, *, rcpt_options: tuple[str, ...] = ()) -> None:
    """Give OpenSMTPD a message of bert's."""
    with smtplib.SMTP(HOST, theirs.ports["plain"], "desk.opensmtpd.test", timeout=30) as smtp:
        assert smtp.sendmail(BERT, [recipient], content, ["BODY=8BITMIME"], rcpt_options) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_to_opensmtpd_whole_signed_and_over_tls(kind: str, pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    body = MESSAGES[kind].partition(b"\r\n\r\n")[2]
    original = letter(anna.address, BERT, mark, body)
    pair.send(anna, [BERT], original)
    content = theirs.wait_for("bert", mark)
    trace = read_back(content, original)
    pair.assert_signed(content)
    assert re.search(rb"\tby mx\.opensmtpd\.test \(OpenSMTPD\) with ESMTPS id \S+ \(TLSv1\.3:", trace)
    assert " tls=TLSv1.3 " in pair.wait_for_attempt(BERT, "sent")


@pytest.mark.rfc(6152, "3")
def test_to_opensmtpd_with_eight_bits(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    header = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    original = letter(anna.address, BERT, mark, "Привет!\r\n".encode(), header)
    pair.send(anna, [BERT], original, mail_options=["BODY=8BITMIME"])
    read_back(theirs.wait_for("bert", mark), original)


@pytest.mark.rfc(6531, "3.2")
@pytest.mark.parametrize(
    ("to", "header", "status"),
    [("берт@opensmtpd.test", "", "5.6.7"), (BERT, "X-Raw: Отчёт\r\n", "5.6.9")],
    ids=["address", "header"],
)
def test_what_needs_smtputf8_comes_back(
    to: str, header: str, status: str, pair: Pair, theirs: Mta, anna: Account, mark: str
) -> None:
    pair.send(anna, [to], letter(anna.address, BERT, mark, header=header), mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    report = pair.wait_for_mail(anna)
    assert f"\r\nStatus: {status}\r\n".encode() in report
    assert not any(mark.encode() in one for one in theirs.mail("bert"))


def test_recipients_are_told_apart_by_opensmtpd_replies(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    recipients = [BERT, f"nobody-{mark}@opensmtpd.test", "carl@opensmtpd.test"]
    pair.send(anna, recipients, letter(anna.address, BERT, mark))
    _, (_, nobody) = report_of(pair.wait_for_mail(anna))
    assert nobody["Final-Recipient"] == f"rfc822; {recipients[1]}"
    assert (nobody["Action"], nobody["Remote-MTA"]) == ("failed", "dns; mx.opensmtpd.test")
    assert nobody["Diagnostic-Code"].startswith("smtp; 524 5.2.4 ")
    theirs.wait_for("bert", mark)
    theirs.wait_for("carl", mark)


@pytest.mark.rfc(3461, "5.2.2")
def test_opensmtpd_tells_of_success(pair: Pair, anna: Account, mark: str) -> None:
    pair.send(
        anna,
        [BERT],
        letter(anna.address, BERT, mark),
        mail_options=["RET=HDRS", f"ENVID={mark}"],
        rcpt_options=["NOTIFY=SUCCESS"],
    )
    content = pair.wait_for_mail(anna)
    assert b"\r\nReturn-Path: <>\r\n" in content
    assert b"\r\nFrom: Mailer Daemon <MAILER-DAEMON@mx.opensmtpd.test>\r\n" in content
    assert b"\r\nFinal-Recipient: rfc822; bert@opensmtpd.test\r\nAction: delivered\r\n" in content


def test_required_tls_goes_by_a_certificate_that_names_the_host(
    pair: Pair, theirs: Mta, anna: Account, mark: str
) -> None:
    to = "bert@strict.opensmtpd.test"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert b"with ESMTPS id" in theirs.wait_for("bert", mark)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [("impostor.opensmtpd.test", "certificate not accepted"), ("strict-clear.opensmtpd.test", "does not offer TLS")],
    ids=["another name", "no TLS"],
)
def test_required_tls_keeps_mail_from_whom_it_cannot_trust(
    domain: str, reason: str, pair: Pair, theirs: Mta, anna: Account, mark: str
) -> None:
    to = f"bert@{domain}"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert reason in pair.wait_for_attempt(to, "deferred")
    assert not any(mark.encode() in one for one in theirs.mail("bert"))


def test_without_an_offer_mail_goes_in_the_clear(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    to = "bert@clear.opensmtpd.test"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert b"(OpenSMTPD) with ESMTP id" in theirs.wait_for("bert", mark)
    assert " tls=" not in pair.wait_for_attempt(to, "sent")


@pytest.mark.parametrize("kind", [*KINDS, "eight_bit", "utf8"])
def test_from_opensmtpd_whole_and_over_verified_tls(kind: str, pair: Pair, theirs: Mta, anna: Account) -> None:
    sent_by(theirs, anna.address, MESSAGES[kind])
    trace = read_back(pair.wait_for_mail(anna), MESSAGES[kind])
    assert b"\r\nReturn-Path: <bert@opensmtpd.test>\r\n" in trace
    assert re.search(rb"by mx\.pochta\.test with ESMTPS id", trace)
    theirs.wait_for_log("mta cert-check", 'result="valid"')


def test_opensmtpd_tells_its_user_that_there_is_no_such_user(theirs: Mta, mark: str) -> None:
    to = f"nobody-{mark}@{OURS}"
    sent_by(theirs, to, letter(BERT, to, mark))
    bounce = theirs.wait_for("bert", to)
    assert b"550 5.1.1 There is no such user here" in bounce
    assert b"From: Mailer Daemon <MAILER-DAEMON@" in bounce


@pytest.mark.rfc(3461, "5.2.2")
def test_success_that_opensmtpd_asked_for_is_told(theirs: Mta, anna: Account, mark: str) -> None:
    sent_by(theirs, anna.address, letter(BERT, anna.address, mark), rcpt_options=("NOTIFY=SUCCESS",))
    _, (about, user) = report_of(theirs.wait_for("bert", mark))
    assert about["Reporting-MTA"] == "dns; mx.pochta.test"
    assert user["Action"] == "delivered"
