"""The supervisor as a process among processes: starts, signals, deaths, and what it refuses."""

import os
import pwd
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pochta import config
from pochta.config import Listener, ListenerProtocol, ListenerTls
from pochta.net.tls import write_self_signed
from pochta.store import setup
from supervisor_rig import Server, launch, serve, wait_gone

Start = Callable[..., Server]

# The one of a virtual environment may lie in root's own folder; the system's everyone can run.
PUBLIC_PYTHON = next((one for one in ("/usr/bin/python3",) if os.path.exists(one)), sys.executable)

IMAP = Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:0")
IMAPS = Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:0", tls=ListenerTls.IMPLICIT)
SMTP = Listener(protocol=ListenerProtocol.SMTP, address="127.0.0.1:0")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that others can enter too, which those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="pochta-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for one in servers:
        one.clean_up()


@pytest.fixture
def fake(folder: Path, started: list[Server]) -> Start:
    """Start a supervisor with fake workers on the settings written before."""

    def start(**order: object) -> Server:
        started.append(launch(folder / "pochta.toml", **order))  # type: ignore[arg-type]
        return started[-1]

    (folder / "data").mkdir()
    return start


@pytest.fixture
def real(folder: Path, started: list[Server]) -> Start:
    """Start `pochta serve` on the settings written before, with a new store and certificate."""

    def start(**options: object) -> Server:
        started.append(serve(folder / "pochta.toml", **options))  # type: ignore[arg-type]
        return started[-1]

    setup.create(folder / "data", is_throwaway=True)
    make_pair(folder)
    return start


def make_pair(folder: Path, name: str = "data/tls") -> None:
    write_self_signed(folder / name / "certificate.pem", folder / name / "key.pem", hostname="localhost")


def settings(folder: Path, *listeners: Listener, workers: int = 1, user: str | None = None, more: str = "") -> None:
    text = config.initial_toml("localhost", listeners=listeners or (IMAP,), workers=workers, user=user)
    (folder / "pochta.toml").write_text(text + more)


def refused(server: Server) -> str:
    """The one line of a server that does not start."""
    assert server.ended() == 2
    assert len(server.lines) == 1, server.lines
    assert not server.ready_file.exists()
    assert server.lines[0].startswith("pochta: ")
    return server.lines[0].removeprefix("pochta: ")


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as peer:
        line = peer.makefile("rb").readline()
    assert isinstance(line, bytes)
    return line


def greeting_tls(folder: Path, port: int) -> bytes:
    context = ssl.create_default_context(cafile=folder / "first.pem")
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as peer,
    ):
        return peer.recv(1000)


def is_clean(folder: Path) -> bool:
    connection = apsw.Connection(str(folder / "data/pochta.db"))
    try:
        return connection.execute("SELECT number FROM meta WHERE name = 'is_clean'").fetchall() == [(1,)]
    finally:
        connection.close()


def test_starts_and_stops(folder: Path, fake: Start) -> None:
    settings(folder, workers=2)
    (folder / "ready").write_text("1\n")  # of a server that was killed
    server = fake().ready()
    assert len(server.workers()) == 2
    assert server.ask()["index"] in (0, 1)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.said() == ["test.prepare", "serve.ready", "serve.stopping", "test.finish", "serve.stopped"]
    assert not (folder / "ready").exists()


def test_is_ready_only_when_every_worker_is(folder: Path, fake: Start) -> None:
    settings(folder, Listener(protocol=ListenerProtocol.IMAP, address=f"127.0.0.1:{free_port()}"), workers=2)
    os.mkfifo(folder / "gate")
    server = fake(environ={"FAKE_WORKER": f"gate:{folder / 'gate'}"})
    server.event("test.prepare")
    port = config.load(folder / "pochta.toml").listeners[0].port
    assert server.ask(port)["index"] == 0
    with (folder / "gate").open("wb"):  # returns when the other worker waits there
        assert server.ask(port)["index"] == 0
        assert not (folder / "ready").exists()
    server.ready()
    assert server.ports() == {"imap": port}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_second_signal_ends_workers_that_do_not_stop(folder: Path, fake: Start) -> None:
    settings(folder)
    server = fake(environ={"FAKE_WORKER": "stubborn"}).ready()
    server.signal(signal.SIGINT)
    server.event("serve.stopping")
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.said()[2:] == ["serve.stopping", "serve.killed", "test.finish", "serve.stopped"]


