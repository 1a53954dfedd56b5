"""Lists of steps are run, measured, and cut down to what still fails."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from model.model import Difference
from model.steps import ACCOUNTS, Step, plainer, show
from model.walk import Walk
from model.workers import Workers
from pochta import clock

FIRST_TAIL: Final = 32


@dataclass(slots=True)
class Outcome:
    """What came of a list: how many steps were done, of which kinds, and the difference if there was one.

    `effective` counts, by kind, the steps that had something to do; `behind` those that were made while another session
    held changes which it had not seen; `met` what seldom happens.
    """

    steps: list[Step]
    done: int = 0
    effective: Counter[str] = field(default_factory=Counter)
    behind: int = 0
    met: Counter[str] = field(default_factory=Counter)
    difference: Difference | None = None
    said: list[str] = field(default_factory=list)

    @property
    def failing(self) -> list[Step]:
        """The steps up to the one that failed."""
        return self.steps[: self.done + 1]


async def run(workers: Workers, steps: Sequence[Step]) -> Outcome:
    """Run the list on fresh accounts, up to the first difference."""
    outcome = Outcome(list(steps))
    walk = Walk(workers, [await workers.add_account() for _ in range(ACCOUNTS)])
    try:
        await walk.start()
        for number, step in enumerate(steps):
            outcome.behind += walk.is_anybody_behind(step)
            await walk.step(step, number)
            outcome.effective[type(step).__name__] += not walk.is_void
            outcome.done += 1
    except Difference as difference:
        outcome.difference = difference
        outcome.said = walk.said()
    finally:
        walk.close()
    outcome.met = walk.world.met
    return outcome


class Shrinker:
    """Delta debugging: steps are taken out and made plainer as long as the same rule breaks, until `until`."""

    def __init__(self, workers: Workers, outcome: Outcome, *, until_s: float) -> None:
        assert outcome.difference is not None
        self.steps = outcome.failing
        self._workers = workers
        self._rule = outcome.difference.rule
        self._until_s = until_s

    @property
    def is_time_up(self) -> bool:
        """Whether the best list found so far has to do."""
        return clock.monotonic_s() >= self._until_s

    async def take(self, tried: list[Step]) -> bool:
        """Go on with this list if it still fails."""
        self._workers.bugs.clear()
        found = await run(self._workers, tried)
        if found.difference is None or found.difference.rule != self._rule:
            return False
        self.steps = found.failing
        return True

    async def cut_head(self) -> None:
        """The last steps alone: a step means something anywhere, and thousands need not be run again."""
        length = FIRST_TAIL
        while length < len(self.steps) and not self.is_time_up:
            await self.take(self.steps[-length:])
            length *= 2

    async def take_out(self) -> None:
        """Take out runs of steps, long ones first, until none can go."""
        size = max(1, len(self.steps) // 2)
        while True:
            at, is_shorter = 0, False
            while at < len(self.steps) and not self.is_time_up:
                if await self.take(self.steps[:at] + self.steps[at + size :]):
                    is_shorter = True
                else:
                    at += size
            if self.is_time_up or (size == 1 and not is_shorter):
                return
            size = max(1, min(size // 2, len(self.steps) // 2))

    async def make_plain(self) -> bool:
        """Make steps plainer, so that fewer others are needed to set their places up; whether any was."""
        is_plainer = False
        for at in range(len(self.steps)):
            for plain in plainer(self.steps[at]) if at < len(self.steps) else ():
                if not self.is_time_up and await self.take([*self.steps[:at], plain, *self.steps[at + 1 :]]):
                    is_plainer = True
                    break
        return is_plainer


async def shrink(workers: Workers, outcome: Outcome, *, limit_s: float = 60.0) -> list[Step]:
    """The shortest list found that breaks the same rule, within the time."""
    shrinker = Shrinker(workers, outcome, until_s=clock.monotonic_s() + limit_s)
    await shrinker.cut_head()
    await shrinker.take_out()
    while await shrinker.make_plain() and not shrinker.is_time_up:
        await shrinker.take_out()
    return shrinker.steps


async def report(workers: Workers, outcome: Outcome, *, seed: int | None = None) -> str:
    """What a developer needs to see of a failure."""
    shortest = await shrink(workers, outcome)
    return "\n".join(
        [
            f"{outcome.difference}",
            f"seed {seed}, step {outcome.done + 1}; what was said last:",
            *outcome.said,
            "the shortest list found (run it by POCHTA_MODEL_REPLAY=file .venv/bin/pytest tests/model -k replay):",
            show(shortest),
        ]
    )
