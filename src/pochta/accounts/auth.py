"""Signing in: with a password, an app password, or SCRAM.

Theory of operation. Each sign-in reads one row: the account that the user name means now, with its credential and the
credential's generation. A keyed hash over account, generation and password is looked up among the verified ones; a hit
ends there, without a wait. Otherwise the throttle is asked (`throttle.py`); then a password that looks like an app
password is looked up by its digest, and any other is checked in one of two threads. Sign-ins that ask the same question
at the same time share one check (a mail program opens five connections at once). A changed password, a removed app
password, a disabled or removed account raise the generation or hide the row, so nothing has to be told to forget.

Invariants: an unknown name takes the same way and time as a wrong password (a hash of our own cost is checked, a SCRAM
proof held against as many keys) and gets the same answer; what is remembered is neither password nor hash, but a digest
under a key of this process; all bounds are named. Imported hashes of another cost than ours can be told apart by time
until their password is set anew.

A user name is `local@domain`, in any spelling of the address; no alias and no `+detail`. Without domain it means the
only account of the server that has this local part; where several have it, none is meant.
"""

import asyncio
import hmac
from binascii import b2a_base64
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple, TypeVar

from pochta import clock, log
from pochta.accounts import app_passwords, passwords, scram, throttle
from pochta.accounts.remembered import EVERYTHING, Remembered, Wrong
from pochta.accounts.scram import ScramSignIn
from pochta.accounts.throttle import Attempt, Throttle
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.log import Secret
from pochta.proto.address import AddressError, address_key, fold_local_part
from pochta.proto.scram import ServerExchange, parse_client_first
from pochta.store import app_passwords as stored
from pochta.store import directory, sign_ins
from pochta.store.app_passwords import Match, ScramRow
from pochta.store.directory import SignIn
from pochta.store.sign_ins import Standing
from pochta.store.store import Store
from pochta.store.tx import Tx

THREADS: Final = 2
DEFAULT_QUEUE: Final = 256  # the default of `limits.auth_queue`: about 3 s of work
RETRY_S: Final = 5.0
MAX_USERNAME_CHARS: Final = 320  # 64 + 1 + 255: the longest address; the rest of a line is no name

SECRET_NAME: Final = "sign_in"
SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 18  # 24 characters in base64, as in the examples of RFC 7677
_NO_ACCOUNT: Final = 0

T = TypeVar("T")


class Service(StrEnum):
    """What somebody signs in to."""

    IMAP = "imap"
    POP3 = "pop3"
    SMTP = "smtp"


@dataclass(frozen=True, slots=True)
class AuthenticatedAccount:
    """Who signed in. `generation` is compared with `directory.generation` as long as the connection lives."""

    account_id: int
    address: str
    generation: int


class Asked(NamedTuple):
    """A user name in one spelling; `local_part` None: it can be no name. `text` is `spelled` for the throttle."""

    text: str
    local_part: str | None
    domain: str | None


def asked(username: str) -> Asked:
    """What a user name asks for, whether or not there is such an account."""
    nobody = Asked(username, None, None)
    if len(username) > MAX_USERNAME_CHARS:
        return nobody
    if "@" not in username:
        local_part = fold_local_part(username)
        return Asked(local_part, local_part, None)
    try:
        local_part, domain = address_key(username)
    except AddressError:
        return nobody
    return Asked(f"{local_part}@{domain}", local_part, domain)


class _Inquiry(NamedTuple):
    """One sign-in: what was asked for, by whom, and the account that is meant."""

    username: str
    asked: Asked
    found: SignIn | None
    service: Service
    peer: str

    @property
    def account_id(self) -> int:
        return _NO_ACCOUNT if self.found is None else self.found.account_id


