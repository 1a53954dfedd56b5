"""Postfix' `smtp-sink` on a free port of every loopback address: it takes mail and throws it away, for little CPU."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

CONNECTIONS = 500
BACKLOG = 1000
START_S = 10.0


def is_there() -> bool:
    """Whether it can be run."""
    return shutil.which("smtp-sink") is not None


@contextmanager
def sink() -> Iterator[int]:
    """Its port; it ends with the `with`."""
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        port: int = one.getsockname()[1]
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        ["smtp-sink", *user, "-m", str(CONNECTIONS), f"0.0.0.0:{port}", str(BACKLOG)], stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port("127.0.0.1", port)
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_for_port(host: str, port: int) -> None:
    """Wait until somebody listens."""
    until = time.perf_counter() + START_S
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            if time.perf_counter() > until:
                raise
            time.sleep(0.02)
