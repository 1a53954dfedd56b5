"""An envelope as commands: MAIL and RCPT with the parameters that the server's extensions allow.

Decides what a path and a parameter may look like on the wire, and checks all of it before the first byte leaves: an
address holds no line end, no control character, and nothing outside of a quoted string that could end the path.
Refuses to know which parameters a message should have.

What the server lacks is left out where that loses nothing that was promised (SIZE, DSN, MT-PRIORITY, BY with mode N,
AUTH). `missing` names what a message cannot be sent without: the caller converts, takes another host or gives up.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pochta.errors import LocalProtocolError
from pochta.proto.smtp.client.extensions import Extensions
from pochta.proto.smtp.xtext import encode_unitext, encode_xtext

MAX_PATH_BYTES: Final = 256  # RFC 5321 §4.5.3.1.3, with its angle brackets
MAX_ENVID_CHARS: Final = 100  # RFC 3461 §4.4
MAX_ORCPT_CHARS: Final = 500  # RFC 3461 §4.2
MAX_AUTH_CHARS: Final = 500  # RFC 4954 §5: what AUTH= adds to MAIL at most, the keyword included

_UTF8 = "\u00a0-\ud7ff\ue000-\U0010ffff"
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_UTF8}.-]+"
# RFC 5321 §4.1.2: in quotes a local part may hold anything printable; a server that knows quotes is not misled by it.
_QUOTED = rf'"(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*"'
_DOMAIN = rf"(?:[A-Za-z0-9{_UTF8}._-]+|\[[!-;=?-Z^-~]+\])"
# Dots and labels are not counted: a strange address is for its server to refuse. `postmaster` stands alone.
_MAILBOX: Final = re.compile(rf"(?:{_ATOM}|{_QUOTED})@{_DOMAIN}|(?i:postmaster)")
_ADDRESS_TYPE: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_PRINTABLE: Final = re.compile(rf"[ -~{_UTF8}]*")
_NOTIFY: Final = re.compile(r"|NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}")
_DELIVER_BY: Final = re.compile(r"[+-]?[0-9]{1,9};[NR]T?")  # RFC 2852 §4


class BodyKind(StrEnum):
    """What octets a message has: ASCII in lines, any in lines, any at all."""

    SEVEN_BIT = "7bit"
    EIGHT_BIT = "8bit"
    BINARY = "binary"


_BODY: Final = {BodyKind.SEVEN_BIT: "", BodyKind.EIGHT_BIT: " BODY=8BITMIME", BodyKind.BINARY: " BODY=BINARYMIME"}


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient: `address` as SMTP writes it, without brackets.

    `notify`: as RFC 3461 writes it (`SUCCESS,DELAY`), `""` when not asked. `original`: ORCPT decoded, `type;address`.
    """

    address: str
    notify: str = ""
    original: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a transaction says of a message. Addresses as SMTP writes them, without brackets; reverse-path `""` is null.

    `returns`: `FULL`, `HDRS` or `""`. `envelope_id`: decoded, `""` for none. `deliver_by`: RFC 2852's value with the
    time that is left (`120;R`), `""` for none. `auth`: who submitted it, decoded, `""` for nobody known, None to say
    nothing.
    """

    reverse_path: str
    recipients: tuple[Recipient, ...]
    body: BodyKind = BodyKind.SEVEN_BIT
    is_smtputf8: bool = False
    requires_tls: bool = False
    returns: str = ""
    envelope_id: str = ""
    priority: int = 0
    deliver_by: str = ""
    auth: str | None = None

    def missing(self, extensions: Extensions) -> tuple[str, ...]:
        """The keywords that a server must offer for this envelope and does not.

        Source: RFC 6152 §3, RFC 3030 §3, RFC 6531 §3.2, RFC 8689 §4.2.1, RFC 2852 §4.
        """
        needs = (
            ("8BITMIME", self.body is BodyKind.EIGHT_BIT, extensions.has_8bitmime),
            ("BINARYMIME", self.body is BodyKind.BINARY, extensions.has_binarymime),
            ("SMTPUTF8", self.is_smtputf8 or not self._is_ascii, extensions.has_smtputf8),
            ("REQUIRETLS", self.requires_tls, extensions.has_requiretls),
            ("DELIVERBY", ";R" in self.deliver_by, extensions.has_deliver_by),
        )
        return tuple([keyword for keyword, is_needed, is_offered in needs if is_needed and not is_offered])

    @property
    def _is_ascii(self) -> bool:
        return self.reverse_path.isascii() and all(one.address.isascii() for one in self.recipients)


def encode_commands(
    envelope: Envelope, extensions: Extensions, *, size_bytes: int | None, is_signed_in: bool
) -> list[bytes]:
    """MAIL and then each RCPT, with CRLF.

    Raises:
        LocalProtocolError: the envelope cannot be sent, or not to this server. Nothing of it may leave.
    """
    if not envelope.recipients:
        raise LocalProtocolError("an envelope without recipients")
    if missing := envelope.missing(extensions):
        raise LocalProtocolError(f"the server lacks {', '.join(missing)}")
    path = _path(envelope.reverse_path) if envelope.reverse_path else "<>"
    parameters = _mail_parameters(envelope, extensions, size_bytes=size_bytes, is_signed_in=is_signed_in)
    lines = [f"MAIL FROM:{path}{parameters}\r\n".encode()]
    keeps_utf8 = envelope.is_smtputf8 and extensions.has_smtputf8
    for one in envelope.recipients:
        has_parameters = extensions.has_dsn and (one.notify or one.original)
        words = _rcpt_parameters(one, keeps_utf8=keeps_utf8) if has_parameters else ""
        lines.append(f"RCPT TO:{_path(one.address)}{words}\r\n".encode())
    return lines


def _path(address: str) -> str:
    if not _MAILBOX.fullmatch(address) or len(address) > MAX_PATH_BYTES:
        raise LocalProtocolError("an address that cannot be sent")
    path = f"<{address}>"
    if len(path if address.isascii() else path.encode()) > MAX_PATH_BYTES:
        raise LocalProtocolError("an address that is too long")
    return path


def _mail_parameters(envelope: Envelope, extensions: Extensions, *, size_bytes: int | None, is_signed_in: bool) -> str:
    found = _BODY[envelope.body]
    if extensions.has_size and size_bytes is not None:
        found = f" SIZE={size_bytes}{found}"
    # RFC 6531 §3.4: SMTPUTF8 where an address or the message's header is not ASCII, and only there.
    if envelope.is_smtputf8 or not envelope._is_ascii:
        found += " SMTPUTF8"
    if envelope.requires_tls:
        found += " REQUIRETLS"
    if envelope.returns and extensions.has_dsn:
        if envelope.returns not in ("FULL", "HDRS"):
            raise LocalProtocolError("RET that is neither FULL nor HDRS")
        found += f" RET={envelope.returns}"
    if envelope.envelope_id and extensions.has_dsn:
        found += f" ENVID={_xtext(envelope.envelope_id, MAX_ENVID_CHARS)}"
    if envelope.priority and extensions.has_mt_priority:
        # RFC 6710 §3: -9 to 9; 0 is what a message has without it.
        if not -9 <= envelope.priority <= 9:
            raise LocalProtocolError("a priority that does not exist")
        found += f" MT-PRIORITY={envelope.priority}"
    if envelope.deliver_by and extensions.has_deliver_by:
        if not _DELIVER_BY.fullmatch(envelope.deliver_by):
            raise LocalProtocolError("malformed BY")
        found += f" BY={envelope.deliver_by}"
    # RFC 4954 §5: for servers that offer AUTH; one we did not sign in to would not believe it.
    if envelope.auth is not None and is_signed_in:
        found += f" AUTH={_xtext(envelope.auth, MAX_AUTH_CHARS) if envelope.auth else '<>'}"
    return found


def _rcpt_parameters(recipient: Recipient, *, keeps_utf8: bool) -> str:
    found = ""
    if recipient.notify:
        if not _NOTIFY.fullmatch(recipient.notify):
            raise LocalProtocolError("malformed NOTIFY")
        found = f" NOTIFY={recipient.notify}"
    if not recipient.original:
        return found
    kind, _, address = recipient.original.partition(";")
    if not _ADDRESS_TYPE.fullmatch(kind) or not address or not _PRINTABLE.fullmatch(address):
        raise LocalProtocolError("malformed ORCPT")
    # RFC 6533 §3: an address of type utf-8 has an encoding of its own.
    is_utf8 = kind.lower() == "utf-8"
    encoded = encode_unitext(address, keeps_utf8=keeps_utf8) if is_utf8 else encode_xtext(address)
    if len(kind) + 1 + len(encoded) > MAX_ORCPT_CHARS:
        # An over-long original recipient helps nobody; the recipient's mail is worth more.
        return found
    return f"{found} ORCPT={kind};{encoded}"


def _xtext(text: str, max_chars: int) -> str:
    if not _PRINTABLE.fullmatch(text):
        raise LocalProtocolError("a parameter that cannot be sent")
    encoded = encode_xtext(text)
    if len(encoded) > max_chars:
        raise LocalProtocolError("a parameter that is too long")
    return encoded
