"""Signing in: with a password, an app password, SCRAM, or a proof that somebody else vouches for.

Theory of operation. Each sign-in reads on one snapshot what the user name means now (the account with its credential
and the credential's generation), what the throttle has to know, and the app password that was given, if it is one. The
throttle comes first (`throttle.py`): while somebody has to wait, nothing is looked at. Then a keyed hash over account,
generation, address and password is looked up among the verified ones, and a hit ends there. So a password that the
owner gave lately is a short way for the address it was given from; from any other it goes the whole way: an app
password was found by its digest, any other is checked in one of two threads. Sign-ins that ask the same question at the
same time share one check (a mail program opens five connections at once). A changed password, a removed app password, a
disabled or removed account raise the generation or hide the row, so nothing has to be told to forget.

Invariants: nobody comes in while he has to wait. An unknown name takes the same way and time as a wrong password (a
hash of our own cost is checked, a SCRAM proof held against as many keys) and gets the same answer. What is remembered
is neither password nor hash, but a digest under a key of this process. All bounds are named. Imported hashes of another
cost than ours can be told apart by time until their password is set anew.

A user name is `local@domain`, in any spelling of the address; no alias and no `+detail`. Without domain it means the
only account of the server that has this local part; where several have it, none is meant.
"""

import asyncio
import hmac
from binascii import b2a_base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from pochta import clock, log
from pochta.accounts import app_passwords, passwords, scram, throttle
from pochta.accounts.remembered import EVERYTHING, Question, Remembered, Wrong
from pochta.accounts.scram import ScramSignIn
from pochta.accounts.throttle import Asker, Attempt, Throttle
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

# `reason` of `auth.failed`: an app password of the account, for something else; vouched for, and no account; and one
# who claims another account
OTHER_SCOPE: Final = "scope"
NO_ACCOUNT: Final = "no_account"
OTHER_ACCOUNT: Final = "other_account"
_NO_REASON: Final = ""


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


