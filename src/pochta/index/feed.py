"""Keeps the index up to date behind the commits: the background work of one process, as the lease says.

Theory of operation. Every change of an account raises its mod_seq, and the store tells of it; once in a while all
accounts are looked at, for what no hint told. An account whose mod_seq is not the one last seen is behind: its messages
after the last one indexed are read by id, in batches, until there are none. Ids rise in the order of commits, because
they are given out by the transaction that inserts the rows, so nothing can appear below the last one. The work is done
in a thread (INV-12), one batch of some tens of milliseconds for each account in turn, with pauses as long as the batch
took; a server runs it all in a process of its own (`apart`).

Taken out is what has no row any more: once an hour the ids of both sides are compared. Until then it finds nothing,
because a search asks the store where a message stands. That comparison also finds a file that lacks something.

An account without messages gets no file: it takes 100 kB and 2 ms, and a store may have a hundred thousand of them.

Invariants: a file that is damaged, of another version, or not of this store, is removed and made again; while it is
not there SEARCH reads the messages. A file that cannot be opened or read keeps no other account from being fed. Nothing
here changes the store.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

import apsw

from pochta import clock, log
from pochta.errors import TryLater
from pochta.index import file, source
from pochta.index.file import IndexFile
from pochta.index.source import Account
from pochta.store.blobs import Blobs
from pochta.store.hints import Listener
from pochta.store.tx import Tx

GATHER_S: Final = 1.0  # arrivals are indexed together: each commit makes a part of the index that is merged later
LOOK_EVERY_S: Final = 60.0  # at all accounts, for lost hints
COMPARE_EVERY_S: Final = 3600.0
RETRY_S: Final = 60.0  # after a full disk; an account whose file cannot be used waits as long
PAUSE_FACTOR: Final = 1.0  # pause after a batch, in times of what it took
PAUSE_MAX_S: Final = 0.5
OPEN_MAX: Final = 8  # files open for writing, each with a cache of up to file.CACHE_KIB (INV-7)

Args = TypeVarTuple("Args")
R = TypeVar("R")


class Store(Protocol):
    """What feeding needs of the store."""

    @property
    def blobs(self) -> Blobs: ...

    async def read(self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args) -> R: ...

    def subscribe(self, listener: Listener) -> Callable[[], None]: ...


class Lag(NamedTuple):
    """How far the index is behind: accounts, at most so many messages, since when the longest of them waits."""

    accounts: int
    messages: int
    seconds: float


class Indexer:
    """The feeder of the index below `data_dir`; `run` ends only by cancellation."""

    def __init__(self, store: Store, data_dir: Path, *, pause_factor: float = PAUSE_FACTOR) -> None:
        self._store = store
        self._pause_factor = pause_factor
        self._folder = data_dir / file.FOLDER_NAME
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="index feed")
        self._files: OrderedDict[int, IndexFile] = OrderedDict()  # used in the thread alone, as `_places`
        self._places: dict[int, file.Place] = {}  # account -> the file that was fed last
        self._behind: dict[int, float] = {}  # account -> since when
        self._left: dict[int, int] = {}  # account -> messages that wait, at most
        self._seen: dict[int, int] = {}  # account -> mod_seq up to which it is indexed
        self._heard: dict[int, int] = {}  # account that is behind -> mod_seq that was told
        self._resting: dict[int, float] = {}  # account whose file cannot be used now -> until when
        self._has_looked = False
        self._news = asyncio.Event()
        self._compare_at_s = clock.monotonic_s() + COMPARE_EVERY_S

    async def run(self) -> None:
        """Feed for ever."""
        unsubscribe = self._store.subscribe(self._hear)
        try:
            while True:
                try:
                    await self._look()
                    self._has_looked = True
                    await self._work_until(clock.monotonic_s() + LOOK_EVERY_S)
                    if clock.monotonic_s() >= self._compare_at_s:
                        await self.compare()
                        self._compare_at_s = clock.monotonic_s() + COMPARE_EVERY_S
                except (TryLater, OSError, apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.BusyError) as error:
                    log.event("index.later", reason=error)
                    await asyncio.sleep(RETRY_S)
        finally:
            unsubscribe()
            self.close()

    def close(self, *, wait: bool = False) -> None:
        """Close the files when the batch under way is done."""
        with suppress(RuntimeError):  # closed already
            self._threads.submit(self._close_files)
        self._threads.shutdown(wait=wait)

    def lag(self) -> Lag | None:
        """How far behind it is; None until it has seen all accounts once, which a server's first second takes."""
        if not self._has_looked:
            return None
        since_s = min(self._behind.values(), default=0.0)
        waiting_s = clock.monotonic_s() - since_s if self._behind else 0.0
        return Lag(len(self._behind), sum(self._left.get(one, 0) for one in self._behind), round(waiting_s, 1))

    def _hear(self, hints: Sequence[tuple[int, int]]) -> None:
        now_s = clock.monotonic_s()
        for account_id, mod_seq in hints:
            if account_id and self._seen.get(account_id, -1) < mod_seq:
                self._behind.setdefault(account_id, now_s)
                self._heard[account_id] = max(mod_seq, self._heard.get(account_id, 0))
                self._news.set()

    async def _look(self) -> None:
        """Find the accounts that are behind, and the files of accounts that are gone."""
        after_id = 0
        known: set[int] = set()
        now_s = clock.monotonic_s()
        while accounts := await self._store.read(0, source.accounts_after, after_id):
            without, changed = await self._in_thread(self._compare_files, [one.id for one in accounts])
            for one in accounts:
                known.add(one.id)
                if one.id in without and not one.has_messages:
                    self._seen[one.id] = one.mod_seq
                if one.mod_seq != self._seen.get(one.id) or one.id in changed:
                    self._behind.setdefault(one.id, now_s)
            after_id = accounts[-1].id
        for account_id in set(await self._in_thread(file.account_ids, self._folder)) - known:
            if await self._store.read(account_id, source.account, account_id) is None:  # made meanwhile?
                await self._forget(account_id)

    def _compare_files(self, account_ids: Sequence[int]) -> tuple[set[int], set[int]]:
        """Those that have no file; those whose file is gone or replaced since it was fed."""
        places = [(one, file.place(self._folder, one)) for one in account_ids]
        without = {one for one, place in places if place is None}
        return without, {one for one, place in places if place != self._places.get(one)}

    def _lacks_file(self, account_id: int) -> bool:
        if file.place(self._folder, account_id) is not None:
            return False
        self._remove_file(account_id)  # what is known of one that is gone
        return True

    async def _work_until(self, until_s: float) -> None:
        """Bring accounts up to date, one batch for each in turn, as news come in."""
        while True:
            self._news.clear()
            now_s = clock.monotonic_s()
            self._resting = {one: until for one, until in self._resting.items() if until > now_s}
            for account_id in self._behind.keys() - self._resting.keys():
                try:
                    has_more = await self.feed_some(account_id)
                except (OSError, apsw.IOError, apsw.CantOpenError, apsw.BusyError) as error:
                    # its own file, not the disk: the others go on
                    log.event("index.later", account=account_id, reason=error)
                    self._resting[account_id] = clock.monotonic_s() + RETRY_S
                    continue
                if not has_more and self._heard.get(account_id, 0) <= self._seen.get(account_id, 0):
                    for known in (self._behind, self._left, self._heard):
                        known.pop(account_id, None)
            rest_s = until_s - clock.monotonic_s()
            if rest_s <= 0:
                return
            if self._behind.keys() - self._resting.keys():
                continue
            try:
                async with asyncio.timeout(rest_s):
                    await self._news.wait()
            except TimeoutError:
                return
            await asyncio.sleep(GATHER_S)

    async def feed(self, account_id: int) -> None:
        """Bring one account up to date."""
        while await self.feed_some(account_id):
            pass

    async def feed_some(self, account_id: int) -> bool:
        """Index the next batch of an account; whether there are more.

        Raises:
            apsw.Error: the disk is full or failing.
        """
        account = await self._store.read(account_id, source.account, account_id)
        if account is None:
            await self._forget(account_id)
            return False
        if not account.has_messages and await self._in_thread(self._lacks_file, account_id):
            self._seen[account_id] = account.mod_seq
            return False
        began_s = clock.monotonic_s()
        try:
            last_id = await self._begin(account)
            if last_id is None:
                return True
            sources, has_more = await self._store.read(account_id, source.messages_after, account_id, last_id)
            if sources:
                await self._in_thread(self._add, account, sources)
                last_id = sources[-1].id
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
            await self._discard(account_id, error)
            return True
        self._left[account_id] = max(0, min(account.next_id - 1 - last_id, account.message_count))
        if not has_more:
            self._seen[account_id] = account.mod_seq
        if sources:
            await asyncio.sleep(min(PAUSE_MAX_S, self._pause_factor * (clock.monotonic_s() - began_s)))
        return has_more

    async def _begin(self, account: Account) -> int | None:
        """The last id in the account's file; None when the file was of no use and is gone."""
        witness = await self._in_thread(self._witness, account)
        if witness is None:
            await self._discard(account.id, "it is of another version")
            return None
        if not await self._store.read(account.id, source.fits, witness):
            await self._discard(account.id, "it is not of this store")
            return None
        return witness.last_id

    def _witness(self, account: Account) -> file.Witness | None:
        return self._open(account).witness()

    def _add(self, account: Account, sources: list[source.Source]) -> int:
        return self._open(account).add(source.entries(self._store.blobs, sources), sources[-1].id)

    def _open(self, account: Account) -> IndexFile:
        """The account's present file; one that was replaced is let go of."""
        place = file.place(self._folder, account.id)
        opened = self._files.pop(account.id, None)
        if opened is not None and opened.place != place:
            opened.close()
            opened = None
        if opened is None:
            path = place.path if place else file.successor(self._folder, account.id)
            opened = IndexFile(path, account.id, account.created_at)
        self._files[account.id] = opened
        self._places[account.id] = opened.place
        while len(self._files) > OPEN_MAX:
            self._files.popitem(last=False)[1].close()
        return opened

    async def _discard(self, account_id: int, reason: object) -> None:
        log.event("index.discarded", account=account_id, reason=reason)
        await self._in_thread(self._remove_file, account_id)
        self._seen.pop(account_id, None)

    def _remove_file(self, account_id: int) -> None:
        opened = self._files.pop(account_id, None)
        if opened is not None:
            opened.close()
        self._places.pop(account_id, None)
        path = file.current(self._folder, account_id)
        if path is not None:
            file.discard(path)

    async def _forget(self, account_id: int) -> None:
        await self._in_thread(self._remove_account, account_id)
        for known in (self._behind, self._left, self._heard, self._seen):
            known.pop(account_id, None)

    def _remove_account(self, account_id: int) -> None:
        self._remove_file(account_id)
        file.remove_account(self._folder, account_id)

    async def compare(self) -> None:
        """Take out of every file what the store does not hold any more."""
        for account_id in await self._in_thread(file.account_ids, self._folder):
            account = await self._store.read(account_id, source.account, account_id)
            if account is None:
                continue
            try:
                await self._compare(account)
            except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
                await self._discard(account_id, error)

    async def _compare(self, account: Account) -> None:
        last_id = await self._begin(account)
        after_id = removed = 0
        while last_id is not None and after_id < last_id:
            indexed = await self._in_thread(self._ids_after, account, after_id)
            end = indexed[-1] if len(indexed) == source.IDS else last_id
            stored = await self._store.read(account.id, source.ids_between, account.id, after_id + 1, end)
            if not stored <= set(indexed):
                await self._discard(account.id, "it lacks messages")
                return
            gone = [one for one in indexed if one not in stored]
            if gone:
                await self._in_thread(self._take_out, account, gone)
                removed += len(gone)
            after_id = end
        if removed:
            log.event("index.removed", account=account.id, messages=removed)

    def _ids_after(self, account: Account, after_id: int) -> list[int]:
        return self._open(account).ids_after(after_id, source.IDS)

    def _take_out(self, account: Account, ids: list[int]) -> None:
        self._open(account).remove(ids)

    def _close_files(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    async def _in_thread(self, fn: Callable[[*Args], R], *args: *Args) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, fn, *args)
