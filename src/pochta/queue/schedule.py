"""When a message on its way out is tried again, when its sender hears of a delay, when it is given up.

Pure: times come in, a time goes out; randomness comes in as a number from 0 to 1. Refuses to know why an attempt
failed. All times are UTC epoch seconds, `first_at` the moment a message could first be sent: when it was accepted, or
when FUTURERELEASE (RFC 4865) lets it go.

With the defaults and nobody answering a message is tried 27 times in its five days: at once, after 1, 6, 21 and 51
minutes, after 1:51, 3:51 and 7:51 hours, then every six hours, and at the end of the fifth day once more; 25 to 29
times with jitter. A delay notice that is wanted adds one: a last try before the sender is told.
"""

from dataclasses import dataclass
from typing import Final

from pochta.errors import SetupError

# A host that does not answer costs a timeout of minutes for each attempt; it is left alone for so long after its n-th
# failure in a row, whoever has mail for it. Half an hour is what RFC 5321 §4.5.4.1 wants between attempts in general.
BACK_OFF_S: Final = (60, 120, 300, 600, 900, 1800)

# Messages that failed together (a host that was down) do not come back together: a tenth to either side spreads those
# of a six-hour interval over 72 minutes, and those of a minute over 12 seconds.
JITTER: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The intervals between attempts, and how long both the sender and we are patient.

    `intervals_s[n - 1]` is waited after the n-th attempt, `then_every_s` when there are no more. `jitter`: the share of
    an interval by which it may be shorter or longer. `delay_notice_s` 0: no delay notices.

    Raises:
        SetupError: a value makes no sense.
    """

    # RFC 5321 §4.5.4.1: the retry algorithm is configurable. Half an hour in general, more variable where it is better:
    # greylisting lets pass after 1 to 5 minutes, and a restart is over in 15.
    intervals_s: tuple[int, ...] = (60, 300, 900, 1800, 3600, 7200, 14400)
    then_every_s: int = 21600
    jitter: float = JITTER
    delay_notice_s: int = 14400
    # RFC 5321 §4.5.4.1: 4 to 5 days at least
    give_up_s: int = 432000

    def __post_init__(self) -> None:
        if min((*self.intervals_s, self.then_every_s)) < 1:
            raise SetupError("an interval between attempts must be at least a second")
        if not 0 <= self.jitter < 1:
            raise SetupError("jitter must be at least 0 and less than 1")
        if min(self.delay_notice_s, self.give_up_s) < 0:
            raise SetupError("a time after which to notify or to give up must not be negative")


def next_attempt(
    schedule: Schedule,
    attempts: int,
    *,
    first_at: int,
    now: int,
    random: float,
    deliver_by_at: int | None = None,
    notice_at: int | None = None,
) -> int:
    """When to try after `attempts` attempts, the last of them now; never after `expires_at`.

    The last attempt is made at that moment; after it the message `has_expired`, and that is to be asked first.
    `deliver_by_at`: as for `expires_at`. `notice_at`: `delay_notice_at` of a notice that is wanted and has not been
    sent; the interval that it falls into ends there, so that the notice is on time and tells of a fresh attempt.
    """
    expires = expires_at(schedule, first_at=first_at, deliver_by_at=deliver_by_at)
    if attempts == 0:
        return min(max(now, first_at), expires)
    interval_s = schedule.intervals_s[attempts - 1] if attempts <= len(schedule.intervals_s) else schedule.then_every_s
    due = now + max(1, _spread(interval_s, schedule.jitter, random))
    if notice_at is not None and notice_at > now:
        due = min(due, notice_at)
    return min(due, expires)


def expires_at(schedule: Schedule, *, first_at: int, deliver_by_at: int | None = None) -> int:
    """When the message is given up. `deliver_by_at`: of DELIVERBY with mode R; with mode N it shortens nothing.

    Source: RFC 2852 §4; RFC 5321 §4.5.4.1.
    """
    give_up_at = first_at + schedule.give_up_s
    return give_up_at if deliver_by_at is None else min(give_up_at, deliver_by_at)


def has_expired(schedule: Schedule, *, first_at: int, now: int, deliver_by_at: int | None = None) -> bool:
    """Whether an attempt that failed now was the last one."""
    return now >= expires_at(schedule, first_at=first_at, deliver_by_at=deliver_by_at)


def delay_notice_at(schedule: Schedule, *, first_at: int, notify_by_at: int | None = None) -> int | None:
    """When the sender is to hear that the message still waits, None for never. `notify_by_at`: of DELIVERBY, mode N."""
    if not schedule.delay_notice_s:
        return notify_by_at
    usual = first_at + schedule.delay_notice_s
    return usual if notify_by_at is None else min(usual, notify_by_at)


def is_delay_notice_due(
    schedule: Schedule,
    *,
    first_at: int,
    now: int,
    deliver_by_at: int | None = None,
    notify_by_at: int | None = None,
) -> bool:
    """Whether, after an attempt that failed now, a delay notice that was not sent before is to be sent.

    Not at the end: then the failure is what there is to tell.
    """
    notice_at = delay_notice_at(schedule, first_at=first_at, notify_by_at=notify_by_at)
    has_ended = has_expired(schedule, first_at=first_at, now=now, deliver_by_at=deliver_by_at)
    return notice_at is not None and now >= notice_at and not has_ended


def back_off(failures: int, random: float) -> int:
    """How many seconds to leave a host alone that could not be reached `failures` times in a row; 0 for none.

    RFC 5321 §4.5.4.1: a list of hosts that cannot be reached, rather than each of their messages tried.
    """
    if failures < 1:
        return 0
    return _spread(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1], JITTER, random)


def _spread(interval_s: int, jitter: float, random: float) -> int:
    return round(interval_s * (1 + jitter * (2 * random - 1)))
