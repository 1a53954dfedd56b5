"""`mime`: a message of 50 kB with text, HTML and a picture, from its bytes to all that the store keeps of it.

Beside it the worst `feed` of hostile messages: parts without content, lines that are nearly delimiter lines, multiparts
in each other. A feed is one turn of the event loop (INV-12).
"""

import base64
import time
from collections.abc import Callable
from functools import partial

from measure.figures import Figure
from pochta.mime.facts import FactsBuilder, facts
from pochta.mime.parse import parse

GOAL_MS = 0.25
GOAL_FEED_MS = 10.0
CHUNK_BYTES = 256 * 1024  # what both event loops read at once
RUNS = 400

_MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
HOSTILE = {
    "empty parts": _MIXED + b"--b\n\n" * 200_000,
    "parts": _MIXED + b"--b\na: b\n\n" * 100_000,
    "messages": _MIXED + b"--b\nContent-Type: message/rfc822\n\n\n" * 30_000,
    "multiparts": _MIXED + b"--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\n" * 20_000,
    "near misses": _MIXED + b"--b\n" + _MIXED.replace(b"=b", b"=c") + b"--c\n\n" + b"--x\n" * 250_000,
}


def sample() -> bytes:
    """A multipart/mixed of 50 kB as mailers write it: an alternative of text and HTML, and a picture."""
    relays = b"".join(
        b"Received: from mx%d.example.com (mx%d.example.com [192.0.2.%d])\r\n\tby mail.example.org with ESMTPS id %d;"
        b"\r\n\tMon, 23 Nov 2026 11:25:4%d +0100\r\n" % (n, n, n, n, n)
        for n in range(5)
    )
    picture = base64.encodebytes(bytes(range(256)) * 108).replace(b"\n", b"\r\n")
    return (
        b"Return-Path: <alice@example.com>\r\n%bDKIM-Signature: v=1; a=rsa-sha256; b=%b\r\n"
        b"From: =?utf-8?q?Alic=C3=A9?= <alice@example.com>\r\n"
        b"To: Bob <bob@example.org>, Carol <carol@example.net>\r\nCc: dave@example.com\r\n"
        b"Subject: Re: [list] Report for =?utf-8?b?0J/RgNC40LLQtdGC?=\r\nDate: Mon, 23 Nov 2026 11:25:43 +0100\r\n"
        b"Message-ID: <1@example.com>\r\nReferences: <a@b> <c@d> <e@f>\r\nIn-Reply-To: <e@f>\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="=_outer_1"\r\n\r\nThis is MIME.\r\n--=_outer_1\r\n'
        b'Content-Type: multipart/alternative; boundary="=_inner_2"\r\n\r\n--=_inner_2\r\n'
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%b\r\n"
        b"--=_inner_2\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b'%b\r\n--=_inner_2--\r\n\r\n--=_outer_1\r\nContent-Type: image/png; name="picture.png"\r\n'
        b"Content-Transfer-Encoding: base64\r\n"
        b'Content-Disposition: attachment; filename="picture.png"\r\n\r\n%b\r\n--=_outer_1--\r\n'
    ) % (
        relays,
        b"x" * 300,
        b"Dear Bob, this is a line of the text, caf=C3=A9 included.\r\n" * 60,
        b"<p>Dear Bob, <b>this</b> is a line of the text, caf=C3=A9 included.</p>\r\n" * 100,
        picture,
    )


def mime(*, repeats: int) -> list[Figure]:
    """The best of many runs counts: the work is the same each time, and others share the cores."""
    message = sample()
    detail: dict[str, object] = {
        "bytes": len(message),
        "parse_ms": round(_best_ms(partial(parse, message), repeats), 3),
        "in_chunks_of_16k_ms": round(_best_ms(partial(_feed, message), repeats), 3),
    }
    described = Figure("mime", _best_ms(partial(facts, message), repeats), "ms", GOAL_MS, True, detail)
    worst = {name: min(_worst_feed_ms(data) for _ in range(repeats)) for name, data in HOSTILE.items()}
    feeds: dict[str, object] = {name.replace(" ", "_"): round(value, 1) for name, value in worst.items()}
    return [described, Figure("mime, worst feed", max(worst.values()), "ms", GOAL_FEED_MS, True, feeds)]


def _best_ms(run: Callable[[], object], repeats: int) -> float:
    best = 1e9
    for _ in range(RUNS * repeats):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def _feed(message: bytes, size: int = 16 * 1024) -> None:
    builder = FactsBuilder()
    for at in range(0, len(message), size):
        builder.feed(message[at : at + size])
    builder.finish()


def _worst_feed_ms(message: bytes) -> float:
    builder = FactsBuilder()
    worst = 0.0
    for at in range(0, len(message), CHUNK_BYTES):
        chunk = message[at : at + CHUNK_BYTES]
        began = time.perf_counter()
        builder.feed(chunk)
        worst = max(worst, time.perf_counter() - began)
    builder.finish()
    return worst * 1e3
