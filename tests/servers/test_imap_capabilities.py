"""Each capability that IMAP advertises, shown to work: what a client writes and what it reads, over a real socket."""

import base64
import re
import socket
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest
from msgspec.structs import replace

from pochta.config import Settings
from pochta.testing import Server

ADDRESS, PASSWORD = "anna@example.org", "secret"
PLAIN = base64.b64encode(f"\0{ADDRESS}\0{PASSWORD}".encode()).decode()
MESSAGE = b"Subject: %d\r\n\r\nhello\r\n"


class Peer:
    """A client that writes lines and reads up to a line it names."""

    def __init__(self, server: Server, port: int = 0) -> None:
        self._socket = socket.create_connection((server.host, port or server.imap_port), timeout=20)
        self._server = server
        self._read = b""
        self.greeting = self.until(rb"\* OK .*")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def until(self, pattern: bytes) -> str:
        """What came, up to and with the first line that is all `pattern`."""
        line = re.compile(rb"(?:^|(?<=\n))" + pattern + rb"\r\n")
        while (found := line.search(self._read)) is None:
            part = self._socket.recv(65_536)
            assert part, self._read
            self._read += part
        told, self._read = self._read[: found.end()], self._read[found.end() :]
        return told.decode()

    def ask(self, command: bytes) -> str:
        """The whole answer to one command."""
        self.send(b"t " + command + b"\r\n")
        return self.until(rb"t (?:OK|NO|BAD) .*")

    def sign_in(self) -> Self:
        assert "t OK" in self.ask(b"LOGIN %b %b" % (ADDRESS.encode(), PASSWORD.encode()))
        return self

    def start_tls(self) -> None:
        assert "t OK" in self.ask(b"STARTTLS")
        context = ssl.create_default_context(cafile=self._server.certificate)
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")


class StrictServer(Server):
    """Takes no password in the clear, as every server does that is not on loopback."""

    def _settings(self) -> Settings:
        settings = super()._settings()
        strict = tuple(replace(one, allow_plaintext_auth=False) for one in settings.listeners)
        return replace(settings, listeners=strict)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(with_tls=True) as running:
        running.add_account(ADDRESS, PASSWORD)
        yield running


@pytest.fixture
def strict_server() -> Iterator[Server]:
    with StrictServer(with_tls=True) as running:
        running.add_account(ADDRESS, PASSWORD)
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    """A client that has signed in."""
    with Peer(server) as one:
        yield one.sign_in()


