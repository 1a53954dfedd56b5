"""SCRAM-SHA-256 on the server's side: the RFC's example, the grammar, and what belongs together."""

import hashlib
import hmac
import runpy
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto import scram
from pochta.proto.scram import ServerExchange, derive_keys, parse_client_first

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
NONCE = FINAL[7 : FINAL.index(b",p=")]
PROOF = FINAL[FINAL.index(b",p=") :]


def exchange(first: bytes = FIRST) -> ServerExchange:
    return ServerExchange(parse_client_first(first), server_nonce=SERVER_NONCE, salt=SALT, iterations=4096)


def final_of(first: bytes, challenge: bytes, password: bytes, extensions: bytes = b"") -> bytes:
    """What a client answers, after RFC 5802 §3."""
    gs2_header = b",".join(first.split(b",")[:2]) + b","
    nonce, salt, iterations = (part[2:] for part in challenge.split(b",")[:3])
    salted = hashlib.pbkdf2_hmac("sha256", password, b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = b"c=" + b64encode(gs2_header) + b",r=" + nonce + extensions
    said = first[len(gs2_header) :] + b"," + challenge + b"," + without_proof
    signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return without_proof + b",p=" + b64encode(proof)


@pytest.mark.rfc(7677, "3")
def test_example_of_the_rfc() -> None:
    one = exchange()
    assert one.challenge == (b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    one.receive(FINAL)
    keys = derive_keys(b"pencil", SALT, 4096)
    assert one.is_proven_by(keys.stored_key)
    assert one.server_final(keys.server_key) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert not one.is_proven_by(derive_keys(b"pencils", SALT, 4096).stored_key)
    assert not one.is_proven_by(bytes(32))
    assert final_of(FIRST, one.challenge, b"pencil") == FINAL


@pytest.mark.rfc(5802, "5.1")
@pytest.mark.parametrize(
    ("message", "authzid", "username"),
    [
        pytest.param(b"n,,n=user,r=x", "", "user", id="plain"),
        pytest.param(b"y,,n=user,r=x", "", "user", id="client could bind a channel"),
        pytest.param(b"n,a=other,n=user,r=x", "other", "user", id="authzid"),
        pytest.param(b"n,a=a=2Cb,n=u=3Ds=2Cer,r=x", "a,b", "u=s,er", id="quoted"),
        pytest.param(b"n,,n==3D2C,r=x", "", "=2C", id="unquoted once"),
        pytest.param("n,,n=иван@почта.рф,r=x".encode(), "", "иван@почта.рф", id="utf-8"),
        pytest.param(b"n,,n=user,r=x,t=1,Z=a=b", "", "user", id="extensions are ignored"),
        pytest.param(b"n,,n=us er\x7f,r=!~", "", "us er\x7f", id="all but NUL, comma and ="),
    ],
)
def test_first_message(message: bytes, authzid: str, username: str) -> None:
    first = parse_client_first(message)
    assert (first.authzid, first.username) == (authzid, username)
    assert first.gs2_header + first.bare == message


@pytest.mark.rfc(5802, "7")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"n", id="flag only"),
        pytest.param(b"n,,", id="header only"),
        pytest.param(b"x,,n=user,r=x", id="other flag"),
        pytest.param(b"N,,n=user,r=x", id="flag in capitals"),
        pytest.param(b"p=tls-unique,,n=user,r=x", id="channel binding"),
        pytest.param(b"p,,n=user,r=x", id="channel binding without name"),
        pytest.param(b"n,,n=,r=x", id="no name"),
        pytest.param(b"n,,n=user,r=", id="no nonce"),
        pytest.param(b"n,,n=user", id="nonce missing"),
        pytest.param(b"n,,r=x,n=user", id="other order"),
        pytest.param(b"n,,n=us=er,r=x", id="bare ="),
        pytest.param(b"n,,n=us=2cer,r=x", id="quoted in small letters"),
        pytest.param(b"n,,n=us\x00er,r=x", id="NUL in a name"),
        pytest.param(b"n,a=,n=user,r=x", id="empty authzid"),
        pytest.param(b"n,n=user,r=x", id="no authzid field"),
        pytest.param(b"n,,n=user,r=x y", id="blank in the nonce"),
        pytest.param(b"n,,n=user,r=\xc3\xa4", id="nonce not ASCII"),
        pytest.param(b"n,,m=1,n=user,r=x", id="mandatory extension"),
        pytest.param(b"n,,n=user,r=x,m=1", id="mandatory extension at the end"),
        pytest.param(b"n,,n=user,r=x,r=y", id="nonce twice"),
        pytest.param(b"n,,n=user,r=x,t=", id="empty extension"),
        pytest.param(b"n,,n=user,r=x,", id="comma at the end"),
        pytest.param(b"n,,n=user,r=x\r\n", id="line end"),
        pytest.param(b"n,,n=\xff\xfe,r=x", id="name not UTF-8"),
        pytest.param(b"n,a=\xff,n=user,r=x", id="authzid not UTF-8"),
        pytest.param(b"n,,n=user,r=" + b"x" * (scram.MAX_NONCE_BYTES + 1), id="nonce too long"),
        pytest.param(b"n,,n=" + b"u" * scram.MAX_MESSAGE_BYTES + b",r=x", id="too long"),
    ],
)
def test_malformed_first_message(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_client_first(message)


def test_longest_nonce_goes_through() -> None:
    first = b"n,,n=user,r=" + b"x" * scram.MAX_NONCE_BYTES
    one = exchange(first)
    one.receive(final_of(first, one.challenge, b"pencil"))
    assert one.is_proven_by(derive_keys(b"pencil", SALT, 4096).stored_key)


@pytest.mark.rfc(5802, "6")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(FINAL.replace(b"biws", b"eSws"), id="other header: y"),
        pytest.param(FINAL.replace(b"biws", b"bixhPXgs"), id="other header: authzid"),
        pytest.param(FINAL.replace(b"biws", b"biwsAA=="), id="data of a channel"),
        pytest.param(FINAL.replace(b"c=biws", b"c="), id="no header"),
        pytest.param(FINAL.replace(b"$k0", b"$k1"), id="other nonce"),
        pytest.param(FINAL.replace(b"$k0", b"$k0x"), id="longer nonce"),
        pytest.param(FINAL.replace(SERVER_NONCE, b""), id="only its own nonce"),
        pytest.param(b"c=biws,r=" + NONCE, id="no proof"),
        pytest.param(b"c=biws,r=" + NONCE + b",p=", id="empty proof"),
        pytest.param(b"c=biws,r=" + NONCE + b",p=AAAA", id="short proof"),
        pytest.param(FINAL + b",t=1", id="something behind the proof"),
        pytest.param(b"c=biws,r=" + NONCE + b",m=1" + PROOF, id="mandatory extension"),
        pytest.param(b"c=biws,r=" + NONCE + b",c=biws" + PROOF, id="header twice"),
        pytest.param(b"r=" + NONCE + b",c=biws" + PROOF, id="other order"),
        pytest.param(FINAL + b"\n", id="line end"),
        pytest.param(b"c=biws,r=" + NONCE + b",t=" + b"x" * scram.MAX_MESSAGE_BYTES + PROOF, id="too long"),
    ],
)
def test_final_message_that_does_not_belong(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        exchange().receive(message)


@pytest.mark.rfc(5802, "6")
@pytest.mark.rfc(7677, "3")
def test_channel_binding() -> None:
    first, binding = b"p=tls-server-end-point,,n=user,r=abc", bytes(range(32))
    parsed = parse_client_first(first, is_plus=True, offers_plus=True)
    one = ServerExchange(parsed, server_nonce=SERVER_NONCE, salt=SALT, iterations=4096, binding=binding)
    said = b"c=%b,r=abc%b,p=%b" % (b64encode(b"p=tls-server-end-point,," + binding), SERVER_NONCE, b64encode(bytes(32)))
    for other in (bytes(32), b""):
        wrong = said.replace(said[2 : said.index(b",r=")], b64encode(b"p=tls-server-end-point,," + other))
        with pytest.raises(RemoteProtocolError, match="binding does not match"):
            one.receive(wrong)
    one.receive(said)


@pytest.mark.rfc(5802, "6")
@pytest.mark.parametrize(
    ("flag", "is_plus", "offers_plus"),
    [
        pytest.param(b"p=tls-server-end-point", False, False, id="bound, by the other mechanism"),
        pytest.param(b"p=tls-unique", True, True, id="bound to something else"),
        pytest.param(b"n", True, True, id="not bound"),
        pytest.param(b"y", True, True, id="not bound, though it could"),
        pytest.param(b"y", False, True, id="told that we cannot"),
    ],
)
def test_channel_binding_that_is_refused(flag: bytes, is_plus: bool, offers_plus: bool) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_client_first(flag + b",,n=user,r=abc", is_plus=is_plus, offers_plus=offers_plus)


@pytest.mark.parametrize("first", [b"y,,n=user,r=abc", b"n,a=user,n=user,r=abc", b"n,,n=user,r=abc,t=1"])
def test_header_and_extensions_are_part_of_the_proof(first: bytes) -> None:
    keys = derive_keys(b"pencil", SALT, 4096)
    one = exchange(first)
    one.receive(final_of(first, one.challenge, b"pencil", b",x=y"))
    assert one.is_proven_by(keys.stored_key)
    other = exchange(first)
    other.receive(final_of(first, one.challenge, b"pencil", b",x=y").replace(b",x=y", b",x=z"))
    assert not other.is_proven_by(keys.stored_key)


def test_order_of_calls() -> None:
    one = exchange()
    with pytest.raises(LocalProtocolError):
        one.is_proven_by(bytes(32))
    with pytest.raises(LocalProtocolError):
        one.server_final(bytes(32))
    one.receive(FINAL)
    with pytest.raises(LocalProtocolError):
        one.receive(FINAL)


def test_keys_do_not_print() -> None:
    assert repr(derive_keys(b"pencil", SALT, 1)) == "Keys(***)"


SOME_FIRST = st.binary(max_size=80) | st.text("npya=,2C3Drm xu\0é", max_size=40).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(SOME_FIRST)
@example(b"n,,n=" + b"=3D" * 1300 + b",r=x" + b",t=1" * 20)
def test_first_message_is_read_or_refused(message: bytes) -> None:
    try:
        first = parse_client_first(message)
    except RemoteProtocolError:
        return
    assert first.gs2_header + first.bare == message
    assert first.username
    assert len(first.nonce) <= scram.MAX_NONCE_BYTES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120) | st.integers(0, len(FINAL) - 1).map(lambda at: FINAL[:at] + b"A" + FINAL[at + 1 :]))
