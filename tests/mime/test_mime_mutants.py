"""MIME: envelope fields that differ, edges of dates and limits, encodings cut anywhere. Found by `.ci/mutation`."""

from datetime import UTC, datetime
from itertools import combinations_with_replacement

import pytest

from pochta.mime.address import parse_addresses
from pochta.mime.decode import (
    decode_charset,
    decode_quoted_printable,
    decode_uuencode,
    decode_words,
    param_text,
    transfer_pieces,
)
from pochta.mime.describe import envelope
from pochta.mime.facts import facts
from pochta.mime.header import (
    MAX_FIELDS,
    MAX_MESSAGE_ID,
    MAX_REFERENCES,
    message_id,
    parse_date,
    parse_params,
    references,
    split_fields,
)
from pochta.mime.parse import parse
from pochta.mime.submitted import MAX_FROM_BYTES, MAX_HEADER_BYTES, SubmittedHeader

rfc = pytest.mark.rfc


@rfc(3501, "7.4.2")
def test_every_address_field_of_an_envelope_has_its_place() -> None:
    names = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc")
    header = "".join(f"{name}: {name.lower()}@x.y\r\n" for name in names)
    places = " ".join(f'((NIL NIL "{name.lower()}" "x.y"))' for name in names)
    assert envelope(parse(header.encode() + b"\r\n")) == f"(NIL NIL {places} NIL NIL)".encode()


@rfc(3501, "7.4.2")
def test_addresses_are_quoted_where_one_needs_it() -> None:
    message = b'From: "a\\"b" <a@x.y>, <@r,@s:c@x.y>, plain@x.y\r\nTo: d\xc3\xa9 <d@x.y>\r\n\r\n'
    from_ = b'(("a\\"b" NIL "a" "x.y")(NIL "@r,@s" "c" "x.y")(NIL NIL "plain" "x.y"))'
    to = b'(({3}\r\nd\xc3\xa9 NIL "d" "x.y"))'
    assert envelope(parse(message)) == b"(NIL NIL %b %b %b %b NIL NIL NIL NIL)" % (from_, from_, from_, to)


@rfc(5322, "4.3")
@pytest.mark.parametrize(
    ("raw", "want"),
    [
        pytest.param(b"1 Jan 49 00:00:00 +0000", datetime(2049, 1, 1, tzinfo=UTC), id="49 is 2049"),
        pytest.param(b"1 Jan 50 00:00:00 +0000", datetime(1950, 1, 1, tzinfo=UTC), id="50 is 1950"),
        pytest.param(b"1 Jan 101 00:00:00 +0000", datetime(2001, 1, 1, tzinfo=UTC), id="three digits"),
        pytest.param(b"1 Jan 2020 23:59:59 +0000", datetime(2020, 1, 1, 23, 59, 59, tzinfo=UTC), id="last second"),
        pytest.param(b"1 Jan 2020 23:59:60 +0000", datetime(2020, 1, 1, 23, 59, 59, tzinfo=UTC), id="leap second"),
        pytest.param(b"1 Jan 2020 10:20 +0000", datetime(2020, 1, 1, 10, 20, tzinfo=UTC), id="no seconds"),
        pytest.param(b"1 Jan 2020 23:59:61 +0000", datetime(2020, 1, 1, tzinfo=UTC), id="61 seconds"),
        pytest.param(b"1 Jan 2020 23:60:00 +0000", datetime(2020, 1, 1, tzinfo=UTC), id="60 minutes"),
        pytest.param(b"1 Jan 2020 24:00:00 +0000", datetime(2020, 1, 1, tzinfo=UTC), id="24 hours"),
        pytest.param(b"1 Jan 2020 00:00:00 -2359", datetime(2020, 1, 1, 23, 59, tzinfo=UTC), id="farthest zone"),
        pytest.param(b"1 Jan 2020 00:00:00 -2400", datetime(2020, 1, 1, tzinfo=UTC), id="no such zone"),
        pytest.param(b"1 Jan 2020 00:00:00 -0060", datetime(2020, 1, 1, tzinfo=UTC), id="60 minutes of a zone"),
        pytest.param(b"1 (c) Jan (d) 2020 01:00:00 (e) EST", datetime(2020, 1, 1, 6, tzinfo=UTC), id="comments"),
    ],
)
def test_edges_of_dates(raw: bytes, want: datetime) -> None:
    sent = parse_date(raw)
    assert sent is not None
    assert sent.at == want.timestamp()


def test_a_message_id_without_brackets() -> None:
    longest = b"x" * (MAX_MESSAGE_ID - 2)
    assert message_id(longest + b"yz rest of it") == b"<%b>" % longest
    assert message_id(b"<a@b") == b"<a@b>"
    assert message_id(b"a@b c@d") == b"<a@b>"
    assert message_id(b"<>") is None
    assert message_id(b" ") is None


def test_references_keep_as_many_as_may_be() -> None:
    ids = [b"<%d@x>" % number for number in range(MAX_REFERENCES)]
    assert references(b"".join(ids), b"") == tuple(ids)
    assert references(b"".join(ids), b"<new@x>") == (ids[0], *ids[2:], b"<new@x>")
    assert references(b"", b"<new@x>") == (b"<new@x>",)


