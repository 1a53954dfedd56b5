"""Where a worker's time goes: flame graphs of the paths that cost most, drawn by py-spy from outside."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from measure.processes import tree
from measure.server import BenchServer
from measure.wire import Imap, deliver, sample_message

MESSAGES = 5000
AT_ONCE = 100
SECONDS = 8
RATE = 500  # samples a second: 4000 in all, for a hundredth of the processor

Turn = Callable[[int], object]  # one operation; its argument is how many were before

_OVERVIEW = b"(UID ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE MESSAGE-ID)])"


class _Load:
    """Two clients of one account, and INBOX with MESSAGES different messages, which the first has selected."""

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._small = [sample_message(1400, number=n) for n in range(AT_ONCE)]
        self._message = sample_message(4000)
        self._imap, self._other = Imap(server.imap_port), Imap(server.imap_port)
        for start in range(0, MESSAGES, AT_ONCE):
            self._append_all(b"INBOX", [sample_message(1400, number=start + n) for n in range(AT_ONCE)])
        self._imap.command(b"SELECT INBOX")

    def _append_all(self, mailbox: bytes, messages: list[bytes]) -> None:
        literals = b"".join(b" {%d+}\r\n%b" % (len(one), one) for one in messages)
        self._other.command(b"APPEND " + mailbox + literals)

    def _mark(self, which: bytes, n: int) -> None:
        self._imap.count(b"STORE %b %bFLAGS (\\Flagged)" % (which, b"-" if n & 1 else b"+"))

    def _ask(self, line: bytes) -> None:
        """Ask of a mailbox that has just changed, so that no remembered answer is measured."""
        self._append_all(b"INBOX", [self._message])
        self._imap.command(b"NOOP")
        self._imap.count(line)

    def paths(self) -> dict[str, Turn]:
        """What one turn of each does."""
        imap, server = self._imap, self._server
        return {
            "deliver": lambda n: deliver(server.smtp_port, [f"u{k}" for k in range(1, 11)], self._message, 1.0),
            "append": lambda n: self._append_all(b"Drafts", [self._message]),
            "multiappend": lambda n: self._append_all(b"Drafts", self._small),
            "store": lambda n: self._mark(b"%d" % (n // 2 % MESSAGES + 1), n),
            "store-all": lambda n: self._mark(b"1:*", n),
            "fetch-meta": lambda n: imap.count(b"FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)"),
            "fetch-overview": lambda n: imap.count(b"FETCH 1:* " + _OVERVIEW),
            "fetch-body": lambda n: imap.command(b"UID FETCH %d (BODY.PEEK[])" % (n * 7 % MESSAGES + 1)),
            "search-body": lambda n: self._ask(b'UID SEARCH BODY "review request" SUBJECT "update %d"' % (n % 100)),
            "sort": lambda n: self._ask(b"UID SORT (SUBJECT) UTF-8 ALL"),
            "thread": lambda n: self._ask(b"UID THREAD REFERENCES UTF-8 ALL"),
            "sign-in": lambda n: Imap(server.imap_port).close(),
        }


def names() -> list[str]:
    """All paths there are."""
    return re.findall(r'^            "([\w-]+)": lambda', Path(__file__).read_text(), re.MULTILINE)


def draw(chosen: list[str], folder: Path) -> list[tuple[str, float]]:
    """Draw FOLDER/NAME.svg of each path; (name, operations a second while it was drawn).

    Raises:
        RuntimeError: there is no py-spy.
    """
    spy = shutil.which("py-spy")
    if spy is None:
        raise RuntimeError("py-spy is not installed; run pip install py-spy")
    folder.mkdir(parents=True, exist_ok=True)
    rates: list[tuple[str, float]] = []
    with BenchServer(workers=1) as server:
        server.start()
        paths = _Load(server).paths()
        worker = tree(server.pid)[1]
        for name in chosen:
            rates.append((name, _drawn(spy, worker, folder / f"{name}.svg", paths[name])))
    return rates


def _drawn(spy: str, pid: int, path: Path, turn: Turn) -> float:
    turn(0)
    command = [spy, "record", "--pid", str(pid), "--duration", str(SECONDS), "--rate", str(RATE), "--output", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as drawing:
        began, count = time.perf_counter(), 0
        while drawing.poll() is None:
            count += 1
            turn(count)
        rate = count / (time.perf_counter() - began)
    if drawing.returncode:
        raise RuntimeError(f"py-spy ended with {drawing.returncode}; it needs root, or the right to trace the server")
    # its title is the command, with the paths of this machine
    path.write_text(path.read_text().replace(" ".join(command), f"bench/flames {path.stem}"))
    return rate
