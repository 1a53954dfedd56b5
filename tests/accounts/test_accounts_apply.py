"""Files for `pochta apply`: what is refused, what is changed, and that a second run changes nothing."""

from pathlib import Path

import pytest
from accounts_harness import CHEAP, NOW, Accounts

from pochta.accounts import apply, declare, edit, sharing
from pochta.accounts.passwords import hash_password, verify_password
from pochta.accounts.quota import parse_quota, show_quota
from pochta.errors import Refusal, SetupError
from pochta.log import Secret
from pochta.store import directory

FIRST = ("INBOX", "Drafts", "Sent", "Archive", "Junk", "Trash")
FILE = """
[[domain]]
name = "example.org"
catch_all = "anna@example.org"

[[domain]]
name = "почта.рф"

[[account]]
address = "Anna@example.org"
password = "secret"
quota = "2G"

[[account]]
address = "иван@почта.рф"
password_hash = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"

[[alias]]
address = "info@example.org"
targets = ["anna@example.org", "иван@почта.рф", "me@else.example"]

[[alias]]
address = "all@example.org"
targets = ["info+all@example.org", "postmaster@example.org", "whoever@example.org"]
"""


def planned(accounts: Accounts, text: str, *, prune: bool = False) -> list[apply.Change]:
    declaration = declare.parse(text, "mail.toml")
    state = accounts.read(apply.known, declaration.owners)
    credentials = apply.settle_credentials(declaration, state, cost=CHEAP)
    return apply.plan(declaration, state, credentials, now=NOW, prune=prune)


def applied(accounts: Accounts, text: str, *, prune: bool = False) -> list[str]:
    changes = planned(accounts, text, prune=prune)
    for step in apply.steps(changes):
        accounts.write(apply.run, [(change.verb, change.args) for change in step])
    return [change.line for change in changes]


def test_second_run_changes_nothing(accounts: Accounts) -> None:
    assert applied(accounts, FILE) == [
        "+ domain example.org",
        "+ domain почта.рф",
        "+ account Anna@example.org",
        "+ account иван@почта.рф",
        "+ alias info@example.org",
        "+ alias all@example.org",
    ]
    for prune in (False, True):
        assert applied(accounts, FILE, prune=prune) == []
    stored = accounts.read(apply.known)
    assert verify_password(stored.credentials["anna", "example.org"], Secret("secret"))
    assert stored.accounts["anna", "example.org"].quota_bytes == 2 << 30
    assert stored.domains["example.org"].catch_all == "anna@example.org"
    assert [one.generation for one in stored.accounts.values()] == [1, 1]


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ('password = "secret"', 'password = "other"', ["~ account Anna@example.org: password"]),
        ('password = "secret"\n', "", []),
        ('"2G"', '"2048M"', []),
        ('"2G"', "2147483648", []),
        ('"2G"', '"none"', ["~ account Anna@example.org: quota none"]),
        ('"2G"', "0", ["~ account Anna@example.org: quota none"]),
        ('quota = "2G"\n', "", []),
        ('quota = "2G"\n', 'quota = "2G"\nenabled = true\n', []),
        ('quota = "2G"\n', 'quota = "2G"\nenabled = false\n', ["~ account Anna@example.org: disabled"]),
        ('catch_all = "anna@example.org"', "", []),
        ('catch_all = "anna@example.org"', 'catch_all = "none"', ["~ domain example.org: catch-all none"]),
        (
            ', "me@else.example"]',
            "]",
            ["~ alias info@example.org: targets anna@example.org, иван@xn--80a1acny.xn--p1ai"],
        ),
        (
            '"anna@example.org", "иван@почта.рф", "me@else.example"',
            '"me@ELSE.example", "иван@xn--80a1acny.xn--p1ai", "anna@example.org"',
            [],
        ),
    ],
)
def test_one_thing_changed(accounts: Accounts, old: str, new: str, lines: list[str]) -> None:
    text = FILE.replace('"postmaster@example.org", "whoever@example.org"', '"postmaster@example.org"')
    applied(accounts, text)
    assert old in text
    text = text.replace(old, new)
    assert applied(accounts, text) == lines
    assert applied(accounts, text) == []


def test_enabled_is_kept_where_the_file_does_not_say(accounts: Accounts) -> None:
    disabled = FILE.replace('quota = "2G"', "enabled = false")
    assert "+ account Anna@example.org, disabled" in applied(accounts, disabled)
    assert [one.is_enabled for one in accounts.read(apply.known).accounts.values()] == [False, True]
    assert applied(accounts, FILE.replace('quota = "2G"', "")) == []
    assert applied(accounts, disabled) == []
    assert applied(accounts, FILE.replace('quota = "2G"', "enabled = true")) == ["~ account Anna@example.org: enabled"]
    assert all(one.is_enabled for one in accounts.read(apply.known).accounts.values())


