"""Changes to domains, accounts and aliases by address, as a person writes it.

Each function is run in the write lane: `await store.write(0, edit.add_account, ...)`. Spelling is settled here (keys by
`proto.address`, targets rewritten to one form); what may stand beside what is settled by `store.directory`.
"""

from collections.abc import Sequence

from pochta.accounts import directory as resolving
from pochta.errors import Refusal, RefusalCode
from pochta.proto.address import AddressError, parse_mailbox, to_a_labels
from pochta.store import directory, dkim_keys
from pochta.store.directory import Account
from pochta.store.dkim_keys import NewKey
from pochta.store.tx import Tx


def domain_key(name: str) -> str:
    """The domain in A-labels.

    Raises:
        Refusal: INVALID_NAME.
    """
    try:
        if not name.startswith("["):
            return to_a_labels(name.removesuffix("."))
    except AddressError:
        pass
    raise Refusal(RefusalCode.INVALID_NAME, f'"{name}" is not a domain; write it as example.org')


def key(address: str) -> tuple[str, str]:
    """(local part, domain) that the address is kept under.

    Raises:
        Refusal: INVALID_NAME.
    """
    try:
        return parse_mailbox(address).key
    except AddressError:
        raise Refusal(
            RefusalCode.INVALID_NAME, f'"{address}" is not an address; write it as user@example.org'
        ) from None


def target(address: str) -> str:
    """The address as it is stored behind an alias: local part as given (others may tell its case apart), domain in
    A-labels.

    Raises:
        Refusal: INVALID_NAME.
    """
    local_part, domain = address.rpartition("@")[0], key(address)[1]
    return f"{local_part}@{domain}"


def targets(addresses: list[str]) -> list[str]:
    """Targets as they are stored: one of each key, sorted.

    Raises:
        Refusal: INVALID_NAME.
    """
    return sorted({key(address): target(address) for address in reversed(addresses)}.values())


def add_domain(tx: Tx, name: str, catch_all: str | None, now: int, keys: Sequence[NewKey] = ()) -> None:
    """Keep mail for a domain from now on; `keys` from `signing.new_keys` sign what it sends.

    Raises:
        Refusal: INVALID_NAME, EXISTS.
    """
    domain = domain_key(name)
    directory.add_domain(tx, domain, name, None if catch_all is None else target(catch_all), now)
    if keys:
        dkim_keys.add(tx, domain, keys, now)


def set_catch_all(tx: Tx, name: str, catch_all: str | None) -> None:
    """Send what nobody else of the domain takes to `catch_all`; None: refuse it.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN.
    """
    directory.set_catch_all(tx, domain_key(name), None if catch_all is None else target(catch_all))


def remove_domain(tx: Tx, name: str) -> None:
    """Forget a domain that nothing uses, with its keys.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, IN_USE.
    """
    directory.remove_domain(tx, domain_key(name))


def empty_domain(tx: Tx, name: str, now: int) -> int:
    """Remove some aliases or accounts of a domain; how many. Repeated until 0, before `remove_domain`.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN.
    """
    return directory.remove_some_of_domain(tx, domain_key(name), now)


def add_account(tx: Tx, address: str, credential: str, quota_bytes: int, now: int, is_enabled: bool = True) -> int:
    """The id of a new account; `credential` from `passwords.hash_password` or `check_hash`.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, EXISTS.
    """
    local_part, domain = key(address)
    account_id = directory.add_account(tx, domain, local_part, address, credential, quota_bytes, now)
    if not is_enabled:
        directory.set_enabled(tx, domain, local_part, False)
    return account_id


def account(tx: Tx, address: str) -> Account:
    """One account.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    local_part, domain = key(address)
    return directory.account(tx, domain, local_part)


def remove_account(tx: Tx, address: str, now: int) -> Account:
    """Remove an account, and tell what it was; its mail is emptied in the background.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    was = account(tx, address)
    directory.remove_account(tx, was.domain, was.local_part, now)
    return was


def set_enabled(tx: Tx, address: str, is_enabled: bool) -> None:
    """Allow or forbid signing in; mail is taken either way. What is so already ends no session.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER; CANNOT, a shared account.
    """
    one = account(tx, address)
    if is_enabled and one.is_shared:
        text = f"{one.address} is shared, nobody signs in to it; `pochta share convert --back` lets somebody again"
        raise Refusal(RefusalCode.CANNOT, text)
    if one.is_enabled != is_enabled:
        directory.set_enabled(tx, one.domain, one.local_part, is_enabled)


def set_credential(tx: Tx, address: str, credential: str) -> None:
    """Give the account another password's hash.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    local_part, domain = key(address)
    directory.set_credential(tx, domain, local_part, credential)


def set_quota(tx: Tx, address: str, quota_bytes: int) -> None:
    """Bound what the account may keep; 0: no bound.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    local_part, domain = key(address)
    directory.set_quota(tx, domain, local_part, quota_bytes)


def set_limits(tx: Tx, address: str, messages: int | None, mailboxes: int | None) -> None:
    """Bound how many messages and mailboxes the account may keep; 0: no bound, None: as it is.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    local_part, domain = key(address)
    directory.set_limits(tx, domain, local_part, messages, mailboxes)


def add_alias(tx: Tx, address: str, addresses: list[str], now: int) -> None:
    """Let `address` stand for `addresses`, of which those at domains kept here exist and none leads back.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, EXISTS, LIMIT; NO_SUCH_USER and CANNOT name the target.
    """
    local_part, domain = key(address)
    directory.add_alias(tx, domain, local_part, address, targets(addresses), now)
    resolution = resolving.trace(tx, parse_mailbox(address))
    if resolution.loops:
        raise Refusal(RefusalCode.CANNOT, f"alias {address} would lead back to itself")
    if resolution.broken:
        raise Refusal(RefusalCode.NO_SUCH_USER, f"there is no account or alias {resolution.broken[0]}")


def set_targets(tx: Tx, address: str, addresses: list[str]) -> None:
    """Let the alias stand for exactly `addresses`; whether they exist is not looked at.

    Raises:
        Refusal: INVALID_NAME, NOT_FOUND, LIMIT.
    """
    local_part, domain = key(address)
    directory.set_targets(tx, domain, local_part, targets(addresses))


def put_alias(tx: Tx, address: str, addresses: list[str], now: int) -> None:
    """A new alias; whether its targets exist is not looked at.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, EXISTS, LIMIT.
    """
    local_part, domain = key(address)
    directory.add_alias(tx, domain, local_part, address, targets(addresses), now)


def remove_alias(tx: Tx, address: str) -> None:
    """Forget an alias.

    Raises:
        Refusal: INVALID_NAME, NOT_FOUND.
    """
    local_part, domain = key(address)
    directory.remove_alias(tx, domain, local_part)
