"""Ports: opened all or none, taken over, and never more connections promised than there are files for."""

import os
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from pochta.config import Limits, Listener, ListenerProtocol
from pochta.errors import SetupError
from pochta.net import listen
from pochta.net.listen import BoundListener, bind_all, connections_per_worker, inherited_sockets, raise_nofile

Bind = Callable[..., list[BoundListener]]


def at(address: str) -> Listener:
    return Listener(protocol=ListenerProtocol.IMAP, address=address)


@pytest.fixture
def bind() -> Iterator[Bind]:
    """`bind_all` whose sockets are closed afterwards."""
    made: list[BoundListener] = []

    def bind_them(*addresses: str, inherited: tuple[socket.socket, ...] = ()) -> list[BoundListener]:
        got = bind_all([at(one) for one in addresses], inherited)
        made.extend(got)
        return got

    yield bind_them
    for one in made:
        one.socket.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ports_of_the_systems_choice(bind: Bind) -> None:
    first, second = bind("127.0.0.1:0", "127.0.0.1:0")
    assert first.address != second.address
    for one in (first, second):
        host, port = one.address
        assert (host, port > 0) == ("127.0.0.1", True)
        assert one.shown_address == f"127.0.0.1:{port}"
        assert one.socket.getblocking() is False
        assert one.socket.get_inheritable() is False
        socket.create_connection(one.address).close()


def test_every_address(bind: Bind) -> None:
    (one,) = bind("*:0")
    assert one.shown_address == f"*:{one.address[1]}"
    socket.create_connection(("127.0.0.1", one.address[1])).close()
    if one.socket.family == socket.AF_INET6:
        socket.create_connection(("::1", one.address[1])).close()


def test_every_address_of_a_kernel_without_ipv6(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ipv6 = listen._bind

    def without(family: socket.AddressFamily, host: str, port: int, *, v6_only: bool) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return with_ipv6(family, host, port, v6_only=v6_only)

    monkeypatch.setattr(listen, "_bind", without)
    (one,) = bind("*:0")
    assert one.address[0] == "0.0.0.0"
    socket.create_connection(("127.0.0.1", one.address[1])).close()


def test_a_port_in_use_leaves_nothing_open(bind: Bind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = open_descriptors()
        with pytest.raises(SetupError) as caught:
            bind("127.0.0.1:0", f"127.0.0.1:{port}", "127.0.0.1:0")
        assert open_descriptors() == before
    assert str(caught.value) == (
        f"listener 127.0.0.1:{port}: port {port} is in use; stop the other server (`ss -ltnp`), or change the address"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied"),
            'no permission to open port 25; start as root with user = "…", let systemd open the port,'
            " or take a port above 1023",
        ),
        (
            OSError(99, "Cannot assign requested address"),
            'this machine does not have that address; write one of `ip address`, or "*" for all',
        ),
        (OSError(105, "No buffer space available"), "cannot be opened (No buffer space available); check the address"),
    ],
    ids=["permission", "address", "other"],
)
def test_why_a_port_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    def fail(*_: object, **__: object) -> socket.socket:
        raise error

    monkeypatch.setattr(listen, "_bind", fail)
    with pytest.raises(SetupError) as caught:
        bind_all([at("127.0.0.1:25")])
    assert str(caught.value) == f"listener 127.0.0.1:25: {said}"


def test_an_address_of_another_machine() -> None:
    with pytest.raises(SetupError, match=r"^listener 192\.0\.2\.1:0: this machine does not have that address; "):
        bind_all([at("192.0.2.1:0")])  # RFC 5737 §3: documentation


