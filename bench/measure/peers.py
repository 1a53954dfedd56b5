"""Dovecot behind Postfix from Debian's packages: installed when missing, started and ended by `peers/peer.sh`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROFILES = {"maildir": 20_000, "mdbox": 21_000, "sdbox": 22_000}  # the base of its ports
PACKAGES = ("dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd", "dovecot-submissiond", "postfix")
PROGRAMS = (
    "/usr/sbin/dovecot",
    "/usr/sbin/postfix",
    *(f"/usr/lib/dovecot/{name}" for name in ("imap", "pop3", "lmtp", "submission-login")),
)
INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES_NEEDED = 8192  # one for each idling connection: beyond them Dovecot polls every 30 s


@dataclass(frozen=True)
class Target:
    """A server under load: ports, where its process ids stand, how it is restarted, its data folder if it is ours."""

    name: str
    imap_port: int
    pop3_port: int
    smtp_port: int
    pid_files: tuple[str, ...]
    restart: str
    data_dir: Path | None = None


def install() -> None:
    """Returns when the peers are there; ends the program with one line where they cannot be had."""
    if os.geteuid() != 0:
        sys.exit("the peers need root to be started: run as root, or compare with an earlier run (--alone --with FILE)")
    if all(Path(program).exists() for program in PROGRAMS):
        return
    print(f"# installing {' '.join(PACKAGES)}", file=sys.stderr)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            sys.exit(f"apt-get is not here: install {' '.join(PACKAGES)} by hand")
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    print("# Debian may have started services of these packages; they are not used", file=sys.stderr)


def versions() -> dict[str, str]:
    """Of the programs that are here."""
    found = {}
    for name, command in (("dovecot", ["dovecot", "--version"]), ("postfix", ["postconf", "-h", "-d", "mail_version"])):
        try:
            found[name] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except FileNotFoundError:
            continue
    return found


def name_of(profile: str, *, is_perf: bool, scheme: str) -> str:
    """As results name it."""
    return "-".join(["dovecot", profile, *(["perflogin"] if is_perf else []), *([scheme] if scheme != "plain" else [])])


@contextmanager
def started(bench: Path, profile: str, *, is_perf: bool, scheme: str) -> Iterator[Target]:
    """One with an empty store; its folder goes at the end."""
    script, base = bench / "peers/peer.sh", PROFILES[profile]
    chosen = {**({"LOGIN": "perf"} if is_perf else {}), **({"SCHEME": scheme} if scheme != "plain" else {})}
    environ = {**os.environ, **chosen}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"peer-{profile}-", dir="/tmp")))
        stop = ["bash", str(script), "stop", profile, str(scratch)]
        stack.callback(lambda: subprocess.run(stop, check=False, env=environ))
        log = scratch.with_name(scratch.name + ".log")
        stack.callback(log.unlink, missing_ok=True)
        # into a file: a pipe would be held open by the servers that stay
        with log.open("w") as told:
            done = subprocess.run(
                ["bash", script, "start", profile, scratch], check=False, stdout=told, stderr=told, env=environ
            )
        if done.returncode:
            raise RuntimeError(f"{profile} did not start: {log.read_text()}")
        restart = " ".join([*(f"{key}={value}" for key, value in chosen.items()), "bash", str(script)])
        yield Target(
            name_of(profile, is_perf=is_perf, scheme=scheme),
            imap_port=base + 143,
            pop3_port=base + 110,
            smtp_port=base + 25,
            pid_files=(f"{scratch}/dovecot.pid", f"{scratch}/postfix.pid"),
            restart=f"{restart} restart-dovecot {profile} {scratch}",
        )


@contextmanager
def notified() -> Iterator[None]:
    """The kernel's bound on watchers of files raised meanwhile, for a thousand idling connections."""
    before = int(INSTANCES.read_text())
    if before >= INSTANCES_NEEDED:
        yield
        return
    with suppress(OSError):  # a container may keep it as it is
        INSTANCES.write_text(str(INSTANCES_NEEDED))
    try:
        yield
    finally:
        with suppress(OSError):
            INSTANCES.write_text(str(before))
