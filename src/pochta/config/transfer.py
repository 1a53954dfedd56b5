"""Settings of mail between servers: DNS, the queue, the ways out, checks of what comes in, limits of senders."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S


class OutboundTls(StrEnum):
    """How a connection to another server uses TLS."""

    REQUIRED = "required"
    OPPORTUNISTIC = "opportunistic"
    NEVER = "never"


class DmarcObedience(StrEnum):
    """How far the wishes of DMARC records are followed."""

    OBSERVE = "observe"
    JUNK = "junk"
    CAREFUL = "careful"
    STRICT = "strict"


class Dns(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How names are looked up."""

    servers: Annotated[
        tuple[str, ...],
        Meta(
            description='Resolvers to ask, as `"127.0.0.1:53"`; none: those of /etc/resolv.conf. One on this machine'
            " (unbound) is best: blocklists answer nobody who asks through a large public one."
        ),
    ] = ()
    timeout_s: Annotated[
        int,
        Meta(ge=1, le=60, description="How long one question to one server may take. 5 is what resolv.conf(5) has."),
    ] = 5


class Queue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When mail for other servers is tried, and how much at once."""

    retry_after_s: Annotated[
        tuple[int, ...],
        Meta(
            description="Waits before the second, third, … attempt. A server that cannot be reached at all is left"
            " alone for 1, 2, 5, 10, 15, then 30 minutes, whatever these say. One that greylists is passed after the"
            " second or third; RFC 5321 §4.5.4.1 wants 30 minutes between attempts in the long run."
        ),
    ] = (60, 300, 900, 1800, HOUR_S, 2 * HOUR_S, 4 * HOUR_S)
    then_every_s: Annotated[int, Meta(ge=60, le=7 * DAY_S, description="The wait before each attempt after those.")] = (
        6 * HOUR_S
    )
    delay_notice_s: Annotated[
        int, Meta(ge=60, le=30 * DAY_S, description="When the sender is told that a message is still waiting.")
    ] = 4 * HOUR_S
    give_up_s: Annotated[
        int,
        Meta(
            ge=HOUR_S,
            le=30 * DAY_S,
            description="When a message is returned to its sender. RFC 5321 §4.5.4.1: at least 4 to 5 days.",
        ),
    ] = 5 * DAY_S
    connections: Annotated[
        int, Meta(ge=1, le=10_000, description="Connections to other servers at once. Postfix has 100.")
    ] = 100
    connections_per_destination: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Connections to one destination at once. Large providers refuse more than 10 to 20 from an"
            " address they do not know.",
        ),
    ] = 10


class Outbound(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How other servers are spoken to, where no route says otherwise."""

    tls: Annotated[
        OutboundTls,
        Meta(
            description="`opportunistic`: TLS where the other server offers it, with any certificate, and the clear"
            " where the handshake fails; `required`: TLS with a certificate that proves the server's name, or the"
            " message waits; `never`."
        ),
    ] = OutboundTls.OPPORTUNISTIC
    source_addresses: Annotated[
        tuple[str, ...],
        Meta(description="Local addresses to connect from, at most one IPv4 and one IPv6 address; the system chooses."),
    ] = ()
    ipv6: Annotated[bool, Meta(description="Connect by IPv6 where the other server has it.")] = True
    port: Annotated[int, Meta(ge=1, le=65535, description="Where other servers listen; not 25 in trials only.")] = 25
    loopback: Annotated[
        bool,
        Meta(
            description="Send to a domain whose mail servers have addresses of this machine. Off, such a domain is a"
            " trick to make the server talk to itself; on for trials with several servers on one machine."
        ),
    ] = False
    ca_file: Annotated[
        Path | None,
        Meta(description='PEM file with the authorities that `tls = "required"` trusts instead of the system\'s.'),
    ] = None


