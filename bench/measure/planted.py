"""Messages in which senders, subjects and rare words are planted evenly, and what a mailbox of them must answer.

Message number i has one of 25 senders, 20 subjects and 50 words, so that every repeat of a search can ask for another
one and the number of hits is known. None of them is part of another or of the text around.
"""

import datetime
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Family names that nobody else in the messages has
SENDERS = tuple(
    f"{front}{end}" for front in ("Abar", "Czer", "Oyel", "Petr", "Wysz") for end in ("osa", "win", "aran", "kas", "yn")
)
SUBJECTS = tuple(
    f"{place} {paper}"
    for place in ("harbour", "museum", "railway", "vineyard")
    for paper in ("ledger", "sketch", "notice", "survey", "permit")
)
WORDS = tuple(
    f"{front}{kind}"
    for front in ("zebra", "clown", "sword", "lantern", "velvet")
    for kind in ("fish", "ant", "worm", "wolf", "frog", "crab", "moth", "crow", "seal", "hare")
)
DAY_S = 86_400
STEP_S = 600  # from one message to the next, as mailbench numbers them
BEGAN_AT = 1_672_531_200  # 2023-01-01
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_EPOCH = datetime.date(1970, 1, 1)
_FROM = re.compile(rb"^From: .*\r\n(?:[ \t].*\r\n)*", re.MULTILINE)
_SUBJECT = re.compile(rb"^Subject: (?:Re: )?", re.MULTILINE)
_ENCODED_WORD = re.compile(rb"=\?[^?\s]+\?[BQ]\?[^?\s]*\?=")
_TEXT_BEGINS = b"Content-Transfer-Encoding: 8bit\r\n\r\n"


def plant(message: bytes, number: int) -> bytes:
    """The message with its sender's name replaced, its subject led by the planted one, its word in the first text.

    Encoded words of the old sender stay before the new name, so that they still have to be decoded.
    """
    sender = SENDERS[number % len(SENDERS)]
    old = _FROM.search(message)
    if old is None:
        raise ValueError("a message without From")
    encoded = b"".join(word + b"\r\n " for word in _ENCODED_WORD.findall(old[0]))
    line = b"From: %s%s <%s%d@example.org>\r\n" % (encoded, sender.encode(), sender.lower().encode(), number % 97)
    message = message[: old.start()] + line + message[old.end() :]
    subject = SUBJECTS[number % len(SUBJECTS)].encode()
    message = _SUBJECT.sub(lambda found: found[0] + subject + b" ", message, count=1)
    head, mark, text = message.partition(_TEXT_BEGINS)
    word = WORDS[number % len(WORDS)].encode()
    return head + mark + b"the " + word + b" again\r\n" + text


def received_day(number: int) -> int:
    """The day since 1970 on which message `number` was received."""
    return (BEGAN_AT + number * STEP_S) // DAY_S


def imap_date(day: int) -> bytes:
    """A day since 1970 as SEARCH takes it."""
    date = _EPOCH + datetime.timedelta(days=day)
    return b"%d-%s-%d" % (date.day, MONTHS[date.month - 1].encode(), date.year)


class Change(NamedTuple):
    """In this order: \\Seen set or cleared at a position, a message delivered unread, one expunged; counted from 1."""

    flip: int
    becomes_seen: bool
    new: int
    gone: int


class Model:
    """What a mailbox holds, in order: the number and the \\Seen flag of each message."""

    def __init__(self, numbers: Iterable[int], seen: Iterable[bool]) -> None:
        self.numbers = list(numbers)
        self.seen = list(seen)
        self._changes = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def next_change(self) -> Change:
        """Make the next change, whose places walk through the whole mailbox by steps that are large primes."""
        self._changes += 1
        count = len(self.numbers)
        flip = self._changes * 7919 % count + 1
        gone = self._changes * 104_729 % count + 1
        new = self.numbers[-1] + 1
        becomes_seen = self.seen[flip - 1] = not self.seen[flip - 1]
        self.numbers.append(new)
        self.seen.append(False)
        del self.numbers[gone - 1]
        del self.seen[gone - 1]
        return Change(flip, becomes_seen, new, gone)

    @property
    def unseen(self) -> int:
        """How many are not \\Seen."""
        return self.seen.count(False)

    def planted(self, values: Sequence[str], which: int) -> int:
        """How many have `values[which]` of SENDERS, SUBJECTS or WORDS."""
        kinds = len(values)
        return sum(1 for number in self.numbers if number % kinds == which % kinds)

    def since(self, day: int) -> int:
        """How many were received on that day or later."""
        return sum(1 for number in self.numbers if received_day(number) >= day)

    def day_at(self, share: float) -> int:
        """The day on which the message at that share of the mailbox was received."""
        return received_day(self.numbers[min(len(self.numbers) - 1, int(share * len(self.numbers)))])
