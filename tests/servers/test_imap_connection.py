"""The life of an IMAP connection: TLS, sign-in, limits, timeouts, floods, the server's stop."""

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from imap_raw import Imap, fill, message

from pochta.config import Limits
from pochta.net.connection import Connection
from pochta.servers.imap.connection import BAD_COMMANDS_MAX
from pochta.testing import Server

FLOOD_BYTES = 24 * 1024 * 1024  # far past what two sockets hold
HELD_MAX = 1024 * 1024  # what one reading of the socket (256 KiB of commands) is answered with, with room
SMALL_BUFFER = 16 * 1024


def trusting(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.certificate)


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    with Server(with_tls=True) as server:
        server.add_account("anna@example.org", "secret")
        yield server


@pytest.mark.rfc(3501, "6.2.1")
def test_starttls(secure: Server) -> None:
    with Imap(secure, login=False) as imap:
        assert b" STARTTLS" in imap.greeting
        # what is sent in the clear behind STARTTLS is dropped
        imap.send(b"a STARTTLS\r\nb NOOP\r\n")
        assert imap.line().startswith(b"a OK ")
        wrapped = trusting(secure).wrap_socket(imap.socket, server_hostname="localhost")
        imap.socket, imap.file = wrapped, wrapped.makefile("rb")
        [capability] = imap.ok("CAPABILITY")
        assert b"STARTTLS" not in capability
        assert b"AUTH=PLAIN" in capability
        assert imap.do("STARTTLS")[-1].startswith(b"BAD")
        imap.ok("LOGIN anna@example.org secret")
        imap.ok("SELECT INBOX")
        assert b"STARTTLS" not in imap.ok("CAPABILITY")[0]


def test_implicit_tls_carries_a_large_message(secure: Server) -> None:
    with Imap(secure, port=secure.imaps_port, tls=trusting(secure)) as imap:
        assert b"STARTTLS" not in imap.greeting
        large = message(1, b"x" * 70 + b"\r\n") + (b"y" * 76 + b"\r\n") * 30_000
        assert imap.append(large)[-1].startswith(b"OK")
        assert imap.literal("FETCH * BODY.PEEK[]") == large


@pytest.mark.rfc(3501, "6.2.3")
def test_no_password_in_the_clear_where_that_is_forbidden(secure: Server) -> None:
    # the connection itself is driven: the test server's plain port allows it
    for connection_is_allowed in (False, True):
        with Imap(secure, login=False) as imap:
            imap.do("NOOP")
            [connection] = secure.app.imap_connections
            connection.is_plaintext_auth_allowed = connection_is_allowed
            [capability] = imap.ok("CAPABILITY")
            assert (b"LOGINDISABLED" in capability) is not connection_is_allowed
            for command in ("LOGIN anna@example.org secret", "AUTHENTICATE PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0"):
                answer = imap.do(command)[-1]
                if connection_is_allowed:
                    assert answer.startswith(b"OK")
                    break
                assert answer.startswith(b"NO [PRIVACYREQUIRED]")
            imap.do("LOGOUT")
            assert imap.line() == b""


def test_wrong_passwords_end_the_connection(pochta: Server) -> None:
    with Imap(pochta, login=False) as imap:
        for _ in range(Limits().auth_failures_per_connection - 1):
            assert imap.do("LOGIN anna@example.org wrong")[-1].startswith(b"NO [AUTHENTICATIONFAILED]")
        imap.begin("LOGIN nobody@example.org wrong")
        assert b"NO [AUTHENTICATIONFAILED]" in imap.line()
        assert imap.line().startswith(b"* BYE ")
        assert imap.line() == b""
    assert not [line for line in pochta.events if "wrong" in line]


