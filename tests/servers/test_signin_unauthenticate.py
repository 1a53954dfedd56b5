"""UNAUTHENTICATE: one connection for one user after the other."""

import ssl
import zlib
from collections.abc import Iterator

import pytest
from signin_rig import ANNA, BORIS, PASSWORD, Authority, Imap, trusting
from test_signin_certificate import AskingServer

from pochta.config import Imap as ImapSettings
from pochta.testing import Server

pytestmark = pytest.mark.rfc(8437, "3")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(with_tls=True) as running:
        running.add_account(ANNA, PASSWORD)
        running.add_account(BORIS, PASSWORD)
        yield running


def sign_in(client: Imap, user: str) -> None:
    assert client.ask(f"LOGIN {user} {PASSWORD}")[-1].startswith("t OK [CAPABILITY ")


def append(client: Imap, subject: str) -> None:
    text = f"Subject: {subject}\r\n\r\n"
    client.say(f"t APPEND INBOX {{{len(text)}+}}\r\n{text}")
    assert client.line().startswith("t OK")


def test_unauthenticate_gives_way_to_another_user(server: Server) -> None:
    users = ("dora@example.org", "erik@example.org")
    for user in users:
        server.add_account(user, PASSWORD)
    with Imap(server) as client:
        assert "UNAUTHENTICATE" not in client.ask("CAPABILITY")[0]
        for user in users:
            sign_in(client, user)
            assert "UNAUTHENTICATE" in client.ask("CAPABILITY")[0]
            append(client, f"of {user}")
            client.ask("SELECT INBOX")
            assert f'"of {user}"' in client.ask("FETCH 1 ENVELOPE")[0]
            assert "AUTH=PLAIN" in client.ask("UNAUTHENTICATE")[-1]
            assert client.ask('LIST "" *')[-1].startswith("t BAD")
            assert client.ask("FETCH 1 UID")[-1].startswith("t BAD")
        assert client.ask("UNAUTHENTICATE")[-1].startswith("t BAD")
    assert any("imap.unauthenticate" in line and users[0] in line for line in server.events)


@pytest.mark.rfc(8437, "4.1")
def test_unauthenticate_switches_everything_off(server: Server) -> None:
    with Imap(server) as client:
        sign_in(client, ANNA)
        append(client, "one")
        client.ask("ENABLE CONDSTORE QRESYNC UTF8=ACCEPT IMAP4rev2")
        client.ask("SELECT INBOX")
        connection = next(iter(server.app.imap_connections))
        before = connection.modes
        assert before.condstore
        client.ask("UNAUTHENTICATE")
        after = connection.modes
        assert not any(getattr(after, name) for name in type(after).__dataclass_fields__)
        assert (connection.account_id, connection.selected, connection.address) == (0, None, "")
        assert not connection.engine.is_authenticated
        assert not connection.engine.utf8_accept
        sign_in(client, ANNA)
        client.ask("SELECT INBOX")
        [told, _] = client.ask("STORE 1 +FLAGS (\\Flagged)")
        assert "MODSEQ" not in told


def test_unauthenticate_forgets_the_sign_in_of_before(server: Server) -> None:
    server.add_account("carol@example.org", PASSWORD)
    with Imap(server) as client:
        sign_in(client, "carol@example.org")
        client.ask("UNAUTHENTICATE")
        server.set_password("carol@example.org", "another")
        # her sessions end; this one is nobody's
        sign_in(client, ANNA)
        assert client.ask("NOOP")[-1].startswith("t OK")


def test_unauthenticate_brings_back_the_bounds_of_strangers(server: Server) -> None:
    with Imap(server) as client:
        sign_in(client, ANNA)
        assert client.ask("NOOP " + "x" * 20_000)[-1].startswith("t BAD")
        client.ask("UNAUTHENTICATE")
        client.say("t LOGIN a {5000+}")
        assert client.line().startswith("* BYE [TOOBIG]")


def test_unauthenticate_before_pipelined_commands(server: Server) -> None:
    with Imap(server) as client:
        sign_in(client, ANNA)
        client.say(f"a UNAUTHENTICATE\r\nb LOGIN {BORIS} {PASSWORD}\r\nc NOOP")
        assert [client.line().split()[:2] for _ in range(3)] == [["a", "OK"], ["b", "OK"], ["c", "OK"]]


@pytest.mark.rfc(8437, "4.2")
def test_unauthenticate_keeps_tls_and_its_certificate(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = AskingServer(with_tls=True)
    made.authority = Authority(tmp_path_factory.mktemp("authority"))
    with made as server:
        server.add_account(ANNA, PASSWORD)
        server.add_account(BORIS, PASSWORD)
        tls = trusting(server, made.authority.pair("both", ANNA, BORIS))
        with Imap(server, tls) as client:
            for user in (ANNA, BORIS):
                assert client.auth("EXTERNAL", user.encode()).is_yes
                assert "AUTH=EXTERNAL" in client.ask("UNAUTHENTICATE")[-1]
            assert isinstance(client.socket, ssl.SSLSocket)


@pytest.mark.rfc(8437, "4.1")
def test_unauthenticate_ends_compression(server: Server) -> None:
    with Imap(server) as client:
        sign_in(client, ANNA)
        assert client.ask("COMPRESS DEFLATE")[-1].startswith("t OK")
        deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        client.socket.sendall(deflate.compress(b"t UNAUTHENTICATE\r\n") + deflate.flush(zlib.Z_FINISH))
        heard = b""
        while not inflate.eof:
            heard += inflate.decompress(client.socket.recv(65536))
        assert heard.startswith(b"t OK ")
        assert inflate.unused_data == b""
        sign_in(client, BORIS)


@pytest.mark.rfc(8437, "8")
def test_unauthenticate_can_be_turned_off() -> None:
    with Server(imap=ImapSettings(unauthenticate=False)) as server:
        server.add_account(ANNA, PASSWORD)
        with Imap(server) as client:
            sign_in(client, ANNA)
            assert "UNAUTHENTICATE" not in client.ask("CAPABILITY")[0]
            assert client.ask("UNAUTHENTICATE") == ["t BAD UNAUTHENTICATE is turned off here"]
            assert client.ask("SELECT INBOX")[-1].startswith("t OK")
