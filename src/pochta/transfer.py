"""What mail between servers needs, built of the settings: resolver, routes, checks, submitter, runner.

Only `app` and the commands call this; nothing here is decided twice.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from pochta import clock
from pochta.accounts.sending import SendingLimits
from pochta.config import Outbound, OutboundTls, Settings, split_address
from pochta.config import Route as RouteSetting
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Submitter, domain_of
from pochta.dns import DnsResolver, Resolver
from pochta.errors import SetupError
from pochta.log import Secret
from pochta.policy.evaluate import Obedience, Override, Policy
from pochta.proto.address import AddressError, parse_mailbox, to_a_labels
from pochta.queue.attempt import Attempts
from pochta.queue.content import Contents
from pochta.queue.late import LateDeliveries
from pochta.queue.reports import Reporter
from pochta.queue.route import Credentials, Route, Routes, RouteTls, Rule, destination_of, parse_host
from pochta.queue.runner import IsHeld, Runner
from pochta.queue.schedule import Schedule
from pochta.queue.session import SessionLimits
from pochta.queue.targets import OurSide
from pochta.store import sign_ins
from pochta.store.shares import WHOLE, Share
from pochta.store.store import Store

SRS_SECRET: Final = "srs"
SRS_SECRET_BYTES: Final = 32
RELAY_PORT: Final = 25
IMPLICIT_TLS_PORT: Final = 465
LMTP_PORT: Final = 24
PASSWORD_MAX_BYTES: Final = 4096  # of a password file: more is another file

_TLS: Final = {
    OutboundTls.REQUIRED: RouteTls.REQUIRED,
    OutboundTls.OPPORTUNISTIC: RouteTls.OPPORTUNISTIC,
    OutboundTls.NEVER: RouteTls.NEVER,
}


def resolver_of(settings: Settings) -> DnsResolver:
    """Who answers questions about names."""
    servers = [split_address(one) for one in settings.dns.servers]
    return DnsResolver(servers, timeout_s=settings.dns.timeout_s)


def routes_of(settings: Settings) -> Routes:
    """Every way out.

    Raises:
        SetupError: two routes are for the same mail, a host is none, a password cannot be read.
    """
    outbound = settings.outbound
    otherwise = Route(
        name="mx", port=outbound.port, tls=_TLS[outbound.tls], source_addresses=_addresses(outbound.source_addresses)
    )
    rules = [Rule(_route(one, outbound), one.recipients, one.senders) for one in settings.routes]
    return Routes(rules, otherwise=otherwise)


def _route(one: RouteSetting, outbound: Outbound) -> Route:
    port = IMPLICIT_TLS_PORT if one.implicit_tls else LMTP_PORT if one.lmtp else RELAY_PORT
    credentials = None
    if one.username is not None and one.password_file is not None:
        credentials = Credentials(one.username, _password(one.name, one.password_file))
    return Route(
        name=one.name,
        hosts=tuple(parse_host(host, port) for host in one.hosts),
        port=outbound.port,
        # a password goes to nobody whose name is not proved
        tls=RouteTls.REQUIRED if one.username is not None else _TLS[one.tls or outbound.tls],
        is_implicit_tls=one.implicit_tls,
        credentials=credentials,
        source_addresses=_addresses(one.source_addresses or outbound.source_addresses),
        is_lmtp=one.lmtp,
    )


def _addresses(texts: tuple[str, ...]) -> tuple[IPv4Address | IPv6Address, ...]:
    return tuple(map(ip_address, texts))


def _password(route: str, path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            text = file.read(PASSWORD_MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SetupError(f"{path}: the password of route {route} cannot be read ({reason})") from None
    lines = text.splitlines()
    if not lines or not lines[0]:
        raise SetupError(f"{path}: the password of route {route} is empty; write it into the first line")
    return Secret(lines[0])


def policy_of(settings: Settings) -> Policy:
    """What the checks of incoming mail lead to."""
    checks = settings.checks
    domains: dict[str, Override] = {}
    networks: dict[IPv4Network | IPv6Network, Override] = {}
    for word, override in (
        (checks.accept_from, Override.ACCEPT),
        (checks.junk_from, Override.JUNK),
        (checks.reject_from, Override.REJECT),
    ):
        for one in word:
            try:
                networks[ip_network(one, strict=False)] = override
            except ValueError:
                domains[to_a_labels(one.removeprefix("*."))] = override
    return Policy(
        authserv_id=settings.hostname,
        obedience=Obedience(checks.dmarc.value),
        rejects_spf_fail=checks.refuse_spf_fail,
        trusted_arc_sealers=frozenset(one.lower() for one in checks.trusted_arc_sealers),
        domains=domains,
        networks=networks,
    )


def limits_of(settings: Settings) -> SendingLimits:
    """What one account may send."""
    sending = settings.sending
    return SendingLimits(
        messages_per_hour=sending.messages_per_hour,
        messages_per_day=sending.messages_per_day,
        recipients_per_hour=sending.recipients_per_hour,
        recipients_per_day=sending.recipients_per_day,
        strangers_per_day=sending.strangers_per_day,
    )


def schedule_of(settings: Settings) -> Schedule:
    """When mail is tried again."""
    queue = settings.queue
    return Schedule(
        intervals_s=queue.retry_after_s,
        then_every_s=queue.then_every_s,
        delay_notice_s=queue.delay_notice_s,
        give_up_s=queue.give_up_s,
    )


async def submitter_of(settings: Settings, store: Store, routes: Routes) -> Submitter:
    """Takes mail for everybody; makes the secret of SRS when there is none yet."""
    secret = await store.read(0, sign_ins.secret, SRS_SECRET)
    if secret is None:
        secret = await store.write(0, sign_ins.make_secret, SRS_SECRET, clock.token_bytes(SRS_SECRET_BYTES))
    return Submitter(store=store, destination_of=Destinations(routes), srs_secret=secret, limits=limits_of(settings))


class Destinations:
    """Where mail queues: `destinations(recipient's domain, sender's address)`."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def __call__(self, domain: str, sender: str) -> str:
        try:
            local_part = parse_mailbox(sender).key[0] if sender else ""
        except AddressError:
            local_part = ""
        route = self._routes.find(domain, domain_of(sender) if sender else "", sender_local_part=local_part)
        return destination_of(route, domain)


