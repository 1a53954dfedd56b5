"""Mail to and from Postfix, both ways over TLS."""

import re
import subprocess
from collections.abc import Iterator
from email import message_from_bytes
from typing import Final

import pytest
from interop_messages import MESSAGES
from interop_sides import Account
from mta_rig import (
    DEADLINE_S,
    HOST,
    OURS,
    Greylist,
    Mta,
    Pair,
    free_port,
    letter,
    postfix,
    read_back,
    report_of,
    slug,
    wait_until,
)

from pochta.net.tls import write_self_signed

BERT: Final = "bert@postfix.test"
KINDS: Final = ["plain", "dots", "multipart", "big", "empty"]


@pytest.fixture(scope="module")
def greylist() -> Iterator[Greylist]:
    """What Postfix asks about gray."""
    with Greylist() as running:
        yield running


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, greylist: Greylist) -> Iterator[tuple[Pair, Mta]]:
    """A Pochta and a Postfix that know the way to each other."""
    identity = tmp_path_factory.mktemp("postfix")
    write_self_signed(identity / "certificate.pem", identity / "key.pem", hostname="mx.postfix.test")
    ports = {name: free_port() for name in ("plain", "clear", "broken", "old")}
    with (
        Pair("postfix.test", ports, identity / "certificate.pem") as ours,
        postfix(
            ours.server.smtp_port, ours.server.certificate, identity=identity, ports=ports, policy_port=greylist.port
        ) as other,
    ):
        yield ours, other


@pytest.fixture
def pair(both: tuple[Pair, Mta]) -> Pair:
    """Our side."""
    return both[0]


@pytest.fixture
def theirs(both: tuple[Pair, Mta]) -> Mta:
    """Postfix."""
    return both[1]


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    """What this test's account and message are called."""
    return slug(request)


@pytest.fixture
def anna(pair: Pair, mark: str) -> Account:
    """A user of Pochta, of this test's own."""
    return pair.account(mark)


