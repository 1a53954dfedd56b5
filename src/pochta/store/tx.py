"""What a store function sees: one transaction, the same on every backend.

SQL is written with `?` placeholders and the words SQLite and PostgreSQL share; a backend puts in its own placeholders.
A store function is a plain module-level function `fn(tx, *args)`: no await, no side effect besides `tx`, arguments that
msgspec can encode; it may be run again.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

Value = None | int | str | bytes
Row = tuple[Any, ...]  # columns are as typed as the SQL that asked for them


class Hint(NamedTuple):
    """News that `account_id` has changed up to `mod_seq`; may be lost, merged or reordered (INV-4)."""

    account_id: int
    mod_seq: int


class Tx(Protocol):
    """One transaction: every read sees one snapshot, every write is all or nothing."""

    @property
    def mod_seq_floor(self) -> int:
        """No mod_seq at or below this may be given out any more (INV-3)."""

    def rows(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of the answer."""

    def rows_within(self, sql: str, args: Sequence[Value], max_bytes: int) -> tuple[list[Row], bool]:
        """The first rows, up to about `max_bytes` of bytes columns, at least one; whether there are more."""

    def row(self, sql: str, args: Sequence[Value] = ()) -> Row | None:
        """The first row, or None."""

    def run(self, sql: str, args: Sequence[Value] = ()) -> int:
        """Run a statement that returns no rows; the number of rows it touched."""

    def run_many(self, sql: str, args: Iterable[Sequence[Value]]) -> None:
        """Run one statement once for each row of `args`."""

    def hint(self, account_id: int, mod_seq: int) -> None:
        """Announce a change once, and only if, this transaction is committed."""
