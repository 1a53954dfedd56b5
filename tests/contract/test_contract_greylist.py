"""Greylisting on every backend: who waits, who is let through, what is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_harness import NOW, Backend, counted

from pochta.store import expiry, greylist
from pochta.store.greylist import Rules, keys_of
from pochta.store.tx import Tx

RULES = Rules(delay_s=300, retry_window_s=7200, kept_s=100_000)


def check(backend: Backend, attempt: int, network: int = 1000, now: int = NOW) -> int:
    return backend.write(0, greylist.check, attempt, network, RULES, now)


def test_who_comes_again_in_time_is_let_through_from_then_on(backend: Backend) -> None:
    assert check(backend, 1) == 300
    assert check(backend, 1, now=NOW + 100) == 200
    assert check(backend, 1, now=NOW + 299) == 1
    assert check(backend, 2, now=NOW + 300) == 300
    assert check(backend, 1, now=NOW + 300) == 0
    assert check(backend, 1, now=NOW + 301) == 0
    for n in range(1, 5):  # for as long as it is used
        assert check(backend, 1, now=NOW + 300 + n * 99_999) == 0
    late = NOW + 300 + 4 * 99_999 + 100_000
    assert check(backend, 1, now=late) == 300
    assert check(backend, 1, now=late + 10) == 290


def test_who_comes_too_late_begins_anew(backend: Backend) -> None:
    check(backend, 1)
    assert check(backend, 1, now=NOW + 7200) == 300
    assert check(backend, 1, now=NOW + 7200 + 299) == 1
    assert check(backend, 1, now=NOW + 7200 + 7199) == 0


def test_clock_set_back_begins_anew(backend: Backend) -> None:
    check(backend, 1, now=NOW + 50_000)
    assert check(backend, 1) == 300
    assert check(backend, 1, now=NOW + 300) == 0


def test_network_that_came_again_often_enough_is_let_through_whole(backend: Backend) -> None:
    for n in range(greylist.NETWORK_PASSES):
        assert check(backend, n, now=NOW + n) == 300
        assert check(backend, n, now=NOW + n) == 300
        assert check(backend, n, now=NOW + 300 + n) == 0
        assert check(backend, n, now=NOW + 301 + n) == 0  # once more is not once more of the network
    assert check(backend, 99, now=NOW + 400) == 0
    assert check(backend, 99, network=2000, now=NOW + 400) == 300
    assert check(backend, 98, now=NOW + 304 + 86_400) == 0
    assert check(backend, 97, now=NOW + 304 + 86_400 + 99_999) == 0
    assert check(backend, 96, now=NOW + 304 + 86_400 + 300_000) == 300


def test_passes_of_a_network_do_not_add_up_over_long_silence(backend: Backend) -> None:
    at = NOW
    for n in range(2 * greylist.NETWORK_PASSES):
        assert check(backend, n, now=at) == 300
        assert check(backend, n, now=at + 300) == 0
        at += 300 + 100_000
    assert backend.query("SELECT passed FROM greylist WHERE triplet_hash = 1000") == [(1,)]


def keys_left(backend: Backend) -> list[int]:
    return [row[0] for row in backend.query("SELECT triplet_hash FROM greylist ORDER BY triplet_hash")]


def test_what_is_past_its_time_is_forgotten(backend: Backend) -> None:
    check(backend, 1)
    check(backend, 1, now=NOW + 300)
    check(backend, 2, now=NOW + 100)
    check(backend, 3, now=NOW + 200)
    for now, limit, gone, left in (
        (NOW + 7299, 9, 0, [1, 2, 3, 1000]),
        (NOW + 7400, 1, 1, [1, 3, 1000]),
        (NOW + 7400, 9, 1, [1, 1000]),
        (NOW + 100_299, 9, 0, [1, 1000]),
        (NOW + 100_300, 9, 2, []),
    ):
        assert backend.read(0, expiry.is_due, now, RULES) == bool(gone)
        assert backend.write(0, expiry.expire, now, limit, RULES) == gone
        assert keys_left(backend) == left


def test_number_of_rows_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greylist, "MAX_ROWS", 5)
    for n in range(3):
        check(backend, n, 1000 + n)
        check(backend, n, 1000 + n, NOW + 300)
    for n in range(10, 16):
        check(backend, n, now=NOW + n)
    now = NOW + 400
    assert backend.read(0, greylist.is_due, now, RULES)
    assert backend.write(0, greylist.expire, now, 4, RULES) == 4
    assert keys_left(backend) == [0, 1, 2, 14, 15, 1000, 1001, 1002]  # those that never came again, oldest first
    assert backend.write(0, greylist.expire, now, 4, RULES) == 3
    assert len(keys_left(backend)) == 5
    assert not {14, 15} & set(keys_left(backend))
    assert not backend.read(0, greylist.is_due, now, RULES)
    assert backend.write(0, greylist.expire, now, 4, RULES) == 0


def statements(tx: Tx) -> list[int]:
    return [
        *(counted(tx, greylist.check, (1, 2, RULES, NOW + at)) for at in (0, 10, 300, 301, 90_000)),
        counted(tx, greylist.is_due, (NOW, RULES)),
        counted(tx, greylist.expire, (NOW, 100, RULES)),
    ]


def test_statements(backend: Backend) -> None:
    assert backend.write(0, statements) == [2, 1, 3, 1, 2, 3, 3]


SAME = [
    (("192.0.2.1", "a@b.example", "c@d"), ("192.0.2.255", "A@B.example", "c@d")),
    (("192.0.2.1", "bounce-123-x@b", "c@d"), ("192.0.2.1", "bounce-99999-x@b", "c@d")),
    (("192.0.2.1", "prvs=0123456abc=a@b", "c@d"), ("192.0.2.1", "prvs=9ef0a11f00=a@b", "c@d")),
    (("192.0.2.1", "list+owner@b", "c@d"), ("192.0.2.1", "list+x77@b", "c@d")),
    (("192.0.2.1", "", "c@d"), ("::ffff:192.0.2.9", "", "c@d")),
    (("2001:db8:0:1::1", "a@b", "c@d"), ("2001:db8:0:1:ffff::2%eth0", "a@b", "c@d")),
]
OTHER = [
    (("192.0.2.1", "a@b", "c@d"), ("192.0.3.1", "a@b", "c@d")),
    (("2001:db8:0:1::1", "a@b", "c@d"), ("2001:db8:0:2::1", "a@b", "c@d")),
    (("192.0.2.1", "a@b", "c@d"), ("192.0.2.1", "b@b", "c@d")),
    (("192.0.2.1", "a@b1", "c@d"), ("192.0.2.1", "a@b2", "c@d")),
    (("192.0.2.1", "a@b", "c1@d"), ("192.0.2.1", "a@b", "c2@d")),
    (("192.0.2.1", "", "c@d"), ("192.0.2.1", "a@b", "c@d")),
    (("192.0.2.1", "x", "y"), ("0.192.0.2", "x", "y")),
]


@pytest.mark.parametrize(("one", "another"), SAME)
def test_same_attempt(one: tuple[str, str, str], another: tuple[str, str, str]) -> None:
    assert keys_of(*one) == keys_of(*another)


@pytest.mark.parametrize(("one", "another"), OTHER)
def test_other_attempt(one: tuple[str, str, str], another: tuple[str, str, str]) -> None:
    assert keys_of(*one).attempt != keys_of(*another).attempt


@given(st.ip_addresses(), st.text(), st.text())
def test_keys_fit_a_column(peer: object, reverse_path: str, recipient: str) -> None:
    found = keys_of(str(peer), reverse_path, recipient)
    assert all(-(1 << 63) <= key < 1 << 63 for key in found)
    assert found.attempt != found.network
