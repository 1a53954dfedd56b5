"""STARTTLS, LOGIN and AUTHENTICATE. Source: RFC 3501 §6.2, RFC 4959 (initial response), RFC 5530 §3 (codes)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pochta.accounts.auth import Service
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.log import Secret
from pochta.proto import sasl
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


@dataclass(slots=True)
class Exchange:
    """An AUTHENTICATE under way; `login` holds the state of LOGIN, None for PLAIN."""

    tag: bytes
    login: sasl.LoginExchange | None


async def start_tls(connection: "ImapConnection", tag: bytes, command: c.StartTls) -> None:
    """STARTTLS"""
    if connection.is_secure or not connection.starttls_offered:
        connection.send(encode.tagged(tag, b"BAD", "TLS is active already" if connection.is_secure else "No TLS here"))
        return
    connection.send(encode.tagged(tag, b"OK", "Begin TLS negotiation now"))
    await connection.secure()


async def login(connection: "ImapConnection", tag: bytes, command: c.Login) -> None:
    """LOGIN"""
    if not connection.may_sign_in:
        raise _privacy_required()
    await _verify(connection, tag, command.username, Secret(command.password), "LOGIN")


def _privacy_required() -> Refusal:
    return Refusal(RefusalCode.PRIVACY_REQUIRED, "Start TLS first: others could read the password")


async def authenticate(connection: "ImapConnection", tag: bytes, command: c.Authenticate) -> None:
    """AUTHENTICATE PLAIN and LOGIN; another mechanism gets NO, and the client tries the next."""
    if command.mechanism not in ("PLAIN", "LOGIN"):
        connection.send(encode.tagged(tag, b"NO", "Unsupported authentication mechanism", code=b"CANNOT"))
        return
    if not connection.may_sign_in:
        raise _privacy_required()
    exchange = Exchange(tag, sasl.LoginExchange() if command.mechanism == "LOGIN" else None)
    connection.sasl = exchange
    if command.initial is not None:
        await continue_authenticate(connection, command.initial)
    else:
        connection.engine.challenge(b"" if exchange.login is None else sasl.LOGIN_USERNAME)


async def continue_authenticate(connection: "ImapConnection", response: bytes | None) -> None:
    """The client answered a challenge; None when it cancelled."""
    exchange = connection.sasl
    assert exchange is not None
    connection.sasl = None
    if response is None:
        connection.send(encode.tagged(exchange.tag, b"BAD", "AUTHENTICATE cancelled"))
        return
    try:
        if exchange.login is None:
            credentials = sasl.decode_plain(response)
        else:
            exchange.login.respond(response)
            if exchange.login.credentials is None:
                connection.sasl = exchange
                connection.engine.challenge(exchange.login.challenge or b"")
                return
            credentials = exchange.login.credentials
    except RemoteProtocolError as error:
        connection.send(encode.tagged(exchange.tag, b"BAD", str(error)))
        return
    try:
        if credentials.authzid not in ("", credentials.authcid):
            raise Refusal(RefusalCode.AUTH_FAILED, "You cannot act for another account")
        await _verify(connection, exchange.tag, credentials.authcid, Secret(credentials.password), "AUTHENTICATE")
    except (Refusal, TryLater) as error:
        connection.answer_error(exchange.tag, error)


async def _verify(connection: "ImapConnection", tag: bytes, username: str, password: Secret, word: str) -> None:
    try:
        account = await connection.context.authenticator.verify(
            username, password, service=Service.IMAP, peer=connection.peer_address
        )
    except (Refusal, TryLater) as error:
        connection.answer_error(tag, error)
        connection.count_auth_failure()
        return
    connection.signed_in(account)
    connection.send(encode.tagged(tag, b"OK", f"{word} completed", code=b"CAPABILITY " + connection.capabilities()))
