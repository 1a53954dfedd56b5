"""SCRAM-SHA-256 on the server's side: what a client says, read; what the server answers, and whether a proof fits.

Theory of operation. The client opens with a name and a nonce (`parse_client_first`). `ServerExchange` answers with its
own nonce, the salt and the iteration count (`challenge`), takes the client's last message (`receive`) and tells of any
number of candidate keys whether the proof was made with them (`is_proven_by`); the fitting ones make the last answer
(`server_final`). An account may have several passwords, as long as they share salt and iteration count.

Decides whether messages are well formed and belong together; refuses to know who is who, where keys are kept, and what
a failure is called. Channel binding (`SCRAM-SHA-256-PLUS`) is of one kind, tls-server-end-point; the caller hands in
the octets that stand for the connection.

Source: RFC 5802, RFC 7677, RFC 5929 §4.
"""

import hashlib
import hmac
import re
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass
from typing import Final, NamedTuple

from pochta.errors import LocalProtocolError, RemoteProtocolError

MECHANISM: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDING: Final = b"tls-server-end-point"
HASH: Final = "sha256"
KEY_BYTES: Final = 32
MIN_ITERATIONS: Final = 4096  # RFC 7677 §3

MAX_MESSAGE_BYTES: Final = 4096
"""Of one message. The longest address has 320 characters, escaped in UTF-8 some 1300 bytes, and may come twice."""
MAX_NONCE_BYTES: Final = 256
"""Of the client's; usual ones have 18 to 44. It comes back in the challenge, and again in the last message."""

_SASLNAME: Final = rb"(?:[^\x00,=]|=2C|=3D)+"
_PRINTABLE: Final = rb"[\x21-\x2b\x2d-\x7e]+"
# RFC 5802 §7: extensions are attributes that the document does not define; those it defines have their own places.
_EXTENSIONS: Final = rb"(?:,(?![anmrcsipve])[A-Za-z]=[^\x00,]+)*"

_CLIENT_FIRST: Final = re.compile(
    rb"((n|y|p=[A-Za-z0-9.-]+),(?:a=(" + _SASLNAME + rb"))?,)"
    rb"(n=(" + _SASLNAME + rb"),r=(" + _PRINTABLE + rb")" + _EXTENSIONS + rb")"
)
_CLIENT_FINAL: Final = re.compile(
    rb"(c=([A-Za-z0-9+/]+={0,2}),r=(" + _PRINTABLE + rb")" + _EXTENSIONS + rb"),p=([A-Za-z0-9+/]{43}=)"
)
_MANDATORY_EXTENSION: Final = re.compile(rb"[ny],[^,]*,m=")


class Keys(NamedTuple):
    """What a server keeps of one password."""

    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "Keys(***)"  # INV-11


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """The client's first message: who (`authzid` is empty for themselves), its nonce, and what is hashed later."""

    gs2_header: bytes
    authzid: str
    username: str
    nonce: bytes
    bare: bytes


def parse_client_first(message: bytes, *, is_plus: bool = False, offers_plus: bool = False) -> ClientFirst:
    """The client's first message, read.

    `is_plus`: the client chose the mechanism that binds. `offers_plus`: it could have.
    Raises: RemoteProtocolError for another shape, too much of it, a mandatory extension, channel binding where there is
    none, another kind of it or none where it is due.
    Source: RFC 5802 §7.
    """
    match = _CLIENT_FIRST.fullmatch(message) if len(message) <= MAX_MESSAGE_BYTES else None
    if match is None:
        # RFC 5802 §5.1: a mandatory extension that is not understood fails the authentication
        if _MANDATORY_EXTENSION.match(message):
            raise RemoteProtocolError("unknown SCRAM extension")
        raise RemoteProtocolError("malformed SCRAM message")
    gs2_header, flag, authzid, bare, username, nonce = match.groups()
    # RFC 5802 §6: channel binding that is not supported fails; "y" says that the client knows we have none
    if flag.startswith(b"p") and not is_plus:
        raise RemoteProtocolError("channel binding is not supported")
    if is_plus and flag != b"p=" + BINDING:
        raise RemoteProtocolError("tls-server-end-point is the channel binding here")
    # RFC 5802 §6: a client that can bind and did not see that we can was shown another list than ours
    if flag == b"y" and offers_plus:
        raise RemoteProtocolError("channel binding was offered")
    if len(nonce) > MAX_NONCE_BYTES:
        raise RemoteProtocolError("SCRAM nonce is too long")
    return ClientFirst(gs2_header, _decoded(authzid or b""), _decoded(username), nonce, bare)


