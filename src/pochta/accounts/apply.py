"""What to change so that the store holds what a file declares, and the running of it.

Theory of operation. `known` reads the store; `settle_credentials` verifies and hashes passwords (the slow part, outside
of any transaction); `plan` compares, purely, and refuses what cannot work; `steps` cuts the plan into transactions, one
where it is small enough; `run` does one of them. A plan run twice is empty the second time, so that a run that was
broken off is simply run again.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from pochta.accounts import edit, passwords, sharing
from pochta.accounts.declare import Declaration, DeclaredAccount, Key
from pochta.accounts.directory import MAX_ALIAS_HOPS
from pochta.accounts.quota import NO_QUOTA, show_quota
from pochta.errors import SetupError
from pochta.proto.address import address_key, split_detail
from pochta.store import directory, mailboxes, rights
from pochta.store.directory import Account, Alias, Domain
from pochta.store.dkim_keys import NewKey
from pochta.store.rights import letters_of
from pochta.store.tx import Tx

ROWS_A_STEP: Final = 1000  # what a lane function may touch
ROWS_AN_ACCOUNT: Final = 20  # itself, six mailboxes, their subscriptions and news
ROWS_A_SHARE: Final = 6  # itself, two accounts, the mailbox, their news
FIRST_NAMES: Final = tuple(path for path, _ in mailboxes.FIRST_MAILBOXES)

Lists = dict[str, dict[Key | None, tuple[str, str]]]
"""Of one account: by mailbox and by whom (None: anyone), the rights granted and denied."""

Argument = str | int | None | list[str] | tuple[NewKey, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds; everything by key."""

    domains: dict[str, Domain]
    accounts: dict[Key, Account]
    credentials: dict[Key, str]
    aliases: dict[Key, Alias]
    lists: dict[Key, Lists]


@dataclass(frozen=True, slots=True)
class Change:
    """One call of `_VERBS[verb]`; `line` tells a person."""

    verb: str
    args: tuple[Argument, ...]
    line: str
    row_count: int = 1

    def __repr__(self) -> str:
        return f"Change({self.line})"  # INV-11: a credential may be among the arguments


_VERBS: Final[dict[str, Callable[..., object]]] = {
    "add_domain": edit.add_domain,
    "set_catch_all": edit.set_catch_all,
    "remove_domain": edit.remove_domain,
    "add_account": edit.add_account,
    "set_credential": edit.set_credential,
    "set_quota": edit.set_quota,
    "set_enabled": edit.set_enabled,
    "set_limits": edit.set_limits,
    "add_shared": sharing.add,
    "set_share": sharing.set_share,
    "remove_account": edit.remove_account,
    "put_alias": edit.put_alias,
    "set_targets": edit.set_targets,
    "remove_alias": edit.remove_alias,
}


def known(tx: Tx, owners: Sequence[Key] = ()) -> Known:
    """Everything the store holds about domains, accounts and aliases; all rows at once: for commands.

    Of mailboxes and who has rights to them, those of `owners`; a statement for each mailbox.
    """
    accounts = {(one.local_part, one.domain): one for one in directory.accounts(tx)}
    return Known(
        {one.name: one for one in directory.domains(tx)},
        accounts,
        {(local_part, domain): credential for domain, local_part, credential in directory.credentials(tx)},
        {(one.local_part, one.domain): one for one in directory.aliases(tx)},
        {key: _lists(tx, accounts[key].id) for key in owners if key in accounts},
    )


def _lists(tx: Tx, account_id: int) -> Lists:
    return {
        mailbox.path: {
            None if one.address is None else edit.key(one.address): (letters_of(one.granted), letters_of(one.denied))
            for one in rights.entries(tx, account_id, mailbox.id)
        }
        for mailbox in mailboxes.list_all(tx, account_id)
        if not mailbox.is_noselect
    }


