"""Time and randomness, the only source of both, so that a test can hold them still.

Units: `now_s` is UTC epoch seconds as float; `monotonic_s` only measures distances.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """The process's time and randomness; replace a field in a test to hold it still."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    token_hex: Callable[[int], str] = secrets.token_hex
    token_bytes: Callable[[int], bytes] = secrets.token_bytes


_clock = Clock()


def current() -> Clock:
    """The clock in force."""
    return _clock


def now_s() -> float:
    """UTC epoch seconds."""
    return _clock.now()


def monotonic_s() -> float:
    """Seconds since an arbitrary point; never goes back."""
    return _clock.monotonic()


def token_hex(nbytes: int = 16) -> str:
    """`2 * nbytes` hexadecimal digits from the system's random source."""
    return _clock.token_hex(nbytes)


def token_bytes(nbytes: int = 16) -> bytes:
    """`nbytes` bytes from the system's random source."""
    return _clock.token_bytes(nbytes)
