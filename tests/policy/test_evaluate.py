"""One incoming message's checks, together: the action, the reply, the field."""

import asyncio
import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pochta.dns import Answer
from pochta.errors import LocalProtocolError
from pochta.policy.authres import read
from pochta.policy.evaluate import (
    LATE,
    Action,
    Findings,
    Inbound,
    Obedience,
    Override,
    Policy,
    Verdict,
    _decide,
    _has_trusted_pass,
    _is_proven,
)
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
from pochta.proto.address import Address
from pochta.proto.smtp.replies import encode_reply
from pochta.testing.resolver import ZoneResolver

VECTORS = (
    Path(os.environ.get("POCHTA_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus") / "vectors/arc-authheaders"
)
CLIENT = ip_address("192.0.2.1")
NOW_S = 1_700_000_000.0
POLICY = Policy("mx.b.test")
MESSAGE = b"From: Ann <ann@a.test>\r\nSubject: x\r\n\r\nhello\r\n"


def _zone() -> ZoneResolver:
    zone = ZoneResolver(
        {
            "a.test": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
            "mail.a.test": {"A": ["192.0.2.1"], "TXT": ["v=spf1 a -all"]},
            "closed.test": {"TXT": ["v=spf1 -all"]},
            "_dmarc.a.test": {"TXT": ["v=DMARC1; p=reject"]},
            "_dmarc.bank.test": {"TXT": ["v=DMARC1; p=reject"]},
            "_dmarc.shop.test": {"TXT": ["v=DMARC1; p=quarantine"]},
            "_dmarc.lax.test": {"TXT": ["v=DMARC1; p=none"]},
        }
    )
    zone.add("192.0.2.1", "PTR", "mail.a.test")
    return zone


async def _check(
    zone: ZoneResolver,
    authors: list[str],
    *,
    policy: Policy = POLICY,
    sender: str = "ann@a.test",
    helo: str = "mail.a.test",
    message: bytes = MESSAGE,
) -> Verdict:
    local_part, _, domain = sender.rpartition("@")
    path = Address(local_part, domain) if sender else None
    inbound = Inbound(zone, policy, address=CLIENT, helo=helo, reverse_path=path)
    inbound.start(now_s=NOW_S)
    header, blank, body = message.partition(b"\r\n\r\n")
    inbound.header(header + blank)
    inbound.feed(body[:3])
    inbound.feed(body[3:])
    return await inbound.finish(authors, now_s=NOW_S)


def test_a_message_that_passes() -> None:
    verdict = asyncio.run(_check(_zone(), ["a.test"]))
    assert (verdict.action, verdict.rule, verdict.reply) == (Action.ACCEPT, "", None)
    assert verdict.is_authenticated
    assert verdict.authentication_results == (
        b"Authentication-Results: mx.b.test;\r\n"
        b"\tiprev=pass policy.iprev=192.0.2.1 (mail.a.test);\r\n"
        b"\tspf=pass smtp.mailfrom=a.test;\r\n"
        b"\tspf=pass smtp.helo=mail.a.test;\r\n"
        b"\tdkim=none;\r\n"
        b"\tdmarc=pass header.from=a.test\r\n"
    )
    assert json.loads(json.dumps(verdict.facts())) == {
        "action": "accept",
        "rule": "",
        "spf": "pass",
        "spf_domain": "a.test",
        "helo_spf": "pass",
        "iprev": "pass",
        "dkim": [],
        "arc": "none",
        "dmarc": "pass",
        "dmarc_domain": "a.test",
        "dmarc_wish": "reject",
        "is_authenticated": True,
    }


@pytest.mark.parametrize(
    ("author", "sender", "policy", "action", "rule"),
    [
        pytest.param("a.test", "ann@a.test", {}, Action.ACCEPT, "", id="passes"),
        pytest.param("nothing.test", "x@closed.test", {}, Action.ACCEPT, "", id="no record, SPF fails"),
        pytest.param("nothing.test", "x@closed.test", {"rejects_spf_fail": True}, Action.REJECT, "spf.fail", id="SPF"),
        pytest.param("bank.test", "x@closed.test", {}, Action.REJECT, "dmarc.reject", id="nobody speaks for it"),
        pytest.param("bank.test", "ann@a.test", {}, Action.JUNK, "dmarc.reject_as_junk", id="SPF of another passes"),
        pytest.param(
            "bank.test", "ann@a.test", {"obedience": Obedience.STRICT}, Action.REJECT, "dmarc.reject", id="strict"
        ),
        pytest.param(
            "bank.test", "x@closed.test", {"obedience": Obedience.JUNK}, Action.JUNK, "dmarc.reject_as_junk", id="junk"
        ),
        pytest.param("bank.test", "x@closed.test", {"obedience": Obedience.OBSERVE}, Action.ACCEPT, "", id="observe"),
        pytest.param("shop.test", "x@closed.test", {}, Action.JUNK, "dmarc.quarantine", id="quarantine"),
        pytest.param("lax.test", "x@closed.test", {}, Action.ACCEPT, "", id="p=none"),
        pytest.param(
            "bank.test",
            "x@closed.test",
            {"domains": {"bank.test": Override.ACCEPT}},
            Action.ACCEPT,
            "override.domain",
            id="domain accepted",
        ),
        pytest.param(
            "bank.test",
            "x@closed.test",
            {"domains": {"bank.test": Override.IGNORE}, "rejects_spf_fail": True},
            Action.REJECT,
            "spf.fail",
            id="domain's DMARC ignored",
        ),
        pytest.param(
            "x.a.test", "ann@a.test", {"domains": {"a.test": Override.JUNK}}, Action.JUNK, "override.domain", id="below"
        ),
        pytest.param(
            "x.a.test",
            "ann@a.test",
            {"domains": {"a.test": Override.REJECT, "x.a.test": Override.IGNORE}},
            Action.ACCEPT,
            "",
            id="the nearer domain",
        ),
        pytest.param(
            "a.test",
            "ann@a.test",
            {"networks": {ip_network("192.0.2.0/24"): Override.REJECT}},
            Action.REJECT,
            "override.network",
            id="network refused",
        ),
        pytest.param(
            "bank.test",
            "x@closed.test",
            {
                "networks": {ip_network("192.0.0.0/8"): Override.REJECT, ip_network("192.0.2.1"): Override.IGNORE},
                "domains": {"other.test": Override.REJECT},
            },
            Action.ACCEPT,
            "override.network",
            id="the longer network",
        ),
    ],
)
def test_rules(author: str, sender: str, policy: Mapping[str, object], action: Action, rule: str) -> None:
    chosen = Policy("mx.b.test", **policy)  # type: ignore[arg-type]  # the table above is the judge
    verdict = asyncio.run(_check(_zone(), [author], sender=sender, policy=chosen))
    assert (verdict.action, verdict.rule) == (action, rule)
    assert (verdict.reply is not None) == (action in (Action.REJECT, Action.DEFER))


def test_an_unwelcome_author_does_not_hide_behind_another() -> None:
    policy = replace(POLICY, domains={"a.test": Override.REJECT, "nothing.test": Override.ACCEPT})
    verdict = asyncio.run(_check(_zone(), ["a.test", "nothing.test"], policy=policy))
    assert (verdict.findings.dmarc.domain, verdict.action) == ("nothing.test", Action.REJECT)


@pytest.mark.rfc(9989, "7.2")
def test_what_the_peer_reads() -> None:
    async def reply(author: str, policy: Policy = POLICY) -> bytes:
        verdict = await _check(_zone(), [author], sender="x@closed.test", policy=policy)
        assert verdict.reply is not None
        return encode_reply(verdict.reply)

    assert asyncio.run(reply("bank.test")) == b"550 5.7.26 Rejected by the DMARC policy of bank.test\r\n"
    by_spf = asyncio.run(reply("none.test", replace(POLICY, rejects_spf_fail=True)))
    assert by_spf == b"550 5.7.23 SPF of closed.test does not allow this client\r\n"
    by_us = asyncio.run(reply("none.test", replace(POLICY, domains={"none.test": Override.REJECT})))
    assert by_us == b"550 5.7.1 Not accepted here\r\n"


def test_an_author_record_that_cannot_be_looked_up() -> None:
    zone = _zone()
    zone.fail("_dmarc.bank.test")
    verdict = asyncio.run(_check(zone, ["bank.test"]))
    assert (verdict.findings.dmarc.result, verdict.action) == (Dmarc.TEMPERROR, Action.ACCEPT)
    verdict = asyncio.run(_check(zone, ["bank.test"], policy=replace(POLICY, defers_temperror=True)))
    assert (verdict.action, verdict.rule) == (Action.DEFER, "dmarc.temperror")
    assert verdict.reply is not None
    assert encode_reply(verdict.reply) == b"451 4.4.3 Cannot look up the sender's DMARC policy now\r\n"


def test_a_crowd_of_authors() -> None:
    crowd = [f"d{number}.test" for number in range(20)]
    assert asyncio.run(_check(_zone(), crowd)).action is Action.JUNK
    assert asyncio.run(_check(_zone(), [])).action is Action.ACCEPT


@pytest.mark.rfc(8601, "2.7.2")
def test_the_null_reverse_path() -> None:
    verdict = asyncio.run(_check(_zone(), ["mail.a.test"], sender=""))
    assert verdict.findings.spf == SpfResult(Spf.PASS, "mail.a.test", mechanism=verdict.findings.spf.mechanism)
    assert verdict.findings.helo_spf is None
    assert verdict.findings.dmarc.result is Dmarc.PASS
    # INV-10: there is nobody to send a bounce to
    assert not verdict.is_authenticated
    assert b"\tspf=pass smtp.helo=mail.a.test;\r\n" in verdict.authentication_results


@pytest.mark.parametrize("helo", ["[192.0.2.1]", "localhost", "", "a b\r\nX: y", "." * 300])
def test_names_in_helo_that_are_none(helo: str) -> None:
    verdict = asyncio.run(_check(_zone(), ["a.test"], helo=helo))
    assert verdict.findings.dmarc.result is Dmarc.PASS
    asyncio.run(_check(_zone(), ["a.test"], helo=helo, sender=""))


class _Silent(ZoneResolver):
    """Never answers questions for the names it was told to be silent on."""

    silent: tuple[str, ...] = ()

    async def txt(self, name: str) -> Answer[bytes]:
        if name in self.silent:
            await asyncio.Event().wait()
        return await super().txt(name)


@pytest.mark.parametrize(
    ("silent", "spf", "reason"), [("a.test", Spf.TEMPERROR, "spf temperror"), ("_dmarc.a.test", Spf.PASS, LATE)]
)
def test_what_is_late_is_not_known(silent: str, spf: Spf, reason: str) -> None:
    zone = _Silent({"a.test": {"TXT": ["v=spf1 +all"]}, "_dmarc.a.test": {"TXT": ["v=DMARC1; p=reject"]}})
    zone.silent = (silent,)
    verdict = asyncio.run(_check(zone, ["a.test"], policy=replace(POLICY, total_s=0.01)))
    assert (verdict.findings.spf.result, verdict.findings.dmarc.result) == (spf, Dmarc.TEMPERROR)
    assert (verdict.findings.dmarc.domain, verdict.findings.dmarc.reason) == ("a.test", reason)
    assert verdict.action is Action.ACCEPT
    assert b"dmarc=temperror" in verdict.authentication_results


def test_an_abandoned_transaction_leaves_no_task() -> None:
    async def run() -> None:
        zone = _Silent()
        zone.silent = ("a.test",)
        inbound = Inbound(zone, POLICY, address=CLIENT, helo="mail.a.test", reverse_path=Address("x", "a.test"))
        inbound.abandon()
        inbound.start(now_s=NOW_S)
        await asyncio.sleep(0)
        inbound.abandon()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_the_order_of_calls() -> None:
    async def run() -> None:
        inbound = Inbound(_zone(), POLICY, address=CLIENT, helo="x", reverse_path=None)
        with pytest.raises(LocalProtocolError):
            inbound.feed(b"x")
        with pytest.raises(LocalProtocolError):
            await inbound.finish([], now_s=NOW_S)
        inbound.start(now_s=NOW_S)
        with pytest.raises(LocalProtocolError):
            inbound.start(now_s=NOW_S)
        inbound.abandon()

    asyncio.run(run())


FINDINGS = Findings(
    SpfResult(Spf.FAIL, "list.test"),
    None,
    IprevResult(Iprev.PASS),
    (),
    ArcResult(Arc.NONE),
    DmarcResult(Dmarc.FAIL, "bank.test", wish=Wish.REJECT),
)
SAID = "lists.test; dmarc=pass header.from=bank.test"


@pytest.mark.rfc(8617, "7.2.1")
@pytest.mark.parametrize(
    ("arc", "is_trusted"),
    [
        pytest.param(ArcResult(Arc.PASS, 1, ("t.test",), 0, (SAID,)), True, id="one trusted set"),
        pytest.param(ArcResult(Arc.PASS, 1, ("evil.test",), 0, (SAID,)), False, id="nobody trusted"),
        pytest.param(ArcResult(Arc.FAIL, 1, ("t.test",), 0, (SAID,)), False, id="broken chain"),
        pytest.param(ArcResult(Arc.PASS, 1, ("t.test",), 0, ("l; dmarc=fail",)), False, id="DMARC failed there"),
        pytest.param(ArcResult(Arc.PASS, 1, ("t.test",), 0, ("l; dmarc=pass",)), False, id="author not named"),
        pytest.param(
            ArcResult(Arc.PASS, 1, ("t.test",), 0, ("l; dmarc=pass header.from=evil.test",)), False, id="other author"
        ),
        pytest.param(
            ArcResult(Arc.PASS, 1, ("t.test",), 0, (f"l; x=y ({SAID}); dmarc=fail",)), False, id="in a comment"
        ),
        pytest.param(ArcResult(Arc.PASS, 1, ("t.test",), 0, (f'l; x="{SAID}"',)), False, id="in quotes"),
        pytest.param(
            ArcResult(Arc.PASS, 2, ("t.test", "t.test"), 2, (SAID, "l; dmarc=fail")), True, id="two trusted, first saw"
        ),
        pytest.param(
            ArcResult(Arc.PASS, 2, ("t.test", "evil.test"), 2, (SAID, SAID)), False, id="a stranger changed it"
        ),
        pytest.param(
            ArcResult(Arc.PASS, 2, ("t.test", "evil.test"), 0, (SAID, "l; none")), True, id="a stranger passed it on"
        ),
        pytest.param(
            ArcResult(Arc.PASS, 3, ("t.test", "t.test", "evil.test"), 2, (SAID, "l; none", "l; none")),
            False,
            id="changed by a trusted one, signed whole by that one only",
        ),
    ],
)
def test_chains(arc: ArcResult, is_trusted: bool) -> None:
    assert _has_trusted_pass(arc, "bank.test", frozenset({"t.test"})) is is_trusted
    policy = replace(POLICY, trusted_arc_sealers=frozenset({"t.test"}))
    action, rule, _ = _decide(policy, CLIENT, replace(FINDINGS, arc=arc))
    assert (action is Action.ACCEPT and rule == "arc.trusted") is is_trusted


@pytest.fixture(scope="module")
def sealing_key() -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    ("changed", "arc", "action", "rule"),
    [(b"", Arc.PASS, Action.ACCEPT, "arc.trusted"), (b"more\r\n", Arc.FAIL, Action.REJECT, "dmarc.reject")],
    ids=["whole", "changed"],
)
def test_a_sealed_message(sealing_key: RSAPrivateKey, changed: bytes, arc: Arc, action: Action, rule: str) -> None:
    message = b"Authentication-Results: t.test; dmarc=pass header.from=bank.test\r\n" + MESSAGE
    private = sealing_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    sealed = b"".join(dkim.arc_sign(message, b"s", b"t.test", private, b"t.test", timestamp=int(NOW_S)))
    public = sealing_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    zone = _zone()
    zone.add("s._domainkey.t.test", "TXT", b"v=DKIM1; p=" + base64.b64encode(public))
    policy = replace(POLICY, trusted_arc_sealers=frozenset({"t.test"}))
    verdict = asyncio.run(
        _check(zone, ["bank.test"], sender="x@closed.test", policy=policy, message=sealed + message + changed)
    )
    assert (verdict.findings.arc.result, verdict.action, verdict.rule) == (arc, action, rule)
    assert f"arc={arc}".encode() in verdict.authentication_results


