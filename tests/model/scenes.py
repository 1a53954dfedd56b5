"""Lists of steps: most by chance, and scenes between them, in which sessions meet where chance seldom brings them.

In a scene a client has a mailbox selected, perhaps another's, while others change it, take its rights, rename or remove
it; then the client says something, and comes back with what it knew.
"""

from collections.abc import Sequence
from random import Random  # noqa: TID251 - a test's own, seeded
from typing import Final

from model import steps as s
from model.steps import Step

SCENE_CHANCE: Final = 0.04  # before each step; a scene has about 15
GIVEN: Final = "lrswite"
TAKEN: Final = ("", "", "l", "lr", "lrs", "lrw")
_COMING_BACK: Final = (("QRESYNC",), ("QRESYNC", "IMAP4rev2"), ("QRESYNC", "UIDONLY"), ("QRESYNC", "NOTIFY"))


def generate(seed: int, count: int) -> list[Step]:
    """`count` steps, always the same of one seed; a longer list begins with the shorter one."""
    random = Random(seed)
    steps: list[Step] = []
    while len(steps) < count:
        if random.random() < SCENE_CHANCE:
            steps += _Scene(random).steps()
        steps.append(s.by_chance(random, random.randrange(s.SESSIONS)))
    return steps[:count]


class _Scene:
    """Who is in it: the mailbox's owner, the one that has it selected, and all who have something to do there."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.owner, self.reader = random.sample(range(s.SESSIONS), 2)
        self.path = random.choice(("INBOX", "INBOX", *s.NAMES))

    def name(self, session: int) -> str:
        """The mailbox, as a session calls it."""
        further = (s.account_of(self.owner) - s.account_of(session)) % s.ACCOUNTS
        return f"~{further}/{self.path}" if further else self.path

    def give(self, letters: str) -> Step:
        """The owner gives the reader these rights, and no other."""
        whom = (s.account_of(self.reader) - s.account_of(self.owner)) % s.ACCOUNTS
        return s.SetAcl(self.owner, self.path, whom, "", letters, is_denied=False)

    def select(self, session: int, resume: int = 1) -> Step:
        """The mailbox is selected."""
        return s.Select(session, self.name(session), fetches=True, is_read_only=False, resume=resume)

    def steps(self) -> list[Step]:
        """All of it, in order."""
        random, reader = self.random, self.reader
        before: list[Step] = [
            s.Create(self.owner, self.path),
            self.give(GIVEN),
            s.Append(self.owner, self.path, ("\\Deleted",) if random.random() < 0.3 else (), 3),
        ]
        if random.random() < 0.7:
            before.append(s.Reconnect(reader, random.choice(_COMING_BACK), 0))
        before.append(self.select(reader))
        waits: list[Step] = [s.Idle(reader)] if random.random() < 0.2 else []
        first, last = self.changes(), self.changes()
        said = [s.by_chance(random, reader) for _ in range(random.randrange(3))]
        if random.random() < 0.5:
            said.append(self.fetch())
        resume = random.choice((1, 1, 2, 3))
        back: Step = self.select(reader, resume)
        if random.random() < 0.5:
            back = s.Reconnect(reader, random.choice(_COMING_BACK), resume)
        return [*before, *waits, *first, *self.blow(), *said, *last, *self.mended(), back]

    def fetch(self) -> Step:
        """By number, what the client believes to be there."""
        what = self.random.choice(("flags", "size", "subject", "body"))
        return s.Fetch(self.reader, (self.random.randrange(3),), what, is_uid=False, is_open=True)

    def changes(self) -> Sequence[Step]:
        """Somebody changes the messages, who has the mailbox selected for that."""
        random = self.random
        who = random.choice((self.owner, self.owner, self.reader ^ 1))
        picks = (random.randrange(8), random.randrange(8))
        mode, flags = random.choice((("+", "\\Deleted"), ("+", "\\Seen"), ("-", "\\Seen"), ("+", "$Work")))
        mark = s.Store(who, picks, mode, (flags,), is_silent=False, is_uid=True, is_open=False)
        ends: tuple[Sequence[Step], ...] = (
            (),
            (s.Expunge(who),),
            (s.Expunge(who),),
            (s.Append(who, self.name(who), (), 1),),
            (s.Move(who, picks, random.choice(s.NAMES), is_uid=True),),
        )
        return [self.select(who), mark, *random.choice(ends)]

    def blow(self) -> Sequence[Step]:
        """What befalls who has the mailbox selected."""
        other = self.random.choice(s.NAMES)
        again = (s.Create(self.owner, self.path), self.give(GIVEN), s.Append(self.owner, self.path, (), 2))
        ways: tuple[Sequence[Step], ...] = (
            (),
            (self.give(self.random.choice(TAKEN)),),
            (self.give(self.random.choice(TAKEN)),),
            (s.Rename(self.owner, self.path, other),),
            (s.Delete(self.owner, self.path),),
            (s.Delete(self.owner, self.path), *again),
        )
        return self.random.choice(ways)

    def mended(self) -> Sequence[Step]:
        """The rights are there again, mostly."""
        return [self.give(GIVEN)] if self.random.random() < 0.8 else []
