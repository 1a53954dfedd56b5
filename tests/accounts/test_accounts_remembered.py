"""What a process remembers of passwords: how long, how many, for what."""

import pytest
from accounts_harness import HeldClock

from pochta.accounts import remembered
from pochta.accounts.remembered import EVERYTHING, Question, Remembered, Wrong


def test_scope_is_remembered_with_the_password(held: HeldClock) -> None:
    memory = Remembered()
    for digest, scope in ((b"own", EVERYTHING), (b"mail", "mail"), (b"imap", "imap"), (b"odd", "calendar")):
        memory.add(digest, scope)
    opened = {
        digest: [service for service in ("imap", "pop3", "smtp") if memory.allows(digest, service)]
        for digest in (b"own", b"mail", b"imap", b"odd", b"unknown")
    }
    assert opened == {
        b"own": ["imap", "pop3", "smtp"],
        b"mail": ["imap", "pop3", "smtp"],
        b"imap": ["imap"],
        b"odd": [],
        b"unknown": [],
    }


def test_second_check_does_not_lengthen_the_hour(held: HeldClock) -> None:
    memory = Remembered()
    memory.add(b"x", EVERYTHING)
    for _ in range(6):
        held.at += remembered.SLIDING_S - 1
        assert memory.allows(b"x", "imap")
        memory.add(b"x", EVERYTHING)
    held.at += 6
    assert not memory.allows(b"x", "imap")


def test_wrong_password_is_of_one_name_service_and_peer(held: HeldClock) -> None:
    memory = Wrong()
    memory.add(Question(b"x", "anna", "imap"), "192.0.2.1", "scope")
    asked = (
        (Question(b"x", "anna", "imap"), "192.0.2.1"),
        (Question(b"x", "anna", "smtp"), "192.0.2.1"),
        (Question(b"x", "anna", "imap"), "192.0.2.2"),
        (Question(b"x", "Anna", "imap"), "192.0.2.1"),
        (Question(b"y", "anna", "imap"), "192.0.2.1"),
    )
    assert [memory.reason(*one) for one in asked] == ["scope", None, None, None, None]
    for _ in range(3):
        held.at += remembered.WRONG_S - 1
        assert memory.reason(*asked[0]) == "scope"  # as long as it is given again
    held.at += remembered.WRONG_S
    assert memory.reason(*asked[0]) is None


def test_least_used_wrong_password_is_forgotten_first(held: HeldClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "WRONG_LIMIT", 2)
    memory = Wrong()
    one, two, three = (Question(digest, "anna", "imap") for digest in (b"1", b"2", b"3"))
    memory.add(one, "x", "")
    memory.add(two, "x", "")
    assert memory.reason(one, "x") == ""
    memory.add(three, "x", "")
    assert [memory.reason(question, "x") for question in (one, two, three)] == ["", None, ""]
