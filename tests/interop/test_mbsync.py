"""mbsync keeps a Maildir and the account alike, in both directions."""

import re
from pathlib import Path
from typing import Final

import pytest
from interop_maildir import Maildirs
from interop_programs import Program, documented
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes, held

from pochta.proto.imap.mutf7 import decode_mutf7, encode_mutf7
from pochta.testing import Server

_PAIR: Final = re.compile(r"^(\d+) (\d+) ", re.MULTILINE)


class Mbsync(Maildirs):
    """The Maildir, and mbsync with its record of which message is which."""

    keeps_flags = SYSTEM_FLAGS | {"$Forwarded"}

    def __init__(self, tool: Program, configuration: Path, mail: Path) -> None:
        super().__init__(mail, _spell, _read)
        self.tool = tool
        self.configuration = configuration

    def sync(self) -> Mailboxes:
        self.tool("mbsync", "-c", self.configuration, "-a")
        return {mailbox: self._content(mailbox) for mailbox in self.mailboxes()}

    def _content(self, mailbox: str) -> dict[str, Held]:
        record = (self.root / _spell(mailbox) / ".mbsyncstate").read_text("ascii").partition("\n\n")[2]
        far = {int(near): int(far) for far, near in _PAIR.findall(record)}
        kept = self.kept(mailbox)
        return {name: held(far[one.uid], one.flags, one.content) for name, one in kept.items()}


def _spell(mailbox: str) -> str:
    return encode_mutf7(mailbox).decode("ascii")


def _read(folder: str) -> str:
    return decode_mutf7(folder.encode("ascii"))


@pytest.mark.parametrize("tls", ["IMAPS", "STARTTLS"])
def test_three_rounds(tls: str, tool: Program, tls_server: Server, tmp_path: Path) -> None:
    account = Account(tls_server, f"mbsync-{tls.lower()}@example.org")
    server = {
        "Host mail.example.org": f"Host localhost\nSystemCertificates no\nCertificateFile {tls_server.certificate}",
        "Port 993": f"Port {tls_server.imaps_port if tls == 'IMAPS' else tls_server.imap_port}",
        "User anna@example.org": f"User {account.address}",
        "Pass secret": f"Pass {PASSWORD}",
        "SSLType IMAPS": f"SSLType {tls}",
    }
    rc = tool.write("mbsyncrc", documented("mbsync", server))
    (tmp_path / "Mail").mkdir()
    three_rounds(Mbsync(tool, rc, tmp_path / "Mail"), account)
