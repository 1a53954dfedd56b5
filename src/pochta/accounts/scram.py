"""SCRAM-SHA-256 with app passwords: an exchange under way, and which app password it proves.

The grammar and the arithmetic are in `proto/scram.py`; what is stored and how it is made, in `app_passwords.py`; who is
meant, the throttle and the log, in `auth.py`.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from pochta.accounts import saslprep
from pochta.accounts.app_passwords import SPELLINGS
from pochta.errors import Refusal, RemoteProtocolError
from pochta.proto.scram import KEY_BYTES, ServerExchange
from pochta.store.app_passwords import MAX_PER_ACCOUNT, ScramRow

if TYPE_CHECKING:
    from pochta.accounts.auth import AuthenticatedAccount

Outcome = tuple["AuthenticatedAccount", bytes]

_DECOY: Final = ScramRow(0, "", None, bytes(KEY_BYTES * SPELLINGS), b"")  # no proof gives a hash of 256 zero bits


class ScramSignIn:
    """An exchange: send `challenge`, then `finish` with the client's answer. Source: RFC 5802 §5."""

    __slots__ = ("_exchange", "_finish", "challenge")

    def __init__(self, exchange: ServerExchange, finish: Callable[[ServerExchange], Awaitable[Outcome]]) -> None:
        self._exchange = exchange
        self._finish = finish
        self.challenge: bytes = exchange.challenge

    async def finish(self, client_final: bytes) -> Outcome:
        """The account, and the server's last message, which the client has to see. Once only.

        Raises:
            RemoteProtocolError: the answer is malformed or belongs to another exchange.
            Refusal, TryLater: as `Authenticator.verify`.
        """
        self._exchange.receive(client_final)
        return await self._finish(self._exchange)


def proven(exchange: ServerExchange, rows: list[ScramRow]) -> tuple[ScramRow, bytes] | None:
    """The app password that the client knows, with its server key; the same work whatever there is, about 0.2 ms."""
    found = None
    for row in rows + [_DECOY] * (MAX_PER_ACCOUNT - len(rows)):
        for at in range(0, KEY_BYTES * SPELLINGS, KEY_BYTES):
            part = slice(at, at + KEY_BYTES)
            if exchange.is_proven_by(row.stored_keys[part]):
                found = row, row.server_keys[part]
    return found


def prepared(username: str) -> str:
    """A user name as SASLprep writes it.

    Raises:
        RemoteProtocolError: it has characters that no name may have, or nothing is left of it.
    """
    local_part, at, domain = username.rpartition("@") if "@" in username else (username, "", "")
    try:
        # DEVIATES RFC 5802 §5.1: the domain is prepared as a domain (`address_key`), not together with the local part;
        # SASLprep forbids to mix directions, so that nobody with a Hebrew name at a Latin domain could sign in.
        spelled = saslprep.prepare(local_part)
    except Refusal:
        spelled = ""
    # RFC 5802 §5.1: what cannot be prepared, or vanishes, fails the authentication
    if not spelled:
        raise RemoteProtocolError("SCRAM user name is not valid")
    return f"{spelled}{at}{domain}"
