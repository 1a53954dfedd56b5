"""Lists of rights on every backend: what they sum up to, how they change, what they take along."""

import pytest
from store_harness import EVERYTHING, NOW, Backend, counted, item

from pochta.errors import Refusal, RefusalCode
from pochta.store import access, changes, directory, flags, mailboxes, messages, placements, reader_flags, rights
from pochta.store.placements import FlagMode
from pochta.store.rights import ANYONE, Edit, Right, Standing

SEEN, DELETED, FLAGGED = flags.SEEN, flags.DELETED, flags.FLAGGED
INBOX = "Other Users/a@example.org/INBOX"


@pytest.fixture
def owner(backend: Backend) -> int:
    """An account with three messages in INBOX."""
    owner = backend.new_account("a")
    backend.append(owner, "INBOX", item(10), item(20), item(30))
    return owner


@pytest.fixture
def reader(backend: Backend, owner: int) -> int:
    return backend.new_account("b")


def grant(
    backend: Backend, owner: int, reader: int, letters: str, *, path: str = "INBOX", is_denied: bool = False
) -> None:
    mailbox_id = backend.mailbox(owner, path).id
    args = (owner, mailbox_id, reader, Edit.REPLACE, rights.parse(letters), is_denied, NOW)
    backend.write(owner, rights.change, *args)


def standing(backend: Backend, owner: int, reader: int, path: str = "INBOX") -> Standing:
    return backend.read(owner, rights.standing, owner, backend.mailbox(owner, path).id, reader)


@pytest.mark.rfc(4314, "2.1.1")
@pytest.mark.parametrize(
    ("letters", "stored", "shown"),
    [("lr", "lr", "lr"), ("c", "kx", "kxc"), ("d", "te", "ted"), ("rl", "lr", "lr"), ("x", "x", "xc"), ("", "", "")],
    ids=["plain", "c", "d", "order", "member", "none"],
)
def test_letters(letters: str, stored: str, shown: str) -> None:
    assert rights.letters_of(rights.parse(letters)) == stored
    assert rights.shown(rights.parse(letters)) == shown


@pytest.mark.parametrize("letters", ["q", "L", "0", "lr ", "é"])
def test_unknown_letters_are_refused(letters: str) -> None:
    with pytest.raises(Refusal):
        rights.parse(letters)


@pytest.mark.rfc(4314, "2")
def test_what_is_granted_and_denied_adds_up(backend: Backend, owner: int, reader: int) -> None:
    assert standing(backend, owner, reader) == Standing(rights.NONE, reader)
    assert standing(backend, owner, owner) is rights.OWNER
    grant(backend, owner, reader, "lrw")
    grant(backend, owner, ANYONE, "ip")
    assert standing(backend, owner, reader) == Standing(rights.parse("lrwip"), reader)
    grant(backend, owner, reader, "wp", is_denied=True)
    assert standing(backend, owner, reader).rights == rights.parse("lri")
    grant(backend, owner, ANYONE, "l", is_denied=True)
    assert standing(backend, owner, reader).rights == rights.parse("ri")
    other = backend.new_account("c")
    assert standing(backend, owner, other).rights == rights.parse("ip")


def test_the_owner_loses_nothing(backend: Backend, owner: int) -> None:
    mailbox_id = backend.mailbox(owner, "INBOX").id
    backend.write(owner, rights.change, owner, mailbox_id, owner, Edit.ADD, Right.READ, False, NOW)
    backend.write(owner, rights.change, owner, mailbox_id, owner, Edit.REPLACE, rights.ALL, False, NOW)
    for edit, is_denied in ((Edit.REMOVE, False), (Edit.REPLACE, False), (Edit.ADD, True)):
        with pytest.raises(Refusal) as refused:
            backend.write(owner, rights.change, owner, mailbox_id, owner, edit, Right.READ, is_denied, NOW)
        assert refused.value.code is RefusalCode.CANNOT
    assert backend.query("SELECT * FROM mailbox_right") == []


def test_an_empty_entry_goes_and_a_change_is_announced(backend: Backend, owner: int, reader: int) -> None:
    before = backend.mod_seq(owner)
    grant(backend, owner, reader, "lr")
    assert backend.changes(owner, "INBOX", before) == [(changes.Kind.MAILBOX, "")]
    assert backend.hints[-1] == (owner, before + 1)
    grant(backend, owner, reader, "lr")
    assert backend.mod_seq(owner) == before + 1
    grant(backend, owner, reader, "")
    assert backend.query("SELECT * FROM mailbox_right") == []


def test_the_list_is_bounded(backend: Backend, owner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "ENTRIES_PER_MAILBOX", 2)
    grant(backend, owner, backend.new_account("b"), "l")
    grant(backend, owner, backend.new_account("c"), "l")
    with pytest.raises(Refusal) as refused:
        grant(backend, owner, backend.new_account("d"), "l")
    assert refused.value.code is RefusalCode.LIMIT