def test_workers_that_do_not_stop_are_killed_in_time(folder: Path, fake: Start) -> None:
    settings(folder)
    server = fake(environ={"FAKE_WORKER": "stubborn"}, constants={"STOP_S": 0.05}).ready()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.said()[2:] == ["serve.stopping", "serve.killed", "test.finish", "serve.stopped"]


def test_killed_worker_is_replaced_on_the_same_socket(folder: Path, fake: Start) -> None:
    settings(folder)
    server = fake(constants={"RETRY_S": [0.0, 0.01]}).ready()
    first = server.ask()
    for _ in range(2):
        before = server.ask()["pid"]
        os.kill(before, signal.SIGKILL)
        assert f"pid={before}" in server.event("worker.died")
        after = server.ask()  # waits in the socket that nobody closed
        assert after["pid"] != before
        assert after == first | {"pid": after["pid"]}
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.said()[-3:] == ["serve.stopping", "test.finish", "serve.stopped"]


def test_worker_that_cannot_be_started_is_tried_again(folder: Path, fake: Start) -> None:
    settings(folder)
    program = folder / "python"
    program.symlink_to(PUBLIC_PYTHON)
    server = fake(interpreter=str(program), constants={"RETRY_S": [0.01]}).ready()
    before = server.ask()["pid"]
    program.unlink()
    os.kill(before, signal.SIGKILL)
    assert 'error="ended with status -9"' in server.event("worker.died")
    assert server.event("worker.died") == 'worker=0 error="could not be started (No such file or directory)"'
    program.symlink_to(PUBLIC_PYTHON)
    assert server.ask()["pid"] != before


def test_hangup_is_ignored(folder: Path, fake: Start) -> None:
    settings(folder)
    server = fake().ready()
    before = server.ask()
    server.signal(signal.SIGHUP)
    server.event("serve.hup.ignored")
    assert server.ask() == before


def test_workers_that_never_get_ready_end_the_start(folder: Path, fake: Start) -> None:
    settings(folder, workers=2)
    server = fake(environ={"FAKE_WORKER": "fails"})
    failure = server.event("serve.failed")
    assert failure.startswith('error="worker ')
    assert failure.endswith(' ended with status 3 before it was ready"')
    assert server.ended() == 1
    assert not server.ready_file.exists()
    assert server.said()[-1] == "serve.stopped"


def test_workers_that_take_too_long_end_the_start(folder: Path, fake: Start) -> None:
    settings(folder, workers=2)
    os.mkfifo(folder / "gate")
    server = fake(environ={"FAKE_WORKER": f"gate:{folder / 'gate'}"}, constants={"READY_S": 0.3, "STOP_S": 0.3})
    assert server.event("serve.failed") == 'error="workers were not ready in time"'
    assert server.ended() == 1


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(folder: Path, fake: Start, kind: str) -> None:
    settings(folder)
    shown = str(folder / "notify") if kind == "path" else f"@{folder}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(shown if kind == "path" else "\0" + shown[1:])
        server = fake(environ={"NOTIFY_SOCKET": shown}).ready()
        assert systemd.recv(1000) == b"READY=1\nMAINPID=%d" % server.pid
        assert not server.ask()["notify"]
        server.signal(signal.SIGTERM)
        assert systemd.recv(1000) == b"STOPPING=1"
        assert server.ended() == 0


def test_systemd_that_does_not_listen_is_no_reason_to_stop(folder: Path, fake: Start) -> None:
    settings(folder)
    server = fake(environ={"NOTIFY_SOCKET": str(folder / "nobody")})
    assert server.event("serve.notify.failed") == 'error="No such file or directory"'
    server.ready()


