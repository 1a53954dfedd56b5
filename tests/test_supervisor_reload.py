"""A renewed certificate reaches running servers: on SIGHUP, and when its files change; nothing open is dropped."""

import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pochta import config
from pochta.config import Listener, ListenerProtocol, ListenerTls
from pochta.net.tls import write_self_signed
from pochta.store import setup
from supervisor_rig import Server, launch, serve

LOCAL = "127.0.0.1:0"
IMAPS = Listener(protocol=ListenerProtocol.IMAP, address=LOCAL, tls=ListenerTls.IMPLICIT)
STARTTLS = {
    ListenerProtocol.IMAP: (b"a STARTTLS\r\n", b"a OK", b"b NOOP\r\n", b"b OK"),
    ListenerProtocol.SMTP: (b"EHLO x.test\r\nSTARTTLS\r\n", b"220 2.0.0", b"NOOP\r\n", b"250 2"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with two pairs: `data/tls`, which is served, and `next`."""
    made = Path(tempfile.mkdtemp(prefix="pochta-", dir="/tmp"))
    for name in ("data/tls", "next"):
        write_self_signed(made / name / "certificate.pem", made / name / "key.pem", hostname="localhost")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for one in servers:
        one.clean_up()


def settings(folder: Path, listener: Listener, *, workers: int = 1) -> Path:
    path = folder / "pochta.toml"
    path.write_text(config.initial_toml("localhost", listeners=(listener,), workers=workers))
    return path


def real(folder: Path, started: list[Server], listener: Listener) -> Server:
    path = settings(folder, listener)
    setup.create(folder / "data", is_throwaway=True)
    started.append(serve(path))
    return started[-1].ready()


def fake(folder: Path, started: list[Server], *, workers: int, look_s: float = 1000.0) -> Server:
    path = settings(folder, IMAPS, workers=workers)
    started.append(launch(path, constants={"PAIR_LOOK_S": look_s, "RETRY_S": [0.0]}))
    return started[-1].ready()


def replace(folder: Path, *names: str) -> None:
    for name in names:
        part = folder / "part"
        shutil.copy(folder / "next" / name, part)
        part.replace(folder / "data/tls" / name)


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def shown(peer: ssl.SSLSocket) -> bytes:
    found = peer.getpeercert(binary_form=True)
    assert found is not None
    return found


def anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def read_until(peer: socket.socket, wanted: bytes) -> None:
    data = b""
    while wanted not in data:
        part = peer.recv(4096)
        assert part, data
        data += part


def implicit(port: int) -> ssl.SSLSocket:
    peer = anybody().wrap_socket(socket.create_connection(("127.0.0.1", port)))
    read_until(peer, b"* OK")
    return peer


def by_command(port: int, protocol: ListenerProtocol) -> ssl.SSLSocket:
    ask, answer, *_ = STARTTLS[protocol]
    plain = socket.create_connection(("127.0.0.1", port))
    read_until(plain, b"\r\n")
    plain.sendall(ask)
    read_until(plain, answer)
    return anybody().wrap_socket(plain)


def test_hangup_renews_implicit_tls(folder: Path, started: list[Server]) -> None:
    server = real(folder, started, IMAPS)
    port = server.ports()["imap"]
    (worker,) = server.workers()
    with implicit(port) as before:
        assert shown(before) == der(folder / "data/tls/certificate.pem")
        replace(folder, "certificate.pem", "key.pem")
        server.signal(signal.SIGHUP)
        assert server.event("tls.reloaded") == "worker=0"
        with implicit(port) as after:
            assert shown(after) == der(folder / "next/certificate.pem")
        before.sendall(b"a NOOP\r\n")
        read_until(before, b"a OK")
    assert server.workers() == [worker]


@pytest.mark.parametrize("protocol", [ListenerProtocol.IMAP, ListenerProtocol.SMTP])
def test_hangup_renews_starttls(folder: Path, started: list[Server], protocol: ListenerProtocol) -> None:
    server = real(folder, started, Listener(protocol=protocol, address=LOCAL, tls=ListenerTls.STARTTLS))
    port = server.ports()[protocol]
    *_, noop, answer = STARTTLS[protocol]
    with by_command(port, protocol) as before, socket.create_connection(("127.0.0.1", port)) as in_the_clear:
        assert shown(before) == der(folder / "data/tls/certificate.pem")
        replace(folder, "certificate.pem", "key.pem")
        server.signal(signal.SIGHUP)
        server.event("tls.reloaded")
        with by_command(port, protocol) as after:
            assert shown(after) == der(folder / "next/certificate.pem")
        before.sendall(noop)
        read_until(before, answer)
        read_until(in_the_clear, b"\r\n")
        in_the_clear.sendall(STARTTLS[protocol][0])
        read_until(in_the_clear, STARTTLS[protocol][1])
        with anybody().wrap_socket(in_the_clear) as later:
            assert shown(later) == der(folder / "next/certificate.pem")


def test_half_a_pair_is_not_taken(folder: Path, started: list[Server]) -> None:
    server = real(folder, started, IMAPS)
    port = server.ports()["imap"]
    first = der(folder / "data/tls/certificate.pem")
    replace(folder, "certificate.pem")
    server.signal(signal.SIGHUP)
    tls = folder / "data/tls"
    assert server.event("tls.reload.refused") == (
        f'error="tls.key: {tls}/key.pem is not the key of {tls}/certificate.pem; name the pair that belongs together"'
    )
    with implicit(port) as peer:
        assert shown(peer) == first
    replace(folder, "key.pem")
    server.signal(signal.SIGHUP)
    server.event("tls.reloaded")
    with implicit(port) as peer:
        assert shown(peer) == der(folder / "next/certificate.pem")


def test_changed_files_are_noticed_without_a_signal(folder: Path, started: list[Server]) -> None:
    server = fake(folder, started, workers=2, look_s=0.02)
    replace(folder, "certificate.pem")
    assert "is not the key of" in server.event("tls.reload.refused")
    replace(folder, "key.pem")
    assert {server.event("test.pair"), server.event("test.pair")} == {"index=0", "index=1"}
    answer = server.ask()
    assert answer["certificate"] == (folder / "next/certificate.pem").read_text()
    assert answer["key"] == (folder / "next/key.pem").read_text()


def test_workers_that_start_later_have_the_newest(folder: Path, started: list[Server]) -> None:
    server = fake(folder, started, workers=1)
    replace(folder, "certificate.pem", "key.pem")
    server.signal(signal.SIGHUP)
    server.event("test.pair")
    for path in (folder / "data/tls").iterdir():
        path.write_text("half written")
    server.signal(signal.SIGHUP)
    server.event("tls.reload.refused")
    os.kill(server.ask()["pid"], signal.SIGKILL)
    server.event("worker.died")
    assert server.ask()["certificate"] == (folder / "next/certificate.pem").read_text()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
