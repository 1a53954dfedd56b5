"""The fuzz target of SMTP does what it says; fuzzing itself is not part of a test run."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_generators import BY_GRAMMAR

from pochta.proto.smtp import events


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "fuzz" / "fuzz_smtp.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


consume = load().consume
OPEN = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<no@d>\r\nRCPT TO:<c@d>\r\n"


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\0", [], id="options alone"),
        pytest.param(b"\0\0" + OPEN + b"DATA\r\n..x\r\n.\r\nQUIT\r\n", [b".x\r\n"], id="DATA"),
        pytest.param(b"\0\3" + OPEN + b"BDAT 3\r\na\r\nBDAT 1 LAST\r\nb", [b"a\r\nb"], id="BDAT"),
        pytest.param(b"\x20\5" + OPEN + b"DATA\r\na\n.\r\n.\r\n", [b"a\r\n\r\n"], id="normalise"),
        pytest.param(b"\2\5" + OPEN.replace(b"EHLO", b"LHLO") + b"BDAT 1 LAST\r\nb", [b"b"], id="LMTP"),
        pytest.param(b"\1\5STARTTLS\r\nNOOP\r\n", [], id="STARTTLS"),
        pytest.param(b"\4\5EHLO no\r\nEHLO x\r\nAUTH SCRAM-SHA-256\r\nYWdhaW4=\r\n\r\n", [], id="AUTH"),
        pytest.param(b"\x1c\5EHLO x\r\nMAIL FROM:<a@b>\r\nAUTH PLAIN AGEAYg==\r\n", [], id="AUTH required"),
        pytest.param(b"\0\5" + OPEN + b"NOOP\r\n" * 250, [], id="a turn"),
        pytest.param(bytes(range(256)) * 4, [], id="all octets"),
    ],
)
def test_the_target_takes_anything(data: bytes, messages: list[bytes]) -> None:
    assert consume(data)[2] == messages


def test_the_target_tells_what_it_saw() -> None:
    sent, seen, _ = consume(b"\0\3" + OPEN)
    assert sent.count(b"\r\n") == 1 + 8 + 3
    assert seen[0] == events.Hello("x", is_extended=True)
    assert len(seen) == 4


@settings(max_examples=100, deadline=None)
@given(options=st.binary(min_size=2, max_size=2), wire=BY_GRAMMAR)
def test_the_target_agrees_with_the_generators(options: bytes, wire: bytes) -> None:
    consume(options + wire)
