"""What tests/model has found, each as the shortest dialogue that shows it."""

from collections.abc import Iterator

import pytest
from imap_raw import Imap, message

from pochta.testing import Server

OWNER, READER = "owner@example.org", "reader@example.org"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        for address in (OWNER, READER):
            running.add_account(address, "secret")
        yield running


@pytest.mark.rfc(6851, "3.3")
@pytest.mark.parametrize("letters", ["lrswite", "lrite"])
def test_what_the_owner_has_seen_stays_seen_when_another_moves_it(server: Server, letters: str) -> None:
    with Imap(server, user=OWNER, mailbox=None) as owner, Imap(server, user=READER, mailbox=None) as reader:
        owner.ok("CREATE Box")
        for number in (1, 2):
            owner.append(message(number))
        owner.ok(f"SETACL INBOX {READER} lrswite")
        owner.ok(f"SETACL Box {READER} {letters}")
        owner.ok("SELECT INBOX")
        owner.ok("STORE 2 +FLAGS.SILENT (\\Seen)")
        reader.ok(f'SELECT "Other Users/{OWNER}/INBOX"')
        reader.ok(f'MOVE 1:2 "Other Users/{OWNER}/Box"')
        assert owner.ok("STATUS Box (MESSAGES UNSEEN)")[-1] == b"* STATUS Box (MESSAGES 2 UNSEEN 1)"
        owner.ok("SELECT Box")
        assert owner.ok("FETCH 1:2 FLAGS") == [b"* 1 FETCH (FLAGS (\\Recent))", b"* 2 FETCH (FLAGS (\\Seen \\Recent))"]
        reader.ok(f'SELECT "Other Users/{OWNER}/Box"')
        assert reader.ok("FETCH 1:2 FLAGS") == [b"* 1 FETCH (FLAGS ())", b"* 2 FETCH (FLAGS ())"]
