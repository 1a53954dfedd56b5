"""The queue in parts, so that every worker sends: destinations by their name, reports by their message's number.

A destination belongs to one share: what is known of it (who is under way, whose turn it is) need not be told to others.
"""

from typing import Final, NamedTuple
from zlib import crc32

LEASE: Final = "queue"  # whoever holds it works on the first share
SHARDS: Final = 1 << 15  # numbers that names fall on; many more than there are workers


class Share(NamedTuple):
    """One of `of` parts; one process at a time works on it, under its lease."""

    number: int = 0
    of: int = 1

    @property
    def lease(self) -> str:
        """The lease under which it is worked on."""
        return f"{LEASE}-{self.number}" if self.number else LEASE

    @property
    def shards(self) -> tuple[int, int]:
        """The first number of its names, and the first behind them."""
        return self.number * SHARDS // self.of, (self.number + 1) * SHARDS // self.of

    def has(self, destination: str) -> bool:
        """Whether the destination belongs to it."""
        first, end = self.shards
        return first <= shard_of(destination) < end


WHOLE: Final = Share()


def shard_of(destination: str) -> int:
    """A number below SHARDS that is always the same for a name."""
    return crc32(destination.encode("utf-8", "replace")) % SHARDS