@pytest.mark.parametrize(
    ("spf", "signatures", "is_author", "is_proven"),
    [
        (Spf.PASS, (), False, True),
        (Spf.FAIL, (), True, False),
        (Spf.FAIL, (DkimResult(Dkim.PASS, "bounces.a.test"),), True, True),
        (Spf.NONE, (DkimResult(Dkim.PASS, "a.test"),), True, True),
        (Spf.NONE, (DkimResult(Dkim.PASS, "a.test"),), False, False),
        (Spf.NONE, (DkimResult(Dkim.PASS, "x.bounces.a.test"),), True, False),
        (
            Spf.NONE,
            (DkimResult(Dkim.FAIL, "a.test"), DkimResult(Dkim.PASS, "evil.test"), DkimResult(Dkim.PASS)),
            True,
            False,
        ),
    ],
)
def test_whether_a_bounce_may_go_back(
    spf: Spf, signatures: tuple[DkimResult, ...], is_author: bool, is_proven: bool
) -> None:
    found = replace(FINDINGS, spf=SpfResult(spf, "bounces.a.test"), dkim=signatures)
    assert _is_proven(found, is_author=is_author) is is_proven


def _vector_zone() -> ZoneResolver:
    key = (VECTORS / "test.txt").read_bytes().strip()
    return ZoneResolver(
        {
            "test._domainkey.example.com": {"TXT": [key]},
            "_dmarc.example.com": {"TXT": ["v=DMARC1; p=reject"]},
            "_dmarc.example.org": {"TXT": ["v=DMARC1; p=none"]},
            "_dmarc.example.net": {"TXT": ["v=DMARC1; p=none; sp=reject"]},
            "_dmarc.example.biz": {"TXT": ["v=DMARC1; p=none; sp=quarantine; np=reject"]},
            "_dmarc.nop.example.org": {"TXT": ["v=DMARC1; sp=quarantine; np=reject"]},
            "sub.example.net": {"A": ["192.0.2.7"]},
            "sub2.example.biz": {"A": ["192.0.2.7"]},
        }
    )


