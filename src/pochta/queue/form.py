"""In which form a message goes to one server, and which recipients cannot have it in any.

Decides, from what the message is (`mime.convert.Form`), what its envelope asks for and what the server offers: sent as
it is, converted first, or refused. Pure: nothing here reads a message. Signing comes after conversion, because a
signature made before would not hold; what comes of both may be too large for the server (`too_large`).

Addresses: a domain in U-labels is sent in A-labels wherever the local part is ASCII, so that SMTPUTF8 is asked for only
where a local part or the header needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Self

from pochta.mime.convert import Body, CannotConvert, Form
from pochta.proto.address import Address, to_a_labels
from pochta.proto.smtp.client.envelope import BodyKind
from pochta.proto.smtp.client.extensions import Extensions


class Step(Enum):
    """What is done to a message before it goes."""

    AS_IS = "as_is"
    TO_8BIT = "to_8bit"
    TO_7BIT = "to_7bit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the server said in its last EHLO reply, the one under TLS where there is TLS."""

    eight_bit: bool = False
    binary: bool = False
    smtputf8: bool = False
    chunking: bool = False
    size_max: int = 0  # RFC 1870 §4: 0 is no limit
    requiretls: bool = False
    dsn: bool = False

    @classmethod
    def by(cls, extensions: Extensions) -> Self:
        """What these extensions come to."""
        return cls(
            eight_bit=extensions.has_8bitmime,
            binary=extensions.has_binarymime,
            smtputf8=extensions.has_smtputf8,
            chunking=extensions.has_chunking,
            size_max=extensions.max_message_bytes or 0,
            requiretls=extensions.has_requiretls,
            dsn=extensions.has_dsn,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the envelope asks for. `reverse_path` None: the null one. `is_smtputf8`: the message came with SMTPUTF8."""

    reverse_path: Address | None
    recipients: Sequence[Address]
    is_requiretls: bool = False
    is_smtputf8: bool = False


class Refused(NamedTuple):
    """Why the message cannot go there: one line that its sender can read, without code and status."""

    code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How the message goes: first `step`, then with these parameters of MAIL.

    `body`: what the message is after `step`; binary goes by BDAT alone. `recipients`: place in `Needs.recipients`, and
    the address as RCPT has it; the others are `refused`, by their places.
    """

    step: Step
    body: BodyKind
    is_smtputf8: bool
    is_requiretls: bool
    reverse_path: str
    recipients: tuple[tuple[int, str], ...]
    refused: tuple[tuple[int, Refused], ...]


_UTF8_SENDER: Final = Refused(550, "5.6.7", "the sender's address is not ASCII, and the next server takes no such one")
_UTF8_RECIPIENT: Final = Refused(
    553, "5.6.7", "the recipient's address is not ASCII, and the next server takes no such one"
)
_UTF8_HEADER: Final = Refused(
    554, "5.6.9", "the message's header holds letters beyond ASCII, and the next server takes no such one"
)
_NO_REQUIRETLS: Final = Refused(
    550, "5.7.30", "the sender asked for TLS all the way (REQUIRETLS), and the next server does not promise it"
)


def decide(form: Form, size_bytes: int, needs: Needs, offered: Offered) -> Sending | Refused:
    """How the message goes to this server; Refused: not at all, to none of its recipients."""
    is_requiretls = needs.is_requiretls and offered.requiretls
    # RFC 8689 §5: a bounce is rather sent without than lost
    if needs.is_requiretls and not offered.requiretls and needs.reverse_path is not None:
        return _NO_REQUIRETLS
    if refusal := too_large(size_bytes, offered):  # conversion makes it larger, if anything
        return refusal
    if not offered.smtputf8:
        # RFC 6531 §3.2: nothing internationalised goes to a server without SMTPUTF8; codes by §3.5
        if needs.reverse_path is not None and _needs_smtputf8(needs.reverse_path):
            return _UTF8_SENDER
        # DEVIATES RFC 6531 §3.2: a raw header that came without SMTPUTF8 is older than it; scripts send such mail every
        # day, and servers that take 8 bits show it as they always have.
        if form.is_header_utf8 and needs.is_smtputf8:
            return _UTF8_HEADER
    sent: list[tuple[int, str]] = []
    refused: list[tuple[int, Refused]] = []
    for place, address in enumerate(needs.recipients):
        if _needs_smtputf8(address) and not offered.smtputf8:
            refused.append((place, _UTF8_RECIPIENT))
        else:
            sent.append((place, as_sent(address)))
    if not sent:
        return _UTF8_RECIPIENT
    reverse_path = "" if needs.reverse_path is None else as_sent(needs.reverse_path)
    step, body = _step(form, offered)
    return Sending(
        step=step,
        body=body,
        # RFC 6531 §3.4: not where nothing needs it, whatever the message came with
        is_smtputf8=(form.is_header_utf8 and offered.smtputf8)
        or not reverse_path.isascii()
        or not all(one.isascii() for _, one in sent),
        is_requiretls=is_requiretls,
        reverse_path=reverse_path,
        recipients=tuple(sent),
        refused=tuple(refused),
    )


def too_large(size_bytes: int, offered: Offered) -> Refused | None:
    """Why a message of this size cannot go there, None when it can. Source: RFC 1870 §4."""
    if not 0 < offered.size_max < size_bytes:
        return None
    return Refused(
        552, "5.3.4", f"the message has {size_bytes} octets, and the next server takes {offered.size_max} at most"
    )


def cannot_convert(error: CannotConvert) -> Refused:
    """What is said of a message that `Sending.step` could not be done to."""
    return Refused(554, "5.6.3", f"the message cannot be made fit for the next server: {error.reason}")


def as_sent(address: Address) -> str:
    """The address as MAIL and RCPT have it: the domain in A-labels unless the local part needs SMTPUTF8 anyway."""
    if address.local_part.isascii() and not address.domain.isascii():
        address = Address(address.local_part, to_a_labels(address.domain))
    return str(address)


def _needs_smtputf8(address: Address) -> bool:
    return not address.local_part.isascii()


def _step(form: Form, offered: Offered) -> tuple[Step, BodyKind]:
    """What must be done to the message, and what it is then."""
    # RFC 6531 §3.1: whoever offers SMTPUTF8 takes 8 bits
    takes_8bit = offered.eight_bit or offered.smtputf8
    if form.body is Body.BINARY:
        # RFC 3030 §3: BINARYMIME goes with CHUNKING alone
        if offered.binary and offered.chunking:
            return Step.AS_IS, BodyKind.BINARY
        return (Step.TO_8BIT, BodyKind.EIGHT_BIT) if takes_8bit else (Step.TO_7BIT, BodyKind.SEVEN_BIT)
    if form.body is Body.SEVEN_BIT and not form.is_header_utf8:
        return Step.AS_IS, BodyKind.SEVEN_BIT
    return (Step.AS_IS, BodyKind.EIGHT_BIT) if takes_8bit else (Step.TO_7BIT, BodyKind.SEVEN_BIT)
