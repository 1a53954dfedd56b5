"""OAUTHBEARER and XOAUTH2 in all protocols, against an issuer that the test runs."""

import base64
import hmac
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey
from signin_rig import (
    ANNA,
    BORIS,
    CLIENTS,
    KEY,
    PASSWORD,
    RSA,
    Authority,
    Client,
    Imap,
    Issuer,
    oauthbearer,
    xoauth2,
)

from pochta.config import Limits, Oauth
from pochta.testing import Server

LIMITS = Limits(min_free_bytes=0, auth_failures_per_connection=100)
each_protocol = pytest.mark.parametrize("connect", CLIENTS, ids=lambda one: one.__name__)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture(scope="module")
def server(issuer: Issuer) -> Iterator[Server]:
    oauth = Oauth(issuer=issuer.url, audience="mail", scope="openid")
    with Server(oauth=oauth, limits=LIMITS) as running:
        running.add_account(ANNA, PASSWORD)
        running.add_account(BORIS, PASSWORD)
        yield running


@pytest.fixture(autouse=True)
def forgiven(server: Server) -> None:
    """Failures of the test before are none of the next one's."""

    async def forget(store: Any) -> None:
        server.app.authenticator.throttle._waiting.failed.clear()
        await server.app.authenticator.throttle.flush()
        await store.write(0, _forget)

    server.run(forget)


def _forget(tx: Any) -> None:
    tx.run("DELETE FROM sign_in_failure")


@each_protocol
@pytest.mark.parametrize("is_initial", [True, False])
@pytest.mark.rfc(7628, "3")
def test_a_good_token(server: Server, issuer: Issuer, connect: type[Client], is_initial: bool) -> None:
    with connect(server) as client:
        assert {"OAUTHBEARER", "XOAUTH2"} <= set(client.mechanisms())
        answer = client.auth("OAUTHBEARER", oauthbearer(issuer.token()), initial=is_initial)
        assert answer.is_yes, answer
        assert answer.challenges == ([] if is_initial else [b""])
    with connect(server) as client:
        assert client.auth("XOAUTH2", xoauth2(issuer.token(key=RSA)), initial=is_initial).is_yes


@pytest.mark.parametrize("protocol", ["imap", "pop3", "smtp"])
@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_curl_as_the_page_shows_it(server: Server, issuer: Issuer, protocol: str, mechanism: str) -> None:
    port = {"imap": server.imap_port, "pop3": server.pop3_port, "smtp": server.submission_port}[protocol]
    where = [f"{protocol}://{server.host}:{port}/", "--user", ANNA, "--login-options", f"AUTH={mechanism}"]
    if protocol == "smtp":
        where += ["--mail-from", ANNA, "--mail-rcpt", ANNA, "--upload-file", "-"]
    for token, is_good in ((issuer.token(), True), (issuer.token(aud="chat"), False)):
        command = ["curl", "--silent", "--oauth2-bearer", token, *where]
        done = subprocess.run(command, input=b"Subject: hi\r\n\r\n", capture_output=True, timeout=60)
        assert (done.returncode == 0) is is_good, done


