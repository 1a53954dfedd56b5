"""The base subject of a message, by which SORT orders and THREAD groups. Source: RFC 5256 §2.1."""

import re

from pochta.mime.decode import decode_words

# RFC 5322 §2.1.1: one full line; bounds the work of the repeated stripping below (998² steps of a pattern, 2 ms).
MAX_BASE_SUBJECT = 998
# That many characters, each in an encoded word of its own.
_MAX_RAW = 32 * 1024

_BLOB = r"\[[^\[\]]*+\] *+"
_REFWD = rf"(?:re|fwd?) *+(?:{_BLOB})?:"
_LEADER = re.compile(rf"(?>(?:{_BLOB})*){_REFWD}| ++", re.IGNORECASE)
_ONE_BLOB = re.compile(_BLOB)
_TRAILER = "(fwd)"


def base_subject(value: bytes) -> str:
    """The base subject of a Subject field's raw body, casing kept, at most MAX_BASE_SUBJECT characters.

    Source: RFC 5256 §2.1.
    """
    return base_subject_of_text(decode_words(value[:_MAX_RAW]))


def base_subject_of_text(subject: str) -> str:
    """As `base_subject`, from text that is already decoded."""
    text = " ".join(subject[: MAX_BASE_SUBJECT * 2].split())[:MAX_BASE_SUBJECT]
    while True:
        # RFC 5256 §2.1 step 2: trailers first, as often as there are some
        text = text.rstrip(" ")
        while text[-5:].lower() == _TRAILER:
            text = text[:-5].rstrip(" ")
        start = _leader_end(text)
        text = text[start:]
        # step 6: "[fwd: … ]" as a whole, then again from step 2
        if text[:5].lower() == "[fwd:" and text[-1:] == "]":
            text = text[5:-1]
            continue
        return text


def _leader_end(text: str) -> int:
    """Where the subject begins behind leaders and blobs (RFC 5256 §2.1 steps 3 to 5)."""
    at = 0
    while True:
        match = _LEADER.match(text, at)
        if match:
            at = match.end()
            continue
        match = _ONE_BLOB.match(text, at)
        if match and match.end() < len(text):
            at = match.end()
            continue
        return at
