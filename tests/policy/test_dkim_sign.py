"""What we sign: the fields' form, what they cover, and that dkimpy and we verify each other."""

import re

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dkim_rig import MESSAGE, NOW_S, dnsfunc, ed_key, pieces, rsa_key, rsa_pem, split, verify, zone
from hypothesis import given
from hypothesis import strategies as st

from pochta.errors import Corrupt
from pochta.policy.dkim.canon import BodyHashes, Canonicalization
from pochta.policy.dkim.keys import Algorithm, SigningKey, read_key
from pochta.policy.dkim.sign import OVERSIGNED, sign
from pochta.policy.results import Dkim

BOTH = [("r", "example.org", rsa_key()), ("e", "example.org", ed_key())]


def signed(message: bytes = MESSAGE, expires_s: int | None = None) -> bytes:
    header, body = split(message)
    return sign(header, [body], BOTH, now_s=NOW_S, expires_s=expires_s)


@pytest.mark.rfc(6376, "5.5")
def test_two_signatures_in_one_pass() -> None:
    texts = [re.sub(rb"\tb(h?)=.*", rb"\tb\1=...", field) for field in signed().split(b"DKIM-Signature: ")]
    want = (
        b"v=1; a=%s; c=relaxed/relaxed; d=example.org;%st=1600000000;\r\n"
        b"\th=from:from:to:to:cc:subject:subject:date:date:reply-to:message-id:\r\n"
        b"\tmessage-id:in-reply-to:references:mime-version:content-type:\r\n"
        b"\tcontent-transfer-encoding;\r\n"
        b"\tbh=...\n"
        b"\tb=...\n"
    )
    assert [text.split(b"\t ")[0] for text in texts] == [
        b"",
        want % (b"rsa-sha256", b" s=r;\r\n\t"),
        want % (b"ed25519-sha256", b"\r\n\ts=e; "),
    ]


def test_lines_are_short_and_end_with_crlf() -> None:
    fields = signed()
    assert fields.endswith(b"\r\n")
    assert fields.count(b"\r\n") == fields.count(b"\n") == fields.count(b"\r")
    assert max(map(len, fields.split(b"\r\n"))) <= 76
    assert b"l=" not in re.sub(rb"b=[^;]+", b"", fields)


def test_an_expiry_only_where_asked() -> None:
    assert b"x=" not in signed().split(b"h=")[0]
    assert b"t=1600000000; x=1600000060;" in signed(expires_s=60)


def test_both_verify_here_and_the_rsa_one_in_dkimpy() -> None:
    message = signed() + MESSAGE
    assert [result.result for result in verify(message)] == [Dkim.PASS, Dkim.PASS]
    assert dkim.DKIM(message).verify(dnsfunc=dnsfunc(zone()))


NAMES = st.sampled_from(
    [b"From", b"To", b"Subject", b"X-Other", b"List-Id", b"Received", b"Content-Type", b"Resent-To", b"comments"]
)
VALUES = st.lists(st.sampled_from([b"a", b" ", b"\t", b"b;", b"=", b"\r\n ", b"\r\n\t", b"<x@y>"]), max_size=8)
BODIES = st.lists(st.sampled_from([b"\r\n", b" ", b"\t", b"word", b"."]), max_size=20)
MESSAGES = st.tuples(st.lists(st.tuples(NAMES, VALUES), max_size=10), BODIES).map(
    lambda parts: (
        b"".join(name + b":" + b"".join([*value, b"x\r\n"]) for name, value in [*parts[0], (b"From", [b" a@b.c"])])
        + b"\r\n"
        + b"".join([*parts[1], b"\r\n"])
    )
)


@given(MESSAGES)
def test_any_message_signed_here_verifies_in_dkimpy(message: bytes) -> None:
    header, body = split(message)
    field = sign(header, pieces(body, 3), BOTH[:1], now_s=NOW_S)
    assert dkim.DKIM(field + message).verify(dnsfunc=dnsfunc(zone()))
    assert verify(field + message)[0].result is Dkim.PASS


@given(MESSAGES, st.sampled_from([b"simple", b"relaxed"]), st.sampled_from([b"simple", b"relaxed"]))
def test_any_message_signed_by_dkimpy_verifies_here(message: bytes, header: bytes, body: bytes) -> None:
    field = dkim.sign(message, b"r", b"example.org", rsa_pem(), canonicalize=(header, body))
    (result,) = verify(field + message, now_s=4e9)
    assert (result.result, result.reason) == (Dkim.PASS, "")


def test_a_length_that_covers_the_whole_body_passes_like_dkimpy_has_it() -> None:
    field = dkim.sign(MESSAGE, b"r", b"example.org", rsa_pem(), canonicalize=(b"relaxed", b"relaxed"), length=True)
    assert verify(field + MESSAGE, now_s=4e9)[0].result is Dkim.PASS
    assert verify(field + MESSAGE + b"more\r\n", now_s=4e9)[0].result is Dkim.POLICY


