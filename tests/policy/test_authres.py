"""The Authentication-Results field: written safely, read, and removed where it is forged."""

import re
from ipaddress import ip_address

import authres as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.policy.authres import MethodResult, is_ours, read, remove_forged, write
from pochta.policy.results import (
    Arc,
    ArcResult,
    Dkim,
    DkimResult,
    Dmarc,
    DmarcResult,
    Iprev,
    IprevResult,
    Spf,
    SpfResult,
    Wish,
)

OURS = "mx.b.test"
CLIENT = ip_address("192.0.2.1")

FULL = write(
    OURS,
    address=CLIENT,
    iprev=IprevResult(Iprev.PASS, "mail.a.test"),
    spf=SpfResult(Spf.PASS, "a.test"),
    helo_spf=SpfResult(Spf.NONE, "mail.a.test", is_helo=True),
    dkim=[
        DkimResult(Dkim.PASS, "a.test", "s1", "@a.test", "rsa-sha256", "ab/d+fg="),
        DkimResult(Dkim.FAIL, "b.test", "s2", '"x y"@b.test', "ed25519-sha256", "abcdefgh", reason='bad "hash"'),
    ],
    dmarc=DmarcResult(Dmarc.FAIL, "a.test", wish=Wish.REJECT),
    arc=ArcResult(Arc.PASS, 2, ("l.test", "f.test"), 1),
)


@pytest.mark.rfc(8601, "2.2")
def test_a_full_field() -> None:
    assert FULL == (
        b"Authentication-Results: mx.b.test;\r\n"
        b"\tiprev=pass policy.iprev=192.0.2.1 (mail.a.test);\r\n"
        b"\tspf=pass smtp.mailfrom=a.test;\r\n"
        b"\tspf=none smtp.helo=mail.a.test;\r\n"
        b"\tdkim=pass header.d=a.test header.i=@a.test header.s=s1 header.a=rsa-sha256\r\n"
        b'\t header.b="ab/d+fg=";\r\n'
        b'\tdkim=fail reason="bad \\"hash\\"" header.d=b.test header.i="\\"x y\\"@b.test"\r\n'
        b"\t header.s=s2 header.a=ed25519-sha256 header.b=abcdefgh;\r\n"
        b"\tdmarc=fail policy.dmarc=reject header.from=a.test;\r\n"
        b"\tarc=pass header.oldest-pass=1 smtp.remote-ip=192.0.2.1\r\n"
    )


def test_small_fields() -> None:
    assert write(OURS) == b"Authentication-Results: mx.b.test;\r\n\tnone\r\n"
    assert write(OURS, dkim=()) == b"Authentication-Results: mx.b.test;\r\n\tdkim=none\r\n"
    assert write(OURS, arc=ArcResult(Arc.NONE)) == write(OURS)
    signed_in = write(OURS, auth="ann@b.test")
    assert signed_in == b"Authentication-Results: mx.b.test;\r\n\tauth=pass smtp.auth=ann@b.test\r\n"
    ipv6 = write(OURS, address=ip_address("2001:db8::1"), iprev=IprevResult(Iprev.FAIL))
    assert ipv6.endswith(b'\tiprev=fail policy.iprev="2001:db8::1"\r\n')


def test_another_program_reads_what_we_write() -> None:
    parsed = oracle.AuthenticationResultsHeader.parse(FULL.decode().replace("\r\n", "").replace("\t", " "))
    assert parsed.authserv_id == OURS
    assert [(one.method, one.result) for one in parsed.results] == [
        ("iprev", "pass"),
        ("spf", "pass"),
        ("spf", "none"),
        ("dkim", "pass"),
        ("dkim", "fail"),
        ("dmarc", "fail"),
        ("arc", "pass"),
    ]
    # Its reader leaves quoted pairs as they are; ours does not.
    assert read(FULL.decode())[4].properties["reason"] == 'bad "hash"'
    assert {(one.type, one.name): one.value for one in parsed.results[4].properties}["header", "d"] == "b.test"


TEXT = st.text(max_size=300) | st.text('a.@"\\;=()\r\n\t :\x00é', max_size=60)


