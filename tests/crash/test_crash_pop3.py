"""POP3 on real processes that are killed: what QUIT said is removed stays so, and what it did not say stays there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_peers import Lost, Wire
from crash_server import DOMAIN, PASSWORD, ServerProcess

MESSAGES = 40
_SMTP_REPLY = re.compile(rb"(?m)^(\d{3}) .*\r\n")
_LIST = re.compile(rb"(?s)\+OK\r\n(.*?)\.\r\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", ["anna"]) as server:
        server.start()
        wire = Wire(server.smtp)
        envelope = f"MAIL FROM:<s@example.net>\r\nRCPT TO:<anna@{DOMAIN}>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"
        wire.send(b"HELO x\r\n" + envelope.encode() * MESSAGES + b"QUIT\r\n")
        wire.wait_for(re.compile(rb"(?m)^221 .*\r\n"))
        wire.close()
        yield server


def signed_in(server: ServerProcess) -> Wire:
    wire = Wire(server.pop3)
    wire.send(f"USER anna@{DOMAIN}\r\nPASS {PASSWORD}\r\n".encode())
    wire.wait_for(re.compile(rb"\+OK \d+ messages.*\r\n"))
    return wire


def uids(server: ServerProcess) -> list[int]:
    wire = signed_in(server)
    wire.send(b"UIDL\r\n")
    listing = wire.wait_for(_LIST)[1]
    wire.close()
    return [int(line.rpartition(b".")[2]) for line in listing.splitlines()]


@pytest.mark.rfc(1939, "6")
def test_what_quit_has_answered_survives_a_kill(server: ServerProcess) -> None:
    wire = signed_in(server)
    wire.send(b"".join(b"DELE %d\r\n" % number for number in range(1, MESSAGES, 2)) + b"QUIT\r\n")
    wire.wait_for(re.compile(rb"\+OK Bye, 20 removed, 20 left\r\n"))
    wire.close()
    server.kill_all()
    server.start()
    assert uids(server) == list(range(2, MESSAGES + 1, 2))
    server.stop()


@pytest.mark.rfc(1939, "6")
def test_a_kill_before_quit_removes_nothing_and_leaves_no_session_behind(server: ServerProcess) -> None:
    wire = signed_in(server)
    wire.send(b"DELE 1\r\nRETR 2\r\n")
    wire.wait_for(re.compile(rb"(?s)\+OK Marked.*\r\n\.\r\n"))
    server.kill_all()
    with pytest.raises(Lost):
        wire.wait_for(re.compile(rb"-ERR"))
    wire.close()
    server.start()
    assert uids(server) == list(range(1, MESSAGES + 1))
    server.stop()
