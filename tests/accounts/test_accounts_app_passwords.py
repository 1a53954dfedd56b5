"""App passwords: how they are typed, what they open, how they end; with a password and by SCRAM."""

import asyncio
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator

import pytest
from accounts_harness import CHEAP, NOW, Accounts, HeldClock, HeldWall, query

from pochta.accounts import app_passwords, apply, declare, edit
from pochta.accounts.app_passwords import letters_of, scram_keys
from pochta.accounts.auth import SECRET_NAME, AuthenticatedAccount, Authenticator, Service
from pochta.accounts.throttle import BY_NAME
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.log import Secret
from pochta.proto import scram
from pochta.store import app_passwords as stored
from pochta.store import directory, sign_ins

PEER = "198.51.100.7"
SERVER_SECRET = bytes(range(32))


class Door:
    """An authenticator, driven from outside."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self.authenticator = Authenticator(accounts.store, cost=CHEAP)
        accounts.write(sign_ins.make_secret, SECRET_NAME, SERVER_SECRET)

    def app_password(self, address: str = "anna@example.org", scope: str = "mail", label: str = "phone") -> str:
        shown = app_passwords.generate().reveal()
        self.add(address, scope, label, shown)
        return shown

    def add(self, address: str, scope: str, label: str, shown: str) -> int:
        letters = letters_of(Secret(shown))
        assert letters is not None
        local_part = self.accounts.read(edit.account, address).local_part
        keys = scram_keys(letters, app_passwords.salt(SERVER_SECRET, local_part))
        made = app_passwords.Made(app_passwords.digest(letters), *keys)
        return self.accounts.write(app_passwords.add, address, label, scope, made, NOW)

    def enter(self, password: str, service: Service = Service.IMAP, name: str = "anna@example.org") -> bool:
        try:
            self.accounts.run(self.authenticator.verify(name, Secret(password), service=service, peer=PEER))
        except Refusal:
            return False
        return True

    def scram(
        self,
        password: str,
        service: Service = Service.SMTP,
        name: str = "anna@example.org",
        header: bytes = b"n,,",
    ) -> AuthenticatedAccount:
        """Sign in by SCRAM as a client does, the server's signature checked."""

        async def work() -> AuthenticatedAccount:
            bare = b"n=" + name.replace("=", "=3D").replace(",", "=2C").encode() + b",r=abcdef"
            sign_in = await self.authenticator.begin_scram(header + bare, service=service, peer=PEER)
            nonce, salt, iterations = (part[2:] for part in sign_in.challenge.split(b","))
            assert nonce.startswith(b"abcdef")
            salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
            client_key = hmac.digest(salted, b"Client Key", "sha256")
            without_proof = b"c=" + b64encode(header) + b",r=" + nonce
            said = bare + b"," + sign_in.challenge + b"," + without_proof
            signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
            proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
            account, final = await sign_in.finish(without_proof + b",p=" + b64encode(proof))
            server_key = hmac.digest(salted, b"Server Key", "sha256")
            assert final == b"v=" + b64encode(hmac.digest(server_key, said, "sha256"))
            return account

        return self.accounts.run(work())

    def challenge(self, name: str) -> list[bytes]:
        """Salt and iteration count for a name."""
        first = b"n,,n=" + name.encode() + b",r=abcdef"
        sign_in = self.accounts.run(self.authenticator.begin_scram(first, service=Service.SMTP, peer=PEER))
        return sign_in.challenge.split(b",")[1:]

    def close(self) -> None:
        async def work() -> None:
            self.authenticator.close()

        self.accounts.run(work())


@pytest.fixture
def door(accounts: Accounts, wall: HeldWall) -> Iterator[Door]:
    """anna and иван have accounts."""
    accounts.domain()
    accounts.domain("почта.рф")
    accounts.account("Anna@example.org")
    accounts.account("иван@почта.рф", "верный-конь")
    door = Door(accounts)
    yield door
    door.close()


# How it is written