@given(TEXT, TEXT, TEXT, TEXT, st.sampled_from(Dkim))
def test_nothing_gets_out_of_its_value(domain: str, identity: str, reason: str, name: str, result: Dkim) -> None:
    field = write(
        OURS,
        address=CLIENT,
        iprev=IprevResult(Iprev.PASS, name),
        spf=SpfResult(Spf.FAIL, domain, reason=reason),
        helo_spf=SpfResult(Spf.FAIL, name, is_helo=True, reason=reason),
        dkim=[DkimResult(result, domain, name, identity, domain, identity, reason=reason)],
        dmarc=DmarcResult(Dmarc.FAIL, domain, reason=reason),
        arc=ArcResult(Arc.FAIL, reason=reason),
        auth=identity,
    )
    assert re.fullmatch(rb"Authentication-Results: mx\.b\.test;(?:\r\n\t[ -~]+)+\r\n", field)
    assert max(map(len, field.split(b"\r\n"))) <= 998
    value = field.partition(b":")[2]
    assert is_ours(value, OURS)
    # RFC 8601 §2.2 by another program's grammar: as many results as we wrote, and no other
    parsed = oracle.AuthenticationResultsHeader.parse(field.decode().replace("\r\n", "").replace("\t", " "))
    wrote = ["auth=pass", "iprev=pass", "spf=fail", "spf=fail", f"dkim={result}", "dmarc=fail", "arc=fail"]
    assert [f"{one.method}={one.result}" for one in parsed.results] == wrote
    found = read(value.decode())
    assert [f"{one.method}={one.result}" for one in found] == wrote
    assert found[4].properties.get("header.d", domain) == domain


@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param("a.test; spf=pass smtp.mailfrom=b.test", ("spf", "pass", {"smtp.mailfrom": "b.test"}), id="plain"),
        pytest.param("i=1; a.test 1; SPF/1 = Pass", ("spf", "pass", {}), id="version, case, white space, instance"),
        pytest.param(
            'a.test; spf=pass (x; spf=fail (y)) z.z="q; dkim=pass"',
            ("spf", "pass", {"z.z": "q; dkim=pass"}),
            id="comment",
        ),
        pytest.param(
            "a.test; dmarc=pass header.from=a.test header.from=b.test",
            ("dmarc", "pass", {"header.from": "a.test"}),
            id="first",
        ),
        pytest.param(
            'a.test; dmarc="=" header.from=a.test', ("dmarc", "=", {"header.from": "a.test"}), id="quoted sign"
        ),
    ],
)
def test_read(value: str, want: tuple[str, str, dict[str, str]]) -> None:
    assert read(value)[-1] == MethodResult(*want)


@pytest.mark.parametrize(
    "value", ["", "a.test", "a.test; none", ";;;", "a; =pass; spf=", "a; spf (", 'a; "x', "a; spf="]
)
def test_read_of_no_results(value: str) -> None:
    assert read(value) == ()


@given(st.text(' ;="()\\a.\r\n', max_size=80))
def test_reading_never_raises(value: str) -> None:
    read(value)
    is_ours(value.encode(), OURS)


@pytest.mark.parametrize(
    "value",
    [
        b" mx.b.test; spf=pass",
        b" MX.B.Test; spf=pass",
        b"mx.b.test",
        b"\r\n\tmx.b.test\r\n\t; none\r\n",
        b" mx.b.test 1; spf=pass",
        b" mx.b.test.; spf=pass",
        b' "mx.b.test"; spf=pass',
        b' "mx\\.b.te\\st" ; spf=pass',
        b" (hi (there)) mx.b.test (x) 1 (y); spf=pass",
        b" mx.b.test spf=pass",
        b" evil.test mx.b.test; spf=pass",
        b" (evil.test; mx.b.test; spf=pass",
        b" mx.b.test) ; spf=pass",
        b" mx.b.test/1; spf=pass",
        b' "mx.b.test; spf=pass',
        b" <mx.b.test>; spf=pass",
        b" ; mx.b.test; spf=pass",
    ],
)
def test_ours(value: bytes) -> None:
    assert is_ours(value, OURS)
    header = b"A: b\r\nAuthentication-Results:" + value.rstrip() + b"\r\nC: d\r\n\r\n"
    assert remove_forged(header, OURS) == b"A: b\r\nC: d\r\n\r\n"


