"""Mail::IMAPTalk, in a program for Perl that stays connected while others change the account."""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from interop_messages import MESSAGES, name_of
from interop_programs import Asked, Program, asked
from interop_rounds import PLANS, REPORTS, three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes, held
from mta_rig import missing

from pochta.testing import Server

SCRIPT: Final = Path(__file__).with_name("imaptalk.pl")
RIGHTS: Final = "lrswipkxteacd"


class Connected:
    """What the program with Mail::IMAPTalk has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, program: Asked) -> None:
        self.program = program
        self.mailboxes: Mailboxes = {}

    def call(self, method: str, *args: object) -> Any:  # Any: JSON
        """What a method of Mail::IMAPTalk gives."""
        return self.program.ask(call=method, args=args)

    def create(self, mailbox: str) -> None:
        self.call("create", mailbox)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self.call("append", mailbox, f"({' '.join(flags)})", literal(MESSAGES[name]))

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        uid = self._select(mailbox, name)
        self.call("store", uid, "+flags", f"({' '.join(flags)})")
        self.call("store", uid, "-flags.silent", f"({' '.join(sorted(SYSTEM_FLAGS - set(flags)))})")

    def delete(self, mailbox: str, name: str) -> None:
        uid = self._select(mailbox, name)
        self.call("store", uid, "+flags.silent", r"(\Deleted)")
        self.call("uidexpunge", uid)

    def move(self, mailbox: str, name: str, target: str) -> None:
        self.call("move", self._select(mailbox, name), target)

    def sync(self) -> Mailboxes:
        self.mailboxes = {name: self._content(name) for _, _, name in self.call("list", "", "*")}
        return self.mailboxes

    def _content(self, mailbox: str) -> dict[str, Held]:
        self.call("unselect")  # a mailbox that is selected already would not be selected anew
        self.call("select", mailbox)
        content: dict[str, Held] = {}
        for uid, one in self.call("fetch", "1:*", "(flags body.peek[])").items():
            octets = one["body"].encode("latin-1")
            content[name_of(octets)] = held(int(uid), one["flags"], octets)
        return content

    def _select(self, mailbox: str, name: str) -> str:
        self.call("select", mailbox)
        return str(self.mailboxes[mailbox][name].uid)


def literal(octets: bytes) -> dict[str, str]:
    return {"Octets": base64.b64encode(octets).decode("ascii")}


@contextmanager
def connected(tool: Program, server: Server, user: str) -> Iterator[Connected]:
    tool.find("perl")
    needed = ["-MMail::IMAPTalk", "-MIO::Socket::SSL", "-MCompress::Zlib", "-MEncode::IMAPUTF7"]
    if subprocess.run(["perl", *needed, "-e1"], capture_output=True).returncode:
        missing("Mail::IMAPTalk is missing: apt-get install libmail-imaptalk-perl libio-socket-ssl-perl")
    argv = ["perl", SCRIPT, str(server.imaps_port), user, PASSWORD, server.certificate]
    with asked(argv) as program:
        client = Connected(program)
        client.call("select", "INBOX")
        yield client


def test_three_rounds(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk@example.org")
    with connected(tool, tls_server, account.address) as client:
        three_rounds(client, account)


def test_structure_and_addresses(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk-structure@example.org")
    account.append("INBOX", "multipart", r"\Seen", "$Work")
    with connected(tool, tls_server, account.address) as client:
        items = "(flags envelope bodystructure rfc822.size internaldate)"
        [(uid, one)] = client.call("fetch", "1:*", items).items()
        assert uid == "1"
        assert set(one["flags"]) >= {r"\Seen", "$Work"}
        assert one["rfc822.size"] == str(len(MESSAGES["multipart"]))
        assert one["internaldate"] == " 1-Feb-2025 10:00:00 +0300"
        assert one["envelope"]["From"] == '"Boris" <boris@elsewhere.example>'
        assert one["envelope"]["Message-ID"] == "<multipart@interop.example>"
        structure = one["bodystructure"]
        assert structure["MIME-TxtType"] == "multipart/mixed"
        text, attachment = structure["MIME-Subparts"]
        assert (text["MIME-TxtType"], text["Content-Type"]) == ("text/plain", {"charset": "utf-8"})
        assert attachment["Disposition-Type"] == "attachment"
        assert client.call("fetch", "1", f"(binary[{text['IMAP-Partnum']}])")["1"]["binary"].encode("latin-1") == (
            "Привет, Анна! Отчёт за март приложен.\r\n".encode()
        )


def test_several_messages_in_one_append(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk-multiappend@example.org")
    date = "01-Feb-2025 10:00:00 +0300"
    with connected(tool, tls_server, account.address) as client:
        messages = [literal(MESSAGES[name]) for name in ("plain", "utf8", "big")]
        client.call("append", "INBOX", messages[0], r"(\Seen $Work)", messages[1], r"(\Flagged)", date, messages[2])
        assert client.call("get_response_code", "appenduid")[1] == "1:3"
    flags = {name: one.flags for name, one in account.mailboxes()["INBOX"].items()}
    assert flags == {"plain": set(), "utf8": {r"\Seen", "$Work"}, "big": {r"\Flagged"}}


def test_search_sort_and_threads(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk-search@example.org")
    for name in ("plain", "utf8", "eight_bit", "plain", "multipart"):
        account.append("INBOX", name)
    with connected(tool, tls_server, account.address) as client:
        assert client.call("search", "1:3", "NOT", "SUBJECT", "plain") == [2, 3]
        assert client.call("search", "CHARSET", "UTF-8", "BODY", literal("ПРИЛОЖЕН".encode())) == [2, 3, 5]
        assert client.call("sort", "(SUBJECT REVERSE SIZE)", "UTF-8", "ALL") == [3, 5, 1, 4, 2]
        threads = client.call("thread", "REFERENCES", "UTF-8", "ALL")
        assert sorted(map(str, threads)) == sorted(map(str, (["2"], ["3"], ["5"], [["1"], ["4"]])))


def test_rights_quota_and_metadata(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk-rights@example.org")
    reader = Account(tls_server, "imaptalk-reader@example.org")
    with connected(tool, tls_server, account.address) as client:
        client.call("create", PLANS)
        client.call("setacl", PLANS, reader.address, "lrs")
        assert client.call("getacl", PLANS) == [account.address, RIGHTS, reader.address, "lrs"]
        assert client.call("myrights", PLANS)[1] == RIGHTS
        client.call("append", PLANS, literal(MESSAGES["utf8"]))
        with connected(tool, tls_server, reader.address) as other:
            shared = f"Other Users/{account.address}/{PLANS}"
            assert shared in [name for _, _, name in other.call("list", "Other Users/", "*")]
            other.call("select", shared)
            assert other.call("get_response_code", "foldermode") == "read-only"  # \Seen is the reader's own
            [one] = other.call("fetch", "1:*", "(body.peek[])").values()
            assert one["body"].encode("latin-1") == MESSAGES["utf8"]
            with pytest.raises(AssertionError, match="NOPERM"):
                other.call("append", shared, literal(MESSAGES["plain"]))
        client.call("deleteacl", PLANS, reader.address)
        assert client.call("getacl", PLANS) == [account.address, RIGHTS]
        client.call("setmetadata", PLANS, "/private/comment", "mine", "/shared/comment", literal(b"a\r\n\xff"))
        assert client.call("getmetadata", PLANS, {"depth": "infinity"}, "/private", "/shared") == {
            PLANS: {"/private/comment": "mine", "/shared/comment": "a\r\n\xff"}
        }
        assert client.call("getquotaroot", PLANS)[account.address][::3] == ["MAILBOX"]


def test_mailboxes_and_idle(tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, "imaptalk-idle@example.org")
    with connected(tool, tls_server, account.address) as client:
        client.create(PLANS)
        client.call("subscribe", PLANS)
        client.call("rename", PLANS, REPORTS)
        names = [name for _, _, name in client.call("list", "", "*")]
        assert REPORTS in names
        assert PLANS not in names
        assert PLANS in [name for _, _, name in client.call("lsub", "", "*")]
        client.call("delete", REPORTS)
        client.call("select", "INBOX")
        assert client.call("idle_until", "exists") == "listening"
        account.deliver("plain")
        told = client.program.answer("idle_until")
        assert told[-1] == ["exists", "1"]
        assert client.call("status", "INBOX", "(messages unseen uidnext)") == {
            "messages": "1",
            "unseen": "1",
            "uidnext": "2",
        }