class Route(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way for some mail; repeat the table for each. The most specific one is taken."""

    name: Annotated[str, Meta(description="What the queue and the log call it: letters, digits, `-`, `_`.")]
    recipients: Annotated[
        tuple[str, ...],
        Meta(description='Recipients\' domains: `"example.org"`, `"*.example.org"` (below it), `"*"` (all).'),
    ] = ("*",)
    senders: Annotated[
        tuple[str, ...],
        Meta(description='Only mail of these senders: addresses or domains, written as `recipients` or `"a@b.org"`.'),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description='Servers that take this mail instead of the domain\'s own: `"relay.example.net"`, its MX not'
            ' asked, `"relay.example.net:587"`, `"[192.0.2.1]:25"`. They are tried in this order; none: as DNS says.'
        ),
    ] = ()
    tls: Annotated[
        OutboundTls | None,
        Meta(description="As `outbound.tls`; none: as it says, and `required` where there is a username."),
    ] = None
    implicit_tls: Annotated[bool, Meta(description="TLS from the first byte (port 465).")] = False
    lmtp: Annotated[bool, Meta(description="The hosts speak LMTP.")] = False
    username: Annotated[
        str | None, Meta(description="To sign in at the hosts with, which must prove their names by a certificate.")
    ] = None
    password_file: Annotated[
        Path | None,
        Meta(
            description="File with the password alone in its first line, that `user` can read; relative to this file."
        ),
    ] = None
    source_addresses: Annotated[tuple[str, ...], Meta(description="As `outbound.source_addresses`.")] = ()


class Checks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of mail from other servers (port 25)."""

    enabled: Annotated[
        bool,
        Meta(
            description="Look at SPF, DKIM, DMARC and ARC, write Authentication-Results, remove forged ones. Turn it"
            " off behind a server that does so."
        ),
    ] = True
    dmarc: Annotated[
        DmarcObedience,
        Meta(
            description="What a domain's DMARC record can bring about: `observe` nothing, `junk` Junk at the most,"
            " `careful` a refusal (p=reject) of mail that nobody answers for, else Junk, `strict` what it says; lists"
            " that change messages may then lose members."
        ),
    ] = DmarcObedience.CAREFUL
    refuse_spf_fail: Annotated[
        bool,
        Meta(description="Refuse mail that fails SPF at MAIL, before DKIM can vouch for it. It loses forwarded mail."),
    ] = False
    trusted_arc_sealers: Annotated[
        tuple[str, ...],
        Meta(description="Domains whose ARC seal is believed when it says that a message passed DMARC before them."),
    ] = ()
    accept_from: Annotated[
        tuple[str, ...],
        Meta(description="Addresses, networks and authors' domains whose mail is accepted whatever the checks say."),
    ] = ()
    junk_from: Annotated[tuple[str, ...], Meta(description="As `accept_from`; goes into Junk.")] = ()
    reject_from: Annotated[tuple[str, ...], Meta(description="As `accept_from`; is refused.")] = ()
    blocklists: Annotated[
        tuple[str, ...],
        Meta(description='DNS blocklists whose listed addresses are refused at RCPT: `"zen.spamhaus.org"`.'),
    ] = ()
    greylist: Annotated[
        bool,
        Meta(
            description="Tell an unknown triple of network, sender and recipient to come again in a few minutes."
            " Delays every first message."
        ),
    ] = False
    greylist_delay_s: Annotated[
        int, Meta(ge=1, le=DAY_S, description="How long such a sender has to wait. Most servers come again after 5.")
    ] = 240


class Sending(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one account may send; 0 is no limit. `docs/abuse.md` tells when an account is stopped by itself."""

    messages_per_hour: Annotated[int, Meta(ge=0, description="Messages in a clock hour.")] = 500
    messages_per_day: Annotated[
        int, Meta(ge=0, description="Messages in 24 hours. Gmail allows 500, Google Workspace 2000.")
    ] = 2000
    recipients_per_hour: Annotated[
        int, Meta(ge=0, description="Recipients in a clock hour; lets one message of 1000 through.")
    ] = 1250
    recipients_per_day: Annotated[int, Meta(ge=0, description="Recipients in 24 hours. Outlook.com allows 5000.")] = (
        5000
    )
    strangers_per_day: Annotated[
        int,
        Meta(
            ge=0,
            description="Recipients in 24 hours that the account never wrote to before. 0 also turns off the automatic"
            " stop of an account that looks stolen.",
        ),
    ] = 500
