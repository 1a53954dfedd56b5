"""A started store in a folder, and messages to put into it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from zlib import crc32

from pochta.store import blobs, directory, invariants, messages, setup
from pochta.store.blobs import NewBlob
from pochta.store.store import Store
from pochta.store.tx import Row, Tx, Value

NOW = 1_750_000_000
DAY = 86_400


def new_message(
    size: int = 100, *, file: str | None = None, received_at: int = NOW, ref: int = 0
) -> messages.NewMessage:
    return messages.NewMessage(
        blob=NewBlob(size, None if file else b"x" * size, file, crc32(b"y" * size) if file else 0),
        header_size=min(size, 40),
        received_at=received_at,
        sent_at=None,
        sent_day=None,
        ref_hashes=(ref,) if ref else (),
        subject_hash=1,
        base_subject="subject",
        from_key="a@example.org",
        to_key="b@example.org",
        cc_key="",
        preview="Grüße",
        envelope=b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)",
        body_structure=b'("text" "plain" NIL NIL NIL "7bit" 100 1)',
        header_core=b"Subject: subject\r\n",
        derived_version=1,
    )


def item(size: int = 100, flags: int = 0) -> tuple[messages.NewMessage, messages.NewPlacement]:
    return new_message(size), messages.NewPlacement(flags, (), NOW, 0)


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[Store]:
    """The store in `data_dir`, made if need be, with its domain."""
    if not (data_dir / "pochta.db").exists():
        setup.create(data_dir)
    store = Store(data_dir)
    store.start(hears_hints=False)
    try:
        yield store
    finally:
        await store.close()


async def new_account(store: Store, local_part: str = "anna", domain: str = "example.org") -> int:
    if not await query(store, "SELECT 1 FROM domain WHERE name = ?", domain):
        await store.write(0, directory.add_domain, domain, domain, None, NOW)
    return await store.write(0, directory.add_account, domain, local_part, f"{local_part}@{domain}", "", 0, NOW)


async def query(store: Store, sql: str, *args: Value) -> list[Row]:
    return await store.read(0, _query, sql, args)


async def execute(store: Store, sql: str, *args: Value) -> int:
    return await store.write(0, _execute, sql, args)


async def count(store: Store, table: str) -> int:
    return int((await query(store, f"SELECT count(*) FROM {table}"))[0][0])


async def put_file(store: Store, size: int = 200_000) -> str:
    """The name of a durable blob file that no row names yet."""
    new = await store.blobs.put([b"y" * size])
    assert new.file is not None
    return new.file


async def errors(store: Store) -> list[str]:
    return [str(finding) for finding in await store.read(0, invariants.check_all) if finding.severity == "error"]


def _query(tx: Tx, sql: str, args: Sequence[Value]) -> list[Row]:
    return tx.rows(sql, args)


def _execute(tx: Tx, sql: str, args: Sequence[Value]) -> int:
    return tx.run(sql, args)


def insert_blob(tx: Tx, new: NewBlob, now: int) -> int:
    return blobs.insert(tx, new, now)
