"""What a command line may hold: its bounds, and its arguments as values. Refuses to know any state.

Source: RFC 1939 §3, RFC 2449 §3 and §4.
"""

import re
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.sasl import MAX_IDENTITY_BYTES, decode_base64

MAX_COMMAND_BYTES: Final = 255  # RFC 2449 §4, CRLF included
# RFC 2449 §4 has 255 for these too; user names of 320 characters and tokens used as passwords are longer
MAX_SIGN_IN_BYTES: Final = len("USER ") + MAX_IDENTITY_BYTES + 2
MAX_AUTH_BYTES: Final = 12288  # as RFC 4954 §4; RFC 5034 §4: whatever the mechanisms need. PLAIN: 3 * 1024 in base64

LONG_VERBS: Final = {b"USER": MAX_SIGN_IN_BYTES, b"PASS": MAX_SIGN_IN_BYTES, b"AUTH": MAX_AUTH_BYTES}

# Browsers made to speak to a mail server by a web page send these; nothing they send after may be obeyed.
HTTP_VERBS: Final = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH"})

NEXT_RETRIEVE: Final = re.compile(rb"(?i:RETR) +([0-9]{1,10})\r?\n")

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NUMBER: Final = re.compile(rb"[0-9]{1,10}")  # as many messages or lines as no mailbox has


class CommandError(Exception):
    """Answered by -ERR. `is_bad`: the client broke the protocol, which it may do so many times."""

    def __init__(self, text: str, code: bytes = b"", *, is_bad: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.is_bad = is_bad


def split_command(line: bytes) -> tuple[bytes, bytes]:
    """Verb in upper case and argument of a line (with its line end).

    Raises: CommandError for lines too long for their verb, and for control characters.
    """
    # A bare LF ends a command too: people at terminals send it, and there is nothing to smuggle past us.
    text = without_line_end(line)
    # RFC 1939 §3: keywords are case-insensitive; arguments stand behind one space
    verb, _, argument = text.partition(b" ")
    verb = verb.upper()
    if len(line) > LONG_VERBS.get(verb, MAX_COMMAND_BYTES):
        raise CommandError("Line too long")
    if _CONTROL.search(argument) is not None:
        raise CommandError("Control characters are not allowed")
    return verb, argument


def without_line_end(line: bytes) -> bytes:
    """The line without its CRLF or LF."""
    return line[:-2] if line[-2:] == b"\r\n" else line[:-1]


def refuse_argument(argument: bytes) -> None:
    """Raises: CommandError unless there is nothing but blanks, which some clients send."""
    if argument.strip():
        raise CommandError("This command takes no argument")


def one_word(argument: bytes) -> bytes:
    """The one word of an argument. Raises: CommandError."""
    words = argument.split()
    if len(words) != 1:
        raise CommandError("One message number is wanted")
    return words[0]


def number(word: bytes) -> int:
    """The number that a word of digits is. Raises: CommandError."""
    if _NUMBER.fullmatch(word) is None:
        raise CommandError("A number is wanted")
    return int(word)


def text(argument: bytes) -> str:
    """A name or password. Raises: CommandError."""
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError:
        # RFC 6856 §2.2: names and passwords that are not UTF-8 are refused; `from None`: they may be a password
        raise CommandError("Not valid UTF-8") from None


def decoded(word: bytes) -> bytes:
    """The octets of a base64 word. Raises: CommandError."""
    try:
        return decode_base64(word)
    except RemoteProtocolError:
        raise CommandError("Invalid base64") from None
