"""What the suite leaves open: limits, explanations, internationalized names, hostile records."""

import asyncio
import contextlib
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.dns import Answer
from pochta.policy.results import Spf, SpfResult
from pochta.policy.spf import check, check_host
from pochta.policy.spf.record import (
    MAX_MACROS,
    MAX_RECORD_BYTES,
    Macro,
    SpfSyntaxError,
    is_spf,
    parse_explanation,
    parse_record,
)
from pochta.testing.resolver import ZoneResolver

NOW_S = 1_700_000_000.9


def resolver_of(records: dict[str, Any]) -> ZoneResolver:
    """`{"a.test": "v=spf1 -all"}` is a TXT record; a list, addresses; a dict, what `ZoneResolver` takes."""
    resolver = ZoneResolver()
    for name, value in records.items():
        if isinstance(value, str | bytes):
            resolver.add(name, "TXT", value)
        elif isinstance(value, list):
            for one in value:
                resolver.add(name, "AAAA" if ":" in one else "A", one)
        else:
            for kind, values in value.items():
                resolver.add(name, kind, *values)
    return resolver


def run(
    resolver: ZoneResolver,
    *,
    address: str = "192.0.2.1",
    domain: str = "a.test",
    sender: str = "user@a.test",
    helo: str = "mx.a.test",
    **more: Any,
) -> SpfResult:
    return asyncio.run(
        check_host(
            resolver,
            address=ip_address(address),
            domain=domain,
            sender=sender,
            helo=helo,
            receiver="b.test",
            now_s=NOW_S,
            **more,
        )
    )


def result_of(records: dict[str, Any], **arguments: Any) -> SpfResult:
    return run(resolver_of(records), **arguments)


def test_result_tells_what_was_evaluated_and_what_matched() -> None:
    records = {"a.test": "v=spf1 ip4:198.51.100.0/24 ~mx:b.test/24 -all", "b.test": {"MX": [(1, "c.test")]}}
    records["c.test"] = ["192.0.2.200"]
    assert result_of(records) == SpfResult(Spf.SOFTFAIL, "a.test", mechanism="~mx:b.test/24")
    helo = result_of({"mx.a.test": "v=spf1 -all"}, domain="mx.a.test", sender="", is_helo=True)
    assert helo == SpfResult(Spf.FAIL, "mx.a.test", is_helo=True, mechanism="-all")
    assert result_of({"a.test": "v=spf1 a:b.test"}) == SpfResult(Spf.NEUTRAL, "a.test")
    assert result_of({"a.test": "v=spf1 +all"}, domain="a.test.").result is Spf.PASS


REASONS = {
    "syntax": ("v=spf1 foo:bar", "a.test: unknown term foo:bar"),
    "lookups": ("v=spf1 " + "a:mx.test " * 11, "more than 10 terms that ask DNS"),
    "voids": ("v=spf1 a:x.test mx:x.test exists:x.test", "more than 2 terms that ask DNS in vain"),
    "include": ("v=spf1 include:x.test", "include of x.test, which has no record"),
    "redirect": ("v=spf1 redirect=x.test", "redirect to x.test, which has no record"),
    "exchangers": ("v=spf1 mx:many.test", "many.test has more than 10 MX records"),
}


@pytest.mark.rfc(7208, "4.6.4")
@pytest.mark.parametrize("case", REASONS)
def test_permanent_error_has_a_reason(case: str) -> None:
    record, reason = REASONS[case]
    many = {"MX": [(1, f"mx{at}.many.test") for at in range(11)]}
    found = result_of({"a.test": record, "mx.test": ["192.0.2.99"], "many.test": many})
    assert (found.result, found.reason) == (Spf.PERMERROR, reason)


@pytest.mark.rfc(7208, "4.6.4")
def test_limits_are_of_the_whole_evaluation() -> None:
    records = {f"i{at}.a.test": f"v=spf1 a:mx.test include:i{at + 1}.a.test" for at in range(5)}
    records |= {"a.test": "v=spf1 include:i0.a.test -all", "i5.a.test": "v=spf1 ?all"}
    # 6 includes and 5 "a"
    assert result_of({**records, "mx.test": ["192.0.2.99"]}).reason == "more than 10 terms that ask DNS"
    records["i4.a.test"] = "v=spf1 include:i5.a.test"
    assert result_of({**records, "mx.test": ["192.0.2.99"]}).result is Spf.FAIL


