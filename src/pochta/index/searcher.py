"""What a server asks the index: answers that hold for the store as it is, or none."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

import apsw

from pochta import log
from pochta.index import file, source
from pochta.index.reader import Answer, Question, Reader
from pochta.store.tx import Tx

THREADS: Final = 2  # searches at once, of one worker; others wait

Args = TypeVarTuple("Args")
R = TypeVar("R")


class Store(Protocol):
    """What asking needs of the store."""

    async def read(self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args) -> R: ...


class Found(NamedTuple):
    """An answer for each question, about messages up to `last_id`; nothing is said of later ones."""

    last_id: int
    answers: list[Answer]


class Searcher:
    """The index below `data_dir`, as one process asks it. `close` it."""

    def __init__(self, data_dir: Path) -> None:
        self._reader = Reader(data_dir / file.FOLDER_NAME)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="index search")

    async def ask(self, store: Store, account_id: int, questions: Sequence[Question]) -> Found | None:
        """The answers of the account's index; None when there is none that can be relied on."""
        run = asyncio.get_running_loop().run_in_executor
        try:
            asked = await run(self._threads, self._reader.ask, account_id, questions)
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
            log.event("index.discarded", account=account_id, reason=error)
            await run(self._threads, self._reader.discard, account_id)
            return None
        except (apsw.Error, OSError) as error:
            log.event("index.unreadable", account=account_id, reason=error)
            return None
        if (
            asked is None
            or asked[0].account_id != account_id
            or not await store.read(account_id, source.fits, asked[0])
        ):
            return None
        return Found(asked[0].last_id, asked[1])

    def close(self) -> None:
        """Close the files; what is asked now is answered still."""
        self._threads.shutdown(wait=False)
        self._reader.close()