# The two of nop.example.org and of messages from two authors differ from what authheaders expects: it follows RFC 7489.
@pytest.mark.parametrize(
    ("name", "signature", "dmarc", "wish"),
    [
        ("test.message_signed", "pass", "pass", "reject"),
        ("testcomma.message", "pass", "pass", "reject"),
        ("test.message_multi", "fail", "fail", "reject"),
        ("test.message_multi2", "fail", "fail", "reject"),
        ("test.message_sub", "fail", "fail", "reject"),
        ("test.message_np1", "permerror", "fail", "reject"),
        ("test.message_np2", "permerror", "fail", "quarantine"),
        ("test_nop.message", "none", "permerror", "none"),
        ("test.nofrom.message", "none", "permerror", "none"),
    ],
)
def test_vectors(name: str, signature: str, dmarc: str, wish: str) -> None:
    message = re.sub(rb"\r?\n", b"\r\n", (VECTORS / name).read_bytes())
    author = re.search(rb"^From:(.*)$", message, re.MULTILINE)
    assert author
    authors = [domain.decode() for domain in re.findall(rb"@([A-Za-z0-9.]+)", author[1])]
    verdict = asyncio.run(_check(_vector_zone(), authors, message=message, sender=""))
    field = {one.method: one.result for one in read(verdict.authentication_results.partition(b":")[2].decode())}
    found = verdict.findings
    assert (field["dkim"], found.dmarc.result, found.dmarc.wish) == (signature, dmarc, wish)
