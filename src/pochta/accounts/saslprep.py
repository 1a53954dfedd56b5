"""Passwords in one spelling: SASLprep.

Works on the tables of Unicode 3.2 that the profile names, so that a hash made today verifies under every later Python.
"""

import stringprep
import unicodedata
from typing import Final

from pochta.errors import Refusal, RefusalCode

_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare(text: str) -> str:
    """`text` as SASLprep writes it; printable ASCII stays as it is.

    Raises:
        Refusal: INVALID_NAME, it has a character that no password may have, or mixes directions.
    Source: RFC 4013 §2.
    """
    if text.isascii() and text.isprintable():
        return text
    # RFC 4013 §2.1: other spaces become SPACE, the characters of table B.1 vanish.
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    # RFC 4013 §2.2: form KC.
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    # DEVIATES RFC 4013 §2.5: characters unassigned in Unicode 3.2 are kept, as its successor PRECIS does; otherwise
    # nobody could have an emoji or a younger script in a password.
    for char in prepared:
        # RFC 4013 §2.3: controls, private use, surrogates, tags and their like are prohibited.
        if any(is_in_table(char) for is_in_table in _PROHIBITED):
            raise Refusal(RefusalCode.INVALID_NAME, f"a password cannot contain the character U+{ord(char):04X}")
    _check_directions(prepared)
    return prepared


def _check_directions(text: str) -> None:
    if not any(map(stringprep.in_table_d1, text)):
        return
    # RFC 4013 §2.4: right-to-left text begins and ends so, and has nothing written left to right.
    is_mixed = any(map(stringprep.in_table_d2, text))
    if is_mixed or not stringprep.in_table_d1(text[0]) or not stringprep.in_table_d1(text[-1]):
        raise Refusal(RefusalCode.INVALID_NAME, "a password cannot mix writing from the right and from the left")
