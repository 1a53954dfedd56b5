"""Events, not sentences: `event("smtp.rcpt.refused", conn=7, address="x@y")` is one line on standard error.

Names are listed with their fields in `docs/events.md`; a test holds the code against that page.
A value is escaped, so that no peer can write a line of its own into the log; a `Secret` never prints.
"""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from pochta import clock

MAX_VALUE_CHARS: Final = 500  # a hostile argument must not fill the disk; no address or mailbox name needs more

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")  # ASCII that is printable, but for space, `"`, `=` and `\`

Sink = Callable[[str], None]


class Secret:
    """A string that cannot be printed, logged or shown in a traceback (INV-11). `reveal()` gives the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, to be passed on and never kept."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)


_sink: Sink = _to_stderr


def set_sink(sink: Sink) -> Sink:
    """Send every line to `sink` from now on; returns the sink before it."""
    global _sink
    before, _sink = _sink, sink
    return before


def _shown(value: object) -> str:
    text = str(value)[:MAX_VALUE_CHARS]
    if _PLAIN.fullmatch(text):
        return text
    if text and text.isprintable() and not any(c in ' "=\\' for c in text):
        return text
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


_second: tuple[int, str] = (-1, "")  # the latest one, as it is written


def _stamp(now_s: float) -> str:
    global _second
    milliseconds = int(now_s * 1000)
    second, rest = divmod(milliseconds, 1000)
    if _second[0] != second:
        _second = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{_second[1]}.{rest:03d}Z"


def event(name: str, /, **fields: object) -> None:
    """Write one event; fields that are None are left out."""
    shown = "".join([f" {key}={_shown(value)}" for key, value in fields.items() if value is not None])
    _sink(f"{_stamp(clock.now_s())} {name}{shown}\n")
