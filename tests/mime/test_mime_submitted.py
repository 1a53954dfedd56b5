"""The header of a submitted message: what is added, removed, and left as it stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.mime.submitted import MAX_HEADER_BYTES, SubmittedHeader

DATE, ID, AUTHOR = "Mon, 23 Nov 2026 12:00:00 +0000", "<1@mail.example.org>", "anna@example.org"
ADDED_DATE, ADDED_ID = f"Date: {DATE}\r\n".encode(), f"Message-ID: {ID}\r\n".encode()
ADDED_FROM = b"From: <anna@example.org>\r\n"


def new(author: str = AUTHOR) -> SubmittedHeader:
    return SubmittedHeader(date=DATE, message_id=ID, author=author)


def sent(message: bytes, author: str = AUTHOR) -> bytes:
    header = new(author)
    return header.feed(message) + header.finish()


@pytest.mark.rfc(5322, "3.6.3")
@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        pytest.param(
            b"From: anna@example.org\r\nDate: x\r\nMessage-Id: <y>\r\nSubject: s\r\n\r\nbody\r\n",
            b"From: anna@example.org\r\nDate: x\r\nMessage-Id: <y>\r\nSubject: s\r\n\r\nbody\r\n",
            id="nothing to do",
        ),
        pytest.param(
            b"From: anna@example.org\r\nSubject: s\r\n\r\nbody",
            ADDED_DATE + ADDED_ID + b"From: anna@example.org\r\nSubject: s\r\n\r\nbody",
            id="date and id are missing",
        ),
        pytest.param(
            b"To: b@example.org\r\nDATE : x\r\nmessage-id: <y>\r\n\r\n",
            ADDED_FROM + b"To: b@example.org\r\nDATE : x\r\nmessage-id: <y>\r\n\r\n",
            id="author is missing",
        ),
        pytest.param(
            b"bcc: c@example.org,\r\n d@example.org\r\nFrom: a@b\r\nDate: x\r\nMessage-ID: <y>\r\nReturn-Path: <z>\r\n"
            b"Resent-Bcc : e@example.org\r\n\tf@example.org\r\nBcc-Not: stays\r\n\r\nBcc: in the body\r\n",
            b"From: a@b\r\nDate: x\r\nMessage-ID: <y>\r\nBcc-Not: stays\r\n\r\nBcc: in the body\r\n",
            id="hidden recipients, folded, and the return path",
        ),
        pytest.param(
            b"Bcc: hidden@example.org\r\n\r\n", ADDED_DATE + ADDED_ID + ADDED_FROM + b"\r\n", id="nothing is left"
        ),
        pytest.param(b"", ADDED_DATE + ADDED_ID + ADDED_FROM + b"\r\n", id="empty"),
        pytest.param(b"\r\nbody\r\n", ADDED_DATE + ADDED_ID + ADDED_FROM + b"\r\nbody\r\n", id="no header"),
        pytest.param(
            b"Hello Anna,\r\nFrom: x\r\n\r\nmore\r\n",
            ADDED_DATE + ADDED_ID + ADDED_FROM + b"\r\nHello Anna,\r\nFrom: x\r\n\r\nmore\r\n",
            id="a body alone",
        ),
        pytest.param(b"Subject: s", ADDED_DATE + ADDED_ID + ADDED_FROM + b"Subject: s\r\n\r\n", id="cut in a field"),
    ],
)
def test_a_header_is_made_fit(message: bytes, wanted: bytes) -> None:
    assert sent(message) == wanted
    header = new()
    assert b"".join(header.feed(message[at : at + 1]) for at in range(len(message))) + header.finish() == wanted


@pytest.mark.parametrize(
    ("fields", "authors", "count"),
    [
        (b"From: Anna <anna@example.org>\r\n", (b"anna@example.org",), 1),
        (b'From: "b@c" <anna@example.org>, x@y\r\n', (b"anna@example.org", b"x@y"), 1),
        (b"From: =?utf-8?q?boss=40example=2Eorg?= <anna@example.org>\r\n", (b"anna@example.org",), 1),
        (b"From: group: a@b, c@d;\r\n", (b"a@b", b"c@d"), 1),
        (b"From: undisclosed:;\r\n", (), 1),
        (b"From:\r\n", (), 1),
        (b"From: a@b\r\nFROM : c@d\r\n", (b"a@b", b"c@d"), 2),
        (b"X: y\r\n", (b"anna@example.org",), 1),
    ],
)
def test_authors_are_told(fields: bytes, authors: tuple[bytes, ...], count: int) -> None:
    header = new()
    header.feed(fields + b"\r\n")
    assert (header.authors, header.from_fields) == (authors, count)


def test_a_null_sender_names_no_author() -> None:
    header = new(author="")
    assert header.feed(b"Subject: s\r\n\r\n") == ADDED_DATE + ADDED_ID + b"Subject: s\r\n\r\n"
    assert (header.authors, header.from_fields) == ((), 0)


@pytest.mark.parametrize("cut", [1000, MAX_HEADER_BYTES * 2])
def test_a_header_has_a_bound(cut: int) -> None:
    message = b"X: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n" + b"z" * 5000
    header = new()
    out = b"".join(header.feed(message[at : at + cut]) for at in range(0, len(message), cut)) + header.finish()
    assert (out, header.is_too_large) == (b"", True)


@given(
    st.lists(st.sampled_from([b"From: a@b", b"Bcc: c@d", b"\r\n", b"\r", b"\n", b" x", b":", b"Date: ", b"\xff\0"])),
    st.integers(1, 7),
)
def test_cuts_make_no_difference(pieces: list[bytes], cut: int) -> None:
    message = b"".join(pieces)
    header = new()
    out = b"".join(header.feed(message[at : at + cut]) for at in range(0, len(message), cut)) + header.finish()
    assert out == sent(message)
