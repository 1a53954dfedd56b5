"""The edges of mail transfer, with swaks for the other server: what may be asked for, in which order, over which TLS.

swaks knows no parameters of MAIL and RCPT, but puts an address between `<` and `>` as it is given. Where the last
parameter may hold a `>`, which xtext may, they travel in the address.
"""

import re
from collections.abc import Iterator
from typing import Final

import pytest
from interop_programs import Done, Program
from interop_sides import PASSWORD, Account
from mta_rig import HOST, slug

from pochta.accounts import edit
from pochta.net.tls import write_self_signed
from pochta.store.store import Store
from pochta.testing import Server

SENDER: Final = "boris@elsewhere.example"
PROXY: Final = ["--proxy-version", "1", "--proxy", "TCP4 192.0.2.7 192.0.2.1 40000 25"]
PROXY_2: Final = [
    *("--proxy-version", "2", "--proxy-family", "AF_INET", "--proxy-protocol", "STREAM", "--proxy-command", "PROXY"),
    *("--proxy-source", "192.0.2.7", "--proxy-source-port", "40000"),
    *("--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"),
]

REFUSED_CONNECTION, REFUSED_MAIL, REFUSED_RCPT, REFUSED_DATA = 6, 23, 24, 25  # what swaks ends with
REFUSED_SIGN_IN, NO_TLS, NO_XCLIENT = 28, 29, 33


@pytest.fixture(scope="module")
def proxied_server() -> Iterator[Server]:
    """One that stands behind a proxy on this machine."""
    with Server(proxy_from=(HOST,)) as server:
        yield server


@pytest.fixture
def anna(request: pytest.FixtureRequest, tls_server: Server) -> Account:
    """Whom mail goes to, of this test's own."""
    return Account(tls_server, f"{slug(request)}@example.org")


def swaks(
    tool: Program,
    server: Server,
    *words: str,
    sender: str = SENDER,
    to: str,
    port: str = "smtp_port",
    ends_with: int = 0,
) -> Done:
    """Send `Hello.` from `sender` to `to`."""
    where = ["--server", "localhost", "--port", str(getattr(server, port)), "--helo", "elsewhere.example"]
    data = ["--data", r"Subject: hello\n\nHello."]
    return tool("swaks", *where, "--from", sender, "--to", to, *data, *words, allowed_codes={ends_with})


def header_of(account: Account) -> str:
    """The header of the account's only message, without folds."""
    [content] = account.contents("INBOX")
    header, _, body = content.partition(b"\r\n\r\n")
    assert body == b"Hello.\r\n"
    return re.sub(r"\r\n[ \t]+", " ", header.decode())


@pytest.mark.rfc(2920, "3.1")
def test_commands_in_one_go(tool: Program, tls_server: Server, anna: Account) -> None:
    done = swaks(tool, tls_server, "--tls", "--pipeline", to=f"nobody@example.org,{anna.address},none@example.org")
    assert done.out.count(b"<~* 550 5.1.1 ") + done.out.count(b"<** 550 5.1.1 ") == 2
    assert " with ESMTPS id " in header_of(anna)


@pytest.mark.rfc(5321, "4.5.5")
def test_the_null_sender(tool: Program, tls_server: Server, anna: Account) -> None:
    swaks(tool, tls_server, sender="<>", to=anna.address)
    assert header_of(anna).startswith("Return-Path: <>\r\n")


@pytest.mark.rfc(5321, "3.2")
def test_without_extensions(tool: Program, tls_server: Server, anna: Account) -> None:
    done = swaks(tool, tls_server, "--protocol", "SMTP", to=anna.address)
    assert b"-> HELO elsewhere.example" in done.out
    assert " with SMTP id " in header_of(anna)


@pytest.mark.rfc(3461, "4")
def test_all_parameters(tool: Program, tls_server: Server, anna: Account) -> None:
    sender = "борис@elsewhere.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=abc+2B"
    swaks(tool, tls_server, sender=sender, to=f"{anna.address}> NOTIFY=FAILURE ORCPT=unknown;first")
    header = header_of(anna)
    assert header.startswith("Return-Path: <борис@elsewhere.example>\r\n")
    assert " with UTF8SMTP id " in header


