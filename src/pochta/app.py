"""The composition root of a worker: builds the parts, opens the listeners, drains, closes."""

import asyncio
import gc
import os
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from pochta import log
from pochta.accounts import passwords
from pochta.accounts.auth import Authenticator
from pochta.config import Listener, ListenerProtocol, ListenerTls, Settings
from pochta.delivery.intake import Intake
from pochta.net.accept import Acceptor, ConnectionLimits
from pochta.net.connection import Connection, report_bug
from pochta.net.listen import BoundListener, connections_per_worker
from pochta.net.tls import server_context
from pochta.proto.smtp.limits import SmtpLimits
from pochta.servers.imap.connection import ImapConnection, ImapContext
from pochta.servers.imap.views import Views
from pochta.servers.metrics import MetricsConnection, MetricsContext
from pochta.servers.smtp import SmtpConnection, SmtpContext
from pochta.status.worker import Sources, StatusSocket
from pochta.store import changes, leases
from pochta.store.checkpoint import Checkpointer
from pochta.store.hints import ANYTHING
from pochta.store.leases import Fence, LeaseHolder
from pochta.store.store import Store
from pochta.store.sweep import Sweeper
from pochta.store.tx import Hint

DRAIN_S: Final = 5.0  # for commands and messages under way
CUT_S: Final = 2.0  # for what is left to hear that it is cut off; the supervisor kills after 9
KEEP_ALIVE_S: Final = 120.0  # what idling clients hear; home routers forget a silent connection after about 5 minutes
ACCOUNTS_A_TURN: Final = 200  # 3 us each
LAG_CHECK_S: Final = 0.1
LAG_BREACH_S: Final = 0.010  # INV-12

