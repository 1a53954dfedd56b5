"""What sessions do, as plain data: a list of steps means something wherever it is cut.

A step names no uid. Messages are picked by place (`picks`, each modulo the size of the view), mailboxes by place among
those that exist (an int) or by name (a str, which need not exist), so that a list stays lawful when steps are taken out
of it. `generate` depends on its seed alone; `parse` reads what a failure prints.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random  # noqa: TID251 - a test's own, seeded
from typing import Final

SESSIONS: Final = 4
WORKERS: Final = 2
AWARE: Final = (0, 1)  # the sessions that know mod-sequences (RFC 7162): one in each worker
NAMES: Final = ("Work", "Work/Sub", "Lists", "Lists/Old", "Archive", "Bills", "Bills 2")
FLAGS: Final = ("\\Deleted", "\\Deleted", "\\Seen", "\\Flagged", "\\Answered", "$Work", "$Later")
KEYS: Final = ("ALL", "SEEN", "UNSEEN", "DELETED", "UNDELETED", "FLAGGED", "KEYWORD $Work", "NOT KEYWORD $Later")

Place = int | str


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT or EXAMINE; with `fetches` the client asks for all flags, as most do."""

    session: int
    mailbox: Place
    fetches: bool
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class Unselect:
    """UNSELECT"""

    session: int


@dataclass(frozen=True, slots=True)
class Close:
    """CLOSE"""

    session: int


@dataclass(frozen=True, slots=True)
class Store:
    """STORE; `mode` is "", "+" or "-"; with `is_open` the picked message and all behind it.

    `since` picks a mod-sequence for UNCHANGEDSINCE; sessions that are not aware of them leave it out.
    """

    session: int
    picks: tuple[int, ...]
    mode: str
    flags: tuple[str, ...]
    is_silent: bool
    is_uid: bool
    is_open: bool
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH; `what` is flags, changed (flags with CHANGEDSINCE), size, subject or body, which sets \\Seen.

    `since` as in `Store`.
    """

    session: int
    picks: tuple[int, ...]
    what: str
    is_uid: bool
    is_open: bool
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH; the key `picked` looks for the subject of one message, `since` for MODSEQ."""

    session: int
    key: str
    pick: int
    is_uid: bool


@dataclass(frozen=True, slots=True)
class Expunge:
    """EXPUNGE"""

    session: int


@dataclass(frozen=True, slots=True)
class UidExpunge:
    """UID EXPUNGE"""

    session: int
    picks: tuple[int, ...]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY"""

    session: int
    picks: tuple[int, ...]
    mailbox: Place
    is_uid: bool


@dataclass(frozen=True, slots=True)
class Move:
    """MOVE"""

    session: int
    picks: tuple[int, ...]
    mailbox: Place
    is_uid: bool


@dataclass(frozen=True, slots=True)
class Append:
    """APPEND of `count` messages."""

    session: int
    mailbox: Place
    flags: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message arrives for INBOX; the session stands for its worker."""

    session: int


@dataclass(frozen=True, slots=True)
class Create:
    """CREATE"""

    session: int
    name: str


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE"""

    session: int
    mailbox: Place


@dataclass(frozen=True, slots=True)
class Rename:
    """RENAME"""

    session: int
    mailbox: Place
    name: str


@dataclass(frozen=True, slots=True)
class Idle:
    """IDLE, until the session's next step."""

    session: int


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP or CHECK"""

    session: int
    is_check: bool


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS, by a session that may have another mailbox selected."""

    session: int
    mailbox: Place


@dataclass(frozen=True, slots=True)
class ListAll:
    """LIST of everything."""

    session: int


Step = (
    Select | Unselect | Close | Store | Fetch | Search | Expunge | UidExpunge | Copy | Move | Append | Deliver
    | Create | Delete | Rename | Idle | Noop | Status | ListAll
)  # fmt: skip

# In hundredths, about. What can fail to do anything (nothing to name, a name in use) comes more often than it counts.
WEIGHTS: Final[dict[type[Step], int]] = {
    Select: 8, Unselect: 5, Close: 5, Store: 17, Fetch: 8, Search: 5, Expunge: 15, UidExpunge: 22, Copy: 8, Move: 7,
    Append: 13, Deliver: 6, Create: 16, Delete: 9, Rename: 20, Idle: 5, Noop: 5, Status: 5, ListAll: 5,
}  # fmt: skip