def test_final_message_is_taken_or_refused(message: bytes) -> None:
    one = exchange()
    try:
        one.receive(message)
    except RemoteProtocolError:
        return
    assert one.is_proven_by(derive_keys(b"pencil", SALT, 4096).stored_key) == (message == FINAL)


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.binary(min_size=1, max_size=40),
)
def test_any_name_and_password(username: str, password: bytes) -> None:
    quoted = username.replace("=", "=3D").replace(",", "=2C").encode()
    message = b"n,,n=" + quoted + b",r=abc"
    first = parse_client_first(message)
    assert first.username == username
    one = ServerExchange(first, server_nonce=b"def", salt=b"salt", iterations=1)
    one.receive(final_of(message, one.challenge, password))
    assert one.is_proven_by(derive_keys(password, b"salt", 1).stored_key)


FUZZ = Path(__file__).parents[1] / "fuzz" / "fuzz_scram.py"


@given(st.binary(max_size=200))
@example(FIRST + b"\0" + FINAL)
@example(FIRST + b"\0c=biws,r=rOprNGfwEbeRWgbNEkqOnonce,p=" + b64encode(bytes(32)))
def test_the_fuzz_target_does_what_it_says(data: bytes) -> None:
    runpy.run_path(str(FUZZ))["consume"](data)
