"""Chains sealed by dkimpy, and every way to break one."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable

import dkim
import pytest
from dkim_rig import MESSAGE, NOW_S, Texts, dnsfunc, ed_key, pieces, rsa_key, rsa_pem, split, verify
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError
from pochta.policy.arc import ArcVerifier
from pochta.policy.dkim.canon import BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.sign import sign
from pochta.policy.dkim.verify import DkimVerifier
from pochta.policy.results import Arc, ArcResult, Dkim

SET = ("ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results")
LATER_S = 4e9  # dkimpy's signatures bear the real time


def zone() -> dict[str, bytes | list[bytes] | None]:
    rsa = rsa_key().public_record().encode()
    return {f"s._domainkey.d{number}.test": rsa for number in range(1, 60)} | {
        "e._domainkey.d.test": ed_key().public_record().encode()
    }


def seal(message: bytes, number: int) -> bytes:
    """The message with dkimpy's set of this instance on top."""
    status = b"none" if number == 1 else b"pass"
    results = b"Authentication-Results: mx%d.test; arc=%s; spf=pass smtp.mailfrom=a@b.test\r\n" % (number, status)
    fields = dkim.arc_sign(results + message, b"s", b"d%d.test" % number, rsa_pem(), b"mx%d.test" % number)
    assert len(fields) == 3
    return b"".join(field if field.endswith(b"\r\n") else field + b"\r\n" for field in fields) + results + message


def chain(length: int) -> bytes:
    message = MESSAGE
    for number in range(1, length + 1):
        message = seal(message, number)
    return message


CHAIN = chain(3)


def check(
    message: bytes,
    records: dict[str, bytes | list[bytes] | None] | Texts | None = None,
    chunks: Iterable[bytes] | None = None,
) -> ArcResult:
    header, body = split(message)
    verifier = ArcVerifier(header)
    for chunk in [body] if chunks is None else chunks:
        verifier.feed(chunk)
    texts = records if isinstance(records, Texts) else Texts(zone() if records is None else records)
    return asyncio.run(verifier.finish(texts, now_s=LATER_S))


def field(message: bytes, name: str, number: int) -> bytes:
    """The whole field of that name and instance."""
    fields = HeaderFields(split(message)[0])
    places = fields.places(name.lower().encode())
    return next(fields.field(place) for place in places if b" i=%d;" % number in fields.field(place))


@pytest.mark.rfc(8617, "4.4")
def test_no_chain() -> None:
    texts = Texts({})
    assert check(MESSAGE, texts) == ArcResult(Arc.NONE)
    assert not texts.asked


@pytest.mark.rfc(8617, "5.2")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_chains_of_dkimpy_pass(length: int) -> None:
    message = chain(length)
    assert dkim.arc_verify(message, dnsfunc=dnsfunc(zone()))[0] == b"pass"
    result = check(message)
    assert (result.result, result.instances, result.reason) == (Arc.PASS, length, "")
    assert result.domains == tuple(f"d{number}.test" for number in range(1, length + 1))
    assert result.oldest_pass == 0
    assert result.results[0].startswith("mx1.test; arc=none")
    assert all("\n" not in one for one in result.results)


@pytest.mark.rfc(8617, "4.2.1")
def test_fifty_instances_and_not_one_more() -> None:
    message = MESSAGE
    for number in range(1, 51):
        message = seal_ourselves(message, number)
    records = {"e._domainkey.d.test": ed_key().public_record().encode()}
    texts = Texts(records)
    result = check(message, texts)
    assert (result.result, result.instances, result.oldest_pass) == (Arc.PASS, 50, 0)
    assert len(texts.asked) <= 3
    assert check(seal_ourselves(message, 51), records).reason == "too many instances"


def seal_ourselves(
    message: bytes,
    number: int,
    *,
    status: str | None = None,
    extra: str = "",
    names: str = "from:to:subject",
    ams: str = "",
) -> bytes:
    """A set signed by our key, whatever its tags say."""
    header, body = split(message)
    fields = HeaderFields(header)
    relaxed = Canonicalization.RELAXED
    hashes = BodyHashes(relaxed)
    hashes.feed(body)
    body_hash = b64encode(hashes.result(relaxed).digest).decode()
    results = b"ARC-Authentication-Results: i=%d; mx.test; spf=pass\r\n" % number
    common = "a=ed25519-sha256; d=d.test; s=e;"
    own = f"ARC-Message-Signature: i={number}; {common} c=relaxed/relaxed; h={names}; bh={body_hash};{ams} b=".encode()
    chosen = fields.signed([name.encode() for name in names.split(":")], relaxed)
    signature = own + signed(chosen + relax_field(own).removesuffix(b"\r\n")) + b"\r\n"
    before = b"".join(
        relax_field(field(message, name, instance)) for instance in range(1, number) for name in reversed(SET)
    )
    value = status or ("none" if number == 1 else "pass")
    top = f"ARC-Seal: i={number}; cv={value}; {common}{extra} b=".encode()
    covered = before + relax_field(results) + relax_field(signature) + relax_field(top).removesuffix(b"\r\n")
    return top + signed(covered) + b"\r\n" + signature + results + message


