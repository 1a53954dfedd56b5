"""Listening sockets: opened all or none, or taken over from systemd, and enough file descriptors to serve them.

Decides how an address in the settings becomes a socket. Refuses to know protocols and TLS. Every failure is a
`SetupError` that names the listener's address, the cause and the remedy, and leaves nothing open.
"""

import errno
import os
import resource
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from pochta import log
from pochta.config import Limits, Listener
from pochta.errors import SetupError

BACKLOG: Final = 1024  # connections the kernel holds while workers are busy; Linux cuts it to net.core.somaxconn
RESERVED_FILES: Final = 512  # per worker beside connections: store, indexes, spool files of large messages, log, loop

_FIRST_INHERITED_FD: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_INHERITED_KEYS: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listener of the settings and its open socket, which the holder closes."""

    config: Listener
    socket: socket.socket

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port in fact bound (the port is never 0)."""
        host, port = self.socket.getsockname()[:2]
        return host, port

    @property
    def shown_address(self) -> str:
        """As it would stand in the settings: `127.0.0.1:2525`, `[::1]:2525`, or `*:25` for every address."""
        host, port = self.address
        return f"*:{port}" if self.config.host == "*" else _shown(host, port)


def inherited_sockets(environ: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The listening sockets that systemd (or another starter) opened for this process; the variables are removed.

    Source: sd_listen_fds(3). Raises: SetupError when a descriptor is not a listening socket.
    """
    environ = os.environ if environ is None else environ
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    for key in _INHERITED_KEYS:  # our workers must not take them for theirs
        environ.pop(key, None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    taken: list[socket.socket] = []
    try:
        for fd in range(_FIRST_INHERITED_FD, _FIRST_INHERITED_FD + int(count)):
            taken.append(_adopt(fd))
    except SetupError:
        for one in taken:
            one.close()
        raise
    return taken


def _adopt(fd: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        raise SetupError(
            f"LISTEN_FDS: descriptor {fd} is not a listening socket ({error.strerror}); check the .socket unit"
        ) from None
    adopted.set_inheritable(False)
    if not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        adopted.close()
        raise SetupError(
            f"LISTEN_FDS: descriptor {fd} is not a listening socket (it does not listen); check the .socket unit"
        )
    if adopted.family not in (socket.AF_INET, socket.AF_INET6):
        adopted.close()
        raise SetupError(
            f"LISTEN_FDS: descriptor {fd} is not an IP socket; write ListenStream= with an address and port"
        )
    return adopted


def bind_all(listeners: Iterable[Listener], inherited: Sequence[socket.socket] = ()) -> list[BoundListener]:
    """A listening socket for each listener, in order: the inherited one with its address, else a new one.

    Raises: SetupError; every socket, inherited ones too, is closed then.
    """
    left = list(inherited)
    bound: list[BoundListener] = []
    try:
        for config in listeners:
            given = next((one for one in left if _is_at(one, config)), None)
            if given is not None:
                left.remove(given)
            bound.append(BoundListener(config, given if given is not None else _open(config)))
        if left:
            host, port = left[0].getsockname()[:2]
            raise SetupError(
                f"LISTEN_FDS: no listener has the address {_shown(host, port)};"
                " add a [[listener]], or remove it from the .socket unit"
            )
    except BaseException:
        for one in (*(each.socket for each in bound), *left):
            one.close()
        raise
    return bound


def _is_at(inherited: socket.socket, config: Listener) -> bool:
    host, port = inherited.getsockname()[:2]
    wanted = ("::", "0.0.0.0") if config.host == "*" else (config.host,)
    return port == config.port and host in wanted


def _open(config: Listener) -> socket.socket:
    host, port = config.host, config.port
    family = socket.AF_INET6 if host == "*" or ":" in host else socket.AF_INET
    try:
        return _bind(family, "::" if host == "*" else host, port, v6_only=host != "*")
    except OSError as error:
        if host != "*" or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise SetupError(f"listener {config.address}: {_reason(error, config)}") from None
    try:
        return _bind(socket.AF_INET, "0.0.0.0", port, v6_only=False)  # a kernel without IPv6
    except OSError as error:
        raise SetupError(f"listener {config.address}: {_reason(error, config)}") from None


def _bind(family: socket.AddressFamily, host: str, port: int, *, v6_only: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for TIME_WAIT
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
        made.bind((host, port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _reason(error: OSError, config: Listener) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {config.port} is in use; stop the other server (`ss -ltnp`), or change the address"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f'no permission to open port {config.port}; start as root with user = "…", let systemd open the port,'
            " or take a port above 1023"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return 'this machine does not have that address; write one of `ip address`, or "*" for all'
    return f"cannot be opened ({error.strerror}); check the address"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connections_per_worker(limits: Limits, workers: int) -> int:
    """A worker's equal share of `limits.connections`, rounded up."""
    return -(-limits.connections // workers)


def raise_nofile(limits: Limits, workers: int) -> int:
    """How many connections each worker can hold, once this process and its children may open as many files as allowed.

    Event `serve.nofile.low` when that is less than the settings ask for.
    Raises: SetupError when not even the reserve is left.
    """
    share = connections_per_worker(limits, workers)
    wanted = share + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = _set_nofile(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return share
    if soft <= RESERVED_FILES:
        raise SetupError(
            f"only {soft} open files are allowed, and a worker needs {RESERVED_FILES} beside its connections;"
            f" raise the limit (LimitNOFILE={wanted} in the unit, or `ulimit -n {wanted}`)"
        )
    log.event("serve.nofile.low", allowed=soft, wanted=wanted, connections_per_worker=soft - RESERVED_FILES)
    return soft - RESERVED_FILES


def _set_nofile(wanted: int, hard: int) -> int:
    """The soft limit in force after asking for `wanted`."""
    try:
        # Only root may lift the hard limit; it is not lowered, so that a child may still rise.
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted, hard if hard == resource.RLIM_INFINITY else max(wanted, hard))
        )
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
