"""Where mail for `account+Mailbox@domain` goes: into that mailbox, for who may post there; else into INBOX.

Source: RFC 4314 §2.1 ("p"), RFC 5233 §4 (what stands behind the separator is the account's own business).
"""

import unicodedata
from collections.abc import Iterable

from pochta.store import mailboxes, rights
from pochta.store.rights import Right
from pochta.store.tx import Tx


def mailboxes_of(tx: Tx, account_id: int, details: Iterable[str | None], poster_id: int) -> list[int | None]:
    """For each of `details` the mailbox it names, in any case, where `poster_id` (0: nobody here) may post.

    None for none. No statement where there is no detail, one where nobody may post, else a listing.
    """
    wanted = [None if one is None else unicodedata.normalize("NFC", one) for one in details]
    found = _open_to(tx, account_id, poster_id) if any(wanted) else {}
    if not found:
        return [None] * len(wanted)
    # mail programs change the case of addresses, and mailboxes may differ in case alone: then none is meant
    folded: dict[str, int | None] = {}
    for path, mailbox_id in found.items():
        folded[path.casefold()] = None if path.casefold() in folded else mailbox_id
    return [found.get(one, folded.get(one.casefold())) if one else None for one in wanted]


def _open_to(tx: Tx, account_id: int, poster_id: int) -> dict[str, int]:
    """By path: the mailboxes in which they may post."""
    if poster_id == account_id:
        allowed = None
    else:
        allowed = set(rights.mailboxes_with(tx, account_id, poster_id, Right.POST))
        if not allowed:
            return {}
    return {
        one.path: one.id
        for one in mailboxes.list_all(tx, account_id)
        if not one.is_noselect and (allowed is None or one.id in allowed)
    }