@pytest.mark.rfc(7208, "4.6.4")
def test_ten_lookups_and_two_vain_ones_are_within_the_limits() -> None:
    terms = "a:x.test a:y.test " + "a:mx.test " * 8
    assert result_of({"a.test": f"v=spf1 {terms}-all", "mx.test": ["192.0.2.99"]}).result is Spf.FAIL


def test_hosts_without_an_address_of_the_family_are_no_vain_lookups() -> None:
    records: dict[str, Any] = {"a.test": {"TXT": ["v=spf1 mx -all"], "MX": [(1, f"mx{at}.a.test") for at in range(10)]}}
    records |= {f"mx{at}.a.test": [f"192.0.2.{at}"] for at in range(10)}
    assert result_of(records, address="2001:db8::1").result is Spf.FAIL


def test_loop_of_includes_and_redirects_ends() -> None:
    for record in ("v=spf1 include:a.test", "v=spf1 redirect=a.test"):
        resolver = resolver_of({"a.test": record})
        assert run(resolver).result is Spf.PERMERROR
        assert len(resolver.queries) == 1 + check.MAX_LOOKUPS


@pytest.mark.rfc(7208, "4.6.4")
def test_validated_name_is_looked_up_once_and_counts() -> None:
    records = {
        "a.test": "v=spf1 " + "exists:%{p}.x.test " * 9 + "-all",
        "192.0.2.1": {"PTR": [f"mx{at}.a.test" for at in range(20)]},
        "mx.a.test.x.test": ["127.0.0.2"],
    }
    resolver = resolver_of({name: value for name, value in records.items() if name != "192.0.2.1"})
    for name in records["192.0.2.1"]["PTR"]:  # type: ignore[index]
        resolver.add("192.0.2.1", "PTR", name)
        resolver.add(name, "A", "192.0.2.99")
    assert run(resolver).reason == "more than 2 terms that ask DNS in vain"
    assert [kind for _, kind in resolver.queries] == ["TXT", "PTR", *["A"] * (check.MAX_HOSTS + 3)]
    resolver.remove("a.test")
    resolver.add("a.test", "TXT", "v=spf1 " + "a:mx1.a.test " * 9 + "exists:%{p}.x.test -all")
    assert run(resolver).reason == "more than 10 terms that ask DNS"


@pytest.mark.rfc(7208, "7.3")
@pytest.mark.parametrize(
    ("domain", "wanted"), [("b.test", "b.test"), ("c.test", "mx.c.test"), ("d.test", "other.test")]
)
def test_validated_name_is_the_nearest_to_the_domain(domain: str, wanted: str) -> None:
    records: dict[str, Any] = {domain: {"TXT": [f"v=spf1 exists:%{{p}}.for.{domain} -all"]}}
    records[f"{wanted}.for.{domain}"] = ["127.0.0.2"]
    resolver = resolver_of(records)
    for name in ("other.test", "mx.c.test", "b.test"):
        resolver.add("192.0.2.1", "PTR", name)
        resolver.add(name, "A", "192.0.2.1")
    assert run(resolver, domain=domain).result is Spf.PASS


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(ZoneResolver):
        async def txt(self, name: str) -> Answer[bytes]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(check, "TIMEOUT_S", 0.01)
    found = run(Stuck())
    assert (found.result, found.reason) == (Spf.TEMPERROR, "took too long")


# Explanations

TEXTS = {
    "macros": ("%{i} of %{H} (%{r}, %{t}) may not be %{S}", "192.0.2.1 of mx.a.test (b.test, 1700000000) may not be "
                                                            "user%40a.test"),
    "escapes": ("100%% no%_%-way", "100% no %20way"),
    "spaces": ("  two  ", "  two  "),
    "empty": ("", ""),
    "long": ("x" * 2000, "x" * check.MAX_EXPLANATION_CHARS),
    "not ascii": (b"caf\xe9", ""),
    "control": (b"a\r\nb", ""),
    "macro that is none": ("%{x}", ""),
}  # fmt: skip


