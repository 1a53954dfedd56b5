"""LIST's wildcards against a plain matcher, and in linear time. RFC 3501 6.3.8."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.servers.imap.mailboxes.listing import pattern_of


def matches(pattern: str, name: str) -> bool:
    """The meaning of the wildcards, place by place: which prefixes of `name` the pattern so far can stand for."""
    ends = {0}
    for char in pattern:
        if char == "*":
            ends = set(range(min(ends, default=len(name) + 1), len(name) + 1))
        elif char == "%":
            reached = set(ends)
            for end in ends:
                while end < len(name) and name[end] != "/":
                    end += 1
                    reached.add(end)
            ends = reached
        else:
            ends = {end + 1 for end in ends if name[end : end + 1] == char}
    return len(name) in ends


@pytest.mark.rfc(3501, "6.3.8")
@settings(max_examples=1500)
@given(pattern=st.text("ab/*%", max_size=10), name=st.text("ab/", max_size=12))
def test_wildcards(pattern: str, name: str) -> None:
    assert (pattern_of("", pattern).fullmatch(name) is not None) is matches(pattern, name)


@pytest.mark.parametrize("pattern", ["*a" * 40 + "*b", "%a" * 40 + "%b", "*%a" * 20 + "b", "*a%a" * 20 + "%b"])
@pytest.mark.timeout(20)
def test_no_pattern_is_slow(pattern: str) -> None:
    level = "a" * 255
    assert pattern_of("", pattern).fullmatch("/".join([level] * 32)) is None
    assert pattern_of("", pattern).fullmatch(level) is None


def test_inbox_in_any_case() -> None:
    assert pattern_of("", "inbox").fullmatch("INBOX")
    assert pattern_of("", "iNbOx*").fullmatch("INBOX/sub")
    assert not pattern_of("", "inboxes").fullmatch("INBOXES")
