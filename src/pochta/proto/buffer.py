"""What a peer sent and an engine has not used yet, cut into lines and byte runs in linear time.

Decides where a line ends (at LF) and when it is too long; refuses to know what a line means. Whether the bare LF of
`b"x\\n"` is good enough is for the engine to judge, so `take_line` hands out lines with their line end.

Invariants: every byte fed is handed out or dropped once; no byte is searched twice for the same line; a chunk fed into
an empty buffer is kept as it is (no copy) until a second chunk arrives behind it.
"""

from typing import Final

from pochta.errors import RemoteProtocolError

LF: Final = b"\n"
CRLF: Final = b"\r\n"


class InputBuffer:
    """Bytes in, lines and byte runs out.

    `resync` is what ends the rest of an over-long line: LF, or CRLF for protocols in which a bare LF could smuggle a
    command out of such a line.
    """

    __slots__ = ("_data", "_resync", "_scanned", "_skip_to", "_start")

    def __init__(self, *, resync: bytes = LF) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0  # first byte not handed out
        self._scanned = 0  # no LF before this offset
        self._resync = resync
        self._skip_to: bytes | None = None  # dropping everything through this delimiter

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Append `data`. Amortised O(len(data))."""
        kept = self._data
        if self._start == len(kept):
            self._data = data
            self._start = self._scanned = 0
            return
        if isinstance(kept, bytes):
            self._data = kept = bytearray(memoryview(kept)[self._start :])
        elif self._start:
            # CPython drops a bytearray's head by moving its start, without copying what stays.
            del kept[: self._start]
        self._scanned = max(0, self._scanned - self._start)
        self._start = 0
        kept += data

    def take_line(self, max_bytes: int) -> bytes | None:
        """The next line with its LF or CRLF, or None when it is not complete.

        Raises:
            RemoteProtocolError: the line is longer than `max_bytes` (line end included). Raised once for that line;
                the rest of it, through `resync`, is dropped as it arrives, and the next call goes on behind it.
        """
        if self._skip_to is not None and not self._skip():
            return None
        data, start = self._data, self._start
        end = data.find(LF, max(start, self._scanned)) + 1
        if (end or len(data)) - start > max_bytes:
            # One byte is left in front: it may be the CR of the CRLF that ends this line.
            self._start = start + max_bytes - 1
            self._skip_to = self._resync
            raise RemoteProtocolError("line too long")
        if not end:
            self._scanned = len(data)
            return None
        self._start = end
        line = data[start:end]
        return line if isinstance(line, bytes) else bytes(line)

    def take(self, max_bytes: int) -> bytes:
        """At most `max_bytes` of what is there, perhaps none. No copy when that is one whole chunk as it was fed."""
        if self._skip_to is not None and not self._skip():
            return b""
        data, start = self._data, self._start
        stop = min(len(data), start + max_bytes)
        self._start = stop
        taken = data[start:stop]
        return taken if isinstance(taken, bytes) else bytes(taken)

    def window(self) -> tuple[bytes | bytearray, int]:
        """All that is held, and where the unused part begins; for a scanner that then calls `drop`.

        The object is the buffer's own: it must not be kept over the next call of `feed`.
        """
        if self._skip_to is not None:
            self._skip()
        return self._data, self._start

    def drop(self, count: int) -> None:
        """Forget the next `count` bytes, which must be there."""
        self._start += count

    def skip_through(self, delimiter: bytes) -> None:
        """Drop everything through the next `delimiter`, also when it has yet to arrive."""
        self._skip_to = delimiter
        self._skip()

    def clear(self) -> None:
        """Forget everything, also an over-long line that was being dropped."""
        self._data = b""
        self._start = self._scanned = 0
        self._skip_to = None

    def _skip(self) -> bool:
        delimiter = self._skip_to
        assert delimiter is not None
        at = self._data.find(delimiter, self._start)
        if at < 0:
            # The delimiter's first bytes may be here and the rest not yet.
            self._start = max(self._start, len(self._data) - len(delimiter) + 1)
            return False
        self._start = at + len(delimiter)
        self._skip_to = None
        return True
