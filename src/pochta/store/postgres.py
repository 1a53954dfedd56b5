"""The PostgreSQL backend: the same tables and the same store functions over psycopg.

Decides: placeholders, isolation, what is tried again, how a hint travels. Refuses to know: mail.
Today it is what the contract suite holds the SQL against; `pochta serve` on it, with blobs beside it, comes with the
cluster. One connection serves one call at a time, in a thread of a small pool.

Theory of operation. A write takes the account's advisory lock, then runs under REPEATABLE READ, so that `fn` sees one
snapshot as it does on SQLite. The lock belongs to the connection and is taken before BEGIN: with
pg_advisory_xact_lock the snapshot would be older than the wait for the lock, and every write that had to wait would
fail as not serializable. Writes that reach into other accounts (`deliver`) may still collide; they are run again, the
last time with the whole store locked, since collisions alone would let the same write lose again and again.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final, TypeVar, TypeVarTuple

import psycopg
from psycopg import errors, pq, sql

from pochta.errors import TryLater
from pochta.store import schema, setup, sqlite
from pochta.store.hints import Listener
from pochta.store.tx import Hint, Row, Tx, Value

CONNECTIONS: Final = 8  # threads of one store; the server's default max_connections is 100
ATTEMPTS: Final = 3  # the last one cannot collide any more
STATEMENT_CACHE: Final = 1000  # the store's statements, with every length of its IN lists in use

Args = TypeVarTuple("Args")
R = TypeVar("R")
Connection = psycopg.Connection[Row]


@lru_cache(STATEMENT_CACHE)
def translate(statement: str) -> str:
    """`statement` with psycopg's placeholders. The store's statements hold neither `%` nor a `?` inside a literal."""
    if "%" in statement:
        raise ValueError(f"a statement of the store holds a percent sign: {statement}")
    return statement.replace("?", "%s")


class PostgresTx:
    """`Tx` over a psycopg cursor inside a transaction."""

    __slots__ = ("_cursor", "hints", "mod_seq_floor")

    def __init__(self, connection: Connection, mod_seq_floor: int) -> None:
        self._cursor = connection.cursor(binary=True)
        self.mod_seq_floor = mod_seq_floor
        self.hints: list[Hint] = []

    def rows(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        return self._cursor.execute(translate(sql), args).fetchall()

    def rows_within(self, sql: str, args: Sequence[Value], max_bytes: int) -> tuple[list[Row], bool]:
        cursor = self._cursor.execute(translate(sql), args)
        rows: list[Row] = []
        size = 0
        while part := cursor.fetchmany(sqlite.ROWS_A_LOOK):
            rows += part
            size += sqlite.bytes_in(part)
            if size > max_bytes:
                return rows, cursor.fetchone() is not None
        return rows, False

    def row(self, sql: str, args: Sequence[Value] = ()) -> Row | None:
        return self._cursor.execute(translate(sql), args).fetchone()

    def run(self, sql: str, args: Sequence[Value] = ()) -> int:
        return self._cursor.execute(translate(sql), args).rowcount

    def run_many(self, sql: str, args: Iterable[Sequence[Value]]) -> None:
        self._cursor.executemany(translate(sql), args)

    def hint(self, account_id: int, mod_seq: int) -> None:
        self.hints.append(Hint(account_id, mod_seq))


def create(conninfo: str) -> None:
    """The tables of an empty store, in the schema that `conninfo` leads to.

    Raises:
        psycopg.Error: there are such tables already, or the server does not answer.
    """
    with psycopg.connect(conninfo) as connection:
        for statement in schema.statements("postgres"):
            connection.execute(statement)
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO meta (name, number) VALUES (%s, %s)", setup.first_meta_rows())


class PostgresStore:
    """One process's handle on the store behind `conninfo`. `start` it inside the event loop, `close` it."""

    def __init__(self, conninfo: str, *, connections: int = CONNECTIONS) -> None:
        self._conninfo = conninfo
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="postgres")
        self._idle: list[Connection] = []
        self._listening: Connection | None = None
        self._listeners: list[Listener] = []
        with self._connect() as connection:
            row = connection.execute(
                "SELECT number, 'pochta_' || current_schema() FROM meta WHERE name = 'mod_seq_floor'"
            ).fetchone()
        assert row is not None
        self.mod_seq_floor: int = row[0]
        self._channel: str = row[1]  # notices reach a whole database; a store is one schema of it

    def _connect(self) -> Connection:
        return psycopg.connect(self._conninfo, autocommit=True)

    def start(self) -> None:
        """Listen for the hints of every process of this store, this one included."""
        self._listening = self._connect()
        self._listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._receive)

    async def close(self) -> None:
        """Finish what runs and close every connection."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._idle:
            connection.close()

    def write(
        self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args, durable: bool = True
    ) -> "asyncio.Future[R]":
        """As `Store.write`; `durable=False` does not wait for the server's disk.

        Raises:
            TryLater: the server does not answer, or collisions do not end. Whatever `fn` raises.
        """
        work = partial(self._write, account_id, durable, fn, args)
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def read(self, account_id: int, fn: Callable[[Tx, *Args], R], *args: *Args) -> "asyncio.Future[R]":
        """As `Store.read`, in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, partial(self._read, fn, args))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each batch of hints, in the event loop; the answer ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _write(self, account_id: int, is_durable: bool, fn: Callable[..., R], args: tuple[Any, ...]) -> R:
        def work(connection: Connection) -> R:
            for attempt in range(ATTEMPTS):
                self._lock(connection, account_id, is_alone=attempt == ATTEMPTS - 1)
                try:
                    return self._attempt(connection, is_durable, fn, args)
                except (errors.SerializationFailure, errors.DeadlockDetected):
                    continue
                finally:
                    if not connection.broken:
                        connection.execute("SELECT pg_advisory_unlock_all()")
            raise TryLater("the store is busy", retry_s=10)

        return self._with_connection(work)

    def _lock(self, connection: Connection, account_id: int, *, is_alone: bool) -> None:
        # Store before account, so that nobody waits in a circle. Two stores in one database only wait more than needed.
        if is_alone:
            connection.execute("SELECT pg_advisory_lock(hashtext(%s), 0)", (self._channel,))
        else:
            connection.execute("SELECT pg_advisory_lock_shared(hashtext(%s), 0)", (self._channel,))
            connection.execute("SELECT pg_advisory_lock(%s)", (account_id,))

    def _attempt(self, connection: Connection, is_durable: bool, fn: Callable[..., R], args: tuple[Any, ...]) -> R:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if not is_durable:
                connection.execute("SET LOCAL synchronous_commit = off")
            tx = PostgresTx(connection, self.mod_seq_floor)
            result = fn(tx, *args)
            for account_id, mod_seq in tx.hints:  # the server sends them on COMMIT, and only then (INV-4)
                connection.execute("SELECT pg_notify(%s, %s)", (self._channel, f"{account_id}:{mod_seq}"))
        return result

    def _read(self, fn: Callable[..., R], args: tuple[Any, ...]) -> R:
        def work(connection: Connection) -> R:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return fn(PostgresTx(connection, self.mod_seq_floor), *args)

        return self._with_connection(work)

    def _with_connection(self, work: Callable[[Connection], R]) -> R:
        """Run `work` on a connection of its own; one that broke is not used again."""
        connection: Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else self._connect()  # at most one for each thread
            return work(connection)
        except psycopg.OperationalError as error:
            raise TryLater("the store does not answer", retry_s=10) from error
        finally:
            if connection is not None:
                if connection.info.transaction_status == pq.TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _receive(self) -> None:
        connection = self._listening
        if connection is None:
            return
        hints: list[Hint] = []
        try:
            connection.pgconn.consume_input()
            while notice := connection.pgconn.notifies():
                account_id, _, mod_seq = notice.extra.decode("ascii").partition(":")
                hints.append(Hint(int(account_id), int(mod_seq)))
        except psycopg.OperationalError:
            # The server went away: a hint is only a hint, what reads or writes next hears of it.
            asyncio.get_running_loop().remove_reader(connection.fileno())
            return
        for listener in tuple(self._listeners) if hints else ():
            listener(hints)
