"""interimap keeps two accounts alike by QRESYNC: Pochta's with one of Dovecot's, and two of Pochta's."""

import imaplib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import apsw
import pytest
from interop_programs import Program, documented
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Mailboxes
from mta_rig import missing

from pochta.proto.imap.mutf7 import decode_mutf7
from pochta.testing import Server

_DOVECOT: Final = Path("/usr/lib/dovecot/imap")
_NOBODY: Final = 65_534  # Dovecot refuses to serve mail of root's
_CONFIGURATION: Final = """base_dir = {folder}
state_dir = {folder}
ssl = no
mail_home = {folder}
mail_location = maildir:{folder}/Mail:LAYOUT=fs
default_internal_user = {user}
default_internal_group = {group}
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
}}
"""
_PAIRS: Final = "SELECT mailbox, lUID, rUID FROM mapping JOIN mailboxes USING (idx)"


class Dovecot(Account):
    """The account of a Dovecot that runs as a child of whoever speaks to it."""

    def __init__(self, folder: Path) -> None:
        user, group = str(os.geteuid()), str(os.getegid())
        as_other = ""
        if os.geteuid() == 0:
            user, group = "nobody", "nogroup"
            as_other = f"setpriv --reuid={_NOBODY} --regid={_NOBODY} --clear-groups "
            os.chown(folder, _NOBODY, _NOBODY)
        configuration = folder / "dovecot.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, user=user, group=group), "ascii")
        configuration.chmod(0o644)
        self.command = f"HOME={folder} USER=anna {as_other}{_DOVECOT} -c {configuration} 2>>{folder}/said"

    def signed_in(self) -> imaplib.IMAP4:
        return imaplib.IMAP4_stream(self.command)


class Interimap:
    """The near account, and interimap with its record of which message is which."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, tool: Program, near: Account, configuration: Path, record: Path) -> None:
        self.tool = tool
        self.near = near
        self.configuration = configuration
        self.record = record
        self.create = near.create
        self.append = near.append
        self.delete = near.delete
        self.move = near.move

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        if flags:
            self.near.flag(mailbox, name, "+FLAGS", *flags)
        self.near.flag(mailbox, name, "-FLAGS", *sorted(SYSTEM_FLAGS - set(flags)))

    def run(self, *args: str) -> None:
        self.tool("interimap", f"--config={self.configuration}", "--debug", *args)

    def sync(self) -> Mailboxes:
        """With the far UIDs, by the record."""
        self.run()
        record = apsw.Connection(str(self.record), flags=apsw.SQLITE_OPEN_READONLY)
        far = {(_path(mailbox), near): there for mailbox, near, there in record.execute(_PAIRS)}
        record.close()
        return {
            mailbox: {name: one._replace(uid=far[mailbox, one.uid]) for name, one in content.items()}
            for mailbox, content in self.near.mailboxes().items()
        }

    def said(self) -> str:
        """What went over the wire to the far account since the last call, without literals."""
        log = self.tool.home / "log"
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if "remote" in line]
        log.unlink()
        return "\n".join(lines)


def _path(recorded: bytes) -> str:
    """A mailbox as the record has it: its names in modified UTF-7, NUL between them."""
    return "/".join(decode_mutf7(name) for name in recorded.split(b"\0"))


def start(tool: Program, server: Server, near: Account, far: Account, local: str) -> Interimap:
    """interimap for two accounts; `local` are its settings for the near one."""
    changes = {
        "type = tunnel\ncommand = doveadm exec imap": local,
        "host = mail.example.org": "host = localhost",
        "port = 993": f"port = {server.imaps_port}\nSSL_CAfile = {server.certificate}",
        "username = anna@example.org": f"username = {far.address}",
        "password = secret": f"password = {PASSWORD}",
        "database = pochta.db": f"database = {tool.home}/record.db\nlogfile = {tool.home}/log",
    }
    configuration = tool.write("configuration", documented("interimap", changes))
    return Interimap(tool, near, configuration, tool.home / "record.db")


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    """Its folder is none of pytest's, which only their owner may enter."""
    if not _DOVECOT.exists():
        missing("dovecot is missing: apt-get install dovecot-imapd")
    with TemporaryDirectory(prefix="dovecot-") as folder:
        yield Dovecot(Path(folder))


def beside(near: Dovecot, tool: Program, server: Server, far: Account) -> Interimap:
    return start(tool, server, near, far, f"type = tunnel\ncommand = {near.command}")


def test_three_rounds_with_dovecot(tool: Program, tls_server: Server, dovecot: Dovecot) -> None:
    far = Account(tls_server, "interimap@example.org")
    three_rounds(beside(dovecot, tool, tls_server, far), far)


def test_three_rounds_between_two_of_ours(tool: Program, tls_server: Server) -> None:
    near, far = (Account(tls_server, f"interimap-{side}@example.org") for side in ("near", "far"))
    local = (
        f"type = imap\nSTARTTLS = NO\nhost = {tls_server.host}\nport = {tls_server.imap_port}\n"
        f"username = {near.address}\npassword = {PASSWORD}\ncompress = YES"
    )
    three_rounds(start(tool, tls_server, near, far, local), far)


@pytest.mark.rfc(7162, "3.2.5")
def test_a_reconnect_asks_for_what_changed(tool: Program, tls_server: Server, dovecot: Dovecot) -> None:
    far = Account(tls_server, "interimap-again@example.org")
    client = beside(dovecot, tool, tls_server, far)
    for name in ("plain", "dots", "utf8"):
        far.deliver(name)
    client.sync()
    first = client.said()
    assert "COMPRESS DEFLATE" in first
    assert "ENABLE QRESYNC" in first
    far.delete("INBOX", "plain")
    far.flag("INBOX", "dots", "+FLAGS", r"\Flagged")
    client.sync()
    again = client.said()
    assert " VANISHED (EARLIER) 1" in again
    assert set(client.near.mailboxes()["INBOX"]) == {"dots", "utf8"}
    assert client.near.mailboxes()["INBOX"]["dots"].flags == {r"\Flagged"}
    assert "BODY" not in again


def test_mailboxes_renamed_and_removed_on_both_sides(tool: Program, tls_server: Server, dovecot: Dovecot) -> None:
    far = Account(tls_server, "interimap-mailboxes@example.org")
    client = beside(dovecot, tool, tls_server, far)
    for mailbox in ("Plans", "Plans/2025", "Old"):
        far.create(mailbox)
        far.append(mailbox, "plain")
    client.sync()
    client.run("--rename", "Plans", "Aims")
    client.run("--delete", "Old")
    client.sync()
    assert client.near.mailboxes().keys() == far.mailboxes().keys()
    assert {"Aims", "Aims/2025"} <= far.mailboxes().keys()
    assert not {"Plans", "Plans/2025", "Old"} & far.mailboxes().keys()
