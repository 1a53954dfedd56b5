"""What the SMTP client engine tells its driver. Only `StartTls` asks for something: the handshake."""

from dataclasses import dataclass
from enum import StrEnum

from pochta.proto.smtp.client.extensions import Extensions
from pochta.proto.smtp.replies import Reply


class LostReason(StrEnum):
    """Why a connection cannot be used any more."""

    CLOSED = "closed"  # the server closed it without a word
    SHUTTING_DOWN = "shutting_down"  # 421
    REFUSED = "refused"  # the greeting or every hello was refused
    GARBAGE = "garbage"  # what came is no reply, or an endless one
    UNSOLICITED = "unsolicited"  # a reply to nothing
    OUT_OF_ORDER = "out_of_order"  # a reply that the command cannot have, 250 to DATA
    TIMED_OUT = "timed_out"  # the driver's waiting was over
    EARLY = "early"  # the message was refused before its end; where the server reads now nobody knows


@dataclass(frozen=True, slots=True)
class Ready:
    """The server has answered the hello (again after `start_tls_done`): transactions may begin."""

    extensions: Extensions
    reply: Reply


@dataclass(frozen=True, slots=True)
class StartTls:
    """The server agreed: shake hands, then call `start_tls_done`."""


@dataclass(frozen=True, slots=True)
class TlsRefused:
    """The server does not start TLS; the connection is as it was."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The server knows us."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AuthRefused:
    """The server does not; the connection is as it was."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Sent:
    """The end of a transaction. Whether anybody gets the message is told by `recipients` alone.

    `recipients`: the reply that decided over each, in the envelope's order: MAIL's when that was refused, else its own
    refusal, else the answer to the message (LMTP: the one for this recipient). `data`: what DATA, BDAT or the message
    was answered with, None when it did not come to that.
    """

    mail: Reply
    recipients: tuple[Reply, ...]
    data: Reply | None


@dataclass(frozen=True, slots=True)
class ResetDone:
    """`reset` was answered: the connection lives."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Closed:
    """`quit` was answered, or the server closed: close."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is to be aborted; `reply` where the server gave one.

    `recipients`: of a transaction under way, what had been decided over each (refused at RCPT, or LMTP's answer), None
    where nothing. `is_in_doubt`: the whole message had left, so the server may have taken it for the others.
    """

    reason: LostReason
    reply: Reply | None = None
    recipients: tuple[Reply | None, ...] = ()
    is_in_doubt: bool = False


Event = Ready | StartTls | TlsRefused | SignedIn | AuthRefused | Sent | ResetDone | Closed | Lost
