"""`append`: the verb by which a message enters one mailbox; and what `submit` shares with it."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from pochta import clock
from pochta.errors import Refusal, TryLater
from pochta.store import messages
from pochta.store.messages import Appended, NewMessage, NewPlacement
from pochta.store.store import Store

APPENDED_INLINE_MAX: Final = 200  # of one command, 40 us each: more would hold the event loop over 10 ms (INV-12)


async def append(
    store: Store, account_id: int, mailbox_path: str, items: Sequence[tuple[NewMessage, NewPlacement]]
) -> Appended:
    """Put the messages into one mailbox; all or none, durable on return.

    Raises:
        Refusal: NOT_FOUND, OVER_QUOTA, LIMIT. TryLater: the disk is full.
    """
    await check_room_for(store, [new for new, _ in items])
    try:
        return await store.write(
            account_id,
            messages.append,
            account_id,
            mailbox_path,
            tuple(items),
            int(clock.now_s()),
            in_thread=len(items) > APPENDED_INLINE_MAX,
        )
    except Refusal:
        await drop(store, [new for new, _ in items])
        raise


async def drop(store: Store, refused: Iterable[NewMessage]) -> None:
    """Remove the files of messages that were refused, which the sweeper would leave for an hour: long enough for
    somebody who writes to a full mailbox again and again to fill the disk.

    Never for a commit that failed or was cut off: it may have become durable all the same.
    """
    files = [new.blob.file for new in refused if new.blob.file is not None]
    if files:
        await asyncio.to_thread(store.blobs.delete_files, files)


async def check_room_for(store: Store, new: Iterable[NewMessage]) -> None:
    """As `check_room`; the files of messages that find no room are removed, for now is when their space is needed."""
    try:
        check_room(store)
    except TryLater:
        await drop(store, new)
        raise


def check_room(store: Store) -> None:
    """Refuse new mail below `limits.min_free_bytes`; reading and removal go on.

    Raises:
        TryLater: the disk is nearly full.
    """
    if not store.has_room():
        raise TryLater("the server is short of disk space", retry_s=300)
