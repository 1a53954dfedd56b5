"""Outbound smuggling: whatever octets a user submits, other servers see one message, however they read line ends.

What leaves for DATA holds no bare CR, no bare LF, no NUL, and no line of one dot but the last. A lenient server takes
LF.LF, or CR.CR, for the end; one that looks no further than CR LF dot would obey what stands behind it in our name.
"""

import asyncio
import itertools
import re
from collections.abc import Iterator

import pytest
from attack_remote import Received, Sink, World
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pochta import clock
from pochta.accounts import signing
from pochta.config import BareNewline, Smtp
from pochta.dns import Resolver
from pochta.policy.dkim.verify import DkimVerifier
from pochta.policy.results import Dkim, DkimResult
from pochta.proto.smtp.client.engine import SmtpClient
from pochta.proto.smtp.client.envelope import BodyKind, Envelope, Recipient
from pochta.proto.smtp.client.events import Sent
from pochta.proto.smtp.client.limits import ClientLimits
from pochta.queue.session import SessionLimits
from pochta.store import dkim_keys
from pochta.store.store import Store

INNER = b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<victim@b.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"
ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\0\r\n.\r\n\0",
    b"\r\n..\r\n.\r\n...\r\n",
    b"\n\n.\n\n",
    b"\r\n\n.\r\n\r",
    b"=\r\n.\r\n",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
]
HEADS = {
    "text": b"From: anna@example.org\r\nSubject: outer\r\n\r\n",
    "8bit": b"From: anna@example.org\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa9",
    "binary": b"From: anna@example.org\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\n",
    "multipart": b"From: anna@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Transfer-Encoding: binary\r\n\r\n",
    "message": b"From: anna@example.org\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\nSubject: inner\r\n\r\n",
}
# What the servers of others offer, each a domain
OFFERS: dict[str, tuple[bytes, ...]] = {
    "old.test": (),
    "plain.test": (b"PIPELINING", b"SIZE 50000000"),
    "eight.test": (b"PIPELINING", b"8BITMIME"),
    "chunks.test": (b"PIPELINING", b"8BITMIME", b"CHUNKING"),
    "binary.test": (b"PIPELINING", b"8BITMIME", b"CHUNKING", b"BINARYMIME"),
}
_LENIENT_END = re.compile(rb"(?:\r\n|\r|\n)\.(?=\r\n|\r|\n)")


class Offices:
    """A Pochta that signs, and a server for each of OFFERS."""

    def __init__(self, **more: object) -> None:
        self.world = World(session_limits=SessionLimits(), **more)
        self.sinks = {domain: Sink(offers) for domain, offers in OFFERS.items()}

    def __enter__(self) -> "Offices":
        self.world.__enter__()
        for domain, sink in self.sinks.items():
            self.world.add(domain, sink)
        return self

    def __exit__(self, *error: object) -> None:
        self.world.__exit__(*error)  # type: ignore[arg-type]

    def send(self, data: bytes, *, is_bdat: bool) -> dict[str, Received] | None:
        """What each server got; None when the message was refused, or by some of them when it cannot be converted."""
        mail = " BODY=BINARYMIME" if is_bdat else " BODY=8BITMIME"
        for sink in self.sinks.values():
            sink.commands.clear()
        before = len(self.world.events.having("queue.attempt"))
        answer = self.world.submit(data, *(f"bert@{one}" for one in OFFERS), mail=mail, is_bdat=is_bdat)
        if not answer.startswith(b"250"):
            assert answer.startswith(b"5"), answer
            return None
        lines = self.world.events.wait("queue.attempt", count=before + len(OFFERS))[before:]
        assert not [line for line in lines if "outcome=deferred" in line], lines
        sent = {line.split("to=<bert@")[1].split(">")[0] for line in lines if "outcome=sent" in line}
        found = {domain: self.sinks[domain].get() for domain in sent}
        assert all(sink.messages.empty() for sink in self.sinks.values())
        return found


def check(sink: Sink, got: Received) -> None:
    """One message by every reading."""
    verbs = [one.split()[0] for one in sink.commands]
    assert verbs.count(b"MAIL") == verbs.count(b"RCPT") == 1, sink.commands
    if got.is_bdat and b"BINARYMIME" in got.mail:
        return  # octets that are counted: no reading of line ends decides anything
    text = got.raw
    assert text.count(b"\r\n") == text.count(b"\n") == text.count(b"\r")
    assert b"\0" not in text
    if got.is_bdat:
        assert text.endswith(b"\r\n")
        return
    ends = _LENIENT_END.findall(text.replace(b"\0", b""))
    assert len(ends) == 1, text
    assert re.findall(rb"(?m)^\.(?!\.)[^\r\n]*", text) == [b"."]


@pytest.fixture(scope="module")
def offices() -> Iterator[Offices]:
    with Offices() as made:
        yield made


@pytest.mark.rfc(5321, "4.1.1.4")
@pytest.mark.rfc(5321, "2.3.8")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_one_message_leaves_as_one(offices: Offices, head: str, end: bytes) -> None:
    found = offices.send(HEADS[head] + b"text" + end + INNER, is_bdat=True)
    assert found is not None
    for domain, got in found.items():
        check(offices.sinks[domain], got)


@pytest.mark.parametrize("mode", list(BareNewline))
def test_by_data(mode: BareNewline) -> None:
    with Offices(smtp=Smtp(bare_newline=mode)) as offices:
        for end in ENDS:
            stuffed = (b"text" + end + INNER).replace(b"\r\n.", b"\r\n..")
            found = offices.send(HEADS["text"] + stuffed, is_bdat=False)
            for domain, got in (found or {}).items():
                check(offices.sinks[domain], got)