def test_sockets_of_systemd_are_served(folder: Path, fake: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        settings(folder, Listener(protocol=ListenerProtocol.IMAP, address=f"127.0.0.1:{port}"))
        server = fake(inherited_fd=given.fileno()).ready()
        assert server.ports() == {"imap": port}
        assert not server.ask()["listen"]


def test_socket_of_systemd_that_no_listener_has(folder: Path, fake: Start) -> None:
    settings(folder)
    with socket.create_server(("127.0.0.1", 0)) as given:
        server = fake(inherited_fd=given.fileno())
        assert refused(server) == (
            f"LISTEN_FDS: no listener has the address 127.0.0.1:{given.getsockname()[1]};"
            " add a [[listener]], or remove it from the .socket unit"
        )


def test_few_open_files_mean_few_connections(folder: Path, fake: Start) -> None:
    settings(folder, workers=2, more="\n[limits]\nconnections = 2000\n")
    server = fake(nofile=612)
    assert server.event("serve.nofile.low") == "allowed=612 wanted=1512 connections_per_worker=100"
    server.ready()
    assert server.ask()["connections"] == 200


def test_too_few_open_files(folder: Path, fake: Start) -> None:
    settings(folder, more="\n[limits]\nconnections = 2000\n")
    assert refused(fake(nofile=512)) == (
        "only 512 open files are allowed, and a worker needs 512 beside its connections;"
        " raise the limit (LimitNOFILE=2512 in the unit, or `ulimit -n 2512`)"
    )


def test_workers_run_as_the_user(folder: Path, fake: Start) -> None:
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    settings(folder, user=user.pw_name)
    if os.geteuid() == 0:
        folder.chmod(0o777)  # for the ready file
        os.chown(folder / "data", user.pw_uid, user.pw_gid)
    server = fake(interpreter=PUBLIC_PYTHON)
    assert server.event("test.prepare") == f"uid={user.pw_uid}"
    server.ready()
    answer = server.ask()
    assert answer["uid"] == user.pw_uid
    if os.geteuid() == 0:
        assert answer["groups"] == os.getgrouplist(user.pw_name, user.pw_gid)
    assert (folder / "data/lock").stat().st_uid == user.pw_uid
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


def test_user_who_may_not_write(folder: Path, fake: Start) -> None:
    """As root: the data is root's, the server another's. Else: only root can become another."""
    settings(folder, user="nobody")
    said = refused(fake(interpreter=PUBLIC_PYTHON))
    if os.geteuid() == 0:
        assert said == (
            f"{folder}/data: belongs to root, and the server runs as nobody;"
            f" give it the whole folder with `chown -R nobody {folder}/data`"
        )
    else:
        assert said.startswith('user: only root can become "nobody"; ')


def test_user_who_cannot_run_the_program(folder: Path, fake: Start) -> None:
    settings(folder)
    program = folder / "python"
    program.write_text("no mode lets anybody run this")
    assert refused(fake(interpreter=str(program))) == (
        f"{program}: cannot be run by {pwd.getpwuid(os.geteuid()).pw_name};"
        " install Pochta where that user can read it, not in another's home"
    )


def test_user_who_does_not_exist(folder: Path, fake: Start) -> None:
    settings(folder, user="no-such-user")
    assert refused(fake()) == (
        'user: there is no system user "no-such-user"; make it with `useradd --system no-such-user`'
    )


def test_ready_file_that_cannot_be_written(folder: Path, fake: Start) -> None:
    settings(folder)
    (folder / "ready.part").mkdir()
    server = fake()
    assert server.ended() == 2
    assert server.lines[-1] == (
        f"pochta: {folder}/ready: cannot be written (Is a directory); name another file with --ready-file"
    )


def test_no_data(folder: Path, real: Start) -> None:
    settings(folder)
    shutil.rmtree(folder / "data")
    assert refused(real()) == (
        f"{folder}/pochta.toml: {folder}/data: no such folder;"
        " make one with `pochta init`, or correct data_dir in the settings"
    )
    assert not (folder / "data").exists()


def test_port_in_use(folder: Path, real: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        first = Listener(protocol=ListenerProtocol.IMAP, address=f"127.0.0.1:{free}")
        settings(folder, first, Listener(protocol=ListenerProtocol.SMTP, address=f"127.0.0.1:{port}"))
        server = real()
        assert refused(server) == (
            f"{folder}/pochta.toml: listener 127.0.0.1:{port}: port {port} is in use;"
            " stop the other server (`ss -ltnp`), or change the address"
        )
        with pytest.raises(ConnectionRefusedError):
            greeting(free)
    assert is_clean(folder)


def test_certificate_and_key_of_different_pairs(folder: Path, real: Start) -> None:
    make_pair(folder, "other")
    settings(folder, IMAPS, more='\n[tls]\ncertificate = "other/certificate.pem"\nkey = "data/tls/key.pem"\n')
    assert refused(real()) == (
        f"{folder}/pochta.toml: tls.key: {folder}/data/tls/key.pem is not the key of {folder}/other/certificate.pem;"
        " name the pair that belongs together"
    )
    assert is_clean(folder)


def test_certificate_that_is_gone(folder: Path, real: Start) -> None:
    settings(folder, IMAPS)
    (folder / "data/tls/certificate.pem").unlink()
    assert refused(real()) == (
        f"{folder}/pochta.toml: tls.certificate: {folder}/data/tls/certificate.pem cannot be read"
        " (No such file or directory); make a pair with `pochta init`, or name another file"
    )


def test_real_workers_serve_drain_and_are_replaced(folder: Path, real: Start) -> None:
    settings(folder, SMTP, IMAPS)
    shutil.copy(folder / "data/tls/certificate.pem", folder / "first.pem")
    server = real().ready()
    ports = server.ports()
    assert greeting(ports["smtp"]).startswith(b"220 localhost ")
    assert greeting_tls(folder, ports["imap"]).startswith(b"* OK ")
    assert not is_clean(folder)

    for path in (folder / "data/tls").iterdir():  # neither a signal nor a new worker takes these
        path.write_text("half written")
    server.signal(signal.SIGHUP)
    server.event("tls.reload.refused")
    (worker,) = server.workers()
    assert "uvloop" in Path(f"/proc/{worker}/maps").read_text()
    os.kill(worker, signal.SIGHUP)
    assert greeting(ports["smtp"]).startswith(b"220 localhost ")
    assert server.workers() == [worker]
    os.kill(worker, signal.SIGKILL)
    server.event("worker.died")
    assert greeting(ports["smtp"]).startswith(b"220 localhost ")
    assert greeting_tls(folder, ports["imap"]).startswith(b"* OK ")

    with socket.create_connection(("127.0.0.1", ports["smtp"])) as peer:
        lines = peer.makefile("rb")
        assert lines.readline().startswith(b"220 ")
        server.signal(signal.SIGTERM)
        assert lines.readline().startswith(b"421 4.3.2 ")
        assert lines.readline() == b""
    assert server.ended() == 0
    said = server.said()
    assert said[-1] == "serve.stopped"
    assert [one for one in said if one.startswith(("serve.", "bug", "worker."))] == [
        "serve.ready",
        "worker.died",
        "serve.stopping",
        "serve.stopped",
    ]
    assert not server.ready_file.exists()
    assert is_clean(folder)


def test_workers_end_with_a_killed_supervisor(folder: Path, real: Start) -> None:
    settings(folder, SMTP, workers=2)
    first = real().ready()
    workers = first.workers()
    assert len(workers) == 2
    first.signal(signal.SIGKILL)
    for worker in workers:
        wait_gone(worker)
    # Nobody has waited for the first one: it still has its process id, as in a container without init.
    second = real().ready()
    assert greeting(second.ports()["smtp"]).startswith(b"220 localhost ")

    third = real(ready_name="third")
    assert refused(third) == (
        f"{folder}/pochta.toml: {folder}/data: a server runs on it already (process {second.pid});"
        " stop that one, or name another data_dir"
    )
    assert greeting(second.ports()["smtp"]).startswith(b"220 localhost ")
    second.signal(signal.SIGTERM)
    assert second.ended() == 0


def test_loop_of_the_standard_library(folder: Path, real: Start) -> None:
    settings(folder, SMTP)
    server = real(environ={"POCHTA_LOOP": "asyncio"}).ready()
    assert greeting(server.ports()["smtp"]).startswith(b"220 localhost ")
    (worker,) = server.workers()
    assert "uvloop" not in Path(f"/proc/{worker}/maps").read_text()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