@each_protocol
@pytest.mark.rfc(7628, "3.2.2")
@pytest.mark.rfc(7628, "3.2.3")
def test_a_bad_token_is_told_as_json(server: Server, issuer: Issuer, connect: type[Client]) -> None:
    bad = issuer.token(exp=int(time.time()) - 600)
    with connect(server) as client:
        answer = client.auth("OAUTHBEARER", oauthbearer(bad), b"\1")
        assert not answer.is_yes
        assert [json.loads(one) for one in answer.challenges] == [
            {
                "status": "invalid_token",
                "scope": "openid",
                "openid-configuration": issuer.url + "/.well-known/openid-configuration",
            }
        ]
        answer = client.auth("XOAUTH2", xoauth2(bad), b"")
        assert [json.loads(one) for one in answer.challenges] == [
            {"status": "401", "schemes": "bearer", "scope": "openid"}
        ]
        assert not client.auth("OAUTHBEARER", oauthbearer(bad), None).is_yes
        # and the connection goes on
        assert client.auth("OAUTHBEARER", oauthbearer(issuer.token())).is_yes
    assert any("auth.failed" in line and "reason=token_expired" in line for line in server.events)
    assert bad not in "".join(server.events)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param({"iss": "https://other.example"}, "issuer", id="another issuer"),
        pytest.param({"aud": "calendar"}, "audience", id="another audience"),
        pytest.param({"aud": ["calendar", "chat"]}, "audience", id="other audiences"),
        pytest.param({"aud": None}, "audience", id="no audience"),
        pytest.param({"exp": None}, "malformed", id="no expiry"),
        pytest.param({"exp": "tomorrow"}, "malformed", id="expiry that is no number"),
        pytest.param({"exp": 1}, "expired", id="expired"),
        pytest.param({"nbf": 2**40}, "not_yet", id="not yet"),
        pytest.param({"email": None}, "claim", id="no claim"),
        pytest.param({"email": 7}, "claim", id="claim that is no text"),
        pytest.param({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, "bound", id="bound to a key"),
        pytest.param({"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}, "bound", id="to TLS"),
        pytest.param({"cnf": {}}, "bound", id="bound to nothing known"),
        pytest.param({"email_verified": False}, "email_not_verified", id="not verified"),
        pytest.param({"email_verified": None}, "email_not_verified", id="not said whether verified"),
        pytest.param({"email_verified": "false"}, "email_not_verified", id="not verified, as a text"),
    ],
)
def test_claims(server: Server, issuer: Issuer, said: dict[str, Any], reason: str) -> None:
    before = len(server.events)
    with Imap(server) as client:
        answer = client.auth("OAUTHBEARER", oauthbearer(issuer.token(**said), user=""), b"\1")
        assert answer.end.startswith("t NO [AUTHENTICATIONFAILED]")
    assert any(f"reason=token_{reason}" in line for line in server.events[before:])


@pytest.mark.parametrize(
    "said",
    [{"aud": ["chat", "mail"]}, {"email_verified": True}, {"email_verified": "true"}, {"email": "Anna@EXAMPLE.org"}],
    ids=str,
)
def test_claims_that_are_good(server: Server, issuer: Issuer, said: dict[str, Any]) -> None:
    with Imap(server) as client:
        assert client.auth("OAUTHBEARER", oauthbearer(issuer.token(**said), user="")).is_yes


def _forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that nobody may believe, by what is wrong with them."""
    good = issuer.token()
    head, body, signature = good.split(".")
    none, shared = _part(b'{"alg":"none"}'), _part(b'{"alg":"HS256","kid":"one"}')
    mac = hmac.digest(KEY.as_pem(private=False), f"{shared}.{body}".encode(), "sha256")
    return {
        "unsigned": f"{none}.{body}.",
        "signature cut off": f"{head}.{body}.",
        "signature of another": f"{head}.{body}.{issuer.token(email=BORIS).split('.')[2]}",
        "another's key under the same name": issuer.token(key=ECKey.generate_key("P-256", {"kid": "one"})),
        "the public key as a secret": f"{shared}.{body}.{_part(mac)}",
        "an algorithm that is not allowed": issuer.token(key=RSA, header={"alg": "PS256"}),
        "the algorithm of another key": issuer.token(key=KEY, header={"kid": "rsa"}),
        "no token": "x",
        "dots": "...",
        "five parts": f"{head}.{body}.{signature}.a.b",
        "deep": f"{_part(DEEP)}.{body}.{signature}",
        "long": "a" * 8000 + ".b.c",
        **{name: f"{_part(text)}.{body}.{signature}" for name, text in ODD_HEADERS.items()},
    }


def _part(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


DEEP = b'{"alg":"ES256","kid":"one","x":' + b"[" * 1200 + b"]" * 1200 + b"}"
ODD_HEADERS = {
    "critical extension": b'{"alg":"ES256","kid":"one","crit":["b64"],"b64":false}',
    "critical of another kind": b'{"alg":"ES256","kid":"one","crit":7}',
    "a list": b'["alg"]',
    "algorithm of another kind": b'{"alg":["ES256"]}',
    "not UTF-8": b'{"alg":"\xff"}',
    "no name of a key": b'{"alg":"ES256","x5c":[1]}',
}


@pytest.mark.rfc(7628, "3.2.2")
def test_forged_tokens(server: Server, issuer: Issuer) -> None:
    for number, (what, token) in enumerate(_forged(issuer).items()):
        with Imap(server) as client:
            answer = client.auth("OAUTHBEARER", oauthbearer(token, user=f"user{number}"), b"\1")
            assert answer.end.startswith("t NO [AUTHENTICATIONFAILED]"), (what, answer)


@pytest.mark.parametrize(
    "message",
    [
        b"\1",
        b"",
        b"n,,\1\1",
        b"n,,\1auth=Basic YTpi\1\1",
        b"n,,\1auth=Bearer a b\1\1",
        b"n,,\1auth=Bearer a.b.c\1auth=Bearer a.b.c\1\1",
        b"p=tls-unique,,\1auth=Bearer a.b.c\1\1",
        b"n,a=\xff,\1auth=Bearer a.b.c\1\1",
        b"n,,\1auth=Bearer a.b.c\1",
    ],
)
@pytest.mark.rfc(7628, "3.1")
def test_malformed_messages(server: Server, message: bytes) -> None:
    with Imap(server) as client:
        assert client.auth("OAUTHBEARER", message).end.startswith("t BAD ")


@each_protocol
def test_nobody_acts_for_another(server: Server, issuer: Issuer, connect: type[Client]) -> None:
    for user in (BORIS, "nobody@example.org"):
        with connect(server) as client:
            assert not client.auth("OAUTHBEARER", oauthbearer(issuer.token(), user=user), b"\1").is_yes
            assert not client.auth("XOAUTH2", xoauth2(issuer.token(), user=user), b"").is_yes
    with connect(server) as client:
        assert not client.auth("OAUTHBEARER", oauthbearer(issuer.token(email="x@y.example"), ""), b"\1").is_yes
        assert client.auth("OAUTHBEARER", oauthbearer(issuer.token(), user="anna")).is_yes


def test_bad_tokens_are_counted_by_network(server: Server, issuer: Issuer) -> None:
    bad = issuer.token(exp=1)
    with Imap(server) as client:
        # 5 for each name from a network (docs/decisions/0007-sign-in.md); then one has to wait, good token or not
        for _ in range(6):
            assert client.auth("OAUTHBEARER", oauthbearer(bad, user=BORIS), b"\1").end.startswith("t NO [AUTH")
        answer = client.auth("OAUTHBEARER", oauthbearer(issuer.token(email=BORIS), user=BORIS))
        assert answer.end.startswith("t NO [UNAVAILABLE]")


def test_failures_end_the_connection(issuer: Issuer) -> None:
    limits = Limits(min_free_bytes=0, auth_failures_per_connection=2)
    with Server(oauth=Oauth(issuer=issuer.url, audience="mail"), limits=limits) as server, Imap(server) as client:
        # a client that cancels at the JSON has failed all the same
        assert client.auth("OAUTHBEARER", oauthbearer(issuer.token(exp=1)), None).end.startswith("t BAD")
        client.auth("OAUTHBEARER", oauthbearer(issuer.token(exp=1)), b"\1")
        assert client.line().startswith("* BYE")


def test_keys_are_asked_for_once_and_again_when_unknown() -> None:
    with Issuer() as own, Server(oauth=Oauth(issuer=own.url, audience="mail")) as server:
        server.add_account(ANNA, PASSWORD)
        for _ in range(3):
            with Imap(server) as client:
                assert client.auth("OAUTHBEARER", oauthbearer(own.token())).is_yes
        documents = ["/realm/.well-known/openid-configuration", "/realm/keys"]
        assert own.asked == documents
        new = ECKey.generate_key("P-256", {"kid": "new"})
        own.keys.append(new)
        verifier: Any = server.app.sign_ins._tokens
        with Imap(server) as client:
            # asked for less than a minute ago: not again
            assert not client.auth("OAUTHBEARER", oauthbearer(own.token(key=new)), b"\1").is_yes
            assert own.asked == documents
            verifier._issuer._asked_at -= 61
            assert client.auth("OAUTHBEARER", oauthbearer(own.token(key=new))).is_yes
        assert own.asked == documents * 2
        # withdrawn: known until the keys are asked for again
        own.keys.remove(new)
        verifier._issuer._asked_at -= 61
        verifier._issuer._fetched_at -= 3601
        with Imap(server) as client:
            assert not client.auth("OAUTHBEARER", oauthbearer(own.token(key=new)), b"\1").is_yes
        assert own.asked == documents * 3


DISCOVERY, KEYS = "/realm/.well-known/openid-configuration", "/realm/keys"
BROKEN = {
    "not found": (DISCOVERY, 404, b"{}"),
    "of another": (DISCOVERY, 200, b'{"issuer":"https://other.example","jwks_uri":"https://other.example/keys"}'),
    "no JSON": (DISCOVERY, 200, b"<html>"),
    "deep": (DISCOVERY, 200, b"[" * 100_000),
    "too large": (DISCOVERY, 200, b" " * 300_000),
    "elsewhere": (DISCOVERY, 302, b""),
    "keys in the clear": (DISCOVERY, 200, b'{"issuer":"@","jwks_uri":"http://keys.example/"}'),
    "keys not found": (KEYS, 500, b""),
    "keys of another shape": (KEYS, 200, b'{"keys":[7]}'),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_issuer_that_does_not_answer(what: str) -> None:
    path, status, document = BROKEN[what]
    with Issuer() as own, Server(oauth=Oauth(issuer=own.url, audience="mail")) as server:
        own.documents[path] = status, document.replace(b'"@"', json.dumps(own.url).encode())
        server.add_account(ANNA, PASSWORD)
        with Imap(server) as client:
            for _ in range(2):
                answer = client.auth("OAUTHBEARER", oauthbearer(own.token()))
                assert answer.end.startswith("t NO [UNAVAILABLE]")
            assert sum(one == path for one in own.asked) == 1
            assert sum("oauth.keys.failed" in line for line in server.events) == 1
            # passwords go on to work
            assert client.ask(f"LOGIN {ANNA} {PASSWORD}")[-1].startswith("t OK")


def test_keys_of_before_are_good_while_the_issuer_is_away() -> None:
    with Issuer() as own, Server(oauth=Oauth(issuer=own.url, audience="mail")) as server:
        server.add_account(ANNA, PASSWORD)
        with Imap(server) as client:
            assert client.auth("OAUTHBEARER", oauthbearer(own.token())).is_yes
        own.documents[DISCOVERY] = 503, b""
        issuer: Any = server.app.sign_ins._tokens._issuer  # type: ignore[union-attr]
        issuer._asked_at -= 61
        issuer._fetched_at -= 3601
        with Imap(server) as client:
            assert client.auth("OAUTHBEARER", oauthbearer(own.token())).is_yes
        issuer._fetched_at -= 86_400
        with Imap(server) as client:
            assert client.auth("OAUTHBEARER", oauthbearer(own.token())).end.startswith("t NO [UNAVAILABLE]")


def test_weak_keys_are_none() -> None:
    weak = {"kty": "RSA", "kid": "rsa", "n": "v" * 171, "e": "AQAB"}
    with Issuer() as own, Server(oauth=Oauth(issuer=own.url, audience="mail")) as server:
        own.documents[KEYS] = 200, json.dumps({"keys": [weak]}).encode()
        with Imap(server) as client:
            client.auth("OAUTHBEARER", oauthbearer(own.token(key=RSA)), b"\1")
        assert any("reason=token_key" in line for line in server.events)


def test_an_issuer_by_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.pair("issuer", host="127.0.0.1"))
    with Issuer(tls=tls) as own:
        oauth = Oauth(issuer=own.url, audience="mail", ca_file=authority.file, claim="upn")
        with Server(oauth=oauth) as server:
            server.add_account(ANNA, PASSWORD)
            with Imap(server) as client:
                token = own.token(email=None, upn=ANNA)
                assert client.auth("OAUTHBEARER", oauthbearer(token)).is_yes
        # an authority that nobody knows
        with Server(oauth=Oauth(issuer=own.url, audience="mail")) as server, Imap(server) as client:
            answer = client.auth("OAUTHBEARER", oauthbearer(own.token()))
            assert answer.end.startswith("t NO [UNAVAILABLE]")
            assert any("CERTIFICATE_VERIFY_FAILED" in line for line in server.events)


def test_no_token_in_the_clear(issuer: Issuer) -> None:
    from test_imap_capabilities import StrictServer

    with StrictServer(with_tls=True, oauth=Oauth(issuer=issuer.url, audience="mail")) as server:
        for connect in CLIENTS:
            with connect(server) as client:
                assert client.mechanisms() == []
                assert not client.auth("OAUTHBEARER", oauthbearer(issuer.token())).is_yes
