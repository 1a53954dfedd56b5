"""The process that feeds the index: `python -m pochta.index.child DATA_DIR` (`apart` starts it and tells why)."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from pochta.index.feed import Indexer
from pochta.store.store import Store

NICE: Final = 10  # deliveries and readers go first: beside them it gets a tenth of a processor that is wanted
TELL_EVERY_S: Final = 1.0


async def _tell(indexer: Indexer) -> None:
    told = b""
    while True:
        lag = indexer.lag()
        line = msgspec.json.encode(lag) + b"\n"
        if lag is not None and line != told:
            told = line
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        await asyncio.sleep(TELL_EVERY_S)


async def feed(data_dir: Path) -> None:
    """Feed the index until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    os.set_blocking(sys.stdin.fileno(), False)
    loop.add_reader(sys.stdin.fileno(), ended.set)  # nothing is ever written to it
    store = Store(data_dir)
    store.start()
    indexer = Indexer(store, data_dir, pause_factor=0.0)
    tasks = [loop.create_task(indexer.run()), loop.create_task(_tell(indexer)), loop.create_task(ended.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sys.stdin.fileno())
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, BrokenPipeError):
            raise outcome


if __name__ == "__main__":
    os.nice(NICE)
    asyncio.run(feed(Path(sys.argv[1])))
