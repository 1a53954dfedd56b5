"""Hostile and disorderly clients of SMTP, submission, LMTP and POP3, on the running server."""

import asyncio
import base64
import errno
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import Imap
from pop3_raw import Pop3 as Pop3Client

from pochta.config import Auth, Limits, Pop3
from pochta.delivery.intake import Incoming
from pochta.net import connection
from pochta.servers.pop3 import inbox
from pochta.servers.pop3.lock import ExclusiveLocks
from pochta.store import leases, setup
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

ANNA, BORIS = "anna@example.org", "boris@example.org"
QUIET_S = 0.05  # a server that says nothing for so long waits for us
LAST_WORDS_S = 20.0

PLAIN = base64.b64encode(f"\0{ANNA}\0secret".encode())
WRONG = base64.b64encode(f"\0{ANNA}\0wrong".encode())
SCRAM = base64.b64encode(f"n,,n={ANNA},r=abcdef".encode())

BODIES = (
    b"\r\n",
    b"From: %b\r\nSubject: x\r\n\r\nbody\r\n" % ANNA.encode(),
    b"From: %b\r\n\r\nx\r\n" % BORIS.encode(),
    b".\x00\xff\r\n..\r\n",
    b"a\nb\r\n",
    b"a\rb\r\n",
    b"X: y\r\n" * 300,
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * 400,
    b"x" * 70_000 + b"\r\n",
)


def smtp_commands(choose: Random, hello: bytes) -> bytes:
    """One command, or what stands for one."""
    body = choose.choice(BODIES)
    sender, recipients = choose.choice((ANNA, "")).encode(), choose.choices((ANNA, BORIS, "x@example.org"), k=2)
    envelope = b"MAIL FROM:<%b>\r\n" % sender + b"".join(b"RCPT TO:<%b>\r\n" % one.encode() for one in recipients)
    if choose.random() < 0.4:
        at = choose.randrange(len(body))
        chunks = b"BDAT %d\r\n%b" % (at, body[:at]) + b"BDAT %d LAST\r\n%b" % (len(body) - at, body[at:])
        return envelope + choose.choice((b"DATA\r\n" + body + b".\r\n", chunks))
    commands = (
        hello + b" fuzz\r\n",
        b"EHLO x\r\n",
        b"LHLO x\r\n",
        b"HELO x\r\n",
        b"MAIL FROM:<%b>\r\n" % ANNA.encode(),
        b"MAIL FROM:<> SIZE=%d SMTPUTF8 BODY=8BITMIME\r\n" % choose.choice((0, 10, 10**19)),
        b"MAIL FROM:<%b> AUTH=<>\r\n" % BORIS.encode(),
        b"RCPT TO:<%b>\r\n" % ANNA.encode(),
        b"RCPT TO:<%b>\r\n" % BORIS.encode(),
        b"RCPT TO:<postmaster>\r\n",
        "RCPT TO:<й@example.org>\r\n".encode(),
        b"DATA\r\n",
        b"DATA\r\n" + body + b".\r\n",
        body + b"\r\n.\r\n",
        b"BDAT %d\r\n" % len(body) + body,
        b"BDAT %d LAST\r\n" % len(body) + body,
        b"BDAT %d LAST\r\n" % choose.choice((0, 1, 7, 3000)),
        b"BDAT 0\r\n",
        b"BDAT x\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY x\r\n",
        b"HELP\r\n",
        b"AUTH PLAIN " + choose.choice((PLAIN, WRONG, b"=", b"*", b"AAAA")) + b"\r\n",
        b"AUTH PLAIN\r\n" + choose.choice((PLAIN, WRONG, b"*")) + b"\r\n",
        b"AUTH LOGIN\r\n",
        b"AUTH SCRAM-SHA-256 " + choose.choice((SCRAM, b"=", b"bixh")) + b"\r\n",
        SCRAM + b"\r\n",
        b"\r\n",
        b"*\r\n",
    )
    return choose.choice(commands)