@pytest.mark.rfc(6376, "8.15")
@pytest.mark.parametrize("name", [name.decode() for name in OVERSIGNED])
def test_no_second_field_of_an_over_signed_name(name: str) -> None:
    message = signed() + MESSAGE
    extra = name.encode() + b": x\r\n"
    for place in (b"Received:", b"From:", b"\r\n"):
        at = message.index(b"\r\n\r\n") + 2 if place == b"\r\n" else message.index(b"\r\n" + place) + 2
        results = verify(message[:at] + extra + message[at:])
        assert {result.result for result in results} == {Dkim.FAIL}


@pytest.mark.rfc(6376, "5.4.1")
@pytest.mark.parametrize("name", ["List-Id", "Sender", "List-Unsubscribe", "Resent-From", "Content-Disposition"])
def test_other_fields_are_signed_where_they_stand_and_may_be_added(name: str) -> None:
    extra = name.encode() + b": one\r\n"
    with_field = signed(extra + MESSAGE) + extra + MESSAGE
    assert verify(with_field)[0].result is Dkim.PASS
    assert verify(with_field.replace(b": one\r\n", b": two\r\n"))[0].result is Dkim.FAIL
    assert verify(signed() + extra + MESSAGE)[0].result is Dkim.PASS


@pytest.mark.parametrize("name", ["Received", "Return-Path", "Authentication-Results", "Comments", "DKIM-Signature"])
def test_fields_that_change_on_the_way_are_not_signed(name: str) -> None:
    message = name.encode() + b": x\r\n" + MESSAGE
    assert name.lower().encode() not in signed(message).split(b"h=")[1].split(b";")[0].lower()


def test_a_thousand_fields_of_one_name_keep_the_list_readable() -> None:
    message = b"Resent-To: a@b.c\r\n" * 1000 + MESSAGE
    fields = signed(message)
    assert len(fields) < 4000
    assert verify(fields + message)[0].result is Dkim.PASS


def test_hashes_made_while_the_message_came_in() -> None:
    header, body = split(MESSAGE)
    hashes = BodyHashes(Canonicalization.RELAXED)
    for piece in pieces(body, 5):
        hashes.feed(piece)
    assert sign(header, hashes, BOTH[1:], now_s=NOW_S) == sign(header, [body], BOTH[1:], now_s=NOW_S)


@pytest.mark.rfc(6376, "3.5")
def test_an_internationalized_domain_is_written_in_a_labels() -> None:
    header, body = split(MESSAGE)
    field = sign(header, [body], [("e", "Bücher.example", ed_key())], now_s=NOW_S)
    assert b"d=xn--bcher-kva.example;" in field
    records = {"e._domainkey.xn--bcher-kva.example": ed_key().public_record().encode()}
    assert verify(field + MESSAGE, records)[0].result is Dkim.PASS


@pytest.mark.parametrize("key", [rsa_key, ed_key], ids=["rsa", "ed25519"])
def test_keys_live_through_storage(key: object) -> None:
    original = key()
    again = SigningKey.from_bytes(original.to_bytes())
    assert again.algorithm is original.algorithm
    assert again.public_record() == original.public_record()
    assert again.to_bytes() == original.to_bytes()
    digest = bytes(range(32))
    read_key(original.public_record().encode()).verify(original.algorithm, again.sign_digest(digest), digest)


def test_keys_do_not_print() -> None:
    assert repr(rsa_key()) == str(rsa_key()) == "SigningKey(rsa-sha256, ***)"
    assert f"{ed_key()}" == "SigningKey(ed25519-sha256, ***)"


def test_records_have_the_shape_of_the_rfc() -> None:
    assert re.fullmatch(r"v=DKIM1; k=ed25519; p=[A-Za-z0-9+/]{43}=", ed_key().public_record())
    assert re.fullmatch(r"v=DKIM1; k=rsa; p=MIIBIjAN[A-Za-z0-9+/]{376,384}", rsa_key().public_record())
    assert len(rsa_key().public_record()) <= 410


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x30\x00"])
def test_what_is_no_key_of_ours_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        SigningKey.from_bytes(data)


def test_a_damaged_key_is_corrupt_or_still_signs() -> None:
    good = rsa_key().to_bytes()
    refused = 0
    for at in range(0, len(good), 37):
        data = bytearray(good)
        data[at] ^= 1
        try:
            key = SigningKey.from_bytes(bytes(data))
        except Corrupt:
            refused += 1
            continue
        # the library mends a wrong factor with the exponent
        read_key(rsa_key().public_record().encode()).verify(key.algorithm, key.sign_digest(bytes(32)), bytes(32))
    assert refused >= 7  # the modulus alone


def test_a_short_key_is_not_ours() -> None:
    key = generate_private_key(65537, 1024)
    with pytest.raises(Corrupt):
        SigningKey.from_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_algorithms_by_name() -> None:
    assert SigningKey.generate("ed25519-sha256").algorithm is Algorithm.ED25519_SHA256
    with pytest.raises(ValueError):
        SigningKey.generate("rsa-sha1")
