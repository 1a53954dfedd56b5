"""The messages that travel: each by its name, which is also in its Message-ID."""

import re
from typing import Final

_NAME: Final = re.compile(rb"^Message-ID: <([a-z_0-9]+)@interop\.example>\r?$", re.MULTILINE)
_MARK: Final = re.compile(rb"^X-TUID: .{12}\r?\n", re.MULTILINE)
_BIG_LINES: Final = 14_000  # of 75 bytes: a little over 1 MB
_LONG_LINE_BYTES: Final = 100_000


def _message(name: str, body: bytes, header: bytes = b"") -> bytes:
    return (
        b"From: Boris <boris@elsewhere.example>\r\nTo: anna@example.org\r\nDate: Mon, 3 Mar 2025 10:00:00 +0300\r\n"
        b"Message-ID: <%b@interop.example>\r\nSubject: %b\r\n%b\r\n%b" % (name.encode(), name.encode(), header, body)
    )


_CYRILLIC: Final = "Привет, Анна! Отчёт за март приложен.\r\n"
_MULTIPART: Final = (
    b"--=_1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    + _CYRILLIC.encode()
    + b"\r\n--=_1\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment;\r\n filename*=utf-8''%D0%BE%D1%82%D1%87%D1%91%D1%82.bin\r\n\r\n"
    + b"AAECAwQFBgcICQ==\r\n" * 20
    + b"--=_1--\r\n"
)

MESSAGES: Final = {
    "plain": _message("plain", b"Hello.\r\n"),
    "dots": _message("dots", b".\r\n..\r\n.dot\r\nFrom the start of a line\r\n"),
    "eight_bit": _message(
        "eight_bit",
        _CYRILLIC.encode("koi8-r"),
        "Content-Type: text/plain; charset=koi8-r\r\nX-Raw: Отчёт\r\n".encode("koi8-r"),
    ),
    "utf8": _message("utf8", _CYRILLIC.encode(), "X-Raw: Отчёт за март\r\n".encode()),
    "multipart": _message(
        "multipart", _MULTIPART, b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=_1"\r\n'
    ),
    "binary": _message("binary", bytes(set(range(1, 256)) - set(b"\r\n")) + b"\r\n", b"MIME-Version: 1.0\r\n"),
    "long_line": _message("long_line", b"x" * _LONG_LINE_BYTES + b"\r\nafter\r\n"),
    "big": _message("big", b"".join(b"%073d\r\n" % number for number in range(_BIG_LINES))),
    "unended": _message("unended", b"one\r\ntwo"),
    "empty": _message("empty", b""),
}


def name_of(content: bytes) -> str:
    """Which of `MESSAGES` these bytes are."""
    found = _NAME.search(content)
    assert found, content[:500]
    return found[1].decode()


def without_mark(content: bytes) -> bytes:
    """The bytes without the header line that mbsync puts into what it copies, to know it again."""
    return _MARK.sub(b"", content)


def assert_whole(content: bytes) -> None:
    """Hold what the server keeps against what was sent: the same bytes, behind trace header lines or nothing."""
    name = name_of(content)
    content = without_mark(content)
    before = content.removesuffix(MESSAGES[name])
    assert len(before) + len(MESSAGES[name]) == len(content), f"{name} was altered: {content[:2000]!r}"
    assert before == b"" or before.startswith(b"Return-Path: <boris@elsewhere.example>\r\nReceived: "), before
