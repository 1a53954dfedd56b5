"""Where mail for an address goes, and what may stand beside what in the directory."""

import pytest
from accounts_harness import NOW, Accounts

from pochta.accounts import edit
from pochta.accounts.directory import MAX_ALIAS_HOPS, MAX_RECIPIENTS, Resolution, resolve
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.address import POSTMASTER, parse_mailbox
from pochta.store import directory
from pochta.store.tx import Tx

ALIASES = {
    "info@example.org": ["anna@example.org", "bob@example.org"],
    "outer@example.org": ["info@example.org", "Remote@ELSE.example"],
    "circle1@example.org": ["circle2@example.org"],
    "circle2@example.org": ["circle1@example.org"],
    "halfcircle@example.org": ["circle1@example.org", "bob@example.org"],
    "stale@example.org": ["gone@example.org", "bob@example.org"],
    "nobody@example.org": ["gone@example.org"],
    "any@example.org": ["whoever@catch.example", "anna@example.org"],
    "detail@example.org": ["bob+lists@example.org"],
}


def _populate(tx: Tx) -> None:
    """Accounts 1 to 4, aliases of every kind, four domains."""
    for name, catch_all in (
        ("example.org", None),
        ("catch.example", "anna@example.org"),
        ("почта.рф", None),
        ("empty.example", None),
    ):
        edit.add_domain(tx, name, catch_all, NOW)
    for address in ("anna@example.org", "bob@example.org", "a+b@example.org", "иван@почта.рф"):
        edit.add_account(tx, address, "x", 0, NOW)
    for address, targets in ALIASES.items():
        edit.put_alias(tx, address, targets, NOW)


@pytest.fixture
def many(accounts: Accounts) -> Accounts:
    accounts.write(_populate)
    return accounts


@pytest.fixture(scope="module")
def fixed(shared: Accounts) -> Accounts:
    """As `many`, for tests that only read."""
    shared.write(_populate)
    return shared


RESOLVED = {
    "account": ("anna@example.org", Resolution((1,))),
    "other case": ("Anna@EXAMPLE.org", Resolution((1,))),
    "quoted": ('"anna"@example.org', Resolution((1,))),
    "account with plus in its name": ("a+b@example.org", Resolution((3,))),
    "detail": ("bob+Lists@example.org", Resolution((2,), detail="Lists")),
    "detail of an alias": ("info+x@example.org", Resolution((1, 2), detail="x")),
    "two plus signs": ("bob+x+y@example.org", Resolution((2,), detail="x+y")),
    "Cyrillic, A-label": ("ИВАН@xn--80a1acny.xn--p1ai", Resolution((4,))),
    "alias": ("info@example.org", Resolution((1, 2))),
    "nested and remote": ("outer@example.org", Resolution((1, 2), remotes=("Remote@else.example",))),
    "a circle beside somebody": (
        "halfcircle@example.org",
        Resolution((2,), loops=("circle1@example.org",)),
    ),
    "a target that is gone": ("stale@example.org", Resolution((2,), broken=("gone@example.org",))),
    "catch-all": ("x@catch.example", Resolution((1,))),
    "catch-all with detail": ("x+y@catch.example", Resolution((1,))),
    "twice the same": ("any@example.org", Resolution((1,))),
    "target with detail": ("detail@example.org", Resolution((2,))),
}


@pytest.mark.parametrize("name", RESOLVED)
def test_resolved(fixed: Accounts, name: str) -> None:
    address, expected = RESOLVED[name]
    assert fixed.read(resolve, parse_mailbox(address), None) == expected


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("nobody.here@example.org", RefusalCode.NO_SUCH_USER),
        ("x+anna@example.org", RefusalCode.NO_SUCH_USER),
        ("+anna@example.org", RefusalCode.NO_SUCH_USER),
        ("nobody@example.org", RefusalCode.NO_SUCH_USER),
        ("circle1@example.org", RefusalCode.NO_SUCH_USER),
        ("anna@elsewhere.example", RefusalCode.NOT_LOCAL),
        ("postmaster@elsewhere.example", RefusalCode.NOT_LOCAL),
        ("anna@[127.0.0.1]", RefusalCode.NOT_LOCAL),
        ("anna@sub.example.org", RefusalCode.NOT_LOCAL),
    ],
)
def test_refused(fixed: Accounts, address: str, code: RefusalCode) -> None:
    with pytest.raises(Refusal) as caught:
        fixed.read(resolve, parse_mailbox(address), None)
    assert caught.value.code is code
    assert "example" not in caught.value.text  # it may reach the peer