def signed(data: bytes) -> bytes:
    return b64encode(ed_key().sign_digest(hashlib.sha256(data).digest()))


@pytest.mark.rfc(8617, "5.2")
@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({}, {}, ""),
        ({}, {"extra": " t=1600000000; x=y;"}, ""),
        ({"status": "NONE"}, {"status": "Pass"}, ""),
        ({"status": "pass"}, {}, "seal 1: wrong chain status"),
        ({"status": "fail"}, {}, "seal 1: wrong chain status"),
        ({}, {"status": "none"}, "seal 2: wrong chain status"),
        ({}, {"status": "fail"}, "seal 2: wrong chain status"),
        ({}, {"status": "other"}, "seal 2: wrong chain status"),
        ({}, {"extra": " h=from;"}, "seal with a list of fields"),
        ({"extra": " h=from;"}, {}, "seal with a list of fields"),
        ({}, {"extra": " d=other.test;"}, "duplicate tag"),
        ({}, {"names": "from:arc-seal"}, "message signature over the chain"),
        ({}, {"names": "from:arc-message-signature"}, "message signature over the chain"),
        ({}, {"names": "to:subject"}, "From is not signed"),
        ({}, {"ams": " v=9;"}, ""),
        ({}, {"ams": " l=0;"}, "message signature: body longer than signed"),
        ({}, {"ams": " x=1600000000;"}, "message signature: signature expired"),
    ],
)
def test_true_signatures_over_wrong_words(first: dict[str, str], second: dict[str, str], reason: str) -> None:
    message = seal_ourselves(seal_ourselves(MESSAGE, 1, **first), 2, **second)
    result = check(message)
    assert (result.result, result.reason) == (Arc.FAIL if reason else Arc.PASS, reason)


def replaced(name: str, number: int, edit: Callable[[bytes], bytes]) -> bytes:
    whole = field(CHAIN, name, number)
    assert CHAIN.count(whole) == 1
    return CHAIN.replace(whole, edit(whole))


@pytest.mark.rfc(8617, "5.2")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize(
    "edit",
    [
        lambda whole: b"",
        lambda whole: whole + whole,
        lambda whole: whole.replace(b" i=", b" i=4", 1),
        lambda whole: whole.replace(b" i=", b" i=00", 1),
        lambda whole: whole.replace(b" i=", b" i=x", 1),
        lambda whole: whole.replace(b" i=1;", b" i=9;").replace(b" i=2;", b" i=1;").replace(b" i=3;", b" i=2;"),
        lambda whole: whole.replace(b".test", b".tesu"),
        lambda whole: whole.replace(b"\r\n", b" x\r\n", 1),
        lambda whole: whole.replace(b"i=", b"j=", 1),
    ],
    ids=["gone", "twice", "instance-4", "instance-000", "instance-x", "instance-less", "domain", "word", "no-instance"],
)
def test_each_field_of_each_set_counts(number: int, name: str, edit: Callable[[bytes], bytes]) -> None:
    message = replaced(name, number, edit)
    assert message != CHAIN
    result = check(message)
    assert (result.result, result.domains, result.results, result.oldest_pass) == (Arc.FAIL, (), (), 0)
    assert result.reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Joe.\r\n", b"Jim.\r\n", "message signature: body hash did not verify"),
        (b"Suzie", b"Susie", "message signature: signature did not verify"),
        (b"Subject: Is", b"Subject: is", "message signature: signature did not verify"),
    ],
)
def test_a_changed_message_costs_one_key(old: bytes, new: bytes, reason: str) -> None:
    texts = Texts(zone())
    result = check(CHAIN.replace(old, new), texts)
    assert (result.result, result.reason) == (Arc.FAIL, reason)
    assert texts.asked == ["s._domainkey.d3.test"]


def test_every_octet_of_the_sets_counts() -> None:
    fields = [field(CHAIN, name, number) for name in SET for number in (1, 2, 3)]
    for whole in fields:
        at = CHAIN.index(whole)
        start = at + whole.index(b":") + 2
        for place in range(start, at + len(whole) - 2, 17):
            if CHAIN[place : place + 1] in b" \t\r\n":
                continue
            other = b"0" if CHAIN[place : place + 1] != b"0" else b"1"
            message = CHAIN[:place] + other + CHAIN[place + 1 :]
            assert check(message).result is Arc.FAIL, message[place - 20 : place + 20]


