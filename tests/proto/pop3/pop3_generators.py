"""What hostile and broken clients send: dialogues by grammar with mutations, mutated dialogue files, raw bytes."""

import re
from base64 import b64encode
from pathlib import Path

from hypothesis import strategies as st

DIALOGUES = Path(__file__).parents[2] / "dialogues"
_CLIENT_LINE = re.compile(r"\d?C(-?): ?(.*)")
_OCTETS = {"<CRLF>": "\r\n", "<CR>": "\r", "<LF>": "\n", "<NUL>": "\0", "<user>": "user", "<password>": "päss word"}


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


NUMBERS = st.one_of(
    st.integers(0, 7).map(str),
    st.sampled_from(["", "-1", "x", "1 2", "0001", "4294967296", "99999999999", " 1", "1\t"]),
)
VERBS = st.one_of(
    st.sampled_from(["CAPA", "QUIT", "UTF8", "STLS", "STAT", "LIST", "UIDL", "NOOP", "RSET", "LANG", "APOP", "TOP"]),
    st.sampled_from(["RETR", "DELE", "USER", "PASS", "AUTH", "GET", "capa", "Rset"]),
)
RESPONSES = st.sampled_from(
    [
        _b64("\0user\0päss word"),
        _b64("user\0user\0päss word"),
        _b64("boss\0user\0päss word"),
        _b64("\0locked\0x"),
        _b64("user"),
        _b64("päss word"),
        _b64("\0\0"),
        b64encode(b"\0\xff\0x").decode(),
        "",
        "=",
        "*",
        "!",
        "A",
    ]
)
SIGN_IN = st.sampled_from(["USER user\r\nPASS päss word", "USER user\r\nPASS wrong", "USER locked\r\nPASS x", "PASS x"])
COMMANDS = st.one_of(
    SIGN_IN,
    st.just("USER user\r\nPASS päss word"),
    st.builds("{} {}".format, st.sampled_from(["LIST", "UIDL", "RETR", "DELE", "retr", "Dele"]), NUMBERS),
    st.builds("TOP {} {}".format, NUMBERS, NUMBERS),
    st.lists(NUMBERS, min_size=2, max_size=5).map(lambda found: "\r\n".join(f"RETR {one}" for one in found)),
    st.builds("AUTH {} {}".format, st.sampled_from(["PLAIN", "login", "CRAM-MD5", ""]), RESPONSES),
    st.builds("AUTH {}\r\n{}\r\n{}".format, st.sampled_from(["PLAIN", "LOGIN"]), RESPONSES, RESPONSES),
    st.builds(
        "{} {}".format, VERBS, st.sampled_from(["", "x", " ", "\t", "\0", "ü", "x" * 250, "x" * 1100, "x" * 13000])
    ),
    VERBS,
    VERBS,
    st.sampled_from(["STLS\r\nQUIT", "DELE 1\r\nDELE 2\r\nQUIT", "DELE 1\r\nRSET", "XYZZY\r\n" * 21]),
)
LINES = st.builds(
    lambda text, end: text.encode() + end, COMMANDS, st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n", b""])
)


def _mutated(wire: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for at, new in changes:
        at %= len(wire) + 1
        wire = wire[:at] + new + wire[at + (len(new) == 1) :]
    return wire


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2000), st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b"\xff", b"9", b".", b"\r\nQUIT\r\n"])
    ),
    max_size=3,
)
OPENINGS = st.sampled_from([b"", b"USER user\r\nPASS p\xc3\xa4ss word\r\n", b"USER user\r\nPASS p\xc3\xa4ss word\r\n"])
BY_GRAMMAR = st.builds(
    lambda opening, lines, changes: _mutated(opening + b"".join(lines), changes),
    OPENINGS,
    st.lists(LINES, max_size=8),
    CHANGES,
)


def _client(path: Path) -> bytes:
    wire = ""
    for line in path.read_text("ascii").splitlines():
        match = _CLIENT_LINE.match(line)
        if match is not None:
            text = match[2]
            for mark, octets in _OCTETS.items():
                text = text.replace(mark, octets)
            wire += text + ("" if match[1] else "\r\n")
    return wire.encode()


FILES = [_client(path) for path in sorted(DIALOGUES.glob("*.pop3"))]
BY_DIALOGUES = st.builds(_mutated, st.sampled_from(FILES), CHANGES)
RAW = st.one_of(
    st.binary(max_size=300),
    st.text("USERPASTLIQDOKN 0123456789\r\n.*=", max_size=300).map(str.encode),
    st.builds(
        lambda opening, rest: opening + rest, OPENINGS, st.text("RETLISTOPDEUQ 12\r\n", max_size=200).map(str.encode)
    ),
)
