"""Mailboxes on every backend."""

import unicodedata

import pytest
from store_harness import Backend, item

from pochta.errors import Refusal, RefusalCode
from pochta.store import mailboxes, messages

NOW = 1_750_000_000


def paths(backend: Backend, account_id: int) -> list[str]:
    return [mailbox.path for mailbox in backend.read(account_id, mailboxes.list_all, account_id)]


def create(backend: Backend, account_id: int, path: str) -> int:
    return backend.write(account_id, mailboxes.create, account_id, path, NOW)


def refusal(backend: Backend, account_id: int, fn, *args: object) -> RefusalCode:
    before = backend.mod_seq(account_id)
    with pytest.raises(Refusal) as caught:
        backend.write(account_id, fn, account_id, *args)
    assert backend.mod_seq(account_id) == before
    return caught.value.code


def test_account_begins_with_subscribed_mailboxes(backend: Backend) -> None:
    account = backend.new_account("a")
    assert paths(backend, account) == ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]
    assert backend.read(account, mailboxes.subscriptions, account) == set(paths(backend, account))
    assert backend.mailbox(account, "Sent").role == "sent"


@pytest.mark.rfc(9051, "6.3.4")
def test_create_makes_missing_levels(backend: Backend) -> None:
    account = backend.new_account("a")
    create(backend, account, "x/y/z")
    assert [path for path in paths(backend, account) if path[0] == "x"] == ["x", "x/y", "x/y/z"]
    assert backend.mailbox(account, "x/y").has_children
    assert not backend.mailbox(account, "x/y/z").has_children
    create(backend, account, "x/w/")  # a trailing delimiter only announces names below
    assert backend.mailbox(account, "x/w").path == "x/w"
    assert refusal(backend, account, mailboxes.create, "x/y", NOW) is RefusalCode.EXISTS
    assert backend.hints[-1] == (account, backend.mod_seq(account))


@pytest.mark.rfc(9051, "5.1")
def test_inbox_is_the_same_in_any_case(backend: Backend) -> None:
    account = backend.new_account("a")
    assert refusal(backend, account, mailboxes.create, "inBox", NOW) is RefusalCode.EXISTS
    create(backend, account, "inbox/below")
    assert backend.mailbox(account, "INBOX/below").path == "INBOX/below"
    assert refusal(backend, account, mailboxes.rename, "inbox", "other", NOW) is RefusalCode.CANNOT
    assert refusal(backend, account, mailboxes.remove, "INBOX", NOW) is RefusalCode.CANNOT


def test_other_names_keep_their_case(backend: Backend) -> None:
    account = backend.new_account("a")
    create(backend, account, "work")
    create(backend, account, "Work")
    assert backend.mailbox(account, "work").id != backend.mailbox(account, "Work").id


@pytest.mark.rfc(9051, "6.3.6")
def test_rename_takes_the_subtree_along(backend: Backend) -> None:
    account = backend.new_account("a")
    leaf = create(backend, account, "x/y/z")
    before = backend.mailbox(account, "x/y/z")
    backend.append(account, "x/y/z", item())
    backend.write(account, mailboxes.rename, account, "x/y", "new/home", NOW)
    after = backend.mailbox(account, "new/home/z")
    assert (after.id, after.uid_validity) == (leaf, before.uid_validity)
    assert after.message_count == 1
    assert [path for path in paths(backend, account) if path[0] in "xn"] == ["new", "new/home", "new/home/z", "x"]
    assert refusal(backend, account, mailboxes.rename, "x", "new", NOW) is RefusalCode.EXISTS
    assert refusal(backend, account, mailboxes.rename, "new", "new/home/new", NOW) is RefusalCode.CANNOT
    assert refusal(backend, account, mailboxes.rename, "gone", "other", NOW) is RefusalCode.NOT_FOUND
    assert refusal(backend, account, mailboxes.rename, "new", "", NOW) is RefusalCode.INVALID_NAME


def test_rename_to_a_longer_name_with_the_same_beginning(backend: Backend) -> None:
    account = backend.new_account("a")
    create(backend, account, "x")
    backend.write(account, mailboxes.rename, account, "x", "xx/y", NOW)
    assert "xx/y" in paths(backend, account)


