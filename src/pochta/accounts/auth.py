"""Signing in with a password.

Theory of operation. Each sign-in reads one row: the account that the user name means now, with its credential and the
credential's generation. A keyed hash over account, generation and password is looked up among the verified ones; a hit
ends there, without a wait. Otherwise the password is checked in one of two threads; sign-ins that ask the same question
at the same time share one check (a mail program opens five connections at once). A changed password, a disabled or
removed account bump the generation or hide the row, so nothing has to be told to forget.

Invariants: an unknown name takes the same way and time as a wrong password (a hash of our own cost is checked) and gets
the same answer; what is remembered is neither password nor hash, but a digest under a key of this process; all bounds
are named. Imported hashes of another cost than ours can be told apart by time until their password is set anew.

A user name is `local@domain`, in any spelling of the address; no alias and no `+detail`. Without domain it means the
only account of the server that has this local part; where several have it, none is meant.
"""

import asyncio
import hmac
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from pochta import clock, log
from pochta.accounts import passwords
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.log import Secret
from pochta.proto.address import AddressError, address_key, fold_local_part
from pochta.store import directory
from pochta.store.directory import SignIn
from pochta.store.store import Store

REMEMBER_SLIDING_S: Final = 600.0  # longer than any client's interval between two polls
REMEMBER_HARD_S: Final = 3600.0  # a password that leaves our memory only by disuse never would
REMEMBERED_LIMIT: Final = 10_000  # the default number of connections; 250 bytes each, 2.5 MB
THREADS: Final = 2
DEFAULT_QUEUE: Final = 256  # the default of `limits.auth_queue`: about 3 s of work
RETRY_S: Final = 5.0
MAX_USERNAME_CHARS: Final = 320  # 64 + 1 + 255: the longest address; the rest of a line is no name

_KEY_BYTES: Final = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AuthenticatedAccount:
    """Who signed in. `generation` is compared with `directory.generation` as long as the connection lives."""

    account_id: int
    address: str
    generation: int


@dataclass(slots=True)
class _Remembered:
    used_at: float
    until: float


class Authenticator:
    """Checks passwords for one process; make it inside the event loop, `close` it."""

    def __init__(
        self, store: Store, *, queue_limit: int = DEFAULT_QUEUE, cost: passwords.Cost = passwords.DEFAULT_COST
    ) -> None:
        self._store = store
        self._capacity = queue_limit + THREADS
        self._key = clock.token_bytes(_KEY_BYTES)
        self._remembered: dict[bytes, _Remembered] = {}  # least used first
        self._checking: dict[bytes, asyncio.Future[bool]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="auth")
        self._dummy = passwords.hash_password(Secret(clock.token_hex(_KEY_BYTES)), cost)

    def close(self) -> None:
        """Give up what is queued; a check that runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def verify_remembered(self, username: str, password: Secret) -> AuthenticatedAccount | None:
        """The account, when this password was verified lately; None says nothing: ask `verify`. Never waits."""
        found = _without_wait(self._find(username))
        if found is None or not self._is_remembered(self._digest(found, username, password)):
            return None
        return AuthenticatedAccount(found.account_id, found.address, found.generation)

    async def verify(self, username: str, password: Secret, *, peer: str) -> AuthenticatedAccount:
        """The account that `username` and `password` belong to.

        Raises:
            Refusal: AUTH_FAILED, whatever the reason; logged as `auth.failed`.
            TryLater: too many checks wait already.
        """
        found = await self._find(username)
        digest = self._digest(found, username, password)
        if found is None or not self._is_remembered(digest):
            is_right = await self._check(digest, found.credential if found else "", password)
            if found is None or not is_right:
                log.event("auth.failed", address=username, peer=peer)
                raise Refusal(RefusalCode.AUTH_FAILED, "authentication failed")
            self._remember(digest)
        return AuthenticatedAccount(found.account_id, found.address, found.generation)

    async def _find(self, username: str) -> SignIn | None:
        """The account that may sign in under this name."""
        if len(username) > MAX_USERNAME_CHARS:
            return None
        domain: str | None = None
        if "@" in username:
            try:
                local_part, domain = address_key(username)
            except AddressError:
                return None
        else:
            local_part = fold_local_part(username)
        found = await self._store.read(0, directory.sign_in, local_part, domain)
        return found if found is not None and found.is_enabled else None

    def _digest(self, found: SignIn | None, username: str, password: Secret) -> bytes:
        # For unknown names the name itself: guesses at one name share a check, known or not.
        who = f"?{username}" if found is None else f"{found.account_id} {found.generation}"
        text = f"{who}\0{password.reveal()}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _is_remembered(self, digest: bytes) -> bool:
        entry = self._remembered.pop(digest, None)
        now = clock.monotonic_s()
        if entry is None or now >= entry.until or now >= entry.used_at + REMEMBER_SLIDING_S:
            return False
        entry.used_at = now
        self._remembered[digest] = entry
        return True

    def _remember(self, digest: bytes) -> None:
        if digest in self._remembered:
            return  # another sign-in shared the check
        if len(self._remembered) >= REMEMBERED_LIMIT:
            del self._remembered[next(iter(self._remembered))]
        now = clock.monotonic_s()
        self._remembered[digest] = _Remembered(now, now + REMEMBER_HARD_S)

    async def _check(self, digest: bytes, credential: str, password: Secret) -> bool:
        running = self._checking.get(digest)
        if running is None:
            if len(self._checking) >= self._capacity:
                raise TryLater("too many sign-ins at once", RETRY_S)
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, _verify, credential or self._dummy, password)
            self._checking[digest] = running
            running.add_done_callback(lambda _: self._checking.pop(digest, None))
        # Shielded: the check may have others that wait for it. With its last waiter gone it still ends in time.
        return await asyncio.shield(running)


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
