"""A whole server, supervisor and workers, as processes of their own, that a test may kill."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import bcrypt

from pochta import config
from pochta.config import Listener, ListenerProtocol
from pochta.store import directory, setup
from pochta.store.store import Store

DOMAIN = "example.org"
PASSWORD = "secret"
NOW = 1_750_000_000
DEADLINE_S = 60.0  # of every wait: what takes so long never happens

_PORT = re.compile(r"(?m)^(smtp|imap|pop3)\b.*:(\d+)$")  # in the ready file
_WATCHED = re.compile(r" ino:([0-9a-f]+) ")
_ESTABLISHED, _LISTEN = "01", "0A"  # as /proc/net/tcp writes them


def wait_until(holds: Callable[[], object], what: str, poll_s: float = 0.005) -> None:
    """Return once `holds()` is true; AssertionError when it never becomes so."""
    until = time.monotonic() + DEADLINE_S
    never = threading.Event()
    while not holds():
        assert time.monotonic() < until, what
        never.wait(poll_s)


def make_store(data_dir: Path, local_parts: Iterable[str]) -> None:
    """A new store with these accounts of DOMAIN; their password is PASSWORD, at the lowest cost there is."""
    setup.create(data_dir)
    credential = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()

    async def fill() -> None:
        store = Store(data_dir)
        store.start(hears_hints=False)
        await store.write(0, directory.add_domain, DOMAIN, DOMAIN, None, NOW)
        for name in local_parts:
            await store.write(0, directory.add_account, DOMAIN, name, f"{name}@{DOMAIN}", credential, 0, NOW)
        await store.close()

    asyncio.run(fill())


class ServerProcess:
    """`pochta serve` on free loopback ports. `with ServerProcess(folder, …) as server: server.start()`."""

    def __init__(self, folder: Path, local_parts: Sequence[str], *, workers: int = 2, limits: str = "") -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.smtp = self.imap = self.pop3 = ("127.0.0.1", 0)
        self.workers = workers
        self.process: subprocess.Popen[bytes] | None = None
        self._log_path = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        listeners = (
            Listener(protocol=ListenerProtocol.SMTP, address="127.0.0.1:0"),
            Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:0", allow_plaintext_auth=True),
            Listener(protocol=ListenerProtocol.POP3, address="127.0.0.1:0", allow_plaintext_auth=True),
        )
        text = config.initial_toml(f"mx.{DOMAIN}", listeners=listeners, workers=workers)
        (folder / "pochta.toml").write_text(text + f"\n[limits]\nmin_free_bytes = 0\n{limits}\n")
        make_store(self.data_dir, local_parts)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        if self.process is not None:
            self.kill_all()

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "pochta.cli.main", "-c", str(self.folder / "pochta.toml"), *words]

    def start(self) -> None:
        """Returns once every worker accepts connections."""
        assert self.process is None
        ready_file = self.folder / "ready"
        ready_file.unlink(missing_ok=True)
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve", "--ready-file", str(ready_file)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        process = self.process

        def is_ready() -> bool:
            assert process.poll() is None, self.log()[-5000:]
            return ready_file.exists()

        wait_until(is_ready, "the server never became ready")
        ports = {protocol: int(port) for protocol, port in _PORT.findall(ready_file.read_text())}
        self.smtp, self.imap, self.pop3 = (("127.0.0.1", ports[name]) for name in ("smtp", "imap", "pop3"))

    def log(self) -> str:
        return self._log_path.read_text()

    def worker_pids(self) -> list[int]:
        """The workers that live."""
        assert self.process is not None
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait_for_workers(self) -> list[int]:
        """The workers, once as many of them serve as there should be."""
        wait_until(self._are_all_serving, "a killed worker was never replaced")
        return self.worker_pids()

    def _are_all_serving(self) -> bool:
        pids = self.worker_pids()
        listening = {_listening_inode(port) for _, port in (self.smtp, self.imap)}
        return len(pids) == self.workers and all(listening <= _watched_inodes(pid) for pid in pids)

    def kill_worker(self, pid: int) -> None:
        """SIGKILL to one worker of this server."""
        assert pid in self.worker_pids()
        os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL to the supervisor, the workers and their helpers; returns when none of them is left.

        Whoever lived on would keep the log's index as the last commit left it, and SQLite would not recover the log.
        """
        assert self.process is not None
        pids = _descendants(self.process.pid)
        os.kill(self.process.pid, signal.SIGKILL)  # first, so that it replaces nobody
        for pid in pids:
            _kill(pid)
        self.process.wait()
        self.process = None
        wait_until(lambda: not any(_is_alive(pid) for pid in pids), "a killed process did not end")

    def stop(self) -> None:
        """SIGTERM; the server must end well."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(DEADLINE_S) == 0, self.log()
        self.process = None


def _descendants(pid: int) -> list[int]:
    """The processes below this one."""
    found: list[int] = []
    with suppress(FileNotFoundError):  # it has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


class Worker:
    """The one worker of a server, at rest when this is made."""

    def __init__(self, server: ServerProcess) -> None:
        (pid,) = server.wait_for_workers()
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew, from what is resident now
        self.resting_kib = self._kib("VmRSS")

    def _kib(self, name: str) -> int:
        match = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        assert match is not None
        return int(match[1])

    @property
    def grown_kib(self) -> int:
        """How far the peak lies above the resting worker."""
        return self._kib("VmHWM") - self.resting_kib


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # the end of its life-line was quicker
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _watched_inodes(pid: int) -> set[int]:
    """What the worker's event loop watches; empty for one that begins or ends."""
    inodes: set[int] = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(fd) == "anon_inode:[eventpoll]":
                info = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
                inodes.update(int(one, 16) for one in _WATCHED.findall(info))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
    return inodes


def _tcp_rows(state: str) -> list[tuple[int, int, int]]:
    """(own port, the peer's port, inode) of the IPv4 sockets in that state."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        (int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16), int(row[9]))
        for row in rows
        if row[3] == state
    ]


def _listening_inode(port: int) -> int:
    return next(inode for own, _, inode in _tcp_rows(_LISTEN) if own == port)


def sockets_of(pid: int) -> set[int]:
    """The inodes of a process's sockets."""
    inodes: set[int] = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return inodes


def inodes_by_peer_port(server_port: int) -> dict[int, int]:
    """Of the server's ends of the connections to a port: the client's port -> the inode of the server's socket."""
    return {peer: inode for own, peer, inode in _tcp_rows(_ESTABLISHED) if own == server_port}