def test_shown_form() -> None:
    made = [app_passwords.generate().reveal() for _ in range(200)]
    assert all(re.fullmatch(r"(?:[abcdefghijkmnpqrstuvwxyz]{4}-){6}[a-z]{4}", one) for one in made)
    letters = Counter("".join(made).replace("-", ""))
    assert set(letters) == set(app_passwords.LETTERS)
    assert len(app_passwords.LETTERS) ** app_passwords.LENGTH >= 2**128
    assert len(set(made)) == 200
    assert "Secret" in repr(app_passwords.generate())


SHOWN = "abcd-efgh-ijkm-npqr-stuv-wxyz-abcd"
LETTERS = SHOWN.replace("-", "")


@pytest.mark.parametrize(
    "typed",
    [
        SHOWN,
        LETTERS,
        SHOWN.upper(),
        SHOWN.replace("-", " "),
        SHOWN.replace("-", "\u2013"),
        SHOWN.replace("-", "\u00a0"),
        f" {SHOWN}\t",
        SHOWN.replace("-", " - "),
    ],
)
def test_typed_forms(typed: str) -> None:
    letters = letters_of(Secret(typed))
    assert letters is not None
    assert letters.reveal() == LETTERS


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "secret",
        LETTERS[1:],
        LETTERS + "a",
        LETTERS[:-1] + "l",
        LETTERS[:-1] + "1",
        LETTERS[:-1] + "ä",
        LETTERS + " " * 99,
    ],
)
def test_what_is_no_app_password(typed: str) -> None:
    assert letters_of(Secret(typed)) is None


# What it opens


@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ("mail", {Service.IMAP, Service.POP3, Service.SMTP}),
        ("imap", {Service.IMAP}),
        ("pop3", {Service.POP3}),
        ("smtp", {Service.SMTP}),
        ("calendar", set()),
    ],
)
def test_scope(door: Door, events: list[str], wall: HeldWall, scope: str, opens: set[Service]) -> None:
    shown = door.app_password(scope=scope)
    for _ in range(2):  # checked, then remembered
        assert {service for service in Service if door.enter(shown, service)} == opens
    for service in Service:
        if service in opens:
            assert door.scram(shown, service).address == "Anna@example.org"
        else:
            with pytest.raises(Refusal):
                door.scram(shown, service)
    wall.at += 1
    assert door.enter("secret", Service.IMAP)  # the account's own goes on to work, everywhere
    assert door.enter("secret", Service.SMTP)


def test_app_password_of_another_scope_is_no_guess(
    door: Door, wall: HeldWall, checks: list[str], events: list[str]
) -> None:
    shown = door.app_password(scope="imap")
    spellings = [shown, shown.upper(), shown.replace("-", ""), shown.replace("-", " "), shown.title(), f" {shown}"]
    for typed in (*spellings, f"{shown} ", shown):
        with pytest.raises(Refusal) as caught:
            door.accounts.run(
                door.authenticator.verify("anna@example.org", Secret(typed), service=Service.SMTP, peer=PEER)
            )
        assert (caught.value.code, caught.value.text) == (RefusalCode.AUTH_FAILED, "authentication failed")
    assert len(checks) == 7  # as long as for a wrong one; the last was a repetition
    for _ in range(BY_NAME.free + 1):
        with pytest.raises(Refusal):
            door.scram(shown)
    line = f"auth.failed address=anna@example.org peer={PEER} service=smtp"
    said = [one.split(" ", 1)[1] for one in events]
    assert said[:7] == [f"{line} reason=scope\n"] * 7
    assert said[7] == f"{line} repeated=yes reason=scope\n"
    assert said[8:] == [f"{line} reason=scope\n"] * (BY_NAME.free + 1)
    assert door.enter(shown, Service.IMAP)
    door.accounts.run(door.authenticator.throttle.flush())
    assert door.accounts.read(query, "SELECT * FROM sign_in_failure") == []


