"""Messages on the wire: dots stuffed while the bytes stream by, and the head of a message that TOP asks for.

Refuses to know where bytes come from. Chunks may be cut anywhere; no byte is looked at twice.
"""

from typing import Final

END: Final = b".\r\n"


class DotStuffer:
    """One message after the other chunk: `feed` each, then `finish`."""

    __slots__ = ("_is_line_start", "_tail")

    def __init__(self) -> None:
        self._is_line_start = True
        self._tail = b"\r\n"  # the last two bytes; an empty message needs no line end

    def feed(self, chunk: bytes) -> bytes:
        """What to send for `chunk`; the same object when no line in it begins with a dot."""
        if not chunk:
            return chunk
        # DEVIATES RFC 1939 §3: a line begins behind a bare LF too. Clients that read up to LF would take the LF "." LF
        # of a hostile message for the end, and what follows for our next answer; those that wait for CRLF see one dot
        # more in a line that RFC 5322 §2.3 forbids.
        stuffed = chunk.replace(b"\n.", b"\n..") if b"\n." in chunk else chunk
        if self._is_line_start and chunk[:1] == b".":
            stuffed = b"." + stuffed
        self._is_line_start = chunk[-1:] == b"\n"
        self._tail = chunk[-2:] if len(chunk) > 1 else self._tail[1:] + chunk
        return stuffed

    def finish(self) -> bytes:
        """The end of the response, behind a CRLF in any case."""
        # RFC 1939 §3: the response ends with CRLF "." CRLF, also where the message lacks its last CRLF
        return END if self._tail == b"\r\n" else b"\r\n" + END


def stuffed_whole(message: bytes) -> bytes:
    """A whole message with the end of its response."""
    if b"\n." not in message and message[:1] != b"." and (message[-2:] == b"\r\n"):
        return message + END
    stuffer = DotStuffer()
    return stuffer.feed(message) + stuffer.finish()


class TopCutter:
    """The first bytes of a message: its header (`header_size`, with the empty line) and `lines` lines of the body."""

    __slots__ = ("_header_left", "_lines_left")

    def __init__(self, header_size: int, lines: int) -> None:
        self._header_left = header_size
        self._lines_left = lines

    @property
    def is_done(self) -> bool:
        """Whether nothing of what follows is wanted."""
        return self._header_left <= 0 and self._lines_left <= 0

    def feed(self, chunk: bytes) -> bytes:
        """What of `chunk` is wanted; the same object when all of it is."""
        body_at = min(self._header_left, len(chunk))
        self._header_left -= body_at
        if self._header_left:
            return chunk
        count = chunk.count(b"\n", body_at)
        if count < self._lines_left:
            self._lines_left -= count
            return chunk
        stop = body_at
        for _ in range(self._lines_left):
            stop = chunk.index(b"\n", stop) + 1
        self._lines_left = 0
        return chunk[:stop]
