"""Header injection: no address, parameter, name or reply of a peer becomes a line of what we send, store or report."""

import base64
import re
from collections.abc import Iterator

import pytest
from attack_peer import Peer, imap
from attack_remote import Sink, World, signed_in, transact

from pochta.config import Checks
from pochta.store import queue_view, trails
from pochta.store.store import Store
from pochta.store.trails import Step

MESSAGE = b"From: anna@example.org\r\nSubject: injected\r\n\r\nbody\r\n"
# Local parts as RCPT and MAIL could name them, each of which tries to begin a line of its own
LOCAL_PARTS = [
    b'"a\rX-Evil: 1"',
    b'"a\nX-Evil: 1"',
    b'"a\\\rX-Evil: 1"',
    b'"a\\\nX-Evil: 1"',
    b'"a\0\nX-Evil: 1"',
    b'"a\x0bX-Evil: 1"',
    b'"a\xc2\x85X-Evil: 1"',
    b'"a\xe2\x80\xa8X-Evil: 1"',
    b'"a\xe2\x80\xa9X-Evil:1"',
    b'"a\\r\\nX-Evil: 1"',
    b'"a%0D%0AX-Evil: 1"',
    b"a%0D%0AX-Evil:1",
    b"a=0D=0AX-Evil=3A1",
    b'"=?utf-8?Q?=0D=0AX-Evil:_1?="',
    b"=?utf-8?Q?=0D=0AX-Evil:_1?=",
    b'"> X-Evil: 1"',
    b'"a>\\\r\\\nX-Evil: 1"',
    b'"a\\"\\>, <victim"',
    b"a\rX-Evil:1",
    b"a\nX-Evil:1",
    b"a>\r\nX-Evil: 1\r\nRCPT TO:<b",
]
# After decoding: +0D is CR
XTEXTS = [
    "x+0D+0AX-Evil:+201",
    "x+0AX-Evil:+201",
    "x+0DX-Evil:+201",
    "x+0D+0A+0D+0AX-Evil:+201",
    "x+00+0AX-Evil:1",
    "x+E2+80+A8X-Evil:1",
]
REPLIES = [
    b"550 5.1.1 no\rX-Evil: 1\r\n",
    b"550 5.1.1 no\x0bX-Evil: 1\r\n",
    b"550 5.1.1 no\xc2\x85X-Evil: 1\r\n",
    b"550 5.1.1 no\xe2\x80\xa8X-Evil: 1\r\n",
    b"550 5.1.1 no\0\r\r\n",
    b"550-5.1.1 no\r\n550-X-Evil: 1\r\n550-\r\n550-X-Evil: 1\r\n550 --=_\r\n",
    b"550-5.1.1 no\n550 X-Evil: 1\n",
    b"550 X-Evil: 1\r\n",
    b"550-X-Evil: 1\r\n550-X-Evil: 1\r\n550 X-Evil: 1\r\n",
    b"550 5.1.1\tno\x1b[2J\x07\r\n",
    b"550 5.1.1 " + b"X-Evil: 1 " * 180 + b"\r\n",
]
# A line that begins with it, wherever a reader of octets may see the end of one. U+0085 and U+2028 end no line of a
# message (RFC 6532 §3.1 has them as letters), but do in what is printed: see `is_one_line`.
_EVIL = re.compile(rb"(?:\A|[\r\n\x0b\x0c\x1c-\x1e])X-Evil", re.IGNORECASE)


def is_clean(data: bytes | str) -> bool:
    return not _EVIL.search(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)


def is_one_line(line: str) -> bool:
    return len(line.splitlines()) == 1 and line.endswith("\n")


def stored(world: World, user: str = "anna@example.org") -> list[bytes]:
    """Every message in a user's INBOX."""
    found: list[bytes] = []
    with imap(world.server, user) as peer:
        peer.send(b"s EXAMINE INBOX\r\nf UID FETCH 1:* BODY.PEEK[]\r\n")
        peer.until(rb"s OK .*")
        data = peer.until(rb"f OK .*")
        while match := re.search(rb"BODY\[\] \{(\d+)\}\r\n", data):
            size = int(match[1])
            found.append(data[match.end() : match.end() + size])
            data = data[match.end() + size :]
    return found


