"""Messages with planted senders, subjects and words, and the mailbox that is known to answer for them."""

import itertools
from email import message_from_bytes
from email.policy import default as policy

import pytest

from measure.planted import SENDERS, SUBJECTS, WORDS, Model, imap_date, plant, received_day

MESSAGE = (
    b"Received: from a by b;\r\n\tSun, 01 Jan 2023 00:00:00 +0000\r\n"
    b"From: =?utf-8?B?0JDQvdC90LA=?=\r\n =?utf-8?B?INCR?= <anna@example.ru>\r\nTo: u0@bench.test\r\n"
    b"Subject: Re: =?koi8-r?B?19PUxp7B?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\nfrom: somebody\r\nthe text\r\n"
)


@pytest.mark.parametrize("number", [0, 7, 131])
def test_planting(number: int) -> None:
    made = message_from_bytes(plant(MESSAGE, number), policy=policy)
    sender = made["From"].addresses[0]
    assert sender.display_name.endswith(SENDERS[number % 25])
    assert sender.display_name.startswith("Анна")
    assert sender.username == f"{SENDERS[number % 25].lower()}{number % 97}"
    assert made["Subject"].startswith(f"Re: {SUBJECTS[number % 20]} ")
    assert made.get_content() == f"the {WORDS[number % 50]} again\r\nfrom: somebody\r\nthe text\r\n"


def test_planting_needs_a_sender() -> None:
    with pytest.raises(ValueError, match="without From"):
        plant(b"To: a@example.org\r\n\r\n", 1)


def test_nothing_planted_is_part_of_another() -> None:
    values = [one.lower() for one in (*SENDERS, *SUBJECTS, *WORDS)]
    assert (len(SENDERS), len(SUBJECTS), len(WORDS)) == (25, 20, 50)
    assert not [pair for pair in itertools.permutations(values, 2) if pair[0] in pair[1]]


def test_the_model_keeps_its_size_and_counts() -> None:
    model = Model(range(100), [True] * 100)
    assert model.planted(SENDERS, 3) == 4
    assert model.unseen == 0
    before = list(model.numbers)
    change = model.next_change()
    assert change.becomes_seen is False
    assert len(model) == 100
    assert model.numbers == [one for one in [*before, change.new] if one != [*before, change.new][change.gone - 1]]
    assert model.unseen == (1 if change.flip == change.gone else 2)
    assert model.planted(SENDERS, change.new) == sum(one % 25 == change.new % 25 for one in model.numbers)


def test_changes_go_on_and_are_others() -> None:
    model = Model(range(1000), [False] * 1000)
    changes = [model.next_change() for _ in range(50)]
    assert [one.new for one in changes] == list(range(1000, 1050))
    assert len({one.gone for one in changes}) == len({one.flip for one in changes}) == 50


def test_days() -> None:
    assert imap_date(received_day(0)) == b"1-Jan-2023"
    assert imap_date(received_day(144)) == b"2-Jan-2023"
    model = Model(range(288), [False] * 288)
    assert model.since(received_day(144)) == 144
    assert model.day_at(0.6) == received_day(172)
