"""A store of either backend, driven one call at a time, and messages to put into it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar, TypeVarTuple

from pochta.store import changes, directory, invariants, mailboxes, messages, placements
from pochta.store.blobs import NewBlob
from pochta.store.placements import Copied, FlagMode
from pochta.store.tx import Hint, Row, Tx, Value

NOW = 1_750_000_000
EVERYTHING = ((1, messages.UID_LIMIT),)

Args = TypeVarTuple("Args")
R = TypeVar("R")


class AnyStore(Protocol):
    """What `Store` and `PostgresStore` share."""

    def write(
        self, account_id: int, fn: Callable[..., R], *args: object, durable: bool = True
    ) -> "asyncio.Future[R]": ...

    def read(self, account_id: int, fn: Callable[..., R], *args: object) -> Any: ...


def new_message(
    size: int = 100, *, refs: Iterable[int] = (), subject_hash: int = 1, received_at: int = NOW
) -> messages.NewMessage:
    return messages.NewMessage(
        blob=NewBlob(size, b"x" * size, None),
        header_size=min(size, 40),
        received_at=received_at,
        sent_at=None,
        sent_day=None,
        ref_hashes=tuple(refs),
        subject_hash=subject_hash,
        base_subject="subject",
        from_key="a@example.org",
        to_key="b@example.org",
        cc_key="",
        preview="Grüße",
        envelope=b"(NIL)",
        body_structure=b'("text" "plain")',
        header_core=b"Subject: subject\r\n",
        derived_version=1,
    )


def item(
    size: int = 100, system_flags: int = 0, keywords: tuple[str, ...] = (), *, internal_date: int = NOW
) -> tuple[messages.NewMessage, messages.NewPlacement]:
    return new_message(size), messages.NewPlacement(system_flags, keywords, internal_date, 120)


class CountingTx:
    """A Tx that counts its statements; `writes` counts those that change rows."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.mod_seq_floor = tx.mod_seq_floor
        self.statements = 0

    def rows(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        self.statements += 1
        return self._tx.rows(sql, args)

    def rows_within(self, sql: str, args: Sequence[Value], max_bytes: int) -> tuple[list[Row], bool]:
        self.statements += 1
        return self._tx.rows_within(sql, args, max_bytes)

    def row(self, sql: str, args: Sequence[Value] = ()) -> Row | None:
        self.statements += 1
        return self._tx.row(sql, args)

    def run(self, sql: str, args: Sequence[Value] = ()) -> int:
        self.statements += 1
        return self._tx.run(sql, args)

    def run_many(self, sql: str, args: Iterable[Sequence[Value]]) -> None:
        for one in args:
            self.run(sql, one)

    def hint(self, account_id: int, mod_seq: int) -> None:
        self._tx.hint(account_id, mod_seq)


def counted(tx: Tx, fn: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """How many statements `fn(tx, *args)` runs."""
    counting = CountingTx(tx)
    fn(counting, *args)
    return counting.statements


def query(tx: Tx, sql: str, args: Sequence[Value]) -> list[Row]:
    return tx.rows(sql, args)


def execute(tx: Tx, sql: str, args: Sequence[Value]) -> int:
    return tx.run(sql, args)


def floor_of(tx: Tx) -> int:
    return tx.mod_seq_floor


class Backend:
    """A started store, its loop, and short names for what the tests do most."""

    def __init__(self, name: str, store: AnyStore, runner: asyncio.Runner) -> None:
        self.name = name
        self.store = store
        self.runner = runner
        self._hints: list[Hint] = []
        self._marks = 0
        self._heard = asyncio.Event()

    def run(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        return self.runner.run(work())

    def write(self, account_id: int, fn: Callable[..., R], *args: object, durable: bool = False) -> R:
        async def work() -> R:
            return await self.store.write(account_id, fn, *args, durable=durable)

        return self.run(work)

    def read(self, account_id: int, fn: Callable[..., R], *args: object) -> R:
        async def work() -> R:
            result: R = await self.store.read(account_id, fn, *args)
            return result

        return self.run(work)

    def query(self, sql: str, *args: Value) -> list[Row]:
        return self.read(0, query, sql, args)

    def execute(self, sql: str, *args: Value) -> int:
        return self.write(0, execute, sql, args)

    def hear(self, hints: list[Hint]) -> None:
        """The listener of the store."""
        self._hints += hints
        self._heard.set()

    @property
    def hints(self) -> list[Hint]:
        """Every hint so far; hints come in the order of the commits, so that one of our own is the last."""
        self._marks += 1
        mark = Hint(-1, self._marks)

        async def arrive() -> None:
            await self.store.write(0, _mark, mark.mod_seq)
            async with asyncio.timeout(10):
                while mark not in self._hints:
                    await self._heard.wait()
                    self._heard.clear()

        self.run(arrive)
        return [hint for hint in self._hints if hint.account_id > 0]

    def new_account(self, local_part: str, quota_bytes: int = 0) -> int:
        if not self.query("SELECT 1 FROM domain WHERE name = ?", "example.org"):
            self.write(0, directory.add_domain, "example.org", "example.org", None, NOW)
        address = f"{local_part}@example.org"
        return self.write(0, directory.add_account, "example.org", local_part, address, "", quota_bytes, NOW)

    def mailbox(self, account_id: int, path: str) -> mailboxes.Mailbox:
        return self.read(account_id, mailboxes.find, account_id, path)

    def append(self, account_id: int, path: str, *items: tuple[Any, Any]) -> messages.Appended:
        return self.write(account_id, messages.append, account_id, path, items, NOW)

    def set_flags(
        self, account_id: int, path: str, mode: FlagMode, bits: int, *keywords: str, ranges: object = EVERYTHING
    ) -> int:
        mailbox_id = self.mailbox(account_id, path).id
        return self.write(account_id, placements.set_flags, account_id, mailbox_id, ranges, mode, bits, keywords, NOW)

    def copy(self, account_id: int, path: str, to_path: str, ranges: object = EVERYTHING) -> Copied:
        mailbox_id = self.mailbox(account_id, path).id
        return self.write(account_id, placements.copy, account_id, mailbox_id, ranges, to_path, NOW)

    def move(self, account_id: int, path: str, to_path: str, ranges: object = EVERYTHING) -> Copied:
        mailbox_id = self.mailbox(account_id, path).id
        return self.write(account_id, placements.move, account_id, mailbox_id, ranges, to_path, NOW)

    def expunge(self, account_id: int, path: str, ranges: object = EVERYTHING, *, needs_deleted: bool = True) -> int:
        mailbox_id = self.mailbox(account_id, path).id
        return self.write(account_id, placements.expunge, account_id, mailbox_id, ranges, NOW, needs_deleted)

    def flags(self, account_id: int, path: str) -> dict[int, int]:
        mailbox_id = self.mailbox(account_id, path).id
        return dict(self.read(account_id, placements.flags_of, account_id, mailbox_id, EVERYTHING))

    def changes(self, account_id: int, path: str, mod_seq: int) -> list[tuple[int, str]]:
        mailbox_id = self.mailbox(account_id, path).id
        found = self.read(account_id, _since, account_id, mailbox_id, mod_seq)
        assert found is not None
        return found

    def mod_seq(self, account_id: int) -> int:
        return int(self.query("SELECT mod_seq FROM account WHERE id = ?", account_id)[0][0])

    def quota(self, account_id: int) -> tuple[int, int]:
        """(messages, bytes) that count."""
        return self.query("SELECT message_count, used_bytes FROM account WHERE id = ?", account_id)[0]

    def findings(self) -> list[str]:
        return [str(finding) for finding in self.read(0, invariants.check_all) if finding.severity == "error"]


def _mark(tx: Tx, number: int) -> None:
    tx.hint(-1, number)


def _since(tx: Tx, account_id: int, mailbox_id: int, mod_seq: int) -> list[tuple[int, str]] | None:
    return changes.since(tx, account_id, mailbox_id, mod_seq, limit=1000)
