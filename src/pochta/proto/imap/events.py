"""What `ImapServer.next_event` tells. Tags are octets to be echoed; texts may reach the peer."""

from dataclasses import dataclass, field
from typing import NamedTuple

from pochta.proto.imap.append import AppendData, Replaced
from pochta.proto.imap.commands import Command
from pochta.proto.imap.dates import InternalDate


class CommandEvent(NamedTuple):
    """A complete command: exactly one tagged answer is owed."""

    tag: bytes
    command: Command


class BadCommand(NamedTuple):
    """A syntax error: answer BAD, tagged when `tag` is known. Ends AUTHENTICATE, IDLE or APPEND in progress."""

    tag: bytes | None
    text: str


class AppendStart(NamedTuple):
    """A message announced by APPEND: `accept_append` or `refuse_append` before the next event is asked for.

    `mailbox` is the same for all messages of one command; `internal_date` is None for now; `is_first` is False for the
    further messages of MULTIAPPEND. RFC 3502 §6.3.11: a `size_bytes` of 0 must be refused with NO, unless the message
    is made of parts (`data` is CATENATE), which come as AppendPart and AppendUrl. `replaced`: the command is REPLACE.
    """

    tag: bytes
    mailbox: str
    flags: tuple[str, ...]
    internal_date: InternalDate | None
    size_bytes: int
    is_sync: bool
    is_first: bool
    data: AppendData = AppendData.LITERAL
    replaced: Replaced | None = None


class AppendPart(NamedTuple):
    """Octets announced as a part of the message: as AppendStart, `accept_append` or `refuse_append` comes next.

    Source: RFC 4469 §3.
    """

    size_bytes: int
    is_sync: bool
    data: AppendData


class AppendUrl(NamedTuple):
    """What the URL names is the next part of the message; as the client wrote it, not looked at."""

    url: bytes


class AppendChunk(NamedTuple):
    """The next octets of the message or part, never empty; together exactly its `size_bytes`."""

    data: bytes


class AppendMessageEnd(NamedTuple):
    """The message is complete; nothing may be kept before AppendDone (all messages of the command or none)."""


class AppendDone(NamedTuple):
    """The APPEND command is complete: publish its messages and answer."""

    tag: bytes


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The client's answer to `challenge`, decoded; None when it cancelled with `*`: answer BAD."""

    data: bytes | None = field(repr=False)


class IdleDone(NamedTuple):
    """The client ended IDLE: answer the IDLE command with this tag."""

    tag: bytes


class Fatal(NamedTuple):
    """The stream cannot be understood any more: answer BYE with the response code, if any, and close.

    No event follows.
    """

    text: str
    code: bytes = b""


Event = (
    CommandEvent
    | BadCommand
    | AppendStart
    | AppendPart
    | AppendUrl
    | AppendChunk
    | AppendMessageEnd
    | AppendDone
    | AuthResponse
    | IdleDone
    | Fatal
)
