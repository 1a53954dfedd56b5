"""Messages to test MIME code with: hand-made ones, a strategy that builds nested ones, and one that damages them."""

import base64
from itertools import pairwise

from hypothesis import strategies as st

PLAIN = (
    b"From: Alice <alice@example.com>\r\nTo: bob@example.org\r\nSubject: Hi\r\n"
    b"Date: Mon, 23 Nov 2026 11:25:43 +0100\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\nBob\r\n"
)
MIXED = (
    b"From: a@b.c\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=xx\r\n\r\npreamble\r\n"
    b"--xx\r\n\r\nfirst\r\nsecond\r\n"
    b"--xx\r\nContent-Type: multipart/alternative; boundary=yy\r\n\r\n"
    b"--yy\r\nContent-Type: text/html\r\n\r\n<p>one</p>\r\n--yy--\r\nepilogue of yy\r\n"
    b"--xx\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\nFrom: i@j.k\r\nContent-Type: multipart/mixed; boundary=zz\r\n\r\n"
    b"--zz\r\n\r\nin\r\n--zz\r\nContent-Type: image/gif\r\nContent-Transfer-Encoding: base64\r\n\r\nR0lG\r\n--zz--\r\n"
    b"--xx--\r\nepilogue\r\n"
)

_LINES = st.sampled_from(
    [
        b"hello", b"", b"--", b"-- ", b"--b1", b"--b1--", b"--b2", b"--b2--", b"--b1 \t", b"--b12", b"\x00\xff",
        b"a: b",
        b"Content-Type: text/plain", b"Content-Type: multipart/mixed; boundary=b1", b"Content-Type: message/rfc822",
        b'Content-Type: multipart/digest; boundary="b2"', b"Content-Type: multipart/mixed", b" folded", b"\r", b"-",
        b"Content-Transfer-Encoding: base64", b"Subject: =?utf-8?b?0J/RgNC4?=", b"To: a:b@c,<x>;", b"Date: 1 Jan 2020",
        b"Content-Disposition: attachment; filename*0=a; filename*1=b", b"References: <a@b> <c@d>",
    ]
)  # fmt: skip
# Lines that look like parts of a message in any order: most of what a scanner can be tricked with.
scrambled = st.lists(st.tuples(_LINES, st.sampled_from([b"\r\n", b"\n", b"\r\n", b""])), max_size=40).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


def _leaf(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["plain", "html", "base64", "none"]))
    text = "\r\n".join(draw(st.lists(st.text("abc é", max_size=20), max_size=4)))
    if kind == "none":
        return b"\r\n" + text.encode().replace(b"\xc3\xa9", b"e")
    if kind == "base64":
        body = base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")
        return b"Content-Type: application/x-foo; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body
    return b"Content-Type: text/%b; charset=utf-8\r\n\r\n" % kind.encode() + text.encode()


@st.composite
def well_formed(draw: st.DrawFn, depth: int = 3) -> bytes:
    """A message or part that any parser reads in one way: header, blank line, body; every boundary unique."""
    kind = draw(st.sampled_from(["leaf", "multipart", "message"])) if depth else "leaf"
    if kind == "leaf":
        return _leaf(draw)
    if kind == "message":
        return b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n" + draw(well_formed(depth - 1))
    boundary = b"=_%d_%d" % (depth, draw(st.integers(0, 10**9)))
    parts = draw(st.lists(well_formed(depth - 1), min_size=1, max_size=3))
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary
    return b'Content-Type: multipart/mixed; boundary="%b"\r\n\r\n' % boundary + body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A well-formed or hand-made message with a few pieces cut out, doubled or overwritten."""
    message = draw(st.one_of(well_formed(), st.sampled_from([PLAIN, MIXED])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(message)))
        stop = min(len(message), at + draw(st.integers(0, 30)))
        piece = draw(
            st.sampled_from([b"", b"\n", b"\x00", message[at:stop] * 2, b'"', b"=?x?b?", b"\r\n\r\n", b"(", b"%"])
        )
        message = message[:at] + piece + message[stop:]
    return message


messages = st.one_of(st.binary(max_size=200), scrambled, damaged())


def split_at(message: bytes, places: list[int]) -> list[bytes]:
    """The message in chunks, cut at the places (taken modulo its size)."""
    cuts = [0, *sorted(place % (len(message) + 1) for place in places), len(message)]
    return [message[start:stop] for start, stop in pairwise(cuts)]
