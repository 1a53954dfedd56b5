"""What the types of the settings of mail between servers cannot say: addresses, networks, routes that contradict."""

import re
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path
from typing import Final

from pochta.config.schema import Settings, split_address
from pochta.config.transfer import DAY_S, OutboundTls, Queue, Route
from pochta.errors import SetupError

_ROUTE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DOMAIN: Final = re.compile(r"(?:\*\.)?[^\s@*:/\[\]]+|\*")
_SENDER: Final = re.compile(r"[^\s@*]+@[^\s@*:/]+")
_ZONE: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)+[A-Za-z0-9-]{1,63}\.?")
RETRY_MAX_S: Final = 30 * DAY_S
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def check_transfer(path: Path, settings: Settings) -> None:
    """Raise SetupError for the first setting that cannot be meant: one line with file, key and remedy."""
    for server in settings.dns.servers:
        try:
            host, port = split_address(server)
        except ValueError as error:
            raise SetupError(f'{path}: dns.servers: "{server}" {error}'.replace(":25", ":53")) from None
        if host == "*" or not port:
            raise SetupError(f'{path}: dns.servers: "{server}" is no place to ask; write it as "127.0.0.1:53"')
    _check_queue(path, settings.queue)
    checks = settings.checks
    for key in ("accept_from", "junk_from", "reject_from"):
        for one in getattr(checks, key):
            if not _is_network(one) and not _DOMAIN.fullmatch(one):
                raise SetupError(
                    f'{path}: checks.{key}: "{one}" is neither a network nor a domain; write it as "192.0.2.0/24" or'
                    ' "example.org"'
                )
    for number, listener in enumerate(settings.listeners, 1):
        for one in listener.proxy_from:
            if not _is_network(one):
                raise SetupError(
                    f'{path}: listener {number}: proxy_from: "{one}" is no network; write it as "192.0.2.7"'
                )
    _check_sources(path, "outbound.source_addresses", settings.outbound.source_addresses)
    for zone in checks.blocklists:
        if not _ZONE.fullmatch(zone):
            raise SetupError(f'{path}: checks.blocklists: "{zone}" is no zone; write it as "zen.example.org"')
    names: set[str] = set()
    taken: dict[tuple[str, str], str] = {}
    for number, route in enumerate(settings.routes, 1):
        _check_route(path, f"route {number}", route)
        if route.name in names:
            raise SetupError(f'{path}: route {number}: name "{route.name}" stands twice; give each its own')
        names.add(route.name)
        for pair in product(map(str.lower, route.recipients), map(str.lower, route.senders or ("*",))):
            if pair in taken:
                raise SetupError(
                    f"{path}: route {number}: mail to {pair[0]} from {pair[1]} already goes by route"
                    f' "{taken[pair]}"; give one of them other recipients or senders'
                )
            taken[pair] = route.name


def _check_queue(path: Path, queue: Queue) -> None:
    for wait_s in queue.retry_after_s:
        if not 1 <= wait_s <= RETRY_MAX_S:
            raise SetupError(
                f"{path}: queue.retry_after_s: {wait_s} is no wait between attempts; write 1 to {RETRY_MAX_S} seconds"
            )


def check_transfer_files(path: Path, settings: Settings) -> None:
    """Raise SetupError for the first file of these settings that cannot be read."""
    files = [(f"route {number}: password_file", one.password_file) for number, one in enumerate(settings.routes, 1)]
    for key, file in (*files, ("outbound.ca_file", settings.outbound.ca_file)):
        if file is None:
            continue
        try:
            with file.open("rb") as opened:
                is_empty = not opened.readline().strip()
        except OSError as error:
            raise SetupError(
                f"{path}: {key}: {file} cannot be read ({error.strerror}); make it, or name another file"
            ) from None
        if is_empty:
            raise SetupError(f"{path}: {key}: {file} begins with an empty line; write what it is for into the first")


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _check_sources(path: Path, key: str, addresses: tuple[str, ...]) -> None:
    versions = []
    for one in addresses:
        try:
            versions.append(ip_address(one).version)
        except ValueError:
            raise SetupError(f'{path}: {key}: "{one}" is not an IP address; write it as "192.0.2.7"') from None
    if len(set(versions)) < len(versions):
        raise SetupError(f"{path}: {key}: names two addresses of one family; leave one of each")


def _check_route(path: Path, where: str, route: Route) -> None:
    if not _ROUTE_NAME.fullmatch(route.name):
        raise SetupError(f'{path}: {where}: name "{route.name}" may hold letters, digits, "-" and "_" only')
    for one in route.recipients:
        if not _DOMAIN.fullmatch(one):
            raise SetupError(f'{path}: {where}: recipients: "{one}" is no domain; write "example.org" or "*"')
    for one in route.senders:
        if not _DOMAIN.fullmatch(one) and not _SENDER.fullmatch(one):
            raise SetupError(f'{path}: {where}: senders: "{one}" is neither address nor domain')
    for one in route.hosts:
        if not _HOST.fullmatch(one):
            raise SetupError(f'{path}: {where}: hosts: "{one}" is no host; write it as "relay.example.net:587"')
    _check_sources(path, f"{where}: source_addresses", route.source_addresses)
    if (route.lmtp or route.username is not None or route.implicit_tls) and not route.hosts:
        raise SetupError(f"{path}: {where}: lmtp, implicit_tls and username need hosts; name them")
    if (route.username is None) != (route.password_file is None):
        raise SetupError(f"{path}: {where}: username and password_file go together; write both")
    if route.username is not None and route.tls not in (None, OutboundTls.REQUIRED):
        raise SetupError(
            f'{path}: {where}: a password goes only to a server that proves its name; remove tls = "{route.tls}"'
        )
