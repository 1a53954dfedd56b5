"""The base subject of RFC 5256."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.mime.subject import MAX_BASE_SUBJECT, base_subject, base_subject_of_text

SUBJECTS = [
    pytest.param(b"Hello", "Hello", id="plain"),
    pytest.param(b"Re: Hello", "Hello", id="re"),
    pytest.param(b"RE: re: Fwd: FW: Hello", "Hello", id="many"),
    pytest.param(b"Re [2]: Hello", "Hello", id="re-with-blob"),
    pytest.param(b"[list] Re: [list] Hello", "Hello", id="blobs"),
    pytest.param(b"Hello (fwd) (FWD)", "Hello", id="trailers"),
    pytest.param(b"[Fwd: Re: Hello]", "Hello", id="fwd-brackets"),
    pytest.param(b"[only]", "[only]", id="blob-alone-stays"),
    pytest.param(b"[a][b]", "[b]", id="last-blob-stays"),
    pytest.param(b"Re: [fwd: [fwd: x (fwd)]]", "x", id="nested"),
    pytest.param(b"a\t b\r\n  c", "a b c", id="white-space"),
    pytest.param(b"=?utf-8?q?Re=3A?= =?utf-8?q?_x?=", "x", id="encoded-prefix"),
    pytest.param(b"Rest: x", "Rest: x", id="re-is-a-word"),
    pytest.param(b"Re:", "", id="nothing-left"),
    pytest.param(b"(fwd)", "", id="trailer-alone"),
]  # fmt: skip


@pytest.mark.rfc(5256, "2.1")
@pytest.mark.parametrize(("raw", "want"), SUBJECTS)
def test_base_subject(raw: bytes, want: str) -> None:
    assert base_subject(raw) == want


@given(st.text("re:fwd []()x\t", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_a_subject_that_stays_one(text: str) -> None:
    got = base_subject_of_text(text)
    assert base_subject_of_text(got) == got


def test_is_bounded() -> None:
    for piece in ("[", "re ", "re: ", "[fwd: ", "(fwd)", "[a]", "re["):
        assert len(base_subject_of_text(piece * 100_000)) <= MAX_BASE_SUBJECT
