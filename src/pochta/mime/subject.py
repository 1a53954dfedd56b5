"""The base subject of a message, by which SORT orders and THREAD groups. Source: RFC 5256 §2.1."""

import re

from pochta.mime.decode import decode_words

# RFC 5322 §2.1.1: one full line; bounds the work of the repeated stripping below (998² steps of a pattern, 2 ms).
MAX_BASE_SUBJECT = 998
# That many characters, each in an encoded word of its own.
_MAX_RAW = 32 * 1024

_BLOB = r"\[[^\[\]]*+\] *+"
_REFWD = rf"(?:re|fwd?) *+(?:{_BLOB})?:"
_LEADER = re.compile(rf"((?>(?:{_BLOB})*){_REFWD})| ++", re.IGNORECASE)
_ONE_BLOB = re.compile(_BLOB)
_TRAILER = "(fwd)"


def base_subject_and_kind(value: bytes) -> tuple[str, bool]:
    """`base_subject` and `is_reply` in one pass."""
    return _take_apart(decode_words(value[:_MAX_RAW]))


def base_subject(value: bytes) -> str:
    """The base subject of a Subject field's raw body, casing kept, at most MAX_BASE_SUBJECT characters.

    Source: RFC 5256 §2.1.
    """
    return base_subject_of_text(decode_words(value[:_MAX_RAW]))


def base_subject_of_text(subject: str) -> str:
    """As `base_subject`, from text that is already decoded."""
    return _take_apart(subject)[0]


def is_reply(value: bytes) -> bool:
    """Whether a Subject field's raw body marks a reply or a forward: the extraction takes more than blobs away.

    Source: RFC 5256 §3, THREAD=REFERENCES.
    """
    return _take_apart(decode_words(value[:_MAX_RAW]))[1]


def _take_apart(subject: str) -> tuple[str, bool]:
    """(base subject, whether a "re:", "fwd:", "(fwd)" or "[fwd: ]" was taken away)."""
    text = " ".join(subject[: MAX_BASE_SUBJECT * 2].split())[:MAX_BASE_SUBJECT]
    is_marked = False
    while True:
        # RFC 5256 §2.1 step 2: trailers first, as often as there are some
        text = text.rstrip(" ")
        while text[-5:].lower() == _TRAILER:
            text = text[:-5].rstrip(" ")
            is_marked = True
        start, has_leader = _leader_end(text)
        text = text[start:]
        is_marked = is_marked or has_leader
        # step 6: "[fwd: … ]" as a whole, then again from step 2
        if text[:5].lower() == "[fwd:" and text[-1:] == "]":
            text = text[5:-1]
            is_marked = True
            continue
        return text, is_marked


def _leader_end(text: str) -> tuple[int, bool]:
    """Where the subject begins behind leaders and blobs, and whether one was a leader (RFC 5256 §2.1 steps 3 to 5)."""
    at = 0
    has_leader = False
    while True:
        match = _LEADER.match(text, at)
        if match:
            at = match.end()
            has_leader = has_leader or match[1] is not None
            continue
        match = _ONE_BLOB.match(text, at)
        if match and match.end() < len(text):
            at = match.end()
            continue
        return at, has_leader
