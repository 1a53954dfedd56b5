"""The suite of openspf.org for RFC 7208, whole, and the ad hoc tests of pyspf that came with it."""

import asyncio
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pochta.policy.results import SpfResult
from pochta.policy.spf import check_host
from pochta.testing.resolver import ZoneResolver

FOLDER = (
    Path(os.environ.get("POCHTA_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus") / "vectors/spf-openspf"
)

# Tests of pyspf's own lax and harsh modes, with what RFC 7208 has instead: an unknown modifier is ignored (§6)
OURS = {"default-modifier": ["neutral"], "default-modifier-harsh": ["neutral"]}


class Case(NamedTuple):
    name: str
    host: str
    helo: str
    mail_from: str
    results: list[str]
    explanation: str | None
    zone: dict[str, list[Any]]


def cases(file: str) -> Iterator[Case]:
    for group in yaml.safe_load_all((FOLDER / file).read_text(encoding="utf-8")):
        if group is None:
            continue
        for name, test in group["tests"].items():
            results = test["result"]
            results = OURS.get(name, results if isinstance(results, list) else [results])
            explanation = test.get("explanation")
            yield Case(
                name, test["host"], test["helo"], test["mailfrom"] or "", results, explanation, group["zonedata"]
            )


def resolver_of(zone: dict[str, list[Any]]) -> ZoneResolver:
    """The suite's zones: SPF stands for TXT where a name has no TXT; TIMEOUT concerns what the name does not list."""
    resolver = ZoneResolver()
    for name, entries in zone.items():
        records = [entry for entry in entries if entry != "TIMEOUT"]
        listed = {kind for record in records for kind in record}
        for record in records:
            ((kind, value),) = record.items()
            if kind == "SPF" and "TXT" not in listed:
                kind = "TXT"
            if kind == "SPF" or value == "NONE" or (kind in ("CNAME", "PTR") and not value):
                continue
            if kind == "TXT":
                value = "".join(value) if isinstance(value, list) else value
                value = value.encode("latin-1")
            if kind == "PTR":
                value = value.rstrip(".")
            resolver.add(name, kind, value)
        if "TIMEOUT" in entries:
            for kind in ("A", "AAAA", "MX", "PTR", "TXT"):
                if not any(kind in record and record[kind] != "NONE" for record in records):
                    resolver.fail(name, kind)
    return resolver


def run(case: Case) -> SpfResult:
    domain = case.mail_from.rpartition("@")[2] or case.helo
    check = check_host(
        resolver_of(case.zone),
        address=ip_address(case.host),
        domain=domain,
        sender=case.mail_from or f"postmaster@{case.helo}",
        helo=case.helo,
        receiver="receiver.example",
        now_s=1_700_000_000.0,
        is_helo=not case.mail_from,
    )
    return asyncio.run(check)


SUITE = list(cases("rfc7208-tests.yml"))


def test_suite_is_whole() -> None:
    assert len(SUITE) == 203


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.name)
def test_rfc7208_suite(case: Case) -> None:
    result = run(case)
    assert result.result in case.results, result
    if case.explanation is not None:
        # DEFAULT: the domain gave none. The suite writes the digits of IPv6 in capitals, RFC 7208 §7.4 does not.
        assert result.explanation.lower() == ("" if case.explanation == "DEFAULT" else case.explanation.lower())


@pytest.mark.parametrize("case", list(cases("test.yml")), ids=lambda case: case.name)
def test_pyspf_cases(case: Case) -> None:
    assert run(case).result in case.results
