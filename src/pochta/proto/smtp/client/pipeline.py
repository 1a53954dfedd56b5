"""Commands on their way: what each reply to come will answer, how long that may take, what leaves together.

Decides how a transaction is cut into groups; refuses to know what a reply means.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from pochta.proto.smtp.client.limits import ClientLimits

MAX_GROUP_BYTES: Final = 32 * 1024
"""Of MAIL and RCPT in one group: some 600 recipients. A server that answers each before it reads on must not come to a
halt, its answers unread, before it has read them all."""
SMALL_GROUP: Final = MAX_GROUP_BYTES // 1024  # commands that fit for certain: each has less than 1 KiB


class Due(Enum):
    """What a reply to come will answer."""

    GREETING = "greeting"
    HELLO = "hello"
    START_TLS = "start_tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CHUNK = "chunk"
    END = "end"  # of the message, by DATA or by the last chunk
    NOTHING_SENT = "nothing_sent"  # the lone dot for nobody
    CLEAN_UP = "clean_up"  # RSET behind a transaction that failed
    RESET = "reset"
    QUIT = "quit"


Group = tuple[bytes, tuple[Due, ...]]

OF_THE_MESSAGE: Final = frozenset({Due.DATA, Due.CHUNK, Due.END})

TIMEOUTS: Final[dict[Due, Callable[[ClientLimits], float]]] = {
    due: lambda limits: limits.command_timeout_s for due in Due
} | {
    Due.GREETING: lambda limits: limits.greeting_timeout_s,
    Due.DATA: lambda limits: limits.data_timeout_s,
    Due.CHUNK: lambda limits: limits.end_timeout_s,
    Due.END: lambda limits: limits.end_timeout_s,
    Due.QUIT: lambda limits: limits.quit_timeout_s,
}


def in_groups(commands: list[bytes], due: list[Due]) -> list[Group]:
    """The commands in groups of at most `MAX_GROUP_BYTES`, what carries the message always with the last of them."""
    groups: list[Group] = []
    start = size = 0
    for number, command in enumerate(commands):
        if size + len(command) > MAX_GROUP_BYTES and due[number] is Due.RCPT:
            groups.append((b"".join(commands[start:number]), tuple(due[start:number])))
            start, size = number, 0
        size += len(command)
    groups.append((b"".join(commands[start:]), tuple(due[start:])))
    return groups
