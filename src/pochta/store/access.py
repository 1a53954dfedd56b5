"""Mailboxes by the names a reader gives them: their own, those of other users, and shared ones.

A name below `Other Users/ADDRESS/` or `Shared/ADDRESS/` leads into the account of that address (`account.is_shared`
tells which of the two); any other name is the reader's own. Rights are asked here, in the transaction that acts, so
that no command acts by a right that is gone. A mailbox that the reader may not look up is said not to exist
(RFC 4314 §6).

A reader who has a mailbox of their own called `Shared` or `Other Users`, made before those names meant something, keeps
it, and sees nobody else's there until it is renamed.
"""

import unicodedata
from collections.abc import Mapping
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import annotations, mailboxes, rights
from pochta.store.mailboxes import DELIMITER, Mailbox, split_path
from pochta.store.rights import NONE, OWNER, Edit, Right, Standing
from pochta.store.tx import Tx

OTHER_USERS: Final = "Other Users"
SHARED: Final = "Shared"
NAMESPACES: Final = (OTHER_USERS, SHARED)
ANYBODY: Final = "anyone"  # RFC 4314 §2: the identifier of everybody
# RFC 4314 §4: whoever has one of these may ask for their rights, and so know that the mailbox is there
KNOWING: Final = Right.LOOKUP | Right.READ | Right.INSERT | Right.CREATE_CHILD | Right.DELETE_MAILBOX | Right.ADMINISTER


class Place(NamedTuple):
    """Where a name leads: an account, and the path there. `prefix` stands before such paths in the reader's names."""

    account_id: int
    path: str
    prefix: str


class Opened(NamedTuple):
    """A mailbox as its reader may use it; `mailbox.path` is the name the reader knows it by."""

    account_id: int
    mailbox: Mailbox
    standing: Standing


def _no_such_mailbox() -> Refusal:
    return Refusal(RefusalCode.NOT_FOUND, "No such mailbox")


def locate(tx: Tx, reader_id: int, name: str) -> Place:
    """Where the name leads, whether or not there is a mailbox. Two statements at most where it is another's.

    Raises:
        Refusal: INVALID_NAME; NOT_FOUND, no such account.
    """
    top, _, rest = name.partition(DELIMITER)
    if top not in NAMESPACES or mailboxes.has_top(tx, reader_id, top):
        return Place(reader_id, name, "")
    names = rest.split(DELIMITER)
    at = next((index for index, one in enumerate(names) if "@" in one), None)
    if at is None:
        raise _no_such_mailbox()
    address, path = DELIMITER.join(names[: at + 1]), DELIMITER.join(names[at + 1 :])
    if path:
        split_path(path)  # a name that no mailbox can have says nothing of whether the account is there
    found = account_of(tx, address)
    if found is None or (SHARED if found[2] else OTHER_USERS) != top:
        raise _no_such_mailbox()
    if found[0] == reader_id:
        raise Refusal(RefusalCode.CANNOT, "Your own mailboxes have names of their own")
    return Place(found[0], path, f"{top}{DELIMITER}{found[1]}{DELIMITER}")


def account_of(tx: Tx, address: str) -> tuple[int, str, int] | None:
    """(id, address, is_shared) of the account of that address."""
    local_part, _, domain = unicodedata.normalize("NFC", address).rpartition("@")
    row = tx.row(
        "SELECT a.id, a.address, a.is_shared FROM account a JOIN domain d ON d.id = a.domain_id"
        " WHERE a.local_part = ? AND (d.name = ? OR d.shown = ?)",
        (unicodedata.normalize("NFC", local_part.casefold()), domain.lower(), domain),
    )
    return None if row is None else (row[0], row[1], row[2])


def prefix_of(address: str, is_shared: bool) -> str:
    """What stands before the names of that account's mailboxes, for others."""
    return f"{SHARED if is_shared else OTHER_USERS}{DELIMITER}{address}{DELIMITER}"


def open_mailbox(tx: Tx, reader_id: int, name: str, right: Right = Right.LOOKUP) -> Opened:
    """The mailbox of that name, for a reader who has `right` to it. One statement for each level, and up to four.

    Raises:
        Refusal: NOT_FOUND; NO_PERMISSION; INVALID_NAME.
    """
    place = locate(tx, reader_id, name)
    if place.account_id == reader_id:
        return Opened(reader_id, mailboxes.find(tx, reader_id, place.path), OWNER)
    if not place.path:
        raise _no_such_mailbox()
    mailbox = mailboxes.find(tx, place.account_id, place.path)
    found = rights.standing(tx, place.account_id, mailbox.id, reader_id)
    if right not in found.rights:
        if Right.LOOKUP not in found.rights:
            raise _no_such_mailbox()
        rights.need(found, right)
    return Opened(place.account_id, mailbox._replace(path=place.prefix + mailbox.path), found)