def settle_credentials(
    declaration: Declaration,
    state: Known,
    *,
    threads: int = 1,
    cost: passwords.Cost = passwords.DEFAULT_COST,
    is_dry_run: bool = False,
) -> dict[Key, str]:
    """The credential of each account whose stored one does not do; `""` in a dry run. 25 ms for each password."""

    def settle(declared: DeclaredAccount) -> tuple[Key, str | None]:
        stored = state.credentials.get(declared.key, "")
        if declared.password_hash is not None:
            return declared.key, None if stored == declared.password_hash else declared.password_hash
        if declared.password is None or passwords.verify_password(stored, declared.password):
            return declared.key, None
        return declared.key, "" if is_dry_run else passwords.hash_password(declared.password, cost)

    with ThreadPoolExecutor(threads) as pool:
        return {key: made for key, made in pool.map(settle, declaration.accounts.values()) if made is not None}


def plan(
    declaration: Declaration, state: Known, credentials: dict[Key, str], *, now: int, prune: bool = False
) -> list[Change]:
    """What to run, in order; empty when all is as declared.

    Raises:
        SetupError: an address at no domain, a new account without password, a name taken by the other kind, a target
            that nobody has, a circle of aliases, a share of or with nobody.
    """
    _check_domains(declaration, state, prune)
    _check_kinds(declaration, state, prune)
    _check_targets(declaration, state, prune)
    changes = list(_removals(declaration, state, now)) if prune else []
    changes += _domain_changes(declaration, state, now, prune)
    changes += _account_changes(declaration, state, credentials, now)
    changes += _share_changes(declaration, state, now, prune)
    changes += _alias_changes(declaration, state, now)
    if prune:
        gone = [name for name in state.domains if name not in declaration.domains]
        changes += [Change("remove_domain", (name,), f"- domain {name}") for name in gone]
    return changes


def with_keys(changes: list[Change], make: Callable[[], tuple[NewKey, ...]]) -> list[Change]:
    """The changes with keys for each new domain; one call of `make` (`signing.new_keys`, 50-200 ms) for each."""
    return [replace(one, args=(*one.args, make())) if one.verb == "add_domain" else one for one in changes]


def steps(changes: list[Change]) -> Iterator[list[Change]]:
    """The plan in pieces that one transaction each may run."""
    step: list[Change] = []
    row_count = 0
    for change in changes:
        if step and row_count + change.row_count > ROWS_A_STEP:
            yield step
            step, row_count = [], 0
        step.append(change)
        row_count += change.row_count
    if step:
        yield step


def run(tx: Tx, calls: list[tuple[str, tuple[Any, ...]]]) -> None:  # Any: what the verb takes
    """Run one step, given as (verb, arguments): all or nothing.

    Raises:
        Refusal: the store changed since it was read.
    """
    for verb, args in calls:
        _VERBS[verb](tx, *args)


def _removals(declaration: Declaration, state: Known, now: int) -> Iterator[Change]:
    for key, alias in state.aliases.items():
        if key not in declaration.aliases:
            yield Change("remove_alias", (alias.address,), f"- alias {alias.address}", 1 + len(alias.targets))
    for key, account in state.accounts.items():
        if key not in declaration.accounts:
            yield Change("remove_account", (account.address, now), f"- account {account.address}", 4)


def _domain_changes(declaration: Declaration, state: Known, now: int, prune: bool) -> Iterator[Change]:
    for key, declared in declaration.domains.items():
        existing = state.domains.get(key)
        wanted = declared.catch_all
        if existing is None:
            yield Change("add_domain", (declared.name, wanted or None, now), f"+ domain {declared.name}")
        elif (wanted is not None or prune) and (wanted or None) != existing.catch_all:
            line = f"~ domain {existing.shown}: catch-all {wanted or 'none'}"
            yield Change("set_catch_all", (existing.name, wanted or None), line)


