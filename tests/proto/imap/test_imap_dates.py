"""IMAP's dates against datetime."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.errors import RemoteProtocolError
from pochta.proto.imap.dates import (
    DATE,
    DATE_TIME,
    InternalDate,
    encode_internal_date,
    parse_date,
    parse_date_time,
)


def parsed(text: bytes) -> InternalDate:
    match = DATE_TIME.fullmatch(text)
    assert match is not None
    return parse_date_time(match)


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b'"17-Jul-1996 02:44:25 -0700"', datetime(1996, 7, 17, 9, 44, 25, tzinfo=UTC)),
        (b'" 1-Jan-1970 00:00:00 +0000"', datetime(1970, 1, 1, tzinfo=UTC)),
        (b'" 7-Feb-1994 22:43:04 -0800"', datetime(1994, 2, 8, 6, 43, 4, tzinfo=UTC)),
        (b'"29-Feb-2024 23:59:59 +0545"', datetime(2024, 2, 29, 18, 14, 59, tzinfo=UTC)),
    ],
)
def test_date_time_both_ways(text: bytes, want: datetime) -> None:
    epoch_s, zone_minutes = parsed(text)
    assert epoch_s == want.timestamp()
    assert encode_internal_date(epoch_s, zone_minutes) == text


@pytest.mark.parametrize(
    "text",
    [
        b'"31-Feb-1996 02:44:25 -0700"',
        b'"17-Foo-1996 02:44:25 -0700"',
        b'"17-Jul-1996 24:00:00 -0700"',
        b'"17-Jul-1996 02:60:25 -0700"',
        b'"17-Jul-1996 02:44:61 -0700"',
        b'"17-Jul-1996 02:44:25 -0760"',
        b'"00-Jul-1996 02:44:25 -0700"',
        b'"17-Jul-0000 02:44:25 -0700"',
    ],
)
def test_no_such_moment(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parsed(text)


@pytest.mark.parametrize("text", [b"1-Feb-1994", b'"1-Feb-1994"', b"01-FEB-1994", b"01-feb-1994"])
def test_date(text: bytes) -> None:
    match = DATE.fullmatch(text)
    assert match is not None
    assert parse_date(match) == (date(1994, 2, 1) - date(1970, 1, 1)).days


@settings(max_examples=150, deadline=None)
@given(st.integers(-62_000_000_000, 253_000_000_000), st.integers(-5999, 5999))
def test_round_trip(epoch_s: int, zone_minutes: int) -> None:
    text = encode_internal_date(epoch_s, zone_minutes)
    assert parsed(text) == (epoch_s, zone_minutes)
    if abs(zone_minutes) < 1440:
        zone = timezone(timedelta(minutes=zone_minutes))
        want = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch_s)
        assert text[13:21].decode() == want.astimezone(zone).strftime("%H:%M:%S")


@pytest.mark.parametrize("epoch_s", [-(10**15), 10**15])
def test_moments_out_of_range_still_encode(epoch_s: int) -> None:
    assert DATE_TIME.fullmatch(encode_internal_date(epoch_s, 0))
