"""SASL responses: base64, PLAIN, LOGIN; secrets stay out of every text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto.sasl import MAX_IDENTITY_BYTES, LoginExchange, PlainCredentials, decode_base64, decode_plain


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