def _account_changes(declaration: Declaration, state: Known, credentials: dict[Key, str], now: int) -> Iterator[Change]:
    for key, declared in declaration.accounts.items():
        existing = state.accounts.get(key)
        credential, quota = credentials.get(key), declared.quota_bytes
        if existing is None and declared.is_shared:
            made = (declared.address, quota or NO_QUOTA, now)
            yield Change("add_shared", made, f"+ account {declared.address}, shared", ROWS_AN_ACCOUNT)
            yield from _limit_changes(declared, None)
            continue
        if existing is None:
            if credential is None:
                raise SetupError(
                    f"{declaration.source}: account {declared.address}: password: missing for a new account;"
                    ' add the line password = "…" or password_hash = "…"'
                )
            is_enabled = declared.is_enabled is not False
            args = (declared.address, credential, quota or NO_QUOTA, now, is_enabled)
            line = f"+ account {declared.address}" + ("" if is_enabled else ", disabled")
            yield Change("add_account", args, line, ROWS_AN_ACCOUNT)
            yield from _limit_changes(declared, None)
            continue
        _check_sharing(declaration.source, declared, existing)
        if credential is not None:
            line = f"~ account {existing.address}: password"
            yield Change("set_credential", (existing.address, credential), line)
        if quota is not None and quota != existing.quota_bytes:
            line = f"~ account {existing.address}: quota {show_quota(quota)}"
            yield Change("set_quota", (existing.address, quota), line)
        if declared.is_enabled is not None and declared.is_enabled != existing.is_enabled:
            line = f"~ account {existing.address}: {'enabled' if declared.is_enabled else 'disabled'}"
            yield Change("set_enabled", (existing.address, declared.is_enabled), line)
        yield from _limit_changes(declared, existing)


def _check_sharing(source: str, declared: DeclaredAccount, existing: Account) -> None:
    """Refuse what would turn an account that somebody signs in to into a shared one unawares, or the other way."""
    what = f"{source}: account {declared.address}: shared"
    if declared.is_shared and not existing.is_shared:
        raise SetupError(
            f"{what}: it is an account that somebody signs in to; make it shared by `pochta share convert`, or remove"
            " the line"
        )
    has_password = declared.password is not None or declared.password_hash is not None
    if existing.is_shared and (has_password or declared.is_enabled):
        raise SetupError(
            f"{what}: it is a shared account, nobody signs in to it; let somebody again by `pochta share convert"
            " --back`, or declare it as shared = true"
        )


def _limit_changes(declared: DeclaredAccount, existing: Account | None) -> Iterator[Change]:
    """What makes the numbers of messages and mailboxes as they are declared."""
    limits = (declared.quota_messages, declared.quota_mailboxes)
    now = (existing.quota_messages, existing.quota_mailboxes) if existing is not None else (0, 0)
    new = tuple(None if wanted in (None, old) else wanted for wanted, old in zip(limits, now, strict=True))
    names = ("messages", "mailboxes")
    shown = [f"{name} {number or 'none'}" for name, number in zip(names, new, strict=True) if number is not None]
    if shown:
        yield Change("set_limits", (declared.address, *new), f"~ account {declared.address}: quota {', '.join(shown)}")


def _alias_changes(declaration: Declaration, state: Known, now: int) -> Iterator[Change]:
    for key, declared in declaration.aliases.items():
        existing = state.aliases.get(key)
        targets, row_count = list(declared.targets), 1 + len(declared.targets)
        if existing is None:
            args = (declared.address, targets, now)
            yield Change("put_alias", args, f"+ alias {declared.address}", row_count)
        elif existing.targets != declared.targets:
            line = f"~ alias {existing.address}: targets {', '.join(targets)}"
            yield Change("set_targets", (existing.address, targets), line, row_count + len(existing.targets))


def _share_changes(declaration: Declaration, state: Known, now: int, prune: bool) -> Iterator[Change]:
    """What gives everybody the rights that are declared; rights of which the file says nothing stay, pruned or not."""
    accounts = declaration.accounts.keys() | (set() if prune else state.accounts.keys())
    for share in declaration.shares.values():
        where = f"{declaration.source}: share of {share.address}"
        for name, address, key in (("address", share.address, share.key), ("who", share.whom, share.whom_key)):
            if key is not None and key not in accounts:
                raise SetupError(f"{where}: {name}: there is no account {address}; declare it")
        lists = state.lists.get(share.key, {path: {} for path in FIRST_NAMES})
        if share.mailbox != sharing.EVERY_MAILBOX and share.mailbox not in lists:
            raise SetupError(f"{where}: mailbox: it has no mailbox {share.mailbox}; make it first, or correct the name")
        wanted = (share.granted, share.denied)
        for path in lists if share.mailbox == sharing.EVERY_MAILBOX else (share.mailbox,):
            is_named = path != share.mailbox and (share.key, path, share.whom_key) in declaration.shares
            if not is_named and lists[path].get(share.whom_key, ("", "")) != wanted:
                denied = f", not {share.denied}" if share.denied else ""
                line = f"~ share {share.address} {path}: {share.whom} {share.granted or 'nothing'}{denied}"
                yield Change("set_share", (share.address, path, share.whom, *wanted, now), line, ROWS_A_SHARE)


