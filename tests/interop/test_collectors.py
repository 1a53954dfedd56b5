"""Programs that collect mail, by POP3 and by IMAP: deleting it, and leaving it on the server."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from interop_messages import MESSAGES, name_of
from interop_programs import Program, documented
from interop_sides import PASSWORD, Account

from pochta.testing import Server


@dataclass(frozen=True, slots=True)
class Collector:
    """A program, how it is called, the port it talks to, and what it is told that its page does not show."""

    program: str
    args: tuple[str, ...]
    port: str
    changes: dict[str, str]
    leaving: str
    deleting: str


# Changes are of the text that docs/clients.md shows; @PORT@ and @CERTIFICATE@ are the server's
_FETCHMAIL: Final = {"mail.example.org": "localhost", "sslcertck": "sslcertck sslcertfile @CERTIFICATE@"}
_GETMAIL: Final = {
    "server = mail.example.org": "server = localhost\nca_certs = @CERTIFICATE@",
    "995": "@PORT@",
    # getmail fills no Maildir as root
    "type = Maildir\npath = ~/Mail/": "type = MDA_external\npath = /bin/sh\nallow_root_commands = true\n"
    'arguments = ("-c", "cat >$(mktemp -p ~/Mail/new)")',
}
_MPOP: Final = {"host mail.example.org": "host localhost\ntls_trust_file @CERTIFICATE@", "port 995": "port @PORT@"}

_MARK: Final = re.compile(rb"^X-getmail-retrieved-from-mailbox: .*\n", re.MULTILINE)
_FETCHMAIL_CALL: Final = ("fetchmail", ("--nosyslog", "--pidfile", "fetchmail.pid", "-f"))
_GETMAIL_CALL: Final = ("getmail", ("-g", ".", "-r"))
_MPOP_CALL: Final = ("mpop", ("-C",))
COLLECTORS: Final = {
    "fetchmail-imap": Collector(
        *_FETCHMAIL_CALL,
        "imaps_port",
        _FETCHMAIL | {"service 993": "service @PORT@"},
        "rewrite keep",
        "rewrite no keep",
    ),
    "fetchmail-pop3": Collector(
        *_FETCHMAIL_CALL,
        "pop3s_port",
        _FETCHMAIL | {"protocol IMAP service 993": "protocol POP3 service @PORT@ uidl"},
        "rewrite keep",
        "rewrite no keep",
    ),
    "getmail-pop3": Collector(*_GETMAIL_CALL, "pop3s_port", _GETMAIL, "delete = false", "delete = true"),
    "getmail-imap": Collector(
        *_GETMAIL_CALL, "imaps_port", _GETMAIL | {"SimplePOP3": "SimpleIMAP"}, "delete = false", "delete = true"
    ),
    "mpop-pop3s": Collector(*_MPOP_CALL, "pop3s_port", _MPOP, "keep on", "keep off"),
    "mpop-stls": Collector(
        *_MPOP_CALL, "pop3_port", _MPOP | {"tls_starttls off": "tls_starttls on"}, "keep on", "keep off"
    ),
}


def configured(collector: Collector, tool: Program, account: Account, *, is_deleting: bool) -> Path:
    """The program's configuration for this account."""
    server = account.server
    changes = collector.changes | {"anna@example.org": account.address, "secret": PASSWORD}
    if is_deleting:
        changes |= {collector.leaving: collector.deleting}
    text = documented(collector.program, changes)
    text = text.replace("@PORT@", str(getattr(server, collector.port)))
    return tool.write("rc", text.replace("@CERTIFICATE@", str(server.certificate)))


def digests(content: dict[str, bytes]) -> dict[str, str]:
    """sha256 by the name of the message, of lines as Unix has them."""
    return {name: hashlib.sha256(one.replace(b"\r\n", b"\n")).hexdigest() for name, one in content.items()}


def collected(mail: Path) -> dict[str, str]:
    """What the program has delivered, each message once and whole, without the server's trace lines."""
    found: dict[str, bytes] = {}
    for path in (mail / "new").iterdir():
        content = _MARK.sub(b"", path.read_bytes())
        name = name_of(content)
        assert name not in found, f"{name} was collected twice"
        found[name] = content[content.index(b"From: Boris") :]
    return digests(found)


def sent(*names: str) -> dict[str, str]:
    return digests({name: MESSAGES[name] for name in names})


@pytest.mark.parametrize("is_deleting", [False, True], ids=["leaving", "deleting"])
@pytest.mark.parametrize("name", COLLECTORS)
def test_collects_each_message_once(
    name: str, is_deleting: bool, tool: Program, tls_server: Server, tmp_path: Path
) -> None:
    collector = COLLECTORS[name]
    account = Account(tls_server, f"{name}-{is_deleting}@example.org")
    mail = tmp_path / "Mail"
    for part in ("cur", "new", "tmp"):
        (mail / part).mkdir(parents=True)
    rc = configured(collector, tool, account, is_deleting=is_deleting)
    nothing_new = (0, 1) if collector.program == "fetchmail" else (0,)

    first, second = ("plain", "dots", "eight_bit", "big"), ("multipart", "utf8")
    for one in first:
        account.deliver(one)
    tool(collector.program, *collector.args, rc)
    assert collected(mail) == sent(*first)
    assert set(account.mailboxes()["INBOX"]) == (set() if is_deleting else set(first))

    for one in second:
        account.deliver(one)
    if not is_deleting:
        account.delete("INBOX", "dots")  # the numbers of all that follow change
    tool(collector.program, *collector.args, rc)
    assert collected(mail) == sent(*first, *second)
    assert set(account.mailboxes()["INBOX"]) == (set() if is_deleting else {*first, *second} - {"dots"})

    tool(collector.program, *collector.args, rc, allowed_codes=nothing_new)
    assert collected(mail) == sent(*first, *second)
