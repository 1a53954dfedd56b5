"""What is said in SASL exchanges, decoded and encoded: base64, PLAIN, LOGIN, EXTERNAL, OAUTHBEARER, XOAUTH2, and the
last messages of GSSAPI. Shared by every protocol that signs in; SCRAM is in `scram.py`.

Decides whether a message is well formed; refuses to know whether a password or token is right. Secrets do not appear in
`repr` and never in an error's text.

Source: RFC 4616 (PLAIN), draft-murchison-sasl-login-00 (LOGIN), RFC 4422 appendix A (EXTERNAL), RFC 7628 (OAUTHBEARER),
RFC 4752 (GSSAPI), RFC 4648 §4 (base64). XOAUTH2 has no standard; it is as Google and Microsoft describe it.
"""

import json
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

MAX_TOKEN_BYTES: Final = 9 * 1024
"""A bearer token. RFC 4954 §4: lines of 12288 octets in base64 are 9216 before it; usual ones have 1 to 4 KiB."""

NO_LAYER: Final = 1
"""The bit of GSSAPI's mask that stands for no security layer; RFC 4752 §3.3."""

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


def decode_authzid(response: bytes) -> str:
    """As whom somebody wants to act, the response of EXTERNAL; empty: as whoever they are.

    Raises: RemoteProtocolError when it holds NUL, is too long or not UTF-8.
    Source: RFC 4422 appendix A.
    """
    if b"\x00" in response:
        raise RemoteProtocolError("malformed authorization identity")
    return _decode(response)


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token, and whose account it is said to be for (`authzid`, empty for whomever the token names)."""

    authzid: str
    token: str = field(repr=False)


# RFC 7628 §3.1: the GS2 header without channel binding, then keys and values, each behind Ctrl-A.
_OAUTHBEARER: Final = re.compile(rb"[ny],(?:a=((?:[^\x00,=]|=2C|=3D)+))?,\x01((?:[A-Za-z]+=[\t\n\r -~]*\x01)*)\x01")
_XOAUTH2: Final = re.compile(rb"user=([^\x00\x01]+)\x01((?:[A-Za-z]+=[\t\n\r -~]*\x01)*)\x01")
# RFC 6750 §2.1: what a bearer token is made of; the scheme is a word in any case (RFC 9110 §11.1).
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*) *")


def decode_oauthbearer(message: bytes) -> BearerToken:
    """The token in a client's message of OAUTHBEARER.

    Raises: RemoteProtocolError for another shape, channel binding, another kind of token, or too much of it.
    Source: RFC 7628 §3.1.
    """
    match = _OAUTHBEARER.fullmatch(message)
    if match is None:
        raise RemoteProtocolError("malformed OAUTHBEARER response")
    authzid = (match[1] or b"").replace(b"=2C", b",").replace(b"=3D", b"=")
    return BearerToken(_decode(authzid), _token(match[2]))


def decode_xoauth2(message: bytes) -> BearerToken:
    """As `decode_oauthbearer`, for XOAUTH2, where the account is always named."""
    match = _XOAUTH2.fullmatch(message)
    if match is None:
        raise RemoteProtocolError("malformed XOAUTH2 response")
    return BearerToken(_decode(match[1]), _token(match[2]))


def _token(pairs: bytes) -> str:
    # RFC 7628 §3.1: unknown keys are ignored.
    # DEVIATES RFC 7628 §3.2: "host" and "port" are held against nothing. A server is reached under names and, behind a
    # proxy, ports that it does not know; those who use them would be kept out. For whom a token is, its audience says.
    values = [pair[5:] for pair in pairs.split(b"\x01") if pair[:5].lower() == b"auth="]
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or len(match[1]) > MAX_TOKEN_BYTES:
        raise RemoteProtocolError("no bearer token")
    return match[1].decode("ascii")


def oauthbearer_failure(status: str, *, scope: str, configuration_url: str) -> bytes:
    """The challenge that tells an OAUTHBEARER client why its token is no good, and where to get one.

    Source: RFC 7628 §3.2.2.
    """
    return _json({"status": status, "scope": scope, "openid-configuration": configuration_url})


def xoauth2_failure(*, scope: str) -> bytes:
    """As `oauthbearer_failure`, in the words that XOAUTH2 clients know."""
    return _json({"status": "401", "schemes": "bearer", "scope": scope})


def _json(values: dict[str, str]) -> bytes:
    return json.dumps({key: value for key, value in values.items() if value}).encode("ascii")


def layers_offered() -> bytes:
    """What a GSSAPI server says once the client is known, before it is wrapped: no security layer, no buffer.

    Source: RFC 4752 §3.2. TLS protects the connection.
    """
    return bytes([NO_LAYER, 0, 0, 0])


def decode_layer(message: bytes) -> str:
    """As whom a GSSAPI client wants to act, in its last message, unwrapped; empty: as whoever they are.

    Raises: RemoteProtocolError when it asks for a security layer, or the name is not well formed.
    Source: RFC 4752 §3.2.
    """
    # The buffer size should be 0 with this layer; Java sends another, which means nothing.
    if len(message) < 4 or message[0] != NO_LAYER:
        raise RemoteProtocolError("no such GSSAPI security layer")
    return decode_authzid(message[4:])


def _decode(part: bytes) -> str:
    if len(part) > MAX_IDENTITY_BYTES:
        raise RemoteProtocolError("response is too long")
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        # `from None`: the error of the codec holds the octets, which may be a password
        raise RemoteProtocolError("response is not valid UTF-8") from None
