"""The exchanges of SASL, one class for each mechanism: the client's messages in, challenges or the account out.

Decides what comes after what. The grammar of the messages is `proto`'s, passwords and the throttle are `auth`'s, tokens
`tokens`', tickets `kerberos`'s. Each object serves one exchange.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn, Protocol

from pochta.accounts.auth import AuthenticatedAccount, Authenticator, asked
from pochta.errors import LocalProtocolError, Refusal, RefusalCode, RemoteProtocolError
from pochta.log import Secret
from pochta.proto import sasl

if TYPE_CHECKING:
    from pochta.accounts.kerberos import Kerberos, Ticket
    from pochta.accounts.scram import ScramSignIn
    from pochta.accounts.sign_in import Channel
    from pochta.accounts.tokens import TokenVerifier

Step = bytes | AuthenticatedAccount
"""A challenge to send (before base64), or who has signed in."""


class Exchange(Protocol):
    """One exchange under way; see `sign_in`'s theory of operation."""

    has_failed: bool
    """The client was found wanting, and is still to be told so: should it cancel now, that was a failed sign-in."""

    async def step(self, response: bytes | None) -> Step:
        """What follows upon the client's message (after base64); None at the beginning, where it sent none.

        Raises:
            RemoteProtocolError: the message is malformed; the exchange is over.
            Refusal, TryLater: as `Authenticator.verify`; the exchange is over.
        """


class _Exchange:
    """What all have in common."""

    def __init__(self, door: Authenticator, channel: "Channel") -> None:
        self._door = door
        self._channel = channel
        self.has_failed = False

    async def _verify(self, credentials: sasl.PlainCredentials) -> AuthenticatedAccount:
        authzid, authcid = credentials.authzid, credentials.authcid
        if authzid and asked(authzid) != asked(authcid):
            raise Refusal(RefusalCode.AUTH_FAILED, "You cannot act for another account")
        return await self._door.verify(
            authcid, Secret(credentials.password), service=self._channel.service, peer=self._channel.peer
        )


class Plain(_Exchange):
    """PLAIN. Source: RFC 4616 §2."""

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        return b"" if response is None else await self._verify(sasl.decode_plain(response))


class Login(_Exchange):
    """LOGIN. Source: draft-murchison-sasl-login-00."""

    def __init__(self, door: Authenticator, channel: "Channel") -> None:
        super().__init__(door, channel)
        self._login = sasl.LoginExchange()

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        if response is not None:
            self._login.respond(response)
        if self._login.credentials is not None:
            return await self._verify(self._login.credentials)
        return self._login.challenge or b""


class Scram(_Exchange):
    """SCRAM-SHA-256, and the mechanism that binds it to the TLS connection. Source: RFC 5802 §5."""

    def __init__(self, door: Authenticator, channel: "Channel", *, binding: bytes | None, offers_plus: bool) -> None:
        super().__init__(door, channel)
        self._binding = binding
        self._offers_plus = offers_plus
        self._scram: ScramSignIn | None = None
        self._done: AuthenticatedAccount | None = None

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        if response is None:
            return b""
        if self._done is not None:
            # RFC 5802 §5: the server's proof went out as a challenge; its answer is empty
            if response:
                raise RemoteProtocolError("a response where none is due")
            return self._done
        if self._scram is None:
            self._scram = await self._door.begin_scram(
                response,
                service=self._channel.service,
                peer=self._channel.peer,
                binding=self._binding,
                offers_plus=self._offers_plus,
            )
            return self._scram.challenge
        self._done, proof = await self._scram.finish(response)
        return proof


class External(_Exchange):
    """EXTERNAL with the client's certificate. Source: RFC 4422 appendix A."""

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        if response is None:
            return b""
        authzid = sasl.decode_authzid(response)
        names = self._channel.client_names
        # A certificate may hold several addresses; without a wish the first one counts.
        chosen = next((name for name in names if authzid and asked(name) == asked(authzid)), names[0])
        return await self._door.vouched(authzid, lambda: chosen, service=self._channel.service, peer=self._channel.peer)