def test_nothing_is_removed_without_prune(accounts: Accounts) -> None:
    applied(accounts, FILE)
    less = '[[domain]]\nname = "example.org"\n[[account]]\naddress = "anna@example.org"\n'
    assert applied(accounts, less) == []
    assert applied(accounts, less, prune=True) == [
        "- alias all@example.org",
        "- alias info@example.org",
        "- account иван@почта.рф",
        "~ domain example.org: catch-all none",
        "- domain xn--80a1acny.xn--p1ai",
    ]
    assert applied(accounts, less, prune=True) == []


def test_prune_lets_an_address_change_its_kind(accounts: Accounts) -> None:
    applied(accounts, FILE)
    swapped = """
    [[domain]]
    name = "example.org"
    [[account]]
    address = "info@example.org"
    password = "x"
    [[alias]]
    address = "anna@example.org"
    targets = ["info@example.org"]
    """
    with pytest.raises(SetupError, match=r"info@example\.org: address: is an alias already; .* or use --prune"):
        planned(accounts, swapped)
    applied(accounts, swapped, prune=True)
    assert applied(accounts, swapped, prune=True) == []


DOMAIN = '[[domain]]\nname = "example.org"\n'
ANNA = '[[account]]\naddress = "anna@example.org"\npassword = "x"\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = ", "mail.toml: not TOML: "),
        ("[[domian]]", 'mail.toml: domian: no such table; did you mean "domain"?'),
        ("[server]", "mail.toml: server: no such table; known here: domain, account, alias"),
        ('[domain]\nname = "x"', "mail.toml: domain: not a list of tables; write each as [[domain]]"),
        ("domain = [1]", "mail.toml: domain: not a list of tables; write each as [[domain]]"),
        ("[[domain]]", 'mail.toml: domain 1: name: missing; add the line name = "…"'),
        ('[[domain]]\nname = "a b"', 'mail.toml: domain 1: name: "a b" is not a domain; write it as example.org'),
        (DOMAIN + 'catchall = "x"', 'mail.toml: domain 1: catchall: no such key; did you mean "catch_all"?'),
        (DOMAIN + 'catch_all = "x"', 'mail.toml: domain 1: catch_all: "x" is not an address; write it as '),
        (
            DOMAIN + DOMAIN.upper().replace("[[DOMAIN]]\nNAME", "[[domain]]\nname"),
            "mail.toml: domain 2: name: declared",
        ),
        ("[[account]]\naddress = 1", 'mail.toml: account 1: address: not a text; write it in quotes, address = "…"'),
        (ANNA + ANNA, "mail.toml: account 2: address: declared before; remove one of the two"),
        (ANNA + 'password_hash = "x"', "mail.toml: account 1: password_hash: stands beside password; keep one"),
        (ANNA.replace('"x"', "5"), 'mail.toml: account 1: password: not a text; write it in quotes, password = "…"'),
        (ANNA.replace('"x"', '""'), "mail.toml: account 1: password: a password cannot be empty"),
        (ANNA.replace('password = "x"', 'password_hash = "x"'), "mail.toml: account 1: password_hash: not a password"),
        (ANNA + 'quota = "lots"', 'mail.toml: account 1: quota: "lots" is not a size; write it as 500M, 2G or none'),
        (
            ANNA + 'enabled = "no"',
            "mail.toml: account 1: enabled: neither true nor false; write enabled = false, without",
        ),
        (ANNA + "quota = -1", 'mail.toml: account 1: quota: "-1" is not a size; '),
        (ANNA + "quota = true", 'mail.toml: account 1: quota: not a text; write it in quotes, quota = "…"'),
        ('[[alias]]\naddress = "a@example.org"', "mail.toml: alias 1: targets: not a list of addresses; write it as"),
        ('[[alias]]\naddress = "a@example.org"\ntargets = []', "mail.toml: alias 1: targets: not a list of addresses"),
        ('[[alias]]\naddress = "a@example.org"\ntargets = ["x"]', 'mail.toml: alias 1: targets: "x" is not an address'),
        (
            ANNA + '[[alias]]\naddress = "ANNA@example.org"\ntargets = ["a@b.example"]',
            "mail.toml: alias 1: address: ANNA@example.org is an account too; remove one of the two",
        ),
        ("a = " + "[" * 5000, "mail.toml: "),
    ],
)
def test_what_is_wrong_in_a_file(text: str, line: str) -> None:
    with pytest.raises(SetupError) as caught:
        declare.parse(text, "mail.toml")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ANNA, 'mail.toml: account anna@example.org: address: domain "example.org" is not declared; add [[domain]]'),
        (DOMAIN + ANNA.replace('password = "x"', ""), "mail.toml: account anna@example.org: password: missing for a"),
        (
            DOMAIN + '[[alias]]\naddress = "a@example.org"\ntargets = ["x@example.org"]',
            "mail.toml: alias a@example.org: targets: there is no account or alias x@example.org; declare it",
        ),
        (
            DOMAIN + 'catch_all = "x@gone.example"\n[[domain]]\nname = "gone.example"',
            "mail.toml: domain example.org: catch_all: there is no account or alias x@gone.example; declare it",
        ),
        (
            DOMAIN
            + '[[alias]]\naddress = "a@example.org"\ntargets = ["b@example.org"]\n'
            + '[[alias]]\naddress = "b@example.org"\ntargets = ["a@example.org"]',
            "mail.toml: alias a@example.org: targets: lead in a circle; take one of them out",
        ),
        (
            DOMAIN
            + '[[alias]]\naddress = "a0@example.org"\ntargets = ["x@else.example"]\n'
            + "".join(
                f'[[alias]]\naddress = "a{n + 1}@example.org"\ntargets = ["a{n}@example.org"]\n' for n in range(10)
            ),
            "mail.toml: alias: targets: 11 aliases in a row; 10 at most",
        ),
    ],
)
def test_what_cannot_work(accounts: Accounts, text: str, line: str) -> None:
    with pytest.raises(SetupError) as caught:
        planned(accounts, text)
    assert str(caught.value).startswith(line)


