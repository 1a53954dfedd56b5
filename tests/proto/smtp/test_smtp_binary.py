"""BINARYMIME: octets that are no lines, by BDAT alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smtp_driver import HELLO, at_cuts, codes, connect, ways

from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.offers import Offers

rfc = pytest.mark.rfc
OFFERS = Offers(binarymime=True)
OPEN = HELLO + b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n"
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
TAKEN = "250 2.0.0"
OCTETS = b"\r\n.\r\n\n\r\0\xff.\r"


@rfc(3030, "3")
@pytest.mark.parametrize("mode", BareNewline)
@pytest.mark.parametrize("is_lmtp", [False, True], ids=["SMTP", "LMTP"])
def test_every_octet_is_kept(mode: BareNewline, is_lmtp: bool) -> None:
    wire = OPEN + b"BDAT 3\r\nab\r" + b"BDAT %d\r\n%b" % (len(OCTETS), OCTETS) + b"BDAT 1 LAST\r\n\r"
    wire = wire.replace(b"EHLO", b"LHLO") if is_lmtp else wire
    for chunks in ways(wire, halves=len(wire)):
        driver = connect(is_lmtp=is_lmtp, offers=OFFERS, bare_newline=mode)
        assert codes(driver.feed_all(chunks)) == [*OPENED, TAKEN, TAKEN, TAKEN]
        assert driver.messages == [b"ab\r" + OCTETS + b"\r"]


@rfc(3030, "3")
@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=5))
def test_whatever_the_cuts(body: bytes, cuts: list[int]) -> None:
    driver = connect(offers=OFFERS)
    wire = OPEN + b"BDAT %d LAST\r\n%b" % (len(body), body) + b"NOOP\r\n"
    assert codes(driver.feed_all(at_cuts(wire, cuts))) == [*OPENED, TAKEN, TAKEN]
    assert driver.messages == [body]


@rfc(3030, "3")
def test_data_is_refused_and_bdat_may_still_come() -> None:
    for chunks in ways(OPEN + b"DATA\r\nBDAT 1 LAST\r\n\nRSET\r\n"):
        driver = connect(offers=OFFERS)
        assert codes(driver.feed_all(chunks)) == [*OPENED, "503 5.5.1", TAKEN, TAKEN]
        assert driver.messages == [b"\n"]


@rfc(3030, "3")
def test_the_next_message_is_of_lines_again() -> None:
    again = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    wire = OPEN + b"BDAT 1 LAST\r\n\n" + again + b"BDAT 1 LAST\r\n\n" + again + b"DATA\r\n.\r\n"
    for chunks in ways(wire):
        driver = connect(offers=OFFERS)
        want = [*OPENED, TAKEN, *OPENED[1:], "550 5.5.2", *OPENED[1:], "354", TAKEN]
        assert codes(driver.feed_all(chunks)) == want


@rfc(3030, "3")
def test_the_limit_holds() -> None:
    driver = connect(offers=OFFERS)
    sent = driver.feed(OPEN + b"BDAT 1000\r\n" + b"\r" * 1000 + b"BDAT 1 LAST\r\n\n")
    assert codes(sent) == [*OPENED, TAKEN, "552 5.3.4"]
    assert driver.messages == []
