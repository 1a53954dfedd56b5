"""What accounts have sent, and limits to it, on every backend."""

from collections.abc import Callable, Sequence

import pytest
from store_harness import NOW, Backend, counted

from pochta.accounts import sending as limits_of
from pochta.accounts.sending import Alarm, Charge, SendingLimits
from pochta.errors import Refusal, RefusalCode
from pochta.store import directory, removal, sending
from pochta.store.sending import Hour, Standing
from pochta.store.tx import Tx

HOUR = NOW // 3600
FREE = SendingLimits(0, 0, 0, 0, 0)


def charge(
    backend: Backend, account_id: int, recipients: Sequence[str], limits: SendingLimits = FREE, now: int = NOW
) -> Charge:
    return backend.write(account_id, limits_of.charge, account_id, list(recipients), limits, now)


def names(count: int, prefix: str = "n") -> list[str]:
    return [f"{prefix}{number}@else.example" for number in range(count)]


def test_messages_recipients_and_strangers_are_counted_by_the_hour(backend: Backend) -> None:
    one, other = backend.new_account("a"), backend.new_account("b")
    assert charge(backend, one, names(3)) == Charge("a@example.org", 3, None, None)
    assert charge(backend, one, [*names(4), *names(2)]).strangers == 1  # who is named twice counts once
    assert charge(backend, other, names(1)).strangers == 1  # each account has its own
    assert charge(backend, one, names(70), now=NOW + 3600).strangers == 66
    rows = (Hour(HOUR, 2, 7, 4), Hour(HOUR + 1, 1, 70, 66))
    assert backend.read(0, sending.standing, one, HOUR - 1) == Standing("a@example.org", None, rows)
    assert backend.read(0, sending.standing, one, HOUR) == Standing("a@example.org", None, rows[1:])
    assert backend.read(0, sending.standing, one, HOUR + 1) == Standing("a@example.org", None, ())


def test_what_is_refused_leaves_no_trace(backend: Backend) -> None:
    account_id = backend.new_account("a")
    limits = SendingLimits(0, 0, 0, 0, strangers_per_day=5)
    charge(backend, account_id, names(4), limits)
    before = [backend.query(f"SELECT * FROM {table}") for table in ("sending", "correspondent", "account")]
    with pytest.raises(Refusal) as caught:
        charge(backend, account_id, names(2, "other"), limits)
    assert caught.value.code is RefusalCode.LIMIT
    assert [backend.query(f"SELECT * FROM {table}") for table in ("sending", "correspondent", "account")] == before


def test_stop_and_release(backend: Backend) -> None:
    account_id = backend.new_account("a")
    limits = SendingLimits(0, 0, 0, 0, strangers_per_day=10, stolen_messages=2)
    assert charge(backend, account_id, names(4), limits) == Charge("a@example.org", 4, None, None)
    reason = "looks stolen: 8 recipients never written to before, in 2 messages within two hours"
    last = charge(backend, account_id, names(8), limits)
    assert last == Charge("a@example.org", 4, Alarm("strangers", 8, 10), reason)
    assert backend.read(0, limits_of.is_stopped, account_id)
    for _ in range(2):  # also one that was under way
        with pytest.raises(Refusal) as caught:
            charge(backend, account_id, names(1), FREE)
        assert (caught.value.code, caught.value.detail) == (RefusalCode.POLICY, reason)
        assert caught.value.text.endswith("pochta account release a@example.org")
    backend.write(0, limits_of.stop_address, "A@Example.ORG", "another")
    assert backend.read(0, sending.stopped, account_id) == reason  # the first reason says more

    backend.write(0, limits_of.release, "a@example.org")
    assert not backend.read(0, limits_of.is_stopped, account_id)
    assert charge(backend, account_id, names(9), limits) == Charge("a@example.org", 1, None, None)
    assert backend.query("SELECT messages, recipients, strangers FROM sending") == [(1, 9, 1)]
    backend.write(0, limits_of.stop, account_id, "by hand")
    assert backend.read(0, sending.stopped, account_id) == "by hand"


