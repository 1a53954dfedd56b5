"""What a trial of the server from outside has found."""

import pytest
from imap_raw import Imap, message

from pochta.proto.imap.multisearch import Source, SourceKind
from pochta.servers.imap.search import multisearch
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

PERSONAL = (Source(SourceKind.PERSONAL),)


def _personal(tx: Tx) -> list[str]:
    row = tx.row("SELECT account_id FROM mailbox WHERE name = 'full'", ())
    assert row is not None
    return [target.name for target in multisearch._targets(tx, row[0], PERSONAL)]


@pytest.mark.rfc(7377, "2.1")
def test_empty_mailboxes_cost_a_search_of_all_mailboxes_nothing(pochta: Server) -> None:
    async def read(store: Store) -> list[str]:
        return await store.read(0, _personal)

    with Imap(pochta, mailbox=None) as imap:
        for name in ("empty", "full", "emptied"):
            imap.ok(f"CREATE {name}")
        assert imap.append(message(1), "full")[-1].startswith(b"OK")
        assert imap.append(message(2), "emptied")[-1].startswith(b"OK")
        imap.ok("SELECT emptied")
        imap.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        imap.ok("EXPUNGE")
        assert pochta.run(read) == ["full"]
        [line] = imap.ok("ESEARCH IN (personal) ALL")
        assert b"MAILBOX full " in line
        assert line.endswith(b" UID ALL 1")
