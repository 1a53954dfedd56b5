"""Mailboxes by the names their readers give them, on every backend."""

from collections.abc import Callable
from typing import Any

import pytest
from store_harness import NOW, Backend, counted, item

from pochta.errors import Refusal, RefusalCode
from pochta.store import access, annotations, directory, mailboxes, posting, quotas, rights
from pochta.store.rights import ANYONE, Edit, Right

A = "Other Users/a@example.org"


@pytest.fixture
def owner(backend: Backend) -> int:
    owner = backend.new_account("a")
    backend.write(owner, mailboxes.create, owner, "Team/Secret/Plans", NOW)
    return owner


@pytest.fixture
def reader(backend: Backend, owner: int) -> int:
    reader = backend.new_account("b")
    grant(backend, owner, "Team", reader, "lrk")
    grant(backend, owner, "Team/Secret/Plans", reader, "lr")
    return reader


def grant(backend: Backend, owner: int, path: str, reader: int, letters: str) -> None:
    mailbox_id = backend.mailbox(owner, path).id
    parsed = rights.parse(letters)
    backend.write(owner, rights.change, owner, mailbox_id, reader, Edit.REPLACE, parsed, False, NOW)


def refusal(backend: Backend, fn: Callable[..., object], *args: Any) -> tuple[RefusalCode, str]:  # Any: what `fn` takes
    with pytest.raises(Refusal) as refused:
        backend.write(0, fn, *args)
    return refused.value.code, refused.value.text


@pytest.mark.rfc(4314, "6")
@pytest.mark.parametrize(
    "name",
    [
        "Other Users",
        "Other Users/a@example.org",
        f"{A}/INBOX",
        f"{A}/No such",
        f"{A}/Team/Secret",
        "Other Users/nobody@example.org/INBOX",
        "Other Users/INBOX",
        "Shared/a@example.org/Team",
    ],
)
def test_what_may_not_be_looked_up_is_not_there(backend: Backend, reader: int, name: str) -> None:
    assert refusal(backend, access.open_mailbox, reader, name) == (RefusalCode.NOT_FOUND, "No such mailbox")


def test_an_impossible_name_tells_nothing_of_the_account(backend: Backend, reader: int) -> None:
    here = refusal(backend, access.open_mailbox, reader, f"{A}/x//y")
    assert here == refusal(backend, access.open_mailbox, reader, "Other Users/nobody@example.org/x//y")


@pytest.mark.parametrize("name", [f"{A}/Team", "Other Users/A@EXAMPLE.ORG/Team"], ids=["as is", "other case"])
def test_open(backend: Backend, owner: int, reader: int, name: str) -> None:
    opened = backend.read(0, access.open_mailbox, reader, name, Right.READ)
    assert (opened.account_id, opened.mailbox.path) == (owner, f"{A}/Team")
    assert opened.standing.rights == rights.parse("lrk")
    code, _ = refusal(backend, access.open_mailbox, reader, name, Right.INSERT)
    assert code is RefusalCode.NO_PERMISSION


@pytest.mark.rfc(4314, "4")
def test_listing_shows_what_may_be_looked_up(backend: Backend, reader: int) -> None:
    others = [one for one in backend.read(0, access.listing, reader) if one.account_id != reader]
    assert [(one.mailbox.path, one.mailbox.has_children) for one in others] == [
        (f"{A}/Team", True),
        (f"{A}/Team/Secret/Plans", False),
    ]


def test_children_that_may_not_be_seen_do_not_count(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, "Team/Secret/Plans", reader, "")
    (team,) = [one for one in backend.read(0, access.listing, reader) if one.account_id != reader]
    assert team.mailbox.has_children is False


def test_a_mailbox_of_the_readers_own_hides_the_namespace(backend: Backend, reader: int) -> None:
    backend.write(reader, mailboxes.create, reader, "Other Users", NOW)
    assert backend.read(0, access.open_mailbox, reader, "Other Users").account_id == reader
    assert all(one.account_id == reader for one in backend.read(0, access.listing, reader))


