"""The header of a message that a user submits, made fit to be sent.

A mail program may leave out Date and Message-ID and leave in Bcc (RFC 6409 §8, RFC 5322 §3.6.3). The header is held
until it is whole and given out changed; everything behind it passes through. Whether its authors may write is for the
caller to judge (`authors`). Never raises; what is no header field stays where it stands.
"""

import re
from typing import Final

from pochta.mime.address import parse_addresses
from pochta.mime.header import MAX_FIELDS, split_fields, unfold

# Real headers stay under 30 KiB with 500 recipients; what is above can only be meant to cost memory.
MAX_HEADER_BYTES: Final = 256 * 1024
MAX_AUTHORS: Final = 100  # RFC 5322 §3.6.2 allows any number; each costs a look into the directory
MAX_FROM_BYTES: Final = 32 * 1024  # INV-12: 10 000 commas take 6 ms. 100 authors with names take 10 kB

_END: Final = b"\r\n\r\n"
_REMOVED: Final = re.compile(
    rb"^(?:Bcc|Resent-Bcc|Return-Path)[ \t]*+:[^\n]*+\n(?:(?=[ \t])[^\n]*+\n)*+", re.MULTILINE | re.IGNORECASE
)
_FIELD_START: Final = re.compile(rb"[!-9;-~]++[ \t]*+:")
# RFC 5322 §3.2.2, §3.2.4: in these an `@` is no address. Comments in comments: as deep as anybody has ever nested them.
_QUOTED: Final = rb'"(?>(?:[^"\\]|\\.){0,998})"'
_COMMENT: Final = rb"\((?>(?:[^()\\]|\\.|\((?>(?:[^()\\]|\\.){0,998})\)){0,998})\)"
_NO_ADDRESS: Final = re.compile(_QUOTED + rb"|" + _COMMENT, re.DOTALL)
# `anna@example.org <anna@example.org>`: no name (§3.4), and everybody reads the same
_TWICE: Final = re.compile(rb"(?:\A|(?<=[\s,:]))([^\s<>,:;@]{1,320}+@[^\s<>,:;@]{1,320}+)\s*+<\1>", re.IGNORECASE)


class SubmittedHeader:
    """One message's header on its way through. `date`, `message_id`, `author` fill what is missing.

    `author` is the envelope's sender, `""` when it is null: then a missing From stays missing.
    """

    __slots__ = ("_added", "_author", "_held", "_is_passed", "authors", "from_fields", "is_ambiguous", "is_too_large")

    def __init__(self, *, date: str, message_id: str, author: str) -> None:
        self._added = {b"date": f"Date: {date}\r\n", b"message-id": f"Message-ID: {message_id}\r\n"}
        self._author = author
        self._held = bytearray()
        self._is_passed = False
        self.is_too_large = False
        self.is_ambiguous = False  # programs differ about who the authors are
        self.from_fields = 0
        self.authors: tuple[bytes, ...] = ()  # `local@domain` as they stand in From, known once the header has passed

    def feed(self, chunk: bytes) -> bytes:
        """What of the message may go on now."""
        if self._is_passed:
            return chunk
        if self.is_too_large:
            return b""
        searched_from = max(0, len(self._held) - len(_END) + 1)
        self._held += chunk
        if self._held.startswith(b"\r\n"):
            return self._pass(0)
        at = self._held.find(_END, searched_from)
        if at >= 0:
            return self._pass(at + 2)
        if len(self._held) > MAX_HEADER_BYTES:
            return self._refuse()
        return b""

    def _refuse(self) -> bytes:
        self.is_too_large = True
        self._held.clear()
        return b""

    def finish(self) -> bytes:
        """What is left when the message has ended."""
        return b"" if self._is_passed or self.is_too_large else self._pass(len(self._held))

    def _pass(self, end: int) -> bytes:
        header, rest = bytes(self._held[:end]), bytes(self._held[end:])
        # A second From behind the fields that `split_fields` looks at would be seen by others, not by us
        if len(header) > MAX_HEADER_BYTES or header.count(b"\n") > MAX_FIELDS:
            return self._refuse()
        if header and not _FIELD_START.match(header):
            # A body alone, as scripts send it: the fields that are added need a blank line behind them
            header, rest = b"", b"\r\n" + header + rest
        if header and not header.endswith(b"\r\n"):
            header += b"\r\n"
        self._held.clear()
        self._is_passed = True
        return self._completed(header) + (rest or b"\r\n")

    def _completed(self, header: bytes) -> bytes:
        fields = split_fields(header)
        names = {name.lower() for _, name, _ in fields}
        from_values = [value for _, name, value in fields if name.lower() == b"from"]
        if not from_values and self._author:
            self._added[b"from"] = f"From: <{self._author}>\r\n"
            from_values = [f"<{self._author}>".encode()]
        self.from_fields = len(from_values)
        if sum(map(len, from_values)) > MAX_FROM_BYTES:
            self.is_ambiguous = True
            from_values = []
        self.is_ambiguous = self.is_ambiguous or any(map(_is_ambiguous, from_values))
        self.authors = tuple(
            (one.mailbox or b"") + b"@" + one.host
            for value in from_values
            for one in parse_addresses(unfold(value))
            if one.host is not None
        )
        # RFC 6409 §8.2, §8.3: Date and Message-ID are added where they are missing
        added = "".join(line for name, line in self._added.items() if name not in names)
        return added.encode() + _REMOVED.sub(b"", header)


def _is_ambiguous(value: bytes) -> bool:
    """Whether there is an address outside of quotes and comments that is neither of the list nor a name's double."""
    plain = _TWICE.sub(rb"<\1>", _NO_ADDRESS.sub(b" ", unfold(value)))
    found = sum(1 for one in parse_addresses(value) if one.host is not None)
    return plain.count(b"@") != found or any(one in plain for one in (b'"', b"(", b")", b"\\"))
