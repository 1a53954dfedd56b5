"""What hostile and broken clients send: dialogues by grammar with mutations, mutated dialogue files, raw bytes."""

import re
from base64 import b64encode
from pathlib import Path

from hypothesis import strategies as st

DIALOGUES = Path(__file__).parents[2] / "dialogues"
_CLIENT_LINE = re.compile(r"\d?C(-?): ?(.*)")
_OCTETS = {"<CRLF>": "\r\n", "<CR>": "\r", "<LF>": "\n", "<NUL>": "\0", "<<user>>": "<user@example.org>"}


def _one(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


LOCAL_PARTS = _one(
    "user", "no", "later", "nodata", "nomsg", "bye", "a.b+c", "a..b", ".a", "ü", '"a b"', '"a\\"b"', '"', "a" * 70,
    "postmaster", "+x", "user+detail", "Straße", "",
)  # fmt: skip
DOMAINS = _one(
    "b.example", "B", "xn--mnchen-3ya.example", "münchen.example", "faß.example", "a\u3002b", "\uff0e", "\u2488com",
    "a\u200db", "-a", "a-", "a..b", "b" * 64, "ü" * 60, ".".join(["b" * 60] * 5), ".".join(["c" * 60] * 4),
    "[127.0.0.1]", "[256.1.1.1]", "[IPv6:1::2]", "[IPv6:1:2:3:4:5:6:7:8]", "[IPv6:1:2:3:4:5:6:1.2.3.4]", "[IPv6:1]",
    "[IPv6:1:::2]", "[IPv6:12345::]", "[IPv6:x]", "[x:y]", "[", "", "\u00ad", "\u0300a", "a\u0378",
    ".".join(["ü" * 20] * 8),
)  # fmt: skip
MAILBOXES = st.one_of(
    st.just("a@b.example"),
    LOCAL_PARTS.map("{}@b.example".format),
    DOMAINS.map("a@{}".format),
    st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS),
    _one("", "postmaster", "PostMaster", "a"),
)
PATHS = st.builds(
    "{}{}{}{}".format, _one("<", "<", "<", "", "<@x,@y.z:", "<@-:"), MAILBOXES, _one(">", ">", ""), _one("")
)
_PARAMETER = _one(
    "SIZE=10", "SIZE=101", "SIZE", "SIZE=x", "size=" + "9" * 30, "BODY=8BITMIME", "BODY=7bit", "BODY=BINARYMIME",
    "BODY", "SMTPUTF8", "SMTPUTF8=1", "RET=FULL", "RET=x", "ENVID=a+2Bb", "ENVID=+0A", "REQUIRETLS", "HOLDFOR=60",
    "HOLDUNTIL=2026-11-23T17:32:08Z", "HOLDUNTIL=2026-13-01T00:00:00Z", "BY=60;R", "BY=-1;NT", "BY=0;R",
    "MT-PRIORITY=-9", "MT-PRIORITY=10", "AUTH=<>", "AUTH=a+40b", "AUTH=a@b.example", "AUTH=+FF", "AUTH", "AUTH=ü",
    "X=1", "=", "",
)  # fmt: skip
PARAMETERS = st.one_of(_PARAMETER, st.lists(_PARAMETER, max_size=3).map(" ".join))


