"""Running other people's programs: with a home of their own, in bounded time, and heard out when they fail."""

import json
import os
import pty
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 60.0
PAGE: Final = Path(__file__).parents[2] / "docs" / "clients.md"

PACKAGES: Final = {  # program -> package of Debian
    "curl": "curl",
    "fetchmail": "fetchmail",
    "getmail": "getmail6",
    "interimap": "interimap",
    "kinit": "krb5-user",
    "krb5kdc": "krb5-kdc",
    "mbsync": "isync",
    "mpop": "mpop",
    "msmtp": "msmtp",
    "mutt": "mutt",
    "neomutt": "neomutt",
    "node": "nodejs",
    "offlineimap": "offlineimap3",
    "openssl": "openssl",
    "perl": "perl",
    "postfix": "postfix",
    "swaks": "swaks",
}


def documented(program: str, changes: dict[str, str]) -> str:
    """The configuration that docs/clients.md shows for the program, with `changes` made: each must find its text."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {program}\n")[2]
    text = section.partition("```\n")[2].partition("```\n")[0]
    for shown, used in changes.items():
        assert shown in text, f"docs/clients.md shows no {shown!r} for {program}"
        text = text.replace(shown, used)
    return text


@dataclass(frozen=True, slots=True)
class Done:
    """What a program that ended said."""

    code: int
    out: bytes
    err: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """What the fixture `tool` gives: programs that see `home` and nothing of the user's own settings."""

    home: Path
    find: Callable[[str], None]

    def __call__(self, name: str, *args: str | Path, stdin: bytes = b"", allowed_codes: Collection[int] = (0,)) -> Done:
        """Run it to its end.

        Raises: AssertionError with all it said, when it ends with a code that is not allowed.
        """
        self.find(name)
        argv = [name, *map(str, args)]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=TIMEOUT_S, env=self.environment(), cwd=self.home
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode in allowed_codes, f"{name} ended with {done.returncode}:\n{said}"
        return Done(done.returncode, done.stdout, done.stderr)

    def on_terminal(self, name: str, *args: str | Path) -> None:
        """Run it to its end on a terminal of its own, for a program that will not do without.

        Raises: AssertionError with what the terminal showed, when it fails.
        """
        self.find(name)
        ours, theirs = pty.openpty()
        shown: list[bytes] = []
        with open(ours, "rb", buffering=0) as screen:
            process = subprocess.Popen(
                [name, *map(str, args)],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=self.environment() | {"TERM": "xterm", "LINES": "40", "COLUMNS": "120"},
                cwd=self.home,
                start_new_session=True,
            )
            os.close(theirs)
            reader = threading.Thread(target=_read_all, args=(screen, shown))
            reader.start()
            try:
                code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            reader.join()
        assert code == 0, f"{name} ended with {code}:\n{b''.join(shown)[-4000:].decode(errors='replace')}"

    def environment(self) -> dict[str, str]:
        """The environment of every program here."""
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "USER": "anna", "TERM": "dumb"}

    def write(self, name: str, text: str) -> Path:
        """A file in the home, such as a configuration; readable by its owner only, as most programs demand."""
        path = self.home / name
        path.touch(0o600)
        path.write_text(text, encoding="utf-8")
        return path


@dataclass(frozen=True, slots=True)
class Asked:
    """A program that answers each line of JSON with one: `{"ok": ...}` or `{"error": "..."}`."""

    process: "subprocess.Popen[str]"

    def ask(self, **asked: object) -> Any:  # Any: JSON
        """Ask, and await the answer.

        Raises: AssertionError when it is an error, false, or no answer comes.
        """
        assert self.process.stdin is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self.answer(asked)

    def answer(self, asked: object) -> Any:  # Any: JSON
        """Await an answer more to what was asked. Raises: as `ask`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the program has ended"}
        assert answer.get("ok", False) is not False, (asked, answer)
        return answer["ok"]


@contextmanager
def asked(argv: Sequence[str | Path]) -> Iterator[Asked]:
    """The program while it runs; it must end well once nothing more is asked."""
    with subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            yield Asked(process)
            process.communicate()
            assert process.returncode == 0
        except BaseException:
            process.kill()
            raise
        finally:
            watchdog.cancel()


def _read_all(screen: FileIO, shown: list[bytes]) -> None:
    """Collect what a terminal shows, until its program has ended."""
    try:
        while chunk := screen.read(65_536):
            shown.append(chunk)
    except OSError:  # how Linux says that nobody holds the other side
        return
