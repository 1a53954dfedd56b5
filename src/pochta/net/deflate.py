"""DEFLATE between a connection and its engine: raw streams (RFC 1951), as IMAP's COMPRESS has them.

Theory of operation. Out: each write becomes whole blocks that end at an octet (a sync flush). Such an end needs no
memory of ours: the next write makes a new compressor, which gets the last HISTORY_BYTES as its dictionary. So a
connection that waits holds these and nothing else, where a compressor that stays takes 40 to 270 KiB, and every slice
is compressed as suits its content. In: what the peer sent stays compressed until it is asked for, a bounded number of
octets at a time; 1 octet can mean 1032. One decompressor stays: 7 KiB, and as much of its window of 32 KiB as the peer
has filled (the peer chooses how far back it refers).

Source: RFC 4978 §3 and §4.
"""

import zlib
from typing import Final

from pochta.errors import RemoteProtocolError

SLICE_BYTES: Final = 64 * 1024
"""Compressed in one go: up to 1.3 ms (INV-12)."""

HISTORY_BYTES: Final = 2048
"""The answers of one or two commands, which the next ones resemble; 4 us a write to take it in."""

PIECE_BYTES: Final = 4096
"""Given to the decompressor at once: what it leaves is copied, up to 64 times (1032 · 4096 / 64 KiB)."""

LARGE_BYTES: Final = 8 * 1024
"""From here on looking at the content (10 us) costs less than what it saves."""

_SAMPLE_BYTES: Final = 1024
# Level 1 takes 0.5 ms for 64 KiB of text, 1.3 ms for base64 of an image, of which Huffman's code alone makes as much (a
# quarter) in 0.4 ms, and 0.9 ms for the image itself, of which nothing can be made.
_BASE64_RATIO: Final = 0.72  # a sample of text comes to 0.6, of base64 of what is compressed already to 0.8
_DENSE_RATIO: Final = 0.95
_RAW: Final = -zlib.MAX_WBITS  # no header, no checksum
_SMALL_WBITS: Final = -12  # with memLevel 5: 38 KiB for the time of a call, no more than the small answer needs
_SMALL_MEM_LEVEL: Final = 5
_LEVEL: Final = 1
_END: Final = b"\x03\x00"  # RFC 1951 §3.2.6: a last block with nothing in it


class Deflate:
    """Both directions of one connection."""

    __slots__ = ("_history", "_is_full", "_piece", "_stream", "_waiting")

    def __init__(self) -> None:
        self._history = b""
        self._stream = zlib.decompressobj(_RAW)  # the peer may refer back as far as DEFLATE lets it
        self._waiting = bytearray()
        self._piece = b""  # what the decompressor has left of the last one
        self._is_full = False  # the last output ended at its bound: more may stand behind it

    def compress(self, data: bytes) -> bytes:
        """What to send for `data`; the peer can read all of it at once."""
        if len(data) <= SLICE_BYTES:
            return self._compress_slice(data)
        slices = [data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES)]
        return b"".join([self._compress_slice(one) for one in slices])

    def _compress_slice(self, data: bytes) -> bytes:
        history, self._history = self._history, data[-HISTORY_BYTES:]
        if len(data) < LARGE_BYTES:
            return _flushed(
                zlib.compressobj(_LEVEL, zlib.DEFLATED, _SMALL_WBITS, _SMALL_MEM_LEVEL, zdict=history), data
            )
        # RFC 4978 §4: no effort for attachments that are compressed already
        middle = len(data) // 2
        ratio = len(zlib.compress(data[middle : middle + _SAMPLE_BYTES], _LEVEL, _RAW)) / _SAMPLE_BYTES
        if ratio > _DENSE_RATIO:
            return _flushed(zlib.compressobj(0, zlib.DEFLATED, _RAW), data)
        if ratio > _BASE64_RATIO:
            return _flushed(zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, strategy=zlib.Z_HUFFMAN_ONLY), data)
        return _flushed(zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, zdict=history), data)

    def end(self, data: bytes) -> bytes:
        """As `compress`, and nothing compressed comes after it."""
        return self.compress(data) + _END

    @property
    def waiting_bytes(self) -> int:
        """Octets received and not yet decompressed."""
        return len(self._waiting) + len(self._piece)

    @property
    def has_more(self) -> bool:
        """Whether `inflate` may give something."""
        return bool(self._is_full or self._piece or self._waiting)

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent; the caller stops reading when `waiting_bytes` is above a bound of its own."""
        self._waiting += data

    def inflate(self, max_bytes: int) -> bytes:
        """The next octets, up to `max_bytes`; empty when more has to be received. About 0.1 ms for 64 KiB.

        Raises:
            RemoteProtocolError: this is no DEFLATE, or something stands behind the end of the peer's stream.
        """
        made: list[bytes] = []
        left = max_bytes
        while left and self.has_more:
            if self._stream.eof:
                if made:
                    break
                raise RemoteProtocolError("the compressed data has ended")
            if not self._piece:
                self._piece = bytes(self._waiting[:PIECE_BYTES])
                del self._waiting[:PIECE_BYTES]
            try:
                data = self._stream.decompress(self._piece, left)
            except zlib.error:
                raise RemoteProtocolError("the compressed data is broken") from None
            self._piece = self._stream.unconsumed_tail or self._stream.unused_data
            self._is_full = len(data) == left and not self._stream.eof
            left -= len(data)
            made.append(data)
        return made[0] if len(made) == 1 else b"".join(made)

    def rest(self) -> bytes:
        """What was received behind the end of the compressed data, as it came."""
        return self._piece + bytes(self._waiting)


def _flushed(compressor: "zlib._Compress", data: bytes) -> bytes:
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