@pytest.mark.parametrize(
    ("sender", "to", "code", "reply"),
    [
        ("SIZE=999999999 ENVID=a", "", REFUSED_MAIL, b"552 5.3.4 "),
        ("BODY=9BIT ENVID=a", "", REFUSED_MAIL, b"501 5.5.4 "),
        ("RET=ALL ENVID=a", "", REFUSED_MAIL, b"501 5.5.4 "),
        ("RET=FULL RET=HDRS ENVID=a", "", REFUSED_MAIL, b"501 5.5.4 "),
        ("HOLDFOR=60 ENVID=a", "", REFUSED_MAIL, b"555 5.5.4 "),
        ("REQUIRETLS ENVID=a", "", REFUSED_MAIL, b"555 5.5.4 "),
        ("UNKNOWN ENVID=a", "", REFUSED_MAIL, b"555 5.5.4 "),
        ("", "NOTIFY=NEVER,SUCCESS ORCPT=unknown;a", REFUSED_RCPT, b"501 5.5.4 "),
        ("", "NOTIFY=ALWAYS ORCPT=unknown;a", REFUSED_RCPT, b"501 5.5.4 "),
        ("", "ORCPT=no-type", REFUSED_RCPT, b"501 5.5.4 "),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
def test_a_parameter_that_cannot_be(
    sender: str, to: str, code: int, reply: bytes, tool: Program, tls_server: Server, anna: Account
) -> None:
    done = swaks(
        tool,
        tls_server,
        sender=f"{SENDER}> {sender}" if sender else SENDER,
        to=f"{anna.address}> {to}" if to else anna.address,
        ends_with=code,
    )
    assert b"<** " + reply in done.out
    assert anna.contents("INBOX") == []


@pytest.mark.rfc(5321, "4.5.3.1.8")
def test_a_thousand_recipients_and_one_too_many(tool: Program) -> None:
    with Server() as server:
        account = Account(server, "anna@example.org")

        async def take_all(store: Store) -> None:
            await store.write(0, edit.set_catch_all, "example.org", account.address)

        server.run(take_all)
        done = swaks(tool, server, "--pipeline", to=",".join(f"a{number}@example.org" for number in range(1001)))
        assert done.out.count(b"250 2.1.5 ") == 1000
        assert done.out.count(b" 452 4.5.3 ") == 1
        assert "Subject: hello" in header_of(account)


def test_relaying_is_refused(tool: Program, tls_server: Server) -> None:
    done = swaks(tool, tls_server, to="carl@elsewhere.example", ends_with=REFUSED_RCPT)
    assert b"<** 550 5.7.1 " in done.out


@pytest.mark.parametrize(
    ("sender", "reply"),
    [("boris@elsewhere.example", b"550 5.7.1 "), ("{}> HOLDFOR=60 DELIVERBY=60 ENVID=a", b"555 5.5.4 ")],
    ids=["another", "unknown"],
)
def test_submission_refuses_a_sender(
    sender: str, reply: bytes, tool: Program, tls_server: Server, anna: Account
) -> None:
    sign_in = ["--auth", "PLAIN", "--auth-user", anna.address, "--auth-password", PASSWORD]
    done = swaks(
        tool,
        tls_server,
        *("--tls", *sign_in),
        sender=sender.format(anna.address),
        to=anna.address,
        port="submission_port",
        ends_with=REFUSED_MAIL,
    )
    assert b"<~* " + reply in done.out


def test_submission_takes_nobody_unknown(tool: Program, tls_server: Server, anna: Account) -> None:
    done = swaks(tool, tls_server, "--tls", to=anna.address, port="submission_port", ends_with=REFUSED_MAIL)
    assert b"<~* 530 5.7.0 " in done.out


@pytest.mark.rfc(3207, "4")
@pytest.mark.parametrize("version", ["tlsv1_2", "tlsv1_3"])
def test_versions_of_tls(version: str, tool: Program, tls_server: Server, anna: Account) -> None:
    trust = ["--tls-verify", "--tls-ca-path", str(tls_server.certificate)]
    swaks(tool, tls_server, "--tls", "--tls-protocol", version, *trust, to=anna.address)
    assert f"(TLSv{version[-3:].replace('_', '.')}_" in header_of(anna)


@pytest.mark.rfc(8996, "5")
@pytest.mark.parametrize("version", ["tlsv1", "tlsv1_1"])
def test_old_versions_of_tls_fail(version: str, tool: Program, tls_server: Server, anna: Account) -> None:
    swaks(tool, tls_server, "--tls", "--tls-protocol", version, to=anna.address, ends_with=NO_TLS)
    assert anna.contents("INBOX") == []


def test_a_certificate_that_nobody_vouches_for_is_noticed(tool: Program, tls_server: Server, anna: Account) -> None:
    write_self_signed(tool.home / "other.pem", tool.home / "other.key", hostname="localhost")
    trust = ["--tls-verify", "--tls-ca-path", str(tool.home / "other.pem")]
    swaks(tool, tls_server, "--tls", *trust, to=anna.address, ends_with=NO_TLS)
    swaks(tool, tls_server, "--tls-optional", to=anna.address)
    assert " with ESMTPS id " in header_of(anna)


def test_required_tls_fails_where_there_is_none(tool: Program) -> None:
    with Server() as server:
        account = Account(server, "anna@example.org")
        swaks(tool, server, "--tls", to=account.address, ends_with=NO_TLS)
        swaks(tool, server, "--tls-optional-strict", to=account.address)
        assert " with ESMTP id " in header_of(account)


def test_xclient_is_not_for_strangers(tool: Program, tls_server: Server, anna: Account) -> None:
    swaks(tool, tls_server, "--xclient", "ADDR=192.0.2.7", to=anna.address, ends_with=NO_XCLIENT)
    assert anna.contents("INBOX") == []


@pytest.mark.parametrize("header", [PROXY, PROXY_2], ids=["version 1", "version 2"])
def test_a_proxy_that_is_named_tells_the_address(
    header: list[str], tool: Program, proxied_server: Server, request: pytest.FixtureRequest
) -> None:
    account = Account(proxied_server, f"{slug(request)}@example.org")
    swaks(tool, proxied_server, *header, to=account.address)
    # No IMAP client here knows PROXY, which every listener asks for.
    [taken] = [line for line in proxied_server.events if f"to=<{account.address}>" in line]
    [connection] = re.findall(r" conn=\d+ ", taken)
    assert any(f"smtp.connect{connection}peer=192.0.2.7" in line for line in proxied_server.events)


def test_a_proxy_that_talks_nonsense_is_cut_off(tool: Program, proxied_server: Server) -> None:
    bad = ["--proxy-version", "1", "--proxy", "TCP4 192.0.2.7 nowhere 1 25"]
    done = swaks(tool, proxied_server, *bad, to="anna@example.org", ends_with=REFUSED_CONNECTION)
    assert b"220 " not in done.out


@pytest.mark.rfc(5321, "4.3.1")
def test_a_proxy_that_nobody_named_talks_too_early(tool: Program, tls_server: Server, anna: Account) -> None:
    done = swaks(tool, tls_server, *PROXY, to=anna.address, ends_with=REFUSED_DATA)
    assert b"<** 500 5.5.1 " in done.out
    assert anna.contents("INBOX") == []


@pytest.mark.parametrize("stop", ["FIRST-HELO", "TLS", "HELO", "MAIL", "RCPT", "DATA"])
def test_who_goes_away_in_the_middle_leaves_nothing(
    stop: str, tool: Program, tls_server: Server, anna: Account
) -> None:
    swaks(tool, tls_server, "--tls", "--drop-after-send", stop, to=anna.address)
    swaks(tool, tls_server, "--tls", "--drop-after", stop, to=anna.address)
    assert anna.contents("INBOX") == []
