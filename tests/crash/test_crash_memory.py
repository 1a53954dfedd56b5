"""A worker's memory stays bounded, however much mail is under way (INV-7): measured at a real worker process."""

import re
import resource
import selectors
import shutil
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from crash_peers import Wire
from crash_server import DEADLINE_S, DOMAIN, PASSWORD, ServerProcess, Worker

MESSAGE_BYTES = 25 * 1024 * 1024
ALLOWED_KIB = 40 * 1024  # above the resting worker, all connections together
READ_BYTES = 4096  # what a slow reader takes at a time
SLOW_READS = 50
SLOW_BYTES_A_SECOND = 64_000
IDLE_CONNECTIONS = 2000
IDLE_KIB = 40  # each; a plain connection takes less than one with TLS

LINE = b"TWFpbCBpcyBhIG1lc3NhZ2UgdGhhdCB3YWl0cyBmb3IgaXRzIHJlYWRlciwgYW5kIGRvZXMgbm90\r\n"
HEADER = (
    b"From: <s@example.net>\r\nSubject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nThe text.\r\n--b\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
)
END = b"--b--\r\n"
MESSAGE = HEADER + LINE * ((MESSAGE_BYTES - len(HEADER) - len(END)) // len(LINE)) + END

# Messages that are all structure: what is kept of them has to be bounded, too
HOSTILE = {
    "nested parts": b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(200_000)
    ),
    "empty parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 1_500_000,
    "many fields": b"X-Field: value\r\n" * 1_000_000 + b"\r\n",
    "one long field": b"To: " + b"someone@example.org, " * 700_000 + b"\r\n\r\n",
    "messages in messages": b"Content-Type: message/rfc822\r\n\r\n" * 500_000,
}

_SMTP_REPLY = re.compile(rb"(?m)^(\d{3}) .*\r\n")
_LITERAL = re.compile(rb"BODY\[\] \{(\d+)\}\r\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", ["anna"], workers=1) as server:
        server.start()
        _warm_up(server)
        yield server
        server.stop()
    shutil.rmtree(tmp_path)  # half a gigabyte


def _warm_up(server: ServerProcess) -> None:
    """One small message in and out, so that modules and caches are there."""
    wire = _mail(server)
    wire.send(b"Subject: small\r\n\r\ntext\r\n.\r\n")
    assert wire.wait_for(_SMTP_REPLY)[1] == b"250"
    wire.close()
    wire = _signed_in(server)
    wire.send(b"b FETCH 1 (ENVELOPE BODY[])\r\n")
    wire.wait_for(re.compile(rb"b OK .*\r\n"))
    wire.close()


def _mail(server: ServerProcess, *, is_chunked: bool = False) -> Wire:
    """A connection that may send its message."""
    wire = Wire(server.smtp)
    wire.wait_for(_SMTP_REPLY)
    wire.send(f"EHLO x\r\nMAIL FROM:<s@example.net>\r\nRCPT TO:<anna@{DOMAIN}>\r\n".encode())
    for _ in range(3):
        assert wire.wait_for(_SMTP_REPLY)[1] == b"250"
    if not is_chunked:
        wire.send(b"DATA\r\n")
        assert wire.wait_for(_SMTP_REPLY)[1] == b"354"
    return wire


def _signed_in(server: ServerProcess) -> Wire:
    wire = Wire(server.imap)
    wire.send(f"a LOGIN anna@{DOMAIN} {PASSWORD}\r\ns SELECT INBOX\r\n".encode())
    wire.wait_for(re.compile(rb"s OK .*\r\n"))
    return wire


def _send_all(wires: list[Wire], data: bytes) -> None:
    """Send `data` on each at the same time, as fast as the peer reads."""
    selector = selectors.DefaultSelector()
    left = {wire: memoryview(data) for wire in wires}
    for wire in wires:
        wire.socket.setblocking(False)
        selector.register(wire.socket, selectors.EVENT_WRITE, wire)
    while left:
        for key, _ in selector.select(DEADLINE_S):
            wire = key.data
            left[wire] = left[wire][wire.socket.send(left[wire][: 256 * 1024]) :]
            if not left[wire]:
                del left[wire]
                selector.unregister(wire.socket)
                wire.socket.settimeout(DEADLINE_S)
    selector.close()


def _popped(server: ServerProcess) -> Wire:
    wire = Wire(server.pop3)
    wire.send(f"USER anna@{DOMAIN}\r\nPASS {PASSWORD}\r\nSTAT\r\n".encode())
    wire.wait_for(re.compile(rb"\+OK \d+ \d+\r\n"))
    return wire


WAYS_IN = ("DATA", "BDAT", "APPEND {n}", "APPEND {n+}")


def _begin(server: ServerProcess, way: str, size: int) -> Wire:
    """A connection that waits for the bytes of a message."""
    if way == "DATA":
        return _mail(server)
    if way == "BDAT":
        wire = _mail(server, is_chunked=True)
        wire.send(b"BDAT %d LAST\r\n" % size)
        return wire
    wire = _signed_in(server)
    wire.send(b"c APPEND INBOX %b\r\n" % way.split()[1].encode().replace(b"n", b"%d" % size))
    if way == "APPEND {n}":
        wire.wait_for(re.compile(rb"\+ .*\r\n"))
    return wire


