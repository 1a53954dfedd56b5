"""Which settings exist, their defaults, bounds and the reason for each (docs/settings.md is made of it)."""

import os
import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from pochta.config.sign_in import Auth, Oauth
from pochta.config.transfer import Checks, Dns, Outbound, Queue, Route, Sending

KIB: Final = 1024
MIB: Final = 1024 * KIB
PIB: Final = 1024**3 * MIB  # more than a machine has: bounds that only keep slips of the keyboard out
DAY_S: Final = 86_400

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})\Z")


class ListenerProtocol(StrEnum):
    """What a listener speaks."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    IMAP = "imap"
    POP3 = "pop3"
    LMTP = "lmtp"
    METRICS = "metrics"


class BareNewline(StrEnum):
    """What becomes of a message with a CR or LF that is not part of a CRLF."""

    REFUSE = "refuse"
    NORMALISE = "normalise"


class ListenerTls(StrEnum):
    """How a listener uses TLS: never, when the peer asks, or from the first byte."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port to listen on; repeat the table for each."""

    protocol: Annotated[ListenerProtocol, Meta(description="What is spoken on this port.")]
    address: Annotated[
        str,
        Meta(
            description="IP address and port: `127.0.0.1:2525`, `[::1]:2525`, or `*:25` for every address of the"
            " machine, IPv4 and IPv6. Port 0 lets the system choose one."
        ),
    ]
    tls: Annotated[
        ListenerTls,
        Meta(description="`none`, `starttls` (the peer may ask for it), or `implicit` (from the first byte)."),
    ] = ListenerTls.NONE
    allow_plaintext_auth: Annotated[
        bool,
        Meta(description="Accept passwords without TLS. Only on a loopback address: elsewhere others could read them."),
    ] = False

    proxy_from: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses and networks of proxies in front (HAProxy) that tell the client's address by the"
            " PROXY protocol, version 1 or 2. From them it is required; nobody else is believed."
        ),
    ] = ()

    @property
    def host(self) -> str:
        """The IP address, without brackets, or `*`."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port; 0 when the system chooses."""
        return split_address(self.address)[1]


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The certificate that every listener shows."""

    certificate: Annotated[
        Path, Meta(description="PEM file with the certificate, followed by its chain; relative to this file.")
    ] = Path("tls/certificate.pem")
    key: Annotated[
        Path, Meta(description="PEM file with its private key, without passphrase; relative to this file.")
    ] = Path("tls/key.pem")
    client_ca: Annotated[
        Path | None,
        Meta(
            description="PEM file with the authorities that give users certificates. Where users sign in, clients are"
            " then asked for one, and who shows a mail address in it (subjectAltName) may sign in by EXTERNAL. A"
            " client that shows a certificate of others is not let in. Relative to this file."
        ),
    ] = None


class Smtp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How mail is taken in, on every SMTP, submission and LMTP port."""

    bare_newline: Annotated[
        BareNewline,
        Meta(
            description="A message with a CR or LF of its own: `refuse` it, or `normalise` a bare LF to CRLF (a bare"
            " CR is refused all the same). Neither lets it end the message, which is how other servers let a second"
            " message be smuggled in."
        ),
    ] = BareNewline.REFUSE
    bare_newline_exempt: Annotated[
        tuple[str, ...],
        Meta(
            description='Addresses and networks (`"192.0.2.7"`, `"10.0.0.0/8"`) whose messages are normalised'
            " nevertheless: scanners and scripts that cannot be mended."
        ),
    ] = ()


