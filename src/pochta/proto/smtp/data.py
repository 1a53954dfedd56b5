"""The message after DATA: where it ends, its dots unstuffed, in whole chunks and never by lines.

Theory of operation. The message is what stands before the first `CRLF . CRLF`, where the CRLF of the DATA command
counts as the first one. A decoder remembers how many bytes of that mark the chunks so far end with (0 to 4); what was
matched is put in front of the next chunk, so that every search sees the mark whole. A dot that begins a line is never
part of the message, so it is dropped without waiting for what follows; a CR behind such a dot is withheld.

Bare CR or LF. Servers that disagree on what ends a line let a client smuggle a second message inside the first. Here
only CRLF . CRLF ends the data, whatever the mode; the modes differ in what becomes of the message (`BareNewline`).
"""

from enum import StrEnum
from typing import Final

from pochta.proto.smtp.events import DataFault

END_OF_DATA: Final = b"\r\n.\r\n"
_DOT_LINE: Final = b"\r\n."

# By the number of bytes of the mark that were seen: how many of them are in the message and were handed out.
_HANDED_OUT: Final = (0, 1, 2, 2, 2)


class BareNewline(StrEnum):
    """What becomes of a message with a CR or LF that is not part of a CRLF."""

    REFUSE = "refuse"  # RFC 5321 §4.1.1.4: lines that end in LF alone must not be accepted
    # DEVIATES RFC 5321 §4.1.1.4: a bare LF is made a CRLF, for appliances and scripts that know no better. It ends a
    # line, never the data. A bare CR is refused here, too: nothing sends it by mistake.
    NORMALISE = "normalise"


class DataDecoder:
    """Decodes one message. `size` counts its bytes, dots and end mark not included."""

    __slots__ = ("_after_bare_lf", "_matched", "_max_bytes", "_normalises", "fault", "is_done", "size")

    def __init__(self, max_bytes: int, bare_newline: BareNewline) -> None:
        self._max_bytes = max_bytes
        self._normalises = bare_newline is BareNewline.NORMALISE
        self._matched = 2  # the CRLF of the DATA command
        self._after_bare_lf = False
        self.fault: DataFault | None = None
        self.is_done = False
        self.size = 0

    def decode(self, data: bytes | bytearray, start: int) -> tuple[bytes, int]:
        """The message's bytes from `data[start:]`, and the offset of the first byte not used.

        All is used unless the message ended (`is_done`). Once there is a `fault` nothing more comes out.
        No copy when a chunk has no dots and the mark did not begin in the chunk before.
        """
        if start == len(data):
            return b"", start
        # One search serves the end mark and the stuffed dots: most chunks have neither.
        dot = data.find(_DOT_LINE, start)
        has_dots = dot >= 0
        stop = self._find_end(data, start, dot)
        chunk = data[start:stop]
        text = chunk if isinstance(chunk, bytes) else bytes(chunk)
        matched = self._matched
        if matched == 2 and not text.startswith(b"."):
            matched = 0  # a line begins as others do: spare the copy
        if matched:
            text = END_OF_DATA[:matched] + text
        if self.is_done:
            text = text[:-3]
        self._matched = _matched_at_end(text)
        if self.fault is DataFault.BARE_NEWLINE:
            return b"", stop
        # Went too large: still looked through, so that the reply does not depend on how the bytes were cut.
        out = self._unstuffed(text, _HANDED_OUT[matched], has_dots=has_dots or matched > 0)
        self.size += len(out)
        if self.size > self._max_bytes:
            self.fault = self.fault or DataFault.TOO_LARGE
        return (b"" if self.fault else out), stop

    def _find_end(self, data: bytes | bytearray, start: int, dot: int) -> int:
        """The offset behind the end mark, or the end of `data`; sets `is_done`. No mark stands before `dot`."""
        rest_of_mark = END_OF_DATA[self._matched :]
        if data.startswith(rest_of_mark, start):
            self.is_done = True
            return start + len(rest_of_mark)
        # RFC 5321 §4.1.1.4: nothing but CRLF . CRLF ends the data.
        at = data.find(END_OF_DATA, dot) if dot >= 0 else -1
        if at < 0:
            return len(data)
        self.is_done = True
        return at + len(END_OF_DATA)

    def _unstuffed(self, text: bytes, handed_out: int, *, has_dots: bool) -> bytes:
        """`text` without its stuffed dots and without the first `handed_out` bytes of the result."""
        if self._matched == 4:
            text = text[:-1]  # the CR of ". CR" may belong to the end mark
        pairs = text.count(b"\r\n")
        # A CR at the end waits for its LF.
        bare_cr = text.count(b"\r") - pairs - text.endswith(b"\r")
        bare_lf = text.count(b"\n") - pairs
        if bare_cr or (bare_lf and not self._normalises):
            self.fault = DataFault.BARE_NEWLINE
            return b""
        if self._normalises:
            return self._normalised(text, handed_out, has_bare_lf=bare_lf > 0)
        # RFC 5321 §4.5.2: a leading dot is deleted from every line that has more.
        return (text.replace(_DOT_LINE, b"\r\n") if has_dots else text)[handed_out:]

    def _normalised(self, text: bytes, handed_out: int, *, has_bare_lf: bool) -> bytes:
        if self._after_bare_lf:
            text, handed_out = b"\r\n" + text, 2
        self._after_bare_lf = text.endswith(b"\n") and not text.endswith(b"\r\n")
        if has_bare_lf:
            text = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return text.replace(_DOT_LINE, b"\r\n")[handed_out:]


def _matched_at_end(text: bytes) -> int:
    """How many bytes of the end mark `text` ends with."""
    if text.endswith((b"\r", b"\n", b".")):
        for length in (4, 3, 2, 1):
            if text.endswith(END_OF_DATA[:length]):
                return length
    return 0
