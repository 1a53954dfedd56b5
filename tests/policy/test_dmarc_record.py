"""DMARC records, where they are looked for, and whose organization they mark."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.dns import DnsError
from pochta.policy.organization import (
    MAX_QUERIES,
    Record,
    Records,
    find_organization,
    parse_record,
    registered,
    walk_names,
)
from pochta.policy.results import Wish
from pochta.testing.resolver import ZoneResolver


def _resolver(**records: str) -> ZoneResolver:
    return ZoneResolver({f"_dmarc.{name.replace('_', '.')}": {"TXT": [text]} for name, text in records.items()})


@pytest.mark.rfc(9989, "4.7")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param(b"v=DMARC1; p=reject", Record(Wish.REJECT), id="plain"),
        pytest.param(b"v=DMARC1;p=REJECT;", Record(Wish.REJECT), id="values in any case"),
        pytest.param(b"v = DMARC1 ; p = quarantine ;", Record(Wish.QUARANTINE), id="white space"),
        pytest.param(
            b"v=DMARC1; p=none; sp=reject; np=quarantine",
            Record(Wish.NONE, Wish.REJECT, Wish.QUARANTINE),
            id="all wishes",
        ),
        pytest.param(b"v=DMARC1; p=reject; t=y", Record(Wish.REJECT, is_test=True), id="test"),
        pytest.param(b"v=DMARC1; p=reject; psd=y", Record(Wish.REJECT, psd="y"), id="psd=y"),
        pytest.param(b"v=DMARC1; p=reject; psd=maybe", Record(Wish.REJECT), id="psd unknown"),
        pytest.param(
            b"v=DMARC1; adkim=s; aspf=S; p=reject",
            Record(Wish.REJECT, is_dkim_strict=True, is_spf_strict=True),
            id="strict, any order",
        ),
        pytest.param(b"v=DMARC1; p=reject; pct=0; ri=1; rf=x; zz", Record(Wish.REJECT), id="unknown and historic tags"),
        pytest.param(b"v=DMARC1; p=reject; p=none", Record(Wish.REJECT), id="the first of two"),
        pytest.param(b"v=DMARC1", Record(is_usable=False), id="no wish"),
        pytest.param(b"v=DMARC1; rua=mailto:a@b.test", Record(), id="no wish but reports"),
        pytest.param(b"v=DMARC1; p=rejected", Record(is_usable=False), id="bad wish"),
        pytest.param(b"v=DMARC1; p=reject; sp=no; rua=https://x.test/", Record(), id="bad sp but reports"),
        pytest.param(b"v=DMARC1; p=reject; np=no; rua=nobody", Record(is_usable=False), id="bad np, no address"),
        pytest.param(b"v=dmarc1; p=reject", None, id="version in lower case"),
        pytest.param(b"v=DMARC12; p=reject", None, id="another version"),
        pytest.param(b"p=reject; v=DMARC1", None, id="version not first"),
        pytest.param(b" v=DMARC1; p=reject", None, id="space before"),
        pytest.param(b"v=spf1 -all", None, id="something else"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_record(text: bytes, want: Record | None) -> None:
    assert parse_record(text) == want


@given(st.binary(max_size=200).map(lambda tail: b"v=DMARC1;" + tail))
def test_no_record_breaks_the_reader(text: bytes) -> None:
    assert parse_record(text) is not None


@pytest.mark.rfc(9989, "4.10")
def test_names_of_a_walk() -> None:
    assert walk_names("a.mail.example.com") == ["a.mail.example.com", "mail.example.com", "example.com", "com"]
    assert walk_names("com") == ["com"]
    eight = "a.b.c.d.e.f.example.com"
    assert walk_names(eight)[1] == "b.c.d.e.f.example.com"
    assert len(walk_names(eight)) == MAX_QUERIES
    assert walk_names("a.b.c.d.e.f.g.h.i.j.mail.example.com")[:2] == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
    ]
    assert len(walk_names("a.b.c.d.e.f.g.h.i.j.mail.example.com")) == MAX_QUERIES


@pytest.mark.rfc(9989, "4.10.1")
@pytest.mark.rfc(9989, "4.10.2")
@pytest.mark.parametrize(
    ("records", "domain", "organization", "record_domain"),
    [
        pytest.param({}, "a.b.example.com", "a.b.example.com", "", id="nothing anywhere"),
        pytest.param({"example_com": "p=none"}, "a.b.example.com", "example.com", "example.com", id="one above"),
        pytest.param(
            {"mail_example_com": "p=none", "example_com": "p=none"},
            "a.mail.example.com",
            "example.com",
            "example.com",
            id="the fewest labels",
        ),
        pytest.param(
            {"mail_example_com": "p=none", "example_com": "p=none"},
            "mail.example.com",
            "example.com",
            "mail.example.com",
            id="own record, organization above",
        ),
        pytest.param(
            {"mail_example_com": "p=none; psd=n", "example_com": "p=none"},
            "a.mail.example.com",
            "mail.example.com",
            "mail.example.com",
            id="psd=n ends the walk",
        ),
        pytest.param({"com": "p=none; psd=y"}, "a.mail.example.com", "example.com", "com", id="psd=y, its record"),
        pytest.param(
            {"com": "p=none; psd=y", "example_com": "p=none"},
            "a.mail.example.com",
            "example.com",
            "example.com",
            id="psd=y, record of the organization",
        ),
        pytest.param(
            {"com": "p=none; psd=y", "mail_example_com": "p=none"},
            "a.mail.example.com",
            "example.com",
            "com",
            id="psd=y, records between do not count",
        ),
        pytest.param({"com": "p=none; psd=y"}, "com", "com", "com", id="psd=y where the walk begins"),
        pytest.param({"com": "p=none"}, "a.example.com", "example.com", "com", id="public suffix that does not say so"),
        pytest.param({"co_uk": "p=none"}, "a.x.co.uk", "x.co.uk", "co.uk", id="public suffix of two labels"),
        pytest.param(
            {"example_com": "p=none"}, "a.b.c.d.e.f.g.h.i.example.com", "example.com", "example.com", id="long"
        ),
    ],
)
def test_organization(records: dict[str, str], domain: str, organization: str, record_domain: str) -> None:
    resolver = _resolver(**{name: f"v=DMARC1; {text}" for name, text in records.items()})
    found = asyncio.run(find_organization(Records(resolver), domain))
    assert (found.domain, found.record_domain) == (organization, record_domain)
    assert len(resolver.queries) <= MAX_QUERIES


@pytest.mark.rfc(9989, "4.10")
def test_two_records_at_a_name_are_none_and_other_texts_do_not_count() -> None:
    resolver = ZoneResolver(
        {
            "_dmarc.two.test": {"TXT": ["v=DMARC1; p=reject", "v=DMARC1; p=reject"]},
            "_dmarc.other.test": {"TXT": ["hello", "v=DMARC1; p=reject"]},
        }
    )
    records = Records(resolver)
    assert asyncio.run(records.at("two.test")) is None
    assert asyncio.run(records.at("other.test")) == Record(Wish.REJECT)


def test_a_name_is_asked_once() -> None:
    resolver = _resolver(example_com="v=DMARC1; p=reject")
    records = Records(resolver)

    async def walk() -> None:
        await find_organization(records, "a.example.com")
        await find_organization(records, "b.example.com")

    asyncio.run(walk())
    assert [name for name, _ in resolver.queries].count("_dmarc.example.com") == 1


def test_an_error_is_not_an_answer() -> None:
    resolver = _resolver(example_com="v=DMARC1; p=reject")
    resolver.fail("_dmarc.example.com")
    with pytest.raises(DnsError):
        asyncio.run(find_organization(Records(resolver), "a.example.com"))


@pytest.mark.parametrize(
    ("domain", "want"),
    [("a.b.example.co.uk", "example.co.uk"), ("co.uk", ""), ("a.blogspot.com", "blogspot.com"), ("a.b.test", "b.test")],
)
def test_registered_domain(domain: str, want: str) -> None:
    assert asyncio.run(registered(domain)) == want
