"""Addresses, buffer, SASL, SCRAM: the edges of every limit, and what the peer is told. Found by `.ci/mutation`."""

import pytest

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto import scram
from pochta.proto.address import (
    MAX_DOMAIN_BYTES,
    MAX_LABEL_BYTES,
    MAX_PATH_BYTES,
    Address,
    AddressError,
    AddressFault,
    parse_mailbox,
    parse_path,
    split_detail,
    to_a_labels,
)
from pochta.proto.buffer import CRLF, InputBuffer
from pochta.proto.sasl import MAX_IDENTITY_BYTES, LoginExchange, decode_base64, decode_plain
from pochta.proto.scram import ServerExchange, parse_client_first

SALT = b"salt"
FIRST = b"n,,n=user,r=abc"
PROOF = b",p=" + b"A" * 43 + b"="


def exchange() -> ServerExchange:
    return ServerExchange(parse_client_first(FIRST), server_nonce=b"def", salt=SALT, iterations=1)


@pytest.mark.rfc(5321, "4.5.3.1.3")
def test_the_longest_path() -> None:
    local_part = "l" * (MAX_PATH_BYTES - len("<@x.y>"))
    assert parse_path(f"<{local_part}@x.y>") == (Address(local_part, "x.y"), MAX_PATH_BYTES)
    assert parse_mailbox(f"{local_part}@x.y") == Address(local_part, "x.y")
    for text in (f"{local_part}l@x.y", f"{'я' * (MAX_PATH_BYTES // 2)}@x.y"):
        with pytest.raises(AddressError, match=r"^address too long$") as raised:
            parse_mailbox(text)
        assert raised.value.fault is AddressFault.TOO_LONG


@pytest.mark.rfc(5321, "4.5.3.1.2")
def test_the_longest_domain() -> None:
    label = "d" * MAX_LABEL_BYTES
    longest = f"{label}.{label}.{label}.{label}"
    assert len(longest) == MAX_DOMAIN_BYTES
    assert to_a_labels(longest) == longest
    # U+4E00 is one character here and many octets as an A-label
    for domain in (f"{longest}d", f"{label}.{label}.{label}.{'d' * 55}.一一", f"{label}d.x"):
        with pytest.raises(AddressError, match=r"^bad domain in address$"):
            to_a_labels(domain)


@pytest.mark.rfc(5321, "4.1.3")
@pytest.mark.parametrize(
    ("literal", "is_one"),
    [
        ("::", True),
        ("::1", True),
        ("1::", True),
        ("1:2:3:4:5:6::", True),
        ("::3:4:5:6:7:8", True),
        ("1:2:3::7:8", True),
        ("::ffff:192.0.2.1", True),
        ("1:2:3:4:5:6:192.0.2.1", True),
        ("1234:1234:1234:1234:1234:1234:1234:1234", True),
        ("1:2:3:4:5:6:7::", False),
        ("::2:3:4:5:6:7:8", False),
        ("1:2:3:4::6:7:8", False),
        ("1:2:3:4:5:6:7", False),
        ("1:2:3:4:5:6:7:8:9", False),
        (":::", False),
        ("1:::2", False),
        ("1::2::", False),
        ("1::2::3", False),
        ("1:2:3:4:5:6:7:", False),
        (":2:3:4:5:6:7:8", False),
        ("1:2:3:4:5:6:7:192.0.2.1", False),
        ("1:2:3:4:5:6:7:12345", False),
        ("192.0.2.1", False),
    ],
)
def test_ipv6_literals(literal: str, is_one: bool) -> None:
    if is_one:
        assert to_a_labels(f"[IPv6:{literal}]") == f"[ipv6:{literal}]"
        return
    with pytest.raises(AddressError):
        to_a_labels(f"[IPv6:{literal}]")


def test_a_user_of_one_letter_has_a_detail() -> None:
    assert split_detail("a+b") == ("a", "b")
    assert split_detail("ab--c", "--") == ("ab", "c")


def test_buffer_keeps_the_place_where_it_stopped_looking() -> None:
    buffer = InputBuffer()
    buffer.feed(b"ab\r\nc")
    assert buffer.take_line(8) == b"ab\r\n"
    assert buffer.take_line(8) is None
    buffer.feed(b"\n\nd")
    assert buffer.take_line(8) == b"c\n"
    assert buffer.take_line(8) == b"\n"
    assert len(buffer) == 1