def test_facts_of_a_message_that_came_a_long_way() -> None:
    message = (
        b"Received: a\r\nRECEIVED: b\r\nReceivel: c\r\nreceived: d\r\nReferences: <1@x>\r\nIn-Reply-To: <2@x>\r\n"
        b"Subject: Re: [list] Fwd: News\r\nFrom: \xd0\x90nna <ANNA@x.y>\r\nTo: Boris@x.y\r\nCc: Clara@x.y\r\n\r\n"
    )
    found = facts(message)
    assert found.received_count == 3
    assert found.references == (b"<1@x>", b"<2@x>")
    assert found.base_subject == "News"
    assert (found.from_key, found.to_key, found.cc_key) == ("anna", "boris", "clara")


def test_facts_of_a_message_that_says_nothing() -> None:
    found = facts(b"X: y\r\n\r\n")
    assert (found.received_count, found.references, found.base_subject) == (0, (), "")
    assert (found.from_key, found.message_id, found.sent_at) == ("", None, None)


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        pytest.param(b"a;b=1;=2;c=3", ((b"b", b"1"), (b"c", b"3")), id="one without a name"),
        pytest.param(b"a;n*1=x;b=1", ((b"b", b"1"),), id="a piece without the first"),
        pytest.param(b"a;n*0*=''%41;n*1=\"b c\"", ((b"n*", b"''%41b%20c"),), id="written in capitals"),
        pytest.param(b"a;n*0=%*;n*1*=%2f", ((b"n*", b"''%25%2A%2f"),), id="pieces of both kinds"),
        pytest.param(b"a (c;d) ; b = 1 (x(y))", ((b"b", b"1"),), id="comments"),
    ],
)
def test_parameters(raw: bytes, want: tuple[tuple[bytes, bytes], ...]) -> None:
    assert parse_params(raw)[1] == want


@rfc(5322, "4.4")
@pytest.mark.parametrize(
    ("raw", "want"),
    [
        pytest.param(b"A\tB <a@x>, C\r\n D <b@x>", [(b"A B", b"a", b"x"), (b"C D", b"b", b"x")], id="white space"),
        pytest.param(b"N <@r:a@x>, b@x", [(b"N", b"a", b"x"), (None, b"b", b"x")], id="route, then more"),
        pytest.param(b"N <a@x, b@x", [(b"N", b"a", b"x")], id="angle never closed"),
        pytest.param(b"a . b @ x . y", [(None, b"a.b", b"x.y")], id="dots apart"),
    ],
)
def test_addresses(raw: bytes, want: list[tuple[bytes | None, bytes, bytes]]) -> None:
    found = [(address.name, address.mailbox, address.host) for address in parse_addresses(raw)]
    assert found[: len(want)] == want


@rfc(2045, "6.7")
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"one=20two=\r\nthree \t\r\nfour= \t\r\nfive=3D=\r\n", id="lines"),
        pytest.param(b"a = = b =\r = =\t =41 == ==41 =", id="one long line"),
        pytest.param(b"x \r=\t \r\n= \n=41\r\n", id="white space around ="),
    ],
)
def test_quoted_printable_cut_anywhere(raw: bytes) -> None:
    whole = decode_quoted_printable(raw)
    for first, second in combinations_with_replacement(range(len(raw) + 1), 2):
        pieces = [raw[:first], raw[first:second], raw[second:]]
        assert b"".join(transfer_pieces(pieces, b"quoted-printable")) == whole, pieces


@rfc(2045, "6.8")
def test_base64_cut_anywhere() -> None:
    raw = b"SGVs\r\nbG8g d29y-bGQ=AAAA"
    for first, second in combinations_with_replacement(range(len(raw) + 1), 2):
        pieces = [raw[:first], raw[first:second], raw[second:]]
        assert b"".join(transfer_pieces(pieces, b"base64")) == b"Hello world", pieces


def test_uuencoded_text_begins_and_ends() -> None:
    assert decode_uuencode(b"-0#86)C\r\nbegin 644 a\r\n#86)C\r\n\r\n#9&5F\r\n`\r\n#86)C\r\nend\r\n") == b"abcdef"
    assert decode_uuencode(b"#86)C\nend\n#86)C\n") == b"abc"


@rfc(2047, "6.2")
def test_encoded_words_and_what_is_between_them() -> None:
    assert decode_words(b"=?utf-8?q?a?= =?UTF-8?q?b?=") == "ab"
    assert decode_words(b"=?utf-8?q?a?= x =?utf-8?q?b?= y") == "a x b y"
    assert decode_words(b"=?utf-8?b?!?= =?utf-8?q?b?=") == "=?utf-8?b?!?= b"
    # a character cut in two: the pieces meet only under one charset
    assert decode_words(b"=?utf-8?q?=D0?= =?utf-8?q?=B0?=") == "а"
    assert decode_words(b"=?koi8-r?q?=C1?= =?utf-8?q?=D0=B0?=") == "аа"