def test_app_password_of_another_scope_is_put_off_as_any(door: Door, wall: HeldWall, events: list[str]) -> None:
    shown = door.app_password(scope="imap")
    for number in range(BY_NAME.free + 1):
        assert not door.enter(f"guess {number}", Service.SMTP)
    for service in Service:
        with pytest.raises(TryLater):
            door.enter(shown, service)
        with pytest.raises(TryLater):
            door.scram(shown, service)


def test_scope_when_services_ask_at_once(door: Door, events: list[str]) -> None:
    shown = Secret(door.app_password(scope="imap"))

    async def together() -> list[object]:
        ask = [
            door.authenticator.verify("anna", shown, service=service, peer=PEER)
            for service in (Service.SMTP, Service.IMAP, Service.POP3, Service.IMAP)
        ]
        return await asyncio.gather(*ask, return_exceptions=True)

    kinds = [type(one) for one in door.accounts.run(together())]
    assert kinds == [Refusal, AuthenticatedAccount, Refusal, AuthenticatedAccount]


def test_app_password_needs_no_slow_hash_and_may_be_typed_loosely(
    door: Door, checks: list[str], events: list[str]
) -> None:
    shown = door.app_password()
    for typed in (shown, shown.upper(), shown.replace("-", " "), shown.replace("-", "")):
        assert door.enter(typed)
    assert checks == []


def test_app_password_of_another_account(door: Door, events: list[str]) -> None:
    shown = door.app_password()
    assert not door.enter(shown, name="иван@почта.рф")
    with pytest.raises(Refusal):
        door.scram(shown, name="иван@почта.рф")


def test_account_password_that_looks_like_an_app_password(door: Door, events: list[str]) -> None:
    door.accounts.account("bob@example.org", SHOWN)
    assert door.enter(SHOWN, name="bob@example.org")
    assert not door.enter(LETTERS, name="bob@example.org")


def test_unknown_names_and_wrong_app_passwords_cost_one_check(door: Door, checks: list[str], events: list[str]) -> None:
    door.app_password()
    for name in ("anna@example.org", "nobody@example.org"):
        assert not door.enter(SHOWN, name=name)
    assert [credential.rsplit("$", 2)[0] for credential in checks] == ["$argon2id$v=19$m=8,t=1,p=1"] * 2


# How it ends


def test_removal_ends_what_is_remembered_and_every_session(door: Door, events: list[str]) -> None:
    shown, other = door.app_password(), door.app_password(label="laptop")
    account = door.scram(shown)
    assert door.enter(shown)
    first, second = door.accounts.read(app_passwords.listed, "anna@example.org")
    door.accounts.write(app_passwords.remove, "anna@example.org", first.id)
    assert not door.enter(shown)
    with pytest.raises(Refusal):
        door.scram(shown)
    assert door.enter(other)
    assert door.accounts.read(directory.generation, account.account_id) == account.generation + 1
    assert door.accounts.read(app_passwords.listed, "anna@example.org") == [second]
    with pytest.raises(Refusal) as caught:
        door.accounts.write(app_passwords.remove, "anna@example.org", first.id)
    assert caught.value.code is RefusalCode.NOT_FOUND


def test_id_is_never_used_again(door: Door) -> None:
    ids = []
    for _ in range(3):
        ids.append(door.add("anna@example.org", "mail", "x", SHOWN))
        door.accounts.write(app_passwords.remove, "anna@example.org", ids[-1])
    assert ids == sorted(set(ids))


def test_disabled_and_removed_accounts(door: Door, events: list[str]) -> None:
    shown = door.app_password()
    door.accounts.write(directory.set_enabled, "example.org", "anna", False)
    assert not door.enter(shown)
    with pytest.raises(Refusal):
        door.scram(shown)
    door.accounts.write(edit.remove_account, "anna@example.org", NOW)
    door.accounts.account("anna@example.org", "other")
    assert not door.enter(shown)
    assert door.accounts.read(app_passwords.listed, "anna@example.org") == []


