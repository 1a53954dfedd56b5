"""Guessing passwords is made slow: who failed waits, longer each time, and every worker knows.

Theory of operation. A failure counts against the name asked for together with the network it came from, and against the
network over all names (the same password tried on many). After a few free ones each next attempt has to wait, 1, 2, 4
... seconds up to a bound; who comes earlier is put off without a look at the password, be it a remembered one. Failures
are forgiven one after another, all of them within a day. The counts stand in the store (`store/sign_ins.py`). New ones
are gathered for FLUSH_S and written together, so that a flood of failures is no flood of writes; what has not been
written yet is added to what was read. Attempts under way count as failures until they end, or a hundred at once would
all be free.

An address that came in to the account lately is trusted: it is counted by itself, more patiently, and not against the
network. So nobody can lock out the owner from a neighbouring address, and who shares the owner's address gets no more
than one guess in a few seconds.

Networks: IPv4 /24, what one may get for little money (a whole /16 is beyond that); IPv6 /56, what a customer gets from
a provider (a /64 would leave each customer 256 of them). Addresses: IPv4 whole; IPv6 /64, because telephones take
another address in it every day (RFC 8981).

Invariants: known and unknown names are treated alike, under the name as asked; nothing here is a name, but a keyed hash
of one; all tables are bounded. Reasons and what else was considered: docs/decisions/0007-sign-in.md.
"""

import asyncio
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from pochta import clock, log
from pochta.errors import TryLater
from pochta.store import sign_ins
from pochta.store.app_passwords import USE_AGAIN_S, Use
from pochta.store.sign_ins import Failed, Failures, Standing, Succeeded
from pochta.store.store import Store

FLUSH_S: Final = 0.5  # with a commit, well within a second
RETRY_S: Final = 5.0  # after a write that failed
BATCH_ROWS: Final = 100  # of each kind in one write: some 2 ms of the lane
PENDING_LIMIT: Final = 10_000  # what is waiting to be written; past it nothing is added, the disk being the trouble
SEEN_LIMIT: Final = 20_000  # accounts with addresses that need not be written again: 3 MB
TOLD_LIMIT: Final = 10_000
PLACES_LIMIT: Final = 4096  # peers whose networks need not be worked out again (10 to 40 us each): 2 MB

EVERY_NAME: Final = ""  # stands for all names of a network
_WHO_BYTES: Final = 16

Key = tuple[str, str]  # who, network


