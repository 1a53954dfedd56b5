"""An index made anew, beside the one in use, and what can be said of the indexes of a store.

Decides: when a new file takes the place of the one before. Works beside a running server: searches go on with the old
file until the new one is whole, whoever feeds the index goes on with the new one, and both feeding it does no harm.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from pochta.errors import TryLater
from pochta.index import file, source
from pochta.index.feed import Store
from pochta.index.file import IndexFile
from pochta.index.reader import count_entries
from pochta.index.source import Account

Progress = Callable[[int], None]  # messages indexed so far


class Standing(NamedTuple):
    """The index of an account: messages in the store and in the index, at most so many that wait, bytes on disk.

    `fault`: why it will be made again, or None.
    """

    messages: int
    indexed: int
    waiting: int
    size_bytes: int
    fault: str | None


async def rebuild(store: Store, data_dir: Path, account_id: int, *, tell: Progress = lambda done: None) -> int:
    """Make the account's index anew; how many messages it holds. Blocks the loop: for a process of its own.

    Raises:
        TryLater: somebody else does the same.
        OSError, apsw.Error: the disk is full or failing; the index before is still in use then.
    """
    folder = data_dir / file.FOLDER_NAME
    account = await store.read(account_id, source.account, account_id)
    if account is None:
        file.remove_account(folder, account_id)
        return 0
    file.successor(folder, account_id)  # its folder is there
    with _alone(file.account_folder(folder, account_id)):
        return await _rebuild(store, folder, account, tell)


@contextmanager
def _alone(own: Path) -> Iterator[None]:
    """Keep others from rebuilding in the folder; a killed process lets go of it."""
    fd = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TryLater("this index is being made anew already", retry_s=60) from error
    finally:
        os.close(fd)


async def _rebuild(store: Store, folder: Path, account: Account, tell: Progress) -> int:
    account_id = account.id
    building = file.account_folder(folder, account_id) / f"new{file.BUILDING}"
    for leftover in building.parent.glob(f"*{file.BUILDING}*"):
        leftover.unlink()
    done = last_id = 0
    made = IndexFile(building, account_id, account.created_at)
    try:
        has_more = True
        while has_more:
            sources, has_more = await store.read(account_id, source.messages_after, account_id, last_id)
            if sources:
                last_id = sources[-1].id
                done += made.add(source.entries(store.blobs, sources), last_id)
                tell(done)
        made.finish()
    except BaseException:
        made.close()
        file.discard(building)
        raise
    made.close()  # with its last connection goes its log, so that the name can change
    file.discard_older(_named(building, folder, account_id))
    return done


def _named(building: Path, folder: Path, account_id: int) -> Path:
    """Give a finished file the next name, which nobody has: a feeder may have begun a file of its own meanwhile."""
    while True:
        final = file.successor(folder, account_id)
        try:
            final.hardlink_to(building)  # `rename` would replace a file that others have open, under its log
        except FileExistsError:
            continue
        building.unlink()
        return final


async def standing(store: Store, data_dir: Path, account_id: int) -> Standing:
    """How the index of an account stands. Blocks: one look at each of its entries."""
    account = await store.read(account_id, source.account, account_id)
    messages = next_id = 0
    if account is not None:
        messages, next_id = account.message_count, account.next_id
    path = file.current(data_dir / file.FOLDER_NAME, account_id)
    if path is None:
        return Standing(messages, 0, messages, 0, None)
    size = sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))
    try:
        witness, count = await asyncio.to_thread(count_entries, path)
    except apsw.Error as error:
        return Standing(messages, 0, messages, size, str(error))
    if witness is None:
        return Standing(messages, 0, messages, size, "it is of another version")
    if not await store.read(account_id, source.fits, witness):
        return Standing(messages, 0, messages, size, "it is not of this store")
    return Standing(messages, count, max(0, min(next_id - 1 - witness.last_id, messages)), size, None)


def faults(data_dir: Path, fits: Callable[[file.Witness], bool]) -> list[tuple[Path, str]]:
    """The files that will be made again, with the reason; `fits` asks the store (`source.fits`)."""
    folder = data_dir / file.FOLDER_NAME
    found: list[tuple[Path, str]] = []
    for account_id in file.account_ids(folder):
        path = file.current(folder, account_id)
        if path is None:
            continue
        try:
            witness, _ = count_entries(path)
        except apsw.Error as error:
            found.append((path, f"cannot be read ({error})"))
            continue
        if witness is None:
            found.append((path, "is of another version"))
        else:
            with suppress(apsw.Error):  # the store's own damage is told elsewhere
                if not fits(witness):
                    found.append((path, "is ahead of the store, or of another one"))
    return found
