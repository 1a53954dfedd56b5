"""STARTTLS stripping: where TLS is required nothing is sent without it, and the queue says why it waits."""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attack_peer import Peer
from attack_remote import QUICK, Handler, Line, Sink, World, transact

from pochta.config import OutboundTls, Route
from pochta.net.tls import server_context, write_self_signed

MESSAGE = b"From: anna@example.org\r\nSubject: secret\r\n\r\nbody\r\n"
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate of mx.b.test and its key."""
    folder = tmp_path_factory.mktemp("tls")
    found = folder / "certificate.pem", folder / "key.pem"
    write_self_signed(*found, hostname="mx.b.test")
    return found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same name, by nobody who is trusted."""
    folder = tmp_path_factory.mktemp("stranger")
    found = folder / "certificate.pem", folder / "key.pem"
    write_self_signed(*found, hostname="mx.b.test")
    return found


def answers(starttls: bytes, *offers: bytes) -> Callable[[list[bytes]], Handler]:
    """A server with these keywords that says that to STARTTLS."""

    def make(commands: list[bytes]) -> Handler:
        def handler(line: Line) -> None:
            line.say(b"220 x\r\n")
            while command := line.command():
                commands.append(command)
                if command.startswith(b"EHLO"):
                    line.say(b"".join([b"250-%b\r\n" % one for one in offers]) + b"250 HELP\r\n")
                elif command == b"STARTTLS":
                    line.say(starttls)
                else:
                    line.say(b"354 go\r\n" if command == b"DATA" else b"250 ok\r\n")

        return handler

    return make


STRIPPED = {
    "not offered": answers(b""),
    "spoilt": answers(b"", b"YYYYYYYA"),
    "in another line": answers(b"", b"SIZE 1 STARTTLS"),
    "no": answers(b"454 4.7.0 not now\r\n", b"STARTTLS"),
    "never": answers(b"502 5.5.1 what?\r\n", b"STARTTLS"),
    "250": answers(b"250 ok, and now MAIL\r\n", b"STARTTLS"),
    "no handshake": answers(b"220 go\r\n250 I am no TLS\r\n", b"STARTTLS"),
    "injected": answers(b"220 go\r\n250-x\r\n250 HELP\r\n", b"STARTTLS"),
}


def last_reply(world: World) -> str:
    """What is said of the one row that waits."""
    (entry,) = world.settled()
    return entry.recipient.last_reply or ""


@pytest.fixture
def world(pair: Pair) -> Iterator[World]:
    with World(
        routes=(Route(name="b", recipients=("b.test",), tls=OutboundTls.REQUIRED),),
        outbound={"ca_file": pair[0]},
        with_tls=True,
        session_limits=QUICK,
    ) as made:
        yield made


@pytest.mark.rfc(3207, "6")
@pytest.mark.parametrize("way", STRIPPED)
def test_nothing_is_sent_without_tls(world: World, way: str) -> None:
    commands: list[bytes] = []
    world.add("b.test", STRIPPED[way](commands))
    world.submit(MESSAGE, "bert@b.test")
    world.events.wait("queue.attempt", "outcome=deferred")
    text = last_reply(world)
    assert text.startswith("451 4."), text
    assert "TLS" in text, text
    assert not [one for one in commands if not one.startswith((b"EHLO", b"STARTTLS", b"QUIT"))]


def wrong(pair: Pair, stranger: Pair, which: str) -> ssl.SSLContext:
    return server_context(*(stranger if which == "unknown authority" else pair))


@pytest.mark.parametrize("which", ["unknown authority", "another name"])
def test_a_certificate_of_somebody_else(world: World, pair: Pair, stranger: Pair, which: str) -> None:
    sink = Sink(tls=wrong(pair, stranger, which))
    remote = world.add("b.test", sink)
    if which == "another name":
        world.resolver.remove("b.test", "MX")
        world.resolver.add("b.test", "MX", (10, "evil.c.test"))
        world.resolver.add("evil.c.test", "A", remote.address)
    remote.handler = _tolerant(sink)
    world.submit(MESSAGE, "bert@b.test")
    world.events.wait("queue.attempt", "outcome=deferred")
    text = last_reply(world)
    assert text.startswith("451 4.7.5 TLS failed"), text
    assert "certificate" in text
    assert sink.messages.empty()


def _tolerant(sink: Sink) -> Handler:
    """A handshake that the other side breaks off is no failure of the test's."""

    def handler(line: Line) -> None:
        with contextlib.suppress(ssl.SSLError):
            sink(line)

    return handler


