"""AUTH where mail is submitted. What the mechanisms are, `accounts/sign_in.py` knows. Source: RFC 4954."""

from typing import TYPE_CHECKING, Final

from pochta.accounts.auth import AuthenticatedAccount
from pochta.errors import Refusal, RemoteProtocolError, TryLater
from pochta.proto.smtp import events, replies
from pochta.proto.smtp.replies import Reply
from pochta.servers.refusal import smtp_reply

if TYPE_CHECKING:
    from pochta.accounts.exchanges import Exchange
    from pochta.servers.smtp.connection import SmtpConnection

_TOO_MANY_FAILURES: Final = Reply(421, "4.7.0", "Too many failed sign-ins; closing")


class SignIn:
    """The sign-ins of one connection. `account` is who it belongs to, None before."""

    __slots__ = ("_connection", "_exchange", "_failures", "account")

    def __init__(self, connection: "SmtpConnection") -> None:
        self._connection = connection
        self._failures = 0
        self._exchange: Exchange | None = None
        self.account: AuthenticatedAccount | None = None

    async def answer(self, event: events.Auth | events.AuthResponse) -> None:
        """Answer one question of an AUTH exchange."""
        connection = self._connection
        exchange, self._exchange = self._exchange, None
        try:
            if isinstance(event, events.Auth):
                exchange = connection.context.sign_ins.begin(event.mechanism, connection.channel)
                step = await exchange.step(event.initial_response)
            else:
                assert exchange is not None
                step = await exchange.step(event.data)
        except RemoteProtocolError:
            connection.engine.reply(replies.AUTH_BAD_RESPONSE)
        except (Refusal, TryLater) as error:
            self._refuse(error)
        else:
            if isinstance(step, bytes):
                self._exchange = exchange
                connection.engine.challenge(step)
                return
            self.account = step
            connection.signed_in(step)
            connection.engine.accept()

    def _refuse(self, error: Refusal | TryLater) -> None:
        self._failures += 1  # who is put off and asks on costs us a look at the counts each time
        if self._failures >= self._connection.context.auth_failures_max:
            self._connection.engine.reply(_TOO_MANY_FAILURES)
        elif isinstance(error, TryLater):
            # RFC 4954 §6: 454 4.7.0, a temporary failure of authentication
            self._connection.engine.reply(smtp_reply(error)._replace(code=454, enhanced="4.7.0"))
        else:
            self._connection.engine.reply(smtp_reply(error))
