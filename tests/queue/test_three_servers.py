"""Mail between servers that run in one process and find each other by DNS: real sockets, stores, TLS and signatures."""

import re
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from world_rig import PASSWORD, World, mails, make_server, text, wait_for, world

ANNA, POST = "anna@a.test", "post@a.test"
BERT, CARL = "bert@b.test", "carl@c.test"
RITA = "rita@relay.test"
OLGA = "olga@office.test"  # of a, and of the relay that she sends by
HOUR, DAY = 3600, 86_400


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.wait_until_empty()


def status_of(report: EmailMessage) -> EmailMessage:
    """The fields about the one recipient."""
    assert report["Return-Path"] == "<>"
    assert report["Auto-Submitted"] == "auto-replied"
    _, status, _ = report.iter_parts()
    _, recipient = status.iter_parts()
    return recipient


def results_of(letter: EmailMessage) -> str:
    """The one field Authentication-Results of b, without folding."""
    found = [" ".join(one.split()) for one in letter.get_all("Authentication-Results")]
    (only,) = [one for one in found if one.startswith("mx.b.test")]
    return only


@pytest.mark.rfc(5321, "5.1")
def test_by_mx_over_tls(servers: World) -> None:
    servers.submit(servers.a, ANNA, BERT, "by mx")
    letter = servers.letter(servers.b, BERT, "by mx")
    received = letter.get_all("Received")
    assert len(received) == 2
    assert "from mx.a.test ([127.0.0.2]) by mx.b.test with ESMTPS" in " ".join(received[0].split())
    assert letter["Return-Path"] == f"<{ANNA}>"
    assert ("b.test", "MX") in servers.names.queries


@pytest.mark.rfc(6376, "6.1")
@pytest.mark.rfc(8601, "5")
def test_signed_here_and_verified_there(servers: World) -> None:
    forged = "Authentication-Results: mx.b.test; dkim=pass header.d=bank.test"
    servers.submit(servers.a, ANNA, BERT, "signed", forged)
    letter = servers.letter(servers.b, BERT, "signed")
    results = results_of(letter)
    assert results.startswith("mx.b.test;")
    assert "spf=pass smtp.mailfrom=a.test" in results
    assert "dmarc=pass header.from=a.test" in results
    assert re.findall(r"dkim=(\w+)", results) == ["pass", "pass"]
    assert "iprev=pass" in results
    assert "bank.test" not in results
    algorithms = {re.search(r"a=([a-z0-9-]+)", one)[1] for one in letter.get_all("DKIM-Signature")}  # type: ignore[index]
    assert algorithms == {"rsa-sha256", "ed25519-sha256"}


@pytest.mark.rfc(8601, "5")
def test_a_strangers_forged_results_are_removed(servers: World) -> None:
    forged = "Authentication-Results: mx.b.test; spf=pass smtp.mailfrom=evil.test"
    servers.inject(servers.b, "x@evil.test", BERT, text("x@evil.test", BERT, "forged", forged))
    results = results_of(servers.letter(servers.b, BERT, "forged"))
    assert "spf=none" in results
    assert "spf=pass" not in results


@pytest.mark.rfc(9989, "7.4")
def test_policies_of_dmarc_are_kept(servers: World) -> None:
    with pytest.raises(smtplib.SMTPDataError) as raised:
        servers.inject(servers.b, "x@evil.test", BERT, text("boss@strict.test", BERT, "spoofed"))
    assert raised.value.smtp_code == 550
    assert b"5.7.26" in raised.value.smtp_error
    servers.inject(servers.b, "x@evil.test", BERT, text("boss@careful.test", BERT, "doubtful"))
    assert "dmarc=fail" in results_of(servers.letter(servers.b, BERT, "doubtful", "Junk"))
    assert not [one for one in mails(servers.b, BERT) if one["Subject"] in ("spoofed", "doubtful")]