def _command(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(lambda found: "".join(found).encode() + b"\r\n")


def _chunk(data: bytes, error: int, marker: str) -> bytes:
    return b"BDAT %d%b\r\n%b" % (max(0, len(data) + error), marker.encode(), data)


def _base64(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from([b64encode(text.encode()).decode() for text in texts])


TEXT = st.lists(
    st.sampled_from(
        [
            b"text",
            b"\r\n",
            b"\r\n",
            b".",
            b"..",
            b"\n",
            b"\r",
            b"\r\n.\r\n",
            b"x" * 60,
            b"\n" * 60,
            b"\0\xff",
            b"QUIT\r\n",
        ]
    ),
    max_size=6,
).map(b"".join)
RESPONSES = st.one_of(
    _base64("user", "pässword", "\0user\0pässword", "\0user\0x", "a\0b\0c\0d", "first", "final", "wrong", "x" * 450),
    _one("", "*", "=", "!", "a", b64encode(b"\0\xff\0x").decode()),
)
HELLO = _command(
    _one("EHLO ", "EHLO ", "HELO ", "LHLO ", "ehlo "),
    _one("x", "x y", "", "no.example", "notls.example", "ü", "x" * 260),
)
MAIL = _command(_one("MAIL FROM:", "MAIL FROM: ", "mail from:", "MAIL ", "MAIL TO:"), PATHS, _one("", " "), PARAMETERS)
RCPT = _command(
    _one("RCPT TO:", "RCPT TO:  ", "rcpt to:", "RCPT ", "RCPT FROM:"),
    PATHS,
    _one(
        "",
        " NOTIFY=NEVER",
        " ",
        " =",
        " NOTIFY=DELAY,SUCCESS",
        " NOTIFY=NEVER,DELAY",
        " ORCPT=rfc822;a+2Bb@c",
        " ORCPT=utf-8;\\x{FC}@c",
        " ORCPT=utf-8;\\x{0A}",
        " ORCPT=utf-8;ü@c",
        " ORCPT=x",
        " ORCPT=rfc822;+0A",
    ),
)
AUTH = _command(
    _one("AUTH PLAIN", "AUTH LOGIN", "AUTH SCRAM-SHA-256", "auth x", "AUTH", "AUTH ?"), _one("", " ", "  "), RESPONSES
)
GOOD_RCPT = st.sampled_from([b"RCPT TO:<c@d>\r\n", b"DATA\r\n"])
GOOD_START = st.just(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
SIGN_IN = st.tuples(
    st.just(b"EHLO x\r\n"), AUTH, st.lists(RESPONSES.map(lambda text: text.encode() + b"\r\n"), max_size=3)
).map(lambda found: found[0] + found[1] + b"".join(found[2]))
START = _command(
    _one("EHLO x\r\nMAIL FROM:<"),
    _one("a@b", "a@b", "nomsg@b", "nodata@b", "bye@b"),
    _one(">", "> SMTPUTF8 AUTH=a+40b", "> SIZE=9 AUTH=<>", "> BODY=BINARYMIME"),
    _one("\r\nRCPT TO:<c@d>", "\r\nRCPT TO:<c@d>" * 2, "\r\nRCPT TO:<c@d>" * 4, "\r\nRCPT TO:<no@d>"),
)
ONE_FLAW = st.one_of(
    _command(_one("EHLO x\r\nMAIL FROM:"), PATHS),
    _command(_one("EHLO x\r\nMAIL FROM:<a@b> "), PARAMETERS),
    _command(_one("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:", "EHLO x\r\nMAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:"), PATHS),
    _command(_one("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>"), _one(" ", " X=1", " =", "X")),
    _command(
        _one("EHLO x\r\nAUTH PLAIN AHVzZXIAcMOkc3N3b3Jk\r\n"), _one("AUTH PLAIN", "MAIL FROM:<a@b>\r\nAUTH PLAIN")
    ),
    _command(_one("EHLO x\r\nAUTH LOGIN\r\n", "EHLO x\r\nAUTH SCRAM-SHA-256\r\n"), RESPONSES, _one("\r\n"), RESPONSES),
    _command(_one("EHLO x\r\nMAIL FROM:<a@b>\r\n"), _one("AUTH PLAIN", "MAIL FROM:<a@b>", "DATA", "RSET", "STARTTLS")),
)
PLAIN_LINES = st.sampled_from(
    [
        b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"NOOP x\r\n", b"QUIT\r\n", b"HELP\r\n", b"VRFY x\r\n", b"VRFY\r\n",
        b"EXPN x\r\n", b"STARTTLS\r\n", b"STARTTLS x\r\n", b"RSET x\r\n", b"XYZZY\r\n", b"\r\n", b"GET / HTTP/1.1\r\n",
        b"NOOP " + b"x" * 450 + b"\r\n", b"NOOP\r\n" * 201,
        b"NOOP " + b"x" * 600 + b"\r\n", b"\x00\r\n", b"\xff\r\n", b"NOOP\n", b"NOOP\rNOOP\r\n",
    ]
)  # fmt: skip
MESSAGE = TEXT.map(lambda text: b"DATA\r\n" + text + b"\r\n.\r\n")
CHUNKS = st.builds(_chunk, TEXT, st.just(0), _one("", " LAST", " last", " LATE"))
WHOLE = st.tuples(START, st.one_of(MESSAGE, CHUNKS, st.tuples(CHUNKS, st.one_of(GOOD_RCPT, CHUNKS)).map(b"".join))).map(
    b"".join
)
WRONG_CHUNKS = st.one_of(
    st.builds(_chunk, TEXT, st.integers(-3, 3), _one("", " LAST")),
    st.sampled_from([b"BDAT\r\n", b"BDAT x\r\n", b"BDAT 150\r\n", b"BDAT 201\r\n", b"BDAT " + b"9" * 30 + b"\r\n"]),
)
PIECES = st.one_of(
    HELLO, MAIL, RCPT, GOOD_START, START, WHOLE, WHOLE, ONE_FLAW, ONE_FLAW, ONE_FLAW, SIGN_IN, MESSAGE, CHUNKS, CHUNKS,
    WRONG_CHUNKS, PLAIN_LINES, AUTH, RESPONSES.map(lambda text: text.encode() + b"\r\n"),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, pieces: st.SearchStrategy[list[bytes]], most: int = 3) -> bytes:
    """The pieces joined, with a few of them lost, doubled, moved or damaged."""
    found = list(draw(pieces))
    for _ in range(draw(st.integers(0, most))):
        if not found:
            break
        at = draw(st.integers(0, len(found) - 1))
        piece = found[at]
        cut = draw(st.integers(0, len(piece)))
        match draw(st.integers(0, 5)):
            case 0:
                del found[at]
            case 1:
                found.insert(at, piece)
            case 2:
                found.append(found.pop(at))
            case 3:
                found[at] = piece[:cut] + piece[cut + 1 :]
            case 4:
                found[at] = piece[:cut] + draw(st.binary(max_size=4)) + piece[cut:]
            case _:
                found[at] = piece[:cut]
    return b"".join(found)


def _client_lines(path: Path) -> list[bytes]:
    """What the client of a dialogue file sends."""
    lines = []
    for match in map(_CLIENT_LINE.fullmatch, path.read_text("ascii").splitlines()):
        if match is not None:
            text = re.sub("<(?:CRLF|CR|LF|NUL|<user>)>", lambda found: _OCTETS[found[0]], match[2])
            lines.append(text.encode("latin-1") + (b"" if match[1] else b"\r\n"))
    return lines


FILES = [_client_lines(path) for path in sorted(DIALOGUES.glob("*.smtp"))]
BY_GRAMMAR = mutated(st.lists(PIECES, max_size=12))
BY_DIALOGUES = mutated(
    st.lists(st.sampled_from(FILES), min_size=1, max_size=2).map(
        lambda files: [line for file in files for line in file]
    ),
    6,
)
RAW = st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"", b"EHLO x\r\n", b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"BDAT 30\r\n"]),
    st.binary(max_size=60),
    st.sampled_from([b"", b"\r\n", b"\r\n.\r\n"]),
    st.binary(max_size=20),
)
