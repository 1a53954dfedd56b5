"""Sizes as people write them: `500M`, `2G`, `none`."""

import re
from typing import Final

from pochta.errors import Refusal, RefusalCode

NO_QUOTA: Final = 0
MAX_QUOTA_BYTES: Final = 1 << 60  # an exbibyte; sums over any number of accounts one can have stay below 2^63

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_QUOTA: Final = re.compile(r"([0-9]{1,19})([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_quota(text: str) -> int:
    """Bytes of `500M`, `2G`, `1048576`; NO_QUOTA of `none`. Units are powers of 1024.

    Raises:
        Refusal: INVALID_NAME.
    """
    if text.strip().lower() == "none":
        return NO_QUOTA
    match = _QUOTA.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size <= MAX_QUOTA_BYTES:
        raise Refusal(RefusalCode.INVALID_NAME, f'"{text}" is not a size; write it as 500M, 2G or none')
    return size


def parse_number(text: str) -> int:
    """A number of messages or mailboxes, or NO_QUOTA of `none`.

    Raises:
        Refusal: INVALID_NAME.
    """
    if text.strip().lower() == "none":
        return NO_QUOTA
    number = int(text) if re.fullmatch(r"[0-9]{1,15}", text.strip(), re.ASCII) else 0
    if not number:
        raise Refusal(RefusalCode.INVALID_NAME, f'"{text}" is not a number from 1 on; write it as 1000 or none')
    return number


def show_quota(size_bytes: int) -> str:
    """The shortest text that `parse_quota` reads back."""
    if size_bytes == NO_QUOTA:
        return "none"
    exact = [(unit, size) for unit, size in _UNITS.items() if size_bytes % size == 0]
    unit, size = exact[-1]
    return f"{size_bytes // size}{unit}"