def test_a_prefix_of_the_chain_is_a_chain() -> None:
    message = CHAIN
    for name in SET:
        message = message.replace(field(message, name, 3), b"")
    result = check(message)
    assert (result.result, result.instances) == (Arc.PASS, 2)


@pytest.mark.rfc(8617, "5.2")
def test_a_handler_that_changed_the_message_ends_the_older_signatures() -> None:
    message = seal(MESSAGE, 1)
    message = seal(message + b"footer\r\n", 2)
    result = check(seal(message, 3))
    assert (result.result, result.oldest_pass) == (Arc.PASS, 2)
    message = seal(message + b"more\r\n", 3)
    assert check(message).oldest_pass == 3
    broken = seal_ourselves(seal_ourselves(MESSAGE, 1, names="to"), 2)
    assert (check(broken).result, check(broken).oldest_pass) == (Arc.PASS, 2)


@pytest.mark.rfc(8617, "5.2.1")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "key unavailable"),
        ([], "no key for signature"),
        (b"v=DKIM1; p=", "key revoked"),
        (b"v=DKIM1; p=%%%", "malformed base64"),
    ],
    ids=["no-answer", "no-key", "revoked", "garbage"],
)
def test_a_missing_key_is_final(number: int, record: bytes | list[bytes] | None, reason: str) -> None:
    result = check(CHAIN, zone() | {f"s._domainkey.d{number}.test": record})
    where = "message signature" if number == 3 else f"seal {number}"
    assert (result.result, result.reason) == (Arc.FAIL, f"{where}: {reason}")


@given(st.sampled_from([1, 2, 3, 5, 11, 1000]))
def test_pieces_do_not_matter(size: int) -> None:
    assert check(CHAIN, chunks=pieces(split(CHAIN)[1], size)) == check(CHAIN)


def test_both_checks_over_one_body() -> None:
    header, body = split(MESSAGE)
    fields = sign(header, [body], [("e", "d.test", ed_key())], now_s=NOW_S)
    header, body = split(seal_ourselves(fields + MESSAGE, 1, names="from:dkim-signature"))
    shared, parsed = BodyHashes(), HeaderFields(header)
    dkim_verifier, arc_verifier = DkimVerifier(parsed, body=shared), ArcVerifier(parsed, body=shared)
    with pytest.raises(LocalProtocolError):
        arc_verifier.feed(b"")
    for piece in pieces(body, 7):
        shared.feed(piece)
    (found,) = asyncio.run(dkim_verifier.finish(Texts(zone()), now_s=NOW_S))
    assert found.result is Dkim.PASS
    assert asyncio.run(arc_verifier.finish(Texts(zone()), now_s=NOW_S)).result is Arc.PASS


@pytest.mark.rfc(8617, "4.1.1")
def test_comments_around_the_instance() -> None:
    message = seal_ourselves(MESSAGE, 1)
    assert check(message.replace(b"Results: i=1;", b"Results: (a) i = 1 (b);")).reason.startswith("seal 1")


@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize(
    "value",
    [
        b"i=1;" * 8000,
        b"(" * 100_000,
        b"() " * 50_000,
        b" " * 1_000_000 + b"i=1;",
        b"i=1; h=" + b"from:" * 250_000,
        b"i=1; " + b"x" * 1_000_000,
        b"\x00\xff",
        b"",
    ],
    ids=lambda value: f"{value[:6]!r}-{len(value)}",
)
def test_hostile_fields(name: str, value: bytes) -> None:
    message = seal_ourselves(MESSAGE, 1)
    whole = field(message, name, 1)
    result = check(message.replace(whole, name.encode() + b": " + value + b"\r\n"))
    assert result.result is Arc.FAIL
    assert result.reason.isprintable()


@pytest.mark.parametrize("count", [51, 5_000, 20_000])
def test_thousands_of_sets(count: int) -> None:
    header = b"".join(b"%s: i=1; x\r\n" % name.encode() for name in SET) * count
    texts = Texts({})
    assert check(header + MESSAGE, texts).result is Arc.FAIL
    assert not texts.asked


@given(
    st.lists(
        st.sampled_from([b"i=1", b"i=2", b";", b" ", b"=", b"cv=none", b"a=rsa-sha256", b"d=d1.test", b"s=s", b"b=AAAA",
                         b"h=from", b"bh=AAAA", b"\xff", b"\x00", b"mx.test"])
    ).map(b"".join),
    st.sampled_from(SET),
)  # fmt: skip
def test_no_field_raises(value: bytes, name: str) -> None:
    whole = field(CHAIN, name, 2)
    assert check(CHAIN.replace(whole, name.encode() + b": " + value + b"\r\n")).result is Arc.FAIL


def test_dkim_takes_no_notice_of_the_chain() -> None:
    assert verify(CHAIN) == ()
