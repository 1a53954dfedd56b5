"""imap-tools: one connection that stays open while others change the account."""

import ssl
from typing import Final

from imap_tools import MailBoxStartTls, MailMessage
from interop_messages import MESSAGES, name_of
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes, held

from pochta.testing import Server

TIMEOUT_S: Final = 30


class RawMessage(MailMessage):
    """imap-tools gives the parsed message alone; this keeps its bytes too."""

    def __init__(self, fetch_data: list[bytes | tuple[bytes, bytes]]) -> None:
        super().__init__(fetch_data)
        [self.content] = [one[1] for one in fetch_data if isinstance(one, tuple)]


class Connected:
    """What a program with imap-tools has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, box: MailBoxStartTls) -> None:
        self.box = box
        self.box.email_message_class = RawMessage
        self.mailboxes: Mailboxes = {}

    def create(self, mailbox: str) -> None:
        self.box.folder.create(mailbox)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self.box.append(MESSAGES[name], mailbox, flag_set=flags)

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        self.box.folder.set(mailbox)
        self.box.flag(self._uid(mailbox, name), flags, True)
        self.box.flag(self._uid(mailbox, name), SYSTEM_FLAGS - set(flags), False)

    def delete(self, mailbox: str, name: str) -> None:
        self.box.folder.set(mailbox)
        self.box.delete(self._uid(mailbox, name))

    def move(self, mailbox: str, name: str, target: str) -> None:
        self.box.folder.set(mailbox)
        self.box.move(self._uid(mailbox, name), target)

    def sync(self) -> Mailboxes:
        self.mailboxes = {one.name: self._content(one.name) for one in self.box.folder.list()}
        return self.mailboxes

    def _content(self, mailbox: str) -> dict[str, Held]:
        self.box.folder.set(mailbox)
        content: dict[str, Held] = {}
        for one in self.box.fetch(mark_seen=False, bulk=True):
            assert isinstance(one, RawMessage)
            content[name_of(one.content)] = held(int(one.uid or 0), one.flags, one.content)
        return content

    def _uid(self, mailbox: str, name: str) -> str:
        return str(self.mailboxes[mailbox][name].uid)


def test_three_rounds(tls_server: Server) -> None:
    account = Account(tls_server, "imap-tools@example.org")
    trusted = ssl.create_default_context(cafile=str(tls_server.certificate))
    with MailBoxStartTls("localhost", tls_server.imap_port, timeout=TIMEOUT_S, ssl_context=trusted) as box:
        box.login(account.address, PASSWORD)
        three_rounds(Connected(box), account)
