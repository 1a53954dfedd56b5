"""COMPRESS=DEFLATE over real sockets: the same answers as in the clear, bounds that hold, errors that end it."""

import ssl
import zlib
from collections.abc import Iterator

import pytest
from imap_deflated import DeflatedImap
from imap_raw import USER, Imap, fill, message

from pochta.config import Limits
from pochta.servers.imap import compress
from pochta.servers.imap.connection import HELD_INPUT_BYTES, ImapConnection
from pochta.testing import Server

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(with_tls=True, limits=Limits(min_free_bytes=0, message_size_bytes=64 * MIB)) as running:
        running.add_account(USER, "secret")
        fill(running, 3)
        yield running


@pytest.fixture
def tls(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.certificate)


@pytest.mark.rfc(4978, "5")
def test_compress_deflate_is_offered_to_who_has_signed_in_and_once(server: Server) -> None:
    with Imap(server, login=False) as imap:
        assert b"COMPRESS" not in imap.greeting
        assert imap.do("COMPRESS DEFLATE") == [b"BAD Sign in first"]
    with DeflatedImap(server, mailbox=None) as imap:
        assert b"COMPRESS" not in imap.ok("CAPABILITY")[0]
    with Imap(server, mailbox=None) as imap:
        assert b" COMPRESS=DEFLATE" in imap.ok("CAPABILITY")[0]


@pytest.mark.rfc(4978, "3")
def test_active_already(server: Server) -> None:
    with DeflatedImap(server, mailbox=None) as imap:
        assert imap.do("COMPRESS DEFLATE")[-1].startswith(b"BAD [COMPRESSIONACTIVE] ")
        imap.ok("NOOP")


@pytest.mark.rfc(4978, "3")
@pytest.mark.parametrize("words", ["", " LZW", " DEFLATE LZW"])
def test_arguments_that_mean_nothing(server: Server, words: str) -> None:
    with Imap(server, mailbox=None) as imap:
        assert imap.do(f"COMPRESS{words}")[-1].startswith(b"BAD ")
        imap.ok("NOOP")


@pytest.mark.rfc(4978, "3")
def test_what_comes_before_the_answer_is_in_the_clear(server: Server) -> None:
    with Imap(server, mailbox=None) as imap:
        imap.send(b"x COMPRESS DEFLATE\r\ny NOOP\r\n")
        assert imap.line().startswith(b"x BAD ")
        assert imap.line() == b"y OK NOOP completed"


@pytest.mark.parametrize("with_tls", [False, True], ids=["clear", "tls"])
def test_a_whole_session(server: Server, tls: ssl.SSLContext, with_tls: bool) -> None:
    port, context = (server.imaps_port, tls) if with_tls else (0, None)
    with DeflatedImap(server, port=port, tls=context) as imap, Imap(server) as plain:
        for command in ("FETCH 1:3 (UID ENVELOPE BODY.PEEK[])", "SEARCH ALL", "STATUS INBOX (MESSAGES)"):
            assert imap.do(command) == plain.do(command)
        imap.ok("CREATE compressed")
        assert imap.append(message(9, b"x" * 300_000 + b"\r\n"), "compressed")[-1].startswith(b"OK [APPENDUID ")
        imap.ok("SELECT compressed")
        assert imap.literal("FETCH 1 BODY[TEXT]") == b"x" * 300_000 + b"\r\n"
        tag = imap.idle()
        assert plain.append(message(10), "compressed")[-1].startswith(b"OK")
        assert imap.line() == b"* 2 EXISTS"
        imap.done(tag)
        imap.ok("DELETE compressed")
        assert imap.do("LOGOUT")[0].startswith(b"* BYE")


def test_commands_without_waiting(server: Server) -> None:
    with DeflatedImap(server) as imap:
        count = 20_000
        imap.send(b"n NOOP\r\n" * count + b"z FETCH 1 UID\r\n")
        for _ in range(count):
            assert imap.line() == b"n OK NOOP completed"
        assert imap.line() == b"* 1 FETCH (UID 1)"
        assert imap.line().startswith(b"z OK")


def test_octet_by_octet(server: Server) -> None:
    with DeflatedImap(server, mailbox=None) as imap:
        assert imap.compressor is not None
        said = imap.compressor.compress(b"n NOOP\r\n" * 3) + imap.compressor.flush(zlib.Z_SYNC_FLUSH)
        for octet in said:
            imap.socket.sendall(bytes([octet]))
        assert [imap.line() for _ in range(3)] == [b"n OK NOOP completed"] * 3


@pytest.mark.parametrize("junk", [b"n NOOP\r\n", b"\x07\x07", b"\x03\x00 and more"], ids=["plain", "broken", "ended"])
def test_what_cannot_be_read_ends_the_connection(server: Server, junk: bytes) -> None:
    with DeflatedImap(server, mailbox=None) as imap:
        imap.socket.sendall(junk * 10)
        assert imap.line().startswith(b"* BYE the compressed data ")
        assert imap.line() == b""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(octets in the engine, octets that wait compressed) at each step."""
    pairs: list[tuple[int, int]] = []
    inflate = compress.inflate

    def watched(connection: ImapConnection) -> bool:
        is_more = inflate(connection)
        assert connection.deflate is not None
        pairs.append((connection.engine.buffered_bytes, connection.deflate.waiting_bytes))
        return is_more

    monkeypatch.setattr(compress, "inflate", watched)
    return pairs


BOMBS = {
    "a line": b"x" * (256 * MIB),
    "lines": b"n NOOP\r\n" * 200_000,
    "a refused literal": b"s SEARCH TEXT {200000000+}\r\n" + bytes(64 * MIB),
    "a message too large": b"a APPEND INBOX {1000000000+}\r\n" + bytes(128 * MIB),
}


@pytest.mark.rfc(4978, "6")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_no_more_than_the_usual_bounds(
    server: Server, kind: str, seen: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = said.compress(BOMBS[kind]) + said.flush(zlib.Z_SYNC_FLUSH)
    assert len(data) < len(BOMBS[kind]) / 300
    with DeflatedImap(server, mailbox=None) as imap, Imap(server, mailbox=None) as other:
        imap.socket.sendall(data)
        answers = BOMBS[kind].count(b"\r\n") or 1
        for _ in range(answers):
            assert imap.line()[:2] in (b"x ", b"n ", b"s ", b"a ", b"* ")
        other.ok("NOOP")
    assert max(engine for engine, _ in seen) <= HELD_INPUT_BYTES + compress.INFLATED_BYTES
    assert max(waiting for _, waiting in seen) <= max(len(data), HELD_INPUT_BYTES)


@pytest.mark.rfc(8437, "4.1")
def test_unauthenticate_ends_it_both_ways(server: Server) -> None:
    with DeflatedImap(server) as imap:
        assert imap.do("UNAUTHENTICATE")[-1].startswith(b"OK ")
        imap.end_compression()
        imap.ok(f"LOGIN {USER} secret")
        imap.compress()
        imap.ok("NOOP")


@pytest.mark.rfc(8437, "4.1")
def test_a_client_that_ends_its_stream_may_go_on_at_once(server: Server) -> None:
    with DeflatedImap(server) as imap:
        assert imap.compressor is not None
        last = imap.compressor.compress(b"u UNAUTHENTICATE\r\n") + imap.compressor.flush()
        imap.socket.sendall(last + b"z NOOP\r\n")
        assert imap.line().startswith(b"u OK ")
        assert imap.line() == b"z OK NOOP completed"
