"""The one way in which text becomes comparable: for SEARCH, SORT, THREAD and the text index.

Text is compared after NFKD and case folding: i;unicode-casemap (RFC 5051) with folding in place of titlecase mapping,
which equates a little more (ß and ss, ﬁ and fi). As there, letters with diacritics are decomposed and the diacritics
count: `ёлка` is not `елка`. In header fields each run of white space counts as one space, because folding changes it on
the way.

Source: RFC 5051 §2.
"""

import re
from collections.abc import Iterator
from typing import Final
from unicodedata import combining, normalize

FOLD_CHARS: Final = 256  # normalised at once: sorting combining characters is quadratic, 32 K of them took 800 ms
COMBINING_MAX: Final = 32  # Unicode's Stream-Safe Text Format allows 30 in a row

_DIACRITICS: Final = re.compile("[\u0300-\u036f\u0483-\u0487\u1ab0-\u1aff\u1dc0-\u1dff]+")
_SPACES: Final = re.compile(r"[ \t\r\n]+")


def fold(text: str) -> str:
    """What is compared in place of `text`. 1 ns a character of ASCII, 10 ns of others."""
    if text.isascii():
        return text.lower()
    if len(text) <= FOLD_CHARS:
        # DEVIATES RFC 5051 §2: case folding in place of titlecase mapping: who looks for strasse means Straße, too
        return normalize("NFKD", text).casefold()
    return "".join([normalize("NFKD", piece) for piece in steps(text, FOLD_CHARS)]).casefold()


def fold_field(text: str) -> str:
    """As `fold`, with every run of white space as one space."""
    text = fold(text)
    if "\n" in text or "\t" in text or "  " in text or "\r" in text:
        return _SPACES.sub(" ", text)
    return text


def loosened(folded: str) -> str:
    """A folded text without its diacritics: what a fuzzy search compares. 1 ns a character of ASCII, 50 ns of others.

    Marks that are not diacritics of Latin, Greek or Cyrillic letters stay: in Indic scripts they are vowels.
    """
    return folded if folded.isascii() else _DIACRITICS.sub("", folded)


def steps(text: str, size: int) -> Iterator[str]:
    """The text in pieces of about `size` characters, cut where no character combines with the one before it."""
    if len(text) <= size:
        yield text
        return
    at = 0
    while at < len(text):
        stop = edge(text, at + size)
        yield text[at:stop]
        at = stop


def edge(text: str, at: int) -> int:
    """The first place from `at` on where the text may be cut: no character combines with the one before it."""
    limit = min(len(text), at + COMBINING_MAX)
    while at < limit and combining(text[at]):
        at += 1
    return at