@pytest.mark.rfc(4314, "4")
def test_new_mailboxes_inherit_and_removed_ones_forget(backend: Backend, owner: int, reader: int) -> None:
    backend.write(owner, mailboxes.create, owner, "Team", NOW)
    grant(backend, owner, reader, "lrk", path="Team")
    backend.write(owner, mailboxes.create, owner, "Team/A/B", NOW)
    assert standing(backend, owner, reader, "Team/A/B").rights == rights.parse("lrk")
    backend.write(owner, mailboxes.rename, owner, "Team/A/B", "Mine", NOW)
    assert standing(backend, owner, reader, "Mine").rights == rights.parse("lrk")
    backend.write(owner, mailboxes.remove, owner, "Mine", NOW)
    backend.write(owner, mailboxes.create, owner, "Mine", NOW)
    assert standing(backend, owner, reader, "Mine").rights == rights.NONE
    backend.write(owner, mailboxes.remove, owner, "Team", NOW)  # the name stays, for the one below
    assert standing(backend, owner, reader, "Team").rights == rights.parse("lrk")


def test_rights_to_a_removed_account_are_none(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, reader, "lr")
    mailbox_id = backend.mailbox(owner, "INBOX").id
    backend.write(0, directory.remove_account, "example.org", "a", NOW)
    assert backend.read(owner, rights.standing, owner, mailbox_id, reader).rights == rights.NONE
    assert len(backend.read(reader, access.listing, reader)) == len(mailboxes.FIRST_MAILBOXES)


def test_each_reader_has_seen_their_own(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, reader, "lrswte")
    box = backend.mailbox(owner, "INBOX").id
    set_flags = (placements.set_flags, owner, box)
    backend.write(owner, *set_flags, ((1, 2),), FlagMode.ADD, SEEN | FLAGGED, (), NOW, reader)
    assert backend.flags(owner, "INBOX") == {1: FLAGGED, 2: FLAGGED, 3: 0}
    mine: dict[int, int] = dict(backend.read(owner, placements.flags_of, owner, box, EVERYTHING, reader))
    assert mine == {1: SEEN | FLAGGED, 2: SEEN | FLAGGED, 3: 0}
    assert backend.mailbox(owner, "INBOX").unseen_count == 3
    assert backend.read(owner, reader_flags.unseen_count, owner, box, reader, 3) == 1
    backend.write(owner, *set_flags, ((2, 2),), FlagMode.REPLACE, 0, (), NOW, reader)
    assert backend.read(owner, reader_flags.unseen_count, owner, box, reader, 3) == 2
    backend.expunge(owner, "INBOX", ((1, 1),), needs_deleted=False)
    assert backend.query("SELECT * FROM reader_seen") == []
    assert backend.read(owner, reader_flags.unseen_count, owner, box, reader, 2) == 2


@pytest.mark.rfc(6851, "3.3")
@pytest.mark.parametrize("mover", ["owner", "reader", "blind"])
def test_what_readers_have_seen_moves_along(backend: Backend, owner: int, reader: int, mover: str) -> None:
    other = backend.new_account("c")
    backend.append(owner, "INBOX", item(40), item(50), item(60))
    backend.append(owner, "Archive", item(70))
    for path in ("INBOX", "Archive"):
        grant(backend, owner, reader, "lrwite" if mover == "blind" and path == "Archive" else "lrswite", path=path)
        grant(backend, owner, other, "lrs", path=path)
    box, filed = backend.mailbox(owner, "INBOX").id, backend.mailbox(owner, "Archive").id
    mark = (placements.set_flags, owner, box)
    backend.write(owner, *mark, ((2, 3), (6, 6)), FlagMode.ADD, SEEN, (), NOW, reader)
    backend.write(owner, *mark, ((1, 1), (3, 3), (5, 6)), FlagMode.ADD, SEEN, (), NOW, other)
    backend.expunge(owner, "INBOX", ((4, 4),), needs_deleted=False)
    who, name = (0, "Archive") if mover == "owner" else (reader, "Other Users/a@example.org/Archive")
    moved = backend.write(owner, placements.move, owner, box, ((2, 4), (5, 6)), name, NOW, who)
    assert (moved.from_uids, moved.to_uids) == ((2, 3, 5, 6), (2, 3, 4, 5))
    seen = {
        one: {
            uid for uid, bits in backend.read(owner, placements.flags_of, owner, filed, EVERYTHING, one) if bits & SEEN
        }
        for one in (reader, other)
    }
    # whoever may not keep \Seen there has not seen what they move
    assert seen == {reader: set() if mover == "blind" else {2, 3, 5}, other: {3, 4, 5}}
    assert backend.read(owner, placements.flags_of, owner, box, EVERYTHING, other) == [(1, SEEN)]
    assert backend.flags(owner, "Archive") == dict.fromkeys(range(1, 6), 0)