def test_by_a_smarthost_with_sign_in(servers: World) -> None:
    servers.submit(servers.a, OLGA, CARL, "by the relay")
    letter = servers.letter(servers.b, CARL, "by the relay")
    received = [" ".join(one.split()) for one in letter.get_all("Received")]
    assert len(received) == 3
    assert "from mx.relay.test ([127.0.0.4]) by mx.b.test with ESMTPS" in received[0]
    assert "from mx.a.test ([127.0.0.2]) by mx.relay.test with ESMTPSA" in received[1]


@pytest.mark.rfc(6647, "2.2")
def test_greylisted_mail_is_tried_again(servers: World) -> None:
    servers.submit(servers.a, ANNA, RITA, "greylisted")
    servers.letter(servers.relay, RITA, "greylisted")
    outcomes = [one for one in servers.a.events if " queue.attempt " in one and f"to=<{RITA}>" in one]
    assert "outcome=deferred" in outcomes[0]
    assert "451 4.7.1" in outcomes[0]
    assert "outcome=sent" in outcomes[-1]


@pytest.mark.rfc(3464, "2.3")
def test_a_bounce_says_what_is_wrong(servers: World) -> None:
    servers.submit(servers.a, ANNA, "nobody@b.test", "to nobody", mail=["ENVID=e77"])
    report = servers.report(servers.a, ANNA, "to nobody", "failed")
    assert report["To"] == ANNA
    recipient = status_of(report)
    assert recipient["Final-Recipient"] == "rfc822; nobody@b.test"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; mx.b.test"
    assert recipient["Diagnostic-Code"].startswith("smtp; 550 5.1.1")
    _, status, _ = report.iter_parts()
    about, _ = status.iter_parts()
    assert about["Reporting-MTA"] == "dns; mx.a.test"
    assert about["Original-Envelope-Id"] == "e77"


@pytest.mark.rfc(3461, "4.1")
def test_success_is_told_where_asked_for(servers: World) -> None:
    servers.submit(servers.a, ANNA, BERT, "tell me", rcpt=["NOTIFY=SUCCESS", "ORCPT=rfc822;bert@b.test"])
    report = servers.report(servers.a, ANNA, "tell me", "delivered")
    recipient = status_of(report)
    assert recipient["Original-Recipient"] == "rfc822; bert@b.test"
    assert recipient["Status"] == "2.1.5"
    assert "postmaster@b.test" in report["From"]  # b knows DSN, and tells itself


@pytest.mark.rfc(3461, "4.1")
def test_never_is_never(servers: World) -> None:
    servers.submit(servers.a, ANNA, "nobody@b.test", "hush", rcpt=["NOTIFY=NEVER"])
    servers.submit(servers.a, ANNA, "nobody@b.test", "after the hush")
    servers.report(servers.a, ANNA, "after the hush", "failed")
    wait_for(lambda: not servers.queue(servers.a), "the queue is not empty")
    everything = [one.as_string() for one in mails(servers.a, ANNA) + mails(servers.a, POST)]
    assert not [one for one in everything if "Subject: hush" in one]


@pytest.mark.rfc(5321, "6.1")
def test_what_cannot_be_returned_goes_to_the_postmaster(servers: World) -> None:
    servers.submit(servers.a, ANNA, "nobody@b.test", "receipt", null=True)
    recipient = status_of(servers.report(servers.a, POST, "receipt", "failed"))
    assert recipient["Final-Recipient"] == "rfc822; nobody@b.test"


@pytest.mark.rfc(7208, "2.4")
def test_an_alias_sends_on_with_srs(servers: World) -> None:
    servers.submit(servers.relay, RITA, "forward@a.test", "sent on")
    letter = servers.letter(servers.b, BERT, "sent on")
    assert re.fullmatch(r"<SRS0=[a-z2-7]{6}=[a-z2-7]{2}=relay\.test=rita@a\.test>", letter["Return-Path"])
    assert "spf=pass smtp.mailfrom=a.test" in results_of(letter)


