"""Text of messages: file names, HTML without markup."""

import pytest

from pochta.mime.parse import parse
from pochta.mime.text import file_name, strip_html, unescape


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