def sent_by(program: Mta, sender: str, recipient: str, content: bytes, *options: str) -> None:
    """Give Postfix a message the way that programs on its machine do."""
    argv = ["sendmail", "-G", "-i", *options, "-f", sender, recipient]
    done = subprocess.run(
        argv, input=content.replace(b"\r\n", b"\n"), capture_output=True, timeout=DEADLINE_S, env=program.environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_to_postfix_whole_signed_and_over_tls(kind: str, pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    body = MESSAGES[kind].partition(b"\r\n\r\n")[2]
    original = letter(anna.address, BERT, mark, body)
    pair.send(anna, [BERT], original)
    content = theirs.wait_for("bert", mark)
    trace = read_back(content, original)
    pair.assert_signed(content)
    assert re.search(rb"\tby mx\.postfix\.test \(Postfix\) with ESMTPS id", trace)
    assert b"Received: from mx.pochta.test " in trace
    assert b"using TLSv1.3 with cipher" in trace
    assert " tls=TLSv1.3 " in pair.wait_for_attempt(BERT, "sent")


@pytest.mark.rfc(5322, "2.1.1")
def test_a_line_that_is_too_long_goes_quoted(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    pair.send(anna, [BERT], letter(anna.address, BERT, mark, b"x" * 100_000 + b"\r\nafter\r\n"))
    content = theirs.wait_for("bert", mark)
    assert max(map(len, content.splitlines())) <= 998
    assert message_from_bytes(content).get_payload(decode=True) == b"x" * 100_000 + b"\r\nafter\r\n"
    pair.assert_signed(content)


@pytest.mark.rfc(6531, "3.4")
def test_to_postfix_with_addresses_beyond_ascii(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    pair.server.add_alias("анна@pochta.test", [anna.address])
    original = letter("анна@pochta.test", "берт@postfix.test", mark, "Привет!\r\n".encode())
    pair.send(
        anna, ["берт@postfix.test"], original, mail_options=["SMTPUTF8", "BODY=8BITMIME"], sender="анна@pochta.test"
    )
    content = theirs.wait_for("bert", mark)
    assert content.startswith("Return-Path: <анна@pochta.test>\r\n".encode())
    assert b" with UTF8SMTPS id " in read_back(content, original)
    pair.assert_signed(content)


@pytest.mark.rfc(3461, "5.2.2")
def test_postfix_tells_of_success_what_was_passed_on(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    pair.send(
        anna,
        [BERT],
        letter(anna.address, BERT, mark),
        mail_options=["RET=HDRS", "ENVID=qq+2B7"],
        rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first@elsewhere.test"],
    )
    message, (about, bert) = report_of(pair.wait_for_mail(anna))
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@mx.postfix.test"
    assert about["Reporting-MTA"] == "dns; mx.postfix.test"
    assert about["Original-Envelope-Id"] == "qq+7"
    assert bert["Original-Recipient"] == "rfc822;first@elsewhere.test"
    assert bert["Action"] == "delivered"
    theirs.wait_for("bert", mark)


def test_recipients_are_told_apart_by_postfix_replies(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    recipients = [BERT, f"nobody-{mark}@postfix.test", "carl@postfix.test"]
    pair.send(anna, recipients, letter(anna.address, BERT, mark))
    message, (about, nobody) = report_of(pair.wait_for_mail(anna))
    assert about["Reporting-MTA"] == "dns; mx.pochta.test"
    assert nobody["Final-Recipient"] == f"rfc822; {recipients[1]}"
    assert (nobody["Action"], nobody["Status"]) == ("failed", "5.1.1")
    assert nobody["Remote-MTA"] == "dns; mx.postfix.test"
    assert "User unknown in virtual mailbox table" in nobody["Diagnostic-Code"]
    assert "carl@postfix.test" not in message.get_body(("plain",)).get_content()
    theirs.wait_for("bert", mark)
    theirs.wait_for("carl", mark)


def test_a_large_message_goes_by_chunks(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    original = letter(anna.address, BERT, mark, b"".join(b"%073d\r\n" % number for number in range(40_000)))
    pair.send(anna, [BERT], original)
    content = theirs.wait_for("bert", mark)
    read_back(content, original)
    pair.assert_signed(content)
    assert "bdat=" in theirs.wait_for_log("disconnect from", "bdat=")


def test_a_greylisting_postfix_is_asked_again(
    pair: Pair, theirs: Mta, greylist: Greylist, anna: Account, mark: str
) -> None:
    recipients = ["gray@postfix.test", "carl@postfix.test"]
    pair.send(anna, recipients, letter(anna.address, recipients[0], mark))
    theirs.wait_for("gray", mark)
    theirs.wait_for("carl", mark)
    first, second = pair.attempts("gray@postfix.test")
    assert "outcome=deferred " in first
    assert "450 4.7.1" in first
    assert "outcome=sent " in second
    assert greylist.asked == 2
    assert anna.contents("INBOX") == []


def test_required_tls_goes_by_a_certificate_that_names_the_host(
    pair: Pair, theirs: Mta, anna: Account, mark: str
) -> None:
    to = "bert@strict.postfix.test"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert b"using TLSv1.3" in theirs.wait_for("bert", mark)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [("impostor.postfix.test", "certificate not accepted"), ("strict-clear.postfix.test", "does not offer TLS")],
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
    to = "bert@clear.postfix.test"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert b"(Postfix) with ESMTP id" in theirs.wait_for("bert", mark)
    assert " tls=" not in pair.wait_for_attempt(to, "sent")


@pytest.mark.rfc(7435, "3")
def test_where_the_handshake_fails_mail_goes_in_the_clear(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    to = "bert@broken.postfix.test"
    pair.send(anna, [to], letter(anna.address, to, mark))
    assert b"(Postfix) with ESMTP id" in theirs.wait_for("bert", mark)
    theirs.wait_for_log("SSL_accept error from localhost")
    [attempt] = pair.attempts(to)
    assert " tls=" not in attempt


@pytest.mark.rfc(6152, "3")
def test_an_old_server_gets_seven_bits_signed_as_they_are(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    to = "bert@old.postfix.test"
    header = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    pair.send(
        anna, [to], letter(anna.address, to, mark, "Привет!\r\n".encode(), header), mail_options=["BODY=8BITMIME"]
    )
    content = theirs.wait_for("bert", mark)
    assert content.isascii()
    assert message_from_bytes(content).get_payload(decode=True) == "Привет!\r\n".encode()
    pair.assert_signed(content)


def test_an_old_server_cannot_have_addresses_beyond_ascii(pair: Pair, anna: Account, mark: str) -> None:
    to = "берт@old.postfix.test"
    pair.send(anna, [to], letter(anna.address, BERT, mark), mail_options=["SMTPUTF8"])
    report = pair.wait_for_mail(anna)
    assert b"\r\nContent-Type: message/global-delivery-status\r\n" in report
    assert f"\r\nFinal-Recipient: utf-8; {to}\r\nAction: failed\r\nStatus: 5.6.7\r\n".encode() in report


@pytest.mark.parametrize("kind", [*KINDS, "eight_bit", "utf8"])
def test_from_postfix_whole_and_over_verified_tls(kind: str, pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    content = MESSAGES[kind]
    sent_by(theirs, BERT, anna.address, content)
    received = pair.wait_for_mail(anna)
    trace = read_back(received, content)
    assert b"\r\nReturn-Path: <bert@postfix.test>\r\n" in trace
    assert b"spf=pass" in trace
    assert re.search(rb"by mx\.pochta\.test with (?:ESMTPS|UTF8SMTPS) id", trace)
    theirs.wait_for_log("Verified TLS connection established to 127.0.0.1", "TLSv1.3")


@pytest.mark.rfc(6531, "3.4")
def test_from_postfix_with_addresses_beyond_ascii(pair: Pair, theirs: Mta, anna: Account, mark: str) -> None:
    pair.server.add_alias("анна-и-берт@pochta.test", [anna.address])
    content = letter("берт@postfix.test", "анна-и-берт@pochta.test", mark, "Привет!\r\n".encode())
    sent_by(theirs, "берт@postfix.test", "анна-и-берт@pochta.test", content)
    received = pair.wait_for_mail(anna)
    assert "\r\nReturn-Path: <берт@postfix.test>\r\n".encode() in received
    assert b" with UTF8SMTPS id " in read_back(received, content)


def test_postfix_tells_its_user_that_there_is_no_such_user(theirs: Mta, mark: str) -> None:
    to = f"nobody-{mark}@{OURS}"
    sent_by(theirs, BERT, to, letter(BERT, to, mark))
    _, (_, nobody) = report_of(theirs.wait_for("bert", to))
    assert (nobody["Action"], nobody["Status"]) == ("failed", "5.1.1")
    assert "550 5.1.1 There is no such user here" in nobody["Diagnostic-Code"]


@pytest.mark.rfc(3461, "5.2.2")
def test_success_that_postfix_asked_for_is_told(theirs: Mta, anna: Account, mark: str) -> None:
    sent_by(theirs, BERT, anna.address, letter(BERT, anna.address, mark), "-N", "success", "-V", mark, "-R", "hdrs")
    content = theirs.wait_for("bert", f"Original-Envelope-Id: {mark}")
    _, (about, user) = report_of(content)
    assert about["Reporting-MTA"] == "dns; mx.pochta.test"
    assert user["Action"] == "delivered"
    assert user["Original-Recipient"] == f"rfc822; {anna.address}"


def test_many_sessions_of_postfix_at_once(pair: Pair, theirs: Mta, anna: Account) -> None:
    argv = ["smtp-source", "-s", "10", "-m", "100", "-l", "5000", "-f", BERT, "-t", anna.address]
    server = f"inet:{HOST}:{pair.server.smtp_port}"
    subprocess.run([*argv, server], check=True, timeout=DEADLINE_S, env=theirs.environment)
    wait_until(lambda: len(anna.contents("INBOX")) == 100, lambda: len(anna.contents("INBOX")))


@pytest.mark.parametrize(
    ("level", "words", "verdict"),
    [
        ("may", [], "Untrusted TLS connection established"),
        ("verify", ["mx.pochta.test"], "Verified TLS connection established"),
        ("verify", ["mx.other.test"], "num=62:hostname mismatch"),
    ],
    ids=["any certificate", "ours", "another name"],
)
def test_posttls_finger(level: str, words: list[str], verdict: str, pair: Pair, theirs: Mta) -> None:
    trust = ["-F", str(theirs.folder / "ours.pem")] if words else []
    argv = ["posttls-finger", "-c", "-l", level, *trust, f"[{HOST}]:{pair.server.smtp_port}", *words]
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, env=theirs.environment)
    assert verdict in (done.stdout + done.stderr).decode()
