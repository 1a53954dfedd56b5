"""One private PostgreSQL for a whole test run: the workers of xdist share it, the last one to leave stops it."""

import fcntl
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path("/usr/lib/postgresql/15/bin")  # where Debian 12 puts it
START_TIMEOUT_S = 60


def is_installed() -> bool:
    return (FOLDER / "initdb").exists()


def _run(*command: str) -> None:
    # initdb and postgres refuse to run as root
    owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    subprocess.run(command, check=True, cwd="/", env=environment, stdout=subprocess.DEVNULL, timeout=120, **owner)


def _make(folder: Path) -> None:
    if os.geteuid() == 0:
        entry = pwd.getpwnam("postgres")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    options = ("--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
    _run(str(FOLDER / "initdb"), *options, "-D", str(folder / "data"))


def _start(folder: Path) -> None:
    settings = {
        "unix_socket_directories": folder,
        "listen_addresses": "",
        "fsync": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "shared_buffers": "16MB",
        "max_connections": "100",
    }
    arguments = " ".join(f"-c {key}='{value}'" for key, value in settings.items())
    command = (str(FOLDER / "pg_ctl"), "-D", str(folder / "data"), "-w", "-t", str(START_TIMEOUT_S))
    _run(*command, "-l", str(folder / "log"), "-o", arguments, "start")


def _stop(folder: Path) -> None:
    _run(str(FOLDER / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")


@contextmanager
def running(shared_folder: Path) -> Iterator[str]:
    """The conninfo of the server of everybody who names the same `shared_folder`."""
    with _state(shared_folder) as state:
        if not state.get("users"):
            # Not under pytest's own folder: that is closed to the user postgres, and too deep for a socket's name.
            state["folder"] = tempfile.mkdtemp(prefix="pochta-pg-")
            _make(Path(state["folder"]))
            _start(Path(state["folder"]))
        state["users"] = state.get("users", 0) + 1
        folder = Path(state["folder"])
    try:
        yield f"host={folder} user=postgres dbname=postgres"
    finally:
        with _state(shared_folder) as state:
            state["users"] -= 1
            if not state["users"]:
                _stop(folder)
                shutil.rmtree(folder)


@contextmanager
def _state(shared_folder: Path) -> Iterator[dict]:
    path = shared_folder / "postgres.json"
    with open(path, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        try:
            yield state
        finally:
            file.truncate(0)
            file.write(json.dumps(state))
            file.flush()
