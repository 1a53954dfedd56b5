"""When a message has to wait, when there is an alarm, when an account is stopped; and what each is told."""

from dataclasses import replace

import pytest
from accounts_harness import NOW, Accounts
from hypothesis import given
from hypothesis import strategies as st

from pochta.accounts import sending
from pochta.accounts.sending import Alarm, Charge, SendingLimits
from pochta.errors import Refusal, RefusalCode

NONE = SendingLimits(0, 0, 0, 0, 0)
START = NOW - NOW % 3600  # of an hour
HOUR = 3600


@pytest.fixture
def anna(accounts: Accounts) -> int:
    accounts.domain()
    return accounts.account("anna@example.org")


def send(
    accounts: Accounts, anna: int, count: int, limits: SendingLimits, at: int = START, prefix: str = "n"
) -> Charge | str:
    """What became of a message to so many; the text of the refusal."""
    try:
        return accounts.write(sending.charge, anna, [f"{prefix}{n}@x.example" for n in range(count)], limits, at)
    except Refusal as refusal:
        return refusal.text if refusal.code is RefusalCode.LIMIT else refusal.code


TAKEN = Charge("anna@example.org", 0, None, None)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (replace(NONE, messages_per_hour=2), "too many messages in one hour; try again in 23 minutes"),
        (replace(NONE, recipients_per_hour=7), "too many recipients in one hour; try again in 23 minutes"),
        (replace(NONE, messages_per_day=2), "too many messages in one day; try again in 24 hours"),
        (replace(NONE, recipients_per_day=7), "too many recipients in one day; try again in 24 hours"),
    ],
    ids=["messages-hour", "recipients-hour", "messages-day", "recipients-day"],
)
def test_crossing_waits_until_there_is_room(accounts: Accounts, anna: int, limits: SendingLimits, told: str) -> None:
    send(accounts, anna, 3, NONE, START - 30 * HOUR)  # known, and long ago
    quiet = replace(limits, alarm_share=2.0)
    for _ in range(2):
        assert send(accounts, anna, 3, quiet) == TAKEN
    at = START + 37 * 60 + 1
    assert send(accounts, anna, 3, quiet, at) == told
    full_until = START + (24 if "day" in told else 1) * HOUR
    assert send(accounts, anna, 3, quiet, full_until - 1) == told.partition("try")[0] + "try again in 1 minute"
    assert send(accounts, anna, 3, quiet, full_until) == TAKEN


def test_wait_is_until_enough_of_the_day_has_passed(accounts: Accounts, anna: int) -> None:
    limits = replace(NONE, recipients_per_day=10, alarm_share=2.0)
    for hour, count in ((0, 2), (5, 5), (9, 3)):
        assert isinstance(send(accounts, anna, count, limits, START + hour * HOUR), Charge)
    at = START + 10 * HOUR
    for count, hours in ((1, 14), (2, 14), (3, 19), (7, 19), (8, 23), (10, 23)):
        assert send(accounts, anna, count, limits, at) == f"too many recipients in one day; try again in {hours} hours"


def test_more_than_ever_fits_is_told_apart(accounts: Accounts, anna: int) -> None:
    told = "too many recipients for one hour; send to fewer"
    assert send(accounts, anna, 8, replace(NONE, recipients_per_hour=7)) == told
    told = "too many recipients you never wrote to before for one day; send to fewer"
    assert send(accounts, anna, 8, replace(NONE, strangers_per_day=7)) == told


def test_only_strangers_count_as_strangers(accounts: Accounts, anna: int) -> None:
    limits = replace(NONE, strangers_per_day=5, alarm_share=2.0, stolen_share=2.0)
    assert send(accounts, anna, 5, limits) == TAKEN._replace(strangers=5)
    for _ in range(3):
        assert send(accounts, anna, 5, limits) == TAKEN
    told = "too many recipients you never wrote to before in one day; try again in 24 hours"
    assert send(accounts, anna, 6, limits) == told
    assert send(accounts, anna, 6, limits, START + 24 * HOUR) == TAKEN._replace(strangers=1)