def _check_domains(declaration: Declaration, state: Known, prune: bool) -> None:
    names = declaration.domains.keys() | (set() if prune else state.domains.keys())
    lists: tuple[tuple[str, dict[Key, Any]], ...] = (("account", declaration.accounts), ("alias", declaration.aliases))
    for kind, declared in lists:
        for (_, domain), one in declared.items():
            if domain not in names:
                raise SetupError(
                    f'{declaration.source}: {kind} {one.address}: address: domain "{domain}" is not declared;'
                    f' add [[domain]] name = "{domain}"'
                )


def _check_kinds(declaration: Declaration, state: Known, prune: bool) -> None:
    if prune:
        return  # what has the other kind is removed first
    for wanted, taken, kind in (
        (declaration.accounts.keys(), state.aliases.keys(), "alias"),
        (declaration.aliases.keys(), state.accounts.keys(), "account"),
    ):
        for local_part, domain in wanted & taken:
            remedy = f"remove it with `pochta {kind} remove`, or use --prune"
            raise SetupError(f"{declaration.source}: {local_part}@{domain}: address: is an {kind} already; {remedy}")


def _check_targets(declaration: Declaration, state: Known, prune: bool) -> None:
    aliases = {} if prune else {key: alias.targets for key, alias in state.aliases.items()}
    aliases |= {key: alias.targets for key, alias in declaration.aliases.items()}
    accounts = declaration.accounts.keys() | (set() if prune else state.accounts.keys())
    catch_alls = {} if prune else {name: domain.catch_all for name, domain in state.domains.items()}
    for name, domain in declaration.domains.items():
        if domain.catch_all is not None or name not in catch_alls:
            catch_alls[name] = domain.catch_all or None

    def has_nobody(target: str) -> bool:
        local_part, domain = address_key(target)
        if domain not in catch_alls or catch_alls[domain] is not None:
            return False
        names = {local_part, split_detail(local_part)[0]}
        return "postmaster" not in names and not any(
            (name, domain) in accounts or (name, domain) in aliases for name in names
        )

    for alias in declaration.aliases.values():
        for target in filter(has_nobody, alias.targets):
            raise SetupError(
                f"{declaration.source}: alias {alias.address}: targets: there is no account or alias {target};"
                " declare it"
            )
    for domain in declaration.domains.values():
        if domain.catch_all and has_nobody(domain.catch_all):
            raise SetupError(
                f"{declaration.source}: domain {domain.name}: catch_all: there is no account or alias"
                f" {domain.catch_all}; declare it"
            )
    _check_nesting(declaration, aliases)


def _check_nesting(declaration: Declaration, aliases: dict[Key, tuple[str, ...]]) -> None:
    """Refuse circles and chains that delivery would not follow; takes the aliases nobody waits for, layer by layer."""
    points_to = {key: [t for t in map(address_key, targets) if t in aliases] for key, targets in aliases.items()}
    waits = dict.fromkeys(points_to, 0)
    for target in chain.from_iterable(points_to.values()):
        waits[target] += 1
    layer = [key for key, count in waits.items() if count == 0]
    done = layer_count = 0
    while layer:
        layer_count += 1
        done += len(layer)
        free: list[Key] = []
        for target in chain.from_iterable(points_to[key] for key in layer):
            waits[target] -= 1
            if waits[target] == 0:
                free.append(target)
        layer = free
    if done < len(waits):
        local_part, domain = next(key for key, count in waits.items() if count)
        raise SetupError(
            f"{declaration.source}: alias {local_part}@{domain}: targets: lead in a circle; take one of them out"
        )
    if layer_count > MAX_ALIAS_HOPS:
        raise SetupError(
            f"{declaration.source}: alias: targets: {layer_count} aliases in a row; {MAX_ALIAS_HOPS} at most"
        )
