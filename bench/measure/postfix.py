"""Debian's Postfix with its own settings and queue: the peer of `queue`. Needs root.

Its settings are Debian's, but for: no chroot, a log in a file, mail by `transport_maps`, and everything that comes in
is held. `release` puts what is held where `cleanup` puts new mail; `send` wakes the queue manager, as `cleanup` does.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from measure import processes
from measure.server import HOST, free_ports
from measure.sink import wait_for_port

PROGRAMS = ("postfix", "postkick", "smtp-source")
SOURCE_CONNECTIONS = 10
KICKS = 40
KICK_EVERY_S = 0.05

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.bench.test
mydomain = bench.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
transport_maps = texthash:{folder}/transport
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_sender_restrictions = check_client_access static:HOLD
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def is_there() -> bool:
    """Whether it can be run."""
    return os.geteuid() == 0 and all(shutil.which(one) for one in PROGRAMS)


class Postfix:
    """`with Postfix(hops) as postfix:`; `hops`: recipient domains and the `[address]:port` that each goes to."""

    def __init__(self, hops: dict[str, str]) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="postfix-bench-")
        self._folder = Path(self._temporary.name)
        self._folder.chmod(0o755)
        self._hops = hops
        self._queue = self._folder / "queue"
        (self._port,) = free_ports(1)

    def __enter__(self) -> Self:
        for name in ("queue", "data", "etc"):
            (self._folder / name).mkdir()
        os.chown(self._folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
        etc = self._folder / "etc"
        (etc / "main.cf").write_text(_MAIN.format(folder=self._folder))
        (etc / "master.cf").write_text(_MASTER.format(port=self._port))
        lines = [f"{domain} smtp:{hop}\n" for domain, hop in self._hops.items()]
        (self._folder / "transport").write_text("".join(lines))
        self._run("postfix", "start")
        wait_for_port(HOST, self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._run("postfix", "stop")
        self._temporary.cleanup()

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [program, "-c", str(self._folder / "etc"), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(words)}: {done.stderr.decode()[-500:]}")

    @property
    def pid(self) -> int:
        """Its master process."""
        return int((self._queue / "pid/master.pid").read_text())

    def cpu_s(self) -> float:
        """Of all its processes, those that have ended included."""
        return processes.cpu_s(self.pid, with_ended=True)

    def fill(self, messages: int, size: int) -> None:
        """Hold so many messages, in turn to each domain."""
        share = messages // len(self._hops)
        for domain in self._hops:
            command = ["smtp-source", "-m", str(share), "-s", str(SOURCE_CONNECTIONS), "-l", str(size)]
            command += ["-f", "u0@bench.test", "-t", f"someone@{domain}", f"{HOST}:{self._port}"]
            subprocess.run(command, check=True)
        held = len(os.listdir(self._queue / "hold"))
        if held != share * len(self._hops):
            raise RuntimeError(f"{held} messages are held")

    def release(self) -> None:
        """Put all of them where new mail is put."""
        hold, incoming = self._queue / "hold", self._queue / "incoming"
        for name in os.listdir(hold):
            (hold / name).rename(incoming / name)

    def send(self) -> float:
        """Wake the queue manager; when that was. It may not hear while the master is about to start it again."""
        for tries_left in reversed(range(KICKS)):
            at = time.perf_counter()
            try:
                self._run("postkick", "public", "qmgr", "I")
                break
            except RuntimeError:
                if not tries_left:
                    raise
                time.sleep(KICK_EVERY_S)
        return at

    def is_empty(self) -> bool:
        """Whether nothing waits, is under way or was put off."""
        return not any(_has_files(self._queue / name) for name in ("active", "incoming", "deferred"))

    def wait_quiet(self) -> None:
        """Wait until nothing has used the processor for a second."""
        before = -1.0
        while (now := self.cpu_s()) != before:
            before = now
            time.sleep(1)


def _has_files(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        for one in entries:
            if one.is_file() or (one.is_dir() and _has_files(Path(one.path))):
                return True
    return False
