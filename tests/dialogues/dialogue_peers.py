"""Whom the dialogues are held with: Pochta inside the test's process, and a private Dovecot where it is installed."""

import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pochta.config import Auth, Limits, Oauth
from pochta.testing import Server

HERE: Final = Path(__file__).parent
START_TRIES: Final = 200  # of 50 ms
PASSWORD: Final = "secret"


@dataclass
class Peer:
    """A server to talk to; each dialogue has a user of its own."""

    name: str
    host: str
    imap_port: int
    smtp_port: int
    pop3_port: int = 0
    server: Server | None = None
    users: set[str] = field(default_factory=set)

    def user(self, name: str) -> str:
        """The address of a user who exists from now on."""
        address = f"{name.replace('_', '-')}@example.org"
        if self.server is not None and address not in self.users:
            self.server.add_account(address, PASSWORD)
        self.users.add(address)
        return address


@contextmanager
def pochta() -> Iterator[Peer]:
    """Pochta on free ports."""
    # an issuer that nobody asks: a token that is none is refused without its keys
    oauth = Oauth(issuer="http://127.0.0.1:1", audience="mail", scope="mail")
    limits = Limits(min_free_bytes=0, message_size_bytes=1_000_000)
    with Server(limits=limits, auth=Auth(scram_sha_256=True), oauth=oauth) as server:
        yield Peer("pochta", server.host, server.imap_port, server.smtp_port, server.pop3_port, server)


def has_dovecot() -> bool:
    """Whether Dovecot can judge the scripts here."""
    return shutil.which("dovecot") is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration(folder: Path, port: int, pop3_port: int) -> str:
    is_root = os.geteuid() == 0
    owner = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    # Dovecot refuses to serve mail of root's
    mail = pwd.getpwnam("nobody") if is_root else pwd.getpwuid(os.geteuid())
    (folder / "mail").mkdir()
    if is_root:
        os.chown(folder / "mail", mail.pw_uid, mail.pw_gid)
        folder.chmod(0o755)
    text = (HERE / "dovecot.conf.in").read_text("ascii")
    values = {
        "S": str(folder),
        "UID": str(mail.pw_uid),
        "GID": str(mail.pw_gid),
        "PORT": str(port),
        "POP3_PORT": str(pop3_port),
        "INTERNAL": "dovecot" if is_root else owner,
        "INTERNAL_GROUP": "dovecot" if is_root else group,
        "LOGIN": "dovenull" if is_root else owner,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


@contextmanager
def dovecot() -> Iterator[Peer]:
    """A Dovecot of our own on a free port, with mail that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="dovecot-"))
    port, pop3_port = _free_port(), _free_port()
    configuration = folder / "dovecot.conf"
    configuration.write_text(_configuration(folder, port, pop3_port), "ascii")
    process = subprocess.Popen(["dovecot", "-F", "-c", str(configuration)], stderr=subprocess.PIPE)
    try:
        _wait_for(process, port)
        yield Peer("dovecot", "127.0.0.1", port, 0, pop3_port)
    finally:
        process.terminate()
        process.wait(timeout=20)
        assert process.stderr is not None
        process.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(START_TRIES):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
                if probe.recv(4):
                    return
        except OSError:
            pass
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        raise RuntimeError(f"dovecot ended: {process.stderr.read().decode()}")
    raise RuntimeError("dovecot does not answer")
