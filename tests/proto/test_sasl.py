"""SASL responses: base64, PLAIN, LOGIN; secrets stay out of every text."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto import sasl
from pochta.proto.sasl import (
    MAX_IDENTITY_BYTES,
    MAX_TOKEN_BYTES,
    BearerToken,
    LoginExchange,
    PlainCredentials,
    decode_base64,
    decode_plain,
)


@pytest.mark.rfc(4959, "3")
@pytest.mark.parametrize(
    "line", [b"=AAA", b"AAA=BBB", b"A", b"AA", b"AAA", b"AA=", b"AA==AA==", b"AA A", b"AAA\n", b"AA-_", b"===="]
)
def test_base64_is_strict(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_base64(line)


def test_base64() -> None:
    assert decode_base64(b"dGVzdAB0ZXN0AHRlc3Q=") == b"test\x00test\x00test"
    assert decode_base64(b"") == b""
    with pytest.raises(RemoteProtocolError):
        decode_base64(b"", is_empty_allowed=False)


@pytest.mark.rfc(4616, "2")
@pytest.mark.parametrize(
    ("message", "want"),
    [
        pytest.param(b"\x00tim\x00tanstaaftanstaaf", PlainCredentials("", "tim", "tanstaaftanstaaf"), id="RFC example"),
        pytest.param(b"Ursel\x00Kurt\x00xipj3plmq", PlainCredentials("Ursel", "Kurt", "xipj3plmq"), id="authzid"),
        pytest.param("\x00юзер\x00пароль".encode(), PlainCredentials("", "юзер", "пароль"), id="UTF-8"),
        pytest.param(
            b"\x00u\x00" + b"p" * MAX_IDENTITY_BYTES, PlainCredentials("", "u", "p" * MAX_IDENTITY_BYTES), id="long"
        ),
    ],
)
def test_plain(message: bytes, want: PlainCredentials) -> None:
    assert decode_plain(message) == want


@pytest.mark.rfc(4616, "2")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"tim\x00secret", id="one NUL"),
        pytest.param(b"\x00tim\x00secret\x00", id="three NULs"),
        pytest.param(b"\x00\x00secret", id="no identity"),
        pytest.param(b"\x00tim\x00", id="no password"),
        pytest.param(b"\x00tim\x00secret\xff", id="not UTF-8"),
        pytest.param(b"\x00tim\x00" + b"secret" * 200, id="too long"),
    ],
)
def test_plain_malformed(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_plain(message)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_login_steps() -> None:
    exchange = LoginExchange()
    asked = []
    for answer in (b"tim", b"secret"):
        asked.append(exchange.challenge)
        exchange.respond(answer)
    assert [*asked, exchange.challenge] == [b"Username:", b"Password:", None]
    assert exchange.credentials == PlainCredentials("", "tim", "secret")
    with pytest.raises(LocalProtocolError):
        exchange.respond(b"more")


@pytest.mark.parametrize("response", [b"", b"a\x00b", b"\xff", b"x" * (MAX_IDENTITY_BYTES + 1)])
def test_login_malformed(response: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        LoginExchange().respond(response)


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(PlainCredentials("", "tim", "secret"))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_give_credentials_or_the_documented_error(message: bytes) -> None:
    for decode in (decode_plain, decode_base64):
        try:
            decode(message)
        except RemoteProtocolError:
            continue


# EXTERNAL, OAuth, GSSAPI

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
RFC_EXAMPLE = f"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer {TOKEN}\1\1".encode()


@pytest.mark.rfc(7628, "3.1")
@pytest.mark.rfc(7628, "4.1")
@pytest.mark.parametrize(
    ("message", "want"),
    [
        pytest.param(RFC_EXAMPLE, BearerToken("user@example.com", TOKEN), id="RFC example"),
        pytest.param(b"n,,\1auth=Bearer a.b-c_~+/==\1\1", BearerToken("", "a.b-c_~+/=="), id="nobody named"),
        pytest.param(b"y,,\1auth=bearer  x \1\1", BearerToken("", "x"), id="blanks, in any case"),
        pytest.param(
            b"n,a=a=2Cb=3Dc,\1x=\t\r\n\1auth=Bearer x\1\1", BearerToken("a,b=c", "x"), id="escapes, unknown key"
        ),
        pytest.param("n,a=ю@пошта.рф,\1auth=Bearer x\1\1".encode(), BearerToken("ю@пошта.рф", "x"), id="UTF-8"),
    ],
)
def test_oauthbearer(message: bytes, want: BearerToken) -> None:
    assert sasl.decode_oauthbearer(message) == want
    assert want.token not in repr(want) or len(want.token) == 1


@pytest.mark.rfc(7628, "3.1")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\1", id="the answer to a failure"),
        pytest.param(b"n,,\1\1", id="nothing"),
        pytest.param(b"p=tls-unique,,\1auth=Bearer x\1\1", id="channel binding"),
        pytest.param(b"n,a==,\1auth=Bearer x\1\1", id="bad escape"),
        pytest.param(b"n,a=\xff,\1auth=Bearer x\1\1", id="not UTF-8"),
        pytest.param(b"n,a=" + b"a" * (MAX_IDENTITY_BYTES + 1) + b",\1auth=Bearer x\1\1", id="long name"),
        pytest.param(b"n,,\1auth=Basic YTpi\1\1", id="another scheme"),
        pytest.param(b"n,,\1auth=Bearer a b\1\1", id="two words"),
        pytest.param(b"n,,\1auth=Bearer x\1auth=Bearer y\1\1", id="twice"),
        pytest.param(b"n,,\1auth=Bearer x\1", id="no end"),
        pytest.param(b"n,,\1auth=Bearer x\1\1x", id="more"),
        pytest.param(b"n,,\1auth=Bearer " + b"a" * (MAX_TOKEN_BYTES + 1) + b"\1\1", id="long token"),
        pytest.param(b"n,,\1auth=Bearer \xd1\x8e\1\1", id="not ASCII"),
    ],
)
def test_oauthbearer_malformed(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        sasl.decode_oauthbearer(message)


def test_xoauth2() -> None:
    assert sasl.decode_xoauth2(b"user=a@b.example\1auth=Bearer x\1\1") == BearerToken("a@b.example", "x")
    for message in (b"", b"\1", b"user=\1auth=Bearer x\1\1", b"user=a\1\1", b"user=\xff\1auth=Bearer x\1\1"):
        with pytest.raises(RemoteProtocolError):
            sasl.decode_xoauth2(message)


@pytest.mark.rfc(7628, "3.2.2")
def test_failures_are_json() -> None:
    url = "https://login.example/.well-known/openid-configuration"
    said = sasl.oauthbearer_failure("invalid_token", scope="", configuration_url=url)
    assert json.loads(said) == {"status": "invalid_token", "openid-configuration": url}
    assert json.loads(sasl.xoauth2_failure(scope='a"b')) == {"status": "401", "schemes": "bearer", "scope": 'a"b'}


def test_authorization_identities() -> None:
    assert sasl.decode_authzid(b"") == ""
    assert sasl.decode_authzid("ю".encode()) == "ю"
    assert sasl.decode_layer(sasl.layers_offered()) == ""
    assert sasl.decode_layer(b"\1\xff\xff\xffanna") == "anna"
    for bad in (b"a\0", b"\xff", b"a" * (MAX_IDENTITY_BYTES + 1)):
        with pytest.raises(RemoteProtocolError):
            sasl.decode_authzid(bad)
        with pytest.raises(RemoteProtocolError):
            sasl.decode_layer(b"\1\0\0\0" + bad)
    for layer in (b"", b"\1", b"\1\0\0", b"\0\0\0\0", b"\2\0\0\0", b"\4\0\0\0", b"\3\0\0\0"):
        with pytest.raises(RemoteProtocolError):
            sasl.decode_layer(layer)


LIKE_A_MESSAGE = rb"n,a=[a-z]{0,3},\x01(auth=[Bb]earer [ -~]{0,9}\x01){0,2}\x01?"


@given(st.binary(max_size=200) | st.from_regex(LIKE_A_MESSAGE, fullmatch=True))
def test_nothing_else_is_raised(message: bytes) -> None:
    for decode in (sasl.decode_oauthbearer, sasl.decode_xoauth2, sasl.decode_layer, sasl.decode_authzid):
        with contextlib.suppress(RemoteProtocolError):
            decode(message)