def runner_of(
    settings: Settings,
    store: Store,
    intake: Intake,
    submitter: Submitter,
    *,
    routes: Routes,
    resolver: Resolver,
    is_held: IsHeld,
    share: Share = WHOLE,
    session_limits: SessionLimits | None = None,
) -> Runner:
    """Sends what is due in a share of the queue; to be run under its lease. Connections are parted equally."""
    outbound, schedule = settings.outbound, schedule_of(settings)
    attempts = Attempts(
        contents=Contents(store),
        routes=routes,
        resolver=resolver,
        hello_name=settings.hostname,
        own=_our_side(settings),
        ca_file=None if outbound.ca_file is None else str(outbound.ca_file),
        limits=session_limits or SessionLimits(),
    )
    return Runner(
        store,
        schedule=schedule,
        attempts=attempts,
        late=LateDeliveries(store, intake, submitter, schedule, postmaster=settings.postmaster),
        reporter=Reporter(
            store,
            intake,
            submitter,
            schedule,
            hostname=settings.hostname,
            postmaster=settings.postmaster,
            share=share,
        ),
        connections=max(1, settings.queue.connections // share.of),
        connections_per_destination=settings.queue.connections_per_destination,
        random=_random,
        is_held=is_held,
        share=share,
    )


def _our_side(settings: Settings) -> OurSide:
    """By what a mail exchanger that is ourselves is known."""
    outbound = settings.outbound
    addresses = frozenset(
        ip_address(one.host) for one in settings.listeners if one.host != "*" and one.protocol.value == "smtp"
    )
    return OurSide(
        names=frozenset({settings.hostname.lower()}),
        addresses=frozenset() if outbound.loopback else addresses,
        has_ipv6=outbound.ipv6,
        allows_loopback=outbound.loopback,
    )


def _random() -> float:
    return int.from_bytes(clock.token_bytes(4)) / 2**32