def test_one_is_asked_before_its_recipients_are_known(accounts: Accounts, anna: int) -> None:
    limits = replace(NONE, messages_per_hour=2, recipients_per_hour=7)

    def told(count: int) -> str | None:
        refusal = accounts.read(sending.would_exceed, anna, count, limits, START)
        return None if refusal is None else refusal.text

    assert (told(0), told(7), told(8)) == (None, None, "too many recipients for one hour; send to fewer")
    send(accounts, anna, 5, limits)
    assert (told(0), told(2), told(3)) == (None, None, "too many recipients in one hour; try again in 60 minutes")
    send(accounts, anna, 1, limits)
    assert told(0) == "too many messages in one hour; try again in 60 minutes"
    accounts.write(sending.stop, anna, "why")
    assert told(0) == (
        "sending is stopped for anna@example.org; the administrator may allow it with:"
        " pochta account release anna@example.org"
    )


@pytest.mark.parametrize(
    ("limits", "alarm"),
    [
        (replace(NONE, messages_per_day=10), Alarm("messages", 5, 10)),
        (replace(NONE, recipients_per_day=30), Alarm("recipients", 15, 30)),
        (replace(NONE, strangers_per_day=30), Alarm("strangers", 15, 30)),
        (NONE, None),
        (replace(NONE, strangers_per_day=30, alarm_share=0.51), None),
    ],
    ids=["messages", "recipients", "strangers", "no-limits", "share"],
)
def test_alarm_is_told_once(accounts: Accounts, anna: int, limits: SendingLimits, alarm: Alarm | None) -> None:
    found = [send(accounts, anna, 3, limits, START + n * HOUR, str(n)) for n in range(5)]
    found.append(send(accounts, anna, 3, limits, START + 6 * HOUR, "0"))
    alarms = [one.alarm for one in found if isinstance(one, Charge)]
    assert alarms[4] == alarm
    assert alarms[:4] + alarms[5:] == [None] * 5


def bursts(accounts: Accounts, anna: int, count: int, messages: int, every_s: int, limits: SendingLimits) -> str | None:
    """Why the account was stopped by so many messages, each to `count` new addresses."""
    for number in range(messages):
        found = send(accounts, anna, count, limits, START + 1800 + number * every_s, f"{number}.")
        if isinstance(found, Charge) and found.stopped:
            return found.stopped
    return None


@pytest.mark.parametrize(
    ("count", "messages", "every_s", "is_stopped"),
    [
        (20, 30, 60, True),  # what a stolen account looks like
        (1, 500, 10, True),  # one at a time
        (375, 1, 60, False),  # an invitation to everybody
        (95, 5, 60, False),  # in a few letters
        (10, 49, 3600, False),  # a busy day of somebody who writes to many
        (3, 100, 60, False),  # below what a day allows
    ],
    ids=["burst", "singly", "invitation", "letters", "slowly", "few"],
)
def test_what_looks_stolen_is_stopped(
    accounts: Accounts, anna: int, count: int, messages: int, every_s: int, is_stopped: bool
) -> None:
    assert (bursts(accounts, anna, count, messages, every_s, SendingLimits()) is not None) == is_stopped
    assert accounts.read(sending.is_stopped, anna) == is_stopped


def test_stop_is_seen_over_the_turn_of_an_hour(accounts: Accounts, anna: int) -> None:
    told = bursts(accounts, anna, 10, 50, 90, SendingLimits())
    assert told == "looks stolen: 380 recipients never written to before, in 38 messages within two hours"


def test_much_mail_to_known_people_is_never_stopped(accounts: Accounts, anna: int) -> None:
    send(accounts, anna, 400, SendingLimits(), START - 30 * HOUR)
    limits = replace(SendingLimits(), recipients_per_hour=0, recipients_per_day=0)
    for n in range(50):
        charge = send(accounts, anna, 400, limits, START + n)
        assert isinstance(charge, Charge)
        assert (charge.strangers, charge.stopped) == (0, None)


def test_alarm_and_stop_are_announced(events: list[str]) -> None:
    sending.announce(TAKEN)
    assert events == []
    sending.announce(Charge("anna@example.org", 5, Alarm("strangers", 300, 500), None))
    sending.announce(Charge("anna@example.org", 5, None, "looks stolen"))
    assert [line.split(" ", 1)[1] for line in events] == [
        "account.sending.alarm account=anna@example.org what=strangers counted=300 limit=500\n",
        'account.sending.stopped account=anna@example.org reason="looks stolen"\n',
    ]


@given(st.text(max_size=20), st.text(max_size=20))
def test_hash_is_of_the_address_and_fits_a_column(one: str, other: str) -> None:
    found = sending.address_hash(one)
    assert -(1 << 63) <= found < 1 << 63
    assert (found == sending.address_hash(other)) == (one == other)