@pytest.mark.rfc(5321, "4.5.1")
@pytest.mark.parametrize(
    ("address", "setting", "accounts_of"),
    [
        ("postmaster@example.org", None, (1,)),
        ("POSTMASTER@почта.рф", None, (4,)),
        ("postmaster@empty.example", None, (1,)),
        ("postmaster@catch.example", None, (1,)),
        ("postmaster+abuse@почта.рф", None, (4,)),
        ("postmaster@почта.рф", "bob@example.org", (2,)),
        ("postmaster@почта.рф", "info@example.org", (1, 2)),
        ("postmaster@почта.рф", "gone@example.org", (4,)),
        ("postmaster@почта.рф", "postmaster@почта.рф", (4,)),
        (None, None, (1,)),
        (None, "bob@example.org", (2,)),
        (None, "gone@example.org", (1,)),
        (None, "postmaster@почта.рф", (1,)),
    ],
)
def test_postmaster_is_always_somebody(
    fixed: Accounts, address: str | None, setting: str | None, accounts_of: tuple[int, ...]
) -> None:
    found = fixed.read(resolve, parse_mailbox(address) if address else POSTMASTER, setting)
    assert found.accounts == accounts_of


@pytest.mark.rfc(5321, "4.5.1")
def test_postmaster_of_ones_own_goes_first(many: Accounts) -> None:
    many.alias("postmaster@example.org", "bob@example.org")
    assert many.read(resolve, parse_mailbox("postmaster@example.org"), "anna@example.org").accounts == (2,)


def test_postmaster_elsewhere_is_reported(fixed: Accounts) -> None:
    assert fixed.read(resolve, POSTMASTER, "me@else.example").remotes == ("me@else.example",)


@pytest.mark.rfc(5321, "4.5.1")
def test_postmaster_of_an_empty_server_is_put_off(accounts: Accounts) -> None:
    with pytest.raises(TryLater):
        accounts.read(resolve, POSTMASTER, None)


def test_hops_are_bounded(accounts: Accounts) -> None:
    accounts.domain()
    accounts.account("a0@example.org")
    for hop in range(MAX_ALIAS_HOPS + 1):
        accounts.alias(f"a{hop + 1}@example.org", f"a{hop}@example.org")
    assert accounts.read(resolve, parse_mailbox(f"a{MAX_ALIAS_HOPS}@example.org"), None).accounts == (1,)
    with pytest.raises(Refusal) as caught:
        accounts.read(resolve, parse_mailbox(f"a{MAX_ALIAS_HOPS + 1}@example.org"), None)
    assert caught.value.code is RefusalCode.LIMIT
    assert "a11@example.org -> a10@example.org" in caught.value.detail