def test_stored_rows_count_as_declared(accounts: Accounts) -> None:
    applied(accounts, DOMAIN + ANNA)
    assert applied(accounts, '[[alias]]\naddress = "a@example.org"\ntargets = ["anna@example.org"]') == [
        "+ alias a@example.org"
    ]


def test_small_plans_are_one_transaction_and_large_ones_in_bounded_steps() -> None:
    change = apply.Change("add_account", (), "+", apply.ROWS_AN_ACCOUNT)
    assert [len(step) for step in apply.steps([change] * 50)] == [50]
    assert [len(step) for step in apply.steps([change] * 51)] == [50, 1]
    huge = apply.Change("put_alias", (), "+", 1001)
    assert [len(step) for step in apply.steps([huge, change, huge])] == [1, 1, 1]
    assert list(apply.steps([])) == []


def test_step_is_all_or_nothing(accounts: Accounts) -> None:
    changes = planned(accounts, FILE)
    accounts.domain("почта.рф")  # meanwhile
    with pytest.raises(Refusal):
        accounts.write(apply.run, [(change.verb, change.args) for change in changes])
    assert [one.shown for one in accounts.read(directory.domains)] == ["почта.рф"]


def test_dry_run_hashes_nothing(accounts: Accounts) -> None:
    declaration = declare.parse(FILE, "mail.toml")
    credentials = apply.settle_credentials(declaration, accounts.read(apply.known), is_dry_run=True)
    assert credentials["anna", "example.org"] == ""


def test_nothing_prints_a_password(accounts: Accounts) -> None:
    declaration = declare.parse(FILE, "mail.toml")
    shown = f"{declaration} {planned(accounts, FILE)}"
    assert "secret" not in shown
    assert "saltstring" not in shown
    assert "argon2" not in shown


@pytest.mark.parametrize(("content", "what"), [(None, "cannot be read"), (b"\n\xff", "line 2 is not UTF-8")])
def test_unreadable_file(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "mail.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=what):
        declare.read(path)


def test_hash_of_elsewhere_is_no_change_the_second_time(accounts: Accounts) -> None:
    credential = hash_password(Secret("x"), CHEAP)
    text = DOMAIN + ANNA.replace('password = "x"', f'password_hash = "{{ARGON2ID}}{credential}"')
    assert len(applied(accounts, text)) == 2
    assert applied(accounts, text) == []
    assert applied(accounts, DOMAIN + ANNA) == []  # the password behind the hash is no change either


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [
        ("500M", 500 << 20, "500M"),
        ("2G", 2 << 30, "2G"),
        ("2gib", 2 << 30, "2G"),
        ("1024", 1024, "1K"),
        ("1000", 1000, "1000"),
        ("none", 0, "none"),
        ("1T", 1 << 40, "1T"),
    ],
)
def test_quota(text: str, size: int, shown: str) -> None:
    assert parse_quota(text) == size
    assert show_quota(size) == shown
    assert parse_quota(shown) == size


@pytest.mark.parametrize("text", ["", "0", "0M", "-1", "1.5G", "2X", "99999999T", "٣G", "9" * 400])
def test_not_a_quota(text: str) -> None:
    with pytest.raises(Refusal):
        parse_quota(text)


def test_domain_keys() -> None:
    assert edit.domain_key("Example.ORG.") == "example.org"
    assert edit.domain_key("почта.рф") == "xn--80a1acny.xn--p1ai"


