"""EXTERNAL with client certificates, SCRAM bound to TLS, and what TLS does with certificates of others."""

import base64
import contextlib
import hashlib
import hmac
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace
from signin_rig import ANNA, ANSWER_S, BORIS, CLIENTS, PASSWORD, Authority, Client, Imap, Pop, Submission, trusting

from pochta.config import Auth, Limits, Settings
from pochta.testing import Server

each_protocol = pytest.mark.parametrize("connect", CLIENTS, ids=lambda one: one.__name__)


class AskingServer(Server):
    """Asks users for certificates of one authority."""

    authority: Authority

    def _settings(self) -> Settings:
        settings = super()._settings()
        return replace(settings, tls=replace(settings.tls, client_ca=self.authority.file))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    auth = Auth(scram_sha_256=True, scram_sha_256_plus=True)
    limits = Limits(min_free_bytes=0, auth_failures_per_connection=100)
    made = AskingServer(with_tls=True, auth=auth, limits=limits)
    made.authority = authority
    with made as running:
        running.add_account(ANNA, PASSWORD)
        running.add_account(BORIS, PASSWORD)
        yield running


@each_protocol
@pytest.mark.parametrize("is_initial", [True, False])
@pytest.mark.rfc(9051, "6.2.2")
def test_a_certificate_opens_its_account(
    server: Server, authority: Authority, connect: type[Client], is_initial: bool
) -> None:
    pair = authority.pair("anna", ANNA)
    for authzid in (b"", ANNA.encode(), b"Anna@EXAMPLE.org"):
        with connect(server, trusting(server, pair)) as client:
            assert client.mechanisms()[0] == "EXTERNAL"
            assert client.auth("EXTERNAL", authzid, initial=is_initial).is_yes


@each_protocol
def test_a_certificate_opens_no_other(server: Server, authority: Authority, connect: type[Client]) -> None:
    with connect(server, trusting(server, authority.pair("anna", ANNA))) as client:
        assert not client.auth("EXTERNAL", BORIS.encode()).is_yes
        assert not client.auth("EXTERNAL", b"nobody@example.org").is_yes
        assert not client.auth("EXTERNAL", b"a\0b").is_yes
    with connect(server, trusting(server, authority.pair("nobody", "nobody@example.org"))) as client:
        assert not client.auth("EXTERNAL", b"").is_yes
    assert any("reason=no_account" in line for line in server.events)


def test_a_certificate_of_several(server: Server, authority: Authority) -> None:
    tls = trusting(server, authority.pair("both", BORIS, ANNA))
    for authzid, want in ((b"", BORIS), (ANNA.encode(), ANNA), (BORIS.encode(), BORIS)):
        before = len(server.events)
        with Imap(server, tls) as client:
            assert client.auth("EXTERNAL", authzid).is_yes
        assert any("imap.login" in line and f"account={want}" in line for line in server.events[before:])


@each_protocol
def test_without_a_certificate_it_is_not_offered(server: Server, authority: Authority, connect: type[Client]) -> None:
    for pair in (None, authority.pair("nameless")):
        with connect(server, trusting(server, pair)) as client:
            assert "EXTERNAL" not in client.mechanisms()
            assert not client.auth("EXTERNAL", b"").is_yes
            assert client.auth("PLAIN", f"\0{ANNA}\0{PASSWORD}".encode()).is_yes
    with connect(server) as client:
        assert "EXTERNAL" not in client.mechanisms()