@pytest.fixture
def mailbox(peer: Peer, request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A new mailbox with three messages, UIDs 1 to 3, selected by `peer`."""
    name = request.node.name.encode()
    assert "t OK" in peer.ask(b"CREATE " + name)
    for number in (1, 2, 3):
        message = MESSAGE % number
        peer.ask(b"APPEND %b {%d+}\r\n%b" % (name, len(message), message))
    assert "* 3 EXISTS" in peer.ask(b"SELECT " + name)
    yield name
    peer.ask(b"DELETE " + name)


def test_imap4rev1_in_the_greeting(server: Server) -> None:
    with Peer(server) as one:
        assert "[CAPABILITY IMAP4rev1 " in one.greeting


@pytest.mark.rfc(4616, "2")
def test_auth_plain_with_a_challenge(server: Server) -> None:
    with Peer(server) as one:
        assert "AUTH=PLAIN" in one.greeting
        one.send(b"t AUTHENTICATE PLAIN\r\n")
        assert one.until(rb"\+ .*") == "+ \r\n"
        one.send(PLAIN.encode() + b"\r\n")
        assert "t OK [CAPABILITY" in one.until(rb"t .*")


def test_auth_login_with_two_challenges(server: Server) -> None:
    with Peer(server) as one:
        assert "AUTH=LOGIN" in one.greeting
        one.send(b"t AUTHENTICATE LOGIN\r\n")
        for answer in (ADDRESS, PASSWORD):
            one.until(rb"\+ .*")
            one.send(base64.b64encode(answer.encode()) + b"\r\n")
        assert "t OK" in one.until(rb"t .*")


@pytest.mark.rfc(4959, "3")
def test_sasl_ir_needs_no_challenge(server: Server) -> None:
    with Peer(server) as one:
        assert "SASL-IR" in one.greeting
        assert one.ask(b"AUTHENTICATE PLAIN " + PLAIN.encode()).startswith("t OK")


@pytest.mark.rfc(3501, "6.2.1")
def test_starttls_then_no_starttls(server: Server) -> None:
    with Peer(server) as one:
        assert "STARTTLS" in one.greeting
        one.start_tls()
        assert "STARTTLS" not in one.ask(b"CAPABILITY")
        one.sign_in()


@pytest.mark.rfc(3501, "6.2.3")
def test_logindisabled_until_tls(strict_server: Server) -> None:
    with Peer(strict_server) as one:
        assert "LOGINDISABLED" in one.greeting
        assert "AUTH=" not in one.greeting
        assert "t NO [PRIVACYREQUIRED]" in one.ask(b"LOGIN %b %b" % (ADDRESS.encode(), PASSWORD.encode()))
        one.start_tls()
        assert "LOGINDISABLED" not in one.ask(b"CAPABILITY")
        one.sign_in()


@pytest.mark.rfc(7888, "4")
def test_literal_plus_is_not_waited_for(server: Server) -> None:
    with Peer(server) as one:
        assert "LITERAL+" in one.greeting
        one.send(
            b"t LOGIN {%d+}\r\n%b {%d+}\r\n%b\r\n" % (len(ADDRESS), ADDRESS.encode(), len(PASSWORD), PASSWORD.encode())
        )
        assert one.until(rb"t .*").startswith("t OK")  # and no `+`


@pytest.mark.rfc(2971, "3.1")
def test_id_tells_who_we_are(peer: Peer) -> None:
    assert '* ID ("name" "Pochta"' in peer.ask(b'ID ("name" "test")')
    assert "* ID (" in peer.ask(b"ID NIL")


@pytest.mark.rfc(5161, "3.1")
def test_enable_names_what_it_turned_on(peer: Peer) -> None:
    answer = peer.ask(b"ENABLE X-NOTHING")
    assert "X-NOTHING" not in answer
    assert "t OK" in answer


@pytest.mark.rfc(2342, "5")
def test_namespace_tells_of_others(peer: Peer) -> None:
    told = '* NAMESPACE (("" "/")) (("Other Users/" "/")) (("Shared/" "/"))\r\n'
    assert told in peer.ask(b"NAMESPACE")


@pytest.mark.rfc(3348, "3")
def test_children_are_told_in_list(peer: Peer) -> None:
    peer.ask(b"CREATE above/below")
    answer = peer.ask(b'LIST "" "above*"')
    assert re.search(r'\* LIST \([^)]*\\HasChildren[^)]*\) "/" "?above"?\r\n', answer)
    assert re.search(r'\* LIST \([^)]*\\HasNoChildren[^)]*\) "/" "?above/below"?\r\n', answer)


@pytest.mark.rfc(6154, "2")
def test_special_use_is_told_in_list(peer: Peer) -> None:
    answer = peer.ask(b'LIST "" "*"')
    for attribute in ("\\Drafts", "\\Sent", "\\Trash", "\\Junk"):
        assert len(re.findall(rf"\* LIST \([^)]*{re.escape(attribute)}[ )]", answer)) == 1


@pytest.mark.rfc(4315, "3")
def test_uidplus_tells_the_new_uids(peer: Peer, mailbox: bytes) -> None:
    assert re.search(r"t OK \[APPENDUID \d+ 4\]", peer.ask(b"APPEND %b {3+}\r\na\r\n" % mailbox))
    assert re.search(r"t OK \[COPYUID \d+ 1:2 5:6\]", peer.ask(b"UID COPY 1:2 " + mailbox))


@pytest.mark.rfc(4315, "2.1")
def test_uidplus_expunges_only_what_it_is_told(peer: Peer, mailbox: bytes) -> None:
    peer.ask(b"STORE 1:2 +FLAGS (\\Deleted)")
    answer = peer.ask(b"UID EXPUNGE 2")
    assert re.findall(r"\* (\d+) EXPUNGE", answer) == ["2"]
    assert "* SEARCH 1 3\r\n" in peer.ask(b"UID SEARCH ALL")


@pytest.mark.rfc(6851, "3.3")
def test_move_removes_here_and_places_there(peer: Peer, mailbox: bytes) -> None:
    peer.ask(b"CREATE moved-to")
    answer = peer.ask(b"MOVE 2 moved-to")
    assert re.search(r"\* OK \[COPYUID \d+ 2 1\]", answer)
    assert "* 2 EXPUNGE\r\n" in answer
    assert answer.index("COPYUID") < answer.index("EXPUNGE")
    assert "(MESSAGES 1)" in peer.ask(b"STATUS moved-to (MESSAGES)")


@pytest.mark.rfc(2177, "3")
def test_idle_tells_at_once(peer: Peer, mailbox: bytes, server: Server) -> None:
    peer.send(b"t IDLE\r\n")
    peer.until(rb"\+ .*")
    with Peer(server) as other:
        other.sign_in().ask(b"APPEND %b {3+}\r\na\r\n" % mailbox)
        peer.until(rb"\* 4 EXISTS")
    peer.send(b"DONE\r\n")
    assert "t OK" in peer.until(rb"t .*")


@pytest.mark.rfc(3691, "2")
def test_unselect_expunges_nothing(peer: Peer, mailbox: bytes) -> None:
    peer.ask(b"STORE 1 +FLAGS (\\Deleted)")
    assert peer.ask(b"UNSELECT").startswith("t OK")
    assert "t BAD" in peer.ask(b"FETCH 1 FLAGS") or "t NO" in peer.ask(b"FETCH 1 FLAGS")
    assert "(MESSAGES 3)" in peer.ask(b"STATUS %b (MESSAGES)" % mailbox)


@pytest.mark.rfc(3502, "6.3.11")
def test_multiappend_all_or_nothing(peer: Peer, mailbox: bytes) -> None:
    answer = peer.ask(b"APPEND %b (\\Seen) {3+}\r\na\r\n {3+}\r\nb\r\n" % mailbox)
    assert re.search(r"t OK \[APPENDUID \d+ 4:5\]", answer)
    refused = peer.ask(b"APPEND nowhere {3+}\r\na\r\n {3+}\r\nb\r\n")
    assert "t NO [TRYCREATE]" in refused
    assert "(MESSAGES 5)" in peer.ask(b"STATUS %b (MESSAGES)" % mailbox)
