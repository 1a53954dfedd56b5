"""Who may do what with a mailbox: the one table of rights, asked by every protocol.

The owner of a mailbox has every right to it and cannot lose one. Another account has what was granted to it and to
`anyone`, less what was denied to either. Whoever has `\\Seen` of their own reads what stands under `Standing.seen_by`.

Source: RFC 4314 §2.
"""

from collections.abc import Iterable
from enum import IntFlag
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import changes
from pochta.store.flags import DELETED, SEEN
from pochta.store.tx import Tx

ANYONE: Final = 0  # reader_id of the identifier `anyone`: every account of the server
ENTRIES_PER_MAILBOX: Final = 500  # identifiers in one list; each GETACL shows all of them
# In all lists of an account: 500 in each of 100 mailboxes, 5 in each of 10 000. 3 MB, counted in 1 ms.
ENTRIES_PER_ACCOUNT: Final = 50_000


class Right(IntFlag):
    """The standard rights, RFC 4314 §2.1."""

    LOOKUP = 1
    READ = 2
    KEEP_SEEN = 4
    WRITE_FLAGS = 8
    INSERT = 16
    POST = 32
    CREATE_CHILD = 64
    DELETE_MAILBOX = 128
    DELETE_MESSAGES = 256
    EXPUNGE = 512
    ADMINISTER = 1024


NONE: Final = Right(0)
LETTERS: Final = "lrswipkxtea"
ALL: Final = Right((1 << len(LETTERS)) - 1)

_BY_LETTER: Final = {letter: Right(1 << at) for at, letter in enumerate(LETTERS)}
# RFC 4314 §2.1.1: what RFC 2086 called create and delete
OBSOLETE: Final = {
    "c": Right.CREATE_CHILD | Right.DELETE_MAILBOX,
    "d": Right.DELETE_MESSAGES | Right.EXPUNGE,
}


class Standing(NamedTuple):
    """What a reader may do in a mailbox; `seen_by`: the reader whose own \\Seen counts, 0 for the common one."""

    rights: Right
    seen_by: int

    @property
    def is_read_only(self) -> bool:
        """Whether the reader may change nothing that others see: SELECT says READ-ONLY then (RFC 4314 §5.2)."""
        changing = Right.INSERT | Right.EXPUNGE | Right.DELETE_MESSAGES | Right.WRITE_FLAGS
        return not self.rights & (changing if self.seen_by else changing | Right.KEEP_SEEN)

    @property
    def changeable(self) -> int:
        """The flags, as a mask, that the reader may set and clear."""
        mask = SEEN if Right.KEEP_SEEN in self.rights else 0
        mask |= DELETED if Right.DELETE_MESSAGES in self.rights else 0
        return mask | ~(SEEN | DELETED) if Right.WRITE_FLAGS in self.rights else mask


OWNER: Final = Standing(ALL, 0)


class Entry(NamedTuple):
    """One line of a mailbox's list: `address` None for `anyone`."""

    reader_id: int
    address: str | None
    granted: Right
    denied: Right


class Edit(IntFlag):
    """How SETACL combines rights with those that are there."""

    REPLACE = 0
    ADD = 1
    REMOVE = 2


def parse(letters: str) -> Right:
    """The rights that the letters name, the obsolete `c` and `d` among them.

    Raises:
        Refusal: INVALID_NAME for any other character.
    """
    rights = NONE
    for letter in letters:
        one = _BY_LETTER.get(letter) or OBSOLETE.get(letter)
        if one is None:
            raise Refusal(RefusalCode.INVALID_NAME, f"There is no right {letter!r}; rights are {LETTERS}")
        rights |= one
    return rights


def letters_of(rights: Right) -> str:
    """The rights as letters, in the order of RFC 4314 §2.1."""
    return "".join([letter for letter, right in _BY_LETTER.items() if right in rights])


def shown(rights: Right) -> str:
    """As `letters_of`, with the obsolete letters of which any member is there (RFC 4314 §2.1.1)."""
    return letters_of(rights) + "".join([letter for letter, members in OBSOLETE.items() if rights & members])


