"""Properties of the engine: no bytes break it, no cut shows, replies match commands, nothing is smuggled."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_driver import HELLO, Driver, codes, connect

from pochta.proto.smtp import commands, events
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.data import BareNewline

WORDS = [
    HELLO,
    b"MAIL FROM:<a@b> SIZE=10\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"RCPT TO:<no@d>\r\n",
    b"DATA\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"text\r\n",
    b"..x\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH PLAIN AHVzZXIAcMOkc3N3b3Jk\r\n",
    b"dXNlcg==\r\n",
    b"*\r\n",
    b"QUIT\r\n",
    b"\n",
    b"\r",
    b"\n.\n",
    b"x" * 1200,
    b"\xff\x00",
    "RCPT TO:<ü@d>\r\n".encode(),
]
WIRE = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=25).map(b"".join),
    st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=12)), max_size=15).map(b"".join),
)
MODES = st.sampled_from(list(BareNewline))


def play(chunks: list[bytes], mode: BareNewline, *, is_lmtp: bool) -> Driver:
    driver = connect(is_lmtp=is_lmtp, can_start_tls=False, auth_mechanisms=("PLAIN", "LOGIN"), bare_newline=mode)
    driver.feed_all(chunks)
    return driver


@settings(max_examples=300, deadline=None)
@given(wire=WIRE, cuts=st.lists(st.integers(0, 3000), max_size=6), mode=MODES, is_lmtp=st.booleans())
def test_no_cut_shows(wire: bytes, cuts: list[int], mode: BareNewline, is_lmtp: bool) -> None:
    if is_lmtp:
        wire = wire.replace(b"EHLO", b"LHLO")
    whole = play([wire], mode, is_lmtp=is_lmtp)
    edges = sorted({0, len(wire), *(c for c in cuts if c < len(wire))})
    for chunks in ([wire[a:b] for a, b in pairwise(edges)], [wire[i : i + 1] for i in range(len(wire))]):
        cut = play(chunks, mode, is_lmtp=is_lmtp)
        assert (cut.sent, cut.events, cut.messages) == (whole.sent, whole.events, whole.messages)


@settings(max_examples=300, deadline=None)
@given(wire=WIRE, mode=MODES)
def test_messages_were_agreed_on(wire: bytes, mode: BareNewline) -> None:
    driver = play([wire], mode, is_lmtp=False)
    starts = sum(isinstance(event, events.DataStart) for event in driver.events)
    ends = sum(isinstance(event, events.DataEnd | events.DataRejected) for event in driver.events)
    assert starts - ends == int(driver.server.is_receiving_message)
    assert codes(driver.sent).count("354") == starts
    for message in driver.messages:
        assert message.count(b"\r\n") == message.count(b"\r") == message.count(b"\n")
        assert len(message) <= driver.server.limits.max_message_bytes


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS[:5] + WORDS[10:12]), max_size=15))
def test_every_command_gets_one_reply(lines: list[bytes]) -> None:
    driver = play(lines, BareNewline.REFUSE, is_lmtp=False)
    assert len(codes(driver.sent)) == len(lines)


@settings(max_examples=300, deadline=None)
@given(
    verb=st.sampled_from(["MAIL FROM:", "rcpt to:"]),
    mailbox=st.tuples(st.text("ab.-+_é\"'", max_size=8), st.text("aB9.-_", max_size=70)).map("@".join),
    rest=st.sampled_from(["", " SIZE=1", " ", "x", "\t"]),
)
def test_the_short_way_through_the_grammar_agrees_with_the_long_one(verb: str, mailbox: str, rest: str) -> None:
    text = f"{verb}<{mailbox}>{rest}"
    match = commands.PLAIN_PATH.fullmatch(text.encode() + b"\r\n")
    parse = commands.parse_mail if verb == "MAIL FROM:" else commands.parse_rcpt
    if match is not None:
        _, argument = commands.split_command(text.encode())
        path, parameters = parse(argument)
        assert (str(path), parameters.strip()) == (mailbox, (match[4] or b"").decode().strip())
        assert match[2].decode() + "@" + match[3].decode() == mailbox
    elif mailbox.isascii() and '"' not in mailbox and rest == "":
        with pytest.raises(CommandError):
            parse(f"{verb}<{mailbox}>".partition(" ")[2])


def test_hostile_lines_take_linear_time() -> None:
    for filler in (b"a", b"a.", b"-", b"@", b"<", b'"', b"\\", b"a-", b"[", b":", b" ", b"=", b"@a,"):
        for head in (b"MAIL FROM:<", b"RCPT TO:<@", b'MAIL FROM:<"', b"MAIL FROM:<a@", b"MAIL FROM:<a@b> "):
            line = head + filler * (2000 // len(filler))
            driver = connect()
            driver.feed(HELLO + line + b"\r\n")
            assert len(codes(driver.sent)) == 2