@pytest.mark.parametrize("command", ["LOGIN anna@example.org secret", "AUTHENTICATE PLAIN", "AUTHENTICATE LOGIN"])
def test_too_many_sign_ins_at_once_are_asked_to_come_again(pochta: Server, command: str) -> None:
    pochta.app.authenticator._capacity = 0
    with Imap(pochta, login=False) as imap:
        tag = imap.begin(command)
        line = imap.line()
        if line.startswith(b"+ ") and command.endswith("LOGIN"):
            imap.send(b"YW5uYUBleGFtcGxlLm9yZw==\r\n")
            assert imap.line().startswith(b"+ ")
            imap.send(b"c2VjcmV0\r\n")
            line = imap.line()
        elif line.startswith(b"+ "):
            imap.send(b"AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\n")
            line = imap.line()
        assert line.startswith(tag + b" NO [UNAVAILABLE]")
        imap.ok("NOOP")


def test_too_many_bad_commands(pochta: Server) -> None:
    with Imap(pochta, login=False) as imap:
        for _ in range(BAD_COMMANDS_MAX - 1):
            assert imap.do("FROBNICATE")[-1].startswith(b"BAD")
        imap.begin("FROBNICATE")
        assert b" BAD " in imap.line()
        assert imap.line().startswith(b"* BYE ")
        assert imap.line() == b""


@pytest.mark.rfc(7888, "4")
def test_literals_before_sign_in_are_small(pochta: Server) -> None:
    with Imap(pochta, login=False) as imap:
        tag = imap.begin(b"LOGIN {5000}")
        assert imap.line().startswith(tag + b" BAD")
        imap.ok("NOOP")
        imap.begin(b"LOGIN {5000+}")
        assert imap.line().startswith(b"* BYE")
        assert imap.line() == b""
    with Imap(pochta, login=False) as imap:
        imap.send(b"a " + b"x" * 13_000)
        assert b"BAD" in imap.line()
        imap.send(b"\r\n")
        imap.ok("NOOP")
    with Imap(pochta, login=False) as imap:
        assert imap.append(message(1))[-1].startswith(b"NO")
        imap.ok("NOOP")


@pytest.mark.rfc(3501, "5.4")
def test_silence_ends_with_bye() -> None:
    limits = Limits(min_free_bytes=0, login_timeout_s=1)
    with Server(limits=limits) as server, Imap(server, login=False) as imap:
        assert imap.line().startswith(b"* BYE ")
        assert imap.line() == b""


def test_a_signed_in_client_has_its_own_time() -> None:
    limits = Limits(min_free_bytes=0, login_timeout_s=60, idle_timeout_s=1)
    with Server(limits=limits) as server:
        server.add_account("anna@example.org", "secret")
        with Imap(server) as imap:
            imap.idle()
            assert imap.line().startswith(b"* BYE ")
            assert imap.line() == b""


def test_stop_says_bye_and_ends_what_is_under_way() -> None:
    server = Server()
    server.start()
    server.add_account("anna@example.org", "secret")
    large = message(1, (b"z" * 76 + b"\r\n") * 60_000)
    with Imap(server, login=False) as stranger, Imap(server) as idle, Imap(server) as reader:
        assert reader.append(large)[-1].startswith(b"OK")
        idle.idle()
        tag = reader.begin("FETCH 1 BODY.PEEK[]")
        assert reader.file.read(10) == b"* 1 FETCH "  # it is under way, and the sockets are full
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert stranger.line().startswith(b"* BYE ")
        assert b"BYE" in idle.line() + idle.line() + idle.line()
        assert len(reader.line()) > len(large)
        assert reader.line().startswith(tag + b" OK ")
        assert reader.line().startswith(b"* BYE ")
        assert reader.line() == b""
        stopping.join()


