"""`pochta trace`: the whole way of a message, found by its id and by every address in it."""

import json
import re
import smtplib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pochta.cli.main import root
from pochta.config import Checks
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver

DEADLINE_S = 20.0
ID = "<one@example.org>"


def trace(config: Path, *words: str) -> Result:
    result = CliRunner().invoke(root, ("-c", str(config), "trace", *words), prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def found(config: Path, what: str) -> list[dict[str, Any]]:  # Any: JSON
    result = trace(config, what, "--json")
    return json.loads(result.output) if result.exit_code == 0 else []


def until(config: Path, what: str, is_so: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """What is traced once it `is_so`: the runner works beside the test."""
    end = time.monotonic() + DEADLINE_S
    while not is_so(trails := found(config, what)):
        assert time.monotonic() < end, trails
    return trails


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pochta.toml"
    path.write_text('hostname = "mail.example.org"\n[limits]\nmin_free_bytes = 0\n')
    return path


@pytest.fixture
def server(tmp_path: Path, config: Path) -> Iterator[Server]:
    resolver = ZoneResolver({"c.test": {"TXT": ["v=spf1 -all"]}, "_dmarc.c.test": {"TXT": ["v=DMARC1; p=reject"]}})
    resolver.fail("slow.test")
    with Server(data_dir=tmp_path, resolver=resolver, checks=Checks()) as server:
        server.add_account("anna@example.org", "secret")
        server.add_alias("both@example.org", ["anna@example.org", "away@slow.test"])
        yield server


def submit(server: Server, *to: str) -> None:
    with smtplib.SMTP(server.host, server.submission_port) as smtp:
        smtp.login("anna@example.org", "secret")
        smtp.sendmail("anna@example.org", to, f"From: anna@example.org\r\nMessage-ID: {ID}\r\n\r\nHello\r\n")


def test_way_of_a_message_and_of_the_report_about_it(server: Server, config: Path) -> None:
    submit(server, "both@example.org", "bob@slow.test", "nobody@gone.test")
    trails = until(config, ID, lambda one: bool(one and one[0]["reports"] and one[0]["queue"][0]["attempts"]))
    (one,) = trails
    assert (one["role"], one["account"], one["sender"]) == ("submission", "anna@example.org", "anna@example.org")
    assert one["to"][0]["accounts"] == ["anna@example.org"]
    assert one["to"][0]["forwarded_to"] == ["away@slow.test"]
    assert {row["address"] for row in one["queue"]} >= {"bob@slow.test"}
    steps = {(step["recipient"], step["kind"]) for step in one["steps"]}
    assert {("nobody@gone.test", "failed"), ("nobody@gone.test", "reported"), ("bob@slow.test", "deferred")} <= steps
    report = one["reports"][0]
    (about,) = found(config, report["message_id"])
    assert (about["role"], about["sender"], about["about"]["message_id"]) == ("report", "", ID)

    printed = trace(config, "one@example.org").output
    assert "  received  from a user, signed in as anna@example.org, " in printed
    assert "  to        both@example.org: inbox of anna@example.org, forwarded to away@slow.test\n" in printed
    assert "            nobody@gone.test: not delivered\n" in printed
    assert re.search(r"  waits     .*slow\.test: waiting, next attempt in ", printed)
    assert re.search(r"nobody@gone\.test: failed, attempt 1\n +5", printed)
    assert f"  reports   {time_of(report['at'])}  {report['message_id']}\n" in printed
    assert f"  about     {ID}, of " in trace(config, report["message_id"]).output


def time_of(at: int) -> str:
    from pochta.cli.output import show_time

    return show_time(at)


@pytest.mark.parametrize("what", ["ANNA@example.org", "bob@slow.test", "<bob@SLOW.test>", "one@example.org"])
def test_found_by_every_name_of_it_while_the_server_runs_and_after(server: Server, config: Path, what: str) -> None:
    submit(server, "bob@slow.test")
    assert [one["message_id"] for one in found(config, what)] == [ID]
    server.stop()
    assert [one["message_id"] for one in found(config, what)] == [ID]


def test_checks_and_refusals_are_told(server: Server, config: Path) -> None:
    text = "From: x@c.test\r\nMessage-ID: <bad@c.test>\r\n\r\nx\r\n"
    with (
        smtplib.SMTP(server.host, server.smtp_port) as smtp,
        pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.26 Rejected by the DMARC policy of c\.test"),
    ):
        smtp.sendmail("x@c.test", ["anna@example.org"], text)
    (one,) = found(config, "x@c.test")
    assert one["checks"]["spf"] == "fail"
    assert one["refused"] == "550 5.7.26 Rejected by the DMARC policy of c.test"
    printed = trace(config, "x@c.test").output
    assert "  received  from another server, " in printed
    assert "  checks    spf fail (c.test), dkim none, dmarc fail (c.test, which wants reject)" in printed
    assert "  decision  reject, by the rule " in printed
    assert "  refused   550 " in printed
    assert "anna@example.org: refused\n" in printed


def test_latest_comes_last(server: Server, config: Path) -> None:
    for _ in range(2):
        submit(server, "bob@slow.test")
    ats = [one["at"] for one in found(config, "bob@slow.test")]
    assert (len(ats), ats) == (2, sorted(ats))


def test_nothing_found(server: Server, config: Path) -> None:
    result = trace(config, "<none@example.net>")
    assert result.exit_code == 1
    assert result.stderr == "pochta: nothing is known of <none@example.net>; trails are kept for 30 days\n"


def test_what_peers_said_does_not_reach_the_terminal_raw(server: Server, config: Path) -> None:
    with smtplib.SMTP(server.host, server.lmtp_port, local_hostname="x") as smtp:
        smtp.docmd("LHLO", "x\x1b[31m.test")
        smtp.docmd("LHLO", "x.test")
        smtp.docmd("MAIL", "FROM:<a@c.test>")
        smtp.docmd("RCPT", "TO:<anna@example.org>")
        smtp.data(b"Message-ID: <esc\x1b[31m@c.test>\r\n\r\nx\r\n")
    result = trace(config, "a@c.test")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
