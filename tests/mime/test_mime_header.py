"""Header fields: splitting, parameters, dates, message-ids."""

import email.utils
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.mime import header
from pochta.mime.header import (
    message_id,
    message_ids,
    parse_date,
    parse_params,
    references,
    split_fields,
    unfold,
)


@pytest.mark.rfc(5322, "2.2")
def test_split_fields_keeps_every_octet() -> None:
    text = b"A: 1\r\n folded\r\n\tmore\r\nno colon here\r\nB :2\nC:\r\n\r\nD: body"
    fields = split_fields(text.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert fields == [
        (b"A: 1\r\n folded\r\n\tmore\r\n", b"A", b" 1\r\n folded\r\n\tmore\r\n"),
        (b"B :2\n", b"B", b"2\n"),
        (b"C:\r\n", b"C", b"\r\n"),
    ]


def test_split_fields_is_bounded() -> None:
    assert len(split_fields(b"a:\n" * (header.MAX_FIELDS + 5))) == header.MAX_FIELDS


def test_unfold() -> None:
    assert unfold(b" one\r\n two\n\tthree\r\n") == b"one two\tthree"


PARAMS = [
    pytest.param(b"text/plain", b"text/plain", (), id="none"),
    pytest.param(b'a/b; charset=utf-8;\r\n name="a;b"', b"a/b", ((b"charset", b"utf-8"), (b"name", b"a;b")), id="two"),
    pytest.param(b"a/b; c=us-ascii (Plain text)", b"a/b", ((b"c", b"us-ascii"),), id="comment"),
    pytest.param(b'a/b; n="x\\"y\\\\"', b"a/b", ((b"n", b'x"y\\'),), id="quoted-pairs"),
    pytest.param(b"a/b; name=my file.txt; x=y", b"a/b", ((b"name", b"my file.txt"), (b"x", b"y")), id="unquoted-space"),
    pytest.param(b'a/b; name="never closed', b"a/b", ((b"name", b"never closed"),), id="unclosed-quote"),
    pytest.param(b"a/b;;; x=1; =2; y", b"a/b", ((b"x", b"1"),), id="empty-pieces"),
    pytest.param(b"a/b; x=1; x=2", b"a/b", ((b"x", b"1"),), id="first-wins"),
    pytest.param(b"a/b; t*1=B; t*0=A; t*3=C", b"a/b", ((b"t", b"AB"),), id="continuation-with-gap"),
    pytest.param(b"a/b; t*1=B; t*2=C", b"a/b", (), id="continuation-without-beginning"),
    pytest.param(b"a/b; t*0=a; t*1*=%41", b"a/b", ((b"t*", b"''a%41"),), id="charset-forgotten"),
    pytest.param(b"a/b; t*0*=utf-8''%C3; t*1=x y; t*2*=%A9", b"a/b", ((b"t*", b"utf-8''%C3x%20y%A9"),), id="mixed"),
]  # fmt: skip


@pytest.mark.rfc(2231, "3")
@pytest.mark.parametrize(("raw", "head", "params"), PARAMS)
def test_parse_params(raw: bytes, head: bytes, params: header.Params) -> None:
    assert parse_params(raw) == (head, params)


DATES = [
    pytest.param(b"Mon, 23 Nov 2026 11:25:43 +0100", (1795429543, 60, 20780), id="usual"),
    pytest.param(b"1 Jan 1970 00:00:00 GMT", (0, 0, 0), id="epoch-gmt"),
    pytest.param(b"31 Dec 2000 16:01:33 -0800", (978307293, -480, 11322), id="rfc-5256-example"),
    pytest.param(b"21 Nov 97 09:55:06 EST", (880124106, -300, 10186), id="two-digits-and-name"),
    pytest.param(b"Fri, 21 Nov 1997 09(c):   55  :  06 -0600", (880070400, 0, 10186), id="unreadable-time"),
    pytest.param(b"1 Jan 1970 99:00:00 +0000", (0, 0, 0), id="invalid-time-is-midnight"),
    pytest.param(b"1 Jan 1970 01:00:00 +9999", (3600, 0, 0), id="invalid-zone-is-utc"),
    pytest.param(b"Thu Jan  1 00:00:05 1970", (5, 0, 0), id="asctime"),
    pytest.param(b"1 Jan 1970 00:00:60 +0000 (UTC)", (59, 0, 0), id="leap-second"),
    pytest.param(b"1 Jan 100 00:00:00 +0000", (946684800, 0, 10957), id="three-digits"),
    pytest.param(b"30 Feb 2020 00:00:00 +0000", None, id="no-such-day"),
    pytest.param(b"1 Foo 2020", None, id="no-such-month"),
    pytest.param(b"", None, id="empty"),
    pytest.param(b"yesterday", None, id="words"),
]  # fmt: skip


@pytest.mark.rfc(5322, "4.3")
@pytest.mark.parametrize(("raw", "want"), DATES)
def test_parse_date(raw: bytes, want: tuple[int, int, int] | None) -> None:
    assert parse_date(raw) == want


_zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


# Years below 1000: the standard library reads 0050 as 1950; RFC 5322 §3.3 allows no year before 1900.
@given(st.datetimes(min_value=datetime(1000, 1, 2), max_value=datetime(9999, 12, 30), timezones=_zones))
@settings(max_examples=150, deadline=None)
def test_dates_of_the_standard_library(moment: datetime) -> None:
    text = email.utils.format_datetime(moment)
    oracle = email.utils.parsedate_to_datetime(text)
    got = parse_date(text.encode())
    assert got is not None
    assert got.at == oracle.timestamp()
    assert got.day == oracle.date().toordinal() - 719163


@given(st.binary(max_size=120))
@settings(deadline=None)
def test_parsing_never_raises(raw: bytes) -> None:
    parse_date(raw)
    parse_params(raw)
    parse_params(b"a; x*0*=" + raw)
    message_id(raw)
    references(raw, raw)


@pytest.mark.rfc(5322, "3.6.4")
def test_message_ids() -> None:
    assert message_ids(b" <a@b>\r\n\t<c@d><e f@g> junk <> < >") == [b"<a@b>", b"<c@d>", b"<ef@g>"]
    assert message_id(b" <a@b> x") == b"<a@b>"
    assert message_id(b" bare@id\r\n") == b"<bare@id>"
    assert message_id(b" \r\n") is None
    assert references(b"<a@b> <c@d>", b"<c@d> <e@f>") == (b"<a@b>", b"<c@d>", b"<e@f>")


def test_references_keep_the_first_and_the_last() -> None:
    ids = [b"<%d@x>" % i for i in range(300)]
    got = references(b" ".join(ids), b"")
    assert got == (ids[0], *ids[-99:])
