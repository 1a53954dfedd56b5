"""POP3 over real sockets: frozen lists, removal at QUIT and only there, several sessions, what goes wrong."""

import smtplib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from imap_raw import Imap, fill, message
from pop3_raw import USER, Pop3

from pochta.accounts import edit
from pochta.accounts.auth import Authenticator
from pochta.accounts.passwords import hash_password
from pochta.config import Limits
from pochta.errors import Corrupt, TryLater
from pochta.log import Secret
from pochta.servers.pop3 import inbox
from pochta.store import blobs, changes, placements
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server
from pochta.testing.server import CHEAP_COST

rfc = pytest.mark.rfc
LARGE = message(4, b"a line of a large message\r\n" * 10_000)


def uids(server: Server) -> list[int]:
    return found(server, "ALL")


def found(server: Server, key: str) -> list[int]:
    with Imap(server) as imap:
        return [int(word) for line in imap.ok(f"UID SEARCH {key}") for word in line.split()[2:]]


@rfc(1939, "4")
def test_the_list_is_frozen_and_what_is_removed_elsewhere_stays_readable(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap:
        imap.append(LARGE)
        with Pop3(pochta) as pop3:
            listed = pop3.multi("UIDL")
            imap.ok("STORE 1,4 +FLAGS (\\Deleted)")
            imap.ok("EXPUNGE")
            with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
                smtp.sendmail("b@example.net", [USER], message(9))
            assert pop3.multi("UIDL") == listed
            assert pop3.ok("STAT").startswith(b"4 ")
            assert pop3.multi("RETR 1") == message(1)
            assert pop3.multi("RETR 4") == LARGE
            assert pop3.multi("TOP 4 1") == message(4, b"a line of a large message\r\n")
            # RFC 1939 §6: what is gone already is passed over, and nothing else goes with it
            pop3.ok("DELE 1")
            pop3.ok("DELE 2")
            assert pop3.quit() == b"+OK Bye, 2 removed, 2 left"
    assert uids(pochta) == [3, 5]


@rfc(1939, "6")
def test_quit_removes_by_uid_whatever_the_flags_say(pochta: Server) -> None:
    fill(pochta, 4)
    with Imap(pochta) as imap, Pop3(pochta) as pop3:
        imap.ok("STORE 4 +FLAGS (\\Deleted)")
        pop3.ok("DELE 1")
        pop3.ok("DELE 3")
        assert imap.ok("NOOP") == []
        pop3.quit()
        assert imap.ok("NOOP")[:2] == [b"* 3 EXPUNGE", b"* 1 EXPUNGE"]
    assert uids(pochta) == [2, 4]
    assert found(pochta, "DELETED") == [4]


@rfc(1939, "6")
@pytest.mark.parametrize("ending", ["close", "reset", "RSET", "server stops"])
def test_without_quit_nothing_is_removed(ending: str, tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as server:
        server.add_account(USER, "secret")
        fill(server, 2)
        pop3 = Pop3(server)
        pop3.ok("DELE 1")
        pop3.multi("RETR 2")
        if ending == "reset":
            pop3.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif ending == "RSET":
            pop3.ok("RSET")
            assert pop3.quit() == b"+OK Bye, 0 removed, 2 left"
        elif ending == "server stops":
            server.stop()
            assert pop3.line() == b"-ERR [SYS/TEMP] The server is shutting down; come again in a moment"
            assert pop3.is_closed()
        pop3.close()
    with Server(data_dir=tmp_path) as server:
        assert uids(server) == [1, 2]
        assert found(server, "SEEN") == ([2] if ending == "RSET" else [])


def test_what_was_retrieved_is_seen_after_quit(pochta: Server) -> None:
    fill(pochta, 4)
    with Pop3(pochta) as pop3:
        for command in ("RETR 1", "RETR 3", "TOP 2 5", "RETR 4"):
            pop3.multi(command)
        pop3.ok("DELE 4")
        assert found(pochta, "SEEN") == []
        pop3.quit()
    assert found(pochta, "SEEN") == [1, 3]


@rfc(1939, "6")
def test_a_quit_whose_client_does_not_wait_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOVED_PER_STEP", 2)
    with Server(with_tls=True) as server:
        server.add_account(USER, "secret")
        fill(server, 30)
        context = ssl.create_default_context(cafile=server.certificate)
        with Imap(server) as imap:
            tag = imap.idle()
            with Pop3(server, port=server.pop3s_port, tls=context) as pop3:
                pop3.send(b"".join(b"DELE %d\r\n" % number for number in range(1, 30)) + b"NOOP\r\n")
                assert [pop3.line()[:3] for _ in range(30)] == [b"+OK"] * 30
                pop3.send(b"QUIT\r\n")
            # with TLS the end of the peer is the end of the connection: its task is cancelled
            gone = 0
            while gone < 29:
                line = imap.line()
                assert line
                gone += line.endswith(b" EXPUNGE")
            imap.done(tag)
        assert uids(server) == [30]


def test_two_sessions_of_one_account(pochta: Server) -> None:
    fill(pochta, 3)
    with Pop3(pochta) as one, Pop3(pochta) as two:
        one.ok("DELE 1")
        two.ok("DELE 1")
        two.ok("DELE 2")
        assert one.quit().startswith(b"+OK")
        assert two.multi("RETR 3") == message(3)
        assert two.quit().startswith(b"+OK")
    assert uids(pochta) == [3]


def test_a_large_maildrop_is_read_in_slices(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 5)
    with Pop3(pochta) as pop3:
        whole = (pop3.multi("LIST"), pop3.multi("UIDL"))
    monkeypatch.setattr(inbox, "INLINE_MAX_MESSAGES", 2)
    with Pop3(pochta) as pop3:
        assert (pop3.multi("LIST"), pop3.multi("UIDL")) == whole
    monkeypatch.setattr(inbox, "MESSAGES_MAX", 3)
    with Pop3(pochta) as pop3:
        assert pop3.drop.startswith(b"3 messages")


@rfc(1939, "11")
@pytest.mark.parametrize(
    "text",
    [
        b"a: b\r\n\r\n.\r\n..\r\n.x\r\n",
        b"a: b\n\nbare\n.\nlines\n\r\n",
        b"\r\n",
        b"a: b\r\n\r\n\x00\xff\r\r\n",
        b"a: b\r\n\r\n" + b".\r\n" * 50_000,
        b"a: b\r\n\r\n" + b"x" * 100_000 + b"\n.\r\n",
    ],
    ids=["dots", "bare LF", "empty", "8 bit", "large with dots", "large line"],
)
def test_sizes_are_those_of_what_is_sent(text: bytes, pochta: Server) -> None:
    with Imap(pochta) as imap:
        appended = imap.append(text)[-1].startswith(b"OK")
    if not appended:  # APPEND takes no NUL in a plain literal: SMTP does
        with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
            assert smtp.sendmail("a@example.net", [USER], text.replace(b"\r\r\n", b"\r\n")) == {}
    with Pop3(pochta) as pop3:
        got = pop3.multi("RETR 1")
        assert pop3.ok("LIST 1") == b"1 %d" % len(got)
        assert pop3.ok("STAT") == b"1 %d" % len(got)
        assert got.endswith(text) or not appended
        assert pop3.multi("TOP 1 9999999") == got
        assert pop3.ok("NOOP") == b""


def test_a_message_without_its_last_line_end_gets_one(pochta: Server) -> None:
    with Imap(pochta) as imap:
        for text in (b"a: b\r\n\r\nend", b"a: b\r\n\r\nend\n", b"x" * 70_000):
            imap.append(text)
    with Pop3(pochta) as pop3:
        assert pop3.multi("RETR 1") == b"a: b\r\n\r\nend\r\n"
        assert pop3.multi("RETR 2") == b"a: b\r\n\r\nend\n\r\n"
        assert pop3.multi("RETR 3") == b"x" * 70_000 + b"\r\n"


def _full(tx: Tx, *_: object) -> int:
    raise TryLater("the disk is full")


@rfc(1939, "6")
def test_quit_on_a_full_disk_says_so(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 2)
    with Pop3(pochta) as pop3:
        pop3.ok("DELE 1")
        monkeypatch.setattr(placements, "expunge", _full)
        assert pop3.quit() == b"-ERR [SYS/TEMP] Not all deleted messages were removed: The disk is full"
    monkeypatch.undo()
    assert uids(pochta) == [1, 2]
    assert any("pop3.update.failed" in line for line in pochta.events)


def test_quit_is_ok_though_seen_could_not_be_set(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 2)
    with Pop3(pochta) as pop3:
        pop3.multi("RETR 1")
        monkeypatch.setattr(placements, "set_flags", _full)
        assert pop3.quit() == b"+OK Bye, 0 removed, 2 left"
    assert any("pop3.update.failed" in line for line in pochta.events)


def test_messages_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.start()
    server.add_account(USER, "secret")
    fill(server, 3)
    with Imap(server) as imap:
        imap.append(LARGE)
        imap.append(LARGE)

    async def damage(store: Store) -> None:
        await store.write(0, _remove_inline)

    server.run(damage)
    files = sorted((server.data_dir / "blobs").glob("*/*"), key=lambda path: path.name)
    files[0].unlink()
    files[1].write_bytes(b"short")
    with Pop3(server) as pop3:
        for command in ("RETR 1", "TOP 1 0", "RETR 4", "TOP 4 0", "RETR 5"):
            assert pop3.err(command) == b"[SYS/PERM] This message cannot be read"
        pop3.send(b"RETR 1\r\nRETR 2\r\nRETR 4\r\n")
        assert pop3.line().startswith(b"-ERR")
        assert pop3.line().startswith(b"+OK")
        assert pop3.body() == message(2)
        assert pop3.line().startswith(b"-ERR")
        monkeypatch.setattr(inbox, "_read_message", lambda *_: None)
        assert pop3.err("RETR 2") == b"This message was removed too long ago"
    assert any("pop3.message.damaged" in line for line in server.events)
    server.stop(is_failing=True)  # its store is damaged


def _remove_inline(tx: Tx) -> None:
    tx.run("DELETE FROM blob_inline WHERE blob_id = (SELECT min(blob_id) FROM blob_inline)")


def test_a_file_that_ends_early_is_never_taken_for_the_whole(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Imap(pochta) as imap:
        imap.append(LARGE)

    async def cut(self: blobs.Blobs, blob: blobs.StoredBlob, start: int, stop: int) -> AsyncIterator[bytes]:
        if start:
            raise Corrupt("blob file", blob.file)
        yield LARGE[start:stop]

    monkeypatch.setattr(blobs.Blobs, "open", cut)
    with Pop3(pochta) as pop3:
        pop3.ok("RETR 1")
        got = b""
        try:
            while part := pop3.file.read1():
                got += part
        except ConnectionResetError:
            pass
    assert len(got) < len(LARGE)
    assert b"\r\n.\r\n" not in got


def test_half_closed_connection_gets_its_answers(pochta: Server) -> None:
    fill(pochta, 2)
    with Pop3(pochta, login=False) as pop3:
        pop3.send(f"USER {USER}\r\nPASS secret\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n".encode())
        pop3.socket.shutdown(socket.SHUT_WR)
        lines = pop3.file.read().splitlines()
    assert [line[:3] for line in lines if line[:3] == b"+OK"] == [b"+OK"] * 5
    assert uids(pochta) == [2]
    with Pop3(pochta) as pop3:
        pop3.send(b"NOOP")
        pop3.socket.shutdown(socket.SHUT_WR)
        assert pop3.is_closed()


@rfc(1939, "3")
def test_silence_ends_without_a_word_and_removes_nothing() -> None:
    with Server(limits=Limits(min_free_bytes=0, login_timeout_s=1)) as server:
        server.add_account(USER, "secret")
        fill(server, 1)
        with Pop3(server, login=False) as pop3:
            assert pop3.is_closed()
        with Pop3(server) as pop3:
            pop3.ok("DELE 1")

            async def time_out(_store: Store) -> None:
                for connection in tuple(server.app.pop3_connections):
                    connection.on_timeout()

            server.run(time_out)
            assert pop3.is_closed()
        assert uids(server) == [1]


@pytest.mark.parametrize("change", ["password", "removed"])
def test_a_session_ends_with_its_account(change: str, pochta: Server) -> None:
    fill(pochta, 2)
    pochta.add_account("boris@example.org", "secret")

    async def alter(store: Store) -> None:
        if change == "password":
            credential = hash_password(Secret("other"), CHEAP_COST)
            await store.write(0, edit.set_credential, USER, credential)
        else:
            await store.write(0, edit.remove_account, USER, 1_800_000_000)

    with Pop3(pochta) as pop3, Pop3(pochta) as busy, Pop3(pochta, user="boris@example.org") as other:
        busy.ok("DELE 1")
        pochta.run(alter)
        busy.send(b"QUIT\r\n")
        assert busy.line().startswith(b"-ERR ")
        assert busy.is_closed()
        assert pop3.line() == b"-ERR [SYS/TEMP] This session is over; sign in again"
        assert pop3.is_closed()
        assert other.ok("NOOP") == b""


@rfc(3206, "4")
def test_trouble_at_the_sign_in_is_no_wrong_password(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def verify(*_: object, **__: object) -> None:
        raise TryLater("too many sign-ins at once")

    monkeypatch.setattr(Authenticator, "verify", verify)
    with Pop3(pochta, login=False) as pop3:
        pop3.ok(f"USER {USER}")
        assert pop3.err("PASS secret") == b"[SYS/TEMP] Too many sign-ins at once"
        monkeypatch.undo()
        pop3.ok(f"USER {USER}")
        pop3.ok("PASS secret")


def test_a_bug_is_told_and_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.start()
    server.add_account(USER, "secret")
    fill(server, 1)
    with Pop3(server) as pop3:
        monkeypatch.setattr(inbox, "_read_message", lambda *_: 1 / 0)
        assert pop3.err("RETR 1") == b"[SYS/TEMP] Internal error; it was logged"
        assert pop3.is_closed()
    server.stop(is_failing=True)