class _Bearer(_Exchange, ABC):
    """What both kinds of OAuth do."""

    def __init__(self, door: Authenticator, channel: "Channel", tokens: "TokenVerifier") -> None:
        super().__init__(door, channel)
        self._tokens = tokens
        self._refusal: Refusal | None = None

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        if self._refusal is not None:
            # RFC 7628 §3.2.3: whatever the client says to the failure, it is the end
            self.has_failed = False
            raise self._refusal
        if response is None:
            return b""
        bearer = self._decode(response)
        keys = await self._tokens.keys_for(bearer.token)
        try:
            return await self._door.vouched(
                bearer.authzid,
                lambda: self._tokens.name_in(bearer.token, keys),
                service=self._channel.service,
                peer=self._channel.peer,
            )
        except Refusal as refusal:
            self._refusal = refusal
            self.has_failed = True
            return self._failure()

    @abstractmethod
    def _decode(self, response: bytes) -> sasl.BearerToken:
        """What the client says of itself. Raises: RemoteProtocolError."""

    @abstractmethod
    def _failure(self) -> bytes:
        """The challenge that tells why the token was refused."""


class OauthBearer(_Bearer):
    """OAUTHBEARER. Source: RFC 7628 §3."""

    def _decode(self, response: bytes) -> sasl.BearerToken:
        return sasl.decode_oauthbearer(response)

    def _failure(self) -> bytes:
        # RFC 6750 §3.1: the token is expired, malformed or of another: "invalid_token"
        return sasl.oauthbearer_failure(
            "invalid_token", scope=self._tokens.scope, configuration_url=self._tokens.configuration_url
        )


class Xoauth2(_Bearer):
    """XOAUTH2, which some clients know instead."""

    def _decode(self, response: bytes) -> sasl.BearerToken:
        return sasl.decode_xoauth2(response)

    def _failure(self) -> bytes:
        return sasl.xoauth2_failure(scope=self._tokens.scope)


class Gssapi(_Exchange):
    """GSSAPI with Kerberos 5, without a security layer. Source: RFC 4752 §3."""

    def __init__(self, door: Authenticator, channel: "Channel", kerberos: "Kerberos") -> None:
        super().__init__(door, channel)
        self._kerberos = kerberos
        self._ticket: Ticket | None = None
        self._is_wrapping = False

    async def step(self, response: bytes | None) -> Step:
        """See `Exchange.step`."""
        if response is None:
            return b""
        if self._is_wrapping:
            return await self._finish(response)
        if self._ticket is None:
            # before the ticket is looked at, which is dear, and done in one thread for everybody
            await self._door.admit(service=self._channel.service, peer=self._channel.peer)
            self._ticket = self._kerberos.begin(self._channel.service)
        ticket = self._ticket
        if ticket.is_complete():
            # RFC 4752 §3.2: our last token was a challenge; the client has nothing to say to it
            if response:
                raise RemoteProtocolError("a response where none is due")
            self._is_wrapping = True
            return await ticket.wrap(sasl.layers_offered())
        try:
            token = await ticket.accept(response)
        except Refusal as refusal:
            await self._refuse(refusal)
        if token or not ticket.is_complete():
            return token
        self._is_wrapping = True
        return await ticket.wrap(sasl.layers_offered())

    async def _finish(self, response: bytes) -> AuthenticatedAccount:
        ticket = self._ticket
        if ticket is None:
            raise LocalProtocolError("GSSAPI has not begun")
        try:
            authzid = sasl.decode_layer(await ticket.unwrap(response))
        except Refusal as refusal:
            await self._refuse(refusal)
        return await self._door.vouched(
            authzid, lambda: ticket.username, service=self._channel.service, peer=self._channel.peer
        )

    async def _refuse(self, refusal: Refusal) -> NoReturn:
        """Count and log it as a wrong password is, and raise what the client is told."""

        def prove() -> str:
            raise refusal

        await self._door.vouched("", prove, service=self._channel.service, peer=self._channel.peer)
        raise refusal