@pytest.mark.rfc(7208, "6.2")
@pytest.mark.parametrize("case", TEXTS)
def test_explanation(case: str) -> None:
    text, wanted = TEXTS[case]
    found = result_of({"a.test": "v=spf1 -all exp=why.%{d}", "why.a.test": text})
    assert (found.result, found.explanation) == (Spf.FAIL, wanted)


def test_explanation_has_nothing_invisible_from_the_sender() -> None:
    found = result_of({"a.test": "v=spf1 -all exp=w.a.test", "w.a.test": "<%{l}>"}, sender="jürgen\r\n\x07x@a.test")
    assert found.explanation == "<jrgenx>"
    found = result_of({"a.test": "v=spf1 -all exp=w.a.test", "w.a.test": "<%{L}>"}, sender="\udc80@a.test")
    assert found.explanation == "<%3F>"


def test_only_a_fail_is_explained() -> None:
    for record in ("v=spf1 ~all exp=w.a.test", "v=spf1 exp=w.a.test"):
        resolver = resolver_of({"a.test": record, "w.a.test": "no"})
        assert run(resolver).explanation == ""
        assert len(resolver.queries) == 1


def test_explanation_that_cannot_be_had_changes_nothing() -> None:
    resolver = resolver_of({"a.test": "v=spf1 -all exp=w.a.test"})
    resolver.fail("w.a.test")
    assert run(resolver) == SpfResult(Spf.FAIL, "a.test", mechanism="-all")


# Names


@pytest.mark.parametrize(
    "domain",
    ["test", "", ".", "[192.0.2.1]", "a..test", "a b.test", "\udc80.test", "x" * 64 + ".test", "x." * 126 + "xx"],
    ids=ascii,
)
@pytest.mark.rfc(7208, "4.3")
def test_what_is_no_domain_has_no_policy(domain: str) -> None:
    resolver = resolver_of({"a.test": "v=spf1 -all"})
    found = run(resolver, domain=domain)
    assert (found.result, found.reason) == (Spf.NONE, "not a domain name")
    assert found.domain.isascii()
    assert resolver.queries == []


@pytest.mark.rfc(8616, "4")
def test_internationalized_domain_is_seen_in_a_labels() -> None:
    records = {"xn--bcher-kva.test": "v=spf1 exists:%{o}.%{h}.x.test -all"}
    records["xn--bcher-kva.test.xn--mx-yka.test.x.test"] = ["127.0.0.2"]  # type: ignore[assignment]
    found = result_of(records, domain="Bücher.test", sender="user@Bücher.test", helo="mxü.test")
    assert (found.result, found.domain) == (Spf.PASS, "xn--bcher-kva.test")


@pytest.mark.rfc(8616, "4")
def test_local_part_beyond_ascii_matches_nothing() -> None:
    resolver = resolver_of({"a.test": "v=spf1 exists:%{l}.a.test include:%{s}.a.test a:%{L}.a.test ~all"})
    assert run(resolver, sender="jürgen@a.test").result is Spf.SOFTFAIL
    assert resolver.queries == [("a.test", "TXT")]
    assert result_of({"a.test": "v=spf1 redirect=%{l}.a.test"}, sender="ü@a.test").result is Spf.PERMERROR


@pytest.mark.rfc(7208, "5")
def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert result_of({"a.test": "v=spf1 ip4:192.0.2.1 -all"}, address="::ffff:192.0.2.1").result is Spf.PASS
    assert result_of({"a.test": "v=spf1 ip6:::ffff:192.0.2.1 -all"}, address="::ffff:192.0.2.1").result is Spf.FAIL