def test_the_right_certificate(world: World, pair: Pair) -> None:
    sink = Sink(tls=server_context(*pair))
    world.add("b.test", sink)
    world.submit(MESSAGE, "bert@b.test")
    assert sink.get().content.endswith(b"body\r\n")
    assert world.events.wait("queue.attempt", "outcome=sent", "tls=TLSv1.3")


def test_other_domains_go_in_the_clear(world: World) -> None:
    sink = Sink()
    world.add("c.test", sink)
    world.submit(MESSAGE, "bert@c.test")
    assert sink.get().content.endswith(b"body\r\n")


# REQUIRETLS: asked for by the sender, of whatever route


def submit_requiretls(world: World, recipient: str, sender: str = "anna@example.org") -> bytes:
    with Peer(world.server, world.server.submission_port) as peer:
        peer.send(b"EHLO x\r\nSTARTTLS\r\n")
        peer.until(rb"220 .*")
        peer.until(rb"220 .*")
        context = ssl.create_default_context(cafile=world.server.certificate)
        peer.socket = context.wrap_socket(peer.socket, server_hostname="mx.example.org")
        peer.received = b""
        peer.send(b"EHLO x\r\nAUTH PLAIN AGFubmFAZXhhbXBsZS5vcmcAc2VjcmV0\r\n")
        peer.until(rb"235 .*")
        return transact(peer, MESSAGE, recipient, sender=sender, mail=" REQUIRETLS")


@pytest.mark.rfc(8689, "4.2.1")
@pytest.mark.parametrize("way", STRIPPED)
def test_requiretls_and_no_tls(world: World, way: str) -> None:
    commands: list[bytes] = []
    world.add("c.test", STRIPPED[way](commands))
    world.resolver.vouch("c.test")
    assert submit_requiretls(world, "bert@c.test").startswith(b"250")
    (line,) = world.events.wait("queue.attempt")
    assert "outcome=failed" in line
    assert "5.7.10" in line
    assert "TLS" in line
    assert not [one for one in commands if not one.startswith((b"EHLO", b"STARTTLS", b"QUIT"))]


@pytest.mark.rfc(8689, "4.2.1")
def test_requiretls_and_a_wrong_certificate(world: World, stranger: Pair) -> None:
    sink = Sink((b"REQUIRETLS",), tls=server_context(*stranger))
    world.add("c.test", _tolerant(sink))
    world.resolver.vouch("c.test")
    assert submit_requiretls(world, "bert@c.test").startswith(b"250")
    (line,) = world.events.wait("queue.attempt", "outcome=failed", "5.7.10")
    assert "certificate" in line
    assert sink.messages.empty()


@pytest.mark.rfc(8689, "4.2.1")
@pytest.mark.parametrize("offers", [(), (b"REQUIRETLS",)], ids=["not offered", "offered"])
def test_requiretls_over_tls(world: World, pair: Pair, offers: tuple[bytes, ...]) -> None:
    sink = Sink(offers, tls=server_context(*pair))
    world.add("b.test", sink)
    world.resolver.vouch("b.test")
    assert submit_requiretls(world, "bert@b.test").startswith(b"250")
    if offers:
        assert sink.get().mail.endswith(b" REQUIRETLS")
    else:
        # RFC 8689 §4.2.1, 5.7.30: for ever, and the sender is told
        assert world.events.wait("queue.attempt", "outcome=failed", "5.7.30")
        world.events.wait("queue.reported", "anna@example.org")
        assert sink.messages.empty()


@pytest.mark.rfc(8689, "4.2.1")
def test_requiretls_and_a_zone_that_nobody_vouches_for(world: World, pair: Pair) -> None:
    """A forged MX record would name a server whose certificate is sound."""
    sink = Sink((b"REQUIRETLS",), tls=server_context(*pair))
    world.add("b.test", sink)
    assert submit_requiretls(world, "bert@b.test").startswith(b"250")
    world.events.wait("queue.attempt", "outcome=failed", "5.7.10")
    assert not sink.commands


@pytest.mark.parametrize("way", ["not offered", "no handshake"])
def test_opportunistic_tls_goes_on_in_the_clear(world: World, way: str) -> None:
    """What `outbound.tls = "opportunistic"` means: the way is documented, and the log says that there was no TLS."""
    commands: list[bytes] = []
    world.add("c.test", STRIPPED[way](commands))
    world.submit(MESSAGE, "bert@c.test")
    (line,) = world.events.wait("queue.attempt")
    assert "tls=" not in line
    assert [one for one in commands if one.startswith(b"MAIL")]
