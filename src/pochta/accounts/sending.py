"""How much an account may send, and when its sending looks like somebody else's.

Decides: what is counted, when a message has to wait, when an account is stopped by itself. Refuses to know: what the
message is, which protocol brought it, who is told of an alarm.

Theory of operation. `charge` runs in the transaction that accepts a message, after its recipients are known. It counts
the message, its recipients and, among those, strangers: addresses the account has never written to. Three things may
come of it, from mild to hard:

* **Wait.** A count over an hour or a day is full: `Refusal(LIMIT)` that says when there is room again, and nothing is
  stored. An hour is a clock hour, a day the last 24 of them; so up to twice an hour's limit can pass around a full
  hour, and the time to try again is one a person can be told.
* **Alarm.** A day's count passes `alarm_share` of its limit: the message is taken, `Charge.alarm` says so.
* **Stop.** The sending looks stolen: within this clock hour and the one before, the account wrote to `stolen_share` of
  a whole day's strangers, by at least `stolen_messages` messages. The message is taken, `Charge.stopped` says why, and
  every later one is refused until somebody releases the account. Why this rule: who guesses or steals a password sends
  much to addresses the owner never wrote to, and does it quickly, before the password is changed. A person who writes
  to many new people at once (an invitation, a newsletter by hand) does it in a few messages with many recipients, or
  slowly. The limits bound either; only quick, many and strange together stops.

The stop is taken by the very transaction that takes the message, for a refusal would roll it back with everything else.
What a refused message would have added is not counted: a mail program that tries again by itself makes nothing worse.

Invariants: what is refused leaves no trace; a stopped account sends nothing, whichever worker asks; after a release
counting begins anew, so that what stopped the account does not stop it again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from pochta import log
from pochta.accounts import edit
from pochta.errors import Refusal, RefusalCode
from pochta.store import sending
from pochta.store.sending import Hour
from pochta.store.tx import Tx

HOUR_S: Final = 3600
DAY_HOURS: Final = 24
STOLEN_HOURS: Final = 2  # this clock hour and the one before: a burst is seen whole wherever in the hour it begins
BY_HAND: Final = "by the administrator"


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """What one account may send; 0: no limit. A limit of strangers of 0 also turns off the stop.

    Precedents. Messages a day: Gmail 500, Google Workspace 2000, mox 1000. Recipients a day: Outlook.com 5000, Exchange
    Online 10 000. Strangers a day: Outlook.com 1000, mox 200. An hour has a quarter of a day, which also lets one
    message of 1000 recipients through.
    """

    messages_per_hour: int = 500
    messages_per_day: int = 2000
    recipients_per_hour: int = 1250
    recipients_per_day: int = 5000
    strangers_per_day: int = 500
    alarm_share: float = 0.5
    stolen_share: float = 0.75  # 375 strangers in two hours: three a minute
    stolen_messages: int = 20  # nobody spreads an invitation over twenty messages in two hours by hand


class Alarm(NamedTuple):
    """`what` (messages, recipients, strangers) of the last day have come to `counted` of `limit`."""

    what: str
    counted: int
    limit: int


class Charge(NamedTuple):
    """What became of a message that was counted; `announce` it once it is durable."""

    address: str
    strangers: int
    alarm: Alarm | None
    stopped: str | None


def address_hash(key: str) -> int:
    """An address as `correspondent` keeps it; `key`: `local@domain`, folded as `proto.address` does."""
    digest = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, person=b"correspondent").digest()
    return int.from_bytes(digest, signed=True)


def charge(tx: Tx, account_id: int, recipients: Sequence[str], limits: SendingLimits, now: int) -> Charge:
    """Count one message to these addresses (keys, `local@domain`), or refuse it before anything is stored.

    Two statements, one for each 64 recipients, one for each stranger; one or two more with the first message of an
    hour, one with a stop.

    Raises:
        Refusal: LIMIT, with when to try again; POLICY while the account is stopped; NO_PERMISSION when it is gone.
    """
    hour = now // HOUR_S
    address, stopped, hours = sending.standing(tx, account_id, hour - DAY_HOURS)
    if stopped is not None:
        raise stopped_refusal(address, stopped)
    hashes = sorted({address_hash(one) for one in recipients})
    refusal = _crossed(hours, len(hashes), limits, now)
    if refusal is not None:
        raise refusal
    known = sending.known(tx, account_id, hashes)
    strangers = [one for one in hashes if one not in known]
    refusal = _Limit("strangers", DAY_HOURS, limits.strangers_per_day).crossed(hours, len(strangers), now)
    if refusal is not None:
        raise refusal
    sending.add(tx, account_id, hour, len(hashes), strangers, now)
    if not hours or hours[-1].hour < hour:
        sending.trim_correspondents(tx, account_id)
    after = (*hours, Hour(hour, 1, len(hashes), len(strangers)))
    reason = _looks_stolen(after, limits, hour)
    if reason is not None:
        sending.set_stopped(tx, account_id, reason)
    return Charge(address, len(strangers), _alarm(hours, after, limits), reason)


def would_exceed(tx: Tx, account_id: int, count: int, limits: SendingLimits, now: int) -> Refusal | None:
    """Why a message to `count` recipients would be refused as far as that can be told without them: stopped, or too
    much. One statement. At MAIL with 0, at RCPT with those taken so far and this one.

    Raises:
        Refusal: NO_PERMISSION, the account is gone.
    """
    address, stopped, hours = sending.standing(tx, account_id, now // HOUR_S - DAY_HOURS)
    return stopped_refusal(address, stopped) if stopped is not None else _crossed(hours, count, limits, now)


def is_stopped(tx: Tx, account_id: int) -> bool:
    """Whether the account's sending is stopped. One statement."""
    return sending.stopped(tx, account_id) is not None