def standing(tx: Tx, account_id: int, mailbox_id: int, reader_id: int) -> Standing:
    """What `reader_id` (0 or the owner: the owner) may do in the mailbox. One statement for others.

    A mailbox that was removed, or whose owner was, gives no right to anybody else.
    """
    if reader_id in (0, account_id):
        return OWNER
    rows = tx.rows(
        "SELECT granted, denied, is_seen_common FROM mailbox_right r JOIN mailbox m"
        " ON m.account_id = r.account_id AND m.id = r.mailbox_id AND m.removed_at IS NULL"
        " JOIN account a ON a.id = r.account_id AND a.removed_at IS NULL"
        " WHERE r.account_id = ? AND r.mailbox_id = ? AND r.reader_id IN (?, ?)",
        (account_id, mailbox_id, reader_id, ANYONE),
    )
    if not rows:
        return Standing(NONE, reader_id)
    return Standing(_sum(rows), 0 if rows[0][2] else reader_id)


def _sum(rows: Iterable[tuple[str, str, int]]) -> Right:
    granted = denied = NONE
    for given, taken, _ in rows:
        granted |= parse(given)
        denied |= parse(taken)
    return granted & ~denied


def need(found: Standing, right: Right, text: str = "You have no right to do that") -> None:
    """Refuse who has not the right.

    Raises:
        Refusal: NO_PERMISSION.
    """
    if right not in found.rights:
        raise Refusal(RefusalCode.NO_PERMISSION, text)


def visible_to(tx: Tx, reader_id: int) -> dict[tuple[int, int], Standing]:
    """By (account, mailbox): every mailbox of others that the reader may look up. One statement."""
    # what anyone may do unseen, as posting by mail, must not make everybody's listing dearer with each account
    rows = tx.rows(
        "SELECT r.account_id, r.mailbox_id, granted, denied, is_seen_common FROM mailbox_right r JOIN mailbox m"
        " ON m.account_id = r.account_id AND m.id = r.mailbox_id AND m.removed_at IS NULL"
        " WHERE r.account_id <> ? AND (r.reader_id = ? OR r.reader_id = ? AND (granted LIKE ? OR EXISTS"
        " (SELECT 1 FROM mailbox_right o WHERE o.account_id = r.account_id AND o.mailbox_id = r.mailbox_id"
        " AND o.reader_id = ?)))",
        (reader_id, reader_id, ANYONE, "%l%", reader_id),
    )
    gathered: dict[tuple[int, int], list[tuple[str, str, int]]] = {}
    for account_id, mailbox_id, *rest in rows:
        gathered.setdefault((account_id, mailbox_id), []).append((rest[0], rest[1], rest[2]))
    found = {key: Standing(_sum(parts), 0 if parts[0][2] else reader_id) for key, parts in gathered.items()}
    return {key: one for key, one in found.items() if Right.LOOKUP in one.rights}


def entries(tx: Tx, account_id: int, mailbox_id: int) -> list[Entry]:
    """The mailbox's list without its owner, by address, `anyone` first. One statement."""
    rows = tx.rows(
        "SELECT r.reader_id, a.address, r.granted, r.denied FROM mailbox_right r"
        " LEFT JOIN account a ON a.id = r.reader_id"
        " WHERE r.account_id = ? AND r.mailbox_id = ? AND (r.reader_id = ? OR a.local_part IS NOT NULL)",
        (account_id, mailbox_id, ANYONE),
    )
    found = [Entry(reader, address, parse(given), parse(taken)) for reader, address, given, taken in rows]
    return sorted(found, key=lambda one: (one.address is not None, one.address or ""))


