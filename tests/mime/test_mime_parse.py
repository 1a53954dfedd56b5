"""The scanner: the tree of parts and its offsets, whole, in chunks and on any bytes."""

import email
import email.message
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_messages import MIXED, PLAIN, messages, split_at, well_formed

from pochta.mime import parse as parse_module
from pochta.mime.decode import decode_base64
from pochta.mime.parse import MAX_DEPTH, MAX_HEADER, MAX_PARTS, Part, Scanner, parse


def tree(part: Part) -> object:
    """Type and children, for comparing shapes."""
    name = (part.type + b"/" + part.subtype).decode()
    return (name, [tree(child) for child in part.children]) if part.children else name


def check_offsets(root: Part, size: int) -> None:
    assert root.header_start == 0
    assert root.body_end == size
    for part in root.walk():
        assert 0 <= part.header_start <= part.header_end <= part.body_end <= size
        for child in part.children:
            assert part.header_end <= child.header_start
            assert child.body_end <= part.body_end
        for one, two in pairwise(part.children):
            assert one.body_end <= two.header_start
        if part.type == b"multipart":
            assert part.children
        if part.type == b"message" and part.subtype in (b"rfc822", b"global"):
            assert len(part.children) == 1


def in_chunks(chunks: list[bytes], coalesce_bytes: int = 1) -> Part:
    scanner = Scanner(coalesce_bytes=coalesce_bytes)
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.finish()


BODIES = [
    pytest.param(PLAIN, [b"Hello\r\nBob\r\n"], id="plain"),
    pytest.param(b"", [b""], id="empty"),
    pytest.param(b"\r\nbody", [b"body"], id="no-header"),
    pytest.param(b"\nbody", [b"body"], id="no-header-lf"),
    pytest.param(b"A: b\r\n", [b""], id="header-only"),
    pytest.param(b"A: b", [b""], id="header-only-no-end"),
    pytest.param(b"A: b\n\nx\ny", [b"x\ny"], id="bare-lf"),
    pytest.param(b"A: \xff\x00\r\n\r\n\x00", [b"\x00"], id="nul-and-8bit"),
    pytest.param(b"words\r\n\r\nbody", [b"body"], id="header-without-fields"),
]


@pytest.mark.parametrize(("message", "bodies"), BODIES)
def test_body_of_single_part(message: bytes, bodies: list[bytes]) -> None:
    root = parse(message)
    assert [message[part.header_end : part.body_end] for part in root.walk()] == bodies
    check_offsets(root, len(message))


