"""One AUTH exchange: what the client's lines mean and what is to be said next.

Decides where an exchange stands and whether its lines are well formed; refuses to know whether a password is right.
PLAIN and LOGIN are read here and end in `Credentials`. Of every other mechanism the messages are handed on as they
are (`Auth`, then an `AuthResponse` per line), so whoever answers them holds that mechanism's state; SCRAM's last
message, the server's signature, is a challenge as well, and the client's empty response to it is what is accepted.

Source: RFC 4954 §4.
"""

from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.sasl import LOGIN_PASSWORD, LOGIN_USERNAME, LoginExchange, decode_base64, decode_plain
from pochta.proto.smtp import replies
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.events import Auth, AuthResponse, Credentials

_DECODED_HERE: Final = frozenset({"PLAIN", "LOGIN"})

Step = bytes | Credentials | Auth | AuthResponse
"""What comes next: a challenge to send (before base64), or a question to ask."""


class AuthExchange:
    """The exchange of one AUTH command, from `begin` over any number of `respond`."""

    __slots__ = ("_login", "mechanism")

    def __init__(self, mechanism: str) -> None:
        self.mechanism = mechanism
        self._login = LoginExchange()

    def begin(self, initial: str | None) -> Step:
        """The first step; `initial` is the initial response as it was sent, None when there was none.

        Raises:
            CommandError: it cannot be read; the exchange is over.
        """
        # RFC 4954 §4: an empty initial response is sent as "=".
        response = None if initial is None else b"" if initial == "=" else _decoded(initial.encode("utf-8"))
        if self.mechanism not in _DECODED_HERE:
            return Auth(self.mechanism, response)
        if response is not None:
            return self._read(response)
        return LOGIN_USERNAME if self.mechanism == "LOGIN" else b""

    def respond(self, line: bytes) -> Step:
        """The next step; `line` is the client's answer to a challenge, without CRLF.

        Raises:
            CommandError: it cannot be read, or cancels; the exchange is over.
        """
        # RFC 4954 §4: "*" cancels, answered 501.
        if line == b"*":
            raise CommandError(replies.AUTH_CANCELLED)
        response = _decoded(line)
        return self._read(response) if self.mechanism in _DECODED_HERE else AuthResponse(response)

    def _read(self, response: bytes) -> Step:
        try:
            if self.mechanism == "PLAIN":
                credentials = decode_plain(response)
            else:
                self._login.respond(response)
                if self._login.credentials is None:
                    return LOGIN_PASSWORD
                credentials = self._login.credentials
        except RemoteProtocolError:
            # `from None`: no trace of what may be a password.
            raise CommandError(replies.AUTH_BAD_RESPONSE) from None
        return Credentials(self.mechanism, credentials.authzid, credentials.authcid, credentials.password)


def _decoded(line: bytes) -> bytes:
    try:
        return decode_base64(line)
    except RemoteProtocolError:
        # RFC 4954 §4: 501 5.5.2 for what cannot be decoded.
        raise CommandError(replies.AUTH_BAD_RESPONSE) from None