def test_rename_never_makes_a_tree_too_deep_to_be_named(backend: Backend) -> None:
    account = backend.new_account("a")
    half = "/".join("a" * (mailboxes.PATH_MAX_LEVELS // 2))
    create(backend, account, "x/" + half)
    create(backend, account, "y/" + half)
    assert refusal(backend, account, mailboxes.rename, "x", f"y/{half}/x", NOW) is RefusalCode.LIMIT
    assert f"x/{half}" in paths(backend, account)


def test_no_path_grows_too_long(backend: Backend) -> None:
    account_id = backend.new_account("a")
    level, levels = "я" * 127, mailboxes.PATH_MAX_BYTES // 255  # 254 bytes and the delimiter
    longest = "/".join([level] * levels)
    backend.write(account_id, mailboxes.create, account_id, longest, NOW)
    backend.write(account_id, mailboxes.create, account_id, "Top/" + longest.rpartition("/")[0], NOW)
    for call in (
        (mailboxes.create, account_id, f"{longest}/{level}", NOW),
        (mailboxes.rename, account_id, "Top", f"{level}/Top2/" + "x" * 250, NOW),
        (mailboxes.rename, account_id, "Trash", f"{longest}/{level}", NOW),
    ):
        with pytest.raises(Refusal) as refused:
            backend.write(account_id, *call)
        assert refused.value.code is RefusalCode.LIMIT
    backend.write(account_id, mailboxes.rename, account_id, "Top", "x" * 250, NOW)
    assert max(len(one.path.encode()) for one in backend.read(account_id, mailboxes.list_all, account_id)) <= 3072


def test_number_of_mailboxes_is_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    account = backend.new_account("a")
    monkeypatch.setattr(mailboxes, "MAILBOXES_PER_ACCOUNT", 8)
    create(backend, account, "x/y")
    assert refusal(backend, account, mailboxes.create, "z", NOW) is RefusalCode.LIMIT
    assert refusal(backend, account, mailboxes.rename, "x/y", "p/y", NOW) is RefusalCode.LIMIT
    backend.write(account, mailboxes.rename, account, "x/y", "x/z", NOW)


@pytest.mark.rfc(9051, "6.3.5")
def test_a_mailbox_that_is_removed_leaves_its_name_to_those_below_it(backend: Backend) -> None:
    account = backend.new_account("a")
    create(backend, account, "x/y")
    before = backend.append(account, "x", item())
    backend.write(account, mailboxes.remove, account, "x", NOW)
    left = backend.mailbox(account, "x")
    assert (left.is_noselect, left.has_children, left.message_count) == (True, True, 0)
    assert left.uid_validity > before.uid_validity
    assert backend.mailbox(account, "x/y").is_noselect is False
    assert refusal(backend, account, mailboxes.remove, "x", NOW) is RefusalCode.HAS_CHILDREN
    assert refusal(backend, account, messages.append, "x", [item()], NOW) is RefusalCode.NOT_FOUND
    backend.write(account, mailboxes.remove, account, "x/y", NOW)
    backend.write(account, mailboxes.remove, account, "x", NOW)
    assert "x" not in paths(backend, account)
    assert refusal(backend, account, mailboxes.remove, "x", NOW) is RefusalCode.NOT_FOUND
    assert [row[0] for row in backend.query("SELECT kind FROM task")] == ["mailbox_remove"] * 3


def test_a_name_that_is_made_again_holds_messages(backend: Backend) -> None:
    account = backend.new_account("a")
    create(backend, account, "x/y")
    backend.write(account, mailboxes.remove, account, "x", NOW)
    create(backend, account, "x")
    assert backend.mailbox(account, "x").is_noselect is False
    assert backend.append(account, "x", item()).uids == (1,)
    assert refusal(backend, account, mailboxes.create, "x", NOW) is RefusalCode.EXISTS


def test_a_use_is_given_once(backend: Backend) -> None:
    account = backend.new_account("a")
    assert refusal(backend, account, mailboxes.create, "Old", NOW, "archive") is RefusalCode.USE_TAKEN
    backend.write(account, mailboxes.remove, account, "Archive", NOW)
    backend.write(account, mailboxes.create, account, "Old", NOW, "archive")
    assert backend.mailbox(account, "Old").role == "archive"


@pytest.mark.rfc(9051, "2.3.1.1")
def test_uid_validity_rises_when_a_name_is_made_again(backend: Backend) -> None:
    account = backend.new_account("a")
    seen = []
    for _ in range(3):
        create(backend, account, "x")
        backend.append(account, "x", item())
        seen.append(backend.mailbox(account, "x").uid_validity)
        backend.write(account, mailboxes.remove, account, "x", NOW)
    assert seen == sorted(set(seen))


@pytest.mark.rfc(6154, "2")
def test_a_first_mailbox_made_again_is_what_it_was(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.write(account, mailboxes.remove, account, "Trash", NOW)
    create(backend, account, "x/Trash")
    assert backend.mailbox(account, "x/Trash").role is None
    create(backend, account, "Trash")
    assert backend.mailbox(account, "Trash").role == "trash"
    backend.write(account, mailboxes.rename, account, "Trash", "Bin", NOW)
    create(backend, account, "Trash")
    assert [backend.mailbox(account, name).role for name in ("Bin", "Trash")] == ["trash", None]


def test_names_are_normalised(backend: Backend) -> None:
    account = backend.new_account("a")
    decomposed = unicodedata.normalize("NFD", "Entwürfe/Größe")
    create(backend, account, decomposed)
    assert backend.mailbox(account, decomposed).path == "Entwürfe/Größe"
    assert refusal(backend, account, mailboxes.create, "Entwürfe/Größe", NOW) is RefusalCode.EXISTS


@pytest.mark.parametrize(
    "path",
    ["", "a//b", "/a", "a//", "a\x00b", "a\rb", "a\x7fb", "\ud800", "n" * 256, "ü" * 128, "/".join("a" * 33)],
    ids=["empty", "empty level", "leading", "two trailing", "nul", "cr", "del", "surrogate", "long", "bytes", "deep"],
)
def test_impossible_names(backend: Backend, path: str) -> None:
    account = backend.new_account("a")
    assert refusal(backend, account, mailboxes.create, path, NOW) is RefusalCode.INVALID_NAME


def test_subscriptions_are_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    account = backend.new_account("anna")
    count = len(backend.read(account, mailboxes.subscriptions, account))
    monkeypatch.setattr(mailboxes, "SUBSCRIPTIONS_PER_ACCOUNT", count + 1)
    backend.write(account, mailboxes.subscribe, account, "one", NOW)
    with pytest.raises(Refusal) as refused:
        backend.write(account, mailboxes.subscribe, account, "two", NOW)
    assert refused.value.code is RefusalCode.LIMIT


@pytest.mark.rfc(3501, "5.1")
def test_only_ascii_letters_make_inbox(backend: Backend) -> None:
    account = backend.new_account("anna")
    backend.write(account, mailboxes.create, account, "\u0131nbox", NOW)  # dotless i: its upper case is I
    assert backend.read(account, mailboxes.find, account, "\u0131nbox").role is None
    assert backend.read(account, mailboxes.find, account, "iNBOX").role == "inbox"


@pytest.mark.rfc(9051, "6.3.7")
def test_subscriptions_are_names_only(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.write(account, mailboxes.subscribe, account, "not/there", NOW)
    backend.write(account, mailboxes.subscribe, account, "not/there", NOW)
    backend.write(account, mailboxes.unsubscribe, account, "inbox", NOW)
    names = backend.read(account, mailboxes.subscriptions, account)
    assert "not/there" in names
    assert "INBOX" not in names


@pytest.mark.rfc(3501, "2.3.2")
def test_recent_is_claimed_once(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.append(account, "INBOX", item(), item())
    inbox = backend.mailbox(account, "INBOX")
    assert (inbox.recent_uid, inbox.uid_next) == (1, 3)
    backend.write(account, mailboxes.claim_recent, account, inbox.id, 3)
    backend.write(account, mailboxes.claim_recent, account, inbox.id, 2)
    assert backend.mailbox(account, "INBOX").recent_uid == 3