def open_selectable(tx: Tx, reader_id: int, name: str, right: Right) -> Opened:
    """As `open_mailbox`, of one that holds messages.

    Raises:
        Refusal: NOT_FOUND for a name that only has others below it, too.
    """
    opened = open_mailbox(tx, reader_id, name, right)
    if opened.mailbox.is_noselect:
        raise Refusal(RefusalCode.NOT_FOUND, "That name has mailboxes below it and holds no messages")
    return opened


def reader_named(tx: Tx, name: str) -> int:
    """The account that an identifier of a list of rights means: `anyone`, an address, a user name. Two statements.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    if name == ANYBODY:
        return rights.ANYONE
    found = account_of(tx, name) if "@" in name else None
    if found is not None:
        return found[0]
    if name and "@" not in name:
        # RFC 4314 §2: what LOGIN takes is an identifier, too: a local part that only one account has
        local_part = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        sql = "SELECT id FROM account WHERE domain_id IN (SELECT id FROM domain) AND local_part = ? LIMIT 2"
        rows = tx.rows(sql, (local_part,))
        if len(rows) == 1:
            return int(rows[0][0])
    raise Refusal(RefusalCode.NO_SUCH_USER, "There is no such user")


def change_rights(
    tx: Tx,
    reader_id: int,
    name: str,
    identifier: str,
    edit: Edit,
    changed: Right,
    now: int,
    is_administrator: bool = False,
) -> Opened:
    """SETACL by a reader who administers the mailbox; an identifier after `-` is denied what it names (RFC 4314 §2).

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, INVALID_NAME, NO_SUCH_USER, CANNOT, LIMIT.
    """
    opened = open_mailbox(tx, reader_id, name, Right.ADMINISTER)
    whom = reader_named(tx, identifier.removeprefix("-"))
    is_denied = identifier.startswith("-")
    grants = NONE if is_denied or edit is Edit.REMOVE else changed
    if grants & ~grantable(tx, opened.account_id, whom, is_administrator):
        raise Refusal(RefusalCode.NO_PERMISSION, "Only an administrator shows a mailbox to everybody")
    rights.change(tx, opened.account_id, opened.mailbox.id, whom, edit, changed, is_denied, now)
    if changed and edit is not Edit.REMOVE:
        rights.refuse_too_many(tx, opened.account_id)
    return opened


def grantable(tx: Tx, account_id: int, whom: int, is_administrator: bool) -> Right:
    """What who administers a mailbox of the account may grant there. One statement at most.

    All, but to let everybody see it: by that any user could fill the list of mailboxes of all others. In a shared
    account it is left to whom the administrator has let administer the mailbox.
    """
    if whom != rights.ANYONE or is_administrator:
        return rights.ALL
    row = tx.row("SELECT is_shared FROM account WHERE id = ?", (account_id,))
    return rights.ALL if row is not None and row[0] else rights.ALL & ~Right.LOOKUP


def entries(tx: Tx, reader_id: int, name: str) -> tuple[Opened, str | None, list[rights.Entry]]:
    """GETACL: the mailbox, its owner's address (None: nobody signs in as its owner), and its list.

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, INVALID_NAME.
    """
    opened = open_mailbox(tx, reader_id, name, Right.ADMINISTER)
    owner = tx.row("SELECT address FROM account WHERE id = ? AND is_shared = 0", (opened.account_id,))
    return opened, None if owner is None else owner[0], rights.entries(tx, opened.account_id, opened.mailbox.id)


def my_rights(tx: Tx, reader_id: int, name: str) -> Opened:
    """MYRIGHTS, for a reader with any of the rights that RFC 4314 §4 asks for.

    Raises:
        Refusal: NOT_FOUND, INVALID_NAME.
    """
    opened = open_mailbox(tx, reader_id, name, NONE)
    if not opened.standing.rights & KNOWING:
        raise _no_such_mailbox()
    return opened


def listing(tx: Tx, reader_id: int) -> list[Opened]:
    """Every mailbox the reader may look up, their own first (INBOX before all), then others' by name.

    Two statements, and two for each account that shows something.
    """
    found = [Opened(reader_id, one, OWNER) for one in mailboxes.list_all(tx, reader_id)]
    visible = rights.visible_to(tx, reader_id)
    tops = {one.mailbox.path for one in found}
    others: list[Opened] = []
    for account_id in {account_id for account_id, _ in visible}:
        row = tx.row("SELECT address, is_shared FROM account WHERE id = ? AND local_part IS NOT NULL", (account_id,))
        if row is None or (SHARED if row[1] else OTHER_USERS) in tops:
            continue
        others += _visible(tx, account_id, prefix_of(row[0], bool(row[1])), visible)
    others.sort(key=lambda one: one.mailbox.path)
    return found + others


def _visible(tx: Tx, account_id: int, prefix: str, visible: Mapping[tuple[int, int], Standing]) -> list[Opened]:
    """The mailboxes of another's account that are visible; of what is below them only such counts."""
    found: list[Opened] = []
    above: set[str] = set()
    for mailbox in mailboxes.list_all(tx, account_id):
        standing = visible.get((account_id, mailbox.id))
        if standing is not None:
            found.append(Opened(account_id, mailbox._replace(path=prefix + mailbox.path), standing))
            name = prefix + mailbox.path
            while (at := name.rfind(DELIMITER)) >= len(prefix):
                name = name[:at]
                above.add(name)
    # RFC 4314 §4: LIST behaves as if a mailbox without "l" were not there
    return [one._replace(mailbox=one.mailbox._replace(has_children=one.mailbox.path in above)) for one in found]


