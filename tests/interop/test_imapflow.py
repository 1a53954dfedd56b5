"""imapflow, in a program for Node that stays connected while others change the account."""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from interop_messages import MESSAGES
from interop_programs import Asked, asked
from interop_rounds import PLANS, three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes

from pochta.testing import Server

FOLDER: Final = Path(__file__).parent / "node"
_OWN: Final = {"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"}


class Connected:
    """What the program with imapflow has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, program: Asked) -> None:
        self.program = program
        self.mailboxes: Mailboxes = {}

    def create(self, mailbox: str) -> None:
        self.ask("create", mailbox=mailbox)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self.ask("append", mailbox=mailbox, content=base64.b64encode(MESSAGES[name]).decode(), flags=flags)

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        remove = sorted(SYSTEM_FLAGS - set(flags))
        self.ask("flag", mailbox=mailbox, uid=self._uid(mailbox, name), add=flags, remove=remove)

    def delete(self, mailbox: str, name: str) -> None:
        self.ask("delete", mailbox=mailbox, uid=self._uid(mailbox, name))

    def move(self, mailbox: str, name: str, target: str) -> None:
        self.ask("move", mailbox=mailbox, uid=self._uid(mailbox, name), target=target)

    def sync(self) -> Mailboxes:
        self.mailboxes = {
            mailbox: {
                name: Held(uid, frozenset(flags) - {r"\Recent"}, digest)
                for name, (uid, flags, digest) in content.items()
            }
            for mailbox, content in self.ask("sync").items()
        }
        return self.mailboxes

    def expect_compressed(self) -> None:
        """All that went before was compressed (RFC 4978)."""
        self.ask("compressed")

    def _uid(self, mailbox: str, name: str) -> str:
        return str(self.mailboxes[mailbox][name].uid)

    def ask(self, action: str, **more: object) -> Any:  # Any: JSON
        """What an action of `client.mjs` comes to."""
        return self.program.ask(do=action, **more)


@contextmanager
def connected(server: Server, user: str, **options: object) -> Iterator[Connected]:
    """The program signed in; `options` are imapflow's. It must end well."""
    if shutil.which("node") is None or not (FOLDER / "node_modules").exists():
        missing = "imapflow is missing: apt-get install nodejs npm; npm ci --prefix tests/interop/node"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    options_as_json = json.dumps(options)
    certificate = server.certificate
    argv = ["node", FOLDER / "client.mjs", str(server.imaps_port), user, PASSWORD, certificate, options_as_json]
    with asked(argv) as program:
        yield Connected(program)