class Authenticator:
    """Checks passwords for one process; make it inside the event loop, `close` it."""

    def __init__(
        self, store: Store, *, queue_limit: int = DEFAULT_QUEUE, cost: passwords.Cost = passwords.DEFAULT_COST
    ) -> None:
        self._store = store
        self._capacity = queue_limit + THREADS
        self._key = clock.token_bytes(SECRET_BYTES)
        self._secret = b""
        self._remembered = Remembered()
        self._wrong = Wrong()
        self._checking: dict[tuple[bytes, Service], asyncio.Future[bool]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="auth")
        self._dummy = passwords.hash_password(Secret(clock.token_hex(SECRET_BYTES)), cost)
        self.throttle = Throttle(store)

    def close(self) -> None:
        """Give up what is queued; a check that runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.throttle.close()

    def verify_remembered(self, username: str, password: Secret, *, service: Service) -> AuthenticatedAccount | None:
        """The account, when this password was verified lately; None says nothing: ask `verify`. Never waits."""
        found = _without_wait(self._find(asked(username)))
        if found is None or not self._remembered.allows(self._digest(found, username, password), service):
            return None
        return _account(found)

    async def verify(self, username: str, password: Secret, *, service: Service, peer: str) -> AuthenticatedAccount:
        """The account that `username` and `password` (its own, or an app password for the service) belong to.

        Raises:
            Refusal: AUTH_FAILED, whatever the reason; logged as `auth.failed`.
            TryLater: too many failures, by this name or from this network; or too many checks wait already.
        """
        name = asked(username)
        found = await self._find(name)
        digest = self._digest(found, username, password)
        if found is not None and self._remembered.allows(digest, service):
            self.throttle.note_success(found.account_id, peer)
            return _account(found)
        inquiry = _Inquiry(username, name, found, service, peer)
        if self._wrong.has(digest, service, peer):
            raise _failed(inquiry, is_repeated=True)
        scope = await self._check(inquiry, digest, password)
        if found is None or scope is None:
            self._wrong.add(digest, service, peer)
            raise _failed(inquiry)
        self._remembered.add(digest, scope)
        self.throttle.note_success(found.account_id, peer)
        return _account(found)

    async def begin_scram(self, client_first: bytes, *, service: Service, peer: str) -> ScramSignIn:
        """An exchange of SCRAM-SHA-256 with an app password, begun by the client's first message.

        Raises:
            RemoteProtocolError: the message is malformed, or asks for what is not offered.
            Refusal: AUTH_FAILED, the client wants to act for somebody else.
            TryLater: the disk is full or failing.
        """
        first = parse_client_first(client_first)
        username = scram.prepared(first.username)
        name = asked(username)
        if first.authzid and asked(scram.prepared(first.authzid)) != name:
            raise Refusal(RefusalCode.AUTH_FAILED, "You cannot act for another account")
        secret = await self._server_secret()
        exchange = ServerExchange(
            first,
            server_nonce=b2a_base64(clock.token_bytes(_NONCE_BYTES), newline=False),
            salt=app_passwords.salt(secret, name.text if name.local_part is None else name.local_part),
            iterations=app_passwords.ITERATIONS,
        )
        return ScramSignIn(exchange, partial(self._finish_scram, username, service, peer))

    async def _finish_scram(
        self, username: str, service: Service, peer: str, exchange: ServerExchange
    ) -> tuple[AuthenticatedAccount, bytes]:
        name = asked(username)
        inquiry = _Inquiry(username, name, await self._find(name), service, peer)
        who = await self._asker(inquiry)
        standing, rows = await self._store.read(
            0, _scram_facts, inquiry.account_id, who.who, who.network, who.address, int(clock.now_s())
        )
        attempt = self.throttle.admit(who, standing)
        proven = scram.proven(exchange, rows, service)
        attempt.end(has_failed=proven is None)
        if inquiry.found is None or proven is None:
            raise _failed(inquiry)
        row, server_key = proven
        self.throttle.note_use(inquiry.account_id, row.id, row.used_at)
        self.throttle.note_success(inquiry.account_id, peer)
        return _account(inquiry.found), exchange.server_final(server_key)

    async def _find(self, name: Asked) -> SignIn | None:
        """The account that may sign in under this name."""
        if name.local_part is None:
            return None
        found = await self._store.read(0, directory.sign_in, name.local_part, name.domain)
        return found if found is not None and found.is_enabled else None

    async def _asker(self, inquiry: _Inquiry) -> throttle.Asker:
        secret = await self._server_secret()
        return throttle.asker(secret, inquiry.username, inquiry.asked.text, inquiry.service, inquiry.peer)

    async def _server_secret(self) -> bytes:
        if not self._secret:
            secret = await self._store.read(0, sign_ins.secret, SECRET_NAME)
            if secret is None:
                secret = await self._store.write(0, sign_ins.make_secret, SECRET_NAME, clock.token_bytes(SECRET_BYTES))
            self._secret = secret
        return self._secret

    def _digest(self, found: SignIn | None, username: str, password: Secret) -> bytes:
        # For unknown names the name itself: guesses at one name share a check, known or not.
        who = f"?{username}" if found is None else f"{found.account_id} {found.generation}"
        text = f"{who}\0{password.reveal()}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    async def _check(self, inquiry: _Inquiry, digest: bytes, password: Secret) -> str | None:
        """The scope of a password that fits, None for a wrong one."""
        question = digest, inquiry.service  # an app password may fit one service and not the other
        if question not in self._checking:
            who = await self._asker(inquiry)
            letters = app_passwords.letters_of(password)
            sought = "" if letters is None else app_passwords.digest(letters)
            standing, match = await self._store.read(
                0, _facts, inquiry.account_id, who.who, who.network, who.address, sought, int(clock.now_s())
            )
            if question not in self._checking:
                if len(self._checking) >= self._capacity:
                    raise TryLater("too many sign-ins at once", RETRY_S)
                attempt = self.throttle.admit(who, standing)
                if match is not None and app_passwords.covers(match.scope, inquiry.service):
                    attempt.end(has_failed=False)
                    self.throttle.note_use(inquiry.account_id, match.id, match.used_at)
                    return match.scope
                self._begin_check(question, inquiry.found, password, attempt)
        # Shielded: the check may have others that wait for it. With its last waiter gone it still ends, and counts.
        is_right = await asyncio.shield(self._checking[question])
        return EVERYTHING if is_right else None

    def _begin_check(
        self, question: tuple[bytes, Service], found: SignIn | None, password: Secret, attempt: Attempt
    ) -> None:
        def end(check: "asyncio.Future[bool]") -> None:
            del self._checking[question]
            is_wrong = not check.cancelled() and check.exception() is None and not check.result()
            attempt.end(has_failed=is_wrong)

        credential = found.credential if found is not None else ""
        loop = asyncio.get_running_loop()
        check = loop.run_in_executor(self._threads, _verify, credential or self._dummy, password)
        self._checking[question] = check
        check.add_done_callback(end)


def _account(found: SignIn) -> AuthenticatedAccount:
    return AuthenticatedAccount(found.account_id, found.address, found.generation)


def _failed(inquiry: _Inquiry, *, is_repeated: bool = False) -> Refusal:
    log.event(
        "auth.failed",
        address=inquiry.username,
        peer=inquiry.peer,
        service=inquiry.service,
        repeated="yes" if is_repeated else None,
    )
    return Refusal(RefusalCode.AUTH_FAILED, "authentication failed")


def _facts(
    tx: Tx, account_id: int, who: str, network: str, address: str, digest: str, now: int
) -> tuple[Standing, Match | None]:
    standing = sign_ins.standing(tx, account_id, who, network, address, now)
    return standing, stored.match(tx, account_id, digest)


def _scram_facts(
    tx: Tx, account_id: int, who: str, network: str, address: str, now: int
) -> tuple[Standing, list[ScramRow]]:
    standing = sign_ins.standing(tx, account_id, who, network, address, now)
    return standing, stored.scram_rows(tx, account_id)


def _verify(credential: str, password: Secret) -> bool:
    try:
        return passwords.verify_password(credential, password)
    except Refusal as refusal:
        # A stored hash was checked at import: only an older or newer program can have stored this one.
        log.event("auth.unusable_hash", detail=refusal.text)
        return False


def _without_wait(reading: Coroutine[object, None, T]) -> T | None:
    """The result of a read that the store can answer at once; None when it would have to wait."""
    try:
        reading.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    reading.close()
    return None
