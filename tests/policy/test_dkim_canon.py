"""The canonical forms, whole and in pieces, against the RFC's examples and against dkimpy."""

import hashlib
from base64 import b64encode
from itertools import pairwise

import pytest
from dkim.canonicalization import Relaxed, Simple
from dkim_rig import pieces
from hypothesis import example, given
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.policy.dkim.canon import BodyCanonicalizer, BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.tags import without_signature

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
BODY = b" C \r\nD \t E\r\n\r\n\r\n"


def canonical(form: Canonicalization, chunks: list[bytes]) -> bytes:
    written: list[bytes] = []
    body = BodyCanonicalizer(form, written.append)
    for chunk in chunks:
        body.feed(chunk)
    body.close()
    result = b"".join(written)
    assert body.length_bytes == len(result)
    return result


@pytest.mark.rfc(6376, "3.4.5")
@pytest.mark.parametrize(
    ("form", "want"), [(SIMPLE, b" C \r\nD \t E\r\n"), (RELAXED, b" C\r\nD E\r\n")], ids=["simple", "relaxed"]
)
def test_the_bodies_of_the_rfc(form: Canonicalization, want: bytes) -> None:
    assert canonical(form, [BODY]) == want


@pytest.mark.rfc(6376, "3.4.5")
def test_the_headers_of_the_rfc() -> None:
    fields = HeaderFields(b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n")
    assert fields.signed([b"a", b"b"], RELAXED) == b"a:X\r\nb:Y Z\r\n"
    assert fields.signed([b"a", b"b"], SIMPLE) == b"A: X\r\nB : Y\t\r\n\tZ  \r\n"


@pytest.mark.rfc(6376, "3.4.3")
@pytest.mark.rfc(6376, "3.4.4")
@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_an_empty_body(body: bytes) -> None:
    hashes = BodyHashes(SIMPLE, RELAXED)
    hashes.feed(body)
    assert b64encode(hashes.result(SIMPLE).digest) == b"frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
    assert b64encode(hashes.result(RELAXED).digest) == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize(
    ("body", "simple", "relaxed"),
    [
        (b"a", b"a\r\n", b"a\r\n"),
        (b"a  ", b"a  \r\n", b"a\r\n"),
        (b" \t", b" \t\r\n", b""),
        (b" \r\n\t\r\n", b" \r\n\t\r\n", b""),
        (b"a\r", b"a\r\r\n", b"a\r\r\n"),
        (b"a \r", b"a \r\r\n", b"a \r\r\n"),
        (b"a\n\n", b"a\n\n\r\n", b"a\n\n\r\n"),
        (b"a\r\n\n\r\n", b"a\r\n\n\r\n", b"a\r\n\n\r\n"),
        (b"a\r\r\n\r\n", b"a\r\r\n", b"a\r\r\n"),
        (b"\r\n\r\na\r\n", b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
        (b"a \t b \r\n \r\n", b"a \t b \r\n \r\n", b"a b\r\n"),
    ],
    ids=repr,
)
def test_ends_of_bodies(body: bytes, simple: bytes, relaxed: bytes) -> None:
    for form, want in ((SIMPLE, simple), (RELAXED, relaxed)):
        assert canonical(form, [body]) == want
        assert canonical(form, list(pieces(body, 1))) == want


bodies = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"a", b".", b"\r\n\r\n", b"b  "])).map(b"".join)


@given(bodies)
@example(b"a \r\n")
def test_bodies_as_dkimpy_has_them(body: bytes) -> None:
    body += b"\r\n"  # without a last line end, dkimpy leaves the space before it
    assert canonical(SIMPLE, [body]) == Simple.canonicalize_body(body)
    assert canonical(RELAXED, [body]) == Relaxed.canonicalize_body(body)


@given(bodies, st.lists(st.integers(0, 40)))
def test_pieces_do_not_matter(body: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:stop] for start, stop in pairwise(places)]
    for form in Canonicalization:
        assert canonical(form, chunks) == canonical(form, list(pieces(body, 1))) == canonical(form, [body])


values = st.lists(st.sampled_from([b" ", b"\t", b"x", b":", b"\r\n ", b"\r\n\t", b"\xc3\xa4"])).map(b"".join)


@given(st.sampled_from([b"Subject", b"X-A", b"a "]), values)
def test_fields_as_dkimpy_has_them(name: bytes, value: bytes) -> None:
    ((want_name, want_value),) = Relaxed.canonicalize_headers([(name, value + b"\r\n")])
    assert relax_field(name + b":" + value + b"\r\n") == want_name + b":" + want_value


@pytest.mark.rfc(6376, "5.4.2")
def test_fields_are_signed_from_the_bottom() -> None:
    fields = HeaderFields(b"Received: <A>\r\nReceived: <B>\r\nX: 1\r\nReceived: <C>\r\n")
    names = [b"received", b"received", b"none", b"received", b"received"]
    assert fields.signed(names, SIMPLE) == b"Received: <C>\r\nReceived: <B>\r\nReceived: <A>\r\n"
    assert fields.signed(names, SIMPLE, without=1) == b"Received: <C>\r\nReceived: <A>\r\n"


@pytest.mark.rfc(6376, "3.7")
@pytest.mark.parametrize(
    ("field", "want"),
    [
        (b"D: a=1; b=xy\r\n z; c=2\r\n", b"D: a=1; b=; c=2"),
        (b"D: a=1; b = xy \r\n\tz \r\n", b"D: a=1; b ="),
        (b"D: bh=b=; xb=1;b=\r\n", b"D: bh=b=; xb=1;b="),
        (b"D: b=b=b=; bb=1;\r\n\tx=2 \r\n", b"D: b=; bb=1;\r\n\tx=2 "),
        (b"D: a=1\r\n", b"D: a=1"),
    ],
    ids=repr,
)
def test_the_signature_is_taken_out_of_its_field(field: bytes, want: bytes) -> None:
    assert without_signature(field) == want


def test_hashes_are_shared_and_held_to_their_order() -> None:
    hashes = BodyHashes(RELAXED)
    hashes.want(RELAXED)
    hashes.feed(b"a  b\r\n")
    with pytest.raises(LocalProtocolError):
        hashes.want(SIMPLE)
    with pytest.raises(LocalProtocolError):
        hashes.result(SIMPLE)
    assert hashes.result(RELAXED) == (hashlib.sha256(b"a b\r\n").digest(), 5)
    assert hashes.result(RELAXED).length_bytes == 5
    with pytest.raises(LocalProtocolError):
        hashes.feed(b"x")


def test_line_ends_without_end_are_not_held() -> None:
    written: list[bytes] = []
    body = BodyCanonicalizer(RELAXED, written.append)
    for _ in range(100):
        body.feed(b"\r\n" * 10_000)
    assert not written
    body.feed(b"x")
    body.close()
    assert max(map(len, written)) <= 8192
    assert b"".join(written) == b"\r\n" * 1_000_000 + b"x\r\n"
