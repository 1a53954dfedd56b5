"""What a trial of the server from outside has found."""

import shutil
import socket
import ssl
import tempfile
from pathlib import Path

import pytest
from imap_raw import Imap, message
from signin_rig import ANNA, Authority

from pochta import config
from pochta.config import Listener, ListenerProtocol, ListenerTls
from pochta.net.tls import write_self_signed
from pochta.proto.imap.multisearch import Source, SourceKind
from pochta.servers.imap.search import multisearch
from pochta.store import setup
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server
from supervisor_rig import serve

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


@pytest.mark.rfc(4422, "A")
def test_workers_of_serve_ask_for_certificates(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pochta-", dir="/tmp"))
    authority = Authority(tmp_path)
    tls = folder / "data/tls/certificate.pem"
    write_self_signed(tls, tls.with_name("key.pem"), hostname="localhost")
    imaps = Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:0", tls=ListenerTls.IMPLICIT)
    path = folder / "pochta.toml"
    made = config.initial_toml("localhost", listeners=(imaps,), workers=1)
    path.write_text(f'{made}\n[tls]\nclient_ca = "{authority.file}"\n')
    setup.create(folder / "data", is_throwaway=True)
    client = ssl.create_default_context(cafile=tls)
    client.load_cert_chain(*authority.pair("anna", ANNA))
    running = serve(path).ready()
    try:
        with (
            socket.create_connection(("127.0.0.1", running.ports()["imap"])) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            assert b" AUTH=EXTERNAL " in peer.makefile("rb").readline()
    finally:
        running.clean_up()
        shutil.rmtree(folder)