# RFC 7208 §7.4: sender strong-bad@email.example.com
EXPANSIONS = {
    "%{s}": "strong-bad@email.example.com",
    "%{o}": "email.example.com",
    "%{d}": "email.example.com",
    "%{d4}": "email.example.com",
    "%{d3}": "email.example.com",
    "%{d2}": "example.com",
    "%{d1}": "com",
    "%{d000000000000000000002}": "example.com",
    "%{d99999999999999999999}": "email.example.com",
    "%{dr}": "com.example.email",
    "%{d2r}": "example.email",
    "%{l}": "strong-bad",
    "%{l-}": "strong.bad",
    "%{lr}": "strong-bad",
    "%{lr-}": "bad.strong",
    "%{l1r-}": "strong",
    "%{ir}.%{v}._spf.%{d2}": "3.2.0.192.in-addr._spf.example.com",
    "%{lr-}.lp._spf.%{d2}": "bad.strong.lp._spf.example.com",
    "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}": "bad.strong.lp.3.2.0.192.in-addr._spf.example.com",
    "%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}": "3.2.0.192.in-addr.strong.lp._spf.example.com",
    "%{d2}.trusted-domains.example.net": "example.com.trusted-domains.example.net",
}


@pytest.mark.rfc(7208, "7.4")
@pytest.mark.parametrize("text", EXPANSIONS)
def test_expansion(text: str) -> None:
    domain = "email.example.com"
    records = {domain: "v=spf1 -all exp=w.test", "w.test": text}
    found = result_of(records, address="192.0.2.3", domain=domain, sender=f"strong-bad@{domain}")
    assert found.explanation == EXPANSIONS[text]


@pytest.mark.rfc(7208, "7.4")
def test_expansion_ipv6() -> None:
    domain = "email.example.com"
    records = {domain: "v=spf1 -all exp=w.test", "w.test": "%{ir}.%{v}._spf.%{d2}"}
    found = result_of(records, address="2001:db8::cb01", domain=domain)
    assert found.explanation == ("1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com")


@pytest.mark.rfc(7208, "7.3")
def test_name_that_is_too_long_loses_labels_on_the_left() -> None:
    resolver = resolver_of({"a.test": "v=spf1 exists:%{l}.a.test -all"})
    run(resolver, sender="x" * 60 + "." + ".".join(["y" * 60] * 4) + "@a.test")
    assert resolver.queries[-1] == (".".join(["y" * 60] * 4) + ".a.test", "A")
    run(resolver, sender="x" * 300 + "@a.test")
    assert resolver.queries[-1] == ("a.test", "A")


# Records

VALID = [
    b"v=spf1",
    b"V=SPF1  A  MX ",
    b"v=spf1 a/0//0 mx//128 a:b.test/32 mx:%{d}/24//64 a:b.test.",
    b"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip6:::1 ip6:::ffff:192.0.2.1/128",
    b"v=spf1 exists:%{ir}.%{v}.%{l1r+-}._spf.%{d2} ?ptr:b.test -all",
    b"v=spf1 foo=%{c}%{r}%{t} foo=bar moo= a=b redirect=b.1-2",
    b"v=spf1 include:a/b.test exists:x:y.test a:%% a:x%_",
]
INVALID = [
    b"v=spf1 a/33", b"v=spf1 a//129", b"v=spf1 a/08", b"v=spf1 a/", b"v=spf1 a//", b"v=spf1 a:", b"v=spf1 a:b.test/",
    b"v=spf1 a:b.test//", b"v=spf1 a:b.test/24/64", b"v=spf1 a///64", b"v=spf1 a:b", b"v=spf1 a:b.1", b"v=spf1 a:b.-c",
    b"v=spf1 a:b.c-", b"v=spf1 a:b.test}", b"v=spf1 a:%%_", b"v=spf1 a:%{d", b"v=spf1 a:%{d0}", b"v=spf1 a:%{d00r}",
    b"v=spf1 a:%{c}", b"v=spf1 exp=%{t}", b"v=spf1 a:%(d)", b"v=spf1 all:b.test", b"v=spf1 all/24", b"v=spf1 ptr/24",
    b"v=spf1 include", b"v=spf1 exists", b"v=spf1 exists:b.test/24", b"v=spf1 ip4", b"v=spf1 ip4:192.0.2",
    b"v=spf1 ip4:192.0.2.1/33", b"v=spf1 ip4:192.0.2.01", b"v=spf1 ip4:192.0.2.1//32", b"v=spf1 ip4/24",
    b"v=spf1 ip6:2001:db8::/129", b"v=spf1 ip6:fe80::1%eth0", b"v=spf1 ip6:192.0.2.1", b"v=spf1 ip6:",
    b"v=spf1 redirect=", b"v=spf1 redirect=b.test redirect=b.test", b"v=spf1 exp=b.test EXP=c.test", b"v=spf1 =x",
    b"v=spf1 foo=%{x}", b"v=spf1 foo=\x01", b"v=spf1 --all", b"v=spf1 -", b"v=spf1 a\tmx", b"v=spf1 caf\xe9",
    b"v=spf1 " + b"a " * MAX_RECORD_BYTES, b"v=spf1 a:" + b"%{l}" * (MAX_MACROS + 1),
]  # fmt: skip


