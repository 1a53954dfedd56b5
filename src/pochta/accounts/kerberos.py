"""Kerberos tickets, by the GSS-API: who shows one, if it is good for the service. Needs the extra `gssapi`.

A ticket is good when it was made with a key of the keytab, for the service that is asked (`imap/…`, `smtp/…`, `pop/…`),
and when the name in it is a person's: one component and a realm. `anna@EXAMPLE.ORG` is the user name
`anna@example.org`.

The library calls block (files of keys and of tickets seen before), so that they run in a thread of their own.

Source: RFC 4752, RFC 4121.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import gssapi
from gssapi.raw.misc import GSSError

from pochta import log
from pochta.accounts.auth import Service
from pochta.errors import LocalProtocolError, Refusal, RefusalCode, TryLater

KERBEROS_5: Final = "1.2.840.113554.1.2.2"  # RFC 4121 §1

# RFC 9051 §6.2.2, RFC 4954 §4, RFC 5034 §4: what each protocol calls itself
SERVICE_NAMES: Final = {Service.IMAP: "imap", Service.SMTP: "smtp", Service.POP3: "pop"}

WAITING_MAX: Final = 256  # calls at once, as of passwords (`auth.DEFAULT_QUEUE`); a ticket takes about 1 ms
RETRY_S: Final = 5.0

T = TypeVar("T")


class Kerberos:
    """Accepts tickets with the keys in a file, which is read anew for each."""

    def __init__(self, keytab: Path) -> None:
        self._store: dict[bytes | str, bytes | str] = {"keytab": f"FILE:{keytab}"}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gssapi")
        self._waiting = 0

    def close(self) -> None:
        """Give up what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def begin(self, service: Service) -> "Ticket":
        """An exchange for this service."""
        return Ticket(self, SERVICE_NAMES[service])

    async def call(self, work: Callable[..., T], *args: object) -> T:
        """`work(*args)` in the thread.

        Raises:
            Refusal: AUTH_FAILED, when the library refuses; the detail is the reason for the log.
            TryLater: too many wait already.
        """
        if self._waiting >= WAITING_MAX:
            raise TryLater("too many sign-ins at once", RETRY_S)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except GSSError as error:
            log.event("gssapi.refused", error=error)
            raise _refused("ticket") from None
        finally:
            self._waiting -= 1

    def context(self) -> Any:  # Any: the library has no types for mypy
        """A new security context on our side; blocks."""
        mechanism = gssapi.OID.from_int_seq(KERBEROS_5)
        credentials = gssapi.Credentials(usage="accept", store=self._store, mechs=[mechanism])
        return gssapi.SecurityContext(creds=credentials, usage="accept")


class Ticket:
    """One exchange: `accept` the client's tokens until `is_complete()`, then `username` is who it is."""

    def __init__(self, kerberos: Kerberos, service_name: str) -> None:
        self._kerberos = kerberos
        self._service_name = service_name
        self._context: Any = None  # Any: as above
        self._username = ""

    def is_complete(self) -> bool:
        """Whether the client is known."""
        return bool(self._username)

    @property
    def username(self) -> str:
        """Who the client is."""
        if not self._username:
            raise LocalProtocolError("the client is not known yet")
        return self._username

    async def accept(self, token: bytes) -> bytes:
        """What to answer to the client's token; may be empty.

        Raises: Refusal, AUTH_FAILED.
        """
        return await self._kerberos.call(self._accept, token)

    async def wrap(self, message: bytes) -> bytes:
        """The message, signed and not encrypted."""
        return await self._kerberos.call(self._wrap, message)

    async def unwrap(self, token: bytes) -> bytes:
        """What the client has signed.

        Raises: Refusal, AUTH_FAILED.
        """
        return await self._kerberos.call(self._unwrap, token)

    def _accept(self, token: bytes) -> bytes:
        if self._context is None:
            self._context = self._kerberos.context()
        answer = self._context.step(token) or b""
        if self._context.complete:
            self._username = self._person()
        return bytes(answer)

    def _person(self) -> str:
        service, _, _ = str(self._context.target_name).partition("/")
        # RFC 4752 §3.2: the ticket is for the service of the protocol; the keytab may hold keys of others
        if service.lower() != self._service_name:
            raise _refused("ticket_service")
        name, _, realm = str(self._context.initiator_name).rpartition("@")
        # "/" parts a service or a role from its name, and "\" marks letters that a name of ours cannot have
        if not name or not realm or any(char in name for char in "/\\@"):
            raise _refused("ticket_name")
        return f"{name}@{realm.lower()}"

    def _wrap(self, message: bytes) -> bytes:
        return bytes(self._context.wrap(message, False).message)

    def _unwrap(self, token: bytes) -> bytes:
        return bytes(self._context.unwrap(token).message)


def _refused(reason: str) -> Refusal:
    return Refusal(RefusalCode.AUTH_FAILED, "authentication failed", reason)
