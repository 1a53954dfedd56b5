"""Shared accounts, and who has which rights to whose mailboxes, by address as a person writes it.

A shared account is one without sign-in: its mailboxes stand below `Shared/` of whoever has rights to them. Each
function is run in the write lane, or on a snapshot.
"""

from typing import Final, NamedTuple

from pochta.accounts import edit
from pochta.errors import Refusal, RefusalCode
from pochta.store import access, changes, directory, mailboxes, rights
from pochta.store.directory import Account
from pochta.store.mailboxes import Mailbox
from pochta.store.rights import Edit, Right
from pochta.store.tx import Tx

EVERY_MAILBOX: Final = "*"
MAILBOXES_A_STEP: Final = 100  # of which one lane function changes the lists: 600 rows

# What people call sets of rights; any other text is letters of RFC 4314 §2.1
NAMED: Final = {
    "read": rights.parse("lrs"),
    "post": rights.parse("p"),
    "write": rights.parse("lrswipte"),
    "all": rights.ALL,
}


class Share(NamedTuple):
    """One line of a mailbox's list: `whom` is an address or `anyone`, `denied` rights that are taken from them."""

    owner: str
    mailbox: str
    whom: str
    granted: str
    denied: str
    is_shared: bool


def parse_rights(text: str) -> tuple[Edit, Right]:
    """What `lrs`, `+w`, `-e` or `read` does to rights that are there.

    Raises:
        Refusal: INVALID_NAME.
    """
    mode = {"+": Edit.ADD, "-": Edit.REMOVE}.get(text[:1], Edit.REPLACE)
    name = text if mode is Edit.REPLACE else text[1:]
    if name in NAMED:
        return mode, NAMED[name]
    try:
        return mode, rights.parse(name)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{refusal.text}, or one of {', '.join(NAMED)}") from None


def add(tx: Tx, address: str, quota_bytes: int, now: int) -> int:
    """The id of a new shared account.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, EXISTS.
    """
    account_id = edit.add_account(tx, address, "", quota_bytes, now, False)
    local_part, domain = edit.key(address)
    directory.set_shared(tx, domain, local_part, True)
    return account_id


def convert(tx: Tx, address: str, is_shared: bool) -> None:
    """Make a shared account of one that somebody signed in to, whose sessions end; or the other way round.

    Mail, mailboxes, rights and the password stay.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER; EXISTS, it is so already.
    """
    one = edit.account(tx, address)
    if one.is_shared == is_shared:
        raise Refusal(RefusalCode.EXISTS, f"{one.address} is {'' if is_shared else 'not '}a shared account")
    directory.set_shared(tx, one.domain, one.local_part, is_shared)
    directory.set_enabled(tx, one.domain, one.local_part, not is_shared)
    changes.announce_to_everybody(tx)  # its mailboxes have other names now


def grant(
    tx: Tx,
    address: str,
    mailbox: str,
    whom: str,
    edited: tuple[Edit, Right],
    is_denied: bool,
    now: int,
    done: int = 0,
) -> tuple[str, ...]:
    """Change what `whom` may do in a mailbox of the account, or in EVERY_MAILBOX; their names. 8 statements each.

    Of every mailbox, MAILBOXES_A_STEP behind the first `done`; fewer when there are no more.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER, NOT_FOUND, CANNOT (the owner), LIMIT.
    """
    account = edit.account(tx, address)
    reader_id = _reader(tx, whom)
    found = _mailboxes(tx, account, mailbox)[done : done + MAILBOXES_A_STEP]
    for one in found:
        rights.change(tx, account.id, one.id, reader_id, *edited, is_denied, now)
    rights.refuse_too_many(tx, account.id)
    return tuple(one.path for one in found)


def set_share(tx: Tx, address: str, mailbox: str, whom: str, granted: str, denied: str, now: int) -> None:
    """Let `whom` have exactly these rights, as letters, in a mailbox of the account, and be denied those.

    Raises:
        Refusal: as `grant`.
    """
    for letters, is_denied in ((granted, False), (denied, True)):
        grant(tx, address, mailbox, whom, (Edit.REPLACE, rights.parse(letters)), is_denied, now)


def revoke(tx: Tx, address: str, mailbox: str, whom: str, now: int, done: int = 0) -> tuple[str, ...]:
    """Take whatever `whom` was granted or denied in a mailbox of the account, or in EVERY_MAILBOX; their names.

    At most MAILBOXES_A_STEP; `done` tells how many were taken before.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER; NOT_FOUND, the mailbox, or there was nothing to take.
    """
    account = edit.account(tx, address)
    reader_id = _reader(tx, whom)
    rows = tx.rows(
        "SELECT mailbox_id FROM mailbox_right WHERE account_id = ? AND reader_id = ?", (account.id, reader_id)
    )
    listed = {row[0] for row in rows}
    found = [one for one in _mailboxes(tx, account, mailbox) if one.id in listed][:MAILBOXES_A_STEP]
    for one in found:
        for is_denied in (False, True):
            rights.change(tx, account.id, one.id, reader_id, Edit.REPLACE, rights.NONE, is_denied, now)
    if not found and not done:
        raise Refusal(RefusalCode.NOT_FOUND, f"{whom} was granted nothing there")
    return tuple(one.path for one in found)


def _reader(tx: Tx, whom: str) -> int:
    try:
        return access.reader_named(tx, whom)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"there is no account {whom}; rights are given to accounts or to anyone") from None


def _mailboxes(tx: Tx, account: Account, mailbox: str) -> list[Mailbox]:
    if mailbox == EVERY_MAILBOX:
        return mailboxes.list_all(tx, account.id)
    try:
        return [mailboxes.find(tx, account.id, mailbox)]
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{account.address} has no mailbox {mailbox}") from None


def shared_accounts(tx: Tx) -> list[Account]:
    """Every shared account, by domain and local part. One statement, all accounts at once: for commands."""
    return [one for one in directory.accounts(tx) if one.is_shared]


def shares(tx: Tx, address: str | None = None) -> list[Share]:
    """Every line of every list (of one account), by owner, mailbox and reader. A statement for each shared mailbox.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    only = None if address is None else edit.account(tx, address).id
    ids = [row[0] for row in tx.rows("SELECT DISTINCT account_id FROM mailbox_right ORDER BY account_id")]
    accounts = {one.id: one for one in directory.accounts(tx)}
    found: list[Share] = []
    for account_id in ids:
        owner = accounts.get(account_id)
        if owner is None or only not in (None, account_id):
            continue
        listed = {row[0] for row in tx.rows("SELECT mailbox_id FROM mailbox_right WHERE account_id = ?", (account_id,))}
        for mailbox in mailboxes.list_all(tx, account_id):
            for one in rights.entries(tx, account_id, mailbox.id) if mailbox.id in listed else ():
                letters = (rights.letters_of(one.granted), rights.letters_of(one.denied))
                whom = one.address or access.ANYBODY
                found.append(Share(owner.address, mailbox.path, whom, *letters, owner.is_shared))
    return found
