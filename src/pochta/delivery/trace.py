"""The trace header in front of a delivered message: Return-Path and Received. Source: RFC 5321 §4.4."""

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_UNSAFE: Final = re.compile(r"[^!-'*-\[\]-~]")  # what could leave the comment or the line that holds it
_LITERAL: Final = re.compile(r"\[[A-Za-z0-9.:-]+\]")
_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")  # with `;` or a quote the rest of the line would read as another


class Peer(NamedTuple):
    """Who handed the message in: the name it gave, its address, and how it spoke (`ESMTPS`)."""

    hello_name: str
    address: str
    with_protocol: str
    tls: str | None


def trace_header(
    peer: Peer, *, hostname: str, reverse_path: str, recipients: tuple[str, ...], message_id: str, now_s: float
) -> bytes:
    """The lines to put before the message, CRLF included. `message_id` is our own name for this transaction."""
    # RFC 5321 §4.4: FOR with one recipient only; with several it would tell each of the others. `postmaster` alone is
    # no path.
    # Nor one beyond ASCII: forwarded, the message could go to servers with SMTPUTF8 alone for this one line.
    is_told = len(recipients) == 1 and "@" in recipients[0] and recipients[0].isascii()
    for_clause = f"\r\n\tfor <{recipients[0]}>" if is_told else ""
    tls = f"\r\n\t({_UNSAFE.sub('_', peer.tls)})" if peer.tls else ""
    # RFC 5321 §4.4: FROM is a domain or an address literal; underscores, which Windows sends, pass
    name = peer.hello_name if _LITERAL.fullmatch(peer.hello_name) else _NOT_IN_NAME.sub("_", peer.hello_name)
    address = f"IPv6:{peer.address}" if ":" in peer.address else peer.address
    return (
        f"Return-Path: <{reverse_path}>\r\n"
        f"Received: from {name or 'unknown'} ([{address}])\r\n"
        f"\tby {hostname} with {peer.with_protocol} id {message_id}{tls}{for_clause};\r\n"
        f"\t{date_time(now_s)}\r\n"
    ).encode()


def date_time(now_s: float) -> str:
    """RFC 5322 §3.3 date-time in UTC: `Mon, 23 Nov 2026 11:16:40 +0000`."""
    at = datetime.fromtimestamp(now_s, UTC)
    return (
        f"{_DAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at.year}"
        f" {at.hour:02}:{at.minute:02}:{at.second:02} +0000"
    )
