"""What the SMTP connections of a listener share, and what one mail transaction gathers."""

import ssl
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from pochta.accounts.auth import Authenticator
from pochta.delivery.intake import Incoming, Intake
from pochta.mime.submitted import SubmittedHeader
from pochta.proto.address import Address
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.servers.signed_in import SignedIn
from pochta.store.store import Store

if TYPE_CHECKING:
    from pochta.servers.smtp.connection import SmtpConnection


class Role(Enum):
    """Who is on the other side of a listener."""

    TRANSFER = "smtp"  # other servers, anybody; mail for this server's users only
    SUBMISSION = "submission"  # users who sign in and write as themselves
    LMTP = "lmtp"  # a mail system in front, which is trusted; one reply for each recipient (RFC 2033)


CIRCLE: Final = Reply(554, "5.4.6", "Too many hops: this message runs in a circle")  # RFC 3463 §3.5: X.4.6


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpContext:
    """What all SMTP connections of one listener share."""

    role: Role
    hostname: str
    postmaster: str | None
    store: Store
    intake: Intake
    authenticator: Authenticator
    signed_in: SignedIn
    connections: "set[SmtpConnection]"
    tls: ssl.SSLContext | None
    limits: SmtpLimits
    hops_max: int
    command_timeout_s: float
    data_timeout_s: float
    auth_failures_max: int
    offers_scram: bool
    normalises_newlines: bool
    newline_exempt: tuple[IPv4Network | IPv6Network, ...]
    counters: dict[str, int]


@dataclass(slots=True)
class Recipient:
    """An accepted recipient, and the accounts that it stands for."""

    address: str
    accounts: tuple[int, ...]


@dataclass(slots=True)
class Transaction:
    """MAIL to the end of data. `header` is there for a message that a user submits."""

    reverse_path: str
    size: int | None
    id: str = ""  # in the Received field, in the reply and in the log: by it a message is found again
    is_smtputf8: bool = False
    recipients: list[Recipient] = field(default_factory=list)
    known: dict[Address, Recipient] = field(default_factory=dict)
    incoming: Incoming | None = None
    header: SubmittedHeader | None = None
    failure: Exception | None = None

    @property
    def accounts(self) -> tuple[int, ...]:
        """All accounts, each once, in the order of the recipients."""
        return tuple(dict.fromkeys(account for one in self.recipients for account in one.accounts))
