"""Properties of the engine: no bytes break it, no cut shows, what it reads can be written again.

The bytes come from three generators (`imap_generators`), which by themselves reach 95 % of the branches of
`proto/imap`, `proto/sasl` and `proto/buffer`.
"""

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st
from imap_generators import BY_DIALOGUES, BY_GRAMMAR, FILES, ONE_COMMAND, RAW


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = _load(Path(__file__).parents[2] / "fuzz" / "fuzz_imap.py")
CUTS = st.lists(st.integers(0, 600), max_size=6)
SIZES = st.sampled_from([(7,), (2,), (13,)])
BYTEWISE_BYTES = 1000  # of longer streams only the cuts are tried


def play(wire: bytes, cuts: list[int], sizes: tuple[int, ...]) -> None:
    """The wire at every kind of cut: nothing but events, and the same."""
    if len(wire) <= BYTEWISE_BYTES:
        fuzz.consume_stream(wire, (1, *sizes))
    else:
        fuzz.consume_stream(wire, (1000,))
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    whole = fuzz.Driver(is_authenticated=True).feed([wire])
    again = fuzz.Driver(is_authenticated=True).feed(wire[start:stop] for start, stop in pairwise(edges))
    assert (again.events, again.sent) == (whole.events, whole.sent)
    if again.engine._state.name == "COMMAND":
        assert again.engine.start_tls_done() == whole.engine.start_tls_done()
        assert again.engine.buffered_bytes == 0


@settings(max_examples=350, deadline=None)
@given(wire=BY_GRAMMAR, cuts=CUTS, sizes=SIZES)
def test_by_grammar(wire: bytes, cuts: list[int], sizes: tuple[int, ...]) -> None:
    play(wire, cuts, sizes)


@settings(max_examples=1400, deadline=None)
@given(wire=ONE_COMMAND)
def test_one_command(wire: bytes) -> None:
    fuzz.consume_stream(wire, (1,) if len(wire) <= BYTEWISE_BYTES else (1000,))


@settings(max_examples=60, deadline=None)
@given(wire=BY_DIALOGUES, cuts=CUTS, sizes=SIZES)
def test_by_dialogues(wire: bytes, cuts: list[int], sizes: tuple[int, ...]) -> None:
    play(wire, cuts, sizes)


@settings(max_examples=150, deadline=None)
@given(wire=RAW, cuts=CUTS, sizes=SIZES)
def test_raw(wire: bytes, cuts: list[int], sizes: tuple[int, ...]) -> None:
    play(wire, cuts, sizes)


@settings(max_examples=150, deadline=None)
@given(octets=st.binary(max_size=80))
def test_lines_and_views(octets: bytes) -> None:
    fuzz.consume(octets)


def test_every_dialogue_as_it_is() -> None:
    for lines in FILES:
        play(b"".join(lines), [], (7,))
