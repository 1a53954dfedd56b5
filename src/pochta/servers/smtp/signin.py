"""AUTH: PLAIN, LOGIN, and SCRAM-SHA-256 for app passwords. Source: RFC 4954, RFC 5802, RFC 7677."""

from typing import TYPE_CHECKING, Final

from pochta.accounts.auth import AuthenticatedAccount, Service
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.log import Secret
from pochta.proto import scram
from pochta.proto.smtp import events, replies
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import smtp_reply
from pochta.servers.smtp.context import SmtpContext

if TYPE_CHECKING:
    from pochta.accounts.scram import ScramSignIn
    from pochta.servers.smtp.connection import SmtpConnection

PLAIN_MECHANISMS: Final = ("PLAIN", "LOGIN")

_TOO_MANY_FAILURES: Final = Reply(421, "4.7.0", "Too many failed sign-ins; closing")


def mechanisms(context: SmtpContext, *, may_send_password: bool) -> tuple[str, ...]:
    """What EHLO offers on a connection as it is now. SCRAM sends no password, yet the mail behind it needs TLS too."""
    if not may_send_password:
        return ()
    return (scram.MECHANISM, *PLAIN_MECHANISMS) if context.offers_scram else PLAIN_MECHANISMS


class SignIn:
    """The sign-ins of one connection. `account` is who it belongs to, None before."""

    __slots__ = ("_connection", "_done", "_failures", "_scram", "account")

    def __init__(self, connection: "SmtpConnection") -> None:
        self._connection = connection
        self._failures = 0
        self._scram: ScramSignIn | None = None
        self._done: AuthenticatedAccount | None = None  # proved, its last word of SCRAM is still to be confirmed
        self.account: AuthenticatedAccount | None = None

    async def answer(self, event: events.Credentials | events.Auth | events.AuthResponse) -> None:
        """Answer one question of an AUTH exchange."""
        try:
            if isinstance(event, events.Credentials):
                self._accept(await self._verify(event))
            elif isinstance(event, events.Auth):
                self._scram = self._done = None
                await self._begin(event)
            else:
                await self._go_on(event.data)
        except RemoteProtocolError:
            self._connection.engine.reply(replies.AUTH_BAD_RESPONSE)
        except (Refusal, TryLater) as error:
            self._refuse(error)

    async def _verify(self, event: events.Credentials) -> AuthenticatedAccount:
        if event.authzid not in ("", event.username):
            raise Refusal(RefusalCode.AUTH_FAILED, "You cannot act for another account")
        connection = self._connection
        return await connection.context.authenticator.verify(
            event.username, Secret(event.password), service=Service.SMTP, peer=connection.peer_address
        )

    async def _begin(self, event: events.Auth) -> None:
        if event.initial_response is None:
            self._connection.engine.challenge(b"")
        else:
            await self._go_on(event.initial_response)

    async def _go_on(self, response: bytes) -> None:
        connection = self._connection
        if self._done is not None:
            # RFC 5802 §5, RFC 4954 §4: the server's proof went out as a challenge; its answer is empty
            if response:
                raise RemoteProtocolError("a response where none is due")
            self._accept(self._done)
        elif self._scram is None:
            self._scram = await connection.context.authenticator.begin_scram(
                response, service=Service.SMTP, peer=connection.peer_address
            )
            connection.engine.challenge(self._scram.challenge)
        else:
            self._done, proof = await self._scram.finish(response)
            connection.engine.challenge(proof)

    def _accept(self, account: AuthenticatedAccount) -> None:
        self.account = account
        self._scram = self._done = None
        self._connection.signed_in(account)
        self._connection.engine.accept()

    def _refuse(self, error: Refusal | TryLater) -> None:
        self._scram = self._done = None
        self._failures += 1  # who is put off and asks on costs us a look at the counts each time
        if self._failures >= self._connection.context.auth_failures_max:
            self._connection.engine.reply(_TOO_MANY_FAILURES)
        elif isinstance(error, TryLater):
            # RFC 4954 §6: 454 4.7.0, a temporary failure of authentication
            self._connection.engine.reply(smtp_reply(error)._replace(code=454, enhanced="4.7.0"))
        else:
            self._connection.engine.reply(smtp_reply(error))
