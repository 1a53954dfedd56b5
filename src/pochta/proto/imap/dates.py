"""IMAP's dates: `date-time` (INTERNALDATE, APPEND) and `date` (SEARCH) to numbers and back.

A moment is UTC epoch seconds plus the zone it was written in; a calendar day is its distance from 1970-01-01. Both are
plain integers, so that rows and search keys compare without objects.

Source: RFC 3501 §9 (date-time, date), §2.3.3.
"""

import re
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple

from pochta.errors import RemoteProtocolError

DAY_S: Final = 86_400
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_FIRST_DAY: Final = date.min.toordinal() - _EPOCH_ORDINAL
_LAST_DAY: Final = date.max.toordinal() - _EPOCH_ORDINAL
MAX_ZONE_MINUTES: Final = 99 * 60 + 59
"""zone is 4DIGIT (hhmm): what can be written, not what exists."""

_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_MONTH_NUMBER: Final = {name.lower(): number for number, name in enumerate(_MONTHS, 1)}

DATE_TIME: Final = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
DATE: Final = re.compile(rb'("?)([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})\1')


class InternalDate(NamedTuple):
    """A moment (UTC epoch seconds) and the zone it is shown in (minutes east of Greenwich)."""

    epoch_s: int
    zone_minutes: int


def parse_date_time(match: re.Match[bytes]) -> InternalDate:
    """The moment a match of DATE_TIME names.

    Raises: RemoteProtocolError for a day, hour or zone that does not exist.
    """
    day, month, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
    epoch_day = _epoch_day(day, month, year)
    # A leap second (:60) is lawful in RFC 5322 dates, which clients copy from; it becomes the next second.
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(zone_minute) > 59:
        raise RemoteProtocolError("invalid time in date-time")
    zone_minutes = int(zone_hour) * 60 + int(zone_minute)
    if sign == b"-":
        zone_minutes = -zone_minutes
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second)
    return InternalDate(epoch_day * DAY_S + seconds - zone_minutes * 60, zone_minutes)


def parse_date(match: re.Match[bytes]) -> int:
    """The day a match of DATE names, in days since 1970-01-01.

    Raises: RemoteProtocolError for a day that does not exist.
    """
    return _epoch_day(match[2], match[3], match[4])


def _epoch_day(day: bytes, month: bytes, year: bytes) -> int:
    number = _MONTH_NUMBER.get(month.lower())
    if number is None:
        raise RemoteProtocolError("invalid month in date")
    try:
        return date(int(year), number, int(day)).toordinal() - _EPOCH_ORDINAL
    except ValueError as error:
        raise RemoteProtocolError("no such day") from error


def encode_internal_date(epoch_s: int, zone_minutes: int) -> bytes:
    """The quoted date-time, `"17-Jul-1996 02:44:25 -0700"`; moments outside the years 1..9999 are moved to their edge.

    Cost: about 0.5 µs for a day seen lately, which a mailbox's neighbours are.
    """
    day, second = divmod(epoch_s + zone_minutes * 60, DAY_S)
    minute, second = divmod(second, 60)
    return b"%b%02d:%02d:%02d %b" % (_encode_day(day), minute // 60, minute % 60, second, _encode_zone(zone_minutes))


@lru_cache(maxsize=4096)
def _encode_day(epoch_day: int) -> bytes:
    """`"17-Jul-1996 ` with its opening quote; eleven years of days are kept (about 0.5 MiB)."""
    day = date.fromordinal(min(max(epoch_day, _FIRST_DAY), _LAST_DAY) + _EPOCH_ORDINAL)
    # RFC 3501 §9: date-day-fixed pads with a space
    return b'"%2d-%b-%04d ' % (day.day, _MONTHS[day.month - 1], day.year)


@lru_cache(maxsize=256)
def _encode_zone(zone_minutes: int) -> bytes:
    hours, minutes = divmod(min(abs(zone_minutes), MAX_ZONE_MINUTES), 60)
    return b'%b%02d%02d"' % (b"-" if zone_minutes < 0 else b"+", hours, minutes)
