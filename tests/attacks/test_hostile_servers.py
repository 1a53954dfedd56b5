"""Hostile servers of others: each costs a bounded time and memory, and everybody else's mail goes on meanwhile.

None of them makes the queue give up a recipient that was not refused, or think one delivered that was not.
"""

import functools
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Final

import pytest
from attack_remote import Handler, Line, Sink, World

from pochta import clock
from pochta.config import Queue
from pochta.store import queue_view
from pochta.store.store import Store

MESSAGE = b"From: anna@example.org\r\nSubject: x\r\n\r\nbody\r\n"
ENDLESS: Final = 200_000_000  # octets that nobody takes whole
# Loopback holds some in the kernel on either side; what we read ourselves is far below it
TAKEN_MAX: Final = 16_000_000
MEMORY_MAX: Final = 4_000_000  # what the reading of 200 MB may add at its peak, the server's thread in this process too


def pour(line: Line, piece: bytes) -> None:
    """Say it again and again until the other side is gone."""
    block = piece * (65536 // len(piece) + 1)
    sent = 0
    while sent < ENDLESS:
        try:
            line.socket.sendall(block)
        except OSError:
            break
        sent += len(block)
    assert sent < TAKEN_MAX, sent


def up_to(line: Line, verb: bytes, *, offers: bytes = b"") -> None:
    """Answer well until the verb comes."""
    line.say(b"220 x\r\n")
    while command := line.command():
        if command.startswith(verb):
            return
        line.say(offers + b"250 ok\r\n" if command.startswith(b"EHLO") else b"250 ok\r\n")


def endless_greeting(line: Line) -> None:
    pour(line, b"220-hello\r\n")


def ten_megabytes_of_greeting(line: Line) -> None:
    pour(line, b"x" * 4096)


def endless_line(line: Line) -> None:
    line.say(b"220 ")
    pour(line, b"x" * 4096)


def endless_keywords(line: Line) -> None:
    line.say(b"220 x\r\n")
    line.command()
    pour(line, b"250-X-KEYWORD 1 2 3\r\n")


def endless_reply(line: Line) -> None:
    up_to(line, b"RCPT")
    pour(line, b"250-2.1.5 wait for it\r\n")


def endless_replies(line: Line) -> None:
    up_to(line, b"MAIL")
    pour(line, b"250 ok\r\n")


def endless_end(line: Line) -> None:
    up_to(line, b"DATA")
    line.say(b"354 go\r\n")
    line.upto(b"\r\n.\r\n")
    pour(line, b"250-nearly\r\n")


def silence(line: Line) -> None:
    line.listen()


def silence_at(line: Line, verb: bytes) -> None:
    up_to(line, verb)
    line.listen()


def dribble(line: Line) -> None:
    """One octet whenever the other side looks: never a whole reply."""
    up_to(line, b"MAIL")
    for _ in range(100_000):
        try:
            line.socket.sendall(b"2")
        except OSError:
            return


def half_closed(line: Line) -> None:
    line.say(b"220 x\r\n")
    line.command()
    line.socket.shutdown(1)
    line.listen()


def half_closed_in_data(line: Line) -> None:
    up_to(line, b"DATA")
    line.say(b"354 go\r\n")
    line.socket.shutdown(1)
    line.listen()


def closed_at(line: Line, verb: bytes) -> None:
    up_to(line, verb)


def closed_at_once(line: Line) -> None:
    return


def yes_to_everything(line: Line) -> None:
    """250 is no answer to DATA, and what follows is no message."""
    line.say(b"220 x\r\n")
    while line.command():
        line.say(b"250 ok\r\n")


def yes_and_away(line: Line) -> None:
    up_to(line, b"DATA")
    line.say(b"354 go\r\n")
    line.take(10)


def before_it_was_asked(line: Line) -> None:
    line.say(b"220 x\r\n250 x\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye\r\n")
    line.listen()


def before_the_message(line: Line) -> None:
    up_to(line, b"DATA")
    line.say(b"354 go\r\n250 taken\r\n")
    line.listen()


def injected_behind_starttls(line: Line) -> None:
    line.say(b"220 x\r\n")
    while command := line.command():
        if command == b"STARTTLS":
            line.say(b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n")
            line.listen()
        line.say(b"250-x\r\n250 STARTTLS\r\n")


def other_protocol(line: Line) -> None:
    line.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    line.listen()


def octets(line: Line) -> None:
    line.say(bytes(range(256)) * 10)
    line.listen()


def mixed_codes(line: Line) -> None:
    line.say(b"220-x\r\n550-y\r\n220 z\r\n")
    line.listen()


def three_at_last(line: Line) -> None:
    up_to(line, b"DATA")
    line.say(b"354 go\r\n")
    line.upto(b"\r\n.\r\n")
    line.say(b"354 more\r\n")
    line.listen()


def keywords_that_lie(line: Line) -> None:
    up_to(
        line,
        b"QUIT",
        offers=b"250-SIZE 99999999999999999999999999\r\n250-SIZE -1\r\n250-SIZE x\r\n250-LIMITS RCPTMAX=0 MAILMAX=0\r\n"
        b"250-LIMITS RCPTMAX=99999999999999999999\r\n250-DELIVERBY -9\r\n250-AUTH\r\n250-AUTH=\r\n250-\r\n250- \r\n"
        b"250-\xff\xfe\r\n",
    )


NOTHING_TAKEN: Final[Mapping[str, Handler]] = {
    one.__name__: one
    for one in (
        endless_greeting, ten_megabytes_of_greeting, endless_line, endless_keywords, endless_reply, endless_replies,
        silence, dribble, half_closed, half_closed_in_data, closed_at_once, yes_to_everything, yes_and_away,
        before_it_was_asked, before_the_message, injected_behind_starttls, other_protocol, octets, mixed_codes,
        keywords_that_lie,
    )
} | {
    f"{one.__name__} {verb.decode()}": functools.partial(one, verb=verb)
    for one in (silence_at, closed_at)
    for verb in (b"EHLO", b"MAIL", b"RCPT", b"DATA")
}  # fmt: skip
IN_DOUBT: Final[Mapping[str, Handler]] = {one.__name__: one for one in (endless_end, three_at_last)}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.mark.rfc(5321, "4.5.3.2")
def test_others_are_served_meanwhile(world: World) -> None:
    """All of them at once, and one good server: its mail does not wait."""
    ways = {**NOTHING_TAKEN, **IN_DOUBT}
    good = Sink()
    world.add("good.test", good)
    domains = {way: f"{number}.evil.test" for number, way in enumerate(ways)}
    for way, handler in ways.items():
        world.add(domains[way], handler)
    answer = world.submit(MESSAGE, *(f"bert@{one}" for one in domains.values()))
    assert answer.startswith(b"250")
    for _ in range(5):
        world.submit(MESSAGE, "bert@good.test")
        assert good.get().content.endswith(b"body\r\n")
    world.events.wait("queue.attempt", "outcome=deferred", count=len(ways))
    entries = {one.recipient.address: one for one in world.settled(len(ways))}
    for way, domain in domains.items():
        entry = entries[f"bert@{domain}"]
        assert (entry.recipient.last_reply or "").startswith("451 4."), (way, entry)
        assert entry.recipient.attempts == 1
    assert not world.events.having("queue.attempt", "evil.test", "outcome=sent")
    assert not world.events.having("queue.attempt", "evil.test", "outcome=failed")


@pytest.mark.parametrize("way", ["endless_greeting", "endless_line", "endless_keywords", "endless_reply"])
def test_memory_is_bounded(world: World, way: str) -> None:
    world.add("evil.test", NOTHING_TAKEN[way])
    world.submit(b"From: anna@example.org\r\n\r\n", "nobody@nowhere.test")  # what is imported and cached by then
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        world.submit(MESSAGE, "bert@evil.test")
        world.events.wait("queue.attempt", "evil.test", "outcome=deferred")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < MEMORY_MAX


@pytest.mark.parametrize(
    ("size", "outcome"), [(b"0", "sent"), (b"10", "failed"), (b"1000000000000000000000", "sent"), (b"x", "sent")]
)
@pytest.mark.rfc(1870, "4")
def test_a_size_that_lies(world: World, size: bytes, outcome: str) -> None:
    sink = Sink((b"SIZE " + size,))
    world.add("b.test", sink)
    world.submit(MESSAGE, "bert@b.test")
    world.events.wait("queue.attempt", f"outcome={outcome}")
    if outcome == "failed":
        world.events.wait("queue.reported", "anna@example.org")
        assert not [one for one in sink.commands if one.startswith(b"MAIL")]


def test_a_size_that_was_promised_and_is_refused(world: World) -> None:
    world.add("b.test", Sink((b"SIZE 50000000",), ends=b"552 5.3.4 too large after all\r\n"))
    world.submit(MESSAGE, "bert@b.test")
    world.events.wait("queue.attempt", "outcome=failed", "552 5.3.4")
    world.events.wait("queue.reported", "anna@example.org")


def make_due(world: World) -> None:
    """Let all that waits be due."""

    async def work(store: Store) -> None:
        await store.write(0, queue_view.retry, None, None, (0, 0), int(clock.now_s()))

    world.server.run(work)
    world.wake()


def attempt_again(world: World) -> None:
    """Let all that waits be due, once its last attempt is written down."""
    world.settled()
    make_due(world)


@pytest.mark.rfc(5321, "4.5.4.1")
@pytest.mark.parametrize("refuses", [{b"bert": b"450 4.2.1 later\r\n"}, {}], ids=["RCPT", "data"])
def test_4xx_for_ever(monkeypatch: pytest.MonkeyPatch, refuses: dict[bytes, bytes]) -> None:
    """Deferred each time; on the fifth day the sender is told, and nothing is left."""
    ends = b"250 ok\r\n" if refuses else b"451 4.3.0 later\r\n"
    with World(queue=Queue(give_up_s=3600)) as world:
        world.add("b.test", Sink(refuses=refuses, ends=ends))
        world.submit(MESSAGE, "bert@b.test")
        for number in range(1, 4):
            world.events.wait("queue.attempt", "outcome=deferred", count=number)
            attempt_again(world)
        world.events.wait("queue.attempt", "outcome=deferred", count=4)
        world.settled()
        now = clock.now_s()
        monkeypatch.setattr(clock.current(), "now", lambda: now + 3600)
        make_due(world)  # the runner may have looked by itself before this, and have given up already
        world.events.wait("queue.attempt", "outcome=expired")
        world.events.wait("queue.reported", "anna@example.org")


class DropsOnce:
    """Takes the whole message and goes without a word; takes it again the next time."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.sink = Sink()

    def __call__(self, line: Line) -> None:
        if self.taken:
            self.sink(line)
            return
        up_to(line, b"DATA")
        line.say(b"354 go\r\n")
        self.taken.append(line.upto(b"\r\n.\r\n"))


@pytest.mark.rfc(5321, "4.5.3.2.6")
def test_lost_at_the_final_dot(world: World) -> None:
    """In doubt the message is sent again, to the same host or another, and no other host is asked at once."""
    handler, second = DropsOnce(), Sink()
    world.add("b.test", handler, second)
    world.submit(MESSAGE, "bert@b.test")
    (line,) = world.events.wait("queue.attempt")
    assert "outcome=deferred" in line
    assert "before the server said whether it has the message" in line
    assert second.messages.empty()
    attempt_again(world)
    got = handler.sink.get()
    assert got.raw == handler.taken[0]
    world.events.wait("queue.attempt", "outcome=sent")
    assert second.messages.empty()


def test_lost_before_the_message_and_the_next_host_is_asked(world: World) -> None:
    """A host that is lost before it can have the message is followed by the next one at once."""
    second = Sink()
    world.add("b.test", functools.partial(closed_at, verb=b"DATA"), second)
    world.submit(MESSAGE, "bert@b.test")
    assert second.get().content.endswith(b"body\r\n")
    world.events.wait("queue.attempt", "outcome=sent", "host=mx1.b.test")


def test_one_recipient_each_time(world: World) -> None:
    """A server that takes one and has no room for the others is asked no oftener than there are recipients."""

    class OneAtATime(Sink):
        def __call__(self, line: Line) -> None:
            line.say(b"220 x\r\n")
            taken = 0
            while command := line.command():
                self.commands.append(command)
                if command.startswith(b"MAIL"):
                    taken = 0
                if command.startswith(b"RCPT"):
                    line.say(b"452 4.5.3 one is enough\r\n" if taken else b"250 ok\r\n")
                    taken += 1
                elif command == b"DATA":
                    line.say(b"354 go\r\n")
                    line.upto(b"\r\n.\r\n")
                    line.say(b"250 ok\r\n")
                else:
                    line.say(b"250-PIPELINING\r\n250 ok\r\n" if command.startswith(b"EHLO") else b"250 ok\r\n")

    sink = OneAtATime()
    world.add("b.test", sink)
    world.submit(MESSAGE, *(f"b{n}@b.test" for n in range(8)))
    world.events.wait("queue.attempt", "outcome=sent", count=8)
    assert sum(one.startswith(b"DATA") for one in sink.commands) == 8
