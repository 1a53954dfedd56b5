"""Certificates: the pair a new server starts with, what is wrong with another, and what idle peers cost."""

import asyncio
import asyncio.sslproto
import os
import pwd
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import oid

from pochta import clock
from pochta.errors import SetupError
from pochta.net.tls import (
    IDLE_BUFFER_BYTES,
    SELF_SIGNED_DAYS,
    LiveContext,
    WatchedPair,
    copy_pair,
    descriptor_path,
    lower_idle_memory,
    server_context,
    write_self_signed,
)

Pair = tuple[Path, Path]
Run = Callable[[Awaitable[None]], None]


def made_for(folder: Path, hostname: str) -> x509.Certificate:
    write_self_signed(folder / "new/certificate.pem", folder / "new/key.pem", hostname=hostname)
    return x509.load_pem_x509_certificate((folder / "new/certificate.pem").read_bytes())


def names_of(certificate: x509.Certificate) -> list[object]:
    return [one.value for one in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def test_self_signed_pair(tmp_path: Path) -> None:
    certificate = made_for(tmp_path, "mail.example.org")
    assert names_of(certificate) == ["mail.example.org"]
    (common_name,) = certificate.subject.get_attributes_for_oid(oid.NameOID.COMMON_NAME)
    assert common_name.value == "mail.example.org"
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    certificate.verify_directly_issued_by(certificate)
    mode = (tmp_path / "new/key.pem").stat().st_mode & 0o777
    assert mode == 0o600
    key = serialization.load_pem_private_key((tmp_path / "new/key.pem").read_bytes(), None)
    assert key.public_key() == certificate.public_key()


def test_key_is_its_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made_for(tmp_path, "mail.example.org")
    finally:
        os.umask(before)
    assert (tmp_path / "new/key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new/certificate.pem").stat().st_mode & 0o777 == 0o644


def test_lifetime_is_counted_from_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2030, 2, 28, 12, tzinfo=UTC)
    monkeypatch.setattr(clock.current(), "now", now.timestamp)
    certificate = made_for(tmp_path, "mail.example.org")
    assert certificate.not_valid_before_utc == now - timedelta(days=1)
    assert certificate.not_valid_after_utc == now + timedelta(days=SELF_SIGNED_DAYS)


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_an_address_for_a_name(tmp_path: Path, address: str) -> None:
    assert names_of(made_for(tmp_path, address)) == [ip_address(address)]


