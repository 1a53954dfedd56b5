"""What a server answers, read: lines into replies, with a bound on everything.

Decides what is a reply and what is garbage; refuses to know what was asked. A reply's text is made printable here, so
that whoever stores, logs or mails it need not look again: control characters, bidirectional marks and octets that are
not UTF-8 come out as `?`.

Source: RFC 5321 §4.2, RFC 2034 §4 (enhanced status codes).
"""

import re
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.buffer import InputBuffer
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.proto.smtp.replies import Reply

# RFC 5321 §4.2: "250" alone is taken, too; some servers leave the space out.
# DEVIATES RFC 5321 §2.3.8: a bare LF ends a reply line as well; appliances send it, and no reply can carry another one
# past a reader that goes by lines.
_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\r?\n", re.DOTALL)
# RFC 3463 §2: class, subject of up to three digits, detail of up to three digits.
_ENHANCED: Final = re.compile(r"([245])(\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")


class ReplyParser:
    """Bytes in, whole replies out. After an error it is spent: nothing that follows can be trusted to be a reply."""

    __slots__ = ("_buffer", "_bytes", "_code", "_limits", "_lines")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._buffer = InputBuffer()
        self._code = b""  # of the reply that has begun
        self._lines: list[bytes] = []
        self._bytes = 0

    @property
    def has_input(self) -> bool:
        """Whether anything has arrived that no reply was made of."""
        return len(self._buffer) > 0 or bool(self._lines)

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer.feed(data)

    def clear(self) -> None:
        """Forget what has arrived."""
        self._buffer.clear()
        self._lines = []
        self._bytes = 0

    def next_reply(self) -> Reply | None:
        """The next whole reply, None when it has yet to arrive.

        Raises:
            RemoteProtocolError: this is no reply, or one beyond the limits.
        """
        limits = self._limits
        while (line := self._buffer.take_line(limits.max_reply_line_bytes)) is not None:
            match = _LINE.fullmatch(line)
            if match is None:
                raise RemoteProtocolError("not an SMTP reply")
            code, mark, text = match.groups()
            if mark != b"-" and not self._lines:
                return _reply(code, text or b"")
            # RFC 5321 §4.2.1: every line of a reply has the same code.
            if self._lines and code != self._code:
                raise RemoteProtocolError("a reply with different codes")
            self._code = code
            self._lines.append(text or b"")
            self._bytes += len(line)
            if len(self._lines) > limits.max_reply_lines or self._bytes > limits.max_reply_bytes:
                raise RemoteProtocolError("reply too long")
            if mark != b"-":
                lines, self._lines, self._bytes = self._lines, [], 0
                return _reply(code, b"\n".join(lines))
        return None


def _reply(code: bytes, raw: bytes) -> Reply:
    """A reply of `raw`, its lines joined by LF."""
    text = raw.decode("utf-8", "replace").rstrip()
    lines = [line if line.isprintable() else _printable(line) for line in text.split("\n")]
    match = _ENHANCED.match(lines[0])
    # RFC 2034 §4: the class of the status is that of the code; another one is just text.
    if match is None or match[1] != text_class(code):
        return Reply(int(code), "", lines[0] if len(lines) == 1 else "\n".join(lines))
    status = match[1] + match[2]
    return Reply(int(code), status, "\n".join([line.removeprefix(status).lstrip(" ") for line in lines]))


def text_class(code: bytes) -> str:
    """The first digit."""
    return chr(code[0])


def _printable(line: str) -> str:
    return "".join([char if char.isprintable() else " " if char == "\t" else "?" for char in line.rstrip("\r")])