async def kept(store: Store) -> list[str]:
    """What the queue and the trails say."""
    found = [repr(one) for one in await store.read(0, queue_view.listing)]
    for trail_id in range(1, 200):
        trail = await store.read(0, trails.by_id, trail_id)
        if trail is not None:
            found += [trail.facts, trail.sender]
            steps: list[Step] = await store.read(0, trails.steps, trail_id)
            found += [part for step in steps for part in (step.recipient, step.facts)]
    return found


def check(world: World, *sinks: Sink) -> None:
    """Nothing of it has become a line."""
    for message in stored(world) + stored(world, "boris@example.org"):
        assert is_clean(message), message
    for sink in sinks:
        assert all(is_clean(command) for command in sink.commands)
        while not sink.messages.empty():
            got = sink.messages.get()
            assert is_clean(got.raw), got.raw
    assert all(is_clean(line) and is_one_line(line) for line in world.events)
    assert all(is_clean(text) for text in world.server.run(kept))


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.mark.rfc(5321, "4.1.2")
@pytest.mark.parametrize("smtputf8", ["", " SMTPUTF8"])
def test_recipients(world: World, smtputf8: str) -> None:
    sink = Sink((b"PIPELINING", b"SMTPUTF8", b"8BITMIME", b"DSN"), refuses={b"vil": b"550 5.1.1 no\r\n"})
    world.add("b.test", sink)
    world.server.add_alias("out@example.org", ["bert@b.test"])
    taken = 0
    for local_part in LOCAL_PARTS:
        with signed_in(world.server) as peer:
            peer.send(b"MAIL FROM:<anna@example.org>%b\r\n" % smtputf8.encode())
            peer.until(rb"250 .*")
            peer.send(b"RCPT TO:<%b@b.test>\r\nRCPT TO:<out@example.org>\r\nDATA\r\n" % local_part)
            answer = peer.until(rb"(?:250|5\d\d) .*")
            taken += answer.startswith(b"250")
            peer.until(rb"354 .*")
            peer.send(MESSAGE + b".\r\n")
            peer.until(rb"250 .*Accepted.*")
    lines = world.events.wait("queue.attempt", count=len(LOCAL_PARTS) + taken)
    refused = [line for line in lines if "outcome=failed" in line]
    assert len(refused) >= 4
    world.events.wait("queue.reported", count=len(refused))
    check(world, sink)


@pytest.mark.parametrize("smtputf8", ["", " SMTPUTF8"])
def test_senders_of_others(world: World, smtputf8: str) -> None:
    """Forwarded with SRS, and put into Return-Path and Received."""
    sink = Sink((b"PIPELINING", b"SMTPUTF8", b"8BITMIME"))
    world.add("b.test", sink)
    world.server.add_alias("out@example.org", ["bert@b.test", "boris@example.org"])
    taken = 0
    for local_part in LOCAL_PARTS:
        with Peer(world.server, world.server.smtp_port) as peer:
            peer.send(b"EHLO x\r\n")
            peer.until(rb"250 .*")
            peer.send(b"MAIL FROM:<%b@c.test>%b\r\n" % (local_part, smtputf8.encode()))
            if not peer.until(rb"\d{3} .*").startswith(b"250"):
                continue
            peer.send(b"RCPT TO:<out@example.org>\r\nDATA\r\n")
            if b"354" in peer.until(rb"(?:354|5\d\d) .*"):
                peer.send(MESSAGE + b".\r\n")
                taken += peer.until(rb"\d{3} .*").startswith(b"250")
    assert taken
    world.events.wait("queue.attempt", count=taken)
    check(world, sink)
    assert any(b"SRS0=" in command for command in sink.commands)


