"""The message as it leaves: lines that end in CRLF and nothing else, dots stuffed, or cut into chunks.

Works on whole chunks, never by lines. Bare CR and bare LF never leave (but in a BINARYMIME message, which is octets and
not lines): servers disagree on what ends a line, and one that takes `LF . LF` for the end of the message would obey
what follows as commands of ours, another's mail in our name. They become CRLF, which is what their writer meant; to
refuse them would hold up mail that was accepted long ago. Whoever signs a message does so behind this.
"""

from typing import Final

from pochta.proto.buffer import CRLF

_DOT_LINE: Final = b"\r\n."


class LineEncoder:
    """Text in chunks that are cut anywhere, out with clean line ends; `stuffs_dots` for DATA."""

    __slots__ = ("_at_line_start", "_has_cr", "_stuffs_dots")

    def __init__(self, *, stuffs_dots: bool) -> None:
        self._stuffs_dots = stuffs_dots
        self._at_line_start = True
        self._has_cr = False  # withheld: the next chunk says whether its LF follows

    def encode(self, data: bytes) -> bytes:
        """What leaves for `data`. No copy when there is nothing to change."""
        text = b"\r" + data if self._has_cr else data
        self._has_cr = text.endswith(b"\r")
        if self._has_cr:
            text = text[:-1]
        if not text:
            return b""
        lines = text.count(CRLF)
        # RFC 5321 §2.3.8: CR and LF are sent together, as the end of a line, and in no other way.
        if text.count(b"\n") != lines or text.count(b"\r") != lines:
            text = text.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)
        was_at_line_start, self._at_line_start = self._at_line_start, text.endswith(b"\n")
        if not self._stuffs_dots:
            return text
        # RFC 5321 §4.5.2: a line that begins with a dot gets another one in front.
        stuffed = text.replace(_DOT_LINE, b"\r\n..")
        return b"." + stuffed if was_at_line_start and stuffed.startswith(b".") else stuffed

    def finish(self) -> bytes:
        """The line end that the last line lacks, and for DATA the end mark."""
        rest = CRLF if self._has_cr or not self._at_line_start else b""
        self._has_cr = False
        self._at_line_start = True
        # RFC 5321 §4.1.1.4: CRLF . CRLF ends the data; its first CRLF is the one that ends the last line.
        return rest + b".\r\n" if self._stuffs_dots else rest


def encode_chunk(data: bytes, *, is_last: bool) -> bytes:
    """One BDAT command with its octets. Source: RFC 3030 §2."""
    return b"BDAT %d%b\r\n%b" % (len(data), b" LAST" if is_last else b"", data)
