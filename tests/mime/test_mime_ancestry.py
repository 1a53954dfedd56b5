"""What THREAD and SORT by display read of a message."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.mime.ancestry import MAX_ANCESTORS, ancestry
from pochta.mime.display import display_from, display_to
from pochta.mime.facts import facts
from pochta.mime.subject import base_subject_and_kind, is_reply


def digest(one: bytes) -> bytes:
    return blake2b(one, digest_size=8).digest()


NONE = bytes(8)


@pytest.mark.rfc(5256, "3")
@pytest.mark.parametrize(
    ("message_id", "references", "in_reply_to", "own", "ancestors"),
    [
        pytest.param(b"<a@x>", b"<b@x>\r\n <c@x>", b"<d@x>", b"<a@x>", [b"<b@x>", b"<c@x>"], id="references"),
        pytest.param(b"<a@x>", b"", b"<d@x> <e@x>", b"<a@x>", [b"<d@x>"], id="the first of in-reply-to"),
        pytest.param(b"<a@x>", b"nothing <valid>", b"<d@x>", b"<a@x>", [b"<d@x>"], id="no valid reference"),
        pytest.param(b"", b"", b"joe's message of <today>", None, [], id="nothing"),
        pytest.param(b'<"a"@x>', b'<"b\\c"@x>', b"", b"<a@x>", [b"<bc@x>"], id="quoted"),
        pytest.param(b"<A@x>", b"", b"", b"<A@x>", [], id="case counts"),
        pytest.param(b"<a@x>", b"<b@x><b@x>", b"", b"<a@x>", [b"<b@x>", b"<b@x>"], id="twice"),
    ],
)
def test_ancestry(
    message_id: bytes, references: bytes, in_reply_to: bytes, own: bytes | None, ancestors: list[bytes]
) -> None:
    want = b"".join([NONE if own is None else digest(own), *map(digest, ancestors)])
    assert ancestry(message_id, references, in_reply_to, is_reply=False) == want + b"\0"
    assert ancestry(message_id, references, in_reply_to, is_reply=True) == want + b"\1"


def test_many_references_are_cut_in_the_middle() -> None:
    ids = [b"<%d@x>" % number for number in range(1000)]
    found = ancestry(b"<a@x>", b" ".join(ids), b"", is_reply=False)
    kept = [ids[0], *ids[1 - MAX_ANCESTORS :]]
    assert found == b"".join(map(digest, [b"<a@x>", *kept])) + b"\0"


def test_facts_hold_the_ancestry() -> None:
    message = b"Message-ID: <a@x>\r\nIn-Reply-To: <b@x>\r\nSubject: Re: hello\r\n\r\n"
    assert facts(message).ancestry == digest(b"<a@x>") + digest(b"<b@x>") + b"\1"
    assert facts(b"\r\n").ancestry == NONE + b"\0"


@pytest.mark.rfc(5256, "3")
@pytest.mark.parametrize(
    ("subject", "base", "want"),
    [
        pytest.param(b"hello", "hello", False, id="plain"),
        pytest.param(b"Re: hello", "hello", True, id="re"),
        pytest.param(b"[list] hello", "hello", False, id="a blob is no mark"),
        pytest.param(b"[list] fw [x]: hello", "hello", True, id="fw"),
        pytest.param(b"hello (fwd) ", "hello", True, id="trailer"),
        pytest.param(b"[fwd: hello]", "hello", True, id="fwd as a whole"),
        pytest.param(b"=?utf-8?q?Re=3A_hello?=", "hello", True, id="encoded"),
        pytest.param(b"  hello", "hello", False, id="spaces"),
    ],
)
def test_reply_or_forward(subject: bytes, base: str, want: bool) -> None:
    assert is_reply(subject) is want
    assert base_subject_and_kind(subject) == (base, want)


@pytest.mark.rfc(5957, "3")
@pytest.mark.parametrize(
    ("field", "want"),
    [
        pytest.param(b"Bob <bob@x.org>", "Bob", id="name"),
        pytest.param(b"bob@x.org", "bob@x.org", id="no name"),
        pytest.param(b'"" <bob@x.org>', "bob@x.org", id="empty name"),
        pytest.param(b"=?utf-8?q?=C3=89mile?= <e@f.fr>, Bob <bob@x.org>", "Émile", id="encoded, the first"),
        pytest.param(b'"a \\"b\\" \\\\ c" <bob@x.org>', 'a "b" \\ c', id="escaped"),
        pytest.param(b"\xc3\x89mile <e@f.fr>", "Émile", id="8-bit"),
        pytest.param(b"friends: Bob <bob@x.org>;", "friends", id="group"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_display(field: bytes, want: str) -> None:
    envelope = facts(b"From: " + field + b'\r\nTo: x <y@z>\r\nSubject: (a {b} \\ "c")\r\n\r\n').envelope
    assert display_from(envelope) == want
    assert display_to(envelope) == "x"
    envelope = facts(
        b"Subject: \xff\r\nFrom: a@b, c@d\r\nSender: \xc3\x89 <s@t>\r\nTo: " + field + b"\r\n\r\n"
    ).envelope
    assert display_to(envelope) == want
    assert display_from(envelope) == "a@b"


@given(st.binary(max_size=60))
def test_display_of_anything(envelope: bytes) -> None:
    assert isinstance(display_from(b"(" + envelope), str)
    assert isinstance(display_to(b"(NIL NIL" + envelope), str)
