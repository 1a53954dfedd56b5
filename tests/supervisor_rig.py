"""Servers as processes of their own: started, listened to by their events, and ended."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
GONE_S = 20.0  # far above what anything here takes, below the test's own time limit


class Server:
    """A running `pochta serve`, or the launcher with fake workers."""

    def __init__(self, command: list[str], ready_file: Path, environ: dict[str, str], fds: tuple[int, ...]) -> None:
        self.ready_file = ready_file
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "NOTIFY_", "POCHTA_"))
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=clean | environ,
            pass_fds=fds,
            text=True,
        )
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def event(self, name: str) -> str:
        """The fields of the next event of that name."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            words = line.split(maxsplit=2)
            if len(words) > 1 and words[1] == name:
                return words[2].rstrip("\n") if len(words) > 2 else ""
        raise AssertionError("\n".join([f"no {name} in", *self.lines]))

    def ready(self) -> "Server":
        self.event("serve.ready")
        return self

    def ports(self) -> dict[str, int]:
        """Protocol to port, from the ready file."""
        pid, *listeners = self.ready_file.read_text().splitlines()
        assert pid == str(self.pid)
        return {protocol: int(address.rpartition(":")[2]) for protocol, address in (one.split() for one in listeners)}

    def ask(self, port: int | None = None) -> dict[str, Any]:
        """What the fake worker that accepts says of itself."""
        with socket.create_connection(("127.0.0.1", port or self.ports()["imap"])) as peer:
            answer = json.loads(peer.makefile("rb").readline())
        assert isinstance(answer, dict)
        return answer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit status, once it has ended and its last lines are read."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr.read().splitlines()
        self.process.stderr.close()
        return self.process.wait(GONE_S)

    def said(self) -> list[str]:
        """The names of the events, and whole lines that are none."""
        found = []
        for line in self.lines:
            words = line.split()
            found.append(words[1] if len(words) > 1 and line[:2] == "20" and words[0].endswith("Z") else line)
        return found

    def workers(self) -> list[int]:
        """The process ids of the living children, sorted."""
        return sorted(pid for pid, parent in _parents().items() if parent == self.pid)

    def clean_up(self) -> None:
        """End what a failed test has left."""
        left = self.workers()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
        if self.process.stderr is not None:
            self.process.stderr.close()


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(parent)
    return found


def wait_gone(pid: int) -> None:
    """Return when the process has ended, whether or not anybody has waited for it."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], GONE_S)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


def launch(
    config: Path,
    *,
    environ: dict[str, str] | None = None,
    constants: dict[str, object] | None = None,
    inherited_fd: int | None = None,
    nofile: int | None = None,
    interpreter: str = sys.executable,
) -> Server:
    """A supervisor with fake workers."""
    ready_file = config.with_name("ready")
    order = {
        "config": str(config),
        "ready_file": str(ready_file),
        "constants": constants or {},
        "inherited_fd": inherited_fd,
        "nofile": nofile,
        "worker": [interpreter, str(config.with_name("fake_worker.py"))],
    }
    shutil.copy(TESTS / "fake_worker.py", config.parent)  # where any user can read it
    command = [sys.executable, "-P", str(TESTS / "supervisor_launcher.py"), json.dumps(order)]
    return Server(command, ready_file, environ or {}, () if inherited_fd is None else (inherited_fd,))


def serve(config: Path, *, environ: dict[str, str] | None = None, ready_name: str = "ready") -> Server:
    """The real thing, by the command line."""
    ready_file = config.with_name(ready_name)
    command = [sys.executable, "-P", "-m", "pochta.cli.main", "-c", str(config), "serve"]
    return Server([*command, "--ready-file", str(ready_file)], ready_file, environ or {}, ())
