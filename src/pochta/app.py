"""The composition root of a worker: builds the parts, opens the listeners, drains, closes."""

import asyncio
import gc
import os
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pochta import log, transfer
from pochta.accounts import passwords
from pochta.accounts.auth import Authenticator
from pochta.accounts.key_rotation import KeyRotation
from pochta.accounts.sign_in import SignIns
from pochta.config import BareNewline, Listener, ListenerProtocol, ListenerTls, Settings
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Submitter
from pochta.dns import Resolver
from pochta.errors import Refusal, SetupError, TryLater
from pochta.index.apart import IndexProcess
from pochta.index.feed import Indexer
from pochta.index.searcher import Searcher
from pochta.net.accept import Acceptor, ConnectionLimits
from pochta.net.connection import Connection, report_bug
from pochta.net.fetch import Fetcher
from pochta.net.listen import BoundListener, connections_per_worker
from pochta.net.tls import LiveContext, descriptor_path
from pochta.proto.address import AddressError, address_key
from pochta.proto.smtp.limits import SmtpLimits
from pochta.queue.runner import Runner
from pochta.queue.session import SessionLimits
from pochta.servers.imap.connection import ImapConnection, ImapContext
from pochta.servers.imap.views import Views
from pochta.servers.metrics import MetricsConnection, MetricsContext
from pochta.servers.pop3.connection import Pop3Connection, Pop3Context
from pochta.servers.pop3.lock import ExclusiveLocks
from pochta.servers.signed_in import SignedIn
from pochta.servers.smtp.connection import SmtpConnection
from pochta.servers.smtp.context import Checks, Role, SmtpContext
from pochta.status.figures import IndexLagFigures
from pochta.status.worker import Sources, StatusSocket
from pochta.store import changes, leases
from pochta.store.checkpoint import Checkpointer
from pochta.store.hints import ANYTHING
from pochta.store.leases import Fence, LeaseHolder
from pochta.store.shares import Share
from pochta.store.store import Store
from pochta.store.sweep import Sweeper
from pochta.store.tx import Hint

DRAIN_S: Final = 5.0  # for commands and messages under way
CUT_S: Final = 2.0  # for what is left to hear that it is cut off; the supervisor kills after 9
KEEP_ALIVE_S: Final = 120.0  # what idling clients hear; home routers forget a silent connection after about 5 minutes
ACCOUNTS_A_TURN: Final = 200  # 3 us each
TRANSACTIONS_MAX: Final = 10_000  # of one SMTP connection: an hour of a busy list server
LAG_CHECK_S: Final = 0.1
LAG_BREACH_S: Final = 0.010  # INV-12

_REFUSALS: Final = {
    ListenerProtocol.SMTP: b"421 4.3.2 Too many connections; come again in a moment\r\n",
    ListenerProtocol.SUBMISSION: b"421 4.3.2 Too many connections; come again in a moment\r\n",
    ListenerProtocol.LMTP: b"421 4.3.2 Too many connections; come again in a moment\r\n",
    ListenerProtocol.POP3: b"-ERR [SYS/TEMP] Too many connections; come again in a moment\r\n",
    ListenerProtocol.IMAP: b"* BYE Too many connections\r\n",
}


def _keys_of(addresses: Sequence[str]) -> frozenset[tuple[str, str]]:
    """What the addresses of the setting `administrators` are compared by.

    Raises:
        SetupError: one is no address.
    """
    try:
        return frozenset(address_key(one) for one in addresses)
    except AddressError as error:
        raise SetupError(f"administrators: not an address ({error}); write it as admin@example.org") from None


_ROLES: Final = {
    ListenerProtocol.SMTP: Role.TRANSFER,
    ListenerProtocol.SUBMISSION: Role.SUBMISSION,
    ListenerProtocol.LMTP: Role.LMTP,
}

_SIGN_IN_PROTOCOLS: Final = frozenset({ListenerProtocol.SUBMISSION, ListenerProtocol.IMAP, ListenerProtocol.POP3})