TEAM = """
[[domain]]
name = "example.org"

[[account]]
address = "sales@example.org"
shared = true

[[account]]
address = "anna@example.org"
password = "secret"

[[share]]
address = "sales@example.org"
mailbox = "*"
who = "Anna@example.org"
rights = "all"

[[share]]
address = "Sales@example.org"
mailbox = "inbox"
who = "anna@example.org"
rights = "write"
deny = "p"

[[share]]
address = "sales@example.org"
mailbox = "Archive"
who = "anyone"
rights = "read"
"""


def test_shares(accounts: Accounts) -> None:
    lines = applied(accounts, TEAM)
    assert lines[3:] == [
        *(f"~ share sales@example.org {name}: Anna@example.org lrswipkxtea" for name in FIRST if name != "INBOX"),
        "~ share Sales@example.org INBOX: anna@example.org lrswipte, not p",
        "~ share sales@example.org Archive: anyone lrs",
    ]
    assert applied(accounts, TEAM) == applied(accounts, TEAM, prune=True) == []
    found = {(one.mailbox, one.whom): one.granted for one in accounts.read(sharing.shares, "sales@example.org")}
    assert found["INBOX", "anna@example.org"] == "lrswipte"
    # what others have done to what is declared is undone, what the file does not speak of stays
    accounts.account("ben@example.org")
    for whom in ("anna@example.org", "ben@example.org"):
        accounts.write(sharing.grant, "sales@example.org", "Sent", whom, sharing.parse_rights("lr"), False, NOW)
    assert applied(accounts, TEAM) == ["~ share sales@example.org Sent: Anna@example.org lrswipkxtea"]
    found = {(one.mailbox, one.whom): one.granted for one in accounts.read(sharing.shares, "sales@example.org")}
    assert found["Sent", "ben@example.org"] == "lr"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('who = "anyone"', 'who = "carl@example.org"', r"who: there is no account carl@example.org; declare it"),
        ('mailbox = "Archive"', 'mailbox = "Orders"', r"mailbox: it has no mailbox Orders; make it first"),
        ('"Sales@example.org"', '"shop@example.org"', r"address: there is no account shop@example.org; declare it"),
        ('rights = "read"', 'rights = "+r"', r"share 3: rights: a sign is for changes"),
        ('rights = "read"', 'rights = "lq"', r"share 3: rights: There is no right 'q'"),
        ('rights = "read"', "", r"share 3: rights: missing"),
        ('rights = "read"', "rights = 7", r"share 3: rights: not a text"),
        ('who = "anyone"', 'who = "sales@example.org"', r"share 3: who: the owner has all rights"),
        ('who = "anyone"', 'who = "Anyone"', r"share 3: who: \"Anyone\" is not an address"),
        ('mailbox = "Archive"', 'mailbox = "a//b"', r"share 3: mailbox: A mailbox name has no empty level"),
        ('mailbox = "inbox"', 'mailbox = "*"', r"share 2: who: declared before"),
    ],
)
def test_shares_that_are_refused(accounts: Accounts, old: str, new: str, why: str) -> None:
    assert old in TEAM
    with pytest.raises(SetupError, match=why):
        planned(accounts, TEAM.replace(old, new))


def test_many_mailboxes_are_shared_in_steps(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MAILBOXES_A_STEP", 4)
    accounts.domain()
    accounts.account("anna@example.org")
    accounts.write(sharing.add, "sales@example.org", 0, NOW)
    names, edited = ("INBOX", *sorted(FIRST[1:])), sharing.parse_rights("lr")
    granting = (sharing.grant, "sales@example.org", "*", "anna@example.org", edited, False, NOW)
    assert [accounts.write(*granting, done) for done in (0, 4)] == [names[:4], names[4:]]
    revoking = (sharing.revoke, "sales@example.org", "*", "anna@example.org", NOW)
    assert [accounts.write(*revoking, done) for done in (0, 4, 6)] == [names[:4], names[4:], ()]
    with pytest.raises(Refusal, match="was granted nothing there"):
        accounts.write(*revoking)


def test_nobody_is_let_in_to_a_shared_account(accounts: Accounts) -> None:
    applied(accounts, TEAM)
    with pytest.raises(Refusal, match="nobody signs in to it"):
        accounts.write(edit.set_enabled, "sales@example.org", True)
    for line in ("enabled = true", 'password = "secret"'):
        with pytest.raises(SetupError, match=r"sales@example.org: shared: it is a shared account"):
            planned(accounts, TEAM.replace("shared = true", line))
    accounts.write(sharing.convert, "anna@example.org", True)
    with pytest.raises(Refusal, match=r"anna@example.org is a shared account"):
        accounts.write(sharing.convert, "anna@example.org", True)
    accounts.write(sharing.convert, "sales@example.org", False)
    with pytest.raises(SetupError, match="make it shared by `pochta share convert`"):
        planned(accounts, TEAM)
