"""`imap_raw.Imap` behind COMPRESS=DEFLATE."""

import io
import ssl
import zlib

from imap_raw import Imap

from pochta.testing import Server


class _Inflated(io.RawIOBase):
    """What a connection's file says, decompressed."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._stream = zlib.decompressobj(-15)
        self._left = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._source.close()
        super().close()

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]  # the typed name is of no module
        while not self._left:
            data = self._source.read1(65_536)
            if not data:
                return 0
            self._left = self._stream.decompress(data)
            if self._stream.eof:
                self._left += self._stream.unused_data
                self._stream = _Clear()  # type: ignore[assignment]  # what it is asked for it has
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


class _Clear:
    eof = False

    def decompress(self, data: bytes) -> bytes:
        return data


class DeflatedImap(Imap):
    """One connection, compressed after its sign-in."""

    def __init__(
        self, server: Server, *, mailbox: str | None = "INBOX", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.compressor: zlib._Compress | None = None
        super().__init__(server, mailbox=None, port=port, tls=tls)
        self.compress()
        if mailbox is not None:
            self.ok(f"SELECT {mailbox}")

    def compress(self) -> None:
        """Switch it on."""
        self.ok("COMPRESS DEFLATE")
        self.compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.file = io.BufferedReader(_Inflated(self.file))

    def end_compression(self) -> None:
        """From the next command on, in the clear; what comes is seen to end by itself."""
        self.compressor = None

    def send(self, data: bytes) -> None:
        if self.compressor is not None:
            data = self.compressor.compress(data) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        super().send(data)