@pytest.mark.parametrize("label", ["iso-8859-5", "iso8859-5", "x-iso-8859-5", " ISO_8859-5 "])
def test_numbered_charsets(label: str) -> None:
    assert decode_charset("да".encode("iso-8859-5"), label) == "да"


def test_a_parameter_without_a_charset() -> None:
    assert param_text(((b"name*", b"caf%C3%A9"),), b"name") == "café"
    assert param_text(((b"name*", b"iso-8859-1'fr'caf%E9"),), b"name") == "café"


def submitted(header: bytes, *, cut: int = 1 << 20, author: str = "") -> tuple[SubmittedHeader, bytes]:
    """The header when all has passed, fed in pieces of `cut` octets, and what came out of it."""
    one = SubmittedHeader(date="D", message_id="<m@x>", author=author)
    out = b"".join([one.feed(header[at : at + cut]) for at in range(0, len(header), cut)])
    return one, out + one.finish()


@rfc(5322, "3.6.2")
@pytest.mark.parametrize(
    ("value", "authors", "is_ambiguous"),
    [
        pytest.param(b"a@b", (b"a@b",), False, id="one"),
        pytest.param(b"a@b, N <c@d>", (b"a@b", b"c@d"), False, id="two"),
        pytest.param(b'"x@y" <a@b>', (b"a@b",), False, id="quoted"),
        pytest.param(b"a@b (c@d)", (b"a@b",), False, id="comment"),
        pytest.param(b"a@b <A@B>", (b"A@B",), False, id="twice the same"),
        pytest.param(b"x@y <a@b>", (b"a@b",), True, id="another before it"),
        pytest.param(b"<a@b> x@y", (b"a@b",), True, id="another behind it"),
        pytest.param(b'"x <a@b>', None, True, id="quote left open"),
        pytest.param(b"N ) <a@b>", (b"a@b",), True, id="closed without opening"),
        pytest.param(b"N \\ <a@b>", (b"a@b",), True, id="backslash"),
        pytest.param(b"N:;", (), False, id="no address"),
    ],
)
def test_who_the_authors_are(value: bytes, authors: tuple[bytes, ...] | None, is_ambiguous: bool) -> None:
    header, _ = submitted(b"From: " + value + b"\r\n\r\n")
    assert header.is_ambiguous is is_ambiguous
    assert header.from_fields == 1
    if authors is not None:
        assert header.authors == authors


def test_one_ambiguous_from_of_two_is_enough() -> None:
    for header in (b"From: a@b\r\nFrom: x@y <a@b>\r\n\r\n", b"From: x@y <a@b>\r\nFrom: a@b\r\n\r\n"):
        assert submitted(header)[0].is_ambiguous
        assert submitted(header)[0].from_fields == 2


def test_an_author_is_added_where_there_is_none() -> None:
    header, out = submitted(b"Subject: x\r\n\r\nbody", author="a@b")
    assert out == b"Date: D\r\nMessage-ID: <m@x>\r\nFrom: <a@b>\r\nSubject: x\r\n\r\nbody"
    assert (header.authors, header.from_fields, header.is_ambiguous) == ((b"a@b",), 1, False)
    header, out = submitted(b"FROM: c@d\r\n\r\n", author="a@b")
    assert out == b"Date: D\r\nMessage-ID: <m@x>\r\nFROM: c@d\r\n\r\n"
    assert header.authors == (b"c@d",)


def test_a_header_as_long_as_may_be() -> None:
    lines = b"X: y\r\n" * (MAX_FIELDS - 1) + b"\r\n"
    fits = b"X: " + b"y" * (MAX_HEADER_BYTES - 5) + b"\r\n\r\n"
    for header in (lines, fits):
        one, out = submitted(header)
        assert not one.is_too_large
        assert out.endswith(header)
    for header in (b"X: y\r\n" * 2 + lines, b"Y" + fits, b"x" * (MAX_HEADER_BYTES + 1)):
        one, out = submitted(header)
        assert one.is_too_large
        assert out == b""


def test_authors_as_long_as_may_be() -> None:
    def padded(size: int) -> bytes:
        header = b"From: a@b%b\r\n" % (b" " * size)
        return header + b"\r\n"

    base = len(split_fields(padded(0)[:-2])[0][2])
    longest, _ = submitted(padded(MAX_FROM_BYTES - base))
    assert (longest.authors, longest.is_ambiguous) == ((b"a@b",), False)
    longer, _ = submitted(padded(MAX_FROM_BYTES - base + 1))
    assert (longer.authors, longer.is_ambiguous) == ((), True)


@pytest.mark.parametrize("header", [b"From: a@b\r\nBcc: c@d\r\n\r\nbody\r\n\r\nmore", b"\r\nbody", b"From: a@b"])
def test_a_submitted_header_cut_anywhere(header: bytes) -> None:
    _, whole = submitted(header)
    for cut in range(1, 20):
        assert submitted(header, cut=cut)[1] == whole
