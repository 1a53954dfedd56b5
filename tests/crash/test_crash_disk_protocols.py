"""What clients hear of a full disk: "later", in the words of their protocol; what needs no room goes on."""

import errno
import imaplib
import os
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from crash_disk import Disk, RecordedOs

from pochta.config import Limits
from pochta.store import blobs
from pochta.store import store as store_module
from pochta.testing.server import Server

ADDRESS, PASSWORD = "anna@example.org", "secret"
SMALL = b"Subject: small\r\n\r\ntext\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 20_000  # 240 kB: a file, written in several pieces


@dataclass
class Full:
    """Which changes fail: those of the database, or one kind of those of the blob files."""

    database: bool = False
    files: str = ""

    def database_change(self, kind: str) -> None:
        if self.database:
            raise apsw.FullError("the disk is full")

    def file_change(self, kind: str) -> None:
        if kind == self.files:
            raise OSError(errno.EIO if kind.startswith("sync") else errno.ENOSPC, "the disk is full")


class Clients:
    """An SMTP connection, and an IMAP connection with INBOX selected."""

    def __init__(self, server: Server) -> None:
        self.smtp = smtplib.SMTP(server.host, server.smtp_port, timeout=30)
        self.imap = imaplib.IMAP4(server.host, server.imap_port, timeout=30)
        self.imap.login(ADDRESS, PASSWORD)
        self.imap.select()

    def deliver(self, message: bytes) -> tuple[int, bytes]:
        self.smtp.ehlo_or_helo_if_needed()
        self.smtp.mail("s@example.net")
        self.smtp.rcpt(ADDRESS)
        return self.smtp.data(message)

    def append(self, message: bytes) -> tuple[str, bytes]:
        status, texts = self.imap.append("INBOX", "", "", message)
        return status, texts[0]

    def uid(self, *words: str) -> tuple[str, bytes]:
        status, texts = self.imap.uid(*words)
        return status, texts[0] or b""

    def count(self) -> int:
        """Messages in INBOX."""
        return int(self.imap.select()[1][0] or b"")

    def close(self) -> None:
        self.smtp.close()
        self.imap.shutdown()


@contextmanager
def connected(server: Server) -> Iterator[Clients]:
    clients = Clients(server)
    try:
        yield clients
    finally:
        clients.close()


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Full, Server]]:
    full = Full()
    with Disk(tmp_path / "data", is_default=True) as disk, Disk(tmp_path / "data") as files:
        disk.before_change, files.before_change = full.database_change, full.file_change
        monkeypatch.setattr(blobs, "os", RecordedOs(files))
        with Server(data_dir=tmp_path) as server:
            server.add_account(ADDRESS, PASSWORD)
            yield full, server


def test_database_without_room(full: tuple[Full, Server]) -> None:
    trouble, server = full
    with connected(server) as clients:
        assert clients.deliver(SMALL)[0] == 250
        clients.imap.noop()
        trouble.database = True
        assert clients.deliver(SMALL) == (452, b"4.3.1 The server's disk is full")
        assert clients.append(SMALL) == ("NO", b"[UNAVAILABLE] The server's disk is full")
        for words in (("COPY", "1", "Archive"), ("MOVE", "1", "Archive"), ("STORE", "1", "+FLAGS", "(\\Deleted)")):
            assert clients.uid(*words) == ("NO", b"[UNAVAILABLE] The server's disk is full")
        assert clients.uid("FETCH", "1", "(FLAGS)")[0] == "OK"
        trouble.database = False
        assert clients.deliver(SMALL)[0] == 250
        assert clients.append(SMALL)[0] == "OK"
        assert clients.uid("COPY", "1", "Archive")[0] == "OK"
        assert clients.count() == 3


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_folder"])
def test_file_without_room(full: tuple[Full, Server], kind: str) -> None:
    trouble, server = full
    with connected(server) as clients:
        trouble.files = kind
        assert clients.deliver(LARGE) == (452, b"4.3.1 The server's disk is full")
        assert clients.append(LARGE) == ("NO", b"[UNAVAILABLE] The server's disk is full")
        assert clients.deliver(SMALL)[0] == 250
        trouble.files = ""
        assert clients.deliver(LARGE)[0] == 250
        assert clients.append(LARGE)[0] == "OK"
        assert clients.count() == 3
    assert server.app.intake.memory_bytes == 0
    names = [name for _, _, files in os.walk(server.data_dir / "blobs") for name in files]
    assert not [name for name in names if name.startswith(".new-")], names


def test_below_min_free_bytes(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as server:
        server.add_account(ADDRESS, PASSWORD)
        with connected(server) as clients:
            assert clients.deliver(SMALL)[0] == 250
            assert clients.imap.create("Old")[0] == "OK"
    with Server(data_dir=tmp_path, limits=Limits(min_free_bytes=1 << 62)) as server, connected(server) as clients:
        clients.smtp.ehlo()
        assert clients.smtp.mail("s@example.net") == (452, b"4.3.1 The server is short of disk space")
        assert clients.append(SMALL) == ("NO", b"[UNAVAILABLE] The server is short of disk space")
        assert any(b"text" in part[1] for part in clients.imap.fetch("1", "(BODY[])")[1] if isinstance(part, tuple))
        assert clients.uid("STORE", "1", "+FLAGS", "(\\Deleted)")[0] == "OK"
        assert clients.imap.expunge() == ("OK", [b"1"])
        assert clients.imap.delete("Old")[0] == "OK"


def test_room_ends_between_mail_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(free=1000)
    monkeypatch.setattr(store_module, "ROOM_CHECK_S", 0.0)
    monkeypatch.setattr(store_module, "shutil", SimpleNamespace(disk_usage=lambda path: disk))
    limits = Limits(min_free_bytes=1000)
    with Server(data_dir=tmp_path, limits=limits) as server:
        server.add_account(ADDRESS, PASSWORD)
        with connected(server) as clients:
            clients.smtp.ehlo()
            assert clients.smtp.mail("s@example.net")[0] == 250
            assert clients.smtp.rcpt(ADDRESS)[0] == 250
            disk.free = 999
            assert clients.smtp.docmd("DATA") == (452, b"4.3.1 The server is short of disk space")
            disk.free = 1000
            assert clients.smtp.data(SMALL)[0] == 250
            assert clients.count() == 1
