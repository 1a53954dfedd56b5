"""DMARC: alignment, wishes, and what is not known."""

import asyncio
import functools

import authheaders
import authheaders.dmarc_lookup
import pytest
from authres import DKIMAuthenticationResult, SPFAuthenticationResult

from pochta.policy import dmarc
from pochta.policy.results import Dkim, DkimResult, Dmarc, DmarcResult, Spf, SpfResult, Wish
from pochta.testing.resolver import ZoneResolver


def _zone(records: dict[str, str]) -> ZoneResolver:
    return ZoneResolver({f"_dmarc.{name}": {"TXT": [f"v=DMARC1; {text}"]} for name, text in records.items()})


def _spf(domain: str, result: Spf = Spf.PASS) -> SpfResult:
    return SpfResult(result, domain)


def _dkim(domain: str, result: Dkim = Dkim.PASS) -> DkimResult:
    return DkimResult(result, domain)


def _evaluate(
    resolver: ZoneResolver,
    authors: list[str],
    spf: SpfResult | None = None,
    dkim: tuple[DkimResult, ...] = (),
    uses_public_suffix_fallback: bool = True,
) -> DmarcResult:
    return asyncio.run(
        dmarc.evaluate(resolver, authors, spf, dkim, uses_public_suffix_fallback=uses_public_suffix_fallback)
    )


@pytest.mark.rfc(9989, "4.4")
@pytest.mark.rfc(9989, "4.10.2")
@pytest.mark.parametrize("method", ["spf", "dkim"])
@pytest.mark.parametrize(
    ("records", "author", "identifier", "is_aligned"),
    [
        pytest.param({"example.com": "p=reject"}, "example.com", "example.com", True, id="same"),
        pytest.param({"example.com": "p=reject"}, "Example.COM", "eXample.com", True, id="case"),
        pytest.param({"example.com": "p=reject"}, "example.com", "a.example.com", True, id="identifier below"),
        pytest.param({"example.com": "p=reject"}, "a.example.com", "example.com", True, id="author below"),
        pytest.param({"example.com": "p=reject"}, "a.example.com", "b.example.com", True, id="siblings"),
        pytest.param({"example.com": "p=reject"}, "example.com", "example.net", False, id="another domain"),
        pytest.param({"example.com": "p=reject"}, "example.com", "notexample.com", False, id="same tail"),
        pytest.param({"example.com": "p=reject"}, "example.com", "com", False, id="the public suffix"),
        pytest.param({"example.com": "p=reject"}, "example.com", "", False, id="none"),
        pytest.param({"example.com": "p=reject; {}=s"}, "example.com", "example.com", True, id="strict, same"),
        pytest.param({"example.com": "p=reject; {}=s"}, "example.com", "a.example.com", False, id="strict, below"),
        pytest.param({"example.com": "p=reject; {}=s"}, "a.example.com", "example.com", False, id="strict, above"),
        pytest.param(
            {"example.com": "p=reject; {}=s"}, "a.example.com", "a.example.com", True, id="strict, same below"
        ),
        pytest.param(
            {"example.com": "p=reject", "b.example.com": "p=none; psd=n"},
            "a.example.com",
            "b.example.com",
            False,
            id="psd=n on the identifier's side",
        ),
        pytest.param(
            {"example.com": "p=reject", "b.example.com": "p=none; psd=n"},
            "x.b.example.com",
            "y.b.example.com",
            True,
            id="both below psd=n",
        ),
        pytest.param(
            {"example.com": "p=reject", "b.example.com": "p=none; psd=n"},
            "b.example.com",
            "example.com",
            False,
            id="psd=n on the author's side",
        ),
        pytest.param({"com": "p=reject; psd=y"}, "a.example.com", "b.example.com", True, id="one below psd=y"),
        pytest.param({"com": "p=reject; psd=y"}, "example.com", "example2.com", False, id="two below psd=y"),
        pytest.param({"com": "p=reject"}, "example.com", "example2.com", False, id="suffix without psd="),
        pytest.param({"bank": "p=reject; psd=y"}, "bank", "a.bank", False, id="psd=y as author"),
        pytest.param(
            {"mail.example.com": "p=reject"}, "mail.example.com", "example.com", True, id="suffix list, above"
        ),
        pytest.param({"m.example.com": "p=reject"}, "m.example.com", "b.example.com", True, id="suffix list, beside"),
        pytest.param({"m.example.co.uk": "p=reject"}, "m.example.co.uk", "other.co.uk", False, id="suffix list, other"),
        pytest.param(
            {"m.example.com": "p=reject; psd=n"}, "m.example.com", "example.com", False, id="suffix list, psd=n"
        ),
    ],
)
def test_alignment(method: str, records: dict[str, str], author: str, identifier: str, is_aligned: bool) -> None:
    tag = {"spf": "aspf", "dkim": "adkim"}[method]
    resolver = _zone({name: text.replace("{}", tag) for name, text in records.items()})
    spf = _spf(identifier) if method == "spf" else None
    result = _evaluate(resolver, [author], spf, (_dkim(identifier),) if method == "dkim" else ())
    assert result.result is (Dmarc.PASS if is_aligned else Dmarc.FAIL)
    assert result.aligned == ((method,) if is_aligned else ())