class Imap(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How IMAP is served."""

    unauthenticate: Annotated[
        bool,
        Meta(
            description="Whether a client may sign out and let another user sign in on the same connection (RFC 8437,"
            " UNAUTHENTICATE), as proxies and webmail do. RFC 8437 §8: what nobody needs can be turned off."
        ),
    ] = True


class Pop3(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How POP3 is served."""

    exclusive: Annotated[
        bool,
        Meta(
            description="One session of an account at a time, as RFC 1939 §4 has it: a second one is told [IN-USE]."
            " Without it they work side by side, each on the list it began with, and a client that was cut off is"
            " not kept out."
        ),
    ] = False


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one peer, one worker or the whole server may use."""

    message_size_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=2**31 - 1,
            description="Largest message accepted. 50 MiB carries a 36 MB attachment in base64, above what the large"
            " providers send (25 to 35 MB). RFC 5321 §4.5.3.1.7: never under 64 KiB.",
        ),
    ] = 50 * MIB
    imap_message_limit: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Messages that one IMAP command touches at most (RFC 9738, MESSAGELIMIT); 0 for no limit, and"
            " then nothing is said of one. Clients that do not know the extension see the newest messages alone. 1000"
            " is the least that RFC 9738 §3 recommends.",
        ),
    ] = 0
    recipients: Annotated[
        int,
        Meta(
            ge=100,
            le=100_000,
            description="Recipients of one message. RFC 5321 §4.5.3.1.8: never under 100; 1000 is Postfix's default.",
        ),
    ] = 1000
    hops: Annotated[
        int,
        Meta(
            ge=100,
            le=1000,
            description="Received fields above which a message is taken to run in a circle."
            " RFC 5321 §6.3: never under 100.",
        ),
    ] = 100
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections, all workers together; each worker takes an equal share."
            " 10000 idle TLS connections need about 0.4 GB.",
        ),
    ] = 10_000
    connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections from one IPv4 address or one IPv6 /64, counted by each worker; loopback is"
            " exempt. 50 serves an office of ten people with five IMAP connections each behind one address.",
        ),
    ] = 50
    connections_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="New connections a minute from one IPv4 address or one IPv6 /64, counted by each worker;"
            " 0: no limit; loopback is exempt. 300 serves a large provider's busiest server and an office behind one"
            " address.",
        ),
    ] = 300
    command_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long SMTP waits for the next command. RFC 5321 §4.5.3.2.7: at least 5 minutes.",
        ),
    ] = 300
    data_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long SMTP waits for the next block of a message; starts again with each block."
            " RFC 5321 §4.5.3.2.5 gives a sender 3 minutes per block; 5 leave room for one retransmission.",
        ),
    ] = 300
    login_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long IMAP and POP3 wait for a peer that has not signed in. A person who types the classic"
            " dialogue by hand needs most of a minute; RFC 9051 §5.4 bounds only the time after sign-in.",
        ),
    ] = 60
    idle_timeout_s: Annotated[
        int,
        Meta(
            ge=1800,
            le=30 * DAY_S,
            description="How long IMAP and POP3 wait for a peer that has signed in. RFC 9051 §5.4: at least 30 minutes;"
            " one minute more spares clients that renew IDLE at exactly 30.",
        ),
    ] = 1860
    write_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long a peer may leave our output unread before it is dropped. Two minutes outlast a"
            " change of network.",
        ),
    ] = 120
    min_free_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=PIB,
            description="Free space under data_dir below which no new mail is taken (452). 512 MiB is ten of the"
            " largest messages, and room to work for the store's own log.",
        ),
    ] = 512 * MIB
    spool_memory_bytes: Annotated[
        int,
        Meta(
            ge=MIB,
            le=PIB,
            description="Messages being received that a worker keeps in memory; above it, and above 1 MiB per message,"
            " they go to disk. 64 MiB is 64 messages at once.",
        ),
    ] = 64 * MIB
    view_memory_bytes: Annotated[
        int,
        Meta(
            ge=MIB,
            le=PIB,
            description="Views of selected mailboxes that a worker keeps, least used dropped first. A message takes"
            " 12 bytes, and 100 with the lines that were made of it, so 128 MiB hold at least 1.3 million.",
        ),
    ] = 128 * MIB
    retention_s: Annotated[
        int,
        Meta(
            ge=3600,
            le=3650 * DAY_S,
            description="How long removed messages are kept for undelete and for peers that still see them. Seven days"
            " cover a week's holiday; never under 1 hour, so that no open session loses bytes.",
        ),
    ] = 7 * DAY_S
    auth_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Sign-ins that wait in a worker for a password check; more are told to try later. Two threads"
            " check 80 a second, so 256 wait about 3 seconds.",
        ),
    ] = 256
    auth_failures_per_connection: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Failed sign-ins after which a connection is closed. Three typing errors, and two more.",
        ),
    ] = 5


def default_workers() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))  # what a container or taskset leaves us
    return os.cpu_count() or 1


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings; paths are absolute once `load` has returned them."""

    hostname: Annotated[
        str,
        Meta(description="The server's full name as the world knows it: greeting, Received, Message-ID, certificate."),
    ]
    postmaster: Annotated[
        str | None,
        Meta(
            description="Address that gets the mail for postmaster at every domain and for `<postmaster>`, where no"
            " account or alias of that name exists (RFC 5321 §4.5.1)."
        ),
    ] = None
    administrators: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses of the accounts that may change what is the server's over IMAP: anybody's quota"
            " (SETQUOTA), annotations of the server that all see (SETMETADATA)."
        ),
    ] = ()
    data_dir: Annotated[Path, Meta(description="Where everything is kept; relative to this file.")] = Path("data")
    workers: Annotated[
        int,
        Meta(
            ge=1, le=1024, description="Worker processes. Any worker serves any account; more than cores gain nothing."
        ),
    ] = field(default_factory=default_workers)
    user: Annotated[
        str | None,
        Meta(
            description="System user to become once the ports are open. It must own data_dir and be able to"
            " read the key."
        ),
    ] = None
    tls: Tls = Tls()
    smtp: Smtp = Smtp()
    imap: Imap = Imap()
    pop3: Pop3 = Pop3()
    auth: Auth = Auth()
    oauth: Oauth = Oauth()
    dns: Dns = Dns()
    checks: Checks = Checks()
    sending: Sending = Sending()
    queue: Queue = Queue()
    outbound: Outbound = Outbound()
    routes: tuple[Route, ...] = field(default=(), name="route")
    listeners: tuple[Listener, ...] = field(default=(), name="listener")
    limits: Limits = Limits()

    @property
    def uses_tls(self) -> bool:
        """Whether any listener needs the certificate."""
        return any(one.tls is not ListenerTls.NONE for one in self.listeners)


