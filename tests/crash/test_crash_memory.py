"""A worker's memory stays bounded, however much mail is under way (INV-7): measured at a real worker process."""

import re
import selectors
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_peers import Wire
from crash_server import DEADLINE_S, DOMAIN, PASSWORD, ServerProcess

MESSAGE_BYTES = 25 * 1024 * 1024
AT_ONCE = 20
ALLOWED_KIB = 40 * 1024  # above the resting worker
READ_BYTES = 4096  # what a slow reader takes at a time
SLOW_READS = 500

LINE = b"TWFpbCBpcyBhIG1lc3NhZ2UgdGhhdCB3YWl0cyBmb3IgaXRzIHJlYWRlciwgYW5kIGRvZXMgbm90\r\n"
HEADER = b"From: <s@example.net>\r\nSubject: large\r\nContent-Transfer-Encoding: base64\r\n\r\n"
MESSAGE = HEADER + LINE * ((MESSAGE_BYTES - len(HEADER)) // len(LINE))

_SMTP_REPLY = re.compile(rb"(?m)^(\d{3}) .*\r\n")
_LITERAL = re.compile(rb"BODY\[\] \{(\d+)\}\r\n")


class Worker:
    """The one worker of a server, at rest when this is made."""

    def __init__(self, server: ServerProcess) -> None:
        (pid,) = server.wait_for_workers()
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew, from what is resident now
        self.resting_kib = self._kib("VmRSS")

    def _kib(self, name: str) -> int:
        match = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        assert match is not None
        return int(match[1])

    @property
    def grown_kib(self) -> int:
        """How far the peak lies above the resting worker."""
        return self._kib("VmHWM") - self.resting_kib


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


def _mail(server: ServerProcess) -> Wire:
    """A connection that may send its message."""
    wire = Wire(server.smtp)
    wire.wait_for(_SMTP_REPLY)
    wire.send(f"EHLO x\r\nMAIL FROM:<s@example.net>\r\nRCPT TO:<anna@{DOMAIN}>\r\nDATA\r\n".encode())
    wire.wait_for(re.compile(rb"(?m)^354 .*\r\n"))
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


def test_large_messages_by_smtp_at_once(server: ServerProcess) -> None:
    wires = [_mail(server) for _ in range(AT_ONCE)]
    worker = Worker(server)
    _send_all(wires, MESSAGE + b".\r\n")
    assert [wire.wait_for(_SMTP_REPLY)[1] for wire in wires] == [b"250"] * AT_ONCE
    assert worker.grown_kib < ALLOWED_KIB
    for wire in wires:
        wire.close()


def test_large_message_appended_and_read_slowly(server: ServerProcess) -> None:
    wire = _signed_in(server)
    worker = Worker(server)
    wire.send(b"c APPEND INBOX {%d+}\r\n" % len(MESSAGE))
    _send_all([wire], MESSAGE + b"\r\n")
    wire.wait_for(re.compile(rb"c OK .*\r\n"))
    assert worker.grown_kib < ALLOWED_KIB
    wire.send(b"d FETCH 2 BODY[]\r\n")
    for _ in range(SLOW_READS):
        wire.received += wire.socket.recv(READ_BYTES)
    assert len(wire.received) <= SLOW_READS * READ_BYTES < MESSAGE_BYTES // 10
    assert worker.grown_kib < ALLOWED_KIB
    size = int(wire.wait_for(_LITERAL)[1])
    assert size == len(MESSAGE)
    whole = bytearray(wire.received)
    while len(whole) < size and not wire.is_lost:
        wire.received = b""
        wire.receive()
        whole += wire.received
    assert whole[:size] == MESSAGE
    assert worker.grown_kib < ALLOWED_KIB
    wire.close()