def stopped_refusal(address: str, reason: str) -> Refusal:
    """The lawful no to a sender whose account is stopped, which names what to do."""
    text = f"sending is stopped for {address}; the administrator may allow it with: pochta account release {address}"
    return Refusal(RefusalCode.POLICY, text, reason)


def stop(tx: Tx, account_id: int, reason: str) -> None:
    """Let the account send nothing more until it is released; signing in, reading and receiving go on.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    sending.set_stopped(tx, account_id, reason)


def stop_address(tx: Tx, address: str, reason: str) -> None:
    """As `stop`, by address; a reason that stands already stays.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    account = edit.account(tx, address)
    if account.sending_stopped is None:
        stop(tx, account.id, reason)


def release(tx: Tx, address: str) -> None:
    """Let the account send again, and count what it sends anew: its full limits are open at once.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    account_id = edit.account(tx, address).id
    sending.set_stopped(tx, account_id, None)
    sending.forget_counts(tx, account_id)


def announce(charge: Charge) -> None:
    """Log the alarm and the stop of a message that is durable now."""
    if charge.alarm is not None:
        what, counted, limit = charge.alarm
        log.event("account.sending.alarm", account=charge.address, what=what, counted=counted, limit=limit)
    if charge.stopped is not None:
        log.event("account.sending.stopped", account=charge.address, reason=charge.stopped)


class _Limit(NamedTuple):
    """At most `most` (0: any number) of a column of `Hour` within the last `hours`."""

    what: str
    hours: int
    most: int

    def crossed(self, rows: Collection[Hour], more: int, now: int) -> Refusal | None:
        """The refusal of `more` on top of `rows` (oldest first); None when there is room, or nothing is asked for."""
        if not self.most or not more:
            return None
        hour = now // HOUR_S
        counts = [(row.hour, int(getattr(row, self.what))) for row in rows if row.hour > hour - self.hours]
        used = left = sum(count for _, count in counts)
        if used + more <= self.most:
            return None
        detail = f"{self.what} in {self.hours} h: {used} and {more} more, limit {self.most}"
        span = "one hour" if self.hours == 1 else "one day"
        if more > self.most:
            return Refusal(RefusalCode.LIMIT, f"{_SHOWN[self.what]} for {span}; send to fewer", detail)
        free_at = now
        for row_hour, count in counts:
            left -= count
            if left + more <= self.most:
                free_at = (row_hour + self.hours) * HOUR_S
                break
        text = f"{_SHOWN[self.what]} in {span}; try again in {_shown_wait(free_at - now)}"
        return Refusal(RefusalCode.LIMIT, text, detail)


_SHOWN: Final = {
    "messages": "too many messages",
    "recipients": "too many recipients",
    "strangers": "too many recipients you never wrote to before",
}


def _crossed(hours: Sequence[Hour], recipients: int, limits: SendingLimits, now: int) -> Refusal | None:
    """The refusal of one more message to so many; a day first, for it takes longer."""
    for limit, more in (
        (_Limit("messages", DAY_HOURS, limits.messages_per_day), 1),
        (_Limit("recipients", DAY_HOURS, limits.recipients_per_day), recipients),
        (_Limit("messages", 1, limits.messages_per_hour), 1),
        (_Limit("recipients", 1, limits.recipients_per_hour), recipients),
    ):
        refusal = limit.crossed(hours, more, now)
        if refusal is not None:
            return refusal
    return None


def _alarm(before: Sequence[Hour], after: Sequence[Hour], limits: SendingLimits) -> Alarm | None:
    """The alarm of a day's count that has just passed its share; strangers first, for they tell most."""
    for what, most in (
        ("strangers", limits.strangers_per_day),
        ("recipients", limits.recipients_per_day),
        ("messages", limits.messages_per_day),
    ):
        counted = sum(getattr(row, what) for row in after)
        if most and sum(getattr(row, what) for row in before) < most * limits.alarm_share <= counted:
            return Alarm(what, counted, most)
    return None


def _looks_stolen(hours: Sequence[Hour], limits: SendingLimits, hour: int) -> str | None:
    """Why the sending looks stolen; the rule stands at the top."""
    burst = [row for row in hours if row.hour > hour - STOLEN_HOURS]
    strangers, messages = sum(row.strangers for row in burst), sum(row.messages for row in burst)
    most = limits.strangers_per_day * limits.stolen_share
    if not most or strangers < most or messages < limits.stolen_messages:
        return None
    return f"looks stolen: {strangers} recipients never written to before, in {messages} messages within two hours"


def _shown_wait(wait_s: int) -> str:
    """As people say it, never too short: `1 minute`, `23 minutes`, `5 hours`."""
    minutes = max(1, -(-wait_s // 60))
    number, unit = (minutes, "minute") if minutes < 120 else (-(-minutes // 60), "hour")
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