def split_address(address: str) -> tuple[str, int]:
    """Host (an IP address without brackets, or `*`) and port of `host:port`.

    Raises: ValueError with the reason; the writer of the settings acts.
    """
    match = _ADDRESS.match(address)
    if match is None:
        raise ValueError('is not an address and a port; write it as "127.0.0.1:25", "[::1]:25" or "*:25"')
    v6, other, digits = match.groups()
    port = int(digits)
    if port > 65535:
        raise ValueError(f"has port {port}; ports end at 65535")
    if other == "*":
        return "*", port
    try:
        parsed = IPv6Address(v6) if v6 is not None else IPv4Address(other)
    except ValueError:
        hint = ' (for this machine alone: "127.0.0.1")' if other == "localhost" else ""
        raise ValueError(
            f'names "{v6 or other}", which is not an IP address{hint}; write one, or "*" for all'
        ) from None
    return str(parsed), port


def is_loopback(host: str) -> bool:
    """Whether an IP address in text (or `*`) can only be reached from this machine."""
    return host != "*" and ip_address(host).is_loopback


def fields_of(struct: type[Struct]) -> dict[str, tuple[Any, str]]:  # Any: a type form
    """Key in the file to its type and its attribute, in order."""
    hints = get_type_hints(struct, include_extras=True)
    return {one.encode_name: (hints[one.name], one.name) for one in msgspec.structs.fields(struct)}


def struct_of(hint: Any) -> type[Struct] | None:  # Any: a type form
    """The table that a key of this type holds, or holds a list of; None: a plain value."""
    for one in (hint, *get_args(hint)):
        if isinstance(one, type) and issubclass(one, Struct):
            return one
    return None