def held_for_a_flood(connections: set[Connection], client: socket.socket, request: bytes) -> int:
    """The most octets the server holds for a client that sends `request` for ever and reads nothing."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.setblocking(False)
    [connection] = connections
    sent = held = 0
    deadline = time.monotonic() + 15
    while not (connection._write_deadline is not None and not select.select([], [client], [], 0.2)[1]):
        assert sent < FLOOD_BYTES, "the server reads on"
        assert time.monotonic() < deadline
        select.select([], [client], [], 0.2)
        with contextlib.suppress(BlockingIOError):
            sent += client.send(request)
        held = max(held, connection._transport.get_write_buffer_size())
    return held


@pytest.mark.parametrize("command", ["NOOP", "CAPABILITY", "ID NIL", 'LIST "" *', "FETCH 9 UID", "SEARCH ALL"])
def test_a_client_that_floods_and_does_not_read_is_held_back(pochta: Server, command: str) -> None:
    with Imap(pochta) as imap:
        connections: set[Connection] = set(pochta.app.imap_connections)
        assert held_for_a_flood(connections, imap.socket, b"a %b\r\n" % command.encode() * 2000) < HELD_MAX


@pytest.mark.parametrize("command", ["NOOP", "EHLO x", "RSET", "RCPT TO:<anna@example.org>"])
def test_a_sender_that_floods_and_does_not_read_is_held_back(pochta: Server, command: str) -> None:
    with socket.create_connection((pochta.host, pochta.smtp_port)) as client:
        client.sendall(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<anna@example.org>\r\n")
        while b"Recipient OK" not in client.recv(4096):
            pass
        connections: set[Connection] = set(pochta.app.smtp_connections)
        assert held_for_a_flood(connections, client, b"%b\r\n" % command.encode() * 2000) < HELD_MAX


def test_half_closed_connection_gets_its_answers(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta, login=False) as imap:
        imap.send(
            b"a LOGIN anna@example.org secret\r\nb SELECT INBOX\r\nc FETCH 1:* BODY.PEEK[TEXT]\r\n"
            b"d STORE 1 +FLAGS (\\Seen)\r\ne LOGOUT\r\n"
        )
        imap.socket.shutdown(socket.SHUT_WR)
        answers = imap.file.read()
    for end in (b"a OK", b"b OK", b"c OK", b"d OK", b"e OK"):
        assert b"\r\n" + end in b"\r\n" + answers


def test_a_large_message_streams_to_a_slow_reader(pochta: Server) -> None:
    large = message(1, (b"z" * 76 + b"\r\n") * 320_000)  # 25 MB
    with Imap(pochta) as imap, Imap(pochta) as other:
        assert imap.append(large)[-1].startswith(b"OK")
        tag = imap.begin("FETCH 1 BODY.PEEK[]")
        [reading] = [one for one in pochta.app.imap_connections if one.peer_port == imap.socket.getsockname()[1]]
        head = imap.file.readline()
        size = int(re.search(rb"\{(\d+)\}", head)[1])  # type: ignore[index]
        got = bytearray()
        while len(got) < size:
            other.ok("NOOP")  # others are served meanwhile
            assert reading._transport.get_write_buffer_size() < 512 * 1024
            got += imap.file.read(min(2_000_000, size - len(got)))
        assert bytes(got) == large
        assert imap.line() == b")"
        assert imap.line().startswith(tag + b" OK")


def test_a_connection_lost_in_the_middle_leaves_nothing(pochta: Server) -> None:
    spool = pochta.data_dir / "blobs"
    with Imap(pochta) as imap:
        imap.send(b"a APPEND INBOX {200000+}\r\n" + b"x" * 150_000)
    with Imap(pochta) as imap:
        imap.send(b"a APPEND INBOX {2000+}\r\n" + b"x" * 1500)
    with Imap(pochta) as imap:
        imap.ok("NOOP")
        assert b"MESSAGES 0" in imap.ok("STATUS INBOX (MESSAGES)")[0]
        deadline = time.monotonic() + 10
        while (len(pochta.app.imap_connections) > 1 or any(spool.glob(".new-*"))) and time.monotonic() < deadline:
            imap.ok("NOOP")
    assert not any(spool.glob(".new-*"))
    assert pochta.app.intake.memory_bytes == 0
