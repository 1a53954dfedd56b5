"""What each signature proves: the RFCs' examples, published vectors, and every rule of the field and the key."""

import asyncio
import hashlib
from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dkim_rig import (
    BRISBANE,
    MESSAGE,
    NOW_S,
    TEST_KEY,
    Texts,
    ed_key,
    pieces,
    rsa_key,
    split,
    vectors,
    verify,
    with_crlf,
    zone,
)

from pochta.errors import LocalProtocolError
from pochta.policy.dkim.canon import BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.sign import sign
from pochta.policy.dkim.verify import CLOCK_SKEW_S, DkimVerifier
from pochta.policy.results import Dkim

FOOTBALL = {"brisbane._domainkey.football.example.com": BRISBANE, "test._domainkey.football.example.com": TEST_KEY}

RFC_8463 = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.

""".replace(b"\n", b"\r\n")

# Appendix A.2 as it was signed: its continuation lines have six spaces, and the body one space behind "game.".
RFC_6376 = b"""\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
""".replace(b"\n", b"\r\n")
# RFC 6376, Appendix C
RFC_6376_KEY = (
    b"v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4j"
    b"YfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)


@pytest.mark.rfc(8463, "3")
def test_the_example_of_rfc_8463() -> None:
    first, second = verify(RFC_8463, FOOTBALL)
    assert (first.result, first.algorithm, first.selector) == (Dkim.PASS, "ed25519-sha256", "brisbane")
    assert (second.result, second.algorithm, second.signature) == (Dkim.PASS, "rsa-sha256", "F45dVWDf")
    assert first.domain == "football.example.com"
    assert first.identity == "@football.example.com"


@pytest.mark.rfc(6376, "3.7")
def test_the_example_of_rfc_6376() -> None:
    (result,) = verify(RFC_6376, {"brisbane._domainkey.example.com": RFC_6376_KEY})
    assert (result.result, result.domain, result.identity) == (Dkim.PASS, "example.com", "joe@football.example.com")


@pytest.mark.parametrize("message", [RFC_8463, RFC_6376], ids=["8463", "6376"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_examples_in_pieces(message: bytes, size: int) -> None:
    records = FOOTBALL | {"brisbane._domainkey.example.com": RFC_6376_KEY}
    results = verify(message, records, chunks=pieces(split(message)[1], size))
    assert {result.result for result in results} == {Dkim.PASS}


@pytest.mark.parametrize(
    ("folder", "file", "want"),
    [
        ("dkim-dkimpy", "rfc6376.signed.msg", [Dkim.PASS, Dkim.PASS]),
        ("dkim-dkimpy", "rfc6376.signed.rsa.msg", [Dkim.PASS]),
        ("dkim-dkimpy", "rfc6376.signed.no_t.msg", [Dkim.FAIL]),
        ("dkim-dkimpy", "ed25519test2.msg", [Dkim.PASS]),
        ("dkim-dkimpy", "test.message.baddomain", [Dkim.PERMERROR]),
        ("dkim-dkimpy", "test.message", []),
        ("arc-authheaders", "test.message_signed", [Dkim.PASS]),
        ("arc-authheaders", "test.message_sub", [Dkim.FAIL]),
        ("arc-authheaders", "test.message_multi", [Dkim.FAIL]),
        ("arc-authheaders", "test.message_np1", [Dkim.PERMERROR]),
    ],
)
def test_published_messages(folder: str, file: str, want: list[Dkim]) -> None:
    path = vectors(folder)
    records = FOOTBALL | {"test._domainkey.example.com": TEST_KEY}
    records["sed._domainkey.test.ex"] = (vectors("dkim-dkimpy") / "eximtest.dns").read_bytes().strip()
    assert [result.result for result in verify(with_crlf(path / file), records)] == want


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("1024_testkey_wo_markers.pub.rsa.txt", "signature did not verify"),
        ("1024_testkey_wo_markers.pub.txt", "signature did not verify"),
        ("2048_testkey_PKCS8.key.pub.txt", "signature did not verify"),
        ("2048_testkey_wo_markers.pub.rsa.txt", "signature did not verify"),
        ("test.txt", ""),
        ("test2.txt", ""),
        ("test_tlsrpt.txt", "key is not for mail"),
        ("badversion.txt", "key record of another version"),
        ("badk.txt", "unknown key type"),
        ("test_bad.txt", "malformed key"),
    ],
)
def test_published_keys(file: str, reason: str) -> None:
    record = (vectors("dkim-dkimpy") / file).read_bytes().strip()
    results = verify(RFC_8463, FOOTBALL | {"test._domainkey.football.example.com": record})
    assert results[1].reason == reason


def signed(tags: str, *, message: bytes = MESSAGE, ed: bool = True, body: bytes | None = None) -> bytes:
    """MESSAGE with a signature of exactly these tags and a true b=; `@bh` in them is the true body hash."""
    header, whole = split(message)
    hashes = BodyHashes(*Canonicalization)
    hashes.feed(whole if body is None else body)
    header_form, _, body_form = next(
        (tag.strip()[2:] for tag in tags.split(";") if tag.strip().startswith("c=")), "simple"
    ).partition("/")
    digest = hashes.result(Canonicalization(body_form or "simple")).digest
    own = f"DKIM-Signature: {tags} b=".replace("@bh", b64encode(digest).decode()).encode()
    names = next((tag.strip()[2:] for tag in tags.split(";") if tag.strip().startswith("h=")), "from")
    form = Canonicalization(header_form)
    chosen = HeaderFields(header).signed([name.strip().lower().encode() for name in names.split(":")], form)
    end = relax_field(own).removesuffix(b"\r\n") if form is Canonicalization.RELAXED else own
    key = ed_key() if ed else rsa_key()
    value = key.sign_digest(hashlib.sha256(chosen + end).digest())
    return own + b64encode(value) + b"\r\n" + message


GOOD = "v=1; a=ed25519-sha256; d=example.org; s=e; h=From:To:Subject; bh=@bh;"


@pytest.mark.parametrize(
    "tags",
    [
        GOOD,
        GOOD + " c=simple/relaxed;",
        GOOD + " c=relaxed;",
        GOOD + " c=relaxed/simple;",
        GOOD + " q=dns/txt; t=1600000000; x=1600000001; z=From:a|To:b; unknown=tag_1;",
        GOOD + " q=x/y : dns/txt;",
        GOOD + " i=@example.org;",
        GOOD + " i=joe@a.b.example.org;",
        GOOD + " i=joe=20smith@Example.ORG;",
        GOOD.replace("example.org", "EXAMPLE.org"),
        GOOD.replace("h=From:To:Subject", "h=From\t: to :Subject:Subject:None:None:DKIM-Signature"),
        GOOD + f" l={len(split(MESSAGE)[1])};",
    ],
)
def test_good_signatures(tags: str) -> None:
    (result,) = verify(signed(tags))
    assert (result.result, result.reason) == (Dkim.PASS, "")


@pytest.mark.rfc(6376, "6.1.1")
@pytest.mark.parametrize(
    ("old", "new", "result", "reason"),
    [
        ("v=1; ", "", Dkim.PERMERROR, "missing required tag"),
        ("v=1; ", "v=2; ", Dkim.PERMERROR, "incompatible version"),
        ("a=ed25519-sha256; ", "", Dkim.PERMERROR, "missing required tag"),
        ("a=ed25519-sha256", "a=rsa-sha1", Dkim.PERMERROR, "rsa-sha1 is historic"),
        ("a=ed25519-sha256", "a=ed448-sha256", Dkim.NEUTRAL, "unknown algorithm"),
        ("a=ed25519-sha256", "a=rsa-sha256", Dkim.PERMERROR, "inappropriate key algorithm"),
        ("d=example.org; ", "", Dkim.PERMERROR, "missing required tag"),
        ("d=example.org", "d=org", Dkim.PERMERROR, "malformed domain"),
        ("d=example.org", "d=[192.0.2.1]", Dkim.PERMERROR, "malformed domain"),
        ("d=example.org", "d=example.org(.evil.org", Dkim.PERMERROR, "malformed domain"),
        ("d=example.org", "d=example .org", Dkim.PERMERROR, "malformed domain"),
        ("s=e;", "s=;", Dkim.PERMERROR, "missing required tag"),
        ("s=e;", "s=e..f;", Dkim.PERMERROR, "malformed selector"),
        ("s=e;", "s=nothing_here;", Dkim.PERMERROR, "no key for signature"),
        ("s=e;", "s=slow;", Dkim.TEMPERROR, "key unavailable"),
        ("h=From:To:Subject; ", "", Dkim.PERMERROR, "missing required tag"),
        ("h=From:To", "h=To", Dkim.PERMERROR, "From is not signed"),
        ("h=From:To", "h=From::To", Dkim.PERMERROR, "malformed list of fields"),
        ("h=From:To", "h=From:T o", Dkim.PERMERROR, "malformed list of fields"),
        ("bh=@bh", "bh=AAAA", Dkim.PERMERROR, "malformed body hash"),
        ("bh=@bh", "bh=A*AA", Dkim.PERMERROR, "malformed base64"),
        ("bh=@bh", "bh=" + "A" * 43 + "=", Dkim.FAIL, "body hash did not verify"),
        ("v=1; ", "v=1; v=1; ", Dkim.PERMERROR, "duplicate tag"),
        ("v=1; ", "v=1;; ", Dkim.PERMERROR, "malformed tag list"),
        ("v=1; ", "v=1; 1=2; ", Dkim.PERMERROR, "malformed tag list"),
        ("v=1; ", "v=1; x\x01=2; ", Dkim.PERMERROR, "control character in tag list"),
        ("v=1; ", "v=1; c=nowsp; ", Dkim.NEUTRAL, "unknown canonicalization"),
        ("v=1; ", "v=1; c=relaxed/; ", Dkim.NEUTRAL, "unknown canonicalization"),
        ("v=1; ", "v=1; q=http; ", Dkim.NEUTRAL, "unknown query method"),
        ("v=1; ", "v=1; i=joe@org; ", Dkim.PERMERROR, "malformed domain"),
        ("v=1; ", "v=1; i=joe@evilexample.org; ", Dkim.PERMERROR, "domain mismatch"),
        ("v=1; ", "v=1; i=example.org; ", Dkim.PERMERROR, "malformed identity"),
        ("v=1; ", "v=1; i=a=0D=0Ab@example.org; ", Dkim.PERMERROR, "malformed identity"),
        ("v=1; ", "v=1; t=-1; ", Dkim.PERMERROR, "malformed number"),
        ("v=1; ", "v=1; t=1234567890123; ", Dkim.PERMERROR, "malformed number"),
        ("v=1; ", "v=1; t=1500000000; x=1500000000; ", Dkim.PERMERROR, "expired before it was signed"),
        ("v=1; ", "v=1; x=1500000000; ", Dkim.POLICY, "signature expired"),
        ("v=1; ", "v=1; t=1700000000; ", Dkim.POLICY, "signed in the future"),
        ("v=1; ", "v=1; l=; ", Dkim.PERMERROR, "malformed number"),
        ("v=1; ", "v=1; l=0; ", Dkim.POLICY, "body longer than signed"),
        ("v=1; ", f"v=1; l={10**75}; ", Dkim.PERMERROR, "body shorter than signed"),
    ],
)
def test_bad_fields(old: str, new: str, result: Dkim, reason: str) -> None:
    assert old in GOOD
    tags = GOOD.replace(old, new)
    message = MESSAGE
    own = b"DKIM-Signature: " + tags.encode().replace(b"@bh", signed(GOOD).split(b"bh=")[1].split(b";")[0])
    records = zone() | {"slow._domainkey.example.org": None}
    (found,) = verify(own + b" b=" + b64encode(bytes(64)) + b"\r\n" + message, records)
    assert (found.result, found.reason) == (result, reason)


@pytest.mark.rfc(6376, "3.5")
def test_the_clock_is_given_some_slack() -> None:
    at = int(NOW_S)
    for tag, moment, result in (
        ("t", at + CLOCK_SKEW_S, Dkim.PASS),
        ("t", at + CLOCK_SKEW_S + 1, Dkim.POLICY),
        ("x", at - CLOCK_SKEW_S, Dkim.PASS),
        ("x", at - CLOCK_SKEW_S - 1, Dkim.POLICY),
    ):
        assert verify(signed(f"{GOOD} {tag}={moment};"))[0].result is result


@pytest.mark.rfc(6376, "8.2")
def test_a_body_that_grew_is_told_apart_from_one_that_was_changed() -> None:
    length = len(split(MESSAGE)[1])
    message = signed(f"{GOOD} l={length};")
    assert verify(message)[0].result is Dkim.PASS
    assert verify(message + b"\r\n\r\n")[0].result is Dkim.PASS
    assert verify(message + b"footer\r\n")[0].result is Dkim.POLICY
    assert verify(message.replace(b"Joe.\r\n", b"Jim.\r\n"))[0].result is Dkim.FAIL


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Suzie Q", b"Suzie R", "signature did not verify"),
        (b"game.  Are", b"game. Are", "body hash did not verify"),
        (b"From: Joe", b"From: Eve <eve@evil.test>\r\nFrom: Joe", ""),
        (b"Received:", b"From: Eve <eve@evil.test>\r\nReceived:", ""),
        (b"Message-ID:", b"From: Eve <eve@evil.test>\r\nMessage-ID:", "signature did not verify"),
        (b"Subject: Is", b"subject: Is", "signature did not verify"),
    ],
)
def test_changed_messages(old: bytes, new: bytes, reason: str) -> None:
    message = signed(GOOD)
    assert message.count(old) == 1
    assert verify(message.replace(old, new))[0].reason == reason


@pytest.mark.rfc(6376, "8.15")
def test_an_over_signed_field_cannot_be_added() -> None:
    message = signed(GOOD.replace("h=From", "h=From:From:Cc"))
    assert verify(message)[0].result is Dkim.PASS
    for extra in (b"From: Eve <eve@evil.test>\r\n", b"Cc: eve@evil.test\r\n"):
        assert verify(message.replace(b"Received:", extra + b"Received:"))[0].result is Dkim.FAIL


@pytest.mark.rfc(6376, "3.5")
def test_another_signature_may_be_signed_but_not_itself() -> None:
    first = signed(GOOD)
    second = signed(GOOD.replace("h=From", "h=DKIM-Signature:From"), message=first)
    assert [result.result for result in verify(second)] == [Dkim.PASS, Dkim.PASS]
    broken = second.replace(b"h=From:To:Subject; bh", b"h=From:To:Subject;  bh")
    assert [result.result for result in verify(broken)] == [Dkim.FAIL, Dkim.FAIL]


ED_P = ed_key().public_record().rpartition("p=")[2]
RSA_P = rsa_key().public_record().rpartition("p=")[2]
FOLDED_P = f"{ED_P[:9]} {ED_P[9:]}"


@pytest.mark.rfc(6376, "6.1.2")
@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        ("k=ed25519; p=@ed", Dkim.PASS, ""),
        ("v=DKIM1;k=ed25519;h=sha1 : sha256;s=email:x;t=z;n=a note;p=@folded;", Dkim.PASS, ""),
        ("v=DKIM1; k=ed25519; s=*; p=@ed", Dkim.PASS, ""),
        ("v=DKIM1; k=ed25519; t=y; p=@ed", Dkim.PASS, ""),
        ("v=DKIM1; k=ed25519; t=s; p=@ed", Dkim.PERMERROR, "domain mismatch"),
        ("k=ed25519; v=DKIM1; p=@ed", Dkim.PERMERROR, "key record of another version"),
        ("v=DKIM2; k=ed25519; p=@ed", Dkim.PERMERROR, "key record of another version"),
        ("v=DKIM1; k=ed25519; k=ed25519; p=@ed", Dkim.PERMERROR, "duplicate tag"),
        ("v=DKIM1; k=ed448; p=@ed", Dkim.PERMERROR, "unknown key type"),
        ("v=DKIM1; k=ed25519; p=@short", Dkim.PERMERROR, "malformed key"),
        ("v=DKIM1; p=@ed", Dkim.PERMERROR, "malformed key"),
        ("v=DKIM1; k=rsa; p=@rsa", Dkim.PERMERROR, "inappropriate key algorithm"),
        ("v=DKIM1; k=ed25519; h=sha1; p=@ed", Dkim.PERMERROR, "inappropriate hash algorithm"),
        ("v=DKIM1; k=ed25519; s=tlsrpt; p=@ed", Dkim.PERMERROR, "key is not for mail"),
        ("v=DKIM1; k=ed25519; p=", Dkim.PERMERROR, "key revoked"),
        ("v=DKIM1; k=ed25519", Dkim.PERMERROR, "key record without key"),
        ("v=DKIM1; k=ed25519; p=%%%%", Dkim.PERMERROR, "malformed base64"),
        ("v=spf1 -all", Dkim.PERMERROR, "key record of another version"),
        ("", Dkim.PERMERROR, "key record without key"),
        ("v=DKIM1; k=ed25519; n=@notes; p=@ed", Dkim.PERMERROR, "tag list too long"),
    ],
)
def test_key_records(record: str, result: Dkim, reason: str) -> None:
    keys = {"@folded": FOLDED_P, "@short": ED_P[:20], "@ed": ED_P, "@rsa": RSA_P, "@notes": "x" * 5000}
    for name, value in keys.items():
        record = record.replace(name, value)
    message = signed(GOOD + " i=joe@sub.example.org;")
    (found,) = verify(message, {"e._domainkey.example.org": record.encode()})
    assert (found.result, found.reason, found.is_test) == (result, reason, "t=y" in record)


def test_a_test_key_is_told_where_the_signature_fails() -> None:
    message = signed(GOOD).replace(b"Suzie", b"Susie")
    (found,) = verify(message, {"e._domainkey.example.org": f"k=ed25519; t=y; p={ED_P}".encode()})
    assert (found.result, found.is_test) == (Dkim.FAIL, True)


def test_one_key_among_several_records() -> None:
    stray = [b"v=spf1 -all", BRISBANE, ed_key().public_record().encode()]
    assert verify(signed(GOOD), {"e._domainkey.example.org": stray})[0].result is Dkim.PASS
    assert verify(signed(GOOD), {"e._domainkey.example.org": stray[:2]})[0].reason == "signature did not verify"
    many = [b"v=spf1 -all"] * 4 + stray
    assert verify(signed(GOOD), {"e._domainkey.example.org": many})[0].result is Dkim.PERMERROR


@pytest.mark.rfc(8301, "3.2")
@pytest.mark.parametrize(
    ("bits", "exponent", "reason"),
    [
        (1024, 65537, "signature did not verify"),
        (4096, 65537, "signature did not verify"),
        (1024, 3, "signature did not verify"),
    ],
)
def test_sizes_of_rsa_keys(bits: int, exponent: int, reason: str) -> None:
    data = generate_private_key(exponent, bits).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    record = b"v=DKIM1; p=" + b64encode(data)
    message = signed(GOOD.replace("ed25519", "rsa"), ed=False)
    assert verify(message, {"e._domainkey.example.org": record})[0].reason == reason


def der_key(modulus: int, exponent: int) -> bytes:
    """An RSAPublicKey, whatever it holds."""

    def encoded(tag: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
        return bytes([tag]) + length + content

    numbers = [encoded(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in (modulus, exponent)]
    return encoded(0x30, b"".join(numbers))


@pytest.mark.rfc(8301, "3.2")
@pytest.mark.parametrize(
    ("bits", "exponent", "reasons"),
    [
        (512, 65537, {"key too short", "malformed key"}),
        (1023, 65537, {"key too short", "malformed key"}),
        (4097, 65537, {"key too long"}),
        (8192, 65537, {"key too long"}),
        (2048, 2**64 + 1, {"key too long"}),
        (2048, 1, {"malformed key"}),
    ],
)
def test_rsa_keys_out_of_bounds(bits: int, exponent: int, reasons: set[str]) -> None:
    record = b"v=DKIM1; p=" + b64encode(der_key((1 << (bits - 1)) + 1, exponent))
    message = signed(GOOD.replace("ed25519", "rsa"), ed=False)
    (found,) = verify(message, {"e._domainkey.example.org": record})
    assert found.result is Dkim.PERMERROR
    assert found.reason in reasons


def test_keys_are_asked_for_once_and_together() -> None:
    texts = Texts(zone())
    message = signed(GOOD, message=signed(GOOD, message=signed(GOOD.replace("s=e", "s=other"))))
    results = verify(message, texts)
    assert [result.result for result in results] == [Dkim.PASS, Dkim.PASS, Dkim.PERMERROR]
    assert sorted(texts.asked) == ["e._domainkey.example.org", "other._domainkey.example.org"]


@pytest.mark.rfc(6376, "6.1")
def test_only_so_many_signatures_are_tried() -> None:
    texts = Texts(zone())
    field = signed(GOOD)[: -len(MESSAGE)]
    results = verify(field * 12 + MESSAGE, texts)
    assert [result.result for result in results] == [Dkim.PASS] * 10 + [Dkim.NEUTRAL]
    assert [result.result for result in verify(field * 2 + MESSAGE, max_signatures=1)] == [Dkim.PASS, Dkim.NEUTRAL]


@pytest.mark.rfc(8617, "4.1.4")
def test_u_labels_are_a_labels_to_us() -> None:
    records = {"e._domainkey.xn--bcher-kva.example": ed_key().public_record().encode()}
    for domain in ("bücher.example", "xn--bcher-kva.example"):
        (found,) = verify(signed(GOOD.replace("example.org", domain)), records)
        assert (found.result, found.domain) == (Dkim.PASS, "xn--bcher-kva.example")


def test_a_shared_body_is_fed_once() -> None:
    message = signed(GOOD)
    header, body = split(message)
    hashes = BodyHashes()
    verifier = DkimVerifier(HeaderFields(header), body=hashes)
    with pytest.raises(LocalProtocolError):
        verifier.feed(body)
    hashes.feed(body)
    (found,) = asyncio.run(verifier.finish(Texts(zone()), now_s=NOW_S))
    assert found.result is Dkim.PASS


def test_the_signature_is_told_by_its_first_characters() -> None:
    (found,) = verify(signed(GOOD))
    assert len(found.signature) == 8
    assert b64decode(found.signature)


def test_our_own_signatures_pass_in_both_algorithms() -> None:
    header, body = split(MESSAGE)
    fields = sign(header, [body], [("r", "example.org", rsa_key()), ("e", "example.org", ed_key())], now_s=NOW_S)
    assert [result.result for result in verify(fields + MESSAGE)] == [Dkim.PASS, Dkim.PASS]
