"""The 63-bit flag set of a placement: five system flags, the rest the account's own dictionary of keywords.

A keyword gets its bit when it is first used and keeps it. Names are matched without regard to ASCII case (RFC 3501
§2.3.2) and shown as first given.
"""

from collections.abc import Iterable
from typing import Final

from pochta.errors import Refusal, RefusalCode
from pochta.store.tx import Tx

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16

FIRST_KEYWORD_BIT: Final = 5
KEYWORD_BITS: Final = 63 - FIRST_KEYWORD_BIT  # bit 63 is the sign of an SQL integer
KEPT_FOR_OWNER: Final = 18  # of them others may not take: programs set a dozen by themselves ($Junk, $MDNSent, $label1)
KEYWORD_MAX_CHARS: Final = 100  # the longest in common use ($MDNSent, $label1, client tags) has under 40


def keywords(tx: Tx, account_id: int) -> dict[int, str]:
    """The account's dictionary: bit value (1 << bit) to name."""
    rows = tx.rows("SELECT bit, name FROM keyword WHERE account_id = ? ORDER BY bit", (account_id,))
    return {1 << bit: name for bit, name in rows}


def keyword_bits(tx: Tx, account_id: int, names: Iterable[str], *, is_owner: bool = True) -> int:
    """The set of the named keywords, which enter the dictionary if they are new.

    Only the owner may use up all of it: a number once given stays given.

    Raises:
        Refusal: LIMIT, the dictionary is full or a name is too long.
    """
    bits, room = 0, KEYWORD_BITS if is_owner else KEYWORD_BITS - KEPT_FOR_OWNER
    for name in names:
        bits |= _keyword_bit(tx, account_id, name, room)
    return bits


def _keyword_bit(tx: Tx, account_id: int, name: str, room: int) -> int:
    folded = name.lower()
    row = tx.row("SELECT bit FROM keyword WHERE account_id = ? AND folded = ?", (account_id, folded))
    if row is None:
        if len(name) > KEYWORD_MAX_CHARS:
            raise Refusal(RefusalCode.LIMIT, f"A keyword has at most {KEYWORD_MAX_CHARS} characters")
        count = tx.row("SELECT count(*) FROM keyword WHERE account_id = ?", (account_id,))
        if count is None or count[0] >= room:
            raise Refusal(RefusalCode.LIMIT, f"This account has {room} keywords already")
        row = (FIRST_KEYWORD_BIT + count[0],)
        tx.run(
            "INSERT INTO keyword (account_id, bit, name, folded) VALUES (?, ?, ?, ?)",
            (account_id, row[0], name, folded),
        )
    bit: int = row[0]
    return 1 << bit
