"""Other mail servers beside a Pochta: Postfix and OpenSMTPD, each with its own configuration, queue and Maildirs.

Both start as root only, and give their rights up themselves; what they write lies in one folder that is removed with
them. They listen on loopback alone, ask no DNS, and send what they take for `pochta.test` to the Pochta of the test.
OpenSMTPD has its paths compiled in, and users of its own: it lives in a chroot, a copy of what `.ci/opensmtpd` makes.
"""

import os
import re
import shutil
import signal
import smtplib
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Final, NoReturn

import dkim
import pytest
from interop_programs import PACKAGES
from interop_sides import PASSWORD, Account

from pochta import clock
from pochta.accounts import signing
from pochta.config import Checks, Outbound, OutboundTls, Queue, Route
from pochta.store import dkim_keys
from pochta.store.store import Store
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver

HOST: Final = "127.0.0.1"
OURS: Final = "pochta.test"
OUR_HOST: Final = "mx.pochta.test"
OPENSMTPD: Final = Path(os.environ.get("POCHTA_OPENSMTPD") or Path.home() / ".cache" / "pochta-ci" / "opensmtpd")
DEADLINE_S: Final = 30.0  # of every wait: what takes so long never happens
POLL_S: Final = 0.02

_USER: Final = 65_534  # owns the Maildirs: nobody
_SMTPD_USER: Final = 901  # in the chroot's own passwd
_SIGNATURE: Final = b"DKIM-Signature"
_SBIN: Final = "/usr/sbin:/sbin"


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


def wait_until(holds: Callable[[], object], what: Callable[[], object]) -> None:
    """Return once `holds()` is true. Raises: AssertionError with `what()` when it never becomes so."""
    until = clock.monotonic_s() + DEADLINE_S
    never = threading.Event()
    while not holds():
        assert clock.monotonic_s() < until, what()
        never.wait(POLL_S)


def missing(text: str) -> NoReturn:
    """CI fails, other runs skip."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    raise AssertionError


@dataclass(slots=True)
class Mta:
    """Another mail server under way, and what it keeps in `folder`.

    `ports`: `plain` takes mail as it comes, others as the fixture has set them up. `domain`: whose mail it keeps.
    """

    domain: str
    ports: dict[str, int]
    folder: Path
    mail_folder: Path
    log_path: Path
    environment: dict[str, str]

    @property
    def pid_path(self) -> Path:
        """Where Postfix says who its master is."""
        return self.folder / "queue" / "pid" / "master.pid"

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def mail(self, user: str) -> list[bytes]:
        """The messages of a user, CRLF for the Maildir's LF, oldest first."""
        paths = sorted((self.mail_folder / user / "new").glob("*"), key=lambda path: (path.stat().st_mtime_ns, path))
        return [path.read_bytes().replace(b"\n", b"\r\n") for path in paths]

    def wait_for(self, user: str, mark: str) -> bytes:
        """The message of a user that holds `mark`, once it is there."""
        found: list[bytes] = []

        def has_come() -> bool:
            found[:] = [one for one in self.mail(user) if mark.encode() in one]
            return bool(found)

        wait_until(has_come, lambda: f"{mark!r} never came to {user}:\n{self.log[-6000:]}")
        assert len(found) == 1, f"{mark!r} came {len(found)} times"
        return found[0]

    def wait_for_log(self, *marks: str) -> str:
        """The first line of the log that holds all of these, once it is there."""
        found: list[str] = []

        def is_said() -> bool:
            found[:] = [line for line in self.log.splitlines() if all(mark in line for mark in marks)]
            return bool(found)

        wait_until(is_said, lambda: f"{marks} was never said:\n{self.log[-6000:]}")
        return found[0]


