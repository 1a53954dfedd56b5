"""Brute force: who guesses is put off after a few tries, on every protocol alike, and the right password with them."""

import base64
from collections.abc import Callable

import pytest
from attack_peer import Peer

from pochta import clock
from pochta.testing import Server

Attempt = Callable[[Server, str, str], bytes]


def by_imap(server: Server, user: str, password: str) -> bytes:
    with Peer(server, server.imap_port) as peer:
        peer.until(rb"\* OK .*")
        peer.send(f"a LOGIN {user} {password}\r\n".encode())
        return peer.until(rb"a .*")


def by_imap_sasl(server: Server, user: str, password: str) -> bytes:
    with Peer(server, server.imap_port) as peer:
        peer.until(rb"\* OK .*")
        peer.send(b"a AUTHENTICATE PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n")
        return peer.until(rb"a .*")


def by_pop3(server: Server, user: str, password: str) -> bytes:
    with Peer(server, server.pop3_port) as peer:
        peer.until(rb"\+OK .*")
        peer.send(f"USER {user}\r\nPASS {password}\r\n".encode())
        peer.until(rb"\+OK.*")
        return peer.until(rb"[-+].*")


def by_submission(server: Server, user: str, password: str) -> bytes:
    with Peer(server, server.submission_port) as peer:
        peer.send(b"EHLO x\r\nAUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n")
        peer.until(rb"250 .*")
        return peer.until(rb"\d{3} .*")


@pytest.fixture(autouse=True)
def _a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it happens within one second."""
    now = clock.now_s()
    monkeypatch.setattr(clock, "now_s", lambda: now)


WAYS = {"IMAP": by_imap, "IMAP SASL": by_imap_sasl, "POP3": by_pop3, "submission": by_submission}
WRONG = {"IMAP": b"a NO [AUTHENTICATIONFAILED]", "POP3": b"-ERR [AUTH]", "submission": b"535 5.7.8"}
PUT_OFF = {"IMAP": b"a NO [UNAVAILABLE]", "POP3": b"-ERR [SYS/TEMP]", "submission": b"454 4.7.0"}


@pytest.mark.parametrize("way", WAYS)
def test_guessing_is_put_off(pochta: Server, way: str) -> None:
    attempt, protocol = WAYS[way], way.split()[0]
    answers = [attempt(pochta, "anna@example.org", f"guess{n}") for n in range(12)]
    assert all(one.startswith(WRONG[protocol]) for one in answers[:5]), answers
    assert all(one.startswith(PUT_OFF[protocol]) for one in answers[7:]), answers
    # not even the right one is looked at now, nor is it told apart
    assert attempt(pochta, "anna@example.org", "secret").startswith(PUT_OFF[protocol])
    for other in WAYS:
        assert WAYS[other](pochta, "anna@example.org", "secret").startswith(PUT_OFF[other.split()[0]])


def test_unknown_names_are_put_off_alike(pochta: Server) -> None:
    known = [by_imap(pochta, "anna@example.org", f"guess{n}") for n in range(12)]
    unknown = [by_imap(pochta, "nobody@example.org", f"guess{n}") for n in range(12)]
    assert known == unknown


def test_who_has_been_here_is_not_locked_out(pochta: Server) -> None:
    assert by_imap(pochta, "anna@example.org", "secret").startswith(b"a OK")
    for n in range(8):
        by_pop3(pochta, "anna@example.org", f"guess{n}")
    assert by_imap(pochta, "anna@example.org", "secret").startswith(b"a OK")


def test_one_connection_gets_five_tries(pochta: Server) -> None:
    with Peer(pochta, pochta.imap_port) as peer:
        peer.until(rb"\* OK .*")
        for n in range(50):
            peer.send(b"a LOGIN nobody guess%d\r\n" % n)
        said = peer.rest()
    assert said.count(b"a NO") == 5
    assert b"* BYE" in said


def test_guessing_costs_others_nothing(pochta: Server) -> None:
    pochta.add_account("boris@example.org", "secret")
    for n in range(10):
        by_imap(pochta, "anna@example.org", f"guess{n}")
    assert by_imap(pochta, "boris@example.org", "secret").startswith(b"a OK")


@pytest.mark.rfc(5530, "3")
def test_the_log_names_the_peer(pochta: Server) -> None:
    by_submission(pochta, "anna@example.org", "guess")
    events = [one for one in pochta.events if "auth.failed" in one]
    assert len(events) == 1
    assert "127.0.0.1" in events[0]
    assert "guess" not in events[0]