@pytest.mark.rfc(3461, "4")
@pytest.mark.parametrize("offers", [(b"PIPELINING", b"DSN"), (b"PIPELINING",)], ids=["dsn", "no dsn"])
@pytest.mark.parametrize("is_refused", [False, True])
def test_envelope_ids_and_original_recipients(world: World, offers: tuple[bytes, ...], is_refused: bool) -> None:
    sink = Sink(offers, refuses={b"bert": b"550 5.1.1 no\r\n"} if is_refused else {})
    world.add("b.test", sink)
    taken = 0
    for text in XTEXTS:
        for mail, rcpt in (
            (f" ENVID={text}", " NOTIFY=SUCCESS,FAILURE"),
            ("", f" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{text}"),
            ("", f" NOTIFY=SUCCESS,FAILURE ORCPT=x-{text};a"),
        ):
            answer = world.submit(MESSAGE, "bert@b.test", mail=mail, rcpt=rcpt)
            assert answer[:1] in b"25"
            taken += answer.startswith(b"250")
    world.events.wait("queue.attempt", count=taken)
    if is_refused or b"DSN" not in offers:
        world.events.wait("queue.reported", count=taken)
    check(world, sink)


@pytest.mark.parametrize("hello", LOCAL_PARTS, ids=repr)
@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
def test_names_in_hello(pochta_world: World, verb: bytes, hello: bytes) -> None:
    world = pochta_world
    with Peer(world.server, world.server.smtp_port) as peer:
        peer.send(verb + b" " + hello + b"\r\nMAIL FROM:<>\r\n")
        peer.until(rb"220 .*")
        peer.until(rb"(?:2|5)\d\d .*")
        peer.send(b"RSET\r\n")
        if verb == b"HELO":
            peer.send(b"HELO x\r\n")
        transact(peer, MESSAGE, "anna@example.org", sender="")
    check(world)


@pytest.fixture(scope="module")
def pochta_world() -> Iterator[World]:
    with World(checks=Checks()) as made:
        yield made


@pytest.mark.rfc(3464, "2.3.6")
def test_replies_in_reports(world: World) -> None:
    for number, reply in enumerate(REPLIES):
        world.add(f"r{number}.test", Sink(refuses={b"bert": reply}))
        world.add(f"e{number}.test", Sink(ends=reply))
        for kind in "re":
            answer = world.submit(MESSAGE, f"bert@{kind}{number}.test", rcpt=" NOTIFY=FAILURE")
            assert answer.startswith(b"250")
    world.events.wait("queue.reported", count=2 * len(REPLIES))
    check(world)
    reports = stored(world)
    assert len(reports) == 2 * len(REPLIES)
    for report in reports:
        assert report.count(b"\r\n") == report.count(b"\n") == report.count(b"\r")
        assert max(map(len, report.split(b"\r\n"))) <= 998
        boundary = re.search(rb'boundary="([^"]+)"', report)
        assert boundary is not None
        assert len(re.findall(rb"(?m)^--" + re.escape(boundary[1]) + rb"(?:--)?\r$", report)) == 4


def test_greetings_and_keywords_in_the_queue(world: World) -> None:
    """What was said before any message stands in the queue's list, in the log and in the notice of delay."""

    def greet(line: object) -> None:
        line.say(b"554-5.7.1 go away\r\n554-X-Evil: 1\r\n554 \xe2\x80\xa8X-Evil: 1\x1b[2J\r\n")  # type: ignore[attr-defined]

    world.add("b.test", greet)
    world.submit(MESSAGE, "bert@b.test")
    world.events.wait("queue.attempt", "outcome=deferred")
    check(world)


def test_a_sign_in_name_is_no_line(world: World) -> None:
    for name in ("anna@example.org\r\nX-Evil: 1", "anna\n\nX-Evil: 1@example.org"):
        with Peer(world.server, world.server.submission_port) as peer:
            peer.send(b"EHLO x\r\nAUTH PLAIN " + base64.b64encode(f"\0{name}\0secret".encode()) + b"\r\n")
            peer.until(rb"535 .*")
    check(world)
