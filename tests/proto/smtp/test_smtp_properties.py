"""Properties of the engine: no bytes break it, no cut shows, replies match commands, nothing is smuggled.

The bytes come from three generators (`smtp_generators`), which by themselves reach 95 % of the branches of
`proto/smtp` and `proto/address`.
"""

from dataclasses import dataclass

import pytest
import smtp_driver
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_driver import HELLO, Decision, Driver, at_cuts, codes, connect, ways
from smtp_generators import BY_DIALOGUES, BY_GRAMMAR, DOMAINS, LOCAL_PARTS, RAW

from pochta.errors import LocalProtocolError
from pochta.proto.address import AddressError, address_key, parse_mailbox, split_detail
from pochta.proto.smtp import commands, events
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import Event
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.offers import FutureRelease, Offers
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer

BUSY = Reply(421, "4.3.2", "Busy\nnow")
NO = Reply(451, "4.3.0", "Not now, " * 100)


@dataclass
class Policy:
    """The driver's side: what it is told by addresses and names, and what it makes of an address."""

    sender: str = ""
    hello: str = ""

    def decide(self, event: Event) -> Decision:
        match event:
            case events.Hello(name):
                self.hello = name
                return NO if name == "no.example" else None
            case events.StartTls():
                return NO if self.hello == "notls.example" else None
            case events.Mail(reverse_path=reverse_path):
                self.sender = "" if reverse_path is None else reverse_path.local_part
            case events.Rcpt(forward_path=forward_path):
                assert forward_path.key
                assert split_detail(forward_path.local_part)[0] or not forward_path.local_part
                assert str(forward_path)
                assert event.original is None or event.original.isprintable()
            case events.DataStart() if self.sender == "nodata":
                return NO
            case events.DataEnd() if self.sender == "nomsg":
                return NO
            case events.DataEnd() if self.sender == "bye":
                return BUSY
        return smtp_driver.decide(event)


@dataclass(frozen=True)
class Setting:
    """How a connection is set up."""

    mode: BareNewline
    is_lmtp: bool
    can_start_tls: bool
    offers_auth: bool
    requires_auth: bool
    greeting: Reply | None
    max_errors: int
    offers: Offers
    max_transactions: int | None

    def connect(self) -> Driver:
        server = SmtpServer(
            "mx.example",
            limits=SmtpLimits(
                max_message_bytes=100,
                max_recipients=3,
                max_command_line_bytes=400,
                max_auth_line_bytes=512,
                max_errors=self.max_errors,
                max_transactions=self.max_transactions,
            ),
            can_start_tls=self.can_start_tls,
            is_secure=False,
            is_lmtp=self.is_lmtp,
            auth_mechanisms=("PLAIN", "LOGIN", "SCRAM-SHA-256") if self.offers_auth else (),
            requires_auth=self.requires_auth,
            bare_newline=self.mode,
            offers=self.offers,
        )
        server.receive_data(b"")
        assert server.next_event() is None
        server.greet(self.greeting)
        driver = Driver(server, Policy().decide)
        driver.feed(b"")
        return driver


EVERYTHING = Offers(
    dsn=True,
    binarymime=True,
    requiretls=True,
    limits=True,
    future_release=FutureRelease(3600, 2**31),
    deliver_by_min_s=30,
    mt_priority="",
)
SETTINGS = st.builds(
    Setting,
    mode=st.sampled_from(BareNewline),
    is_lmtp=st.sampled_from([False, False, True]),
    can_start_tls=st.booleans(),
    offers_auth=st.sampled_from([True, True, False]),
    requires_auth=st.sampled_from([False, False, False, False, True]),
    greeting=st.sampled_from([*[None] * 10, NO, BUSY]),
    max_errors=st.sampled_from([3, 50, 50]),
    offers=st.sampled_from([Offers(), EVERYTHING]),
    max_transactions=st.sampled_from([None, None, 2]),
)
CUTS = st.lists(st.integers(0, 600), max_size=6)


def misuse(server: SmtpServer) -> None:
    """Whoever answers what was not asked is told so."""
    calls = [server.greet, server.accept, lambda: server.reply(NO), lambda: server.challenge(b"x")]
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()
    if not server.is_closed:
        with pytest.raises(LocalProtocolError):
            server.start_tls_done()


def check(driver: Driver) -> None:
    """What holds of every conversation."""
    assert codes(driver.sent)
    assert driver.server.is_closed is any(isinstance(event, events.Closed) for event in driver.events)
    assert driver.server.buffered_bytes <= driver.server.limits.max_auth_line_bytes
    message: events.DataStart | None = None
    for event in driver.events:
        if isinstance(event, events.DataStart):
            assert message is None
            message = event
        elif isinstance(event, events.DataEnd | events.DataRejected):
            assert message is not None
            message = None
        elif isinstance(event, events.Reset | events.Hello | events.StartTls | events.Closed):
            # what comes by DATA ends by its mark; the driver itself may have refused it or closed
            message = None
        elif isinstance(event, events.Mail):
            message = None
        elif isinstance(event, events.Rcpt):
            assert message is None or not message.is_bdat
            message = None
    has_binary = any(isinstance(event, events.Mail) and event.body is events.Body.BINARY for event in driver.events)
    for text in driver.messages:
        assert has_binary or text.count(b"\r\n") == text.count(b"\r") == text.count(b"\n")
        assert len(text) <= driver.server.limits.max_message_bytes


def play(wire: bytes, cuts: list[int], setting: Setting) -> None:
    """The wire at every kind of cut: nothing but events, and the same."""
    if setting.is_lmtp:
        wire = wire.replace(b"EHLO", b"LHLO")
    seen = []
    for chunks in (*ways(wire), at_cuts(wire, cuts)):
        driver = setting.connect()
        for chunk in chunks:
            driver.feed(chunk)
            if driver.server.is_secure:
                # what is left of the wire would come behind the handshake in one case and is dropped in the other
                driver.feed(b"MAIL FROM:<a@b>\r\n" + HELLO + b"STARTTLS\r\n")
                break
        check(driver)
        seen.append((driver.sent, driver.events, driver.messages, driver.server.is_receiving_message))
    assert seen[0] == seen[1] == seen[2]
    misuse(driver.server)
    driver.server.shut_down(BUSY)
    driver.server.shut_down(BUSY)
    driver.feed(HELLO)
    assert driver.server.is_closed
    misuse(driver.server)


@settings(max_examples=1200, deadline=None)
@given(wire=BY_GRAMMAR, cuts=CUTS, setting=SETTINGS)
def test_by_grammar(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=150, deadline=None)
@given(wire=BY_DIALOGUES, cuts=CUTS, setting=SETTINGS)
def test_by_dialogues(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=150, deadline=None)
@given(wire=RAW, cuts=CUTS, setting=SETTINGS)
def test_raw(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS), st.text(max_size=20)))
def test_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse_mailbox(text)
    except AddressError:
        return
    user, detail = split_detail(address.local_part)
    assert address.local_part in (user, f"{user}+{detail}")
    assert address_key(str(address)) == address.key == address_key(text)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                HELLO,
                b"MAIL FROM:<a@b>\r\n",
                b"RCPT TO:<c@d>\r\n",
                b"RCPT TO:<no@d>\r\n",
                b"RSET\r\n",
                b"NOOP\r\n",
                b"BDAT 3\r\nabc",
                b"BDAT 1 LAST\r\nx",
                b"BDAT 0\r\n",
            ]
        ),
        max_size=15,
    )
)
def test_every_command_gets_one_reply(lines: list[bytes]) -> None:
    driver = connect(can_start_tls=False)
    driver.feed_all(lines)
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