@pytest.mark.rfc(7208, "4.6.1")
@pytest.mark.parametrize("text", VALID, ids=ascii)
def test_valid_record(text: bytes) -> None:
    assert is_spf(text)
    parse_record(text)


@pytest.mark.rfc(7208, "4.6.1")
@pytest.mark.parametrize("text", INVALID, ids=lambda text: ascii(text[:30]))
def test_invalid_record(text: bytes) -> None:
    with pytest.raises(SpfSyntaxError) as caught:
        parse_record(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.rfc(7208, "4.5")
@pytest.mark.parametrize(
    ("text", "wanted"), [(b"v=spf1", True), (b"v=spf10", False), (b" v=spf1", False), (b"v=spf1\ta", False)]
)
def test_is_spf(text: bytes, wanted: bool) -> None:
    assert is_spf(text) is wanted


def test_redirect_beside_all_is_void() -> None:
    assert parse_record(b"v=spf1 redirect=b.test ?all").redirect is None
    assert parse_record(b"v=spf1 redirect=b.test").redirect is not None


def test_explanation_is_read_as_macros() -> None:
    assert parse_explanation(b"a %{D2r-}").parts == ("a ", Macro("d", 2, True, "-", True))


# Whatever strangers write

KNOWN_TERMS = [
    "a", "mx", "ptr", "all", "-all", "~all", "?all", "a:a.test", "mx:b.test", "include:a.test", "include:b.test",
    "redirect=b.test", "exp=a.test", "exists:%{i}.%{p}.%{d}.test", "a:%{l}.%{h}.test", "ip4:192.0.2.0/24",
    "ip6:2001:db8::/32", "a/0", "mx/8//8", "x=%{s}",
]  # fmt: skip
TERM = st.one_of(
    st.sampled_from(KNOWN_TERMS),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
    st.text(max_size=5),
)
RECORD = st.one_of(
    st.lists(TERM, max_size=14).map(lambda terms: " ".join(["v=spf1", *terms]).encode()),
    st.binary(max_size=40).map(lambda text: b"v=spf1 " + text),
)


@given(RECORD, RECORD, st.sampled_from(["192.0.2.1", "2001:db8::1", "203.0.113.9"]), st.text(max_size=10))
def test_no_record_raises_and_the_work_is_bounded(first: bytes, second: bytes, address: str, sender: str) -> None:
    hosts = {"A": ["192.0.2.7"], "MX": [(at, f"mx{at}.a.test") for at in range(9)]}
    resolver = resolver_of({"a.test": {"TXT": [first], **hosts}, "b.test": {"TXT": [second], **hosts}})
    for at in range(12):
        resolver.add(address, "PTR", f"mx{at}.a.test")
    found = run(resolver, address=address, sender=sender, domain="a.test")
    assert f"{found.explanation}{found.reason}".isascii()
    assert f"{found.explanation}{found.reason}{found.mechanism}".isprintable()
    # The first TXT and exp=, and for each term its own question and those of its hosts; %{p} counts as a term
    assert len(resolver.queries) <= 2 + check.MAX_LOOKUPS * (1 + check.MAX_HOSTS) + 1 + check.MAX_HOSTS


@given(st.binary(max_size=60))
def test_explanation_text_is_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(SpfSyntaxError):
        parse_explanation(text)
