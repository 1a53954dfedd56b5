"""MESSAGELIMIT: where `limits.imap_message_limit` is set, one command touches that many messages, the newest first.

EXPUNGE and CLOSE have no limit, for a client could not go on behind them (RFC 9738 §3.1). SEARCH, SORT and THREAD are
answered whole: a server may do more than it says (§4.2), and wrong counts help nobody.

Source: RFC 9738 §3.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pochta.errors import RefusalCode
from pochta.proto.imap import encode
from pochta.proto.imap.view import Slice
from pochta.servers.imap.coded import CodedRefusal

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


class Limited(NamedTuple):
    """The messages that a command is carried out for; `code`: the response code that says what was left out."""

    parts: list[Slice]
    code: bytes


class TooManyMessages(CodedRefusal):
    """More messages than a command that is all or nothing takes: MESSAGELIMIT."""

    def __init__(self, limit: int, uid: int = 0) -> None:
        super().__init__(RefusalCode.LIMIT, f"One command takes at most {limit} messages", _code(limit, uid))


def _code(limit: int, uid: int) -> bytes:
    return b"MESSAGELIMIT %d %d" % (limit, uid) if uid else b"MESSAGELIMIT %d" % limit


def limited(connection: "ImapConnection", parts: Sequence[Slice]) -> Limited:
    """The last messages of the slices, as many as one command may touch."""
    left = connection.context.message_limit
    if not left or sum(part.stop - part.start for part in parts) <= left:
        return Limited(list(parts), b"")
    kept: list[Slice] = []
    for part in reversed(parts):
        count = min(left, part.stop - part.start)
        kept.append(part._replace(start=part.stop - count, seq=part.seq + part.stop - part.start - count))
        left -= count
        if not left:
            break
    kept.reverse()
    return Limited(kept, _code(connection.context.message_limit, kept[0].uids[0]))


def limited_uids(connection: "ImapConnection", uids: list[int]) -> tuple[list[int], bytes]:
    """As `limited`, of rising UIDs: those that are left, and the response code."""
    limit = connection.context.message_limit
    if not limit or len(uids) <= limit:
        return uids, b""
    return uids[-limit:], _code(limit, uids[-limit])


def refuse_too_many(connection: "ImapConnection", parts: Sequence[Slice]) -> None:
    """For commands that are all or nothing.

    Raises:
        Refusal: TooManyMessages.
    """
    found = limited(connection, parts)
    if found.code:
        raise TooManyMessages(connection.context.message_limit, found.parts[0].uids[0])


def refuse_range(connection: "ImapConnection", count: int) -> None:
    """For a range of PARTIAL that is larger than any answer.

    Raises:
        Refusal: TooManyMessages.
    """
    limit = connection.context.message_limit
    if limit and count > limit:
        raise TooManyMessages(limit)


def answer(
    connection: "ImapConnection", tag: bytes, text: str, limit_code: bytes, *, status: bytes = b"OK", code: bytes = b""
) -> None:
    """The tagged answer, with the limit's code in it or, where it has another, in an untagged NO before it."""
    if limit_code and code:
        # RFC 9738 §3.1: of two codes, this one goes into an untagged NO
        connection.send(encode.untagged(b"NO", "Only the newest messages were looked at", code=limit_code))
        limit_code = b""
    connection.send(encode.tagged(tag, status, text, code=code or limit_code))
