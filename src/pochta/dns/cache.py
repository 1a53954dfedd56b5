"""What was answered, for as long as it holds: least used entries go first, and the bytes are bounded, too."""

from collections import OrderedDict
from typing import Final, Generic, NamedTuple, TypeVar

# Answers have about 100 bytes; some TXT have thousands. In memory an answer takes about four times its bytes, so the
# default of 10 000 entries holds at most 20 MiB.
MEAN_BYTES: Final = 512

V = TypeVar("V")

Key = tuple[str, str]


class _Entry(NamedTuple, Generic[V]):
    value: V
    from_s: float
    until_s: float
    size_bytes: int


class Cache(Generic[V]):
    """At most `size` values, and `size * MEAN_BYTES` bytes of them. Knows no clock."""

    __slots__ = ("_entries", "_free_bytes", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._free_bytes = size * MEAN_BYTES
        self._entries: OrderedDict[Key, _Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now_s: float) -> V | None:
        """The value while it holds. A clock that was set back ends it, too: else it might hold for years."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.from_s <= now_s < entry.until_s:
            self._entries.move_to_end(key)
            return entry.value
        self._drop(key)
        return None

    def put(self, key: Key, value: V, now_s: float, ttl_s: float, size_bytes: int) -> None:
        """Keep a value for `ttl_s`; nothing where the cache is too small for it."""
        self._drop(key)
        self._entries[key] = _Entry(value, now_s, now_s + ttl_s, size_bytes)
        self._free_bytes -= size_bytes
        while len(self._entries) > self._size or self._free_bytes < 0:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._free_bytes += entry.size_bytes