def test_so_many_and_no_more(door: Door) -> None:
    for _ in range(stored.MAX_PER_ACCOUNT):
        last = door.app_password()
    with pytest.raises(Refusal) as caught:
        door.app_password()
    assert caught.value.code is RefusalCode.LIMIT
    assert door.scram(last).account_id == 1


@pytest.mark.parametrize("label", ["", "  ", "x" * 101, "two\nlines", "bell\a"])
def test_label_that_is_none(door: Door, label: str) -> None:
    with pytest.raises(Refusal) as caught:
        door.app_password(label=label)
    assert caught.value.code is RefusalCode.INVALID_NAME


def test_nothing_that_is_kept_opens_anything(door: Door) -> None:
    shown = door.app_password()
    rows = door.accounts.read(query, "SELECT * FROM app_password")
    assert shown not in str(rows)
    assert shown.replace("-", "") not in str(rows)


def test_day_of_use(door: Door, wall: HeldWall, held: HeldClock, events: list[str]) -> None:
    shown = door.app_password()

    def used_at() -> int | None:
        door.accounts.run(door.authenticator.throttle.flush())
        [one] = door.accounts.read(app_passwords.listed, "anna@example.org")
        return one.used_at

    assert used_at() is None
    assert door.enter(shown)
    assert used_at() == NOW
    wall.at += stored.USE_AGAIN_S - 1
    door.scram(shown)
    assert used_at() == NOW
    wall.at += 1
    door.scram(shown)
    assert used_at() == NOW + stored.USE_AGAIN_S


def test_apply_leaves_app_passwords_alone(door: Door) -> None:
    shown = door.app_password()
    text = """
    [[domain]]
    name = "example.org"
    [[account]]
    address = "anna@example.org"
    password = "changed"
    """
    declaration = declare.parse(text, "mail.toml")
    state = door.accounts.read(apply.known)
    credentials = apply.settle_credentials(declaration, state, cost=CHEAP)
    for prune in (False, True):
        for step in apply.steps(apply.plan(declaration, state, credentials, now=NOW, prune=prune)):
            door.accounts.write(apply.run, [(change.verb, change.args) for change in step])
        state = door.accounts.read(apply.known)
        assert door.enter(shown)
        assert door.enter("changed")
        assert len(door.accounts.read(app_passwords.listed, "anna@example.org")) == 1


# SCRAM


@pytest.mark.rfc(7677, "3")
@pytest.mark.parametrize(
    "name", ["anna@example.org", "ANNA@Example.ORG", "anna", "an\u00adna@example.org", "ａnna@example.org"]
)
def test_scram_names(door: Door, name: str) -> None:
    shown = door.app_password()
    assert door.scram(shown, name=name) == AuthenticatedAccount(1, "Anna@example.org", 1)
    assert door.scram(shown.replace("-", ""), name=name).account_id == 1


@pytest.mark.rfc(5802, "5.1")
@pytest.mark.parametrize("name", ["иван@почта.рф", "ИВАН@xn--80a1acny.xn--p1ai", "Иван"])
def test_scram_name_in_cyrillic(door: Door, name: str) -> None:
    shown = door.app_password("иван@почта.рф")
    assert door.scram(shown, name=name).account_id == 2


def test_scram_name_written_from_the_right_at_a_latin_domain(door: Door) -> None:
    door.accounts.account("שלום@example.org")
    shown = door.app_password("שלום@example.org")
    assert door.scram(shown, name="שלום@example.org").account_id == 3