@pytest.mark.rfc(6851, "3.3")
def test_a_copy_was_seen_by_nobody_else(backend: Backend, owner: int, reader: int) -> None:
    for path in ("INBOX", "Archive"):
        grant(backend, owner, reader, "lrs", path=path)
    box, filed = backend.mailbox(owner, "INBOX").id, backend.mailbox(owner, "Archive").id
    backend.write(owner, placements.set_flags, owner, box, ((1, 1),), FlagMode.ADD, SEEN, (), NOW, reader)
    backend.write(owner, placements.copy, owner, box, ((1, 1),), "Archive", NOW)
    assert backend.read(owner, placements.flags_of, owner, filed, EVERYTHING, reader) == [(1, 0)]


def test_one_seen_for_all_is_the_owners(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, reader, "lrs")
    box = backend.mailbox(owner, "INBOX").id
    backend.write(owner, placements.set_flags, owner, box, ((1, 1),), FlagMode.ADD, SEEN, (), NOW, reader)
    backend.set_flags(owner, "INBOX", FlagMode.ADD, SEEN, ranges=((3, 3),))
    before = backend.mod_seq(owner)
    backend.write(owner, reader_flags.set_common, owner, box, True, NOW)
    assert standing(backend, owner, reader) == Standing(rights.parse("lrs"), 0)
    # every client asks again: what it knows of \Seen may be another's now
    assert (changes.Kind.FLAGS, "1:3") in backend.changes(owner, "INBOX", before)
    backend.write(owner, placements.set_flags, owner, box, ((2, 2),), FlagMode.ADD, SEEN, (), NOW, reader)
    assert backend.flags(owner, "INBOX") == {1: 0, 2: SEEN, 3: SEEN}
    backend.write(owner, reader_flags.set_common, owner, box, False, NOW)
    mine: dict[int, int] = dict(backend.read(owner, placements.flags_of, owner, box, EVERYTHING, reader))
    assert mine == {1: SEEN, 2: 0, 3: 0}
    assert backend.read(owner, reader_flags.is_common, owner, box) is False


@pytest.mark.rfc(4314, "4")
@pytest.mark.parametrize(
    ("letters", "bits", "want"),
    [
        ("lrs", SEEN | DELETED | FLAGGED, SEEN),
        ("lrt", SEEN | DELETED | FLAGGED, DELETED),
        ("lrw", SEEN | DELETED | FLAGGED, FLAGGED),
        ("lr", SEEN, None),
        ("lrw", SEEN | DELETED, None),
    ],
    ids=["s", "t", "w", "none", "not those"],
)
def test_store_changes_what_it_may(
    backend: Backend, owner: int, reader: int, letters: str, bits: int, want: int | None
) -> None:
    grant(backend, owner, reader, letters)
    box = backend.mailbox(owner, "INBOX").id
    args = (owner, box, ((1, 1),), FlagMode.ADD, bits, (), NOW, reader)
    if want is None:
        with pytest.raises(Refusal) as refused:
            backend.write(owner, placements.set_flags, *args)
        assert refused.value.code is RefusalCode.NO_PERMISSION
        return
    backend.write(owner, placements.set_flags, *args)
    mine: dict[int, int] = dict(backend.read(owner, placements.flags_of, owner, box, ((1, 1),), reader))
    assert mine == {1: want}


def test_no_keyword_enters_the_owners_dictionary_without_the_right(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, reader, "lrsi")
    backend.write(reader, messages.append, reader, INBOX, (item(5, SEEN | FLAGGED, ("mine",)),), NOW)
    assert backend.read(owner, flags.keywords, owner) == {}
    assert backend.flags(owner, "INBOX")[4] == 0
    box = backend.mailbox(owner, "INBOX").id
    assert dict(backend.read(owner, placements.flags_of, owner, box, ((4, 4),), reader)) == {4: SEEN}
    with pytest.raises(Refusal):
        backend.write(owner, placements.set_flags, owner, box, EVERYTHING, FlagMode.ADD, 0, ("mine",), NOW, reader)
    assert backend.read(owner, flags.keywords, owner) == {}


def test_what_a_standing_costs(backend: Backend, owner: int, reader: int) -> None:
    grant(backend, owner, reader, "lr")
    box = backend.mailbox(owner, "INBOX").id
    assert backend.read(owner, counted, rights.standing, (owner, box, reader)) == 1
    assert backend.read(owner, counted, rights.standing, (owner, box, owner)) == 0
