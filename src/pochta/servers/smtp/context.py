"""What the SMTP connections of a listener share, and what one mail transaction gathers."""

import ssl
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from pochta.accounts.sign_in import SignIns
from pochta.delivery.intake import Incoming, Intake
from pochta.delivery.submit import Submitter, Target
from pochta.dns import Resolver
from pochta.mime.submitted import SubmittedHeader
from pochta.policy.evaluate import Policy
from pochta.proto.address import Address
from pochta.proto.smtp import events
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.servers.signed_in import SignedIn
from pochta.store.store import Store

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection
    from pochta.servers.smtp.inbound import InboundMessage


class Role(Enum):
    """Who is on the other side of a listener."""

    TRANSFER = "smtp"  # other servers, anybody; mail for this server's users only
    SUBMISSION = "submission"  # users who sign in and write as themselves
    LMTP = "lmtp"  # a mail system in front, which is trusted; one reply for each recipient (RFC 2033)


CIRCLE: Final = Reply(554, "5.4.6", "Too many hops: this message runs in a circle")  # RFC 3463 §3.5: X.4.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What is asked of mail from other servers. `greylist_delay_s` 0: no greylisting."""

    resolver: Resolver
    policy: Policy
    blocklists: tuple[str, ...]
    greylist_delay_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpContext:
    """What all SMTP connections of one listener share."""

    role: Role
    hostname: str
    postmaster: str | None
    store: Store
    intake: Intake
    submitter: Submitter
    checks: Checks | None
    sign_ins: SignIns
    signed_in: SignedIn
    connections: "set[SmtpConnection]"
    tls: ssl.SSLContext | None
    limits: SmtpLimits
    hops_max: int
    command_timeout_s: float
    data_timeout_s: float
    auth_failures_max: int
    normalises_newlines: bool
    newline_exempt: tuple[IPv4Network | IPv6Network, ...]
    counters: dict[str, int]


@dataclass(slots=True)
class Transaction:
    """MAIL to the end of data. `header`: of a message that a user submits; `inbound`: of one that is checked."""

    mail: events.Mail
    id: str = ""  # in the Received field, in the reply and in the log: by it a message is found again
    recipients: list[Target] = field(default_factory=list)
    known: dict[Address, Target] = field(default_factory=dict)
    resolved: dict[tuple[tuple[int, ...], tuple[str, ...]], Target] = field(default_factory=dict)  # by who gets it
    rows: int = 0  # how many accounts and addresses those are
    greeted: set[str] = field(default_factory=set)  # recipients that the peer may write to
    incoming: Incoming | None = None
    header: SubmittedHeader | None = None
    inbound: "InboundMessage | None" = None
    failure: Exception | None = None

    @property
    def reverse_path(self) -> str:
        """As text, `""` for the null one."""
        return "" if self.mail.reverse_path is None else str(self.mail.reverse_path)

    @property
    def accounts(self) -> tuple[int, ...]:
        """All accounts, each once, in the order of the recipients."""
        return tuple(dict.fromkeys(account for one in self.recipients for account in one.accounts))

    def abandon(self) -> None:
        """Drop what has come of the message, and its checks."""
        if self.incoming is not None:
            self.incoming.discard()
        if self.inbound is not None:
            self.inbound.abandon()
