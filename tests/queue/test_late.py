"""Deliveries here that were put off: each is its own, and none stays claimed."""

from pathlib import Path

import pytest
from parts_rig import START, Parts, run

from pochta.delivery.submit import Envelope, Origin, Target
from pochta.net import connection
from pochta.proto.smtp.events import Notify
from pochta.queue.late import LateDeliveries
from pochta.store import outbox, sending
from pochta.store.outbox import State

LATER = Envelope(origin=Origin.SUBMISSION, reverse_path="a@us.test", may_bounce=True, not_before=START + 60)


def test_when_the_time_has_come_it_is_in_the_mailbox(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        taken = await parts.submit(LATER, Target("a@us.test", accounts=(1,), notify=Notify.SUCCESS))
        assert (await parts.claim(outbox.LOCAL)).recipients == ()
        assert await parts.inbox() == []
        parts.now += 60
        await parts.late.deliver(parts.fence, await parts.claim(outbox.LOCAL))
        assert b"Hello there" in (await parts.inbox())[0]
        assert await parts.query("SELECT state, report FROM outgoing_recipient") == [
            (State.ENDED, outbox.Owed.DELIVERED)
        ]
        kinds = await parts.query("SELECT kind FROM trail_step WHERE trail_id = ?", taken.trail_id)
        assert kinds == [("sent",)]
        await parts.report()
        assert len(await parts.inbox()) == 2

    run(tmp_path, test)


def test_who_is_gone_by_then_is_reported(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.submit(LATER, Target("gone@us.test", accounts=(2,)), Target("a@us.test", accounts=(1,)))
        parts.now += 60
        await parts.late.deliver(parts.fence, await parts.claim(outbox.LOCAL))
        assert len(await parts.inbox()) == 1
        rows = await parts.query("SELECT address, state, last_reply FROM outgoing_recipient")
        assert [row[:2] for row in rows] == [("gone@us.test", State.ENDED)]
        assert rows[0][2].startswith("550 5.1.1")

    run(tmp_path, test)


def test_a_bug_at_one_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(connection, "on_bug", bugs.append)
    copy = LateDeliveries._copy
    seen: list[int] = []

    async def broken(self: LateDeliveries, message: outbox.Outgoing, now: int) -> object:
        seen.append(now)
        if len(seen) == 1:
            raise ValueError("a bug")
        if len(seen) == 2:
            raise OSError("no space")
        return await copy(self, message, now)

    monkeypatch.setattr(LateDeliveries, "_copy", broken)

    async def test(parts: Parts) -> None:
        targets = [Target(one, accounts=(1,)) for one in ("a@us.test", "a+1@us.test", "a+2@us.test")]
        await parts.submit(LATER, *targets)
        parts.now += 60
        await parts.late.deliver(parts.fence, await parts.claim(outbox.LOCAL))
        rows = await parts.query("SELECT state, attempts, next_at FROM outgoing_recipient ORDER BY n")
        assert rows == [(State.WAITING, 1, parts.now + 60)] * 2
        assert len(await parts.inbox()) == 1
        assert len(bugs) == 1

    run(tmp_path, test)


def test_damaged_bytes_are_reported(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.submit(LATER, Target("a@us.test", accounts=(1,)))
        await parts.execute("DELETE FROM blob_inline")
        parts.now += 60
        await parts.late.deliver(parts.fence, await parts.claim(outbox.LOCAL))
        rows = await parts.query("SELECT state, last_reply FROM outgoing_recipient")
        assert rows == [(State.ENDED, "554 5.3.0 The message cannot be read any more")]

    run(tmp_path, test, is_sound=False)


def test_an_account_that_is_stopped_meanwhile_sends_nothing(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        envelope = Envelope(origin=Origin.SUBMISSION, reverse_path="a@us.test", account_id=1, not_before=START + 60)
        await parts.submit(envelope, Target("a@us.test", accounts=(1,)))
        await parts.store.write(0, sending.set_stopped, 1, "stolen")
        parts.now += 60
        assert (await parts.claim(outbox.LOCAL)).recipients == ()
        assert await parts.query("SELECT state FROM outgoing_recipient") == [(State.HELD,)]

    run(tmp_path, test)