@pytest.mark.rfc(4314, "4")
def test_create_asks_the_nearest_mailbox_above(backend: Backend, owner: int, reader: int) -> None:
    made = backend.write(0, access.create, reader, f"{A}/Team/New/Deep", None, NOW)
    assert made.mailbox.path == f"{A}/Team/New/Deep"
    assert made.standing.rights == rights.parse("lrk")
    for name, code in (
        (f"{A}/Top", RefusalCode.NOT_FOUND),
        (f"{A}/INBOX/x", RefusalCode.NOT_FOUND),
        (f"{A}/Team/Secret/Plans/x", RefusalCode.NO_PERMISSION),
        ("Shared", RefusalCode.CANNOT),
        ("Other Users/", RefusalCode.CANNOT),
    ):
        assert refusal(backend, access.create, reader, name, None, NOW)[0] is code, name
    assert refusal(backend, access.create, reader, f"{A}/Team/Use", "drafts", NOW)[0] is RefusalCode.CANNOT
    assert backend.mailbox(owner, "Team/New").id


def test_remove_and_rename_ask_for_x_and_k(backend: Backend, owner: int, reader: int) -> None:
    assert refusal(backend, access.remove, reader, f"{A}/Team", NOW)[0] is RefusalCode.NO_PERMISSION
    grant(backend, owner, "Team/Secret/Plans", reader, "lrx")
    target = f"{A}/Team/Moved"
    backend.write(0, access.rename, reader, f"{A}/Team/Secret/Plans", target, NOW)
    assert refusal(backend, access.rename, reader, target, "Mine", NOW)[0] is RefusalCode.CANNOT
    assert refusal(backend, access.rename, reader, target, f"{A}/Top", NOW)[0] is RefusalCode.NOT_FOUND
    backend.write(0, access.remove, reader, target, NOW)
    assert refusal(backend, access.open_mailbox, reader, target)[0] is RefusalCode.NOT_FOUND


def test_a_shared_account_stands_under_shared(backend: Backend, owner: int, reader: int) -> None:
    backend.write(0, directory.set_shared, "example.org", "a", True)
    assert refusal(backend, access.open_mailbox, reader, f"{A}/Team")[0] is RefusalCode.NOT_FOUND
    assert backend.read(0, access.open_mailbox, reader, "Shared/a@example.org/Team").account_id == owner


@pytest.mark.parametrize(
    ("name", "found"), [("anyone", ANYONE), ("b@example.org", None), ("B@Example.Org", None), ("b", None)]
)
def test_identifiers(backend: Backend, reader: int, name: str, found: int | None) -> None:
    assert backend.read(0, access.reader_named, name) == (reader if found is None else found)


@pytest.mark.parametrize("name", ["nobody", "nobody@example.org", "b@else.example", "", "@"])
def test_unknown_identifiers(backend: Backend, reader: int, name: str) -> None:
    assert refusal(backend, access.reader_named, name)[0] is RefusalCode.NO_SUCH_USER


def test_annotations(backend: Backend, owner: int, reader: int) -> None:
    box = backend.mailbox(owner, "Team").id
    write = (annotations.write, owner, box)
    values = (("/shared/comment", b"all"), ("/private/a", b"1"), ("/private/a/b", b""), ("/private/a/b/c", b"\0"))
    backend.write(owner, *write, owner, values, NOW)
    backend.write(owner, *write, reader, (("/private/a", b"mine"),), NOW)

    def read(who: int, names: tuple[str, ...], depth: int | None = 0) -> list[tuple[str, bytes]]:
        found = backend.read(owner, annotations.read, owner, box, who, names, depth)
        return [(one.entry, one.value) for one in found]

    assert read(owner, ("/private/a",), 1) == [("/private/a", b"1"), ("/private/a/b", b"")]
    assert len(read(owner, ("/private/a",), None)) == 3
    assert read(reader, ("/private/a", "/shared/comment"), None) == [
        ("/private/a", b"mine"),
        ("/shared/comment", b"all"),
    ]
    backend.write(owner, *write, reader, (("/shared/comment", None), ("/private/none", None)), NOW)
    assert read(owner, ("/shared",), None) == []
    backend.write(owner, mailboxes.rename, owner, "Team", "Group", NOW)
    assert read(owner, ("/private/a",)) == [("/private/a", b"1")]


