"""What sign-ins leave in the store, on every backend: failures, known addresses, app passwords, the secret."""

import pytest
from store_harness import NOW, Backend, counted

from pochta.errors import Refusal, RefusalCode
from pochta.store import app_passwords, directory, sign_ins
from pochta.store.app_passwords import AppPassword, Match, ScramRow, Use
from pochta.store.sign_ins import Failed, Failures, Succeeded
from pochta.store.tx import Tx

HOUR = 3600
DAY = 86400


def failed(who: str, network: str, number: int = 1, at: int = NOW) -> Failed:
    return Failed(who, network, number, at, HOUR, 14 * HOUR)


def record(
    backend: Backend,
    *failures: Failed,
    succeeded: tuple[Succeeded, ...] = (),
    uses: tuple[Use, ...] = (),
    now: int = NOW,
) -> None:
    backend.write(0, sign_ins.record, list(failures), list(succeeded), list(uses), now)


def standing(backend: Backend, who: str, account_id: int = 0, now: int = NOW) -> sign_ins.Standing:
    return backend.read(0, sign_ins.standing, account_id, who, "net", "addr", now)


def test_failures_add_up_and_are_told_by_name_and_network(backend: Backend) -> None:
    record(backend, failed("a", "net"), failed("", "net"), failed("a", "elsewhere"))
    record(backend, failed("a", "net", 2, NOW + 10), failed("b", "net"), failed("a", "addr"), now=NOW + 10)
    assert standing(backend, "a") == sign_ins.Standing(
        {
            ("a", "net"): Failures(NOW + 10, NOW + 3 * HOUR),
            ("a", "addr"): Failures(NOW, NOW + HOUR),
            ("", "net"): Failures(NOW, NOW + HOUR),
        },
        False,
    )
    record(backend, failed("a", "net", 1000, NOW + 20))
    assert standing(backend, "a").by_key["a", "net"] == Failures(NOW + 20, NOW + 20 + 14 * HOUR)
    record(backend, failed("a", "net", 1, NOW))  # of a worker that was slower
    assert standing(backend, "a").by_key["a", "net"] == Failures(NOW + 20, NOW + 20 + 14 * HOUR)


def test_forgiven_failures_are_removed(backend: Backend) -> None:
    record(backend, failed("a", "net"), failed("b", "net", 3))
    record(backend, failed("c", "net", 1, NOW + HOUR), now=NOW + HOUR)
    assert backend.query("SELECT who FROM sign_in_failure ORDER BY who") == [("b",), ("c",)]


def test_number_of_failures_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "MAX_FAILURE_ROWS", 3)
    record(backend, *(failed(str(number), "net", 9 - number) for number in range(9)))
    assert backend.query("SELECT who FROM sign_in_failure ORDER BY who") == [("0",), ("1",), ("2",)]


def test_known_addresses(backend: Backend) -> None:
    account_id = backend.new_account("a")
    record(backend, succeeded=(Succeeded(account_id, "addr", NOW), Succeeded(99, "addr", NOW)))
    assert standing(backend, "", account_id).is_trusted
    assert not standing(backend, "", 0).is_trusted
    assert not standing(backend, "", 99).is_trusted  # no such account: no row either
    assert standing(backend, "", account_id, NOW + sign_ins.SUCCESS_KEPT_S - 1).is_trusted
    assert not standing(backend, "", account_id, NOW + sign_ins.SUCCESS_KEPT_S).is_trusted
    for at, kept in ((NOW + DAY - 1, NOW), (NOW + DAY, NOW + DAY), (NOW, NOW + DAY)):
        record(backend, succeeded=(Succeeded(account_id, "addr", at),))
        assert backend.query("SELECT address, last_at FROM sign_in_success") == [("addr", kept)]


def test_number_of_known_addresses_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "MAX_SUCCESS_ROWS", 3)
    one, two = backend.new_account("a"), backend.new_account("b")
    record(backend, succeeded=(Succeeded(two, "x", NOW),))
    for number in range(9):
        record(backend, succeeded=(Succeeded(one, str(number), NOW + number),))
    found = backend.query("SELECT account_id, address FROM sign_in_success ORDER BY account_id, address")
    assert found == [(one, "6"), (one, "7"), (one, "8"), (two, "x")]
    record(backend, succeeded=(Succeeded(one, "9", NOW + 40 * DAY),))
    assert backend.query("SELECT address FROM sign_in_success WHERE account_id = ?", one) == [("9",)]