class App:
    """One worker's whole server. Make it inside the event loop; `start`, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[BoundListener],
        *,
        index: int = 0,
        password_cost: passwords.Cost = passwords.DEFAULT_COST,
        on_death: Callable[[BaseException], None] = report_bug,
        resolver: Resolver | None = None,
        session_limits: SessionLimits | None = None,
        feeds_index_apart: bool = False,
    ) -> None:
        self.settings = settings
        self._feeds_index_apart = feeds_index_apart
        self.index = index
        self.counters: Counter[str] = Counter()
        limits = settings.limits
        self.store = Store(settings.data_dir, min_free_bytes=limits.min_free_bytes)
        self.views = Views(self.store, memory_limit_bytes=limits.view_memory_bytes)
        self.intake = Intake(self.store.blobs, memory_limit_bytes=limits.spool_memory_bytes)
        self.searcher = Searcher(settings.data_dir)
        self.indexer: Indexer | IndexProcess | None = None  # while this worker does the background work
        self.authenticator = Authenticator(self.store, queue_limit=limits.auth_queue, cost=password_cost)
        self._fetcher = None if settings.oauth.issuer is None else Fetcher(settings.oauth.ca_file)
        self.sign_ins = _sign_ins(settings, self.authenticator, self._fetcher)
        self.signed_in = SignedIn(self.store)
        self.imap_connections: set[ImapConnection] = set()
        self.watching: defaultdict[int, set[ImapConnection]] = defaultdict(set)
        self.smtp_connections: set[SmtpConnection] = set()
        self.metrics_connections: set[MetricsConnection] = set()
        self.pop3_connections: set[Pop3Connection] = set()
        self.pop3_updates: set[asyncio.Task[Refusal | TryLater | None]] = set()
        self.pop3_locks = ExclusiveLocks(self.store) if settings.pop3.exclusive else None
        self.loop_lag = LoopLag()
        self._may_have_missed = asyncio.Event()
        self.background = LeaseHolder(self.store, leases.BACKGROUND, self._work_in_background, on_error=report_bug)
        self._own_resolver = transfer.resolver_of(settings)
        self.resolver = resolver or self._own_resolver
        self._share = Share(index, settings.workers)
        self.queue = LeaseHolder(self.store, self._share.lease, self._run_queue, on_error=report_bug)
        self.runner: Runner
        self.submitter: Submitter
        self._session_limits = session_limits
        self._routes = transfer.routes_of(settings)
        self._listeners = listeners
        self._on_death = on_death
        self._acceptors: list[Acceptor] = []
        self._status: StatusSocket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._live_tls, self._users_tls = _tls(settings)

    async def start(self) -> None:
        """Accept connections from now on."""
        self.store.on_death = self._on_death
        self.store.start()
        self.store.subscribe(self.signed_in.hear)
        self.store.subscribe(self._tell_watching)
        await self._make_queue()
        limits = self.settings.limits
        counts = ConnectionLimits(
            connections_per_worker(limits, self.settings.workers),
            limits.connections_per_address,
            rate_per_minute=limits.connections_per_minute or None,
        )
        for one in self._listeners:
            acceptor = Acceptor(
                self._timed(self._factory(one.config)),
                counts,
                tls=self._tls_of(one.config) if one.config.tls is ListenerTls.IMPLICIT else None,
                refusal=_REFUSALS.get(one.config.protocol, b""),
                proxy_networks=tuple(ip_network(network, strict=False) for network in one.config.proxy_from),
            )
            await acceptor.start(one.socket)
            self._acceptors.append(acceptor)
        self._status = StatusSocket(self.settings.data_dir / "run", self._status_sources())
        self._status.start()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self.signed_in.run(), name="signed in"))
        self._tasks[-1].add_done_callback(self._tell_death)
        self._tasks.append(loop.create_task(self._keep_alive(), name="keep alive"))
        self._tasks.append(loop.create_task(self._make_up(), name="make up for lost hints"))
        self._tasks.append(loop.create_task(self.loop_lag.watch(), name="loop lag"))
        self._tasks.append(loop.create_task(self.background.run(), name="background"))
        self._sending = loop.create_task(self.queue.run(), name="queue")
        if self.pop3_locks is not None:
            self._tasks.append(loop.create_task(self.pop3_locks.run(), name="pop3 locks"))
            self._tasks[-1].add_done_callback(self._tell_death)

    async def _make_queue(self) -> None:
        settings = self.settings
        self.submitter = await transfer.submitter_of(settings, self.store, self._routes)
        self.runner = transfer.runner_of(
            settings,
            self.store,
            self.intake,
            self.submitter,
            routes=self._routes,
            resolver=self.resolver,
            is_held=self.queue.is_held,
            share=self._share,
            session_limits=self._session_limits,
        )
        self.store.subscribe(self.runner.hear)

    async def _run_queue(self, fence: Fence) -> None:
        await self.runner.run(fence)

    def _tell_death(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_death(error)

    def use_certificate(self, certificate: Path, key: Path) -> None:
        """Show this pair in every handshake that begins from now on; open connections stay as they are.

        Raises: SetupError when they are no pair; the one before stays.
        """
        for live in (self._live_tls, self._users_tls):
            if live is not None:
                live.use(certificate, key)

    def _tls_of(self, listener: Listener) -> ssl.SSLContext | None:
        # Other servers show certificates that they have for other ends: they are not asked for any.
        live = self._users_tls if listener.protocol in _SIGN_IN_PROTOCOLS else self._live_tls
        return None if live is None else live.context

    async def _work_in_background(self, fence: Fence) -> None:
        """What one worker does for all of them: checkpoints, the text index, removal of what is past its time."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._index(), name="text index")
            group.create_task(Checkpointer(self.settings.data_dir).run(), name="checkpoints")
            sweeper = Sweeper(self.store, fence=fence, retention_s=self.settings.limits.retention_s)
            group.create_task(sweeper.run(), name="sweeper")
            group.create_task(KeyRotation(self.store, self.resolver).run(), name="DKIM keys")

    async def _index(self) -> None:
        data_dir = self.settings.data_dir
        self.indexer = IndexProcess(data_dir) if self._feeds_index_apart else Indexer(self.store, data_dir)
        try:
            await self.indexer.run()
        finally:
            self.indexer = None

    def _index_lag(self) -> IndexLagFigures | None:
        lag = None if self.indexer is None else self.indexer.lag()
        return None if lag is None else IndexLagFigures(*lag)

    def _timed(self, factory: Callable[[], Connection]) -> Callable[[], Connection]:
        def make() -> Connection:
            made = factory()
            made.write_timeout_s = self.settings.limits.write_timeout_s
            return made

        return make

    def _factory(self, listener: Listener) -> Callable[[], Connection]:
        tls = self._tls_of(listener) if listener.tls is ListenerTls.STARTTLS else None
        if listener.protocol in _ROLES:
            smtp = self._smtp_context(_ROLES[listener.protocol], tls)
            return lambda: SmtpConnection(
                smtp, offers_starttls=tls is not None, allows_plaintext_auth=listener.allow_plaintext_auth
            )
        if listener.protocol is ListenerProtocol.METRICS:
            metrics = MetricsContext(data_dir=self.settings.data_dir, connections=self.metrics_connections)
            return lambda: MetricsConnection(metrics)
        allows = listener.allow_plaintext_auth
        if listener.protocol is ListenerProtocol.POP3:
            pop3 = self._pop3_context(tls)
            return lambda: Pop3Connection(pop3, offers_stls=tls is not None, allows_plaintext_auth=allows)
        imap = self._imap_context(tls)
        return lambda: ImapConnection(imap, offers_starttls=tls is not None, allows_plaintext_auth=allows)

    def _smtp_context(self, role: Role, tls: ssl.SSLContext | None) -> SmtpContext:
        settings, limits = self.settings, self.settings.limits
        return SmtpContext(
            role=role,
            sign_ins=self.sign_ins,
            signed_in=self.signed_in,
            auth_failures_max=limits.auth_failures_per_connection,
            normalises_newlines=settings.smtp.bare_newline is BareNewline.NORMALISE,
            newline_exempt=tuple(ip_network(one) for one in settings.smtp.bare_newline_exempt),
            hostname=self.settings.hostname,
            postmaster=self.settings.postmaster,
            store=self.store,
            intake=self.intake,
            submitter=self.submitter,
            checks=self._checks() if role is Role.TRANSFER else None,
            connections=self.smtp_connections,
            tls=tls,
            limits=SmtpLimits(
                max_message_bytes=limits.message_size_bytes,
                max_recipients=limits.recipients,
                max_transactions=TRANSACTIONS_MAX,
            ),
            hops_max=limits.hops,
            command_timeout_s=limits.command_timeout_s,
            data_timeout_s=limits.data_timeout_s,
            counters=self.counters,
        )

    def _checks(self) -> Checks | None:
        checks = self.settings.checks
        if not checks.enabled:
            return None
        return Checks(
            resolver=self.resolver,
            policy=transfer.policy_of(self.settings),
            blocklists=checks.blocklists,
            greylist_delay_s=checks.greylist_delay_s if checks.greylist else 0,
        )

    def _imap_context(self, tls: ssl.SSLContext | None) -> ImapContext:
        settings, limits = self.settings, self.settings.limits
        return ImapContext(
            hostname=self.settings.hostname,
            store=self.store,
            views=self.views,
            intake=self.intake,
            sign_ins=self.sign_ins,
            signed_in=self.signed_in,
            connections=self.imap_connections,
            watching=self.watching,
            tls=tls,
            message_size_bytes=limits.message_size_bytes,
            has_unauthenticate=settings.imap.unauthenticate,
            message_limit=limits.imap_message_limit,
            login_timeout_s=limits.login_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
            auth_failures_max=limits.auth_failures_per_connection,
            counters=self.counters,
            administrators=_keys_of(settings.administrators),
            administrator_uri=f"mailto:{quote(settings.postmaster or f'postmaster@{settings.hostname}', safe='@')}",
            index=self.searcher,
        )

    def _pop3_context(self, tls: ssl.SSLContext | None) -> Pop3Context:
        limits = self.settings.limits
        return Pop3Context(
            hostname=self.settings.hostname,
            store=self.store,
            sign_ins=self.sign_ins,
            signed_in=self.signed_in,
            connections=self.pop3_connections,
            updates=self.pop3_updates,
            locks=self.pop3_locks,
            tls=tls,
            login_timeout_s=limits.login_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
            auth_failures_max=limits.auth_failures_per_connection,
            counters=self.counters,
        )

    def _status_sources(self) -> Sources:
        return Sources(
            index=self.index,
            queue_lease=self._share.lease,
            min_free_bytes=self.settings.limits.min_free_bytes,
            store=self.store,
            views=self.views,
            spool=self.intake,
            counters=self.counters,
            loop_lag=self.loop_lag,
            index_lag=self._index_lag,
            ports=tuple(zip(self._listeners, self._acceptors, strict=True)),
        )

    def _tell_watching(self, hints: list[Hint]) -> None:
        for account_id in {hint.account_id for hint in hints if hint != ANYTHING}:
            self._tell_account(account_id)
        if ANYTHING in hints:
            self._may_have_missed.set()

    def _tell_account(self, account_id: int) -> None:
        for connection in tuple(self.watching.get(account_id, ())):
            connection.hear()

    async def _make_up(self) -> None:
        """Tell clients that wait for news (IDLE, NOTIFY) what no hint told.

        Under load this is asked for every second: only those whose account has changed are woken, and the accounts
        are looked at in slices (INV-12).
        """
        told: dict[int, int] = {}
        while True:
            await self._may_have_missed.wait()
            self._may_have_missed.clear()
            found: dict[int, int] = {}
            accounts = tuple(self.watching)
            for start in range(0, len(accounts), ACCOUNTS_A_TURN):
                part = accounts[start : start + ACCOUNTS_A_TURN]
                found.update(await self.store.read(0, changes.mod_seqs, part))
                for account_id in part:
                    if account_id not in found or told.get(account_id) != found[account_id]:
                        self._tell_account(account_id)
                await asyncio.sleep(0)
            told = found

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            # one may wait for news of many accounts
            for connection in {one for connections in self.watching.values() for one in connections}:
                connection.keep_alive()

    async def stop(self) -> None:
        """Accept no more, let commands under way end, close everything."""
        # Transactions under way come to their end meanwhile. Cancelled once, and waited for: a second time would cut
        # them off, and what the other server has taken by then would be sent again.
        self._sending.cancel()
        for acceptor in self._acceptors:
            acceptor.close()
        for imap in tuple(self.imap_connections):
            imap.stop()
        for pop3 in tuple(self.pop3_connections):
            pop3.stop()
        for smtp in tuple(self.smtp_connections):
            smtp.stop()
        for metrics in tuple(self.metrics_connections):
            metrics.stop()
        if not await self._drained(DRAIN_S):
            left = len(self.imap_connections) + len(self.smtp_connections) + len(self.pop3_connections)
            log.event("serve.drain.timeout", open=left)
            for smtp in tuple(self.smtp_connections):
                smtp.cut_off()
            if not await self._drained(CUT_S):
                for acceptor in self._acceptors:
                    acceptor.abort_all()
        await asyncio.gather(*self.pop3_updates, return_exceptions=True)  # QUITs whose peers did not wait
        await asyncio.gather(self._sending, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._status is not None:
            await self._status.close()
        await self._own_resolver.aclose()
        self.sign_ins.close()
        if self._fetcher is not None:
            self._fetcher.close()
        self.authenticator.close()
        self.searcher.close()
        await self.store.close()

    async def _drained(self, seconds: float) -> bool:
        """Whether every connection is gone within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                for acceptor in self._acceptors:
                    await acceptor.wait_empty()
        except TimeoutError:
            return False
        return True


def _tls(settings: Settings) -> tuple[LiveContext | None, LiveContext | None]:
    """TLS towards others, and where users sign in, who may do so by certificate."""
    if not settings.uses_tls:
        return None, None
    files = settings.tls
    plain = LiveContext(files.certificate, files.key)
    if files.client_ca is None:
        return plain, plain
    return plain, LiveContext(files.certificate, files.key, client_ca=files.client_ca)


def _sign_ins(settings: Settings, authenticator: Authenticator, fetcher: Fetcher | None) -> SignIns:
    """The ways of signing in that the settings ask for; what only some need is imported only then."""
    auth, oauth = settings.auth, settings.oauth
    tokens = kerberos = None
    if oauth.issuer is not None and oauth.audience is not None and fetcher is not None:
        from pochta.accounts.issuer import Issuer
        from pochta.accounts.tokens import TokenVerifier

        tokens = TokenVerifier(
            Issuer(oauth.issuer, fetcher.get),
            audience=oauth.audience,
            algorithms=oauth.algorithms,
            claim=oauth.claim,
            scope=oauth.scope or "",
        )
    if auth.keytab is not None:
        from pochta.accounts.kerberos import Kerberos

        kerberos = Kerberos(auth.keytab)
    return SignIns(
        authenticator,
        offers_scram=auth.scram_sha_256,
        offers_scram_plus=auth.scram_sha_256_plus,
        tokens=tokens,
        kerberos=kerberos,
    )


class LoopLag:
    """How late the event loop runs what is due: the worst since the start, and how often over LAG_BREACH_S."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.breaches = 0

    async def watch(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_CHECK_S
            await asyncio.sleep(LAG_CHECK_S)
            lag = loop.time() - due
            self.worst_s = max(self.worst_s, lag)
            self.breaches += lag > LAG_BREACH_S


def _die(error: BaseException) -> None:
    """Without its lane a worker serves nobody: the supervisor replaces it, and commits are all or nothing."""
    report_bug(error)
    os._exit(1)


async def run_worker(
    settings: Settings,
    index: int,
    listeners: Sequence[BoundListener],
    on_ready: Callable[[], None],
    stop: asyncio.Event,
    new_pairs: "asyncio.Queue[tuple[int, int]]",
) -> None:
    """Serve until `stop` is set; `on_ready` is called when every listener accepts.

    `new_pairs`: descriptors of certificate and key, newer than those of the settings.
    """
    app = App(settings, listeners, index=index, on_death=_die, feeds_index_apart=True)
    await app.start()
    # What was imported and built lives as long as the worker: a full collection (36 ms seen) need not walk it.
    gc.collect()
    gc.freeze()
    # What comes and goes with messages is freed by counting; looking for circles among it took 8 % of sending.
    gc.set_threshold(50_000, 20, 100)
    renewing = asyncio.get_running_loop().create_task(_renew(app, new_pairs), name="certificates")
    on_ready()
    await stop.wait()
    renewing.cancel()
    await app.stop()


async def _renew(app: App, new_pairs: "asyncio.Queue[tuple[int, int]]") -> None:
    """Take each certificate that the supervisor passes on, for ever."""
    while True:
        certificate, key = await new_pairs.get()
        try:
            app.use_certificate(descriptor_path(certificate), descriptor_path(key))
        except SetupError as error:  # the supervisor has tried the pair: descriptors or memory have run out
            log.event("tls.reload.refused", worker=app.index, error=error)
        else:
            log.event("tls.reloaded", worker=app.index)
        finally:
            os.close(certificate)
            os.close(key)
