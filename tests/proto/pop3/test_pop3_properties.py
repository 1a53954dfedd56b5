"""Properties of the engine: no bytes break it, no cut shows, answers match commands.

The bytes come from three generators (`pop3_generators`), which by themselves reach 95 % of the branches of
`proto/pop3`.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pop3_driver import MESSAGES, Driver, at_cuts, connect, statuses, ways
from pop3_generators import BY_DIALOGUES, BY_GRAMMAR, RAW

from pochta.errors import LocalProtocolError
from pochta.proto.pop3 import events
from pochta.proto.pop3.commands import MAX_AUTH_BYTES
from pochta.proto.pop3.server import Pop3Server


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


fuzz = _load(Path(__file__).parents[2] / "fuzz" / "fuzz_pop3.py")

CUTS = st.lists(st.integers(0, 600), max_size=6)


@dataclass(frozen=True)
class Setting:
    """How a connection is set up."""

    is_secure: bool
    can_start_tls: bool
    allows_plaintext_auth: bool
    chunk: int
    can_update: bool
    grants_tls: bool
    many: bool

    def connect(self) -> Driver:
        return connect(
            is_secure=self.is_secure,
            can_start_tls=self.can_start_tls,
            allows_plaintext_auth=self.allows_plaintext_auth,
            chunk=self.chunk,
            can_update=self.can_update,
            grants_tls=self.grants_tls,
            messages=MESSAGES + (b"x\r\n",) * 1000 if self.many else MESSAGES,
        )


SETTINGS = st.builds(
    Setting,
    is_secure=st.sampled_from([False, False, True]),
    can_start_tls=st.booleans(),
    allows_plaintext_auth=st.sampled_from([True, True, True, False]),
    chunk=st.sampled_from([0, 1, 7]),
    can_update=st.booleans(),
    grants_tls=st.booleans(),
    many=st.sampled_from([False] * 9 + [True]),
)


SIGN_INS = (events.Credentials, events.Auth, events.AuthResponse)


def check(driver: Driver) -> None:
    """What holds of every conversation."""
    server = driver.server
    assert not server.has_question
    assert server.buffered_bytes <= MAX_AUTH_BYTES
    assert server.is_closed or not driver.updates
    signed_in = [at for at, event in enumerate(driver.events) if isinstance(event, events.Retrieve | events.Top)]
    if signed_in:
        assert any(isinstance(event, SIGN_INS) for event in driver.events[: signed_in[0]])
    if driver.updates:
        assert server.maildrop is not None
        assert set(driver.updates[0]) <= set(server.maildrop.uids)
    assert driver.sent.endswith(b"\r\n") or not driver.sent


def misuse(server: Pop3Server) -> None:
    """Whoever answers what was not asked is told so."""
    calls = [
        lambda: server.refuse("x"),
        server.accept_tls,
        server.accept_update,
        server.start_tls_done,
        server.end_message,
        lambda: server.begin_message(1),
        lambda: server.send_message(b""),
        lambda: server.continue_message(b""),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()


def play(wire: bytes, cuts: list[int], setting: Setting) -> None:
    """The wire at every kind of cut: nothing but events, and the same."""
    seen = []
    for chunks in (*ways(wire), at_cuts(wire, cuts)):
        driver = setting.connect()
        for chunk in chunks:
            driver.feed(chunk)
            if driver.server.is_secure and not setting.is_secure:
                # what is left of the wire would come behind the handshake in one case and is dropped in the other
                driver.feed(b"CAPA\r\nUSER user\r\nPASS x\r\n")
                break
        check(driver)
        seen.append((driver.sent, driver.events, driver.updates))
    assert seen[0] == seen[1] == seen[2]
    misuse(driver.server)
    driver.server.shut_down("Going down", b"SYS/TEMP")
    driver.feed(b"CAPA\r\n")
    assert driver.server.is_closed


@settings(max_examples=400, deadline=None)
@given(wire=BY_GRAMMAR, cuts=CUTS, setting=SETTINGS)
def test_by_grammar(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=120, deadline=None)
@given(wire=BY_DIALOGUES, cuts=CUTS, setting=SETTINGS)
def test_by_dialogues(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=150, deadline=None)
@given(wire=RAW, cuts=CUTS, setting=SETTINGS)
def test_raw(wire: bytes, cuts: list[int], setting: Setting) -> None:
    play(wire, cuts, setting)


@settings(max_examples=100, deadline=None)
@given(setting=st.integers(0, 7), wire=st.one_of(BY_GRAMMAR, RAW))
def test_what_is_fuzzed(setting: int, wire: bytes) -> None:
    fuzz.consume(bytes([setting]) + wire)


SINGLE = [
    b"NOOP",
    b"STAT",
    b"LIST 1",
    b"LIST 9",
    b"UIDL 2",
    b"DELE 3",
    b"RETR 3",
    b"RETR 1",
    b"TOP 1 0",
    b"XYZZY",
    b"RSET",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SINGLE), max_size=15))
def test_every_command_gets_one_answer(lines: list[bytes]) -> None:
    driver = connect(signs_in=True)
    driver.feed(b"".join(line + b"\r\n" for line in lines))
    assert len(statuses(driver.sent)) == len(lines)


def test_hostile_input_takes_linear_time() -> None:
    for filler in (b" ", b"R", b"RETR ", b"RETR 1\r", b"\r", b"1", b"\0"):
        driver = connect(signs_in=True)
        for _ in range(40):
            driver.feed(filler * (20_000 // len(filler)))
        assert driver.server.buffered_bytes <= MAX_AUTH_BYTES
