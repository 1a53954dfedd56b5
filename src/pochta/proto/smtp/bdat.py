"""The message that comes by BDAT: octets counted by chunks, handed on as they arrive, never kept.

Theory of operation. A chunk's octets belong to its BDAT command whatever the answer will be: those of a chunk that is
refused are read and dropped, so that none of them is obeyed as a command. One `ChunkedMessage` lives from the first
BDAT of a transaction to the end of the transaction; after a chunk was refused it only counts what it drops.

Line ends keep to the policy of DATA (`BareNewline`). A CR at the end of a chunk is withheld until the next chunk or the
end of the message says whether an LF follows. There are no dots to unstuff and no end mark to look for. A message of
BODY=BINARYMIME has octets, not lines: they pass as they are.
"""

from typing import Final

from pochta.proto.buffer import CRLF
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import DataFault
from pochta.proto.smtp.replies import Reply

DROPPED_SIZES: Final = 2
"""What is dropped of refused chunks in one transaction at most, in sizes of the largest message: a message that is too
large by its encoding or by a mistaken limit is read to its end, 10^20 octets are not."""


class ChunkedMessage:
    """One message in chunks. `size` counts its bytes handed out; `left`, the octets of this chunk still to come.

    `refusal` is the answer that waits for the end of the present chunk; `is_started` says whether the message was
    agreed to, `is_failed` whether a chunk of it was refused.
    """

    __slots__ = (
        "_dropped",
        "_has_cr",
        "_is_binary",
        "_max_bytes",
        "_normalises",
        "fault",
        "is_failed",
        "is_last",
        "is_started",
        "left",
        "refusal",
        "size",
    )

    def __init__(self, max_bytes: int, bare_newline: BareNewline | None) -> None:
        """`bare_newline` None: the message is binary."""
        self._max_bytes = max_bytes
        self._is_binary = bare_newline is None
        self._normalises = bare_newline is BareNewline.NORMALISE
        self._has_cr = False  # withheld
        self._dropped = 0
        self.fault: DataFault | None = None
        self.refusal: Reply | None = None
        self.is_started = self.is_failed = self.is_last = False
        self.left = 0
        self.size = 0

    def begin_chunk(self, size: int, *, is_last: bool) -> None:
        """The next chunk has `size` octets."""
        self.left = size
        self.is_last = is_last
        self.refusal = None

    def drop_chunk(self, refusal: Reply) -> bool:
        """Drop the present chunk and answer `refusal` behind it; False when that is more than will be read."""
        self.refusal = refusal
        self._dropped += self.left
        return self._dropped <= DROPPED_SIZES * self._max_bytes

    @property
    def is_too_large(self) -> bool:
        """Whether the present chunk does not fit in the message."""
        return self.size + self._has_cr + self.left > self._max_bytes

    def decode(self, data: bytes) -> bytes:
        """The message's bytes among `data`, the next octets of the chunk; none once it is refused or faulty."""
        self.left -= len(data)
        if self.refusal is not None or self.fault is DataFault.BARE_NEWLINE:
            return b""
        # RFC 3030 §3: all bits of each octet are preserved.
        if self._is_binary:
            self.size += len(data)
            return data
        text = b"\r" + data if self._has_cr else data
        self._has_cr = text.endswith(b"\r")
        if self._has_cr:
            text = text[:-1]
        pairs = text.count(CRLF)
        has_bare_lf = text.count(b"\n") > pairs
        if text.count(b"\r") > pairs or (has_bare_lf and not self._normalises):
            self.fault = DataFault.BARE_NEWLINE
            return b""
        if has_bare_lf:
            text = text.replace(CRLF, b"\n").replace(b"\n", CRLF)
        self.size += len(text)
        # Normalising makes a message grow. The rest is still looked through: the answer must not depend on the cuts.
        if self.size > self._max_bytes:
            self.fault = DataFault.TOO_LARGE
        return b"" if self.fault else text

    def end_chunk(self) -> None:
        """Judge the chunk, all of which was decoded: `fault` is final."""
        if self.is_last and self._has_cr:
            self.fault = DataFault.BARE_NEWLINE

    def fail(self) -> None:
        """The message will not be; whatever else comes of it is to be refused."""
        self.is_failed = True
        self.fault = None
        self._has_cr = False