_ENDS = {"DATA": b".\r\n", "BDAT": b"", "APPEND {n}": b"\r\n", "APPEND {n+}": b"\r\n"}


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("count", [1, 20])
def test_large_messages_come_in(server: ServerProcess, way: str, count: int) -> None:
    wires = [_begin(server, way, len(MESSAGE)) for _ in range(count)]
    worker = Worker(server)
    _send_all(wires, MESSAGE + _ENDS[way])
    answer = re.compile(rb"c OK .*\r\n") if "APPEND" in way else re.compile(rb"(?m)^250 .*\r\n")
    for wire in wires:
        wire.wait_for(answer)
    assert worker.grown_kib < ALLOWED_KIB
    for wire in wires:
        wire.close()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("count", [1, 20])
def test_hostile_structure_comes_in(server: ServerProcess, kind: str, count: int) -> None:
    wires = [_mail(server) for _ in range(count)]
    worker = Worker(server)
    _send_all(wires, HOSTILE[kind] + b"\r\n.\r\n")
    for wire in wires:
        assert wire.wait_for(_SMTP_REPLY)[1] in (b"250", b"552", b"554")
    assert worker.grown_kib < ALLOWED_KIB
    reader = _signed_in(server)
    worker = Worker(server)
    reader.send(b"d FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (Subject)])\r\n")
    reader.wait_for(re.compile(rb"d OK .*\r\n"))
    assert worker.grown_kib < ALLOWED_KIB
    for wire in (*wires, reader):
        wire.close()


WAYS_OUT = {
    "BODY[]": b"d FETCH 2 BODY.PEEK[]\r\n",
    "BODY[2]": b"d FETCH 2 BODY.PEEK[2]\r\n",
    "RFC822.TEXT": b"d FETCH 2 RFC822.TEXT\r\n",
    "RETR": b"RETR 2\r\n",
    "TOP": b"TOP 2 10000000\r\n",
}


def _asked(server: ServerProcess, way: str, count: int) -> list[Wire]:
    """Connections that have asked for a large message and read nothing of it yet."""
    wire = _begin(server, "DATA", len(MESSAGE))
    _send_all([wire], MESSAGE + b".\r\n")
    assert wire.wait_for(_SMTP_REPLY)[1] == b"250"
    wire.close()
    return [_popped(server) if way in ("RETR", "TOP") else _signed_in(server) for _ in range(count)]


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("count", [1, 20])
def test_large_messages_go_out_slowly(server: ServerProcess, way: str, count: int) -> None:
    wires = _asked(server, way, count)
    worker = Worker(server)
    for wire in wires:
        wire.send(WAYS_OUT[way])
    read = 0
    for _ in range(SLOW_READS):
        for wire in wires:
            read += len(wire.socket.recv(READ_BYTES))
    assert read <= SLOW_READS * READ_BYTES * count < MESSAGE_BYTES * count // 10
    assert worker.grown_kib < ALLOWED_KIB
    for wire in wires:
        wire.close()


@pytest.mark.long
def test_a_minute_of_slow_reading(server: ServerProcess) -> None:
    wires = [*_asked(server, "BODY[]", 10), *_asked(server, "RETR", 10)]
    worker = Worker(server)
    for at, wire in enumerate(wires):
        wire.send(WAYS_OUT["BODY[]" if at < 10 else "RETR"])
    began, read = time.monotonic(), 0
    for wire in cycle(wires):
        if time.monotonic() - began > 60:
            break
        read += len(wire.socket.recv(READ_BYTES))
        time.sleep(max(0.0, read / len(wires) / SLOW_BYTES_A_SECOND - (time.monotonic() - began)))
    assert worker.grown_kib < ALLOWED_KIB
    for wire in wires:
        wire.close()


def test_what_is_read_slowly_is_whole(server: ServerProcess) -> None:
    (wire,) = _asked(server, "BODY[]", 1)
    worker = Worker(server)
    wire.send(WAYS_OUT["BODY[]"])
    for _ in range(SLOW_READS):
        wire.received += wire.socket.recv(READ_BYTES)
    size = int(wire.wait_for(_LITERAL)[1])
    whole = bytearray(wire.received)
    while len(whole) < size and not wire.is_lost:
        wire.received = b""
        wire.receive()
        whole += wire.received
    assert whole[:size].endswith(MESSAGE)
    assert worker.grown_kib < ALLOWED_KIB
    wire.close()


def test_many_idle_connections_on_one_worker(server: ServerProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, IDLE_CONNECTIONS + 1000)), hard))
    worker = Worker(server)
    wires = [_signed_in(server) for _ in range(IDLE_CONNECTIONS)]
    for wire in wires:
        wire.send(b"i IDLE\r\n")
    for wire in wires:
        wire.wait_for(re.compile(rb"\+ .*\r\n"))
    assert worker.grown_kib < IDLE_CONNECTIONS * IDLE_KIB
    sender = _mail(server)
    sender.send(b"Subject: news\r\n\r\ntext\r\n.\r\n")
    for wire in wires:
        wire.wait_for(re.compile(rb"\* 2 EXISTS\r\n"))
    for wire in (*wires, sender):
        wire.close()
