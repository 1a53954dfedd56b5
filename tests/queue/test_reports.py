"""Reports that the queue owes: to whom, with how much of the message, and what becomes of those nobody takes."""

from pathlib import Path

import pytest
from parts_rig import START, Parts, run

from pochta.delivery.submit import Origin
from pochta.net import connection
from pochta.queue import reports as module
from pochta.queue.reports import AGAIN_S, GIVE_UP_S, Reporter
from pochta.store import owed
from pochta.store.leases import Fence
from pochta.store.outbox import NewRecipient, Owed
from pochta.store.owed import Reports

NO = "550 5.1.1 no such user"


def failed(address: str = "b@x.test", owed: Owed = Owed.FAILED) -> NewRecipient:
    return NewRecipient("x.test", address, owed=owed, last_reply=NO)


def test_a_failure_goes_to_the_sender_with_the_message(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        taken = await parts.accept(failed())
        await parts.report()
        (got,) = await parts.inbox()
        assert got.startswith(b"Return-Path: <>\r\n")
        assert b"X-Pochta-Queue-Id: name-1\r\n" in got
        assert b"Status: 5.1.1\r\n" in got
        assert b"Hello there" in got
        assert await parts.query("SELECT * FROM outgoing_recipient") == []
        (step,) = await parts.query("SELECT kind, recipient FROM trail_step WHERE trail_id = ?", taken.trail_id)
        assert step == ("reported", "b@x.test")

    run(tmp_path, test)


@pytest.mark.rfc(3461, "4.3")
@pytest.mark.parametrize(
    ("envelope", "owed", "is_full"),
    [
        ({}, Owed.FAILED, True),
        ({"returns": "FULL"}, Owed.FAILED, True),
        ({"returns": "HDRS"}, Owed.FAILED, False),
        ({"requires_tls": True, "returns": "FULL"}, Owed.FAILED, False),
        ({}, Owed.RELAYED, False),
    ],
)
def test_how_much_goes_back(tmp_path: Path, envelope: dict[str, object], owed: Owed, is_full: bool) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed(owed=owed), **envelope)
        await parts.report()
        (got,) = await parts.inbox()
        assert b"Subject: x\r\n" in got
        assert (b"Hello there" in got) == is_full

    run(tmp_path, test)


@pytest.mark.rfc(5321, "6.1")
@pytest.mark.parametrize(
    ("envelope", "reports"),
    [
        ({"reverse_path": "", "origin": Origin.TRANSFER}, 1),
        ({"may_bounce": False, "origin": Origin.TRANSFER}, 1),
        ({"reverse_path": "gone@us.test"}, 1),
        ({"reverse_path": "", "origin": Origin.DOUBLE_BOUNCE, "may_bounce": False}, 0),
    ],
)
def test_what_cannot_be_returned_is_for_the_postmaster(
    tmp_path: Path, envelope: dict[str, object], reports: int
) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed(), **envelope)
        await parts.report()
        got = await parts.inbox()
        assert len(got) == reports
        assert not any(b"Hello there" in one for one in got)  # it is not theirs
        assert await parts.query("SELECT * FROM outgoing_recipient") == []

    run(tmp_path, test)


def test_a_success_that_nobody_may_hear_of_is_told_to_nobody(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed(owed=Owed.DELIVERED), may_bounce=False)
        await parts.accept(failed(owed=Owed.DELIVERED), reverse_path="gone@us.test")
        await parts.report()
        assert await parts.inbox() == []
        assert await parts.query("SELECT * FROM outgoing_recipient") == []

    run(tmp_path, test)


def test_while_there_is_no_postmaster_a_report_waits_and_is_given_up_at_last(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed(), reverse_path="")
        for _ in range(3):
            await parts.report()
        assert sum("queue.report.refused" in one for one in parts.events) == 1
        parts.now += AGAIN_S
        await parts.report()
        assert sum("queue.report.refused" in one for one in parts.events) == 2
        assert len(await parts.query("SELECT * FROM outgoing_recipient")) == 1
        parts.now = START + GIVE_UP_S
        await parts.report()
        assert await parts.query("SELECT * FROM outgoing_recipient") == []
        assert any("queue.report.dropped" in one for one in parts.events)

    run(tmp_path, test, accounts=())


def test_a_report_that_meets_a_bug_does_not_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", bugs.append)
    monkeypatch.setattr(module, "REPORTS_A_LOOK", 1)
    report = Reporter._report

    async def broken(self: Reporter, fence: Fence, told: Reports) -> None:
        if told.recipients[0].address == "bad@x.test":
            raise ValueError("a bug")
        await report(self, fence, told)

    monkeypatch.setattr(Reporter, "_report", broken)

    async def test(parts: Parts) -> None:
        await parts.accept(failed("bad@x.test"))
        await parts.accept(failed("b@x.test"))
        await parts.report()
        await parts.report()
        assert len(await parts.inbox()) == 1
        assert len(bugs) == 1
        assert await parts.query("SELECT address FROM outgoing_recipient") == [("bad@x.test",)]

    run(tmp_path, test)


def test_a_message_whose_bytes_are_gone_is_reported_without_them(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed())
        await parts.execute("DELETE FROM blob_inline")
        await parts.execute("DELETE FROM trail")
        await parts.report()
        (got,) = await parts.inbox()
        assert b"Action: failed" in got
        assert b"X-Pochta-Queue-Id: 1\r\n" in got

    run(tmp_path, test, is_sound=False)


def test_many_recipients_are_told_in_few_reports(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(*[failed(f"b{n}@x.test") for n in range(owed.REPORTED_MAX + 5)])
        await parts.report()
        await parts.report()
        rows = await parts.query("SELECT count(*) FROM message")
        assert rows == [(2,)]
        assert await parts.query("SELECT * FROM outgoing_recipient") == []

    run(tmp_path, test)


def test_a_report_to_elsewhere_is_queued_with_the_null_path(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(failed(), reverse_path="c@else.test", requires_tls=True)
        await parts.report()
        rows = await parts.query("SELECT reverse_path, may_bounce, origin, requires_tls FROM outgoing")
        assert rows == [("", 0, "report", 1)]

    run(tmp_path, test)