def test_removed_account_gets_no_row(backend: Backend) -> None:
    account_id = backend.new_account("a")
    backend.write(account_id, directory.remove_account, "example.org", "a", NOW)
    record(backend, succeeded=(Succeeded(account_id, "addr", NOW),))
    assert backend.query("SELECT * FROM sign_in_success") == []


def test_secret_is_made_once(backend: Backend) -> None:
    assert backend.read(0, sign_ins.secret, "x") is None
    assert backend.write(0, sign_ins.make_secret, "x", b"first") == b"first"
    assert backend.write(0, sign_ins.make_secret, "x", b"second") == b"first"
    assert backend.read(0, sign_ins.secret, "x") == b"first"


def add(backend: Backend, account_id: int, label: str, digest: str = "d") -> int:
    args = (account_id, label, "mail", digest, b"s" * 64, b"t" * 64, NOW)
    return backend.write(account_id, app_passwords.add, *args)


def test_app_passwords(backend: Backend) -> None:
    account_id, other = backend.new_account("a"), backend.new_account("b")
    first, second = add(backend, account_id, "phone", "d1"), add(backend, account_id, "laptop", "d2")
    assert (first, second, add(backend, other, "tablet")) == (1, 2, 1)
    assert backend.read(account_id, app_passwords.of_account, account_id) == [
        AppPassword(first, "phone", "mail", NOW, None),
        AppPassword(second, "laptop", "mail", NOW, None),
    ]
    assert backend.read(account_id, app_passwords.match, account_id, "d2") == Match(second, "mail", None)
    assert backend.read(account_id, app_passwords.match, other, "d2") is None
    row = ScramRow(first, "mail", None, b"s" * 64, b"t" * 64)
    assert backend.read(account_id, app_passwords.scram_rows, account_id)[0] == row
    assert "sss" not in repr(row)

    generation = backend.read(account_id, directory.generation, account_id)
    backend.write(account_id, app_passwords.remove, account_id, first)
    assert backend.read(account_id, directory.generation, account_id) == generation + 1
    assert backend.hints[-1].account_id == account_id
    assert [one.id for one in backend.read(account_id, app_passwords.of_account, account_id)] == [second]
    for owner, id in ((account_id, first), (other, second)):
        with pytest.raises(Refusal) as caught:
            backend.write(owner, app_passwords.remove, owner, id)
        assert caught.value.code is RefusalCode.NOT_FOUND
    backend.write(account_id, app_passwords.remove, account_id, second)
    assert add(backend, account_id, "third") == 3  # not a number that stood for another


def test_number_of_app_passwords_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_passwords, "MAX_PER_ACCOUNT", 2)
    account_id = backend.new_account("a")
    add(backend, account_id, "1")
    add(backend, account_id, "2")
    with pytest.raises(Refusal) as caught:
        add(backend, account_id, "3")
    assert caught.value.code is RefusalCode.LIMIT
    add(backend, backend.new_account("b"), "1")


def test_use_is_written_once_a_day(backend: Backend) -> None:
    account_id = backend.new_account("a")
    id = add(backend, account_id, "phone")
    for at, kept in ((NOW, NOW), (NOW + DAY - 1, NOW), (NOW + DAY, NOW + DAY), (NOW, NOW + DAY)):
        record(backend, uses=(Use(account_id, id, at),))
        assert backend.read(account_id, app_passwords.match, account_id, "d") == Match(id, "mail", kept)


def statements(tx: Tx, account_id: int) -> list[int]:
    failures, successes = (
        [failed(str(n), "net") for n in range(5)],
        [Succeeded(account_id, str(n), NOW) for n in range(5)],
    )
    return [
        counted(tx, sign_ins.standing, (account_id, "a", "net", "addr", NOW)),
        counted(tx, app_passwords.match, (account_id, "d")),
        counted(tx, app_passwords.scram_rows, (account_id,)),
        counted(tx, app_passwords.add, (account_id, "x", "mail", "d", b"", b"", NOW)),
        counted(tx, sign_ins.record, (failures, [], [], NOW)),
        counted(tx, sign_ins.record, ([], successes, [], NOW)),
    ]


def test_statements(backend: Backend) -> None:
    account_id = backend.new_account("a")
    assert backend.write(0, statements, account_id) == [2, 1, 1, 3, 5 * 2 + 2, 5 * 2]
