"""GSSAPI against MIT Kerberos: curl signs in with a ticket, and a client of the test says what none should."""

import asyncio
import base64
import os
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kerberos_rig
import pytest
from interop_programs import Program
from kerberos_rig import Realm

from pochta.config import Auth, Limits
from pochta.errors import TryLater
from pochta.testing import Server

ANNA, PASSWORD = "anna@example.org", "secret"
ANSWER_S = 20.0
ENVIRONMENT = ("KRB5_CONFIG", "KRB5CCNAME", "KRB5RCACHEDIR")


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    os.environ["PATH"] += ":/usr/sbin"
    for missing in [one for one in ("krb5kdc", "kadmin.local", "kinit") if not _has(one)]:
        _miss(f"{missing} is missing: apt-get install krb5-kdc krb5-admin-server krb5-user")
    if find_spec("gssapi") is None:
        _miss("the extra gssapi is missing: apt-get install libkrb5-dev, then make")
    with pytest.MonkeyPatch.context() as patch, kerberos_rig.realm(tmp_path_factory.mktemp("realm")) as running:
        for name in ENVIRONMENT:
            patch.setenv(name, running.environment[name])
        running.add("anna", "nobody", "boris/admin")
        running.add_service("imap/localhost", "smtp/localhost", "pop/localhost", "host/localhost")
        yield running


def _has(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(":"))


