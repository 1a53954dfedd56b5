"""aioimaplib: one connection that stays open while others change the account."""

import asyncio
import itertools
import re
import ssl
from collections.abc import Awaitable
from typing import Final

from aioimaplib.aioimaplib import IMAP4_SSL, Response
from interop_messages import MESSAGES, name_of
from interop_rounds import three_rounds
from interop_sides import PASSWORD, SYSTEM_FLAGS, Account, Held, Mailboxes, held

from pochta.proto.imap.mutf7 import decode_mutf7, encode_mutf7
from pochta.testing import Server

TIMEOUT_S: Final = 30
_LIST: Final = re.compile(rb'\(.*\) "/" "?(.+?)"?')
_FETCH: Final = re.compile(rb"\d+ FETCH \(UID (\d+) FLAGS \((.*?)\) BODY\[\] ")


class Connected:
    """What a program with aioimaplib has: what its connection tells it."""

    has_unix_lines = False
    keeps_flags = None

    def __init__(self, runner: asyncio.Runner, imap: IMAP4_SSL) -> None:
        self.runner = runner
        self.imap = imap
        self.mailboxes: Mailboxes = {}

    def create(self, mailbox: str) -> None:
        self._ok(self.imap.create(_wire(mailbox)))

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        self._ok(self.imap.append(MESSAGES[name], _wire(mailbox), " ".join(flags) or None))

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        self._ok(self.imap.select(_wire(mailbox)))
        keywords = self.mailboxes[mailbox][name].flags - SYSTEM_FLAGS
        self._ok(self.imap.uid("store", self._uid(mailbox, name), "FLAGS", f"({' '.join([*keywords, *flags])})"))

    def delete(self, mailbox: str, name: str) -> None:
        self._ok(self.imap.select(_wire(mailbox)))
        self._ok(self.imap.uid("store", self._uid(mailbox, name), "+FLAGS.SILENT", r"(\Deleted)"))
        self._ok(self.imap.uid("expunge", self._uid(mailbox, name)))

    def move(self, mailbox: str, name: str, target: str) -> None:
        self._ok(self.imap.select(_wire(mailbox)))
        self._ok(self.imap.uid("move", self._uid(mailbox, name), _wire(target)))

    def sync(self) -> Mailboxes:
        found = [_LIST.fullmatch(line) for line in self._ok(self.imap.list('""', "*"))]
        names = [decode_mutf7(match[1]) for match in found if match]
        self.mailboxes = {name: self._content(name) for name in names}
        return self.mailboxes

    def _content(self, mailbox: str) -> dict[str, Held]:
        if b"0 EXISTS" in self._ok(self.imap.select(_wire(mailbox))):
            return {}
        lines = self._ok(self.imap.fetch("1:*", "(UID FLAGS BODY.PEEK[])"))
        content: dict[str, Held] = {}
        for line, literal in itertools.pairwise(lines):
            if (match := _FETCH.match(line)) is not None:
                content[name_of(literal)] = held(int(match[1]), match[2].decode().split(), literal)
        return content

    def _uid(self, mailbox: str, name: str) -> str:
        return str(self.mailboxes[mailbox][name].uid)

    def _ok(self, command: Awaitable[Response]) -> list[bytes]:
        async def awaited() -> Response:
            return await command

        answer = self.runner.run(awaited())
        assert answer.result == "OK", answer.lines
        return list(answer.lines)


def _wire(mailbox: str) -> str:
    return f'"{encode_mutf7(mailbox).decode("ascii")}"'


async def _connected(server: Server, user: str) -> IMAP4_SSL:
    trusted = ssl.create_default_context(cafile=str(server.certificate))
    imap = IMAP4_SSL("localhost", server.imaps_port, timeout=TIMEOUT_S, ssl_context=trusted)
    await imap.wait_hello_from_server()
    assert (await imap.login(user, PASSWORD)).result == "OK"
    return imap


async def _leave(imap: IMAP4_SSL) -> None:
    """Log out and see the transport closed: aioimaplib leaves that to the garbage collector."""
    await imap.logout()
    transport = imap.protocol.transport
    if transport is not None:
        transport.abort()
    for _ in range(10):  # turns of the loop: TLS tells TCP, TCP closes its socket
        await asyncio.sleep(0)


def test_three_rounds(tls_server: Server) -> None:
    account = Account(tls_server, "aioimaplib@example.org")
    with asyncio.Runner() as runner:
        imap = runner.run(_connected(tls_server, account.address))
        three_rounds(Connected(runner, imap), account)
        runner.run(_leave(imap))


def test_idle_tells_of_a_delivery(tls_server: Server) -> None:
    account = Account(tls_server, "aioimaplib-idle@example.org")

    async def idle() -> list[bytes]:
        imap = await _connected(tls_server, account.address)
        await imap.select()
        idling = await imap.idle_start(TIMEOUT_S)
        await asyncio.to_thread(account.deliver, "plain")
        told = await imap.wait_server_push(TIMEOUT_S)
        imap.idle_done()
        await idling
        await _leave(imap)
        return list(told)

    assert b"1 EXISTS" in asyncio.run(idle())
