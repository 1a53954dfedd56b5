"""A Pochta for measuring: its own folder, free loopback ports, fifty accounts, ended when the `with` ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from pochta import config
from pochta.accounts import passwords
from pochta.config import Listener, ListenerProtocol, ListenerTls
from pochta.log import Secret
from pochta.net.tls import write_self_signed
from pochta.store import setup

DOMAIN = "bench.test"
PASSWORD = "pass"
ACCOUNTS = 50
HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 20.0
POCHTA = (sys.executable, "-P", "-m", "pochta.cli.main")


class BenchServer:
    """`with BenchServer(workers=1) as server:`; the accounts are u0 … u49 at bench.test with one password.

    `make` without `start` leaves a stopped store to be filled. The folder goes with the `with`, unless given. `tables`:
    settings in TOML; without them incoming mail is not checked, since nothing here may ask the world's name servers.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        loop: str | None = None,
        folder: Path | None = None,
        tables: str = "[checks]\nenabled = false\n",
        accounts: int = ACCOUNTS,
    ) -> None:
        self.workers = workers
        self._accounts = accounts
        self._tables = tables
        self.smtp_port, self.imap_port, self.imaps_port, self.pop3_port = free_ports(4)
        self._loop = loop
        self._temporary = tempfile.TemporaryDirectory(prefix="pochta-bench-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self.data_dir = self.folder / "data"
        self.config = self.folder / "pochta.toml"
        self.ready_file = self.folder / "ready"  # its first line is the supervisor's process id
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.make()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def make(self) -> None:
        """Settings, store, certificate, accounts."""
        listeners = (
            self._listener(ListenerProtocol.SMTP, self.smtp_port, ListenerTls.NONE),
            self._listener(ListenerProtocol.IMAP, self.imap_port, ListenerTls.NONE),
            self._listener(ListenerProtocol.IMAP, self.imaps_port, ListenerTls.IMPLICIT),
            self._listener(ListenerProtocol.POP3, self.pop3_port, ListenerTls.NONE),
        )
        text = config.initial_toml("mx.bench.test", listeners=listeners, workers=self.workers)
        self.config.write_text(text + "\n[limits]\nconnections = 100000\n\n" + self._tables)
        setup.create(self.data_dir)
        write_self_signed(
            self.data_dir / "tls/certificate.pem", self.data_dir / "tls/key.pem", hostname="mx.bench.test"
        )
        # one hash for all: the cost of a sign-in stays what it is, fifty hashes need not be made
        credential = passwords.hash_password(Secret(PASSWORD))
        lines = [f'[[domain]]\nname = "{DOMAIN}"\n']
        lines += [
            f'[[account]]\naddress = "u{n}@{DOMAIN}"\npassword_hash = "{credential}"\n' for n in range(self._accounts)
        ]
        accounts = self.folder / "accounts.toml"
        accounts.write_text("\n".join(lines))
        subprocess.run([*POCHTA, "-c", self.config, "apply", accounts], check=True, stdout=subprocess.DEVNULL)

    def _listener(self, protocol: ListenerProtocol, port: int, tls: ListenerTls) -> Listener:
        return Listener(protocol=protocol, address=f"{HOST}:{port}", tls=tls, allow_plaintext_auth=True)

    @property
    def command(self) -> list[str]:
        """What starts the server."""
        return [*POCHTA, "-c", str(self.config), "serve", "--ready-file", str(self.ready_file)]

    def start(self) -> float:
        """Start and wait until every worker accepts; the seconds it took."""
        began = time.perf_counter()
        environ = dict(os.environ)
        environ.pop("POCHTA_LOOP", None)
        if self._loop is not None:
            environ["POCHTA_LOOP"] = self._loop
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=log, env=environ)
        while not self.ready_file.exists():
            if self._process.poll() is not None or time.perf_counter() - began > START_S:
                raise RuntimeError("the server did not start:\n" + (self.folder / "log").read_text()[-2000:])
            time.sleep(0.002)
        return time.perf_counter() - began

    @property
    def pid(self) -> int:
        """The supervisor; `compare` lets mailbench restart it, so the file knows it, not we."""
        return int(self.ready_file.read_text().split()[0])

    def stop(self) -> float:
        """End it in good order, if it runs; the seconds it took."""
        began = time.perf_counter()
        if self.ready_file.exists():
            pid = self.pid
            os.kill(pid, signal.SIGTERM)
            self._wait_gone(pid)
        elif self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._process is not None:
            self._process.wait(STOP_S)
            self._process = None
        return time.perf_counter() - began

    def _wait_gone(self, pid: int) -> None:
        until = time.perf_counter() + STOP_S
        while time.perf_counter() < until:
            if self._process is not None:
                self._process.poll()
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    def write_restart_script(self) -> Path:
        """A script that restarts the server, for `mailbench.py --restart-cmd`."""
        script = self.folder / "restart.sh"
        ready = self.ready_file
        serve = " ".join(f"'{word}'" for word in self.command)
        script.write_text(
            "#!/bin/sh\n"
            f"pid=$(head -n 1 '{ready}') && kill \"$pid\"\n"
            'n=0; while kill -0 "$pid" 2>/dev/null && [ -f \'' + str(ready) + "' ] && [ $n -lt 400 ];"
            " do sleep 0.05; n=$((n+1)); done\n"
            f"n=0; (setsid {serve} >/dev/null 2>>'{self.folder}/log' </dev/null &)\n"
            f"while [ ! -f '{ready}' ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done\n"
        )
        script.chmod(0o700)
        return script


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
