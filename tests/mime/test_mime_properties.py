"""What holds of any octets: three generators, whole, byte by byte and at random splits; work and memory are bounded."""

import importlib.util
import sys
import tracemalloc
from pathlib import Path
from types import FrameType, ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_corpus import corpus
from mime_messages import MIXED, PLAIN, damaged, lawful, mutated, scrambled, split_at

from pochta.index.texts import text_of
from pochta.mime import parse as parse_module
from pochta.mime.facts import FactsBuilder, facts
from pochta.mime.parse import MAX_PARTS, Scanner
from pochta.mime.text import strip_html


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = _load(Path(__file__).parents[1] / "fuzz" / "fuzz_mime.py")

_grammar = st.one_of(scrambled, damaged(), mutated(lawful()))
_SMALL = [message for message in corpus().values() if len(message) < 8000] or [PLAIN, MIXED]
_corpus = mutated(st.sampled_from(_SMALL))
_places = st.lists(st.integers(0, 10_000), max_size=8)


@given(_grammar, _places)
@settings(max_examples=250, deadline=None)
def test_grammar_with_illegal_mutations(message: bytes, places: list[int]) -> None:
    found = fuzz.consume(message, (1,))
    assert fuzz.feed(split_at(message, places)) == found


@given(_corpus, _places)
@settings(max_examples=60, deadline=None)
def test_mutated_corpus(message: bytes, places: list[int]) -> None:
    found = fuzz.consume(message, (3,))
    assert fuzz.feed(split_at(message, places)) == found


@given(st.binary(max_size=300), _places)
@settings(max_examples=150, deadline=None)
def test_raw_octets(message: bytes, places: list[int]) -> None:
    found = fuzz.consume(message, (1,))
    assert fuzz.feed(split_at(message, places)) == found


def test_corpus_as_it_is() -> None:
    for message in (*corpus().values(), PLAIN, MIXED):
        fuzz.consume(message, (61,))


CT = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
NESTED = b"--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\n"
# What is repeated to make a message of any size, and what stands in front.
HOSTILE = [
    pytest.param(b"", b"a: b\n", id="fields"),
    pytest.param(b"a: ", b"x" * 50, id="endless-field"),
    pytest.param(b"To: ", b"a@b,", id="addresses"),
    pytest.param(b"To: ", b"(", id="comments"),
    pytest.param(b"To: ", b'"\\', id="quoted-pairs"),
    pytest.param(b"To: ", b"<a:", id="routes"),
    pytest.param(b"Subject: ", b"=?a?q?", id="open-words"),
    pytest.param(b"Subject: ", b"=?utf-8?b?eA==?= ", id="words"),
    pytest.param(b"Subject: ", b"[re:", id="blobs"),
    pytest.param(b"Date: ", b"1 ", id="date"),
    pytest.param(b"References: ", b"<a", id="references"),
    pytest.param(b"Content-Type: a/b", b";a*0=", id="params"),
    pytest.param(b"Content-Type: a/b", b'; "', id="quotes"),
    pytest.param(b"Content-Type: a/b;", b" \t", id="white-space"),
    pytest.param(CT, b"--b\n", id="delimiters"),
    pytest.param(CT, b"--b\n\n", id="empty-parts"),
    pytest.param(CT, b"--b\na: b\n", id="headers-cut-short"),
    pytest.param(CT, b"--bx\n", id="near-misses"),
    pytest.param(CT, b"--b" + b" " * 40, id="long-delimiter-line"),
    pytest.param(CT, NESTED, id="multiparts-side-by-side"),
    pytest.param(CT, b"--b\n" + CT, id="multiparts-in-each-other"),
    pytest.param(CT + NESTED, b"--x\n", id="near-misses-of-two"),
    pytest.param(b"", b"Content-Type: message/rfc822\n\n", id="messages-in-each-other"),
    pytest.param(CT, b"--b\nContent-Type: message/rfc822\n\n\n", id="messages-side-by-side"),
    pytest.param(b"Content-Type: text/html\n\n", b"<a ", id="html-tags"),
    pytest.param(b"Content-Type: text/html\n\n", b"<style><!--", id="html-hidden"),
    pytest.param(b"Content-Type: text/html\n\n&#", b"9", id="html-number"),
]


def work(message: bytes) -> int:
    """Calls of functions, ours and the interpreter's, until the facts of the message are there."""
    count = 0

    def tick(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event.endswith("call")

    builder = FactsBuilder()
    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        for at in range(0, len(message), 16 * 1024):
            builder.feed(message[at : at + 16 * 1024])
        builder.finish()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(("head", "piece"), HOSTILE)
def test_twice_the_message_is_twice_the_work(head: bytes, piece: bytes) -> None:
    small = work(head + piece * (16 * 1024 // len(piece)))
    large = work(head + piece * (32 * 1024 // len(piece)))
    assert large <= 2.2 * small + 1000


@pytest.mark.parametrize(("head", "piece"), HOSTILE)
def test_patterns_are_linear(head: bytes, piece: bytes) -> None:
    # 2 MiB: what is quadratic in it would take an hour
    message = head + piece * (2 * 1024 * 1024 // len(piece))
    root = parse_module.parse(message)
    assert facts(message).size == len(message)
    text_of(root, lambda start, stop: message[start:stop])


@pytest.mark.parametrize("piece", ["<a ", "<", "<!--", "<style", "</style ", "&", "&#1", "&#", "&a", "a<b>", "<b\n"])
def test_stripping_html_is_linear(piece: str) -> None:
    assert len(strip_html(piece * (1024 * 1024 // len(piece)))) <= 1024 * 1024


@pytest.mark.parametrize(("head", "piece"), HOSTILE[::2])
def test_memory_is_bounded(head: bytes, piece: bytes) -> None:
    chunk = piece * (64 * 1024 // len(piece))
    builder = FactsBuilder()
    builder.feed(head)
    tracemalloc.start()
    try:
        for _ in range(160):
            builder.feed(chunk)
        builder.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # of 10 MiB; a header of 1 MiB is held up to six times while it is read, and 10 000 parts are 6 MB
    assert peak < 9 * 1024 * 1024


def test_a_feed_takes_a_bounded_number_of_steps() -> None:
    scanner = Scanner(coalesce_bytes=1, steps_per_feed=100)
    scanner.feed(CT + b"--b\n\n" * (MAX_PARTS * 2))
    first = len(scanner.root.children)
    assert first <= 100
    scanner.feed(b"--b\n\n")
    assert first < len(scanner.root.children) <= 200
    assert len(scanner.finish().children) == MAX_PARTS - 1


def test_what_a_feed_leaves_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_module, "MAX_BACKLOG", 1000)
    message = CT + b"--b\n\n" * 1000
    scanner = Scanner(coalesce_bytes=1, steps_per_feed=1)
    scanner.feed(message)
    assert scanner.root.children[-1].header_start > len(message) - 1100
    assert scanner.finish() == parse_module.parse(message)