class _Check(NamedTuple):
    """A check of a password under way, and the reason to be logged if it turns out wrong."""

    future: "asyncio.Future[bool]"
    reason: str


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
        self._checking: dict[Question, _Check] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="auth")
        self._dummy = passwords.hash_password(Secret(clock.token_hex(SECRET_BYTES)), cost)
        self.throttle = Throttle(store)

    def close(self) -> None:
        """Give up what is queued; a check that runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.throttle.close()

    async def verify(self, username: str, password: Secret, *, service: Service, peer: str) -> AuthenticatedAccount:
        """The account that `username` and `password` (its own, or an app password for the service) belong to.

        Raises:
            Refusal: AUTH_FAILED, whatever the reason; logged as `auth.failed`.
            TryLater: too many failures, by this name or from this network; or too many checks wait already.
        """
        name = asked(username)
        asker = await self._asker(name, username, service, peer)
        letters = app_passwords.letters_of(password)
        sought = "" if letters is None else app_passwords.digest(letters)
        found, standing, match = await self._store.read(
            0, _facts, name, asker.who, asker.network, asker.address, sought, int(clock.now_s())
        )
        digest = self._digest(found, asker.address, password)
        question = Question(digest, asker.who, service)
        check = self._checking.get(question)
        attempt = self.throttle.admit(asker, standing, account_id=_id(found), joins=check is not None)
        # No await until the look is done: leave is for one.
        if found is not None and attempt.is_trusted and self._remembered.allows(digest, service):
            self.throttle.note_success(found.account_id, peer)
            return _account(found)
        if (reason := self._wrong.reason(question, peer)) is not None:
            raise _failed(asker, reason, is_repeated=True)
        if found is not None and match is not None and app_passwords.covers(match.scope, service):
            self.throttle.note_use(found.account_id, match.id, match.used_at)
            return self._accept(found, digest, match.scope, peer)
        if check is None:
            check = self._begin_check(question, found, password, attempt, _NO_REASON if match is None else OTHER_SCOPE)
        # Shielded: the check may have others that wait for it. With its last waiter gone it still ends, and counts.
        is_right = await asyncio.shield(check.future)
        if found is None or not is_right:
            self._wrong.add(question, peer, check.reason)
            raise _failed(asker, check.reason)
        return self._accept(found, digest, EVERYTHING, peer)

    def _accept(self, found: SignIn, digest: bytes, scope: str, peer: str) -> AuthenticatedAccount:
        self._remembered.add(digest, scope)
        self.throttle.note_success(found.account_id, peer)
        return _account(found)

    async def vouched(
        self, claimed: str, prove: Callable[[], str], *, service: Service, peer: str
    ) -> AuthenticatedAccount:
        """The account of the user name that `prove` gives: of a certificate, a token, a ticket.

        `claimed` is the name the client gives itself, empty for none; it must mean the same account. `prove` is called
        once, when nobody has to wait, and does not wait itself; its Refusal is counted as a wrong password is, its
        detail logged as the reason.

        Raises:
            Refusal: AUTH_FAILED, whatever the reason; logged as `auth.failed`.
            TryLater: as `verify`.
        """
        name = asked(claimed)
        asker = await self._asker(name, claimed, service, peer)
        found, standing, _ = await self._store.read(
            0, _facts, name, asker.who, asker.network, asker.address, "", int(clock.now_s())
        )
        attempt = self.throttle.admit(asker, standing, account_id=_id(found))
        try:
            proven = prove()
        except Refusal as refusal:
            attempt.fail()
            raise _failed(asker, refusal.detail) from None
        # No guess from here on: who comes so far has been vouched for.
        account = await self._store.read(0, _found, asked(proven))
        if account is None or not _is_written_alike(proven, account.address):
            raise _failed(replace(asker, name=proven), NO_ACCOUNT)
        if claimed and (found is None or found.account_id != account.account_id):
            raise _failed(asker, OTHER_ACCOUNT)
        self.throttle.note_success(account.account_id, peer)
        return _account(account)

    async def admit(self, *, service: Service, peer: str) -> None:
        """Return where nobody of this network has to wait: asked before work that comes before `vouched` and is dear.

        Nothing is counted by it.

        Raises:
            TryLater: as `verify`.
        """
        asker = await self._asker(asked(""), "", service, peer)
        standing = await self._store.read(
            0, sign_ins.standing, _NO_ACCOUNT, asker.who, asker.network, asker.address, int(clock.now_s())
        )
        self.throttle.admit(asker, standing, account_id=_NO_ACCOUNT)

    async def begin_scram(
        self,
        client_first: bytes,
        *,
        service: Service,
        peer: str,
        binding: bytes | None = None,
        offers_plus: bool = False,
    ) -> ScramSignIn:
        """An exchange of SCRAM-SHA-256 with an app password, begun by the client's first message.

        `binding`: what stands for the TLS connection, where the mechanism is the one that binds. `offers_plus`: that
        mechanism was offered.

        Raises:
            RemoteProtocolError: the message is malformed, or asks for what is not offered.
            Refusal: AUTH_FAILED, the client wants to act for somebody else.
            TryLater: the disk is full or failing.
        """
        first = parse_client_first(client_first, is_plus=binding is not None, offers_plus=offers_plus)
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
            binding=binding or b"",
        )
        return ScramSignIn(exchange, partial(self._finish_scram, username, service, peer))

    async def _finish_scram(
        self, username: str, service: Service, peer: str, exchange: ServerExchange
    ) -> tuple[AuthenticatedAccount, bytes]:
        name = asked(username)
        asker = await self._asker(name, username, service, peer)
        found, standing, rows = await self._store.read(
            0, _scram_facts, name, asker.who, asker.network, asker.address, int(clock.now_s())
        )
        attempt = self.throttle.admit(asker, standing, account_id=_id(found))
        proven = scram.proven(exchange, rows)
        if found is None or proven is None:
            attempt.fail()
            raise _failed(asker, _NO_REASON)
        row, server_key = proven
        if not app_passwords.covers(row.scope, service):
            raise _failed(asker, OTHER_SCOPE)
        self.throttle.note_use(found.account_id, row.id, row.used_at)
        self.throttle.note_success(found.account_id, peer)
        return _account(found), exchange.server_final(server_key)

    async def _asker(self, name: Asked, username: str, service: Service, peer: str) -> Asker:
        return throttle.asker(await self._server_secret(), username, name.text, service, peer)

    async def _server_secret(self) -> bytes:
        if not self._secret:
            secret = await self._store.read(0, sign_ins.secret, SECRET_NAME)
            if secret is None:
                secret = await self._store.write(0, sign_ins.make_secret, SECRET_NAME, clock.token_bytes(SECRET_BYTES))
            self._secret = secret
        return self._secret

    def _digest(self, found: SignIn | None, address: str, password: Secret) -> bytes:
        account = "" if found is None else f"{found.account_id} {found.generation}"
        text = f"{account}\0{address}\0{password.reveal()}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _begin_check(
        self, question: Question, found: SignIn | None, password: Secret, attempt: Attempt, reason: str
    ) -> _Check:
        if len(self._checking) >= self._capacity:
            if attempt.is_trusted:
                attempt.fail()  # it was held against what is remembered; a full queue must not make guessing free
            raise TryLater("too many sign-ins at once", RETRY_S)

        def end(check: "asyncio.Future[bool]") -> None:
            del self._checking[question]
            is_wrong = not check.cancelled() and check.exception() is None and not check.result()
            # Who gives an app password for something else knows a secret of the owner's: that is no guess.
            attempt.end(has_failed=is_wrong and reason != OTHER_SCOPE)

        credential = found.credential if found is not None else ""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, _verify, credential or self._dummy, password)
        attempt.begin()
        check = self._checking[question] = _Check(future, reason)
        future.add_done_callback(end)
        return check


def _id(found: SignIn | None) -> int:
    return _NO_ACCOUNT if found is None else found.account_id


def _is_written_alike(name: str, address: str) -> bool:
    """Whether a name that others vouch for is in the letters of the account's own.

    To us `boriſ` and `boris` are one; to who gives out user names they may be two persons.
    """
    return name.partition("@")[0].isascii() == address.rpartition("@")[0].isascii()


def _account(found: SignIn) -> AuthenticatedAccount:
    return AuthenticatedAccount(found.account_id, found.address, found.generation)


def _failed(asker: Asker, reason: str, *, is_repeated: bool = False) -> Refusal:
    log.event(
        "auth.failed",
        address=asker.name,
        peer=asker.peer,
        service=asker.service,
        repeated="yes" if is_repeated else None,
        reason=reason or None,
    )
    return Refusal(RefusalCode.AUTH_FAILED, "authentication failed")


def _found(tx: Tx, name: Asked) -> SignIn | None:
    """The account that may sign in under this name."""
    if name.local_part is None:
        return None
    found = directory.sign_in(tx, name.local_part, name.domain)
    return found if found is not None and found.is_enabled else None


def _facts(
    tx: Tx, name: Asked, who: str, network: str, address: str, digest: str, now: int
) -> tuple[SignIn | None, Standing, Match | None]:
    found = _found(tx, Asked(*name))
    standing = sign_ins.standing(tx, _id(found), who, network, address, now)
    return found, standing, stored.match(tx, _id(found), digest) if digest else None


def _scram_facts(
    tx: Tx, name: Asked, who: str, network: str, address: str, now: int
) -> tuple[SignIn | None, Standing, list[ScramRow]]:
    found = _found(tx, Asked(*name))
    standing = sign_ins.standing(tx, _id(found), who, network, address, now)
    return found, standing, stored.scram_rows(tx, _id(found))


def _verify(credential: str, password: Secret) -> bool:
    try:
        return passwords.verify_password(credential, password)
    except Refusal as refusal:
        # A stored hash was checked at import: only an older or newer program can have stored this one.
        log.event("auth.unusable_hash", detail=refusal.text)
        return False
