"""What sessions do, as plain data: a list of steps means something wherever it is cut.

A step names no uid. Messages are picked by place (`picks`, each modulo the size of the view), mailboxes by place among
those of the session's account (an int from 0) or of the others (below 0), or by name: a str, which need not exist, and
which is in the account that is `k` further on where it begins with `~k/`. So a list stays lawful when steps are taken
out of it. `parse` reads what a failure prints.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random  # noqa: TID251 - a test's own, seeded
from typing import Final

SESSIONS: Final = 8
WORKERS: Final = 2
ACCOUNTS: Final = 3
# What the sessions enable at first; two and two share an account and sit in different workers
MODES: Final[tuple[tuple[str, ...], ...]] = (
    ("CONDSTORE",), ("QRESYNC",), (), ("IMAP4rev2", "QRESYNC"), ("QRESYNC", "COMPRESS"), ("IMAP4rev2", "NOTIFY"),
    ("UIDONLY",), ("QRESYNC", "UIDONLY", "IMAP4rev2"),
)  # fmt: skip
RIGHTS: Final = ("", "lr", "lrs", "lrswi", "lrswite", "lrswipkxtea", "lrswipkxtea", "lrwt", "lrie", "ri", "l", "lrsk")
NAMES: Final = ("Work", "Work/Sub", "Lists", "Lists/Old", "Archive", "Bills", "Bills 2")
FLAGS: Final = ("\\Deleted", "\\Deleted", "\\Seen", "\\Flagged", "\\Answered", "$Work", "$Later")
KEYS: Final = ("ALL", "SEEN", "UNSEEN", "DELETED", "UNDELETED", "FLAGGED", "KEYWORD $Work", "NOT KEYWORD $Later")
RETURNS: Final = ("", "", "", "SAVE ALL", "SAVE ALL COUNT", "MIN MAX COUNT ALL")

Place = int | str


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT or EXAMINE; with `fetches` the client asks for all flags, as most do."""

    session: int
    mailbox: Place
    fetches: bool
    is_read_only: bool
    resume: int = 0  # with QRESYNC, where the session has it: 1 no uids, 2 the known ones, 3 their numbers too


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The connection is lost; the client comes back, perhaps in other modes, with what it knew."""

    session: int
    modes: tuple[str, ...]
    resume: int


@dataclass(frozen=True, slots=True)
class SetAcl:
    """SETACL, or DELETEACL (`mode` is "0"), for the account that is `whom` further on; ACCOUNTS: for anyone."""

    session: int
    mailbox: Place
    whom: int
    mode: str
    letters: str
    is_denied: bool


@dataclass(frozen=True, slots=True)
class SetQuota:
    """The session's account may hold so many more messages than it does; with `room` below 0, any number."""

    session: int
    room: int


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
    is_saved: bool = False


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
    is_saved: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH; the key `picked` looks for the subject of one message, `since` for MODSEQ. `returns` are its options."""

    session: int
    key: str
    pick: int
    is_uid: bool
    returns: str = ""


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
    is_saved: bool = False


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
    | Create | Delete | Rename | Idle | Noop | Status | ListAll | Reconnect | SetAcl
    | SetQuota
)  # fmt: skip

# In hundredths, about. What can fail to do anything (nothing to name, a name in use) comes more often than it counts.
WEIGHTS: Final[dict[type[Step], int]] = {
    Select: 12, Unselect: 4, Close: 5, Store: 17, Fetch: 8, Search: 6, Expunge: 18, UidExpunge: 26, Copy: 10, Move: 14,
    Append: 14, Deliver: 5, Create: 14, Delete: 12, Rename: 20, Idle: 6, Noop: 4, Status: 6, ListAll: 4,
    Reconnect: 6, SetAcl: 7, SetQuota: 3,
}  # fmt: skip
_KINDS: Final = list(WEIGHTS)
_WEIGHTS: Final = tuple(accumulate(WEIGHTS.values()))


def account_of(session: int) -> int:
    """The account that the session signs in to."""
    return session // WORKERS % ACCOUNTS


def by_chance(random: Random, session: int) -> Step:
    """Any step of the session."""
    (kind,) = random.choices(_KINDS, cum_weights=_WEIGHTS)
    return _MAKERS[kind](random, session)


def _picks(random: Random) -> tuple[int, ...]:
    return tuple(random.randrange(64) for _ in range(random.choice((1, 1, 2, 3, 4))))


def _mailbox(random: Random) -> Place:
    """INBOX mostly, that of an account or of the next, so that sessions meet there; a name that may be gone."""
    chance = random.random()
    if chance < 0.45:
        return "INBOX" if chance < 0.25 else random.choice(("~1/INBOX", "~2/INBOX"))
    return _name(random) if chance < 0.55 else random.randrange(64) if chance < 0.8 else -1 - random.randrange(64)


def _any_mailbox(random: Random) -> Place:
    return random.randrange(64) if random.random() < 0.7 else -1 - random.randrange(64)


def _name(random: Random) -> str:
    whose = random.choice(("", "", "", "~1/", "~2/"))
    return whose + random.choice(NAMES)


def _flags(random: Random, least: int = 0) -> tuple[str, ...]:
    return tuple(dict.fromkeys(random.choices(FLAGS, k=random.randint(least, 2))))


def _is(random: Random, chance: float) -> bool:
    return random.random() < chance


def _select(random: Random, session: int) -> Step:
    return Select(session, _mailbox(random), _is(random, 0.75), _is(random, 0.15), random.choice((0, 1, 2, 3)))


def _reconnect(random: Random, session: int) -> Step:
    modes = list(MODES[session] if _is(random, 0.5) else random.choice(MODES))
    modes += ["COMPRESS"] if _is(random, 0.2) else []
    modes += ["NOTIFY"] if _is(random, 0.2) else []
    return Reconnect(session, tuple(dict.fromkeys(modes)), random.choice((0, 1, 1, 2, 3)))


def _set_acl(random: Random, session: int) -> Step:
    whom = random.choice((1, 1, 2, 2, 0, ACCOUNTS))
    mode = random.choice(("", "", "", "+", "-", "0"))
    place: Place = "INBOX" if _is(random, 0.5) else _any_mailbox(random)
    letters = random.choice(RIGHTS)
    return SetAcl(session, place, whom, mode, letters, _is(random, 0.1))


def _store(random: Random, session: int) -> Step:
    mode = random.choice(("", "+", "+", "+", "-"))
    flags = ("\\Deleted",) if mode == "+" and _is(random, 0.8) else _flags(random, 0 if mode == "" else 1)
    return Store(
        session,
        _picks(random),
        mode,
        flags,
        _is(random, 0.4),
        _is(random, 0.5),
        _is(random, 0.1),
        _since(random),
        _is(random, 0.06),
    )


def _since(random: Random) -> int | None:
    return random.randrange(1000) if random.random() < 0.4 else None


def _fetch(random: Random, session: int) -> Step:
    what = random.choice(("flags", "flags", "changed", "changed", "size", "subject", "body", "body"))
    since = random.randrange(1000) if what == "changed" else None
    return Fetch(session, _picks(random), what, _is(random, 0.5), _is(random, 0.3), since, _is(random, 0.08))


def _search(random: Random, session: int) -> Step:
    key, returns = random.choice((*KEYS, "picked", "since")), random.choice(RETURNS)
    return Search(session, key, random.randrange(64), _is(random, 0.5), returns)


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
    UidExpunge: lambda random, session: UidExpunge(
        session, (random.randrange(8),), _is(random, 0.8), _is(random, 0.05)
    ),
    Copy: lambda random, session: Copy(session, _picks(random), _mailbox(random), _is(random, 0.5)),
    Move: lambda random, session: Move(session, _picks(random), _mailbox(random), _is(random, 0.5)),
    Append: _append,
    Deliver: lambda _, session: Deliver(session),
    Create: lambda random, session: Create(session, _name(random)),
    Delete: lambda random, session: Delete(session, _any_mailbox(random)),
    Rename: lambda random, session: Rename(session, _any_mailbox(random), _name(random)),
    Idle: lambda _, session: Idle(session),
    Noop: lambda random, session: Noop(session, _is(random, 0.2)),
    Status: lambda random, session: Status(session, _mailbox(random)),
    ListAll: lambda _, session: ListAll(session),
    Reconnect: _reconnect,
    SetAcl: _set_acl,
    SetQuota: lambda random, session: SetQuota(session, random.choice((-1, -1, 0, 1, 2, 5))),
}


_PLAIN: Final = {"mailbox": "INBOX", "picks": (0,), "pick": 0, "count": 1, "since": None, "fetches": True, "resume": 1}


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