def test_recipients_are_bounded(accounts: Accounts) -> None:
    accounts.domain()
    for name in "ab":
        accounts.alias(f"{name}@example.org", *(f"{name}{n}@else.example" for n in range(MAX_RECIPIENTS // 2)))
    accounts.alias("both@example.org", "a@example.org", "b@example.org")
    with pytest.raises(Refusal) as caught:
        accounts.read(resolve, parse_mailbox("both@example.org"), None)
    assert caught.value.code is RefusalCode.LIMIT


class _Counting:
    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.count = 0

    def rows(self, sql: str, args: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        self.count += 1
        return self.tx.rows(sql, args)  # type: ignore[arg-type]  # handed through

    def row(self, sql: str, args: tuple[object, ...] = ()) -> tuple[object, ...] | None:
        self.count += 1
        return self.tx.row(sql, args)  # type: ignore[arg-type]  # handed through


def _count(tx: Tx, address: str) -> int:
    counting = _Counting(tx)
    resolve(counting, parse_mailbox(address))  # type: ignore[arg-type]  # handed through
    return counting.count


@pytest.mark.parametrize(
    ("address", "statements"), [("anna@example.org", 1), ("bob+x@example.org", 2), ("info@example.org", 4)]
)
def test_statements_of_a_lookup(fixed: Accounts, address: str, statements: int) -> None:
    assert fixed.read(_count, address) == statements


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((edit.add_domain, "EXAMPLE.org", None, NOW), RefusalCode.EXISTS),
        ((edit.add_domain, "[127.0.0.1]", None, NOW), RefusalCode.INVALID_NAME),
        ((edit.add_domain, "a b", None, NOW), RefusalCode.INVALID_NAME),
        ((edit.remove_domain, "example.org"), RefusalCode.IN_USE),
        ((edit.remove_domain, "none.example"), RefusalCode.NO_SUCH_DOMAIN),
        ((edit.set_catch_all, "none.example", None), RefusalCode.NO_SUCH_DOMAIN),
        ((edit.add_account, "ANNA@example.org", "", 0, NOW), RefusalCode.EXISTS),
        ((edit.add_account, "info@example.org", "", 0, NOW), RefusalCode.EXISTS),
        ((edit.add_account, "x@none.example", "", 0, NOW), RefusalCode.NO_SUCH_DOMAIN),
        ((edit.add_account, "x", "", 0, NOW), RefusalCode.INVALID_NAME),
        ((edit.remove_account, "x@example.org", NOW), RefusalCode.NO_SUCH_USER),
        ((edit.set_credential, "info@example.org", ""), RefusalCode.NO_SUCH_USER),
        ((edit.set_quota, "x@none.example", 1), RefusalCode.NO_SUCH_USER),
        ((edit.add_alias, "anna@example.org", ["bob@example.org"], NOW), RefusalCode.EXISTS),
        ((edit.add_alias, "info@example.org", ["bob@example.org"], NOW), RefusalCode.EXISTS),
        ((edit.add_alias, "x@none.example", ["bob@example.org"], NOW), RefusalCode.NO_SUCH_DOMAIN),
        ((edit.add_alias, "x@example.org", ["X@example.org"], NOW), RefusalCode.CANNOT),
        ((edit.add_alias, "gone@example.org", ["nobody@example.org"], NOW), RefusalCode.CANNOT),
        ((edit.add_alias, "x@example.org", ["y@example.org"], NOW), RefusalCode.NO_SUCH_USER),
        ((edit.add_alias, "x@example.org", [], NOW), RefusalCode.LIMIT),
        ((edit.add_alias, "x@example.org", ["y"], NOW), RefusalCode.INVALID_NAME),
        ((edit.set_targets, "x@example.org", ["anna@example.org"]), RefusalCode.NOT_FOUND),
        ((edit.remove_alias, "anna@example.org"), RefusalCode.NOT_FOUND),
    ],
    ids=lambda value: getattr(value[0], "__name__", None) if isinstance(value, tuple) else None,
)
def test_refused_changes_leave_no_trace(fixed: Accounts, change: tuple[object, ...], code: RefusalCode) -> None:
    before = fixed.read(directory.domains), fixed.read(directory.accounts), fixed.read(directory.aliases)
    with pytest.raises(Refusal) as caught:
        fixed.write(*change)  # type: ignore[arg-type]  # handed through
    assert caught.value.code is code
    assert before == (fixed.read(directory.domains), fixed.read(directory.accounts), fixed.read(directory.aliases))


def test_targets_are_kept_once_in_one_spelling(accounts: Accounts) -> None:
    accounts.domain()
    accounts.account("anna@example.org")
    accounts.write(edit.add_alias, "x@example.org", ["Bob@Else.Example", "bob@else.example", "Anna@EXAMPLE.org"], NOW)
    assert accounts.read(directory.aliases)[0].targets == ("Anna@example.org", "Bob@else.example")


def _row(tx: Tx, sql: str) -> tuple[object, ...] | None:
    return tx.row(sql)


def test_removed_account_is_detached_in_its_row(many: Accounts) -> None:
    generation = many.read(edit.account, "anna@example.org").generation
    many.write(edit.remove_account, "anna@example.org", NOW + 1)
    columns = "local_part, removed_at, is_enabled, credential, credential_generation"
    assert many.read(_row, f"SELECT {columns} FROM account WHERE id = 1") == (None, NOW + 1, 0, "", generation + 1)
    assert many.read(_row, "SELECT kind, account_id FROM task") == ("account_remove", 1)
    assert many.read(directory.generation, 1) is None
    assert [one.address for one in many.read(directory.accounts, "example.org")] == [
        "a+b@example.org",
        "bob@example.org",
    ]
    assert many.read(resolve, parse_mailbox("info@example.org"), None) == Resolution((2,), broken=("anna@example.org",))


@pytest.mark.parametrize("seconds", [0, 1])
def test_account_made_again_repeats_no_uid_validity(accounts: Accounts, seconds: int) -> None:
    accounts.domain()
    values = "SELECT min(uid_validity), max(uid_validity) FROM mailbox WHERE account_id = (SELECT max(id) FROM account)"
    accounts.account("anna@example.org")
    first = accounts.read(_row, values)
    accounts.write(edit.remove_account, "anna@example.org", NOW)
    accounts.write(edit.add_account, "anna@example.org", "", 0, NOW + seconds)
    second = accounts.read(_row, values)
    assert first is not None
    assert second is not None
    assert first[0] == NOW
    assert second[0] > first[1]  # type: ignore[operator]


def test_domain_is_emptied_in_steps(accounts: Accounts) -> None:
    accounts.domain()
    for number in range(directory.STEP_ROWS + 1):
        accounts.alias(f"a{number}@example.org", "x@else.example")
    accounts.account("anna@example.org")
    counts = []
    while not counts or counts[-1]:
        counts.append(accounts.write(edit.empty_domain, "example.org", NOW))
    assert counts == [directory.STEP_ROWS, 1, 1, 0]
    accounts.write(edit.remove_domain, "example.org")
    assert accounts.read(directory.domains) == []
    accounts.domain()
    accounts.account("anna@example.org")


def test_change_of_credential_and_sign_in_raise_the_generation_and_tell(accounts: Accounts) -> None:
    accounts.domain()
    id = accounts.account("anna@example.org")
    heard: list[int] = []
    accounts.store.subscribe(lambda hints: heard.extend(hint.account_id for hint in hints))
    accounts.write(edit.set_credential, "anna@example.org", "")
    assert accounts.read(directory.generation, id) == 2
    accounts.write(directory.set_enabled, "example.org", "anna", False)
    assert accounts.read(directory.generation, id) is None
    accounts.write(directory.set_enabled, "example.org", "anna", True)
    assert accounts.read(directory.generation, id) == 4
    assert heard == [id, id, id]
