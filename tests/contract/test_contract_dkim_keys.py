"""The DKIM keys of domains on every backend: which sign, which are published, which are forgotten."""

import pytest
from store_harness import NOW, Backend, counted

from pochta.errors import Refusal, RefusalCode
from pochta.store import directory, dkim_keys, expiry
from pochta.store.dkim_keys import NewKey
from pochta.store.greylist import Rules
from pochta.store.tx import Tx

DAY = 86_400


def pair(month: str = "p202506") -> tuple[NewKey, ...]:
    return NewKey(f"{month}r", "rsa-sha256", b"secret r"), NewKey(f"{month}e", "ed25519-sha256", b"secret e")


@pytest.fixture
def domain(backend: Backend) -> str:
    for name in ("example.org", "other.example"):
        backend.write(0, directory.add_domain, name, name, None, NOW)
    return "example.org"


def states(backend: Backend, domain: str) -> list[tuple[str, str]]:
    return [(one.selector, one.state) for one in backend.read(0, dkim_keys.published, domain)]


def active(backend: Backend, domain: str) -> list[str]:
    return [one.selector for one in backend.read(0, dkim_keys.active, domain)]


def refusal(backend: Backend, fn: object, *args: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        backend.write(0, fn, *args)  # type: ignore[arg-type]
    return caught.value


def test_first_keys_sign_at_once(backend: Backend, domain: str) -> None:
    assert backend.write(0, dkim_keys.add, domain, pair(), NOW) == ("p202506r", "p202506e")
    first, second = backend.read(0, dkim_keys.active, domain)
    assert (first.domain, first.selector, first.algorithm) == (domain, "p202506r", "rsa-sha256")
    assert (bytes(first.private_key), bytes(second.private_key)) == (b"secret r", b"secret e")
    assert (first.created_at, first.signs_from, first.retired_at) == (NOW, NOW, None)
    assert "secret" not in f"{first!r} {pair()!r}"
    assert active(backend, "other.example") == active(backend, "none.example") == active(backend, "") == []
    assert backend.write(0, dkim_keys.rotate, "other.example", pair(), NOW) == ("p202506r", "p202506e")
    assert active(backend, "other.example") == []


def test_domains_without_keys(backend: Backend, domain: str) -> None:
    assert domain in backend.read(0, dkim_keys.without_keys)
    backend.write(0, dkim_keys.add, domain, pair(), NOW)
    assert domain not in backend.read(0, dkim_keys.without_keys)


def test_rotation(backend: Backend, domain: str) -> None:
    backend.write(0, dkim_keys.add, domain, pair(), NOW)
    backend.write(0, dkim_keys.add, "other.example", pair(), NOW)
    assert backend.write(0, dkim_keys.rotate, domain, pair("p202507"), NOW + DAY) == ("p202507r", "p202507e")
    assert active(backend, domain) == ["p202506r", "p202506e"]
    assert refusal(backend, dkim_keys.rotate, domain, pair(), NOW).text == (
        "domain example.org has new keys that wait for their DNS records: p202507r, p202507e"
    )
    ids = {one.selector: one.id for one in backend.read(0, dkim_keys.waiting)}
    assert list(ids) == ["p202507r", "p202507e"]

    now = NOW + 2 * DAY  # of one the record is seen first
    assert backend.write(0, dkim_keys.activate, [ids["p202507e"]], now) == (ids["p202507e"],)
    assert active(backend, domain) == ["p202506r", "p202507e"]
    assert backend.write(0, dkim_keys.activate, list(ids.values()), now + DAY) == (ids["p202507r"],)
    assert backend.write(0, dkim_keys.activate, [*ids.values(), 999], now + DAY) == ()
    assert active(backend, domain) == ["p202507r", "p202507e"]
    assert states(backend, domain) == [
        ("p202506r", "retired"),
        ("p202506e", "retired"),
        ("p202507r", "signing"),
        ("p202507e", "signing"),
    ]
    assert active(backend, "other.example") == ["p202506r", "p202506e"]

    rules = Rules()
    assert not backend.read(0, expiry.is_due, now + dkim_keys.OVERLAP_S - 1, rules)
    assert backend.write(0, dkim_keys.expire_retired, now + dkim_keys.OVERLAP_S - 1, 9) == 0
    assert backend.read(0, expiry.is_due, now + dkim_keys.OVERLAP_S, rules)
    assert backend.write(0, expiry.expire, now + dkim_keys.OVERLAP_S, 9, rules) == 1
    assert [one for one, _ in states(backend, domain)] == ["p202506r", "p202507r", "p202507e"]
    assert backend.write(0, dkim_keys.expire_retired, now + 99 * DAY, 9) == 1
    assert states(backend, "other.example") == [("p202506r", "signing"), ("p202506e", "signing")]


def test_selectors_are_unique_in_a_domain(backend: Backend, domain: str) -> None:
    backend.write(0, dkim_keys.add, domain, pair(), NOW)
    assert backend.write(0, dkim_keys.rotate, domain, pair(), NOW) == ("p202506r2", "p202506e2")
    ids = [one.id for one in backend.read(0, dkim_keys.waiting)]
    backend.write(0, dkim_keys.activate, ids, NOW)
    assert backend.write(0, dkim_keys.rotate, domain, pair(), NOW) == ("p202506r3", "p202506e3")


def test_number_of_keys_is_bounded(backend: Backend, domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkim_keys, "MAX_KEYS", 3)
    backend.write(0, dkim_keys.add, domain, pair(), NOW)
    assert refusal(backend, dkim_keys.rotate, domain, pair(), NOW).code is RefusalCode.LIMIT
    assert len(states(backend, domain)) == 2


def test_domain_that_does_not_exist(backend: Backend, domain: str) -> None:
    for fn in (dkim_keys.add, dkim_keys.rotate):
        assert refusal(backend, fn, "none.example", pair(), NOW).code is RefusalCode.NO_SUCH_DOMAIN
        assert refusal(backend, fn, "", pair(), NOW).code is RefusalCode.NO_SUCH_DOMAIN
    assert backend.query("SELECT * FROM dkim_key") == []


def test_keys_go_with_their_domain(backend: Backend, domain: str) -> None:
    for name in (domain, "other.example"):
        backend.write(0, dkim_keys.add, name, pair(), NOW)
    backend.write(0, directory.remove_domain, domain)
    assert backend.query("SELECT count(*) FROM dkim_key") == [(2,)]
    assert active(backend, "other.example") == ["p202506r", "p202506e"]


def test_contradictions_are_found(sqlite: Backend) -> None:
    sqlite.write(0, directory.add_domain, "example.org", "example.org", None, NOW)
    for month in ("p202506", "p202507"):
        sqlite.write(0, dkim_keys.add, "example.org", pair(month), NOW)
    sqlite.execute("UPDATE dkim_key SET retired_at = 1 WHERE selector = 'p202506e'")
    what = [(one.partition(";")[0]) for one in sqlite.findings()]
    assert what == [
        "error: DKIM key 2: a DKIM key belongs to a domain that does not exist, or was retired before it signed",
        "error: example.org, rsa-sha256: a domain has two DKIM keys of one algorithm that sign",
    ]
    sqlite.execute("DELETE FROM dkim_key")


def statements(tx: Tx) -> list[int]:
    counts = [
        counted(tx, dkim_keys.add, ("example.org", pair(), NOW)),
        counted(tx, dkim_keys.active, ("example.org",)),
        counted(tx, dkim_keys.published, ("example.org",)),
        counted(tx, dkim_keys.rotate, ("example.org", pair(), NOW)),
        counted(tx, dkim_keys.waiting, ()),
    ]
    ids = [one.id for one in dkim_keys.waiting(tx)]
    return [
        *counts,
        counted(tx, dkim_keys.activate, (ids, NOW)),
        counted(tx, dkim_keys.activate, (ids, NOW)),
        counted(tx, dkim_keys.is_due, (NOW,)),
        counted(tx, dkim_keys.expire_retired, (NOW, 9)),
    ]


def test_statements(backend: Backend, domain: str) -> None:
    assert backend.write(0, statements) == [4, 1, 1, 6, 1, 4, 2, 1, 1]