_REFUSALS: Final = {
    ListenerProtocol.SMTP: b"421 4.3.2 Too many connections; come again in a moment\r\n",
    ListenerProtocol.IMAP: b"* BYE Too many connections\r\n",
}


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
    ) -> None:
        self.settings = settings
        self.index = index
        self.counters: Counter[str] = Counter()
        limits = settings.limits
        self.store = Store(settings.data_dir, min_free_bytes=limits.min_free_bytes)
        self.views = Views(self.store, memory_limit_bytes=limits.view_memory_bytes)
        self.intake = Intake(self.store.blobs, memory_limit_bytes=limits.spool_memory_bytes)
        self.authenticator = Authenticator(self.store, queue_limit=limits.auth_queue, cost=password_cost)
        self.imap_connections: set[ImapConnection] = set()
        self.idling: defaultdict[int, set[ImapConnection]] = defaultdict(set)
        self.smtp_connections: set[SmtpConnection] = set()
        self.metrics_connections: set[MetricsConnection] = set()
        self.loop_lag = LoopLag()
        self._may_have_missed = asyncio.Event()
        self.background = LeaseHolder(self.store, leases.BACKGROUND, self._work_in_background, on_error=report_bug)
        self._listeners = listeners
        self._on_death = on_death
        self._acceptors: list[Acceptor] = []
        self._status: StatusSocket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tls = server_context(settings.tls.certificate, settings.tls.key) if settings.uses_tls else None

    async def start(self) -> None:
        """Accept connections from now on."""
        self.store.on_death = self._on_death
        self.store.start()
        self.store.subscribe(self._tell_idling)
        limits = self.settings.limits
        counts = ConnectionLimits(connections_per_worker(limits, self.settings.workers), limits.connections_per_address)
        for one in self._listeners:
            acceptor = Acceptor(
                self._timed(self._factory(one.config)),
                counts,
                tls=self._tls if one.config.tls is ListenerTls.IMPLICIT else None,
                refusal=_REFUSALS.get(one.config.protocol, b""),
            )
            await acceptor.start(one.socket)
            self._acceptors.append(acceptor)
        self._status = StatusSocket(self.settings.data_dir / "run", self._status_sources())
        self._status.start()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._keep_alive(), name="keep alive"))
        self._tasks.append(loop.create_task(self._make_up(), name="make up for lost hints"))
        self._tasks.append(loop.create_task(self.loop_lag.watch(), name="loop lag"))
        self._tasks.append(loop.create_task(self.background.run(), name="background"))

    async def _work_in_background(self, fence: Fence) -> None:
        """What one worker does for all of them: checkpoints, and removal of what is past its time."""
        async with asyncio.TaskGroup() as group:
            group.create_task(Checkpointer(self.settings.data_dir).run(), name="checkpoints")
            sweeper = Sweeper(self.store, fence=fence, retention_s=self.settings.limits.retention_s)
            group.create_task(sweeper.run(), name="sweeper")

    def _timed(self, factory: Callable[[], Connection]) -> Callable[[], Connection]:
        def make() -> Connection:
            made = factory()
            made.write_timeout_s = self.settings.limits.write_timeout_s
            return made

        return make

    def _factory(self, listener: Listener) -> Callable[[], Connection]:
        tls = self._tls if listener.tls is ListenerTls.STARTTLS else None
        if listener.protocol is ListenerProtocol.SMTP:
            smtp = self._smtp_context(tls)
            return lambda: SmtpConnection(smtp, offers_starttls=tls is not None)
        if listener.protocol is ListenerProtocol.METRICS:
            metrics = MetricsContext(data_dir=self.settings.data_dir, connections=self.metrics_connections)
            return lambda: MetricsConnection(metrics)
        imap = self._imap_context(tls)
        allows = listener.allow_plaintext_auth
        return lambda: ImapConnection(imap, offers_starttls=tls is not None, allows_plaintext_auth=allows)

    def _smtp_context(self, tls: ssl.SSLContext | None) -> SmtpContext:
        limits = self.settings.limits
        return SmtpContext(
            hostname=self.settings.hostname,
            postmaster=self.settings.postmaster,
            store=self.store,
            intake=self.intake,
            connections=self.smtp_connections,
            tls=tls,
            limits=SmtpLimits(max_message_bytes=limits.message_size_bytes, max_recipients=limits.recipients),
            hops_max=limits.hops,
            command_timeout_s=limits.command_timeout_s,
            data_timeout_s=limits.data_timeout_s,
            counters=self.counters,
        )

    def _imap_context(self, tls: ssl.SSLContext | None) -> ImapContext:
        limits = self.settings.limits
        return ImapContext(
            hostname=self.settings.hostname,
            store=self.store,
            views=self.views,
            intake=self.intake,
            authenticator=self.authenticator,
            connections=self.imap_connections,
            idling=self.idling,
            tls=tls,
            message_size_bytes=limits.message_size_bytes,
            login_timeout_s=limits.login_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
            auth_failures_max=limits.auth_failures_per_connection,
            counters=self.counters,
        )

    def _status_sources(self) -> Sources:
        return Sources(
            index=self.index,
            min_free_bytes=self.settings.limits.min_free_bytes,
            store=self.store,
            views=self.views,
            spool=self.intake,
            counters=self.counters,
            loop_lag=self.loop_lag,
            ports=tuple(zip(self._listeners, self._acceptors, strict=True)),
        )

    def _tell_idling(self, hints: list[Hint]) -> None:
        for account_id in {hint.account_id for hint in hints}:
            self._tell_account(account_id)
        if ANYTHING in hints:
            self._may_have_missed.set()

    def _tell_account(self, account_id: int) -> None:
        for connection in tuple(self.idling.get(account_id, ())):
            connection.hear()

    async def _make_up(self) -> None:
        """Tell idling clients what no hint told.

        Under load this is asked for every second: only those whose account has changed are woken, and the accounts
        are looked at in slices (INV-12).
        """
        told: dict[int, int] = {}
        while True:
            await self._may_have_missed.wait()
            self._may_have_missed.clear()
            found: dict[int, int] = {}
            accounts = tuple(self.idling)
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
            for connections in tuple(self.idling.values()):
                for connection in tuple(connections):
                    connection.keep_alive()

    async def stop(self) -> None:
        """Accept no more, let commands under way end, close everything."""
        for acceptor in self._acceptors:
            acceptor.close()
        for imap in tuple(self.imap_connections):
            imap.stop()
        for smtp in tuple(self.smtp_connections):
            smtp.stop()
        for metrics in tuple(self.metrics_connections):
            metrics.stop()
        if not await self._drained(DRAIN_S):
            log.event("serve.drain.timeout", open=len(self.imap_connections) + len(self.smtp_connections))
            for smtp in tuple(self.smtp_connections):
                smtp.cut_off()
            if not await self._drained(CUT_S):
                for acceptor in self._acceptors:
                    acceptor.abort_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._status is not None:
            await self._status.close()
        self.authenticator.close()
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
) -> None:
    """Serve until `stop` is set; `on_ready` is called when every listener accepts."""
    app = App(settings, listeners, index=index, on_death=_die)
    await app.start()
    # What was imported and built lives as long as the worker: a full collection (36 ms seen) need not walk it.
    gc.collect()
    gc.freeze()
    on_ready()
    await stop.wait()
    await app.stop()
