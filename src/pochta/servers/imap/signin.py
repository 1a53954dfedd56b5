"""STARTTLS, LOGIN, AUTHENTICATE and UNAUTHENTICATE. What the mechanisms are, `accounts/sign_in.py` knows.

Source: RFC 3501 §6.2, RFC 4959 (initial response), RFC 5530 §3 (codes), RFC 8437 (UNAUTHENTICATE).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pochta.accounts.auth import AuthenticatedAccount
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.log import Secret
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.servers.imap import capabilities, compress

if TYPE_CHECKING:
    from pochta.accounts.exchanges import Exchange
    from pochta.servers.imap.connection import ImapConnection


@dataclass(slots=True)
class Authenticating:
    """An AUTHENTICATE under way."""

    tag: bytes
    exchange: "Exchange"


async def start_tls(connection: "ImapConnection", tag: bytes, command: c.StartTls) -> None:
    """STARTTLS"""
    if connection.is_secure or not connection.starttls_offered:
        connection.send(encode.tagged(tag, b"BAD", "TLS is active already" if connection.is_secure else "No TLS here"))
        return
    connection.send(encode.tagged(tag, b"OK", "Begin TLS negotiation now"))
    await connection.secure()


async def login(connection: "ImapConnection", tag: bytes, command: c.Login) -> None:
    """LOGIN"""
    try:
        account = await connection.context.sign_ins.verify(
            command.username, Secret(command.password), connection.channel
        )
    except (Refusal, TryLater) as error:
        _refuse(connection, tag, error)
    else:
        _accept(connection, tag, account, "LOGIN")


async def authenticate(connection: "ImapConnection", tag: bytes, command: c.Authenticate) -> None:
    """AUTHENTICATE; a mechanism that is not offered gets NO, and the client tries the next."""
    exchange = connection.context.sign_ins.begin(command.mechanism, connection.channel)
    await _step(connection, Authenticating(tag, exchange), command.initial)


async def continue_authenticate(connection: "ImapConnection", response: bytes | None) -> None:
    """The client answered a challenge; None when it cancelled."""
    under_way = connection.sasl
    assert under_way is not None
    connection.sasl = None
    if response is not None:
        await _step(connection, under_way, response)
        return
    connection.send(encode.tagged(under_way.tag, b"BAD", "AUTHENTICATE cancelled"))
    if under_way.exchange.has_failed:
        connection.count_auth_failure()


async def _step(connection: "ImapConnection", under_way: Authenticating, response: bytes | None) -> None:
    try:
        step = await under_way.exchange.step(response)
    except RemoteProtocolError as error:
        connection.send(encode.tagged(under_way.tag, b"BAD", str(error)))
    except (Refusal, TryLater) as error:
        _refuse(connection, under_way.tag, error)
    else:
        if isinstance(step, bytes):
            connection.sasl = under_way
            connection.engine.challenge(step)
        else:
            _accept(connection, under_way.tag, step, "AUTHENTICATE")


def _refuse(connection: "ImapConnection", tag: bytes, error: Refusal | TryLater) -> None:
    connection.answer_error(tag, error)
    if not isinstance(error, Refusal) or error.code is not RefusalCode.PRIVACY_REQUIRED:
        connection.count_auth_failure()


def _accept(connection: "ImapConnection", tag: bytes, account: AuthenticatedAccount, word: str) -> None:
    connection.signed_in(account)
    connection.send(
        encode.tagged(tag, b"OK", f"{word} completed", code=b"CAPABILITY " + capabilities.shown(connection))
    )


async def unauthenticate(connection: "ImapConnection", tag: bytes, command: c.Unauthenticate) -> None:
    """UNAUTHENTICATE: as if nobody had signed in; TLS stays, and with it the client's certificate."""
    if not connection.context.has_unauthenticate:
        # RFC 8437 §3: BAD, as of a command that is not known
        connection.send(encode.tagged(tag, b"BAD", "UNAUTHENTICATE is turned off here"))
        return
    connection.signed_out()
    # RFC 8437 §3: NO is not permitted
    code = b"CAPABILITY " + capabilities.shown(connection)
    connection.send(encode.tagged(tag, b"OK", "UNAUTHENTICATE completed", code=code))
    # RFC 8437 §4.1: the compression layer ends behind the answer
    compress.end(connection)
