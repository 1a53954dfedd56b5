"""IMAP against a plain model: 8 sessions of 3 accounts that share mailboxes, in 2 workers, compared after every step.

    POCHTA_MODEL_SEED=17 .venv/bin/pytest tests/model -k agrees       the walk of one seed
    POCHTA_MODEL_REPLAY=file .venv/bin/pytest tests/model -k replay   a list of steps as a failure prints it

The planted faults (`faults.FAULTS`) show that the walk would find such bugs.
"""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final

import pytest

from model import faults, runner, scenes, steps
from model.faults import FAULTS, Fault
from model.steps import Append, Fetch, Step, Store
from model.workers import Workers
from pochta import clock

SEED: Final = 1
STEPS: Final = 2500
LONG_WALKS: Final = 10
LONG_STEPS: Final = 20_000  # of each walk: 200 000 in .ci/long
FOUND_WITHIN: Final = 5_000
LEAST_KINDS: Final = 22
LEAST_SHARE: Final = 0.004  # of each kind of step, counted when it had something to do
LEAST_MET: Final = 1  # of each of these
MET: Final = (
    "a client comes back to another mailbox of the same name",
    "a client comes back to another's mailbox, and flags have changed",
    "a client comes back to another's mailbox, and some is gone",
    "a client comes back to its own mailbox, and flags have changed",
    "a client comes back to its own mailbox, and some is gone",
    "a right is lost while a client waits for news",
    "a right is lost while a mailbox is selected",
    "a selected mailbox is renamed",
    "messages are named that are gone",
    "the selected mailbox is removed",
    "APPEND exceeds the quota",
    "COPY or MOVE exceeds the quota",
    "UIDONLY refuses a number",
)
LEAST_BEHIND: Final = 0.30  # of steps made while another session holds changes that it has not seen

# What was found once, as the walk printed it
FOUND: Final[dict[str, list[Step]]] = {
    "BODY[] sets \\Seen although the session still believes that it is set": [
        Append(session=2, mailbox="INBOX", flags=(), count=1),
        Store(session=2, picks=(0,), mode="+", flags=("\\Seen",), is_silent=False, is_uid=False, is_open=False),
        Store(session=0, picks=(0,), mode="", flags=(), is_silent=False, is_uid=True, is_open=False),
        Fetch(session=2, picks=(0,), what="body", is_uid=True, is_open=False),
    ],
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: the model asks what is committed, not what survives a power cut."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="pochta-model-", dir=memory if os.access(memory, os.W_OK) else None))
    yield made / "data"
    shutil.rmtree(made)


def with_workers(folder: Path, work: Callable[[Workers], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        async with Workers(folder) as workers:
            await work(workers)

    asyncio.run(main())


async def must_agree(workers: Workers, walk: list[Step], *, seed: int | None = None) -> runner.Outcome:
    """The outcome of a list in which server and model agree to the end."""
    outcome = await runner.run(workers, walk)
    if outcome.difference is not None:
        pytest.fail(await runner.report(workers, outcome, seed=seed), pytrace=False)
    assert await workers.check() == []
    return outcome


def walk_all(folder: Path, seeds: list[int], count: int) -> None:
    """`count` steps of each seed; together they are as mixed as they must be."""

    async def work(workers: Workers) -> None:
        outcomes = [await must_agree(workers, scenes.generate(seed, count), seed=seed) for seed in seeds]
        effective = sum((outcome.effective for outcome in outcomes), Counter[str]())
        total = count * len(seeds)
        shares = {kind.__name__: effective[kind.__name__] / total for kind in steps.WEIGHTS}
        assert len(shares) >= LEAST_KINDS
        assert {name: share for name, share in shares.items() if share < LEAST_SHARE} == {}
        met = sum((outcome.met for outcome in outcomes), Counter[str]())
        assert {name: met[name] for name in MET if met[name] < LEAST_MET} == {}
        assert sum(outcome.behind for outcome in outcomes) / total >= LEAST_BEHIND

    with_workers(folder, work)


@pytest.mark.rfc(3501, "5.2")
@pytest.mark.rfc(3501, "7.4.1")
@pytest.mark.rfc(4314, "4")
@pytest.mark.rfc(5465, "5.1")
@pytest.mark.rfc(7162, "3.2.5")
@pytest.mark.rfc(9586, "3")
def test_server_agrees_with_the_model(folder: Path) -> None:
    walk_all(folder, [int(os.environ.get("POCHTA_MODEL_SEED", SEED))], STEPS)


@pytest.mark.parametrize("lose", [faults.lose_hints, faults.lose_poll])
def test_hints_and_poll_do_alone(
    lose: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(workers: Workers) -> None:
        await must_agree(workers, scenes.generate(SEED, 600), seed=SEED)

    lose(monkeypatch)
    with_workers(folder, work)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_server_agrees_with_the_model_for_long(folder: Path) -> None:
    """Other seeds each time; a failure prints its own."""
    walk_all(folder, [int(clock.token_hex(4), 16) for _ in range(LONG_WALKS)], LONG_STEPS)


@pytest.mark.parametrize("walk", FOUND.values(), ids=FOUND.keys())
def test_what_was_found_once(walk: list[Step], folder: Path) -> None:
    async def work(workers: Workers) -> None:
        await must_agree(workers, walk)

    with_workers(folder, work)


def test_replay(folder: Path) -> None:
    """The list in the file named by POCHTA_MODEL_REPLAY; without it, a list that `show` wrote."""
    name = os.environ.get("POCHTA_MODEL_REPLAY")
    text = Path(name).read_text(encoding="utf-8") if name else steps.show(scenes.generate(3, 20))

    async def work(workers: Workers) -> None:
        await must_agree(workers, steps.parse(text))

    with_workers(folder, work)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_planted_fault_is_found(fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(workers: Workers) -> None:
        faults.plant(fault, monkeypatch)
        outcome = await runner.run(workers, fault.walk or scenes.generate(1, FOUND_WITHIN))
        monkeypatch.undo()
        assert outcome.difference is not None, fault.name

    with_workers(folder, work)


def test_failure_is_cut_down_to_a_few_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(workers: Workers) -> None:
        [fault] = [one for one in FAULTS if one.attribute == "_add_copies"]
        faults.plant(fault, monkeypatch)
        outcome = await runner.run(workers, scenes.generate(1, FOUND_WITHIN))
        shortest = await runner.shrink(workers, outcome)
        # a message comes with a keyword, it is copied, somebody looks there
        assert len(shortest) <= 8
        again = await runner.run(workers, steps.parse(steps.show(shortest)))
        assert again.difference is not None
        assert outcome.difference is not None
        assert again.difference.rule == outcome.difference.rule
        monkeypatch.undo()

    with_workers(folder, work)
