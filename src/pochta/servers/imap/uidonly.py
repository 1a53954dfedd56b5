"""UIDONLY: which commands name messages by their sequence numbers, and so are refused once it is enabled.

What such a connection is told by number (EXPUNGE, FETCH) it is told by UID instead: telling.py.

Source: RFC 9586 §3.
"""

from collections.abc import Callable
from typing import Any, Final

from pochta.proto.imap import commands as c
from pochta.proto.imap import multisearch, sort


def _is_numbered(command: Any) -> bool:  # Any: a command of the table, each of which has the field
    return not command.is_uid


def _asks_numbered(command: Any) -> bool:  # Any: as above
    return not command.is_uid or _has_numbers(command.key)


def _has_numbers(key: c.SearchKey) -> bool:
    """Whether a set of sequence numbers stands among the keys; `$` is none."""
    waiting: list[c.SearchKey] = [key]
    while waiting:
        one = waiting.pop()
        if isinstance(one, c.SearchSet):
            if not one.is_uid and not one.seq_set.is_saved:
                return True
        elif isinstance(one, c.SearchNot | c.SearchFuzzy):
            waiting.append(one.key)
        elif isinstance(one, c.SearchOr | c.SearchAnd):
            waiting.extend(one.keys)
    return False


# RFC 9586 §3.2: in the commands themselves, in search keys, and in what QRESYNC takes as known
_USES_NUMBERS: Final[dict[type[c.Command], Callable[[Any], bool]]] = {  # Any: the command that is the key
    c.Fetch: _is_numbered,
    c.Store: _is_numbered,
    c.Copy: _is_numbered,
    c.Move: _is_numbered,
    c.Search: _asks_numbered,
    sort.Sort: _asks_numbered,
    sort.Thread: _asks_numbered,
    multisearch.MultiSearch: lambda command: _has_numbers(command.key),
    c.Select: lambda command: command.resync is not None and command.resync.known_pairs is not None,
}


def uses_numbers(command: c.Command) -> bool:
    """Whether the command names messages by sequence number, or asks to be answered so."""
    asks = _USES_NUMBERS.get(type(command))
    return asks is not None and asks(command)
