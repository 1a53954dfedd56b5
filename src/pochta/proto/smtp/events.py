"""What the SMTP server engine tells its driver.

A `Question` is followed by nothing until the driver has answered it with `accept` or `reply`; a `Notice`
wants no answer: the engine has answered the peer where an answer was due.
"""

from dataclasses import dataclass, field
from enum import Enum, IntFlag, StrEnum
from typing import NamedTuple

from pochta.proto.address import Address


class DataFault(Enum):
    """Why a message that was read to its end cannot be taken."""

    TOO_LARGE = "too_large"
    BARE_NEWLINE = "bare_newline"


class Body(StrEnum):
    """What MAIL says of the message's octets; SEVEN_BIT, too, when it says nothing."""

    SEVEN_BIT = "7bit"
    EIGHT_BIT = "8bit"
    BINARY = "binary"


class Ret(StrEnum):
    """What a report of a failure is to return. Source: RFC 3461 §4.3."""

    FULL = "FULL"
    HDRS = "HDRS"


class Notify(IntFlag):
    """What the sender wants reports of; NEVER is alone, 0 is left for "not given". Source: RFC 3461 §4.1."""

    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


class ByMode(StrEnum):
    """What becomes of a message that is late: returned, or delivered and told of. Source: RFC 2852 §4."""

    RETURN = "R"
    NOTIFY = "N"


class CloseReason(Enum):
    """Why the conversation is over."""

    QUIT = "quit"
    TOO_MANY_TRANSACTIONS = "too_many_transactions"
    TOO_MANY_ERRORS = "too_many_errors"
    NOT_SMTP = "not_smtp"
    CHUNK_TOO_LARGE = "chunk_too_large"
    SHUT_DOWN = "shut_down"


@dataclass(frozen=True, slots=True)
class Hello:
    """Question: the client names itself. An open transaction is gone, whatever the answer's text."""

    name: str
    is_extended: bool


class Mail(NamedTuple):
    """Question: a transaction begins. `reverse_path` None is `<>`; `size` as declared, None when not.

    `auth` is the AUTH= parameter: None when absent, `""` for `<>`, else an address that nobody has verified.
    `envelope_id` (decoded ENVID) is printable ASCII. `hold_until` is UTC epoch seconds, compared with no clock yet; at
    most one of the two holds is there. `deliver_by_s` may be zero or less in mode NOTIFY.
    """

    reverse_path: Address | None
    size: int | None = None
    body: Body = Body.SEVEN_BIT
    is_smtputf8: bool = False
    auth: str | None = None
    ret: Ret | None = None
    envelope_id: str | None = None
    requires_tls: bool = False
    hold_for_s: int | None = None
    hold_until: int | None = None
    deliver_by_s: int | None = None
    deliver_by_mode: ByMode | None = None
    deliver_by_trace: bool = False
    priority: int | None = None

    @property
    def is_8bit(self) -> bool:
        """Whether the message may hold octets above 127."""
        return self.body is not Body.SEVEN_BIT


class Rcpt(NamedTuple):
    """Question: one recipient. `POSTMASTER` for the bare `<postmaster>`.

    `notify` None: not given. `original`: the ORCPT parameter as `type;address`, the type in lower case, the address
    decoded and without line ends or other controls.
    """

    forward_path: Address
    notify: Notify | None = None
    original: str | None = None


@dataclass(frozen=True, slots=True)
class DataStart:
    """Question: the client wants to send the message; there is at least one accepted recipient.

    `is_bdat`: it comes in chunks. Asked once, at the first chunk, of which no octet has been read yet. No reply leaves
    for a positive answer, and a refusal leaves behind the chunk's octets, followed by `Reset`.
    """

    is_bdat: bool = False


@dataclass(frozen=True, slots=True)
class DataChunk:
    """Notice: the next bytes of the message, dots unstuffed; never empty. Cuts lie anywhere.

    Between those of a message by BDAT other commands may be told, and `Hello`, `Reset`, `StartTls` or `Closed` end it.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class DataEnd:
    """Question: the message is complete. LMTP: answered once per accepted recipient, in their order."""

    size: int


@dataclass(frozen=True, slots=True)
class DataRejected:
    """Notice: the message must be discarded; the engine has refused it and ended the transaction."""

    fault: DataFault


@dataclass(frozen=True, slots=True)
class Reset:
    """Notice: the transaction is over without a message; forget its sender and recipients, and what came of a message.

    The client gave it up, or a BDAT had to be refused before there was a message or for its syntax.
    """


@dataclass(frozen=True, slots=True)
class Turn:
    """Notice: the engine has answered many commands itself; let others have their turn before asking again."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """Question: `accept`, send what is to be sent, then shake hands and call `start_tls_done`."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Question: an exchange begins. Answer with `challenge`, `accept` (235) or `reply`."""

    mechanism: str
    initial_response: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """Question: the client's answer to a `challenge`."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """Notice, the last event: send what is to be sent and close."""

    reason: CloseReason


Question = Hello | Mail | Rcpt | DataStart | DataEnd | StartTls | Auth | AuthResponse
Notice = DataChunk | DataRejected | Reset | Turn | Closed
Event = Question | Notice
