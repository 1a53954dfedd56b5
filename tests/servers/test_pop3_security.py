"""Attacks on POP3: injected commands, passwords in the clear, guessing, floods, web pages."""

import ssl
from base64 import b64encode
from collections.abc import Iterator

import pytest
from imap_raw import Imap, fill, message
from pop3_raw import USER, Pop3

from pochta.app import App
from pochta.config import Limits, Listener, ListenerProtocol, ListenerTls
from pochta.proto.pop3.server import MAX_BAD_COMMANDS
from pochta.servers.pop3.connection import Pop3Connection
from pochta.testing import Server

rfc = pytest.mark.rfc


@pytest.fixture
def tls_server() -> Iterator[Server]:
    with Server(with_tls=True) as server:
        server.add_account(USER, "secret")
        yield server


@rfc(2595, "4")
def test_what_is_sent_in_the_clear_behind_stls_is_dropped(tls_server: Server) -> None:
    context = ssl.create_default_context(cafile=tls_server.certificate)
    with Pop3(tls_server, login=False) as pop3:
        pop3.ok("UTF8")
        # "USER" in the clear would make the victim's PASS sign in the attacker's session
        pop3.ok(f"STLS\r\nUSER {USER}\r\nPASS secret")
        secure = context.wrap_socket(pop3.socket, server_hostname="localhost")
        pop3.file.close()
        pop3.socket, pop3.file = secure, secure.makefile("rb")
        assert pop3.err("PASS secret") == b"Send USER first"
        assert pop3.err("STAT") == b"Sign in first"
        assert pop3.err("STLS") == b"TLS is active already"
        pop3.ok(f"USER {USER}")
        pop3.ok("PASS secret")
    assert any("pop3.stls.injected" in line and "dropped=" in line for line in tls_server.events)


@rfc(2595, "2.3")
def test_passwords_are_not_taken_in_the_clear(tls_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_plaintext(self: Pop3Connection) -> None:
        self.engine.allows_plaintext_auth = False
        on_connect(self)

    on_connect = Pop3Connection.on_connect
    monkeypatch.setattr(Pop3Connection, "on_connect", refuse_plaintext)
    context = ssl.create_default_context(cafile=tls_server.certificate)
    with Pop3(tls_server, login=False) as pop3:
        lines = pop3.multi("CAPA").splitlines()
        assert b"STLS" in lines
        assert b"USER" not in lines
        assert not any(line.startswith(b"SASL") for line in lines)
        no = b"[AUTH] Start TLS first: others could read the password"
        assert pop3.err(f"USER {USER}") == no
        assert pop3.err("PASS secret") == b"Send USER first"
        assert pop3.err("AUTH PLAIN") == no
        assert pop3.err(b"AUTH PLAIN " + b64encode(f"\0{USER}\0secret".encode())) == no
    with Pop3(tls_server, port=tls_server.pop3s_port, tls=context) as pop3:
        assert pop3.drop == b"0 messages (0 octets)"


def test_a_listener_without_plaintext_auth_gives_that_to_its_connections(tls_server: Server) -> None:
    listener = Listener(protocol=ListenerProtocol.POP3, address="127.0.0.1:0", tls=ListenerTls.STARTTLS)

    async def connection(_store: object) -> Pop3Connection:
        app: App = tls_server.app
        made = app._factory(listener)()
        assert isinstance(made, Pop3Connection)
        return made

    engine = tls_server.run(connection).engine
    assert engine.can_start_tls
    assert not engine.may_sign_in


def test_guessing_ends_the_connection() -> None:
    with Server(limits=Limits(min_free_bytes=0, auth_failures_per_connection=3)) as server:
        server.add_account(USER, "secret")
        with Pop3(server, login=False) as pop3:
            for _ in range(2):
                pop3.ok(f"USER {USER}")
                assert pop3.err("PASS wrong").startswith(b"[AUTH] ")
            assert pop3.err(b"AUTH PLAIN " + b64encode(b"a\0b\0c")).startswith(b"[AUTH] ")
            assert pop3.line() == b"-ERR [AUTH] Too many failed sign-ins"
            assert pop3.is_closed()
        assert any("auth.failed" in line and "127.0.0.1" in line for line in server.events)


def test_nobody_learns_who_exists(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        answers = []
        for user in (USER, "nobody@example.org", "nobody@nowhere.example", "x"):
            answers.append((pop3.do(f"USER {user}"), pop3.do("PASS wrong")))
        assert len(set(answers)) == 1


def test_bad_commands_end_the_connection(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        pop3.send(b"XYZZY\r\n" * MAX_BAD_COMMANDS)
        assert [pop3.line() for _ in range(MAX_BAD_COMMANDS)][-1] == b"-ERR Too many bad commands"
        assert pop3.is_closed()


def test_a_web_page_cannot_speak_pop3(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        pop3.send(f"POST / HTTP/1.1\r\nHost: x\r\n\r\nUSER {USER}\r\nPASS secret\r\n".encode())
        assert pop3.line() == b"-ERR This is no web server"
        assert pop3.is_closed()


@pytest.mark.parametrize("text", [b"\n.\n+OK 1 octets\n", b"\r\n.\r\n+OK 1 octets\r\n"], ids=["LF", "CRLF"])
def test_a_message_cannot_split_the_answer(text: bytes, pochta: Server) -> None:
    evil = b"Subject: x\r\n\r\na" + text + b"evil\n.\n\r\n"
    with Imap(pochta) as imap:
        imap.append(evil)
    with Pop3(pochta) as pop3:
        for command in ("RETR 1", "TOP 1 100"):
            pop3.send(f"{command}\r\nSTAT\r\n".encode())
            assert pop3.line().startswith(b"+OK")
            lines = []
            # a client that reads up to LF and takes a lone dot for the end
            while (line := pop3.file.readline()).rstrip(b"\r\n") != b".":
                lines.append(line[1:] if line.startswith(b".") else line)
            assert b"".join(lines) == evil
            assert pop3.line() == b"+OK 1 %d" % len(evil)


def test_an_unread_pipeline_is_bounded(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        imap.append(message(2, b"x" * 60_000 + b"\r\n"))
    with Pop3(pochta) as pop3:
        # one by one, so that the server's buffers fill and it must wait for us
        pop3.socket.settimeout(0.5)
        sent = 0
        block = b"RETR 2\r\nNOOP\r\n" * 1000
        try:
            while sent < 2000 * len(block):
                sent += pop3.socket.send(block)
        except TimeoutError:
            pass
        assert sent < 2000 * len(block)
        (connection,) = pochta.app.pop3_connections
        assert connection.engine.buffered_bytes < 1024 * 1024
        assert connection.engine.pending_bytes < 1024 * 1024
