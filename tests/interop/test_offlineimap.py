"""offlineimap keeps a Maildir and the account alike, in both directions."""

from pathlib import Path

from interop_maildir import Maildirs
from interop_programs import Program, documented
from interop_rounds import three_rounds
from interop_sides import PASSWORD, Account, Mailboxes, held

from pochta.testing import Server


class Offlineimap(Maildirs):
    """The Maildir, in which offlineimap numbers the files as the server does."""

    def __init__(self, tool: Program, configuration: Path, mail: Path) -> None:
        super().__init__(mail)
        self.tool = tool
        self.configuration = configuration

    def sync(self) -> Mailboxes:
        self.tool("offlineimap", "-c", self.configuration, "-o", "-u", "basic")
        return {
            mailbox: {name: held(one.uid, one.flags, one.content) for name, one in self.kept(mailbox).items()}
            for mailbox in self.mailboxes()
        }


def test_three_rounds(tool: Program, tls_server: Server, tmp_path: Path) -> None:
    account = Account(tls_server, "offlineimap@example.org")
    server = {
        "mail.example.org": "localhost",
        "993": str(tls_server.imaps_port),
        "anna@example.org": account.address,
        "remotepass = secret": f"remotepass = {PASSWORD}",
        "OS-DEFAULT": str(tls_server.certificate),
    }
    rc = tool.write("offlineimaprc", documented("offlineimap", server))
    three_rounds(Offlineimap(tool, rc, tmp_path / "Mail"), account)