@contextmanager
def postfix(
    our_port: int, our_certificate: Path, *, identity: Path, ports: dict[str, int], policy_port: int
) -> Iterator[Mta]:
    """Postfix for `postfix.test`; the folder `identity` has its certificate.pem and key.pem.

    Its users are bert (and берт), carl, and gray, who is asked about at `policy_port`. Its ports: `plain`; `clear`
    offers no TLS, `broken` a version that nobody speaks any more, `old` nothing but 7-bit mail, one command after the
    other.
    """
    program = shutil.which("postfix", path=f"{os.environ['PATH']}:{_SBIN}")
    if program is None:
        missing(f"postfix is missing: apt-get install {PACKAGES['postfix']}")
    with _folder(identity) as folder:
        for name in ("etc", "queue", "data", "mail"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        os.chown(folder / "mail", _USER, _USER)
        shutil.copy(our_certificate, folder / "ours.pem")
        text = _MAIN_CF.format(folder=folder, our_port=our_port, policy_port=policy_port)
        (folder / "etc" / "main.cf").write_text(text, encoding="utf-8")
        (folder / "etc" / "master.cf").write_text(_MASTER_CF.format(**ports), encoding="utf-8")
        (folder / "maillog").touch()
        environment = {"PATH": f"{os.environ['PATH']}:{_SBIN}", "LANG": "C.UTF-8", "HOME": str(folder)}
        environment["MAIL_CONFIG"] = str(folder / "etc")
        mta = Mta("postfix.test", ports, folder, folder / "mail", folder / "maillog", environment)
        with _running([program, "-c", str(folder / "etc"), "start-fg"], mta):
            yield mta


@contextmanager
def opensmtpd(our_port: int, our_certificate: Path, *, identity: Path, ports: dict[str, int]) -> Iterator[Mta]:
    """OpenSMTPD for bert and carl of `opensmtpd.test`; `identity` and the ports `plain` and `clear` as for Postfix."""
    if not (OPENSMTPD / "complete").exists():
        missing(f"OpenSMTPD is missing: .ci/opensmtpd {OPENSMTPD}")
    with _folder(identity) as folder:
        root = folder / "root"
        shutil.copytree(OPENSMTPD, root, symlinks=True)
        for name in ("dev", "mail", "run", "tmp", "var/run", "var/spool/smtpd", "etc/ssl/certs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "var/spool/smtpd").chmod(0o711)
        os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
        (root / "dev/null").chmod(0o666)
        os.chown(root / "mail", _USER, _USER)
        shutil.copy(our_certificate, root / "etc/ssl/certs/ca-certificates.crt")
        for name in ("certificate.pem", "key.pem"):
            shutil.copy(folder / name, root / "etc" / name)
        (root / "etc/key.pem").chmod(0o600)
        for name, text in _ETC.items():
            (root / "etc" / name).write_text(text, encoding="utf-8")
        text = _SMTPD_CONF.format(our_port=our_port, **ports)
        (root / "etc/smtpd.conf").write_text(text, encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        mta = Mta("opensmtpd.test", ports, folder, root / "mail", folder / "log", environment)
        with _running(["chroot", str(root), "/usr/sbin/smtpd", "-dv"], mta):
            yield mta


@contextmanager
def _folder(identity: Path) -> Iterator[Path]:
    """A folder that servers who gave up their rights can reach, with the certificate in it."""
    if os.geteuid():
        missing("other mail servers start as root only")
    folder = Path(tempfile.mkdtemp(prefix="pochta-mta-"))
    try:
        folder.chmod(0o755)
        for name in ("certificate.pem", "key.pem"):
            shutil.copy(identity / name, folder / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(argv: Sequence[str], mta: Mta) -> Iterator[None]:
    """The server listens; at the end it and all it started are gone."""
    with (mta.folder / "log").open("ab") as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=mta.environment, start_new_session=True
        )
    try:
        wait_until(
            lambda: process.poll() is not None or all(map(_listens, mta.ports.values())),
            lambda: f"{argv[0]} does not listen:\n{mta.log}",
        )
        assert process.poll() is None, f"{argv[0]} ended:\n{(mta.folder / 'log').read_text(errors='replace')}{mta.log}"
        yield
    finally:
        # Postfix' master is a session of its own, which its starter waits for and tells nothing.
        leaders = [process.pid]
        if mta.pid_path.exists():
            leaders.append(int(mta.pid_path.read_text()))
        _signal(os.kill, leaders[-1], signal.SIGTERM)
        try:
            process.wait(DEADLINE_S)
        finally:
            for leader in leaders:
                _signal(os.killpg, leader, signal.SIGKILL)
            process.wait()


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        send(pid, number)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((HOST, port)) == 0


class Pair:
    """A Pochta for `pochta.test` that reaches the other server, and what its users do.

    `mx.DOMAIN` is the other's name. Mail for `strict.DOMAIN` needs its certificate, as does that for
    `impostor.DOMAIN`, whose host has another name; `clear.DOMAIN` goes to the port without TLS, in the clear where
    need be, `strict-clear.DOMAIN` never.
    """

    def __init__(self, domain: str, ports: dict[str, int], ca_file: Path) -> None:
        self.domain = domain
        self.zone = ZoneResolver()
        for name in (f"mx.{domain}", "mx.impostor.test"):
            self.zone.add(name, "A", HOST)
        self.zone.add(domain, "TXT", f"v=spf1 ip4:{HOST} -all")
        hosts = {name: (f"mx.{domain}:{port}",) for name, port in ports.items()}
        impostor = (f"mx.impostor.test:{ports['plain']}",)
        required = OutboundTls.REQUIRED
        routes = [
            Route(name="other", recipients=(domain,), hosts=hosts["plain"]),
            Route(name="strict", recipients=(f"strict.{domain}",), hosts=hosts["plain"], tls=required),
            Route(name="impostor", recipients=(f"impostor.{domain}",), hosts=impostor, tls=required),
            Route(name="strict-clear", recipients=(f"strict-clear.{domain}",), hosts=hosts["clear"], tls=required),
            *(
                Route(name=name, recipients=(f"{name}.{domain}",), hosts=hosts[name])
                for name in ports
                if name != "plain"
            ),
        ]
        self.server = Server(
            domain=OURS,
            hostname=OUR_HOST,
            with_tls=True,
            resolver=self.zone,
            checks=Checks(),
            queue=Queue(retry_after_s=(1,) * 5),
            outbound=Outbound(loopback=True, ca_file=ca_file),
            routes=tuple(routes),
        )

    def __enter__(self) -> "Pair":
        self.server.start()

        async def add_keys(store: Store) -> None:
            now = int(clock.now_s())
            keys = signing.new_keys(now)
            await store.write(0, dkim_keys.add, OURS, keys, now)
            for one in await store.read(0, signing.records, OURS):
                self.zone.add(one.name, "TXT", one.text)
                self._keys[f"{one.name}.".encode()] = one.text.encode()

        self._keys: dict[bytes, bytes] = {}
        self.server.run(add_keys)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.server.__exit__(kind, error, trace)

    def account(self, local_part: str) -> Account:
        """A new user."""
        return Account(self.server, f"{local_part}@{OURS}")

    def send(
        self,
        account: Account,
        recipients: Sequence[str],
        content: bytes,
        *,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
        sender: str = "",
    ) -> None:
        """The user submits a message, as `sender` where that is another address of theirs."""
        context = ssl.create_default_context(cafile=str(self.server.certificate))
        context.check_hostname = False
        with smtplib.SMTP(self.server.host, self.server.submission_port, timeout=30) as smtp:
            smtp.starttls(context=context)
            smtp.login(account.address, PASSWORD)
            refused = smtp.sendmail(sender or account.address, list(recipients), content, mail_options, rcpt_options)
        assert not refused, refused

    def attempts(self, recipient: str) -> list[str]:
        """What the log says of the attempts to send to this recipient."""
        marks = (" queue.attempt ", f"to=<{recipient}> ")
        return [line for line in list(self.server.events) if all(mark in line for mark in marks)]

    def wait_for_attempt(self, recipient: str, outcome: str) -> str:
        """The first attempt with this outcome, once it was made."""
        found: list[str] = []

        def is_made() -> bool:
            found[:] = [line for line in self.attempts(recipient) if f"outcome={outcome} " in line]
            return bool(found)

        wait_until(is_made, lambda: f"no attempt was {outcome}: {self.attempts(recipient)}")
        return found[0]

    def wait_for_mail(self, account: Account, mailbox: str = "INBOX") -> bytes:
        """The only message in the mailbox, once it is there."""
        wait_until(lambda: account.contents(mailbox), lambda: f"nothing came:\n{''.join(self.server.events)[-6000:]}")
        [content] = account.contents(mailbox)
        return content

    def assert_signed(self, content: bytes) -> None:
        """Two signatures stand there, and dkimpy finds the RSA one good; to read Ed25519 it would need more."""
        signed = dkim.DKIM(content[content.index(b"DKIM-Signature: ") :])
        algorithms = [re.search(rb"\ba=([a-z0-9-]+)", value)[1] for name, value in signed.headers if name == _SIGNATURE]
        assert sorted(algorithms) == [b"ed25519-sha256", b"rsa-sha256"]
        at = algorithms.index(b"rsa-sha256")
        assert signed.verify(idx=at, dnsfunc=lambda name, timeout=5: self._keys.get(name)), content


def letter(sender: str, to: str, mark: str, body: bytes = b"Hello.\r\n", header: str = "") -> bytes:
    """A whole message with `mark` in its Subject and Message-ID."""
    lines = (
        f"From: {sender}\r\nTo: {to}\r\nDate: Mon, 3 Mar 2025 10:00:00 +0300\r\n"
        f"Message-ID: <{mark}@interop.example>\r\nSubject: {mark}\r\n{header}\r\n"
    )
    return lines.encode() + body


def slug(request: pytest.FixtureRequest) -> str:
    """The test's own name, for an account and a message."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")


def read_back(content: bytes, original: bytes) -> bytes:
    """What stands before `original`, which must be there byte for byte."""
    assert content.endswith(original), content[:3000]
    return content.removesuffix(original)


def report_of(content: bytes) -> tuple[EmailMessage, list[dict[str, str]]]:
    """A delivery report, and the fields about each recipient in it."""
    message = message_from_bytes(content, policy=policy.default)
    assert message.get("Return-Path", "<>") == "<>", content  # OpenSMTPD writes none
    assert message.get_content_type() == "multipart/report", content
    parts = [part for part in message.walk() if part.get_content_type() == "message/delivery-status"]
    groups = [dict(group.items()) for group in parts[0].get_payload()]
    return message, groups


class Greylist:
    """Postfix's question about a recipient, answered: the first time to come again, then that nothing is wrong."""

    def __init__(self) -> None:
        self.asked = 0

        class Answer(socketserver.StreamRequestHandler):
            def handle(answer) -> None:
                with suppress(ConnectionError):
                    for line in answer.rfile:
                        if line == b"\n":
                            self.asked += 1
                            answer.wfile.write(_COME_AGAIN if self.asked == 1 else _NOTHING_WRONG)

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Answer)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True)

    def __enter__(self) -> "Greylist":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE_S)
        self._server.server_close()