def change(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    reader_id: int,
    edit: Edit,
    rights: Right,
    is_denied: bool,
    now: int,
) -> None:
    """Grant rights to a reader (`is_denied`: deny them), or take them back; an empty entry goes away.

    Raises:
        Refusal: CANNOT, the owner has all rights and loses none; LIMIT, the list is full.
    """
    if reader_id == account_id:
        if is_denied or (rights != ALL if edit is Edit.REPLACE else edit is Edit.REMOVE):
            raise Refusal(RefusalCode.CANNOT, "The owner of a mailbox has all rights to it")
        return
    key = (account_id, mailbox_id, reader_id)
    where = "account_id = ? AND mailbox_id = ? AND reader_id = ?"
    row = tx.row(f"SELECT granted, denied FROM mailbox_right WHERE {where}", key)
    before = [parse(row[0]), parse(row[1])] if row else [NONE, NONE]
    after = list(before)
    old = before[is_denied]
    after[is_denied] = rights if edit is Edit.REPLACE else old | rights if edit is Edit.ADD else old & ~rights
    if after == before:
        return
    if row is None:
        _refuse_long_list(tx, account_id, mailbox_id)
    tx.run(f"DELETE FROM mailbox_right WHERE {where}", key)
    if any(after):
        _insert(tx, key, letters_of(after[0]), letters_of(after[1]))
    if reader_id == ANYONE:
        changes.announce_to_everybody(tx)
    else:
        changes.record_of_account(tx, reader_id, now=now)  # the reader may see more, or less, than before
    _announce(tx, account_id, mailbox_id, now)


def refuse_too_many(tx: Tx, account_id: int) -> None:
    """Called when entries were added: refuse what would leave the account with too many. One statement.

    One identifier is in the lists of at most MAILBOXES_PER_ACCOUNT mailboxes of one account by this; there is no bound
    over all accounts, with which some could keep a reader from what others share.

    Raises:
        Refusal: LIMIT.
    """
    count = tx.row("SELECT count(*) FROM mailbox_right WHERE account_id = ?", (account_id,))
    if count is not None and count[0] > ENTRIES_PER_ACCOUNT:
        raise Refusal(RefusalCode.LIMIT, f"The lists of an account have at most {ENTRIES_PER_ACCOUNT} entries in all")


def _refuse_long_list(tx: Tx, account_id: int, mailbox_id: int) -> None:
    count = tx.row(
        "SELECT count(*) FROM mailbox_right WHERE account_id = ? AND mailbox_id = ?", (account_id, mailbox_id)
    )
    if count is None or count[0] >= ENTRIES_PER_MAILBOX:
        raise Refusal(RefusalCode.LIMIT, f"The list of a mailbox names at most {ENTRIES_PER_MAILBOX} others")


def _insert(tx: Tx, key: tuple[int, int, int], granted: str, denied: str) -> None:
    tx.run(
        "INSERT INTO mailbox_right (account_id, mailbox_id, reader_id, granted, denied) VALUES (?, ?, ?, ?, ?)",
        (*key, granted, denied),
    )


def _announce(tx: Tx, account_id: int, mailbox_id: int, now: int) -> None:
    mod_seq = changes.next_mod_seq(tx, account_id)
    tx.run("UPDATE mailbox SET mod_seq = ? WHERE account_id = ? AND id = ?", (mod_seq, account_id, mailbox_id))
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)


def mailboxes_with(tx: Tx, account_id: int, reader_id: int, right: Right) -> list[int]:
    """The account's mailboxes in which another reader (ANYONE: a stranger) has `right`. One statement."""
    rows = tx.rows(
        "SELECT mailbox_id, granted, denied FROM mailbox_right WHERE account_id = ? AND reader_id IN (?, ?)",
        (account_id, reader_id, ANYONE),
    )
    gathered: dict[int, list[tuple[str, str, int]]] = {}
    for mailbox_id, granted, denied in rows:
        gathered.setdefault(mailbox_id, []).append((granted, denied, 0))
    return [mailbox_id for mailbox_id, parts in gathered.items() if right in _sum(parts)]


def inherit(tx: Tx, account_id: int, parent_id: int, mailbox_id: int) -> None:
    """Give a new mailbox the list of the one above it, as Cyrus and Dovecot do (RFC 4314 leaves it open).

    Raises:
        Refusal: LIMIT.
    """
    added = tx.run(
        "INSERT INTO mailbox_right (account_id, mailbox_id, reader_id, granted, denied)"
        " SELECT account_id, ?, reader_id, granted, denied FROM mailbox_right WHERE account_id = ? AND mailbox_id = ?",
        (mailbox_id, account_id, parent_id),
    )
    if added:
        refuse_too_many(tx, account_id)


def forget(tx: Tx, account_id: int, mailbox_id: int) -> None:
    """Remove the list of a mailbox that is removed."""
    tx.run("DELETE FROM mailbox_right WHERE account_id = ? AND mailbox_id = ?", (account_id, mailbox_id))
