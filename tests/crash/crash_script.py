"""A short life of a store, each kind of change in it, and what the store holds after each of them.

The lane is first in, first out, and every change is all or nothing; so whatever happens to the machine, a store holds
the outcome of the first k changes for some k. `outcomes` knows all of those.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crash_server import NOW

from pochta.store import directory, flags, mailboxes, messages, placements, setup, sqlite
from pochta.store.blobs import NewBlob
from pochta.store.checkpoint import Checkpointer
from pochta.store.placements import FlagMode
from pochta.store.store import Store
from pochta.store.tx import Tx

ANNA, BERT = 1, 2
FILE_BYTES = 70_000

Dump = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Op:
    """One change: `fn(tx, *args)`; `file` are bytes that are put into a file first, and become the message."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    is_durable: bool = True
    in_thread: bool = False
    file: bytes | None = None

    async def args_in(self, store: Store) -> tuple[Any, ...]:
        if self.file is None:
            return self.args
        blob = await store.blobs.put([self.file[:40_000], self.file[40_000:]])
        return tuple(_with_blob(arg, blob) for arg in self.args)


def _with_blob(arg: Any, blob: NewBlob) -> Any:
    return arg._replace(blob=blob) if isinstance(arg, messages.NewMessage) else arg


def new_message(subject: str, size: int = 300) -> messages.NewMessage:
    content = (subject.encode() + b" ") * (size // (len(subject) + 1) + 1)
    return messages.NewMessage(
        blob=NewBlob(size, content[:size], None),
        header_size=min(size, 40),
        received_at=NOW,
        sent_at=None,
        sent_day=None,
        ref_hashes=(int(subject),),
        subject_hash=1,
        base_subject=subject,
        from_key="",
        to_key="",
        cc_key="",
        preview="",
        envelope=b"(NIL)",
        body_structure=b"(NIL)",
        header_core=b"",
        derived_version=1,
    )


def deliver(subject: str, *accounts: int, size: int = 300) -> Op:
    return Op(messages.deliver, (accounts, new_message(subject, size)))


def append(tx: Tx, account_id: int, path: str, new: messages.NewMessage, keyword: str) -> None:
    placed = messages.NewPlacement(flags.SEEN, (keyword,), NOW, 60)
    messages.append(tx, account_id, path, ((new, placed),), NOW)


def set_flags(tx: Tx, account_id: int, path: str, first: int, last: int, bits: int) -> None:
    mailbox = mailboxes.find(tx, account_id, path)
    placements.set_flags(tx, account_id, mailbox.id, ((first, last),), FlagMode.ADD, bits, (), NOW)


def copy(tx: Tx, account_id: int, path: str, first: int, last: int, to_path: str) -> None:
    mailbox = mailboxes.find(tx, account_id, path)
    placements.copy(tx, account_id, mailbox.id, ((first, last),), to_path, NOW)


def move(tx: Tx, account_id: int, path: str, first: int, last: int, to_path: str) -> None:
    mailbox = mailboxes.find(tx, account_id, path)
    placements.move(tx, account_id, mailbox.id, ((first, last),), to_path, NOW)


def expunge(tx: Tx, account_id: int, path: str) -> None:
    mailbox = mailboxes.find(tx, account_id, path)
    placements.expunge(tx, account_id, mailbox.id, ((1, 1 << 32),), NOW)


def large(subject: str) -> bytes:
    return (subject.encode() + b"\n") * (FILE_BYTES // (len(subject) + 1) + 1)


def flag(path: str, first: int, last: int, bits: int) -> Op:
    return Op(set_flags, (ANNA, path, first, last, bits), is_durable=False)


CHECKPOINT = "checkpoint"  # the log is copied into the database and starts over
Step = list[Op] | str

# Each step's changes are handed to the lane together.
SCRIPT: tuple[Step, ...] = (
    [deliver("1", ANNA, BERT)],
    [deliver("2", ANNA), deliver("3", ANNA, size=9000), flag("INBOX", 1, 1, flags.FLAGGED)],
    [flag("INBOX", 1, 2, flags.SEEN)],
    [flag("INBOX", 2, 3, flags.ANSWERED)],
    [Op(mailboxes.create, (ANNA, "Work/Old", NOW))],
    CHECKPOINT,
    [Op(append, (ANNA, "Work", new_message("5", len(large("5"))), "$Label"), file=large("5"))],
    [Op(copy, (ANNA, "INBOX", 1, 3, "Work/Old"), in_thread=True), deliver("7", BERT)],
    [flag("Work/Old", 1, 1, flags.DELETED), flag("INBOX", 3, 3, flags.DELETED)],
    [Op(move, (ANNA, "INBOX", 2, 2, "Work"))],
    [Op(expunge, (ANNA, "INBOX")), deliver("6", BERT, ANNA)],
    [Op(mailboxes.remove, (ANNA, "Work/Old", NOW))],
    [flag("INBOX", 1, 9, flags.SEEN)],
)
OPS: tuple[Op, ...] = tuple(op for step in SCRIPT if not isinstance(step, str) for op in step)


def make(data_dir: Path) -> None:
    """The store in which the script begins."""
    setup.create(data_dir)

    async def fill() -> None:
        store = Store(data_dir)
        store.start(hears_hints=False)
        await store.write(0, directory.add_domain, "example.org", "example.org", None, NOW)
        for name in ("anna", "bert"):
            await store.write(0, directory.add_account, "example.org", name, f"{name}@example.org", "", 0, NOW)
        await store.close()

    asyncio.run(fill())


async def play(
    store: Store,
    *,
    vfs: str | None = None,
    steps: Sequence[Step] = SCRIPT,
    on_submit: Callable[[int], None] = lambda number: None,
    on_answer: Callable[[int, "asyncio.Future[Any]"], None] = lambda number, future: None,
) -> list[BaseException | None]:
    """The error of each change, None where it succeeded; changes are numbered as in OPS."""
    errors: list[BaseException | None] = []
    checkpointer = Checkpointer(store.data_dir, vfs=vfs, restart_bytes=0)
    for step in steps:
        if isinstance(step, str):
            checkpointer.step()
            continue
        futures: list[asyncio.Future[Any]] = []
        made: list[tuple[Any, ...] | BaseException] = []
        for op in step:
            try:
                made.append(await op.args_in(store))
            except OSError as error:
                made.append(error)
        for op, args in zip(step, made, strict=True):
            number = len(errors) + len(futures)
            on_submit(number)
            if isinstance(args, BaseException):
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                future.set_exception(sqlite.as_try_later(args))  # type: ignore[arg-type]  # an OSError
            else:
                future = store.write(ANNA, op.fn, *args, durable=op.is_durable, in_thread=op.in_thread)
            future.add_done_callback(partial(on_answer, number))
            futures.append(future)
        async with asyncio.timeout(30):  # a write that is never answered is a bug, not a long wait
            results = await asyncio.gather(*futures, return_exceptions=True)
        errors += [result if isinstance(result, BaseException) else None for result in results]
    checkpointer.close()
    return errors


_TABLES = (
    "account",
    "keyword",
    "mailbox",
    "message",
    "message_ref",
    "placement",
    "removed",
    "change",
    "subscription",
    "task",
)


def dump(data_dir: Path) -> Dump:
    """All that the store holds, bytes of files by their content; a file that is missing raises."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    try:
        rows = [
            (name, *row) for name in _TABLES for row in sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
        ]
        found = connection.execute(
            "SELECT b.id, b.size, i.bytes, b.file FROM blob b LEFT JOIN blob_inline i ON i.blob_id = b.id ORDER BY b.id"
        )
        for blob_id, size, inline, file in found:
            content = inline if file is None else (data_dir / "blobs" / file[-2:] / file).read_bytes()
            rows.append(("blob", blob_id, size, content))
        return tuple(rows)
    finally:
        connection.close()


def outcomes(data_dir: Path, ops: Sequence[Op]) -> list[Dump]:
    """What the store holds after the first k changes, for each k from 0; `data_dir` is a store as `make` makes it."""
    found = [dump(data_dir)]

    async def run() -> None:
        store = Store(data_dir)
        store.start(hears_hints=False)
        for op in ops:
            await asyncio.gather(store.write(ANNA, op.fn, *await op.args_in(store)), return_exceptions=True)
            found.append(dump(data_dir))
        await store.close()

    asyncio.run(run())
    return found
