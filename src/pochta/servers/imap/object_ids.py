"""Object ids: names of mailboxes, messages and threads that never change and never mean another.

Numbers of the store are unique within an account, so an id holds the account's too; the letter tells the kinds apart.

Source: RFC 8474 §4.1, §5.1, §5.2 and §7 (objectid).
"""

import re
from typing import Final

_FORM: Final = re.compile(r"([FMT])([1-9][0-9]{0,18})-([1-9][0-9]{0,18})")


def mailbox_id(account_id: int, number: int) -> bytes:
    """A MAILBOXID."""
    return b"F%d-%d" % (account_id, number)


def email_id(account_id: int, message_id: int) -> bytes:
    """An EMAILID."""
    return b"M%d-%d" % (account_id, message_id)


def thread_id(account_id: int, number: int) -> bytes:
    """A THREADID. RFC 8474 §5.2: no value that an EMAILID has."""
    return b"T%d-%d" % (account_id, number)


def number_in(object_id: str, kind: str, account_id: int) -> int:
    """The number that stands in an id of this kind (`F`, `M`, `T`) and account; 0, which none has, for any other."""
    match = _FORM.fullmatch(object_id)
    if match is None or match[1] != kind or int(match[2]) != account_id or int(match[3]) >= 1 << 63:
        return 0
    return int(match[3])
