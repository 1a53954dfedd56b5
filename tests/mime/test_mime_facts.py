"""MessageFacts and previews: values, streaming, any bytes."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_messages import MIXED, PLAIN, messages, split_at

from pochta.mime.core import header_core
from pochta.mime.describe import body_structure, envelope
from pochta.mime.facts import FactsBuilder, facts
from pochta.mime.header import split_fields
from pochta.mime.parse import HEAD_BYTES, parse
from pochta.mime.text import MAX_PREVIEW, preview


def test_facts_of_a_plain_message() -> None:
    got = facts(PLAIN)
    root = parse(PLAIN)
    assert got.size == len(PLAIN)
    assert got.header_size == PLAIN.index(b"Hello")
    assert got.envelope == envelope(root)
    assert got.body_structure == body_structure(root)
    assert got.header_core == header_core(split_fields(root.header))
    assert got.preview == "Hello Bob"
    assert (got.sent_at, got.sent_day) == (1795429543, 20780)
    assert (got.message_id, got.references) == (b"<1@example.com>", ())
    assert (got.base_subject, got.from_key, got.to_key, got.cc_key) == ("Hi", "alice", "bob", "")


def test_facts_of_an_answer() -> None:
    got = facts(
        b"Subject: Re: [x] Y\r\nReferences: <a@b>\r\n <c@d>\r\nIn-Reply-To: <c@d>\r\nCc: STRASSE@x, B@y\r\n\r\n"
    )
    assert got.references == (b"<a@b>", b"<c@d>")
    assert (got.base_subject, got.cc_key) == ("Y", "strasse")
    assert (got.sent_at, got.sent_day, got.message_id, got.preview) == (None, None, None, "")


def text(kind: bytes, encoding: bytes, body: bytes, charset: bytes = b"utf-8") -> bytes:
    return b"Content-Type: text/%b; charset=%b\r\nContent-Transfer-Encoding: %b\r\n\r\n%b" % (
        kind,
        charset,
        encoding,
        body,
    )


LONG = "Слово " * 2000
CUT = LONG[:MAX_PREVIEW].rstrip()
STYLES = b"<style>" + b"x" * 20_000 + b"</style>"
PREVIEWS = [
    pytest.param(PLAIN, "Hello Bob", id="plain"),
    pytest.param(MIXED, "first second", id="first-text-part"),
    pytest.param(b"A: b\r\n\r\n \r\n\t", "", id="white"),
    pytest.param(text(b"plain", b"8bit", LONG.encode()), CUT, id="long"),
    pytest.param(text(b"plain", b"base64", base64.encodebytes(LONG.encode())), CUT, id="base64"),
    pytest.param(text(b"plain", b"quoted-printable", b"caf=C3=A9 =\r\nau"), "café au", id="quoted-printable"),
    pytest.param(text(b"plain", b"8bit", "Привет".encode("koi8-r"), b"koi8-r"), "Привет", id="koi8-r"),
    pytest.param(text(b"plain", b"x-unknown", b"a\x00\x1b[1mb"), "a [1mb", id="controls"),
    pytest.param(
        text(b"html", b"7bit", b"<title>T</title><style>p{}</style><p>A<b>b</b>c<br>d &amp; &#8204;e<!-- x"),
        "Abc d & e",
        id="html",
    ),
    pytest.param(text(b"html", b"7bit", STYLES + b"words"), "words", id="html-behind-styles"),
    pytest.param(text(b"html", b"7bit", b"a <style>never closed"), "a", id="html-unclosed"),
    pytest.param(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\r\n"
        b"--b\r\nContent-Disposition: attachment\r\n\r\nno\r\n--b\r\n\r\nyes\r\n--b--",
        "yes",
        id="empty-part-and-attachment-are-passed-over",
    ),
]  # fmt: skip


@pytest.mark.rfc(8970, "3.2")
@pytest.mark.parametrize(("message", "want"), PREVIEWS)
def test_preview(message: bytes, want: str) -> None:
    assert preview(parse(message)) == want


def test_hostile_html_is_cheap() -> None:
    for piece in (b"<style>", b"<!--", b"<", b"&", b"<a ", b"</style", b"<p "):
        assert len(preview(parse(text(b"html", b"7bit", piece * (HEAD_BYTES // len(piece)))))) <= MAX_PREVIEW


def streamed(chunks: list[bytes]) -> object:
    builder = FactsBuilder(coalesce_bytes=1)
    for chunk in chunks:
        builder.feed(chunk)
    return builder.finish()


@given(messages, st.lists(st.integers(0, 10_000), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_facts_and_splits_do_not_matter(message: bytes, places: list[int]) -> None:
    got = facts(message)
    assert streamed(split_at(message, places)) == got
    assert len(got.preview) <= MAX_PREVIEW
    assert got.size == len(message)


def test_large_message_in_chunks() -> None:
    lines = base64.encodebytes(bytes(range(256)) * 2000)
    message = MIXED.replace(b"R0lG", lines) + text(b"plain", b"7bit", b"x" * 100_000)
    assert streamed(split_at(message, list(range(0, len(message), 8191)))) == facts(message)
