"""Command lines, read: verbs and paths; `parameters` reads the rest of them. Pure functions, no order of commands.

What is wrong with a line is raised as `CommandError`, which carries the reply.
"""

import re
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError
from pochta.proto.address import Address, AddressError, AddressFault, parse_path
from pochta.proto.buffer import CRLF, InputBuffer
from pochta.proto.smtp import replies
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.replies import Reply

MAX_HELLO_BYTES: Final = 255  # RFC 5321 §4.5.3.1.2: the longest domain
MAX_MECHANISM_CHARS: Final = 20  # RFC 4422 §3.1
MAX_CHUNK_DIGITS: Final = 20  # as SIZE; RFC 3030 §2 names no bound

# DEVIATES RFC 5321 §3.8: these commands close the connection. Browsers made to speak to a mail server by a web page
# send them, and nothing they send after may be obeyed.
HTTP_VERBS: Final = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE"})
KNOWN_BUT_ABSENT: Final = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BURL", "ATRN"})

_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# Nearly all of MAIL and RCPT: an ASCII address in its plain form. `{3,200}` keeps the path within its 256 octets, so
# that nothing is left to check; every other line takes the long way through `parse_path`.
PLAIN_PATH: Final = re.compile(
    rb"(?i:(MAIL FROM|RCPT TO):)(?=<[^>]{3,200}>)"
    rb"<(" + _ATOM + rb"(?:\." + _ATOM + rb")*)@(" + _LABEL + rb"(?:\." + _LABEL + rb")*)>(?: ([ -~]*))?\r\n"
)
_UNCLEAN_BYTES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HELLO_NAME = re.compile(r"[!-~]+")
_MECHANISM = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_MECHANISM_CHARS}}}")
_CHUNK = re.compile(rf"([0-9]{{1,{MAX_CHUNK_DIGITS}}})(?: +(.*))?")
_BLANKS: Final = " \t"


class CommandError(RemoteProtocolError):
    """A command line cannot be obeyed; `reply` is the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Chunk(NamedTuple):
    """A BDAT command: how many octets follow it, whether they end the message, and what is wrong with the rest."""

    size: int
    is_last: bool = False
    refusal: Reply | None = None


def take_line(buffer: InputBuffer, max_bytes: int, *, bare_newline: BareNewline, too_long: Reply) -> bytes | None:
    """The next line with its CRLF, None when there is none yet.

    Raises:
        CommandError: `too_long`, or a bare LF where `bare_newline` refuses it; the line is dropped up to its CRLF.
    """
    try:
        line = buffer.take_line(max_bytes)
    except RemoteProtocolError as error:
        raise CommandError(too_long) from error
    if line is None or line[-2:] == CRLF:
        return line
    if bare_newline is BareNewline.NORMALISE:
        return line[:-1] + CRLF
    # What follows, up to the CRLF, belongs to this line: it must not be obeyed as a command.
    buffer.skip_through(CRLF)
    raise CommandError(replies.BARE_NEWLINE)


def split_command(line: bytes) -> tuple[str, str]:
    """Verb in upper case and the rest without blanks around it, from a line without CRLF."""
    if b"\r" in line or b"\n" in line:
        raise CommandError(replies.BARE_NEWLINE)
    # RFC 5321 §4.1.2: control characters must not be in commands; they are answered 501.
    if _UNCLEAN_BYTES.search(line):
        raise CommandError(replies.BAD_CHARACTERS)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(replies.BAD_CHARACTERS) from None
    # RFC 5321 §4.1.1: white space before the line end is tolerated. Only ASCII's: a line is not the place for others.
    verb, _, argument = text.strip(_BLANKS).partition(" ")
    return verb.upper(), argument.strip(_BLANKS)


def refuse_argument(argument: str) -> None:
    """Raise the reply when there is an argument where none belongs."""
    # RFC 5321 §4.3.2: RSET, DATA and QUIT take no parameters; 501 when some are given.
    if argument:
        raise CommandError(replies.NO_PARAMETERS)


def parse_hello(argument: str) -> str:
    """The client's name for itself, any visible ASCII."""
    # DEVIATES RFC 5321 §2.3.5, §4.1.2: printers and scripts send bare host names, Windows computers underscores.
    # RFC 5321 §4.1.1.1: text behind the name is expected and ignored.
    name = argument.partition(" ")[0]
    if len(name) > MAX_HELLO_BYTES or not _HELLO_NAME.fullmatch(name):
        raise CommandError(replies.HELLO_SYNTAX)
    return name


def parse_mail(argument: str) -> tuple[Address | None, str]:
    """Reverse-path and parameters, from what follows `MAIL`."""
    path, parameters = _parse_path_argument(argument, "FROM:", replies.MAIL_SYNTAX, status="5.1.7")
    if path is not None and not path.domain:
        raise CommandError(replies.MAIL_SYNTAX._replace(enhanced="5.1.7"))
    return path, parameters


def parse_rcpt(argument: str) -> tuple[Address, str]:
    """Forward-path and parameters, from what follows `RCPT`."""
    path, parameters = _parse_path_argument(argument, "TO:", replies.RCPT_SYNTAX, status="5.1.3")
    if path is None:
        raise CommandError(replies.RCPT_SYNTAX._replace(enhanced="5.1.3"))
    return path, parameters


def parse_auth(argument: str) -> tuple[str, str | None]:
    """Mechanism in upper case and the initial response as sent, None when there is none."""
    mechanism, has_response, response = argument.partition(" ")
    if not _MECHANISM.fullmatch(mechanism):
        raise CommandError(replies.AUTH_SYNTAX)
    return mechanism.upper(), response.strip(_BLANKS) if has_response else None


def parse_bdat(argument: str) -> Chunk:
    """The chunk that follows. Once its size is known a fault is no error: the octets come in any case.

    Raises:
        CommandError: there is no size, so nothing can be dropped.
    """
    match = _CHUNK.fullmatch(argument)
    if match is None:
        raise CommandError(replies.BDAT_SYNTAX)
    size, end_marker = int(match[1]), match[2]
    if end_marker is None:
        return Chunk(size)
    is_last = end_marker.upper() == "LAST"
    return Chunk(size, is_last, None if is_last else replies.BDAT_SYNTAX)


def _parse_path_argument(argument: str, word: str, syntax: Reply, *, status: str) -> tuple[Address | None, str]:
    if argument[: len(word)].upper() != word:
        raise CommandError(syntax)
    # DEVIATES RFC 5321 §3.3: blanks behind the colon are taken; people at a terminal and scripts write them.
    start = len(word)
    while argument[start : start + 1] == " ":
        start += 1
    try:
        path, end = parse_path(argument, start)
    except AddressError as error:
        if error.fault is AddressFault.SYNTAX:
            raise CommandError(syntax._replace(enhanced=status)) from error
        raise CommandError(Reply(501, status, str(error).capitalize())) from error
    if argument[end : end + 1] not in ("", " "):
        raise CommandError(syntax)
    return path, argument[end + 1 :]
