"""What a process remembers of passwords it has checked: those that fitted, and wrong ones that are given again.

Entries are digests under a key of the process (`auth.py` makes them), never passwords or their hashes. The digest holds
the credential's generation, so nothing has to be told to forget, and the address it came from: a password that the
owner gave at home is no answer to a guess from elsewhere.

A wrong password is remembered for the address and service it came from. A telephone that has not heard of the new
password gives the old one every few minutes; that is no guess, and must not lock its owner out. An attacker learns
nothing by it: what others tried from elsewhere is not told apart.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from pochta import clock
from pochta.accounts.app_passwords import covers

SLIDING_S: Final = 600.0  # longer than any client's interval between two polls
HARD_S: Final = 3600.0  # a password that leaves our memory only by disuse never would
LIMIT: Final = 10_000  # the default number of connections; 250 bytes each, 2.5 MB
WRONG_S: Final = 3600.0  # since it was given last
WRONG_LIMIT: Final = 10_000

EVERYTHING: Final = ""  # the scope of the account's own password


@dataclass(slots=True)
class _Entry:
    scope: str
    used_at: float
    until: float


class Remembered:
    """Verified passwords, least used first."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def allows(self, digest: bytes, service: str) -> bool:
        """Whether this password was verified lately and opens the service."""
        entry = self._entries.pop(digest, None)
        now = clock.monotonic_s()
        if entry is None or now >= entry.until or now >= entry.used_at + SLIDING_S:
            return False
        entry.used_at = now
        self._entries[digest] = entry
        return entry.scope == EVERYTHING or covers(entry.scope, service)

    def add(self, digest: bytes, scope: str) -> None:
        """Remember a verified password; a second time changes nothing."""
        if digest in self._entries:
            return
        if len(self._entries) >= LIMIT:
            del self._entries[next(iter(self._entries))]
        now = clock.monotonic_s()
        self._entries[digest] = _Entry(scope, now, now + HARD_S)


class Question(NamedTuple):
    """Whether a password opens a service.

    `who`, the name as asked (a keyed hash), is part of it: did two names of an account share an answer, and two names
    of nobody not, the time it takes would tell that there is such an account. So is `service`: an app password may open
    one and not the other.
    """

    digest: bytes
    who: str
    service: str


class Wrong:
    """Wrong passwords with where they came from and the reason for the log, least used first."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Question, str], tuple[float, str]] = {}

    def reason(self, question: Question, peer: str) -> str | None:
        """The reason with which the same was refused lately to the same; None when it was not."""
        used_at, reason = self._entries.pop((question, peer), (None, ""))
        now = clock.monotonic_s()
        if used_at is None or now >= used_at + WRONG_S:
            return None
        self._entries[question, peer] = now, reason
        return reason

    def add(self, question: Question, peer: str, reason: str) -> None:
        """Remember a wrong password."""
        if len(self._entries) >= WRONG_LIMIT:
            del self._entries[next(iter(self._entries))]
        self._entries[question, peer] = clock.monotonic_s(), reason