_PIECES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b".", b"..", b"\0", b"x", b"\xff", b"\x85", b" ", b"=", b"--b", b"\t"]
)
_BODIES = st.lists(_PIECES | st.binary(max_size=3), max_size=30).map(b"".join)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from(sorted(HEADS)), body=_BODIES, is_bdat=st.booleans())
@example(head="text", body=b"\r", is_bdat=True)
@example(head="text", body=b".", is_bdat=True)
@example(head="text", body=b"\n.", is_bdat=True)
def test_any_body_through_the_queue(offices: Offices, head: str, body: bytes, is_bdat: bool) -> None:
    data = HEADS[head] + body
    if not is_bdat:
        data = re.sub(rb"(?m)^\.", b"..", data)
    found = offices.send(data, is_bdat=is_bdat)
    for domain, got in (found or {}).items():
        check(offices.sinks[domain], got)


def test_a_header_with_bare_newlines(offices: Offices) -> None:
    for hidden in (b"Subject: a\n.\nMAIL FROM:<x@y>\n", b"Subject: a\rBcc: x@y\r", b"Subject: a\0\r\n", b"X\n.\n"):
        data = b"From: anna@example.org\r\n" + hidden + b"\r\n\r\nbody\r\n"
        for domain, got in (offices.send(data, is_bdat=True) or {}).items():
            check(offices.sinks[domain], got)


def test_a_large_body_in_blocks() -> None:
    """The cuts between blocks of the file fall anywhere in the false ends."""
    with Offices() as offices:
        body = b"".join(b"x" * (n % 61) + b"\r\n.\r\n" for n in range(9000))
        stuffed = body.replace(b"\r\n.", b"\r\n..")
        found = offices.send(HEADS["text"] + stuffed, is_bdat=False)
        assert found is not None
        assert len(found) == len(OFFERS)
        for domain, got in found.items():
            check(offices.sinks[domain], got)
            assert got.content.endswith(body) or got.content.endswith(body + b"\r\n")


def test_signed_bodies() -> None:
    """What the signature was made over is what leaves."""
    with Offices() as offices:
        resolver = offices.world.resolver
        for record in offices.world.server.run(_with_keys):
            resolver.add(record.name, "TXT", record.text)
        for head, end in itertools.product(HEADS, (b"\r\n.\r\n..\r\n", b"\n.\n", b"\r.\r\n", b"\0", b"")):
            found = offices.send(HEADS[head] + b"text" + end, is_bdat=True)
            assert found is not None
            for domain, got in found.items():
                check(offices.sinks[domain], got)
                results = asyncio.run(_verified(resolver, got.content))
                assert [one.result for one in results] == [Dkim.PASS, Dkim.PASS], (head, end, domain, results)


async def _with_keys(store: Store) -> list[signing.Record]:
    now = int(clock.now_s())
    await store.write(0, dkim_keys.add, "example.org", signing.new_keys(now), now)
    return await store.read(0, signing.records, "example.org")


async def _verified(resolver: Resolver, message: bytes) -> tuple[DkimResult, ...]:
    header, _, body = message.partition(b"\r\n\r\n")
    verifier = DkimVerifier(header + b"\r\n")
    verifier.feed(body)
    return await verifier.finish(resolver, now_s=clock.now_s())


def drive(offers: bytes, kind: BodyKind, body: bytes, cuts: list[int]) -> bytes:
    """What an engine puts onto the wire for one message."""
    engine = SmtpClient("x.test", limits=ClientLimits())
    engine.receive_data(b"220 x\r\n")
    while engine.next_event() is not None:
        pass
    engine.receive_data(b"250-x\r\n" + offers + b"250 HELP\r\n")
    while engine.next_event() is not None:
        pass
    engine.data_to_send()
    is_whole = not cuts
    engine.send(
        Envelope(reverse_path="a@x.test", recipients=(Recipient("b@y.test"),), body=kind),
        body=body if is_whole else None,
    )
    wire = b""
    places = sorted({min(cut, len(body)) for cut in cuts})
    blocks = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
    while True:
        said = engine.data_to_send()
        wire += said
        event = engine.next_event()
        if isinstance(event, Sent):
            return wire
        assert event is None
        if engine.wants_body:
            if blocks:
                engine.send_body(blocks.pop(0))
            else:
                engine.end_body()
            continue
        replies = said.count(b"MAIL FROM") + said.count(b"RCPT TO")
        if said.endswith(b"DATA\r\n"):
            engine.receive_data(b"250 ok\r\n" * replies + b"354 go\r\n")
        elif b"BDAT" in said or said.endswith(b".\r\n"):
            engine.receive_data(b"250 ok\r\n" * (replies + max(1, len(re.findall(rb"BDAT \d+", said)))))
        else:
            engine.receive_data(b"250 ok\r\n" * replies)


@given(body=_BODIES, cuts=st.lists(st.integers(0, 60), max_size=5))
@example(body=b"\r\n.\r\n", cuts=[1, 2, 3, 4])
@example(body=b"\r", cuts=[1])
def test_any_body_in_any_cuts_through_the_engine(body: bytes, cuts: list[int]) -> None:
    wire = drive(b"", BodyKind.SEVEN_BIT, body, cuts)
    text = wire.partition(b"DATA\r\n")[2]
    assert text.count(b"\r\n") == text.count(b"\n") == text.count(b"\r")
    assert len(_LENIENT_END.findall(b"\r\n" + text)) == 1
    assert re.findall(rb"(?m)^\.(?!\.)[^\r\n]*", text) == [b"."]
    clean = re.sub(rb"\r\n|\r|\n", b"\r\n", body)
    received = re.sub(rb"(?m)^\.", b"", text.removesuffix(b".\r\n"))
    assert received == (clean if not clean or clean.endswith(b"\r\n") else clean + b"\r\n")
