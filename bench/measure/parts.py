"""`parts`: what is pure or embedded, each alone in this process: parser, scanner, encoders, verbs of the store.

The lane's share is the difference between a verb of one message and one of a thousand; `lane` measures its waits. A
commit's time holds the disk's, its CPU does not.
"""

import asyncio
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from measure.figures import Figure
from measure.mime import sample
from measure.wire import sample_message
from pochta import clock
from pochta.accounts import edit
from pochta.delivery import local
from pochta.delivery.intake import new_message
from pochta.mime.facts import facts
from pochta.mime.parse import parse
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.seqset import encode_ranges
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search.answer import numbers_text
from pochta.store import flags, mailboxes, placements, setup
from pochta.store.blobs import NewBlob
from pochta.store.messages import NewPlacement
from pochta.store.placements import FlagMode
from pochta.store.store import Store

RUNS = 300
MESSAGES = 1000
COMMANDS = {
    "uid fetch": b"a1 UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)\r\n",
    "store": b"a1 STORE 17 +FLAGS (\\Flagged)\r\n",
    "search": b'a1 UID SEARCH UNSEEN SINCE 1-Nov-2026 FROM "anna" NOT DELETED\r\n',
}


def parts(*, repeats: int) -> list[Figure]:
    """The best of many runs of what is pure; the middle of as many commits."""
    message, small = sample(), sample_message(4000, number=1)
    uids = array("I", range(50_000, 50_000 + MESSAGES))
    gaps = array("I", range(50_000, 50_000 + 2 * MESSAGES, 2))
    snapshot = Snapshot.of(array("I", range(1, 100_001)), array("q", bytes(8 * 100_000)), 1)
    pure: dict[str, Callable[[], object]] = {
        **{f"parse {name}": partial(parse_command, line) for name, line in COMMANDS.items()},
        "scan 50 kB": partial(parse, message),
        "facts 50 kB": partial(facts, message),
        "facts 4 kB": partial(facts, small),
        "encode 1000 numbers": partial(numbers_text, uids),
        "encode 1000 ranges": partial(encode_ranges, gaps),
        "snapshot of 100 000, one changed": partial(snapshot.refreshed, [(500, 500)], [(500, 1)], 2),
    }
    figures = [Figure(name, _best_us(work, repeats), "us") for name, work in pure.items()]
    with tempfile.TemporaryDirectory(prefix="pochta-bench-") as folder:
        return figures + asyncio.run(_verbs(Path(folder), repeats))


def _best_us(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(RUNS * repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best * 1e6


async def _verbs(folder: Path, repeats: int) -> list[Figure]:
    setup.create(folder / "data")
    store = Store(folder / "data")
    store.start(hears_hints=False)
    try:
        now = int(clock.now_s())
        await store.write(0, edit.add_domain, "bench.test", None, now)
        await store.write(0, edit.add_account, "u0@bench.test", "", 0, now)
        message = sample_message(4000, number=1)
        new = new_message(NewBlob(len(message), message, None), facts(message), now)
        inbox = await store.read(1, mailboxes.find_inbox, 1)

        async def deliver() -> None:
            await local.append(store, 1, "INBOX", [(new, NewPlacement(0, (), now, 0))])

        for _ in range(MESSAGES):
            await deliver()

        async def set_flags(last: int, mode: FlagMode) -> None:
            args = (1, inbox, ((1, last),), mode, flags.FLAGGED, (), now)
            await store.write(1, placements.set_flags, *args, durable=False)

        async def both(last: int) -> None:
            await set_flags(last, FlagMode.ADD)
            await set_flags(last, FlagMode.REMOVE)

        async def copy(last: int) -> None:
            await store.write(1, placements.copy, 1, inbox, ((1, last),), "Drafts", now)

        async def expunge() -> None:
            taken = await store.read(1, mailboxes.find, 1, "Drafts")
            await store.write(1, placements.expunge, 1, taken.id, ((1, taken.uid_next),), now, False)

        async def copy_and_expunge() -> None:
            await copy(MESSAGES)
            await expunge()

        verbs: dict[str, Callable[[], Awaitable[object]]] = {
            "deliver 4 kB": deliver,
            "flags of one, set and cleared": partial(both, 1),
            "flags of 1000, set and cleared": partial(both, MESSAGES),
            "copy of one": partial(copy, 1),
            "copy of 1000 and expunge": copy_and_expunge,
        }
        return [await _middle(name, work, repeats) for name, work in verbs.items()]
    finally:
        await store.close()


async def _middle(name: str, work: Callable[[], Awaitable[object]], repeats: int) -> Figure:
    times: list[float] = []
    cpu = time.process_time()
    for _ in range(10 * repeats):
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    cpu_us = (time.process_time() - cpu) / len(times) * 1e6
    return Figure(f"store: {name}", sorted(times)[len(times) // 2] * 1e6, "us", detail={"cpu_us": round(cpu_us)})
