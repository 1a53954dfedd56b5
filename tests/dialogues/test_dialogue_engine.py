"""Every IMAP dialogue fed to the engine alone: the client's lines are commands wherever the script expects no BAD."""

import re
from collections.abc import Callable
from pathlib import Path
from random import Random  # noqa: TID251 - a test's own, seeded
from typing import Final

import dialogue_script
import pytest
from dialogue_peers import PASSWORD
from dialogue_script import Line, Script

from pochta.proto.imap import commands as c
from pochta.proto.imap.events import AppendPart, AppendStart, AuthResponse, BadCommand, CommandEvent, Event, IdleDone
from pochta.proto.imap.server import ImapServer

SCRIPTS: Final = [dialogue_script.read(path) for path in sorted(Path(__file__).parent.glob("*.imap"))]
_TAGGED: Final = re.compile(r"(\S+) <?(?:\w+:)?(OK|NO|BAD)")
_NAME: Final = re.compile(r"<([a-z]\w*)>")

Cut = Callable[[bytes], list[bytes]]


def _random_pieces(data: bytes) -> list[bytes]:
    random = Random(len(data))
    cuts = sorted(random.sample(range(len(data) + 1), min(4, len(data))))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


CUTS: Final[dict[str, Cut]] = {
    "whole": lambda data: [data],
    "bytewise": lambda data: [data[at : at + 1] for at in range(len(data))],
    "random": _random_pieces,
}


class Alone:
    """The engine of one connection of a script, answered as the script says that a server answers."""

    def __init__(self, statuses: dict[str, str], *, is_authenticated: bool) -> None:
        self.engine = ImapServer()
        self.engine.is_authenticated = is_authenticated
        self.statuses = statuses  # by tag, as the script expects them
        self.sent = b""
        self.append_tag = ""  # of the APPEND that brings parts

    def take(self, pieces: list[bytes], *, is_asked_on: bool) -> list[Event]:
        """The events of one line; `is_asked_on`: the script then expects a continuation."""
        events: list[Event] = []
        self.sent = b""
        for piece in pieces:
            self.engine.receive_data(piece)
            while (event := self.engine.next_event()) is not None:
                events.append(event)
                self._answer(event, is_asked_on=is_asked_on)
            self.sent += self.engine.data_to_send()
        return events

    def _answer(self, event: Event, *, is_asked_on: bool) -> None:
        if isinstance(event, AppendStart | AppendPart):
            if isinstance(event, AppendStart):
                self.append_tag = event.tag.decode()
            if self.statuses[self.append_tag] == "OK":
                self.engine.accept_append()
            else:
                self.engine.refuse_append()
        elif isinstance(event, AuthResponse):
            if is_asked_on:
                self.engine.challenge(b"")
            else:
                self.engine.is_authenticated = True
        elif isinstance(event, CommandEvent):
            if isinstance(event.command, c.Authenticate) and is_asked_on:
                self.engine.challenge(b"")
            elif isinstance(event.command, c.Idle) and is_asked_on:
                self.engine.start_idle()
            elif isinstance(event.command, c.Login):
                self.engine.is_authenticated = True
            elif isinstance(event.command, c.Enable):
                self.engine.utf8_accept |= not {"UTF8=ACCEPT", "IMAP4REV2"}.isdisjoint(event.command.capabilities)


def _statuses(script: Script, connection: int) -> dict[str, str]:
    """What the script expects of each command, by its tag."""
    found: dict[str, str] = {}
    for line in script.lines:
        if line.peer in ("", "pochta") and line.connection == connection and line.kind == "S":
            match = _TAGGED.match(line.text)
            if match is not None and match[1] != "*":
                found[match[1]] = match[2]
            elif "BAD" in line.text:
                found["*"] = "BAD"
    return found


def _data(line: Line, user: bytes) -> bytes:
    names = dict.fromkeys(_NAME.findall(line.text), b"1") | {"user": user, "password": PASSWORD.encode()}
    data = dialogue_script.to_send(line.text, names)
    return data if line.kind == "C-" else data + b"\r\n"


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("script", [pytest.param(script, id=script.path.name) for script in SCRIPTS])
def test_dialogue_with_the_engine_alone(script: Script, cut: Cut) -> None:
    is_authenticated = script.headers.get("login") != "no"
    user = f"{script.path.stem.replace('_', '-')}@example.org".encode()
    alone: dict[int, Alone] = {}
    steps = list(script.steps("pochta"))
    for step, following in zip(steps, [*steps[1:], []], strict=True):
        line = step[0]
        if line.kind[0] != "C":
            continue
        statuses = _statuses(script, line.connection)
        peer = alone.setdefault(line.connection, Alone(statuses, is_authenticated=is_authenticated))
        is_asked_on = bool(following) and following[0].kind == "S" and following[0].text.startswith("+ ")
        events = peer.take(cut(_data(line, user)), is_asked_on=is_asked_on)
        where = f"{script.path.name}:{line.number}: {line.text}"
        assert peer.sent.startswith(b"+ ") == is_asked_on, where
        for event in events:
            if isinstance(event, BadCommand):
                assert statuses.get("*" if event.tag is None else event.tag.decode()) == "BAD", (where, event)
            elif isinstance(event, CommandEvent | IdleDone | AppendStart):
                assert event.tag.decode() in statuses, (where, event)
    assert all(peer.engine.buffered_bytes == 0 for peer in alone.values())
