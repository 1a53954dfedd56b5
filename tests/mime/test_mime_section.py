"""BODY[…] sections, HEADER.FIELDS of headers and of header cores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_messages import MIXED, PLAIN, messages

from pochta.mime import core as core_module
from pochta.mime.core import CORE_FIELDS, INCOMPLETE, MAX_CORE, FieldSelection, header_core, select_fields
from pochta.mime.header import split_fields
from pochta.mime.parse import parse
from pochta.mime.section import SectionText, filter_fields, find_section, has_blank_line

INNER_HEADER = b"Subject: inner\r\nFrom: i@j.k\r\nContent-Type: multipart/mixed; boundary=zz\r\n\r\n"
GIF_HEADER = b"Content-Type: image/gif\r\nContent-Transfer-Encoding: base64\r\n\r\n"
RFC822_IN_ROOT = b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntext"
SECTIONS: list[object] = [
    pytest.param(PLAIN, (), None, PLAIN, id="whole"),
    pytest.param(PLAIN, (), "HEADER", PLAIN[: PLAIN.index(b"Hello")], id="header"),
    pytest.param(PLAIN, (), "TEXT", b"Hello\r\nBob\r\n", id="text"),
    pytest.param(PLAIN, (1,), None, b"Hello\r\nBob\r\n", id="part-1-of-single"),
    pytest.param(PLAIN, (1,), "MIME", PLAIN[: PLAIN.index(b"Hello")], id="mime-of-part-1-of-single"),
    pytest.param(PLAIN, (1,), "HEADER", None, id="no-header-of-text-part"),
    pytest.param(PLAIN, (1, 1), None, None, id="nothing-in-text"),
    pytest.param(PLAIN, (2,), None, None, id="no-part-2"),
    pytest.param(PLAIN, (0,), None, None, id="no-part-0"),
    pytest.param(PLAIN, (), "MIME", None, id="mime-needs-a-number"),
    pytest.param(MIXED, (1,), None, b"first\r\nsecond", id="1"),
    pytest.param(MIXED, (1,), "MIME", b"\r\n", id="1.mime"),
    pytest.param(MIXED, (2, 1), None, b"<p>one</p>", id="2.1"),
    pytest.param(MIXED, (2,), "TEXT", None, id="2.text-of-multipart"),
    pytest.param(MIXED, (3,), "MIME", b"Content-Type: message/rfc822\r\n\r\n", id="3.mime"),
    pytest.param(MIXED, (3,), "HEADER", INNER_HEADER, id="3.header"),
    pytest.param(MIXED, (3, 1), None, b"in", id="3.1"),
    pytest.param(MIXED, (3, 2), "MIME", GIF_HEADER, id="3.2.mime"),
    pytest.param(MIXED, (3, 3), None, None, id="3.3"),
    pytest.param(MIXED, (4,), None, None, id="4"),
    pytest.param(RFC822_IN_ROOT, (1,), None, b"Subject: in\r\n\r\ntext", id="root-rfc822-1"),
    pytest.param(RFC822_IN_ROOT, (1,), "HEADER", b"Subject: in\r\n\r\n", id="root-rfc822-1.header"),
    pytest.param(RFC822_IN_ROOT, (1, 1), None, b"text", id="root-rfc822-1.1"),
]  # fmt: skip


@pytest.mark.rfc(9051, "6.4.5.1")
@pytest.mark.parametrize(("message", "numbers", "text", "want"), SECTIONS)
def test_find_section(message: bytes, numbers: tuple[int, ...], text: SectionText | None, want: bytes | None) -> None:
    found = find_section(parse(message), numbers, text)
    assert (found if found is None else message[slice(*found)]) == want


HEADER = b"From: a\r\nX-Foo: 1\r\n\tfolded\r\nfrom : b\nnonsense\r\nSubject: s\r\n\r\n"


@pytest.mark.rfc(9051, "6.4.5.1")
def test_filter_fields() -> None:
    assert filter_fields(HEADER, [b"FROM", b"x-none"]) == b"From: a\r\nfrom : b\n\r\n"
    assert filter_fields(HEADER, [b"from"], negate=True) == b"X-Foo: 1\r\n\tfolded\r\nSubject: s\r\n\r\n"
    assert filter_fields(HEADER, []) == b"\r\n"
    assert filter_fields(b"A: b\r\n", [b"a"]) == b"A: b\r\n"


THUNDERBIRD = (
    b"From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type "
    b"Reply-To List-Unsubscribe"
).split()
CLIENTS = [
    pytest.param(THUNDERBIRD, id="thunderbird"),
    pytest.param(
        b"date subject from to cc message-id in-reply-to references content-type x-priority x-uniform-type-identifier "
        b"x-universally-unique-identifier list-id list-unsubscribe".split(),
        id="apple-mail",
    ),
    pytest.param(b"date subject from content-type to cc reply-to message-id references in-reply-to list-unsubscribe "
        b"sender x-k9mail-identity chat-version".split(), id="k-9"),
    pytest.param(
        b"DATE FROM SENDER SUBJECT TO CC MESSAGE-ID REFERENCES CONTENT-TYPE CONTENT-DESCRIPTION IN-REPLY-TO REPLY-TO "
        b"LINES LIST-POST LIST-SUBSCRIBE LIST-UNSUBSCRIBE X-LABEL X-ORIGINAL-TO".split(),
        id="mutt",
    ),
    pytest.param(b"From To Cc Subject Date Importance X-Priority X-MSMail-Priority Message-ID".split(), id="outlook"),
]  # fmt: skip


@pytest.mark.parametrize("names", CLIENTS)
def test_clients_are_answered_from_the_core(names: list[bytes]) -> None:
    header = (
        b"".join(b"%b: v%d\r\n folded\r\n" % (name, at) for at, name in enumerate((*CORE_FIELDS, b"x-other"))) + b"\r\n"
    )
    selection = FieldSelection.from_names(names)
    assert selection is not None
    core = header_core(split_fields(header))
    for _ in range(2):  # the second time from what the selection remembers
        assert select_fields(core, selection) == filter_fields(header, names)


def test_unknown_name_needs_the_message() -> None:
    assert FieldSelection.from_names([b"From", b"X-Other"]) is None


def test_large_core_is_incomplete() -> None:
    core = header_core([(b"To: " + b"x" * MAX_CORE, b"To", b"")])
    selection = FieldSelection.from_names([b"to"])
    assert core == INCOMPLETE
    assert selection is not None
    assert select_fields(core, selection) is None


_names = st.sampled_from([*CORE_FIELDS[:6], b"x-foo", b"x-bar"])
_values = st.sampled_from([b" v\r\n", b" v\r\n w\r\n", b"\n", b"v\x00\xff\r\n"])
_headers = st.lists(st.tuples(_names, _values), max_size=12).map(
    lambda fields: b"".join(name.upper() + b":" + value for name, value in fields)
)  # fmt: skip


@given(_headers, st.booleans(), st.sets(st.sampled_from(CORE_FIELDS[:6])))
@settings(max_examples=300, deadline=None)
def test_core_answers_what_the_header_answers(header: bytes, with_blank_line: bool, names: set[bytes]) -> None:
    if with_blank_line:
        header += b"\r\n"
    core = header_core(split_fields(header), has_blank_line=has_blank_line(header))
    selection = FieldSelection.from_names(names)
    assert selection is not None
    # RFC 3501 §9: what is sent from the core outside of literal8 has 0x80 in place of NUL
    assert select_fields(core, selection) == filter_fields(header, names).replace(b"\x00", b"\x80")


@given(messages, st.lists(st.integers(0, 4), max_size=3), st.sampled_from([None, "HEADER", "TEXT", "MIME"]))
@settings(max_examples=200, deadline=None)
def test_sections_lie_inside_the_message(message: bytes, numbers: list[int], text: SectionText | None) -> None:
    found = find_section(parse(message), tuple(numbers), text)
    if found is not None:
        assert 0 <= found[0] <= found[1] <= len(message)


@pytest.mark.rfc(3501, "9")
def test_nul_stays_in_sections_and_is_0x80_in_the_core() -> None:
    message = b"Subject: a\x00b\r\nX-Label: \x00\r\n\r\n\x00"
    root = parse(message)
    assert root.header == message[:-1]
    assert filter_fields(root.header, [b"subject"]) == b"Subject: a\x00b\r\n\r\n"
    core = header_core(split_fields(root.header))
    names = FieldSelection.from_names([b"subject", b"x-label"])
    assert names is not None
    assert select_fields(core, names) == b"Subject: a\x80b\r\nX-Label: \x80\r\n\r\n"


def test_orders_that_a_selection_remembers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "_MAX_REMEMBERED", 3)
    names = FieldSelection.from_names([b"subject"])
    assert names is not None
    for order in range(1, 9):
        header = b"To: a\r\n" * order + b"Subject: x\r\n\r\n"
        assert select_fields(header_core(split_fields(header)), names) == b"Subject: x\r\n\r\n"
        assert len(names.remembered) <= 3
