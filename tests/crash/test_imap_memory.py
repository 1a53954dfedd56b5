"""Messages of 100 MB by IMAP within the memory bounds (INV-7), compressed or not, however the client reads."""

import hashlib
import re
import shutil
import zlib
from collections.abc import Iterator
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import pytest
from crash_peers import Wire
from crash_server import DOMAIN, PASSWORD, ServerProcess, Worker

MIB = 1024 * 1024
MESSAGE_BYTES = 100 * MIB
ALLOWED_KIB = 12 * 1024  # above the resting worker, all connections together; measured 0.4 to 4.4 MiB
CONNECTIONS = 20
# Each has 64 KiB and one chunk unsent, and one chunk read from the disk: measured 50 to 190 KiB
STOPPED_KIB = 400
SLOW_READS = 50
BOMBS = 10
BOMB_BYTES = 200 * MIB

_HEAD = b"From: <s@example.net>\r\nSubject: large\r\n\r\n"


def _lines() -> bytes:
    """1 MiB of base64 of noise: what an attachment is, and what compresses least of what mail is made of."""
    letters = bytes.maketrans(bytes(range(256)), bytes(range(48, 112)) * 4)
    noise = Random(1).randbytes(MIB).translate(letters)
    return b"".join(noise[at : at + 62] + b"\r\n" for at in range(0, MIB, 64))


BLOCK = _lines()
assert len(BLOCK) == MIB
LENGTH = len(_HEAD) + MESSAGE_BYTES


def _deflated(*parts: bytes) -> bytes:
    """Each part in blocks of its own that refer to none before: what can be sent any number of times."""
    stream = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(stream.compress(part) + stream.flush(zlib.Z_FULL_FLUSH) for part in parts)


