"""What the POP3 server engine tells its driver.

A `Question` is followed by nothing until the driver has answered it; `Turn` wants no answer.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """Question: USER and PASS. Put the password into a `Secret` at once.

    Answered by `accept_sign_in` or `refuse`.
    """

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Auth:
    """Question: a SASL exchange begins. Answered by `challenge`, `accept_sign_in`, `refuse` or `reject`."""

    mechanism: str
    initial_response: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """Question: the client's answer to a `challenge`; answered as `Auth` is."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTls:
    """Question: `accept_tls`, send what is to be sent, shake hands and call `start_tls_done`; or `refuse`."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Question: RETR of these messages (indexes into the maildrop), as many as were asked for at once.

    Each is answered by itself, in their order: `send_message`, `begin_message` … `end_message`, or `refuse`.
    """

    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Top:
    """Question: the header and the first `lines` lines of the body; answered as one message of `Retrieve`."""

    index: int
    lines: int


@dataclass(frozen=True, slots=True)
class Update:
    """Question: QUIT in the TRANSACTION state. Remove what is deleted, then `accept_update` or `refuse`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Notice: much was answered by the engine itself; take `data_to_send`, let others have their turn, ask again."""


Question = Credentials | Auth | AuthResponse | StartTls | Retrieve | Top | Update
Event = Question | Turn