def test_inherited_sockets_take_the_place_of_their_listeners(bind: Bind) -> None:
    given = socket.create_server(("127.0.0.1", 0))
    port = given.getsockname()[1]
    first, second = bind("127.0.0.1:0", f"127.0.0.1:{port}", inherited=(given,))
    assert second.socket is given
    assert first.socket is not given


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_inherited_socket_for_every_address(bind: Bind, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    given = socket.create_server((host, 0), family=family)
    (one,) = bind(f"*:{given.getsockname()[1]}", inherited=(given,))
    assert one.socket is given


def test_an_inherited_socket_that_no_listener_has_is_closed(bind: Bind) -> None:
    before = open_descriptors()
    given = socket.create_server(("127.0.0.1", 0))
    port = given.getsockname()[1]
    with pytest.raises(SetupError) as caught:
        bind("127.0.0.1:0", inherited=(given,))
    assert open_descriptors() == before
    assert str(caught.value) == (
        f"LISTEN_FDS: no listener has the address 127.0.0.1:{port};"
        " add a [[listener]], or remove it from the .socket unit"
    )


def test_listen_fds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        monkeypatch.setattr(listen, "_FIRST_INHERITED_FD", os.dup(given.fileno()))
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "imap", "HOME": "/"}
        (taken,) = inherited_sockets(environ)
        with taken:
            assert taken.getsockname() == given.getsockname()
            assert not taken.get_inheritable()
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
    ids=["none", "no pid", "another's", "no number", "zero"],
)
def test_listen_fds_that_are_not_ours(environ: dict[str, str]) -> None:
    environ = dict(environ)
    assert inherited_sockets(environ) == []
    assert environ == {}


@pytest.mark.parametrize(
    ("family", "kind", "said"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "is not a listening socket (it does not listen); check the .socket unit"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "is not an IP socket; write ListenStream= with an address and port"),
    ],
    ids=["connected", "unix"],
)
def test_listen_fds_of_another_kind(monkeypatch: pytest.MonkeyPatch, family: int, kind: int, said: str) -> None:
    with socket.socket(family, kind) as given:
        if family == socket.AF_UNIX:
            given.bind("")  # a name of the kernel's choice
            given.listen()
        fd = os.dup(given.fileno())
        monkeypatch.setattr(listen, "_FIRST_INHERITED_FD", fd)
        with pytest.raises(SetupError) as caught:
            inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    assert str(caught.value) == f"LISTEN_FDS: descriptor {fd} {said}"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_listen_fd_that_is_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.dup(0)
    os.close(fd)
    monkeypatch.setattr(listen, "_FIRST_INHERITED_FD", fd)
    with pytest.raises(SetupError, match=rf"^LISTEN_FDS: descriptor {fd} is not a listening socket \("):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})


@pytest.mark.parametrize(("connections", "workers", "share"), [(10, 1, 10), (10, 3, 4), (1, 8, 1), (12, 4, 3)])
def test_a_workers_share(connections: int, workers: int, share: int) -> None:
    assert connections_per_worker(Limits(connections=connections), workers) == share


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limit in force last; a fake of the kernel's, whose hard limit nobody may lift."""
    limit = [(1024, 4096)]

    def set_limit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[1] > limit[-1][1]:
            raise ValueError("not allowed to raise maximum limit")
        limit.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limit[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return limit


def test_open_files_are_raised_as_far_as_needed(files: list[tuple[int, int]], events: list[str]) -> None:
    assert raise_nofile(Limits(connections=4000), 2) == 2000
    assert files[-1] == (2512, 4096)
    assert events == []


def test_open_files_that_suffice_are_left(files: list[tuple[int, int]]) -> None:
    assert raise_nofile(Limits(connections=100), 2) == 50
    assert files == [(1024, 4096)]


def test_fewer_open_files_than_needed(files: list[tuple[int, int]], events: list[str]) -> None:
    assert raise_nofile(Limits(connections=10_000), 2) == 4096 - 512
    assert files[-1] == (4096, 4096)
    assert events == ["serve.nofile.low allowed=4096 wanted=5512 connections_per_worker=3584"]


def test_open_files_without_limit(files: list[tuple[int, int]]) -> None:
    files.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert raise_nofile(Limits(connections=10_000), 1) == 10_000


def test_too_few_open_files(files: list[tuple[int, int]]) -> None:
    files.append((256, 512))
    with pytest.raises(SetupError, match=r"^only 512 open files are allowed, .*LimitNOFILE=1512.*ulimit -n 1512"):
        raise_nofile(Limits(connections=1000), 1)
