"""Four servers that know each other by DNS alone: a.test, b.test, relay.test and a late one; the clock may be moved."""

import email
import email.policy
import imaplib
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from queue_rig import free_port

from pochta import clock
from pochta.accounts import edit, signing
from pochta.config import Checks, Outbound, OutboundTls, Queue, Route, Sending
from pochta.dns import DnsResolver
from pochta.store import dkim_keys, queue_view
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server
from pochta.testing.nameserver import Nameserver

HOSTS = {"a.test": "127.0.0.2", "b.test": "127.0.0.3", "relay.test": "127.0.0.4", "late.test": "127.0.0.5"}
STRANGER = "127.0.0.66"
PASSWORD = "secret"
DEADLINE_S = 30.0

ZONES = {
    **{
        domain: f'@ MX 10 mx\n@ TXT "v=spf1 ip4:{host} -all"\nmx A {host}\nmx TXT "v=spf1 a -all"\n'
        for domain, host in HOSTS.items()
    },
    "c.test": "@ MX 10 mx.b.test.\n",
    "office.test": f'@ MX 10 mx.a.test.\n@ TXT "v=spf1 ip4:{HOSTS["relay.test"]} -all"\n',
    "strict.test": '_dmarc TXT "v=DMARC1; p=reject"\n@ TXT "v=spf1 -all"\n',
    "careful.test": '_dmarc TXT "v=DMARC1; p=quarantine"\n@ TXT "v=spf1 -all"\n',
    "evil.test": "@ A 192.0.2.1\n",
    "127.in-addr.arpa": "".join(
        f"{'.'.join(reversed(host.split('.')[1:]))} PTR mx.{domain}.\n" for domain, host in HOSTS.items()
    ),
}
_DMARC = '_dmarc TXT "v=DMARC1; p=reject"\n'


def wait_for(found: Callable[[], object], what: str) -> None:
    """Return once `found()` is true."""
    until, never = time.monotonic() + DEADLINE_S, threading.Event()
    while not found():
        assert time.monotonic() < until, what
        never.wait(0.01)


def mails(server: Server, address: str, mailbox: str = "INBOX") -> list[EmailMessage]:
    """The messages in a mailbox."""
    with imaplib.IMAP4(server.host, server.imap_port) as imap:
        imap.login(address, PASSWORD)
        imap.select(mailbox, readonly=True)
        _, data = imap.uid("FETCH", "1:*", "(BODY.PEEK[])")
        imap.logout()
    found = [email.message_from_bytes(one[1], policy=email.policy.default) for one in data if isinstance(one, tuple)]
    return [one for one in found if isinstance(one, EmailMessage)]


def text(sender: str, to: str, subject: str, *fields: str) -> str:
    return "\r\n".join((*fields, f"From: <{sender}>", f"To: <{to}>", f"Subject: {subject}", "", "Hello", ""))


@dataclass
class World:
    """The servers, and what a test does with them."""

    names: Nameserver
    port: int
    a: Server
    b: Server
    relay: Server
    ahead_s: float = 0.0

    def __post_init__(self) -> None:
        self._real = clock.current().now
        clock.current().now = lambda: self._real() + self.ahead_s

    def end(self) -> None:
        """The clock is right again."""
        clock.current().now = self._real

    def submit(
        self, server: Server, sender: str, to: str, subject: str, *fields: str,
        null: bool = False, mail: Sequence[str] = (), rcpt: Sequence[str] = (), login: str = "",
    ) -> None:  # fmt: skip
        """A user of the server sends a message, over TLS."""
        context = ssl.create_default_context(cafile=str(server.certificate))
        context.check_hostname = False
        with smtplib.SMTP(server.host, server.submission_port, local_hostname="client.test") as smtp:
            smtp.starttls(context=context)
            smtp.login(login or sender, PASSWORD)
            message = text(sender, to, subject, *fields)
            smtp.sendmail("" if null else sender, [to], message, mail_options=mail, rcpt_options=rcpt)

    def inject(self, server: Server, sender: str, to: str, message: str) -> None:
        """A stranger's server sends a message."""
        with smtplib.SMTP(
            server.host, server.smtp_port, local_hostname="mx.evil.test", source_address=(STRANGER, 0)
        ) as smtp:
            smtp.sendmail(sender, [to], message)

    def letter(self, server: Server, address: str, subject: str, mailbox: str = "INBOX") -> EmailMessage:
        """The one message of this subject that comes into the mailbox."""
        found: list[EmailMessage] = []

        def is_there() -> bool:
            found[:] = [one for one in mails(server, address, mailbox) if one["Subject"] == subject]
            return bool(found)

        wait_for(is_there, f"{subject} never came; {''.join(self.a.events[-20:])}")
        (only,) = found
        return only

    def report(self, server: Server, address: str, subject: str, action: str) -> EmailMessage:
        """The report that comes about the message of this subject; as `fields_of` wants it."""
        found: list[EmailMessage] = []

        def is_there() -> bool:
            found[:] = [one for one in mails(server, address) if _tells(one, subject, action)]
            return bool(found)

        wait_for(is_there, f"no report of {subject} came; {''.join(self.a.events[-20:])}")
        (only,) = found
        return only

    def move(self, seconds: float) -> None:
        """It is later, for all servers at once; nobody loses a lease over it."""
        for server in (self.a, self.b, self.relay):
            server.run(lambda store: _prolong(store, int(seconds)))
        self.ahead_s += seconds
        for server in (self.a, self.b, self.relay):
            server.run(lambda store, server=server: _wake(server))

    def retry(self, server: Server) -> None:
        """As `pochta queue retry` of all."""
        server.run(_retry)

    def queue(self, server: Server) -> list[queue_view.Entry]:
        async def read(store: Store) -> list[queue_view.Entry]:
            return await store.read(0, queue_view.listing)

        return server.run(read)

    def wait_until_empty(self) -> None:
        """Nobody waits at any server."""
        for server in (self.a, self.b, self.relay):
            wait_for(lambda server=server: not self.queue(server), f"the queue of {server.domain} is not empty")