def test_certificates_of_others_and_of_yesterday(server: Server, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Another Authority")
    for pair in (other.pair("anna", ANNA), authority.pair("late", ANNA, days=-1)):
        plain = socket.create_connection((server.host, server.imaps_port), timeout=ANSWER_S)
        # TLS 1.3: the client is done before the server has looked at its certificate; no greeting comes
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            trusting(server, pair).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            assert client.recv(100) == b""
        plain.close()
    assert any("tls.failed" in line for line in server.events)


def test_starttls_shows_it_too(server: Server, authority: Authority) -> None:
    tls = trusting(server, authority.pair("anna", ANNA))
    with Imap(server) as client:
        assert client.ask("STARTTLS")[-1].startswith("t OK")
        client.socket = tls.wrap_socket(client.socket, server_hostname="localhost")
        client.file = client.socket.makefile("rb")
        assert "EXTERNAL" in client.mechanisms()
        assert client.auth("EXTERNAL", b"").is_yes


def test_a_resumed_session_keeps_its_certificate(server: Server, authority: Authority) -> None:
    tls = trusting(server, authority.pair("anna", ANNA))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # its ticket is there after the handshake
    with Imap(server, tls) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        session = client.socket.session
        assert client.auth("EXTERNAL", b"").is_yes
    plain = socket.create_connection((server.host, server.imaps_port), timeout=ANSWER_S)
    with tls.wrap_socket(plain, server_hostname="localhost", session=session) as resumed:
        assert resumed.session_reused
        assert b"AUTH=EXTERNAL" in resumed.recv(4096)


def test_other_servers_are_not_asked(server: Server, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Another Authority")
    with smtplib.SMTP("localhost", server.smtp_port) as smtp:
        smtp.starttls(context=trusting(server, other.pair("mx", "postmaster@mx.example")))
        assert smtp.ehlo()[0] == 250


def test_a_new_certificate_of_the_server_asks_as_well(server: Server, authority: Authority) -> None:
    async def renew(_store: object) -> None:
        server.app.use_certificate(server.certificate, server.certificate.with_name("key.pem"))

    server.run(renew)
    with Imap(server, trusting(server, authority.pair("anna", ANNA))) as client:
        assert client.auth("EXTERNAL", b"").is_yes


# SCRAM in every protocol, and bound to TLS


class Scram:
    """What a client of SCRAM says. Source: RFC 5802 §3."""

    def __init__(self, user: str, password: str, *, header: bytes = b"n,,", binding: bytes = b"") -> None:
        self._password = password.encode()
        self._header, self._binding = header, binding
        self._bare = f"n={user},r=abcdef".encode()
        self.server_proof = b""

    @property
    def first(self) -> bytes:
        return self._header + self._bare

    def final(self, challenge: bytes) -> bytes:
        nonce, salt, iterations = (part[2:] for part in challenge.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(salt), int(iterations))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=" + base64.b64encode(self._header + self._binding) + b",r=" + nonce
        said = self._bare + b"," + challenge + b"," + without
        signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        mine = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        self.server_proof = b"v=" + base64.b64encode(mine)
        return without + b",p=" + base64.b64encode(proof)

    def confirm(self, challenge: bytes) -> bytes:
        assert challenge == self.server_proof
        return b""


@each_protocol
@pytest.mark.rfc(5802, "5")
def test_scram(server: Server, connect: type[Client]) -> None:
    good = server.add_app_password(ANNA)
    with connect(server) as client:
        assert "SCRAM-SHA-256" in client.mechanisms()
        assert "SCRAM-SHA-256-PLUS" not in client.mechanisms()
        one = Scram(ANNA, good)
        wrong = Scram(ANNA, "wrong")
        assert not client.auth("SCRAM-SHA-256", wrong.first, wrong.final).is_yes
        assert client.auth("SCRAM-SHA-256", one.first, one.final, one.confirm).is_yes
    with connect(server) as client:
        one = Scram(ANNA, good)
        assert not client.auth("SCRAM-SHA-256", one.first, one.final, None).is_yes


@each_protocol
@pytest.mark.rfc(5802, "6")
def test_scram_plus(server: Server, connect: type[Client]) -> None:
    good = server.add_app_password(ANNA)
    shown = x509.load_pem_x509_certificate(server.certificate.read_bytes())
    binding = hashlib.sha256(shown.public_bytes(serialization.Encoding.DER)).digest()
    bound = b"p=tls-server-end-point,,"
    with connect(server, trusting(server)) as client:
        offered = client.mechanisms()
        assert offered.index("SCRAM-SHA-256-PLUS") < offered.index("SCRAM-SHA-256")
        # a client that could bind and was told that we cannot: somebody is in between
        assert not client.auth("SCRAM-SHA-256", Scram(ANNA, good, header=b"y,,").first).is_yes
        assert not client.auth("SCRAM-SHA-256", Scram(ANNA, good, header=bound).first).is_yes
        assert not client.auth("SCRAM-SHA-256-PLUS", Scram(ANNA, good).first).is_yes
        assert not client.auth("SCRAM-SHA-256-PLUS", Scram(ANNA, good, header=b"p=tls-unique,,").first).is_yes
        between = Scram(ANNA, good, header=bound, binding=bytes(32))
        assert not client.auth("SCRAM-SHA-256-PLUS", between.first, between.final).is_yes
        one = Scram(ANNA, good, header=bound, binding=binding)
        assert client.auth("SCRAM-SHA-256-PLUS", one.first, one.final, one.confirm).is_yes
    with connect(server, trusting(server)) as client:
        one = Scram(ANNA, good)
        assert client.auth("SCRAM-SHA-256", one.first, one.final, one.confirm).is_yes


def test_what_is_offered_where() -> None:
    """Nothing but passwords, unless it is set."""
    with Server() as server:
        for connect in (Imap, Submission, Pop):
            with connect(server) as client:
                assert client.mechanisms() == ["PLAIN", "LOGIN"]
                assert not client.auth("SCRAM-SHA-256", b"n,,n=a,r=b").is_yes
                assert not client.auth("GSSAPI", b"x").is_yes
                assert not client.auth("OAUTHBEARER", b"x").is_yes
