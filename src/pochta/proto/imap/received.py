"""What has been received and not yet turned into events: one buffer, and where in it the present command stands.

`offset` is where the present command begins, `segment` where its present line begins (after a literal), `scan` where no
LF has been looked for yet. A literal that belongs to the command stays where it is; so no octet is searched twice and
the buffer is not copied per line. Refuses to know what a command is.
"""

import re
from typing import Final

_LITERAL_END: Final = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\r\n")
_LITERAL_END_BYTES: Final = 27
"""The longest match of _LITERAL_END: 20 digits and 7 others (`~{` `+}` CRLF, and one to spare)."""

_CR: Final = 0x0D
_BRACE_CLOSE: Final = 0x7D

_TOO_LONG: Final = "line is too long"
_BARE_LF: Final = "lines must end with CR LF"


class Received:
    """The octets of one connection; `data[offset:]` are unused."""

    __slots__ = ("_literal_end", "data", "offset", "scan", "segment")

    def __init__(self) -> None:
        self.data = bytearray()
        self.offset = self.segment = self.scan = 0
        self._literal_end = 0  # where the literal that is being waited for ends; 0 for none

    def add(self, data: bytes) -> None:
        """Takes what the peer sent."""
        offset = self.offset
        if offset:
            # Cheap: the front of a bytearray is cut off by moving a pointer; bytes move once it is half empty.
            del self.data[:offset]
            self.offset = 0
            self.segment -= offset
            self.scan -= offset
            if self._literal_end:
                self._literal_end -= offset
        self.data += data

    def clear(self) -> None:
        """Forgets everything."""
        self.data.clear()
        self.start_at(0)

    def start_at(self, offset: int) -> None:
        """Lets the next command, or what stands for one, begin there."""
        self.offset = self.segment = self.scan = offset
        self._literal_end = 0

    def available(self, wanted: int) -> int:
        """How many of the next `wanted` octets are there."""
        return min(wanted, len(self.data) - self.offset)

    def take(self, end: int) -> bytes:
        """The present command up to `end`, as octets of their own."""
        with memoryview(self.data) as view:
            return bytes(view[self.offset : end])

    def collect(self, start: int, size: int) -> None:
        """Lets the literal of `size` octets at `start` be part of the command; its next line stands behind that."""
        self._literal_end = start + size

    def is_collected(self) -> bool:
        """Whether the literal that belongs to the command, if there is one, is there."""
        if self._literal_end:
            if len(self.data) < self._literal_end:
                return False
            self.segment = self.scan = self._literal_end
            self._literal_end = 0
        return True

    def find_line(self, max_bytes: int) -> int | str | None:
        """Where the LF of the present line is; a complaint about the line; None when it is not complete."""
        data, segment = self.data, self.segment
        line_feed = data.find(b"\n", self.scan)
        if line_feed < 0:
            if len(data) - segment >= max_bytes:
                return _TOO_LONG
            self.scan = len(data)
            if self.scan == self.offset:
                # A connection that goes idle keeps no memory for what it once received.
                self.clear()
            return None
        if line_feed - segment >= max_bytes:
            return _TOO_LONG
        if line_feed == segment or data[line_feed - 1] != _CR:
            return _BARE_LF
        return line_feed

    def find_literal(self, line_feed: int) -> re.Match[bytes] | None:
        """The literal announced at the end of the present line: (`~` or nothing, size, `+` or nothing)."""
        # RFC 7888 §3: the end of every received line is checked
        if line_feed - self.segment < 4 or self.data[line_feed - 2] != _BRACE_CLOSE:
            return None
        return _LITERAL_END.search(self.data, max(self.segment, line_feed + 1 - _LITERAL_END_BYTES), line_feed + 1)

    def discard_line(self) -> int | None:
        """Throws away lines up to one that ends with CRLF; where its LF is, None when it is not there."""
        while True:
            line_feed = self.data.find(b"\n", self.scan)
            if line_feed < 0:
                # The end of the line decides about a literal; all before that can go.
                self.scan = len(self.data)
                self.offset = self.segment = max(self.offset, self.scan - _LITERAL_END_BYTES)
                return None
            if line_feed > self.offset and self.data[line_feed - 1] == _CR:
                return line_feed
            self.start_at(line_feed + 1)
