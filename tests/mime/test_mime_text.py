"""Text of messages: file names, HTML without markup, the text for an index."""

import base64

import pytest
from mime_messages import MIXED, PLAIN

from pochta.mime import text as text_module
from pochta.mime.parse import parse
from pochta.mime.text import IndexField, file_name, index_text, strip_html, unescape

SUBJECT, ADDRESSES, NAME, BODY, CUT = IndexField


def index(message: bytes) -> list[tuple[IndexField, str]]:
    return list(index_text(parse(message), lambda start, stop: message[start:stop]))


def part(content: bytes, body: bytes) -> bytes:
    return b"\r\n--b\r\n%b\r\n\r\n%b" % (content, body)


MULTI = b"Subject: =?koi8-r?B?8NLJ18XU?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nno preamble"
INDEXED = [
    pytest.param(
        PLAIN,
        [
            (ADDRESSES, "Alice <alice@example.com>"),
            (ADDRESSES, "bob@example.org"),
            (SUBJECT, "Hi"),
            (BODY, "Hello\r\nBob\r\n"),
        ],
        id="plain",
    ),
    pytest.param(
        MIXED,
        [
            (ADDRESSES, "a@b.c"),
            (BODY, "first\r\nsecond"),
            (BODY, " one "),
            (SUBJECT, "inner"),
            (ADDRESSES, "i@j.k"),
            (BODY, "in"),
        ],
        id="messages-inside-count",
    ),
    pytest.param(
        MULTI
        + part(b"Content-Type: text/plain; charset=koi8-r", "мир".encode("koi8-r"))
        + part(b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64", base64.b64encode("мир".encode()))
        + part(b"Content-Disposition: attachment; filename*=utf-8''%D1%8F.txt", b"attached text")
        + part(b"Content-Type: image/png; name*0=a; name*1=b.png", b"no pixels")
        + b"\r\n--b--\r\nno epilogue",
        [(SUBJECT, "Привет"), (BODY, "мир"), (BODY, "мир"), (NAME, "я.txt"), (BODY, "attached text"), (NAME, "ab.png")],
        id="charsets-and-names",
    ),
    pytest.param(
        b"Content-Type: text/html\r\n\r\n<style>x</style><p>On<b>e</b> &amp; <i>two</i><br>three<!-- no",
        [(BODY, "  One & two three ")],
        id="html",
    ),
    pytest.param(b"Subject: a\x00b\r\n\r\n\x00", [(SUBJECT, "a b"), (BODY, " ")], id="nul"),
    pytest.param(b"Subject:\r\n\r\n", [], id="nothing"),
    pytest.param(b"Content-Type: image/gif\r\n\r\nGIF", [], id="no-text"),
]


@pytest.mark.parametrize(("message", "want"), INDEXED)
def test_index_text(message: bytes, want: list[tuple[IndexField, str]]) -> None:
    assert index(message) == want


class TestLimits:
    def test_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "MAX_INDEX_CHARS", 12)
        message = MULTI + part(b"X: y", b"first") + part(b"X: y", b"second")
        assert index(message) == [(SUBJECT, "Привет"), (BODY, "first"), (BODY, "s"), (CUT, "")]

    def test_just_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "MAX_INDEX_CHARS", 11)
        assert index(MULTI + part(b"X: y", b"first")) == [(SUBJECT, "Привет"), (BODY, "first")]

    def test_something_behind_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "MAX_INDEX_CHARS", 11)
        message = MULTI + part(b"X: y", b"first") + part(b"X: y", b"second")
        assert index(message) == [(SUBJECT, "Привет"), (BODY, "first"), (CUT, "")]

    def test_body(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "MAX_INDEX_BODY", 8)
        head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        # cut inside =A9, so the first octet of the character is left out too
        assert index(head + b"abc=C3=A9 and more") == [(BODY, "abc"), (CUT, "")]

    def test_field(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "MAX_INDEX_FIELD", 6)
        assert index(b"Subject: Hello world\r\n\r\n") == [(SUBJECT, "Hello"), (CUT, "")]

    def test_opaque_part(self) -> None:
        assert index(b"Content-Type: message/rfc822\n\n" * 200) == [(CUT, "")]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        pytest.param(
            b"Content-Disposition: attachment; filename=a.txt\r\nContent-Type: a/b; name=c", "a.txt", id="both"
        ),
        pytest.param(b"Content-Disposition: attachment\r\nContent-Type: a/b; name=c", "c", id="name"),
        pytest.param(b"Content-Disposition: inline; filename=; x=y\r\nContent-Type: a/b; name=c", "c", id="empty"),
        pytest.param(b"Content-Type: text/plain", "", id="none"),
    ],
)
def test_file_name(content: bytes, want: str) -> None:
    assert file_name(parse(content + b"\r\n\r\n")) == want


HTML = [
    pytest.param("a<br>b", "a b", id="tag"),
    pytest.param("a<B class='x'>b</B >c", "abc", id="inline-tag"),
    pytest.param("<SCRIPT>if (a<b) x</script  >c", " c", id="script"),
    pytest.param("a<!-- <p> -->b", "a b", id="comment"),
    pytest.param("a<style>b", "a ", id="unclosed-style"),
    pytest.param("a<b", "a ", id="unclosed-tag"),
    pytest.param("&lt;p&gt;&nbsp;&#1055;&#x41;&copy", "<p>\xa0ПA©", id="references"),
    pytest.param("<header>a</header>", " a ", id="header-is-not-head"),
]


@pytest.mark.parametrize(("source", "want"), HTML)
def test_strip_html(source: str, want: str) -> None:
    assert strip_html(source) == want


@pytest.mark.parametrize("source", ["&#" + "9" * 5000 + ";", "&#x" + "F" * 5000, "&#55296;", "&#9999999;"])
def test_numbers_of_no_character(source: str) -> None:
    # html.unescape raises ValueError on more than 4300 digits
    assert unescape(source) == "\ufffd"
