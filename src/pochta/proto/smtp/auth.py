"""One AUTH exchange: what the client's lines are, before any mechanism reads them.

Decides whether a line is base64, or cancels. The messages are handed on as they are (`Auth`, then an `AuthResponse` for
each line): whoever answers them holds the mechanism's state. What a mechanism says with its success is a challenge too,
and the client's empty response to it is what is accepted.

Source: RFC 4954 §4.
"""

from pochta.errors import RemoteProtocolError
from pochta.proto.sasl import decode_base64
from pochta.proto.smtp import replies
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.events import Auth, AuthResponse


def begin(mechanism: str, initial: str | None) -> Auth:
    """The question that opens an exchange; `initial` is the initial response as it was sent, None when there was none.

    Raises:
        CommandError: it cannot be read; there is no exchange.
    """
    # RFC 4954 §4: an empty initial response is sent as "=".
    return Auth(mechanism, None if initial is None else b"" if initial == "=" else _decoded(initial.encode("utf-8")))


def respond(line: bytes) -> AuthResponse:
    """The question that follows a challenge; `line` is the client's answer, without CRLF.

    Raises:
        CommandError: it cannot be read, or cancels; the exchange is over.
    """
    # RFC 4954 §4: "*" cancels, answered 501.
    if line == b"*":
        raise CommandError(replies.AUTH_CANCELLED)
    return AuthResponse(_decoded(line))


def _decoded(line: bytes) -> bytes:
    try:
        return decode_base64(line)
    except RemoteProtocolError:
        # RFC 4954 §4: 501 5.5.2 for what cannot be decoded.
        raise CommandError(replies.AUTH_BAD_RESPONSE) from None