@pytest.mark.parametrize(
    "value",
    [
        b" mx.c.test; spf=pass",
        b" a.mx.b.test; spf=pass",
        b" mx.b.test.evil.test; spf=pass",
        b" c.test; spf=pass smtp.helo=mx.b.test",
        b" (mx.b.test) c.test; spf=pass",
        b' "c.test" 1; spf=pass',
        b"",
        b" ;",
        b" \xff\xfe",
    ],
)
def test_not_ours(value: bytes) -> None:
    assert not is_ours(value, OURS)
    header = b"Authentication-Results:" + value.rstrip() + b"\r\nC: d\r\n\r\n"
    assert remove_forged(header, OURS) == header


def test_a_name_with_letters_beyond_ascii() -> None:
    assert is_ours(" bücher.test; none".encode(), "xn--bcher-kva.test")
    assert is_ours(b" xn--bcher-kva.test; none", "bücher.test")
    assert not is_ours(" bücher2.test; none".encode(), "xn--bcher-kva.test")


@pytest.mark.rfc(8601, "5")
def test_removal_keeps_the_rest_byte_for_byte() -> None:
    keeps = [
        b"ARC-Authentication-Results: i=1; mx.b.test; spf=pass\r\n",
        b"X-Authentication-Results: mx.b.test; spf=pass\r\n",
        b"Received-SPF: pass (mx.b.test: x)\r\n",
        b"Subject: x\r\n Authentication-Results: mx.b.test; spf=pass\r\n",
        b"Authentication-Results-Not: mx.b.test; spf=pass\r\n",
        b"Authentication-Results mx.b.test\r\n",
        b"\xff: \x00\r\n",
        b"Authentication-Results: other.test;\r\n\tspf=pass\r\n",
        b"\r\n",
    ]
    forged = [
        b"authentication-results: mx.b.test; spf=pass\r\n",
        b"AUTHENTICATION-RESULTS \t: mx.b.test;\r\n\tspf=pass;\r\n dkim=pass\r\n",
        b"Authentication-Results:\r\n mx.b.test; spf=pass\n",
    ]
    header = b"".join(forged[number % 3] + keep for number, keep in enumerate(keeps))
    assert remove_forged(header, OURS) == b"".join(keeps)
    assert remove_forged(b"".join(forged), OURS) == b""
    assert remove_forged(b"Authentication-Results: mx.b.test; spf=pass", OURS) == b""
    untouched = b"".join(keeps)
    assert remove_forged(untouched, OURS) is untouched


@given(
    st.lists(st.sampled_from([b"Authentication-Results", b":", b" ", b"\r\n", b"mx.b.test", b";", b"(", b'"', b"x"]))
)
def test_what_is_left_has_no_field_of_ours(pieces: list[bytes]) -> None:
    header = b"".join(pieces)
    left = remove_forged(header, OURS)
    assert remove_forged(left, OURS) == left
    assert not re.search(rb"^authentication-results[ \t]*:\s*\"?mx\.b\.test\"?\s*;", left, re.IGNORECASE | re.MULTILINE)


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 200_000,
        b"()" * 100_000,
        b'"' + b"\\a" * 100_000,
        b'"' * 200_000,
        b"a" * 200_000,
        b"\r\n " * 70_000,
        b"=;" * 99_999,
    ],
    ids=["open", "pairs", "escapes", "quotes", "long", "folds", "signs"],
)
def test_hostile_values_cost_no_more_than_their_length(value: bytes) -> None:
    header = b"Authentication-Results: " + value + b"\r\nSubject: x\r\n"
    assert remove_forged(header, OURS) == header
    assert read(value.decode()) == ()


def test_many_fields() -> None:
    header = b"Authentication-Results: mx.b.test; none\r\nAuthentication-Results: c.test; none\r\n" * 5_000
    assert remove_forged(header, OURS) == b"Authentication-Results: c.test; none\r\n" * 5_000