def _decoded(saslname: bytes) -> str:
    try:
        return saslname.replace(b"=2C", b",").replace(b"=3D", b"=").decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("SCRAM name is not valid UTF-8") from None


class ServerExchange:
    """One exchange after the client's first message. `server_nonce`: printable without comma, new for each exchange.

    `binding`: what stands for the TLS connection, where the first message asked for it.
    """

    __slots__ = ("_auth_message", "_binding", "_first", "_nonce", "_proof", "challenge")

    def __init__(
        self, first: ClientFirst, *, server_nonce: bytes, salt: bytes, iterations: int, binding: bytes = b""
    ) -> None:
        self._first = first
        self._binding = binding
        self._nonce = first.nonce + server_nonce
        self._proof = b""
        self._auth_message = b""
        self.challenge: bytes = b"r=%b,s=%b,i=%d" % (self._nonce, _base64(salt), iterations)

    def receive(self, message: bytes) -> None:
        """Take the client's final message.

        Raises: RemoteProtocolError for another shape, too much of it, or one that does not belong to this exchange.
        """
        if self._auth_message:
            raise LocalProtocolError("SCRAM has all it needs")
        match = _CLIENT_FINAL.fullmatch(message) if len(message) <= MAX_MESSAGE_BYTES else None
        if match is None:
            raise RemoteProtocolError("malformed SCRAM message")
        without_proof, channel_binding, nonce, proof = match.groups()
        # RFC 5802 §6: "c=" is always checked; it holds the header of the first message, and what stands for the channel
        if channel_binding != _base64(self._first.gs2_header + self._binding):
            raise RemoteProtocolError("SCRAM channel binding does not match")
        # RFC 5802 §5.1: the nonce is the one the server sent
        if nonce != self._nonce:
            raise RemoteProtocolError("SCRAM nonce does not match")
        self._proof = a2b_base64(proof)
        self._auth_message = b"%b,%b,%b" % (self._first.bare, self.challenge, without_proof)

    def is_proven_by(self, stored_key: bytes) -> bool:
        """Whether the client knows the password that `stored_key` was made of; about 4 us. Source: RFC 5802 §3."""
        signature = hmac.digest(stored_key, self._said(), HASH)
        client_key = int.from_bytes(signature, "big") ^ int.from_bytes(self._proof, "big")
        made = hashlib.sha256(client_key.to_bytes(KEY_BYTES, "big")).digest()
        return hmac.compare_digest(made, stored_key)

    def server_final(self, server_key: bytes) -> bytes:
        """The last answer, by which the client knows the server. Source: RFC 5802 §3."""
        return b"v=" + _base64(hmac.digest(server_key, self._said(), HASH))

    def _said(self) -> bytes:
        if not self._auth_message:
            raise LocalProtocolError("SCRAM still waits for the client")
        return self._auth_message


def derive_keys(password: bytes, salt: bytes, iterations: int) -> Keys:
    """What a server keeps of `password` (in UTF-8, prepared); blocks for about 1 ms per 4096 iterations.

    Source: RFC 5802 §3.
    """
    salted = hashlib.pbkdf2_hmac(HASH, password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", HASH)
    return Keys(hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", HASH))


def _base64(octets: bytes) -> bytes:
    return b2a_base64(octets, newline=False)
