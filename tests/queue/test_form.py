"""In which form a message goes to a server, by what both can do."""

from dataclasses import replace
from itertools import product

import pytest

from pochta.mime.convert import Body, CannotConvert, Form
from pochta.proto.address import Address
from pochta.proto.smtp.client.envelope import BodyKind
from pochta.proto.smtp.client.extensions import Extensions
from pochta.queue.form import Needs, Offered, Refused, Sending, Step, as_sent, cannot_convert, decide, too_large

ANNA = Address("anna", "a.test")
BOB = Address("bob", "b.test")
UTF8 = Address("иван", "почта.test")
IDN = Address("bob", "bücher.test")
NOTHING = Offered()


def form(body: Body = Body.SEVEN_BIT, *, is_header_utf8: bool = False) -> Form:
    return Form(body, is_header_utf8, 998)


def needs(*recipients: Address, sender: Address | None = ANNA, is_requiretls: bool = False) -> Needs:
    return Needs(reverse_path=sender, recipients=recipients or (BOB,), is_requiretls=is_requiretls)


def sending(message: Form, envelope: Needs, offered: Offered, size: int = 1000) -> Sending:
    found = decide(message, size, envelope, offered)
    assert isinstance(found, Sending)
    return found


BODIES = [
    pytest.param(Body.SEVEN_BIT, NOTHING, Step.AS_IS, BodyKind.SEVEN_BIT, id="7bit"),
    pytest.param(Body.SEVEN_BIT, Offered(eight_bit=True), Step.AS_IS, BodyKind.SEVEN_BIT, id="7bit-to-8bitmime"),
    pytest.param(Body.EIGHT_BIT, Offered(eight_bit=True), Step.AS_IS, BodyKind.EIGHT_BIT, id="8bit"),
    pytest.param(Body.EIGHT_BIT, Offered(smtputf8=True), Step.AS_IS, BodyKind.EIGHT_BIT, id="8bit-by-smtputf8"),
    pytest.param(Body.EIGHT_BIT, NOTHING, Step.TO_7BIT, BodyKind.SEVEN_BIT, id="8bit-to-plain"),
    pytest.param(
        Body.BINARY, Offered(eight_bit=True, binary=True, chunking=True), Step.AS_IS, BodyKind.BINARY, id="binary"
    ),
    pytest.param(
        Body.BINARY, Offered(eight_bit=True, binary=True), Step.TO_8BIT, BodyKind.EIGHT_BIT, id="binary-no-chunking"
    ),
    pytest.param(
        Body.BINARY, Offered(eight_bit=True, chunking=True), Step.TO_8BIT, BodyKind.EIGHT_BIT, id="binary-to-8bitmime"
    ),
    pytest.param(Body.BINARY, Offered(chunking=True), Step.TO_7BIT, BodyKind.SEVEN_BIT, id="binary-to-plain"),
]


@pytest.mark.rfc(6152, "3")
@pytest.mark.rfc(3030, "3")
@pytest.mark.parametrize(("body", "offered", "step", "kind"), BODIES)
def test_body(body: Body, offered: Offered, step: Step, kind: BodyKind) -> None:
    found = sending(form(body), needs(), offered)
    assert (found.step, found.body) == (step, kind)


@pytest.mark.rfc(6531, "3.4")
def test_smtputf8_is_asked_for_only_where_something_needs_it() -> None:
    offered = Offered(eight_bit=True, smtputf8=True)
    assert not sending(form(), needs(BOB), offered).is_smtputf8
    assert not sending(form(), needs(IDN, sender=IDN), offered).is_smtputf8
    assert sending(form(), needs(UTF8), offered).is_smtputf8
    assert sending(form(), needs(BOB, UTF8), offered).is_smtputf8
    assert sending(form(), needs(sender=UTF8), offered).is_smtputf8
    header = sending(form(is_header_utf8=True), needs(), offered)
    assert header.is_smtputf8
    assert header.body is BodyKind.EIGHT_BIT


@pytest.mark.rfc(6531, "3.5")
@pytest.mark.parametrize(
    ("message", "envelope", "code", "enhanced"),
    [
        pytest.param(form(), needs(sender=UTF8), 550, "5.6.7", id="sender"),
        pytest.param(form(), needs(UTF8), 553, "5.6.7", id="recipient"),
        pytest.param(form(is_header_utf8=True), replace(needs(), is_smtputf8=True), 554, "5.6.9", id="header"),
    ],
)
def test_what_needs_smtputf8_is_refused_without(message: Form, envelope: Needs, code: int, enhanced: str) -> None:
    for offered in (NOTHING, Offered(eight_bit=True, binary=True, chunking=True)):
        found = decide(message, 1, envelope, offered)
        assert isinstance(found, Refused)
        assert found[:2] == (code, enhanced)