def _tells(one: EmailMessage, subject: str, action: str) -> bool:
    if one.get_content_type() != "multipart/report":
        return False
    _, status, original = one.iter_parts()
    is_about = f"Subject: {subject}\n" in original.as_string().replace("\r\n", "\n")
    return is_about and f"Action: {action}" in status.as_string()


async def _prolong(store: Store, seconds: int) -> None:
    await store.write(0, _prolong_leases, seconds)


def _prolong_leases(tx: Tx, seconds: int) -> None:
    tx.run("UPDATE lease SET expires_at = expires_at + ? WHERE expires_at > 0", (seconds,))


async def _wake(server: Server) -> None:
    server.app.runner.wake()


async def _retry(store: Store) -> None:
    await store.write(0, queue_view.retry, None, None, (0, 0), int(clock.now_s()))


def _give_keys(names: Nameserver, server: Server) -> None:
    """The domain signs from now on, and DNS says so."""
    keys = signing.new_keys(int(clock.now_s()))

    async def give(store: Store) -> list[signing.Record]:
        await store.write(0, dkim_keys.add, server.domain, keys, int(clock.now_s()))
        return await store.read(0, signing.records, server.domain)

    lines = []
    for one in server.run(give):
        parts = [one.text[at : at + 200] for at in range(0, len(one.text), 200)]
        lines.append(f"{one.name}. TXT " + " ".join(f'"{part}"' for part in parts))
    names.set_zone(server.domain, ZONES[server.domain] + _DMARC + "\n".join(lines) + "\n")


def make_server(names: Nameserver, port: int, domain: str, **more: object) -> Server:
    """A server that is not started; `more`: parameters of `Server`."""
    host = HOSTS[domain]
    settings: dict[str, object] = {
        "checks": Checks(),
        "queue": Queue(retry_after_s=(1,) * 20),
        "outbound": Outbound(loopback=True, port=port, source_addresses=(host,), ipv6=False),
        "sending": Sending(messages_per_hour=0, recipients_per_hour=0, strangers_per_day=0),
        **more,
    }
    return Server(
        domain=domain,
        host=host,
        hostname=f"mx.{domain}",
        transfer_port=port,
        with_tls=True,
        resolver=DnsResolver([names.address]),
        **settings,  # type: ignore[arg-type]  # as they are named
    )


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of it, running."""
    port = free_port(*HOSTS.values())
    with Nameserver() as names:
        for origin, zone in ZONES.items():
            names.add_zone(origin, zone)
        for domain in ("b.test", "late.test"):
            names.vouch(domain)
        greylisting = Checks(greylist=True, greylist_delay_s=1)
        with make_server(names, port, "b.test") as b, make_server(names, port, "relay.test", checks=greylisting) as r:
            (folder / "password").write_text(f"{PASSWORD}\n")
            (folder / "ca.pem").write_text(b.certificate.read_text() + r.certificate.read_text())
            host = HOSTS["a.test"]
            outbound = Outbound(
                loopback=True, port=port, source_addresses=(host,), ipv6=False, ca_file=folder / "ca.pem"
            )
            route = Route(
                name="smarthost",
                recipients=("c.test",),
                hosts=(f"mx.relay.test:{r.submission_port}",),
                tls=OutboundTls.REQUIRED,
                username="olga@office.test",
                password_file=folder / "password",
            )
            with make_server(names, port, "a.test", outbound=outbound, routes=(route,), postmaster="post@a.test") as a:
                made = World(names, port, a, b, r)
                try:
                    _fill(made)
                    yield made
                finally:
                    made.end()


def _fill(made: World) -> None:
    for server, domain in ((made.b, "c.test"), (made.a, "office.test"), (made.relay, "office.test")):
        server._write(edit.add_domain, domain, None, int(clock.now_s()))
    for server, addresses in (
        (made.a, ("anna@a.test", "post@a.test", "olga@office.test")),
        (made.b, ("bert@b.test", "carl@c.test")),
        (made.relay, ("rita@relay.test", "olga@office.test")),
    ):
        for address in addresses:
            server.add_account(address, PASSWORD)
    made.a.add_alias("forward@a.test", ["bert@b.test"])
    made.a.add_alias("astray@a.test", ["astray@b.test"])
    made.b.add_alias("astray@b.test", ["nobody@late.test"])
    _give_keys(made.names, made.a)