CT = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
PARTS = [
    pytest.param(CT + b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n", [b"one", b"two"], id="two"),
    pytest.param(CT + b"--b\n\none\n--b\n\ntwo\n--b--\n", [b"one", b"two"], id="bare-lf"),
    pytest.param(CT + b"--b\r\n\r\none\r\n--b\r\n\r\ntwo", [b"one", b"two"], id="never-closed"),
    pytest.param(CT + b"--b\r\n\r\none\r\n--b--", [b"one"], id="no-final-crlf"),
    pytest.param(CT + b"--b  \t\r\n\r\none\r\n--b-- \r\n", [b"one"], id="white-space-behind"),
    pytest.param(CT + b"--b\r\n\r\none\r\n--bb\r\nx\r\n--b--", [b"one\r\n--bb\r\nx"], id="longer-line-is-text"),
    pytest.param(CT + b"--b\r\n\r\n--b\r\n\r\n--b--", [b"", b""], id="empty-bodies"),
    pytest.param(CT + b"--b\r\nA: b\r\n--b--\r\n", [b""], id="delimiter-ends-header"),
    pytest.param(CT + b"--b--\r\ntext", [b"--b--\r\ntext"], id="closed-before-opened"),
    pytest.param(CT + b"just text", [b"just text"], id="delimiter-never-comes"),
    pytest.param(b"Content-Type: multipart/mixed\r\n\r\ntext", [b"text"], id="no-boundary"),
    pytest.param(b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n\r\nx", [b"--\r\n\r\nx"], id="empty-boundary"),
    pytest.param(CT + b"pre\r\n--b\r\n\r\none\r\n--b--\r\nepi\r\n--b\r\n\r\nno\r\n", [b"one"], id="preamble-epilogue"),
    pytest.param(CT + b"--b\r\n\r\none\n\r\n--b--", [b"one\n"], id="only-one-line-end-belongs-to-delimiter"),
]


@pytest.mark.rfc(2046, "5.1.1")
@pytest.mark.parametrize(("message", "bodies"), PARTS)
def test_bodies_of_multipart(message: bytes, bodies: list[bytes]) -> None:
    root = parse(message)
    assert [message[part.header_end : part.body_end] for part in root.children] == bodies
    check_offsets(root, len(message))


def test_nested_tree() -> None:
    root = parse(MIXED)
    inner = ("multipart/mixed", ["text/plain", "image/gif"])
    assert tree(root) == (
        "multipart/mixed",
        ["text/plain", ("multipart/alternative", ["text/html"]), ("message/rfc822", [inner])],
    )
    message = root.children[2]
    assert message.message is message.children[0]
    assert message.lines == MIXED[message.header_end : message.body_end].count(b"\n")
    assert root.children[0].lines == 1


@pytest.mark.rfc(2046, "5.1.2")
def test_outer_delimiter_ends_unclosed_inner_multipart() -> None:
    message = (
        CT + b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nin\r\n--b\r\n\r\nout\r\n--b--\r\n"
    )
    root = parse(message)
    assert tree(root) == ("multipart/mixed", [("multipart/mixed", ["text/plain"]), "text/plain"])
    assert [message[p.header_end : p.body_end] for p in root.walk() if p.type == b"text"] == [b"in", b"out"]


@pytest.mark.rfc(2046, "5.1.5")
def test_digest_parts_are_messages() -> None:
    root = parse(b"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: x\r\n\r\ny\r\n--b--\r\n")
    assert tree(root) == ("multipart/digest", [("message/rfc822", ["text/plain"])])


def test_same_boundary_inside_belongs_to_the_inner_until_it_closes() -> None:
    message = CT + b"--b\r\n" + CT + b"--b\r\n\r\nin\r\n--b--\r\n--b\r\n\r\nout\r\n--b--\r\n"
    assert tree(parse(message)) == ("multipart/mixed", [("multipart/mixed", ["text/plain"]), "text/plain"])


@pytest.mark.parametrize("line", [b"--b2\r\n", b"--b--x\r\n", b"--" + b"x" * 400 + b"\r\n"])
def test_many_lines_that_are_nearly_delimiters(line: bytes) -> None:
    inner = CT.replace(b"=b", b"=c")
    message = (
        CT + b"--b\r\n" + inner + b"--c\r\n\r\n" + line * 500 + b"--c--\r\n" + line * 200 + b"--b \r\n\r\nlast\r\n--b--"
    )
    root = parse(message)
    assert tree(root) == ("multipart/mixed", [("multipart/mixed", ["text/plain"]), "text/plain"])
    assert message[root.children[0].children[0].header_end :].startswith(line * 500 + b"--c--")
    assert in_chunks([message[at : at + 1000] for at in range(0, len(message), 1000)]) == root


def test_content_fields_without_value() -> None:
    part = parse(
        b"Content-Disposition: ; x=y\r\nContent-Type: x\r\nContent-Transfer-Encoding: (c)\r\nContent-ID:\r\n\r\n"
    )
    assert (part.disposition, tree(part), part.encoding, part.content_id) == (None, "text/plain", b"7bit", None)


def test_content_fields() -> None:
    part = parse(
        b"Content-Type: Text/HTML; Charset=UTF-8\r\nContent-Transfer-Encoding: Base64 (x)\r\nContent-ID: <i@d>\r\n"
        b"Content-Description: d e\r\n f\r\nContent-Disposition: INLINE; filename=x\r\nContent-Language: de, en-GB\r\n"
        b"Content-Location: http://x/\r\nContent-MD5: Q2hl\r\n\r\n"
    )
    assert (part.type, part.subtype, part.params, part.encoding) == (
        b"text",
        b"html",
        ((b"charset", b"UTF-8"),),
        b"base64",
    )
    assert (part.content_id, part.description, part.location, part.md5) == (b"<i@d>", b"d e f", b"http://x/", b"Q2hl")
    assert part.disposition == (b"inline", ((b"filename", b"x"),))
    assert part.language == (b"de", b"en-GB")


class TestLimits:
    def test_depth(self) -> None:
        levels = MAX_DEPTH + 50
        head = b"".join(
            b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (i, i + 1) for i in range(levels)
        )
        root = parse(b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n" + head)
        parts = list(root.walk())
        assert len(parts) == MAX_DEPTH
        assert [part.is_opaque for part in parts] == [False] * (MAX_DEPTH - 1) + [True]
        assert tree(parts[-1]) == "application/octet-stream"

    def test_depth_of_side_by_side_parts(self) -> None:
        levels = MAX_DEPTH + 2
        head = b"".join(
            b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (i, i + 1) for i in range(levels)
        )
        root = parse(b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n" + head + b"--b0\r\n\r\nafter\r\n")
        assert [tree(child) for child in root.children][1:] == ["text/plain"]

    def test_depth_of_messages(self) -> None:
        root = parse(b"Content-Type: message/rfc822\r\n\r\n" * (MAX_DEPTH * 3))
        parts = list(root.walk())
        assert len(parts) == MAX_DEPTH
        assert parts[-1].is_opaque

    def test_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse_module, "MAX_PARTS", 20)
        message = CT + b"--b\r\n\r\nx\r\n" * 100
        root = parse(message)
        assert len(list(root.walk())) == 20
        assert [child.is_opaque for child in root.children] == [False] * 18 + [True]
        rest = root.children[-1]
        # not one octet is lost: the last part is all that was not split
        assert message[rest.header_start : rest.body_end] == b"\r\nx\r\n" + b"--b\r\n\r\nx\r\n" * 81
        check_offsets(root, len(message))

    def test_parts_at_the_real_limit(self) -> None:
        root = parse(CT + b"--b\r\n\r\nx\r\n" * (MAX_PARTS + 100))
        assert len(list(root.walk())) == MAX_PARTS
        assert [child.is_opaque for child in root.children].count(True) == 1

    def test_messages_leave_a_part_for_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse_module, "MAX_PARTS", 10)
        root = parse(CT + b"--b\r\nContent-Type: message/rfc822\r\n\r\nA: b\r\n\r\nx\r\n" * 10)
        assert len(list(root.walk())) == 10
        assert [child.is_opaque for child in root.children] == [False, False, False, False, True]

    @pytest.mark.parametrize("limit", [9, 10])
    def test_multiparts_without_parts_count_their_text(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse_module, "MAX_PARTS", limit)
        root = parse(CT + b"--b\r\nContent-Type: multipart/mixed\r\n\r\nx\r\n" * 10)
        assert len(list(root.walk())) == limit
        assert root.children[-1].is_opaque
        assert tree(root.children[0]) == ("multipart/mixed", ["text/plain"])

    @pytest.mark.parametrize("coalesce", [1, 1 << 20])
    def test_header(self, monkeypatch: pytest.MonkeyPatch, coalesce: int) -> None:
        monkeypatch.setattr(parse_module, "MAX_HEADER", 100)
        message = CT + b"--b\r\nContent-ID: <x>\r\nSubject: " + b"x" * 200 + b"\r\n\r\nbody\r\n--b\r\n\r\nnext\r\n--b--"
        root = in_chunks([message[i : i + 7] for i in range(0, len(message), 7)], coalesce)
        long, after = root.children
        assert (long.is_opaque, long.type, long.subtype) == (True, b"application", b"octet-stream")
        assert long.header_end - long.header_start == 100
        assert long.content_id == b"<x>"
        assert message[after.header_end : after.body_end] == b"next"
        assert not after.is_opaque

    @pytest.mark.parametrize(
        ("size", "is_opaque"), [pytest.param(-1, False, id="just-fits"), pytest.param(1, True, id="just-beyond")]
    )
    def test_header_of_the_message_at_the_real_limit(self, size: int, is_opaque: bool) -> None:
        start = b"Subject: hi\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        fill = b"X: %b\r\n" % (b"y" * (MAX_HEADER - len(start) - 7 + size))
        message = start + fill + b"\r\n--b\r\n\r\nx\r\n--b--"
        root = parse(message)
        assert root.is_opaque is is_opaque
        assert tree(root) == ("application/octet-stream" if is_opaque else ("multipart/mixed", ["text/plain"]))
        assert root.body_end == len(message)

    def test_header_total(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse_module, "MAX_HEADER_TOTAL", 100)
        root = parse(CT + b"--b\r\nContent-Type: image/gif\r\n\r\n" * 5)
        assert [child.is_opaque for child in root.children] == [False, False, True, True, True]
        assert {tree(child) for child in root.children[2:]} == {"application/octet-stream"}

    def test_delimiter_line_at_the_limit_of_the_header(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse_module, "MAX_HEADER", 100)
        for size in range(80, 110):
            message = CT + b"--b\nA: " + b"x" * size + b"\n--b \n\nnext\n--b--"
            assert in_chunks([bytes((octet,)) for octet in message]) == parse(message)
            assert tree(parse(message)) == (
                "multipart/mixed",
                ["text/plain" if size < 94 else "application/octet-stream", "text/plain"],
            )

    def test_headers_cut_short_cost_one_search(self) -> None:
        # 1 MiB of search for each of 10 000 parts took 20 s before
        message = CT + b"--b\nA: b\n" * 100_000
        assert len(parse(message).children) == parse_module.MAX_PARTS - 1

    def test_long_delimiter_like_line(self) -> None:
        message = CT + b"--b" + b" " * 2000 + b"\r\n\r\nx"
        assert tree(parse(message)) == tree(in_chunks([bytes((octet,)) for octet in message]))


@given(messages)
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_sound_tree(message: bytes) -> None:
    check_offsets(parse(message), len(message))


@given(messages, st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=400, deadline=None)
def test_splits_do_not_matter(message: bytes, places: list[int]) -> None:
    assert in_chunks(split_at(message, places)) == parse(message)


@given(messages)
@settings(max_examples=150, deadline=None)
def test_bytewise_equals_whole(message: bytes) -> None:
    assert in_chunks([message[i : i + 1] for i in range(len(message))]) == parse(message)


def stdlib_tree(message: email.message.Message) -> object:
    name = message.get_content_type()
    if message.is_multipart():
        return name, [stdlib_tree(child) for child in message.get_payload()]  # type: ignore[arg-type]
    return name


@given(well_formed())
@settings(max_examples=150, deadline=None)
def test_shape_and_bodies_agree_with_the_standard_library(message: bytes) -> None:
    root = parse(message)
    oracle = email.message_from_bytes(message)
    assert tree(root) == stdlib_tree(oracle)
    leaves = [part for part in oracle.walk() if not part.is_multipart()]
    ours = [part for part in root.walk() if not part.children]
    for part, theirs in zip(ours, leaves, strict=True):
        body = message[part.header_end : part.body_end]
        if part.encoding == b"base64":
            body = decode_base64(body)
        assert body == theirs.get_payload(decode=True)