def test_the_strictness_of_one_method_is_not_that_of_the_other() -> None:
    resolver = _zone({"example.com": "p=reject; aspf=s"})
    result = _evaluate(resolver, ["example.com"], _spf("a.example.com"), (_dkim("a.example.com"),))
    assert result.aligned == ("dkim",)


def test_without_the_suffix_list_the_walk_alone_decides() -> None:
    resolver = _zone({"mail.example.com": "p=reject"})
    result = _evaluate(resolver, ["mail.example.com"], _spf("example.com"), uses_public_suffix_fallback=False)
    assert result.result is Dmarc.FAIL


@pytest.mark.rfc(9989, "4.4.2")
@pytest.mark.parametrize(
    ("spf", "dkim"),
    [
        pytest.param(SpfResult(Spf.PASS, "example.com", is_helo=True), (), id="HELO"),
        pytest.param(_spf("example.com", Spf.SOFTFAIL), (), id="softfail"),
        pytest.param(_spf("example.com", Spf.NONE), (_dkim("example.com", Dkim.FAIL),), id="failed signature"),
        pytest.param(None, (_dkim("example.com", Dkim.POLICY), _dkim("example.net")), id="only a stranger's passes"),
    ],
)
def test_what_is_no_authentication(spf: SpfResult | None, dkim: tuple[DkimResult, ...]) -> None:
    result = _evaluate(_zone({"example.com": "p=quarantine"}), ["example.com"], spf, dkim)
    assert result == DmarcResult(Dmarc.FAIL, "example.com", "example.com", result.organizational, Wish.QUARANTINE)


@pytest.mark.rfc(9989, "4.10.1")
@pytest.mark.rfc(9989, "3.2.13")
@pytest.mark.parametrize(
    ("record", "author", "wish"),
    [
        ("p=reject", "example.com", Wish.REJECT),
        ("p=reject", "here.example.com", Wish.REJECT),
        ("p=reject; sp=none", "example.com", Wish.REJECT),
        ("p=reject; sp=none", "here.example.com", Wish.NONE),
        ("p=none; sp=quarantine; np=reject", "here.example.com", Wish.QUARANTINE),
        ("p=none; sp=quarantine; np=reject", "gone.example.com", Wish.REJECT),
        ("p=none; sp=quarantine", "gone.example.com", Wish.QUARANTINE),
        ("p=none; np=reject", "here.example.com", Wish.NONE),
        ("p=none; np=reject", "example.com", Wish.NONE),
        ("p=reject; t=y", "example.com", Wish.QUARANTINE),
        ("p=quarantine; t=y", "example.com", Wish.NONE),
        ("p=none; np=reject; t=y", "gone.example.com", Wish.QUARANTINE),
        ("p=reject; pct=0", "example.com", Wish.REJECT),
    ],
)
def test_wish(record: str, author: str, wish: Wish) -> None:
    resolver = _zone({"example.com": record})
    resolver.add("here.example.com", "MX", (10, "mx.test"))
    result = _evaluate(resolver, [author])
    assert (result.result, result.wish, result.record_domain) == (Dmarc.FAIL, wish, "example.com")


@pytest.mark.rfc(9989, "5.3.1")
@pytest.mark.parametrize(
    ("authors", "result", "domain"),
    [
        pytest.param([], Dmarc.PERMERROR, "", id="nobody"),
        pytest.param([f"d{n}.test" for n in range(6)], Dmarc.PERMERROR, "", id="too many"),
        pytest.param(["mine.test", "none.test"], Dmarc.NONE, "none.test", id="a pass does not speak for others"),
        pytest.param(["mine.test", "bank.test"], Dmarc.FAIL, "bank.test", id="a failure counts"),
        pytest.param(["bank.test", "mine.test"], Dmarc.FAIL, "bank.test", id="in any order"),
        pytest.param(["lax.test", "bank.test"], Dmarc.FAIL, "bank.test", id="the strictest failure"),
        pytest.param(["bank.test", "slow.test"], Dmarc.FAIL, "bank.test", id="a failure before an error"),
        pytest.param(["mine.test", "slow.test"], Dmarc.TEMPERROR, "slow.test", id="an error before a pass"),
        pytest.param(["mine.test", "MINE.test."], Dmarc.PASS, "mine.test", id="one domain twice"),
        pytest.param(["[192.0.2.1]"], Dmarc.NONE, "[192.0.2.1]", id="an address"),
        pytest.param(["a b.test"], Dmarc.PERMERROR, "", id="no domain"),
        pytest.param(["büro.test"], Dmarc.FAIL, "xn--bro-hoa.test", id="U-labels"),
    ],
)
def test_authors(authors: list[str], result: Dmarc, domain: str) -> None:
    resolver = _zone(
        {"mine.test": "p=none", "lax.test": "p=none", "bank.test": "p=reject", "xn--bro-hoa.test": "p=reject"}
    )
    resolver.fail("_dmarc.slow.test")
    found = _evaluate(resolver, authors, None, (_dkim("mine.test"),))
    assert (found.result, found.domain) == (result, domain)


