"""A whole Pochta inside the test's process, for the tests of other people's programs and for our own.

    with pochta.testing.Server() as server:
        server.add_account("anna@example.org", "secret")
        smtplib.SMTP(server.host, server.smtp_port).sendmail(...)
        imaplib.IMAP4(server.host, server.imap_port).login("anna@example.org", "secret")

Real sockets on free loopback ports, a fresh store in a temporary folder, an event loop in a thread of its own. The
store is a real one; only passwords are hashed cheaply. A bug in the server, or a store that contradicts itself when the
server stops, raises at `stop`.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pochta import clock, log
from pochta.accounts import app_passwords, edit, passwords
from pochta.accounts.auth import SECRET_BYTES, SECRET_NAME
from pochta.app import App
from pochta.config import (
    Checks,
    Limits,
    Listener,
    ListenerProtocol,
    ListenerTls,
    Outbound,
    Settings,
    Tls,
)
from pochta.dns import Resolver
from pochta.log import Secret
from pochta.net import connection
from pochta.net.listen import BoundListener, bind_all
from pochta.net.tls import write_self_signed
from pochta.queue.session import SessionLimits
from pochta.store import check, setup, sign_ins
from pochta.store.invariants import Severity
from pochta.store.store import Store
from pochta.testing.resolver import ZoneResolver

CHEAP_COST: Final = passwords.Cost(memory_kib=8, passes=1)  # 20 us; the store is thrown away
START_TIMEOUT_S: Final = 30.0
HOST: Final = "127.0.0.1"

# Where each listener's port is told: by protocol, and whether its TLS is implicit
_PORTS: Final = {
    (ListenerProtocol.SMTP, False): "smtp_port",
    (ListenerProtocol.SUBMISSION, False): "submission_port",
    (ListenerProtocol.LMTP, False): "lmtp_port",
    (ListenerProtocol.IMAP, False): "imap_port",
    (ListenerProtocol.POP3, False): "pop3_port",
    (ListenerProtocol.SUBMISSION, True): "submissions_port",
    (ListenerProtocol.IMAP, True): "imaps_port",
    (ListenerProtocol.POP3, True): "pop3s_port",
}
_SIGN_IN: Final = (ListenerProtocol.SUBMISSION, ListenerProtocol.IMAP, ListenerProtocol.POP3)

T = TypeVar("T")


class _Ears:
    """Tells every server that runs of each event of the process, and the last one of each bug.

    Servers start and stop in any order: a hook of each, put back by each, would be one that has stopped.
    """

    def __init__(self) -> None:
        self._servers: tuple[Server, ...] = ()

    def add(self, server: "Server") -> None:
        if not self._servers:
            self._bug_hook_before, connection.on_bug = connection.on_bug, self._hear_bug
            self._sink_before = log.set_sink(self._hear_event)
        self._servers += (server,)

    def remove(self, server: "Server") -> None:
        if server not in self._servers:
            return
        self._servers = tuple(one for one in self._servers if one is not server)
        if not self._servers:
            connection.on_bug = self._bug_hook_before
            log.set_sink(self._sink_before)

    def _hear_event(self, line: str) -> None:
        for server in self._servers:
            server.events.append(line)

    def _hear_bug(self, error: BaseException) -> None:
        self._servers[-1].bugs.append(error)


_EARS: Final = _Ears()


class ServerBug(AssertionError):
    """The server met a bug of its own while it ran, or left a store that contradicts itself."""


class Server:
    """One server with the domain `example.org`; start it by `with`, or by `start` and `stop`.

    `smtp_port` takes mail from other servers, `submission_port` from users who sign in, `lmtp_port` from a mail system
    in front. `with_tls=True` adds STARTTLS on these ports and, for users, ports with implicit TLS (`imaps_port`,
    `pop3s_port`, `submissions_port`), with a self-signed certificate at `certificate`. `data_dir` keeps the store where
    you want it: a folder without one gets a new store.

    Nothing is asked of the world: `resolver` answers every question about names, by default that they do not exist, and
    mail for others waits. `checks` of incoming mail are off unless given. Several servers in one test have a `host`
    each (127.0.0.2, …) and share a `transfer_port`, so that MX records can name them. Any other keyword is a field of
    `config.Settings`: `limits=Limits(…)`, `queue=Queue(…)`.

    `events` are the log's lines of the whole process while this one runs.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        domain: str = "example.org",
        with_tls: bool = False,
        host: str = HOST,
        hostname: str = "localhost",
        transfer_port: int = 0,
        resolver: Resolver | None = None,
        proxy_from: tuple[str, ...] = (),
        session_limits: SessionLimits | None = None,
        **settings: Any,  # of `config.Settings`, each of its own type
    ) -> None:
        self.host = host
        self.hostname = hostname
        self.domain = domain
        self._transfer_port = transfer_port
        self._resolver = resolver or ZoneResolver()
        self._proxy_from = proxy_from
        self._session_limits = session_limits
        self._given = {
            "limits": Limits(min_free_bytes=0),
            "checks": Checks(enabled=False),
            "outbound": Outbound(loopback=True, port=transfer_port or 25),
            **settings,
        }
        self.smtp_port = self.submission_port = self.lmtp_port = self.imap_port = self.pop3_port = 0
        self.submissions_port = self.imaps_port = self.pop3s_port = 0
        self.events: list[str] = []
        self.app: App
        self._with_tls = with_tls
        self._own_dir = Path(tempfile.mkdtemp(prefix="pochta-")) if data_dir is None else None
        self.data_dir = (self._own_dir or data_dir or Path()) / "data"
        self.certificate = self.data_dir / "tls" / "certificate.pem"
        self.bugs: list[BaseException] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.stop(is_failing=kind is not None)

    def start(self) -> None:
        """Make the store if there is none, and serve.

        Raises:
            ServerBug: it did not start; what belongs to it is removed.
        """
        try:
            self._start()
        except BaseException:
            _EARS.remove(self)
            if self._own_dir is not None:
                shutil.rmtree(self._own_dir, ignore_errors=True)
            raise

    def _start(self) -> None:
        is_new = not (self.data_dir / "pochta.db").exists()
        if is_new:
            setup.create(self.data_dir, is_throwaway=True)
        setup.prepare(self.data_dir, is_throwaway=is_new)
        settings = self._settings()
        bound = bind_all(settings.listeners)
        for one in bound:
            setattr(self, _PORTS[one.config.protocol, one.config.tls is ListenerTls.IMPLICIT], one.address[1])
        _EARS.add(self)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings, bound, ready), name="pochta", daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT_S) or self._failure is not None:
            raise ServerBug("the server did not start") from self._failure
        if is_new:
            self._write(edit.add_domain, self.domain, None, int(clock.now_s()))

    def stop(self, *, is_failing: bool = False) -> None:
        """Stop serving, check the store, and remove it if it is ours.

        Raises:
            ServerBug: see the class; not when the test `is_failing` anyway.
        """
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)
        is_alive, self._thread = self._thread.is_alive(), None
        _EARS.remove(self)
        findings = [] if is_alive else [one for one in check.check(self.data_dir) if one.severity is Severity.ERROR]
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)
        if is_failing:
            return
        if self.bugs:
            raise ServerBug(f"the server met {len(self.bugs)} bugs; the first: {self.bugs[0]!r}") from self.bugs[0]
        if is_alive:
            raise ServerBug("the server did not stop")
        if findings:
            raise ServerBug(f"the store contradicts itself: {findings[0]}")

    def add_account(self, address: str, password: str, *, quota_bytes: int = 0) -> None:
        """Make an account; its domain must be the server's."""
        credential = passwords.hash_password(Secret(password), CHEAP_COST)
        self._write(edit.add_account, address, credential, quota_bytes, int(clock.now_s()))

    def set_password(self, address: str, password: str) -> None:
        """Give the account another password; its sessions end."""
        self._write(edit.set_credential, address, passwords.hash_password(Secret(password), CHEAP_COST))

    def add_app_password(self, address: str, *, scope: str = "mail") -> str:
        """Make an app password of the account, and tell it."""

        async def write(store: Store) -> str:
            now = int(clock.now_s())
            account = await store.read(0, edit.account, address)
            secret = await store.write(0, sign_ins.make_secret, SECRET_NAME, clock.token_bytes(SECRET_BYTES))
            password, made = app_passwords.make(secret, account.local_part)
            await store.write(0, app_passwords.add, address, "test", scope, made, now)
            return password.reveal()

        return self.run(write)

    def add_alias(self, address: str, targets: list[str]) -> None:
        """Make an alias."""
        self._write(edit.add_alias, address, targets, int(clock.now_s()))

    def run(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """`await work(store)` in the server's loop; for what no client can do."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(self.app.store), self._loop).result(START_TIMEOUT_S)

    def _write(self, fn: Callable[..., Any], *args: Any) -> None:  # Any: handed on to `Store.write`
        async def write(store: Store) -> None:
            await store.write(0, fn, *args)

        self.run(write)

    def _settings(self) -> Settings:
        tls = ListenerTls.STARTTLS if self._with_tls else ListenerTls.NONE
        listeners = [
            Listener(
                protocol=protocol,
                address=f"{self.host}:{self._transfer_port if protocol is ListenerProtocol.SMTP else 0}",
                tls=ListenerTls.IMPLICIT if is_implicit else tls,
                allow_plaintext_auth=protocol in _SIGN_IN and not is_implicit,
                proxy_from=self._proxy_from,
            )
            for protocol, is_implicit in _PORTS
            if self._with_tls or not is_implicit
        ]
        key = self.data_dir / "tls" / "key.pem"
        if self._with_tls and not self.certificate.exists():
            write_self_signed(self.certificate, key, hostname=self.hostname)
        return Settings(
            hostname=self.hostname,
            data_dir=self.data_dir,
            workers=1,
            tls=Tls(certificate=self.certificate, key=key),
            listeners=tuple(listeners),
            **self._given,
        )

    def _run(self, settings: Settings, bound: list[BoundListener], ready: threading.Event) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(settings, bound, ready))
        except BaseException as error:  # noqa: BLE001 - handed to the thread of the test
            self._failure = error
            self.bugs.append(error)
            ready.set()

    async def _serve(self, settings: Settings, bound: list[BoundListener], ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.app = App(
            settings, bound, password_cost=CHEAP_COST, resolver=self._resolver, session_limits=self._session_limits
        )
        await self.app.start()
        ready.set()
        await self._stop.wait()
        await self.app.stop()
        setup.finish(self.data_dir)