def test_account_that_is_gone(backend: Backend) -> None:
    account_id = backend.new_account("a")
    backend.write(0, directory.remove_account, "example.org", "a", NOW)
    calls: tuple[tuple[Callable[..., object], tuple[object, ...], RefusalCode], ...] = (
        (limits_of.charge, (account_id, names(1), FREE, NOW), RefusalCode.NO_PERMISSION),
        (limits_of.would_exceed, (account_id, 1, FREE, NOW), RefusalCode.NO_PERMISSION),
        (limits_of.stop, (account_id, "x"), RefusalCode.NO_SUCH_USER),
        (limits_of.release, ("a@example.org",), RefusalCode.NO_SUCH_USER),
    )
    for fn, args, code in calls:
        with pytest.raises(Refusal) as caught:
            backend.write(0, fn, *args)
        assert caught.value.code is code
    assert not backend.read(0, limits_of.is_stopped, account_id)
    assert backend.query("SELECT * FROM sending") == []


def test_number_of_correspondents_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_CORRESPONDENTS", 3)
    monkeypatch.setattr(sending, "TRIM_ROWS", 2)
    one, other = backend.new_account("a"), backend.new_account("b")
    charge(backend, other, names(3))
    for number in range(6):
        charge(backend, one, [f"{number}@else.example"], now=NOW + number)  # one hour: trimmed when the next begins
    assert backend.query("SELECT count(*) FROM correspondent WHERE account_id = ?", one) == [(6,)]
    left = [[2, 3, 4, 5, 3600], [4, 5, 3600, 7200]]
    for hour, kept in zip((1, 2), left, strict=True):
        charge(backend, one, [f"later{hour}@else.example"], now=NOW + hour * 3600)
        found = backend.query("SELECT first_at FROM correspondent WHERE account_id = ? ORDER BY first_at", one)
        assert [row[0] - NOW for row in found] == kept
    assert backend.query("SELECT count(*) FROM correspondent WHERE account_id = ?", other) == [(3,)]


def test_hours_are_forgotten(backend: Backend) -> None:
    one, other = backend.new_account("a"), backend.new_account("b")
    for hour in (0, 1, 48, 49):
        charge(backend, one, names(1), now=NOW + hour * 3600)
    charge(backend, other, names(1))
    assert backend.write(one, sending.expire, one, HOUR + 49 - sending.KEPT_HOURS) == 1
    found = backend.query("SELECT account_id, hour FROM sending ORDER BY account_id, hour")
    assert found == [(one, HOUR + 1), (one, HOUR + 48), (one, HOUR + 49), (other, HOUR)]
    assert [(row[0], bool(row[3])) for row in backend.read(0, removal.accounts_due, 0, 0, HOUR + 1)] == [
        (one, False),
        (other, True),
    ]


def statements(tx: Tx, account_id: int) -> list[int]:
    limits, low = SendingLimits(), SendingLimits(strangers_per_day=80, stolen_messages=2)
    return [
        counted(tx, sending.standing, (account_id, 0)),
        counted(tx, limits_of.would_exceed, (account_id, 1, limits, NOW)),
        counted(tx, limits_of.is_stopped, (account_id,)),
        counted(tx, limits_of.charge, (account_id, names(1), limits, NOW)),  # a stranger, the first of the hour
        counted(tx, limits_of.charge, (account_id, names(1), limits, NOW)),
        counted(tx, limits_of.charge, (account_id, names(65), limits, NOW)),
        counted(tx, limits_of.charge, (account_id, names(65), limits, NOW)),
        counted(tx, limits_of.charge, (account_id, names(2, "x"), low, NOW)),  # and a stop
    ]


def test_statements(backend: Backend) -> None:
    account_id = backend.new_account("a")
    assert backend.write(0, statements, account_id) == [1, 1, 1, 5, 3, 4 + 64, 4, 3 + 2 + 1]
