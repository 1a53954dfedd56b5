"""When a message is tried again, when its sender hears of it, when it is given up."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import SetupError
from pochta.queue.schedule import (
    BACK_OFF_S,
    Schedule,
    back_off,
    delay_notice_at,
    expires_at,
    has_expired,
    is_delay_notice_due,
    next_attempt,
)

FIRST_AT = 1_795_000_000
MINUTE, HOUR, DAY = 60, 3600, 86400
STEADY = Schedule(jitter=0)
RANDOM = st.floats(0, 1)


def attempts_made(schedule: Schedule, randoms, **more: int | None) -> list[int]:  # type: ignore[no-untyped-def]
    """Seconds after FIRST_AT of each attempt of a message that nobody takes; each attempt takes no time."""
    made: list[int] = []
    now = FIRST_AT
    while True:
        now = next_attempt(schedule, len(made), first_at=FIRST_AT, now=now, random=next(randoms), **more)
        made.append(now - FIRST_AT)
        if has_expired(schedule, first_at=FIRST_AT, now=now, deliver_by_at=more.get("deliver_by_at")):
            return made


def always(value: float):  # type: ignore[no-untyped-def]
    while True:
        yield value


@pytest.mark.rfc(5321, "4.5.4.1")
def test_default_intervals() -> None:
    made = attempts_made(STEADY, always(0.5))
    assert made[:8] == [0, 60, 360, 1260, 3060, 6660, 13860, 28260]
    assert {b - a for a, b in pairwise(made[7:-1])} == {6 * HOUR}
    assert made[-1] == 5 * DAY
    assert len(made) == 27
    assert attempts_made(Schedule(), always(0.5)) == made


@pytest.mark.parametrize(("random", "count"), [(0.0, 29), (0.5, 27), (1.0, 25)])
def test_number_of_attempts(random: float, count: int) -> None:
    assert len(attempts_made(Schedule(), always(random))) == count


@given(st.randoms(use_true_random=False))
def test_any_jitter(random) -> None:  # type: ignore[no-untyped-def]
    made = attempts_made(Schedule(), iter(random.random, None))
    assert made == sorted(set(made))
    assert made[0] == 0
    assert made[-1] == 5 * DAY
    assert 25 <= len(made) <= 29


SCHEDULES = st.builds(
    Schedule,
    intervals_s=st.lists(st.integers(1, 10_000), max_size=5).map(tuple),
    then_every_s=st.integers(1, 10_000),
    jitter=st.floats(0, 0.99),
    delay_notice_s=st.integers(0, 10_000),
    give_up_s=st.integers(0, 100_000),
)
MOMENTS = st.none() | st.integers(FIRST_AT - 1000, FIRST_AT + 200_000)


@given(SCHEDULES, st.integers(0, 50), st.integers(0, 100_000), RANDOM, MOMENTS, MOMENTS)
def test_bounds(
    schedule: Schedule, attempts: int, passed: int, random: float, deliver_by_at: int | None, notice_at: int | None
) -> None:
    now = FIRST_AT + passed
    due = next_attempt(
        schedule,
        attempts,
        first_at=FIRST_AT,
        now=now,
        random=random,
        deliver_by_at=deliver_by_at,
        notice_at=notice_at,
    )
    expires = expires_at(schedule, first_at=FIRST_AT, deliver_by_at=deliver_by_at)
    assert due <= expires <= FIRST_AT + schedule.give_up_s
    if not has_expired(schedule, first_at=FIRST_AT, now=now, deliver_by_at=deliver_by_at):
        # Time goes on: an attempt is not followed by another at the same moment.
        assert due > now or attempts == 0
        assert due >= now


@given(st.integers(1, 50), RANDOM, RANDOM)
def test_monotone_in_random(attempts: int, one: float, other: float) -> None:
    low, high = sorted((one, other))

    def at(random: float) -> int:
        return next_attempt(Schedule(), attempts, first_at=FIRST_AT, now=FIRST_AT, random=random)

    assert at(low) <= at(high)


def test_at_once() -> None:
    assert next_attempt(STEADY, 0, first_at=FIRST_AT, now=FIRST_AT + 10, random=0.5) == FIRST_AT + 10


def test_held_until_released() -> None:
    released_at = FIRST_AT + 3 * DAY
    assert next_attempt(STEADY, 0, first_at=released_at, now=FIRST_AT, random=0.5) == released_at
    # The five days begin then.
    assert expires_at(STEADY, first_at=released_at) == FIRST_AT + 8 * DAY


def test_deliver_by_shortens() -> None:
    by = FIRST_AT + HOUR
    made = attempts_made(STEADY, always(0.5), deliver_by_at=by)
    assert made == [0, 60, 360, 1260, 3060, 3600]
    assert expires_at(STEADY, first_at=FIRST_AT, deliver_by_at=FIRST_AT + 9 * DAY) == FIRST_AT + 5 * DAY


def test_deliver_by_has_passed() -> None:
    by = FIRST_AT - 5
    assert next_attempt(STEADY, 0, first_at=FIRST_AT, now=FIRST_AT, random=0.5, deliver_by_at=by) == by
    assert has_expired(STEADY, first_at=FIRST_AT, now=FIRST_AT, deliver_by_at=by)


def test_an_attempt_when_the_delay_is_told() -> None:
    made: list[int] = []
    told: list[int] = []
    now = FIRST_AT
    while not has_expired(STEADY, first_at=FIRST_AT, now=now):
        notice_at = None if told else delay_notice_at(STEADY, first_at=FIRST_AT)
        now = next_attempt(STEADY, len(made), first_at=FIRST_AT, now=now, random=0.5, notice_at=notice_at)
        made.append(now - FIRST_AT)
        if not told and is_delay_notice_due(STEADY, first_at=FIRST_AT, now=now):
            told.append(now - FIRST_AT)
    assert told == [4 * HOUR]
    assert made[6:10] == [13860, 4 * HOUR, 10 * HOUR, 16 * HOUR]
    assert len(made) == 28


@pytest.mark.parametrize(
    ("after_s", "more", "is_due"),
    [
        (4 * HOUR - 1, {}, False),
        (4 * HOUR, {}, True),
        (5 * DAY - 1, {}, True),
        (5 * DAY, {}, False),
        (4 * HOUR, {"deliver_by_at": FIRST_AT + 4 * HOUR}, False),
        (HOUR, {"notify_by_at": FIRST_AT + HOUR}, True),
        (4 * HOUR, {"notify_by_at": FIRST_AT + 9 * HOUR}, True),
    ],
)
def test_delay_notice(after_s: int, more: dict[str, int], is_due: bool) -> None:
    assert is_delay_notice_due(STEADY, first_at=FIRST_AT, now=FIRST_AT + after_s, **more) is is_due


def test_no_delay_notices() -> None:
    schedule = Schedule(delay_notice_s=0)
    assert delay_notice_at(schedule, first_at=FIRST_AT) is None
    assert not is_delay_notice_due(schedule, first_at=FIRST_AT, now=FIRST_AT + DAY)
    # DELIVERBY asked for this one.
    assert is_delay_notice_due(schedule, first_at=FIRST_AT, now=FIRST_AT + DAY, notify_by_at=FIRST_AT + HOUR)


@pytest.mark.rfc(5321, "4.5.4.1")
def test_back_off() -> None:
    assert [back_off(failures, 0.5) for failures in range(9)] == [0, *BACK_OFF_S, 1800, 1800]


@given(st.integers(0, 10**9), RANDOM)
def test_back_off_is_bounded(failures: int, random: float) -> None:
    assert 0 <= back_off(failures, random) <= 1980
    assert back_off(failures, random) <= back_off(failures + 1, random)


@pytest.mark.parametrize(
    "wrong",
    [
        {"intervals_s": (60, 0)},
        {"then_every_s": 0},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"delay_notice_s": -1},
        {"give_up_s": -1},
    ],
    ids=str,
)
def test_no_sense(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(SetupError):
        Schedule(**wrong)