@dataclass(frozen=True, slots=True)
class Bound:
    """`free` failures without a wait, then 1 s, doubled by each next one up to `delay_max_s`; see `Failed`."""

    free: int
    delay_max_s: int
    forgive_s: int

    @property
    def count_max(self) -> int:
        """No more are counted: the longest wait is reached."""
        return self.free + self.delay_max_s.bit_length()

    @property
    def span_s(self) -> int:
        """After this without a failure, all are forgiven."""
        return self.count_max * self.forgive_s

    def count(self, failures: Failures, at: int) -> int:
        """How many are not forgiven at this time."""
        return max(0, -((at - failures.clear_at) // self.forgive_s))

    def free_at(self, failures: Failures) -> int:
        """When the next attempt may be made."""
        past_free = self.count(failures, failures.last_at) - self.free
        return failures.last_at + (min(1 << (past_free - 1), self.delay_max_s) if past_free > 0 else 0)


# A person tries three or four spellings of a password. At 4 min a guesser has 360 a day for each of his networks.
BY_NAME: Final = Bound(free=5, delay_max_s=256, forgive_s=3600)
# Twenty people who all forget theirs on the same morning; then 1350 guesses a day, for all accounts together.
BY_NETWORK: Final = Bound(free=100, delay_max_s=64, forgive_s=600)
# A household with several wrong devices; 8 s are no lockout, and 10 800 guesses a day find no decent password.
BY_TRUSTED: Final = Bound(free=20, delay_max_s=8, forgive_s=3600)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants to sign in from where; `name` as given, for the log."""

    name: str
    who: str
    service: str
    peer: str
    network: str
    address: str


def asker(key: bytes, name: str, spelled: str, service: str, peer: str) -> Asker:
    """`spelled`: the name in the one spelling of its key; `key`: the server's secret."""
    text = f"sign-in name\0{spelled}".encode("utf-8", "surrogatepass")
    who = hmac.digest(key, text, "sha256")[:_WHO_BYTES].hex()
    network, address = places(peer)
    return Asker(name, who, service, peer, network, address)


@lru_cache(maxsize=PLACES_LIMIT)
def places(peer: str) -> Key:
    """(network, address) that a peer counts under; a peer without an IP address is its own network."""
    try:
        ip = ip_address(peer.partition("%")[0])
    except ValueError:
        return f"{peer}/", peer
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    wide, narrow = (24, 32) if ip.version == 4 else (56, 64)
    return str(ip_network((ip, wide), strict=False)), str(ip_network((ip, narrow), strict=False))


@dataclass(slots=True)
class _New:
    """Failures that are not in the store yet."""

    count: int
    at: int


class Attempt:
    """Leave to look at one password: now, without an await before it, or from `begin` to `end`."""

    __slots__ = ("_keys", "_throttle", "is_trusted")

    def __init__(self, throttle: "Throttle", keys: tuple[tuple[Key, Bound], ...], *, is_trusted: bool) -> None:
        self._throttle = throttle
        self._keys = keys
        self.is_trusted = is_trusted

    def fail(self) -> None:
        """The password was looked at, and was wrong."""
        self._throttle.fail(self._keys)

    def begin(self) -> None:
        """Looking takes time; `end` it exactly once."""
        self._throttle.begin(self._keys)

    def end(self, *, has_failed: bool) -> None:
        """The password was looked at, or nobody will look at it any more (no failure then)."""
        self._throttle.end(self._keys)
        if has_failed:
            self.fail()


@dataclass(slots=True)
class _Batch:
    """What waits to be written, or is being written."""

    failed: dict[tuple[Key, Bound], _New] = field(default_factory=dict)
    succeeded: dict[tuple[int, str], Succeeded] = field(default_factory=dict)
    uses: dict[tuple[int, int], Use] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.failed or self.succeeded or self.uses)


class Throttle:
    """Counts failures for one process, over the store for all of them. Make it inside the event loop, `close` it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._under_way: dict[Key, int] = {}
        self._waiting = _Batch()
        self._writing = _Batch()
        self._write: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._seen: dict[tuple[int, str], float] = {}  # (account, peer) -> when its sign-in was noted last
        self._told: dict[Key, int] = {}  # until when the log need not say again that somebody waits

    def close(self) -> None:
        """Hand what is gathered to the store, which writes it before it closes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_closed = True
        if self._write is None and self._waiting:
            self._begin_write()

    async def flush(self) -> None:
        """Wait until everything so far is written."""
        while self._waiting or self._write is not None:
            if self._write is None:
                self._begin_write()
            if self._write is not None:
                await asyncio.wait([self._write])
                await asyncio.sleep(0)  # its callback

    def admit(self, asker: Asker, standing: Standing, *, account_id: int, joins: bool = False) -> Attempt:
        """Leave to look at a password of `asker`, of whom the store knows `standing`.

        `joins`: that very password is being checked for the same address; it does not stand in its own way.

        Raises:
            TryLater: not yet; logged as `auth.throttled`, once for each time to wait.
        """
        place = account_id, asker.address
        is_trusted = standing.is_trusted or place in self._waiting.succeeded or place in self._writing.succeeded
        keys = _keys(asker, is_trusted=is_trusted)
        now = int(clock.now_s())
        for key, bound in keys:
            under_way = self._under_way.get(key, 0) - joins
            wait_s = self._wait_s(key, bound, standing.by_key.get(key), under_way, now)
            if wait_s > 0:
                self._tell(asker, key, now, wait_s)
                raise TryLater(f"too many failed sign-ins; try again in {_spoken(wait_s)}", float(wait_s))
        return Attempt(self, keys, is_trusted=is_trusted)

    def _wait_s(self, key: Key, bound: Bound, failures: Failures | None, under_way: int, now: int) -> int:
        for batch in (self._writing, self._waiting):
            if new := batch.failed.get((key, bound)):
                failures = sign_ins.added(failures, new.count, new.at, bound.forgive_s, bound.span_s)
        # A clock that was set back must not lock anybody out for longer than the bound.
        wait_s = 0 if failures is None else min(bound.free_at(failures) - now, bound.delay_max_s)
        if under_way > 0 and under_way + (0 if failures is None else bound.count(failures, now)) >= bound.free:
            return max(wait_s, 1)
        return wait_s

    def _tell(self, asker: Asker, key: Key, now: int, wait_s: int) -> None:
        if self._told.get(key, 0) > now:
            return
        if len(self._told) >= TOLD_LIMIT:
            self._told.clear()
        self._told[key] = now + wait_s
        log.event("auth.throttled", address=asker.name, peer=asker.peer, service=asker.service, wait_s=wait_s)

    def begin(self, keys: Iterable[tuple[Key, Bound]]) -> None:
        """See `Attempt.begin`."""
        for key, _ in keys:
            self._under_way[key] = self._under_way.get(key, 0) + 1

    def end(self, keys: Iterable[tuple[Key, Bound]]) -> None:
        """See `Attempt.end`."""
        for key, _ in keys:
            left = self._under_way[key] - 1
            if left:
                self._under_way[key] = left
            else:
                del self._under_way[key]

    def fail(self, keys: Iterable[tuple[Key, Bound]]) -> None:
        """See `Attempt.fail`."""
        now = int(clock.now_s())
        for one in keys:
            self._add_failure(one, 1, now)
        self._write_soon(FLUSH_S)

    def _add_failure(self, key: tuple[Key, Bound], count: int, at: int) -> None:
        failed = self._waiting.failed
        new = failed.get(key)
        if new is not None:
            new.count, new.at = new.count + count, max(new.at, at)
        elif len(failed) < PENDING_LIMIT:
            failed[key] = _New(count, at)

    def note_success(self, account_id: int, peer: str) -> None:
        """Somebody came in: the address is trusted from now on. Cheap where that is known."""
        now = clock.now_s()
        if now < self._seen.get((account_id, peer), 0.0) + sign_ins.SUCCESS_AGAIN_S:
            return
        self._seen.pop((account_id, peer), None)
        if len(self._seen) >= SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        self._seen[account_id, peer] = now
        if len(self._waiting.succeeded) < PENDING_LIMIT:
            _, address = places(peer)
            self._waiting.succeeded[account_id, address] = Succeeded(account_id, address, int(now))
            self._write_soon(FLUSH_S)

    def note_use(self, account_id: int, id: int, used_at: int | None) -> None:
        """An app password was used, and before that at `used_at`."""
        now = int(clock.now_s())
        if (used_at or 0) + USE_AGAIN_S <= now and len(self._waiting.uses) < PENDING_LIMIT:
            self._waiting.uses[account_id, id] = Use(account_id, id, now)
            self._write_soon(FLUSH_S)

    def _write_soon(self, delay_s: float) -> None:
        if self._timer is None and self._write is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin_write)

    def _begin_write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, batch = self._waiting, _Batch()
        for one in tuple(waiting.failed)[:BATCH_ROWS]:
            batch.failed[one] = waiting.failed.pop(one)
        for place in tuple(waiting.succeeded)[:BATCH_ROWS]:
            batch.succeeded[place] = waiting.succeeded.pop(place)
        for password in tuple(waiting.uses)[:BATCH_ROWS]:
            batch.uses[password] = waiting.uses.pop(password)
        self._writing = batch
        failed = [
            Failed(*key, new.count, new.at, bound.forgive_s, bound.span_s) for (key, bound), new in batch.failed.items()
        ]
        # Relaxed: nobody was told of it, and the last second is forgiven to guessers after a power cut.
        self._write = self._store.write(
            0,
            sign_ins.record,
            failed,
            list(batch.succeeded.values()),
            list(batch.uses.values()),
            int(clock.now_s()),
            durable=False,
        )
        self._write.add_done_callback(self._end_write)

    def _end_write(self, write: "asyncio.Future[None]") -> None:
        batch, self._writing, self._write = self._writing, _Batch(), None
        try:
            write.result()
        except TryLater as error:
            log.event("auth.record.failed", reason=error.reason)
            self._seen.clear()
            for key, new in batch.failed.items():
                self._add_failure(key, new.count, new.at)
            self._write_soon(RETRY_S)
            return
        if not self._waiting or self._is_closed:
            return
        if max(len(batch.failed), len(batch.succeeded), len(batch.uses)) < BATCH_ROWS:
            self._write_soon(FLUSH_S)
        else:
            self._begin_write()  # the rest has waited already


def _keys(asker: Asker, *, is_trusted: bool) -> tuple[tuple[Key, Bound], ...]:
    if is_trusted:
        return (((asker.who, asker.address), BY_TRUSTED),)
    everybody = (EVERY_NAME, asker.network), BY_NETWORK
    # Who gives no name (a token or ticket says it) guesses at none: all of them would wait for the failures of one.
    return (((asker.who, asker.network), BY_NAME), everybody) if asker.name else (everybody,)


def _spoken(wait_s: int) -> str:
    if wait_s >= 120:
        return f"{-(-wait_s // 60)} minutes"
    return "1 second" if wait_s == 1 else f"{wait_s} seconds"
