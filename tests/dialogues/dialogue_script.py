"""Dialogue files: what a client sends and what it is to hear, readable by anyone who has held one by telnet.

    # a comment; the first ones may be headers: `# name: value`; `# other: NAME` brings a second user, `<other>`
    C: a1 NOOP                  the client sends this line and CRLF; `C-:` sends it without CRLF
    S: a1 OK ...                the server must send a line like this
    S~: * OK ...                it may send such lines, any number
    2C: / 2S:                   the same on a second connection
    [dovecot] S: ...            this line holds for that peer only; the reason stands in a comment

Within lines: `...` is any text, `<name:regex>` captures, `<name>` is what was captured, `<CRLF>` `<CR>` `<LF>` `<NUL>`
`<xC3>` are these octets, `<closed>` alone is the end of the connection. A line of IMAP holds its literals. The `S`
lines that follow each other are one block: the last of them ends it, the others may come in any order before it, and
nothing else may come. In SMTP and POP3, lines come in exactly their order.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_LINE: Final = re.compile(r"(?:\[(\w+)\] )?(\d?)(C-?|S~?):(?: (.*))?")
_HEADER: Final = re.compile(r"# (\w+): (.+)")
_TOKEN: Final = re.compile(r"<(CRLF|CR|LF|NUL|x[0-9A-F]{2})>|<([a-z]\w*):((?:\\.|[^>\\])+)>|<([a-z]\w*)>|(\.\.\.)")
_OCTETS: Final = {"CRLF": b"\r\n", "CR": b"\r", "LF": b"\n", "NUL": b"\0"} | {
    f"x{octet:02X}": bytes((octet,)) for octet in range(256)
}

CLOSED: Final = "<closed>"


class Line(NamedTuple):
    """One line of a file: `kind` is C, C-, S or S~; `peer` is empty for every peer."""

    number: int
    peer: str
    connection: int
    kind: str
    text: str


@dataclass
class Script:
    """A whole file."""

    path: Path
    headers: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    @property
    def peers(self) -> list[str]:
        """Whom the file is for."""
        return self.headers.get("peers", "pochta dovecot" if self.path.suffix == ".imap" else "pochta").split()

    def steps(self, peer: str) -> Iterator[list[Line]]:
        """For this peer: each line to send, and each block of lines to hear, in order."""
        block: list[Line] = []
        for line in self.lines:
            if line.peer not in ("", peer):
                continue
            if block and (line.kind[0] == "C" or line.connection != block[0].connection):
                yield block
                block = []
            if line.kind[0] == "C":
                yield [line]
            else:
                block.append(line)
        if block:
            yield block


def read(path: Path) -> Script:
    """The script in the file. Raises: ValueError with file and line."""
    script = Script(path)
    for number, text in enumerate(path.read_text("ascii").splitlines(), 1):
        if not text.strip():
            continue
        if text.startswith("#"):
            if (header := _HEADER.fullmatch(text)) and not script.lines:
                script.headers[header[1]] = header[2]
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"{path.name}:{number}: not a line of a dialogue: {text}")
        script.lines.append(Line(number, match[1] or "", int(match[2] or 1), match[3], match[4] or ""))
    return script


def to_send(text: str, names: dict[str, bytes]) -> bytes:
    """The octets of a `C` line."""

    def octets(match: re.Match[str]) -> str:
        if match[1]:
            return _OCTETS[match[1]].decode("latin-1")
        return names[match[4]].decode("latin-1") if match[4] in names else match[0]

    return _TOKEN.sub(octets, text).encode("latin-1")


def pattern(text: str, names: dict[str, bytes]) -> re.Pattern[bytes]:
    """What an `S` line matches."""
    parts: list[bytes] = []
    at = 0
    for match in _TOKEN.finditer(text):
        parts.append(re.escape(text[at : match.start()].encode("latin-1")))
        at = match.end()
        octets, new, regex, old, _ = match.groups()
        if octets:
            parts.append(re.escape(_OCTETS[octets]))
        elif new:
            parts.append(b"(?P<%b>%b)" % (new.encode(), regex.encode()))
        elif old:
            parts.append(re.escape(names[old]))
        else:
            parts.append(b".*?")
    parts.append(re.escape(text[at:].encode("latin-1")))
    return re.compile(b"".join(parts), re.DOTALL)