@pytest.mark.rfc(9989, "5.3.6")
@pytest.mark.parametrize(
    ("failing", "spf", "dkim", "result"),
    [
        pytest.param("_dmarc.example.com", _spf("example.com"), (), Dmarc.TEMPERROR, id="the record"),
        pytest.param("", _spf("example.com", Spf.TEMPERROR), (), Dmarc.TEMPERROR, id="SPF of the author"),
        pytest.param("", None, (_dkim("example.com", Dkim.TEMPERROR),), Dmarc.TEMPERROR, id="key of the author"),
        pytest.param("", None, (_dkim("evil.test", Dkim.TEMPERROR),), Dmarc.FAIL, id="key of a stranger"),
        pytest.param("", _spf("evil.test", Spf.TEMPERROR), (), Dmarc.FAIL, id="SPF of a stranger"),
        pytest.param("_dmarc.b.example.com", _spf("b.example.com"), (), Dmarc.TEMPERROR, id="walk of an identifier"),
        pytest.param("_dmarc.b.example.com", _spf("b.example.com"), (_dkim("example.com"),), Dmarc.PASS, id="another"),
        pytest.param(
            "", _spf("example.com", Spf.TEMPERROR), (_dkim("example.com"),), Dmarc.PASS, id="the other passes"
        ),
    ],
)
def test_dns_errors(failing: str, spf: SpfResult | None, dkim: tuple[DkimResult, ...], result: Dmarc) -> None:
    resolver = _zone({"example.com": "p=reject"})
    if failing:
        resolver.fail(failing)
    assert _evaluate(resolver, ["example.com"], spf, dkim).result is result


def test_an_error_while_asking_whether_the_author_exists() -> None:
    resolver = _zone({"example.com": "p=none; np=reject"})
    resolver.fail("gone.example.com", "A")
    assert _evaluate(resolver, ["gone.example.com"]).result is Dmarc.TEMPERROR


def test_a_record_without_valid_wishes() -> None:
    assert _evaluate(_zone({"example.com": "p=banana"}), ["example.com"]).result is Dmarc.PERMERROR
    usable = _evaluate(_zone({"example.com": "p=banana; rua=mailto:a@example.com"}), ["example.com"])
    assert (usable.result, usable.wish) == (Dmarc.FAIL, Wish.NONE)


def test_the_usual_message_costs_one_question() -> None:
    resolver = _zone({"example.com": "p=reject"})
    _evaluate(resolver, ["example.com"], _spf("example.com"), (_dkim("example.com"), _dkim("mailer.test")))
    assert resolver.queries == [("_dmarc.example.com", "TXT")]


def test_strangers_cost_no_questions() -> None:
    resolver = _zone({"example.com": "p=reject"})
    strangers = tuple(_dkim(f"a.b.c.d.e.f.s{number}.test") for number in range(50))
    assert _evaluate(resolver, ["example.com"], None, strangers).result is Dmarc.FAIL
    assert {name for name, _ in resolver.queries} == {"_dmarc.example.com", "_dmarc.com"}


ORACLE_RECORDS = {
    "example.com": "p=reject",
    "example.net": "p=none; sp=reject",
    "example.org": "p=quarantine; adkim=s; aspf=s",
    "mail.example.co.uk": "p=reject",
}


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle reads its list of suffixes anew for each question."""
    cached = functools.cache(authheaders.dmarc_lookup.get_org_domain)
    monkeypatch.setattr(authheaders, "get_org_domain", cached)
    monkeypatch.setattr(authheaders.dmarc_lookup, "get_org_domain", cached)


def _oracle_dns(name: str | bytes, timeout: int = 5) -> str:
    text = name.decode() if isinstance(name, bytes) else name
    record = ORACLE_RECORDS.get(text.removeprefix("_dmarc."))
    return f"v=DMARC1; {record}" if record and text.startswith("_dmarc.") else ""


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize(
    "author", ["example.com", "a.example.com", "b.example.net", "example.org", "mail.example.co.uk"]
)
def test_authheaders_agrees_on_alignment(author: str) -> None:
    resolver = _zone(ORACLE_RECORDS)
    for identifier in ("example.com", "x.example.com", "example.net", "example.org", "x.example.org", "example.co.uk"):
        want, *_ = authheaders.dmarc_per_from(
            author, DKIMAuthenticationResult(result="none"), _oracle_signed(identifier), dnsfunc=_oracle_dns
        )
        assert _evaluate(resolver, [author], None, (_dkim(identifier),)).result == want, identifier
        want, *_ = authheaders.dmarc_per_from(author, _oracle_sent(identifier), None, dnsfunc=_oracle_dns)
        assert _evaluate(resolver, [author], _spf(identifier)).result == want, identifier


def _oracle_signed(domain: str) -> DKIMAuthenticationResult:
    return DKIMAuthenticationResult(result="pass", header_d=domain)


def _oracle_sent(domain: str) -> SPFAuthenticationResult:
    return SPFAuthenticationResult(result="pass", smtp_mailfrom=f"x@{domain}")