class Client:
    """A signed-in connection, compressed or not; `digest` is that of all that was read by `read_message`."""

    def __init__(self, server: ServerProcess, *, is_compressed: bool) -> None:
        self.wire = Wire(server.imap)
        self._stream = zlib.decompressobj(-15) if is_compressed else None
        self.wire.send(f"a LOGIN anna@{DOMAIN} {PASSWORD}\r\ns SELECT INBOX\r\n".encode())
        self.wire.wait_for(re.compile(rb"s OK .*\r\n"))
        if is_compressed:
            self.wire.send(b"c COMPRESS DEFLATE\r\n")
            self.wire.wait_for(re.compile(rb"c OK .*\r\n"))

    def encoded(self, data: bytes) -> bytes:
        return data if self._stream is None else _deflated(data)

    def send(self, data: bytes) -> None:
        self.wire.send(self.encoded(data))

    def receive(self, most: int = MIB) -> bytes:
        data = self.wire.socket.recv(most)
        assert data
        return data if self._stream is None else self._stream.decompress(data)

    def until(self, pattern: bytes) -> "re.Match[bytes]":
        data = b""
        while (match := re.search(pattern, data)) is None:
            data += self.receive()
        return match

    def read_message(self) -> bytes:
        """The digest of the message that is being answered."""
        data = b""
        while (match := re.search(rb"BODY\[\] \{(\d+)\}\r\n", data)) is None:
            data += self.receive()
        left = int(match[1])
        assert left == LENGTH
        digest = hashlib.blake2b()
        data = data[match.end() :]
        while left > len(data):
            digest.update(data)
            left -= len(data)
            data = self.receive()
        digest.update(data[:left])
        end = data[left:]
        while re.fullmatch(rb"\)\r\n.*\bd OK .*\r\n", end, re.DOTALL) is None:
            end += self.receive()
        return digest.digest()

    def append(self) -> None:
        """APPEND of the large message, up to its OK."""
        self.send(b"b APPEND INBOX {%d+}\r\n" % LENGTH + _HEAD)
        block = self.encoded(BLOCK)
        for _ in range(MESSAGE_BYTES // MIB):
            self.wire.send(block)
        self.send(b"\r\n")
        self.until(rb"b OK .*\r\n")


def _digest() -> bytes:
    digest = hashlib.blake2b(_HEAD)
    for _ in range(MESSAGE_BYTES // MIB):
        digest.update(BLOCK)
    return digest.digest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose one worker has taken a small message in and given it out."""
    folder = tmp_path_factory.mktemp("large")
    limits = f"message_size_bytes = {128 * MIB}"
    with ServerProcess(folder / "server", ["anna"], workers=1, limits=limits) as server:
        server.start()
        for is_compressed in (False, True):
            client = Client(server, is_compressed=is_compressed)
            client.send(b"b APPEND INBOX {12+}\r\nA: b\r\n\r\ncd\r\n\r\nd FETCH 1 (ENVELOPE BODY[])\r\n")
            client.until(rb"d OK .*\r\n")
            client.wire.close()
        yield server
        server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def filled(server: ServerProcess) -> ServerProcess:
    """The same, with the large message in it as the last one."""
    client = Client(server, is_compressed=False)
    client.append()
    client.wire.close()
    return server


WAYS = pytest.mark.parametrize("is_compressed", [False, True], ids=["clear", "compressed"])


@WAYS
def test_100_mb_in_and_out(server: ServerProcess, *, is_compressed: bool) -> None:
    client = Client(server, is_compressed=is_compressed)
    worker = Worker(server)
    client.append()
    taken_kib = worker.grown_kib
    client.send(b"d FETCH * BODY.PEEK[]\r\n")
    assert client.read_message() == _digest()
    assert taken_kib < ALLOWED_KIB
    assert worker.grown_kib < ALLOWED_KIB
    client.wire.close()


@WAYS
def test_a_client_that_stops_reading_costs_its_buffer(filled: ServerProcess, *, is_compressed: bool) -> None:
    clients = [Client(filled, is_compressed=is_compressed) for _ in range(CONNECTIONS)]
    other = Client(filled, is_compressed=False)
    worker = Worker(filled)
    for client in clients:
        client.send(b"d FETCH * BODY.PEEK[]\r\nd FETCH * BODY.PEEK[]\r\n")
    for client in clients:
        assert b"FETCH" in client.receive(4096)
    for _ in range(100):  # the others are served meanwhile, and by then all that fits is in the buffers
        other.send(b"n NOOP\r\n")
        other.until(rb"n OK .*\r\n")
    assert worker.grown_kib < CONNECTIONS * STOPPED_KIB
    for client in (*clients, other):
        client.wire.close()


@WAYS
def test_slow_readers(filled: ServerProcess, *, is_compressed: bool) -> None:
    clients = [Client(filled, is_compressed=is_compressed) for _ in range(CONNECTIONS)]
    worker = Worker(filled)
    for client in clients:
        client.send(b"d FETCH * BODY.PEEK[]\r\n")
    for _ in range(SLOW_READS):
        for client in clients:
            client.receive(4096)
    assert worker.grown_kib < CONNECTIONS * STOPPED_KIB
    for client in clients:
        client.wire.close()


BOMB_KINDS = {
    "line": b"",
    "refused literal": b"b SEARCH TEXT {%d+}\r\n" % BOMB_BYTES,
    "message": b"b APPEND INBOX {%d+}\r\n" % BOMB_BYTES,
}


@pytest.mark.parametrize("kind", BOMB_KINDS)
def test_bombs(server: ServerProcess, kind: str) -> None:
    clients = [Client(server, is_compressed=True) for _ in range(BOMBS)]
    data = _deflated(BOMB_KINDS[kind] + b"x" * BOMB_BYTES)
    assert len(data) < BOMB_BYTES // 200
    worker = Worker(server)
    for client in clients:
        client.wire.send(data)
    for client in clients:
        client.until(rb"(?:BAD|NO|BYE) .*\r\n")
    other = Client(server, is_compressed=True)
    other.send(b"n NOOP\r\n")
    other.until(rb"n OK .*\r\n")
    assert worker.grown_kib < ALLOWED_KIB
    for client in (*clients, other):
        client.wire.close()