def _miss(what: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture
def server(realm: Realm) -> Iterator[Server]:
    limits = Limits(min_free_bytes=0, auth_failures_per_connection=100)
    with Server(auth=Auth(keytab=realm.keytab), limits=limits) as running:
        running.add_account(ANNA, PASSWORD)
        running.add_account("boris@example.org", PASSWORD)
        yield running


@pytest.mark.parametrize("protocol", ["imap", "pop3", "smtp"])
def test_curl(server: Server, realm: Realm, tool: Program, tmp_path: Path, protocol: str) -> None:
    realm.sign_in("anna")
    before = len(server.events)
    port = {"imap": server.imap_port, "pop3": server.pop3_port, "smtp": server.submission_port}[protocol]
    args = [f"{protocol}://localhost:{port}/", "--user", ":", "--login-options", "AUTH=GSSAPI"]
    if protocol == "imap":
        args.append("--sasl-ir")  # curl 7.88 gives up by itself where the first message is long, in the others
    if protocol == "smtp":
        message = tmp_path / "message"
        message.write_text(f"From: {ANNA}\r\nSubject: by ticket\r\n\r\nhello\r\n")
        args += ["--mail-from", ANNA, "--mail-rcpt", ANNA, "--upload-file", str(message)]
    environment = [f"{name}={realm.environment[name]}" for name in ENVIRONMENT]
    tool("env", *environment, "curl", "--silent", "--show-error", *args)
    assert any(f" {protocol}.login " in line and ANNA in line for line in server.events[before:])


class Client:
    """An IMAP client that says of GSSAPI what the test wants said."""

    def __init__(self, server: Server, service: str = "imap") -> None:
        import gssapi

        name = gssapi.Name(f"{service}@localhost", gssapi.NameType.hostbased_service)
        self.context: Any = gssapi.SecurityContext(name=name, usage="initiate")
        self.socket = socket.create_connection((server.host, server.imap_port), timeout=ANSWER_S)
        self.file = self.socket.makefile("rb")
        self.greeting = self.file.readline()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def say(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self.file.readline()

    def answer(self, response: bytes) -> bytes:
        """The next line after a response to a challenge."""
        return self.say(base64.b64encode(response))

    def establish(self) -> bytes:
        """Up to the server's offer of layers; the offer, unwrapped."""
        line = self.say(b"t AUTHENTICATE GSSAPI")
        assert line == b"+ \r\n"
        token = self.context.step()
        while not self.context.complete:
            line = self.answer(token)
            assert line.startswith(b"+ "), line
            token = self.context.step(base64.b64decode(line[2:])) or b""
        line = self.answer(token)
        assert line.startswith(b"+ "), line
        return bytes(self.context.unwrap(base64.b64decode(line[2:])).message)

    def choose(self, message: bytes) -> bytes:
        """The end, after the choice of a layer."""
        return self.answer(self.context.wrap(message, False).message)


@pytest.mark.parametrize(
    ("choice", "end"),
    [
        pytest.param(b"\x01\x00\x00\x00", b"t OK ", id="nobody named"),
        pytest.param(b"\x01\x00\x00\x00" + ANNA.encode(), b"t OK ", id="anna"),
        pytest.param(b"\x01\xff\xff\xff", b"t OK ", id="with a buffer, as Java"),
        pytest.param(b"\x01\x00\x00\x00boris@example.org", b"t NO [AUTHENTICATIONFAILED]", id="another"),
        pytest.param(b"\x02\x00\x00\x00", b"t BAD ", id="a layer"),
        pytest.param(b"\x04\x00\xff\xff", b"t BAD ", id="another layer"),
        pytest.param(b"\x01", b"t BAD ", id="too short"),
        pytest.param(b"\x01\x00\x00\x00\xff", b"t BAD ", id="not UTF-8"),
    ],
)
def test_layers(server: Server, realm: Realm, choice: bytes, end: bytes) -> None:
    realm.sign_in("anna")
    with Client(server) as client:
        assert b" AUTH=GSSAPI " in client.greeting
        assert client.establish() == b"\x01\x00\x00\x00"
        assert client.choose(choice).startswith(end)


def test_a_last_message_that_is_not_wrapped(server: Server, realm: Realm) -> None:
    realm.sign_in("anna")
    with Client(server) as client:
        client.establish()
        assert client.answer(b"\x01\x00\x00\x00").startswith(b"t NO [AUTHENTICATIONFAILED]")


@pytest.mark.parametrize(
    ("who", "service", "reason"),
    [("nobody", "imap", "no_account"), ("boris/admin", "imap", "ticket_name"), ("anna", "host", "ticket_service")],
)
def test_tickets_that_open_nothing(server: Server, realm: Realm, who: str, service: str, reason: str) -> None:
    realm.sign_in(who)
    before = len(server.events)
    with Client(server, service) as client:
        line = client.say(b"t AUTHENTICATE GSSAPI " + base64.b64encode(client.context.step()))
        if line.startswith(b"+ "):
            client.context.step(base64.b64decode(line[2:]))
            line = client.answer(b"")
            assert line.startswith(b"+ ")
            client.context.unwrap(base64.b64decode(line[2:]))
            line = client.choose(b"\x01\x00\x00\x00")
        assert line.startswith(b"t NO [AUTHENTICATIONFAILED]")
    assert any("auth.failed" in one and f"reason={reason}" in one for one in server.events[before:])


def test_what_is_no_ticket(server: Server, realm: Realm) -> None:
    realm.sign_in("anna")
    with Client(server) as client:
        assert client.say(b"t AUTHENTICATE GSSAPI").startswith(b"+ ")
        assert client.answer(b"").startswith(b"t NO [AUTHENTICATIONFAILED]")
        assert client.say(b"t AUTHENTICATE GSSAPI " + base64.b64encode(bytes(5000))).startswith(b"t NO ")
        assert client.say(b"t AUTHENTICATE GSSAPI").startswith(b"+ ")
        assert client.say(b"*").startswith(b"t BAD ")
        assert client.establish()
        assert client.choose(b"\x01\x00\x00\x00").startswith(b"t OK ")


def test_a_ticket_works_once(server: Server, realm: Realm) -> None:
    realm.sign_in("anna")
    with Client(server) as client, Client(server) as second:
        token = base64.b64encode(client.context.step())
        assert client.say(b"t AUTHENTICATE GSSAPI " + token).startswith(b"+ ")
        assert second.say(b"t AUTHENTICATE GSSAPI " + token).startswith(b"t NO [AUTHENTICATIONFAILED]")


def test_only_so_many_wait_for_the_thread(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    from pochta.accounts import kerberos

    monkeypatch.setattr(kerberos, "WAITING_MAX", 2)
    has_ended = threading.Event()

    async def work() -> None:
        checker = kerberos.Kerberos(realm.keytab)
        waiting = [asyncio.create_task(checker.call(has_ended.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TryLater):
            await checker.call(len, ())
        has_ended.set()
        await asyncio.gather(*waiting)
        assert await checker.call(len, ()) == 0
        checker.close()

    asyncio.run(work())