def pop3_commands(choose: Random) -> bytes:
    """One command."""
    number = choose.choice((0, 1, 1, 2, 3, 4, 99, 10**9))
    commands = (
        b"USER %b\r\nPASS secret\r\n" % ANNA.encode(),
        b"USER %b\r\nPASS wrong\r\n" % ANNA.encode(),
        b"AUTH PLAIN " + choose.choice((PLAIN, b"=", b"*")) + b"\r\n",
        b"AUTH LOGIN\r\n",
        b"AUTH\r\n",
        b"CAPA\r\n",
        b"UTF8\r\n",
        b"STAT\r\n",
        b"LIST\r\n",
        b"LIST %d\r\n" % number,
        b"UIDL\r\n",
        b"UIDL %d\r\n" % number,
        b"RETR %d\r\n" % number,
        b"RETR %d\nRETR 1\r\n" % number,
        b"TOP %d %d\r\n" % (number, choose.choice((0, 1, 10**9))),
        b"DELE %d\r\n" % number,
        b"RSET\r\n",
        b"NOOP\r\n",
        b"*\r\n",
    )
    return choose.choice(commands)


def disorder(choose: Random, port: str) -> Iterator[bytes]:
    """What one client sends, in the pieces in which it does."""
    hello = b"LHLO" if port == "lmtp_port" else b"EHLO"
    sent = bytearray()
    if port == "pop3_port":
        if choose.random() < 0.7:
            sent += b"USER %b\r\nPASS secret\r\n" % ANNA.encode()
    elif choose.random() < 0.8:
        sent += hello + b" fuzz\r\n"
        if port == "submission_port" and choose.random() < 0.8:
            sent += b"AUTH PLAIN " + PLAIN + b"\r\n"
    for _ in range(choose.randrange(1, 25)):
        piece = pop3_commands(choose) if port == "pop3_port" else smtp_commands(choose, hello)
        if choose.random() < 0.08:
            at = choose.randrange(len(piece))
            piece = piece[:at] + choose.randbytes(1) + piece[at + 1 :]
        if choose.random() < 0.03:
            piece = choose.randbytes(choose.randrange(1, 3000))
        sent += piece
    if choose.random() < 0.6:
        sent += b"QUIT\r\n"
    at = 0
    while at < len(sent):
        step = choose.choice((1, 2, 17, 200, 5000, 100_000))
        yield bytes(sent[at : at + step])
        at += step


def play(server: Server, seed: int, *, tls: ssl.SSLContext | None = None) -> None:
    """One client: everything it has to say, and its way to go."""
    choose = Random(seed)
    port = choose.choice(("smtp_port", "submission_port", "lmtp_port", "pop3_port"))
    with socket.create_connection((server.host, getattr(server, port)), timeout=LAST_WORDS_S) as raw:
        peer = raw
        try:
            if tls is not None and port != "lmtp_port":
                raw.sendall(b"STLS\r\n" if port == "pop3_port" else b"EHLO x\r\nSTARTTLS\r\n")
                received = b""
                while b"Ready to start TLS" not in received and b"Begin TLS" not in received:
                    received += raw.recv(4096)
                peer = tls.wrap_socket(raw, server_hostname="localhost")
            for piece in disorder(choose, port):
                peer.sendall(piece)
                if choose.random() < 0.05:
                    peer.settimeout(QUIET_S)
                    with suppress(TimeoutError):
                        peer.recv(65536)
                    peer.settimeout(LAST_WORDS_S)
            way = choose.random()
            if way < 0.3:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            elif way < 0.8 and peer is raw:
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        except OSError:
            pass
        finally:
            peer.close()


def settled(server: Server) -> None:
    """Wait until every client's connection has ended, and see that it has left nothing."""

    app = server.app

    async def wait(store: Store) -> None:
        def is_busy() -> bool:
            locks = app.pop3_locks is not None and len(app.pop3_locks)
            return bool(app.smtp_connections or app.pop3_connections or app.pop3_updates or locks)

        async with asyncio.timeout(LAST_WORDS_S):
            while is_busy() or app.intake.memory_bytes:  # noqa: ASYNC110 - nobody is told of a connection's end
                await asyncio.sleep(0.01)
            while unnamed_files(server, await store.read(0, named_files)):  # noqa: ASYNC110 - nor of a file's
                await asyncio.sleep(0.01)
        assert len(app.signed_in) == 0

    server.run(wait)


def named_files(tx: Tx) -> set[str]:
    return {str(row[0]) for row in tx.rows("SELECT file FROM blob WHERE file IS NOT NULL", ())}


def unnamed_files(server: Server, named: set[str]) -> set[str]:
    return {one.name for one in server.app.store.blobs.folder.rglob("*") if one.is_file()} - named


CLIENTS = 160
THREADS = 4
WAYS = {
    "in the clear": (False, Pop3(), 1_000_000),
    "small limit, exclusive": (False, Pop3(exclusive=True), 60_000),
    "TLS": (True, Pop3(), 1_000_000),
}