def test_a_bounce_comes_back_through_srs(servers: World) -> None:
    """rita@relay writes to an alias at a, that is an alias at b, that leads to a server that says no."""
    with make_server(servers.names, servers.port, "late.test"):
        servers.submit(servers.relay, RITA, "astray@a.test", "astray")
        report = servers.report(servers.relay, RITA, "astray", "failed")
    recipient = status_of(report)
    assert recipient["Final-Recipient"] == "rfc822; nobody@late.test"
    assert "postmaster@b.test" in report["From"]
    received = [" ".join(one.split()) for one in report.get_all("Received")]
    assert "from mx.a.test" in received[0]
    assert "from mx.b.test" in received[1]


@pytest.mark.rfc(5321, "4.5.4.1")
def test_a_server_that_was_down(servers: World) -> None:
    servers.submit(servers.a, ANNA, "lars@late.test", "early")
    servers.retry(servers.a)  # it may still be backed off
    wait_for(lambda: any(one.recipient.attempts for one in servers.queue(servers.a)), "it was never tried")
    wait_for(lambda: len(servers.queue(servers.a)) == 1, "mail of another test is not settled")
    (entry,) = servers.queue(servers.a)
    assert entry.recipient.last_reply is not None
    assert entry.recipient.last_reply.startswith("451 4.4.1")
    with make_server(servers.names, servers.port, "late.test") as late:
        late.add_account("lars@late.test", PASSWORD)
        servers.retry(servers.a)
        servers.letter(late, "lars@late.test", "early")
        wait_for(lambda: not servers.queue(servers.a), "the queue is not empty")


@pytest.mark.rfc(8689, "4.2.1")
def test_tls_all_the_way(servers: World) -> None:
    servers.submit(servers.a, ANNA, BERT, "with care", mail=["REQUIRETLS"])
    servers.letter(servers.b, BERT, "with care")
    # nobody vouches for the certificate of this one
    with make_server(servers.names, servers.port, "late.test") as late:
        late.add_account("lars@late.test", PASSWORD)
        servers.submit(servers.a, ANNA, "lars@late.test", "too careful", mail=["REQUIRETLS"])
        servers.retry(servers.a)  # it may still be backed off
        assert status_of(servers.report(servers.a, ANNA, "too careful", "failed"))["Status"] == "5.7.10"
        assert mails(late, "lars@late.test") == []
    # DNSSEC does not vouch for the MX of this one
    servers.submit(servers.a, ANNA, "x@relay.test", "doubtful way", mail=["REQUIRETLS"])
    assert status_of(servers.report(servers.a, ANNA, "doubtful way", "failed"))["Status"] == "5.7.10"


@pytest.mark.rfc(4865, "4.2")
def test_mail_is_held_until_its_time(servers: World) -> None:
    servers.submit(servers.a, ANNA, BERT, "tomorrow", mail=["HOLDFOR=86400"])
    servers.submit(servers.a, ANNA, BERT, "today")
    servers.letter(servers.b, BERT, "today")
    wait_for(lambda: len(servers.queue(servers.a)) == 1, "that of today is not settled")
    assert servers.queue(servers.a)[0].recipient.attempts == 0
    assert "tomorrow" not in [one["Subject"] for one in mails(servers.b, BERT)]
    servers.move(DAY)
    servers.letter(servers.b, BERT, "tomorrow")


@pytest.mark.rfc(3464, "2.3.9")
def test_a_delay_is_told_and_then_the_end(servers: World) -> None:
    servers.submit(servers.a, ANNA, "lars@late.test", "in vain")
    servers.retry(servers.a)  # it may still be backed off
    wait_for(lambda: any(one.recipient.attempts for one in servers.queue(servers.a)), "it was never tried")
    servers.move(4 * HOUR)
    recipient = status_of(servers.report(servers.a, ANNA, "in vain", "delayed"))
    assert recipient["Status"] == "4.4.1"
    assert recipient["Will-Retry-Until"]
    servers.move(5 * DAY)
    recipient = status_of(servers.report(servers.a, ANNA, "in vain", "failed"))
    assert recipient["Final-Recipient"] == "rfc822; lars@late.test"
    assert recipient["Status"] == "4.4.1"
    wait_for(lambda: not servers.queue(servers.a), "the queue is not empty")
