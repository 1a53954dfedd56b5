"""SEARCH, SORT and THREAD in one large mailbox whose messages differ: `search`, `sort`, `thread`."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from measure.figures import Figure
from measure.server import BenchServer
from measure.wire import Imap
from pochta.delivery.intake import Intake
from pochta.index import rebuild
from pochta.store import directory, mailboxes, messages
from pochta.store.store import Store

MAILBOX = "big"
NAMES = ("Ada", "Bela", "Cleo", "Dana", "Egon", "Fatma", "Goran", "Hanna", "Igor", "Jana", "Kemal", "Lotte", "Milan")
SENDERS = [f"{first} {last}" for first in NAMES for last in ("Petrova", "Okafor")][:25]  # 4 % of the messages each
AREAS, PAPERS = ("budget", "travel", "release", "garden"), ("plan", "list", "note", "draft", "end")
TOPICS = [f"{area} {paper}" for area in AREAS for paper in PAPERS]  # 5 %
KINDS = ("fish", "bird", "ant", "fly", "worm", "wolf", "bear", "deer", "frog", "crab")
ANIMALS = [f"{front}{kind}" for front in ("zebra", "cat", "lion", "clown", "sword") for kind in KINDS]  # 2 %
LINE = "report meeting invoice project schedule update team review request answer\r\n"
DAY_S = 86_400
BEGAN_AT = 1_700_000_000
BATCH = 500
# a twentieth and a fiftieth of what Dovecot takes for 100 000 messages on the machine of docs/performance.md
FROM_GOAL_MS, SUBJECT_GOAL_MS, BODY_GOAL_MS = 12.0, 15.0, 33.0


def _message(number: int) -> bytes:
    """A mail of 1.2 kB; five make a conversation."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(BEGAN_AT + number * 600))
    references = "".join(f"References: <{number - number % 5}@bench.test>\r\n" for _ in range(bool(number % 5)))
    return (
        f"From: {SENDERS[number % 25]} <sender{number % 25}@example.org>\r\nTo: u0@bench.test\r\nDate: {date}\r\n"
        f"Subject: {'Re: ' if number % 5 else ''}{TOPICS[number // 5 % 20]} {number // 5}\r\n"
        f"Message-ID: <{number}@bench.test>\r\n{references}\r\n{LINE * 12}{ANIMALS[number % 50]}\r\n"
    ).encode()


async def _fill(data_dir: Path, count: int) -> None:
    store = Store(data_dir)
    store.start(hears_hints=False)
    intake = Intake(store.blobs, memory_limit_bytes=1 << 26)
    try:
        account_id = (await store.read(0, directory.account, "bench.test", "u0")).id
        await store.write(0, mailboxes.create, account_id, MAILBOX, BEGAN_AT)
        for start in range(0, count, BATCH):
            items = []
            for number in range(start, min(start + BATCH, count)):
                incoming = intake.open()
                incoming.write(_message(number))
                new = await incoming.finish(BEGAN_AT + number * 600)
                items.append((new, messages.NewPlacement(0, (), BEGAN_AT + number * 600, 0)))
            await store.write(0, messages.append, account_id, MAILBOX, tuple(items), BEGAN_AT)
        await rebuild.rebuild(store, data_dir, account_id)
    finally:
        await store.close()


def searching(name: str, *, workers: int, messages: int, repeats: int) -> list[Figure]:
    """The figures of `name`: search, sort or thread."""
    measures = {"search": _search, "sort": _sort, "thread": _thread}
    with BenchServer(workers=workers) as server:
        asyncio.run(_fill(server.data_dir, messages))
        server.start()
        imap = Imap(server.imap_port)
        imap.command(b"SELECT " + MAILBOX.encode())
        imap.command(b"UID SEARCH UNSEEN")  # the view is in memory
        figures = list(measures[name](imap, messages, repeats))
        imap.close()
    return figures


def _ms(imap: Imap, line: str) -> float:
    began = time.perf_counter()
    imap.command(line.encode())
    return (time.perf_counter() - began) * 1e3


def _search(imap: Imap, messages: int, repeats: int) -> Iterator[Figure]:
    """Each text for the first time, the mailbox being warm, and then again."""
    detail: dict[str, object] = {"messages": messages}
    for name, key, words, goal in (
        ("from", "FROM", SENDERS, FROM_GOAL_MS),
        ("subject", "SUBJECT", TOPICS, SUBJECT_GOAL_MS),
        ("body", "BODY", ANIMALS, BODY_GOAL_MS),
    ):
        first, again = [], []
        imap.command(f'UID SEARCH {key} "{words[0]}"'.encode())
        for word in words[1 : 1 + 4 * repeats]:
            first.append(_ms(imap, f'UID SEARCH {key} "{word}"'))
            again.append(_ms(imap, f'UID SEARCH {key} "{word}"'))
        shown = detail | {"found": messages // len(words), "again": f"{median(again):.1f}", "n": len(first)}
        yield Figure(f"search {name}", median(first), "ms", goal, True, shown)
    dates = [time.strftime("%d-%b-%Y", time.gmtime(BEGAN_AT + 600 * messages * part // 7)) for part in range(1, 6)]
    first = [_ms(imap, f"UID SEARCH SENTSINCE {date}") for date in dates]
    again = [_ms(imap, f"UID SEARCH SENTSINCE {dates[-1]}") for _ in dates]
    yield Figure("search sentsince", median(first), "ms", None, True, detail | {"again": f"{median(again):.1f}"})
    threads = [_thread_of(imap, messages * part // 7 + 1) for part in range(1, 6)]
    taken = [_ms(imap, f"UID SEARCH THREADID {thread}") for thread in threads]
    yield Figure("search threadid", median(taken), "ms", None, True, detail)


def _thread_of(imap: Imap, seq: int) -> str:
    answer = imap.command(f"FETCH {seq} (THREADID)".encode())
    return answer.split(b"THREADID (")[1].split(b")")[0].decode()


def _sort(imap: Imap, messages: int, repeats: int) -> Iterator[Figure]:
    yield _after_change("sort subject", imap, messages, repeats, "UID SORT (SUBJECT) UTF-8 ALL")
    yield _after_change("sort date", imap, messages, repeats, "UID SORT (DATE) UTF-8 ALL")


def _thread(imap: Imap, messages: int, repeats: int) -> Iterator[Figure]:
    yield _after_change("thread references", imap, messages, repeats, "UID THREAD REFERENCES UTF-8 ALL")
    yield _after_change("thread refs", imap, messages, repeats, "UID THREAD REFS UTF-8 ALL")


def _after_change(name: str, imap: Imap, messages: int, repeats: int, command: str) -> Figure:
    """How long the command takes after one message has come; what the first one took, and one that repeats."""
    first = _ms(imap, command)
    after, again = [], []
    for _ in range(repeats):
        imap.command(f"UID COPY {messages // 2} {MAILBOX}".encode())
        imap.command(b"NOOP")
        after.append(_ms(imap, command))
        again.append(_ms(imap, command))
    detail: dict[str, object] = {"messages": messages, "first": f"{first:.0f}", "again": f"{median(again):.1f}"}
    return Figure(name, median(after), "ms", None, True, detail | {"n": repeats})
