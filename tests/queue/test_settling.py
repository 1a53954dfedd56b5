"""What an attempt means for a recipient: a table of fates, and that nobody's end goes unsaid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.delivery import record
from pochta.proto.smtp.events import Notify
from pochta.proto.smtp.replies import Reply
from pochta.queue.schedule import Schedule
from pochta.queue.settling import REPLY_MAX, End, Fate, fate_of, settle, status
from pochta.store.outbox import Outgoing, Owed, Recipient, State

NOW = 1_750_000_000
DAY = 86_400
SCHEDULE = Schedule(jitter=0.0)
MESSAGE = Outgoing(
    id=7, trail_id=9, blob_id=1, account_id=1, origin="submission", reverse_path="a@us.test", report_to="a@us.test",
    envelope_id=None, returns=None, body="8bit", is_smtputf8=False, requires_tls=False, may_bounce=True, priority=0,
    deliver_by_at=None, deliver_by_mode=None, size=10, header_size=5, created_at=NOW, name="t1",
)  # fmt: skip
ROW = Recipient(
    outgoing_id=7, n=3, destination="x.test", account_id=1, address="b@x.test", original=None, notify=0,
    state=State.CLAIMED, report=Owed.NOTHING, delay_told=False, attempts=0, next_at=NOW, last_at=None, last_host=None,
    last_reply=None,
)  # fmt: skip
OK, LATER, NO = Reply(250, "2.0.0", "ok"), Reply(451, "4.2.1", "later"), Reply(550, "5.1.1", "no")
NEVER, SUCCESS = int(Notify.NEVER), int(Notify.SUCCESS)


@pytest.mark.rfc(3461, "4.1")
@pytest.mark.parametrize(
    ("reply", "notify", "age_s", "told", "reports_itself", "state", "owed", "kind"),
    [
        (OK, 0, 0, False, False, None, Owed.NOTHING, "sent"),
        (OK, SUCCESS, 0, False, False, State.ENDED, Owed.RELAYED, "sent"),
        (OK, SUCCESS, 0, False, True, None, Owed.NOTHING, "sent"),
        (NO, 0, 0, False, False, State.ENDED, Owed.FAILED, "failed"),
        (NO, 0, 0, False, True, State.ENDED, Owed.FAILED, "failed"),
        (NO, NEVER, 0, False, False, None, Owed.NOTHING, "failed"),
        (NO, SUCCESS, 0, False, False, None, Owed.NOTHING, "failed"),
        (LATER, 0, 0, False, False, State.WAITING, Owed.NOTHING, "deferred"),
        (LATER, 0, 4 * 3600, False, False, State.WAITING, Owed.DELAYED, "deferred"),
        (LATER, 0, 4 * 3600, True, False, State.WAITING, Owed.NOTHING, "deferred"),
        (LATER, NEVER, 4 * 3600, False, False, State.WAITING, Owed.NOTHING, "deferred"),
        (LATER, 0, 5 * DAY, True, False, State.ENDED, Owed.FAILED, "expired"),
        (LATER, NEVER, 5 * DAY, True, False, None, Owed.NOTHING, "expired"),
    ],
)
def test_fates(
    reply: Reply,
    notify: int,
    age_s: int,
    told: bool,
    reports_itself: bool,
    state: State | None,
    owed: Owed,
    kind: str,
) -> None:
    row = ROW._replace(notify=notify, delay_told=told)
    fate = fate_of(reply, "mx", reports_itself=reports_itself)
    got = settle(SCHEDULE, MESSAGE, row, fate, now=NOW + age_s, random=0.5)
    assert (got.state, got.owed, got.step.kind) == (state, owed, kind)
    assert (got.outgoing_id, got.n, got.trail_id, got.host) == (7, 3, 9, "mx")
    assert (got.next_at > NOW + age_s) == (state is State.WAITING)


@pytest.mark.parametrize(("mode", "owed"), [("RT", Owed.RELAYED), ("NT", Owed.RELAYED), ("R", Owed.NOTHING)])
def test_a_trace_tells_of_each_server(mode: str, owed: Owed) -> None:
    message = MESSAGE._replace(deliver_by_at=NOW + 100, deliver_by_mode=mode)
    assert settle(SCHEDULE, message, ROW, fate_of(OK, "mx", reports_itself=True), now=NOW, random=0.5).owed is owed


def test_deliver_by_returns_or_notifies() -> None:
    returned = MESSAGE._replace(deliver_by_at=NOW + 100, deliver_by_mode="R")
    told = MESSAGE._replace(deliver_by_at=NOW + 100, deliver_by_mode="N")
    fate = fate_of(LATER, "mx")
    got = settle(SCHEDULE, returned, ROW, fate, now=NOW + 70, random=0.5)
    assert (got.state, got.next_at) == (State.WAITING, NOW + 100)
    assert settle(SCHEDULE, returned, ROW, fate, now=NOW + 100, random=0.5).owed is Owed.FAILED
    got = settle(SCHEDULE, told, ROW, fate, now=NOW + 100, random=0.5)
    assert (got.state, got.owed) == (State.WAITING, Owed.DELAYED)


@given(st.text(max_size=2000), st.integers(200, 599), st.sampled_from(["", "4.2.2", "5.1.1"]))
def test_a_reply_becomes_one_line_that_every_store_takes(text: str, code: int, enhanced: str) -> None:
    fate = Fate(End.FAILED, Reply(code, enhanced, text + "\ud800\0\r\n"))
    line = fate.line
    line.encode()
    assert len(line) <= REPLY_MAX
    assert not {"\0", "\r", "\n"} & set(line)
    got = settle(SCHEDULE, MESSAGE, ROW, fate, now=NOW, random=0.5)
    assert record.decode(got.step.facts)["attempt"] == 1
    assert status(ROW._replace(last_reply=got.reply))[1:2] == "."


def test_facts_hold_what_json_holds() -> None:
    made = record.encode({"text": "a\ud800\0b", "list": ("x\ud800", "y" * 1000), "nothing": None, "zero": 0})
    assert record.decode(made) == {"text": "a?b", "list": ["x?", "y" * record.VALUE_MAX], "zero": 0}
