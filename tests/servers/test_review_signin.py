"""Who is vouched for: lookalikes, shared accounts, certificates without domain, nameless failures, an odd issuer."""

import base64
import json
from collections.abc import Iterator

import pytest
from signin_rig import ANNA, BORIS, PASSWORD, Authority, Imap, Issuer, oauthbearer, trusting
from test_signin_certificate import AskingServer

from pochta.accounts import edit, sharing, throttle
from pochta.config import Limits, Oauth
from pochta.store import directory
from pochta.store.store import Store
from pochta.testing import Server

LIMITS = Limits(min_free_bytes=0, auth_failures_per_connection=100)
TEAM = "team@example.org"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture
def server(issuer: Issuer) -> Iterator[Server]:
    with Server(oauth=Oauth(issuer=issuer.url, audience="mail"), limits=LIMITS) as running:
        running.add_account(ANNA, PASSWORD)
        running.add_account(BORIS, PASSWORD)
        running.add_account("straße@example.org", PASSWORD)
        yield running


def comes_in(server: Server, token: str, user: str = "") -> bool:
    """Whether the token lets somebody in; without `user` the client does not say who it is."""
    with Imap(server) as client:
        client.say("t AUTHENTICATE OAUTHBEARER " + base64.b64encode(oauthbearer(token, user)).decode())
        line = client.line()
        if line.startswith("+ "):
            client.say("AQ==")
            line = client.line()
        return line.startswith("t OK")


@pytest.mark.parametrize(
    ("claim", "is_let_in"),
    [
        pytest.param("boris@example.org", True, id="as it is"),
        pytest.param("Boris@EXAMPLE.org", True, id="other case"),
        pytest.param("bori\u017f@example.org", False, id="long s"),
        pytest.param("stra\u00dfe@example.org", True, id="sharp s, its own"),
        pytest.param("STRASSE@example.org", False, id="ss for sharp s"),
        pytest.param("boris@example.org\x00.example", False, id="NUL"),
        pytest.param("boris@example.org ", False, id="space"),
    ],
)
def test_who_is_vouched_for_is_no_lookalike(server: Server, issuer: Issuer, claim: str, is_let_in: bool) -> None:
    assert comes_in(server, issuer.token(email=claim)) is is_let_in


def test_nobody_is_let_in_as_a_shared_account(server: Server, issuer: Issuer) -> None:
    """Also where the row says that it is enabled, which `edit` refuses: its owner is nobody."""

    async def share(store: Store) -> None:
        await store.write(0, sharing.add, TEAM, 0, 1)
        local_part, domain = edit.key(TEAM)
        await store.write(0, directory.set_enabled, domain, local_part, True)

    server.run(share)
    server.set_password(TEAM, PASSWORD)
    assert not comes_in(server, issuer.token(email=TEAM))
    with Imap(server) as client:
        assert client.ask(f"LOGIN {TEAM} {PASSWORD}")[-1].startswith("t NO")


def test_bad_tokens_without_a_name_lock_out_nobody_else(server: Server, issuer: Issuer) -> None:
    bad = issuer.token(exp=1)
    for _ in range(throttle.BY_NAME.free + 3):
        assert not comes_in(server, bad)
    assert comes_in(server, issuer.token())


def test_bad_tokens_with_a_name_count_against_it(server: Server, issuer: Issuer) -> None:
    for _ in range(throttle.BY_NAME.free + 3):
        assert not comes_in(server, issuer.token(exp=1), BORIS)
    assert not comes_in(server, issuer.token(email=BORIS), BORIS)
    assert any("auth.throttled" in line for line in server.events)


@pytest.mark.parametrize("url", ["https://[", "https://127.0.0.1:99999/keys", "https://127.0.0.1:x/keys", "7", ""])
def test_an_issuer_whose_keys_are_nowhere(url: str) -> None:
    with Issuer() as odd:
        document = json.dumps({"issuer": odd.url, "jwks_uri": url}).encode()
        odd.documents["/realm/.well-known/openid-configuration"] = 200, document
        with Server(oauth=Oauth(issuer=odd.url, audience="mail"), limits=LIMITS) as server:
            server.add_account(ANNA, PASSWORD)
            assert not comes_in(server, odd.token())
            with Imap(server) as client:  # and nothing has crashed
                assert client.ask(f"LOGIN {ANNA} {PASSWORD}")[-1].startswith("t OK")
            assert any("oauth.keys.failed" in line for line in server.events)


def test_a_certificate_for_a_name_without_domain(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    made = AskingServer(with_tls=True, limits=LIMITS)
    made.authority = authority
    with made as server:
        server.add_account(ANNA, PASSWORD)
        with Imap(server, trusting(server, authority.pair("short", "anna"))) as client:
            assert "EXTERNAL" not in client.mechanisms()
            assert client.ask("AUTHENTICATE EXTERNAL =")[-1].startswith("t NO")