def test_three_rounds(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow@example.org")
    with connected(tls_server, account.address) as client:
        three_rounds(client, account)
        client.expect_compressed()


def uid(account: Account, mailbox: str, name: str) -> int:
    return account.mailboxes()[mailbox][name].uid


def test_what_it_takes_up_by_itself(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow-extensions@example.org")
    with connected(tls_server, account.address, qresync=True) as client:
        assert client.ask("enabled") == ["CONDSTORE", "IMAP4REV2", "QRESYNC", "UTF8=ACCEPT"]
        client.expect_compressed()
        uses = client.ask("listed")
        assert uses == {use: r"\Inbox" if use == "INBOX" else rf"\{use}" for use in _OWN}
        said = client.ask("said")
    assert not [line for line in said if re.match(r"s \S+ (NO|BAD) ", line)]


def test_idle_tells_of_mail_flags_and_removals(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow-idle@example.org")
    account.append("INBOX", "plain")
    with connected(tls_server, account.address, qresync=True) as client:
        client.ask("open", mailbox="INBOX")
        client.ask("idle")
        client.ask("said")
        account.deliver("utf8")
        assert client.ask("told", kind="exists") == [["exists", 2]]
        account.flag("INBOX", "utf8", "+FLAGS", r"\Flagged", "$Work")
        assert client.ask("told", kind="flags") == [["flags", 2, ["$Work", r"\Flagged"]]]
        account.delete("INBOX", "plain")
        assert client.ask("told", kind="expunge")[-1] == ["expunge", 1]
        assert not [line for line in client.ask("said") if line.startswith("c ")]  # it has asked nothing


def test_search(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow-search@example.org")
    names = ["plain", "eight_bit", "utf8", "multipart", "big"]
    for name in names:
        account.append("INBOX", name, *([r"\Seen", "$Work"] if name == "utf8" else []))
    with connected(tls_server, account.address) as client:
        about = client.ask("describe", mailbox="INBOX")

        def found(**query: object) -> list[str]:
            return [names[one - 1] for one in client.ask("search", mailbox="INBOX", query=query)]

        assert found() == names
        assert found(body="ПРИЛОЖЕН") == ["eight_bit", "utf8", "multipart"]
        assert found(subject="LTIPAR") == ["multipart"]
        assert found(seen=True, keyword="$Work") == ["utf8"]
        assert found(larger=1_000_000) == ["big"]
        assert found(**{"or": [{"subject": "plain"}, {"larger": 1_000_000}]}) == ["plain", "big"]
        assert found(**{"not": {"from": "boris"}}) == []
        assert found(header={"Message-ID": "multipart@"}) == ["multipart"]
        assert found(emailId=about["plain"]["emailId"]) == ["plain"]
        assert found(threadId=about["big"]["threadId"]) == ["big"]
        told = client.ask(
            "search", mailbox="INBOX", query={"unseen": True}, returnOptions=["MIN", "MAX", "COUNT", "ALL"]
        )
        assert told == {"min": 1, "max": 5, "count": 4, "all": "1:2,4:5"}


def test_what_it_learns_of_messages(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow-objects@example.org")
    for name in ("multipart", "eight_bit"):
        account.append("INBOX", name)
    with connected(tls_server, account.address) as client:
        before = client.ask("describe", mailbox="INBOX")
        assert set(before) == {"multipart", "eight_bit"}
        for name, one in before.items():
            assert one["size"] == len(MESSAGES[name])
            assert one["from"] == "boris@elsewhere.example"
            assert "Отчёт за март" in one["text"]
        assert before["multipart"]["type"] == ["multipart/mixed", "text/plain", "application/octet-stream"]
        client.ask("move", mailbox="INBOX", uid="1", target="Archive")
        client.ask("copy", mailbox="INBOX", uid="2", target="Archive")
        after = client.ask("describe", mailbox="Archive")
        assert after == before  # RFC 8474 §5.1: the message is the same one wherever it stands
        assert set(account.mailboxes()["INBOX"]) == {"eight_bit"}


def test_mailboxes_and_quota(tls_server: Server) -> None:
    tls_server.add_account("imapflow-quota@example.org", PASSWORD, quota_bytes=10_240_000)
    with connected(tls_server, "imapflow-quota@example.org") as client:
        client.ask("create", mailbox=PLANS)
        client.ask("append", mailbox=PLANS, content=base64.b64encode(MESSAGES["big"]).decode(), flags=[r"\Seen"])
        client.ask("rename", mailbox=PLANS.partition("/")[0], to="Цели «2025» 目標")
        moved = f"Цели «2025» 目標/{PLANS.partition('/')[2]}"
        assert set(client.ask("listed")) - _OWN == {moved, "Цели «2025» 目標"}
        status = client.ask("status", mailbox=moved, items=["messages", "unseen", "size", "deleted", "uidNext"])
        big = len(MESSAGES["big"])
        assert status == {"path": moved, "messages": 1, "unseen": 0, "size": big, "deleted": 0, "uidNext": 2}
        storage = client.ask("quota", mailbox=moved)["storage"]
        assert storage == {"usage": -(-big // 1024) * 1024, "limit": 10_240_000, "status": "10%"}
        client.ask("remove", mailbox=moved)
        client.ask("remove", mailbox="Цели «2025» 目標")
        assert set(client.ask("listed")) == _OWN


@pytest.mark.rfc(7162, "3.2.5")
def test_it_comes_back_and_is_told_what_changed(tls_server: Server) -> None:
    account = Account(tls_server, "imapflow-back@example.org")
    for name in ("plain", "dots", "utf8"):
        account.append("INBOX", name)
    with connected(tls_server, account.address, qresync=True) as client:
        known = client.ask("open", mailbox="INBOX")
    account.flag("INBOX", "dots", "+FLAGS", r"\Answered")
    account.delete("INBOX", "plain")
    account.append("INBOX", "empty")
    with connected(tls_server, account.address, qresync=True) as client:
        again = client.ask("open", mailbox="INBOX", known=known)
    assert again["qresync"] is True
    assert again["exists"] == 3
    assert again["events"] == [["expunge", 1], ["flags", 2, [r"\Answered"]], ["flags", 4, []]]
