"""Copies that cross a border, on every backend: into another account, or by a reader who owns not both mailboxes."""

import pytest
from store_harness import EVERYTHING, NOW, Backend, item

from pochta.errors import Refusal, RefusalCode
from pochta.store import flags, placements, rights, shared_copies
from pochta.store.placements import Copied, FlagMode
from pochta.store.rights import Edit

SEEN, DELETED, FLAGGED = flags.SEEN, flags.DELETED, flags.FLAGGED
INBOX = "Other Users/a@example.org/INBOX"
SENT = "Other Users/a@example.org/Sent"


@pytest.fixture
def owner(backend: Backend) -> int:
    owner = backend.new_account("a")
    flagged = item(20, FLAGGED | DELETED, ("work",))
    backend.append(owner, "INBOX", item(10, SEEN), flagged, item(30))
    return owner


@pytest.fixture
def reader(backend: Backend, owner: int) -> int:
    reader = backend.new_account("b")
    backend.append(reader, "Sent", item(5, SEEN | FLAGGED | DELETED, ("Mine",)), item(6))
    return reader


def grant(backend: Backend, owner: int, path: str, reader: int, letters: str) -> None:
    mailbox_id = backend.mailbox(owner, path).id
    parsed = rights.parse(letters)
    backend.write(owner, rights.change, owner, mailbox_id, reader, Edit.REPLACE, parsed, False, NOW)


def copy(backend: Backend, account: int, path: str, to_name: str, reader: int, *, is_move: bool = False) -> Copied:
    mailbox_id = backend.mailbox(account, path).id
    fn = placements.move if is_move else placements.copy
    return backend.write(account, fn, account, mailbox_id, EVERYTHING, to_name, NOW, reader)


def test_from_another_account(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, "INBOX", reader, "lrs")
    box = backend.mailbox(owner, "INBOX").id
    backend.write(owner, placements.set_flags, owner, box, ((3, 3),), FlagMode.ADD, SEEN, (), NOW, reader)
    copied = copy(backend, owner, "INBOX", "INBOX", reader)
    assert (copied.from_uids, copied.to_uids) == ((1, 2, 3), (1, 2, 3))
    (bit,) = [bit for bit, name in backend.read(reader, flags.keywords, reader).items() if name == "work"]
    # \Seen as the reader had it; keywords as the reader's account numbers them
    assert backend.flags(reader, "INBOX") == {1: 0, 2: FLAGGED | DELETED | bit, 3: SEEN}
    assert backend.quota(reader) == (2 + 3, 11 + 60)
    blobs = "SELECT blob_id FROM message WHERE account_id = ? ORDER BY id"
    assert backend.query(blobs, reader)[2:] == backend.query(blobs, owner)
    assert backend.quota(owner) == (3, 60)


@pytest.mark.rfc(4314, "4")
@pytest.mark.parametrize(
    ("letters", "stored", "mine", "names"),
    [
        ("li", 0, 0, []),
        ("lis", 0, SEEN, []),
        ("lit", DELETED, DELETED, []),
        ("liw", FLAGGED, FLAGGED, ["work", "Mine"]),
        ("listw", FLAGGED | DELETED, SEEN | FLAGGED | DELETED, ["work", "Mine"]),
    ],
)
def test_into_another_account(
    backend: Backend, owner: int, reader: int, letters: str, stored: int, mine: int, names: list[str]
) -> None:
    grant(backend, owner, "INBOX", reader, letters)
    assert copy(backend, reader, "Sent", INBOX, reader).to_uids == (4, 5)
    box, system = backend.mailbox(owner, "INBOX").id, (1 << flags.FIRST_KEYWORD_BIT) - 1
    assert backend.flags(owner, "INBOX")[4] & system == stored
    (row,) = backend.read(owner, placements.flags_of, owner, box, ((4, 4),), reader)
    assert row[1] & system == mine
    assert list(backend.read(owner, flags.keywords, owner).values()) == (names or ["work"])
    assert backend.quota(owner) == (5, 71)


def test_within_anothers_account(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, "INBOX", reader, "lr")
    grant(backend, owner, "Sent", reader, "liw")
    assert copy(backend, owner, "INBOX", SENT, reader).to_uids == (1, 2, 3)
    work = next(iter(backend.read(owner, flags.keywords, owner)))
    assert backend.flags(owner, "Sent") == {1: 0, 2: FLAGGED | work, 3: 0}
    assert backend.quota(owner) == (3, 60)  # each counts once


@pytest.mark.rfc(6851, "4")
@pytest.mark.parametrize("letters", ["lr", "lrt", "lre"])
def test_move_needs_the_right_to_remove(backend: Backend, owner: int, reader: int, letters: str) -> None:
    grant(backend, owner, "INBOX", reader, letters)
    with pytest.raises(Refusal) as refused:
        copy(backend, owner, "INBOX", "INBOX", reader, is_move=True)
    assert refused.value.code is RefusalCode.NO_PERMISSION
    assert backend.mailbox(reader, "INBOX").message_count == 0


def test_move_across(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, "INBOX", reader, "lrte")
    assert copy(backend, owner, "INBOX", "INBOX", reader, is_move=True).from_uids == (1, 2, 3)
    assert (backend.quota(owner), backend.quota(reader)) == ((0, 0), (5, 71))
    assert {account_id for account_id, _ in backend.hints[-2:]} == {owner, reader}


@pytest.mark.parametrize(
    ("letters", "code"),
    [("", RefusalCode.NOT_FOUND), ("r", RefusalCode.NOT_FOUND), ("lr", RefusalCode.NO_PERMISSION)],
)
def test_the_target_must_take_messages(
    backend: Backend, owner: int, reader: int, letters: str, code: RefusalCode
) -> None:
    grant(backend, owner, "INBOX", reader, letters)
    with pytest.raises(Refusal) as refused:
        copy(backend, reader, "Sent", INBOX, reader)
    assert refused.value.code is code


def test_all_or_none(backend: Backend, owner: int, reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grant(backend, owner, "INBOX", reader, "lri")
    backend.execute("UPDATE account SET quota_messages = 4 WHERE id = ?", owner)
    with pytest.raises(Refusal) as refused:
        copy(backend, reader, "Sent", INBOX, reader)
    assert refused.value.code is RefusalCode.OVER_QUOTA
    assert backend.quota(owner) == (3, 60)
    backend.execute("UPDATE account SET quota_messages = 0 WHERE id = ?", owner)
    monkeypatch.setattr(shared_copies, "ACROSS_MAX", 1)
    with pytest.raises(Refusal) as refused:
        copy(backend, reader, "Sent", INBOX, reader)
    assert refused.value.code is RefusalCode.LIMIT


def test_one_message_twice_in_a_mailbox_is_one_in_the_other_account(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, "INBOX", reader, "lr")
    backend.copy(owner, "INBOX", "INBOX", ((1, 1),))
    copied = copy(backend, owner, "INBOX", "INBOX", reader)
    assert copied.to_uids == (1, 2, 3, 4)
    assert backend.quota(reader) == (2 + 3, 11 + 60)
