"""What the types of the settings of mail between servers cannot say: addresses, networks, routes that contradict."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from pochta.config.schema import Settings, split_address
from pochta.config.transfer import OutboundTls, Route
from pochta.errors import SetupError

_ROUTE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DOMAIN: Final = re.compile(r"(?:\*\.)?[^\s@*:/\[\]]+|\*")
_SENDER: Final = re.compile(r"[^\s@*]+@[^\s@*:/]+")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def check_transfer(path: Path, settings: Settings) -> None:
    """Raise SetupError for the first setting that cannot be meant: one line with file, key and remedy."""
    for server in settings.dns.servers:
        try:
            host, port = split_address(server)
        except ValueError as error:
            raise SetupError(f'{path}: dns.servers: "{server}" {error}') from None
        if host == "*" or not port:
            raise SetupError(f'{path}: dns.servers: "{server}" is no place to ask; write it as "127.0.0.1:53"')
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
    names: set[str] = set()
    for number, route in enumerate(settings.routes, 1):
        _check_route(path, f"route {number}", route)
        if route.name in names:
            raise SetupError(f'{path}: route {number}: name "{route.name}" stands twice; give each its own')
        names.add(route.name)


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