_COME_AGAIN: Final = b"action=450 4.7.1 Greylisted\n\n"
_NOTHING_WRONG: Final = b"action=DUNNO\n\n"

_MAIN_CF: Final = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.postfix.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
disable_dns_lookups = yes
smtputf8_enable = yes
virtual_mailbox_domains = postfix.test strict.postfix.test clear.postfix.test old.postfix.test
 broken.postfix.test impostor.postfix.test strict-clear.postfix.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{
 {{ bert@postfix.test = bert/ }} {{ carl@postfix.test = carl/ }} {{ gray@postfix.test = gray/ }}
 {{ берт@postfix.test = bert/ }} {{ bert@strict.postfix.test = bert/ }} {{ bert@clear.postfix.test = bert/ }}
 {{ bert@old.postfix.test = bert/ }} {{ bert@broken.postfix.test = bert/ }} {{ bert@impostor.postfix.test = bert/ }}
 {{ bert@strict-clear.postfix.test = bert/ }} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
transport_maps = inline:{{ pochta.test=smtp:[127.0.0.1]:{our_port} }}
smtpd_recipient_restrictions =
 check_recipient_access inline:{{ gray@postfix.test=greylist }}, permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_restriction_classes = greylist
greylist = check_policy_service inet:127.0.0.1:{policy_port}
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/certificate.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtp_tls_security_level = may
smtp_tls_policy_maps = inline:{{ {{ [127.0.0.1]:{our_port} = verify match=mx.pochta.test }} }}
smtp_tls_CAfile = {folder}/ours.pem
smtp_tls_loglevel = 1
"""

_MASTER_CF: Final = """\
127.0.0.1:{plain} inet n - n - - smtpd
127.0.0.1:{clear} inet n - n - - smtpd
    -o smtpd_tls_security_level=none
127.0.0.1:{broken} inet n - n - - smtpd
    -o smtpd_tls_protocols=TLSv1
127.0.0.1:{old} inet n - n - - smtpd
    -o smtpd_discard_ehlo_keywords=pipelining,chunking,8bitmime,dsn,smtputf8,size
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

_ETC: Final = {
    "passwd": (
        "root:x:0:0::/root:/bin/sh\n"
        f"opensmtpd:x:{_SMTPD_USER}:{_SMTPD_USER}::/var/lib/opensmtpd/empty:/bin/false\n"
        f"opensmtpq:x:{_SMTPD_USER + 1}:{_SMTPD_USER + 1}::/var/lib/opensmtpd/empty:/bin/false\n"
        f"vmail:x:{_USER}:{_USER}::/mail:/bin/sh\n"
    ),
    "group": (f"root:x:0:\nopensmtpd:x:{_SMTPD_USER}:\nopensmtpq:x:{_SMTPD_USER + 1}:\nvmail:x:{_USER}:\n"),
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": f"{HOST} localhost {OUR_HOST}\n",
    "resolv.conf": f"nameserver {HOST}\n",
}

_SMTPD_CONF: Final = """\
pki mx.opensmtpd.test cert "/etc/certificate.pem"
pki mx.opensmtpd.test key "/etc/key.pem"
table users {{ "bert" = "vmail", "carl" = "vmail" }}
table domains {{ "opensmtpd.test", "*.opensmtpd.test" }}
listen on 127.0.0.1 port {plain} tls pki mx.opensmtpd.test hostname mx.opensmtpd.test
listen on 127.0.0.1 port {clear} hostname mx.opensmtpd.test
action "in" maildir "/mail/%{{dest.user}}" virtual <users>
action "out" relay host smtp+tls://mx.pochta.test:{our_port}
match from any for domain <domains> action "in"
match from any for any action "out"
"""
