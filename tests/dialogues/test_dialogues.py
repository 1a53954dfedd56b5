"""Every dialogue file against our server over loopback, the IMAP ones also against Dovecot where it is installed."""

import io
import re
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dialogue_script
import pytest
from dialogue_peers import PASSWORD, Peer, has_dovecot
from dialogue_script import CLOSED, Line, Script

HERE: Final = Path(__file__).parent
ANSWER_S: Final = 20.0  # a bound for a server that never answers
KINDS: Final = (".imap", ".smtp", ".pop3")
SCRIPTS: Final = [dialogue_script.read(path) for path in sorted(one for kind in KINDS for one in HERE.glob(f"*{kind}"))]
CASES: Final = [
    pytest.param(script, peer, id=f"{script.path.name}-{peer}")
    for script in SCRIPTS
    for peer in script.peers
    if peer != "dovecot" or has_dovecot()
]
_LITERAL: Final = re.compile(rb"\{(\d+)\}\r\n\Z")
_COMPRESS: Final = re.compile(rb"(\S+) COMPRESS DEFLATE\r\n", re.IGNORECASE)


class Inflated(io.RawIOBase):
    """What a compressed file says."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._stream = zlib.decompressobj(-15)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the type is not one to be named
        while not self._left:
            data = self._source.read1(65_536)
            if not data:
                return 0
            self._left = self._stream.decompress(data)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class Connection:
    """A socket that gives one protocol line after the other, literals included; compressed once that is agreed."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=ANSWER_S)
        self.file = self.socket.makefile("rb")
        self._compressor: zlib._Compress | None = None
        self._asked = b""  # how the OK to COMPRESS begins

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        elif match := _COMPRESS.fullmatch(data):
            self._asked = match[1] + b" OK "
        self.socket.sendall(data)

    def line(self) -> bytes | None:
        """The next line without its CRLF; None at the end of the connection."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        while match := _LITERAL.search(line):
            line += self.file.read(int(match[1])) + self.file.readline()
        if self._asked and line.startswith(self._asked):
            self._asked = b""
            self._compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
            self.file = io.BufferedReader(Inflated(self.file))
        return line.removesuffix(b"\r\n") if line else None


class Talk:
    """One script held with one peer."""

    def __init__(self, script: Script, peer: Peer) -> None:
        self.script = script
        self.peer = peer
        self.is_imap = script.path.suffix == ".imap"
        self.user = peer.user(script.path.stem)
        self.names = {"user": self.user.encode(), "password": PASSWORD.encode()}
        if "other" in script.headers:
            self.names["other"] = peer.user(script.headers["other"]).encode()
        self.connections: dict[int, Connection] = {}
        self.heard: list[str] = []

    def hold(self) -> None:
        """Say and hear everything."""
        try:
            if "messages" in self.script.headers:
                self._add_messages(int(self.script.headers["messages"]))
            for step in self.script.steps(self.peer.name):
                if step[0].kind[0] == "C":
                    self._say(step[0])
                elif self.is_imap:
                    self._hear_block(step)
                else:
                    self._hear_in_order(step)
            if "inbox" in self.script.headers:
                assert self._inbox_count() == int(self.script.headers["inbox"])
        finally:
            for connection in self.connections.values():
                connection.close()

    def _connection(self, number: int) -> Connection:
        if number not in self.connections:
            ports = (self.peer.imap_port, self.peer.smtp_port, self.peer.pop3_port)
            port = ports[KINDS.index(self.script.path.suffix)]
            self.connections[number] = connection = Connection(self.peer.host, port)
            if self.is_imap:
                greeting = connection.line()
                assert greeting is not None
                assert greeting.startswith(b"* OK ")
                if self.script.headers.get("login") != "no":
                    self._ask(connection, b"l LOGIN %b %b" % (self.names["user"], self.names["password"]))
        return self.connections[number]

    def _ask(self, connection: Connection, command: bytes) -> list[bytes]:
        connection.socket.sendall(command + b"\r\n")
        tag = command.partition(b" ")[0]
        lines: list[bytes] = []
        while True:
            line = connection.line()
            assert line is not None
            if line.startswith(tag + b" "):
                assert line.startswith(tag + b" OK"), line
                return lines
            lines.append(line)

    def _add_messages(self, count: int) -> None:
        connection = Connection(self.peer.host, self.peer.imap_port)
        try:
            connection.line()
            self._ask(connection, b"l LOGIN %b %b" % (self.names["user"], self.names["password"]))
            for number in range(1, count + 1):
                message = (
                    b"From: a%d@example.net\r\nTo: <%b>\r\nSubject: test %d\r\nMessage-ID: <%d@example.net>\r\n"
                    b"Date: Mon, %02d Nov 2026 10:00:00 +0000\r\n\r\nbody %d\r\n"
                    % (number, self.names["user"], number, number, number, number)
                )
                head = b'p APPEND INBOX "%02d-Nov-2026 10:00:00 +0000" {%d+}\r\n' % (number, len(message))
                self._ask(connection, head + message)
        finally:
            connection.close()

    def _inbox_count(self) -> int:
        connection = Connection(self.peer.host, self.peer.imap_port)
        try:
            connection.line()
            self._ask(connection, b"l LOGIN %b %b" % (self.names["user"], self.names["password"]))
            [status] = self._ask(connection, b"s STATUS INBOX (MESSAGES)")
            return int(status.rpartition(b" ")[2].rstrip(b")"))
        finally:
            connection.close()

    def _say(self, line: Line) -> None:
        data = dialogue_script.to_send(line.text, self.names)
        self.heard.append(f"C: {line.text}")
        self._connection(line.connection).send(data if line.kind == "C-" else data + b"\r\n")

    def _matches(self, line: Line, received: bytes) -> bool:
        match = dialogue_script.pattern(line.text, self.names).fullmatch(received)
        if match is None:
            return False
        self.names.update({name: value for name, value in match.groupdict().items() if value is not None})
        return True

    def _next(self, line: Line) -> bytes | None:
        received = self._connection(line.connection).line()
        self.heard.append(f"S: {received!r}")
        return received

    def _fail(self, line: Line, why: str) -> None:
        dialogue = "\n".join(self.heard[-12:])
        pytest.fail(f"{self.script.path.name}:{line.number}: {why}\nexpected: {line.text}\n{dialogue}", pytrace=False)

    def _hear_in_order(self, block: list[Line]) -> None:
        for line in block:
            received = self._next(line)
            if line.text == CLOSED:
                if received is not None:
                    self._fail(line, "the connection is still open")
            elif received is None or not self._matches(line, received):
                self._fail(line, "another line came")

    def _hear_block(self, block: list[Line]) -> None:
        last = next(line for line in reversed(block) if line.kind == "S")
        owed = [line for line in block if line.kind == "S" and line is not last]
        allowed = [line for line in block if line.kind == "S~"]
        while True:
            received = self._next(last)
            if received is None:
                if last.text != CLOSED or owed:
                    self._fail(last, "the connection was closed")
                return
            found = next((line for line in owed if self._matches(line, received)), None)
            if found is not None:
                owed.remove(found)
            elif last.text != CLOSED and self._matches(last, received):
                if owed:
                    self._fail(owed[0], "the line did not come")
                return
            elif not any(self._matches(line, received) for line in allowed):
                self._fail((owed or [last])[0], f"unexpected: {received!r}")


@pytest.mark.parametrize(("script", "name"), CASES)
def test_dialogue(
    script: Script, name: str, peer_named: Callable[[str], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    if script.headers.get("progress") == "always":
        monkeypatch.setattr("pochta.servers.imap.progress.PERIOD_S", 0.0)
    Talk(script, peer_named(name)).hold()


_SHARED_FILES: Final = {
    **dict.fromkeys(("SETACL", "DELETEACL", "GETACL", "LISTRIGHTS", "MYRIGHTS"), "ACL"),
    **dict.fromkeys(("GETQUOTA", "GETQUOTAROOT", "SETQUOTA"), "QUOTA"),
    **dict.fromkeys(("GETMETADATA", "SETMETADATA"), "METADATA"),
    "CANCELUPDATE": "CONTEXT_SEARCH",
}


def test_every_command_has_a_dialogue() -> None:
    from pochta.servers.imap.table import HANDLERS

    said = {
        words
        for script in SCRIPTS
        if script.path.suffix == ".imap"
        for line in script.lines
        if line.kind[0] == "C"
        for words in re.findall(r"^\S+ ((?:UID )?[A-Z]+)", line.text.upper())
    }
    names = {"StartTls": "STARTTLS", "UidExpunge": "UID EXPUNGE", "UnknownCharset": "SEARCH", "MultiSearch": "ESEARCH"}
    wanted = {names.get(command.__name__, command.__name__.upper()) for command in HANDLERS} | {"APPEND", "EXAMINE"}
    assert wanted <= said, wanted - said
    files = {script.path.stem.upper() for script in SCRIPTS if script.path.suffix == ".imap"}
    assert {_SHARED_FILES.get(words, words).split()[0] for words in wanted} <= files


def test_every_pop3_command_has_a_dialogue() -> None:
    from pochta.proto.pop3.server import COMMANDS

    lines = [line for script in SCRIPTS if script.path.suffix == ".pop3" for line in script.lines]
    texts = [text for line in lines if line.kind[0] == "C" for text in line.text.split("<CRLF>")]
    said = {text.split()[0].upper() for text in texts}
    assert {verb.decode() for verb in COMMANDS} <= said
