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
        b"a: b", b"Content-Type: text/plain", b"Content-Type: multipart/mixed; boundary=b1",
        b"Content-Type: message/rfc822", b'Content-Type: multipart/digest; boundary="b2"',
        b"Content-Type: multipart/mixed", b" folded", b"\r", b"-", b"Content-Transfer-Encoding: base64",
        b"Subject: =?utf-8?b?0J/RgNC4?=", b"To: a:b@c,<x>;", b"Date: 1 Jan 2020",
        b"Content-Disposition: attachment; filename*0=a; filename*1=b", b"References: <a@b> <c@d>",
        b"Content-Disposition: attachment; filename*0*=''%41; filename*1=\"b\\c\"", b"Content-Type: text",
        b"Content-Disposition: attachment; filename*1=a; =; filename*=it's", b"Message-ID: bare", b"Message-ID: <>",
        b"Content-Transfer-Encoding: quoted-printable", b"Content-Transfer-Encoding: x-uuencode", b"Cc: a@b",
        b"cc: c@d", b"Content-Type: text/html; charset=utf-7", b"Content-Type: text/html; charset=x-cp1251 (c)",
        b"Content-Type: text/plain; charset=utf-16", b"begin 644 a", b"#86)C", b"`", b"=", b"a= ", b"a=\r=",
        b"&#9;<b>x</b>", b"Subject: Re: [x] =?koi8-r?q?=C1?= =?koi8-r?q?=C1?= (fwd)", b"Subject: [fwd: x]",
        b"Subject: =?x?b?!?=", b"To: <@r:a@b>, G: (c (d)) x . y @ z;", b'To: "a\\"b" <a@b> c, me@x@y',
        b"To: a@b (n\\))", b"To: N\t<a>, <b", b"From: \xd0\xb0 <\xd0\xb1@c>", b"Date: Thu Jan  1 00:00:05 1970",
        b"Date: 1 Jan 70 25:00 (c) EST", b"Date: 30 Feb 120 00:00 -9999", b"Content-Language: de, en",
        b"Content-Language: de", b"Content-MD5: x", b'Content-Type: multipart/mixed; boundary="b1"',
        b"Content-Type: message/global", b"X-Label: a", b"X-Label: b",
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


_CHARSETS = st.sampled_from(["utf-8", "koi8-r", "windows-1251", "iso-2022-jp", "gb18030", "iso-8859-5"])
_WORDS = st.text("Привет, мир", min_size=1, max_size=12).filter(lambda text: text == text.strip())
_NAMES = st.one_of(st.text("abc-._ ", min_size=1, max_size=30), st.text("aПриветé'%; .", min_size=1, max_size=30))


def encoded_words(text: str, charset: str, kind: str, width: int) -> bytes:
    """RFC 2047: the text in words of `width` characters, folded."""
    words = []
    for at in range(0, len(text), width):
        data = text[at : at + width].encode(charset)
        inside = base64.b64encode(data) if kind == "b" else b"".join(b"=%02X" % octet for octet in data)
        words.append(b"=?%b?%b?%b?=" % (charset.encode(), kind.encode(), inside))
    return b"\r\n ".join(words)


def extended_param(name: str, text: str, charset: str, width: int, *, cuts_characters: bool = True) -> bytes:
    """RFC 2231: `; name*=…`, or in numbered pieces of `width` octets, or characters, when `width` is not 0."""
    octets = [b"%%%02X" % octet for octet in text.encode(charset)]
    if not cuts_characters:
        octets = [b"".join(b"%%%02X" % octet for octet in character.encode(charset)) for character in text]
    if not width:
        return b"; %b*=%b''%b" % (name.encode(), charset.encode(), b"".join(octets))
    pieces = [b"".join(octets[at : at + width]) for at in range(0, len(octets), width)]
    pieces[0] = charset.encode() + b"''" + pieces[0]
    return b"".join(b";\r\n %b*%d*=%b" % (name.encode(), number, piece) for number, piece in enumerate(pieces))


@st.composite
def lawful(draw: st.DrawFn) -> bytes:
    """A well-formed message with encoded words, addresses and names of files, none of which can be read in two ways."""
    charset = draw(_CHARSETS)
    subject = encoded_words(draw(_WORDS), charset, draw(st.sampled_from("bq")), draw(st.integers(1, 12)))
    people = draw(
        st.lists(st.tuples(st.sampled_from([b"", b"Bob", b'"Doe, J."', subject]), st.integers(0, 99)), max_size=4)
    )
    to = b",\r\n ".join(
        b"%b <u%d@example.com>" % person if person[0] else b"u%d@example.com" % person[1] for person in people
    )
    header = b"Subject: %b\r\n%b" % (subject, b"To: %b\r\n" % to if to else b"")
    # fast-mail-parser decodes the pieces of a name one by one: no character is cut
    name = draw(_NAMES).strip() or "x"
    param = extended_param("filename", name, "utf-8", draw(st.sampled_from([0, 1, 5])), cuts_characters=False)
    attached = b"Content-Type: application/x\r\nContent-Disposition: attachment%b\r\n\r\nbody" % param
    inner = draw(well_formed())
    return b"%bContent-Type: multipart/mixed; boundary=top\r\n\r\n--top\r\n%b\r\n--top\r\n%b\r\n--top--\r\n" % (
        header,
        inner,
        attached,
    )


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


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """One of the messages with a few lines doubled, dropped, swapped or changed in an octet."""
    lines = draw(messages).splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 5))):
        if not lines:
            break
        at = draw(st.integers(0, len(lines) - 1))
        other = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["double", "drop", "swap", "octet", "line", "cut"]))
        if kind == "double":
            lines.insert(other, lines[at])
        elif kind == "drop":
            del lines[at]
        elif kind == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "line":
            lines.insert(at, draw(_LINES) + b"\r\n")
        elif kind == "cut":
            lines[at] = lines[at].rstrip()
        else:
            place = draw(st.integers(0, len(lines[at])))
            octet = draw(st.sampled_from([b"\x00", b"\r", b"\n", b"\xff", b'"', b"=", b"(", b";", b""]))
            lines[at] = lines[at][:place] + octet + lines[at][place + 1 :]
    return b"".join(lines)


messages = st.one_of(st.binary(max_size=200), scrambled, damaged())


def split_at(message: bytes, places: list[int]) -> list[bytes]:
    """The message in chunks, cut at the places (taken modulo its size)."""
    cuts = [0, *sorted(place % (len(message) + 1) for place in places), len(message)]
    return [message[start:stop] for start, stop in pairwise(cuts)]
