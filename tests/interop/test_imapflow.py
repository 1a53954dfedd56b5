"""imapflow, in a program for Node that stays connected while others change the account."""

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from interop_messages import MESSAGES
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes

from pochta.testing import Server

FOLDER: Final = Path(__file__).parent / "node"
TIMEOUT_S: Final = 60.0


class Connected:
    """What the program with imapflow has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.mailboxes: Mailboxes = {}

    def create(self, mailbox: str) -> None:
        self._ask("create", mailbox=mailbox)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self._ask("append", mailbox=mailbox, content=base64.b64encode(MESSAGES[name]).decode(), flags=flags)

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        remove = sorted(SYSTEM_FLAGS - set(flags))
        self._ask("flag", mailbox=mailbox, uid=self._uid(mailbox, name), add=flags, remove=remove)

    def delete(self, mailbox: str, name: str) -> None:
        self._ask("delete", mailbox=mailbox, uid=self._uid(mailbox, name))

    def move(self, mailbox: str, name: str, target: str) -> None:
        self._ask("move", mailbox=mailbox, uid=self._uid(mailbox, name), target=target)

    def sync(self) -> Mailboxes:
        self.mailboxes = {
            mailbox: {
                name: Held(uid, frozenset(flags) - {r"\Recent"}, digest)
                for name, (uid, flags, digest) in content.items()
            }
            for mailbox, content in self._ask("sync").items()
        }
        return self.mailboxes

    def expect_compressed(self) -> None:
        """All that went before was compressed (RFC 4978)."""
        self._ask("compressed")

    def _uid(self, mailbox: str, name: str) -> str:
        return str(self.mailboxes[mailbox][name].uid)

    def _ask(self, action: str, **more: object) -> Any:  # Any: JSON
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": action, **more}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the program has ended"}
        assert answer.get("ok"), (action, answer)
        return answer["ok"]


@contextmanager
def connected(server: Server, user: str) -> Iterator[Connected]:
    if shutil.which("node") is None or not (FOLDER / "node_modules").exists():
        missing = "imapflow is missing: apt-get install nodejs npm; npm ci --prefix tests/interop/node"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    argv = ["node", FOLDER / "client.mjs", str(server.imaps_port), user, PASSWORD, server.certificate]
    with subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            yield Connected(process)
        except BaseException:
            process.kill()
            raise
        finally:
            watchdog.cancel()


def test_three_rounds(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow@example.org")
    with connected(tls_server, account.address) as client:
        three_rounds(client, account)
        client.expect_compressed()
    assert client.process.returncode == 0
