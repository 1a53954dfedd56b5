"""Which ways of signing in a connection is offered, and the exchange of one of them. All servers sign in through here.

Theory of operation. A server describes the connection (`Channel`) and asks which mechanisms it may advertise
(`mechanisms`). When a client picks one, `begin` gives an `Exchange`; the server hands it the client's decoded messages,
one `step` after the other, and sends the challenges it returns, until a step gives the account. What a mechanism says
with its success (SCRAM's proof of the server) goes out as a challenge too, because neither IMAP nor POP3 nor SMTP can
carry it with the answer; the client's empty response is then what is accepted.

Invariants: what is advertised can work on this connection as it is now; nothing is offered where others could read what
is said, unless the listener allows it; a mechanism that is not offered is not carried out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pochta.accounts import exchanges
from pochta.accounts.auth import AuthenticatedAccount, Authenticator, Service
from pochta.accounts.exchanges import Exchange
from pochta.errors import Refusal, RefusalCode
from pochta.log import Secret
from pochta.proto import scram

if TYPE_CHECKING:
    from pochta.accounts.kerberos import Kerberos
    from pochta.accounts.tokens import TokenVerifier

PLAIN: Final = "PLAIN"
LOGIN: Final = "LOGIN"
EXTERNAL: Final = "EXTERNAL"
GSSAPI: Final = "GSSAPI"
OAUTHBEARER: Final = "OAUTHBEARER"
XOAUTH2: Final = "XOAUTH2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """How somebody is connected.

    `is_private`: nobody else reads along, or the listener allows passwords all the same. `client_names`: user names in
    the client's verified certificate. `end_point`: gives what stands for the connection in channel bindings
    (tls-server-end-point), None without TLS; dear at first.
    """

    service: Service
    peer: str
    is_private: bool
    client_names: tuple[str, ...] = ()
    end_point: Callable[[], bytes | None] = lambda: None


class SignIns:
    """The ways of signing in of one process."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        offers_scram: bool = False,
        offers_scram_plus: bool = False,
        tokens: "TokenVerifier | None" = None,
        kerberos: "Kerberos | None" = None,
    ) -> None:
        self._authenticator = authenticator
        self._offers_scram = offers_scram
        self._offers_scram_plus = offers_scram_plus
        self._tokens = tokens
        self._kerberos = kerberos

    def mechanisms(self, channel: Channel) -> tuple[str, ...]:
        """What may be advertised on a connection as it is now, best first."""
        return tuple(self._offered(channel)) if channel.is_private else ()

    def begin(self, mechanism: str, channel: Channel) -> Exchange:
        """An exchange of the mechanism (in upper case).

        Raises:
            Refusal: CANNOT, there is no such mechanism here; PRIVACY_REQUIRED, not on a connection that others read.
        """
        make = self._offered(channel).get(mechanism)
        if make is None:
            raise Refusal(RefusalCode.CANNOT, "unsupported authentication mechanism")
        refuse_unless_private(channel)
        return make()

    def _offered(self, channel: Channel) -> dict[str, Callable[[], Exchange]]:
        """Every mechanism that could work here, were the channel private."""
        door, tokens, kerberos = self._authenticator, self._tokens, self._kerberos
        found: dict[str, Callable[[], Exchange]] = {}
        binding = channel.end_point() if self._offers_scram and self._offers_scram_plus else None
        # RFC 4422 appendix A: EXTERNAL needs something outside of SASL by which the client is known
        if channel.client_names:
            found[EXTERNAL] = lambda: exchanges.External(door, channel)
        if kerberos is not None:
            found[GSSAPI] = lambda: exchanges.Gssapi(door, channel, kerberos)
        if binding is not None:
            found[scram.PLUS] = lambda: exchanges.Scram(door, channel, binding=binding, offers_plus=True)
        if self._offers_scram:
            found[scram.MECHANISM] = lambda: exchanges.Scram(
                door, channel, binding=None, offers_plus=binding is not None
            )
        if tokens is not None:
            found[OAUTHBEARER] = lambda: exchanges.OauthBearer(door, channel, tokens)
            found[XOAUTH2] = lambda: exchanges.Xoauth2(door, channel, tokens)
        found[PLAIN] = lambda: exchanges.Plain(door, channel)
        found[LOGIN] = lambda: exchanges.Login(door, channel)
        return found

    async def verify(self, username: str, password: Secret, channel: Channel) -> AuthenticatedAccount:
        """As `Authenticator.verify`, for commands that bring name and password without SASL.

        Raises:
            Refusal: PRIVACY_REQUIRED besides.
        """
        refuse_unless_private(channel)
        return await self._authenticator.verify(username, password, service=channel.service, peer=channel.peer)

    def close(self) -> None:
        """Give up what is under way."""
        if self._tokens is not None:
            self._tokens.close()
        if self._kerberos is not None:
            self._kerberos.close()


def refuse_unless_private(channel: Channel) -> None:
    """Raises: Refusal, PRIVACY_REQUIRED, where others could read what is said."""
    if not channel.is_private:
        raise Refusal(RefusalCode.PRIVACY_REQUIRED, "Start TLS first: others could read the password")