def test_a_raw_header_without_smtputf8_goes_as_it_always_has() -> None:
    found = sending(form(is_header_utf8=True), needs(), Offered(eight_bit=True))
    assert (found.step, found.body, found.is_smtputf8) == (Step.AS_IS, BodyKind.EIGHT_BIT, False)


def test_one_recipient_refused_the_others_served() -> None:
    found = sending(form(), needs(UTF8, BOB, UTF8, IDN), NOTHING)
    assert found.recipients == ((1, "bob@b.test"), (3, "bob@xn--bcher-kva.test"))
    assert [(place, refusal.code) for place, refusal in found.refused] == [(0, 553), (2, 553)]
    assert not found.is_smtputf8


@pytest.mark.rfc(6531, "3.2")
@pytest.mark.parametrize(
    ("address", "sent"),
    [
        pytest.param(BOB, "bob@b.test", id="ascii"),
        pytest.param(IDN, "bob@xn--bcher-kva.test", id="a-labels"),
        pytest.param(UTF8, "иван@почта.test", id="smtputf8"),
        pytest.param(Address("a b", "bücher.test"), '"a b"@xn--bcher-kva.test', id="quoted"),
        pytest.param(Address("Bob", "B.test"), "Bob@B.test", id="case-is-kept"),
        pytest.param(Address("bob", "[192.0.2.1]"), "bob@[192.0.2.1]", id="literal"),
    ],
)
def test_address_as_sent(address: Address, sent: str) -> None:
    assert as_sent(address) == sent


def test_null_sender() -> None:
    assert sending(form(), needs(sender=None), NOTHING).reverse_path == ""


@pytest.mark.rfc(8689, "4.2.1")
def test_requiretls_not_offered() -> None:
    found = decide(form(), 1, needs(is_requiretls=True), Offered(eight_bit=True))
    assert isinstance(found, Refused)
    assert found[:2] == (550, "5.7.30")


@pytest.mark.rfc(8689, "5")
def test_bounce_goes_without_requiretls() -> None:
    bounce = needs(sender=None, is_requiretls=True)
    assert not sending(form(), bounce, NOTHING).is_requiretls
    assert sending(form(), bounce, Offered(requiretls=True)).is_requiretls


def test_requiretls_only_where_it_was_asked_for() -> None:
    assert sending(form(), needs(is_requiretls=True), Offered(requiretls=True)).is_requiretls
    assert not sending(form(), needs(), Offered(requiretls=True)).is_requiretls


@pytest.mark.rfc(1870, "4")
def test_size() -> None:
    assert sending(form(), needs(), Offered(size_max=1000), size=1000)
    assert sending(form(), needs(), Offered(size_max=0), size=10**9)
    found = decide(form(), 1001, needs(), Offered(size_max=1000))
    assert found == Refused(552, "5.3.4", "the message has 1001 octets, and the next server takes 1000 at most")
    assert too_large(1001, Offered(size_max=1000)) == found
    assert too_large(1000, Offered(size_max=1000)) is None


def test_what_cannot_be_converted() -> None:
    refusal = cannot_convert(CannotConvert("it is signed"))
    assert refusal == (554, "5.6.3", "the message cannot be made fit for the next server: it is signed")


def test_offered_by_extensions() -> None:
    assert Offered.by(Extensions()) == NOTHING
    every = Extensions(
        has_8bitmime=True, has_binarymime=True, has_smtputf8=True, has_chunking=True, max_message_bytes=7,
        has_requiretls=True, has_dsn=True,
    )  # fmt: skip
    assert Offered.by(every) == Offered(
        eight_bit=True, binary=True, smtputf8=True, chunking=True, size_max=7, requiretls=True, dsn=True
    )


@pytest.mark.parametrize("body", Body)
@pytest.mark.parametrize("is_header_utf8", [False, True])
def test_no_server_gets_what_it_did_not_offer(body: Body, is_header_utf8: bool) -> None:
    envelopes = [needs(*recipients, sender=sender) for recipients, sender in product(
        [(BOB,), (UTF8,), (BOB, UTF8)], [None, ANNA, UTF8])]  # fmt: skip
    for envelope, flags in product(envelopes, product([False, True], repeat=4)):
        offered = Offered(**dict(zip(("eight_bit", "binary", "smtputf8", "chunking"), flags, strict=True)))
        found = decide(form(body, is_header_utf8=is_header_utf8), 1, envelope, offered)
        if isinstance(found, Refused):
            assert not offered.smtputf8
            continue
        assert offered.smtputf8 or not found.is_smtputf8
        assert offered.eight_bit or offered.smtputf8 or found.body is not BodyKind.EIGHT_BIT
        assert (offered.binary and offered.chunking) or found.body is not BodyKind.BINARY
        assert len(found.recipients) + len(found.refused) == len(envelope.recipients)
        assert found.is_smtputf8 or all(text.isascii() for _, text in found.recipients)