def test_a_name_too_long_for_the_common_name(tmp_path: Path) -> None:
    hostname = ".".join(["a" * 40] * 4)
    assert names_of(made_for(tmp_path, hostname)) == [hostname]


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).write_text("mine")
    with pytest.raises(SetupError) as caught:
        made_for(tmp_path, "mail.example.org")
    assert str(caught.value) == f"{tmp_path}/new/{name}: exists already; move it away to have a new one made"
    assert (tmp_path / "new" / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file")
    with pytest.raises(SetupError, match=rf"^{tmp_path}/new/key\.pem: .*; "):
        made_for(tmp_path, "mail.example.org")


@pytest.mark.rfc(8314, "4.1")
def test_context(certificate: Pair) -> None:
    context = server_context(*certificate)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_key_of_another_certificate(certificate: Pair, tmp_path: Path) -> None:
    made_for(tmp_path, "mail.example.org")
    key = tmp_path / "new/key.pem"
    with pytest.raises(SetupError) as caught:
        server_context(certificate[0], key)
    assert (
        str(caught.value) == f"tls.key: {key} is not the key of {certificate[0]}; name the pair that belongs together"
    )


@pytest.mark.parametrize("which", [0, 1], ids=["certificate", "key"])
def test_a_file_that_is_not_there(certificate: Pair, tmp_path: Path, which: int) -> None:
    pair = [*certificate]
    pair[which] = tmp_path / "gone.pem"
    with pytest.raises(SetupError) as caught:
        server_context(pair[0], pair[1])
    assert str(caught.value) == (
        f"{tmp_path}/gone.pem: cannot be read (No such file or directory); check its path and permissions"
    )


@pytest.mark.parametrize("which", [0, 1], ids=["certificate", "key"])
@pytest.mark.parametrize("text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_something_else(certificate: Pair, tmp_path: Path, which: int, text: str) -> None:
    pair = [*certificate]
    pair[which] = tmp_path / "other.pem"
    pair[which].write_text(text)
    with pytest.raises(SetupError) as caught:
        server_context(pair[0], pair[1])
    said = str(caught.value)
    assert said.startswith(f"tls.certificate, tls.key: {pair[0]}, {pair[1]}: not certificate and key in PEM (")
    assert said.endswith("); check both files")
    assert said.isprintable()


def test_a_key_with_a_passphrase(certificate: Pair, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(certificate[1].read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(SetupError) as caught:
        server_context(certificate[0], locked)
    assert str(caught.value) == f"tls.key: {locked} is locked by a passphrase; remove it with `openssl pkey`"


def test_a_copy_outlives_its_files(tmp_path: Path) -> None:
    made_for(tmp_path, "mail.example.org")
    files = tmp_path / "new/certificate.pem", tmp_path / "new/key.pem"
    before = files[0].read_text()
    pair = copy_pair(*files)
    try:
        for one in files:
            one.write_text("half written")
        for _ in range(2):  # each worker reads it from the start
            server_context(descriptor_path(pair[0]), descriptor_path(pair[1]))
            assert descriptor_path(pair[0]).read_text() == before
    finally:
        for fd in pair:
            os.close(fd)


def test_no_copy_of_half_a_pair(certificate: Pair, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SetupError, match=r"gone\.pem: cannot be read \(No such file"):
        copy_pair(certificate[0], tmp_path / "gone.pem")
    assert len(os.listdir("/proc/self/fd")) == before


def test_idle_memory_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = asyncio.sslproto.SSLProtocol
    monkeypatch.setattr(protocol, "max_size", 256 * 1024)
    assert lower_idle_memory()
    assert protocol.max_size == IDLE_BUFFER_BYTES
    assert lower_idle_memory()


def test_idle_memory_of_an_asyncio_without_that_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(asyncio.sslproto.SSLProtocol, "max_size")
    assert not lower_idle_memory()


def write_rsa(folder: Path) -> Pair:
    """A pair with another kind of key than `write_self_signed` makes."""
    private = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, "rsa.example.org")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .sign(private, hashes.SHA256())
    )
    pem, pkcs8, clear = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    folder.mkdir()
    pair = folder / "certificate.pem", folder / "key.pem"
    pair[0].write_bytes(made.public_bytes(pem))
    pair[1].write_bytes(private.private_bytes(pem, pkcs8, clear))
    return pair


def shown(port: int, version: ssl.TLSVersion, name: str | None) -> ssl.SSLSocket:
    """A greeted TLS connection of a client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    peer = context.wrap_socket(plain, server_hostname=name)
    assert peer.recv(10) == b"hello"
    return peer


class Hello(asyncio.Protocol):
    """Greets, and sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.mark.parametrize("name", ["localhost", None], ids=["sni", "no sni"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_renewed_certificate_is_shown_to_new_peers(
    run: Run, certificate: Pair, tmp_path: Path, version: ssl.TLSVersion, name: str | None
) -> None:
    """Also where its key is of another kind: nothing of the first pair is left to choose."""
    first = ssl.PEM_cert_to_DER_cert(certificate[0].read_text())
    rsa_pair = write_rsa(tmp_path / "rsa")
    second = ssl.PEM_cert_to_DER_cert(rsa_pair[0].read_text())

    async def work() -> None:
        live = LiveContext(*certificate)
        server = await asyncio.get_running_loop().create_server(Hello, "127.0.0.1", 0, ssl=live.context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            before = await asyncio.to_thread(shown, port, version, name)
            assert before.getpeercert(binary_form=True) == first
            live.use(*rsa_pair)
            after = await asyncio.to_thread(shown, port, version, name)
            assert after.getpeercert(binary_form=True) == second
            with pytest.raises(SetupError, match="is not the key of"):
                live.use(rsa_pair[0], certificate[1])
            last = await asyncio.to_thread(shown, port, version, name)
            assert last.getpeercert(binary_form=True) == second
            before.sendall(b"still there")
            assert await asyncio.to_thread(before.recv, 100) == b"still there"
            for one in (before, after, last):
                one.close()

    run(work())


def replace(path: Path, data: bytes) -> None:
    """As programs that renew certificates do it: written beside, then moved over the old one."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Pair, Pair]:
    """Two pairs, the first of which will be replaced by the second."""
    pairs = []
    for name in ("first", "second"):
        pairs.append((tmp_path / name / "certificate.pem", tmp_path / name / "key.pem"))
        write_self_signed(*pairs[-1], hostname="localhost")
    return pairs[0], pairs[1]


def test_changed_files_are_taken_once_they_are_a_pair(watched: tuple[Pair, Pair]) -> None:
    files, newer = watched
    before, after = files[0].read_text(), newer[0].read_text()
    pair = WatchedPair(*files)
    try:
        assert not pair.take_if_changed()
        replace(files[0], newer[0].read_bytes())
        with pytest.raises(SetupError) as caught:
            pair.take_if_changed()
        assert str(caught.value) == (
            f"tls.key: {files[1]} is not the key of {files[0]}; name the pair that belongs together"
        )
        assert not pair.take_if_changed()  # told once
        assert descriptor_path(pair.fds[0]).read_text() == before
        assert pair.number == 0
        replace(files[1], newer[1].read_bytes())
        assert pair.take_if_changed()
        assert descriptor_path(pair.fds[0]).read_text() == after
        assert pair.number == 1
        assert not pair.take_if_changed()
    finally:
        pair.close()


def test_files_written_in_place_are_seen_too(watched: tuple[Pair, Pair]) -> None:
    files, newer = watched
    pair = WatchedPair(*files)
    try:
        for old, new in zip(files, newer, strict=True):
            old.write_bytes(new.read_bytes())
        assert pair.take_if_changed()
        assert descriptor_path(pair.fds[1]).read_text() == newer[1].read_text()
    finally:
        pair.close()


def test_a_file_that_is_away_for_a_while(watched: tuple[Pair, Pair]) -> None:
    files, _ = watched
    pair = WatchedPair(*files)
    try:
        files[1].rename(files[1].with_name("away"))
        with pytest.raises(SetupError, match=r"key\.pem: cannot be read \(No such file or directory\)"):
            pair.take_if_changed()
        assert not pair.take_if_changed()
        files[1].with_name("away").rename(files[1])
        assert pair.take_if_changed()
    finally:
        pair.close()


def test_a_refused_pair_leaves_no_descriptor(watched: tuple[Pair, Pair]) -> None:
    files, newer = watched
    pair = WatchedPair(*files)
    before = len(os.listdir("/proc/self/fd"))
    replace(files[0], newer[0].read_bytes())
    for _ in range(2):
        with pytest.raises(SetupError):
            pair.take()
    assert len(os.listdir("/proc/self/fd")) == before
    replace(files[1], newer[1].read_bytes())
    pair.take()
    assert len(os.listdir("/proc/self/fd")) == before
    pair.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_key_that_the_user_may_not_read(certificate: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    user = pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(SetupError) as caught:
        copy_pair(*certificate)
    assert str(caught.value) == (
        f"{certificate[0]}: cannot be read (Permission denied); the server runs as {user}: let it read the file,"
        f" for instance by `setfacl -m u:{user}:r`, and enter the folders above it"
    )