@pytest.mark.parametrize("way", WAYS)
def test_disorderly_clients_meet_no_bug_and_leave_nothing(way: str) -> None:
    with_tls, pop3, size = WAYS[way]
    limits = Limits(min_free_bytes=0, message_size_bytes=size)
    with Server(with_tls=with_tls, pop3=pop3, auth=Auth(scram_sha_256=True), limits=limits) as server:
        server.add_account(ANNA, "secret")
        server.add_account(BORIS, "secret", quota_bytes=50_000)
        tls = ssl.create_default_context(cafile=server.certificate) if with_tls else None

        def play_some(first: int) -> None:
            for seed in range(first, CLIENTS, THREADS):
                play(server, seed, tls=tls)

        threads = [threading.Thread(target=play_some, args=(first,)) for first in range(THREADS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        settled(server)


def test_who_leaves_behind_the_end_of_data_leaves_no_file(pochta: Server) -> None:
    # The file would be removed an hour later; until then anybody could fill the disk, whatever the quotas.
    for number in range(12):
        with socket.create_connection((pochta.host, pochta.smtp_port)) as peer:
            peer.sendall(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nDATA\r\n" % ANNA.encode())
            answers = b""
            while b"354 " not in answers:
                answers += peer.recv(4096)
            peer.sendall(b"Subject: %d\r\n\r\n" % number + b"x" * 300_000 + b"\r\n.\r\n")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    settled(pochta)


@pytest.mark.rfc(3207, "4.2")
def test_who_signed_in_before_tls_is_forgotten() -> None:
    with Server(with_tls=True) as server:
        server.add_account(ANNA, "secret")
        server.add_account(BORIS, "secret")
        with smtplib.SMTP("localhost", server.submission_port) as smtp:
            smtp.login(ANNA, "secret")
            smtp.starttls(context=ssl.create_default_context(cafile=server.certificate))
            smtp.ehlo()
            assert smtp.mail(ANNA)[0] == 530
            smtp.login(BORIS, "secret")
            assert smtp.mail(ANNA)[0] == 550
            # what becomes of the first account is no matter of this connection
            server.set_password(ANNA, "another")
            assert smtp.mail(BORIS)[0] == 250
        settled(server)


def test_a_full_disk_under_a_header_that_is_held(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.EBADF, "closed"), OSError(errno.ENOSPC, "full")]

    def write(*_: object) -> None:
        raise failures.pop()

    with smtplib.SMTP(pochta.host, pochta.submission_port) as smtp:
        smtp.login(ANNA, "secret")
        smtp.mail(ANNA)
        smtp.rcpt(ANNA)
        monkeypatch.setattr(Incoming, "write", write)
        assert smtp.data(b"Subject: a header alone\r\n")[0] == 452
        monkeypatch.undo()
        assert smtp.mail(ANNA)[0] == 250


def test_a_message_that_is_refused_while_the_server_stops(pochta: Server) -> None:
    async def stop(_: Store) -> None:
        for one in tuple(pochta.app.smtp_connections):
            one.stop()

    with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
        smtp.ehlo()
        smtp.mail("")
        smtp.rcpt(ANNA)
        assert smtp.docmd("DATA")[0] == 354
        pochta.run(stop)
        smtp.send(b"bare\nnewline\r\n.\r\n")
        assert smtp.getreply()[0] == 550
        assert smtp.getreply()[0] == 421


def test_thousand_recipients_have_their_replies_at_once(pochta: Server) -> None:
    """INV-12: what is done for each of them must not grow with their number."""
    with smtplib.LMTP(pochta.host, pochta.lmtp_port) as lmtp:
        lmtp.ehlo()
        lmtp.mail("")
        many = [f"anna+{number}@example.org" for number in range(1000)]
        assert {lmtp.rcpt(one)[0] for one in many} == {250}
        assert lmtp.docmd("DATA")[0] == 354
        lmtp.send(b"Subject: x\r\n\r\n.\r\n")
        assert {lmtp.getreply()[0] for _ in many} == {250}


def test_a_bug_at_quit_gives_the_lock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def remove_deleted(*_: object) -> None:
        raise RuntimeError("a bug")

    with Server(pop3=Pop3(exclusive=True)) as server:
        server.add_account(ANNA, "secret")
        met: list[BaseException] = []
        monkeypatch.setattr(connection, "on_bug", met.append)
        with Pop3Client(server) as pop3:
            monkeypatch.setattr(inbox, "remove_deleted", remove_deleted)
            assert pop3.err("QUIT").startswith(b"[SYS/TEMP] Internal error")
            assert pop3.line() == b""
        assert [str(one) for one in met] == ["a bug"]
        with Pop3Client(server) as pop3:
            pop3.ok("STAT")


def test_a_session_that_lost_the_lock_does_not_give_back_its_successors(tmp_path: Path) -> None:
    def first() -> None: ...

    def second() -> None: ...

    async def run() -> None:
        store = Store(tmp_path / "data")
        store.start(hears_hints=False)
        locks = ExclusiveLocks(store)
        await locks.acquire(7, first)
        await store.write(0, leases.release, "pop3 7", 1)  # as if it had ended
        await locks.renew()
        await locks.acquire(7, second)
        assert locks.release(7, first) is None
        assert len(locks) == 1
        releasing = locks.release(7, second)
        assert releasing is not None
        await releasing
        await store.close()

    setup.create(tmp_path / "data", is_throwaway=True)
    asyncio.run(run())


@pytest.mark.rfc(1939, "7")
def test_unique_ids_are_never_given_again_behind_a_rename_of_inbox(pochta: Server) -> None:
    def deliver() -> None:
        with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
            smtp.sendmail("", [ANNA], b"Subject: x\r\n\r\nx\r\n")

    def unique_ids() -> set[bytes]:
        with Pop3Client(pochta) as pop3:
            pop3.ok("UIDL")
            return {line.split()[1] for line in pop3.body().splitlines()}

    deliver()
    deliver()
    before = unique_ids()
    assert len(before) == 2
    with Imap(pochta, mailbox=None) as imap:
        imap.ok("RENAME INBOX Old")
    assert unique_ids() == set()
    deliver()
    after = unique_ids()
    assert len(after) == 1
    assert not after & before
    with Imap(pochta, mailbox="Old") as imap:
        imap.ok("MOVE 1:2 INBOX")
    assert len(unique_ids()) == 3
    assert not unique_ids() & before


SMUGGLED_FROM = {
    "behind the fields that are looked at": f"From: {ANNA}\r\n" + "a:\r\n" * 10_000 + f"From: {BORIS}\r\n",
    "alone behind them": "a:\r\n" * 10_000 + f"From: {BORIS}\r\n",
    "two in angle brackets": f"From: <{BORIS}> <{ANNA}>\r\n",
    "two words": f"From: {BORIS} {ANNA}\r\n",
    "a name that is an address": f"From: {BORIS} <{ANNA}>\r\n",
    "brackets in brackets": f"From: <{BORIS} <{ANNA}>>\r\n",
    "a colon": f"From: {BORIS} : {ANNA}\r\n",
    "a false route": f"From: <{BORIS}:{ANNA}>\r\n",
    "a stray bracket": f"From: {BORIS}) <{ANNA}>\r\n",
    "too long to be judged": f"From: {ANNA}" + "\r\n ,,,,,,,," * 4000 + "\r\n",
}
PLAIN_FROM = {
    "a name": f'From: "boris@example.org, really (not)" <{ANNA}>\r\n',
    "itself as its name": f"From: {ANNA} <{ANNA}>, {ANNA}<{ANNA}>\r\n",
    "comments": f"From: {ANNA} (Anna (of {BORIS}) \\) \\( it)\r\n",
    "a group": f"From: We: {ANNA}, Anna <{ANNA}>;\r\n",
    "a quoted local part": 'From: "anna"@example.org\r\n',
    "encoded words, folded": f"From: =?utf-8?Q?Anna=40?=\r\n\t=?utf-8?Q?=41?= <{ANNA}>\r\n",
}


@pytest.mark.parametrize("header", SMUGGLED_FROM.values(), ids=SMUGGLED_FROM)
def test_no_author_that_some_programs_see_and_we_do_not(pochta: Server, header: str) -> None:
    pochta.add_account(BORIS, "secret")
    with smtplib.SMTP(pochta.host, pochta.submission_port) as smtp:
        smtp.login(ANNA, "secret")
        with pytest.raises(smtplib.SMTPDataError) as caught:
            smtp.sendmail(ANNA, [ANNA], header + "\r\nbody\r\n")
        assert caught.value.smtp_code in (550, 552)


@pytest.mark.parametrize("header", PLAIN_FROM.values(), ids=PLAIN_FROM)
def test_authors_as_programs_write_them(pochta: Server, header: str) -> None:
    with smtplib.SMTP(pochta.host, pochta.submission_port) as smtp:
        smtp.login(ANNA, "secret")
        assert smtp.sendmail(ANNA, [ANNA], header + "\r\nbody\r\n") == {}