def generate(seed: int, count: int) -> list[Step]:
    """`count` steps, always the same of one seed; a longer list begins with the shorter one."""
    random = Random(seed)
    kinds, weights = list(WEIGHTS), tuple(accumulate(WEIGHTS.values()))
    steps: list[Step] = []
    for _ in range(count):
        (kind,) = random.choices(kinds, cum_weights=weights)
        steps.append(_MAKERS[kind](random, random.randrange(SESSIONS)))
    return steps


def _picks(random: Random) -> tuple[int, ...]:
    return tuple(random.randrange(64) for _ in range(random.choice((1, 1, 2, 3, 4))))


def _mailbox(random: Random) -> Place:
    """INBOX mostly, so that sessions meet there; a name now and then, which may be gone."""
    chance = random.random()
    return "INBOX" if chance < 0.4 else random.choice(NAMES) if chance < 0.5 else random.randrange(64)


def _flags(random: Random, least: int = 0) -> tuple[str, ...]:
    return tuple(dict.fromkeys(random.choices(FLAGS, k=random.randint(least, 2))))


def _is(random: Random, chance: float) -> bool:
    return random.random() < chance


def _select(random: Random, session: int) -> Step:
    return Select(session, _mailbox(random), _is(random, 0.75), _is(random, 0.15))


def _store(random: Random, session: int) -> Step:
    mode = random.choice(("", "+", "+", "+", "-"))
    flags = ("\\Deleted",) if mode == "+" and _is(random, 0.8) else _flags(random, 0 if mode == "" else 1)
    return Store(
        session, _picks(random), mode, flags, _is(random, 0.4), _is(random, 0.5), _is(random, 0.1), _since(random)
    )


def _since(random: Random) -> int | None:
    return random.randrange(1000) if random.random() < 0.4 else None


def _fetch(random: Random, session: int) -> Step:
    what = random.choice(("flags", "flags", "changed", "changed", "size", "subject", "body", "body"))
    since = random.randrange(1000) if what == "changed" else None
    return Fetch(session, _picks(random), what, _is(random, 0.5), _is(random, 0.3), since)


def _search(random: Random, session: int) -> Step:
    return Search(session, random.choice((*KEYS, "picked", "since")), random.randrange(64), _is(random, 0.5))


def _append(random: Random, session: int) -> Step:
    flags = ("\\Deleted", *_flags(random)) if _is(random, 0.4) else _flags(random)
    return Append(session, _mailbox(random), tuple(dict.fromkeys(flags)), random.choice((1, 1, 2, 3)))


_MAKERS: Final[dict[type[Step], Callable[[Random, int], Step]]] = {
    Select: _select,
    Unselect: lambda _, session: Unselect(session),
    Close: lambda _, session: Close(session),
    Store: _store,
    Fetch: _fetch,
    Search: _search,
    Expunge: lambda _, session: Expunge(session),
    UidExpunge: lambda random, session: UidExpunge(session, (random.randrange(8),), _is(random, 0.8)),
    Copy: lambda random, session: Copy(session, _picks(random), _mailbox(random), _is(random, 0.5)),
    Move: lambda random, session: Move(session, _picks(random), _mailbox(random), _is(random, 0.5)),
    Append: _append,
    Deliver: lambda _, session: Deliver(session),
    Create: lambda random, session: Create(session, random.choice(NAMES)),
    Delete: lambda random, session: Delete(session, random.randrange(64)),
    Rename: lambda random, session: Rename(session, random.randrange(64), random.choice(NAMES)),
    Idle: lambda _, session: Idle(session),
    Noop: lambda random, session: Noop(session, _is(random, 0.2)),
    Status: lambda random, session: Status(session, _mailbox(random)),
    ListAll: lambda _, session: ListAll(session),
}


_PLAIN: Final = {"mailbox": "INBOX", "picks": (0,), "pick": 0, "count": 1, "since": None, "fetches": True}


def plainer(step: Step) -> list[Step]:
    """The step with plainer values: all at once, then one by one."""
    plain = {name: value for name, value in _PLAIN.items() if getattr(step, name, value) != value}
    ways = [plain, *({name: value} for name, value in plain.items())] if len(plain) > 1 else [plain] if plain else []
    return [replace(step, **way) for way in ways]  # type: ignore[arg-type]  # each name has a value of its type


def show(steps: list[Step]) -> str:
    """The list as Python, one step a line."""
    return "[\n" + "".join(f"    {step!r},\n" for step in steps) + "]"


def parse(text: str) -> list[Step]:
    """The list that `show` wrote."""
    names = {kind.__name__: kind for kind in WEIGHTS}
    steps: list[Step] = eval(text, {"__builtins__": {}}, names)  # our own output, pasted by a developer
    return steps
