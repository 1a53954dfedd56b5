"""End-of-data smuggling: every variant of the end mark, in both modes, cut at every byte.

A server that takes another sequence than CRLF . CRLF for the end of data lets a client of some relay write what looks
like a second transaction into a message. Here that transaction never begins, and a message with bare line ends is
refused whole (`refuse`) or keeps all its text (`normalise`).
"""

import pytest
from smtp_driver import HELLO, Driver, codes, connect, ways

from pochta.proto.smtp import events
from pochta.proto.smtp.data import BareNewline

rfc = pytest.mark.rfc
REFUSE, NORMALISE = BareNewline.REFUSE, BareNewline.NORMALISE
OPEN = HELLO + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
SMUGGLED = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@d>\r\nDATA\r\nevil\r\n"
END = b"\r\n.\r\n"
OPENED = ["250", "250 2.1.0", "250 2.1.5"]

BARE_LF = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\n\n.\n\n",
    b"\n.\n.\n",
    b"\n..\n",
    b"\n..\r\n",
    b"\r\n..\n",
    b"\n.\r\n.\n",
]
BARE_CR = [
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\n.\r",
    b"\r.\n",
    b"\r\n.\r\r\n",
    b"\n\r.\n\r",
    b"\n\r.\r\n",
    b"\r\n\r.\r\n",
    b"\r\n.\n\r",
]
NUL = [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n\0.\0\r\n", b"\0\r\n.\0\r\n", b"\r\n.\0.\r\n"]
BARE_NUL = [b"\n\0.\n", b"\n.\0\n", b"\r\n\0.\n", b"\r\n.\0\n", b"\n\0.\r\n"]
BARE_CR_NUL = [b"\r\0\n.\r\n", b"\r\n.\r\0\n", b"\r\0\n.\r\0\n", b"\r\0.\r\0"]
OTHER = [
    b"\r\n. \r\n",
    b"\r\n .\r\n",
    b"\r\n.\t\r\n",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
]


def table(marks: list[bytes], code_refuse: str, code_normalise: str) -> list[object]:
    return [
        pytest.param(mark, mode, code, id=f"{mark!r}-{mode}")
        for mark in marks
        for mode, code in ((REFUSE, code_refuse), (NORMALISE, code_normalise))
    ]


CASES = [
    *table(BARE_LF, "550 5.5.2", "250 2.0.0"),
    *table(BARE_CR, "550 5.5.2", "550 5.5.2"),
    *table(NUL, "250 2.0.0", "250 2.0.0"),
    *table(BARE_NUL, "550 5.5.2", "250 2.0.0"),
    *table(BARE_CR_NUL, "550 5.5.2", "550 5.5.2"),
    *table(OTHER, "250 2.0.0", "250 2.0.0"),
]


def transactions(driver: Driver) -> int:
    return sum(isinstance(event, events.Mail) for event in driver.events)


def lines_of(text: bytes) -> bytes:
    """What of the smuggled text is to be in the message."""
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@rfc(5321, "4.1.1.4")
@pytest.mark.parametrize("before", [b"", b"text", b"text\r\n", b".text"], ids=repr)
@pytest.mark.parametrize(("mark", "mode", "code"), CASES)
def test_one_transaction_comes_out(mark: bytes, mode: BareNewline, code: str, before: bytes) -> None:
    body = before + mark + SMUGGLED
    # Cut through the mark at every byte; the transaction around it is the subject of other tests.
    opening = OPEN + b"DATA\r\n"
    assert END not in b"\r\n" + body
    for chunks in ways(body + b".\r\n" + b"QUIT\r\n", halves=len(before + mark) + 2):
        driver = connect(bare_newline=mode, can_start_tls=False)
        driver.feed(opening)
        driver.feed_all(chunks)
        assert codes(driver.sent) == [*OPENED, "354", code, "221 2.0.0"]
        assert transactions(driver) == 1
        assert len(driver.messages) == (code == "250 2.0.0")
        for message in driver.messages:
            assert message.endswith(lines_of(SMUGGLED))
            assert message.count(b"\r\n") == message.count(b"\n") == message.count(b"\r")
            assert message.count(b"\r\n") == (body.count(b"\n"))


@rfc(5321, "4.1.1.4")
@pytest.mark.parametrize("mode", BareNewline)
def test_the_real_mark_ends_the_data_at_any_cut(mode: BareNewline) -> None:
    wire = OPEN + b"DATA\r\ntext\r\n.\r\n" + SMUGGLED + b".\r\nQUIT\r\n"
    for chunks in ways(wire, halves=len(wire)):
        driver = connect(bare_newline=mode, can_start_tls=False)
        driver.feed_all(chunks)
        assert transactions(driver) == 2
        assert driver.messages == [b"text\r\n", b"evil\r\n"]


@pytest.mark.parametrize("mode", BareNewline)
def test_a_second_cr_before_the_real_mark_hides_nothing(mode: BareNewline) -> None:
    wire = OPEN + b"DATA\r\ntext\r\r\n.\r\nQUIT\r\n"
    for chunks in ways(wire, halves=len(wire)):
        driver = connect(bare_newline=mode, can_start_tls=False)
        driver.feed_all(chunks)
        assert codes(driver.sent) == [*OPENED, "354", "550 5.5.2", "221 2.0.0"]
        assert driver.messages == []


@pytest.mark.parametrize("mode", BareNewline)
@pytest.mark.parametrize("mark", [END, *BARE_LF, *BARE_CR, *NUL, *BARE_NUL, *BARE_CR_NUL, *OTHER], ids=repr)
def test_no_mark_ends_a_chunk(mark: bytes, mode: BareNewline) -> None:
    body = b"text" + mark + SMUGGLED + b".\r\n"
    wire = OPEN + b"BDAT %d LAST\r\n%bQUIT\r\n" % (len(body), body)
    without_pairs = body.replace(b"\r\n", b"")
    is_taken = b"\r" not in without_pairs and (b"\n" not in without_pairs or mode is NORMALISE)
    for chunks in ways(wire, halves=len(wire) - len(SMUGGLED)):
        driver = connect(bare_newline=mode, can_start_tls=False)
        driver.feed_all(chunks)
        assert codes(driver.sent) == [*OPENED, "250 2.0.0" if is_taken else "550 5.5.2", "221 2.0.0"]
        assert transactions(driver) == 1
        assert driver.messages == ([lines_of(body)] if is_taken else [])


@rfc(5321, "2.3.8")
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\r", b"\r\r\n"], ids=repr)
def test_no_command_hides_behind_a_bare_line_end(end: bytes) -> None:
    wire = HELLO + b"NOOP" + end + b"MAIL FROM:<evil@x>\r\nNOOP\r\n"
    for chunks in ways(wire, halves=len(wire)):
        driver = connect(can_start_tls=False)
        driver.feed_all(chunks)
        # CR CR LF ends a faulty line; what stands behind it is a line of its own
        is_line = end == b"\r\r\n"
        assert codes(driver.sent) == ["250", "500 5.5.2", *(["250 2.1.0"] if is_line else []), "250 2.0.0"]


def test_normalise_takes_a_bare_lf_behind_commands_only() -> None:
    wire = OPEN.replace(b"\r\n", b"\n") + b"DATA\n.\nQUIT\n.\n\r\n.\r\nQUIT\n"
    for chunks in ways(wire, halves=len(wire)):
        driver = connect(bare_newline=NORMALISE, can_start_tls=False)
        driver.feed_all(chunks)
        assert codes(driver.sent) == [*OPENED, "354", "250 2.0.0", "221 2.0.0"]
        assert driver.messages == [b"\r\nQUIT\r\n\r\n\r\n"]
