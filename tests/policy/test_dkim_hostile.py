"""Hostile headers, keys and bodies: a result each time, never an exception, and work bounded by names."""

import tracemalloc

import pytest
from dkim_rig import MESSAGE, Texts, ed_key, rsa_key, split, verify, zone
from hypothesis import given
from hypothesis import strategies as st

from pochta.policy.dkim.canon import BodyHashes, Canonicalization
from pochta.policy.dkim.keys import read_key
from pochta.policy.dkim.sign import sign
from pochta.policy.dkim.tags import SignatureFault
from pochta.policy.results import Dkim, DkimResult

PREFIX = b"v=1; a=rsa-sha256; d=example.org; s=r; h=from; bh=" + b"A" * 43 + b"=; b="
FIELDS = sign(*split(MESSAGE)[:1], [split(MESSAGE)[1]], [("r", "example.org", rsa_key())], now_s=1.6e9)


@pytest.mark.parametrize("count", [9_000, 10_000, 20_000])
def test_ten_thousand_signatures(count: int) -> None:
    texts = Texts(zone())
    results = verify((b"DKIM-Signature: " + PREFIX + b"AAAA\r\n") * count + MESSAGE, texts)
    assert len(results) <= 11
    assert Dkim.PASS not in {result.result for result in results}
    assert len(texts.asked) <= 1


def test_a_different_key_for_each_of_ten_thousand_signatures() -> None:
    texts = Texts({})
    fields = b"".join(
        b"DKIM-Signature: " + PREFIX.replace(b"s=r", b"s=r%d" % number) + b"AAAA\r\n" for number in range(9_000)
    )
    assert len(verify(fields + MESSAGE, texts)) == 11
    assert len(texts.asked) == 10


def test_more_fields_than_are_read_prove_nothing() -> None:
    message = FIELDS + MESSAGE.replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 10_000 + b"From: eve@evil.test\r\n\r\n", 1)
    (result,) = verify(message)
    assert (result.result, result.reason) == (Dkim.PERMERROR, "too many header fields")


@pytest.mark.parametrize(
    "field",
    [
        b"v=1; a=rsa-sha256; d=example.org; s=r; bh=AAAA; b=AAAA; h=from" + b":to" * 350_000,
        b"v=1; " * 250_000,
        b"a" * 1_000_000,
        b";" * 1_000_000,
        b"=" * 1_000_000,
        b" " * 1_000_000 + b"v=1",
        b"\r\n " * 300_000 + b"v=1",
        PREFIX + b"A" * 1_000_000,
        PREFIX + b"A\r\n " * 8_000,
        PREFIX + b"AAAA; i=" + b"=41" * 9_000 + b"@example.org",
        PREFIX + b"AAAA; d=" + b"a." * 16_000,
        PREFIX.replace(b"example.org", b"a" * 30_000),
        PREFIX.replace(b"example.org", "ä.".encode() * 5_000 + b"org"),
        PREFIX.replace(b"s=r", b"s=" + b"a." * 15_000),
        PREFIX.replace(b"s=r", b"s=" + b"-" * 30_000),
        PREFIX.replace(b"h=from", b"h=" + b"from:" * 6_000 + b"from") + b"AAAA",
        PREFIX + b"AAAA; l=" + b"9" * 30_000,
        PREFIX + b"AAAA; t=" + b"9" * 30_000,
        PREFIX + b"AAAA; q=" + b":" * 30_000,
        PREFIX + b"AAAA; c=" + b"/" * 30_000,
        b"\xff\xfe\x80" * 1000,
    ],
    ids=lambda field: f"{field[:12]!r}-{len(field)}",
)
def test_one_hostile_field(field: bytes) -> None:
    (result,) = verify(b"DKIM-Signature: " + field + b"\r\n" + MESSAGE)
    assert result.result not in (Dkim.PASS, Dkim.NONE)
    assert shown(result)


def shown(result: DkimResult) -> bool:
    """Nothing in it could end a line of a header."""
    return all(str(value).isprintable() for value in (result.domain, result.selector, result.identity, result.reason))


TEXTS = st.lists(
    st.sampled_from(
        [b"v=1", b";", b" ", b"=", b"a=rsa-sha256", b"d=example.org", b"s=r", b"h=from", b"b=AAAA", b"\r\n ", b"i=@",
         b"bh=" + b"A" * 43 + b"=", b"c=relaxed", b"\xff", b"\x00", b"x=1", b"t=2", b"l=5", b"k=ed25519", b"p="]
    )
).map(b"".join)  # fmt: skip


@given(TEXTS)
def test_no_field_raises(field: bytes) -> None:
    results = verify(b"DKIM-Signature: " + field + b"\r\n" + MESSAGE)
    assert all(result.result is not Dkim.PASS and shown(result) for result in results)


@given(TEXTS | st.binary())
def test_no_record_raises(record: bytes) -> None:
    (result,) = verify(FIELDS + MESSAGE, {"r._domainkey.example.org": record})
    assert result.result is not Dkim.PASS


@given(st.binary(max_size=400))
def test_no_key_data_raises(data: bytes) -> None:
    record = rsa_key().public_record().encode()
    whole = bytearray(record)
    at = len(whole) // 2
    whole[at : at + len(data)] = data
    (result,) = verify(FIELDS + MESSAGE, {"r._domainkey.example.org": bytes(whole)})
    assert result.result in (Dkim.PASS, Dkim.FAIL, Dkim.PERMERROR)
    assert (result.result is Dkim.PASS) == (whole == record)


@pytest.mark.parametrize("size", [5_000, 65_535, 1_000_000])
def test_huge_records(size: int) -> None:
    record = b"v=DKIM1; p=" + b"A" * size
    (result,) = verify(FIELDS + MESSAGE, {"r._domainkey.example.org": [record] * 100})
    assert (result.result, result.reason) == (Dkim.PERMERROR, "tag list too long")


@given(st.binary())
def test_no_header_raises(header: bytes) -> None:
    message = header.replace(b"\r\n\r\n", b"") + FIELDS + MESSAGE
    assert all(shown(result) for result in verify(message))


@pytest.mark.parametrize("chunk", [b" ", b"\t ", b"\r\n", b"\r", b" \r", b"\n", b"  \r\n"], ids=repr)
def test_a_body_that_never_says_anything_is_not_kept(chunk: bytes) -> None:
    hashes = BodyHashes(*Canonicalization)
    block = chunk * (65_536 // len(chunk))
    hashes.feed(block)
    tracemalloc.start()
    try:
        for _ in range(50):
            hashes.feed(block)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20_000
    assert peak < 600_000
    for form in Canonicalization:
        assert hashes.result(form).length_bytes >= 0


def test_our_key_is_not_in_what_a_fault_says() -> None:
    record = ed_key().public_record().encode()
    with pytest.raises(SignatureFault) as caught:
        read_key(record.replace(b"k=ed25519", b"k=other"))
    assert record.decode()[-20:] not in str(caught.value)
