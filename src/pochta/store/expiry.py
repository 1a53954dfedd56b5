"""What time alone removes and no account owns: trails, greylist rows, retired DKIM keys.

A table more is a line in each function.
"""

from pochta.store import dkim_keys, greylist, trails
from pochta.store.greylist import Rules
from pochta.store.tx import Tx


def is_due(tx: Tx, now: int, rules: Rules) -> bool:
    """Whether `expire` has something to do. Up to five statements."""
    return trails.is_due(tx, now - trails.KEPT_S) or dkim_keys.is_due(tx, now) or greylist.is_due(tx, now, rules)


def expire(tx: Tx, now: int, limit: int, rules: Rules) -> int:
    """Forget what is past its time; how many (less than `limit`: there are no more). Up to ten statements."""
    gone = trails.expire(tx, now - trails.KEPT_S, limit)
    gone += dkim_keys.expire_retired(tx, now, limit - gone) if gone < limit else 0
    return gone + (greylist.expire(tx, now, limit - gone, rules) if gone < limit else 0)
