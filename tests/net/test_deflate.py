"""DEFLATE between a connection and its engine: what one side compresses the other reads, within bounds, always."""

import base64
import zlib
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.net.deflate import HISTORY_BYTES, LARGE_BYTES, SLICE_BYTES, Deflate

TEXT = b"".join(b"* %d FETCH (UID %d RFC822.SIZE %d)\r\n" % (n, n * 3, n * 977 % 9000) for n in range(3000))
NOISE = Random(1).randbytes(100_000)
BASE64 = b"\r\n".join(base64.b64encode(NOISE[at : at + 57]) for at in range(0, len(NOISE), 57))
CONTENTS = {"nothing": b"", "short": b"a OK done\r\n", "text": TEXT, "noise": NOISE, "base64": BASE64}


def client() -> "zlib._Compress":
    return zlib.compressobj(6, zlib.DEFLATED, -15)


def said(compressor: "zlib._Compress", data: bytes) -> bytes:
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.rfc(4978, "3")
def test_each_write_is_readable_at_once(content: str) -> None:
    deflate, reader = Deflate(), zlib.decompressobj(-15)
    for data in (b"before\r\n", CONTENTS[content], b"before\r\n", CONTENTS[content][:900], b"after\r\n"):
        assert reader.decompress(deflate.compress(data)) == data
    assert not reader.eof


@given(st.lists(st.sampled_from([b"x OK NOOP\r\n", TEXT[:LARGE_BYTES], NOISE[:5000], BASE64[:70_000], b"", NOISE[:9]])))
def test_any_order_of_contents(writes: list[bytes]) -> None:
    deflate, reader = Deflate(), zlib.decompressobj(-15)
    assert reader.decompress(b"".join([deflate.compress(one) for one in writes])) == b"".join(writes)


@pytest.mark.rfc(4978, "4")
def test_what_is_compressed_already_costs_little() -> None:
    assert len(Deflate().compress(TEXT)) < len(TEXT) / 4
    assert len(Deflate().compress(BASE64)) < len(BASE64) * 0.78
    assert len(Deflate().compress(NOISE)) < len(NOISE) + 50


def test_answers_resemble_those_before() -> None:
    deflate = Deflate()
    first = deflate.compress(TEXT[:200])
    assert len(deflate.compress(TEXT[200:400])) < len(first) * 0.8


def test_only_the_history_is_kept() -> None:
    deflate = Deflate()
    for content in CONTENTS.values():
        deflate.compress(content)
        assert len(deflate._history) <= HISTORY_BYTES


@pytest.mark.parametrize("size", [1, 7, 4096, 10**6], ids=str)
def test_input_comes_in_any_pieces(size: int) -> None:
    deflate = Deflate()
    compressor = client()
    data = b"".join(said(compressor, one) for one in (b"a NOOP\r\n", TEXT, NOISE, b"b NOOP\r\n"))
    got = bytearray()
    for at in range(0, len(data), size):
        deflate.receive_data(data[at : at + size])
        while deflate.has_more:
            part = deflate.inflate(1000)
            assert len(part) <= 1000
            got += part
    assert got == b"a NOOP\r\n" + TEXT + NOISE + b"b NOOP\r\n"
    assert deflate.waiting_bytes == 0


def test_a_bomb_stays_compressed_until_it_is_asked_for() -> None:
    compressor = client()
    bomb = said(compressor, bytes(64 * 1024 * 1024))
    assert len(bomb) < 70_000
    deflate = Deflate()
    deflate.receive_data(bomb)
    assert deflate.waiting_bytes == len(bomb)
    total, waiting = 0, [deflate.waiting_bytes]
    while deflate.has_more:
        part = deflate.inflate(SLICE_BYTES)
        assert len(part) <= SLICE_BYTES
        total += len(part)
        waiting.append(deflate.waiting_bytes)
    assert total == 64 * 1024 * 1024
    assert waiting == sorted(waiting, reverse=True)


NO_DEFLATE = {"plain": b"a NOOP\r\n", "zlib header": b"\x78\x9c\x4b\x04\x00", "ones": b"\xff" * 10, "type 3": b"\x07"}


@pytest.mark.parametrize("kind", NO_DEFLATE)
def test_what_is_no_deflate_is_refused(kind: str) -> None:
    deflate = Deflate()
    deflate.receive_data(NO_DEFLATE[kind] * 100)
    with pytest.raises(RemoteProtocolError):
        deflate.inflate(100_000)


@given(st.binary(min_size=1))
def test_no_other_exception_for_any_input(data: bytes) -> None:
    deflate = Deflate()
    deflate.receive_data(data)
    try:
        while deflate.has_more:
            deflate.inflate(10_000)
    except RemoteProtocolError:
        pass


def test_the_peer_ends_its_stream() -> None:
    compressor = client()
    deflate = Deflate()
    deflate.receive_data(compressor.compress(b"u UNAUTHENTICATE\r\n") + compressor.flush() + b"v NOOP\r\n")
    assert deflate.inflate(1000) == b"u UNAUTHENTICATE\r\n"
    assert deflate.rest() == b"v NOOP\r\n"
    with pytest.raises(RemoteProtocolError):
        deflate.inflate(100)


@pytest.mark.rfc(8437, "4.1")
def test_we_end_our_stream() -> None:
    reader = zlib.decompressobj(-15)
    assert reader.decompress(Deflate().end(b"u OK done\r\n") + b"* OK in the clear\r\n") == b"u OK done\r\n"
    assert reader.eof
    assert reader.unused_data == b"* OK in the clear\r\n"
