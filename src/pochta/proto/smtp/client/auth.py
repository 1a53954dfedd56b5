"""The client's side of AUTH with PLAIN and LOGIN: what to say next.

Refuses to know whether the connection may carry a password: whoever signs in has seen to that. Passwords are strings
here because they go onto the wire at once; they appear in no error and no `repr`.

Source: RFC 4954 §4, RFC 4616, draft-murchison-sasl-login-00.
"""

from binascii import b2a_base64
from typing import Final

from pochta.errors import LocalProtocolError

MECHANISMS: Final = ("PLAIN", "LOGIN")  # in the order of preference: PLAIN takes one round trip, LOGIN three
# RFC 4954 §4: the AUTH command keeps to the length of a command, RFC 5321 §4.5.3.1.4: 512 octets with its CRLF.
MAX_COMMAND_BYTES: Final = 512


class AuthClient:
    """One exchange: `begin` gives the command, `respond` a line for each challenge."""

    __slots__ = ("_answers", "_is_cancelled", "_mechanism")

    def __init__(self, mechanism: str, username: str, password: str) -> None:
        """Raises: LocalProtocolError for a mechanism not known here, or credentials that none can carry."""
        if mechanism not in MECHANISMS:
            raise LocalProtocolError("a mechanism that is not known here")
        # RFC 4616 §2: NUL delimits, and neither part is empty.
        if not username or not password or "\0" in username + password:
            raise LocalProtocolError("credentials that cannot be sent")
        self._mechanism = mechanism
        self._is_cancelled = False
        parts = [f"\0{username}\0{password}"] if mechanism == "PLAIN" else [username, password]
        self._answers = [b2a_base64(part.encode("utf-8"), newline=False) for part in parts]

    def begin(self) -> bytes:
        """The AUTH command."""
        command = b"AUTH %b" % self._mechanism.encode("ascii")
        if self._mechanism == "PLAIN" and len(command) + 3 + len(self._answers[0]) <= MAX_COMMAND_BYTES:
            command += b" " + self._answers.pop(0)
        return command + b"\r\n"

    def respond(self) -> bytes | None:
        """The answer to a challenge, whose text these mechanisms do not need; None when it has come too often."""
        if self._answers:
            return self._answers.pop(0) + b"\r\n"
        if self._is_cancelled:
            return None
        self._is_cancelled = True
        # RFC 4954 §4: "*" cancels; the server answers 501.
        return b"*\r\n"
