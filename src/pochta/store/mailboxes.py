"""Mailboxes: made, found, renamed, removed; their counters never have to be counted.

A mailbox is a row with a parent and a name (NFC, no delimiter in it); a path is the names joined by `/`. Removing one
detaches its row at once and leaves the messages to a background step. UIDVALIDITY comes from a rising counter of the
account, so that a name made again never repeats one; RENAME keeps it.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import annotations, changes, rights
from pochta.store.tx import Tx

DELIMITER: Final = "/"
INBOX: Final = "INBOX"
ROOT: Final = 0  # parent_id of a mailbox at the top

NAME_MAX_BYTES: Final = 255  # per level, UTF-8: what file systems, and so other servers, hold
PATH_MAX_LEVELS: Final = 32
# Of a mailbox, UTF-8: below the 4096 that others stop at (PATH_MAX) with `Other Users/` and the owner's address before
# it. 10 000 of them are 30 MB in a LIST.
PATH_MAX_BYTES: Final = 3072
MAILBOXES_PER_ACCOUNT: Final = 10_000
SUBSCRIPTIONS_PER_ACCOUNT: Final = 2 * MAILBOXES_PER_ACCOUNT  # names of removed mailboxes stay on the list
# Of all of them: 50 for each. No mailbox need stand behind them, and LIST holds all at once, with RECURSIVEMATCH each
# of their levels too (16 times as much at worst): 20 000 of the longest paths would take gigabytes.
SUBSCRIPTIONS_MAX_CHARS: Final = 1_000_000

FIRST_MAILBOXES: Final = (
    (INBOX, "inbox"),
    ("Drafts", "drafts"),
    ("Sent", "sent"),
    ("Archive", "archive"),
    ("Junk", "junk"),
    ("Trash", "trash"),
)


class Mailbox(NamedTuple):
    """A mailbox as its row tells it, with its whole path."""

    id: int
    path: str
    role: str | None
    uid_validity: int
    uid_next: int
    recent_uid: int
    message_count: int
    unseen_count: int
    deleted_count: int
    total_bytes: int
    mod_seq: int
    is_noselect: bool  # a name with others below it that holds no messages
    has_children: bool


_COLUMNS: Final = (
    "id, parent_id, name, role, uid_validity, uid_next, recent_uid, message_count, unseen_count, deleted_count,"
    " total_bytes, mod_seq, is_noselect"
)


def split_path(path: str) -> list[str]:
    """The names of a path, normalised; INBOX is the same in any case (RFC 3501 §5.1).

    Raises:
        Refusal: INVALID_NAME.
    """
    names = unicodedata.normalize("NFC", path).split(DELIMITER)
    if len(names) > PATH_MAX_LEVELS:
        raise Refusal(RefusalCode.INVALID_NAME, f"A mailbox has at most {PATH_MAX_LEVELS} levels")
    for name in names:
        if not name:
            raise Refusal(RefusalCode.INVALID_NAME, "A mailbox name has no empty level")
        if len(name.encode("utf-8", "surrogatepass")) > NAME_MAX_BYTES:
            raise Refusal(RefusalCode.INVALID_NAME, f"A level of a mailbox name has at most {NAME_MAX_BYTES} bytes")
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
            raise Refusal(RefusalCode.INVALID_NAME, "A mailbox name has no control characters")
    if is_inbox(names[0]):
        names[0] = INBOX
    return names


def is_inbox(name: str) -> bool:
    """Whether a name at the top is INBOX in any case; of ASCII, for `ı` (dotless) has the upper case `I` too."""
    return name.isascii() and name.upper() == INBOX


def list_all(tx: Tx, account_id: int) -> list[Mailbox]:
    """Every mailbox of the account, by path, INBOX first. One statement."""
    rows = tx.rows(f"SELECT {_COLUMNS} FROM mailbox WHERE account_id = ? AND name IS NOT NULL", (account_id,))
    names = {row[0]: (row[1], row[2]) for row in rows}
    parents = {row[1] for row in rows}
    found: list[Mailbox] = []
    for row in rows:
        path, parent_id = row[2], row[1]
        while parent_id != ROOT and parent_id in names:
            parent_id, name = names[parent_id]
            path = name + DELIMITER + path
        found.append(Mailbox._make((row[0], path, *row[3:-1], bool(row[-1]), row[0] in parents)))
    found.sort(key=lambda mailbox: (mailbox.role != "inbox", mailbox.path))
    return found


def find(tx: Tx, account_id: int, path: str) -> Mailbox:
    """The mailbox of that path. One statement for each level, and one.

    Raises:
        Refusal: NOT_FOUND, or INVALID_NAME.
    """
    names = split_path(path)
    mailbox_id = id_of(tx, account_id, names)
    if mailbox_id is None:
        raise Refusal(RefusalCode.NOT_FOUND, "No such mailbox")
    row = tx.row(f"SELECT {_COLUMNS} FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id))
    assert row is not None
    child = tx.row(
        "SELECT 1 FROM mailbox WHERE account_id = ? AND parent_id = ? AND name IS NOT NULL", (account_id, mailbox_id)
    )
    return Mailbox._make((row[0], DELIMITER.join(names), *row[3:-1], bool(row[-1]), child is not None))


def by_id(tx: Tx, account_id: int, mailbox_id: int, path: str) -> Mailbox | None:
    """The mailbox as its row tells it now, under a path that the caller knows; None when it is gone. One statement.

    `has_children` is not looked at.
    """
    sql = f"SELECT {_COLUMNS} FROM mailbox WHERE account_id = ? AND id = ? AND name IS NOT NULL"
    row = tx.row(sql, (account_id, mailbox_id))
    return None if row is None else Mailbox._make((row[0], path, *row[3:-1], bool(row[-1]), False))


def find_inbox(tx: Tx, account_id: int) -> int:
    """The id of the account's INBOX. One statement.

    Raises:
        Refusal: NOT_FOUND, the account was removed.
    """
    row = tx.row("SELECT id FROM mailbox WHERE account_id = ? AND role = 'inbox'", (account_id,))
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "This account no longer exists")
    mailbox_id: int = row[0]
    return mailbox_id


def find_role(tx: Tx, account_id: int, role: str) -> int:
    """The id of the account's mailbox for `role`, INBOX where there is none (any more). One or two statements.

    Raises:
        Refusal: NOT_FOUND, the account was removed.
    """
    row = tx.row("SELECT id FROM mailbox WHERE account_id = ? AND role = ? AND name IS NOT NULL", (account_id, role))
    return find_inbox(tx, account_id) if row is None else int(row[0])


def has_top(tx: Tx, account_id: int, name: str) -> bool:
    """Whether the account has a mailbox of that name at the top. One statement."""
    return _child_id(tx, account_id, ROOT, name) is not None


def id_of(tx: Tx, account_id: int, names: Iterable[str]) -> int | None:
    """The id of the mailbox of these names, as `split_path` gives them; None when there is none. One each."""
    mailbox_id = ROOT
    for name in names:
        child_id = _child_id(tx, account_id, mailbox_id, name)
        if child_id is None:
            return None
        mailbox_id = child_id
    return mailbox_id


def _child_id(tx: Tx, account_id: int, parent_id: int, name: str) -> int | None:
    row = tx.row(
        "SELECT id FROM mailbox WHERE account_id = ? AND parent_id = ? AND name = ?", (account_id, parent_id, name)
    )
    return row[0] if row else None


def add_first(tx: Tx, account_id: int, now: int) -> None:
    """The mailboxes every account begins with, all subscribed (Thunderbird and others show only those)."""
    mod_seq = changes.next_mod_seq(tx, account_id)
    for path, role in FIRST_MAILBOXES:
        _insert(tx, account_id, ROOT, path, role, mod_seq, now)
        _put_on_list(tx, account_id, path)


def create(tx: Tx, account_id: int, path: str, now: int, role: str | None = None) -> int:
    """Make the mailbox and every level that is missing above it; its id. A name that holds no messages will hold them.

    Raises:
        Refusal: EXISTS, INVALID_NAME or LIMIT; USE_TAKEN, another mailbox has that `role`.
    """
    # RFC 3501 §6.3.3: a trailing delimiter says that names below will follow; it is no part of the name
    names = split_path(path.removesuffix(DELIMITER))
    _refuse_too_long(_size_of(names))
    mailbox_id = id_of(tx, account_id, names)
    if mailbox_id is not None and not _is_noselect(tx, account_id, mailbox_id):
        raise Refusal(RefusalCode.EXISTS, "A mailbox of that name exists")
    if role is not None and tx.row("SELECT 1 FROM mailbox WHERE account_id = ? AND role = ?", (account_id, role)):
        raise Refusal(RefusalCode.USE_TAKEN, "Another mailbox has that use")
    mod_seq = changes.next_mod_seq(tx, account_id)
    if mailbox_id is None:
        mailbox_id = _insert_levels(tx, account_id, names, mod_seq, now)
    if role is not None or _is_noselect(tx, account_id, mailbox_id):
        tx.run(
            "UPDATE mailbox SET is_noselect = 0, role = coalesce(?, role), mod_seq = ? WHERE account_id = ? AND id = ?",
            (role, mod_seq, account_id, mailbox_id),
        )
        changes.record_once(tx, account_id, mod_seq, mailbox_id, changes.Kind.MAILBOX, now=now)
    tx.hint(account_id, mod_seq)
    return mailbox_id


def _size_of(names: Iterable[str]) -> int:
    return len(DELIMITER.join(names).encode("utf-8"))


def _refuse_too_long(size: int) -> None:
    if size > PATH_MAX_BYTES:
        raise Refusal(RefusalCode.LIMIT, f"A mailbox name has at most {PATH_MAX_BYTES} bytes with those above it")


def _is_noselect(tx: Tx, account_id: int, mailbox_id: int) -> bool:
    row = tx.row("SELECT is_noselect FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id))
    return row is not None and bool(row[0])


def _insert_levels(tx: Tx, account_id: int, names: list[str], mod_seq: int, now: int) -> int:
    """The id of the mailbox of that path, with every level made that is missing.

    Raises:
        Refusal: LIMIT.
    """
    parent_id = ROOT
    for level, name in enumerate(names):
        child_id = _child_id(tx, account_id, parent_id, name)
        if child_id is None:
            _refuse_too_many(tx, account_id, len(names) - level)
            for missing in names[level:]:
                role = _free_role(tx, account_id, missing) if parent_id == ROOT else None
                parent_id = _insert(tx, account_id, parent_id, missing, role, mod_seq, now)
            return parent_id
        parent_id = child_id
    return parent_id


def _free_role(tx: Tx, account_id: int, name: str) -> str | None:
    """What a mailbox of this name was made for, when it was removed: made again, it is that again."""
    role = next((role for first, role in FIRST_MAILBOXES if first == name), None)
    if role is None or tx.row("SELECT 1 FROM mailbox WHERE account_id = ? AND role = ?", (account_id, role)):
        return None
    return role


def _refuse_too_many(tx: Tx, account_id: int, more: int) -> None:
    count = tx.row("SELECT count(*) FROM mailbox WHERE account_id = ? AND name IS NOT NULL", (account_id,))
    if count is None or count[0] + more > MAILBOXES_PER_ACCOUNT:
        raise Refusal(RefusalCode.LIMIT, f"An account has at most {MAILBOXES_PER_ACCOUNT} mailboxes")
    quota = tx.row("SELECT quota_mailboxes FROM account WHERE id = ?", (account_id,))
    if quota is not None and quota[0] and count[0] + more > quota[0]:
        raise Refusal(RefusalCode.OVER_QUOTA, f"This account has at most {quota[0]} mailboxes")


def _insert(tx: Tx, account_id: int, parent_id: int, name: str, role: str | None, mod_seq: int, now: int) -> int:
    mailbox_id = changes.next_ids(tx, account_id, 1)
    uid_validity = _next_uid_validity(tx, account_id)
    tx.run(
        "INSERT INTO mailbox (account_id, id, parent_id, name, role, uid_validity, mod_seq, counts_mod_seq,"
        " created_mod_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (account_id, mailbox_id, parent_id, name, role, uid_validity, mod_seq, mod_seq, mod_seq),
    )
    if parent_id != ROOT:
        rights.inherit(tx, account_id, parent_id, mailbox_id)
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.MAILBOX, "", now=now)
    return mailbox_id


def _next_uid_validity(tx: Tx, account_id: int) -> int:
    row = tx.row(
        "UPDATE account SET next_uid_validity = next_uid_validity + 1 WHERE id = ? RETURNING next_uid_validity",
        (account_id,),
    )
    assert row is not None
    uid_validity: int = row[0] - 1
    return uid_validity


def rename(tx: Tx, account_id: int, old_path: str, new_path: str, now: int) -> None:
    """Give the mailbox, and so all below it, another path; missing levels above are made.

    Raises:
        Refusal: NOT_FOUND, EXISTS, INVALID_NAME; LIMIT, the tree would grow too deep or long, or have too many
            mailboxes; CANNOT for INBOX and for a mailbox moved below itself.
    """
    mailbox = find(tx, account_id, old_path)
    names = split_path(new_path.removesuffix(DELIMITER))
    if mailbox.role == "inbox":
        raise Refusal(RefusalCode.CANNOT, "INBOX keeps its name; move its messages instead")
    if id_of(tx, account_id, names) is not None:
        raise Refusal(RefusalCode.EXISTS, "A mailbox of that name exists")
    if (DELIMITER.join(names) + DELIMITER).startswith(mailbox.path + DELIMITER):
        raise Refusal(RefusalCode.CANNOT, "A mailbox cannot be moved below itself")
    height, size = _extent_below(tx, account_id, mailbox.id) if mailbox.has_children else (0, 0)
    if len(names) + height > PATH_MAX_LEVELS:
        raise Refusal(RefusalCode.LIMIT, f"A mailbox has at most {PATH_MAX_LEVELS} levels")
    _refuse_too_long(_size_of(names) + size)
    mod_seq = changes.next_mod_seq(tx, account_id)
    parent_id = _insert_levels(tx, account_id, names[:-1], mod_seq, now)
    tx.run(
        "UPDATE mailbox SET parent_id = ?, name = ?, mod_seq = ? WHERE account_id = ? AND id = ?",
        (parent_id, names[-1], mod_seq, account_id, mailbox.id),
    )
    changes.record(tx, account_id, mod_seq, mailbox.id, changes.Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)


def _extent_below(tx: Tx, account_id: int, mailbox_id: int) -> tuple[int, int]:
    """How many levels stand below the mailbox, and how many bytes the longest path has from there on.

    One statement, 8 ms for 10 000 mailboxes.
    """
    children: dict[int, list[tuple[int, int]]] = {}
    rows = tx.rows("SELECT id, parent_id, name FROM mailbox WHERE account_id = ? AND name IS NOT NULL", (account_id,))
    for child_id, parent_id, name in rows:
        children.setdefault(parent_id, []).append((child_id, len(DELIMITER) + len(name.encode("utf-8"))))
    height = longest = 0
    level = children.get(mailbox_id, [])
    while level and height < PATH_MAX_LEVELS:
        height += 1
        longest = max(longest, max(size for _, size in level))
        level = [(below, size + more) for one, size in level for below, more in children.get(one, ())]
    return height, longest


def remove(tx: Tx, account_id: int, path: str, now: int) -> None:
    """Detach the mailbox; `sweep` removes its messages in small steps. Names below it stay, and with them its name.

    Source: RFC 9051 §6.3.5: a mailbox that has others below it loses its messages and becomes \\NoSelect.

    Raises:
        Refusal: NOT_FOUND; CANNOT for INBOX; HAS_CHILDREN for a name that holds no messages and has others below it.
    """
    mailbox = find(tx, account_id, path)
    if mailbox.role == "inbox":
        raise Refusal(RefusalCode.CANNOT, "INBOX cannot be removed")
    if mailbox.has_children and mailbox.is_noselect:
        raise Refusal(RefusalCode.HAS_CHILDREN, "Remove the mailboxes below it first")
    place = tx.row("SELECT parent_id, name FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox.id))
    assert place is not None
    mod_seq = changes.next_mod_seq(tx, account_id)
    tx.run(
        "UPDATE mailbox SET name = NULL, role = NULL, mod_seq = ?, removed_at = ? WHERE account_id = ? AND id = ?",
        (mod_seq, now, account_id, mailbox.id),
    )
    if mailbox.has_children:
        _stand_in(tx, account_id, mailbox.id, place[0], place[1], mod_seq, now)
    rights.forget(tx, account_id, mailbox.id)
    annotations.forget(tx, account_id, mailbox.id)
    tx.run(
        "INSERT INTO task (kind, account_id, mailbox_id, created_at) VALUES ('mailbox_remove', ?, ?, ?)",
        (account_id, mailbox.id, now),
    )
    changes.record(tx, account_id, mod_seq, mailbox.id, changes.Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)


def _stand_in(tx: Tx, account_id: int, old_id: int, parent_id: int, name: str, mod_seq: int, now: int) -> None:
    """A name without messages in place of a removed mailbox, above those that were below it, with its rights."""
    new_id = _insert(tx, account_id, parent_id, name, None, mod_seq, now)
    rights.forget(tx, account_id, new_id)
    rights.inherit(tx, account_id, old_id, new_id)
    tx.run("UPDATE mailbox SET is_noselect = 1 WHERE account_id = ? AND id = ?", (account_id, new_id))
    tx.run(
        "UPDATE mailbox SET parent_id = ? WHERE account_id = ? AND parent_id = ? AND name IS NOT NULL",
        (new_id, account_id, old_id),
    )


def set_role(tx: Tx, account_id: int, mailbox_id: int, role: str | None, now: int) -> str | None:
    """Give the mailbox a use, or none; the path of the mailbox that had it until now. Four statements, and a listing.

    Raises:
        Refusal: CANNOT for INBOX, whose use is fixed.
    """
    rows = tx.rows("SELECT role, id FROM mailbox WHERE account_id = ? AND role IS NOT NULL", (account_id,))
    held: dict[str, int] = dict(rows)
    if role == "inbox" or held.get("inbox") == mailbox_id:
        raise Refusal(RefusalCode.CANNOT, "INBOX keeps its use, and no other mailbox has it")
    if role == next((one for one, holder in held.items() if holder == mailbox_id), None):
        return None
    mod_seq = changes.next_mod_seq(tx, account_id)
    loser_id = None if role is None else held.get(role)
    for changed_id, new_role in ((loser_id, None), (mailbox_id, role)):
        if changed_id is not None:
            tx.run(
                "UPDATE mailbox SET role = ?, mod_seq = ? WHERE account_id = ? AND id = ?",
                (new_role, mod_seq, account_id, changed_id),
            )
            changes.record(tx, account_id, mod_seq, changed_id, changes.Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)
    return next((one.path for one in list_all(tx, account_id) if one.id == loser_id), None)


def subscribe(tx: Tx, account_id: int, path: str, now: int) -> None:
    """Put the path on the account's list of subscriptions; the mailbox need not exist (RFC 3501 §6.3.6).

    Raises:
        Refusal: INVALID_NAME, LIMIT.
    """
    names = split_path(path)
    count = tx.row("SELECT count(*), sum(length(path)) FROM subscription WHERE account_id = ?", (account_id,))
    if count is None or count[0] >= SUBSCRIPTIONS_PER_ACCOUNT:
        raise Refusal(RefusalCode.LIMIT, f"An account has at most {SUBSCRIPTIONS_PER_ACCOUNT} subscriptions")
    if (count[1] or 0) + len(path) > SUBSCRIPTIONS_MAX_CHARS:
        raise Refusal(RefusalCode.LIMIT, "The names of this account's subscriptions are too long in all")
    if _put_on_list(tx, account_id, DELIMITER.join(names)):
        changes.record_of_account(tx, account_id, now=now)


def _put_on_list(tx: Tx, account_id: int, path: str) -> int:
    sql = "INSERT INTO subscription (account_id, path) VALUES (?, ?) ON CONFLICT DO NOTHING"
    return tx.run(sql, (account_id, path))


def unsubscribe(tx: Tx, account_id: int, path: str, now: int) -> None:
    """Take the path off the list."""
    path = DELIMITER.join(split_path(path))
    if tx.run("DELETE FROM subscription WHERE account_id = ? AND path = ?", (account_id, path)):
        changes.record_of_account(tx, account_id, now=now)


def subscriptions(tx: Tx, account_id: int) -> set[str]:
    """The paths on the account's list."""
    return {row[0] for row in tx.rows("SELECT path FROM subscription WHERE account_id = ?", (account_id,))}


def claim_recent(tx: Tx, account_id: int, mailbox_id: int, uid: int) -> None:
    """Note that a session has been told of every message below `uid` as \\Recent (RFC 3501 §2.3.2)."""
    tx.run(
        "UPDATE mailbox SET recent_uid = ? WHERE account_id = ? AND id = ? AND recent_uid < ?",
        (uid, account_id, mailbox_id, uid),
    )