@pytest.mark.rfc(5464, "4.1")
def test_what_inbox_becomes_has_its_annotations(backend: Backend, owner: int, reader: int) -> None:
    inbox = backend.mailbox(owner, "INBOX").id
    backend.write(owner, annotations.write, owner, inbox, owner, (("/private/x", b"1"),), NOW)
    made = backend.write(0, access.create_from_inbox, owner, "Old", NOW)
    for box in (inbox, made.mailbox.id):
        assert backend.read(owner, annotations.read, owner, box, owner, ("/private/x",)) == [("/private/x", b"1")]
    code, _ = refusal(backend, access.create_from_inbox, reader, f"{A}/Team/New", NOW)
    assert code is RefusalCode.CANNOT


def test_annotations_are_bounded_and_all_or_none(backend: Backend, owner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    box = backend.mailbox(owner, "Team").id
    write = (annotations.write, owner, box, owner)
    large = b"x" * (annotations.VALUE_MAX_BYTES + 1)
    with pytest.raises(annotations.TooLarge):
        backend.write(owner, *write, (("/private/a", b"1"), ("/private/b", large)), NOW)
    monkeypatch.setattr(annotations, "ENTRIES_MAX", 2)
    with pytest.raises(annotations.TooMany):
        backend.write(owner, *write, tuple((f"/private/{n}", b"1") for n in range(3)), NOW)
    monkeypatch.setattr(annotations, "ACCOUNT_MAX_BYTES", 10)
    with pytest.raises(annotations.TooMany):
        backend.write(owner, *write, (("/shared/a", b"x" * 11),), NOW)
    assert backend.query("SELECT * FROM annotation") == []


@pytest.mark.rfc(6154, "4")
def test_a_use_moves_from_mailbox_to_mailbox(backend: Backend, owner: int) -> None:
    box, drafts = backend.mailbox(owner, "Team").id, backend.mailbox(owner, "Drafts").id
    assert backend.write(owner, mailboxes.set_role, owner, box, "drafts", NOW) == "Drafts"
    assert backend.mailbox(owner, "Team").role == "drafts"
    assert backend.mailbox(owner, "Drafts").role is None
    before = backend.mod_seq(owner)
    assert backend.write(owner, mailboxes.set_role, owner, box, "drafts", NOW) is None
    assert backend.write(owner, mailboxes.set_role, owner, drafts, None, NOW) is None
    assert backend.mod_seq(owner) == before
    backend.write(owner, mailboxes.set_role, owner, box, None, NOW)
    assert backend.mailbox(owner, "Team").role is None
    inbox = backend.mailbox(owner, "INBOX").id
    assert refusal(backend, mailboxes.set_role, owner, inbox, None, NOW)[0] is RefusalCode.CANNOT
    assert refusal(backend, mailboxes.set_role, owner, box, "inbox", NOW)[0] is RefusalCode.CANNOT


@pytest.mark.rfc(4314, "2.1")
def test_who_may_post_where(backend: Backend, owner: int, reader: int) -> None:
    team = backend.mailbox(owner, "Team").id
    details = ("Team", "team", None, "No such", "INBOX")

    def found(poster: int) -> list[int | None]:
        return backend.read(owner, posting.mailboxes_of, owner, details, poster)

    assert found(reader) == found(0) == [None] * 5
    grant(backend, owner, "Team", reader, "p")
    assert found(reader) == [team, team, None, None, None]
    assert found(0) == [None] * 5
    grant(backend, owner, "Team", ANYONE, "p")
    assert found(0) == [team, team, None, None, None]
    assert found(owner)[4] == backend.mailbox(owner, "INBOX").id
    backend.write(owner, mailboxes.create, owner, "TEAM", NOW)
    assert found(owner)[:2] == [team, None]  # "team" might mean either


def test_limits(backend: Backend, owner: int, reader: int) -> None:
    backend.write(0, directory.set_limits, "example.org", "a", 2, 9)
    backend.append(owner, "INBOX", item(10))
    backend.append(owner, "INBOX", item(10))
    with pytest.raises(Refusal) as refused:
        backend.append(owner, "INBOX", item(10))
    assert refused.value.code is RefusalCode.OVER_QUOTA
    backend.copy(owner, "INBOX", "Sent")  # a copy within the account costs nothing
    root = backend.read(0, quotas.of_account, owner)
    assert root == quotas.Root("a@example.org", 20, 0, 2, 2, 9, 9)
    assert refusal(backend, mailboxes.create, owner, "One", NOW)[0] is RefusalCode.OVER_QUOTA
    assert backend.read(0, directory.accounts_over_quota, (owner, reader), 1) == [owner]
    assert backend.read(0, quotas.is_exceeded, owner) is False
    backend.write(0, quotas.set_limits, "a@example.org", 5, 0, 0)
    assert backend.read(0, quotas.is_exceeded, owner) is True
    assert backend.read(0, quotas.named, reader, "a@example.org", False).quota_bytes == 5
    stranger = backend.new_account("c")
    assert refusal(backend, quotas.named, stranger, "a@example.org", False)[0] is RefusalCode.NOT_FOUND
    assert backend.read(0, quotas.named, stranger, "a@example.org", True).quota_mailboxes == 10_000


def test_deleted_bytes(backend: Backend, owner: int) -> None:
    backend.append(owner, "INBOX", *(item(10 * n, 8 * (n % 2)) for n in range(1, 6)))
    box = backend.mailbox(owner, "INBOX").id
    assert backend.read(owner, quotas.deleted_bytes, owner, box, 0, 3) == (40, 3)
    assert backend.read(owner, quotas.deleted_bytes, owner, box, 3, 3) == (50, 0)


@pytest.mark.rfc(4314, "3.1")
@pytest.mark.parametrize(
    ("identifier", "edit", "letters", "is_allowed"),
    [
        ("anyone", Edit.REPLACE, "lr", False),
        ("anyone", Edit.ADD, "l", False),
        ("anyone", Edit.REMOVE, "l", True),
        ("anyone", Edit.REPLACE, "p", True),
        ("-anyone", Edit.REPLACE, "lr", True),
        ("b@example.org", Edit.REPLACE, "lr", True),
    ],
)
def test_who_shows_a_mailbox_to_everybody(
    backend: Backend, owner: int, identifier: str, edit: Edit, letters: str, is_allowed: bool
) -> None:
    backend.new_account("b")
    asked = ("INBOX", identifier, edit, rights.parse(letters), NOW)
    if is_allowed:
        backend.write(owner, access.change_rights, owner, *asked)
    else:
        assert refusal(backend, access.change_rights, owner, *asked)[0] is RefusalCode.NO_PERMISSION
    backend.write(owner, access.change_rights, owner, *asked, True)
    backend.write(0, directory.set_shared, "example.org", "a", True)
    backend.write(owner, access.change_rights, owner, *asked)


def test_the_lists_of_an_account_are_bounded(
    backend: Backend, owner: int, reader: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "ENTRIES_PER_ACCOUNT", 4)  # two are there
    for path in ("Team", "INBOX"):
        backend.write(owner, access.change_rights, owner, path, "anyone", Edit.ADD, Right.POST, NOW)
    one_more = (access.change_rights, owner, "Sent", "b@example.org", Edit.ADD, Right.READ, NOW)
    assert refusal(backend, *one_more)[0] is RefusalCode.LIMIT
    assert refusal(backend, mailboxes.create, owner, "Team/New", NOW)[0] is RefusalCode.LIMIT
    backend.write(owner, mailboxes.create, owner, "New", NOW)
    backend.write(owner, access.change_rights, owner, "INBOX", "anyone", Edit.REMOVE, Right.POST, NOW)
    backend.write(owner, *one_more)


def test_what_anyone_may_do_unseen_costs_no_listing(backend: Backend, owner: int, reader: int) -> None:
    def statements() -> int:
        return backend.read(reader, counted, access.listing, (reader,))

    before = statements()
    for name in ("c", "d"):
        grant(backend, backend.new_account(name), "INBOX", ANYONE, "p")
    assert statements() == before
    # but counts where the reader sees the mailbox by a right of their own
    grant(backend, owner, "INBOX", ANYONE, "ip")
    grant(backend, owner, "INBOX", reader, "lr")
    rights_to = {one.mailbox.path: one.standing.rights for one in backend.read(reader, access.listing, reader)}
    assert rights_to[f"{A}/INBOX"] == rights.parse("lrip")
    grant(backend, owner, "INBOX", ANYONE, "l")
    grant(backend, owner, "INBOX", reader, "r")
    rights_to = {one.mailbox.path: one.standing.rights for one in backend.read(reader, access.listing, reader)}
    assert rights_to[f"{A}/INBOX"] == rights.parse("lr")