def test_buffer_takes_runs_behind_what_is_dropped() -> None:
    buffer = InputBuffer(resync=CRLF)
    buffer.feed(b"123456789")
    with pytest.raises(RemoteProtocolError, match=r"^line too long$"):
        buffer.take_line(8)
    assert buffer.take(100) == b""
    buffer.feed(b"x\r")
    assert buffer.take(100) == b""
    buffer.feed(b"\nrun")
    taken = buffer.take(2)
    assert type(taken) is bytes
    assert taken == b"ru"
    assert buffer.take(100) == b"n"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        pytest.param(b"tim\0secret", "malformed PLAIN response", id="one NUL"),
        pytest.param(b"\0tim\0secret\0", "malformed PLAIN response", id="three NULs"),
        pytest.param(b"\0\0secret", "malformed PLAIN response", id="no identity"),
        pytest.param(b"\0tim\0" + b"s" * (MAX_IDENTITY_BYTES + 1), "response is too long", id="too long"),
        pytest.param(b"\0tim\0\xff", "response is not valid UTF-8", id="not UTF-8"),
    ],
)
def test_what_plain_is_told(message: bytes, told: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_plain(message)
    assert str(raised.value) == told


def test_what_login_is_told() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^invalid base64$"):
        decode_base64(b"=")
    one = LoginExchange()
    with pytest.raises(RemoteProtocolError, match=r"^malformed LOGIN response$"):
        one.respond(b"")
    one.respond(b"tim")
    one.respond(b"secret")
    with pytest.raises(LocalProtocolError, match=r"^LOGIN has all it needs$"):
        one.respond(b"more")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        pytest.param(b"n,,m=1,n=user,r=x", "unknown SCRAM extension", id="mandatory extension"),
        pytest.param(b"n,,n=,r=x", "malformed SCRAM message", id="no name"),
        pytest.param(b"p=tls-unique,,n=user,r=x", "channel binding is not supported", id="channel binding"),
        pytest.param(b"n,,n=user,r=" + b"x" * (scram.MAX_NONCE_BYTES + 1), "SCRAM nonce is too long", id="long nonce"),
        pytest.param(b"n,,n=\xff,r=x", "SCRAM name is not valid UTF-8", id="not UTF-8"),
    ],
)
def test_what_a_first_scram_message_is_told(message: bytes, told: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        parse_client_first(message)
    assert str(raised.value) == told


@pytest.mark.parametrize(
    ("message", "told"),
    [
        pytest.param(b"c=biws,r=abcdef", "malformed SCRAM message", id="no proof"),
        pytest.param(b"c=eSws,r=abcdef" + PROOF, "SCRAM channel binding does not match", id="other header"),
        pytest.param(b"c=biws,r=abcdeg" + PROOF, "SCRAM nonce does not match", id="other nonce"),
    ],
)
def test_what_a_final_scram_message_is_told(message: bytes, told: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        exchange().receive(message)
    assert str(raised.value) == told


def test_scram_messages_as_long_as_may_be() -> None:
    filler = scram.MAX_MESSAGE_BYTES - len(b"n,,n=,r=abc")
    longest = b"n,,n=" + b"u" * filler + b",r=abc"
    assert parse_client_first(longest).username == "u" * filler
    one = exchange()
    start = b"c=biws,r=abcdef,t="
    with pytest.raises(RemoteProtocolError, match=r"^malformed SCRAM message$"):
        one.receive(start + b"x" * (scram.MAX_MESSAGE_BYTES - len(start + PROOF) + 1) + PROOF)
    one.receive(start + b"x" * (scram.MAX_MESSAGE_BYTES - len(start + PROOF)) + PROOF)
    with pytest.raises(LocalProtocolError, match=r"^SCRAM has all it needs$"):
        one.receive(b"")


def test_scram_answers_nothing_before_the_client_has_spoken() -> None:
    with pytest.raises(LocalProtocolError, match=r"^SCRAM still waits for the client$"):
        exchange().server_final(bytes(32))