def create(tx: Tx, reader_id: int, name: str, role: str | None, now: int) -> Opened:
    """Make the mailbox, and the levels above it that are missing; `role` as `mailboxes.create` takes it.

    In another's account the right to create is asked of the nearest mailbox above that exists.

    Raises:
        Refusal: EXISTS, INVALID_NAME, LIMIT, NOT_FOUND, NO_PERMISSION; CANNOT for a role in another's account.
    """
    place = _new_place(tx, reader_id, name)
    if place.account_id != reader_id:
        _need_create(tx, reader_id, place)
        if role is not None:
            raise Refusal(RefusalCode.CANNOT, "Only its owner gives a mailbox a use")
    mailbox_id = mailboxes.create(tx, place.account_id, place.path, now, role)
    mailbox = mailboxes.find(tx, place.account_id, place.path)
    standing = rights.standing(tx, place.account_id, mailbox_id, reader_id)
    return Opened(place.account_id, mailbox._replace(path=place.prefix + mailbox.path), standing)


def _new_place(tx: Tx, reader_id: int, name: str) -> Place:
    """As `locate`, of a mailbox that is to be made.

    Raises:
        Refusal: INVALID_NAME; NOT_FOUND; CANNOT, the name of a whole namespace.
    """
    name = name.removesuffix(DELIMITER)
    if name in NAMESPACES:
        raise Refusal(RefusalCode.CANNOT, "That name is for mailboxes of others")
    return locate(tx, reader_id, name)


def _need_create(tx: Tx, reader_id: int, place: Place) -> None:
    """Refuse who may make no mailbox at that place of another's account."""
    if not place.path:
        raise _no_such_mailbox()  # the name of an account alone: no other answer than for an account that is not there
    names = split_path(place.path)
    for length in range(len(names) - 1, 0, -1):
        mailbox_id = mailboxes.id_of(tx, place.account_id, names[:length])
        if mailbox_id is not None:
            found = rights.standing(tx, place.account_id, mailbox_id, reader_id)
            if not found.rights & (Right.LOOKUP | Right.CREATE_CHILD):
                raise _no_such_mailbox()
            rights.need(found, Right.CREATE_CHILD)
            return
    raise _no_such_mailbox()


def remove(tx: Tx, reader_id: int, name: str, now: int) -> Opened:
    """Remove the mailbox as `mailboxes.remove` does; what it was.

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, HAS_CHILDREN, CANNOT.
    """
    opened = open_mailbox(tx, reader_id, name, Right.DELETE_MAILBOX)
    mailboxes.remove(tx, opened.account_id, locate(tx, reader_id, name).path, now)
    return opened


def create_from_inbox(tx: Tx, reader_id: int, name: str, now: int) -> Opened:
    """Make the mailbox that INBOX is renamed to, with what annotates INBOX (RFC 5464 §4.1); its messages follow.

    Raises:
        Refusal: as `create`; CANNOT, into another account.
    """
    place = _new_place(tx, reader_id, name)
    if place.account_id != reader_id:
        _need_create(tx, reader_id, place)  # or the answer would tell whether there is such an account
        raise Refusal(RefusalCode.CANNOT, "INBOX cannot be renamed into another account; move its messages")
    made = create(tx, reader_id, name, None, now)
    annotations.copy(tx, reader_id, mailboxes.find_inbox(tx, reader_id), made.mailbox.id)
    return made


def rename(tx: Tx, reader_id: int, old: str, new: str, now: int) -> Opened:
    """Give the mailbox another name within its account; what it was called.

    Raises:
        Refusal: as `mailboxes.rename`; NO_PERMISSION; CANNOT, into another account.
    """
    opened = open_mailbox(tx, reader_id, old, Right.DELETE_MAILBOX)
    source, target = locate(tx, reader_id, old), _new_place(tx, reader_id, new)
    if target.account_id != reader_id:
        _need_create(tx, reader_id, target)  # first, or the answer would tell whether there is such an account
    if source.account_id != target.account_id:
        raise Refusal(RefusalCode.CANNOT, "A mailbox cannot be renamed into another account; move its messages")
    mailboxes.rename(tx, source.account_id, source.path, target.path, now)
    return opened
