"""FUZZY: the words of a text in any order, without regard to diacritics, and how well a message matches.

A message that the key itself matches scores highest; one that holds every word somewhere scores less; texts of fields
count for more than texts of messages. Keys that name no text mean exactly what they say (RFC 6203 §5). The scores of
several fuzzy keys are averaged. No stemming and no list of mistakes: what is found can be seen in the message.

Source: RFC 6203 §3, §4, §5.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from pochta.mime.core import FieldSelection, select_fields
from pochta.mime.fold import fold_field, loosened
from pochta.mime.header import split_fields
from pochta.mime.searched import FIELD_BYTES, field_text
from pochta.servers.imap.search.facts import Facts
from pochta.servers.imap.search.steps import Cost, Places, Step

WORDS_MAX: Final = 16  # of one key; more words narrow nothing down
WORDS_IN_COMMAND: Final = 128  # each is a text to look for in every message; keys beyond them are taken at their word

EXACT: Final = 100
FIELD_WORDS: Final = 80
TEXT_EXACT: Final = 75
TEXT_WORDS: Final = 50

_WORD: Final = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    """The first words of the text, folded, without diacritics."""
    return tuple(dict.fromkeys(_WORD.findall(loosened(fold_field(text)))))[:WORDS_MAX]


def _score(facts: Facts, at: int, score: int) -> None:
    known = facts.scores.get(at)
    facts.scores[at] = score if known is None else (known + score) // 2


class Scored:
    """A key that has no fuzzy meaning: what matches it matches wholly."""

    __slots__ = ("_step", "cost")

    def __init__(self, step: Step) -> None:
        self._step = step
        self.cost: Cost = step.cost

    async def match(self, facts: Facts, among: Places) -> Places:
        found = await self._step.match(facts, among)
        for at in found:
            _score(facts, at, EXACT)
        return found


@dataclass(frozen=True, slots=True)
class FuzzyText:
    """BODY or TEXT; the needle of the text itself and those of its words, by number, as bits."""

    whole: int
    words: int
    cost: Cost = Cost.TEXT

    async def match(self, facts: Facts, among: Places) -> Places:
        masks = await facts.masks(among)
        found: set[int] = set()
        for at in among - facts.lost:
            if masks[at] & self.whole:
                _score(facts, at, TEXT_EXACT)
            elif masks[at] & self.words == self.words:
                _score(facts, at, TEXT_WORDS)
            else:
                continue
            found.add(at)
        return found


@dataclass(frozen=True, slots=True)
class FuzzyHeader:
    """A header field; `selection` when header cores hold it. Of a long one its first FIELD_BYTES are looked at."""

    name: bytes
    folded: str
    words: tuple[str, ...]
    selection: FieldSelection | None
    cost: Cost = Cost.CORE

    async def match(self, facts: Facts, among: Places) -> Places:
        found: set[int] = set()
        async for at, header in self._headers(facts, among):
            texts = [
                field_text(value[:FIELD_BYTES]) for _, name, value in split_fields(header) if name.lower() == self.name
            ]
            if any(self.folded in text for text in texts):
                _score(facts, at, EXACT)
                found.add(at)
            elif any(all(word in loose for word in self.words) for loose in map(loosened, texts)):
                _score(facts, at, FIELD_WORDS)
                found.add(at)
            await facts.pace.turn()
        return found

    async def _headers(self, facts: Facts, among: Places) -> AsyncIterator[tuple[int, bytes]]:
        """What of the header holds the field, of each message that is not lost."""
        unknown = among
        if self.selection is not None:
            cores = await facts.cores(among)
            unknown = set()
            for at in among - facts.lost:
                lines = select_fields(cores[at], self.selection)
                if lines is None:
                    unknown.add(at)
                else:
                    yield at, lines
        if unknown:
            async for at, header in facts.headers(unknown):
                yield at, header
