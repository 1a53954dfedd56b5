"""Keys of a domain as they are made, named and told with their DNS records."""

from types import SimpleNamespace

import pytest
from accounts_harness import NOW, Accounts
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from pochta.accounts import apply, edit, signing
from pochta.accounts.apply import Change
from pochta.errors import Refusal, RefusalCode
from pochta.policy.dkim.keys import read_key
from pochta.store import dkim_keys
from pochta.store.dkim_keys import NewKey

NOVEMBER = 1_795_000_000  # 2026-11-18


@pytest.fixture(scope="module")
def made() -> tuple[NewKey, ...]:
    """One pair for all tests: RSA takes its time."""
    return signing.new_keys(NOVEMBER)


def test_pair_is_rsa_2048_and_ed25519_named_by_the_month(made: tuple[NewKey, ...]) -> None:
    assert [(one.selector, one.algorithm) for one in made] == [
        ("p202611r", "rsa-sha256"),
        ("p202611e", "ed25519-sha256"),
    ]
    key = load_der_private_key(made[0].private_key, None)
    assert isinstance(key, RSAPrivateKey)
    assert key.key_size == 2048
    assert signing.loaded(made[1].private_key) is signing.loaded(made[1].private_key)


@pytest.mark.rfc(6376, "3.6.2.1")
def test_records_name_the_selector_below_the_domain(accounts: Accounts, made: tuple[NewKey, ...]) -> None:
    accounts.write(edit.add_domain, "Почта.рф", None, NOW, made)
    rsa, ed25519 = accounts.read(signing.records, "почта.рф")
    assert (rsa.name, ed25519.name) == (
        "p202611r._domainkey.xn--80a1acny.xn--p1ai",
        "p202611e._domainkey.xn--80a1acny.xn--p1ai",
    )
    assert [one.state for one in (rsa, ed25519)] == ["signing", "signing"]
    for one in (rsa, ed25519):
        read_key(one.text.encode())  # as a verifier reads it


def test_rotation_is_by_any_spelling_of_the_domain(accounts: Accounts, made: tuple[NewKey, ...]) -> None:
    accounts.write(edit.add_domain, "example.org", None, NOW, made)
    assert accounts.write(signing.rotate, "EXAMPLE.org.", made, NOW) == ("p202611r2", "p202611e2")
    assert [one.state for one in accounts.read(signing.records, "example.org")] == ["signing"] * 2 + ["next"] * 2
    for name, code in (("none.example", RefusalCode.NO_SUCH_DOMAIN), ("a b", RefusalCode.INVALID_NAME)):
        with pytest.raises(Refusal) as caught:
            accounts.write(signing.rotate, name, made, NOW)
        assert caught.value.code is code
        with pytest.raises(Refusal) as caught:
            accounts.read(signing.records, name)
        assert caught.value.code is code


def test_domain_without_keys_is_possible(accounts: Accounts) -> None:
    accounts.domain()
    assert accounts.read(signing.records, "example.org") == []


def test_apply_makes_keys_for_new_domains_only(accounts: Accounts) -> None:
    changes = [
        Change("add_domain", ("one.example", None, NOW), "+ domain one.example"),
        Change("add_domain", ("two.example", None, NOW), "+ domain two.example"),
        Change("set_catch_all", ("one.example", None), "~ domain one.example"),
    ]
    count = SimpleNamespace(made=0)

    def make() -> tuple[NewKey, ...]:
        count.made += 1
        return (NewKey("s", "ed25519-sha256", b"%d" % count.made),)

    with_keys = apply.with_keys(changes, make)
    accounts.write(apply.run, [(one.verb, one.args) for one in with_keys])
    assert count.made == 2
    for name, private_key in (("one.example", b"1"), ("two.example", b"2")):
        assert [bytes(one.private_key) for one in accounts.read(dkim_keys.active, name)] == [private_key]
    assert "b'" not in repr(with_keys)
