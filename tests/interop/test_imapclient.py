"""imapclient: one connection that stays open while others change the account."""

import ssl
from typing import Final

from imapclient import IMAPClient
from interop_messages import MESSAGES, name_of
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes, held

from pochta.testing import Server

TIMEOUT_S: Final = 30


class Connected:
    """What a program with imapclient has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, imap: IMAPClient) -> None:
        self.imap = imap
        self.mailboxes: Mailboxes = {}

    def create(self, mailbox: str) -> None:
        self.imap.create_folder(mailbox)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self.imap.append(mailbox, MESSAGES[name], flags)

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        self.imap.select_folder(mailbox)
        self.imap.add_flags(self._uid(mailbox, name), flags)
        self.imap.remove_flags(self._uid(mailbox, name), SYSTEM_FLAGS - set(flags))

    def delete(self, mailbox: str, name: str) -> None:
        self.imap.select_folder(mailbox)
        self.imap.delete_messages(self._uid(mailbox, name))
        self.imap.uid_expunge(self._uid(mailbox, name))

    def move(self, mailbox: str, name: str, target: str) -> None:
        self.imap.select_folder(mailbox)
        self.imap.move(self._uid(mailbox, name), target)

    def sync(self) -> Mailboxes:
        self.mailboxes = {name: self._content(name) for _, _, name in self.imap.list_folders()}
        return self.mailboxes

    def _content(self, mailbox: str) -> dict[str, Held]:
        self.imap.select_folder(mailbox, readonly=True)
        found = self.imap.fetch(self.imap.search(), ["FLAGS", "BODY.PEEK[]"])
        return {
            name_of(one[b"BODY[]"]): held(uid, [flag.decode() for flag in one[b"FLAGS"]], one[b"BODY[]"])
            for uid, one in found.items()
        }

    def _uid(self, mailbox: str, name: str) -> list[int]:
        return [self.mailboxes[mailbox][name].uid]


def test_three_rounds(tls_server: Server) -> None:
    account = Account(tls_server, "imapclient@example.org")
    trusted = ssl.create_default_context(cafile=str(tls_server.certificate))
    with IMAPClient("localhost", tls_server.imaps_port, ssl_context=trusted, timeout=TIMEOUT_S) as imap:
        imap.login(account.address, PASSWORD)
        three_rounds(Connected(imap), account)


def test_idle_tells_of_a_delivery(tls_server: Server) -> None:
    account = Account(tls_server, "imapclient-idle@example.org")
    with IMAPClient(tls_server.host, tls_server.imap_port, ssl=False, timeout=TIMEOUT_S) as imap:
        imap.starttls(_unnamed(tls_server))
        imap.login(account.address, PASSWORD)
        imap.select_folder("INBOX")
        imap.idle()
        account.deliver("plain")
        told = imap.idle_check(timeout=TIMEOUT_S)
        imap.idle_done()
        assert (1, b"EXISTS") in told
        assert imap.search(["UNSEEN", "SUBJECT", "plain"]) == [1]


def _unnamed(server: Server) -> ssl.SSLContext:
    """Trusts the certificate, which does not name 127.0.0.1."""
    context = ssl.create_default_context(cafile=str(server.certificate))
    context.check_hostname = False
    return context
