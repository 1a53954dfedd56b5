"""What clients say in SASL exchanges, decoded: base64 lines, PLAIN, LOGIN. Shared by every protocol that signs in.

Decides whether a response is well formed; refuses to know whether a password is right. Secrets do not appear in `repr`
and never in an error's text.

Source: RFC 4616 (PLAIN), draft-murchison-sasl-login-00 (LOGIN), RFC 4648 §4 (base64).
"""

import re
from binascii import a2b_base64
from dataclasses import dataclass, field
from typing import Final

from pochta.errors import LocalProtocolError, RemoteProtocolError

MAX_IDENTITY_BYTES: Final = 1024
"""One of authzid, authcid, password. RFC 4616 §2: 255 octets must be accepted; tokens used as passwords are longer."""

LOGIN_USERNAME: Final = b"Username:"
LOGIN_PASSWORD: Final = b"Password:"
"""The challenges of LOGIN; old clients look for these very words."""

_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def decode_base64(line: bytes, *, is_empty_allowed: bool = True) -> bytes:
    """The octets a response line (without CRLF) stands for.

    Raises: RemoteProtocolError for octets outside the alphabet, padding before the end or a wrong length
    (RFC 4959 §3: such responses are errors, not to be read leniently).
    """
    if _BASE64.fullmatch(line) is None or not (line or is_empty_allowed):
        raise RemoteProtocolError("invalid base64")
    return a2b_base64(line)


@dataclass(frozen=True, slots=True)
class PlainCredentials:
    """Who signs in (`authcid`), as whom (`authzid`, empty for themselves), and the password."""

    authzid: str
    authcid: str
    password: str = field(repr=False)


def decode_plain(message: bytes) -> PlainCredentials:
    """The credentials in a PLAIN message, `[authzid] NUL authcid NUL passwd`.

    Raises: RemoteProtocolError for another shape, empty identity or password, parts that are too long or not UTF-8.
    """
    # RFC 4616 §2: NUL delimits and may not occur in any part
    parts = message.split(b"\x00", 3)
    if len(parts) != 3:
        raise RemoteProtocolError("malformed PLAIN response")
    authzid, authcid, password = parts
    if not authcid or not password:
        raise RemoteProtocolError("malformed PLAIN response")
    return PlainCredentials(_decode(authzid), _decode(authcid), _decode(password))


class LoginExchange:
    """The two steps of LOGIN: ask `challenge`, hand the answer to `respond`, until `credentials` is there.

    A client may give the user name with its first line; hand that to `respond` before anything is asked.
    """

    __slots__ = ("_username", "credentials")

    def __init__(self) -> None:
        self._username: str | None = None
        self.credentials: PlainCredentials | None = None

    @property
    def challenge(self) -> bytes | None:
        """What to ask next (before base64); None when nothing is missing."""
        if self.credentials is not None:
            return None
        return LOGIN_USERNAME if self._username is None else LOGIN_PASSWORD

    def respond(self, response: bytes) -> None:
        """Takes the answer (after base64) to `challenge`.

        Raises: RemoteProtocolError for an answer that is empty, too long, holds NUL or is not UTF-8.
        """
        if self.credentials is not None:
            raise LocalProtocolError("LOGIN has all it needs")
        if not response or b"\x00" in response:
            raise RemoteProtocolError("malformed LOGIN response")
        text = _decode(response)
        if self._username is None:
            self._username = text
        else:
            self.credentials = PlainCredentials("", self._username, text)


def _decode(part: bytes) -> str:
    if len(part) > MAX_IDENTITY_BYTES:
        raise RemoteProtocolError("response is too long")
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        # `from None`: the error of the codec holds the octets, which may be a password
        raise RemoteProtocolError("response is not valid UTF-8") from None