@pytest.mark.rfc(5802, "5.1")
@pytest.mark.parametrize("name", ["\u00ad", "\u00ad@example.org", "a\x07", "\ue000@example.org", "אa@example.org"])
def test_scram_name_that_cannot_be_prepared(door: Door, name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        door.challenge(name)


def test_scram_takes_no_account_password(door: Door, events: list[str]) -> None:
    with pytest.raises(Refusal):
        door.scram("secret")
    assert events[-1].endswith(f" auth.failed address=anna@example.org peer={PEER} service=smtp\n")


@pytest.mark.parametrize("header", [b"n,a=anna@example.org,", b"n,a=ANNA@example.org,", b"y,,"])
def test_scram_header(door: Door, header: bytes) -> None:
    assert door.scram(door.app_password(), header=header).account_id == 1


@pytest.mark.rfc(5802, "5.1")
def test_scram_for_another(door: Door) -> None:
    with pytest.raises(Refusal) as caught:
        door.scram(door.app_password(), header="n,a=иван@почта.рф,".encode())
    assert caught.value.code is RefusalCode.AUTH_FAILED


def test_scram_challenge_tells_nothing(door: Door) -> None:
    """Names alike get challenges alike, whether they mean an account, one with app passwords, or nobody."""
    before = [door.challenge(name) for name in ("anna", "nobody", "иван")]
    door.app_password()
    for known, unknown in (("anna", "nobody"), ("anna@example.org", "nobody@example.org")):
        assert door.challenge(known) == door.challenge(known.upper()) == before[0]
        assert door.challenge(unknown) == door.challenge(unknown.upper()) == before[1]
    assert len({one[0] for one in before}) == 3
    assert {one[1] for one in before} == {b"i=4096"}
    again = Door(door.accounts)
    assert again.challenge("nobody") == before[1]  # the same in every worker, and after a restart
    again.close()


def test_scram_costs_the_same_for_everybody(door: Door, monkeypatch: pytest.MonkeyPatch, events: list[str]) -> None:
    shown = door.app_password()
    counted = Counter[str]()
    prove = scram.ServerExchange.is_proven_by

    def watched(self: scram.ServerExchange, stored_key: bytes) -> bool:
        counted["keys"] += 1
        return prove(self, stored_key)

    monkeypatch.setattr(scram.ServerExchange, "is_proven_by", watched)
    for name in ("anna", "иван", "nobody", "no name"):
        counted.clear()
        with pytest.raises(Refusal) as caught:
            door.scram(SHOWN, name=name)
        assert (caught.value.code, caught.value.text) == (RefusalCode.AUTH_FAILED, "authentication failed")
        assert counted["keys"] == stored.MAX_PER_ACCOUNT * app_passwords.SPELLINGS
    counted.clear()
    door.scram(shown)
    assert counted["keys"] == stored.MAX_PER_ACCOUNT * app_passwords.SPELLINGS


def test_scram_is_throttled_as_passwords_are(door: Door, wall: HeldWall, events: list[str]) -> None:
    shown = door.app_password()
    for _ in range(BY_NAME.free + 1):
        with pytest.raises(Refusal):
            door.scram(SHOWN)
    for attempt in (lambda: door.scram(shown), lambda: door.enter(shown), lambda: door.enter("secret")):
        with pytest.raises(TryLater):
            attempt()
    wall.at += 1
    assert door.scram(shown).account_id == 1


def test_scram_with_a_malformed_end(door: Door, events: list[str]) -> None:
    async def work() -> None:
        sign_in = await door.authenticator.begin_scram(b"n,,n=anna,r=x", service=Service.SMTP, peer=PEER)
        with pytest.raises(RemoteProtocolError):
            await sign_in.finish(b"c=biws,r=other,p=" + b64encode(bytes(32)))

    door.accounts.run(work())
    assert events == []


# Passwords that are not ASCII


@pytest.mark.rfc(4013, "2")
@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("верный-конь", id="as it was set"),
        pytest.param("верныи\u0306-конь", id="decomposed, as macOS writes it"),
        pytest.param("верный\u00ad-конь", id="with a soft hyphen"),
    ],
)
def test_cyrillic_password(door: Door, events: list[str], typed: str) -> None:
    for service in Service:
        assert door.enter(typed, service, name="иван@почта.рф")
    assert not door.enter("ВЕРНЫЙ-КОНЬ", name="иван@почта.рф")
