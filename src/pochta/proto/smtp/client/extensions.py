"""What a server says it can do, from its answer to EHLO or LHLO.

Decides how a keyword and its parameters are read; what is malformed is as if it were not offered. Refuses to know what
the client makes of it.
"""

import re
from dataclasses import dataclass
from typing import Final

from pochta.proto.smtp.replies import Reply

MAX_SIZE_DIGITS: Final = 20  # RFC 1870 §4: size-param ::= [1*DIGIT], values of 20 digits at most (§5)
MAX_LIMIT_DIGITS: Final = 6  # RFC 9422 §4: values of the initial limits have up to six digits
MAX_TIME_DIGITS: Final = 9  # RFC 2852 §2: min-by-time is up to nine digits

_KEYWORD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?: +([!-~](?:[ !-~]*[!-~])?))? *")
_LIMIT: Final = re.compile(rf"([A-Za-z0-9_-]+)=([1-9][0-9]{{0,{MAX_LIMIT_DIGITS - 1}}})")
_MECHANISM: Final = re.compile(r"[A-Z0-9_-]{1,20}")  # RFC 4422 §3.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """The extensions of one server after its last hello; the default is a server that has none.

    `max_message_bytes` is None where the server names no limit. `rcpt_max`, `mail_max`, `rcpt_domain_max`: how many
    recipients in a transaction, transactions in a connection, domains in a transaction; to be kept by the caller.
    """

    has_pipelining: bool = False
    has_chunking: bool = False
    has_8bitmime: bool = False
    has_binarymime: bool = False
    has_smtputf8: bool = False
    has_dsn: bool = False
    has_start_tls: bool = False
    has_requiretls: bool = False
    has_size: bool = False
    has_mt_priority: bool = False
    has_deliver_by: bool = False
    max_message_bytes: int | None = None
    deliver_by_min_s: int = 0
    auth_mechanisms: tuple[str, ...] = ()
    rcpt_max: int | None = None
    mail_max: int | None = None
    rcpt_domain_max: int | None = None


NO_EXTENSIONS: Final = Extensions()


def parse_extensions(reply: Reply) -> Extensions:
    """The extensions in the positive answer to a hello; its first line only greets. Source: RFC 5321 §4.1.1.1."""
    offered: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        match = _KEYWORD.fullmatch(line)
        if match is not None:
            # RFC 5321 §4.1.1.1: keywords are the same in any case. What stands there twice counts the first time.
            offered.setdefault(match[1].upper(), match[2] or "")
    size = _number(offered.get("SIZE", ""), MAX_SIZE_DIGITS)
    limits = _limits(offered.get("LIMITS", ""))
    has_chunking = "CHUNKING" in offered
    return Extensions(
        has_pipelining="PIPELINING" in offered,
        has_chunking=has_chunking,
        has_8bitmime="8BITMIME" in offered,
        # RFC 3030 §3: BINARYMIME only works together with CHUNKING.
        has_binarymime="BINARYMIME" in offered and has_chunking,
        # RFC 6531 §3.1: SMTPUTF8 comes with 8BITMIME.
        has_smtputf8="SMTPUTF8" in offered and "8BITMIME" in offered,
        has_dsn="DSN" in offered,
        has_start_tls="STARTTLS" in offered,
        has_requiretls="REQUIRETLS" in offered,
        has_size="SIZE" in offered,
        has_mt_priority="MT-PRIORITY" in offered,
        has_deliver_by="DELIVERBY" in offered,
        # RFC 1870 §4: 0 says that there is no fixed limit.
        max_message_bytes=size or None,
        deliver_by_min_s=_number(offered.get("DELIVERBY", ""), MAX_TIME_DIGITS) or 0,
        auth_mechanisms=tuple(filter(_MECHANISM.fullmatch, offered.get("AUTH", "").upper().split())),
        rcpt_max=limits.get("RCPTMAX"),
        mail_max=limits.get("MAILMAX"),
        rcpt_domain_max=limits.get("RCPTDOMAINMAX"),
    )


def _number(parameters: str, max_digits: int) -> int | None:
    """The number that the parameters begin with."""
    first = parameters.partition(" ")[0]
    return int(first) if first.isascii() and first.isdecimal() and len(first) <= max_digits else None


def _limits(parameters: str) -> dict[str, int]:
    # RFC 9422 §3: limits that the client does not know, or whose value it cannot read, do not concern it.
    found: dict[str, int] = {}
    for word in parameters.split():
        match = _LIMIT.fullmatch(word)
        if match is not None:
            found.setdefault(match[1].upper(), int(match[2]))
    return found
